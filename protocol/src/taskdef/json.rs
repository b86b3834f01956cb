//! Text to JSON value, stricter than JSON: a key given twice is a problem (parsers disagree on
//! which one counts, so what a reviewer reads is not what runs), and so is a text that is too long.
//!
//! Nesting is bounded by `serde_json` (128 levels).

use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::problems::{Path, ProblemKind, Problems, Report};

/// The longest definition, in bytes of its text (ECS quota).
pub const MAX_BYTES: usize = 64 * 1024;

/// Parses `text`. The report has the keys given twice.
pub(super) fn read(text: &str) -> Result<(Value, Report), Problems> {
    let root = Path::default();
    let mut report = Report::default();
    if text.len() > MAX_BYTES {
        let rule =
            format!("is {} bytes long, at most {MAX_BYTES} (64 KiB) are allowed", text.len());
        return Err(report.give_up(ProblemKind::Invalid, &root, rule));
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let twice = RefCell::new(Vec::new());
    let value = Place { path: root.clone(), twice: &twice }
        .deserialize(&mut deserializer)
        .and_then(|value| deserializer.end().map(|()| value));
    for path in twice.into_inner() {
        report.malformed(&path, "is given more than once");
    }
    match value {
        Ok(value) => Ok((value, report)),
        Err(error) => {
            let rule = format!("not valid JSON: {error}");
            Err(report.give_up(ProblemKind::Malformed, &root, rule))
        }
    }
}

/// Builds the value at `path`, noting keys given twice; the first one is kept.
struct Place<'a> {
    path: Path,
    twice: &'a RefCell<Vec<Path>>,
}

impl<'de> DeserializeSeed<'de> for Place<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Place<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom("number out of range"))?;
        Ok(Value::Number(number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = elements
            .next_element_seed(Place { path: self.path.element(list.len()), twice: self.twice })?
        {
            list.push(value);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let path = self.path.member(&key);
            let value = entries.next_value_seed(Place { path: path.clone(), twice: self.twice })?;
            if map.contains_key(&key) {
                self.twice.borrow_mut().push(path);
            } else {
                map.insert(key, value);
            }
        }
        Ok(Value::Object(map))
    }
}
