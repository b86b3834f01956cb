//! Compiler for seccomp profiles.
#[derive(Debug, Clone, serde::Deserialize)] pub struct Profile {}
