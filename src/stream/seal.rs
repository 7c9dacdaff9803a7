use std::io::{self, Seek, SeekFrom, Write};

use zeroize::Zeroize;

use super::StreamError;
use crate::{
    crypto::{
        backend::Hash,
        schedule::{Schedule, SegmentAt},
    },
    payload::padded_len64,
    platform::Process,
    seal::{Begun, STREAM_SEQ, SealError, Sealer, SealerBuilder, Unsigned},
    wire::{LimitExceeded, MAX_SEGMENTS, SegmentPrefix, TAG_LEN, len64},
};

const PREFIX_LEN: usize = 4;

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
    segments: Segments,
    pad: bool,
    process: Process,
    failed: bool,
    signature: Option<Signature<W>>,
}

/// What is missing at the front of a message that is signed as a whole.
struct Signature<W> {
    unsigned: Unsigned,
    block: Vec<u8>,
    hash: Hash,
    binding: Vec<u8>,
    patch: Patch<W>,
    written: u64,
}

impl<W: Write> SealWriter<W> {
    /// Begins a message with a DEK of its own: block and head are written now.
    ///
    /// # Errors
    /// [`SealError`]; [`SealError::SignatureNeedsSeek`] for a sealer that signs messages; the output's own errors.
    pub fn new(sealer: &mut Sealer, context: &[u8], out: W) -> Result<Self, StreamError> {
        Self::begin(sealer, context, out, None)
    }

    fn begin(sealer: &mut Sealer, context: &[u8], mut out: W, patch: Option<Patch<W>>) -> Result<Self, StreamError> {
        let Begun { block, head, schedule, aad, unsigned } = sealer.begin_stream(context)?;
        let SealerBuilder { pad, segment_log2, binding, .. } = &sealer.settings;
        let signature = match unsigned {
            None => None,
            Some(unsigned) => {
                let patch = patch.ok_or(SealError::SignatureNeedsSeek)?;
                let mut hash = Hash::new();
                hash.update(&head);
                let written = len64(block.len()) + len64(head.len());
                Some(Signature { unsigned, block: block.clone(), hash, binding: binding.clone(), patch, written })
            }
        };
        out.write_all(&block)?;
        out.write_all(&head)?;
        let segments = Segments::new(schedule, aad, *segment_log2);
        Ok(Self { out, segments, pad: *pad, process: Process::current(), failed: false, signature })
    }

    /// Seals what is left as the final segment, passes everything on, and gives the output back.
    ///
    /// # Errors
    /// [`SealError`], or the output's own error; what was written is then truncated to readers.
    pub fn finish(mut self) -> Result<W, StreamError> {
        if self.failed {
            return Err(SealError::Failed.into());
        }
        if self.pad {
            self.write_padding()?;
        }
        self.send(true)?;
        if let Some(Signature { unsigned, mut block, mut hash, binding, patch, written }) = self.signature.take() {
            hash.update(&binding);
            unsigned.sign_hash(&self.segments.schedule, &mut block, &hash.finish())?;
            patch(&mut self.out, &block, written)?;
        }
        self.out.flush()?;
        Ok(self.out)
    }

    /// `00* ‖ payload_len` (spec 8).
    fn write_padding(&mut self) -> Result<(), StreamError> {
        let payload = self.segments.total;
        let over = SealError::LimitExceeded(LimitExceeded { limit: "message", value: payload, maximum: u64::MAX >> 1 });
        let padded = padded_len64(payload).ok_or(over)?;
        let mut zeros = padded - payload - 8;
        while zeros > 0 {
            let most = usize::try_from(zeros).unwrap_or(usize::MAX).min(4096);
            zeros -= len64(self.write_some(&[0; 4096][..most])?);
        }
        let mut trailer = &payload.to_be_bytes()[..];
        while !trailer.is_empty() {
            let n = self.write_some(trailer)?;
            trailer = &trailer[n..];
        }
        Ok(())
    }

    fn write_some(&mut self, data: &[u8]) -> Result<usize, StreamError> {
        if self.failed {
            return Err(SealError::Failed.into());
        }
        if self.segments.is_full() && !data.is_empty() {
            self.send(false)?;
        }
        Ok(self.segments.take(data))
    }

    fn send(&mut self, last: bool) -> Result<(), StreamError> {
        // [KEY-5] The check is where bytes leave.
        if self.process != Process::current() {
            return Err(SealError::Forked.into());
        }
        // What fails from here on has used up a nonce, or left half a segment behind.
        self.failed = true;
        let sealed = self.segments.seal(last)?;
        if let Some(Signature { hash, written, .. }) = &mut self.signature {
            hash.update(sealed);
            *written += len64(sealed.len());
        }
        self.out.write_all(sealed)?;
        self.segments.clear();
        self.failed = false;
        Ok(())
    }
}

/// Writes a block over the one that stands so many bytes before the end.
type Patch<W> = fn(&mut W, &[u8], u64) -> io::Result<()>;

impl<W: Write + Seek> SealWriter<W> {
    /// Begins a message, which may also be one that is signed as a whole: its proof is written last, at its front.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn seekable(sealer: &mut Sealer, context: &[u8], out: W) -> Result<Self, StreamError> {
        let patch = |out: &mut W, block: &[u8], written: u64| {
            let end = out.stream_position()?;
            let front = end.checked_sub(written).ok_or(io::ErrorKind::InvalidInput)?;
            out.seek(SeekFrom::Start(front))?;
            out.write_all(block)?;
            // A file that was opened to append writes at its end wherever it is told to.
            if out.stream_position()? != front.saturating_add(len64(block.len())) {
                return Err(io::Error::other("the output cannot be written at its front; it must not be opened to append"));
            }
            out.seek(SeekFrom::Start(end)).map(|_| ())
        };
        Self::begin(sealer, context, out, Some(patch))
    }
}

impl<W: Write> Write for SealWriter<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.write_some(data).map_err(StreamError::into_io)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// The segments of a message under way; the current one is gathered where it is encrypted.
struct Segments {
    schedule: Schedule,
    /// Of segment 0; empty for the others.
    aad: Vec<u8>,
    index: u64,
    /// Plaintext bytes of a segment that is full.
    size: usize,
    /// Room for a prefix, and plaintext.
    buffer: Vec<u8>,
    /// Bytes of plaintext so far.
    total: u64,
}

impl Segments {
    fn new(schedule: Schedule, aad: Vec<u8>, segment_log2: u8) -> Self {
        Self { schedule, aad, index: 0, size: 1 << segment_log2, buffer: vec![0; PREFIX_LEN], total: 0 }
    }

    fn is_full(&self) -> bool {
        self.buffer.len() == PREFIX_LEN + self.size
    }

    /// Takes as much of `data` as fits.
    fn take(&mut self, data: &[u8]) -> usize {
        let n = data.len().min(PREFIX_LEN + self.size - self.buffer.len());
        if self.buffer.capacity() < self.buffer.len() + n {
            // Growing would leave plaintext behind in the old place.
            let mut larger =
                Vec::with_capacity((self.buffer.len() + n + TAG_LEN).next_power_of_two().min(PREFIX_LEN + self.size + TAG_LEN));
            larger.extend_from_slice(&self.buffer);
            self.buffer.zeroize();
            self.buffer = larger;
        }
        self.buffer.extend_from_slice(&data[..n]);
        self.total += len64(n);
        n
    }

    /// Seals what is gathered, in place.
    fn seal(&mut self, last: bool) -> Result<&[u8], SealError> {
        // [SEG-5]
        let most = if last { MAX_SEGMENTS } else { MAX_SEGMENTS - 1 };
        LimitExceeded::check("segments", self.index + 1, most)?;
        let at = SegmentAt { seq: STREAM_SEQ, index: self.index, last };
        let text = &mut self.buffer[PREFIX_LEN..];
        let ciphertext = u32::try_from(text.len()).map_err(|_| SealError::Primitive)?;
        let tag = self.schedule.seal_segment(at, &self.aad, text)?;
        self.buffer[..PREFIX_LEN].copy_from_slice(&SegmentPrefix { last, ciphertext }.encode());
        self.buffer.extend_from_slice(&tag);
        self.aad.clear();
        self.index += 1;
        Ok(&self.buffer)
    }

    fn clear(&mut self) {
        self.buffer.truncate(PREFIX_LEN);
    }
}

/// Plaintext that was not sealed is wiped.
impl Drop for Segments {
    fn drop(&mut self) {
        self.buffer.zeroize();
    }
}
