//! Port mappings. What only the host can tell is left to it: whether a static host port lies in its
//! ephemeral range, is reserved, or is taken.

use std::collections::HashMap;

use super::node::Node;
use super::problems::{Report, quoted};
use super::types::{NetworkMode, PortMapping, TransportProtocol};

/// The ports of a task so far; containers that share a network namespace share its ports.
#[derive(Debug, Default)]
pub(super) struct TaskPorts {
    /// Host port and protocol, by whom taken.
    host: HashMap<(u16, TransportProtocol), String>,
    /// In host mode a container port has one protocol in the whole task.
    protocols: HashMap<u16, TransportProtocol>,
}

pub(super) fn read(
    container: &Node<'_>,
    mode: NetworkMode,
    task: &mut TaskPorts,
    report: &mut Report,
) -> Vec<PortMapping> {
    let nodes = container.list("portMappings");
    if mode == NetworkMode::None && !nodes.is_empty() {
        let rule = "port mappings are not supported when networkMode=none";
        report.invalid(&container.at("portMappings"), rule);
        return Vec::new();
    }
    ranges(container, &nodes, mode, report);
    nodes.iter().filter_map(|node| mapping(node, mode, task, report)).collect()
}

fn mapping(
    node: &Node<'_>,
    mode: NetworkMode,
    task: &mut TaskPorts,
    report: &mut Report,
) -> Option<PortMapping> {
    if let Some(rule) = node.text("name").and_then(name_rule) {
        report.invalid(&node.at("name"), rule);
    }
    if node.has("containerPortRange") {
        return None;
    }
    if !node.has("containerPort") {
        report.invalid(&node.at("containerPort"), "is required without containerPortRange");
        return None;
    }
    // Outside the range of ports: reported by the shape.
    let container_port = u16::try_from(node.number("containerPort")?).ok().filter(|p| *p > 0)?;
    let given = u16::try_from(node.number("hostPort").unwrap_or(0)).ok()?;
    let protocol = match node.text("protocol") {
        Some("udp") => TransportProtocol::Udp,
        _ => TransportProtocol::Tcp,
    };
    let host_port = match mode {
        NetworkMode::Bridge | NetworkMode::None => given,
        NetworkMode::Host | NetworkMode::Awsvpc => {
            if given != 0 && given != container_port {
                let mode = if mode == NetworkMode::Host { "host" } else { "awsvpc" };
                let rule = format!(
                    "When networkMode={mode}, the host ports and container ports in port mappings \
                     must match."
                );
                report.invalid(&node.at("hostPort"), rule);
            }
            container_port
        }
    };
    let place = if given == 0 { node.at("containerPort") } else { node.at("hostPort") };
    if host_port != 0 {
        let word = word(protocol);
        if let Some(other) = task.host.get(&(host_port, protocol)) {
            report.invalid(&place, format!("{word} port {host_port} is taken by {other}"));
        } else {
            task.host.insert((host_port, protocol), node.path.to_string());
        }
    }
    if mode == NetworkMode::Host
        && *task.protocols.entry(container_port).or_insert(protocol) != protocol
    {
        let rule = format!(
            "port {container_port} cannot be exposed for both tcp and udp when networkMode=host"
        );
        report.invalid(&place, rule);
    }
    Some(PortMapping { container_port, host_port, protocol })
}

fn word(protocol: TransportProtocol) -> &'static str {
    match protocol {
        TransportProtocol::Tcp => "tcp",
        TransportProtocol::Udp => "udp",
    }
}

fn name_rule(name: &str) -> Option<String> {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-');
    let good = name.len() <= 64 && !name.starts_with('-') && name.bytes().all(fits);
    (!good).then(|| {
        format!(
            "must be at most 64 lower-case letters, digits, underscores and hyphens, not starting \
             with a hyphen, is {}",
            quoted(name)
        )
    })
}

/// `containerPortRange`s: their form, their number, and that no port of the container is in two
/// mappings.
fn ranges(container: &Node<'_>, nodes: &[Node<'_>], mode: NetworkMode, report: &mut Report) {
    let with_range: Vec<_> = nodes.iter().filter(|n| n.has("containerPortRange")).collect();
    if with_range.is_empty() {
        return;
    }
    if with_range.len() > 100 {
        let rule = format!("has {} port ranges, at most 100 are allowed", with_range.len());
        report.invalid(&container.at("portMappings"), rule);
        return;
    }
    let mut taken: Vec<(u16, u16)> = nodes
        .iter()
        .filter(|node| !node.has("containerPortRange"))
        .filter_map(|node| u16::try_from(node.number("containerPort")?).ok())
        .map(|port| (port, port))
        .collect();
    for node in with_range {
        let place = node.at("containerPortRange");
        if mode == NetworkMode::Host {
            report.invalid(&place, "needs networkMode bridge or awsvpc");
        }
        for other in ["containerPort", "hostPort"] {
            if node.has(other) {
                report.invalid(&node.at(other), "must be absent beside containerPortRange");
            }
        }
        let Some(text) = node.text("containerPortRange") else { continue };
        let Some((first, last)) = range(text) else {
            let rule =
                format!("must be FIRST-LAST with 1 ≤ FIRST < LAST ≤ 65535, is {}", quoted(text));
            report.invalid(&place, rule);
            continue;
        };
        if let Some((a, b)) = taken.iter().find(|(a, b)| *a <= last && first <= *b) {
            report.invalid(&place, format!("overlaps with {a}-{b} of another mapping"));
        }
        taken.push((first, last));
    }
}

fn range(text: &str) -> Option<(u16, u16)> {
    let port = |text: &str| -> Option<u16> {
        text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
    };
    let (first, last) = text.split_once('-')?;
    let (first, last) = (port(first)?, port(last)?);
    (0 < first && first < last).then_some((first, last))
}
