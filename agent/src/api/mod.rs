//! The API socket.

pub mod client;
pub mod types;
