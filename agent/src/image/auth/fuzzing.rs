//! What is read of logins, see `image/fuzzing.rs`.

use std::path::Path;

use super::{docker, engine, helper, secret};

/// Docker's configuration, a helper's answer, the agent's own setting, a secret; for the image that the
/// first line names.
///
/// # Panics
/// If what a helper says could do harm where it is repeated.
pub fn logins(bytes: &[u8]) {
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else { return };
    let (image, text) = (String::from_utf8_lossy(&bytes[..end]), &bytes[end + 1..]);
    let (host, repository) = image.split_once('/').unwrap_or((&image, ""));
    if let Ok(config) = docker::parse(Path::new("config.json"), text) {
        let _ = config.helper(host, repository);
        let _ = config.login(host, repository);
    }
    let _ = helper::read(text);
    let text = String::from_utf8_lossy(text);
    let said = helper::repeatable(&text);
    assert!(!said.contains(char::is_control) && !said.contains('"'), "{said:?}");
    for kind in ["docker", "dockercfg"] {
        if let Ok(keys) = engine::read(Some(kind), Some(&text)) {
            let _ = keys.find(host, repository);
        }
    }
    let _ = secret::read(&text, "arn");
}
