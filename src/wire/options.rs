//! The options byte of a DEK block (spec 3.2).

use super::{ParseError, Reader};

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
    pub(super) fn parse(reader: &mut Reader<'_>) -> Result<Self, ParseError> {
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
        let flags = [self.sender_proof, self.enc_per_slot, self.proof_covers_message];
        (2u8..).zip(flags).map(|(n, set)| u8::from(set) << n).fold(self.hints as u8, u8::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three hint modes, bit 3, and bit 4 only beside bit 2: each has one byte.
    #[test]
    fn the_byte_is_what_was_read() {
        let parse = |byte: u8| Options::parse(&mut Reader::new(&[byte], 0)).map(Options::byte);
        assert_eq!((0..=255).filter(|byte| parse(*byte) == Ok(*byte)).count(), 3 * 2 * 3);
        assert_eq!((0..=255).filter(|byte| parse(*byte).is_ok()).count(), 3 * 2 * 3);
    }
}
