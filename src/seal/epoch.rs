//! One DEK in use: messages under it, each with the next `seq`.

use bytes::{BufMut, Bytes, BytesMut};

use super::{SealError, builder::Unsigned};
use crate::{
    crypto::{Secret32, schedule::Schedule},
    payload::{Plaintext, Segments},
    platform::Moment,
    wire::{Flags, FollowUpHead, MessageHead, SegmentPlan, len64},
};

/// How a message begins.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lead {
    Envelope,
    /// The block is kept apart.
    Detached,
    FollowUp,
}

/// What a message says about itself, apart from its bytes.
pub(crate) struct Message<'a> {
    pub(crate) lead: Lead,
    pub(crate) flags: Flags,
    pub(crate) context: &'a [u8],
    pub(crate) chain: Option<&'a Secret32>,
    pub(crate) binding: &'a [u8],
}

/// One DEK in use: its block, its keys, and what has been sealed under it.
pub(crate) struct Epoch {
    pub(super) block: Bytes,
    /// Where the block belongs to one message: what signs it.
    pub(super) unsigned: Option<Unsigned>,
    pub(crate) schedule: Schedule,
    pub(super) since: Moment,
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
        let (plan, head) = self.begin(message, plaintext.len(), segment_log2, aad)?;
        let start = out.len();
        out.reserve(self.front_len(message, &head) + plan.sealed_len());
        self.put_front(message, &head, out);
        let segments = Segments { schedule: &self.schedule, seq: head.seq, aad };
        segments.seal(plaintext, plan, out).inspect_err(|_| out.truncate(start))?;
        self.sign(message, &mut out[start..]).inspect_err(|_| out.truncate(start))
    }

    pub(super) fn seal_in_place(
        &mut self,
        message: &Message<'_>,
        segment_log2: u8,
        aad: &mut Vec<u8>,
        buffer: &mut BytesMut,
    ) -> Result<(), SealError> {
        let (plan, head) = self.begin(message, buffer.len(), segment_log2, aad)?;
        let front = self.front_len(message, &head);
        let segments = Segments { schedule: &self.schedule, seq: head.seq, aad };
        segments.seal_in_place(plan, front, buffer)?;
        self.put_front(message, &head, &mut &mut buffer[..front]);
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
        let Some(unsigned) = self.unsigned.as_ref().filter(|_| message.lead != Lead::Detached) else { return Ok(()) };
        let (block, rest) = sealed.split_at_mut_checked(self.block.len()).ok_or(SealError::Primitive)?;
        unsigned.sign(&self.schedule, block, [rest, message.binding])
    }

    /// What every message begins with: its plan, its `seq`, its head, and the AAD of its first segment.
    fn begin<'m>(
        &mut self,
        message: &Message<'m>,
        len: usize,
        segment_log2: u8,
        aad: &mut Vec<u8>,
    ) -> Result<(SegmentPlan, MessageHead<'m>), SealError> {
        let plan = SegmentPlan::new(len, segment_log2)?;
        let seq = self.consume_seq(len)?;
        let head = MessageHead { seq, segment_log2, flags: message.flags, context: message.context };
        build_aad(aad, &head, message.chain, message.binding);
        Ok((plan, head))
    }

    fn consume_seq(&mut self, len: usize) -> Result<u64, SealError> {
        // [KEY-3] [KEY-4]
        let seq = self.next_seq.ok_or(SealError::SequenceExhausted)?;
        self.next_seq = seq.checked_add(1);
        self.messages = self.messages.saturating_add(1);
        self.bytes = self.bytes.saturating_add(len64(len));
        Ok(seq)
    }

    fn front_len(&self, message: &Message<'_>, head: &MessageHead<'_>) -> usize {
        match message.lead {
            Lead::Envelope => self.block.len() + head.encoded_len(),
            Lead::Detached => head.encoded_len(),
            Lead::FollowUp => FollowUpHead { flags: head.flags, context: head.context }.encoded_len(),
        }
    }

    fn put_front(&self, message: &Message<'_>, head: &MessageHead<'_>, out: &mut impl BufMut) {
        match message.lead {
            Lead::Envelope => {
                out.put_slice(&self.block);
                head.encode(out);
            }
            Lead::Detached => head.encode(out),
            Lead::FollowUp => FollowUpHead { flags: head.flags, context: head.context }.encode(out),
        }
    }
}

/// The AAD of segment 0 (spec 5.4), in one form for envelopes and follow-ups:
/// `seq ‖ segment_log2 ‖ flags ‖ context_len ‖ context ‖ chain if renewal ‖ binding`.
pub(crate) fn build_aad(aad: &mut Vec<u8>, head: &MessageHead<'_>, chain: Option<&Secret32>, binding: &[u8]) {
    aad.clear();
    head.encode(aad);
    if let Some(chain) = chain {
        aad.extend(chain.bytes());
    }
    aad.extend(binding);
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
        let message = Message { lead: Lead::Envelope, flags: Flags::default(), context: b"", chain: None, binding: b"" };
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
