use std::collections::BTreeMap;

use proptest::prelude::*;
use protocol::taskdef::{MountPoint, Tmpfs, VolumeFrom};

use super::*;

/// A definition in the smallest words that the types allow.
fn definition(containers: serde_json::Value, volumes: serde_json::Value) -> TaskDefinition {
    let mut full = Vec::new();
    for container in containers.as_array().unwrap() {
        let mut base = serde_json::json!({
            "name": "", "image": "i", "cpu": 0, "memory": null, "memory_reservation": null,
            "port_mappings": [], "essential": true, "entry_point": null, "command": null,
            "environment": [], "mount_points": [], "volumes_from": [], "depends_on": [],
            "start_timeout": null, "stop_timeout": null, "hostname": null, "user": null,
            "working_directory": null, "disable_networking": false, "privileged": false,
            "readonly_root_filesystem": false, "dns_servers": [], "dns_search_domains": [],
            "extra_hosts": [], "no_new_privileges": false, "interactive": false,
            "pseudo_terminal": false, "docker_labels": {}, "ulimits": [],
            "log": {"driver": "json-file", "options": {}}, "system_controls": [],
            "linux": {
                "capabilities_add": [], "capabilities_drop": [], "devices": [],
                "shared_memory_size": null, "tmpfs": [], "max_swap": null, "swappiness": null
            }
        });
        for (key, value) in container.as_object().unwrap() {
            base[key] = value.clone();
        }
        full.push(base);
    }
    serde_json::from_value(serde_json::json!({
        "family": "f", "network_mode": "bridge", "containers": full, "volumes": volumes,
        "cpu": null, "memory": null, "requires_compatibilities": [], "pid_mode": "private",
        "ipc_mode": "private", "placement_constraints": [], "tags": []
    }))
    .unwrap()
}

fn point(volume: &str, path: &str, read_only: bool) -> MountPoint {
    MountPoint { source_volume: volume.to_owned(), container_path: path.to_owned(), read_only }
}

fn with_points(points: Vec<MountPoint>) -> TaskDefinition {
    let mut definition = definition(
        serde_json::json!([{"name": "web"}]),
        serde_json::json!([
            {"name": "data", "source": "Task"},
            {"name": "etc", "source": {"Host": {"source_path": "/etc"}}}
        ]),
    );
    definition.containers[0].mount_points = points;
    definition
}

fn planned(definition: &TaskDefinition, name: &str, images: &[(&str, &str)]) -> Vec<String> {
    show(&run(definition, name, images).unwrap())
}

fn run(
    definition: &TaskDefinition,
    name: &str,
    images: &[(&str, &str)],
) -> Result<Vec<VolumeMount>, Error> {
    let mut volumes = ImageVolumes::new();
    for (container, path) in images {
        volumes.entry((*container).to_owned()).or_default().push((*path).to_owned());
    }
    plan(definition, name, Path::new("/v"), &volumes)
}

fn show(mounts: &[VolumeMount]) -> Vec<String> {
    let show = |mount: &VolumeMount| {
        let source = match &mount.source {
            Source::Host(path) => format!("host {}", path.display()),
            Source::Task(path) => format!("task {}", path.display()),
            Source::Efs(path) => format!("efs {}", path.display()),
            Source::Tmpfs => "tmpfs".to_owned(),
        };
        let access = if mount.read_only { "ro" } else { "rw" };
        format!("{source} on {} {access}", mount.destination.display())
    };
    mounts.iter().map(show).collect()
}

#[test]
fn mount_points_become_binds_outer_before_inner() {
    let definition = with_points(vec![
        point("etc", "/a/b/c", true),
        point("data", "/a//b/./x/../", false),
        point("data", "/z", false),
    ]);
    assert_eq!(
        planned(&definition, "web", &[]),
        ["task /v/data on /z rw", "task /v/data on /a/b rw", "host /etc on /a/b/c ro"]
    );
    let mounts = run(&definition, "web", &[]).unwrap();
    assert_eq!(mounts[2].options, ["rbind", "rprivate", "ro"]);
    let oci = serde_json::to_value(mounts[2].to_oci()).unwrap();
    assert_eq!(
        oci,
        serde_json::json!({
            "destination": "/a/b/c", "type": "bind", "source": "/etc",
            "options": ["rbind", "rprivate", "ro"]
        })
    );
}

#[test]
fn an_efs_volume_is_bound_from_where_the_task_has_it() {
    let mut definition = family();
    definition.volumes[0].source =
        VolumeSource::Efs { file_system_id: "fs-1".to_owned(), root_directory: "/x".to_owned() };
    assert_eq!(
        planned(&definition, "web", &[("web", "/data")]),
        ["efs /v/one on /data ro", "task /v/two on /deep ro", "task /v/two on /shared rw"]
    );
    let oci = run(&definition, "base", &[]).unwrap()[0].to_oci();
    let oci = serde_json::to_value(oci).unwrap();
    assert_eq!((&oci["type"], &oci["source"]), (&"bind".into(), &"/v/one".into()));
}

#[test]
fn what_cannot_be_mounted_is_refused_with_its_reason() {
    let table = [
        (vec![point("data", "relative", false)], "it is not absolute"),
        (vec![point("data", "", false)], "it is not absolute"),
        (vec![point("data", "/", false)], "it is the root directory"),
        (vec![point("data", "/a/..", false)], "it is the root directory"),
        (vec![point("data", "/a\0b", false)], "it contains a NUL byte"),
        (vec![point("data", "/a", false), point("etc", "/a/", true)], "two mounts at /a"),
        (vec![point("none", "/a", false)], "\"none\" is not in the task definition"),
    ];
    for (points, reason) in table {
        let refused = run(&with_points(points.clone()), "web", &[]).unwrap_err().to_string();
        assert!(refused.ends_with(reason), "{points:?}: {refused}");
        assert!(refused.starts_with("container web: "), "{refused}");
    }
    for name in ["", ".", "..", ".web.0", "a/b", "a\0"] {
        let mut definition = with_points(vec![point(name, "/a", false)]);
        definition.volumes[0].name = name.to_owned();
        let refused = run(&definition, "web", &[]).unwrap_err();
        assert!(matches!(refused, Error::VolumeName { .. }), "{name:?}: {refused}");
    }
    let mut definition = with_points(vec![point("etc", "/a", false)]);
    definition.volumes[1].source = VolumeSource::Host { source_path: "etc".to_owned() };
    assert!(matches!(run(&definition, "web", &[]), Err(Error::SourcePath { .. })));
    assert!(matches!(run(&definition, "db", &[]), Err(Error::UnknownContainer { .. })));
}

#[test]
fn tmpfs_has_dockers_defaults_until_the_definition_says_otherwise() {
    let mut definition = with_points(vec![point("data", "/data", false)]);
    let tmpfs = |path: &str, options: &[&str]| Tmpfs {
        container_path: path.to_owned(),
        size: 64,
        mount_options: options.iter().map(|option| (*option).to_owned()).collect(),
    };
    definition.containers[0].linux.tmpfs =
        vec![tmpfs("/run", &[]), tmpfs("/tmp", &["exec", "ro", "size=1g", "mode=1777"])];
    let mounts = run(&definition, "web", &[]).unwrap();
    let options = |path: &str| {
        let mount = mounts.iter().find(|mount| mount.destination == Path::new(path)).unwrap();
        mount.options.join(",")
    };
    assert_eq!(options("/run"), "noexec,nosuid,nodev,size=64m,rw");
    assert_eq!(options("/tmp"), "nosuid,nodev,exec,ro,mode=1777,size=64m");
    definition.containers[0].linux.tmpfs = vec![tmpfs("/data", &[])];
    assert!(matches!(run(&definition, "web", &[]), Err(Error::Duplicate { .. })));
}

fn family() -> TaskDefinition {
    let mut definition = definition(
        serde_json::json!([{"name": "web"}, {"name": "base"}, {"name": "root"}]),
        serde_json::json!([{"name": "one", "source": "Task"}, {"name": "two", "source": "Task"}]),
    );
    let from = |name: &str, read_only| VolumeFrom { source_container: name.to_owned(), read_only };
    definition.containers[0].mount_points = vec![point("two", "/shared", false)];
    definition.containers[0].volumes_from = vec![from("base", true)];
    definition.containers[1].mount_points =
        vec![point("one", "/shared", false), point("one", "/data", false)];
    definition.containers[1].volumes_from = vec![from("root", false)];
    definition.containers[1].linux.tmpfs =
        vec![Tmpfs { container_path: "/scratch".to_owned(), size: 1, mount_options: Vec::new() }];
    definition.containers[2].mount_points = vec![point("two", "/deep", false)];
    definition
}

#[test]
fn volumes_from_takes_everything_but_tmpfs_and_ones_own_mounts_win() {
    assert_eq!(
        planned(&family(), "web", &[]),
        ["task /v/one on /data ro", "task /v/two on /deep ro", "task /v/two on /shared rw"]
    );
}

#[test]
fn volumes_from_in_a_circle_ends() {
    let mut definition = family();
    let back = VolumeFrom { source_container: "web".to_owned(), read_only: false };
    definition.containers[2].volumes_from = vec![back];
    assert_eq!(run(&definition, "web", &[]), Err(Error::Cycle { container: "web".to_owned() }));
    let mut twice = family();
    let again = twice.containers[0].volumes_from[0].clone();
    twice.containers[0].volumes_from.push(again);
    assert_eq!(planned(&twice, "web", &[]).len(), 3);
}

#[test]
fn image_volumes_are_anonymous_unless_something_is_mounted_there() {
    let definition = family();
    let images = [("web", "/shared/"), ("web", "/var/lib/db"), ("base", "/cache")];
    let mounts = planned(&definition, "web", &images);
    assert_eq!(mounts.len(), 5, "{mounts:?}");
    let find = |path: &str| mounts.iter().find(|mount| mount.contains(path)).unwrap();
    assert_eq!(find("/shared"), "task /v/two on /shared rw");
    assert!(find("/var/lib/db").starts_with("task /v/.web."), "{mounts:?}");
    assert!(find("/cache").starts_with("task /v/.base."), "{mounts:?}");
    assert!(find("/cache").ends_with(" ro"), "{mounts:?}");
    let own = planned(&definition, "base", &images);
    let source = |mounts: &[String]| {
        let mount = mounts.iter().find(|mount| mount.contains("/cache")).unwrap();
        mount.split(" on ").next().unwrap().to_owned()
    };
    assert_eq!(source(&own), source(&mounts), "both containers see one volume");
    let long = "x".repeat(255);
    assert!(anonymous(&long, Path::new("/a")).len() <= 255);
    assert_ne!(anonymous(&long, Path::new("/a")), anonymous(&long[1..], Path::new("/a")));
}

proptest! {
    #[test]
    fn destinations_are_clean_unique_and_outer_first(
        paths in proptest::collection::vec("(/[a-c.]{0,2}){1,5}/?", 0..8),
    ) {
        let points = paths.iter().map(|path| point("data", path, false)).collect();
        if let Ok(mounts) = run(&with_points(points), "web", &[]) {
            prop_assert_eq!(mounts.len(), paths.len());
            let mut seen: BTreeMap<&Path, ()> = BTreeMap::new();
            for mount in &mounts {
                let destination = mount.destination.to_str().unwrap();
                prop_assert!(destination.len() > 1 && !destination.ends_with('/'));
                let plain =
                    destination.split('/').skip(1).all(|part| !matches!(part, "" | "." | ".."));
                prop_assert!(plain, "{}", destination);
                let hidden = seen.keys().any(|outer| outer.starts_with(&mount.destination));
                prop_assert!(!hidden, "{} hides an earlier mount", destination);
                seen.insert(&mount.destination, ());
            }
        }
    }
}
