//! NFS mounts, made without a place and put into a task's mount namespace.
//!
//! The kernel connects in the agent's network namespace. What it makes is a descriptor until it is
//! attached in the mount namespace of the task's monitor: if the agent dies, the descriptor's end
//! unmounts; if the monitor ends, its namespace's end does. So nothing of it is ever mounted on the
//! host, and nothing can be left there.
//!
//! A server that does not answer holds the kernel for minutes. That happens on a thread that nobody
//! waits for longer than [`PATIENCE`]; what it has in the end is dropped.

use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sched::CloneFlags;
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags};

use super::efs::Mount;

/// For a server's name and its answer.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// What the kernel says about one attempt, in messages and bytes of one.
const MESSAGES: (usize, usize) = (8, 512);

/// What failed about a mount.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "this kernel has no NFS client: load the module nfsv4 (it comes with the distribution's \
         kernel or its package of extra modules), or run a kernel with CONFIG_NFS_V4"
    )]
    NoClient,
    #[error("open the file system type nfs4")]
    Open { source: io::Error },
    #[error("resolve {host}")]
    Resolve { host: String, source: io::Error },
    #[error("{host} has no address")]
    NoAddress { host: String },
    #[error("set the option {name}{}", said(.messages))]
    Option { name: &'static str, messages: Vec<String>, source: io::Error },
    #[error("the server at {address} has no such directory")]
    NoDirectory { address: IpAddr },
    #[error("mount from {address}{}", said(.messages))]
    Create { address: IpAddr, messages: Vec<String>, source: io::Error },
    #[error(
        "{host} did not answer within {}s: check that TCP port {port} of it can be reached from \
         this host",
        PATIENCE.as_secs()
    )]
    Silent { host: String, port: u16 },
    #[error("start a thread")]
    Thread { source: io::Error },
    #[error("a thread panicked")]
    Panicked,
    #[error("enter the mount namespace of the task's monitor")]
    Enter { source: io::Error },
    #[error("read the mounts of the task's monitor")]
    Mounts { source: io::Error },
    #[error("attach it at {}", path.display())]
    Attach { path: PathBuf, source: io::Error },
}

fn said(messages: &[String]) -> String {
    if messages.is_empty() { String::new() } else { format!(" ({})", messages.join("; ")) }
}

/// Whether the kernel can mount NFSv4: it has the client, or a module that it would load.
pub fn has_client() -> bool {
    let registered = |text: String| text.lines().any(|line| line.ends_with("\tnfs4"));
    if std::fs::read_to_string("/proc/filesystems").is_ok_and(registered) {
        return true;
    }
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let modules = Path::new("/lib/modules").join(release).join("modules.dep");
    std::fs::read_to_string(modules).is_ok_and(|text| text.contains("/nfsv4.ko"))
}

/// Makes the mount. It is nowhere yet, and gone when the descriptor is closed.
///
/// # Errors
/// If the kernel or the server refuses, or [`PATIENCE`] ends.
pub async fn open(mount: &Mount) -> Result<OwnedFd, Error> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let planned = mount.clone();
    std::thread::Builder::new()
        .name("nfs".to_owned())
        .spawn(move || {
            // Nobody waits any more: the descriptor is closed.
            let _ = sender.send(make(&planned));
        })
        .map_err(|source| Error::Thread { source })?;
    match tokio::time::timeout(PATIENCE, receiver).await {
        Ok(Ok(made)) => made,
        Ok(Err(_panicked)) => Err(Error::Panicked),
        Err(_elapsed) => Err(Error::Silent { host: mount.host.clone(), port: mount.port }),
    }
}

/// Tries the server's addresses in turn.
fn make(mount: &Mount) -> Result<OwnedFd, Error> {
    // Before the name is asked for, so that a kernel that cannot says so on any network.
    let mut context = context()?;
    let addresses: Vec<SocketAddr> = (mount.host.as_str(), mount.port)
        .to_socket_addrs()
        .map_err(|source| Error::Resolve { host: mount.host.clone(), source })?
        .collect();
    let mut outcome = Err(Error::NoAddress { host: mount.host.clone() });
    for address in addresses {
        outcome = connect(context, mount, address.ip());
        if !matches!(outcome, Err(Error::Create { .. })) {
            break;
        }
        context = self::context()?;
    }
    outcome
}

fn context() -> Result<OwnedFd, Error> {
    match rustix::mount::fsopen("nfs4", FsOpenFlags::FSOPEN_CLOEXEC) {
        Ok(context) => Ok(context),
        Err(Errno::NODEV) => Err(Error::NoClient),
        Err(errno) => Err(Error::Open { source: errno.into() }),
    }
}

fn connect(context: OwnedFd, mount: &Mount, address: IpAddr) -> Result<OwnedFd, Error> {
    for (name, value) in mount.options(address) {
        let set = match value {
            Some(value) => rustix::mount::fsconfig_set_string(&context, name, value),
            None => rustix::mount::fsconfig_set_flag(&context, name),
        };
        set.map_err(|errno| Error::Option {
            name,
            messages: messages(&context),
            source: errno.into(),
        })?;
    }
    rustix::mount::fsconfig_create(&context)
        .and_then(|()| {
            let (flags, attributes) = (FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty());
            rustix::mount::fsmount(&context, flags, attributes)
        })
        .map_err(|errno| match errno {
            Errno::NOENT => Error::NoDirectory { address },
            errno => Error::Create { address, messages: messages(&context), source: errno.into() },
        })
}

/// What the kernel has to say about a context: one message per read, `e `, `w ` or `i ` before it.
fn messages(context: &OwnedFd) -> Vec<String> {
    let mut found = Vec::new();
    let mut buffer = [0; MESSAGES.1];
    while found.len() < MESSAGES.0 {
        let Ok(length) = rustix::io::read(context, &mut buffer) else { break };
        let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default());
        let text = text.get(2..).unwrap_or_default().trim();
        found.push(text.replace(char::is_control, " "));
    }
    found
}

/// Whether something is mounted at `path` in the mount namespace of the process `pid`.
///
/// # Errors
/// If the process is gone.
pub fn is_attached(pid: i32, path: &Path) -> Result<bool, Error> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/mountinfo"))
        .map_err(|source| Error::Mounts { source })?;
    Ok(has_mount(&text, path))
}

fn has_mount(mountinfo: &str, path: &Path) -> bool {
    let sought = escape(path);
    mountinfo.lines().any(|line| line.split(' ').nth(4).is_some_and(|point| point == sought))
}

/// As the kernel writes a path into `mountinfo`.
fn escape(path: &Path) -> String {
    let text = path.to_string_lossy();
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            ' ' => escaped.push_str("\\040"),
            '\t' => escaped.push_str("\\011"),
            '\n' => escaped.push_str("\\012"),
            '\\' => escaped.push_str("\\134"),
            c => escaped.push(c),
        }
    }
    escaped
}

/// Attaches a mount at `path`, a directory of the host, in the mount namespace of the process
/// `pid`, and there alone.
///
/// # Errors
/// If the process is gone, or the directory not there.
pub fn attach(mount: &OwnedFd, pid: i32, path: &Path) -> Result<(), Error> {
    let enter = |source| Error::Enter { source };
    let namespace = File::open(format!("/proc/{pid}/ns/mnt")).map_err(enter)?;
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("mounts".to_owned())
            .spawn_scoped(scope, || {
                // A thread changes its namespace only if its working directory is its own.
                nix::sched::unshare(CloneFlags::CLONE_FS)
                    .and_then(|()| nix::sched::setns(&namespace, CloneFlags::CLONE_NEWNS))
                    .map_err(|errno| enter(errno.into()))?;
                let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
                rustix::mount::move_mount(mount, "", CWD, path, flags)
                    .map_err(|errno| Error::Attach { path: path.to_owned(), source: errno.into() })
            })
            .map_err(|source| Error::Thread { source })?
            .join()
            .unwrap_or(Err(Error::Panicked))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    struct Other(Child);

    impl Drop for Other {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// A process in a mount namespace of its own.
    fn other() -> Other {
        let mut child = Command::new("unshare")
            .args(["--mount", "--propagation", "slave", "sh", "-c", "echo ready; exec sleep 100"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = child.stdout.take().unwrap();
        let child = Other(child);
        io::BufRead::read_line(&mut io::BufReader::new(stdout), &mut line).unwrap();
        assert_eq!(line, "ready\n");
        child
    }

    fn tmpfs() -> OwnedFd {
        let context = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
        rustix::mount::fsconfig_create(&context).unwrap();
        let (flags, attributes) = (FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty());
        rustix::mount::fsmount(&context, flags, attributes).unwrap()
    }

    #[test]
    fn a_mount_is_attached_in_the_other_namespace_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a volume\\");
        std::fs::create_dir(&path).unwrap();
        let other = other();
        let pid = i32::try_from(other.0.id()).unwrap();
        assert!(!is_attached(pid, &path).unwrap());
        attach(&tmpfs(), pid, &path).unwrap();
        assert!(is_attached(pid, &path).unwrap());
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(!is_attached(own, &path).unwrap());
        // The host's directory can go at any time.
        super::super::remove_tree(directory.path()).unwrap();
    }

    #[test]
    fn failures_name_what_was_tried() {
        let other = other();
        let pid = i32::try_from(other.0.id()).unwrap();
        let missing = attach(&tmpfs(), pid, Path::new("/nonexistent/place")).unwrap_err();
        assert_eq!(missing.to_string(), "attach it at /nonexistent/place");
        drop(other);
        assert!(matches!(attach(&tmpfs(), pid, Path::new("/")), Err(Error::Enter { .. })));
        assert!(matches!(is_attached(pid, Path::new("/")), Err(Error::Mounts { .. })));
    }

    #[test]
    fn mounts_are_found_by_their_whole_path() {
        let text = "24 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
                    30 24 0:40 / /v/a\\040b rw - nfs4 nas:/ rw\n";
        for (path, expected) in [("/", true), ("/v/a b", true), ("/v/a", false), ("/v", false)] {
            assert_eq!(has_mount(text, Path::new(path)), expected, "{path}");
        }
    }

    #[tokio::test]
    async fn a_kernel_without_a_client_says_so_before_it_asks_for_names() {
        let mount = Mount {
            host: "nonexistent.invalid".to_owned(),
            port: 2049,
            source: "nonexistent.invalid:/".to_owned(),
        };
        let failed = open(&mount).await.unwrap_err();
        if has_client() {
            assert!(matches!(failed, Error::Resolve { .. } | Error::Silent { .. }), "{failed}");
        } else {
            assert!(matches!(failed, Error::NoClient), "{failed}");
        }
    }
}
