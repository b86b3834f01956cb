//! Control groups of an ordinary user: none, or those that are delegated to him.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tests::bundle::{Bundle, cgroup_mounts, is_ours, within};

#[test]
fn without_a_cgroup_what_needs_one_says_so() {
    let bundle =
        Bundle::of_user("trap 'echo usr > /got' USR1; sleep 100 & while true; do wait; done");
    bundle.must(&["run", "-d", &bundle.id]);
    let pid = bundle.state()["pid"].as_i64().unwrap();
    for words in [
        &["pause", &bundle.id][..],
        &["resume", &bundle.id],
        &["events", "--stats", &bundle.id],
        &["update", "--pids-limit", "5", &bundle.id],
    ] {
        let output = bundle.call(words);
        let text = String::from_utf8_lossy(&output.stderr);
        // runc tells events of nothing.
        assert!(!output.status.success() || !is_ours(), "{words:?}: {text}");
        if is_ours() && words[0] != "resume" {
            assert!(
                text.contains("user 4242 could make none in /sys/fs/cgroup"),
                "{words:?}: {text}"
            );
        }
    }
    if is_ours() {
        // By the pid namespace instead.
        let pids: Vec<i64> =
            serde_json::from_str(&bundle.must(&["ps", "-f", "json", &bundle.id])).unwrap();
        assert!(pids.contains(&pid) && pids.len() == 2, "{pids:?}");
        bundle.must(&["kill", "--all", &bundle.id, "USR1"]);
        let got =
            within(Duration::from_secs(10), || bundle.root().join("got").exists().then_some(()));
        assert!(got.is_some());
        bundle.must(&["kill", "--all", &bundle.id, "KILL"]);
        bundle.wait_for("stopped");
        assert_eq!(bundle.must(&["ps", "-f", "json", &bundle.id]), "[]\n");
    }
    bundle.must(&["delete", "--force", &bundle.id]);
    assert_eq!(bundle.left(), [""; 0]);
}

#[test]
fn limits_that_cannot_be_set_are_refused() {
    let mut bundle = Bundle::of_user("true");
    bundle.set("/linux/resources/pids", json!({"limit": 10}));
    let message = bundle.refusal();
    if is_ours() {
        assert!(
            message.contains("set pids.max to") && message.contains("user 4242 may not"),
            "{message}"
        );
    }
    if is_ours() {
        // By the name that the file has here.
        bundle.set("/linux/resources", json!({"memory": {"limit": 64 << 20}}));
        let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        let file = if unified { "memory.max" } else { "memory.limit_in_bytes" };
        let message = bundle.refusal();
        assert!(message.contains(&format!("set {file} to")), "{message}");
    }
    bundle.set("/linux/resources", json!({}));
    bundle.set("/linux/cgroupsPath", json!(format!("/{}", bundle.id)));
    let message = bundle.refusal();
    assert!(message.to_lowercase().contains("permission denied"), "{message}");
    if is_ours() {
        assert!(message.contains("create cgroup /sys/fs/cgroup"), "{message}");
        bundle.set("/linux/cgroupsPath", json!(""));
        bundle.output();
        let words = ["--rootless=false", "run", &bundle.id].map(std::ffi::OsStr::new);
        let output = bundle.command_of(&tests::bundle::runtime(), words).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(message.contains("create cgroup"), "{message}");
    }
}

/// A group in every hierarchy that is the user's, in which his commands begin.
struct Delegated {
    groups: Vec<PathBuf>,
}

impl Delegated {
    fn new(bundle: &mut Bundle) -> Self {
        let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        let mut groups = Vec::new();
        let mut before = String::new();
        for mount in cgroup_mounts() {
            if !unified && mount.join("cgroup.controllers").exists() {
                continue; // without controllers on this host
            }
            let group = mount.join(format!("{}-user", bundle.id));
            std::fs::create_dir_all(&group).unwrap();
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if let Ok(value) = std::fs::read(mount.join(file)) {
                    std::fs::write(group.join(file), value).unwrap();
                }
            }
            if unified {
                let list = std::fs::read_to_string(mount.join("cgroup.controllers")).unwrap();
                for name in list.split_whitespace() {
                    // Not every one can be had where processes are.
                    let _ =
                        std::fs::write(mount.join("cgroup.subtree_control"), format!("+{name}"));
                }
                std::fs::create_dir_all(group.join("us")).unwrap();
            }
            bundle.user.as_ref().unwrap().give(&group);
            let here = if unified { group.join("us") } else { group.clone() };
            before.push_str(&format!("echo $$ > {}/cgroup.procs; ", here.display()));
            groups.push(group);
        }
        bundle.user.as_mut().unwrap().before = before;
        let path = format!("/{0}-user/{0}", bundle.id);
        bundle.set("/linux/cgroupsPath", json!(path));
        Self { groups }
    }

    /// The container's own groups that are there.
    fn made(&self, bundle: &Bundle) -> Vec<PathBuf> {
        let own = self.groups.iter().map(|group| group.join(&bundle.id));
        own.filter(|group| group.exists()).collect()
    }

    /// A file of whichever of the container's groups has it.
    fn read(&self, bundle: &Bundle, names: [&str; 2]) -> Option<String> {
        let own = self.made(bundle);
        let mut files = own.iter().flat_map(|group| names.map(|name| group.join(name)));
        files.find_map(|file| std::fs::read_to_string(file).ok())
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        for group in &self.groups {
            for below in [group.join("us"), group.clone()] {
                // A command that was the last in it may be leaving still.
                within(Duration::from_secs(5), || {
                    (std::fs::remove_dir(&below).is_ok() || !below.exists()).then_some(())
                });
            }
        }
    }
}

#[test]
fn delegated_cgroups_are_used_to_the_full() {
    let mut bundle = Bundle::of_user("sleep 100 & exec sleep 101");
    let delegated = Delegated::new(&mut bundle);
    bundle.set("/linux/resources/pids", json!({"limit": 17}));
    bundle.set("/linux/resources/memory", json!({"limit": 64 << 20}));
    bundle.must(&["run", "-d", &bundle.id]);
    assert!(!delegated.made(&bundle).is_empty());
    assert_eq!(delegated.read(&bundle, ["pids.max"; 2]).unwrap(), "17\n");
    let memory = delegated.read(&bundle, ["memory.limit_in_bytes", "memory.max"]);
    assert_eq!(memory.unwrap(), "67108864\n");
    let pids: Vec<i64> =
        serde_json::from_str(&bundle.must(&["ps", "-f", "json", &bundle.id])).unwrap();
    assert_eq!(pids.len(), 2, "{pids:?}");
    bundle.must(&["pause", &bundle.id]);
    assert_eq!(bundle.state()["status"], "paused");
    bundle.must(&["resume", &bundle.id]);
    bundle.must(&["update", "--pids-limit", "18", &bundle.id]);
    assert_eq!(delegated.read(&bundle, ["pids.max"; 2]).unwrap(), "18\n");
    let event: Value =
        serde_json::from_str(&bundle.must(&["events", "--stats", &bundle.id])).unwrap();
    assert_eq!(event["data"]["pids"]["limit"], 18, "{event}");
    let groups = bundle.must(&["exec", &bundle.id, "cat", "/proc/self/cgroup"]);
    assert!(!groups.is_empty());
    bundle.must(&["kill", "--all", &bundle.id, "KILL"]);
    bundle.wait_for("stopped");
    bundle.must(&["delete", &bundle.id]);
    assert_eq!(delegated.made(&bundle), [""; 0].map(PathBuf::from));
    assert_eq!(bundle.left(), [""; 0]);
}

/// Where v2 governs, the group lies beside the one we are in, as in runc, and no path need be named.
#[test]
fn a_delegated_v2_group_is_found_without_a_path() {
    if !Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        return; // for the machine with cgroup v2 alone
    }
    let mut bundle = Bundle::of_user("sleep 100 & exec sleep 101");
    let delegated = Delegated::new(&mut bundle);
    bundle.set("/linux/cgroupsPath", json!(""));
    bundle.set("/linux/resources/pids", json!({"limit": 17}));
    bundle.must(&["run", "-d", &bundle.id]);
    assert_eq!(delegated.read(&bundle, ["pids.max"; 2]).unwrap(), "17\n");
    bundle.must(&["pause", &bundle.id]);
    bundle.must(&["resume", &bundle.id]);
    bundle.must(&["delete", "--force", &bundle.id]);
    assert_eq!(delegated.made(&bundle), [""; 0].map(PathBuf::from));
}
