//! A state file -> a copy of it, and back into a store.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{
    Head, RootKey, Store, StoreError,
    disk::{Disk, folder_of, unfinished},
    open_with, read_state, snapshot, state_in, write_new,
};
use crate::wire::len64;

/// Copies the state of a store into one file, which needs the same root key; tells its generation. A server may go on writing.
/// The copy is readable by its owner alone, and nothing is written over.
///
/// Without the root key no more is checked than that the copy is whole; [`Store::backup`] opens it too.
///
/// # Errors
/// [`StoreError::Exists`], and others; nothing is left behind then.
pub fn backup(folder: &Path, to: &Path) -> Result<u64, StoreError> {
    let disk = Disk::default();
    if !disk.is_there(&state_in(folder))? {
        return Err(StoreError::Missing(folder.into()));
    }
    let file = read_state(&disk, &state_in(folder))?;
    let head = Head::parse(&file)?;
    if head.file_len() != len64(file.len()) {
        return Err(StoreError::Damaged("it is shorter or longer than its head says"));
    }
    write_copy(&disk, to, &file)?;
    Ok(head.generation)
}

/// Makes a store of a backup, or of the state file of a store whose log is damaged. It is opened first; nothing is written
/// over. The new store has a log of its own, and is one generation newer.
///
/// # Errors
/// As [`Store::create`], and those of a state that cannot be opened.
pub fn restore(from: &Path, folder: &Path, root: &RootKey) -> Result<Store, StoreError> {
    let disk = Disk::default();
    let from = if from.is_dir() { state_in(from) } else { from.to_owned() };
    if !disk.is_there(&from)? {
        return Err(StoreError::Missing(from));
    }
    let (opened, _) = open_with(&disk, &from, root)?;
    let generation = opened.head.generation.checked_add(1).ok_or(StoreError::Failed)?;
    Store::create_on(disk, folder, root, &opened.state, generation)
}

impl Store {
    /// Copies the state into one file, after it has been opened; tells its generation.
    ///
    /// # Errors
    /// As [`backup`].
    pub fn backup(&self, to: &Path) -> Result<u64, StoreError> {
        let file = read_state(&self.disk, &self.state_path())?;
        let head = Head::parse(&file)?;
        snapshot::open(&self.root, head.clone(), file.clone())?;
        write_copy(&self.disk, to, &file)?;
        Ok(head.generation)
    }
}

/// Makes a file appear whole, where nothing is.
fn write_copy(disk: &Disk, to: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    // [STO-16]
    if disk.is_there(to)? {
        return Err(StoreError::Exists(to.into()));
    }
    let new: PathBuf = unfinished(to);
    if disk.is_there(&new)? {
        return Err(StoreError::Exists(new));
    }
    write_new(disk, &new, bytes)?;
    let named = name(disk, &new, to);
    let _ = disk.remove(&new);
    named?;
    disk.sync_folder(folder_of(to)).map_err(StoreError::io("syncing", folder_of(to)))
}

/// A second name is refused where there is one; a rename is not, and is for file systems without second names.
fn name(disk: &Disk, new: &Path, to: &Path) -> Result<(), StoreError> {
    match disk.link(new, to) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(StoreError::Exists(to.into())),
        Err(error) if matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied) => {
            disk.rename(new, to).map_err(StoreError::io("naming", to))
        }
        Err(error) => Err(StoreError::io("naming", to)(error)),
    }
}
