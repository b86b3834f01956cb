//! Containers on a terminal: its size, what a line ends with, and who controls it.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Procedure;
use super::caller::{Caller, Kind, PATIENCE, strs};

pub(super) const PROCEDURES: &[(&str, Procedure)] = &[
    ("terminal: what it is", |caller| Some(is_a_terminal(caller))),
    ("terminal: size, and a new size", |caller| Some(follows_the_size(caller))),
    ("terminal: interrupt", |caller| Some(interrupts(caller))),
    ("terminal: exec", |caller| Some(exec(caller))),
];

/// Reads until a word comes, or the end.
fn until(terminal: &mut File, text: &mut String, word: &str) -> Result<()> {
    within(PATIENCE, terminal, text, word)
}

/// [`until`], but nothing may stay away for longer than `patience`.
fn within(patience: Duration, terminal: &mut File, text: &mut String, word: &str) -> Result<()> {
    let wait = PollTimeout::try_from(patience)?;
    while word.is_empty() || !text.contains(word) {
        let ready = poll(&mut [PollFd::new(terminal.as_fd(), PollFlags::POLLIN)], wait)?;
        ensure!(ready > 0, "no {word:?} in {text:?}");
        let mut buffer = [0; 4096];
        // The end is an error on Linux: the last process has closed its side.
        match terminal.read(&mut buffer) {
            // `ctr` leaves the outer terminal's own carriage returns on.
            Ok(count @ 1..) => {
                text.push_str(&String::from_utf8_lossy(&buffer[..count]));
                *text = text.replace("\r\r", "\r");
            }
            _ if word.is_empty() => return Ok(()),
            end => return Err(anyhow::anyhow!("{end:?} before {word:?} in {text:?}")),
        }
    }
    Ok(())
}

fn words(caller: &Caller, script: &str) -> Vec<String> {
    let more: &[&str] =
        if caller.kind == Kind::Containerd { &["--rm", "-t"] } else { &["--rm", "-i", "-t"] };
    caller.run_words(&caller.name(), more, &[], &["sh", "-c", script])
}

fn is_a_terminal(caller: &Caller) -> Result<()> {
    let script = "tty; stat -c %t:%a /dev/console; stty -a | tr ' ' '\\n' | grep onlcr; \
                  cut -d' ' -f5,7 /proc/1/stat; echo two; echo >&2 three";
    let words = words(caller, script);
    let (mut client, mut terminal) = caller.on_terminal(&strs(&words), (24, 80));
    let mut text = String::new();
    until(&mut terminal, &mut text, "three")?;
    let code = client.wait()?.code();
    ensure!(code == Some(0), "{code:?}: {text}");
    // Docker's and Podman's clients have a raw terminal: what they show is what the container sent.
    ensure!(text.contains("/dev/pts/0") && text.contains("\nonlcr"), "{text:?}");
    ensure!(text.contains("two\r\nthree\r\n"), "{text:?}");
    ensure!(text.contains("88:620") || text.contains("88:600"), "the console: {text:?}");
    // Its own session's, in which it is the first group, controlled by the terminal.
    ensure!(text.contains("1 34816"), "{text:?}");
    Ok(())
}

fn follows_the_size(caller: &Caller) -> Result<()> {
    let script = "until [ \"$(stty size)\" = '33 77' ]; do usleep 10000; done; echo first; \
                  until [ \"$(stty size)\" = '44 111' ]; do usleep 10000; done; echo second";
    let words = words(caller, script);
    let (mut client, mut terminal) = caller.on_terminal(&strs(&words), (33, 77));
    let mut text = String::new();
    until(&mut terminal, &mut text, "first")?;
    // The test's own side of the terminal, as a window does it.
    let resized = std::process::Command::new("stty")
        .args(["rows", "44", "columns", "111"])
        .stdin(terminal.try_clone()?)
        .status()?;
    ensure!(resized.success(), "stty");
    let pid = nix::unistd::Pid::from_raw(i32::try_from(client.id())?);
    // Docker's client waits for the signal only after it has told the size for the first time.
    let give_up = Instant::now() + PATIENCE;
    loop {
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGWINCH)?;
        match within(Duration::from_millis(200), &mut terminal, &mut text, "second") {
            Ok(()) => break,
            Err(error) if Instant::now() > give_up => return Err(error),
            Err(_) => {}
        }
    }
    let code = client.wait()?.code();
    ensure!(code == Some(0), "{code:?}: {text}");
    Ok(())
}

fn interrupts(caller: &Caller) -> Result<()> {
    let words = words(
        caller,
        "trap 'echo interrupted; exit 9' INT; echo ready; while :; do sleep 0.02; done",
    );
    let (mut client, mut terminal) = caller.on_terminal(&strs(&words), (24, 80));
    let mut text = String::new();
    until(&mut terminal, &mut text, "ready")?;
    terminal.write_all(b"\x03")?;
    until(&mut terminal, &mut text, "interrupted")?;
    let code = client.wait()?.code();
    ensure!(code == Some(9), "{code:?}: {text}");
    Ok(())
}

fn exec(caller: &Caller) -> Result<()> {
    let container = caller.detach("", &["sleep", "1000"])?;
    let exec_id = caller.name();
    let mut words = match caller.kind {
        Kind::Containerd => vec!["task", "exec", "-t", "--exec-id", &exec_id],
        _ => vec!["exec", "-it"],
    };
    words.extend([container.name.as_str(), "sh", "-c"]);
    words.push("tty; read line; echo got $line; exit 4");
    let (mut client, mut terminal) = caller.on_terminal(&words, (24, 80));
    let mut text = String::new();
    until(&mut terminal, &mut text, "/dev/pts/")?;
    terminal.write_all(b"hello\n")?;
    until(&mut terminal, &mut text, "got hello").context("what was typed")?;
    let code = client.wait()?.code();
    ensure!(code == Some(4), "{code:?}: {text}");
    Ok(())
}
