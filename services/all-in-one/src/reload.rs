//! What takes a new configuration over while the suite serves: the router.

use std::net::SocketAddr;
use std::sync::Arc;

use service_kit::config::Problems;
use service_kit::config::reload::Reload;

use crate::config::Config;

/// Hands the router its part of a new configuration.
pub(crate) struct SuiteReload {
    pub(crate) router: Arc<dyn Reload<agent_router::config::Config>>,
    /// Where MAX Serve and Ollama are simulated.
    pub(crate) upstreams: (SocketAddr, SocketAddr),
    /// Whether they are: simulators start with the process.
    pub(crate) simulates: bool,
}

impl Reload<Config> for SuiteReload {
    fn live_sections(&self) -> &'static [&'static str] {
        self.router.live_sections()
    }

    fn take_over(&self, config: &Config) -> Result<(), Problems> {
        if config.simulates() && !self.simulates {
            let mut problems = Problems::default();
            let rule = "must name servers: simulated ones need a restart";
            problems.add("tiers", "empty endpoints", rule);
            return Err(problems);
        }
        let (max, ollama) = self.upstreams;
        self.router.take_over(&config.router(max, ollama))
    }
}
