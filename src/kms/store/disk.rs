//! The calls that a store makes of the file system, in one place: a test makes each of them fail.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use super::StoreError;

/// How long an opening store waits for another short process.
const LOCK_WAIT: Duration = Duration::from_secs(10);
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// The file system; under test, one that fails when it is told to.
#[derive(Clone, Default)]
pub(super) struct Disk {
    #[cfg(test)]
    pub(super) faults: super::faults::Faults,
}

impl Disk {
    /// A folder that its owner alone can enter.
    pub(super) fn create_folder(&self, path: &Path) -> io::Result<()> {
        let mut builder = DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        self.call("create_folder", || builder.create(path))
    }

    /// A plain file, to be read.
    pub(super) fn open(&self, path: &Path) -> Result<File, StoreError> {
        self.plain("opening", path, OpenOptions::new().read(true))
    }

    /// A plain file that is there, to be written at its end.
    pub(super) fn open_to_append(&self, path: &Path) -> Result<File, StoreError> {
        self.plain("opening", path, OpenOptions::new().read(true).append(true))
    }

    /// A new file that its owner alone can read, to be written at its end.
    pub(super) fn create(&self, path: &Path) -> Result<File, StoreError> {
        self.plain("creating", path, OpenOptions::new().append(true).create_new(true))
    }

    /// What a file holds, which is `len` bytes.
    pub(super) fn read(&self, mut file: &File, out: &mut [u8]) -> io::Result<()> {
        self.call("read", || file.read_exact(out))
    }

    pub(super) fn write(&self, mut file: &File, bytes: &[u8]) -> io::Result<()> {
        #[cfg(test)]
        if self.faults.is_short() {
            file.write_all(bytes.get(..bytes.len() / 2).unwrap_or_default())?;
        }
        self.call("write", || file.write_all(bytes))
    }

    pub(super) fn sync(&self, file: &File) -> io::Result<()> {
        self.call("sync", || file.sync_data())
    }

    pub(super) fn truncate(&self, file: &File, len: u64) -> io::Result<()> {
        self.call("truncate", || file.set_len(len))
    }

    pub(super) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call("rename", || fs::rename(from, to))
    }

    /// Gives a file a second name, where nothing has it.
    pub(super) fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call("link", || fs::hard_link(from, to))
    }

    /// Removes a file, if it is there.
    pub(super) fn remove(&self, path: &Path) -> io::Result<()> {
        self.call("remove", || match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        })
    }

    /// Makes the names in a folder last.
    pub(super) fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        self.call("sync_folder", || if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) })
    }

    /// The names in a folder.
    pub(super) fn names(&self, folder: &Path) -> io::Result<Vec<String>> {
        let name = |entry: io::Result<fs::DirEntry>| entry.map(|entry| entry.file_name().into_string().ok());
        self.call("names", || fs::read_dir(folder)?.filter_map(|entry| name(entry).transpose()).collect())
    }

    /// Whether anything has this name, a link that leads nowhere included.
    pub(super) fn is_there(&self, path: &Path) -> Result<bool, StoreError> {
        match self.call("look", || fs::symlink_metadata(path)) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(StoreError::io("looking at", path)(error)),
        }
    }

    /// A folder into which not everybody may write.
    pub(super) fn check_folder(&self, path: &Path) -> Result<(), StoreError> {
        let meta = self.call("look", || fs::metadata(path)).map_err(StoreError::io("looking at", path))?;
        #[cfg(unix)]
        if std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o002 != 0 {
            return Err(StoreError::WritableByAll(path.into()));
        }
        if meta.is_dir() { Ok(()) } else { Err(StoreError::NotAFile(path.into())) }
    }

    /// Holds the lock of a folder while the file that it gives is open.
    pub(super) fn lock(&self, folder: &Path) -> Result<File, StoreError> {
        let path = folder.join("lock");
        let file = self.plain("opening", &path, OpenOptions::new().append(true).create(true))?;
        let started = Instant::now();
        while !self.try_lock(&file).map_err(StoreError::io("locking", &path))? {
            if started.elapsed() > LOCK_WAIT {
                return Err(StoreError::InUse(folder.into()));
            }
            thread::sleep(LOCK_PAUSE);
        }
        Ok(file)
    }

    #[cfg(unix)]
    fn try_lock(&self, file: &File) -> io::Result<bool> {
        use rustix::{
            fs::{FlockOperation, flock},
            io::Errno,
        };
        self.call("lock", || match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(true),
            Err(Errno::WOULDBLOCK | Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        })
    }

    #[cfg(not(unix))]
    fn try_lock(&self, _: &File) -> io::Result<bool> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// [STO-17] A link is not followed, and what is made here is readable by its owner alone.
    fn plain(&self, what: &'static str, path: &Path, options: &mut OpenOptions) -> Result<File, StoreError> {
        #[cfg(unix)]
        {
            use std::os::unix::fs::OpenOptionsExt;
            // Without waiting: a FIFO that was put there must not hold us up.
            let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
            options.mode(0o600).custom_flags(flags.bits().cast_signed());
        }
        if fs::symlink_metadata(path).is_ok_and(|meta| !meta.is_file()) {
            return Err(StoreError::NotAFile(path.into()));
        }
        let file = self.call(what, || options.open(path)).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => StoreError::Exists(path.into()),
            _ => StoreError::io(what, path)(error),
        })?;
        // Looked at again: it may have been exchanged since.
        match file.metadata() {
            Ok(meta) if meta.is_file() => Ok(file),
            _ => Err(StoreError::NotAFile(path.into())),
        }
    }

    #[cfg(test)]
    fn call<T>(&self, what: &'static str, operation: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.faults.before(what)?;
        let done = operation()?;
        self.faults.after()?;
        Ok(done)
    }

    #[cfg(not(test))]
    #[allow(clippy::unused_self, reason = "under test it fails when it is told to")]
    fn call<T>(&self, _: &'static str, operation: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        operation()
    }
}

/// The folder that a file is in.
pub(super) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The name under which a file is written before it is whole.
pub(super) fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}
