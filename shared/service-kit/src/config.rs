//! Configuration, parsed into types once, before anything starts.
//!
//! One YAML document configures the whole suite; each service reads its own sections and leaves the others alone, so
//! that one file (one ConfigMap) serves all. A value comes from, in this order: the file, the environment, the default.
//! An environment variable is either one of the names that a service knows (see [`EnvVar`]) or
//! `AIP__SECTION__KEY[__KEY…]`.
//!
//! Whatever is wrong is refused with the key, the value and the rule; problems that validation finds are all reported
//! in one run, and so are those of the types, but for what is inside of a list.
//!
//! A process that serves reads its configuration again when a file changes or an operator asks: see [`reload`].

mod environment;
mod error;
mod files;
mod print;
pub mod reload;
mod repair;
mod types;

use std::fmt;
use std::path::{Path, PathBuf};

use figment::providers::Serialized;
use figment::value::{Dict, Value};
use figment::{Figment, Metadata, Profile};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use environment::{EnvVar, Environment, Parse};
pub use error::{ConfigError, Problem, Problems, Refused};
use files::Fingerprints;
pub use files::read_file;
use print::Sources;
pub use types::{
    Endpoint, FromText, ListenAddress, Seconds, Secret, SecretUrl, comma_separated, value_or_text,
};

/// The sections that a configuration file may have.
pub const SECTIONS: &[&str] = &[
    "agent_router",
    "agents",
    "api_server",
    "cache",
    "circuit_breaker",
    "fallback_chain",
    "gateway",
    "security",
    "shutdown",
    "telemetry",
    "tiers",
    "upstream_sim",
];

/// A service's configuration: a struct whose fields are sections.
pub trait ServiceConfig: Serialize + DeserializeOwned + Default {
    /// The environment variables that it knows by name.
    const ENVIRONMENT: &'static [&'static [EnvVar]];

    /// Checks what the types alone cannot.
    fn check(&self, problems: &mut Problems);

    /// What is allowed and still unwise, each with its key and why. Told at start.
    fn warnings(&self) -> Vec<Problem> {
        Vec::new()
    }

    /// The files that it names, such as those of keys and certificates. What is in them is part of the configuration: when
    /// it changes, the configuration is read again.
    fn files(&self) -> Vec<PathBuf> {
        Vec::new()
    }
}

/// A configuration and where each of its values came from.
pub struct Loaded<T> {
    /// The configuration.
    pub config: T,
    sources: Sources,
    /// What was in the files when they were read.
    files: Fingerprints,
}

impl<T: fmt::Debug> fmt::Debug for Loaded<T> {
    /// Leaves the raw values out: they may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loaded").field("config", &self.config).finish_non_exhaustive()
    }
}

impl<T: Serialize> Loaded<T> {
    /// Every value with its source, one a line, secrets redacted.
    pub fn to_text(&self) -> String {
        print::to_text(&self.config, &self.sources)
    }
}

/// Reads a configuration from a file, if there is one, and the environment.
///
/// # Errors
/// The file cannot be read, or a key or value is wrong.
pub fn load<T: ServiceConfig>(
    file: Option<&Path>,
    environment: &Environment,
) -> Result<Loaded<T>, ConfigError> {
    let Some(path) = file else { return read(None, environment) };
    let unreadable = |error: std::io::Error| unreadable(path, error.to_string());
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    parse(path, &text, environment)
}

/// Reads a configuration from the text of a file, which is not looked at itself, and the environment.
///
/// # Errors
/// A key or value is wrong.
pub fn parse<T: ServiceConfig>(
    path: &Path,
    text: &str,
    environment: &Environment,
) -> Result<Loaded<T>, ConfigError> {
    read(Some((path, text)), environment)
}

fn read<T: ServiceConfig>(
    file: Option<(&Path, &str)>,
    environment: &Environment,
) -> Result<Loaded<T>, ConfigError> {
    // First: what is no document needs no more.
    let document = match file {
        Some((path, text)) => Some(document(text).map_err(|error| unreadable(path, error))?),
        None => None,
    };
    let defaults =
        Value::serialize(T::default()).map_err(|error| ConfigError::Defaults(error.to_string()))?;
    let own: Vec<String> = defaults.as_dict().map(|dict| dict.keys().cloned().collect()).unwrap_or_default();
    let known = T::ENVIRONMENT.iter().copied().flatten();
    let variables = environment.values(known, &defaults)?;
    let mut figment = Figment::from(Serialized::defaults(defaults));
    for (name, key, value) in variables {
        let metadata = Metadata::named(format!("environment {name}"));
        figment = figment.merge(Layer { metadata, dict: nest(&key, value) });
    }
    let mut files = Fingerprints::default();
    if let Some(((path, text), document)) = file.zip(document) {
        files.add(path, text.as_bytes());
        let dict = own_sections(document, &own)?;
        let metadata = Metadata::named(format!("file {}", path.display()));
        figment = figment.merge(Layer { metadata, dict });
    }
    let sources = Sources::of(figment)?;
    let config: T = repair::extract(&sources)?;
    for path in config.files() {
        files.look_at(&path);
    }
    let mut problems = Problems::default();
    config.check(&mut problems);
    problems.into_result(|key| sources.source(key))?;
    Ok(Loaded { config, sources, files })
}

fn unreadable(path: &Path, reason: String) -> ConfigError {
    ConfigError::File { path: path.to_owned(), reason }
}

fn document(text: &str) -> Result<Dict, String> {
    // A map takes the last of two equal keys in silence; a document refuses them.
    let checked: Result<serde_yaml_ng::Value, _> = serde_yaml_ng::from_str(text);
    checked.map_err(|error| error.to_string())?;
    let value: Option<Dict> = serde_yaml_ng::from_str(text).map_err(|error| error.to_string())?;
    Ok(value.unwrap_or_default())
}

fn own_sections(document: Dict, own: &[String]) -> Result<Dict, ConfigError> {
    let mut kept = Dict::new();
    for (section, value) in document {
        if !SECTIONS.contains(&section.as_str()) {
            return Err(Problem::unknown_key(&section, &section, SECTIONS).into());
        }
        if own.contains(&section) {
            // A section without content, such as one whose lines are all comments, says nothing.
            if !matches!(value, Value::Empty(..)) {
                kept.insert(section, value);
            }
        }
    }
    Ok(kept)
}

fn nest(key: &[String], value: Value) -> Dict {
    match key {
        [] => Dict::new(),
        [last] => Dict::from([(last.clone(), value)]),
        [first, rest @ ..] => Dict::from([(first.clone(), Value::from(nest(rest, value)))]),
    }
}

struct Layer {
    metadata: Metadata,
    dict: Dict,
}

impl figment::Provider for Layer {
    fn metadata(&self) -> Metadata {
        self.metadata.clone()
    }

    fn data(&self) -> figment::Result<figment::value::Map<Profile, Dict>> {
        Ok(Profile::Default.collect(self.dict.clone()))
    }
}

#[cfg(test)]
mod tests;
