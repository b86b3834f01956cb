//! Container definitions.

use std::collections::HashSet;
use std::net::IpAddr;

use super::node::Node;
use super::ports::TaskPorts;
use super::problems::{Report, escaped, quoted};
use super::types::{ContainerDefinition, NamespaceMode, NetworkMode, Volume};
use super::{depends, environment, health, linux, logging, ports, text, volumes};

/// What the rules of containers need of their task.
#[derive(Debug)]
pub(super) struct Task<'a> {
    pub(super) network_mode: NetworkMode,
    pub(super) ipc_mode: NamespaceMode,
    pub(super) volumes: &'a [Volume],
    /// `memory` of the task is given, or the launch type requires it.
    pub(super) memory_given: bool,
}

/// The most containers of a task.
const MOST: usize = 10;

pub(super) fn read(
    root: &Node<'_>,
    task: &Task<'_>,
    report: &mut Report,
) -> Vec<ContainerDefinition> {
    let nodes = root.list("containerDefinitions");
    let place = root.at("containerDefinitions");
    if nodes.is_empty() {
        if root.has("containerDefinitions") {
            report.invalid(&place, "Container list cannot be empty.");
        }
        return Vec::new();
    }
    if nodes.len() > MOST {
        // Checking each of them could cost the square of their number.
        let rule = format!("Too many containers: {}, at most {MOST} are allowed", nodes.len());
        report.invalid(&place, rule);
        return Vec::new();
    }
    let mut ports = TaskPorts::default();
    let mut seen = HashSet::new();
    let mut containers = Vec::new();
    for node in &nodes {
        let name = node.text("name").unwrap_or_default();
        if !name.is_empty() && !seen.insert(name) {
            let rule = format!("another container is named {}", quoted(name));
            report.invalid(&node.at("name"), rule);
        }
        containers.push(container(node, &nodes, task, &mut ports, report));
    }
    if !containers.iter().any(|container| container.essential) {
        report.invalid(&place, "at least one container must be essential");
    }
    depends::check_cycles(&nodes, report);
    logging::check_firelens(&nodes, report);
    containers
}

fn container(
    node: &Node<'_>,
    nodes: &[Node<'_>],
    task: &Task<'_>,
    ports: &mut TaskPorts,
    report: &mut Report,
) -> ContainerDefinition {
    let names: Vec<_> = nodes.iter().filter_map(|node| node.text("name")).collect();
    let name = node.text("name").unwrap_or_default();
    if let Some(rule) = text::name("Container.name", name) {
        report.invalid(&node.at("name"), rule);
    }
    let image = node.text("image").unwrap_or_default();
    if let Some(rule) = image_rule(image) {
        report.invalid(&node.at("image"), rule);
    }
    check_memory(node, name, task, report);
    check_mode(node, &names, task.network_mode, report);
    health::check(node, report);
    ContainerDefinition {
        name: name.to_owned(),
        image: image.to_owned(),
        repository_credentials: repository_credentials(node, report),
        cpu: node.number("cpu").unwrap_or(0),
        memory: node.number("memory"),
        memory_reservation: node.number("memoryReservation"),
        port_mappings: ports::read(node, task.network_mode, ports, report),
        essential: node.flag("essential").unwrap_or(true),
        entry_point: Some(node.texts("entryPoint")).filter(|list| !list.is_empty()),
        command: Some(node.texts("command")).filter(|list| !list.is_empty()),
        environment: environment::read(node, report),
        mount_points: volumes::mount_points(node, task.volumes, report),
        volumes_from: volumes::volumes_from(node, &names, report),
        depends_on: depends::read(node, nodes, report),
        start_timeout: node.number("startTimeout"),
        stop_timeout: node.number("stopTimeout"),
        hostname: checked(node, "hostname", hostname_rule, report),
        user: checked(node, "user", user_rule, report),
        working_directory: checked(node, "workingDirectory", text::absolute_path, report),
        disable_networking: node.on("disableNetworking"),
        privileged: node.on("privileged"),
        readonly_root_filesystem: node.on("readonlyRootFilesystem"),
        dns_servers: dns_servers(node, report),
        dns_search_domains: dns_search_domains(node, report),
        extra_hosts: extra_hosts(node, report),
        no_new_privileges: linux::no_new_privileges(node, report),
        interactive: node.on("interactive"),
        pseudo_terminal: node.on("pseudoTerminal"),
        docker_labels: node
            .entries("dockerLabels")
            .into_iter()
            .map(|(_, key, value)| (key.to_owned(), value.to_owned()))
            .collect(),
        ulimits: linux::ulimits(node, report),
        log: logging::read(node, report),
        system_controls: linux::system_controls(node, task.network_mode, task.ipc_mode, report),
        linux: linux::read(node, report),
    }
}

/// A text member with one rule.
fn checked(
    node: &Node<'_>,
    name: &str,
    rule: fn(&str) -> Option<String>,
    report: &mut Report,
) -> Option<String> {
    if let Some(rule) = node.text(name).and_then(rule) {
        report.invalid(&node.at(name), rule);
    }
    node.owned(name)
}

fn image_rule(image: &str) -> Option<String> {
    let fits =
        |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b':' | b'.' | b'/' | b'#');
    let (name, digest) = match image.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (image, None),
    };
    if image.is_empty() {
        return Some("Container.image should not be null or empty.".to_owned());
    }
    if name.is_empty() || !name.bytes().all(fits) {
        return Some(format!(
            "Container.image contains invalid characters: letters, digits and '-', '_', ':', '.', \
             '/', '#' are allowed before any '@', is {}",
            quoted(image)
        ));
    }
    if name.len() > 255 {
        return Some(format!("is {} characters long, at most 255 are allowed", name.len()));
    }
    let good = digest.is_none_or(|digest| {
        digest
            .strip_prefix("sha256:")
            .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
    });
    (!good).then(|| {
        format!("the digest must be sha256: and 64 hexadecimal digits, is {}", quoted(image))
    })
}

/// ARN or name of a secret.
fn repository_credentials(container: &Node<'_>, report: &mut Report) -> Option<String> {
    let node = container.member("repositoryCredentials")?;
    let parameter = node.text("credentialsParameter")?;
    if let Some(rule) = text::secret(parameter) {
        report.invalid(&node.at("credentialsParameter"), rule);
    }
    Some(parameter.to_owned())
}

fn check_memory(node: &Node<'_>, name: &str, task: &Task<'_>, report: &mut Report) {
    if !task.memory_given && !node.has("memory") && !node.has("memoryReservation") {
        let rule = format!(
            "Invalid setting for container '{}'. At least one of 'memory' or 'memoryReservation' \
             must be specified.",
            escaped(name)
        );
        report.invalid(&node.path, rule);
    }
    if let (Some(hard), Some(soft)) = (node.number("memory"), node.number("memoryReservation"))
        && soft >= hard
    {
        let rule = format!("must be less than memory, {soft} ≥ {hard}");
        report.invalid(&node.at("memoryReservation"), rule);
    }
}

/// Members that exclude a network mode.
fn check_mode(node: &Node<'_>, names: &[&str], mode: NetworkMode, report: &mut Report) {
    if mode == NetworkMode::Awsvpc {
        for name in ["hostname", "extraHosts", "dnsServers"] {
            if node.text(name).is_some() || !node.list(name).is_empty() {
                let rule = format!("{name} is not supported on container when networkMode=awsvpc.");
                report.invalid(&node.at(name), rule);
            }
        }
    }
    if mode != NetworkMode::Bridge && !node.list("links").is_empty() {
        report.invalid(&node.at("links"), "links need networkMode bridge");
    }
    depends::check_links(node, names, report);
}

/// What `sethostname(2)` takes, and what cannot be mistaken for more than one name.
fn hostname_rule(text: &str) -> Option<String> {
    if text.len() > 64 {
        return Some(format!("has {} characters, at most 64 are allowed", text.len()));
    }
    let alphanumeric = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    let ends = alphanumeric(text.bytes().next()) && alphanumeric(text.bytes().last());
    if !ends {
        return Some(format!("must start and end with a letter or a digit, is {}", quoted(text)));
    }
    text::host_word(text)
}

/// `user`, `uid`, each with `:group` or `:gid`.
fn user_rule(text: &str) -> Option<String> {
    let part = |part: &str| {
        let fits = |c: char| !c.is_whitespace() && !c.is_control() && c != ':';
        let numeric = part.bytes().all(|b| b.is_ascii_digit());
        !part.is_empty()
            && !part.starts_with('-')
            && part.chars().all(fits)
            // (uid_t)-1 means "unchanged" to the kernel.
            && (!numeric || part.parse::<u32>().is_ok_and(|id| id != u32::MAX))
    };
    let good = match text.split_once(':') {
        Some((user, group)) => part(user) && part(group),
        None => part(text),
    };
    (!good).then(|| {
        format!(
            "must be user, uid, user:group, uid:gid, user:gid or uid:group, is {}",
            quoted(text)
        )
    })
}

fn address(node: &Node<'_>, text: &str, report: &mut Report) -> Option<IpAddr> {
    let address = text.parse().ok();
    if address.is_none() {
        report.invalid(&node.path, format!("must be an IP address, is {}", quoted(text)));
    }
    address
}

fn dns_servers(container: &Node<'_>, report: &mut Report) -> Vec<IpAddr> {
    let nodes = container.list("dnsServers");
    nodes.iter().filter_map(|node| address(node, node.as_text()?, report)).collect()
}

fn dns_search_domains(container: &Node<'_>, report: &mut Report) -> Vec<String> {
    for node in container.list("dnsSearchDomains") {
        if let Some(rule) = node.as_text().and_then(text::host_word) {
            report.invalid(&node.path, rule);
        }
    }
    container.texts("dnsSearchDomains")
}

fn extra_hosts(container: &Node<'_>, report: &mut Report) -> Vec<(String, IpAddr)> {
    let mut hosts = Vec::new();
    for node in container.list("extraHosts") {
        let name = node.text("hostname").unwrap_or_default();
        if !name.is_empty()
            && let Some(rule) = text::host_word(name)
        {
            report.invalid(&node.at("hostname"), rule);
        }
        if let Some(ip) = node.member("ipAddress")
            && let Some(text) = ip.as_text().filter(|text| !text.is_empty())
            && let Some(address) = address(&ip, text, report)
        {
            hosts.push((name.to_owned(), address));
        }
    }
    hosts
}
