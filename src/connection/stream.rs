use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use futures_core::Stream;
use tokio::{io::AsyncRead, time::Instant};
use tokio_util::io::poll_read_buf;

use super::{LONG_WINDOW, SMALL_WINDOWS, TimedOut, Times, WINDOW, times::Timer};
use crate::{
    channel::ChannelOpener,
    codec::CodecError,
    keys::Dek,
    open::Opened,
    telemetry::{Traffic, Way},
    wire::External,
};

/// The receiving end of a channel on a connection. See the [module](super).
///
/// Payloads of one segment, and those of a batch, are slices of what was read: whoever keeps a small one for long should copy it, since it
/// holds up to 64 KiB. The stream ends with the channel's last message, whether the connection's half
/// is closed then or not; the end of the input without a last message is an error. After an error it gives one more, [`CodecError::Failed`], and nothing else.
pub struct OpenedStream<R> {
    channel: ChannelOpener,
    io: R,
    input: BytesMut,
    ending: Ending,
    times: Times,
    timer: Timer,
    waited: Option<Waited>,
    /// Bytes read since the connection last had nothing to give, and those of the time before.
    burst: usize,
    burst_before: usize,
    traffic: Traffic,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    Open,
    /// The input has ended.
    Input,
    /// There is nothing more to give.
    Over,
    /// An error was given.
    Failed,
}

/// Since when something is waited for.
struct Waited {
    since: Instant,
    /// What for, and what had come by then: parts, and pieces of a part.
    seen: (TimedOut, u64, usize),
}

impl<R: AsyncRead + Unpin> OpenedStream<R> {
    /// A channel over `io`.
    pub fn new(channel: ChannelOpener, io: R) -> Self {
        Self {
            channel,
            io,
            input: BytesMut::new(),
            ending: Ending::Open,
            times: Times::default(),
            timer: Timer::default(),
            waited: None,
            burst: 0,
            burst_before: 0,
            traffic: Traffic::new(Way::Opened),
        }
    }

    /// How long the peer may take.
    #[must_use]
    pub fn times(mut self, times: Times) -> Self {
        self.times = times;
        self
    }

    /// Only the payloads of what it gives.
    #[must_use]
    pub fn payloads(self) -> Payloads<R> {
        Payloads(self)
    }

    /// The channel, to ask whether it is closed or for its first header_mac.
    #[must_use]
    pub fn channel(&self) -> &ChannelOpener {
        &self.channel
    }

    /// What is read from.
    pub fn get_ref(&self) -> &R {
        &self.io
    }

    /// The block that waits for its DEK, after [`CodecError::NeedsDek`]; only with
    /// [`ChannelOpener::waiting_for_deks`](ChannelOpener::waiting_for_deks).
    #[must_use]
    pub fn needs_dek(&self) -> Option<&[u8]> {
        self.channel.needs_dek(&self.input)
    }

    /// The externals of that block whose KMS may be asked ([`ChannelOpener::externals`](ChannelOpener::externals)).
    #[must_use]
    pub fn externals(&self) -> Vec<External<'_>> {
        self.channel.externals(&self.input)
    }

    /// Goes on with a DEK from elsewhere.
    ///
    /// # Errors
    /// As [`ChannelOpener::supply`].
    pub fn supply(&mut self, dek: &Dek) -> Result<(), CodecError> {
        let supplied = self.channel.supply(&mut self.input, dek);
        // The time that it took was not the peer's.
        self.waited = None;
        supplied.map_err(|error| if self.needs_dek().is_some() { error.into() } else { self.fail(error.into()) })
    }

    fn fail(&mut self, error: CodecError) -> CodecError {
        self.traffic.ends(self.channel.epochs(), Some(&error));
        self.ending = Ending::Failed;
        self.input = BytesMut::new();
        error
    }

    /// What can be told without reading: a message, an error, or the end.
    fn next_here(&mut self) -> Result<Option<Opened>, CodecError> {
        let next = match self.channel.next(&mut self.input) {
            Ok(None) if self.channel.needs_dek(&self.input).is_some() => return Err(CodecError::NeedsDek),
            Ok(None) if self.ending == Ending::Input => self.channel.end(&self.input).map(|()| {
                self.ending = Ending::Over;
                self.traffic.ends(self.channel.epochs(), None);
                None
            }),
            next => next,
        };
        next.map_err(|error| self.fail(error.into()))
    }

    /// Room to read into: as much as seems to come at once, so that the many connections on which little is said cost little.
    fn window(&self) -> usize {
        if self.channel.is_in_a_long_message() {
            return LONG_WINDOW;
        }
        let burst = self.burst.max(self.burst_before);
        SMALL_WINDOWS.into_iter().find(|window| burst < window / 2).unwrap_or(WINDOW)
    }

    /// Reads what there is.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CodecError>> {
        let window = self.window();
        if self.input.capacity() - self.input.len() < window / 4 {
            self.input.reserve(window);
        }
        match poll_read_buf(Pin::new(&mut self.io), cx, &mut self.input) {
            Poll::Ready(Ok(0)) => {
                self.ending = Ending::Input;
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Ok(n)) => {
                self.burst = self.burst.saturating_add(n);
                Poll::Ready(Ok(()))
            }
            // Everything was said; how the connection goes down then takes nothing from it.
            Poll::Ready(Err(_)) | Poll::Pending if self.channel.is_closed() => {
                self.ending = Ending::Input;
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(self.fail(error.into()))),
            Poll::Pending => {
                if self.input.is_empty() {
                    // A connection on which nothing is said holds no buffer.
                    self.input = BytesMut::new();
                    self.burst_before = std::mem::take(&mut self.burst);
                }
                self.traffic.waits(self.channel.epochs());
                self.poll_late(cx)
            }
        }
    }

    /// Whether the peer has taken too long.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CodecError>> {
        let (limit, timed_out) = if self.channel.first_header_mac().is_none() {
            (self.times.header, TimedOut::Header)
        } else if !self.is_idle() {
            (self.times.part, TimedOut::Part)
        } else {
            (self.times.idle, TimedOut::Idle)
        };
        let Some(limit) = limit else { return Poll::Pending };
        self.measure(timed_out);
        let Some(waited) = &mut self.waited else { return Poll::Pending };
        if !self.timer.has_passed(&mut waited.since, limit, cx) {
            return Poll::Pending;
        }
        Poll::Ready(Err(self.fail(timed_out.into())))
    }

    /// Begins to measure unless the same is still waited for: before the first block from the beginning, otherwise from the last whole part, or
    /// the last 64 KiB of one.
    fn measure(&mut self, waiting: TimedOut) {
        let seen = (waiting, self.channel.steps(), self.input.len() / WINDOW);
        let goes_on = |waited: &Waited| waited.seen == seen || (waiting, waited.seen.0) == (TimedOut::Header, TimedOut::Header);
        if !self.waited.as_ref().is_some_and(goes_on) {
            self.waited = Some(Waited { since: Instant::now(), seen });
        }
    }

    /// Whether no message is under way.
    fn is_idle(&self) -> bool {
        self.channel.is_between_messages() && self.input.is_empty()
    }
}

impl<R: AsyncRead + Unpin> Stream for OpenedStream<R> {
    type Item = Result<Opened, CodecError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Opened, CodecError>>> {
        let this = &mut *self;
        // Most messages of a batch: nothing is asked but the batch.
        if let Some(opened) = this.channel.next_of_batch() {
            this.traffic.count(opened.payload.len());
            return Poll::Ready(Some(Ok(opened)));
        }
        loop {
            match self.ending {
                Ending::Over => return Poll::Ready(None),
                Ending::Failed => {
                    self.ending = Ending::Over;
                    return Poll::Ready(Some(Err(CodecError::Failed)));
                }
                Ending::Open | Ending::Input => {}
            }
            match self.next_here() {
                Ok(Some(opened)) => {
                    self.traffic.count(opened.payload.len());
                    return Poll::Ready(Some(Ok(opened)));
                }
                Err(error) => return Poll::Ready(Some(Err(error))),
                Ok(None) if self.ending == Ending::Over => return Poll::Ready(None),
                Ok(None) => {}
            }
            match self.poll_fill(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Some(Err(error))),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl<R> OpenedStream<R> {
    /// Whether the peer's last message has been read.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.channel.is_closed()
    }
}

/// The payloads of an [`OpenedStream`], without what else is known of each message: who wants no more pays for no more, which is a quarter
/// of what the smallest messages cost.
///
/// Where the policy has a window against replays, nothing of it is committed here.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use bytes::BytesMut;
/// use futures_util::TryStreamExt;
/// use sealwire::{ChannelOpener, ChannelSealer, Cmk, Keyring, Opener, Role, Sealer, connection::OpenedStream};
/// let cmk = Cmk::generate()?;
/// let sealer = Sealer::builder().to(cmk.recipient().clone()).build()?;
/// let (mut channel, mut wire) = (ChannelSealer::new(sealer, Role::Initiator, b""), BytesMut::new());
/// channel.seal(b"", b"one", &mut wire)?;
/// channel.seal_last(b"", b"two", &mut wire)?;
///
/// let channel = ChannelOpener::new(Opener::new(Keyring::from(cmk)), Role::Acceptor, b"");
/// let mut payloads = OpenedStream::new(channel, &wire[..]).payloads();
/// assert_eq!(payloads.try_next().await?.as_deref(), Some(&b"one"[..]));
/// assert_eq!(payloads.try_collect::<Vec<_>>().await?, ["two"]);
/// # Ok(()) }
/// ```
pub struct Payloads<R>(OpenedStream<R>);

impl<R> Payloads<R> {
    /// The stream, for what it knows of the channel.
    pub fn get_ref(&self) -> &OpenedStream<R> {
        &self.0
    }

    /// The stream, to give it a DEK, or to take a whole message.
    pub fn get_mut(&mut self) -> &mut OpenedStream<R> {
        &mut self.0
    }

    /// The stream: nothing of it is lost.
    pub fn into_inner(self) -> OpenedStream<R> {
        self.0
    }
}

impl<R: AsyncRead + Unpin> Stream for Payloads<R> {
    type Item = Result<Bytes, CodecError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, CodecError>>> {
        let stream = &mut self.0;
        if let Some(payload) = stream.channel.next_payload_of_batch() {
            stream.traffic.count(payload.len());
            return Poll::Ready(Some(Ok(payload)));
        }
        Pin::new(stream).poll_next(cx).map_ok(|opened| opened.payload)
    }
}
