use std::{fmt, str::FromStr};

use zeroize::Zeroizing;

use super::{KeyError, pem, text};
use crate::{
    crypto::{Secret32, backend, proof::vet_verifying_key},
    platform::{Entropy, EntropyError},
};

/// Who has written: the Ed25519 key with which a sender proof is verified (spec 6.5). It opens nothing.
///
/// ```
/// let sender = sealwire::SenderKey::generate()?;
/// let text = sender.verifying_key().to_string();
/// assert!(text.starts_with("sws1"));
/// assert_eq!(&text.parse::<sealwire::VerifyingKey>()?, sender.verifying_key());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VerifyingKey([u8; 32]);

impl VerifyingKey {
    /// An Ed25519 public key (RFC 8032), vetted.
    ///
    /// # Errors
    /// [`KeyError::Unsafe`] when it is not canonical, no point, or of small order.
    pub fn from_ed25519(public: [u8; 32]) -> Result<Self, KeyError> {
        vet_verifying_key(&public).map_err(KeyError::Unsafe)?;
        Ok(Self(public))
    }

    /// A key that has verified a signature.
    pub(crate) fn from_vetted(public: [u8; 32]) -> Self {
        Self(public)
    }

    /// Reads an SPKI document (RFC 8410) of an Ed25519 key, label `PUBLIC KEY`.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        Self::from_ed25519(pem::read_public(pem, pem::ED25519)?)
    }

    /// The SPKI document (RFC 8410), as OpenSSL reads it.
    ///
    /// # Errors
    /// [`KeyError::Pem`] when the document cannot be built.
    pub fn to_pem(&self) -> Result<String, KeyError> {
        pem::write_public(&self.0, pem::ED25519)
    }

    /// The 32 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&text::encode_sender(&self.0))
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifyingKey({self})")
    }
}

impl FromStr for VerifyingKey {
    type Err = KeyError;

    fn from_str(s: &str) -> Result<Self, KeyError> {
        Self::from_ed25519(text::decode_sender(s)?)
    }
}

/// A sender's secret key (Ed25519): signs DEKs or messages, and opens nothing. Wiped when dropped; never printed.
pub struct SenderKey {
    secret: Secret32,
    public: VerifyingKey,
}

impl SenderKey {
    /// A new key from the operating system's generator.
    ///
    /// # Errors
    /// [`EntropyError`] when the system has none.
    pub fn generate() -> Result<Self, EntropyError> {
        Ok(Self::from_secret(Entropy::default().secret()?))
    }

    /// The key whose 32 secret bytes are these (RFC 8032 §5.1.5).
    #[must_use]
    pub fn from_ed25519(secret: &[u8; 32]) -> Self {
        Self::from_secret(Secret32::copied(secret))
    }

    fn from_secret(secret: Secret32) -> Self {
        let public = VerifyingKey(backend::ed25519_public(secret.bytes()));
        Self { secret, public }
    }

    /// Reads the text form, `SW-SECRET-SENDER-1…`.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn from_text(s: &str) -> Result<Self, KeyError> {
        text::decode_sender_secret(s).map(Self::from_secret)
    }

    /// The text form. Handle it as what it is.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        text::encode_sender_secret(self.secret.bytes())
    }

    /// Reads a PKCS#8 document (RFC 8410), label `PRIVATE KEY`: what `openssl genpkey -algorithm ed25519` writes.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        pem::read_secret(pem, pem::ED25519, backend::ed25519_public).map(Self::from_secret)
    }

    /// The PKCS#8 document (RFC 8410), as OpenSSL reads it.
    ///
    /// # Errors
    /// [`KeyError::Pem`] when the document cannot be built.
    pub fn to_pem(&self) -> Result<Zeroizing<String>, KeyError> {
        pem::write_secret(self.secret.bytes(), pem::ED25519)
    }

    /// The public half: what receivers put into their lists.
    #[must_use]
    pub fn verifying_key(&self) -> &VerifyingKey {
        &self.public
    }

    pub(crate) fn secret(&self) -> &Secret32 {
        &self.secret
    }
}

/// Shows the public half alone.
impl fmt::Debug for SenderKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SenderKey").field("public", &self.public).finish_non_exhaustive()
    }
}
