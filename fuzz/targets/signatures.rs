//! Policies, public keys, signatures and what they sign.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| agent::image::fuzzing::signatures(bytes));
