//! One turn of a service, or of a host, on a view: asks the planner, places what is to start, and
//! puts all of it into one edit. Pure: what is random and the time come from outside.

use std::collections::{BTreeMap, HashMap};

use jiff::{SignedDuration, Timestamp};
use protocol::ecs;

use super::daemon::{self, Fit, Site};
use super::drain::Place;
use super::draws::Draws;
use super::events::Message;
use super::lost::{self, Sight, Step};
use super::member::{Member, Rules};
use super::service::{self, Stop};
use crate::model::{
    Connection, Definition, Deployment, Entity, Guard, Instance, InstanceStatus, LaunchType,
    Reserved, Role, Scheduling, Service, ServiceStatus, StopCode, Task,
};
use crate::scheduler::{
    self, Candidate, Constraints, Failure, NO_CAPACITY, NewTask, Reason, Strategy, TaskIds,
};
use crate::state::{Edit, Stored, View};

/// How many tasks of a lost host one edit ends; the next ends more.
const MOST_ENDS: usize = 200;

/// What holds for all turns.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Of every ARN.
    pub account: String,
    pub settle: SignedDuration,
    pub lost_after: Option<SignedDuration>,
    /// When this process began to serve.
    pub up_since: Timestamp,
}

/// What a turn has to say beside its edit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Turn {
    /// When time alone asks for the next.
    pub wake_at: Option<Timestamp>,
    /// A task found no place: any room that is freed asks for the next.
    pub starved: bool,
    /// It was cut: the next is to follow at once.
    pub again: bool,
}

/// A turn of a service, by its key.
pub fn service(
    view: &View,
    edit: &mut Edit,
    key: &str,
    settings: &Settings,
    now: Timestamp,
    mut draws: Draws,
) -> Turn {
    let Some(stored) = view.services.get(key).filter(|s| s.status != ServiceStatus::Inactive)
    else {
        return Turn::default();
    };
    let mut work = Work {
        view,
        settings,
        now,
        stored,
        service: stored.value.clone(),
        tasks: view.tasks_of_service(key).map(|task| (task.id.as_str(), task)).collect(),
        failure: None,
        no_room: 0,
        started: Vec::new(),
        placed: BTreeMap::new(),
    };
    let members = work.members();
    let (stops, accounted, wake_at) = match stored.scheduling {
        Scheduling::Replica => work.replica(&members, &mut draws),
        Scheduling::Daemon => work.daemon(&members, &mut draws),
    };
    let started = work.started.iter().map(|task| task.id.clone()).collect();
    let failure = work.failure.take();
    let starved = failure.is_some();
    service::applied(&mut work.service, started, &stops, failure, now, &mut draws);
    work.write(edit, &stops, &accounted);
    Turn { wake_at, starved, again: false }
}

struct Work<'a> {
    view: &'a View,
    settings: &'a Settings,
    now: Timestamp,
    stored: &'a Stored<Service>,
    /// As it will be.
    service: Service,
    tasks: HashMap<&'a str, &'a Stored<Task>>,
    /// Why something could not be placed.
    failure: Option<Message>,
    /// Starts that found no room.
    no_room: usize,
    started: Vec<Task>,
    /// Instances that got tasks.
    placed: BTreeMap<&'a str, &'a Stored<Instance>>,
}

/// Stops, tasks to mark, and when to plan again.
type Decided = (Vec<Stop>, Vec<String>, Option<Timestamp>);

impl<'a> Work<'a> {
    fn members(&self) -> Vec<Member> {
        let service = &self.stored.value;
        let rules: Vec<(&str, Rules)> = service
            .deployments
            .iter()
            .map(|deployment| {
                let definition = self.definition(deployment).map(|stored| &stored.value);
                let rules = Rules::new(service, definition, self.settings.settle);
                (deployment.id.as_str(), rules)
            })
            .collect();
        let unknown = Rules::new(service, None, self.settings.settle);
        let mut members: Vec<Member> = self
            .tasks
            .values()
            .filter(|task| task.is_live() || !task.accounted)
            .map(|task| {
                let of = task.deployment.as_deref().unwrap_or_default();
                let rules = rules.iter().find(|(id, _)| *id == of).map_or(unknown, |(_, r)| *r);
                Member::new(task, rules, self.place_of(task), self.now)
            })
            .collect();
        members.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        members
    }

    fn place_of(&self, task: &Task) -> Place {
        let key = Instance::key_of(&task.region, &task.cluster, &task.instance);
        let instance = self.view.instances.get(&key).map(|stored| &stored.value);
        Place::new(instance, self.view.hosts().get(&key).is_some_and(|host| host.connected))
    }

    fn definition(&self, deployment: &Deployment) -> Option<&'a Stored<Definition>> {
        self.view.definitions.get(&deployment.definition.key(&self.stored.region))
    }

    fn candidates(&self) -> Vec<Candidate<'a>> {
        scheduler::candidates(self.view, &self.stored.region, &self.stored.cluster)
    }

    /// The chain of strategies; what was stored has been checked.
    fn strategy(&self) -> Vec<Strategy> {
        Strategy::parse(&self.stored.strategy).unwrap_or_default()
    }

    fn replica(&mut self, members: &[Member], draws: &mut Draws) -> Decided {
        let seed = draws.seed();
        let (tasks, view, stored) = (self.tasks.clone(), self.view, self.stored);
        let strategy = self.strategy();
        let mut order = |ids: &[&str], most: usize| {
            let tasks: Vec<&Task> =
                ids.iter().filter_map(|id| tasks.get(id)).map(|stored| &stored.value).collect();
            let candidates = scheduler::candidates(view, &stored.region, &stored.cluster);
            let chosen = scheduler::stop_order(&tasks, &candidates, &strategy, most, seed);
            chosen.into_iter().map(|task| task.id.clone()).collect()
        };
        let plan = service::plan(&mut self.service, members, &mut order, self.now, draws);
        let mut stops = plan.stops;
        if let Some(starting) = (plan.starts > 0).then(|| self.starting()).flatten() {
            let count = usize::try_from(plan.starts).unwrap_or(usize::MAX);
            let mut candidates = self.candidates();
            let request = starting.request(&self.stored.launch_type);
            let request = scheduler::Request { strategy: &strategy, ..request };
            for placed in scheduler::place(&request, &mut candidates, count, draws.seed()) {
                self.start(&starting, placed, draws);
            }
        }
        // Room is made for as many as found none.
        let before = stops.len();
        stops.extend(plan.spare.into_iter().take(self.no_room));
        if self.no_room > 0 && stops.len() - before == self.no_room {
            self.failure = None;
        }
        (stops, plan.accounted, plan.wake_at)
    }

    fn daemon(&mut self, members: &[Member], draws: &mut Draws) -> Decided {
        let is_active = self.stored.status == ServiceStatus::Active;
        let starting = is_active.then(|| self.starting()).flatten();
        let mut candidates = self.candidates();
        let sites: Vec<Site> =
            candidates.iter().map(|candidate| self.site(starting.as_ref(), candidate)).collect();
        let able = starting.is_some();
        let plan = daemon::plan(&mut self.service, members, &sites, able, self.now, draws);
        if let Some(starting) = starting {
            let request = starting.request(&self.stored.launch_type);
            for instance in &plan.starts {
                let at = candidates.binary_search_by(|c| c.instance.id.cmp(instance));
                let Some(one) = at.ok().and_then(|at| candidates.get_mut(at)) else { continue };
                let placed = scheduler::place(&request, std::slice::from_mut(one), 1, draws.seed());
                for placed in placed {
                    self.start(&starting, placed, draws);
                }
            }
        }
        (plan.stops, plan.accounted, plan.wake_at)
    }

    /// An instance as it is to a DAEMON service.
    fn site(&self, starting: Option<&Starting<'_>>, candidate: &Candidate<'_>) -> Site {
        let instance = candidate.instance.id.clone();
        let Some(starting) = starting else {
            // Nothing can be started now, and what is there stays.
            let drains = candidate.instance.status == InstanceStatus::Draining;
            let leaves = drains && !self.has_replicas(candidate.instance);
            let fit = if leaves { Fit::Excluded } else { Fit::Waits };
            return Site { instance, fit, has_room: false };
        };
        let checked = starting.request(&self.stored.launch_type).check(candidate);
        let fit = match checked {
            Ok(())
            | Err(Reason::DistinctInstance | Reason::Ports | Reason::Cpu | Reason::Memory) => {
                Fit::Eligible
            }
            Err(Reason::Agent) => Fit::Waits,
            Err(Reason::Inactive) if self.has_replicas(candidate.instance) => Fit::Waits,
            Err(
                Reason::Inactive
                | Reason::NoInstances
                | Reason::Missing
                | Reason::Attribute
                | Reason::MemberOf,
            ) => Fit::Excluded,
        };
        Site { instance, fit, has_room: checked.is_ok() }
    }

    /// Whether tasks of REPLICA services are left on an instance.
    fn has_replicas(&self, instance: &Instance) -> bool {
        self.view.tasks_on(&instance.key()).filter(|task| task.is_live()).any(|task| {
            let service = task.service.as_ref().and_then(|name| {
                self.view.services.get(&Service::key_of(&task.region, &task.cluster, name))
            });
            service.is_some_and(|service| service.scheduling == Scheduling::Replica)
        })
    }

    /// What tasks of the PRIMARY deployment are started with; if that cannot be, why is told.
    fn starting(&mut self) -> Option<Starting<'a>> {
        let deployment = self.service.deployments.first()?.clone();
        let Some(definition) = self.definition(&deployment) else {
            let name = deployment.definition.arn(&self.stored.region, &self.settings.account);
            self.failure = Some(Message::Unplaced {
                reason: format!("The task definition {name} has been deleted."),
            });
            return None;
        };
        let none = ecs::TaskOverride::default();
        let role = scheduler::missing_role(self.view, &self.settings.account, definition, &none);
        if let Some(role) = role {
            let reason = Role::cannot_be_assumed(&role);
            self.failure = Some(Message::Unplaced { reason });
            return None;
        }
        let constraints = match Constraints::parse(&self.stored.constraints, definition) {
            Ok(constraints) => constraints,
            Err(reason) => {
                self.failure = Some(Message::Unplaced { reason });
                return None;
            }
        };
        let distinct = constraints.distinct_instance;
        let constraints = Constraints {
            // A DAEMON has one task on an instance anyway, and its old one may still stop there.
            distinct_instance: distinct && self.stored.scheduling == Scheduling::Replica,
            ..constraints
        };
        Some(Starting {
            reserved: scheduler::reserve(&definition.definition, &ecs::TaskOverride::default()),
            group: format!("service:{}", self.stored.name),
            definition,
            deployment,
            constraints,
        })
    }

    fn start(
        &mut self,
        starting: &Starting<'a>,
        placed: Result<&'a Stored<Instance>, Failure>,
        draws: &mut Draws,
    ) {
        let instance = match placed {
            Ok(instance) => instance,
            Err(failure) => {
                self.no_room += 1;
                self.failure = Some(if self.stored.launch_type == LaunchType::Fargate {
                    Message::Unplaced { reason: NO_CAPACITY.to_owned() }
                } else {
                    Message::NoRoom { reason: failure.event() }
                });
                return;
            }
        };
        let service = &self.stored.value;
        let propagated = match service.propagate_tags.as_str() {
            "SERVICE" => service.tags.as_slice(),
            "TASK_DEFINITION" => starting.definition.tags.as_slice(),
            _ => &[],
        };
        let managed = service
            .enable_ecs_managed_tags
            .then_some((service.cluster.as_str(), Some(service.name.as_str())));
        self.started.push(scheduler::new_task(NewTask {
            account: &self.settings.account,
            cluster: &service.cluster,
            definition: starting.definition,
            instance: &instance.id,
            launch_type: service.launch_type,
            group: &starting.group,
            started_by: Some(&starting.deployment.id),
            service: Some(&service.name),
            deployment: Some(&starting.deployment.id),
            overrides: &ecs::TaskOverride::default(),
            network_configuration: starting.deployment.network_configuration.as_ref(),
            tags: scheduler::tags(&[], propagated, managed),
            enable_execute_command: service.enable_execute_command,
            platform_version: service.task_platform_version(),
            ids: TaskIds::draw(|| draws.bits()),
            now: self.now,
        }));
        self.placed.insert(instance.id.as_str(), instance);
    }

    fn write(self, edit: &mut Edit, stops: &[Stop], accounted: &[String]) {
        let mut changed: BTreeMap<&str, Task> = BTreeMap::new();
        for stop in stops {
            if let Some(task) = self.tasks.get(stop.task.as_str()) {
                let task = changed.entry(&task.id).or_insert_with(|| task.value.clone());
                task.stop(StopCode::ServiceSchedulerInitiated, stop.why.reason(), self.now);
            }
        }
        for id in accounted {
            if let Some(task) = self.tasks.get(id.as_str()) {
                changed.entry(&task.id).or_insert_with(|| task.value.clone()).accounted = true;
            }
        }
        for (id, task) in &changed {
            if let Some(before) = self.tasks.get(id) {
                edit.update(before, task);
            }
        }
        for task in &self.started {
            edit.create(task);
        }
        if let Some(definition) = self
            .started
            .first()
            .and_then(|task| self.view.definitions.get(&task.definition.key(&task.region)))
        {
            edit.depend(definition);
        }
        for instance in self.placed.values() {
            take_guard(self.view, edit, instance);
        }
        if self.service != self.stored.value {
            edit.update(self.stored, &self.service);
        } else if !edit.is_empty() {
            edit.depend(self.stored);
        }
    }
}

/// The placement holds only if nobody else placed there meanwhile.
fn take_guard(view: &View, edit: &mut Edit, instance: &Stored<Instance>) {
    edit.depend(instance);
    let key = Guard::key_of(&instance.region, &instance.cluster, &instance.id);
    match view.guards.get(&key) {
        Some(guard) => {
            let next = Guard { placements: guard.placements + 1, ..guard.value.clone() };
            edit.update(guard, &next);
        }
        None => edit.create(&Guard {
            region: instance.region.clone(),
            cluster: instance.cluster.clone(),
            instance: instance.id.clone(),
            placements: 1,
        }),
    }
}

/// What tasks of a deployment are started with.
struct Starting<'a> {
    definition: &'a Stored<Definition>,
    deployment: Deployment,
    constraints: Constraints,
    reserved: Reserved,
    group: String,
}

impl Starting<'_> {
    fn request(&self, launch_type: &LaunchType) -> scheduler::Request<'_> {
        scheduler::Request {
            definition: self.definition,
            reserved: &self.reserved,
            launch_type: *launch_type,
            group: &self.group,
            constraints: &self.constraints,
            strategy: &[],
        }
    }
}

/// ECS's words for a role of the definition that there is not.
/// A turn of a host, by the key of its instance.
pub fn host(view: &View, edit: &mut Edit, key: &str, settings: &Settings, now: Timestamp) -> Turn {
    let stored = view.instances.get(key);
    let sight = Sight {
        instance: stored.map(|stored| &stored.value),
        connected: view.hosts().get(key).is_some_and(|host| host.connected),
        has_tasks: view.hosts().get(key).is_some_and(|host| host.live > 0),
    };
    // What it was decided on: with a connection, nothing is ended.
    let depend = |edit: &mut Edit| {
        if let Some(instance) = stored.filter(|stored| stored.is_registered()) {
            edit.depend_on_absence(Connection::key_of(
                &instance.region,
                &instance.cluster,
                &instance.id,
            ));
        }
    };
    match lost::step(sight, settings.lost_after, settings.up_since, now) {
        Step::Wait(wake_at) => Turn { wake_at, ..Turn::default() },
        Step::Mark(disconnected_at) => {
            if let Some(stored) = stored {
                edit.update(stored, &Instance { disconnected_at, ..stored.value.clone() });
                if disconnected_at.is_some() {
                    depend(edit);
                }
            }
            Turn { again: true, ..Turn::default() }
        }
        Step::End(reason) => {
            depend(edit);
            let live: Vec<&Stored<Task>> =
                view.tasks_on(key).filter(|task| task.is_live()).take(MOST_ENDS).collect();
            for task in &live {
                let mut ended = task.value.clone();
                ended.stop(StopCode::InfrastructureHealth, reason.to_owned(), now);
                ended.end(now);
                edit.update(task, &ended);
            }
            Turn { again: live.len() == MOST_ENDS, ..Turn::default() }
        }
    }
}
