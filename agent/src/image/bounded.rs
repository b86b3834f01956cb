//! Lists and maps of untrusted documents that end at a limit while they are read, and null as empty.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Annotations that somebody reads.
const KEPT: &[&str] = &[
    "dev.cosignproject.cosign/signature",
    "io.containerd.image.name",
    "org.opencontainers.image.ref.name",
    "vnd.docker.reference.digest",
    "vnd.docker.reference.type",
];

/// Null is the default.
pub(super) fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// At most `MAX` elements; null is none.
pub(super) fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>, const MAX: usize>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    deserializer.deserialize_any(List::<T, MAX>(PhantomData))
}

/// At most `MAX` elements; null is none.
pub(super) fn map<'de, D: Deserializer<'de>, T: Deserialize<'de>, const MAX: usize>(
    deserializer: D,
) -> Result<BTreeMap<String, T>, D::Error> {
    deserializer.deserialize_any(Map::<T, MAX>(PhantomData))
}

/// Those that somebody reads.
pub(super) fn annotations<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<BTreeMap<String, String>>, D::Error> {
    deserializer.deserialize_any(Annotations)
}

struct List<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for List<T, MAX> {
    type Value = Vec<T>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list")
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(Vec::new())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
        let mut list = Vec::new();
        while list.len() < MAX {
            match elements.next_element()? {
                Some(element) => list.push(element),
                None => return Ok(list),
            }
        }
        match elements.next_element::<IgnoredAny>()? {
            Some(_) => Err(A::Error::custom(format_args!("more than {MAX} elements"))),
            None => Ok(list),
        }
    }
}

struct Map<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Map<T, MAX> {
    type Value = BTreeMap<String, T>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a map")
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(BTreeMap::new())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
        let mut map = BTreeMap::new();
        while let Some((key, value)) = elements.next_entry()? {
            if map.len() >= MAX {
                return Err(A::Error::custom(format_args!("more than {MAX} elements")));
            }
            map.insert(key, value);
        }
        Ok(map)
    }
}

struct Annotations;

impl<'de> Visitor<'de> for Annotations {
    type Value = Option<BTreeMap<String, String>>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a map")
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
        let mut kept = BTreeMap::new();
        while let Some(key) = elements.next_key::<String>()? {
            if KEPT.contains(&key.as_str()) {
                kept.insert(key, elements.next_value()?);
            } else {
                elements.next_value::<IgnoredAny>()?;
            }
        }
        Ok(Some(kept))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn limits_are_exact_and_null_is_empty() {
        let read = |text: &str| {
            list::<_, u8, 2>(&mut serde_json::Deserializer::from_str(text))
                .map_err(|error| error.to_string())
        };
        assert_eq!(read("null"), Ok(vec![]));
        assert_eq!(read("[1,2]"), Ok(vec![1, 2]));
        assert!(read("[1,2,3]").unwrap_err().contains("more than 2 elements"));
        assert!(read("7").unwrap_err().contains("expected a list"));
        let read = |text: &str| {
            map::<_, u8, 1>(&mut serde_json::Deserializer::from_str(text))
                .map_err(|error| error.to_string())
        };
        assert_eq!(read("null").unwrap().len(), 0);
        // Of a key that comes twice the later value counts.
        assert_eq!(read(r#"{"a":1}"#).unwrap()["a"], 1);
        assert!(read(r#"{"a":1,"b":2}"#).unwrap_err().contains("more than 1 elements"));
    }

    #[test]
    fn only_annotations_that_are_read_are_kept() {
        let text = r#"{"io.containerd.image.name":"a","b":{"c":[1]},"d":"e"}"#;
        let kept = annotations(&mut serde_json::Deserializer::from_str(text)).unwrap().unwrap();
        assert_eq!(
            kept.into_iter().collect::<Vec<_>>(),
            [("io.containerd.image.name".to_owned(), "a".to_owned())]
        );
        assert!(KEPT.is_sorted());
    }
}
