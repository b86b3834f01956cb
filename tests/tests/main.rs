//! The real binaries as root against real peers. One binary, a module per subject.

mod architecture;
mod task;
