//! The AEAD of a suite, over segments: nonces and tags (spec 5.3).

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

use super::{Refused, backend};
use crate::wire::{Aead, Suite};

pub(crate) use backend::AeadKey;

impl Suite {
    /// Suite 1 or 2, whichever seals a segment faster on this processor and in this build. It is measured once for each process, in
    /// less than a millisecond where the processor knows AES.
    ///
    /// Suite 2 is for messages that are known to fit its [limit](Self::longest_message). For post-quantum recipients it is
    /// [`with_kem`](Self::with_kem) theirs.
    #[must_use]
    pub fn fastest() -> Self {
        static FASTEST: OnceLock<Suite> = OnceLock::new();
        *FASTEST.get_or_init(|| {
            let by_time =
                [Self::X25519Aes256Gcm, Self::X25519ChaCha20Poly1305].into_iter().min_by_key(|suite| seal_time(suite.aead()));
            by_time.unwrap_or(Self::X25519ChaCha20Poly1305)
        })
    }
}

/// How long it takes to seal 16 KiB, at its best; the longest of times where it cannot.
fn seal_time(aead: Aead) -> Duration {
    let (mut text, mut tag) = (vec![0; 16 * 1024], [0; 16]);
    let mut once = || {
        let key = AeadKey::new(aead, &[0; 32]).ok()?;
        let started = Instant::now();
        key.seal(&[0; 12], &[], &mut text, &mut tag).ok().map(|_| started.elapsed())
    };
    (0..4).filter_map(|_| once()).min().unwrap_or(Duration::MAX)
}

/// `seq 8 ‖ (segment·2 + final) 4` (spec 5.3). [KEY-7] `segment` is below 2^31.
#[inline]
pub(crate) fn nonce(seq: u64, segment: u64, last: bool) -> Result<[u8; 12], Refused> {
    let counter = segment.checked_mul(2).and_then(|n| n.checked_add(u64::from(last))).ok_or(Refused)?;
    let counter = u32::try_from(counter).map_err(|_| Refused)?;
    let mut nonce = [0; 12];
    let (left, right) = nonce.split_at_mut(8);
    left.copy_from_slice(&seq.to_be_bytes());
    right.copy_from_slice(&counter.to_be_bytes());
    Ok(nonce)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves KEY-7.
    #[test]
    fn nonces_are_seq_segment_and_final() {
        assert_eq!(nonce(0x0102_0304_0506_0708, 3, true).unwrap(), [1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 7]);
        assert_eq!(nonce(0, (1 << 31) - 1, true).unwrap()[8..], [0xff; 4]);
        assert!(nonce(0, 1 << 31, false).is_err());
    }
}
