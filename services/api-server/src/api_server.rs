//! The service as a whole: what is bound, what runs, what ends it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use aiplatform_proto::resilience::v1::circuit_breaker_service_server::CircuitBreakerServiceServer;
use aiplatform_proto::resilience::v1::fallback_chain_service_server::FallbackChainServiceServer;
use aiplatform_proto::{FILE_DESCRIPTOR_SET, methods};
use service_kit::auth::{Audience, GrpcDoor, Guard, SecurityReload};
use service_kit::cli::{HealthAddress, Service};
use service_kit::config::reload::Reload;
use service_kit::grpc::ServerOptions;
use service_kit::health::{DEPENDENCIES, Health};
use service_kit::layer::{CallLayer, Limits};
use service_kit::metrics::{Registry, registry};
use service_kit::security::SecurityConfig;
use service_kit::serving::{Background, Listener, ServeError};
use service_kit::shutdown::{Shutdown, ShutdownConfig};
use service_kit::telemetry::{Telemetry, TelemetryConfig};
use service_kit::tls::LiveTls;
use service_kit::{admin, grpc};

use crate::config::Config;
use crate::fleet::Fleet;
use crate::rest;
use crate::rest::RestDoor;
use crate::service::ControlPlane;

/// A bound api-server.
#[derive(Debug)]
pub struct ApiServer {
    grpc: Listener,
    http: Listener,
    admin: Listener,
    registry: Registry,
    fleet: Arc<Fleet>,
    guard: Guard,
    tls: LiveTls,
}

impl Service for ApiServer {
    const NAME: &'static str = "api-server";
    const ABOUT: &'static str = "The control plane: breakers and chains of the whole fleet";
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

    fn health(config: &Config) -> HealthAddress {
        let section = &config.api_server;
        HealthAddress::of(section.grpc_listen, &section.tls, section.admin_listen)
    }

    async fn bind(config: Config, telemetry: &Telemetry) -> Result<Self, ServeError> {
        let mut registry = registry(Self::NAME, env!("CARGO_PKG_VERSION"));
        telemetry.register(&mut registry);
        Self::bind_with(&config, registry).await
    }

    fn addresses(&self) -> Vec<(&'static str, SocketAddr)> {
        vec![("grpc", self.grpc.address), ("http", self.http.address), ("admin", self.admin.address)]
    }

    fn reload(&self) -> Arc<dyn Reload<Config>> {
        Arc::new(SecurityReload::new(&self.guard, &self.tls, |config: &Config| &config.security))
    }

    async fn run(self, shutdown: Shutdown) -> Result<(), ServeError> {
        let Self { grpc, http, admin, mut registry, fleet, guard, tls } = self;
        let services = [
            "aiplatform.resilience.v1.CircuitBreakerService",
            "aiplatform.resilience.v1.FallbackChainService",
        ];
        let health = Health::new(&services, DEPENDENCIES).await;
        let layer =
            CallLayer::new(methods(health.services()), Limits::default(), shutdown.clone(), &mut registry);
        let background = Background::new();
        health.watch_runtime(&background)?;
        background.spawn(|stop| guard.follow(stop));
        background.spawn(|stop| tls.warn_of_expiry(SystemTime::now, stop));

        let control_plane = ControlPlane::new(Arc::clone(&fleet));
        let routes = grpc::routes(&health, FILE_DESCRIPTOR_SET)?
            .add_service(CircuitBreakerServiceServer::new(control_plane.clone()))
            .add_service(FallbackChainServiceServer::new(control_plane));

        health.ready().await;
        let admin = admin::serve(admin, health.clone(), Arc::new(registry), background.stopped());
        let servers = async {
            let layers = (layer, guard.layer(GrpcDoor));
            let grpc = grpc::serve(grpc, routes, layers, health, shutdown.clone(), ServerOptions::INTERNAL);
            let rest = rest::serve(http, fleet, guard.layer(RestDoor), shutdown.clone());
            tokio::try_join!(grpc, rest).map(|((), ())| ())
        };
        Box::pin(background.end_with(servers, admin)).await
    }
}

impl ApiServer {
    /// Binds the listeners, with metrics in `registry`.
    ///
    /// # Errors
    /// An address cannot be bound, or a replica's address cannot be used.
    pub async fn bind_with(config: &Config, mut registry: Registry) -> Result<Self, ServeError> {
        let section = &config.api_server;
        let guard = Guard::new(&config.security, Audience::Callers, &mut registry)?;
        let tls = LiveTls::new("api_server", &section.tls, &section.router_tls, &section.routers)?;
        tls.register(&mut registry);
        let timeout = section.replica_timeout.0;
        let fleet = Fleet::new(&section.routers, timeout, guard.introduction(), tls.client().as_ref())?;
        Ok(Self {
            fleet: Arc::new(fleet),
            grpc: Listener::bind("gRPC", section.grpc_listen).await?.with_tls(tls.server()),
            http: Listener::bind("HTTP", section.http_listen).await?.with_tls(tls.server()),
            admin: Listener::bind("the admin endpoint", section.admin_listen).await?,
            guard,
            tls,
            registry,
        })
    }
}
