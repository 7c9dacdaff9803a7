//! Bech32m strings (spec 12.1): recipients and CMKs with the HPKE kem id (2 bytes) before the key, senders without.

use bech32::{Bech32m, Checksum, Fe1024, Hrp, primitives::decode::CheckedHrpstring};
use zeroize::Zeroizing;

use super::{KeyError, age};
use crate::{crypto::Secret32, wire::Kem};

const RECIPIENT: &str = "swr";
const CMK: &str = "sw-secret-cmk-";
const SENDER: &str = "sws";
const SENDER_SECRET: &str = "sw-secret-sender-";
pub(super) const PROTECTED: &str = "sw-protected-key-";

const WANTED_RECIPIENT: &str = "a recipient (swr1…)";
const WANTED_CMK: &str = "a secret key (SW-SECRET-CMK-1…)";
const WANTED_SENDER: &str = "a sender (sws1…)";
const WANTED_SENDER_SECRET: &str = "a sender's secret key (SW-SECRET-SENDER-1…)";

/// Bech32m without its limit on length: post-quantum public keys are 1,218 bytes.
pub(super) enum LongBech32m {}

impl Checksum for LongBech32m {
    type MidstateRepr = u32;
    type CorrectionField = Fe1024;
    const ROOT_GENERATOR: Fe1024 = Bech32m::ROOT_GENERATOR;
    const ROOT_EXPONENTS: core::ops::RangeInclusive<usize> = Bech32m::ROOT_EXPONENTS;
    const CODE_LENGTH: usize = 4096;
    const CHECKSUM_LENGTH: usize = Bech32m::CHECKSUM_LENGTH;
    const GENERATOR_SH: [u32; 5] = Bech32m::GENERATOR_SH;
    const TARGET_RESIDUE: u32 = Bech32m::TARGET_RESIDUE;
}

pub(super) fn encode_recipient(kem: Kem, public: &[u8]) -> String {
    encode(RECIPIENT, &kem.id().to_be_bytes(), public, false)
}

pub(super) fn encode_cmk(kem: Kem, secret: &[u8]) -> Zeroizing<String> {
    Zeroizing::new(encode(CMK, &kem.id().to_be_bytes(), secret, true))
}

pub(super) fn encode_sender(public: &[u8; 32]) -> String {
    encode(SENDER, &[], public, false)
}

pub(super) fn encode_sender_secret(secret: &[u8; 32]) -> Zeroizing<String> {
    Zeroizing::new(encode(SENDER_SECRET, &[], secret, true))
}

fn encode(hrp: &str, kem_id: &[u8], key: &[u8], upper: bool) -> String {
    let hrp = Hrp::parse_unchecked(hrp);
    let mut data = Zeroizing::new(Vec::with_capacity(key.len() + 2));
    data.extend(kem_id);
    data.extend(key);
    // Sized beforehand: a string that grows leaves copies of a secret behind.
    let mut out = String::with_capacity(hrp.len() + 8 + (data.len() * 8).div_ceil(5));
    let written = if upper {
        bech32::encode_upper_to_fmt::<LongBech32m, _>(&mut out, hrp, &data)
    } else {
        bech32::encode_lower_to_fmt::<LongBech32m, _>(&mut out, hrp, &data)
    };
    debug_assert!(written.is_ok(), "a key is shorter than the code");
    out
}

pub(super) fn decode_recipient(s: &str) -> Result<[u8; 32], KeyError> {
    let key = decode(s, RECIPIENT, &Kem::X25519.id().to_be_bytes(), WANTED_RECIPIENT)?;
    Ok(*key.bytes())
}

pub(super) fn decode_cmk(s: &str) -> Result<Secret32, KeyError> {
    decode(s, CMK, &Kem::X25519.id().to_be_bytes(), WANTED_CMK)
}

pub(super) fn decode_sender(s: &str) -> Result<[u8; 32], KeyError> {
    Ok(*decode(s, SENDER, &[], WANTED_SENDER)?.bytes())
}

pub(super) fn decode_sender_secret(s: &str) -> Result<Secret32, KeyError> {
    decode(s, SENDER_SECRET, &[], WANTED_SENDER_SECRET)
}

/// Whether `s` starts as a key string of this kind does.
fn has_prefix(s: &str, hrp: &str) -> bool {
    s.get(..hrp.len()).is_some_and(|p| p.eq_ignore_ascii_case(hrp)) && s.as_bytes().get(hrp.len()) == Some(&b'1')
}

/// What a key string is, as its human-readable part says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Recipient,
    Cmk,
    Sender,
    SenderSecret,
    /// Either secret key, under a passphrase.
    Protected,
    /// An age key's public half.
    Age,
    /// An age key.
    AgeSecret,
}

impl Kind {
    pub(super) fn of(s: &str) -> Option<Self> {
        let kinds = [
            (RECIPIENT, Self::Recipient),
            (CMK, Self::Cmk),
            (SENDER, Self::Sender),
            (SENDER_SECRET, Self::SenderSecret),
            (PROTECTED, Self::Protected),
            (age::RECIPIENT, Self::Age),
            (age::SECRET, Self::AgeSecret),
        ];
        kinds.into_iter().find(|(hrp, _)| has_prefix(s, hrp)).map(|(_, kind)| kind)
    }

    pub(super) fn describe(self) -> &'static str {
        match self {
            Self::Recipient => "a recipient, the public half of a key",
            Self::Cmk => "a secret key",
            Self::Sender => "a sender, the public half of a sender's key",
            Self::SenderSecret => "a sender's secret key, which signs and opens nothing",
            Self::Protected => "a secret key under a passphrase",
            Self::Age => "an age recipient, the public half of a key",
            Self::AgeSecret => "an age key, which is secret",
        }
    }
}

fn decode(s: &str, hrp: &str, kem_id: &[u8], wanted: &'static str) -> Result<Secret32, KeyError> {
    // [TXT-1]
    if !has_prefix(s, hrp) {
        return Err(KeyError::WrongKind { found: Kind::of(s).map_or("something else", Kind::describe), wanted });
    }
    let parsed = CheckedHrpstring::new::<LongBech32m>(s).map_err(|_| KeyError::Damaged("the checksum does not hold"))?;
    let mut data = Zeroizing::new(Vec::with_capacity(s.len()));
    data.extend(parsed.byte_iter());
    let (id, key) = data.split_at_checked(kem_id.len()).ok_or(KeyError::Damaged("it is too short"))?;
    // [TXT-2]
    if id != kem_id {
        return Err(KeyError::UnsupportedKem(id.iter().fold(0, |id, byte| id << 8 | u16::from(*byte))));
    }
    // [TXT-3]
    let key: &[u8; 32] = key.try_into().map_err(|_| KeyError::Damaged("the key is not 32 bytes"))?;
    // [TXT-4]
    let again = Zeroizing::new(encode(hrp, kem_id, key, false));
    if !again.eq_ignore_ascii_case(s) {
        return Err(KeyError::Damaged("its padding is not zero"));
    }
    Ok(Secret32::copied(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_strings_keep_the_code_sane() {
        LongBech32m::sanity_check();
        let long = encode_recipient(Kem::XWing, &[0x5a; 1216]);
        let parsed = CheckedHrpstring::new::<LongBech32m>(&long).unwrap();
        assert_eq!(parsed.byte_iter().count(), 1218);
    }

    /// A standard string decodes by the same code: the constants are Bech32m's (BIP-350's own example).
    #[test]
    fn the_checksum_is_bech32m() {
        assert!(CheckedHrpstring::new::<LongBech32m>("abcdef1l7aum6echk45nj3s0wdvt2fg8x9yrzpqzd3ryx").is_ok());
        assert!(CheckedHrpstring::new::<LongBech32m>("abcdef1qpzry9x8gf2tvdw0s3jn54khce6mua7lmqqqxw").is_err());
    }

    /// Proves TXT-1, TXT-2, TXT-3, TXT-4.
    #[test]
    fn strings_are_strict() {
        let good = encode_recipient(Kem::X25519, &[9; 32]);
        assert!(decode_recipient(&good).is_ok());
        assert!(decode_recipient(&good.to_uppercase()).is_ok());
        let mixed: String = good.chars().enumerate().map(|(i, c)| if i % 2 == 0 { c.to_ascii_uppercase() } else { c }).collect();
        assert!(decode_recipient(&mixed).is_err());
        assert!(matches!(decode_recipient(&good[1..]), Err(KeyError::WrongKind { .. })));
        for len in [31, 33] {
            let other = encode_recipient(Kem::X25519, &[9; 33][..len]);
            assert_eq!(decode_recipient(&other), Err(KeyError::Damaged("the key is not 32 bytes")));
        }
        assert!(matches!(decode_recipient(&encode_recipient(Kem::XWing, &[9; 32])), Err(KeyError::UnsupportedKem(0x647a))));
        let kind = |refused| match refused {
            Err(KeyError::WrongKind { found, .. }) => found,
            _ => "no other kind",
        };
        assert_eq!(kind(decode_recipient(&encode_cmk(Kem::X25519, &[9; 32])).map(|_| ())), "a secret key");
        assert_eq!(kind(decode_cmk(&good).map(|_| ())), "a recipient, the public half of a key");
        for i in 4..good.len() {
            let mut bytes = good.clone().into_bytes();
            bytes[i] = if bytes[i] == b'q' { b'p' } else { b'q' };
            assert!(decode_recipient(std::str::from_utf8(&bytes).unwrap()).is_err());
        }
    }

    /// Proves TXT-4: the last symbol has three bits that carry nothing.
    #[test]
    fn padding_bits_are_zero() {
        use bech32::{ByteIterExt, Fe32, Fe32IterExt};
        let data: Vec<u8> = [&[0, 0x20][..], &[9; 32]].concat();
        let mut symbols: Vec<Fe32> = data.iter().copied().bytes_to_fes().collect();
        let last = symbols.last_mut().unwrap();
        *last = Fe32::try_from(last.to_u8() | 1).unwrap();
        let hrp = Hrp::parse(RECIPIENT).unwrap();
        let odd: String = symbols.into_iter().with_checksum::<LongBech32m>(&hrp).chars().collect();
        assert_eq!(decode_recipient(&odd), Err(KeyError::Damaged("its padding is not zero")));
    }
}
