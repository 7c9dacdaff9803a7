//! A passphrase or a key file -> the secret that states are sealed under (spec/store.md, Keys).

use zeroize::Zeroizing;

use super::StoreError;
use crate::{
    Cmk, EntropyError, KeyError,
    crypto::{
        Refused, Secret32,
        aead::AeadKey,
        backend::{Expander, extract},
        passphrase::Cost,
    },
    keys::{Passphrase, WRITTEN, cmk_from_key_file, cmk_to_key_file, stretch},
    platform::Entropy,
    wire::Aead,
};

/// What a store is under: a passphrase, or the one secret key of a key file. Wiped when dropped; never printed.
pub struct RootKey(Source);

enum Source {
    Passphrase(Passphrase),
    KeyFile(Secret32),
}

impl RootKey {
    /// The root key that Argon2id makes of a passphrase, whenever a store is opened: some 0.2 seconds and 64 MiB.
    #[must_use]
    pub fn from_passphrase(passphrase: Passphrase) -> Self {
        Self(Source::Passphrase(passphrase))
    }

    /// The root key that a secret key stands for. Use the key for nothing else.
    #[must_use]
    pub fn from_cmk(cmk: &Cmk) -> Self {
        Self(Source::KeyFile(root_secret(&[cmk.to_text().as_bytes()])))
    }

    /// Reads the key file that [`generate`](Self::generate) made, or any other with a CMK in it.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn from_key_file(content: &str) -> Result<Self, KeyError> {
        cmk_from_key_file(content).map(|cmk| Self::from_cmk(&cmk))
    }

    /// A new root key, and the key file that holds it.
    ///
    /// # Errors
    /// [`EntropyError`] when the system has none.
    pub fn generate(created: &str) -> Result<(Self, Zeroizing<String>), EntropyError> {
        let cmk = Cmk::generate()?;
        Ok((Self::from_cmk(&cmk), cmk_to_key_file(&cmk, created)))
    }

    /// The secret for a new store, with a salt of its own.
    pub(super) fn fresh(&self, entropy: &mut Entropy) -> Result<Root, StoreError> {
        match &self.0 {
            Source::Passphrase(_) => self.unlock(RootKind::Passphrase(Stretch { cost: WRITTEN, salt: entropy.array()? })),
            Source::KeyFile(_) => self.unlock(RootKind::KeyFile),
        }
    }

    /// The secret of a store that is there.
    pub(super) fn unlock(&self, kind: RootKind) -> Result<Root, StoreError> {
        let secret = match (&self.0, &kind) {
            (Source::Passphrase(passphrase), RootKind::Passphrase(Stretch { cost, salt })) => {
                let derived = stretch(passphrase, salt, *cost).map_err(StoreError::stretched)?;
                root_secret(&[derived.key.bytes(), derived.commitment.bytes()])
            }
            (Source::KeyFile(secret), RootKind::KeyFile) => Secret32::copied(secret.bytes()),
            _ => return Err(StoreError::RootKind(kind.describe())),
        };
        Ok(Root { kind, secret })
    }
}

fn root_secret(of: &[&[u8]]) -> Secret32 {
    extract(b"sealwire store v1 root", of)
}

/// What a state file says of its root key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootKind {
    /// A passphrase.
    Passphrase(Stretch),
    /// A key file.
    KeyFile,
}

impl RootKind {
    fn describe(&self) -> &'static str {
        match self {
            Self::Passphrase(_) => "a passphrase",
            Self::KeyFile => "a key file",
        }
    }
}

/// What Argon2id takes beside the passphrase; within its bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stretch {
    pub(super) cost: Cost,
    pub(super) salt: [u8; 16],
}

/// A root key that was stretched once, and how.
pub(super) struct Root {
    pub(super) kind: RootKind,
    secret: Secret32,
}

/// The key of one write, and what commits to it.
pub(super) struct WriteKey {
    pub(super) aead: AeadKey,
    pub(super) commitment: Secret32,
}

impl Root {
    /// What seals one state.
    pub(super) fn write_key(&self, salt: &[u8; 32]) -> Result<WriteKey, Refused> {
        let expander = Expander::new(&extract(salt, &[self.secret.bytes()]))?;
        let (mut key, mut commitment) = (Secret32::zeroed(), Secret32::zeroed());
        expander.expand(&[b"sealwire store v1 state"], key.bytes_mut())?;
        expander.expand(&[b"sealwire store v1 commitment"], commitment.bytes_mut())?;
        Ok(WriteKey { aead: AeadKey::new(Aead::ChaCha20Poly1305, key.bytes())?, commitment })
    }
}
