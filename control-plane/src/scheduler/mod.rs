//! Placement: pure.
