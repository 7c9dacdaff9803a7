//! Any range of a payload, without the rest of it (spec 14): the first segment is opened before, the final one before a length is
//! told.

use std::io::{self, Read, Seek, SeekFrom};

use zeroize::Zeroize;

use super::{OpenReader, StreamError, open::truncated};
use crate::{
    crypto::backend::sha256,
    open::{OpenError, Opener},
    payload::length_at_the_end,
    wire::{LimitExceeded, MAX_SEGMENTS, ParseError, SegmentPrefix},
};

/// What the end of a message has told.
pub(super) struct Known {
    /// Where the segments begin in the input.
    body_at: u64,
    segments: u64,
    /// Bytes of plaintext.
    plaintext: u64,
    /// Bytes of payload.
    pub(super) payload: u64,
    segment_log2: u8,
    /// Of each segment, where a proof covers them: to a co-recipient a tag proves nothing.
    hashes: Option<Vec<[u8; 32]>>,
}

impl Known {
    fn segment_size(&self) -> u64 {
        1 << self.segment_log2
    }

    fn offset(&self, segment: u64) -> u64 {
        self.body_at + segment * (self.segment_size() + 20)
    }

    /// Plaintext bytes of a segment.
    fn len_of(&self, segment: u64) -> u64 {
        (self.plaintext - segment * self.segment_size()).min(self.segment_size())
    }

    /// Whether a segment is still what it was when the end was looked at. [PRF-8]
    pub(super) fn check(&self, segment: u64, prefix: SegmentPrefix, body: &[u8]) -> Result<(), OpenError> {
        let last = segment + 1 == self.segments;
        let as_it_was = prefix.last == last && u64::from(prefix.ciphertext) == self.len_of(segment);
        let hash = self.hashes.as_ref().and_then(|hashes| hashes.get(usize::try_from(segment).ok()?));
        if as_it_was && hash.is_none_or(|hash| *hash == sha256(&[&prefix.encode(), body])) {
            return Ok(());
        }
        Err(OpenError::Segment { index: segment })
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
        if reader.message.is_signed() {
            reader.survey()?;
            reader.go(0)?;
        }
        Ok(reader)
    }

    /// Bytes of the payload: its final segment is opened to tell.
    ///
    /// # Errors
    /// [`OpenError`]; the input's own errors.
    pub fn payload_len(&mut self) -> Result<u64, StreamError> {
        let position = self.position;
        self.survey()?;
        self.go(position)?;
        self.known.as_ref().map(|known| known.payload).ok_or(OpenError::Failed.into())
    }

    /// Looks at the end, once.
    fn survey(&mut self) -> Result<(), StreamError> {
        self.check_alive()?;
        if self.known.is_some() {
            return Ok(());
        }
        if !self.alone {
            let why = "the message's end is not the input's, so its length is not known before it is read";
            return Err(io::Error::new(io::ErrorKind::Unsupported, why).into());
        }
        match self.try_survey() {
            Ok(known) => {
                self.end_is_known(known);
                Ok(())
            }
            Err(error) => self.fail(error),
        }
    }

    fn try_survey(&mut self) -> Result<Known, StreamError> {
        let (segment_log2, front) = (self.message.segment_log2, self.message.front);
        let step = (1u64 << segment_log2) + 20;
        let outside = || io::Error::from(io::ErrorKind::InvalidInput);
        let body_at = self.input.stream_position()?.checked_sub(self.consumed).ok_or_else(outside)?;
        let body = self.input.seek(SeekFrom::End(0))?.saturating_sub(body_at);
        let segments = body.div_ceil(step).max(1);
        // [SEG-5]
        LimitExceeded::check("segments", segments, MAX_SEGMENTS).map_err(ParseError::from).map_err(OpenError::from)?;
        let final_at = (segments - 1) * step;
        let plaintext = body.checked_sub(20 * segments).ok_or(truncated(front + final_at, 20, body - final_at))?;
        let mut known = Known { body_at, segments, plaintext, payload: plaintext, segment_log2, hashes: None };
        if self.message.is_signed() {
            known.hashes = Some(self.verify_all(&known)?);
        }
        let mut end = self.open_segment(&known, segments - 1)?;
        if self.message.padded {
            if end.len() < 8 && segments > 1 {
                let before = self.open_segment(&known, segments - 2)?;
                end.splice(..0, before);
            }
            // The zeros are not looked at: a range reader checks the length alone (spec 8).
            known.payload = length_at_the_end(&end, plaintext).map_err(OpenError::Content)?;
        }
        end.zeroize();
        Ok(known)
    }

    /// Verifies the proof over all of the message; gives the hash of each segment.
    fn verify_all(&mut self, known: &Known) -> Result<Vec<[u8; 32]>, StreamError> {
        let (mut hash, mut hashes, mut body) = (self.message.hash(), Vec::new(), Vec::new());
        self.rewind_to(known, 0)?;
        for segment in 0..known.segments {
            self.index = segment;
            let prefix = self.read_segment(&mut body)?;
            self.expect(known, segment, prefix)?;
            hash.update(&prefix.encode());
            hash.update(&body);
            hashes.push(sha256(&[&prefix.encode(), &body]));
        }
        self.verify(hash)?;
        Ok(hashes)
    }

    /// Opens one segment apart from those that are given.
    fn open_segment(&mut self, known: &Known, segment: u64) -> Result<Vec<u8>, StreamError> {
        let mut body = Vec::new();
        self.rewind_to(known, segment)?;
        let prefix = self.read_segment(&mut body)?;
        self.expect(known, segment, prefix)?;
        known.check(segment, prefix, &body)?;
        self.message.open(segment, prefix.last, &mut body)?;
        Ok(body)
    }

    /// Whether a prefix is what the length of the input asks for; otherwise something is missing, or too much.
    fn expect(&self, known: &Known, segment: u64, prefix: SegmentPrefix) -> Result<(), OpenError> {
        let is_final = segment + 1 == known.segments;
        let (end, here) = (self.message.front + self.consumed, known.len_of(segment));
        match (prefix.last, is_final) {
            (true, true) if u64::from(prefix.ciphertext) == here => Ok(()),
            (true, _) => Err(ParseError::TrailingBytes { offset: end }.into()),
            (false, true) => Err(truncated(end, 20, 0)),
            (false, false) => Ok(()),
        }
    }

    fn rewind_to(&mut self, known: &Known, segment: u64) -> Result<(), StreamError> {
        self.input.seek(SeekFrom::Start(known.offset(segment)))?;
        self.index = segment;
        self.consumed = known.offset(segment) - known.body_at;
        Ok(())
    }

    /// Goes to a place in the payload; what is open already is used again.
    fn go(&mut self, position: u64) -> Result<(), StreamError> {
        let Some(known) = self.known.take() else { return Err(OpenError::Failed.into()) };
        let segment = position >> known.segment_log2;
        let gone = if position < known.payload { self.rewind_to(&known, segment) } else { Ok(()) };
        self.ready.bytes.zeroize();
        self.ready = super::open::Ready::default();
        self.skip = usize::try_from(position % known.segment_size()).unwrap_or_default();
        self.done = position >= known.payload;
        self.position = position;
        self.known = Some(known);
        gone.or_else(|error| self.fail(error))
    }
}

impl<R: Read + Seek> Seek for OpenReader<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let here = self.position;
        self.survey().map_err(StreamError::into_io)?;
        let payload = self.known.as_ref().map_or(0, |known| known.payload);
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::Current(by) => here.checked_add_signed(by),
            SeekFrom::End(by) => payload.checked_add_signed(by),
        };
        let outside = || io::Error::new(io::ErrorKind::InvalidInput, "a place before the payload's beginning");
        match position {
            Some(position) => self.go(position).map_err(StreamError::into_io)?,
            None => {
                self.go(here).map_err(StreamError::into_io)?;
                return Err(outside());
            }
        }
        Ok(self.position)
    }
}
