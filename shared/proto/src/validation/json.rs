//! The rules for JSON that comes as protobuf: it must be finite in both senses.

use std::fmt;

use prost_types::value::Kind;
use prost_types::{Struct, Value};

use super::Found;

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
}

impl Found {
    pub(super) fn json(&mut self, field: impl fmt::Display, value: Option<&Struct>) {
        let mut values = value.into_iter().flat_map(|value| value.fields.values());
        let fault = values.find_map(|value| fault(value, 1, &mut self.values));
        self.faulty(field, fault);
    }

    /// A value that stands in an object.
    pub(super) fn json_value(&mut self, field: impl fmt::Display, value: &Value) {
        let fault = fault(value, 1, &mut self.values);
        self.faulty(field, fault);
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
        }
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
