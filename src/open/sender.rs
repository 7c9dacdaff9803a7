//! Who has written (spec 6.6), and who may.

use std::{collections::HashSet, fmt, str::FromStr};

use crate::keys::VerifyingKey;

/// Who has sent a message, as far as it can be known (spec 6.6).
///
/// Everyone who can open a message knows its DEK, and whoever knows the DEK can encrypt under it. So who could have written
/// the message depends on what the sender signed, and on who else has had the DEK.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Sender {
    /// The message says nothing of its sender: anyone who has a recipient's public key could have written it.
    Anonymous,
    /// The sender signed this very message. The owner of `key` wrote it, however many can read it.
    Signed {
        /// Who wrote it.
        key: VerifyingKey,
        /// Somebody has changed the recipients since: it may have been written to others than you, and passed on.
        rewrapped: bool,
    },
    /// The sender signed the DEK, not the message: `key` made the DEK, and whoever has had it since could have written.
    Dek {
        /// Who made the DEK.
        key: VerifyingKey,
        /// It was made for this reader and nobody else: the owner of `key` wrote the message, or somebody who got the
        /// DEK from this reader, from its key service, or by theft of its CMK. Otherwise any reader could have.
        for_me_alone: bool,
        /// The recipients are not those for whom it was made: anyone who ever held the DEK could have written.
        rewrapped: bool,
    },
}

impl Sender {
    /// The sender's key, whatever its standing.
    #[must_use]
    pub fn key(&self) -> Option<&VerifyingKey> {
        match self {
            Self::Anonymous => None,
            Self::Signed { key, .. } | Self::Dek { key, .. } => Some(key),
        }
    }

    /// What the proof is worth.
    #[must_use]
    pub fn standing(&self) -> Standing {
        match self {
            Self::Anonymous => Standing::Anonymous,
            Self::Signed { rewrapped: false, .. } => Standing::Signed,
            Self::Signed { rewrapped: true, .. } => Standing::SignedRewrapped,
            Self::Dek { for_me_alone: true, .. } => Standing::Verified,
            Self::Dek { rewrapped: false, .. } => Standing::Group,
            Self::Dek { rewrapped: true, .. } => Standing::Origin,
        }
    }
}

/// What a sender proof is worth, by the names of spec 6.6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Standing {
    /// The key's owner wrote this message, to these recipients.
    Signed,
    /// The key's owner wrote this message, to others than these.
    SignedRewrapped,
    /// The key's owner made the DEK for this reader alone.
    Verified,
    /// Any of the readers may have written; the key's owner made the DEK.
    Group,
    /// Anyone who ever held the DEK may have written; the key's owner made it.
    Origin,
    /// Nobody has signed.
    Anonymous,
}

impl Standing {
    const ALL: [Self; 6] = [Self::Signed, Self::SignedRewrapped, Self::Verified, Self::Group, Self::Origin, Self::Anonymous];

    fn name(self) -> &'static str {
        match self {
            Self::Signed => "signed",
            Self::SignedRewrapped => "signed-rewrapped",
            Self::Verified => "verified",
            Self::Group => "group",
            Self::Origin => "origin",
            Self::Anonymous => "anonymous",
        }
    }

    /// One sentence for people: who could have written.
    #[must_use]
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Signed => "its owner wrote this message, to these recipients",
            Self::SignedRewrapped => "its owner wrote this message; somebody has changed the recipients since",
            Self::Verified => "its owner wrote this message, or somebody who got its DEK from you",
            Self::Group => "one of the recipients wrote this message under a DEK that the owner made",
            Self::Origin => "somebody who has held its DEK wrote this message; the owner made the DEK",
            Self::Anonymous => "anyone could have written this message",
        }
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no standing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no such standing: signed, signed-rewrapped, verified, group, origin and anonymous are")]
pub struct NoSuchStanding;

impl FromStr for Standing {
    type Err = NoSuchStanding;

    fn from_str(name: &str) -> Result<Self, NoSuchStanding> {
        Self::ALL.into_iter().find(|standing| standing.name() == name).ok_or(NoSuchStanding)
    }
}

/// The senders whose messages are opened (spec 6.6, PRF-7).
///
/// Of the keys in the list it takes messages that are *verified* or *signed*, and nothing weaker unless
/// [`also`](Self::also) says so: any other reader of a DEK could have written those in the sender's name.
///
/// ```
/// use sealwire::{Cmk, Keyring, Opener, Policy, Sealer, SenderKey, Senders};
/// let (cmk, alice) = (Cmk::generate()?, SenderKey::generate()?);
/// let policy = Policy { senders: Some(Senders::new([*alice.verifying_key()])), ..Policy::default() };
/// let mut sealer = Sealer::builder().to(cmk.recipient().clone()).sign_with(alice).build()?;
/// let opener = Opener::builder(Keyring::from(cmk)).policy(policy).build();
/// assert!(opener.open(&sealer.seal(b"", b"from alice")?).is_ok());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Senders {
    keys: HashSet<VerifyingKey>,
    standings: Vec<Standing>,
}

impl Senders {
    /// Takes messages of these keys, verified or signed.
    #[must_use]
    pub fn new(keys: impl IntoIterator<Item = VerifyingKey>) -> Self {
        Self { keys: keys.into_iter().collect(), standings: vec![Standing::Verified, Standing::Signed] }
    }

    /// Takes this standing of the keys too. [`Standing::Anonymous`] takes messages that nobody has signed.
    #[must_use]
    pub fn also(mut self, standing: Standing) -> Self {
        self.standings.push(standing);
        self
    }

    /// Whether messages of this sender are opened.
    #[must_use]
    pub fn allow(&self, sender: &Sender) -> bool {
        self.standings.contains(&sender.standing()) && sender.key().is_none_or(|key| self.keys.contains(key))
    }
}
