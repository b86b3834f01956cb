//! Starting a process in a container, from the parent's side.
//!
//! - `prepare`: everything that may fail or allocate, before the clone;
//! - `child`: what the clone does, a list of raw system calls;
//! - `place`: what it mounts and makes for the container;
//! - `proc`: the host's `/proc`, for labels and sysctls;
//! - `sync`: what the two say to each other.
//!
//! A process that was launched but not confirmed dies with the parent, because it waits on a socket
//! that closes; so a create that is killed at any moment leaves no process behind.

mod child;
mod place;
pub mod prepare;
mod proc;
mod sync;

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::{get_dumpable, set_dumpable};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::wait::{Id, WaitPidFlag, waitid};

use crate::{
    cgroup::{self, Cgroup},
    net,
    ns::Kind,
    plan::Plan,
    process::{affinity::Affinity, hooks, listener},
    rootless,
    sys::{
        Errno,
        clone::{Clone, spawn},
        process, sched,
    },
    userns,
};
use prepare::{Prepared, Program, Setup};
use sync::{Message, Stage};

/// Why a process could not be launched.
#[derive(thiserror::Error)]
pub enum Error {
    #[error("create the socket to the container's process")]
    Socket(#[source] Errno),
    #[error("clone the container's process")]
    Clone(#[source] Errno),
    #[error("talk to the container's process")]
    Talk(#[source] Errno),
    #[error("the container's process ended while it was set up; was it killed, or out of memory?")]
    Died,
    #[error(transparent)]
    IdMap(#[from] userns::Error),
    #[error("the container has ended")]
    Ended,
    #[error("{sentence}")]
    WorkingDirectory { sentence: String },
    #[error("set process.oomScoreAdj to {score}; lowering it takes CAP_SYS_RESOURCE")]
    OomScore { score: i32, source: std::io::Error },
    #[error("join the container's cgroup")]
    Cgroup(#[source] cgroup::Error),
    #[error(transparent)]
    NetDevices(#[from] net::devices::Error),
    #[error("run hooks")]
    Hooks(#[source] hooks::Error),
    #[error(
        "set process.scheduler; real-time policies need CAP_SYS_NICE and real-time bandwidth in \
         the cgroup, SCHED_DEADLINE needs all CPUs"
    )]
    Scheduler(#[source] Errno),
    #[error("set process.execCPUAffinity.{which}; are these CPUs there and online?")]
    Affinity { which: &'static str, source: Errno },
    #[error("linux.seccomp")]
    Listener(#[source] listener::Error),
    /// The program is missing or may not be executed; in runc's words.
    #[error("{sentence}")]
    Program { sentence: String, errno: Errno },
    /// A step of the set-up failed in the child.
    #[error("{sentence}")]
    Step { sentence: String, source: Errno },
}

debug_is_display!(Error);

/// A process that is set up and waits: for the confirmation, then for `start`.
#[derive(Debug)]
pub struct Launched {
    pub pid: i32,
    pub pidfd: OwnedFd,
    /// Master of its terminal.
    pub terminal: Option<OwnedFd>,
    socket: OwnedFd,
    guard: Guard,
    names: Names,
}

/// Kills and reaps a process unless it is let go.
#[derive(Debug)]
struct Guard {
    pidfd: Option<OwnedFd>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(pidfd) = &self.pidfd {
            // It may be dead already; and there is nobody to tell a failure to.
            let _ = process::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
            reap(pidfd);
        }
    }
}

/// Takes the status of a dead or dying child.
fn reap(pidfd: &OwnedFd) {
    while waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED) == Err(Errno::EINTR) {}
}

/// What the parent does for a process before it goes on.
#[derive(Debug)]
pub struct Attendance<'a> {
    pub cgroup: &'a Cgroup,
    /// Plan of a new container, for its id maps.
    pub plan: Option<&'a Plan>,
    pub oom_score_adj: Option<i32>,
    /// Init of the container that the process is added to. Whoever deletes the container waits for
    /// the end of this one and kills what the cgroup then holds: a process that enters later would
    /// be missed, so it gives up.
    pub init: Option<BorrowedFd<'a>>,
}

/// Strings by which a failed step is described.
#[derive(Debug, Default)]
struct Names {
    program: String,
    cwd: String,
    user: String,
    rlimits: Vec<&'static str>,
    groups: Vec<String>,
    joined: Vec<String>,
    mounts: Vec<String>,
    devices: Vec<String>,
    sysctl: Vec<String>,
    masked: Vec<String>,
    readonly: Vec<String>,
    root: String,
}

/// The two ends of a conversation.
///
/// # Errors
/// If no socket can be made.
pub fn conversation() -> Result<(OwnedFd, OwnedFd), Error> {
    let flags = SockFlag::SOCK_CLOEXEC;
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).map_err(Error::Socket)
}

/// Clones a process and attends it until only the program is missing. `hooks` runs when the mounts
/// are done, if the set-up asks for it.
///
/// # Errors
/// If anything on the way fails, here or in the child; the process is gone then.
pub fn launch(
    prepared: Prepared,
    socket: OwnedFd,
    attendance: &Attendance<'_>,
    hooks: &mut dyn FnMut(i32, &OwnedFd) -> Result<(), hooks::Error>,
) -> Result<Launched, Error> {
    launch_as(prepared, socket, attendance, hooks, child::first)
}

/// As [`launch`], with what the clone runs; the tests put it under guard.
fn launch_as(
    mut prepared: Prepared,
    socket: OwnedFd,
    attendance: &Attendance<'_>,
    hooks: &mut dyn FnMut(i32, &OwnedFd) -> Result<(), hooks::Error>,
    first: fn(&Prepared) -> i32,
) -> Result<Launched, Error> {
    let names = names(&prepared, attendance);
    let affinity = prepared.program.affinity.filter(|_| prepared.setup.is_none());
    let initial = affinity.and_then(|affinity| affinity.initial);
    // A process that begins in the cgroup has no time before the move. And one that is added must be
    // in it when the container is seen to live: of the first process that is certain only after it
    // has told of its sibling.
    let at_once = initial.is_none() && (attendance.init.is_none() || prepared.intermediate);
    if at_once {
        prepared.groups = attendance.cgroup.tasks_files().map_err(Error::Cgroup)?;
    }
    let unified = if at_once { attendance.cgroup.v2_dir() } else { None };
    let flags = if prepared.intermediate { 0 } else { prepared.clone_flags };
    // The child itself joins the v1 groups.
    let mut in_cgroup = at_once;
    let clone = Clone { flags, cgroup: unified, withheld: Some(socket.as_fd()) };
    // The child must be open to our writes from its first moment; and so we are, to our own user only, in this one.
    let opened = prepared.ordinary.as_ref().is_some_and(|ordinary| ordinary.mapped)
        && get_dumpable() == Ok(false);
    if opened {
        set_dumpable(true).map_err(Error::Clone)?;
    }
    let cloned = match spawn(clone, &prepared, first) {
        // Not into this cgroup: it is threaded, or delegated to somebody else. Moving may still do.
        Err(_) if unified.is_some() => {
            in_cgroup = false;
            spawn(Clone { cgroup: None, ..clone }, &prepared, first)
        }
        other => other,
    };
    if opened {
        set_dumpable(false).map_err(Error::Clone)?;
    }
    let (mut pid, mut pidfd) = cloned.map_err(Error::Clone)?;
    let mut guard = Guard { pidfd: Some(pidfd.try_clone().map_err(duplicate)?) };
    let intermediate = prepared.intermediate;
    let Program { scheduler, .. } = prepared.program;
    let agent = prepared.program.seccomp.take().and_then(|filter| filter.listener);
    let agent = agent.zip(prepared.program.handover.take());
    let raised = if prepared.user_namespace {
        std::mem::take(&mut prepared.program.rlimits)
    } else {
        Vec::new()
    };
    // The child has its copies; ours of its end of the socket must go, or its death is not seen.
    prepared.close();
    if intermediate {
        let (message, _) = receive(&socket, &names)?;
        let Message::Pid(sibling) = message else { return Err(Error::Talk(Errno::EPROTO)) };
        pid = sibling;
        // A child of ours now, and not reaped, so the number is still its own.
        let second = process::pidfd_open(sibling).map_err(Error::Clone)?;
        let real = Guard { pidfd: Some(second.try_clone().map_err(duplicate)?) };
        reap(&pidfd);
        guard.pidfd = None;
        guard = real;
        pidfd = second;
    }
    let set_cpus = |which, cpus| {
        sched::set_affinity(pid, &cpus).map_err(|source| Error::Affinity { which, source })
    };
    if let Some(cpus) = initial {
        set_cpus("initial", cpus)?;
    }
    attend(pid, attendance, in_cgroup)?;
    if let Some(cpus) = affinity.as_ref().and_then(Affinity::after_the_move) {
        set_cpus("final", cpus)?;
    }
    for limit in raised {
        // Inside the user namespace there is no privilege to raise it.
        process::raise_hard_limit(pid, limit.resource, limit.hard)
            .map_err(|source| Error::Step { sentence: format!("set {}", limit.name), source })?;
    }
    go(&socket)?;
    let terminal = loop {
        match receive(&socket, &names)? {
            (Message::Hooks, _) => {
                hooks(pid, &pidfd).map_err(Error::Hooks)?;
                go(&socket)?;
            }
            (Message::Listener, Some(descriptor)) => {
                // Without anybody to answer, the process would wait for ever.
                let (path, handover) = agent.as_ref().ok_or(Error::Talk(Errno::EPROTO))?;
                handover.send(path, pid, &descriptor).map_err(Error::Listener)?;
            }
            (Message::Ready, terminal) => break terminal,
            (Message::Listener | Message::Pid(_), _) | (Message::Failed { .. }, _) => {
                return Err(Error::Talk(Errno::EPROTO));
            }
        }
    };
    // Last, so that the set-up itself runs as we do; from outside, where there is the privilege.
    if let Some(attributes) = &scheduler {
        sched::set_attributes(pid, attributes).map_err(Error::Scheduler)?;
    }
    Ok(Launched { pid, pidfd, terminal, socket, guard, names })
}

fn duplicate(error: std::io::Error) -> Error {
    Error::Talk(Errno::from_raw(error.raw_os_error().unwrap_or(0)))
}

impl Launched {
    /// Lets the process go on to wait for `start`; it no longer depends on us. Two descriptors refer to
    /// it.
    ///
    /// # Errors
    /// If it is gone.
    pub fn confirm(mut self) -> Result<(i32, [OwnedFd; 2], Option<OwnedFd>), Error> {
        go(&self.socket)?;
        let second = self.guard.pidfd.take().ok_or(Error::Died)?;
        Ok((self.pid, [self.pidfd, second], self.terminal))
    }

    /// Lets the process go on to execute its program, and waits until it has.
    ///
    /// # Errors
    /// If the program could not be executed.
    pub fn execute(mut self) -> Result<(i32, OwnedFd, Option<OwnedFd>), Error> {
        go(&self.socket)?;
        match receive(&self.socket, &self.names) {
            // The exec closed the socket.
            Err(Error::Died) => {}
            Err(error) => return Err(error),
            Ok(_) => return Err(Error::Talk(Errno::EPROTO)),
        }
        self.guard.pidfd = None;
        Ok((self.pid, self.pidfd, self.terminal))
    }
}

fn attend(pid: i32, attendance: &Attendance<'_>, in_cgroup: bool) -> Result<(), Error> {
    if !in_cgroup {
        attendance.cgroup.add_process(pid).map_err(Error::Cgroup)?;
    }
    if let Some(init) = attendance.init
        && poll(&mut [PollFd::new(init, PollFlags::POLLIN)], PollTimeout::ZERO) != Ok(0)
    {
        return Err(Error::Ended);
    }
    if let Some(plan) = attendance.plan
        && !plan.uid_map.is_empty()
    {
        userns::write_maps(pid, &plan.uid_map, &plan.gid_map)?;
    }
    if let Some(plan) = attendance.plan
        && !plan.net_devices.is_empty()
    {
        let joined = plan.namespaces.joined.iter().find(|(kind, _)| *kind == Kind::Network);
        let path = match joined {
            Some((_, path)) => path.clone(),
            None => PathBuf::from(format!("/proc/{pid}/ns/net")),
        };
        let target = std::fs::File::open(&path).map_err(|error| {
            let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
            net::devices::Error::Namespace(errno)
        })?;
        net::devices::move_in(&plan.net_devices, target.as_fd())?;
    }
    if let Some(score) = attendance.oom_score_adj.filter(|_| !rootless::is_ordinary_user()) {
        let path = format!("/proc/{pid}/oom_score_adj");
        std::fs::write(path, score.to_string())
            .map_err(|source| Error::OomScore { score, source })?;
    }
    Ok(())
}

fn go(socket: &OwnedFd) -> Result<(), Error> {
    match crate::sys::fd::send(socket.as_fd(), &[0], None) {
        Err(Errno::EPIPE) => Err(Error::Died),
        other => other.map_err(Error::Talk),
    }
}

fn receive(socket: &OwnedFd, names: &Names) -> Result<(Message, Option<OwnedFd>), Error> {
    let mut bytes = [0; sync::SIZE];
    let (length, descriptor) = match crate::sys::fd::receive(socket.as_fd(), &mut bytes) {
        Err(Errno::ECONNRESET) => return Err(Error::Died),
        other => other.map_err(Error::Talk)?,
    };
    if length == 0 {
        return Err(Error::Died);
    }
    match Message::decode(bytes.get(..length).unwrap_or_default()) {
        None => Err(Error::Talk(Errno::EPROTO)),
        Some(Message::Failed { stage, index, errno }) => {
            Err(describe(names, stage, index, Errno::from_raw(errno)))
        }
        Some(message) => Ok((message, descriptor)),
    }
}

fn names(prepared: &Prepared, attendance: &Attendance<'_>) -> Names {
    let text = |text: &std::ffi::CString| text.to_string_lossy().into_owned();
    let Program { args, cwd, uid, gid, rlimits, .. } = &prepared.program;
    let mut names = Names {
        program: args.strings().first().map(text).unwrap_or_default(),
        cwd: text(cwd),
        user: format!("{uid}:{gid}"),
        rlimits: rlimits.iter().map(|limit| limit.name).collect(),
        ..Names::default()
    };
    if let Some(Setup { devices, root, sysctl, masked, readonly, .. }) = &prepared.setup {
        names.root = text(root);
        names.devices = devices
            .iter()
            .map(|device| format!("{}/{}", text(&device.directory), text(&device.name)))
            .collect();
        names.sysctl = sysctl.iter().map(|(path, _)| text(path)).collect();
        names.masked = masked.iter().map(text).collect();
        names.readonly = readonly.iter().map(text).collect();
    }
    let groups = attendance.cgroup.record();
    names.groups =
        groups.v1.iter().map(|dir| dir.mount.join(&groups.path).display().to_string()).collect();
    if let Some(plan) = attendance.plan {
        names.joined =
            plan.namespaces.joined.iter().map(|(_, path)| path.display().to_string()).collect();
        names.mounts = plan.mounts.iter().map(|one| text(&one.destination)).collect();
    }
    names
}

/// The sentence for a failure in the child.
fn describe(names: &Names, stage: Stage, index: u32, errno: Errno) -> Error {
    let index = index as usize;
    let nth = |list: &[String]| list.get(index).cloned().unwrap_or_default();
    let sentence = match stage {
        Stage::Program | Stage::Exec => return describe_program(names, stage, errno),
        Stage::Parent => return Error::Died,
        Stage::Cgroup => format!("join cgroup {}", nth(&names.groups)),
        Stage::Session => "start a session".to_owned(),
        Stage::Join => match nth(&names.joined) {
            empty if empty.is_empty() => "join the container's namespaces".to_owned(),
            path => format!("join namespace {path}"),
        },
        Stage::TimeNamespace if index == 0 => "create the time namespace".to_owned(),
        Stage::TimeNamespace => "set linux.timeOffsets; are they in the clocks' range?".to_owned(),
        Stage::Clone => "clone the process in the joined namespaces".to_owned(),
        Stage::RootId => {
            "become root in the user namespace; is 0 in linux.uidMappings and gidMappings?"
                .to_owned()
        }
        Stage::CgroupNamespace => "create the cgroup namespace".to_owned(),
        Stage::Loopback => "set the loopback interface up".to_owned(),
        Stage::Hostname => "set the host name".to_owned(),
        Stage::Domainname => "set the domain name".to_owned(),
        Stage::Sysctl => format!("write {}", nth(&names.sysctl)),
        Stage::Propagation => "set the propagation of the mounts".to_owned(),
        Stage::Root => format!("mount the root file system {}", names.root),
        Stage::Mount if errno == Errno::EXDEV => format!(
            "mounts[{index}]: links of the image lead {} into /proc, where nothing may be mounted",
            nth(&names.mounts)
        ),
        Stage::Mount if errno == Errno::EINVAL && rootless::is_ordinary_user() => format!(
            "mounts[{index}]: mount on {}; in a user namespace a tree with mounts below it is bound by rbind only",
            nth(&names.mounts)
        ),
        // In runc's words.
        Stage::Mount if errno == Errno::ELOOP => format!(
            "mounts[{index}]: must be mounted on ordinary directory, not on links: {}",
            nth(&names.mounts)
        ),
        Stage::Mount => format!("mounts[{index}]: mount on {}", nth(&names.mounts)),
        Stage::Device => format!("create device {}", nth(&names.devices)),
        Stage::DeviceLink => "create the links in /dev".to_owned(),
        Stage::WorkingDirectoryMake => format!("create the working directory {}", names.cwd),
        Stage::Console if index == 1 => {
            "open a terminal at /dev/pts/ptmx; is a devpts among the mounts?".to_owned()
        }
        Stage::Console => "mount the terminal on /dev/console".to_owned(),
        Stage::MaskedPath => format!("mask {}", nth(&names.masked)),
        Stage::ReadonlyPath => format!("make {} read-only", nth(&names.readonly)),
        Stage::ReadonlyRoot => "make the root file system read-only".to_owned(),
        Stage::Pivot => "change the root".to_owned(),
        Stage::RootPropagation => "set the propagation of the root".to_owned(),
        Stage::Keyring => "create a session keyring".to_owned(),
        Stage::Rlimit => {
            format!("set {}", names.rlimits.get(index).copied().unwrap_or_default())
        }
        Stage::IoPriority => "set process.ioPriority".to_owned(),
        Stage::Personality => "set linux.personality".to_owned(),
        Stage::MemoryPolicy => {
            "set linux.memoryPolicy; has the kernel NUMA, has the host these nodes (see \
             /sys/devices/system/node), and does the mode take nodes?"
                .to_owned()
        }
        Stage::Label => {
            "set the security label; has the kernel this AppArmor profile (see aa-status) or its \
             policy this SELinux label?"
                .to_owned()
        }
        Stage::Stdio => "set up the standard streams".to_owned(),
        Stage::Seccomp => "load the seccomp filter".to_owned(),
        Stage::NoNewPrivileges => "set no_new_privs".to_owned(),
        Stage::BoundingSet => format!("drop capability {index} from the bounding set"),
        Stage::Groups if errno == Errno::EPERM => {
            "set the supplementary groups; in a user namespace whose ids a \
             user mapped himself there can be none: map a range of /etc/subgid"
                .to_owned()
        }
        Stage::Groups => "set the supplementary groups".to_owned(),
        Stage::OomScore => "set process.oomScoreAdj; lowering it takes CAP_SYS_RESOURCE".to_owned(),
        Stage::User => format!("become user {}", names.user),
        Stage::Capabilities => "set the capabilities".to_owned(),
        Stage::WorkingDirectory => {
            let sentence = format!(
                "chdir to cwd ({:?}) set in config.json failed: {}",
                names.cwd,
                errno.desc().to_lowercase()
            );
            return Error::WorkingDirectory { sentence };
        }
        Stage::ChangeRoot => "change to the container's root".to_owned(),
        Stage::WorkingDirectoryOutside => {
            format!("the working directory {} is outside of the container's root", names.cwd)
        }
        Stage::Descriptors => "mark descriptors to be closed".to_owned(),
        Stage::Signals => "reset signals".to_owned(),
        Stage::Start => "wait for start".to_owned(),
    };
    Error::Step { sentence, source: errno }
}

fn describe_program(names: &Names, stage: Stage, errno: Errno) -> Error {
    let name = &names.program;
    let sentence = match (stage, errno) {
        (Stage::Program, Errno::ENOENT) if !name.contains('/') => {
            format!("exec: {name:?}: executable file not found in $PATH")
        }
        (Stage::Program, Errno::ENOENT) => {
            format!("exec: {name:?}: stat {name}: no such file or directory")
        }
        (_, Errno::EACCES) => format!("exec: {name:?}: permission denied"),
        (_, Errno::ENOEXEC) => format!("exec {name}: exec format error"),
        (_, errno) => format!("exec {name}: {}", errno.desc()),
    };
    Error::Program { sentence, errno }
}

#[cfg(test)]
mod tests;
