//! The content of a blob, whose compression is known by its first bytes.
//!
//! gzip may have any number of members (estargz has one for each file), zstd any number of frames,
//! among them ones to skip (zstd:chunked keeps its table there). A zstd frame says how large a
//! window it needs; windows above [`MAX_WINDOW`] are refused, smaller ones taken from the budget of
//! all layers before the frame is begun. RFC 8878, section 3.1.

use std::io::{self, BufRead, Read};

use zstd::zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer, get_error_name};

use super::gate::{MAX_WINDOW, USUAL_WINDOW, Windows};
use super::places::Place;

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Frames that decoders pass over: `0x184D2A50` to `0x184D2A5F`.
const SKIPPED: [u8; 3] = [0x2a, 0x4d, 0x18];
/// The base 2 logarithm of [`MAX_WINDOW`].
const MAX_WINDOW_LOG: u32 = MAX_WINDOW.ilog2();

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(
        "a zstd window of {window} bytes; at most {MAX_WINDOW} are accepted: compress the layer again without --long or --ultra"
    )]
    Window { window: u64 },
    #[error("incomplete zstd frame")]
    Incomplete,
    #[error("no zstd frame begins with {0}")]
    Magic(String),
    #[error("zstd: {0}")]
    Zstd(&'static str),
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match error {
            Error::Incomplete => io::ErrorKind::UnexpectedEof,
            _ => io::ErrorKind::InvalidData,
        };
        Self::new(kind, error)
    }
}

/// Is this the beginning of something that [`decompress`] does not hand through?
pub(super) fn is_compressed(head: &[u8]) -> bool {
    head.starts_with(&GZIP) || is_zstd(head)
}

fn is_zstd(head: &[u8]) -> bool {
    head.starts_with(&ZSTD) || is_skipped(head)
}

fn is_skipped(head: &[u8]) -> bool {
    head.len() >= 4 && head[0] & 0xf0 == 0x50 && head[1..4] == SKIPPED
}

pub(super) fn decompress<'a>(
    mut blob: impl BufRead + Send + 'a,
    windows: Windows,
) -> io::Result<Box<dyn Read + Send + 'a>> {
    // A reader may give a byte at a time; the longest magic has four.
    let mut head = [0; 4];
    let have = read_full(&mut blob, &mut head)?;
    let input = io::Cursor::new(head).take(have as u64).chain(blob);
    Ok(if head.starts_with(&GZIP) {
        Box::new(flate2::bufread::MultiGzDecoder::new(input))
    } else if is_zstd(&head[..have]) {
        Box::new(Zstd::new(input, windows))
    } else {
        Box::new(input)
    })
}

/// As much as there is.
fn read_full(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut have = 0;
    while have < buffer.len() {
        match input.read(&mut buffer[have..]) {
            Ok(0) => break,
            Ok(read) => have += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(have)
}

struct Zstd<R> {
    input: R,
    windows: Windows,
    /// The decoder and its part of the budget, once a frame has begun.
    context: Option<(DCtx<'static>, Place)>,
    within: bool,
}

impl<R: BufRead> Zstd<R> {
    fn new(input: R, windows: Windows) -> Self {
        Self { input, windows, context: None, within: false }
    }

    /// Reads the header of the next frame and hands it to a decoder; `false` at the end.
    fn begin(&mut self) -> io::Result<bool> {
        // Magic, descriptor, window, dictionary, content size.
        let mut head = [0; 4 + 1 + 1 + 4 + 8];
        loop {
            match read_full(&mut self.input, &mut head[..4])? {
                0 => return Ok(false),
                4 => {}
                _ => return Err(Error::Incomplete.into()),
            }
            if !is_skipped(&head[..4]) {
                break;
            }
            let mut length = [0; 4];
            self.exactly(&mut length)?;
            let length = u64::from(u32::from_le_bytes(length));
            let skipped = io::copy(&mut self.input.by_ref().take(length), &mut io::sink())?;
            if skipped < length {
                return Err(Error::Incomplete.into());
            }
        }
        if !head.starts_with(&ZSTD) {
            return Err(Error::Magic(hex::encode(&head[..4])).into());
        }
        self.exactly(&mut head[4..5])?;
        let length = header_length(head[4]);
        self.exactly(&mut head[5..length])?;
        let window = window(&head[4..length]);
        if window > MAX_WINDOW {
            return Err(Error::Window { window }.into());
        }
        let context = self.context(window)?;
        let mut input = InBuffer::around(&head[..length]);
        let mut output = OutBuffer::around(&mut [][..]);
        while input.pos() < length {
            let before = input.pos();
            context.decompress_stream(&mut output, &mut input).map_err(failed)?;
            if input.pos() == before {
                return Err(Error::Zstd("a frame header that is not understood").into());
            }
        }
        self.within = true;
        Ok(true)
    }

    fn exactly(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        let wanted = buffer.len();
        if read_full(&mut self.input, buffer)? < wanted {
            return Err(Error::Incomplete.into());
        }
        Ok(())
    }

    /// A decoder that has the budget for a window of this size.
    fn context(&mut self, window: u64) -> io::Result<&mut DCtx<'static>> {
        let enough = self.context.as_ref().is_some_and(|(_, held)| held.units() >= window);
        if !enough {
            // What is held is given back first: two layers that both want more would wait for
            // each other.
            self.context = None;
            let held = self.windows.take(window.max(USUAL_WINDOW));
            let held = held.ok_or(Error::Zstd("out of memory"))?;
            let mut context = DCtx::try_create().ok_or(Error::Zstd("out of memory"))?;
            context.set_parameter(DParameter::WindowLogMax(MAX_WINDOW_LOG)).map_err(failed)?;
            self.context = Some((context, held));
        }
        match &mut self.context {
            Some((context, _)) => Ok(context),
            None => Err(Error::Zstd("out of memory").into()),
        }
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if !self.within && !self.begin()? {
                return Ok(0);
            }
            let Some((context, _)) = &mut self.context else { return Ok(0) };
            let bytes = self.input.fill_buf()?;
            let ended = bytes.is_empty();
            let mut input = InBuffer::around(bytes);
            let mut output = OutBuffer::around(&mut *buffer);
            let wanted = context.decompress_stream(&mut output, &mut input).map_err(failed)?;
            let (used, made) = (input.pos(), output.pos());
            self.input.consume(used);
            self.within = wanted != 0;
            if made > 0 {
                return Ok(made);
            }
            if ended && self.within {
                return Err(Error::Incomplete.into());
            }
        }
    }
}

fn failed(code: usize) -> io::Error {
    Error::Zstd(get_error_name(code)).into()
}

/// Bytes of a frame's header, by its descriptor.
fn header_length(descriptor: u8) -> usize {
    let single = descriptor & 0x20 != 0;
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let content = match descriptor >> 6 {
        0 => usize::from(single),
        1 => 2,
        2 => 4,
        _ => 8,
    };
    5 + usize::from(!single) + dictionary + content
}

/// The window of a frame; `header` begins with the descriptor.
fn window(header: &[u8]) -> u64 {
    let descriptor = header.first().copied().unwrap_or(0);
    if descriptor & 0x20 == 0 {
        let byte = header.get(1).copied().unwrap_or(0);
        let base = 1_u64 << (10 + (byte >> 3));
        return base + base / 8 * u64::from(byte & 7);
    }
    // A single segment: as large as its content, whose size ends the header.
    let size = match descriptor >> 6 {
        0 => 1,
        1 => 2,
        2 => 4,
        _ => 8,
    };
    let mut content = [0; 8];
    let field = &header[header.len().saturating_sub(size)..];
    content[..field.len()].copy_from_slice(field);
    u64::from_le_bytes(content) + if size == 2 { 256 } else { 0 }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::io::Write as _;

    use proptest::prelude::*;

    use super::*;

    /// Gives a byte at a time.
    struct Slow<'a>(&'a [u8]);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let most = buffer.len().min(1);
            self.0.read(&mut buffer[..most])
        }
    }

    impl BufRead for Slow<'_> {
        fn fill_buf(&mut self) -> io::Result<&[u8]> {
            Ok(&self.0[..self.0.len().min(1)])
        }

        fn consume(&mut self, bytes: usize) {
            self.0 = &self.0[bytes..];
        }
    }

    fn read(blob: &[u8]) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        decompress(blob, Windows::default())?.read_to_end(&mut content)?;
        let mut slowly = Vec::new();
        decompress(Slow(blob), Windows::default())?.read_to_end(&mut slowly)?;
        assert_eq!(content, slowly);
        Ok(content)
    }

    fn zstd(content: &[u8], window_log: Option<u32>) -> Vec<u8> {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
        if let Some(log) = window_log {
            encoder.window_log(log).unwrap();
        }
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn members_and_frames_follow_each_other() {
        let text = b"content ".repeat(50_000);
        let skipped =
            [b"\x5a\x2a\x4d\x18\x03\0\0\0abc".as_slice(), b"\x50\x2a\x4d\x18\0\0\0\0"].concat();
        let twice = [text.as_slice(), &text].concat();
        for (blob, content) in [
            (text.clone(), text.clone()),
            (Vec::new(), Vec::new()),
            (b"ab".to_vec(), b"ab".to_vec()),
            (gzip(&text), text.clone()),
            ([gzip(&text), gzip(b""), gzip(&text)].concat(), twice.clone()),
            (zstd(&text, None), text.clone()),
            (zstd(b"", None), Vec::new()),
            (zstd::bulk::compress(&text, 1).unwrap(), text.clone()),
            (zstd::bulk::compress(b"x", 1).unwrap(), b"x".to_vec()),
            ([zstd(&text, Some(10)), skipped.clone(), zstd(&text, Some(25))].concat(), twice),
            ([skipped.clone(), zstd(&text, None), skipped].concat(), text.clone()),
        ] {
            assert_eq!(read(&blob).unwrap(), content);
        }
    }

    #[test]
    fn what_is_damaged_or_wants_too_much_is_refused() {
        let text = b"content ".repeat(50_000);
        let whole = zstd(&text, None);
        for (blob, reason) in [
            (zstd(&text, Some(26)), "a zstd window of 67108864 bytes; at most 33554432"),
            (whole[..whole.len() - 2].to_vec(), "incomplete zstd frame"),
            (whole[..5].to_vec(), "incomplete zstd frame"),
            ([whole.as_slice(), b"rubbish"].concat(), "no zstd frame begins with 72756262"),
            ([whole.as_slice(), b"\x50\x2a\x4d\x18\xff\xff\xff\xff"].concat(), "incomplete"),
            (b"\x28\xb5\x2f\xfd\x08\x00rubbish".to_vec(), "zstd"),
            // A single segment of 2⁶⁴ − 1 bytes.
            ([&ZSTD[..], &[0xe0], &[0xff; 8], &[0; 9]].concat(), "18446744073709551615"),
            ([gzip(&text), b"rubbish".repeat(3)].concat(), "invalid gzip header"),
        ] {
            let error = read(&blob).unwrap_err().to_string();
            assert!(error.contains(reason), "{error} does not say {reason}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100), zstd: bool) {
            let magic: &[u8] = if zstd { &ZSTD } else { &GZIP };
            let _ = read(&[magic, &bytes].concat());
        }
    }
}
