//! The pool of a tier of model servers, made from its settings.

use std::net::IpAddr;
use std::sync::Arc;

use resilience::{CircuitBreakerConfig, CircuitBreakerRegistry, SplitMix64};
use service_kit::config::Endpoint;

use super::EndpointPool;
use super::rests::Rests;
use crate::agents::BuildError;
use crate::backend::{Backend, Target};
use crate::config::Kind;
use crate::settings::ModelTier;
use crate::upstream::HttpClient;
use crate::upstream::ollama::OllamaBackend;
use crate::upstream::openai::OpenAiBackend;

/// What the backends of a tier are made from.
#[derive(Debug)]
pub(crate) struct Maker {
    pub(crate) kind: Kind,
    pub(crate) tier: String,
    pub(crate) model: ModelTier,
    pub(crate) client: HttpClient,
    pub(crate) breaker: CircuitBreakerConfig,
    pub(crate) breakers: Arc<CircuitBreakerRegistry>,
    pub(crate) rests: Rests,
    /// Whether breakers that exist are taken as they are, whatever their settings.
    pub(crate) known_stay: bool,
}

impl Maker {
    /// The pool of the tier's endpoints.
    ///
    /// # Errors
    /// A backend's breaker exists with other settings, or there are too many of them.
    pub(crate) fn pool(self) -> Result<EndpointPool, BuildError> {
        let (tier, endpoints, settings) =
            (self.tier.clone(), self.model.endpoints.clone(), self.model.pool.clone());
        let make = Box::new(move |endpoint: &Endpoint, address, like: Option<&CircuitBreakerConfig>| {
            self.backend(endpoint, address, like)
        });
        EndpointPool::new(&tier, &endpoints, &settings, make, Arc::new(SplitMix64::from_entropy()))
    }

    /// The backend at an endpoint, or at one address of its name. It is called by both, and by its model: what is one server to
    /// two tiers has one breaker, and rests for both.
    fn backend(
        &self,
        endpoint: &Endpoint,
        address: Option<IpAddr>,
        like: Option<&CircuitBreakerConfig>,
    ) -> Result<Backend, BuildError> {
        let (authority, model) = (endpoint.authority(), &self.model.model);
        let path = endpoint.url().path().trim_end_matches('/');
        let name = match address {
            Some(address) => format!("{authority}{path}/{model}@{address}"),
            None => format!("{authority}{path}/{model}"),
        };
        let breaker = match self.breakers.get(&name) {
            Some(known) if self.known_stay => known,
            Some(_) | None => self.breakers.get_or_create(&name, like.unwrap_or(&self.breaker))?,
        };
        let client = match (address, endpoint.url().domain()) {
            (Some(address), Some(host)) => self
                .client
                .pinned(host, address)
                .map_err(|source| BuildError::Client { tier: self.tier.clone(), source })?,
            (Some(_) | None, _) => self.client.clone(),
        };
        let target = match self.kind {
            Kind::Ollama => Target::Ollama(OllamaBackend::new(client.clone(), endpoint, &self.model)),
            Kind::Openai | Kind::Cache | Kind::Message => {
                Target::OpenAi(OpenAiBackend::new(client.clone(), endpoint, &self.model))
            }
        };
        let rest = self.rests.of(&name);
        let backend = Backend::new(self.kind, name, Some(breaker), target).with_rest(rest);
        Ok(match &self.model.pool.health_check {
            Some(check) => backend.with_health_check(client, endpoint.at(&check.path)),
            None => backend,
        })
    }
}
