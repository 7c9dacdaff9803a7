use std::fmt;

use super::{KeyError, Recipient, SharedSecret, pem, text};
use crate::{
    crypto::{Secret32, backend, kem},
    platform::{Entropy, EntropyError},
};

/// A customer master key: the secret half, with its public half beside it. Wiped when dropped; never printed.
pub struct Cmk {
    secret: Secret32,
    dh: backend::DhKey,
    recipient: Recipient,
}

impl Cmk {
    /// A new X25519 key from the operating system's generator.
    ///
    /// # Errors
    /// [`EntropyError`] when the system has none.
    pub fn generate() -> Result<Self, EntropyError> {
        Self::generate_from(&mut Entropy::default())
    }

    pub(crate) fn generate_from(entropy: &mut Entropy) -> Result<Self, EntropyError> {
        Ok(Self::from_secret(entropy.secret()?))
    }

    /// The key whose 32 secret bytes are these (RFC 7748 clamps them when they are used).
    #[must_use]
    pub fn from_x25519(secret: &[u8; 32]) -> Self {
        Self::from_secret(Secret32::copied(secret))
    }

    pub(super) fn from_secret(secret: Secret32) -> Self {
        let recipient = Recipient::from_secret_half(backend::x25519_public(secret.bytes()));
        Self { dh: backend::DhKey::new(&secret), secret, recipient }
    }

    /// Reads the text form, `SW-SECRET-CMK-1…`.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn from_text(s: &str) -> Result<Self, KeyError> {
        text::decode_cmk(s).map(Self::from_secret)
    }

    /// The text form. Handle it as what it is.
    #[must_use]
    pub fn to_text(&self) -> zeroize::Zeroizing<String> {
        text::encode_cmk(self.recipient.kem(), self.secret.bytes())
    }

    /// Reads a PKCS#8 document (RFC 8410), label `PRIVATE KEY`: what `openssl genpkey -algorithm x25519` writes.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        pem::read_secret(pem, pem::X25519, backend::x25519_public).map(Self::from_secret)
    }

    /// The PKCS#8 document (RFC 8410), as OpenSSL reads it.
    ///
    /// # Errors
    /// [`KeyError::Pem`] when the document cannot be built.
    pub fn to_pem(&self) -> Result<zeroize::Zeroizing<String>, KeyError> {
        pem::write_secret(self.secret.bytes(), pem::X25519)
    }

    /// The public half.
    #[must_use]
    pub fn recipient(&self) -> &Recipient {
        &self.recipient
    }
}

/// Shows the public half alone.
impl fmt::Debug for Cmk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cmk").field("recipient", &self.recipient).finish_non_exhaustive()
    }
}

/// The one operation that needs a CMK's secret half: enc in, shared secret out (RFC 9180 §4, Decap).
///
/// [`Cmk`] does it in memory. A key that is held elsewhere (an HSM, a cloud KMS) does its Diffie-Hellman there
/// and finishes with [`SharedSecret::from_x25519`].
pub trait Decapsulator: Send + Sync {
    /// The public half.
    fn recipient(&self) -> &Recipient;

    /// Decap(enc, skR).
    ///
    /// # Errors
    /// [`DecapsulateError::Refused`] for an `enc` that gives no shared secret; [`DecapsulateError::Unavailable`]
    /// when the key could not be asked.
    fn decapsulate(&self, enc: &[u8]) -> Result<SharedSecret, DecapsulateError>;

    /// Whether nobody but this reader can use the key. Unless that is stated, what it opens is at most by one of a
    /// group (spec 6.6).
    fn is_mine_alone(&self) -> bool {
        false
    }
}

/// Why a decapsulation gave nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecapsulateError {
    /// `enc` has the wrong length, or is a point of small order.
    #[error("the encapsulated key is refused")]
    Refused,
    /// The key is held elsewhere and did not answer.
    #[error("the key could not be asked")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Decapsulator for Cmk {
    fn recipient(&self) -> &Recipient {
        &self.recipient
    }

    fn decapsulate(&self, enc: &[u8]) -> Result<SharedSecret, DecapsulateError> {
        let enc = enc.try_into().map_err(|_| DecapsulateError::Refused)?;
        kem::decapsulate(&self.dh, self.recipient.public_key(), enc).map_err(|_| DecapsulateError::Refused)
    }

    fn is_mine_alone(&self) -> bool {
        true
    }
}
