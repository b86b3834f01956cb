//! Log groups, their retention and tags.

use std::collections::BTreeMap;

use protocol::aws_json::ApiError;
use protocol::logs::{
    CreateLogGroupRequest, DeleteLogGroupRequest, DeleteRetentionPolicyRequest,
    DescribeLogGroupsRequest, DescribeLogGroupsResponse, ListTagsForResourceRequest,
    ListTagsForResourceResponse, ListTagsLogGroupRequest, ListTagsLogGroupResponse, LogGroup,
    PutRetentionPolicyRequest, TagLogGroupRequest, TagResourceRequest, UntagLogGroupRequest,
    UntagResourceRequest,
};
use serde::Serialize;

use super::store::Group;
use super::{Caller, bounded, invalid, no_group};
use crate::api::page::page;

/// Days that a retention may have.
const RETENTIONS: [i32; 22] = [
    1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922,
    3288, 3653,
];

/// Most tags of a group.
const TAGS: usize = 50;

/// The only class.
const STANDARD: &str = "STANDARD";

/// An answer without members.
#[derive(Debug, Serialize)]
pub(super) struct Empty {}

fn check_name(name: &str) -> Result<(), ApiError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || ".-_/#".contains(c);
    if (1..=512).contains(&name.len()) && name.chars().all(allowed) {
        return Ok(());
    }
    Err(invalid(format!(
        "1 validation error detected: Value '{name}' at 'logGroupName' failed to satisfy constraint: \
         Member must satisfy regular expression pattern: [\\.\\-_/#A-Za-z0-9]+ (1 to 512 characters)"
    )))
}

fn check_tags(tags: &BTreeMap<String, String>) -> Result<(), ApiError> {
    if tags.len() > TAGS {
        return Err(invalid(format!("a log group has at most {TAGS} tags")));
    }
    for (key, value) in tags {
        let fits = (1..=128).contains(&key.chars().count()) && value.chars().count() <= 256;
        if !fits || key.to_ascii_lowercase().starts_with("aws:") {
            return Err(invalid(format!(
                "the tag {key:?} is refused: keys have 1 to 128 characters and do not begin with \
                 aws:, values have at most 256"
            )));
        }
    }
    Ok(())
}

pub(super) async fn create(
    caller: Caller<'_>,
    input: CreateLogGroupRequest,
) -> Result<Empty, ApiError> {
    let name = caller.group_name(input.log_group_name, None)?;
    check_name(&name)?;
    if input.kms_key_id.is_some_and(|key| !key.is_empty()) {
        return Err(invalid("kmsKeyId is not supported: log groups are not encrypted"));
    }
    if input.deletion_protection_enabled == Some(true) {
        return Err(invalid("deletionProtectionEnabled is not supported: leave it out"));
    }
    if input.log_group_class.is_some_and(|class| class != STANDARD) {
        return Err(invalid(format!("logGroupClass must be {STANDARD}: there is no other")));
    }
    let tags = input.tags.unwrap_or_default();
    check_tags(&tags)?;
    let created = caller.now();
    let group = Group { id: 0, name, created, retention_days: None, tags, bytes: 0 };
    if !caller.logs.create_group(caller.region(), group).await? {
        return Err(ApiError::client(
            "ResourceAlreadyExistsException",
            "The specified log group already exists",
        ));
    }
    Ok(Empty {})
}

pub(super) async fn delete(
    caller: Caller<'_>,
    input: DeleteLogGroupRequest,
) -> Result<Empty, ApiError> {
    let name = caller.group_name(input.log_group_name, None)?;
    if caller.logs.delete_group(caller.region(), &name).await? {
        Ok(Empty {})
    } else {
        Err(no_group())
    }
}

pub(super) async fn describe(
    caller: Caller<'_>,
    input: DescribeLogGroupsRequest,
) -> Result<DescribeLogGroupsResponse, ApiError> {
    let limit = bounded("limit", input.limit, 50, 50)?;
    let prefix = input.log_group_name_prefix.unwrap_or_default();
    let wanted = input.log_group_name_pattern.unwrap_or_default();
    if !prefix.is_empty() && !wanted.is_empty() {
        return Err(invalid("give logGroupNamePrefix or logGroupNamePattern, not both"));
    }
    let identifiers = input.log_group_identifiers.unwrap_or_default();
    if identifiers.len() > 50 || !(identifiers.is_empty() || prefix.is_empty() && wanted.is_empty())
    {
        return Err(invalid(
            "give at most 50 logGroupIdentifiers, and no logGroupNamePrefix or logGroupNamePattern",
        ));
    }
    let named: Vec<String> = identifiers
        .into_iter()
        .map(|identifier| caller.group_name(None, Some(identifier)))
        .collect::<Result<_, _>>()?;
    let has_class = input.log_group_class.is_none_or(|class| class == STANDARD);
    let groups = caller.logs.groups(caller.region(), &prefix).await?;
    let groups = groups.into_iter().filter(|group| {
        has_class
            && group.name.contains(&wanted)
            && (named.is_empty() || named.contains(&group.name))
    });
    let shown = groups.map(|group| (group.name.clone(), show(caller, group)));
    let max = i32::try_from(limit).ok();
    let (log_groups, next_token) = page(shown, input.next_token.as_deref(), max, limit)?;
    Ok(DescribeLogGroupsResponse { log_groups, next_token })
}

fn show(caller: Caller<'_>, group: Group) -> LogGroup {
    let arn = caller.group_arn(&group.name);
    LogGroup {
        arn: Some(format!("{arn}:*")),
        log_group_arn: Some(arn),
        log_group_name: Some(group.name),
        creation_time: Some(group.created),
        retention_in_days: group.retention_days,
        metric_filter_count: Some(0),
        stored_bytes: Some(i64::try_from(group.bytes).unwrap_or(i64::MAX)),
        log_group_class: Some(STANDARD.to_owned()),
        ..LogGroup::default()
    }
}

pub(super) async fn put_retention(
    caller: Caller<'_>,
    input: PutRetentionPolicyRequest,
) -> Result<Empty, ApiError> {
    let days = input.retention_in_days.ok_or_else(|| invalid("retentionInDays must be given"))?;
    if !RETENTIONS.contains(&days) {
        return Err(invalid(format!(
            "1 validation error detected: Value '{days}' at 'retentionInDays' failed to satisfy \
             constraint: Member must satisfy enum value set: {RETENTIONS:?}"
        )));
    }
    retention(caller, input.log_group_name, Some(days)).await
}

pub(super) async fn delete_retention(
    caller: Caller<'_>,
    input: DeleteRetentionPolicyRequest,
) -> Result<Empty, ApiError> {
    retention(caller, input.log_group_name, None).await
}

async fn retention(
    caller: Caller<'_>,
    name: Option<String>,
    days: Option<i32>,
) -> Result<Empty, ApiError> {
    let name = caller.group_name(name, None)?;
    change(caller, &name, move |group| group.retention_days = days).await
}

async fn change(
    caller: Caller<'_>,
    name: &str,
    change: impl FnOnce(&mut Group) + Send + 'static,
) -> Result<Empty, ApiError> {
    if caller.logs.change_group(caller.region(), name, change).await? {
        Ok(Empty {})
    } else {
        Err(no_group())
    }
}

async fn add_tags(
    caller: Caller<'_>,
    name: &str,
    tags: BTreeMap<String, String>,
) -> Result<Empty, ApiError> {
    check_tags(&tags)?;
    let before = caller.logs.group(caller.region(), name).await?.ok_or_else(no_group)?;
    let new = tags.keys().filter(|key| !before.tags.contains_key(*key)).count();
    if before.tags.len() + new > TAGS {
        return Err(ApiError::client(
            "TooManyTagsException",
            format!("a log group has at most {TAGS} tags"),
        ));
    }
    change(caller, name, move |group| group.tags.extend(tags)).await
}

async fn remove_tags(caller: Caller<'_>, name: &str, keys: Vec<String>) -> Result<Empty, ApiError> {
    change(caller, name, move |group| group.tags.retain(|key, _| !keys.contains(key))).await
}

async fn tags_of(caller: Caller<'_>, name: &str) -> Result<BTreeMap<String, String>, ApiError> {
    let group = caller.logs.group(caller.region(), name).await?.ok_or_else(no_group)?;
    Ok(group.tags)
}

pub(super) async fn tag_group(
    caller: Caller<'_>,
    input: TagLogGroupRequest,
) -> Result<Empty, ApiError> {
    let name = caller.group_name(input.log_group_name, None)?;
    add_tags(caller, &name, input.tags.unwrap_or_default()).await
}

pub(super) async fn untag_group(
    caller: Caller<'_>,
    input: UntagLogGroupRequest,
) -> Result<Empty, ApiError> {
    let name = caller.group_name(input.log_group_name, None)?;
    remove_tags(caller, &name, input.tags.unwrap_or_default()).await
}

pub(super) async fn list_group_tags(
    caller: Caller<'_>,
    input: ListTagsLogGroupRequest,
) -> Result<ListTagsLogGroupResponse, ApiError> {
    let name = caller.group_name(input.log_group_name, None)?;
    Ok(ListTagsLogGroupResponse { tags: Some(tags_of(caller, &name).await?) })
}

pub(super) async fn tag(caller: Caller<'_>, input: TagResourceRequest) -> Result<Empty, ApiError> {
    let name = caller.group_name(None, input.resource_arn)?;
    add_tags(caller, &name, input.tags.unwrap_or_default()).await
}

pub(super) async fn untag(
    caller: Caller<'_>,
    input: UntagResourceRequest,
) -> Result<Empty, ApiError> {
    let name = caller.group_name(None, input.resource_arn)?;
    remove_tags(caller, &name, input.tag_keys.unwrap_or_default()).await
}

pub(super) async fn list_tags(
    caller: Caller<'_>,
    input: ListTagsForResourceRequest,
) -> Result<ListTagsForResourceResponse, ApiError> {
    let name = caller.group_name(None, input.resource_arn)?;
    Ok(ListTagsForResourceResponse { tags: Some(tags_of(caller, &name).await?) })
}
