//! The first pass: every value against [`super::schema`]. Reports values of a wrong JSON type,
//! unknown and missing members, values outside an enum or a range.
//!
//! Absent and null mean the same, as in the API.

use serde_json::Value;

use super::node::Node;
use super::problems::{ProblemKind, Report, quoted};
use super::schema::{Kind, Member};

pub(super) fn check_object(node: &Node<'_>, members: &[Member], report: &mut Report) {
    let Value::Object(map) = node.value else {
        report.malformed(&node.path, format!("expected an object, found {}", found(node.value)));
        return;
    };
    for (key, value) in map {
        let path = node.at(key);
        match members.iter().find(|member| member.name == key) {
            Some(_) if value.is_null() => {}
            Some(member) => check(&Node::new(path, value), &member.kind, member.required, report),
            None => report.add(ProblemKind::UnknownField, &path, unknown(key, members)),
        }
    }
    for member in members.iter().filter(|member| member.required && !node.has(member.name)) {
        report.invalid(&node.at(member.name), "is required");
    }
}

fn check(node: &Node<'_>, kind: &Kind, required: bool, report: &mut Report) {
    match (kind, node.value) {
        (Kind::Text, Value::String(text)) => {
            // No string that reaches the kernel can hold one.
            if text.contains('\0') {
                report.invalid(&node.path, "must not contain a NUL character");
            } else if required && text.is_empty() {
                report.invalid(&node.path, "must not be empty");
            }
        }
        (Kind::OneOf(values), Value::String(text)) => {
            if !values.contains(&text.as_str()) {
                let rule = format!("must be one of {}, is {}", values.join(", "), quoted(text));
                report.invalid(&node.path, rule);
            }
        }
        (Kind::Integer(least, most), Value::Number(number)) => match number.as_i64() {
            Some(value) if (*least..=*most).contains(&value) => {}
            Some(value) if i32::try_from(value).is_ok() => {
                let rule = if *most == i64::from(i32::MAX) {
                    format!("must be at least {least}, is {value}")
                } else {
                    format!("must be from {least} to {most}, is {value}")
                };
                report.invalid(&node.path, rule);
            }
            _ => {
                report.malformed(&node.path, format!("expected a 32-bit integer, found {number}"));
            }
        },
        (Kind::Boolean, Value::Bool(_)) => {}
        (Kind::List(element), Value::Array(_)) => {
            for node in node.elements() {
                check(&node, element, false, report);
            }
        }
        (Kind::TextMap, Value::Object(map)) => {
            for (key, value) in map {
                let path = node.at(key);
                if key.is_empty() || key.contains('\0') {
                    report.invalid(&path, "the key must not be empty or contain a NUL character");
                }
                if !value.is_null() {
                    check(&Node::new(path, value), &Kind::Text, false, report);
                }
            }
        }
        (Kind::Object(members), _) => check_object(node, members, report),
        (Kind::ReadOnly, _) => {}
        (_, value) => {
            report.malformed(
                &node.path,
                format!("expected {}, found {}", expected(kind), found(value)),
            );
        }
    }
}

fn expected(kind: &Kind) -> &'static str {
    match kind {
        Kind::Text | Kind::OneOf(_) => "a string",
        Kind::Integer(..) => "an integer",
        Kind::Boolean => "true or false",
        Kind::List(_) => "a list",
        Kind::TextMap | Kind::Object(_) => "an object",
        Kind::ReadOnly => "any value",
    }
}

fn found(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) => format!("the string {}", quoted(text)),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

fn unknown(key: &str, members: &[Member]) -> String {
    let near = |member: &&Member| distance_at_most_two(key, member.name);
    match members.iter().find(near) {
        Some(member) => format!("unknown field, did you mean {}?", member.name),
        None => "unknown field".to_owned(),
    }
}

/// Whether at most two characters were inserted, dropped or replaced, case aside.
fn distance_at_most_two(given: &str, name: &str) -> bool {
    fn within(a: &[u8], b: &[u8], edits: u8) -> bool {
        match (a, b) {
            ([x, rest_a @ ..], [y, rest_b @ ..]) if x.eq_ignore_ascii_case(y) => {
                within(rest_a, rest_b, edits)
            }
            (_, _) if edits == 0 => a.is_empty() && b.is_empty(),
            ([_, rest_a @ ..], [_, rest_b @ ..]) => {
                within(rest_a, rest_b, edits - 1)
                    || within(rest_a, b, edits - 1)
                    || within(a, rest_b, edits - 1)
            }
            ([], rest) | (rest, []) => rest.len() <= usize::from(edits),
        }
    }
    given.len().abs_diff(name.len()) <= 2 && within(given.as_bytes(), name.as_bytes(), 2)
}
