//! Which instances a task can be placed on, and why the others cannot have it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use protocol::ecs;
use protocol::taskdef::CpuArchitecture;
use serde_json::Value;

use super::query::{Expression, MAX_COST, MAX_LENGTH};
use super::rank::Strategy;
use super::view::Candidate;
use crate::model::{Definition, InstanceStatus, LaunchType, Reserved};

/// Attribute of the instances that are of launch type EXTERNAL, and of no other.
pub const EXTERNAL: &str = "ecs.capability.external";
/// Attribute with the architecture of an instance.
const ARCHITECTURE: &str = "ecs.cpu-architecture";
/// Most constraints of a definition and a request together.
const MAX_CONSTRAINTS: usize = 10;

/// Placement constraints.
#[derive(Debug, Clone, Default)]
pub struct Constraints {
    /// No two tasks of a group on one instance.
    pub distinct_instance: bool,
    /// All must select the instance.
    pub member_of: Vec<Expression>,
}

impl Constraints {
    /// Reads the constraints of a request, together with those of the definition.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn parse(
        given: &[ecs::PlacementConstraint],
        definition: &Definition,
    ) -> Result<Self, String> {
        let defined: Vec<ecs::PlacementConstraint> = definition
            .registered
            .get("placementConstraints")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(|constraint| serde_json::from_value(constraint.clone()).ok())
            .collect();
        if given.len() + defined.len() > MAX_CONSTRAINTS {
            return Err(format!(
                "Too many placement constraints. A task definition and a request can have \
                 {MAX_CONSTRAINTS} together."
            ));
        }
        let mut constraints = Self::default();
        for constraint in given.iter().chain(&defined) {
            let expression = constraint.expression.as_deref().filter(|text| !text.is_empty());
            match (constraint.kind.as_deref(), expression) {
                (Some("distinctInstance"), None) => constraints.distinct_instance = true,
                (Some("distinctInstance"), Some(_)) => {
                    return Err("The distinctInstance constraint takes no expression.".to_owned());
                }
                (Some("memberOf"), Some(text)) => {
                    let expression = Expression::parse(text).map_err(|error| {
                        format!("Invalid placement constraint expression: {error}")
                    })?;
                    constraints.member_of.push(expression);
                }
                (Some("memberOf"), None) => {
                    return Err(format!(
                        "The memberOf constraint needs an expression of at most {MAX_LENGTH} \
                         characters."
                    ));
                }
                (kind, _) => {
                    return Err(format!(
                        "Invalid placement constraint type {:?}. Valid types are distinctInstance \
                         and memberOf.",
                        kind.unwrap_or_default()
                    ));
                }
            }
        }
        let cost: usize = constraints.member_of.iter().map(Expression::cost).sum();
        if cost > MAX_COST {
            return Err("The regular expressions of the placement constraints are too large \
                        together."
                .to_owned());
        }
        Ok(constraints)
    }
}

/// What a task needs of the instance it is placed on.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    pub definition: &'a Definition,
    pub reserved: &'a Reserved,
    pub launch_type: LaunchType,
    pub group: &'a str,
    pub constraints: &'a Constraints,
    /// Chain of strategies; without any, tasks are spread over zones, then over instances.
    pub strategy: &'a [Strategy],
}

/// What ECS says when Fargate has no room.
pub const NO_CAPACITY: &str = "Capacity is unavailable at this time. Please try again later or in a \
                               different availability zone";

/// Why an instance cannot have a task, in the order in which it is asked. The closest instance is the
/// one that failed last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// No instance is ACTIVE and of the launch type.
    NoInstances,
    /// There is no such instance.
    Missing,
    /// It is draining or deregistered.
    Inactive,
    /// Its agent is not connected.
    Agent,
    /// It lacks an attribute that the definition requires.
    Attribute,
    MemberOf,
    DistinctInstance,
    Ports,
    Cpu,
    Memory,
}

impl Reason {
    /// As ECS names it in `failures`.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoInstances => "No Container Instances were found in your cluster.",
            Self::Missing => "MISSING",
            Self::Inactive => "INACTIVE",
            Self::Agent => "AGENT",
            Self::Attribute => "ATTRIBUTE",
            Self::MemberOf => "MemberOf placement constraint unsatisfied.",
            Self::DistinctInstance => "DistinctInstance placement constraint unsatisfied.",
            Self::Ports => "RESOURCE:PORTS",
            Self::Cpu => "RESOURCE:CPU",
            Self::Memory => "RESOURCE:MEMORY",
        }
    }

    /// What an event says of the closest instance.
    fn of_closest(self) -> String {
        match self {
            Self::Cpu => "has insufficient CPU units available".to_owned(),
            Self::Memory => "has insufficient memory available".to_owned(),
            Self::Ports => "is already using a port required by your task".to_owned(),
            Self::Attribute => "is missing an attribute required by your task".to_owned(),
            other => format!("encountered error \"{}\"", other.name()),
        }
    }
}

/// A task could not be placed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub reason: Reason,
    /// Id of the closest instance.
    pub instance: Option<String>,
}

impl Failure {
    /// As a service's event gives the reason.
    pub fn event(&self) -> String {
        match &self.instance {
            Some(instance) => format!(
                "The closest matching (container-instance {instance}) {}.",
                self.reason.of_closest()
            ),
            None => self.reason.name().to_owned(),
        }
    }
}

impl Request<'_> {
    /// Whether the instance is of the launch type at all.
    pub(super) fn is_of_launch_type(&self, candidate: &Candidate<'_>) -> bool {
        let is_external = candidate.host.attributes.contains(EXTERNAL);
        is_external == (self.launch_type == LaunchType::External)
    }

    /// Whether a task could be placed on this instance now.
    ///
    /// # Errors
    /// The first thing that is against it.
    pub fn check(&self, candidate: &Candidate<'_>) -> Result<(), Reason> {
        self.check_fixed(candidate, self.check_attributes(candidate))?;
        self.check_placed(candidate)
    }

    /// What placing tasks does not change.
    fn check_fixed(&self, candidate: &Candidate<'_>, has_attributes: bool) -> Result<(), Reason> {
        if candidate.instance.status != InstanceStatus::Active {
            return Err(Reason::Inactive);
        }
        if !candidate.host.connected {
            return Err(Reason::Agent);
        }
        if !has_attributes || !self.has_architecture(candidate) {
            return Err(Reason::Attribute);
        }
        Ok(())
    }

    /// What placing tasks changes.
    pub(super) fn check_placed(&self, candidate: &Candidate<'_>) -> Result<(), Reason> {
        let member_of = &self.constraints.member_of;
        if !member_of.is_empty()
            && !candidate.asked(|facts| member_of.iter().all(|member| member.matches(facts)))
        {
            return Err(Reason::MemberOf);
        }
        if self.constraints.distinct_instance && candidate.in_group(self.group) > 0 {
            return Err(Reason::DistinctInstance);
        }
        if self.reserved.ports.iter().any(|port| candidate.is_taken(*port)) {
            return Err(Reason::Ports);
        }
        if candidate.cpu < u64::from(self.reserved.cpu) {
            return Err(Reason::Cpu);
        }
        if candidate.memory < u64::from(self.reserved.memory) {
            return Err(Reason::Memory);
        }
        Ok(())
    }

    fn check_attributes(&self, candidate: &Candidate<'_>) -> bool {
        self.is_of_launch_type(candidate)
            && self.definition.requires_attributes.is_subset(&candidate.host.attributes)
    }

    fn has_architecture(&self, candidate: &Candidate<'_>) -> bool {
        let needed = match self.definition.definition.cpu_architecture {
            None => return true,
            Some(CpuArchitecture::X86_64) => "x86_64",
            Some(CpuArchitecture::Arm64) => "arm64",
        };
        let there = candidate.instance.attributes.get(ARCHITECTURE);
        there.and_then(Option::as_deref) == Some(needed)
    }
}

/// Checks instances one after another. Instances share their sets of attributes, so that each set
/// has to be compared with what is required only once.
#[derive(Debug)]
pub(super) struct Filter<'a> {
    request: Request<'a>,
    attributes: BTreeMap<*const BTreeSet<String>, Attributes>,
}

#[derive(Debug, Clone, Copy)]
struct Attributes {
    is_of_launch_type: bool,
    are_sufficient: bool,
}

impl<'a> Filter<'a> {
    pub(super) fn new(request: Request<'a>) -> Self {
        Self { request, attributes: BTreeMap::new() }
    }

    /// As [`Request::check`]; `None` for an instance of another launch type.
    pub(super) fn check(&mut self, candidate: &Candidate<'_>) -> Option<Result<(), Reason>> {
        let request = &self.request;
        // The candidates hold the sets: none can end and leave its address to another.
        let attributes = *self
            .attributes
            .entry(Arc::as_ptr(&candidate.host.attributes))
            .or_insert_with(|| Attributes {
                is_of_launch_type: request.is_of_launch_type(candidate),
                are_sufficient: request.check_attributes(candidate),
            });
        attributes.is_of_launch_type.then(|| {
            request.check_fixed(candidate, attributes.are_sufficient)?;
            request.check_placed(candidate)
        })
    }
}
