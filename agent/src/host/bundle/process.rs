//! The process of a container: image and definition merged as Docker merges them. Pure.

use std::collections::BTreeSet;

use protocol::taskdef::ContainerDefinition;

use super::defaults::{CAPABILITIES, DEFAULT_CAPABILITIES, PATH};
use super::{Error, Input};
use crate::image::Config;

/// Entrypoint and command. A definition's entry point drops the image's command; an empty one
/// drops the image's entry point alone (moby `daemon/commit.go`, `merge`).
pub(super) fn arguments(
    container: &ContainerDefinition,
    image: &Config,
) -> Result<Vec<String>, Error> {
    let command = container.command.as_deref().unwrap_or_default();
    let (entry, command) = match container.entry_point.as_deref() {
        Some([_, ..]) => (container.entry_point.as_deref().unwrap_or_default(), command),
        other => {
            let entry = if other.is_none() { image.entrypoint.as_slice() } else { &[] };
            let command = if command.is_empty() { image.cmd.as_slice() } else { command };
            (entry, command)
        }
    };
    let arguments: Vec<String> = entry.iter().chain(command).cloned().collect();
    if arguments.is_empty() {
        return Err(Error::NoCommand { image: container.image.clone() });
    }
    Ok(arguments)
}

/// The host's region as SDKs look for it.
const REGION: [&str; 2] = ["AWS_REGION", "AWS_DEFAULT_REGION"];

/// Docker's own variables, then the image's, then the definition's, then those of the metadata
/// endpoint; a later value replaces an earlier one in its place. The region comes in only where
/// image and definition name none, under both names.
pub(super) fn environment(input: &Input<'_>) -> Vec<String> {
    let &Input { container, image, user, .. } = input;
    let mut variables: Vec<(&str, &str)> = vec![("PATH", PATH)];
    variables.extend(input.hostname.map(|name| ("HOSTNAME", name)));
    if container.pseudo_terminal {
        variables.push(("TERM", "xterm"));
    }
    let image = image.env.iter().filter_map(|entry| entry.split_once('='));
    let definition = container.environment.iter().map(|(k, v)| (k.as_str(), v.as_str()));
    let endpoint = input.endpoint.iter().map(|(name, value)| (*name, value.as_str()));
    for (name, value) in image.chain(definition).chain(endpoint) {
        match variables.iter_mut().find(|(known, _)| *known == name) {
            Some(variable) => variable.1 = value,
            None => variables.push((name, value)),
        }
    }
    if let Some(region) = input.region
        && !variables.iter().any(|(name, _)| REGION.contains(name))
    {
        variables.extend(REGION.map(|name| (name, region)));
    }
    if !variables.iter().any(|(name, _)| *name == "HOME") {
        variables.push(("HOME", if user.home.is_empty() { "/" } else { &user.home }));
    }
    variables.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

/// Definition, image, `/`. Always absolute, as an image's may be written without a slash.
pub(super) fn directory(container: &ContainerDefinition, image: &Config) -> String {
    let given = match container.working_directory.as_deref() {
        Some(directory) if !directory.is_empty() => directory,
        _ => &image.working_dir,
    };
    if given.starts_with('/') { given.to_owned() } else { format!("/{given}") }
}

/// The capabilities of the container, sorted by number, of those in `bounding` (a mask: what the
/// agent itself may grant).
pub(super) fn capabilities(
    container: &ContainerDefinition,
    bounding: u64,
) -> Result<Vec<&'static str>, Error> {
    let grantable = |number: usize| bounding >> number & 1 == 1;
    let all = || (0..CAPABILITIES.len()).filter(|number| grantable(*number));
    let named = |names: &[String]| -> Result<BTreeSet<usize>, Error> {
        names.iter().filter(|name| !is_all(name)).map(|name| number(name)).collect()
    };
    if container.privileged {
        return Ok(all().map(|number| CAPABILITIES[number]).collect());
    }
    let linux = &container.linux;
    let added = named(&linux.capabilities_add)?;
    let dropped = named(&linux.capabilities_drop)?;
    let chosen: BTreeSet<usize> = if linux.capabilities_add.iter().any(|name| is_all(name)) {
        all().filter(|number| !dropped.contains(number)).collect()
    } else {
        if let Some(missing) = added.iter().find(|number| !grantable(**number)) {
            return Err(Error::NotGrantable { capability: CAPABILITIES[*missing] });
        }
        let mut chosen: BTreeSet<usize> = if linux.capabilities_drop.iter().any(|name| is_all(name))
        {
            BTreeSet::new()
        } else {
            (0..CAPABILITIES.len())
                .filter(|number| DEFAULT_CAPABILITIES.contains(&CAPABILITIES[*number]))
                .filter(|number| grantable(*number) && !dropped.contains(number))
                .collect()
        };
        chosen.extend(added);
        chosen
    };
    Ok(chosen.into_iter().map(|number| CAPABILITIES[number]).collect())
}

fn is_all(name: &str) -> bool {
    name.eq_ignore_ascii_case("ALL")
}

fn number(name: &str) -> Result<usize, Error> {
    let upper = name.to_ascii_uppercase();
    let full = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
    CAPABILITIES
        .iter()
        .position(|known| *known == full)
        .ok_or_else(|| Error::UnknownCapability { capability: name.to_owned() })
}
