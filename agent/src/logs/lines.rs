//! Framing: bytes of one stream in, lines out. Pure.
//!
//! Promises: how the bytes are cut into chunks never changes the lines; a line longer than the
//! framer's limit comes out in parts, of which only the last carries the newline, and a part never ends
//! within a UTF-8 character; the state between two calls is serialisable, so that a reader that
//! was killed goes on in the middle of a line.

use serde::{Deserialize, Serialize};

/// The longest part of a line, in bytes, unless another is asked for (Docker's buffer).
pub const LIMIT: usize = 16 * 1024;

/// A line, or part of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// Without the newline.
    pub bytes: &'a [u8],
    /// The container wrote a newline after it.
    pub newline: bool,
    /// Nanoseconds since the epoch: when its last byte came; for the parts of a long line, when
    /// the first part was full.
    pub time: u64,
}

/// The state of one stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Framer {
    /// The longest part.
    #[serde(default = "usual_limit", skip_serializing_if = "is_usual_limit")]
    limit: usize,
    /// The begun line.
    #[serde(with = "base64_bytes")]
    pending: Vec<u8>,
    /// How much of `pending`'s front the last call gave out.
    #[serde(skip)]
    given: usize,
    /// Time of the first part, within a long line.
    part_since: Option<u64>,
    /// When the last byte came.
    latest: u64,
}

fn usual_limit() -> usize {
    LIMIT
}

fn is_usual_limit(limit: &usize) -> bool {
    *limit == LIMIT
}

impl Default for Framer {
    fn default() -> Self {
        Self::with_limit(LIMIT)
    }
}

impl Framer {
    /// Parts of at most `limit` bytes.
    pub fn with_limit(limit: usize) -> Self {
        Self { limit, pending: Vec::new(), given: 0, part_since: None, latest: 0 }
    }

    /// Takes bytes from the front of `input`, which came at `time`, up to the end of the next
    /// line. `None` once all are taken: what is left over waits for its newline.
    pub fn next<'s, 'i: 's>(&'s mut self, input: &mut &'i [u8], time: u64) -> Option<Line<'s>> {
        self.forget_given();
        if input.is_empty() {
            return None;
        }
        self.latest = time;
        let all = *input;
        let window = &all[..all.len().min(self.limit.saturating_sub(self.pending.len()))];
        if let Some(end) = memchr::memchr(b'\n', window) {
            *input = &all[end + 1..];
            let time = self.part_since.take().unwrap_or(time);
            return Some(Line { bytes: self.give(&window[..end]), newline: true, time });
        }
        if self.pending.len() + window.len() < self.limit {
            *input = &[];
            self.pending.extend_from_slice(window);
            return None;
        }
        let time = *self.part_since.get_or_insert(time);
        if self.pending.is_empty() {
            let end = character_boundary(window);
            *input = &all[end..];
            return Some(Line { bytes: &window[..end], newline: false, time });
        }
        *input = &all[window.len()..];
        self.pending.extend_from_slice(window);
        self.given = character_boundary(&self.pending);
        Some(Line { bytes: &self.pending[..self.given], newline: false, time })
    }

    /// The begun line, when no byte will follow.
    pub fn finish(&mut self) -> Option<Line<'_>> {
        self.forget_given();
        let time = self.part_since.take().unwrap_or(self.latest);
        if self.pending.is_empty() {
            return None;
        }
        Some(Line { bytes: self.give(&[]), newline: false, time })
    }

    /// Drops what the last line borrowed, so that the state may be stored.
    pub fn forget_given(&mut self) {
        self.pending.drain(..self.given);
        self.given = 0;
    }

    fn give<'a>(&'a mut self, rest: &'a [u8]) -> &'a [u8] {
        if self.pending.is_empty() {
            return rest;
        }
        self.pending.extend_from_slice(rest);
        self.given = self.pending.len();
        &self.pending
    }
}

/// Where to cut a full buffer so that a character that goes on behind it stays whole.
fn character_boundary(bytes: &[u8]) -> usize {
    for back in 1..=bytes.len().min(3) {
        let length = match bytes[bytes.len() - back] {
            0x80..=0xBF => continue,
            0xC2..=0xDF => 2,
            0xE0..=0xEF => 3,
            0xF0..=0xF4 => 4,
            _ => 1,
        };
        if length > back {
            return bytes.len() - back;
        }
        break;
    }
    bytes.len()
}

mod base64_bytes {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        STANDARD.decode(text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Owned = (Vec<u8>, bool, u64);
    type Chunk<'a> = (&'a [u8], u64);

    fn frame(chunks: &[Chunk<'_>]) -> Vec<Owned> {
        let mut framer = Framer::default();
        let mut lines = Vec::new();
        for (chunk, time) in chunks {
            let mut input = *chunk;
            while let Some(line) = framer.next(&mut input, *time) {
                lines.push((line.bytes.to_vec(), line.newline, line.time));
            }
            assert!(input.is_empty());
            // As if the reader were killed here.
            framer.forget_given();
            let stored = serde_json::to_string(&framer).unwrap();
            framer = serde_json::from_str(&stored).unwrap();
        }
        if let Some(line) = framer.finish() {
            lines.push((line.bytes.to_vec(), line.newline, line.time));
        }
        assert!(framer.finish().is_none());
        lines
    }

    fn line(bytes: &[u8], newline: bool, time: u64) -> Owned {
        (bytes.to_vec(), newline, time)
    }

    #[test]
    fn table() {
        let full = vec![b'x'; LIMIT];
        let cases: [(&[Chunk<'_>], Vec<Owned>); 9] = [
            (&[], vec![]),
            (&[(b"", 1)], vec![]),
            (&[(b"\n", 1)], vec![line(b"", true, 1)]),
            (&[(b"a\nb", 1), (b"c\n", 2)], vec![line(b"a", true, 1), line(b"bc", true, 2)]),
            (&[(b"a", 1), (b"b", 2)], vec![line(b"ab", false, 2)]),
            (&[(b"a\r\n", 1)], vec![line(b"a\r", true, 1)]),
            (&[(&full, 1)], vec![line(&full, false, 1)]),
            (&[(&full, 1), (b"\n", 2)], vec![line(&full, false, 1), line(b"", true, 1)]),
            (
                &[(&full[1..], 1), (b"xy", 2), (b"\nz\n", 3)],
                vec![line(&full, false, 2), line(b"y", true, 2), line(b"z", true, 3)],
            ),
        ];
        for (chunks, expected) in cases {
            assert_eq!(frame(chunks), expected);
        }
    }

    #[test]
    fn a_part_does_not_end_within_a_character() {
        for character in ["é", "€", "😀"] {
            for lead in LIMIT - 4..=LIMIT {
                let mut text = "x".repeat(lead);
                text.push_str(character);
                text.push_str("tail\n");
                for cut in [1, LIMIT - 2, LIMIT] {
                    let bytes = text.as_bytes();
                    let lines = frame(&[(&bytes[..cut], 1), (&bytes[cut..], 1)]);
                    let whole: Option<Vec<&str>> =
                        lines.iter().map(|l| std::str::from_utf8(&l.0).ok()).collect();
                    assert_eq!(format!("{}\n", whole.unwrap().concat()), text);
                }
            }
        }
    }

    #[test]
    fn bytes_that_are_no_utf8_are_cut_at_the_limit() {
        let bytes = vec![0x80; LIMIT + 1];
        let lines = frame(&[(&bytes, 1)]);
        assert_eq!(lines.iter().map(|l| l.0.len()).collect::<Vec<_>>(), [LIMIT, 1]);
    }

    proptest! {
        #[test]
        fn cuts_change_nothing(
            pieces in prop::collection::vec(
                prop_oneof![
                    Just(b"\n".to_vec()),
                    prop::collection::vec(any::<u8>(), 0..40),
                    (0usize..40_000).prop_map(|n| vec![b'x'; n]),
                    (0usize..9_000).prop_map(|n| "é€".repeat(n).into_bytes()),
                ],
                0..8,
            ),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let bytes = pieces.concat();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.sort_unstable();
            let mut chunks = Vec::new();
            let mut from = 0;
            for cut in cuts.into_iter().chain([bytes.len()]) {
                chunks.push((&bytes[from..cut], 5));
                from = cut;
            }
            let lines = frame(&chunks);
            prop_assert_eq!(&lines, &frame(&[(&bytes, 5)]));
            let mut again = Vec::new();
            for (line, newline, _) in &lines {
                again.extend_from_slice(line);
                if *newline {
                    again.push(b'\n');
                }
            }
            prop_assert_eq!(again, bytes);
        }
    }
}
