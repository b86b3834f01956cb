//! `filterPattern`: words that must all occur, `?word` of which one must, `-word` that must not,
//! each perhaps a quoted phrase. Words match within words and know upper and lower case.

/// A pattern that was understood.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Pattern {
    all: Vec<String>,
    any: Vec<String>,
    none: Vec<String>,
}

impl Pattern {
    /// Reads a pattern; an empty one matches everything.
    ///
    /// # Errors
    /// What is wrong with it, or not supported.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        match text.chars().next() {
            Some('{') => return Err("patterns for JSON are not supported: give words".to_owned()),
            Some('[') => {
                return Err("patterns for columns are not supported: give words".to_owned());
            }
            Some('%') => return Err("regular expressions are not supported: give words".to_owned()),
            _ => {}
        }
        let mut pattern = Self::default();
        let mut rest = text;
        while !rest.is_empty() {
            let (kind, after) = match rest.chars().next() {
                Some('?') => (&mut pattern.any, rest.get(1..).unwrap_or("")),
                Some('-') => (&mut pattern.none, rest.get(1..).unwrap_or("")),
                _ => (&mut pattern.all, rest),
            };
            let (word, after) = match after.strip_prefix('"') {
                Some(quoted) => {
                    quoted.split_once('"').ok_or("a quoted phrase does not end".to_owned())?
                }
                None => after.split_once(char::is_whitespace).unwrap_or((after, "")),
            };
            if word.is_empty() {
                return Err("a term is empty".to_owned());
            }
            kind.push(word.to_owned());
            rest = after.trim_start();
        }
        Ok(pattern)
    }

    /// Whether a message matches.
    pub(super) fn matches(&self, message: &str) -> bool {
        self.all.iter().all(|word| message.contains(word))
            && (self.any.is_empty() || self.any.iter().any(|word| message.contains(word)))
            && !self.none.iter().any(|word| message.contains(word))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_matches() {
        for (pattern, message, expected) in [
            ("", "anything", true),
            ("ERROR", "an ERROR occurred", true),
            ("error", "an ERROR occurred", false),
            ("one two", "two and one", true),
            ("one two", "only one", false),
            ("\"a phrase\" x", "x in a phrase", true),
            ("\"a phrase\"", "a b phrase", false),
            ("?a1 ?b2", "has b2", true),
            ("?a1 ?b2", "has neither", false),
            ("-debug", "a debug line", false),
            ("info -\"not this\"", "info this", true),
        ] {
            assert_eq!(Pattern::parse(pattern).unwrap().matches(message), expected, "{pattern}");
        }
    }

    #[test]
    fn what_is_refused() {
        for pattern in ["{ $.a = 1 }", "[ip, user]", "%re%", "\"open", "?", "a -"] {
            assert!(Pattern::parse(pattern).is_err(), "{pattern}");
        }
    }
}
