//! Payload -> envelope (spec 2, 6, 10). Sans-I/O; holds the DEK that it reuses, and counts `seq`.

use std::time::Duration;

use bytes::{BufMut, BytesMut};

use crate::{
    crypto::{Refused, Secret32, hpke, kem::Ephemeral, schedule::Schedule},
    keys::{Dek, Recipient},
    payload::{Plaintext, Segments, ZeroizeAll},
    platform::{Clock, Entropy, EntropyError, Moment, Process},
    wire::{
        Aead, DekBlock, Externals, Flags, FollowUpHead, HintMode, Kem, LimitExceeded, Limits, MessageHead, Options,
        SEGMENT_LOG2_MAX, SEGMENT_LOG2_MIN, SegmentPlan, SlotLayout, Slots, Suite, check_context, len64,
    },
};

/// Why something could not be sealed: the fault of our caller, or of the machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// Nobody to seal to.
    #[error("there is no recipient to seal to")]
    NoRecipient,
    /// The same public key twice.
    #[error("recipient {0} is given twice")]
    RecipientTwice(Recipient),
    /// A suite, or a KEM, that this build does not have.
    #[error("this build cannot seal under suite {0}")]
    UnsupportedSuite(u8),
    /// A segment size outside 2^12 to 2^24.
    #[error("the segment size 2^{0} is not from 2^12 to 2^24")]
    SegmentSize(u8),
    /// What a reader would refuse as too large.
    #[error(transparent)]
    LimitExceeded(#[from] LimitExceeded),
    /// All 2^64 sequence numbers are used up.
    #[error("all sequence numbers are used up; begin another channel")]
    SequenceExhausted,
    /// This process is a fork of the one that took up the DEK; its messages would repeat nonces.
    #[error("the process has forked since the sealer was made; make a new sealer in the child")]
    Forked,
    /// A channel that has sent its last message.
    #[error("the channel is closed: its last message is sent")]
    Closed,
    /// A channel that failed before.
    #[error("the channel failed before and is over")]
    Failed,
    /// The machine has no randomness.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
    /// A primitive refused its input.
    #[error("a primitive refused its input; nothing was sealed")]
    Primitive,
}

impl From<Refused> for SealError {
    fn from(_: Refused) -> Self {
        Self::Primitive
    }
}

/// How long a DEK is reused: until the first of the three (spec 10.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reuse {
    /// Messages under one DEK.
    pub messages: u64,
    /// Bytes of plaintext under one DEK.
    pub bytes: u64,
    /// Time since the DEK was made.
    pub age: Duration,
}

impl Default for Reuse {
    fn default() -> Self {
        Self { messages: 1 << 20, bytes: 64 << 30, age: Duration::from_secs(3600) }
    }
}

impl Reuse {
    /// A fresh DEK for every message.
    pub const NEVER: Self = Self { messages: 1, bytes: u64::MAX, age: Duration::MAX };
}

/// Seals one payload, with a DEK of its own, to `to`.
///
/// # Errors
/// [`SealError`].
///
/// ```
/// use sealwire::{Cmk, Keyring, open, seal};
/// let cmk = Cmk::generate()?;
/// let envelope = seal(b"attack at dawn", &[cmk.recipient().clone()])?;
/// assert_eq!(envelope.len(), 14 + 185);
/// let opened = open(&envelope, &Keyring::from(cmk))?;
/// assert_eq!(&opened.payload[..], b"attack at dawn");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn seal(payload: &[u8], to: &[Recipient]) -> Result<Vec<u8>, SealError> {
    Sealer::builder().to_all(to.iter().cloned()).build()?.seal(b"", payload)
}

/// Settings of a [`Sealer`].
#[must_use]
pub struct SealerBuilder {
    to: Vec<Recipient>,
    suite: Suite,
    hints: HintMode,
    enc_per_slot: bool,
    reuse: Reuse,
    pub(crate) pad: bool,
    pub(crate) segment_log2: u8,
    pub(crate) limits: Limits,
    binding: Vec<u8>,
    dek: Option<Dek>,
    entropy: Entropy,
    clock: Clock,
}

impl SealerBuilder {
    /// Adds a recipient.
    pub fn to(mut self, recipient: Recipient) -> Self {
        self.to.push(recipient);
        self
    }

    /// Adds recipients.
    pub fn to_all(mut self, recipients: impl IntoIterator<Item = Recipient>) -> Self {
        self.to.extend(recipients);
        self
    }

    /// KEM, KDF and AEAD; suite 1 where nothing is said.
    pub fn suite(mut self, suite: Suite) -> Self {
        self.suite = suite;
        self
    }

    /// How slots tell their receivers; rotating where nothing is said.
    pub fn hints(mut self, hints: HintMode) -> Self {
        self.hints = hints;
        self
    }

    /// Gives every slot an ephemeral key of its own, 32 bytes and a key generation more for each.
    pub fn enc_per_slot(mut self, yes: bool) -> Self {
        self.enc_per_slot = yes;
        self
    }

    /// How long a DEK is reused.
    pub fn reuse(mut self, reuse: Reuse) -> Self {
        self.reuse = reuse;
        self
    }

    /// Pads payloads to Padmé lengths (spec 8): at most 12 % more, and the length tells little.
    pub fn pad(mut self, yes: bool) -> Self {
        self.pad = yes;
        self
    }

    /// Plaintext bytes of a segment as a power of two, 12 to 24; 16 (64 KiB) where nothing is said.
    pub fn segment_log2(mut self, log2: u8) -> Self {
        self.segment_log2 = log2;
        self
    }

    /// What readers are known to accept.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Authenticated bytes that both sides know and that are not sent.
    pub fn binding(mut self, binding: impl Into<Vec<u8>>) -> Self {
        self.binding = binding.into();
        self
    }

    /// The first DEK, made elsewhere. When its reuse ends, the next is from the system's generator.
    pub fn dek(mut self, dek: Dek) -> Self {
        self.dek = Some(dek);
        self
    }

    #[cfg(feature = "testing")]
    pub(crate) fn entropy(mut self, entropy: Entropy) -> Self {
        self.entropy = entropy;
        self
    }

    #[cfg(feature = "testing")]
    pub(crate) fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// The sealer.
    ///
    /// # Errors
    /// [`SealError`] for settings that no message could be sealed with.
    pub fn build(self) -> Result<Sealer, SealError> {
        self.check()?;
        Ok(Sealer { process: Process::current(), settings: self, epoch: None, aad: Vec::new() })
    }

    fn check(&self) -> Result<(), SealError> {
        if self.to.is_empty() {
            return Err(SealError::NoRecipient);
        }
        if (self.suite.kem(), self.suite.aead()) != (Kem::X25519, Aead::ChaCha20Poly1305) {
            return Err(SealError::UnsupportedSuite(self.suite.number()));
        }
        if !(SEGMENT_LOG2_MIN..=SEGMENT_LOG2_MAX).contains(&self.segment_log2) {
            return Err(SealError::SegmentSize(self.segment_log2));
        }
        // [LIM-4]
        LimitExceeded::check("recipients", len64(self.to.len()), self.limits.recipients.min(u16::MAX.into()))?;
        self.check_hints()?;
        // [WRAP-3]
        let mut seen = std::collections::HashSet::new();
        match self.to.iter().find(|r| !seen.insert(r.fingerprint())) {
            Some(twice) => Err(SealError::RecipientTwice(twice.clone())),
            None => Ok(()),
        }
    }

    /// Without hints a receiver tries every enc, and readers limit trials.
    fn check_hints(&self) -> Result<(), LimitExceeded> {
        let encs = if self.enc_per_slot { self.to.len() } else { 1 };
        // [HINT-1]
        if self.hints == HintMode::None { LimitExceeded::check("trials", len64(encs), self.limits.trials) } else { Ok(()) }
    }
}

/// Seals payloads to fixed recipients and reuses a DEK for a period (spec 10.1).
///
/// It can be sent to another thread, and neither cloned nor stored: `seq` lives beside the DEK and nowhere else.
///
/// ```
/// use sealwire::{Cmk, Reuse, Sealer};
/// let cmk = Cmk::generate()?;
/// let mut sealer = Sealer::builder().to(cmk.recipient().clone()).reuse(Reuse::default()).build()?;
/// let first = sealer.seal(b"", b"one")?;
/// let second = sealer.seal(b"", b"two")?;
/// assert_eq!(first[..153], second[..153], "one DEK block for both");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Sealer {
    pub(crate) settings: SealerBuilder,
    process: Process,
    epoch: Option<Epoch>,
    aad: Vec<u8>,
}

impl Sealer {
    /// Begins with the default settings.
    pub fn builder() -> SealerBuilder {
        SealerBuilder {
            to: Vec::new(),
            suite: Suite::X25519ChaCha20Poly1305,
            hints: HintMode::default(),
            enc_per_slot: false,
            reuse: Reuse::default(),
            pad: false,
            segment_log2: 16,
            limits: Limits::default(),
            binding: Vec::new(),
            dek: None,
            entropy: Entropy::default(),
            clock: Clock::default(),
        }
    }

    /// Seals `payload` as an envelope of its own.
    ///
    /// # Errors
    /// [`SealError`]; nothing leaves.
    pub fn seal(&mut self, context: &[u8], payload: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut out = BytesMut::new();
        self.seal_into(context, payload, &mut out)?;
        Ok(out.into())
    }

    /// Appends `payload`, sealed as an envelope, to `out`.
    ///
    /// # Errors
    /// [`SealError`]; `out` is then as it was.
    pub fn seal_into(&mut self, context: &[u8], payload: &[u8], out: &mut BytesMut) -> Result<(), SealError> {
        let plaintext = Plaintext::new(payload, self.settings.pad, &self.settings.limits)?;
        let flags = Flags { padded: plaintext.is_padded(), ..Flags::default() };
        let mut epoch = self.usable_epoch(context, plaintext.len())?;
        let message = Message { lead: Lead::Envelope, flags, context, chain: None, binding: &self.settings.binding };
        let sealed = epoch.seal(&message, plaintext, self.settings.segment_log2, &mut self.aad, out);
        self.epoch = Some(epoch);
        sealed
    }

    /// Seals the payload that `buffer` holds; afterwards it holds the envelope.
    ///
    /// # Errors
    /// [`SealError`]. Where the payload was refused before it was touched, `buffer` is as it was; otherwise it is
    /// wiped and empty.
    pub fn seal_in_place(&mut self, context: &[u8], buffer: &mut BytesMut) -> Result<(), SealError> {
        let plaintext = Plaintext::new(buffer, self.settings.pad, &self.settings.limits)?;
        let (len, payload, padded) = (plaintext.len(), buffer.len(), plaintext.is_padded());
        let flags = Flags { padded, ..Flags::default() };
        let mut epoch = self.usable_epoch(context, len)?;
        if padded {
            buffer.resize(len.saturating_sub(8), 0);
            buffer.put_u64(len64(payload));
        }
        let message = Message { lead: Lead::Envelope, flags, context, chain: None, binding: &self.settings.binding };
        let sealed = epoch.seal_in_place(&message, self.settings.segment_log2, &mut self.aad, buffer);
        self.epoch = Some(epoch);
        if sealed.is_err() {
            buffer.zeroize_all();
        }
        sealed
    }

    /// The DEK in use where it may seal `len` bytes more, otherwise a fresh one. Checks what costs no `seq` first.
    fn usable_epoch(&mut self, context: &[u8], len: usize) -> Result<Epoch, SealError> {
        self.check_process()?;
        // [LIM-4]
        check_context(context, &self.settings.limits)?;
        match self.epoch.take().filter(|epoch| !self.is_spent(epoch, len)) {
            Some(epoch) => Ok(epoch),
            None => self.fresh_epoch(0),
        }
    }

    pub(crate) fn check_process(&self) -> Result<(), SealError> {
        // [KEY-5]
        if self.process == Process::current() { Ok(()) } else { Err(SealError::Forked) }
    }

    /// The same settings, and no DEK in use.
    pub(crate) fn without_epoch(mut self) -> Self {
        self.epoch = None;
        self
    }

    /// Whether a DEK has been used as often, as much or as long as it may be.
    pub(crate) fn is_spent(&self, epoch: &Epoch, len: usize) -> bool {
        let Reuse { messages, bytes, age } = self.settings.reuse;
        // [USE-1]
        epoch.messages > 0
            && (epoch.messages >= messages
                || epoch.bytes.saturating_add(len64(len)) > bytes
                || epoch.next_seq.is_none()
                || self.settings.clock.since(epoch.since) >= age)
    }

    /// Takes up a DEK: a new salt, a block, and `seq` from `first_seq` on.
    pub(crate) fn fresh_epoch(&mut self, first_seq: u64) -> Result<Epoch, SealError> {
        let settings = &mut self.settings;
        let dek = match settings.dek.take() {
            Some(dek) => dek,
            None => Dek::generate_from(&mut settings.entropy)?,
        };
        // [KEY-6]
        let salt = settings.entropy.array()?;
        let schedule = Schedule::new(settings.suite, &salt, &dek.0)?;
        let block = settings.encode_block(&dek.0, &salt, &schedule)?;
        let since = settings.clock.now();
        Ok(Epoch { block, schedule, since, messages: 0, bytes: 0, next_seq: Some(first_seq) })
    }
}

impl SealerBuilder {
    fn encode_block(&mut self, dek: &Secret32, salt: &[u8; 16], schedule: &Schedule) -> Result<Vec<u8>, SealError> {
        let options = Options { hints: self.hints, enc_per_slot: self.enc_per_slot, ..Options::default() };
        let layout = SlotLayout::of(self.suite, options);
        let (enc, slots) = self.wrap_to_all(dek, salt, layout)?;
        let mut block = DekBlock {
            suite: self.suite,
            options,
            created_at: self.clock.unix_seconds(),
            salt,
            enc: enc.as_ref(),
            slots: Slots::new(&slots, layout),
            externals: Externals::new(&[], 0),
            sender_proof: None,
            header_mac: &[0; 32],
        };
        block.check_limits(&self.limits)?;
        let mut out = Vec::with_capacity(block.encoded_len());
        block.encode_unauthenticated(&mut out);
        let mac = schedule.header_mac(&out)?;
        block.header_mac = &mac;
        out.put_slice(block.header_mac);
        Ok(out)
    }

    /// One slot a recipient. A shared enc is made once and its secret half ends here. [WRAP-5]
    fn wrap_to_all(
        &mut self,
        dek: &Secret32,
        salt: &[u8; 16],
        layout: SlotLayout,
    ) -> Result<(Option<[u8; 32]>, Vec<u8>), SealError> {
        let mut slots = Vec::with_capacity(self.to.len() * layout.slot_len());
        let shared = match layout {
            SlotLayout::SharedEnc => Some(Ephemeral::new(self.entropy.secret()?)),
            _ => None,
        };
        for recipient in &self.to {
            let own = if shared.is_none() { Some(Ephemeral::new(self.entropy.secret()?)) } else { None };
            let ephemeral = shared.as_ref().or(own.as_ref()).ok_or(Refused)?;
            slots.put_slice(&self.hint(recipient, salt));
            if own.is_some() {
                slots.put_slice(&ephemeral.enc);
            }
            let secret = recipient.encapsulate(ephemeral)?;
            slots.put_slice(&hpke::wrap(self.suite, &secret, dek)?);
        }
        Ok((shared.map(|ephemeral| ephemeral.enc), slots))
    }

    fn hint(&self, recipient: &Recipient, salt: &[u8; 16]) -> [u8; 4] {
        match self.hints {
            HintMode::None => [0; 4],
            HintMode::Rotating => recipient.fingerprint().rotating_hint(salt),
            HintMode::Static => recipient.fingerprint().static_hint(),
        }
    }
}

/// How a message begins.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lead {
    Envelope,
    FollowUp,
}

/// What a message says about itself, apart from its bytes.
pub(crate) struct Message<'a> {
    pub(crate) lead: Lead,
    pub(crate) flags: Flags,
    pub(crate) context: &'a [u8],
    pub(crate) chain: Option<&'a Secret32>,
    pub(crate) binding: &'a [u8],
}

/// One DEK in use: its block, its keys, and what has been sealed under it.
pub(crate) struct Epoch {
    block: Vec<u8>,
    pub(crate) schedule: Schedule,
    since: Moment,
    messages: u64,
    bytes: u64,
    pub(crate) next_seq: Option<u64>,
}

impl Epoch {
    /// The header_mac of the block.
    pub(crate) fn header_mac(&self) -> Option<[u8; 32]> {
        self.block.last_chunk().copied()
    }

    /// Appends a message. `seq` is consumed before the first byte is encrypted, also where that then fails.
    pub(crate) fn seal(
        &mut self,
        message: &Message<'_>,
        plaintext: Plaintext<'_>,
        segment_log2: u8,
        aad: &mut Vec<u8>,
        out: &mut BytesMut,
    ) -> Result<(), SealError> {
        let plan = SegmentPlan::new(plaintext.len(), segment_log2)?;
        let seq = self.consume_seq(plaintext.len())?;
        let head = MessageHead { seq, segment_log2, flags: message.flags, context: message.context };
        build_aad(aad, &head, message.chain, message.binding);
        let start = out.len();
        out.reserve(self.front_len(message, &head) + plan.sealed_len());
        self.put_front(message, &head, out);
        let segments = Segments { schedule: &self.schedule, seq, aad };
        segments.seal(plaintext, plan, out).inspect_err(|_| out.truncate(start))?;
        Ok(())
    }

    fn seal_in_place(
        &mut self,
        message: &Message<'_>,
        segment_log2: u8,
        aad: &mut Vec<u8>,
        buffer: &mut BytesMut,
    ) -> Result<(), SealError> {
        let plan = SegmentPlan::new(buffer.len(), segment_log2)?;
        let seq = self.consume_seq(buffer.len())?;
        let head = MessageHead { seq, segment_log2, flags: message.flags, context: message.context };
        build_aad(aad, &head, message.chain, message.binding);
        let front = self.front_len(message, &head);
        let segments = Segments { schedule: &self.schedule, seq, aad };
        segments.seal_in_place(plan, front, buffer)?;
        self.put_front(message, &head, &mut &mut buffer[..front]);
        Ok(())
    }

    fn consume_seq(&mut self, len: usize) -> Result<u64, SealError> {
        // [KEY-3] [KEY-4]
        let seq = self.next_seq.ok_or(SealError::SequenceExhausted)?;
        self.next_seq = seq.checked_add(1);
        self.messages = self.messages.saturating_add(1);
        self.bytes = self.bytes.saturating_add(len64(len));
        Ok(seq)
    }

    fn front_len(&self, message: &Message<'_>, head: &MessageHead<'_>) -> usize {
        match message.lead {
            Lead::Envelope => self.block.len() + head.encoded_len(),
            Lead::FollowUp => FollowUpHead { flags: head.flags, context: head.context }.encoded_len(),
        }
    }

    fn put_front(&self, message: &Message<'_>, head: &MessageHead<'_>, out: &mut impl BufMut) {
        match message.lead {
            Lead::Envelope => {
                out.put_slice(&self.block);
                head.encode(out);
            }
            Lead::FollowUp => FollowUpHead { flags: head.flags, context: head.context }.encode(out),
        }
    }
}

/// The AAD of segment 0 (spec 5.4), in one form for envelopes and follow-ups:
/// `seq ‖ segment_log2 ‖ flags ‖ context_len ‖ context ‖ chain if renewal ‖ binding`.
pub(crate) fn build_aad(aad: &mut Vec<u8>, head: &MessageHead<'_>, chain: Option<&Secret32>, binding: &[u8]) {
    aad.clear();
    head.encode(aad);
    if let Some(chain) = chain {
        aad.extend(chain.bytes());
    }
    aad.extend(binding);
}
