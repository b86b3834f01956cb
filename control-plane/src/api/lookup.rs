//! What requests name: clusters, instances, tasks, services, definitions, by short name or ARN; and
//! the rules of names and tags that several resources share.
//!
//! Identifiers are checked here and travel as names from here on: no name that comes out of this
//! module holds a `/`. Messages are those of Amazon ECS where they are known.

use protocol::aws_json::ApiError;
use protocol::ecs;

use super::{Context, errors};
use crate::model::{Cluster, Definition, DefinitionName, DefinitionStatus, Entity, Family};
use crate::state::{Stored, View};

/// The cluster of requests that name none.
pub(crate) const DEFAULT_CLUSTER: &str = "default";

/// `arn:aws:ecs:<region>:<account>:<kind>/<name>`, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arn<'a> {
    pub(crate) region: &'a str,
    pub(crate) account: &'a str,
    /// `cluster`, `task`, `service`, …
    pub(crate) kind: &'a str,
    /// Everything after the first `/`.
    pub(crate) name: &'a str,
}

impl<'a> Arn<'a> {
    /// The text as an ECS ARN; `None` if it is none.
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.splitn(6, ':');
        if (parts.next(), parts.next(), parts.next()) != (Some("arn"), Some("aws"), Some("ecs")) {
            return None;
        }
        let (region, account) = (parts.next()?, parts.next()?);
        let (kind, name) = parts.next()?.split_once('/')?;
        let whole = !region.is_empty() && !account.is_empty() && !kind.is_empty();
        (whole && !name.is_empty()).then_some(Self { region, account, kind, name })
    }

    /// Whether what it names could be in this account and region.
    pub(crate) fn is_here(&self, cx: &Context) -> bool {
        self.region == cx.region && self.account == cx.account()
    }
}

/// The ARN in `given`; `None` if it is a short name.
fn arn(given: &str) -> Result<Option<Arn<'_>>, ApiError> {
    if !given.starts_with("arn:") {
        return Ok(None);
    }
    Arn::parse(given)
        .map(Some)
        .ok_or_else(|| errors::invalid(format!("Invalid identifier: {} is no ARN", quoted(given))))
}

/// A piece of a request as messages repeat it: quoted, escaped and cut.
pub(crate) fn quoted(text: &str) -> String {
    let cut: String = text.chars().take(100).collect();
    let more = if cut.len() < text.len() { "…" } else { "" };
    format!("{cut:?}{more}")
}

/// Whether the text is a name of a cluster, service or family: 1 to 255 letters, digits,
/// underscores and hyphens.
pub(crate) fn is_name(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    (1..=255).contains(&text.len()) && text.bytes().all(fits)
}

/// The name of the cluster that is meant, which need not exist; without one, `default`. An ARN of
/// another account or region names a cluster that cannot be found.
///
/// # Errors
/// `InvalidParameterException` for what is no name, `ClusterNotFoundException` for one elsewhere.
pub(crate) fn cluster_name(cx: &Context, given: Option<&str>) -> Result<String, ApiError> {
    let Some(given) = given.filter(|given| !given.is_empty()) else {
        return Ok(DEFAULT_CLUSTER.to_owned());
    };
    let name = match arn(given)? {
        None => given,
        Some(arn) if arn.kind != "cluster" => return Err(unsupported_kind(arn.kind)),
        Some(arn) if !arn.is_here(cx) => return Err(errors::cluster_not_found()),
        Some(arn) => arn.name,
    };
    if !is_name(name) {
        return Err(errors::invalid(
            "Invalid identifier: cluster name contains invalid characters \
                                    or is longer than 255.",
        ));
    }
    Ok(name.to_owned())
}

/// The ACTIVE cluster that is meant.
///
/// # Errors
/// Those of [`cluster_name`]; `ClusterNotFoundException` also for an unknown or INACTIVE one.
pub(crate) fn cluster<'v>(
    view: &'v View,
    cx: &Context,
    given: Option<&str>,
) -> Result<&'v Stored<Cluster>, ApiError> {
    let name = cluster_name(cx, given)?;
    view.clusters
        .get(&Cluster::key_of(&cx.region, &name))
        .filter(|cluster| cluster.active)
        .ok_or_else(errors::cluster_not_found)
}

/// The id of a container instance of the cluster.
///
/// # Errors
/// `InvalidParameterException` for what is no identifier of one.
pub(crate) fn instance_id(cx: &Context, cluster: &str, given: &str) -> Result<String, ApiError> {
    let id = member(cx, cluster, "container-instance", given)?;
    hexadecimal("instanceId", id)
}

/// The id of a task of the cluster.
///
/// # Errors
/// `InvalidParameterException` for what is no identifier of one.
pub(crate) fn task_id(cx: &Context, cluster: &str, given: &str) -> Result<String, ApiError> {
    let id = member(cx, cluster, "task", given)?;
    hexadecimal("taskId", id)
}

/// The name of a service of the cluster.
///
/// # Errors
/// `InvalidParameterException` for what is no identifier of one.
pub(crate) fn service_name(cx: &Context, cluster: &str, given: &str) -> Result<String, ApiError> {
    let name = member(cx, cluster, "service", given)?;
    if is_name(name) {
        Ok(name.to_owned())
    } else {
        Err(errors::invalid(format!("Invalid identifier: {} is no service name", quoted(given))))
    }
}

/// The last part of an identifier of something in a cluster: short, `kind/<name>` (old ARNs) or
/// `kind/<cluster>/<name>`.
fn member<'a>(
    cx: &Context,
    cluster: &str,
    kind: &str,
    given: &'a str,
) -> Result<&'a str, ApiError> {
    let Some(arn) = arn(given)? else {
        // `<cluster>/<id>` is what remains of an ARN when scripts cut it at the first slash.
        return match given.split_once('/') {
            Some((other, name)) => in_cluster(cluster, other).map(|()| name),
            None => Ok(given),
        };
    };
    if arn.kind != kind {
        return Err(unsupported_kind(arn.kind));
    }
    if arn.region != cx.region {
        return Err(errors::invalid(format!(
            "Invalid identifier: Identifier is for {}. Your region is {}",
            arn.region, cx.region
        )));
    }
    if arn.account != cx.account() {
        return Err(errors::invalid(format!(
            "Invalid identifier: Identifier is for {}. Your accountId is {}",
            arn.account,
            cx.account()
        )));
    }
    match arn.name.split_once('/') {
        None => Ok(arn.name),
        Some((other, name)) => in_cluster(cluster, other).map(|()| name),
    }
}

fn in_cluster(cluster: &str, other: &str) -> Result<(), ApiError> {
    if other == cluster {
        return Ok(());
    }
    let other: String = other.chars().take(255).collect();
    Err(errors::invalid(format!(
        "Invalid identifier: Identifier is for cluster {other}. Your cluster is {cluster}"
    )))
}

fn hexadecimal(what: &str, id: &str) -> Result<String, ApiError> {
    if ![32, 36].contains(&id.len()) {
        return Err(errors::invalid(format!("{what} length should be one of [32,36]")));
    }
    if !id.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-') {
        return Err(errors::invalid(format!("{what} contains invalid characters.")));
    }
    Ok(id.to_owned())
}

fn unsupported_kind(kind: &str) -> ApiError {
    let kind: String = kind.chars().take(64).collect();
    errors::invalid(format!("Unsupported resource type: {kind}"))
}

/// A definition as requests name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) family: String,
    /// `None`: the newest ACTIVE one.
    pub(crate) revision: Option<u32>,
}

/// Takes `family`, `family:revision` or an ARN apart.
///
/// # Errors
/// `ClientException` for what is none of them.
pub(crate) fn definition_name(cx: &Context, given: &str) -> Result<Named, ApiError> {
    let text = if given.starts_with("arn:") {
        let arn = Arn::parse(given)
            .filter(|arn| arn.kind == "task-definition")
            .ok_or_else(|| errors::client("Invalid arn syntax."))?;
        if !arn.is_here(cx) {
            return Err(unknown_definition());
        }
        arn.name
    } else {
        given
    };
    let (family, revision) = match text.split_once(':') {
        None => (text, None),
        Some((family, revision)) => (family, Some(number(revision)?)),
    };
    if family.is_empty() {
        return Err(errors::client("Family should not be null or empty."));
    }
    if !is_name(family) {
        return Err(errors::client("Family contains invalid characters."));
    }
    Ok(Named { family: family.to_owned(), revision })
}

fn number(text: &str) -> Result<u32, ApiError> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten().filter(|number| *number > 0).ok_or_else(|| {
        let text: String = text.chars().take(32).collect();
        errors::client(format!("Invalid revision number. Number: {text}"))
    })
}

fn unknown_definition() -> ApiError {
    errors::client("Unable to describe task definition.")
}

/// The definition that is meant, of whatever status if its revision is named.
///
/// # Errors
/// `ClientException` for what is no name of one, or an unknown one.
pub(crate) fn definition<'v>(
    view: &'v View,
    cx: &Context,
    given: &str,
) -> Result<&'v Stored<Definition>, ApiError> {
    let named = definition_name(cx, given)?;
    let found = match named.revision {
        Some(revision) => {
            let name = DefinitionName { family: named.family, revision };
            view.definitions.get(&name.key(&cx.region))
        }
        None => newest(view, &cx.region, &named.family),
    };
    found.ok_or_else(unknown_definition)
}

/// The definition that is meant, for something new: it must be ACTIVE.
///
/// # Errors
/// Those of [`definition`]; `ClientException` if it is not ACTIVE.
pub(crate) fn active_definition<'v>(
    view: &'v View,
    cx: &Context,
    given: &str,
) -> Result<&'v Stored<Definition>, ApiError> {
    let found = definition(view, cx, given).map_err(|error| {
        if error == unknown_definition() {
            errors::client("TaskDefinition not found.")
        } else {
            error
        }
    })?;
    if found.status == DefinitionStatus::Active {
        Ok(found)
    } else {
        Err(errors::client("TaskDefinition is inactive"))
    }
}

/// The newest ACTIVE revision of a family.
pub(crate) fn newest<'v>(
    view: &'v View,
    region: &str,
    family: &str,
) -> Option<&'v Stored<Definition>> {
    let revision = view.families.get(&Family::key_of(region, family))?.last_revision;
    let last = DefinitionName { family: family.to_owned(), revision };
    let is_active = |stored: &&Stored<Definition>| stored.status == DefinitionStatus::Active;
    // Nearly always it is the last; else all are looked at, of which few are left.
    view.definitions.get(&last.key(region)).filter(is_active).or_else(|| {
        let prefix = format!("{}{region}/{family}/", Definition::PREFIX);
        let all = view.definitions.prefix(&prefix).map(|(_, stored)| stored);
        all.filter(is_active).last()
    })
}

/// The most tags that a resource has.
const MOST_TAGS: usize = 50;

/// Checks the tags of a request and gives them as they are stored: with a key and a value each.
///
/// # Errors
/// `InvalidParameterException` with the rule that is broken.
pub(crate) fn tags(given: Option<Vec<ecs::Tag>>) -> Result<Vec<ecs::Tag>, ApiError> {
    let mut tags: Vec<ecs::Tag> = Vec::new();
    for tag in given.unwrap_or_default() {
        let key = tag.key.unwrap_or_default();
        let value = tag.value.unwrap_or_default();
        if key.is_empty() {
            return Err(errors::invalid("Tag key cannot be null or empty."));
        }
        check_tag_text("key", &key, 128)?;
        check_tag_text("value", &value, 256)?;
        if is_reserved_tag(&key) {
            return Err(reserved_tag(&key));
        }
        if tags.iter().any(|before| before.key.as_deref() == Some(key.as_str())) {
            return Err(errors::invalid(format!("Duplicate tag keys found: {}", quoted(&key))));
        }
        tags.push(ecs::Tag { key: Some(key), value: Some(value) });
    }
    check_tag_count(tags.len())?;
    Ok(tags)
}

/// Whether only ECS itself sets and takes away tags of this key.
pub(crate) fn is_reserved_tag(key: &str) -> bool {
    key.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("aws:"))
}

/// What is answered to those who try.
pub(crate) fn reserved_tag(key: &str) -> ApiError {
    errors::invalid(format!("Tag keys that start with aws: are reserved, is {}", quoted(key)))
}

fn check_tag_text(what: &str, text: &str, most: usize) -> Result<(), ApiError> {
    let blank = |c: char| c.is_whitespace() && !c.is_control();
    let fits = |c: char| c.is_alphanumeric() || blank(c) || "_.:/=+-@".contains(c);
    let length = text.chars().count();
    if length > most {
        return Err(errors::invalid(format!(
            "A tag's {what} has {length} characters, at most {most} are allowed."
        )));
    }
    if !text.chars().all(fits) {
        return Err(errors::invalid(format!(
            "A tag's {what} must be of letters, digits, blanks and _.:/=+-@ only, is {}",
            quoted(text)
        )));
    }
    Ok(())
}

fn check_tag_count(count: usize) -> Result<(), ApiError> {
    if count > MOST_TAGS {
        return Err(errors::invalid(format!(
            "{count} tags, at most {MOST_TAGS} are allowed on a resource."
        )));
    }
    Ok(())
}

/// The resource's tags with those of a request: a key that is there gets the new value.
///
/// # Errors
/// `InvalidParameterException` if they are too many.
pub(crate) fn merge_tags(
    mut tags: Vec<ecs::Tag>,
    given: Vec<ecs::Tag>,
) -> Result<Vec<ecs::Tag>, ApiError> {
    for tag in given {
        match tags.iter_mut().find(|before| before.key == tag.key) {
            Some(before) => *before = tag,
            None => tags.push(tag),
        }
    }
    // ECS's own do not count.
    let own = |tag: &&ecs::Tag| !tag.key.as_deref().is_some_and(is_reserved_tag);
    check_tag_count(tags.iter().filter(own).count())?;
    Ok(tags)
}

/// Checks what `include` may name.
///
/// # Errors
/// `InvalidParameterException` for anything else, in ECS's words.
pub(crate) fn includes(given: Option<&[String]>, known: &[&str]) -> Result<Vec<String>, ApiError> {
    let given = given.unwrap_or_default();
    if given.iter().all(|name| known.contains(&name.as_str())) {
        Ok(given.to_vec())
    } else {
        Err(errors::invalid(format!("include should be one of [{}]", known.join(","))))
    }
}

#[cfg(test)]
mod tests;
