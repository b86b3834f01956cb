//! The guardian: parent of the worker, subreaper, keeper of descriptors.
//!
//! Promises: while it lives, a worker that ends is followed by another; no zombie whose status is
//! still wanted is reaped before the worker says that it is stored; what was deposited outlives
//! every worker. It does nothing else, so that there is little it could die of.
//!
//! Order of set-up: (1) close what was inherited; (2) refuse if another monitor serves the run
//! directory; (3) cgroup, before memory is charged to the agent's; (4) OOM score; (5) mount, then
//! user and network namespace; (6) subreaper, before the first child; (7) signals blocked; (8) standard
//! streams away, last, so that failures before it reach the caller's stderr; (9) fork.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use protocol::monitor::{MonitorRecord, ProcessId};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, SendFlags};

use super::deposit::{self, Kept, Reply, Store, Word};
use super::process::{self, Look};
use super::user::User;
use super::{Error, Options, journal, oom, worker};
use crate::sys::monitor::{self as sys, Forked};

/// Pauses between a worker's death and the next: the ordinary, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(5));
/// So many early deaths in a row before the pauses grow: kills from outside are not a worker's own
/// fault, and output waits in pipes meanwhile.
const BURST: u32 = 50;
/// A worker that lived so long has earned a fresh start.
const SETTLED: Duration = Duration::from_secs(10);
/// Bytes of `R/monitor.log` at which a new monitor begins it anew.
const LOG: u64 = 256 << 10;

/// What a worker is born with.
#[derive(Debug)]
pub(super) struct Birth {
    pub(super) task: PathBuf,
    pub(super) run: PathBuf,
    pub(super) boot_id: String,
    pub(super) listener: OwnedFd,
    pub(super) store: Store,
    pub(super) guardian: ProcessId,
    /// Our end of the guardian's socket.
    pub(super) link: OwnedFd,
    /// How many workers there were before.
    pub(super) generation: u32,
    pub(super) oom: oom::Score,
    /// The task's user namespace.
    pub(super) user: Option<User>,
}

/// Runs a monitor until it is shut down. In the worker, too, this is where the life ends.
pub(super) fn run(options: &Options) -> Result<(), Error> {
    let listener = sys::inherit(options.listen)
        .map_err(|source| Error::Listener { number: options.listen, source })?;
    check_listener(&listener, options.listen)?;
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_err(|source| Error::BootId { source })?
        .trim()
        .to_owned();
    for directory in ["state", "containers"] {
        let path = options.run.join(directory);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .map_err(|source| Error::Directory { path, source })?;
    }
    refuse_second(&options.run, &boot_id)?;
    if let Some(cgroup) = &options.cgroup {
        super::leaf::enter(cgroup)?;
    }
    let oom = oom::Score::lower();
    let user = namespaces(options, &boot_id)?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|source| Error::Setup { step: "become a subreaper", source: source.into() })?;
    // A session of its own; a process that leads one already, as after a re-exec, has it.
    let _ = nix::unistd::setsid();
    let signals = block_signals()?;
    streams(&options.run)?;
    sys::small_heap();
    // Executed from a descriptor, it would be named by the descriptor's number.
    let _ = nix::sys::prctl::set_name(c"lighter-monitor");
    let guardian = process::myself()
        .map_err(|source| Error::Setup { step: "read our own start time", source })?;

    let mut store = Store::new();
    let mut generation = 0;
    let mut early = 0_u32;
    loop {
        let (ours, theirs) = deposit::pair()
            .map_err(|source| Error::Setup { step: "make the deposit's sockets", source })?;
        let began = Instant::now();
        match sys::fork() {
            Ok(Forked::Child) => {
                drop((ours, signals));
                return worker::run(Birth {
                    task: options.task.clone(),
                    run: options.run.clone(),
                    boot_id,
                    listener,
                    store,
                    guardian,
                    link: theirs,
                    generation,
                    oom,
                    user,
                });
            }
            Ok(Forked::Parent(pid)) => {
                drop(theirs);
                let worker = process::open(pid)
                    .map_err(|source| Error::Setup { step: "open the worker's pidfd", source })?;
                if supervise(&worker, pid, &ours, &signals, &mut store) {
                    return Ok(());
                }
                journal::note(&format!("worker {pid} ended; starting another"));
            }
            Err(error) => journal::note(&format!("fork a worker: {error}")),
        }
        generation += 1;
        early = if began.elapsed() >= SETTLED { 0 } else { early.saturating_add(1) };
        let growth = early.saturating_sub(BURST).min(16);
        std::thread::sleep((PAUSE.0 * (1 << growth)).min(PAUSE.1));
    }
}

/// Serves one worker until it ends; `true` if it ended for good.
fn supervise(
    worker: &OwnedFd,
    pid: i32,
    link: &OwnedFd,
    signals: &SignalFd,
    store: &mut Store,
) -> bool {
    let mut ending = false;
    // `None` until the worker has said what it wants: before, every zombie may matter.
    let mut owned: Option<Vec<i32>> = None;
    let mut linked = true;
    loop {
        let mut polled = [
            PollFd::new(worker, PollFlags::IN),
            PollFd::new(signals, PollFlags::IN),
            PollFd::new(link, PollFlags::IN),
        ];
        let count = if linked { 3 } else { 2 };
        if poll(&mut polled[..count], None).is_err() {
            continue;
        }
        let ready = |position: usize| !polled[position].revents().is_empty();
        let (dead, signalled, spoken) = (ready(0), ready(1), linked && ready(2));
        if signalled {
            while let Ok(Some(_)) = signals.read_signal() {}
        }
        if spoken || dead {
            // After a death all that was said before it is still there, and then the end.
            loop {
                match deposit::receive::<Word>(link.as_fd(), RecvFlags::DONTWAIT) {
                    Ok(Some((word, descriptor))) => {
                        ending |= matches!(word, Word::End);
                        obey(word, descriptor, link, store, &mut owned);
                    }
                    Ok(None) => {
                        linked = false;
                        break;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) if error.kind() == io::ErrorKind::InvalidData => {}
                    Err(_) => {
                        linked = false;
                        break;
                    }
                }
            }
        }
        if dead {
            process::reap(worker);
            return ending;
        }
        if let Some(owned) = &owned {
            process::reap_orphans(|child| child == pid || owned.contains(&child));
        }
    }
}

fn obey(
    word: Word,
    descriptor: Option<OwnedFd>,
    link: &OwnedFd,
    store: &mut Store,
    owned: &mut Option<Vec<i32>>,
) {
    match word {
        Word::Keep { key, note } => {
            store.insert(key, Kept { note, descriptor });
        }
        Word::Forget { prefix } => store.retain(|key, _| !key.starts_with(&prefix)),
        Word::Ready { owned: pids } => *owned = Some(pids),
        Word::Look { pid } => {
            let ended = process::open(pid).ok().and_then(|pidfd| match process::look(&pidfd) {
                Look::Ended(ended) => Some(ended),
                Look::Alive | Look::Stranger => None,
            });
            // A worker that does not take the answer asks again.
            let _ = deposit::send(link.as_fd(), &Reply { ended }, None, SendFlags::DONTWAIT);
        }
        Word::Reap { pid } => {
            if let Ok(pidfd) = process::open(pid) {
                process::reap(&pidfd);
            }
            if let Some(owned) = owned {
                owned.retain(|other| *other != pid);
            }
        }
        Word::End => {}
    }
}

fn check_listener(listener: &OwnedFd, number: i32) -> Result<(), Error> {
    use rustix::net::{SocketType, sockopt};
    let failed = |source: rustix::io::Errno| Error::Listener { number, source: source.into() };
    if sockopt::socket_type(listener).map_err(failed)? != SocketType::SEQPACKET
        || !sockopt::socket_acceptconn(listener).map_err(failed)?
    {
        return Err(Error::NotListening { number });
    }
    rustix::io::ioctl_fionbio(listener, true).map_err(failed)
}

/// The record in `R/monitor.json`, if it is of this boot.
fn recorded(run: &Path, boot_id: &str) -> Option<MonitorRecord> {
    let record: MonitorRecord =
        serde_json::from_slice(&fs::read(run.join("monitor.json")).ok()?).ok()?;
    (record.boot_id == boot_id).then_some(record)
}

fn refuse_second(run: &Path, boot_id: &str) -> Result<(), Error> {
    let Some(record) = recorded(run, boot_id) else { return Ok(()) };
    for id in [record.worker, record.guardian] {
        let Some(pidfd) = process::open_same(id) else { continue };
        // A zombie that nobody has reaped serves nobody.
        let mut polled = [PollFd::new(&pidfd, PollFlags::IN)];
        if poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) == Ok(0) {
            return Err(Error::Served { run: run.to_owned(), pid: id.pid });
        }
    }
    Ok(())
}

fn namespaces(options: &Options, boot_id: &str) -> Result<Option<User>, Error> {
    let step = |step| move |errno: nix::Error| Error::Setup { step, source: errno.into() };
    unshare(CloneFlags::CLONE_NEWNS).map_err(step("unshare the mount namespace"))?;
    // Slave: what the host unmounts vanishes here too; what we mount stays here.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)
        .map_err(step("make mounts slaves of the host's"))?;
    let living = if options.adopt { worker::living(&options.run, boot_id) } else { None };
    let adopted = living.is_some();
    let (living_user, living_network) =
        living.map_or((None, None), |living| (Some(living.user), Some(living.network)));
    let (user, network) = match (&options.user, living_user) {
        (Some(maps), Some(namespace)) => (Some(User::living(maps, namespace)), living_network),
        (Some(maps), None) => {
            let (user, network) = User::make(maps, options.new_network)?;
            (Some(user), network)
        }
        (None, _) => (None, living_network),
    };
    if let Some(user) = &user {
        user.mount(&options.run)?;
    }
    if !options.new_network {
        return Ok(user);
    }
    match network {
        Some(namespace) => setns(namespace, CloneFlags::CLONE_NEWNET)
            .map_err(step("enter the task's network namespace"))?,
        None => unshare(CloneFlags::CLONE_NEWNET).map_err(step("unshare the network namespace"))?,
    }
    // A task that rules its network may have taken its own down.
    if !adopted {
        crate::sys::net::loopback_up().map_err(step("bring loopback up"))?;
    }
    Ok(user)
}

/// Blocks what must not end the monitor; children's ends and SIGTERM come by the descriptor. The
/// runtime gives containers an empty mask.
pub(super) fn block_signals() -> Result<SignalFd, Error> {
    let failed = |errno: nix::Error| Error::Setup { step: "block signals", source: errno.into() };
    let mut read = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM] {
        read.add(signal);
    }
    let mut blocked = read;
    // A stop of the agent's unit, or a Ctrl-C in the terminal that it was started from, must leave
    // tasks alone.
    for signal in [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGHUP] {
        blocked.add(signal);
    }
    blocked.thread_block().map_err(failed)?;
    SignalFd::with_flags(&read, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).map_err(failed)
}

/// Standard input and output to `/dev/null`, standard error to `R/monitor.log`.
fn streams(run: &Path) -> Result<(), Error> {
    let failed = |path: &Path, source| Error::Directory { path: path.to_owned(), source };
    let null = Path::new("/dev/null");
    let nothing =
        File::options().read(true).write(true).open(null).map_err(|source| failed(null, source))?;
    let path = run.join("monitor.log");
    let begin_anew = fs::metadata(&path).is_ok_and(|metadata| metadata.len() > LOG);
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&path)
        .map_err(|source| failed(&path, source))?;
    if begin_anew {
        log.set_len(0).map_err(|source| failed(&path, source))?;
    }
    let duplicate = |errno: nix::Error| Error::Setup {
        step: "redirect the standard streams",
        source: errno.into(),
    };
    nix::unistd::dup2_stdin(&nothing).map_err(duplicate)?;
    nix::unistd::dup2_stdout(&nothing).map_err(duplicate)?;
    nix::unistd::dup2_stderr(&log).map_err(duplicate)
}
