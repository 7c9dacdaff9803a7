//! One DEK in use: messages under it, each with the next `seq`.

use bytes::{BufMut, Bytes, BytesMut};

use super::{SealError, builder::Unsigned};
use crate::{
    crypto::{Secret32, schedule::Schedule},
    payload::{Plaintext, Segments},
    platform::Moment,
    wire::{FOLLOW_UP_HEAD_LEN, Flags, FollowUpHead, MESSAGE_HEAD_LEN, MessageHead, PREFIX_LEN, SegmentPlan, TAG_LEN, len64},
};

/// How a message begins.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lead {
    Envelope,
    /// The block is kept apart.
    Detached,
    FollowUp,
}

/// Bytes of a small payload: always one segment.
const SMALL: usize = 1024;

/// What a message says about itself before its first segment.
#[derive(Clone, Copy)]
pub(crate) struct Front<'a> {
    pub(crate) lead: Lead,
    pub(crate) flags: Flags,
    pub(crate) context: &'a [u8],
}

/// A message apart from its bytes: what it says, and what both sides know without its saying so.
pub(crate) struct Message<'a> {
    pub(crate) front: Front<'a>,
    pub(crate) chain: Option<&'a Secret32>,
    pub(crate) binding: &'a [u8],
}

/// One DEK in use: its block, its keys, and what has been sealed under it.
pub(crate) struct Epoch {
    pub(super) block: Bytes,
    /// Where the block belongs to one message: what signs it.
    pub(super) unsigned: Option<Unsigned>,
    pub(crate) schedule: Schedule,
    /// When it is too old; `None` where it never is.
    pub(super) ends: Option<Moment>,
    pub(super) messages: u64,
    pub(super) bytes: u64,
    pub(crate) next_seq: Option<u64>,
}

impl Epoch {
    /// The header_mac of the block.
    pub(crate) fn header_mac(&self) -> Option<[u8; 32]> {
        self.block.last_chunk().copied()
    }

    /// Appends a message. `seq` is consumed before the first byte is encrypted, also where that then fails.
    pub(crate) fn seal(
        &mut self,
        message: &Message<'_>,
        plaintext: Plaintext<'_>,
        segment_log2: u8,
        aad: &mut Vec<u8>,
        out: &mut BytesMut,
    ) -> Result<(), SealError> {
        let begun = self.begin(message, plaintext.len(), segment_log2, aad)?;
        let start = out.len();
        self.append(&begun, message.front, &plaintext, aad, out)?;
        self.sign(message, &mut out[start..]).inspect_err(|_| out.truncate(start))
    }

    /// Appends all parts of a message. On an error `out` is as it was.
    #[inline]
    pub(crate) fn append(
        &self,
        begun: &Started,
        says: Front<'_>,
        plaintext: &Plaintext<'_>,
        aad: &[u8],
        out: &mut BytesMut,
    ) -> Result<(), SealError> {
        let Some(payload) = plaintext.alone(SMALL) else {
            return begun.append(out, |i, part| self.put_part(begun, says, plaintext, i, aad, part));
        };
        let start = out.len();
        out.reserve(begun.front + payload.len() + PREFIX_LEN + TAG_LEN);
        self.put_front(says, begun, out);
        let segments = Segments { schedule: &self.schedule, seq: begun.seq, aad };
        Ok(segments.append_only(payload, out).inspect_err(|_| out.truncate(start))?)
    }

    /// Writes part `i` of a message to `out`, which is as long as [`Started::part_len`]: segment `i`, and what stands before the first.
    pub(crate) fn put_part(
        &self,
        begun: &Started,
        says: Front<'_>,
        plaintext: &Plaintext<'_>,
        i: usize,
        aad: &[u8],
        out: &mut [u8],
    ) -> Result<(), SealError> {
        let (front, segment) = out.split_at_mut_checked(begun.front_of(i)).ok_or(SealError::Primitive)?;
        if i == 0 {
            self.put_front(says, begun, &mut &mut *front);
        }
        Ok(Segments { schedule: &self.schedule, seq: begun.seq, aad }.seal_one(plaintext, begun.plan, i, segment)?)
    }

    /// The same for a message of one segment whose plaintext stands in `out` where its ciphertext is to be.
    #[cfg(feature = "codec")]
    pub(crate) fn put_around(&self, begun: &Started, says: Front<'_>, aad: &[u8], out: &mut [u8]) -> Result<(), SealError> {
        let (front, segment) = out.split_at_mut_checked(begun.front).ok_or(SealError::Primitive)?;
        self.put_front(says, begun, &mut &mut *front);
        Ok(Segments { schedule: &self.schedule, seq: begun.seq, aad }.seal_where_it_is(0, true, segment)?)
    }

    pub(super) fn seal_in_place(
        &mut self,
        message: &Message<'_>,
        segment_log2: u8,
        aad: &mut Vec<u8>,
        buffer: &mut BytesMut,
    ) -> Result<(), SealError> {
        let begun = self.begin(message, buffer.len(), segment_log2, aad)?;
        let segments = Segments { schedule: &self.schedule, seq: begun.seq, aad };
        segments.seal_in_place(begun.plan, begun.front, buffer)?;
        self.put_front(message.front, &begun, &mut &mut buffer[..begun.front]);
        self.sign(message, buffer)
    }

    /// The block of a message that is kept apart from it.
    pub(super) fn detached_block(&self, message: &Message<'_>, sealed: &[u8]) -> Result<Bytes, SealError> {
        let Some(unsigned) = &self.unsigned else { return Ok(self.block.clone()) };
        let mut block = self.block.to_vec();
        unsigned.sign(&self.schedule, &mut block, [sealed, message.binding])?;
        Ok(block.into())
    }

    /// Completes the block of a message that is signed by itself, where it stands before it.
    fn sign(&self, message: &Message<'_>, sealed: &mut [u8]) -> Result<(), SealError> {
        let Some(unsigned) = self.unsigned.as_ref().filter(|_| message.front.lead != Lead::Detached) else { return Ok(()) };
        let (block, rest) = sealed.split_at_mut_checked(self.block.len()).ok_or(SealError::Primitive)?;
        unsigned.sign(&self.schedule, block, [rest, message.binding])
    }

    /// What every message begins with: its plan, its `seq`, and the AAD of its first segment.
    #[inline(always)]
    pub(crate) fn begin(
        &mut self,
        message: &Message<'_>,
        len: usize,
        segment_log2: u8,
        aad: &mut Vec<u8>,
    ) -> Result<Started, SealError> {
        let plan = SegmentPlan::new(len, segment_log2)?;
        let seq = self.consume_seq(len)?;
        let Front { flags, context, .. } = message.front;
        let head = MessageHead { seq, segment_log2, flags, context };
        build_aad(aad, &head, message.chain, message.binding);
        Ok(Started { plan, seq, segment_log2, front: self.front_len(message.front) })
    }

    #[inline]
    fn consume_seq(&mut self, len: usize) -> Result<u64, SealError> {
        // [KEY-3] [KEY-4]
        let seq = self.next_seq.ok_or(SealError::SequenceExhausted)?;
        self.next_seq = seq.checked_add(1);
        self.messages = self.messages.saturating_add(1);
        self.bytes = self.bytes.saturating_add(len64(len));
        Ok(seq)
    }

    /// Bytes that stand before a message's first segment.
    #[inline]
    fn front_len(&self, says: Front<'_>) -> usize {
        says.context.len()
            + match says.lead {
                Lead::Envelope => self.block.len() + MESSAGE_HEAD_LEN,
                Lead::Detached => MESSAGE_HEAD_LEN,
                Lead::FollowUp => FOLLOW_UP_HEAD_LEN,
            }
    }

    #[inline]
    fn put_front(&self, says: Front<'_>, begun: &Started, out: &mut impl BufMut) {
        let Front { lead, flags, context } = says;
        if lead == Lead::Envelope {
            out.put_slice(&self.block);
        }
        match lead {
            Lead::Envelope | Lead::Detached => {
                MessageHead { seq: begun.seq, segment_log2: begun.segment_log2, flags, context }.encode(out);
            }
            Lead::FollowUp => FollowUpHead { flags, context }.encode(out),
        }
    }
}

/// A message that has its number, and how it falls into parts.
#[derive(Clone, Copy)]
pub(crate) struct Started {
    pub(crate) plan: SegmentPlan,
    seq: u64,
    segment_log2: u8,
    /// Bytes before the first segment.
    pub(crate) front: usize,
}

impl Started {
    /// Appends what `put` writes as each part, one after the other, so that each is in the cache while it is made. On an error `out` is as
    /// it was.
    pub(crate) fn append(
        &self,
        out: &mut BytesMut,
        mut put: impl FnMut(usize, &mut [u8]) -> Result<(), SealError>,
    ) -> Result<(), SealError> {
        let start = out.len();
        out.reserve(self.front + self.plan.sealed_len());
        for i in 0..self.plan.segments() {
            let at = out.len();
            out.resize(at + self.part_len(i), 0);
            put(i, &mut out[at..]).inspect_err(|_| out.truncate(start))?;
        }
        Ok(())
    }

    /// Bytes of segment `i`, and of what stands before the first.
    pub(crate) fn part_len(&self, i: usize) -> usize {
        self.front_of(i) + self.plan.sealed_len_of(i)
    }

    fn front_of(&self, i: usize) -> usize {
        if i == 0 { self.front } else { 0 }
    }
}

/// The AAD of segment 0 (spec 5.4), in one form for envelopes and follow-ups:
/// `seq ‖ segment_log2 ‖ flags ‖ context_len ‖ context ‖ chain if renewal ‖ binding`.
#[inline]
pub(crate) fn build_aad(aad: &mut Vec<u8>, head: &MessageHead<'_>, chain: Option<&Secret32>, binding: &[u8]) {
    aad.clear();
    head.encode(aad);
    if let Some(chain) = chain {
        aad.extend(chain.bytes());
    }
    if !binding.is_empty() {
        aad.extend(binding);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Cmk, Limits, Reuse, Sealer, crypto::proof::Covers};

    /// What counts the messages and bytes under a DEK stands still at its end, and a DEK that has come there is spent; seq goes to
    /// its last number and no further. Proves KEY-4, USE-1.
    #[test]
    fn counters_end_and_do_not_begin_again() {
        let all = Reuse { messages: u64::MAX, bytes: u64::MAX, age: std::time::Duration::MAX };
        let to = Cmk::from_x25519(&[1; 32]).recipient().clone();
        let mut sealer = Sealer::builder().to(to).reuse(all).build().unwrap();
        let mut epoch = sealer.fresh_epoch(u64::MAX, Covers::Dek).unwrap();
        (epoch.messages, epoch.bytes) = (u64::MAX - 1, u64::MAX - 3);
        assert!(!sealer.is_spent(&epoch, 3));
        let front = Front { lead: Lead::Envelope, flags: Flags::default(), context: b"" };
        let message = Message { front, chain: None, binding: b"" };
        let plaintext = Plaintext::new(b"four", false, &Limits::default()).unwrap();
        let (mut aad, mut out) = (Vec::new(), BytesMut::new());
        epoch.seal(&message, plaintext, 16, &mut aad, &mut out).unwrap();
        assert_eq!((epoch.messages, epoch.bytes, epoch.next_seq), (u64::MAX, u64::MAX, None));
        assert!(sealer.is_spent(&epoch, 0));
        // No seq is reason enough, whatever the counters say.
        (epoch.messages, epoch.bytes) = (1, 0);
        assert!(sealer.is_spent(&epoch, 0));
        let sealed = out.len();
        assert_eq!(epoch.seal(&message, plaintext, 16, &mut aad, &mut out), Err(SealError::SequenceExhausted));
        assert_eq!(out.len(), sealed);
    }
}
