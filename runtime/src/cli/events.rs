//! `events`: usage at intervals and every strike of the OOM killer, a line of JSON each, until the container ends.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;
use serde_json::Value;

use super::arguments::{Given, Misuse, Opt};
use super::{Error, print};
use crate::cgroup::{Cgroup, OomWatch};
use crate::container::{self, Container, Status};

pub(super) const OPTIONS: &[Opt] = &[
    Opt::value(
        "interval",
        "DURATION",
        "Time between two statistics, such as 500ms, 5s or 1m30s [default: 5s]",
    ),
    Opt::switch("stats", "Print the statistics once"),
];

#[derive(Debug)]
pub(super) struct Arguments {
    interval: Duration,
    stats: bool,
    id: String,
}

impl Arguments {
    pub(super) fn read(given: &Given) -> Result<Self, Misuse> {
        Ok(Self {
            interval: given.parsed("interval", duration)?.unwrap_or(Duration::from_secs(5)),
            stats: given.is_on("stats"),
            id: given.id()?,
        })
    }
}

/// Why there are no events.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("duration interval must be greater than 0")]
    NoInterval,
    #[error("container with id {id} is not running")]
    NotRunning { id: String },
    #[error("wait for events")]
    Wait(#[source] Errno),
}

pub(super) fn run(root: &Path, arguments: &Arguments) -> Result<u8, Error> {
    if arguments.interval.is_zero() {
        return Err(Failure::NoInterval.into());
    }
    let container = Container::load(root, &arguments.id)?;
    let group = container.cgroup()?;
    let not_running = || Failure::NotRunning { id: arguments.id.clone() };
    if container.state()?.status == Status::Stopped {
        return Err(not_running().into());
    }
    let source = Source { id: &arguments.id, group };
    if arguments.stats {
        source.print_stats()?;
        return Ok(0);
    }
    let init = container.init_pidfd().ok_or_else(not_running)?;
    let watch = source.group.watch_oom().map_err(|error| source.failed(error))?;
    if watch.is_none() {
        log::warn!("no OOM events: this host has no memory controller for the container");
    }
    source.follow(&init, watch, arguments.interval)?;
    Ok(0)
}

/// One line.
// A struct: the order of the keys is runc's, for those who search the text.
#[derive(Serialize)]
struct Event<'a> {
    r#type: &'a str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Value>,
}

/// The container that events are about.
struct Source<'a> {
    id: &'a str,
    group: Cgroup,
}

impl Source<'_> {
    fn failed(&self, source: crate::cgroup::Error) -> Error {
        container::Error::Cgroup { id: self.id.to_owned(), source: Box::new(source) }.into()
    }

    fn print_stats(&self) -> Result<(), Error> {
        let data = self.group.report().map_err(|error| self.failed(error))?;
        self.print("stats", Some(data))
    }

    fn print(&self, kind: &str, data: Option<Value>) -> Result<(), Error> {
        let event = Event { r#type: kind, id: self.id, data };
        let mut line = serde_json::to_string(&event).map_err(Error::Json)?;
        line.push('\n');
        print(&line)?;
        Ok(())
    }

    fn follow(
        &self,
        init: &OwnedFd,
        mut watch: Option<OomWatch>,
        interval: Duration,
    ) -> Result<(), Error> {
        let mut next = Instant::now() + interval;
        loop {
            let ended = wait(init, watch.as_ref(), next)?;
            // Looked at after the end too: the strike may have been what ended it.
            match watch.as_mut().map(OomWatch::struck).transpose() {
                Ok(Some(Some(true))) => self.print("oom", None)?,
                Ok(Some(Some(false)) | None) => {}
                Ok(Some(None)) => watch = None,
                Err(error) => return Err(self.failed(error)),
            }
            if ended {
                return Ok(());
            }
            if Instant::now() >= next {
                match self.print_stats() {
                    Ok(()) => {}
                    // It ended while we read, and was deleted.
                    Err(_) if wait(init, None, Instant::now())? => return Ok(()),
                    Err(error) => return Err(error),
                }
                next += interval;
                // After a pause of ours (SIGSTOP, suspend) nobody wants what was missed.
                next = next.max(Instant::now());
            }
        }
    }
}

/// Waits for a strike, the end of the process or the time; whether the process has ended.
fn wait(init: &OwnedFd, watch: Option<&OomWatch>, until: Instant) -> Result<bool, Failure> {
    let mut watched = vec![PollFd::new(init.as_fd(), PollFlags::POLLIN)];
    watched.extend(watch.map(|watch| PollFd::new(watch.as_fd(), watch.flags())));
    // Rounded up: a poll that ends a moment too early would spin.
    let left = until.saturating_duration_since(Instant::now());
    let left = if left.is_zero() { left } else { left + Duration::from_millis(1) };
    let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
    match poll(&mut watched, timeout) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => return Err(Failure::Wait(errno)),
    }
    Ok(watched.first().and_then(PollFd::any).unwrap_or(false))
}

/// A duration as Go writes it: decimal numbers, each with its unit, or `0`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "write a duration such as 500ms, 5s or 1m30s".to_owned();
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut sum: u128 = 0;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (number, tail) = rest.split_at(digits);
        let unit = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        let unit = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return Err(wrong()),
        };
        sum = nanoseconds(number, unit).and_then(|part| sum.checked_add(part)).ok_or_else(wrong)?;
        rest = tail;
    }
    // No more than a century: times beyond that overflow the clock.
    u64::try_from(sum)
        .ok()
        .map(Duration::from_nanos)
        .filter(|sum| sum.as_secs() <= 3_200_000_000)
        .ok_or_else(wrong)
}

/// A decimal number of a unit.
fn nanoseconds(number: &str, unit: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let count = |digits: &str| if digits.is_empty() { Ok(0) } else { digits.parse::<u128>() };
    if fraction.contains('.') || whole.is_empty() && fraction.is_empty() {
        return None;
    }
    // More digits than an hour has nanoseconds decide nothing.
    let fraction = fraction.get(..fraction.len().min(13))?;
    let scale = 10u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    count(whole).ok()?.checked_mul(unit)?.checked_add(count(fraction).ok()? * unit / scale)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn durations_as_go_reads_them() {
        for (text, milliseconds) in [
            ("5s", 5000),
            ("500ms", 500),
            ("1m30s", 90_000),
            ("1.5h", 5_400_000),
            ("0", 0),
            ("0s", 0),
            (".5s", 500),
            ("1.s20ms", 1020),
        ] {
            assert_eq!(duration(text).unwrap(), Duration::from_millis(milliseconds), "{text}");
        }
        for text in
            ["", "5", "s", "-5s", "5 s", "1d", "1.2.3s", "99999999h", "5s6", "+", ".s", "1.2.s"]
        {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
