//! API keys, `aip_<id>_<secret>`, and their hashes.
//!
//! The id is public: it names the key in files, logs and metrics. The secret has 256 random bits, so that a plain keyed
//! hash is enough where passwords would need a slow one. The key of the hash is not in the file of the hashes: who reads
//! the one cannot even test a guess.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use ring::rand::SecureRandom;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use subtle::ConstantTimeEq as _;
use thiserror::Error;

use crate::config::Secret;

/// What every key begins with, so that scanners for leaked secrets know one.
pub const PREFIX: &str = "aip_";

const ID_BYTES: usize = 8;
const SECRET_BYTES: usize = 32;
/// Longer than any key of ours: what is longer is not hashed.
const MAX_KEY: usize = 256;
const MAX_ID: usize = 64;
const ALGORITHM: &str = "hmac-sha256:";

/// The system has no random numbers.
#[derive(Debug, Error)]
#[error("the system gives no random numbers")]
pub struct NoRandomness;

/// A new key: its id, and the whole text, which is shown once.
#[derive(Debug)]
pub struct NewKey {
    /// The public part.
    pub id: String,
    /// All of it.
    pub key: Secret,
}

impl NewKey {
    /// A key from this source of randomness.
    ///
    /// # Errors
    /// The source fails.
    pub fn generate(random: &dyn SecureRandom) -> Result<Self, NoRandomness> {
        let (mut id, mut secret) = ([0; ID_BYTES], [0; SECRET_BYTES]);
        random.fill(&mut id).map_err(|_| NoRandomness)?;
        random.fill(&mut secret).map_err(|_| NoRandomness)?;
        let id = format!("{:016x}", u64::from_be_bytes(id));
        let key = format!("{PREFIX}{id}_{}", URL_SAFE_NO_PAD.encode(secret));
        Ok(Self { id, key: key.into() })
    }
}

/// Whether this can be the id of a key: 1 to 64 ASCII letters, digits and hyphens.
pub fn is_id(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= MAX_ID
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// The id in a text that has the form of a key.
pub(super) fn id_of(text: &str) -> Option<&str> {
    let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
    (text.len() <= MAX_KEY && is_id(id) && !secret.is_empty()).then_some(id)
}

/// Hashes keys.
#[derive(Clone)]
pub struct KeyHasher(hmac::Key);

impl KeyHasher {
    /// Hashes with this server key.
    pub fn new(server_key: &Secret) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, server_key.expose().as_bytes()))
    }

    /// The hash of a whole key. The id is part of it, so that the hash of one key is of no use under the id of another.
    pub fn hash(&self, key: &str) -> KeyHash {
        let mut hash = [0; 32];
        hash.copy_from_slice(hmac::sign(&self.0, key.as_bytes()).as_ref());
        KeyHash(hash)
    }
}

impl fmt::Debug for KeyHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHasher")
    }
}

/// The keyed hash of an API key, written `hmac-sha256:` and base64. It has no `==`, which would not be constant in time.
#[derive(Clone, Copy)]
pub struct KeyHash([u8; 32]);

impl KeyHash {
    /// Whether two hashes are the same, in a time that does not depend on where they differ.
    pub fn is_same(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHash")
    }
}

impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{ALGORITHM}{}", URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl FromStr for KeyHash {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const RULE: &str =
            "must be hmac-sha256: and 43 characters of base64, as `gateway keys new` prints it";
        let bytes = text.strip_prefix(ALGORITHM).and_then(|hash| URL_SAFE_NO_PAD.decode(hash).ok());
        bytes.and_then(|bytes| bytes.try_into().ok()).map(Self).ok_or(RULE)
    }
}

impl Serialize for KeyHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeyHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::rand::SystemRandom;

    #[test]
    fn new_keys_have_the_promised_form_and_differ() {
        let (one, other) = (
            NewKey::generate(&SystemRandom::new()).unwrap(),
            NewKey::generate(&SystemRandom::new()).unwrap(),
        );
        assert_eq!(id_of(one.key.expose()), Some(one.id.as_str()));
        let secret = one.key.expose().rsplit_once(&format!("{}_", one.id)).unwrap().1;
        assert_eq!(URL_SAFE_NO_PAD.decode(secret).unwrap().len() * 8, 256);
        assert!(one.id != other.id && one.key != other.key);
        assert!(!format!("{one:?}").contains(secret), "a Debug shows no secret");
    }

    #[test]
    fn what_has_not_the_form_of_a_key_has_no_id() {
        for text in ["", "aip_", "aip__x", "aip_a", "aip_a_", "AIP_a_b", "sk-a_b", "aip_a b_c"] {
            assert_eq!(id_of(text), None, "{text}");
        }
        assert_eq!(id_of("aip_a-1_b_c-"), Some("a-1"));
        assert_eq!(id_of(&format!("aip_a_{}", "x".repeat(300))), None);
    }

    #[test]
    fn a_hash_survives_the_file_and_depends_on_every_part() {
        let hasher = KeyHasher::new(&Secret::from("server key".to_owned()));
        let hash = hasher.hash("aip_a_b");
        let read: KeyHash = hash.to_string().parse().unwrap();
        assert!(read.is_same(&hash));
        let others = [
            hasher.hash("aip_a_c"),
            hasher.hash("aip_b_b"),
            KeyHasher::new(&Secret::from("another".to_owned())).hash("aip_a_b"),
        ];
        assert!(others.iter().all(|other| !other.is_same(&hash)));
        for wrong in ["", "hmac-sha256:", "hmac-sha256:AAAA", "sha256:x", "aip_a_b"] {
            assert!(wrong.parse::<KeyHash>().is_err(), "{wrong}");
        }
    }
}
