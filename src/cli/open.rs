//! open.

use std::{
    fs::File,
    io::{self, IsTerminal, Read, Seek, SeekFrom, Write},
    path::Path,
};

use bytes::BytesMut;

use super::{
    Failure,
    args::{OpenArgs, PayloadRange},
    copy::{CHUNK, Progress, copy, spool},
    fail::{Code, note, show},
    io::{
        Output, Source, check_apart, check_dek_apart, check_secrets_apart, cores, input, output_beside, output_path, read_up_to,
        refuse_secret,
    },
    keys::{read_keyring, read_senders},
    kms::{Unwrapper, read_block_within},
    large,
};
use crate::{
    channel::{ChannelOpener, Role},
    open::{ExpectedContext, Opened, Opener, Policy, Sender},
    stream::{OpenReader, StreamError},
    wire::{DekBlock, Limits, SEGMENT_LOG2_MAX, index, len64},
};

pub(super) fn run(args: &OpenArgs) -> Result<(), Failure> {
    check_dek_apart(args.keys.dek.as_deref(), [&args.input].into_iter().chain(&args.detached))?;
    let context = args.expect_context.clone().map(ExpectedContext::from);
    // Who runs this has the memory for the largest segments that there are.
    let limits = Limits { segment: 1 << SEGMENT_LOG2_MAX, ..Limits::default() };
    let policy = Policy { context, limits, senders: read_senders(&args.from)?, require_pq: args.require_pq, ..Policy::default() };
    let opener = Opener::builder(read_keyring(&args.keys.keys, &args.keys.passphrase)?).policy(policy).build();
    if let Some(header) = &args.detached {
        check_apart("--detached", header, &args.input, &args.output)?;
    }
    check_secrets_apart(output_path(&args.output), args.keys.files().iter().chain(&args.from.files()), &args.keys.passphrase)?;
    let output = if args.check { None } else { Some(output_beside(&args.input, &args.output, false)?) };
    let unwrapper = Unwrapper::of(&args.keys)?;
    if args.channel {
        return open_channel(args, opener, unwrapper, output);
    }
    let block = args.detached.as_deref().map(|header| read_block(header, opener.policy())).transpose()?;
    let message = Message { opener, unwrapper, block, name: show(&args.input) };
    if let Some(block) = &message.block {
        message.learn(block)?;
    }
    match args.range {
        Some(range) => message.open_range(args, range, output),
        None => message.open(args, output),
    }
}

/// A DEK block that was kept apart.
fn read_block(header: &Path, policy: &Policy) -> Result<Vec<u8>, Failure> {
    let block = read_up_to(header, policy.limits.block)?;
    refuse_secret(&block).map_err(|failure| failure.about(show(header)))?;
    // What is wrong with it is told of it, and not of the message.
    DekBlock::parse_alone(&block, &policy.limits).map_err(|error| Failure::from(error).about(show(header)))?;
    Ok(block)
}

/// What is to be opened, and with what.
struct Message {
    opener: Opener,
    /// Who is asked for the DEK, where the keyring has no key for it.
    unwrapper: Option<Unwrapper>,
    block: Option<Vec<u8>>,
    name: String,
}

impl Message {
    fn begin<R: Read>(&self, input: R) -> Result<OpenReader<R>, StreamError> {
        match &self.block {
            Some(block) => OpenReader::detached(&self.opener, block, input),
            None => OpenReader::new(&self.opener, input),
        }
    }

    /// Has the DEK of a block unwrapped, where a service is to do that and no key at hand opens it.
    fn learn(&self, block: &[u8]) -> Result<(), Failure> {
        let Some(unwrapper) = &self.unwrapper else { return Ok(()) };
        unwrapper.teach(&self.opener, block).map_err(|failure| failure.about(&self.name))
    }

    /// The same with the block that an input begins with; gives back what was read of it.
    fn learn_first(&self, input: &mut impl Read) -> Result<Vec<u8>, Failure> {
        if self.unwrapper.is_none() || self.block.is_some() {
            return Ok(Vec::new());
        }
        let block = read_block_within(input, &self.opener.policy().limits).map_err(|failure| failure.about(&self.name))?;
        self.learn(&block)?;
        Ok(block)
    }

    fn about(&self, error: StreamError) -> Failure {
        Failure::from(error).about(&self.name)
    }

    /// Opens a message of any size, in the memory of some segments. A file appears when all of it is authentic; a pipe gets what is
    /// authentic as it comes, except with `--buffer` and under a proof that covers the message, which must hold first.
    fn open(&self, args: &OpenArgs, mut output: Option<Output>) -> Result<(), Failure> {
        let to_stream = matches!(output, Some(Output::Stream(..)));
        let mut source = Source::of_envelope(&args.input)?;
        // Reading ahead of what is given is for what is there already.
        let threads = if matches!(source, Source::File(..)) { cores() } else { 1 };
        let to_terminal = to_stream && io::stdout().is_terminal();
        let mut progress = Progress::of(source.len()).hidden_if(to_terminal);
        let front = io::Cursor::new(self.learn_first(&mut source)?);
        if let Some(opened) = large::open(&self.opener, self.block.as_deref(), &source, output.as_ref(), &mut progress) {
            drop(progress);
            let sender = opened.map_err(|error| error.about(&self.name, output.as_ref().map_or("", Output::name)))?;
            return finish(args.check, Some(sender), output);
        }
        let recorder = Recorder { source: front.chain(source), seen: to_stream.then(Vec::new), spool: None };
        let mut reader = self.begin(recorder).map_err(|error| self.about(error))?.threads(threads);
        let sender = if to_stream && (args.buffer || reader.sender().is_none()) {
            // Read to its end first; what was read waits on the disk, sealed, and is opened again from there.
            reader.get_mut().spool()?;
            self.copy(&mut reader, None, &mut progress)?;
            let mut spool = reader.into_inner().spool.ok_or_else(|| Failure::new(Code::Io, "a temporary file was lost"))?;
            spool.rewind().map_err(|error| Failure::io(SPOOL, &error))?;
            // It has no name and is nobody else's.
            let mut again = self.begin(spool).map_err(|error| Failure::from(error).about(SPOOL))?.threads(cores());
            self.copy(&mut again, output.as_mut(), &mut Progress::of(None).hidden_if(true))?;
            again.sender()
        } else {
            reader.get_mut().seen = None;
            self.copy(&mut reader, output.as_mut(), &mut progress)?;
            reader.sender()
        };
        drop(progress);
        finish(args.check, sender, output)
    }

    /// Plaintext to where it goes, or nowhere.
    fn copy(&self, plaintext: &mut dyn Read, output: Option<&mut Output>, progress: &mut Progress) -> Result<(), Failure> {
        let target = output.as_ref().map_or_else(String::new, |output| output.name().to_owned());
        let copied = match output {
            Some(output) => copy(plaintext, output.writer(), progress),
            None => copy(plaintext, &mut io::sink(), progress),
        };
        copied.map_err(|error| error.about(&self.name, &target))
    }

    /// Opens a part of a payload: of an input that cannot seek, all is read and waits on the disk, sealed.
    fn open_range(&self, args: &OpenArgs, range: PayloadRange, mut output: Option<Output>) -> Result<(), Failure> {
        let mut file = seekable(Source::of_envelope(&args.input)?, &self.name)?;
        self.learn_first(&mut file)?;
        file.rewind().map_err(|error| Failure::io(&self.name, &error))?;
        let mut reader = self.begin(file).map_err(|error| self.about(error))?;
        let PayloadRange { start, end } = range;
        // Of a small range the first and its own segments are read, and nothing is given before it is there. For a larger one, or one whose end
        // is left out, the end is asked.
        let small = end.map(|end| end - start).filter(|len| (1..=len64(SMALL)).contains(len));
        let len = if small.is_some() { None } else { Some(reader.payload_len().map_err(|error| self.about(error))?) };
        let outside =
            |len: u64| Failure::usage(format!("--range: the payload has {len} bytes, and no range {range}")).about(&self.name);
        if let Some(len) = len
            && (start > len || end.is_some_and(|end| end > len))
        {
            return Err(outside(len));
        }
        let wanted = small.or(len.map(|len| end.unwrap_or(len) - start)).unwrap_or_default();
        let read_failed = |error| self.about(StreamError::of(error));
        reader.seek(SeekFrom::Start(start)).map_err(read_failed)?;
        let mut held = Vec::new();
        if small.is_some() && reader.by_ref().take(wanted).read_to_end(&mut held).map_err(read_failed)? < index(wanted) {
            return Err(outside(reader.payload_len().map_err(|error| self.about(error))?));
        }
        let sender = reader.sender();
        let mut progress = Progress::of(Some(wanted)).hidden_if(matches!(output, Some(Output::Stream(..))));
        let left = wanted - len64(held.len());
        let mut part = io::Cursor::new(held).chain(reader.take(left));
        self.copy(&mut part, output.as_mut(), &mut progress)?;
        drop(progress);
        finish(args.check, sender, output)
    }
}

/// Bytes of a range that are held in memory.
const SMALL: usize = 1 << 20;
const SPOOL: &str = "a temporary file";

/// A file that is the input, or has what came from it.
fn seekable(source: Source, name: &str) -> Result<File, Failure> {
    match source {
        Source::File(file, _) => Ok(file),
        mut source => {
            let mut spool = spool()?;
            let copied = copy(&mut source, &mut spool, &mut Progress::of(None));
            copied.map_err(|error| error.about(name, SPOOL))?;
            spool.rewind().map_err(|error| Failure::io(SPOOL, &error))?;
            Ok(spool)
        }
    }
}

/// Input that is written down as it is read: in memory while it is not known whether that is needed, then in a file.
struct Recorder {
    source: io::Chain<io::Cursor<Vec<u8>>, Source>,
    seen: Option<Vec<u8>>,
    spool: Option<File>,
}

impl Recorder {
    /// From now on in a file.
    fn spool(&mut self) -> Result<(), Failure> {
        let mut file = spool()?;
        let seen = self.seen.take().unwrap_or_default();
        file.write_all(&seen).map_err(|error| Failure::io(SPOOL, &error))?;
        self.spool = Some(file);
        Ok(())
    }
}

impl Read for Recorder {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.source.read(out)?;
        if let Some(seen) = &mut self.seen {
            seen.extend_from_slice(&out[..n]);
        }
        if let Some(spool) = &mut self.spool {
            spool.write_all(&out[..n])?;
        }
        Ok(n)
    }
}

/// All of it is there. Who has written is told in words, to people alone, or where nothing else is told.
fn finish(check: bool, sender: Option<Sender>, output: Option<Output>) -> Result<(), Failure> {
    if let Some(sender) = sender
        && let Some(key) = sender.key()
        && (check || io::stderr().is_terminal())
    {
        note(&format!("signed with {key} ({}): {}", sender.standing(), sender.standing().in_words()));
    }
    output.map_or(Ok(()), Output::finish)
}

fn open_channel(
    args: &OpenArgs,
    opener: Opener,
    unwrapper: Option<Unwrapper>,
    mut output: Option<Output>,
) -> Result<(), Failure> {
    let mut channel = ChannelOpener::new(opener, Role::Acceptor, b"");
    if unwrapper.is_some() {
        channel = channel.waiting_for_deks();
    }
    let mut reader = input(&args.input)?;
    let (mut buffer, mut chunk, mut text) = (BytesMut::new(), vec![0; CHUNK], Vec::new());
    let about = |failure: Failure| failure.about(show(&args.input));
    let mut begun = false;
    loop {
        let read = reader.read(&mut chunk).map_err(|error| Failure::io(show(&args.input), &error))?;
        if !std::mem::replace(&mut begun, true) {
            refuse_secret(&chunk[..read]).map_err(about)?;
        }
        buffer.extend_from_slice(&chunk[..read]);
        while let Some(opened) = next_of(&mut channel, &mut buffer, unwrapper.as_ref()).map_err(about)? {
            text.extend_from_slice(&opened.payload);
            text.push(b'\n');
            if text.len() >= CHUNK {
                put(&mut output, &mut text)?;
            }
        }
        put(&mut output, &mut text)?;
        if read == 0 {
            break;
        }
    }
    channel.end(&buffer).map_err(|error| about(error.into()))?;
    output.map_or(Ok(()), Output::finish)
}

/// The next message that is there; each DEK is unwrapped when its block has come.
fn next_of(channel: &mut ChannelOpener, buffer: &mut BytesMut, unwrapper: Option<&Unwrapper>) -> Result<Option<Opened>, Failure> {
    loop {
        if let Some(opened) = channel.next(buffer)? {
            return Ok(Some(opened));
        }
        let Some(unwrapper) = unwrapper else { return Ok(None) };
        if !unwrapper.supply(channel, buffer)? {
            return Ok(None);
        }
    }
}

/// Writes what has gathered.
fn put(output: &mut Option<Output>, text: &mut Vec<u8>) -> Result<(), Failure> {
    let written = output.as_mut().map_or(Ok(()), |output| output.write(text));
    text.clear();
    written
}
