//! The process that becomes the container's program: from the clone to the exec.
//!
//! Nothing here may allocate, take a lock, or unwind: the code runs in a raw clone of the parent. It
//! walks what [`super::prepare`] made ready, calls only [`crate::sys`] and
//! [`crate::mount::resolve`], and reports the first failure as stage, index and errno.
//!
//! The order, and why:
//!
//!  0. Join the control groups: before them no resource is counted.
//!  1. Join the namespaces that have a path; the user namespace first, for its privileges.
//!  2. Clone once more where the parent could not make all at once (a joined pid or user namespace).
//!  3. Wait for the parent: without id maps no privilege. Then the place of the root is opened, which
//!     the host's root may see.
//!  4. Root in the user namespace; a session; a keyring.
//!  5. The cgroup namespace, after the cgroup was joined: its root is where we are.
//!  6. Loopback, names, sysctls: through the host's `/proc`, which the container cannot shape.
//!  7. Mounts, devices, the terminal: by descriptor below the still detached root.
//!  8. Hooks of the runtime, which want a container with mounts but with the old root.
//!  9. Masked and read-only paths: after the hooks, which may write.
//! 10. The root changes.
//! 11. Limits, while there is privilege to raise them. Streams. The working directory, which the user
//!     may have no right to enter.
//! 12. seccomp without `no_new_privs` needs `CAP_SYS_ADMIN`, so it comes before the user.
//! 13. Bounding set, groups, user, capabilities, ambient set: each needs the one before.
//! 14. The working directory, as the user, if only the user may enter it; it must lie below the root
//!     (CVE-2024-21626).
//! 15. The program is looked up, as the user, so that `create` can say that it is missing.
//! 16. All descriptors but FIFO and socket are closed: other processes of the container may look at us
//!     from now on (CVE-2016-9962, CVE-2024-21626).
//! 17. Ready. The parent writes the state. Then the FIFO is read, until `start` writes to it.
//! 18. seccomp, as late as possible, and exec. A filter with a listener cannot be that late: it comes
//!     before 17, while there is a parent to hand the listener on.

use std::ffi::CStr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use super::{
    place::{make_device, make_path_readonly, mask, perform, set_readonly},
    prepare::{Ordinary, Prepared, Program, RootTree, Setup, Streams},
    sync::{Message, SIZE, Stage},
};
use crate::{
    mount::{
        bind,
        resolve::{self, Want},
    },
    sys::{
        self, AtFlags, CloneFlags, Errno, Mode, SFlag, UnlinkatFlags,
        clone::{self, Clone},
        cred,
        fd::FdPath,
        mount, process, tty,
    },
};

/// Where it went wrong.
struct Failure {
    stage: Stage,
    index: u32,
    errno: Errno,
}

type Result<T> = core::result::Result<T, Failure>;

/// Names the stage of a system call.
trait At<T> {
    fn at(self, stage: Stage) -> Result<T>;
    fn at_index(self, stage: Stage, index: usize) -> Result<T>;
}

impl<T> At<T> for sys::Result<T> {
    fn at(self, stage: Stage) -> Result<T> {
        self.at_index(stage, 0)
    }

    fn at_index(self, stage: Stage, index: usize) -> Result<T> {
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        self.map_err(|errno| Failure { stage, index, errno })
    }
}

/// Exit code when the set-up failed; nobody sees it but in a process list.
const FAILED: i32 = 1;
/// Exit codes of a program that could not be executed, as in a shell.
const NOT_FOUND: i32 = 127;
const NOT_EXECUTABLE: i32 = 126;

/// The first process: the container's, or one that joins namespaces and makes that one.
pub(super) fn first(prepared: &Prepared) -> i32 {
    let seclusion = match &prepared.ordinary {
        // Our memory is no business of the container's other processes, until the exec.
        None => sys::set_dumpable(false).at(Stage::Session),
        Some(ordinary) => begin_as_user(ordinary, prepared.intermediate),
    };
    // Whatever is cloned from here begins in the groups.
    if let Err(failure) = seclusion.and_then(|()| join_groups(prepared)) {
        return report(prepared, &failure);
    }
    if !prepared.intermediate {
        return container(prepared);
    }
    let made = time_namespace(prepared).and_then(|made| {
        join(prepared)?;
        let flags = prepared.clone_flags & !made | libc::CLONE_PARENT as u64;
        clone::spawn(Clone { flags, cgroup: None, withheld: None }, prepared, container)
            .at(Stage::Clone)
    });
    match made {
        Ok((pid, _pidfd)) => {
            let sent = sys::fd::send(prepared.socket.as_fd(), &Message::Pid(pid).encode(), None);
            i32::from(sent.is_err())
        }
        Err(failure) => report(prepared, &failure),
    }
}

/// Lets the parent do what it must, as long as it must. What it cannot do is done by whoever has joined nothing yet.
fn begin_as_user(ordinary: &Ordinary, intermediate: bool) -> Result<()> {
    if intermediate || !ordinary.mapped {
        set_oom_score(ordinary)?;
    }
    sys::set_dumpable(ordinary.mapped || ordinary.open).at(Stage::Session)
}

fn set_oom_score(ordinary: &Ordinary) -> Result<()> {
    let Some(score) = &ordinary.oom_score_adj else { return Ok(()) };
    sys::set_dumpable(true).at(Stage::Session)?;
    let file = mount::open(c"/proc/self/oom_score_adj", libc::O_WRONLY).at(Stage::OomScore)?;
    sys::write(&file, score.to_bytes()).map(drop).at(Stage::OomScore)
}

fn container(prepared: &Prepared) -> i32 {
    match set_up(prepared) {
        Ok(found) => run(prepared, found),
        Err(failure) => report(prepared, &failure),
    }
}

fn report(prepared: &Prepared, failure: &Failure) -> i32 {
    let errno = failure.errno as i32;
    let message = Message::Failed { stage: failure.stage, index: failure.index, errno };
    // If the parent is gone there is nobody to tell.
    let _ = sys::fd::send(prepared.socket.as_fd(), &message.encode(), None);
    FAILED
}

/// Waits until the parent lets us go on.
fn wait_for_parent(prepared: &Prepared) -> Result<()> {
    let mut buffer = [0; SIZE];
    loop {
        match sys::read(&prepared.socket, &mut buffer) {
            Ok(0) => return Err(Errno::EPIPE).at(Stage::Parent),
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).at(Stage::Parent),
        }
    }
}

fn tell(prepared: &Prepared, message: Message, fd: Option<BorrowedFd<'_>>) -> Result<()> {
    sys::fd::send(prepared.socket.as_fd(), &message.encode(), fd).at(Stage::Parent)
}

fn join_groups(prepared: &Prepared) -> Result<()> {
    for (index, tasks) in prepared.groups.iter().enumerate() {
        sys::write(tasks, b"0").at_index(Stage::Cgroup, index)?;
    }
    Ok(())
}

fn join(prepared: &Prepared) -> Result<()> {
    for (index, (fd, flags)) in prepared.join.iter().enumerate() {
        sys::setns(fd, CloneFlags::from_bits_retain(*flags)).at_index(Stage::Join, index)?;
    }
    Ok(())
}

/// Makes the time namespace in which the next process will be, and sets its clocks, which the kernel
/// allows only as long as nobody is in it: the flag of what was made.
fn time_namespace(prepared: &Prepared) -> Result<u64> {
    let offsets = prepared.setup.as_ref().and_then(|setup| setup.time_offsets.as_ref());
    let Some(offsets) = offsets else { return Ok(0) };
    let flag = libc::CLONE_NEWTIME;
    sys::unshare(CloneFlags::from_bits_retain(flag)).at(Stage::TimeNamespace)?;
    let proc = prepared.setup.as_ref().and_then(|setup| setup.proc.as_ref());
    let Some(proc) = proc else { return Err(Errno::ENOENT).at_index(Stage::TimeNamespace, 1) };
    let file = resolve::in_proc(proc.as_fd(), c"self/timens_offsets", libc::O_WRONLY);
    let file = file.at_index(Stage::TimeNamespace, 1)?;
    sys::write(&file, offsets.to_bytes()).at_index(Stage::TimeNamespace, 1)?;
    Ok(u64::from(flag.unsigned_abs()))
}

/// Everything but the program; returns which candidate it is.
fn set_up(prepared: &Prepared) -> Result<usize> {
    wait_for_parent(prepared)?; // 3
    let program = &prepared.program;
    let open = prepared.ordinary.as_ref().is_some_and(|ordinary| ordinary.open);
    if let Some(ordinary) = &prepared.ordinary {
        if ordinary.mapped && !prepared.intermediate {
            set_oom_score(ordinary)?;
        }
        sys::set_dumpable(ordinary.open).at(Stage::Session)?;
    }
    if !prepared.intermediate {
        join(prepared)?; // 1
    }
    let place = place(prepared);
    if prepared.user_namespace {
        cred::setresgid(0).at(Stage::RootId)?; // 4
        cred::setresuid(0).at(Stage::RootId)?;
    }
    if open {
        // A change of the user takes it back.
        sys::set_dumpable(true).at(Stage::Session)?;
    }
    sys::setsid().at(Stage::Session)?;
    if program.new_keyring {
        match process::new_session_keyring() {
            // Kernels without keyrings have none to leak.
            Ok(()) | Err(Errno::ENOSYS) => {}
            Err(errno) => return Err(errno).at(Stage::Keyring),
        }
    }
    let label = open_label(program)?;
    let mut terminal = None;
    match &prepared.setup {
        Some(setup) => namespace(prepared, setup, place, &mut terminal)?,
        None => {
            if let Some(root) = &prepared.root {
                sys::fchdir(root)
                    .and_then(|()| sys::chroot(c"."))
                    .and_then(|()| sys::chdir(c"/"))
                    .at(Stage::ChangeRoot)?;
            }
            if program.terminal {
                let root =
                    mount::open(c"/", libc::O_PATH | libc::O_DIRECTORY).at(Stage::Console)?;
                terminal = Some(open_terminal(root.as_fd(), program)?);
            }
        }
    }
    limits(program)?; // 11
    streams(program, terminal.as_ref().map(|(_, peer)| peer))?;
    if let Some((file, text)) = label {
        sys::write(&file, text).at(Stage::Label)?;
    }
    let master = terminal.map(|(master, _)| master);
    if prepared.setup.is_none() {
        // The container's processes see this one already, and from the next step on it may be one
        // user's with them: what it has of the host goes now (CVE-2016-9962, CVE-2024-21626).
        close_descriptors(prepared, master.as_ref())?;
    }
    // A change of the root leads to the new one's.
    let entered = prepared.setup.is_some() && program.cwd.as_c_str() == c"/"
        || sys::chdir(program.cwd.as_c_str()).is_ok();
    if !program.no_new_privileges {
        seccomp(prepared)?; // 12
    }
    identity(program)?; // 13
    if open {
        sys::set_dumpable(true).at(Stage::Session)?;
    }
    working_directory(program, entered)?; // 14
    let found = find(program)?; // 15
    if prepared.setup.is_some() {
        close_descriptors(prepared, master.as_ref())?; // 16
    }
    process::reset_signals().at(Stage::Signals)?;
    if program.no_new_privileges && program.has_listener() {
        sys::set_no_new_privs().at(Stage::NoNewPrivileges)?;
        seccomp(prepared)?;
    }
    tell(prepared, Message::Ready, master.as_ref().map(|master| master.as_fd()))?; // 17
    wait_for_parent(prepared)?;
    Ok(found)
}

/// 17 and 18: from here on `create` is over, and failures go to the program's own stderr too.
fn run(prepared: &Prepared, found: usize) -> i32 {
    let program = &prepared.program;
    let outcome: Result<()> = wait_for_start(prepared).and_then(|()| {
        if program.no_new_privileges && !program.has_listener() {
            sys::set_no_new_privs().at(Stage::NoNewPrivileges)?;
            seccomp(prepared)?;
        }
        let path = program.candidates.get(found).map_or(c"", |path| path.as_c_str());
        Err(process::execve(path, &program.args, &program.env)).at(Stage::Exec)
    });
    let Err(failure) = outcome else { return FAILED };
    report(prepared, &failure);
    if prepared.start.is_some() {
        complain(program, failure.errno);
    }
    if failure.errno == Errno::ENOENT { NOT_FOUND } else { NOT_EXECUTABLE }
}

/// Closed, not only marked: the kernel resolves the program's path before it closes what is marked, and
/// `/proc/self/fd/N/..` would lead outside.
fn close_descriptors(prepared: &Prepared, master: Option<&OwnedFd>) -> Result<()> {
    let socket = prepared.socket.as_fd();
    let [start, master] =
        [prepared.start.as_ref(), master].map(|fd| fd.map_or(socket, |fd| fd.as_fd()));
    let kept = [socket, start, master];
    sys::fd::close_from(prepared.program.first_closed, kept).at(Stage::Descriptors)
}

fn wait_for_start(prepared: &Prepared) -> Result<()> {
    let Some(start) = &prepared.start else { return Ok(()) };
    let mut byte = [0];
    loop {
        match sys::read(start, &mut byte) {
            Err(Errno::EINTR) => {}
            other => return other.map(drop).at(Stage::Start),
        }
    }
}

fn complain(program: &Program, errno: Errno) {
    let [_, _, stderr] = sys::fd::standard();
    let name = program.args.strings().first().map_or(b"".as_slice(), |name| name.to_bytes());
    for part in [b"exec ", name, b": ", errno.desc().as_bytes(), b"\n"] {
        // There is nothing left to tell a failure to.
        let _ = sys::write(stderr, part);
    }
}

/// Where the root is to be attached, in our mount namespace, as whom we still are before 4: directories
/// above it may be closed to all but the host's root, which is nobody in a user namespace. `None`: as
/// the namespace's root it is found by its path.
fn place(prepared: &Prepared) -> Option<OwnedFd> {
    let setup = prepared.setup.as_ref().filter(|_| prepared.user_namespace)?;
    match &setup.tree {
        RootTree::Opened(..) => mount::open(&setup.root, libc::O_PATH | libc::O_DIRECTORY).ok(),
        RootTree::ByChild | RootTree::None => None,
    }
}

/// 5 to 10.
fn namespace(
    prepared: &Prepared,
    setup: &Setup,
    place: Option<OwnedFd>,
    terminal: &mut Option<(OwnedFd, OwnedFd)>,
) -> Result<()> {
    sys::fd::leave_below(setup.left_below);
    if setup.cgroup_namespace {
        sys::unshare(CloneFlags::CLONE_NEWCGROUP).at(Stage::CgroupNamespace)?;
    }
    if setup.loopback {
        sys::net::loopback_up().at(Stage::Loopback)?;
    }
    if let Some(name) = &setup.hostname {
        process::set_uts_name(false, name).at(Stage::Hostname)?;
    }
    if let Some(name) = &setup.domainname {
        process::set_uts_name(true, name).at(Stage::Domainname)?;
    }
    for (index, (path, value)) in setup.sysctl.iter().enumerate() {
        let Some(proc) = &setup.proc else { return Err(Errno::ENOENT).at(Stage::Sysctl) };
        let file =
            resolve::in_proc(proc.as_fd(), path, libc::O_WRONLY).at_index(Stage::Sysctl, index)?;
        sys::write(&file, value.to_bytes()).at_index(Stage::Sysctl, index)?;
    }
    sys::umask(Mode::empty());
    if matches!(setup.tree, RootTree::None) {
        return change_root_only(prepared, setup, terminal);
    }
    mount::mount(None, c"/", None, setup.old_propagation, None).at(Stage::Propagation)?;
    let opened;
    let (tree, late) = match &setup.tree {
        RootTree::Opened(tree, late) => (tree, *late),
        RootTree::ByChild | RootTree::None => {
            let (tree, late) =
                bind::open_root(&setup.root, setup.old_propagation).at(Stage::Root)?;
            opened = tree;
            (&opened, late)
        }
    };
    let root = tree.as_fd();
    match place {
        Some(place) => {
            mount::move_mount(root, Some(place.as_fd()), c"").at(Stage::Root)?;
            sys::fd::leave(place);
        }
        None => mount::move_mount(root, None, &setup.root).at(Stage::Root)?,
    }
    if late {
        let path = FdPath::new(root);
        mount::mount(None, path.as_c_str(), None, setup.old_propagation, None).at(Stage::Root)?;
    }
    for step in &setup.steps {
        perform(root, step).at_index(Stage::Mount, step.index)?; // 7
    }
    devices(root, setup)?;
    if prepared.program.cwd.as_c_str() != c"/" {
        resolve::ensure(root, &prepared.program.cwd, Want::Directory)
            .map(sys::fd::leave)
            .at(Stage::WorkingDirectoryMake)?;
    }
    if prepared.program.terminal {
        let (master, peer) = open_terminal(root, &prepared.program)?;
        bind_console(root, &peer).at(Stage::Console)?;
        *terminal = Some((master, peer));
    }
    if setup.hooks {
        tell(prepared, Message::Hooks, None)?; // 8
        wait_for_parent(prepared)?;
    }
    for step in &setup.late_steps {
        perform(root, step).at_index(Stage::Mount, step.index)?; // 9
    }
    for (index, path) in setup.masked.iter().enumerate() {
        mask(root, path, &setup.mask_options).at_index(Stage::MaskedPath, index)?;
    }
    for (index, path) in setup.readonly.iter().enumerate() {
        make_path_readonly(root, path).at_index(Stage::ReadonlyPath, index)?;
    }
    if setup.readonly_root {
        set_readonly(root).at(Stage::ReadonlyRoot)?;
    }
    pivot(setup, root).at(Stage::Pivot)?; // 10
    if let Some(flags) = setup.propagation {
        mount::mount(None, c"/", None, flags, None).at(Stage::RootPropagation)?;
    }
    Ok(())
}

/// Without a mount namespace of its own the container only gets another root directory.
fn change_root_only(
    prepared: &Prepared,
    setup: &Setup,
    terminal: &mut Option<(OwnedFd, OwnedFd)>,
) -> Result<()> {
    let root = mount::open(&setup.root, libc::O_PATH | libc::O_DIRECTORY).at(Stage::Root)?;
    resolve::ensure(root.as_fd(), &prepared.program.cwd, Want::Directory)
        .at(Stage::WorkingDirectoryMake)?;
    if prepared.program.terminal {
        *terminal = Some(open_terminal(root.as_fd(), &prepared.program)?);
    }
    if setup.hooks {
        tell(prepared, Message::Hooks, None)?;
        wait_for_parent(prepared)?;
    }
    sys::fchdir(&root).at(Stage::Pivot)?;
    sys::chroot(c".").at(Stage::Pivot)?;
    sys::chdir(c"/").at(Stage::Pivot)
}

fn devices(root: BorrowedFd<'_>, setup: &Setup) -> Result<()> {
    // Most are in one directory.
    let mut last: Option<(&CStr, OwnedFd)> = None;
    for (index, device) in setup.devices.iter().enumerate() {
        let directory = match last.take() {
            Some((path, directory)) if path == device.directory.as_c_str() => directory,
            _ => resolve::ensure(root, &device.directory, Want::Directory)
                .at_index(Stage::Device, index)?,
        };
        make_device(&directory, device).at_index(Stage::Device, index)?;
        last = Some((&device.directory, directory));
    }
    if !setup.standard_devices {
        return Ok(());
    }
    match last {
        Some((path, directory)) if path == c"/dev" => standard_links(directory),
        _ => standard_links(resolve::ensure(root, c"/dev", Want::Directory).at(Stage::DeviceLink)?),
    }
}

/// The links of the specification's "Default Devices".
fn standard_links(dev: OwnedFd) -> Result<()> {
    let links = [
        (c"fd", c"/proc/self/fd"),
        (c"stdin", c"/proc/self/fd/0"),
        (c"stdout", c"/proc/self/fd/1"),
        (c"stderr", c"/proc/self/fd/2"),
        (c"core", c"/proc/kcore"),
    ];
    for (index, (name, to)) in links.into_iter().enumerate() {
        match sys::symlinkat(to, &dev, name) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno).at_index(Stage::DeviceLink, index),
        }
    }
    // A ptmx of the image would make terminals of another instance.
    match sys::symlinkat(c"pts/ptmx", &dev, c"ptmx") {
        Err(Errno::EEXIST) => sys::unlinkat(&dev, c"ptmx", UnlinkatFlags::NoRemoveDir)
            .and_then(|()| sys::symlinkat(c"pts/ptmx", &dev, c"ptmx")),
        other => other,
    }
    .at_index(Stage::DeviceLink, links.len())?;
    sys::fd::leave(dev);
    Ok(())
}

/// A terminal of the container's own instance; whatever else lies at the path is refused
/// (CVE-2025-52565).
fn open_terminal(root: BorrowedFd<'_>, program: &Program) -> Result<(OwnedFd, OwnedFd)> {
    const DEVPTS_SUPER_MAGIC: i64 = 0x1cd1;
    let open = || {
        let flags = libc::O_RDWR | libc::O_NOCTTY;
        let master = resolve::exact(root, c"/dev/pts/ptmx", flags)?;
        if mount::file_system(master.as_fd())? != DEVPTS_SUPER_MAGIC {
            return Err(Errno::ENOTTY);
        }
        let peer = tty::peer(master.as_fd())?;
        if let Some((rows, columns)) = program.console_size {
            tty::set_size(peer.as_fd(), rows, columns)?;
        }
        Ok((master, peer))
    };
    open().at_index(Stage::Console, 1)
}

fn bind_console(root: BorrowedFd<'_>, peer: &OwnedFd) -> sys::Result<()> {
    // Made by its own name, so that a link of the image is met by the open, which refuses it, before
    // anything is made where it leads.
    let dev = resolve::ensure(root, c"/dev", Want::Directory)?;
    let mode = Mode::from_bits_truncate(0o644);
    match sys::mknodat(&dev, c"console", SFlag::S_IFREG, mode, 0) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(errno) => return Err(errno),
    }
    let target = resolve::exact(root, c"/dev/console", libc::O_PATH)?;
    let (source, target) = (FdPath::new(peer.as_fd()), FdPath::new(target.as_fd()));
    mount::mount(Some(source.as_c_str()), target.as_c_str(), None, libc::MS_BIND, None)
}

fn pivot(setup: &Setup, root: BorrowedFd<'_>) -> sys::Result<()> {
    sys::fchdir(root)?;
    if let Some(views) = &setup.no_pivot {
        for path in views {
            hide(path)?;
        }
        mount::mount(Some(c"."), c"/", None, libc::MS_MOVE, None)?;
        sys::chroot(c".")?;
    } else {
        mount::pivot_here()?;
        mount::detach(c".")?;
    }
    sys::chdir(c"/")
}

/// Takes a mount of the host's away, which stays below the container's root without a pivot.
fn hide(path: &CStr) -> sys::Result<()> {
    mount::mount(None, path, None, libc::MS_SLAVE | libc::MS_REC, None)?;
    match mount::detach(path) {
        // Locked to what lies above it by a user namespace.
        Err(Errno::EINVAL | Errno::EPERM) => {
            mount::mount(Some(c"tmpfs"), path, Some(c"tmpfs"), libc::MS_RDONLY, None)
        }
        other => other,
    }
}

fn limits(program: &Program) -> Result<()> {
    for (index, limit) in program.rlimits.iter().enumerate() {
        process::set_rlimit(limit.resource, limit.soft, limit.hard)
            .at_index(Stage::Rlimit, index)?;
    }
    if let Some(packed) = program.io_priority {
        process::set_io_priority(packed).at(Stage::IoPriority)?;
    }
    if let Some(domain) = program.personality {
        process::personality(domain).at(Stage::Personality)?;
    }
    if let Some(policy) = &program.memory_policy {
        process::set_memory_policy(policy.mode, &policy.nodes).at(Stage::MemoryPolicy)?;
    }
    Ok(())
}

/// Opened before the root changes: below the host's `/proc`, for this process only.
fn open_label(program: &Program) -> Result<Option<(OwnedFd, &[u8])>> {
    let Some(label) = &program.label else { return Ok(None) };
    let file = resolve::in_proc(label.proc.as_fd(), label.file, libc::O_WRONLY).at(Stage::Label)?;
    Ok(Some((file, label.text.to_bytes())))
}

fn streams(program: &Program, peer: Option<&OwnedFd>) -> Result<()> {
    match (&program.streams, peer) {
        (_, Some(peer)) => {
            for number in 0..3 {
                sys::fd::onto_standard(peer.as_fd(), number).at(Stage::Stdio)?;
            }
            tty::set_controlling(peer.as_fd()).at(Stage::Stdio)?;
        }
        (Streams::Given(three), None) => {
            for (number, fd) in (0..).zip(three) {
                sys::fd::onto_standard(fd.as_fd(), number).at(Stage::Stdio)?;
            }
        }
        (Streams::Inherited | Streams::Terminal, None) => {}
    }
    // Otherwise /dev/stdout could not be opened by a program that is not root.
    if program.own_streams {
        for stream in sys::fd::standard() {
            let Ok(info) = sys::fstat(stream) else { continue };
            let null = info.st_mode & libc::S_IFMT == libc::S_IFCHR && info.st_rdev == program.null;
            if info.st_uid == program.uid || null {
                continue;
            }
            match sys::fchownat(stream, c"", Some(program.uid.into()), None, AtFlags::AT_EMPTY_PATH)
            {
                // Files outside the user namespace or on file systems that cannot: they stay.
                Ok(()) | Err(Errno::EINVAL | Errno::EPERM | Errno::EROFS) => {}
                Err(errno) => return Err(errno).at(Stage::Stdio),
            }
        }
    }
    Ok(())
}

fn seccomp(prepared: &Prepared) -> Result<()> {
    let Some(filter) = &prepared.program.seccomp else { return Ok(()) };
    match sys::seccomp::load(&filter.instructions, filter.flags) {
        Ok(None) => Ok(()),
        // From now on the agent may have to answer for every call of ours, so it comes first.
        Ok(Some(listener)) => tell(prepared, Message::Listener, Some(listener.as_fd())),
        Err(error) => Err(Errno::from_raw(error.raw_os_error().unwrap_or(0))).at(Stage::Seccomp),
    }
}

fn identity(program: &Program) -> Result<()> {
    for number in 0..64 {
        if program.dropped & 1 << number != 0 {
            cred::drop_bounding(number).at_index(Stage::BoundingSet, number as usize)?;
        }
    }
    // Only a change to another user takes them away.
    let changes = program.uid != 0;
    if changes {
        sys::set_keepcaps(true).at(Stage::Capabilities)?;
    }
    match cred::setgroups(&program.groups) {
        Ok(()) => {}
        // Given up with the gid map of an unprivileged parent; none is then what there is.
        Err(Errno::EPERM) if program.groups.is_empty() => {}
        Err(errno) => return Err(errno).at(Stage::Groups),
    }
    cred::setresgid(program.gid).at(Stage::User)?;
    cred::setresuid(program.uid).at(Stage::User)?;
    sys::umask(Mode::from_bits_truncate(program.umask));
    let sets = &program.capabilities;
    // This leaves in the ambient set only what is in the inheritable one.
    cred::capset(sets).at(Stage::Capabilities)?;
    if sets.inheritable != 0 {
        cred::clear_ambient().at(Stage::Capabilities)?;
    }
    for number in 0..64 {
        if sets.ambient & 1 << number != 0 {
            cred::raise_ambient(number).at_index(Stage::Capabilities, number as usize)?;
        }
    }
    if changes { sys::set_keepcaps(false).at(Stage::Capabilities) } else { Ok(()) }
}

fn working_directory(program: &Program, entered: bool) -> Result<()> {
    if !entered {
        sys::chdir(program.cwd.as_c_str()).at(Stage::WorkingDirectory)?;
    }
    match mount::working_directory_is_inside().at(Stage::WorkingDirectory)? {
        true => Ok(()),
        false => Err(Errno::EXDEV).at(Stage::WorkingDirectoryOutside),
    }
}

/// The first candidate that the user may execute.
fn find(program: &Program) -> Result<usize> {
    let mut worst = Errno::ENOENT;
    for (index, path) in program.candidates.iter().enumerate() {
        match process::executable(path) {
            Ok(()) => return Ok(index),
            Err(Errno::ENOENT | Errno::ENOTDIR) => {}
            Err(errno) => worst = errno,
        }
    }
    Err(worst).at(Stage::Program)
}
