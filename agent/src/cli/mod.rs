//! See `lighter cli`.
