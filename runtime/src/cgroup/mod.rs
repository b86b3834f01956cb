//! Control groups of a container.
#[derive(Debug)] pub struct Cgroup;
