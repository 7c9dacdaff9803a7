//! Who a key service is, and the first words of a connection to it (spec/kms.md 1 to 3): keys <-> text, greeting -> binding, hello and
//! welcome <-> bytes. No I/O.
#![deny(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::indexing_slicing))]

use std::{fmt, str::FromStr};

use bytes::{BufMut, Bytes, BytesMut};
use zeroize::Zeroizing;

use crate::{
    crypto::backend,
    keys::{
        Cmk, KEY_FILE_MAX, KeyError, Keyring, Recipient, SenderKey, VerifyingKey, cmk_from_key_file, recipient_from_text,
        sender_from_text, sender_key_from_key_file,
    },
    open::{CachePolicy, Opened, Opener, Policy, Standing},
    platform::EntropyError,
    wire::{Kem, Limits, Reader, Suite, len64},
};

/// The version of this protocol.
pub const PROTOCOL_VERSION: u8 = 1;
/// Bytes of a request at the most.
pub const REQUEST_MAX: usize = 160 * 1024;
/// Bytes of an answer at the most.
pub const ANSWER_MAX: usize = 1024 * 1024;
/// Bytes of the greeting that a server sends in the clear.
pub(super) const GREETING_LEN: usize = 32;
/// Bytes of hello at the most: version, KEM and an X-Wing key, and room for what later versions say.
pub(super) const HELLO_MAX: u64 = 2048;
/// Bytes of a DEK block at the most: one slot for X-Wing, and a proof.
const BLOCK_MAX: u64 = 2048;
/// Bytes of plaintext that a batch has room for, whatever a single message may have.
const BATCH_ROOM: usize = 64 * 1024;

/// Who a key service is, with its secrets: the CMK that requests are sealed to, and the sender's key that answers are signed with.
///
/// ```
/// use sealwire::kms::Identity;
/// let identity = Identity::generate()?;
/// let again = Identity::from_text(&identity.to_text("2026-01-01T00:00:00Z"))?;
/// assert_eq!(again.public(), identity.public());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Identity {
    pub(super) cmk: Cmk,
    pub(super) sender: SenderKey,
}

/// The public half of an [`Identity`]: what clients are given. Its text is two lines, a recipient and a sender.
///
/// ```
/// use sealwire::kms::{Identity, PublicIdentity};
/// let public = Identity::generate()?.public();
/// assert_eq!(format!("# our key service\n{public}").parse::<PublicIdentity>()?, public);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicIdentity {
    /// What requests are sealed to.
    pub recipient: Recipient,
    /// Whose answers are believed.
    pub sender: VerifyingKey,
}

/// A text that is no identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// One of the two keys is not there.
    #[error("there is no {0} in it; an identity is two lines, one for each of its keys")]
    Missing(&'static str),
    /// A key is there twice.
    #[error("line {0}: there is more than one of these keys; an identity has one of each")]
    Several(usize),
    /// A key under a passphrase.
    #[error(
        "line {0}: the key is under a passphrase, and an identity is read without one; make another (kms identity), and keep it encrypted with \
         LoadCredentialEncrypted= of systemd or the like"
    )]
    Protected(usize),
    /// A line that is no key.
    #[error("line {0}: {1}")]
    Line(usize, #[source] KeyError),
    /// Longer than any identity.
    #[error("the text is longer than 64 KiB, and no identity is")]
    TooLong,
}

impl Identity {
    /// An identity of keys that are there.
    #[must_use]
    pub fn new(cmk: Cmk, sender: SenderKey) -> Self {
        Self { cmk, sender }
    }

    /// A new identity from the operating system's generator; connections are sealed with X25519.
    ///
    /// # Errors
    /// [`EntropyError`] when the system has none.
    pub fn generate() -> Result<Self, EntropyError> {
        Ok(Self::new(Cmk::generate()?, SenderKey::generate()?))
    }

    /// A new identity whose connections are sealed with X-Wing, both ways.
    ///
    /// # Errors
    /// [`EntropyError`] when the system has none.
    #[cfg(feature = "pq")]
    pub fn generate_pq() -> Result<Self, EntropyError> {
        Ok(Self::new(Cmk::generate_pq()?, SenderKey::generate()?))
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> PublicIdentity {
        PublicIdentity { recipient: self.cmk.recipient().clone(), sender: *self.sender.verifying_key() }
    }

    /// Reads the text form: a CMK's and a sender's secret string, a line each, among blank lines and `#` comments.
    ///
    /// # Errors
    /// [`IdentityError`], which names the line.
    pub fn from_text(text: &str) -> Result<Self, IdentityError> {
        let mut found = (None, None);
        for (number, line) in lines(text)? {
            if begins_with(line, "SW-SECRET-SENDER-1") {
                put(&mut found.1, number, sender_key_from_key_file(line))?;
            } else {
                put(&mut found.0, number, cmk_from_key_file(line))?;
            }
        }
        let cmk = found.0.ok_or(IdentityError::Missing("CMK (SW-SECRET-CMK-1…)"))?;
        Ok(Self { cmk, sender: found.1.ok_or(IdentityError::Missing("sender's secret key (SW-SECRET-SENDER-1…)"))? })
    }

    /// The text form, with the date and the public half in comments. Handle it as what it is.
    #[must_use]
    pub fn to_text(&self, created: &str) -> Zeroizing<String> {
        let PublicIdentity { recipient, sender } = self.public();
        let head = format!("# created: {created}\n# recipient: {recipient}\n# sender: {sender}\n");
        let (cmk, secret) = (self.cmk.to_text(), self.sender.to_text());
        // Sized beforehand: a string that grows leaves copies of a secret behind.
        let mut text = Zeroizing::new(String::with_capacity(head.len() + cmk.len() + secret.len() + 2));
        [head.as_str(), &cmk, "\n", &secret, "\n"].into_iter().for_each(|part| text.push_str(part));
        text
    }
}

/// Shows the public half alone.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("public", &self.public()).finish_non_exhaustive()
    }
}

impl PublicIdentity {
    /// What both sides bind: the greeting of this connection, and who the client means to talk to. [KMS-2]
    pub(super) fn binding(&self, greeting: &[u8; GREETING_LEN]) -> [u8; 2 * GREETING_LEN] {
        let kem = self.recipient.kem().id().to_be_bytes();
        let service = backend::sha256(&[b"sealwire v1 kms", &kem, self.recipient.public_key(), self.sender.as_bytes()]);
        let mut binding = [0; 2 * GREETING_LEN];
        let (first, second) = binding.split_at_mut(GREETING_LEN);
        first.copy_from_slice(greeting);
        second.copy_from_slice(&service);
        binding
    }
}

impl fmt::Display for PublicIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}", self.recipient, self.sender)
    }
}

impl FromStr for PublicIdentity {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let mut found = (None, None);
        for (number, line) in lines(text)? {
            if begins_with(line, "sws1") {
                put(&mut found.1, number, sender_from_text(line))?;
            } else {
                put(&mut found.0, number, recipient_from_text(line))?;
            }
        }
        let recipient = found.0.ok_or(IdentityError::Missing("recipient (swr1…)"))?;
        Ok(Self { recipient, sender: found.1.ok_or(IdentityError::Missing("sender (sws1…)"))? })
    }
}

/// Lines with something in them, by number.
fn lines(text: &str) -> Result<impl Iterator<Item = (usize, &str)>, IdentityError> {
    if text.len() > KEY_FILE_MAX {
        return Err(IdentityError::TooLong);
    }
    let lines = text.lines().enumerate().map(|(i, line)| (i + 1, line.trim()));
    Ok(lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')))
}

fn begins_with(line: &str, mark: &str) -> bool {
    line.get(..mark.len()).is_some_and(|front| front.eq_ignore_ascii_case(mark))
}

fn put<T>(place: &mut Option<T>, line: usize, read: Result<T, KeyError>) -> Result<(), IdentityError> {
    let key = read.map_err(|error| match error {
        KeyError::Protected => IdentityError::Protected(line),
        error => IdentityError::Line(line, error),
    })?;
    if place.replace(key).is_some() {
        return Err(IdentityError::Several(line));
    }
    Ok(())
}

/// A first message that is no part of the protocol. Its sender is authentic, and wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum WordError {
    #[error("the first message is malformed: {0}")]
    Malformed(&'static str),
    #[error("the recipient for answers is refused: {0}")]
    Recipient(#[from] KeyError),
}

/// What a client begins with: its version, and the recipient that answers are sealed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) version: u8,
    pub(super) reply_to: Recipient,
}

impl Hello {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(self.version);
        out.put_u16(self.reply_to.kem().id());
        out.put_slice(self.reply_to.public_key());
        out.freeze()
    }

    /// Reads hello, whose recipient is for the KEM of the server's. [KMS-5]
    pub(super) fn decode(payload: &[u8], kem: Kem) -> Result<Self, WordError> {
        let short = |_| WordError::Malformed("it is too short");
        let mut reader = Reader::new(payload, 0);
        let version = reader.u8("version").map_err(short)?;
        if reader.u16("kem").map_err(short)? != kem.id() {
            return Err(WordError::Malformed("its recipient is for another KEM than the server's"));
        }
        let (key, rest) = reader.rest().split_at_checked(kem.public_len()).ok_or(WordError::Malformed("it is too short"))?;
        // What later versions say behind it is theirs.
        if version == PROTOCOL_VERSION && !rest.is_empty() {
            return Err(WordError::Malformed("there is something behind the recipient"));
        }
        Ok(Self { version, reply_to: recipient(kem, key)? })
    }
}

fn recipient(kem: Kem, key: &[u8]) -> Result<Recipient, WordError> {
    let length = |_| WordError::Malformed("its recipient has the wrong length");
    match kem {
        Kem::X25519 => Ok(Recipient::from_x25519(key.try_into().map_err(length)?)?),
        #[cfg(feature = "pq")]
        Kem::XWing => Ok(Recipient::from_xwing(key.try_into().map_err(length)?)?),
        #[cfg(not(feature = "pq"))]
        Kem::XWing => Err(KeyError::WithoutPq.into()),
    }
}

/// What a server says of a connection that began well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Ready,
    /// It does not speak the client's version.
    Version,
    /// It has too many connections, or too many of this caller's.
    Overloaded,
    /// It is being stopped.
    Stopping,
}

impl Status {
    const ALL: [Self; 4] = [Self::Ready, Self::Version, Self::Overloaded, Self::Stopping];

    fn number(self) -> u8 {
        match self {
            Self::Ready => 0,
            Self::Version => 1,
            Self::Overloaded => 2,
            Self::Stopping => 3,
        }
    }
}

/// The server's first message: its version, and whether it serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Welcome {
    pub(super) version: u8,
    pub(super) status: Status,
}

impl Welcome {
    pub(super) fn encode(self) -> Bytes {
        Bytes::copy_from_slice(&[self.version, self.status.number()])
    }

    pub(super) fn decode(payload: &[u8]) -> Result<Self, WordError> {
        let Some(([version, number], rest)) = payload.split_first_chunk() else {
            return Err(WordError::Malformed("it is too short"));
        };
        let status = Status::ALL.into_iter().find(|status| status.number() == *number);
        let status = status.ok_or(WordError::Malformed("it has an unknown status"))?;
        if *version == PROTOCOL_VERSION && !rest.is_empty() {
            return Err(WordError::Malformed("there is something behind the status"));
        }
        Ok(Self { version: *version, status })
    }
}

/// Opens what one side sends: to one recipient, of that KEM, with messages of at most so many bytes.
pub(super) fn opener(keyring: Keyring, kem: Kem, message: usize) -> Opener {
    // Every connection has a DEK of its own, so none is worth keeping. [KMS-8]
    let policy = Policy { limits: limits(message), require_pq: kem == Kem::XWing, ..Policy::default() };
    Opener::builder(keyring).policy(policy).cache(CachePolicy { deks: 0, ..CachePolicy::default() }).build()
}

/// What a connection's two ends accept of each other.
pub(super) fn limits(message: usize) -> Limits {
    let message = len64(message.max(BATCH_ROOM));
    Limits { block: BLOCK_MAX, recipients: 1, externals: 0, context: 0, message, trials: 2, ..Limits::default() }
}

pub(super) fn suite(kem: Kem) -> Suite {
    Suite::fastest().with_kem(kem)
}

/// Whose message it is, where its standing is exactly verified: made for this reader alone, for this connection. [KMS-3]
pub(super) fn verified(opened: &Opened) -> Option<VerifyingKey> {
    (opened.sender.standing() == Standing::Verified).then(|| opened.sender.key().copied()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity::new(Cmk::from_x25519(&[1; 32]), SenderKey::from_ed25519(&[2; 32]))
    }

    #[test]
    fn identities_have_texts() {
        let text = identity().to_text("now");
        assert_eq!(Identity::from_text(&text).unwrap().public(), identity().public());
        assert_eq!(Identity::from_text(&text.replace('\n', "\r\n\n")).unwrap().public(), identity().public());
        let public = identity().public();
        assert_eq!(public.to_string().parse(), Ok(public.clone()));
        assert_eq!(format!("# a\n\n{}\n  {}", public.sender, public.recipient).parse(), Ok(public.clone()));
        let read = |text: &str| text.parse::<PublicIdentity>().unwrap_err();
        assert_eq!(read(""), IdentityError::Missing("recipient (swr1…)"));
        assert_eq!(read(&public.recipient.to_string()), IdentityError::Missing("sender (sws1…)"));
        assert_eq!(read(&format!("{public}{public}")), IdentityError::Several(3));
        assert_eq!(read(&format!("{public}\n{}", public.sender)), IdentityError::Several(4));
        assert!(matches!(read("\nhello"), IdentityError::Line(2, KeyError::WrongKind { .. })));
        assert_eq!(read(&"#".repeat(KEY_FILE_MAX + 1)), IdentityError::TooLong);
        // A secret in the place of a public half is told, and not shown.
        let told = read(&text).to_string();
        assert!(told.contains("secret") && !told.contains(&*identity().cmk.to_text()), "{told}");
        assert!(!format!("{:?}", identity()).contains("SECRET"));
    }

    /// Proves KMS-2: each of greeting, KEM, recipient and sender makes another binding; and its bytes are those of the spec, by hand.
    #[test]
    fn the_binding_names_the_service() {
        let public = identity().public();
        let binding = public.binding(&[7; 32]);
        let by_hand: Vec<u8> =
            [&b"sealwire v1 kms"[..], &[0x00, 0x20], public.recipient.as_x25519().unwrap(), public.sender.as_bytes()].concat();
        assert_eq!(binding[..32], [7; 32]);
        assert_eq!(binding[32..], backend::sha256(&[&by_hand]));
        let other = Identity::new(Cmk::from_x25519(&[3; 32]), SenderKey::from_ed25519(&[2; 32])).public();
        let third = Identity::new(Cmk::from_x25519(&[1; 32]), SenderKey::from_ed25519(&[3; 32])).public();
        assert_ne!(binding, other.binding(&[7; 32]));
        assert_ne!(binding, third.binding(&[7; 32]));
        assert_ne!(binding, public.binding(&[8; 32]));
    }

    /// Proves KMS-5: hello in one encoding, with a recipient of the right KEM.
    #[test]
    fn first_words_are_strict() {
        let hello = Hello { version: 1, reply_to: identity().public().recipient };
        let bytes = hello.encode();
        assert_eq!(Hello::decode(&bytes, Kem::X25519), Ok(hello.clone()));
        assert!(Hello::decode(&bytes, Kem::XWing).is_err());
        (0..bytes.len()).for_each(|cut| assert!(Hello::decode(&bytes[..cut], Kem::X25519).is_err(), "{cut}"));
        let longer = [&bytes[..], &[0]].concat();
        assert!(Hello::decode(&longer, Kem::X25519).is_err());
        let later = [&[2], &longer[1..]].concat();
        assert_eq!(Hello::decode(&later, Kem::X25519), Ok(Hello { version: 2, ..hello }));
        let weak = [&bytes[..3], &[0; 32]].concat();
        assert!(matches!(Hello::decode(&weak, Kem::X25519), Err(WordError::Recipient(_))));
        for status in Status::ALL {
            let welcome = Welcome { version: 1, status };
            assert_eq!(Welcome::decode(&welcome.encode()), Ok(welcome));
        }
        assert!(Welcome::decode(&[1]).is_err());
        assert!(Welcome::decode(&[1, 4]).is_err());
        assert!(Welcome::decode(&[1, 0, 0]).is_err());
        assert_eq!(Welcome::decode(&[2, 1, 9]), Ok(Welcome { version: 2, status: Status::Version }));
    }
}
