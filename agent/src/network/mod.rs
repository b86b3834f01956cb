//! See `lighter network`.
