//! keygen, recipient, and reading key files: a wrong kind of file is told at once, and never read to its end.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::Path,
};

use zeroize::Zeroizing;

use super::{
    Failure,
    args::{KeygenArgs, Keys, RecipientArgs, Recipients},
    fail::show,
    report::utc,
};
use crate::keys::{
    Cmk, KEY_FILE_MAX, Keyring, Recipient, cmk_from_key_file, cmk_to_key_file, recipient_from_text, recipients_from_list,
};

pub(super) fn keygen(args: &KeygenArgs) -> Result<(), Failure> {
    let cmk = Cmk::generate()?;
    write_key_file(&args.output, &cmk_to_key_file(&cmk, &utc(std::time::SystemTime::now())))?;
    println!("{}", cmk.recipient());
    eprintln!("key file: {}  fingerprint: {}", show(&args.output), cmk.recipient().fingerprint());
    Ok(())
}

pub(super) fn recipient(args: &RecipientArgs) -> Result<(), Failure> {
    let cmk = read_cmk(&args.keyfile)?;
    if args.fingerprint {
        println!("{}", cmk.recipient().fingerprint());
    } else {
        println!("{}", cmk.recipient());
    }
    Ok(())
}

/// Writes a new file that only its owner can read; leaves nothing behind when that fails.
fn write_key_file(path: &Path, content: &str) -> Result<(), Failure> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            Failure::usage(format!("{} exists, and a key file is never overwritten; name another with -o", show(path)))
        }
        _ => Failure::io(show(path), &error),
    })?;
    file.write_all(content.as_bytes()).and_then(|()| file.sync_all()).map_err(|error| {
        // What could not be written whole is no key; the error that matters is the first.
        let _ = fs::remove_file(path);
        Failure::io(show(path), &error)
    })
}

pub(super) fn read_keyring(keys: &Keys) -> Result<Keyring, Failure> {
    keys.keys.iter().map(|path| read_cmk(path)).collect()
}

fn read_cmk(path: &Path) -> Result<Cmk, Failure> {
    let content = read_small_text(path)?;
    warn_of_permissions(path);
    cmk_from_key_file(&content).map_err(|error| Failure::from(error).about(show(path)))
}

pub(super) fn read_recipients(args: &Recipients) -> Result<Vec<Recipient>, Failure> {
    let mut all = Vec::new();
    for text in &args.recipients {
        all.push(recipient_from_text(text).map_err(|error| Failure::from(error).about("-r"))?);
    }
    for path in &args.lists {
        let content = read_small_text(path)?;
        let found = recipients_from_list(&content);
        all.extend(found.map_err(|(line, error)| Failure::from(error).about(format!("{}, line {line}", show(path))))?);
    }
    Ok(all)
}

fn read_small_text(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let unreadable = |error: io::Error| Failure::io(show(path), &error);
    // Asked before it is opened: opening a FIFO waits for a writer.
    let meta = fs::metadata(path).map_err(unreadable)?;
    if !meta.is_file() {
        return Err(Failure::usage(format!("{} is {}; a key file is needed", show(path), kind_of(&meta))));
    }
    let too_large = |len: u64| Failure::usage(format!("{} is {len} bytes long; that is no key file", show(path)));
    if meta.len() > KEY_FILE_MAX as u64 {
        return Err(too_large(meta.len()));
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(KEY_FILE_MAX + 1));
    File::open(path).and_then(|file| file.take(KEY_FILE_MAX as u64 + 1).read_to_end(&mut bytes)).map_err(unreadable)?;
    if bytes.len() > KEY_FILE_MAX {
        return Err(too_large(bytes.len() as u64));
    }
    match std::str::from_utf8(&bytes) {
        Ok(text) => Ok(Zeroizing::new(text.to_owned())),
        Err(_) => Err(Failure::usage(format!("{} is a binary file, and no key file", show(path)))),
    }
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
fn warn_of_permissions(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let mode = fs::metadata(path).map(|meta| meta.permissions().mode() & 0o777);
    if let Ok(mode) = mode
        && mode & 0o077 != 0
    {
        eprintln!("warning: {} can be read by others (mode {mode:o}); run: chmod 600 {0}", show(path));
    }
}

#[cfg(not(unix))]
fn warn_of_permissions(_: &Path) {}
