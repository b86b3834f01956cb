//! See `lighter store`.
