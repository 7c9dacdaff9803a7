//! Who can read (spec 12): CMKs and their public halves, DEKs, keyrings, and the forms that keys take as text.

mod cmk;
mod dek;
mod error;
mod file;
mod fingerprint;
mod keyring;
mod pem;
mod recipient;
mod text;

pub use cmk::{Cmk, DecapsulateError, Decapsulator};
pub use dek::Dek;
pub use error::KeyError;
pub use file::{KEY_FILE_MAX, cmk_from_key_file, cmk_to_key_file, recipient_from_text, recipients_from_list};
pub use fingerprint::Fingerprint;
pub(crate) use keyring::Candidate;
pub use keyring::Keyring;
pub use recipient::Recipient;

pub use crate::crypto::kem::{NotContributory, SharedSecret};
