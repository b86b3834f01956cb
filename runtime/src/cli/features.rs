//! `features`: what this runtime knows, in the shape of the runtime specification's `features.md`.
//!
//! Callers decide by it (Docker asks for recursive read-only mounts), so nothing is listed that the configuration's
//! conversion refuses, and nothing is left out that it takes; the tests here hold the lists against it.

use serde_json::{Value, json};

use super::{Error, print};
use crate::mount::options;
use crate::ns;
use crate::process::caps;
use crate::spec;
use crate::sys::seccomp;

/// Oldest version of the specification whose configurations are taken.
const OLDEST: &str = "1.0.0";
const HOOKS: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];
const ACTIONS: [&str; 9] = [
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
];
const OPERATORS: [&str; 7] = [
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_LE",
    "SCMP_CMP_LT",
    "SCMP_CMP_MASKED_EQ",
    "SCMP_CMP_NE",
];
const ARCHS: [&str; 5] =
    ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM", "SCMP_ARCH_X32", "SCMP_ARCH_X86", "SCMP_ARCH_X86_64"];
/// Name and what it must be tried with: waiting killably is for listeners only.
const FLAGS: [(&str, u32); 4] = [
    ("SECCOMP_FILTER_FLAG_LOG", seccomp::FLAG_LOG),
    ("SECCOMP_FILTER_FLAG_SPEC_ALLOW", seccomp::FLAG_SPEC_ALLOW),
    ("SECCOMP_FILTER_FLAG_TSYNC", seccomp::FLAG_TSYNC),
    (
        "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
        seccomp::FLAG_WAIT_KILLABLE_RECV | seccomp::FLAG_NEW_LISTENER,
    ),
];
/// Annotations of a configuration that change what we do with it; one that ends with a dot is the beginning of several.
const UNSAFE_ANNOTATIONS: [&str; 3] =
    ["org.criu.config", "org.lighter.seccomp", "org.systemd.property."];
/// `linux.intelRdt` is acted on, where resctrl is mounted.
const INTEL_RDT: bool = true;
/// `mounts[].uidMappings` are acted on.
const IDMAP: bool = true;
/// `linux.netDevices` is acted on.
const NET_DEVICES: bool = true;

pub(super) fn run() -> Result<u8, Error> {
    let mut text = serde_json::to_string_pretty(&document()).map_err(Error::Json)?;
    text.push('\n');
    print(&text)
}

fn document() -> Value {
    let sorted = |mut names: Vec<&'static str>| {
        names.sort_unstable();
        names
    };
    let supported = FLAGS.iter().filter(|(_, flags)| seccomp::knows(*flags));
    json!({
        "ociVersionMin": OLDEST,
        "ociVersionMax": spec::VERSION,
        "hooks": HOOKS,
        "mountOptions": sorted(options::names().collect()),
        "linux": {
            "namespaces": sorted(ns::TABLE.iter().map(|row| row.0).collect()),
            "capabilities": caps::names(),
            "cgroup": {
                "v1": true,
                "v2": true,
                "systemd": true,
                "systemdUser": true,
                "rdma": true,
            },
            "seccomp": {
                "enabled": true,
                "actions": ACTIONS,
                "operators": OPERATORS,
                "archs": ARCHS,
                "knownFlags": FLAGS.map(|row| row.0),
                "supportedFlags": supported.map(|row| row.0).collect::<Vec<_>>(),
            },
            "apparmor": { "enabled": true },
            "selinux": { "enabled": true },
            "intelRdt": { "enabled": INTEL_RDT, "schemata": INTEL_RDT, "monitoring": INTEL_RDT },
            "memoryPolicy": {
                "modes": spec::MEMORY_MODES.map(|row| row.0),
                "flags": spec::MEMORY_FLAGS.map(|row| row.0),
            },
            "mountExtensions": { "idmap": { "enabled": IDMAP } },
            "netDevices": { "enabled": NET_DEVICES },
        },
        "annotations": { "org.lighter.version": env!("CARGO_PKG_VERSION") },
        "potentiallyUnsafeConfigAnnotations": UNSAFE_ANNOTATIONS,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::seccomp::{Arch, Profile};

    /// Whether a configuration with this value at a pointer is taken.
    fn takes(changes: &[(&str, Value)]) -> bool {
        let mut config: Value =
            serde_json::from_str(&super::super::spec::document(None, false)).unwrap();
        for (pointer, value) in changes {
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            let parent = config.pointer_mut(parent).unwrap();
            match (parent.as_array_mut(), key) {
                (Some(array), "-") => array.push(value.clone()),
                _ => parent[key] = value.clone(),
            }
        }
        serde_json::from_value(config).is_ok_and(|config| spec::plan(config).is_ok())
    }

    fn list(pointer: &str) -> Vec<String> {
        serde_json::from_value(document().pointer(pointer).unwrap().clone()).unwrap()
    }

    /// What runc knows, and what is newer.
    const MOUNT_OPTIONS: &str = "acl async atime bind defaults dev diratime dirsync exec idmap iversion lazytime loud \
        mand noacl noatime nodev nodiratime noexec noiversion nolazytime nomand norelatime nostrictatime nosuid \
        nosymfollow private ratime rbind rdev rdiratime relatime remount rexec ridmap rnoatime rnodev rnodiratime \
        rnoexec rnorelatime rnostrictatime rnosuid rnosymfollow ro rprivate rrelatime rro rrw rshared rslave \
        rstrictatime rsuid rsymfollow runbindable rw shared silent slave strictatime suid symfollow sync tmpcopyup \
        unbindable";

    #[test]
    fn mount_options_are_those_that_are_taken() {
        let listed = list("/mountOptions");
        for option in MOUNT_OPTIONS.split_whitespace() {
            let maps = json!([{"containerID": 0, "hostID": 0, "size": 1}]);
            let mount = match option {
                "remount" | "tmpcopyup" => {
                    json!({"destination": "/x", "type": "tmpfs", "options": [option]})
                }
                "idmap" | "ridmap" => json!({"destination": "/x", "type": "bind", "source": "/x",
                    "options": ["rbind", option], "uidMappings": maps, "gidMappings": maps}),
                _ => {
                    json!({"destination": "/x", "type": "bind", "source": "/x", "options": ["rbind", option]})
                }
            };
            assert_eq!(
                takes(&[("/mounts/-", mount)]),
                listed.iter().any(|known| known == option),
                "{option}"
            );
        }
        for option in &listed {
            assert!(MOUNT_OPTIONS.split_whitespace().any(|known| known == option), "{option}");
        }
    }

    #[test]
    fn switches_say_what_is_taken() {
        let maps = json!([{"containerID": 0, "hostID": 0, "size": 1}]);
        let mapped = json!({"destination": "/x", "type": "bind", "source": "/x", "options": ["rbind"],
            "uidMappings": maps, "gidMappings": maps});
        for (switch, change) in [
            (IDMAP, ("/mounts/-", mapped)),
            (INTEL_RDT, ("/linux/intelRdt", json!({"closID": "guaranteed"}))),
            (NET_DEVICES, ("/linux/netDevices", json!({"eth7": {"name": "eth0"}}))),
        ] {
            assert_eq!(takes(std::slice::from_ref(&change)), switch, "{}", change.0);
        }
        let namespaces = list("/linux/namespaces");
        let time = takes(&[("/linux/namespaces/-", json!({"type": "time"}))]);
        assert_eq!(namespaces.iter().any(|name| name == "time"), time);
    }

    #[test]
    fn words_of_seccomp_are_those_of_the_profile() {
        for action in ACTIONS {
            assert!(serde_json::from_value::<Profile>(json!({"defaultAction": action})).is_ok());
        }
        for operator in OPERATORS {
            let rule = json!({"names": ["getpid"], "action": "SCMP_ACT_LOG",
                "args": [{"index": 0, "value": 1, "op": operator}]});
            let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]});
            assert!(serde_json::from_value::<Profile>(profile).is_ok(), "{operator}");
        }
        for (flag, _) in FLAGS {
            let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": [flag]});
            assert!(serde_json::from_value::<Profile>(profile).is_ok(), "{flag}");
        }
        assert!(ARCHS.iter().all(|name| Arch::parse(name).is_some()));
        for hook in HOOKS {
            let hooks: spec::Hooks =
                serde_json::from_value(json!({ hook: [{"path": "/bin/true"}] })).unwrap();
            let again = serde_json::to_value(&hooks).unwrap();
            assert_eq!(again[hook][0]["path"], "/bin/true", "{hook}");
        }
        assert_eq!(list("/linux/capabilities").len(), 41);
        // The others are read only with the option or by the verb that they are for.
        let refused = ("/annotations/org.lighter.seccomp", json!("no such value"));
        assert!(!takes(&[("/annotations", json!({})), refused]));
        assert!(
            list("/potentiallyUnsafeConfigAnnotations").contains(&"org.lighter.seccomp".into())
        );
    }
}
