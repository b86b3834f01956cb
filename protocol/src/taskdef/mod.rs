//! Task definitions: the RegisterTaskDefinition shape, parsed strictly, validated whole, typed.
//!
//! [`parse`] turns text into a [`TaskDefinition`], which is what the rest of the system sees: it
//! cannot break a rule, and its defaults are filled in. Whatever is wrong is reported at once, each
//! problem with its place ([`Problems`]), in this order:
//!
//! 1. `json`: text to values; keys given twice.
//! 2. `shape`: every value against the complete shape of the API (`schema`): JSON types, unknown
//!    and missing members, enums, ranges.
//! 3. `task`, and from there a module per group of members: the rules, while the typed definition
//!    is built. Messages are those of Amazon ECS where they are known.
//! 4. `supported`: what ECS takes and we do not act on yet ([`NOT_SUPPORTED_YET`]). Nothing that is
//!    given is ignored, but for [`ACCEPTED_WITHOUT_EFFECT`].
//!
//! The output of `aws ecs describe-task-definition` is a definition, too: an outer
//! `{"taskDefinition": …, "tags": …}` is unwrapped, and members that only Amazon writes
//! (`taskDefinitionArn`, `revision`, `status`, …) are ignored.
//!
//! Refused here is what no host could run. What depends on the host (free ports, existing paths,
//! its architecture) is checked there.

mod containers;
mod depends;
mod environment;
mod fargate;
mod health;
mod json;
mod linux;
mod logging;
mod node;
mod ports;
mod problems;
mod schema;
mod shape;
mod supported;
mod task;
mod text;
mod types;
mod units;
mod volumes;

use serde_json::Value;

use node::Node;
use problems::{Path, Report};

pub use fargate::is_fargate_size;
pub use json::MAX_BYTES;
pub use problems::{Problem, ProblemKind, Problems};
pub use supported::{ACCEPTED_WITHOUT_EFFECT, NOT_SUPPORTED_YET};
pub use types::*;
pub use units::{cpu_units, mebibytes};

/// Parses and validates a task definition.
///
/// # Errors
///
/// Everything that is wrong with it.
pub fn parse(json: &str) -> Result<TaskDefinition, Problems> {
    let (value, report) = json::read(json)?;
    read(&value, report)
}

/// Validates a task definition that has been parsed as JSON already, by something that refuses keys
/// given twice and bounds the size.
///
/// # Errors
///
/// Everything that is wrong with it.
pub fn from_value(value: &Value) -> Result<TaskDefinition, Problems> {
    read(value, Report::default())
}

fn read(value: &Value, mut report: Report) -> Result<TaskDefinition, Problems> {
    let outer = Node::new(Path::default(), value);
    let described = outer.member("taskDefinition");
    let root = described.as_ref().unwrap_or(&outer);
    if described.is_some() {
        shape::check_object(&outer, schema::DESCRIBED, &mut report);
        if root.has("tags") && outer.has("tags") {
            report.invalid(&outer.at("tags"), "is given in taskDefinition, too");
        }
    } else {
        shape::check_object(root, schema::REGISTER_TASK_DEFINITION, &mut report);
    }
    let tagged = if root.has("tags") { root } else { &outer };
    let definition = task::read(root, tagged, &mut report);
    supported::check(root, &mut report);
    report.finish(definition)
}

#[cfg(test)]
mod tests;
