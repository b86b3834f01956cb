//! A layer, compressed or not, into a directory: nothing may be made outside of it.
#![no_main]

use std::sync::LazyLock;

static DIRECTORY: LazyLock<tempfile::TempDir> =
    LazyLock::new(|| tempfile::tempdir().expect("a directory for layers"));

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| agent::image::fuzzing::layer(bytes, DIRECTORY.path()));
