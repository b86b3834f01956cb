//! Groups that systemd makes: the driver of `--systemd-cgroup`, with runc's names, properties and order.
//!
//! A container is a transient scope (or a slice, if its name ends so). systemd makes its group; what systemd has
//! properties for it is told, so that it does not undo it, and afterwards everything is written to the files as without
//! systemd, because systemd rounds, ignores what the kernel refuses, and does not know every limit. On cgroup v1 the
//! groups of the controllers that systemd leaves alone are made beside it at the same path.
//!
//! A scope lives while it holds a process, and the group must stand before the container's first process, which begins
//! in it, within its limits. So a *holder*, a clone of the runtime that does nothing, is put into the scope and goes
//! when the container's process is there. It goes too when the runtime is killed, and an empty scope ends by itself; a
//! unit that failed is reset by `delete`, because the record that names it is stored before the unit is asked for.
//!
//! systemd is spoken to only for containers that were created so: by its private socket as root, by the system bus
//! where there is none, by the user's bus without root's privileges on the host. The device rules on cgroup v2 are our
//! own program, and none of systemd's.

mod bus;
mod group;
mod text;
mod unit;
mod wire;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use serde::{Deserialize, Serialize};

use self::bus::{Answer, Bus};
use self::unit::{PERIOD, Versioned};
use self::wire::{Object, Property, Value, Writer};
use super::device_bpf::Policy;
use super::write::Write;
use crate::failpoint;
use crate::sys::{
    Errno,
    clone::{Clone, spawn},
    process,
};

/// Why systemd did not do what was asked of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no systemd.
    #[error(
        "systemd cgroup driver asked for, but systemd is not running on this host: there is no \
         /run/systemd/system; leave --systemd-cgroup out"
    )]
    NotRunning,
    /// No address of the user's systemd is known.
    #[error(
        "systemd cgroup driver asked for without root, but neither DBUS_SESSION_BUS_ADDRESS nor \
         XDG_RUNTIME_DIR says where the user's bus is; log in with a session, or leave \
         --systemd-cgroup out"
    )]
    NoUserBus,
    /// The path is none of systemd's.
    #[error("systemd cgroup driver asked for, but cgroup path {path:?} {reason}")]
    Path {
        /// As given.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// An annotation that is no property.
    #[error("annotation {annotation}: {reason}")]
    Property {
        /// Its name.
        annotation: String,
        /// What is wrong with it.
        reason: String,
    },
    /// `connect`.
    #[error("systemd cgroup driver asked for, but systemd cannot be reached at {address}")]
    Connect {
        /// Addresses that were tried.
        address: String,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The bus does not want us.
    #[error("the bus at {address} refuses us: {answer}")]
    Rejected {
        /// Its address.
        address: String,
        /// What it said.
        answer: String,
    },
    /// Reading or writing.
    #[error("talk to systemd")]
    Talk(#[source] io::Error),
    /// No answer.
    #[error("systemd did not answer within {} s", bus::DEADLINE.as_secs())]
    Timeout,
    /// A message that is none.
    #[error("systemd's answer is not understood")]
    Malformed,
    /// An error as the answer.
    #[error("systemd refuses {member}: {text} ({name})")]
    Refused {
        /// The method.
        member: &'static str,
        /// Name of the error.
        name: String,
        /// What systemd says.
        text: String,
    },
    /// A job did not end well.
    #[error(
        "{operation} systemd unit {unit}: the job ended as {result:?}; see systemctl status {unit}"
    )]
    Job {
        /// What was attempted.
        operation: &'static str,
        /// The unit.
        unit: String,
        /// How it ended.
        result: String,
    },
    /// The process that keeps the scope.
    #[error("create the process that holds the scope")]
    Holder(#[source] Errno),
}

/// A container's unit; stored in its state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// Name of the scope or slice.
    pub name: String,
    /// The slice it belongs to.
    pub slice: String,
    /// Whether it is the user's systemd that has it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub user: bool,
    /// Properties by annotations; needed only when it is started.
    #[serde(skip)]
    properties: Vec<Property>,
}

const MANAGER: Object = Object {
    destination: "org.freedesktop.systemd1",
    path: "/org/freedesktop/systemd1",
    interface: "org.freedesktop.systemd1.Manager",
};
const PROPERTIES: Object = Object { interface: "org.freedesktop.DBus.Properties", ..MANAGER };
const PRIVATE: &str = "/run/systemd/private";
const SYSTEM_BUS: &str = "unix:path=/run/dbus/system_bus_socket";
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";
const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";

fn running() -> bool {
    std::fs::symlink_metadata("/run/systemd/system").is_ok_and(|found| found.is_dir())
}

/// Whether the user's systemd is the one that we may ask: we are not root, or only in a user namespace whose systemd
/// is not this one.
fn is_user() -> bool {
    if !nix::unistd::geteuid().is_root() {
        return true;
    }
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let everybody = map.split_ascii_whitespace().eq(["0", "0", "4294967295"]);
    !everybody && nix::unistd::access(PRIVATE, nix::unistd::AccessFlags::W_OK).is_err()
}

fn connect(user: bool) -> Result<Bus, Error> {
    if !running() {
        return Err(Error::NotRunning);
    }
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    if user {
        let address = variable("DBUS_SESSION_BUS_ADDRESS")
            .or_else(|| Some(format!("unix:path={}/bus", variable("XDG_RUNTIME_DIR")?)));
        return Bus::connect(&address.ok_or(Error::NoUserBus)?, false);
    }
    if let Ok(bus) = Bus::connect(&format!("unix:path={PRIVATE}"), true) {
        return Ok(bus);
    }
    let address = variable("DBUS_SYSTEM_BUS_ADDRESS").unwrap_or_else(|| SYSTEM_BUS.to_owned());
    Bus::connect(&address, false)
}

/// A property of the manager that is a string.
fn manager_property(bus: &mut Bus, name: &str) -> Result<String, Error> {
    let mut body = Writer::default();
    body.string(MANAGER.interface).string(name);
    let answer = bus.call(&PROPERTIES, "Get", "ss", &body)?;
    answer.reader().variant_string().map(str::to_owned).ok_or(Error::Malformed)
}

/// The unit that a container will be, and the path of its group below the hierarchies' roots.
pub(super) fn plan(
    path: Option<&str>,
    id: &str,
    annotations: &BTreeMap<String, String>,
) -> Result<(Unit, String), Error> {
    if !running() {
        return Err(Error::NotRunning);
    }
    let user = is_user();
    let unit::Name { unit, slice, path } = unit::name(path, id, user)?;
    let properties = unit::annotated(annotations)?;
    // The system's manager has the root.
    let root =
        if user { manager_property(&mut connect(user)?, "ControlGroup")? } else { String::new() };
    Ok((Unit { name: unit, slice, user, properties }, format!("{root}{path}")))
}

/// What the limits mean to systemd.
#[derive(Debug)]
pub(super) struct Limits<'a> {
    /// As they are written to files.
    pub(super) writes: &'a [Write],
    /// The period of a quota that comes without one.
    pub(super) period: u64,
    /// Device rules, on cgroup v1 only.
    pub(super) devices: Option<&'a Policy>,
}

impl Limits<'_> {
    /// Those that this systemd knows.
    fn properties(&self, bus: &mut Bus) -> Result<Vec<Property>, Error> {
        let wanted = unit::of_writes(self.writes, self.period);
        let newest = wanted.iter().map(|one| one.since).max().unwrap_or(0);
        // The answer costs a round trip, so only who needs it asks.
        let version = if newest == 0 { 0 } else { version(&manager_property(bus, "Version")?) };
        let known = wanted.into_iter().filter(|one| one.since <= version);
        let mut properties: Vec<Property> =
            known.map(|Versioned { property, .. }| property).collect();
        if let Some(policy) = self.devices {
            let drivers = std::fs::read_to_string("/proc/devices").unwrap_or_default();
            properties.extend(unit::of_devices(policy, &drivers));
        }
        Ok(properties)
    }
}

/// The number in `252.39-1~deb12u1` or `v249`; 0 if there is none, as if it were very old.
fn version(text: &str) -> u32 {
    let digits = text.trim_start_matches(|first: char| !first.is_ascii_digit());
    let end = digits.find(|other: char| !other.is_ascii_digit()).unwrap_or(digits.len());
    digits.get(..end).and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// A process that does nothing but be in a scope.
#[derive(Debug)]
pub(super) struct Holder {
    pid: i32,
    pidfd: OwnedFd,
    /// Ends it when closed, by whatever closes it.
    _alive: OwnedFd,
}

impl Holder {
    fn new() -> Result<Self, Error> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let (alive, theirs) = socketpair(AddressFamily::Unix, SockType::Stream, None, flags)
            .map_err(Error::Holder)?;
        let clone = Clone { flags: 0, cgroup: None, withheld: Some(alive.as_fd()) };
        let (pid, pidfd) = spawn(clone, &theirs, hold).map_err(Error::Holder)?;
        Ok(Self { pid, pidfd, _alive: alive })
    }
}

fn hold(socket: &OwnedFd) -> i32 {
    while nix::unistd::read(socket, &mut [0]) == Err(Errno::EINTR) {}
    0
}

impl Drop for Holder {
    fn drop(&mut self) {
        // It may be dead already; and there is nobody to tell a failure to.
        let _ = process::pidfd_send_signal(self.pidfd.as_fd(), libc::SIGKILL);
        let ended = || waitid(Id::PIDFd(self.pidfd.as_fd()), WaitPidFlag::WEXITED);
        while ended() == Err(Errno::EINTR) {}
    }
}

impl Unit {
    fn is_slice(&self) -> bool {
        self.name.ends_with(".slice")
    }

    /// Has systemd make the unit; what is returned holds it until the container does. A slice needs none.
    pub(super) fn start(&self, limits: &Limits<'_>) -> Result<Option<Holder>, Error> {
        let holder = if self.is_slice() { None } else { Some(Holder::new()?) };
        failpoint::hit("create-held");
        let mut bus = connect(self.user)?;
        let on = |name: &str| (name.to_owned(), Value::Number(b'b', 1));
        let text = |name: &str, text: String| (name.to_owned(), Value::Text(text));
        let mut properties =
            vec![text("Description", format!("lighter-runtime container {}", self.name))];
        match &holder {
            Some(holder) => {
                properties.push(text("Slice", self.slice.clone()));
                properties.push(on("Delegate"));
                let pid = Value::Number(b'u', holder.pid.unsigned_abs().into());
                properties.push(("PIDs".to_owned(), Value::Array("u", vec![pid])));
            }
            None => {
                let slice = Value::Text(self.slice.clone());
                properties.push(("Wants".to_owned(), Value::Array("s", vec![slice])));
            }
        }
        properties.extend(
            ["MemoryAccounting", "CPUAccounting", "IOAccounting", "TasksAccounting"].map(on),
        );
        properties.push(("DefaultDependencies".to_owned(), Value::Number(b'b', 0)));
        properties.extend(self.properties.iter().cloned());
        properties.extend(limits.properties(&mut bus)?);
        let mut body = Writer::default();
        body.string(&self.name).string("replace").properties(&properties).nothing();
        let start =
            |bus: &mut Bus| bus.call(&MANAGER, "StartTransientUnit", "ssa(sv)a(sa(sv))", &body);
        let job = match start(&mut bus) {
            // One that failed stays until it is reset; one that is in use stays then, too.
            Err(Error::Refused { name, .. }) if name == UNIT_EXISTS => {
                self.reset(&mut bus)?;
                start(&mut bus)
            }
            other => other,
        }?;
        failpoint::hit("create-unit");
        let ended = self.finish(&mut bus, &job, "start");
        if ended.is_err() {
            // What failed is ours, and would be in the way of the next.
            let _ = self.reset(&mut bus);
        }
        ended.map(|()| holder)
    }

    /// Tells systemd of changed limits, for as long as the unit lives.
    pub(super) fn update(&self, limits: &Limits<'_>) -> Result<(), Error> {
        let mut bus = connect(self.user)?;
        let properties = limits.properties(&mut bus)?;
        if properties.is_empty() {
            return Ok(());
        }
        let mut body = Writer::default();
        body.string(&self.name).boolean(true).properties(&properties);
        bus.call(&MANAGER, "SetUnitProperties", "sba(sv)", &body).map(drop)
    }

    /// Has systemd forget the unit. One that is gone is fine, and so is a systemd that is.
    pub(super) fn stop(&self) -> Result<(), Error> {
        if !running() {
            return Ok(());
        }
        let mut bus = connect(self.user)?;
        let mut body = Writer::default();
        body.string(&self.name).string("replace");
        match bus.call(&MANAGER, "StopUnit", "ss", &body) {
            Ok(job) => self.finish(&mut bus, &job, "stop")?,
            Err(Error::Refused { name, .. }) if name == NO_SUCH_UNIT => return Ok(()),
            Err(other) => return Err(other),
        }
        self.reset(&mut bus)
    }

    fn finish(&self, bus: &mut Bus, job: &Answer, operation: &'static str) -> Result<(), Error> {
        let job = job.reader().string().map(str::to_owned).ok_or(Error::Malformed)?;
        match bus.job(&job)?.as_str() {
            "done" => Ok(()),
            result => {
                Err(Error::Job { operation, unit: self.name.clone(), result: result.to_owned() })
            }
        }
    }

    fn reset(&self, bus: &mut Bus) -> Result<(), Error> {
        let mut body = Writer::default();
        body.string(&self.name);
        match bus.call(&MANAGER, "ResetFailedUnit", "s", &body) {
            Err(Error::Refused { name, .. }) if name == NO_SUCH_UNIT => Ok(()),
            other => other.map(drop),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        for (text, number) in
            [("252.39-1~deb12u1", 252), ("v249", 249), ("257", 257), ("", 0), ("x", 0)]
        {
            assert_eq!(version(text), number, "{text}");
        }
    }
}
