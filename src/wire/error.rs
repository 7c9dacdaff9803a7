//! What can be wrong with bytes alone. Anyone could compute these without a key, so a peer may be told.

/// Something a peer chose is larger than the reader or writer allows (spec 11.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{limit} is {value}, more than the limit of {maximum}")]
pub struct LimitExceeded {
    /// The limit's name, as in [`Limits`](crate::wire::Limits).
    pub limit: &'static str,
    /// What was asked for.
    pub value: u64,
    /// What is allowed.
    pub maximum: u64,
}

impl LimitExceeded {
    /// The one gate for every limit, for readers and writers alike.
    ///
    /// # Errors
    /// Itself, when `value` is over `maximum`.
    pub fn check(limit: &'static str, value: u64, maximum: u64) -> Result<(), Self> {
        if value > maximum { Err(Self { limit, value, maximum }) } else { Ok(()) }
    }
}

/// Bytes that are not an envelope, a follow-up or a part of one (spec 11.2). Offsets count from the first byte of
/// the message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// The input ended inside a field.
    #[error("truncated: {field} at offset {offset} needs {needed} bytes, {available} are there")]
    Truncated {
        /// The field that was being read.
        field: &'static str,
        /// Where it starts.
        offset: u64,
        /// How many bytes it has.
        needed: u64,
        /// How many of them arrived.
        available: u64,
    },
    /// A field holds what the format forbids.
    #[error("malformed: {field} at offset {offset}: {why}")]
    Malformed {
        /// The field.
        field: &'static str,
        /// Where it starts.
        offset: u64,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A version, suite, type, option or flag that this version does not know.
    #[error("unsupported: {field} at offset {offset} is {value:#04x}")]
    Unsupported {
        /// The field.
        field: &'static str,
        /// Where it is.
        offset: u64,
        /// Its value.
        value: u64,
    },
    /// Over a limit.
    #[error(transparent)]
    LimitExceeded(#[from] LimitExceeded),
    /// Bytes after the end.
    #[error("trailing bytes: the message ends at offset {offset}, and bytes follow")]
    TrailingBytes {
        /// Where the end is.
        offset: u64,
    },
}

impl ParseError {
    /// The same in a word, for logs and counters (docs/events.md).
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Truncated { .. } => "truncated",
            Self::Malformed { .. } => "malformed",
            Self::Unsupported { .. } => "unsupported",
            Self::LimitExceeded(_) => "limit",
            Self::TrailingBytes { .. } => "trailing",
        }
    }

    /// A part of an incremental parse: not enough bytes yet is `None`, anything else is the result.
    pub(crate) fn incomplete<T>(parsed: Result<T, Self>) -> Result<Option<T>, Self> {
        match parsed {
            Ok(value) => Ok(Some(value)),
            Err(Self::Truncated { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn malformed(field: &'static str, offset: u64, why: &'static str) -> Self {
        Self::Malformed { field, offset, why }
    }

    /// The same error with its offset counted from `base` bytes earlier.
    #[must_use]
    pub fn shifted(mut self, base: u64) -> Self {
        match &mut self {
            Self::Truncated { offset, .. }
            | Self::Malformed { offset, .. }
            | Self::Unsupported { offset, .. }
            | Self::TrailingBytes { offset } => *offset = offset.saturating_add(base),
            Self::LimitExceeded(_) => {}
        }
        self
    }
}
