//! A cursor over the JSON value that knows its path.
//!
//! It is used after [`super::shape`] has reported every value of a wrong type, so it reports
//! nothing: a value that is absent, null or of a wrong type is `None`.

use serde_json::Value;

use super::problems::Path;

#[derive(Debug, Clone)]
pub(super) struct Node<'a> {
    pub(super) path: Path,
    pub(super) value: &'a Value,
}

impl<'a> Node<'a> {
    pub(super) fn new(path: Path, value: &'a Value) -> Self {
        Self { path, value }
    }

    /// The path of a member, there or not.
    pub(super) fn at(&self, name: &str) -> Path {
        self.path.member(name)
    }

    /// The member, if it is there and not null.
    pub(super) fn member(&self, name: &str) -> Option<Self> {
        let value = self.value.get(name).filter(|value| !value.is_null())?;
        Some(Self::new(self.at(name), value))
    }

    /// Whether the member is there and not null, of whatever type.
    pub(super) fn has(&self, name: &str) -> bool {
        self.member(name).is_some()
    }

    pub(super) fn as_text(&self) -> Option<&'a str> {
        self.value.as_str()
    }

    /// A text member. ECS treats an empty one as absent.
    pub(super) fn text(&self, name: &str) -> Option<&'a str> {
        self.value.get(name)?.as_str().filter(|text| !text.is_empty())
    }

    pub(super) fn owned(&self, name: &str) -> Option<String> {
        self.text(name).map(str::to_owned)
    }

    pub(super) fn signed(&self, name: &str) -> Option<i64> {
        self.value.get(name)?.as_i64()
    }

    pub(super) fn number(&self, name: &str) -> Option<u32> {
        u32::try_from(self.signed(name)?).ok()
    }

    pub(super) fn flag(&self, name: &str) -> Option<bool> {
        self.value.get(name)?.as_bool()
    }

    /// Whether the flag is there and true.
    pub(super) fn on(&self, name: &str) -> bool {
        self.flag(name) == Some(true)
    }

    /// The elements of this value if it is a list.
    pub(super) fn elements(&self) -> Vec<Self> {
        let list = self.value.as_array().map(Vec::as_slice).unwrap_or_default();
        let nodes = list.iter().enumerate();
        nodes.map(|(index, value)| Self::new(self.path.element(index), value)).collect()
    }

    /// The elements of a list member.
    pub(super) fn list(&self, name: &str) -> Vec<Self> {
        self.member(name).map(|list| list.elements()).unwrap_or_default()
    }

    /// The texts of a list member.
    pub(super) fn texts(&self, name: &str) -> Vec<String> {
        self.list(name).iter().filter_map(Self::as_text).map(str::to_owned).collect()
    }

    /// The entries of a map member: path, key, text.
    pub(super) fn entries(&self, name: &str) -> Vec<(Path, &'a str, &'a str)> {
        let Some(map) = self.value.get(name).and_then(Value::as_object) else { return Vec::new() };
        let path = self.at(name);
        map.iter()
            .filter_map(|(key, value)| Some((path.member(key), key.as_str(), value.as_str()?)))
            .collect()
    }
}
