//! Tags of resources, and account settings.
//!
//! Settings are what is true of this control plane: they can be listed, and set to the value that
//! they have; any other is refused rather than stored without effect.

use protocol::aws_json::ApiError;
use protocol::ecs;

use super::lookup::{self, Arn};
use super::page::page;
use super::{Answer, Context, call, errors};
use crate::model::{Cluster, Entity, Instance, Service, Task};
use crate::state::{Edit, Stored, View};

pub(super) async fn handle(cx: &Context, operation: &str, body: &[u8]) -> Option<Answer> {
    Some(match operation {
        "TagResource" => call(body, |request| tag(cx, request)).await,
        "UntagResource" => call(body, |request| untag(cx, request)).await,
        "ListTagsForResource" => call(body, |request| list(cx, request)).await,
        "ListAccountSettings" => call(body, |request| settings(cx, request)).await,
        "PutAccountSetting" => call(body, |request| put_setting(cx, request)).await,
        "PutAccountSettingDefault" => call(body, |request| put_default(cx, request)).await,
        _ => return None,
    })
}

async fn tag(
    cx: &Context,
    request: ecs::TagResourceRequest,
) -> Result<ecs::TagResourceResponse, ApiError> {
    let arn = request.resource_arn.unwrap_or_default();
    let given = lookup::tags(request.tags)?;
    if given.is_empty() {
        return Err(errors::invalid("Tags can not be empty."));
    }
    change(cx, &arn, |tags| lookup::merge_tags(tags, given.clone())).await?;
    Ok(ecs::TagResourceResponse {})
}

async fn untag(
    cx: &Context,
    request: ecs::UntagResourceRequest,
) -> Result<ecs::UntagResourceResponse, ApiError> {
    let arn = request.resource_arn.unwrap_or_default();
    let keys = request.tag_keys.unwrap_or_default();
    if let Some(reserved) = keys.iter().find(|key| lookup::is_reserved_tag(key)) {
        return Err(lookup::reserved_tag(reserved));
    }
    change(cx, &arn, |mut tags| {
        tags.retain(|tag| tag.key.as_ref().is_none_or(|key| !keys.contains(key)));
        Ok(tags)
    })
    .await?;
    Ok(ecs::UntagResourceResponse {})
}

async fn list(
    cx: &Context,
    request: ecs::ListTagsForResourceRequest,
) -> Result<ecs::ListTagsForResourceResponse, ApiError> {
    let arn = request.resource_arn.unwrap_or_default();
    let view = cx.state.view();
    Ok(ecs::ListTagsForResourceResponse { tags: Tagged::find(&view, cx, &arn)?.tags().to_vec() })
}

/// Changes the tags of what the ARN names.
async fn change(
    cx: &Context,
    arn: &str,
    change: impl Fn(Vec<ecs::Tag>) -> Result<Vec<ecs::Tag>, ApiError>,
) -> Result<(), ApiError> {
    cx.transact(|view, edit| {
        let found = Tagged::find(view, cx, arn)?;
        let before = found.tags();
        let after = change(before.to_vec())?;
        if after != before {
            found.put(edit, after);
        }
        Ok(())
    })
    .await
}

/// A resource that has tags.
enum Tagged<'v> {
    Cluster(&'v Stored<Cluster>),
    Instance(&'v Stored<Instance>),
    Task(&'v Stored<Task>),
    Service(&'v Stored<Service>),
    Definition(&'v Stored<crate::model::Definition>),
}

impl<'v> Tagged<'v> {
    fn find(view: &'v View, cx: &Context, text: &str) -> Result<Self, ApiError> {
        let arn = Arn::parse(text).filter(|arn| arn.is_here(cx)).ok_or_else(|| {
            errors::invalid(format!(
                "Invalid resource ARN {}: it must be one of ECS in region {} and account {}.",
                lookup::quoted(text),
                cx.region,
                cx.account()
            ))
        })?;
        let unknown = || {
            ApiError::client(
                "ResourceNotFoundException",
                format!("The specified {} could not be found.", arn.kind),
            )
        };
        // Old ARNs do not say in which cluster something is.
        let in_cluster = || {
            let named = arn.name.split_once('/').filter(|(cluster, _)| lookup::is_name(cluster));
            named.ok_or_else(|| errors::invalid("The resource's ARN must be in the long format."))
        };
        match arn.kind {
            "cluster" => {
                let key = Cluster::key_of(&cx.region, arn.name);
                let cluster = view.clusters.get(&key).ok_or_else(errors::cluster_not_found)?;
                if !cluster.active {
                    return Err(errors::invalid(
                        "The specified cluster is inactive. Specify an active cluster and try \
                         again.",
                    ));
                }
                Ok(Self::Cluster(cluster))
            }
            "container-instance" => {
                let id = lookup::instance_id(cx, in_cluster()?.0, text)?;
                let key = Instance::key_of(&cx.region, in_cluster()?.0, &id);
                view.instances.get(&key).map(Self::Instance).ok_or_else(unknown)
            }
            "task" => {
                let id = lookup::task_id(cx, in_cluster()?.0, text)?;
                let key = Task::key_of(&cx.region, in_cluster()?.0, &id);
                view.tasks.get(&key).map(Self::Task).ok_or_else(unknown)
            }
            "service" => {
                let name = lookup::service_name(cx, in_cluster()?.0, text)?;
                let key = Service::key_of(&cx.region, in_cluster()?.0, &name);
                view.services.get(&key).map(Self::Service).ok_or_else(unknown)
            }
            "task-definition" => {
                if lookup::definition_name(cx, text)?.revision.is_none() {
                    return Err(errors::invalid("Revision is missing."));
                }
                let found = lookup::definition(view, cx, text).map_err(|_unknown| unknown())?;
                Ok(Self::Definition(found))
            }
            _ => Err(errors::invalid(format!(
                "Unsupported resource type: {}",
                lookup::quoted(arn.kind)
            ))),
        }
    }

    fn tags(&self) -> &'v [ecs::Tag] {
        match self {
            Self::Cluster(found) => &found.value.tags,
            Self::Instance(found) => &found.value.tags,
            Self::Task(found) => &found.value.tags,
            Self::Service(found) => &found.value.tags,
            Self::Definition(found) => &found.value.tags,
        }
    }

    fn put(&self, edit: &mut Edit, tags: Vec<ecs::Tag>) {
        fn put<T: Entity>(
            edit: &mut Edit,
            before: &Stored<T>,
            tags: Vec<ecs::Tag>,
            of: fn(&mut T) -> &mut Vec<ecs::Tag>,
        ) {
            let mut after = before.value.clone();
            *of(&mut after) = tags;
            edit.update(before, &after);
        }
        match self {
            Self::Cluster(found) => put(edit, found, tags, |cluster| &mut cluster.tags),
            Self::Instance(found) => put(edit, found, tags, |instance| &mut instance.tags),
            Self::Task(found) => put(edit, found, tags, |task| &mut task.tags),
            Self::Service(found) => put(edit, found, tags, |service| &mut service.tags),
            Self::Definition(found) => put(edit, found, tags, |definition| &mut definition.tags),
        }
    }
}

/// Every setting and the value that is true here, sorted by name.
const SETTINGS: &[(&str, &str)] = &[
    ("awsvpcTrunking", "disabled"),
    ("containerInsights", "disabled"),
    ("containerInstanceLongArnFormat", "enabled"),
    ("defaultLogDriverMode", "blocking"),
    ("fargateFIPSMode", "disabled"),
    ("fargateTaskRetirementWaitPeriod", "0"),
    ("guardDutyActivate", "off"),
    ("serviceLongArnFormat", "enabled"),
    ("tagResourceAuthorization", "off"),
    ("taskLongArnFormat", "enabled"),
];

async fn settings(
    cx: &Context,
    request: ecs::ListAccountSettingsRequest,
) -> Result<ecs::ListAccountSettingsResponse, ApiError> {
    let name = request.name.as_deref().filter(|name| !name.is_empty());
    if let Some(name) = name {
        true_value(name)?;
    }
    let value = request.value.as_deref().filter(|value| !value.is_empty());
    if value.is_some() && name.is_none() {
        return Err(errors::invalid("name is required with value."));
    }
    let principal = request.principal_arn.unwrap_or_else(|| cx.principal.clone());
    let found = SETTINGS
        .iter()
        .filter(|(known, has)| {
            name.is_none_or(|name| name == *known) && value.is_none_or(|value| value == *has)
        })
        .map(|(name, value)| ((*name).to_owned(), setting(name, value, principal.clone())));
    let (settings, next_token) =
        page(found, request.next_token.as_deref(), request.max_results, 100)?;
    Ok(ecs::ListAccountSettingsResponse { settings, next_token })
}

async fn put_setting(
    cx: &Context,
    request: ecs::PutAccountSettingRequest,
) -> Result<ecs::PutAccountSettingResponse, ApiError> {
    let principal = request.principal_arn.unwrap_or_else(|| cx.principal.clone());
    let setting = set(request.name, request.value, principal)?;
    Ok(ecs::PutAccountSettingResponse { setting: Some(setting) })
}

async fn put_default(
    cx: &Context,
    request: ecs::PutAccountSettingDefaultRequest,
) -> Result<ecs::PutAccountSettingDefaultResponse, ApiError> {
    let root = format!("arn:aws:iam::{}:root", cx.account());
    let setting = set(request.name, request.value, root)?;
    Ok(ecs::PutAccountSettingDefaultResponse { setting: Some(setting) })
}

fn set(
    name: Option<String>,
    value: Option<String>,
    principal: String,
) -> Result<ecs::Setting, ApiError> {
    let (name, value) = (name.unwrap_or_default(), value.unwrap_or_default());
    let is = true_value(&name)?;
    if value != is {
        return Err(errors::invalid(format!(
            "The setting {name} is always {is} on this control plane, it cannot be {}.",
            lookup::quoted(&value)
        )));
    }
    Ok(setting(&name, is, principal))
}

fn true_value(name: &str) -> Result<&'static str, ApiError> {
    let known = SETTINGS.iter().find(|(known, _)| *known == name);
    known.map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<_> = SETTINGS.iter().map(|(name, _)| *name).collect();
        errors::invalid(format!("setting name should be one of [{}]", names.join(",")))
    })
}

fn setting(name: &str, value: &str, principal: String) -> ecs::Setting {
    ecs::Setting {
        name: Some(name.to_owned()),
        value: Some(value.to_owned()),
        principal_arn: Some(principal),
        kind: Some("user".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_sorted() {
        assert!(SETTINGS.is_sorted_by_key(|(name, _)| *name));
    }
}
