use crate::{
    crypto::Secret32,
    platform::{Entropy, EntropyError},
};

/// A data encryption key: 32 bytes, wiped when dropped. Neither printed nor cloned, and used up by who takes it.
pub struct Dek(pub(crate) Secret32);

impl Dek {
    /// A new DEK from the operating system's generator.
    ///
    /// # Errors
    /// [`EntropyError`] when the system has none.
    pub fn generate() -> Result<Self, EntropyError> {
        Self::generate_from(&mut Entropy::default())
    }

    pub(crate) fn generate_from(entropy: &mut Entropy) -> Result<Self, EntropyError> {
        entropy.secret().map(Self)
    }

    /// A DEK that was made elsewhere: 32 bytes from a good generator. Wipe your own copy.
    #[must_use]
    pub fn import(bytes: &[u8; 32]) -> Self {
        Self(Secret32::copied(bytes))
    }
}
