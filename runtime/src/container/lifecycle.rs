//! What may be done to a container, and in which status.

use std::ffi::CString;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use protocol::monitor::FailureKind;

use super::{
    Create, Created, State, Status, Stdio,
    id::{self, Id},
    state::{self, ProcessRecord, Record},
};
use crate::{
    cgroup::{self, Cgroup},
    launch::{self, Attendance, prepare},
    ns::Kind,
    plan::Plan,
    process::hooks,
    spec,
    sys::{Errno, Mode, mount, process},
};

/// Why an operation on a container failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Id(#[from] id::Invalid),
    #[error("container {id} does not exist")]
    NotFound { id: String },
    #[error("container with id exists already: {id}")]
    Exists { id: String },
    #[error("cannot {operation} container {id}: it is {}", status.name())]
    WrongStatus { operation: &'static str, id: String, status: Status },
    #[error("{operation} {}", path.display())]
    File { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("parse {}", path.display())]
    Parse { path: PathBuf, source: serde_json::Error },
    #[error("{}", path.display())]
    Spec { path: PathBuf, source: spec::Error },
    #[error("process")]
    Process(#[source] spec::Error),
    #[error("cgroup of container {id}")]
    Cgroup { id: String, source: Box<cgroup::Error> },
    #[error("container {id} has no cgroup yet")]
    NoCgroup { id: String },
    #[error("prepare container {id}")]
    Prepare { id: String, source: Box<prepare::Error> },
    #[error("container {id}")]
    Launch { id: String, source: Box<launch::Error> },
    #[error("read the start time of process {pid}: it is gone")]
    Gone { pid: i32 },
    #[error("send signal {signal} to container {id}")]
    Signal { id: String, signal: i32, source: Errno },
    #[error("container {id} did not end within {seconds} s of SIGKILL")]
    StillAlive { id: String, seconds: u64 },
    #[error("wait for the end of container {id}")]
    Wait { id: String, source: Errno },
    #[error("start container {id}: run hooks")]
    Hooks { id: String, source: Box<hooks::Error> },
}

impl Error {
    /// Which of the failures that callers decide on this is.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::NotFound { .. } => FailureKind::NotFound,
            Self::WrongStatus { .. } => FailureKind::WrongState,
            Self::Id(_) | Self::Parse { .. } | Self::Spec { .. } | Self::Process(_) => {
                FailureKind::Invalid
            }
            Self::Launch { source, .. } => match **source {
                launch::Error::Program { errno: Errno::ENOENT | Errno::ENOTDIR, .. } => {
                    FailureKind::CommandNotFound
                }
                launch::Error::Program { .. } => FailureKind::CommandNotExecutable,
                _ => FailureKind::Failed,
            },
            _ => FailureKind::Failed,
        }
    }
}

impl Status {
    /// As the state document has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Stopped => "stopped",
        }
    }
}

/// The FIFO whose reader is an init that waits for `start`.
const FIFO: &str = "exec.fifo";
/// How long a killed container may take to end.
const DEADLINE: Duration = Duration::from_secs(10);

/// A container that exists.
#[derive(Debug)]
pub struct Container {
    directory: PathBuf,
    record: Record,
}

/// Undoes a creation that fails, unless told otherwise.
struct Undo<'a> {
    directory: &'a Path,
    cgroup: Option<Cgroup>,
    armed: bool,
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        if let Some(cgroup) = &self.cgroup
            && let Err(error) = cgroup.kill_all(libc::SIGKILL).and_then(|()| cgroup.destroy())
        {
            log::warn!("after a failed creation: {error}");
        }
        if let Err(error) = fs::remove_dir_all(self.directory) {
            log::warn!("after a failed creation: remove {}: {error}", self.directory.display());
        }
    }
}

impl Container {
    /// Creates a container up to, not including, the user's program.
    ///
    /// # Errors
    /// If the configuration is refused or anything on the way fails; nothing is left then.
    pub fn create(create: Create<'_>) -> Result<(Self, Created), Error> {
        let id = Id::parse(create.id)?;
        let file = |operation, path: &Path| {
            let path = path.to_owned();
            move |source| Error::File { operation, path, source }
        };
        let bundle = fs::canonicalize(create.bundle).map_err(file("find bundle", create.bundle))?;
        let path = bundle.join("config.json");
        let bytes = fs::read(&path).map_err(file("read", &path))?;
        let raw: spec::Spec = serde_json::from_slice(&bytes)
            .map_err(|source| Error::Parse { path: path.clone(), source })?;
        let plan = spec::plan(raw).map_err(|source| Error::Spec { path, source })?;

        let directory = create.root.join(id.as_str());
        let mut builder = DirBuilder::new();
        builder.mode(0o700);
        match builder.create(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                builder.recursive(true).create(create.root).map_err(file("create", create.root))?;
                builder.recursive(false).create(&directory)
            }
            other => other,
        }
        .map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Error::Exists { id: create.id.to_owned() },
            _ => file("create", &directory)(error),
        })?;
        let mut undo = Undo { directory: &directory, cgroup: None, armed: true };
        let _lock = lock(&directory, create.id)?;
        let failed = |source| Error::Cgroup { id: create.id.to_owned(), source: Box::new(source) };
        let groups = match &plan.cgroups_path {
            Some(path) => Cgroup::plan(path),
            None => Cgroup::plan(create.id),
        }
        .map_err(failed)?;
        let mut record = Record {
            oci_version: plan.oci_version.clone(),
            id: create.id.to_owned(),
            status: Status::Creating,
            rootfs: bundle.join(&plan.root.path),
            bundle,
            created: state::timestamp(SystemTime::now()),
            annotations: plan.annotations.clone(),
            boot_id: state::boot_id()
                .map_err(file("read", Path::new("/proc/sys/kernel/random/boot_id")))?,
            init: None,
            cgroup: Some(groups.clone()),
            namespaces: plan
                .namespaces
                .joined
                .iter()
                .fold(plan.namespaces.new, |flags, (kind, _)| flags | kind.flag()),
            hooks: plan.hooks.clone(),
            seccomp: plan.seccomp.clone(),
            personality: plan.personality,
        };
        let state_path = directory.join("state.json");
        record.store(&directory).map_err(file("write", &state_path))?;
        let cgroup =
            undo.cgroup.insert(Cgroup::create_planned(groups, &plan.resources).map_err(failed)?);
        let launched = Self::launch(create, &plan, &record, cgroup, &directory)?;
        record.status = Status::Created;
        let (start_time, _) =
            state::start_time(launched.pid).ok_or(Error::Gone { pid: launched.pid })?;
        record.init = Some(ProcessRecord { pid: launched.pid, start_time });
        record.store(&directory).map_err(file("write", &state_path))?;
        let (pid, pidfd, terminal) = launched
            .confirm()
            .map_err(|source| Error::Launch { id: record.id.clone(), source: Box::new(source) })?;
        undo.armed = false;
        Ok((Self { directory: directory.clone(), record }, Created { pid, pidfd, terminal }))
    }

    fn launch(
        create: Create<'_>,
        plan: &Plan,
        record: &Record,
        cgroup: &Cgroup,
        directory: &Path,
    ) -> Result<launch::Launched, Error> {
        let id = || create.id.to_owned();
        let failed = |source| Error::Prepare { id: id(), source: Box::new(source) };
        let launch_failed = |source| Error::Launch { id: id(), source: Box::new(source) };
        let fifo = make_fifo(directory)?;
        let groups = cgroup.record();
        let place =
            prepare::Place { bundle: &record.bundle, groups: &groups, no_pivot: create.no_pivot };
        let setup = prepare::setup(plan, &place).map_err(failed)?;
        let (join, intermediate) = prepare::joined(plan).map_err(failed)?;
        let user_namespace = record.namespaces & Kind::User.flag() != 0;
        let opened;
        let root = match &setup.tree {
            Some(tree) => tree.as_fd(),
            None => {
                opened = mount::open(&setup.root, libc::O_PATH | libc::O_DIRECTORY).map_err(
                    |source| failed(prepare::Error::Root { path: record.rootfs.clone(), source }),
                )?;
                opened.as_fd()
            }
        };
        let around = prepare::Surroundings {
            root,
            seccomp: plan.seccomp.as_ref(),
            personality: plan.personality,
            user_namespace,
            new_keyring: !create.no_new_keyring,
            preserve_fds: create.preserve_fds,
        };
        let program = prepare::program(&plan.process, create.stdio, &around).map_err(failed)?;
        let (ours, theirs) = launch::conversation().map_err(launch_failed)?;
        let prepared = prepare::Prepared {
            socket: theirs,
            start: Some(fifo),
            groups: Vec::new(),
            intermediate,
            // Its root is where the process is when it is made; so the child does it, once moved.
            clone_flags: plan.namespaces.new & !Kind::Cgroup.flag(),
            join,
            user_namespace,
            setup: Some(setup),
            program,
        };
        let attendance =
            Attendance { cgroup, plan: Some(plan), oom_score_adj: plan.process.oom_score_adj };
        let namespaces = i32::try_from(record.namespaces).unwrap_or(0);
        let mut run_hooks = |pid: i32, pidfd: &OwnedFd| {
            let state =
                serde_json::to_vec(&document(record, Status::Creating, pid)).unwrap_or_default();
            hooks::run(&plan.hooks.prestart, &state, None)?;
            hooks::run(&plan.hooks.create_runtime, &state, None)?;
            hooks::run(&plan.hooks.create_container, &state, Some((pidfd.as_fd(), namespaces)))
        };
        launch::launch(prepared, ours, &attendance, &mut run_hooks).map_err(launch_failed)
    }

    /// Opens a container by its id.
    ///
    /// # Errors
    /// If there is none, or its state cannot be read.
    pub fn load(root: &Path, id: &str) -> Result<Self, Error> {
        Id::parse(id)?;
        let directory = root.join(id);
        let record = read(&directory, id)?;
        Ok(Self { directory, record })
    }

    /// Status at this moment.
    fn status(&self) -> Status {
        if self.record.status == Status::Creating {
            // Whoever creates it holds the lock; if nobody does, that process was killed.
            let busy = File::open(&self.directory)
                .is_ok_and(|file| matches!(file.try_lock(), Err(fs::TryLockError::WouldBlock)));
            return if busy { Status::Creating } else { Status::Stopped };
        }
        if self.live_init().is_none() {
            return Status::Stopped;
        }
        if self.directory.join(FIFO).exists() { Status::Created } else { Status::Running }
    }

    /// The init process while it lives.
    fn live_init(&self) -> Option<i32> {
        let init = self.record.init?;
        let (time, alive) = state::start_time(init.pid)?;
        let same = time == init.start_time && state::boot_id().ok()? == self.record.boot_id;
        (same && alive).then_some(init.pid)
    }

    /// A descriptor of the init process: no other process, whatever happens to its number.
    fn init_pidfd(&self) -> Option<OwnedFd> {
        let pid = self.record.init?.pid;
        let pidfd = process::pidfd_open(pid).ok()?;
        // Looked at after the descriptor was opened: if it is the same now, it was the same then.
        self.live_init().map(|_| pidfd)
    }

    /// The state document.
    ///
    /// # Errors
    /// None at present; reading the kernel may come to fail.
    pub fn state(&self) -> Result<State, Error> {
        let status = self.status();
        let pid = match status {
            Status::Stopped | Status::Creating => 0,
            Status::Created | Status::Running => self.record.init.map_or(0, |init| init.pid),
        };
        Ok(document(&self.record, status, pid))
    }

    /// Runs the user's program.
    ///
    /// # Errors
    /// If the container is not in the status *created*, or a hook fails.
    pub fn start(&mut self) -> Result<(), Error> {
        let _lock = self.lock()?;
        let wrong =
            |status| Error::WrongStatus { operation: "start", id: self.record.id.clone(), status };
        let status = self.status();
        if status != Status::Created {
            return Err(wrong(status));
        }
        let fifo = self.directory.join(FIFO);
        let init = self.init_pidfd().ok_or_else(|| wrong(Status::Stopped))?;
        let hooks = &self.record.hooks;
        if !hooks.start_container.is_empty() {
            let kinds = i32::try_from(self.record.namespaces).unwrap_or(0);
            hooks::run(
                &hooks.start_container,
                &self.document_bytes(Status::Created),
                Some((init.as_fd(), kinds)),
            )
            .map_err(|source| Error::Hooks {
                id: self.record.id.clone(),
                source: Box::new(source),
            })?;
        }
        let failed = |operation| {
            let path = fifo.clone();
            move |errno: Errno| Error::File { operation, path, source: errno.into() }
        };
        let path = c_path(&fifo)?;
        match mount::open(&path, libc::O_WRONLY | libc::O_NONBLOCK) {
            Ok(end) => {
                nix::unistd::write(&end, &[0]).map_err(failed("write"))?;
            }
            // No reader: the program runs already, an earlier start was killed before it could
            // remove the FIFO; or the init has just died.
            Err(Errno::ENXIO) => {
                remove(&fifo)?;
                return match self.status() {
                    Status::Running => Ok(()),
                    status => Err(wrong(status)),
                };
            }
            Err(errno) => return Err(failed("open")(errno)),
        }
        remove(&fifo)?;
        if !hooks.poststart.is_empty() {
            let state = self.document_bytes(Status::Running);
            if let Err(error) = hooks::run(&hooks.poststart, &state, None) {
                log::warn!("container {}: poststart: {error}", self.record.id);
            }
        }
        Ok(())
    }

    /// Sends a signal to the init process, or with `all` to every process of the container.
    ///
    /// # Errors
    /// If the container has ended (without `all`), or the signal is refused.
    pub fn kill(&self, signal: i32, all: bool) -> Result<(), Error> {
        let id = || self.record.id.clone();
        let _lock = self.lock_only()?;
        if all {
            let cgroup = self.cgroup()?;
            return cgroup
                .kill_all(signal)
                .map_err(|source| Error::Cgroup { id: id(), source: Box::new(source) });
        }
        let stopped =
            || Error::WrongStatus { operation: "kill", id: id(), status: Status::Stopped };
        let init = self.init_pidfd().ok_or_else(stopped)?;
        match process::pidfd_send_signal(init.as_fd(), signal) {
            Err(Errno::ESRCH) => Err(stopped()),
            other => other.map_err(|source| Error::Signal { id: id(), signal, source }),
        }
    }

    /// Removes what the container has on the host; with `force` it is killed first.
    ///
    /// # Errors
    /// If it has not ended (without `force`), does not end, or something cannot be removed.
    pub fn delete(mut self, force: bool) -> Result<(), Error> {
        let _lock = self.lock()?;
        let id = || self.record.id.clone();
        // Under the lock nobody is creating it: that create was killed, and its child died with it.
        let unfinished = self.record.status == Status::Creating;
        let status = if unfinished { Status::Stopped } else { self.status() };
        if status != Status::Stopped {
            if !force {
                return Err(Error::WrongStatus { operation: "delete", id: id(), status });
            }
            if let Some(init) = self.init_pidfd() {
                match process::pidfd_send_signal(init.as_fd(), libc::SIGKILL) {
                    Ok(()) | Err(Errno::ESRCH) => {}
                    Err(source) => {
                        return Err(Error::Signal { id: id(), signal: libc::SIGKILL, source });
                    }
                }
                self.wait(&init)?;
            }
        }
        if let Some(record) = &self.record.cgroup {
            let failed = |source| Error::Cgroup { id: id(), source: Box::new(source) };
            if !Cgroup::remove_empty(record).map_err(failed)? {
                let cgroup = Cgroup::open(record).map_err(failed)?;
                // Without a pid namespace of its own the init's death leaves the others alive.
                cgroup.kill_all(libc::SIGKILL).map_err(failed)?;
                cgroup.destroy().map_err(failed)?;
            }
        }
        if !self.record.hooks.poststop.is_empty() {
            let state = self.document_bytes(Status::Stopped);
            for hook in &self.record.hooks.poststop {
                // Every one has its turn, and none can stop the removal.
                if let Err(error) = hooks::run(std::slice::from_ref(hook), &state, None) {
                    log::warn!("container {}: poststop: {error}", self.record.id);
                }
            }
        }
        fs::remove_dir_all(&self.directory).map_err(|source| Error::File {
            operation: "remove",
            path: self.directory.clone(),
            source,
        })
    }

    fn wait(&self, init: &OwnedFd) -> Result<(), Error> {
        let timeout = PollTimeout::try_from(DEADLINE).unwrap_or(PollTimeout::MAX);
        loop {
            match poll(&mut [PollFd::new(init.as_fd(), PollFlags::POLLIN)], timeout) {
                Ok(0) => {
                    let id = self.record.id.clone();
                    return Err(Error::StillAlive { id, seconds: DEADLINE.as_secs() });
                }
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(source) => return Err(Error::Wait { id: self.record.id.clone(), source }),
            }
        }
    }

    /// Runs a further process in the container.
    ///
    /// # Errors
    /// If the container has ended, the process is refused, or it cannot be executed.
    pub fn exec(&self, process: &spec::Process, stdio: Stdio) -> Result<Created, Error> {
        let plan = spec::process("process", process).map_err(Error::Process)?;
        let id = || self.record.id.clone();
        let stopped =
            || Error::WrongStatus { operation: "exec in", id: id(), status: Status::Stopped };
        let init = self.init_pidfd().ok_or_else(stopped)?;
        let init_pid = self.record.init.map_or(0, |init| init.pid);
        let failed = |source| Error::Prepare { id: id(), source: Box::new(source) };
        let root_path = PathBuf::from(format!("/proc/{init_pid}/root"));
        let root = mount::open(&c_path(&root_path)?, libc::O_PATH | libc::O_DIRECTORY)
            .map_err(|source| failed(prepare::Error::Root { path: root_path, source }))?;
        // The path went by number; it was the container's if its init lives still.
        self.live_init().ok_or_else(stopped)?;
        let user_namespace = self.record.namespaces & Kind::User.flag() != 0;
        let around = prepare::Surroundings {
            root: root.as_fd(),
            seccomp: self.record.seccomp.as_ref(),
            personality: self.record.personality,
            user_namespace,
            new_keyring: true,
            preserve_fds: 0,
        };
        let program = prepare::program(&plan, stdio, &around).map_err(failed)?;
        let launch_failed = |source| Error::Launch { id: id(), source: Box::new(source) };
        let (ours, theirs) = launch::conversation().map_err(launch_failed)?;
        let kinds = i32::try_from(self.record.namespaces).unwrap_or(0);
        let join = if kinds == 0 { Vec::new() } else { vec![(init, kinds)] };
        let prepared = prepare::Prepared {
            socket: theirs,
            start: None,
            groups: Vec::new(),
            intermediate: !join.is_empty(),
            clone_flags: 0,
            join,
            user_namespace,
            setup: None,
            program,
        };
        let cgroup = self.cgroup()?;
        let attendance =
            Attendance { cgroup: &cgroup, plan: None, oom_score_adj: plan.oom_score_adj };
        launch::launch(prepared, ours, &attendance, &mut |_, _| Ok(()))
            .and_then(launch::Launched::execute)
            .map(|(pid, pidfd, terminal)| Created { pid, pidfd, terminal })
            .map_err(launch_failed)
    }

    /// The container's cgroup.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn cgroup(&self) -> Result<Cgroup, Error> {
        let record = self
            .record
            .cgroup
            .as_ref()
            .ok_or_else(|| Error::NoCgroup { id: self.record.id.clone() })?;
        Cgroup::open(record).map_err(|source| Error::Cgroup {
            id: self.record.id.clone(),
            source: Box::new(source),
        })
    }

    /// Locks the container and reads its record again: another command may have changed it.
    fn lock(&mut self) -> Result<Lock, Error> {
        let lock = self.lock_only()?;
        self.record = read(&self.directory, &self.record.id)?;
        Ok(lock)
    }

    fn lock_only(&self) -> Result<Lock, Error> {
        lock(&self.directory, &self.record.id)
    }

    fn document_bytes(&self, status: Status) -> Vec<u8> {
        let pid =
            if status == Status::Stopped { 0 } else { self.record.init.map_or(0, |init| init.pid) };
        // Strings and numbers only: there is nothing JSON could refuse.
        serde_json::to_vec(&document(&self.record, status, pid)).unwrap_or_default()
    }
}

fn document(record: &Record, status: Status, pid: i32) -> State {
    State {
        oci_version: record.oci_version.clone(),
        id: record.id.clone(),
        pid,
        status,
        bundle: record.bundle.clone(),
        rootfs: record.rootfs.clone(),
        created: record.created.clone(),
        annotations: record.annotations.clone(),
    }
}

/// A held lock. Released explicitly: a clone of this process has the same lock, and closing our
/// descriptor would leave it there.
#[derive(Debug)]
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        if let Err(error) = self.0.unlock() {
            log::warn!("unlock a container: {error}");
        }
    }
}

/// Waits for the lock of a container's directory.
fn lock(directory: &Path, id: &str) -> Result<Lock, Error> {
    let failed = |operation| {
        let path = directory.to_owned();
        move |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => Error::NotFound { id: id.to_owned() },
            _ => Error::File { operation, path, source },
        }
    };
    let file = File::open(directory).map_err(failed("open"))?;
    file.lock().map_err(failed("lock"))?;
    Ok(Lock(file))
}

/// Reads a record; a directory without one is what a create left that was killed at its very
/// beginning.
fn read(directory: &Path, id: &str) -> Result<Record, Error> {
    let failed =
        |source| Error::File { operation: "read the state in", path: directory.to_owned(), source };
    if let Some(record) = Record::load(directory).map_err(failed)? {
        return Ok(record);
    }
    if !directory.is_dir() {
        return Err(Error::NotFound { id: id.to_owned() });
    }
    Ok(Record {
        oci_version: spec::VERSION.to_owned(),
        id: id.to_owned(),
        status: Status::Creating,
        bundle: PathBuf::new(),
        rootfs: PathBuf::new(),
        created: String::new(),
        annotations: Default::default(),
        boot_id: String::new(),
        init: None,
        cgroup: None,
        namespaces: 0,
        hooks: spec::Hooks::default(),
        seccomp: None,
        personality: None,
    })
}

/// Makes the FIFO and opens both ends: with a writer of its own the child's read never sees an end
/// of file, so a `start` that is killed between open and write does no harm.
fn make_fifo(directory: &Path) -> Result<OwnedFd, Error> {
    let path = directory.join(FIFO);
    let failed = |operation| {
        let path = path.clone();
        move |errno: Errno| Error::File { operation, path, source: errno.into() }
    };
    nix::unistd::mkfifo(&path, Mode::from_bits_truncate(0o600)).map_err(failed("create"))?;
    mount::open(&c_path(&path)?, libc::O_RDWR).map_err(failed("open"))
}

fn remove(path: &Path) -> Result<(), Error> {
    fs::remove_file(path).map_err(|source| Error::File {
        operation: "remove",
        path: path.to_owned(),
        source,
    })
}

fn c_path(path: &Path) -> Result<CString, Error> {
    CString::new(path.as_os_str().as_bytes()).map_err(|error| Error::File {
        operation: "name",
        path: path.to_owned(),
        source: error.into(),
    })
}
