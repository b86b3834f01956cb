//! Task networks.

pub mod ipam;
pub mod ports;
