use super::{Dek, KeyError};
use crate::wire::{External, ParseError};

/// A data key as a KMS hands it out (GenerateDataKey, by whatever name): one DEK, in plaintext and as a ciphertext that only the KMS can
/// turn back.
///
/// A sealer that is given one ([`SealerBuilder::data_key`](crate::SealerBuilder::data_key)) sends the ciphertext DEK along as an external
/// (spec 3.4), beside its recipients or alone. The plaintext goes no further than the sealer; wipe your own copy.
///
/// ```
/// use sealwire::{DataKey, Keyring, Opener, Sealer, Begun, Dek, KmsKey, Policy};
/// # let (plaintext, ciphertext) = ([7; 32], b"what the KMS made of it");
/// let data_key = DataKey::from_kms("aws", "alias/orders", &plaintext, ciphertext)?;
/// let envelope = Sealer::builder().data_key(data_key).build()?.seal(b"", b"an order")?;
///
/// let policy = Policy { kms_keys: vec![KmsKey::new("aws", "alias/orders")], ..Policy::default() };
/// let opener = Opener::builder(Keyring::new()).policy(policy).build();
/// let Begun::NeedsDek(mut waiting) = opener.begin(&envelope)? else { panic!("no key is at hand") };
/// let external = waiting.externals().next().expect("the policy names its key");
/// assert_eq!((external.provider, external.key_ref, external.blob), ("aws", "alias/orders", &ciphertext[..]));
/// let opened = waiting.supply(&Dek::from_kms(&plaintext)?)?.open()?;
/// assert_eq!(&opened.payload[..], b"an order");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct DataKey {
    pub(crate) dek: Dek,
    /// The externals, as they stand in a block.
    pub(crate) externals: Vec<u8>,
    pub(crate) count: u8,
}

impl DataKey {
    /// `plaintext` and `ciphertext` as the KMS `provider` gave them for its key `key_ref`.
    ///
    /// The provider is a name of 1 to 32 of `a`–`z`, `0`–`9` and `-` that sealer and opener agree on, such as `aws`, `alibaba`, `tencent`,
    /// `huawei`; `key_ref` is whatever that KMS wants to be told, and is sent in the clear.
    ///
    /// # Errors
    /// [`KeyError::DekLength`] where the data key is not one of 256 bits; [`KeyError::External`] for names and ciphertexts that no
    /// envelope can carry.
    pub fn from_kms(provider: &str, key_ref: &str, plaintext: &[u8], ciphertext: &[u8]) -> Result<Self, KeyError> {
        Self { dek: Dek::from_kms(plaintext)?, externals: Vec::new(), count: 0 }.also_with(provider, key_ref, ciphertext)
    }

    /// The same DEK as another KMS, or another key of it, has encrypted it: either of them then opens what is sealed.
    ///
    /// # Errors
    /// [`KeyError::External`].
    pub fn also_with(mut self, provider: &str, key_ref: &str, ciphertext: &[u8]) -> Result<Self, KeyError> {
        External { provider, key_ref, blob: ciphertext }.encode(&mut self.externals)?;
        let full = ParseError::malformed("external_count", 12, "is more than 255");
        self.count = self.count.checked_add(1).ok_or(KeyError::External(full))?;
        Ok(self)
    }

    /// States that nobody else can have this DEK from the KMS ([`Dek::mine_alone`]). Only then can a sealer sign it.
    #[must_use]
    pub fn mine_alone(mut self) -> Self {
        self.dek = self.dek.mine_alone();
        self
    }
}

/// A DEK that no KMS has a ciphertext of.
impl From<Dek> for DataKey {
    fn from(dek: Dek) -> Self {
        Self { dek, externals: Vec::new(), count: 0 }
    }
}
