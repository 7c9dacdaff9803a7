//! What stands in a key file (spec 12.3): comment lines, and one key as a string or a PEM document. Reading the
//! file itself is the caller's.

use zeroize::Zeroizing;

use super::{Cmk, KeyError, Recipient, SenderKey, VerifyingKey, age, pem, text::Kind};

/// No key file is longer; whoever reads one stops there.
pub const KEY_FILE_MAX: usize = 64 * 1024;

pub(super) const WANTED_SECRET: &str = "a secret key (SW-SECRET-CMK-1…, AGE-SECRET-KEY-1… or a PKCS#8 PEM of an X25519 key)";
pub(super) const WANTED_SENDER_SECRET: &str = "a sender's secret key (SW-SECRET-SENDER-1… or a PKCS#8 PEM of an Ed25519 key)";
const WANTED_SENDER: &str = "a sender (sws1… or an SPKI PEM of an Ed25519 key)";
const WANTED_PUBLIC: &str = "a recipient (swr1…, age1… or an SPKI PEM of an X25519 key)";

/// Reads the one CMK of a key file: a key string, an age key, or a PEM document.
///
/// # Errors
/// [`KeyError::Protected`] when it is under a passphrase; otherwise [`KeyError`], which says what the text is instead where it has marks of its own.
pub fn cmk_from_key_file(content: &str) -> Result<Cmk, KeyError> {
    let key = only_key(content)?;
    match Kind::of(key) {
        Some(Kind::Cmk) => return Cmk::from_text(key),
        Some(Kind::AgeSecret) => return Cmk::from_age(key),
        Some(Kind::Protected) => return Err(KeyError::Protected),
        _ => {}
    }
    match pem::label(key) {
        Some("PRIVATE KEY") => Cmk::from_pem(key),
        _ => Err(KeyError::WrongKind { found: describe(key), wanted: WANTED_SECRET }),
    }
}

/// Writes a key file: the recipient and the date in comments, then the key.
///
/// ```
/// let cmk = sealwire::Cmk::generate().expect("the system has entropy");
/// let file = sealwire::keys::cmk_to_key_file(&cmk, "2026-01-01T00:00:00Z");
/// assert_eq!(sealwire::keys::cmk_from_key_file(&file)?.recipient(), cmk.recipient());
/// # Ok::<(), sealwire::keys::KeyError>(())
/// ```
#[must_use]
pub fn cmk_to_key_file(cmk: &Cmk, created: &str) -> Zeroizing<String> {
    write_key_file(&format!("# created: {created}\n# recipient: {}\n", cmk.recipient()), &cmk.to_text())
}

/// Reads the one sender's key of a key file.
///
/// # Errors
/// [`KeyError::Protected`] when a key is under a passphrase; otherwise [`KeyError`], which says what the text is instead where it has marks of its own.
pub fn sender_key_from_key_file(content: &str) -> Result<SenderKey, KeyError> {
    let key = only_key(content)?;
    match Kind::of(key) {
        Some(Kind::SenderSecret) => return SenderKey::from_text(key),
        Some(Kind::Protected) => return Err(KeyError::Protected),
        _ => {}
    }
    match pem::label(key) {
        Some("PRIVATE KEY") => SenderKey::from_pem(key),
        _ => Err(KeyError::WrongKind { found: describe(key), wanted: WANTED_SENDER_SECRET }),
    }
}

/// Writes a sender's key file: the public half and the date in comments, then the key.
#[must_use]
pub fn sender_key_to_key_file(key: &SenderKey, created: &str) -> Zeroizing<String> {
    write_key_file(&format!("# created: {created}\n# sender: {}\n", key.verifying_key()), &key.to_text())
}

pub(super) fn write_key_file(head: &str, secret: &str) -> Zeroizing<String> {
    // Sized beforehand: a string that grows leaves copies of a secret behind.
    let mut file = Zeroizing::new(String::with_capacity(head.len() + secret.len() + 1));
    file.push_str(head);
    file.push_str(secret);
    file.push('\n');
    file
}

/// Reads a sender from a string or a PEM document.
///
/// # Errors
/// [`KeyError`].
pub fn sender_from_text(content: &str) -> Result<VerifyingKey, KeyError> {
    let key = only_key(content)?;
    if Kind::of(key) == Some(Kind::Sender) {
        return key.parse();
    }
    match pem::label(key) {
        Some("PUBLIC KEY") => VerifyingKey::from_pem(key),
        _ => Err(KeyError::WrongKind { found: describe(key), wanted: WANTED_SENDER }),
    }
}

/// What a list holds; or what is wrong with it, and in which line, from 1.
pub type Listed<T> = Result<Vec<T>, (usize, KeyError)>;

/// Reads a list of senders: a string a line, blank lines and `#` comments between; or one PEM document.
///
/// # Errors
/// [`KeyError`]; the number of the line, from 1, is beside it.
pub fn senders_from_list(content: &str) -> Listed<VerifyingKey> {
    list(content, sender_from_text)
}

/// Whether a text begins as a key string does, whatever follows.
#[must_use]
pub fn is_key_string(text: &str) -> bool {
    Kind::of(text.trim()).is_some()
}

/// Reads a recipient from a string, one of age's X25519 recipients, or a PEM document.
///
/// # Errors
/// [`KeyError`].
pub fn recipient_from_text(content: &str) -> Result<Recipient, KeyError> {
    let key = only_key(content)?;
    match Kind::of(key) {
        Some(Kind::Recipient) => return key.parse(),
        Some(Kind::Age) => return Recipient::from_age(key),
        _ => {}
    }
    match pem::label(key) {
        Some("PUBLIC KEY") => Recipient::from_pem(key),
        _ => Err(KeyError::WrongKind { found: describe(key), wanted: WANTED_PUBLIC }),
    }
}

/// Reads a list of recipients: a string a line, blank lines and `#` comments between; or one PEM document.
///
/// # Errors
/// [`KeyError`]; the number of the line, from 1, is beside it.
pub fn recipients_from_list(content: &str) -> Listed<Recipient> {
    list(content, recipient_from_text)
}

fn list<T>(content: &str, read: impl Fn(&str) -> Result<T, KeyError>) -> Listed<T> {
    if pem::label(content).is_some() {
        return Ok(vec![read(content).map_err(|e| (1, e))?]);
    }
    let lines = content.lines().enumerate().map(|(i, line)| (i + 1, line.trim()));
    let found: Vec<_> =
        lines.filter(|(_, line)| is_content(line)).map(|(i, line)| read(line).map_err(|e| (i, e))).collect::<Result<_, _>>()?;
    if found.is_empty() { Err((1, KeyError::Empty)) } else { Ok(found) }
}

fn is_content(line: &str) -> bool {
    !line.is_empty() && !line.starts_with('#')
}

/// The part of a key file that is the key: one line, or one PEM document.
pub(super) fn only_key(content: &str) -> Result<&str, KeyError> {
    let mut rest = content;
    while let Some((line, after)) = rest.split_once('\n').filter(|(line, _)| !is_content(line.trim())) {
        let _ = line;
        rest = after;
    }
    let rest = rest.trim();
    if !is_content(rest) {
        return Err(KeyError::Empty);
    }
    let is_pem = pem::label(rest).is_some();
    let end = if is_pem { rest.find("-----END ").and_then(|i| line_end(rest, i)) } else { line_end(rest, 0) };
    let (key, after) = rest.split_at(end.unwrap_or(rest.len()));
    // [TXT-7]
    if after.lines().any(|line| is_content(line.trim())) {
        return Err(KeyError::Several);
    }
    Ok(key.trim())
}

/// Whether a secret key that is under no passphrase stands in a key file beside its key: in a comment.
///
/// # Errors
/// [`KeyError`], when there is no one key in it.
#[cfg(feature = "cli")]
pub(crate) fn has_key_beside(content: &str) -> Result<bool, KeyError> {
    let key = only_key(content)?;
    let at = key.as_ptr().addr() - content.as_ptr().addr();
    let parts = [content.get(..at), content.get(at + key.len()..)];
    let marks = ["sw-secret-", "age-secret-key-", "PRIVATE KEY-----"].map(str::as_bytes);
    let stands = |mark: &[u8], part: &str| part.as_bytes().windows(mark.len()).any(|bytes| bytes.eq_ignore_ascii_case(mark));
    Ok(parts.into_iter().flatten().any(|part| marks.iter().any(|mark| stands(mark, part))))
}

/// The same key file with another key in the place of its key.
#[cfg(feature = "passphrase")]
pub(super) fn replace_key(content: &str, key: &str) -> Result<Zeroizing<String>, KeyError> {
    let old = only_key(content)?;
    // A slice of the content, found by where it stands: what is around it may hold the same characters.
    let at = old.as_ptr().addr() - content.as_ptr().addr();
    let (before, after) = (content.get(..at), content.get(at + old.len()..));
    let (Some(before), Some(after)) = (before, after) else { return Err(KeyError::Empty) };
    let mut file = Zeroizing::new(String::with_capacity(before.len() + key.len() + after.len()));
    [before, key, after].into_iter().for_each(|part| file.push_str(part));
    Ok(file)
}

fn line_end(s: &str, from: usize) -> Option<usize> {
    s.get(from..)?.find('\n').map(|i| i + from)
}

/// What a text is that is not the key that was wanted.
fn describe(key: &str) -> &'static str {
    if let Some(kind) = Kind::of(key) {
        return kind.describe();
    }
    if key.starts_with("ssh-") || key.starts_with("ecdsa-sha2-") {
        return "an SSH public key";
    }
    if key.starts_with("AGE-SECRET-KEY-") || key.starts_with("AGE-PLUGIN-") {
        return age::OTHER_SECRET;
    }
    match pem::label(key) {
        Some("OPENSSH PRIVATE KEY") => "an SSH private key",
        Some("PUBLIC KEY") => "a public key in PEM",
        Some("PRIVATE KEY") => "a private key in PEM",
        Some("ENCRYPTED PRIVATE KEY") => "an encrypted private key in PEM",
        Some("CERTIFICATE") => "a certificate",
        Some(_) => "a PEM document of another kind",
        None if key.starts_with("SWE") => "a sealed envelope",
        None => "no key that is known here",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(content: &str) -> &'static str {
        match cmk_from_key_file(content).unwrap_err() {
            KeyError::WrongKind { found, .. } => found,
            KeyError::Empty => "empty",
            KeyError::Several => "several",
            other => panic!("{other:?}"),
        }
    }

    /// Proves TXT-7.
    #[test]
    fn wrong_files_are_named() {
        let cmk = Cmk::from_x25519(&[5; 32]);
        let file = cmk_to_key_file(&cmk, "now");
        assert!(cmk_from_key_file(&file).is_ok());
        assert!(cmk_from_key_file(&file.replace('\n', "\r\n")).is_ok());
        assert!(cmk_from_key_file(&format!("# c\n\n{}\n# after", cmk.to_pem().unwrap().as_str())).is_ok());
        assert_eq!(found(""), "empty");
        assert_eq!(found("# only\n\n#comments"), "empty");
        assert_eq!(found(&format!("{}{}", file.as_str(), file.as_str())), "several");
        assert_eq!(found(&format!("{}{}", cmk.to_pem().unwrap().as_str(), file.as_str())), "several");
        assert_eq!(found(&cmk.recipient().to_string()), "a recipient, the public half of a key");
        assert_eq!(found(&cmk.recipient().to_pem().unwrap()), "a public key in PEM");
        assert_eq!(found("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n"), "an SSH private key");
        assert_eq!(found("ssh-ed25519 AAAA me@host"), "an SSH public key");
        assert_eq!(found("hello"), "no key that is known here");
    }

    #[test]
    fn lists_of_recipients() {
        let one = Cmk::from_x25519(&[5; 32]).recipient().clone();
        let two = Cmk::from_x25519(&[6; 32]).recipient().clone();
        let list = format!("# team\n{one}\n\n  {two}\n");
        assert_eq!(recipients_from_list(&list).unwrap(), [one.clone(), two]);
        assert_eq!(recipients_from_list(&one.to_pem().unwrap()).unwrap(), [one]);
        assert_eq!(recipients_from_list("# none\n").unwrap_err(), (1, KeyError::Empty));
        assert_eq!(recipients_from_list("\n# x\nbad").unwrap_err().0, 3);
    }
}
