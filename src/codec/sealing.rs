use bytes::{Bytes, BytesMut};
use tokio_util::codec::{Encoder, FramedWrite};

use super::{CodecError, WRITE_BOUNDARY};
use crate::{
    channel::ChannelSealer,
    keys::DataKey,
    seal::{SealError, Sealer},
};

/// What can be sent through a [`SealingCodec`].
///
/// Closing a `Framed` never reaches its encoder, so the end of a channel is an item too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outgoing {
    /// A message.
    Message {
        /// Public, authenticated bytes.
        context: Bytes,
        /// The payload.
        payload: Bytes,
    },
    /// The channel's last message.
    Last {
        /// Public, authenticated bytes.
        context: Bytes,
        /// The payload.
        payload: Bytes,
    },
    /// A notice that the channel ends. Close the sink after it: the other side's stream ends with the connection's half.
    End,
}

impl Outgoing {
    /// A message without a context.
    #[must_use]
    pub fn message(payload: impl Into<Bytes>) -> Self {
        Self::Message { context: Bytes::new(), payload: payload.into() }
    }
}

/// Seals what is sent: as one channel, or every message as an envelope of its own.
///
/// `encode` appends and touches nothing before its own bytes; on an error the buffer is as it was.
pub struct SealingCodec(Mode);

enum Mode {
    Channel(Box<ChannelSealer>),
    SelfContained(Box<Sealer>),
}

impl From<ChannelSealer> for SealingCodec {
    fn from(channel: ChannelSealer) -> Self {
        Self(Mode::Channel(Box::new(channel)))
    }
}

impl SealingCodec {
    /// Seals every message as an envelope of its own: no order, no gaps noticed, and 153 bytes more for each.
    #[must_use]
    pub fn self_contained(sealer: Sealer) -> Self {
        Self(Mode::SelfContained(Box::new(sealer)))
    }

    /// A sink over `io` with buffer sizes that suit.
    pub fn framed<W: tokio::io::AsyncWrite>(self, io: W) -> FramedWrite<W, Self> {
        let mut framed = FramedWrite::new(io, self);
        framed.set_backpressure_boundary(WRITE_BOUNDARY);
        framed
    }

    /// Goes on with another data key ([`Sealer::renew_with`], [`ChannelSealer::renew_with`]).
    ///
    /// # Errors
    /// As they.
    pub fn renew_with(&mut self, data_key: DataKey) -> Result<(), SealError> {
        match &mut self.0 {
            Mode::Channel(channel) => channel.renew_with(data_key),
            Mode::SelfContained(sealer) => sealer.renew_with(data_key),
        }
    }

    /// The channel, to renew it or to ask for its first header_mac.
    pub fn channel_mut(&mut self) -> Option<&mut ChannelSealer> {
        match &mut self.0 {
            Mode::Channel(channel) => Some(channel),
            Mode::SelfContained(_) => None,
        }
    }
}

impl Encoder<Outgoing> for SealingCodec {
    type Error = CodecError;

    fn encode(&mut self, item: Outgoing, out: &mut BytesMut) -> Result<(), CodecError> {
        match (&mut self.0, &item) {
            (Mode::Channel(channel), Outgoing::Message { context, payload }) => channel.seal(context, payload, out)?,
            (Mode::Channel(channel), Outgoing::Last { context, payload }) => channel.seal_last(context, payload, out)?,
            (Mode::Channel(channel), Outgoing::End) => channel.finish(out)?,
            (Mode::SelfContained(sealer), Outgoing::Message { context, payload } | Outgoing::Last { context, payload }) => {
                sealer.seal_into(context, payload, out)?;
            }
            (Mode::SelfContained(_), Outgoing::End) => {}
        }
        Ok(())
    }
}

impl Encoder<Bytes> for SealingCodec {
    type Error = CodecError;

    fn encode(&mut self, payload: Bytes, out: &mut BytesMut) -> Result<(), CodecError> {
        match &mut self.0 {
            Mode::Channel(channel) => channel.seal(&[], &payload, out)?,
            Mode::SelfContained(sealer) => sealer.seal_into(&[], &payload, out)?,
        }
        Ok(())
    }
}
