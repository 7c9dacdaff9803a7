//! What sealing and rewrapping write into a DEK block: slots, and proof and header_mac at its end.

use bytes::BufMut;

use crate::{
    crypto::{
        Refused, Secret32, backend, hpke,
        kem::{Ephemeral, SharedSecret},
        proof::Proof,
        schedule::Schedule,
    },
    keys::{PublicHalf, Recipient},
    platform::Entropy,
    wire::{DekBlock, HintMode, Suite},
};

use super::SealError;

/// What the slots of one block have in common.
pub(crate) struct Slot<'a> {
    pub(crate) suite: Suite,
    pub(crate) hints: HintMode,
    pub(crate) salt: &'a [u8; 16],
    pub(crate) dek: &'a Secret32,
}

impl Slot<'_> {
    /// Appends the slot of a recipient (spec 3.3, 6.1) under the block's one ephemeral key, which is X25519's.
    pub(crate) fn put_shared(&self, recipient: &Recipient, ephemeral: &Ephemeral, out: &mut Vec<u8>) -> Result<(), SealError> {
        out.put_slice(&hint(self.hints, self.salt, recipient));
        let secret = ephemeral.encapsulate(recipient.as_x25519().ok_or(Refused)?)?;
        out.put_slice(&hpke::wrap(self.suite, &secret, self.dek)?);
        Ok(())
    }

    /// Appends the slot of a recipient with an enc of its own. [WRAP-5]
    pub(crate) fn put(&self, recipient: &Recipient, entropy: &mut Entropy, out: &mut Vec<u8>) -> Result<(), SealError> {
        out.put_slice(&hint(self.hints, self.salt, recipient));
        let secret = encapsulate(recipient, entropy, out)?;
        out.put_slice(&hpke::wrap(self.suite, &secret, self.dek)?);
        Ok(())
    }
}

/// Appends a fresh enc for a recipient, and gives the secret in it.
pub(crate) fn encapsulate(recipient: &Recipient, entropy: &mut Entropy, out: &mut Vec<u8>) -> Result<SharedSecret, SealError> {
    match recipient.half() {
        PublicHalf::X25519(public) => {
            let ephemeral = Ephemeral::new(&entropy.secret()?)?;
            out.put_slice(&ephemeral.enc);
            Ok(ephemeral.encapsulate(public)?)
        }
        #[cfg(feature = "pq")]
        PublicHalf::XWing(public) => {
            let (enc, secret) = public.encapsulate(entropy.secret()?, entropy.secret()?)?;
            out.put_slice(&enc);
            Ok(secret)
        }
    }
}

/// How a slot tells its receiver that it is his (spec 6.3).
pub(crate) fn hint(mode: HintMode, salt: &[u8; 16], recipient: &Recipient) -> [u8; 4] {
    match mode {
        HintMode::None => [0; 4],
        HintMode::Rotating => recipient.fingerprint().rotating_hint(salt),
        HintMode::Static => recipient.fingerprint().static_hint(),
    }
}

/// Completes an encoded block in place: the proof under its mask, where there is one, and header_mac over all before it.
pub(crate) fn finish_block(schedule: &Schedule, block: &mut [u8], proof: Option<&Proof>) -> Result<(), Refused> {
    if let Some(proof) = proof {
        let recipients = backend::sha256(&DekBlock::recipients(block).ok_or(Refused)?);
        let masked = proof.masked(schedule, &recipients)?;
        let at = DekBlock::proof_range(block.len());
        block.get_mut(at).ok_or(Refused)?.copy_from_slice(&masked);
    }
    let (covered, mac) = block.split_last_chunk_mut::<32>().ok_or(Refused)?;
    *mac = schedule.header_mac(covered)?;
    Ok(())
}
