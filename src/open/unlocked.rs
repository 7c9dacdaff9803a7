//! A block whose header_mac holds: the keys of its DEK, and who made it.

use super::{OpenError, Policy, Sender, search::Found};
use crate::{
    crypto::{
        backend,
        proof::{Covers, Proof, Statement},
        schedule::Schedule,
    },
    keys::{Fingerprint, VerifyingKey},
    wire::DekBlock,
};

/// A block whose header_mac holds and whose sender is allowed: what is needed to open segments.
pub(crate) struct Unlocked {
    pub(crate) schedule: Schedule,
    pub(crate) created_at: u64,
    pub(crate) salt: [u8; 16],
    pub(crate) header_mac: [u8; 32],
    pub(crate) key: Option<Fingerprint>,
    /// Whether nobody else could have got the DEK where it came from.
    pub(crate) mine_alone: bool,
    /// Who sent what is sealed under it; where `claim` is there, once that holds.
    pub(crate) sender: Sender,
    claim: Option<Claim>,
}

/// A proof that covers the message, and so waits for it.
struct Claim {
    statement: Statement,
    proof: Proof,
}

impl Unlocked {
    /// Looks at the sender, and verifies his proof unless it waits for the message.
    pub(super) fn new(
        found: Found,
        raw: &[u8],
        block: &DekBlock<'_>,
        covers: Covers<'_>,
        policy: &Policy,
    ) -> Result<Self, OpenError> {
        let Found { schedule, key, mine_alone } = found;
        let (sender, claim) = match block.sender_proof {
            None => (Sender::Anonymous, None),
            Some(masked) => {
                let recipients = DekBlock::recipients(raw).ok_or(OpenError::Proof)?;
                let recipients = backend::sha256(&recipients);
                let proof = Proof::unmask(&schedule, &recipients, masked).map_err(|_| OpenError::Proof)?;
                let sender = claimed(&proof, recipients == proof.original, block, mine_alone);
                let statement =
                    Statement { suite: block.suite, created_at: block.created_at, salt: *block.salt, original: proof.original };
                (sender, Some(Claim { statement, proof }))
            }
        };
        let (created_at, salt, header_mac) = (block.created_at, *block.salt, *block.header_mac);
        let mut unlocked = Self { schedule, created_at, salt, header_mac, key, mine_alone, sender, claim };
        // Verified also where the sender is not allowed, so that the time it takes does not tell who is.
        let holds = if block.options.proof_covers_message { Ok(()) } else { unlocked.verify_claim(covers) };
        // [PRF-7]
        policy.check_sender(&unlocked.sender)?;
        holds?;
        unlocked.claim = unlocked.claim.filter(|_| block.options.proof_covers_message);
        Ok(unlocked)
    }

    /// Verifies a proof that covers the message: `parts` are its head, its segments and the binding. [PRF-4]
    pub(super) fn verify_message(&self, parts: [&[u8]; 3]) -> Result<(), OpenError> {
        if self.claim.is_none() {
            return Ok(());
        }
        self.verify_hash(&backend::sha256(&parts))
    }

    /// The same by the hash of them.
    pub(crate) fn verify_hash(&self, message: &[u8; 32]) -> Result<(), OpenError> {
        self.verify_claim(Covers::Message(message))
    }

    /// Whether the DEK may serve other messages. [PRF-4]
    pub(crate) fn is_reusable(&self) -> bool {
        self.claim.is_none()
    }

    fn verify_claim(&self, covers: Covers<'_>) -> Result<(), OpenError> {
        // [PRF-1]
        let Some(Claim { statement, proof }) = &self.claim else { return Ok(()) };
        statement.verify(&self.schedule, proof, covers).map_err(|_| OpenError::Proof)
    }
}

/// The sender that a proof names, and its standing if it holds (spec 6.6).
fn claimed(proof: &Proof, as_first_written: bool, block: &DekBlock<'_>, mine_alone: bool) -> Sender {
    let key = VerifyingKey::claimed(proof.key);
    let rewrapped = !as_first_written;
    if block.options.proof_covers_message {
        return Sender::Signed { key, rewrapped };
    }
    let one_recipient = block.slots.len() == 1 && block.externals.is_empty();
    // [PRF-6]
    Sender::Dek { key, for_me_alone: as_first_written && one_recipient && mine_alone, rewrapped }
}
