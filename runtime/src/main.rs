//! `lighter-runtime`: an OCI runtime with runc's command line, and the task monitor.
//!
//! Starts without Rust's own start-up, which each run would pay for twice, once more after the exec of
//! [`runtime::seal`]: a handler of stack overflows, for whose sake it reads `/proc/self/maps`, and the
//! scanner of the C library that reads it.
#![no_main]
#![allow(unsafe_code)] // the name alone: nothing here is unsafe to call

#[cfg(feature = "lean-libc")]
mod lean_libc;

use std::ffi::{c_char, c_int};

/// The C library has given the arguments to `std::env` before it calls this.
#[unsafe(no_mangle)]
extern "C" fn main(_count: c_int, _arguments: *const *const c_char) -> c_int {
    runtime::sys::process::begin();
    runtime::cli::main().into()
}
