//! Slots (spec 3.3): recipients by public key.

use super::{HintMode, Kem, Options, ParseError, Reader, Suite};

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
    pub(super) bytes: &'a [u8],
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

/// Reads `count` slots.
pub(super) fn parse_slots<'a>(
    reader: &mut Reader<'a>,
    count: usize,
    layout: SlotLayout,
    hints: HintMode,
) -> Result<Slots<'a>, ParseError> {
    let at = reader.offset();
    let bytes = reader.take(count.saturating_mul(layout.slot_len()), "slots")?;
    let slots = Slots { bytes, layout };
    // [BLK-13]
    if hints == HintMode::None && slots.iter().any(|slot| slot.hint != [0; 4]) {
        return Err(ParseError::malformed("slots", at, "a hint in a block without hints"));
    }
    Ok(slots)
}
