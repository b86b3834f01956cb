//! The API socket.

pub mod types;
