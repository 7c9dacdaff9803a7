//! The end of a connection that has the keys.
