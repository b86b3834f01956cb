//! Docker's configuration, what credential helpers answer, secrets.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| agent::image::fuzzing::logins(bytes));
