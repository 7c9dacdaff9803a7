#[cfg(feature = "pq")]
use std::sync::Arc;
use std::{
    fmt,
    hash::{Hash, Hasher},
    str::FromStr,
};

use super::{Fingerprint, KeyError, pem, text};
#[cfg(feature = "pq")]
use crate::crypto::xwing::{XWING_PUBLIC_LEN, XWingPublic};
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
///
/// It is for one KEM ([`kem`](Self::kem)): X25519, or with the feature `pq` X-Wing. Those of one message are all for the same one.
#[derive(Clone)]
pub struct Recipient {
    public: PublicHalf,
    fingerprint: Fingerprint,
}

/// What an encapsulation needs, ready for many.
#[derive(Clone)]
pub(crate) enum PublicHalf {
    X25519([u8; 32]),
    #[cfg(feature = "pq")]
    XWing(Arc<XWingPublic>),
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
        Self { public: PublicHalf::X25519(public), fingerprint: Fingerprint::of(Kem::X25519, &public) }
    }

    /// An X-Wing public key, vetted: 1,184 bytes of ML-KEM-768, 32 of X25519.
    ///
    /// # Errors
    /// [`KeyError::Unsafe`] when its X25519 half is not canonical or of small order, or its ML-KEM half not as FIPS 203 §7.2 has it.
    #[cfg(feature = "pq")]
    pub fn from_xwing(public: &[u8; XWING_PUBLIC_LEN]) -> Result<Self, KeyError> {
        XWingPublic::new(public).map(Self::of_xwing).map_err(KeyError::Unsafe)
    }

    #[cfg(feature = "pq")]
    pub(super) fn of_xwing(public: XWingPublic) -> Self {
        Self { fingerprint: Fingerprint::of(Kem::XWing, public.bytes()), public: PublicHalf::XWing(Arc::new(public)) }
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
    /// [`KeyError::NoPemForm`] for a post-quantum key; [`KeyError::Pem`] when the document cannot be built.
    pub fn to_pem(&self) -> Result<String, KeyError> {
        pem::write_public(self.as_x25519().ok_or(KeyError::NoPemForm)?, pem::X25519)
    }

    /// Which KEM the key is for.
    #[must_use]
    pub fn kem(&self) -> Kem {
        match &self.public {
            PublicHalf::X25519(_) => Kem::X25519,
            #[cfg(feature = "pq")]
            PublicHalf::XWing(_) => Kem::XWing,
        }
    }

    /// The public key: 32 bytes for X25519, 1,216 for X-Wing.
    #[must_use]
    pub fn public_key(&self) -> &[u8] {
        match &self.public {
            PublicHalf::X25519(public) => public,
            #[cfg(feature = "pq")]
            PublicHalf::XWing(public) => public.bytes(),
        }
    }

    /// The public key where it is one for X25519.
    #[must_use]
    pub fn as_x25519(&self) -> Option<&[u8; 32]> {
        match &self.public {
            PublicHalf::X25519(public) => Some(public),
            #[cfg(feature = "pq")]
            PublicHalf::XWing(_) => None,
        }
    }

    /// The key's name.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    pub(crate) fn half(&self) -> &PublicHalf {
        &self.public
    }

    /// The recipient in a sentence: its string, or the beginning of one that would fill a page, and the fingerprint.
    pub(crate) fn in_short(&self) -> String {
        const SHOWN: usize = 16;
        let string = self.to_string();
        match self.kem() {
            Kem::X25519 => string,
            Kem::XWing => format!("{}… (fingerprint {})", string.get(..SHOWN).unwrap_or_default(), self.fingerprint),
        }
    }
}

/// The same KEM and the same bytes, which the fingerprint stands for.
impl PartialEq for Recipient {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

impl Eq for Recipient {}

impl Hash for Recipient {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.fingerprint.hash(state);
    }
}

/// The key string, `swr1…`.
impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&text::encode_recipient(self.kem(), self.public_key()))
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
        let key = text::decode_recipient(s)?;
        match key.kem {
            Kem::X25519 => Self::from_x25519(*key.array()?),
            #[cfg(feature = "pq")]
            Kem::XWing => Self::from_xwing(key.array()?),
            #[cfg(not(feature = "pq"))]
            Kem::XWing => Err(KeyError::WithoutPq),
        }
    }
}
