use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_sink::Sink;
use tokio::{io::AsyncWrite, time::Instant};

use super::{BATCH, LONG_WINDOW, TimedOut, Times, WINDOW, outbox::Outbox, times::Timer};
use crate::{
    channel::{ChannelSealer, Sending},
    codec::CodecError,
    keys::DataKey,
    payload::padded_len,
    seal::SealError,
    telemetry::{Traffic, Way},
    wire::{FOLLOW_UP_HEAD_LEN, Flags, PREFIX_LEN, TAG_LEN, check_context, len64},
};

/// The sending end of a channel on a connection. See the [module](super).
///
/// What is fed is gathered as plaintext until a flush, 16 KiB or the size of a segment, and is then sealed as one batch (spec 7). A message
/// that is alone when it is flushed is an ordinary one; so is one that fills a batch by itself. Closing sends the channel's last message
/// and closes the connection's half.
///
/// It holds at most 64 KiB of sealed bytes and a batch before it pushes back, or 256 KiB and the payload of a message of several segments,
/// which it seals as the connection takes it. After an error it gives errors and sends nothing.
pub struct SealedSink<W> {
    channel: ChannelSealer,
    io: W,
    context: Bytes,
    waiting: Waiting,
    long: Option<Long>,
    out: Outbox,
    /// Of plaintext that a batch gathers.
    batch: usize,
    ending: Ending,
    times: Times,
    timer: Timer,
    /// When the connection last took something, while it is waited for.
    stuck_since: Option<Instant>,
    traffic: Traffic,
}

/// What was fed and is not sealed.
enum Waiting {
    Nothing,
    /// A message alone, which may stay so.
    One(Bytes),
    /// Messages that are gathered in the outbox, behind room for a follow-up's head and a prefix.
    Batch {
        front: usize,
        entries: u64,
    },
}

/// A message of several segments, sealed up to one of them.
struct Long {
    sending: Sending,
    context: Bytes,
    payload: Bytes,
    next: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    Open,
    /// The last message is sealed.
    Last,
    /// It is sent, and the connection's half is closed.
    Closed,
    Failed,
}

impl<W: AsyncWrite + Unpin> SealedSink<W> {
    /// A channel over `io`.
    pub fn new(channel: ChannelSealer, io: W) -> Self {
        let settings = channel.settings();
        let batch = BATCH.min(1 << settings.segment_log2).min(usize::try_from(settings.limits.message).unwrap_or(BATCH));
        Self {
            channel,
            io,
            context: Bytes::new(),
            waiting: Waiting::Nothing,
            long: None,
            out: Outbox::default(),
            batch,
            ending: Ending::Open,
            times: Times::default(),
            timer: Timer::default(),
            stuck_since: None,
            traffic: Traffic::new(Way::Sealed),
        }
    }

    /// How long the connection may take nothing ([`Times::write`]).
    #[must_use]
    pub fn times(mut self, times: Times) -> Self {
        self.times = times;
        self
    }

    /// The context of what is fed from now on; empty where nothing is said. Messages of different contexts do not share a batch.
    ///
    /// # Errors
    /// [`SealError`] for a context over its limit; the one before then stays.
    pub fn set_context(&mut self, context: Bytes) -> Result<(), CodecError> {
        self.check()?;
        check_context(&context, &self.channel.settings().limits).map_err(SealError::from)?;
        if context != self.context {
            self.seal_waiting()?;
            self.context = context;
        }
        Ok(())
    }

    /// Waits until a message would be taken, and takes none: for `select!`, with [`push`](Self::push) behind it.
    ///
    /// # Errors
    /// [`CodecError`].
    pub async fn ready(&mut self) -> Result<(), CodecError> {
        poll_fn(|cx| Pin::new(&mut *self).poll_ready(cx)).await
    }

    /// Takes a message without waiting, after [`ready`](Self::ready).
    ///
    /// # Errors
    /// [`CodecError`]. A message that is refused for its size leaves the channel as it was.
    #[inline]
    pub fn push(&mut self, payload: Bytes) -> Result<(), CodecError> {
        self.check()?;
        // Most messages join a batch, which is shorter than any limit; a long message is never under way beside one.
        if let Waiting::Batch { front, entries } = self.waiting
            && self.joins(front, entries, PREFIX_LEN + payload.len())
        {
            self.out.gather_entry(&payload);
            self.waiting = Waiting::Batch { front, entries: entries + 1 };
            self.traffic.count(payload.len());
            return Ok(());
        }
        let len = payload.len();
        self.push_first(payload)?;
        self.traffic.count(len);
        Ok(())
    }

    /// The same for a message that begins a batch, or is none of one.
    fn push_first(&mut self, payload: Bytes) -> Result<(), CodecError> {
        let len = self.channel.plaintext(&payload)?.len();
        // Nobody has waited until there was room; what is under way comes first.
        while self.long.is_some() {
            self.seal_part()?;
        }
        let joins = PREFIX_LEN + payload.len();
        if let Waiting::One(first) = &self.waiting
            && self.channel.settings().limits.batch_entries >= 2
            && self.fits(PREFIX_LEN + first.len() + joins)
        {
            let front = FOLLOW_UP_HEAD_LEN + self.context.len() + PREFIX_LEN;
            self.out.skip(front);
            self.out.gather_entry(first);
            self.out.gather_entry(&payload);
            self.waiting = Waiting::Batch { front, entries: 2 };
            return Ok(());
        }
        self.seal_waiting()?;
        if self.fits(joins) {
            self.waiting = Waiting::One(payload);
            return Ok(());
        }
        self.channel.check_dek(len)?;
        let sending = self.channel.start(&self.context, len, Flags::default().with(Flags::PADDED, self.channel.settings().pad));
        let sending = self.settle(sending)?;
        self.long = Some(Long { sending, context: self.context.clone(), payload, next: 0 });
        if sending.parts() == 1 {
            self.seal_part()?;
        }
        Ok(())
    }

    /// Makes the next message that is sealed a renewal ([`ChannelSealer::renew`]).
    pub fn renew(&mut self) {
        self.channel.renew();
    }

    /// The same under this data key ([`ChannelSealer::renew_with`]). Where the sink has answered [`SealError::DataKeySpent`], what waits is still
    /// there, and goes on.
    ///
    /// # Errors
    /// As [`ChannelSealer::renew_with`]; of a sink that has failed or is closed.
    pub fn renew_with(&mut self, data_key: DataKey) -> Result<(), CodecError> {
        self.check()?;
        Ok(self.channel.renew_with(data_key)?)
    }

    /// The header_mac of the first block ([`ChannelSealer::first_header_mac`]), once something was flushed.
    pub fn first_header_mac(&self) -> Option<&[u8; 32]> {
        self.channel.first_header_mac()
    }

    /// What is written to.
    pub fn get_ref(&self) -> &W {
        &self.io
    }

    /// Whether plaintext of so many bytes is still gathered.
    fn fits(&self, plaintext: usize) -> bool {
        let padded = if self.channel.settings().pad { padded_len(plaintext) } else { Some(plaintext) };
        padded.is_some_and(|padded| padded <= self.batch)
    }

    fn joins(&self, front: usize, entries: u64, joins: usize) -> bool {
        entries < self.channel.settings().limits.batch_entries && self.fits(self.out.gathered() - front + joins)
    }

    fn check(&self) -> Result<(), CodecError> {
        match self.ending {
            Ending::Open if !self.channel.is_closed() => Ok(()),
            Ending::Failed => Err(CodecError::Failed),
            Ending::Open | Ending::Last | Ending::Closed => Err(SealError::Closed.into()),
        }
    }

    /// An error is the end of it.
    fn settle<T, E: Into<CodecError>>(&mut self, result: Result<T, E>) -> Result<T, CodecError> {
        result.map_err(|error| {
            self.ending = Ending::Failed;
            let error = error.into();
            self.traffic.ends(self.channel.epochs(), Some(&error));
            error
        })
    }

    /// Seals what waits: a message alone as one, several as a batch.
    fn seal_waiting(&mut self) -> Result<(), CodecError> {
        let len = match &self.waiting {
            Waiting::Nothing => return Ok(()),
            Waiting::One(payload) => payload.len(),
            Waiting::Batch { front, .. } => self.out.gathered() - front,
        };
        self.check_dek(len)?;
        let sealed = match std::mem::replace(&mut self.waiting, Waiting::Nothing) {
            Waiting::Nothing => return Ok(()),
            Waiting::One(payload) => self.seal_one(&payload, Flags::default()),
            Waiting::Batch { front, .. } => self.seal_batch(front),
        };
        self.settle(sealed)
    }

    /// Whether there is a DEK for so much. Without one nothing is lost, and [`renew_with`](Self::renew_with) mends it.
    fn check_dek(&self, len: usize) -> Result<(), SealError> {
        let padded = if self.channel.settings().pad { padded_len(len).unwrap_or(len) } else { len };
        self.channel.check_dek(padded)
    }

    fn seal_one(&mut self, payload: &[u8], flags: Flags) -> Result<(), SealError> {
        let plaintext = self.channel.plaintext(payload)?;
        let flags = flags.with(Flags::PADDED, plaintext.is_padded());
        let sending = self.channel.start(&self.context, plaintext.len(), flags)?;
        let len = sending.part_len(0);
        self.channel.put_part(&sending, &self.context, &plaintext, 0, self.out.room(len))?;
        self.out.commit(len);
        Ok(())
    }

    /// Seals what is gathered where it is, unless a block has to stand before it.
    fn seal_batch(&mut self, front: usize) -> Result<(), SealError> {
        let len = self.out.gathered() - front;
        let pad = self.channel.settings().pad;
        if pad {
            let zeros = padded_len(len).map_or(0, |padded| padded - len - 8);
            self.out.gather_zeros(zeros);
            self.out.gather(&len64(len).to_be_bytes());
        }
        let plaintext = self.out.gathered() - front;
        let flags = Flags::BATCH.with(Flags::PADDED, pad);
        let sending = self.channel.start(&self.context, plaintext, flags)?;
        let wanted = sending.front_len() + PREFIX_LEN;
        if wanted != front {
            self.out.shift(front, wanted);
        }
        let sealed = wanted + plaintext + TAG_LEN;
        self.channel.put_around(&sending, &self.context, self.out.room(sealed))?;
        self.out.commit(sealed);
        Ok(())
    }

    /// Seals the next segment of a long message.
    fn seal_part(&mut self) -> Result<(), CodecError> {
        let Some(mut long) = self.long.take() else { return Ok(()) };
        let len = long.sending.part_len(long.next);
        let sealed = self
            .channel
            .plaintext(&long.payload)
            .and_then(|plaintext| self.channel.put_part(&long.sending, &long.context, &plaintext, long.next, self.out.room(len)));
        self.settle(sealed)?;
        self.out.commit(len);
        long.next += 1;
        self.long = (long.next < long.sending.parts()).then_some(long);
        Ok(())
    }

    /// Writes until no more than `most` sealed bytes are left, and seals what is left of a long message on the way.
    fn poll_drain(&mut self, most: usize, cx: &mut Context<'_>) -> Poll<Result<(), CodecError>> {
        loop {
            while self.long.is_some() && self.out.len() < LONG_WINDOW {
                self.seal_part()?;
            }
            if self.long.is_none() && self.out.len() <= most {
                return Poll::Ready(Ok(()));
            }
            self.check_process()?;
            match Pin::new(&mut self.io).poll_write(cx, self.out.sealed()) {
                Poll::Ready(Ok(0)) => return Poll::Ready(self.settle(Err(std::io::Error::from(std::io::ErrorKind::WriteZero)))),
                Poll::Ready(Ok(n)) => {
                    self.out.advance(n);
                    self.stuck_since = None;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(self.settle(Err(error))),
                Poll::Pending => return self.poll_stuck(cx),
            }
        }
    }

    /// The check is where bytes leave. [KEY-5]
    fn check_process(&mut self) -> Result<(), CodecError> {
        let at_home = self.channel.check_process();
        self.settle(at_home)
    }

    /// The connection takes nothing: that may last for a while.
    fn poll_stuck(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CodecError>> {
        let Some(limit) = self.times.write else { return Poll::Pending };
        let since = self.stuck_since.get_or_insert_with(Instant::now);
        if self.timer.has_passed(since, limit, cx) {
            return Poll::Ready(self.settle(Err(TimedOut::Write)));
        }
        Poll::Pending
    }

    fn poll_write_all(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CodecError>> {
        self.seal_waiting()?;
        ready!(self.poll_drain(0, cx))?;
        self.check_process()?;
        match Pin::new(&mut self.io).poll_flush(cx) {
            Poll::Ready(flushed) => {
                self.settle(flushed)?;
                self.stuck_since = None;
                self.out.flushed();
                self.traffic.waits(self.channel.epochs());
                Poll::Ready(Ok(()))
            }
            Poll::Pending => self.poll_stuck(cx),
        }
    }
}

impl<W: AsyncWrite + Unpin> Sink<Bytes> for SealedSink<W> {
    type Error = CodecError;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), CodecError>> {
        self.check()?;
        if self.long.is_none() && self.out.len() <= WINDOW {
            return Poll::Ready(Ok(()));
        }
        self.poll_drain(WINDOW, cx)
    }

    fn start_send(mut self: Pin<&mut Self>, payload: Bytes) -> Result<(), CodecError> {
        self.push(payload)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), CodecError>> {
        match self.ending {
            Ending::Failed => Poll::Ready(Err(CodecError::Failed)),
            Ending::Closed => Poll::Ready(Ok(())),
            Ending::Open | Ending::Last => self.poll_write_all(cx),
        }
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), CodecError>> {
        if self.ending == Ending::Open {
            self.seal_waiting()?;
            while self.long.is_some() {
                ready!(self.poll_drain(WINDOW, cx))?;
            }
            self.check_dek(0)?;
            self.context = Bytes::new();
            let last = self.seal_one(&[], Flags::LAST);
            self.settle(last)?;
            self.ending = Ending::Last;
        }
        ready!(self.as_mut().poll_flush(cx))?;
        if self.ending == Ending::Last {
            match Pin::new(&mut self.io).poll_shutdown(cx) {
                Poll::Ready(shut) => {
                    self.settle(shut)?;
                    self.ending = Ending::Closed;
                    let deks = self.channel.epochs();
                    self.traffic.ends(deks, None);
                }
                Poll::Pending => return self.poll_stuck(cx),
            }
        }
        Poll::Ready(Ok(()))
    }
}
