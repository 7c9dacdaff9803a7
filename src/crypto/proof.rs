//! Sender proofs (spec 6.5): who took up a DEK, signed, and readable by who has the DEK.

use super::{Refused, Secret32, backend, kem, schedule::Schedule};
use crate::wire::{PROOF_LEN, Suite};

/// What stands in a proof under its mask.
pub(crate) struct Proof {
    pub(crate) key: [u8; 32],
    /// SHA-256 of the recipients as the sender wrote them.
    pub(crate) original: [u8; 32],
    pub(crate) signature: [u8; 64],
}

impl Proof {
    /// Takes the mask off.
    pub(crate) fn unmask(schedule: &Schedule, recipients: &[u8; 32], masked: &[u8; PROOF_LEN]) -> Result<Self, Refused> {
        let mut bytes = *masked;
        schedule.mask_proof(recipients, &mut bytes)?;
        let (key, rest) = bytes.split_first_chunk::<32>().ok_or(Refused)?;
        let (original, signature) = rest.split_first_chunk::<32>().ok_or(Refused)?;
        Ok(Self { key: *key, original: *original, signature: signature.try_into().map_err(|_| Refused)? })
    }

    /// The proof as it stands beside these recipients.
    pub(crate) fn masked(&self, schedule: &Schedule, recipients: &[u8; 32]) -> Result<[u8; PROOF_LEN], Refused> {
        let mut bytes = [0; PROOF_LEN];
        let parts = self.key.iter().chain(&self.original).chain(&self.signature);
        bytes.iter_mut().zip(parts).for_each(|(to, from)| *to = *from);
        schedule.mask_proof(recipients, &mut bytes)?;
        Ok(bytes)
    }
}

/// What a proof covers besides the DEK.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Covers<'a> {
    /// Nothing: any self-contained message under the DEK.
    Dek,
    /// One message: SHA-256 of its head, its segments and the binding.
    Message(&'a [u8; 32]),
    /// An epoch of one direction of one connection.
    Channel { acceptor: bool, binding: &'a [u8] },
}

/// What is signed, apart from what the key schedule and [`Covers`] give.
#[derive(Debug, Clone)]
pub(crate) struct Statement {
    pub(crate) suite: Suite,
    pub(crate) created_at: u64,
    pub(crate) salt: [u8; 16],
    pub(crate) original: [u8; 32],
}

impl Statement {
    pub(crate) fn sign(&self, schedule: &Schedule, secret: &Secret32, covers: Covers<'_>) -> Result<[u8; 64], Refused> {
        Ok(backend::ed25519_sign(secret.bytes(), &self.bytes(schedule, covers)?))
    }

    pub(crate) fn verify(&self, schedule: &Schedule, proof: &Proof, covers: Covers<'_>) -> Result<(), Refused> {
        vet_verifying_key(&proof.key).map_err(|_| Refused)?;
        backend::ed25519_verify(&proof.key, &self.bytes(schedule, covers)?, &proof.signature)
    }

    fn bytes(&self, schedule: &Schedule, covers: Covers<'_>) -> Result<Vec<u8>, Refused> {
        let commitment = schedule.commitment()?;
        let mut bytes = Vec::with_capacity(160);
        bytes.extend(b"sealwire v1 sender proof");
        bytes.push(self.suite.number());
        bytes.extend(self.created_at.to_be_bytes());
        bytes.extend(self.salt);
        bytes.extend(self.original);
        bytes.extend(commitment.bytes());
        // [PRF-3]
        match covers {
            Covers::Dek => {}
            Covers::Message(hash) => bytes.extend(hash),
            Covers::Channel { acceptor, binding } => {
                bytes.extend(backend::sha256(&[b"sealwire v1 channel", &[u8::from(acceptor)], binding]));
            }
        }
        Ok(bytes)
    }
}

/// Whether a verifying key may be used: canonical, a point, and not of small order.
pub(crate) fn vet_verifying_key(public: &[u8; 32]) -> Result<(), &'static str> {
    // [TXT-8] [PRF-2] The top bit is the sign of x; what is below must be less than the field's prime.
    let mut y = *public;
    if let Some(last) = y.last_mut() {
        *last &= 0x7f;
    }
    if !kem::is_canonical(&y) {
        return Err("is not canonical");
    }
    if backend::ed25519_is_strong(public) { Ok(()) } else { Err("is no point of large order") }
}
