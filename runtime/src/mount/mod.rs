//! Mounts of a container: which, where, and how they get there without leaving the root.
//!
//! - `options`: names of mount options;
//! - `bind`: trees of the host, cloned and given their options, without the heap too;
//! - `steps`: the plan's mounts as steps for the child, with the trees they attach opened already;
//! - `resolve`: paths below the root, without the heap, for the child;
//! - `tmpfs`: what a tmpfs takes from the directory it covers, without the heap too.
//!
//! Destinations are resolved by the kernel inside the root (`openat2`, `RESOLVE_IN_ROOT`), never as
//! strings, and mounted on by descriptor, so a link that is swapped between the two leads nowhere
//! else (CVE-2021-30465, CVE-2025-31133). Sources of bind mounts are cloned by the parent before the
//! container exists, as detached trees; where that is an ordinary user, by the child itself.

pub mod bind;
pub mod options;
pub mod resolve;
pub mod steps;
pub mod tmpfs;
