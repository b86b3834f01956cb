//! Replacements of what the C library has for cases that do not occur here, and links into every static
//! program. Their names are its own, of the version that the Makefile turns the feature on for.

use std::ffi::{c_char, c_int, c_uint, c_void};

/// Takes the place of the C library's translation of its messages, which is never on: it links the
/// conversion of character sets and the loader of libraries, 50 kB.
#[unsafe(no_mangle)]
extern "C" fn __dcgettext(
    _domain: *const c_char,
    text: *const c_char,
    _category: c_int,
) -> *const c_char {
    text
}

/// Takes the place of what the C library does where a promise of its own is broken, for which it links
/// its formatted output, 40 kB.
#[unsafe(no_mangle)]
extern "C" fn __assert_fail(
    _promise: *const c_char,
    _file: *const c_char,
    _line: c_uint,
    _function: *const c_char,
) -> ! {
    std::process::abort()
}

/// Takes the place of the C library's loading of conversions between character sets: a static program
/// has none, and this links the loader of libraries, 60 kB.
#[unsafe(no_mangle)]
extern "C" fn __libc_dlopen_mode(_name: *const c_char, _mode: c_int) -> *mut c_void {
    std::ptr::null_mut()
}

/// As above: nothing was loaded that could have symbols.
#[unsafe(no_mangle)]
extern "C" fn __libc_dlsym(_library: *mut c_void, _name: *const c_char) -> *mut c_void {
    std::ptr::null_mut()
}

/// As above: nothing was loaded that could be closed.
#[unsafe(no_mangle)]
extern "C" fn __libc_dlclose(_library: *mut c_void) -> c_int {
    0
}

/// Takes the place of the C library's printing of floats, with its tables of powers, 27 kB: all that it
/// prints here are its own complaints about the heap.
#[unsafe(no_mangle)]
extern "C" fn __printf_fp(_to: *mut c_void, _how: *const c_void, _what: *const c_void) -> c_int {
    -1
}

/// As above, of floats in base 16.
#[unsafe(no_mangle)]
extern "C" fn __printf_fphex(_to: *mut c_void, _how: *const c_void, _what: *const c_void) -> c_int {
    -1
}
