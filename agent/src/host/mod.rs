//! See `lighter host`.
