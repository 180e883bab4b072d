//! What takes a new configuration over while the suite serves: each service its part.

use std::net::SocketAddr;
use std::sync::Arc;

use service_kit::config::Problems;
use service_kit::config::reload::Reload;

use crate::config::Config;

/// Hands each service its part of a new configuration.
pub(crate) struct SuiteReload {
    pub(crate) gateway: Arc<dyn Reload<gateway::config::Config>>,
    pub(crate) api_server: Arc<dyn Reload<api_server::config::Config>>,
    pub(crate) router: Arc<dyn Reload<agent_router::config::Config>>,
    /// Where MAX Serve and Ollama are simulated.
    pub(crate) upstreams: (SocketAddr, SocketAddr),
    /// Where the router listens.
    pub(crate) address: SocketAddr,
    /// Whether they are: simulators start with the process.
    pub(crate) simulates: bool,
}

impl Reload<Config> for SuiteReload {
    fn live_sections(&self) -> &'static [&'static str] {
        // The router's are those of the others and more.
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
        // The router first: it may refuse what the others have no part in.
        self.router.take_over(&config.router(max, ollama))?;
        self.gateway.take_over(&config.gateway(self.address))?;
        self.api_server.take_over(&config.api_server(self.address))
    }
}
