//! The control plane from outside.

mod http;
mod program;
mod server;
mod store;
