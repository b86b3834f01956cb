//! The task monitor.
