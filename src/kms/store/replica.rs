//! A copy of a state that is read, and never written.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use super::{
    AuditError, Head, Record, RootKey, StoreError,
    audit::log_id,
    disk::Disk,
    log::{self, Log, Queued},
    open_with, read_state,
    record::Anchor,
    root::Root,
    snapshot::{self, Ledger, Snapshot},
    state_in,
};
use crate::{crypto::Secret32, platform::Entropy};

/// A store that is read alone: a copy of its folder, or of its state file. Nothing is written there, and no lock is taken.
///
/// ```
/// # use sealwire::kms::store::{Record, Replica, RootKey, Store};
/// # let folder = tempfile::tempdir()?;
/// # let (root, _) = RootKey::generate("")?;
/// # let mut store = Store::create(folder.path(), &root, b"old")?;
/// # let record = Record { at: 0, caller: "alice".into(), action: "create".into(), key: None, result: "ok".into() };
/// let (mut replica, state) = Replica::open(folder.path(), &root)?;
/// assert_eq!((&state[..], replica.reload()?), (&b"old"[..], None));
/// store.replace(b"new", &record)?;
/// assert_eq!(&replica.reload()?.expect("it is newer")[..], b"new");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Replica {
    disk: Disk,
    path: PathBuf,
    root: Root,
    head: Head,
    log_secret: Secret32,
    log: Option<(Log, File)>,
}

impl Replica {
    /// Opens a copy of a store's folder, or of its state file alone.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open(path: &Path, root: &RootKey) -> Result<(Self, Zeroizing<Vec<u8>>), StoreError> {
        let disk = Disk::default();
        let path = if path.is_dir() { state_in(path) } else { path.to_owned() };
        if !disk.is_there(&path)? {
            return Err(StoreError::Missing(path));
        }
        let (Snapshot { head, ledger, state }, root) = open_with(&disk, &path, root)?;
        Ok((Self { disk, path, root, head, log_secret: ledger.secret, log: None }, state))
    }

    /// Keeps a log of its own in a folder that is not the store's; goes on with one that it kept there before.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::Exists`] when a store is there.
    pub fn log_to(&mut self, folder: &Path) -> Result<(), StoreError> {
        if !self.disk.is_there(folder)? {
            self.disk.create_folder(folder).map_err(StoreError::io("creating", folder))?;
        }
        self.disk.check_folder(folder)?;
        if self.disk.is_there(&state_in(folder))? {
            return Err(StoreError::Exists(state_in(folder)));
        }
        let lock = self.disk.lock(folder)?;
        let log = self.own_log(folder)?;
        self.log = Some((log, lock));
        Ok(())
    }

    fn own_log(&self, folder: &Path) -> Result<Log, StoreError> {
        let secret = Secret32::copied(self.log_secret.bytes());
        let mut ledger = Ledger { secret, id: [0; 16], anchor: Anchor::START, line: Vec::new() };
        let files = match log::files(&self.disk, folder) {
            Err(StoreError::Audit(AuditError::NotThere)) => {
                ledger.id = Entropy::default().array()?;
                return Log::create(&self.disk, folder, ledger.chain()?, 1, Anchor::START);
            }
            files => files?,
        };
        ledger.id = log_id(&self.disk, folder)?;
        let chain = ledger.chain()?;
        let found = files.walk(&self.disk, &chain, None, None)?;
        Log::resume(&self.disk, folder, chain, &found)
    }

    /// Writes down a use, where a log is kept.
    ///
    /// # Errors
    /// [`StoreError`]: nothing of the record is in the log.
    pub fn log(&self, record: &Record) -> Result<(), StoreError> {
        self.log.as_ref().map_or(Ok(()), |(log, _)| log.append(record))
    }

    /// The same for a use that is told to nobody before [`settle`](Self::settle).
    ///
    /// # Errors
    /// [`StoreError`]: nothing of the record is in the log.
    pub fn queue(&self, record: &Record) -> Result<Option<Queued>, StoreError> {
        self.log.as_ref().map(|(log, _)| log.queue(record)).transpose()
    }

    /// Writes down what was queued, if it is not yet.
    ///
    /// # Errors
    /// [`StoreError`]: the record may not be in the log.
    pub fn settle(&self, queued: Queued) -> Result<(), StoreError> {
        self.log.as_ref().map_or(Ok(()), |(log, _)| log.settle(queued))
    }

    /// Makes what was logged durable.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn sync(&self) -> Result<(), StoreError> {
        self.log.as_ref().map_or(Ok(()), |(log, _)| log.sync())
    }

    /// Whether all lines could be written since this was last asked; where one could not, whether there is room again.
    ///
    /// # Errors
    /// [`StoreError`]: what was refused, each time once, or why there is still no room.
    pub fn check(&self) -> Result<(), StoreError> {
        self.log.as_ref().map_or(Ok(()), |(log, _)| log.check())
    }

    /// The generation of the state that was read last.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.head.generation
    }

    /// The state, if the file was replaced by a newer one since it was read.
    ///
    /// # Errors
    /// [`StoreError::WentBack`] when it is older, or another of the same generation; [`StoreError::WrongRootKey`] when the root
    /// key was changed, after which the replica is opened again. What was read before stays good.
    pub fn reload(&mut self) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        self.reload_as(Ok)
    }

    /// The same, as what `read` makes of it; what it refuses is not taken, and is read again the next time.
    pub(crate) fn reload_as<T, E: From<StoreError>>(
        &mut self,
        read: impl FnOnce(Zeroizing<Vec<u8>>) -> Result<T, E>,
    ) -> Result<Option<T>, E> {
        let file = read_state(&self.disk, &self.path)?;
        let head = Head::parse(&file)?;
        if head == self.head {
            return Ok(None);
        }
        if head.root != self.root.kind {
            return Err(StoreError::WrongRootKey.into());
        }
        let Snapshot { head, state, ledger } = snapshot::open(&self.root, head, file)?;
        // [STO-15]
        if head.generation <= self.head.generation {
            return Err(StoreError::WentBack { seen: self.head.generation, found: head.generation }.into());
        }
        let state = read(state)?;
        (self.head, self.log_secret) = (head, ledger.secret);
        Ok(Some(state))
    }
}
