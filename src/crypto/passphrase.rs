//! A passphrase -> a key, and what commits to it (spec 12.6): Argon2id, RFC 9106.

use argon2::{Algorithm, Argon2, Block, Params, Version};
use zeroize::Zeroizing;

use super::{Refused, Secret32};

/// What Argon2id takes, in its own measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cost {
    /// Passes over the memory, t.
    pub(crate) passes: u32,
    /// Memory in KiB, m.
    pub(crate) kib: u32,
    /// Lanes, p.
    pub(crate) lanes: u8,
}

/// What a passphrase and a salt give.
pub(crate) struct Derived {
    pub(crate) key: Secret32,
    pub(crate) commitment: Secret32,
}

/// `key ‖ commitment = Argon2id(passphrase, salt, t, m, p, 64 bytes)`.
///
/// The caller has compared the cost with its bounds. What is refused then is what the system cannot give: the memory.
pub(crate) fn derive(passphrase: &[u8], salt: &[u8; 16], cost: Cost) -> Result<Derived, Refused> {
    let params = Params::new(cost.kib, cost.passes, cost.lanes.into(), Some(64)).map_err(|_| Refused)?;
    // Wiped with everything that the passphrase made of it.
    let mut memory = Zeroizing::new(Vec::<Block>::new());
    memory.try_reserve_exact(params.block_count()).map_err(|_| Refused)?;
    memory.resize(params.block_count(), Block::new());
    let mut okm = Zeroizing::new([[0; 32]; 2]);
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    argon2.hash_password_into_with_memory(passphrase, salt, okm.as_flattened_mut(), &mut memory[..]).map_err(|_| Refused)?;
    let [key, commitment] = &*okm;
    Ok(Derived { key: Secret32::copied(key), commitment: Secret32::copied(commitment) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same from OpenSSL's Argon2id (4.0.3, `EVP_KDF` of that name).
    #[test]
    fn it_is_argon2id() {
        let salt = std::array::from_fn(|i| i as u8);
        for (passphrase, passes, kib, lanes, wanted) in [
            (
                "a",
                1,
                8,
                1,
                "55f79775143df30b5984b53031c227a44c29d91d8582176ea3ad18c70ea668142f01e3d6211579db5faf0fd40c76fdd7304ad9e2a1e2349c35f9c4897d376fe2",
            ),
            (
                "p\u{e4}ss",
                3,
                64,
                4,
                "55677234caea2d83aeb8118457d428dbf1be3144de80b1c01a34005ebd982095d35e2dd1eee87502bb4ef9fbb4b89791c47d331168b0cfdfe30271caf3d0b6fe",
            ),
            (
                &"x".repeat(1024),
                2,
                1024,
                2,
                "995c782c4a606d394db8c31bbdb8e17d36dc25d0c1e867cf0816e3f1d54887ffb0101241ed4c518bf4e5f733c4e39c33e75d39572a0a09d67df610b535333690",
            ),
        ] {
            let derived = derive(passphrase.as_bytes(), &salt, Cost { passes, kib, lanes }).unwrap();
            let both = [&derived.key, &derived.commitment].map(|half| half.bytes().map(|byte| format!("{byte:02x}")).concat());
            assert_eq!(both.concat(), wanted);
        }
    }

    #[test]
    fn what_argon2_does_not_take_is_refused() {
        for (passes, kib, lanes) in [(0, 8, 1), (1, 7, 1), (1, 8, 0), (1, 15, 2)] {
            assert!(derive(b"a", &[0; 16], Cost { passes, kib, lanes }).is_err());
        }
    }
}
