//! Volumes of the task, and how containers mount them.

use std::collections::HashSet;

use super::node::Node;
use super::problems::{Report, quoted};
use super::text;
use super::types::{MountPoint, Volume, VolumeFrom, VolumeSource};

/// The members that say what a volume is, of which one may be given.
const SOURCES: &[&str] = &[
    "host",
    "dockerVolumeConfiguration",
    "efsVolumeConfiguration",
    "s3filesVolumeConfiguration",
    "fsxWindowsFileServerVolumeConfiguration",
];

pub(super) fn read(task: &Node<'_>, report: &mut Report) -> Vec<Volume> {
    let mut names = HashSet::new();
    let mut at_launch = 0_u32;
    let mut volumes = Vec::new();
    for node in task.list("volumes") {
        let name = node.text("name").unwrap_or_default();
        if let Some(rule) = text::name("Volume.name", name) {
            report.invalid(&node.at("name"), rule);
        } else if !names.insert(name) {
            report.invalid(&node.at("name"), format!("another volume is named {}", quoted(name)));
        }
        let launch = node.on("configuredAtLaunch");
        let given = SOURCES.iter().filter(|source| node.has(source)).count();
        if given + usize::from(launch) > 1 {
            report.invalid(
                &node.path,
                "When the volume parameter is specified, only one volume configuration type should \
                 be used.",
            );
        }
        at_launch += u32::from(launch);
        if launch && at_launch > 1 {
            let rule = "only one volume can be configured at launch";
            report.invalid(&node.at("configuredAtLaunch"), rule);
        }
        if let Some(docker) = node.member("dockerVolumeConfiguration")
            && docker.on("autoprovision")
            && docker.text("scope") != Some("shared")
        {
            report.invalid(&docker.at("autoprovision"), "is for volumes with scope shared only");
        }
        volumes.push(Volume { name: name.to_owned(), source: source(&node, report) });
    }
    volumes
}

fn source(volume: &Node<'_>, report: &mut Report) -> VolumeSource {
    if let Some(efs) = volume.member("efsVolumeConfiguration") {
        return self::efs(&efs, report);
    }
    let Some(host) = volume.member("host") else { return VolumeSource::Task };
    let Some(path) = host.text("sourcePath") else { return VolumeSource::Task };
    let place = host.at("sourcePath");
    if path.starts_with("s3:") {
        let rule = format!(
            "S3 is an object store and not a file system, it cannot be mounted, is {}",
            quoted(path)
        );
        report.invalid(&place, rule);
    } else if let Some(rule) = text::absolute_path(path) {
        report.invalid(&place, rule);
    }
    VolumeSource::Host { source_path: path.to_owned() }
}

fn efs(efs: &Node<'_>, report: &mut Report) -> VolumeSource {
    check_efs(efs, report);
    // One that is missing has been reported.
    let id = efs.text("fileSystemId").unwrap_or_default();
    if efs.has("fileSystemId") && !is_file_system_id(id) {
        let rule =
            format!("must be fs- and 1 to 40 lower-case letters or digits, is {}", quoted(id));
        report.invalid(&efs.at("fileSystemId"), rule);
    }
    let directory = efs.text("rootDirectory").filter(|text| !text.is_empty()).unwrap_or("/");
    let place = efs.at("rootDirectory");
    if let Some(rule) = text::absolute_path(directory) {
        report.invalid(&place, rule);
    } else if directory.contains(char::is_control) {
        report.invalid(&place, "must have no control characters");
    }
    VolumeSource::Efs { file_system_id: id.to_owned(), root_directory: directory.to_owned() }
}

/// The id becomes a part of a host name.
fn is_file_system_id(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    text.strip_prefix("fs-")
        .is_some_and(|rest| (1..=40).contains(&rest.len()) && rest.bytes().all(fits))
}

fn check_efs(efs: &Node<'_>, report: &mut Report) {
    let encrypted = efs.text("transitEncryption") == Some("ENABLED");
    let Some(authorization) = efs.member("authorizationConfig") else { return };
    if authorization.text("accessPointId").is_some() {
        if !encrypted {
            let rule = "transitEncryption must be ENABLED with an access point";
            report.invalid(&efs.at("transitEncryption"), rule);
        }
        if efs.text("rootDirectory").is_some_and(|directory| directory != "/") {
            let rule = "must be absent or / with an access point";
            report.invalid(&efs.at("rootDirectory"), rule);
        }
    }
    if authorization.text("iam") == Some("ENABLED") && !encrypted {
        let rule = "transitEncryption must be ENABLED with iam ENABLED";
        report.invalid(&efs.at("transitEncryption"), rule);
    }
}

/// The container's mount points and those of its tmpfs mounts: no two at one place.
pub(super) fn mount_points(
    container: &Node<'_>,
    volumes: &[Volume],
    report: &mut Report,
) -> Vec<MountPoint> {
    let mut places = HashSet::new();
    let mut points = Vec::new();
    for node in container.list("mountPoints") {
        let source = node.text("sourceVolume").unwrap_or_default();
        if source.is_empty() {
            report.invalid(&node.at("sourceVolume"), "is required");
        } else if !volumes.iter().any(|volume| volume.name == source) {
            let rule = format!("no volume of the task is named {}", quoted(source));
            report.invalid(&node.at("sourceVolume"), rule);
        }
        if node.member("containerPath").is_none_or(|path| path.as_text() == Some("")) {
            report.invalid(&node.at("containerPath"), "is required");
        }
        check_mount_path(&node, &mut places, report);
        points.push(MountPoint {
            source_volume: source.to_owned(),
            container_path: node.text("containerPath").unwrap_or_default().to_owned(),
            read_only: node.on("readOnly"),
        });
    }
    if let Some(linux) = container.member("linuxParameters") {
        for node in linux.list("tmpfs") {
            check_mount_path(&node, &mut places, report);
        }
    }
    points
}

fn check_mount_path(node: &Node<'_>, places: &mut HashSet<String>, report: &mut Report) {
    let place = node.at("containerPath");
    // One that is missing has been reported.
    let Some(path) = node.text("containerPath") else { return };
    if let Some(rule) = text::absolute_path(path) {
        report.invalid(&place, rule);
        return;
    }
    let path = text::normal_path(path);
    if path == "/" {
        report.invalid(&place, "must not be the root directory");
    } else if let Some(path) = places.replace(path) {
        report.invalid(&place, format!("something else is mounted at {}", quoted(&path)));
    }
}

pub(super) fn volumes_from(
    container: &Node<'_>,
    names: &[&str],
    report: &mut Report,
) -> Vec<VolumeFrom> {
    let own = container.text("name");
    let mut sources = Vec::new();
    for node in container.list("volumesFrom") {
        let source = node.text("sourceContainer").unwrap_or_default();
        let place = node.at("sourceContainer");
        if source.is_empty() {
            report.invalid(&place, "is required");
        } else if own == Some(source) {
            report.invalid(&place, "is the container itself");
        } else if !names.contains(&source) {
            report.invalid(&place, format!("no container is named {}", quoted(source)));
        }
        sources.push(VolumeFrom {
            source_container: source.to_owned(),
            read_only: node.on("readOnly"),
        });
    }
    sources
}
