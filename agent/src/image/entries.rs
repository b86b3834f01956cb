//! The tar format: ustar, GNU (long names, sparse files, base-256 numbers) and pax, as a stream
//! of entries with bounded memory. `pax.rs` reads extended headers, `sparse.rs` maps of holes.
//!
//! Fields of a header are decoded by the `tar` crate. The sequence of headers is ours, because the
//! crate's own iterator holds extension headers of any size in memory, splits pax records at
//! newlines (which binary `security.capability` values contain) and does not bound sparse maps.
//!
//! Where parsers disagree we read as Go's `archive/tar`, which wrote nearly every layer and by
//! which containerd reads them, so that nobody can show one image to a scanner and another to us:
//! links, devices and directories have no data, whatever their size field says; a later extended
//! header replaces an earlier one; GNU long names win over pax; an archive ends with two blocks of
//! zeros, and one that is followed by something else is an error.

use std::io::{self, BufRead, Read};

use super::pax::{self, Extensions};
use super::sparse::{self, Map};

/// The largest extension header, in bytes: Go's limit.
pub(super) const MAX_EXTENSION: u64 = 1 << 20;
pub(super) const BLOCK: usize = 512;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("read at byte {at}")]
    Read { at: u64, source: io::Error },
    #[error("malformed tar at byte {at}: {reason}")]
    Malformed { at: u64, reason: &'static str },
}

/// Where an archive comes from. `read` and `skip` take what describes the files, `data` and
/// `take_data` what becomes their content, without copying it.
pub(super) trait Input: Read + Sized {
    /// What is at hand; empty at the end only.
    fn data(&mut self) -> io::Result<&[u8]>;

    /// So much of what [`Input::data`] showed is used.
    fn take_data(&mut self, bytes: usize);

    /// Passes over bytes, maybe without reading them.
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        let skipped = io::copy(&mut self.by_ref().take(bytes), &mut io::sink())?;
        if skipped < bytes { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }
}

impl<R: Read> Input for io::BufReader<R> {
    fn data(&mut self) -> io::Result<&[u8]> {
        self.fill_buf()
    }

    fn take_data(&mut self, bytes: usize) {
        self.consume(bytes);
    }
}

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

impl<R: Input> Entries<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, at: 0, data: 0, padding: 0 }
    }

    /// Where the data of the current entry begins, if nothing of it was read.
    pub(super) fn position(&self) -> u64 {
        self.at
    }

    /// Data of the current entry as it lies in the reader's buffer; empty at its end only.
    pub(super) fn data(&mut self) -> Result<&[u8], Error> {
        if self.data == 0 {
            return Ok(&[]);
        }
        let (at, left) = (self.at, self.data);
        let data = self.input.data().map_err(|source| Error::Read { at, source })?;
        if data.is_empty() {
            return Err(Error::Read { at, source: io::ErrorKind::UnexpectedEof.into() });
        }
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(data.len());
        Ok(&data[..most])
    }

    /// So much of what [`Entries::data`] showed is used.
    pub(super) fn take(&mut self, bytes: usize) {
        self.input.take_data(bytes);
        self.at += bytes as u64;
        self.data = self.data.saturating_sub(bytes as u64);
    }

    /// The next entry; `None` at the end of the archive.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, Error> {
        let mut extensions = Extensions::default();
        // GNU's, which win over those of pax.
        let (mut path, mut link) = (None, None);
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
            let size = given(&header.as_old().size, header.entry_size());
            let size = size.ok().ok_or_else(|| self.malformed("size"))?;
            match header.as_old().linkflag[0] {
                b'x' => {
                    let text = self.extension(size)?;
                    extensions = pax::parse(&text).map_err(|reason| self.malformed(reason))?;
                    extended = true;
                }
                // Global records are comments in practice; Docker ignores them too.
                b'g' => drop(self.extension(size)?),
                b'L' => {
                    path = Some(until_nul(self.extension(size)?));
                    extended = true;
                }
                b'K' => {
                    link = Some(until_nul(self.extension(size)?));
                    extended = true;
                }
                flag => {
                    let named =
                        |name: &Option<Vec<u8>>| name.as_ref().is_some_and(|n| !n.is_empty());
                    if named(&path) {
                        extensions.path = path;
                    }
                    if named(&link) {
                        extensions.link = link;
                    }
                    return self.entry(header, flag, size, extensions).map(Some);
                }
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
        mut extensions: Extensions,
    ) -> Result<Entry, Error> {
        let map = extensions.sparse.take();
        let path = map
            .as_ref()
            .and_then(|map| map.name.clone())
            .or(extensions.path)
            .unwrap_or_else(|| header.path_bytes().into_owned());
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
        self.data = match kind {
            Kind::File | Kind::Other(_) => stored,
            _ => 0,
        };
        self.padding = padding(self.data);
        let (segments, size) = match (kind, flag) {
            (Kind::File, b'S') => self.old_sparse(header)?,
            (Kind::File, _) => match map {
                Some(map) => self.pax_sparse(map)?,
                None => (vec![(0, stored)], stored),
            },
            (Kind::Other(_), _) => (Vec::new(), stored),
            _ => (Vec::new(), 0),
        };
        let number = |field: io::Result<u64>, at| {
            field.ok().ok_or(Error::Malformed { at, reason: "owner, mode or time" })
        };
        let fields = header.as_old();
        let mtime = match extensions.mtime {
            Some(mtime) => mtime,
            // In base 256 times before 1970 are complements of two.
            None => (number(given(&fields.mtime, header.mtime()), self.at)?.cast_signed(), 0),
        };
        let device = |field: io::Result<Option<u32>>| {
            field.ok().flatten().ok_or(Error::Malformed { at: self.at, reason: "device number" })
        };
        let is_device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
        Ok(Entry {
            kind,
            size,
            mode: given(&fields.mode, header.mode()).ok().ok_or_else(|| self.malformed("mode"))?
                & 0o7777,
            uid: extensions
                .uid
                .map_or_else(|| number(given(&fields.uid, header.uid()), self.at), Ok)?,
            gid: extensions
                .gid
                .map_or_else(|| number(given(&fields.gid, header.gid()), self.at), Ok)?,
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

    /// Segments and size of a file whose map is in GNU's own header and in blocks after it.
    fn old_sparse(&mut self, header: &tar::Header) -> Result<(Vec<(u64, u64)>, u64), Error> {
        let Some(gnu) = header.as_gnu() else {
            return Err(self.malformed("sparse file without a GNU header"));
        };
        let refused = |at, reason| Error::Malformed { at, reason };
        let mut segments = Vec::new();
        let at = self.at;
        sparse::take(&mut segments, &gnu.sparse).map_err(|reason| refused(at, reason))?;
        let mut more = gnu.is_extended();
        while more {
            let mut extension = tar::GnuExtSparseHeader::new();
            let at = self.at;
            self.input
                .read_exact(extension.as_mut_bytes())
                .map_err(|source| Error::Read { at, source })?;
            self.at += BLOCK as u64;
            sparse::take(&mut segments, &extension.sparse).map_err(|reason| refused(at, reason))?;
            more = extension.is_extended();
        }
        let size = gnu.real_size().ok().ok_or_else(|| self.malformed("size of a sparse file"))?;
        sparse::check(&segments, size, self.data).map_err(|reason| self.malformed(reason))?;
        Ok((segments, size))
    }

    /// Segments and size of a file whose map is in pax records or, from version 1.0 on, before its
    /// data.
    fn pax_sparse(&mut self, map: Map) -> Result<(Vec<(u64, u64)>, u64), Error> {
        let segments = match map.segments {
            Some(segments) => segments,
            None => {
                let mut reader = sparse::Reader::default();
                loop {
                    if self.data < BLOCK as u64 {
                        return Err(self.malformed("a sparse map that does not end"));
                    }
                    let mut block = [0; BLOCK];
                    let at = self.at;
                    self.input
                        .read_exact(&mut block)
                        .map_err(|source| Error::Read { at, source })?;
                    self.at += BLOCK as u64;
                    self.data -= BLOCK as u64;
                    let segments = reader.block(&block).map_err(|reason| self.malformed(reason))?;
                    if let Some(segments) = segments {
                        break segments;
                    }
                }
            }
        };
        sparse::check(&segments, map.size, self.data).map_err(|reason| self.malformed(reason))?;
        Ok((segments, map.size))
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

    /// `false` at the end of the input.
    fn block(&mut self, block: &mut [u8; 512]) -> Result<bool, Error> {
        let mut filled = 0;
        while filled < block.len() {
            let at = self.at;
            match self.input.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(self.truncated()),
                Ok(read) => {
                    filled += read;
                    self.at += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(Error::Read { at, source }),
            }
        }
        Ok(true)
    }

    fn header(&mut self) -> Result<Option<[u8; 512]>, Error> {
        let mut block = [0; 512];
        if !self.block(&mut block)? {
            return Ok(None);
        }
        if block == [0; 512] {
            return if self.block(&mut block)? && block != [0; 512] {
                Err(self.malformed("something follows a single block of zeros"))
            } else {
                Ok(None)
            };
        }
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        let own: u32 = block[148..156].iter().map(|byte| u32::from(*byte)).sum();
        match tar::Header::from_byte_slice(&block).cksum() {
            // The field itself counts as blanks.
            Ok(expected) if expected == sum - own + 8 * 32 => Ok(Some(block)),
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

    fn malformed(&self, reason: &'static str) -> Error {
        Error::Malformed { at: self.at, reason }
    }

    fn truncated(&self) -> Error {
        Error::Read { at: self.at, source: io::ErrorKind::UnexpectedEof.into() }
    }
}

/// A number that was left out is 0, as in Go's reader.
fn given<T: From<u8>>(field: &[u8], read: io::Result<T>) -> io::Result<T> {
    let left_out = field.iter().all(|byte| matches!(byte, 0 | b' '));
    if left_out { Ok(T::from(0)) } else { read }
}

fn padding(size: u64) -> u64 {
    let block = BLOCK as u64;
    (block - size % block) % block
}

fn until_nul(mut name: Vec<u8>) -> Vec<u8> {
    if let Some(end) = name.iter().position(|byte| *byte == 0) {
        name.truncate(end);
    }
    name
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use proptest::prelude::*;

    use super::super::pax::tests::record;
    use super::*;

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
        assert_eq!(entries.data().unwrap(), b"data");
        entries.take(4);
        assert_eq!(entries.data().unwrap(), b"");
        let entry = entries.next().unwrap().unwrap();
        assert_eq!((entry.kind, entry.path.as_slice()), (Kind::Directory, b"d/".as_slice()));
        assert!(entries.next().unwrap().is_none());
    }

    #[test]
    fn numbers_that_were_left_out_are_zeros() {
        let mut header = tar::Header::new_ustar();
        header.set_path("a").unwrap();
        header.as_old_mut().uid.fill(b' ');
        header.set_cksum();
        let entry = entries(header.as_bytes()).next().unwrap().unwrap();
        assert_eq!((entry.uid, entry.gid, entry.mode, entry.mtime), (0, 0, 0, (0, 0)));
        header.as_old_mut().gid.fill(b'x');
        header.set_cksum();
        assert!(entries(header.as_bytes()).next().is_err());
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
                "an unknown version of the sparse format",
            ),
            (archive(&[(b'S', "a", b"")]), "sparse"),
            (
                [[0; 512].to_vec(), archive(&[(b'0', "hidden", b"")])].concat(),
                "something follows a single block of zeros",
            ),
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

    #[test]
    fn extension_headers_replace_each_other_as_in_go() {
        let first = [record("path", b"pax"), record("uid", b"7")].concat();
        let second = record("gid", b"8");
        let bytes = archive(&[(b'x', "x", &first), (b'x', "x", &second), (b'0', "own", b"")]);
        let entry = entries(&bytes).next().unwrap().unwrap();
        assert_eq!((entry.path.as_slice(), entry.uid, entry.gid), (b"own".as_slice(), 1, 8));
        let bytes = archive(&[(b'L', "L", b"gnu\0rest"), (b'x', "x", &first), (b'0', "own", b"")]);
        assert_eq!(entries(&bytes).next().unwrap().unwrap().path, b"gnu");
        let bytes = archive(&[(b'L', "L", b"\0"), (b'x', "x", &first), (b'0', "own", b"")]);
        assert_eq!(entries(&bytes).next().unwrap().unwrap().path, b"pax");
    }

    #[test]
    fn pax_sparse_files_have_their_map_in_records_or_before_the_data() {
        let sparse =
            |key: &str, value: &str| record(&format!("GNU.sparse.{key}"), value.as_bytes());
        let zero_one = [sparse("size", "20"), sparse("map", "2,3,18,2"), sparse("name", "real")];
        let zero_one = zero_one.concat();
        let one = [("major", "1"), ("minor", "0"), ("name", "real"), ("realsize", "20")];
        let one: Vec<u8> = one.iter().flat_map(|(key, value)| sparse(key, value)).collect();
        let mut with_map = b"2\n2\n3\n18\n2\n".to_vec();
        with_map.resize(512, 0);
        with_map.extend_from_slice(b"abcde");
        for (pax, data) in [(zero_one, b"abcde".to_vec()), (one.clone(), with_map)] {
            let bytes = archive(&[(b'x', "x", &pax), (b'0', "fake", &data), (b'0', "next", b"")]);
            let mut entries = entries(&bytes);
            let entry = entries.next().unwrap().unwrap();
            assert_eq!((entry.path.as_slice(), entry.size), (b"real".as_slice(), 20));
            assert_eq!(entry.segments, [(2, 3), (18, 2)]);
            assert_eq!(entries.data().unwrap(), b"abcde");
            assert_eq!(entries.next().unwrap().unwrap().path, b"next");
        }
        let endless =
            archive(&[(b'x', "x", &one), (b'0', "fake", &[b'1'; 8]), (b'0', "next", b"")]);
        let error = entries(&endless).next().unwrap_err().to_string();
        assert!(error.contains("a sparse map that does not end"), "{error}");
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
