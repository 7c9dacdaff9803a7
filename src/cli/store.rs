//! Where a listener puts what it takes: files that appear whole, or standard output.

use std::{
    collections::HashMap,
    io::{self, BufWriter, Stdout, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use tempfile::NamedTempFile;

use super::{
    Failure,
    fail::{Code, show},
    io::is_dash,
    listen::Stop,
    replace::{folder_of, new_temporary, sync_folder},
};
use crate::transfer::{Request, safe_name};

/// Where messages go.
#[derive(Clone)]
pub(super) enum Store {
    Folder(Arc<Folder>),
    Stdout(Arc<Mutex<Sink>>),
}

pub(super) struct Folder {
    path: PathBuf,
    /// Where to go on looking for a free name, for names that came more than once.
    taken: Mutex<HashMap<String, u32>>,
}

pub(super) struct Sink {
    out: BufWriter<Stdout>,
    broken: bool,
}

impl Store {
    pub(super) fn new(out: &Path) -> Result<Self, Failure> {
        if is_dash(out) {
            let out = BufWriter::with_capacity(64 * 1024, io::stdout());
            return Ok(Self::Stdout(Arc::new(Mutex::new(Sink { out, broken: false }))));
        }
        let failed = |error: io::Error| Failure::io(show(out), &error);
        std::fs::create_dir_all(out).map_err(failed)?;
        // Told now rather than after a file has crossed the network.
        new_temporary(out).map_err(failed)?;
        Ok(Self::Folder(Arc::new(Folder { path: out.to_owned(), taken: Mutex::default() })))
    }

    /// Delivers one message; a file is on the disk under its final name when this returns.
    pub(super) async fn take(&self, request: Request, number: u64) -> Result<u64, Stop> {
        let (name, content, ended) = match request {
            Request::Hello { .. } => {
                return Err(Stop::Peer(Failure::new(Code::Malformed, "a second first message")));
            }
            Request::File { name, content } => (safe_name(&name).into_owned(), content, false),
            Request::Line { ended, content } => (format!("line-{:06}", number + 1), content, ended),
        };
        let len = content.len() as u64;
        match self {
            Self::Folder(folder) => {
                let folder = folder.clone();
                let stored = tokio::task::spawn_blocking(move || folder.store(&name, &content)).await;
                let stored = stored.unwrap_or_else(|error| Err(io::Error::other(error)));
                stored.map_err(|error| Stop::Store { what: "storing", error })?;
            }
            Self::Stdout(sink) => {
                let written = tokio::task::block_in_place(|| write_out(sink, &content, ended));
                written.map_err(|error| Stop::Store { what: "standard output", error })?;
            }
        }
        Ok(len)
    }

    pub(super) fn flush(&self) -> Result<(), Stop> {
        let Self::Stdout(sink) = self else { return Ok(()) };
        let mut sink = sink.lock().unwrap_or_else(PoisonError::into_inner);
        let flushed = tokio::task::block_in_place(|| sink.out.flush());
        sink.broken |= flushed.is_err();
        flushed.map_err(|error| Stop::Store { what: "standard output", error })
    }

    pub(super) fn is_broken(&self) -> bool {
        match self {
            Self::Folder(_) => false,
            Self::Stdout(sink) => sink.lock().unwrap_or_else(PoisonError::into_inner).broken,
        }
    }
}

fn write_out(sink: &Mutex<Sink>, content: &Bytes, ended: bool) -> io::Result<()> {
    let mut sink = sink.lock().unwrap_or_else(PoisonError::into_inner);
    let written = sink.out.write_all(content).and_then(|()| if ended { sink.out.write_all(b"\n") } else { Ok(()) });
    sink.broken |= written.is_err();
    written
}

impl Folder {
    /// Names remembered; past that the search begins anew.
    const NAMES: usize = 100_000;

    /// Writes a file that appears whole, under a name that nothing had, and lasts. [XFR-3] [XFR-7]
    fn store(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let mut temporary = new_temporary(&self.path)?;
        temporary.write_all(content)?;
        temporary.as_file().sync_all()?;
        let path = self.persist(temporary, name)?;
        sync_folder(folder_of(&path))
    }

    /// Gives it the first of `name`, `name.2`, `name.3` … that nothing has.
    fn persist(&self, mut temporary: NamedTempFile, name: &str) -> io::Result<PathBuf> {
        let known = |taken: &Mutex<HashMap<String, u32>>| taken.lock().unwrap_or_else(PoisonError::into_inner).get(name).copied();
        for n in known(&self.taken).unwrap_or(1).. {
            let path = self.path.join(if n == 1 { name.to_owned() } else { format!("{name}.{n}") });
            match temporary.persist_noclobber(&path) {
                Ok(_) => {
                    self.remember(name, n);
                    return Ok(path);
                }
                Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => temporary = error.file,
                Err(error) => return Err(error.error),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    fn remember(&self, name: &str, n: u32) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.len() >= Self::NAMES {
            taken.clear();
        }
        taken.insert(name.to_owned(), n.saturating_add(1));
    }
}
