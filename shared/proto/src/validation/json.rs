//! The rules for JSON that comes as protobuf or as text: it must be finite in both senses.

mod text;

use std::fmt;

use prost_types::value::Kind;
use prost_types::{Struct, Value};

use super::{Found, MAX_NAME};

/// Objects and lists that JSON may have inside each other. prost itself refuses what is deeper than about 32, before a field
/// can be named; far under that, whoever walks the value needs no bound of its own.
pub const MAX_DEPTH: usize = 24;

/// Values that all JSON of a request may have together, with all that is inside of them. One of two bytes takes some dozens in
/// memory, and is held for as long as its request is under way.
pub const MAX_VALUES: usize = 20_000;

/// What is wrong with a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    TooDeep,
    TooMany,
    NotFinite,
    NoObject,
}

impl Found {
    /// An object that stands in a field as protobuf, or as text in the field of that name with `_json`.
    pub(super) fn json(&mut self, field: fmt::Arguments<'_>, value: Option<&Struct>, text: &str) {
        let mut values = value.into_iter().flat_map(|value| value.fields.values());
        let fault = values.find_map(|value| fault(value, 1, &mut self.values));
        self.faulty(field, fault);
        if text.is_empty() {
            return;
        }
        self.require(
            value.is_none(),
            format_args!("{field}_json"),
            format_args!("must not be set beside {field}"),
        );
        let fault = text::walk(text, &mut self.values, &mut |_| {}).err().map(|(_, fault)| fault);
        self.faulty(format_args!("{field}_json"), fault);
    }

    /// The same for an object whose fields are named one by one. `check` is told each name, and where it stands.
    pub(super) fn json_fields(
        &mut self,
        field: &str,
        value: Option<&Struct>,
        text: &str,
        check: impl Fn(&mut Self, &str, &str),
    ) {
        for (name, value) in value.iter().flat_map(|value| &value.fields) {
            check(self, field, name);
            let fault = fault(value, 1, &mut self.values);
            self.faulty(Named { field, name }, fault);
        }
        if text.is_empty() {
            return;
        }
        let field = format!("{field}_json");
        self.require(value.is_none(), &field, "must not be set beside the field without _json");
        let mut values = self.values;
        let walked = text::walk(text, &mut values, &mut |name| check(self, &field, name));
        self.values = values;
        if let Err((name, fault)) = walked {
            self.faulty(Named { field: &field, name: &name }, Some(fault));
        }
    }

    fn faulty(&mut self, field: impl fmt::Display, fault: Option<Fault>) {
        match fault {
            None => {}
            Some(Fault::TooDeep) => self.add(field, format_args!("must be at most {MAX_DEPTH} levels deep")),
            Some(Fault::TooMany) => {
                self.add(
                    field,
                    format_args!("must be at most {MAX_VALUES} values, with all JSON of the request"),
                );
            }
            Some(Fault::NotFinite) => self.add(field, "must not hold NaN or an infinite number"),
            Some(Fault::NoObject) => self.add(field, "must be the text of a JSON object"),
        }
    }
}

/// A field of an object. Its name comes from outside as well; one that is long is not repeated.
struct Named<'a> {
    field: &'a str,
    name: &'a str,
}

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.field)?;
        if self.name.is_empty() || self.name.len() > MAX_NAME { Ok(()) } else { write!(f, ".{}", self.name) }
    }
}

/// The first fault of a value that is inside of `depth` objects and lists. It and what is in it are added to `values`.
fn fault(value: &Value, depth: usize, values: &mut usize) -> Option<Fault> {
    *values += 1;
    if *values > MAX_VALUES {
        return Some(Fault::TooMany);
    }
    match value.kind.as_ref()? {
        Kind::NumberValue(number) => (!number.is_finite()).then_some(Fault::NotFinite),
        Kind::ListValue(_) | Kind::StructValue(_) if depth == MAX_DEPTH => Some(Fault::TooDeep),
        Kind::ListValue(list) => list.values.iter().find_map(|value| fault(value, depth + 1, values)),
        Kind::StructValue(object) => object.fields.values().find_map(|value| fault(value, depth + 1, values)),
        Kind::NullValue(_) | Kind::BoolValue(_) | Kind::StringValue(_) => None,
    }
}
