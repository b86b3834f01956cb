//! The parsers of untrusted content, from bytes to a result, for the fuzz targets in `fuzz/` and for
//! the property tests below, which run in every build.

use std::io::{BufReader, Cursor};
use std::path::Path;
use std::sync::Arc;

use http::StatusCode;

use super::decompress::decompress;
use super::entries::Entries;
use super::manifest::{self, ImageConfig};
use super::platform::Platform;
use super::unpack::{self, Limits};
use super::{download, pax, reference, registry, token};

/// Small, so that a run stays short.
const LIMITS: Limits = Limits {
    entries: 1000,
    bytes: 1 << 20,
    expansion: 200,
    expansion_from: 1 << 20,
    directories: 64 << 10,
};

/// A reference, a manifest or index, a configuration.
pub fn documents(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = reference::Reference::parse(text);
    }
    if let Ok(manifest::Document::Index(entries)) = manifest::parse(bytes) {
        let _ = Platform::host().choose(&entries);
    }
    if let Ok(config) = ImageConfig::parse(bytes) {
        let _ = config.stack();
        let _ = config.into_config();
    }
}

/// What a registry answers besides content: a challenge, a range, when to come again, why not.
///
/// # Panics
/// If a range is taken that was not asked for.
pub fn answers(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = token::parse(text);
        let _ = registry::retry_after(text, jiff::Timestamp::UNIX_EPOCH);
        let begins = download::begins(StatusCode::PARTIAL_CONTENT, Some(text), 10, 100);
        assert!(begins.is_none_or(|first| first == 10));
    }
    for status in [StatusCode::NOT_FOUND, StatusCode::INTERNAL_SERVER_ERROR] {
        let shown = registry::refusal(status, None, bytes, "such blob", "anonymous access");
        assert!(!shown.to_string().contains(char::is_control));
    }
}

/// Headers of an archive and the records of extended ones. With valid checksums, or nothing would
/// reach what lies behind them.
pub fn headers(bytes: &[u8]) {
    let _ = pax::parse(bytes);
    let mut archive = bytes.to_vec();
    sum(&mut archive);
    let mut entries = Entries::new(BufReader::new(archive.as_slice()));
    while let Ok(Some(entry)) = entries.next() {
        let sum: u64 =
            entry.segments.iter().fold(0, |sum, (_, length)| sum.saturating_add(*length));
        assert!(entry.segments.is_empty() || sum <= entry.size);
        while let Ok(data) = entries.data() {
            let length = data.len();
            if length == 0 {
                break;
            }
            entries.take(length);
        }
    }
}

/// Unpacks a layer into `directory`/fs, which must not exist, and removes it. `directory` must hold
/// nothing else afterwards.
///
/// # Panics
/// If the layer made something outside of its directory.
#[allow(clippy::panic)]
pub fn layer(bytes: &[u8], directory: &Path) {
    let Ok(mut content) = decompress(Cursor::new(bytes), &Arc::default()) else { return };
    let mut archive = Vec::new();
    let read =
        std::io::Read::read_to_end(&mut std::io::Read::take(&mut content, 1 << 20), &mut archive);
    if read.is_err() {
        return;
    }
    sum(&mut archive);
    let fs = directory.join("fs");
    if unpack::make_directory(&fs, 0o755).is_err() {
        return;
    }
    let mut entries = Entries::new(BufReader::new(archive.as_slice()));
    let _ = unpack::apply(&mut entries, &fs, LIMITS, &Arc::default());
    let removed = std::fs::remove_dir_all(&fs);
    let left = std::fs::read_dir(directory).map(Iterator::count);
    if removed.is_err() || !matches!(left, Ok(0)) {
        panic!("{removed:?}, {left:?} entries are left in {}", directory.display());
    }
}

/// Makes the checksum of what looks like a header right.
fn sum(archive: &mut [u8]) {
    for block in archive.chunks_exact_mut(512) {
        if block[257..262] != *b"ustar" {
            continue;
        }
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use proptest::prelude::*;

    use super::*;

    /// Names that meet each other, go up, out, and are whiteouts.
    fn name() -> impl Strategy<Value = String> {
        let part = prop::sample::select(vec![
            "a",
            "b",
            "c",
            "..",
            ".",
            "",
            "/",
            ".wh.a",
            ".wh.b",
            ".wh..wh..opq",
            ".wh..wh.x",
            "/tmp",
            "/etc",
        ]);
        prop::collection::vec(part, 1..4).prop_map(|parts| parts.join("/"))
    }

    prop_compose! {
        fn header()(
            flag in prop::sample::select(b"0123456SxgLKV\0".to_vec()),
            name in name(),
            link in name(),
            mode in 0_u32..0o10000,
            size in prop_oneof![Just(0_u64), 0..1500_u64, any::<u32>().prop_map(u64::from)],
            gnu: bool,
        ) -> Vec<u8> {
            let mut block = vec![0; 512];
            let mut put = |at: usize, text: &[u8]| block[at..at + text.len()].copy_from_slice(text);
            put(0, &name.as_bytes()[..name.len().min(100)]);
            put(100, format!("{mode:07o}").as_bytes());
            put(108, b"0000000\0");
            put(116, b"0000000\0");
            put(124, format!("{size:011o}").as_bytes());
            put(136, b"00000000000\0");
            put(156, &[flag]);
            put(157, &link.as_bytes()[..link.len().min(100)]);
            put(257, if gnu { b"ustar  \0" } else { b"ustar\x0000" });
            put(329, b"0000000\0");
            put(337, b"0000000\0");
            block
        }
    }

    fn record() -> impl Strategy<Value = Vec<u8>> {
        let key = prop::sample::select(vec![
            "path",
            "linkpath",
            "size",
            "uid",
            "mtime",
            "GNU.sparse.map",
            "GNU.sparse.size",
            "GNU.sparse.major",
            "GNU.sparse.minor",
            "GNU.sparse.name",
            "SCHILY.xattr.user.x",
        ]);
        let value =
            prop_oneof![name(), "[0-9,.-]{0,8}", Just("1".to_owned()), Just("0".to_owned())];
        (key, value).prop_map(|(key, value)| {
            let mut block = pax::tests::record(key, value.as_bytes());
            block.resize(512, b'\n');
            block
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn nothing_leaves_the_directory_of_a_layer(
            blocks in prop::collection::vec(
                prop_oneof![4 => header(), 1 => record(), 1 => Just(vec![0; 512])], 0..20),
        ) {
            let bytes = blocks.concat();
            let directory = tempfile::tempdir().unwrap();
            headers(&bytes);
            layer(&bytes, directory.path());
        }

        #[test]
        fn no_answer_panics(text in r#"(Bearer |Basic |bytes |[a-z]+="?|[0-9]{1,20}|[-/*,"\\\\{}:]){0,20}"#) {
            answers(text.as_bytes());
        }

        #[test]
        fn no_document_panics(text in r#"[\{\}\[\]",:a-z0-9/@. ]{0,200}"#) {
            documents(text.as_bytes());
        }
    }
}
