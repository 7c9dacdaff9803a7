//! X-Wing (draft-connolly-cfrg-xwing-kem), the KEM of suites 3 and 4: ML-KEM-768 and X25519, of which one that holds is enough.
//!
//! HPKE takes its shared secret as it is, KEM id 647a (draft-ietf-hpke-pq): no label and no context come in between.

use super::{
    Refused, Secret32,
    backend::{self, CIPHERTEXT_LEN, MlKemKey, MlKemPublic, PUBLIC_LEN},
    kem::{self, SharedSecret},
};

/// Bytes of a public key: that of ML-KEM, then that of X25519.
pub(crate) const XWING_PUBLIC_LEN: usize = PUBLIC_LEN + 32;
/// Bytes of enc: ML-KEM's ciphertext, then an X25519 public key.
pub(crate) const XWING_ENC_LEN: usize = CIPHERTEXT_LEN + 32;

const LABEL: &[u8; 6] = br"\.//^\";

/// A secret key, which is a seed of 32 bytes, expanded once.
pub(crate) struct XWingKey {
    ml_kem: MlKemKey,
    x25519: backend::DhKey,
    x25519_public: [u8; 32],
}

impl XWingKey {
    /// expandDecapsulationKey: the seeds of both halves.
    pub(crate) fn new(seed: &Secret32) -> Self {
        let expanded = backend::shake256::<96>(seed.bytes());
        let mut ml_kem = zeroize::Zeroizing::new([0; 64]);
        let mut x25519 = Secret32::zeroed();
        ml_kem.iter_mut().chain(x25519.bytes_mut()).zip(expanded.iter()).for_each(|(to, from)| *to = *from);
        Self {
            ml_kem: MlKemKey::new(&ml_kem),
            x25519_public: backend::x25519_public(x25519.bytes()),
            x25519: backend::DhKey::new(&x25519),
        }
    }

    /// The public key, which needs no vetting.
    pub(crate) fn public(&self) -> XWingPublic {
        let ml_kem = self.ml_kem.public();
        XWingPublic { bytes: joined(&ml_kem.bytes(), &self.x25519_public), ml_kem, x25519: self.x25519_public }
    }

    /// Decapsulate(ct, sk), refusing the all-zero result of X25519. [WRAP-1] enc is taken as received. [WRAP-4]
    pub(crate) fn decapsulate(&self, enc: &[u8; XWING_ENC_LEN]) -> Result<SharedSecret, Refused> {
        let (ciphertext, x25519) = split::<CIPHERTEXT_LEN>(enc)?;
        let (from_ml_kem, from_x25519) = (self.ml_kem.decapsulate(ciphertext), self.x25519.agree(x25519)?);
        Ok(combine(&from_ml_kem, &from_x25519, x25519, &self.x25519_public))
    }
}

/// A public key that was vetted, expanded once.
pub(crate) struct XWingPublic {
    bytes: [u8; XWING_PUBLIC_LEN],
    ml_kem: MlKemPublic,
    x25519: [u8; 32],
}

impl XWingPublic {
    /// Vets both halves. [WRAP-2] [WRAP-8]
    pub(crate) fn new(bytes: &[u8; XWING_PUBLIC_LEN]) -> Result<Self, &'static str> {
        let (ml_kem, x25519) = split::<PUBLIC_LEN>(bytes).map_err(|_| "is too short")?;
        kem::vet_public(x25519)?;
        let ml_kem = MlKemPublic::new(ml_kem).map_err(|_| "has a coefficient that is not below the modulus")?;
        Ok(Self { bytes: *bytes, ml_kem, x25519: *x25519 })
    }

    pub(crate) fn bytes(&self) -> &[u8; XWING_PUBLIC_LEN] {
        &self.bytes
    }

    /// EncapsulateDerand(pk, eseed): `random` is the first half of eseed, for ML-KEM, and `ephemeral` the other. Both are used
    /// up: no two slots share them. [WRAP-5]
    pub(crate) fn encapsulate(
        &self,
        random: Secret32,
        ephemeral: Secret32,
    ) -> Result<([u8; XWING_ENC_LEN], SharedSecret), Refused> {
        let ephemeral = backend::DhKey::new(&ephemeral);
        let x25519 = ephemeral.public()?;
        let (ciphertext, from_ml_kem) = self.ml_kem.encapsulate(&random);
        let from_x25519 = ephemeral.agree(&self.x25519)?;
        Ok((joined(&ciphertext, &x25519), combine(&from_ml_kem, &from_x25519, &x25519, &self.x25519)))
    }
}

/// Combiner: ML-KEM's secret stands for its own ciphertext and key, which it depends on; X25519's does not, so they stand beside it.
fn combine(from_ml_kem: &Secret32, from_x25519: &Secret32, enc: &[u8; 32], public: &[u8; 32]) -> SharedSecret {
    SharedSecret(backend::sha3_256(&[from_ml_kem.bytes(), from_x25519.bytes(), enc, public, LABEL]))
}

fn joined<const N: usize>(first: &[u8], second: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.iter_mut().zip(first.iter().chain(second)).for_each(|(to, from)| *to = *from);
    out
}

/// ML-KEM's part, and the 32 bytes of X25519's.
fn split<const N: usize>(bytes: &[u8]) -> Result<(&[u8; N], &[u8; 32]), Refused> {
    let (first, rest) = bytes.split_first_chunk::<N>().ok_or(Refused)?;
    Ok((first, rest.try_into().map_err(|_| Refused)?))
}
