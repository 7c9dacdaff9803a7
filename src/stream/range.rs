//! Any range of a payload, without the rest of it (spec 5.5): the first segment is opened before, the final one before a length is
//! told.

use std::io::{self, SeekFrom};

use zeroize::Zeroize;

use super::{
    StreamError,
    opening::{Opening, Step, truncated},
};
use crate::{
    crypto::backend::{Hash, sha256},
    open::OpenError,
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

    /// Bytes of the segments before one.
    fn before(&self, segment: u64) -> u64 {
        segment * (self.segment_size() + 20)
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

/// What is on its way for a seek.
pub(super) enum Errand {
    None,
    /// Where does the input stand? `survey`: the end is to be looked at, whether the way there needs it or not.
    Here {
        to: SeekFrom,
        survey: bool,
    },
    /// Where does the input end?
    End {
        to: SeekFrom,
        body_at: u64,
    },
    /// The end is being looked at.
    Survey {
        to: SeekFrom,
        known: Known,
        part: Part,
        sought: bool,
    },
    /// The way to where something is to be given from, the end being known.
    Way {
        known: Known,
        segment: u64,
    },
    /// The way to a segment that is there if the payload is so long.
    Leap {
        body_at: u64,
        segment: u64,
        sought: bool,
    },
}

/// What a survey reads.
pub(super) enum Part {
    /// All segments, for the proof that covers them; the hashes of each so far.
    All(Hash, Vec<[u8; 32]>),
    Final,
    /// The one before, where the padding begins in it; this is the final one.
    BeforeFinal(Vec<u8>),
}

impl Part {
    fn first(&self, known: &Known) -> u64 {
        match self {
            Self::All(..) => 0,
            Self::Final => known.segments - 1,
            Self::BeforeFinal(_) => known.segments - 2,
        }
    }
}

impl Opening {
    /// Begins to go to a place in the payload; [`errand_step`](Self::errand_step) says how.
    pub(super) fn begin_seek(&mut self, to: SeekFrom) -> Result<(), StreamError> {
        self.check_alive()?;
        if self.known.is_some() {
            return self.go(to);
        }
        self.begin(to, false)
    }

    /// Begins to look at the end.
    pub(super) fn begin_measure(&mut self) -> Result<(), StreamError> {
        self.check_alive()?;
        self.begin(SeekFrom::Current(0), true)
    }

    fn begin(&mut self, to: SeekFrom, survey: bool) -> Result<(), StreamError> {
        if !self.message().alone {
            let why = "the message's end is not the input's, so its length is not known before it is read";
            return Err(io::Error::new(io::ErrorKind::Unsupported, why).into());
        }
        self.errand = Errand::Here { to, survey };
        Ok(())
    }

    /// What a seek that was begun needs next; `None` when it has come to its end.
    pub(super) fn errand_step(&self) -> Option<Step> {
        match &self.errand {
            Errand::None => None,
            Errand::Here { .. } => Some(Step::Seek(SeekFrom::Current(0))),
            Errand::End { .. } => Some(Step::Seek(SeekFrom::End(0))),
            Errand::Way { known, segment } => Some(Step::Seek(SeekFrom::Start(known.body_at + known.before(*segment)))),
            Errand::Leap { body_at, segment, sought: false } => {
                Some(Step::Seek(SeekFrom::Start(body_at + segment * self.message().step())))
            }
            Errand::Survey { known, part, sought: false, .. } => {
                Some(Step::Seek(SeekFrom::Start(known.body_at + known.before(part.first(known)))))
            }
            Errand::Leap { .. } | Errand::Survey { .. } => Some(Step::Read),
        }
    }

    /// The input is where it was to go.
    pub(super) fn sought(&mut self, place: u64) -> Result<(), StreamError> {
        self.check_alive()?;
        let gone = match std::mem::replace(&mut self.errand, Errand::None) {
            Errand::None => Ok(()),
            Errand::Here { to, survey } => match place.checked_sub(self.read_so_far()) {
                Some(body_at) if survey => {
                    self.errand = Errand::End { to, body_at };
                    Ok(())
                }
                Some(body_at) => self.leap(to, body_at),
                None => Err(io::Error::from(io::ErrorKind::InvalidInput).into()),
            },
            Errand::End { to, body_at } => self.begin_survey(to, body_at, place),
            Errand::Survey { to, known, part, .. } => {
                let segment = part.first(&known);
                self.read_from(segment, known.before(segment));
                self.errand = Errand::Survey { to, known, part, sought: true };
                Ok(())
            }
            Errand::Way { known, segment } => {
                self.read_from(segment, known.before(segment));
                self.known = Some(known);
                Ok(())
            }
            Errand::Leap { body_at, segment, .. } => {
                self.read_from(segment, segment * self.message().step());
                self.errand = Errand::Leap { body_at, segment, sought: true };
                Ok(())
            }
        };
        gone.or_else(|error| self.fail(error))
    }

    /// Goes to a place without a look at the end, where a segment says by itself what is there: not under a proof that covers all of
    /// them, and not where some of it may be padding.
    fn leap(&mut self, to: SeekFrom, body_at: u64) -> Result<(), StreamError> {
        let there = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
            SeekFrom::End(_) => None,
        };
        let message = self.message();
        let log2 = message.segment_log2;
        match there.filter(|position| position >> log2 < MAX_SEGMENTS && !message.is_signed() && !message.padded) {
            Some(position) => {
                self.give_from(position, usize::try_from(position % (1 << log2)).unwrap_or_default(), false);
                self.errand = Errand::Leap { body_at, segment: position >> log2, sought: false };
            }
            None => self.errand = Errand::End { to, body_at },
        }
        Ok(())
    }

    /// The input ends where a leap was to find a segment: whether the payload does too, the end must tell.
    pub(super) fn leapt_too_far(&mut self) -> bool {
        let Errand::Leap { body_at, .. } = self.errand else { return false };
        self.errand = Errand::End { to: SeekFrom::Start(self.position), body_at };
        true
    }

    fn begin_survey(&mut self, to: SeekFrom, body_at: u64, end: u64) -> Result<(), StreamError> {
        let message = self.message();
        let (segment_log2, front, step) = (message.segment_log2, message.front, message.step());
        let body = end.saturating_sub(body_at);
        let segments = body.div_ceil(step).max(1);
        // [SEG-5]
        LimitExceeded::check("segments", segments, MAX_SEGMENTS).map_err(ParseError::from).map_err(OpenError::from)?;
        let final_at = (segments - 1) * step;
        let plaintext = body.checked_sub(20 * segments).ok_or(truncated(front + final_at, 20, body - final_at))?;
        let known = Known { body_at, segments, plaintext, payload: plaintext, segment_log2, hashes: None };
        let part = if message.is_signed() { Part::All(message.hash(), Vec::new()) } else { Part::Final };
        self.errand = Errand::Survey { to, known, part, sought: false };
        Ok(())
    }

    /// A segment that a survey asked for has been read.
    pub(super) fn survey_segment(&mut self, prefix: SegmentPrefix) -> Result<(), StreamError> {
        let Errand::Survey { to, mut known, part, .. } = std::mem::replace(&mut self.errand, Errand::None) else {
            return Err(OpenError::Failed.into());
        };
        self.expect(&known, prefix)?;
        match part {
            Part::All(mut hash, mut hashes) => {
                hash.update(&prefix.encode());
                hash.update(self.body());
                hashes.push(sha256(&[&prefix.encode(), self.body()]));
                self.index += 1;
                self.skip_body();
                if !prefix.last {
                    self.errand = Errand::Survey { to, known, part: Part::All(hash, hashes), sought: true };
                    return Ok(());
                }
                self.verify(hash)?;
                known.hashes = Some(hashes);
                self.errand = Errand::Survey { to, known, part: Part::Final, sought: false };
                Ok(())
            }
            Part::Final => {
                known.check(self.index, prefix, self.body())?;
                let end = self.open_apart(prefix.last)?;
                if self.message().padded && end.len() < 8 && known.segments > 1 {
                    self.errand = Errand::Survey { to, known, part: Part::BeforeFinal(end), sought: false };
                    return Ok(());
                }
                self.end_survey(to, known, end)
            }
            Part::BeforeFinal(end) => {
                known.check(self.index, prefix, self.body())?;
                let mut both = self.open_apart(prefix.last)?;
                both.extend_from_slice(&end);
                self.end_survey(to, known, both)
            }
        }
    }

    fn end_survey(&mut self, to: SeekFrom, mut known: Known, mut end: Vec<u8>) -> Result<(), StreamError> {
        if self.message().padded {
            // The zeros are not looked at: a range reader checks the length alone (spec 8).
            known.payload = length_at_the_end(&end, known.plaintext).map_err(OpenError::Content)?;
        }
        end.zeroize();
        self.end_is_known(known);
        self.go(to)
    }

    /// Whether a prefix is what the length of the input asks for; otherwise something is missing, or too much. [SEG-10]
    fn expect(&self, known: &Known, prefix: SegmentPrefix) -> Result<(), OpenError> {
        let is_final = self.index + 1 == known.segments;
        let (end, here) = (self.message().front + self.consumed, known.len_of(self.index));
        match (prefix.last, is_final) {
            (true, true) if u64::from(prefix.ciphertext) == here => Ok(()),
            (true, _) => Err(ParseError::TrailingBytes { offset: end }.into()),
            (false, true) => Err(truncated(end, 20, 0)),
            (false, false) => Ok(()),
        }
    }

    /// Goes to a place in the payload [SEG-9], of which the first segment is open; to where we are, if there is no such place.
    fn go(&mut self, to: SeekFrom) -> Result<(), StreamError> {
        let Some(known) = self.known.take() else { return Err(OpenError::Failed.into()) };
        let here = self.position;
        let there = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::Current(by) => here.checked_add_signed(by),
            SeekFrom::End(by) => known.payload.checked_add_signed(by),
        };
        let position = there.unwrap_or(here);
        let segment = position >> known.segment_log2;
        let skip = usize::try_from(position % known.segment_size()).unwrap_or_default();
        let done = position >= known.payload;
        self.give_from(position, skip, done);
        if done {
            self.known = Some(known);
        } else {
            self.errand = Errand::Way { known, segment };
        }
        self.no_such_place = there.is_none();
        Ok(())
    }

    /// Where a seek has come to, when it has come to its end.
    pub(super) fn seek_ended(&mut self) -> io::Result<u64> {
        if std::mem::take(&mut self.no_such_place) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a place before the payload's beginning"));
        }
        Ok(self.position)
    }
}
