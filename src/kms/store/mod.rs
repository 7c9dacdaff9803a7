//! The state of a key service <-> a folder, under a root key, and an audit log beside it (spec/store.md). Knows nothing of what
//! a state means.
//!
//! ```text
//! state              the whole state, sealed as one, replaced as one
//! audit.log          what has happened, a line each, chained
//! audit.000001.log   its files before, after rotations
//! lock               held while the store is open for writing
//! ```
//!
//! No database engine: a service has few keys, and one snapshot under one AEAD means that no record can be dropped, exchanged
//! or put back alone, which encryption record by record inside an engine does not give. A copy of one file is a backup, and a
//! replica.
//!
//! What it does not tell: a state and a log that were put back together, to one moment of the past. Ship the log, or keep a
//! replica.
//!
//! ```
//! use sealwire::kms::store::{Record, RootKey, Store, verify};
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("kms");
//! let (root, key_file) = RootKey::generate("2026-01-01T00:00:00Z")?;
//! let mut store = Store::create(&path, &root, b"no keys yet")?;
//! let [caller, action, result] = ["alice", "create", "ok"].map(String::from);
//! let record = Record { at: 0, caller, action, key: Some("orders".into()), result };
//! store.replace(b"one key", &record)?;
//! drop(store);
//!
//! let (store, state) = Store::open(&path, &RootKey::from_key_file(&key_file)?)?;
//! assert_eq!(&state[..], b"one key");
//! assert_eq!(verify(&path, &root)?.lines, 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod audit;
mod backup;
mod disk;
mod error;
#[cfg(test)]
mod faults;
mod head;
mod log;
mod record;
mod replica;
mod root;
mod snapshot;
mod walk;

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

pub use audit::{Records, Report, records, verify, verify_replica};
pub use backup::{backup, restore};
pub use error::{AuditError, LineError, RecordError, StoreError};
pub use head::{HEAD_LEN, Head, STATE_FILE, STATE_MAX};
pub use log::{Queued, ROTATE_AT};
pub use record::{ACTION_MAX, Entry, LINE_MAX, PART_MAX, Record};
pub use replica::Replica;
pub use root::{RootKey, RootKind, Stretch};

use crate::{
    crypto::Secret32,
    platform::Entropy,
    wire::{LimitExceeded, len64},
};
use disk::{Disk, folder_of, unfinished};
use log::Log;
use record::Anchor;
use root::Root;
use snapshot::{Ledger, Snapshot};
use walk::Expected;

/// A store that is open for writing. No other process writes while it is.
pub struct Store {
    disk: Disk,
    folder: PathBuf,
    root: Root,
    head: Head,
    /// What is the same in the ledger of every state.
    log_secret: Secret32,
    log: Log,
    repaired: Option<Repaired>,
    failed: bool,
    /// Let go of last.
    _lock: File,
}

/// What an opening store found unfinished after a crash, and mended. It belongs into the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repaired {
    /// Bytes behind the last whole line of the log, which were cut off.
    pub torn_bytes: u64,
    /// Whether the line of the last change was missing from the log; the state has it, and it was written again.
    pub line_added: bool,
}

impl Store {
    /// Makes a store, with a folder for it if there is none. A store that is there is not written over.
    ///
    /// # Errors
    /// [`StoreError::Exists`], and others when it could not be made.
    pub fn create(folder: &Path, root: &RootKey, state: &[u8]) -> Result<Self, StoreError> {
        Self::create_on(Disk::default(), folder, root, state, 1)
    }

    /// Opens a store for writing; waits for some seconds while another process has it open. What a crash has left is mended.
    ///
    /// # Errors
    /// [`StoreError::InUse`], [`StoreError::WrongRootKey`], and others; nothing has been written to a store that is damaged.
    pub fn open(folder: &Path, root: &RootKey) -> Result<(Self, Zeroizing<Vec<u8>>), StoreError> {
        Self::open_on(Disk::default(), folder, root)
    }

    /// Replaces the state. It is durable when this returns, and so is the record, which no crash parts from it.
    ///
    /// # Errors
    /// [`StoreError`]: the old state is there, and the store may be used, but for [`StoreError::InDoubt`] and
    /// [`StoreError::Failed`], after which it is opened again.
    pub fn replace(&mut self, state: &[u8], record: &Record) -> Result<(), StoreError> {
        self.commit(None, state, record)
    }

    /// Puts the state under another root key. Copies that were made before stay under the old one.
    ///
    /// # Errors
    /// As [`replace`](Self::replace).
    pub fn change_root(&mut self, new: &RootKey, record: &Record) -> Result<(), StoreError> {
        self.usable()?;
        let snapshot = read_snapshot(&self.disk, &self.state_path(), &self.root)?;
        self.commit(Some(new.fresh(&mut Entropy::default())?), &snapshot.state, record)
    }

    /// Writes down a use that changes nothing. It outlives this process at once; the machine, when the store is next synced,
    /// replaced or dropped.
    ///
    /// # Errors
    /// [`StoreError`]: nothing of the record is in the log.
    pub fn log(&self, record: &Record) -> Result<(), StoreError> {
        self.usable()?;
        self.log.append(record)
    }

    /// The same for a use that is told to nobody before [`settle`](Self::settle): several share one call to the system.
    ///
    /// # Errors
    /// [`StoreError`]: nothing of the record is in the log.
    pub fn queue(&self, record: &Record) -> Result<Queued, StoreError> {
        self.usable()?;
        self.log.queue(record)
    }

    /// Writes down what was queued, if it is not yet.
    ///
    /// # Errors
    /// [`StoreError`]: the record may not be in the log.
    pub fn settle(&self, queued: Queued) -> Result<(), StoreError> {
        self.usable()?;
        self.log.settle(queued)
    }

    /// Makes what was logged durable.
    ///
    /// # Errors
    /// [`StoreError`], after which the store is opened again.
    pub fn sync(&self) -> Result<(), StoreError> {
        self.usable()?;
        self.log.sync()
    }

    /// Whether all could be written since this was last asked; where it could not, whether there is room again.
    ///
    /// # Errors
    /// [`StoreError`]: what was refused, each time once, or why there is still no room.
    pub fn check(&self) -> Result<(), StoreError> {
        self.usable()?;
        self.log.check()
    }

    /// Goes on with the log in a new file. The files before are kept until somebody removes them, the oldest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn rotate(&self) -> Result<(), StoreError> {
        self.usable()?;
        self.log.rotate()
    }

    /// Goes on in a new file whenever one has so many bytes; [`ROTATE_AT`] unless it is said.
    pub fn rotate_at(&self, bytes: u64) {
        self.log.rotate_at(bytes);
    }

    /// How often the state has been replaced.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.head.generation
    }

    /// What was mended when the store was opened.
    #[must_use]
    pub fn repaired(&self) -> Option<Repaired> {
        self.repaired
    }

    fn state_path(&self) -> PathBuf {
        state_in(&self.folder)
    }

    fn usable(&self) -> Result<(), StoreError> {
        if self.failed { Err(StoreError::Failed) } else { Ok(()) }
    }

    fn create_on(disk: Disk, folder: &Path, root: &RootKey, state: &[u8], generation: u64) -> Result<Self, StoreError> {
        LimitExceeded::check("state", len64(state.len()), STATE_MAX)?;
        if !disk.is_there(folder)? {
            disk.create_folder(folder).map_err(StoreError::io("creating", folder))?;
            disk.sync_folder(folder_of(folder)).map_err(StoreError::io("syncing", folder_of(folder)))?;
        }
        disk.check_folder(folder)?;
        let lock = disk.lock(folder)?;
        make_room(&disk, folder)?;
        let (mut entropy, start) = (Entropy::default(), Anchor::START);
        let ledger = Ledger { secret: entropy.secret()?, id: entropy.array()?, anchor: start, line: Vec::new() };
        let root = root.fresh(&mut entropy)?;
        let (head, file) = snapshot::seal(&root, generation, &ledger, state)?;
        let log = Log::create(&disk, folder, ledger.chain()?, 1, start)?;
        let log_secret = ledger.secret;
        let (folder, repaired, failed) = (folder.to_owned(), None, false);
        let mut store = Self { disk, folder, root, head, log_secret, log, repaired, failed, _lock: lock };
        // [STO-16] Last, and where nothing is: with it there is a store.
        store.place(&file)?;
        Ok(store)
    }

    fn open_on(disk: Disk, folder: &Path, root: &RootKey) -> Result<(Self, Zeroizing<Vec<u8>>), StoreError> {
        let path = state_in(folder);
        if !disk.is_there(&path)? {
            return Err(StoreError::Missing(folder.into()));
        }
        disk.check_folder(folder)?;
        // [STO-8]
        let lock = disk.lock(folder)?;
        let (Snapshot { head, ledger, state }, root) = open_with(&disk, &path, root)?;
        let expected = Expected { ledger: &ledger, generation: head.generation };
        let chain = ledger.chain()?;
        let found = log::files(&disk, folder)?.walk(&disk, &chain, Some(&expected), Some(ledger.anchor.seq))?;
        // [STO-16] Up to here nothing has been written.
        disk.remove(&unfinished(&path)).map_err(StoreError::io("removing", unfinished(&path)))?;
        // The log must not tell of a state whose name a power cut could still take away.
        disk.sync_folder(folder).map_err(StoreError::io("syncing", folder))?;
        let log = Log::resume(&disk, folder, chain, &found)?;
        if found.is_owed {
            log.take(ledger.line, ledger.anchor);
        }
        let repaired = Repaired { torn_bytes: found.torn, line_added: found.is_owed };
        let repaired = (repaired.torn_bytes > 0 || repaired.line_added).then_some(repaired);
        let (folder, log_secret) = (folder.to_owned(), ledger.secret);
        Ok((Self { disk, folder, root, head, log_secret, log, repaired, failed: false, _lock: lock }, state))
    }

    /// The one way in which a state is replaced. `root` is what it is under from now on, if that changes.
    fn commit(&mut self, root: Option<Root>, state: &[u8], record: &Record) -> Result<(), StoreError> {
        self.usable()?;
        LimitExceeded::check("state", len64(state.len()), STATE_MAX)?;
        self.check_unchanged()?;
        let generation = self.head.generation.checked_add(1).ok_or(StoreError::Failed)?;
        let (line, anchor) = self.log.draft(record, generation)?;
        let ledger = Ledger { secret: Secret32::copied(self.log_secret.bytes()), id: self.log.chain.id, anchor, line };
        let (head, file) = snapshot::seal(root.as_ref().unwrap_or(&self.root), generation, &ledger, state)?;
        self.place(&file).inspect_err(|error| self.log.note(error))?;
        self.head = head;
        if let Some(root) = root {
            self.root = root;
        }
        self.log.take(ledger.line, anchor);
        Ok(())
    }

    /// Whether the state is the one that was written or read last: a copy may have been put over it.
    fn check_unchanged(&self) -> Result<(), StoreError> {
        let path = self.state_path();
        let file = self.disk.open(&path)?;
        let mut head = [0; HEAD_LEN];
        self.disk.read(&file, &mut head).map_err(StoreError::io("reading", &path))?;
        if head == self.head.encode() { Ok(()) } else { Err(StoreError::Exchanged(path)) }
    }

    /// Gives a new state file its name, whole and durable. [STO-7]
    fn place(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let (path, new) = (self.state_path(), unfinished(&self.state_path()));
        write_new(&self.disk, &new, bytes)?;
        if let Err(source) = self.disk.rename(&new, &path) {
            // Where it still has its other name, it has not taken the place.
            if self.disk.is_there(&new).unwrap_or(false) {
                let _ = self.disk.remove(&new);
                return Err(StoreError::Io { what: "replacing", path, source });
            }
            self.failed = true;
            return Err(StoreError::InDoubt { path, source });
        }
        self.disk.sync_folder(&self.folder).map_err(|source| {
            self.failed = true;
            StoreError::InDoubt { path, source }
        })
    }
}

fn state_in(folder: &Path) -> PathBuf {
    folder.join("state")
}

/// Refuses a folder in which there is a store, or a log with lines. What a creation left behind that was cut short is removed.
fn make_room(disk: &Disk, folder: &Path) -> Result<(), StoreError> {
    let (state, log) = (state_in(folder), log::current(folder));
    let files = match log::files(disk, folder) {
        Err(StoreError::Audit(AuditError::NotThere)) => None,
        files => Some(files?),
    };
    // [STO-16]
    if disk.is_there(&state)? {
        return Err(StoreError::Exists(state));
    }
    if let Some(files) = files {
        if !files.numbers.is_empty() || files.has_lines(disk)? {
            return Err(StoreError::Exists(log));
        }
        disk.remove(&log).map_err(StoreError::io("removing", &log))?;
    }
    disk.remove(&unfinished(&state)).map_err(StoreError::io("removing", unfinished(&state)))
}

/// A file that was not there, whole and durable; when that cannot be, it is not there.
fn write_new(disk: &Disk, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    disk.remove(path).map_err(StoreError::io("removing", path))?;
    let written = disk
        .create(path)
        .and_then(|file| disk.write(&file, bytes).and_then(|()| disk.sync(&file)).map_err(StoreError::io("writing", path)));
    if written.is_err() {
        let _ = disk.remove(path);
    }
    written
}

/// A state that is there, and its root key, stretched for it.
fn open_with(disk: &Disk, path: &Path, root: &RootKey) -> Result<(Snapshot, Root), StoreError> {
    let file = read_state(disk, path)?;
    let head = Head::parse(&file)?;
    let root = root.unlock(head.root.clone())?;
    Ok((snapshot::open(&root, head, file)?, root))
}

/// The same under a root key that was stretched before.
fn read_snapshot(disk: &Disk, path: &Path, root: &Root) -> Result<Snapshot, StoreError> {
    let file = read_state(disk, path)?;
    snapshot::open(root, Head::parse(&file)?, file)
}

/// A state file, whole; of at most as many bytes as one can have. [STO-3]
fn read_state(disk: &Disk, path: &Path) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    let file = disk.open(path)?;
    let len = file.metadata().map_err(StoreError::io("reading", path))?.len();
    LimitExceeded::check("state file", len, head::FILE_MAX)?;
    let mut bytes = Zeroizing::new(vec![0; crate::wire::index(len)]);
    disk.read(&file, &mut bytes).map_err(StoreError::io("reading", path))?;
    Ok(bytes)
}
