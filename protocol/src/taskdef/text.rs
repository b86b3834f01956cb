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

/// A role, by ARN or by name.
pub(super) fn role(text: &str) -> Option<String> {
    let is_name = |name: &str| {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"+=,.@_-".contains(&b);
        (1..=64).contains(&name.len()) && name.bytes().all(fits)
    };
    let good = match text.strip_prefix("arn:") {
        None => is_name(text),
        Some(arn) => {
            let parts: Vec<_> = arn.splitn(5, ':').collect();
            let [partition, "iam", "", account, resource] = parts.as_slice() else {
                return Some(role_rule(text));
            };
            // A role may have a path before its name.
            let name = resource.strip_prefix("role/").and_then(|role| role.rsplit('/').next());
            let length = resource.len() <= 600 && resource.bytes().all(|b| b.is_ascii_graphic());
            partition.starts_with("aws")
                && account.len() == 12
                && account.bytes().all(|b| b.is_ascii_digit())
                && name.is_some_and(is_name)
                && length
        }
    };
    (!good).then(|| role_rule(text))
}

fn role_rule(text: &str) -> String {
    format!(
        "must be a role's ARN (arn:aws:iam::<account>:role/<name>) or name, is {}",
        quoted(text)
    )
}

/// A secret of Secrets Manager, by ARN or by name.
pub(super) fn secret(text: &str) -> Option<String> {
    let is_name = |name: &str| {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"/_+=.@-".contains(&b);
        (1..=512).contains(&name.len()) && name.bytes().all(fits)
    };
    let good = match text.strip_prefix("arn:") {
        None => is_name(text),
        Some(arn) => {
            let parts: Vec<_> = arn.splitn(6, ':').collect();
            matches!(parts.as_slice(), [partition, "secretsmanager", region, account, "secret", name]
                if partition.starts_with("aws")
                    && !region.is_empty()
                    && region.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                    && account.len() == 12
                    && account.bytes().all(|b| b.is_ascii_digit())
                    && is_name(name))
        }
    };
    (!good).then(|| {
        format!(
            "must be the ARN (arn:aws:secretsmanager:<region>:<account>:secret:<name>) or the name \
             of a secret of AWS Secrets Manager, is {}",
            quoted(text)
        )
    })
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
