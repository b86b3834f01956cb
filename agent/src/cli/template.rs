//! `--format` as Docker has it: Go's `text/template` over what a command knows, with Docker's
//! functions. Pure.
//!
//! Understood: fields (`.A.B`, `$`), texts, numbers, pipes, parentheses, `range`, `if`, `with`,
//! `else`, trim markers, comments, and the functions in [`call`]. Not understood: variables, `define`,
//! `printf`. Unlike Go, a field that an object does not have is an error also of a map.

use std::iter::Peekable;
use std::vec::IntoIter;

use serde_json::Value;

/// A template that was read.
#[derive(Debug, Clone)]
pub(super) struct Template(Vec<Node>);

/// The template cannot be read, or not be filled in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error("template: {{{{ without }}}}")]
    Open,
    #[error("template: unexpected {0:?}")]
    Unexpected(String),
    #[error("template: {0} without {{{{end}}}}")]
    NoEnd(&'static str),
    #[error("template: function {0:?} not defined")]
    Function(String),
    #[error("template: no field {field:?}; there are {known}")]
    Field { field: String, known: String },
    #[error("template: {function}: {reason}")]
    Call { function: String, reason: &'static str },
}

#[derive(Debug, Clone)]
enum Node {
    Text(String),
    Print(Pipe),
    Range(Pipe, Vec<Node>, Vec<Node>),
    If(Pipe, Vec<Node>, Vec<Node>),
    With(Pipe, Vec<Node>, Vec<Node>),
}

/// Commands, each of which gets the result of the one before as its last operand.
type Pipe = Vec<Vec<Operand>>;

#[derive(Debug, Clone)]
enum Operand {
    Field { root: bool, path: Vec<String> },
    Constant(Value),
    Function(String),
    Pipe(Pipe),
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Path(String),
    Constant(Value),
    Word(String),
    Sign(char),
}

#[derive(Debug)]
enum Piece {
    Text(String),
    Action(Vec<Token>),
}

impl Template {
    /// Reads a template. `\t` and `\n` written out mean what they mean in Go's strings.
    pub(super) fn parse(text: &str) -> Result<Self, TemplateError> {
        let text = text.replace("\\t", "\t").replace("\\n", "\n");
        let mut pieces = pieces(&text)?.into_iter().peekable();
        let nodes = block(&mut pieces, None)?.0;
        match pieces.next() {
            None => Ok(Self(nodes)),
            Some(_) => Err(TemplateError::Unexpected("end".to_owned())),
        }
    }

    /// Fills the template in.
    pub(super) fn execute(&self, value: &Value) -> Result<String, TemplateError> {
        let mut out = String::new();
        execute(&self.0, value, value, &mut out)?;
        Ok(out)
    }
}

fn pieces(mut text: &str) -> Result<Vec<Piece>, TemplateError> {
    let mut pieces = Vec::new();
    let mut trim = false;
    while let Some(start) = text.find("{{") {
        let (before, rest) = (&text[..start], &text[start + 2..]);
        let end = end_of_action(rest).ok_or(TemplateError::Open)?;
        let mut action = &rest[..end];
        text = &rest[end + 2..];
        let before = if trim { before.trim_start() } else { before };
        let left = action.strip_prefix("- ");
        action = left.unwrap_or(action);
        let before = if left.is_some() { before.trim_end() } else { before };
        let right = action.strip_suffix(" -");
        action = right.unwrap_or(action);
        trim = right.is_some();
        if !before.is_empty() {
            pieces.push(Piece::Text(before.to_owned()));
        }
        if !action.trim().starts_with("/*") {
            pieces.push(Piece::Action(tokens(action)?));
        }
    }
    let rest = if trim { text.trim_start() } else { text };
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest.to_owned()));
    }
    Ok(pieces)
}

/// Where `}}` stands outside of a text in quotes.
fn end_of_action(text: &str) -> Option<usize> {
    let mut quote = None;
    let mut escaped = false;
    for (at, character) in text.char_indices() {
        match quote {
            Some(_) if escaped => escaped = false,
            Some('"') if character == '\\' => escaped = true,
            Some(open) if character == open => quote = None,
            Some(_) => {}
            None if character == '"' || character == '`' => quote = Some(character),
            None if text[at..].starts_with("}}") => return Some(at),
            None => {}
        }
    }
    None
}

fn tokens(text: &str) -> Result<Vec<Token>, TemplateError> {
    let unexpected = |text: &str| TemplateError::Unexpected(text.to_owned());
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '|' | '(' | ')' => {
                tokens.push(Token::Sign(first));
                1
            }
            '"' => {
                let mut texts = serde_json::Deserializer::from_str(rest).into_iter::<String>();
                match texts.next() {
                    Some(Ok(text)) => tokens.push(Token::Constant(Value::String(text))),
                    _ => return Err(unexpected(rest)),
                }
                texts.byte_offset()
            }
            '`' => {
                let (inner, _) = rest[1..].split_once('`').ok_or_else(|| unexpected(rest))?;
                tokens.push(Token::Constant(Value::String(inner.to_owned())));
                inner.len() + 2
            }
            _ => {
                let ends = |c: char| c.is_whitespace() || "|()\"`".contains(c);
                let word = &rest[..rest.find(ends).unwrap_or(rest.len())];
                tokens.push(if word.starts_with(['.', '$']) {
                    Token::Path(word.to_owned())
                } else if let Ok(number) = word.parse::<i64>() {
                    Token::Constant(number.into())
                } else {
                    match word {
                        "true" | "false" => Token::Constant((word == "true").into()),
                        "nil" => Token::Constant(Value::Null),
                        _ => Token::Word(word.to_owned()),
                    }
                });
                word.len()
            }
        };
        rest = rest[length..].trim_start();
    }
    Ok(tokens)
}

type Pieces = Peekable<IntoIter<Piece>>;

/// Nodes up to the end of the text, or of the block that `opened` began; and its `else` part.
fn block(
    pieces: &mut Pieces,
    opened: Option<&'static str>,
) -> Result<(Vec<Node>, Vec<Node>), TemplateError> {
    let (mut nodes, mut before_else) = (Vec::new(), None);
    while let Some(piece) = pieces.next() {
        let tokens = match piece {
            Piece::Text(text) => {
                nodes.push(Node::Text(text));
                continue;
            }
            Piece::Action(tokens) => tokens,
        };
        let word = match tokens.first() {
            Some(Token::Word(word)) => word.as_str(),
            _ => "",
        };
        let opens = ["range", "if", "with"].into_iter().find(|opens| *opens == word);
        if let Some(opens) = opens {
            let condition = pipe(&tokens[1..])?;
            let (then, otherwise) = block(pieces, Some(opens))?;
            nodes.push(match opens {
                "range" => Node::Range(condition, then, otherwise),
                "if" => Node::If(condition, then, otherwise),
                _ => Node::With(condition, then, otherwise),
            });
        } else if word == "else" && opened.is_some() && before_else.is_none() && tokens.len() == 1 {
            before_else = Some(std::mem::take(&mut nodes));
        } else if word == "end" && opened.is_some() && tokens.len() == 1 {
            return Ok(match before_else {
                Some(then) => (then, nodes),
                None => (nodes, Vec::new()),
            });
        } else {
            nodes.push(Node::Print(pipe(&tokens)?));
        }
    }
    match opened {
        Some(opened) => Err(TemplateError::NoEnd(opened)),
        None => Ok((nodes, Vec::new())),
    }
}

fn pipe(tokens: &[Token]) -> Result<Pipe, TemplateError> {
    let mut at = 0;
    let pipe = pipe_at(tokens, &mut at)?;
    match tokens.get(at) {
        None => Ok(pipe),
        Some(_) => Err(TemplateError::Unexpected(")".to_owned())),
    }
}

fn pipe_at(tokens: &[Token], at: &mut usize) -> Result<Pipe, TemplateError> {
    let mut pipe = vec![Vec::new()];
    while let Some(token) = tokens.get(*at) {
        let operand = match token {
            Token::Sign(')') => break,
            Token::Sign('|') => {
                *at += 1;
                pipe.push(Vec::new());
                continue;
            }
            Token::Sign(_) => {
                *at += 1;
                let inner = pipe_at(tokens, at)?;
                if tokens.get(*at) != Some(&Token::Sign(')')) {
                    return Err(TemplateError::Unexpected("(".to_owned()));
                }
                Operand::Pipe(inner)
            }
            Token::Path(path) => {
                let root = path.starts_with('$');
                let names = path.trim_start_matches('$').split('.').filter(|name| !name.is_empty());
                let path: Vec<String> = names.map(str::to_owned).collect();
                Operand::Field { root, path }
            }
            Token::Constant(value) => Operand::Constant(value.clone()),
            Token::Word(word) if FUNCTIONS.contains(&word.as_str()) => {
                Operand::Function(word.clone())
            }
            Token::Word(word) => return Err(TemplateError::Function(word.clone())),
        };
        *at += 1;
        if let Some(command) = pipe.last_mut() {
            command.push(operand);
        }
    }
    if pipe.iter().any(Vec::is_empty) {
        return Err(TemplateError::Unexpected("|".to_owned()));
    }
    Ok(pipe)
}

fn execute(
    nodes: &[Node],
    dot: &Value,
    root: &Value,
    out: &mut String,
) -> Result<(), TemplateError> {
    for node in nodes {
        match node {
            Node::Text(text) => out.push_str(text),
            Node::Print(pipe) => out.push_str(&plain(&evaluate(pipe, dot, root)?)),
            Node::If(condition, then, otherwise) => {
                let holds = is_true(&evaluate(condition, dot, root)?);
                execute(if holds { then } else { otherwise }, dot, root, out)?;
            }
            Node::With(condition, then, otherwise) => {
                let value = evaluate(condition, dot, root)?;
                if is_true(&value) {
                    execute(then, &value, root, out)?;
                } else {
                    execute(otherwise, dot, root, out)?;
                }
            }
            Node::Range(list, then, otherwise) => {
                let items: Vec<Value> = match evaluate(list, dot, root)? {
                    Value::Array(items) => items,
                    Value::Object(map) => map.into_iter().map(|(_, value)| value).collect(),
                    Value::Null => Vec::new(),
                    other => return Err(TemplateError::Unexpected(plain(&other))),
                };
                if items.is_empty() {
                    execute(otherwise, dot, root, out)?;
                }
                for item in &items {
                    execute(then, item, root, out)?;
                }
            }
        }
    }
    Ok(())
}

fn evaluate(pipe: &Pipe, dot: &Value, root: &Value) -> Result<Value, TemplateError> {
    let mut last: Option<Value> = None;
    for command in pipe {
        let mut operands = Vec::new();
        let mut function = None;
        for (at, operand) in command.iter().enumerate() {
            match operand {
                Operand::Function(name) if at == 0 => function = Some(name),
                Operand::Function(name) => return Err(TemplateError::Unexpected(name.clone())),
                Operand::Constant(value) => operands.push(value.clone()),
                Operand::Field { root: from_root, path } => {
                    operands.push(field(if *from_root { root } else { dot }, path)?);
                }
                Operand::Pipe(inner) => operands.push(evaluate(inner, dot, root)?),
            }
        }
        operands.extend(last.take());
        last = Some(match function {
            Some(name) => call(name, &operands)?,
            None if operands.len() == 1 => operands.remove(0),
            None => return Err(TemplateError::Unexpected("|".to_owned())),
        });
    }
    Ok(last.unwrap_or_default())
}

fn field(value: &Value, path: &[String]) -> Result<Value, TemplateError> {
    let mut value = value;
    for name in path {
        value = match value {
            Value::Object(map) => map.get(name).ok_or_else(|| TemplateError::Field {
                field: name.clone(),
                known: map.keys().map(String::as_str).collect::<Vec<_>>().join(", "),
            })?,
            _ => {
                let known = "none in a value that is no object".to_owned();
                return Err(TemplateError::Field { field: name.clone(), known });
            }
        };
    }
    Ok(value.clone())
}

const FUNCTIONS: &[&str] = &[
    "and", "eq", "index", "join", "json", "len", "lower", "ne", "not", "or", "print", "println",
    "split", "title", "truncate", "upper",
];

fn call(function: &str, operands: &[Value]) -> Result<Value, TemplateError> {
    let failed = |reason| TemplateError::Call { function: function.to_owned(), reason };
    let texts = || operands.iter().map(plain).collect::<Vec<String>>();
    let one = || {
        operands.first().filter(|_| operands.len() == 1).ok_or_else(|| failed("takes one operand"))
    };
    let two = || match operands {
        [a, b] => Ok((a, b)),
        _ => Err(failed("takes two operands")),
    };
    Ok(match function {
        "json" => Value::String(one()?.to_string()),
        "lower" => plain(one()?).to_lowercase().into(),
        "upper" => plain(one()?).to_uppercase().into(),
        "title" => {
            let text = plain(one()?);
            let mut characters = text.chars();
            characters
                .next()
                .map(|first| first.to_uppercase().chain(characters).collect::<String>())
                .unwrap_or_default()
                .into()
        }
        "len" => match one()? {
            Value::Array(items) => items.len().into(),
            Value::Object(map) => map.len().into(),
            Value::String(text) => text.len().into(),
            Value::Null => 0.into(),
            _ => return Err(failed("takes a list, an object or a text")),
        },
        "join" => match two()? {
            (Value::Array(items), separator) => {
                items.iter().map(plain).collect::<Vec<_>>().join(&plain(separator)).into()
            }
            (Value::Null, _) => "".into(),
            _ => return Err(failed("takes a list and a text")),
        },
        "split" => {
            let (text, separator) = two()?;
            let (text, separator) = (plain(text), plain(separator));
            text.split(separator.as_str()).map(Value::from).collect::<Vec<_>>().into()
        }
        "truncate" => {
            let (text, length) = two()?;
            let length = length.as_u64().ok_or_else(|| failed("takes a text and a number"))?;
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            plain(text).chars().take(length).collect::<String>().into()
        }
        "print" => texts().concat().into(),
        "println" => format!("{}\n", texts().join(" ")).into(),
        "not" => (!is_true(one()?)).into(),
        "and" | "or" => {
            let stop = function == "or";
            let found = operands.iter().find(|value| is_true(value) == stop);
            found.or(operands.last()).ok_or_else(|| failed("takes operands"))?.clone()
        }
        "eq" => match operands {
            [first, others @ ..] if !others.is_empty() => others.contains(first).into(),
            _ => return Err(failed("takes two operands")),
        },
        "ne" => two().map(|(a, b)| a != b)?.into(),
        "index" => {
            let (mut value, keys) =
                operands.split_first().ok_or_else(|| failed("takes a value"))?;
            for key in keys {
                value = match (value, key) {
                    (Value::Array(items), key) => key
                        .as_u64()
                        .and_then(|at| items.get(usize::try_from(at).ok()?))
                        .ok_or_else(|| failed("index out of range"))?,
                    (Value::Object(map), Value::String(key)) => {
                        map.get(key).unwrap_or(&Value::Null)
                    }
                    _ => return Err(failed("cannot index a value of this kind")),
                };
            }
            // Go gives the zero value of the map's elements: an empty text, in what is inspected.
            if value.is_null() { "".into() } else { value.clone() }
        }
        other => return Err(TemplateError::Function(other.to_owned())),
    })
}

fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

/// As Go prints with `%v`.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            format!("[{}]", items.iter().map(plain).collect::<Vec<_>>().join(" "))
        }
        Value::Object(map) => {
            let pairs = map.iter().map(|(key, value)| format!("{key}:{}", plain(value)));
            format!("map[{}]", pairs.collect::<Vec<_>>().join(" "))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn fill(template: &str) -> Result<String, TemplateError> {
        let value = json!({
            "Id": "sha256:ab", "Size": 12, "Tags": ["a:1", "b:2"], "None": [], "Null": null,
            "Config": {"Env": ["A=b"], "Labels": {"k": "v"}},
        });
        Template::parse(template)?.execute(&value)
    }

    #[test]
    fn templates_are_filled_in_as_docker_fills_them() {
        for (template, text) in [
            ("{{.Id}}", "sha256:ab"),
            ("{{ .Id }}\\t{{.Size}}", "sha256:ab\t12"),
            ("{{json .Tags}}", r#"["a:1","b:2"]"#),
            ("{{.Tags}} {{.Config.Labels}}", "[a:1 b:2] map[k:v]"),
            ("{{join .Tags \", \"}}", "a:1, b:2"),
            ("{{range .Tags}}{{println .}}{{end}}", "a:1\nb:2\n"),
            ("{{range .Tags}}<{{.}} {{$.Size}}>{{else}}no{{end}}", "<a:1 12><b:2 12>"),
            ("{{range .None}}x{{else}}no{{end}}", "no"),
            (
                "{{index .Tags 1}} {{index .Config.Labels \"k\"}}{{index .Config.Labels \"x\"}}",
                "b:2 v",
            ),
            ("{{if .None}}a{{else}}b{{end}}{{if eq .Size 12}}c{{end}}", "bc"),
            ("{{with .Config}}{{.Env}}{{end}}", "[A=b]"),
            ("{{.Id | upper | printf}}", "?"),
            ("{{.Id | upper}} {{len .Tags}} {{len (split .Id \":\")}}", "SHA256:AB 2 2"),
            ("a {{- /* note */ -}} b{{`}}`}}", "ab}}"),
            ("{{.Null}}", "<no value>"),
            ("{{truncate .Id 3}}{{title \"x\"}}{{lower \"Y\"}}", "shaXy"),
        ] {
            if text == "?" {
                assert!(fill(template).is_err(), "{template}");
            } else {
                assert_eq!(fill(template).as_deref(), Ok(text), "{template}");
            }
        }
    }

    #[test]
    fn what_cannot_be_filled_in_is_named() {
        for (template, text) in [
            ("{{.Id", "without }}"),
            ("{{.Nope}}", "no field \"Nope\"; there are Config, Id"),
            ("{{.Id.X}}", "no field \"X\""),
            ("{{nope .Id}}", "\"nope\" not defined"),
            ("{{range .Tags}}", "range without {{end}}"),
            ("{{end}}", "\"end\" not defined"),
            ("{{index .Tags 9}}", "index: index out of range"),
            ("{{(.Id}}", "unexpected \"(\""),
            ("{{}}", "unexpected"),
            ("{{.Id |}}", "unexpected"),
        ] {
            let error = fill(template).unwrap_err().to_string();
            assert!(error.contains(text), "{template}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(\\{\\{|\\}\\}|\\PC| |\\.|end|range|[\"`()|]){0,20}") {
            let _ = fill(&text);
        }
    }
}
