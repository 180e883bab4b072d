//! The suite with TLS on all of its listeners, and certificates between its services.

use aiplatform_proto::inference::v1::inference_service_client::InferenceServiceClient;

use crate::certificates::Certificates;
use crate::chat::Client;
use crate::keys::{Key, Keys};
use crate::process::Process;
use crate::suite::{quick, start_simulator};
use crate::tls::Tls;

/// What the listeners' certificate is for.
pub const HERE: &str = "127.0.0.1";
/// The name of the certificate that the router takes for a gateway's.
pub const GATEWAY: &str = "gateway.internal";
/// What the router shows to its model server.
pub const UPSTREAM_KEY: &str = "shown-to-the-model-server";
/// The name of the certificate of a caller.
pub const BATCH: &str = "batch.example";

/// Router, gateway and api-server with TLS on all listeners and certificates between them, by one file.
#[derive(Debug)]
pub struct Secured {
    /// What signs its certificates: that of the listeners is for [`HERE`], that of gateway and api-server for [`GATEWAY`].
    pub certificates: Certificates,
    /// Its keys, and its configuration as `config.yaml`.
    pub keys: Keys,
    /// A key that may chat and look.
    pub key: Key,
    /// The public edge.
    pub gateway: Process,
    /// The router.
    pub router: Process,
    /// The control plane.
    pub api_server: Process,
    _simulator: Process,
}

fn tls(pair: &(String, String), authority: &str) -> String {
    format!("{{cert_file: {}, key_file: {}, client_ca_file: {authority}}}", pair.0, pair.1)
}

impl Secured {
    /// Starts it.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts it with variables for all services.
    ///
    /// # Panics
    /// A service does not start.
    pub async fn start_with(more: &[(&str, String)]) -> Self {
        let (certificates, keys) = (Certificates::new(), Keys::new());
        let key = keys.make("acme", &["inference", "viewer"]).await;
        keys.set(&[&key]);
        let (here, gateway) = (certificates.sign(HERE), certificates.sign(GATEWAY));
        let authority = certificates.authority();
        let listeners = tls(&here, &authority);
        let to_routers =
            format!("{{ca_file: {authority}, cert_file: {}, key_file: {}}}", gateway.0, gateway.1);
        let config = format!(
            "gateway: {{tls: {listeners}, router_tls: {to_routers}}}\n\
             agent_router: {{tls: {listeners}}}\n\
             api_server: {{tls: {listeners}, router_tls: {to_routers}}}\n\
             security:\n  api_keys_file: {}\n  key_hash_secret_file: {}\n  client_certificates:\n  \
             - {{name: {GATEWAY}, gateway: true}}\n  - {{name: {BATCH}, tenant: globex, roles: [inference]}}\n",
            keys.path("keys").display(),
            keys.path("hash-secret").display(),
        );
        keys.write("config.yaml", &config);
        let simulator = start_simulator().await;
        let start = async |name: &str, variables: &[(&str, String)]| {
            let any = || "127.0.0.1:0".to_owned();
            let mut all: Vec<(&str, String)> = quick();
            for section in ["GATEWAY", "AGENT_ROUTER", "API_SERVER"] {
                for listener in ["GRPC", "HTTP", "ADMIN"] {
                    if (section, listener) != ("AGENT_ROUTER", "HTTP") {
                        let name: &'static str = format!("AIP__{section}__{listener}_LISTEN").leak();
                        all.push((name, any()));
                    }
                }
            }
            all.extend(variables.iter().chain(more).cloned());
            let file = keys.path("config.yaml");
            Process::start(name, &["--config", file.to_str().expect("a path in Unicode")], &all).await
        };
        let upstreams = [
            ("MAX_SERVE_ENDPOINT", simulator.url("max")),
            ("OLLAMA_CPU_ENDPOINT", simulator.url("ollama")),
            ("AIP__TIERS__MAX__MODEL", "sim-max".to_owned()),
            ("AIP__TIERS__MAX__API_KEY", UPSTREAM_KEY.to_owned()),
        ];
        let router = start("agent-router", &upstreams).await;
        let routers = format!("https://{}", router.address("grpc"));
        let gateway = start("gateway", &[("AIP__GATEWAY__ROUTERS", routers.clone())]).await;
        let api_server = start("api-server", &[("AIP__API_SERVER__ROUTERS", routers)]).await;
        Self { certificates, keys, key, gateway, router, api_server, _simulator: simulator }
    }

    /// What a client trusts, and what it shows: a new certificate for a name.
    pub fn tls(&self, identity: Option<&str>) -> Tls {
        let pair = identity.map(|name| self.certificates.sign(name));
        Tls::new(&self.certificates.authority(), pair.as_ref())
    }

    /// A client of a service.
    pub fn client(tls: &Tls, process: &Process) -> Client {
        InferenceServiceClient::new(tls.channel(process.address("grpc")))
    }

    /// A client of its HTTP ports, which speaks HTTP/2.
    ///
    /// # Panics
    /// The authority's file cannot be read.
    pub fn https(&self) -> reqwest::Client {
        self.https_client().build().expect("an HTTP client")
    }

    /// A client of its HTTP ports, which speaks HTTP/1.1.
    ///
    /// # Panics
    /// The authority's file cannot be read.
    pub fn https_of_http1(&self) -> reqwest::Client {
        self.https_client().http1_only().build().expect("an HTTP client")
    }

    fn https_client(&self) -> reqwest::ClientBuilder {
        drop(rustls::crypto::ring::default_provider().install_default());
        let authority = std::fs::read(self.certificates.authority()).expect("a file of ours");
        let authority = reqwest::Certificate::from_pem(&authority).expect("a certificate");
        reqwest::Client::builder().no_proxy().tls_certs_only([authority])
    }
}
