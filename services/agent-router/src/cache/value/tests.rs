use aiplatform_proto::inference::v1::{FinishReason, Usage};
use proptest::prelude::*;

use super::*;
use crate::answer::{assistant_message, text_of};

const FORMAT: Format = Format { max_bytes: 4096, compress_from: 256 };

fn key(byte: u8) -> CacheKey {
    CacheKey::of_digest([byte; 32])
}

fn answer(text: &str) -> Answer {
    Answer {
        message: assistant_message(text.into()),
        finish_reason: FinishReason::Stop,
        usage: Some(Usage { output_tokens: 3, ..Usage::default() }),
        origin: Origin::model("m"),
    }
}

fn encode(text: &str) -> Vec<u8> {
    FORMAT.encode(&key(1), &answer(text)).unwrap()
}

/// A value with a checksum that fits.
fn forged(change: impl FnOnce(&mut CachedValue)) -> Vec<u8> {
    let mut value = CachedValue::decode(&*encode("hello")).unwrap();
    change(&mut value);
    value.checksum = checksum(&key(1), &value.answer).to_vec();
    value.encode_to_vec()
}

fn refusal(bytes: &[u8]) -> String {
    FORMAT.decode(&key(1), bytes).unwrap_err().to_string()
}

#[test]
fn an_answer_survives_being_stored() {
    let stored = answer("hello");
    let found = FORMAT.decode(&key(1), &FORMAT.encode(&key(1), &stored).unwrap()).unwrap();
    assert_eq!((found.message, found.usage), (stored.message, stored.usage));
    assert_eq!(found.origin.created_at, stored.origin.created_at);
    assert_eq!(found.origin.upstream_model, stored.origin.upstream_model);
    assert!(found.origin.cache_age.is_some());
}

#[test]
fn an_answer_is_compressed_from_the_threshold_on_and_only_where_that_pays() {
    let encoding = |text: &str| CachedValue::decode(&*encode(text)).unwrap().encoding();
    assert_eq!(encoding(&"x".repeat(100)), Encoding::Identity);
    assert_eq!(encoding(&"x".repeat(300)), Encoding::Lz4Block);
    assert!(encode(&"x".repeat(3000)).len() < 300);
    let noise: String = (0..300_u32)
        .map(|n| char::from(b'!' + u8::try_from(n.wrapping_mul(2_654_435_761) >> 26).unwrap()))
        .collect();
    let stored = encode(&noise);
    assert_eq!(text_of(&FORMAT.decode(&key(1), &stored).unwrap().message), noise);
}

#[test]
fn an_answer_over_the_limit_is_not_stored() {
    let text = "x".repeat(5000);
    assert!(FORMAT.size(&answer(&text)).is_none());
    assert!(FORMAT.encode(&key(1), &answer(&text)).is_none());
}

#[test]
fn a_value_is_no_answer_to_another_question() {
    let stored = encode("hello");
    assert!(matches!(FORMAT.decode(&key(2), &stored), Err(Unusable::Checksum)));
}

#[test]
fn a_foreign_or_forged_value_is_refused() {
    assert_eq!(refusal(b""), "format version 0");
    assert_eq!(refusal(b"not protobuf"), "not a stored answer");
    assert_eq!(refusal(&forged(|value| value.format_version = 3)), "format version 3");
    assert_eq!(refusal(&forged(|value| value.encoding = 9)), "encoding 9");
    assert_eq!(refusal(&forged(|value| value.answer_bytes += 1)), "incomplete");
    assert_eq!(refusal(&forged(|value| value.answer = Vec::new())), "incomplete");
    assert_eq!(refusal(&forged(|value| value.answer_bytes = u32::MAX)), "larger than 4096 bytes");
    assert_eq!(refusal(&vec![0; 10_000]), "larger than 4160 bytes");
    let cut = Answer { finish_reason: FinishReason::Unspecified, ..answer("hel") };
    assert_eq!(refusal(&FORMAT.encode(&key(1), &cut).unwrap()), "incomplete");
}

#[test]
fn a_value_cannot_swell_beyond_the_limit() {
    let bomb = compress(&vec![b'x'; 1_000_000]);
    assert!(bomb.len() < FORMAT.max_bytes, "it would pass the limit of stored bytes");
    for declared in [4096, 1_000_000] {
        let bomb = bomb.clone();
        let stored = forged(move |value| {
            (value.encoding, value.answer_bytes, value.answer) = (Encoding::Lz4Block.into(), declared, bomb);
        });
        assert!(matches!(
            FORMAT.decode(&key(1), &stored),
            Err(Unusable::Compression | Unusable::TooLarge(4096))
        ));
    }
}

proptest! {
    #[test]
    fn any_answer_within_the_limit_survives(text in ".{1,900}") {
        let found = FORMAT.decode(&key(1), &encode(&text)).unwrap();
        prop_assert_eq!(text_of(&found.message), text);
    }

    #[test]
    fn no_value_that_was_cut_is_an_answer(text in "[a-c]{0,600}", part in 0.0..1.0) {
        let whole = encode(&text);
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small")]
        let length = (whole.len() as f64 * part) as usize;
        prop_assert!(FORMAT.decode(&key(1), &whole[..length]).is_err());
    }

    #[test]
    fn no_changed_byte_changes_the_words(text in "[a-c]{0,600}", at: prop::sample::Index, flip in 1_u8..) {
        let mut stored = encode(&text);
        let index = at.index(stored.len());
        stored[index] ^= flip;
        if let Ok(found) = FORMAT.decode(&key(1), &stored) {
            prop_assert_eq!(text_of(&found.message), text);
        }
    }

    #[test]
    fn random_bytes_are_no_answer(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(FORMAT.decode(&key(1), &bytes).is_err());
    }

    #[test]
    fn a_fitting_checksum_lets_nothing_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), packed: bool, declared in 0_u32..5000) {
        let stored = forged(|value| {
            value.encoding = if packed { Encoding::Lz4Block } else { Encoding::Identity }.into();
            value.answer_bytes = declared;
            value.answer = bytes;
        });
        drop(FORMAT.decode(&key(1), &stored));
    }
}
