//! Payload -> envelope (spec 2, 6, 10). Sans-I/O; holds the DEK that it reuses, and counts `seq`.
#![deny(clippy::cast_possible_truncation)]

pub(crate) mod block;
mod builder;
mod epoch;
mod error;
mod pool;

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

use crate::{
    crypto::{proof::Covers, schedule::Schedule},
    keys::{DataKey, Dek, Recipient},
    payload::{Plaintext, ZeroizeAll},
    platform::{Clock, Entropy, Process},
    wire::{Flags, HintMode, Limits, MessageHead, Suite, check_context, len64},
};
use builder::Block;
pub use builder::SealerBuilder;
pub(crate) use builder::Unsigned;
pub(crate) use epoch::{Epoch, Front, Lead, Message, Started, build_aad};
pub use error::SealError;
pub use pool::SealerPool;

/// How long a DEK is reused: until the first of the three (spec 10.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reuse {
    /// Messages under one DEK.
    pub messages: u64,
    /// Bytes of plaintext under one DEK.
    pub bytes: u64,
    /// Time since the DEK was made.
    pub age: Duration,
}

impl Default for Reuse {
    fn default() -> Self {
        Self { messages: 1 << 20, bytes: 64 << 30, age: Duration::from_secs(3600) }
    }
}

impl Reuse {
    /// A fresh DEK for every message.
    pub const NEVER: Self = Self { messages: 1, bytes: u64::MAX, age: Duration::MAX };
}

/// Seals one payload, with a DEK of its own, to `to`.
///
/// # Errors
/// [`SealError`].
///
/// ```
/// use sealwire::{Cmk, Keyring, open, seal};
/// let cmk = Cmk::generate()?;
/// let envelope = seal(b"attack at dawn", &[cmk.recipient().clone()])?;
/// assert_eq!(envelope.len(), 14 + 185);
/// let opened = open(&envelope, &Keyring::from(cmk))?;
/// assert_eq!(&opened.payload[..], b"attack at dawn");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn seal(payload: &[u8], to: &[Recipient]) -> Result<Vec<u8>, SealError> {
    Sealer::builder().to_all(to.iter().cloned()).build()?.seal(b"", payload)
}

/// A message and its DEK block, apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// What the block is called: [`block_name`].
    pub name: [u8; 16],
    /// The DEK block; the same for all messages under one DEK, unless each is signed.
    pub block: Bytes,
    /// Message head and segments.
    pub message: Vec<u8>,
}

/// What a DEK block can be stored under: its salt, random for each block and the same after a rewrap. `None` where the bytes are too
/// short for a block. [DET-3]
#[must_use]
pub fn block_name(block: &[u8]) -> Option<[u8; 16]> {
    block.get(SALT_AT..)?.first_chunk().copied()
}

/// Where the salt stands in a DEK block (spec 4.1).
const SALT_AT: usize = 21;

/// Seals payloads to fixed recipients and reuses a DEK for a period (spec 10.1).
///
/// It can be sent to another thread, and neither cloned nor stored: `seq` lives beside the DEK and nowhere else.
///
/// ```
/// use sealwire::{Cmk, Reuse, Sealer};
/// let cmk = Cmk::generate()?;
/// let mut sealer = Sealer::builder().to(cmk.recipient().clone()).reuse(Reuse::default()).build()?;
/// let first = sealer.seal(b"", b"one")?;
/// let second = sealer.seal(b"", b"two")?;
/// assert_eq!(first[..153], second[..153], "one DEK block for both");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Sealer {
    pub(crate) settings: SealerBuilder,
    process: Process,
    epoch: Option<Epoch>,
    aad: Vec<u8>,
}

impl Sealer {
    /// Begins with the default settings.
    pub fn builder() -> SealerBuilder {
        SealerBuilder {
            to: Vec::new(),
            chosen: None,
            suite: Suite::X25519ChaCha20Poly1305,
            hints: HintMode::default(),
            enc_per_slot: false,
            reuse: Reuse::default(),
            pad: false,
            segment_log2: 16,
            limits: Limits::default(),
            binding: Vec::new(),
            given: None,
            through_kms: false,
            signer: None,
            signs_messages: false,
            entropy: Entropy::default(),
            clock: Clock::default(),
        }
    }

    /// Seals `payload` as an envelope of its own.
    ///
    /// # Errors
    /// [`SealError`]; nothing leaves.
    pub fn seal(&mut self, context: &[u8], payload: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut out = BytesMut::new();
        self.seal_into(context, payload, &mut out)?;
        Ok(out.into())
    }

    /// Appends `payload`, sealed as an envelope, to `out`.
    ///
    /// # Errors
    /// [`SealError`]; `out` is then as it was.
    pub fn seal_into(&mut self, context: &[u8], payload: &[u8], out: &mut BytesMut) -> Result<(), SealError> {
        let plaintext = Plaintext::new(payload, self.settings.pad, &self.settings.limits)?;
        let flags = Flags::default().with(Flags::PADDED, plaintext.is_padded());
        self.ready_epoch(context, plaintext.len())?;
        let Self { settings, epoch: Some(epoch), aad, .. } = self else { return Err(SealError::Failed) };
        let message = Message { front: Front { lead: Lead::Envelope, flags, context }, chain: None, binding: &settings.binding };
        epoch.seal(&message, plaintext, settings.segment_log2, aad, out)
    }

    /// Seals `payload` as a message whose DEK block is kept apart (spec 4.5): 32 bytes and the context on top of the payload.
    ///
    /// For many records under one stored block, as the rows of a table: whatever this gives as the block is stored once under its name,
    /// and each record names it. A sealer that takes up its next DEK, or that has just been built, gives another.
    ///
    /// A record is replaced by sealing it anew, never by changing its sealed bytes: each `seq` encrypts once, and there is no
    /// way to encrypt anything under a `seq` again.
    ///
    /// ```
    /// use std::collections::HashMap;
    /// use sealwire::{Cmk, Keyring, Opener, Sealed, Sealer, block_name};
    /// let cmk = Cmk::generate()?;
    /// let mut sealer = Sealer::builder().to(cmk.recipient().clone()).build()?;
    /// let (mut blocks, mut rows) = (HashMap::new(), Vec::new());
    /// for (id, payload) in [("row 1", "ada"), ("row 2", "bob")] {
    ///     // The context holds a record in its place: another row's record does not open here.
    ///     let Sealed { name, block, message } = sealer.seal_detached(id.as_bytes(), payload.as_bytes())?;
    ///     blocks.entry(name).or_insert(block);
    ///     rows.push((name, message));
    /// }
    /// assert_eq!((blocks.len(), rows[0].1.len()), (1, 32 + 5 + 3));
    /// let opener = Opener::new(Keyring::from(cmk));
    /// let (name, message) = &rows[1];
    /// let opened = opener.open_detached(&blocks[name], message)?;
    /// assert_eq!((&opened.context[..], &opened.payload[..]), (&b"row 2"[..], &b"bob"[..]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`SealError`]; nothing leaves.
    pub fn seal_detached(&mut self, context: &[u8], payload: &[u8]) -> Result<Sealed, SealError> {
        let plaintext = Plaintext::new(payload, self.settings.pad, &self.settings.limits)?;
        let flags = Flags::default().with(Flags::PADDED, plaintext.is_padded());
        self.ready_epoch(context, plaintext.len())?;
        let Self { settings, epoch: Some(epoch), aad, .. } = self else { return Err(SealError::Failed) };
        let message = Message { front: Front { lead: Lead::Detached, flags, context }, chain: None, binding: &settings.binding };
        let mut out = BytesMut::new();
        epoch.seal(&message, plaintext, settings.segment_log2, aad, &mut out)?;
        let block = epoch.detached_block(&message, &out)?;
        Ok(Sealed { name: block_name(&block).ok_or(SealError::Primitive)?, block, message: out.into() })
    }

    /// Seals the payload that `buffer` holds; afterwards it holds the envelope.
    ///
    /// # Errors
    /// [`SealError`]. Where the payload was refused before it was touched, `buffer` is as it was; otherwise it is
    /// wiped and empty.
    pub fn seal_in_place(&mut self, context: &[u8], buffer: &mut BytesMut) -> Result<(), SealError> {
        let plaintext = Plaintext::new(buffer, self.settings.pad, &self.settings.limits)?;
        let (len, payload, padded) = (plaintext.len(), buffer.len(), plaintext.is_padded());
        let flags = Flags::default().with(Flags::PADDED, padded);
        self.ready_epoch(context, len)?;
        let Self { settings, epoch: Some(epoch), aad, .. } = self else { return Err(SealError::Failed) };
        if padded {
            buffer.resize(len.saturating_sub(8), 0);
            buffer.put_u64(len64(payload));
        }
        let message = Message { front: Front { lead: Lead::Envelope, flags, context }, chain: None, binding: &settings.binding };
        let sealed = epoch.seal_in_place(&message, settings.segment_log2, aad, buffer);
        if sealed.is_err() {
            buffer.zeroize_all();
        }
        sealed
    }

    /// Goes on with another data key: the next message begins with its block. After a DEK that no KMS has a ciphertext of, the next are made
    /// here again.
    ///
    /// # Errors
    /// [`SealError`] for one that cannot be taken up; the sealer is then as it was.
    pub fn renew_with(&mut self, data_key: DataKey) -> Result<(), SealError> {
        self.settings.check_data_key(&data_key)?;
        (self.settings.through_kms, self.settings.given) = (data_key.count > 0, Some(data_key));
        self.epoch = None;
        Ok(())
    }

    /// The DEK block by itself: a ciphertext DEK for who has no message yet.
    #[cfg(feature = "kms")]
    pub(crate) fn block(&mut self) -> Result<Bytes, SealError> {
        self.ready_epoch(b"", 0)?;
        self.epoch.as_ref().map(|epoch| epoch.block.clone()).ok_or(SealError::Failed)
    }

    /// Whether there is a DEK for what follows the one in use.
    pub(crate) fn check_next_dek(&self) -> Result<(), SealError> {
        // [EXT-3]
        if self.settings.through_kms && self.settings.given.is_none() { Err(SealError::DataKeySpent) } else { Ok(()) }
    }

    /// Keeps the DEK in use where it may seal `len` bytes more, otherwise takes up a fresh one. Checks what costs no `seq` first.
    fn ready_epoch(&mut self, context: &[u8], len: usize) -> Result<(), SealError> {
        self.check_process()?;
        // [LIM-4]
        check_context(context, &self.settings.limits)?;
        if self.epoch.as_ref().is_none_or(|epoch| self.is_spent(epoch, len)) {
            self.epoch = None;
            self.epoch = Some(self.fresh_epoch(0, Covers::Dek)?);
        }
        Ok(())
    }

    pub(crate) fn check_process(&self) -> Result<(), SealError> {
        // [KEY-5]
        if self.process.is_current() { Ok(()) } else { Err(SealError::Forked) }
    }

    /// The same settings, and no DEK in use.
    pub(crate) fn without_epoch(mut self) -> Self {
        self.epoch = None;
        self
    }

    /// Whether a DEK has been used as often, as much or as long as it may be.
    pub(crate) fn is_spent(&self, epoch: &Epoch, len: usize) -> bool {
        let Reuse { messages, bytes, .. } = self.settings.reuse;
        // [USE-1]
        epoch.unsigned.is_some()
            || epoch.messages >= messages
            || epoch.bytes.saturating_add(len64(len)) > bytes
            || epoch.next_seq.is_none()
            || epoch.ends.is_some_and(|ends| self.settings.clock.has_come(ends))
    }

    /// Begins a message whose length nobody knows yet, under a DEK of its own.
    pub(crate) fn begin_stream(&mut self, context: &[u8]) -> Result<Begun, SealError> {
        self.check_process()?;
        // [LIM-4]
        check_context(context, &self.settings.limits)?;
        let Epoch { block, unsigned, schedule, .. } = self.fresh_epoch(STREAM_SEQ, Covers::Dek)?;
        let SealerBuilder { pad, segment_log2, binding, .. } = &self.settings;
        // [KEY-3] The DEK is not used for anything else, so its first number is used up.
        let flags = Flags::default().with(Flags::PADDED, *pad);
        let head = MessageHead { seq: STREAM_SEQ, segment_log2: *segment_log2, flags, context };
        let (mut aad, mut bytes) = (Vec::new(), Vec::with_capacity(head.encoded_len()));
        build_aad(&mut aad, &head, None, binding);
        head.encode(&mut bytes);
        Ok(Begun { block, head: bytes, schedule, aad, unsigned })
    }

    /// Takes up a DEK: a new salt, a block, and `seq` from `first_seq` on.
    pub(crate) fn fresh_epoch(&mut self, first_seq: u64, covers: Covers<'_>) -> Result<Epoch, SealError> {
        // [KEY-5]
        if !self.process.is_current_by_number() {
            return Err(SealError::Forked);
        }
        self.check_next_dek()?;
        let settings = &mut self.settings;
        let data_key = match settings.given.take() {
            Some(given) => given,
            None => Dek::generate_from(&mut settings.entropy)?.into(),
        };
        // [KEY-6]
        let salt = settings.entropy.array()?;
        let schedule = Schedule::new(settings.suite, &salt, &data_key.dek.secret)?;
        let Block { bytes, unsigned } = settings.encode_block(&data_key, &salt, &schedule, covers)?;
        let block = Bytes::from(bytes);
        let ends = settings.clock.after(settings.reuse.age);
        Ok(Epoch { block, unsigned, schedule, ends, messages: 0, bytes: 0, next_seq: Some(first_seq) })
    }
}

/// What a message begins with, and what its segments need.
pub(crate) struct Begun {
    pub(crate) block: Bytes,
    pub(crate) head: Vec<u8>,
    pub(crate) schedule: Schedule,
    /// Of segment 0.
    pub(crate) aad: Vec<u8>,
    pub(crate) unsigned: Option<Unsigned>,
}

/// The number of a streamed message under its DEK, which is its own.
pub(crate) const STREAM_SEQ: u64 = 0;

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves KEY-4: 2^64 − 1 is used, and what follows it has another DEK.
    #[test]
    fn after_the_last_number_comes_another_dek() {
        let to = crate::Cmk::from_x25519(&[1; 32]).recipient().clone();
        let mut sealer = Sealer::builder().to(to).reuse(Reuse { messages: u64::MAX, ..Reuse::default() }).build().unwrap();
        let first = sealer.seal(b"", b"").unwrap();
        sealer.epoch.as_mut().unwrap().next_seq = Some(u64::MAX);
        let (last, next) = (sealer.seal(b"", b"").unwrap(), sealer.seal(b"", b"").unwrap());
        assert_eq!((&last[..153], &last[153..161]), (&first[..153], &[0xff; 8][..]));
        assert_ne!(next[21..37], first[21..37]);
        assert_eq!(next[153..161], [0; 8]);
    }
}
