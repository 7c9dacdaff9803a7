//! The state of a key service on a disk, under a root key, and its audit log.
