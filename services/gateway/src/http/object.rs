//! JSON read field by field, so that whatever is wrong can be named without being repeated, and so that what is passed on
//! can be passed on as the text that it came as.
//!
//! serde's own messages quote the value that they refuse, and a value may be a prompt.

use std::borrow::{Borrow, Cow};
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

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

/// The name of a field, as it stands in the text where that is possible.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl Borrow<str> for Name<'_> {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// An object whose fields are taken one by one. `null` is the same as nothing.
#[derive(Debug)]
pub(super) struct Object<'a> {
    path: String,
    fields: BTreeMap<Name<'a>, &'a RawValue>,
}

impl<'a> Object<'a> {
    /// The object that stands at this path; an empty path is the request itself.
    pub(super) fn of(path: &str, json: &'a RawValue) -> Result<Self, Refusal> {
        let fields = serde_json::from_str(json.get()).map_err(|_| Refusal::new(path, "must be an object"))?;
        Ok(Self { path: path.to_owned(), fields })
    }

    pub(super) fn path(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    pub(super) fn refuse<T>(&self, name: &str, rule: impl Into<String>) -> Result<T, Refusal> {
        Err(Refusal::new(self.path(name), rule))
    }

    /// A field as it stands there.
    pub(super) fn take(&mut self, name: &str) -> Option<&'a RawValue> {
        self.fields.remove(name).filter(|json| !is_null(json))
    }

    pub(super) fn required(&mut self, name: &str) -> Result<&'a RawValue, Refusal> {
        self.take(name).map_or_else(|| self.refuse(name, "must be set"), Ok)
    }

    /// A field of any kind.
    pub(super) fn value(&mut self, name: &str) -> Option<Value> {
        self.take(name).and_then(read)
    }

    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, Refusal> {
        self.typed(name, "must be a string")
    }

    pub(super) fn required_text(&mut self, name: &str) -> Result<String, Refusal> {
        self.text(name)?.map_or_else(|| self.refuse(name, "must be set"), Ok)
    }

    pub(super) fn boolean(&mut self, name: &str) -> Result<Option<bool>, Refusal> {
        self.typed(name, "must be true or false")
    }

    pub(super) fn number(&mut self, name: &str) -> Result<Option<f64>, Refusal> {
        self.typed(name, "must be a number")
    }

    /// A whole number that fits into `T`.
    pub(super) fn whole<T: TryFrom<i64>>(&mut self, name: &str, rule: &str) -> Result<Option<T>, Refusal> {
        let Some(number) = self.typed::<i64>(name, rule)? else { return Ok(None) };
        T::try_from(number).map_or_else(|_| self.refuse(name, rule), |number| Ok(Some(number)))
    }

    pub(super) fn list(&mut self, name: &str) -> Result<Option<Vec<&'a RawValue>>, Refusal> {
        self.typed(name, "must be a list")
    }

    pub(super) fn object(&mut self, name: &str) -> Result<Option<Self>, Refusal> {
        let path = self.path(name);
        self.take(name).map(|json| Self::of(&path, json)).transpose()
    }

    /// An object that is not looked into: its text.
    pub(super) fn object_text(&mut self, name: &str) -> Result<Option<String>, Refusal> {
        match self.take(name).map(RawValue::get) {
            None => Ok(None),
            Some(json) if json.starts_with('{') => Ok(Some(json.to_owned())),
            Some(_) => self.refuse(name, "must be an object"),
        }
    }

    fn typed<T: Deserialize<'a>>(&mut self, name: &str, rule: &str) -> Result<Option<T>, Refusal> {
        let Some(json) = self.take(name) else { return Ok(None) };
        read(json).map_or_else(|| self.refuse(name, rule), |value| Ok(Some(value)))
    }

    /// Drops fields that are known and change nothing here.
    pub(super) fn ignore(&mut self, names: &[&str]) {
        for name in names {
            self.fields.remove(*name);
        }
    }

    /// The text of an object of what was not taken, by name. Each value is as it came. Empty when nothing is left.
    pub(super) fn rest(mut self) -> String {
        self.fields.retain(|_, json| !is_null(json));
        if self.fields.is_empty() {
            return String::new();
        }
        // Names and JSON: there is nothing in it that could not be written.
        serde_json::to_string(&self.fields).unwrap_or_default()
    }

    /// Refuses what was not taken. Its name comes from outside, and is told only as far as names go.
    pub(super) fn end(self) -> Result<(), Refusal> {
        let path = |name: &str| self.path(name);
        match self.fields.iter().find(|(_, json)| !is_null(json)) {
            None => Ok(()),
            Some((Name(name), _)) => {
                Err(Refusal::new(service_kit::status::shorten(&path(name), 128), "is not known here"))
            }
        }
    }
}

fn is_null(json: &RawValue) -> bool {
    json.get() == "null"
}

/// What stands there, if it is of this type.
pub(super) fn read<'a, T: Deserialize<'a>>(json: &'a RawValue) -> Option<T> {
    serde_json::from_str(json.get()).ok()
}

/// The path of an element.
pub(super) fn element(list: &str, index: usize) -> String {
    format!("{list}[{index}]")
}
