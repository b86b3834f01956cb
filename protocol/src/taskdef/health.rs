//! Rules of health checks and restart policies. Ranges of their numbers are in the schema.

use super::node::Node;
use super::problems::Report;

pub(super) fn check(container: &Node<'_>, report: &mut Report) {
    if let Some(health) = container.member("healthCheck") {
        let command = health.texts("command");
        let place = health.at("command");
        match command.first().map(String::as_str) {
            Some("CMD" | "CMD-SHELL") if command.len() < 2 => {
                report.invalid(&place, "has no command after CMD or CMD-SHELL");
            }
            Some("CMD" | "CMD-SHELL" | "NONE") => {}
            _ if !health.has("command") => {}
            _ => report.invalid(&place, "must start with CMD, CMD-SHELL or NONE"),
        }
    }
    if let Some(policy) = container.member("restartPolicy") {
        let codes = policy.list("ignoredExitCodes").len();
        if codes > 50 {
            let rule = format!("has {codes} exit codes, at most 50 are allowed");
            report.invalid(&policy.at("ignoredExitCodes"), rule);
        }
    }
}
