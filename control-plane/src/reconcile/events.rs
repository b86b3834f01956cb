//! What services say of themselves, in ECS's words.
//!
//! The newest 100 are kept. A message that tells of a lasting state is not repeated within six hours
//! while its cause lasts; what ends a cause is another message.

use jiff::{SignedDuration, Timestamp};

use super::draws::Draws;
use super::member::later;
use crate::model::{Event, Service};

/// How many are kept.
pub const KEPT: usize = 100;

/// When a lasting state is told again.
pub const REPEAT: SignedDuration = SignedDuration::from_hours(6);

/// How many tasks a message names.
const NAMED: usize = 20;

/// Something to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    Steady,
    Started {
        tasks: Vec<String>,
    },
    StoppedRunning {
        tasks: Vec<String>,
    },
    StoppedPending {
        count: usize,
    },
    Completed {
        deployment: String,
    },
    Failed {
        deployment: String,
    },
    RollingBack {
        to: String,
    },
    FailedHealthChecks {
        task: String,
    },
    /// No instance can have a task; `reason`: a sentence.
    NoRoom {
        reason: String,
    },
    /// Something else is against a task; `reason`: a sentence.
    Unplaced {
        reason: String,
    },
    Throttled,
    /// The percentages allow neither a start nor a stop.
    Blocked,
}

impl Message {
    /// The text.
    pub fn text(&self, service: &str) -> String {
        match self {
            Self::Steady => format!("(service {service}) has reached a steady state."),
            Self::Started { tasks } => {
                format!("(service {service}) has started {} tasks: {}.", tasks.len(), named(tasks))
            }
            Self::StoppedRunning { tasks } => format!(
                "(service {service}) has stopped {} running tasks: {}.",
                tasks.len(),
                named(tasks)
            ),
            Self::StoppedPending { count } => {
                format!("(service {service}) stopped {count} pending tasks.")
            }
            Self::Completed { deployment } => {
                format!("(service {service}) (deployment {deployment}) deployment completed.")
            }
            Self::Failed { deployment } => format!(
                "(service {service}) (deployment {deployment}) deployment failed: \
                 tasks failed to start."
            ),
            Self::RollingBack { to } => {
                format!("(service {service}) rolling back to deployment {to}.")
            }
            Self::FailedHealthChecks { task } => {
                format!("(service {service}) (task {task}) failed container health checks.")
            }
            Self::NoRoom { reason } => format!(
                "(service {service}) was unable to place a task because no container instance met \
                 all of its requirements. Reason: {reason}"
            ),
            Self::Unplaced { reason } => {
                format!("(service {service}) was unable to place a task. Reason: {reason}")
            }
            Self::Throttled => {
                format!("(service {service}) is unable to consistently start tasks successfully.")
            }
            Self::Blocked => format!(
                "(service {service}) was unable to stop or start tasks during a deployment because \
                 of the service deployment configuration. Update the minimumHealthyPercent or \
                 maximumPercent value and try again."
            ),
        }
    }

    /// Whether it tells of a state that lasts, and which later messages say that it has ended.
    fn lasts(&self) -> Option<fn(&str) -> bool> {
        match self {
            Self::Steady => Some(|_| true),
            Self::NoRoom { .. } | Self::Unplaced { .. } | Self::Throttled | Self::Blocked => {
                Some(|later| later.ends_with(STEADY) || later.ends_with(COMPLETED))
            }
            Self::Started { .. }
            | Self::StoppedRunning { .. }
            | Self::StoppedPending { .. }
            | Self::Completed { .. }
            | Self::Failed { .. }
            | Self::RollingBack { .. }
            | Self::FailedHealthChecks { .. } => None,
        }
    }
}

const STEADY: &str = ") has reached a steady state.";
const COMPLETED: &str = ") deployment completed.";

fn named(tasks: &[String]) -> String {
    let mut names: Vec<String> =
        tasks.iter().take(NAMED).map(|task| format!("(task {task})")).collect();
    if tasks.len() > NAMED {
        names.push(format!("and {} more", tasks.len() - NAMED));
    }
    names.join(" ")
}

/// What a message tells, whichever instance came closest: that changes with every task elsewhere.
fn gist(message: &str) -> (&str, &str) {
    let Some((start, rest)) = message.split_once("(container-instance ") else {
        return (message, "");
    };
    (start, rest.split_once(')').map_or("", |(_, end)| end))
}

/// Tells it, unless it was told and lasts. Whether it did.
pub fn tell(service: &mut Service, message: &Message, now: Timestamp, draws: &mut Draws) -> bool {
    let text = message.text(&service.name);
    if let Some(ends) = message.lasts() {
        for event in &service.events {
            if gist(&event.message) == gist(&text) {
                if later(event.at, REPEAT) > now {
                    return false;
                }
                break;
            }
            if ends(&event.message) {
                break;
            }
        }
    }
    service.events.push_front(Event { id: draws.uuid().to_string(), at: now, message: text });
    service.events.truncate(KEPT);
    true
}

/// When a steady service says so again.
pub fn steady_again(service: &Service) -> Option<Timestamp> {
    let newest = service.events.front()?;
    newest.message.ends_with(STEADY).then(|| later(newest.at, REPEAT))
}
