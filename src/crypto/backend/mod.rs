//! The primitives, which are other people's: AEAD, Diffie-Hellman, signatures, HKDF, HMAC, SHA-256.
//!
//! AEAD and Diffie-Hellman are there twice, behind the same functions and with the same bytes. All else is portable in every build:
//! HKDF from one extraction to several expansions is faster so, and a signature is made once a DEK.

#[cfg(feature = "aws-lc")]
pub(crate) mod aws_lc;
#[cfg(feature = "pq")]
mod lattice;
#[cfg_attr(feature = "aws-lc", allow(dead_code, reason = "with an accelerated backend these are there to be compared with it"))]
pub(crate) mod rust;

#[cfg(feature = "aws-lc")]
pub(crate) use aws_lc::{AeadKey, DhKey};
#[cfg(feature = "pq")]
pub(crate) use lattice::{CIPHERTEXT_LEN, MlKemKey, MlKemPublic, PUBLIC_LEN, sha3_256, shake256};
#[cfg(not(feature = "aws-lc"))]
pub(crate) use rust::{AeadKey, DhKey};
pub(crate) use rust::{
    Expander, Hash, ed25519_is_strong, ed25519_public, ed25519_sign, ed25519_verify, extract, hmac, same, sha256, x25519_public,
};
