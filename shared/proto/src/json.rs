//! Conversions between JSON and protobuf's `Struct`.

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

/// A JSON object as protobuf's. Numbers become doubles, which hold whole ones exactly up to 2^53.
pub fn from_json_object(fields: Map<String, serde_json::Value>) -> Struct {
    Struct { fields: fields.into_iter().map(|(name, value)| (name, from_json(value))).collect() }
}

/// A JSON value as protobuf's.
pub fn from_json(value: serde_json::Value) -> Value {
    let kind = match value {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(value) => Kind::BoolValue(value),
        // Without serde_json's arbitrary precision, every number has its double.
        serde_json::Value::Number(value) => Kind::NumberValue(value.as_f64().unwrap_or(f64::NAN)),
        serde_json::Value::String(value) => Kind::StringValue(value),
        serde_json::Value::Array(values) => {
            Kind::ListValue(ListValue { values: values.into_iter().map(from_json).collect() })
        }
        serde_json::Value::Object(fields) => Kind::StructValue(from_json_object(fields)),
    };
    Value { kind: Some(kind) }
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
    fn json_comes_back_as_it_went() {
        let json = serde_json::json!({"a": [1, 0.5, null], "b": {"c": true}, "d": "x", "e": -9_007_199_254_740_992_i64});
        let serde_json::Value::Object(fields) = json.clone() else { panic!() };
        let object = from_json_object(fields);
        assert!(json_size(&object).abs_diff(json.to_string().len()) < 20, "{}", json_size(&object));
        assert_eq!(serde_json::Value::Object(to_json_object(&object)), json);
    }
}
