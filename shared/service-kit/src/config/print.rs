//! Shows a configuration with the source of each value.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use figment::value::Value as Given;
use figment::{Error, Figment};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::error::ConfigError;

/// Every value as it was given, and where. They are merged once: figment does so again for every question.
#[derive(Debug)]
pub(super) struct Sources {
    figment: Figment,
    merged: Given,
}

impl Sources {
    /// The values of these layers.
    ///
    /// # Errors
    /// A layer cannot be read.
    pub(super) fn of(figment: Figment) -> Result<Self, ConfigError> {
        let merged = figment.find_value("").map_err(|error| ConfigError::Defaults(error.to_string()))?;
        Ok(Self { figment, merged })
    }

    /// The values as a type.
    ///
    /// # Errors
    /// They are none of this type.
    pub(super) fn extract<T: DeserializeOwned>(&self) -> Result<T, Box<Error>> {
        self.figment.extract().map_err(Box::new)
    }

    /// Where the value of a key came from. What was not given itself came with what it is part of.
    pub(super) fn source(&self, key: &str) -> String {
        ancestors(key)
            .find_map(|key| self.figment.get_metadata(self.merged.find_ref(key)?.tag()))
            .map(|metadata| metadata.name.as_ref())
            .filter(|name| name.starts_with("file ") || name.starts_with("environment "))
            .unwrap_or("default")
            .to_owned()
    }

    /// The value of a key as it was given, without the user and password of a URL.
    pub(super) fn raw(&self, key: &str) -> String {
        let found = self.merged.find_ref(key).or_else(|| {
            let (list, index) = key.rsplit_once('.')?;
            self.merged.find_ref(list)?.as_array()?.get(index.parse::<usize>().ok()?)
        });
        let text = serde_json::to_value(found).map(|value| scalar(&value)).unwrap_or_default();
        match (text.split_once("://"), text.rsplit_once('@')) {
            (Some((scheme, _)), Some((_, host))) => format!("{scheme}://[redacted]@{host}"),
            _ => text,
        }
    }

    fn given(&self, key: &str) -> Option<Value> {
        serde_json::to_value(self.merged.find_ref(key)?).ok()
    }
}

pub(super) fn to_text<T: Serialize>(config: &T, sources: &Sources) -> String {
    let mut text = String::new();
    // A configuration consists of what JSON can hold; should one ever not, it prints as empty instead of failing.
    let value = serde_json::to_value(config).unwrap_or_default();
    leaves("", &value, &mut |key, value| {
        let _ignored_because_a_string_takes_all =
            writeln!(text, "{key} = {value}   # {}", sources.source(key));
    });
    text
}

/// The keys whose values differ between two configurations: those that are shown differently, and secrets that were given
/// differently.
pub(super) fn differences<T: Serialize>(one: (&T, &Sources), other: (&T, &Sources)) -> BTreeSet<String> {
    let shown = |config: &T| {
        let mut shown = BTreeMap::new();
        leaves("", &serde_json::to_value(config).unwrap_or_default(), &mut |key, value| {
            shown.insert(key.to_owned(), value.to_owned());
        });
        shown
    };
    let (before, after) = (shown(one.0), shown(other.0));
    let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let differs = |key: &&&String| {
        let (before, after) = (before.get(**key), after.get(**key));
        let secret = after.is_some_and(|value| value.contains("redacted"));
        before != after || secret && one.1.given(key) != other.1.given(key)
    };
    keys.iter().filter(differs).map(|key| (*key).clone()).collect()
}

/// `a.b.0`, `a.b`, `a`.
fn ancestors(key: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(key), |key| Some(key.rsplit_once('.')?.0))
}

/// Whether a value that could not be parsed may hold a secret and must not be shown.
pub(super) fn is_secret(key: &str) -> bool {
    ["url", "key", "secret", "password", "token"].iter().any(|word| key.ends_with(word))
}

fn leaves(key: &str, value: &Value, visit: &mut impl FnMut(&str, &str)) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, value) in fields {
                let key = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                leaves(&key, value, visit);
            }
        }
        Value::Null => visit(key, "(unset)"),
        Value::Array(_) | Value::Bool(_) | Value::Number(_) | Value::Object(_) | Value::String(_) => {
            visit(key, &scalar(value));
        }
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            value.to_string()
        }
    }
}
