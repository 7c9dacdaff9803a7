//! Batches (spec 7): several small messages under one head, one context and one tag.
//!
//! A batch is authenticated before it is parsed here, but it is still written by a peer.

use super::{LimitExceeded, Limits, ParseError, Reader, index};

/// Checks the framing of a batch to its end and tells the ranges of its entries.
///
/// # Errors
/// [`ParseError::Malformed`] when the entries do not fill `payload` exactly or there are none;
/// [`ParseError::LimitExceeded`] over `limits.batch_entries`.
///
/// ```
/// use sealwire::wire::{Limits, batch};
/// let entries = batch::entries(b"\0\0\0\x02hi\0\0\0\0", &Limits::default())?;
/// assert_eq!(entries, [4..6, 10..10]);
/// # Ok::<(), sealwire::wire::ParseError>(())
/// ```
pub fn entries(payload: &[u8], limits: &Limits) -> Result<Vec<std::ops::Range<usize>>, ParseError> {
    let mut reader = Reader::enclosed(payload, 0);
    let mut found = Vec::new();
    // [BAT-1]
    if payload.is_empty() {
        return Err(ParseError::malformed("batch", 0, "has no entry"));
    }
    while !reader.rest().is_empty() {
        // [BAT-2]
        LimitExceeded::check("batch_entries", super::len64(found.len()).saturating_add(1), limits.batch_entries.min(65_536))?;
        let len = index(reader.u32("batch entry length")?.into());
        let start = index(reader.offset());
        reader.take(len, "batch entry")?;
        found.push(start..index(reader.offset()));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves BAT-1, BAT-2.
    #[test]
    fn entries_fill_the_payload() {
        let limits = Limits::default();
        assert_eq!(entries(&[0; 4], &limits).unwrap().first(), Some(&(4..4)));
        for bad in [&b""[..], b"\0", b"\0\0\0\x01", b"\0\0\0\x01ab", b"\xff\xff\xff\xff", b"\0\0\0\0\0"] {
            assert!(matches!(entries(bad, &limits), Err(ParseError::Malformed { .. })), "{bad:?}");
        }
        assert_eq!(entries(&[0; 4 * 65_536], &limits).unwrap().len(), 65_536);
        assert!(matches!(
            entries(&[0; 4 * 65_537], &limits),
            Err(ParseError::LimitExceeded(LimitExceeded { limit: "batch_entries", value: 65_537, .. }))
        ));
    }
}
