//! OCI container runtime.
