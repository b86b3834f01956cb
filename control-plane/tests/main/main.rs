//! The control plane from outside.

mod store;
