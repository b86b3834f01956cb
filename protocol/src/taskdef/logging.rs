//! Log drivers, their options, and FireLens.

use super::node::Node;
use super::problems::{Report, quoted};
use super::types::{LogConfiguration, LogDriver};
use super::units;

/// Options that Docker's `json-file` driver knows, sorted. Those we do not act on are in the table
/// of [`super::supported`].
const JSON_FILE_OPTIONS: &[&str] = &[
    "compress",
    "env",
    "env-regex",
    "labels",
    "labels-regex",
    "max-buffer-size",
    "max-file",
    "max-size",
    "mode",
    "tag",
];

/// Options that Docker's `awslogs` driver knows, sorted; likewise.
const AWSLOGS_OPTIONS: &[&str] = &[
    "awslogs-create-group",
    "awslogs-credentials-endpoint",
    "awslogs-datetime-format",
    "awslogs-endpoint",
    "awslogs-force-flush-interval-seconds",
    "awslogs-format",
    "awslogs-group",
    "awslogs-multiline-pattern",
    "awslogs-region",
    "awslogs-stream",
    "awslogs-stream-prefix",
    "max-buffer-size",
    "mode",
    "tag",
];

pub(super) fn read(container: &Node<'_>, report: &mut Report) -> LogConfiguration {
    let mut log = LogConfiguration { driver: LogDriver::JsonFile, options: Default::default() };
    let Some(node) = container.member("logConfiguration") else { return log };
    for (path, name, value) in node.entries("options") {
        if name == "mode" && !["blocking", "non-blocking"].contains(&value) {
            let rule = format!("must be blocking or non-blocking, is {}", quoted(value));
            report.invalid(&path, rule);
        }
        if name == "max-buffer-size" && units::log_bytes(value).is_none_or(|bytes| bytes == 0) {
            let rule = format!("must be a positive size such as 10m, is {}", quoted(value));
            report.invalid(&path, rule);
        }
        log.options.insert(name.to_owned(), value.to_owned());
    }
    match node.text("logDriver") {
        Some("json-file") => check_json_file(&node, report),
        Some("awslogs") => {
            log.driver = LogDriver::AwsLogs;
            check_awslogs(&node, report);
        }
        _ => {}
    }
    log
}

fn check_json_file(node: &Node<'_>, report: &mut Report) {
    for (path, name, value) in node.entries("options") {
        if JSON_FILE_OPTIONS.binary_search(&name).is_err() {
            report.invalid(&path, "unknown log opt for json-file log driver");
        } else if name == "max-size" && units::log_bytes(value).is_none_or(|bytes| bytes == 0) {
            let rule = format!("must be a positive size such as 10m, is {}", quoted(value));
            report.invalid(&path, rule);
        } else if name == "max-file" && !value.parse::<u32>().is_ok_and(|files| files > 0) {
            report.invalid(&path, format!("must be a number of at least 1, is {}", quoted(value)));
        } else if name == "compress" && !["true", "false"].contains(&value) {
            report.invalid(&path, format!("must be true or false, is {}", quoted(value)));
        }
    }
}

fn check_awslogs(node: &Node<'_>, report: &mut Report) {
    let place = node.at("options");
    for (path, name, value) in node.entries("options") {
        if AWSLOGS_OPTIONS.binary_search(&name).is_err() {
            report.invalid(&path, "unknown log opt for awslogs log driver");
        } else if name == "awslogs-endpoint"
            && !(value.starts_with("http://") || value.starts_with("https://"))
        {
            let rule = format!("must be an http or https address, is {}", quoted(value));
            report.invalid(&path, rule);
        } else if name == "awslogs-force-flush-interval-seconds"
            && !value.parse::<u32>().is_ok_and(|seconds| seconds > 0)
        {
            report.invalid(&path, format!("must be a number of at least 1, is {}", quoted(value)));
        }
    }
    let options = node.member("options");
    let has = |name: &str| options.as_ref().is_some_and(|options| options.text(name).is_some());
    if !has("awslogs-group") {
        report.invalid(&place.member("awslogs-group"), "is required for the awslogs log driver");
    }
    if has("awslogs-datetime-format") && has("awslogs-multiline-pattern") {
        let rule = "must be absent beside awslogs-datetime-format";
        report.invalid(&place.member("awslogs-multiline-pattern"), rule);
    }
    if let Some(create) = options.as_ref().and_then(|options| options.text("awslogs-create-group"))
        && !["true", "false"].contains(&create)
    {
        let rule = format!("must be true or false, is {}", quoted(create));
        report.invalid(&place.member("awslogs-create-group"), rule);
    }
}

/// The name of the container's log driver, if it states one.
pub(super) fn driver<'a>(container: &Node<'a>) -> Option<&'a str> {
    container.member("logConfiguration")?.text("logDriver")
}

/// A container that logs to `awsfirelens` needs exactly one that routes.
pub(super) fn check_firelens(containers: &[Node<'_>], report: &mut Report) {
    let routers = containers.iter().filter(|c| c.has("firelensConfiguration")).count();
    if routers > 1 {
        for node in containers.iter().filter(|c| c.has("firelensConfiguration")).skip(1) {
            let rule = "only one container of a task can have a firelensConfiguration";
            report.invalid(&node.at("firelensConfiguration"), rule);
        }
    }
    for node in containers.iter().filter(|c| routers == 0 && driver(c) == Some("awsfirelens")) {
        let rule = "awsfirelens needs a container with a firelensConfiguration";
        report.invalid(&node.at("logConfiguration").member("logDriver"), rule);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn tables_are_sorted() {
        assert!(super::JSON_FILE_OPTIONS.is_sorted());
        assert!(super::AWSLOGS_OPTIONS.is_sorted());
    }
}
