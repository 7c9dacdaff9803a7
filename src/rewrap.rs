//! DEK block -> DEK block for other recipients (spec 10.5), without the data. No I/O.

use crate::{
    crypto::{Refused, backend::sha256, check_built, proof::Proof},
    keys::{Dek, Keyring, Recipient},
    open::{
        OpenError,
        search::{Found, find, verify},
    },
    platform::Entropy,
    seal::{
        SealError,
        block::{Slot, finish_block, hint},
    },
    wire::{DekBlock, Externals, HintMode, Kem, LimitExceeded, Limits, Options, SlotLayout, Slots, len64},
};

/// Changes who can read an envelope: its DEK block is written anew, and the rest of it is copied.
///
/// # Errors
/// [`RewrapError`].
///
/// ```
/// use sealwire::{Cmk, Keyring, Rewrap, open, rewrap, seal};
/// let (alice, bob) = (Cmk::generate()?, Cmk::generate()?);
/// let envelope = seal(b"minutes", &[alice.recipient().clone()])?;
/// let with = Keyring::from(alice);
/// let for_both = rewrap(&envelope, &with, &Rewrap::new().to(bob.recipient().clone()))?;
/// assert_eq!(&open(&for_both, &Keyring::from(bob))?.payload[..], b"minutes");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn rewrap(envelope: &[u8], with: &Keyring, change: &Rewrap) -> Result<Vec<u8>, RewrapError> {
    let (raw, _) = DekBlock::parse(envelope, &change.limits).map_err(OpenError::from)?;
    let mut out = change.block(raw, with)?;
    out.extend_from_slice(envelope.get(raw.len()..).unwrap_or_default());
    Ok(out)
}

/// A change of recipients.
///
/// It does not take from those who are removed what they have read, nor the DEK: the old block still opens the message for
/// them, and put back in front of it undoes the removal. To shut somebody out of what is to come, seal anew.
///
/// A sender proof survives. One that covers the message stays *signed*, and says that it was rewrapped; under one that does
/// not, whoever has ever held the DEK could have written ([`Sender`](crate::Sender)), and so readers are added to it
/// only when [`weaken_proof`](Self::weaken_proof) says so.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct Rewrap {
    add: Vec<Recipient>,
    remove: Vec<Recipient>,
    replace_all: bool,
    weaken_proof: bool,
    limits: Limits,
}

impl Rewrap {
    /// No change yet: it would write a block with the same recipients.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a recipient. He is of the KEM that the block's suite has, which stays.
    pub fn to(mut self, recipient: Recipient) -> Self {
        self.add.push(recipient);
        self
    }

    /// Removes a recipient, who is found by the hint of his slot. What a hint says is the sender's word.
    pub fn without(mut self, recipient: Recipient) -> Self {
        self.remove.push(recipient);
        self
    }

    /// Removes all recipients that are there, externals too; those that are added take their place.
    pub fn replace_all(mut self) -> Self {
        self.replace_all = true;
        self
    }

    /// Adds readers also where the sender proof does not cover the message: any of them can then write messages that look
    /// as if the sender had started them.
    pub fn weaken_proof(mut self) -> Self {
        self.weaken_proof = true;
        self
    }

    /// What is read, and what readers are known to accept.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Writes a DEK block anew; `raw` is the block and nothing else, such as a header that is kept apart from its data.
    ///
    /// # Errors
    /// [`RewrapError`].
    pub fn block(&self, raw: &[u8], with: &Keyring) -> Result<Vec<u8>, RewrapError> {
        let block = self.parse(raw)?;
        let (dek, found) = find(raw, &block, with, self.limits.trials, &mut 0)?;
        self.write(raw, &block, &dek, &found)
    }

    /// The same with a DEK from elsewhere; header_mac decides whether it is the block's.
    ///
    /// # Errors
    /// [`RewrapError`].
    pub fn block_with_dek(&self, raw: &[u8], dek: &Dek) -> Result<Vec<u8>, RewrapError> {
        let block = self.parse(raw)?;
        let found = verify(raw, &block, dek, None).ok_or(OpenError::HeaderMac)?;
        self.write(raw, &block, dek, &found)
    }

    fn parse<'a>(&self, raw: &'a [u8]) -> Result<DekBlock<'a>, RewrapError> {
        let block = DekBlock::parse_alone(raw, &self.limits).map_err(OpenError::from)?;
        check_built(block.suite).map_err(OpenError::from)?;
        self.check(&block)?;
        Ok(block)
    }

    /// What can be refused before a key is used.
    fn check(&self, block: &DekBlock<'_>) -> Result<(), RewrapError> {
        let Options { hints, sender_proof, proof_covers_message, .. } = block.options;
        // [RWP-3]
        if sender_proof && !proof_covers_message && !self.add.is_empty() && !self.weaken_proof {
            return Err(RewrapError::WeakensProof);
        }
        // [WRAP-9]
        let kem = block.suite.kem();
        if let Some(other) = self.add.iter().find(|recipient| recipient.kem() != kem) {
            return Err(RewrapError::OtherKem { block: kem, recipient: other.clone() });
        }
        // [WRAP-3]
        let mut seen = std::collections::HashSet::new();
        if let Some(twice) = self.add.iter().find(|recipient| !seen.insert(recipient.fingerprint())) {
            return Err(SealError::RecipientTwice(twice.clone()).into());
        }
        if self.replace_all {
            return Ok(());
        }
        // [RWP-4]
        if hints == HintMode::None && !self.remove.is_empty() {
            return Err(RewrapError::NoHints);
        }
        for recipient in &self.remove {
            match carriers(block, recipient) {
                0 => return Err(RewrapError::NotThere(recipient.clone())),
                1 => {}
                _ => return Err(RewrapError::Ambiguous(recipient.clone())),
            }
        }
        let stays = |recipient: &&Recipient| {
            hints != HintMode::None && carriers(block, recipient) > 0 && !self.remove.contains(recipient)
        };
        match self.add.iter().find(stays) {
            Some(there) => Err(SealError::RecipientTwice(there.clone()).into()),
            None => Ok(()),
        }
    }

    /// The block with other recipients: suite, created_at, salt and what the proof says stay. [RWP-1]
    fn write(&self, raw: &[u8], block: &DekBlock<'_>, dek: &Dek, found: &Found) -> Result<Vec<u8>, RewrapError> {
        let proof = match block.sender_proof {
            Some(masked) => {
                let recipients = DekBlock::recipients(raw).ok_or(Refused)?;
                Some(Proof::unmask(&found.schedule, &sha256(&recipients), masked)?)
            }
            None => None,
        };
        let kept = |slot: &crate::wire::Slot<'_>| {
            let removed = |recipient: &Recipient| hint(block.options.hints, block.salt, recipient) == slot.hint;
            !self.replace_all && !self.remove.iter().any(removed)
        };
        let count = block.slots.iter().filter(kept).count().saturating_add(self.add.len());
        let externals = if self.replace_all { Externals::new(&[], 0) } else { block.externals };
        if count == 0 && externals.is_empty() {
            return Err(SealError::NoRecipient.into());
        }
        let options = Options {
            hints: match (count, block.slots.is_empty()) {
                (0, _) => HintMode::None,
                (_, true) => HintMode::default(),
                (_, false) => block.options.hints,
            },
            // [RWP-2]
            enc_per_slot: block.suite.kem() == Kem::X25519 && count > 0 && (block.options.enc_per_slot || !self.add.is_empty()),
            ..block.options
        };
        let layout = SlotLayout::of(block.suite, options);
        let mut slots = Vec::with_capacity(count.saturating_mul(layout.slot_len()));
        for slot in block.slots.iter().filter(kept) {
            slots.extend_from_slice(&slot.hint);
            if layout != SlotLayout::SharedEnc {
                slots.extend_from_slice(block.enc.map_or(slot.enc, |shared| &shared[..]));
            }
            slots.extend_from_slice(slot.wrapped_dek);
        }
        let new = Slot { suite: block.suite, hints: options.hints, salt: block.salt, dek: &dek.secret };
        for recipient in &self.add {
            // [WRAP-5]
            new.put(recipient, &mut Entropy::default(), &mut slots)?;
        }
        let enc = if layout == SlotLayout::SharedEnc && count > 0 { block.enc } else { None };
        let slots = Slots::new(&slots, layout);
        // What stands there of the old proof and header_mac is written over at the end.
        let block = DekBlock { options, enc, slots, externals, ..*block };
        self.check_writable(&block)?;
        let mut out = Vec::with_capacity(block.encoded_len());
        block.encode(&mut out);
        finish_block(&found.schedule, &mut out, proof.as_ref())?;
        Ok(out)
    }

    /// Whether readers would take the block. [LIM-4] [HINT-1]
    fn check_writable(&self, block: &DekBlock<'_>) -> Result<(), LimitExceeded> {
        block.check_limits(&self.limits)?;
        if block.options.hints != HintMode::None {
            return Ok(());
        }
        let encs: std::collections::HashSet<_> = block.slots.iter().map(|slot| slot.enc).collect();
        LimitExceeded::check("trials", len64(encs.len()), self.limits.trials)
    }
}

/// How many slots carry a recipient's hint.
fn carriers(block: &DekBlock<'_>, recipient: &Recipient) -> usize {
    let wanted = hint(block.options.hints, block.salt, recipient);
    block.slots.iter().filter(|slot| slot.hint == wanted).count()
}

/// Why the recipients of a block could not be changed; the block is as it was.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum RewrapError {
    /// The block could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The block that would come of it could not be written.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// Some of the recipients should go, and nothing tells whose slot is whose.
    #[error(
        "the envelope was sealed without hints, so nobody can tell whose slot is whose; all recipients can be replaced, none removed"
    )]
    NoHints,
    /// A classical recipient and a post-quantum block, or the reverse.
    #[error(
        "the envelope is sealed to {block} recipients, and {} is an {} one: they cannot be mixed in one DEK block, and a rewrap keeps its suite; seal anew", recipient.in_short(), recipient.kem()
    )]
    OtherKem {
        /// What the block's suite is for.
        block: Kem,
        /// Who was to be added.
        recipient: Recipient,
    },
    /// The recipient who should go is not there.
    #[error("{} is not among the recipients", .0.in_short())]
    NotThere(Recipient),
    /// Two slots carry the hint of the recipient who should go.
    #[error("two slots carry the hint of {}, and nobody can tell which is his; replace all recipients", .0.in_short())]
    Ambiguous(Recipient),
    /// Readers would be added to a proof that does not cover the message.
    #[error(
        "the sender signed the DEK and not the message: whoever is added could write messages that look as if the sender had started them; weaken the proof to add them all the same"
    )]
    WeakensProof,
}

impl From<Refused> for RewrapError {
    fn from(refused: Refused) -> Self {
        SealError::from(refused).into()
    }
}

impl From<LimitExceeded> for RewrapError {
    fn from(over: LimitExceeded) -> Self {
        SealError::from(over).into()
    }
}
