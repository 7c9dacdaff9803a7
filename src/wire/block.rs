//! The DEK block (spec 3): who can read.

use bytes::BufMut;

use super::{Kem, LimitExceeded, Limits, ParseError, Reader, Suite, index, len64};

pub(crate) const MAGIC: [u8; 3] = *b"SWE";
pub(crate) const VERSION: u8 = 1;
/// The last second of the year 9999.
pub(crate) const CREATED_AT_MAX: u64 = 253_402_300_799;
/// Magic, version and block_len: enough to know where a block ends.
pub(crate) const PREAMBLE_LEN: usize = 8;
pub(crate) const MAC_LEN: usize = 32;
const FIXED_LEN: usize = 37;
const PROOF_LEN: usize = 128;
const PROVIDER_MAX: u64 = 32;
const KEY_REF_MAX: u64 = 2048;
const BLOB_MAX: u64 = 6144;

/// How a slot tells its receiver that it is his (spec 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum HintMode {
    /// No hints: the receiver tries every slot with every key. Says nothing to an observer.
    None = 0,
    /// Another hint in every block: says something only to who holds a list of public keys.
    #[default]
    Rotating = 1,
    /// The same hint in every block: found in constant time, and linkable by anyone.
    Static = 2,
}

/// The options byte of a block, without the hint mode (spec 3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// Bits 0 and 1.
    pub hints: HintMode,
    /// Bit 2: a sender proof is there.
    pub sender_proof: bool,
    /// Bit 3: every X25519 slot has an enc of its own.
    pub enc_per_slot: bool,
    /// Bit 4: the sender proof covers the message.
    pub proof_covers_message: bool,
}

impl Options {
    fn parse(reader: &mut Reader<'_>) -> Result<Self, ParseError> {
        let offset = reader.offset();
        let byte = reader.u8("options")?;
        let unsupported = ParseError::Unsupported { field: "options", offset, value: byte.into() };
        // [BLK-6]
        if byte & 0xe0 != 0 {
            return Err(unsupported);
        }
        let hints = match byte & 3 {
            0 => HintMode::None,
            1 => HintMode::Rotating,
            2 => HintMode::Static,
            // [BLK-9]
            _ => return Err(unsupported),
        };
        let bit = |n: u8| byte & (1 << n) != 0;
        let options = Self { hints, sender_proof: bit(2), enc_per_slot: bit(3), proof_covers_message: bit(4) };
        // [BLK-7]
        if options.proof_covers_message && !options.sender_proof {
            return Err(ParseError::malformed("options", offset, "bit 4 without a sender proof"));
        }
        Ok(options)
    }

    /// The byte on the wire.
    #[must_use]
    pub fn byte(self) -> u8 {
        self.hints as u8
            | u8::from(self.sender_proof) << 2
            | u8::from(self.enc_per_slot) << 3
            | u8::from(self.proof_covers_message) << 4
    }
}

/// What stands in a slot (spec 3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotLayout {
    /// hint, wrapped_dek: the block's one enc serves all slots.
    SharedEnc,
    /// hint, enc (32 bytes), wrapped_dek.
    EncPerSlot,
    /// hint, enc (1,120 bytes), wrapped_dek.
    XWing,
}

impl SlotLayout {
    /// The layout that suite and options give.
    #[must_use]
    pub fn of(suite: Suite, options: Options) -> Self {
        match (suite.kem(), options.enc_per_slot) {
            (Kem::XWing, _) => Self::XWing,
            (Kem::X25519, false) => Self::SharedEnc,
            (Kem::X25519, true) => Self::EncPerSlot,
        }
    }

    /// Bytes of enc in a slot.
    #[must_use]
    pub fn enc_len(self) -> usize {
        match self {
            Self::SharedEnc => 0,
            Self::EncPerSlot => 32,
            Self::XWing => 1120,
        }
    }

    /// Bytes of a slot: 52, 84 or 1,172.
    #[must_use]
    pub fn slot_len(self) -> usize {
        self.enc_len().saturating_add(52)
    }
}

/// One recipient by public key (spec 3.3): a ciphertext DEK and how to find it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot<'a> {
    /// Four bytes, by the block's hint mode.
    pub hint: [u8; 4],
    /// The encapsulated key; empty where the block's one serves all slots.
    pub enc: &'a [u8],
    /// The ciphertext DEK: 32 bytes and a tag.
    pub wrapped_dek: &'a [u8; 48],
}

/// The slots of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slots<'a> {
    bytes: &'a [u8],
    layout: SlotLayout,
}

impl<'a> Slots<'a> {
    /// Slots that have been encoded one after another in `layout`; a rest that is no whole slot is left out.
    #[must_use]
    pub fn new(bytes: &'a [u8], layout: SlotLayout) -> Self {
        Self { bytes, layout }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.chunks_exact(self.layout.slot_len()).len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What stands in each of them.
    #[must_use]
    pub fn layout(&self) -> SlotLayout {
        self.layout
    }

    /// The slots, in their order.
    pub fn iter(&self) -> impl Iterator<Item = Slot<'a>> + use<'a> {
        let enc_len = self.layout.enc_len();
        self.bytes.chunks_exact(self.layout.slot_len()).filter_map(move |slot| {
            let (hint, rest) = slot.split_first_chunk()?;
            let (enc, wrapped) = rest.split_at_checked(enc_len)?;
            Some(Slot { hint: *hint, enc, wrapped_dek: wrapped.try_into().ok()? })
        })
    }
}

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
    fn parse(reader: &mut Reader<'a>) -> Result<Self, ParseError> {
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
    bytes: &'a [u8],
    count: u8,
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

/// A DEK block (spec 3.1). Parsed ones borrow their input; nothing in them is authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DekBlock<'a> {
    /// KEM, KDF and AEAD.
    pub suite: Suite,
    /// Hint mode, proof, slot layout.
    pub options: Options,
    /// Seconds since the Unix epoch.
    pub created_at: u64,
    /// Fresh whenever a sealer takes up a DEK.
    pub salt: &'a [u8; 16],
    /// The ephemeral key that all slots share, where they do.
    pub enc: Option<&'a [u8; 32]>,
    /// Recipients by public key.
    pub slots: Slots<'a>,
    /// Recipients through a foreign KMS.
    pub externals: Externals<'a>,
    /// Who made the DEK, masked.
    pub sender_proof: Option<&'a [u8; 128]>,
    /// HMAC-SHA256 over everything before it.
    pub header_mac: &'a [u8; 32],
}

impl<'a> DekBlock<'a> {
    /// How long the block at the front of `input` says it is; `None` while too little of it is there. Knows no
    /// suite, so that a splitter can pass on blocks that it could not read.
    ///
    /// # Errors
    /// A wrong magic or version; a length over `limits.block`.
    pub fn declared_len(input: &[u8], limits: &Limits) -> Result<Option<usize>, ParseError> {
        ParseError::incomplete(preamble(&mut Reader::new(input, 0), limits))
    }

    /// Reads the block at the front of `input`; returns its bytes and the block.
    ///
    /// # Errors
    /// [`ParseError`] naming the field.
    pub fn parse(input: &'a [u8], limits: &Limits) -> Result<(&'a [u8], Self), ParseError> {
        let mut outer = Reader::new(input, 0);
        let len = preamble(&mut outer, limits)?;
        // [BLK-17]
        let raw = Reader::new(input, 0).take(len, "dek block")?;
        let mut reader = Reader::enclosed(raw, 0);
        reader.take(PREAMBLE_LEN, "block_len")?;
        let block = Self::parse_parts(&mut reader, limits)?;
        // [BLK-4]
        if !reader.rest().is_empty() {
            return Err(ParseError::malformed("block_len", 4, "is not the length of the block's parts"));
        }
        Ok((raw, block))
    }

    fn parse_parts(reader: &mut Reader<'a>, limits: &Limits) -> Result<Self, ParseError> {
        let at = reader.offset();
        let suite = Suite::parse(reader.u8("suite")?, at)?;
        let options = Options::parse(reader)?;
        let (slot_count, external_count) = parse_counts(reader, suite, options, limits)?;
        let at = reader.offset();
        let created_at = reader.u64("created_at")?;
        // [BLK-12]
        if created_at > CREATED_AT_MAX {
            return Err(ParseError::malformed("created_at", at, "is after the year 9999"));
        }
        let salt = reader.array("salt")?;
        let layout = SlotLayout::of(suite, options);
        let shared = layout == SlotLayout::SharedEnc && slot_count > 0;
        let enc = if shared { Some(reader.array("enc")?) } else { None };
        let slots = parse_slots(reader, slot_count, layout, options.hints)?;
        let externals = parse_externals(reader, external_count)?;
        let sender_proof = if options.sender_proof { Some(reader.array("sender_proof")?) } else { None };
        let header_mac = reader.array("header_mac")?;
        Ok(Self { suite, options, created_at, salt, enc, slots, externals, sender_proof, header_mac })
    }

    /// Bytes of the encoded block.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        FIXED_LEN
            .saturating_add(self.enc.map_or(0, |enc| enc.len()))
            .saturating_add(self.slots.bytes.len())
            .saturating_add(self.externals.bytes.len())
            .saturating_add(self.sender_proof.map_or(0, |_| PROOF_LEN))
            .saturating_add(MAC_LEN)
    }

    /// Appends the block: the inverse of [`parse`](Self::parse).
    pub fn encode(&self, out: &mut impl BufMut) {
        self.encode_unauthenticated(out);
        out.put_slice(self.header_mac);
    }

    /// Appends everything that header_mac covers.
    pub(crate) fn encode_unauthenticated(&self, out: &mut impl BufMut) {
        out.put_slice(&MAGIC);
        out.put_u8(VERSION);
        out.put_u32(u32::try_from(self.encoded_len()).unwrap_or(u32::MAX));
        out.put_slice(&[self.suite.number(), self.options.byte()]);
        out.put_u16(u16::try_from(self.slots.len()).unwrap_or(u16::MAX));
        out.put_u8(self.externals.count);
        out.put_u64(self.created_at);
        out.put_slice(self.salt);
        if let Some(enc) = self.enc {
            out.put_slice(enc);
        }
        out.put_slice(self.slots.bytes);
        out.put_slice(self.externals.bytes);
        if let Some(proof) = self.sender_proof {
            out.put_slice(proof);
        }
    }

    /// Checks a block that is about to be written against a reader's limits.
    ///
    /// # Errors
    /// [`LimitExceeded`].
    pub fn check_limits(&self, limits: &Limits) -> Result<(), LimitExceeded> {
        // [LIM-4]
        LimitExceeded::check("recipients", len64(self.slots.len()), limits.recipients.min(u16::MAX.into()))?;
        LimitExceeded::check("externals", self.externals.count.into(), limits.externals)?;
        LimitExceeded::check("block", len64(self.encoded_len()), limits.block.min(u32::MAX.into()))
    }
}

/// Magic, version, block_len: the same for every version-1 block, whatever its suite.
fn preamble(reader: &mut Reader<'_>, limits: &Limits) -> Result<usize, ParseError> {
    // [BLK-1] The first wrong byte is enough, before the others have come.
    if reader.rest().iter().zip(&MAGIC).any(|(found, wanted)| found != wanted) {
        return Err(ParseError::malformed("magic", 0, "is not \"SWE\": this is no sealwire envelope"));
    }
    reader.take(MAGIC.len(), "magic")?;
    // [BLK-2]
    let version = reader.u8("version")?;
    if version != VERSION {
        return Err(ParseError::Unsupported { field: "version", offset: 3, value: version.into() });
    }
    // [BLK-3]
    let len = u64::from(reader.u32("block_len")?);
    LimitExceeded::check("block", len, limits.block)?;
    // [BLK-4]
    if len < len64(FIXED_LEN.saturating_add(MAC_LEN)) {
        return Err(ParseError::malformed("block_len", 4, "is shorter than any block"));
    }
    Ok(index(len))
}

fn parse_counts(reader: &mut Reader<'_>, suite: Suite, options: Options, limits: &Limits) -> Result<(usize, u8), ParseError> {
    let at = reader.offset();
    let slot_count = reader.u16("slot_count")?;
    let external_count = reader.u8("external_count")?;
    // [BLK-11]
    if slot_count == 0 && external_count == 0 {
        return Err(ParseError::malformed("slot_count", at, "the block has no recipient"));
    }
    // [BLK-10]
    if slot_count == 0 && (options.hints != HintMode::None || options.enc_per_slot) {
        return Err(ParseError::malformed("options", 9, "hint mode or bit 3 without a slot"));
    }
    // [BLK-8]
    if options.enc_per_slot && suite.kem() != Kem::X25519 {
        return Err(ParseError::malformed("options", 9, "bit 3 with a suite that is not X25519"));
    }
    // [LIM-1]
    LimitExceeded::check("recipients", slot_count.into(), limits.recipients)?;
    LimitExceeded::check("externals", external_count.into(), limits.externals)?;
    Ok((slot_count.into(), external_count))
}

fn parse_slots<'a>(reader: &mut Reader<'a>, count: usize, layout: SlotLayout, hints: HintMode) -> Result<Slots<'a>, ParseError> {
    let at = reader.offset();
    let bytes = reader.take(count.saturating_mul(layout.slot_len()), "slots")?;
    let slots = Slots { bytes, layout };
    // [BLK-13]
    if hints == HintMode::None && slots.iter().any(|slot| slot.hint != [0; 4]) {
        return Err(ParseError::malformed("slots", at, "a hint in a block without hints"));
    }
    Ok(slots)
}

fn parse_externals<'a>(reader: &mut Reader<'a>, count: u8) -> Result<Externals<'a>, ParseError> {
    let all = reader.rest();
    for _ in 0..count {
        External::parse(reader)?;
    }
    let used = all.len().saturating_sub(reader.rest().len());
    let (bytes, _) = all.split_at_checked(used).unwrap_or_default();
    Ok(Externals { bytes, count })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A block as in spec 3.1, by hand: every byte of it told apart by its value.
    fn by_hand(options: u8, parts: &[u8]) -> Vec<u8> {
        let mut bytes = b"SWE\x01\0\0\0\0\x01".to_vec();
        bytes.extend([options, 0, 1, 0]);
        bytes.extend([0, 0, 0, 0, 0x5e, 0, 0, 0]);
        bytes.extend([0x11; 16]);
        bytes.extend(parts);
        bytes.extend([0xaa; 32]);
        let len = bytes.len() as u32;
        bytes[4..8].copy_from_slice(&len.to_be_bytes());
        bytes
    }

    fn one_slot() -> Vec<u8> {
        by_hand(1, &[vec![0x22; 32], vec![0x33; 4], vec![0x44; 48]].concat())
    }

    fn parse(bytes: &[u8]) -> Result<DekBlock<'_>, ParseError> {
        DekBlock::parse(bytes, &Limits::default()).map(|(_, block)| block)
    }

    fn with(at: usize, value: &[u8]) -> Vec<u8> {
        let mut bytes = one_slot();
        bytes[at..at + value.len()].copy_from_slice(value);
        bytes
    }

    fn field(result: Result<DekBlock<'_>, ParseError>) -> &'static str {
        match result.unwrap_err() {
            ParseError::Malformed { field, .. } | ParseError::Unsupported { field, .. } => field,
            ParseError::LimitExceeded(e) => e.limit,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_field_is_where_the_table_says() {
        let bytes = one_slot();
        assert_eq!(bytes.len(), 153);
        let block = parse(&bytes).unwrap();
        assert_eq!(block.created_at, 0x5e00_0000);
        assert_eq!((block.salt, block.enc), (&[0x11; 16], Some(&[0x22; 32])));
        let slots: Vec<_> = block.slots.iter().collect();
        assert_eq!(slots, [Slot { hint: [0x33; 4], enc: &[], wrapped_dek: &[0x44; 48] }]);
        let mut out = Vec::new();
        block.encode(&mut out);
        assert_eq!(out, bytes);
        assert_eq!(block.encoded_len(), bytes.len());
    }

    #[test]
    fn slots_with_an_enc_of_their_own() {
        let bytes = by_hand(9, &[vec![0x33; 4], vec![0x22; 32], vec![0x44; 48]].concat());
        let block = parse(&bytes).unwrap();
        assert_eq!(block.enc, None);
        let slots: Vec<_> = block.slots.iter().collect();
        assert_eq!(slots, [Slot { hint: [0x33; 4], enc: &[0x22; 32], wrapped_dek: &[0x44; 48] }]);
    }

    #[test]
    fn x_wing_slots_are_1172_bytes() {
        let mut bytes = by_hand(1, &[vec![0x33; 4], vec![0x22; 1120], vec![0x44; 48]].concat());
        bytes[8] = 3;
        let block = parse(&bytes).unwrap();
        assert_eq!(block.slots.iter().next().unwrap().enc, [0x22; 1120]);
        bytes[9] = 9;
        assert_eq!(field(parse(&bytes)), "options");
    }

    /// Proves BLK-1, BLK-2, BLK-3, BLK-5, BLK-6, BLK-7, BLK-8, BLK-9, BLK-10, BLK-11, BLK-12, BLK-13, LIM-1.
    #[test]
    fn every_rule_of_the_block_is_kept() {
        for (at, value, wrong) in [
            (0, &b"SWF"[..], "magic"),
            (3, &[2], "version"),
            (4, &[0, 2, 0, 1], "block"),
            (8, &[0], "suite"),
            (8, &[5], "suite"),
            (9, &[0x21], "options"),
            (9, &[0x41], "options"),
            (9, &[0x81], "options"),
            (9, &[3], "options"),
            (9, &[0x11], "options"),
            (10, &[0, 0, 0], "slot_count"),
            (10, &[0, 0, 1], "options"),
            (10, &[4, 1], "recipients"),
            (12, &[5], "externals"),
            (13, &[0, 0, 0, 0x3b, 0, 0, 0, 0], "created_at"),
            (9, &[0], "slots"),
        ] {
            assert_eq!(field(parse(&with(at, value))), wrong, "byte {at}");
        }
        let latest = CREATED_AT_MAX.to_be_bytes();
        assert!(parse(&with(13, &latest)).is_ok());
        assert_eq!(field(parse(&with(13, &(CREATED_AT_MAX + 1).to_be_bytes()))), "created_at");
    }

    /// Proves BLK-4, BLK-17.
    #[test]
    fn parts_and_length_agree() {
        for (len, wrong) in [(152u32, "header_mac"), (154, "block_len"), (0, "block_len"), (68, "block_len"), (69, "slots")] {
            let mut bytes = with(4, &len.to_be_bytes());
            bytes.push(0);
            assert_eq!(field(parse(&bytes)), wrong, "{len}");
        }
        let bytes = one_slot();
        for n in 0..bytes.len() {
            assert!(matches!(parse(&bytes[..n]), Err(ParseError::Truncated { .. })), "{n}");
        }
    }

    fn external(provider: &[u8], key_ref: &[u8], blob: &[u8]) -> Vec<u8> {
        let mut part = vec![provider.len() as u8];
        part.extend(provider);
        part.extend((key_ref.len() as u16).to_be_bytes());
        part.extend(key_ref);
        part.extend((blob.len() as u16).to_be_bytes());
        part.extend(blob);
        let mut bytes = by_hand(0, &part);
        bytes[10..13].copy_from_slice(&[0, 0, 1]);
        bytes
    }

    /// Proves BLK-14, BLK-15, BLK-16.
    #[test]
    fn externals_are_strict() {
        let bytes = external(b"aws-1", "schlüssel".as_bytes(), &[7; 6144]);
        let block = parse(&bytes).unwrap();
        let found = block.externals.iter().next().unwrap();
        assert_eq!((found.provider, found.key_ref, found.blob), ("aws-1", "schlüssel", &[7; 6144][..]));
        let mut encoded = Vec::new();
        found.encode(&mut encoded).unwrap();
        assert_eq!(encoded, block.externals.bytes);
        let mut out = Vec::new();
        block.encode(&mut out);
        assert_eq!(out, bytes);
        assert!(parse(&external(&[b'a'; 32], &[b'k'; 2048], b"b")).is_ok());
        assert_eq!(field(parse(&external(b"", b"k", b"b"))), "provider");
        assert_eq!(field(parse(&external(b"AWS", b"k", b"b"))), "provider");
        assert_eq!(field(parse(&external(&[b'a'; 33], b"k", b"b"))), "provider");
        assert_eq!(field(parse(&external(b"a", &[b'k'; 2049], b"b"))), "key_ref");
        assert_eq!(field(parse(&external(b"a", &[0xff], b"b"))), "key_ref");
        assert_eq!(field(parse(&external(b"a", b"k", b""))), "blob");
        assert_eq!(field(parse(&external(b"a", b"k", &[1; 6145]))), "blob");
        let absurd = External { provider: "A", key_ref: "", blob: b"x" };
        assert!(absurd.encode(&mut encoded).is_err());
    }

    /// Proves LIM-4.
    #[test]
    fn a_writer_keeps_the_limits_of_readers() {
        let bytes = one_slot();
        let block = parse(&bytes).unwrap();
        assert!(block.check_limits(&Limits { block: 153, ..Limits::default() }).is_ok());
        assert_eq!(block.check_limits(&Limits { block: 152, ..Limits::default() }).unwrap_err().limit, "block");
        assert_eq!(block.check_limits(&Limits { recipients: 0, ..Limits::default() }).unwrap_err().limit, "recipients");
    }

    #[test]
    fn a_splitter_needs_no_suite() {
        let bytes = with(8, &[200]);
        assert_eq!(DekBlock::declared_len(&bytes, &Limits::default()), Ok(Some(153)));
        assert_eq!(DekBlock::declared_len(&bytes[..7], &Limits::default()), Ok(None));
        assert!(DekBlock::declared_len(b"SWE\x02", &Limits::default()).is_err());
    }
}
