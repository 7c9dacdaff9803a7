//! Settings of a sealer, and the DEK block that they make.

use std::sync::Arc;

use super::{
    Reuse, SealError, Sealer,
    block::{Slot, finish_block},
};
use crate::{
    crypto::{
        Secret32, backend, is_built,
        kem::Ephemeral,
        proof::{Covers, Proof, Statement},
        schedule::Schedule,
    },
    keys::{DataKey, Dek, Recipient, SenderKey},
    platform::{Clock, Entropy, Process},
    wire::{
        DekBlock, Externals, HintMode, Kem, LimitExceeded, Limits, Options, PROOF_LEN, SEGMENT_LOG2_MAX, SEGMENT_LOG2_MIN,
        SlotLayout, Slots, Suite, len64,
    },
};

/// Settings of a [`Sealer`].
#[must_use]
pub struct SealerBuilder {
    pub(super) to: Vec<Recipient>,
    /// What was asked for; `None` where the recipients decide.
    pub(super) chosen: Option<Suite>,
    /// What is sealed under, once it is built.
    pub(crate) suite: Suite,
    pub(super) hints: HintMode,
    pub(super) enc_per_slot: bool,
    pub(super) reuse: Reuse,
    pub(crate) pad: bool,
    pub(crate) segment_log2: u8,
    pub(crate) limits: Limits,
    pub(crate) binding: Vec<u8>,
    /// The next DEK, where it is not made here.
    pub(super) given: Option<DataKey>,
    /// Whether DEKs come from a KMS, so that the next is not made here either.
    pub(super) through_kms: bool,
    pub(super) signer: Option<Arc<SenderKey>>,
    pub(crate) signs_messages: bool,
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

    /// KEM, KDF and AEAD; where nothing is said, ChaCha20-Poly1305 and the recipients' KEM: suite 1, or 3 for post-quantum recipients.
    ///
    /// The AEAD of choice for whoever the recipients are is `Suite::fastest().with_kem(recipient.kem())`.
    pub fn suite(mut self, suite: Suite) -> Self {
        self.chosen = Some(suite);
        self
    }

    /// How slots tell their receivers; rotating where nothing is said.
    pub fn hints(mut self, hints: HintMode) -> Self {
        self.hints = hints;
        self
    }

    /// Gives every slot an ephemeral key of its own, 32 bytes and a key generation more for each. Those of post-quantum recipients have
    /// one in any case.
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

    /// Signs every DEK: one signature a block, none a message (spec 6.5). For messages to a single recipient, and for channels:
    /// where there are several, any of them can write under the DEK too ([`Sender`](crate::Sender)).
    pub fn sign_with(mut self, key: impl Into<Arc<SenderKey>>) -> Self {
        (self.signer, self.signs_messages) = (Some(key.into()), false);
        self
    }

    /// Signs every message, for any number of recipients. Each takes a DEK and a signature of its own. Not on channels.
    pub fn sign_messages_with(mut self, key: impl Into<Arc<SenderKey>>) -> Self {
        (self.signer, self.signs_messages) = (Some(key.into()), true);
        self
    }

    /// The first DEK, made elsewhere. When its reuse ends, the next is from the system's generator. To be signed it must be
    /// [`mine_alone`](Dek::mine_alone).
    pub fn dek(self, dek: Dek) -> Self {
        self.data_key(dek.into())
    }

    /// The first DEK, from a KMS: its ciphertext travels along as an external, beside the recipients or alone. Each block under it has a
    /// salt of its own, and so other payload keys. When its reuse ends, sealing is refused until there is another
    /// ([`Sealer::renew_with`]). To be signed it must be [`mine_alone`](DataKey::mine_alone).
    pub fn data_key(mut self, data_key: DataKey) -> Self {
        (self.through_kms, self.given) = (data_key.count > 0, Some(data_key));
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
    pub fn build(mut self) -> Result<Sealer, SealError> {
        self.suite = self.suite_for_all()?;
        self.enc_per_slot &= self.suite.kem() == Kem::X25519;
        self.check()?;
        // [SEG-11]
        self.limits.message = self.limits.message.min(self.suite.longest_message());
        Ok(Sealer { process: Process::current(), settings: self, epoch: None, aad: Vec::new() })
    }

    /// The suite that was chosen, or the one of the recipients; one KEM for all of them. [WRAP-9]
    fn suite_for_all(&self) -> Result<Suite, SealError> {
        let Some(kem) = self.to.first().map(Recipient::kem) else {
            return if self.through_kms { Ok(self.chosen.unwrap_or(self.suite)) } else { Err(SealError::NoRecipient) };
        };
        if self.to.iter().any(|recipient| recipient.kem() != kem) {
            return Err(SealError::MixedRecipients);
        }
        match self.chosen {
            None => Ok(self.suite.with_kem(kem)),
            Some(suite) if is_built(suite) && suite.kem() != kem => Err(SealError::KemOfSuite { suite, kem }),
            Some(suite) => Ok(suite),
        }
    }

    fn check(&self) -> Result<(), SealError> {
        if !is_built(self.suite) {
            return Err(SealError::UnsupportedSuite(self.suite.number()));
        }
        if !(SEGMENT_LOG2_MIN..=SEGMENT_LOG2_MAX).contains(&self.segment_log2) {
            return Err(SealError::SegmentSize(self.segment_log2));
        }
        // [LIM-4]
        LimitExceeded::check("recipients", len64(self.to.len()), self.limits.recipients.min(u16::MAX.into()))?;
        self.check_hints()?;
        self.given.as_ref().map_or(Ok(()), |given| self.check_data_key(given))?;
        // [WRAP-3]
        let mut seen = std::collections::HashSet::new();
        match self.to.iter().find(|r| !seen.insert(r.fingerprint())) {
            Some(twice) => Err(SealError::RecipientTwice(twice.clone())),
            None => Ok(()),
        }
    }

    /// Whether a DEK that is given may be taken up.
    pub(super) fn check_data_key(&self, DataKey { dek, count, .. }: &DataKey) -> Result<(), SealError> {
        if self.to.is_empty() && *count == 0 {
            return Err(SealError::NoRecipient);
        }
        // [LIM-4]
        LimitExceeded::check("externals", (*count).into(), self.limits.externals)?;
        // [PRF-5]
        if self.signer.is_some() && !self.signs_messages && !dek.mine_alone {
            return Err(SealError::SharedDekSigned);
        }
        Ok(())
    }

    /// Without hints a receiver tries every enc, and readers limit trials.
    fn check_hints(&self) -> Result<(), LimitExceeded> {
        let shared = !self.enc_per_slot && self.suite.kem() == Kem::X25519;
        let encs = if shared { 1 } else { self.to.len() };
        // [HINT-1]
        if self.hints == HintMode::None { LimitExceeded::check("trials", len64(encs), self.limits.trials) } else { Ok(()) }
    }
}

/// A DEK block, and what is missing in it until its message is sealed.
pub(super) struct Block {
    pub(super) bytes: Vec<u8>,
    pub(super) unsigned: Option<Unsigned>,
}

/// A block whose proof covers a message that is not there yet: proof and header_mac are zero.
pub(crate) struct Unsigned {
    signer: Arc<SenderKey>,
    statement: Statement,
}

impl Unsigned {
    /// Signs the message, whose head, segments and binding these are, and completes its block.
    pub(super) fn sign(&self, schedule: &Schedule, block: &mut [u8], message: [&[u8]; 2]) -> Result<(), SealError> {
        self.sign_hash(schedule, block, &backend::sha256(&message))
    }

    /// The same by the hash of head, segments and binding.
    pub(crate) fn sign_hash(&self, schedule: &Schedule, block: &mut [u8], message: &[u8; 32]) -> Result<(), SealError> {
        sign(&self.signer, &self.statement, schedule, block, Covers::Message(message))
    }
}

fn sign(
    signer: &SenderKey,
    statement: &Statement,
    schedule: &Schedule,
    block: &mut [u8],
    covers: Covers<'_>,
) -> Result<(), SealError> {
    let signature = statement.sign(schedule, signer.secret(), covers)?;
    let proof = Proof { key: *signer.verifying_key().as_bytes(), original: statement.original, signature };
    Ok(finish_block(schedule, block, Some(&proof))?)
}

impl SealerBuilder {
    /// The block of a DEK: slots, proof, header_mac.
    pub(super) fn encode_block(
        &mut self,
        DataKey { dek, externals, count }: &DataKey,
        salt: &[u8; 16],
        schedule: &Schedule,
        covers: Covers<'_>,
    ) -> Result<Block, SealError> {
        // [BLK-10]
        let has_slots = !self.to.is_empty();
        let options = Options {
            hints: if has_slots { self.hints } else { HintMode::None },
            enc_per_slot: self.enc_per_slot && has_slots,
            sender_proof: self.signer.is_some(),
            proof_covers_message: self.signs_messages,
        };
        let layout = SlotLayout::of(self.suite, options);
        let (enc, slots) = self.wrap_to_all(&dek.secret, salt, layout)?;
        let created_at = self.clock.unix_seconds();
        let block = DekBlock {
            suite: self.suite,
            options,
            created_at,
            salt,
            enc: enc.as_ref(),
            slots: Slots::new(&slots, layout),
            externals: Externals::new(externals, *count),
            sender_proof: self.signer.is_some().then_some(&[0; PROOF_LEN]),
            header_mac: &[0; 32],
        };
        block.check_limits(&self.limits)?;
        let mut bytes = Vec::with_capacity(block.encoded_len());
        block.encode(&mut bytes);
        let Some(signer) = &self.signer else {
            finish_block(schedule, &mut bytes, None)?;
            return Ok(Block { bytes, unsigned: None });
        };
        let original = DekBlock::recipients(&bytes).map(|recipients| backend::sha256(&recipients)).unwrap_or_default();
        let statement = Statement { suite: self.suite, created_at, salt: *salt, original };
        if self.signs_messages {
            return Ok(Block { bytes, unsigned: Some(Unsigned { signer: signer.clone(), statement }) });
        }
        sign(signer, &statement, schedule, &mut bytes, covers)?;
        Ok(Block { bytes, unsigned: None })
    }

    /// One slot a recipient. A shared enc is made once and its secret half ends here. [WRAP-5]
    fn wrap_to_all(
        &mut self,
        dek: &Secret32,
        salt: &[u8; 16],
        layout: SlotLayout,
    ) -> Result<(Option<[u8; 32]>, Vec<u8>), SealError> {
        let mut slots = Vec::with_capacity(self.to.len() * layout.slot_len());
        let slot = Slot { suite: self.suite, hints: self.hints, salt, dek };
        if layout == SlotLayout::SharedEnc && !self.to.is_empty() {
            let shared = Ephemeral::new(&self.entropy.secret()?)?;
            self.to.iter().try_for_each(|recipient| slot.put_shared(recipient, &shared, &mut slots))?;
            return Ok((Some(shared.enc), slots));
        }
        for recipient in &self.to {
            slot.put(recipient, &mut self.entropy, &mut slots)?;
        }
        Ok((None, slots))
    }
}
