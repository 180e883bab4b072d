//! Tokens (JWT) of an issuer whose public keys are known.
//!
//! The algorithm is one of a list of ours and fits the key, never what a token asks for; keys are found by their id
//! alone. `exp`, `iss` and `aud` must be there, `nbf` is kept where it is, and clocks may be 30 seconds apart.

mod keys;
mod provider;
pub(super) mod remote;

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Validation, decode, decode_header};
use serde_json::Value;

use super::AuthFailure;
use crate::config::Endpoint;
use crate::identity::{Caller, Role};
use crate::security::JwtConfig;
use crate::tenant::Tenant;
pub(crate) use keys::{KeySetError, TokenKeys};

/// By how much clocks may differ, in seconds.
const LEEWAY: u64 = 30;
/// Longer than any token that fits into a header with others beside it.
const MAX_TOKEN: usize = 8 * 1024;

/// Knows callers by their tokens.
#[derive(Debug)]
pub(super) struct Tokens {
    validation: Validation,
    tenant_claim: String,
    roles_claim: String,
    url: Option<Endpoint>,
    keys: ArcSwap<TokenKeys>,
}

impl Tokens {
    /// Takes the tokens of a configuration, signed by these keys.
    pub(super) fn new(config: &JwtConfig, keys: TokenKeys) -> Self {
        provider::install();
        let mut validation = Validation {
            algorithms: config.algorithms.iter().map(|algorithm| algorithm.0).collect(),
            leeway: LEEWAY,
            validate_nbf: true,
            ..Validation::default()
        };
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        validation.set_issuer(&config.issuer.iter().collect::<Vec<_>>());
        validation.set_audience(&config.audience.iter().collect::<Vec<_>>());
        Self {
            validation,
            tenant_claim: config.tenant_claim.clone(),
            roles_claim: config.roles_claim.clone(),
            url: config.jwks_url.clone(),
            keys: ArcSwap::from_pointee(keys),
        }
    }

    /// Where the keys are fetched; `None` when they are in a file.
    pub(super) fn url(&self) -> Option<&Endpoint> {
        self.url.as_ref()
    }

    /// From now on, tokens are signed by these keys.
    pub(super) fn replace(&self, keys: TokenKeys) {
        self.keys.store(Arc::new(keys));
    }

    #[cfg(test)]
    pub(super) fn knows(&self, id: &str) -> bool {
        self.validation
            .algorithms
            .iter()
            .any(|algorithm| self.keys.load().find(Some(id), *algorithm).is_some())
    }

    /// Has the keys that others fetched from the same place.
    pub(super) fn inherit(&self, others: &Self) {
        if self.url.is_some() && self.url == others.url {
            self.keys.store(others.keys.load_full());
        }
    }

    /// Whether this has the form of a token.
    pub(super) fn is_token(text: &str) -> bool {
        text.len() <= MAX_TOKEN && text.bytes().filter(|byte| *byte == b'.').count() == 2
    }

    /// Whose token this is.
    pub(super) fn find(&self, token: &str) -> Result<Caller, AuthFailure> {
        let header = decode_header(token).map_err(|_| AuthFailure::BadToken)?;
        if !self.validation.algorithms.contains(&header.alg) {
            return Err(AuthFailure::BadToken);
        }
        let keys = self.keys.load();
        let key = keys.find(header.kid.as_deref(), header.alg).ok_or(AuthFailure::UnknownTokenKey)?;
        // One algorithm: the list may hold several families, and a key belongs to one.
        let validation = Validation { algorithms: vec![header.alg], ..self.validation.clone() };
        let claims = decode::<HashMap<String, Value>>(token, key, &validation).map_err(|error| {
            let expired = *error.kind() == ErrorKind::ExpiredSignature;
            if expired { AuthFailure::Expired } else { AuthFailure::BadToken }
        })?;
        self.caller(&claims.claims).ok_or(AuthFailure::BadToken)
    }

    fn caller(&self, claims: &HashMap<String, Value>) -> Option<Caller> {
        let id = claims.get("sub")?.as_str().filter(|id| Tenant::is_name(id))?;
        let tenant = claims.get(&self.tenant_claim)?.as_str().filter(|name| Tenant::is_name(name))?;
        let roles = match claims.get(&self.roles_claim) {
            Some(Value::String(names)) => names.split(' ').filter_map(Role::named).collect(),
            Some(Value::Array(names)) => {
                names.iter().filter_map(Value::as_str).filter_map(Role::named).collect()
            }
            _ => crate::identity::Roles::default(),
        };
        Some(Caller { id: Arc::from(id), tenant: Tenant::new(tenant), roles, limits: None })
    }
}

#[cfg(test)]
mod tests;
