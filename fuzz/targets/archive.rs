//! An archive of images, as `image load` reads it.
#![no_main]

use std::sync::LazyLock;

static DIRECTORY: LazyLock<tempfile::TempDir> =
    LazyLock::new(|| tempfile::tempdir().expect("a directory for archives"));

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| agent::image::fuzzing::archive(bytes, DIRECTORY.path()));
