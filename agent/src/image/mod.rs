//! See `lighter image`.
