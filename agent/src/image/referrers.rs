//! What refers to a manifest: the referrers API of OCI distribution 1.1, page by page.
//!
//! A registry is asked for manifests of one artifact type. Whether it has left others out it says
//! (`OCI-Filters-Applied`); where that leaves nothing it is asked for all, for registries and those
//! who push to them disagree on the type of a manifest. What comes is so not sure to be of the type.
//!
//! The next page is where a header `Link` of relation `next` (RFC 8288) points, if that is at the
//! same host: nowhere else would we be logged in. The first [`MAX_PAGES`] are read, and of all
//! pages no more bytes than a document may have.

use bytes::Bytes;
use http::{HeaderMap, Method, header};
use reqwest::{Response, Url};

use super::hosts::authority;
use super::manifest::{MAX_DOCUMENT, OCI_INDEX};
use super::registry::{Endpoint, Error, MANIFEST, Session, accept, check, small_body};
use super::transport::same_origin;

/// Of ten entries each there is room for several hundred.
pub(super) const MAX_PAGES: usize = 64;
const FILTERS: &str = "oci-filters-applied";
const LIST: &str = "list of what refers to a manifest";

/// The pages of an index, as they came.
#[derive(Debug, Default)]
struct Pages {
    texts: Vec<Bytes>,
    /// Entries of another type were left out.
    filtered: bool,
}

impl Session {
    /// What refers to a manifest and may be of this artifact type, as parts of an index; an unknown
    /// one if no host has that API.
    pub(super) async fn referrers(&self, digest: &str, kind: &str) -> Result<Vec<Bytes>, Error> {
        self.ask(
            |can| can.resolve,
            |endpoint| {
                let (digest, kind) = (digest.to_owned(), kind.to_owned());
                async move { endpoint.referrers(&digest, &kind).await }
            },
        )
        .await
    }
}

impl Endpoint {
    async fn referrers(&self, digest: &str, kind: &str) -> Result<Vec<Bytes>, Error> {
        let all = self.url(&format!("referrers/{digest}"));
        let mut some = all.clone();
        some.query_pairs_mut().append_pair("artifactType", kind);
        let pages = self.pages(some).await?;
        if pages.filtered && pages.texts.iter().all(|text| is_empty(text)) {
            return Ok(self.pages(all).await?.texts);
        }
        Ok(pages.texts)
    }

    async fn pages(&self, first: Url) -> Result<Pages, Error> {
        let mut pages = Pages::default();
        let most = usize::try_from(MAX_DOCUMENT).unwrap_or(usize::MAX);
        let mut room = most;
        let mut next = Some(first);
        while let Some(url) = next.take().filter(|_| pages.texts.len() < MAX_PAGES) {
            let response = self.request(Method::GET, url, accept()).await?;
            let response = match listing(response) {
                Ok(response) => check(response, MANIFEST, self.who()).await,
                Err(error) => Err(error),
            };
            let response = match response {
                // That there is such an API the first page has shown.
                Err(Error::Unknown(_)) if !pages.texts.is_empty() => {
                    let reason = "it has no next page of what refers to a manifest";
                    return Err(Error::Protocol(reason.to_owned()));
                }
                response => response?,
            };
            pages.filtered |= is_filtered(response.headers());
            next = self.next(&response)?;
            let text = match small_body(response, room).await {
                // Together they are.
                Err(Error::Oversized(_)) => return Err(Error::Oversized(most)),
                text => text?,
            };
            room -= text.len();
            pages.texts.push(text);
        }
        Ok(pages)
    }

    /// Where the next page of a list is.
    pub(super) fn next(&self, response: &Response) -> Result<Option<Url>, Error> {
        let Some(target) = next_link(response.headers()) else { return Ok(None) };
        let mut url = response
            .url()
            .join(&target)
            .map_err(|error| Error::Protocol(format!("its next page has no address: {error}")))?;
        if !same_origin(&self.host.base, &url) {
            let reason = "which is another host, for the next page of a list";
            return Err(Error::Elsewhere { to: authority(&url), reason });
        }
        // They would become credentials.
        let _ = (url.set_username(""), url.set_password(None));
        url.set_fragment(None);
        if let Some(registry) = &self.host.mirror_of
            && !url.query_pairs().any(|(name, _)| name == "ns")
        {
            url.query_pairs_mut().append_pair("ns", registry);
        }
        Ok(Some(url))
    }
}

/// An answer that may be a list: some hosts have no such API, and the web page of something in
/// between is no answer.
fn listing(response: Response) -> Result<Response, Error> {
    let kind = response.headers().get(header::CONTENT_TYPE);
    let other = kind.is_some_and(|kind| !kind.as_bytes().starts_with(OCI_INDEX.as_bytes()));
    match response.status() {
        status if matches!(status.as_u16(), 400 | 405 | 501) => Err(Error::Unknown(LIST)),
        status if status.is_success() && other => Err(Error::Unknown(LIST)),
        _ => Ok(response),
    }
}

/// Whoever reads the page will tell what is wrong with it.
fn is_empty(page: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Index {
        #[serde(default)]
        manifests: Vec<serde::de::IgnoredAny>,
    }
    serde_json::from_slice::<Index>(page).is_ok_and(|index| index.manifests.is_empty())
}

fn is_filtered(headers: &HeaderMap) -> bool {
    let applied = headers.get_all(FILTERS).into_iter().filter_map(|text| text.to_str().ok());
    applied.flat_map(|text| text.split(',')).any(|one| one.trim() == "artifactType")
}

/// The target of the first link to a next page (RFC 8288, section 3).
fn next_link(headers: &HeaderMap) -> Option<String> {
    let links = headers.get_all(header::LINK).into_iter().filter_map(|text| text.to_str().ok());
    links.flat_map(Links).find(Link::is_next).map(|link| link.target.to_owned())
}

/// The links of one header. What is malformed ends it.
struct Links<'a>(&'a str);

struct Link<'a> {
    target: &'a str,
    /// Of several the first counts.
    relation: Option<String>,
    /// It is a link of something else than what was asked for.
    anchored: bool,
}

impl Link<'_> {
    fn is_next(&self) -> bool {
        let relations = self.relation.as_deref().unwrap_or_default();
        !self.anchored && relations.split_ascii_whitespace().any(|r| r.eq_ignore_ascii_case("next"))
    }
}

impl<'a> Iterator for Links<'a> {
    type Item = Link<'a>;

    fn next(&mut self) -> Option<Link<'a>> {
        let rest = self.0.trim_start_matches([' ', '\t', ',']);
        let (target, mut rest) = rest.strip_prefix('<')?.split_once('>')?;
        let mut link = Link { target: target.trim(), relation: None, anchored: false };
        while let Some(parameter) = rest.trim_start_matches([' ', '\t']).strip_prefix(';') {
            let end = parameter.find(['=', ';', ',']).unwrap_or(parameter.len());
            let (name, after) = parameter.split_at(end);
            let (value, after) = match after.strip_prefix('=') {
                Some(value) => value_of(value),
                None => (String::new(), after),
            };
            match name.trim().to_ascii_lowercase().as_str() {
                "rel" if link.relation.is_none() => link.relation = Some(value),
                "anchor" => link.anchored = true,
                _ => {}
            }
            rest = after;
        }
        self.0 = rest;
        Some(link)
    }
}

/// The value of a parameter, a token or a quoted string, and what follows it.
fn value_of(text: &str) -> (String, &str) {
    let text = text.trim_start_matches([' ', '\t']);
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([';', ',']).unwrap_or(text.len());
        let (value, rest) = text.split_at(end);
        return (value.trim().to_owned(), rest);
    };
    let (mut value, mut escaped) = (String::new(), false);
    for (at, c) in quoted.char_indices() {
        match c {
            '"' if !escaped => return (value, quoted.get(at + 1..).unwrap_or_default()),
            '\\' if !escaped => escaped = true,
            _ => {
                value.push(c);
                escaped = false;
            }
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use http::HeaderValue;

    use super::*;

    fn next(links: &[&str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for link in links {
            headers.append(header::LINK, HeaderValue::from_str(link).unwrap());
        }
        next_link(&headers)
    }

    #[test]
    fn the_link_to_the_next_page() {
        for (links, expected) in [
            (vec![], None),
            (vec![r#"</v2/a/referrers/x?last=1>; rel="next""#], Some("/v2/a/referrers/x?last=1")),
            (vec!["</b>;rel=next"], Some("/b")),
            (vec!["<b> ; REL = \"prev Next\" ; title=x"], Some("b")),
            (vec!["<a>; rel=prev, <b>; rel=next"], Some("b")),
            (vec!["<a>; rel=prev", "<b>; rel=next"], Some("b")),
            (vec!["<a>; rel=next", "<b>; rel=next"], Some("a")),
            // Separators within quotes and addresses are none.
            (vec![r#"<a,b;c>; title="x, <y>; rel=next \" z"; rel=prev, <d>; rel=next"#], Some("d")),
            (vec!["<a,b;c>; rel=next"], Some("a,b;c")),
            (vec!["<>; rel=next"], Some("")),
            // The first relation counts; a link of something else does not.
            (vec!["<a>; rel=prev; rel=next"], None),
            (vec![r##"<a>; anchor="#x"; rel=next"##], None),
            (vec!["<a>; rel*=next"], None),
            (vec!["<a>; rel"], None),
            (vec!["<a>; rel=nextish"], None),
            (vec!["<a>"], None),
            (vec!["<a; rel=next"], None),
            (vec!["a; rel=next"], None),
            (vec![r#"<a>; rel="next"#], Some("a")),
            (vec![",, ,<a>;;; rel=next,"], Some("a")),
        ] {
            assert_eq!(next(&links).as_deref(), expected, "{links:?}");
        }
    }

    #[test]
    fn filters_that_were_applied() {
        let filtered = |text: &str| {
            let name = http::HeaderName::from_static(FILTERS);
            is_filtered(&HeaderMap::from_iter([(name, HeaderValue::from_str(text).unwrap())]))
        };
        assert!(filtered("artifactType") && filtered("x, artifactType"));
        assert!(!filtered("artifactTypes") && !filtered("") && !is_filtered(&HeaderMap::new()));
        assert!(is_empty(b"{}") && is_empty(br#"{"manifests":[]}"#));
        assert!(!is_empty(br#"{"manifests":[1]}"#) && !is_empty(b"") && !is_empty(b"null"));
    }

    proptest::proptest! {
        #[test]
        fn any_header_ends(text in "[<>;,=\" a\\\\relnxt]{0,60}") {
            let _ = next(&[&text]);
        }
    }
}
