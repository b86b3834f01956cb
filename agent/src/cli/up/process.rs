//! Processes of ours that outlive the command that started them.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Between two looks at something.
pub(super) const PAUSE: Duration = Duration::from_millis(20);

/// Starts a program that the terminal's signals do not reach, with its output added to a log.
pub(super) fn start(command: &mut Command, log: &Path) -> io::Result<Child> {
    let output = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(log)?;
    command
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .process_group(0)
        .spawn()
}

/// The last line of a log, as far as it is in the last 4 KiB; empty if there is none.
pub(super) fn last_line(log: &Path) -> String {
    const END: u64 = 4096;
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(END)))?;
        let mut text = Vec::new();
        file.take(END).read_to_end(&mut text)?;
        Ok(text)
    };
    // Where the log is has been said; that it cannot be read here adds nothing.
    let text = read().unwrap_or_default();
    String::from_utf8_lossy(&text).trim_end().lines().next_back().unwrap_or_default().to_owned()
}

/// The process that listens on a unix socket; `None`: nobody does.
pub(super) fn listener(socket: &Path) -> io::Result<Option<Process>> {
    let (Some(directory), Some(name)) = (socket.parent(), socket.file_name()) else {
        return Ok(None);
    };
    // Through a descriptor: a socket's address holds 107 bytes, and a root may be anywhere.
    let directory = match File::open(directory) {
        Ok(directory) => directory,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let path = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
    let connect = || -> io::Result<Option<i32>> {
        match UnixStream::connect(&path) {
            Ok(stream) => Ok(Some(getsockopt(&stream, PeerCredentials)?.pid())),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    };
    let Some(number) = connect()? else { return Ok(None) };
    let Some(pid) = Pid::from_raw(number) else { return Ok(None) };
    let handle = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(handle) => handle,
        Err(rustix::io::Errno::SRCH) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    // It still listens, so the number was not another's when the handle was made.
    Ok((connect()? == Some(number)).then_some(Process { pid: number, handle }))
}

/// A process, held so that its number cannot become another's.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) pid: i32,
    handle: OwnedFd,
}

impl Process {
    /// Asks it to end and waits until it has; false: not within `patience`.
    pub(super) async fn end(&self, patience: Duration) -> io::Result<bool> {
        match pidfd_send_signal(&self.handle, Signal::TERM) {
            Ok(()) => {}
            Err(rustix::io::Errno::SRCH) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
        let give_up = Instant::now() + patience;
        while !self.has_ended()? {
            if Instant::now() > give_up {
                return Ok(false);
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(true)
    }

    fn has_ended(&self) -> io::Result<bool> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        // Readable once it has ended, also as a zombie.
        let mut descriptors = [PollFd::new(&self.handle, PollFlags::IN)];
        Ok(poll(&mut descriptors, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))? > 0)
    }
}
