//! Files of an audit log -> where it ends, line by line: the one gate for opening and verifying (spec/store.md, Audit log).

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Seek},
    path::{Path, PathBuf},
};

use super::{
    AuditError, Entry, LINE_MAX, LineError, StoreError,
    disk::Disk,
    log::{closed, current, files},
    record::{Anchor, Chain, FileHead},
    snapshot::Ledger,
};
use crate::wire::len64;

/// The files of a log.
pub(super) struct Files {
    pub(super) folder: PathBuf,
    /// Of those that are not written to any more.
    pub(super) numbers: Vec<u64>,
    pub(super) has_current: bool,
    /// Bytes of the file that is written to, behind which nothing is looked at.
    pub(super) current_len: u64,
    /// That file, where a writer may give it another name meanwhile.
    pub(super) held: Option<File>,
}

/// How far a log goes.
#[derive(Debug, Clone)]
pub(super) struct Found {
    /// The number of the last file.
    pub(super) number: u64,
    /// Whether the last file is the one that is written to.
    pub(super) has_current: bool,
    /// Bytes of the last file up to the end of its last whole line.
    pub(super) len: u64,
    /// Bytes behind them.
    pub(super) torn: u64,
    pub(super) end: Anchor,
    /// Files that were walked through.
    pub(super) files: u64,
    /// Where the first of them begins.
    pub(super) start: u64,
    /// Whether the state's line is missing at the end, and follows it.
    pub(super) is_owed: bool,
}

/// What a state says of the log.
pub(super) struct Expected<'a> {
    pub(super) ledger: &'a Ledger,
    pub(super) generation: u64,
}

impl Files {
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        let last = self.has_current.then(|| current(&self.folder));
        self.numbers.iter().map(|number| closed(&self.folder, *number)).chain(last).collect()
    }

    /// Leaves out what is appended from now on, and whatever becomes of the files' names.
    pub(super) fn until_now(self, disk: &Disk) -> Result<Self, StoreError> {
        if !self.has_current {
            return Ok(self);
        }
        let path = current(&self.folder);
        let file = disk.open(&path)?;
        let current_len = file.metadata().map_err(StoreError::io("looking at", &path))?.len();
        let head = Lines::over(BufReader::new(&file), &path).head()?.ok_or(AuditError::Head { file: 0 })?;
        // What came before this file has its names by now.
        let mut numbers = files(disk, &self.folder)?.numbers;
        numbers.retain(|number| *number < head.number);
        Ok(Self { numbers, current_len, held: Some(file), ..self })
    }

    fn open(&self, disk: &Disk, path: &Path, is_current: bool) -> Result<File, StoreError> {
        match &self.held {
            Some(held) if is_current => {
                let again = held.try_clone().and_then(|mut file| file.rewind().map(|()| file));
                again.map_err(StoreError::io("reading", path))
            }
            _ => disk.open(path),
        }
    }

    /// Whether the file that is written to has more than a head.
    pub(super) fn has_lines(&self, disk: &Disk) -> Result<bool, StoreError> {
        let path = current(&self.folder);
        let mut lines = Lines::over(BufReader::new(disk.open(&path)?), &path);
        let is_head = lines.head()?.is_some();
        Ok(!is_head || lines.next()?.is_some())
    }

    /// Walks through all files, or through those that hold what came after `from`.
    pub(super) fn walk(
        &self,
        disk: &Disk,
        chain: &Chain,
        expected: Option<&Expected<'_>>,
        from: Option<u64>,
    ) -> Result<Found, StoreError> {
        let paths = self.paths();
        let paths = paths.get(first_needed(disk, &paths, from)?..).unwrap_or_default();
        let mut walk: Option<Walk<'_>> = None;
        for (i, path) in paths.iter().enumerate() {
            let is_current = self.has_current && i + 1 == paths.len();
            let file = self.open(disk, path, is_current)?;
            let file = file.take(if is_current { self.current_len } else { u64::MAX });
            let mut lines = Lines::over(BufReader::with_capacity(64 * 1024, file), path);
            let head = lines.head()?.ok_or(AuditError::Head { file: number_of(walk.as_ref()) })?;
            let mut now = match walk.take() {
                None => Walk::begin(chain, expected, &head)?,
                Some(walk) => walk.next_file(&head)?,
            };
            now.check_name(&head, self, i + (self.paths().len() - paths.len()))?;
            now.file(&mut lines, i + 1 == paths.len())?;
            walk = Some(now);
        }
        walk.ok_or(AuditError::NotThere)?.finish(self.has_current)
    }
}

/// The place of the newest file that begins at or before `from`.
fn first_needed(disk: &Disk, paths: &[PathBuf], from: Option<u64>) -> Result<usize, StoreError> {
    let Some(from) = from else { return Ok(0) };
    for (i, path) in paths.iter().enumerate().rev() {
        let head = Lines::over(BufReader::new(disk.open(path)?), path).head()?;
        if head.is_some_and(|head| head.after.seq <= from) {
            return Ok(i);
        }
    }
    Ok(0)
}

fn number_of(walk: Option<&Walk<'_>>) -> u64 {
    walk.map_or(1, |walk| walk.number.saturating_add(1))
}

struct Walk<'a> {
    chain: &'a Chain,
    expected: Option<&'a Expected<'a>>,
    end: Anchor,
    number: u64,
    line: u64,
    len: u64,
    torn: u64,
    files: u64,
    start: u64,
}

impl<'a> Walk<'a> {
    fn begin(chain: &'a Chain, expected: Option<&'a Expected<'a>>, head: &FileHead) -> Result<Self, AuditError> {
        let (number, end, start) = (head.number, head.after, head.after.seq.saturating_add(1));
        let walk = Self { chain, expected, end, number, line: 1, len: 0, torn: 0, files: 1, start };
        walk.vouch(head)?;
        walk.meet_anchor()?;
        Ok(walk)
    }

    /// [STO-18]
    fn next_file(mut self, head: &FileHead) -> Result<Self, AuditError> {
        self.number = self.number.saturating_add(1);
        if head.number != self.number {
            return Err(AuditError::FileMissing { expected: self.number });
        }
        self.vouch(head)?;
        (self.files, self.line, self.len) = (self.files.saturating_add(1), 1, 0);
        Ok(self)
    }

    /// The first file that has been kept may be a later one; where it begins is vouched for too.
    fn vouch(&self, head: &FileHead) -> Result<(), AuditError> {
        let is_next = head.after == self.end && self.chain.begins(head);
        if is_next { Ok(()) } else { Err(AuditError::Foreign { file: self.number }) }
    }

    /// A closed file has its number in its name too.
    fn check_name(&self, head: &FileHead, files: &Files, place: usize) -> Result<(), AuditError> {
        match files.numbers.get(place) {
            Some(number) if *number != head.number => Err(AuditError::Foreign { file: *number }),
            _ => Ok(()),
        }
    }

    fn file(&mut self, lines: &mut Lines<impl BufRead>, is_last: bool) -> Result<(), StoreError> {
        self.len = len64(lines.line.len());
        loop {
            self.line = self.line.saturating_add(1);
            match lines.next()? {
                None => return Ok(()),
                Some(Line::Whole(line)) => {
                    self.entry(line)?;
                    self.len = self.len.saturating_add(len64(line.len()).saturating_add(1));
                }
                Some(Line::Torn(bytes)) if is_last => {
                    self.torn = bytes;
                    return Ok(());
                }
                Some(Line::Torn(_)) => return Err(self.bad_line(LineError::NotARecord).into()),
                Some(Line::TooLong) => return Err(self.bad_line(LineError::TooLong).into()),
            }
        }
    }

    fn bad_line(&self, why: LineError) -> AuditError {
        AuditError::Line { file: self.number, line: self.line, why }
    }

    fn entry(&mut self, line: &[u8]) -> Result<(), AuditError> {
        let entry = Entry::parse(line).map_err(|why| self.bad_line(why))?;
        let (file, at, expected) = (self.number, self.line, self.end.seq.saturating_add(1));
        if entry.seq != expected {
            return Err(AuditError::Gap { file, line: at, expected, found: entry.seq });
        }
        self.end = self.chain.follows(&self.end, &entry, line).ok_or(AuditError::Changed { file, line: at })?;
        self.meet_anchor()?;
        self.meet_generation(&entry)
    }

    /// [STO-11]
    fn meet_anchor(&self) -> Result<(), AuditError> {
        match self.expected {
            Some(Expected { ledger, .. }) if ledger.anchor.seq == self.end.seq && ledger.anchor != self.end => {
                Err(AuditError::Forked { seq: self.end.seq })
            }
            _ => Ok(()),
        }
    }

    /// [STO-12]
    fn meet_generation(&self, entry: &Entry) -> Result<(), AuditError> {
        match (self.expected, entry.generation) {
            (Some(Expected { generation, .. }), Some(logged)) if logged > *generation => {
                Err(AuditError::StateIsOlder { state: *generation, logged })
            }
            _ => Ok(()),
        }
    }

    fn finish(self, has_current: bool) -> Result<Found, StoreError> {
        let is_owed = match self.expected {
            Some(expected) => self.owes(expected.ledger)?,
            None => false,
        };
        let Self { number, end, len, torn, files, start, .. } = self;
        Ok(Found { number, has_current, len, torn, end, files, start, is_owed })
    }

    /// Whether the line that is in the state comes next. [STO-11]
    fn owes(&self, ledger: &Ledger) -> Result<bool, AuditError> {
        let anchor = &ledger.anchor;
        if self.start > anchor.seq.saturating_add(1) {
            return Err(AuditError::FileMissing { expected: self.number.saturating_sub(self.files) });
        }
        if self.end.seq >= anchor.seq {
            return Ok(false);
        }
        let line = ledger.line.strip_suffix(b"\n").unwrap_or_default();
        let entry = Entry::parse(line).ok().filter(|entry| self.end.seq.checked_add(1) == Some(entry.seq));
        let entry = entry.ok_or(AuditError::Cut { last: self.end.seq, anchor: anchor.seq })?;
        let follows = self.chain.follows(&self.end, &entry, line).as_ref() == Some(anchor);
        if follows { Ok(true) } else { Err(AuditError::Forked { seq: anchor.seq }) }
    }
}

/// The lines of a file, each of a bounded length.
pub(super) struct Lines<R> {
    reader: R,
    line: Vec<u8>,
    path: PathBuf,
}

pub(super) enum Line<'a> {
    /// Without its end.
    Whole(&'a [u8]),
    /// The end of the file, which ends no line: so many bytes.
    Torn(u64),
    TooLong,
}

impl<'a> Line<'a> {
    pub(super) fn whole(self) -> Option<&'a [u8]> {
        match self {
            Self::Whole(line) => Some(line),
            Self::Torn(_) | Self::TooLong => None,
        }
    }
}

impl<R: BufRead> Lines<R> {
    pub(super) fn over(reader: R, path: &Path) -> Self {
        Self { reader, line: Vec::new(), path: path.into() }
    }

    /// The first line of a file of a log.
    pub(super) fn head(&mut self) -> Result<Option<FileHead>, StoreError> {
        Ok(self.next()?.and_then(|line| line.whole().and_then(FileHead::parse)))
    }

    pub(super) fn next(&mut self) -> Result<Option<Line<'_>>, StoreError> {
        self.line.clear();
        let limit = len64(LINE_MAX).saturating_add(1);
        let read = (&mut self.reader).take(limit).read_until(b'\n', &mut self.line);
        read.map_err(StoreError::io("reading", &self.path))?;
        if self.line.is_empty() {
            return Ok(None);
        }
        if self.line.ends_with(b"\n") {
            return Ok(self.line.split_last().map(|(_, line)| Line::Whole(line)));
        }
        if len64(self.line.len()) < limit {
            return Ok(Some(Line::Torn(len64(self.line.len()))));
        }
        self.zeros()
    }

    /// What a file system leaves where data did not come before a length: zeros to the end.
    fn zeros(&mut self) -> Result<Option<Line<'_>>, StoreError> {
        let mut count = len64(self.line.len());
        let mut zeros = self.line.iter().all(|byte| *byte == 0);
        while zeros {
            let more = self.reader.fill_buf().map_err(StoreError::io("reading", &self.path))?;
            let len = more.len();
            if len == 0 {
                return Ok(Some(Line::Torn(count)));
            }
            zeros = more.iter().all(|byte| *byte == 0);
            count = count.saturating_add(len64(len));
            self.reader.consume(len);
        }
        Ok(Some(Line::TooLong))
    }
}
