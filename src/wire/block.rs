//! The DEK block (spec 3.1): who can read.

use bytes::BufMut;

use super::{
    Externals, HintMode, Kem, LimitExceeded, Limits, Options, ParseError, Reader, SlotLayout, Slots, Suite,
    external::parse_externals, index, len64, slot::parse_slots,
};

pub(crate) const MAGIC: [u8; 3] = *b"SWE";
pub(crate) const VERSION: u8 = 1;
/// The last second of the year 9999.
pub(crate) const CREATED_AT_MAX: u64 = 253_402_300_799;
/// Magic, version and block_len: enough to know where a block ends.
pub(crate) const PREAMBLE_LEN: usize = 8;
pub(crate) const MAC_LEN: usize = 32;
const FIXED_LEN: usize = 37;
/// Bytes of a sender proof.
pub(crate) const PROOF_LEN: usize = 128;

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

    /// Reads a block that is kept apart from its message (spec 4.5): `input` is it and nothing else.
    ///
    /// # Errors
    /// As [`parse`](Self::parse); [`ParseError::TrailingBytes`].
    pub fn parse_alone(input: &'a [u8], limits: &Limits) -> Result<Self, ParseError> {
        let (raw, block) = Self::parse(input, limits)?;
        // [DET-2]
        if raw.len() < input.len() {
            return Err(ParseError::TrailingBytes { offset: len64(raw.len()) });
        }
        Ok(block)
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

    /// What a sender signs as the recipients (spec 6.5): the bytes of `raw`, an encoded block with a proof, that say who
    /// can read.
    pub(crate) fn recipients(raw: &[u8]) -> Option<[&[u8]; 2]> {
        let end = raw.len().checked_sub(PROOF_LEN.saturating_add(MAC_LEN))?;
        Some([raw.get(9..13)?, raw.get(FIXED_LEN..end)?])
    }

    /// Where the sender proof stands in an encoded block of so many bytes.
    pub(crate) fn proof_range(len: usize) -> std::ops::Range<usize> {
        let end = len.saturating_sub(MAC_LEN);
        end.saturating_sub(PROOF_LEN)..end
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{External, Slot};

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
        assert_eq!((block.slots.len(), block.slots.is_empty()), (1, false));
        assert_eq!((block.externals.len(), block.externals.is_empty()), (0, true));
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

    /// Proves BLK-13: each slot's hint counts.
    #[test]
    fn no_slot_has_a_hint_without_hints() {
        for marked in [0, 1, 2, 3] {
            let slot = |i| [vec![u8::from(i == marked); 4], vec![0x44; 48]].concat();
            let mut bytes = by_hand(0, &[vec![0x22; 32], slot(0), slot(1), slot(2)].concat());
            bytes[11] = 3;
            assert_eq!(parse(&bytes).is_ok(), marked == 3, "{marked}");
        }
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

    /// Proves ERR-2: of several wrong fields the first is named, also where the input ends with it.
    #[test]
    fn fields_are_judged_in_their_order() {
        let wrong: [(usize, &[u8], &str); 9] = [
            (0, b"SWF", "magic"),
            (3, &[2], "version"),
            (4, &[0, 2, 0, 1], "block"),
            (8, &[9], "suite"),
            (9, &[0x21], "options"),
            (10, &[4, 1], "recipients"),
            (12, &[5], "externals"),
            (13, &[0xff], "created_at"),
            (10, &[0, 2], "slots"),
        ];
        for (i, (at, value, name)) in wrong.iter().enumerate() {
            let mut bytes = one_slot();
            for (at, value, _) in wrong[i..].iter().rev() {
                bytes[*at..*at + value.len()].copy_from_slice(value);
            }
            assert_eq!(field(parse(&bytes)), *name);
            if i < 3 {
                assert_eq!(field(parse(&bytes[..*at + value.len()])), *name);
            }
        }
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
        assert_eq!((block.externals.len(), block.externals.is_empty()), (1, false));
        assert_eq!((block.slots.len(), block.slots.is_empty()), (0, true));
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
        assert_eq!(encoded, block.externals.bytes, "what is refused leaves nothing");
    }

    /// Proves LIM-4.
    #[test]
    fn a_writer_keeps_the_limits_of_readers() {
        let bytes = one_slot();
        let block = parse(&bytes).unwrap();
        assert!(block.check_limits(&Limits { block: 153, ..Limits::default() }).is_ok());
        assert_eq!(block.check_limits(&Limits { block: 152, ..Limits::default() }).unwrap_err().limit, "block");
        assert_eq!(block.check_limits(&Limits { recipients: 0, ..Limits::default() }).unwrap_err().limit, "recipients");
        let bytes = external(b"kms", b"", b"b");
        let block = parse(&bytes).unwrap();
        assert_eq!(block.check_limits(&Limits { externals: 0, ..Limits::default() }).unwrap_err().limit, "externals");
        // slot_count has two bytes, whatever the limits.
        let slots = vec![0; 52 << 16];
        let block = DekBlock { slots: Slots::new(&slots, SlotLayout::SharedEnc), ..block };
        let none = Limits { recipients: u64::MAX, block: u64::MAX, ..Limits::default() };
        assert_eq!(block.check_limits(&none).unwrap_err().limit, "recipients");
    }

    #[test]
    fn a_splitter_needs_no_suite() {
        let bytes = with(8, &[200]);
        assert_eq!(DekBlock::declared_len(&bytes, &Limits::default()), Ok(Some(153)));
        assert_eq!(DekBlock::declared_len(&bytes[..7], &Limits::default()), Ok(None));
        assert!(DekBlock::declared_len(b"SWE\x02", &Limits::default()).is_err());
    }
}
