//! The end of a connection that asks.
