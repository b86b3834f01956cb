//! Dependencies between containers: `dependsOn`, `volumesFrom`, `links`, and their cycles.

use super::node::Node;
use super::problems::{Path, Report, escaped, quoted};
use super::types::{Condition, Dependency};

/// The container's `dependsOn`. `containers` are all of the task's.
pub(super) fn read(
    container: &Node<'_>,
    containers: &[Node<'_>],
    report: &mut Report,
) -> Vec<Dependency> {
    let own = container.text("name");
    let mut dependencies = Vec::new();
    for node in container.list("dependsOn") {
        let Some(target) = node.text("containerName") else { continue };
        let place = node.at("containerName");
        let condition = match node.text("condition") {
            Some("COMPLETE") => Condition::Complete,
            Some("SUCCESS") => Condition::Success,
            _ => Condition::Start,
        };
        if own == Some(target) {
            report.invalid(&place, "a container cannot depend on itself");
        } else if let Some(other) = containers.iter().find(|c| c.text("name") == Some(target)) {
            check_condition(&node, other, condition, report);
        } else {
            report.invalid(&place, format!("no container is named {}", quoted(target)));
        }
        dependencies.push(Dependency { container: target.to_owned(), condition });
    }
    dependencies
}

fn check_condition(node: &Node<'_>, target: &Node<'_>, condition: Condition, report: &mut Report) {
    let place = node.at("condition");
    let name = quoted(target.text("name").unwrap_or_default());
    let essential = target.flag("essential").unwrap_or(true);
    if essential && matches!(condition, Condition::Complete | Condition::Success) {
        let rule = format!(
            "COMPLETE and SUCCESS need a container that is not essential: the task stops when {name} ends"
        );
        report.invalid(&place, rule);
    }
    if node.text("condition") == Some("HEALTHY") && !target.has("healthCheck") {
        report.invalid(&place, format!("HEALTHY needs a healthCheck of {name}"));
    }
}

/// The container's `links`, which are checked only: they exist in bridge mode.
pub(super) fn check_links(container: &Node<'_>, names: &[&str], report: &mut Report) {
    for node in container.list("links") {
        let Some(text) = node.as_text() else { continue };
        let target = link_target(text);
        if !names.contains(&target) {
            report.invalid(&node.path, format!("no container is named {}", quoted(target)));
        }
    }
}

/// `name` or `name:alias`.
fn link_target(link: &str) -> &str {
    link.split_once(':').map_or(link, |(name, _)| name)
}

/// Reports each cycle once, at the member that closes it. A container starts after those it depends
/// on, those whose volumes it mounts and those it links to, so cycles count over all three.
pub(super) fn check_cycles(containers: &[Node<'_>], report: &mut Report) {
    let names: Vec<_> = containers.iter().map(|c| c.text("name").unwrap_or_default()).collect();
    let edges: Vec<_> = containers.iter().map(|c| edges(c, &names)).collect();
    let mut search = Search { names: &names, edges: &edges, done: vec![false; names.len()] };
    for start in 0..names.len() {
        search.visit(start, &mut Vec::new(), report);
    }
}

/// Indices of the containers that must be there first, and where the definition says so.
fn edges(container: &Node<'_>, names: &[&str]) -> Vec<(usize, Path)> {
    let mut targets = Vec::new();
    for (list, member) in [("dependsOn", "containerName"), ("volumesFrom", "sourceContainer")] {
        for node in container.list(list) {
            targets.extend(node.text(member).map(|name| (name, node.at(member))));
        }
    }
    for node in container.list("links") {
        targets.extend(node.as_text().map(|text| (link_target(text), node.path.clone())));
    }
    let own = container.text("name");
    targets
        .into_iter()
        // A container that names itself has been reported.
        .filter(|(name, _)| Some(*name) != own)
        .filter_map(|(name, path)| Some((names.iter().position(|n| *n == name)?, path)))
        .collect()
}

struct Search<'a> {
    names: &'a [&'a str],
    edges: &'a [Vec<(usize, Path)>],
    done: Vec<bool>,
}

impl Search<'_> {
    /// Depth first; `way` leads to `at`. Recursion ends after as many levels as there are
    /// containers, which the caller bounds.
    fn visit(&mut self, at: usize, way: &mut Vec<usize>, report: &mut Report) {
        if self.done[at] {
            return;
        }
        way.push(at);
        for (target, path) in &self.edges[at] {
            match way.iter().position(|step| step == target) {
                Some(start) => {
                    let cycle: Vec<_> = way[start..]
                        .iter()
                        .chain([target])
                        .map(|index| escaped(self.names[*index]))
                        .collect();
                    report.invalid(path, format!("dependency cycle: {}", cycle.join(" -> ")));
                }
                None => self.visit(*target, way, report),
            }
        }
        way.pop();
        self.done[at] = true;
    }
}
