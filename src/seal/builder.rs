//! Settings of a sealer, and the DEK block that they make.

use bytes::BufMut;

use super::{Reuse, SealError, Sealer};
use crate::{
    crypto::{Refused, Secret32, hpke, is_built, kem::Ephemeral, schedule::Schedule},
    keys::{Dek, Recipient},
    platform::{Clock, Entropy, Process},
    wire::{
        DekBlock, Externals, HintMode, LimitExceeded, Limits, Options, SEGMENT_LOG2_MAX, SEGMENT_LOG2_MIN, SlotLayout, Slots,
        Suite, len64,
    },
};

/// Settings of a [`Sealer`].
#[must_use]
pub struct SealerBuilder {
    pub(super) to: Vec<Recipient>,
    pub(super) suite: Suite,
    pub(super) hints: HintMode,
    pub(super) enc_per_slot: bool,
    pub(super) reuse: Reuse,
    pub(crate) pad: bool,
    pub(crate) segment_log2: u8,
    pub(crate) limits: Limits,
    pub(super) binding: Vec<u8>,
    pub(super) dek: Option<Dek>,
    pub(super) entropy: Entropy,
    pub(super) clock: Clock,
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
        if !is_built(self.suite) {
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

impl SealerBuilder {
    pub(super) fn encode_block(&mut self, dek: &Secret32, salt: &[u8; 16], schedule: &Schedule) -> Result<Vec<u8>, SealError> {
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
