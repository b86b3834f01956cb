//! Extended headers of the pax format: records that override fields of the header after them.
//!
//! `<length> <key>=<value>\n`; the length counts the whole record, so values may hold anything. As
//! in Go's reader an empty value leaves the header's field as it is, of a key that comes twice the
//! later record counts, and unknown keys are ignored.

use super::sparse::{self, Map};

/// Extended attributes of one entry; no filesystem of Linux lists more than 64 KiB of names.
const MAX_XATTRS: usize = 1024;

/// What the records say of one entry.
#[derive(Debug, Default)]
pub(super) struct Extensions {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    /// Seconds since 1970 and nanoseconds.
    pub(super) mtime: Option<(i64, u32)>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: Option<Map>,
}

/// Reads an extended header; an error is what is malformed.
pub(super) fn parse(mut text: &[u8]) -> Result<Extensions, &'static str> {
    let mut extensions = Extensions::default();
    let mut sparse = sparse::Records::default();
    while !text.is_empty() {
        let ((key, value), rest) = split_record(text).ok_or("pax record")?;
        text = rest;
        if key.contains(&0) {
            return Err("the key of a pax record contains a zero byte");
        }
        if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
            sparse.take(key, value)?;
            continue;
        }
        let given = !value.is_empty();
        match key {
            b"path" => extensions.path = given.then(|| value.to_vec()),
            b"linkpath" => extensions.link = given.then(|| value.to_vec()),
            b"size" => extensions.size = given.then(|| decimal(value)).transpose()?,
            b"uid" => extensions.uid = given.then(|| decimal(value)).transpose()?,
            b"gid" => extensions.gid = given.then(|| decimal(value)).transpose()?,
            b"mtime" => {
                let time = given.then(|| parse_time(value).ok_or("pax mtime"));
                extensions.mtime = time.transpose()?;
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    extensions.xattrs.retain(|(known, _)| known != name);
                    if extensions.xattrs.len() >= MAX_XATTRS {
                        return Err("more than 1024 extended attributes");
                    }
                    extensions.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
    }
    extensions.sparse = sparse.finish()?;
    Ok(extensions)
}

/// Digits only: no sign, no blanks.
pub(super) fn decimal(value: &[u8]) -> Result<u64, &'static str> {
    std::str::from_utf8(value)
        .ok()
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|text| text.parse().ok())
        .ok_or("number in a pax record")
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
    let digits = fraction.get(..fraction.len().min(9))?;
    let nanoseconds: u32 = format!("{digits:0<9}").parse().ok()?;
    let whole: i64 = seconds.parse().ok()?;
    if seconds.starts_with('-') && nanoseconds > 0 {
        return Some((whole.checked_sub(1)?, 1_000_000_000 - nanoseconds));
    }
    Some((whole, nanoseconds))
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use proptest::prelude::*;

    use super::*;

    /// A record with the length it must have.
    pub(in super::super) fn record(key: &str, value: &[u8]) -> Vec<u8> {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while rest + length.to_string().len() != length {
            length = rest + length.to_string().len();
        }
        [length.to_string().as_bytes(), b" ", key.as_bytes(), b"=", value, b"\n"].concat()
    }

    fn of(records: &[(&str, &[u8])]) -> Result<Extensions, &'static str> {
        let text: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value)).collect();
        parse(&text)
    }

    #[test]
    fn the_last_record_counts_and_an_empty_one_takes_back() {
        let read = of(&[
            ("path", b"a"),
            ("path", b"b"),
            ("size", b"5"),
            ("size", b""),
            ("SCHILY.xattr.user.a", b"1"),
            ("SCHILY.xattr.user.b", b"2"),
            ("SCHILY.xattr.user.a", b"3"),
            ("comment", b"\0\n"),
        ])
        .unwrap();
        assert_eq!(read.path.as_deref(), Some(b"b".as_slice()));
        assert_eq!(read.size, None);
        let pairs: Vec<(&[u8], &[u8])> =
            read.xattrs.iter().map(|(key, value)| (key.as_slice(), value.as_slice())).collect();
        assert_eq!(pairs, [(b"user.b".as_slice(), b"2".as_slice()), (b"user.a", b"3")]);
    }

    #[test]
    fn tricks_with_numbers_and_lengths_are_refused() {
        for size in [&b"-1"[..], b"+1", b" 1", b"1 ", b"0x1", b"18446744073709551616", b"1.5"] {
            assert!(of(&[("size", size)]).is_err(), "{}", String::from_utf8_lossy(size));
        }
        for text in [
            &b"5 a=\n"[..],
            b"8 a=bcd",
            b"-5 a=\n",
            b"99999999999999999999 a=b\n",
            b"6 abc\n",
            b"a",
        ] {
            let read = parse(text);
            let fits = text == b"5 a=\n";
            assert_eq!(read.is_ok(), fits, "{}", String::from_utf8_lossy(text));
        }
        assert!(of(&[("pa\0th", b"x")]).is_err());
        let many: Vec<u8> = (0..=MAX_XATTRS)
            .flat_map(|at| record(&format!("SCHILY.xattr.user.{at}"), b""))
            .collect();
        assert_eq!(parse(&many).unwrap_err(), "more than 1024 extended attributes");
    }

    #[test]
    fn times_have_signs_and_fractions() {
        for (text, time) in [
            ("0", Some((0, 0))),
            ("1.5", Some((1, 500_000_000))),
            ("-1.25", Some((-2, 750_000_000))),
            ("-0.25", Some((-1, 750_000_000))),
            ("1.1234567899", Some((1, 123_456_789))),
            ("-9223372036854775808.1", None),
            ("1.x", None),
            ("1.é", None),
            ("", None),
            (".", None),
        ] {
            assert_eq!(parse_time(text.as_bytes()), time, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
            let _ = parse(&record("GNU.sparse.map", &bytes));
            let _ = parse_time(&bytes);
        }
    }
}
