//! The canonical request: what both sides must write alike.

use std::fmt;

use super::{PAYLOAD_HEADER, Request, UNSIGNED_PAYLOAD};
use crate::percent;

/// Headers that [`sign`](super::sign) leaves out: they change on the way, or are added by it.
pub(super) const NOT_SIGNED: [&str; 15] = [
    "authorization",
    "cache-control",
    "connection",
    "expect",
    "keep-alive",
    "max-forwards",
    "pragma",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "x-amz-date",
    "x-amz-security-token",
    "x-amzn-trace-id",
];

/// A canonical request; its text is the `Display`.
pub(super) struct Canonical<'a> {
    pub(super) request: &'a Request<'a>,
    /// Lower-case names of the signed headers, in order.
    pub(super) signed: &'a [String],
    /// Hash of the body, or [`UNSIGNED_PAYLOAD`].
    pub(super) payload: &'a str,
    /// The signature stands in the query and is left out of it.
    pub(super) presigned: bool,
}

impl fmt::Display for Canonical<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let request = self.request;
        writeln!(f, "{}\n{}", request.method, path(request.path))?;
        writeln!(f, "{}", query(request.query, self.presigned))?;
        for name in self.signed {
            write!(f, "{name}:")?;
            for (index, value) in request.values(name).enumerate() {
                if index > 0 {
                    f.write_str(",")?;
                }
                // Runs of blanks count as one.
                for (index, word) in value.split_ascii_whitespace().enumerate() {
                    if index > 0 {
                        f.write_str(" ")?;
                    }
                    f.write_str(word)?;
                }
            }
            f.write_str("\n")?;
        }
        write!(f, "\n{}\n{}", self.signed.join(";"), self.payload)
    }
}

/// What stands for the body: the signed header may take it out of the signature.
pub(super) fn payload<'a>(request: &Request<'a>, signed: &[String]) -> &'a str {
    let unsigned = signed.iter().any(|name| name == PAYLOAD_HEADER)
        && request.values(PAYLOAD_HEADER).eq([UNSIGNED_PAYLOAD]);
    if unsigned { UNSIGNED_PAYLOAD } else { request.payload_sha256 }
}

/// Without empty and dot segments, and encoded over what is encoded already.
fn path(path: &str) -> String {
    let mut segments = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            _ => segments.push(segment),
        }
    }
    let mut canonical = String::with_capacity(path.len() + 1);
    for segment in &segments {
        canonical.push('/');
        percent::encode_into(&mut canonical, segment.as_bytes(), b"");
    }
    if segments.is_empty() || path.ends_with('/') {
        canonical.push('/');
    }
    canonical
}

/// Every name and value encoded alike, in order.
fn query(query: &str, presigned: bool) -> String {
    let encoded = |part| {
        let mut text = String::new();
        percent::encode_into(&mut text, &percent::decode(part), b"");
        text
    };
    let mut pairs: Vec<(String, String)> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (encoded(name), encoded(value)))
        .filter(|(name, _)| !(presigned && name == "X-Amz-Signature"))
        .collect();
    pairs.sort_unstable();
    let pairs: Vec<String> =
        pairs.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    pairs.join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        for (wire, canonical) in [
            ("", "/"),
            ("/", "/"),
            ("//", "/"),
            ("/.", "/"),
            ("/./", "/"),
            ("/foo/..", "/"),
            ("/../..", "/"),
            ("/a/./b//c/", "/a/b/c/"),
            ("/a%20b", "/a%2520b"),
            ("/a~b:c", "/a~b%3Ac"),
        ] {
            assert_eq!(path(wire), canonical, "{wire}");
        }
    }

    #[test]
    fn queries() {
        for (wire, canonical) in [
            ("", ""),
            ("b=2&a=1", "a=1&b=2"),
            ("a=2&a=1", "a=1&a=2"),
            ("a", "a="),
            ("a=x y", "a=x%20y"),
            ("a=x+y", "a=x%20y"),
            ("a=%7e%2f", "a=~%2F"),
            ("a=%", "a=%25"),
        ] {
            assert_eq!(query(wire, false), canonical, "{wire}");
        }
        assert_eq!(query("X-Amz-Signature=1&a=2", true), "a=2");
        assert_eq!(query("X-Amz-Signature=1&a=2", false), "X-Amz-Signature=1&a=2");
    }

    #[test]
    fn unsigned_names_are_sorted() {
        assert!(NOT_SIGNED.is_sorted());
    }
}
