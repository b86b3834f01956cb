//! What the runtime itself does to a container's network namespace: the loopback interface of a new
//! one goes up, and the interfaces of `linux.netDevices` move in. All else (addresses, interfaces of
//! the agent's making) is the agent's or the hooks' work, between create and start.

pub mod devices;

pub use crate::sys::net::loopback_up;
