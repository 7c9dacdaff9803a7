//! Message head and follow-up head (spec 4): what a message says about itself.

use std::fmt;

use bytes::BufMut;

use super::{LimitExceeded, Limits, Options, ParseError, Reader, SEGMENT_LOG2_MAX, SEGMENT_LOG2_MIN, len64};

/// The first byte of a follow-up.
pub(crate) const FOLLOW_UP: u8 = 0x01;
/// Bytes of a message head without its context.
pub(crate) const MESSAGE_HEAD_LEN: usize = 12;
/// Bytes of a follow-up head without its context.
pub(crate) const FOLLOW_UP_HEAD_LEN: usize = 4;

/// What the first byte of a message on a connection says (spec 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// A self-contained message: DEK block, message head, segments.
    Envelope,
    /// A message under the DEK block last sent on this channel.
    FollowUp,
}

impl Opening {
    /// Tells which it is.
    ///
    /// # Errors
    /// [`ParseError::Unsupported`] for every other byte.
    pub fn of(first: u8) -> Result<Self, ParseError> {
        match first {
            0x53 => Ok(Self::Envelope),
            FOLLOW_UP => Ok(Self::FollowUp),
            // [HEAD-1]
            value => Err(ParseError::Unsupported { field: "type", offset: 0, value: value.into() }),
        }
    }
}

/// The flags of a message (spec 4.3), as their byte on the wire: it is copied about for every message.
///
/// ```
/// use sealwire::wire::Flags;
/// let flags = Flags::CHANNEL | Flags::LAST;
/// assert!(flags.last() && flags.channel() && !flags.padded());
/// assert_eq!(flags.byte(), 0b1001);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(u8);

impl Flags {
    /// The sender closes the channel with this message.
    pub const LAST: Self = Self(1);
    /// The plaintext is padded to a Padmé length.
    pub const PADDED: Self = Self(1 << 1);
    /// The payload is several small messages.
    pub const BATCH: Self = Self(1 << 2);
    /// The message belongs to a channel.
    pub const CHANNEL: Self = Self(1 << 3);
    /// Sent by the side that accepted the connection.
    pub const ACCEPTOR: Self = Self(1 << 4);

    #[inline]
    fn parse(reader: &mut Reader<'_>) -> Result<Self, ParseError> {
        let offset = reader.offset();
        let byte = reader.u8("flags")?;
        // [HEAD-3]
        if byte & 0xe0 != 0 {
            return Err(ParseError::Unsupported { field: "flags", offset, value: byte.into() });
        }
        let flags = Self(byte);
        // [HEAD-4]
        if !flags.channel() && (flags.last() || flags.batch() || flags.acceptor()) {
            return Err(ParseError::malformed("flags", offset, "last, batch and acceptor need the channel flag"));
        }
        Ok(flags)
    }

    /// Every flag of `other` too, where `set`.
    #[must_use]
    pub fn with(self, other: Self, set: bool) -> Self {
        if set { self | other } else { self }
    }

    /// Whether [`LAST`](Self::LAST) is set.
    #[must_use]
    pub fn last(self) -> bool {
        self.has(Self::LAST)
    }

    /// Whether [`PADDED`](Self::PADDED) is set.
    #[must_use]
    pub fn padded(self) -> bool {
        self.has(Self::PADDED)
    }

    /// Whether [`BATCH`](Self::BATCH) is set.
    #[must_use]
    pub fn batch(self) -> bool {
        self.has(Self::BATCH)
    }

    /// Whether [`CHANNEL`](Self::CHANNEL) is set.
    #[must_use]
    pub fn channel(self) -> bool {
        self.has(Self::CHANNEL)
    }

    /// Whether [`ACCEPTOR`](Self::ACCEPTOR) is set.
    #[must_use]
    pub fn acceptor(self) -> bool {
        self.has(Self::ACCEPTOR)
    }

    fn has(self, flag: Self) -> bool {
        self.0 & flag.0 != 0
    }

    /// The byte on the wire.
    #[must_use]
    pub fn byte(self) -> u8 {
        self.0
    }

    /// The names of the flags that are set, in the order of their bits.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let all = [
            (Self::LAST, "last"),
            (Self::PADDED, "padded"),
            (Self::BATCH, "batch"),
            (Self::CHANNEL, "channel"),
            (Self::ACCEPTOR, "acceptor"),
        ];
        all.into_iter().filter(move |(flag, _)| self.has(*flag)).map(|(_, name)| name)
    }
}

impl std::ops::BitOr for Flags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

/// The head between a DEK block and its segments (spec 4.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageHead<'a> {
    /// The message's number under its DEK; on a channel, in the channel.
    pub seq: u64,
    /// Plaintext bytes of every segment but the final one, as a power of two.
    pub segment_log2: u8,
    /// What kind of message it is.
    pub flags: Flags,
    /// Public, authenticated bytes.
    pub context: &'a [u8],
}

impl<'a> MessageHead<'a> {
    /// Reads a message head.
    ///
    /// # Errors
    /// [`ParseError`] naming the field.
    pub fn parse(reader: &mut Reader<'a>, limits: &Limits) -> Result<Self, ParseError> {
        let seq = reader.u64("seq")?;
        let offset = reader.offset();
        let segment_log2 = reader.u8("segment_log2")?;
        // [HEAD-2]
        if !(SEGMENT_LOG2_MIN..=SEGMENT_LOG2_MAX).contains(&segment_log2) {
            return Err(ParseError::malformed("segment_log2", offset, "is not from 12 to 24"));
        }
        let flags = Flags::parse(reader)?;
        let context = parse_context(reader, limits)?;
        Ok(Self { seq, segment_log2, flags, context })
    }

    /// Whether the message may stand under a block with these options; `at` is where the head begins.
    ///
    /// # Errors
    /// [`ParseError::Malformed`] where the block's proof covers one message and this cannot be it.
    pub fn check_under(&self, options: Options, at: u64) -> Result<(), ParseError> {
        // [HEAD-5]
        if options.proof_covers_message && self.flags.channel() {
            return Err(ParseError::malformed("flags", at.saturating_add(9), "a channel under a proof of one message"));
        }
        if options.proof_covers_message && self.seq != 0 {
            return Err(ParseError::malformed("seq", at, "is not 0 under a proof of one message"));
        }
        Ok(())
    }

    /// Whether the message may stand by itself under a block with these options; `at` is where the head begins.
    ///
    /// # Errors
    /// [`ParseError::Malformed`] for a message of a channel; as [`check_under`](Self::check_under).
    pub fn check_alone(&self, options: Options, at: u64) -> Result<(), ParseError> {
        // [CHN-2]
        if self.flags.channel() {
            let why = "a message of a channel opens only in its channel";
            return Err(ParseError::malformed("flags", at.saturating_add(9), why));
        }
        self.check_under(options, at)
    }

    /// Appends the head. A context of more than 65,535 bytes has met a limit before.
    #[inline]
    pub fn encode(&self, out: &mut impl BufMut) {
        out.put_slice(&self.fixed_part());
        if !self.context.is_empty() {
            out.put_slice(self.context);
        }
    }

    #[inline]
    fn fixed_part(&self) -> [u8; MESSAGE_HEAD_LEN] {
        let [s0, s1, s2, s3, s4, s5, s6, s7] = self.seq.to_be_bytes();
        let [high, low] = context_len(self.context);
        [s0, s1, s2, s3, s4, s5, s6, s7, self.segment_log2, self.flags.byte(), high, low]
    }

    /// Bytes of the encoded head.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        MESSAGE_HEAD_LEN.saturating_add(self.context.len())
    }
}

/// The head of a message that reuses the channel's DEK block (spec 4.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FollowUpHead<'a> {
    /// What kind of message it is.
    pub flags: Flags,
    /// Public, authenticated bytes.
    pub context: &'a [u8],
}

impl<'a> FollowUpHead<'a> {
    /// Reads a follow-up head, type byte included.
    ///
    /// # Errors
    /// [`ParseError`] naming the field.
    #[inline]
    pub fn parse(reader: &mut Reader<'a>, limits: &Limits) -> Result<Self, ParseError> {
        let offset = reader.offset();
        let kind = reader.u8("type")?;
        // [HEAD-1]
        if kind != FOLLOW_UP {
            return Err(ParseError::Unsupported { field: "type", offset, value: kind.into() });
        }
        let offset = reader.offset();
        let flags = Flags::parse(reader)?;
        // [CHN-1]
        if !flags.channel() {
            return Err(ParseError::malformed("flags", offset, "a follow-up without the channel flag"));
        }
        let context = parse_context(reader, limits)?;
        Ok(Self { flags, context })
    }

    /// Appends the head, type byte included.
    #[inline]
    pub fn encode(&self, out: &mut impl BufMut) {
        let [high, low] = context_len(self.context);
        out.put_slice(&[FOLLOW_UP, self.flags.byte(), high, low]);
        if !self.context.is_empty() {
            out.put_slice(self.context);
        }
    }

    /// Bytes of the encoded head.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        FOLLOW_UP_HEAD_LEN.saturating_add(self.context.len())
    }
}

#[inline]
fn parse_context<'a>(reader: &mut Reader<'a>, limits: &Limits) -> Result<&'a [u8], ParseError> {
    let len = reader.u16("context_len")?;
    // [LIM-2]
    LimitExceeded::check("context", len.into(), limits.context)?;
    reader.take(len.into(), "context")
}

fn context_len(context: &[u8]) -> [u8; 2] {
    u16::try_from(context.len()).unwrap_or(u16::MAX).to_be_bytes()
}

/// Checks a context that is about to be written.
pub(crate) fn check_context(context: &[u8], limits: &Limits) -> Result<(), LimitExceeded> {
    LimitExceeded::check("context", len64(context.len()), limits.context.min(u16::MAX.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(bytes: &[u8]) -> Result<MessageHead<'_>, ParseError> {
        MessageHead::parse(&mut Reader::new(bytes, 0), &Limits::default())
    }

    const HEAD: [u8; 15] = [0, 0, 0, 0, 0, 0, 1, 2, 16, 0, 0, 3, b'a', b'b', b'c'];

    #[test]
    fn a_message_head_parses_and_encodes() {
        let head = message(&HEAD).unwrap();
        assert_eq!((head.seq, head.segment_log2, head.context), (258, 16, &b"abc"[..]));
        let mut out = Vec::new();
        head.encode(&mut out);
        assert_eq!(out, HEAD);
        assert_eq!(head.encoded_len(), HEAD.len());
    }

    /// Proves HEAD-2, HEAD-3, HEAD-4, LIM-2.
    #[test]
    fn a_message_head_is_strict() {
        for (at, value, offset) in [(8, 11, 8), (8, 25, 8), (9, 0x20, 9), (9, 0x80, 9), (9, 1, 9), (9, 4, 9), (9, 16, 9)] {
            let mut bytes = HEAD;
            bytes[at] = value;
            match message(&bytes).unwrap_err() {
                ParseError::Malformed { offset: o, .. } | ParseError::Unsupported { offset: o, .. } => assert_eq!(o, offset),
                other => panic!("{other:?}"),
            }
        }
        let mut bytes = HEAD;
        bytes[10] = 0xff;
        assert!(matches!(message(&bytes), Err(ParseError::LimitExceeded(LimitExceeded { limit: "context", .. }))));
        for n in 0..HEAD.len() {
            assert!(matches!(message(&HEAD[..n]), Err(ParseError::Truncated { .. })));
        }
    }

    /// Every flag beside channel, and padded without it: each set has one byte.
    #[test]
    fn the_flags_are_what_was_read() {
        let parse = |byte: u8| Flags::parse(&mut Reader::new(&[byte], 0)).map(Flags::byte);
        assert_eq!((0..=255).filter(|byte| parse(*byte) == Ok(*byte)).count(), 16 + 2);
        assert_eq!((0..=255).filter(|byte| parse(*byte).is_ok()).count(), 16 + 2);
    }

    /// Proves HEAD-1, HEAD-3, CHN-1.
    #[test]
    fn a_follow_up_head_is_strict() {
        let parse = |bytes: &[u8]| FollowUpHead::parse(&mut Reader::new(bytes, 0), &Limits::default()).map(|h| h.flags);
        assert!(parse(&[1, 0x08, 0, 0]).unwrap().channel());
        assert!(matches!(parse(&[2, 0x08, 0, 0]), Err(ParseError::Unsupported { field: "type", .. })));
        assert!(matches!(parse(&[1, 0x00, 0, 0]), Err(ParseError::Malformed { field: "flags", .. })));
        assert!(matches!(parse(&[1, 0x48, 0, 0]), Err(ParseError::Unsupported { field: "flags", .. })));
        assert!((0..=255).filter(|first| Opening::of(*first).is_ok()).eq([0x01, 0x53]));
        let flags = parse(&[1, 0x1f, 0, 0]).unwrap();
        assert_eq!(flags.byte(), 0x1f);
    }
}
