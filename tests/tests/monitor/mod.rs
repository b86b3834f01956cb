//! The task monitor over its wire: what it does, what it refuses, what survives SIGKILL.

mod conversation;
mod crash;
mod output;
