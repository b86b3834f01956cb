//! Environment variables, environment files and secrets.

use std::collections::{HashMap, HashSet};

use super::node::Node;
use super::problems::{Report, quoted};

pub(super) fn read(container: &Node<'_>, report: &mut Report) -> Vec<(String, String)> {
    let mut positions = HashMap::new();
    let mut variables: Vec<(String, String)> = Vec::new();
    for node in container.list("environment") {
        let name = node.text("name").unwrap_or_default();
        if name.is_empty() || name.contains('=') {
            let rule = format!("must be given and not contain '=', is {}", quoted(name));
            report.invalid(&node.at("name"), rule);
        }
        let value = node.text("value").unwrap_or_default().to_owned();
        match positions.get(name) {
            Some(position) => {
                let position: usize = *position;
                variables[position].1 = value;
            }
            None => {
                positions.insert(name, variables.len());
                variables.push((name.to_owned(), value));
            }
        }
    }
    check_secrets(container, &positions.into_keys().collect(), report);
    check_files(container, report);
    variables
}

fn check_secrets(container: &Node<'_>, variables: &HashSet<&str>, report: &mut Report) {
    let mut names = HashSet::new();
    for node in container.list("secrets") {
        let Some(name) = node.text("name") else { continue };
        if variables.contains(name) {
            let rule = format!("{} is in environment, too", quoted(name));
            report.invalid(&node.at("name"), rule);
        } else if !names.insert(name) {
            report.invalid(&node.at("name"), format!("{} is given more than once", quoted(name)));
        }
    }
}

fn check_files(container: &Node<'_>, report: &mut Report) {
    let files = container.list("environmentFiles");
    if files.len() > 10 {
        let rule = format!("has {} files, at most 10 are allowed", files.len());
        report.invalid(&container.at("environmentFiles"), rule);
    }
    for node in files {
        if let Some(value) = node.text("value").filter(|value| !value.ends_with(".env")) {
            report.invalid(&node.at("value"), format!("must end in .env, is {}", quoted(value)));
        }
    }
}

/// Whether something of the container is fetched with the execution role, and what.
pub(super) fn needs_execution_role(container: &Node<'_>) -> Option<&'static str> {
    let log_secrets = container
        .member("logConfiguration")
        .is_some_and(|log| !log.list("secretOptions").is_empty());
    if !container.list("secrets").is_empty() || log_secrets {
        Some("secrets")
    } else if container.has("repositoryCredentials") {
        Some("repositoryCredentials")
    } else {
        None
    }
}
