//! Bytes from here to there, and how far they have come.

use std::{
    fs::File,
    io::{self, Read, Write},
    time::{Duration, Instant},
};

use indicatif::ProgressBar;

use super::{Failure, report::progress};
use crate::{stream::StreamError, wire::len64};

/// Bytes that are read, and written, at once.
pub(super) const CHUNK: usize = 256 * 1024;
/// Work that takes less has no bar.
const SHORT: Duration = Duration::from_millis(400);

/// Which side of a copy failed.
pub(super) enum Copying {
    Reading(io::Error),
    Writing(io::Error),
}

impl Copying {
    /// A stream's end is written like all else of it.
    pub(super) fn ending(error: StreamError) -> Self {
        Self::Writing(error.into())
    }

    pub(super) fn about(self, source: &str, target: &str) -> Failure {
        match self {
            Self::Reading(error) => Failure::from(StreamError::of(error)).about(source),
            Self::Writing(error) => Failure::from(StreamError::of(error)).about(target),
        }
    }
}

/// Copies all there is.
pub(super) fn copy(source: &mut dyn Read, target: &mut dyn Write, progress: &mut Progress) -> Result<(), Copying> {
    let mut chunk = vec![0; CHUNK];
    loop {
        match source.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(n) => {
                target.write_all(&chunk[..n]).map_err(Copying::Writing)?;
                progress.add(len64(n));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Copying::Reading(error)),
        }
    }
}

/// A bar on a terminal, for work that takes long; gone when this is dropped.
pub(super) struct Progress {
    since: Instant,
    total: Option<u64>,
    done: u64,
    bar: Option<ProgressBar>,
    /// Whether it would be in the way.
    hidden: bool,
}

impl Progress {
    /// Of so many bytes, where that is known.
    pub(super) fn of(total: Option<u64>) -> Self {
        Self { since: Instant::now(), total, done: 0, bar: None, hidden: false }
    }

    /// None, where what is written goes to a terminal.
    pub(super) fn hidden_if(mut self, hidden: bool) -> Self {
        self.hidden = hidden;
        self
    }

    pub(super) fn add(&mut self, bytes: u64) {
        self.done += bytes;
        if self.hidden {
            return;
        }
        if let Some(bar) = &self.bar {
            bar.set_position(self.done);
        } else if self.since.elapsed() > SHORT {
            let bar = progress(self.total).with_elapsed(self.since.elapsed());
            bar.set_position(self.done);
            self.bar = Some(bar);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A file without a name, for what must wait; it is gone with the process.
pub(super) fn spool() -> Result<File, Failure> {
    tempfile::tempfile().map_err(|error| Failure::io("a temporary file", &error))
}
