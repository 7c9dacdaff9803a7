//! What the keys of a service are called, and what they look like from outside.

use std::{fmt, str::FromStr};

use crate::{
    keys::Recipient,
    platform::{Entropy, EntropyError},
    wire::Kem,
};

/// Bytes of the longest alias.
pub const ALIAS_MAX: usize = 64;
/// Aliases of one CMK.
pub const ALIASES_MAX: usize = 16;
/// Versions of one CMK.
pub const VERSIONS_MAX: usize = 1024;
/// CMKs of one service.
pub const KEYS_MAX: usize = 65_536;

const PREFIX: &str = "cmk-";

/// The id of a CMK: `cmk-` and 32 hexadecimal digits. Random, never used again, the same for all versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(pub [u8; 16]);

impl KeyId {
    pub(crate) fn generate(entropy: &mut Entropy) -> Result<Self, EntropyError> {
        entropy.array().map(Self)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{:032x}", u128::from_be_bytes(self.0))
    }
}

/// A text that names no CMK.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// Neither an id nor an alias.
    #[error("a key is named by its id, cmk- and 32 hexadecimal digits, or by an alias: 1 to 64 of a-z, 0-9, ., _, / and -")]
    NoName,
    /// An alias that looks like an id.
    #[error("an alias does not begin with cmk-, as ids do")]
    LooksLikeAnId,
}

impl FromStr for KeyId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let digits = text.strip_prefix(PREFIX).filter(|digits| digits.len() == 32).ok_or(NameError::NoName)?;
        let lower = digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let number = u128::from_str_radix(digits, 16).ok().filter(|_| lower).ok_or(NameError::NoName)?;
        Ok(Self(number.to_be_bytes()))
    }
}

/// Another name for a CMK, which may come to name another: 1 to 64 of `a`–`z`, `0`–`9`, `.`, `_`, `/` and `-`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Alias(String);

impl Alias {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Alias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Alias {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._/-".contains(&b);
        // [KMS-30]
        if text.is_empty() || text.len() > ALIAS_MAX || !text.bytes().all(plain) {
            return Err(NameError::NoName);
        }
        if text.starts_with(PREFIX) {
            return Err(NameError::LooksLikeAnId);
        }
        Ok(Self(text.into()))
    }
}

/// How a CMK is asked for: by its id, or by an alias of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum KeyRef {
    /// Its id.
    Id(KeyId),
    /// One of its aliases.
    Alias(Alias),
}

impl fmt::Display for KeyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Alias(alias) => alias.fmt(f),
        }
    }
}

impl FromStr for KeyRef {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        match text.parse() {
            Ok(id) => Ok(Self::Id(id)),
            Err(_) => text.parse().map(Self::Alias),
        }
    }
}

impl From<KeyId> for KeyRef {
    fn from(id: KeyId) -> Self {
        Self::Id(id)
    }
}

/// Where a CMK is in its life (spec/kms.md 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyState {
    /// It is used.
    Enabled,
    /// It is used for nothing until it is enabled again.
    Disabled,
    /// It is used for nothing, and destroyed at this time, in seconds since the Unix epoch, unless that is cancelled.
    PendingDeletion {
        /// When.
        at: u64,
    },
    /// Its secret halves are gone, and so is what was encrypted under it.
    Destroyed {
        /// Since when.
        at: u64,
    },
}

impl KeyState {
    /// The state at a later time: what was to be destroyed by then is.
    #[must_use]
    pub(crate) fn at(self, now: u64) -> Self {
        match self {
            Self::PendingDeletion { at } if now >= at => Self::Destroyed { at },
            state => state,
        }
    }

    /// The word for it, in `--json` as in the audit log.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::Disabled => "disabled",
            Self::PendingDeletion { .. } => "pending-deletion",
            Self::Destroyed { .. } => "destroyed",
        }
    }
}

impl fmt::Display for KeyState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Enabled => f.write_str("enabled"),
            Self::Disabled => f.write_str("disabled"),
            Self::PendingDeletion { .. } => f.write_str("pending deletion"),
            Self::Destroyed { .. } => f.write_str("destroyed"),
        }
    }
}

/// What is told of a CMK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyInfo {
    /// Its id.
    pub id: KeyId,
    /// Its aliases, in their order.
    pub aliases: Vec<Alias>,
    /// Which kind of key it is.
    pub kem: Kem,
    /// Where it is in its life.
    pub state: KeyState,
    /// When it was made, in seconds since the Unix epoch.
    pub created_at: u64,
    /// The newest version's number, from 1: what is encrypted now is encrypted under that one.
    pub version: u32,
    /// When the newest version was made.
    pub rotated_at: u64,
}

/// The public half of one version of a CMK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    /// The CMK.
    pub id: KeyId,
    /// Its version.
    pub version: u32,
    /// What is sealed to.
    pub recipient: Recipient,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves KMS-30.
    #[test]
    fn names() {
        let id = "cmk-000102030405060708090a0b0c0d0e0f";
        assert_eq!(id.parse::<KeyId>().unwrap(), KeyId(std::array::from_fn(|i| i as u8)));
        assert_eq!(id.parse::<KeyRef>().unwrap().to_string(), id);
        assert_eq!("orders/eu-1".parse::<KeyRef>().unwrap().to_string(), "orders/eu-1");
        for bad in ["", "Orders", "a b", "a\n", "\u{e4}", &"a".repeat(65), "cmk-1", &id.to_uppercase(), &id.replace('f', "F")] {
            assert!(bad.parse::<KeyRef>().is_err(), "{bad}");
        }
        assert!("a".repeat(64).parse::<Alias>().is_ok());
    }

    #[test]
    fn what_is_pending_is_destroyed_in_time() {
        let pending = KeyState::PendingDeletion { at: 100 };
        assert_eq!(pending.at(99), pending);
        assert_eq!(pending.at(100), KeyState::Destroyed { at: 100 });
        assert_eq!(KeyState::Enabled.at(u64::MAX), KeyState::Enabled);
    }
}
