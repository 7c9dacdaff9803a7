//! Payload <-> segments (spec 5 and 8), in one pass each way. Knows keys and bytes, no heads and no blocks.
#![deny(clippy::cast_possible_truncation)]
#![cfg_attr(test, allow(clippy::cast_possible_truncation))]

use bytes::BytesMut;
use zeroize::Zeroize;

use crate::{
    crypto::{
        Refused,
        padme::padme,
        schedule::{Schedule, SegmentAt},
    },
    wire::{LimitExceeded, Limits, PREFIX_LEN, ParseError, Reader, SegmentPlan, SegmentPrefix, TAG_LEN, index, len64},
};

const PAD_TRAILER: usize = 8;

/// What a message's segments carry: the payload, and padding behind it.
#[derive(Clone, Copy)]
pub(crate) struct Plaintext<'a> {
    payload: &'a [u8],
    padded: Option<usize>,
}

impl<'a> Plaintext<'a> {
    /// The plaintext of a payload, padded (spec 8) where asked for.
    #[inline]
    pub(crate) fn new(payload: &'a [u8], padded: bool, limits: &Limits) -> Result<Self, LimitExceeded> {
        let over = LimitExceeded { limit: "message", value: len64(payload.len()), maximum: limits.message };
        let padded = if padded { Some(padded_len(payload.len()).ok_or(over)?) } else { None };
        let plaintext = Self { payload, padded };
        // [LIM-3]
        LimitExceeded::check("message", len64(plaintext.len()), limits.message)?;
        Ok(plaintext)
    }

    pub(crate) fn len(&self) -> usize {
        self.padded.unwrap_or(self.payload.len())
    }

    pub(crate) fn is_padded(&self) -> bool {
        self.padded.is_some()
    }

    /// The payload, where it is all there is, and of `most` bytes at the most.
    #[inline]
    pub(crate) fn alone(&self, most: usize) -> Option<&'a [u8]> {
        if self.padded.is_none() && self.payload.len() <= most { Some(self.payload) } else { None }
    }

    /// Where bytes `range` of it stand together: in the payload, unless padding is among them.
    fn slice(&self, range: std::ops::Range<usize>) -> Option<&'a [u8]> {
        self.payload.get(range)
    }

    /// Writes bytes `range` of `payload ‖ 00* ‖ payload_len` to `out`, which is as long.
    fn copy(&self, range: std::ops::Range<usize>, out: &mut [u8]) {
        let (payload, trailer) = (self.payload.len(), len64(self.payload.len()).to_be_bytes());
        let trailer_at = if self.is_padded() { self.len() - PAD_TRAILER } else { self.len() };
        let within = |n: usize| n.clamp(range.start, range.end) - range.start;
        let (zeros, end) = (within(payload)..within(trailer_at), within(trailer_at));
        out[..zeros.start].copy_from_slice(&self.payload[range.start.min(payload)..range.end.min(payload)]);
        out[zeros].fill(0);
        out[end..].copy_from_slice(&trailer[range.start.max(trailer_at) - trailer_at..range.end.max(trailer_at) - trailer_at]);
    }
}

/// The same, of what lies in memory.
pub(crate) fn padded_len(payload: usize) -> Option<usize> {
    usize::try_from(padded_len64(len64(payload))?).ok()
}

/// Bytes of plaintext that a payload of so many is padded to. [PAD-1]
pub(crate) fn padded_len64(payload: u64) -> Option<u64> {
    padme(payload.checked_add(len64(PAD_TRAILER))?)
}

/// The payload's length, as the end of a padded plaintext of `total` bytes says it; at most `total` − 8.
pub(crate) fn length_at_the_end(end: &[u8], total: u64) -> Result<u64, ParseError> {
    // [PAD-2]
    let Some(trailer) = end.last_chunk::<PAD_TRAILER>() else {
        return Err(wrong_padding(total, "is shorter than its length field"));
    };
    let payload = u64::from_be_bytes(*trailer);
    // [PAD-3]
    if padded_len64(payload) == Some(total) {
        return Ok(payload);
    }
    Err(wrong_padding(total, "has a length that the payload's does not give"))
}

/// What is wrong with the padding of a plaintext of `total` bytes.
pub(crate) fn wrong_padding(total: u64, why: &'static str) -> ParseError {
    ParseError::malformed("padding", total, why)
}

/// Takes the padding off an authenticated plaintext: tells how much of it is payload.
pub(crate) fn unpadded_len(plaintext: &[u8]) -> Result<usize, ParseError> {
    let total = len64(plaintext.len());
    let payload = index(length_at_the_end(plaintext, total)?);
    // [PAD-4]
    if plaintext[payload..plaintext.len() - PAD_TRAILER].iter().any(|byte| *byte != 0) {
        return Err(wrong_padding(total, "is not zero"));
    }
    Ok(payload)
}

type Parts<'a> = (&'a mut [u8; PREFIX_LEN], &'a mut [u8], &'a mut [u8; TAG_LEN]);

/// Of a sealed segment: its prefix, its ciphertext and its tag.
pub(crate) fn parts_of(sealed: &mut [u8]) -> Result<Parts<'_>, Refused> {
    let (prefix, rest) = sealed.split_first_chunk_mut().ok_or(Refused)?;
    let (text, tag) = rest.split_last_chunk_mut().ok_or(Refused)?;
    Ok((prefix, text, tag))
}

/// Puts a prefix before the ciphertext and the tag that `seal` makes in `sealed`, which is wiped on an error.
fn put_around(
    sealed: &mut [u8],
    last: bool,
    seal: impl FnOnce(&mut [u8], &mut [u8; TAG_LEN]) -> Result<(), Refused>,
) -> Result<(), Refused> {
    let put = |sealed: &mut [u8]| {
        let (prefix, text, tag) = parts_of(sealed)?;
        *prefix = SegmentPrefix { last, ciphertext: u32::try_from(text.len()).map_err(|_| Refused)? }.encode();
        seal(text, tag)
    };
    put(sealed).inspect_err(|_| sealed.zeroize())
}

/// Everything that is the same for all segments of one message.
#[derive(Clone, Copy)]
pub(crate) struct Segments<'a> {
    pub(crate) schedule: &'a Schedule,
    pub(crate) seq: u64,
    /// The AAD of segment 0; later segments have none.
    pub(crate) aad: &'a [u8],
}

impl Segments<'_> {
    fn aad(&self, i: usize) -> &[u8] {
        if i == 0 { self.aad } else { &[] }
    }

    fn at(&self, i: usize, last: bool) -> SegmentAt {
        SegmentAt { seq: self.seq, index: len64(i), last }
    }

    /// Seals segment `i` into `out`, which is as long as it is sealed: encrypted on its way from the payload, or, where padding joins it,
    /// copied and encrypted there. On an error `out` is wiped.
    pub(crate) fn seal_one(&self, plaintext: &Plaintext<'_>, plan: SegmentPlan, i: usize, out: &mut [u8]) -> Result<(), Refused> {
        let (range, last) = (plan.plaintext_range(i), plan.prefix(i).last);
        let Some(from) = plaintext.slice(range.clone()) else {
            plaintext.copy(range, parts_of(out)?.1);
            return self.seal_where_it_is(i, last, out);
        };
        self.seal_from(i, last, from, out)
    }

    /// Seals segment `i` on its way from `plaintext` to `out`, which is as long as it is sealed. On an error `out` is wiped.
    pub(crate) fn seal_from(&self, i: usize, last: bool, plaintext: &[u8], out: &mut [u8]) -> Result<(), Refused> {
        let at = self.at(i, last);
        put_around(out, last, |text, tag| self.schedule.seal_segment_from(at, self.aad(i), plaintext, text, tag))
    }

    /// Appends the only segment of a message: for a small one a copy costs less than making room for what encryption writes. On an error
    /// `out` is as it was.
    #[inline]
    pub(crate) fn append_only(&self, payload: &[u8], out: &mut BytesMut) -> Result<(), Refused> {
        let ciphertext = u32::try_from(payload.len()).map_err(|_| Refused)?;
        let at = out.len();
        out.extend_from_slice(&SegmentPrefix { last: true, ciphertext }.encode());
        out.extend_from_slice(payload);
        out.extend_from_slice(&[0; TAG_LEN]);
        let sealed =
            parts_of(&mut out[at..]).and_then(|(_, text, tag)| self.schedule.seal_segment(self.at(0, true), self.aad, text, tag));
        sealed.inspect_err(|_| {
            out[at..].zeroize();
            out.truncate(at);
        })
    }

    /// Seals segment `i`, whose plaintext stands in `out` where its ciphertext is to be. On an error `out` is wiped.
    pub(crate) fn seal_where_it_is(&self, i: usize, last: bool, out: &mut [u8]) -> Result<(), Refused> {
        put_around(out, last, |text, tag| self.schedule.seal_segment(self.at(i, last), self.aad(i), text, tag))
    }

    /// Appends all segments of `plaintext`, one after the other, so that each is in the cache while it is made. On an error `out` is as it
    /// was.
    #[cfg(test)]
    fn seal(&self, plaintext: Plaintext<'_>, plan: SegmentPlan, out: &mut BytesMut) -> Result<(), Refused> {
        for i in 0..plan.segments() {
            let at = out.len();
            out.resize(at + plan.sealed_len_of(i), 0);
            self.seal_one(&plaintext, plan, i, &mut out[at..])?;
        }
        Ok(())
    }

    /// Seals the plaintext that fills the last `plan` bytes' worth of `buffer`: it stands at the front and is moved to
    /// its segments, the last one first. `front` bytes are left free before the first segment.
    pub(crate) fn seal_in_place(&self, plan: SegmentPlan, front: usize, buffer: &mut BytesMut) -> Result<(), Refused> {
        buffer.resize(front + plan.sealed_len(), 0);
        for i in (0..plan.segments()).rev() {
            let at = front + plan.sealed_offset(i);
            buffer.copy_within(plan.plaintext_range(i), at + PREFIX_LEN);
            let sealed = &mut buffer[at..at + plan.sealed_len_of(i)];
            if let Err(refused) = self.seal_where_it_is(i, plan.prefix(i).last, sealed) {
                buffer.zeroize_all();
                return Err(refused);
            }
        }
        Ok(())
    }

    /// Opens one segment in place: `body` is ciphertext and tag; returns the plaintext. Nothing of a segment is
    /// released whose tag does not hold. [SEG-6]
    #[inline]
    pub(crate) fn open_one<'b>(&self, i: usize, last: bool, body: &'b mut [u8]) -> Result<&'b mut [u8], Refused> {
        let (text, tag) = body.split_last_chunk_mut().ok_or(Refused)?;
        self.schedule.open_segment(self.at(i, last), self.aad(i), text, tag)?;
        Ok(text)
    }

    /// Opens the only segment of a message in place: `body` is ciphertext and tag before, and plaintext then. The tag is taken off first: what
    /// was written just before it is moved holds the move up. [SEG-6]
    #[inline]
    pub(crate) fn open_only(&self, body: &mut BytesMut) -> Result<(), Refused> {
        let tag = *body.last_chunk().ok_or(Refused)?;
        body.truncate(body.len() - TAG_LEN);
        self.schedule.open_segment(self.at(0, true), self.aad, body, &tag)
    }

    /// Opens one segment on its way to `out`, which is as long as its plaintext: `body` is ciphertext and tag. On an error there is nothing in
    /// `out`. [SEG-6]
    pub(crate) fn open_from(&self, i: usize, last: bool, body: &[u8], out: &mut [u8]) -> Result<(), Refused> {
        let (text, tag) = body.split_last_chunk::<TAG_LEN>().ok_or(Refused)?;
        self.schedule.open_segment_from(self.at(i, last), self.aad(i), text, out, tag)
    }

    /// Opens all segments of `body` into a buffer of their own. The error is the segment that is not authentic.
    pub(crate) fn open(&self, plan: SegmentPlan, plaintext: usize, body: &[u8]) -> Result<BytesMut, u64> {
        let mut out = BytesMut::with_capacity(plaintext + 16);
        for i in 0..plan.segments() {
            let (start, prefix) = (out.len(), plan.prefix(i));
            let at = plan.sealed_offset(i) + 4;
            out.extend_from_slice(&body[at..at + prefix.body_len()]);
            if self.open_one(i, prefix.last, &mut out[start..]).is_err() {
                out.zeroize_all();
                return Err(len64(i));
            }
            out.truncate(start + prefix.ciphertext_len());
        }
        Ok(out)
    }

    /// Opens all segments of `body` where they are and moves them together; the plaintext starts at byte 4. On an
    /// error what was plaintext is wiped.
    pub(crate) fn open_in_place(&self, plan: SegmentPlan, body: &mut [u8]) -> Result<(), u64> {
        let mut end = 4;
        for i in 0..plan.segments() {
            let (range, prefix) = (plan.plaintext_range(i), plan.prefix(i));
            let at = plan.sealed_offset(i) + 4;
            if self.open_one(i, prefix.last, &mut body[at..at + prefix.body_len()]).is_err() {
                body[..at].zeroize();
                return Err(len64(i));
            }
            if i > 0 {
                body.copy_within(at..at + range.len(), 4 + range.start);
            }
            end = 4 + range.end;
        }
        body[end..].zeroize();
        Ok(())
    }
}

/// Wipes a buffer and empties it.
pub(crate) trait ZeroizeAll {
    fn zeroize_all(&mut self);
}

impl ZeroizeAll for BytesMut {
    fn zeroize_all(&mut self) {
        self[..].zeroize();
        self.clear();
    }
}

/// Walks the prefixes of a whole message's segments, without a key: how much plaintext they carry, and where
/// they end. `body` starts `offset` bytes into the message.
pub(crate) fn scan(body: &[u8], offset: u64, segment_log2: u8, limits: &Limits) -> Result<(usize, u64), ParseError> {
    let mut reader = Reader::new(body, offset);
    let mut plaintext = 0u64;
    for i in 0.. {
        let prefix = SegmentPrefix::parse(&mut reader, i, segment_log2)?;
        plaintext = plaintext.saturating_add(prefix.ciphertext.into());
        // [LIM-3]
        LimitExceeded::check("message", plaintext, limits.message)?;
        reader.take(prefix.body_len(), "segment")?;
        if prefix.last {
            break;
        }
    }
    Ok((index(plaintext), reader.offset()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{crypto::Secret32, wire::Suite};

    fn schedule() -> Schedule {
        Schedule::new(Suite::X25519ChaCha20Poly1305, &[1; 16], &Secret32::copied(&[2; 32])).unwrap()
    }

    const LENGTHS: [usize; 12] = [0, 1, 7, 8, 4087, 4088, 4089, 4095, 4096, 4097, 8192, 20_000];

    #[test]
    fn every_way_gives_the_same_bytes_and_back() {
        let schedule = schedule();
        let segments = Segments { schedule: &schedule, seq: 5, aad: b"aad" };
        for len in LENGTHS {
            let payload: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let plan = SegmentPlan::new(len, 12).unwrap();
            let plaintext = Plaintext::new(&payload, false, &Limits::default()).unwrap();
            let mut sealed = BytesMut::from(&b"before"[..]);
            segments.seal(plaintext, plan, &mut sealed).unwrap();
            assert_eq!(sealed[..6], b"before"[..]);
            let body = sealed.split_off(6);
            let mut in_place = BytesMut::from(&payload[..]);
            segments.seal_in_place(plan, 9, &mut in_place).unwrap();
            assert_eq!(in_place[9..], body[..]);
            assert_eq!(scan(&body, 0, 12, &Limits::default()).unwrap(), (len, body.len() as u64));
            assert_eq!(segments.open(plan, len, &body).unwrap(), payload);
            let mut buffer = body.clone();
            segments.open_in_place(plan, &mut buffer).unwrap();
            assert_eq!(buffer[4..4 + len], payload);
            assert!(buffer[4 + len..].iter().all(|byte| *byte == 0), "a second copy of plaintext is left");
        }
    }

    #[test]
    fn what_is_wiped_is_empty() {
        let mut buffer = BytesMut::from(&b"plaintext"[..]);
        buffer.zeroize_all();
        assert!(buffer.is_empty());
    }

    /// Proves SEG-6: after a failure the buffer holds no plaintext, whichever segment is wrong.
    #[test]
    fn a_failure_leaves_no_plaintext() {
        let schedule = schedule();
        let segments = Segments { schedule: &schedule, seq: 0, aad: &[] };
        let payload = [0x5a; 3 * 4096 + 100];
        let plan = SegmentPlan::new(payload.len(), 12).unwrap();
        let mut body = BytesMut::new();
        segments.seal(Plaintext::new(&payload, false, &Limits::default()).unwrap(), plan, &mut body).unwrap();
        for i in 0..plan.segments() {
            let mut buffer = body.clone();
            buffer[plan.sealed_offset(i) + 50] ^= 1;
            assert_eq!(segments.open_in_place(plan, &mut buffer), Err(i as u64));
            assert!(!buffer.windows(8).any(|w| w == [0x5a; 8]));
            let mut buffer = body.clone();
            buffer[plan.sealed_offset(i) + 50] ^= 1;
            assert_eq!(segments.open(plan, payload.len(), &buffer).unwrap_err(), i as u64);
        }
    }

    #[test]
    fn padding_is_the_same_in_whatever_pieces() {
        for len in LENGTHS {
            let payload = vec![7; len];
            let plaintext = Plaintext::new(&payload, true, &Limits::default()).unwrap();
            let mut whole = payload.clone();
            whole.resize(plaintext.len() - 8, 0);
            whole.extend((len as u64).to_be_bytes());
            for size in [1, 3, 8, 100, 4096, 1 << 20] {
                let mut out = vec![9; whole.len()];
                let mut at = 0;
                while at < whole.len() {
                    let end = (at + size).min(whole.len());
                    plaintext.copy(at..end, &mut out[at..end]);
                    at = end;
                }
                assert_eq!(out, whole, "{len} in {size}");
            }
            assert_eq!(unpadded_len(&whole), Ok(len));
        }
    }

    /// Proves PAD-2, PAD-3, PAD-4.
    #[test]
    fn padding_is_strict() {
        let pad = |len: u64, zeros: usize| [vec![9; 3], vec![0; zeros], len.to_be_bytes().to_vec()].concat();
        assert_eq!(unpadded_len(&pad(3, 1)), Ok(3));
        // The last is 3 to whoever looks at 32 bits of it.
        for bad in [pad(3, 0), pad(3, 2), pad(4, 2), pad(u64::MAX, 1), vec![0; 7], vec![], pad((1 << 32) + 3, 1)] {
            assert!(unpadded_len(&bad).is_err(), "{bad:?}");
        }
        assert!(unpadded_len(&pad(2, 1)).is_err());
    }

    /// Padded lengths at the end of the address space are right, or there are none.
    #[test]
    fn padded_lengths_do_not_wrap() {
        let lengths = (4..usize::BITS).flat_map(|e| [(1 << e) - 9, (1 << e) - 8, (1 << e) - 7, 1 << e]);
        for len in lengths.chain((0..20).map(|off| usize::MAX - off)) {
            let wanted = len64(len).checked_add(8).and_then(padme);
            assert_eq!(padded_len(len).map(len64), wanted.filter(|n| *n <= len64(usize::MAX)), "{len}");
            assert!(padded_len(len).is_none_or(|padded| padded - 8 >= len), "{len}");
        }
        assert_eq!(padded_len(usize::MAX), None);
    }

    /// Proves LIM-3.
    #[test]
    fn the_limit_is_on_the_padded_length() {
        let limits = Limits { message: 1000, ..Limits::default() };
        assert!(Plaintext::new(&[0; 1000], false, &limits).is_ok());
        assert!(Plaintext::new(&[0; 1001], false, &limits).is_err());
        assert!(Plaintext::new(&[0; 992], true, &limits).is_err());
        assert!(Plaintext::new(&[0; 984], true, &limits).is_ok());
        let body = [&4112u32.to_be_bytes()[..], &[0; 4112]].concat();
        for arrived in [body.len(), 4] {
            assert!(matches!(scan(&body[..arrived], 0, 12, &limits), Err(ParseError::LimitExceeded(_))));
        }
    }
}
