use bytes::BytesMut;
use tokio_util::codec::{Decoder, FramedRead};

use super::{CodecError, EnvelopeCodec, READ_BUFFER};
use crate::{
    channel::ChannelOpener,
    open::{Budgets, Meters, OpenError, Opened, Opener},
    wire::{Opening, ParseError},
};

/// Opens what arrives on a channel.
///
/// The stream ends when the input does, and so not before the sender closes its half after the last message.
/// The end of input without the channel's last message is an error, after everything before it was delivered. A codec
/// that has failed stays failed, whatever `Framed` does after an error.
pub struct OpeningCodec(Box<ChannelOpener>);

impl From<ChannelOpener> for OpeningCodec {
    fn from(channel: ChannelOpener) -> Self {
        Self(Box::new(channel))
    }
}

impl OpeningCodec {
    /// A stream over `io` with a read buffer that suits.
    pub fn framed<R: tokio::io::AsyncRead>(self, io: R) -> FramedRead<R, Self> {
        FramedRead::with_capacity(io, self, READ_BUFFER)
    }

    /// The channel, to ask whether it is closed or for its first header_mac.
    #[must_use]
    pub fn channel(&self) -> &ChannelOpener {
        &self.0
    }
}

impl Decoder for OpeningCodec {
    type Item = Opened;
    type Error = CodecError;

    fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Opened>, CodecError> {
        self.0.next_or(input)
    }

    fn decode_eof(&mut self, input: &mut BytesMut) -> Result<Option<Opened>, CodecError> {
        match self.0.next(input)? {
            Some(opened) => Ok(Some(opened)),
            None => Ok(self.0.end(input).map(|()| None)?),
        }
    }
}

/// Opens self-contained messages one by one. A message that cannot be opened is an outcome of its own, and the next one
/// is read; a broken frame ends the stream.
///
/// Failures have a budget ([`Budgets`]), and so have decapsulations, and messages without a byte: past it the stream
/// ends too.
pub struct MessageCodec {
    frames: EnvelopeCodec,
    opener: Opener,
    meters: Meters,
}

impl MessageCodec {
    /// Opens with the keys and policy of `opener`.
    #[must_use]
    pub fn new(opener: Opener) -> Self {
        let frames = EnvelopeCodec::new(opener.policy().limits.clone());
        Self { frames, meters: Budgets::default().meters(opener.clock()), opener }
    }

    /// What the peer may cost.
    #[must_use]
    pub fn budgets(mut self, budgets: Budgets) -> Self {
        self.meters = budgets.meters(self.opener.clock());
        self
    }

    /// A stream over `io` with a read buffer that suits.
    pub fn framed<R: tokio::io::AsyncRead>(self, io: R) -> FramedRead<R, Self> {
        FramedRead::with_capacity(io, self, READ_BUFFER)
    }

    fn open(&mut self, frame: super::RawMessage) -> Result<Result<Opened, OpenError>, CodecError> {
        let Self { meters: Meters { envelopes, empty, failures }, opener, frames } = self;
        let opened = match (frame.kind(), frame.bytes().clone()) {
            (Opening::FollowUp, _) => Err(ParseError::malformed("type", 0, "a follow-up outside a channel").into()),
            (Opening::Envelope, bytes) => {
                drop(frame);
                let mut trials = 0;
                let opened = opener.open_counting(BytesMut::from(bytes), &mut trials);
                // What has cost too much is the last; it was opened, and is not given.
                envelopes.spend_some(trials, opener.clock()).map_err(|over| frames.end(over))?;
                opened
            }
        };
        match &opened {
            Ok(opened) if !opened.payload.is_empty() => {}
            Ok(_) => empty.spend(opener.clock()).map_err(|over| frames.end(over))?,
            Err(_) => failures.spend(opener.clock()).map_err(|over| frames.end(over))?,
        }
        Ok(opened)
    }
}

impl Decoder for MessageCodec {
    type Item = Result<Opened, OpenError>;
    type Error = CodecError;

    fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Self::Item>, CodecError> {
        let frame = self.frames.decode(input)?;
        frame.map(|frame| self.open(frame)).transpose()
    }

    fn decode_eof(&mut self, input: &mut BytesMut) -> Result<Option<Self::Item>, CodecError> {
        let frame = self.frames.decode_eof(input)?;
        frame.map(|frame| self.open(frame)).transpose()
    }
}
