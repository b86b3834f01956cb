//! Challenges, ranges, limits and refusals of a registry.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| agent::image::fuzzing::answers(bytes));
