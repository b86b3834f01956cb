//! The control plane from outside.

mod http;
mod logs;
mod program;
mod server;
mod store;
