//! Bytes <-> structs (spec 2 to 5). No keys, no I/O, no randomness: what is parsed here is untrusted.
//!
//! Public, for inspection, fuzzing and other implementations. Parsed structs borrow the bytes they were read
//! from, so nothing is allocated and nothing is ever re-encoded before it is authenticated.
#![deny(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation, clippy::arithmetic_side_effects)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation, clippy::arithmetic_side_effects)
)]

pub mod batch;
mod block;
mod error;
mod external;
mod head;
pub mod inspect;

pub mod layout;
mod limits;
mod options;
mod read;
mod segment;
mod slot;
mod split;
mod suite;

pub use block::DekBlock;
#[cfg(feature = "cli")]
pub(crate) use block::PREAMBLE_LEN;
pub(crate) use block::PROOF_LEN;
pub use error::{LimitExceeded, ParseError};
pub use external::{External, Externals};
pub(crate) use head::{FOLLOW_UP_HEAD_LEN, MESSAGE_HEAD_LEN, check_context};
pub use head::{Flags, FollowUpHead, MessageHead, Opening};
pub use limits::Limits;
pub use options::{HintMode, Options};
pub use read::Reader;
pub(crate) use segment::PREFIX_LEN;
pub use segment::{MAX_SEGMENTS, SEGMENT_LOG2_MAX, SEGMENT_LOG2_MIN, SegmentPlan, SegmentPrefix, TAG_LEN};
pub use slot::{Slot, SlotLayout, Slots};
pub use split::Splitter;
pub use suite::{Aead, Kem, Suite};

/// A byte count as the 64-bit number that errors and limits speak of.
pub(crate) fn len64(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

/// A 64-bit count as an index, or the largest one: what does not fit meets a limit first.
pub(crate) fn index(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}
