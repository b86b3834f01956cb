//! Messages of D-Bus, as far as systemd's are needed: values, calls, answers, signals. Pure.
//!
//! D-Bus Specification 0.43, "Marshaling" and "Message Protocol", in this machine's byte order. Whatever bytes come,
//! reading them ends with a message or with `None`.

/// Longer messages are not meant for us.
pub(super) const LONGEST: usize = 1 << 20;
/// Byte order of this machine, as messages tell it.
pub(super) const ENDIAN: u8 = if cfg!(target_endian = "little") { b'l' } else { b'B' };
pub(super) const VERSION: u8 = 1;
pub(super) const METHOD_CALL: u8 = 1;
pub(super) const METHOD_RETURN: u8 = 2;
pub(super) const ERROR: u8 = 3;
pub(super) const SIGNAL: u8 = 4;
pub(super) const NO_REPLY_EXPECTED: u8 = 1;

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
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    pub(super) fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    pub(super) fn number(&mut self, letter: u8, bits: u64) {
        let size = size(letter);
        self.align(size);
        let bytes = bits.to_ne_bytes();
        let bytes =
            if ENDIAN == b'l' { bytes.get(..size) } else { bytes.get(bytes.len() - size..) };
        self.0.extend_from_slice(bytes.unwrap_or_default());
    }

    pub(super) fn length(&mut self, length: usize) {
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

    pub(super) fn signature(&mut self, signature: &str) {
        self.0.push(u8::try_from(signature.len()).unwrap_or(u8::MAX));
        self.0.extend_from_slice(signature.as_bytes());
        self.0.push(0);
    }

    pub(super) fn array(&mut self, alignment: usize, fill: &mut dyn FnMut(&mut Self)) {
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
    pub(super) fn new(bytes: &'a [u8]) -> Self {
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

    pub(super) fn u32(&mut self) -> Option<u32> {
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
pub(super) struct Message {
    pub(super) kind: u8,
    pub(super) reply_to: u32,
    pub(super) member: String,
    pub(super) error: String,
    pub(super) body: Vec<u8>,
}

/// Bytes of the part of the header that says how long the rest is.
pub(super) const FIXED: usize = 16;

/// How long the message is that begins so; `None` if it is none, or too long.
pub(super) fn message_length(fixed: &[u8]) -> Option<usize> {
    let mut reader = Reader::new(fixed);
    let [ENDIAN, _kind, _flags, VERSION] = reader.take(4)? else { return None };
    let body = usize::try_from(reader.u32()?).ok()?;
    let _serial = reader.u32()?;
    let fields = usize::try_from(reader.u32()?).ok()?;
    let length = FIXED.checked_add(fields)?.checked_next_multiple_of(8)?.checked_add(body)?;
    (length <= LONGEST).then_some(length)
}

pub(super) fn parse(bytes: &[u8]) -> Option<Message> {
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

/// A call as bytes.
pub(super) fn call(
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

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
