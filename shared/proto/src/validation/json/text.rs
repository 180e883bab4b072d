//! A walk over JSON in text, which keeps nothing of it.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{Fault, MAX_DEPTH, MAX_VALUES};

/// Walks the text of an object. All values in it are added to `values`, and its own fields are told by their names.
///
/// # Errors
/// The first fault, and the field that it is in: an empty name stands for the object itself.
pub(super) fn walk(
    text: &str,
    values: &mut usize,
    on_field: &mut dyn FnMut(&str),
) -> Result<(), (String, Fault)> {
    let (mut fault, mut field) = (None, String::new());
    let mut json = serde_json::Deserializer::from_str(text);
    let object = Object { values, fault: &mut fault, field: &mut field, on_field };
    // It is whole only when nothing stands behind it.
    let walked = json.deserialize_any(object).and_then(|()| {
        field.clear();
        json.end()
    });
    walked.map_err(|_| (field, fault.unwrap_or(Fault::NoObject)))
}

/// The object itself.
struct Object<'a> {
    values: &'a mut usize,
    fault: &'a mut Option<Fault>,
    field: &'a mut String,
    on_field: &'a mut dyn FnMut(&str),
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<String>()? {
            (self.on_field)(&name);
            *self.field = name;
            map.next_value_seed(Inside { values: self.values, fault: self.fault, depth: 1 })?;
        }
        self.field.clear();
        Ok(())
    }
}

/// A value that is inside of `depth` objects and lists.
struct Inside<'a> {
    values: &'a mut usize,
    fault: &'a mut Option<Fault>,
    depth: usize,
}

impl Inside<'_> {
    fn deeper(&mut self) -> Inside<'_> {
        Inside { values: self.values, fault: self.fault, depth: self.depth + 1 }
    }

    fn stop<E: Error>(&mut self, fault: Fault) -> E {
        *self.fault = Some(fault);
        E::custom("out of bounds")
    }

    fn opened<E: Error>(&mut self) -> Result<(), E> {
        if self.depth == MAX_DEPTH { Err(self.stop(Fault::TooDeep)) } else { Ok(()) }
    }
}

impl<'de> DeserializeSeed<'de> for Inside<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(mut self, json: D) -> Result<(), D::Error> {
        *self.values += 1;
        if *self.values > MAX_VALUES {
            return Err(self.stop(Fault::TooMany));
        }
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Inside<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
        self.opened()?;
        while list.next_element_seed(self.deeper())?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        self.opened()?;
        while map.next_key::<IgnoredAny>()?.is_some() {
            map.next_value_seed(self.deeper())?;
        }
        Ok(())
    }
}
