//! The ways to the same simulated upstream, all started and all idle but the one that is measured.

use e2e::process::Process;
use e2e::redis::Redis;
use e2e::sim::Sim;
use e2e::suite::{start_all_in_one, start_gateway, start_router, start_simulator};

use crate::caller::Protocol;
use crate::echo;
use crate::error::LoadError;
use crate::nginx::{Nginx, version};
use crate::plan::Plan;
use crate::usage::family;

/// One way to an answer.
#[derive(Debug, Clone)]
pub(crate) struct Way {
    /// Its name in the report.
    pub(crate) name: &'static str,
    pub(crate) protocol: Protocol,
    /// The tier that answers, where the protocol tells.
    pub(crate) tier: &'static str,
    /// The processes between client and upstream.
    pub(crate) pids: Vec<u32>,
    /// Whether the upstream is behind it.
    pub(crate) to_upstream: bool,
}

/// Everything that was started. Dropped, it ends.
pub(crate) struct Ways {
    pub(crate) all: Vec<Way>,
    pub(crate) upstream: u32,
    pub(crate) sim: Sim,
    /// A router with a Redis of its own.
    pub(crate) cached: Option<Way>,
    _processes: Vec<Process>,
    _nginx: Option<Nginx>,
    _redis: Option<Redis>,
}

/// The name of the way that the others are compared with.
pub(crate) const DIRECT: &str = "direct";

impl Ways {
    /// Starts what the plan wants. The services log as they do by default, which is nothing for an answer that no
    /// fallback gave.
    pub(crate) async fn start(plan: &Plan) -> Result<Self, LoadError> {
        let simulator = start_simulator().await;
        let max = simulator.address("max");
        let direct = Way {
            name: DIRECT,
            protocol: Protocol::Http(max),
            tier: "max",
            pids: Vec::new(),
            to_upstream: true,
        };
        let (mut all, mut processes, mut nginx) = (vec![direct], Vec::new(), None);
        if plan.with_nginx
            && plan.wants("nginx")
            && let Some((program, _)) = version()
        {
            let started = Nginx::start(program, max).await?;
            let (protocol, pids) = (Protocol::Http(started.address), family(started.pid()));
            all.push(Way { name: "nginx", protocol, tier: "max", pids, to_upstream: true });
            nginx = Some(started);
        }
        if plan.wants("echo") {
            let echo = Process::start("load", &["echo"], &[]).await;
            all.push(Way { to_upstream: false, ..grpc("echo", &echo, "grpc", echo::TIER) });
            processes.push(echo);
        }
        if plan.wants("processes") {
            let router = start_router(&simulator, None, &[]).await;
            let gateway = start_gateway(&router.url("grpc"), &[]).await;
            let way = grpc("processes", &gateway, "grpc", "max");
            all.push(Way { pids: vec![gateway.pid(), router.pid()], ..way });
            processes.extend([router, gateway]);
        }
        if plan.wants("all-in-one") {
            let suite = start_all_in_one(&[
                ("MAX_SERVE_ENDPOINT", simulator.url("max")),
                ("OLLAMA_CPU_ENDPOINT", simulator.url("ollama")),
                ("AIP__TIERS__MAX__MODEL", "sim-max".to_owned()),
                ("AIP__TIERS__OLLAMA__MODEL", "sim-ollama".to_owned()),
            ])
            .await;
            all.push(grpc("all-in-one", &suite, "gateway_grpc", "max"));
            processes.push(suite);
        }
        let (mut redis, mut cached) = (None, None);
        if plan.with_redis && plan.wants("cache") {
            let started = Redis::start().await;
            let router = start_router(&simulator, Some(&started), &[]).await;
            cached = Some(grpc("cache", &router, "grpc", "cache"));
            processes.push(router);
            redis = Some(started);
        }
        let (upstream, sim) = (simulator.pid(), Sim::new(simulator.url("control")));
        processes.push(simulator);
        Ok(Self { all, upstream, sim, cached, _processes: processes, _nginx: nginx, _redis: redis })
    }
}

fn grpc(name: &'static str, process: &Process, purpose: &str, tier: &'static str) -> Way {
    let protocol = Protocol::Grpc(process.url(purpose));
    Way { name, protocol, tier, pids: vec![process.pid()], to_upstream: true }
}
