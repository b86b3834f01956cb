//! Where everything lies. One value, made once from `--root`, and passed down.

use std::path::{Path, PathBuf};

use protocol::ids::TaskId;

/// The directories of one agent. Without a root: `/etc/ecs`, `/var/lib/lighter`, `/run/lighter`;
/// with `--root DIR` the same three below DIR.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    root: Option<PathBuf>,
}

impl Layout {
    /// `root` is absolute and without symbolic links (the command line canonicalises it).
    pub fn new(root: Option<PathBuf>) -> Self {
        Self { root }
    }

    /// What was given as `--root`.
    pub fn root(&self) -> Option<&Path> {
        self.root.as_deref()
    }

    fn at(&self, path: &str) -> PathBuf {
        match &self.root {
            Some(root) => root.join(path.trim_start_matches('/')),
            None => PathBuf::from(path),
        }
    }

    /// `ecs.config`
    pub fn config(&self) -> PathBuf {
        self.at("/etc/ecs/ecs.config")
    }

    /// Durable state.
    pub fn state(&self) -> PathBuf {
        self.at("/var/lib/lighter")
    }

    /// State that ends with the boot: sockets, FIFOs.
    pub fn run(&self) -> PathBuf {
        self.at("/run/lighter")
    }

    /// The engine's database (redb).
    pub fn database(&self) -> PathBuf {
        self.state().join("state.redb")
    }

    /// The image store.
    pub fn images(&self) -> PathBuf {
        self.state().join("images")
    }

    /// Hosts of registries, mirrors and certificates, where the configuration names no other.
    pub fn registry_config(&self) -> PathBuf {
        self.at("/etc/lighter/certs.d")
    }

    /// The audit log of requests for credentials, where the configuration names no other.
    pub fn audit_log(&self) -> PathBuf {
        self.at("/var/log/ecs/audit.log")
    }

    /// Durable directory of a task (T in `protocol::monitor`).
    pub fn task(&self, task: &TaskId) -> PathBuf {
        self.state().join("tasks").join(task.as_str())
    }

    /// Run directory of a task (R in `protocol::monitor`).
    pub fn task_run(&self, task: &TaskId) -> PathBuf {
        self.run().join("tasks").join(task.as_str())
    }

    /// The agent's API socket.
    pub fn api_socket(&self) -> PathBuf {
        self.run().join("agent.sock")
    }

    /// A name for host-wide kernel objects (cgroup parent, bridge, nftables table) that no agent
    /// with another root uses: empty for the default root, else eight hexadecimal digits of the
    /// root's CRC-32.
    pub fn suffix(&self) -> String {
        match &self.root {
            Some(root) => {
                format!("{:08x}", protocol::monitor::crc32(root.as_os_str().as_encoded_bytes()))
            }
            None => String::new(),
        }
    }

    /// Parent of every cgroup of this agent: `lighter` or `lighter-<suffix>`.
    pub fn cgroup_parent(&self) -> String {
        match self.root {
            Some(_) => format!("lighter-{}", self.suffix()),
            None => "lighter".to_owned(),
        }
    }
}
