//! Input of any kind, and output that appears whole or not at all.

use std::{
    fs::{self, File},
    io::{self, BufReader, IsTerminal, Read, Write},
    path::{Path, PathBuf},
};

use tempfile::NamedTempFile;

use super::{Failure, args::OutputArgs, fail::show};

pub(super) fn is_dash(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// A file, or standard input for `-`.
pub(super) fn input(path: &Path) -> Result<Box<dyn Read>, Failure> {
    if is_dash(path) {
        return Ok(Box::new(io::stdin().lock()));
    }
    let file = File::open(path).map_err(|error| Failure::io(show(path), &error))?;
    if file.metadata().is_ok_and(|meta| meta.is_dir()) {
        return Err(Failure::new(super::fail::Code::Io, format!("{} is a folder", show(path))));
    }
    Ok(Box::new(file))
}

/// The whole input, as long as it has at most `limit` bytes; otherwise its first `limit` + 1.
pub(super) fn read_up_to(path: &Path, limit: u64) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = input(path)?.take(limit.saturating_add(1)).read_to_end(&mut bytes);
    read.map_err(|error| Failure::io(show(path), &error))?;
    Ok(bytes)
}

/// Input by lines.
pub(super) fn lines(path: &Path) -> Result<BufReader<Box<dyn Read>>, Failure> {
    Ok(BufReader::with_capacity(64 * 1024, input(path)?))
}

/// Where a command writes. Dropped without [`finish`](Self::finish), a file leaves nothing behind.
pub(super) enum Output {
    /// Standard output, or something that cannot be replaced: a device, a FIFO.
    Stream(Box<dyn Write>, String),
    /// A file under another name in the same folder, until it is whole.
    File { temporary: NamedTempFile, path: PathBuf, replace: bool },
}

impl Output {
    /// Opens the output of a command. `binary` output does not go to a terminal unless `-o -` asks for it.
    pub(super) fn new(args: &OutputArgs, binary: bool) -> Result<Self, Failure> {
        match &args.output {
            None if binary && io::stdout().is_terminal() => Err(Failure::usage(
                "the output is binary and standard output is a terminal; name a file with -o, or insist with -o -",
            )),
            Some(path) if !is_dash(path) => Self::file(path, args.force),
            _ => Ok(Self::Stream(Box::new(io::stdout().lock()), "standard output".into())),
        }
    }

    fn file(path: &Path, force: bool) -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::io(show(path), &error);
        match fs::metadata(path) {
            Ok(meta) if meta.is_dir() => return Err(Failure::usage(format!("{} is a folder", show(path)))),
            Ok(meta) if !meta.is_file() => {
                let file = fs::OpenOptions::new().write(true).open(path).map_err(failed)?;
                return Ok(Self::Stream(Box::new(file), show(path)));
            }
            Ok(_) if !force => return Err(exists(path)),
            _ => {}
        }
        // A symbolic link stays; what it points to is replaced.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let temporary = new_temporary(folder_of(&path)).map_err(|error| failed(error.kind().into()))?;
        // What replaces a file is readable by no more people than it was.
        if let Ok(meta) = fs::metadata(&path) {
            temporary.as_file().set_permissions(meta.permissions()).map_err(failed)?;
        }
        Ok(Self::File { temporary, path, replace: force })
    }

    /// Makes it appear, whole and on the disk.
    pub(super) fn finish(self) -> Result<(), Failure> {
        Self::finish_all([self])
    }

    /// Makes several appear, each whole, and all on the disk when this returns.
    pub(super) fn finish_all(outputs: impl IntoIterator<Item = Self>) -> Result<(), Failure> {
        let mut files = Vec::new();
        for output in outputs {
            match output {
                Self::Stream(mut stream, name) => stream.flush().map_err(|error| Failure::io(name, &error))?,
                Self::File { temporary, path, replace } => files.push((temporary, path, replace)),
            }
        }
        sync_data(&files).map_err(|(path, error)| Failure::io(show(path), &error))?;
        let mut folders: Vec<PathBuf> = Vec::new();
        for (temporary, path, replace) in files {
            let persisted = if replace { temporary.persist(&path) } else { temporary.persist_noclobber(&path) };
            persisted.map_err(|error| match error.error.kind() {
                io::ErrorKind::AlreadyExists => exists(&path),
                _ => Failure::io(show(&path), &error.error),
            })?;
            let folder = folder_of(&path).to_owned();
            if !folders.contains(&folder) {
                folders.push(folder);
            }
        }
        folders.iter().try_for_each(|folder| sync_folder(folder).map_err(|error| Failure::io(show(folder), &error)))
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        match self {
            Self::Stream(stream, name) => stream.write_all(bytes).map_err(|error| Failure::io(name, &error)),
            Self::File { temporary, path, .. } => temporary.write_all(bytes).map_err(|error| Failure::io(show(path), &error)),
        }
    }

    pub(super) fn writer(&mut self) -> &mut dyn Write {
        match self {
            Self::Stream(stream, _) => stream,
            Self::File { temporary, .. } => temporary,
        }
    }

    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        match self {
            Self::Stream(stream, name) => stream.flush().map_err(|error| Failure::io(name, &error)),
            Self::File { .. } => Ok(()),
        }
    }
}

fn exists(path: &Path) -> Failure {
    Failure::usage(format!("{} exists; name another with -o, or replace it with --force", show(path)))
}

/// A file of no final name, with the mode that new files have.
pub(super) fn new_temporary(folder: &Path) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".sealwire-").suffix(".part");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder)
}

/// The folder that a file is in.
pub(super) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes the content of files last. Of many in one folder the file system is asked once, where it can be.
fn sync_data(files: &[(NamedTempFile, PathBuf, bool)]) -> Result<(), (&Path, io::Error)> {
    #[cfg(target_os = "linux")]
    if let [(first, path, _), _, ..] = files
        && files.iter().all(|(_, each, _)| folder_of(each) == folder_of(path))
    {
        return rustix::fs::syncfs(first.as_file()).map_err(|error| (path.as_path(), error.into()));
    }
    files.iter().try_for_each(|(temporary, path, _)| temporary.as_file().sync_all().map_err(|error| (path.as_path(), error)))
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
