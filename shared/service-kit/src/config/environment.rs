//! Values from environment variables.

use std::collections::BTreeMap;

use figment::value::Value;

use super::SECTIONS;
use super::error::{ConfigError, Problem};

/// How the text of an environment variable is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parse {
    /// `true`, `1`, `yes`, `on`, or their opposites, in any case.
    Bool,
    /// A whole number.
    Integer,
    /// A number of seconds.
    Seconds,
    /// Text as it stands.
    Text,
}

/// An environment variable that a service knows by name.
#[derive(Debug, Clone, Copy)]
pub struct EnvVar {
    /// Its name.
    pub name: &'static str,
    /// The key that it sets.
    pub key: &'static str,
    /// How it is read.
    pub parse: Parse,
}

impl EnvVar {
    /// The variable `name`, which sets `key`.
    pub const fn new(name: &'static str, key: &'static str, parse: Parse) -> Self {
        Self { name, key, parse }
    }

    fn read(&self, text: &str) -> Result<Value, Problem> {
        let refuse = |rule: &str| Problem::new(self.name, text, rule);
        match self.parse {
            Parse::Text => Ok(Value::from(text)),
            Parse::Integer => text
                .trim()
                .parse::<u64>()
                .map(Value::from)
                .map_err(|_| refuse("must be a whole number of at least 0")),
            Parse::Seconds => text
                .trim()
                .parse::<f64>()
                .ok()
                .filter(|seconds| seconds.is_finite() && *seconds >= 0.0)
                .map(Value::from)
                .ok_or_else(|| refuse("must be a number of seconds of at least 0")),
            Parse::Bool => match text.trim().to_ascii_lowercase().as_str() {
                "true" | "1" | "yes" | "on" => Ok(Value::from(true)),
                "false" | "0" | "no" | "off" => Ok(Value::from(false)),
                _ => Err(refuse("must be true or false")),
            },
        }
    }
}

/// The environment that a process was started in, read once.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, String>,
}

/// A variable's name, the key that it sets, and the value.
pub(super) type Setting<'a> = (&'a str, Vec<String>, Value);

const PREFIX: &str = "AIP__";

impl Environment {
    /// The environment of this process. Variables that are not Unicode are left out.
    pub fn of_process() -> Self {
        let variables = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Self { variables }
    }

    /// The value of a variable. An empty one counts as unset, as OpenTelemetry and compose files have it.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The values of known variables and of `AIP__…` variables, as (name, key, value). Sections of other services are
    /// left out.
    pub(super) fn values<'a>(
        &'a self,
        known: impl Iterator<Item = &'a EnvVar>,
        defaults: &Value,
    ) -> Result<Vec<Setting<'a>>, ConfigError> {
        let mut values = Vec::new();
        for variable in known {
            if let Some(text) = self.get(variable.name) {
                let value = variable.read(text)?;
                let key = variable.key.split('.').map(str::to_owned).collect();
                values.push((variable.name, key, value));
            }
        }
        for name in self.variables.keys().filter(|name| name.starts_with(PREFIX)) {
            let Some(text) = self.get(name) else { continue };
            let key: Vec<String> = name[PREFIX.len()..].split("__").map(str::to_ascii_lowercase).collect();
            let section = key.first().map(String::as_str).unwrap_or_default();
            if !SECTIONS.contains(&section) {
                return Err(Problem::unknown_key(name, section, SECTIONS).into());
            }
            if defaults.find_ref(section).is_some() {
                let value = scalar(text, defaults.find_ref(&key.join(".")));
                values.push((name, key, value));
            }
        }
        Ok(values)
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Self {
        let variables = variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        Self { variables }
    }
}

/// Reads text as the type that the key has by default; text where it has none, because what is unset by default is text
/// (or a time, which may be written as text).
fn scalar(text: &str, default: Option<&Value>) -> Value {
    match default {
        Some(Value::Bool(..)) => text.parse::<bool>().map_or_else(|_| Value::from(text), Value::from),
        Some(Value::Num(..)) => match (text.parse::<u64>(), text.parse::<f64>()) {
            (Ok(whole), _) => Value::from(whole),
            (Err(_), Ok(number)) if number.is_finite() => Value::from(number),
            _ => Value::from(text),
        },
        Some(Value::String(..) | Value::Char(..) | Value::Empty(..) | Value::Dict(..) | Value::Array(..))
        | None => Value::from(text),
    }
}
