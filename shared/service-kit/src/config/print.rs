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

/// Where the value of a key came from.
pub(super) fn source(figment: &Figment, key: &str) -> String {
    figment
        .find_metadata(key)
        .or_else(|| figment.find_metadata(list_item(key)?.0))
        .map(|metadata| metadata.name.as_ref())
        .filter(|name| name.starts_with("file ") || name.starts_with("environment "))
        .unwrap_or("default")
        .to_owned()
}

/// The value of a key as it was given.
pub(super) fn raw(figment: &Figment, key: &str) -> String {
    let found = figment.find_value(key).ok().or_else(|| {
        let (list, index) = list_item(key)?;
        figment.find_value(list).ok()?.into_array()?.into_iter().nth(index)
    });
    serde_json::to_value(found).map(|value| scalar(&value)).unwrap_or_default()
}

/// Splits the key of a list's item: `a.b.0` is item 0 of `a.b`.
fn list_item(key: &str) -> Option<(&str, usize)> {
    let (list, index) = key.rsplit_once('.')?;
    Some((list, index.parse().ok()?))
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
