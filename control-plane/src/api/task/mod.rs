//! Operations on tasks (ECS API, "Tasks"): RunTask, StartTask, StopTask, DescribeTasks, ListTasks,
//! UpdateTaskProtection and GetTaskProtection.
//!
//! RunTask and StartTask place and record in one transaction; delivering is the sessions' work.
//! What a definition, a request and a launch type have to do with each other is in `checks`, which
//! services share.

pub(crate) mod checks;
mod describe;
mod list;
mod protect;
mod run;
mod start;
mod stop;
mod wanted;

#[cfg(test)]
mod tests;

use protocol::aws_json::ApiError;
use uuid::Uuid;

pub(crate) use describe::describe;

use super::{Answer, Context, call, errors};
use crate::scheduler::TaskIds;

pub(super) async fn handle(cx: &Context, operation: &str, body: &[u8]) -> Option<Answer> {
    Some(match operation {
        "RunTask" => call(body, |request| run::run(cx, request)).await,
        "StartTask" => call(body, |request| start::start(cx, request)).await,
        "StopTask" => call(body, |request| stop::stop(cx, request)).await,
        "DescribeTasks" => call(body, |request| describe::tasks(cx, request)).await,
        "ListTasks" => call(body, |request| list::list(cx, request)).await,
        "UpdateTaskProtection" => call(body, |request| protect::update(cx, request)).await,
        "GetTaskProtection" => call(body, |request| protect::show(cx, request)).await,
        _ => return None,
    })
}

/// Ids for a new task.
pub(crate) fn draw_ids() -> TaskIds {
    TaskIds::draw(|| Uuid::new_v4().as_u128())
}

/// A seed for placement.
pub(crate) fn draw_seed() -> u64 {
    let (bits, _) = Uuid::new_v4().as_u64_pair();
    bits
}

/// The identifiers of a request, which must be 1 to `most`.
fn identifiers(
    given: Option<Vec<String>>,
    what: &str,
    most: usize,
) -> Result<Vec<String>, ApiError> {
    let given = given.unwrap_or_default();
    if given.is_empty() {
        return Err(errors::invalid(format!("{what} cannot be empty.")));
    }
    if given.len() > most {
        return Err(errors::invalid(format!("{what} can have at most {most} items.")));
    }
    Ok(given)
}
