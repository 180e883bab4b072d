//! Which tokens are taken.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use jsonwebtoken::Algorithm;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::config::{Endpoint, Problems, comma_separated};

/// The `security.jwt` section. Without a file or URL of keys, no tokens are taken.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct JwtConfig {
    /// The issuer's keys (JWKS) as a file.
    pub jwks_file: Option<PathBuf>,
    /// The issuer's keys (JWKS) behind https. They are fetched every five minutes, and at most once a minute when a token
    /// names a key that is not known.
    pub jwks_url: Option<Endpoint>,
    /// What `iss` must be. Required.
    pub issuer: Option<String>,
    /// What `aud` must be or hold. Required.
    pub audience: Option<String>,
    /// The algorithms by which a token may be signed. Those of shared secrets are not among them.
    #[serde(deserialize_with = "comma_separated")]
    pub algorithms: Vec<TokenAlgorithm>,
    /// The claim that names the tenant; a token without it is refused.
    pub tenant_claim: String,
    /// The claim that names the roles: a list, or names with spaces between them. Names that are no roles are passed over.
    pub roles_claim: String,
}

impl Default for JwtConfig {
    fn default() -> Self {
        Self {
            jwks_file: None,
            jwks_url: None,
            issuer: None,
            audience: None,
            algorithms: [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA].map(TokenAlgorithm).to_vec(),
            tenant_claim: "tenant".to_owned(),
            roles_claim: "roles".to_owned(),
        }
    }
}

impl JwtConfig {
    /// Whether tokens are taken.
    pub fn is_on(&self) -> bool {
        self.jwks_file.is_some() || self.jwks_url.is_some()
    }

    pub(super) fn check(&self, problems: &mut Problems) {
        if !self.is_on() {
            return;
        }
        let both = self.jwks_file.is_some() && self.jwks_url.is_some();
        problems.require(!both, "security.jwt.jwks_url", "", "must not be set beside jwks_file");
        for (key, value) in [("issuer", &self.issuer), ("audience", &self.audience)] {
            let given = value.as_ref().is_some_and(|value| !value.is_empty());
            let key = format!("security.jwt.{key}");
            problems.require(
                given,
                &key,
                "(unset)",
                "must be set: keys may be those of other issuers and services too",
            );
        }
        let some = !self.algorithms.is_empty();
        problems.require(some, "security.jwt.algorithms", "[]", "must name at least one algorithm");
        for (key, claim) in [("tenant_claim", &self.tenant_claim), ("roles_claim", &self.roles_claim)] {
            problems.require(!claim.is_empty(), &format!("security.jwt.{key}"), "", "must name a claim");
        }
        if let Some(url) = &self.jwks_url {
            let safe = url.url().scheme() == "https" || super::warnings::is_here(url);
            problems.require(
                safe,
                "security.jwt.jwks_url",
                url,
                "must be https: whoever gives the keys says who is let in",
            );
        }
    }
}

/// An algorithm with a public key, by its name in RFC 7518 and RFC 8037.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenAlgorithm(pub(crate) Algorithm);

const ALGORITHMS: [(&str, Algorithm); 9] = [
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
    ("PS256", Algorithm::PS256),
    ("PS384", Algorithm::PS384),
    ("PS512", Algorithm::PS512),
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("EdDSA", Algorithm::EdDSA),
];

impl fmt::Display for TokenAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = ALGORITHMS.iter().find(|(_, algorithm)| *algorithm == self.0).map(|(name, _)| *name);
        f.write_str(name.unwrap_or_default())
    }
}

impl FromStr for TokenAlgorithm {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = ALGORITHMS.iter().find(|(name, _)| *name == text);
        found.map(|(_, algorithm)| Self(*algorithm)).ok_or_else(|| {
            let names = ALGORITHMS.map(|(name, _)| name);
            format!("must be one of {}", names.join(", "))
        })
    }
}

impl Serialize for TokenAlgorithm {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TokenAlgorithm {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
