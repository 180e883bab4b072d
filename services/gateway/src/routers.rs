//! The agent-routers, and calls to them.
//!
//! * [`pool`] says who they are and whom to ask first, [`names`] keeps it at the addresses of their names.
//! * [`replica`] is what is known of one, [`checks`] finds it out.
//! * [`call`] calls them until one answers; [`attempt`] is one such call.
//! * [`connect`] makes the links that calls go through.
//!
//! What tonic does by itself is too little for this: it resolves a name once, does not check health, tries nothing again, and
//! its own balancer goes on choosing the dead and waits for ever where there is nobody.

mod attempt;
mod call;
mod checks;
mod connect;
mod link;
mod metrics;
mod names;
mod pool;
mod replica;

use std::sync::Arc;

use prometheus_client::registry::Registry;
use resilience::{
    CircuitBreakerConfig, CircuitBreakerRegistry, Clock, Randomness, RetryBudget, RetryBudgetConfig,
};
use service_kit::auth::gateway::Introduction;
use service_kit::config::Endpoint;
use service_kit::dns::Resolver;
use service_kit::health::Health;
use service_kit::serving::ServeError;
use tokio_util::sync::CancellationToken;

use crate::config::BalancingConfig;
pub(crate) use attempt::relay;
pub use attempt::{Client, Passed};
pub(crate) use call::{Answered, CallError};
pub use connect::{Connect, OverNetwork};
pub use link::Link;
use metrics::CallMetrics;
use pool::Pool;
pub(crate) use replica::Call;

/// What the routers need of the world outside.
#[derive(Debug, Clone)]
pub struct Outside {
    /// Makes the links.
    pub connector: Arc<dyn Connect>,
    /// Finds the addresses of names.
    pub resolver: Arc<dyn Resolver>,
    /// The breakers' time.
    pub clock: Arc<dyn Clock>,
    /// What choices and waits are drawn from.
    pub randomness: Arc<dyn Randomness>,
}

/// All routers.
#[derive(Debug)]
pub struct Routers {
    pool: Arc<Pool>,
    settings: BalancingConfig,
    outside: Outside,
    budget: RetryBudget,
    max_message_bytes: usize,
    metrics: CallMetrics,
    introduction: Introduction,
}

impl Routers {
    /// The routers at these endpoints. They are connected to when they are first needed, and those at names are not known
    /// before [`Routers::watch`] runs.
    ///
    /// # Errors
    /// An endpoint or a setting cannot be used.
    pub fn new(
        endpoints: &[Endpoint],
        settings: &BalancingConfig,
        outside: Outside,
        max_message_bytes: usize,
        registry: &mut Registry,
    ) -> Result<Self, ServeError> {
        let breaker = CircuitBreakerConfig::consecutive_failures(
            settings.failure_threshold,
            settings.recovery_timeout.0,
        )
        .map_err(|error| ServeError::set_up("the routers' circuit breakers", error))?;
        let Outside { connector, clock, randomness, .. } = outside.clone();
        let budget = RetryBudget::new(RetryBudgetConfig::default(), Arc::clone(&clock));
        let pool = Arc::new(Pool::new(endpoints, breaker, connector, clock, randomness)?);
        let metrics = CallMetrics::register(registry, &pool);
        Ok(Self {
            pool,
            settings: settings.clone(),
            outside,
            budget,
            max_message_bytes,
            metrics,
            introduction: Introduction::default(),
        })
    }

    /// Has the gateway introduce itself to routers, so that they take its word on the tenant.
    #[must_use]
    pub fn introduced_by(mut self, introduction: Introduction) -> Self {
        self.introduction = introduction;
        self
    }

    /// The breakers: one for each replica, by its name.
    pub fn breakers(&self) -> &Arc<CircuitBreakerRegistry> {
        self.pool.breakers()
    }

    /// Follows the names of the routers and checks whether they are there, and keeps the health of `dependency-router`
    /// true: well while some router is ready.
    pub async fn watch(self: Arc<Self>, health: Health, stop: CancellationToken) {
        let watch = async {
            tokio::join!(self.follow(), self.check(&health));
        };
        stop.run_until_cancelled(watch).await.unwrap_or(());
    }
}

#[cfg(test)]
mod tests;
