//! passphrase, and where passphrases come from: the terminal, a file, a descriptor. Never the arguments, never the environment.

use std::{
    cell::OnceCell,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use super::{
    Failure,
    args::{PassphraseArgs, PassphraseFrom},
    fail::{note, show},
    io::{Output, is_dash},
    keys::{read_key_file, warn_of_permissions},
    replace::Identity,
};
use crate::keys::{
    KeyError, PASSPHRASE_MAX, Passphrase, PassphraseError, ProtectError, SecretKey, change_passphrase, has_key_beside,
    protected_from_key_file, secret_key_from_key_file,
};

/// Bytes that are read for a passphrase: the longest, the end of its line, and one that is too many.
const READ_MAX: usize = PASSPHRASE_MAX + 3;

/// Where the passphrases of a command come from. What an option names is read once, and where it is needed.
pub(super) struct Passphrases<'a> {
    from: &'a PassphraseFrom,
    /// A file that is no passphrase's: the key's own, which is to be replaced.
    apart_from: Option<&'a Identity>,
    given: OnceCell<Option<Passphrase>>,
}

impl<'a> Passphrases<'a> {
    pub(super) fn new(from: &'a PassphraseFrom) -> Self {
        Self { from, apart_from: None, given: OnceCell::new() }
    }

    /// Never what that file holds: nobody would have the passphrase when it is replaced.
    fn apart_from(self, file: &'a Identity) -> Self {
        Self { apart_from: Some(file), ..self }
    }

    /// The key of a key file that is protected: with the passphrase that an option names, or else one that is asked for by the file's name.
    pub(super) fn open(&self, content: &str, path: &Path) -> Result<SecretKey, Failure> {
        let about = |error: KeyError| Failure::from(error).about(show(path));
        let protected = protected_from_key_file(content).map_err(about)?;
        let asked;
        let passphrase = match self.given()? {
            Some(given) => given,
            None => {
                asked = ask(&format!("Passphrase of {}: ", show(path)), path)?;
                &asked
            }
        };
        protected.open(passphrase).map_err(about)
    }

    /// The passphrase of something that is no key file.
    pub(super) fn of(self, path: &Path, what: &str) -> Result<Passphrase, Failure> {
        self.given()?;
        match self.given.into_inner().flatten() {
            Some(given) => Ok(given),
            None => ask(&format!("Passphrase of {what} {}: ", show(path)), path),
        }
    }

    /// A passphrase for a key file that is to be written.
    pub(super) fn choose(self, path: &Path) -> Result<Passphrase, Failure> {
        self.given()?;
        match self.given.into_inner().flatten() {
            Some(given) => Ok(given),
            None => ask_twice(path),
        }
    }

    fn given(&self) -> Result<Option<&Passphrase>, Failure> {
        if let Some(given) = self.given.get() {
            return Ok(given.as_ref());
        }
        let given = self.from.place().map(|place| read(&place, self.apart_from)).transpose()?;
        Ok(self.given.get_or_init(|| given).as_ref())
    }
}

/// What a file or a descriptor holds, up to its end.
fn read(place: &Path, apart_from: Option<&Identity>) -> Result<Passphrase, Failure> {
    if is_dash(place) {
        return Err(Failure::usage("--passphrase-file: standard input is named with --passphrase-fd 0"));
    }
    let unreadable = |error: io::Error| Failure::io(show(place), &error);
    let file = File::open(place).map_err(unreadable)?;
    let meta = file.metadata().map_err(unreadable)?;
    if meta.is_dir() {
        return Err(Failure::usage(format!("{} is a folder; a file with a passphrase is needed", show(place))));
    }
    // What was opened, whatever its name: a link, or a descriptor of the file.
    if apart_from.is_some_and(|other| Identity::of(&meta).is_same_place(other)) {
        return Err(Failure::usage(format!("{} is the key file itself, and no passphrase", show(place))));
    }
    if meta.is_file() {
        warn_of_permissions(place);
    }
    // As large as it can get: a buffer that grows leaves copies of a secret behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(READ_MAX));
    file.take(READ_MAX as u64).read_to_end(&mut bytes).map_err(unreadable)?;
    Passphrase::from_line(&bytes).map_err(|error| Failure::from(error).about(show(place)))
}

fn ask_twice(path: &Path) -> Result<Passphrase, Failure> {
    let mut terminal = Terminal::open(path)?;
    let first = terminal.ask(&format!("New passphrase of {}: ", show(path)))?;
    let second = terminal.ask("The same again: ")?;
    if !first.is_same(&second) {
        return Err(Failure::usage("the two passphrases differ; nothing was written"));
    }
    Ok(first)
}

fn ask(prompt: &str, path: &Path) -> Result<Passphrase, Failure> {
    Terminal::open(path)?.ask(prompt)
}

/// The terminal that the command was started from, whatever its standard input is, while it is this process's turn to ask there.
#[cfg(unix)]
struct Terminal {
    file: File,
    _turn: Option<File>,
}

#[cfg(unix)]
impl Terminal {
    /// Waits until nobody else asks there: of two in one pipeline, the first to be answered would show what is typed for the other.
    fn open(path: &Path) -> Result<Self, Failure> {
        let file = fs::OpenOptions::new().read(true).write(true).open("/dev/tty").map_err(|_| no_terminal(path))?;
        // In the background this stops the process, as setting the terminal would: before others wait for it.
        let _ = rustix::termios::tcdrain(&file);
        Ok(Self { _turn: turn(), file })
    }

    /// What is typed is not shown.
    fn ask(&mut self, prompt: &str) -> Result<Passphrase, Failure> {
        use std::io::Write;
        let failed = |error: io::Error| Failure::io("asking for a passphrase", &error);
        let unseen = super::cleanup::Unseen::on(&self.file).map_err(failed)?;
        self.file.write_all(prompt.as_bytes()).map_err(failed)?;
        let line = read_line(&mut self.file);
        drop(unseen);
        // The end of the line was not shown either.
        let _ = self.file.write_all(b"\n");
        Ok(Passphrase::from_line(&line.map_err(failed)?)?)
    }
}

/// A lock on the terminal, until it is closed; `None` where there is none to be had, and one asks all the same.
#[cfg(unix)]
fn turn() -> Option<File> {
    use rustix::fs::{FlockOperation, OFlags, flock};
    use std::os::unix::fs::OpenOptionsExt;
    let flags = i32::try_from((OFlags::NOCTTY | OFlags::NONBLOCK).bits()).ok()?;
    let terminal = fs::OpenOptions::new().read(true).custom_flags(flags).open(terminal_name()?).ok()?;
    loop {
        match flock(&terminal, FlockOperation::LockExclusive) {
            Ok(()) => return Some(terminal),
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return None,
        }
    }
}

/// The terminal by its own name: `/dev/tty` is one file for all of them.
#[cfg(target_os = "linux")]
fn terminal_name() -> Option<PathBuf> {
    use std::os::unix::fs::MetadataExt;
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // Behind the name of the program, which may hold anything: state, parent, group, session, terminal.
    let number = stat.rsplit_once(')')?.1.split_whitespace().nth(4)?.parse::<i32>().ok()?.cast_unsigned();
    let (major, minor) = ((number >> 8) & 0xfff, (number & 0xff) | ((number >> 12) & 0xf_ff00));
    let device = rustix::fs::makedev(major, minor);
    let names = [format!("/dev/pts/{minor}"), format!("/dev/tty{minor}"), format!("/dev/char/{major}:{minor}")];
    names.into_iter().map(PathBuf::from).find(|name| fs::metadata(name).is_ok_and(|meta| meta.rdev() == device))
}

/// The terminal by its own name, where one of the standard three leads to it.
#[cfg(all(unix, not(target_os = "linux")))]
fn terminal_name() -> Option<PathBuf> {
    use rustix::termios::{tcgetpgrp, ttyname};
    use std::{ffi::OsString, os::unix::ffi::OsStringExt};
    let name = [
        tcgetpgrp(io::stdin()).and_then(|_| ttyname(io::stdin(), Vec::new())),
        tcgetpgrp(io::stdout()).and_then(|_| ttyname(io::stdout(), Vec::new())),
        tcgetpgrp(io::stderr()).and_then(|_| ttyname(io::stderr(), Vec::new())),
    ];
    name.into_iter().find_map(Result::ok).map(|name| OsString::from_vec(name.into_bytes()).into())
}

/// There is none.
#[cfg(not(unix))]
enum Terminal {}

#[cfg(not(unix))]
impl Terminal {
    fn open(path: &Path) -> Result<Self, Failure> {
        Err(no_terminal(path))
    }

    fn ask(&mut self, _: &str) -> Result<Passphrase, Failure> {
        match *self {}
    }
}

fn no_terminal(path: &Path) -> Failure {
    let why = "a passphrase is needed, and there is no terminal to ask on; use --passphrase-file or --passphrase-fd";
    Failure::usage(format!("{}: {why}", show(path)))
}

/// What a terminal gives up to the end of a line, or as much as is too long for a passphrase.
#[cfg(unix)]
fn read_line(terminal: &mut File) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut line = Zeroizing::new(vec![0; READ_MAX]);
    let mut len = 0;
    while len < line.len() && !line[..len].ends_with(b"\n") {
        match terminal.read(&mut line[len..]) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    line.truncate(len);
    Ok(line)
}

/// Puts a key file's key under a passphrase, under another, or under none. The file is replaced when it is whole, and what it
/// held was read again.
pub(super) fn run(args: &PassphraseArgs) -> Result<(), Failure> {
    let path = &args.keyfile;
    let about = |error: Failure| error.about(show(path));
    if args.from.passphrase_fd.is_some() && args.from.passphrase_fd == args.new_passphrase_fd {
        return Err(Failure::usage("--passphrase-fd and --new-passphrase-fd name one descriptor, which gives one passphrase"));
    }
    let meta = fs::metadata(path).map_err(|error| Failure::io(show(path), &error))?;
    let before = Identity::of(&meta);
    let content = read_key_file(path)?;
    let is_protected = match secret_key_from_key_file(&content, None) {
        Err(KeyError::Protected) => true,
        Err(KeyError::Several) if crate::kms::Identity::from_text(&content).is_ok() => {
            return Err(about(Failure::usage(
                "it is a server's identity, which stays without a passphrase: keep it 0600, or encrypted with LoadCredentialEncrypted= of systemd or the like",
            )));
        }
        read => read.map(|_| false).map_err(|error| about(error.into()))?,
    };
    if args.remove && !is_protected {
        return Err(about(Failure::usage("it has no passphrase")));
    }
    // Told before anything is asked: under a passphrase, it would still be there for all to read.
    if !args.remove && has_key_beside(&content).map_err(|error| about(error.into()))? {
        return Err(about(Failure::usage(
            "a secret key stands in its comments too, and would stay there without a passphrase; take it out first",
        )));
    }
    let old = match is_protected {
        true => Some(old_passphrase(args, &content, &before)?),
        false => None,
    };
    let new = match args.remove {
        true => None,
        false => Some(Passphrases::new(&args.new_from()).apart_from(&before).choose(path)?),
    };
    let changed = change_passphrase(&content, old.as_ref(), new.as_ref()).map_err(|error| about(error.into()))?;
    let mut output = Output::in_place_of(path, before)?;
    output.write(changed.as_bytes())?;
    output.finish()?;
    let now = if args.remove {
        "no longer protected: keep it where nobody else can read it"
    } else {
        "protected with the new passphrase"
    };
    note(&format!("{}: {now}", show(path)));
    warn_of_other_names(path, &meta);
    Ok(())
}

/// Other names of the file that was replaced still lead to what it held.
#[cfg(unix)]
fn warn_of_other_names(path: &Path, before: &fs::Metadata) {
    let names = std::os::unix::fs::MetadataExt::nlink(before);
    if names > 1 {
        let others = names - 1;
        note(&format!("warning: {} has other names (hard links: {others}), under which the key is as it was", show(path)));
    }
}

#[cfg(not(unix))]
fn warn_of_other_names(_: &Path, _: &fs::Metadata) {}

/// The passphrase as it is, tried before a new one is asked for.
fn old_passphrase(args: &PassphraseArgs, content: &str, file: &Identity) -> Result<Passphrase, Failure> {
    let path = &args.keyfile;
    let passphrases = Passphrases::new(&args.from).apart_from(file);
    let old = match passphrases.given()? {
        Some(_) => passphrases.choose(path)?,
        None => ask(&format!("Passphrase of {}: ", show(path)), path)?,
    };
    protected_from_key_file(content)
        .and_then(|protected| protected.open(&old))
        .map_err(|error| Failure::from(error).about(show(path)))?;
    Ok(old)
}

impl PassphraseFrom {
    /// What is read for the passphrase; `None` where the terminal is asked.
    pub(super) fn place(&self) -> Option<PathBuf> {
        // Opened by its name: a descriptor that was inherited can only be taken over where nothing checks that it is one.
        self.passphrase_file.clone().or_else(|| self.passphrase_fd.map(|fd| PathBuf::from(format!("/dev/fd/{fd}"))))
    }

    /// Whether an option says where the passphrase comes from.
    pub(super) fn is_given(&self) -> bool {
        self.place().is_some()
    }
}

impl From<PassphraseError> for Failure {
    fn from(error: PassphraseError) -> Self {
        Self::usage(error.to_string())
    }
}

impl From<ProtectError> for Failure {
    fn from(error: ProtectError) -> Self {
        match error {
            ProtectError::Key(error) => error.into(),
            ProtectError::Entropy(error) => error.into(),
        }
    }
}
