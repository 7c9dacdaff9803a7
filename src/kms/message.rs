//! What a key service is asked and what it answers (spec/kms.md 5): payloads of channel messages <-> structs. No keys, no I/O.

use bytes::BufMut;
use zeroize::Zeroizing;

use super::{
    KmsError,
    key::{Alias, KeyId, KeyInfo, KeyRef, KeyState, PublicKey},
    service::{DataKeyPair, KeyUsed, Unwrapped, WrappedDek},
};
use crate::{
    keys::{Cmk, Dek, Recipient},
    wire::{HintMode, Kem, LimitExceeded, ParseError, Reader, Suite, len64},
};

/// Bytes of the longest secret that is encrypted directly under a CMK.
pub const SECRET_MAX: usize = 4096;
/// Bytes of the longest context of such a secret.
pub const CONTEXT_MAX: usize = 1024;
/// Bytes of the longest DEK block, ciphertext or external that a request carries.
pub const CIPHERTEXT_MAX: usize = 128 * 1024;
/// CMKs that one answer lists.
pub const LIST_MAX: usize = 256;
/// Bytes of what an error says for people.
const WHY_MAX: usize = 512;

/// What a caller asks.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are the arguments of the verbs, which `KeyService` documents")]
pub enum Request {
    /// [`create_key`](super::KeyService::create_key)
    CreateKey { kem: Kem, alias: Option<Alias> },
    /// [`list_keys`](super::KeyService::list_keys)
    ListKeys { after: Option<KeyId> },
    /// [`describe_key`](super::KeyService::describe_key)
    DescribeKey(KeyRef),
    /// [`enable_key`](super::KeyService::enable_key)
    EnableKey(KeyRef),
    /// [`disable_key`](super::KeyService::disable_key)
    DisableKey(KeyRef),
    /// [`schedule_key_deletion`](super::KeyService::schedule_key_deletion)
    ScheduleKeyDeletion { key: KeyRef, days: u8 },
    /// [`cancel_key_deletion`](super::KeyService::cancel_key_deletion)
    CancelKeyDeletion(KeyRef),
    /// [`rotate_key`](super::KeyService::rotate_key)
    RotateKey(KeyRef),
    /// [`set_alias`](super::KeyService::set_alias)
    SetAlias { alias: Alias, key: KeyRef },
    /// [`delete_alias`](super::KeyService::delete_alias)
    DeleteAlias(Alias),
    /// [`get_public_key`](super::KeyService::get_public_key)
    GetPublicKey(KeyRef),
    /// [`generate_data_key`](super::KeyService::generate_data_key)
    GenerateDataKey { key: KeyRef, plaintext: bool },
    /// [`decrypt_data_key`](super::KeyService::decrypt_data_key)
    DecryptDataKey(WrappedDek),
    /// [`encrypt`](super::KeyService::encrypt)
    Encrypt { key: KeyRef, secret: Zeroizing<Vec<u8>>, context: Vec<u8> },
    /// [`decrypt`](super::KeyService::decrypt)
    Decrypt { ciphertext: Vec<u8>, context: Vec<u8> },
    /// [`re_encrypt`](super::KeyService::re_encrypt)
    ReEncrypt { ciphertext: Vec<u8>, context: Vec<u8>, to: KeyRef },
}

/// The number and the name of each verb (spec/kms.md 5.1). A test holds them against the spec.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
#[expect(missing_docs, reason = "each is the verb of that name in `KeyService`")]
pub enum Verb {
    CreateKey = 1,
    ListKeys = 2,
    DescribeKey = 3,
    EnableKey = 4,
    DisableKey = 5,
    ScheduleKeyDeletion = 6,
    CancelKeyDeletion = 7,
    RotateKey = 8,
    SetAlias = 9,
    DeleteAlias = 10,
    GetPublicKey = 11,
    GenerateDataKey = 12,
    DecryptDataKey = 13,
    Encrypt = 14,
    Decrypt = 15,
    ReEncrypt = 16,
}

impl Verb {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::CreateKey,
        Self::ListKeys,
        Self::DescribeKey,
        Self::EnableKey,
        Self::DisableKey,
        Self::ScheduleKeyDeletion,
        Self::CancelKeyDeletion,
        Self::RotateKey,
        Self::SetAlias,
        Self::DeleteAlias,
        Self::GetPublicKey,
        Self::GenerateDataKey,
        Self::DecryptDataKey,
        Self::Encrypt,
        Self::Decrypt,
        Self::ReEncrypt,
    ];

    /// The name, as policies, audit logs and the command line write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::CreateKey => "create-key",
            Self::ListKeys => "list-keys",
            Self::DescribeKey => "describe-key",
            Self::EnableKey => "enable-key",
            Self::DisableKey => "disable-key",
            Self::ScheduleKeyDeletion => "schedule-key-deletion",
            Self::CancelKeyDeletion => "cancel-key-deletion",
            Self::RotateKey => "rotate-key",
            Self::SetAlias => "set-alias",
            Self::DeleteAlias => "delete-alias",
            Self::GetPublicKey => "get-public-key",
            Self::GenerateDataKey => "generate-data-key",
            Self::DecryptDataKey => "decrypt-data-key",
            Self::Encrypt => "encrypt",
            Self::Decrypt => "decrypt",
            Self::ReEncrypt => "re-encrypt",
        }
    }

    /// Whether it changes what a service keeps, and so waits for a disk.
    #[must_use]
    pub fn is_change(self) -> bool {
        !matches!(
            self,
            Self::ListKeys
                | Self::DescribeKey
                | Self::GetPublicKey
                | Self::GenerateDataKey
                | Self::DecryptDataKey
                | Self::Encrypt
                | Self::Decrypt
                | Self::ReEncrypt
        )
    }

    /// Whether asking twice is as good as once, and answered as once: who asks again to disable a CMK hears that it is disabled already.
    #[must_use]
    pub fn is_idempotent(self) -> bool {
        !self.is_change() || self == Self::SetAlias
    }

    /// The verb of an encoded request.
    #[must_use]
    pub fn of(request: &[u8]) -> Option<Self> {
        let number = *request.first()?;
        Self::ALL.into_iter().find(|verb| *verb as u8 == number)
    }
}

impl Request {
    /// Which verb it is.
    #[must_use]
    pub fn verb(&self) -> Verb {
        match self {
            Self::CreateKey { .. } => Verb::CreateKey,
            Self::ListKeys { .. } => Verb::ListKeys,
            Self::DescribeKey(_) => Verb::DescribeKey,
            Self::EnableKey(_) => Verb::EnableKey,
            Self::DisableKey(_) => Verb::DisableKey,
            Self::ScheduleKeyDeletion { .. } => Verb::ScheduleKeyDeletion,
            Self::CancelKeyDeletion(_) => Verb::CancelKeyDeletion,
            Self::RotateKey(_) => Verb::RotateKey,
            Self::SetAlias { .. } => Verb::SetAlias,
            Self::DeleteAlias(_) => Verb::DeleteAlias,
            Self::GetPublicKey(_) => Verb::GetPublicKey,
            Self::GenerateDataKey { .. } => Verb::GenerateDataKey,
            Self::DecryptDataKey(_) => Verb::DecryptDataKey,
            Self::Encrypt { .. } => Verb::Encrypt,
            Self::Decrypt { .. } => Verb::Decrypt,
            Self::ReEncrypt { .. } => Verb::ReEncrypt,
        }
    }

    /// The payload. It holds the secret that is to be encrypted, where there is one.
    ///
    /// # Errors
    /// [`LimitExceeded`] for what no service would take.
    pub fn encode(&self) -> Result<Zeroizing<Vec<u8>>, LimitExceeded> {
        self.check()?;
        // Longer than everything that is put: a buffer that grows leaves copies behind.
        let mut out = Zeroizing::new(Vec::with_capacity(64 + ALIAS_ROOM + self.variable_len()));
        out.put_u8(self.verb() as u8);
        match self {
            Self::CreateKey { kem, alias } => {
                out.put_u16(kem.id());
                put_text(&mut out, alias.as_ref().map_or("", Alias::as_str));
            }
            Self::ListKeys { after } => put_option(&mut out, after.as_ref().map(|id| &id.0[..])),
            Self::DescribeKey(key)
            | Self::EnableKey(key)
            | Self::DisableKey(key)
            | Self::CancelKeyDeletion(key)
            | Self::RotateKey(key)
            | Self::GetPublicKey(key) => put_key(&mut out, key),
            Self::ScheduleKeyDeletion { key, days } => {
                put_key(&mut out, key);
                out.put_u8(*days);
            }
            Self::SetAlias { alias, key } => {
                put_text(&mut out, alias.as_str());
                put_key(&mut out, key);
            }
            Self::DeleteAlias(alias) => put_text(&mut out, alias.as_str()),
            Self::GenerateDataKey { key, plaintext } => {
                put_key(&mut out, key);
                out.put_u8((*plaintext).into());
            }
            Self::DecryptDataKey(wrapped) => put_wrapped(&mut out, wrapped),
            Self::Encrypt { key, secret, context } => {
                put_key(&mut out, key);
                put_bytes(&mut out, context);
                put_bytes(&mut out, secret);
            }
            Self::Decrypt { ciphertext, context } => {
                put_bytes(&mut out, context);
                put_bytes(&mut out, ciphertext);
            }
            Self::ReEncrypt { ciphertext, context, to } => {
                put_key(&mut out, to);
                put_bytes(&mut out, context);
                put_bytes(&mut out, ciphertext);
            }
        }
        Ok(out)
    }

    /// Reads a payload, to its last byte.
    ///
    /// # Errors
    /// [`ParseError`].
    pub fn decode(payload: &[u8]) -> Result<Self, ParseError> {
        let mut reader = Reader::enclosed(payload, 0);
        let number = reader.u8("verb")?;
        // [KMS-31]
        let unknown = ParseError::Unsupported { field: "verb", offset: 0, value: number.into() };
        let request = Self::decode_as(Verb::of(payload).ok_or(unknown)?, &mut reader)?;
        finish(&reader)?;
        request.check()?;
        Ok(request)
    }

    fn decode_as(verb: Verb, reader: &mut Reader<'_>) -> Result<Self, ParseError> {
        Ok(match verb {
            Verb::CreateKey => Self::CreateKey { kem: kem(reader)?, alias: optional_alias(reader)? },
            Verb::ListKeys => Self::ListKeys { after: option(reader, "after")?.map(|id| KeyId(*id)) },
            Verb::DescribeKey => Self::DescribeKey(key(reader)?),
            Verb::EnableKey => Self::EnableKey(key(reader)?),
            Verb::DisableKey => Self::DisableKey(key(reader)?),
            Verb::ScheduleKeyDeletion => Self::ScheduleKeyDeletion { key: key(reader)?, days: reader.u8("days")? },
            Verb::CancelKeyDeletion => Self::CancelKeyDeletion(key(reader)?),
            Verb::RotateKey => Self::RotateKey(key(reader)?),
            Verb::SetAlias => Self::SetAlias { alias: alias(reader)?, key: key(reader)? },
            Verb::DeleteAlias => Self::DeleteAlias(alias(reader)?),
            Verb::GetPublicKey => Self::GetPublicKey(key(reader)?),
            Verb::GenerateDataKey => Self::GenerateDataKey { key: key(reader)?, plaintext: yes_or_no(reader, "plaintext")? },
            Verb::DecryptDataKey => Self::DecryptDataKey(wrapped(reader)?),
            Verb::Encrypt => {
                let (key, context) = (key(reader)?, bytes(reader, "context", CONTEXT_MAX)?.into());
                Self::Encrypt { key, context, secret: Zeroizing::new(bytes(reader, "secret", SECRET_MAX)?.into()) }
            }
            Verb::Decrypt => Self::Decrypt {
                context: bytes(reader, "context", CONTEXT_MAX)?.into(),
                ciphertext: bytes(reader, "ciphertext", CIPHERTEXT_MAX)?.into(),
            },
            Verb::ReEncrypt => Self::ReEncrypt {
                to: key(reader)?,
                context: bytes(reader, "context", CONTEXT_MAX)?.into(),
                ciphertext: bytes(reader, "ciphertext", CIPHERTEXT_MAX)?.into(),
            },
        })
    }

    /// What is too long, on both sides. [KMS-32]
    fn check(&self) -> Result<(), LimitExceeded> {
        let at_most = |limit, len: usize, most: usize| LimitExceeded::check(limit, len64(len), len64(most));
        match self {
            Self::Encrypt { secret, context, .. } => {
                at_most("secret", secret.len(), SECRET_MAX)?;
                at_most("context", context.len(), CONTEXT_MAX)
            }
            Self::Decrypt { ciphertext, context } | Self::ReEncrypt { ciphertext, context, .. } => {
                at_most("ciphertext", ciphertext.len(), CIPHERTEXT_MAX)?;
                at_most("context", context.len(), CONTEXT_MAX)
            }
            Self::DecryptDataKey(WrappedDek::Block(block)) => at_most("block", block.len(), CIPHERTEXT_MAX),
            Self::DecryptDataKey(WrappedDek::Slot { enc, .. }) => at_most("enc", enc.len(), ENC_MAX),
            Self::DecryptDataKey(WrappedDek::External { provider, key_ref, blob }) => {
                at_most("provider", provider.len(), TEXT_MAX)?;
                at_most("key_ref", key_ref.len(), KEY_REF_MAX)?;
                at_most("blob", blob.len(), CIPHERTEXT_MAX)
            }
            _ => Ok(()),
        }
    }

    fn variable_len(&self) -> usize {
        match self {
            Self::Encrypt { secret, context, .. } => secret.len() + context.len(),
            Self::Decrypt { ciphertext, context } | Self::ReEncrypt { ciphertext, context, .. } => {
                ciphertext.len() + context.len()
            }
            Self::DecryptDataKey(wrapped) => wrapped_len(wrapped),
            _ => 0,
        }
    }
}

/// Room for two names and the lengths between them.
const ALIAS_ROOM: usize = 256;

fn wrapped_len(wrapped: &WrappedDek) -> usize {
    match wrapped {
        WrappedDek::Block(block) => block.len(),
        WrappedDek::Slot { enc, wrapped_dek, .. } => enc.len() + wrapped_dek.len(),
        WrappedDek::External { provider, key_ref, blob } => provider.len() + key_ref.len() + blob.len(),
    }
}

/// What a service answers.
pub enum Answer {
    /// It is done, and there is nothing to say.
    Done,
    /// What is told of a CMK.
    Key(KeyInfo),
    /// The same of several.
    Keys(Vec<KeyInfo>),
    /// A public half.
    PublicKey(PublicKey),
    /// A new DEK.
    DataKey(DataKeyPair),
    /// A DEK that came in encrypted.
    Unwrapped(Unwrapped),
    /// What was encrypted.
    Ciphertext(Vec<u8>),
    /// What was decrypted.
    Secret(Zeroizing<Vec<u8>>),
}

const DONE: u8 = 1;
const KEY: u8 = 2;
const KEYS: u8 = 3;
const PUBLIC_KEY: u8 = 4;
const DATA_KEY: u8 = 5;
const UNWRAPPED: u8 = 6;
const CIPHERTEXT: u8 = 7;
const SECRET: u8 = 8;

const DENIED: u8 = 0x80;
const NOT_FOUND: u8 = 0x81;
const STATE: u8 = 0x82;
const CANNOT_DECRYPT: u8 = 0x83;
const INVALID: u8 = 0x84;
const ALIAS_TAKEN: u8 = 0x85;
const FULL: u8 = 0x86;
const READ_ONLY: u8 = 0x87;
const FAILED: u8 = 0x88;
const UNSUPPORTED: u8 = 0x89;

impl Answer {
    /// The payload of an answer, or of why there is none. It holds a DEK or a secret, where there is one.
    #[must_use]
    pub fn encode(answer: &Result<Self, KmsError>) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(Vec::with_capacity(answer.as_ref().map_or(WHY_MAX + 32, Self::room)));
        match answer {
            Ok(answer) => answer.put(&mut out),
            Err(error) => put_error(&mut out, error),
        }
        out
    }

    /// At least as many bytes as the payload has.
    fn room(&self) -> usize {
        const RECIPIENT: usize = 1300;
        match self {
            Self::Keys(keys) => 16 + keys.len() * 1200,
            Self::DataKey(pair) => RECIPIENT + 128 + pair.ciphertext.len() + pair.key.id.len(),
            Self::Unwrapped(unwrapped) => RECIPIENT + 128 + unwrapped.key.id.len(),
            Self::Ciphertext(bytes) => 16 + bytes.len(),
            Self::Secret(secret) => 16 + secret.len(),
            _ => RECIPIENT,
        }
    }

    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Done => out.put_u8(DONE),
            Self::Key(info) => {
                out.put_u8(KEY);
                put_info(out, info);
            }
            Self::Keys(keys) => {
                out.put_u8(KEYS);
                out.put_u16(u16::try_from(keys.len()).unwrap_or(u16::MAX));
                keys.iter().for_each(|info| put_info(out, info));
            }
            Self::PublicKey(PublicKey { id, version, recipient }) => {
                out.put_u8(PUBLIC_KEY);
                out.put_slice(&id.0);
                out.put_u32(*version);
                put_recipient(out, Some(recipient));
            }
            Self::DataKey(DataKeyPair { plaintext, ciphertext, key, recipient }) => {
                out.put_u8(DATA_KEY);
                put_used(out, key, recipient.as_ref());
                put_option(out, plaintext.as_ref().map(|dek| &dek.secret.bytes()[..]));
                put_bytes(out, ciphertext);
            }
            Self::Unwrapped(Unwrapped { dek, key, recipient }) => {
                out.put_u8(UNWRAPPED);
                put_used(out, key, recipient.as_ref());
                out.put_slice(dek.secret.bytes());
            }
            Self::Ciphertext(bytes) => {
                out.put_u8(CIPHERTEXT);
                put_bytes(out, bytes);
            }
            Self::Secret(secret) => {
                out.put_u8(SECRET);
                put_bytes(out, secret);
            }
        }
    }

    /// Reads a payload, to its last byte: an answer, or the service's error.
    ///
    /// # Errors
    /// [`ParseError`].
    pub fn decode(payload: &[u8]) -> Result<Result<Self, KmsError>, ParseError> {
        let mut reader = Reader::enclosed(payload, 0);
        let kind = reader.u8("kind")?;
        let answer = match kind {
            DONE => Ok(Self::Done),
            KEY => Ok(Self::Key(info(&mut reader)?)),
            KEYS => Ok(Self::Keys(infos(&mut reader)?)),
            PUBLIC_KEY => Ok(Self::PublicKey(public_key(&mut reader)?)),
            DATA_KEY => {
                let (key, recipient) = used(&mut reader)?;
                let plaintext = option(&mut reader, "plaintext")?.map(Dek::import);
                let ciphertext = bytes(&mut reader, "ciphertext", CIPHERTEXT_MAX)?.into();
                Ok(Self::DataKey(DataKeyPair { plaintext, ciphertext, key, recipient }))
            }
            UNWRAPPED => {
                let (key, recipient) = used(&mut reader)?;
                Ok(Self::Unwrapped(Unwrapped { dek: Dek::import(reader.array("dek")?), key, recipient }))
            }
            CIPHERTEXT => Ok(Self::Ciphertext(bytes(&mut reader, "ciphertext", CIPHERTEXT_MAX)?.into())),
            SECRET => Ok(Self::Secret(Zeroizing::new(bytes(&mut reader, "secret", SECRET_MAX)?.into()))),
            _ => Err(error(kind, &mut reader)?),
        };
        finish(&reader)?;
        Ok(answer)
    }
}

fn put_error(out: &mut Vec<u8>, error: &KmsError) {
    match error {
        KmsError::Denied => out.put_u8(DENIED),
        KmsError::NotFound => out.put_u8(NOT_FOUND),
        KmsError::State { key, state } => {
            out.put_u8(STATE);
            out.put_slice(&key.0);
            put_state(out, *state);
        }
        KmsError::CannotDecrypt => out.put_u8(CANNOT_DECRYPT),
        KmsError::Invalid(why) => put_why(out, INVALID, why),
        KmsError::AliasTaken => out.put_u8(ALIAS_TAKEN),
        KmsError::Full(limit) => put_why(out, FULL, &limit.to_string()),
        KmsError::FullThere(why) => put_why(out, FULL, why),
        KmsError::ReadOnly => out.put_u8(READ_ONLY),
        KmsError::Unsupported(verb) => put_why(out, UNSUPPORTED, verb),
        failed @ (KmsError::Failed(_) | KmsError::FailedThere(_) | KmsError::Protocol(_) | KmsError::Unreachable(_)) => {
            put_why(out, FAILED, failed.for_others());
        }
    }
}

fn error(kind: u8, reader: &mut Reader<'_>) -> Result<KmsError, ParseError> {
    Ok(match kind {
        DENIED => KmsError::Denied,
        NOT_FOUND => KmsError::NotFound,
        STATE => KmsError::State { key: id(reader)?, state: state(reader)? },
        CANNOT_DECRYPT => KmsError::CannotDecrypt,
        INVALID => KmsError::Invalid(why(reader)?),
        ALIAS_TAKEN => KmsError::AliasTaken,
        FULL => KmsError::FullThere(why(reader)?),
        READ_ONLY => KmsError::ReadOnly,
        FAILED => KmsError::FailedThere(why(reader)?),
        UNSUPPORTED => KmsError::Unsupported(why(reader)?),
        // [KMS-31]
        _ => return Err(ParseError::Unsupported { field: "kind", offset: 0, value: kind.into() }),
    })
}

/// Nothing follows. [KMS-33]
fn finish(reader: &Reader<'_>) -> Result<(), ParseError> {
    if reader.rest().is_empty() { Ok(()) } else { Err(ParseError::TrailingBytes { offset: reader.offset() }) }
}

/// The whole characters of a text that fit into so many bytes.
fn beginning(text: &str, most: usize) -> &str {
    let cut = (0..=most.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    text.get(..cut.unwrap_or(0)).unwrap_or_default()
}

/// A text of at most [`TEXT_MAX`] bytes.
fn put_text(out: &mut Vec<u8>, text: &str) {
    let text = beginning(text, TEXT_MAX);
    out.put_u8(u8::try_from(text.len()).unwrap_or(u8::MAX));
    out.put_slice(text.as_bytes());
}

fn text<'a>(reader: &mut Reader<'a>, field: &'static str) -> Result<&'a str, ParseError> {
    let offset = reader.offset();
    let len = reader.u8(field)?;
    // [KMS-34]
    std::str::from_utf8(reader.take(len.into(), field)?).map_err(|_| ParseError::malformed(field, offset, "is not UTF-8"))
}

/// What an error says, at most [`WHY_MAX`] bytes of it.
fn put_why(out: &mut Vec<u8>, kind: u8, why: &str) {
    out.put_u8(kind);
    put_bytes(out, beginning(why, WHY_MAX).as_bytes());
}

fn why(reader: &mut Reader<'_>) -> Result<String, ParseError> {
    let offset = reader.offset();
    let text =
        std::str::from_utf8(bytes(reader, "why", WHY_MAX)?).map_err(|_| ParseError::malformed("why", offset, "is not UTF-8"))?;
    Ok(crate::wire::inspect::escape(text.as_bytes()))
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.put_u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    out.put_slice(bytes);
}

/// Bytes with their length before them, which meets its limit first. [KMS-32]
fn bytes<'a>(reader: &mut Reader<'a>, field: &'static str, most: usize) -> Result<&'a [u8], ParseError> {
    let len = reader.u32(field)?;
    LimitExceeded::check(field, len.into(), len64(most))?;
    reader.take(usize::try_from(len).unwrap_or(usize::MAX), field)
}

/// 0, or 1 and what is there.
fn put_option(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    out.put_u8(bytes.is_some().into());
    out.put_slice(bytes.unwrap_or_default());
}

fn option<'a, const N: usize>(reader: &mut Reader<'a>, field: &'static str) -> Result<Option<&'a [u8; N]>, ParseError> {
    if yes_or_no(reader, field)? { reader.array(field).map(Some) } else { Ok(None) }
}

fn yes_or_no(reader: &mut Reader<'_>, field: &'static str) -> Result<bool, ParseError> {
    let offset = reader.offset();
    match reader.u8(field)? {
        // [KMS-35]
        byte @ (0 | 1) => Ok(byte == 1),
        _ => Err(ParseError::malformed(field, offset, "is neither 0 nor 1")),
    }
}

/// An id with its prefix's kind before it, or an alias.
fn put_key(out: &mut Vec<u8>, key: &KeyRef) {
    match key {
        KeyRef::Id(id) => {
            out.put_u8(0);
            out.put_slice(&id.0);
        }
        KeyRef::Alias(alias) => put_text(out, alias.as_str()),
    }
}

fn key(reader: &mut Reader<'_>) -> Result<KeyRef, ParseError> {
    match reader.rest().first() {
        Some(0) => {
            reader.u8("key")?;
            Ok(KeyRef::Id(id(reader)?))
        }
        _ => alias(reader).map(KeyRef::Alias),
    }
}

fn id(reader: &mut Reader<'_>) -> Result<KeyId, ParseError> {
    reader.array("id").map(|id| KeyId(*id))
}

pub(super) fn alias(reader: &mut Reader<'_>) -> Result<Alias, ParseError> {
    let offset = reader.offset();
    text(reader, "alias")?.parse().map_err(|_| ParseError::malformed("alias", offset, "is no alias"))
}

fn optional_alias(reader: &mut Reader<'_>) -> Result<Option<Alias>, ParseError> {
    if reader.rest().first() == Some(&0) {
        return reader.u8("alias").map(|_| None);
    }
    alias(reader).map(Some)
}

pub(super) fn kem(reader: &mut Reader<'_>) -> Result<Kem, ParseError> {
    let offset = reader.offset();
    let value = reader.u16("kem")?;
    let known = [Kem::X25519, Kem::XWing].into_iter().find(|kem| kem.id() == value);
    known.ok_or(ParseError::Unsupported { field: "kem", offset, value: value.into() })
}

const BLOCK: u8 = 1;
const SLOT: u8 = 2;
const EXTERNAL: u8 = 3;

fn put_wrapped(out: &mut Vec<u8>, wrapped: &WrappedDek) {
    match wrapped {
        WrappedDek::Block(block) => {
            out.put_u8(BLOCK);
            put_bytes(out, block);
        }
        WrappedDek::Slot { suite, hints, salt, hint, enc, wrapped_dek } => {
            out.put_slice(&[SLOT, suite.number(), *hints as u8]);
            out.put_slice(salt);
            out.put_slice(hint);
            out.put_slice(wrapped_dek);
            put_bytes(out, enc);
        }
        WrappedDek::External { provider, key_ref, blob } => {
            out.put_u8(EXTERNAL);
            put_text(out, provider);
            put_bytes(out, key_ref.as_bytes());
            put_bytes(out, blob);
        }
    }
}

fn wrapped(reader: &mut Reader<'_>) -> Result<WrappedDek, ParseError> {
    let offset = reader.offset();
    match reader.u8("form")? {
        BLOCK => Ok(WrappedDek::Block(bytes(reader, "block", CIPHERTEXT_MAX)?.into())),
        SLOT => {
            let (suite, hints) = (suite(reader)?, hints(reader)?);
            let (salt, hint) = (*reader.array("salt")?, *reader.array("hint")?);
            let wrapped_dek = *reader.array("wrapped_dek")?;
            Ok(WrappedDek::Slot { suite, hints, salt, hint, wrapped_dek, enc: bytes(reader, "enc", ENC_MAX)?.into() })
        }
        EXTERNAL => {
            let provider = text(reader, "provider")?.into();
            let at = reader.offset();
            let key_ref = std::str::from_utf8(bytes(reader, "key_ref", KEY_REF_MAX)?);
            let key_ref = key_ref.map_err(|_| ParseError::malformed("key_ref", at, "is not UTF-8"))?.into();
            Ok(WrappedDek::External { provider, key_ref, blob: bytes(reader, "blob", CIPHERTEXT_MAX)?.into() })
        }
        value => Err(ParseError::Unsupported { field: "form", offset, value: value.into() }),
    }
}

/// Bytes of the longest encapsulated key: X-Wing's.
const ENC_MAX: usize = 1120;
/// Bytes of the longest text.
const TEXT_MAX: usize = 255;
/// Bytes of the longest name of a foreign KMS's key (spec 3.4).
const KEY_REF_MAX: usize = 2048;

fn suite(reader: &mut Reader<'_>) -> Result<Suite, ParseError> {
    let offset = reader.offset();
    Suite::parse(reader.u8("suite")?, offset)
}

fn hints(reader: &mut Reader<'_>) -> Result<HintMode, ParseError> {
    let offset = reader.offset();
    let number = reader.u8("hints")?;
    let known = [HintMode::None, HintMode::Rotating, HintMode::Static].into_iter().find(|mode| *mode as u8 == number);
    known.ok_or(ParseError::Unsupported { field: "hints", offset, value: number.into() })
}

pub(super) fn put_state(out: &mut Vec<u8>, state: KeyState) {
    let (number, at) = match state {
        KeyState::Enabled => (1, 0),
        KeyState::Disabled => (2, 0),
        KeyState::PendingDeletion { at } => (3, at),
        KeyState::Destroyed { at } => (4, at),
    };
    out.put_u8(number);
    out.put_u64(at);
}

pub(super) fn state(reader: &mut Reader<'_>) -> Result<KeyState, ParseError> {
    let offset = reader.offset();
    let number = reader.u8("state")?;
    // [KMS-31]
    if !(1..=4).contains(&number) {
        return Err(ParseError::Unsupported { field: "state", offset, value: number.into() });
    }
    match (number, reader.u64("at")?) {
        (1, 0) => Ok(KeyState::Enabled),
        (2, 0) => Ok(KeyState::Disabled),
        (3, at) => Ok(KeyState::PendingDeletion { at }),
        (4, at) => Ok(KeyState::Destroyed { at }),
        _ => Err(ParseError::malformed("at", offset, "is a time of a state that has none")),
    }
}

fn put_info(out: &mut Vec<u8>, info: &KeyInfo) {
    out.put_slice(&info.id.0);
    out.put_u16(info.kem.id());
    put_state(out, info.state);
    out.put_u64(info.created_at);
    out.put_u32(info.version);
    out.put_u64(info.rotated_at);
    out.put_u8(u8::try_from(info.aliases.len()).unwrap_or(u8::MAX));
    info.aliases.iter().for_each(|alias| put_text(out, alias.as_str()));
}

fn info(reader: &mut Reader<'_>) -> Result<KeyInfo, ParseError> {
    let mut info = KeyInfo {
        id: id(reader)?,
        kem: kem(reader)?,
        state: state(reader)?,
        created_at: reader.u64("created_at")?,
        version: reader.u32("version")?,
        rotated_at: reader.u64("rotated_at")?,
        aliases: Vec::new(),
    };
    let count = reader.u8("alias_count")?;
    LimitExceeded::check("alias_count", count.into(), len64(super::key::ALIASES_MAX))?;
    info.aliases = (0..count).map(|_| alias(reader)).collect::<Result<_, _>>()?;
    Ok(info)
}

fn infos(reader: &mut Reader<'_>) -> Result<Vec<KeyInfo>, ParseError> {
    let count = reader.u16("key_count")?;
    LimitExceeded::check("key_count", count.into(), len64(LIST_MAX))?;
    (0..count).map(|_| info(reader)).collect()
}

fn public_key(reader: &mut Reader<'_>) -> Result<PublicKey, ParseError> {
    let (id, version, offset) = (id(reader)?, reader.u32("version")?, reader.offset());
    let recipient = recipient(reader)?.ok_or(ParseError::malformed("recipient", offset, "is missing"))?;
    Ok(PublicKey { id, version, recipient })
}

fn put_used(out: &mut Vec<u8>, key: &KeyUsed, recipient: Option<&Recipient>) {
    put_text(out, &key.id);
    out.put_u32(key.version);
    put_recipient(out, recipient);
}

fn used(reader: &mut Reader<'_>) -> Result<(KeyUsed, Option<Recipient>), ParseError> {
    let key = KeyUsed { id: crate::wire::inspect::escape(text(reader, "key")?.as_bytes()), version: reader.u32("version")? };
    Ok((key, recipient(reader)?))
}

/// 0 where there is none; its KEM and its bytes.
fn put_recipient(out: &mut Vec<u8>, recipient: Option<&Recipient>) {
    out.put_u16(recipient.map_or(0, |recipient| recipient.kem().id()));
    out.put_slice(recipient.map_or(&[], Recipient::public_key));
}

fn recipient(reader: &mut Reader<'_>) -> Result<Option<Recipient>, ParseError> {
    if let Some(&[0, 0]) = reader.rest().first_chunk() {
        return reader.u16("kem").map(|_| None);
    }
    let kem = kem(reader)?;
    recipient_of(reader, kem).map(Some)
}

/// A public half whose KEM is known.
pub(super) fn recipient_of(reader: &mut Reader<'_>, kem: Kem) -> Result<Recipient, ParseError> {
    let offset = reader.offset();
    // [KMS-36]
    let refused = ParseError::malformed("recipient", offset, "is no public key");
    match kem {
        Kem::X25519 => Recipient::from_x25519(*reader.array("recipient")?).map_err(|_| refused),
        #[cfg(feature = "pq")]
        Kem::XWing => Recipient::from_xwing(reader.array("recipient")?).map_err(|_| refused),
        #[cfg(not(feature = "pq"))]
        Kem::XWing => Err(ParseError::Unsupported { field: "kem", offset, value: kem.id().into() }),
    }
}

/// A secret half whose KEM is known.
pub(super) fn cmk(reader: &mut Reader<'_>, kem: Kem) -> Result<Cmk, ParseError> {
    #[cfg(not(feature = "pq"))]
    let offset = reader.offset();
    let secret = reader.array("secret")?;
    match kem {
        Kem::X25519 => Ok(Cmk::from_x25519(secret)),
        #[cfg(feature = "pq")]
        Kem::XWing => Ok(Cmk::from_xwing(secret)),
        #[cfg(not(feature = "pq"))]
        Kem::XWing => Err(ParseError::Unsupported { field: "kem", offset, value: kem.id().into() }),
    }
}
