//! The part of the D-Bus protocol that the conversation with systemd takes, blocking and with a deadline.
//!
//! D-Bus Specification 0.43: "Authentication Protocol" (EXTERNAL, the identity left to the socket's credentials, so
//! that a user namespace need not know its number outside), "Marshaling" and "Message Protocol" in this machine's byte
//! order. A message that is not understood ends the conversation: it may come from whoever owns the socket.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

use super::Error;

/// How long systemd may take for whatever is asked in one conversation, as in runc.
pub(super) const DEADLINE: Duration = Duration::from_secs(30);
/// Longer messages are not meant for us.
const LONGEST: usize = 1 << 20;
/// Byte order of this machine, as messages tell it.
const ENDIAN: u8 = if cfg!(target_endian = "little") { b'l' } else { b'B' };
const VERSION: u8 = 1;
const METHOD_CALL: u8 = 1;
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;
const NO_REPLY_EXPECTED: u8 = 1;

/// A value of one of the types that units have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    /// A fixed type by its letter of the specification, and its bits.
    Number(u8, u64),
    Text(String),
    /// Two strings, as `(ss)`.
    Pair(String, String),
    /// Elements, and the signature of one.
    Array(&'static str, Vec<Value>),
}

impl Value {
    pub(super) fn text(text: &str) -> Self {
        Self::Text(text.to_owned())
    }

    pub(super) fn signature(&self) -> String {
        match self {
            Self::Number(letter, _) => char::from(*letter).to_string(),
            Self::Text(_) => "s".to_owned(),
            Self::Pair(..) => "(ss)".to_owned(),
            Self::Array(element, _) => format!("a{element}"),
        }
    }
}

/// Name and value of a unit's property.
pub(super) type Property = (String, Value);

/// Bytes of a fixed type, which are its alignment too.
fn size(letter: u8) -> usize {
    match letter {
        b'y' => 1,
        b'n' | b'q' => 2,
        b'x' | b't' | b'd' => 8,
        _ => 4,
    }
}

/// Marshals values, aligned from its beginning.
#[derive(Debug, Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    fn number(&mut self, letter: u8, bits: u64) {
        let size = size(letter);
        self.align(size);
        let bytes = bits.to_ne_bytes();
        let bytes =
            if ENDIAN == b'l' { bytes.get(..size) } else { bytes.get(bytes.len() - size..) };
        self.0.extend_from_slice(bytes.unwrap_or_default());
    }

    fn length(&mut self, length: usize) {
        self.number(b'u', u64::try_from(length).unwrap_or(u64::MAX));
    }

    pub(super) fn string(&mut self, text: &str) -> &mut Self {
        self.length(text.len());
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(0);
        self
    }

    pub(super) fn boolean(&mut self, value: bool) -> &mut Self {
        self.number(b'b', u64::from(value));
        self
    }

    fn signature(&mut self, signature: &str) {
        self.0.push(u8::try_from(signature.len()).unwrap_or(u8::MAX));
        self.0.extend_from_slice(signature.as_bytes());
        self.0.push(0);
    }

    fn array(&mut self, alignment: usize, fill: &mut dyn FnMut(&mut Self)) {
        self.length(0);
        let length_end = self.0.len();
        self.align(alignment);
        let start = self.0.len();
        fill(self);
        let length = u32::try_from(self.0.len() - start).unwrap_or(u32::MAX).to_ne_bytes();
        if let Some(place) = self.0.get_mut(length_end - length.len()..length_end) {
            place.copy_from_slice(&length);
        }
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Number(letter, bits) => self.number(*letter, *bits),
            Value::Text(text) => {
                self.string(text);
            }
            Value::Pair(first, second) => {
                self.align(8);
                self.string(first).string(second);
            }
            Value::Array(element, values) => {
                let alignment = match element.bytes().next() {
                    Some(b'(') => 8,
                    Some(letter) => size(letter),
                    None => 1,
                };
                self.array(alignment, &mut |writer| {
                    values.iter().for_each(|value| writer.value(value));
                });
            }
        }
    }

    fn variant(&mut self, value: &Value) {
        self.signature(&value.signature());
        self.value(value);
    }

    /// As `a(sv)`.
    pub(super) fn properties(&mut self, properties: &[Property]) -> &mut Self {
        self.array(8, &mut |writer| {
            for (name, value) in properties {
                writer.align(8);
                writer.string(name).variant(value);
            }
        });
        self
    }

    /// An array of structures without any in it.
    pub(super) fn nothing(&mut self) -> &mut Self {
        self.array(8, &mut |_| {});
        self
    }
}

/// Takes values out of a message; `None` where there is no such value.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(length)?)?;
        self.at += length;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u32(&mut self) -> Option<u32> {
        self.align(4);
        Some(u32::from_ne_bytes(self.take(4)?.try_into().ok()?))
    }

    fn text(&mut self, length: usize) -> Option<&'a str> {
        let text = std::str::from_utf8(self.take(length)?).ok()?;
        self.byte().filter(|&end| end == 0).map(|_| text)
    }

    pub(super) fn string(&mut self) -> Option<&'a str> {
        let length = usize::try_from(self.u32()?).ok()?;
        self.text(length)
    }

    fn signature(&mut self) -> Option<&'a str> {
        let length = usize::from(self.byte()?);
        self.text(length)
    }

    /// A string in a variant.
    pub(super) fn variant_string(&mut self) -> Option<&'a str> {
        self.signature().filter(|&signature| signature == "s")?;
        self.string()
    }
}

/// A message that was received.
#[derive(Debug, Default, PartialEq, Eq)]
struct Message {
    kind: u8,
    reply_to: u32,
    member: String,
    error: String,
    body: Vec<u8>,
}

/// Bytes of the part of the header that says how long the rest is.
const FIXED: usize = 16;

/// How long the message is that begins so; `None` if it is none, or too long.
fn message_length(fixed: &[u8]) -> Option<usize> {
    let mut reader = Reader::new(fixed);
    let [ENDIAN, _kind, _flags, VERSION] = reader.take(4)? else { return None };
    let body = usize::try_from(reader.u32()?).ok()?;
    let _serial = reader.u32()?;
    let fields = usize::try_from(reader.u32()?).ok()?;
    let length = FIXED.checked_add(fields)?.checked_next_multiple_of(8)?.checked_add(body)?;
    (length <= LONGEST).then_some(length)
}

fn parse(bytes: &[u8]) -> Option<Message> {
    let mut reader = Reader::new(bytes);
    let mut message = Message { kind: *bytes.get(1)?, ..Message::default() };
    reader.at = FIXED - 4;
    let end = FIXED + usize::try_from(reader.u32()?).ok()?;
    while reader.at < end {
        reader.align(8);
        let field = reader.byte()?;
        match (field, reader.signature()?) {
            (3, "s") => message.member = reader.string()?.to_owned(),
            (4, "s") => message.error = reader.string()?.to_owned(),
            (5, "u") => message.reply_to = reader.u32()?,
            (_, "s" | "o") => drop(reader.string()?),
            (_, "g") => drop(reader.signature()?),
            (_, "u") => drop(reader.u32()?),
            _ => return None,
        }
    }
    reader.align(8);
    message.body = bytes.get(reader.at..)?.to_owned();
    Some(message)
}

/// What a method is called on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Object {
    pub(super) destination: &'static str,
    pub(super) path: &'static str,
    pub(super) interface: &'static str,
}

const BUS: Object = Object {
    destination: "org.freedesktop.DBus",
    path: "/org/freedesktop/DBus",
    interface: "org.freedesktop.DBus",
};

/// A call as bytes.
fn call(
    serial: u32,
    flags: u8,
    object: &Object,
    member: &str,
    signature: &str,
    body: &Writer,
) -> Vec<u8> {
    let mut message = Writer(vec![ENDIAN, METHOD_CALL, flags, VERSION]);
    message.length(body.0.len());
    message.number(b'u', u64::from(serial));
    message.array(8, &mut |writer| {
        for (field, kind, text) in [
            (1, "o", object.path),
            (3, "s", member),
            (2, "s", object.interface),
            (6, "s", object.destination),
            (8, "g", signature),
        ] {
            if text.is_empty() {
                continue;
            }
            writer.align(8);
            writer.0.push(field);
            writer.signature(kind);
            if kind == "g" {
                writer.signature(text);
            } else {
                writer.string(text);
            }
        }
    });
    message.align(8);
    message.0.extend_from_slice(&body.0);
    message.0
}

/// A conversation with systemd.
#[derive(Debug)]
pub(super) struct Bus {
    stream: UnixStream,
    deadline: Instant,
    serial: u32,
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
                    let mut bus = Self { stream, deadline, serial: 0, ended: Vec::new() };
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

    /// Says all at once, as sd-bus does: a server of sd-bus that finds the first message behind BEGIN in what it reads
    /// leaves it there until more comes, so that one waits for OK.
    fn authenticate(&mut self, address: &str) -> Result<(), Error> {
        self.send(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n")?;
        let mut said = Vec::new();
        loop {
            let mut part = [0; 256];
            let count = self.read(&mut part)?;
            said.extend_from_slice(part.get(..count).unwrap_or_default());
            let answer = said.strip_prefix(b"DATA\r\n").unwrap_or(&said);
            if answer.ends_with(b"\r\n") {
                if answer.starts_with(b"OK ") {
                    return Ok(());
                }
                let answer = String::from_utf8_lossy(answer).trim().to_owned();
                return Err(Error::Rejected { address: address.to_owned(), answer });
            }
            if said.len() > LONGEST {
                return Err(Error::Malformed);
            }
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
