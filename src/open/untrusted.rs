//! An envelope that has been parsed and not authenticated. No keys here.

use crate::{
    payload,
    wire::{DekBlock, LimitExceeded, Limits, MessageHead, ParseError, Reader, SegmentPlan, len64},
};

/// The parts of one whole envelope, as its bytes claim them.
#[derive(Debug, Clone)]
pub struct Message<'a> {
    /// The DEK block's bytes, which header_mac covers but for its last 32.
    pub raw_block: &'a [u8],
    /// The DEK block.
    pub block: DekBlock<'a>,
    /// The message head.
    pub head: MessageHead<'a>,
    /// The message head's bytes.
    pub raw_head: &'a [u8],
    /// Where the message head begins.
    pub head_at: usize,
    /// The segments.
    pub body: &'a [u8],
    /// Where the segments begin.
    pub body_at: usize,
    /// Bytes of plaintext that they carry.
    pub plaintext: usize,
    pub(crate) plan: SegmentPlan,
}

impl<'a> Message<'a> {
    /// Takes an envelope apart, to its last byte; all of this comes before any key. [ERR-2]
    ///
    /// # Errors
    /// [`ParseError`]: everything that can be refused without a key, trailing bytes and channel messages included.
    pub fn parse(envelope: &'a [u8], limits: &Limits) -> Result<Self, ParseError> {
        let (raw_block, block) = DekBlock::parse(envelope, limits)?;
        Self::parse_after(raw_block, block, envelope.get(raw_block.len()..).unwrap_or_default(), limits)
    }

    /// Takes a message apart whose DEK block was kept apart from it (spec 4.5). Offsets count from the beginning of the block.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub fn parse_detached(block: &'a [u8], message: &'a [u8], limits: &Limits) -> Result<Self, ParseError> {
        Self::parse_after(block, DekBlock::parse_alone(block, limits)?, message, limits)
    }

    /// Head and segments, which are all that follows the block. [DET-1]
    fn parse_after(raw_block: &'a [u8], block: DekBlock<'a>, rest: &'a [u8], limits: &Limits) -> Result<Self, ParseError> {
        let head_at = raw_block.len();
        let mut reader = Reader::new(rest, len64(head_at));
        let head = MessageHead::parse(&mut reader, limits)?;
        head.check_alone(block.options, len64(head_at))?;
        let (head_end, body) = (reader.offset(), reader.rest());
        let (plaintext, end) = payload::scan(body, head_end, head.segment_log2, limits)?;
        // [SEG-11]
        LimitExceeded::check("message", len64(plaintext), block.suite.longest_message())?;
        // [SEG-8]
        if end != len64(head_at).saturating_add(len64(rest.len())) {
            return Err(ParseError::TrailingBytes { offset: end });
        }
        let (raw_head, _) = rest.split_at(rest.len() - body.len());
        let body_at = head_at + raw_head.len();
        let plan = SegmentPlan::new(plaintext, head.segment_log2)?;
        Ok(Self { raw_block, block, head, raw_head, head_at, body, body_at, plaintext, plan })
    }
}
