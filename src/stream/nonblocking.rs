//! The same over tokio's `AsyncRead`, `AsyncWrite` and `AsyncSeek`. All that is under way stands in the reader or writer: a future that
//! is dropped loses nothing, and the next call goes on.

use std::{
    future::poll_fn,
    io::{self, SeekFrom},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncSeek, AsyncWrite, ReadBuf};

use super::{
    StreamError,
    opening::{Beginning, Opening, Step},
    sealing::{Place, Sealing},
};
use crate::{
    keys::Fingerprint,
    open::{OpenError, Opener, Sender},
    seal::Sealer,
};

/// [`SealWriter`](super::SealWriter) over an `AsyncWrite`. `shutdown` seals what is left as the final segment, passes everything on and
/// shuts the output down; [`finish`](Self::finish) does the same and leaves the output open.
///
/// A writer that is dropped before leaves a stream that readers call truncated. A segment is sealed in the call that fills it:
/// some fifty microseconds for 64 KiB.
///
/// ```
/// use sealwire::{Cmk, Keyring, Opener, Sealer, stream::{AsyncOpenReader, AsyncSealWriter}};
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let cmk = Cmk::generate()?;
/// let mut sealer = Sealer::builder().to(cmk.recipient().clone()).build()?;
/// let (here, there) = tokio::io::duplex(1024);
/// let sending = tokio::spawn(async move {
///     let mut writer = AsyncSealWriter::new(&mut sealer, b"", here)?;
///     writer.write_all(&[7; 1_000_000]).await?;
///     writer.shutdown().await
/// });
/// let mut payload = Vec::new();
/// AsyncOpenReader::new(&Opener::new(Keyring::from(cmk)), there).await?.read_to_end(&mut payload).await?;
/// sending.await??;
/// assert_eq!(payload, [7; 1_000_000]);
/// # Ok(())
/// # }
/// ```
pub struct AsyncSealWriter<W> {
    out: W,
    core: Sealing,
    /// Sealed bytes on their way out, and how many of them are.
    pending: Vec<u8>,
    sent: usize,
}

impl<W> AsyncSealWriter<W> {
    /// Begins a message with a DEK of its own: block and head go out with the first write, flush or shutdown.
    ///
    /// # Errors
    /// [`SealError`](crate::SealError); [`SignatureNeedsSeek`](crate::SealError::SignatureNeedsSeek) for a sealer that signs messages.
    pub fn new(sealer: &mut Sealer, context: &[u8], out: W) -> Result<Self, StreamError> {
        let (core, pending) = Sealing::begin(sealer, context, Place::Front)?;
        Ok(Self { out, core, pending, sent: 0 })
    }

    /// The output.
    #[must_use]
    pub fn get_ref(&self) -> &W {
        &self.out
    }
}

impl<W: AsyncWrite + Unpin> AsyncSealWriter<W> {
    /// Seals what is left as the final segment, passes everything on, and gives the output back.
    ///
    /// # Errors
    /// As [`SealWriter::finish`](super::SealWriter::finish).
    pub async fn finish(mut self) -> Result<W, StreamError> {
        poll_fn(|context| self.poll_close(context)).await?;
        poll_fn(|context| Pin::new(&mut self.out).poll_flush(context)).await?;
        Ok(self.out)
    }

    /// Passes on what is sealed.
    fn poll_pass_on(&mut self, context: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        loop {
            self.core.check()?;
            while self.sent < self.pending.len() {
                let written = ready!(Pin::new(&mut self.out).poll_write(context, &self.pending[self.sent..]));
                match written {
                    Ok(0) => {
                        self.core.fail();
                        return Poll::Ready(Err(io::Error::from(io::ErrorKind::WriteZero).into()));
                    }
                    Ok(n) => self.sent += n,
                    Err(error) => {
                        // Half a segment has been left behind.
                        self.core.fail();
                        return Poll::Ready(Err(error.into()));
                    }
                }
            }
            let Some(sealed) = self.core.next(true)? else { return Poll::Ready(Ok(())) };
            self.core.reuse(std::mem::replace(&mut self.pending, sealed));
            self.sent = 0;
        }
    }

    fn poll_close(&mut self, context: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        while !self.core.close()? {
            ready!(self.poll_pass_on(context))?;
        }
        self.poll_pass_on(context)
    }

    fn poll_take(&mut self, context: &mut Context<'_>, data: &[u8]) -> Poll<Result<usize, StreamError>> {
        loop {
            // What was sealed before goes out first, so that no more than a segment waits.
            ready!(self.poll_pass_on(context))?;
            let n = self.core.write(data)?;
            if n > 0 || data.is_empty() {
                return Poll::Ready(Ok(n));
            }
        }
    }
}

impl<W: AsyncWrite + Unpin> AsyncWrite for AsyncSealWriter<W> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_take(context, data).map_err(StreamError::into_io)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_pass_on(context)).map_err(StreamError::into_io)?;
        Pin::new(&mut self.out).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_close(context)).map_err(StreamError::into_io)?;
        Pin::new(&mut self.out).poll_shutdown(context)
    }
}

/// [`OpenReader`](super::OpenReader) over an `AsyncRead`, and `AsyncSeek` where the input can seek. Also over a TCP stream, so that a
/// message may be larger than any limit on those that are opened at once.
///
/// A segment is opened in the call that has its last byte.
pub struct AsyncOpenReader<R> {
    input: R,
    core: Opening,
    /// Whether the input has been told where to go, and has not said that it is there.
    seeking: bool,
}

impl<R: AsyncRead + Unpin> AsyncOpenReader<R> {
    /// Begins with a message that fills the input to its end.
    ///
    /// # Errors
    /// As [`OpenReader::new`](super::OpenReader::new).
    pub async fn new(opener: &Opener, input: R) -> Result<Self, StreamError> {
        Self::begin(Beginning::new(opener, true), input).await
    }

    /// Begins with a message after which others may follow: what is behind its end is not read.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub async fn one_of_many(opener: &Opener, input: R) -> Result<Self, StreamError> {
        Self::begin(Beginning::new(opener, false), input).await
    }

    /// Begins with a message whose DEK block was kept apart (spec 4.5), and fills the input to its end.
    ///
    /// # Errors
    /// As [`new`](Self::new). Offsets in errors count from the beginning of the block.
    pub async fn detached(opener: &Opener, block: &[u8], input: R) -> Result<Self, StreamError> {
        Self::begin(Beginning::after(opener, block)?, input).await
    }

    async fn begin(mut beginning: Beginning, mut input: R) -> Result<Self, StreamError> {
        let core = loop {
            let n = poll_fn(|context| poll_read(&mut input, context, beginning.space())).await?;
            if let Some(core) = beginning.came(n)? {
                break core;
            }
        };
        let mut reader = Self { input, core, seeking: false };
        poll_fn(|context| reader.poll_load(context)).await?;
        Ok(reader)
    }

    /// Reads until something can be given.
    fn poll_load(&mut self, context: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        loop {
            match self.core.step()? {
                Step::Read => ready!(self.poll_fill(context))?,
                Step::Ready => return Poll::Ready(Ok(())),
                // Nothing is read while a seek is under way.
                Step::Seek(_) => return Poll::Ready(self.core.fail(OpenError::Failed)),
            }
        }
    }

    fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        Poll::Ready(match ready!(poll_read(&mut self.input, context, self.core.space())) {
            Ok(n) => self.core.came(n),
            Err(error) => self.core.broke(error),
        })
    }
}

/// Reads some bytes; none at the end.
fn poll_read<R: AsyncRead + Unpin>(input: &mut R, context: &mut Context<'_>, space: &mut [u8]) -> Poll<io::Result<usize>> {
    let mut space = ReadBuf::new(space);
    ready!(Pin::new(input).poll_read(context, &mut space))?;
    Poll::Ready(Ok(space.filled().len()))
}

impl<R> AsyncOpenReader<R> {
    fn check_no_seek(&self) -> io::Result<()> {
        match self.core.errand_step() {
            Some(_) => Err(io::Error::other("a seek is under way: poll_complete comes first")),
            None => Ok(()),
        }
    }

    /// The public bytes that came with the message, authentic.
    #[must_use]
    pub fn context(&self) -> &Bytes {
        self.core.context()
    }

    /// Who has sent it; `None` until the end where a proof covers the message.
    #[must_use]
    pub fn sender(&self) -> Option<Sender> {
        self.core.sender()
    }

    /// When the DEK was made, in seconds since the Unix epoch, by the sender's clock.
    #[must_use]
    pub fn created_at(&self) -> u64 {
        self.core.created_at()
    }

    /// The key that opened it.
    #[must_use]
    pub fn key(&self) -> Option<Fingerprint> {
        self.core.key()
    }

    /// As [`OpenReader::commit`](super::OpenReader::commit).
    ///
    /// # Errors
    /// [`OpenError::Failed`] before all of it has been read.
    pub fn commit(&self) -> Result<(), OpenError> {
        self.core.commit()
    }

    /// The input.
    #[must_use]
    pub fn get_ref(&self) -> &R {
        &self.input
    }

    /// Gives the input back.
    #[must_use]
    pub fn into_inner(self) -> R {
        self.input
    }
}

impl<R: AsyncRead + AsyncSeek + Unpin> AsyncOpenReader<R> {
    /// As [`OpenReader::verified`](super::OpenReader::verified).
    ///
    /// # Errors
    /// As [`new`](Self::new); [`OpenError::Proof`].
    pub async fn verified(opener: &Opener, input: R) -> Result<Self, StreamError> {
        let mut reader = Self::new(opener, input).await?;
        if reader.core.message().is_signed() {
            reader.core.begin_seek(SeekFrom::Start(0))?;
            poll_fn(|context| reader.poll_go(context)).await?;
        }
        Ok(reader)
    }

    /// Bytes of the payload: its final segment is opened to tell.
    ///
    /// # Errors
    /// [`OpenError`]; the input's own errors.
    pub async fn payload_len(&mut self) -> Result<u64, StreamError> {
        if self.core.known.is_none() {
            self.core.begin_measure()?;
            poll_fn(|context| self.poll_go(context)).await?;
        }
        self.core.known.as_ref().map(|known| known.payload).ok_or(OpenError::Failed.into())
    }

    /// Goes on with the seek that was begun.
    fn poll_go(&mut self, context: &mut Context<'_>) -> Poll<Result<u64, StreamError>> {
        self.core.check_alive()?;
        while let Some(step) = self.core.errand_step() {
            match step {
                Step::Read => ready!(self.poll_fill(context))?,
                Step::Seek(to) => match ready!(self.poll_seek_input(context, to)) {
                    Ok(place) => self.core.sought(place)?,
                    Err(error) => self.core.broke(error)?,
                },
                Step::Ready => {}
            }
        }
        Poll::Ready(Ok(self.core.seek_ended()?))
    }

    fn poll_seek_input(&mut self, context: &mut Context<'_>, to: SeekFrom) -> Poll<io::Result<u64>> {
        let mut input = Pin::new(&mut self.input);
        if !self.seeking {
            // Whatever the input was at before ends first, as tokio asks.
            ready!(input.as_mut().poll_complete(context))?;
            input.as_mut().start_seek(to)?;
            self.seeking = true;
        }
        let place = ready!(input.poll_complete(context));
        self.seeking = false;
        Poll::Ready(place)
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for AsyncOpenReader<R> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.core.check_alive().map_err(StreamError::into_io)?;
        self.check_no_seek()?;
        loop {
            let n = self.core.take(out.initialize_unfilled()).map_err(StreamError::into_io)?;
            out.advance(n);
            if n > 0 || out.remaining() == 0 || self.core.is_done() {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_load(context)).map_err(StreamError::into_io)?;
        }
    }
}

impl<R: AsyncRead + AsyncSeek + Unpin> AsyncSeek for AsyncOpenReader<R> {
    /// # Errors
    /// Where a seek is under way; as [`OpenReader`](super::OpenReader)'s `seek`.
    fn start_seek(mut self: Pin<&mut Self>, to: SeekFrom) -> io::Result<()> {
        self.check_no_seek()?;
        self.core.begin_seek(to).map_err(StreamError::into_io)
    }

    fn poll_complete(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<u64>> {
        self.poll_go(context).map_err(StreamError::into_io)
    }
}
