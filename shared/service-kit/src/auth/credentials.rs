//! What callers may show, and who they are by it.

use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use http::HeaderMap;

use super::api_key::PREFIX;
use super::certificate::{CertificateCaller, PeerNames};
use super::gateway::GatewaySecrets;
use super::header::credential;
use super::jwt::Tokens;
use super::jwt::remote::Remote;
use super::{AuthFailure, KeyRing};
use crate::config::Problems;
use crate::identity::{Caller, Role, Roles};
use crate::security::SecurityConfig;

/// Who calls a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// Everybody: the gateway's and the api-server's callers.
    Callers,
    /// The suite's own services: the router's callers.
    Gateways,
}

/// What callers of a listener may show.
#[derive(Debug)]
pub struct Credentials {
    audience: Audience,
    keys: Option<KeyRing>,
    tokens: Option<Tokens>,
    gateways: Option<GatewaySecrets>,
    certificates: Vec<CertificateCaller>,
    /// What somebody without a credential may do; `None` when one is asked for.
    anonymous: Option<Roles>,
}

impl Credentials {
    /// Reads what a configuration names. `None` when there are problems.
    pub fn read(config: &SecurityConfig, audience: Audience, problems: &mut Problems) -> Option<Self> {
        let keys = match audience {
            Audience::Callers => config.key_ring(problems).ok()?,
            Audience::Gateways => None,
        };
        let tokens = match audience {
            Audience::Callers => config.token_keys(problems).ok()?.map(|keys| Tokens::new(&config.jwt, keys)),
            Audience::Gateways => None,
        };
        let secrets = match audience {
            Audience::Callers => Vec::new(),
            Audience::Gateways => config.gateway_secrets(problems).ok()?,
        };
        let anonymous = if config.asks_for_credentials(audience) {
            // Who changes something is to be known by name, as soon as anybody is.
            config.allow_anonymous.then(|| [Role::Inference, Role::Viewer].into_iter().collect())
        } else {
            Some(Roles::all())
        };
        Some(Self {
            audience,
            keys,
            tokens,
            gateways: (!secrets.is_empty()).then(|| GatewaySecrets::new(&secrets)),
            certificates: config.client_certificates.clone(),
            anonymous,
        })
    }

    fn is_open(&self) -> bool {
        self.keys.is_none()
            && self.tokens.is_none()
            && self.gateways.is_none()
            && self.certificates.is_empty()
    }

    fn identify(
        &self,
        headers: &HeaderMap,
        peer: Option<&PeerNames>,
        now: SystemTime,
    ) -> Result<Caller, AuthFailure> {
        if self.is_open() {
            // Clients that always send some key are served where none is asked for.
            return Ok(self.anonymous());
        }
        let shown = match self.audience {
            Audience::Callers => self.by_header(headers, now)?,
            Audience::Gateways => match &self.gateways {
                Some(gateways) => gateways.find(headers)?,
                None => None,
            },
        };
        if let Some(caller) = shown {
            return Ok(caller);
        }
        match peer.and_then(|peer| self.certificate(peer)) {
            Some(known) => known.caller(headers, self.audience == Audience::Gateways),
            None if self.anonymous.is_some() => Ok(self.anonymous()),
            None if peer.is_some() => Err(AuthFailure::UnknownCertificate),
            None => Err(AuthFailure::Missing),
        }
    }

    fn by_header(&self, headers: &HeaderMap, now: SystemTime) -> Result<Option<Caller>, AuthFailure> {
        let Some(shown) = credential(headers)? else { return Ok(None) };
        match (&self.keys, &self.tokens) {
            (Some(keys), _) if shown.starts_with(PREFIX) => keys.find(shown, now).map(Some),
            (_, Some(tokens)) if Tokens::is_token(shown) => tokens.find(shown).map(Some),
            _ => Err(AuthFailure::Malformed),
        }
    }

    /// How many API keys there are. `None` where none is asked for.
    pub(super) fn keys(&self) -> Option<usize> {
        self.keys.as_ref().map(KeyRing::len)
    }

    /// The tokens that are taken.
    pub(super) fn tokens(&self) -> Option<&Tokens> {
        self.tokens.as_ref()
    }

    fn certificate(&self, peer: &PeerNames) -> Option<&CertificateCaller> {
        self.certificates.iter().find(|known| peer.0.contains(&known.name))
    }

    fn anonymous(&self) -> Caller {
        Caller { roles: self.anonymous.unwrap_or_default(), ..Caller::anonymous() }
    }
}

/// Finds out who calls. Clones share what is in force.
#[derive(Debug, Clone)]
pub struct Authenticator {
    current: Arc<ArcSwap<Credentials>>,
    remote: Arc<Remote>,
}

impl Authenticator {
    /// Finds callers by these credentials.
    pub fn new(credentials: Credentials) -> Self {
        Self { current: Arc::new(ArcSwap::from_pointee(credentials)), remote: Arc::default() }
    }

    /// From the next request on, finds callers by these credentials.
    pub fn replace(&self, credentials: Credentials) {
        let before = self.current.load();
        if let (Some(tokens), Some(before)) = (&credentials.tokens, &before.tokens) {
            tokens.inherit(before);
        }
        self.current.store(Arc::new(credentials));
        self.remote.ask();
    }

    pub(super) fn current(&self) -> Arc<Credentials> {
        self.current.load_full()
    }

    pub(super) fn remote(&self) -> &Remote {
        &self.remote
    }

    /// Whether keys of tokens are fetched, so that one that is not known may become known.
    pub(super) fn fetches_keys(&self) -> bool {
        self.current.load().tokens.as_ref().is_some_and(|tokens| tokens.url().is_some())
    }

    /// Waits until it was seen to that the keys of tokens are those that the issuer has.
    pub(super) async fn keys_fetched(&self) {
        self.remote.wait().await;
    }

    /// Whose request this is.
    ///
    /// # Errors
    /// It brings no valid credential, and needs one.
    pub fn identify(
        &self,
        headers: &HeaderMap,
        peer: Option<&PeerNames>,
        now: SystemTime,
    ) -> Result<Caller, AuthFailure> {
        self.current.load().identify(headers, peer, now)
    }
}

#[cfg(test)]
mod tests;
