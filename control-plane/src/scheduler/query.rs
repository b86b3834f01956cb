//! The cluster query language: which container instances an expression selects. It stands in
//! `memberOf` placement constraints and in the filter of ListContainerInstances.
//!
//! ```text
//! expr  := and (("||" | "or") and)*          and := unary (("&&" | "and") unary)*
//! unary := ("!" | "not") unary | "(" expr ")" | subject test
//! test  := op value | ["!"] "in" "[" value ("," value)* "]" | ["!"] "exists"
//! ```
//!
//! A comparison with an attribute that is not there fails, and its negation holds. Attributes
//! compare as numbers if both sides are numbers, else as text. `=~` matches the whole value.
//!
//! Expressions come from callers, and are asked of each instance of a cluster while nothing else can
//! change: their length, their depth and their patterns together are bounded, and matching takes time
//! linear in the value.

mod parse;

#[cfg(test)]
mod tests;

use std::cmp::Ordering;
use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use regex_lite::Regex;

/// Longest expression, in characters.
pub const MAX_LENGTH: usize = 2000;

/// Most bytes of all compiled patterns of a request. A match takes time in proportion to them.
pub const MAX_COST: usize = 16 * 1024;

/// What an expression can ask of an instance.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    pub agent_connected: bool,
    pub agent_version: Option<&'a str>,
    pub ec2_instance_id: Option<&'a str>,
    pub registered_at: Timestamp,
    pub running_tasks: u32,
    pub attributes: &'a BTreeMap<String, Option<String>>,
    /// Groups of the tasks that are to run on it, with their numbers.
    pub groups: &'a BTreeMap<String, u32>,
}

/// A parsed expression.
#[derive(Debug, Clone)]
pub struct Expression {
    node: Node,
    cost: usize,
}

impl Expression {
    /// Parses an expression.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn parse(text: &str) -> Result<Self, String> {
        parse::expression(text).map(|(node, cost)| Self { node, cost })
    }

    /// What it costs to ask it: at most [`MAX_COST`].
    pub fn cost(&self) -> usize {
        self.cost
    }

    /// Whether the instance is selected.
    pub fn matches(&self, facts: &Facts<'_>) -> bool {
        self.node.holds(facts)
    }
}

#[derive(Debug, Clone)]
enum Node {
    Any(Vec<Node>),
    All(Vec<Node>),
    Not(Box<Node>),
    Term(Subject, Test),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Subject {
    AgentConnected,
    AgentVersion,
    Ec2InstanceId,
    RegisteredAt,
    RunningTasksCount,
    TaskGroup,
    Attribute(String),
}

#[derive(Debug, Clone)]
enum Test {
    Compare(Comparison, Value),
    In(Vec<String>),
    Matches(Pattern),
    Exists,
}

/// A regular expression over the whole text.
#[derive(Debug, Clone)]
enum Pattern {
    /// `PREFIX.*`, which most are, and which is to be asked of every instance.
    Prefix(String),
    Regex(Regex),
}

impl Pattern {
    fn is_match(&self, text: &str) -> bool {
        match self {
            Self::Prefix(prefix) => {
                text.strip_prefix(prefix.as_str()).is_some_and(|rest| !rest.contains('\n'))
            }
            Self::Regex(regex) => regex.is_match(text),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Equal,
    NotEqual,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

/// What a subject is compared with, read as the subject needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Text(String),
    Number(u64),
    Version(Version),
    /// The time from the first to before the second: a day or a second, as written.
    Time(Timestamp, Timestamp),
}

/// Numbers between dots. What follows a `-` is left out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Version(Vec<u64>);

impl Version {
    fn parse(text: &str) -> Option<Self> {
        let text = text.strip_prefix(['v', 'V']).unwrap_or(text);
        let numbers = text.split('-').next().unwrap_or_default();
        let mut parts = numbers.split('.').map(str::parse).collect::<Result<Vec<u64>, _>>().ok()?;
        while parts.last() == Some(&0) {
            parts.pop();
        }
        Some(Self(parts))
    }
}

impl Comparison {
    fn holds(self, ordering: Ordering) -> bool {
        match self {
            Self::Equal => ordering.is_eq(),
            Self::NotEqual => ordering.is_ne(),
            Self::Greater => ordering.is_gt(),
            Self::GreaterOrEqual => ordering.is_ge(),
            Self::Less => ordering.is_lt(),
            Self::LessOrEqual => ordering.is_le(),
        }
    }
}

impl Node {
    fn holds(&self, facts: &Facts<'_>) -> bool {
        match self {
            Self::Any(nodes) => nodes.iter().any(|node| node.holds(facts)),
            Self::All(nodes) => nodes.iter().all(|node| node.holds(facts)),
            Self::Not(node) => !node.holds(facts),
            Self::Term(subject, test) => holds(subject, test, facts),
        }
    }
}

fn holds(subject: &Subject, test: &Test, facts: &Facts<'_>) -> bool {
    match subject {
        Subject::AgentConnected => text(Some(bool_name(facts.agent_connected)), test),
        Subject::Ec2InstanceId => text(facts.ec2_instance_id, test),
        Subject::Attribute(name) => {
            text(facts.attributes.get(name).map(|value| value.as_deref().unwrap_or("")), test)
        }
        // The instance has as many groups as it has tasks: one that passes is enough.
        Subject::TaskGroup => match test {
            Test::Compare(Comparison::NotEqual, value) => {
                let equal = Test::Compare(Comparison::Equal, value.clone());
                !facts.groups.keys().any(|group| text(Some(group), &equal))
            }
            test => facts.groups.keys().any(|group| text(Some(group), test)),
        },
        Subject::AgentVersion => {
            let version = facts.agent_version.and_then(Version::parse);
            compare(test, |value| match value {
                Value::Version(value) => version.as_ref().map(|version| version.cmp(value)),
                _ => None,
            })
        }
        Subject::RegisteredAt => compare(test, |value| match value {
            Value::Time(from, _) if facts.registered_at < *from => Some(Ordering::Less),
            Value::Time(_, to) if facts.registered_at >= *to => Some(Ordering::Greater),
            Value::Time(..) => Some(Ordering::Equal),
            _ => None,
        }),
        Subject::RunningTasksCount => compare(test, |value| match value {
            Value::Number(value) => Some(u64::from(facts.running_tasks).cmp(value)),
            _ => None,
        }),
    }
}

fn bool_name(value: bool) -> &'static str {
    if value { "true" } else { "false" }
}

/// A comparison; what cannot be compared is unequal.
fn compare(test: &Test, ordering: impl FnOnce(&Value) -> Option<Ordering>) -> bool {
    match test {
        Test::Compare(comparison, value) => match ordering(value) {
            Some(ordering) => comparison.holds(ordering),
            None => *comparison == Comparison::NotEqual,
        },
        // The parser allows nothing else for these subjects.
        Test::In(_) | Test::Matches(_) | Test::Exists => false,
    }
}

/// A test of text; `None` is not there.
fn text(present: Option<&str>, test: &Test) -> bool {
    match (present, test) {
        (None, Test::Compare(comparison, _)) => *comparison == Comparison::NotEqual,
        (None, _) => false,
        (Some(_), Test::Exists) => true,
        (Some(text), Test::In(values)) => values.iter().any(|value| value == text),
        (Some(text), Test::Matches(pattern)) => pattern.is_match(text),
        (Some(text), Test::Compare(comparison, Value::Text(value))) => {
            let ordering = match comparison {
                Comparison::Equal | Comparison::NotEqual => text.cmp(value),
                _ => match (text.parse::<f64>(), value.parse::<f64>()) {
                    (Ok(left), Ok(right)) => left.total_cmp(&right),
                    _ => text.cmp(value),
                },
            };
            comparison.holds(ordering)
        }
        (Some(_), Test::Compare(comparison, _)) => *comparison == Comparison::NotEqual,
    }
}

/// The day or the second that is written, as a span of time.
fn time(text: &str) -> Option<(Timestamp, Timestamp)> {
    let (from, length) = if let Ok(date) = text.parse::<jiff::civil::Date>()
        && !text.contains(['T', 't', ' '])
    {
        let midnight = date.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
        (midnight.timestamp(), SignedDuration::from_hours(24))
    } else if let Ok(at) = text.parse::<Timestamp>() {
        (at, SignedDuration::from_secs(1))
    } else {
        let at = text.parse::<jiff::civil::DateTime>().ok()?;
        (at.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp(), SignedDuration::from_secs(1))
    };
    Some((from, from.checked_add(length).ok()?))
}
