//! Tests of the whole: text in, definition or problems out.
