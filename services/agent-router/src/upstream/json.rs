//! JSON for an upstream: what is ours as values, what is the client's as the text that it came as.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::UpstreamError;

/// A value that is sent.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Json<'a> {
    /// Ours.
    Own(Value),
    /// The client's, as it stands.
    Given(&'a RawValue),
    /// Some of both.
    List(Vec<Json<'a>>),
    /// Some of both.
    Object(Fields<'a>),
}

/// The fields of an object, by their names.
pub(super) type Fields<'a> = BTreeMap<String, Json<'a>>;

impl<'a> Json<'a> {
    /// The client's text.
    ///
    /// # Errors
    /// It is no JSON.
    pub(super) fn given(text: &'a str) -> Result<Self, UpstreamError> {
        serde_json::from_str(text).map(Self::Given).map_err(|error| none(&error))
    }

    /// An object of these fields.
    pub(super) fn object<const N: usize>(fields: [(&str, Self); N]) -> Self {
        Self::Object(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }
}

impl From<Value> for Json<'_> {
    fn from(value: Value) -> Self {
        Self::Own(value)
    }
}

impl From<&str> for Json<'_> {
    fn from(text: &str) -> Self {
        Self::Own(text.into())
    }
}

impl From<bool> for Json<'_> {
    fn from(value: bool) -> Self {
        Self::Own(value.into())
    }
}

/// The fields of an object in the client's text.
///
/// # Errors
/// It is none.
pub(super) fn given_fields(text: &str) -> Result<Fields<'_>, UpstreamError> {
    let fields: BTreeMap<String, &RawValue> = serde_json::from_str(text).map_err(|error| none(&error))?;
    Ok(fields.into_iter().map(|(name, value)| (name, Json::Given(value))).collect())
}

/// Requests with such text are refused at the door. The error says where it is wrong, and not what stands there.
fn none(error: &serde_json::Error) -> UpstreamError {
    UpstreamError::Unsupported(format!(
        "JSON that is none at line {} column {}",
        error.line(),
        error.column()
    ))
}
