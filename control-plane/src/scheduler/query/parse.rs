//! The parser of the cluster query language: recursive descent over the text.

use regex_lite::RegexBuilder;

use super::{Comparison, MAX_COST, MAX_LENGTH, Node, Pattern, Subject, Test, Value, Version, time};

/// Deepest nesting of parentheses and negations.
const MAX_DEPTH: usize = 50;
/// Least bytes that a compiled pattern counts for.
const LEAST_PATTERN: usize = 256;

/// Operators that are symbols, longest first.
const SYMBOLS: &[(&str, Operator)] = &[
    ("==", Operator::Compare(Comparison::Equal)),
    ("!=", Operator::Compare(Comparison::NotEqual)),
    (">=", Operator::Compare(Comparison::GreaterOrEqual)),
    ("<=", Operator::Compare(Comparison::LessOrEqual)),
    ("=~", Operator::Matches),
    ("!~", Operator::NotMatches),
    (">", Operator::Compare(Comparison::Greater)),
    ("<", Operator::Compare(Comparison::Less)),
];

/// Operators that are words.
const WORDS: &[(&str, Operator)] = &[
    ("equals", Operator::Compare(Comparison::Equal)),
    ("not_equals", Operator::Compare(Comparison::NotEqual)),
    ("greater_than", Operator::Compare(Comparison::Greater)),
    ("greater_than_equal", Operator::Compare(Comparison::GreaterOrEqual)),
    ("less_than", Operator::Compare(Comparison::Less)),
    ("less_than_equal", Operator::Compare(Comparison::LessOrEqual)),
    ("matches", Operator::Matches),
    ("not_matches", Operator::NotMatches),
    ("in", Operator::In),
    ("!in", Operator::NotIn),
    ("not_in", Operator::NotIn),
    ("exists", Operator::Exists),
    ("!exists", Operator::NotExists),
    ("not_exists", Operator::NotExists),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Compare(Comparison),
    Matches,
    NotMatches,
    In,
    NotIn,
    Exists,
    NotExists,
}

/// The expression, and the bytes of its compiled patterns.
pub(super) fn expression(text: &str) -> Result<(Node, usize), String> {
    if text.chars().count() > MAX_LENGTH {
        return Err(format!("the expression is longer than {MAX_LENGTH} characters"));
    }
    let mut parser = Parser { text, at: 0, depth: 0, cost: 0 };
    let node = parser.any()?;
    parser.space();
    if parser.rest().is_empty() {
        Ok((node, parser.cost))
    } else {
        Err(parser.expected("'and' or 'or'"))
    }
}

#[derive(Debug)]
struct Parser<'a> {
    text: &'a str,
    /// Byte, at the beginning of a character.
    at: usize,
    depth: usize,
    /// Bytes of the patterns so far.
    cost: usize,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    fn expected(&self, what: &str) -> String {
        let found: String = self.rest().trim_start().chars().take(20).collect();
        let place = self.text.get(..self.at).unwrap_or_default().chars().count() + 1;
        if found.is_empty() {
            format!("expected {what} at the end")
        } else {
            format!("expected {what} at character {place}, found {found:?}")
        }
    }

    /// Takes a symbol, if it comes next.
    fn symbol(&mut self, symbol: &str) -> bool {
        self.space();
        let there = self.rest().starts_with(symbol);
        if there {
            self.at += symbol.len();
        }
        there
    }

    /// Takes a word, if it comes next and ends there.
    fn word(&mut self, word: &str) -> bool {
        self.space();
        let rest = self.rest();
        let there = rest.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word))
            && !rest.get(word.len()..).is_some_and(|after| after.starts_with(is_name));
        if there {
            self.at += word.len();
        }
        there
    }

    fn any(&mut self) -> Result<Node, String> {
        self.chain(Self::all, "||", "or", Node::Any)
    }

    fn all(&mut self) -> Result<Node, String> {
        self.chain(Self::unary, "&&", "and", Node::All)
    }

    fn chain(
        &mut self,
        part: fn(&mut Self) -> Result<Node, String>,
        symbol: &str,
        word: &str,
        join: fn(Vec<Node>) -> Node,
    ) -> Result<Node, String> {
        let first = part(self)?;
        let mut nodes = vec![first];
        while self.symbol(symbol) || self.word(word) {
            nodes.push(part(self)?);
        }
        if nodes.len() > 1 {
            return Ok(join(nodes));
        }
        nodes.pop().ok_or_else(|| self.expected("a condition"))
    }

    fn unary(&mut self) -> Result<Node, String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(format!("the expression is nested deeper than {MAX_DEPTH}"));
        }
        let node = if self.symbol("!") || self.word("not") {
            Node::Not(Box::new(self.unary()?))
        } else if self.symbol("(") {
            let node = self.any()?;
            if !self.symbol(")") {
                return Err(self.expected("')'"));
            }
            node
        } else {
            self.term()?
        };
        self.depth -= 1;
        Ok(node)
    }

    fn term(&mut self) -> Result<Node, String> {
        let subject = self.subject()?;
        let start = self.at;
        let operator = self.operator()?;
        if !allows(&subject, operator) {
            self.at = start;
            return Err(self.expected(&format!("an operator that {} takes", name(&subject))));
        }
        let (test, negated) = match operator {
            Operator::Compare(comparison) => {
                let text = self.value(false)?;
                (Test::Compare(comparison, typed(&subject, text)?), false)
            }
            Operator::Matches | Operator::NotMatches => {
                let text = self.value(true)?;
                let (pattern, cost) = pattern(&text, MAX_COST.saturating_sub(self.cost))?;
                self.cost += cost;
                (Test::Matches(pattern), operator == Operator::NotMatches)
            }
            Operator::In | Operator::NotIn => {
                (Test::In(self.values()?), operator == Operator::NotIn)
            }
            Operator::Exists => (Test::Exists, false),
            Operator::NotExists => (Test::Exists, true),
        };
        let term = Node::Term(subject, test);
        Ok(if negated { Node::Not(Box::new(term)) } else { term })
    }

    fn subject(&mut self) -> Result<Subject, String> {
        self.space();
        let rest = self.rest();
        let end = rest.find(|c: char| !is_name(c) && c != ':').unwrap_or(rest.len());
        let (word, _) = rest.split_at(end);
        let subject = match word {
            "agentConnected" => Subject::AgentConnected,
            "agentVersion" => Subject::AgentVersion,
            "ec2InstanceId" => Subject::Ec2InstanceId,
            "registeredAt" => Subject::RegisteredAt,
            "runningTasksCount" => Subject::RunningTasksCount,
            "task:group" => Subject::TaskGroup,
            _ => match word.strip_prefix("attribute:") {
                Some(name) if !name.is_empty() => Subject::Attribute(name.to_owned()),
                _ => {
                    return Err(self.expected(
                        "agentConnected, agentVersion, ec2InstanceId, registeredAt, \
                         runningTasksCount, task:group or attribute:NAME",
                    ));
                }
            },
        };
        self.at += end;
        Ok(subject)
    }

    fn operator(&mut self) -> Result<Operator, String> {
        for (symbol, operator) in SYMBOLS {
            if self.symbol(symbol) {
                return Ok(*operator);
            }
        }
        for (word, operator) in WORDS {
            if self.word(word) {
                return Ok(*operator);
            }
        }
        Err(self.expected("an operator"))
    }

    fn values(&mut self) -> Result<Vec<String>, String> {
        if !self.symbol("[") {
            return Err(self.expected("'['"));
        }
        let mut values = vec![self.value(false)?];
        while self.symbol(",") {
            values.push(self.value(false)?);
        }
        if self.symbol("]") { Ok(values) } else { Err(self.expected("',' or ']'")) }
    }

    /// A quoted or a bare word. A bare pattern may hold brackets, and in them what would end it.
    fn value(&mut self, is_pattern: bool) -> Result<String, String> {
        self.space();
        let rest = self.rest();
        if let Some(quote) = rest.chars().next().filter(|c| matches!(c, '\'' | '"')) {
            let inner = rest.get(1..).unwrap_or_default();
            let Some((value, _)) = inner.split_once(quote) else {
                return Err(self.expected("a value with its closing quote"));
            };
            self.at += value.len() + 2;
            return Ok(value.to_owned());
        }
        let mut open = 0_usize;
        let mut escaped = false;
        let end = rest.find(|c: char| {
            if c.is_whitespace() {
                return true;
            }
            if is_pattern {
                if escaped {
                    escaped = false;
                    return false;
                }
                match c {
                    '\\' => escaped = true,
                    '(' | '[' | '{' => open += 1,
                    ')' | ']' | '}' if open > 0 => open -= 1,
                    _ if open > 0 => {}
                    ')' | ']' | '}' | '\'' | '"' | '&' | '|' => return true,
                    _ => {}
                }
                return false;
            }
            matches!(
                c,
                '(' | ')' | '[' | ']' | ',' | '\'' | '"' | '&' | '|' | '!' | '=' | '<' | '>'
            )
        });
        let value = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
        if value.is_empty() {
            return Err(self.expected("a value"));
        }
        self.at += value.len();
        Ok(value.to_owned())
    }
}

/// Characters of attributes' names, and so of words.
fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '/' | '\\' | '.')
}

fn name(subject: &Subject) -> &str {
    match subject {
        Subject::AgentConnected => "agentConnected",
        Subject::AgentVersion => "agentVersion",
        Subject::Ec2InstanceId => "ec2InstanceId",
        Subject::RegisteredAt => "registeredAt",
        Subject::RunningTasksCount => "runningTasksCount",
        Subject::TaskGroup => "task:group",
        Subject::Attribute(_) => "an attribute",
    }
}

fn allows(subject: &Subject, operator: Operator) -> bool {
    let is_equality =
        matches!(operator, Operator::Compare(Comparison::Equal | Comparison::NotEqual));
    match subject {
        Subject::AgentVersion | Subject::RegisteredAt | Subject::RunningTasksCount => {
            matches!(operator, Operator::Compare(_))
        }
        Subject::AgentConnected | Subject::Ec2InstanceId | Subject::TaskGroup => {
            is_equality
                || matches!(
                    operator,
                    Operator::In | Operator::NotIn | Operator::Matches | Operator::NotMatches
                )
        }
        Subject::Attribute(_) => true,
    }
}

fn typed(subject: &Subject, text: String) -> Result<Value, String> {
    match subject {
        Subject::AgentVersion => Version::parse(&text).map(Value::Version),
        Subject::RunningTasksCount => text.parse().ok().map(Value::Number),
        Subject::RegisteredAt => time(&text).map(|(from, to)| Value::Time(from, to)),
        Subject::AgentConnected
        | Subject::Ec2InstanceId
        | Subject::TaskGroup
        | Subject::Attribute(_) => Some(Value::Text(text.clone())),
    }
    .ok_or_else(|| format!("{text:?} is no value for {}", name(subject)))
}

/// A pattern, and about how many bytes it is compiled: at most `most`.
fn pattern(text: &str, most: usize) -> Result<(Pattern, usize), String> {
    let is_literal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | ':' | '/');
    if let Some(prefix) = text.strip_suffix(".*").filter(|prefix| prefix.chars().all(is_literal)) {
        return Ok((Pattern::Prefix(prefix.to_owned()), 0));
    }
    let compile = |limit| {
        RegexBuilder::new(&format!("^(?:{text})$"))
            .dot_matches_new_line(false)
            .size_limit(limit)
            .nest_limit(20)
            .build()
    };
    // Its size is not told: the first limit that it keeps is close to it.
    let mut limit = LEAST_PATTERN;
    while limit < most {
        if let Ok(regex) = compile(limit) {
            return Ok((Pattern::Regex(regex), limit));
        }
        limit = limit.saturating_mul(2);
    }
    compile(most)
        .map(|regex| (Pattern::Regex(regex), most))
        .map_err(|error| format!("{text:?} is no regular expression, or too large: {error}"))
}
