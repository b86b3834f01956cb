//! Doing without privileges: run by an ordinary user, or by the root of a user namespace.
//!
//! An ordinary user's container has a user namespace, in which its process has the privileges that the runtime lacks. So
//! what root does before the clone, that process does itself: it opens what it mounts, and binds the host's device nodes,
//! which nobody may make there. Ids are mapped by [`crate::userns`], cgroups used as far as they are the user's
//! ([`crate::cgroup`]). The root of a user namespace of somebody else (as under Podman) mounts as root does. The rules
//! are runc's.

use std::env;
use std::path::PathBuf;
use std::str::FromStr;

use crate::{
    ns::Kind,
    plan::{MountKind, Plan},
    spec::IdMapping,
    sys::cred,
    userns,
};

/// What `--rootless` says: whether the lack of permission to use cgroups is ignored as long as no limit is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rootless {
    True,
    False,
    /// For all but the root of the host.
    #[default]
    Auto,
}

impl FromStr for Rootless {
    type Err = String;

    /// `auto`, or a boolean as Go reads it.
    fn from_str(text: &str) -> Result<Self, String> {
        match (text, boolean(text)) {
            ("" | "auto", _) => Ok(Self::Auto),
            (_, Some(true)) => Ok(Self::True),
            (_, Some(false)) => Ok(Self::False),
            (_, None) => Err("give true, false or auto".to_owned()),
        }
    }
}

/// A boolean as Go reads it.
pub(crate) fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

impl Rootless {
    /// Whether it is known without looking that cgroups may be refused.
    pub fn is_certain(self) -> bool {
        self == Self::True || self == Self::Auto && is_ordinary_user()
    }

    /// Whether cgroups may be refused.
    pub fn applies(self) -> bool {
        self.is_certain() || self == Self::Auto && in_user_namespace()
    }
}

/// Whether we are not even the root of a user namespace.
pub fn is_ordinary_user() -> bool {
    cred::euid() != 0
}

/// Whether our user namespace is another than the host's, whose number is fixed in the kernel.
fn in_user_namespace() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    const PROC_USER_INIT_INO: u64 = 0xeffffffd;
    std::fs::metadata("/proc/self/ns/user").is_ok_and(|own| own.ino() != PROC_USER_INIT_INO)
}

/// Below the user's runtime directory, where the state of containers is kept unless `--root` says otherwise; `None` for
/// root. As runc decides: who is root in a user namespace and is called so is taken for the host's.
pub fn state_root() -> Option<PathBuf> {
    // Relative ones are invalid, says their specification.
    let directory = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from)?;
    if !directory.is_absolute() {
        return None;
    }
    let own = is_ordinary_user()
        || in_user_namespace() && env::var_os("USER").is_none_or(|user| user != "root");
    own.then(|| directory.join("lighter"))
}

/// Why an ordinary user cannot have a container of this configuration.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error(
        "rootless container requires user namespaces: add one to linux.namespaces, or begin with what `spec --rootless` \
         writes"
    )]
    NoUserNamespace,
    #[error(
        "mounts[{index}].options: {option}: {id} is not in the container's {list}, so an ordinary user cannot set it"
    )]
    Unmapped { index: usize, option: String, id: u32, list: &'static str },
    #[error(
        "mounts[{index}]: mapping the ids of a mount takes privileges over its file system, which an ordinary user has not"
    )]
    IdMap { index: usize },
}

/// Checks what an ordinary user may ask for.
///
/// # Errors
/// The first thing that he may not.
pub fn check(plan: &Plan) -> Result<(), Refusal> {
    let joined = plan.namespaces.is_joined(Kind::User);
    if !plan.namespaces.is_new(Kind::User) && !joined {
        return Err(Refusal::NoUserNamespace);
    }
    for mount in &plan.mounts {
        let index = mount.index;
        if mount.id_map.is_some() {
            return Err(Refusal::IdMap { index });
        }
        // The maps of a namespace that is joined are not ours to know.
        if joined || !matches!(mount.kind, MountKind::FileSystem { .. }) {
            continue;
        }
        let check = |option: &str, key: &str, map: &[IdMapping], list| {
            let id = option.strip_prefix(key).and_then(|id| id.parse().ok());
            match id {
                Some(id) if userns::to_host(map, id).is_none() => {
                    Err(Refusal::Unmapped { index, option: option.to_owned(), id, list })
                }
                _ => Ok(()),
            }
        };
        for option in &mount.options.unknown {
            check(option, "uid=", &plan.uid_map, "uidMappings")?;
            check(option, "gid=", &plan.gid_map, "gidMappings")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::{Value, json};

    fn plan(change: impl FnOnce(&mut Value)) -> Plan {
        let map = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
        let mut value = json!({
            "ociVersion": "1.0.2", "root": {"path": "rootfs"},
            "process": {"args": ["true"], "cwd": "/"},
            "mounts": [{"destination": "/dev/pts", "type": "devpts", "options": ["mode=620"]}],
            "linux": {
                "namespaces": [{"type": "user"}, {"type": "mount"}],
                "uidMappings": map, "gidMappings": map,
            },
        });
        change(&mut value);
        crate::spec::plan(serde_json::from_value(value).unwrap()).unwrap()
    }

    #[test]
    fn words_of_the_option() {
        for (text, value) in [
            ("auto", Rootless::Auto),
            ("", Rootless::Auto),
            ("true", Rootless::True),
            ("1", Rootless::True),
            ("F", Rootless::False),
        ] {
            assert_eq!(text.parse(), Ok(value), "{text}");
        }
        assert!("yes".parse::<Rootless>().is_err());
    }

    #[test]
    fn asks_for_no_more_than_a_user_may() {
        assert!(check(&plan(|_| ())).is_ok());
        let without = plan(|value| {
            value["linux"] = json!({"namespaces": [{"type": "mount"}]});
        });
        assert!(matches!(check(&without), Err(Refusal::NoUserNamespace)));
        let group = plan(|value| value["mounts"][0]["options"] = json!(["gid=5"]));
        assert!(matches!(check(&group), Err(Refusal::Unmapped { index: 0, id: 5, .. })));
        let own = plan(|value| value["mounts"][0]["options"] = json!(["gid=0", "uid=x"]));
        assert!(check(&own).is_ok());
        let mapped = plan(|value| {
            value["mounts"][0] =
                json!({"destination": "/x", "source": "/", "options": ["bind", "idmap"]});
        });
        assert!(matches!(check(&mapped), Err(Refusal::IdMap { index: 0 })));
    }
}
