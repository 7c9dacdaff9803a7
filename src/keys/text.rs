//! Bech32m strings (spec 12.1): recipients and CMKs with the HPKE kem id (2 bytes) before the key, senders without.

use bech32::{Bech32m, ByteIterExt, Checksum, Fe32, Fe32IterExt, Fe1024, Hrp, primitives::decode::CheckedHrpstring};
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
    // Sized beforehand: a string that grows leaves copies of a secret behind. So would a buffer on the way.
    let mut out = String::with_capacity(hrp.len() + 8 + (data.len() * 8).div_ceil(5));
    let chars = data.iter().copied().bytes_to_fes().with_checksum::<LongBech32m>(&hrp).chars();
    out.extend(chars.map(|c| if upper { c.to_ascii_uppercase() } else { c }));
    debug_assert!(out.len() <= LongBech32m::CODE_LENGTH, "a key is shorter than the code");
    out
}

/// The key of a string, and the KEM that it is for.
pub(super) struct KemKey {
    pub(super) kem: Kem,
    data: Zeroizing<Vec<u8>>,
}

impl KemKey {
    /// The key, of the length that its KEM's have.
    pub(super) fn array<const N: usize>(&self) -> Result<&[u8; N], KeyError> {
        // [TXT-3]
        self.data.get(ID_LEN..).and_then(|key| key.try_into().ok()).ok_or(LENGTH)
    }
}

const ID_LEN: usize = 2;
const LENGTH: KeyError = KeyError::Damaged("the key has another length than its kind's");

pub(super) fn decode_recipient(s: &str) -> Result<KemKey, KeyError> {
    decode_kem_key(s, RECIPIENT, WANTED_RECIPIENT)
}

pub(super) fn decode_cmk(s: &str) -> Result<KemKey, KeyError> {
    decode_kem_key(s, CMK, WANTED_CMK)
}

fn decode_kem_key(s: &str, hrp: &str, wanted: &'static str) -> Result<KemKey, KeyError> {
    let data = decode(s, hrp, wanted)?;
    let (id, _) = data.split_first_chunk().ok_or(KeyError::Damaged("it is too short"))?;
    let id = u16::from_be_bytes(*id);
    // [TXT-2]
    let kem = [Kem::X25519, Kem::XWing].into_iter().find(|kem| kem.id() == id).ok_or(KeyError::UnsupportedKem(id))?;
    Ok(KemKey { kem, data })
}

pub(super) fn decode_sender(s: &str) -> Result<[u8; 32], KeyError> {
    decode(s, SENDER, WANTED_SENDER)?[..].try_into().map_err(|_| LENGTH)
}

pub(super) fn decode_sender_secret(s: &str) -> Result<Secret32, KeyError> {
    let data = decode(s, SENDER_SECRET, WANTED_SENDER_SECRET)?;
    data[..].try_into().map(Secret32::copied).map_err(|_| LENGTH)
}

/// Whether `s` starts as a key string of this kind does.
fn has_prefix(s: &str, hrp: &str) -> bool {
    s.get(..hrp.len()).is_some_and(|p| p.eq_ignore_ascii_case(hrp)) && s.as_bytes().get(hrp.len()) == Some(&b'1')
}

/// How the strings of secret keys begin, under a passphrase too.
#[cfg(feature = "passphrase")]
const SECRETS: [&str; 3] = ["sw-secret-", "sw-protected-key-1", "age-secret-key-"];

/// Whether a secret key's string begins anywhere in a text, in upper case or lower.
#[cfg(feature = "passphrase")]
pub(crate) fn names_secret(text: &[u8]) -> bool {
    SECRETS.iter().any(|secret| text.windows(secret.len()).any(|part| part.eq_ignore_ascii_case(secret.as_bytes())))
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

/// The data of a string.
fn decode(s: &str, hrp: &str, wanted: &'static str) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    // [TXT-1]
    if !has_prefix(s, hrp) {
        return Err(KeyError::WrongKind { found: Kind::of(s).map_or("something else", Kind::describe), wanted });
    }
    let parsed = CheckedHrpstring::new::<LongBech32m>(s).map_err(|_| KeyError::Damaged("the checksum does not hold"))?;
    let mut data = Zeroizing::new(Vec::with_capacity(s.len()));
    data.extend(parsed.byte_iter());
    // [TXT-4]
    if !is_padded_with_zeros(&parsed) {
        return Err(KeyError::Damaged("its padding is not zero"));
    }
    Ok(data)
}

/// Whether the bits behind the last whole byte are zero, and fewer than a symbol. Encoding it again would tell too, and leave a secret's string behind.
pub(super) fn is_padded_with_zeros(parsed: &CheckedHrpstring<'_>) -> bool {
    let symbols = parsed.data_part_ascii_no_checksum();
    let bits = symbols.len() * 5 % 8;
    let last = symbols.last().and_then(|&last| Fe32::from_char(last.into()).ok()).map_or(0, Fe32::to_u8);
    bits < 5 && last & ((1 << bits) - 1) == 0
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
        let read = |s: &str| decode_recipient(s).and_then(|key| Ok((key.kem, *key.array::<32>()?)));
        assert_eq!(read(&good), Ok((Kem::X25519, [9; 32])));
        assert_eq!(read(&good.to_uppercase()), read(&good));
        let mixed: String = good.chars().enumerate().map(|(i, c)| if i % 2 == 0 { c.to_ascii_uppercase() } else { c }).collect();
        assert!(decode_recipient(&mixed).is_err());
        assert!(matches!(read(&good[1..]), Err(KeyError::WrongKind { .. })));
        for len in [31, 33] {
            let other = encode_recipient(Kem::X25519, &[9; 33][..len]);
            assert_eq!(read(&other), Err(LENGTH));
        }
        let unknown = encode(RECIPIENT, &[0x64, 0x7b], &[9; 32], false);
        assert_eq!(read(&unknown), Err(KeyError::UnsupportedKem(0x647b)));
        assert_eq!(read(&encode(RECIPIENT, &[], &[0x64], false)), Err(KeyError::Damaged("it is too short")));
        let kind = |refused| match refused {
            Err(KeyError::WrongKind { found, .. }) => found,
            _ => "no other kind",
        };
        assert_eq!(kind(decode_recipient(&encode_cmk(Kem::X25519, &[9; 32])).map(|_| ())), "a secret key");
        assert_eq!(kind(decode_cmk(&good).map(|_| ())), "a recipient, the public half of a key");
        for len in [31, 33] {
            let (sender, secret) =
                (encode(SENDER, &[], &[9; 33][..len], false), encode(SENDER_SECRET, &[], &[9; 33][..len], true));
            assert_eq!((decode_sender(&sender), decode_sender_secret(&secret).map(|_| ())), (Err(LENGTH), Err(LENGTH)));
        }
        for i in 4..good.len() {
            let mut bytes = good.clone().into_bytes();
            bytes[i] = if bytes[i] == b'q' { b'p' } else { b'q' };
            assert!(decode_recipient(std::str::from_utf8(&bytes).unwrap()).is_err());
        }
    }

    /// Proves TXT-4: the last symbol has three bits that carry nothing.
    #[test]
    fn padding_bits_are_zero() {
        let data: Vec<u8> = [&[0, 0x20][..], &[9; 32]].concat();
        let symbols: Vec<Fe32> = data.iter().copied().bytes_to_fes().collect();
        let hrp = Hrp::parse(RECIPIENT).unwrap();
        let read = |symbols: Vec<Fe32>| {
            let text: String = symbols.into_iter().with_checksum::<LongBech32m>(&hrp).chars().collect();
            decode_recipient(&text).map(|_| ())
        };
        assert_eq!(read(symbols.clone()), Ok(()));
        for mask in 1..8 {
            let mut odd = symbols.clone();
            let last = odd.last_mut().unwrap();
            *last = Fe32::try_from(last.to_u8() | mask).unwrap();
            assert_eq!(read(odd), Err(KeyError::Damaged("its padding is not zero")), "{mask}");
        }
        // A symbol of which nothing is needed, where its bits are zero too.
        for more in 1..9 {
            let longer = [&symbols[..], &vec![Fe32::Q; more]].concat();
            let spare = longer.len() * 5 % 8;
            let strict = read(longer) == Err(KeyError::Damaged("its padding is not zero"));
            assert_eq!(strict, spare >= 5, "{more}");
        }
    }

    /// A build without X-Wing knows what it is that it cannot use.
    #[cfg(not(feature = "pq"))]
    #[test]
    fn post_quantum_keys_are_named_where_they_are_not_built() {
        use crate::keys::{Cmk, Recipient};
        let recipient = encode_recipient(Kem::XWing, &[9; 1216]).parse::<Recipient>();
        assert_eq!(recipient, Err(KeyError::WithoutPq));
        let cmk = Cmk::from_text(&encode_cmk(Kem::XWing, &[9; 32])).map(|_| ()).unwrap_err();
        assert!(cmk.to_string().contains("`pq`"), "{cmk}");
    }
}
