use bytes::BytesMut;
use tokio_util::codec::{Decoder, FramedRead};

use super::{CodecError, EnvelopeCodec, READ_BUFFER};
use crate::{
    channel::ChannelOpener,
    open::{OpenError, Opened, Opener},
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
        Ok(self.0.next(input)?)
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
pub struct MessageCodec {
    frames: EnvelopeCodec,
    opener: Opener,
}

impl MessageCodec {
    /// Opens with the keys and policy of `opener`.
    #[must_use]
    pub fn new(opener: Opener) -> Self {
        Self { frames: EnvelopeCodec::new(opener.policy().limits.clone()), opener }
    }

    /// A stream over `io` with a read buffer that suits.
    pub fn framed<R: tokio::io::AsyncRead>(self, io: R) -> FramedRead<R, Self> {
        FramedRead::with_capacity(io, self, READ_BUFFER)
    }

    fn open(&self, frame: super::RawMessage) -> Result<Opened, OpenError> {
        match (frame.kind(), frame.bytes().clone()) {
            (Opening::FollowUp, _) => Err(ParseError::malformed("type", 0, "a follow-up outside a channel").into()),
            (Opening::Envelope, bytes) => {
                drop(frame);
                self.opener.open_in_place(BytesMut::from(bytes))
            }
        }
    }
}

impl Decoder for MessageCodec {
    type Item = Result<Opened, OpenError>;
    type Error = CodecError;

    fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Self::Item>, CodecError> {
        let frame = self.frames.decode(input)?;
        Ok(frame.map(|frame| self.open(frame)))
    }

    fn decode_eof(&mut self, input: &mut BytesMut) -> Result<Option<Self::Item>, CodecError> {
        let frame = self.frames.decode_eof(input)?;
        Ok(frame.map(|frame| self.open(frame)))
    }
}
