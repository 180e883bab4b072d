//! The suite: gateway, agent-router, api-server, simulated upstreams and, where wanted, a Redis.

use std::path::Path;
use std::time::Duration;

use crate::chat::{Client, UntimedClient, client, untimed_client};
use crate::process::Process;
use crate::redis::Redis;
use crate::sim::Sim;

/// The suite as separate processes.
#[derive(Debug)]
pub struct Suite {
    /// The public edge.
    pub gateway: Process,
    /// The router.
    pub router: Process,
    /// The control plane.
    pub api_server: Process,
    /// The simulated upstreams' process.
    pub simulator: Process,
    /// The simulated upstreams' control API.
    pub sim: Sim,
    /// The answer cache, unless it is in the router's memory.
    pub redis: Option<Redis>,
}

/// How to start a suite.
#[derive(Debug, Default, Clone)]
pub struct Options {
    redis: bool,
    variables: Vec<(&'static str, String)>,
}

/// Variables that keep tests short and exact: breakers recover in 300 ms and count runs of failures alone, shutdowns wait for
/// nobody.
pub fn quick() -> Vec<(&'static str, String)> {
    [
        ("CIRCUIT_BREAKER_RECOVERY_TIMEOUT_SECONDS", "0.3"),
        ("AIP__CIRCUIT_BREAKER__RECOVERY_JITTER", "0"),
        ("AIP__CIRCUIT_BREAKER__FAILURE_RATE_PERCENT", "0"),
        ("PRESTOP_DELAY_SECONDS", "0"),
        ("AIP__SHUTDOWN__LAME_DUCK", "0.2"),
        ("AIP__TELEMETRY__LOG_FORMAT", "json"),
    ]
    .map(|(name, value)| (name, value.to_owned()))
    .to_vec()
}

impl Options {
    /// No Redis, and nothing but [`quick`].
    pub fn new() -> Self {
        Self::default()
    }

    /// With a real Redis.
    #[must_use]
    pub fn redis(mut self) -> Self {
        self.redis = true;
        self
    }

    /// With a variable for all services.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.variables.push((name, value.into()));
        self
    }

    /// With variables for all services.
    #[must_use]
    pub fn with_all(mut self, variables: Vec<(&'static str, String)>) -> Self {
        self.variables.extend(variables);
        self
    }

    /// Starts the suite.
    pub async fn start(self) -> Suite {
        let redis = if self.redis { Some(Redis::start().await) } else { None };
        let simulator = start_simulator().await;
        let router = start_router(&simulator, redis.as_ref(), &self.variables).await;
        let routers = router.url("grpc");
        let gateway = start_gateway(&routers, &self.variables).await;
        let api_server = start_api_server(&routers, &self.variables).await;
        let sim = Sim::new(simulator.url("control"));
        Suite { gateway, router, api_server, simulator, sim, redis }
    }
}

impl Suite {
    /// A suite without Redis.
    pub async fn start() -> Self {
        Options::new().start().await
    }

    /// A client of the gateway.
    pub fn client(&self) -> Client {
        client(&self.gateway.url("grpc"))
    }

    /// A client of the gateway that leaves deadlines to it.
    pub fn untimed_client(&self) -> UntimedClient {
        untimed_client(&self.gateway.url("grpc"))
    }
}

/// Starts the simulated upstreams, as fast as they can.
pub async fn start_simulator() -> Process {
    start_simulator_that_loads_for(Duration::ZERO).await
}

/// The same, but Ollama takes this long to load a model.
pub async fn start_simulator_that_loads_for(load: Duration) -> Process {
    let any = "127.0.0.1:0";
    let listen = ["--max-listen", any, "--ollama-listen", any, "--control-listen", any];
    let load = load.as_millis().to_string();
    let pace = ["--tokens-per-second", "0", "--ollama-load-ms", &load];
    Process::start("upstream-sim", &[&listen[..], &pace].concat(), &[]).await
}

/// Starts an agent-router over simulated upstreams.
pub async fn start_router(
    simulator: &Process,
    redis: Option<&Redis>,
    variables: &[(&'static str, String)],
) -> Process {
    start("agent-router", &[], router_variables(simulator, redis), variables).await
}

/// Starts an agent-router over simulated upstreams, with a configuration file.
pub async fn start_router_with(
    simulator: &Process,
    file: &Path,
    variables: &[(&'static str, String)],
) -> Process {
    let arguments = ["--config", file.to_str().expect("a path in Unicode")];
    start("agent-router", &arguments, router_variables(simulator, None), variables).await
}

fn router_variables(simulator: &Process, redis: Option<&Redis>) -> Vec<(&'static str, String)> {
    let mut all = vec![
        ("AIP__AGENT_ROUTER__GRPC_LISTEN", "127.0.0.1:0".to_owned()),
        ("AIP__AGENT_ROUTER__ADMIN_LISTEN", "127.0.0.1:0".to_owned()),
        ("MAX_SERVE_ENDPOINT", simulator.url("max")),
        ("OLLAMA_CPU_ENDPOINT", simulator.url("ollama")),
        ("AIP__TIERS__MAX__MODEL", "sim-max".to_owned()),
        ("AIP__TIERS__OLLAMA__MODEL", "sim-ollama".to_owned()),
    ];
    all.extend(redis.map(|redis| ("REDIS_URL", redis.url())));
    all
}

/// Starts a gateway in front of these routers (URLs with commas between them).
pub async fn start_gateway(routers: &str, variables: &[(&'static str, String)]) -> Process {
    start("gateway", &[], gateway_variables(routers), variables).await
}

/// What a gateway in front of these routers is told.
pub fn gateway_variables(routers: &str) -> Vec<(&'static str, String)> {
    vec![
        ("AIP__GATEWAY__GRPC_LISTEN", "127.0.0.1:0".to_owned()),
        ("AIP__GATEWAY__HTTP_LISTEN", "127.0.0.1:0".to_owned()),
        ("AIP__GATEWAY__ADMIN_LISTEN", "127.0.0.1:0".to_owned()),
        ("AIP__GATEWAY__ROUTERS", routers.to_owned()),
    ]
}

/// Starts an api-server for these routers (URLs with commas between them).
pub async fn start_api_server(routers: &str, variables: &[(&'static str, String)]) -> Process {
    let own = vec![
        ("AIP__API_SERVER__GRPC_LISTEN", "127.0.0.1:0".to_owned()),
        ("AIP__API_SERVER__HTTP_LISTEN", "127.0.0.1:0".to_owned()),
        ("AIP__API_SERVER__ADMIN_LISTEN", "127.0.0.1:0".to_owned()),
        ("AIP__API_SERVER__ROUTERS", routers.to_owned()),
    ];
    start("api-server", &[], own, variables).await
}

/// Starts the whole suite in one process, on free ports.
pub async fn start_all_in_one(variables: &[(&'static str, String)]) -> Process {
    start("ai-platform", &[], all_in_one_variables(), variables).await
}

/// Starts the whole suite in one process, on free ports, with a configuration file.
pub async fn start_all_in_one_with_file(file: &Path, variables: &[(&'static str, String)]) -> Process {
    let arguments = ["--config", file.to_str().expect("a path in Unicode")];
    start("ai-platform", &arguments, all_in_one_variables(), variables).await
}

fn all_in_one_variables() -> Vec<(&'static str, String)> {
    let any = || "127.0.0.1:0".to_owned();
    vec![
        ("AIP__GATEWAY__GRPC_LISTEN", any()),
        ("AIP__GATEWAY__HTTP_LISTEN", any()),
        ("AIP__GATEWAY__ADMIN_LISTEN", any()),
        ("AIP__AGENT_ROUTER__GRPC_LISTEN", any()),
        ("AIP__AGENT_ROUTER__ADMIN_LISTEN", any()),
        ("AIP__API_SERVER__GRPC_LISTEN", any()),
        ("AIP__API_SERVER__HTTP_LISTEN", any()),
        ("AIP__API_SERVER__ADMIN_LISTEN", any()),
        ("AIP__UPSTREAM_SIM__MAX_LISTEN", any()),
        ("AIP__UPSTREAM_SIM__OLLAMA_LISTEN", any()),
        ("AIP__UPSTREAM_SIM__CONTROL_LISTEN", any()),
        ("AIP__UPSTREAM_SIM__TOKENS_PER_SECOND", "0".to_owned()),
    ]
}

async fn start(
    name: &str,
    arguments: &[&str],
    own: Vec<(&'static str, String)>,
    variables: &[(&'static str, String)],
) -> Process {
    let mut all = quick();
    all.extend(own);
    // A test's own wishes come last, and win.
    all.extend(variables.iter().cloned());
    Process::start(name, arguments, &all).await
}
