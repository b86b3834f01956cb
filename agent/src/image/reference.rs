//! Names of images: Docker's grammar (`distribution/reference`), its defaults (`docker.io`,
//! `library/`, `latest`) and its two spellings, the full and the familiar one.
//!
//! ```text
//! reference := name [ ":" tag ] [ "@" digest ]        name := [ domain "/" ] path, at most 255 bytes
//! domain    := host [ ":" port ]      the first component is one if it has a "." or ":", is
//!                                     "localhost", or has an upper-case letter
//! path      := component { "/" component }            component := alnum { separator alnum }
//! separator := "." | "_" | "__" | "-" { "-" }         tag := [A-Za-z0-9_][A-Za-z0-9_.-]{0,127}
//! ```

use std::fmt;

const DEFAULT_DOMAIN: &str = "docker.io";
const LEGACY_DOMAIN: &str = "index.docker.io";
const OFFICIAL: &str = "library/";
const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    #[error("is empty")]
    Empty,
    #[error("the name {0:?} is longer than 255 bytes")]
    TooLong(String),
    #[error("the repository name {0:?} must be lower case")]
    Uppercase(String),
    #[error("{0:?} is not a registry host")]
    Domain(String),
    #[error("{0:?} is not a repository name")]
    Path(String),
    #[error("{0:?} is not a tag")]
    Tag(String),
    #[error("{0:?} is not a digest (sha256:<64 hexadecimal digits>)")]
    Digest(String),
    #[error("64 hexadecimal digits are an image id, not a name")]
    Id,
}

/// A normalised reference.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<String>,
}

impl Reference {
    /// Reads what a person or a task definition wrote. Without tag and digest the tag is `latest`.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if text.is_empty() {
            return Err(Error::Empty);
        }
        if text.len() == 64 && is_lower_hex(text) {
            return Err(Error::Id);
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) if is_digest(digest) => (rest, Some(digest)),
            Some((_, digest)) => return Err(Error::Digest(digest.to_owned())),
            None => (text, None),
        };
        // A colon after the last slash begins a tag; before it, a port.
        let last = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match rest[last..].find(':') {
            Some(colon) => (&rest[..last + colon], Some(&rest[last + colon + 1..])),
            None => (rest, None),
        };
        if let Some(tag) = tag
            && !is_tag(tag)
        {
            return Err(Error::Tag(tag.to_owned()));
        }
        let (domain, path) = split_domain(name);
        if !is_domain(domain) {
            return Err(Error::Domain(domain.to_owned()));
        }
        if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(Error::Uppercase(path.to_owned()));
        }
        if !path.split('/').all(is_component) {
            return Err(Error::Path(path.to_owned()));
        }
        let official = domain == DEFAULT_DOMAIN && !path.contains('/');
        let path = if official { format!("{OFFICIAL}{path}") } else { path.to_owned() };
        if domain.len() + 1 + path.len() > MAX_NAME {
            return Err(Error::TooLong(name.to_owned()));
        }
        let tag = match (tag, digest) {
            (None, None) => Some("latest".to_owned()),
            (tag, _) => tag.map(ToOwned::to_owned),
        };
        Ok(Self { domain: domain.to_owned(), path, tag, digest: digest.map(ToOwned::to_owned) })
    }

    /// Host and port of the registry as written; `docker.io` for Docker Hub.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Repository within the registry.
    pub fn path(&self) -> &str {
        &self.path
    }

    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// Was this text, which names an image, written without a tag and a digest?
    pub fn is_only_name(text: &str) -> bool {
        let last = text.rfind('/').map_or(0, |slash| slash + 1);
        !text.contains('@') && !text[last..].contains(':')
    }

    /// Name without tag and digest, as Docker shows it.
    pub fn familiar_name(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return format!("{}/{}", self.domain, self.path);
        }
        match self.path.strip_prefix(OFFICIAL) {
            Some(short) if !short.contains('/') => short.to_owned(),
            _ => self.path.clone(),
        }
    }

    /// As Docker shows it: `alpine:3.20`.
    pub fn familiar(&self) -> String {
        self.suffixed(self.familiar_name())
    }

    /// This name with a digest instead of what it has.
    pub fn with_digest(&self, digest: &str) -> Self {
        Self { tag: None, digest: Some(digest.to_owned()), ..self.clone() }
    }

    /// This name and tag without the digest; `None` without a tag.
    pub fn tagged(&self) -> Option<Self> {
        self.tag.as_ref()?;
        Some(Self { digest: None, ..self.clone() })
    }

    /// Do both name the same repository?
    pub fn same_repository(&self, other: &Self) -> bool {
        self.domain == other.domain && self.path == other.path
    }

    fn suffixed(&self, mut name: String) -> String {
        if let Some(tag) = &self.tag {
            name.push(':');
            name.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            name.push('@');
            name.push_str(digest);
        }
        name
    }
}

/// The full spelling: `docker.io/library/alpine:3.20`.
impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.suffixed(format!("{}/{}", self.domain, self.path)))
    }
}

fn split_domain(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.bytes().any(|byte| byte.is_ascii_uppercase()) =>
        {
            (if first == LEGACY_DOMAIN { DEFAULT_DOMAIN } else { first }, rest)
        }
        _ => (DEFAULT_DOMAIN, name),
    }
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => {
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return false;
            }
            match rest.strip_prefix(':') {
                Some(port) => (None, Some(port)),
                None if rest.is_empty() => (None, None),
                None => return false,
            }
        }
        None => match domain.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(domain), None),
        },
    };
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    host.is_none_or(|host| host.split('.').all(label))
        && port.is_none_or(|port| port.parse::<u16>().is_ok() && !port.starts_with('+'))
}

fn is_component(component: &str) -> bool {
    let bytes = component.as_bytes();
    let alnum = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    if !bytes.first().is_some_and(alnum) || !bytes.last().is_some_and(alnum) {
        return false;
    }
    bytes
        .split(alnum)
        .all(|separator| matches!(separator, b"" | b"." | b"_" | b"__") || all_dashes(separator))
}

fn all_dashes(separator: &[u8]) -> bool {
    separator.iter().all(|byte| *byte == b'-')
}

pub(super) fn is_tag(tag: &str) -> bool {
    tag.len() <= MAX_TAG
        && !tag.is_empty()
        && !tag.starts_with(['.', '-'])
        && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

/// `sha256:` and 64 lower-case hexadecimal digits: the one algorithm that registries use.
pub(super) fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| hex.len() == 64 && is_lower_hex(hex))
}

/// The id of an image that is named by the whole of it, with or without `sha256:`.
pub(super) fn as_id(text: &str) -> Option<String> {
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    (hex.len() == 64 && is_lower_hex(hex)).then(|| format!("sha256:{hex}"))
}

pub(super) fn is_lower_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use proptest::prelude::*;

    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn names_are_normalised_as_docker_does() {
        for (text, full, familiar) in [
            ("alpine", "docker.io/library/alpine:latest", "alpine:latest"),
            ("alpine:3.20", "docker.io/library/alpine:3.20", "alpine:3.20"),
            ("docker.io/alpine", "docker.io/library/alpine:latest", "alpine:latest"),
            ("index.docker.io/library/alpine:1", "docker.io/library/alpine:1", "alpine:1"),
            ("me/app", "docker.io/me/app:latest", "me/app:latest"),
            ("library/alpine", "docker.io/library/alpine:latest", "alpine:latest"),
            ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
            ("localhost:5000/app:v1", "localhost:5000/app:v1", "localhost:5000/app:v1"),
            ("127.0.0.1:5000/a/b", "127.0.0.1:5000/a/b:latest", "127.0.0.1:5000/a/b:latest"),
            ("[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000/a:latest"),
            ("Host/app", "Host/app:latest", "Host/app:latest"),
            (
                "1.dkr.ecr.eu-west-1.amazonaws.com/a_b__c--d.e",
                "1.dkr.ecr.eu-west-1.amazonaws.com/a_b__c--d.e:latest",
                "1.dkr.ecr.eu-west-1.amazonaws.com/a_b__c--d.e:latest",
            ),
        ] {
            let reference = Reference::parse(text).unwrap();
            assert_eq!(
                (reference.to_string().as_str(), reference.familiar().as_str()),
                (full, familiar)
            );
        }
        let both = Reference::parse(&format!("alpine:3@{DIGEST}")).unwrap();
        assert_eq!(both.familiar(), format!("alpine:3@{DIGEST}"));
        let pinned = Reference::parse(&format!("alpine@{DIGEST}")).unwrap();
        assert_eq!((pinned.tag(), pinned.digest()), (None, Some(DIGEST)));
    }

    #[test]
    fn malformed_names_are_refused_with_the_part_that_is_wrong() {
        let tag = "a".repeat(129);
        let long = "a/".repeat(130) + "a";
        for (text, error) in [
            ("", Error::Empty),
            (&DIGEST[7..], Error::Id),
            ("Alpine", Error::Uppercase("Alpine".into())),
            ("alpine:", Error::Tag("".into())),
            ("alpine:-a", Error::Tag("-a".into())),
            (&format!("alpine:{tag}"), Error::Tag(tag.clone())),
            ("alpine@sha256:12", Error::Digest("sha256:12".into())),
            (
                "alpine@md5:e3b0c44298fc1c149afbf4c8996fb924",
                Error::Digest("md5:e3b0c44298fc1c149afbf4c8996fb924".into()),
            ),
            ("a//b", Error::Path("a//b".into())),
            ("/a", Error::Path("/a".into())),
            ("a___b", Error::Path("a___b".into())),
            ("a._b", Error::Path("a._b".into())),
            ("-a", Error::Path("-a".into())),
            ("../a", Error::Domain("..".into())),
            ("host.:1/a", Error::Domain("host.:1".into())),
            ("host:99999/a", Error::Domain("host:99999".into())),
            ("a b", Error::Path("a b".into())),
            (&long, Error::TooLong(long.clone())),
        ] {
            assert_eq!(Reference::parse(text), Err(error), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_was_printed_reads_back(
            domain in "((([a-z0-9]{1,5}\\.){1,2}[a-z]{2,3}|localhost)(:[1-9][0-9]{0,3})?/)?",
            path in "[a-z0-9]{1,6}([_-][a-z0-9]{1,3}){0,2}(/[a-z0-9]{1,6}([._-][a-z0-9]{1,3}){0,1}){0,2}",
            tag in "(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,20})?",
            pinned: bool,
        ) {
            let digest = if pinned { format!("@{DIGEST}") } else { String::new() };
            let reference = Reference::parse(&format!("{domain}{path}{tag}{digest}")).unwrap();
            prop_assert_eq!(&Reference::parse(&reference.to_string()).unwrap(), &reference);
            prop_assert_eq!(&Reference::parse(&reference.familiar()).unwrap(), &reference);
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,80}") {
            let _ = Reference::parse(&text);
        }
    }
}
