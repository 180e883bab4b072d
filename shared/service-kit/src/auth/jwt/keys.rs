//! The public keys of an issuer.

use std::fmt;
use std::str::FromStr;

use jsonwebtoken::jwk::{Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use thiserror::Error;

use crate::auth::unquoted::unquoted;

/// A set of keys that cannot be used.
#[derive(Debug, Error)]
pub(crate) enum KeySetError {
    /// It is no JWKS, for this reason. The error itself would quote a file that may be another one, with secrets.
    #[error("is no JWKS: {0}")]
    NoSet(String),
    /// Nothing in it can be used.
    #[error("holds no public key for signatures that can be used")]
    Empty,
}

struct TokenKey {
    id: Option<String>,
    algorithm: Option<String>,
    key: DecodingKey,
}

/// The keys by which tokens may be signed. By default there are none.
#[derive(Default)]
pub(crate) struct TokenKeys(Vec<TokenKey>);

impl fmt::Debug for TokenKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|key| &key.id)).finish()
    }
}

impl TokenKeys {
    /// The key of an id, for an algorithm of its kind. A token without an id is taken where there is one key alone.
    pub(super) fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Option<&DecodingKey> {
        let found = match id {
            Some(id) => self.0.iter().find(|key| key.id.as_deref() == Some(id)),
            None if self.0.len() == 1 => self.0.first(),
            None => None,
        }?;
        let named = found.algorithm.as_deref().is_none_or(|name| name == format!("{algorithm:?}"));
        (named && found.key.family().algorithms().contains(&algorithm)).then_some(&found.key)
    }
}

impl FromStr for TokenKeys {
    type Err = KeySetError;

    /// Reads a JWKS. Keys for encryption, of shared secrets and of unknown kinds are passed over: a set may hold them.
    fn from_str(text: &str) -> Result<Self, KeySetError> {
        let set: JwkSet = serde_json::from_str(text).map_err(|error| KeySetError::NoSet(unquoted(&error)))?;
        let keys: Vec<TokenKey> = set.keys.iter().filter_map(usable).collect();
        if keys.is_empty() { Err(KeySetError::Empty) } else { Ok(Self(keys)) }
    }
}

fn usable(jwk: &Jwk) -> Option<TokenKey> {
    let signs = jwk.common.public_key_use.as_ref().is_none_or(|usage| *usage == PublicKeyUse::Signature);
    let key = DecodingKey::from_jwk(jwk).ok().filter(|_| signs)?;
    if key.family() == jsonwebtoken::AlgorithmFamily::Hmac {
        return None;
    }
    let algorithm = jwk.common.key_algorithm.map(|algorithm| algorithm.to_string());
    Some(TokenKey { id: jwk.common.key_id.clone(), algorithm, key })
}
