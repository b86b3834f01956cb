//! Docker's `json-file` format: one JSON object per line, rotated by size.
//!
//! ```text
//! {"log":"hello\n","stream":"stdout","time":"2026-11-21T10:00:00.123456789Z"}
//! <log>  <log>.1  <log>.2 …      newest first, `max-file` in all
//! ```
//! The encoding is Docker's to the byte: what is no UTF-8 becomes U+FFFD, one for each byte, and
//! the part of a line that is not its last has no newline.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use protocol::monitor::Stream;

use crate::logs::crash;
use crate::logs::lines::Line;

/// The driver's options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Bytes at which the file is rotated; `None`: never.
    pub max_size: Option<u64>,
    /// Files kept, the current one included; at least 1.
    pub max_file: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self { max_size: None, max_file: 1 }
    }
}

/// An option has a value that the driver does not take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    #[error(
        "json-file option max-size is {0:?}: must be a positive number with an optional unit (k, m, g)"
    )]
    MaxSize(String),
    #[error("json-file option max-file is {0:?}: must be a whole number of at least 1")]
    MaxFile(String),
    #[error("json-file option {0:?} is not supported: known are max-file, max-size")]
    Unknown(String),
}

impl Options {
    /// Reads `logConfiguration.options`.
    ///
    /// # Errors
    /// For an unknown option or a bad value.
    pub fn parse(options: &BTreeMap<String, String>) -> Result<Self, OptionError> {
        let mut parsed = Self::default();
        for (name, value) in options {
            match name.as_str() {
                "max-size" => {
                    let size = human_size(value);
                    parsed.max_size =
                        Some(size.ok_or_else(|| OptionError::MaxSize(value.clone()))?);
                }
                "max-file" => {
                    let files = value.parse().ok().filter(|files| *files >= 1);
                    parsed.max_file = files.ok_or_else(|| OptionError::MaxFile(value.clone()))?;
                }
                _ => return Err(OptionError::Unknown(name.clone())),
            }
        }
        Ok(parsed)
    }
}

/// Docker's sizes: decimal units, an optional `b` or `ib` behind them changes nothing.
fn human_size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().ok()?;
    let unit = unit.trim_start().to_ascii_lowercase();
    let unit = unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')).unwrap_or(&unit);
    let factor = match unit {
        "" => 1.0,
        "k" => 1e3,
        "m" => 1e6,
        "g" => 1e9,
        "t" => 1e12,
        "p" => 1e15,
        _ => return None,
    };
    let size = number * factor;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "positive and below 2^63"
    )]
    (1.0..9e18).contains(&size).then_some(size as u64)
}

/// Writing the log failed.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("open log {path}")]
    Open { path: PathBuf, source: io::Error },
    #[error("write log {path}")]
    Write { path: PathBuf, source: io::Error },
    #[error("cut log {path} back to what was recorded")]
    Truncate { path: PathBuf, source: io::Error },
    #[error("rotate log {path}")]
    Rotate { path: PathBuf, source: io::Error },
}

/// Which file the log is and how long: what a later writer must find.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Mark {
    pub inode: u64,
    pub length: u64,
}

/// Writes one log.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    options: Options,
    file: File,
    inode: u64,
    /// Bytes in the file.
    length: u64,
    /// Encoded and not yet in the file.
    buffer: Vec<u8>,
    clock: ClockText,
}

impl Writer {
    /// Opens or creates the log. With the mark of an earlier writer, whatever was written after it
    /// is cut off.
    ///
    /// # Errors
    /// If the file cannot be opened, inspected or cut.
    pub fn open(path: &Path, options: Options, mark: Option<Mark>) -> Result<Self, WriteError> {
        let failed = |source| WriteError::Open { path: path.to_owned(), source };
        let file = create(path, false).map_err(failed)?;
        let (inode, size) = {
            let metadata = file.metadata().map_err(failed)?;
            (metadata.ino(), metadata.len())
        };
        let length = match mark {
            Some(mark) if mark.inode == inode && mark.length <= size => mark.length,
            // Rotated, but not recorded: nothing that was recorded is in the new file.
            Some(mark) if mark.inode != inode && rotated_is(path, mark.inode) => 0,
            Some(mark) if mark.inode != inode && options.max_file == 1 => 0,
            // After a power failure the end may be missing or torn.
            _ => whole_lines(&file, size).map_err(failed)?,
        };
        if length != size {
            file.set_len(length)
                .map_err(|source| WriteError::Truncate { path: path.to_owned(), source })?;
        }
        Ok(Self {
            path: path.to_owned(),
            options,
            file,
            inode,
            length,
            buffer: Vec::new(),
            clock: ClockText::default(),
        })
    }

    /// What is in the file.
    pub fn mark(&self) -> Mark {
        Mark { inode: self.inode, length: self.length }
    }

    /// The next line belongs into a new file.
    pub fn is_full(&self) -> bool {
        let length = self.length + self.buffer.len() as u64;
        self.options.max_size.is_some_and(|max| length >= max)
    }

    /// Encodes a line; [`Writer::flush`] writes it.
    pub fn push(&mut self, line: Line<'_>, stream: Stream) {
        encode(line, stream, self.clock.of(line.time), &mut self.buffer);
    }

    /// Writes what was pushed.
    ///
    /// # Errors
    /// If the file cannot be written; the writer is then to be dropped and opened again.
    pub fn flush(&mut self) -> Result<(), WriteError> {
        crash::point()
            .and_then(|()| self.file.write_all_at(&self.buffer, self.length))
            .map_err(|source| WriteError::Write { path: self.path.clone(), source })?;
        self.length += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Waits until the file's contents would survive a power failure.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn sync(&self) -> Result<(), WriteError> {
        self.file
            .sync_data()
            .map_err(|source| WriteError::Write { path: self.path.clone(), source })
    }

    /// Starts a new file. Everything pushed is flushed, and its mark recorded.
    ///
    /// # Errors
    /// If a file cannot be renamed or created; repeating it is safe.
    pub fn rotate(&mut self) -> Result<(), WriteError> {
        let failed = |source| WriteError::Rotate { path: self.path.clone(), source };
        if self.options.max_file > 1 {
            // Only up to the first free name, so that a rotation that was killed half-way goes on
            // where it was and drops nothing twice.
            let free = (1..self.options.max_file - 1)
                .find(|n| !rotated(&self.path, *n).exists())
                .unwrap_or(self.options.max_file - 1);
            for n in (1..free).rev() {
                rename(&rotated(&self.path, n), &rotated(&self.path, n + 1)).map_err(failed)?;
            }
            rename(&self.path, &rotated(&self.path, 1)).map_err(failed)?;
            crash::point().map_err(failed)?;
            self.file = create(&self.path, true).map_err(failed)?;
        } else {
            // Beside the old file, so that it gets another inode.
            let mut new = self.path.clone().into_os_string();
            new.push(".new");
            let new = PathBuf::from(new);
            self.file = create(&new, true).map_err(failed)?;
            rename(&new, &self.path).map_err(failed)?;
        }
        self.inode = self.file.metadata().map_err(failed)?.ino();
        self.length = 0;
        Ok(())
    }
}

fn rename(from: &Path, to: &Path) -> io::Result<()> {
    crash::point()?;
    std::fs::rename(from, to)
}

fn create(path: &Path, truncate: bool) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(truncate).mode(0o640).open(path)
}

/// Path of the `n`th older file.
pub fn rotated(path: &Path, n: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{n}"));
    PathBuf::from(name)
}

fn rotated_is(path: &Path, inode: u64) -> bool {
    std::fs::metadata(rotated(path, 1)).is_ok_and(|metadata| metadata.ino() == inode)
}

/// Length up to the last newline, from at most the last 256 KiB (no line is longer).
fn whole_lines(file: &File, size: u64) -> io::Result<u64> {
    let from = size.saturating_sub(256 * 1024);
    let mut tail = vec![0; usize::try_from(size - from).unwrap_or(0)];
    file.read_exact_at(&mut tail, from)?;
    Ok(memchr::memrchr(b'\n', &tail).map_or(from, |n| from + n as u64 + 1))
}

/// The last time printed: lines that came together share it.
#[derive(Debug, Default)]
struct ClockText {
    time: u64,
    text: String,
}

impl ClockText {
    fn of(&mut self, time: u64) -> &str {
        if self.text.is_empty() || self.time != time {
            self.time = time;
            self.text = rfc3339(time);
        }
        &self.text
    }
}

/// Go's `time.RFC3339Nano` of nanoseconds since the epoch: no zeros at the fraction's end.
pub fn rfc3339(time: u64) -> String {
    Timestamp::from_nanosecond(i128::from(time)).unwrap_or(Timestamp::MAX).to_string()
}

fn encode(line: Line<'_>, stream: Stream, time: &str, out: &mut Vec<u8>) {
    out.reserve(line.bytes.len() + 80);
    out.extend_from_slice(b"{\"log\":\"");
    for chunk in line.bytes.utf8_chunks() {
        escape(chunk.valid(), out);
        for _ in chunk.invalid() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
    if line.newline {
        out.extend_from_slice(b"\\n");
    }
    out.extend_from_slice(match stream {
        Stream::Stdout => b"\",\"stream\":\"stdout\",\"time\":\"",
        Stream::Stderr => b"\",\"stream\":\"stderr\",\"time\":\"",
    });
    out.extend_from_slice(time.as_bytes());
    out.extend_from_slice(b"\"}\n");
}

/// What stands for a byte in a JSON string: itself (0), a two-character escape, or `\u00xx` (1).
const ESCAPES: [u8; 256] = {
    let mut table = [0; 256];
    let mut n = 0;
    while n < 0x20 {
        table[n] = 1;
        n += 1;
    }
    table[b'\n' as usize] = b'n';
    table[b'\r' as usize] = b'r';
    table[b'"' as usize] = b'"';
    table[b'\\' as usize] = b'\\';
    // As Go's encoder: safe to embed in HTML.
    table[b'<' as usize] = 1;
    table[b'>' as usize] = 1;
    table[b'&' as usize] = 1;
    // First byte of U+2028 and U+2029, which are no JavaScript.
    table[0xE2] = 2;
    table
};

fn escape(text: &str, out: &mut Vec<u8>) {
    let bytes = text.as_bytes();
    let mut plain = 0;
    for (n, byte) in bytes.iter().enumerate() {
        let escape = ESCAPES[usize::from(*byte)];
        if escape == 0 {
            continue;
        }
        if escape == 2 {
            if let Some([0xE2, 0x80, last @ (0xA8 | 0xA9)]) = bytes.get(n..n + 3) {
                out.extend_from_slice(&bytes[plain..n]);
                out.extend_from_slice(if *last == 0xA8 { b"\\u2028" } else { b"\\u2029" });
                plain = n + 3;
            }
            continue;
        }
        out.extend_from_slice(&bytes[plain..n]);
        plain = n + 1;
        if escape == 1 {
            const HEX: &[u8; 16] = b"0123456789abcdef";
            out.extend_from_slice(b"\\u00");
            out.push(HEX[usize::from(byte >> 4)]);
            out.push(HEX[usize::from(byte & 15)]);
        } else {
            out.extend_from_slice(&[b'\\', escape]);
        }
    }
    out.extend_from_slice(&bytes[plain..]);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn line(text: &str) -> Line<'_> {
        Line { bytes: text.as_bytes(), newline: true, time: 1_795_262_400_500_000_000 }
    }

    #[test]
    fn encoding_is_dockers() {
        for (bytes, newline, log) in [
            (&b"hello"[..], true, r"hello\n"),
            (b"", true, r"\n"),
            (b"part", false, "part"),
            (b"cr\r", true, r"cr\r\n"),
            (b"tab\tbell\x07nul\0", false, r"tab\u0009bell\u0007nul\u0000"),
            (b"\"quoted\\\"", false, r#"\"quoted\\\""#),
            (b"<a href='x'>&</a>", false, r"\u003ca href='x'\u003e\u0026\u003c/a\u003e"),
            ("é€😀".as_bytes(), false, "é€😀"),
            ("\u{2028}\u{2029}\u{2030}".as_bytes(), false, "\\u2028\\u2029\u{2030}"),
            (b"a\xff\xe2\x82b", false, r"a\ufffd\ufffd\ufffdb"),
        ] {
            let mut out = Vec::new();
            encode(Line { bytes, newline, time: 0 }, Stream::Stderr, "T", &mut out);
            let expected = format!("{{\"log\":\"{log}\",\"stream\":\"stderr\",\"time\":\"T\"}}\n");
            assert_eq!(String::from_utf8(out).unwrap(), expected);
            assert!(serde_json::from_str::<serde_json::Value>(&expected).is_ok(), "{expected}");
        }
    }

    #[test]
    fn times_are_gos() {
        assert_eq!(rfc3339(1_795_262_400_000_000_000), "2026-11-21T12:00:00Z");
        assert_eq!(rfc3339(1_795_262_400_120_000_000), "2026-11-21T12:00:00.12Z");
        assert_eq!(rfc3339(1_795_262_400_000_000_001), "2026-11-21T12:00:00.000000001Z");
    }

    #[test]
    fn options() {
        let parse = |name: &str, value: &str| {
            Options::parse(&BTreeMap::from([(name.to_owned(), value.to_owned())]))
        };
        for (text, bytes) in [
            ("1", 1),
            ("10k", 10_000),
            ("10m", 10_000_000),
            ("1.5MB", 1_500_000),
            ("2 g", 2_000_000_000),
            ("3KiB", 3000),
        ] {
            assert_eq!(parse("max-size", text).unwrap().max_size, Some(bytes), "{text}");
        }
        for text in ["", "0", "-1", "m", "10x", "1e3", "1..2k", "99999999p"] {
            assert!(matches!(parse("max-size", text), Err(OptionError::MaxSize(_))), "{text}");
        }
        assert_eq!(parse("max-file", "3").unwrap().max_file, 3);
        for text in ["0", "-1", "x", ""] {
            assert!(matches!(parse("max-file", text), Err(OptionError::MaxFile(_))), "{text}");
        }
        assert!(matches!(parse("compress", "true"), Err(OptionError::Unknown(_))));
    }

    #[test]
    fn rotation_keeps_max_file_files_under_dockers_names() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("json.log");
        let options = Options { max_size: Some(1), max_file: 3 };
        let mut writer = Writer::open(&path, options, None).unwrap();
        for text in ["one", "two", "three", "four"] {
            if writer.is_full() {
                writer.rotate().unwrap();
            }
            writer.push(line(text), Stream::Stdout);
            writer.flush().unwrap();
        }
        for (path, text) in
            [(path.clone(), "four"), (rotated(&path, 1), "three"), (rotated(&path, 2), "two")]
        {
            assert!(std::fs::read_to_string(&path).unwrap().contains(text), "{path:?}");
        }
        assert!(!rotated(&path, 3).exists());
    }

    #[test]
    fn a_file_torn_by_a_power_failure_is_cut_to_whole_lines() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("json.log");
        std::fs::write(&path, "{\"log\":\"a\"}\n{\"lo").unwrap();
        let inode = std::fs::metadata(&path).unwrap().ino();
        let mark = Mark { inode, length: 100 };
        let writer = Writer::open(&path, Options::default(), Some(mark)).unwrap();
        assert_eq!(writer.mark().length, 12);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 12);
    }
}
