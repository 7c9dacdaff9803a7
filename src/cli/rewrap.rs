//! rewrap: a DEK block is written anew, and what follows it is copied.

use std::{
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use super::{
    Failure,
    args::{OutputArgs, RewrapArgs},
    fail::{Code, note, show},
    io::{Output, Source, check_secrets_apart, is_dash, output_path},
    keys::{read_keyring, recipients_named},
    replace::{Identity, Parked},
};
use crate::{
    armor::ArmorWriter,
    keys::Keyring,
    rewrap::Rewrap,
    stream::front::{Front, RawFront},
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
    let keyring = read_keyring(&args.keys.keys, &args.keys.passphrase)?;
    let lists: Vec<PathBuf> = args.add.iter().chain(&args.remove).map(PathBuf::from).collect();
    if args.output.output.is_some() {
        check_secrets_apart(output_path(&args.output), args.keys.keys.iter().chain(&lists), &args.keys.passphrase)?;
    }
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
    let identity = if in_place { Some(regular_file(file)?) } else { None };
    let mut input = Source::new(file)?;
    let armored = input.is_armored();
    let (raw, head) = read_front(&mut input)?;
    let (_, old) = DekBlock::parse(&raw, &Limits::default())?;
    let head = head.map(|bytes| Head::new(bytes, &raw, old.options)).transpose()?;
    let block = change.block(&raw, keyring)?;
    let mut output = match identity {
        Some(identity) => Output::in_place_of(file, identity)?,
        None => Output::new(output, !armored)?,
    };
    let name = output.name().to_owned();
    let failed = |error: io::Error| Failure::io(&name, &error);
    let mut write = |out: &mut dyn Write| {
        out.write_all(&block).map_err(failed)?;
        let Some(head) = &head else { return Ok(()) };
        out.write_all(&head.bytes).map_err(failed)?;
        Segments { input: &mut input, at: len64(raw.len() + head.bytes.len()) }.copy(head.segment_log2, out)
    };
    // What was text stays text.
    if armored {
        let mut armor = ArmorWriter::new(output.writer()).map_err(failed)?;
        write(&mut armor)?;
        armor.finish().map_err(failed)?;
    } else {
        write(output.writer())?;
    }
    warn(old.options);
    Ok(output)
}

/// Which version of a file that can be replaced this is. Asked before it is opened: opening a FIFO waits for a writer.
fn regular_file(path: &Path) -> Result<Identity, Failure> {
    let meta = fs::metadata(path).map_err(|error| Failure::io("reading", &error))?;
    if !meta.is_file() {
        return Err(Failure::usage("it is no regular file, and cannot be replaced; name an output with -o"));
    }
    Ok(Identity::of(&meta))
}

/// What becomes of a sender proof that does not cover the message.
fn warn(old: Options) {
    if old.sender_proof && !old.proof_covers_message {
        note("note: the sender signed the DEK, not the message; from now on readers see the standing origin");
    }
}

/// The DEK block, and the message head; `None` where the block stands alone.
fn read_front(input: &mut Source) -> Result<(Vec<u8>, Option<Vec<u8>>), Failure> {
    let mut front = Front::new(&Limits::default());
    loop {
        let n = match input.read(front.space()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read.map_err(|error| Failure::io("reading", &error))?,
        };
        if let (0, Some(block)) = (n, front.block_alone()) {
            return Ok((block.to_vec(), None));
        }
        if let Some(RawFront { block, head }) = front.came(n)? {
            return Ok((block, Some(head)));
        }
    }
}

/// A message head as it was read.
struct Head {
    bytes: Vec<u8>,
    segment_log2: u8,
}

impl Head {
    fn new(bytes: Vec<u8>, block: &[u8], options: Options) -> Result<Self, Failure> {
        let base = len64(block.len());
        let parsed = MessageHead::parse(&mut Reader::new(&bytes, base), &Limits::default())?;
        parsed.check_under(options, base)?;
        if parsed.flags.channel() {
            return Err(Failure::new(Code::Malformed, "it is a recorded channel; only single envelopes can be rewrapped"));
        }
        let segment_log2 = parsed.segment_log2;
        Ok(Self { bytes, segment_log2 })
    }
}

/// What follows the head.
struct Segments<'a> {
    input: &'a mut Source,
    at: u64,
}

impl Segments<'_> {
    /// Up to `n` bytes; fewer at the end.
    fn read_up_to(&mut self, n: u64, into: &mut Vec<u8>) -> Result<usize, Failure> {
        let read = self.input.by_ref().take(n).read_to_end(into).map_err(|error| Failure::io("reading", &error))?;
        self.at += len64(read);
        Ok(read)
    }

    /// Copies the segments, whose order and lengths are looked at on the way, and sees that nothing follows.
    fn copy(mut self, segment_log2: u8, output: &mut dyn Write) -> Result<(), Failure> {
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
    fn copy_segment(&mut self, index: u64, segment_log2: u8, output: &mut dyn Write) -> Result<bool, Failure> {
        let at = self.at;
        let mut prefix = Vec::new();
        self.read_up_to(4, &mut prefix)?;
        let parsed = SegmentPrefix::parse(&mut Reader::new(&prefix, at), index, segment_log2)?;
        let failed = |error: io::Error| Failure::io("copying", &error);
        output.write_all(&prefix).map_err(failed)?;
        let needed = len64(parsed.body_len());
        let copied = io::copy(&mut self.input.by_ref().take(needed), output);
        let available = copied.map_err(failed)?;
        self.at += available;
        if available < needed {
            return Err(ParseError::Truncated { field: "segment", offset: at + 4, needed, available }.into());
        }
        Ok(parsed.last)
    }
}
