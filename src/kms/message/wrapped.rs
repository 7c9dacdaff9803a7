//! A ciphertext DEK in one of its three forms (spec/kms.md 5.1) <-> bytes.

use bytes::BufMut;

use super::{
    CIPHERTEXT_MAX,
    field::{bytes, put_bytes, put_text, text},
};
use crate::{
    kms::service::WrappedDek,
    wire::{HintMode, ParseError, Reader, Suite},
};

const BLOCK: u8 = 1;
const SLOT: u8 = 2;
const EXTERNAL: u8 = 3;

pub(super) fn put_wrapped(out: &mut Vec<u8>, wrapped: &WrappedDek) {
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

pub(super) fn wrapped(reader: &mut Reader<'_>) -> Result<WrappedDek, ParseError> {
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
pub(super) const ENC_MAX: usize = 1120;
/// Bytes of the longest name of a foreign KMS's key (spec 3.4).
pub(super) const KEY_REF_MAX: usize = 2048;

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

pub(super) fn wrapped_len(wrapped: &WrappedDek) -> usize {
    match wrapped {
        WrappedDek::Block(block) => block.len(),
        WrappedDek::Slot { enc, wrapped_dek, .. } => enc.len() + wrapped_dek.len(),
        WrappedDek::External { provider, key_ref, blob } => provider.len() + key_ref.len() + blob.len(),
    }
}
