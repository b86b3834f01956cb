//! See `lighter logs`.
