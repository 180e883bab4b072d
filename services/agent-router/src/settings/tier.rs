//! One tier.

mod connection;
mod endpoint;

use std::time::Duration;

use resilience::{Hedge, InvalidConfig};
use service_kit::config::{Endpoint, Problems, Seconds, Secret};

use super::pool::{self, PoolSettings};
use crate::config::{HedgeConfig, Kind, PrefixStyle, TierConfig};
pub use connection::{Connection, Identity};

/// How long answers are kept when nothing else is said.
const DEFAULT_TTL: Duration = Duration::from_secs(24 * 3600);
/// The largest request when nothing else is said. The gateway takes 1 MiB, which JSON writes with up to six bytes for one.
const DEFAULT_MAX_REQUEST_BYTES: usize = 8 * 1024 * 1024;
/// How long a stream may be silent when nothing else is said.
const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// Calls that one request makes at a tier when nothing else is said.
const DEFAULT_ATTEMPTS: u32 = 2;
/// The bounds of a hedge after a quantile when nothing else is said.
const DEFAULT_HEDGE_FLOOR: Duration = Duration::from_millis(50);
const DEFAULT_HEDGE_OBSERVATIONS: usize = 20;

/// A tier of any kind.
#[derive(Debug, Clone, PartialEq)]
pub enum TierSettings {
    /// Servers that speak the OpenAI protocol.
    OpenAi(ModelTier),
    /// Ollama servers.
    Ollama(ModelTier),
    /// Earlier answers, kept this long.
    Cache {
        /// How long answers are kept.
        ttl: Duration,
    },
    /// A fixed message.
    Message {
        /// The message.
        text: String,
    },
}

impl TierSettings {
    /// What it is as a tier of model servers, if it is one.
    pub fn model(&self) -> Option<&ModelTier> {
        match self {
            Self::OpenAi(tier) | Self::Ollama(tier) => Some(tier),
            Self::Cache { .. } | Self::Message { .. } => None,
        }
    }

    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::OpenAi(_) => Kind::Openai,
            Self::Ollama(_) => Kind::Ollama,
            Self::Cache { .. } => Kind::Cache,
            Self::Message { .. } => Kind::Message,
        }
    }
}

/// A tier of model servers.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelTier {
    /// The servers; at least one.
    pub endpoints: Vec<Endpoint>,
    /// The model.
    pub model: String,
    /// The bearer token.
    pub api_key: Option<Secret>,
    /// How its servers are told to go on with an answer that another has begun.
    pub prefix: PrefixStyle,
    /// How its servers are reached.
    pub connection: Connection,
    /// What its model takes.
    pub accepts: Accepts,
    /// The largest request that is sent, in bytes.
    pub max_request_bytes: usize,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// How its servers are used.
    pub pool: PoolSettings,
    /// The most calls that one request makes here.
    pub attempts: u32,
    /// The model's context, in tokens, where it is known.
    pub context_tokens: Option<u64>,
    /// When slow calls are hedged.
    pub hedge: Option<HedgeSettings>,
}

/// When slow calls are hedged.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum HedgeSettings {
    /// After a fixed time.
    After(Duration),
    /// After a quantile of what the latest calls took.
    Quantile {
        /// The quantile.
        quantile: f64,
        /// Never before this time.
        floor: Duration,
        /// Not before so many calls were seen.
        observations: usize,
    },
}

impl HedgeSettings {
    /// The policy itself.
    ///
    /// # Errors
    /// A number makes no sense.
    pub fn build(self) -> Result<Hedge, InvalidConfig> {
        match self {
            Self::After(delay) => Hedge::after(delay),
            Self::Quantile { quantile, floor, observations } => {
                Hedge::quantile(quantile, floor, observations)
            }
        }
    }
}

/// What a model takes beside text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepts {
    /// Pictures.
    pub images: bool,
    /// Tools, their calls and results.
    pub tools: bool,
}

/// How long things may take.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Timeouts {
    /// A whole answer.
    pub total: Duration,
    /// A stream's first content.
    pub first_token: Duration,
    /// Silence in a stream that has begun.
    pub idle: Duration,
}

/// Checks a tier. `None` when it has problems.
pub(super) fn of(
    name: &str,
    tier: &TierConfig,
    default_timeout: Duration,
    problems: &mut Problems,
) -> Option<TierSettings> {
    let key = |field: &str| format!("tiers.{name}.{field}");
    let Some(kind) = tier.kind else {
        problems.add(key("kind"), "", "is required: openai, ollama, cache or message");
        return None;
    };
    for (field, given, kinds) in given(tier) {
        if given && !kinds.contains(&kind) {
            problems.add(key(field), "", format!("does not apply to a tier of kind {}", kind.as_str()));
        }
    }
    for (field, time) in [
        ("timeout", tier.timeout),
        ("first_token_timeout", tier.first_token_timeout),
        ("idle_timeout", tier.idle_timeout),
        ("ttl", tier.ttl),
    ] {
        if let Some(time) = time {
            problems.require(!time.0.is_zero(), &key(field), time, "must be longer than 0");
        }
    }
    match kind {
        Kind::Openai => Some(TierSettings::OpenAi(model(kind, tier, default_timeout, key, problems)?)),
        Kind::Ollama => Some(TierSettings::Ollama(model(kind, tier, default_timeout, key, problems)?)),
        Kind::Cache => Some(TierSettings::Cache { ttl: tier.ttl.map_or(DEFAULT_TTL, |ttl| ttl.0) }),
        Kind::Message => {
            let text = tier.text.clone().filter(|text| !text.is_empty());
            problems.require(text.is_some(), &key("text"), "", "is required and must not be empty");
            text.map(|text| TierSettings::Message { text })
        }
    }
}

fn model(
    kind: Kind,
    tier: &TierConfig,
    default_timeout: Duration,
    key: impl Fn(&str) -> String,
    problems: &mut Problems,
) -> Option<ModelTier> {
    problems.require(!tier.endpoints.is_empty(), &key("endpoints"), "[]", "must name at least one server");
    let endpoints = endpoint::bases(tier, kind, &key, problems);
    let model = tier.model.clone().filter(|model| !model.is_empty());
    problems.require(model.is_some(), &key("model"), "", "is required and must not be empty");
    let api_key = connection::api_key(tier, &key, problems);
    let connection = connection::of(tier, &key, problems);
    let max_request_bytes = tier.max_request_bytes.unwrap_or(DEFAULT_MAX_REQUEST_BYTES);
    let rule = "must be at least 1024";
    problems.require(max_request_bytes >= 1024, &key("max_request_bytes"), max_request_bytes, rule);
    let accepts = Accepts { images: tier.images.unwrap_or(true), tools: tier.tools.unwrap_or(true) };
    let total = tier.timeout.map_or(default_timeout, |Seconds(time)| time);
    let timeouts = Timeouts {
        total,
        first_token: tier.first_token_timeout.map_or(total, |Seconds(time)| time),
        idle: tier.idle_timeout.map_or(DEFAULT_IDLE_TIMEOUT, |Seconds(time)| time),
    };
    let prefix = prefix(tier, kind, &key, problems);
    let attempts = tier.attempts.unwrap_or(DEFAULT_ATTEMPTS);
    problems.require((1..=10).contains(&attempts), &key("attempts"), attempts, "must be from 1 to 10");
    let context_tokens = tier.context_tokens;
    problems.require(context_tokens != Some(0), &key("context_tokens"), 0, "must be at least 1");
    let hedge = match tier.hedge {
        Some(config) => Some(hedge(config, &key, problems)?),
        None => None,
    };
    let pool = pool::of(kind, tier, &key, problems);
    Some(ModelTier {
        endpoints,
        model: model?,
        api_key,
        prefix,
        connection: connection?,
        accepts,
        max_request_bytes,
        timeouts,
        pool: pool?,
        attempts,
        context_tokens,
        hedge,
    })
}

fn prefix(
    tier: &TierConfig,
    kind: Kind,
    key: impl Fn(&str) -> String,
    problems: &mut Problems,
) -> PrefixStyle {
    let usual = match kind {
        Kind::Ollama => PrefixStyle::AssistantMessage,
        Kind::Openai | Kind::Cache | Kind::Message => PrefixStyle::ChatTemplateKwargs,
    };
    let style = tier.prefix.unwrap_or(usual);
    let known = kind != Kind::Ollama || matches!(style, PrefixStyle::AssistantMessage | PrefixStyle::None);
    let rule = "must be assistant_message or none for ollama, which knows no others";
    problems.require(known, &key("prefix"), style.as_str(), rule);
    style
}

fn hedge(
    config: HedgeConfig,
    key: &impl Fn(&str) -> String,
    problems: &mut Problems,
) -> Option<HedgeSettings> {
    let settings = match (config.after, config.quantile) {
        (Some(Seconds(after)), None) => {
            let alone = config.floor.is_none() && config.observations.is_none();
            let rule = "go with quantile, not with after";
            problems.require(alone, &key("hedge.floor, hedge.observations"), "", rule);
            HedgeSettings::After(after)
        }
        (None, Some(quantile)) => HedgeSettings::Quantile {
            quantile,
            floor: config.floor.map_or(DEFAULT_HEDGE_FLOOR, |floor| floor.0),
            observations: config.observations.map_or(DEFAULT_HEDGE_OBSERVATIONS, |observations| {
                usize::try_from(observations).unwrap_or(usize::MAX)
            }),
        },
        (Some(_), Some(_)) | (None, None) => {
            problems.add(key("hedge"), "", "must have either after or quantile");
            return None;
        }
    };
    let Err(invalid) = settings.build() else {
        return Some(settings);
    };
    let value = match (invalid.field, settings) {
        ("hedge.after", _) => config.after.map(|after| after.to_string()),
        ("hedge.quantile", _) => config.quantile.map(|quantile| quantile.to_string()),
        (_, HedgeSettings::Quantile { observations, .. }) => Some(observations.to_string()),
        (_, HedgeSettings::After(_)) => None,
    };
    problems.add(key(invalid.field), value.unwrap_or_default(), format!("must be {}", invalid.rule));
    None
}

/// The optional fields: whether each is given, and the kinds that it applies to.
fn given(tier: &TierConfig) -> [(&'static str, bool, &'static [Kind]); 25] {
    const MODELS: &[Kind] = &[Kind::Openai, Kind::Ollama];
    [
        ("endpoints", !tier.endpoints.is_empty(), MODELS),
        ("model", tier.model.is_some(), MODELS),
        ("api_key", tier.api_key.is_some(), &[Kind::Openai]),
        ("api_key_file", tier.api_key_file.is_some(), &[Kind::Openai]),
        ("ca_file", tier.ca_file.is_some(), MODELS),
        ("client_cert_file", tier.client_cert_file.is_some(), MODELS),
        ("client_key_file", tier.client_key_file.is_some(), MODELS),
        ("http_version", tier.http_version.is_some(), MODELS),
        ("max_request_bytes", tier.max_request_bytes.is_some(), MODELS),
        ("images", tier.images.is_some(), MODELS),
        ("tools", tier.tools.is_some(), MODELS),
        ("timeout", tier.timeout.is_some(), MODELS),
        ("first_token_timeout", tier.first_token_timeout.is_some(), MODELS),
        ("idle_timeout", tier.idle_timeout.is_some(), MODELS),
        ("prefix", tier.prefix.is_some(), MODELS),
        ("concurrency", tier.concurrency.is_some(), MODELS),
        ("affinity", tier.affinity.is_some(), MODELS),
        ("dns", tier.dns.is_some(), MODELS),
        ("health_check", tier.health_check.is_some(), MODELS),
        ("preload", tier.preload.is_some(), &[Kind::Ollama]),
        ("attempts", tier.attempts.is_some(), MODELS),
        ("context_tokens", tier.context_tokens.is_some(), MODELS),
        ("hedge", tier.hedge.is_some(), MODELS),
        ("ttl", tier.ttl.is_some(), &[Kind::Cache]),
        ("text", tier.text.is_some(), &[Kind::Message]),
    ]
}
