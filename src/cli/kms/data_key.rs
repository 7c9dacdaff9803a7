//! Data keys, in and out of the program: a plaintext DEK goes through pipes and inherited descriptors, and is never in a file.

use std::{
    fs::{File, Metadata},
    io::{self, IsTerminal, Read, Write},
    path::Path,
};

use base64ct::{Base64, Encoding};
use serde_json::{Value, json};
use zeroize::{Zeroize, Zeroizing};

use super::args::PlaintextTo;
use crate::{
    cli::{Failure, fail::show, io::is_dash},
    keys::{Dek, Recipient},
    kms::{DataKeyPair, KeyUsed, Unwrapped},
    wire::len64,
};

pub(crate) const HELP: &str = "The plaintext DEK goes to a pipe or an inherited descriptor alone, as lines or as --json:
  sealwire seal --dek <(sealwire kms generate-data-key --store keys orders) -o report.swe report.pdf
  sealwire open --dek <(sealwire kms decrypt-data-key --store keys report.swe) -o report.pdf report.swe
  sealwire kms generate-data-key --store keys --without-plaintext orders --ciphertext report.dek";

const MISSING: &str = "it is not what generate-data-key or decrypt-data-key prints; did that fail?";
/// Bytes of the longest text of a data key that is read.
const TEXT_MAX: u64 = 256 * 1024;

/// A data key as it is printed.
pub(super) struct Printed<'a> {
    pub(super) key: &'a KeyUsed,
    pub(super) recipient: Option<&'a Recipient>,
    pub(super) plaintext: Option<&'a Dek>,
    pub(super) ciphertext: Option<&'a [u8]>,
}

impl<'a> From<&'a DataKeyPair> for Printed<'a> {
    fn from(pair: &'a DataKeyPair) -> Self {
        let DataKeyPair { plaintext, ciphertext, key, recipient } = pair;
        Self { key, recipient: recipient.as_ref(), plaintext: plaintext.as_ref(), ciphertext: Some(ciphertext) }
    }
}

impl<'a> From<&'a Unwrapped> for Printed<'a> {
    fn from(unwrapped: &'a Unwrapped) -> Self {
        let Unwrapped { dek, key, recipient } = unwrapped;
        Self { key, recipient: recipient.as_ref(), plaintext: Some(dek), ciphertext: None }
    }
}

impl Printed<'_> {
    /// The text of it. Holds the DEK, where there is one.
    pub(super) fn text(&self, as_json: bool) -> Zeroizing<String> {
        let dek = self.plaintext.map(|dek| Zeroizing::new(Base64::encode_string(dek.secret.bytes())));
        let ciphertext = self.ciphertext.map(Base64::encode_string);
        let mut out = Zeroizing::new(String::with_capacity(1024 + ciphertext.as_ref().map_or(0, String::len) + RECIPIENT_ROOM));
        if as_json {
            let mut value = json!({ "key": self.key.id, "version": self.key.version });
            if let Some(recipient) = self.recipient {
                value["recipient"] = recipient.to_string().into();
            }
            if let Some(dek) = &dek {
                value["plaintext"] = dek.as_str().into();
            }
            if let Some(ciphertext) = ciphertext {
                value["ciphertext"] = ciphertext.into();
            }
            let text = Zeroizing::new(value.to_string());
            wipe(value);
            out.push_str(&text);
            out.push('\n');
            return out;
        }
        let mut line = |name: &str, value: &str| {
            out.push_str(name);
            out.push_str(value);
            out.push('\n');
        };
        line("key:        ", &self.key.id);
        line("version:    ", &self.key.version.to_string());
        if let Some(recipient) = self.recipient {
            line("recipient:  ", &recipient.to_string());
        }
        if let Some(dek) = &dek {
            line("plaintext:  ", dek);
        }
        if let Some(ciphertext) = &ciphertext {
            line("ciphertext: ", ciphertext);
        }
        out
    }
}

/// Characters of the longest recipient.
const RECIPIENT_ROOM: usize = 2048;

fn wipe(value: Value) {
    if let Value::Object(map) = value {
        for (_, value) in map {
            if let Value::String(mut text) = value {
                text.zeroize();
            }
        }
    }
}

/// Where a plaintext DEK may go: looked at before anything is asked of a service.
pub(super) struct Door(File);

impl Door {
    pub(super) fn open(to: &PlaintextTo) -> Result<Self, Failure> {
        let file = match to.plaintext_fd {
            Some(number) => inherited(number)?,
            None => standard_output()?,
        };
        let meta = file.metadata().map_err(|error| Failure::io("standard output", &error))?;
        if keeps(&meta) {
            return Err(Failure::usage(
                "a plaintext DEK is never written to a file: keep the ciphertext DEK (--without-plaintext), or use a pipe",
            ));
        }
        if file.is_terminal() && !to.force {
            return Err(Failure::usage("a plaintext DEK is not shown on a terminal; use a pipe, or insist with --force"));
        }
        Ok(Self(file))
    }

    pub(super) fn say(mut self, text: &str) -> Result<(), Failure> {
        self.0.write_all(text.as_bytes()).and_then(|()| self.0.flush()).map_err(|error| Failure::io("the plaintext DEK", &error))
    }
}

/// Whether what is written there stays: in a file, or on a disk.
fn keeps(meta: &Metadata) -> bool {
    #[cfg(unix)]
    let is_disk = std::os::unix::fs::FileTypeExt::is_block_device(&meta.file_type());
    #[cfg(not(unix))]
    let is_disk = false;
    meta.is_file() || is_disk
}

#[cfg(unix)]
fn standard_output() -> Result<File, Failure> {
    use std::os::fd::AsFd;
    let fd = io::stdout().as_fd().try_clone_to_owned();
    fd.map(File::from).map_err(|error| Failure::io("standard output", &error))
}

#[cfg(not(unix))]
fn standard_output() -> Result<File, Failure> {
    Err(Failure::usage("plaintext DEKs are printed on Unix alone"))
}

/// Not by its name: sockets have none, and the pipe of another user is not opened again.
#[cfg(unix)]
fn standard_input() -> io::Result<File> {
    use std::os::fd::AsFd;
    io::stdin().as_fd().try_clone_to_owned().map(File::from)
}

#[cfg(not(unix))]
fn standard_input() -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}

/// What the process was given under this number.
fn inherited(number: u16) -> Result<File, Failure> {
    #[cfg(target_os = "linux")]
    if !is_inherited(number) {
        return Err(Failure::usage(format!("--plaintext-fd {number}: no such descriptor was inherited")));
    }
    let opened = std::fs::OpenOptions::new().write(true).open(format!("/dev/fd/{number}"));
    #[cfg(target_os = "linux")]
    let opened = opened.or_else(|error| inherited_socket(number).map_err(|_| error));
    opened.map_err(|error| Failure::io(format!("--plaintext-fd {number}"), &error))
}

/// Whether a descriptor is one that would be passed on, as what we were given is, and what we have opened ourselves is not.
#[cfg(target_os = "linux")]
fn is_inherited(number: u16) -> bool {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap_or_default();
    let flags = info.lines().find_map(|line| u32::from_str_radix(line.strip_prefix("flags:")?.trim(), 8).ok());
    flags.is_some_and(|flags| flags & rustix::fs::OFlags::CLOEXEC.bits() == 0)
}

/// A socket has no name that can be opened on Linux; a process may ask for a second descriptor of what it has all the same.
#[cfg(target_os = "linux")]
fn inherited_socket(number: u16) -> rustix::io::Result<File> {
    use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
    let own = pidfd_open(getpid(), PidfdFlags::empty())?;
    pidfd_getfd(own, number.into(), PidfdGetfdFlags::empty()).map(File::from)
}

/// What `seal --dek` reads: the pair that `generate-data-key` or `decrypt-data-key` has printed.
pub(crate) struct Pair {
    pub(crate) dek: Dek,
    pub(crate) recipient: Recipient,
}

impl Pair {
    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        read_printed(path, Self::of)
    }

    fn of([plaintext, recipient]: Parts) -> Result<Self, &'static str> {
        let recipient = recipient.ok_or(MISSING)?.parse().map_err(|_| "its recipient is none")?;
        Ok(Self { dek: dek(plaintext)?, recipient })
    }
}

/// What `open --dek` reads: the same, of which the DEK is enough.
pub(crate) fn read_dek(path: &Path) -> Result<Dek, Failure> {
    read_printed(path, |[plaintext, _]| dek(plaintext))
}

fn dek(plaintext: Option<Zeroizing<String>>) -> Result<Dek, &'static str> {
    let mut bytes = Zeroizing::new([0; 33]);
    let decoded = Base64::decode(plaintext.ok_or(MISSING)?.as_bytes(), &mut bytes[..]).map_err(|_| "its plaintext is no DEK")?;
    Dek::from_kms(decoded).map_err(|_| "its plaintext is no DEK of 32 bytes")
}

/// Reads what was printed from a pipe, or a descriptor. A file is refused: plaintext DEKs are not kept in files.
fn read_printed<T>(path: &Path, parse: impl FnOnce(Parts) -> Result<T, &'static str>) -> Result<T, Failure> {
    let failed = |error: io::Error| Failure::io(format!("--dek: {}", show(path)), &error);
    let file = if is_dash(path) { standard_input() } else { File::open(path) }.map_err(failed)?;
    if file.metadata().is_ok_and(|meta| keeps(&meta)) {
        return Err(Failure::usage(format!(
            "--dek: {} is a file, and a plaintext DEK is not kept in one; delete it, and use a pipe, such as <(sealwire kms generate-data-key …)",
            show(path)
        )));
    }
    if file.is_terminal() {
        return Err(Failure::usage(format!(
            "--dek: {} is a terminal, which shows what is typed; use a pipe, such as <(sealwire kms generate-data-key …)",
            show(path)
        )));
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(16 * 1024));
    file.take(TEXT_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    let text = if len64(bytes.len()) > TEXT_MAX { Err(MISSING) } else { std::str::from_utf8(&bytes).map_err(|_| MISSING) };
    text.and_then(parts).and_then(parse).map_err(|why| Failure::usage(format!("--dek: {}: {why}", show(path))))
}

/// The plaintext and the recipient, where they are there.
fn parts(text: &str) -> Result<Parts, &'static str> {
    if text.trim_start().starts_with('{') { of_json(text) } else { of_lines(text) }
}

type Parts = [Option<Zeroizing<String>>; 2];

fn of_json(text: &str) -> Result<Parts, &'static str> {
    let value: Value = serde_json::from_str(text).map_err(|_| "it is no JSON")?;
    let parts = ["plaintext", "recipient"].map(|name| value[name].as_str().map(|text| Zeroizing::new(text.to_owned())));
    wipe(value);
    Ok(parts)
}

/// Of two data keys none is taken: the plaintext of one would go to the CMK of the other.
fn of_lines(text: &str) -> Result<Parts, &'static str> {
    let mut parts = Parts::default();
    for line in text.lines() {
        for (name, part) in ["plaintext:", "recipient:"].into_iter().zip(&mut parts) {
            let Some(value) = line.strip_prefix(name) else { continue };
            if part.replace(Zeroizing::new(value.trim().to_owned())).is_some() {
                return Err("it is more than one data key");
            }
        }
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Cmk;

    #[test]
    fn what_is_printed_is_read() {
        let cmk = Cmk::generate().unwrap();
        let pair = DataKeyPair {
            plaintext: Some(Dek::import(&[7; 32])),
            ciphertext: vec![1, 2, 3],
            key: KeyUsed { id: "cmk-1".into(), version: 3 },
            recipient: Some(cmk.recipient().clone()),
        };
        for as_json in [true, false] {
            let text = Printed::from(&pair).text(as_json);
            let read = parts(&text).and_then(Pair::of).unwrap();
            assert_eq!(read.dek.secret.bytes(), &[7; 32]);
            assert_eq!(&read.recipient, cmk.recipient());
            // The 32 bytes in Base64, by `base64`.
            assert!(text.contains("BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc="));
            assert!(text.contains("AQID"));
        }
        for bad in ["", "{", "{}", "plaintext: x\nrecipient: y", "plaintext: AQID\n"] {
            assert!(parts(bad).and_then(Pair::of).is_err(), "{bad}");
            assert!(parts(bad).and_then(|[plaintext, _]| dek(plaintext)).is_err(), "{bad}");
        }
    }
}
