use std::{fmt, str::FromStr};

use super::{Fingerprint, KeyError, pem, text};
use crate::{crypto::kem, wire::Kem};

/// The public half of a CMK: what payloads are sealed to.
///
/// ```
/// # fn main() -> Result<(), sealwire::keys::KeyError> {
/// let cmk = sealwire::Cmk::generate().expect("the system has entropy");
/// let text = cmk.recipient().to_string();
/// assert!(text.starts_with("swr1"));
/// assert_eq!(&text.parse::<sealwire::Recipient>()?, cmk.recipient());
/// # Ok(()) }
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Recipient {
    public: [u8; 32],
    fingerprint: Fingerprint,
}

impl Recipient {
    /// An X25519 public key, vetted.
    ///
    /// # Errors
    /// [`KeyError::Unsafe`] when it is not canonical or of small order.
    pub fn from_x25519(public: [u8; 32]) -> Result<Self, KeyError> {
        kem::vet_public(&public).map_err(KeyError::Unsafe)?;
        Ok(Self::from_secret_half(public))
    }

    /// A public key that was computed from its secret half, and so needs no vetting.
    pub(super) fn from_secret_half(public: [u8; 32]) -> Self {
        Self { public, fingerprint: Fingerprint::of(Kem::X25519, &public) }
    }

    /// Reads an SPKI document (RFC 8410), label `PUBLIC KEY`.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        Self::from_x25519(pem::read_public(pem, pem::X25519)?)
    }

    /// The SPKI document (RFC 8410), as OpenSSL reads it.
    ///
    /// # Errors
    /// [`KeyError::Pem`] when the document cannot be built.
    pub fn to_pem(&self) -> Result<String, KeyError> {
        pem::write_public(&self.public, pem::X25519)
    }

    /// Which KEM the key is for.
    #[must_use]
    pub fn kem(&self) -> Kem {
        Kem::X25519
    }

    /// The public key, 32 bytes.
    #[must_use]
    pub fn public_key(&self) -> &[u8; 32] {
        &self.public
    }

    /// The key's name.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    pub(crate) fn encapsulate(&self, ephemeral: &kem::Ephemeral) -> Result<kem::SharedSecret, crate::crypto::Refused> {
        ephemeral.encapsulate(&self.public)
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&text::encode_recipient(self.kem(), &self.public))
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recipient({self})")
    }
}

impl FromStr for Recipient {
    type Err = KeyError;

    fn from_str(s: &str) -> Result<Self, KeyError> {
        Self::from_x25519(text::decode_recipient(s)?)
    }
}
