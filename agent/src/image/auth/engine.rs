//! `ECS_ENGINE_AUTH_TYPE` and `ECS_ENGINE_AUTH_DATA`.
//!
//! Where the Amazon agent warns of what it cannot read and goes on without, this one refuses to start:
//! which login was meant would show at the next pull only, as a refusal of the registry.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::Error;
use super::keys::{Entry, Keyring};

pub(super) fn read(kind: Option<&str>, data: Option<&str>) -> Result<Keyring, Error> {
    let data = data.filter(|data| !data.trim().is_empty());
    let kind = match kind.filter(|kind| !kind.is_empty()) {
        None if data.is_some() => return Err(Error::KindMissing),
        None => return Ok(Keyring::default()),
        Some("dockercfg") => "dockercfg",
        Some("docker") => "docker",
        Some(other) => return Err(Error::Kind(other.to_owned())),
    };
    let Some(data) = data else { return Ok(Keyring::default()) };
    if let Ok(Wrapped { auths }) = serde_json::from_str(data) {
        return Keyring::read(auths);
    }
    // Both are secret, and serde's own messages quote the text: only the place is kept.
    let entries = serde_json::from_str(data).map_err(|error| Error::Data {
        kind,
        line: error.line(),
        column: error.column(),
    })?;
    Keyring::read(entries)
}

/// The whole of Docker's `config.json`, as people paste it; taken for a list of registries it would
/// be that of one without a login.
#[derive(Deserialize)]
struct Wrapped {
    auths: BTreeMap<String, Entry>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::Login;
    use super::*;

    #[test]
    fn both_forms() {
        let data = r#"{"https://index.docker.io/v1/":{"auth":"bWU6c2VjcjpldA==","email":"m@e"}}"#;
        let keys = read(Some("dockercfg"), Some(data)).unwrap();
        let login = Login::Password { user: "me".to_owned(), password: "secr:et".to_owned() };
        assert_eq!(keys.find("docker.io", "me/app"), Some(&login));
        assert_eq!(keys.find("other.example", "app"), None);

        let data = r#"{"https://r.example:5000/v1":{"username":"u","password":"p","email":"e"}}"#;
        let keys = read(Some("docker"), Some(data)).unwrap();
        let login = Login::Password { user: "u".to_owned(), password: "p".to_owned() };
        assert_eq!(keys.find("r.example:5000", "app"), Some(&login));
        assert_eq!(keys.find("r.example", "app"), None);
        assert!(read(Some("docker"), None).is_ok() && read(None, Some(" ")).is_ok());
    }

    #[test]
    fn a_whole_file_of_docker() {
        let data = r#"{"auths":{"r.example":{"auth":"YTpi"}},"detachKeys":"ctrl-x"}"#;
        let login = Login::Password { user: "a".to_owned(), password: "b".to_owned() };
        for kind in ["dockercfg", "docker"] {
            let keys = read(Some(kind), Some(data)).unwrap();
            assert_eq!(keys.find("r.example", "app"), Some(&login));
        }
        // A registry may have any name.
        let data = r#"{"auths":{"username":"a","password":"b"}}"#;
        assert_eq!(read(Some("docker"), Some(data)).unwrap().find("auths", "app"), Some(&login));
    }

    #[test]
    fn secrets_are_neither_shown_nor_quoted_in_errors() {
        let data = r#"{"h":{"username":"user1","password":"pass1"}}"#;
        let shown = format!("{:?}", read(Some("docker"), Some(data)).unwrap());
        assert!(!shown.contains("pass1") && !shown.contains("user1"), "{shown}");
        for (kind, data) in [
            (Some("docker"), Some(r#"{"h":"hunter2"}"#)),
            (Some("dockercfg"), Some(r#"{"h":{"auth":"hunter2!"}}"#)),
            (None, Some("hunter2")),
            (Some("ecr"), None),
        ] {
            let error = read(kind, data).unwrap_err();
            let shown = format!("{error} {error:?}");
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }
}
