//! What can be wrong with a configuration.

use std::fmt;
use std::path::{Path, PathBuf};

use figment::error::Kind;
use thiserror::Error;

use super::files::read_file;
use super::print::{self, Sources};
use super::types::Endpoint;

/// One wrong key or value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key, or the environment variable's name.
    pub key: String,
    /// The value as it was given. Empty where there is none.
    pub value: String,
    /// Where it was given. Empty where the key says it.
    pub source: String,
    /// What it must be.
    pub rule: String,
}

impl Problem {
    /// `value` is wrong for `key`, by `rule`.
    pub fn new(key: impl Into<String>, value: impl fmt::Display, rule: impl Into<String>) -> Self {
        Self { key: key.into(), value: value.to_string(), source: String::new(), rule: rule.into() }
    }

    /// There is no such key.
    pub(super) fn unknown_key(key: &str, name: &str, known: &[&str]) -> Self {
        let nearest = known
            .iter()
            .map(|known| (strsim::damerau_levenshtein(name, known), *known))
            .filter(|(distance, known)| *distance <= 2 || *distance * 3 <= known.len())
            .min();
        let rule = match nearest {
            Some((_, nearest)) => format!("unknown key; did you mean `{nearest}`?"),
            None => format!("unknown key; known are {}", known.join(", ")),
        };
        Self::new(key, "", rule)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)?;
        if !self.value.is_empty() {
            write!(f, " = {}", self.value)?;
        }
        if !self.source.is_empty() {
            write!(f, " ({})", self.source)?;
        }
        write!(f, ": {}", self.rule)
    }
}

/// Something cannot be used; why is among the [`Problems`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused;

/// Collects problems, so that all of them are reported in one run.
#[derive(Debug, Default)]
pub struct Problems {
    found: Vec<Problem>,
}

impl Problems {
    /// Adds a problem.
    pub fn add(&mut self, key: impl Into<String>, value: impl fmt::Display, rule: impl Into<String>) {
        self.found.push(Problem::new(key, value, rule));
    }

    /// Adds a problem unless `holds`.
    pub fn require(&mut self, holds: bool, key: &str, value: impl fmt::Display, rule: &str) {
        if !holds {
            self.add(key, value, rule);
        }
    }

    /// What is in the file that a setting names. `None`, with a problem, where it cannot be read.
    pub fn read_file(&mut self, key: &str, path: &Path) -> Option<Vec<u8>> {
        let read = read_file(path);
        let told = |error| self.add(key, path.display(), format!("must be a file that can be read: {error}"));
        read.map_err(told).ok()
    }

    /// Adds what others found, but for what is known already.
    pub fn merge(&mut self, others: Self) {
        for problem in others.found {
            if !self.found.contains(&problem) {
                self.found.push(problem);
            }
        }
    }

    /// Adds a problem for each endpoint that wants TLS, where the connection has none.
    pub fn require_plaintext<'a>(&mut self, key: &str, endpoints: impl IntoIterator<Item = &'a Endpoint>) {
        for endpoint in endpoints {
            let plaintext = endpoint.url().scheme() == "http";
            self.require(plaintext, key, endpoint, "must be an http:// URL: this connection has no TLS yet");
        }
    }

    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// What was found.
    pub fn found(&self) -> &[Problem] {
        &self.found
    }

    pub(super) fn into_result(mut self, source: impl Fn(&str) -> String) -> Result<(), ConfigError> {
        if self.found.is_empty() {
            return Ok(());
        }
        for problem in &mut self.found {
            problem.source = source(&problem.key);
        }
        Err(ConfigError::Invalid(self.found))
    }
}

/// A configuration that cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// Wrong keys or values.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Invalid(Vec<Problem>),
    /// The file cannot be read or is not YAML.
    #[error("configuration file {}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The defaults cannot be represented: a bug.
    #[error("defaults: {0}")]
    Defaults(String),
}

impl From<Problem> for ConfigError {
    fn from(problem: Problem) -> Self {
        Self::Invalid(vec![problem])
    }
}

impl ConfigError {
    /// What is wrong, each with its key, value and rule. For a file that cannot be read, the key is the file.
    pub fn problems(&self) -> Vec<Problem> {
        match self {
            Self::Invalid(problems) => problems.clone(),
            Self::File { path, reason } => vec![Problem::new(path.display().to_string(), "", reason)],
            Self::Defaults(reason) => vec![Problem::new("defaults", "", reason)],
        }
    }
}

impl Problem {
    pub(super) fn of_figment(error: &figment::Error, sources: &Sources) -> Self {
        let mut key = error.path.join(".");
        let problem = match &error.kind {
            Kind::UnknownField(name, known) => {
                // The path of an unknown key ends with the key itself where figment has walked into it.
                if error.path.last() != Some(name) {
                    key = [error.path.as_slice(), std::slice::from_ref(name)].concat().join(".");
                }
                let mut problem = Problem::unknown_key(&key, name, known);
                problem.source = sources.source(&problem.key);
                return problem;
            }
            Kind::MissingField(name) => {
                key = if key.is_empty() { name.to_string() } else { format!("{key}.{name}") };
                Problem::new(key, "", "is required")
            }
            Kind::UnknownVariant(name, known) => {
                Problem::new(key, name, format!("must be one of {}", known.join(", ")))
            }
            // What was given is part of such a message, and a secret is not to be shown.
            Kind::InvalidType(_, expected) if print::is_secret(&key) => {
                Problem::new(key, "", format!("must be {expected}"))
            }
            Kind::InvalidType(actual, expected) => {
                Problem::new(key, "", format!("must be {expected}, not {actual}"))
            }
            Kind::InvalidValue(_, expected) => Problem::new(key, "", format!("must be {expected}")),
            Kind::Message(rule) => Problem::new(key, "", rule),
            kind @ (Kind::InvalidLength(..)
            | Kind::DuplicateField(_)
            | Kind::ISizeOutOfRange(_)
            | Kind::USizeOutOfRange(_)
            | Kind::Unsupported(_)
            | Kind::UnsupportedKey(..)) => Problem::new(key, "", kind.to_string()),
        };
        let mut problem = problem;
        if problem.value.is_empty() && !print::is_secret(&problem.key) {
            problem.value = sources.raw(&problem.key);
        }
        problem.source = sources.source(&problem.key);
        problem
    }
}
