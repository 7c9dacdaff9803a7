//! AWS-LC: the same AEADs and the same X25519, in assembly.
//!
//! A failed call leaves unspecified bytes where the plaintext would be; they are wiped here.

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey},
    agreement::{self, PrivateKey, UnparsedPublicKey, X25519},
};
use zeroize::Zeroize;

use crate::{
    crypto::{Refused, Secret32},
    wire::{Aead, TAG_LEN},
};

/// An AEAD under one key, expanded once: ChaCha20-Poly1305 (RFC 8439) or AES-256-GCM (NIST SP 800-38D).
pub(crate) struct AeadKey(LessSafeKey);

impl AeadKey {
    pub(crate) fn new(aead: Aead, key: &[u8; 32]) -> Result<Self, Refused> {
        let algorithm = match aead {
            Aead::ChaCha20Poly1305 => &CHACHA20_POLY1305,
            Aead::Aes256Gcm => &AES_256_GCM,
        };
        Ok(Self(LessSafeKey::new(UnboundKey::new(algorithm, key).map_err(|_| Refused)?)))
    }

    /// Encrypts `text` in place, and writes the tag where it is to be.
    #[inline]
    pub(crate) fn seal(&self, nonce: &[u8; 12], aad: &[u8], text: &mut [u8], tag: &mut [u8; TAG_LEN]) -> Result<(), Refused> {
        let nonce = Nonce::assume_unique_for_key(*nonce);
        self.0.seal_in_place_scatter(nonce, Aad::from(aad), text, &[], tag).map_err(|_| Refused)
    }

    /// Encrypts `from` into `to`, of the same length, and writes the tag where it is to be.
    #[inline]
    pub(crate) fn seal_from(
        &self,
        nonce: &[u8; 12],
        aad: &[u8],
        from: &[u8],
        to: &mut [u8],
        tag: &mut [u8; TAG_LEN],
    ) -> Result<(), Refused> {
        let nonce = Nonce::assume_unique_for_key(*nonce);
        self.0.seal_out_of_place_scatter(nonce, Aad::from(aad), from, to, &[], tag).map_err(|_| Refused)
    }

    /// Checks the tag in constant time and decrypts in place; on failure there is no plaintext in `text`.
    #[inline]
    pub(crate) fn open(&self, nonce: &[u8; 12], aad: &[u8], text: &mut [u8], tag: &[u8; TAG_LEN]) -> Result<(), Refused> {
        let nonce = Nonce::assume_unique_for_key(*nonce);
        if self.0.open_in_place_separate_tag(nonce, Aad::from(aad), tag, text).is_ok() {
            return Ok(());
        }
        text.zeroize();
        Err(Refused)
    }

    /// The same from `from` to `to`, of the same length.
    #[inline]
    pub(crate) fn open_from(
        &self,
        nonce: &[u8; 12],
        aad: &[u8],
        from: &[u8],
        to: &mut [u8],
        tag: &[u8; TAG_LEN],
    ) -> Result<(), Refused> {
        let nonce = Nonce::assume_unique_for_key(*nonce);
        if self.0.open_separate_gather(nonce, Aad::from(aad), from, tag, to).is_ok() {
            return Ok(());
        }
        to.zeroize();
        Err(Refused)
    }
}

/// An X25519 secret (RFC 7748), set up once: that costs a quarter of a Diffie-Hellman. There is none where AWS-LC had no memory for it.
pub(crate) struct DhKey(Option<PrivateKey>);

impl DhKey {
    pub(crate) fn new(secret: &Secret32) -> Self {
        Self(PrivateKey::from_private_key(&X25519, secret.bytes()).ok())
    }

    /// Its public key.
    pub(crate) fn public(&self) -> Result<[u8; 32], Refused> {
        let public = self.0.as_ref().ok_or(Refused)?.compute_public_key().map_err(|_| Refused)?;
        public.as_ref().try_into().map_err(|_| Refused)
    }

    /// Diffie-Hellman (RFC 7748 §6.1), refusing the all-zero result.
    pub(crate) fn agree(&self, public: &[u8; 32]) -> Result<Secret32, Refused> {
        let key = self.0.as_ref().ok_or(Refused)?;
        // [WRAP-1] AWS-LC refuses it.
        agreement::agree(key, UnparsedPublicKey::new(&X25519, public), Refused, |shared| {
            Ok(Secret32::copied(shared.try_into().map_err(|_| Refused)?))
        })
    }
}
