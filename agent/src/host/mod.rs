//! The edge of the engine.

pub mod bundle;
