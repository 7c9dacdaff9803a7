//! Input of any kind, and where commands write.

use std::{
    fs::{self, File, Metadata},
    io::{self, BufRead, BufReader, IsTerminal, Read, Seek, Write},
    path::{Path, PathBuf},
};

use super::{
    Failure,
    args::{OutputArgs, PassphraseFrom},
    fail::{Code, show},
    replace::{Identity, Over, Parked, Replacement, exists, folder_of},
};
use crate::{
    armor::{ArmorReader, is_armored},
    kms::is_direct,
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
        return Err(Failure::new(Code::Io, format!("{} is a folder", show(path))));
    }
    Ok(Box::new(file))
}

/// Bytes of the input, where it is a file.
pub(super) fn input_len(path: &Path) -> Option<u64> {
    metadata(path, Way::In).filter(Metadata::is_file).map(|meta| meta.len())
}

/// Which version of a file the input is, where it is one.
pub(super) fn input_version(path: &Path) -> Option<Identity> {
    metadata(path, Way::In).filter(Metadata::is_file).as_ref().map(Identity::of)
}

/// Which of the standard ones `-` is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    In,
    Out,
}

/// What a path, or `-`, leads to.
fn metadata(path: &Path, way: Way) -> Option<Metadata> {
    if !is_dash(path) {
        return fs::metadata(path).ok();
    }
    #[cfg(unix)]
    {
        use std::os::fd::AsFd;
        let fd = match way {
            Way::In => io::stdin().as_fd().try_clone_to_owned(),
            Way::Out => io::stdout().as_fd().try_clone_to_owned(),
        };
        fd.and_then(|fd| File::from(fd).metadata()).ok()
    }
    #[cfg(not(unix))]
    {
        let _ = way;
        None
    }
}

/// The output of a command; never the file that is read.
pub(super) fn output_beside(input: &Path, args: &OutputArgs, binary: bool) -> Result<Output, Failure> {
    if is_one_file((input, Way::In), (output_path(args), Way::Out)) {
        return Err(Failure::usage(format!("{} is both input and output", show(input))));
    }
    Output::new(args, binary)
}

/// Whether two paths lead to one regular file, or would.
fn is_one_file((one, one_way): (&Path, Way), (other, other_way): (&Path, Way)) -> bool {
    let full = |path: &Path| Some(fs::canonicalize(folder_of(path)).ok()?.join(path.file_name()?));
    let same_place = match (metadata(one, one_way), metadata(other, other_way)) {
        (Some(one), Some(other)) => one.is_file() && Identity::of(&one).is_same_place(&Identity::of(&other)),
        _ => false,
    };
    match (is_dash(one), is_dash(other)) {
        (true, true) => same_place || one_way == other_way,
        (false, false) => same_place || (full(one).is_some() && full(one) == full(other)),
        _ => same_place,
    }
}

pub(super) fn output_path(args: &OutputArgs) -> &Path {
    args.output.as_deref().unwrap_or(Path::new("-"))
}

/// Refuses a third file that is the input or the output, or is to be.
pub(super) fn check_apart(option: &str, path: &Path, input: &Path, output: &OutputArgs) -> Result<(), Failure> {
    let way = if is_dash(path) { Way::In } else { Way::Out };
    if is_one_file((path, way), (input, Way::In)) || is_one_file((path, way), (output_path(output), Way::Out)) {
        return Err(Failure::usage(format!("{option}: {} is also the input or the output", show(path))));
    }
    Ok(())
}

/// Refuses to read a DEK from standard input where something else is read from there.
pub(super) fn check_dek_apart<'a>(dek: Option<&Path>, mut others: impl Iterator<Item = &'a PathBuf>) -> Result<(), Failure> {
    if dek.is_some_and(is_dash) && others.any(|path| is_dash(path)) {
        return Err(Failure::usage("--dek: standard input is read for something else, too; name a file, or another pipe"));
    }
    Ok(())
}

/// Refuses to write over a key file which the command reads, or over the file of the passphrase, which a descriptor may be too.
pub(super) fn check_secrets_apart<'a>(
    output: &Path,
    keys: impl IntoIterator<Item = &'a PathBuf>,
    from: &PassphraseFrom,
) -> Result<(), Failure> {
    check_apart_from("a key", keys, output)?;
    check_apart_from("a passphrase", from.place().iter(), output)
}

fn check_apart_from<'a>(what: &str, secrets: impl IntoIterator<Item = &'a PathBuf>, output: &Path) -> Result<(), Failure> {
    match secrets.into_iter().find(|secret| secret.exists() && is_one_file((secret, Way::In), (output, Way::Out))) {
        Some(secret) => Err(Failure::usage(format!("{} holds {what}, and is the output", show(secret)))),
        None => Ok(()),
    }
}

/// What an envelope or a DEK block cannot be, and is taken for one: what `kms encrypt` gave.
pub(super) fn refuse_secret(front: &[u8]) -> Result<(), Failure> {
    if is_direct(front) {
        return Err(Failure::new(Code::Malformed, "this is a secret that is directly under a CMK: sealwire kms decrypt"));
    }
    Ok(())
}

/// How many threads are worth having.
pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// An envelope that is read: its bytes, whether they are in a file as they are or stand there as text.
pub(super) enum Source {
    /// A regular file of envelope bytes, and how many.
    File(File, u64),
    /// Anything else.
    Other(Box<dyn Read>),
    /// The envelope in a text.
    Armored(Box<dyn Read>),
}

impl Source {
    pub(super) fn new(path: &Path) -> Result<Self, Failure> {
        Self::open(path).map_err(|error| Failure::io(show(path), &error))
    }

    /// The same where an envelope is wanted.
    pub(super) fn of_envelope(path: &Path) -> Result<Self, Failure> {
        let mut source = Self::new(path)?;
        let mut front = Vec::new();
        (&mut source).take(4).read_to_end(&mut front).map_err(|error| Failure::io(show(path), &error))?;
        refuse_secret(&front).map_err(|failure| failure.about(show(path)))?;
        source.put_back(front).map_err(|error| Failure::io(show(path), &error))
    }

    /// Begins again with what was read of it.
    fn put_back(self, front: Vec<u8>) -> io::Result<Self> {
        Ok(match self {
            Self::File(mut file, len) => {
                file.rewind()?;
                Self::File(file, len)
            }
            Self::Other(rest) => Self::Other(Box::new(io::Cursor::new(front).chain(rest))),
            Self::Armored(rest) => Self::Armored(Box::new(io::Cursor::new(front).chain(rest))),
        })
    }

    fn open(path: &Path) -> io::Result<Self> {
        if is_dash(path) {
            return Self::of(io::stdin().lock());
        }
        let mut file = File::open(path)?;
        let meta = file.metadata()?;
        if meta.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        if !meta.is_file() {
            return Self::of(BufReader::with_capacity(64 * 1024, file));
        }
        let mut first = [0];
        let n = file.read(&mut first)?;
        file.rewind()?;
        if is_armored(&first[..n]) {
            return Ok(Self::Armored(Box::new(ArmorReader::new(BufReader::with_capacity(64 * 1024, file)))));
        }
        Ok(Self::File(file, meta.len()))
    }

    fn of(mut input: impl BufRead + 'static) -> io::Result<Self> {
        if is_armored(input.fill_buf()?) {
            return Ok(Self::Armored(Box::new(ArmorReader::new(input))));
        }
        Ok(Self::Other(Box::new(input)))
    }

    pub(super) fn len(&self) -> Option<u64> {
        match self {
            Self::File(_, len) => Some(*len),
            Self::Other(_) | Self::Armored(_) => None,
        }
    }

    pub(super) fn is_armored(&self) -> bool {
        matches!(self, Self::Armored(_))
    }

    /// The file, where it is one of envelope bytes, and how many.
    pub(super) fn as_file(&self) -> Option<(&File, u64)> {
        match self {
            Self::File(file, len) => Some((file, *len)),
            Self::Other(_) | Self::Armored(_) => None,
        }
    }
}

impl Read for Source {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::File(file, _) => file.read(out),
            Self::Other(bytes) | Self::Armored(bytes) => bytes.read(out),
        }
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

/// Standard output as it is: what Rust makes of it holds the last line back.
fn stdout() -> Box<dyn Write> {
    #[cfg(unix)]
    {
        use std::os::fd::AsFd;
        if let Ok(fd) = io::stdout().as_fd().try_clone_to_owned() {
            return Box::new(File::from(fd));
        }
    }
    Box::new(io::stdout().lock())
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
            _ => Ok(Self::Stream(stdout(), "standard output".into())),
        }
    }

    /// A file of this name.
    pub(super) fn file(path: &Path, force: bool) -> Result<Self, Failure> {
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

    /// The same, of which a file is for its owner alone.
    pub(super) fn secret(self) -> Self {
        match self {
            Self::File(file, name) => Self::File(file.secret(), name),
            stream @ Self::Stream(..) => stream,
        }
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
            Self::File(file, _) => file.park().map(Some),
            stream @ Self::Stream(..) => stream.finish().map(|()| None),
        }
    }

    /// What it is called in messages.
    pub(super) fn name(&self) -> &str {
        let (Self::Stream(_, name) | Self::File(_, name)) = self;
        name
    }

    /// The file that is to be, where it is one.
    pub(super) fn as_file(&self) -> Option<&File> {
        match self {
            Self::Stream(..) => None,
            Self::File(file, _) => Some(file.temporary.as_file()),
        }
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
