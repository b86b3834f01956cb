//! The wire between the agent and a task's monitor, and the formats of the files both use.
//!
//! One `SOCK_SEQPACKET` datagram per message, JSON, at most [`MAX_DATAGRAM`] bytes, descriptors
//! beside it by `SCM_RIGHTS`. Every [`Request`] carries an id and may be repeated: answers are
//! facts about the container, never only "ok". Unknown fields are ignored; an unknown call is
//! answered with [`FailureKind::Unsupported`], so that version N can talk to a monitor N−1.
//!
//! ```text
//! T = durable task directory (<state>/tasks/<task id>)      R = run directory (<run>/tasks/<task id>)
//!   T/exits                            exit records, appended          R/monitor.sock  control socket
//!   T/<container>/bundle/config.json   OCI bundle                      R/monitor.json  pids, start times
//!   T/<container>/bundle/rootfs/       overlay mount point             R/state/        runtime state root
//!   T/<container>/overlay/{upper,work}                                 R/monitor.log   the monitor's own words
//!   T/<container>/spool/<n>.{log,idx}  output segments                 R/containers/<container>/
//!                                                                        record.json, {stdin,stdout,stderr} FIFOs
//!                                      R/user          the task's user namespace, if it has one of
//!                                                        its own: mounted in the monitor's mount
//!                                                        namespace, elsewhere an empty file
//! ```

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Version of the wire; [`Call::Hello`] exchanges it.
pub const VERSION: u32 = 1;
/// The largest datagram either side sends, in bytes.
pub const MAX_DATAGRAM: usize = 64 * 1024;
/// Name in R of the task's user namespace.
pub const USER_NAMESPACE: &str = "user";
/// Bytes of one entry of a spool index.
pub const INDEX_ENTRY: usize = 24;

/// A request of the agent. `id` is chosen by the agent and returned in the answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Request {
    pub id: u64,
    pub call: Call,
}

/// What the monitor is asked to do. `container` is the container's name within the task.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Call {
    /// Answered with [`Fact::Hello`].
    Hello { version: u32 },
    /// Answered with [`Fact::State`]; afterwards this connection gets every [`Message::Event`].
    Subscribe,
    /// Mounts the root file system and creates the container up to, not including, the user's
    /// program. Repeating it for an existing container returns its facts.
    Create(Create),
    /// Runs the user's program. Repeating it for a started container returns its facts.
    Start { container: String },
    /// Sends a signal to the container's init, or with `all` to every process of it. A container
    /// that has ended is no error.
    Kill { container: String, signal: i32, all: bool },
    /// Runs a further process in a running container. Beside the datagram: stdin, stdout and
    /// stderr (three descriptors), or nothing with a terminal, whose master comes with the answer.
    /// The asking connection gets [`Change::ExecExited`] without subscribing, always after the
    /// answer. Repeating it for an exec that lives, or ended lately, runs nothing: it answers the
    /// facts and moves that event to the repeating connection (at once, if it has ended), which is
    /// how a client goes on after the monitor's worker was replaced; descriptors that come with a
    /// repetition are closed. A terminal's session hangs up when its client has disconnected.
    Exec(Exec),
    /// Sets the window size of a terminal. For an exec that an earlier worker started the client's
    /// own copy of the master is the only one ([`FailureKind::WrongState`]).
    Resize { container: String, exec: Option<String>, rows: u16, columns: u16 },
    /// Removes what the container has in the kernel (cgroup, mounts, FIFOs, runtime state). Refused
    /// while it runs; one that was created and not started is killed. The exit record and the spool
    /// stay. Repeating it is no error. Afterwards `Create` with the same id answers the exit and
    /// creates nothing, so that a late repetition does not run the program twice.
    Delete { container: String },
    /// Ends the monitor, both processes, and removes R/monitor.json, R/state and R/containers.
    /// Refused while a container exists. The socket's path, monitor.log, the file R/user and the
    /// cgroup that was given on the command line are the caller's to remove.
    Shutdown,
}

/// How to create one container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Create {
    /// Name within the task; also the name of its directory under T.
    pub container: String,
    /// Container id for the runtime's state and hooks; unique on the host.
    pub id: String,
    /// Directory with `config.json`; its `root.path` says where the root file system is.
    pub bundle: PathBuf,
    /// Overlay to mount at the bundle's `rootfs`; `None` if the bundle brings its root.
    pub overlay: Option<Overlay>,
    /// Keep stdin open as a FIFO (ECS `interactive`): what is written to
    /// `R/containers/<container>/stdin` arrives, and an end never does. Otherwise it is `/dev/null`.
    /// With a terminal it has no effect.
    pub stdin: bool,
    /// Bytes of existing segments, indexes included, at which the limit below acts (at least 64 KiB
    /// are allowed). A segment is closed at a quarter of it, at most at 16 MiB; and when the limit
    /// is reached, so that a reader may delete every segment but the newest, which is then empty.
    pub spool_limit: u64,
    /// What happens at the limit.
    pub spool_full: SpoolFull,
}

/// Docker's log delivery mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpoolFull {
    /// The monitor stops reading, so the container blocks on write.
    Block,
    /// The oldest segment is dropped.
    DropOldest,
}

/// An overlayfs: `lower` from the topmost layer to the lowest. In a task with a user namespace the
/// layers are mounted with its maps, so what belongs to root on disk belongs to the container's
/// root; the upper directory is not, and holds the ids of the host.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Overlay {
    pub lower: Vec<PathBuf>,
    pub upper: PathBuf,
    pub work: PathBuf,
}

/// A range of ids in a user namespace: those from `inside` on are the host's from `outside` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    pub inside: u32,
    pub outside: u32,
    pub size: u32,
}

impl IdRange {
    /// The host's id for an id of the namespace; `None` if it has no such id.
    pub fn outside(ranges: &[Self], id: u32) -> Option<u32> {
        ranges.iter().find_map(|range| {
            let offset = id.checked_sub(range.inside)?;
            (offset < range.size).then(|| range.outside.checked_add(offset))?
        })
    }
}

/// The maps of a task's user namespace. As JSON the value of the monitor's `--user-namespace`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserMaps {
    pub uids: Vec<IdRange>,
    pub gids: Vec<IdRange>,
}

/// A process to add to a running container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Exec {
    pub container: String,
    /// Chosen by the caller, unique per container while the process lives.
    pub exec: String,
    /// The `process` object of an OCI runtime configuration.
    pub process: serde_json::Value,
}

/// What the monitor sends.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Message {
    /// To the request with this id. A terminal's master descriptor may be beside it.
    Answer { id: u64, result: Outcome },
    /// A container's or an exec's facts changed. `sequence` rises by one per event; a new worker
    /// goes on with a higher number. A deleted container has no event.
    Event { sequence: u64, change: Change },
}

/// The result of a request.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Done(Fact),
    Failed(Failure),
}

/// Facts that answer a request.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "fact", rename_all = "snake_case")]
pub enum Fact {
    Hello {
        version: u32,
        boot_id: String,
        guardian: ProcessId,
        worker: ProcessId,
    },
    State {
        sequence: u64,
        containers: Vec<ContainerFacts>,
    },
    Container(ContainerFacts),
    Exec {
        container: String,
        exec: String,
        pid: i32,
    },
    /// The request changed nothing that has facts of its own.
    None,
}

/// A process, told apart from later ones that reuse its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    pub pid: i32,
    /// Field 22 of `/proc/<pid>/stat`, in clock ticks since boot.
    pub start_time: u64,
}

/// What changed.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum Change {
    Container(ContainerFacts),
    ExecExited { container: String, exec: String, exit: Exit },
}

/// Everything the monitor knows of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerFacts {
    pub container: String,
    pub status: Status,
    /// Pid of its init in the monitor's pid namespace, while there is one.
    pub pid: Option<i32>,
    /// Nanoseconds since the epoch at which the user's program was started.
    pub started_at: Option<u64>,
    pub exit: Option<Exit>,
}

/// OCI runtime status of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Created,
    Running,
    Stopped,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code, or 128 plus the signal's number; `None` if nobody could read it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// The kernel's OOM killer struck in its cgroup.
    pub oom_killed: bool,
    /// Nanoseconds since the epoch.
    pub at: u64,
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub kind: FailureKind,
    /// Operation, object, cause: the whole chain, colon-separated.
    pub message: String,
}

/// Failures that callers decide on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// No container of that name.
    NotFound,
    /// The container's status forbids the call.
    WrongState,
    /// The program does not exist in the container (exit code 127 in Docker's terms).
    CommandNotFound,
    /// The program cannot be executed (exit code 126).
    CommandNotExecutable,
    /// The monitor does not know the call.
    Unsupported,
    /// The request is malformed or asks for something invalid.
    Invalid,
    /// Anything else; see the message.
    Failed,
}

/// `R/monitor.json`: who serves the task, so that a later agent can tell it from a stranger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MonitorRecord {
    pub version: u32,
    /// `/proc/sys/kernel/random/boot_id`
    pub boot_id: String,
    pub guardian: ProcessId,
    pub worker: ProcessId,
    /// The guardian has died: the worker goes on, and is not replaced if it dies too.
    #[serde(default)]
    pub guardian_lost: bool,
}

/// One line of `T/exits`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    pub container: String,
    /// Container id given in [`Create`]; a later container of the same name has another.
    pub id: String,
    pub exit: Exit,
}

impl ExitRecord {
    /// The line to append, with its checksum and newline.
    ///
    /// # Errors
    /// If the record cannot be written as JSON, which its types exclude.
    pub fn to_line(&self) -> Result<String, serde_json::Error> {
        let json = serde_json::to_string(self)?;
        Ok(format!("{:08x} {json}\n", crc32(json.as_bytes())))
    }

    /// Reads the whole file; a torn or damaged line is skipped.
    pub fn parse_all(text: &str) -> Vec<Self> {
        text.lines()
            .filter_map(|line| {
                let (sum, json) = line.split_once(' ')?;
                let sum = u32::from_str_radix(sum, 16).ok()?;
                if sum == crc32(json.as_bytes()) { serde_json::from_str(json).ok() } else { None }
            })
            .collect()
    }
}

/// Which of a container's streams bytes came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    Stdout,
    Stderr,
}

/// One entry of a spool index: from `offset` of the segment to the next entry's offset (or the end
/// of the segment) the bytes came from `stream` at `time`.
///
/// The entry is written *before* the bytes are spliced, so that bytes never lack an entry; an entry
/// whose bytes never came has the same offset as the next one. Readers take the segment's size
/// first and the index after it, and ignore entries at or beyond that size. They delete consumed
/// segments, but never the newest of a container that lives. Times are exact to a millisecond.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexEntry {
    pub offset: u64,
    /// Nanoseconds since the epoch.
    pub time: u64,
    pub stream: Stream,
    /// Segments before this one were dropped unread (`DropOldest`); set in a first entry only.
    pub gap: bool,
}

impl IndexEntry {
    /// The entry's bytes in the file: offset, time (little-endian), stream, gap, two zeros, CRC-32
    /// of the twenty bytes before it.
    pub fn to_bytes(self) -> [u8; INDEX_ENTRY] {
        let mut bytes = [0; INDEX_ENTRY];
        bytes[..8].copy_from_slice(&self.offset.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.time.to_le_bytes());
        bytes[16] = match self.stream {
            Stream::Stdout => 1,
            Stream::Stderr => 2,
        };
        bytes[17] = u8::from(self.gap);
        let sum = crc32(&bytes[..20]);
        bytes[20..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// Reads one entry; `None` if it is torn or damaged.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; INDEX_ENTRY] = bytes.try_into().ok()?;
        let sum = u32::from_le_bytes(bytes[20..].try_into().ok()?);
        if sum != crc32(&bytes[..20]) {
            return None;
        }
        Some(Self {
            offset: u64::from_le_bytes(bytes[..8].try_into().ok()?),
            time: u64::from_le_bytes(bytes[8..16].try_into().ok()?),
            stream: match bytes[16] {
                1 => Stream::Stdout,
                2 => Stream::Stderr,
                _ => return None,
            },
            gap: bytes[17] != 0,
        })
    }
}

/// `T/<container>/spool/<segment>.log`
pub fn spool_data(spool: &Path, segment: u32) -> PathBuf {
    spool.join(format!("{segment:08}.log"))
}

/// `T/<container>/spool/<segment>.idx`
pub fn spool_index(spool: &Path, segment: u32) -> PathBuf {
    spool.join(format!("{segment:08}.idx"))
}

/// CRC-32 (IEEE 802.3), as in gzip and PNG.
pub fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0u32; 256];
        let mut n = 0;
        while n < 256 {
            #[expect(clippy::cast_possible_truncation, reason = "n is below 256")]
            let mut c = n as u32;
            let mut k = 0;
            while k < 8 {
                c = if c & 1 == 1 { 0xEDB8_8320 ^ (c >> 1) } else { c >> 1 };
                k += 1;
            }
            table[n] = c;
            n += 1;
        }
        table
    };
    !bytes
        .iter()
        .fold(!0, |sum, byte| TABLE[((sum ^ u32::from(*byte)) & 0xff) as usize] ^ (sum >> 8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32_of_the_standard_check_string() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    }

    #[test]
    fn index_entry_survives_and_damage_is_seen() {
        let entry = IndexEntry { offset: 7, time: u64::MAX, stream: Stream::Stderr, gap: true };
        let bytes = entry.to_bytes();
        assert_eq!(IndexEntry::from_bytes(&bytes), Some(entry));
        for position in 0..INDEX_ENTRY {
            let mut damaged = bytes;
            damaged[position] ^= 0x40;
            assert_eq!(IndexEntry::from_bytes(&damaged), None, "byte {position}");
        }
        assert_eq!(IndexEntry::from_bytes(&bytes[..23]), None);
    }

    #[test]
    fn an_id_of_a_user_namespace_is_one_of_the_hosts() {
        let range = |inside, outside, size| IdRange { inside, outside, size };
        let ranges = [range(0, 100_000, 10), range(10, 7, 1), range(11, u32::MAX, 5)];
        assert_eq!(IdRange::outside(&ranges, 0), Some(100_000));
        assert_eq!(IdRange::outside(&ranges, 9), Some(100_009));
        assert_eq!(IdRange::outside(&ranges, 10), Some(7));
        assert_eq!(IdRange::outside(&ranges, 12), None);
        assert_eq!(IdRange::outside(&ranges, 16), None);
    }

    #[test]
    fn exit_records_skip_torn_lines() {
        let record = ExitRecord {
            container: "web".to_owned(),
            id: "t-web".to_owned(),
            exit: Exit { code: Some(137), signal: Some(9), oom_killed: true, at: 1 },
        };
        let line = record.to_line().expect("plain types");
        let torn = format!("{}{line}{}", &line[..line.len() / 2], "\n");
        let text = format!("{line}{torn}{line}");
        assert_eq!(ExitRecord::parse_all(&text), vec![record.clone(), record]);
    }
}
