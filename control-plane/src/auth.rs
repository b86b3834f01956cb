//! Verifies signatures against local keys, and what a key may call.
