//! What RunTask and StartTask ask for alike, checked, and the tasks that come of it.

use protocol::aws_json::ApiError;
use protocol::ecs;

use super::super::{Context, lookup};
use super::checks;
use crate::model::{Cluster, Definition, LaunchType, Reserved, Task};
use crate::scheduler::{
    Constraints, NewTask, Request, Strategy, TaskIds, new_task, record, reserve, tags,
};
use crate::state::{Edit, Stored, View};

/// The cluster and the definition that the request names.
pub(super) fn named<'v>(
    view: &'v View,
    cx: &Context,
    request: &ecs::RunTaskRequest,
) -> Result<(&'v Stored<Cluster>, &'v Stored<Definition>), ApiError> {
    let cluster = lookup::cluster(view, cx, request.cluster.as_deref())?;
    let definition = request.task_definition.as_deref().unwrap_or_default();
    Ok((cluster, lookup::active_definition(view, cx, definition)?))
}

/// The tasks of a call, but for where they go.
pub(super) struct Wanted<'a> {
    cluster: &'a Stored<Cluster>,
    definition: &'a Stored<Definition>,
    network: Option<&'a ecs::NetworkConfiguration>,
    platform_version: Option<&'static str>,
    overrides: ecs::TaskOverride,
    group: String,
    started_by: Option<&'a str>,
    tags: Vec<ecs::Tag>,
    reserved: Reserved,
}

impl<'a> Wanted<'a> {
    /// Checks the request; its tags, its placement and its roles have been or will be.
    pub(super) fn check(
        (cluster, definition): (&'a Stored<Cluster>, &'a Stored<Definition>),
        request: &'a ecs::RunTaskRequest,
        launch_type: LaunchType,
        longest_started_by: usize,
        own_tags: &[ecs::Tag],
    ) -> Result<Self, ApiError> {
        checks::supported(request.enable_execute_command, request.volume_configurations.as_ref())?;
        let network =
            checks::network(definition, launch_type, request.network_configuration.as_ref())?;
        let platform_version =
            checks::platform_version(launch_type, request.platform_version.as_deref())?;
        let overrides = request.overrides.clone().unwrap_or_default();
        checks::overrides(definition, launch_type, &overrides)?;
        let group = checks::group(definition, request.group.as_deref())?;
        let started_by = checks::started_by(request.started_by.as_deref(), longest_started_by)?;
        let propagated = checks::propagates_definition(request.propagate_tags.as_deref())?;
        let propagated = if propagated { definition.tags.as_slice() } else { &[] };
        let is_managed = request.enable_ecs_managed_tags.unwrap_or(false);
        let managed = is_managed.then_some((cluster.name.as_str(), None));
        Ok(Self {
            cluster,
            definition,
            network,
            platform_version,
            group,
            started_by,
            tags: tags(own_tags, propagated, managed),
            reserved: reserve(&definition.definition, &overrides),
            overrides,
        })
    }

    /// The roles of the tasks exist.
    pub(super) fn check_roles(&self, view: &View, cx: &Context) -> Result<(), ApiError> {
        checks::roles(view, cx, self.definition, &self.overrides)
    }

    /// What they need of an instance.
    pub(super) fn request<'s>(
        &'s self,
        launch_type: LaunchType,
        constraints: &'s Constraints,
        strategy: &'s [Strategy],
    ) -> Request<'s> {
        Request {
            definition: self.definition,
            reserved: &self.reserved,
            launch_type,
            group: &self.group,
            constraints,
            strategy,
        }
    }

    /// One of them, on an instance.
    pub(super) fn task(
        &self,
        cx: &Context,
        instance: &str,
        launch_type: LaunchType,
        ids: TaskIds,
    ) -> Task {
        new_task(NewTask {
            account: cx.account(),
            cluster: &self.cluster.name,
            definition: self.definition,
            instance,
            launch_type,
            group: &self.group,
            started_by: self.started_by,
            service: None,
            deployment: None,
            overrides: &self.overrides,
            network_configuration: self.network,
            tags: self.tags.clone(),
            enable_execute_command: false,
            platform_version: self.platform_version,
            ids,
            now: cx.now,
        })
    }

    /// Creates those that have been made, of a cluster and a definition that are as they were read.
    pub(super) fn record(&self, view: &View, edit: &mut Edit, tasks: &[Task]) {
        edit.depend(self.cluster);
        edit.depend(self.definition);
        record(view, edit, tasks);
    }
}
