//! The parsers of untrusted content, from bytes to a result, for the fuzz targets in `fuzz/` and for
//! the property tests below, which run in every build.

use std::error::Error as StdError;
use std::fs::{self, File};
use std::io::{self, BufReader, Cursor, Read as _};
use std::path::Path;
use std::sync::Arc;

use http::StatusCode;
use rustix::io::Errno;

use super::archive::Archive;
pub use super::auth::fuzzing::logins;
use super::decompress::{decompress, is_compressed};
use super::entries::{BLOCK, Entries};
use super::gate::Windows;
use super::layer::digest_of;
use super::manifest::{self, ImageConfig};
use super::platform::Platform;
use super::recipe::{self, Recorder};
pub use super::signature::fuzzing::signatures;
use super::unpack::{self, Limits};
use super::{download, pax, reference, registry, sparse, token};

/// Small, so that a run stays short.
const LIMITS: Limits = Limits {
    entries: 1000,
    bytes: 1 << 20,
    expansion: 200,
    expansion_from: 1 << 20,
    directories: 64 << 10,
};

/// A reference, a manifest or index, a configuration.
///
/// # Panics
/// If a reference reads otherwise once it is written.
pub fn documents(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(name) = reference::Reference::parse(text)
    {
        for written in [name.to_string(), name.familiar()] {
            let again = reference::Reference::parse(&written);
            assert!(again.is_ok_and(|again| again == name), "{text:?}: {written:?}");
        }
    }
    if let Ok(manifest::Document::Index(entries)) = manifest::parse(bytes) {
        let _ = Platform::host().choose(&entries);
    }
    if let Ok(config) = ImageConfig::parse(bytes) {
        let _ = config.stack();
        let _ = config.into_config();
    }
}

/// What a registry answers besides content: a challenge, a digest, a range, when to come again, why
/// not.
///
/// # Panics
/// If a range is taken that was not asked for, or a digest that is no name of a file.
pub fn answers(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = token::parse(text);
        let _ = registry::retry_after(text, jiff::Timestamp::UNIX_EPOCH);
        let begins = download::begins(StatusCode::PARTIAL_CONTENT, Some(text), 10, 100);
        assert!(begins.is_none_or(|first| first == 10));
        assert!(!reference::is_digest(text) || !text.contains(['/', '.']));
    }
    for status in [StatusCode::NOT_FOUND, StatusCode::INTERNAL_SERVER_ERROR] {
        let shown = registry::refusal(status, None, bytes, "such blob", "anonymous access");
        assert!(!shown.to_string().contains(char::is_control));
    }
}

/// Headers of an archive, the records of extended ones, and maps of sparse files. With valid
/// checksums, or nothing would reach what lies behind them.
///
/// # Panics
/// If a file gets more data than its size.
pub fn headers(bytes: &[u8]) {
    let _ = pax::parse(bytes);
    let mut map = sparse::Reader::default();
    for block in bytes.as_chunks::<BLOCK>().0 {
        match map.block(block) {
            Ok(None) => {}
            Ok(Some(segments)) => {
                let _ = sparse::check(&segments, 1 << 20, 1 << 10);
                break;
            }
            Err(_) => break,
        }
    }
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
/// nothing else, before and after; all else should be mounted read-only.
///
/// # Panics
/// If the layer made, or tried to make, something outside of its directory, or more than its limits
/// allow.
#[allow(clippy::panic)]
pub fn layer(bytes: &[u8], directory: &Path) {
    let Ok(content) = decompress(Cursor::new(bytes), Windows::default()) else { return };
    let mut archive = Vec::new();
    if content.take(1 << 20).read_to_end(&mut archive).is_err() {
        return;
    }
    sum(&mut archive);
    let fs = directory.join("fs");
    if unpack::make_directory(&fs, 0o755).is_err() {
        return;
    }
    let mut entries = Entries::new(BufReader::new(archive.as_slice()));
    if let Err(error) = unpack::apply(&mut entries, &fs, LIMITS, &Arc::default()) {
        inside(&error);
    }
    let (count, bytes) = measure(&fs);
    assert!(count <= LIMITS.entries && bytes <= LIMITS.bytes, "{count} entries, {bytes} bytes");
    empty(directory, &["fs"]);
}

/// Unpacks an archive, and makes it again from its files and its recipe; then takes the bytes for the
/// recipe.
///
/// # Panics
/// If what is made is something else, or the recipe is not understood by its own reader.
#[allow(clippy::panic)]
pub fn recipe(bytes: &[u8], directory: &Path) {
    let mut archive = bytes.to_vec();
    sum(&mut archive);
    let (fs, path) = (directory.join("fs"), directory.join("recipe"));
    let Ok(file) = unpack::make_directory(&fs, 0o755).and_then(|()| File::create_new(&path)) else {
        return;
    };
    let input = BufReader::new(archive.as_slice());
    let mut entries = Entries::new(Recorder::new(input, file));
    let applied = unpack::apply(&mut entries, &fs, LIMITS, &Arc::default());
    let mut rest = entries.into_inner();
    let whole = io::copy(&mut rest, &mut io::sink()).and_then(|_| rest.finish());
    if applied.is_ok() && whole.is_ok() {
        let mut made = Vec::new();
        match recipe::rebuild(&path, &fs, &digest_of(&archive), &mut made) {
            Ok(()) => assert_eq!(made, archive),
            // The layer itself replaced a file that it brought.
            Err(
                recipe::Error::Path { .. }
                | recipe::Error::File { .. }
                | recipe::Error::DiffId { .. },
            ) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    if let Ok(damaged) = zstd::encode_all(bytes, 1)
        && fs::write(&path, damaged).is_ok()
    {
        let made = recipe::rebuild(&path, &fs, &digest_of(b""), io::sink());
        if let Err(error) = made {
            inside(&error);
        }
    }
    empty(directory, &["fs", "recipe"]);
}

/// An archive of images, uncompressed: `layer` decompresses.
///
/// # Panics
/// If it makes something outside of its directory.
pub fn archive(bytes: &[u8], directory: &Path) {
    if is_compressed(bytes) {
        return;
    }
    let mut archive = bytes.to_vec();
    sum(&mut archive);
    let path = directory.join("archive");
    if fs::write(&path, &archive).is_err() {
        return;
    }
    if let Ok(opened) = Archive::open(&path, directory) {
        for image in opened.images(&Platform::host()).into_iter().flatten() {
            for layer in &image.layers {
                if let Ok((_, mut member)) = opened.read(layer) {
                    let _ = io::copy(&mut member, &mut io::sink());
                }
            }
        }
        drop(opened);
    }
    empty(directory, &["archive"]);
}

/// What is outside is read-only: nobody tried to write there.
#[allow(clippy::panic)]
fn inside(error: &(dyn StdError + 'static)) {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let code = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
        if code == Some(Errno::ROFS.raw_os_error()) {
            panic!("something outside of the directory was to be changed: {error:?}");
        }
        cause = error.source();
    }
}

/// Entries below a directory, and bytes of its files; those with several names once.
fn measure(directory: &Path) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt as _;
    let (mut count, mut bytes) = (0, 0);
    let mut seen = std::collections::BTreeSet::new();
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            count += 1;
            if metadata.is_dir() {
                open.push(entry.path());
            } else if metadata.is_file() && seen.insert(metadata.ino()) {
                bytes += metadata.len();
            }
        }
    }
    (count, bytes)
}

/// Removes these, and nothing else must be there.
#[allow(clippy::panic)]
fn empty(directory: &Path, names: &[&str]) {
    for name in names {
        let path = directory.join(name);
        let removed = match path.is_dir() {
            true => fs::remove_dir_all(&path),
            false => fs::remove_file(&path),
        };
        assert!(removed.is_ok(), "remove {}: {removed:?}", path.display());
    }
    let left = fs::read_dir(directory).map(Iterator::count);
    if !matches!(left, Ok(0)) {
        panic!("{left:?} entries are left in {}", directory.display());
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
            recipe(&bytes, directory.path());
            archive(&bytes, directory.path());
        }

        #[test]
        fn no_answer_panics(text in r#"(Bearer |Basic |bytes |[a-z]+="?|[0-9]{1,20}|[-/*,"\\\\{}:]){0,20}"#) {
            answers(text.as_bytes());
        }

        #[test]
        fn no_document_panics(text in r#"[\{\}\[\]",:a-z0-9/@. ]{0,200}"#) {
            documents(text.as_bytes());
            logins(text.as_bytes());
            signatures(text.as_bytes());
        }
    }
}
