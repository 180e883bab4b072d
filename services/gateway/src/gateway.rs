//! The service as a whole: what is bound, what runs, what ends it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aiplatform_proto::inference::v1::inference_service_server::InferenceServiceServer;
use aiplatform_proto::resilience::v1::circuit_breaker_service_server::CircuitBreakerServiceServer;
use aiplatform_proto::{FILE_DESCRIPTOR_SET, methods};
use resilience::{Randomness, SplitMix64, SystemClock};
use service_kit::auth::{Audience, GrpcDoor, Guard, SecurityReload};
use service_kit::circuit_breakers::CircuitBreakers;
use service_kit::cli::{HealthAddress, Service};
use service_kit::config::Problems;
use service_kit::config::reload::Reload;
use service_kit::grpc::ServerOptions;
use service_kit::health::{DEPENDENCIES, Health};
use service_kit::layer::{CallLayer, Limits};
use service_kit::metrics::{Registry, registry};
use service_kit::replica::Replica;
use service_kit::security::SecurityConfig;
use service_kit::serving::{Background, Connections, Listener, ServeError};
use service_kit::shutdown::{Shutdown, ShutdownConfig};
use service_kit::telemetry::{Telemetry, TelemetryConfig};
use service_kit::tls::LiveTls;
use service_kit::{admin, grpc};

use crate::config::Config;
use crate::http;
use crate::limits::{Callers, LimitMetrics, Metered, PerCaller, SharedLimits, Shed, SlowBody};
use crate::routers::{Connect, Outside, OverNetwork, Routers};
use crate::service::Inference;

/// How old a client's connection may become, give or take a tenth.
const MAX_CONNECTION_AGE: Duration = Duration::from_secs(15 * 60);
/// Streams that one client connection may have open.
const MAX_CONCURRENT_STREAMS: u32 = 256;
const SERVICES: [&str; 2] =
    ["aiplatform.inference.v1.InferenceService", "aiplatform.resilience.v1.CircuitBreakerService"];
/// The largest answer that is taken from a router.
const MAX_ANSWER_BYTES: usize = 4 * 1024 * 1024;

/// A bound gateway.
#[derive(Debug)]
pub struct Gateway {
    config: Config,
    grpc: Listener,
    http: Listener,
    admin: Listener,
    registry: Registry,
    connector: Arc<dyn Connect>,
    guard: Guard,
    tls: LiveTls,
}

impl Service for Gateway {
    const NAME: &'static str = "gateway";
    const ABOUT: &'static str = "The public edge: answers every chat, through a router or by itself";
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
        config.gateway.open_files()
    }

    fn health(config: &Config) -> HealthAddress {
        let section = &config.gateway;
        HealthAddress::of(section.grpc_listen, &section.tls, section.admin_listen)
    }

    async fn bind(config: Config, telemetry: &Telemetry) -> Result<Self, ServeError> {
        let mut registry = registry(Self::NAME, env!("CARGO_PKG_VERSION"));
        telemetry.register(&mut registry);
        Self::bind_with(config, registry).await
    }

    fn addresses(&self) -> Vec<(&'static str, SocketAddr)> {
        vec![("grpc", self.grpc.address), ("http", self.http.address), ("admin", self.admin.address)]
    }

    fn reload(&self) -> Arc<dyn Reload<Config>> {
        Arc::new(SecurityReload::new(&self.guard, &self.tls, |config: &Config| &config.security))
    }

    async fn run(self, shutdown: Shutdown) -> Result<(), ServeError> {
        let Self { config, grpc, http, admin, mut registry, connector, guard, tls } = self;
        let section = config.gateway;
        let randomness = Arc::new(SplitMix64::from_entropy());
        let age = connection_age(&*randomness);
        let clock = Arc::new(SystemClock::new());
        let resolver = section.balancing.resolver()?;
        let outside = Outside { connector, resolver, clock: clock.clone(), randomness };
        let routers =
            Routers::new(&section.routers, &section.balancing, outside, MAX_ANSWER_BYTES, &mut registry)?;
        let routers = Arc::new(routers.introduced_by(guard.introduction()));
        let limits = Limits {
            message_bytes: section.max_request_bytes,
            send: section.limits.write_timeout.0,
            ..Limits::default()
        };
        let health = Health::new(&SERVICES, DEPENDENCIES).await;
        let named = methods(health.services()).into_iter().chain(http::NAMES.map(str::to_owned));
        let layer = CallLayer::new(named, limits, shutdown.clone(), &mut registry);

        let background = Background::new();
        health.watch_runtime(&background)?;
        background.spawn(|stop| guard.follow(stop));
        background.spawn(|stop| tls.warn_of_expiry(SystemTime::now, stop));
        routers.resolve().await;
        background.spawn(|stop| Arc::clone(&routers).watch(health.clone(), stop));

        // Its breakers guard routers, which belong to no tier.
        let replica = Replica::new(Self::NAME, None, grpc.address);
        let breakers =
            CircuitBreakers::new(Arc::clone(routers.breakers()), Arc::new(|_| Vec::new()), replica);
        let metrics = LimitMetrics::register(&mut registry);
        // What is wrong with it was told when the configuration was checked.
        let shared = section.limits.shared(&mut Problems::default()).map(|settings| {
            let (shared, keeper) = SharedLimits::new(settings, &mut registry);
            background.spawn(|stop| keeper.run(stop));
            shared
        });
        let callers = Callers::new(section.limits.per_caller, clock).sharing(shared);
        // Both ports have the same layers around the same core, which count together.
        let within = (
            Shed::new(section.limits.max_in_flight, metrics.clone()),
            SlowBody::new(section.limits.body_timeout.0),
            guard.layer(GrpcDoor),
            PerCaller::new(callers, metrics.clone()),
        );

        let inference = Metered::new(Inference::new(routers, &section.degraded_message), metrics);
        let core = inference.clone();
        let inference = InferenceServiceServer::new(inference)
            .max_decoding_message_size(section.max_request_bytes)
            .max_encoding_message_size(MAX_ANSWER_BYTES);
        let services = grpc::routes(&health, FILE_DESCRIPTOR_SET)?.add_service(inference).add_service(
            CircuitBreakerServiceServer::new(breakers.clone())
                .max_decoding_message_size(section.max_request_bytes),
        );
        let options = |http1_keep_alive| ServerOptions {
            max_concurrent_streams: MAX_CONCURRENT_STREAMS,
            max_connection_age: Some(age),
            ping: section.limits.ping(),
            http1_keep_alive,
        };
        let keep_alive = Some(section.limits.keep_alive_timeout.0);
        let connections = Connections::new(section.limits.connections(), &mut registry);
        let (grpc, http) = (grpc.watched(connections.clone()), http.watched(connections));

        health.ready().await;
        let admin = admin::serve(admin, health.clone(), Arc::new(registry), background.stopped());
        // The HTTP port has its edge around the layers, and its own routes within.
        let openai = http::HttpRoutes::new(core, breakers, limits);
        let pages = http::cors_layer(&section.cors);
        let edge = (pages, http::EdgeLayer, layer.clone(), http::Refusals, within.clone(), openai);
        let http =
            grpc::serve(http, services.clone(), edge, health.clone(), shutdown.clone(), options(keep_alive));
        let grpc = grpc::serve(grpc, services, (layer, within), health, shutdown, options(None));
        let servers = Box::pin(async { tokio::try_join!(grpc, http).map(|((), ())| ()) });
        background.end_with(servers, admin).await
    }
}

impl Gateway {
    /// Binds the listeners, with metrics in `registry`.
    ///
    /// # Errors
    /// An address cannot be bound.
    pub async fn bind_with(config: Config, mut registry: Registry) -> Result<Self, ServeError> {
        let guard = Guard::new(&config.security, Audience::Callers, &mut registry)?;
        let section = &config.gateway;
        let tls = LiveTls::new("gateway", &section.tls, &section.router_tls, &section.routers)?;
        tls.register(&mut registry);
        let grpc = Listener::bind("gRPC", section.grpc_listen).await?.with_tls(tls.server());
        let http = Listener::bind("HTTP", section.http_listen).await?.with_tls(tls.server());
        let admin = Listener::bind("the admin endpoint", section.admin_listen).await?;
        let connector = Arc::new(OverNetwork::new(tls.client()));
        Ok(Self { config, grpc, http, admin, registry, connector, guard, tls })
    }

    /// Has routers reached by `connector` instead of over the network.
    #[must_use]
    pub fn with_connector(mut self, connector: Arc<dyn Connect>) -> Self {
        self.connector = connector;
        self
    }
}

/// How old a client's connection may become in this process. Drawn once from ±10 %, so that the clients of several replicas that
/// were started together do not all come back at once.
fn connection_age(randomness: &dyn Randomness) -> Duration {
    MAX_CONNECTION_AGE.mul_f64(0.9 + 0.2 * randomness.unit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_live_a_quarter_of_an_hour_give_or_take_a_tenth() {
        let ages = (0..1000).map(|seed| connection_age(&SplitMix64::seeded(seed)).as_secs());
        let (least, most) = ages.fold((u64::MAX, 0), |(least, most), age| (least.min(age), most.max(age)));
        assert!((810..820).contains(&least) && (980..=990).contains(&most), "{least} to {most}");
    }
}
