//! Greeting and channels of a connection to a key service.
