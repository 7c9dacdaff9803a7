//! The Secret Service of the session's D-Bus, and its like on other systems. What passes through that is not wiped behind us.

use keyring::{Entry, Error};
use zeroize::Zeroizing;

use super::SERVICE;

fn entry(name: &str) -> Result<Entry, String> {
    if let Err(error) = Entry::store_status() {
        return Err(format!(
            "no keyring answers here ({error}); a server without a desktop has kernel:{name}, or better --root-key-file"
        ));
    }
    Entry::new(SERVICE, name).map_err(|error| error.to_string())
}

pub(super) fn get(name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, String> {
    match entry(name)?.get_secret() {
        Ok(text) => Ok(Some(Zeroizing::new(text))),
        Err(Error::NoEntry) => Ok(None),
        // What is told of them in full holds what they are.
        Err(Error::Ambiguous(entries)) => Err(format!("{} are called so there", entries.len())),
        Err(error) => Err(error.to_string()),
    }
}

pub(super) fn set(name: &str, text: &[u8]) -> Result<(), String> {
    entry(name)?.set_secret(text).map_err(|error| error.to_string())
}

pub(super) fn remove(name: &str) -> Result<(), String> {
    entry(name)?.delete_credential().map_err(|error| error.to_string())
}
