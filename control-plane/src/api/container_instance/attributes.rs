//! Attributes of container instances: PutAttributes, DeleteAttributes, ListAttributes.
//!
//! Names that begin as ECS's own belong to the agents; the others are users', ten at most.

use std::collections::{BTreeMap, BTreeSet};

use protocol::aws_json::ApiError;
use protocol::ecs;

use super::{bump, key};
use crate::api::page::page;
use crate::api::{Context, errors, lookup};
use crate::model::Instance;
use crate::state::{Stored, View};

/// The most attributes that users can give an instance, and that one call names.
const MOST: usize = 10;
const LONGEST: usize = 128;
const TARGET_TYPE: &str = "container-instance";

/// What the names of agents' attributes begin with.
const RESERVED: [&str; 3] = ["com.amazonaws.ecs.", "ecs.", "lighter."];

pub(super) fn is_reserved(name: &str) -> bool {
    RESERVED.iter().any(|start| name.starts_with(start))
}

/// The names that are users'.
pub(super) fn custom(attributes: &BTreeMap<String, Option<String>>) -> BTreeSet<String> {
    attributes.keys().filter(|name| !is_reserved(name)).cloned().collect()
}

pub(super) fn check_name(name: &str) -> Result<(), ApiError> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"-_/\\.".contains(&b);
    if (1..=LONGEST).contains(&name.len()) && name.bytes().all(fits) {
        return Ok(());
    }
    Err(errors::invalid(format!(
        "Attribute names are of 1 to {LONGEST} letters, digits and -_/\\. only, is {}",
        lookup::quoted(name)
    )))
}

/// Values of agents are such, too, but may be empty.
pub(super) fn check_value(value: &str) -> Result<(), ApiError> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"-_/\\.@: ".contains(&b);
    let inner = !value.starts_with(' ') && !value.ends_with(' ');
    if value.len() <= LONGEST && inner && value.bytes().all(fits) {
        return Ok(());
    }
    Err(errors::invalid(format!(
        "Attribute values are of at most {LONGEST} letters, digits, inner spaces and -_/\\.@: only, \
         is {}",
        lookup::quoted(value)
    )))
}

pub(super) async fn put(
    cx: &Context,
    request: ecs::PutAttributesRequest,
) -> Result<ecs::PutAttributesResponse, ApiError> {
    let given = several(request.attributes)?;
    for attribute in &given {
        check_custom(attribute)?;
        let value = attribute.value.as_deref();
        check_value(value.unwrap_or_default())?;
        if value == Some("") {
            return Err(errors::invalid("Attribute value can not be blank; leave it out."));
        }
    }
    let attributes = change(cx, request.cluster.as_deref(), &given, |instance, attribute| {
        let name = attribute.name.clone().unwrap_or_default();
        instance.attributes.insert(name, attribute.value.clone());
        instance.custom_attributes = custom(&instance.attributes);
        if instance.custom_attributes.len() > MOST {
            return Err(ApiError::client(
                "AttributeLimitExceededException",
                format!("A container instance has at most {MOST} custom attributes."),
            ));
        }
        Ok(())
    })
    .await?;
    Ok(ecs::PutAttributesResponse { attributes })
}

pub(super) async fn delete(
    cx: &Context,
    request: ecs::DeleteAttributesRequest,
) -> Result<ecs::DeleteAttributesResponse, ApiError> {
    let given = several(request.attributes)?;
    for attribute in &given {
        check_custom(attribute)?;
    }
    let attributes = change(cx, request.cluster.as_deref(), &given, |instance, attribute| {
        let name = attribute.name.as_deref().unwrap_or_default();
        instance.attributes.remove(name);
        instance.custom_attributes.remove(name);
        Ok(())
    })
    .await?;
    Ok(ecs::DeleteAttributesResponse { attributes })
}

pub(super) async fn list(
    cx: &Context,
    request: ecs::ListAttributesRequest,
) -> Result<ecs::ListAttributesResponse, ApiError> {
    if request.target_type.as_deref() != Some(TARGET_TYPE) {
        return Err(errors::invalid("targetType should be one of [container-instance]"));
    }
    let name = request.attribute_name.as_deref().filter(|name| !name.is_empty());
    let value = request.attribute_value.as_deref().filter(|value| !value.is_empty());
    if value.is_some() && name.is_none() {
        return Err(errors::invalid("attributeName is required with attributeValue."));
    }
    let view = cx.state.view();
    let cluster = lookup::cluster(&view, cx, request.cluster.as_deref())?;
    let prefix = key(cx, &cluster.name, "");
    let found = view
        .instances
        .prefix(&prefix)
        .filter(|(_, instance)| instance.is_registered())
        .flat_map(|(key, instance)| {
            instance.attributes.iter().map(move |attribute| (key, instance, attribute))
        })
        .filter(|(_, _, (found, has))| {
            name.is_none_or(|name| name == found.as_str())
                && value.is_none_or(|value| has.as_deref() == Some(value))
        })
        .map(|(key, instance, (name, value))| {
            let attribute = ecs::Attribute {
                name: Some(name.clone()),
                value: value.clone(),
                target_type: None,
                target_id: Some(instance.arn(cx.account())),
            };
            (format!("{key}/{name}"), attribute)
        });
    let (attributes, next_token) =
        page(found, request.next_token.as_deref(), request.max_results, 100)?;
    Ok(ecs::ListAttributesResponse { attributes, next_token })
}

fn several(given: Option<Vec<ecs::Attribute>>) -> Result<Vec<ecs::Attribute>, ApiError> {
    let given = given.unwrap_or_default();
    if given.is_empty() {
        return Err(errors::invalid("attributes can not be empty."));
    }
    if given.len() > MOST {
        return Err(errors::invalid(format!("attributes can not have more than {MOST} elements.")));
    }
    Ok(given)
}

/// What users may name: an attribute of their own, of a container instance.
fn check_custom(attribute: &ecs::Attribute) -> Result<(), ApiError> {
    let name = attribute.name.as_deref().unwrap_or_default();
    check_name(name)?;
    if is_reserved(name) {
        return Err(errors::invalid(format!(
            "Attribute {name} is reserved: names that begin with {} are the agents'.",
            RESERVED.join(" or ")
        )));
    }
    match attribute.target_type.as_deref() {
        None | Some("" | TARGET_TYPE) => Ok(()),
        Some(_) => Err(errors::invalid("targetType should be one of [container-instance]")),
    }
}

/// Changes the instances that the attributes name, all or none, and gives back the attributes with
/// the ARNs of their instances.
async fn change(
    cx: &Context,
    cluster: Option<&str>,
    given: &[ecs::Attribute],
    change: impl Fn(&mut Instance, &ecs::Attribute) -> Result<(), ApiError>,
) -> Result<Vec<ecs::Attribute>, ApiError> {
    cx.transact(|view, edit| {
        let cluster = lookup::cluster(view, cx, cluster)?;
        let mut changed: BTreeMap<String, (&Stored<Instance>, Instance)> = BTreeMap::new();
        let mut attributes = Vec::new();
        for attribute in given {
            let target = attribute.target_id.as_deref().unwrap_or_default();
            let before = find(view, cx, &cluster.name, target)?;
            let (_, after) =
                changed.entry(before.id.clone()).or_insert_with(|| (before, before.value.clone()));
            change(after, attribute)?;
            attributes.push(ecs::Attribute {
                name: attribute.name.clone(),
                value: attribute.value.clone(),
                target_type: None,
                target_id: Some(before.arn(cx.account())),
            });
        }
        for (before, mut after) in changed.into_values() {
            if after != before.value {
                after.version += 1;
                edit.update(before, &after);
                bump(view, edit, &after);
            }
        }
        Ok(attributes)
    })
    .await
}

fn find<'v>(
    view: &'v View,
    cx: &Context,
    cluster: &str,
    target: &str,
) -> Result<&'v Stored<Instance>, ApiError> {
    if target.is_empty() {
        return Err(errors::invalid("targetId can not be blank."));
    }
    let id = lookup::instance_id(cx, cluster, target)?;
    view.instances
        .get(&key(cx, cluster, &id))
        .filter(|instance| instance.is_registered())
        .ok_or_else(|| {
            ApiError::client(
                "TargetNotFoundException",
                format!("The specified target {id} could not be found in cluster {cluster}."),
            )
        })
}
