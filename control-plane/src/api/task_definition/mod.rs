//! Task definitions (ECS API reference, section 6).
//!
//! A revision is ACTIVE, then INACTIVE (deregistered: what uses it goes on using it), then
//! DELETE_IN_PROGRESS until nothing uses it (`reconcile::sweep`). Revisions count up per family and are never
//! used again.

mod attributes;
mod register;

use protocol::aws_json::ApiError;
use protocol::ecs;
use protocol::time::EpochSeconds;
use serde_json::{Value, json};

use super::lookup;
use super::page::page;
use super::{Answer, Context, call, errors};
use crate::model::{Definition, DefinitionName, DefinitionStatus, Entity, Family};
use crate::state::{Stored, View};

pub(super) async fn handle(cx: &Context, operation: &str, body: &[u8]) -> Option<Answer> {
    Some(match operation {
        "RegisterTaskDefinition" => register::register(cx, body).await,
        "DescribeTaskDefinition" => call(body, |request| describe(cx, request)).await,
        "ListTaskDefinitions" => call(body, |request| list(cx, request)).await,
        "ListTaskDefinitionFamilies" => call(body, |request| families(cx, request)).await,
        "DeregisterTaskDefinition" => call(body, |request| deregister(cx, request)).await,
        "DeleteTaskDefinitions" => call(body, |request| delete(cx, request)).await,
        _ => return None,
    })
}

async fn describe(
    cx: &Context,
    request: ecs::DescribeTaskDefinitionRequest,
) -> Result<Value, ApiError> {
    let include = lookup::includes(request.include.as_deref(), &["TAGS"])?;
    let view = cx.state.view();
    let definition = lookup::definition(&view, cx, &named(request.task_definition)?)?;
    let tags = if include.is_empty() { &[] } else { definition.tags.as_slice() };
    Ok(json!({"taskDefinition": shape(cx, definition), "tags": tags}))
}

async fn list(
    cx: &Context,
    request: ecs::ListTaskDefinitionsRequest,
) -> Result<ecs::ListTaskDefinitionsResponse, ApiError> {
    let status = match request.status.as_deref() {
        None | Some("" | "ACTIVE") => DefinitionStatus::Active,
        Some("INACTIVE") => DefinitionStatus::Inactive,
        Some("DELETE_IN_PROGRESS") => DefinitionStatus::DeleteInProgress,
        Some(_) => {
            return Err(errors::invalid(
                "status should be one of [ACTIVE,INACTIVE,DELETE_IN_PROGRESS]",
            ));
        }
    };
    let prefix = match request.family_prefix.as_deref().filter(|family| !family.is_empty()) {
        Some(family) if !lookup::is_name(family) => {
            return Err(errors::client("Family contains invalid characters."));
        }
        Some(family) => format!("{}{}/{family}/", Definition::PREFIX, cx.region),
        None => format!("{}{}/", Definition::PREFIX, cx.region),
    };
    let view = cx.state.view();
    let found = view
        .definitions
        .prefix(&prefix)
        .filter(|(_, definition)| definition.status == status)
        .map(|(key, definition)| (key.to_owned(), arn(cx, definition)));
    let (token, most) = (request.next_token.as_deref(), request.max_results);
    let (task_definition_arns, next_token) = match request.sort.as_deref() {
        None | Some("" | "ASC") => page(found, token, most, 100)?,
        Some("DESC") => {
            let mut found: Vec<_> = found.map(|(key, arn)| (descending(&key), arn)).collect();
            found.reverse();
            page(found.into_iter(), token, most, 100)?
        }
        Some(_) => return Err(errors::invalid("sort should be one of [ASC,DESC]")),
    };
    Ok(ecs::ListTaskDefinitionsResponse { task_definition_arns, next_token })
}

/// A text that orders as keys do, the other way round. No key is the beginning of another.
fn descending(key: &str) -> String {
    hex::encode(key.bytes().map(|byte| !byte).collect::<Vec<_>>())
}

async fn families(
    cx: &Context,
    request: ecs::ListTaskDefinitionFamiliesRequest,
) -> Result<ecs::ListTaskDefinitionFamiliesResponse, ApiError> {
    let (active, inactive) = match request.status.as_deref() {
        None | Some("" | "ALL") => (true, true),
        Some("ACTIVE") => (true, false),
        Some("INACTIVE") => (false, true),
        Some(_) => return Err(errors::invalid("status should be one of [ACTIVE,INACTIVE,ALL]")),
    };
    let prefix = request.family_prefix.unwrap_or_default();
    let view = cx.state.view();
    let prefix = Family::key_of(&cx.region, &prefix);
    let found = view
        .families
        .prefix(&prefix)
        .filter(|(_, family)| {
            if lookup::newest(&view, &cx.region, &family.name).is_some() {
                return active;
            }
            let prefix = format!("{}{}/{}/", Definition::PREFIX, cx.region, family.name);
            inactive && view.definitions.prefix(&prefix).next().is_some()
        })
        .map(|(key, family)| (key.to_owned(), family.name.clone()));
    let (families, next_token) =
        page(found, request.next_token.as_deref(), request.max_results, 100)?;
    Ok(ecs::ListTaskDefinitionFamiliesResponse { families, next_token })
}

async fn deregister(
    cx: &Context,
    request: ecs::DeregisterTaskDefinitionRequest,
) -> Result<Value, ApiError> {
    let given = named(request.task_definition)?;
    if lookup::definition_name(cx, &given)?.revision.is_none() {
        return Err(errors::client("Revision is missing."));
    }
    let definition = cx
        .transact(|view, edit| {
            let before = lookup::definition(view, cx, &given)?;
            let mut after = before.value.clone();
            if after.status == DefinitionStatus::Active {
                after.status = DefinitionStatus::Inactive;
                after.deregistered_at = Some(cx.now);
                edit.update(before, &after);
            }
            Ok(shape(cx, &after))
        })
        .await?;
    Ok(json!({"taskDefinition": definition}))
}

/// The most definitions that one call deletes.
const MOST_DELETED: usize = 10;

async fn delete(
    cx: &Context,
    request: ecs::DeleteTaskDefinitionsRequest,
) -> Result<Value, ApiError> {
    let given = request.task_definitions.unwrap_or_default();
    if given.is_empty() {
        return Err(errors::invalid("Task definitions cannot be empty."));
    }
    if given.len() > MOST_DELETED {
        return Err(errors::invalid(format!(
            "Task definitions cannot have more than {MOST_DELETED} elements."
        )));
    }
    cx.transact(|view, edit| {
        let mut deleted = Vec::new();
        let mut failures = Vec::new();
        let mut done: Vec<DefinitionName> = Vec::new();
        for given in &given {
            let before = match deletable(view, cx, given) {
                Ok(before) => before,
                Err(reason) => {
                    failures.push(ecs::Failure {
                        arn: Some(given.clone()),
                        reason: Some(reason.to_owned()),
                        detail: None,
                    });
                    continue;
                }
            };
            let mut after = before.value.clone();
            if after.status != DefinitionStatus::DeleteInProgress {
                after.status = DefinitionStatus::DeleteInProgress;
                after.delete_requested_at = Some(cx.now);
                // Named twice, it is changed once.
                if !done.contains(&after.name()) {
                    done.push(after.name());
                    edit.update(before, &after);
                }
            }
            deleted.push(shape(cx, &after));
        }
        Ok(json!({"taskDefinitions": deleted, "failures": failures}))
    })
    .await
}

/// The definition if it can be deleted, else why not.
fn deletable<'v>(
    view: &'v View,
    cx: &Context,
    given: &str,
) -> Result<&'v Stored<Definition>, &'static str> {
    const INVALID: &str = "The specified task definition identifier is invalid. Specify a valid \
                           name or ARN and try again.";
    const UNKNOWN: &str = "The specified task definition does not exist. Specify a valid account, \
                           family, revision and try again.";
    const ACTIVE: &str = "The specified task definition is still in ACTIVE status. Please \
                          deregister the target and try again.";
    let elsewhere = lookup::Arn::parse(given).is_some_and(|arn| !arn.is_here(cx));
    if elsewhere {
        return Err(UNKNOWN);
    }
    let named = lookup::definition_name(cx, given).map_err(|_malformed| INVALID)?;
    if named.revision.is_none() {
        return Err(INVALID);
    }
    let found = lookup::definition(view, cx, given).map_err(|_unknown| UNKNOWN)?;
    if found.status == DefinitionStatus::Active { Err(ACTIVE) } else { Ok(found) }
}

fn named(given: Option<String>) -> Result<String, ApiError> {
    given
        .filter(|given| !given.is_empty())
        .ok_or_else(|| errors::client("Task definition can not be blank."))
}

fn arn(cx: &Context, definition: &Definition) -> String {
    definition.name().arn(&definition.region, cx.account())
}

/// The definition as described: what was registered, and what came to it.
fn shape(cx: &Context, definition: &Definition) -> Value {
    let mut shape = definition.registered.clone();
    let requires: Vec<Value> =
        definition.requires_attributes.iter().map(|name| json!({"name": name})).collect();
    let at = |at: Option<jiff::Timestamp>| at.map(EpochSeconds);
    let added = json!({
        "taskDefinitionArn": arn(cx, definition),
        "revision": definition.revision,
        "status": definition.status,
        "requiresAttributes": requires,
        "compatibilities": definition.compatibilities,
        "registeredAt": EpochSeconds(definition.registered_at),
        "registeredBy": definition.registered_by,
        "deregisteredAt": at(definition.deregistered_at),
        "deleteRequestedAt": at(definition.delete_requested_at),
    });
    if let (Value::Object(shape), Value::Object(added)) = (&mut shape, added) {
        shape.extend(added.into_iter().filter(|(_, value)| !value.is_null()));
    }
    shape
}
