//! The gateway's sections of the configuration.

mod balancing;
mod http;
mod limits;

use std::collections::HashSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use service_kit::auth::Audience;
use service_kit::cli::OWN_FILES;
use service_kit::config::{
    Endpoint, EnvVar, ListenAddress, Parse, Problem, Problems, ServiceConfig, comma_separated,
};
use service_kit::security::{SecurityConfig, Warnings};
use service_kit::shutdown::ShutdownConfig;
use service_kit::telemetry::TelemetryConfig;
use service_kit::tls::{ClientTlsConfig, LiveTls, TlsConfig};

pub use self::http::{CorsConfig, Origin};
pub use balancing::BalancingConfig;
pub use limits::LimitsConfig;

/// The whole configuration.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Addresses, routers, limits.
    pub gateway: GatewayConfig,
    /// Who may reach the listeners.
    pub security: SecurityConfig,
    /// How the process ends.
    pub shutdown: ShutdownConfig,
    /// Logs and traces.
    pub telemetry: TelemetryConfig,
}

/// The `gateway` section.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GatewayConfig {
    /// Where gRPC is served.
    pub grpc_listen: ListenAddress,
    /// Where the OpenAI-compatible API and gRPC-Web are served.
    pub http_listen: ListenAddress,
    /// Which pages browsers let call the HTTP port.
    pub cors: CorsConfig,
    /// Where `/livez`, `/readyz` and `/metrics` are served.
    pub admin_listen: ListenAddress,
    /// TLS of the gRPC and HTTP listeners.
    pub tls: TlsConfig,
    /// TLS towards routers behind https.
    pub router_tls: ClientTlsConfig,
    /// The agent-routers. A host that is a name stands for all its addresses.
    #[serde(deserialize_with = "comma_separated")]
    pub routers: Vec<Endpoint>,
    /// How they are found and looked after.
    pub balancing: BalancingConfig,
    /// What the gateway answers when no router can be reached.
    pub degraded_message: String,
    /// The largest request that is accepted, in bytes.
    pub max_request_bytes: usize,
    /// What protects the gateway from its callers, and them from one another.
    pub limits: LimitsConfig,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            grpc_listen: ListenAddress::loopback(50051),
            http_listen: ListenAddress::loopback(8080),
            cors: CorsConfig::default(),
            admin_listen: ListenAddress::loopback(9464),
            tls: TlsConfig::default(),
            router_tls: ClientTlsConfig::default(),
            routers: "http://127.0.0.1:50052".parse().into_iter().collect(),
            balancing: BalancingConfig::default(),
            degraded_message: "Service temporarily unavailable".into(),
            max_request_bytes: 1024 * 1024,
            limits: LimitsConfig::default(),
        }
    }
}

impl GatewayConfig {
    /// How many files the gateway may have open: its callers' connections, and some for itself.
    pub fn open_files(&self) -> u64 {
        u64::from(self.limits.max_connections) + OWN_FILES
    }
}

/// The environment variables of the gateway's own section.
pub const ENVIRONMENT: &[EnvVar] =
    &[EnvVar::new("DEGRADED_MESSAGE", "gateway.degraded_message", Parse::Text)];

impl ServiceConfig for Config {
    const ENVIRONMENT: &'static [&'static [EnvVar]] =
        &[ENVIRONMENT, ShutdownConfig::ENVIRONMENT, TelemetryConfig::ENVIRONMENT];

    fn check(&self, problems: &mut Problems) {
        let section = &self.gateway;
        let callers = Audience::Callers;
        self.security.check(callers, problems);
        self.security.check_listener("gateway.grpc_listen", section.grpc_listen, callers, problems);
        self.security.check_listener("gateway.http_listen", section.http_listen, callers, problems);
        self.security.check_listener("gateway.admin_listen", section.admin_listen, callers, problems);
        problems.require(
            !section.routers.is_empty(),
            "gateway.routers",
            "[]",
            "must name at least one agent-router",
        );
        let mut known = HashSet::new();
        for router in &section.routers {
            let rule = "must name each agent-router once";
            problems.require(known.insert(router.authority()), "gateway.routers", router, rule);
        }
        section.balancing.check(problems);
        self.security.check_tenants(&section.router_tls, &section.routers, problems);
        let message = &section.degraded_message;
        problems.require(!message.is_empty(), "gateway.degraded_message", "\"\"", "must not be empty");
        let largest = section.max_request_bytes;
        problems.require(largest >= 1024, "gateway.max_request_bytes", largest, "must be at least 1024");
        LiveTls::check("gateway", &section.tls, &section.router_tls, &section.routers, problems);
        section.limits.check(problems);
        self.shutdown.check(problems);
        self.telemetry.check(problems);
    }

    fn warnings(&self) -> Vec<Problem> {
        let section = &self.gateway;
        let mut warnings = Warnings::default();
        warnings.listener(&self.security, "gateway.grpc_listen", section.grpc_listen, &section.tls);
        warnings.listener(&self.security, "gateway.http_listen", section.http_listen, &section.tls);
        warnings.routers(&self.security, "gateway.routers", &section.routers);
        warnings.files(self.security.secret_files().into_iter().chain([
            ("gateway.tls.key_file", &section.tls.key_file),
            ("gateway.router_tls.key_file", &section.router_tls.key_file),
        ]));
        warnings.found()
    }

    fn files(&self) -> Vec<PathBuf> {
        let section = &self.gateway;
        self.security
            .files()
            .into_iter()
            .chain(section.tls.files())
            .chain(section.router_tls.files())
            .collect()
    }
}
