//! See `lighter volume`.
