//! The primitives, which are other people's: AEAD, Diffie-Hellman, HKDF, HMAC, SHA-256.

mod rust;

pub(crate) use rust::*;
