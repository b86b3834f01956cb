//! References, manifests, indexes, configurations.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| agent::image::fuzzing::documents(bytes));
