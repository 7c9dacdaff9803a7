//! Batches (spec 7): several small messages under one head, one context and one tag.
//!
//! A batch is authenticated before it is parsed here, but it is still written by a peer.

use bytes::{Buf, Bytes};

use super::{LimitExceeded, Limits, ParseError, Reader, index};

/// Checks the framing of a batch to its end; tells how many entries there are. Holds nothing of them.
///
/// # Errors
/// [`ParseError::Malformed`] when the entries do not fill `payload` exactly or there are none;
/// [`ParseError::LimitExceeded`] over `limits.batch_entries`.
///
/// ```
/// use bytes::Bytes;
/// use sealwire::wire::{Limits, batch};
/// let mut payload = Bytes::from_static(b"\0\0\0\x02hi\0\0\0\0");
/// assert_eq!(batch::check(&payload, &Limits::default())?, 2);
/// assert_eq!(batch::next_entry(&mut payload).as_deref(), Some(&b"hi"[..]));
/// assert_eq!(batch::next_entry(&mut payload).as_deref(), Some(&b""[..]));
/// assert_eq!(batch::next_entry(&mut payload), None);
/// # Ok::<(), sealwire::wire::ParseError>(())
/// ```
pub fn check(payload: &[u8], limits: &Limits) -> Result<u64, ParseError> {
    let mut reader = Reader::enclosed(payload, 0);
    let mut entries = 0u64;
    // [BAT-1]
    if payload.is_empty() {
        return Err(ParseError::malformed("batch", 0, "has no entry"));
    }
    while !reader.rest().is_empty() {
        entries = entries.saturating_add(1);
        // [BAT-2]
        LimitExceeded::check("batch_entries", entries, limits.batch_entries.min(65_536))?;
        let len = index(reader.u32("batch entry length")?.into());
        reader.take(len, "batch entry")?;
    }
    Ok(entries)
}

/// Takes the next entry off a batch that has been checked; a slice of the same memory.
#[inline]
#[must_use]
pub fn next_entry(batch: &mut Bytes) -> Option<Bytes> {
    let len = index(batch.try_get_u32().ok()?.into());
    (len <= batch.len()).then(|| batch.split_to(len))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves BAT-1, BAT-2.
    #[test]
    fn entries_fill_the_payload() {
        let limits = Limits::default();
        assert_eq!(check(&[0; 4], &limits), Ok(1));
        for bad in [&b""[..], b"\0", b"\0\0\0\x01", b"\0\0\0\x01ab", b"\xff\xff\xff\xff", b"\0\0\0\0\0"] {
            assert!(matches!(check(bad, &limits), Err(ParseError::Malformed { .. })), "{bad:?}");
        }
        // The reader's limit, and that of the format whatever the reader's.
        for (batch_entries, most) in [(0, 0), (2, 2), (u64::MAX, 65_536)] {
            let limits = Limits { batch_entries, ..limits };
            let entries = |n: u64| check(&vec![0; index(4 * n)], &limits);
            assert!(most == 0 || entries(most) == Ok(most));
            assert_eq!(entries(most + 1), Err(LimitExceeded { limit: "batch_entries", value: most + 1, maximum: most }.into()));
        }
    }
}
