//! RustCrypto and dalek: always there, every platform.

use aes_gcm::Aes256Gcm;
use chacha20poly1305::{
    ChaCha20Poly1305, KeyInit,
    aead::{
        AeadInOut,
        consts::{U12, U16},
        inout::InOutBuf,
    },
};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use hkdf::{Hkdf, HkdfExtract, hmac::Hmac, hmac::Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroize;

use crate::{
    crypto::{Refused, Secret32},
    wire::{Aead, TAG_LEN},
};

/// An AEAD under one key, expanded once: ChaCha20-Poly1305 (RFC 8439) or AES-256-GCM (NIST SP 800-38D).
pub(crate) struct AeadKey(Box<dyn Cipher>);

/// Either of them, over what may lie in one buffer or in two of the same length.
trait Cipher: Send + Sync {
    fn encrypt(&self, nonce: &[u8; 12], aad: &[u8], text: InOutBuf<'_, '_, u8>) -> Result<[u8; TAG_LEN], Refused>;

    fn decrypt(&self, nonce: &[u8; 12], aad: &[u8], text: InOutBuf<'_, '_, u8>, tag: &[u8; TAG_LEN]) -> Result<(), Refused>;
}

impl<A: AeadInOut<NonceSize = U12, TagSize = U16> + Send + Sync> Cipher for A {
    fn encrypt(&self, nonce: &[u8; 12], aad: &[u8], text: InOutBuf<'_, '_, u8>) -> Result<[u8; TAG_LEN], Refused> {
        Ok(self.encrypt_inout_detached(nonce.into(), aad, text).map_err(|_| Refused)?.into())
    }

    fn decrypt(&self, nonce: &[u8; 12], aad: &[u8], text: InOutBuf<'_, '_, u8>, tag: &[u8; TAG_LEN]) -> Result<(), Refused> {
        self.decrypt_inout_detached(nonce.into(), aad, text, tag.into()).map_err(|_| Refused)
    }
}

impl AeadKey {
    pub(crate) fn new(aead: Aead, key: &[u8; 32]) -> Result<Self, Refused> {
        Ok(Self(match aead {
            Aead::ChaCha20Poly1305 => Box::new(ChaCha20Poly1305::new(key.into())),
            Aead::Aes256Gcm => Box::new(Aes256Gcm::new(key.into())),
        }))
    }

    /// Encrypts `text` in place, and writes the tag where it is to be.
    pub(crate) fn seal(&self, nonce: &[u8; 12], aad: &[u8], text: &mut [u8], tag: &mut [u8; TAG_LEN]) -> Result<(), Refused> {
        *tag = self.0.encrypt(nonce, aad, InOutBuf::from(text))?;
        Ok(())
    }

    /// Encrypts `from` into `to`, of the same length, and writes the tag where it is to be.
    pub(crate) fn seal_from(
        &self,
        nonce: &[u8; 12],
        aad: &[u8],
        from: &[u8],
        to: &mut [u8],
        tag: &mut [u8; TAG_LEN],
    ) -> Result<(), Refused> {
        *tag = self.0.encrypt(nonce, aad, InOutBuf::new(from, to).map_err(|_| Refused)?)?;
        Ok(())
    }

    /// Checks the tag in constant time and decrypts in place; on failure there is no plaintext in `text`.
    pub(crate) fn open(&self, nonce: &[u8; 12], aad: &[u8], text: &mut [u8], tag: &[u8; TAG_LEN]) -> Result<(), Refused> {
        self.0.decrypt(nonce, aad, InOutBuf::from(text), tag)
    }

    /// The same from `from` to `to`, of the same length.
    pub(crate) fn open_from(
        &self,
        nonce: &[u8; 12],
        aad: &[u8],
        from: &[u8],
        to: &mut [u8],
        tag: &[u8; TAG_LEN],
    ) -> Result<(), Refused> {
        self.0.decrypt(nonce, aad, InOutBuf::new(from, to).map_err(|_| Refused)?, tag)
    }
}

/// The X25519 public key of a secret.
pub(crate) fn x25519_public(secret: &[u8; 32]) -> [u8; 32] {
    PublicKey::from(&StaticSecret::from(*secret)).to_bytes()
}

/// An X25519 secret (RFC 7748), set up once.
pub(crate) struct DhKey(StaticSecret);

impl DhKey {
    pub(crate) fn new(secret: &Secret32) -> Self {
        Self(StaticSecret::from(*secret.bytes()))
    }

    /// Its public key.
    pub(crate) fn public(&self) -> Result<[u8; 32], Refused> {
        Ok(PublicKey::from(&self.0).to_bytes())
    }

    /// Diffie-Hellman (RFC 7748 §6.1), refusing the all-zero result.
    pub(crate) fn agree(&self, public: &[u8; 32]) -> Result<Secret32, Refused> {
        let shared = self.0.diffie_hellman(&PublicKey::from(*public));
        // [WRAP-1]
        if !shared.was_contributory() {
            return Err(Refused);
        }
        Ok(Secret32::copied(shared.as_bytes()))
    }
}

/// The Ed25519 verifying key of a secret key (RFC 8032 §5.1.5).
pub(crate) fn ed25519_public(secret: &[u8; 32]) -> [u8; 32] {
    SigningKey::from_bytes(secret).verifying_key().to_bytes()
}

/// Signs (RFC 8032 §5.1.6).
pub(crate) fn ed25519_sign(secret: &[u8; 32], message: &[u8]) -> [u8; 64] {
    SigningKey::from_bytes(secret).sign(message).to_bytes()
}

/// Whether an Ed25519 verifying key decodes to a point that is not of small order. That it is canonical is asked elsewhere.
pub(crate) fn ed25519_is_strong(public: &[u8; 32]) -> bool {
    VerifyingKey::from_bytes(public).is_ok_and(|key| !key.is_weak())
}

/// Verifies strictly and without the cofactor: R and the key not of small order, S below the order of the base point.
pub(crate) fn ed25519_verify(public: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> Result<(), Refused> {
    let key = VerifyingKey::from_bytes(public).map_err(|_| Refused)?;
    // [PRF-2]
    key.verify_strict(message, &Signature::from_bytes(signature)).map_err(|_| Refused)
}

/// HKDF-Extract (RFC 5869 §2.2) with SHA-256, the input keying material in parts.
pub(crate) fn extract(salt: &[u8], ikm: &[&[u8]]) -> Secret32 {
    let mut extract = HkdfExtract::<Sha256>::new(Some(salt));
    for part in ikm {
        extract.input_ikm(part);
    }
    let (mut prk, _) = extract.finalize();
    let mut out = Secret32::zeroed();
    out.bytes_mut().copy_from_slice(&prk);
    prk.zeroize();
    out
}

/// HKDF-Expand (RFC 5869 §2.3) with SHA-256.
pub(crate) struct Expander(Hkdf<Sha256>);

impl Expander {
    /// Sets up a pseudo-random key once for several expansions.
    pub(crate) fn new(prk: &Secret32) -> Result<Self, Refused> {
        Hkdf::from_prk(prk.bytes()).map(Self).map_err(|_| Refused)
    }

    /// Fills `out`, whose length is at most 255 × 32 bytes.
    pub(crate) fn expand(&self, info: &[&[u8]], out: &mut [u8]) -> Result<(), Refused> {
        self.0.expand_multi_info(info, out).map_err(|_| Refused)
    }
}

/// HMAC-SHA256 of `data`.
pub(crate) fn hmac(key: &[u8; 32], data: &[u8]) -> Result<[u8; 32], Refused> {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key).map_err(|_| Refused)?;
    mac.update(data);
    Ok(mac.finalize().into_bytes().into())
}

/// SHA-256 of the parts.
pub(crate) fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().into()
}

/// SHA-256 of bytes as they come.
pub(crate) struct Hash(Sha256);

impl Hash {
    pub(crate) fn new() -> Self {
        Self(Sha256::new())
    }

    pub(crate) fn update(&mut self, part: &[u8]) {
        self.0.update(part);
    }

    pub(crate) fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

/// Whether two MACs are the same, in constant time.
pub(crate) fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    a.ct_eq(b).into()
}
