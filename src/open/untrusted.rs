//! An envelope that has been parsed and not authenticated. No keys here.

use crate::{
    payload,
    wire::{DekBlock, Limits, MessageHead, ParseError, Reader, SegmentPlan, len64},
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
        let mut reader = Reader::new(envelope.get(raw_block.len()..).unwrap_or_default(), len64(raw_block.len()));
        let head = MessageHead::parse(&mut reader, limits)?;
        head.check_alone(block.options, len64(raw_block.len()))?;
        let body = reader.rest();
        let (plaintext, end) = payload::scan(body, reader.offset(), head.segment_log2, limits)?;
        // [SEG-8]
        if end != len64(envelope.len()) {
            return Err(ParseError::TrailingBytes { offset: end });
        }
        let body_at = envelope.len() - body.len();
        let head_at = raw_block.len();
        let raw_head = envelope.get(head_at..body_at).unwrap_or_default();
        let plan = SegmentPlan::new(plaintext, head.segment_log2)?;
        Ok(Self { raw_block, block, head, raw_head, head_at, body, body_at, plaintext, plan })
    }
}
