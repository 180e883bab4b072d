//! The rules for JSON that comes as protobuf: it must be finite in both senses.

use std::fmt;

use prost_types::value::Kind;
use prost_types::{Struct, Value};

use super::Found;

/// Objects and lists that JSON may have inside each other. prost itself refuses what is deeper than about 32, before a field
/// can be named; far under that, whoever walks the value needs no bound of its own.
pub const MAX_DEPTH: usize = 24;

/// What is wrong with a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    TooDeep,
    NotFinite,
}

impl Found {
    pub(super) fn json(&mut self, field: impl fmt::Display, value: Option<&Struct>) {
        let fault = value.and_then(|value| value.fields.values().find_map(|value| fault(value, 1)));
        match fault {
            None => {}
            Some(Fault::TooDeep) => self.add(field, format_args!("must be at most {MAX_DEPTH} levels deep")),
            Some(Fault::NotFinite) => self.add(field, "must not hold NaN or an infinite number"),
        }
    }
}

/// The first fault of a value that is inside of `depth` objects and lists.
fn fault(value: &Value, depth: usize) -> Option<Fault> {
    match value.kind.as_ref()? {
        Kind::NumberValue(number) => (!number.is_finite()).then_some(Fault::NotFinite),
        Kind::ListValue(_) | Kind::StructValue(_) if depth == MAX_DEPTH => Some(Fault::TooDeep),
        Kind::ListValue(list) => list.values.iter().find_map(|value| fault(value, depth + 1)),
        Kind::StructValue(object) => object.fields.values().find_map(|value| fault(value, depth + 1)),
        Kind::NullValue(_) | Kind::BoolValue(_) | Kind::StringValue(_) => None,
    }
}
