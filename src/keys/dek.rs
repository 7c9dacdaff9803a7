use super::KeyError;
use crate::{
    crypto::Secret32,
    platform::{Entropy, EntropyError},
};

/// A data encryption key: 32 bytes, wiped when dropped. Neither printed nor cloned, and used up by who takes it.
pub struct Dek {
    pub(crate) secret: Secret32,
    pub(crate) mine_alone: bool,
}

impl Dek {
    /// A new DEK from the operating system's generator.
    ///
    /// # Errors
    /// [`EntropyError`] when the system has none.
    pub fn generate() -> Result<Self, EntropyError> {
        Self::generate_from(&mut Entropy::default())
    }

    pub(crate) fn generate_from(entropy: &mut Entropy) -> Result<Self, EntropyError> {
        Ok(Self { secret: entropy.secret()?, mine_alone: true })
    }

    /// A DEK that was made elsewhere: 32 bytes from a good generator. Wipe your own copy.
    #[must_use]
    pub fn import(bytes: &[u8; 32]) -> Self {
        Self::found(Secret32::copied(bytes))
    }

    /// A DEK as a KMS answers with it: for data keys of 256 bits. Wipe your own copy.
    ///
    /// # Errors
    /// [`KeyError::DekLength`] for everything that is not 32 bytes.
    pub fn from_kms(plaintext: &[u8]) -> Result<Self, KeyError> {
        // [EXT-2]
        plaintext.try_into().map(Self::import).map_err(|_| KeyError::DekLength(plaintext.len()))
    }

    /// A DEK of which nothing is known but its bytes.
    pub(crate) fn found(secret: Secret32) -> Self {
        Self { secret, mine_alone: false }
    }

    /// The same DEK, for who keeps one and lends it.
    pub(crate) fn again(&self) -> Self {
        Self { secret: Secret32::copied(self.secret.bytes()), mine_alone: self.mine_alone }
    }

    /// States that nobody else holds this DEK or can have it from where it came: no other user of that key service, no
    /// other message under another block. Only then can a sealer sign it ([`SenderKey`](crate::SenderKey)), or an
    /// opener call a message verified ([`Sender`](crate::Sender)).
    #[must_use]
    pub fn mine_alone(mut self) -> Self {
        self.mine_alone = true;
        self
    }
}
