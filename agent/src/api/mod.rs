//! The API socket.

pub mod client;
pub mod server;
pub mod types;
