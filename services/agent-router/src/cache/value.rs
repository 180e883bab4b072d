//! A stored answer as bytes: a versioned protobuf message.

use std::sync::Arc;
use std::time::SystemTime;

use aiplatform_proto::inference::v1::CachedAnswer;
use aiplatform_proto::time::{from_proto_timestamp, to_proto_timestamp};
use prost::Message as _;
use thiserror::Error;

use crate::answer::{Answer, Origin};

const FORMAT_VERSION: u32 = 1;

/// Bytes that are no answer of this version.
#[derive(Debug, Error)]
pub(super) enum Unusable {
    #[error("not a stored answer")]
    Malformed(#[from] prost::DecodeError),
    #[error("format version {0}")]
    Version(u32),
    #[error("incomplete")]
    Incomplete,
}

pub(super) fn encode(answer: &Answer) -> Vec<u8> {
    CachedAnswer {
        format_version: FORMAT_VERSION,
        message: Some(answer.message.clone()),
        finish_reason: answer.finish_reason.into(),
        usage: answer.usage,
        created_at: Some(to_proto_timestamp(answer.origin.created_at)),
        upstream_model: answer.origin.upstream_model.to_string(),
    }
    .encode_to_vec()
}

pub(super) fn decode(bytes: &[u8]) -> Result<Answer, Unusable> {
    let cached = CachedAnswer::decode(bytes)?;
    if cached.format_version != FORMAT_VERSION {
        return Err(Unusable::Version(cached.format_version));
    }
    let finish_reason = cached.finish_reason();
    let created_at = cached.created_at.as_ref().and_then(from_proto_timestamp).ok_or(Unusable::Incomplete)?;
    // A clock that was set back makes an answer look as if it came from the future: it is simply new.
    let age = SystemTime::now().duration_since(created_at).unwrap_or_default();
    let answer = Answer {
        message: cached.message.ok_or(Unusable::Incomplete)?,
        finish_reason,
        usage: cached.usage,
        origin: Origin { upstream_model: Arc::from(cached.upstream_model), created_at, cache_age: Some(age) },
    };
    if answer.is_whole() { Ok(answer) } else { Err(Unusable::Incomplete) }
}

/// Checks that what is taken can be stored and read again, and is the same answer then. For fuzzing.
///
/// # Panics
/// It is not.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn check_value(bytes: &[u8]) {
    let Ok(answer) = decode(bytes) else { return };
    assert!(answer.is_whole(), "an answer that was never to be stored");
    let again = decode(&encode(&answer)).map(|again| (again.message, again.origin.created_at));
    assert!(
        again.is_ok_and(|again| again == (answer.message, answer.origin.created_at)),
        "changed by being stored again"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::assistant_message;
    use aiplatform_proto::inference::v1::FinishReason;

    fn answer() -> Answer {
        Answer {
            message: assistant_message("hello".into()),
            finish_reason: FinishReason::Stop,
            usage: None,
            origin: Origin::model("m"),
        }
    }

    #[test]
    fn an_answer_survives_being_stored() {
        let stored = answer();
        let found = decode(&encode(&stored)).unwrap();
        assert_eq!(found.message, stored.message);
        assert_eq!(found.origin.created_at, stored.origin.created_at);
        assert!(found.origin.cache_age.is_some());
    }

    #[test]
    fn no_value_that_was_cut_gives_another_message() {
        let whole = encode(&answer());
        for length in 0..whole.len() {
            // Protobuf cannot tell a message that lost its last fields; the words are there or the value is refused.
            if let Ok(found) = decode(&whole[..length]) {
                assert_eq!(found.message, answer().message);
            }
        }
    }

    #[test]
    fn a_foreign_or_incomplete_value_is_refused() {
        assert!(matches!(decode(b""), Err(Unusable::Version(0))));
        assert!(matches!(decode(b"not protobuf"), Err(Unusable::Malformed(_))));
        let newer = CachedAnswer { format_version: 2, ..CachedAnswer::default() }.encode_to_vec();
        assert!(matches!(decode(&newer), Err(Unusable::Version(2))));
        let cut = encode(&Answer { finish_reason: FinishReason::Unspecified, ..answer() });
        assert!(matches!(decode(&cut), Err(Unusable::Incomplete)));
    }
}
