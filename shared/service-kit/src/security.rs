//! What may be reached from outside, and by whom.

mod files;
mod jwt;
mod warnings;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::auth::api_key::KeyHasher;
use crate::auth::jwt::{KeySetError, TokenKeys};
use crate::auth::{Audience, CertificateCaller, KeyRing};
use crate::config::{Endpoint, ListenAddress, Problems, Refused, Secret};
use crate::tls::ClientTlsConfig;
pub use jwt::{JwtConfig, TokenAlgorithm};
pub use warnings::Warnings;

/// The `security` section.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SecurityConfig {
    /// Whether callers without a credential are served: also on addresses that other machines can reach, and also where
    /// there are credentials. They may then do all but what takes an operator.
    pub allow_anonymous: bool,
    /// The API keys, as `gateway keys new` prints them: one a line.
    pub api_keys_file: Option<PathBuf>,
    /// The server key by which API keys are hashed: at least 32 bytes.
    pub key_hash_secret_file: Option<PathBuf>,
    /// The secret by which routers know the gateways and the api-server: at least 32 visible ASCII characters. Of several
    /// lines, the first one is shown and each one is accepted.
    pub gateway_secret_file: Option<PathBuf>,
    /// Callers that are known by the names in their client certificates.
    pub client_certificates: Vec<CertificateCaller>,
    /// Callers that are known by the tokens of an issuer.
    pub jwt: JwtConfig,
    /// In place of the file, for services in one process.
    #[serde(skip)]
    pub gateway_secret: Option<Secret>,
}

const KEYS: &str = "security.api_keys_file";
const HASH_SECRET: &str = "security.key_hash_secret_file";
const JWKS: &str = "security.jwt.jwks_file";
const GATEWAY_SECRET: &str = "security.gateway_secret_file";
/// The shortest secret of a file, in bytes: 256 bits, if they are random.
const MIN_SECRET: usize = 32;

impl SecurityConfig {
    /// Checks what a service with this audience uses.
    pub fn check(&self, audience: Audience, problems: &mut Problems) {
        let mut names = std::collections::BTreeSet::new();
        for (index, caller) in self.client_certificates.iter().enumerate() {
            let key = format!("security.client_certificates.{index}");
            if let Some(rule) = caller.rule() {
                problems.add(&key, &caller.name, rule);
            }
            problems.require(names.insert(&caller.name), &key, &caller.name, "must be there once");
        }
        // The router has no use for keys, and need not be able to read them.
        if audience == Audience::Callers {
            drop(self.key_ring(problems));
            self.jwt.check(problems);
            drop(self.token_keys(problems));
        }
        drop(self.gateway_secrets(problems));
    }

    /// Refuses an address that others can reach unless its callers have to show something, or anonymous access was asked
    /// for by name.
    pub fn check_listener(
        &self,
        key: &str,
        address: ListenAddress,
        audience: Audience,
        problems: &mut Problems,
    ) {
        let rule = match audience {
            Audience::Callers => {
                "must be a loopback address unless there are credentials (security.api_keys_file, \
                 security.jwt, security.client_certificates) or security.allow_anonymous is true"
            }
            Audience::Gateways => {
                "must be a loopback address unless there is security.gateway_secret_file, or \
                 security.client_certificates, or security.allow_anonymous is true"
            }
        };
        let closed = self.allow_anonymous || self.asks_for_credentials(audience);
        problems.require(closed || address.0.ip().is_loopback(), key, address, rule);
    }

    /// Refuses a gateway that tells its callers apart and has no way to tell routers for whom it asks.
    pub fn check_tenants(&self, router_tls: &ClientTlsConfig, routers: &[Endpoint], problems: &mut Problems) {
        let by_certificate =
            router_tls.has_identity() && routers.iter().all(|router| router.url().scheme() == "https");
        let known = by_certificate || self.gateway_secret_file.is_some() || self.gateway_secret.is_some();
        let rule = "must be set where callers are told apart, or else a certificate for routers: they would take all tenants for one, and give \
                    answers of one to another";
        let apart = self.asks_for_credentials(Audience::Callers);
        problems.require(known || !apart, GATEWAY_SECRET, "(unset)", rule);
    }

    /// Refuses an address that others can reach for something that never asks who calls.
    pub fn check_unguarded(&self, key: &str, address: ListenAddress, problems: &mut Problems) {
        let rule = "must be a loopback address unless security.allow_anonymous is true";
        problems.require(self.allow_anonymous || address.0.ip().is_loopback(), key, address, rule);
    }

    /// Whether callers of a listener have to show something, were it not for anonymous access.
    pub fn asks_for_credentials(&self, audience: Audience) -> bool {
        let own = match audience {
            Audience::Callers => self.api_keys_file.is_some() || self.jwt.is_on(),
            Audience::Gateways => self.gateway_secret_file.is_some() || self.gateway_secret.is_some(),
        };
        own || !self.client_certificates.is_empty()
    }

    /// The files of secrets, each with its key.
    pub fn secret_files(&self) -> [(&'static str, &Option<PathBuf>); 2] {
        [(HASH_SECRET, &self.key_hash_secret_file), (GATEWAY_SECRET, &self.gateway_secret_file)]
    }

    /// The files that it names.
    pub fn files(&self) -> Vec<PathBuf> {
        let Self { api_keys_file, key_hash_secret_file, gateway_secret_file, jwt, .. } = self;
        let files = [api_keys_file, key_hash_secret_file, gateway_secret_file, &jwt.jwks_file];
        files.into_iter().flatten().cloned().collect()
    }

    /// What hashes API keys. `None` when there are problems, or no file is named.
    pub fn key_hasher(&self, problems: &mut Problems) -> Option<KeyHasher> {
        let Some(path) = &self.key_hash_secret_file else {
            problems.add(HASH_SECRET, "(unset)", "must name the file of the key that API keys are hashed by");
            return None;
        };
        let secret = files::read(path, HASH_SECRET, problems)?;
        let long_enough = secret.expose().len() >= MIN_SECRET;
        let rule = format!("must hold at least {MIN_SECRET} bytes");
        problems.require(long_enough, HASH_SECRET, path.display(), &rule);
        long_enough.then(|| KeyHasher::new(&secret))
    }

    /// The API keys, where a file of them is named.
    pub(crate) fn key_ring(&self, problems: &mut Problems) -> Result<Option<KeyRing>, Refused> {
        let Some(path) = &self.api_keys_file else { return Ok(None) };
        let hasher = self.key_hasher(problems);
        let text = files::read(path, KEYS, problems).ok_or(Refused)?;
        KeyRing::read(text.expose(), hasher.ok_or(Refused)?).map(Some).map_err(|error| {
            problems.add(KEYS, path.display(), error.to_string());
            Refused
        })
    }

    /// The keys of tokens; none yet where they are fetched. `None`: no tokens are taken.
    pub(crate) fn token_keys(&self, problems: &mut Problems) -> Result<Option<TokenKeys>, Refused> {
        let Some(path) = &self.jwt.jwks_file else {
            return Ok(self.jwt.is_on().then(TokenKeys::default));
        };
        let text = files::read(path, JWKS, problems).ok_or(Refused)?;
        text.expose().parse().map(Some).map_err(|error: KeySetError| {
            problems.add(JWKS, path.display(), error.to_string());
            Refused
        })
    }

    /// The secrets that gateways may show; the first is the one that this process shows.
    pub(crate) fn gateway_secrets(&self, problems: &mut Problems) -> Result<Vec<Secret>, Refused> {
        let Some(path) = &self.gateway_secret_file else {
            return Ok(self.gateway_secret.iter().cloned().collect());
        };
        let text = files::read(path, GATEWAY_SECRET, problems).ok_or(Refused)?;
        let lines: Vec<&str> = text.expose().lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let usable =
            |line: &&str| line.len() >= MIN_SECRET && line.bytes().all(|byte| byte.is_ascii_graphic());
        if lines.is_empty() || !lines.iter().all(usable) {
            let rule = format!("each line must hold at least {MIN_SECRET} visible ASCII characters");
            problems.add(GATEWAY_SECRET, path.display(), rule);
            return Err(Refused);
        }
        Ok(lines.into_iter().map(|line| line.to_owned().into()).collect())
    }

    /// The secret that this process shows to routers. `None` when there is none, or there are problems.
    pub fn shown_secret(&self, problems: &mut Problems) -> Option<Secret> {
        self.gateway_secrets(problems).ok()?.into_iter().next()
    }
}

#[cfg(test)]
mod tests;
