use zeroize::Zeroize;

use super::{BATCH, LONG_WINDOW, WINDOW};

/// What an outbox has before more is asked of it.
const SMALL: usize = 4 * 1024;
/// What is kept for the next flush at the most: more is for segments of more than 64 KiB.
const LARGEST_KEPT: usize = LONG_WINDOW + WINDOW + SMALL;
/// Flushes in a row that a small outbox would have done for, after which a large one is given back.
const PATIENCE: u8 = 32;

/// Sealed bytes on their way to a connection, and behind them plaintext that is gathered where its ciphertext will stand.
///
/// The buffer's bytes are always initialised, so that they are written without growing: `start..end` is sealed, `end..end + tail` gathered.
#[derive(Default)]
pub(super) struct Outbox {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    tail: usize,
    /// The most that was in it since the last flush, and flushes in a row that were small.
    most: usize,
    small: u8,
}

impl Outbox {
    /// Bytes that are sealed.
    pub(super) fn len(&self) -> usize {
        self.end - self.start
    }

    pub(super) fn sealed(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// `n` bytes of these have been written.
    pub(super) fn advance(&mut self, n: usize) {
        self.start = (self.start + n).min(self.end);
        if self.start == self.end && self.tail == 0 {
            (self.start, self.end) = (0, 0);
        }
    }

    /// The next `n` bytes behind what is sealed, gathered ones first.
    pub(super) fn room(&mut self, n: usize) -> &mut [u8] {
        self.reserve(n);
        &mut self.bytes[self.end..self.end + n]
    }

    /// Puts a batch's entry at the end of what is gathered: its length, of 4 bytes, and itself.
    #[inline]
    pub(super) fn gather_entry(&mut self, entry: &[u8]) {
        // No entry is longer than a batch.
        let prefix = u32::try_from(entry.len()).unwrap_or(u32::MAX).to_be_bytes();
        let room = self.grow(prefix.len() + entry.len());
        let (to, rest) = room.split_at_mut(prefix.len());
        to.copy_from_slice(&prefix);
        rest.copy_from_slice(entry);
    }

    pub(super) fn gather(&mut self, part: &[u8]) {
        self.grow(part.len()).copy_from_slice(part);
    }

    pub(super) fn gather_zeros(&mut self, n: usize) {
        self.grow(n).fill(0);
    }

    /// `n` bytes more at the end of what is gathered.
    #[inline]
    fn grow(&mut self, n: usize) -> &mut [u8] {
        self.reserve(self.tail + n);
        let at = self.end + self.tail;
        self.tail += n;
        &mut self.bytes[at..at + n]
    }

    /// Leaves `n` bytes free at the end of what is gathered.
    pub(super) fn skip(&mut self, n: usize) {
        self.grow(n);
    }

    pub(super) fn gathered(&self) -> usize {
        self.tail
    }

    /// Moves what is gathered from `from` on so that it begins at `to`.
    pub(super) fn shift(&mut self, from: usize, to: usize) {
        let len = self.tail - from;
        self.reserve(to + len);
        self.bytes.copy_within(self.end + from..self.end + from + len, self.end + to);
        self.tail = to + len;
    }

    /// The first `n` bytes behind what is sealed are sealed too, and nothing is gathered.
    pub(super) fn commit(&mut self, n: usize) {
        self.end += n;
        self.tail = 0;
        self.most = self.most.max(self.len());
    }

    /// Everything has been written: a buffer that has long been too large is given back.
    pub(super) fn flushed(&mut self) {
        let fits = self.most <= SMALL;
        self.small = if fits { self.small.saturating_add(1) } else { 0 };
        self.most = 0;
        let is_large = self.small >= PATIENCE && self.bytes.len() > SMALL || self.bytes.len() > LARGEST_KEPT;
        if self.tail == 0 && self.start == self.end && is_large {
            *self = Self::default();
        }
    }

    /// Makes sure that there are `n` bytes behind what is sealed.
    #[inline]
    fn reserve(&mut self, n: usize) {
        if self.bytes.len() - self.end < n {
            self.make_room(n);
        }
    }

    #[cold]
    fn make_room(&mut self, n: usize) {
        let (used, was) = (self.end + self.tail - self.start, self.end + self.tail);
        self.bytes.copy_within(self.start..was, 0);
        (self.start, self.end) = (0, self.end - self.start);
        // What was gathered must not stay where it was.
        self.bytes[used..was].zeroize();
        let needed = self.end + n.max(self.tail);
        if self.bytes.len() < needed {
            let sizes = [SMALL, WINDOW + BATCH + SMALL, LARGEST_KEPT];
            let len = sizes.into_iter().find(|size| *size >= needed).unwrap_or(needed);
            // Growing by itself would leave plaintext behind in the old place.
            let mut grown = vec![0; len];
            grown[..used].copy_from_slice(&self.bytes[..used]);
            self.bytes[self.end..used].zeroize();
            self.bytes = grown;
        }
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.bytes[self.end..self.end + self.tail].zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is gathered stays what it is, whatever is written before it and however the buffer grows.
    #[test]
    fn bytes_keep_their_places() {
        let mut outbox = Outbox::default();
        for round in 0..100usize {
            outbox.room(3000).fill(1);
            outbox.commit(3000);
            outbox.skip(7);
            (0..200u8).for_each(|i| outbox.gather(&[i; 100]));
            outbox.advance(round * 30);
            outbox.shift(7, round);
            assert_eq!(outbox.gathered(), round + 20_000);
            let sealed = outbox.len();
            let room = outbox.room(round + 20_000);
            assert!(room[round..].chunks(100).enumerate().all(|(i, chunk)| chunk.iter().all(|byte| usize::from(*byte) == i)));
            room.fill(1);
            outbox.commit(round + 20_000);
            assert_eq!(outbox.len(), sealed + round + 20_000);
            assert!(outbox.sealed().iter().all(|byte| *byte == 1));
            outbox.advance(outbox.len());
            assert_eq!(outbox.len(), 0);
        }
        assert!(outbox.bytes.len() <= WINDOW + BATCH + SMALL);
        (0..PATIENCE).for_each(|_| outbox.flushed());
        assert!(!outbox.bytes.is_empty(), "the first flush was a large one");
        outbox.flushed();
        assert!(outbox.bytes.is_empty());
    }
}
