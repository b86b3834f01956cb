//! Rules for single texts, used by several groups. Each is `None` for a good text, else the rule it
//! breaks.

use super::problems::quoted;

/// Names of families, containers and volumes.
pub(super) fn name(what: &str, text: &str) -> Option<String> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if text.is_empty() {
        Some(format!("{what} should not be null or empty."))
    } else if !text.bytes().all(fits) {
        Some(format!(
            "{what} contains invalid characters: letters, digits, underscores and hyphens are \
             allowed, is {}",
            quoted(text)
        ))
    } else if text.len() > 255 {
        Some(format!("{what} has {} characters, at most 255 are allowed", text.len()))
    } else {
        None
    }
}

pub(super) fn absolute_path(text: &str) -> Option<String> {
    (!text.starts_with('/')).then(|| format!("must be an absolute path, is {}", quoted(text)))
}

/// What is written into one word of `/etc/hosts` or `/etc/resolv.conf`: a newline or a blank there
/// would add entries of the author's choice.
pub(super) fn host_word(text: &str) -> Option<String> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    let good = !text.is_empty() && text.len() <= 253 && text.bytes().all(fits);
    (!good)
        .then(|| format!("must be 1 to 253 letters, digits, '.', '-' or '_', is {}", quoted(text)))
}

/// A path below which two spellings of one directory compare equal.
pub(super) fn normal_path(text: &str) -> String {
    let mut parts = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}
