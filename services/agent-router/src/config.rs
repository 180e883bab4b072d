//! The router's sections of the configuration, as they are written.
//!
//! [`Settings::of`](crate::settings::Settings::of) turns them into types that cannot be wrong.

mod breaker;
mod cache;
mod pool;
mod sampling;
mod stream;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use service_kit::auth::Audience;
use service_kit::cli::OWN_FILES;
use service_kit::config::{
    Endpoint, EnvVar, ListenAddress, Parse, Problem, Problems, Seconds, Secret, ServiceConfig,
    comma_separated, value_or_text,
};
use service_kit::security::{SecurityConfig, Warnings};
use service_kit::shutdown::ShutdownConfig;
use service_kit::telemetry::TelemetryConfig;
use service_kit::tls::TlsConfig;

use crate::settings::Settings;
pub use breaker::BreakerConfig;
pub use cache::{AgentCacheConfig, CacheConfig, CacheMode};
pub use pool::{Affinity, ConcurrencyConfig, DnsConfig, HealthCheckConfig, PreloadConfig};
pub use sampling::SamplingConfig;
pub use stream::{MidStream, PrefixStyle};

/// The whole configuration.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Addresses and identity.
    pub agent_router: RouterConfig,
    /// The breakers of all backends.
    pub circuit_breaker: BreakerConfig,
    /// The fallback chain as such.
    pub fallback_chain: ChainConfig,
    /// The store of earlier answers.
    pub cache: CacheConfig,
    /// The tiers, by name.
    pub tiers: BTreeMap<String, TierConfig>,
    /// The agents. The first one is the default.
    pub agents: Vec<AgentConfig>,
    /// Who may reach the listeners.
    pub security: SecurityConfig,
    /// How the process ends.
    pub shutdown: ShutdownConfig,
    /// Logs and traces.
    pub telemetry: TelemetryConfig,
}

/// The `agent_router` section.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RouterConfig {
    /// Where gRPC is served.
    pub grpc_listen: ListenAddress,
    /// Where `/livez`, `/readyz` and `/metrics` are served.
    pub admin_listen: ListenAddress,
    /// TLS of the gRPC listener.
    pub tls: TlsConfig,
    /// This replica's name. Unset: host name and gRPC port.
    pub replica: Option<String>,
    /// The largest message that is accepted or produced, in bytes.
    pub max_message_bytes: usize,
    /// Chats at a time, streams until their end. What comes beyond is refused at once with OVERLOADED.
    pub max_in_flight: u32,
}

impl Default for RouterConfig {
    fn default() -> Self {
        Self {
            grpc_listen: ListenAddress::loopback(50052),
            admin_listen: ListenAddress::loopback(9465),
            tls: TlsConfig::default(),
            replica: None,
            max_message_bytes: 4 * 1024 * 1024,
            max_in_flight: 4096,
        }
    }
}

impl RouterConfig {
    /// How many files the router may have open: over HTTP/1.1 each call that it makes is a connection.
    pub fn open_files(&self) -> u64 {
        u64::from(self.max_in_flight) + OWN_FILES
    }
}

/// The `fallback_chain` section.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ChainConfig {
    /// Whether a failed tier is followed by the next. When not, only the first tier of each agent is used.
    pub enabled: bool,
}

impl Default for ChainConfig {
    fn default() -> Self {
        Self { enabled: true }
    }
}

/// The kind of a tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Servers that speak the OpenAI protocol.
    Openai,
    /// Ollama servers.
    Ollama,
    /// Earlier answers.
    Cache,
    /// A fixed message.
    Message,
}

impl Kind {
    /// The name in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Openai => "openai",
            Self::Ollama => "ollama",
            Self::Cache => "cache",
            Self::Message => "message",
        }
    }

    /// Whether the ends of its answers say how long the model was loaded for them.
    pub(crate) fn tells_cold_starts(self) -> bool {
        self == Self::Ollama
    }
}

/// The version of HTTP that is spoken to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HttpVersion {
    /// HTTP/2 where a server behind https offers it, else HTTP/1.1.
    #[default]
    Auto,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, also without https: the server must be known to speak it.
    Http2,
}

/// A tier. Which fields apply depends on its kind; one that does not is refused.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TierConfig {
    /// What it is. Required.
    pub kind: Option<Kind>,
    /// Its servers (openai, ollama).
    #[serde(deserialize_with = "comma_separated")]
    pub endpoints: Vec<Endpoint>,
    /// The model to ask for, by the server's own name (openai, ollama).
    pub model: Option<String>,
    /// Sent as a bearer token (openai).
    pub api_key: Option<Secret>,
    /// A file with that token, for example of a mounted secret (openai). It wins over `api_key`, and is read again when it
    /// changes.
    pub api_key_file: Option<PathBuf>,
    /// The certificates (PEM) that servers behind https are trusted by, in place of the system's (openai, ollama).
    pub ca_file: Option<PathBuf>,
    /// The certificate (PEM, with its chain) that is shown to servers which ask for one (openai, ollama).
    pub client_cert_file: Option<PathBuf>,
    /// The key (PEM) of that certificate (openai, ollama).
    pub client_key_file: Option<PathBuf>,
    /// The version of HTTP that is spoken (openai, ollama). Unset: `auto`.
    pub http_version: Option<HttpVersion>,
    /// The largest request that is sent, in bytes (openai, ollama). Unset: 8 MiB.
    #[serde(deserialize_with = "value_or_text")]
    pub max_request_bytes: Option<usize>,
    /// Whether the model takes pictures (openai, ollama). Unset: yes, and the server may refuse them.
    #[serde(deserialize_with = "value_or_text")]
    pub images: Option<bool>,
    /// Whether the model takes tools (openai, ollama). Unset: yes, and the server may refuse them.
    #[serde(deserialize_with = "value_or_text")]
    pub tools: Option<bool>,
    /// The longest that a unary answer may take (openai, ollama). Unset: `circuit_breaker.call_timeout`.
    pub timeout: Option<Seconds>,
    /// The longest that a stream may take to its first content (openai, ollama). Unset: as `timeout`.
    pub first_token_timeout: Option<Seconds>,
    /// The longest silence in a stream that has begun (openai, ollama). Unset: 10 s.
    pub idle_timeout: Option<Seconds>,
    /// How a server is told to go on with an answer that another has begun (openai, ollama). Unset:
    /// `chat_template_kwargs` for openai, `assistant_message` for ollama.
    pub prefix: Option<PrefixStyle>,
    /// How many calls its servers are given at a time (openai, ollama).
    pub concurrency: Option<ConcurrencyConfig>,
    /// What keeps to one of its servers (openai, ollama). Unset: nothing.
    pub affinity: Option<Affinity>,
    /// How the names of its servers are followed (openai, ollama).
    pub dns: Option<DnsConfig>,
    /// How its servers are checked while their breakers are open (openai, ollama).
    pub health_check: Option<HealthCheckConfig>,
    /// How its servers are told to load their model before a request needs it (ollama).
    pub preload: Option<PreloadConfig>,
    /// The most calls that one request makes here, retries and other backends included (openai, ollama). Unset: 2.
    #[serde(deserialize_with = "value_or_text")]
    pub attempts: Option<u32>,
    /// The model's context, in tokens (openai, ollama). A prompt that is too long for one tier goes to a later one only
    /// where both say how much they take. Unset: unknown.
    #[serde(deserialize_with = "value_or_text")]
    pub context_tokens: Option<u64>,
    /// When a slow call gets a second one beside it (openai, ollama). Unset: never.
    pub hedge: Option<HedgeConfig>,
    /// How long answers are kept (cache). Unset: 24 h.
    pub ttl: Option<Seconds>,
    /// The message (message).
    pub text: Option<String>,
}

/// When a slow call is hedged: after a fixed time, or after a quantile of what the tier's latest calls took.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HedgeConfig {
    /// After this time.
    pub after: Option<Seconds>,
    /// After the time that this share of the latest calls kept: 0.95 hedges one call in twenty.
    #[serde(deserialize_with = "value_or_text")]
    pub quantile: Option<f64>,
    /// With a quantile: never before this time. Unset: 50 ms.
    pub floor: Option<Seconds>,
    /// With a quantile: not before so many calls were seen. Unset: 20.
    #[serde(deserialize_with = "value_or_text")]
    pub observations: Option<u32>,
}

impl TierConfig {
    /// The files that it names.
    pub fn files(&self) -> impl Iterator<Item = PathBuf> {
        let Self { api_key_file, ca_file, client_cert_file, client_key_file, .. } = self;
        [api_key_file, ca_file, client_cert_file, client_key_file].into_iter().flatten().cloned()
    }
}

/// An agent: a name that clients ask for, and what stands behind it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentConfig {
    /// What clients send as `model`.
    pub name: String,
    /// Put before every conversation.
    #[serde(default)]
    pub system_prompt: Option<String>,
    /// What becomes of a stream that breaks off after its first content.
    #[serde(default)]
    pub mid_stream: MidStream,
    /// How to sample where the request does not say.
    #[serde(default)]
    pub sampling: SamplingConfig,
    /// What its message tier says. Unset: the tier's own text.
    #[serde(default)]
    pub degraded_text: Option<String>,
    /// The tiers to try, in order.
    pub tiers: Vec<String>,
    /// What earlier answers are used for.
    #[serde(default)]
    pub cache: AgentCacheConfig,
    /// The longest that a request waits for a backend that has named the time at which it wants to be asked again.
    #[serde(default = "default_retry_after_max_wait")]
    pub retry_after_max_wait: Seconds,
}

fn default_retry_after_max_wait() -> Seconds {
    Seconds::new(2)
}

impl Default for Config {
    fn default() -> Self {
        let endpoint = |url: &str| url.parse().into_iter().collect();
        let max = TierConfig {
            kind: Some(Kind::Openai),
            endpoints: endpoint("http://max:8000"),
            model: Some("meta-llama/Llama-3.1-8B-Instruct".into()),
            first_token_timeout: Some(Seconds::new(3)),
            ..TierConfig::default()
        };
        let ollama = TierConfig {
            kind: Some(Kind::Ollama),
            endpoints: endpoint("http://ollama:11434"),
            model: Some("llama3.1:8b".into()),
            timeout: Some(Seconds::new(20)),
            first_token_timeout: Some(Seconds::new(10)),
            ..TierConfig::default()
        };
        let cache = TierConfig {
            kind: Some(Kind::Cache),
            ttl: Some(Seconds::new(24 * 3600)),
            ..TierConfig::default()
        };
        let degraded = TierConfig {
            kind: Some(Kind::Message),
            text: Some("Service temporarily unavailable".into()),
            ..TierConfig::default()
        };
        let names = ["max", "ollama", "cache", "degraded"];
        Self {
            agent_router: RouterConfig::default(),
            circuit_breaker: BreakerConfig::default(),
            fallback_chain: ChainConfig::default(),
            cache: CacheConfig::default(),
            tiers: names.map(str::to_owned).into_iter().zip([max, ollama, cache, degraded]).collect(),
            agents: vec![AgentConfig {
                name: "assistant".into(),
                system_prompt: None,
                mid_stream: MidStream::Error,
                sampling: SamplingConfig::default(),
                degraded_text: None,
                tiers: names.map(str::to_owned).to_vec(),
                cache: AgentCacheConfig::default(),
                retry_after_max_wait: default_retry_after_max_wait(),
            }],
            security: SecurityConfig::default(),
            shutdown: ShutdownConfig::default(),
            telemetry: TelemetryConfig::default(),
        }
    }
}

/// The environment variables of the router's own sections.
pub const ENVIRONMENT: &[EnvVar] = &[
    EnvVar::new("CIRCUIT_BREAKER_ENABLED", "circuit_breaker.enabled", Parse::Bool),
    EnvVar::new("CIRCUIT_BREAKER_FAILURE_THRESHOLD", "circuit_breaker.failure_threshold", Parse::Integer),
    EnvVar::new("CIRCUIT_BREAKER_TIMEOUT_SECONDS", "circuit_breaker.call_timeout", Parse::Seconds),
    EnvVar::new(
        "CIRCUIT_BREAKER_RECOVERY_TIMEOUT_SECONDS",
        "circuit_breaker.recovery_timeout",
        Parse::Seconds,
    ),
    EnvVar::new("FALLBACK_CHAIN_ENABLED", "fallback_chain.enabled", Parse::Bool),
    EnvVar::new("MAX_SERVE_ENDPOINT", "tiers.max.endpoints", Parse::Text),
    EnvVar::new("OLLAMA_CPU_ENDPOINT", "tiers.ollama.endpoints", Parse::Text),
    EnvVar::new("REDIS_URL", "cache.redis_url", Parse::Text),
    EnvVar::new("CACHE_ENABLED", "cache.enabled", Parse::Bool),
    EnvVar::new("DEGRADED_MESSAGE", "tiers.degraded.text", Parse::Text),
];

impl ServiceConfig for Config {
    const ENVIRONMENT: &'static [&'static [EnvVar]] =
        &[ENVIRONMENT, ShutdownConfig::ENVIRONMENT, TelemetryConfig::ENVIRONMENT];

    fn check(&self, problems: &mut Problems) {
        let (section, gateways) = (&self.agent_router, Audience::Gateways);
        self.security.check(gateways, problems);
        self.security.check_listener("agent_router.grpc_listen", section.grpc_listen, gateways, problems);
        self.security.check_listener("agent_router.admin_listen", section.admin_listen, gateways, problems);
        drop(section.tls.read("agent_router.tls", problems));
        self.shutdown.check(problems);
        self.telemetry.check(problems);
        drop(Settings::of(self, problems));
    }

    fn warnings(&self) -> Vec<Problem> {
        let section = &self.agent_router;
        let mut warnings = Warnings::default();
        warnings.listener(&self.security, "agent_router.grpc_listen", section.grpc_listen, &section.tls);
        let private = [("agent_router.tls.key_file", &section.tls.key_file)];
        warnings.files(self.security.secret_files().into_iter().chain(private));
        warnings.found()
    }

    fn files(&self) -> Vec<PathBuf> {
        self.tiers
            .values()
            .flat_map(TierConfig::files)
            .chain(self.security.files())
            .chain(self.agent_router.tls.files())
            .collect()
    }
}
