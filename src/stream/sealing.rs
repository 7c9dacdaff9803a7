//! Payload -> sealed segments, sans-I/O: what the writers have in common.

use zeroize::Zeroize;

use super::crew::{Crew, Finished, Segment, Work};
use crate::{
    crypto::{
        Refused,
        backend::Hash,
        schedule::{Schedule, SegmentAt},
    },
    payload::{padded_len64, parts_of},
    seal::{Begun, STREAM_SEQ, SealError, Sealer, SealerBuilder, Unsigned},
    wire::{LimitExceeded, MAX_SEGMENTS, PREFIX_LEN, SegmentPrefix, TAG_LEN, len64},
};

/// A message under way. Plaintext goes in, sealed segments come out; the current one is gathered where it is encrypted.
pub(super) struct Sealing {
    crew: Crew<Seal>,
    /// Room for a prefix, and plaintext.
    gathered: Vec<u8>,
    /// Buffers whose segments have been written.
    spare: Vec<Vec<u8>>,
    /// Plaintext bytes of a segment that is full.
    size: usize,
    /// The number of the segment that is gathered.
    index: u64,
    /// Bytes of plaintext so far, and how many there may be.
    total: u64,
    longest: u64,
    end: End,
    failed: bool,
    block: Block,
}

/// How far the end has come.
#[derive(Clone, Copy)]
enum End {
    Open {
        pad: bool,
    },
    /// `00* ‖ payload_len` (spec 8): so many zeros are missing, and so many bytes of what follows them.
    Padding {
        zeros: u64,
        trailer: [u8; 8],
        left: usize,
    },
    Sealed,
}

/// The DEK block, and what is missing in it where the message is signed as a whole.
struct Block {
    bytes: Vec<u8>,
    signature: Option<Signature>,
}

struct Signature {
    unsigned: Unsigned,
    hash: Hash,
    binding: Vec<u8>,
}

/// Where a DEK block is put.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In front, and for good.
    Front,
    /// In front, and once more when the proof is made.
    FrontTwice,
    /// Apart from the message.
    Apart,
}

/// What is done to segments.
struct Seal {
    schedule: Schedule,
    /// Of segment 0.
    aad: Vec<u8>,
}

impl Work for Seal {
    fn run(&self, segment: &mut Segment) -> Result<(), Refused> {
        self.put(segment, |at, aad, text, tag| self.schedule.seal_segment(at, aad, text, tag))
    }
}

impl Seal {
    /// The same of plaintext that stands elsewhere: it is touched once.
    fn run_from(&self, plaintext: &[u8], segment: &mut Segment) -> Result<(), Refused> {
        segment.bytes.resize(PREFIX_LEN + plaintext.len(), 0);
        self.put(segment, |at, aad, text, tag| self.schedule.seal_segment_from(at, aad, plaintext, text, tag))
    }

    /// Prefix and tag around what `seal` encrypts.
    fn put(
        &self,
        segment: &mut Segment,
        seal: impl FnOnce(SegmentAt, &[u8], &mut [u8], &mut [u8; TAG_LEN]) -> Result<(), Refused>,
    ) -> Result<(), Refused> {
        let Segment { index, last, bytes } = segment;
        let aad = if *index == 0 { &self.aad[..] } else { &[] };
        bytes.extend_from_slice(&[0; TAG_LEN]);
        let (prefix, text, tag) = parts_of(bytes)?;
        *prefix = SegmentPrefix { last: *last, ciphertext: u32::try_from(text.len()).map_err(|_| Refused)? }.encode();
        seal(SegmentAt { seq: STREAM_SEQ, index: *index, last: *last }, aad, text, tag)
    }
}

impl Sealing {
    /// Begins a message with a DEK of its own; gives what stands before its first segment.
    pub(super) fn begin(sealer: &mut Sealer, context: &[u8], place: Place) -> Result<(Self, Vec<u8>), SealError> {
        if place == Place::Front && sealer.settings.signs_messages {
            return Err(SealError::SignatureNeedsSeek);
        }
        let Begun { block, head, schedule, aad, unsigned } = sealer.begin_stream(context)?;
        let SealerBuilder { pad, segment_log2, binding, .. } = &sealer.settings;
        let signature = unsigned.map(|unsigned| {
            let mut hash = Hash::new();
            hash.update(&head);
            Signature { unsigned, hash, binding: binding.clone() }
        });
        let front = if place == Place::Apart { head } else { [&block[..], &head].concat() };
        let sealing = Self {
            crew: Crew::new(Seal { schedule, aad }),
            gathered: vec![0; PREFIX_LEN],
            spare: Vec::new(),
            size: 1 << segment_log2,
            index: 0,
            total: 0,
            longest: sealer.settings.suite.longest_message(),
            end: End::Open { pad: *pad },
            failed: false,
            block: Block { bytes: block.into(), signature },
        };
        Ok((sealing, front))
    }

    pub(super) fn set_threads(&mut self, threads: usize) {
        self.crew.set_threads(threads, self.size);
    }

    /// Nothing can be sealed any more: an output has failed, or a nonce is used up.
    pub(super) fn fail(&mut self) {
        self.failed = true;
    }

    pub(super) fn check(&self) -> Result<(), SealError> {
        if self.failed { Err(SealError::Failed) } else { Ok(()) }
    }

    /// Takes as much of `data` as fits; none while [`next`](Self::next) must be asked first.
    pub(super) fn write(&mut self, data: &[u8]) -> Result<usize, SealError> {
        self.check()?;
        // A full segment waits for what follows: it may be the final one.
        if self.is_full() && !data.is_empty() {
            if !self.crew.has_room() {
                return Ok(0);
            }
            self.push(false)?;
        }
        let whole = self.gathered.len() == PREFIX_LEN && data.len() > self.size;
        if whole && self.crew.has_room() && self.crew.is_callers() {
            self.push_from(&data[..self.size])?;
            return Ok(self.size);
        }
        let n = data.len().min(PREFIX_LEN + self.size - self.gathered.len());
        self.reserve(n);
        self.gathered.extend_from_slice(&data[..n]);
        self.total += len64(n);
        Ok(n)
    }

    /// Goes on with padding and the final segment; tells whether all of it is on its way. If not, [`next`](Self::next) comes first.
    pub(super) fn close(&mut self) -> Result<bool, SealError> {
        self.check()?;
        const ZEROS: [u8; 4096] = [0; 4096];
        if let End::Open { pad } = self.end {
            let over = LimitExceeded { limit: "message", value: self.total, maximum: u64::MAX >> 1 };
            let left = if pad { 8 } else { 0 };
            let padded = if pad { padded_len64(self.total).ok_or(over)? } else { self.total };
            let zeros = padded - self.total - len64(left);
            self.end = End::Padding { zeros, trailer: self.total.to_be_bytes(), left };
        }
        while let End::Padding { zeros, trailer, left } = self.end {
            let next = match usize::try_from(zeros).unwrap_or(usize::MAX) {
                0 => &trailer[8 - left..],
                zeros => &ZEROS[..zeros.min(ZEROS.len())],
            };
            if next.is_empty() {
                if !self.crew.has_room() {
                    return Ok(false);
                }
                self.push(true)?;
                self.end = End::Sealed;
                break;
            }
            match self.write(next)? {
                0 => return Ok(false),
                n if zeros > 0 => self.end = End::Padding { zeros: zeros - len64(n), trailer, left },
                n => self.end = End::Padding { zeros, trailer, left: left - n },
            }
        }
        Ok(true)
    }

    /// The next sealed segment. Where it must be waited for, only with `wait`.
    pub(super) fn next(&mut self, wait: bool) -> Result<Option<Vec<u8>>, SealError> {
        self.check()?;
        let popped = self.crew.pop(wait);
        // Asked of the system where something leaves or is waited for, and not at every small write.
        if popped.is_some() || wait {
            self.check_process()?;
        }
        let Some(mut finished) = popped else { return Ok(None) };
        if finished.result.is_err() {
            self.fail();
            return Err(SealError::Primitive);
        }
        let sealed = std::mem::take(&mut finished.segment.bytes);
        if let Some(Signature { hash, .. }) = &mut self.block.signature {
            hash.update(&sealed);
        }
        Ok(Some(sealed))
    }

    /// Takes a buffer back, whose bytes are no secret.
    pub(super) fn reuse(&mut self, buffer: Vec<u8>) {
        self.spare.push(buffer);
    }

    /// The block as it is to be when everything has been written, with the proof where there is one.
    pub(super) fn finished_block(&mut self) -> Result<Vec<u8>, SealError> {
        let mut block = std::mem::take(&mut self.block.bytes);
        if let Some(Signature { unsigned, mut hash, binding }) = self.block.signature.take() {
            hash.update(&binding);
            unsigned.sign_hash(&self.crew.work().schedule, &mut block, &hash.finish())?;
        }
        Ok(block)
    }

    pub(super) fn is_signed(&self) -> bool {
        self.block.signature.is_some()
    }

    fn is_full(&self) -> bool {
        self.gathered.len() == PREFIX_LEN + self.size
    }

    fn check_process(&self) -> Result<(), SealError> {
        // [KEY-5] The check is where bytes leave.
        if self.crew.is_at_home() { Ok(()) } else { Err(SealError::Forked) }
    }

    /// Sends what is gathered to be sealed.
    fn push(&mut self, last: bool) -> Result<(), SealError> {
        let index = self.next_index(last)?;
        let mut next = self.spare.pop().unwrap_or_default();
        next.clear();
        next.extend_from_slice(&[0; PREFIX_LEN]);
        let bytes = std::mem::replace(&mut self.gathered, next);
        self.crew.push(Segment { index, last, bytes });
        Ok(())
    }

    /// Seals a whole segment, that others follow, from where it stands.
    fn push_from(&mut self, plaintext: &[u8]) -> Result<(), SealError> {
        self.total += len64(plaintext.len());
        let index = self.next_index(false)?;
        let mut segment = Segment { index, last: false, bytes: self.spare.pop().unwrap_or_default() };
        segment.bytes.reserve_exact((PREFIX_LEN + self.size + TAG_LEN).saturating_sub(segment.bytes.len()));
        let result = self.crew.work().run_from(plaintext, &mut segment);
        self.crew.push_done(Finished { segment, result });
        Ok(())
    }

    /// The number of the segment that is sealed now.
    fn next_index(&mut self, last: bool) -> Result<u64, SealError> {
        self.check_process()?;
        // [SEG-5]
        let most = if last { MAX_SEGMENTS } else { MAX_SEGMENTS - 1 };
        let segments = LimitExceeded::check("segments", self.index + 1, most);
        // [SEG-11]
        if let Err(over) = segments.and_then(|()| LimitExceeded::check("message", self.total, self.longest)) {
            self.fail();
            return Err(over.into());
        }
        self.index += 1;
        Ok(self.index - 1)
    }

    /// Makes room for `n` bytes and a tag. Growing by itself would leave plaintext behind in the old place.
    fn reserve(&mut self, n: usize) {
        let needed = self.gathered.len() + n + TAG_LEN;
        if self.gathered.capacity() < needed {
            let whole = PREFIX_LEN + self.size + TAG_LEN;
            // A message that has filled a segment fills others.
            let most = if self.index > 0 { whole } else { needed.next_power_of_two().min(whole) };
            let mut larger = Vec::with_capacity(most);
            larger.extend_from_slice(&self.gathered);
            self.gathered.zeroize();
            self.gathered = larger;
        }
    }
}

/// Plaintext that was not sealed is wiped.
impl Drop for Sealing {
    fn drop(&mut self) {
        self.gathered.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Cmk, Suite};

    /// Proves SEG-11: under AES-256-GCM the last byte is that at 2^38, and nothing of a longer message is sealed as its end.
    #[test]
    fn a_message_of_suite_2_ends() {
        let to = Cmk::from_x25519(&[1; 32]).recipient().clone();
        for (suite, already, seals) in [
            (Suite::X25519Aes256Gcm, (1 << 38) - 5, true),
            (Suite::X25519Aes256Gcm, (1 << 38) - 4, false),
            (Suite::X25519ChaCha20Poly1305, 1 << 40, true),
        ] {
            let mut sealer = Sealer::builder().to(to.clone()).suite(suite).build().unwrap();
            let (mut sealing, _) = Sealing::begin(&mut sealer, b"", Place::Front).unwrap();
            sealing.total = already;
            assert_eq!(sealing.write(b"bytes"), Ok(5));
            let over = LimitExceeded { limit: "message", value: already + 5, maximum: 1 << 38 };
            assert_eq!(sealing.close(), if seals { Ok(true) } else { Err(over.into()) });
            assert_eq!(sealing.check().is_ok(), seals);
        }
    }
}
