//! See `lighter engine`.
