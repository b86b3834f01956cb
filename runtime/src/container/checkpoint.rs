//! Saving a container's processes in files, and bringing them back.
//!
//! CRIU does both; here is what it has to be told, which is what runc tells it:
//!
//! - what it cannot save because it is the host's (sources of bind mounts, control groups, files that
//!   hide others, joined namespaces, standard streams) is *external*: named in the images, and given
//!   again when they are restored;
//! - it restores from within the container's groups, so that all processes begin there;
//! - `descriptors.json` beside the images says what the standard streams were.
//!
//! The restored processes' streams are the caller's. Of the hooks `prestart` and `createRuntime` run
//! again, when the namespaces are there. A restore that is killed leaves what a killed create leaves.

use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{
    Container, Created, Error as ContainerError, Status,
    bundle::Bundle,
    criu::{Criu, Error, Kind as Request, Message, Options, field, request, require},
    lifecycle::document,
    service::Service,
    state::{self, ProcessRecord, Record},
};
use crate::{
    cgroup, failpoint,
    launch::prepare,
    mount::{
        resolve::{self, Want},
        steps::group_mounts,
    },
    net,
    ns::{Kind, TABLE},
    plan::{MountKind, Plan},
    process::hooks,
    sys::{mount, process},
};

/// How to save a container.
#[derive(Debug)]
pub struct Checkpoint<'a> {
    pub options: Options<'a>,
    /// An earlier checkpoint, relative to the directory of the images.
    pub parent: Option<&'a Path>,
    /// Let the processes run on.
    pub leave_running: bool,
    pub tcp_skip_in_flight: bool,
    pub link_remap: bool,
    /// Save the memory only, and let the processes run on.
    pub pre_dump: bool,
    /// Address and port of who takes the memory.
    pub page_server: Option<(&'a str, u16)>,
    /// Is told when pages can be asked for.
    pub status: Option<File>,
}

/// How to bring a container back.
#[derive(Debug)]
pub struct Restore<'a> {
    pub options: Options<'a>,
    pub lsm_profile: Option<&'a str>,
    pub lsm_mount_context: Option<&'a str>,
}

/// Says what the standard streams were.
const DESCRIPTORS: &str = "descriptors.json";
/// Names another file with options for CRIU.
const CONFIG_ANNOTATION: &str = "org.criu.config";

impl Container {
    /// Saves the processes of a running or paused container, and ends them unless they are to run on.
    ///
    /// # Errors
    /// If it is neither, or CRIU is not there or fails; the processes run on then.
    pub fn checkpoint(&mut self, mut checkpoint: Checkpoint<'_>) -> Result<(), ContainerError> {
        let _lock = self.lock()?;
        let id = || self.record.id.clone();
        match self.status() {
            Status::Running | Status::Paused => {}
            status => return Err(ContainerError::NotRunning { id: id(), status }),
        }
        let pid = self.record.init.map_or(0, |init| init.pid);
        let plan = Bundle::open(&self.record.bundle)?.plan(Service::default(), &self.directory)?;
        let cgroup = self.cgroup()?;
        let freezer = cgroup.freezer_path();
        checkpoint
            .dump(&self.record, &plan, pid, freezer)
            .map_err(|source| ContainerError::Checkpoint { id: id(), source: Box::new(source) })
    }
}

impl Checkpoint<'_> {
    fn dump(
        &mut self,
        record: &Record,
        plan: &Plan,
        pid: i32,
        freezer: Option<&Path>,
    ) -> Result<(), Error> {
        let kind = if self.pre_dump { Request::PreDump } else { Request::Dump };
        let config = record.annotations.get(CONFIG_ANNOTATION);
        let (mut request, _open) = request(kind, &self.options, config.map(String::as_str))?;
        request.number(field::PID, pid.unsigned_abs());
        request.text(field::ROOT, record.rootfs.as_os_str().as_bytes());
        for (number, value) in [
            (field::LEAVE_RUNNING, self.leave_running),
            (field::TCP_SKIP_IN_FLIGHT, self.tcp_skip_in_flight),
            (field::LINK_REMAP, self.link_remap),
        ] {
            request.number(number, value);
        }
        if let Some((address, port)) = self.page_server {
            let mut server = Message::default();
            server.text(1, address);
            server.number(2, port);
            request.message(field::PAGE_SERVER, &server);
        }
        if let Some(parent) = self.parent {
            request.text(field::PARENT, parent.as_os_str().as_bytes());
            request.number(field::TRACK_MEMORY, true);
        }
        if let Some(freezer) = freezer {
            request.text(field::FREEZE_CGROUP, freezer.as_os_str().as_bytes());
        }
        for (kind, path) in &plan.namespaces.joined {
            if let Some(key) = external_namespace(*kind) {
                let inode = fs::metadata(path).map_err(file("examine", path))?.ino();
                let name = TABLE.iter().find(|row| row.1 == *kind).map_or("", |row| row.3);
                request.text(field::EXTERNAL, format!("{name}[{inode}]:{key}"));
            }
        }
        if !self.pre_dump {
            self.dump_external(record, plan, pid, &mut request)?;
        }
        let status = &mut self.status;
        let mut moment = |name: &str, _, _| {
            if name == "status-ready"
                && let Some(file) = status.take()
            {
                use std::io::Write as _;
                let _ = (&file)
                    .write_all(&[0])
                    .inspect_err(|error| log::warn!("write to --status-fd: {error}"));
            }
            Ok(())
        };
        Criu::start(self.options.program)?.ask(kind, &self.options, &request, &mut moment)
    }

    /// Tells what is the host's, and writes down what the standard streams are.
    fn dump_external(
        &self,
        record: &Record,
        plan: &Plan,
        pid: i32,
        request: &mut Message,
    ) -> Result<(), Error> {
        let path = PathBuf::from(format!("/proc/{pid}/root"));
        let root = File::open(&path).map_err(file("open", &path))?;
        let groups = record.cgroup.as_ref();
        for (destination, _) in external_mounts(plan, &record.bundle, groups) {
            let place = place_of(root.as_fd(), &destination)?;
            external_mount(request, &place, destination.as_os_str().as_bytes());
        }
        for masked in &plan.masked_paths {
            // What is not there is not hidden, and over a directory lies a file system of its own.
            let Ok(hidden) = resolve::existing(root.as_fd(), masked) else { continue };
            let kind = crate::sys::fstat(&hidden).map(|info| info.st_mode & libc::S_IFMT);
            if kind != Ok(libc::S_IFDIR) {
                external_mount(request, masked.to_bytes(), b"/dev/null");
            }
        }
        let streams = streams(pid)?;
        for stream in streams.iter().filter(|stream| stream.starts_with("file[")) {
            request.text(field::EXTERNAL, stream);
        }
        let path = self.options.images.join(DESCRIPTORS);
        // Strings only: there is nothing JSON could refuse.
        let text = serde_json::to_vec(&streams).unwrap_or_default();
        fs::write(&path, text).map_err(file("write", &path))
    }
}

impl Restore<'_> {
    /// Brings the processes back. `admit` puts a process into the container's groups.
    ///
    /// # Errors
    /// If CRIU is not there or fails; the caller clears the container's groups then.
    pub(super) fn revive(
        &self,
        plan: &Plan,
        record: &mut Record,
        directory: &Path,
        admit: &dyn Fn(i32) -> Result<(), ContainerError>,
    ) -> Result<Created, Error> {
        if self.lsm_profile.is_some() || self.lsm_mount_context.is_some() {
            let option = "--lsm-profile or --lsm-mount-context";
            require(self.options.program, option, "3.16", (3, 16))?;
        }
        let config = record.annotations.get(CONFIG_ANNOTATION);
        let (mut request, directories) =
            request(Request::Restore, &self.options, config.map(String::as_str))?;
        for number in [field::EVASIVE_DEVICES, field::RESTORE_SIBLING] {
            request.number(number, true);
        }
        for (number, text) in [
            (field::LSM_PROFILE, self.lsm_profile),
            (field::LSM_MOUNT_CONTEXT, self.lsm_mount_context),
        ] {
            if let Some(text) = text {
                request.text(number, text);
            }
        }
        let mut kept = Vec::new();
        join_namespaces(plan, &mut request, &mut kept)?;
        make_mount_points(plan, record)?;
        for (destination, source) in external_mounts(plan, &record.bundle, record.cgroup.as_ref()) {
            external_mount(
                &mut request,
                destination.as_os_str().as_bytes(),
                source.as_os_str().as_bytes(),
            );
        }
        if !plan.masked_paths.is_empty() {
            external_mount(&mut request, b"/dev/null", b"/dev/null");
        }
        self.inherit_streams(&mut request)?;
        let root = directory.join("criu-root");
        fs::create_dir(&root).map_err(file("create", &root))?;
        // CRIU goes to another directory.
        let root = fs::canonicalize(&root).map_err(file("find", &root))?;
        fs::metadata(&record.rootfs).map_err(file("find the root file system", &record.rootfs))?;
        request.text(field::ROOT, root.as_os_str().as_bytes());
        let bound = (c_string(&record.rootfs)?, c_string(&root)?);
        failpoint::hit("restore-root");
        let criu = Criu::start_apart(self.options.program, &kept, bound, &directories)?;
        admit(criu.pid()).map_err(|error| Error::Admit(Box::new(error)))?;
        cgroup_roots(criu.pid(), &mut request)?;
        failpoint::hit("restore-admitted");
        let mut created = None;
        let mut terminal = None;
        let mut moment = |name: &str, pid: i32, descriptor: Option<OwnedFd>| {
            match name {
                "setup-namespaces" => {
                    failpoint::hit("restore-namespaces");
                    set_namespaces_up(plan, record, pid)?;
                }
                "orphan-pts-master" => terminal = descriptor,
                "post-restore" => {
                    let failed = |source| Error::Restored { pid, source };
                    let pidfd = process::pidfd_open(pid).map_err(failed)?;
                    remember(record, directory, pid)?;
                    failpoint::hit("restore-recorded");
                    created = Some((pid, pidfd));
                }
                _ => {}
            }
            Ok(())
        };
        criu.ask(Request::Restore, &self.options, &request, &mut moment)?;
        // It was only its mount that was of use.
        fs::remove_dir(&root).map_err(file("remove", &root))?;
        let (pid, pidfd) =
            created.ok_or(Error::Restored { pid: 0, source: crate::sys::Errno::ESRCH })?;
        Ok(Created { pid, pidfd, terminal })
    }

    /// The streams that were ours before are ours again.
    fn inherit_streams(&self, request: &mut Message) -> Result<(), Error> {
        let path = self.options.images.join(DESCRIPTORS);
        let text = fs::read(&path).map_err(file("read", &path))?;
        let streams: Vec<String> = serde_json::from_slice(&text)
            .map_err(|source| Error::Descriptors { path: path.clone(), source })?;
        for (number, stream) in (0..3_u64).zip(streams) {
            if stream.starts_with("pipe:") || stream.starts_with("file[") {
                inherit(request, &stream, number);
            }
        }
        Ok(())
    }
}

fn file(operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { operation, path, source }
}

fn c_string(path: &Path) -> Result<CString, Error> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

fn path_of(text: &CString) -> PathBuf {
    Path::new(OsStr::from_bytes(text.to_bytes())).to_owned()
}

/// A mount that is the host's: on a dump its place and its name, on a restore its name and its source.
fn external_mount(request: &mut Message, key: &[u8], value: &[u8]) {
    request.text(field::EXTERNAL, [b"mnt[", key, b"]:", value].concat());
}

/// The name of an open descriptor for CRIU.
fn inherit(request: &mut Message, key: &str, number: u64) {
    let mut inherited = Message::default();
    inherited.text(1, key);
    inherited.number(2, number);
    request.message(field::INHERIT_FD, &inherited);
}

/// How an external namespace is called, of the kinds that CRIU leaves alone as a whole.
fn external_namespace(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Network => Some("extRootNetNS"),
        Kind::Pid => Some("extRootPidNS"),
        _ => None,
    }
}

/// Mounts of the host's files: destination and source.
fn external_mounts(
    plan: &Plan,
    bundle: &Path,
    groups: Option<&cgroup::Record>,
) -> Vec<(PathBuf, PathBuf)> {
    let mut mounts = Vec::new();
    for one in &plan.mounts {
        match &one.kind {
            MountKind::Bind { source, .. } => {
                mounts.push((path_of(&one.destination), bundle.join(source)));
            }
            MountKind::Cgroup => {
                if let Some(groups) = groups {
                    let trees = group_mounts(one, groups).into_iter();
                    mounts
                        .extend(trees.map(|(target, dir)| (target, dir.mount.join(&groups.path))));
                }
            }
            MountKind::FileSystem { .. } => {}
        }
    }
    // In a user namespace device nodes are the host's, bound.
    if plan.namespaces.is_new(Kind::User) || plan.namespaces.is_joined(Kind::User) {
        let standard = prepare::STANDARD.iter().map(|row| row.0.to_owned());
        let own = plan.devices.iter().map(|device| device.path.clone());
        mounts.extend(standard.chain(own).map(|path| (path_of(&path), path_of(&path))));
    }
    mounts
}

/// Where a destination is in the container, all links followed.
fn place_of(root: std::os::fd::BorrowedFd<'_>, destination: &Path) -> Result<Vec<u8>, Error> {
    let path = c_string(destination)?;
    let place = match resolve::existing(root, &path) {
        Ok(place) => place,
        // Hidden or taken away in the meantime: it then has no mount of that name either.
        Err(crate::sys::Errno::ENOENT) => return Ok(path.into_bytes()),
        Err(source) => return Err(Error::Resolve { path, source }),
    };
    let link = PathBuf::from(format!("/proc/self/fd/{}", place.as_raw_fd()));
    let place = fs::read_link(&link).map_err(file("read", &link))?;
    Ok(place.into_os_string().into_encoded_bytes())
}

/// What the standard streams of a process are, as CRIU calls what is not the container's: its own
/// files and devices need no name.
fn streams(pid: i32) -> Result<[String; 3], Error> {
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo"))
        .map_err(|source| Error::Mounts { pid, source })?;
    let own = |id: &str| mounts.lines().any(|line| line.split(' ').next() == Some(id));
    let stream = |number: u32| {
        let link = PathBuf::from(format!("/proc/{pid}/fd/{number}"));
        // It may have closed it.
        let Ok(target) = fs::read_link(&link) else { return String::new() };
        let target = target.to_string_lossy().into_owned();
        let Ok(info) = fs::metadata(&link) else { return target };
        let kind = info.mode() & libc::S_IFMT;
        let text = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).unwrap_or_default();
        let id = text.lines().find_map(|line| line.strip_prefix("mnt_id:")).unwrap_or_default();
        let null = kind == libc::S_IFCHR && info.rdev() == libc::makedev(1, 3);
        match id.trim().parse::<u32>() {
            Ok(number) if (kind == libc::S_IFREG || null) && !own(id.trim()) => {
                format!("file[{number:x}:{:x}]", info.ino())
            }
            _ => target,
        }
    };
    Ok([stream(0), stream(1), stream(2)])
}

/// Namespaces that are there already.
fn join_namespaces(
    plan: &Plan,
    request: &mut Message,
    kept: &mut Vec<OwnedFd>,
) -> Result<(), Error> {
    for (kind, path) in &plan.namespaces.joined {
        if let Some(key) = external_namespace(*kind) {
            let namespace = File::open(path).map_err(file("open the namespace", path))?;
            inherit(request, key, u64::from(namespace.as_raw_fd().unsigned_abs()));
            kept.push(namespace.into());
            continue;
        }
        if *kind == Kind::Cgroup {
            return Err(Error::Join { kind: kind.name() });
        }
        let name = TABLE.iter().find(|row| row.1 == *kind).map_or("", |row| row.3);
        let mut join = Message::default();
        join.text(1, name);
        join.text(2, path.as_os_str().as_bytes());
        request.message(field::JOIN_NAMESPACE, &join);
    }
    Ok(())
}

/// Makes the places of the mounts in the root file system, which may be a fresh one. What lies on a
/// tmpfs comes back with its contents; what lies on a bind mount is made in its source.
fn make_mount_points(plan: &Plan, record: &Record) -> Result<(), Error> {
    let below = |path: &Path, other: &Path| path != other && path.starts_with(other);
    for (index, one) in plan.mounts.iter().enumerate() {
        let destination = path_of(&one.destination);
        let mut base = record.rootfs.clone();
        let mut rest = destination.clone();
        let mut made = true;
        for earlier in plan.mounts.get(..index).unwrap_or_default() {
            let above = path_of(&earlier.destination);
            if !below(&destination, &above) {
                continue;
            }
            match &earlier.kind {
                MountKind::Bind { source, .. } => {
                    base = record.bundle.join(source);
                    rest = destination.strip_prefix(&above).unwrap_or(&destination).to_owned();
                    made = true;
                }
                MountKind::FileSystem { .. } | MountKind::Cgroup => made = false,
            }
        }
        if !made {
            continue;
        }
        let want = match &one.kind {
            MountKind::Bind { source, .. } if !record.bundle.join(source).is_dir() => Want::File,
            _ => Want::Directory,
        };
        let path = c_string(&rest)?;
        let base_path = c_string(&base)?;
        let root = mount::open(&base_path, libc::O_PATH | libc::O_DIRECTORY)
            .map_err(|source| Error::Resolve { path: base_path, source })?;
        resolve::ensure(root.as_fd(), &path, want)
            .map_err(|source| Error::MountPoint { path, source })?;
    }
    Ok(())
}

/// Has the saved groups restored as those that a process is in.
fn cgroup_roots(pid: i32, request: &mut Message) -> Result<(), Error> {
    let path = PathBuf::from(format!("/proc/{pid}/cgroup"));
    let text = fs::read_to_string(&path).map_err(file("read", &path))?;
    for line in text.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        for controller in controllers.split(',') {
            let mut root = Message::default();
            root.text(1, controller);
            root.text(2, path);
            request.message(field::CGROUP_ROOT, &root);
        }
    }
    Ok(())
}

/// What a new container's namespaces get, for CRIU restores none of it.
fn set_namespaces_up(plan: &Plan, record: &Record, pid: i32) -> Result<(), Error> {
    if plan.namespaces.is_new(Kind::Network) {
        let path = PathBuf::from(format!("/proc/{pid}/ns/net"));
        let network = File::open(&path).map_err(file("open", &path))?;
        net::within(network.as_fd(), net::loopback_up).map_err(Error::Loopback)?;
        if !plan.net_devices.is_empty() {
            net::devices::move_in(&plan.net_devices, network.as_fd())?;
        }
    }
    // Strings and numbers only: there is nothing JSON could refuse.
    let state = serde_json::to_vec(&document(record, Status::Creating, pid)).unwrap_or_default();
    let place = hooks::Place::Bundle(&record.bundle);
    hooks::run(&plan.hooks.prestart, &state, place)
        .and_then(|()| hooks::run(&plan.hooks.create_runtime, &state, place))
        .map_err(Error::Hooks)
}

/// Writes down the restored init, before it runs.
fn remember(record: &mut Record, directory: &Path, pid: i32) -> Result<(), Error> {
    let gone = Error::Restored { pid, source: crate::sys::Errno::ESRCH };
    let (start_time, _) = state::start_time(pid).ok_or(gone)?;
    record.status = Status::Created;
    record.init = Some(ProcessRecord { pid, start_time });
    record.created = state::timestamp(SystemTime::now());
    // Its clocks go on where they stood, by a namespace that the configuration does not have.
    let time = |of: &str| fs::metadata(format!("/proc/{of}/ns/time")).map(|info| info.ino()).ok();
    if time(&pid.to_string()) != time("self") {
        record.namespaces |= Kind::Time.flag();
    }
    let path = directory.join("state.json");
    record.store(directory).map_err(file("write", &path))
}
