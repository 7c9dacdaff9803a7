//! The bytes of a message before its first segment, as they come.

use zeroize::Zeroize;

use crate::wire::{DekBlock, Limits, MessageHead, ParseError, Reader, len64};

/// What is being read of an input. Memory follows what is there, never the length that somebody announced.
#[derive(Default)]
pub(super) struct Intake {
    /// What has come, and room behind it.
    bytes: Vec<u8>,
    have: usize,
}

/// Bytes that there may be room for before any of them have come: a segment of the usual size.
const AT_ONCE: usize = (1 << 16) + 16;

impl Intake {
    pub(super) fn len(&self) -> usize {
        self.have
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.have]
    }

    pub(super) fn clear(&mut self) {
        self.have = 0;
    }

    /// What has come; the room is gone.
    pub(super) fn take(&mut self) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.truncate(std::mem::take(&mut self.have));
        bytes
    }

    /// So many bytes have come.
    pub(super) fn came(&mut self, n: usize) {
        self.have = (self.have + n).min(self.bytes.len());
    }

    /// Whether it has no room, and may be [given](Self::reuse) some.
    pub(super) fn is_bare(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Takes over a buffer. What is in it is overwritten, and wiped at the end.
    pub(super) fn reuse(&mut self, buffer: Vec<u8>) {
        self.bytes = buffer;
    }

    /// Where up to `n` bytes go.
    pub(super) fn space(&mut self, n: usize) -> &mut [u8] {
        let end = self.have + n.min(AT_ONCE.max(self.have));
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        &mut self.bytes[self.have..end]
    }
}

/// What was opened here is wiped.
impl Drop for Intake {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

/// DEK block and message head, without keys: bytes go in until both are there.
pub(crate) struct Front {
    limits: Limits,
    /// The DEK block, once it is whole.
    block: Option<Vec<u8>>,
    intake: Intake,
    wanted: usize,
}

/// DEK block and message head, as they were received.
pub(crate) struct RawFront {
    pub(crate) block: Vec<u8>,
    pub(crate) head: Vec<u8>,
}

const BLOCK_START: usize = 8;
const HEAD_START: usize = 12;

impl Front {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self { limits: limits.clone(), block: None, intake: Intake::default(), wanted: BLOCK_START }
    }

    /// That of a message whose block was kept apart, and is this.
    pub(crate) fn after(block: &[u8], limits: &Limits) -> Result<Self, ParseError> {
        // [DET-2]
        DekBlock::parse_alone(block, limits)?;
        Ok(Self { block: Some(block.to_vec()), wanted: HEAD_START, ..Self::new(limits) })
    }

    /// Where to read the next bytes to.
    pub(crate) fn space(&mut self) -> &mut [u8] {
        self.intake.space(self.wanted.saturating_sub(self.intake.len()))
    }

    /// The block, where nothing has come behind it.
    #[cfg(feature = "cli")]
    pub(crate) fn block_alone(&self) -> Option<&[u8]> {
        self.block.as_deref().filter(|_| self.intake.len() == 0)
    }

    /// So many bytes have been read there; none at the end of the input. Gives block and head when both are there, each of them parsed
    /// once.
    pub(crate) fn came(&mut self, n: usize) -> Result<Option<RawFront>, ParseError> {
        self.intake.came(n);
        let ended = n == 0;
        if !ended && self.intake.len() < self.wanted {
            return Ok(None);
        }
        let Some(block) = &mut self.block else {
            let declared = DekBlock::declared_len(self.intake.bytes(), &self.limits)?;
            if let Some(len) = declared.filter(|len| *len > self.intake.len() && !ended) {
                self.wanted = len;
                return Ok(None);
            }
            DekBlock::parse(self.intake.bytes(), &self.limits)?;
            self.block = Some(self.intake.take());
            self.wanted = HEAD_START;
            return Ok(None);
        };
        let parsed = MessageHead::parse(&mut Reader::new(self.intake.bytes(), len64(block.len())), &self.limits);
        // Its fields are judged before the context is waited for.
        if !ended
            && ParseError::incomplete(parsed.clone())?.is_none()
            && let Some(context) = self.intake.bytes().get(10..12).and_then(|len| len.try_into().ok()).map(u16::from_be_bytes)
        {
            self.wanted = HEAD_START + usize::from(context);
            return Ok(None);
        }
        parsed?;
        Ok(Some(RawFront { block: std::mem::take(block), head: self.intake.take() }))
    }
}
