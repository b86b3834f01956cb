//! See `lighter monitor`.
