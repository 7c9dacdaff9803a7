//! rewrap: a DEK block is written anew, and what follows it is copied.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use super::{
    Failure,
    args::{OutputArgs, RewrapArgs},
    fail::{Code, note, show},
    io::{Output, input, is_dash},
    keys::{read_keyring, recipients_named},
    replace::{Identity, Parked},
};
use crate::{
    keys::Keyring,
    rewrap::Rewrap,
    wire::{DekBlock, Limits, MessageHead, Options, ParseError, Reader, SegmentPrefix, len64},
};

/// Files that are written before all of them are synced and take their places.
const BATCH: usize = 1024;
/// Bytes of them: what waits takes its place on the disk twice.
const BATCH_BYTES: u64 = 64 << 20;

pub(super) fn run(args: &RewrapArgs) -> Result<(), Failure> {
    let mut change = Rewrap::new();
    for recipient in recipients_named("--add", &args.add)? {
        change = change.to(recipient);
    }
    for recipient in recipients_named("--remove", &args.remove)? {
        change = change.without(recipient);
    }
    if args.add.is_empty() && args.remove.is_empty() {
        return Err(Failure::usage("nothing to change: say whom to --add or to --remove"));
    }
    if args.replace_all {
        change = change.replace_all();
    }
    if args.weaken_proof {
        change = change.weaken_proof();
    }
    if args.output.output.is_some() && args.files.len() > 1 {
        return Err(Failure::usage("-o takes one FILE; without -o each is rewritten in place"));
    }
    let keyring = read_keyring(&args.keys)?;
    rewrap_all(&args.files, |file| rewrap_file(file, &args.output, &keyring, &change))
}

/// Every file that can be done is done, whatever becomes of the others; the last failure is the answer.
fn rewrap_all(files: &[PathBuf], rewrap: impl Fn(&Path) -> Result<Output, Failure>) -> Result<(), Failure> {
    let mut failed: Option<Failure> = None;
    let mut fail = |failure: Failure| {
        if let Some(earlier) = failed.replace(failure) {
            earlier.report();
        }
    };
    let mut waiting = Waiting::default();
    for file in files {
        let parked = rewrap(file).map_err(|failure| failure.about(show(file))).and_then(Output::park);
        parked.map_or_else(&mut fail, |parked| waiting.files.extend(parked));
        waiting.bytes += fs::metadata(file).map_or(0, |meta| meta.len());
        if waiting.files.len() >= BATCH || waiting.bytes >= BATCH_BYTES {
            Parked::finish_all(std::mem::take(&mut waiting).files).into_iter().for_each(&mut fail);
        }
    }
    Parked::finish_all(waiting.files).into_iter().for_each(&mut fail);
    failed.map_or(Ok(()), Err)
}

/// Files that are written and wait to take their places.
#[derive(Default)]
struct Waiting {
    files: Vec<Parked>,
    bytes: u64,
}

fn rewrap_file(file: &Path, output: &OutputArgs, keyring: &Keyring, change: &Rewrap) -> Result<Output, Failure> {
    let in_place = output.output.is_none() && !is_dash(file);
    let (input, identity) = if in_place { regular_file(file)? } else { (input(file)?, None) };
    let mut source = Source { input, at: 0 };
    let raw = source.block()?;
    let (_, old) = DekBlock::parse(&raw, &Limits::default())?;
    let head = source.head(old.options)?;
    let block = change.block(&raw, keyring)?;
    let mut output = match identity {
        Some(identity) => Output::in_place_of(file, identity)?,
        None => Output::new(output, true)?,
    };
    output.write(&block)?;
    if let Some(head) = head {
        output.write(&head.bytes)?;
        source.copy_segments(head.segment_log2, &mut output)?;
    }
    warn(old.options);
    Ok(output)
}

/// A file that can be replaced, and which version of it this is. Asked before it is opened: opening a FIFO waits for a writer.
fn regular_file(path: &Path) -> Result<(Box<dyn Read>, Option<Identity>), Failure> {
    let failed = |error: io::Error| Failure::io("reading", &error);
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(Failure::usage("it is no regular file, and cannot be replaced; name an output with -o"));
    }
    let file = File::open(path).map_err(failed)?;
    let identity = Identity::of(&file.metadata().map_err(failed)?);
    Ok((Box::new(file), Some(identity)))
}

/// What becomes of a sender proof that does not cover the message.
fn warn(old: Options) {
    if old.sender_proof && !old.proof_covers_message {
        note("note: the sender signed the DEK, not the message; from now on readers see the standing origin");
    }
}

/// A message head as it was read.
struct Head {
    bytes: Vec<u8>,
    segment_log2: u8,
}

/// An envelope, or a block alone, as it is read.
struct Source {
    input: Box<dyn Read>,
    at: u64,
}

impl Source {
    /// Up to `n` bytes; fewer at the end.
    fn read_up_to(&mut self, n: usize, into: &mut Vec<u8>) -> Result<usize, Failure> {
        let read = self.input.by_ref().take(len64(n)).read_to_end(into).map_err(|error| Failure::io("reading", &error))?;
        self.at += len64(read);
        Ok(read)
    }

    /// The whole DEK block; memory follows what is there.
    fn block(&mut self) -> Result<Vec<u8>, Failure> {
        let limits = Limits::default();
        let mut raw = Vec::new();
        self.read_up_to(8, &mut raw)?;
        if let Some(len) = DekBlock::declared_len(&raw, &limits)? {
            self.read_up_to(len.saturating_sub(raw.len()), &mut raw)?;
        }
        DekBlock::parse(&raw, &limits)?;
        Ok(raw)
    }

    /// The message head; `None` where the block stands alone.
    fn head(&mut self, options: Options) -> Result<Option<Head>, Failure> {
        let base = self.at;
        let mut bytes = Vec::new();
        if self.read_up_to(12, &mut bytes)? == 0 {
            return Ok(None);
        }
        if let Some(context_len) = bytes.get(10..12).and_then(|len| len.try_into().ok()).map(u16::from_be_bytes) {
            self.read_up_to(context_len.into(), &mut bytes)?;
        }
        let limits = Limits::default();
        let parsed = MessageHead::parse(&mut Reader::new(&bytes, base), &limits)?;
        parsed.check_under(options, base)?;
        if parsed.flags.channel {
            return Err(Failure::new(Code::Malformed, "it is a recorded channel; only single envelopes can be rewrapped"));
        }
        let segment_log2 = parsed.segment_log2;
        Ok(Some(Head { bytes, segment_log2 }))
    }

    /// Copies the segments, whose order and lengths are looked at on the way, and sees that nothing follows.
    fn copy_segments(&mut self, segment_log2: u8, output: &mut Output) -> Result<(), Failure> {
        for index in 0.. {
            if self.copy_segment(index, segment_log2, output)? {
                break;
            }
        }
        if self.read_up_to(1, &mut Vec::new())? > 0 {
            return Err(ParseError::TrailingBytes { offset: self.at - 1 }.into());
        }
        Ok(())
    }

    /// Copies one segment; tells whether it is the final one.
    fn copy_segment(&mut self, index: u64, segment_log2: u8, output: &mut Output) -> Result<bool, Failure> {
        let at = self.at;
        let mut prefix = Vec::new();
        self.read_up_to(4, &mut prefix)?;
        let parsed = SegmentPrefix::parse(&mut Reader::new(&prefix, at), index, segment_log2)?;
        output.write(&prefix)?;
        let needed = len64(parsed.body_len());
        let copied = io::copy(&mut self.input.by_ref().take(needed), output.writer());
        let available = copied.map_err(|error| Failure::io("copying", &error))?;
        self.at += available;
        if available < needed {
            return Err(ParseError::Truncated { field: "segment", offset: at + 4, needed, available }.into());
        }
        Ok(parsed.last)
    }
}
