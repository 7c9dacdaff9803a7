//! Payloads larger than memory (spec 5, 6, 14): [`SealWriter`] over any `Write`, [`OpenReader`] over any `Read`, and any range of
//! a payload where that can seek. A message that was written here is the same as any other.
//!
//! What is held is one segment, whatever the size of the payload; and 32 bytes for each segment of a message that is signed as a whole,
//! where ranges of it are read.

mod crew;
#[cfg(all(feature = "cli", unix))]
pub(crate) mod files;
pub(crate) mod front;
#[cfg(feature = "codec")]
mod nonblocking;
mod open;
mod opening;
mod range;
mod seal;
mod sealing;
mod unpad;

#[cfg(feature = "codec")]
pub use nonblocking::{AsyncOpenReader, AsyncSealWriter};
pub use open::OpenReader;
pub use seal::{DetachedWriter, SealWriter};

use crate::{open::OpenError, seal::SealError};

/// Why a stream could not be begun or ended.
///
/// From `Read` and `Write` it comes inside an [`io::Error`](std::io::Error), of kind `UnexpectedEof` where the input was cut and
/// `InvalidData` where it cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// Reading or writing failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// What is read cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// What is written cannot be sealed.
    #[error(transparent)]
    Seal(#[from] SealError),
}

impl StreamError {
    /// The same inside an [`io::Error`](std::io::Error).
    fn into_io(self) -> std::io::Error {
        use std::io::{Error, ErrorKind};
        match self {
            Self::Io(error) => error,
            Self::Open(OpenError::Parse(crate::wire::ParseError::Truncated { .. })) => Error::new(ErrorKind::UnexpectedEof, self),
            Self::Open(_) => Error::new(ErrorKind::InvalidData, self),
            Self::Seal(_) => Error::other(self),
        }
    }

    /// What an [`io::Error`](std::io::Error) of this module holds.
    #[must_use]
    pub fn of(error: std::io::Error) -> Self {
        error.downcast().unwrap_or_else(Self::Io)
    }
}

impl From<StreamError> for std::io::Error {
    fn from(error: StreamError) -> Self {
        error.into_io()
    }
}
