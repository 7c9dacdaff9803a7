use std::{
    io::{self, Read},
    sync::Arc,
};

use bytes::Bytes;
use zeroize::Zeroize;

use super::{
    StreamError,
    range::Known,
    unpad::{Given, Unpad},
};
use crate::{
    crypto::{backend::Hash, proof::Covers},
    keys::Fingerprint,
    open::{OpenError, Opener, Receipt, Sender, Unlocked},
    payload::Segments,
    wire::{DekBlock, LimitExceeded, Limits, MessageHead, ParseError, Reader, SegmentPrefix, index, len64},
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
    pub(super) input: R,
    pub(super) message: Message,
    /// Whether the input ends where the message does.
    pub(super) alone: bool,
    /// Over head and segments, where a proof covers them and nothing is known of the end.
    pub(super) hash: Option<Hash>,
    /// Nothing where there is no padding, or where the payload's length is known.
    unpad: Option<Unpad>,
    /// The next segment to be read.
    pub(super) index: u64,
    /// Bytes of the input since the message head.
    pub(super) consumed: u64,
    /// Where the next byte to be given stands in the payload.
    pub(super) position: u64,
    pub(super) ready: Ready,
    /// Plaintext bytes of the next segment that a seek has gone past.
    pub(super) skip: usize,
    /// Whether the final segment has been loaded.
    pub(super) done: bool,
    /// Segments that have been opened, from the first on, without a gap.
    opened_through: u64,
    /// Its entry in the window, once all of it is authentic.
    receipt: Option<Receipt>,
    pub(super) known: Option<Known>,
    state: State,
    sender: Option<Sender>,
}

/// What is the same for all segments.
pub(super) struct Message {
    opener: Opener,
    pub(super) unlocked: Arc<Unlocked>,
    seq: u64,
    pub(super) head: Vec<u8>,
    /// Bytes of block and head.
    pub(super) front: u64,
    context: Bytes,
    pub(super) segment_log2: u8,
    pub(super) padded: bool,
}

#[derive(PartialEq, Eq, Clone, Copy)]
enum State {
    Reading,
    /// The final segment is open.
    Ended,
    Failed,
}

/// What is open and not yet given: zeros, then bytes, then zeros.
#[derive(Default)]
pub(super) struct Ready {
    zeros: u64,
    pub(super) bytes: Vec<u8>,
    pub(super) at: usize,
    zeros_after: u64,
}

impl Ready {
    /// Moves as much as fits into `out`.
    fn take(&mut self, out: &mut [u8]) -> usize {
        let before = Self::take_zeros(&mut self.zeros, out);
        let bytes = self.bytes.get(self.at..).unwrap_or_default();
        let n = bytes.len().min(out.len() - before);
        out[before..before + n].copy_from_slice(&bytes[..n]);
        self.at += n;
        let given = before + n;
        given + if self.at == self.bytes.len() { Self::take_zeros(&mut self.zeros_after, &mut out[given..]) } else { 0 }
    }

    fn take_zeros(zeros: &mut u64, out: &mut [u8]) -> usize {
        let n = index(*zeros).min(out.len());
        out[..n].fill(0);
        *zeros -= len64(n);
        n
    }
}

/// What was opened and not given is wiped.
impl Drop for Ready {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

impl Message {
    pub(super) fn binding(&self) -> &[u8] {
        &self.opener.policy().binding
    }

    /// Opens one segment where it is: ciphertext and tag in, plaintext out.
    pub(super) fn open(&self, index: u64, last: bool, body: &mut Vec<u8>) -> Result<(), OpenError> {
        let aad = if index == 0 { [&self.head[..], self.binding()].concat() } else { Vec::new() };
        let segments = Segments { schedule: &self.unlocked.schedule, seq: self.seq, aad: &aad };
        let at = usize::try_from(index).map_err(|_| OpenError::Failed)?;
        let plaintext = segments.open_one(at, last, body).map_err(|_| OpenError::Segment { index })?.len();
        body.truncate(plaintext);
        Ok(())
    }

    /// Whether a proof covers the message.
    pub(super) fn is_signed(&self) -> bool {
        !self.unlocked.is_reusable()
    }

    /// The hash that a proof covers, so far.
    pub(super) fn hash(&self) -> Hash {
        let mut hash = Hash::new();
        hash.update(&self.head);
        hash
    }
}

impl<R: Read> OpenReader<R> {
    /// Begins with a message that fills the input to its end.
    ///
    /// # Errors
    /// [`OpenError`] for block, head, policy, keys and the first segment; the input's own errors.
    pub fn new(opener: &Opener, input: R) -> Result<Self, StreamError> {
        Self::begin(opener, input, true)
    }

    /// Begins with a message after which others may follow: what is behind its end is not read.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn one_of_many(opener: &Opener, input: R) -> Result<Self, StreamError> {
        Self::begin(opener, input, false)
    }

    fn begin(opener: &Opener, mut input: R, alone: bool) -> Result<Self, StreamError> {
        let limits = &opener.policy().limits;
        let raw = read_block(&mut input, limits)?;
        let (_, block) = DekBlock::parse(&raw, limits).map_err(OpenError::from)?;
        let base = len64(raw.len());
        let bytes = read_head(&mut input, base, limits)?;
        let head = MessageHead::parse(&mut Reader::new(&bytes, base), limits).map_err(OpenError::from)?;
        head.check_alone(block.options, base).map_err(OpenError::from)?;
        // [LIM-5]
        LimitExceeded::check("segment", 1 << head.segment_log2, limits.segment)
            .map_err(ParseError::from)
            .map_err(OpenError::from)?;
        let unlocked = opener.unlock(&raw, &block, Some(head.context), Covers::Dek, None)?;
        opener.check_room(&unlocked, head.seq)?;
        let context = Bytes::copy_from_slice(head.context);
        let (seq, segment_log2, padded) = (head.seq, head.segment_log2, head.flags.padded);
        let front = base + len64(bytes.len());
        let message = Message { opener: opener.clone(), unlocked, seq, head: bytes, front, context, segment_log2, padded };
        let signed = message.is_signed();
        let (hash, sender) = (signed.then(|| message.hash()), (!signed).then_some(message.unlocked.sender));
        let mut reader = Self {
            input,
            message,
            alone,
            hash,
            unpad: padded.then(Unpad::default),
            index: 0,
            consumed: 0,
            position: 0,
            ready: Ready::default(),
            skip: 0,
            done: false,
            opened_through: 0,
            receipt: None,
            known: None,
            state: State::Reading,
            sender,
        };
        reader.load()?;
        reader.message.opener.check_not_seen(&reader.message.unlocked, seq)?;
        Ok(reader)
    }

    /// The public bytes that came with the message, authentic.
    #[must_use]
    pub fn context(&self) -> &Bytes {
        &self.message.context
    }

    /// Who has sent it; `None` until the end where a proof covers the message.
    #[must_use]
    pub fn sender(&self) -> Option<Sender> {
        self.sender
    }

    /// When the DEK was made, in seconds since the Unix epoch, by the sender's clock.
    #[must_use]
    pub fn created_at(&self) -> u64 {
        self.message.unlocked.created_at
    }

    /// The key that opened it.
    #[must_use]
    pub fn key(&self) -> Option<Fingerprint> {
        self.message.unlocked.key
    }

    /// Says that the application has the message for good, as [`Opened::commit`](crate::Opened::commit). It can be said once
    /// all of the message has been read, from the first segment to the last: only then is all of it authentic.
    ///
    /// # Errors
    /// [`OpenError::Failed`] before that.
    pub fn commit(&self) -> Result<(), OpenError> {
        if self.state != State::Ended {
            return Err(OpenError::Failed);
        }
        self.receipt.iter().for_each(Receipt::commit);
        Ok(())
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

    /// Fails for good: nothing that was opened is given any more.
    pub(super) fn fail<T>(&mut self, error: impl Into<StreamError>) -> Result<T, StreamError> {
        self.state = State::Failed;
        self.ready = Ready::default();
        Err(error.into())
    }

    pub(super) fn check_alive(&self) -> Result<(), StreamError> {
        if self.state == State::Failed { Err(OpenError::Failed.into()) } else { Ok(()) }
    }

    /// Opens the next segment. What fails, fails for good: half a segment may have been read.
    fn load(&mut self) -> Result<(), StreamError> {
        self.try_load().or_else(|error| self.fail(error))
    }

    fn try_load(&mut self) -> Result<(), StreamError> {
        // What is left in it is overwritten, and wiped when the reader is dropped.
        let mut body = std::mem::take(&mut self.ready.bytes);
        let prefix = match self.open_next(&mut body) {
            Ok(prefix) => prefix,
            Err(error) => {
                body.zeroize();
                return Err(error);
            }
        };
        if self.opened_through == self.index {
            self.opened_through += 1;
        }
        self.index += 1;
        self.done = prefix.last;
        self.ready = match &mut self.unpad {
            Some(unpad) => {
                let Given { zeros, bytes } = unpad.push(&body);
                body.zeroize();
                Ready { zeros, bytes, ..Ready::default() }
            }
            None => Ready { bytes: body, at: std::mem::take(&mut self.skip), ..Ready::default() },
        };
        match &self.known {
            Some(known) => {
                // Padding is behind the payload.
                let left = known.payload.saturating_sub(self.position);
                let most = index(left).saturating_add(self.ready.at);
                self.ready.bytes.truncate(most);
            }
            None if prefix.last => self.end()?,
            None => {}
        }
        if prefix.last && self.opened_through == self.index && self.state != State::Ended {
            // [RPL-2]
            self.receipt = self.message.opener.enter(&self.message.unlocked, self.message.seq)?;
            self.state = State::Ended;
        }
        Ok(())
    }

    /// Reads the next segment and opens it where it is.
    fn open_next(&mut self, body: &mut Vec<u8>) -> Result<SegmentPrefix, StreamError> {
        let prefix = self.read_segment(body)?;
        if let Some(hash) = &mut self.hash {
            hash.update(&prefix.encode());
            hash.update(body);
        }
        if let Some(known) = &self.known {
            known.check(self.index, prefix, body)?;
        }
        self.message.open(self.index, prefix.last, body)?;
        Ok(prefix)
    }

    /// Reads the next prefix, and what it announces into `body`. Memory follows what is there, never the length that the
    /// prefix says.
    pub(super) fn read_segment(&mut self, body: &mut Vec<u8>) -> Result<SegmentPrefix, StreamError> {
        let at = self.message.front + self.consumed;
        body.clear();
        self.input.by_ref().take(4).read_to_end(body)?;
        let parsed = SegmentPrefix::parse(&mut Reader::new(body, at), self.index, self.message.segment_log2);
        let prefix = parsed.map_err(OpenError::from)?;
        body.clear();
        let needed = len64(prefix.body_len());
        let available = len64(self.input.by_ref().take(needed).read_to_end(body)?);
        self.consumed += 4 + available;
        if available < needed {
            return Err(truncated(at + 4, needed, available).into());
        }
        Ok(prefix)
    }

    /// The final segment is open: what only the end can tell is asked before anything of it is given.
    fn end(&mut self) -> Result<(), StreamError> {
        // [SEG-8]
        if self.alone && self.input.by_ref().take(1).read_to_end(&mut Vec::new())? > 0 {
            let offset = self.message.front + self.consumed;
            return Err(OpenError::from(ParseError::TrailingBytes { offset }).into());
        }
        if let Some(hash) = self.hash.take() {
            self.verify(hash)?;
        }
        if let Some(unpad) = self.unpad.take() {
            self.ready.zeros_after = unpad.end().map_err(OpenError::Content)?;
        }
        Ok(())
    }

    /// The end is authentic, without having been read to.
    pub(super) fn end_is_known(&mut self, known: Known) {
        self.known = Some(known);
        (self.hash, self.unpad) = (None, None);
    }

    pub(super) fn verify(&mut self, mut hash: Hash) -> Result<(), StreamError> {
        hash.update(self.message.binding());
        self.message.unlocked.verify_hash(&hash.finish())?;
        self.sender = Some(self.message.unlocked.sender);
        Ok(())
    }
}

/// What was announced and is not there.
pub(super) fn truncated(offset: u64, needed: u64, available: u64) -> OpenError {
    ParseError::Truncated { field: "segment", offset, needed, available }.into()
}

/// The DEK block; memory follows what is there.
fn read_block(input: &mut impl Read, limits: &Limits) -> Result<Vec<u8>, StreamError> {
    let mut raw = Vec::new();
    input.take(8).read_to_end(&mut raw)?;
    if let Some(len) = DekBlock::declared_len(&raw, limits).map_err(OpenError::from)? {
        input.take(len64(len.saturating_sub(raw.len()))).read_to_end(&mut raw)?;
    }
    Ok(raw)
}

/// The message head, `base` bytes into the message.
fn read_head(input: &mut impl Read, base: u64, limits: &Limits) -> Result<Vec<u8>, StreamError> {
    let mut bytes = Vec::new();
    input.take(12).read_to_end(&mut bytes)?;
    // Its fields are judged before the context is waited for.
    let parsed = MessageHead::parse(&mut Reader::new(&bytes, base), limits);
    if ParseError::incomplete(parsed).map_err(OpenError::from)?.is_none()
        && let Some(len) = bytes.get(10..12).and_then(|len| len.try_into().ok()).map(u16::from_be_bytes)
    {
        input.take(len.into()).read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

impl<R: Read> Read for OpenReader<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.check_alive().map_err(StreamError::into_io)?;
        if out.is_empty() {
            return Ok(0);
        }
        loop {
            let n = self.ready.take(out);
            if n > 0 || self.done {
                self.position += len64(n);
                return Ok(n);
            }
            self.load().map_err(StreamError::into_io)?;
        }
    }
}
