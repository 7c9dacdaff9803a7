//! keygen, recipient, and reading key files: a wrong kind of file is told at once, and never read to its end.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use super::{
    Failure,
    args::{From, KeygenArgs, PassphraseFrom, RecipientArgs, Recipients},
    cleanup::finishing,
    fail::{Remark, note, print_line, remark, show},
    io::is_dash,
    passphrase::Passphrases,
    replace::{folder_of, new_temporary, sync_folder},
    report::utc,
};
use crate::{
    keys::{
        Cmk, KEY_FILE_MAX, KeyError, Keyring, Listed, Protected, Recipient, SecretKey, SenderKey, cmk_from_key_file,
        cmk_to_key_file, is_key_string, recipient_from_text, recipients_from_list, secret_key_from_key_file, sender_from_text,
        sender_key_from_key_file, sender_key_to_key_file, senders_from_list,
    },
    open::Senders,
    wire::Kem,
};

/// No list of recipients is longer.
const RECIPIENTS_MAX: usize = 8 << 20;

pub(super) fn keygen(args: &KeygenArgs) -> Result<(), Failure> {
    if is_dash(&args.output) {
        return Err(Failure::usage("a secret key is written to a file, never to standard output; name one with -o"));
    }
    let created = utc(std::time::SystemTime::now());
    // Told before a passphrase is asked for.
    if args.output.exists() {
        return Err(never_over(&args.output));
    }
    let key: SecretKey = match args {
        KeygenArgs { sender: true, .. } => SenderKey::generate()?.into(),
        KeygenArgs { pq: true, .. } => Cmk::generate_pq()?.into(),
        _ => Cmk::generate()?.into(),
    };
    let content = if args.passphrase || args.passphrase_from.is_given() {
        let passphrase = Passphrases::new(&args.passphrase_from).choose(&args.output)?;
        Zeroizing::new(Protected::new(&key, &passphrase)?.to_key_file(&key, &created))
    } else {
        match &key {
            SecretKey::Cmk(cmk) => cmk_to_key_file(cmk, &created),
            SecretKey::Sender(key) => sender_key_to_key_file(key, &created),
        }
    };
    write_key_file(&args.output, &content)?;
    match &key {
        SecretKey::Cmk(cmk) => {
            let kind = if args.pq { "post-quantum key file" } else { "key file" };
            note(&format!("{kind}: {}  fingerprint: {}", show(&args.output), cmk.recipient().fingerprint()));
        }
        SecretKey::Sender(_) => note(&format!("sender's key file: {}", show(&args.output))),
    }
    print_line(&public_half(&key))
}

fn public_half(key: &SecretKey) -> String {
    match key {
        SecretKey::Cmk(cmk) => cmk.recipient().to_string(),
        SecretKey::Sender(key) => key.verifying_key().to_string(),
    }
}

pub(super) fn never_over(path: &Path) -> Failure {
    Failure::usage(format!("{} exists, and a key file is never overwritten; name another with -o", show(path)))
}

pub(super) fn recipient(args: &RecipientArgs) -> Result<(), Failure> {
    let plain = |content: &str| secret_key_from_key_file(content, None);
    let key = read_secret(&args.keyfile, &Passphrases::new(&args.passphrase), plain, Ok)?;
    if matches!(&key, SecretKey::Cmk(cmk) if cmk.recipient().kem() == Kem::XWing) {
        note("a post-quantum key (X-Wing)");
    }
    if args.fingerprint {
        let cmk = key.into_cmk().map_err(|error| Failure::from(error).about(show(&args.keyfile)))?;
        return print_line(&cmk.recipient().fingerprint().to_string());
    }
    print_line(&public_half(&key))
}

/// Writes a new file that only its owner can read; it appears whole and on the disk, or not at all.
pub(super) fn write_key_file(path: &Path, content: &str) -> Result<(), Failure> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::AlreadyExists => never_over(path),
        _ => Failure::io(show(path), &error),
    };
    // Its name belongs in no message.
    let (mut file, _doomed) = new_temporary(folder_of(path)).map_err(|error| failed(error.kind().into()))?;
    file.write_all(content.as_bytes()).and_then(|()| file.as_file().sync_all()).map_err(failed)?;
    finishing();
    file.persist_noclobber(path).map_err(|error| failed(error.error))?;
    sync_folder(folder_of(path)).map_err(failed)
}

pub(super) fn read_keyring(keys: &[PathBuf], from: &PassphraseFrom) -> Result<Keyring, Failure> {
    let passphrases = Passphrases::new(from);
    keys.iter().map(|path| read_secret(path, &passphrases, cmk_from_key_file, SecretKey::into_cmk)).collect()
}

pub(super) fn read_sender_key(path: &Path, from: &PassphraseFrom) -> Result<SenderKey, Failure> {
    read_secret(path, &Passphrases::new(from), sender_key_from_key_file, SecretKey::into_sender)
}

/// The key of a key file, protected or not.
fn read_secret<T>(
    path: &Path,
    passphrases: &Passphrases<'_>,
    plain: fn(&str) -> Result<T, KeyError>,
    of: fn(SecretKey) -> Result<T, KeyError>,
) -> Result<T, Failure> {
    secret_of(&read_key_file(path)?, path, passphrases, plain, of)
}

/// The key in the text of a key file, protected or not: the one place where a passphrase is used for one.
pub(super) fn secret_of<T>(
    content: &str,
    path: &Path,
    passphrases: &Passphrases<'_>,
    plain: fn(&str) -> Result<T, KeyError>,
    of: fn(SecretKey) -> Result<T, KeyError>,
) -> Result<T, Failure> {
    let key = match plain(content) {
        Err(KeyError::Protected) => of(passphrases.open(content, path)?),
        read => read,
    };
    key.map_err(|error| Failure::from(error).about(show(path)))
}

pub(super) fn read_key_file(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let content = read_text(path, "key file", KEY_FILE_MAX)?;
    warn_of_permissions(path);
    Ok(content)
}

pub(super) fn read_recipients(args: &Recipients) -> Result<Vec<Recipient>, Failure> {
    let mut all = Vec::new();
    for text in &args.recipients {
        all.push(recipient_from_text(text).map_err(|error| {
            let hint = if Path::new(text).exists() { "; for a file of recipients use -R" } else { "" };
            Failure::usage(format!("-r: {error}{hint}"))
        })?);
    }
    for path in &args.lists {
        let content = read_text(path, "list of recipients", RECIPIENTS_MAX)?;
        let found = recipients_from_list(&content);
        all.extend(found.map_err(|(line, error)| Failure::from(error).about(format!("{}, line {line}", show(path))))?);
    }
    Ok(all)
}

/// Recipients that are given as strings, or as the names of files of them.
pub(super) fn recipients_named(option: &str, named: &[String]) -> Result<Vec<Recipient>, Failure> {
    read_named(option, named, "list of recipients", recipient_from_text, recipients_from_list)
}

/// The senders whose messages are opened; `None` where anyone's are.
pub(super) fn read_senders(from: &From) -> Result<Option<Senders>, Failure> {
    if from.senders.is_empty() {
        return Ok(None);
    }
    let keys = read_named("--from", &from.senders, "list of senders", sender_from_text, senders_from_list)?;
    Ok(Some(from.accept.iter().fold(Senders::new(keys), |senders, standing| senders.also(*standing))))
}

fn read_named<T>(
    option: &str,
    named: &[String],
    wanted: &str,
    from_text: fn(&str) -> Result<T, KeyError>,
    from_list: fn(&str) -> Listed<T>,
) -> Result<Vec<T>, Failure> {
    let mut all = Vec::new();
    for name in named {
        let path = Path::new(name);
        // What looks like a key is never the name of a file: somebody else may have put one of that name here.
        if is_key_string(name) {
            all.push(from_text(name).map_err(|error| Failure::from(error).about(option))?);
            continue;
        }
        if !path.exists() {
            return Err(Failure::usage(format!("{option}: {} is neither a key nor a file that is there", show(path))));
        }
        let content = read_text(path, wanted, RECIPIENTS_MAX)?;
        let found = from_list(&content);
        all.extend(found.map_err(|(line, error)| Failure::from(error).about(format!("{}, line {line}", show(path))))?);
    }
    Ok(all)
}

/// A whole small file as text: a `wanted` of at most `most` bytes.
pub(super) fn read_text(path: &Path, wanted: &str, most: usize) -> Result<Zeroizing<String>, Failure> {
    let unreadable = |error: io::Error| Failure::io(show(path), &error);
    // Asked before it is opened: opening a FIFO waits for a writer.
    let meta = fs::metadata(path).map_err(unreadable)?;
    if !meta.is_file() {
        return Err(Failure::usage(format!("{} is {}; a {wanted} is needed", show(path), kind_of(&meta))));
    }
    let too_large = |len: u64| Failure::usage(format!("{} is {len} bytes long; that is no {wanted}", show(path)));
    if meta.len() > most as u64 {
        return Err(too_large(meta.len()));
    }
    // As large as it can get: a buffer that grows leaves copies of a secret behind.
    let most = usize::try_from(meta.len()).map_or(most, |len| len.min(most));
    let mut bytes = Zeroizing::new(Vec::with_capacity(most + 1));
    File::open(path).and_then(|file| file.take(most as u64 + 1).read_to_end(&mut bytes)).map_err(unreadable)?;
    if bytes.len() > most {
        return Err(Failure::usage(format!("{} grew while it was read", show(path))));
    }
    match std::str::from_utf8(&bytes) {
        Ok(text) => Ok(Zeroizing::new(text.trim_start_matches('\u{feff}').to_owned())),
        Err(_) => Err(Failure::usage(format!("{} is a binary file, and no {wanted}", show(path)))),
    }
}

/// How secret keys begin, under a passphrase too.
const SECRETS: [&str; 4] = ["SW-SECRET-", "SW-PROTECTED-KEY-1", "AGE-SECRET-KEY-1", "AGE-SECRET-KEY-PQ-1"];

/// Refuses a secret key among the arguments, before anything could print it: where it stands now, others can read it.
pub(super) fn refuse_secrets(arguments: impl Iterator<Item = OsString>) -> Result<(), Failure> {
    for argument in arguments {
        let argument = String::from_utf8_lossy(argument.as_encoded_bytes()).to_ascii_uppercase();
        if SECRETS.iter().any(|secret| argument.contains(secret)) {
            return Err(Failure::usage(
                "a secret key stands among the arguments, where other users of this machine can read it; give the name of a key file of mode 0600, and make a new key",
            ));
        }
    }
    Ok(())
}

fn kind_of(meta: &fs::Metadata) -> &'static str {
    if meta.is_dir() {
        return "a folder";
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        let kind = meta.file_type();
        if kind.is_fifo() {
            return "a FIFO";
        }
        if kind.is_char_device() || kind.is_block_device() {
            return "a device";
        }
        if kind.is_socket() {
            return "a socket";
        }
    }
    "no regular file"
}

#[cfg(unix)]
pub(super) fn warn_of_permissions(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let mode = fs::metadata(path).map(|meta| meta.permissions().mode() & 0o777);
    if let Ok(mode) = mode
        && mode & 0o077 != 0
    {
        remark(Remark::Warning, &format!("{} can be read by others (mode {mode:o}); run: chmod 600 {0}", show(path)));
    }
}

#[cfg(not(unix))]
pub(super) fn warn_of_permissions(_: &Path) {}
