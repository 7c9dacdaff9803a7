use std::fmt;

use super::{KeyError, Recipient, SharedSecret, pem, text};
#[cfg(feature = "pq")]
use crate::crypto::xwing::XWingKey;
use crate::{
    crypto::{Refused, Secret32, backend, kem},
    platform::{Entropy, EntropyError},
    wire::Kem,
};

/// A customer master key: the secret half, with its public half beside it. Wiped when dropped; never printed.
pub struct Cmk {
    secret: Secret32,
    private: PrivateHalf,
    recipient: Recipient,
}

/// What a decapsulation needs, ready for many.
enum PrivateHalf {
    X25519(backend::DhKey),
    #[cfg(feature = "pq")]
    XWing(XWingKey),
}

impl Cmk {
    /// A new X25519 key from the operating system's generator.
    ///
    /// # Errors
    /// [`EntropyError`] when the system has none.
    pub fn generate() -> Result<Self, EntropyError> {
        Self::generate_from(&mut Entropy::default())
    }

    /// A new post-quantum key (X-Wing) from the operating system's generator.
    ///
    /// ```
    /// use sealwire::{Cmk, Kem, Keyring, open, seal};
    /// let cmk = Cmk::generate_pq()?;
    /// assert_eq!(cmk.recipient().kem(), Kem::XWing);
    /// let envelope = seal(b"for a while", &[cmk.recipient().clone()])?;
    /// assert_eq!(&open(&envelope, &Keyring::from(cmk))?.payload[..], b"for a while");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`EntropyError`] when the system has none.
    #[cfg(feature = "pq")]
    pub fn generate_pq() -> Result<Self, EntropyError> {
        Ok(Self::from_seed(Entropy::default().secret()?))
    }

    pub(crate) fn generate_from(entropy: &mut Entropy) -> Result<Self, EntropyError> {
        Ok(Self::from_secret(entropy.secret()?))
    }

    /// The X-Wing key whose seed these 32 bytes are (draft-connolly-cfrg-xwing-kem, the decapsulation key).
    #[cfg(feature = "pq")]
    #[must_use]
    pub fn from_xwing(seed: &[u8; 32]) -> Self {
        Self::from_seed(Secret32::copied(seed))
    }

    #[cfg(feature = "pq")]
    pub(crate) fn from_seed(secret: Secret32) -> Self {
        let key = XWingKey::new(&secret);
        let recipient = Recipient::of_xwing(key.public());
        Self { private: PrivateHalf::XWing(key), secret, recipient }
    }

    /// The key whose 32 secret bytes are these (RFC 7748 clamps them when they are used).
    #[must_use]
    pub fn from_x25519(secret: &[u8; 32]) -> Self {
        Self::from_secret(Secret32::copied(secret))
    }

    pub(super) fn from_secret(secret: Secret32) -> Self {
        let recipient = Recipient::from_secret_half(backend::x25519_public(secret.bytes()));
        Self { private: PrivateHalf::X25519(backend::DhKey::new(&secret)), secret, recipient }
    }

    /// Reads the text form, `SW-SECRET-CMK-1…`.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn from_text(s: &str) -> Result<Self, KeyError> {
        let key = text::decode_cmk(s)?;
        let secret = Secret32::copied(key.array()?);
        match key.kem {
            Kem::X25519 => Ok(Self::from_secret(secret)),
            #[cfg(feature = "pq")]
            Kem::XWing => Ok(Self::from_seed(secret)),
            #[cfg(not(feature = "pq"))]
            Kem::XWing => Err(KeyError::WithoutPq),
        }
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
    /// [`KeyError::NoPemForm`] for a post-quantum key; [`KeyError::Pem`] when the document cannot be built.
    pub fn to_pem(&self) -> Result<zeroize::Zeroizing<String>, KeyError> {
        match self.recipient.kem() {
            Kem::X25519 => pem::write_secret(self.secret.bytes(), pem::X25519),
            Kem::XWing => Err(KeyError::NoPemForm),
        }
    }

    /// The secret half, for who keeps it: a store.
    #[cfg(feature = "kms")]
    pub(crate) fn secret_bytes(&self) -> &[u8; 32] {
        self.secret.bytes()
    }

    /// The public half.
    #[must_use]
    pub fn recipient(&self) -> &Recipient {
        &self.recipient
    }

    fn shared_secret(&self, enc: &[u8]) -> Result<SharedSecret, Refused> {
        match &self.private {
            PrivateHalf::X25519(secret) => {
                let public = self.recipient.as_x25519().ok_or(Refused)?;
                kem::decapsulate(secret, public, enc.try_into().map_err(|_| Refused)?)
            }
            #[cfg(feature = "pq")]
            PrivateHalf::XWing(key) => key.decapsulate(enc.try_into().map_err(|_| Refused)?),
        }
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
/// and finishes with [`SharedSecret::from_x25519`]; an X-Wing key decapsulates there.
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
    /// `enc` has the wrong length, or its X25519 key is a point of small order.
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
        self.shared_secret(enc).map_err(|_| DecapsulateError::Refused)
    }

    fn is_mine_alone(&self) -> bool {
        true
    }
}
