use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use zeroize::Zeroizing;

use super::Role;
use crate::{
    crypto::{Secret32, proof::Covers},
    keys::Dek,
    open::{Budgets, Meters, Numbered, OpenError, Opened, Opener, Unlocked, search::count_trial},
    payload::{Segments, ZeroizeAll},
    seal::build_aad,
    wire::{
        DekBlock, External, Flags, FollowUpHead, LimitExceeded, MessageHead, Opening, PREFIX_LEN, ParseError, Reader,
        SegmentPrefix, batch, len64,
    },
};

/// After a message with a segment of more than this the input buffer is let go.
const BUFFER_KEPT: usize = 256 * 1024;

/// The receiving end of a channel (spec 9): fed with bytes as they arrive, it gives the messages in order, and an
/// error at the first thing that is not as it was sent.
///
/// Segments are opened as they arrive; memory follows the bytes that have arrived, or had in the last message of several
/// segments, never a length that a peer declared. After an error everything is an error.
pub struct ChannelOpener {
    opener: Opener,
    role: Role,
    binding: Vec<u8>,
    waits_for_deks: bool,
    wipes: bool,
    epoch: Option<Epoch>,
    next_seq: Option<u64>,
    first_header_mac: Option<[u8; 32]>,
    stage: Stage,
    /// What is left of a batch that is being handed out.
    batch: Option<Opened>,
    delivered: u64,
    /// Bytes of the last message of several segments: the next one is likely to be as long.
    long: usize,
    /// Bytes of the first message's plaintext at the most.
    first: u64,
    /// What the peer may still cost.
    meters: Meters,
    /// DEKs that have been opened.
    epochs: u64,
    /// Parts that have been read.
    steps: u64,
    /// DEKs that were supplied for the block that waits.
    trials: u64,
    /// The AAD of the message under way.
    aad: Vec<u8>,
}

/// The DEK in use, and what follow-ups take from the envelope that brought it.
struct Epoch {
    unlocked: Arc<Unlocked>,
    segment_log2: u8,
}

enum Stage {
    /// Between two messages.
    Idle,
    /// A DEK block of so many bytes is all there; its head is not.
    Block(usize),
    /// Block and head are there; the DEK is asked for elsewhere.
    NeedsDek(usize),
    /// In the segments of a message.
    Segments(Partial),
    /// The last message has been read.
    Closed,
    /// Something was wrong.
    Failed,
}

/// How far a step came.
enum Step {
    /// More bytes are needed, or a DEK.
    Waits,
    /// On to the next one.
    On,
    /// A message.
    Gives(Whole),
}

/// A message of which everything is authentic. It becomes an [`Opened`] where that is handed out, and nowhere before: each time that is
/// moved costs as much as a tenth of a small message's AEAD call.
struct Whole {
    plaintext: BytesMut,
    flags: Flags,
    context: Bytes,
    seq: Numbered,
}

/// Wipes what is left of a batch, where nobody has any of it.
fn wipe(rest: Option<Opened>) {
    if let Some(Ok(mut rest)) = rest.map(|rest| rest.payload.try_into_mut()) {
        rest.zeroize_all();
    }
}

/// Takes the next message off a batch that has been checked; its payload is what is left of it.
fn take_entry(batch: &mut Option<Opened>) -> Option<Opened> {
    let rest = batch.as_mut()?;
    let payload = batch::next_entry(&mut rest.payload)?;
    let is_last = rest.payload.is_empty();
    let entry = rest.part(payload, is_last);
    if is_last {
        *batch = None;
    }
    Some(entry)
}

/// A message under way.
struct Partial {
    seq: u64,
    /// Whether it begins with a block.
    envelope: bool,
    flags: Flags,
    context: Bytes,
    next_segment: u64,
    received: u64,
    plaintext: BytesMut,
    large: bool,
}

/// Messages of a batch that nobody has taken, where nobody has the ones before them either.
impl Drop for ChannelOpener {
    fn drop(&mut self) {
        wipe(self.batch.take());
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        self.plaintext.zeroize_all();
    }
}

impl ChannelOpener {
    /// A channel that `role` receives, under the keys and policy of `opener`, whatever the policy's binding.
    #[must_use]
    pub fn new(opener: Opener, role: Role, binding: &[u8]) -> Self {
        Self {
            role,
            binding: binding.to_vec(),
            waits_for_deks: false,
            wipes: false,
            epoch: None,
            next_seq: Some(0),
            first_header_mac: None,
            stage: Stage::Idle,
            batch: None,
            delivered: 0,
            long: 0,
            first: u64::MAX,
            meters: Budgets::default().meters(opener.clock()),
            epochs: 0,
            opener,
            steps: 0,
            trials: 0,
            aad: Vec::new(),
        }
    }

    /// Waits at a block that the keyring does not open, instead of failing: see [`needs_dek`](Self::needs_dek).
    #[must_use]
    pub fn waiting_for_deks(mut self) -> Self {
        self.waits_for_deks = true;
        self
    }

    /// Gives payloads in memory of their own, which is wiped when its last holder lets go, and leaves nothing of them in the input. It costs a
    /// copy, and is for secrets.
    #[must_use]
    pub fn wiping(mut self) -> Self {
        self.wipes = true;
        self
    }

    /// How long the first message may be, where that is less than [`Limits::message`](crate::Limits): for protocols in which strangers begin
    /// with a few words.
    #[must_use]
    pub fn first_at_most(mut self, bytes: u64) -> Self {
        self.first = bytes;
        self
    }

    /// What the peer may cost.
    #[must_use]
    pub fn budgets(mut self, budgets: Budgets) -> Self {
        self.meters = budgets.meters(self.opener.clock());
        self
    }

    /// Takes what it can use off the front of `input` and gives the next message, or `None` when it needs more bytes
    /// (or a DEK).
    ///
    /// The payload of a message of one segment is a slice of `input`'s memory.
    ///
    /// # Errors
    /// [`OpenError`], and from then on [`OpenError::Failed`]. What was given before stays given.
    #[inline]
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Option<Opened>, OpenError> {
        self.next_or(input)
    }

    /// The same for shells with errors of their own: what it gives is made in their place.
    #[inline(always)]
    pub(crate) fn next_or<E: From<OpenError>>(&mut self, input: &mut BytesMut) -> Result<Option<Opened>, E> {
        loop {
            if let Some(entry) = take_entry(&mut self.batch) {
                self.count(entry.payload.is_empty())?;
                return Ok(Some(entry));
            }
            // [CHN-14]
            let step = self.step(input).map_err(|error| self.fail(error))?;
            self.steps = self.steps.wrapping_add(u64::from(!matches!(step, Step::Waits)));
            match step {
                Step::Waits => return Ok(None),
                Step::On => {}
                Step::Gives(Whole { mut plaintext, flags, context, seq }) => {
                    let finished = self.opener.finish(&mut plaintext, flags.padded(), seq, self.unlocked()?);
                    let receipt = finished.map_err(|error| self.fail(error))?;
                    self.next_seq = seq.number().checked_add(1);
                    self.stage = if flags.last() { Stage::Closed } else { Stage::Idle };
                    // [CHN-15]
                    let is_notice = flags.last() && !flags.batch() && plaintext.is_empty();
                    if !flags.batch() && !is_notice {
                        self.count(plaintext.is_empty())?;
                        let payload = if self.wipes { apart(plaintext) } else { plaintext.freeze() };
                        return Ok(Some(self.unlocked()?.opened(payload, context, seq, receipt)));
                    }
                    if flags.batch() {
                        let payload = if self.wipes { apart(plaintext) } else { plaintext.freeze() };
                        let batch = self.unlocked()?.opened(payload, context, seq, receipt);
                        self.take_batch(batch).map_err(|error| self.fail(error))?;
                    }
                }
            }
        }
    }

    /// The DEK in use; there is one as soon as a message is under way.
    #[inline]
    fn unlocked(&self) -> Result<&Unlocked, OpenError> {
        self.epoch.as_ref().map(|epoch| &*epoch.unlocked).ok_or(OpenError::Failed)
    }

    /// Checks a batch that is to be handed out.
    fn take_batch(&mut self, batch: Opened) -> Result<(), OpenError> {
        // [BAT-3]
        let checked = batch::check(&batch.payload, &self.opener.policy().limits);
        self.batch = Some(batch);
        checked.map(|_| ()).map_err(OpenError::Content)
    }

    /// A message is handed out; those without a byte have a budget.
    #[inline(always)]
    fn count(&mut self, is_empty: bool) -> Result<(), OpenError> {
        if is_empty {
            self.meters.empty.spend(self.opener.clock()).map_err(|over| self.fail(over.into()))?;
        }
        self.delivered = self.delivered.saturating_add(1);
        Ok(())
    }

    #[cold]
    fn fail(&mut self, error: OpenError) -> OpenError {
        self.stage = Stage::Failed;
        wipe(self.batch.take());
        error
    }

    /// The next message of a batch that is being handed out, made where it is wanted. Of an empty one, and of the last, and where there is
    /// no batch, [`next`](Self::next) tells.
    #[cfg(feature = "codec")]
    #[inline(always)]
    pub(crate) fn next_of_batch(&mut self) -> Option<Opened> {
        let payload = self.next_payload_of_batch()?;
        self.batch.as_ref().map(|rest| rest.part(payload, false))
    }

    /// The same of which only the payload is wanted.
    #[cfg(feature = "codec")]
    #[inline(always)]
    pub(crate) fn next_payload_of_batch(&mut self) -> Option<Bytes> {
        let rest = &mut self.batch.as_mut()?.payload;
        let len = u32::from_be_bytes(*rest.first_chunk()?);
        if len == 0 || rest.len() <= crate::wire::index(u64::from(len).saturating_add(4)) {
            return None;
        }
        self.delivered = self.delivered.saturating_add(1);
        batch::next_entry(rest)
    }

    /// Says that no byte follows those left in `input`.
    ///
    /// # Errors
    /// [`OpenError::ChannelTruncated`] when the last message has not been read; [`OpenError::Failed`] after an error.
    pub fn end(&mut self, input: &[u8]) -> Result<(), OpenError> {
        let ended = match self.stage {
            Stage::Closed if input.is_empty() => Ok(()),
            Stage::Closed => Err(ParseError::TrailingBytes { offset: 0 }.into()),
            Stage::Failed => Err(OpenError::Failed),
            // [CHN-9]
            _ => Err(OpenError::ChannelTruncated { delivered: self.delivered }),
        };
        if ended.is_err() {
            self.stage = Stage::Failed;
        }
        ended
    }

    /// Parts that have been read: blocks with their heads, follow-ups' heads, segments.
    #[cfg(feature = "codec")]
    pub(crate) fn steps(&self) -> u64 {
        self.steps
    }

    /// DEKs that have been opened.
    #[cfg(feature = "codec")]
    pub(crate) fn epochs(&self) -> u64 {
        self.epochs
    }

    /// Whether no message is under way, as far as bytes have been taken.
    #[cfg(feature = "codec")]
    pub(crate) fn is_between_messages(&self) -> bool {
        matches!(self.stage, Stage::Idle)
    }

    /// Whether a message of several segments is under way.
    #[cfg(feature = "codec")]
    pub(crate) fn is_in_a_long_message(&self) -> bool {
        matches!(&self.stage, Stage::Segments(partial) if partial.next_segment > 0)
    }

    /// Whether the last message has been read.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self.stage, Stage::Closed)
    }

    /// The header_mac of the first block, once it has been opened: what replies bind
    /// ([`reply_binding`](super::reply_binding)).
    #[must_use]
    pub fn first_header_mac(&self) -> Option<&[u8; 32]> {
        self.first_header_mac.as_ref()
    }

    /// The block that waits for its DEK, at the front of `input`; only with
    /// [`waiting_for_deks`](Self::waiting_for_deks).
    #[must_use]
    pub fn needs_dek<'a>(&self, input: &'a [u8]) -> Option<&'a [u8]> {
        match self.stage {
            Stage::NeedsDek(len) => input.get(..len),
            _ => None,
        }
    }

    /// The externals of that block whose KMS may be asked, as [`NeedsDek::externals`](crate::NeedsDek::externals).
    #[must_use]
    pub fn externals<'a>(&self, input: &'a [u8]) -> Vec<External<'a>> {
        let policy = self.opener.policy();
        let block = self.needs_dek(input).and_then(|raw| DekBlock::parse(raw, &policy.limits).ok());
        block.map_or_else(Vec::new, |(_, block)| policy.named(&block).collect())
    }

    /// Goes on with a DEK from elsewhere; [`next`](Self::next) follows with the same `input`. Where it is not the block's, another may
    /// follow, that of the next external: each is a trial.
    ///
    /// # Errors
    /// [`OpenError::HeaderMac`] when it is not the block's; the channel still waits. With every other error, and past the limit on trials,
    /// it has failed.
    pub fn supply(&mut self, input: &mut BytesMut, dek: &Dek) -> Result<(), OpenError> {
        let len = match self.stage {
            Stage::NeedsDek(len) => len,
            Stage::Failed => return Err(OpenError::Failed),
            _ => return Ok(()),
        };
        let supplied = self.try_dek(input, len, dek);
        match supplied {
            Err(OpenError::HeaderMac) => self.stage = Stage::NeedsDek(len),
            Err(_) => self.stage = Stage::Failed,
            Ok(()) => self.trials = 0,
        }
        supplied
    }

    fn try_dek(&mut self, input: &mut BytesMut, block_len: usize, dek: &Dek) -> Result<(), OpenError> {
        count_trial(&mut self.trials, self.opener.policy().limits.trials)?;
        match self.enter(input, block_len, Some(dek))? {
            // The block and the head were there, and are no more.
            Step::Waits => Err(OpenError::Failed),
            _ => Ok(()),
        }
    }

    /// Goes on by one part of a message.
    #[inline(always)]
    fn step(&mut self, input: &mut BytesMut) -> Result<Step, OpenError> {
        match self.stage {
            Stage::Idle => self.begin(input),
            Stage::Block(len) => self.enter(input, len, None),
            Stage::NeedsDek(_) => Ok(Step::Waits),
            Stage::Segments(_) => self.segment(input),
            Stage::Closed if input.is_empty() => Ok(Step::Waits),
            // [CHN-8]
            Stage::Closed => Err(ParseError::TrailingBytes { offset: 0 }.into()),
            Stage::Failed => Err(OpenError::Failed),
        }
    }

    #[inline(always)]
    fn begin(&mut self, input: &mut BytesMut) -> Result<Step, OpenError> {
        let Some(first) = input.first() else { return Ok(Step::Waits) };
        if Opening::of(*first)? == Opening::FollowUp {
            return self.follow_up(input);
        }
        match DekBlock::declared_len(input, &self.opener.policy().limits)? {
            Some(len) if input.len() >= len => {
                self.stage = Stage::Block(len);
                Ok(Step::On)
            }
            _ => Ok(Step::Waits),
        }
    }

    /// An envelope whose block is all there: the first message, or a renewal.
    #[inline(never)]
    fn enter(&mut self, input: &mut BytesMut, block_len: usize, dek: Option<&Dek>) -> Result<Step, OpenError> {
        let limits = &self.opener.policy().limits;
        let (raw, rest) = input.split_at_checked(block_len).ok_or(OpenError::Failed)?;
        let mut reader = Reader::new(rest, len64(block_len));
        let Some(head) = ParseError::incomplete(MessageHead::parse(&mut reader, limits))? else { return Ok(Step::Waits) };
        let (_, block) = DekBlock::parse(raw, limits)?;
        let base = len64(block_len);
        self.check_flags(head.flags, base.saturating_add(9))?;
        self.check_place(&head, &block, base)?;
        head.check_under(block.options, base)?;
        // It costs a Diffie-Hellman, where the DEK is not supplied, or more: what more is known afterwards.
        if dek.is_none() {
            self.meters.envelopes.spend(self.opener.clock())?;
        }
        let mut trials = 0;
        let covers = Covers::Channel { acceptor: head.flags.acceptor(), binding: &self.binding };
        let unlocked = self.opener.unlock(raw, &block, None, covers, dek, &mut trials);
        let _ = self.meters.envelopes.spend_some(trials.saturating_sub(1), self.opener.clock());
        let unlocked = match unlocked {
            Err(reason) if dek.is_none() && self.waits_for_deks && reason.a_dek_would_help() => {
                self.stage = Stage::NeedsDek(block_len);
                return Ok(Step::On);
            }
            unlocked => unlocked?,
        };
        self.check_sender(&unlocked)?;
        self.opener.check_room(&unlocked, head.seq)?;
        let chain = self.chain()?;
        build_aad(&mut self.aad, &head, chain.as_ref(), &self.binding);
        let partial = Partial::new(&head, true);
        let consumed = block_len.saturating_add(head.encoded_len());
        self.first_header_mac.get_or_insert(unlocked.header_mac);
        self.epochs = self.epochs.saturating_add(1);
        self.epoch = Some(Epoch { unlocked, segment_log2: head.segment_log2 });
        input.advance(consumed);
        self.stage = Stage::Segments(partial);
        Ok(Step::On)
    }

    #[inline(always)]
    fn follow_up(&mut self, input: &mut BytesMut) -> Result<Step, OpenError> {
        // [CHN-3]
        let Some(epoch) = &self.epoch else {
            return Err(ParseError::malformed("type", 0, "a follow-up without an envelope before it").into());
        };
        let mut reader = Reader::new(input, 0);
        let parsed = FollowUpHead::parse(&mut reader, &self.opener.policy().limits);
        let Some(follow_up) = ParseError::incomplete(parsed)? else { return Ok(Step::Waits) };
        self.check_flags(follow_up.flags, 1)?;
        self.opener.check_age(&epoch.unlocked)?;
        let head = MessageHead {
            // [CHN-4]
            seq: self.next_seq.ok_or(ParseError::malformed("type", 0, "a message after the last sequence number"))?,
            segment_log2: epoch.segment_log2,
            flags: follow_up.flags,
            context: follow_up.context,
        };
        build_aad(&mut self.aad, &head, None, &self.binding);
        // Its offsets are those of a segment that comes later.
        let mut body_reader = Reader::new(reader.rest(), 0);
        let prefix = ParseError::incomplete(SegmentPrefix::parse(&mut body_reader, 0, epoch.segment_log2))?;
        let whole = prefix.filter(|prefix| prefix.last && prefix.body_len() <= body_reader.rest().len().min(BUFFER_KEPT));
        let Some(prefix) = whole else {
            let (partial, consumed) = (Partial::new(&head, false), follow_up.encoded_len());
            input.advance(consumed);
            self.stage = Stage::Segments(partial);
            return Ok(Step::On);
        };
        // Most follow-ups are one segment that is all there, and need not be put away in between.
        self.admit(head.flags, head.context, 0, prefix, prefix.ciphertext.into())?;
        let (flags, seq, context) = (head.flags, head.seq, kept(head.context));
        let body_at = follow_up.encoded_len().saturating_add(PREFIX_LEN);
        let mut body = input.split_to(body_at.saturating_add(prefix.body_len()));
        body.advance(body_at);
        let segments = Segments { schedule: &epoch.unlocked.schedule, seq, aad: &self.aad };
        segments.open_only(&mut body).map_err(|_| OpenError::Segment { index: 0 })?;
        Ok(Step::Gives(Whole { plaintext: body, flags, context, seq: Numbered::FollowUp(seq) }))
    }

    /// Whether a segment may be decrypted, which makes `received` bytes of its message: policy and limits.
    #[inline]
    fn admit(&self, flags: Flags, context: &[u8], segment: u64, prefix: SegmentPrefix, received: u64) -> Result<(), OpenError> {
        let policy = self.opener.policy();
        if segment == 0 && !is_notice(flags, prefix) {
            policy.check_context(context)?;
        }
        let most = if self.next_seq == Some(0) { policy.limits.message.min(self.first) } else { policy.limits.message };
        // [LIM-3]
        Ok(LimitExceeded::check("message", received, most).map_err(ParseError::from)?)
    }

    fn check_flags(&self, flags: Flags, at: u64) -> Result<(), ParseError> {
        // [CHN-1]
        if !flags.channel() {
            return Err(ParseError::malformed("flags", at, "a message on a channel without the channel flag"));
        }
        // [CHN-10]
        if flags.acceptor() == (self.role == Role::Acceptor) {
            return Err(ParseError::malformed("flags", at, "a message from the receiver's own side"));
        }
        Ok(())
    }

    /// Whether an envelope may stand here: first with seq 0, or as a renewal with the next seq and another salt.
    fn check_place(&self, head: &MessageHead<'_>, block: &DekBlock<'_>, seq_at: u64) -> Result<(), ParseError> {
        // [CHN-3] [CHN-4]
        if Some(head.seq) != self.next_seq {
            return Err(ParseError::malformed("seq", seq_at, "is not the next of the channel"));
        }
        // [CHN-5]
        if self.epoch.as_ref().is_some_and(|epoch| epoch.unlocked.salt == *block.salt) {
            return Err(ParseError::malformed("salt", 21, "is that of the epoch it renews"));
        }
        Ok(())
    }

    /// Whether a renewal is by the sender of the epoch before.
    fn check_sender(&self, unlocked: &Unlocked) -> Result<(), OpenError> {
        // [CHN-6]
        match &self.epoch {
            Some(epoch) if epoch.unlocked.sender != unlocked.sender => Err(OpenError::SenderChanged),
            _ => Ok(()),
        }
    }

    /// What a renewal must know of the epoch before it; nothing for the first message.
    fn chain(&self) -> Result<Option<Secret32>, OpenError> {
        // [CHN-7]
        let chain = self.epoch.as_ref().map(|epoch| epoch.unlocked.schedule.chain());
        chain.transpose().map_err(|_| OpenError::Failed)
    }

    /// Opens the next segment where it is, once it is all there.
    fn segment(&mut self, input: &mut BytesMut) -> Result<Step, OpenError> {
        let (Stage::Segments(partial), Some(epoch)) = (&self.stage, &self.epoch) else { return Err(OpenError::Failed) };
        let mut reader = Reader::new(input, 0);
        let parsed = SegmentPrefix::parse(&mut reader, partial.next_segment, epoch.segment_log2);
        let Some(prefix) = ParseError::incomplete(parsed)? else { return Ok(Step::Waits) };
        let received = partial.received.saturating_add(prefix.ciphertext.into());
        self.admit(partial.flags, &partial.context, partial.next_segment, prefix, received)?;
        if reader.rest().len() < prefix.body_len() {
            return Ok(Step::Waits);
        }
        input.advance(PREFIX_LEN);
        let (Stage::Segments(partial), Some(epoch)) = (&mut self.stage, &self.epoch) else { return Err(OpenError::Failed) };
        partial.received = received;
        partial.open(&epoch.unlocked, &self.aad, prefix, input, self.long)?;
        if prefix.last { self.complete(input) } else { Ok(Step::On) }
    }

    /// The final segment is authentic.
    fn complete(&mut self, input: &mut BytesMut) -> Result<Step, OpenError> {
        let Stage::Segments(mut partial) = std::mem::replace(&mut self.stage, Stage::Failed) else {
            return Err(OpenError::Failed);
        };
        let mut plaintext = std::mem::take(&mut partial.plaintext);
        if partial.next_segment > 1 {
            self.long = plaintext.len();
            // Who keeps it does not keep the room that a longer one had.
            if plaintext.capacity() / 2 > plaintext.len() {
                move_to(&mut plaintext, self.long);
            }
        }
        let numbered = if partial.envelope { Numbered::Envelope(partial.seq) } else { Numbered::FollowUp(partial.seq) };
        if partial.large {
            *input = BytesMut::from(&input[..]);
        }
        let (flags, context) = (partial.flags, std::mem::take(&mut partial.context));
        Ok(Step::Gives(Whole { plaintext, flags, context, seq: numbered }))
    }
}

impl Partial {
    fn new(head: &MessageHead<'_>, envelope: bool) -> Self {
        Self {
            envelope,
            seq: head.seq,
            flags: head.flags,
            context: kept(head.context),
            next_segment: 0,
            received: 0,
            plaintext: BytesMut::new(),
            large: false,
        }
    }

    /// Takes the next segment off `input`. One that is alone is opened where it is; the others are on their way to where they join, of
    /// which `long` bytes are expected.
    fn open(
        &mut self,
        unlocked: &Unlocked,
        aad: &[u8],
        prefix: SegmentPrefix,
        input: &mut BytesMut,
        long: usize,
    ) -> Result<(), OpenError> {
        let segments = Segments { schedule: &unlocked.schedule, seq: self.seq, aad };
        let (index, body) = (self.next_segment, prefix.body_len());
        let at = usize::try_from(index).map_err(|_| OpenError::Failed)?;
        let wrong = |_| OpenError::Segment { index };
        self.large |= body > BUFFER_KEPT;
        self.next_segment = index.saturating_add(1);
        if index == 0 && prefix.last {
            self.plaintext = input.split_to(body);
            return segments.open_only(&mut self.plaintext).map_err(wrong);
        }
        let start = self.plaintext.len();
        let end = start.saturating_add(prefix.ciphertext_len());
        grow(&mut self.plaintext, end, long);
        self.plaintext.resize(end, 0);
        let (sealed, plaintext) = (input.get(..body), self.plaintext.get_mut(start..));
        let (Some(sealed), Some(plaintext)) = (sealed, plaintext) else { return Err(OpenError::Failed) };
        segments.open_from(at, prefix.last, sealed, plaintext).map_err(wrong)?;
        input.advance(body);
        Ok(())
    }
}

/// A context, for longer than the buffer that it stands in.
#[inline]
fn kept(context: &[u8]) -> Bytes {
    if context.is_empty() { Bytes::new() } else { Bytes::copy_from_slice(context) }
}

/// Moves plaintext out of the input, into memory that is wiped when its last holder lets go.
#[cold]
fn apart(mut plaintext: BytesMut) -> Bytes {
    let payload = Zeroizing::new(plaintext.to_vec());
    plaintext.zeroize_all();
    Bytes::from_owner(payload)
}

/// Makes room for `needed` bytes, and for as many as are `expected`. Growing by itself would leave plaintext behind in the old place.
fn grow(plaintext: &mut BytesMut, needed: usize, expected: usize) {
    if plaintext.capacity() < needed {
        move_to(plaintext, needed.max(plaintext.capacity().saturating_mul(2)).max(expected));
    }
}

/// Moves it to where there is room for so many bytes.
fn move_to(plaintext: &mut BytesMut, capacity: usize) {
    let mut moved = BytesMut::with_capacity(capacity);
    moved.extend_from_slice(plaintext);
    plaintext.zeroize_all();
    *plaintext = moved;
}

/// Whether a message whose first segment this is can only be a notice of the end, which is not delivered and has no context to
/// expect: nothing in it, or nothing but the length that padding ends with.
fn is_notice(flags: Flags, first: SegmentPrefix) -> bool {
    let empty = if flags.padded() { 8 } else { 0 };
    flags.last() && !flags.batch() && first.last && first.ciphertext == empty
}

#[cfg(test)]
mod tests {
    /// A long message makes room for the next one, which takes no more of it along than it needs.
    #[test]
    fn room_is_made_once_and_not_kept() {
        use super::*;
        use crate::{ChannelSealer, Cmk, Keyring, Sealer};
        let cmk = Cmk::from_x25519(&[1; 32]);
        let mut sender = ChannelSealer::new(Sealer::builder().to(cmk.recipient().clone()).build().unwrap(), Role::Initiator, b"");
        let mut receiver = ChannelOpener::new(Opener::new(Keyring::from(cmk)), Role::Acceptor, b"");
        for (len, expected) in [(1 << 20, 0), (1 << 20, 1 << 20), (100_000, 1 << 20), (300_000, 100_000), (10, 300_000)] {
            let payload: Vec<u8> = (0..len).map(|i: usize| (i % 251) as u8).collect();
            let mut input = BytesMut::new();
            sender.seal(b"", &payload, &mut input).unwrap();
            assert_eq!(receiver.long, expected);
            let rest = input.split_off(input.len() - 5);
            assert!(receiver.next(&mut input).unwrap().is_none());
            if let Stage::Segments(partial) = &receiver.stage {
                assert!(partial.plaintext.is_empty() || partial.plaintext.capacity() >= expected);
            }
            input.unsplit(rest);
            let opened = receiver.next(&mut input).unwrap().unwrap();
            assert!(opened.payload == payload);
            // A short one is where it was read.
            if let Ok(payload) = opened.payload.try_into_mut() {
                assert!(len > 65_536 && payload.capacity() <= 2 * len, "{} for {len}", payload.capacity());
            } else {
                assert!(len < 65_536);
            }
        }
    }

    /// Proves CHN-4: after 2^64 − 1 no number is the next, and 0 is not.
    #[cfg(feature = "testing")]
    #[test]
    fn nothing_follows_the_last_number() {
        use super::*;
        use crate::{ChannelSealer, Cmk, Keyring, Sealer};
        let cmk = Cmk::from_x25519(&[1; 32]);
        let mut sender = ChannelSealer::new(Sealer::builder().to(cmk.recipient().clone()).build().unwrap(), Role::Initiator, b"");
        let mut receiver = ChannelOpener::new(Opener::new(Keyring::from(cmk)), Role::Acceptor, b"");
        let mut input = BytesMut::new();
        for (seq, opens) in [(0, true), (u64::MAX, true), (0, false)] {
            if seq > 0 {
                receiver.next_seq = Some(seq);
            }
            if receiver.delivered > 0 {
                sender.skip_to_seq(seq);
            }
            sender.seal(b"", b"x", &mut input).unwrap();
            assert_eq!(receiver.next(&mut input).is_ok(), opens);
        }
    }
}
