//! Input of any kind, and where commands write.

use std::{
    fs::{self, File},
    io::{self, BufReader, IsTerminal, Read, Write},
    path::Path,
};

use super::{
    Failure,
    args::OutputArgs,
    fail::show,
    replace::{Identity, Over, Parked, Replacement, exists},
};

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

/// Whether a path is the regular file that standard output goes to.
pub(super) fn is_same_as_stdout(path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::fd::AsFd;
        let stdout = io::stdout().as_fd().try_clone_to_owned().and_then(|fd| File::from(fd).metadata());
        let (Ok(stdout), Ok(meta)) = (stdout, fs::metadata(path)) else { return false };
        meta.is_file() && Identity::of(&stdout).is_same_place(&Identity::of(&meta))
    }
    #[cfg(not(unix))]
    {
        let _ = path;
        false
    }
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
    /// A file that appears when it is whole.
    File(Replacement, String),
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
        match fs::metadata(path) {
            Ok(meta) if meta.is_dir() => return Err(Failure::usage(format!("{} is a folder", show(path)))),
            Ok(meta) if !meta.is_file() => {
                let opened = fs::OpenOptions::new().write(true).open(path);
                let file = opened.map_err(|error| Failure::io(show(path), &error))?;
                return Ok(Self::Stream(Box::new(file), show(path)));
            }
            Ok(_) if !force => return Err(exists(path)),
            _ => {}
        }
        let over = if force { Over::Anything } else { Over::Nothing };
        Ok(Self::File(Replacement::new(path, over)?, show(path)))
    }

    /// What takes the place of the file that `read` is, unless that was changed meanwhile.
    pub(super) fn in_place_of(path: &Path, read: Identity) -> Result<Self, Failure> {
        Ok(Self::File(Replacement::new(path, Over::This(read))?, show(path)))
    }

    /// Makes it appear, whole and on the disk.
    pub(super) fn finish(self) -> Result<(), Failure> {
        match self {
            Self::Stream(mut stream, name) => stream.flush().map_err(|error| Failure::io(name, &error)),
            Self::File(file, _) => file.finish(),
        }
    }

    /// Lets a file that is whole wait for others, to be finished together with them; finishes anything else.
    pub(super) fn park(self) -> Result<Option<Parked>, Failure> {
        match self {
            Self::File(file, _) => Ok(Some(Parked::new(file))),
            stream @ Self::Stream(..) => stream.finish().map(|()| None),
        }
    }

    /// What it is called in messages.
    pub(super) fn name(&self) -> &str {
        let (Self::Stream(_, name) | Self::File(_, name)) = self;
        name
    }

    pub(super) fn writer(&mut self) -> &mut dyn Write {
        match self {
            Self::Stream(stream, _) => stream,
            Self::File(file, _) => &mut file.temporary,
        }
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let written = self.writer().write_all(bytes);
        written.map_err(|error| Failure::io(self.name(), &error))
    }

    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        match self {
            Self::Stream(stream, name) => stream.flush().map_err(|error| Failure::io(name, &error)),
            Self::File(..) => Ok(()),
        }
    }
}
