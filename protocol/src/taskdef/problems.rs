//! What is wrong with a definition: every problem with its place, collected before anything is
//! refused.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A place in the definition, printed as `containerDefinitions[0].portMappings[1].hostPort`.
///
/// Keys that are no plain names are quoted and escaped: a definition is hostile input and its
/// problems are printed on terminals.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Path(String);

impl Path {
    pub(super) fn member(&self, key: &str) -> Self {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        if key.is_empty() || !key.bytes().all(plain) {
            return Self(format!("{}[{}]", self.0, quoted(key)));
        }
        Self(if self.0.is_empty() { shorten(key) } else { format!("{}.{}", self.0, shorten(key)) })
    }

    pub(super) fn element(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The longest piece of a definition's own text that a message repeats, in characters.
const LONGEST_QUOTE: usize = 80;

fn shorten(text: &str) -> String {
    match text.char_indices().nth(LONGEST_QUOTE) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Text of the definition as messages show it: quoted, escaped, cut.
pub(super) fn quoted(text: &str) -> String {
    format!("{:?}", shorten(text))
}

/// A name of the definition within a sentence: as it is if it is good, else escaped and cut.
pub(super) fn escaped(text: &str) -> String {
    shorten(text).escape_debug().to_string()
}

/// Why something is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ProblemKind {
    /// No JSON, or a value of another JSON type than the API's.
    Malformed,
    /// No member of that name exists in the API.
    UnknownField,
    /// Breaks a rule of ECS.
    Invalid,
    /// ECS takes it, and we do not act on it yet.
    NotSupportedYet,
}

/// One problem and its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// `containerDefinitions[0].portMappings[1].hostPort`; empty for the whole definition.
    pub path: String,
    /// The rule that is broken, or for [`ProblemKind::NotSupportedYet`] what is missing.
    pub rule: String,
    pub kind: ProblemKind,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = if self.path.is_empty() { "task definition" } else { &self.path };
        match self.kind {
            ProblemKind::NotSupportedYet => write!(f, "not supported yet: {path} ({})", self.rule),
            ProblemKind::Malformed | ProblemKind::UnknownField | ProblemKind::Invalid => {
                write!(f, "{path}: {}", self.rule)
            }
        }
    }
}

/// Everything that is wrong with a definition, at least one problem. Prints one per line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// The problems, those of kind [`ProblemKind::NotSupportedYet`] last.
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.0.iter()
    }

    /// Whether ECS would take the definition: all that is missing is our support.
    pub fn only_not_supported_yet(&self) -> bool {
        self.0.iter().all(|problem| problem.kind == ProblemKind::NotSupportedYet)
    }
}

impl<'a> IntoIterator for &'a Problems {
    type Item = &'a Problem;
    type IntoIter = std::slice::Iter<'a, Problem>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// Collects problems while a definition is read.
#[derive(Debug, Default)]
pub(super) struct Report(Vec<Problem>);

impl Report {
    pub(super) fn add(&mut self, kind: ProblemKind, path: &Path, rule: impl Into<String>) {
        self.0.push(Problem { path: path.0.clone(), rule: rule.into(), kind });
    }

    pub(super) fn malformed(&mut self, path: &Path, rule: impl Into<String>) {
        self.add(ProblemKind::Malformed, path, rule);
    }

    pub(super) fn invalid(&mut self, path: &Path, rule: impl Into<String>) {
        self.add(ProblemKind::Invalid, path, rule);
    }

    /// Everything reported, and this problem that leaves nothing to look at further.
    pub(super) fn give_up(
        mut self,
        kind: ProblemKind,
        path: &Path,
        rule: impl Into<String>,
    ) -> Problems {
        self.add(kind, path, rule);
        Problems(self.0)
    }

    /// `value` if nothing was reported.
    pub(super) fn finish<T>(self, value: T) -> Result<T, Problems> {
        if self.0.is_empty() { Ok(value) } else { Err(Problems(self.0)) }
    }
}
