//! A stand-in for a cloud's KMS, in memory, so that the examples run anywhere. It does what the verbs of such a service do, and it is none:
//! put your provider's client in its place.

use std::collections::HashMap;

use chacha20poly1305::{ChaCha20Poly1305, KeyInit, aead::Aead};
use rand::TryRng;

#[derive(Default)]
pub struct Kms {
    keys: HashMap<String, ChaCha20Poly1305>,
}

/// What GenerateDataKey answers.
pub struct Generated {
    pub plaintext: [u8; 32],
    pub ciphertext: Vec<u8>,
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::rngs::SysRng.try_fill_bytes(&mut bytes).expect("the system has randomness");
    bytes
}

impl Kms {
    /// CreateKey: a CMK that never leaves.
    pub fn create_key(&mut self, id: &str) {
        self.keys.insert(id.into(), ChaCha20Poly1305::new((&random::<32>()).into()));
    }

    /// GenerateDataKey: 256 bits, in plaintext and encrypted under the CMK.
    pub fn generate_data_key(&self, id: &str) -> Option<Generated> {
        let (plaintext, nonce) = (random::<32>(), random::<12>());
        let sealed = self.keys.get(id)?.encrypt((&nonce).into(), &plaintext[..]).ok()?;
        Some(Generated { plaintext, ciphertext: [&nonce[..], &sealed].concat() })
    }

    /// Decrypt: the plaintext of a data key, as long as its CMK is there.
    pub fn decrypt(&self, id: &str, ciphertext: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = ciphertext.split_first_chunk::<12>()?;
        self.keys.get(id)?.decrypt(nonce.into(), sealed).ok()
    }

    /// ScheduleKeyDeletion, without the days of grace.
    pub fn delete_key(&mut self, id: &str) {
        self.keys.remove(id);
    }
}
