//! The services in one process: what is bound, what runs, what ends it.

use std::net::SocketAddr;
use std::sync::Arc;

use agent_router::AgentRouter;
use api_server::ApiServer;
use gateway::Gateway;
use service_kit::cli::{HealthAddress, Service};
use service_kit::config::reload::Reload;
use service_kit::metrics::{Registry, registry};
use service_kit::security::SecurityConfig;
use service_kit::serving::ServeError;
use service_kit::shutdown::{Shutdown, ShutdownConfig};
use service_kit::telemetry::{Telemetry, TelemetryConfig};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;
use upstream_sim::Simulator;

use crate::config::Config;
use crate::reload::SuiteReload;
use crate::welcome;

/// The bound suite.
#[derive(Debug)]
pub struct AllInOne {
    simulator: Option<Simulator>,
    router: AgentRouter,
    gateway: Gateway,
    api_server: ApiServer,
    upstreams: (SocketAddr, SocketAddr),
}

impl Service for AllInOne {
    const NAME: &'static str = "ai-platform";
    const ABOUT: &'static str =
        "The whole suite in one process, with simulated models unless real ones are named";
    type Config = Config;

    fn telemetry(config: &Config) -> &TelemetryConfig {
        &config.telemetry
    }

    fn shutdown(config: &Config) -> ShutdownConfig {
        config.shutdown.clone()
    }

    fn security(config: &Config) -> &SecurityConfig {
        &config.security
    }

    fn open_files(config: &Config) -> u64 {
        config.open_files()
    }

    fn health(config: &Config) -> HealthAddress {
        let section = &config.gateway;
        HealthAddress::of(section.grpc_listen, &section.tls, section.admin_listen)
    }

    async fn bind(config: Config, telemetry: &Telemetry) -> Result<Self, ServeError> {
        let registry = || -> Registry {
            let mut registry = registry(Self::NAME, env!("CARGO_PKG_VERSION"));
            telemetry.register(&mut registry);
            registry
        };
        let simulator = if config.simulates() {
            let bound = Simulator::bind(config.upstream_sim.config()).await;
            Some(bound.map_err(|error| ServeError::set_up("the simulated upstreams", error))?)
        } else {
            None
        };
        let (max, ollama) = simulator.as_ref().map_or_else(
            || (config.upstream_sim.max_listen.0, config.upstream_sim.ollama_listen.0),
            |simulator| (simulator.max_addr(), simulator.ollama_addr()),
        );
        for tier in config.simulated_beside_real() {
            warn!(tier, "this tier is simulated while others are real: what it answers is made up");
        }
        let router = AgentRouter::bind_with(&config.router(max, ollama), registry()).await?;
        let address = router.grpc_address();
        let mut gateway = Gateway::bind_with(config.gateway(address), registry()).await?;
        if config.gateway.routers.is_empty() {
            gateway = gateway.with_connector(Arc::new(router.in_process()));
        }
        Ok(Self {
            gateway,
            api_server: ApiServer::bind_with(&config.api_server(address), registry()).await?,
            simulator,
            router,
            upstreams: (max, ollama),
        })
    }

    fn addresses(&self) -> Vec<(&'static str, SocketAddr)> {
        let mut addresses = Vec::new();
        let mut add = |names: &[&'static str], service: Vec<(&'static str, SocketAddr)>| {
            addresses.extend(names.iter().copied().zip(service.into_iter().map(|(_, address)| address)));
        };
        add(&["gateway_grpc", "gateway_http", "gateway_admin"], self.gateway.addresses());
        add(&["agent_router_grpc", "agent_router_admin"], self.router.addresses());
        add(&["api_server_grpc", "api_server_http", "api_server_admin"], self.api_server.addresses());
        if let Some(simulator) = &self.simulator {
            addresses.extend([
                ("sim_max", simulator.max_addr()),
                ("sim_ollama", simulator.ollama_addr()),
                ("sim_control", simulator.control_addr()),
            ]);
        }
        addresses
    }

    fn welcome(&self) -> Option<String> {
        Some(welcome::text(&self.addresses()))
    }

    fn reload(&self) -> Arc<dyn Reload<Config>> {
        Arc::new(SuiteReload {
            router: self.router.reload(),
            gateway: self.gateway.reload(),
            api_server: self.api_server.reload(),
            address: self.router.grpc_address(),
            upstreams: self.upstreams,
            simulates: self.simulator.is_some(),
        })
    }

    async fn run(self, shutdown: Shutdown) -> Result<(), ServeError> {
        let Self { simulator, router, gateway, api_server, upstreams: _ } = self;
        // The upstreams outlive the services, so that what is in flight can end.
        let stop = CancellationToken::new();
        let _stop_when_dropped = stop.clone().drop_guard();
        let simulators = TaskTracker::new();
        if let Some(simulator) = simulator {
            simulators.spawn(simulator.run(stop.clone()));
        }
        simulators.close();
        let ended = tokio::try_join!(
            Box::pin(router.run(shutdown.clone())),
            Box::pin(gateway.run(shutdown.clone())),
            Box::pin(api_server.run(shutdown)),
        );
        stop.cancel();
        simulators.wait().await;
        ended.map(|_| ())
    }
}
