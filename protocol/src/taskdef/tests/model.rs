//! The tables against Amazon's model, and the claim that nothing is ignored.

use std::collections::{BTreeMap, BTreeSet};

use super::super::schema::{Kind, Member, REGISTER_TASK_DEFINITION};
use super::*;

#[derive(serde::Deserialize)]
struct Model {
    read_only: BTreeSet<String>,
    members: Vec<Row>,
}

#[derive(serde::Deserialize)]
struct Row {
    path: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    required: bool,
    #[serde(rename = "enum", default)]
    values: BTreeSet<String>,
}

fn model() -> Model {
    serde_json::from_str(include_str!("../model/register-task-definition.json")).unwrap()
}

/// Path, type, required, enum of everything in our schema.
type Rows = BTreeMap<String, (String, bool, BTreeSet<String>)>;

fn walk(path: &str, members: &[Member], rows: &mut Rows, read_only: &mut BTreeSet<String>) {
    for member in members {
        let path = if path.is_empty() {
            member.name.to_owned()
        } else {
            format!("{path}.{}", member.name)
        };
        if let Kind::ReadOnly = member.kind {
            read_only.insert(path);
        } else {
            walk_kind(&path, &member.kind, member.required, rows, read_only);
        }
    }
}

fn walk_kind(
    path: &str,
    kind: &Kind,
    required: bool,
    rows: &mut Rows,
    read_only: &mut BTreeSet<String>,
) {
    let mut values = BTreeSet::new();
    let name = match kind {
        Kind::Text => "string",
        Kind::OneOf(list) => {
            values.extend(list.iter().map(|value| (*value).to_owned()));
            "string"
        }
        Kind::Integer(..) => "integer",
        Kind::Boolean => "boolean",
        Kind::List(element) => {
            walk_kind(&format!("{path}[]"), element, false, rows, read_only);
            "list"
        }
        Kind::TextMap => "map",
        Kind::Object(members) => {
            walk(path, members, rows, read_only);
            "structure"
        }
        Kind::ReadOnly => "read-only",
    };
    rows.insert(path.to_owned(), (name.to_owned(), required, values));
}

#[test]
fn the_schema_is_amazons_model() {
    let model = model();
    let mut read_only = BTreeSet::new();
    let mut ours = Rows::new();
    walk("", REGISTER_TASK_DEFINITION, &mut ours, &mut read_only);
    let theirs: Rows =
        model.members.into_iter().map(|r| (r.path, (r.kind, r.required, r.values))).collect();
    assert_eq!(ours, theirs);
    assert_eq!(read_only, model.read_only);
}

/// The path of a row of a table, without its value.
fn path_of(pattern: &str) -> &str {
    pattern.split(['!', '=']).next().unwrap()
}

fn is_below(path: &str, ancestor: &str) -> bool {
    path.strip_prefix(ancestor).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// Whether every value of the member is refused.
fn is_refused_whole(path: &str) -> bool {
    NOT_SUPPORTED_YET.iter().any(|(pattern, _)| !pattern.contains('=') && is_below(path, pattern))
}

fn has_no_effect(path: &str) -> bool {
    ACCEPTED_WITHOUT_EFFECT.iter().any(|(ancestor, _)| is_below(path, ancestor))
}

/// Takes every value at `path` away; whether there was one.
fn remove(value: &mut Value, path: &str) -> bool {
    let (segment, rest) = path.split_once('.').map_or((path, None), |(s, r)| (s, Some(r)));
    let (name, is_list) = segment.strip_suffix("[]").map_or((segment, false), |name| (name, true));
    let Some(member) = value.get_mut(name) else { return false };
    match (is_list, rest) {
        (false, None) => value.as_object_mut().unwrap().remove(name).is_some(),
        (false, Some(rest)) => remove(member, rest),
        (true, None) => !std::mem::take(member.as_array_mut().unwrap()).is_empty(),
        (true, Some(rest)) => {
            let list = member.as_array_mut().unwrap();
            list.iter_mut().fold(false, |found, element| remove(element, rest) | found)
        }
    }
}

/// Each member of the API is refused, listed as having no effect, or acted on: taking it out of a
/// definition that has them all changes what comes out.
#[test]
fn no_member_is_ignored() {
    let whole = accepted(&full());
    for Row { path, .. } in model().members {
        // Only the default mode has all members; accepted::host_ports_of_each_mode has the others.
        if is_refused_whole(&path) || has_no_effect(&path) || path == "networkMode" {
            continue;
        }
        let mut without = full();
        assert!(remove(&mut without, &path), "{path} is missing in the full definition");
        assert!(parse(&without.to_string()).ok().as_ref() != Some(&whole), "{path} is ignored");
    }
}

#[test]
fn tables_name_members_of_the_api() {
    let mut rows = Rows::new();
    walk("", REGISTER_TASK_DEFINITION, &mut rows, &mut BTreeSet::new());
    for (pattern, what) in NOT_SUPPORTED_YET.iter().chain(ACCEPTED_WITHOUT_EFFECT) {
        let path = path_of(pattern);
        let option = path.split_once(".options.").map(|(map, _)| format!("{map}.options"));
        assert!(rows.contains_key(&option.unwrap_or_else(|| path.to_owned())), "{pattern}");
        assert!(!what.is_empty(), "{pattern}");
    }
}

/// A value that the row refuses.
fn sample(pattern: &str, rows: &Rows) -> Value {
    match pattern.split_once('=') {
        Some((path, _)) if path.ends_with('!') => json!("x"),
        Some((_, value)) => json!(value.replace('*', "x")),
        None if rows.contains_key(pattern) => minimal(pattern, rows),
        // An option of a log driver.
        None => json!("x"),
    }
}

/// The smallest value of the type at `path` that is not "off".
fn minimal(path: &str, rows: &Rows) -> Value {
    let (kind, _, values) = &rows[path];
    match kind.as_str() {
        "string" => values.first().map_or(json!("x"), |value| json!(value)),
        "integer" => json!(30),
        "boolean" => json!(true),
        "list" => json!([minimal(&format!("{path}[]"), rows)]),
        "map" => json!({"k": "v"}),
        _ => {
            let mut object = Map::new();
            let children = rows.iter().filter_map(|(child, (_, required, _))| {
                let name = child.strip_prefix(path)?.strip_prefix('.')?;
                (!name.contains(['.', '['])).then_some((name, child, *required))
            });
            let children: Vec<_> = children.collect();
            let any_required = children.iter().any(|(_, _, required)| *required);
            for (name, child, required) in children {
                if required || !any_required {
                    object.insert(name.to_owned(), minimal(child, rows));
                }
            }
            Value::Object(object)
        }
    }
}

/// Puts `value` at `path`, in first elements of lists, making what is missing on the way.
fn put(target: &mut Value, path: &str, value: Value) {
    let (segment, rest) = path.split_once('.').map_or((path, None), |(s, r)| (s, Some(r)));
    let members = target.as_object_mut().unwrap();
    let slot = match segment.strip_suffix("[]") {
        Some(name) => &mut members.entry(name).or_insert_with(|| json!([{}]))[0],
        None => members.entry(segment).or_insert_with(|| json!({})),
    };
    match rest {
        Some(rest) => put(slot, rest, value),
        None => *slot = value,
    }
}

/// Every row of the table refuses a value, as "not supported yet" and with its path.
#[test]
fn every_row_refuses() {
    let mut rows = Rows::new();
    walk("", REGISTER_TASK_DEFINITION, &mut rows, &mut BTreeSet::new());
    for (pattern, what) in NOT_SUPPORTED_YET {
        let mut definition = container(json!({}));
        let path = path_of(pattern);
        put(&mut definition, path, sample(pattern, &rows));
        let path = path.replace("[]", "[0]");
        let line = format!("not supported yet: {path} ({what})");
        let lines = problems(&definition);
        assert!(lines.contains(&line), "{line}\n{definition:#}\n{lines:#?}");
    }
}

/// The values that say "off" are no use of the member.
#[test]
fn off_is_accepted() {
    let mut rows = Rows::new();
    walk("", REGISTER_TASK_DEFINITION, &mut rows, &mut BTreeSet::new());
    let plain = accepted(&container(json!({})));
    for (pattern, _) in NOT_SUPPORTED_YET.iter().filter(|(pattern, _)| !pattern.contains('=')) {
        // Below these more members would be needed to be accepted at all.
        if ["restartPolicy", "Configuration.", "portMappings"].iter().any(|p| pattern.contains(p)) {
            continue;
        }
        let off = match rows.get(*pattern).map(|(kind, _, _)| kind.as_str()) {
            Some("list") => vec![json!([]), Value::Null],
            Some("boolean") => vec![json!(false), Value::Null],
            Some("string") if rows[*pattern].2.is_empty() => vec![json!(""), Value::Null],
            _ => vec![Value::Null],
        };
        for off in off {
            let mut definition = container(json!({}));
            if pattern.starts_with("volumes[]") {
                definition["volumes"] = json!([{"name": "v"}]);
            }
            put(&mut definition, pattern, off);
            let mut ours = match parse(&definition.to_string()) {
                Ok(ours) => ours,
                // A required sibling is missing.
                Err(problems) if problems.to_string().contains("is required") => continue,
                Err(problems) => panic!("{definition:#}\n{problems}"),
            };
            ours.volumes.clear();
            assert_eq!(ours, plain, "{definition:#}");
        }
    }
}
