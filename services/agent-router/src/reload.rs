//! Takes a new configuration over while requests are answered.
//!
//! | section | taken over |
//! |---|---|
//! | `agents`, `tiers`, `fallback_chain` | new agents take the place of the old ones; requests in flight keep those that they began with |
//! | `circuit_breaker` | breakers get their new settings, and keep their state as far as these allow |
//! | `security` | who is let in: from the next request on |
//! | the listener's certificate | what is in its files: from the next connection on |
//! | the others | by a restart |
//!
//! The new agents are complete before anything that is in use is touched, so that a configuration that fails half-way has
//! changed nothing. Between the two swaps, of the agents and of their breakers' settings, a few requests may meet new agents
//! with breakers of the old settings; each of the two is valid.

use std::error::Error as _;
use std::sync::Arc;

use parking_lot::MutexGuard;
use resilience::CircuitBreakerRegistry;
use service_kit::auth::Guard;
use service_kit::config::Problems;
use service_kit::config::reload::{Prepared, Reload};
use service_kit::tls::LiveTls;
use tracing::info;

use crate::agents::{Agents, CurrentAgents};
use crate::cache::AnswerCache;
use crate::config::Config;
use crate::metrics::ChainMetrics;
use crate::settings::Settings;

/// The parts of a running router that a new configuration reaches.
#[derive(Debug)]
pub(crate) struct RouterReload {
    /// What the router was started with: what needs a restart stays as it is here.
    pub(crate) started: Config,
    pub(crate) agents: CurrentAgents,
    pub(crate) cache: Option<Arc<AnswerCache>>,
    pub(crate) breakers: Arc<CircuitBreakerRegistry>,
    pub(crate) metrics: ChainMetrics,
    pub(crate) guard: Guard,
    pub(crate) tls: LiveTls,
}

impl Reload<Config> for RouterReload {
    fn live_sections(&self) -> &'static [&'static str] {
        &["agents", "circuit_breaker", "fallback_chain", "security", "tiers"]
    }

    fn prepare(&self, config: &Config) -> Result<Prepared<'_>, Problems> {
        let (guard, tls) = (self.guard.read(&config.security)?, self.tls.read()?);
        let Config { circuit_breaker, fallback_chain, tiers, agents, .. } = config.clone();
        let config = Config { circuit_breaker, fallback_chain, tiers, agents, ..self.started.clone() };
        let mut problems = Problems::default();
        let Some(settings) = Settings::of(&config, &mut problems) else {
            return Err(problems);
        };
        let tidy = Tidy { reload: self, _changing: self.agents.changing() };
        let built = Agents::build(&settings, self.cache.as_ref(), &self.breakers, Some(&self.agents.get()));
        let agents = built.map_err(|error| {
            let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            let mut problems = Problems::default();
            problems.add("tiers", "", format!("{error}{cause}"));
            problems
        })?;
        Ok(Prepared::new(move || {
            self.metrics.expect(&agents);
            let agents = self.agents.replace(agents);
            agents.settle(&settings, &self.breakers);
            guard.apply();
            tls.beside(settings.expiries()).apply();
            drop(tidy);
        }))
    }
}

/// Agents are built with their breakers. When this is dropped, the breakers go that the agents in use have no part in: the old
/// ones where the new agents are in use, and else those of agents that were only prepared.
///
/// Meanwhile nobody else makes backends, or forgets those that are not in use yet.
struct Tidy<'a> {
    reload: &'a RouterReload,
    _changing: MutexGuard<'a, ()>,
}

impl Drop for Tidy<'_> {
    fn drop(&mut self) {
        let removed = self.reload.agents.get().forget_others(&self.reload.breakers);
        if removed > 0 {
            info!(removed, "circuit breakers of backends that nobody uses were removed");
        }
    }
}

#[cfg(test)]
mod tests;
