//! Headers of a tar, extended ones among them.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| agent::image::fuzzing::headers(bytes));
