//! DHKEM(X25519, HKDF-SHA256), RFC 9180 §4.1.

use super::{Refused, Secret32, backend, hpke};

const KEM_ID: [u8; 5] = *b"KEM\x00\x20";

/// The result of an encapsulation or decapsulation: 32 bytes that only the two ends know.
pub struct SharedSecret(pub(crate) Secret32);

impl SharedSecret {
    /// What RFC 9180 §4.1 makes of a Diffie-Hellman result: for keys whose one secret step runs elsewhere.
    ///
    /// `dh` is the raw X25519 result, `enc` the encapsulated key, `public` the receiver's own.
    ///
    /// # Errors
    /// [`NotContributory`] for the all-zero result, whatever the token or service says of it.
    pub fn from_x25519(dh: &[u8; 32], enc: &[u8; 32], public: &[u8; 32]) -> Result<Self, NotContributory> {
        // [WRAP-1]
        if backend::same(dh, &[0; 32]) {
            return Err(NotContributory);
        }
        extract_and_expand(&Secret32::copied(dh), enc, public).map_err(|_| NotContributory)
    }

    /// What X-Wing's decapsulation gave (spec 6.1.1), for keys that are held elsewhere. Wipe your own copy.
    ///
    /// Whoever decapsulates answers the all-zero result of X25519 with an error and not with this.
    #[cfg(feature = "pq")]
    #[must_use]
    pub fn from_xwing(shared: &[u8; 32]) -> Self {
        Self(Secret32::copied(shared))
    }
}

/// A Diffie-Hellman result that does not depend on the secret: the other side sent a point of small order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the Diffie-Hellman result is all zero")]
pub struct NotContributory;

/// An ephemeral key pair; all X25519 slots of one block share it (RFC 9180 stays true: pkR is in the KDF).
/// [WRAP-5]
pub(crate) struct Ephemeral {
    secret: backend::DhKey,
    pub(crate) enc: [u8; 32],
}

impl Ephemeral {
    pub(crate) fn new(secret: &Secret32) -> Result<Self, Refused> {
        let secret = backend::DhKey::new(secret);
        let enc = secret.public()?;
        Ok(Self { secret, enc })
    }

    /// Encap(pkR) with this ephemeral.
    pub(crate) fn encapsulate(&self, public: &[u8; 32]) -> Result<SharedSecret, Refused> {
        let dh = self.secret.agree(public)?;
        extract_and_expand(&dh, &self.enc, public)
    }
}

/// Decap(enc, skR), with pkR beside skR so that it is not computed again. `enc` is taken as received: a
/// non-canonical one is not refused, since the KDF sees its bytes. [WRAP-4]
pub(crate) fn decapsulate(secret: &backend::DhKey, public: &[u8; 32], enc: &[u8; 32]) -> Result<SharedSecret, Refused> {
    let dh = secret.agree(enc)?;
    extract_and_expand(&dh, enc, public)
}

fn extract_and_expand(dh: &Secret32, enc: &[u8; 32], public: &[u8; 32]) -> Result<SharedSecret, Refused> {
    let eae_prk = hpke::labeled_extract(&KEM_ID, &[], b"eae_prk", dh.bytes());
    let mut shared = Secret32::zeroed();
    let expander = backend::Expander::new(&eae_prk)?;
    hpke::labeled_expand(&expander, &KEM_ID, b"shared_secret", &[enc, public], shared.bytes_mut())?;
    Ok(SharedSecret(shared))
}

/// Whether a public key may be used: canonical, and not of small order (so not all-zero either).
///
/// A clamped scalar is a multiple of eight and smaller than the order of the base point, so the result is zero
/// for points of small order and for no others.
pub(crate) fn vet_public(public: &[u8; 32]) -> Result<(), &'static str> {
    // [WRAP-2]
    if !is_canonical(public) {
        return Err("is not canonical");
    }
    backend::DhKey::new(&Secret32::copied(&[0x40; 32])).agree(public).map(|_| ()).map_err(|_| "is of small order")
}

/// Below 2^255 − 19, top bit clear; little-endian.
pub(super) fn is_canonical(public: &[u8; 32]) -> bool {
    let mut p = [0xff; 32];
    let [first, .., last] = &mut p;
    (*first, *last) = (0xed, 0x7f);
    public.iter().rev().lt(p.iter().rev())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn le(first: u8, middle: u8, last: u8) -> [u8; 32] {
        let mut key = [middle; 32];
        (key[0], key[31]) = (first, last);
        key
    }

    /// Proves WRAP-2. The two points of order eight are those that RFC 7748's authors list.
    #[test]
    fn public_keys_are_vetted() {
        let order_8 = "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800";
        let other_8 = "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157";
        let hex = |s: &str| -> [u8; 32] { std::array::from_fn(|i| u8::from_str_radix(&s[2 * i..2 * i + 2], 16).unwrap()) };
        for small in [[0; 32], le(1, 0, 0), le(0xec, 0xff, 0x7f), hex(order_8), hex(other_8)] {
            assert_eq!(vet_public(&small), Err("is of small order"));
        }
        for high in [le(0xed, 0xff, 0x7f), le(0xff, 0xff, 0x7f), le(9, 0, 0x80), [0xff; 32]] {
            assert_eq!(vet_public(&high), Err("is not canonical"));
        }
        assert!(vet_public(&le(9, 0, 0)).is_ok());
        assert!(vet_public(&le(0xeb, 0xff, 0x7f)).is_ok());
    }

    /// Proves WRAP-1: a zero result from elsewhere is refused too.
    #[test]
    fn a_zero_result_is_refused() {
        assert!(SharedSecret::from_x25519(&[0; 32], &[1; 32], &[2; 32]).is_err());
        assert!(SharedSecret::from_x25519(&[1; 32], &[1; 32], &[2; 32]).is_ok());
        assert!(decapsulate(&backend::DhKey::new(&Secret32::copied(&[1; 32])), &[2; 32], &[0; 32]).is_err());
    }

    /// Proves WRAP-4: 9 and 9 + p are the same point; the KDF tells them apart, and both decapsulate.
    #[test]
    fn a_non_canonical_enc_is_taken_as_received() {
        let secret = backend::DhKey::new(&Secret32::copied(&[7; 32]));
        let public = secret.public().unwrap();
        let canonical = decapsulate(&secret, &public, &le(9, 0, 0)).unwrap();
        let other = decapsulate(&secret, &public, &le(9, 0, 0x80)).unwrap();
        assert_ne!(canonical.0.bytes(), other.0.bytes());
    }
}
