//! Who can read and who has written (spec 12): CMKs, senders' keys, their public halves, DEKs, keyrings, and the forms that
//! keys take as text.

mod age;
mod cmk;
mod data_key;
mod dek;
mod error;
mod file;
mod fingerprint;
mod keyring;
mod pem;
#[cfg(feature = "passphrase")]
mod protected;
mod recipient;
mod sender;
mod text;

pub use cmk::{Cmk, DecapsulateError, Decapsulator};
pub use data_key::DataKey;
pub use dek::Dek;
pub use error::{KeyError, ProtectionError};
#[cfg(feature = "cli")]
pub(crate) use file::has_key_beside;
pub use file::{
    KEY_FILE_MAX, Listed, cmk_from_key_file, cmk_to_key_file, is_key_string, recipient_from_text, recipients_from_list,
    sender_from_text, sender_key_from_key_file, sender_key_to_key_file, senders_from_list,
};
pub use fingerprint::Fingerprint;
pub(crate) use keyring::Candidate;
pub use keyring::Keyring;
#[cfg(feature = "passphrase")]
pub use protected::{
    LANES_MAX, MEMORY_MAX, PASSES_MAX, PASSPHRASE_MAX, PROTECTED_TEXT_MAX, Passphrase, PassphraseError, ProtectError, Protected,
    SecretKey, WORK_MAX, change_passphrase, protected_from_key_file, secret_key_from_key_file,
};
#[cfg(feature = "kms")]
pub(crate) use protected::{WRITTEN, check, stretch};
pub(crate) use recipient::PublicHalf;
pub use recipient::Recipient;
pub use sender::{SenderKey, VerifyingKey};

pub use crate::crypto::kem::{NotContributory, SharedSecret};
