//! An issuer of tokens (JWT).

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};

fn base64(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A key of the issuer, which signs its tokens.
#[derive(Debug)]
pub struct TokenKey {
    id: &'static str,
    pair: Ed25519KeyPair,
}

impl TokenKey {
    /// A new key with this id.
    ///
    /// # Panics
    /// None can be made.
    pub fn new(id: &'static str) -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("a key");
        Self { id, pair: Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).expect("a key") }
    }

    /// The set (JWKS) with its public half alone.
    pub fn set(&self) -> String {
        let x = base64(self.pair.public_key().as_ref());
        json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": self.id, "x": x}]}).to_string()
    }

    /// A token with claims that are taken, but for this change of them.
    ///
    /// # Panics
    /// It is before 1970.
    pub fn token(&self, change: impl FnOnce(&mut Value)) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time of today").as_secs();
        let mut claims = json!({
            "iss": "https://issuer.example", "aud": "ai-platform", "sub": "someone", "exp": now + 60,
            "tenant": "acme", "roles": ["inference"],
        });
        change(&mut claims);
        let header = json!({"alg": "EdDSA", "kid": self.id});
        let message =
            format!("{}.{}", base64(header.to_string().as_bytes()), base64(claims.to_string().as_bytes()));
        let signed = self.pair.sign(message.as_bytes());
        format!("{message}.{}", base64(signed.as_ref()))
    }
}
