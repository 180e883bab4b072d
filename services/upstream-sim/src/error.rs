//! Why a simulator does not start, or does not take a fault.

use std::io;
use std::net::SocketAddr;

/// A simulator could not be started, or an upstream's port could not be opened again.
#[derive(Debug, thiserror::Error)]
pub enum SimError {
    /// A setting breaks its rule.
    #[error("upstream_sim.{key}: {value} is refused: {rule}")]
    Config {
        /// Name of the setting.
        key: &'static str,
        /// The value that was given.
        value: String,
        /// The rule that it breaks.
        rule: &'static str,
    },
    /// An address could not be bound or listened on.
    #[error("cannot listen on {addr} for {what}: {source}")]
    Listen {
        /// What was to listen there: `max`, `ollama` or `control`.
        what: &'static str,
        /// The address.
        addr: SocketAddr,
        /// The operating system's reason.
        source: io::Error,
    },
    /// A fault was refused.
    #[error(transparent)]
    Fault(#[from] FieldError),
}

/// A field of a fault that breaks its rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {rule}{}", suggestion(.did_you_mean.as_ref()))]
pub struct FieldError {
    /// Path of the field in the request, such as `fault.delay_ms`.
    pub field: String,
    /// The rule, in words.
    pub rule: String,
    /// The nearest name that would have been taken.
    pub did_you_mean: Option<String>,
}

impl FieldError {
    pub(crate) fn new(field: impl Into<String>, rule: impl Into<String>) -> Self {
        Self { field: field.into(), rule: rule.into(), did_you_mean: None }
    }

    /// The error for a name that is none of `known`, with the nearest of them.
    pub(crate) fn unknown_name(field: &str, given: &str, known: &[&str]) -> Self {
        let nearest = known
            .iter()
            .map(|name| (strsim::jaro_winkler(given, name), *name))
            .filter(|(likeness, _)| *likeness > 0.7)
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .map(|(_, name)| name.to_owned());
        Self {
            field: field.to_owned(),
            rule: format!("`{given}` is unknown; it must be one of {}", known.join(", ")),
            did_you_mean: nearest,
        }
    }
}

fn suggestion(name: Option<&String>) -> String {
    name.map(|name| format!("; did you mean `{name}`?")).unwrap_or_default()
}
