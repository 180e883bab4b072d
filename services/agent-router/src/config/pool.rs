//! The parts of a tier's configuration that are about its pool of servers.

use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use service_kit::config::Seconds;

/// How many calls the servers of a tier are given at a time, all together.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConcurrencyConfig {
    /// Whether the limit finds itself between `min` and `max`, by latencies and overloads. Unset: true. When not, it is `max`.
    #[serde(deserialize_with = "value_or_text")]
    pub adaptive: Option<bool>,
    /// The least that an adaptive limit shrinks to. Unset: 8 (openai), 1 (ollama).
    #[serde(deserialize_with = "value_or_text")]
    pub min: Option<u32>,
    /// What an adaptive limit begins with. Unset: 256 (openai), 4 (ollama).
    #[serde(deserialize_with = "value_or_text")]
    pub initial: Option<u32>,
    /// The most calls at a time. Unset: 1024 (openai), 16 (ollama).
    #[serde(deserialize_with = "value_or_text")]
    pub max: Option<u32>,
    /// How long a call may wait for its turn; as many may wait as `max`. 0: what does not fit goes on to the next tier at once.
    /// Unset: 100 ms (openai), 0 (ollama).
    pub max_wait: Option<Seconds>,
}

/// What keeps to one server of a tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Affinity {
    /// Nothing: each call goes to the server with the least load.
    #[default]
    None,
    /// A session, where the request names one.
    Session,
    /// A session, where the request names one, and else what conversations begin with: the system prompt and the first message
    /// of the user.
    Prefix,
}

/// How the names of a tier's endpoints are followed.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DnsConfig {
    /// Whether each address of a name is a server of its own. Unset: true. When not, a name is one server, wherever its connections lead.
    #[serde(deserialize_with = "value_or_text")]
    pub resolve: Option<bool>,
    /// How often names are asked for again. Unset: 10 s.
    pub interval: Option<Seconds>,
}

/// How servers are checked while their breakers are open.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HealthCheckConfig {
    /// Whether they are. Unset: true.
    #[serde(deserialize_with = "value_or_text")]
    pub enabled: Option<bool>,
    /// What is asked for: something that costs the server nothing. Unset: /health (openai), /api/version (ollama).
    pub path: Option<String>,
    /// How often. Unset: 5 s.
    pub interval: Option<Seconds>,
    /// How long the answer may take. Unset: 1 s.
    pub timeout: Option<Seconds>,
}

/// How servers are told to load their model before a request needs it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PreloadConfig {
    /// Whether they are. Unset: true.
    #[serde(deserialize_with = "value_or_text")]
    pub enabled: Option<bool>,
    /// How long loading may take. Unset: 10 min.
    pub timeout: Option<Seconds>,
}

/// Reads a value, or the text of one: an environment variable for a key without a default is text.
fn value_or_text<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + FromStr,
{
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "must be a whole number, or true or false")]
    enum Written<T> {
        Value(T),
        Text(String),
    }
    match Option::<Written<T>>::deserialize(deserializer)? {
        None => Ok(None),
        Some(Written::Value(value)) => Ok(Some(value)),
        Some(Written::Text(text)) => {
            let value = text.trim().parse();
            value.map(Some).map_err(|_| D::Error::custom("must be a whole number, or true or false"))
        }
    }
}
