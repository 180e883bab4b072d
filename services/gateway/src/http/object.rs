//! JSON read field by field, so that whatever is wrong can be named without being repeated.
//!
//! serde's own messages quote the value that they refuse, and a value may be a prompt.

use serde_json::{Map, Value};

/// A field that cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The field, as a path from the request.
    pub(super) param: String,
    /// What it must be.
    pub(super) rule: String,
}

impl Refusal {
    pub(super) fn new(param: impl Into<String>, rule: impl Into<String>) -> Self {
        Self { param: param.into(), rule: rule.into() }
    }
}

/// An object whose fields are taken one by one. `null` is the same as nothing.
#[derive(Debug)]
pub(super) struct Object {
    path: String,
    fields: Map<String, Value>,
}

impl Object {
    /// The object that stands at this path; an empty path is the request itself.
    pub(super) fn of(path: &str, value: Value) -> Result<Self, Refusal> {
        match value {
            Value::Object(fields) => Ok(Self { path: path.to_owned(), fields }),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                Err(Refusal::new(path, "must be an object"))
            }
        }
    }

    pub(super) fn path(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    pub(super) fn refuse<T>(&self, name: &str, rule: impl Into<String>) -> Result<T, Refusal> {
        Err(Refusal::new(self.path(name), rule))
    }

    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        self.fields.remove(name).filter(|value| !value.is_null())
    }

    pub(super) fn required(&mut self, name: &str) -> Result<Value, Refusal> {
        self.take(name).map_or_else(|| self.refuse(name, "must be set"), Ok)
    }

    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, Refusal> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => self.refuse(name, "must be a string"),
        }
    }

    pub(super) fn required_text(&mut self, name: &str) -> Result<String, Refusal> {
        self.text(name)?.map_or_else(|| self.refuse(name, "must be set"), Ok)
    }

    pub(super) fn boolean(&mut self, name: &str) -> Result<Option<bool>, Refusal> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(_) => self.refuse(name, "must be true or false"),
        }
    }

    pub(super) fn number(&mut self, name: &str) -> Result<Option<f64>, Refusal> {
        let Some(value) = self.take(name) else { return Ok(None) };
        value.as_f64().map_or_else(|| self.refuse(name, "must be a number"), |number| Ok(Some(number)))
    }

    /// A whole number that fits into `T`.
    pub(super) fn whole<T: TryFrom<i64>>(&mut self, name: &str, rule: &str) -> Result<Option<T>, Refusal> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let number = value.as_i64().and_then(|number| T::try_from(number).ok());
        number.map_or_else(|| self.refuse(name, rule), |number| Ok(Some(number)))
    }

    pub(super) fn list(&mut self, name: &str) -> Result<Option<Vec<Value>>, Refusal> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Array(values)) => Ok(Some(values)),
            Some(_) => self.refuse(name, "must be a list"),
        }
    }

    pub(super) fn object(&mut self, name: &str) -> Result<Option<Self>, Refusal> {
        let path = self.path(name);
        self.take(name).map(|value| Self::of(&path, value)).transpose()
    }

    /// Drops fields that are known and change nothing here.
    pub(super) fn ignore(&mut self, names: &[&str]) {
        for name in names {
            self.fields.remove(*name);
        }
    }

    /// What was not taken.
    pub(super) fn rest(mut self) -> Map<String, Value> {
        self.fields.retain(|_, value| !value.is_null());
        self.fields
    }

    /// Refuses what was not taken. Its name comes from outside, and is told only as far as names go.
    pub(super) fn end(self) -> Result<(), Refusal> {
        let path = |name: &str| self.path(name);
        match self.fields.iter().find(|(_, value)| !value.is_null()) {
            None => Ok(()),
            Some((name, _)) => {
                Err(Refusal::new(service_kit::status::shorten(&path(name), 128), "is not known here"))
            }
        }
    }
}

/// The path of an element.
pub(super) fn element(list: &str, index: usize) -> String {
    format!("{list}[{index}]")
}
