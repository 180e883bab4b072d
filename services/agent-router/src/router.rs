//! The service as a whole: what is bound, what runs, what ends it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aiplatform_proto::inference::v1::inference_service_server::InferenceServiceServer;
use aiplatform_proto::resilience::v1::circuit_breaker_service_server::CircuitBreakerServiceServer;
use aiplatform_proto::resilience::v1::fallback_chain_service_server::FallbackChainServiceServer;
use aiplatform_proto::{FILE_DESCRIPTOR_SET, methods};
use resilience::{Bulkhead, CircuitBreakerRegistry, Randomness, SplitMix64, State, SystemClock};
use service_kit::auth::{Audience, GrpcDoor, Guard};
use service_kit::circuit_breakers::{CircuitBreakers, TiersOf};
use service_kit::cli::{HealthAddress, Service};
use service_kit::config::Problems;
use service_kit::config::reload::Reload;
use service_kit::dns::SystemResolver;
use service_kit::grpc::ServerOptions;
use service_kit::health::{DEPENDENCIES, Health};
use service_kit::in_process::InProcess;
use service_kit::layer::{CallLayer, Limits};
use service_kit::metrics::{BreakerCollector, Registry, registry};
use service_kit::replica::Replica;
use service_kit::security::SecurityConfig;
use service_kit::serving::{Background, Listener, ServeError};
use service_kit::shutdown::{Shutdown, ShutdownConfig};
use service_kit::telemetry::{Telemetry, TelemetryConfig};
use service_kit::tls::LiveTls;
use service_kit::{admin, grpc};
use tokio_util::sync::CancellationToken;
use tower::Layer as _;

use crate::agents::{Agents, CurrentAgents};
use crate::backend::kind_of;
use crate::cache::{AnswerCache, Upkeep};
use crate::config::{Config, Kind};
use crate::metrics::{CacheMetrics, ChainMetrics, PoolMetrics, TierCollector};
use crate::pool::{EndpointPool, dns, preload, probe};
use crate::reload::RouterReload;
use crate::service::{FallbackChains, Inference};
use crate::settings::Settings;

/// How often the health of dependencies follows their breakers.
const DEPENDENCY_INTERVAL: Duration = Duration::from_secs(1);

/// A bound agent-router.
#[derive(Debug)]
pub struct AgentRouter {
    grpc: Listener,
    admin: Listener,
    registry: Registry,
    agents: CurrentAgents,
    breakers: Arc<CircuitBreakerRegistry>,
    cache: Option<(Arc<AnswerCache>, Upkeep)>,
    metrics: ChainMetrics,
    max_message_bytes: usize,
    in_flight: Bulkhead,
    replica: Replica,
    reload: Arc<RouterReload>,
    in_process: InProcess,
}

impl Service for AgentRouter {
    const NAME: &'static str = "agent-router";
    const ABOUT: &'static str =
        "Walks the fallback chain until a tier answers, and owns the circuit breakers";
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
        config.agent_router.open_files()
    }

    fn health(config: &Config) -> HealthAddress {
        let section = &config.agent_router;
        HealthAddress::of(section.grpc_listen, &section.tls, section.admin_listen)
    }

    async fn bind(config: Config, telemetry: &Telemetry) -> Result<Self, ServeError> {
        let mut registry = registry(Self::NAME, env!("CARGO_PKG_VERSION"));
        telemetry.register(&mut registry);
        Self::bind_with(&config, registry).await
    }

    fn addresses(&self) -> Vec<(&'static str, SocketAddr)> {
        vec![("grpc", self.grpc.address), ("admin", self.admin.address)]
    }

    fn reload(&self) -> Arc<dyn Reload<Config>> {
        Arc::clone(&self.reload) as _
    }

    async fn run(self, shutdown: Shutdown) -> Result<(), ServeError> {
        let Self {
            grpc,
            admin,
            mut registry,
            agents,
            breakers,
            cache,
            metrics,
            max_message_bytes,
            in_flight,
            replica,
            reload,
            in_process,
        } = self;
        registry.register_collector(Box::new(BreakerCollector(Arc::clone(&breakers))));
        registry.register_collector(Box::new(TierCollector(agents.clone())));
        let limits = Limits { message_bytes: max_message_bytes, ..Limits::default() };
        let health = Health::new(
            &[
                "aiplatform.inference.v1.InferenceService",
                "aiplatform.resilience.v1.CircuitBreakerService",
                "aiplatform.resilience.v1.FallbackChainService",
            ],
            DEPENDENCIES,
        )
        .await;
        let layer = CallLayer::new(methods(health.services()), limits, shutdown.clone(), &mut registry);

        let background = Background::new();
        health.watch_runtime(&background)?;
        let pool_metrics = PoolMetrics::register(&mut registry, agents.get().pools().map(EndpointPool::tier));
        let randomness: Arc<dyn Randomness> = Arc::new(SplitMix64::from_entropy());
        background.spawn(|stop| {
            let (agents, breakers) = (agents.clone(), Arc::clone(&breakers));
            let resolver = Arc::new(SystemResolver);
            dns::follow(agents, breakers, resolver, Arc::clone(&randomness), pool_metrics.clone(), stop)
        });
        background.spawn(|stop| reload.tls.warn_of_expiry(SystemTime::now, stop));
        background.spawn(|stop| preload::watch(agents.clone(), pool_metrics.clone(), stop));
        background.spawn(|stop| probe::watch(agents.clone(), randomness, pool_metrics, stop));
        background.spawn(|stop| watch_dependencies(health.clone(), agents.clone(), stop));
        let (cache, upkeep) = cache.unzip();
        if let Some(upkeep) = upkeep {
            background.spawn(|stop| upkeep.run(stop));
        }

        let inference = Inference::new(agents.clone(), cache, metrics, in_flight, max_message_bytes);
        let inference = InferenceServiceServer::new(inference)
            .max_decoding_message_size(max_message_bytes)
            .max_encoding_message_size(max_message_bytes);
        let circuit_breakers = CircuitBreakers::new(breakers, tiers_of(agents.clone()), replica.clone());
        let routes = grpc::routes(&health, FILE_DESCRIPTOR_SET)?
            .add_service(inference)
            .add_service(CircuitBreakerServiceServer::new(circuit_breakers))
            .add_service(FallbackChainServiceServer::new(FallbackChains::new(agents, replica)));

        let layers = (layer, reload.guard.layer(GrpcDoor));
        health.ready().await;
        let admin = admin::serve(admin, health.clone(), Arc::new(registry), background.stopped());
        let server = layers.layer(routes.clone().prepare());
        let listening =
            Box::pin(grpc::serve(grpc, routes, layers, health, shutdown, ServerOptions::INTERNAL));
        background.end_with(in_process.serve(server, listening), admin).await
    }
}

/// The tiers of the agents in use that a breaker guards.
fn tiers_of(agents: CurrentAgents) -> TiersOf {
    Arc::new(move |breaker| {
        let agents = agents.get();
        let tiers = agents.tiers().iter();
        let users = tiers.filter(|tier| tier.breakers().iter().any(|guard| guard.name() == breaker));
        users.map(|tier| tier.name.to_string()).collect()
    })
}

impl AgentRouter {
    /// Where gRPC is served.
    pub fn grpc_address(&self) -> SocketAddr {
        self.grpc.address
    }

    /// The same server without the network, for callers in this process.
    pub fn in_process(&self) -> InProcess {
        self.in_process.clone()
    }

    /// Binds the listeners and builds the chains, with metrics in `registry`.
    ///
    /// # Errors
    /// An address cannot be bound, or something that the router needs cannot be set up.
    pub async fn bind_with(config: &Config, mut registry: Registry) -> Result<Self, ServeError> {
        let mut problems = Problems::default();
        let settings = Settings::of(config, &mut problems)
            .ok_or_else(|| ServeError::set_up("the configuration", format!("{:?}", problems.found())))?;
        // For all of the process' TLS. A second installation, by another service of the same process, changes nothing.
        drop(rustls::crypto::ring::default_provider().install_default());
        let breakers = Arc::new(CircuitBreakerRegistry::new(Arc::new(SystemClock::new())));
        let cache = settings.cache.as_ref().map(|cache| {
            let (cache, upkeep) = AnswerCache::open(cache, CacheMetrics::register(&mut registry));
            (Arc::new(cache), upkeep)
        });
        let store = cache.as_ref().map(|(cache, _)| cache);
        let agents = Agents::build(&settings, store, &breakers, None)
            .map_err(|error| ServeError::set_up("the chains", error))?;
        let metrics = ChainMetrics::register(&mut registry);
        metrics.expect(&agents);
        let agents = CurrentAgents::new(agents);
        let tls =
            LiveTls::of_listeners("agent_router", &config.agent_router.tls)?.beside(settings.expiries());
        tls.register(&mut registry);
        let grpc = Listener::bind("gRPC", config.agent_router.grpc_listen).await?.with_tls(tls.server());
        let reload = RouterReload {
            started: config.clone(),
            agents: agents.clone(),
            cache: store.cloned(),
            breakers: Arc::clone(&breakers),
            metrics: metrics.clone(),
            guard: Guard::new(&config.security, Audience::Gateways, &mut registry)?,
            tls,
        };
        let admin = Listener::bind("the admin endpoint", config.agent_router.admin_listen).await?;
        let replica = Replica::new("agent-router", settings.replica.as_deref(), grpc.address);
        Ok(Self {
            grpc,
            admin,
            registry,
            agents,
            breakers,
            cache,
            metrics,
            max_message_bytes: config.agent_router.max_message_bytes,
            in_flight: Bulkhead::new(settings.in_flight),
            replica,
            reload: Arc::new(reload),
            in_process: InProcess::default(),
        })
    }
}

/// The names of dependencies, each with the kind of tier that it stands for.
const DEPENDENCY_KINDS: [(&str, Kind); 3] =
    [("max", Kind::Openai), ("ollama", Kind::Ollama), ("cache", Kind::Cache)];

/// Whether the tiers of a kind let calls through; `None` when there are none.
fn is_well(agents: &Agents, kind: Kind) -> Option<bool> {
    let mut tiers = agents.tiers().iter().filter(|tier| kind_of(tier) == Some(kind)).peekable();
    tiers.peek()?;
    Some(tiers.all(|tier| {
        let breakers = tier.breakers();
        breakers.is_empty() || breakers.iter().any(|breaker| breaker.state() != State::Open)
    }))
}

/// A dependency is well while some breaker of each of its tiers lets calls through.
async fn watch_dependencies(health: Health, agents: CurrentAgents, stop: CancellationToken) {
    loop {
        for (name, kind) in DEPENDENCY_KINDS {
            if let Some(well) = is_well(&agents.get(), kind) {
                health.set_dependency(name, well).await;
            }
        }
        if stop.run_until_cancelled(tokio::time::sleep(DEPENDENCY_INTERVAL)).await.is_none() {
            return;
        }
    }
}
