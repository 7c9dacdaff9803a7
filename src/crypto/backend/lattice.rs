//! RustCrypto's ML-KEM-768 (FIPS 203), SHA3-256 and SHAKE256: what X-Wing is made of besides X25519.

use ml_kem::{
    kem::{Decapsulate, KeyExport},
    ml_kem_768::{DecapsulationKey, EncapsulationKey},
};
use sha3::{Digest, Sha3_256};
use shake::{ExtendableOutput, Shake256, Update, XofReader};
use zeroize::{Zeroize, Zeroizing};

use crate::crypto::{Refused, Secret32};

/// Bytes of an ML-KEM-768 encapsulation key.
pub(crate) const PUBLIC_LEN: usize = 1184;
/// Bytes of an ML-KEM-768 ciphertext.
pub(crate) const CIPHERTEXT_LEN: usize = 1088;

/// A decapsulation key, expanded once.
pub(crate) struct MlKemKey(DecapsulationKey);

impl MlKemKey {
    /// KeyGen_internal (FIPS 203 §6.1) from `d ‖ z`.
    pub(crate) fn new(seed: &[u8; 64]) -> Self {
        let mut seed = ml_kem::Seed::from(*seed);
        let key = DecapsulationKey::from_seed(seed);
        seed.zeroize();
        Self(key)
    }

    /// The encapsulation key.
    pub(crate) fn public(&self) -> MlKemPublic {
        MlKemPublic(self.0.encapsulation_key().clone())
    }

    /// Decaps (FIPS 203 §7.3): a ciphertext that was changed gives another secret, and no error.
    pub(crate) fn decapsulate(&self, ciphertext: &[u8; CIPHERTEXT_LEN]) -> Secret32 {
        let mut shared = self.0.decapsulate(ciphertext.into());
        let secret = Secret32::copied(&shared.0);
        shared.zeroize();
        secret
    }
}

/// An encapsulation key, checked and expanded once.
pub(crate) struct MlKemPublic(EncapsulationKey);

impl MlKemPublic {
    /// Checks that every coefficient is below the modulus (FIPS 203 §7.2).
    pub(crate) fn new(bytes: &[u8; PUBLIC_LEN]) -> Result<Self, Refused> {
        EncapsulationKey::new(bytes.into()).map(Self).map_err(|_| Refused)
    }

    pub(crate) fn bytes(&self) -> [u8; PUBLIC_LEN] {
        self.0.to_bytes().into()
    }

    /// Encaps_internal (FIPS 203 §6.2): ciphertext and shared secret out of 32 random bytes.
    pub(crate) fn encapsulate(&self, random: &Secret32) -> ([u8; CIPHERTEXT_LEN], Secret32) {
        let (ciphertext, mut shared) = self.0.encapsulate_deterministic(random.bytes().into());
        let secret = Secret32::copied(&shared.0);
        shared.zeroize();
        (ciphertext.into(), secret)
    }
}

/// SHA3-256 (FIPS 202) of the parts.
pub(crate) fn sha3_256(parts: &[&[u8]]) -> Secret32 {
    let mut hash = Sha3_256::new();
    for part in parts {
        Digest::update(&mut hash, part);
    }
    let mut secret = Secret32::zeroed();
    hash.finalize_into(secret.bytes_mut().into());
    secret
}

/// The first bytes of SHAKE256 (FIPS 202) of `input`.
pub(crate) fn shake256<const N: usize>(input: &[u8]) -> Zeroizing<[u8; N]> {
    let mut hash = Shake256::default();
    hash.update(input);
    let mut out = Zeroizing::new([0; N]);
    hash.finalize_xof().read(&mut out[..]);
    out
}
