//! Sealed bytes -> payload, sans-I/O: what the readers have in common. They do the [`Step`]s that this asks for.

use std::{
    io::{self, SeekFrom},
    sync::Arc,
};

use bytes::Bytes;
use zeroize::Zeroize;

use super::{
    StreamError,
    crew::{Crew, Segment, Work},
    front::{Front, Intake, RawFront},
    range::{Errand, Known},
    unpad::Unpad,
};
use crate::{
    crypto::{Refused, backend::Hash, proof::Covers, schedule::SegmentAt},
    keys::Fingerprint,
    open::{OpenError, Opener, Receipt, Sender, Unlocked},
    wire::{DekBlock, LimitExceeded, MessageHead, ParseError, Reader, SegmentPrefix, TAG_LEN, index, len64},
};

/// What a reader does next.
pub(super) enum Step {
    /// Read into [`space`](Opening::space), and say how much [came](Opening::came).
    Read,
    /// Go there in the input, and say where that [is](Opening::sought).
    Seek(SeekFrom),
    /// Something can be [taken](Opening::take), or the payload has ended.
    Ready,
}

/// A message whose block and head are being read.
pub(super) struct Beginning {
    opener: Opener,
    alone: bool,
    front: Front,
}

impl Beginning {
    /// `alone`: the input ends where the message does.
    pub(super) fn new(opener: &Opener, alone: bool) -> Self {
        Self { opener: opener.clone(), alone, front: Front::new(&opener.policy().limits) }
    }

    /// The message without its block, which is this.
    pub(super) fn after(opener: &Opener, block: &[u8]) -> Result<Self, OpenError> {
        let front = Front::after(block, &opener.policy().limits)?;
        Ok(Self { opener: opener.clone(), alone: true, front })
    }

    /// Where to read the next bytes to.
    pub(super) fn space(&mut self) -> &mut [u8] {
        self.front.space()
    }

    /// So many bytes have been read there; none at the end of the input.
    pub(super) fn came(&mut self, n: usize) -> Result<Option<Opening>, OpenError> {
        match self.front.came(n)? {
            Some(RawFront { block, head }) => Opening::new(&self.opener, &block, head, self.alone).map(Some),
            None => Ok(None),
        }
    }
}

/// A message whose block and head are known, under way.
pub(super) struct Opening {
    message: Message,
    crew: Crew<Open>,
    stage: Stage,
    intake: Intake,
    /// The next segment to be read.
    pub(super) index: u64,
    /// Bytes of the input since the message head that are no more in the intake.
    pub(super) consumed: u64,
    /// Why nothing more is read; told when all that was read before has been given.
    stop: Option<StreamError>,
    /// Over head and segments, where a proof covers them and nothing is known of the end.
    hash: Option<Hash>,
    /// Nothing where there is no padding, or where the payload's length is known.
    unpad: Option<Unpad>,
    /// Where the next byte to be given stands in the payload.
    pub(super) position: u64,
    ready: Ready,
    /// Plaintext bytes of the next segment that a seek has gone past.
    skip: usize,
    /// Whether there is nothing behind what is ready.
    done: bool,
    /// Segments that have been opened, from the first on, without a gap.
    opened_through: u64,
    /// Its entry in the window, once all of it is authentic.
    receipt: Option<Receipt>,
    pub(super) known: Option<Known>,
    pub(super) errand: Errand,
    /// Whether the last seek asked for a place before the payload.
    pub(super) no_such_place: bool,
    state: State,
    sender: Option<Sender>,
}

/// A message without padding, and without a proof that covers all of it.
#[cfg(all(feature = "cli", unix))]
pub(super) struct Unordered<'a> {
    pub(super) segments: crate::payload::Segments<'a>,
    pub(super) segment_log2: u8,
    /// Bytes of plaintext that there may be.
    pub(super) longest: u64,
    pub(super) sender: Sender,
}

/// What is the same for all segments.
pub(super) struct Message {
    opener: Opener,
    unlocked: Arc<Unlocked>,
    seq: u64,
    head: Vec<u8>,
    /// Bytes of block and head.
    pub(super) front: u64,
    context: Bytes,
    pub(super) segment_log2: u8,
    /// Bytes of plaintext that there may be.
    longest: u64,
    pub(super) padded: bool,
    /// Whether the input ends where the message does.
    pub(super) alone: bool,
}

impl Message {
    /// Bytes of a segment that is full, on the wire.
    pub(super) fn step(&self) -> u64 {
        (1 << self.segment_log2) + 20
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

/// What is done to segments: ciphertext and tag in, plaintext out.
struct Open {
    unlocked: Arc<Unlocked>,
    seq: u64,
    /// Of segment 0: the head as it was received, and the binding.
    aad: Vec<u8>,
}

impl Work for Open {
    fn run(&self, segment: &mut Segment) -> Result<(), Refused> {
        let Segment { index, last, bytes } = segment;
        let aad = if *index == 0 { &self.aad[..] } else { &[] };
        let (text, tag) = bytes.split_last_chunk_mut::<16>().ok_or(Refused)?;
        let at = SegmentAt { seq: self.seq, index: *index, last: *last };
        // [SEG-6]
        self.unlocked.schedule.open_segment(at, aad, text, tag)?;
        let plaintext = text.len();
        bytes.truncate(plaintext);
        Ok(())
    }
}

/// What is being read.
#[derive(PartialEq, Eq, Clone, Copy)]
enum Stage {
    Prefix,
    Body(SegmentPrefix),
    /// Whether a byte follows the message.
    Behind,
    /// Nothing more.
    Over,
}

#[derive(PartialEq, Eq, Clone, Copy)]
enum State {
    Reading,
    /// All of it is authentic.
    Ended,
    Failed,
}

/// What is open and not yet given: zeros, then bytes, then zeros.
#[derive(Default)]
struct Ready {
    zeros: u64,
    bytes: Vec<u8>,
    at: usize,
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

    fn is_empty(&self) -> bool {
        self.zeros == 0 && self.at >= self.bytes.len() && self.zeros_after == 0
    }
}

impl Opening {
    fn new(opener: &Opener, raw: &[u8], bytes: Vec<u8>, alone: bool) -> Result<Self, OpenError> {
        let limits = &opener.policy().limits;
        let (_, block) = DekBlock::parse(raw, limits)?;
        let base = len64(raw.len());
        let head = MessageHead::parse(&mut Reader::new(&bytes, base), limits)?;
        head.check_alone(block.options, base)?;
        // [LIM-5]
        LimitExceeded::check("segment", 1 << head.segment_log2, limits.segment).map_err(ParseError::from)?;
        let unlocked = opener.unlock(raw, &block, Some(head.context), Covers::Dek, None, &mut 0)?;
        opener.check_room(&unlocked, head.seq)?;
        let (seq, segment_log2, padded) = (head.seq, head.segment_log2, head.flags.padded());
        let context = Bytes::copy_from_slice(head.context);
        let front = base + len64(bytes.len());
        let aad = [&bytes[..], &opener.policy().binding].concat();
        let crew = Crew::new(Open { unlocked: unlocked.clone(), seq, aad });
        let longest = block.suite.longest_message();
        let message =
            Message { opener: opener.clone(), unlocked, seq, head: bytes, front, context, segment_log2, longest, padded, alone };
        let signed = message.is_signed();
        Ok(Self {
            hash: signed.then(|| message.hash()),
            sender: (!signed).then_some(message.unlocked.sender),
            unpad: padded.then(Unpad::default),
            message,
            crew,
            stage: Stage::Prefix,
            intake: Intake::default(),
            index: 0,
            consumed: 0,
            stop: None,
            position: 0,
            ready: Ready::default(),
            skip: 0,
            done: false,
            opened_through: 0,
            receipt: None,
            known: None,
            errand: Errand::None,
            no_such_place: false,
            state: State::Reading,
        })
    }

    pub(super) fn set_threads(&mut self, threads: usize) {
        self.crew.set_threads(threads, 1 << self.message.segment_log2);
    }

    pub(super) fn message(&self) -> &Message {
        &self.message
    }

    /// What its segments are opened with, in any order; `None` where all of it must be gone through first.
    #[cfg(all(feature = "cli", unix))]
    pub(super) fn unordered(&self) -> Option<Unordered<'_>> {
        let Message { opener, unlocked, seq, segment_log2, longest, padded, .. } = &self.message;
        let sender = self.sender.filter(|_| !padded && opener.policy().replay.is_none())?;
        let segments = crate::payload::Segments { schedule: &unlocked.schedule, seq: *seq, aad: &self.crew.work().aad };
        Some(Unordered { segments, segment_log2: *segment_log2, longest: *longest, sender })
    }

    pub(super) fn context(&self) -> &Bytes {
        &self.message.context
    }

    pub(super) fn sender(&self) -> Option<Sender> {
        self.sender
    }

    pub(super) fn created_at(&self) -> u64 {
        self.message.unlocked.created_at
    }

    pub(super) fn key(&self) -> Option<Fingerprint> {
        self.message.unlocked.key
    }

    pub(super) fn commit(&self) -> Result<(), OpenError> {
        if self.state != State::Ended {
            return Err(OpenError::Failed);
        }
        self.receipt.iter().for_each(Receipt::commit);
        Ok(())
    }

    /// Fails for good: nothing that was opened is given any more.
    pub(super) fn fail<T>(&mut self, error: impl Into<StreamError>) -> Result<T, StreamError> {
        self.state = State::Failed;
        self.ready.bytes.zeroize();
        self.ready = Ready::default();
        self.crew.clear();
        Err(error.into())
    }

    pub(super) fn check_alive(&self) -> Result<(), StreamError> {
        if self.state == State::Failed { Err(OpenError::Failed.into()) } else { Ok(()) }
    }

    /// What is to be done before something can be taken.
    pub(super) fn step(&mut self) -> Result<Step, StreamError> {
        self.check_alive()?;
        if let Some(step) = self.errand_step() {
            return Ok(step);
        }
        loop {
            if self.done || !self.ready.is_empty() || self.is_waiting() {
                return Ok(Step::Ready);
            }
            // Whether the message has ended is known before its final segment is given, whatever is under way.
            if (self.crew.has_room() || self.stage == Stage::Behind) && self.wants().is_some() {
                return Ok(Step::Read);
            }
            self.next_segment()?;
        }
    }

    /// How much is to be read for the present stage.
    pub(super) fn wants(&self) -> Option<usize> {
        let whole = match self.stage {
            Stage::Prefix => 4,
            Stage::Body(prefix) => prefix.body_len(),
            Stage::Behind => 1,
            Stage::Over => return None,
        };
        Some(whole.saturating_sub(self.intake.len()))
    }

    /// Where to read the next bytes to.
    pub(super) fn space(&mut self) -> &mut [u8] {
        if self.intake.is_bare() && self.ready.is_empty() {
            self.intake.reuse(std::mem::take(&mut self.ready).bytes);
        }
        let wanted = self.wants().unwrap_or_default();
        self.intake.space(wanted)
    }

    /// So many bytes have been read there; none at the end of the input.
    pub(super) fn came(&mut self, n: usize) -> Result<(), StreamError> {
        self.intake.came(n);
        if n > 0 && self.wants().is_some_and(|wanted| wanted > 0) { Ok(()) } else { self.go_on() }
    }

    /// Whether the next segment has been read, and may be opened on its way to who asks for it: the first one is opened when the
    /// reader is made, the final one tells more, and of others a part may not be asked for.
    fn is_waiting(&self) -> bool {
        let asked = !self.done && self.ready.is_empty() && self.skip == 0 && !self.message.padded;
        asked && self.crew.waits_for_caller(|segment| segment.index > 0 && !segment.last)
    }

    /// Moves as much plaintext as there is, and fits.
    pub(super) fn take(&mut self, out: &mut [u8]) -> Result<usize, StreamError> {
        if self.is_waiting() {
            let fits = |segment: &Segment| segment.bytes.len() <= out.len().saturating_add(TAG_LEN);
            match self.crew.take_waiting(fits) {
                Some(segment) => return self.open_into(segment, out).or_else(|error| self.fail(error)),
                None => self.next_segment()?,
            }
        }
        let n = self.ready.take(out);
        self.position += len64(n);
        Ok(n)
    }

    /// Opens a segment on its way to who asked for it: its plaintext is written once.
    fn open_into(&mut self, mut segment: Segment, out: &mut [u8]) -> Result<usize, OpenError> {
        let (index, wrong) = (segment.index, OpenError::Segment { index: segment.index });
        let (text, tag) = segment.bytes.split_last_chunk::<TAG_LEN>().ok_or(wrong.clone())?;
        let at = SegmentAt { seq: self.message.seq, index, last: segment.last };
        let n = text.len();
        // [SEG-6]
        self.message.unlocked.schedule.open_segment_from(at, &[], text, &mut out[..n], tag).map_err(|_| wrong)?;
        if self.opened_through == index {
            self.opened_through += 1;
        }
        self.position += len64(n);
        self.give_back(std::mem::take(&mut segment.bytes));
        Ok(n)
    }

    pub(super) fn is_done(&self) -> bool {
        self.done && self.ready.is_empty()
    }

    /// The input failed.
    pub(super) fn broke(&mut self, error: io::Error) -> Result<(), StreamError> {
        self.stop(error.into())
    }

    /// Reads no further. What was read before is given first, unless nothing of it was asked for.
    fn stop(&mut self, error: StreamError) -> Result<(), StreamError> {
        self.stage = Stage::Over;
        self.intake.clear();
        if !matches!(self.errand, Errand::None) {
            return self.fail(error);
        }
        self.stop = Some(error);
        Ok(())
    }

    /// Goes on with what was read; fewer bytes than were wanted are the end of the input.
    fn go_on(&mut self) -> Result<(), StreamError> {
        let at = self.message.front + self.consumed;
        match self.stage {
            Stage::Prefix => {
                if self.intake.len() == 0 && self.leapt_too_far() {
                    return Ok(());
                }
                match self.parse_prefix(at) {
                    Ok(prefix) => self.stage = Stage::Body(prefix),
                    Err(error) => return self.stop(OpenError::from(error).into()),
                }
                self.consumed += len64(self.intake.len());
                self.intake.clear();
            }
            Stage::Body(prefix) => {
                let (needed, available) = (len64(prefix.body_len()), len64(self.intake.len()));
                if available < needed {
                    return self.stop(truncated(at, needed, available).into());
                }
                self.consumed += available;
                self.stage = Stage::Prefix;
                if let Errand::Leap { .. } = self.errand {
                    self.errand = Errand::None;
                }
                if let Errand::None = self.errand {
                    return self.whole(prefix).or_else(|error| self.stop(error.into()));
                }
                return self.survey_segment(prefix).or_else(|error| self.fail(error));
            }
            Stage::Behind => {
                self.stage = Stage::Over;
                if self.intake.len() > 0 {
                    // [SEG-8]
                    return self.stop(OpenError::from(ParseError::TrailingBytes { offset: at }).into());
                }
            }
            Stage::Over => {}
        }
        Ok(())
    }

    fn parse_prefix(&self, at: u64) -> Result<SegmentPrefix, ParseError> {
        let log2 = self.message.segment_log2;
        let prefix = SegmentPrefix::parse(&mut Reader::new(self.intake.bytes(), at), self.index, log2)?;
        // [SEG-11]
        let plaintext = (self.index << log2) + u64::from(prefix.ciphertext);
        LimitExceeded::check("message", plaintext, self.message.longest)?;
        Ok(prefix)
    }

    /// A segment has been read, with its tag.
    fn whole(&mut self, prefix: SegmentPrefix) -> Result<(), OpenError> {
        if let Some(hash) = &mut self.hash {
            hash.update(&prefix.encode());
            hash.update(self.intake.bytes());
        }
        if let Some(known) = &self.known {
            known.check(self.index, prefix, self.intake.bytes())?;
        }
        if prefix.last {
            // Where the end is known, so is what is behind it.
            self.stage = if self.message.alone && self.known.is_none() { Stage::Behind } else { Stage::Over };
        }
        let bytes = self.intake.take();
        self.crew.push(Segment { index: self.index, last: prefix.last, bytes });
        self.index += 1;
        Ok(())
    }

    /// A segment that has been read, where it is not to be given.
    pub(super) fn body(&self) -> &[u8] {
        self.intake.bytes()
    }

    pub(super) fn skip_body(&mut self) {
        self.intake.clear();
    }

    /// Opens what has been read, apart from what is given.
    pub(super) fn open_apart(&mut self, last: bool) -> Result<Vec<u8>, OpenError> {
        let mut segment = Segment { index: self.index, last, bytes: self.intake.take() };
        self.crew.work().run(&mut segment).map_err(|_| OpenError::Segment { index: self.index })?;
        Ok(std::mem::take(&mut segment.bytes))
    }

    /// Makes the next segment ready.
    fn next_segment(&mut self) -> Result<(), StreamError> {
        self.try_next_segment().or_else(|error| self.fail(error))
    }

    fn try_next_segment(&mut self) -> Result<(), StreamError> {
        let Some(mut finished) = self.crew.pop(true) else {
            return Err(self.stop.take().unwrap_or(OpenError::Failed.into()));
        };
        let (index, last) = (finished.segment.index, finished.segment.last);
        finished.result.map_err(|_| OpenError::Segment { index })?;
        if self.opened_through == index {
            self.opened_through += 1;
        }
        let body = std::mem::take(&mut finished.segment.bytes);
        match &mut self.unpad {
            Some(unpad) => {
                let mut bytes = std::mem::take(&mut self.ready.bytes);
                let zeros = unpad.push(&body, &mut bytes);
                self.ready = Ready { zeros, bytes, ..Ready::default() };
                self.give_back(body);
            }
            None => {
                let at = std::mem::take(&mut self.skip);
                self.set_ready(Ready { bytes: body, at, ..Ready::default() });
            }
        }
        if let Some(known) = &self.known {
            // Padding is behind the payload.
            let left = known.payload.saturating_sub(self.position);
            let most = crate::wire::index(left).saturating_add(self.ready.at);
            self.ready.bytes.truncate(most);
        }
        self.done = last;
        if last {
            self.end(index)?;
        } else if index == 0 && self.opened_through == 1 {
            self.message.opener.check_not_seen(&self.message.unlocked, self.message.seq)?;
        }
        Ok(())
    }

    /// The final segment is open: what only the end can tell is asked before anything of it is given.
    fn end(&mut self, index: u64) -> Result<(), StreamError> {
        if let Some(stop) = self.stop.take() {
            return Err(stop);
        }
        if let Some(hash) = self.hash.take() {
            self.verify(hash)?;
        }
        if let Some(unpad) = self.unpad.take() {
            self.ready.zeros_after = unpad.end().map_err(OpenError::Content)?;
        }
        if self.opened_through == index + 1 && self.state != State::Ended {
            // [RPL-2]
            self.receipt = self.message.opener.enter(&self.message.unlocked, self.message.seq)?;
            self.state = State::Ended;
        }
        Ok(())
    }

    fn set_ready(&mut self, ready: Ready) {
        let before = std::mem::replace(&mut self.ready, ready).bytes;
        self.give_back(before);
    }

    /// Keeps a buffer to read into, or wipes it.
    fn give_back(&mut self, mut buffer: Vec<u8>) {
        if self.intake.is_bare() {
            self.intake.reuse(buffer);
        } else {
            buffer.zeroize();
        }
    }

    /// The end is authentic, without having been read to.
    pub(super) fn end_is_known(&mut self, known: Known) {
        self.known = Some(known);
        (self.hash, self.unpad) = (None, None);
    }

    pub(super) fn verify(&mut self, mut hash: Hash) -> Result<(), StreamError> {
        hash.update(&self.message.opener.policy().binding);
        self.message.unlocked.verify_hash(&hash.finish())?;
        self.sender = Some(self.message.unlocked.sender);
        Ok(())
    }

    /// Goes on reading at the beginning of a segment, whose place in the input the reader has gone to.
    pub(super) fn read_from(&mut self, segment: u64, consumed: u64) {
        self.crew.clear();
        self.intake.clear();
        (self.stage, self.stop) = (Stage::Prefix, None);
        (self.index, self.consumed) = (segment, consumed);
    }

    /// Gives from a place in the payload on: `skip` bytes into the next segment, or at the end.
    pub(super) fn give_from(&mut self, position: u64, skip: usize, done: bool) {
        self.set_ready(Ready::default());
        (self.position, self.skip, self.done) = (position, skip, done);
    }

    /// Bytes of the input since the message head.
    pub(super) fn read_so_far(&self) -> u64 {
        self.consumed + len64(self.intake.len())
    }
}

/// What was opened and not given is wiped.
impl Drop for Opening {
    fn drop(&mut self) {
        self.ready.bytes.zeroize();
    }
}

/// What was announced and is not there.
pub(super) fn truncated(offset: u64, needed: u64, available: u64) -> OpenError {
    ParseError::Truncated { field: "segment", offset, needed, available }.into()
}
