//! Finds all values of a wrong type in one run.
//!
//! serde stops at the first. So what it stopped at is taken out, or put back to its default, and it is asked again.

use figment::error::Kind;
use figment::providers::Serialized;
use figment::value::{Dict, Value};
use figment::{Error, Figment};

use super::ServiceConfig;
use super::error::{ConfigError, Problem};
use super::print::Sources;

/// More than this in one configuration is another kind of document.
const MAX_PROBLEMS: usize = 50;

/// The configuration.
///
/// # Errors
/// Values are of a wrong type, or keys are unknown: all of them, but for those behind the first in a list.
pub(super) fn extract<T: ServiceConfig>(sources: &Sources) -> Result<T, ConfigError> {
    let mut error = match sources.extract() {
        Ok(config) => return Ok(config),
        Err(error) => *error,
    };
    let defaults = Value::serialize(T::default()).unwrap_or_else(|_| Dict::new().into());
    let mut value: Value = sources.extract().map_err(|error| Problem::of_figment(&error, sources))?;
    let mut problems = Vec::new();
    while problems.len() < MAX_PROBLEMS {
        let problem = Problem::of_figment(&error, sources);
        if problems.contains(&problem) {
            break;
        }
        problems.push(problem);
        if !take_out(&mut value, &wrong_key(&error), &defaults) {
            break;
        }
        error = match Figment::from(Serialized::defaults(&value)).extract::<T>() {
            Ok(_repaired) => break,
            Err(error) => error,
        };
    }
    Err(ConfigError::Invalid(problems))
}

/// The path of what is wrong.
fn wrong_key(error: &Error) -> Vec<String> {
    let mut path = error.path.clone();
    if let Kind::UnknownField(name, _) = &error.kind
        && path.last() != Some(name)
    {
        path.push(name.clone());
    }
    path
}

/// Puts the value of `path` back to its default, or takes it out where there is none. A list is one value. Says whether
/// there was anything to do.
fn take_out(value: &mut Value, path: &[String], defaults: &Value) -> bool {
    let (Value::Dict(_, dict), [key, rest @ ..]) = (value, path) else { return false };
    let default = defaults.as_dict().and_then(|defaults| defaults.get(key));
    match (dict.get_mut(key), rest) {
        (Some(inner @ Value::Dict(..)), [_, ..]) => {
            let none = Value::from(Dict::new());
            take_out(inner, rest, default.unwrap_or(&none))
        }
        (Some(inner), _) => {
            match default {
                // The default of a list is right: what is wrong is what was given.
                Some(default) => *inner = default.clone(),
                None => drop(dict.remove(key)),
            }
            true
        }
        (None, _) => false,
    }
}
