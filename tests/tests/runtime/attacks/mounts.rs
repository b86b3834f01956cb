//! Destinations of mounts that lead, or come to lead, somewhere else.

use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::{Value, json};
use tests::bundle::{Bundle, is_ours};

use super::{Outside, Swapper, bind, race, watch_mounts};

#[test]
fn cve_2021_30465_links_in_destinations_stay_inside() {
    let mut bundle = Bundle::new("ls /trap/");
    let outside = Outside::new(&bundle);
    let data = bundle.beside().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("mine"), "").unwrap();
    symlink(&outside.0, bundle.root().join("trap")).unwrap();
    bundle.push("/mounts", bind("/trap", &data));
    let leak = watch_mounts(&mut bundle, &outside);
    assert_eq!(bundle.output(), "mine\n");
    outside.assert_untouched();
    assert_eq!(std::fs::read_to_string(leak).unwrap(), "");
    assert_eq!(bundle.left(), [""; 0]);
}

/// Creates containers with a volume in which `x` is now a directory and now a link that leads
/// outside; `mount` is a mount below it.
fn swapped(link: impl AsRef<Path>, mount: &Value) {
    let mut bundle = Bundle::new("cat /volume/x/secret /volume/x/y/secret /secret; echo ran");
    let outside = Outside::new(&bundle);
    let volume = bundle.beside().join("volume");
    std::fs::create_dir_all(volume.join("x")).unwrap();
    symlink(link, volume.join("link")).unwrap();
    bundle.push("/mounts", bind("/volume", &volume)).push("/mounts", mount.clone());
    let leak = watch_mounts(&mut bundle, &outside);
    let swapper = Swapper::new(volume.join("x"), volume.join("link"));
    race(|| {
        // Whether it may be refused depends on the moment; that it reaches nothing does not.
        let (_, stdout, _) = bundle.run();
        assert!(!stdout.contains("secret"), "{stdout}");
        outside.assert_untouched();
        stdout == "ran\n"
    });
    drop(swapper);
    assert_eq!(std::fs::read_to_string(leak).unwrap(), "");
    assert_eq!(bundle.left(), [""; 0]);
}

/// A link of the volume that leads to `outside` beside the bundle, from the host's view of the root.
const UP: &str = "../../../outside";

#[test]
fn cve_2021_30465_a_mount_in_a_volume_that_is_swapped_stays_inside() {
    swapped(UP, &json!({"destination": "/volume/x/y", "type": "tmpfs", "source": "tmpfs"}));
    let data = tempfile::tempdir().unwrap();
    swapped(UP, &bind("/volume/x/y", data.path()));
}

#[test]
fn cve_2024_45310_nothing_is_made_on_the_host_for_a_mount_in_a_swapped_volume() {
    let file = tempfile::NamedTempFile::new().unwrap();
    swapped(UP, &bind("/volume/x/new/directories/file", file.path()));
    swapped(UP, &bind("/volume/x/file", file.path()));
}

/// As the first two, but from the host's root.
#[test]
fn cve_2021_30465_absolute_links_of_a_swapped_volume_stay_inside() {
    let elsewhere = tempfile::tempdir().unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    swapped(elsewhere.path(), &bind("/volume/x/new/file", file.path()));
    assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 0);
}

/// A volume over `/proc`: labels would be written into a file of the attacker's.
#[test]
fn cve_2019_16884_nothing_but_a_procfs_lies_over_proc() {
    let over = |destination: &str, link: Option<(&str, &str)>| {
        let mut bundle = Bundle::new("true");
        let fake = bundle.beside().join("fake");
        std::fs::create_dir_all(fake.join("self/attr")).unwrap();
        if let Some((name, to)) = link {
            symlink(to, bundle.root().join(name)).unwrap();
        }
        bundle.push("/mounts", bind(destination, &fake));
        bundle.refusal();
    };
    for destination in ["/proc", "/proc/", "//proc", "/proc/self/attr", "/proc/1/../self/attr"] {
        over(destination, None);
    }
    over("/trap", Some(("trap", "/proc")));
    over("/trap/self/attr", Some(("trap", "proc")));
    over("/trap", Some(("trap", "../../proc/self/attr")));
    if !is_ours() {
        return; // runc 1.1.5 mounts a tmpfs inside /proc, and does not look at control groups at all
    }
    for kind in ["tmpfs", "cgroup"] {
        for destination in ["/proc", "/trap", "/proc/self/attr"] {
            let mut bundle = Bundle::new("true");
            symlink("/proc", bundle.root().join("trap")).unwrap();
            let mount = json!({"destination": destination, "type": kind, "source": kind});
            bundle.push("/mounts", mount);
            let refusal = bundle.refusal();
            assert!(refusal.contains("proc"), "{refusal}");
        }
    }
}

/// What lxcfs does must go on.
#[test]
fn files_of_proc_that_only_inform_may_be_replaced() {
    let mut bundle = Bundle::new("cat /proc/uptime");
    let file = bundle.beside().join("file");
    std::fs::write(&file, "mine\n").unwrap();
    bundle.push("/mounts", bind("/proc/uptime", &file));
    if is_ours() {
        // Kernels of today forget what lies on this one; runc 1.1.5 lists it too, but resolves its link
        // before it compares.
        bundle.push("/mounts", bind("/proc/net/dev", &file));
    }
    assert_eq!(bundle.output(), "mine\n");
}
