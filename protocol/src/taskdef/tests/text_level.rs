//! What is refused before any rule of task definitions counts.

use super::*;

#[track_caller]
fn refused_text(text: &str, lines: &str) {
    assert_eq!(parse(text).unwrap_err().to_string(), lines, "{text}");
}

#[test]
fn syntax_errors_have_a_place() {
    refused_text(
        "{\n  \"family\": \"a\",\n}",
        "task definition: not valid JSON: trailing comma at line 3 column 1",
    );
    refused_text(
        "",
        "task definition: not valid JSON: EOF while parsing a value at line 1 column 0",
    );
    refused_text(
        "{} {}",
        "task definition: not valid JSON: trailing characters at line 1 column 4",
    );
    refused_text(
        "{\"cpu\": 1e999}",
        "task definition: not valid JSON: number out of range at line 1 column 13",
    );
}

#[test]
fn nesting_is_bounded() {
    let deep = "[".repeat(60_000);
    refused_text(
        &deep,
        "task definition: not valid JSON: recursion limit exceeded at line 1 column 128",
    );
    refused_text(
        &format!("{{\"family\":{}", "{\"a\":".repeat(10_000)),
        "task definition: not valid JSON: recursion limit exceeded at line 1 column 641",
    );
}

#[test]
fn size_is_bounded() {
    let mut text = container(json!({})).to_string();
    text.push_str(&" ".repeat(MAX_BYTES - text.len()));
    assert!(parse(&text).is_ok());
    text.push(' ');
    refused_text(&text, "task definition: is 65537 bytes long, at most 65536 (64 KiB) are allowed");
}

#[test]
fn a_key_given_twice_is_refused() {
    refused_text(
        r#"{"family": "a", "family": "b", "containerDefinitions":
            [{"name": "web", "image": "nginx", "memory": 64, "memory": 65,
              "dockerLabels": {"a.b": "1", "a.b": "2"}}]}"#,
        "family: is given more than once\n\
         containerDefinitions[0].memory: is given more than once\n\
         containerDefinitions[0].dockerLabels[\"a.b\"]: is given more than once",
    );
}

#[test]
fn the_root_is_an_object() {
    refused_text("[]", "task definition: expected an object, found a list");
    refused_text("null", "task definition: expected an object, found null");
    refused_text("\"x\"", "task definition: expected an object, found the string \"x\"");
}

#[test]
fn serde_jsons_own_keys_are_ordinary() {
    refused_text(
        r#"{"family": {"$serde_json::private::RawValue": "1"}, "containerDefinitions": []}"#,
        "family: expected a string, found an object\n\
         containerDefinitions: Container list cannot be empty.",
    );
}

#[test]
fn hostile_text_is_escaped_and_cut() {
    let long = "k".repeat(500);
    let definition =
        merge(container(json!({"user": "a\u{1b}[2Jb c"})), json!({"\u{1b}[31mred\n": 1, long: 1}));
    let lines = problems(&definition);
    assert_eq!(lines.len(), 3, "{lines:#?}");
    assert_eq!(lines[0], r#"["\u{1b}[31mred\n"]: unknown field"#);
    assert_eq!(lines[1], format!("{}…: unknown field", "k".repeat(80)));
    assert_eq!(
        lines[2],
        "containerDefinitions[0].user: must be user, uid, user:group, uid:gid, user:gid or \
         uid:group, is \"a\\u{1b}[2Jb c\""
    );
}
