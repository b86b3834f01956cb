//! What `requiresCompatibilities: ["FARGATE"]` allows: task sizes, and no access to the host.

use super::logging;
use super::node::Node;
use super::problems::{Path, Report, quoted};
use super::types::NetworkMode;

/// Task sizes: CPU units, then least, most and step of the memory in MiB. The first row's amounts
/// double rather than step, see [`is_fargate_size`].
const SIZES: &[(u32, u32, u32, u32)] = &[
    (256, 512, 2_048, 512),
    (512, 1_024, 4_096, 1_024),
    (1_024, 2_048, 8_192, 1_024),
    (2_048, 4_096, 16_384, 1_024),
    (4_096, 8_192, 30_720, 1_024),
    (8_192, 16_384, 61_440, 4_096),
    (16_384, 32_768, 122_880, 8_192),
];

/// Whether Fargate has tasks of these CPU units and MiB.
pub fn is_fargate_size(cpu: u32, memory: u32) -> bool {
    SIZES.iter().any(|(units, least, most, step)| {
        cpu == *units
            && (*least..=*most).contains(&memory)
            && memory.is_multiple_of(*step)
            && (cpu, memory) != (256, 1_536)
    })
}

/// The longest timeouts, in seconds.
const MAX_TIMEOUT: u32 = 120;

pub(super) fn check(
    task: &Node<'_>,
    mode: NetworkMode,
    size: (Option<u32>, Option<u32>),
    report: &mut Report,
) {
    if mode != NetworkMode::Awsvpc {
        report.invalid(&task.at("networkMode"), "Fargate only supports network mode 'awsvpc'.");
    }
    for name in ["cpu", "memory"] {
        if task.text(name).is_none() {
            report.invalid(&task.at(name), "is required with the Fargate launch type");
        }
    }
    if let (Some(cpu), Some(memory)) = size
        && !is_fargate_size(cpu, memory)
    {
        let rule = format!(
            "No Fargate configuration exists for given values. ({cpu} CPU units with {memory} MiB)"
        );
        report.invalid(&task.at("cpu"), rule);
    }
    if let Some(pid_mode) = task.text("pidMode").filter(|mode| *mode != "task") {
        let rule = format!(
            "Tasks using the Fargate launch type do not support pidMode '{}'. The supported value \
             for pidMode is 'task'.",
            pid_mode.escape_debug()
        );
        report.invalid(&task.at("pidMode"), rule);
    }
    refuse(task.text("ipcMode").is_some(), &task.at("ipcMode"), report);
    let constraints = !task.list("placementConstraints").is_empty();
    refuse(constraints, &task.at("placementConstraints"), report);
    for volume in task.list("volumes") {
        if let Some(host) = volume.member("host") {
            refuse(host.text("sourcePath").is_some(), &host.at("sourcePath"), report);
        }
        let docker = volume.has("dockerVolumeConfiguration");
        refuse(docker, &volume.at("dockerVolumeConfiguration"), report);
    }
    for container in task.list("containerDefinitions") {
        check_container(&container, task.text("executionRoleArn").is_some(), report);
    }
}

fn refuse(given: bool, path: &Path, report: &mut Report) {
    if given {
        report.invalid(path, "is not supported with the Fargate launch type");
    }
}

fn check_container(container: &Node<'_>, execution_role: bool, report: &mut Report) {
    refuse(container.on("privileged"), &container.at("privileged"), report);
    for name in ["links", "dockerSecurityOptions"] {
        refuse(!container.list(name).is_empty(), &container.at(name), report);
    }
    for requirement in container.list("resourceRequirements") {
        let gpu = requirement.text("type") == Some("GPU");
        refuse(gpu, &requirement.at("type"), report);
    }
    if let Some(linux) = container.member("linuxParameters") {
        refuse(!linux.list("devices").is_empty(), &linux.at("devices"), report);
        for name in ["sharedMemorySize", "maxSwap", "swappiness"] {
            refuse(linux.has(name), &linux.at(name), report);
        }
        let added = linux.member("capabilities").map(|sets| sets.list("add")).unwrap_or_default();
        for capability in added.iter().filter(|node| node.as_text() != Some("SYS_PTRACE")) {
            let rule = "only SYS_PTRACE can be added with the Fargate launch type";
            report.invalid(&capability.path, rule);
        }
    }
    for name in ["startTimeout", "stopTimeout"] {
        if let Some(seconds) = container.number(name).filter(|seconds| *seconds > MAX_TIMEOUT) {
            let rule =
                format!("must be at most {MAX_TIMEOUT} with the Fargate launch type, is {seconds}");
            report.invalid(&container.at(name), rule);
        }
    }
    check_log(container, execution_role, report);
}

fn check_log(container: &Node<'_>, execution_role: bool, report: &mut Report) {
    let Some(driver) = logging::driver(container) else { return };
    let log = container.at("logConfiguration");
    if !["awslogs", "splunk", "awsfirelens"].contains(&driver) {
        let rule = format!(
            "must be awslogs, splunk or awsfirelens with the Fargate launch type, is {}",
            quoted(driver)
        );
        report.invalid(&log.member("logDriver"), rule);
    }
    if driver != "awslogs" {
        return;
    }
    let options = container.member("logConfiguration").and_then(|log| log.member("options"));
    for name in ["awslogs-region", "awslogs-stream-prefix"] {
        if options.as_ref().is_none_or(|options| options.text(name).is_none()) {
            let rule = "is required with the Fargate launch type";
            report.invalid(&log.member("options").member(name), rule);
        }
    }
    if !execution_role {
        let rule = "awslogs with the Fargate launch type needs the task's executionRoleArn";
        report.invalid(&log.member("logDriver"), rule);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_the_guide() {
        let table: &[(u32, &[u32])] = &[
            (256, &[512, 1_024, 2_048]),
            (512, &[1_024, 2_048, 3_072, 4_096]),
            (1_024, &[2_048, 3_072, 4_096, 5_120, 6_144, 7_168, 8_192]),
            (
                8_192,
                &[
                    16_384, 20_480, 24_576, 28_672, 32_768, 36_864, 40_960, 45_056, 49_152, 53_248,
                    57_344, 61_440,
                ],
            ),
            (
                16_384,
                &[
                    32_768, 40_960, 49_152, 57_344, 65_536, 73_728, 81_920, 90_112, 98_304,
                    106_496, 114_688, 122_880,
                ],
            ),
            (128, &[]),
            (300, &[]),
            (32_768, &[]),
        ];
        for (cpu, memories) in table {
            for memory in (0..=131_072).step_by(256) {
                assert_eq!(
                    is_fargate_size(*cpu, memory),
                    memories.contains(&memory),
                    "{cpu} {memory}"
                );
            }
        }
        let sizes = |cpu| (0..=131_072).step_by(512).filter(|m| is_fargate_size(cpu, *m)).count();
        assert_eq!((sizes(2_048), sizes(4_096)), (13, 23));
    }
}
