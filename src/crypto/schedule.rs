//! The key schedule (spec 6.2): what one DEK and one salt are stretched into.

use super::{
    Refused, Secret32,
    aead::{AeadKey, nonce},
    backend,
};
use crate::wire::{PROOF_LEN, Suite, TAG_LEN};
use zeroize::Zeroizing;

/// The keys of one DEK under one salt. Not cloned: sealing and opening each hold one.
pub(crate) struct Schedule {
    suite: Suite,
    expander: backend::Expander,
    payload: AeadKey,
    /// A name for the payload key, so that tests can tell keys apart at the AEAD call.
    #[cfg(feature = "testing")]
    payload_name: [u8; 32],
}

impl Schedule {
    /// Extract, and the payload key. Takes the DEK by reference: who made it decides when it ends.
    pub(crate) fn new(suite: Suite, salt: &[u8; 16], dek: &Secret32) -> Result<Self, Refused> {
        let expander = backend::Expander::new(&backend::extract(salt, &[dek.bytes()]))?;
        let mut key = Secret32::zeroed();
        expander.expand(&[b"sealwire v1 payload", &[suite.number()]], key.bytes_mut())?;
        Ok(Self {
            suite,
            expander,
            payload: AeadKey::new(suite.aead(), key.bytes())?,
            #[cfg(feature = "testing")]
            payload_name: backend::sha256(&[key.bytes()]),
        })
    }

    fn derive(&self, label: &[u8]) -> Result<Secret32, Refused> {
        let mut out = Secret32::zeroed();
        self.expander.expand(&[label, &[self.suite.number()]], out.bytes_mut())?;
        Ok(out)
    }

    /// HMAC-SHA256 over everything of the block before header_mac.
    pub(crate) fn header_mac(&self, block: &[u8]) -> Result<[u8; 32], Refused> {
        backend::hmac(self.derive(b"sealwire v1 header")?.bytes(), block)
    }

    /// Whether `mac` is the block's, in constant time.
    pub(crate) fn verify_header(&self, block: &[u8], mac: &[u8; 32]) -> Result<(), Refused> {
        // [KEY-1]
        if backend::same(&self.header_mac(block)?, mac) { Ok(()) } else { Err(Refused) }
    }

    /// What a renewal of the channel's epoch under these keys must know.
    pub(crate) fn chain(&self) -> Result<Secret32, Refused> {
        self.derive(b"sealwire v1 chain")
    }

    /// The public name of the DEK under this salt.
    pub(crate) fn commitment(&self) -> Result<Secret32, Refused> {
        self.derive(b"sealwire v1 commit")
    }

    /// Masks a sender proof, or takes its mask off. `recipients` is the hash of the recipients beside which it stands.
    pub(crate) fn mask_proof(&self, recipients: &[u8; 32], proof: &mut [u8; PROOF_LEN]) -> Result<(), Refused> {
        let mut mask = Zeroizing::new([0; PROOF_LEN]);
        self.expander.expand(&[b"sealwire v1 sender", &[self.suite.number()], recipients], &mut mask[..])?;
        proof.iter_mut().zip(mask.iter()).for_each(|(byte, mask)| *byte ^= mask);
        Ok(())
    }

    /// Encrypts a segment in place, and writes its tag.
    #[inline]
    pub(crate) fn seal_segment(
        &self,
        at: SegmentAt,
        aad: &[u8],
        text: &mut [u8],
        tag: &mut [u8; TAG_LEN],
    ) -> Result<(), Refused> {
        self.payload.seal(&self.nonce(at)?, aad, text, tag)
    }

    /// Encrypts a segment on its way from `from` to `to`, of the same length, and writes its tag.
    #[inline]
    pub(crate) fn seal_segment_from(
        &self,
        at: SegmentAt,
        aad: &[u8],
        from: &[u8],
        to: &mut [u8],
        tag: &mut [u8; TAG_LEN],
    ) -> Result<(), Refused> {
        self.payload.seal_from(&self.nonce(at)?, aad, from, to, tag)
    }

    /// The nonce of a segment that is sealed now.
    #[inline]
    fn nonce(&self, at: SegmentAt) -> Result<[u8; 12], Refused> {
        let nonce = at.nonce()?;
        #[cfg(feature = "testing")]
        crate::testing::observe(self.payload_name, nonce);
        Ok(nonce)
    }

    /// Decrypts a segment in place; on failure `text` is still the ciphertext.
    #[inline]
    pub(crate) fn open_segment(&self, at: SegmentAt, aad: &[u8], text: &mut [u8], tag: &[u8; TAG_LEN]) -> Result<(), Refused> {
        self.payload.open(&at.nonce()?, aad, text, tag)
    }

    /// Decrypts a segment on its way from `from` to `to`, of the same length; on failure there is no plaintext in `to`.
    pub(crate) fn open_segment_from(
        &self,
        at: SegmentAt,
        aad: &[u8],
        from: &[u8],
        to: &mut [u8],
        tag: &[u8; TAG_LEN],
    ) -> Result<(), Refused> {
        self.payload.open_from(&at.nonce()?, aad, from, to, tag)
    }
}

/// Which segment of which message: all that a nonce is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentAt {
    pub(crate) seq: u64,
    pub(crate) index: u64,
    pub(crate) last: bool,
}

impl SegmentAt {
    #[inline]
    fn nonce(self) -> Result<[u8; 12], Refused> {
        nonce(self.seq, self.index, self.last)
    }
}
