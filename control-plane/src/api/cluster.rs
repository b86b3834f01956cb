//! Clusters (ECS API reference, section 5).
//!
//! A deleted cluster stays as INACTIVE: describable by name, not listed, found by nothing else, and
//! made ACTIVE again by creating its name, until it is swept. What is created in a cluster depends on
//! its record, so none comes to be in a cluster that was deleted.

use protocol::aws_json::ApiError;
use protocol::ecs;
use serde_json::Value;

use super::lookup::{self, Arn};
use super::page::page;
use super::{Answer, Context, call, errors};
use crate::model::{
    Cluster, Entity, Instance, LaunchType, Service, ServiceStatus, StrategyItem, Task, TaskStatus,
};
use crate::state::View;

pub(super) async fn handle(cx: &Context, operation: &str, body: &[u8]) -> Option<Answer> {
    Some(match operation {
        "CreateCluster" => call(body, |request| create(cx, request)).await,
        "DescribeClusters" => call(body, |request| describe(cx, request)).await,
        "ListClusters" => call(body, |request| list(cx, request)).await,
        "DeleteCluster" => call(body, |request| delete(cx, request)).await,
        "UpdateCluster" => call(body, |request| update(cx, request)).await,
        "UpdateClusterSettings" => call(body, |request| update_settings(cx, request)).await,
        "PutClusterCapacityProviders" => call(body, |request| put_providers(cx, request)).await,
        _ => return None,
    })
}

async fn create(
    cx: &Context,
    request: ecs::CreateClusterRequest,
) -> Result<ecs::CreateClusterResponse, ApiError> {
    let name = lookup::cluster_name(cx, request.cluster_name.as_deref())?;
    refuse_unsupported(&[
        ("configuration", request.configuration.as_ref()),
        ("serviceConnectDefaults", request.service_connect_defaults.as_ref()),
    ])?;
    let (providers, strategy) = providers(
        request.capacity_providers.unwrap_or_default(),
        request.default_capacity_provider_strategy,
    )?;
    let new = Cluster {
        region: cx.region.clone(),
        name,
        active: true,
        settings: settings(request.settings, default_settings())?,
        tags: lookup::tags(request.tags)?,
        created_at: cx.now,
        capacity_providers: providers,
        default_strategy: strategy,
        inactive_at: None,
    };
    let cluster = cx
        .transact(|view, edit| {
            let cluster = match view.clusters.get(&new.key()) {
                Some(there) if there.active => return Ok(describe_whole(cx, view, there)),
                Some(before) => {
                    edit.update(before, &new);
                    &new
                }
                None => {
                    edit.create(&new);
                    &new
                }
            };
            Ok(describe_whole(cx, view, cluster))
        })
        .await?;
    Ok(ecs::CreateClusterResponse { cluster: Some(cluster) })
}

/// The most clusters that one call describes.
const MOST_DESCRIBED: usize = 100;

async fn describe(
    cx: &Context,
    request: ecs::DescribeClustersRequest,
) -> Result<ecs::DescribeClustersResponse, ApiError> {
    let include = lookup::includes(
        request.include.as_deref(),
        &["ATTACHMENTS", "CONFIGURATIONS", "SETTINGS", "STATISTICS", "TAGS"],
    )?;
    let given = request.clusters.unwrap_or_default();
    if given.len() > MOST_DESCRIBED {
        return Err(errors::invalid(format!(
            "Clusters cannot have more than {MOST_DESCRIBED} elements."
        )));
    }
    let given = if given.is_empty() { vec![lookup::DEFAULT_CLUSTER.to_owned()] } else { given };
    let view = cx.state.view();
    let mut answer = ecs::DescribeClustersResponse::default();
    for given in &given {
        let elsewhere = Arn::parse(given).is_some_and(|arn| !arn.is_here(cx));
        let name = if elsewhere { None } else { Some(lookup::cluster_name(cx, Some(given))?) };
        let found = name.as_ref().and_then(|name| view.clusters.get(&key(cx, name)));
        match (found, name) {
            (Some(cluster), _) => {
                answer.clusters.push(shape(cx, &view, cluster, |part| {
                    include.iter().any(|name| name == part)
                }));
            }
            (None, name) => answer.failures.push(ecs::Failure {
                arn: Some(name.map_or_else(|| given.clone(), |name| arn(cx, &name))),
                reason: Some("MISSING".to_owned()),
                detail: None,
            }),
        }
    }
    Ok(answer)
}

async fn list(
    cx: &Context,
    request: ecs::ListClustersRequest,
) -> Result<ecs::ListClustersResponse, ApiError> {
    let view = cx.state.view();
    let prefix = format!("{}{}/", Cluster::PREFIX, cx.region);
    let active = view
        .clusters
        .prefix(&prefix)
        .filter(|(_, cluster)| cluster.active)
        .map(|(key, cluster)| (key.to_owned(), cluster.arn(cx.account())));
    let (cluster_arns, next_token) =
        page(active, request.next_token.as_deref(), request.max_results, 100)?;
    Ok(ecs::ListClustersResponse { cluster_arns, next_token })
}

async fn delete(
    cx: &Context,
    request: ecs::DeleteClusterRequest,
) -> Result<ecs::DeleteClusterResponse, ApiError> {
    if request.cluster.as_deref().is_none_or(str::is_empty) {
        return Err(errors::invalid("Cluster can not be blank."));
    }
    let (key, cluster) = cx
        .transact(|view, edit| {
            let before = lookup::cluster(view, cx, request.cluster.as_deref())?;
            Counts::of(view, before).refuse_deletion()?;
            let after =
                Cluster { active: false, inactive_at: Some(cx.now), ..before.value.clone() };
            edit.update(before, &after);
            Ok((after.key(), describe_whole(cx, view, &after)))
        })
        .await?;
    // Nothing can depend on there being no other record: what came to be in the cluster between the
    // look and the commit is found now that nothing can come any more.
    let found = cx
        .transact(|view, edit| {
            let Some(deleted) = view.clusters.get(&key).filter(|cluster| !cluster.active) else {
                return Ok(Ok(()));
            };
            let emptied = Counts::of(view, deleted).refuse_deletion();
            if emptied.is_err() {
                let back = Cluster { active: true, inactive_at: None, ..deleted.value.clone() };
                edit.update(deleted, &back);
            }
            Ok(emptied)
        })
        .await?;
    found?;
    Ok(ecs::DeleteClusterResponse { cluster: Some(cluster) })
}

async fn update(
    cx: &Context,
    request: ecs::UpdateClusterRequest,
) -> Result<ecs::UpdateClusterResponse, ApiError> {
    refuse_unsupported(&[
        ("configuration", request.configuration.as_ref()),
        ("serviceConnectDefaults", request.service_connect_defaults.as_ref()),
    ])?;
    let cluster = change(cx, request.cluster.as_deref(), |cluster| {
        cluster.settings = settings(request.settings.clone(), cluster.settings.clone())?;
        Ok(())
    })
    .await?;
    Ok(ecs::UpdateClusterResponse { cluster: Some(cluster) })
}

async fn update_settings(
    cx: &Context,
    request: ecs::UpdateClusterSettingsRequest,
) -> Result<ecs::UpdateClusterSettingsResponse, ApiError> {
    if request.settings.as_deref().is_none_or(<[_]>::is_empty) {
        return Err(errors::invalid("settings can not be empty."));
    }
    let cluster = change(cx, request.cluster.as_deref(), |cluster| {
        cluster.settings = settings(request.settings.clone(), cluster.settings.clone())?;
        Ok(())
    })
    .await?;
    Ok(ecs::UpdateClusterSettingsResponse { cluster: Some(cluster) })
}

async fn put_providers(
    cx: &Context,
    request: ecs::PutClusterCapacityProvidersRequest,
) -> Result<ecs::PutClusterCapacityProvidersResponse, ApiError> {
    let (providers, strategy) = providers(
        request.capacity_providers.unwrap_or_default(),
        request.default_capacity_provider_strategy,
    )?;
    let cluster = change(cx, request.cluster.as_deref(), |cluster| {
        cluster.capacity_providers.clone_from(&providers);
        cluster.default_strategy.clone_from(&strategy);
        Ok(())
    })
    .await?;
    Ok(ecs::PutClusterCapacityProvidersResponse { cluster: Some(cluster) })
}

/// Changes an ACTIVE cluster and describes it.
async fn change(
    cx: &Context,
    given: Option<&str>,
    change: impl Fn(&mut Cluster) -> Result<(), ApiError>,
) -> Result<ecs::Cluster, ApiError> {
    cx.transact(|view, edit| {
        let before = lookup::cluster(view, cx, given)?;
        let mut after = before.value.clone();
        change(&mut after)?;
        if after != before.value {
            edit.update(before, &after);
        }
        Ok(describe_whole(cx, view, &after))
    })
    .await
}

fn key(cx: &Context, name: &str) -> String {
    Cluster::key_of(&cx.region, name)
}

fn arn(cx: &Context, name: &str) -> String {
    Cluster::arn_of(&cx.region, cx.account(), name)
}

/// What ECS takes and we do not act on is refused unless it says nothing.
fn refuse_unsupported(members: &[(&str, Option<&Value>)]) -> Result<(), ApiError> {
    match members.iter().find(|(_, value)| value.is_some_and(|value| !says_nothing(value))) {
        None => Ok(()),
        Some((name, _)) => Err(errors::unsupported(format!(
            "{name} is not supported by this control plane; leave it out."
        ))),
    }
}

fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.values().all(says_nothing),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

fn default_settings() -> Vec<ecs::ClusterSetting> {
    vec![ecs::ClusterSetting {
        name: Some("containerInsights".to_owned()),
        value: Some("disabled".to_owned()),
    }]
}

/// The settings with those of a request.
fn settings(
    given: Option<Vec<ecs::ClusterSetting>>,
    mut settings: Vec<ecs::ClusterSetting>,
) -> Result<Vec<ecs::ClusterSetting>, ApiError> {
    for setting in given.unwrap_or_default() {
        let name = setting.name.as_deref().unwrap_or_default();
        if name != "containerInsights" {
            return Err(errors::invalid(format!(
                "Invalid cluster setting {}: the only setting is containerInsights",
                lookup::quoted(name)
            )));
        }
        let value = setting.value.as_deref().unwrap_or_default();
        if !["enabled", "disabled", "enhanced"].contains(&value) {
            return Err(errors::invalid(format!(
                "Invalid value {} of the cluster setting containerInsights: it is enabled, \
                 disabled or enhanced",
                lookup::quoted(value)
            )));
        }
        match settings.iter_mut().find(|before| before.name == setting.name) {
            Some(before) => *before = setting,
            None => settings.push(setting),
        }
    }
    Ok(settings)
}

/// The capacity providers that are always there.
const PROVIDERS: &[&str] = &["FARGATE", "FARGATE_SPOT"];
/// The most items of a strategy.
const MOST_PROVIDERS: usize = 20;

/// Checks capacity providers and the strategy over them.
fn providers(
    providers: Vec<String>,
    strategy: Option<Value>,
) -> Result<(Vec<String>, Vec<StrategyItem>), ApiError> {
    if let Some(unknown) = providers.iter().find(|name| !PROVIDERS.contains(&name.as_str())) {
        return Err(errors::invalid(format!(
            "The specified capacity provider {} was not found. This control plane has FARGATE and \
             FARGATE_SPOT.",
            lookup::quoted(unknown)
        )));
    }
    let strategy: Vec<StrategyItem> = strategy
        .map(serde_json::from_value)
        .transpose()
        .map_err(|error| ApiError::client("SerializationException", error.to_string()))?
        .unwrap_or_default();
    if strategy.len() > MOST_PROVIDERS {
        return Err(errors::invalid(format!(
            "A capacity provider strategy has at most {MOST_PROVIDERS} capacity providers."
        )));
    }
    if strategy.iter().any(|item| !providers.contains(&item.capacity_provider)) {
        return Err(errors::invalid(
            "The specified capacity provider strategy cannot contain a capacity provider that is \
             not associated with the cluster. Associate the capacity provider with the cluster and \
             try again.",
        ));
    }
    if strategy.iter().any(|item| item.weight > 1_000 || item.base > 100_000) {
        return Err(errors::invalid(
            "A capacity provider's weight is from 0 to 1000 and its base from 0 to 100000.",
        ));
    }
    if strategy.iter().filter(|item| item.base > 0).count() > 1 {
        return Err(errors::invalid(
            "Only one capacity provider in a capacity provider strategy can have a base defined.",
        ));
    }
    if !strategy.is_empty() && strategy.iter().all(|item| item.weight == 0) {
        return Err(errors::invalid(
            "At least one capacity provider of a strategy must have a weight greater than zero.",
        ));
    }
    Ok((providers, strategy))
}

/// How much there is in a cluster; per launch type in the order of [`LAUNCH_TYPES`].
#[derive(Debug, Default)]
struct Counts {
    /// ACTIVE or DRAINING.
    instances: i32,
    live_tasks: i32,
    running: [i32; 3],
    pending: [i32; 3],
    active_services: [i32; 3],
    draining_services: [i32; 3],
}

const LAUNCH_TYPES: [(LaunchType, &str); 3] = [
    (LaunchType::Ec2, "EC2"),
    (LaunchType::Fargate, "Fargate"),
    (LaunchType::External, "External"),
];

fn add(counts: &mut [i32; 3], launch_type: LaunchType) {
    for (count, (kind, _)) in counts.iter_mut().zip(LAUNCH_TYPES) {
        *count += i32::from(kind == launch_type);
    }
}

impl Counts {
    fn of(view: &View, cluster: &Cluster) -> Self {
        let mut counts = Self::default();
        let prefix = |kind: &str| format!("{kind}{}/{}/", cluster.region, cluster.name);
        for (_, instance) in view.instances.prefix(&prefix(Instance::PREFIX)) {
            counts.instances += i32::from(instance.is_registered());
        }
        for (_, task) in view.tasks.prefix(&prefix(Task::PREFIX)) {
            match task.last {
                TaskStatus::Provisioning | TaskStatus::Pending => {
                    add(&mut counts.pending, task.launch_type);
                }
                TaskStatus::Running => add(&mut counts.running, task.launch_type),
                TaskStatus::Stopping | TaskStatus::Deprovisioning | TaskStatus::Stopped => {}
            }
            counts.live_tasks += i32::from(task.is_live());
        }
        for (_, service) in view.services.prefix(&prefix(Service::PREFIX)) {
            match service.status {
                ServiceStatus::Active => add(&mut counts.active_services, service.launch_type),
                ServiceStatus::Draining => add(&mut counts.draining_services, service.launch_type),
                ServiceStatus::Inactive => {}
            }
        }
        counts
    }

    fn services(&self) -> i32 {
        self.active_services.iter().chain(&self.draining_services).sum()
    }

    /// What is in the cluster keeps it from being deleted.
    fn refuse_deletion(&self) -> Result<(), ApiError> {
        let (name, what) = if self.instances > 0 {
            (
                "ClusterContainsContainerInstancesException",
                "Container Instances are active or draining",
            )
        } else if self.services() > 0 {
            ("ClusterContainsServicesException", "Services are active")
        } else if self.live_tasks > 0 {
            ("ClusterContainsTasksException", "Tasks are active")
        } else {
            return Ok(());
        };
        Err(ApiError::client(name, format!("The Cluster cannot be deleted while {what}.")))
    }

    fn statistics(&self) -> Vec<ecs::KeyValuePair> {
        let groups = [
            ("running", "TasksCount", self.running),
            ("pending", "TasksCount", self.pending),
            ("active", "ServiceCount", self.active_services),
            ("draining", "ServiceCount", self.draining_services),
        ];
        let mut statistics = Vec::new();
        for (start, end, counts) in groups {
            for (count, (_, kind)) in counts.into_iter().zip(LAUNCH_TYPES) {
                statistics.push(ecs::KeyValuePair {
                    name: Some(format!("{start}{kind}{end}")),
                    value: Some(count.to_string()),
                });
            }
        }
        statistics
    }
}

/// With everything but statistics, as the changing operations answer.
fn describe_whole(cx: &Context, view: &View, cluster: &Cluster) -> ecs::Cluster {
    shape(cx, view, cluster, |part| part != "STATISTICS")
}

fn shape(
    cx: &Context,
    view: &View,
    cluster: &Cluster,
    included: impl Fn(&str) -> bool,
) -> ecs::Cluster {
    let counts = Counts::of(view, cluster);
    let status = if cluster.active { "ACTIVE" } else { "INACTIVE" };
    let strategy = cluster.default_strategy.iter().map(StrategyItem::to_json).collect();
    ecs::Cluster {
        cluster_arn: Some(cluster.arn(cx.account())),
        cluster_name: Some(cluster.name.clone()),
        status: Some(status.to_owned()),
        registered_container_instances_count: Some(counts.instances),
        running_tasks_count: Some(counts.running.iter().sum()),
        pending_tasks_count: Some(counts.pending.iter().sum()),
        active_services_count: Some(counts.active_services.iter().sum()),
        statistics: if included("STATISTICS") { counts.statistics() } else { Vec::new() },
        tags: if included("TAGS") { cluster.tags.clone() } else { Vec::new() },
        settings: if included("SETTINGS") { cluster.settings.clone() } else { Vec::new() },
        capacity_providers: cluster.capacity_providers.clone(),
        default_capacity_provider_strategy: Some(Value::Array(strategy)),
        ..ecs::Cluster::default()
    }
}
