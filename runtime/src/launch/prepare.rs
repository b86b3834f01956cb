//! Everything that may fail or allocate, done by the parent before the clone.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::proc;
use crate::{
    cgroup,
    container::Stdio,
    mount::{
        self, bind,
        steps::{Action, Step},
    },
    ns::Kind,
    plan::{self, Plan},
    process::{affinity::Affinity, caps, env, listener::Handover},
    rootless, seccomp,
    sys::{
        Errno,
        cred::CapSets,
        fd,
        mount::{open, open_tree},
        process::CStrings,
        sched,
    },
};

/// Why a process cannot be prepared.
#[derive(thiserror::Error)]
pub enum Error {
    #[error("root.path: open {}", path.display())]
    Root { path: PathBuf, source: Errno },
    #[error("root.path: {} is not a directory", path.display())]
    RootKind { path: PathBuf },
    #[error("linux.namespaces: open {}", path.display())]
    Namespace { path: PathBuf, source: Errno },
    #[error("linux.namespaces: {} is not a {kind} namespace", path.display())]
    NamespaceKind { path: PathBuf, kind: &'static str },
    #[error("open {}, to give it to a container in a user namespace", path.display())]
    Device { path: PathBuf, source: Errno },
    #[error("read {path}")]
    Read { path: &'static str, source: std::io::Error },
    #[error(transparent)]
    Mount(#[from] mount::steps::Error),
    #[error(transparent)]
    Proc(#[from] proc::Error),
    #[error("linux.seccomp")]
    Seccomp(#[source] seccomp::Error),
    #[error("process.apparmorProfile: this kernel runs without AppArmor; remove the profile")]
    NoAppArmor,
    #[error("process.selinuxLabel: this kernel runs without SELinux; remove the label")]
    NoSelinux,
    #[error("linux.mountLabel: this kernel runs without SELinux; remove the label")]
    NoSelinuxMounts,
    #[error(
        "linux.namespaces: {} is the host's own mount namespace, whose root would become the container's; join another or make a new one",
        path.display()
    )]
    HostMounts { path: PathBuf },
    #[error("linux.namespaces: this kernel has no {kind} namespaces")]
    NoNamespace { kind: &'static str },
    #[error("process.terminal is false, so there is no terminal to hand out")]
    NotTerminal,
    #[error("a path of the container has a null byte")]
    Nul(#[from] std::ffi::NulError),
}

debug_is_display!(Error);

/// All that the child needs. Holds every descriptor until the parent drops it.
#[derive(Debug)]
pub struct Prepared {
    /// The child's end of the conversation.
    pub socket: OwnedFd,
    /// FIFO that `start` writes to; `None` for a process that is to run at once.
    pub start: Option<OwnedFd>,
    /// `tasks` of the cgroup v1 groups to join; [`super::launch`] opens them.
    pub groups: Vec<OwnedFd>,
    /// The first process only joins namespaces and clones the real one as its sibling.
    pub intermediate: bool,
    /// `CLONE_NEW*` of the real process.
    pub clone_flags: u64,
    /// Namespaces to join, in order, with the kinds to join of each.
    pub join: Vec<(OwnedFd, i32)>,
    /// The process is in a user namespace other than ours, whose root it becomes.
    pub user_namespace: bool,
    /// What it does itself because its parent is an ordinary user.
    pub ordinary: Option<Ordinary>,
    /// `None` for a process that joins a container.
    pub setup: Option<Setup>,
    /// Root of a container that is joined and has no mount namespace of its own.
    pub root: Option<OwnedFd>,
    pub program: Program,
}

impl Prepared {
    /// Closes the parent's descriptors, of which there may be many.
    pub(super) fn close(self) {
        let Self { socket, start, groups, join, setup, root, .. } = self;
        let mut all = groups;
        all.push(socket);
        all.extend(start.into_iter().chain(root));
        all.extend(join.into_iter().map(|(namespace, _)| namespace));
        if let Some(Setup { tree, steps, devices, .. }) = setup {
            if let RootTree::Opened(tree, _) = tree {
                all.push(tree);
            }
            all.extend(devices.into_iter().filter_map(|device| match device.node {
                Node::Opened(tree) => Some(tree),
                Node::Made | Node::ByChild => None,
            }));
            for step in steps {
                match step.action {
                    Action::Attach { tree, .. } => all.extend(tree.map(|tree| tree.fd)),
                    Action::Hierarchies { trees, .. } => {
                        all.extend(trees.into_iter().filter_map(|(_, _, tree)| tree));
                    }
                    Action::FileSystem { .. } | Action::ReadOnly => {}
                }
            }
        }
        fd::close_all(all);
    }
}

/// A process whose parent is an ordinary user. Files in `/proc` of a process that is not to be looked at belong to root,
/// so its parent cannot write them.
#[derive(Debug)]
pub struct Ordinary {
    pub oom_score_adj: Option<CString>,
    /// Its ids are being mapped while it waits: until then it may be looked at.
    pub mapped: bool,
    /// And afterwards too, so that hooks and further processes can join: it enters nobody else's namespace, and whoever
    /// looks is its user.
    pub open: bool,
}

impl Ordinary {
    /// For a new container, or one that is joined; `None` if we have privileges.
    pub fn new(plan: Option<&Plan>, oom_score_adj: Option<i32>) -> Option<Self> {
        rootless::is_ordinary_user().then(|| Self {
            oom_score_adj: oom_score_adj.and_then(|score| CString::new(score.to_string()).ok()),
            mapped: plan.is_some_and(|plan| !plan.uid_map.is_empty()),
            open: plan.is_some_and(|plan| plan.namespaces.joined.is_empty()),
        })
    }
}

/// Set-up of a new container.
#[derive(Debug)]
pub struct Setup {
    pub cgroup_namespace: bool,
    pub loopback: bool,
    pub hostname: Option<CString>,
    pub domainname: Option<CString>,
    pub sysctl: Vec<(CString, CString)>,
    /// The host's `/proc`, for the sysctls and the clocks.
    pub proc: Option<OwnedFd>,
    /// Where the root file system is.
    pub root: CString,
    pub tree: RootTree,
    /// Propagation of all other mounts.
    pub old_propagation: u64,
    pub steps: Vec<Step>,
    pub devices: Vec<Device>,
    pub standard_devices: bool,
    /// Steps after the devices.
    pub late_steps: Vec<Step>,
    pub masked: Vec<CString>,
    pub readonly: Vec<CString>,
    pub readonly_root: bool,
    /// Propagation of the new root.
    pub propagation: Option<u64>,
    pub hooks: bool,
    /// Without a pivot: the host's views of the kernel, which stay below the new root. With one of them
    /// to be seen, the kernel would let the container mount its own without masks.
    pub no_pivot: Option<Vec<CString>>,
    /// Clocks of a new time namespace, for a process that is to make it before the container's.
    pub time_offsets: Option<CString>,
    /// Options of the empty directories that cover masked ones.
    pub mask_options: CString,
    /// Numbers of descriptors that may stay open until all are closed.
    pub left_below: RawFd,
}

/// A detached clone of the root file system.
#[derive(Debug)]
pub enum RootTree {
    /// And whether its propagation could not be set yet.
    Opened(OwnedFd, bool),
    /// The child opens it: we may not.
    ByChild,
    /// There is no mount namespace, so it is not mounted anew.
    None,
}

impl RootTree {
    /// The clone, if there is one yet.
    pub fn opened(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Opened(tree, _) => Some(tree.as_fd()),
            Self::ByChild | Self::None => None,
        }
    }
}

/// A node to make.
#[derive(Debug)]
pub struct Device {
    /// Where it is, in the container and on the host.
    pub path: CString,
    pub directory: CString,
    pub name: CString,
    pub mode: u32,
    pub number: u64,
    pub uid: u32,
    pub gid: u32,
    pub node: Node,
}

/// How a node comes to be: in a user namespace the host's is mounted, for nobody makes any there.
#[derive(Debug)]
pub enum Node {
    Made,
    Opened(OwnedFd),
    /// Opened by the child: we may not.
    ByChild,
}

/// The program and who runs it.
#[derive(Debug)]
pub struct Program {
    /// What to execute: the first of these that may be.
    pub candidates: Vec<CString>,
    pub args: CStrings,
    pub env: CStrings,
    pub cwd: CString,
    pub terminal: bool,
    pub console_size: Option<(u16, u16)>,
    pub streams: Streams,
    /// The streams are to belong to the program's user.
    pub own_streams: bool,
    /// Device number of `/dev/null`.
    pub null: u64,
    pub first_closed: u32,
    pub rlimits: Vec<plan::Rlimit>,
    pub io_priority: Option<i32>,
    pub scheduler: Option<sched::Attributes>,
    pub affinity: Option<Affinity>,
    pub personality: Option<u32>,
    pub memory_policy: Option<plan::MemoryPolicy>,
    pub new_keyring: bool,
    pub label: Option<Label>,
    pub no_new_privileges: bool,
    pub seccomp: Option<seccomp::Filter>,
    /// For the agent that answers for the filter; put in by who knows the container.
    pub handover: Option<Handover>,
    pub groups: Vec<u32>,
    pub gid: u32,
    pub uid: u32,
    pub umask: u32,
    /// Capabilities to take out of the bounding set.
    pub dropped: u64,
    pub capabilities: CapSets,
}

/// Where the standard streams come from.
#[derive(Debug)]
pub enum Streams {
    Inherited,
    Given([OwnedFd; 3]),
    /// The terminal that the child opens.
    Terminal,
}

/// What to tell a security module about the next exec.
#[derive(Debug)]
pub struct Label {
    /// The host's `/proc`.
    pub proc: OwnedFd,
    /// File below it.
    pub file: &'static CStr,
    pub text: CString,
}

/// What a program needs beyond its own description.
#[derive(Debug)]
pub struct Surroundings<'a> {
    /// Root of the file system in which its user is looked up.
    pub root: BorrowedFd<'a>,
    pub seccomp: Option<&'a seccomp::Profile>,
    pub personality: Option<u32>,
    pub user_namespace: bool,
    pub new_keyring: bool,
    pub preserve_fds: u32,
}

/// Prepares a program.
///
/// # Errors
/// If what it asks for cannot be had on this host.
pub fn program(
    process: &plan::Process,
    stdio: Stdio,
    around: &Surroundings<'_>,
) -> Result<Program, Error> {
    let terminal = process.terminal;
    let streams = match stdio {
        Stdio::Terminal if !terminal => return Err(Error::NotTerminal),
        _ if terminal => Streams::Terminal,
        Stdio::Fds { stdin, stdout, stderr } => Streams::Given([stdin, stdout, stderr]),
        Stdio::Inherit | Stdio::Terminal => Streams::Inherited,
    };
    let supported = caps::supported();
    let asked = process.capabilities;
    let capabilities = CapSets {
        bounding: asked.bounding & supported,
        effective: asked.effective & supported,
        inheritable: asked.inheritable & supported,
        permitted: asked.permitted & supported,
        // The kernel raises only what is permitted and inheritable; the rest runc leaves out too.
        ambient: asked.ambient & supported & asked.permitted & asked.inheritable,
    };
    let mut env = process.env.clone();
    if env::value(&env, b"HOME").is_none() {
        env.push(env::home(around.root, process.uid));
    }
    let filter = around
        .seccomp
        .map(|profile| seccomp::compile(profile, seccomp::Arch::NATIVE))
        .transpose()
        .map_err(Error::Seccomp)?;
    Ok(Program {
        candidates: env::candidates(&process.args, &env),
        args: CStrings::new(process.args.clone()),
        env: CStrings::new(env),
        cwd: process.cwd.clone(),
        terminal,
        console_size: process.console_size,
        own_streams: process.uid != 0 || around.user_namespace,
        streams,
        null: libc::makedev(1, 3),
        first_closed: around.preserve_fds.saturating_add(3),
        rlimits: process.rlimits.clone(),
        io_priority: process.io_priority,
        scheduler: process.scheduler,
        affinity: process.affinity,
        personality: around.personality,
        memory_policy: None,
        new_keyring: around.new_keyring,
        label: label(process)?,
        no_new_privileges: process.no_new_privileges,
        seccomp: filter,
        handover: None,
        groups: process.additional_gids.clone(),
        gid: process.gid,
        uid: process.uid,
        umask: process.umask.unwrap_or(0o022),
        dropped: supported & !capabilities.bounding,
        capabilities,
    })
}

impl Program {
    /// Whether its filter asks an agent.
    pub fn has_listener(&self) -> bool {
        self.seccomp.as_ref().is_some_and(|filter| filter.listener.is_some())
    }
}

fn label(process: &plan::Process) -> Result<Option<Label>, Error> {
    let enabled = |path: &str| std::fs::read(path).is_ok_and(|text| text.starts_with(b"Y"));
    let (file, text) = if let Some(profile) = &process.apparmor_profile {
        if profile.as_c_str() == c"unconfined" {
            return Ok(None);
        }
        if !enabled("/sys/module/apparmor/parameters/enabled") {
            return Err(Error::NoAppArmor);
        }
        let text = [b"exec ", profile.to_bytes()].concat();
        (c"thread-self/attr/apparmor/exec", CString::new(text)?)
    } else if let Some(label) = &process.selinux_label {
        if !has_selinux() {
            return Err(Error::NoSelinux);
        }
        (c"thread-self/attr/exec", label.clone())
    } else {
        return Ok(None);
    };
    Ok(Some(Label { proc: proc::open()?, file, text }))
}

/// Whether a path leads to what a descriptor is of; false where it cannot be told.
fn same_file(fd: &OwnedFd, path: &str) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let (Ok(one), Ok(other)) = (crate::sys::fstat(fd), std::fs::metadata(path)) else {
        return false;
    };
    (one.st_dev, one.st_ino) == (other.dev(), other.ino())
}

fn has_selinux() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

/// Namespaces of the plan, opened: what to join, and whether that takes a process of its own.
///
/// # Errors
/// If one cannot be opened or is of another kind.
pub fn joined(plan: &Plan) -> Result<(Vec<(OwnedFd, i32)>, bool), Error> {
    let mut join = Vec::with_capacity(plan.namespaces.joined.len());
    for (kind, path) in &plan.namespaces.joined {
        let failed = |source| Error::Namespace { path: path.clone(), source };
        let fd =
            open(&CString::new(path.as_os_str().as_bytes())?, libc::O_RDONLY).map_err(failed)?;
        let flag = i32::try_from(kind.flag()).unwrap_or(0);
        if crate::sys::process::namespace_kind(fd.as_fd()) != Ok(flag) {
            return Err(Error::NamespaceKind { path: path.clone(), kind: kind.name() });
        }
        // Of any other the caller knows that the container's root becomes that of its processes.
        if *kind == Kind::Mount
            && ["/proc/self/ns/mnt", "/proc/1/ns/mnt"].iter().any(|own| same_file(&fd, own))
        {
            return Err(Error::HostMounts { path: path.clone() });
        }
        join.push((fd, flag));
    }
    let namespaces = &plan.namespaces;
    // A joined pid namespace takes effect for children only; and the owner of what is made new is
    // the user namespace at the time of the clone, whose root may not join what the host owns.
    let intermediate = namespaces.is_joined(Kind::Pid)
        || namespaces.is_joined(Kind::User)
        || (namespaces.is_new(Kind::User) && !join.is_empty())
        // The clocks must be set before the first process is in the namespace.
        || plan.time_offsets.is_some();
    if namespaces.is_new(Kind::Time) && !Path::new("/proc/self/ns/time").exists() {
        return Err(Error::NoNamespace { kind: Kind::Time.name() });
    }
    Ok((join, intermediate))
}

/// What a new container needs beyond its plan.
#[derive(Debug)]
pub struct Place<'a> {
    pub bundle: &'a Path,
    pub groups: &'a cgroup::Record,
    pub no_pivot: bool,
    /// The child opens what is mounted, because we may not.
    pub by_child: bool,
}

/// Prepares the set-up of a new container.
///
/// # Errors
/// If the root, the source of a mount or a device cannot be opened.
pub fn setup(plan: &Plan, place: &Place<'_>) -> Result<Setup, Error> {
    let path = place.bundle.join(&plan.root.path);
    let root = CString::new(path.as_os_str().as_bytes())?;
    let failed = |source| Error::Root { path: path.clone(), source };
    let private_mounts =
        plan.namespaces.is_new(Kind::Mount) || plan.namespaces.is_joined(Kind::Mount);
    let old_propagation = bind::inherited_propagation(plan.root.propagation);
    let tree = if !private_mounts {
        RootTree::None
    } else if place.by_child {
        RootTree::ByChild
    } else {
        let (clone, late) = bind::open_root(&root, old_propagation).map_err(failed)?;
        RootTree::Opened(clone, late)
    };
    let opened;
    let seen = match (&tree, place.by_child) {
        (RootTree::Opened(tree, _), _) => Some(tree),
        // For the sake of the message.
        (_, true) => {
            opened = open(&root, libc::O_PATH).map_err(failed)?;
            Some(&opened)
        }
        (_, false) => None,
    };
    if let Some(seen) = seen {
        let kind = crate::sys::fstat(seen).map_err(failed)?.st_mode & libc::S_IFMT;
        if kind != libc::S_IFDIR {
            return Err(Error::RootKind { path });
        }
    }
    let mut steps = mount::steps::steps(mount::steps::Surroundings {
        plan,
        bundle: place.bundle,
        groups: place.groups,
        by_child: place.by_child,
    })?;
    let is_late =
        |step: &Step| matches!(step.action, Action::ReadOnly) && step.target.as_c_str() == c"/dev";
    let late_steps = steps.extract_if(.., |step| is_late(step)).collect();
    let mask_options = c"size=0k,nr_inodes=2,mode=555";
    let mask_options = match &plan.mount_label {
        None => mask_options.to_owned(),
        Some(_) if !has_selinux() => return Err(Error::NoSelinuxMounts),
        Some(label) => mount::steps::with_context(Some(mask_options), label)?,
    };
    let standard_devices = private_mounts && mount::steps::makes_devices(plan);
    let user_namespace =
        plan.namespaces.is_new(Kind::User) || plan.namespaces.is_joined(Kind::User);
    let bound = user_namespace.then_some(place.by_child);
    Ok(Setup {
        cgroup_namespace: plan.namespaces.is_new(Kind::Cgroup),
        loopback: plan.namespaces.is_new(Kind::Network),
        hostname: plan.hostname.clone(),
        domainname: plan.domainname.clone(),
        sysctl: plan.sysctl.clone(),
        proc: if plan.sysctl.is_empty() && plan.time_offsets.is_none() {
            None
        } else {
            Some(proc::open()?)
        },
        root,
        tree,
        old_propagation,
        steps,
        devices: if standard_devices { devices(plan, bound)? } else { Vec::new() },
        standard_devices,
        late_steps,
        masked: plan.masked_paths.clone(),
        readonly: plan.readonly_paths.clone(),
        readonly_root: plan.root.readonly,
        propagation: plan.root.propagation,
        hooks: !plan.hooks.prestart.is_empty()
            || !plan.hooks.create_runtime.is_empty()
            || !plan.hooks.create_container.is_empty(),
        no_pivot: if place.no_pivot { Some(kernel_views(&path)?) } else { None },
        time_offsets: plan.time_offsets.clone(),
        mask_options,
        left_below: fd::room_to_leave(),
    })
}

/// Mounts of procfs and sysfs outside of the container's root; what was mounted last comes first.
fn kernel_views(root: &Path) -> Result<Vec<CString>, Error> {
    const MOUNTS: &str = "/proc/self/mountinfo";
    let mounts = std::fs::read(MOUNTS).map_err(|source| Error::Read { path: MOUNTS, source })?;
    let mut views: Vec<_> = mounts
        .split(|&byte| byte == b'\n')
        .filter_map(|line| {
            let mut fields = line.split(|&byte| byte == b' ');
            let point = cgroup::unescape(fields.nth(4)?);
            let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
            let inside = Path::new(OsStr::from_bytes(&point)).starts_with(root);
            if inside || !matches!(kind, b"proc" | b"sysfs") {
                return None;
            }
            CString::new(point).ok()
        })
        .collect();
    views.reverse();
    Ok(views)
}

/// The specification's default devices: name and minor number, major 1 but for the terminal.
pub const STANDARD: [(&CStr, u32, u32); 6] = [
    (c"/dev/null", 1, 3),
    (c"/dev/zero", 1, 5),
    (c"/dev/full", 1, 7),
    (c"/dev/random", 1, 8),
    (c"/dev/urandom", 1, 9),
    (c"/dev/tty", 5, 0),
];

/// Nodes to make, or with `bound` to mount; whether by the child.
fn devices(plan: &Plan, bound: Option<bool>) -> Result<Vec<Device>, Error> {
    let standard = STANDARD.iter().map(|(path, major, minor)| plan::Device {
        path: (*path).to_owned(),
        mode: libc::S_IFCHR | 0o666,
        major: *major,
        minor: *minor,
        uid: 0,
        gid: 0,
    });
    // A device of the configuration replaces the standard one of its path.
    let own = |path: &CStr| plan.devices.iter().any(|device| device.path.as_c_str() == path);
    let all = standard.filter(|device| !own(&device.path)).chain(plan.devices.iter().cloned());
    all.map(|device| {
        let path = Path::new(OsStr::from_bytes(device.path.to_bytes()));
        let part = |part: Option<&OsStr>| CString::new(part.unwrap_or_default().as_bytes());
        let is_fifo = device.mode & libc::S_IFMT == libc::S_IFIFO;
        let node = match bound.filter(|_| !is_fifo) {
            None => Node::Made,
            Some(true) => Node::ByChild,
            Some(false) => {
                let failed = |source| Error::Device { path: path.to_owned(), source };
                Node::Opened(open_tree(None, &device.path, true, false).map_err(failed)?)
            }
        };
        Ok(Device {
            directory: part(path.parent().map(Path::as_os_str))?,
            name: part(path.file_name())?,
            mode: device.mode,
            number: libc::makedev(device.major, device.minor),
            uid: device.uid,
            gid: device.gid,
            path: device.path,
            node,
        })
    })
    .collect()
}
