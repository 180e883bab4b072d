//! Shows a configuration with the source of each value.

use std::fmt::Write as _;

use figment::Figment;
use serde::Serialize;
use serde_json::Value;

pub(super) fn to_text<T: Serialize>(config: &T, figment: &Figment) -> String {
    let mut text = String::new();
    // A configuration consists of what JSON can hold; should one ever not, it prints as empty instead of failing.
    let value = serde_json::to_value(config).unwrap_or_default();
    leaves("", &value, &mut |key, value| {
        let _ignored_because_a_string_takes_all =
            writeln!(text, "{key} = {value}   # {}", source(figment, key));
    });
    text
}

/// Where the value of a key came from. What was not given itself came with what it is part of.
pub(super) fn source(figment: &Figment, key: &str) -> String {
    ancestors(key)
        .find_map(|key| figment.find_metadata(key))
        .map(|metadata| metadata.name.as_ref())
        .filter(|name| name.starts_with("file ") || name.starts_with("environment "))
        .unwrap_or("default")
        .to_owned()
}

/// `a.b.0`, `a.b`, `a`.
fn ancestors(key: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(key), |key| Some(key.rsplit_once('.')?.0))
}

/// The value of a key as it was given, without the user and password of a URL.
pub(super) fn raw(figment: &Figment, key: &str) -> String {
    let found = figment.find_value(key).ok().or_else(|| {
        let (list, index) = key.rsplit_once('.')?;
        figment.find_value(list).ok()?.into_array()?.into_iter().nth(index.parse().ok()?)
    });
    let text = serde_json::to_value(found).map(|value| scalar(&value)).unwrap_or_default();
    match (text.split_once("://"), text.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://[redacted]@{host}"),
        _ => text,
    }
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
