//! Whole files (spec 5): every thread reads segments, seals or opens them, and writes them where they belong. In the readers and writers one
//! thread does all that the system is asked for, and that is most of the time a large file takes.

use std::{
    fs::File,
    io::{self, ErrorKind},
    ops::Range,
    os::unix::fs::FileExt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use zeroize::Zeroizing;

use super::opening::{Beginning, Opening, Unordered};
use crate::{
    open::{Opener, Sender},
    payload::Segments,
    seal::{Begun, STREAM_SEQ, SealError, Sealer},
    wire::{LimitExceeded, MAX_SEGMENTS, PREFIX_LEN, Reader, SegmentPrefix, TAG_LEN, index, len64},
};

/// Bytes that are read, and written, at once, where segments are not larger.
const RUN: usize = 256 * 1024;
/// Bytes held at the most, where segments are large.
const HELD: usize = 64 << 20;
/// Bytes around the ciphertext of a segment.
const AROUND: u64 = (PREFIX_LEN + TAG_LEN) as u64;

/// A file on its way into another, both from their beginning.
pub(crate) struct Files<'a> {
    pub(crate) from: &'a File,
    /// `None` where it is only looked whether all of it is authentic.
    pub(crate) to: Option<&'a File>,
    pub(crate) threads: usize,
    /// Is told how many bytes more have been done.
    pub(crate) progress: &'a (dyn Fn(u64) + Sync),
}

/// What went wrong.
#[derive(Debug)]
pub(crate) enum FileError {
    Reading(io::Error),
    Writing(io::Error),
    Sealing(SealError),
}

/// Whether a message can be sealed out of order: not where something covers all of it, nor with padding.
pub(crate) fn seals_unordered(sealer: &Sealer) -> bool {
    !sealer.settings.signs_messages && !sealer.settings.pad
}

/// Seals a file as one message with a DEK of its own; gives the DEK block, which is in front unless it is to be `apart`.
pub(crate) fn seal(sealer: &mut Sealer, context: &[u8], apart: bool, files: &Files<'_>) -> Result<Vec<u8>, FileError> {
    let Begun { block, head, schedule, aad, .. } = sealer.begin_stream(context).map_err(FileError::Sealing)?;
    let size = 1u64 << sealer.settings.segment_log2;
    let len = files.from.metadata().map_err(FileError::Reading)?.len();
    let count = len.div_ceil(size).max(1);
    // [SEG-5] [SEG-11]
    LimitExceeded::check("segments", count, MAX_SEGMENTS)
        .and_then(|()| LimitExceeded::check("message", len, sealer.settings.suite.longest_message()))
        .map_err(|over| FileError::Sealing(over.into()))?;
    let front = if apart { head } else { [&block[..], &head].concat() };
    files.write(&front, 0)?;
    let segments = Segments { schedule: &schedule, seq: STREAM_SEQ, aad: &aad };
    files.share(count, size, |run, Buffers { plaintext, sealed }| {
        let start = run.start * size;
        let part = files.read(plaintext, start, (run.end * size).min(len) - start)?;
        let mut end = 0;
        for i in run.clone() {
            let from = index((i - run.start) * size);
            let text = &part[from..part.len().min(from + index(size))];
            let room = end..end + PREFIX_LEN + text.len() + TAG_LEN;
            end = room.end;
            let refused = |_| FileError::Sealing(SealError::Primitive);
            segments.seal_from(index(i), i + 1 == count, text, &mut sealed[room]).map_err(refused)?;
        }
        files.write(&sealed[..end], len64(front.len()) + run.start * (size + AROUND))?;
        (files.progress)(len64(part.len()));
        Ok(())
    })?;
    Ok(block.into())
}

/// Opens a file that is one message; tells who sent it. `None` where it must be read in order: since something covers all of it, or since
/// there is something wrong with it, which is told best by who reads in order. What was written then is worth nothing.
pub(crate) fn open(opener: &Opener, block: Option<&[u8]>, files: &Files<'_>) -> Result<Option<Sender>, FileError> {
    match open_regular(opener, block, files) {
        Ok(sender) => Ok(Some(sender)),
        Err(Some(error @ FileError::Writing(_))) => Err(error),
        Err(_) => Ok(None),
    }
}

/// The same; an error that is none says that the message is not as it should be.
fn open_regular(opener: &Opener, block: Option<&[u8]>, files: &Files<'_>) -> Result<Sender, Option<FileError>> {
    let (opening, front) = begin(opener, block, files.from).ok_or(None)?;
    let Unordered { segments, segment_log2, longest, sender } = opening.unordered().ok_or(None)?;
    let size = 1u64 << segment_log2;
    let body = files.from.metadata().ok().and_then(|meta| meta.len().checked_sub(front)).ok_or(None)?;
    let count = body.div_ceil(size + AROUND);
    let len = body.checked_sub(count * AROUND).ok_or(None)?;
    // [SEG-11]
    if count == 0 || len > longest {
        return Err(None);
    }
    files.share(count, size + AROUND, |run, Buffers { plaintext, sealed }| {
        let start = run.start * (size + AROUND);
        let part = files.read(sealed, front + start, (run.end * (size + AROUND)).min(body) - start)?;
        let mut end = 0;
        for (i, segment) in run.clone().zip(part.chunks(index(size + AROUND))) {
            let mut reader = Reader::new(segment, front + start);
            let prefix = SegmentPrefix::parse(&mut reader, i, segment_log2).map_err(|_| None)?;
            // [SEG-8] The file ends where the final segment does.
            if prefix.last != (i + 1 == count) || prefix.body_len() != reader.rest().len() {
                return Err(None);
            }
            let room = end..end + prefix.ciphertext_len();
            end = room.end;
            segments.open_from(index(i), prefix.last, reader.rest(), &mut plaintext[room]).map_err(|_| None)?;
        }
        files.write(&plaintext[..end], run.start * size)?;
        (files.progress)(len64(part.len()));
        Ok(())
    })?;
    Ok(sender)
}

/// Block and head; tells where the first segment is.
fn begin(opener: &Opener, block: Option<&[u8]>, file: &File) -> Option<(Opening, u64)> {
    let mut beginning = match block {
        Some(block) => Beginning::after(opener, block).ok()?,
        None => Beginning::new(opener, true),
    };
    let mut at = 0;
    loop {
        let n = file.read_at(beginning.space(), at).ok()?;
        at += len64(n);
        if let Some(opening) = beginning.came(n).ok()? {
            return Some((opening, at));
        }
    }
}

/// What a thread has: room for its segments, sealed and not.
struct Buffers {
    plaintext: Zeroizing<Vec<u8>>,
    sealed: Vec<u8>,
}

impl Files<'_> {
    /// Every thread does `each` with the next segments that nobody has yet, until there are none, or something failed. `step`: bytes of one.
    fn share<E: Send>(
        &self,
        count: u64,
        step: u64,
        each: impl Fn(Range<u64>, &mut Buffers) -> Result<(), E> + Sync,
    ) -> Result<(), E> {
        let run = (len64(RUN) / step).max(1);
        let (next, failed) = (AtomicU64::new(0), Mutex::new(None));
        let has_failed = || failed.lock().unwrap_or_else(PoisonError::into_inner);
        let work = || {
            let mut buffers =
                Buffers { plaintext: vec![0; index(run * step)].into(), sealed: vec![0; index(run * (step + AROUND))] };
            while has_failed().is_none() {
                let first = next.fetch_add(run, Ordering::Relaxed);
                if first >= count {
                    break;
                }
                if let Err(error) = each(first..(first + run).min(count), &mut buffers) {
                    has_failed().get_or_insert(error);
                }
            }
        };
        let threads = self.threads.min(HELD / (2 * index(run * step)).max(1));
        thread::scope(|scope| {
            for _ in 1..threads {
                // With fewer of them it is only slower.
                let _ = thread::Builder::new().name("sealwire".into()).spawn_scoped(scope, work);
            }
            work();
        });
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    /// Reads `n` bytes from there.
    fn read<'b>(&self, buffer: &'b mut [u8], at: u64, n: u64) -> Result<&'b [u8], FileError> {
        let part = &mut buffer[..index(n)];
        self.from.read_exact_at(part, at).map_err(|error| {
            let shorter = error.kind() == ErrorKind::UnexpectedEof;
            let error = if shorter { io::Error::new(error.kind(), "it became shorter while it was read") } else { error };
            FileError::Reading(error)
        })?;
        Ok(part)
    }

    fn write(&self, bytes: &[u8], at: u64) -> Result<(), FileError> {
        self.to.map_or(Ok(()), |to| to.write_all_at(bytes, at)).map_err(FileError::Writing)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        sync::atomic::AtomicBool,
    };

    use super::*;
    use crate::{
        Cmk, Keyring, SenderKey, Suite,
        stream::{DetachedWriter, OpenReader, SealWriter},
    };

    const LENGTHS: [usize; 9] = [0, 1, 4095, 4096, 4097, (1 << 18) - 1, 1 << 18, (3 << 18) + 1, (1 << 20) + 4096];

    fn cmk() -> Cmk {
        Cmk::from_x25519(&[1; 32])
    }

    fn sealer(segment_log2: u8) -> Sealer {
        let builder = Sealer::builder().to(cmk().recipient().clone()).segment_log2(segment_log2);
        builder.suite(Suite::X25519Aes256Gcm).build().unwrap()
    }

    fn opener() -> Opener {
        Opener::new(Keyring::from(cmk()))
    }

    fn payload(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 31 + i / 4096) as u8).collect()
    }

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn bytes(file: &File) -> Vec<u8> {
        let mut bytes = vec![0; index(file.metadata().unwrap().len())];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    /// Opened, and what of it was written.
    fn opened(sealed: &[u8], block: Option<&[u8]>, threads: usize) -> (Option<Sender>, Vec<u8>) {
        let (from, to) = (file(sealed), tempfile::tempfile().unwrap());
        let sender = open(&opener(), block, &Files { from: &from, to: Some(&to), threads, progress: &|_| () }).unwrap();
        (sender, bytes(&to))
    }

    #[test]
    fn files_are_what_streams_are() {
        for (log2, threads) in [(12, 1), (12, 3), (16, 2), (18, 2), (20, 2)] {
            for len in LENGTHS {
                let text = payload(len);
                let (from, to) = (file(&text), tempfile::tempfile().unwrap());
                let done = AtomicU64::new(0);
                let progress = |n| _ = done.fetch_add(n, Ordering::Relaxed);
                for apart in [false, true] {
                    to.set_len(0).unwrap();
                    let files = Files { from: &from, to: Some(&to), threads, progress: &progress };
                    let block = seal(&mut sealer(log2), b"context", apart, &files).unwrap();
                    let (sealed, block) = (bytes(&to), apart.then_some(&block[..]));
                    let reader = match block {
                        Some(block) => OpenReader::detached(&opener(), block, &sealed[..]),
                        None => OpenReader::new(&opener(), &sealed[..]),
                    };
                    let (mut reader, mut back) = (reader.unwrap(), Vec::new());
                    reader.read_to_end(&mut back).unwrap();
                    assert!(back == text && reader.context() == &b"context"[..], "{len} in 2^{log2}");
                    assert!(opened(&sealed, block, threads) == (Some(Sender::Anonymous), back), "{len} in 2^{log2}");
                }
                assert_eq!(done.into_inner(), 2 * len64(len));
                // The other way round.
                let mut writer = SealWriter::new(&mut sealer(log2), b"", Vec::new()).unwrap();
                writer.write_all(&text).unwrap();
                assert!(opened(&writer.finish().unwrap(), None, threads).1 == text);
                let mut writer = DetachedWriter::new(&mut sealer(log2), b"", Vec::new()).unwrap();
                writer.write_all(&text).unwrap();
                let (sealed, block) = writer.finish().unwrap();
                assert!(opened(&sealed, Some(&block), threads).1 == text);
            }
        }
    }

    /// Proves SEG-6 and SEG-8 for files: whatever is wrong, who reads in order has to say what. Nothing unauthenticated is written.
    #[test]
    fn what_is_wrong_is_left_to_others() {
        let text = payload(300_000);
        let sealed = sealer(12).seal(b"", &text).unwrap();
        let step = 4096 + 20;
        assert_eq!(opened(&sealed, None, 2), (Some(Sender::Anonymous), text.clone()));
        let flipped = |at: usize| {
            let mut bad = sealed.to_vec();
            bad[at] ^= 1;
            bad
        };
        let first = sealed.len() - 300_000usize.div_ceil(4096) * 20 - 300_000;
        let mut swapped = sealed.to_vec();
        let (one, two) = swapped[first..].split_at_mut(step);
        one.swap_with_slice(&mut two[..step]);
        let mut bad =
            vec![swapped, [&sealed[..], b"x"].concat(), Vec::new(), sealed[..first].to_vec(), sealed[..first + step].to_vec()];
        bad.extend([0, 30, 152, 160, first - 1, first, first + 3, first + 4, first + step - 1, sealed.len() - 1].map(flipped));
        bad.extend([1, 16, 19, 20, 21, 900, step].map(|cut| sealed[..sealed.len() - cut].to_vec()));
        for bad in bad {
            let (sender, written) = opened(&bad, None, 2);
            assert_eq!(sender, None);
            assert!(
                written
                    .chunks(4096)
                    .zip(text.chunks(4096))
                    .all(|(written, text)| { written.iter().all(|byte| *byte == 0) || written == text })
            );
        }
    }

    /// What has to be gone through from its beginning is not opened, and not sealed, here.
    #[test]
    fn what_has_an_order_is_left_to_others() {
        let padded = || sealer_with(|builder| builder.pad(true));
        let signed = || sealer_with(|builder| builder.sign_messages_with(SenderKey::from_ed25519(&[3; 32])));
        let proven = || sealer_with(|builder| builder.sign_with(SenderKey::from_ed25519(&[3; 32])));
        for (mut sealer, unordered) in [(padded(), false), (signed(), false), (proven(), true)] {
            assert_eq!(seals_unordered(&sealer), unordered);
            let sealed = sealer.seal(b"", &payload(10_000)).unwrap();
            let (sender, written) = opened(&sealed, None, 1);
            assert_eq!((sender.is_some(), !written.is_empty()), (unordered, unordered));
        }
        let window = crate::ReplayWindow::new(100);
        let policy =
            crate::Policy { replay: Some(window), max_age: Some(std::time::Duration::from_secs(60)), ..Default::default() };
        let opener = Opener::builder(Keyring::from(cmk())).policy(policy).build();
        let from = file(&sealer(12).seal(b"", b"text").unwrap());
        assert!(open(&opener, None, &Files { from: &from, to: None, threads: 1, progress: &|_| () }).unwrap().is_none());
    }

    fn sealer_with(set: impl FnOnce(crate::SealerBuilder) -> crate::SealerBuilder) -> Sealer {
        set(Sealer::builder().to(cmk().recipient().clone()).segment_log2(12)).build().unwrap()
    }

    #[test]
    fn a_file_that_becomes_shorter_is_no_message() {
        let from = file(&payload(1 << 20));
        let to = tempfile::tempfile().unwrap();
        let cut = |_| from.set_len(700_000).unwrap();
        let error = seal(&mut sealer(16), b"", false, &Files { from: &from, to: Some(&to), threads: 1, progress: &cut });
        assert!(matches!(error, Err(FileError::Reading(error)) if error.to_string().contains("shorter")));
    }

    /// The first failure ends it: the threads take no further segments.
    #[test]
    fn a_full_disk_is_told() {
        let from = file(&payload(1 << 20));
        let to = File::open("/dev/null").unwrap();
        let files = |to| Files { from: &from, to: Some(to), threads: 2, progress: &|_| () };
        assert!(matches!(seal(&mut sealer(16), b"", false, &files(&to)), Err(FileError::Writing(_))));
        let sealed = file(&sealer(16).seal(b"", &payload(1 << 20)).unwrap());
        let files = Files { from: &sealed, ..files(&to) };
        assert!(matches!(open(&opener(), None, &files), Err(FileError::Writing(_))));
        let (taken, refused) = (AtomicU64::new(0), AtomicBool::new(false));
        let shared = files.share(1 << 30, 1 << 18, |_, _| {
            taken.fetch_add(1, Ordering::Relaxed);
            if refused.swap(true, Ordering::Relaxed) { Ok(()) } else { Err(()) }
        });
        assert!(shared.is_err() && taken.into_inner() < 1 << 20);
    }

    /// [SEG-11] of files.
    #[test]
    fn a_file_may_be_too_long() {
        let from = tempfile::tempfile().unwrap();
        from.set_len((1 << 38) + 1).unwrap();
        let to = tempfile::tempfile().unwrap();
        let sealed = seal(&mut sealer(16), b"", false, &Files { from: &from, to: Some(&to), threads: 2, progress: &|_| () });
        assert!(matches!(sealed, Err(FileError::Sealing(SealError::LimitExceeded(_)))), "{sealed:?}");
        assert_eq!(to.metadata().unwrap().len(), 0);
        let sealed = seal(&mut sealer(12), b"", false, &Files { from: &from, to: Some(&to), threads: 2, progress: &|_| () });
        assert!(sealed.is_err());
    }
}
