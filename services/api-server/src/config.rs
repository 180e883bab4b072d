//! The api-server's sections of the configuration.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use service_kit::auth::Audience;
use service_kit::config::{
    Endpoint, EnvVar, ListenAddress, Problem, Problems, Seconds, ServiceConfig, comma_separated,
};
use service_kit::security::{SecurityConfig, Warnings};
use service_kit::shutdown::ShutdownConfig;
use service_kit::telemetry::TelemetryConfig;
use service_kit::tls::{ClientTlsConfig, LiveTls, TlsConfig};

/// The whole configuration.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Addresses and replicas.
    pub api_server: ApiServerConfig,
    /// Who may reach the listeners.
    pub security: SecurityConfig,
    /// How the process ends.
    pub shutdown: ShutdownConfig,
    /// Logs and traces.
    pub telemetry: TelemetryConfig,
}

/// The `api_server` section.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ApiServerConfig {
    /// Where gRPC is served.
    pub grpc_listen: ListenAddress,
    /// Where REST is served.
    pub http_listen: ListenAddress,
    /// Where `/livez`, `/readyz` and `/metrics` are served.
    pub admin_listen: ListenAddress,
    /// TLS of the gRPC and HTTP listeners.
    pub tls: TlsConfig,
    /// TLS towards routers behind https.
    pub router_tls: ClientTlsConfig,
    /// The replicas of the agent-router.
    #[serde(deserialize_with = "comma_separated")]
    pub routers: Vec<Endpoint>,
    /// How long a replica may take to answer.
    pub replica_timeout: Seconds,
}

impl Default for ApiServerConfig {
    fn default() -> Self {
        Self {
            grpc_listen: ListenAddress::loopback(50053),
            http_listen: ListenAddress::loopback(8081),
            admin_listen: ListenAddress::loopback(9466),
            tls: TlsConfig::default(),
            router_tls: ClientTlsConfig::default(),
            routers: "http://127.0.0.1:50052".parse().into_iter().collect(),
            replica_timeout: Seconds::new(2),
        }
    }
}

impl ServiceConfig for Config {
    const ENVIRONMENT: &'static [&'static [EnvVar]] =
        &[ShutdownConfig::ENVIRONMENT, TelemetryConfig::ENVIRONMENT];

    fn check(&self, problems: &mut Problems) {
        let section = &self.api_server;
        let callers = Audience::Callers;
        self.security.check(callers, problems);
        self.security.check_listener("api_server.grpc_listen", section.grpc_listen, callers, problems);
        self.security.check_listener("api_server.http_listen", section.http_listen, callers, problems);
        self.security.check_listener("api_server.admin_listen", section.admin_listen, callers, problems);
        let named = !section.routers.is_empty();
        problems.require(named, "api_server.routers", "[]", "must name at least one agent-router");
        let timeout = section.replica_timeout;
        problems.require(
            !timeout.0.is_zero(),
            "api_server.replica_timeout",
            timeout,
            "must be longer than 0",
        );
        LiveTls::check("api_server", &section.tls, &section.router_tls, &section.routers, problems);
        self.shutdown.check(problems);
        self.telemetry.check(problems);
    }

    fn warnings(&self) -> Vec<Problem> {
        let section = &self.api_server;
        let mut warnings = Warnings::default();
        warnings.listener(&self.security, "api_server.grpc_listen", section.grpc_listen, &section.tls);
        warnings.listener(&self.security, "api_server.http_listen", section.http_listen, &section.tls);
        warnings.routers(&self.security, "api_server.routers", &section.routers);
        warnings.files(self.security.secret_files().into_iter().chain([
            ("api_server.tls.key_file", &section.tls.key_file),
            ("api_server.router_tls.key_file", &section.router_tls.key_file),
        ]));
        warnings.found()
    }

    fn files(&self) -> Vec<PathBuf> {
        let section = &self.api_server;
        self.security
            .files()
            .into_iter()
            .chain(section.tls.files())
            .chain(section.router_tls.files())
            .collect()
    }
}
