//! The tags that a repository has at its registry: `tags/list` of OCI distribution 1.1, page by page.

use std::collections::BTreeSet;
use std::sync::Arc;

use http::{HeaderMap, Method};
use serde::Deserialize;

use super::bounded::list;
use super::manifest::MAX_DOCUMENT;
use super::pull::registry_error;
use super::reference::{self, Reference, is_lower_hex, is_tag};
use super::referrers::MAX_PAGES;
use super::registry::{self, Access, Endpoint, Session, check, small_body};
use super::{Error, Login, Registries, Store};

/// More than anybody pulls at once.
const MAX_TAGS: usize = 10_000;

#[derive(Deserialize)]
struct Page {
    #[serde(default, deserialize_with = "tags")]
    tags: Vec<String>,
}

fn tags<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    list::<_, _, MAX_TAGS>(deserializer)
}

impl Store {
    /// The names, with their tags, of all images of a repository at its registry, sorted. Without the
    /// tags under which there is what refers to an image, as signatures.
    ///
    /// # Errors
    /// If the registry does not say, or has a tag that is none.
    pub async fn tags_at_registry(
        repository: &str,
        login: Option<Login>,
        registries: &Registries,
    ) -> Result<Vec<String>, Error> {
        let failed = |text: &str, source| Error::Reference { reference: text.to_owned(), source };
        let reference = Reference::parse(repository).map_err(|e| failed(repository, e))?;
        let asked =
            async { Session::open(&reference, login, registries, Access::Pull)?.tags().await };
        let tags = asked.await.map_err(|e| registry_error(repository, &reference, e))?;
        let name = reference.familiar_name();
        tags.into_iter()
            .filter(|tag| !is_of_digest(tag))
            .map(|tag| match is_tag(&tag) {
                true => Ok(format!("{name}:{tag}")),
                false => Err(failed(repository, reference::Error::Tag(tag))),
            })
            .collect()
    }
}

/// `sha256-<hex>`, maybe with a suffix: the referrers tag schema, and cosign's.
fn is_of_digest(tag: &str) -> bool {
    let hex = tag.strip_prefix("sha256-").and_then(|rest| rest.get(..64));
    hex.is_some_and(is_lower_hex)
}

impl Session {
    async fn tags(&self) -> Result<BTreeSet<String>, registry::Error> {
        let attempt = |endpoint: Arc<Endpoint>| async move { endpoint.tags().await };
        self.ask(|can| can.resolve, attempt).await
    }
}

impl Endpoint {
    async fn tags(&self) -> Result<BTreeSet<String>, registry::Error> {
        let mut tags = BTreeSet::new();
        let mut next = Some(self.url("tags/list"));
        for _ in 0..MAX_PAGES {
            let Some(url) = next.take() else { return Ok(tags) };
            let response = self.request(Method::GET, url, HeaderMap::new()).await?;
            let response = check(response, "such repository", self.who()).await?;
            next = self.next(&response)?;
            let limit = usize::try_from(MAX_DOCUMENT).unwrap_or(usize::MAX);
            let text = small_body(response, limit).await?;
            let page: Page = serde_json::from_slice(&text).map_err(|error| {
                registry::Error::Protocol(format!("its list of tags is malformed: {error}"))
            })?;
            tags.extend(page.tags);
            if tags.len() > MAX_TAGS {
                break;
            }
        }
        let reason = format!("its list of tags does not end after {MAX_TAGS} or {MAX_PAGES} pages");
        match next {
            None if tags.len() <= MAX_TAGS => Ok(tags),
            _ => Err(registry::Error::Protocol(reason)),
        }
    }
}
