//! Points in time as they travel: nanoseconds inside, RFC 3339 and epoch seconds outside.
