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

impl Unpad {
    /// Takes the next plaintext; what can be given is so many zeros, and then `out`, whose buffer is used again.
    pub(super) fn push(&mut self, plaintext: &[u8], out: &mut Vec<u8>) -> u64 {
        self.total += plaintext.len() as u64;
        out.clear();
        // Growing would leave plaintext behind in the old place; it is as large as it can be the first time.
        out.reserve(self.tail.len() + plaintext.len());
        out.append(&mut self.tail);
        out.extend_from_slice(plaintext);
        self.tail = out.split_off(out.len().saturating_sub(8));
        let Some(last) = out.iter().rposition(|byte| *byte != 0) else {
            self.zeros += out.len() as u64;
            out.clear();
            return 0;
        };
        let zeros = std::mem::replace(&mut self.zeros, (out.len() - last - 1) as u64);
        out.truncate(last + 1);
        self.given += zeros + out.len() as u64;
        zeros
    }

    /// The zeros that are left of the payload once the plaintext has ended.
    pub(super) fn end(&self) -> Result<u64, ParseError> {
        let payload = length_at_the_end(&self.tail, self.total)?;
        // [PAD-4] Whatever was given beyond the payload was not zero.
        payload.checked_sub(self.given).ok_or_else(|| wrong_padding(self.total, "is not zero"))
    }
}
