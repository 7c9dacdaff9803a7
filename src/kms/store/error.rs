use std::{io, path::PathBuf};

use crate::{
    EntropyError, KeyError,
    keys::ProtectionError,
    wire::{LimitExceeded, ParseError},
};

/// A store could not be opened, read or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The file system refused. What was there before is still there.
    #[error("{what} {path:?} failed")]
    Io {
        /// What was being done.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why it could not be.
        source: io::Error,
    },
    /// Something stands where a new store or backup would; nothing is written over.
    #[error("{0:?} is there already; nothing is written over it: name another place")]
    Exists(PathBuf),
    /// There is no store.
    #[error("there is no store in {0:?}; create one, or restore a backup")]
    Missing(PathBuf),
    /// Another process holds the lock.
    #[error("{0:?} is in use by another process; stop it, or ask the service that runs there")]
    InUse(PathBuf),
    /// A symbolic link, a folder or a device where a file of the store should be.
    #[error("{0:?} is no plain file; a store follows no links inside its folder")]
    NotAFile(PathBuf),
    /// Everybody may write into the folder.
    #[error("everybody may write into {0:?}; take that right away (chmod o-w)")]
    WritableByAll(PathBuf),
    /// The state file is cut, longer than it says, or of a version that this build does not know.
    #[error("the state file is refused")]
    Parse(#[from] ParseError),
    /// The state file is not what was written. Nothing has been changed on it.
    #[error("the state file is damaged: {0}; restore a backup into another folder")]
    Damaged(&'static str),
    /// The root key is not the one that the store is under.
    #[error("the passphrase or root key is another than the store's")]
    WrongRootKey,
    /// The store is under a root key of the other kind.
    #[error("the store is under {0}, and a root key of the other kind was given")]
    RootKind(&'static str),
    /// The work that the state file asks of Argon2id is refused, or there is no memory for it.
    #[error("the passphrase's protection is refused: {0}")]
    Protection(ProtectionError),
    /// The state is larger than [`STATE_MAX`](super::STATE_MAX).
    #[error(transparent)]
    TooLarge(#[from] LimitExceeded),
    /// The record has a part that no line holds.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The file system failed while the new state took its place: it is the old or the new one, and whole.
    #[error("{path:?} may or may not have been replaced; open the store again to see which")]
    InDoubt {
        /// The state file.
        path: PathBuf,
        /// What failed.
        source: io::Error,
    },
    /// An earlier error left in doubt what is on the disk.
    #[error("the store has failed before and takes no more; open it again")]
    Failed,
    /// The state file is not the one that this process wrote or read last.
    #[error("{0:?} was exchanged while the store was open; nothing was written over it")]
    Exchanged(PathBuf),
    /// A replica was given a state that is not newer than the one it has.
    #[error("the state went back from generation {seen} to {found}; a replica takes newer ones alone")]
    WentBack {
        /// The generation that was read last.
        seen: u64,
        /// The generation of the file.
        found: u64,
    },
    /// The audit log is not what was written.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The system has no entropy.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
}

impl StoreError {
    pub(super) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source }
    }

    /// The same once more, where the file system refused.
    pub(super) fn of_the_disk(&self) -> Option<Self> {
        let Self::Io { what, path, source } = self else { return None };
        let source = source.raw_os_error().map_or_else(|| source.kind().into(), io::Error::from_raw_os_error);
        Some(Self::Io { what, path: path.clone(), source })
    }

    /// What a key that was stretched from a passphrase says of it.
    pub(super) fn stretched(error: KeyError) -> Self {
        match error {
            KeyError::Protection(why) => Self::Protection(why),
            _ => Self::WrongRootKey,
        }
    }
}

/// A record that no line of an audit log holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the record's {field} has {len} bytes; a line holds up to {max}")]
pub struct RecordError {
    /// Which part.
    pub field: &'static str,
    /// Its bytes.
    pub len: usize,
    /// The bytes that it may have.
    pub max: usize,
}

/// What is wrong with an audit log. Lines are counted from 1 in their file, whose first is its head.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// No file of the log is there.
    #[error("the audit log is not there")]
    NotThere,
    /// The first line of a file does not begin a file of a log.
    #[error("audit log file {file} does not begin as a file of a log does")]
    Head {
        /// The number of the file.
        file: u64,
    },
    /// A file of another log, or of another time of this one.
    #[error("audit log file {file} belongs to another log, or does not go on where the one before it ends")]
    Foreign {
        /// The number of the file.
        file: u64,
    },
    /// A file between others is not there.
    #[error("audit log file {expected} is missing")]
    FileMissing {
        /// The number of the file.
        expected: u64,
    },
    /// Not a line of a log.
    #[error("line {line} of audit log file {file} is no line of a log: {why}")]
    Line {
        /// The number of the file.
        file: u64,
        /// The line.
        line: u64,
        /// What is wrong.
        why: LineError,
    },
    /// Lines are missing, doubled, or in another order.
    #[error("line {line} of audit log file {file} is number {found}, and {expected} is next: lines were removed, added or moved")]
    Gap {
        /// The number of the file.
        file: u64,
        /// The line.
        line: u64,
        /// The number that is next.
        expected: u64,
        /// The number that is there.
        found: u64,
    },
    /// The MAC is not that of this line after those before it.
    #[error("line {line} of audit log file {file} was changed, or what is before it")]
    Changed {
        /// The number of the file.
        file: u64,
        /// The line.
        line: u64,
    },
    /// The log ends before the line that the state names.
    #[error("the audit log ends with number {last}, and the state was written after number {anchor}: its end was cut off")]
    Cut {
        /// The last line.
        last: u64,
        /// The line that the state names.
        anchor: u64,
    },
    /// The line that the state names is another one.
    #[error("number {seq} of the audit log is not the line that the state names")]
    Forked {
        /// Its number.
        seq: u64,
    },
    /// The log has a change that the state does not have: the state file was put back.
    #[error(
        "the state is of generation {state}, and the audit log tells of generation {logged}: an older state file was put back"
    )]
    StateIsOlder {
        /// Of the state file.
        state: u64,
        /// Of the log.
        logged: u64,
    },
}

/// Bytes that are no line of an audit log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LineError {
    /// Longer than [`LINE_MAX`](super::LINE_MAX).
    #[error("it is too long")]
    TooLong,
    /// Not JSON, or another object.
    #[error("it is no JSON object of a record")]
    NotARecord,
    /// The same record is written in another way.
    #[error("it is not spelled as lines are")]
    Spelling,
}
