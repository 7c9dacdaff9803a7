use std::io::{self, Read, Seek, SeekFrom};

use bytes::Bytes;

use super::{
    StreamError,
    opening::{Beginning, Opening, Step},
};
use crate::{
    keys::Fingerprint,
    open::{OpenError, Opener, Sender},
};

/// Opens a message as it is read: what it gives is authentic, segment by segment, and its end is told from a cut.
///
/// The first segment is opened when the reader is made, so that [`context`](Self::context) is authentic. After an error nothing
/// more is given. Where the input can seek, so can the reader: any range of a payload is opened without the rest of it.
///
/// A proof that covers the message can only be checked at its end: until then [`sender`](Self::sender) says nothing. Where nothing
/// may be released before, [`verified`](Self::verified) goes through the input once first.
///
/// ```
/// use std::io::{Cursor, Read, Seek, SeekFrom};
/// use sealwire::{Cmk, Keyring, Opener, Sealer, stream::OpenReader};
/// let cmk = Cmk::generate()?;
/// let mut sealer = Sealer::builder().to(cmk.recipient().clone()).segment_log2(12).build()?;
/// let sealed = sealer.seal(b"", &[[1; 5000], [2; 5000]].concat())?;
/// let mut reader = OpenReader::new(&Opener::new(Keyring::from(cmk)), Cursor::new(sealed))?;
/// assert_eq!(reader.seek(SeekFrom::End(-3))?, 9997);
/// let mut end = Vec::new();
/// reader.read_to_end(&mut end)?;
/// assert_eq!(end, [2, 2, 2]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct OpenReader<R> {
    input: R,
    core: Opening,
}

impl<R: Read> OpenReader<R> {
    /// Begins with a message that fills the input to its end.
    ///
    /// # Errors
    /// [`OpenError`] for block, head, policy, keys and the first segment; the input's own errors.
    pub fn new(opener: &Opener, input: R) -> Result<Self, StreamError> {
        Self::begin(Beginning::new(opener, true), input)
    }

    /// Begins with a message after which others may follow: what is behind its end is not read.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn one_of_many(opener: &Opener, input: R) -> Result<Self, StreamError> {
        Self::begin(Beginning::new(opener, false), input)
    }

    /// Begins with a message whose DEK block was kept apart (spec 4.5), and fills the input to its end.
    ///
    /// # Errors
    /// As [`new`](Self::new). Offsets in errors count from the beginning of the block.
    pub fn detached(opener: &Opener, block: &[u8], input: R) -> Result<Self, StreamError> {
        Self::begin(Beginning::after(opener, block)?, input)
    }

    fn begin(mut beginning: Beginning, mut input: R) -> Result<Self, StreamError> {
        let core = loop {
            let n = read(&mut input, beginning.space())?;
            if let Some(core) = beginning.came(n)? {
                break core;
            }
        };
        let mut reader = Self { input, core };
        reader.load()?;
        Ok(reader)
    }

    /// Spreads the work over so many threads, the caller's among them, once the payload is larger than a mebibyte. What is held is four
    /// segments for each thread, and 64 MiB at the most: where segments are large there are fewer threads.
    ///
    /// Then up to so many segments are read before the first of them is given: for files, and not for an input that comes in its
    /// own time.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.core.set_threads(threads);
        self
    }

    /// Reads until something can be given.
    fn load(&mut self) -> Result<(), StreamError> {
        loop {
            match self.core.step()? {
                Step::Read => self.fill()?,
                Step::Ready => return Ok(()),
                // Seeking goes to its end, or the reader has failed.
                Step::Seek(_) => return self.core.fail(OpenError::Failed),
            }
        }
    }

    fn fill(&mut self) -> Result<(), StreamError> {
        match read(&mut self.input, self.core.space()) {
            Ok(n) => self.core.came(n),
            Err(error) => self.core.broke(error),
        }
    }
}

/// Reads some bytes; none at the end.
fn read(input: &mut impl Read, space: &mut [u8]) -> io::Result<usize> {
    loop {
        match input.read(space) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => return read,
        }
    }
}

impl<R> OpenReader<R> {
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

    /// Says that the application has the message for good, as [`Opened::commit`](crate::Opened::commit). It can be said once
    /// all of the message has been read, from the first segment to the last: only then is all of it authentic.
    ///
    /// # Errors
    /// [`OpenError::Failed`] before that.
    pub fn commit(&self) -> Result<(), OpenError> {
        self.core.commit()
    }

    /// The input.
    #[must_use]
    pub fn get_ref(&self) -> &R {
        &self.input
    }

    /// The input. Whatever is read from it is missing here.
    pub fn get_mut(&mut self) -> &mut R {
        &mut self.input
    }

    /// Gives the input back.
    #[must_use]
    pub fn into_inner(self) -> R {
        self.input
    }
}

impl<R: Read + Seek> OpenReader<R> {
    /// Begins with a message whose sender proof, where it covers the message, is verified before anything is given: one pass over the
    /// input. Every segment that is read later is compared with that pass.
    ///
    /// # Errors
    /// As [`new`](Self::new); [`OpenError::Proof`].
    pub fn verified(opener: &Opener, input: R) -> Result<Self, StreamError> {
        let mut reader = Self::new(opener, input)?;
        if reader.core.message().is_signed() {
            reader.core.begin_seek(SeekFrom::Start(0))?;
            reader.go()?;
        }
        Ok(reader)
    }

    /// Bytes of the payload: its final segment is opened to tell.
    ///
    /// # Errors
    /// [`OpenError`]; the input's own errors.
    pub fn payload_len(&mut self) -> Result<u64, StreamError> {
        if self.core.known.is_none() {
            self.core.begin_measure()?;
            self.go()?;
        }
        self.core.known.as_ref().map(|known| known.payload).ok_or(OpenError::Failed.into())
    }

    /// Goes on with what was begun, to its end.
    fn go(&mut self) -> Result<u64, StreamError> {
        while let Some(step) = self.core.errand_step() {
            match step {
                Step::Read => self.fill()?,
                Step::Seek(to) => match self.input.seek(to) {
                    Ok(place) => self.core.sought(place)?,
                    Err(error) => self.core.broke(error)?,
                },
                Step::Ready => {}
            }
        }
        Ok(self.core.seek_ended()?)
    }
}

impl<R: Read> Read for OpenReader<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.core.check_alive().map_err(StreamError::into_io)?;
        loop {
            let n = self.core.take(out).map_err(StreamError::into_io)?;
            if n > 0 || out.is_empty() || self.core.is_done() {
                return Ok(n);
            }
            self.load().map_err(StreamError::into_io)?;
        }
    }
}

impl<R: Read + Seek> Seek for OpenReader<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.core.begin_seek(to).and_then(|()| self.go()).map_err(StreamError::into_io)
    }
}
