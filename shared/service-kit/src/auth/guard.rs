//! What of a running service follows the `security` section.

use super::gateway::Introduction;
use super::jwt::remote::follow;
use super::{Audience, AuthLayer, AuthMetrics, Authenticator, Credentials, Door};
use crate::config::{Problems, Secret};
use crate::metrics::Registry;
use crate::security::SecurityConfig;
use crate::serving::ServeError;
use std::future::Future;
use tokio_util::sync::CancellationToken;
use tracing::info;

/// Who is let in by a service, and how it introduces itself to routers. Clones share both.
#[derive(Debug, Clone)]
pub struct Guard {
    audience: Audience,
    authenticator: Authenticator,
    introduction: Introduction,
    metrics: AuthMetrics,
}

impl Guard {
    /// The guard of a service with this audience; its metrics are registered here.
    ///
    /// # Errors
    /// A file changed since the configuration was checked, and cannot be used any more.
    pub fn new(
        config: &SecurityConfig,
        audience: Audience,
        registry: &mut Registry,
    ) -> Result<Self, ServeError> {
        let mut problems = Problems::default();
        let credentials = Credentials::read(config, audience, &mut problems)
            .ok_or_else(|| ServeError::set_up("the security section", format!("{:?}", problems.found())))?;
        Ok(Self {
            audience,
            authenticator: Authenticator::new(credentials),
            introduction: Introduction::new(config.shown_secret(&mut problems).as_ref()),
            metrics: AuthMetrics::register(registry),
        })
    }

    /// Reads a new section. Nothing has changed before it is [applied](GuardUpdate::apply).
    ///
    /// # Errors
    /// A file cannot be used.
    pub fn read(&self, config: &SecurityConfig) -> Result<GuardUpdate<'_>, Problems> {
        let mut problems = Problems::default();
        let credentials = Credentials::read(config, self.audience, &mut problems);
        let secret = config.shown_secret(&mut problems);
        match credentials {
            Some(credentials) if problems.is_empty() => Ok(GuardUpdate { guard: self, credentials, secret }),
            Some(_) | None => Err(problems),
        }
    }

    /// Keeps up with what is fetched, the keys of tokens, until `stop`.
    pub fn follow(&self, stop: CancellationToken) -> impl Future<Output = ()> + Send + 'static {
        follow(self.authenticator.clone(), stop)
    }

    /// The layer that asks who calls.
    pub fn layer<D: Door>(&self, door: D) -> AuthLayer<D> {
        AuthLayer::new(self.authenticator.clone(), self.metrics.clone(), door)
    }

    /// How the service introduces itself to routers.
    pub fn introduction(&self) -> Introduction {
        self.introduction.clone()
    }
}

/// A new section that was read and is not in force yet.
#[derive(Debug)]
#[must_use = "it is in force when it is applied"]
pub struct GuardUpdate<'a> {
    guard: &'a Guard,
    credentials: Credentials,
    secret: Option<Secret>,
}

impl GuardUpdate<'_> {
    /// From the next request on, the section is in force.
    pub fn apply(self) {
        if let Some(keys) = self.credentials.keys() {
            info!(keys, "API keys are in force");
        }
        self.guard.authenticator.replace(self.credentials);
        self.guard.introduction.replace(self.secret.as_ref());
    }
}
