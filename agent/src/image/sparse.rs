//! Files with holes in a tar: GNU's old format and the three it has in pax headers.
//!
//! ```text
//! old   segments in the header of type S and in blocks after it
//! 0.0   GNU.sparse.offset and GNU.sparse.numbytes, a pair of records for each segment
//! 0.1   GNU.sparse.map=offset,length,offset,length…
//! 1.0   GNU.sparse.major=1: the map lies before the data, as lines of decimal numbers
//! ```
//!
//! Segments ascend without overlap, end within the file and add up to the data that the entry
//! has; anything else is refused. As Go's `archive/tar` reads them.

use super::entries::BLOCK;
use super::pax::decimal;

/// Segments of one file. A map is held in memory, 16 bytes for each.
const MAX_SEGMENTS: usize = 65_536;
const TOO_MANY: &str = "a sparse map of more than 65536 segments";

/// What pax records say of a sparse file.
#[derive(Debug)]
pub(super) struct Map {
    pub(super) name: Option<Vec<u8>>,
    pub(super) size: u64,
    /// `None`: before the data.
    pub(super) segments: Option<Vec<(u64, u64)>>,
}

/// The records, as they come.
#[derive(Debug, Default)]
pub(super) struct Records {
    major: Option<u64>,
    minor: Option<u64>,
    name: Option<Vec<u8>>,
    size: Option<u64>,
    count: Option<u64>,
    offset: Option<u64>,
    pairs: Vec<(u64, u64)>,
    map: Option<Vec<(u64, u64)>>,
}

impl Records {
    /// `key` is what follows `GNU.sparse.`.
    pub(super) fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
        match key {
            b"major" => self.major = Some(decimal(value)?),
            b"minor" => self.minor = Some(decimal(value)?),
            b"name" => self.name = (!value.is_empty()).then(|| value.to_vec()),
            b"size" | b"realsize" => self.size = Some(decimal(value)?),
            b"numblocks" => self.count = Some(decimal(value)?),
            b"offset" => match self.offset.replace(decimal(value)?) {
                None => {}
                Some(_) => return Err("a sparse segment without a length"),
            },
            b"numbytes" => {
                let offset = self.offset.take().ok_or("a sparse segment without an offset")?;
                push(&mut self.pairs, offset, decimal(value)?)?;
            }
            b"map" => {
                let mut segments = Vec::new();
                let mut numbers = value.split(|byte| *byte == b',');
                while let Some(offset) = numbers.next().filter(|_| !value.is_empty()) {
                    let length = numbers.next().ok_or("a sparse segment without a length")?;
                    push(&mut segments, decimal(offset)?, decimal(length)?)?;
                }
                self.map = Some(segments);
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Result<Option<Map>, &'static str> {
        let in_data = match (self.major, self.minor) {
            (Some(1), Some(0)) => true,
            (None, None) | (Some(0), Some(0 | 1)) => false,
            _ => return Err("an unknown version of the sparse format"),
        };
        let none = self.map.is_none() && self.pairs.is_empty() && self.count.is_none();
        if self.offset.is_some() {
            return Err("a sparse segment without a length");
        }
        if !in_data && none {
            return if self.size.is_some() { Err("a sparse file without a map") } else { Ok(None) };
        }
        let size = self.size.ok_or("a sparse file without a size")?;
        let segments = (!in_data).then(|| self.map.unwrap_or(self.pairs));
        if let (Some(segments), Some(count)) = (&segments, self.count)
            && segments.len() as u64 != count
        {
            return Err("a sparse map with another number of segments than it says");
        }
        Ok(Some(Map { name: self.name, size, segments }))
    }
}

fn push(segments: &mut Vec<(u64, u64)>, offset: u64, length: u64) -> Result<(), &'static str> {
    if segments.len() >= MAX_SEGMENTS {
        return Err(TOO_MANY);
    }
    segments.push((offset, length));
    Ok(())
}

/// Segments of a GNU header or of a block that continues it.
pub(super) fn take(
    segments: &mut Vec<(u64, u64)>,
    blocks: &[tar::GnuSparseHeader],
) -> Result<(), &'static str> {
    for block in blocks.iter().filter(|block| !block.is_empty()) {
        match (block.offset(), block.length()) {
            (Ok(offset), Ok(length)) => push(segments, offset, length)?,
            _ => return Err("sparse segment"),
        }
    }
    Ok(())
}

/// Reads the map of version 1.0: how many segments, then offset and length of each, a number a
/// line, padded to whole blocks.
#[derive(Debug, Default)]
pub(super) struct Reader {
    line: Vec<u8>,
    count: Option<u64>,
    offset: Option<u64>,
    segments: Vec<(u64, u64)>,
}

impl Reader {
    /// The map, once it is complete.
    pub(super) fn block(
        &mut self,
        block: &[u8; BLOCK],
    ) -> Result<Option<Vec<(u64, u64)>>, &'static str> {
        for byte in block {
            if *byte != b'\n' {
                if self.line.len() >= 20 {
                    return Err("number in a sparse map");
                }
                self.line.push(*byte);
                continue;
            }
            if self.line.is_empty() {
                return Err("number in a sparse map");
            }
            let number = decimal(&self.line).or(Err("number in a sparse map"))?;
            self.line.clear();
            match (self.count, self.offset.take()) {
                (None, _) if number > MAX_SEGMENTS as u64 => return Err(TOO_MANY),
                (None, _) => self.count = Some(number),
                (Some(_), None) => self.offset = Some(number),
                (Some(_), Some(offset)) => push(&mut self.segments, offset, number)?,
            }
            if self.offset.is_none() && self.count == Some(self.segments.len() as u64) {
                return Ok(Some(std::mem::take(&mut self.segments)));
            }
        }
        Ok(None)
    }
}

/// Do the segments fit the file's size and the data that the entry has?
pub(super) fn check(segments: &[(u64, u64)], size: u64, stored: u64) -> Result<(), &'static str> {
    let (mut end, mut sum) = (0_u64, 0_u64);
    for (offset, length) in segments {
        match offset.checked_add(*length).filter(|past| *past <= size) {
            Some(past) if *offset >= end => end = past,
            _ => return Err("sparse segments overlap or pass the end"),
        }
        sum += length;
    }
    if sum == stored { Ok(()) } else { Err("sparse segments do not add up to the entry") }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn map(records: &[(&str, &str)]) -> Result<Option<Map>, &'static str> {
        let mut taken = Records::default();
        for (key, value) in records {
            taken.take(key.as_bytes(), value.as_bytes())?;
        }
        taken.finish()
    }

    #[test]
    fn the_versions_in_pax_records_are_read() {
        let zero = [
            ("size", "20"),
            ("numblocks", "2"),
            ("offset", "1"),
            ("numbytes", "2"),
            ("offset", "20"),
            ("numbytes", "0"),
        ];
        let read = map(&zero).unwrap().unwrap();
        assert_eq!((read.size, read.segments, read.name), (20, Some(vec![(1, 2), (20, 0)]), None));
        let one = [("size", "20"), ("numblocks", "2"), ("map", "1,2,20,0"), ("name", "n")];
        let read = map(&one).unwrap().unwrap();
        assert_eq!(read.segments, Some(vec![(1, 2), (20, 0)]));
        assert_eq!(read.name.as_deref(), Some(b"n".as_slice()));
        let in_data = [("major", "1"), ("minor", "0"), ("realsize", "9"), ("name", "n")];
        let read = map(&in_data).unwrap().unwrap();
        assert_eq!((read.size, read.segments), (9, None));
        assert!(map(&[]).unwrap().is_none());
        assert!(map(&[("name", "n")]).unwrap().is_none());
        let empty = map(&[("size", "5"), ("map", ""), ("numblocks", "0")]).unwrap().unwrap();
        assert_eq!(empty.segments, Some(Vec::new()));
    }

    #[test]
    fn maps_that_contradict_themselves_are_refused() {
        for records in [
            &[("major", "2"), ("minor", "0")][..],
            &[("major", "1"), ("minor", "0")],
            &[("size", "1")],
            &[("map", "0,1")],
            &[("size", "1"), ("map", "0")],
            &[("size", "1"), ("map", "0,1,")],
            &[("size", "1"), ("map", "0,-1")],
            &[("size", "1"), ("numblocks", "3"), ("map", "0,1")],
            &[("size", "1"), ("offset", "0")],
            &[("size", "1"), ("numbytes", "0")],
            &[("size", "1"), ("offset", "0"), ("offset", "1")],
            &[("size", "-1")],
        ] {
            assert!(map(records).is_err(), "{records:?}");
        }
        let many = "0,0,".repeat(MAX_SEGMENTS) + "0,0";
        assert_eq!(map(&[("size", "1"), ("map", &many)]).unwrap_err(), TOO_MANY);
    }

    #[test]
    fn a_map_before_the_data_may_span_blocks() {
        let read = |text: &str| {
            let mut bytes = text.as_bytes().to_vec();
            bytes.resize(bytes.len().next_multiple_of(512), 0);
            let mut reader = Reader::default();
            for block in bytes.as_chunks::<512>().0 {
                if let Some(map) = reader.block(block)? {
                    return Ok(Some(map));
                }
            }
            Ok::<_, &'static str>(None)
        };
        assert_eq!(read("2\n0\n5\n9\n1\n"), Ok(Some(vec![(0, 5), (9, 1)])));
        assert_eq!(read("0\n"), Ok(Some(Vec::new())));
        let long: String = (0..300).map(|at| format!("{}\n1\n", at * 2)).collect();
        assert_eq!(read(&format!("300\n{long}")).unwrap().unwrap().len(), 300);
        for bad in ["", "2\n0\n5\n", "65537\n", "-1\n", "\n", "1\n\n1\n", "999999999999999999999\n"]
        {
            assert!(!matches!(read(bad), Ok(Some(_))), "{bad:?}");
        }
    }

    #[test]
    fn segments_must_fit_the_file() {
        assert!(check(&[(0, 5), (5, 5), (10, 0)], 10, 10).is_ok());
        for (segments, size, stored) in [
            (&[(0, 5), (4, 5)][..], 10, 10),
            (&[(5, 5), (0, 5)], 10, 10),
            (&[(0, 11)], 10, 11),
            (&[(0, 5)], 10, 4),
            (&[(0, 5)], 10, 6),
            (&[(u64::MAX, 2)], u64::MAX, 2),
        ] {
            assert!(check(segments, size, stored).is_err(), "{segments:?}");
        }
    }
}
