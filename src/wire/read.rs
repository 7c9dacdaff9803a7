//! A cursor that is a shrinking slice. Every read names its field, so that every error can.

use super::{ParseError, len64};

/// Reads fields off the front of a slice; knows how far it is from the start of the message.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
    offset: u64,
    enclosed: bool,
}

impl<'a> Reader<'a> {
    /// Reads `bytes`, which begin `offset` bytes into the message; running out of them is a truncation.
    #[must_use]
    #[inline]
    pub fn new(bytes: &'a [u8], offset: u64) -> Self {
        Self { rest: bytes, offset, enclosed: false }
    }

    /// Reads `bytes` whose length an enclosing field has declared: running out of them is malformed, since no
    /// further input could mend it.
    #[must_use]
    pub fn enclosed(bytes: &'a [u8], offset: u64) -> Self {
        Self { rest: bytes, offset, enclosed: true }
    }

    /// Bytes from the start of the message to the next field.
    #[must_use]
    #[inline]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// What has not been read.
    #[must_use]
    #[inline]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next `n` bytes.
    ///
    /// # Errors
    /// [`ParseError::Truncated`], or [`ParseError::Malformed`] inside an enclosing length.
    #[inline]
    pub fn take(&mut self, n: usize, field: &'static str) -> Result<&'a [u8], ParseError> {
        let Some((head, rest)) = self.rest.split_at_checked(n) else {
            return Err(self.short(n, field));
        };
        self.rest = rest;
        self.offset = self.offset.saturating_add(len64(n));
        Ok(head)
    }

    /// The next `N` bytes.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    #[inline]
    pub fn array<const N: usize>(&mut self, field: &'static str) -> Result<&'a [u8; N], ParseError> {
        let taken = self.take(N, field)?.first_chunk();
        taken.ok_or_else(|| self.short(N, field))
    }

    /// One byte.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    #[inline]
    pub fn u8(&mut self, field: &'static str) -> Result<u8, ParseError> {
        self.array::<1>(field).map(|[byte]| *byte)
    }

    /// Two bytes, big-endian.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    #[inline]
    pub fn u16(&mut self, field: &'static str) -> Result<u16, ParseError> {
        self.array(field).map(|bytes| u16::from_be_bytes(*bytes))
    }

    /// Four bytes, big-endian.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    #[inline]
    pub fn u32(&mut self, field: &'static str) -> Result<u32, ParseError> {
        self.array(field).map(|bytes| u32::from_be_bytes(*bytes))
    }

    /// Eight bytes, big-endian.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    #[inline]
    pub fn u64(&mut self, field: &'static str) -> Result<u64, ParseError> {
        self.array(field).map(|bytes| u64::from_be_bytes(*bytes))
    }

    #[cold]
    fn short(&self, needed: usize, field: &'static str) -> ParseError {
        if self.enclosed {
            return ParseError::malformed(field, self.offset, "overruns the length that encloses it");
        }
        ParseError::Truncated { field, offset: self.offset, needed: len64(needed), available: len64(self.rest.len()) }
    }
}
