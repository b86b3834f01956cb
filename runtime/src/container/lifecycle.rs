//! What may be done to a container, and in which status.

use std::ffi::CString;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::SystemTime;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{
    Bundle, Create, Created, Error, Inherited, State, Status,
    id::Id,
    inside,
    service::Listener,
    state::{self, ProcessRecord, Record},
};
use crate::{
    cgroup::{self, Cgroup},
    failpoint,
    launch::{self, Attendance, prepare},
    ns::Kind,
    plan::Plan,
    process::hooks::{self, Place},
    rdt, rootless, spec,
    sys::{Errno, Mode, mount, process},
};

impl Status {
    /// As the state document has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// The FIFO whose reader is an init that waits for `start`.
const FIFO: &str = "exec.fifo";

/// A container that exists.
#[derive(Debug)]
pub struct Container {
    pub(super) directory: PathBuf,
    pub(super) record: Record,
    /// What this process knows by having created it.
    made: Option<Made>,
}

/// Spares whoever creates a container and goes on with it looking up what it is.
#[derive(Debug)]
struct Made {
    init: OwnedFd,
    /// The file that has the record: whoever changes that puts another in its place.
    file: File,
    /// What is locked.
    directory: Rc<File>,
    /// The lock, from the creation on until whatever is done next.
    held: Option<Lock>,
}

/// Undoes a creation that fails, unless told otherwise.
struct Undo<'a> {
    directory: &'a Path,
    cgroup: Option<Cgroup>,
    rdt: Vec<PathBuf>,
    armed: bool,
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        if let Some(cgroup) = &self.cgroup
            && let Err(error) = cgroup.kill_and_destroy()
        {
            log::warn!("after a failed creation: {error}");
        }
        if let Err(error) = rdt::remove(&self.rdt) {
            log::warn!("after a failed creation: {error}");
        }
        if let Err(error) = fs::remove_dir_all(self.directory) {
            log::warn!("after a failed creation: remove {}: {error}", self.directory.display());
        }
    }
}

impl Container {
    /// Creates a container up to, not including, the user's program. It stays locked until it is
    /// started, deleted or dropped.
    ///
    /// # Errors
    /// If the configuration is refused or anything on the way fails; nothing is left then.
    pub fn create(bundle: Bundle, create: Create<'_>) -> Result<(Self, Created), Error> {
        let id = Id::parse(create.id)?;
        let file = |operation, path: &Path| {
            let path = path.to_owned();
            move |source| Error::File { operation, path, source }
        };
        let directory = create.root.join(id.as_str());
        let place = bundle.path.clone();
        let plan = bundle.plan(create.service, &directory)?;
        if rootless::is_ordinary_user() {
            rootless::check(&plan)?;
        }

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
        failpoint::hit("create-directory");
        let lock = lock(&directory, create.id).inspect_err(|error| {
            // Whoever deleted it has left nothing; otherwise it is ours, and empty.
            if !matches!(error, Error::NotFound { .. }) {
                let _ = fs::remove_dir(&directory);
            }
        })?;
        // Deleted before we had the lock, made again by another create, and taken by that one: its
        // container, and not ours to undo.
        let state_path = directory.join(state::FILE);
        if state_path.exists() {
            return Err(Error::Exists { id: create.id.to_owned() });
        }
        // After the lock, so that it acts before the lock is given back: then the name is another's.
        let mut undo = Undo { directory: &directory, cgroup: None, rdt: Vec::new(), armed: true };
        failpoint::hit("create-locked");
        create.service.prepare(&directory).map_err(file("prepare", &directory))?;
        let failed = |source| Error::Cgroup { id: create.id.to_owned(), source: Box::new(source) };
        let groups = plan_cgroup(&create, &plan, create.rootless.is_certain()).map_err(failed)?;
        let rdt = match &plan.intel_rdt {
            None => None,
            Some(clause) => {
                let groups = rdt::Groups::plan(Path::new(rdt::ROOT), clause, create.id)?;
                Some((groups, clause))
            }
        };
        let mut record = Record {
            oci_version: plan.oci_version.clone(),
            id: create.id.to_owned(),
            status: Status::Creating,
            rootfs: place.join(&plan.root.path),
            bundle: place,
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
            resources: None,
            no_new_privileges: plan.process.no_new_privileges,
            rdt: rdt.as_ref().map(|(groups, _)| groups.to_remove()).unwrap_or_default(),
            memory_policy: plan.memory_policy.clone(),
            inherited: Inherited::of(&plan, create.no_new_keyring),
        };
        record.store(&directory).map_err(file("write", &state_path))?;
        failpoint::hit("create-planned");
        let made = match Cgroup::create_planned(groups, &plan.resources) {
            Err(error) if error.is_permission() && create.rootless.applies() => {
                let groups = plan_cgroup(&create, &plan, true).map_err(failed)?;
                record.cgroup = Some(groups.clone());
                record.store(&directory).map_err(file("write", &state_path))?;
                Cgroup::create_planned(groups, &plan.resources)
            }
            other => other,
        };
        let cgroup = undo.cgroup.insert(made.map_err(failed)?);
        failpoint::hit("create-cgroup");
        if let Some(restore) = create.restore {
            let admit = |pid| {
                cgroup.add_process(pid).map_err(failed)?;
                let Some((groups, clause)) = &rdt else { return Ok(()) };
                Ok(groups.enter(clause, pid)?)
            };
            undo.rdt.clone_from(&record.rdt);
            let revived = restore.revive(&plan, &mut record, &directory, &admit);
            let created = revived.map_err(|source| Error::Restore {
                id: create.id.to_owned(),
                source: Box::new(source),
            })?;
            undo.armed = false;
            return Ok((Self { directory: directory.clone(), record, made: None }, created));
        }
        let launched = Self::launch(create, &plan, &record, cgroup, &directory)
            .map_err(|error| inside::if_out_of_memory(cgroup, error))?;
        cgroup.settled();
        failpoint::hit("create-launched");
        if let Some((groups, clause)) = &rdt {
            undo.rdt.clone_from(&record.rdt);
            groups.enter(clause, launched.pid)?;
        }
        record.status = Status::Created;
        let (start_time, _) =
            state::start_time(launched.pid).ok_or(Error::Gone { pid: launched.pid })?;
        record.init = Some(ProcessRecord { pid: launched.pid, start_time });
        let stored = record.put(&directory).map_err(file("write", &state_path))?;
        failpoint::hit("create-recorded");
        let (pid, [pidfd, init], terminal) = launched
            .confirm()
            .map_err(|source| Error::Launch { id: record.id.clone(), source: Box::new(source) })?;
        failpoint::hit("create-confirmed");
        undo.armed = false;
        let made =
            Some(Made { init, file: stored, directory: Rc::clone(&lock.0), held: Some(lock) });
        Ok((Self { directory: directory.clone(), record, made }, Created { pid, pidfd, terminal }))
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
        failpoint::hit("create-fifo");
        let groups = cgroup.record();
        let place = prepare::Place {
            bundle: &record.bundle,
            groups: &groups,
            no_pivot: create.no_pivot,
            by_child: rootless::is_ordinary_user(),
        };
        let setup = prepare::setup(plan, &place).map_err(failed)?;
        let (join, intermediate) = prepare::joined(plan).map_err(failed)?;
        let user_namespace = record.namespaces & Kind::User.flag() != 0;
        let opened;
        let root = match setup.tree.opened() {
            Some(tree) => tree,
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
        let mut program = prepare::program(&plan.process, create.stdio, &around).map_err(failed)?;
        program.handover = program.has_listener().then(|| inside::handover(record));
        program.memory_policy.clone_from(&plan.memory_policy);
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
            ordinary: prepare::Ordinary::new(Some(plan), plan.process.oom_score_adj),
            setup: Some(setup),
            root: None,
            program,
        };
        let attendance = Attendance {
            cgroup,
            plan: Some(plan),
            oom_score_adj: plan.process.oom_score_adj,
            init: None,
        };
        let mut run_hooks = |pid: i32, pidfd: &OwnedFd| {
            let state =
                serde_json::to_vec(&document(record, Status::Creating, pid)).unwrap_or_default();
            failpoint::hit("create-hooks");
            let place = Place::Bundle(&record.bundle);
            hooks::run(&plan.hooks.prestart, &state, place)?;
            hooks::run(&plan.hooks.create_runtime, &state, place)?;
            inside::create_hooks(record, cgroup, pidfd, pid)
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
        Ok(Self { directory, record, made: None })
    }

    /// Status at this moment.
    pub(super) fn status(&self) -> Status {
        if self.record.status == Status::Creating {
            // Whoever creates it holds the lock; if nobody does, that process was killed.
            let busy = File::open(&self.directory)
                // Shared, so that those who ask at the same time do not take each other for it.
                .is_ok_and(|file| {
                    matches!(file.try_lock_shared(), Err(fs::TryLockError::WouldBlock))
                });
            return if busy { Status::Creating } else { Status::Stopped };
        }
        if self.live_init().is_none() {
            return Status::Stopped;
        }
        if self.is_paused() {
            return Status::Paused;
        }
        if self.directory.join(FIFO).exists() { Status::Created } else { Status::Running }
    }

    /// The init process while it lives.
    pub(super) fn live_init(&self) -> Option<i32> {
        let init = self.record.init?;
        if let Some(made) = &self.made {
            let ended =
                poll(&mut [PollFd::new(made.init.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO);
            return (ended == Ok(0)).then_some(init.pid);
        }
        let (time, alive) = state::start_time(init.pid)?;
        let same = time == init.start_time && state::boot_id().ok()? == self.record.boot_id;
        (same && alive).then_some(init.pid)
    }

    /// A descriptor of the init process: no other process, whatever happens to its number.
    pub(crate) fn init_pidfd(&self) -> Option<OwnedFd> {
        let pid = self.record.init?.pid;
        let pidfd = match &self.made {
            Some(made) => made.init.try_clone().ok()?,
            None => process::pidfd_open(pid).ok()?,
        };
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
            Status::Created | Status::Running | Status::Paused => {
                self.record.init.map_or(0, |init| init.pid)
            }
        };
        Ok(document(&self.record, status, pid))
    }

    /// Whether `start` clones a process that enters the container.
    pub(crate) fn has_start_hooks(&self) -> bool {
        !self.record.hooks.start_container.is_empty()
    }

    /// Runs the user's program.
    ///
    /// # Errors
    /// If the container is not in the status *created*, or a hook fails.
    pub fn start(&mut self) -> Result<(), Error> {
        // Nobody can have done anything to what was locked all the time.
        let untouched = self.made.as_ref().is_some_and(|made| made.held.is_some());
        let _lock = self.lock()?;
        let wrong =
            |status| Error::WrongStatus { operation: "start", id: self.record.id.clone(), status };
        let status = if untouched { Status::Created } else { self.status() };
        if status != Status::Created {
            return Err(wrong(status));
        }
        failpoint::hit("start-locked");
        let fifo = self.directory.join(FIFO);
        let hooks = &self.record.hooks;
        if !hooks.start_container.is_empty() {
            let init = self.init_pidfd().ok_or_else(|| wrong(Status::Stopped))?;
            if let Err(error) = inside::start_hooks(&self.record, &self.cgroup()?, &init) {
                self.end(&init);
                return Err(error);
            }
        }
        let failed = |operation| {
            let path = fifo.clone();
            move |errno: Errno| Error::File { operation, path, source: errno.into() }
        };
        let path = c_path(&fifo)?;
        match mount::open(&path, libc::O_WRONLY | libc::O_NONBLOCK) {
            Ok(end) => {
                nix::unistd::write(&end, &[0]).map_err(failed("write"))?;
                failpoint::hit("start-written");
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
        failpoint::hit("start-removed");
        if !hooks.poststart.is_empty() {
            let state = self.document_bytes(Status::Running);
            hooks::run(&hooks.poststart, &state, Place::Bundle(&self.record.bundle)).map_err(
                |source| {
                    if let Some(init) = self.init_pidfd() {
                        self.end(&init);
                    }
                    Error::Hooks { id: self.record.id.clone(), source: Box::new(source) }
                },
            )?;
        }
        Ok(())
    }

    /// Kills what is not to run without its hooks.
    fn end(&self, init: &OwnedFd) {
        match process::pidfd_send_signal(init.as_fd(), libc::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(errno) => log::warn!("kill the init of container {}: {errno}", self.record.id),
        }
    }

    /// Where the container's process says that it is ready, if somebody wants to know.
    ///
    /// # Errors
    /// If the socket cannot be made.
    pub fn listener(&self) -> Result<Option<Listener>, Error> {
        Listener::open(&self.directory).map_err(|source| Error::File {
            operation: "listen for readiness in",
            path: self.directory.clone(),
            source,
        })
    }

    /// Waits until the started process says that it is ready, or has ended, and passes that on.
    pub fn until_ready(&self, listener: &Listener) {
        let (Some(init), Some(record)) = (self.init_pidfd(), self.record.init) else { return };
        if let Err(error) = listener.wait(init.as_fd(), record.pid.unsigned_abs()) {
            log::warn!("tell that container {} is ready: {error}", self.record.id);
        }
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
            if cgroup.is_refused() {
                return self.kill_namespace(signal);
            }
            return cgroup
                .kill_all(signal)
                .map_err(|source| Error::Cgroup { id: id(), source: Box::new(source) });
        }
        let stopped =
            || Error::WrongStatus { operation: "kill", id: id(), status: Status::Stopped };
        let init = self.init_pidfd().ok_or_else(stopped)?;
        match process::pidfd_send_signal(init.as_fd(), signal) {
            Err(Errno::ESRCH) => Err(stopped()),
            Ok(()) if signal == libc::SIGKILL => self.let_die(),
            other => other.map_err(|source| Error::Signal { id: id(), signal, source }),
        }
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
    pub(super) fn lock(&mut self) -> Result<Lock, Error> {
        if let Some(made) = &mut self.made {
            if let Some(held) = made.held.take() {
                return Ok(held);
            }
            made.directory.lock().map_err(|source| Error::File {
                operation: "lock",
                path: self.directory.clone(),
                source,
            })?;
            let lock = Lock(Rc::clone(&made.directory));
            // A record that is still there is in the directory that we made, and ours.
            if made.file.metadata().is_ok_and(|file| file.nlink() > 0) {
                return Ok(lock);
            }
        }
        let lock = lock(&self.directory, &self.record.id)?;
        let record = read(&self.directory, &self.record.id)?;
        // Deleted, and made again by somebody else: that one is not meant.
        if self.record.init.is_some() && record.init != self.record.init {
            return Err(Error::NotFound { id: record.id });
        }
        self.record = record;
        Ok(lock)
    }

    /// `None` if it is locked already.
    fn lock_only(&self) -> Result<Option<Lock>, Error> {
        if self.made.as_ref().is_some_and(|made| made.held.is_some()) {
            return Ok(None);
        }
        lock(&self.directory, &self.record.id).map(Some)
    }

    pub(super) fn document_bytes(&self, status: Status) -> Vec<u8> {
        let pid =
            if status == Status::Stopped { 0 } else { self.record.init.map_or(0, |init| init.pid) };
        // Strings and numbers only: there is nothing JSON could refuse.
        serde_json::to_vec(&document(&self.record, status, pid)).unwrap_or_default()
    }
}

pub(super) fn document(record: &Record, status: Status, pid: i32) -> State {
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

/// Where the container's cgroup is to be; `permitted` if it may be without.
fn plan_cgroup(
    create: &Create<'_>,
    plan: &Plan,
    permitted: bool,
) -> Result<cgroup::Record, cgroup::Error> {
    let path = plan.cgroups_path.as_deref();
    if create.systemd_cgroup {
        let record = Cgroup::plan_unit(path, create.id, &plan.annotations)?;
        return Ok(cgroup::Record { permitted: permitted.then(Default::default), ..record });
    }
    if permitted {
        Cgroup::plan_permitted(path, create.id)
    } else {
        Cgroup::plan(path.unwrap_or(create.id))
    }
}

/// A held lock. Released explicitly: a clone of this process has the same lock, and closing our
/// descriptor would leave it there.
#[derive(Debug)]
pub(super) struct Lock(Rc<File>);

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
    loop {
        let file = File::open(directory).map_err(failed("open"))?;
        file.lock().map_err(failed("lock"))?;
        // While we waited the container may have been deleted and another of its name created, whose
        // lock this is not.
        let held = file.metadata().map_err(failed("examine"))?;
        // The link from above and the one from within are gone from what is removed. A file system that
        // does not count them says 1.
        if held.nlink() >= 2 {
            return Ok(Lock(Rc::new(file)));
        }
        let there = fs::metadata(directory).map_err(failed("examine"))?;
        if (held.dev(), held.ino()) == (there.dev(), there.ino()) {
            return Ok(Lock(Rc::new(file)));
        }
    }
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
        resources: None,
        no_new_privileges: false,
        rdt: Vec::new(),
        memory_policy: None,
        inherited: Inherited::default(),
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

pub(super) fn c_path(path: &Path) -> Result<CString, Error> {
    CString::new(path.as_os_str().as_bytes()).map_err(|error| Error::File {
        operation: "name",
        path: path.to_owned(),
        source: error.into(),
    })
}
