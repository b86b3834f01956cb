//! The task level: sizes, modes, tags, and the rules across containers.

use std::collections::HashSet;

use super::containers::{self, Task};
use super::node::Node;
use super::problems::{Report, quoted};
use super::types::{
    Compatibility, ContainerDefinition, CpuArchitecture, NamespaceMode, NetworkMode, TaskDefinition,
};
use super::{environment, fargate, text, units, volumes};

/// Task CPU units outside Fargate: 192 CPUs at most.
const CPU_UNITS: std::ops::RangeInclusive<u32> = 128..=196_608;
/// The least memory of a task or a container in MiB.
const LEAST_MEMORY: u32 = 6;

/// `tagged` is what has the tags as a member.
pub(super) fn read(root: &Node<'_>, tagged: &Node<'_>, report: &mut Report) -> TaskDefinition {
    let family = root.text("family").unwrap_or_default();
    // An absent or empty family is reported by the shape.
    if let Some(rule) = text::name("Family", family).filter(|_| !family.is_empty()) {
        report.invalid(&root.at("family"), rule);
    }
    let network_mode = match root.text("networkMode") {
        Some("host") => NetworkMode::Host,
        Some("awsvpc") => NetworkMode::Awsvpc,
        Some("none") => NetworkMode::None,
        _ => NetworkMode::Bridge,
    };
    let ipc_mode = namespace_mode(root, "ipcMode");
    let compatibilities = compatibilities(root);
    let on_fargate = compatibilities.contains(&Compatibility::Fargate);
    let volumes = volumes::read(root, report);
    let context = Task {
        network_mode,
        ipc_mode,
        volumes: &volumes,
        memory_given: root.has("memory") || on_fargate,
    };
    let containers = containers::read(root, &context, report);
    let cpu = cpu(root, on_fargate, report);
    let memory = memory(root, report);
    check_sums(root, &containers, cpu, memory, report);
    check_launch_types(root, &compatibilities, network_mode, (cpu, memory), report);
    check_references(root, report);
    TaskDefinition {
        family: family.to_owned(),
        network_mode,
        containers,
        cpu,
        memory,
        requires_compatibilities: compatibilities,
        pid_mode: namespace_mode(root, "pidMode"),
        ipc_mode,
        tags: tags(tagged, report),
        cpu_architecture: cpu_architecture(root),
        volumes,
        task_role_arn: role(root, "taskRoleArn", report),
        execution_role_arn: role(root, "executionRoleArn", report),
        placement_constraints: placement_constraints(root, report),
    }
}

fn namespace_mode(root: &Node<'_>, name: &str) -> NamespaceMode {
    match root.text(name) {
        Some("host") => NamespaceMode::Host,
        Some("task") => NamespaceMode::Task,
        _ => NamespaceMode::Private,
    }
}

fn compatibilities(root: &Node<'_>) -> Vec<Compatibility> {
    let mut compatibilities = Vec::new();
    for text in root.texts("requiresCompatibilities") {
        let compatibility = match text.as_str() {
            "EC2" => Compatibility::Ec2,
            "FARGATE" => Compatibility::Fargate,
            "EXTERNAL" => Compatibility::External,
            _ => continue,
        };
        if !compatibilities.contains(&compatibility) {
            compatibilities.push(compatibility);
        }
    }
    compatibilities
}

fn cpu_architecture(root: &Node<'_>) -> Option<CpuArchitecture> {
    match root.member("runtimePlatform")?.text("cpuArchitecture")? {
        "X86_64" => Some(CpuArchitecture::X86_64),
        "ARM64" => Some(CpuArchitecture::Arm64),
        _ => None,
    }
}

fn role(root: &Node<'_>, member: &str, report: &mut Report) -> Option<String> {
    let text = root.text(member)?;
    if let Some(rule) = text::role(text) {
        report.invalid(&root.at(member), rule);
    }
    Some(text.to_owned())
}

fn placement_constraints(root: &Node<'_>, report: &mut Report) -> Vec<String> {
    let nodes = root.list("placementConstraints");
    if nodes.len() > 10 {
        let rule = format!("has {} constraints, at most 10 are allowed", nodes.len());
        report.invalid(&root.at("placementConstraints"), rule);
    }
    let mut expressions = Vec::new();
    for node in nodes {
        for name in ["type", "expression"] {
            if node.text(name).is_none() {
                report.invalid(&node.at(name), "is required");
            }
        }
        let Some(expression) = node.text("expression") else { continue };
        let length = expression.chars().count();
        if length > 2_000 {
            let rule = format!("has {length} characters, at most 2000 are allowed");
            report.invalid(&node.at("expression"), rule);
        }
        expressions.push(expression.to_owned());
    }
    expressions
}

fn cpu(root: &Node<'_>, on_fargate: bool, report: &mut Report) -> Option<u32> {
    let text = root.text("cpu")?;
    let units = units::cpu_units(text);
    // Fargate has its own table.
    if units.is_none_or(|units| !on_fargate && !CPU_UNITS.contains(&units)) {
        let (least, most) = (CPU_UNITS.start(), CPU_UNITS.end());
        let rule = format!(
            "Invalid 'cpu' setting for task. It must be {least} to {most} CPU units or such a \
             number of vCPU (\"256\", \".25 vCPU\"), is {}",
            quoted(text)
        );
        report.invalid(&root.at("cpu"), rule);
        return None;
    }
    units
}

fn memory(root: &Node<'_>, report: &mut Report) -> Option<u32> {
    let text = root.text("memory")?;
    let mebibytes = units::mebibytes(text).filter(|mebibytes| *mebibytes >= LEAST_MEMORY);
    if mebibytes.is_none() {
        let rule = format!(
            "Invalid 'memory' setting for task. It must be at least {LEAST_MEMORY} MiB, as MiB or \
             as GB (\"512\", \"0.5 GB\"), is {}",
            quoted(text)
        );
        report.invalid(&root.at("memory"), rule);
    }
    mebibytes
}

/// Together the containers reserve no more than the task has, and none may use more.
fn check_sums(
    root: &Node<'_>,
    containers: &[ContainerDefinition],
    cpu: Option<u32>,
    memory: Option<u32>,
    report: &mut Report,
) {
    if let Some(cpu) = cpu {
        let sum: u64 = containers.iter().map(|container| u64::from(container.cpu)).sum();
        if sum > u64::from(cpu) {
            let rule = format!("the containers' cpu adds up to {sum}, more than the task's {cpu}");
            report.invalid(&root.at("cpu"), rule);
        }
    }
    let Some(memory) = memory else { return };
    let reserved = |c: &ContainerDefinition| c.memory_reservation.or(c.memory).unwrap_or(0);
    let sum: u64 = containers.iter().map(|container| u64::from(reserved(container))).sum();
    if sum > u64::from(memory) {
        let rule = format!(
            "the containers' memory adds up to {sum} MiB (memoryReservation, else memory), more \
             than the task's {memory}"
        );
        report.invalid(&root.at("memory"), rule);
    }
    for (index, container) in containers.iter().enumerate() {
        if let Some(limit) = container.memory.filter(|limit| *limit > memory) {
            let path = root.at("containerDefinitions").element(index).member("memory");
            report.invalid(&path, format!("must not exceed the task's memory, {limit} > {memory}"));
        }
    }
}

fn check_launch_types(
    root: &Node<'_>,
    compatibilities: &[Compatibility],
    mode: NetworkMode,
    size: (Option<u32>, Option<u32>),
    report: &mut Report,
) {
    for compatibility in compatibilities {
        match compatibility {
            Compatibility::Fargate => fargate::check(root, mode, size, report),
            Compatibility::External if mode == NetworkMode::Awsvpc => {
                let rule = "the EXTERNAL launch type supports network modes bridge, host and none";
                report.invalid(&root.at("networkMode"), rule);
            }
            Compatibility::External | Compatibility::Ec2 => {}
        }
    }
}

/// Rules of members that refer to others: the execution role, the proxy.
fn check_references(root: &Node<'_>, report: &mut Report) {
    let containers = root.list("containerDefinitions");
    if root.text("executionRoleArn").is_none() {
        for container in &containers {
            if let Some(what) = environment::needs_execution_role(container) {
                let rule = format!("{what} need the task's executionRoleArn");
                report.invalid(&container.path, rule);
            }
        }
    }
    if let Some(proxy) = root.member("proxyConfiguration")
        && let Some(name) = proxy.text("containerName")
        && !containers.iter().any(|container| container.text("name") == Some(name))
    {
        let rule = format!("no container is named {}", quoted(name));
        report.invalid(&proxy.at("containerName"), rule);
    }
}

fn tags(tagged: &Node<'_>, report: &mut Report) -> Vec<(String, String)> {
    let nodes = tagged.list("tags");
    if nodes.len() > 50 {
        let rule = format!("has {} tags, at most 50 are allowed", nodes.len());
        report.invalid(&tagged.at("tags"), rule);
    }
    let mut keys = HashSet::new();
    let mut tags = Vec::new();
    for node in nodes {
        let key = node.text("key").unwrap_or_default();
        let value = node.text("value").unwrap_or_default();
        if key.is_empty() {
            report.invalid(&node.at("key"), "is required");
        } else if !keys.insert(key) {
            report.invalid(&node.at("key"), format!("{} is given more than once", quoted(key)));
        }
        for (name, text, most) in [("key", key, 128), ("value", value, 256)] {
            if let Some(rule) = tag_rule(text, most) {
                report.invalid(&node.at(name), rule);
            }
        }
        tags.push((key.to_owned(), value.to_owned()));
    }
    tags
}

fn tag_rule(text: &str, most: usize) -> Option<String> {
    let length = text.chars().count();
    let blank = |c: char| c.is_whitespace() && !c.is_control();
    let fits = |c: char| c.is_alphanumeric() || blank(c) || "_.:/=+-@".contains(c);
    if length > most {
        Some(format!("has {length} characters, at most {most} are allowed"))
    } else if !text.chars().all(fits) {
        Some(format!("must be of letters, digits, blanks and _.:/=+-@ only, is {}", quoted(text)))
    } else if text.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("aws:")) {
        Some("must not start with aws:".to_owned())
    } else {
        None
    }
}
