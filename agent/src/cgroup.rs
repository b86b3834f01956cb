//! Task-level cgroups.
