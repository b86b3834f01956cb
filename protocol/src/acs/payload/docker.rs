//! Reading Docker's `Config` and `HostConfig` texts: members are taken out one by one, and what is
//! left over must say "off".

use serde_json::{Map, Value};

use super::{MEBIBYTE, PayloadError};

/// The members of a text that have not been taken yet.
#[derive(Debug)]
pub(super) struct Text {
    path: String,
    members: Map<String, Value>,
}

impl Text {
    /// Absent and empty are an empty object.
    pub(super) fn parse(path: String, text: Option<&str>) -> Result<Self, PayloadError> {
        let members = match text.map(str::trim).filter(|text| !text.is_empty()) {
            None => Map::new(),
            // `null` is what Go writes for no value.
            Some("null") => Map::new(),
            Some(text) => serde_json::from_str(text)
                .map_err(|source| PayloadError::Text { member: path.clone(), source })?,
        };
        Ok(Self { path, members })
    }

    /// An object within a text.
    pub(super) fn of(path: String, members: Map<String, Value>) -> Self {
        Self { path, members }
    }

    pub(super) fn at(&self, key: &str) -> String {
        format!("{}.{key}", self.path)
    }

    /// The value, for the validator to check; null if it is absent.
    pub(super) fn take(&mut self, key: &str) -> Value {
        self.members.remove(key).unwrap_or(Value::Null)
    }

    /// A list; empty if it is absent.
    pub(super) fn list(&mut self, key: &str) -> Result<Vec<Value>, PayloadError> {
        match self.take(key) {
            Value::Null => Ok(Vec::new()),
            Value::Array(list) => Ok(list),
            _ => Err(malformed(self.at(key), "must be a list")),
        }
    }

    /// An object; empty if it is absent.
    pub(super) fn object(&mut self, key: &str) -> Result<Map<String, Value>, PayloadError> {
        object(self.at(key), self.take(key))
    }

    /// A whole number; absent and 0 are `None`.
    pub(super) fn number(&mut self, key: &str) -> Result<Option<i64>, PayloadError> {
        match self.take(key) {
            Value::Null => Ok(None),
            value => match value.as_i64() {
                Some(number) => Ok(Some(number).filter(|number| *number != 0)),
                None => Err(malformed(self.at(key), "must be a whole number")),
            },
        }
    }

    /// Bytes that are whole MiB, as such.
    pub(super) fn mebibytes(&mut self, key: &str) -> Result<Option<i64>, PayloadError> {
        match self.number(key)? {
            Some(bytes) if bytes % MEBIBYTE != 0 => {
                Err(malformed(self.at(key), format!("must be whole MiB, is {bytes} bytes")))
            }
            bytes => Ok(bytes.map(|bytes| bytes / MEBIBYTE)),
        }
    }

    /// Text; absent and empty are `None`.
    pub(super) fn text(&mut self, key: &str) -> Result<Option<String>, PayloadError> {
        match self.take(key) {
            Value::Null => Ok(None),
            Value::String(text) => Ok(Some(text).filter(|text| !text.is_empty())),
            _ => Err(malformed(self.at(key), "must be a text")),
        }
    }

    /// Whatever was not taken must say "off".
    pub(super) fn finish(self) -> Result<(), PayloadError> {
        match self.members.iter().find(|(_, value)| !is_off(value)) {
            Some((key, _)) => Err(PayloadError::NotSupported {
                // A key is hostile as any other text.
                member: format!("{}.{}", self.path, shorten(key)),
                what: "this option of containers",
            }),
            None => Ok(()),
        }
    }
}

/// Null, false, 0, and what is empty.
pub(super) fn is_off(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.values().all(is_off),
    }
}

pub(super) fn object(path: String, value: Value) -> Result<Map<String, Value>, PayloadError> {
    match value {
        Value::Null => Ok(Map::new()),
        Value::Object(map) => Ok(map),
        _ => Err(malformed(path, "must be an object")),
    }
}

pub(super) fn malformed(member: String, rule: impl Into<String>) -> PayloadError {
    PayloadError::Malformed { member, rule: rule.into() }
}

/// Foreign text as messages show it: escaped and cut.
pub(super) fn shorten(text: &str) -> String {
    let cut: String = text.chars().take(80).collect();
    cut.escape_debug().to_string()
}
