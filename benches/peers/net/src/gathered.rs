//! What `SealedSink` and `OpenedStream` do, without sealing: frames of a length and a payload that are gathered in one buffer, and slices of
//! what was read in another. Behind it others have what our own framing gives sealwire.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::io::poll_read_buf;

/// Bytes read at once, and bytes that wait before the sink pushes back.
const WINDOW: usize = 64 * 1024;
/// The same while a long message is under way.
const LONG_WINDOW: usize = 256 * 1024;
/// Bytes of a frame's length.
const PREFIX: usize = 4;

/// A sink of payloads and a stream of them over `io`.
pub struct Gathered<T> {
    io: T,
    /// Always initialised; `start..end` waits.
    out: Vec<u8>,
    start: usize,
    end: usize,
    input: BytesMut,
}

impl<T> Gathered<T> {
    pub fn new(io: T) -> Self {
        Self { io, out: Vec::new(), start: 0, end: 0, input: BytesMut::new() }
    }

    /// The next payload, where all of it is there.
    fn next(&mut self) -> Option<Bytes> {
        let len = u32::from_be_bytes(*self.input.first_chunk()?) as usize;
        if self.input.len() - PREFIX < len {
            return None;
        }
        self.input.advance(PREFIX);
        Some(self.input.split_to(len).freeze())
    }
}

impl<T: AsyncWrite + Unpin> Gathered<T> {
    /// Writes until no more than `most` bytes wait.
    fn poll_drain(&mut self, most: usize, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.end - self.start > most {
            let n = ready!(Pin::new(&mut self.io).poll_write(cx, &self.out[self.start..self.end]))?;
            assert!(n > 0, "the connection takes nothing");
            self.start += n;
            if self.start == self.end {
                (self.start, self.end) = (0, 0);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> Sink<Bytes> for Gathered<T> {
    type Error = io::Error;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_drain(WINDOW, cx)
    }

    fn start_send(mut self: Pin<&mut Self>, payload: Bytes) -> io::Result<()> {
        let this = &mut *self;
        let needed = PREFIX + payload.len();
        if this.out.len() - this.end < needed {
            this.out.copy_within(this.start..this.end, 0);
            (this.start, this.end) = (0, this.end - this.start);
            if this.out.len() - this.end < needed {
                this.out.resize((this.end + needed).max(2 * WINDOW), 0);
            }
        }
        let (prefix, rest) = this.out[this.end..this.end + needed].split_at_mut(PREFIX);
        prefix.copy_from_slice(&(payload.len() as u32).to_be_bytes());
        rest.copy_from_slice(&payload);
        this.end += needed;
        Ok(())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(0, cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl<T: AsyncRead + Unpin> Stream for Gathered<T> {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        let this = &mut *self;
        loop {
            if let Some(payload) = this.next() {
                return Poll::Ready(Some(Ok(payload)));
            }
            let window = if this.input.len() > WINDOW { LONG_WINDOW } else { WINDOW };
            if this.input.capacity() - this.input.len() < window / 4 {
                this.input.reserve(window);
            }
            match poll_read_buf(Pin::new(&mut this.io), cx, &mut this.input) {
                Poll::Ready(Ok(0)) => return Poll::Ready(None),
                Poll::Ready(read) => _ = read?,
                Poll::Pending => {
                    // A connection on which nothing is said holds no buffer.
                    if this.input.is_empty() {
                        this.input = BytesMut::new();
                    }
                    return Poll::Pending;
                }
            }
        }
    }
}
