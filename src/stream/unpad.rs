//! Padding off a plaintext whose end has not come (spec 8): `payload ‖ 00* ‖ payload_len 8`.

use crate::{
    payload::{length_at_the_end, wrong_padding},
    wire::ParseError,
};

/// Holds back what may be padding: the last eight bytes, and the zeros before them as a number. So it takes no memory,
/// however much padding there is.
#[derive(Default)]
pub(super) struct Unpad {
    /// The last bytes so far, at most eight.
    tail: Vec<u8>,
    /// Zeros before the tail that have not been given.
    zeros: u64,
    /// Bytes that have been given, zeros included.
    given: u64,
    /// Bytes of plaintext.
    total: u64,
}

/// What can be given: so many zeros, and then bytes.
#[derive(Default)]
pub(super) struct Given {
    pub(super) zeros: u64,
    pub(super) bytes: Vec<u8>,
}

impl Unpad {
    pub(super) fn push(&mut self, plaintext: &[u8]) -> Given {
        self.total += plaintext.len() as u64;
        let mut all = std::mem::take(&mut self.tail);
        all.extend_from_slice(plaintext);
        self.tail = all.split_off(all.len().saturating_sub(8));
        let Some(last) = all.iter().rposition(|byte| *byte != 0) else {
            self.zeros += all.len() as u64;
            return Given::default();
        };
        let zeros = std::mem::replace(&mut self.zeros, (all.len() - last - 1) as u64);
        all.truncate(last + 1);
        self.given += zeros + all.len() as u64;
        Given { zeros, bytes: all }
    }

    /// The zeros that are left of the payload once the plaintext has ended.
    pub(super) fn end(&self) -> Result<u64, ParseError> {
        let payload = length_at_the_end(&self.tail, self.total)?;
        // [PAD-4] Whatever was given beyond the payload was not zero.
        payload.checked_sub(self.given).ok_or_else(|| wrong_padding(self.total, "is not zero"))
    }
}
