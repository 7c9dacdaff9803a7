use std::io::{self, Seek, SeekFrom, Write};

use super::{
    StreamError,
    sealing::{Place, Sealing},
};
use crate::{seal::Sealer, wire::len64};

/// Seals what is written to it as one message, a segment at a time.
///
/// [`finish`](Self::finish) writes the final segment. A writer that is dropped without it leaves a stream that readers call
/// truncated. `flush` passes on what is sealed already: a segment that is not full cannot be sent.
///
/// ```
/// use std::io::{Read, Write};
/// use sealwire::{Cmk, Keyring, Opener, Sealer, stream::{OpenReader, SealWriter}};
/// let cmk = Cmk::generate()?;
/// let mut sealer = Sealer::builder().to(cmk.recipient().clone()).build()?;
/// let mut writer = SealWriter::new(&mut sealer, b"text/plain", Vec::new())?;
/// writer.write_all(b"a payload of any length")?;
/// let sealed = writer.finish()?;
///
/// let mut payload = String::new();
/// OpenReader::new(&Opener::new(Keyring::from(cmk)), &sealed[..])?.read_to_string(&mut payload)?;
/// assert_eq!(payload, "a payload of any length");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct SealWriter<W: Write> {
    out: W,
    core: Sealing,
    /// Bytes that were written.
    written: u64,
    /// Writes the block once more, where it was not whole.
    again: Option<Again<W>>,
}

/// Writes a block over the one that stands so many bytes before the end.
type Again<W> = fn(&mut W, &[u8], u64) -> io::Result<()>;

impl<W: Write> SealWriter<W> {
    /// Begins a message with a DEK of its own: block and head are written now.
    ///
    /// # Errors
    /// [`SealError`](crate::SealError); [`SignatureNeedsSeek`](crate::SealError::SignatureNeedsSeek) for a sealer that signs messages; the output's own errors.
    pub fn new(sealer: &mut Sealer, context: &[u8], out: W) -> Result<Self, StreamError> {
        Self::begin(sealer, context, out, Place::Front)
    }

    fn begin(sealer: &mut Sealer, context: &[u8], mut out: W, place: Place) -> Result<Self, StreamError> {
        let (core, front) = Sealing::begin(sealer, context, place)?;
        out.write_all(&front)?;
        Ok(Self { out, core, written: len64(front.len()), again: None })
    }

    /// Spreads the work over so many threads, the caller's among them, once the payload is larger than a mebibyte. The bytes are the
    /// same. What is held is four segments for each thread, and 64 MiB at
    /// the most: where segments are large there are fewer threads.
    ///
    /// A segment may then be written one `write` later than with one thread; `flush` waits for all that are full.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.core.set_threads(threads);
        self
    }

    /// Seals what is left as the final segment, passes everything on, and gives the output back.
    ///
    /// # Errors
    /// [`SealError`](crate::SealError), or the output's own error; what was written is then truncated to readers.
    pub fn finish(self) -> Result<W, StreamError> {
        self.finish_parts().map(|(out, _)| out)
    }

    fn finish_parts(mut self) -> Result<(W, Vec<u8>), StreamError> {
        while !self.core.close()? {
            self.pass_on_one()?;
        }
        self.pass_on()?;
        let signed = self.core.is_signed();
        let block = self.core.finished_block()?;
        if let Some(again) = self.again.filter(|_| signed) {
            again(&mut self.out, &block, self.written)?;
        }
        self.out.flush()?;
        Ok((self.out, block))
    }

    /// Waits for the first segment under way, and writes it.
    fn pass_on_one(&mut self) -> Result<bool, StreamError> {
        match self.core.next(true)? {
            Some(sealed) => self.put(sealed).map(|()| true),
            None => Ok(false),
        }
    }

    /// Writes all that are under way.
    fn pass_on(&mut self) -> Result<(), StreamError> {
        while self.pass_on_one()? {}
        Ok(())
    }

    fn put(&mut self, sealed: Vec<u8>) -> Result<(), StreamError> {
        // What fails here has left half a segment behind.
        self.out.write_all(&sealed).inspect_err(|_| self.core.fail())?;
        self.written += len64(sealed.len());
        self.core.reuse(sealed);
        Ok(())
    }

    fn write_some(&mut self, data: &[u8]) -> Result<usize, StreamError> {
        loop {
            let n = self.core.write(data)?;
            while let Some(sealed) = self.core.next(false)? {
                self.put(sealed)?;
            }
            if n > 0 || data.is_empty() {
                return Ok(n);
            }
            self.pass_on_one()?;
        }
    }
}

impl<W: Write + Seek> SealWriter<W> {
    /// Begins a message, which may also be one that is signed as a whole: its proof is written last, at its front.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn seekable(sealer: &mut Sealer, context: &[u8], out: W) -> Result<Self, StreamError> {
        let mut writer = Self::begin(sealer, context, out, Place::FrontTwice)?;
        writer.again = Some(|out, block, written| {
            let end = out.stream_position()?;
            let front = end.checked_sub(written).ok_or(io::ErrorKind::InvalidInput)?;
            out.seek(SeekFrom::Start(front))?;
            out.write_all(block)?;
            // A file that was opened to append writes at its end wherever it is told to.
            if out.stream_position()? != front.saturating_add(len64(block.len())) {
                return Err(io::Error::other("the output cannot be written at its front; it must not be opened to append"));
            }
            out.seek(SeekFrom::Start(end)).map(|_| ())
        });
        Ok(writer)
    }
}

impl<W: Write> Write for SealWriter<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.write_some(data).map_err(StreamError::into_io)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.core.check().map_err(|error| StreamError::from(error).into_io())?;
        self.pass_on().map_err(StreamError::into_io)?;
        self.out.flush()
    }
}

/// Seals what is written to it as one message whose DEK block is kept apart (spec 4.5): in a column of a database, in an object's
/// metadata. [`finish`](Self::finish) gives the block, also of a message that is signed as a whole.
///
/// ```
/// use std::io::{Read, Write};
/// use sealwire::{Cmk, Keyring, Opener, Sealer, stream::{DetachedWriter, OpenReader}};
/// let cmk = Cmk::generate()?;
/// let mut sealer = Sealer::builder().to(cmk.recipient().clone()).build()?;
/// let mut writer = DetachedWriter::new(&mut sealer, b"", Vec::new())?;
/// writer.write_all(b"an object")?;
/// let (object, block) = writer.finish()?;
/// assert_eq!((object.len(), block.len()), (32 + 9, 153));
///
/// let mut payload = String::new();
/// OpenReader::detached(&Opener::new(Keyring::from(cmk)), &block, &object[..])?.read_to_string(&mut payload)?;
/// assert_eq!(payload, "an object");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct DetachedWriter<W: Write>(SealWriter<W>);

impl<W: Write> DetachedWriter<W> {
    /// Begins a message with a DEK of its own: its head is written now.
    ///
    /// # Errors
    /// [`SealError`](crate::SealError); the output's own errors.
    pub fn new(sealer: &mut Sealer, context: &[u8], out: W) -> Result<Self, StreamError> {
        SealWriter::begin(sealer, context, out, Place::Apart).map(Self)
    }

    /// As [`SealWriter::threads`].
    #[must_use]
    pub fn threads(self, threads: usize) -> Self {
        Self(self.0.threads(threads))
    }

    /// Seals what is left as the final segment; gives the output and the DEK block.
    ///
    /// # Errors
    /// As [`SealWriter::finish`].
    pub fn finish(self) -> Result<(W, Vec<u8>), StreamError> {
        self.0.finish_parts()
    }
}

impl<W: Write> Write for DetachedWriter<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.write(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
