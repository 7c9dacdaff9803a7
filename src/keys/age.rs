//! Keys of age (spec 12.7): X25519 keys like ours, in strings of their own (Bech32, not Bech32m).

use bech32::{Bech32, primitives::decode::CheckedHrpstring};
use zeroize::Zeroizing;

use super::{Cmk, KeyError, Recipient, text::is_padded_with_zeros};
use crate::crypto::Secret32;

pub(super) const RECIPIENT: &str = "age";
pub(super) const SECRET: &str = "age-secret-key-";

const OTHER_RECIPIENT: &str = "an age recipient of another kind than X25519 (post-quantum, or a plugin's)";
pub(super) const OTHER_SECRET: &str = "an age key of another kind than X25519 (post-quantum, or a plugin's)";

impl Recipient {
    /// Reads age's form of an X25519 public key, `age1…`. Shown again it is `swr1…`.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn from_age(s: &str) -> Result<Self, KeyError> {
        Self::from_x25519(*decode(s, RECIPIENT, OTHER_RECIPIENT, "an X25519 recipient of age (age1…)")?.bytes())
    }
}

impl Cmk {
    /// Reads age's form of an X25519 secret key, `AGE-SECRET-KEY-1…`. Written again it is `SW-SECRET-CMK-1…`.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn from_age(s: &str) -> Result<Self, KeyError> {
        decode(s, SECRET, OTHER_SECRET, "an X25519 key of age (AGE-SECRET-KEY-1…)")
            .map(|secret| Self::from_x25519(secret.bytes()))
    }
}

/// 32 bytes behind this human-readable part. `other` is what a string is whose part goes on.
fn decode(s: &str, hrp: &str, other: &'static str, wanted: &'static str) -> Result<Secret32, KeyError> {
    let rest = s.get(..hrp.len()).filter(|part| part.eq_ignore_ascii_case(hrp)).and_then(|part| s.strip_prefix(part));
    // [TXT-10] The last 1 ends the human-readable part: that of a plugin's recipient begins with `age1`.
    let Some(data) = rest.and_then(|rest| rest.strip_prefix('1')).filter(|data| !data.contains('1')) else {
        return Err(KeyError::WrongKind { found: if rest.is_some() { other } else { "something else" }, wanted });
    };
    // [TXT-9]
    let parsed = CheckedHrpstring::new::<Bech32>(s).map_err(|_| KeyError::Damaged("the checksum does not hold"))?;
    let mut key = Zeroizing::new(Vec::with_capacity(data.len()));
    key.extend(parsed.byte_iter());
    let key: &[u8; 32] = key.as_slice().try_into().map_err(|_| KeyError::Damaged("the key is not 32 bytes"))?;
    if !is_padded_with_zeros(&parsed) {
        return Err(KeyError::Damaged("its padding is not zero"));
    }
    Ok(Secret32::copied(key))
}

#[cfg(test)]
mod tests {
    use bech32::{Bech32m, ByteIterExt, Fe32, Fe32IterExt, Hrp};

    use super::*;
    use crate::keys::{cmk_from_key_file, recipient_from_text, recipients_from_list};

    /// Secret keys of the CCTV testkit for age, and what `age-keygen -y` (1.1.1) makes of them.
    const PAIRS: [(&str, &str); 2] = [
        (
            "AGE-SECRET-KEY-1EGTZVFFV20835NWYV6270LXYVK2VKNX2MMDKWYKLMGR48UAWX40Q2P2LM0",
            "age1xmwwc06ly3ee5rytxm9mflaz2u56jjj36s0mypdrwsvlul66mv4q47ryef",
        ),
        (
            "AGE-SECRET-KEY-143WN7DCXU4G8R5AXQSSYD9AEPYDNT3HXSLWSPK36CDU6E8M59SSSAGZ3KG",
            "age1f3ygt5e2d2h7d6dae2tnwgy4y6f0kwhvpa64cre0k2gprv2r8qnst4j00y",
        ),
    ];

    #[test]
    fn keys_of_age_are_ours() {
        for (secret, public) in PAIRS {
            let recipient = Recipient::from_age(public).unwrap();
            assert!(recipient.to_string().starts_with("swr1"));
            assert_eq!(Cmk::from_age(secret).unwrap().recipient(), &recipient);
            assert_eq!(Cmk::from_age(&secret.to_lowercase()).unwrap().recipient(), &recipient);
            assert_eq!(Recipient::from_age(&public.to_uppercase()).as_ref(), Ok(&recipient));
            let file = format!("# created: 2024-01-01T00:00:00Z\n# public key: {public}\n{secret}\n");
            assert_eq!(cmk_from_key_file(&file).unwrap().recipient(), &recipient);
            assert_eq!(recipient_from_text(public).as_ref(), Ok(&recipient));
            assert_eq!(recipients_from_list(&format!("{recipient}\n# age\n{public}\n")).unwrap(), [recipient.clone(), recipient]);
        }
    }

    fn string<C: bech32::Checksum>(hrp: &str, data: &[u8], spoil: u8) -> String {
        let mut symbols: Vec<Fe32> = data.iter().copied().bytes_to_fes().collect();
        let last = symbols.last_mut().unwrap();
        *last = Fe32::try_from(last.to_u8() | spoil).unwrap();
        symbols.into_iter().with_checksum::<C>(&Hrp::parse(hrp).unwrap()).chars().collect()
    }

    /// Proves TXT-9.
    #[test]
    fn strings_of_age_are_strict() {
        for hrp in [RECIPIENT, SECRET] {
            let read = |s: &str| match hrp {
                RECIPIENT => Recipient::from_age(s).map(|_| ()),
                _ => Cmk::from_age(s).map(|_| ()),
            };
            let good = string::<Bech32>(hrp, &[9; 32], 0);
            assert_eq!(read(&good), Ok(()));
            assert_eq!(read(&string::<Bech32m>(hrp, &[9; 32], 0)), Err(KeyError::Damaged("the checksum does not hold")));
            assert_eq!(read(&string::<Bech32>(hrp, &[9; 32], 1)), Err(KeyError::Damaged("its padding is not zero")));
            for len in [31, 33] {
                let other = string::<Bech32>(hrp, &[9; 33][..len], 0);
                assert_eq!(read(&other), Err(KeyError::Damaged("the key is not 32 bytes")), "{len}");
            }
            let (start, end) = good.split_at(hrp.len() + 5);
            assert!(read(&(start.to_uppercase() + end)).is_err() && read(&(start.to_owned() + &end.to_uppercase())).is_err());
            for at in hrp.len() + 1..good.len() {
                let mut bytes = good.clone().into_bytes();
                bytes[at] = if bytes[at] == b'q' { b'p' } else { b'q' };
                assert!(read(std::str::from_utf8(&bytes).unwrap()).is_err(), "{at}");
                assert!(read(&good[..at]).is_err(), "{at}");
            }
        }
        // Points of small order, and one that is not canonical.
        for weak in [[0; 32], std::array::from_fn(|i| u8::from(i == 0)), [0xff; 32]] {
            assert!(matches!(Recipient::from_age(&string::<Bech32>(RECIPIENT, &weak, 0)), Err(KeyError::Unsafe(_))));
        }
    }

    /// Proves TXT-10.
    #[test]
    fn other_kinds_of_age_are_named() {
        let found = |error: KeyError| match error {
            KeyError::WrongKind { found, .. } => found,
            other => panic!("{other}"),
        };
        for other in ["age1pq", "age1tag", "age1yubikey"] {
            let string = string::<Bech32>(other, &[9; 32], 0);
            assert_eq!(found(recipient_from_text(&string).unwrap_err()), OTHER_RECIPIENT, "{string}");
        }
        // One of the testkit's.
        let post_quantum = "AGE-SECRET-KEY-PQ-1HZLGZUPT4ETPKDEV8HSGFDCYZ4E522W0A7PU2LHT8EH9W6YLNC3SW78XKG";
        for other in [post_quantum, "AGE-PLUGIN-YUBIKEY-1QQ"] {
            assert_eq!(found(cmk_from_key_file(other).unwrap_err()), OTHER_SECRET);
        }
        assert_eq!(found(recipient_from_text(PAIRS[0].0).unwrap_err()), "an age key, which is secret");
        assert_eq!(found(cmk_from_key_file(PAIRS[0].1).unwrap_err()), "an age recipient, the public half of a key");
        assert_eq!(found(Recipient::from_age("swr1qq").unwrap_err()), "something else");
    }
}
