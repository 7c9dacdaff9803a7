//! The audit log of a store: lines that are appended, files that follow each other (spec/store.md, Audit log).

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{
    AuditError, Record, StoreError,
    disk::{Disk, unfinished},
    record::{Anchor, Chain, FileHead},
    walk::{Files, Found},
};
use crate::wire::len64;

/// Bytes after which a file of a log is followed by another.
pub const ROTATE_AT: u64 = 16 * 1024 * 1024;

/// Bytes of lines that wait before they are written whoever waits for them.
const WAITING_MAX: usize = 64 * 1024;

/// A log that is written to. Everything of it is durable when it is synced or dropped.
pub(super) struct Log {
    disk: Disk,
    folder: PathBuf,
    pub(super) chain: Chain,
    inner: Mutex<Inner>,
}

struct Inner {
    file: Arc<File>,
    number: u64,
    /// Whether a line follows the file's head.
    has_lines: bool,
    /// Bytes of whole lines.
    len: u64,
    /// Bytes that are durable.
    synced: u64,
    /// Where the log stands in the file.
    end: Anchor,
    /// Lines that wait to be written together, and where the log stands after them.
    waiting: Vec<u8>,
    after_waiting: Anchor,
    /// How often lines that waited could not be written, and were dropped.
    dropped: u64,
    /// A line that is durable elsewhere, and could not be appended yet.
    owed: Option<(Vec<u8>, Anchor)>,
    rotate_at: u64,
    /// What is on the disk is in doubt.
    failed: bool,
    /// Why something could not be written since that was last asked.
    refused: Option<StoreError>,
    /// Something could not be written, and it is not known that there is room again.
    is_short: bool,
}

impl Log {
    /// Begins a log, or a further file of it, after what stands in `after`; nothing is there under its name.
    pub(super) fn create(disk: &Disk, folder: &Path, chain: Chain, number: u64, after: Anchor) -> Result<Self, StoreError> {
        let (new, path) = (unfinished(&current(folder)), current(folder));
        let (file, len) = new_file(disk, &new, &chain.head(number, after))?;
        let named = disk.rename(&new, &path).and_then(|()| disk.sync_folder(folder));
        named.map_err(StoreError::io("naming", &path))?;
        Ok(Self::at(disk, folder, chain, file, (number, len, after), false))
    }

    /// Goes on with a log that was walked through: its torn end is cut off, and its missing file begun.
    pub(super) fn resume(disk: &Disk, folder: &Path, chain: Chain, found: &Found) -> Result<Self, StoreError> {
        disk.remove(&unfinished(&current(folder))).map_err(StoreError::io("removing", unfinished(&current(folder))))?;
        if !found.has_current {
            return Self::create(disk, folder, chain, found.number.saturating_add(1), found.end);
        }
        let path = current(folder);
        let file = disk.open_to_append(&path)?;
        // [STO-13]
        if found.torn > 0 {
            let cut = disk.truncate(&file, found.len).and_then(|()| disk.sync(&file));
            cut.map_err(StoreError::io("cutting the torn end off", &path))?;
        }
        Ok(Self::at(disk, folder, chain, file, (found.number, found.len, found.end), true))
    }

    fn at(disk: &Disk, folder: &Path, chain: Chain, file: File, at: (u64, u64, Anchor), has_lines: bool) -> Self {
        let (number, len, end) = at;
        // What was there may never have been synced by who wrote it.
        let inner = Inner {
            file: Arc::new(file),
            number,
            has_lines,
            len,
            synced: 0,
            end,
            waiting: Vec::new(),
            after_waiting: end,
            dropped: 0,
            owed: None,
            rotate_at: ROTATE_AT,
            failed: false,
            refused: None,
            is_short: false,
        };
        Self { disk: disk.clone(), folder: folder.into(), chain, inner: Mutex::new(inner) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a record; it outlives this process at once, and the machine when it was synced.
    pub(super) fn append(&self, record: &Record) -> Result<(), StoreError> {
        let mut inner = self.usable()?;
        self.gather(&mut inner, record)?;
        self.write_waiting(&mut inner)
    }

    /// Has a record wait for a call to the system that it shares with others. What is done because of it is told to nobody before
    /// [`settle`](Self::settle) was.
    pub(super) fn queue(&self, record: &Record) -> Result<Queued, StoreError> {
        let mut inner = self.usable()?;
        self.gather(&mut inner, record)?;
        let queued = Queued { seq: inner.after_waiting.seq, dropped: inner.dropped };
        if inner.waiting.len() >= WAITING_MAX {
            self.write_waiting(&mut inner)?;
        }
        Ok(queued)
    }

    /// Writes what waits, if this record still does. An error tells that it may not be in the log.
    pub(super) fn settle(&self, queued: Queued) -> Result<(), StoreError> {
        let mut inner = self.usable()?;
        // Since then lines were dropped, and this one may have been among them.
        if inner.dropped != queued.dropped {
            return Err(StoreError::Failed);
        }
        if inner.end.seq >= queued.seq { Ok(()) } else { self.write_waiting(&mut inner) }
    }

    fn gather(&self, inner: &mut Inner, record: &Record) -> Result<(), StoreError> {
        if inner.waiting.is_empty() {
            self.pay(inner)?;
            self.rotate_if_long(inner)?;
            inner.after_waiting = inner.end;
        }
        inner.after_waiting = self.chain.line(&inner.after_waiting, record, None, &mut inner.waiting)?;
        Ok(())
    }

    fn write_waiting(&self, inner: &mut Inner) -> Result<(), StoreError> {
        if inner.waiting.is_empty() {
            return Ok(());
        }
        let lines = std::mem::take(&mut inner.waiting);
        let written = self.put(inner, &lines, inner.after_waiting);
        inner.dropped += u64::from(written.is_err());
        inner.waiting = lines;
        inner.waiting.clear();
        written
    }

    fn rotate_if_long(&self, inner: &mut Inner) -> Result<(), StoreError> {
        if inner.len < inner.rotate_at || !inner.has_lines {
            return Ok(());
        }
        let rotated = self.rotate_now(inner);
        // A file that could not be begun is begun later; one that is half exchanged takes no line.
        if inner.failed { rotated } else { Ok(()) }
    }

    /// The next line, for a record of a change that makes this generation, and where the log stands after it. All before is
    /// durable.
    pub(super) fn draft(&self, record: &Record, generation: u64) -> Result<(Vec<u8>, Anchor), StoreError> {
        // [STO-9]
        self.sync()?;
        let mut line = Vec::new();
        let end = self.chain.line(&self.lock().end, record, Some(generation), &mut line)?;
        Ok((line, end))
    }

    /// Takes a drafted line that is durable elsewhere: what cannot be appended now is appended before anything else.
    pub(super) fn take(&self, line: Vec<u8>, end: Anchor) {
        let mut inner = self.lock();
        inner.owed = Some((line, end));
        let _ = self.pay(&mut inner);
    }

    /// Makes all lines durable.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        let mut inner = self.usable()?;
        self.write_all(&mut inner)?;
        let (file, len, number) = (Arc::clone(&inner.file), inner.len, inner.number);
        if inner.synced >= len {
            return Ok(());
        }
        // Others append meanwhile.
        drop(inner);
        let synced = self.disk.sync(&file);
        let mut inner = self.lock();
        match synced {
            Ok(()) if inner.number == number => inner.synced = inner.synced.max(len),
            Ok(()) => {}
            Err(error) => {
                // What a failed sync has lost, a second one does not find.
                inner.failed = true;
                return Err(StoreError::io("syncing", current(&self.folder))(error));
            }
        }
        Ok(())
    }

    /// Tells what could not be written since it was last asked; once nothing was in between, whether there is room again.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        let mut inner = self.usable()?;
        if let Some(refused) = inner.refused.take() {
            return Err(refused);
        }
        if inner.is_short {
            // Tried here, for nobody may ask anything until we are healthy; under a name that means nothing if we are killed.
            let new = unfinished(&current(&self.folder));
            new_file(&self.disk, &new, &self.chain.head(inner.number.saturating_add(1), inner.end))?;
            self.disk.remove(&new).map_err(StoreError::io("removing", new))?;
            inner.is_short = false;
        }
        Ok(())
    }

    /// Keeps for [`check`](Self::check) what could not be written.
    pub(super) fn note(&self, error: &StoreError) {
        self.lock().note(error);
    }

    /// Goes on in a new file; the old one gets a number.
    pub(super) fn rotate(&self) -> Result<(), StoreError> {
        let mut inner = self.usable()?;
        self.write_all(&mut inner)?;
        if inner.has_lines { self.rotate_now(&mut inner) } else { Ok(()) }
    }

    pub(super) fn rotate_at(&self, bytes: u64) {
        self.lock().rotate_at = bytes;
    }

    fn usable(&self) -> Result<MutexGuard<'_, Inner>, StoreError> {
        let inner = self.lock();
        if inner.failed { Err(StoreError::Failed) } else { Ok(inner) }
    }

    fn write_all(&self, inner: &mut Inner) -> Result<(), StoreError> {
        self.pay(inner)?;
        self.write_waiting(inner)
    }

    /// Appends the line that is owed. None waits meanwhile: it would be chained to another.
    fn pay(&self, inner: &mut Inner) -> Result<(), StoreError> {
        let Some((line, end)) = inner.owed.take() else { return Ok(()) };
        let put = self.put(inner, &line, end);
        if put.is_err() {
            inner.owed = Some((line, end));
        }
        put
    }

    /// Appends lines; when it cannot, nothing of them stays.
    fn put(&self, inner: &mut Inner, lines: &[u8], end: Anchor) -> Result<(), StoreError> {
        if let Err(error) = self.disk.write(&inner.file, lines) {
            inner.failed |= self.disk.truncate(&inner.file, inner.len).is_err();
            let error = StoreError::io("writing", current(&self.folder))(error);
            inner.note(&error);
            return Err(error);
        }
        inner.len = inner.len.saturating_add(len64(lines.len()));
        (inner.end, inner.has_lines) = (end, true);
        Ok(())
    }

    /// [STO-18] The next file begins with where this one ends, and is whole before this one loses its name.
    fn rotate_now(&self, inner: &mut Inner) -> Result<(), StoreError> {
        let path = current(&self.folder);
        let next = self.chain.head(inner.number.saturating_add(1), inner.end);
        let (file, len) = new_file(&self.disk, &unfinished(&path), &next)?;
        let moved = self
            .disk
            .sync(&inner.file)
            .and_then(|()| self.disk.rename(&path, &closed(&self.folder, inner.number)))
            .and_then(|()| self.disk.rename(&unfinished(&path), &path))
            .and_then(|()| self.disk.sync_folder(&self.folder));
        if let Err(error) = moved {
            inner.failed = true;
            return Err(StoreError::io("rotating", path)(error));
        }
        (inner.file, inner.number, inner.len, inner.synced) = (Arc::new(file), next.number, len, len);
        inner.has_lines = false;
        Ok(())
    }
}

impl Inner {
    fn note(&mut self, error: &StoreError) {
        if let Some(error) = error.of_the_disk() {
            (self.refused, self.is_short) = (Some(error), true);
        }
    }
}

/// A record that may still wait ([`Store::queue`](super::Store::queue)).
#[derive(Debug, Clone, Copy)]
pub struct Queued {
    seq: u64,
    dropped: u64,
}

impl Drop for Log {
    fn drop(&mut self) {
        let _ = self.sync();
    }
}

/// The file that lines are appended to.
pub(super) fn current(folder: &Path) -> PathBuf {
    folder.join("audit.log")
}

/// A file that is not written to any more.
pub(super) fn closed(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("audit.{number:06}.log"))
}

/// A file with a head alone, durable, under a name that is not its own yet.
fn new_file(disk: &Disk, path: &Path, head: &FileHead) -> Result<(File, u64), StoreError> {
    disk.remove(path).map_err(StoreError::io("removing", path))?;
    let file = disk.create(path)?;
    let line = head.encode() + "\n";
    if let Err(error) = disk.write(&file, line.as_bytes()).and_then(|()| disk.sync(&file)) {
        let _ = disk.remove(path);
        return Err(StoreError::io("writing", path)(error));
    }
    Ok((file, len64(line.len())))
}

/// The files of a log in a folder, the oldest first.
pub(super) fn files(disk: &Disk, folder: &Path) -> Result<Files, StoreError> {
    let names = disk.names(folder).map_err(StoreError::io("reading", folder))?;
    let number = |name: &String| name.strip_prefix("audit.")?.strip_suffix(".log")?.parse::<u64>().ok();
    // Another spelling of a number is no file of a log.
    let mut numbers: Vec<u64> =
        names.iter().filter_map(number).filter(|n| names.contains(&format!("audit.{n:06}.log"))).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let has_current = names.iter().any(|name| name == "audit.log");
    if numbers.is_empty() && !has_current {
        return Err(AuditError::NotThere.into());
    }
    Ok(Files { folder: folder.into(), numbers, has_current, current_len: u64::MAX, held: None })
}
