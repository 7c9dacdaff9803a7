//! The keyring that the Linux kernel has for a user: it outlives every session, and no reboot.

use linux_keyutils::{Key, KeyError, KeyPermissionsBuilder, KeyRing, KeyRingIdentifier, Permission};
use zeroize::Zeroizing;

use super::SERVICE;
use crate::keys::KEY_FILE_MAX;

/// The user's keyring. A service's session does not lead to it, and what a process cannot find from its own it may not read.
fn ring() -> Result<KeyRing, KeyError> {
    let ring = KeyRing::from_special_id(KeyRingIdentifier::User, true)?;
    KeyRing::from_special_id(KeyRingIdentifier::Process, true)?.link_keyring_id(KeyRingIdentifier::User)?;
    Ok(ring)
}

fn find(ring: KeyRing, name: &str) -> Result<Option<Key>, KeyError> {
    match ring.search(&format!("{SERVICE}:{name}")) {
        Ok(key) => Ok(Some(key)),
        Err(KeyError::KeyDoesNotExist | KeyError::KeyExpired | KeyError::KeyRevoked) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn get(name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, String> {
    let read = |key: Key| {
        let mut text = Zeroizing::new(vec![0; KEY_FILE_MAX + 1]);
        let len = key.read(&mut *text)?;
        text.truncate(len);
        Ok(text)
    };
    ring().and_then(|ring| find(ring, name)).and_then(|key| key.map(read).transpose()).map_err(in_words)
}

/// Puts a text there, and takes the right away to put another over it: a key of that name is then refused, whoever adds it. Of two that
/// come at one moment one stays, and which it is can be seen from then on.
pub(super) fn set(name: &str, text: &[u8]) -> Result<(), String> {
    let to_keep = Permission::VIEW | Permission::READ | Permission::SEARCH | Permission::LINK | Permission::SETATTR;
    let permissions = KeyPermissionsBuilder::builder().posessor(to_keep).user(Permission::VIEW).build();
    let keep = |ring: KeyRing| ring.add_key(&format!("{SERVICE}:{name}"), text)?.set_perms(permissions);
    ring().and_then(keep).map_err(in_words)
}

pub(super) fn remove(name: &str) -> Result<(), String> {
    let unlink = |ring: KeyRing| find(ring, name)?.map_or(Ok(()), |key| ring.unlink_key(key));
    ring().and_then(unlink).map_err(in_words)
}

fn in_words(error: KeyError) -> String {
    match error {
        KeyError::AccessDenied | KeyError::PermissionDenied => "the kernel does not let this process have it".into(),
        KeyError::QuotaExceeded => "this user's keyring is full (/proc/sys/kernel/keys/maxbytes)".into(),
        // ENOSYS: a kernel without keyrings, or a container that is not let to them.
        KeyError::Unknown(38) | KeyError::OperationNotSupported => "the kernel has no keyring, or not for this container".into(),
        error => format!("the kernel says {error}"),
    }
}
