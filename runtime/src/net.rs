//! What the runtime itself does to a new network namespace: its loopback interface goes up. All else
//! (addresses, interfaces moved in) is the agent's or the hooks' work, between create and start.

pub use crate::sys::net::loopback_up;
