//! All sections of the suite's configuration in one.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use agent_router::config as router;
use serde::{Deserialize, Serialize};
use service_kit::auth::Audience;
use service_kit::auth::gateway::secret_of_process;
use service_kit::config::{Endpoint, EnvVar, ListenAddress, Problem, Problems, ServiceConfig};
use service_kit::security::SecurityConfig;
use service_kit::shutdown::ShutdownConfig;
use service_kit::telemetry::TelemetryConfig;
use upstream_sim::SimConfig;

/// The tiers whose upstreams can be simulated.
const MAX: &str = "max";
const OLLAMA: &str = "ollama";

/// The whole configuration. The sections are those of the services.
///
/// Differences in defaults: the endpoints of the tiers `max` and `ollama` are empty, which means simulated; the
/// gateway's and the api-server's routers are empty, which means the one in this process; nobody balances over a single
/// process, so there is no lame duck time.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// As in the agent-router.
    pub agent_router: router::RouterConfig,
    /// As in the agent-router.
    pub circuit_breaker: router::BreakerConfig,
    /// As in the agent-router.
    pub fallback_chain: router::ChainConfig,
    /// As in the agent-router.
    pub cache: router::CacheConfig,
    /// As in the agent-router.
    pub tiers: BTreeMap<String, router::TierConfig>,
    /// As in the agent-router.
    pub agents: Vec<router::AgentConfig>,
    /// As in the gateway.
    pub gateway: gateway::config::GatewayConfig,
    /// As in the api-server.
    pub api_server: api_server::config::ApiServerConfig,
    /// The simulated upstreams.
    pub upstream_sim: SimSection,
    /// Who may reach the listeners.
    pub security: SecurityConfig,
    /// How the process ends.
    pub shutdown: ShutdownConfig,
    /// Logs and traces.
    pub telemetry: TelemetryConfig,
}

/// The `upstream_sim` section.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SimSection {
    /// Where MAX Serve's protocol is spoken.
    pub max_listen: ListenAddress,
    /// Where Ollama's protocol is spoken.
    pub ollama_listen: ListenAddress,
    /// Where faults are set.
    pub control_listen: ListenAddress,
    /// Decides the answers.
    pub seed: u64,
    /// The pace of answers; 0 = as fast as possible.
    pub tokens_per_second: f64,
}

impl Default for SimSection {
    fn default() -> Self {
        let defaults = SimConfig::default();
        Self {
            max_listen: ListenAddress(defaults.max_listen),
            ollama_listen: ListenAddress(defaults.ollama_listen),
            control_listen: ListenAddress(defaults.control_listen),
            seed: defaults.seed,
            tokens_per_second: defaults.tokens_per_second,
        }
    }
}

impl SimSection {
    /// The simulator's configuration.
    pub(crate) fn config(&self) -> SimConfig {
        SimConfig {
            max_listen: self.max_listen.0,
            ollama_listen: self.ollama_listen.0,
            control_listen: self.control_listen.0,
            seed: self.seed,
            tokens_per_second: self.tokens_per_second,
            ..SimConfig::default()
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        let mut router = router::Config::default();
        for name in [MAX, OLLAMA] {
            if let Some(tier) = router.tiers.get_mut(name) {
                tier.endpoints.clear();
                tier.model = None;
            }
        }
        let no_routers = Vec::new();
        Self {
            agent_router: router.agent_router,
            circuit_breaker: router.circuit_breaker,
            fallback_chain: router.fallback_chain,
            cache: router.cache,
            tiers: router.tiers,
            agents: router.agents,
            gateway: gateway::config::GatewayConfig { routers: no_routers.clone(), ..Default::default() },
            api_server: api_server::config::ApiServerConfig { routers: no_routers, ..Default::default() },
            upstream_sim: SimSection::default(),
            security: router.security,
            shutdown: ShutdownConfig { lame_duck: service_kit::config::Seconds::new(0), ..router.shutdown },
            telemetry: router.telemetry,
        }
    }
}

impl Config {
    /// How many files the process may have open. A connection to a simulated upstream has both of its ends here.
    pub(crate) fn open_files(&self) -> u64 {
        let simulated = if self.simulates() { u64::from(self.agent_router.max_in_flight) } else { 0 };
        self.gateway.open_files() + self.agent_router.open_files() + simulated
    }

    /// Whether some upstream is to be simulated.
    pub(crate) fn simulates(&self) -> bool {
        [MAX, OLLAMA].iter().any(|name| self.simulates_tier(name))
    }

    /// The tiers that are simulated although other upstreams are real.
    pub(crate) fn simulated_beside_real(&self) -> Vec<&'static str> {
        let simulated: Vec<_> = [MAX, OLLAMA].into_iter().filter(|name| self.simulates_tier(name)).collect();
        if simulated.len() == 2 { Vec::new() } else { simulated }
    }

    /// Where callers are told apart, the services know each other by a secret of this process, unless they are given one.
    fn security(&self) -> SecurityConfig {
        let mut security = self.security.clone();
        if security.asks_for_credentials(Audience::Callers) && security.gateway_secret_file.is_none() {
            security.gateway_secret = secret_of_process().cloned();
        }
        security
    }

    /// The router of this process as the gateway knows it. It is called without the network, so that the TLS of the
    /// router's listener is no matter of the gateway's.
    fn router_within(address: SocketAddr) -> Vec<Endpoint> {
        endpoint(ListenAddress(address).reached_at())
    }

    /// The router of this process by its listener.
    fn router_by_listener(&self, address: SocketAddr) -> Vec<Endpoint> {
        let scheme = if self.agent_router.tls.is_on() { "https" } else { "http" };
        format!("{scheme}://{}", ListenAddress(address).reached_at()).parse().into_iter().collect()
    }

    fn simulates_tier(&self, name: &str) -> bool {
        self.tiers.get(name).is_some_and(|tier| tier.endpoints.is_empty())
    }

    /// The router's configuration, with the simulated upstreams at these addresses.
    pub(crate) fn router(&self, max: SocketAddr, ollama: SocketAddr) -> router::Config {
        let mut tiers = self.tiers.clone();
        let defaults = router::Config::default().tiers;
        for (name, address, model) in [
            (MAX, max, upstream_sim::DEFAULT_MAX_MODEL),
            (OLLAMA, ollama, upstream_sim::DEFAULT_OLLAMA_MODEL),
        ] {
            let Some(tier) = tiers.get_mut(name) else { continue };
            let simulated = tier.endpoints.is_empty();
            if simulated {
                tier.endpoints = endpoint(address);
            }
            let real = defaults.get(name).and_then(|tier| tier.model.clone());
            let default = if simulated { Some(model.to_owned()) } else { real };
            tier.model = tier.model.take().or(default);
        }
        router::Config {
            agent_router: self.agent_router.clone(),
            circuit_breaker: self.circuit_breaker.clone(),
            fallback_chain: self.fallback_chain.clone(),
            cache: self.cache.clone(),
            tiers,
            agents: self.agents.clone(),
            security: self.security(),
            shutdown: self.shutdown.clone(),
            telemetry: self.telemetry.clone(),
        }
    }

    /// The gateway's configuration, with the router at this address.
    pub(crate) fn gateway(&self, router: SocketAddr) -> gateway::config::Config {
        let mut section = self.gateway.clone();
        if section.routers.is_empty() {
            section.routers = Self::router_within(router);
        }
        gateway::config::Config {
            gateway: section,
            security: self.security(),
            shutdown: self.shutdown.clone(),
            telemetry: self.telemetry.clone(),
        }
    }

    /// The api-server's configuration, with the router at this address.
    pub(crate) fn api_server(&self, router: SocketAddr) -> api_server::config::Config {
        let mut section = self.api_server.clone();
        if section.routers.is_empty() {
            section.routers = self.router_by_listener(router);
        }
        api_server::config::Config {
            api_server: section,
            security: self.security(),
            shutdown: self.shutdown.clone(),
            telemetry: self.telemetry.clone(),
        }
    }
}

fn endpoint(address: SocketAddr) -> Vec<Endpoint> {
    format!("http://{address}").parse().into_iter().collect()
}

impl ServiceConfig for Config {
    const ENVIRONMENT: &'static [&'static [EnvVar]] = &[
        router::ENVIRONMENT,
        gateway::config::ENVIRONMENT,
        ShutdownConfig::ENVIRONMENT,
        TelemetryConfig::ENVIRONMENT,
    ];

    fn check(&self, problems: &mut Problems) {
        let sim = &self.upstream_sim;
        for (key, address) in [
            ("max_listen", sim.max_listen),
            ("ollama_listen", sim.ollama_listen),
            ("control_listen", sim.control_listen),
        ] {
            self.security.check_unguarded(&format!("upstream_sim.{key}"), address, problems);
        }
        let pace = sim.tokens_per_second;
        let rule = "must be 0 (as fast as possible) or a number of at least 0.001";
        problems.require(pace == 0.0 || pace >= 0.001, "upstream_sim.tokens_per_second", pace, rule);
        // Each service checks its own sections; what is shared is checked by all, and reported once.
        let router = self.agent_router.grpc_listen.0;
        let mut found = Problems::default();
        self.router(sim.max_listen.0, sim.ollama_listen.0).check(&mut found);
        self.gateway(router).check(&mut found);
        self.api_server(router).check(&mut found);
        problems.merge(found);
    }

    fn warnings(&self) -> Vec<Problem> {
        let (sim, router) = (&self.upstream_sim, self.agent_router.grpc_listen.0);
        let mut warnings = self.router(sim.max_listen.0, sim.ollama_listen.0).warnings();
        for warning in self.gateway(router).warnings().into_iter().chain(self.api_server(router).warnings()) {
            if !warnings.contains(&warning) {
                warnings.push(warning);
            }
        }
        warnings
    }

    fn files(&self) -> Vec<PathBuf> {
        self.tiers
            .values()
            .flat_map(router::TierConfig::files)
            .chain(self.security.files())
            .chain(self.agent_router.tls.files())
            .chain(self.gateway.tls.files())
            .chain(self.gateway.router_tls.files())
            .chain(self.api_server.tls.files())
            .chain(self.api_server.router_tls.files())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use service_kit::config::{Environment, load};

    #[test]
    fn what_is_not_named_is_simulated() {
        let addresses = ("127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap());
        let config = load::<Config>(None, &Environment::default()).unwrap().config;
        assert!(config.simulates() && config.simulated_beside_real().is_empty());
        let one_real = [("MAX_SERVE_ENDPOINT", "http://gpu:8000")];
        let mixed = load::<Config>(None, &one_real.into_iter().collect()).unwrap().config;
        assert_eq!(mixed.simulated_beside_real(), ["ollama"]);
        let router = config.router(addresses.0, addresses.1);
        assert_eq!(router.tiers["max"].endpoints[0].to_string(), "http://127.0.0.1:1");
        assert_eq!(router.tiers["ollama"].model.as_deref(), Some("sim-ollama"));

        let variables =
            [("MAX_SERVE_ENDPOINT", "http://gpu:8000"), ("OLLAMA_CPU_ENDPOINT", "http://cpu:11434")];
        let config = load::<Config>(None, &variables.into_iter().collect()).unwrap().config;
        assert!(!config.simulates());
        let router = config.router(addresses.0, addresses.1);
        assert_eq!(router.tiers["max"].endpoints[0].to_string(), "http://gpu:8000");
        assert_eq!(router.tiers["max"].model, router::Config::default().tiers["max"].model);
    }

    #[test]
    fn the_routers_tls_is_for_those_who_come_by_its_listener() {
        let mut config = Config::default();
        config.agent_router.tls.cert_file = Some("router.crt".into());
        let address = "0.0.0.0:50052".parse().unwrap();
        let routers = |routers: Vec<Endpoint>| routers.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(routers(config.gateway(address).gateway.routers), ["http://127.0.0.1:50052"]);
        assert_eq!(routers(config.api_server(address).api_server.routers), ["https://127.0.0.1:50052"]);
    }

    #[test]
    fn tls_that_would_not_be_used_or_is_missing_is_refused() {
        let refused = |variables: &[(&'static str, &'static str)]| {
            let error = load::<Config>(None, &variables.iter().copied().collect()).unwrap_err().to_string();
            error.lines().map(|line| line.split(" = ").next().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let within = refused(&[("AIP__GATEWAY__ROUTER_TLS__CA_FILE", "ca.crt")]);
        assert_eq!(within, ["gateway.router_tls.ca_file"]);
        let tls = [
            ("AIP__AGENT_ROUTER__TLS__CERT_FILE", "/nowhere/router.crt"),
            ("AIP__AGENT_ROUTER__TLS__KEY_FILE", "/nowhere/router.key"),
        ];
        assert!(refused(&tls).contains(&"api_server.router_tls.ca_file".to_owned()), "{:?}", refused(&tls));
    }

    #[test]
    fn a_problem_in_a_shared_section_is_reported_once() {
        let variables = [("PRESTOP_DELAY_SECONDS", "40")];
        let error = load::<Config>(None, &variables.into_iter().collect()).unwrap_err().to_string();
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(error.starts_with("shutdown.termination_grace_period = 30s"), "{error}");
    }
}
