//! Key strings under a passphrase (spec 12.6): Argon2id makes a key and its commitment, ChaCha20-Poly1305 holds the string.

use std::{fmt, str::FromStr};

use bech32::{Hrp, primitives::decode::CheckedHrpstring};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::{
    Cmk, KeyError, ProtectionError, SenderKey, cmk_from_key_file, file, sender_key_from_key_file,
    text::{self, Kind, LongBech32m},
};
use crate::{
    crypto::{
        aead::AeadKey,
        backend::same,
        passphrase::{Cost, Derived, derive},
    },
    platform::{Entropy, EntropyError},
    wire::Aead,
};

/// The version of the form.
const VERSION: u8 = 1;
/// Bytes before the ciphertext: version, t, m, p, salt, commitment.
const HEAD_LEN: usize = 1 + 4 + 4 + 1 + 16 + 32;
const TAG_LEN: usize = 16;
/// One key encrypts one message, so that its nonce may be the same.
const NONCE: [u8; 12] = [0; 12];

/// RFC 9106 §4, the second recommended option: what keys are protected with.
pub(crate) const WRITTEN: Cost = Cost { passes: 3, kib: 64 * 1024, lanes: 4 };

/// Passes that a reader takes (spec 12.6).
pub const PASSES_MAX: u32 = 10;
/// KiB of memory that a reader takes.
pub const MEMORY_MAX: u32 = 96 * 1024;
/// Lanes that a reader takes.
pub const LANES_MAX: u8 = 16;
/// Passes times KiB that a reader takes: twice the work of what is written.
pub const WORK_MAX: u64 = 2 * 3 * 64 * 1024;
/// Bytes of a key string that a reader takes.
pub const PROTECTED_TEXT_MAX: usize = 1024;

/// Bytes of the longest passphrase.
pub const PASSPHRASE_MAX: usize = 1024;

/// A passphrase: its bytes as they were given, from 1 to [`PASSPHRASE_MAX`], on one line. Wiped when dropped; never printed.
pub struct Passphrase(Zeroizing<String>);

/// What is no passphrase. Never holds any of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PassphraseError {
    /// Not a byte.
    #[error("the passphrase is empty")]
    Empty,
    /// Longer than [`PASSPHRASE_MAX`].
    #[error("the passphrase is longer than {PASSPHRASE_MAX} bytes")]
    TooLong,
    /// It has a line feed or a carriage return, as a file has that was named by mistake.
    #[error("the passphrase has more than one line")]
    Lines,
    /// The string of a secret key begins in it.
    #[error("there is a secret key where the passphrase should be")]
    Key,
    /// Not UTF-8.
    #[error("the passphrase is no text (UTF-8)")]
    NotText,
}

impl Passphrase {
    /// A passphrase of these characters. Nothing is normalised. Wipe your own copy.
    ///
    /// # Errors
    /// [`PassphraseError`].
    pub fn new(text: &str) -> Result<Self, PassphraseError> {
        // [PASS-5]
        match text.len() {
            0 => Err(PassphraseError::Empty),
            // A key's string is told before its lines are: it is what has gone wrong.
            _ if text::names_secret(text.as_bytes()) => Err(PassphraseError::Key),
            _ if text.contains(['\n', '\r']) => Err(PassphraseError::Lines),
            1..=PASSPHRASE_MAX => Ok(Self(Zeroizing::new(text.to_owned()))),
            _ => Err(PassphraseError::TooLong),
        }
    }

    /// What a file holds, or a person typed: one end of a line at its end is not part of the passphrase.
    ///
    /// # Errors
    /// [`PassphraseError`].
    pub fn from_line(content: &[u8]) -> Result<Self, PassphraseError> {
        let line = content.strip_suffix(b"\n").map_or(content, |line| line.strip_suffix(b"\r").unwrap_or(line));
        Self::new(std::str::from_utf8(line).map_err(|_| PassphraseError::NotText)?)
    }

    /// Whether two are the same.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passphrase").finish_non_exhaustive()
    }
}

/// The secret key of a key file, of whichever kind.
#[derive(Debug)]
pub enum SecretKey {
    /// Opens.
    Cmk(Cmk),
    /// Signs.
    Sender(SenderKey),
}

impl SecretKey {
    /// Reads the text form of a key of either kind.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn from_text(text: &str) -> Result<Self, KeyError> {
        match Kind::of(text) {
            Some(Kind::SenderSecret) => SenderKey::from_text(text).map(Self::Sender),
            _ => Cmk::from_text(text).map(Self::Cmk),
        }
    }

    /// The text form. Handle it as what it is.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        match self {
            Self::Cmk(cmk) => cmk.to_text(),
            Self::Sender(key) => key.to_text(),
        }
    }

    /// The CMK.
    ///
    /// # Errors
    /// [`KeyError::WrongKind`] when it is a sender's.
    pub fn into_cmk(self) -> Result<Cmk, KeyError> {
        match self {
            Self::Cmk(cmk) => Ok(cmk),
            Self::Sender(_) => Err(KeyError::WrongKind { found: Kind::SenderSecret.describe(), wanted: file::WANTED_SECRET }),
        }
    }

    /// The sender's key.
    ///
    /// # Errors
    /// [`KeyError::WrongKind`] when it is a CMK.
    pub fn into_sender(self) -> Result<SenderKey, KeyError> {
        match self {
            Self::Sender(key) => Ok(key),
            Self::Cmk(_) => Err(KeyError::WrongKind { found: Kind::Cmk.describe(), wanted: file::WANTED_SENDER_SECRET }),
        }
    }

    /// What a key file says of it.
    fn comment(&self) -> String {
        match self {
            Self::Cmk(cmk) => format!("recipient: {}", cmk.recipient()),
            Self::Sender(key) => format!("sender: {}", key.verifying_key()),
        }
    }
}

impl From<Cmk> for SecretKey {
    fn from(cmk: Cmk) -> Self {
        Self::Cmk(cmk)
    }
}

impl From<SenderKey> for SecretKey {
    fn from(key: SenderKey) -> Self {
        Self::Sender(key)
    }
}

/// A key could not be put under a passphrase, or under another.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtectError {
    /// The key could not be read, or its passphrase is another; or there is not enough memory.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The system has no entropy.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
}

/// A key under a passphrase, and within the bounds of what a reader computes for it: at most 96 MiB, and about half a second. Its text
/// form is `SW-PROTECTED-KEY-1…`.
///
/// ```
/// use sealwire::keys::{Cmk, Passphrase, Protected};
/// let (cmk, passphrase) = (Cmk::generate()?, Passphrase::new("correct horse battery staple")?);
/// let recipient = cmk.recipient().clone();
/// let protected = Protected::new(&cmk.into(), &passphrase)?;
/// let again: Protected = protected.to_string().parse()?;
/// assert_eq!(again.open(&passphrase)?.into_cmk()?.recipient(), &recipient);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Protected {
    /// The whole of it, as it was read.
    data: Vec<u8>,
    cost: Cost,
    salt: [u8; 16],
    commitment: [u8; 32],
}

impl Protected {
    /// Puts a key under a passphrase, with a salt of its own.
    ///
    /// # Errors
    /// [`ProtectError`], when the system lacks entropy or 64 MiB of memory.
    pub fn new(key: &SecretKey, passphrase: &Passphrase) -> Result<Self, ProtectError> {
        // [PASS-3]
        let salt = Entropy::default().array()?;
        Ok(Self::seal(&key.to_text(), passphrase, WRITTEN, salt)?)
    }

    fn seal(key: &str, passphrase: &Passphrase, cost: Cost, salt: [u8; 16]) -> Result<Self, KeyError> {
        let Derived { key: secret, commitment } = stretch(passphrase, &salt, cost)?;
        let commitment = *commitment.bytes();
        let mut data = Vec::with_capacity(HEAD_LEN + key.len() + TAG_LEN);
        data.push(VERSION);
        data.extend(cost.passes.to_be_bytes());
        data.extend(cost.kib.to_be_bytes());
        data.push(cost.lanes);
        data.extend(salt);
        data.extend(commitment);
        let (mut text, mut tag) = (Zeroizing::new(key.as_bytes().to_vec()), [0; 16]);
        let aead = AeadKey::new(Aead::ChaCha20Poly1305, secret.bytes());
        let sealed = aead.and_then(|aead| aead.seal(&NONCE, &data, &mut text, &mut tag));
        sealed.map_err(|_| ProtectionError::Length(key.len()))?;
        data.extend(&text[..]);
        data.extend(tag);
        Ok(Self { data, cost, salt, commitment })
    }

    /// Takes the key out: some 0.2 seconds and 64 MiB for what is written here.
    ///
    /// # Errors
    /// [`KeyError::WrongPassphrase`]; [`KeyError::Protection`] when what is in it was changed, is no key, or there is no memory.
    pub fn open(&self, passphrase: &Passphrase) -> Result<SecretKey, KeyError> {
        let derived = stretch(passphrase, &self.salt, self.cost)?;
        // [PASS-2]
        if !same(derived.commitment.bytes(), &self.commitment) {
            return Err(KeyError::WrongPassphrase);
        }
        let changed = || KeyError::Protection(ProtectionError::Changed);
        let (head, sealed) = self.data.split_at_checked(HEAD_LEN).ok_or_else(changed)?;
        let (text, tag) = sealed.split_last_chunk::<TAG_LEN>().ok_or_else(changed)?;
        let mut text = Zeroizing::new(text.to_vec());
        let aead = AeadKey::new(Aead::ChaCha20Poly1305, derived.key.bytes()).map_err(|_| changed())?;
        aead.open(&NONCE, head, &mut text, tag).map_err(|_| changed())?;
        // [PASS-4]
        let no_key = |_| KeyError::Protection(ProtectionError::Content);
        let text = std::str::from_utf8(&text).map_err(|_| KeyError::Protection(ProtectionError::Content))?;
        // But for its case a key has one string [TXT-4]: none has to be made to compare.
        if text.bytes().any(|byte| byte.is_ascii_lowercase()) {
            return Err(KeyError::Protection(ProtectionError::Content));
        }
        SecretKey::from_text(text).map_err(no_key)
    }

    /// KiB that Argon2id fills to open it, in all passes: at most [`WORK_MAX`], and 196,608 for what is written here.
    #[must_use]
    pub fn work(&self) -> u64 {
        u64::from(self.cost.passes) * u64::from(self.cost.kib)
    }

    /// A key file: the public half of `key` and the date in comments, then the key under its passphrase.
    #[must_use]
    pub fn to_key_file(&self, key: &SecretKey, created: &str) -> String {
        file::write_key_file(&format!("# created: {created}\n# {}\n", key.comment()), &self.to_string()).to_string()
    }

    fn parse(data: Vec<u8>) -> Result<Self, KeyError> {
        let short = KeyError::Damaged("it is too short");
        let refused = |why| Err(KeyError::Protection(why));
        let (version, rest) = data.split_first_chunk().ok_or(short.clone())?;
        // [PASS-1] An unknown version may have any length.
        if *version != [VERSION] {
            return refused(ProtectionError::Version(version[0]));
        }
        let (passes, rest) = rest.split_first_chunk().ok_or(short.clone())?;
        let (kib, rest) = rest.split_first_chunk().ok_or(short.clone())?;
        let ([lanes], rest) = rest.split_first_chunk::<1>().ok_or(short.clone())?;
        let (salt, rest) = rest.split_first_chunk().ok_or(short.clone())?;
        let (commitment, rest) = rest.split_first_chunk().ok_or(short.clone())?;
        let (salt, commitment) = (*salt, *commitment);
        let cost = Cost { passes: u32::from_be_bytes(*passes), kib: u32::from_be_bytes(*kib), lanes: *lanes };
        check(cost)?;
        let len = rest.len().checked_sub(TAG_LEN).ok_or(short)?;
        if !(1..=PROTECTED_TEXT_MAX).contains(&len) {
            return refused(ProtectionError::Length(len));
        }
        Ok(Self { cost, salt, commitment, data })
    }
}

/// Bounds on what a reader computes, before it does. [PASS-1]
pub(crate) fn check(Cost { passes, kib, lanes }: Cost) -> Result<(), ProtectionError> {
    if !(1..=PASSES_MAX).contains(&passes) {
        return Err(ProtectionError::Passes(passes));
    }
    if !(1..=LANES_MAX).contains(&lanes) {
        return Err(ProtectionError::Lanes(lanes));
    }
    let least = 8 * u32::from(lanes);
    if !(least..=MEMORY_MAX).contains(&kib) {
        return Err(ProtectionError::Memory { kib, least });
    }
    let work = u64::from(passes) * u64::from(kib);
    if work > WORK_MAX {
        return Err(ProtectionError::Work(work));
    }
    Ok(())
}

/// Argon2id, within the bounds: the one gate of writers and readers.
pub(crate) fn stretch(passphrase: &Passphrase, salt: &[u8; 16], cost: Cost) -> Result<Derived, KeyError> {
    check(cost)?;
    derive(passphrase.0.as_bytes(), salt, cost).map_err(|_| KeyError::Protection(ProtectionError::NoMemory { kib: cost.kib }))
}

impl FromStr for Protected {
    type Err = KeyError;

    /// Reads the text form, and computes nothing.
    fn from_str(s: &str) -> Result<Self, KeyError> {
        // [TXT-1]
        if Kind::of(s) != Some(Kind::Protected) {
            let found = Kind::of(s).map_or("something else", Kind::describe);
            return Err(KeyError::WrongKind { found, wanted: "a protected key (SW-PROTECTED-KEY-1…)" });
        }
        let parsed = CheckedHrpstring::new::<LongBech32m>(s)
            .map_err(|_| KeyError::Damaged("the checksum does not hold, or a part is missing"))?;
        let data: Vec<u8> = parsed.byte_iter().collect();
        // [TXT-4]
        if !text::is_padded_with_zeros(&parsed) {
            return Err(KeyError::Damaged("its padding is not zero"));
        }
        Self::parse(data)
    }
}

fn string(data: &[u8]) -> String {
    let mut out = String::new();
    let written = bech32::encode_upper_to_fmt::<LongBech32m, _>(&mut out, Hrp::parse_unchecked(text::PROTECTED), data);
    debug_assert!(written.is_ok(), "what is protected is shorter than the code");
    out
}

impl fmt::Display for Protected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&string(&self.data))
    }
}

/// What is public of it: nothing.
impl fmt::Debug for Protected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Protected").field("cost", &self.cost).finish_non_exhaustive()
    }
}

/// The protected key of a key file.
///
/// # Errors
/// [`KeyError::WrongKind`] when the key is not protected, and the other [`KeyError`]s of what cannot be one.
pub fn protected_from_key_file(content: &str) -> Result<Protected, KeyError> {
    file::only_key(content)?.parse()
}

/// The secret key of a key file, of whichever kind and form; the passphrase is used where it is protected.
///
/// # Errors
/// [`KeyError`]; [`KeyError::Protected`] when a passphrase is needed and there is none.
pub fn secret_key_from_key_file(content: &str, passphrase: Option<&Passphrase>) -> Result<SecretKey, KeyError> {
    match (sender_key_from_key_file(content), passphrase) {
        (Err(KeyError::Protected), Some(passphrase)) => protected_from_key_file(content)?.open(passphrase),
        (Err(KeyError::WrongKind { .. } | KeyError::Pem(_)), _) => cmk_from_key_file(content).map(SecretKey::from),
        (read, _) => read.map(SecretKey::from),
    }
}

/// The same key file with its key under another passphrase, or under none: what is around the key stays as it was. What comes out has been
/// read again, and is the same key.
///
/// # Errors
/// [`ProtectError`].
pub fn change_passphrase(
    content: &str,
    old: Option<&Passphrase>,
    new: Option<&Passphrase>,
) -> Result<Zeroizing<String>, ProtectError> {
    let key = secret_key_from_key_file(content, old)?;
    let text = match new {
        Some(passphrase) => Zeroizing::new(Protected::new(&key, passphrase)?.to_string()),
        None => key.to_text(),
    };
    let changed = file::replace_key(content, &text)?;
    let again = secret_key_from_key_file(&changed, new)?;
    if !bool::from(again.to_text().as_bytes().ct_eq(key.to_text().as_bytes())) {
        return Err(KeyError::Protection(ProtectionError::Changed).into());
    }
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Cost = Cost { passes: 1, kib: 8, lanes: 1 };

    fn passphrase(text: &str) -> Passphrase {
        Passphrase::new(text).unwrap()
    }

    fn protect(text: &str) -> Protected {
        Protected::seal(text, &passphrase("p"), SMALL, [7; 16]).unwrap()
    }

    fn cmk() -> Cmk {
        Cmk::from_x25519(&[5; 32])
    }

    #[test]
    fn keys_of_both_kinds_come_back() {
        for key in [SecretKey::from(cmk()), SenderKey::from_ed25519(&[6; 32]).into()] {
            let protected = protect(&key.to_text());
            let text = protected.to_string();
            assert!(text.starts_with("SW-PROTECTED-KEY-1") && !text.contains(char::is_lowercase));
            for text in [text.clone(), text.to_lowercase(), format!("# c\n\n{text}\r\n# after\n")] {
                let read = protected_from_key_file(&text).unwrap();
                assert!(read == protected);
                assert_eq!(read.open(&passphrase("p")).unwrap().to_text(), key.to_text());
            }
            assert_eq!(cmk_from_key_file(&text).unwrap_err(), KeyError::Protected);
            assert_eq!(sender_key_from_key_file(&text).unwrap_err(), KeyError::Protected);
            let file = protected.to_key_file(&key, "now");
            assert!(file.starts_with("# created: now\n# ") && file.ends_with(&format!("\n{text}\n")));
            assert!(secret_key_from_key_file(&file, None).is_err_and(|error| error == KeyError::Protected));
            assert!(secret_key_from_key_file(&file, Some(&passphrase("p"))).is_ok());
            assert!(!format!("{protected:?}{:?}", passphrase("secret")).contains("secret"));
        }
        assert!(matches!(SecretKey::from(cmk()).into_sender(), Err(KeyError::WrongKind { found: "a secret key", .. })));
        assert!(SecretKey::from(SenderKey::from_ed25519(&[6; 32])).into_cmk().is_err());
    }

    /// Proves PASS-3: what is written has a salt of its own, and RFC 9106's parameters.
    #[test]
    fn every_salt_is_new() {
        let make = || Protected::new(&cmk().into(), &passphrase("p")).unwrap();
        let (one, two) = (make(), make());
        assert_eq!(one.data[..10], [1, 0, 0, 0, 3, 0, 1, 0, 0, 4]);
        assert!(one.salt != two.salt && one.commitment != two.commitment);
        assert!(one.open(&passphrase("p")).is_ok() && two.open(&passphrase("p")).is_ok());
    }

    /// Proves PASS-2.
    #[test]
    fn a_wrong_passphrase_is_told_from_damage() {
        let protected = protect(&cmk().to_text());
        for wrong in ["q", "P", "p ", "p\0"] {
            assert_eq!(protected.open(&passphrase(wrong)).unwrap_err(), KeyError::WrongPassphrase);
        }
        for at in 0..protected.data.len() {
            let mut data = protected.data.clone();
            data[at] ^= 1;
            let opened = Protected::parse(data).and_then(|changed| changed.open(&passphrase("p")));
            let why = opened.unwrap_err();
            match at {
                // Parameters within the bounds are another function, and so another commitment.
                0..10 => assert!(matches!(why, KeyError::Protection(_) | KeyError::WrongPassphrase), "{at}: {why}"),
                10..HEAD_LEN => assert_eq!(why, KeyError::WrongPassphrase, "{at}"),
                _ => assert_eq!(why, KeyError::Protection(ProtectionError::Changed), "{at}"),
            }
        }
    }

    /// Proves PASS-1, with nothing computed: an allocation of 4 TiB, or 2^32 passes, would be noticed.
    #[test]
    fn bounds_come_first() {
        use ProtectionError::{Lanes, Length, Memory, Passes, Version, Work};
        let good = protect(&cmk().to_text()).data;
        let with = |version: u8, passes: u32, kib: u32, lanes: u8| {
            let cost = [&[version][..], &passes.to_be_bytes(), &kib.to_be_bytes(), &[lanes]].concat();
            Protected::from_str(&string(&[&cost[..], &good[10..]].concat())).map(|_| ())
        };
        for (read, why) in [
            (with(0, 1, 8, 1), Version(0)),
            (with(2, 1, 8, 1), Version(2)),
            (with(1, 0, 8, 1), Passes(0)),
            (with(1, 11, 8, 1), Passes(11)),
            (with(1, u32::MAX, 8, 1), Passes(u32::MAX)),
            (with(1, 1, 8, 0), Lanes(0)),
            (with(1, 1, 136, 17), Lanes(17)),
            (with(1, 1, 7, 1), Memory { kib: 7, least: 8 }),
            (with(1, 1, 127, 16), Memory { kib: 127, least: 128 }),
            (with(1, 1, 98_305, 1), Memory { kib: 98_305, least: 8 }),
            (with(1, 1, u32::MAX, 1), Memory { kib: u32::MAX, least: 8 }),
            (with(1, 10, 39_322, 1), Work(393_220)),
            (with(1, 5, 98_304, 16), Work(491_520)),
        ] {
            assert_eq!(read, Err(KeyError::Protection(why)));
        }
        for (passes, kib, lanes) in [(10, 8, 1), (1, 128, 16), (4, 98_304, 4), (10, 39_321, 1)] {
            assert_eq!(with(1, passes, kib, lanes), Ok(()));
        }
        let sized = |len: usize| Protected::from_str(&string(&[&good[..HEAD_LEN], &vec![0; len]].concat())).map(|_| ());
        assert_eq!((sized(17), sized(1040)), (Ok(()), Ok(())));
        assert_eq!(sized(16), Err(KeyError::Protection(Length(0))));
        assert_eq!(sized(1041), Err(KeyError::Protection(Length(1025))));
        for len in (0..HEAD_LEN).chain(HEAD_LEN..HEAD_LEN + TAG_LEN) {
            let cut = good.get(..len).unwrap().to_vec();
            assert_eq!(Protected::from_str(&string(&cut)).map(|_| ()), Err(KeyError::Damaged("it is too short")), "{len}");
        }
        // A string that was cut has another checksum.
        let whole = string(&good);
        for len in 18..whole.len() {
            assert!(matches!(Protected::from_str(&whole[..len]), Err(KeyError::Damaged(_))), "{len}");
        }
    }

    /// Proves PASS-4.
    #[test]
    fn what_comes_out_is_one_key() {
        let key = cmk().to_text();
        let nested = protect(&key).to_string();
        for text in [
            key.to_lowercase(),
            format!("{}\n", key.as_str()),
            format!(" {}", key.as_str()),
            cmk().recipient().to_string(),
            nested,
            "AGE-SECRET-KEY-1EGTZVFFV20835NWYV6270LXYVK2VKNX2MMDKWYKLMGR48UAWX40Q2P2LM0".into(),
            "\u{e4}".into(),
            "x".into(),
        ] {
            let opened = protect(&text).open(&passphrase("p"));
            assert_eq!(opened.unwrap_err(), KeyError::Protection(ProtectionError::Content), "{text}");
        }
    }

    /// Proves PASS-5: bytes as they are, and no others.
    #[test]
    fn passphrases() {
        assert_eq!(Passphrase::new("").unwrap_err(), PassphraseError::Empty);
        assert!(Passphrase::new(&"x".repeat(1024)).is_ok());
        assert_eq!(Passphrase::new(&"x".repeat(1025)).unwrap_err(), PassphraseError::TooLong);
        for (line, text) in [("a\n", "a"), ("a\r\n", "a"), ("a", "a"), (" a b ", " a b "), ("\u{85}", "\u{85}")] {
            assert!(Passphrase::from_line(line.as_bytes()).unwrap().is_same(&passphrase(text)), "{line:?}");
        }
        assert_eq!(Passphrase::from_line(b"\r\n").unwrap_err(), PassphraseError::Empty);
        for lines in ["a\n\n", "a\r", "a\nb", "a\rb\n", "\na", "a\r\r\n"] {
            assert_eq!(Passphrase::from_line(lines.as_bytes()).unwrap_err(), PassphraseError::Lines, "{lines:?}");
        }
        let key = cmk().to_text();
        let protected = protect(&key).to_string();
        for text in [key.as_str(), &key.to_lowercase(), &protected, "x AGE-SECRET-KEY-1", "sw-secret-", "# c\nSW-SECRET-CMK-1\n"]
        {
            assert_eq!(Passphrase::from_line(text.as_bytes()).unwrap_err(), PassphraseError::Key);
        }
        for text in ["sw-secret", "sw-protected-key-", "swr1q", "age-secret-key", "swsecret-"] {
            assert!(Passphrase::new(text).is_ok(), "{text}");
        }
        assert_eq!(Passphrase::from_line(b"\xff").unwrap_err(), PassphraseError::NotText);
        // One letter, composed or not, is two passphrases.
        assert!(!passphrase("\u{e4}").is_same(&passphrase("a\u{308}")));
        let protected = Protected::seal(&cmk().to_text(), &passphrase("\u{e4}"), SMALL, [7; 16]).unwrap();
        assert_eq!(protected.open(&passphrase("a\u{308}")).unwrap_err(), KeyError::WrongPassphrase);
    }

    #[test]
    fn a_passphrase_is_changed_and_taken_off() {
        let key = cmk();
        let plain = format!("# created: then\r\n{}\r\n# of mine {0}\n", key.to_text().as_str());
        let one = change_passphrase(&plain, None, Some(&passphrase("one"))).unwrap();
        let at = plain.find("SW-").unwrap();
        assert!(
            one.starts_with(&plain[..at]) && one.ends_with(&plain[at + key.to_text().len()..]) && one[at..].starts_with("SW-PRO")
        );
        assert!(matches!(change_passphrase(&one, None, None), Err(ProtectError::Key(KeyError::Protected))));
        let wrong = change_passphrase(&one, Some(&passphrase("two")), None);
        assert!(matches!(wrong, Err(ProtectError::Key(KeyError::WrongPassphrase))));
        let two = change_passphrase(&one, Some(&passphrase("one")), Some(&passphrase("two"))).unwrap();
        assert!(secret_key_from_key_file(&two, Some(&passphrase("one"))).is_err());
        assert_eq!(change_passphrase(&two, Some(&passphrase("two")), None).unwrap().as_str(), plain);
        // A document becomes a string.
        let pem = format!("# c\n{}# after\n", key.to_pem().unwrap().as_str());
        let one = change_passphrase(&pem, None, Some(&passphrase("one"))).unwrap();
        assert!(!one.contains("PRIVATE KEY") && one.starts_with("# c\nSW-PROTECTED-KEY-1") && one.ends_with("\n# after\n"));
        let read = secret_key_from_key_file(&one, Some(&passphrase("one"))).unwrap();
        assert_eq!(read.into_cmk().unwrap().recipient(), key.recipient());
    }
}
