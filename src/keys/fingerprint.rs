use std::fmt;

use crate::{crypto::backend, wire::Kem};

/// The name of a public key: 32 bytes that stand for KEM and key (spec 6.3).
///
/// Displays as six groups of five digits (spec 12.4), to be compared aloud in any language.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    pub(crate) fn of(kem: Kem, public: &[u8]) -> Self {
        Self(backend::sha256(&[b"sealwire v1 key", &kem.id().to_be_bytes(), public]))
    }

    /// The 32 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The hint that never changes (spec 6.3).
    pub(crate) fn static_hint(&self) -> [u8; 4] {
        first4(&self.0)
    }

    /// The hint under one block's salt (spec 6.3).
    pub(crate) fn rotating_hint(&self, salt: &[u8; 16]) -> [u8; 4] {
        first4(&backend::sha256(&[b"sealwire v1 hint", salt, &self.0]))
    }
}

fn first4(hash: &[u8; 32]) -> [u8; 4] {
    let [a, b, c, d, ..] = *hash;
    [a, b, c, d]
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, group) in self.0.chunks_exact(5).enumerate() {
            let number = group.iter().fold(0u64, |n, byte| n << 8 | u64::from(*byte)) % 100_000;
            write!(f, "{}{number:05}", if i == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// spec 12.4, by hand: 7, 100,000, 2^40 - 1, 0x0102030405, 99,999 and 2^32, modulo 100,000; two bytes are not shown.
    #[test]
    fn people_read_six_groups_of_five_digits() {
        let groups = [[0, 0, 0, 0, 7], [0, 0, 1, 0x86, 0xa0], [0xff; 5], [1, 2, 3, 4, 5], [0, 0, 1, 0x86, 0x9f], [1, 0, 0, 0, 0]];
        let mut hash = [0xee; 32];
        hash.iter_mut().zip(groups.as_flattened()).for_each(|(to, from)| *to = *from);
        assert_eq!(Fingerprint(hash).to_string(), "00007 00000 27775 19365 99999 67296");
    }
}
