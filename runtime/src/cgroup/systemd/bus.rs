//! A conversation with systemd by D-Bus, blocking and with a deadline.
//!
//! D-Bus Specification 0.43, "Authentication Protocol": EXTERNAL, the identity left to the socket's credentials, so
//! that a user namespace need not know its number outside. A message that is not understood ends the conversation: it
//! may come from whoever owns the socket.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

use super::Error;
use super::wire::{
    ERROR, FIXED, METHOD_RETURN, Message, NO_REPLY_EXPECTED, Object, Reader, SIGNAL, Writer, call,
    message_length, parse,
};

/// How long systemd may take for whatever is asked in one conversation, as in runc.
pub(super) const DEADLINE: Duration = Duration::from_secs(30);
/// Longer lines are no answer to an authentication.
const LONGEST_LINE: usize = 16 << 10;
const BUS: Object = Object {
    destination: "org.freedesktop.DBus",
    path: "/org/freedesktop/DBus",
    interface: "org.freedesktop.DBus",
};

/// A conversation with systemd.
#[derive(Debug)]
pub(super) struct Bus {
    stream: UnixStream,
    deadline: Instant,
    serial: u32,
    /// What came in one piece with the end of the authentication.
    early: Vec<u8>,
    /// Jobs that ended: object path and result.
    ended: Vec<(String, String)>,
}

impl Bus {
    /// Connects to the first of these addresses that answers. `peer` says that it is systemd itself, not a bus.
    pub(super) fn connect(addresses: &str, peer: bool) -> Result<Self, Error> {
        let mut failure = io::Error::new(
            io::ErrorKind::Unsupported,
            "no address of the form unix:path= or unix:abstract=",
        );
        for address in addresses.split(';') {
            match address_of(address).map(|address| open(&address)) {
                Some(Ok(stream)) => {
                    let deadline = Instant::now() + DEADLINE;
                    let mut bus = Self::new(stream, deadline);
                    bus.authenticate(addresses)?;
                    if !peer {
                        bus.join()?;
                    }
                    return Ok(bus);
                }
                Some(Err(error)) => failure = error,
                None => {}
            }
        }
        Err(Error::Connect { address: addresses.to_owned(), source: failure })
    }

    fn new(stream: UnixStream, deadline: Instant) -> Self {
        Self { stream, deadline, serial: 0, early: Vec::new(), ended: Vec::new() }
    }

    /// Says all at once, as sd-bus does: a server of sd-bus that finds the first message behind BEGIN in what it reads
    /// leaves it there until more comes, so that one waits for OK.
    fn authenticate(&mut self, address: &str) -> Result<(), Error> {
        self.send(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n")?;
        let mut said = Vec::new();
        loop {
            while let Some(end) = said.windows(2).position(|pair| pair == b"\r\n") {
                // Behind the last line systemd may have sent signals already.
                let rest = said.split_off(end + 2);
                if said.starts_with(b"OK ") {
                    self.early = rest;
                    return Ok(());
                }
                if said != b"DATA\r\n" {
                    let answer = String::from_utf8_lossy(&said).trim().to_owned();
                    return Err(Error::Rejected { address: address.to_owned(), answer });
                }
                said = rest;
            }
            if said.len() > LONGEST_LINE {
                return Err(Error::Malformed);
            }
            let mut part = [0; 256];
            let count = self.read(&mut part)?;
            said.extend_from_slice(part.get(..count).unwrap_or_default());
        }
    }

    /// Says hello to the bus and asks it for the signals that jobs end with. To have them, a client of a bus must
    /// also be known to systemd.
    fn join(&mut self) -> Result<(), Error> {
        self.call(&BUS, "Hello", "", &Writer::default())?;
        let mut rule = Writer::default();
        rule.string(
            "type='signal',interface='org.freedesktop.systemd1.Manager',member='JobRemoved'",
        );
        self.call(&BUS, "AddMatch", "s", &rule)?;
        let serial = self.next_serial();
        let subscribe =
            call(serial, NO_REPLY_EXPECTED, &super::MANAGER, "Subscribe", "", &Writer::default());
        self.send(&subscribe)
    }

    fn next_serial(&mut self) -> u32 {
        self.serial += 1;
        self.serial
    }

    /// Calls a method and returns what its answer holds.
    pub(super) fn call(
        &mut self,
        object: &Object,
        member: &'static str,
        signature: &str,
        body: &Writer,
    ) -> Result<Answer, Error> {
        let serial = self.next_serial();
        self.send(&call(serial, 0, object, member, signature, body))?;
        loop {
            let message = self.next()?;
            match message.kind {
                METHOD_RETURN if message.reply_to == serial => return Ok(Answer(message.body)),
                ERROR if message.reply_to == serial => {
                    let text = Reader::new(&message.body).string().unwrap_or_default().to_owned();
                    return Err(Error::Refused { member, name: message.error, text });
                }
                _ => self.note(&message),
            }
        }
    }

    /// Waits until a job has ended, and says how.
    pub(super) fn job(&mut self, job: &str) -> Result<String, Error> {
        loop {
            if let Some((_, result)) = self.ended.iter().find(|(path, _)| path == job) {
                return Ok(result.clone());
            }
            let message = self.next()?;
            self.note(&message);
        }
    }

    fn note(&mut self, message: &Message) {
        if message.kind != SIGNAL || message.member != "JobRemoved" {
            return;
        }
        let mut reader = Reader::new(&message.body);
        let (_id, path) = (reader.u32(), reader.string());
        let (_unit, result) = (reader.string(), reader.string());
        if let (Some(path), Some(result)) = (path, result) {
            self.ended.push((path.to_owned(), result.to_owned()));
        }
    }

    fn next(&mut self) -> Result<Message, Error> {
        let mut bytes = vec![0; FIXED];
        self.receive(&mut bytes)?;
        let length = message_length(&bytes).ok_or(Error::Malformed)?;
        bytes.resize(length, 0);
        self.receive(bytes.get_mut(FIXED..).unwrap_or_default())?;
        parse(&bytes).ok_or(Error::Malformed)
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let time = self.time()?;
        self.stream
            .set_write_timeout(Some(time))
            .and_then(|()| self.stream.write_all(bytes))
            .map_err(talk)
    }

    /// Fills the buffer.
    fn receive(&mut self, buffer: &mut [u8]) -> Result<(), Error> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            filled += self.read(rest)?;
        }
        Ok(())
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        if !self.early.is_empty() {
            let count = buffer.len().min(self.early.len());
            buffer.iter_mut().zip(self.early.drain(..count)).for_each(|(to, byte)| *to = byte);
            return Ok(count);
        }
        loop {
            let time = self.time()?;
            self.stream.set_read_timeout(Some(time)).map_err(talk)?;
            match self.stream.read(buffer) {
                Ok(0) => return Err(talk(io::ErrorKind::UnexpectedEof.into())),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other.map_err(talk),
            }
        }
    }

    /// What is left of it; zero would mean for ever.
    fn time(&self) -> Result<Duration, Error> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(Error::Timeout) } else { Ok(left.max(Duration::from_millis(1))) }
    }
}

fn talk(source: io::Error) -> Error {
    match source.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Error::Timeout,
        _ => Error::Talk(source),
    }
}

/// The body of an answer.
#[derive(Debug)]
pub(super) struct Answer(Vec<u8>);

impl Answer {
    pub(super) fn reader(&self) -> Reader<'_> {
        Reader::new(&self.0)
    }
}

fn open(address: &SocketAddrUnix) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // For the connection itself: one is refused no earlier than the queue of a stuck server has room.
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(DEADLINE))?;
    rustix::net::connect(&socket, address)?;
    Ok(socket.into())
}

/// The socket of an address as the specification writes it; `None` if it names none.
fn address_of(address: &str) -> Option<SocketAddrUnix> {
    let keys = address.strip_prefix("unix:")?;
    keys.split(',').filter_map(|key| key.split_once('=')).find_map(|(key, value)| match key {
        "path" => SocketAddrUnix::new(unescape(value)?).ok(),
        "abstract" => SocketAddrUnix::new_abstract_name(&unescape(value)?).ok(),
        _ => None,
    })
}

fn unescape(value: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(if byte == b'%' {
            let mut digit = || char::from(rest.next()?).to_digit(16);
            u8::try_from(digit()? * 16 + digit()?).ok()?
        } else {
            byte
        });
    }
    Some(bytes)
}

#[cfg(test)]
#[path = "bus_tests.rs"]
mod tests;
