//! The API socket.

pub mod server;
pub mod types;
