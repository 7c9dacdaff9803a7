//! Segments, the unit of the AEAD (spec 5): a prefix, ciphertext and a tag.

use super::{LimitExceeded, ParseError, Reader, index};

/// Bytes of an authentication tag.
pub const TAG_LEN: usize = 16;
/// Bytes of a segment's prefix.
pub(crate) const PREFIX_LEN: usize = 4;
/// The smallest segment size, as a power of two.
pub const SEGMENT_LOG2_MIN: u8 = 12;
/// The largest segment size, as a power of two.
pub const SEGMENT_LOG2_MAX: u8 = 24;
/// Segments a message has at the most.
pub const MAX_SEGMENTS: u64 = 1 << 31;

const FINAL: u32 = 1 << 31;
/// Bytes that one allocation has at the most.
const LONGEST: usize = isize::MAX.unsigned_abs();

/// The four bytes before a segment's ciphertext (spec 5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentPrefix {
    /// The last segment of its message.
    pub last: bool,
    /// Bytes of ciphertext, without the tag.
    pub ciphertext: u32,
}

impl SegmentPrefix {
    /// Reads the prefix of segment `index` of a message whose segments hold 2^`segment_log2` bytes.
    ///
    /// # Errors
    /// [`ParseError::Truncated`]; [`ParseError::Malformed`] where the one encoding of a payload is broken.
    #[inline]
    pub fn parse(reader: &mut Reader<'_>, segment: u64, segment_log2: u8) -> Result<Self, ParseError> {
        let offset = reader.offset();
        let word = reader.u32("segment prefix")?;
        let malformed = |why| Err(ParseError::malformed("segment prefix", offset, why));
        let last = word & FINAL != 0;
        // [SEG-1]
        let Some(ciphertext) = (word & !FINAL).checked_sub(16) else {
            return malformed("is shorter than a tag");
        };
        let full = 1u32 << segment_log2.min(SEGMENT_LOG2_MAX);
        // [SEG-2]
        if ciphertext > full {
            return malformed("is longer than the segment size");
        }
        // [SEG-3]
        if !last && ciphertext != full {
            return malformed("a segment before the final one is not full");
        }
        // [SEG-4]
        if last && ciphertext == 0 && segment != 0 {
            return malformed("the final segment is empty and not the only one");
        }
        // [SEG-5]
        if segment >= MAX_SEGMENTS || (!last && segment == MAX_SEGMENTS.saturating_sub(1)) {
            return malformed("more than 2^31 segments");
        }
        Ok(Self { last, ciphertext })
    }

    /// The four bytes.
    #[must_use]
    pub fn encode(self) -> [u8; 4] {
        let last = if self.last { FINAL } else { 0 };
        self.ciphertext.saturating_add(16).saturating_add(last).to_be_bytes()
    }

    /// Bytes of ciphertext, without the tag.
    #[must_use]
    pub fn ciphertext_len(self) -> usize {
        index(self.ciphertext.into())
    }

    /// Bytes that follow the prefix: ciphertext and tag.
    #[must_use]
    pub fn body_len(self) -> usize {
        self.ciphertext_len().saturating_add(TAG_LEN)
    }
}

/// How a plaintext of known length falls into segments (spec 5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentPlan {
    size: usize,
    plaintext: usize,
}

impl SegmentPlan {
    /// The plan for `plaintext` bytes in segments of 2^`segment_log2`.
    ///
    /// # Errors
    /// [`LimitExceeded`] where that would take more than 2^31 segments or more memory than there are addresses.
    #[inline]
    pub fn new(plaintext: usize, segment_log2: u8) -> Result<Self, LimitExceeded> {
        let size = 1usize << segment_log2.clamp(SEGMENT_LOG2_MIN, SEGMENT_LOG2_MAX);
        let plan = Self { size, plaintext };
        if plaintext <= size {
            return Ok(plan);
        }
        // [SEG-5]
        LimitExceeded::check("segments", super::len64(plan.segments()), MAX_SEGMENTS)?;
        if plan.checked_sealed_len().is_none() {
            return Err(LimitExceeded { limit: "message", value: super::len64(plaintext), maximum: super::len64(LONGEST) });
        }
        Ok(plan)
    }

    /// Segments, at least one.
    #[must_use]
    pub fn segments(self) -> usize {
        // A division by what is a power of two, without dividing.
        let whole = self.plaintext.wrapping_shr(self.size.trailing_zeros());
        whole.saturating_add(usize::from(self.plaintext & self.size.saturating_sub(1) != 0)).max(1)
    }

    /// Bytes of all prefixes, ciphertexts and tags.
    #[must_use]
    pub fn sealed_len(self) -> usize {
        self.checked_sealed_len().unwrap_or(usize::MAX)
    }

    fn checked_sealed_len(self) -> Option<usize> {
        self.segments().checked_mul(PREFIX_LEN.saturating_add(TAG_LEN))?.checked_add(self.plaintext).filter(|n| *n <= LONGEST)
    }

    /// The plaintext range of segment `i`.
    #[must_use]
    pub fn plaintext_range(self, i: usize) -> std::ops::Range<usize> {
        let start = i.saturating_mul(self.size).min(self.plaintext);
        start..start.saturating_add(self.size).min(self.plaintext)
    }

    /// Where segment `i`'s prefix stands, from the first segment's.
    #[must_use]
    pub fn sealed_offset(self, i: usize) -> usize {
        i.saturating_mul(self.size.saturating_add(PREFIX_LEN).saturating_add(TAG_LEN))
    }

    /// Bytes of segment `i` with its prefix and its tag.
    pub(crate) fn sealed_len_of(self, i: usize) -> usize {
        self.plaintext_range(i).len().saturating_add(PREFIX_LEN).saturating_add(TAG_LEN)
    }

    /// The prefix of segment `i`.
    #[must_use]
    pub fn prefix(self, i: usize) -> SegmentPrefix {
        let len = self.plaintext_range(i).len();
        SegmentPrefix { last: i.saturating_add(1) == self.segments(), ciphertext: u32::try_from(len).unwrap_or(u32::MAX) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(word: u32, segment: u64) -> Result<SegmentPrefix, ParseError> {
        SegmentPrefix::parse(&mut Reader::new(&word.to_be_bytes(), 0), segment, 12)
    }

    /// Proves SEG-1, SEG-2, SEG-3, SEG-4, SEG-5.
    #[test]
    fn a_payload_has_one_encoding() {
        let whole = 4096 + 16;
        assert!(parse(whole, 0).is_ok());
        assert!(parse(whole | FINAL, 7).is_ok());
        assert!(parse(16 | FINAL, 0).is_ok());
        assert!(parse(15 | FINAL, 0).is_err());
        assert!(parse(0, 0).is_err());
        assert!(parse((whole + 1) | FINAL, 0).is_err());
        assert!(parse(whole - 1, 0).is_err());
        assert!(parse(whole + 1, 0).is_err());
        assert!(parse(16 | FINAL, 1).is_err());
        assert!(parse(17 | FINAL, MAX_SEGMENTS - 1).is_ok());
        assert!(parse(whole, MAX_SEGMENTS - 2).is_ok());
        assert!(parse(whole, MAX_SEGMENTS - 1).is_err());
        assert!(parse(17 | FINAL, MAX_SEGMENTS).is_err());
    }

    #[test]
    fn encoding_is_the_inverse_of_parsing() {
        for (word, i) in [(4112, 0), (4112 | FINAL, 3), (16 | FINAL, 0), (100 | FINAL, 1)] {
            assert_eq!(parse(word, i).unwrap().encode(), word.to_be_bytes());
        }
    }

    #[test]
    fn plans_add_up_at_every_boundary() {
        for len in [0, 1, 4095, 4096, 4097, 8192, 8193, 100_000] {
            let plan = SegmentPlan::new(len, 12).unwrap();
            let mut sealed = 0;
            for i in 0..plan.segments() {
                assert_eq!(plan.sealed_offset(i), sealed);
                let prefix = plan.prefix(i);
                assert_eq!(prefix.ciphertext_len(), plan.plaintext_range(i).len());
                assert!(SegmentPrefix::parse(&mut Reader::new(&prefix.encode(), 0), i as u64, 12).is_ok());
                sealed += 4 + prefix.body_len();
            }
            assert_eq!(sealed, plan.sealed_len());
        }
    }

    /// Proves SEG-5.
    #[test]
    fn a_plan_stops_at_its_limits() {
        // Where addresses are too short for so many segments, memory ends first.
        if let Ok(most) = usize::try_from(MAX_SEGMENTS << 12) {
            assert!(SegmentPlan::new(most, 12).is_ok());
            assert!(SegmentPlan::new(most + 1, 12).is_err());
        }
        assert!(SegmentPlan::new(usize::MAX >> 1, 12).is_err());
        assert!(SegmentPlan::new(usize::MAX, 24).is_err());
    }
}
