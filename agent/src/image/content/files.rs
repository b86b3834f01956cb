//! Records on disk: temporary, fsync, rename; and the short names of layers.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::failpoint;
use crate::image::Error;

/// The extension of what is being written.
const TEMPORARY: &str = "tmp";

/// The first 130 bits of a digest in base 32.
pub(in crate::image) fn short_name(digest: &str) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let digits = digest.trim_start_matches("sha256:").bytes();
    let (mut bits, mut have, mut name) = (0_usize, 0_u32, String::with_capacity(26));
    for digit in digits.map(|byte| char::from(byte).to_digit(16).unwrap_or(0)) {
        bits = (bits << 4 | digit as usize) & 0xff;
        have += 4;
        if have >= 5 && name.len() < 26 {
            have -= 5;
            name.push(char::from(ALPHABET[bits >> have & 31]));
        }
    }
    name
}

pub(in crate::image) fn is_temporary(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == TEMPORARY)
}

pub(in crate::image) fn all_files(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).map_err(Error::io("list", dir))? {
        paths.push(entry.map_err(Error::io("list", dir))?.path());
    }
    paths.sort();
    Ok(paths)
}

pub(in crate::image) fn files(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut paths = all_files(dir)?;
    paths.retain(|path| !is_temporary(path));
    Ok(paths)
}

pub(in crate::image) fn read_record<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let text = fs::read(path).map_err(Error::io("read", path))?;
    serde_json::from_slice(&text).map_err(|source| Error::Record { path: path.to_owned(), source })
}

pub(in crate::image) fn write_record<T: Serialize>(path: &Path, record: &T) -> Result<(), Error> {
    prepare_record(path, record)?;
    publish(path)
}

/// All of [`write_record`] but what makes it visible: the rest takes no room.
pub(in crate::image) fn prepare_record<T: Serialize>(path: &Path, record: &T) -> Result<(), Error> {
    let text = serde_json::to_vec(record)
        .map_err(|source| Error::Record { path: path.to_owned(), source })?;
    prepare(path, &text)
}

pub(in crate::image) fn write_file(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    prepare(path, bytes)?;
    publish(path)
}

fn prepare(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let temporary = path.with_extension(TEMPORARY);
    let write = || {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    if let Err(error) = write() {
        // On a full disk its room is wanted; else it is swept.
        let _ = fs::remove_file(&temporary);
        return Err(Error::io("write", path)(error));
    }
    failpoint::hit("image.temporary");
    Ok(())
}

/// Makes what was prepared visible.
pub(in crate::image) fn publish(path: &Path) -> Result<(), Error> {
    fs::rename(path.with_extension(TEMPORARY), path).map_err(Error::io("write", path))?;
    path.parent().map_or(Ok(()), sync_dir)
}

pub(in crate::image) fn sync_dir(dir: &Path) -> Result<(), Error> {
    File::open(dir).and_then(|file| file.sync_all()).map_err(Error::io("sync", dir))
}
