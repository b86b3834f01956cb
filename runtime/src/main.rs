//! `lighter-runtime`.
fn main() {}
