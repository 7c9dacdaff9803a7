//! A stream of messages -> where each one ends (spec 2). Knows no key and no suite.

use super::{
    DekBlock, FollowUpHead, LimitExceeded, Limits, MessageHead, Opening, ParseError, Reader, SegmentPrefix, index, len64,
    segment::PREFIX_LEN,
};

/// Finds the ends of envelopes and follow-ups in bytes that arrive piece by piece.
///
/// It remembers how far it has looked, so that the work of a call is bounded by the bytes that are new.
///
/// ```
/// use sealwire::wire::{Limits, Splitter};
/// # let cmk = sealwire::Cmk::generate()?;
/// let envelope = sealwire::seal(b"hello", &[cmk.recipient().clone()])?;
/// let mut splitter = Splitter::new(Limits::default());
/// assert_eq!(splitter.next(&envelope[..100])?, None);
/// assert_eq!(splitter.next(&envelope)?, Some(envelope.len()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Splitter {
    limits: Limits,
    /// Of the last envelope: follow-ups have the same.
    segment_log2: Option<u8>,
    stage: Stage,
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    Start,
    Head { at: usize },
    Segments { at: usize, next: u64, plaintext: u64 },
}

impl Splitter {
    /// A splitter at the start of a stream.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, segment_log2: None, stage: Stage::Start }
    }

    /// Tells the length of the message that `input` starts with, or `None` while it is not all there. `input` begins
    /// with the same bytes until then; afterwards behind them.
    ///
    /// # Errors
    /// [`ParseError`]; what follows in the stream means nothing then.
    pub fn next(&mut self, input: &[u8]) -> Result<Option<usize>, ParseError> {
        loop {
            let next = match self.stage {
                Stage::Start => self.start(input)?,
                Stage::Head { at } => self.head(input, at)?,
                Stage::Segments { at, next, plaintext } => self.segment(input, at, next, plaintext)?,
            };
            match next {
                Step::Wait => return Ok(None),
                Step::Go(stage) => self.stage = stage,
                Step::End(len) => {
                    self.stage = Stage::Start;
                    return Ok(Some(len));
                }
            }
        }
    }

    fn start(&mut self, input: &[u8]) -> Result<Step, ParseError> {
        let Some(first) = input.first() else { return Ok(Step::Wait) };
        match Opening::of(*first)? {
            Opening::Envelope => self.block(input),
            Opening::FollowUp => self.follow_up(input),
        }
    }

    fn block(&self, input: &[u8]) -> Result<Step, ParseError> {
        let declared = DekBlock::declared_len(input, &self.limits)?;
        Ok(declared.map_or(Step::Wait, |at| Step::Go(Stage::Head { at })))
    }

    fn head(&mut self, input: &[u8], at: usize) -> Result<Step, ParseError> {
        let mut reader = Reader::new(input.get(at..).unwrap_or_default(), len64(at));
        let Some(head) = ParseError::incomplete(MessageHead::parse(&mut reader, &self.limits))? else {
            return Ok(Step::Wait);
        };
        self.segment_log2 = Some(head.segment_log2);
        Ok(Step::segments(&reader))
    }

    fn follow_up(&self, input: &[u8]) -> Result<Step, ParseError> {
        // [CHN-3]
        if self.segment_log2.is_none() {
            return Err(ParseError::malformed("type", 0, "a follow-up without an envelope before it"));
        }
        let mut reader = Reader::new(input, 0);
        let head = ParseError::incomplete(FollowUpHead::parse(&mut reader, &self.limits))?;
        Ok(head.map_or(Step::Wait, |_| Step::segments(&reader)))
    }

    fn segment(&self, input: &[u8], at: usize, next: u64, plaintext: u64) -> Result<Step, ParseError> {
        let mut reader = Reader::new(input.get(at..).unwrap_or_default(), len64(at));
        let log2 = self.segment_log2.unwrap_or_default();
        let Some(prefix) = ParseError::incomplete(SegmentPrefix::parse(&mut reader, next, log2))? else {
            return Ok(Step::Wait);
        };
        let plaintext = plaintext.saturating_add(prefix.ciphertext.into());
        // [LIM-3]
        LimitExceeded::check("message", plaintext, self.limits.message)?;
        let end = at.saturating_add(PREFIX_LEN).saturating_add(prefix.body_len());
        if input.len() < end {
            return Ok(Step::Wait);
        }
        Ok(if prefix.last {
            Step::End(end)
        } else {
            Step::Go(Stage::Segments { at: end, next: next.saturating_add(1), plaintext })
        })
    }
}

enum Step {
    Wait,
    Go(Stage),
    End(usize),
}

impl Step {
    fn segments(reader: &Reader<'_>) -> Self {
        Self::Go(Stage::Segments { at: index(reader.offset()), next: 0, plaintext: 0 })
    }
}
