//! A stored answer as bytes: a versioned protobuf envelope around an answer that is compressed where that pays.
//!
//! What is read was written by another process, of another version perhaps, or by somebody else: nothing in it is
//! believed. An envelope is opened only when its checksum fits its bytes and the key that it was found under, so that a
//! value that was cut, changed or copied from another question or tenant is no answer. It is no secret, though: whoever
//! may write to the store may forge a value. Decompression writes into a buffer of the length that the envelope declares,
//! which is bounded before anything is allocated.
//!
//! LZ4, not zstd: answers are a few kilobytes of text, read in the time that a request waits. It decodes at gigabytes a
//! second, in safe Rust; zstd would save perhaps another third of the bytes for a C library.

use std::time::SystemTime;

use aiplatform_proto::inference::v1::{CachedAnswer, CachedValue, CachedValueEncoding as Encoding};
use aiplatform_proto::time::{from_proto_timestamp, to_proto_timestamp};
use lz4_flex::block::{compress, decompress};
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::CacheKey;
use crate::answer::{Answer, Origin};

const FORMAT_VERSION: u32 = 2;
/// Bytes of the digest that are kept: enough that no accident repeats them.
const CHECKSUM_BYTES: usize = 16;
/// The most that an envelope adds to its answer.
const ENVELOPE_BYTES: usize = 64;

/// Bytes that are no answer of this version.
#[derive(Debug, Error)]
pub(super) enum Unusable {
    #[error("not a stored answer")]
    Malformed(#[from] prost::DecodeError),
    #[error("format version {0}")]
    Version(u32),
    #[error("encoding {0}")]
    Encoding(i32),
    #[error("its checksum does not fit")]
    Checksum,
    #[error("larger than {0} bytes")]
    TooLarge(usize),
    #[error("cannot be decompressed")]
    Compression,
    #[error("incomplete")]
    Incomplete,
}

/// How answers are stored.
#[derive(Debug, Clone, Copy)]
pub(super) struct Format {
    /// The largest answer, before compression, in bytes.
    pub(super) max_bytes: usize,
    /// An answer of this size or more is compressed, in bytes.
    pub(super) compress_from: usize,
}

impl Format {
    /// The largest value that can be an answer, in bytes.
    pub(super) fn max_stored_bytes(&self) -> usize {
        self.max_bytes.saturating_add(ENVELOPE_BYTES)
    }

    /// About how large an answer is, in bytes; at least 1. `None` for one that is too large to be stored; of one near
    /// the limit, [`encode`](Self::encode) knows.
    pub(super) fn size(&self, answer: &Answer) -> Option<u32> {
        let bytes = answer.message.encoded_len();
        u32::try_from(bytes.max(1)).ok().filter(|_| bytes <= self.max_bytes)
    }

    /// The value to be stored under a key. `None` for an answer that is too large.
    pub(super) fn encode(&self, key: &CacheKey, answer: &Answer) -> Option<Vec<u8>> {
        let plain = CachedAnswer {
            message: Some(answer.message.clone()),
            finish_reason: answer.finish_reason.into(),
            usage: answer.usage,
            created_at: Some(to_proto_timestamp(answer.origin.created_at)),
            upstream_model: answer.origin.upstream_model.to_string(),
        }
        .encode_to_vec();
        let answer_bytes = u32::try_from(plain.len()).ok().filter(|_| plain.len() <= self.max_bytes)?;
        let packed = (plain.len() >= self.compress_from).then(|| compress(&plain));
        let (encoding, answer) = match packed {
            // What does not shrink is kept as it is.
            Some(packed) if packed.len() < plain.len() => (Encoding::Lz4Block, packed),
            _ => (Encoding::Identity, plain),
        };
        let checksum = checksum(key, &answer).to_vec();
        let encoding = encoding.into();
        Some(
            CachedValue { format_version: FORMAT_VERSION, encoding, answer_bytes, checksum, answer }
                .encode_to_vec(),
        )
    }

    /// The answer in a value that was found under a key.
    pub(super) fn decode(&self, key: &CacheKey, bytes: &[u8]) -> Result<Answer, Unusable> {
        if bytes.len() > self.max_stored_bytes() {
            return Err(Unusable::TooLarge(self.max_stored_bytes()));
        }
        let value = CachedValue::decode(bytes)?;
        if value.format_version != FORMAT_VERSION {
            return Err(Unusable::Version(value.format_version));
        }
        if value.checksum != checksum(key, &value.answer) {
            return Err(Unusable::Checksum);
        }
        let length = usize::try_from(value.answer_bytes).unwrap_or(usize::MAX);
        if length > self.max_bytes {
            return Err(Unusable::TooLarge(self.max_bytes));
        }
        let encoding = value.encoding();
        let plain = match encoding {
            Encoding::Identity => value.answer,
            Encoding::Lz4Block => {
                decompress(&value.answer, length).map_err(|_malformed| Unusable::Compression)?
            }
            Encoding::Unspecified => return Err(Unusable::Encoding(value.encoding)),
        };
        if plain.len() != length {
            return Err(Unusable::Incomplete);
        }
        answer(CachedAnswer::decode(&*plain)?)
    }
}

fn answer(cached: CachedAnswer) -> Result<Answer, Unusable> {
    let finish_reason = cached.finish_reason();
    let created_at = cached.created_at.as_ref().and_then(from_proto_timestamp).ok_or(Unusable::Incomplete)?;
    // A clock that was set back makes an answer look as if it came from the future: it is simply new.
    let age = SystemTime::now().duration_since(created_at).unwrap_or_default();
    let answer = Answer {
        message: cached.message.ok_or(Unusable::Incomplete)?,
        finish_reason,
        usage: cached.usage,
        origin: Origin { created_at, cache_age: Some(age), ..Origin::model(&cached.upstream_model) },
    };
    if answer.is_worth_keeping() { Ok(answer) } else { Err(Unusable::Incomplete) }
}

/// Checks that what is taken can be stored and read again, and is the same answer then. For fuzzing: the checksum is
/// made to fit, since no fuzzer would guess it.
///
/// # Panics
/// It is not.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn check_value(bytes: &[u8]) {
    let (format, key) = (Format { max_bytes: 64 * 1024, compress_from: 16 }, CacheKey::of_digest([0; 32]));
    drop(format.decode(&key, bytes));
    let Ok(mut value) = CachedValue::decode(bytes) else { return };
    value.checksum = checksum(&key, &value.answer).to_vec();
    let Ok(answer) = format.decode(&key, &value.encode_to_vec()) else { return };
    assert!(answer.is_worth_keeping(), "an answer that was never to be stored");
    // What was written by others may have a longer form than ours, but never one that cannot be stored.
    let Some(again) = format.encode(&key, &answer) else { return };
    let again = format.decode(&key, &again).map(|again| (again.message, again.origin.created_at));
    assert!(
        again.is_ok_and(|again| again == (answer.message, answer.origin.created_at)),
        "changed by being stored again"
    );
}

fn checksum(key: &CacheKey, answer: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let digest = Sha256::new().chain_update(key.as_bytes()).chain_update(answer).finalize();
    let mut checksum = [0; CHECKSUM_BYTES];
    checksum.copy_from_slice(&digest[..CHECKSUM_BYTES]);
    checksum
}

#[cfg(test)]
mod tests;
