//! Log groups and streams, received and served.
