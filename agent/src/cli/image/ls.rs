//! `lighter image ls`: rows as `docker image ls` makes them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use super::super::connect::Connection;
use super::super::listing::Format;
use super::super::{Failure, human, output};
use super::parse_filter;
use crate::api::types::ImageView;

const NONE: &str = "<none>";
/// Names of fields and their headings.
const HEADINGS: &[(&str, &str)] = &[
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("ID", "IMAGE ID"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("Size", "SIZE"),
    ("Containers", "CONTAINERS"),
    ("SharedSize", "SHARED SIZE"),
    ("UniqueSize", "UNIQUE SIZE"),
    ("VirtualSize", "VIRTUAL SIZE"),
    ("Kept", "KEPT"),
];

#[derive(Debug, Clone, clap::Args)]
pub(in crate::cli) struct Args {
    /// Show all images; there are no hidden ones
    #[arg(short, long)]
    all: bool,
    /// Only ids of images
    #[arg(short, long)]
    quiet: bool,
    /// Show digests
    #[arg(long)]
    digests: bool,
    /// Do not shorten ids
    #[arg(long)]
    no_trunc: bool,
    /// Only images that fit: dangling=, label=, before=, since=, reference=, until=
    #[arg(short, long = "filter", value_name = "KEY=VALUE", value_parser = parse_filter)]
    filters: Vec<(String, String)>,
    /// `table`, `json`, or a Go template
    #[arg(long, default_value = "table", value_name = "FORMAT")]
    format: String,
    #[arg(value_name = "REPOSITORY[:TAG]")]
    repository: Option<String>,
}

pub(in crate::cli) async fn run(arguments: Args, connection: &Connection) -> Result<u8, Failure> {
    let now = Timestamp::now();
    let filter = Filter::new(&arguments, connection, now).await?;
    let images = connection.client.images().await?;
    let images: Vec<ImageView> =
        images.into_iter().filter_map(|image| filter.pass(image)).collect();
    let plain = arguments.format == "table";
    let shorten = |id: &str| {
        if arguments.no_trunc { id.to_owned() } else { human::short(id).to_owned() }
    };
    if arguments.quiet && plain {
        let ids: String = images.iter().map(|image| format!("{}\n", shorten(&image.id))).collect();
        output::print(&ids)?;
        return Ok(0);
    }
    let mut default = vec!["Repository", "Tag", "Digest", "ID", "CreatedSince", "Size"];
    if !arguments.digests {
        default.remove(2);
    }
    let digests = arguments.digests || !plain;
    let rows = images.iter().flat_map(|image| rows(image, digests, shorten, now));
    let rows: Vec<Row> = rows.collect();
    output::print(&Format::parse(&arguments.format)?.rows(&rows, HEADINGS, &default)?)?;
    for damage in images.iter().filter_map(|image| image.damage.as_ref()) {
        output::tell(&format!("lighter: warning: {damage}"));
    }
    Ok(0)
}

/// Fields in the order in which Docker prints them as JSON, and one of our own.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    containers: String,
    created_at: String,
    created_since: String,
    digest: String,
    #[serde(rename = "ID")]
    id: String,
    repository: String,
    shared_size: String,
    size: String,
    tag: String,
    unique_size: String,
    virtual_size: String,
    kept: String,
}

/// A row per tag, with `digests` per tag and digest of one repository; one for a repository that has
/// only digests, and one for an image without any name.
fn rows(
    image: &ImageView,
    digests: bool,
    shorten: impl Fn(&str) -> String,
    now: Timestamp,
) -> Vec<Row> {
    let created: Option<Timestamp> = image.created.as_deref().and_then(|time| time.parse().ok());
    let row = |repository: &str, tag: &str, digest: &str| Row {
        containers: "N/A".to_owned(),
        created_at: created.map_or_else(|| "N/A".to_owned(), human::go_time),
        created_since: created
            .map_or_else(|| "N/A".to_owned(), |time| format!("{} ago", human::since(time, now))),
        digest: digest.to_owned(),
        id: shorten(&image.id),
        repository: repository.to_owned(),
        shared_size: "N/A".to_owned(),
        size: human::size(image.size),
        tag: tag.to_owned(),
        unique_size: "N/A".to_owned(),
        virtual_size: human::size(image.size),
        kept: image.kept.iter().any(|name| is_of(name, repository, tag, digest)).to_string(),
    };
    let mut repositories: BTreeMap<&str, (Vec<&str>, Vec<&str>)> = BTreeMap::new();
    for reference in &image.references {
        let (name, tag) = split_tag(reference);
        repositories.entry(name).or_default().0.push(tag);
    }
    for (name, digest) in image.repo_digests.iter().filter_map(|name| name.split_once('@')) {
        repositories.entry(name).or_default().1.push(digest);
    }
    if repositories.is_empty() {
        return vec![row(NONE, NONE, NONE)];
    }
    let mut rows = Vec::new();
    for (name, (tags, hashes)) in repositories {
        let tags = if tags.is_empty() { vec![NONE] } else { tags };
        let hashes = if digests && !hashes.is_empty() { hashes } else { vec![NONE] };
        for tag in &tags {
            rows.extend(hashes.iter().map(|digest| row(name, tag, digest)));
        }
    }
    rows
}

/// Whether a row stands for this name.
fn is_of(name: &str, repository: &str, tag: &str, digest: &str) -> bool {
    match name.split_once('@') {
        Some(pinned) => pinned == (repository, digest),
        None => split_tag(name) == (repository, tag),
    }
}

/// A colon before a slash belongs to the registry's port.
fn split_tag(reference: &str) -> (&str, &str) {
    match reference.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')) {
        Some((name, tag)) => (name, tag),
        None => (reference, NONE),
    }
}

/// What `--filter` and the argument let pass.
#[derive(Debug, Default)]
struct Filter {
    dangling: Option<bool>,
    labels: Vec<String>,
    references: Vec<String>,
    before: Option<Timestamp>,
    since: Option<Timestamp>,
}

impl Filter {
    async fn new(
        arguments: &Args,
        connection: &Connection,
        now: Timestamp,
    ) -> Result<Self, Failure> {
        let mut filter = Self::default();
        filter.references.extend(arguments.repository.clone());
        for (key, value) in &arguments.filters {
            let invalid = || Failure::said(format!("list images: invalid filter '{key}={value}'"));
            match key.as_str() {
                "dangling" => {
                    filter.dangling = Some(match value.to_lowercase().as_str() {
                        "true" | "1" => true,
                        "false" | "0" => false,
                        _ => return Err(invalid()),
                    });
                }
                "label" => filter.labels.push(value.clone()),
                "reference" => filter.references.push(value.clone()),
                "until" => {
                    let until = human::moment(value, now).ok_or_else(invalid)?;
                    filter.before = Some(filter.before.map_or(until, |before| before.min(until)));
                }
                "before" | "since" => {
                    let other = connection.client.image(value).await?;
                    let time = other.created.and_then(|time| time.parse().ok());
                    let time = Some(time.unwrap_or(Timestamp::UNIX_EPOCH));
                    if key == "before" {
                        filter.before = time;
                    } else {
                        filter.since = time;
                    }
                }
                _ => return Err(invalid()),
            }
        }
        Ok(filter)
    }

    /// The image with the names that pass, if it passes.
    fn pass(&self, mut image: ImageView) -> Option<ImageView> {
        let created = image.created.as_deref().and_then(|time| time.parse().ok());
        let created = created.unwrap_or(Timestamp::UNIX_EPOCH);
        let label = |wanted: &String| match wanted.split_once('=') {
            Some((key, value)) => image.labels.get(key).is_some_and(|have| have == value),
            None => image.labels.contains_key(wanted),
        };
        let (tagged, named) = (!image.references.is_empty(), !image.repo_digests.is_empty());
        // One that has only digests is neither.
        let passes =
            self.dangling.is_none_or(|wanted| if wanted { !tagged } else { tagged || named })
                && self.labels.iter().all(label)
                && self.before.is_none_or(|before| created < before)
                && self.since.is_none_or(|since| created > since);
        if !passes {
            return None;
        }
        if !self.references.is_empty() {
            let fits = |name: &String| {
                let repository = match name.split_once('@') {
                    Some((repository, _)) => repository,
                    None => split_tag(name).0,
                };
                self.references.iter().any(|pattern| {
                    fits(pattern.as_bytes(), name.as_bytes())
                        || fits(pattern.as_bytes(), repository.as_bytes())
                })
            };
            image.references.retain(fits);
            image.repo_digests.retain(fits);
            if image.references.is_empty() && image.repo_digests.is_empty() {
                return None;
            }
        }
        Some(image)
    }
}

/// Go's `path.Match`: `*` and `?` do not stand for a slash.
fn fits(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.first(), text.first()) {
        (None, None) => true,
        (Some(b'*'), _) => {
            fits(&pattern[1..], text)
                || text.first().is_some_and(|byte| *byte != b'/') && fits(pattern, &text[1..])
        }
        (Some(b'?'), Some(byte)) if *byte != b'/' => fits(&pattern[1..], &text[1..]),
        (Some(b'['), Some(byte)) => {
            let Some(end) = pattern.iter().position(|byte| *byte == b']') else { return false };
            let set = &pattern[1..end];
            let (set, negated) = match set.first() {
                Some(b'^') => (&set[1..], true),
                _ => (set, false),
            };
            let mut within = false;
            let mut at = 0;
            while let Some(first) = set.get(at) {
                let range = set.get(at + 1) == Some(&b'-');
                let last = if range { set.get(at + 2).unwrap_or(first) } else { first };
                within |= (first..=last).contains(&byte);
                at += if range { 3 } else { 1 };
            }
            within != negated && fits(&pattern[end + 1..], &text[1..])
        }
        (Some(b'\\'), Some(byte)) => {
            pattern.get(1) == Some(byte) && fits(&pattern[2..], &text[1..])
        }
        (Some(wanted), Some(byte)) => wanted == byte && fits(&pattern[1..], &text[1..]),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn image() -> ImageView {
        ImageView {
            references: vec!["localhost:5000/web:1".to_owned(), "web:2".to_owned()],
            repo_digests: vec!["web@sha256:ab".to_owned(), "other@sha256:cd".to_owned()],
            id: "sha256:0123456789abcdef".to_owned(),
            digest: "sha256:fe".to_owned(),
            created: Some("2026-11-21T09:00:00Z".to_owned()),
            size: 1_500_000,
            labels: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
            kept: vec!["web:2".to_owned(), "other@sha256:cd".to_owned()],
            damage: None,
        }
    }

    fn table(image: &ImageView, digests: bool) -> String {
        let now = "2026-11-21T12:00:00Z".parse().unwrap();
        let rows = rows(image, digests, |id| human::short(id).to_owned(), now);
        let default = ["Repository", "Tag", "Digest", "ID", "CreatedSince", "Size"];
        Format::parse("table").unwrap().rows(&rows, HEADINGS, &default).unwrap()
    }

    #[test]
    fn names_are_split_as_docker_splits_them() {
        assert_eq!(
            table(&image(), true),
            "REPOSITORY           TAG       DIGEST      IMAGE ID       CREATED       SIZE\n\
             localhost:5000/web   1         <none>      0123456789ab   3 hours ago   1.5MB\n\
             other                <none>    sha256:cd   0123456789ab   3 hours ago   1.5MB\n\
             web                  2         sha256:ab   0123456789ab   3 hours ago   1.5MB\n"
        );
        let none = ImageView {
            references: Vec::new(),
            repo_digests: Vec::new(),
            created: None,
            ..image()
        };
        assert_eq!(
            table(&none, false),
            "REPOSITORY   TAG       DIGEST    IMAGE ID       CREATED   SIZE\n\
             <none>       <none>    <none>    0123456789ab   N/A       1.5MB\n"
        );
    }

    #[test]
    fn what_is_kept_is_shown_by_name() {
        let now = "2026-11-21T12:00:00Z".parse().unwrap();
        let kept = |digests| {
            let rows = rows(&image(), digests, ToOwned::to_owned, now);
            rows.into_iter().map(|row| (row.repository, row.kept)).collect::<Vec<_>>()
        };
        let row = |name: &str, kept: &str| (name.to_owned(), kept.to_owned());
        let expected =
            [row("localhost:5000/web", "false"), row("other", "true"), row("web", "true")];
        assert_eq!(kept(true), expected);
        assert_eq!(kept(false)[2], row("web", "true"));
    }

    #[test]
    fn filters_let_pass_what_docker_lets_pass() {
        let time = |text: &str| Some(text.parse::<Timestamp>().unwrap());
        let list = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        for (filter, names) in [
            (Filter::default(), 2),
            (Filter { dangling: Some(true), ..Filter::default() }, 0),
            (Filter { dangling: Some(false), ..Filter::default() }, 2),
            (Filter { labels: list(&["a", "a=b"]), ..Filter::default() }, 2),
            (Filter { labels: list(&["a=c"]), ..Filter::default() }, 0),
            (Filter { before: time("2026-11-21T09:00:01Z"), ..Filter::default() }, 2),
            (Filter { before: time("2026-11-21T09:00:00Z"), ..Filter::default() }, 0),
            (Filter { since: time("2026-11-21T09:00:00Z"), ..Filter::default() }, 0),
            (Filter { references: list(&["web"]), ..Filter::default() }, 1),
            (Filter { references: list(&["w?b:[0-9]"]), ..Filter::default() }, 1),
            (Filter { references: list(&["*/web:*"]), ..Filter::default() }, 1),
            (Filter { references: list(&["*:3"]), ..Filter::default() }, 0),
            (Filter { references: list(&["[^a-v]eb"]), ..Filter::default() }, 1),
        ] {
            let passed = filter.pass(image()).map_or(0, |image| image.references.len());
            assert_eq!(passed, names, "{filter:?}");
        }
    }
}
