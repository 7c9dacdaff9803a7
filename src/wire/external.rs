//! Externals (spec 3.4): recipients through a foreign KMS.

use bytes::BufMut;

use super::{ParseError, Reader};

const PROVIDER_MAX: u64 = 32;
const KEY_REF_MAX: u64 = 2048;
const BLOB_MAX: u64 = 6144;

/// One recipient through a foreign KMS (spec 3.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct External<'a> {
    /// Which KMS: lower-case letters, digits and hyphens, 1 to 32.
    pub provider: &'a str,
    /// Which of its keys: UTF-8, at most 2,048 bytes.
    pub key_ref: &'a str,
    /// The KMS's ciphertext DEK, 1 to 6,144 bytes.
    pub blob: &'a [u8],
}

impl<'a> External<'a> {
    pub(super) fn parse(reader: &mut Reader<'a>) -> Result<Self, ParseError> {
        Ok(Self { provider: parse_provider(reader)?, key_ref: parse_key_ref(reader)?, blob: parse_blob(reader)? })
    }

    /// Appends the external.
    ///
    /// # Errors
    /// What a reader would refuse.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), ParseError> {
        let start = out.len();
        out.put_u8(u8::try_from(self.provider.len()).unwrap_or(u8::MAX));
        out.put_slice(self.provider.as_bytes());
        out.put_u16(u16::try_from(self.key_ref.len()).unwrap_or(u16::MAX));
        out.put_slice(self.key_ref.as_bytes());
        out.put_u16(u16::try_from(self.blob.len()).unwrap_or(u16::MAX));
        out.put_slice(self.blob);
        let written = out.get(start..).unwrap_or_default();
        let checked = External::parse(&mut Reader::enclosed(written, 0)).map(|_| ());
        if checked.is_err() {
            out.truncate(start);
        }
        checked
    }
}

fn parse_provider<'a>(reader: &mut Reader<'a>) -> Result<&'a str, ParseError> {
    let offset = reader.offset();
    let len = reader.u8("provider_len")?;
    let bytes = reader.take(len.into(), "provider")?;
    let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
    let text = std::str::from_utf8(bytes).ok();
    // [BLK-14]
    text.filter(|_| (1..=PROVIDER_MAX).contains(&len.into()) && bytes.iter().all(plain)).ok_or(ParseError::malformed(
        "provider",
        offset,
        "is not 1 to 32 of a-z, 0-9 and -",
    ))
}

fn parse_key_ref<'a>(reader: &mut Reader<'a>) -> Result<&'a str, ParseError> {
    let offset = reader.offset();
    let len = reader.u16("key_ref_len")?;
    let bytes = reader.take(len.into(), "key_ref")?;
    let text = std::str::from_utf8(bytes).ok();
    // [BLK-15]
    text.filter(|_| u64::from(len) <= KEY_REF_MAX).ok_or(ParseError::malformed(
        "key_ref",
        offset,
        "is not UTF-8 of at most 2,048 bytes",
    ))
}

fn parse_blob<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], ParseError> {
    let offset = reader.offset();
    let len = reader.u16("blob_len")?;
    let bytes = reader.take(len.into(), "blob")?;
    // [BLK-16]
    if !(1..=BLOB_MAX).contains(&len.into()) {
        return Err(ParseError::malformed("blob", offset, "is not 1 to 6,144 bytes"));
    }
    Ok(bytes)
}

/// The externals of a block, checked when the block was parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Externals<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) count: u8,
}

impl<'a> Externals<'a> {
    /// Externals that have been encoded one after another.
    #[must_use]
    pub fn new(bytes: &'a [u8], count: u8) -> Self {
        Self { bytes, count }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count.into()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The externals, in their order.
    pub fn iter(&self) -> impl Iterator<Item = External<'a>> + use<'a> {
        let mut reader = Reader::enclosed(self.bytes, 0);
        (0..self.count).map_while(move |_| External::parse(&mut reader).ok())
    }
}

/// Reads `count` externals.
pub(super) fn parse_externals<'a>(reader: &mut Reader<'a>, count: u8) -> Result<Externals<'a>, ParseError> {
    let all = reader.rest();
    for _ in 0..count {
        External::parse(reader)?;
    }
    let used = all.len().saturating_sub(reader.rest().len());
    let (bytes, _) = all.split_at_checked(used).unwrap_or_default();
    Ok(Externals { bytes, count })
}
