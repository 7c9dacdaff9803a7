//! Fields that requests, answers and what a store keeps have in common (spec/kms.md 5) <-> bytes.

use bytes::BufMut;

use super::super::key::{Alias, KeyId, KeyRef, KeyState};
use crate::{
    keys::{Cmk, Recipient},
    wire::{Kem, LimitExceeded, ParseError, Reader, len64},
};

/// Bytes of the longest text.
pub(super) const TEXT_MAX: usize = 255;

/// Nothing follows. [KMS-33]
pub(super) fn finish(reader: &Reader<'_>) -> Result<(), ParseError> {
    if reader.rest().is_empty() { Ok(()) } else { Err(ParseError::TrailingBytes { offset: reader.offset() }) }
}

/// The whole characters of a text that fit into so many bytes.
pub(super) fn beginning(text: &str, most: usize) -> &str {
    let cut = (0..=most.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    text.get(..cut.unwrap_or(0)).unwrap_or_default()
}

/// A text of at most [`TEXT_MAX`] bytes.
pub(super) fn put_text(out: &mut Vec<u8>, text: &str) {
    let text = beginning(text, TEXT_MAX);
    out.put_u8(u8::try_from(text.len()).unwrap_or(u8::MAX));
    out.put_slice(text.as_bytes());
}

pub(super) fn text<'a>(reader: &mut Reader<'a>, field: &'static str) -> Result<&'a str, ParseError> {
    let offset = reader.offset();
    let len = reader.u8(field)?;
    // [KMS-34]
    std::str::from_utf8(reader.take(len.into(), field)?).map_err(|_| ParseError::malformed(field, offset, "is not UTF-8"))
}

pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.put_u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    out.put_slice(bytes);
}

/// Bytes with their length before them, which meets its limit first. [KMS-32]
pub(super) fn bytes<'a>(reader: &mut Reader<'a>, field: &'static str, most: usize) -> Result<&'a [u8], ParseError> {
    let len = reader.u32(field)?;
    LimitExceeded::check(field, len.into(), len64(most))?;
    reader.take(usize::try_from(len).unwrap_or(usize::MAX), field)
}

/// 0, or 1 and what is there.
pub(super) fn put_option(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    out.put_u8(bytes.is_some().into());
    out.put_slice(bytes.unwrap_or_default());
}

pub(super) fn option<'a, const N: usize>(
    reader: &mut Reader<'a>,
    field: &'static str,
) -> Result<Option<&'a [u8; N]>, ParseError> {
    if yes_or_no(reader, field)? { reader.array(field).map(Some) } else { Ok(None) }
}

pub(super) fn yes_or_no(reader: &mut Reader<'_>, field: &'static str) -> Result<bool, ParseError> {
    let offset = reader.offset();
    match reader.u8(field)? {
        // [KMS-35]
        byte @ (0 | 1) => Ok(byte == 1),
        _ => Err(ParseError::malformed(field, offset, "is neither 0 nor 1")),
    }
}

/// An id with its prefix's kind before it, or an alias.
pub(super) fn put_key(out: &mut Vec<u8>, key: &KeyRef) {
    match key {
        KeyRef::Id(id) => {
            out.put_u8(0);
            out.put_slice(&id.0);
        }
        KeyRef::Alias(alias) => put_text(out, alias.as_str()),
    }
}

pub(super) fn key(reader: &mut Reader<'_>) -> Result<KeyRef, ParseError> {
    match reader.rest().first() {
        Some(0) => {
            reader.u8("key")?;
            Ok(KeyRef::Id(id(reader)?))
        }
        _ => alias(reader).map(KeyRef::Alias),
    }
}

pub(super) fn id(reader: &mut Reader<'_>) -> Result<KeyId, ParseError> {
    reader.array("id").map(|id| KeyId(*id))
}

pub(in crate::kms) fn alias(reader: &mut Reader<'_>) -> Result<Alias, ParseError> {
    let offset = reader.offset();
    text(reader, "alias")?.parse().map_err(|_| ParseError::malformed("alias", offset, "is no alias"))
}

pub(super) fn optional_alias(reader: &mut Reader<'_>) -> Result<Option<Alias>, ParseError> {
    if reader.rest().first() == Some(&0) {
        return reader.u8("alias").map(|_| None);
    }
    alias(reader).map(Some)
}

pub(in crate::kms) fn kem(reader: &mut Reader<'_>) -> Result<Kem, ParseError> {
    let offset = reader.offset();
    let value = reader.u16("kem")?;
    let known = [Kem::X25519, Kem::XWing].into_iter().find(|kem| kem.id() == value);
    known.ok_or(ParseError::Unsupported { field: "kem", offset, value: value.into() })
}

pub(in crate::kms) fn put_state(out: &mut Vec<u8>, state: KeyState) {
    let (number, at) = match state {
        KeyState::Enabled => (1, 0),
        KeyState::Disabled => (2, 0),
        KeyState::PendingDeletion { at } => (3, at),
        KeyState::Destroyed { at } => (4, at),
    };
    out.put_u8(number);
    out.put_u64(at);
}

pub(in crate::kms) fn state(reader: &mut Reader<'_>) -> Result<KeyState, ParseError> {
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

/// 0 where there is none; its KEM and its bytes.
pub(super) fn put_recipient(out: &mut Vec<u8>, recipient: Option<&Recipient>) {
    out.put_u16(recipient.map_or(0, |recipient| recipient.kem().id()));
    out.put_slice(recipient.map_or(&[], Recipient::public_key));
}

pub(super) fn recipient(reader: &mut Reader<'_>) -> Result<Option<Recipient>, ParseError> {
    if let Some(&[0, 0]) = reader.rest().first_chunk() {
        return reader.u16("kem").map(|_| None);
    }
    let kem = kem(reader)?;
    recipient_of(reader, kem).map(Some)
}

/// A public half whose KEM is known.
pub(in crate::kms) fn recipient_of(reader: &mut Reader<'_>, kem: Kem) -> Result<Recipient, ParseError> {
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
pub(in crate::kms) fn cmk(reader: &mut Reader<'_>, kem: Kem) -> Result<Cmk, ParseError> {
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
