//! What takes a new configuration over while the suite serves: each service its part, and all of them or none.

use std::net::SocketAddr;
use std::sync::Arc;

use service_kit::config::Problems;
use service_kit::config::reload::{Prepared, Reload};

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

    fn prepare(&self, config: &Config) -> Result<Prepared<'_>, Problems> {
        let mut problems = Problems::default();
        if config.simulates() && !self.simulates {
            let rule = "must name servers: simulated ones need a restart";
            problems.add("tiers", "empty endpoints", rule);
            return Err(problems);
        }
        let (max, ollama) = self.upstreams;
        // The router first: by the time that the others show it a new secret, it knows it.
        let prepared = [
            self.router.prepare(&config.router(max, ollama)),
            self.gateway.prepare(&config.gateway(self.address)),
            self.api_server.prepare(&config.api_server(self.address)),
        ];
        let mut all = Prepared::new(|| ());
        for prepared in prepared {
            match prepared {
                Ok(prepared) => all = all.and(prepared),
                Err(found) => problems.merge(found),
            }
        }
        if problems.is_empty() { Ok(all) } else { Err(problems) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;

    /// A service that refuses configurations, or remembers that it has one.
    struct Fake {
        name: &'static str,
        refuses: bool,
        applied: Arc<Mutex<Vec<&'static str>>>,
    }

    impl<C> Reload<C> for Fake {
        fn live_sections(&self) -> &'static [&'static str] {
            &[]
        }

        fn prepare(&self, _config: &C) -> Result<Prepared<'_>, Problems> {
            if self.refuses {
                let mut problems = Problems::default();
                problems.add(self.name, "", "is refused");
                return Err(problems);
            }
            Ok(Prepared::new(|| self.applied.lock().push(self.name)))
        }
    }

    /// Who has the configuration, and what was wrong with it, when these refuse it.
    fn after(refusing: &[&str]) -> (Vec<&'static str>, Vec<String>) {
        let applied: Arc<Mutex<Vec<&'static str>>> = Arc::default();
        let fake =
            |name| Arc::new(Fake { name, refuses: refusing.contains(&name), applied: Arc::clone(&applied) });
        let address = "127.0.0.1:1".parse().unwrap();
        let suite = SuiteReload {
            gateway: fake("gateway"),
            api_server: fake("api_server"),
            router: fake("agent_router"),
            upstreams: (address, address),
            address,
            simulates: true,
        };
        let problems = suite.prepare(&Config::default()).map(Prepared::apply).err().unwrap_or_default();
        let told = problems.found().iter().map(|problem| problem.key.clone()).collect();
        (applied.lock().clone(), told)
    }

    #[test]
    fn a_configuration_is_taken_over_by_all_services_or_by_none() {
        assert_eq!(after(&[]), (vec!["agent_router", "gateway", "api_server"], vec![]));
        for one in ["agent_router", "gateway", "api_server"] {
            assert_eq!(after(&[one]), (vec![], vec![one.to_owned()]));
        }
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once() {
        assert_eq!(after(&["gateway", "api_server"]), (vec![], vec!["gateway".into(), "api_server".into()]));
    }
}
