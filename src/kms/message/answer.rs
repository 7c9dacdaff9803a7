//! What a key service answers, or why it does not (spec/kms.md 5.2): answer <-> bytes.

use bytes::BufMut;
use zeroize::Zeroizing;

use super::{
    CIPHERTEXT_MAX, LIST_MAX, SECRET_MAX,
    field::{
        alias, beginning, bytes, finish, id, kem, option, put_bytes, put_option, put_recipient, put_state, put_text, recipient,
        state, text,
    },
};
use crate::{
    keys::{Dek, Recipient},
    kms::{
        KmsError,
        key::{ALIASES_MAX, KeyInfo, PublicKey},
        service::{DataKeyPair, KeyUsed, Unwrapped},
    },
    wire::{LimitExceeded, ParseError, Reader, len64},
};

/// Bytes of what an error says for people.
const WHY_MAX: usize = 512;

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
    LimitExceeded::check("alias_count", count.into(), len64(ALIASES_MAX))?;
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
