//! Protobuf's `Struct` as JSON.

use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use serde_json::{Map, Number};

/// A JSON object. Numbers without a fraction become integers, as JSON Schemas and OpenAI's parameters expect; NaN and
/// infinities, which JSON cannot hold, become null.
pub fn to_json_object(value: &Struct) -> Map<String, serde_json::Value> {
    value.fields.iter().map(|(name, value)| (name.clone(), to_json(value))).collect()
}

/// A JSON value.
pub fn to_json(value: &Value) -> serde_json::Value {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => serde_json::Value::Null,
        Some(Kind::BoolValue(value)) => (*value).into(),
        Some(Kind::NumberValue(value)) => number(*value),
        Some(Kind::StringValue(value)) => value.as_str().into(),
        Some(Kind::ListValue(ListValue { values })) => values.iter().map(to_json).collect(),
        Some(Kind::StructValue(value)) => to_json_object(value).into(),
    }
}

fn number(value: f64) -> serde_json::Value {
    /// Up to here a double holds every integer: 2^53.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() <= EXACT {
        #[allow(clippy::cast_possible_truncation, reason = "a whole number of at most 2^53 fits an i64")]
        let whole = value as i64;
        return whole.into();
    }
    Number::from_f64(value).map_or(serde_json::Value::Null, Into::into)
}

/// About how many bytes an object has as JSON.
pub fn json_size(value: &Struct) -> usize {
    let fields = value.fields.iter().map(|(name, value)| name.len() + SIGNS + value_size(value));
    fields.sum::<usize>() + SIGNS
}

/// Bytes that a number, a word, or the signs around a value have.
const SIGNS: usize = 4;

fn value_size(value: &Value) -> usize {
    match &value.kind {
        None | Some(Kind::NullValue(_) | Kind::BoolValue(_) | Kind::NumberValue(_)) => SIGNS,
        Some(Kind::StringValue(text)) => text.len() + SIGNS,
        Some(Kind::ListValue(list)) => list.values.iter().map(value_size).sum::<usize>() + SIGNS,
        Some(Kind::StructValue(object)) => json_size(object),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(kind: Kind) -> Value {
        Value { kind: Some(kind) }
    }

    #[test]
    fn every_kind_of_value_has_its_json() {
        let list = ListValue { values: vec![value(Kind::NumberValue(1.0)), value(Kind::NumberValue(0.5))] };
        let fields = [
            ("a".to_owned(), value(Kind::ListValue(list))),
            ("b".to_owned(), value(Kind::BoolValue(true))),
            ("c".to_owned(), value(Kind::NumberValue(f64::NAN))),
            ("d".to_owned(), value(Kind::StringValue("x".into()))),
            ("e".to_owned(), Value { kind: None }),
        ];
        let json = to_json(&value(Kind::StructValue(Struct { fields: fields.into() })));
        assert_eq!(json, serde_json::json!({"a": [1, 0.5], "b": true, "c": null, "d": "x", "e": null}));
    }

    #[test]
    fn the_size_of_json_is_about_right() {
        let list = ListValue { values: vec![value(Kind::NumberValue(-9_007_199_254_740_992.0))] };
        let inner = Struct { fields: [("c".to_owned(), value(Kind::BoolValue(true)))].into() };
        let fields = [
            ("a".to_owned(), value(Kind::ListValue(list))),
            ("b".to_owned(), value(Kind::StructValue(inner))),
            ("d".to_owned(), value(Kind::StringValue("x".repeat(100)))),
        ];
        let object = Struct { fields: fields.into() };
        let text = serde_json::Value::Object(to_json_object(&object)).to_string();
        assert_eq!(
            text,
            format!(r#"{{"a":[-9007199254740992],"b":{{"c":true}},"d":"{}"}}"#, "x".repeat(100))
        );
        assert!(json_size(&object).abs_diff(text.len()) < 20, "{}", json_size(&object));
    }
}
