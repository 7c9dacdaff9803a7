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

    /// A key as a proof claims it, before anything is verified.
    pub(crate) fn claimed(public: [u8; 32]) -> Self {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(s: &str) -> [u8; 32] {
        std::array::from_fn(|i| u8::from_str_radix(&s[2 * i..2 * i + 2], 16).unwrap())
    }

    /// RFC 8032 §7.1, test 2; and its forms.
    #[test]
    fn a_key_has_its_forms() {
        let seed = hex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb");
        let public = hex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c");
        let key = SenderKey::from_ed25519(&seed);
        assert_eq!(key.verifying_key().as_bytes(), &public);
        assert_eq!(SenderKey::from_text(&key.to_text()).unwrap().verifying_key(), key.verifying_key());
        assert_eq!(SenderKey::from_pem(&key.to_pem().unwrap()).unwrap().verifying_key(), key.verifying_key());
        let public = *key.verifying_key();
        assert_eq!(public.to_string().parse(), Ok(public));
        assert_eq!(VerifyingKey::from_pem(&public.to_pem().unwrap()), Ok(public));
        assert!(key.to_text().starts_with("SW-SECRET-SENDER-1"));
        assert!(!format!("{key:?}").contains(key.to_text().as_str()));
        // The keys of the two algorithms are not mistaken for each other.
        assert!(matches!(crate::Cmk::from_pem(&key.to_pem().unwrap()), Err(KeyError::Pem(why)) if why.contains("Ed25519")));
        let cmk = crate::Cmk::from_x25519(&seed);
        assert!(matches!(SenderKey::from_pem(&cmk.to_pem().unwrap()), Err(KeyError::Pem(why)) if why.contains("X25519")));
        assert!(matches!(cmk.recipient().to_string().parse::<VerifyingKey>(), Err(KeyError::WrongKind { .. })));
        assert!(matches!(SenderKey::from_text(&cmk.to_text()), Err(KeyError::WrongKind { .. })));
    }

    /// Proves TXT-8. The two points of order eight are y of the small subgroup's generator and its negative.
    #[test]
    fn verifying_keys_are_vetted() {
        let mut p = [0xff; 32];
        (p[0], p[31]) = (0xed, 0x7f);
        let with = |first: u8, top: u8| {
            let mut key = [0; 32];
            (key[0], key[31]) = (first, top);
            key
        };
        let order_8 = "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05";
        let other_8 = "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a";
        let minus_one = std::array::from_fn(|i| if i == 0 { 0xec } else { p[i] });
        for (weak, why) in [
            (with(1, 0), "large order"),
            (with(1, 0x80), "large order"),
            (with(0, 0), "large order"),
            (with(0, 0x80), "large order"),
            (minus_one, "large order"),
            (hex(order_8), "large order"),
            (hex(other_8), "large order"),
            (with(2, 0), "no point"),
            (p, "canonical"),
            (std::array::from_fn(|i| if i == 0 { 0xee } else { p[i] }), "canonical"),
            ([0xff; 32], "canonical"),
        ] {
            let refused = VerifyingKey::from_ed25519(weak).unwrap_err();
            assert!(refused.to_string().contains(why), "{refused}");
            let string = text::encode_sender(&weak);
            assert_eq!(string.parse::<VerifyingKey>(), Err(refused.clone()));
            assert_eq!(VerifyingKey::from_pem(&pem::write_public(&weak, pem::ED25519).unwrap()), Err(refused));
        }
    }
}
