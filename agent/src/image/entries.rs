//! The tar format: ustar, GNU (long names, sparse files, base-256 numbers) and pax, as a stream
//! of entries with bounded memory.
//!
//! Fields of a header are decoded by the `tar` crate. The sequence of headers is ours, because the
//! crate's own iterator holds extension headers of any size in memory, splits pax records at
//! newlines (which binary `security.capability` values contain) and does not bound sparse maps.
//! Where parsers disagree we read as Go's `archive/tar`, which wrote nearly every layer: links,
//! devices and directories have no data, whatever their size field says.

use std::io::{self, Read};

/// The largest extension header, in bytes.
const MAX_EXTENSION: u64 = 1 << 20;
/// Continuation blocks of a GNU sparse map, 21 segments each.
const MAX_SPARSE_BLOCKS: usize = 4096;
const BLOCK: u64 = 512;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("read at byte {at}")]
    Read { at: u64, source: io::Error },
    #[error("malformed tar at byte {at}: {reason}")]
    Malformed { at: u64, reason: &'static str },
}

/// A reader that may know how to pass over bytes without reading them.
pub(super) trait Input: Read + Sized {
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        let skipped = io::copy(&mut self.by_ref().take(bytes), &mut io::sink())?;
        if skipped < bytes { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    /// Reads what becomes content of a file. All else of the archive comes by the other methods.
    fn read_data(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.read(buffer)
    }
}

impl<R: Read> Input for io::BufReader<R> {}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    Symlink,
    HardLink,
    CharDevice,
    BlockDevice,
    Fifo,
    Other(u8),
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) path: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) kind: Kind,
    /// Size of the file that this entry makes.
    pub(super) size: u64,
    pub(super) mode: u32,
    pub(super) uid: u64,
    pub(super) gid: u64,
    /// Seconds since 1970 and nanoseconds.
    pub(super) mtime: (i64, u32),
    pub(super) device: (u32, u32),
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the data goes; one segment unless the file is sparse.
    pub(super) segments: Vec<(u64, u64)>,
}

pub(super) struct Entries<R> {
    input: R,
    /// Bytes read so far.
    at: u64,
    /// Data of the current entry that was not read yet, and the padding after it.
    data: u64,
    padding: u64,
}

#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl<R: Input> Entries<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, at: 0, data: 0, padding: 0 }
    }

    /// Where the data of the current entry begins, if nothing of it was read.
    pub(super) fn position(&self) -> u64 {
        self.at
    }

    /// Reads data of the current entry; 0 at its end.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        let most = usize::try_from(self.data).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let at = self.at;
        let read = self
            .input
            .read_data(&mut buffer[..most])
            .map_err(|source| Error::Read { at, source })?;
        if read == 0 {
            return Err(self.truncated());
        }
        self.at += read as u64;
        self.data -= read as u64;
        Ok(read)
    }

    /// The next entry; `None` at the end of the archive.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, Error> {
        let mut extensions = Extensions::default();
        let mut extended = false;
        loop {
            self.skip_rest()?;
            let Some(block) = self.header()? else {
                return if extended {
                    Err(self.malformed("an extension header describes no entry"))
                } else {
                    Ok(None)
                };
            };
            let header = tar::Header::from_byte_slice(&block);
            let size = header.entry_size().ok().ok_or_else(|| self.malformed("size"))?;
            match header.as_old().linkflag[0] {
                b'x' => {
                    let text = self.extension(size)?;
                    self.pax(&text, &mut extensions)?;
                    extended = true;
                }
                // Global records are comments in practice; Docker ignores them too.
                b'g' => drop(self.extension(size)?),
                b'L' => {
                    extensions.path = Some(until_nul(self.extension(size)?));
                    extended = true;
                }
                b'K' => {
                    extensions.link = Some(until_nul(self.extension(size)?));
                    extended = true;
                }
                flag => return self.entry(header, flag, size, extensions).map(Some),
            }
        }
    }

    /// The reader, for who has the data of the current entry from elsewhere.
    pub(super) fn input(&mut self) -> &mut R {
        &mut self.input
    }

    /// The data of the current entry, `bytes` long, was had from elsewhere.
    pub(super) fn pass_data(&mut self, bytes: u64) -> Result<(), Error> {
        if bytes != self.data {
            return Err(self.malformed("data of another length"));
        }
        self.at += bytes;
        self.data = 0;
        Ok(())
    }

    /// The reader, to drain what follows the archive.
    pub(super) fn into_inner(self) -> R {
        self.input
    }

    fn entry(
        &mut self,
        header: &tar::Header,
        flag: u8,
        size: u64,
        extensions: Extensions,
    ) -> Result<Entry, Error> {
        let path = extensions.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let link = extensions
            .link
            .or_else(|| header.link_name_bytes().map(|name| name.into_owned()))
            .unwrap_or_default();
        if path.contains(&0) || link.contains(&0) {
            return Err(self.malformed("a name contains a zero byte"));
        }
        let stored = extensions.size.unwrap_or(size);
        let kind = match flag {
            0 | b'0' | b'7' if path.ends_with(b"/") && stored == 0 => Kind::Directory,
            0 | b'0' | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::CharDevice,
            b'4' => Kind::BlockDevice,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => Kind::Other(other),
        };
        let (stored, segments, size) = match (kind, flag) {
            (Kind::File, b'S') => {
                let segments = self.sparse(header)?;
                let gnu = header.as_gnu().ok_or_else(|| self.malformed("sparse file"))?;
                let size =
                    gnu.real_size().ok().ok_or_else(|| self.malformed("size of a sparse file"))?;
                let mut end = 0;
                let mut sum = 0;
                for (offset, length) in &segments {
                    let fits = offset.checked_add(*length).filter(|past| *past <= size);
                    match fits {
                        Some(past) if *offset >= end => end = past,
                        _ => return Err(self.malformed("sparse segments overlap or pass the end")),
                    }
                    sum += length;
                }
                if sum != stored {
                    return Err(self.malformed("sparse segments do not add up to the entry"));
                }
                (stored, segments, size)
            }
            (Kind::File, _) => (stored, vec![(0, stored)], stored),
            (Kind::Other(_), _) => (stored, Vec::new(), stored),
            _ => (0, Vec::new(), 0),
        };
        self.data = stored;
        self.padding = padding(stored);
        let number = |field: io::Result<u64>, at| {
            field.ok().ok_or(Error::Malformed { at, reason: "owner, mode or time" })
        };
        let mtime = match extensions.mtime {
            Some(mtime) => mtime,
            None => (i64::try_from(number(header.mtime(), self.at)?).unwrap_or(0), 0),
        };
        let device = |field: io::Result<Option<u32>>| {
            field.ok().flatten().ok_or(Error::Malformed { at: self.at, reason: "device number" })
        };
        let is_device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
        Ok(Entry {
            kind,
            size,
            mode: header.mode().ok().ok_or_else(|| self.malformed("mode"))? & 0o7777,
            uid: extensions.uid.map_or_else(|| number(header.uid(), self.at), Ok)?,
            gid: extensions.gid.map_or_else(|| number(header.gid(), self.at), Ok)?,
            mtime,
            device: if is_device {
                (device(header.device_major())?, device(header.device_minor())?)
            } else {
                (0, 0)
            },
            xattrs: extensions.xattrs,
            segments,
            path,
            link,
        })
    }

    fn sparse(&mut self, header: &tar::Header) -> Result<Vec<(u64, u64)>, Error> {
        let Some(gnu) = header.as_gnu() else {
            return Err(self.malformed("sparse file without a GNU header"));
        };
        let mut segments = Vec::new();
        let mut take = |blocks: &[tar::GnuSparseHeader], at: u64| {
            for block in blocks.iter().filter(|block| !block.is_empty()) {
                match (block.offset(), block.length()) {
                    (Ok(_), Ok(0)) => {}
                    (Ok(offset), Ok(length)) => segments.push((offset, length)),
                    _ => return Err(Error::Malformed { at, reason: "sparse segment" }),
                }
            }
            Ok(())
        };
        take(&gnu.sparse, self.at)?;
        let mut more = gnu.is_extended();
        let mut blocks = 0;
        while more {
            blocks += 1;
            if blocks > MAX_SPARSE_BLOCKS {
                return Err(self.malformed("a sparse map of more than 86016 segments"));
            }
            let mut extension = tar::GnuExtSparseHeader::new();
            let at = self.at;
            self.input
                .read_exact(extension.as_mut_bytes())
                .map_err(|source| Error::Read { at, source })?;
            self.at += BLOCK;
            take(&extension.sparse, at)?;
            more = extension.is_extended();
        }
        Ok(segments)
    }

    fn skip_rest(&mut self) -> Result<(), Error> {
        let rest = self
            .data
            .checked_add(self.padding)
            .filter(|rest| i64::try_from(*rest).is_ok())
            .ok_or_else(|| self.malformed("size"))?;
        if rest > 0 {
            let at = self.at;
            self.input.skip(rest).map_err(|source| Error::Read { at, source })?;
            self.at += rest;
        }
        (self.data, self.padding) = (0, 0);
        Ok(())
    }

    fn header(&mut self) -> Result<Option<[u8; 512]>, Error> {
        let mut block = [0; 512];
        let mut filled = 0;
        while filled < block.len() {
            let at = self.at;
            match self.input.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(self.truncated()),
                Ok(read) => {
                    filled += read;
                    self.at += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(Error::Read { at, source }),
            }
        }
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let sum: u32 = block
            .iter()
            .enumerate()
            .map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) })
            .sum();
        match tar::Header::from_byte_slice(&block).cksum() {
            Ok(expected) if expected == sum => Ok(Some(block)),
            _ => Err(self.malformed("checksum of a header")),
        }
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>, Error> {
        if size > MAX_EXTENSION {
            return Err(self.malformed("an extension header larger than 1 MiB"));
        }
        let mut text = Vec::new();
        let at = self.at;
        self.input
            .by_ref()
            .take(size)
            .read_to_end(&mut text)
            .map_err(|source| Error::Read { at, source })?;
        self.at += text.len() as u64;
        if (text.len() as u64) < size {
            return Err(self.truncated());
        }
        self.padding = padding(size);
        Ok(text)
    }

    /// Records are `<length> <key>=<value>\n`; the length counts the whole record, so values may
    /// hold anything.
    fn pax(&self, mut text: &[u8], extensions: &mut Extensions) -> Result<(), Error> {
        while !text.is_empty() {
            let (record, rest) = split_record(text).ok_or_else(|| self.malformed("pax record"))?;
            let (key, value) = record;
            text = rest;
            match key {
                b"path" => extensions.path = Some(value.to_vec()),
                b"linkpath" => extensions.link = Some(value.to_vec()),
                b"size" => extensions.size = Some(self.decimal(value)?),
                b"uid" => extensions.uid = Some(self.decimal(value)?),
                b"gid" => extensions.gid = Some(self.decimal(value)?),
                b"mtime" => {
                    let time = parse_time(value).ok_or_else(|| self.malformed("pax mtime"))?;
                    extensions.mtime = Some(time);
                }
                _ if key.starts_with(b"GNU.sparse.") => {
                    return Err(self.malformed("sparse files in pax format are not supported"));
                }
                _ => {
                    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                        extensions.xattrs.push((name.to_vec(), value.to_vec()));
                    }
                }
            }
        }
        Ok(())
    }

    fn decimal(&self, value: &[u8]) -> Result<u64, Error> {
        std::str::from_utf8(value)
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| self.malformed("number in a pax record"))
    }

    fn malformed(&self, reason: &'static str) -> Error {
        Error::Malformed { at: self.at, reason }
    }

    fn truncated(&self) -> Error {
        Error::Read { at: self.at, source: io::ErrorKind::UnexpectedEof.into() }
    }
}

fn padding(size: u64) -> u64 {
    (BLOCK - size % BLOCK) % BLOCK
}

fn until_nul(mut name: Vec<u8>) -> Vec<u8> {
    if let Some(end) = name.iter().position(|byte| *byte == 0) {
        name.truncate(end);
    }
    name
}

type Record<'a> = (&'a [u8], &'a [u8]);

fn split_record(text: &[u8]) -> Option<(Record<'_>, &[u8])> {
    let space = text.iter().take(20).position(|byte| *byte == b' ')?;
    let length: usize = std::str::from_utf8(&text[..space]).ok()?.parse().ok()?;
    let record = text.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some(((&record[..equals], &record[equals + 1..]), &text[length..]))
}

/// `[-]seconds[.fraction]`
fn parse_time(value: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(value).ok()?;
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let nanoseconds: u32 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    let whole: i64 = seconds.parse().ok()?;
    if seconds.starts_with('-') && nanoseconds > 0 {
        return Some((whole.checked_sub(1)?, 1_000_000_000 - nanoseconds));
    }
    Some((whole, nanoseconds))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use proptest::prelude::*;

    use super::*;

    fn record(key: &str, value: &[u8]) -> Vec<u8> {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while rest + length.to_string().len() != length {
            length = rest + length.to_string().len();
        }
        [length.to_string().as_bytes(), b" ", key.as_bytes(), b"=", value, b"\n"].concat()
    }

    fn archive(parts: &[(u8, &str, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (flag, name, data) in parts {
            let mut header = tar::Header::new_ustar();
            header.set_path(name).unwrap();
            header.set_size(data.len() as u64);
            header.set_mode(0o644);
            header.set_uid(1);
            header.set_gid(2);
            header.set_mtime(3);
            header.set_entry_type(tar::EntryType::new(*flag));
            header.set_cksum();
            bytes.extend_from_slice(header.as_bytes());
            bytes.extend_from_slice(data);
            bytes.resize(bytes.len().next_multiple_of(512), 0);
        }
        bytes
    }

    fn entries(bytes: &[u8]) -> Entries<io::BufReader<&[u8]>> {
        Entries::new(io::BufReader::new(bytes))
    }

    #[test]
    fn pax_records_may_hold_newlines_and_override_the_header() {
        let capability = b"\x01\0\0\x02\x0a\n=\n\0";
        let pax = [
            record("path", "long/näme".as_bytes()),
            record("SCHILY.xattr.security.capability", capability),
            record("mtime", b"-1.25"),
            record("uid", b"4000000"),
            record("size", b"4"),
        ]
        .concat();
        let mut bytes =
            archive(&[(b'x', "pax", &pax), (b'0', "short", b"data"), (b'5', "d/", b"")]);
        bytes.extend_from_slice(&[0; 1024]);
        let mut entries = entries(&bytes);
        let entry = entries.next().unwrap().unwrap();
        assert_eq!(entry.path, "long/näme".as_bytes());
        assert_eq!(entry.xattrs, [(b"security.capability".to_vec(), capability.to_vec())]);
        assert_eq!((entry.mtime, entry.uid, entry.gid), ((-2, 750_000_000), 4_000_000, 2));
        let mut data = [0; 10];
        assert_eq!(entries.read(&mut data).unwrap(), 4);
        assert_eq!(entries.read(&mut data).unwrap(), 0);
        let entry = entries.next().unwrap().unwrap();
        assert_eq!((entry.kind, entry.path.as_slice()), (Kind::Directory, b"d/".as_slice()));
        assert!(entries.next().unwrap().is_none());
    }

    #[test]
    fn malformed_archives_are_refused() {
        let mut broken = archive(&[(b'0', "a", b"")]);
        broken[0] = b'b';
        let big = vec![b'a'; (1 << 20) + 1];
        for (bytes, text) in [
            (broken, "checksum"),
            (archive(&[(b'0', "a", b"1234")])[..514].to_vec(), "read at byte 512"),
            (archive(&[(b'0', "a", b"")])[..100].to_vec(), "read at byte 100"),
            (archive(&[(b'L', "a", b"name")]), "describes no entry"),
            (archive(&[(b'L', "a", &big)]), "1 MiB"),
            (archive(&[(b'x', "a", b"99 path=x\n")]), "pax record"),
            (archive(&[(b'x', "a", b"path=x\n")]), "pax record"),
            (archive(&[(b'x', "a", &record("size", b"-1")), (b'0', "b", b"")]), "number"),
            (archive(&[(b'x', "a", &record("path", b"a\0b")), (b'0', "b", b"")]), "zero byte"),
            (
                archive(&[(b'x', "a", &record("GNU.sparse.major", b"1")), (b'0', "b", b"")]),
                "sparse",
            ),
            (archive(&[(b'S', "a", b"")]), "sparse"),
        ] {
            let mut entries = entries(&bytes);
            let error = loop {
                match entries.next() {
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("no error about {text}"),
                    Err(error) => break error.to_string(),
                }
            };
            assert!(error.contains(text), "{error} does not say {text}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..3000), flag: u8) {
            // A valid checksum lets the bytes reach the rest of the parser.
            if bytes.len() >= 512 {
                bytes[156] = flag;
                let mut header = tar::Header::new_old();
                header.as_mut_bytes().copy_from_slice(&bytes[..512]);
                header.set_cksum();
                bytes[..512].copy_from_slice(header.as_bytes());
            }
            let mut entries = entries(&bytes);
            while let Ok(Some(_)) = entries.next() {}
        }
    }
}
