//! Keys + bytes <-> bytes (spec 6). No parsing, no I/O. Crate-private: what leaves goes through `seal` and `open`.
//!
//! The primitives are not ours: they come from [`backend`], and this room only puts them together.
#![deny(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation, clippy::arithmetic_side_effects)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation, clippy::arithmetic_side_effects)
)]

pub(crate) mod aead;
pub(crate) mod backend;
pub(crate) mod hpke;
pub(crate) mod kem;
pub(crate) mod padme;
#[cfg(feature = "passphrase")]
pub(crate) mod passphrase;
pub(crate) mod proof;
pub(crate) mod schedule;
#[cfg(feature = "pq")]
pub(crate) mod xwing;

use crate::wire::{Kem, ParseError, Suite};

/// Whether this build has a suite's KEM and AEAD: the one gate for sealing and opening.
pub(crate) fn is_built(suite: Suite) -> bool {
    cfg!(feature = "pq") || suite.kem() == Kem::X25519
}

/// Refuses a suite of the registry that this build does not have. [SUI-1]
pub(crate) fn check_built(suite: Suite) -> Result<(), ParseError> {
    if is_built(suite) {
        return Ok(());
    }
    Err(ParseError::Unsupported { field: "suite", offset: 8, value: suite.number().into() })
}

/// A secret of 32 bytes in one place on the heap, wiped when dropped. It is filled in place, so that moving it
/// leaves no copy behind.
#[derive(zeroize::Zeroize, zeroize::ZeroizeOnDrop)]
pub(crate) struct Secret32(Box<[u8; 32]>);

impl Secret32 {
    pub(crate) fn zeroed() -> Self {
        Self(Box::new([0; 32]))
    }

    pub(crate) fn copied(bytes: &[u8; 32]) -> Self {
        let mut secret = Self::zeroed();
        secret.0.copy_from_slice(bytes);
        secret
    }

    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8; 32] {
        &mut self.0
    }
}

/// A primitive refused its input; says no more, since what it knows depends on a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refused;
