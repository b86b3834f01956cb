//! What reaches the kernel: `linuxParameters`, `ulimits`, `systemControls`, security options.

use std::collections::HashSet;

use super::node::Node;
use super::problems::{Report, quoted};
use super::text;
use super::types::{Device, LinuxParameters, NamespaceMode, NetworkMode, Tmpfs, Ulimit};

/// Capabilities as ECS names them, sorted.
const CAPABILITIES: &[&str] = &[
    "ALL",
    "AUDIT_CONTROL",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];

/// tmpfs mount options that stand alone, sorted.
const TMPFS_FLAGS: &[&str] = &[
    "async",
    "atime",
    "bind",
    "defaults",
    "dev",
    "diratime",
    "dirsync",
    "exec",
    "mand",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "nomand",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "private",
    "rbind",
    "relatime",
    "remount",
    "ro",
    "rprivate",
    "rshared",
    "rslave",
    "runbindable",
    "rw",
    "shared",
    "slave",
    "strictatime",
    "suid",
    "sync",
    "unbindable",
];

/// tmpfs mount options with a value, sorted.
const TMPFS_VALUES: &[&str] = &["gid", "mode", "mpol", "nr_blocks", "nr_inodes", "uid"];

/// Sysctls of the IPC namespace, sorted; those below `fs.mqueue.` are, too.
const IPC_SYSCTLS: &[&str] = &[
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shm_rmid_forced",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
];

pub(super) fn read(container: &Node<'_>, report: &mut Report) -> LinuxParameters {
    let Some(node) = container.member("linuxParameters") else {
        return LinuxParameters::default();
    };
    if node.has("swappiness") && !node.has("maxSwap") {
        report.invalid(&node.at("swappiness"), "needs maxSwap");
    }
    if node.has("maxSwap") && !container.has("memory") {
        let rule = "needs the container's memory, which it is counted on top of";
        report.invalid(&node.at("maxSwap"), rule);
    }
    let set = |name, report: &mut Report| match node.member("capabilities") {
        Some(sets) => capabilities(&sets, name, report),
        None => Vec::new(),
    };
    LinuxParameters {
        capabilities_add: set("add", report),
        capabilities_drop: set("drop", report),
        devices: node.list("devices").iter().map(|device| read_device(device, report)).collect(),
        shared_memory_size: node.number("sharedMemorySize"),
        tmpfs: node.list("tmpfs").iter().map(|tmpfs| read_tmpfs(tmpfs, report)).collect(),
        max_swap: node.number("maxSwap"),
        swappiness: node.number("swappiness").and_then(|value| u8::try_from(value).ok()),
    }
}

fn capabilities(sets: &Node<'_>, name: &str, report: &mut Report) -> Vec<String> {
    for node in sets.list(name) {
        if let Some(text) = node.as_text()
            && CAPABILITIES.binary_search(&text).is_err()
        {
            let rule = format!(
                "must be a capability in capitals without CAP_, such as NET_ADMIN, or ALL, is {}",
                quoted(text)
            );
            report.invalid(&node.path, rule);
        }
    }
    sets.texts(name)
}

fn read_device(node: &Node<'_>, report: &mut Report) -> Device {
    for name in ["hostPath", "containerPath"] {
        if let Some(rule) = node.text(name).and_then(text::absolute_path) {
            report.invalid(&node.at(name), rule);
        }
    }
    let host_path = node.text("hostPath").unwrap_or_default();
    let permissions = node.texts("permissions");
    // None given means all.
    let may = |what: &str| permissions.is_empty() || permissions.iter().any(|p| p == what);
    Device {
        host_path: host_path.to_owned(),
        container_path: node.text("containerPath").unwrap_or(host_path).to_owned(),
        read: may("read"),
        write: may("write"),
        mknod: may("mknod"),
    }
}

fn read_tmpfs(node: &Node<'_>, report: &mut Report) -> Tmpfs {
    for option in node.list("mountOptions") {
        if let Some(text) = option.as_text()
            && !is_tmpfs_option(text)
        {
            let rule = format!("is not a mount option of tmpfs that ECS allows: {}", quoted(text));
            report.invalid(&option.path, rule);
        }
    }
    Tmpfs {
        container_path: node.text("containerPath").unwrap_or_default().to_owned(),
        size: node.number("size").unwrap_or(0),
        mount_options: node.texts("mountOptions"),
    }
}

/// Values are checked as well: options reach the kernel as one comma-separated text.
fn is_tmpfs_option(text: &str) -> bool {
    let Some((name, value)) = text.split_once('=') else {
        return TMPFS_FLAGS.binary_search(&text).is_ok();
    };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    TMPFS_VALUES.binary_search(&name).is_ok()
        && match name {
            "mode" => {
                (1..=4).contains(&value.len()) && value.bytes().all(|b| (b'0'..=b'7').contains(&b))
            }
            "mpol" => {
                let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b':' | b'=' | b'-');
                !value.is_empty() && value.bytes().all(fits)
            }
            "uid" | "gid" => digits(value) && value.parse::<u32>().is_ok(),
            _ => digits(value.strip_suffix(['k', 'K', 'm', 'M', 'g', 'G']).unwrap_or(value)),
        }
}

pub(super) fn ulimits(container: &Node<'_>, report: &mut Report) -> Vec<Ulimit> {
    let mut names = HashSet::new();
    let mut limits = Vec::new();
    for node in container.list("ulimits") {
        let (Some(name), Some(soft), Some(hard)) =
            (node.text("name"), node.signed("softLimit"), node.signed("hardLimit"))
        else {
            continue;
        };
        // -1 is "unlimited".
        let rank = |limit: i64| if limit < 0 { i64::MAX } else { limit };
        if rank(soft) > rank(hard) {
            let rule = format!("must not exceed hardLimit, {soft} > {hard}");
            report.invalid(&node.at("softLimit"), rule);
        }
        if !names.insert(name) {
            report.invalid(&node.at("name"), format!("{} is given more than once", quoted(name)));
        }
        limits.push(Ulimit { name: name.to_owned(), soft, hard });
    }
    limits
}

pub(super) fn system_controls(
    container: &Node<'_>,
    network: NetworkMode,
    ipc: NamespaceMode,
    report: &mut Report,
) -> Vec<(String, String)> {
    let mut names = HashSet::new();
    let mut controls = Vec::new();
    for node in container.list("systemControls") {
        let name = node.text("namespace").unwrap_or_default();
        let place = node.at("namespace");
        match sysctl_namespace(name) {
            None => report.invalid(
                &place,
                format!(
                    "must be a sysctl of the container's own namespaces (net.*, fs.mqueue.*, {}), \
                     is {}",
                    IPC_SYSCTLS.join(", "),
                    quoted(name)
                ),
            ),
            Some(Sysctl::Net) if network == NetworkMode::Host => {
                report.invalid(&place, "net.* is not supported when networkMode=host");
            }
            Some(Sysctl::Ipc) if ipc == NamespaceMode::Host => {
                report.invalid(&place, "sysctls of IPC are not supported when ipcMode=host");
            }
            Some(_) if !names.insert(name) => {
                report.invalid(&place, format!("{} is given more than once", quoted(name)));
            }
            Some(_) => {}
        }
        match node.text("value") {
            None => report.invalid(&node.at("value"), "is required"),
            Some(value) => controls.push((name.to_owned(), value.to_owned())),
        }
    }
    controls
}

enum Sysctl {
    Net,
    Ipc,
}

/// `None` for what is not namespaced, and for names that could leave `/proc/sys/net` as a path.
fn sysctl_namespace(name: &str) -> Option<Sysctl> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/');
    let parts_fit = name.split(['.', '/']).all(|part| !part.is_empty());
    if !name.bytes().all(fits) || !parts_fit {
        return None;
    }
    if name.starts_with("net.") {
        return Some(Sysctl::Net);
    }
    let ipc = name.starts_with("fs.mqueue.") || IPC_SYSCTLS.binary_search(&name).is_ok();
    ipc.then_some(Sysctl::Ipc)
}

/// `dockerSecurityOptions`: whether processes may gain privileges no more.
pub(super) fn no_new_privileges(container: &Node<'_>, report: &mut Report) -> bool {
    let mut no_new_privileges = false;
    for node in container.list("dockerSecurityOptions") {
        match node.as_text().unwrap_or_default() {
            "no-new-privileges" | "no-new-privileges:true" => no_new_privileges = true,
            "no-new-privileges:false" => no_new_privileges = false,
            text if ["label:", "apparmor:", "credentialspec:"]
                .iter()
                .any(|kind| text.starts_with(kind)) => {}
            text => report.invalid(
                &node.path,
                format!(
                    "must be no-new-privileges, label:…, apparmor:… or credentialspec:…, is {}",
                    quoted(text)
                ),
            ),
        }
    }
    no_new_privileges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_sorted() {
        for table in [CAPABILITIES, TMPFS_FLAGS, TMPFS_VALUES, IPC_SYSCTLS] {
            assert!(table.is_sorted(), "{table:?}");
        }
    }

    #[test]
    fn tmpfs_options() {
        for good in
            ["ro", "noexec", "defaults", "mode=1777", "uid=0", "nr_inodes=10k", "mpol=bind:0-1"]
        {
            assert!(is_tmpfs_option(good), "{good}");
        }
        for bad in [
            "",
            "size=1g",
            "mode",
            "mode=",
            "mode=9",
            "ro=1",
            "uid=-1",
            "uid=1,suid",
            "mpol=a,b",
            "huge=always",
        ] {
            assert!(!is_tmpfs_option(bad), "{bad}");
        }
    }

    #[test]
    fn sysctl_names_stay_in_their_directory() {
        for good in [
            "net.core.somaxconn",
            "net.ipv4.conf.eth0/1.forwarding",
            "fs.mqueue.msg_max",
            "kernel.sem",
        ] {
            assert!(sysctl_namespace(good).is_some(), "{good}");
        }
        for bad in [
            "",
            "net",
            "net.",
            "net../kernel",
            "net.ipv4/../../kernel",
            "vm.swappiness",
            "kernel.hostname",
            "net.a b",
        ] {
            assert!(sysctl_namespace(bad).is_none(), "{bad}");
        }
    }
}
