//! Files that appear under their name whole, on the disk, and readable by no more people than what they replace.

use std::{
    fs::{self, File, Metadata},
    io,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use tempfile::{NamedTempFile, TempPath};

use super::{
    Failure,
    cleanup::{Doomed, finishing},
    fail::show,
};

/// A file under another name in the same folder, until it is whole. Dropped before, it leaves nothing behind.
pub(super) struct Replacement {
    pub(super) temporary: NamedTempFile,
    doomed: Doomed,
    path: PathBuf,
    over: Over,
    is_secret: bool,
}

/// What may stand at the path when the file takes its place.
pub(super) enum Over {
    Nothing,
    Anything,
    /// The file that was read, and no other version of it.
    This(Identity),
}

/// What tells a version of a file from another.
#[derive(PartialEq, Eq)]
pub(super) struct Identity {
    len: u64,
    modified: Option<std::time::SystemTime>,
    #[cfg(unix)]
    place: (u64, u64),
}

impl Identity {
    pub(super) fn of(meta: &Metadata) -> Self {
        Self {
            len: meta.len(),
            modified: meta.modified().ok(),
            #[cfg(unix)]
            place: {
                use std::os::unix::fs::MetadataExt;
                (meta.dev(), meta.ino())
            },
        }
    }
}

impl Identity {
    /// Whether it is the same file, in whatever version; `false` where the system does not tell.
    #[cfg(unix)]
    pub(super) fn is_same_place(&self, other: &Self) -> bool {
        self.place == other.place
    }

    #[cfg(not(unix))]
    pub(super) fn is_same_place(&self, _: &Self) -> bool {
        false
    }
}

impl Replacement {
    /// Begins a file that will stand at `path`. A symbolic link stays; what it points to is replaced.
    pub(super) fn new(path: &Path, over: Over) -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::io(show(path), &error);
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let (temporary, doomed) = new_temporary(folder_of(&path)).map_err(|error| failed(error.kind().into()))?;
        Ok(Self { temporary, doomed, path, over, is_secret: false })
    }

    /// For its owner alone, whatever new files are, and whatever is there.
    pub(super) fn secret(self) -> Self {
        Self { is_secret: true, ..self }
    }

    /// Makes it appear, whole and on the disk.
    pub(super) fn finish(self) -> Result<(), Failure> {
        let parked = self.park()?;
        finishing();
        File::open(&parked.temporary)
            .and_then(|file| file.sync_all())
            .map_err(|error| Failure::io(show(&parked.path), &error))?;
        parked.persist().and_then(|folder| sync_folder(&folder).map_err(|error| Failure::io(show(&folder), &error)))
    }

    /// It is whole: from now on it may be read by whom it is for.
    pub(super) fn park(self) -> Result<Parked, Failure> {
        let Self { temporary, doomed, path, over, is_secret } = self;
        let settled = if is_secret { settle_secret(&path, temporary.as_file()) } else { settle(&path, temporary.as_file()) };
        settled.map_err(|error| Failure::io(show(&path), &error))?;
        Ok(Parked { temporary: temporary.into_temp_path(), _doomed: doomed, path, over })
    }
}

/// A file that is whole and waits for others, so that all of them are synced at once. It is closed.
pub(super) struct Parked {
    temporary: TempPath,
    _doomed: Doomed,
    path: PathBuf,
    over: Over,
}

impl Parked {
    /// Makes all of them appear, each whole, and on the disk when this returns; tells which did not.
    pub(super) fn finish_all(files: Vec<Self>) -> Vec<Failure> {
        let (mut failures, mut folders) = (Vec::new(), Vec::new());
        finishing();
        for file in sync_data(files, &mut failures) {
            match file.persist() {
                Ok(folder) if !folders.contains(&folder) => folders.push(folder),
                Ok(_) => {}
                Err(failure) => failures.push(failure),
            }
        }
        for folder in folders {
            if let Err(error) = sync_folder(&folder) {
                failures.push(Failure::io(show(&folder), &error));
            }
        }
        failures
    }

    /// Makes two appear that are of no use without each other. When the second cannot, it stays under its other name.
    pub(super) fn finish_both(self, second: Self) -> Result<(), Failure> {
        finishing();
        let mut failures = Vec::new();
        let mut both = sync_data(vec![self, second], &mut failures).into_iter();
        let (Some(first), Some(second)) = (both.next(), both.next()) else {
            return failures.pop().map_or(Ok(()), Err);
        };
        let done = first.path.clone();
        let folder = first.persist()?;
        let place = second.path.clone();
        let (other_folder, kept) = match second.try_persist() {
            Ok(folder) => (folder, None),
            Err((failure, temporary)) => {
                let kept = temporary.and_then(|temporary| temporary.keep().ok());
                let where_it_is = kept.map_or_else(|| "lost".into(), |path| format!("in {}", show(&path)));
                let what = format!("{}; it belongs to {}, which is there, and is {where_it_is}", failure.message, show(&done));
                (folder_of(&place).to_owned(), Some(Failure::new(failure.code, what)))
            }
        };
        for folder in [folder, other_folder] {
            sync_folder(&folder).map_err(|error| Failure::io(show(&folder), &error))?;
        }
        kept.map_or(Ok(()), Err)
    }

    /// Takes its place; tells in which folder.
    fn persist(self) -> Result<PathBuf, Failure> {
        self.try_persist().map_err(|(failure, _)| failure)
    }

    /// The same; what could not take its place is given back, where it is still there.
    fn try_persist(self) -> Result<PathBuf, (Failure, Option<TempPath>)> {
        let Self { temporary, path, over, _doomed } = self;
        if let Over::This(read) = &over
            && fs::metadata(&path).is_ok_and(|now| Identity::of(&now) != *read)
        {
            let why = "it was changed while it was read; what was made of its old version is thrown away";
            return Err((Failure::new(super::fail::Code::Io, format!("{}: {why}", show(&path))), None));
        }
        let persisted = match over {
            Over::Nothing => temporary.persist_noclobber(&path),
            Over::Anything | Over::This(_) => temporary.persist(&path),
        };
        match persisted {
            Ok(()) => Ok(folder_of(&path).to_owned()),
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Err((exists(&path), Some(error.path))),
            Err(error) => Err((Failure::io(show(&path), &error.error), Some(error.path))),
        }
    }
}

pub(super) fn exists(path: &Path) -> Failure {
    Failure::usage(format!("{} exists; name another with -o, or replace it with --force", show(path)))
}

/// Makes the content of files last; those that could not be are left out and told. Of many the file system is asked once.
fn sync_data(files: Vec<Parked>, failures: &mut Vec<Failure>) -> Vec<Parked> {
    #[cfg(target_os = "linux")]
    if let Some(first) = files.first()
        && files.iter().all(|file| folder_of(&file.path) == folder_of(&first.path))
        && File::open(folder_of(&first.path)).is_ok_and(|folder| rustix::fs::syncfs(folder).is_ok())
    {
        return files;
    }
    let synced = |file: &Parked| match File::open(&file.temporary).and_then(|data| data.sync_all()) {
        Ok(()) => true,
        Err(error) => {
            failures.push(Failure::io(show(&file.path), &error));
            false
        }
    };
    let mut files = files;
    files.retain(synced);
    files
}

/// A file of no final name, which nobody else can read; a signal removes it.
pub(super) fn new_temporary(folder: &Path) -> io::Result<(NamedTempFile, Doomed)> {
    let make = || tempfile::Builder::new().prefix(".sealwire-").suffix(".part").tempfile_in(folder);
    Doomed::make(make, NamedTempFile::path)
}

/// Gives a file that is whole the access that one at `path` has, or that new files have.
pub(super) fn settle(path: &Path, file: &File) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(old) => keep_access(path, &old, file),
        Err(_) => open_to_others(file),
    }
}

/// Gives a secret that is whole the owner of what is at `path`, who alone may read it.
#[cfg(unix)]
fn settle_secret(path: &Path, file: &File) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
    if let Ok(old) = fs::metadata(path) {
        // Not ours to give away, mostly.
        let _ = fchown(file, Some(old.uid()), Some(old.gid()));
    }
    file.set_permissions(fs::Permissions::from_mode(0o600))
}

#[cfg(not(unix))]
fn settle_secret(path: &Path, file: &File) -> io::Result<()> {
    settle(path, file)
}

/// What the process takes from the modes of new files. The system tells it only by changing it.
static UMASK: OnceLock<u32> = OnceLock::new();

/// Asks for the umask, while there is one thread.
pub(super) fn remember_umask() {
    #[cfg(unix)]
    {
        let umask = rustix::process::umask(rustix::fs::Mode::from_bits_truncate(0o077));
        rustix::process::umask(umask);
        let _ = UMASK.set(umask.as_raw_mode() & 0o777);
    }
}

/// A mode, without what the umask takes from it.
#[cfg(unix)]
pub(super) fn new_mode(mode: u32) -> fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(mode & !UMASK.get().copied().unwrap_or(0o077))
}

#[cfg(unix)]
pub(super) fn open_to_others(file: &File) -> io::Result<()> {
    file.set_permissions(new_mode(0o666))
}

#[cfg(not(unix))]
pub(super) fn open_to_others(_: &File) -> io::Result<()> {
    Ok(())
}

/// Gives a new file the owner, the group, the access list and the mode of the one that it replaces; where it cannot have them
/// all, its owner alone can read it.
#[cfg(unix)]
fn keep_access(path: &Path, old: &Metadata, new: &File) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
    // Not ours to give away, mostly; the group may be.
    if fchown(new, Some(old.uid()), Some(old.gid())).is_err() {
        let _ = fchown(new, None, Some(old.gid()));
    }
    let same_group = new.metadata()?.gid() == old.gid();
    let mode = old.mode() & 0o777;
    let mode = if same_group { mode } else { mode & 0o700 };
    new.set_permissions(fs::Permissions::from_mode(mode))?;
    if !copy_access_list(path, new) {
        new.set_permissions(fs::Permissions::from_mode(mode & 0o700))?;
    }
    Ok(())
}

#[cfg(not(unix))]
fn keep_access(_: &Path, old: &Metadata, new: &File) -> io::Result<()> {
    new.set_permissions(old.permissions())
}

/// Whether the new file has the old one's access list, or there is none.
#[cfg(target_os = "linux")]
fn copy_access_list(path: &Path, new: &File) -> bool {
    use rustix::fs::{XattrFlags, fsetxattr, getxattr};
    const NAME: &str = "system.posix_acl_access";
    let mut list = vec![0; 64 * 1024];
    match getxattr(path, NAME, &mut list[..]) {
        Ok(n) => fsetxattr(new, NAME, &list[..n], XattrFlags::empty()).is_ok(),
        Err(error) => matches!(error, rustix::io::Errno::NODATA | rustix::io::Errno::NOTSUP),
    }
}

#[cfg(all(unix, not(target_os = "linux")))]
fn copy_access_list(_: &Path, _: &File) -> bool {
    true
}

/// The folder that a file is in.
pub(super) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes renames in a folder last: on Unix it is synced like a file.
#[cfg(unix)]
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(not(unix))]
pub(super) fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}
