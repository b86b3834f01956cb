//! The API socket.

pub mod client;
mod images;
pub mod server;
pub mod types;
