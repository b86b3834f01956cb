//! RegisterContainerInstance (ECS agent protocol, section 5): a host joins its cluster, or comes back
//! to it under the ARN it has.
//!
//! The answer repeats every attribute that the agent sent as it was sent; agents end when one is
//! missing. What an agent says of itself (`ecs.…`) is replaced each time; attributes of other names
//! stay, because agents send those that are configured on the first registration only.

use std::collections::{BTreeMap, BTreeSet};

use protocol::aws_json::ApiError;
use protocol::ecs;
use serde::Deserialize;

use super::{attributes, bump, shape};
use crate::api::{Context, errors, lookup, token};
use crate::model::{Entity, Guard, Instance, InstanceStatus, Resources, Token};
use crate::state::{Edit, Stored, View};

const OPERATION: &str = "RegisterContainerInstance";
/// Agents send about 60.
const MOST_ATTRIBUTES: usize = 500;

/// A registration, checked.
struct Host {
    resources: Resources,
    /// What the agent sent, and what follows from the host's identity.
    attributes: BTreeMap<String, Option<String>>,
    ec2_instance_id: Option<String>,
    version_info: Option<ecs::VersionInfo>,
    tags: Vec<ecs::Tag>,
    /// It offered to give tasks their addresses itself.
    task_network: bool,
}

pub(super) async fn register(
    cx: &Context,
    mut request: ecs::RegisterContainerInstanceRequest,
) -> Result<ecs::RegisterContainerInstanceResponse, ApiError> {
    let client_token = request.client_token.take();
    let host = Host::read(cx, &request)?;
    let new_id = uuid::Uuid::new_v4().simple().to_string();
    let token = token::read(cx, OPERATION, client_token, &request)?;
    let instance = cx
        .transact(|view, edit| {
            let cluster = lookup::cluster(view, cx, request.cluster.as_deref())?;
            if let Some(token) = &token
                && let Some(before) = repeated(view, token)?
            {
                return Ok(answer(cx, view, before, &host));
            }
            edit.depend(cluster);
            let given = request.container_instance_arn.as_deref().filter(|arn| !arn.is_empty());
            let instance = match given {
                Some(arn) => again(view, edit, cx, &cluster.name, arn, &host)?,
                None => {
                    let instance = host.instance(cx, &cluster.name, &new_id);
                    edit.create(&instance);
                    edit.create(&Guard {
                        region: instance.region.clone(),
                        cluster: instance.cluster.clone(),
                        instance: instance.id.clone(),
                        placements: 0,
                    });
                    instance
                }
            };
            if let Some(token) = &token {
                let made = Token { made: vec![instance.key()], ..token.clone() };
                // Of two calls at the same time one is repeated.
                match view.tokens.get(&made.key()) {
                    Some(before) => edit.update(before, &made),
                    None => edit.create(&made),
                }
            }
            Ok(answer(cx, view, &instance, &host))
        })
        .await?;
    Ok(ecs::RegisterContainerInstanceResponse { container_instance: Some(instance) })
}

fn answer(cx: &Context, view: &View, instance: &Instance, host: &Host) -> ecs::ContainerInstance {
    let mut shape = shape(cx, view, instance);
    if host.task_network {
        shape.attributes.push(ecs::Attribute {
            name: Some(ecs::TASK_NETWORK_OFFER.to_owned()),
            ..ecs::Attribute::default()
        });
    }
    shape
}

/// The instance that a request with this token made before, if it still is one.
fn repeated<'v>(view: &'v View, token: &Token) -> Result<Option<&'v Stored<Instance>>, ApiError> {
    let Some(before) = view.tokens.get(&token.key()) else { return Ok(None) };
    if before.request != token.request {
        return Err(errors::invalid("The clientToken was used before with other parameters."));
    }
    let instance = before.made.first().and_then(|key| view.instances.get(key));
    Ok(instance.filter(|instance| instance.is_registered()))
}

/// A host that has an ARN: it keeps its record, its status and its tasks.
fn again(
    view: &View,
    edit: &mut Edit,
    cx: &Context,
    cluster: &str,
    arn: &str,
    host: &Host,
) -> Result<Instance, ApiError> {
    let id = lookup::instance_id(cx, cluster, arn)?;
    let before = view.instances.get(&super::key(cx, cluster, &id)).ok_or_else(|| {
        errors::invalid(format!(
            "Container instance {id} is unknown in cluster {cluster}; remove the agent's state on \
             its host to register it as a new one."
        ))
    })?;
    if !before.is_registered() {
        return Err(errors::invalid(format!(
            "Container instance {id} was deregistered; remove the agent's state on its host to \
             register it as a new one."
        )));
    }
    let differs = |name: &str| match (before.attributes.get(name), host.attributes.get(name)) {
        (Some(before), Some(now)) => before != now,
        _ => false,
    };
    let (now, then) = (&host.ec2_instance_id, &before.ec2_instance_id);
    if now.is_some() && then.is_some() && now != then {
        return Err(errors::client(format!(
            "Container instance {id} is of another host, {}.",
            then.as_deref().unwrap_or_default()
        )));
    }
    if differs(INSTANCE_TYPE) {
        return Err(errors::client("Container instance type changes are not supported."));
    }
    let mut after = before.value.clone();
    after.attributes.retain(|name, _| !attributes::is_reserved(name));
    after.attributes.extend(host.attributes.clone());
    after.custom_attributes = attributes::custom(&after.attributes);
    after.resources.clone_from(&host.resources);
    if let Some(version_info) = &host.version_info {
        after.version_info.clone_from(version_info);
    }
    if host.ec2_instance_id.is_some() {
        after.ec2_instance_id.clone_from(&host.ec2_instance_id);
    }
    after.tags = lookup::merge_tags(after.tags, host.tags.clone())?;
    if after != before.value {
        after.version += 1;
        edit.update(before, &after);
        bump(view, edit, &after);
    }
    Ok(after)
}

const INSTANCE_TYPE: &str = "ecs.instance-type";

/// What of an instance identity document is used.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct IdentityDocument {
    instance_id: Option<String>,
    instance_type: Option<String>,
    image_id: Option<String>,
    availability_zone: Option<String>,
    architecture: Option<String>,
}

impl Host {
    fn read(
        cx: &Context,
        request: &ecs::RegisterContainerInstanceRequest,
    ) -> Result<Self, ApiError> {
        let document = request
            .instance_identity_document
            .as_deref()
            .filter(|text| !text.is_empty())
            .map(serde_json::from_str::<IdentityDocument>)
            .transpose()
            .map_err(|error| {
                errors::client(format!("Invalid instance identity document: {error}"))
            })?
            .unwrap_or_default();
        let mut attributes = sent(request.attributes.as_deref().unwrap_or_default())?;
        let task_network = attributes.contains_key(ecs::TASK_NETWORK);
        let zone = document.availability_zone.or_else(|| Some(format!("{}a", cx.region)));
        let known = [
            ("ecs.ami-id", document.image_id),
            ("ecs.availability-zone", zone),
            ("ecs.cpu-architecture", document.architecture),
            (INSTANCE_TYPE, document.instance_type),
            ("ecs.os-family", Some("LINUX".to_owned())),
            ("ecs.os-type", Some("linux".to_owned())),
        ];
        for (name, value) in known {
            if let Some(value) = value {
                attributes::check_value(&value)?;
                attributes.entry(name.to_owned()).or_insert(Some(value));
            }
        }
        if let Some(id) = &document.instance_id {
            attributes::check_value(id)?;
        }
        Ok(Self {
            resources: resources(request.total_resources.as_deref().unwrap_or_default())?,
            attributes,
            ec2_instance_id: document.instance_id,
            version_info: request.version_info.clone(),
            tags: lookup::tags(request.tags.clone())?,
            task_network,
        })
    }

    fn instance(&self, cx: &Context, cluster: &str, id: &str) -> Instance {
        Instance {
            region: cx.region.clone(),
            cluster: cluster.to_owned(),
            id: id.to_owned(),
            status: InstanceStatus::Active,
            resources: self.resources.clone(),
            attributes: self.attributes.clone(),
            custom_attributes: attributes::custom(&self.attributes),
            tags: self.tags.clone(),
            version_info: self.version_info.clone().unwrap_or_default(),
            ec2_instance_id: self.ec2_instance_id.clone(),
            registered_at: cx.now,
            deregistered_at: None,
            disconnected_at: None,
            version: 1,
        }
    }
}

/// The attributes as sent.
fn sent(given: &[ecs::Attribute]) -> Result<BTreeMap<String, Option<String>>, ApiError> {
    if given.len() > MOST_ATTRIBUTES {
        return Err(errors::invalid(format!(
            "{} attributes, an instance registers with {MOST_ATTRIBUTES} at most.",
            given.len()
        )));
    }
    let mut attributes = BTreeMap::new();
    for attribute in given {
        let name = attribute.name.clone().unwrap_or_default();
        attributes::check_name(&name)?;
        if let Some(value) = &attribute.value {
            attributes::check_value(value)?;
        }
        attributes.insert(name, attribute.value.clone());
    }
    Ok(attributes)
}

/// Resources by name; of kinds that nothing can be placed on (GPU, …) none are kept.
fn resources(given: &[ecs::Resource]) -> Result<Resources, ApiError> {
    let named = |name: &str| given.iter().find(|given| given.name.as_deref() == Some(name));
    let amount = |name: &str| {
        named(name)
            .and_then(|resource| resource.integer_value)
            .and_then(|amount| u32::try_from(amount).ok())
            .ok_or_else(|| {
                errors::invalid(format!(
                    "totalResources needs {name} as an INTEGER that is not negative."
                ))
            })
    };
    let ports = |name: &str| -> Result<BTreeSet<u16>, ApiError> {
        let texts = named(name).and_then(|resource| resource.string_set_value.as_deref());
        texts
            .unwrap_or_default()
            .iter()
            .map(|text| {
                text.parse::<u16>().map_err(|error| {
                    errors::invalid(format!(
                        "{name} of totalResources has {}, which is no port: {error}",
                        lookup::quoted(text)
                    ))
                })
            })
            .collect()
    };
    Ok(Resources {
        cpu: amount("CPU")?,
        memory: amount("MEMORY")?,
        ports: ports("PORTS")?,
        ports_udp: ports("PORTS_UDP")?,
    })
}
