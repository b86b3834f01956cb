//! Talking to CRIU, the program that saves and restores processes.
//!
//! It runs as `criu swrk`, a child that is sent one request over a socket, asks back at set moments,
//! and answers. The messages are protobuf's (CRIU's `images/rpc.proto`), of which no more is known
//! here than is used: fields that are numbers, strings, or messages of these.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use crate::{
    launch, net,
    process::hooks,
    sys::{self, Errno},
};

/// What a checkpoint and a restore have in common.
#[derive(Debug)]
pub struct Options<'a> {
    /// Name or path of the program.
    pub program: &'a Path,
    /// Directory of the images.
    pub images: &'a Path,
    /// Directory of the log, if it is another.
    pub work: Option<&'a Path>,
    pub tcp_established: bool,
    pub ext_unix_sk: bool,
    pub shell_job: bool,
    pub file_locks: bool,
    pub auto_dedup: bool,
    pub lazy_pages: bool,
    /// `criu_cg_mode`.
    pub cgroups_mode: u64,
}

/// Why a container was not saved or restored.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "{} is not there: install CRIU (the package criu), or name its program with --criu",
        program.display()
    )]
    Missing { program: PathBuf },
    #[error("run {}", program.display())]
    Run { program: PathBuf, source: io::Error },
    #[error("talk to criu")]
    Talk(#[source] Errno),
    #[error("make a socket to criu")]
    Socket(#[source] launch::Error),
    #[error("criu could not {operation} the processes{}; its log is {}", quote(errors), log.display())]
    Failed { operation: &'static str, errors: String, log: PathBuf },
    #[error("{option} needs CRIU {needed} or newer; this is {major}.{minor}")]
    Version { option: &'static str, needed: &'static str, major: u64, minor: u64 },
    #[error("{operation} {}", path.display())]
    File { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is not a list of descriptors", path.display())]
    Descriptors { path: PathBuf, source: serde_json::Error },
    #[error("linux.namespaces: CRIU cannot join a {kind} namespace")]
    Join { kind: &'static str },
    #[error("read the mounts of process {pid}")]
    Mounts { pid: i32, source: io::Error },
    #[error("find {path:?} in the container")]
    Resolve { path: CString, source: Errno },
    #[error("make the mount point {path:?} in the root file system")]
    MountPoint { path: CString, source: Errno },
    #[error("a path has a null byte")]
    Nul(#[from] std::ffi::NulError),
    #[error("put criu into the container's groups")]
    Admit(#[source] Box<super::Error>),
    #[error("run hooks")]
    Hooks(#[source] hooks::Error),
    #[error("set the loopback interface of the container up")]
    Loopback(#[source] Errno),
    #[error(transparent)]
    NetDevices(#[from] net::devices::Error),
    #[error("refer to the restored process {pid}")]
    Restored { pid: i32, source: Errno },
}

/// Of `criu_req_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Dump = 1,
    Restore = 2,
    PreDump = 4,
    Notify = 6,
    Version = 10,
}

impl Kind {
    /// What is done, and the name of the log.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Restore => ("restore", "restore.log"),
            Self::PreDump => ("pre-dump", "dump.log"),
            Self::Dump | Self::Notify | Self::Version => ("dump", "dump.log"),
        }
    }
}

/// Numbers of the fields of `criu_opts`.
pub(super) mod field {
    pub(in super::super) const PID: u64 = 2;
    pub(in super::super) const LEAVE_RUNNING: u64 = 3;
    pub(in super::super) const EVASIVE_DEVICES: u64 = 6;
    pub(in super::super) const PAGE_SERVER: u64 = 11;
    pub(in super::super) const ROOT: u64 = 13;
    pub(in super::super) const PARENT: u64 = 14;
    pub(in super::super) const TRACK_MEMORY: u64 = 15;
    pub(in super::super) const LINK_REMAP: u64 = 18;
    pub(in super::super) const CGROUP_ROOT: u64 = 25;
    pub(in super::super) const RESTORE_SIBLING: u64 = 26;
    pub(in super::super) const INHERIT_FD: u64 = 27;
    pub(in super::super) const EXTERNAL: u64 = 37;
    pub(in super::super) const EMPTY_NAMESPACES: u64 = 38;
    pub(in super::super) const JOIN_NAMESPACE: u64 = 39;
    pub(in super::super) const FREEZE_CGROUP: u64 = 44;
    pub(in super::super) const TCP_SKIP_IN_FLIGHT: u64 = 46;
    pub(in super::super) const CONFIG_FILE: u64 = 51;
    pub(in super::super) const LSM_PROFILE: u64 = 53;
    pub(in super::super) const LSM_MOUNT_CONTEXT: u64 = 63;
}

/// A message that is written.
#[derive(Debug, Default, Clone)]
pub(super) struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value > 0x7f {
            self.0.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.0.push(value.to_le_bytes()[0]);
    }

    /// A number, or a truth value.
    pub(super) fn number(&mut self, field: u64, value: impl Into<u64>) {
        self.varint(field << 3);
        self.varint(value.into());
    }

    /// A string.
    pub(super) fn text(&mut self, field: u64, value: impl AsRef<[u8]>) {
        let value = value.as_ref();
        self.varint(field << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
    }

    /// A message.
    pub(super) fn message(&mut self, field: u64, value: &Self) {
        self.text(field, &value.0);
    }
}

/// Fields of a message that is read, until its end or what is no field.
struct Fields<'a>(&'a [u8]);

/// A field's value.
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl Value<'_> {
    fn number(&self) -> u64 {
        if let Self::Number(number) = self { *number } else { 0 }
    }
}

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn bytes(&mut self, length: u64) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(usize::try_from(length).ok()?)?;
        self.0 = rest;
        Some(bytes)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = (u64, Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Number(self.varint()?),
            1 => Value::Bytes(self.bytes(8)?),
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.bytes(length)?)
            }
            5 => Value::Bytes(self.bytes(4)?),
            _ => return None,
        };
        Some((key >> 3, value))
    }
}

/// What CRIU says: `criu_resp`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Answer {
    kind: u64,
    success: bool,
    /// What moment it is, and the process it is about.
    moment: String,
    pid: i32,
    version: (u64, u64),
}

impl Answer {
    fn read(bytes: &[u8]) -> Self {
        let mut answer = Self::default();
        for (number, value) in Fields(bytes) {
            match (number, value) {
                (1, value) => answer.kind = value.number(),
                (2, value) => answer.success = value.number() != 0,
                (5, Value::Bytes(notify)) => {
                    for (number, value) in Fields(notify) {
                        match (number, value) {
                            (1, Value::Bytes(text)) => {
                                answer.moment = String::from_utf8_lossy(text).into_owned();
                            }
                            (2, value) => answer.pid = i32::try_from(value.number()).unwrap_or(0),
                            _ => {}
                        }
                    }
                }
                (10, Value::Bytes(version)) => {
                    for (number, value) in Fields(version) {
                        match number {
                            1 => answer.version.0 = value.number(),
                            2 => answer.version.1 = value.number(),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        answer
    }
}

/// Called at the moments at which CRIU asks back: with the moment's name, the process it is about, and
/// a descriptor that is handed over.
pub(super) type Moment<'a> = &'a mut dyn FnMut(&str, i32, Option<OwnedFd>) -> Result<(), Error>;

/// A CRIU that waits for its request.
#[derive(Debug)]
pub(super) struct Criu {
    child: Child,
    socket: OwnedFd,
}

impl Criu {
    /// Runs the program.
    pub(super) fn start(program: &Path) -> Result<Self, Error> {
        Self::run(program, &[], None)
    }

    /// Runs the program with `kept` open in it, and with mounts of its own, which go when it ends:
    /// there the first path of `root` is bound on the second, since CRIU restores into what is a mount.
    pub(super) fn start_apart(
        program: &Path,
        kept: &[OwnedFd],
        root: (CString, CString),
        directories: &Directories<'_>,
    ) -> Result<Self, Error> {
        let named = directories
            .iter()
            .map(|(path, fd)| Ok((CString::new(path.as_os_str().as_bytes())?, fd.as_raw_fd())));
        let directories = named.collect::<Result<_, Error>>()?;
        let apart = sys::process::Apart { root, directories, socket: -1 };
        let criu = Self::run(program, kept, Some(apart))?;
        let (_, socket) = sys::fd::receive(criu.socket.as_fd(), &mut [0]).map_err(Error::Talk)?;
        Ok(Self { socket: socket.ok_or(Error::Talk(Errno::EPROTO))?, ..criu })
    }

    fn run(
        program: &Path,
        kept: &[OwnedFd],
        mut apart: Option<sys::process::Apart>,
    ) -> Result<Self, Error> {
        let (socket, theirs) = launch::conversation().map_err(Error::Socket)?;
        let mut command = Command::new(program);
        command.arg("swrk").arg(theirs.as_raw_fd().to_string());
        let kept = kept.iter().chain([&theirs]).map(|fd| fd.as_raw_fd()).collect();
        if let Some(apart) = &mut apart {
            apart.socket = theirs.as_raw_fd();
        }
        sys::process::keep_open(&mut command, kept, apart);
        let child = command.spawn().map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => Error::Missing { program: program.to_owned() },
            _ => Error::Run { program: program.to_owned(), source },
        })?;
        Ok(Self { child, socket })
    }

    /// Its number.
    pub(super) fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Has a request carried out.
    pub(super) fn ask(
        mut self,
        kind: Kind,
        options: &Options<'_>,
        request: &Message,
        moment: Moment<'_>,
    ) -> Result<(), Error> {
        let failed = |error| match error {
            // It closed the socket, or said so: its log knows why.
            Error::Talk(Errno::EPIPE | Errno::ECONNRESET | Errno::EPROTO) => failure(kind, options),
            other => other,
        };
        let mut done = self.carry_out(kind, request, moment);
        // It waits for more, or for an answer that does not come: the closed socket ends it.
        drop(self.socket);
        match self.child.wait() {
            Err(source) => {
                done = done.and(Err(Error::Run { program: options.program.to_owned(), source }));
            }
            // A pre-dump could be followed by others; that none comes is a failure to it.
            Ok(status) if !status.success() && kind != Kind::PreDump => {
                done = done.and(Err(Error::Talk(Errno::EPROTO)));
            }
            Ok(_) => {}
        }
        done.map_err(failed)
    }

    fn carry_out(
        &mut self,
        kind: Kind,
        request: &Message,
        moment: Moment<'_>,
    ) -> Result<(), Error> {
        let mut whole = Message::default();
        whole.number(1, kind as u64);
        whole.message(2, request);
        self.send(&whole)?;
        loop {
            let (answer, descriptor) = self.receive()?;
            if answer.kind != Kind::Notify as u64 {
                return Ok(());
            }
            log::debug!("criu: {}", answer.moment);
            moment(&answer.moment, answer.pid, descriptor)?;
            let mut go = Message::default();
            go.number(1, Kind::Notify as u64);
            go.number(3, true);
            self.send(&go)?;
        }
    }

    fn send(&self, message: &Message) -> Result<(), Error> {
        sys::fd::send(self.socket.as_fd(), &message.0, None).map_err(Error::Talk)
    }

    fn receive(&self) -> Result<(Answer, Option<OwnedFd>), Error> {
        let mut bytes = vec![0; 40 * 1024];
        let (length, descriptor) =
            sys::fd::receive(self.socket.as_fd(), &mut bytes).map_err(Error::Talk)?;
        let answer = Answer::read(bytes.get(..length).unwrap_or_default());
        if answer.success { Ok((answer, descriptor)) } else { Err(Error::Talk(Errno::EPROTO)) }
    }
}

/// Directories of a request: CRIU opens them by the numbers they have here.
pub(super) type Directories<'a> = Vec<(&'a Path, File)>;

/// Refuses an option that the program is too old for: it would not know it, and go on without.
pub(super) fn require(
    program: &Path,
    option: &'static str,
    needed: &'static str,
    at_least: (u64, u64),
) -> Result<(), Error> {
    let mut criu = Criu::start(program)?;
    let mut request = Message::default();
    request.number(1, Kind::Version as u64);
    let answered = criu.send(&request).and_then(|()| criu.receive());
    drop(criu.socket);
    criu.child.wait().map_err(|source| Error::Run { program: program.to_owned(), source })?;
    let (major, minor) = answered?.0.version;
    if (major, minor) < at_least {
        return Err(Error::Version { option, needed, major, minor });
    }
    Ok(())
}

/// The request with what every dump and restore is told, and the directories that it refers to, to be
/// kept until the end.
pub(super) fn request<'a>(
    kind: Kind,
    options: &Options<'a>,
    config: Option<&str>,
) -> Result<(Message, Directories<'a>), Error> {
    const CONFIG: &str = "/etc/criu/runc.conf";
    let open = |path: &'a Path| {
        let opened = File::open(path).map(|file| (path, file));
        opened.map_err(|source| Error::File {
            operation: "open the directory",
            path: path.to_owned(),
            source,
        })
    };
    let mut request = Message::default();
    let mut directories = vec![open(options.images)?];
    if let Some(work) = options.work {
        directories.push(open(work)?);
    }
    // images_dir_fd and work_dir_fd
    for (number, (_, file)) in [1, 17].into_iter().zip(&directories) {
        request.number(number, file.as_raw_fd().unsigned_abs());
    }
    for (number, value) in [
        (4, options.ext_unix_sk),
        (5, options.tcp_established),
        (7, options.shell_job),
        (8, options.file_locks),
        // notify_scripts
        (12, true),
        (16, options.auto_dedup),
        // manage_cgroups
        (24, true),
        (48, options.lazy_pages),
        // orphan_pts_master
        (50, true),
    ] {
        request.number(number, value);
    }
    // log_level
    request.number(9, 4_u64);
    request.text(10, kind.words().1);
    request.number(34, options.cgroups_mode);
    // Interfaces are the engine's or the hooks' to make, as with a new container.
    request.number(field::EMPTY_NAMESPACES, crate::ns::Kind::Network.flag());
    // The annotation names another file, or with nothing none.
    let config = config.unwrap_or(CONFIG);
    if !config.is_empty() {
        request.text(field::CONFIG_FILE, config);
    }
    Ok((request, directories))
}

fn failure(kind: Kind, options: &Options<'_>) -> Error {
    let (operation, name) = kind.words();
    let log = options.work.unwrap_or(options.images).join(name);
    let text = fs::read(&log).unwrap_or_default();
    Error::Failed { operation, errors: last_errors(&String::from_utf8_lossy(&text)), log }
}

/// The last lines of a log that tell of an error, without their times.
fn last_errors(log: &str) -> String {
    const MOST: usize = 4;
    let told = |line: &str| Some(line.get(line.find("Error (")?..)?.trim().to_owned());
    let mut lines: Vec<String> = log.lines().rev().filter_map(told).take(MOST).collect();
    lines.reverse();
    lines.join("; ")
}

fn quote(errors: &str) -> String {
    if errors.is_empty() { String::new() } else { format!(" ({errors})") }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn messages_are_protobufs() {
        let mut inner = Message::default();
        inner.text(1, "key");
        inner.number(2, 300_u64);
        let mut message = Message::default();
        message.number(1, true);
        message.message(27, &inner);
        assert_eq!(
            message.0,
            [8, 1, 0xda, 1, 8, 0x0a, 3, b'k', b'e', b'y', 0x10, 0xac, 2],
            "as protoc encodes it"
        );
        let fields: Vec<u64> = Fields(&message.0).map(|(number, _)| number).collect();
        assert_eq!(fields, [1, 27]);
    }

    #[test]
    fn answers_are_read_and_rubbish_is_not() {
        let mut notify = Message::default();
        notify.text(1, "post-restore");
        notify.number(2, 4711_u64);
        let mut message = Message::default();
        message.number(1, 6_u64);
        message.number(2, true);
        message.message(5, &notify);
        let answer = Answer::read(&message.0);
        assert_eq!((answer.moment.as_str(), answer.pid), ("post-restore", 4711));
        assert!(answer.success && answer.kind == 6);
        for cut in 0..message.0.len() {
            let _ = Answer::read(&message.0[..cut]);
        }
        assert_eq!(Answer::read(&[0xff; 32]), Answer::default());
        assert_eq!(Answer::read(&[0x2a, 0xff, 0xff, 0xff, 0xff, 0x0f]), Answer::default());
    }

    #[test]
    fn the_log_tells_why() {
        let log = "(00.1) Pre\n(00.2) Error (a.c:1): one\n(00.3) Warn\n(00.4) Error (b.c:2): two\n";
        assert_eq!(last_errors(log), "Error (a.c:1): one; Error (b.c:2): two");
        assert_eq!(last_errors(""), "");
    }
}
