use bytes::{Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

use super::CodecError;
use crate::{
    open::{BudgetExceeded, OpenError},
    wire::{Limits, Opening, ParseError, Splitter, len64},
};

/// After a message of more than this the read buffer is let go.
const BUFFER_KEPT: usize = 256 * 1024;

/// One whole message as it was received: an envelope or a follow-up. Nothing in it is authenticated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawMessage {
    kind: Opening,
    bytes: Bytes,
}

impl RawMessage {
    /// Which of the two it is.
    #[must_use]
    pub fn kind(&self) -> Opening {
        self.kind
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

/// Splits a stream into raw messages, and writes them on, without a key: for routers and queues.
///
/// It passes on envelopes of suites that it does not know. A broken frame ends the stream.
///
/// ```
/// use bytes::BytesMut;
/// use sealwire::codec::EnvelopeCodec;
/// use tokio_util::codec::Decoder;
/// let cmk = sealwire::Cmk::generate()?;
/// let envelope = sealwire::seal(b"hello", &[cmk.recipient().clone()])?;
/// let mut stream = BytesMut::from(&envelope[..]);
/// let raw = EnvelopeCodec::default().decode(&mut stream)?.expect("whole");
/// assert_eq!(raw.bytes()[..], envelope[..]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct EnvelopeCodec {
    splitter: Splitter,
    failed: bool,
}

impl EnvelopeCodec {
    /// A splitter under these limits.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { splitter: Splitter::new(limits), failed: false }
    }

    /// Ends the stream.
    pub(super) fn end(&mut self, over: BudgetExceeded) -> CodecError {
        self.failed = true;
        OpenError::from(over).into()
    }

    fn split(&mut self, input: &mut BytesMut) -> Result<Option<RawMessage>, ParseError> {
        let Some(len) = self.splitter.next(input)? else { return Ok(None) };
        let kind = input.first().map_or(Ok(Opening::Envelope), |byte| Opening::of(*byte))?;
        let bytes = input.split_to(len).freeze();
        if len > BUFFER_KEPT {
            *input = BytesMut::from(&input[..]);
        }
        Ok(Some(RawMessage { kind, bytes }))
    }
}

impl Default for EnvelopeCodec {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

impl Decoder for EnvelopeCodec {
    type Item = RawMessage;
    type Error = CodecError;

    fn decode(&mut self, input: &mut BytesMut) -> Result<Option<RawMessage>, CodecError> {
        if self.failed {
            return Err(CodecError::Failed);
        }
        let split = self.split(input);
        self.failed = split.is_err();
        Ok(split?)
    }

    fn decode_eof(&mut self, input: &mut BytesMut) -> Result<Option<RawMessage>, CodecError> {
        match self.decode(input)? {
            None if !input.is_empty() => {
                self.failed = true;
                let available = len64(input.len());
                Err(ParseError::Truncated { field: "message", offset: 0, needed: available.saturating_add(1), available }.into())
            }
            item => Ok(item),
        }
    }
}

impl Encoder<RawMessage> for EnvelopeCodec {
    type Error = CodecError;

    fn encode(&mut self, message: RawMessage, out: &mut BytesMut) -> Result<(), CodecError> {
        out.extend_from_slice(&message.bytes);
        Ok(())
    }
}
