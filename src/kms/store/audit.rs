//! An audit log -> what it says, and whether that is true.

use std::{
    collections::VecDeque,
    io::BufReader,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use super::{
    AuditError, Entry, Head, LineError, RootKey, StoreError,
    disk::Disk,
    log, open_with, read_snapshot, read_state,
    root::Root,
    snapshot::Snapshot,
    state_in,
    walk::{Expected, Files, Line, Lines},
};

/// How often a log is looked at again that a server writes to meanwhile.
const LOOKS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(25);

/// What a verified audit log holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// How many lines were verified.
    pub lines: u64,
    /// How many files.
    pub files: u64,
    /// The number of the first line, more than 1 where older files are gone.
    pub first: u64,
    /// The number of the last line.
    pub last: u64,
    /// Up to this line nothing could have been cut off unseen: the state names it. Of a replica's log, none.
    pub anchored: u64,
    /// The generation of the state.
    pub generation: u64,
    /// Bytes of a last line that a crash has torn, or that a server is writing now.
    pub torn_bytes: u64,
    /// Whether the line of the last change is in the state alone, as after a crash; the next opening adds it.
    pub line_missing: bool,
}

/// Verifies the audit log of a store against its state. Nothing is written, and a server may go on.
///
/// # Errors
/// [`StoreError::Audit`] when the log is not what was written; others when the state cannot be opened.
pub fn verify(folder: &Path, root: &RootKey) -> Result<Report, StoreError> {
    let disk = Disk::default();
    let path = state_in(folder);
    if !disk.is_there(&path)? {
        return Err(StoreError::Missing(folder.into()));
    }
    let root = root.unlock(Head::parse(&read_state(&disk, &path)?)?.root)?;
    let mut look = verify_once(&disk, folder, &root);
    for _ in 1..LOOKS {
        // A server may be writing a line or exchanging a file.
        if !matches!(&look, Ok(Report { torn_bytes: 1.., .. }) | Err(StoreError::Audit(_) | StoreError::Io { .. })) {
            break;
        }
        thread::sleep(PAUSE);
        look = verify_once(&disk, folder, &root);
    }
    look
}

fn verify_once(disk: &Disk, folder: &Path, root: &Root) -> Result<Report, StoreError> {
    let (Snapshot { head, ledger, .. }, files) = at_one_time(disk, folder, root)?;
    let expected = Expected { ledger: &ledger, generation: head.generation };
    let found = files.walk(disk, &ledger.chain()?, Some(&expected), None)?;
    let anchored = if found.is_owed { found.end.seq } else { ledger.anchor.seq };
    Ok(report(&found, &head, anchored))
}

/// A state, and the log as it was at a moment when this was the state.
fn at_one_time(disk: &Disk, folder: &Path, root: &Root) -> Result<(Snapshot, Files), StoreError> {
    let path = state_in(folder);
    let mut snapshot = read_snapshot(disk, &path, root)?;
    loop {
        let files = log::files(disk, folder)?.until_now(disk)?;
        if Head::parse(&read_state(disk, &path)?)? == snapshot.head {
            return Ok((snapshot, files));
        }
        snapshot = read_snapshot(disk, &path, root)?;
    }
}

/// Verifies the log that a replica has written into `folder`; `state` is the state file that it read. No state names its end,
/// so that lines cut off there are not missed.
///
/// # Errors
/// As [`verify`].
pub fn verify_replica(folder: &Path, state: &Path, root: &RootKey) -> Result<Report, StoreError> {
    let disk = Disk::default();
    let (Snapshot { head, mut ledger, .. }, _) = open_with(&disk, state, root)?;
    ledger.id = log_id(&disk, folder)?;
    let found = log::files(&disk, folder)?.walk(&disk, &ledger.chain()?, None, None)?;
    Ok(report(&found, &head, 0))
}

fn report(found: &super::walk::Found, head: &Head, anchored: u64) -> Report {
    Report {
        lines: found.end.seq.saturating_add(1).saturating_sub(found.start),
        files: found.files,
        first: found.start,
        last: found.end.seq,
        anchored,
        generation: head.generation,
        torn_bytes: found.torn,
        line_missing: found.is_owed,
    }
}

/// The id of the log in a folder, as its newest file has it.
pub(super) fn log_id(disk: &Disk, folder: &Path) -> Result<[u8; 16], StoreError> {
    let files = log::files(disk, folder)?;
    let path = files.paths().pop().ok_or(AuditError::NotThere)?;
    let head = Lines::over(BufReader::new(disk.open(&path)?), &path).head()?;
    Ok(head.ok_or(AuditError::Head { file: 1 })?.id)
}

/// The lines of the audit log in a folder, the oldest first, as they say and unverified; a torn end is left out. No root key is
/// needed.
///
/// ```
/// # use sealwire::kms::store::{Record, RootKey, Store, records};
/// # let folder = tempfile::tempdir()?;
/// # let (root, _) = RootKey::generate("")?;
/// # let store = Store::create(folder.path(), &root, b"")?;
/// # let record = Record { at: 0, caller: "alice".into(), action: "unwrap".into(), key: None, result: "ok".into() };
/// store.log(&record)?;
/// for entry in records(folder.path())? {
///     println!("{}", entry?.encode());
/// }
/// # assert_eq!(records(folder.path())?.next().unwrap()?.record, record);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`StoreError::Audit`] when there is no log.
pub fn records(folder: &Path) -> Result<Records, StoreError> {
    let disk = Disk::default();
    let paths = log::files(&disk, folder)?.paths().into();
    Ok(Records { disk, paths, lines: None, file: 0, line: 0 })
}

/// Reads lines of an audit log; after an error it gives nothing more.
pub struct Records {
    disk: Disk,
    paths: VecDeque<PathBuf>,
    lines: Option<Lines<BufReader<std::fs::File>>>,
    file: u64,
    line: u64,
}

impl Records {
    fn read(&mut self) -> Result<Option<Entry>, StoreError> {
        loop {
            let Some(lines) = &mut self.lines else {
                let Some(path) = self.paths.pop_front() else { return Ok(None) };
                self.begin(&path)?;
                continue;
            };
            self.line = self.line.saturating_add(1);
            let (file, at) = (self.file, self.line);
            let refused = |why| AuditError::Line { file, line: at, why };
            match lines.next()? {
                Some(Line::Whole(line)) => return Ok(Some(Entry::parse(line).map_err(refused)?)),
                Some(Line::TooLong) => return Err(refused(LineError::TooLong).into()),
                Some(Line::Torn(_)) | None => self.lines = None,
            }
        }
    }

    fn begin(&mut self, path: &Path) -> Result<(), StoreError> {
        let mut lines = Lines::over(BufReader::new(self.disk.open(path)?), path);
        let next = self.file.saturating_add(1);
        self.file = lines.head()?.ok_or(AuditError::Head { file: next })?.number;
        (self.line, self.lines) = (1, Some(lines));
        Ok(())
    }
}

impl Iterator for Records {
    type Item = Result<Entry, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        let read = self.read();
        if read.is_err() {
            self.paths.clear();
            self.lines = None;
        }
        read.transpose()
    }
}
