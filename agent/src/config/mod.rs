//! See `lighter config`.
