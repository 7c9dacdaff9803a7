//! tokio-util codecs: shells over [`channel`](crate::channel), [`Sealer`](crate::Sealer), [`Opener`](crate::Opener) and
//! [`Splitter`](crate::wire::Splitter). No rule of the format lives here.
//!
//! ```text
//! SealingCodec          Bytes | Outgoing  ->  bytes of a channel, or of self-contained messages
//! OpeningCodec          bytes of a channel            ->  Opened
//! MessageCodec          bytes of self-contained messages  ->  Result<Opened, OpenError>, one a message
//! EnvelopeCodec         bytes of either  <->  RawMessage     no keys: for routers
//! ```
#![deny(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation, clippy::arithmetic_side_effects)]

mod envelope;
mod opening;
mod sealing;

pub use envelope::{EnvelopeCodec, RawMessage};
pub use opening::{MessageCodec, OpeningCodec};
pub use sealing::{Outgoing, SealingCodec};

use crate::{connection::TimedOut, open::OpenError, seal::SealError, wire::ParseError};

/// Bytes read at once: a read buffer of tokio-util's 8 KiB would make eight reads of one segment.
const READ_BUFFER: usize = 64 * 1024;
/// Bytes that wait before a sink pushes back.
const WRITE_BOUNDARY: usize = 64 * 1024;

/// What ends a connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The transport failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// What arrived cannot be opened, or is not complete.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// What should be sent cannot be sealed.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// What arrived is no message.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// The peer took too long; only from [`connection`](crate::connection).
    #[error(transparent)]
    TimedOut(#[from] TimedOut),
    /// A block waits for its DEK. This is no failure: the stream goes on when it was supplied
    /// ([`OpenedStream::supply`](crate::connection::OpenedStream::supply)).
    #[error("the DEK of a block has to come from elsewhere")]
    NeedsDek,
    /// This codec failed before.
    #[error("the connection failed before and is over")]
    Failed,
}
