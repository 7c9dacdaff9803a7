//! rewrap: a DEK block is written anew, and what follows it is copied.

use std::{
    io::{self, Read},
    path::Path,
};

use super::{
    Failure,
    args::{OutputArgs, RewrapArgs},
    fail::{Code, note, show},
    io::{Output, input, is_dash},
    keys::{read_keyring, recipients_named},
};
use crate::{
    keys::Keyring,
    rewrap::Rewrap,
    wire::{DekBlock, Limits, MessageHead, Options, ParseError, Reader, SegmentPrefix, len64},
};

pub(super) fn run(args: &RewrapArgs) -> Result<(), Failure> {
    let mut change = Rewrap::new();
    for recipient in recipients_named("--add", &args.add)? {
        change = change.add(recipient);
    }
    for recipient in recipients_named("--remove", &args.remove)? {
        change = change.remove(recipient);
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
    args.files.iter().try_for_each(|file| {
        let rewrapped = rewrap_file(file, &args.output, &keyring, &change);
        rewrapped.map_err(|failure| failure.about(show(file)))
    })
}

fn rewrap_file(file: &Path, output: &OutputArgs, keyring: &Keyring, change: &Rewrap) -> Result<(), Failure> {
    let mut source = Source { input: input(file)?, at: 0 };
    let raw = source.block()?;
    let block = change.block(&raw, keyring)?;
    let (_, old) = DekBlock::parse(&raw, &Limits::default())?;
    warn(old.options);
    let mut output = match &output.output {
        None if !is_dash(file) => Output::new(&OutputArgs { output: Some(file.to_owned()), force: true }, true)?,
        _ => Output::new(output, true)?,
    };
    output.write(&block)?;
    source.copy_message(old.options, &mut output)?;
    output.finish()
}

/// What becomes of a sender proof that does not cover the message.
fn warn(old: Options) {
    if old.sender_proof && !old.proof_covers_message {
        note("note: the sender signed the DEK, not the message; from now on readers see the standing origin");
    }
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

    /// Copies head and segments, whose order and lengths are looked at on the way; nothing where the block stands alone.
    fn copy_message(&mut self, options: Options, output: &mut Output) -> Result<(), Failure> {
        let base = self.at;
        let mut head = Vec::new();
        if self.read_up_to(12, &mut head)? == 0 {
            return Ok(());
        }
        if let Some(context_len) = head.get(10..12).and_then(|len| len.try_into().ok()).map(u16::from_be_bytes) {
            self.read_up_to(context_len.into(), &mut head)?;
        }
        let limits = Limits::default();
        let parsed = MessageHead::parse(&mut Reader::new(&head, base), &limits)?;
        parsed.check_under(options, base)?;
        if parsed.flags.channel {
            return Err(Failure::new(Code::Malformed, "it is a recorded channel; only single envelopes can be rewrapped"));
        }
        output.write(&head)?;
        for index in 0.. {
            if self.copy_segment(index, parsed.segment_log2, output)? {
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
