//! The archive of an unpacked layer, made again.
#![no_main]

use std::sync::LazyLock;

static DIRECTORY: LazyLock<tempfile::TempDir> =
    LazyLock::new(|| tempfile::tempdir().expect("a directory for recipes"));

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| agent::image::fuzzing::recipe(bytes, DIRECTORY.path()));
