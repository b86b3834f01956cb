//! The name of a container, which is also the name of its directory.

/// Longest id, in bytes: the directory name's limit leaves room for a temporary suffix.
const LONGEST: usize = 240;

/// A valid container id: one or more of `[A-Za-z0-9_+.-]`, not `.` or `..`, as runc has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Id(String);

/// Why an id is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("container id {id:?} is not valid: use 1 to {LONGEST} of letters, digits and _+.-, and not . or ..")]
pub struct Invalid {
    id: String,
}

impl Id {
    /// Checks a name.
    ///
    /// # Errors
    /// If it is empty, too long, `.`, `..`, or has another character.
    pub fn parse(id: &str) -> Result<Self, Invalid> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_+.-".contains(&byte);
        if id.is_empty() || id.len() > LONGEST || id == "." || id == ".." || !id.bytes().all(allowed)
        {
            return Err(Invalid { id: id.chars().take(300).collect() });
        }
        Ok(Self(id.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_runc_accepts_and_nothing_that_leaves_the_root() {
        for id in ["a", "web-1", "x_y+z.0", "...", "-", "A9"] {
            assert!(Id::parse(id).is_ok(), "{id}");
        }
        let long = "a".repeat(241);
        for id in ["", ".", "..", "a/b", "../x", "a b", "a\0", "ä", "a:b", long.as_str()] {
            assert!(Id::parse(id).is_err(), "{id}");
        }
    }
}
