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
    KeyError, PASSPHRASE_MAX, Passphrase, PassphraseError, ProtectError, SecretKey, change_passphrase, protected_from_key_file,
    secret_key_from_key_file,
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
    let first = ask(&format!("New passphrase of {}: ", show(path)), path)?;
    let second = ask("The same again: ", path)?;
    if !first.is_same(&second) {
        return Err(Failure::usage("the two passphrases differ; nothing was written"));
    }
    Ok(first)
}

/// Asks on the terminal that the command was started from, whatever its standard input is. What is typed is not shown.
#[cfg(unix)]
fn ask(prompt: &str, path: &Path) -> Result<Passphrase, Failure> {
    use std::io::Write;

    use super::cleanup::Unseen;
    let opened = fs::OpenOptions::new().read(true).write(true).open("/dev/tty");
    let mut terminal = opened.map_err(|_| no_terminal(path))?;
    let failed = |error: io::Error| Failure::io("asking for a passphrase", &error);
    let unseen = Unseen::on(&terminal).map_err(failed)?;
    terminal.write_all(prompt.as_bytes()).map_err(failed)?;
    let line = read_line(&mut terminal);
    drop(unseen);
    // The end of the line was not shown either.
    let _ = terminal.write_all(b"\n");
    Ok(Passphrase::from_line(&line.map_err(failed)?)?)
}

#[cfg(not(unix))]
fn ask(_: &str, path: &Path) -> Result<Passphrase, Failure> {
    Err(no_terminal(path))
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
    let before = Identity::of(&fs::metadata(path).map_err(|error| Failure::io(show(path), &error))?);
    let content = read_key_file(path)?;
    let is_protected = match secret_key_from_key_file(&content, None) {
        Err(KeyError::Protected) => true,
        read => read.map(|_| false).map_err(|error| about(error.into()))?,
    };
    if args.remove && !is_protected {
        return Err(about(Failure::usage("it has no passphrase")));
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
    Ok(())
}

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
    fn place(&self) -> Option<PathBuf> {
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
