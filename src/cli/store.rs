//! Where a listener puts what it takes: files that appear whole, or standard output.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufWriter, Seek, Stdout, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use tempfile::NamedTempFile;

use super::{
    Failure,
    cleanup::Doomed,
    fail::{Code, show},
    io::is_dash,
    listen::Stop,
    replace::{folder_of, new_temporary, open_to_others, sync_folder},
};
use crate::{
    transfer::{Request, safe_name},
    wire::len64,
};

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

    /// A file that came in one message.
    fn whole(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let mut incoming = Incoming::begin(self, name)?;
        incoming.add(content)?;
        incoming.end(self)
    }

    fn what(&self) -> &'static str {
        match self {
            Self::Folder(_) => "storing",
            Self::Stdout(_) => "standard output",
        }
    }

    pub(super) fn flush(&self) -> Result<(), Stop> {
        let Self::Stdout(sink) = self else { return Ok(()) };
        Sink::put(sink, BufWriter::flush).map_err(|error| Stop::Store { what: "standard output", error })
    }

    pub(super) fn is_broken(&self) -> bool {
        match self {
            Self::Folder(_) => false,
            Self::Stdout(sink) => sink.lock().unwrap_or_else(PoisonError::into_inner).broken,
        }
    }
}

impl Sink {
    /// All of something, or the sink is broken.
    fn put(sink: &Mutex<Self>, put: impl FnOnce(&mut BufWriter<Stdout>) -> io::Result<()>) -> io::Result<()> {
        let mut sink = sink.lock().unwrap_or_else(PoisonError::into_inner);
        let written = tokio::task::block_in_place(|| put(&mut sink.out));
        sink.broken |= written.is_err();
        written
    }
}

/// Where one connection's files and lines go.
pub(super) struct Inbox {
    store: Store,
    incoming: Option<Incoming>,
}

impl Inbox {
    /// Whether no file is under way.
    pub(super) fn is_between_files(&self) -> bool {
        self.incoming.is_none()
    }
}

/// A file that comes in pieces, and is nobody's yet.
struct Incoming {
    name: String,
    temporary: Temporary,
    size: u64,
    /// Bytes that may not be on the disk yet.
    unsynced: usize,
}

enum Temporary {
    /// In the folder that it is for.
    Named(NamedTempFile, Doomed),
    /// Of no name: for standard output, where several connections would tear each other's files.
    Nameless(File),
}

/// Bytes that are written before they are synced, so that the end of a large file is not waited for long.
const UNSYNCED: usize = 64 << 20;

impl Incoming {
    fn begin(store: &Store, name: &str) -> io::Result<Self> {
        let temporary = match store {
            Store::Folder(folder) => {
                let (file, doomed) = new_temporary(&folder.path)?;
                Temporary::Named(file, doomed)
            }
            Store::Stdout(_) => Temporary::Nameless(tempfile::tempfile()?),
        };
        Ok(Self { name: safe_name(name).into_owned(), temporary, size: 0, unsynced: 0 })
    }

    fn add(&mut self, content: &[u8]) -> io::Result<()> {
        let (file, lasts) = match &mut self.temporary {
            Temporary::Named(file, _) => (file.as_file_mut(), true),
            Temporary::Nameless(file) => (file, false),
        };
        file.write_all(content)?;
        self.size = self.size.saturating_add(len64(content.len()));
        self.unsynced += content.len();
        if !lasts || self.unsynced < UNSYNCED {
            return Ok(());
        }
        self.unsynced = 0;
        file.sync_data()
    }

    fn end(self, store: &Store) -> io::Result<()> {
        match (store, self.temporary) {
            (Store::Folder(folder), Temporary::Named(file, _doomed)) => folder.keep(file, &self.name),
            (Store::Stdout(sink), Temporary::Nameless(mut file)) => {
                file.rewind()?;
                Sink::put(sink, |out| io::copy(&mut file, out).map(|_| ()))
            }
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

impl Inbox {
    pub(super) fn new(store: Store) -> Self {
        Self { store, incoming: None }
    }

    /// Delivers what a message brings. Tells the bytes of a file or line that is whole with it: a file is then on the disk, under
    /// its final name.
    pub(super) async fn take(&mut self, request: Request, number: u64) -> Result<Option<u64>, Stop> {
        let wrong = |why: &str| Err(Stop::Peer(Failure::new(Code::Malformed, why)));
        match (request, self.incoming.take()) {
            // [XFR-8]
            (Request::Hello { .. }, _) => wrong("a second first message"),
            (Request::File { .. } | Request::Line { .. } | Request::Begin { .. }, Some(_)) => {
                wrong("something in the middle of a file")
            }
            (Request::Piece { .. } | Request::End { .. }, None) => wrong("a piece of no file"),
            (Request::End { size }, Some(incoming)) if incoming.size != size => wrong("a file whose pieces are not its size"),
            (Request::Begin { name }, None) => {
                self.incoming = Some(self.storing(move |store| Incoming::begin(store, &name)).await?);
                Ok(None)
            }
            (Request::Piece { content }, Some(mut incoming)) => {
                let added = self.storing(move |_| incoming.add(&content).map(|()| incoming)).await?;
                self.incoming = Some(added);
                Ok(None)
            }
            (Request::End { size }, Some(incoming)) => {
                self.storing(move |store| incoming.end(store)).await?;
                Ok(Some(size))
            }
            (Request::File { name, content }, None) => self.whole(name, content, false).await,
            (Request::Line { ended, content }, None) => self.whole(format!("line-{:06}", number + 1), content, ended).await,
        }
    }

    /// The channel has ended.
    pub(super) fn end(&self) -> Result<(), Stop> {
        match self.incoming {
            None => Ok(()),
            Some(_) => Err(Stop::Peer(Failure::new(Code::Truncated, "the channel ended in the middle of a file"))),
        }
    }

    async fn whole(&self, name: String, content: Bytes, ended: bool) -> Result<Option<u64>, Stop> {
        let len = len64(content.len());
        match &self.store {
            Store::Folder(_) => self.storing(move |store| store.whole(&name, &content)).await?,
            Store::Stdout(sink) => {
                let newline: &[u8] = if ended { b"\n" } else { b"" };
                let written = Sink::put(sink, |out| out.write_all(&content).and_then(|()| out.write_all(newline)));
                written.map_err(|error| Stop::Store { what: self.store.what(), error })?;
            }
        }
        Ok(Some(len))
    }

    /// Work on files, on a thread that may wait for them.
    async fn storing<T: Send + 'static>(&self, work: impl FnOnce(&Store) -> io::Result<T> + Send + 'static) -> Result<T, Stop> {
        let store = self.store.clone();
        let done = tokio::task::spawn_blocking(move || work(&store)).await;
        done.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(|error| Stop::Store { what: self.store.what(), error })
    }
}

impl Folder {
    /// Names remembered; past that the search begins anew.
    const NAMES: usize = 100_000;

    /// A file that is whole appears under a name that nothing had, and lasts. [XFR-3] [XFR-7]
    fn keep(&self, temporary: NamedTempFile, name: &str) -> io::Result<()> {
        open_to_others(temporary.as_file())?;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Proves XFR-5, XFR-8: pieces outside a file, and anything else inside one, are refused, and leave nothing behind.
    #[tokio::test(flavor = "multi_thread")]
    async fn pieces_are_those_of_one_file() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path()).unwrap();
        let begin = || Request::Begin { name: "../a".into() };
        let piece = || Request::Piece { content: Bytes::from_static(b"four") };
        let end = |size| Request::End { size };
        let line = || Request::Line { ended: true, content: Bytes::new() };
        let file = || Request::File { name: "b".into(), content: Bytes::new() };
        for (requests, why) in [
            (vec![piece()], "a piece of no file"),
            (vec![end(0)], "a piece of no file"),
            (vec![begin(), begin()], "in the middle"),
            (vec![begin(), piece(), line()], "in the middle"),
            (vec![begin(), file()], "in the middle"),
            (vec![begin(), piece(), end(3)], "not its size"),
            (vec![begin(), piece(), end(4), piece()], "a piece of no file"),
        ] {
            let mut inbox = Inbox::new(store.clone());
            let mut last = Ok(None);
            for request in requests {
                assert!(last.is_ok());
                last = inbox.take(request, 0).await;
            }
            let Err(Stop::Peer(failure)) = last else { panic!("{why}") };
            assert!(failure.message.contains(why), "{}", failure.message);
        }
        assert_eq!(names(folder.path()), ["a"], "of the last one, before it went wrong");
        let mut inbox = Inbox::new(store.clone());
        inbox.take(begin(), 0).await.map_err(|_| "begin").unwrap();
        for _ in 0..3 {
            inbox.take(piece(), 0).await.map_err(|_| "piece").unwrap();
            assert!(matches!(inbox.end(), Err(Stop::Peer(Failure { code: Code::Truncated, .. }))));
            assert_eq!(names(folder.path()).len(), 2, "it has no name of its own yet");
        }
        assert_eq!(inbox.take(end(12), 0).await.map_err(|_| "end").unwrap(), Some(12));
        assert!(inbox.end().is_ok());
        assert_eq!(names(folder.path()), ["a", "a.2"]);
        assert_eq!(std::fs::read(folder.path().join("a.2")).unwrap(), b"fourfourfour");
    }
}
