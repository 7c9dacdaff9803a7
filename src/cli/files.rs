//! seal, open, inspect.

use std::{
    io::{self, BufRead, BufReader, IsTerminal, Read, Seek, Write},
    path::Path,
};

use bytes::BytesMut;
use serde_json::json;

use super::{
    Failure,
    args::{InspectArgs, OpenArgs, OutputArgs, SealArgs},
    fail::{Code, note, show},
    io::{Output, input, is_dash, is_same_as_stdout, lines, read_up_to},
    keys::{read_keyring, read_recipients, read_sender_key, read_senders},
};
use crate::{
    channel::{ChannelOpener, ChannelSealer, Role},
    open::{ExpectedContext, Opener, Policy, Sender},
    seal::Sealer,
    stream::{OpenReader, SealWriter, StreamError},
    wire::{
        LimitExceeded, Limits, Opening, ParseError, SEGMENT_LOG2_MAX,
        inspect::{Inspected, Inspector, Part},
        len64,
    },
};

/// Bytes that are read, and written, at once.
const CHUNK: usize = 64 * 1024;

pub(super) fn seal(args: &SealArgs) -> Result<(), Failure> {
    let mut sealer = Sealer::builder()
        .to_all(read_recipients(&args.to)?)
        .hints(args.hints.into())
        .enc_per_slot(args.enc_per_slot)
        .pad(args.pad)
        .segment_log2(args.segment_size);
    if let Some(path) = &args.sign_with {
        let key = read_sender_key(path)?;
        sealer = if args.channel { sealer.sign_with(key) } else { sealer.sign_messages_with(key) };
    }
    let sealer = sealer.build()?;
    if args.channel { seal_channel(args, sealer) } else { seal_one(args, sealer) }
}

/// Seals the input as one message of any size, in the memory of a segment.
fn seal_one(args: &SealArgs, mut sealer: Sealer) -> Result<(), Failure> {
    let mut output = output_beside(&args.input, &args.output, true)?;
    let (mut source, name) = (input(&args.input)?, show(&args.input));
    let (context, target) = (args.context.as_bytes(), output.name().to_owned());
    let failed = |error: StreamError| Failure::from(error).about(&target);
    let sealed = match &mut output {
        Output::File(file, _) => {
            let writer = SealWriter::seekable(&mut sealer, context, &mut file.temporary).map_err(failed)?;
            seal_into(writer, &mut source)
        }
        // The proof stands at the front and is made last: such a message waits on the disk, sealed.
        Output::Stream(stream, _) if args.sign_with.is_some() => {
            let mut spool = spool()?;
            let writer = SealWriter::seekable(&mut sealer, context, &mut spool).map_err(failed)?;
            seal_into(writer, &mut source).and_then(|()| {
                spool.rewind().map_err(Copying::Writing)?;
                copy(&mut spool, stream)
            })
        }
        Output::Stream(stream, _) => seal_into(SealWriter::new(&mut sealer, context, stream).map_err(failed)?, &mut source),
    };
    sealed.map_err(|error| error.about(&name, &target))?;
    output.finish()
}

/// The output of a command; never the file that is read, to which it would append without end.
fn output_beside(input: &Path, args: &OutputArgs, binary: bool) -> Result<Output, Failure> {
    let output = Output::new(args, binary)?;
    if args.output.as_deref().is_none_or(is_dash) && is_same_as_stdout(input) {
        return Err(Failure::usage(format!("{} is both input and output", show(input))));
    }
    Ok(output)
}

fn seal_into<W: Write>(mut writer: SealWriter<W>, source: &mut dyn Read) -> Result<(), Copying> {
    copy(source, &mut writer)?;
    writer.finish().map(|_| ()).map_err(|error| Copying::Writing(io::Error::other(error)))
}

/// Which side of a copy failed.
enum Copying {
    Reading(io::Error),
    Writing(io::Error),
}

impl Copying {
    fn about(self, source: &str, target: &str) -> Failure {
        match self {
            Self::Reading(error) => Failure::from(StreamError::of(error)).about(source),
            Self::Writing(error) => Failure::from(StreamError::of(error)).about(target),
        }
    }
}

fn copy(source: &mut dyn Read, target: &mut dyn Write) -> Result<(), Copying> {
    let mut chunk = vec![0; CHUNK];
    loop {
        match source.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(n) => target.write_all(&chunk[..n]).map_err(Copying::Writing)?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Copying::Reading(error)),
        }
    }
}

/// A file without a name, for what must wait; it is gone with the process.
fn spool() -> Result<std::fs::File, Failure> {
    tempfile::tempfile().map_err(|error| Failure::io("a temporary file", &error))
}

/// Refuses what does not fit in a one-shot message, in words for who has the file.
pub(super) fn check_size(len: u64, limit: u64) -> Result<(), Failure> {
    LimitExceeded::check("message", len, limit).map_err(|over| {
        let (most, mib) = (over.maximum, over.maximum.div_ceil(1 << 20));
        Failure::new(Code::Malformed, format!("it is larger than one message holds, {most} bytes ({mib} MiB); split it"))
    })
}

fn seal_channel(args: &SealArgs, sealer: Sealer) -> Result<(), Failure> {
    let mut output = output_beside(&args.input, &args.output, true)?;
    let mut channel = ChannelSealer::new(sealer, Role::Initiator, b"");
    let mut reader = lines(&args.input)?;
    let mut sealed = BytesMut::new();
    while let Some(line) = next_line(&mut reader).map_err(|failure| failure.about(show(&args.input)))? {
        channel.seal(args.context.as_bytes(), &line.content, &mut sealed)?;
        if sealed.len() >= CHUNK || reader.buffer().is_empty() {
            output.write(&sealed)?;
            output.flush()?;
            sealed.clear();
        }
    }
    channel.finish(&mut sealed)?;
    output.write(&sealed)?;
    output.finish()
}

/// A line of a text.
pub(super) struct Line {
    /// Without the newline.
    pub(super) content: Vec<u8>,
    /// Whether a newline ended it.
    pub(super) ended: bool,
}

/// The next line, of at most a message's size; `None` at the end.
pub(super) fn next_line(reader: &mut impl BufRead) -> Result<Option<Line>, Failure> {
    let limit = Limits::default().message;
    let mut content = Vec::new();
    let read = reader.by_ref().take(limit.saturating_add(1)).read_until(b'\n', &mut content);
    if read.map_err(|error| Failure::io("reading a line", &error))? == 0 {
        return Ok(None);
    }
    let ended = content.pop_if(|last| *last == b'\n').is_some();
    if !ended {
        check_size(len64(content.len()), limit)?;
    }
    Ok(Some(Line { content, ended }))
}

pub(super) fn open(args: &OpenArgs) -> Result<(), Failure> {
    let context = args.expect_context.clone().map(ExpectedContext::from);
    // Who runs this has the memory for the largest segments that there are.
    let limits = Limits { segment: 1 << SEGMENT_LOG2_MAX, ..Limits::default() };
    let policy = Policy { context, limits, senders: read_senders(&args.from)?, ..Policy::default() };
    let opener = Opener::builder(read_keyring(&args.keys)?).policy(policy).build();
    let output = if args.check { None } else { Some(output_beside(&args.input, &args.output, false)?) };
    if args.channel { open_channel(args, opener, output) } else { open_one(args, &opener, output) }
}

/// Opens one message of any size, in the memory of a segment. A file appears when all of it is authentic; a pipe gets what is
/// authentic as it comes, except under a proof that covers the message, which must hold first.
fn open_one(args: &OpenArgs, opener: &Opener, mut output: Option<Output>) -> Result<(), Failure> {
    let name = show(&args.input);
    let waits = matches!(output, Some(Output::Stream(..)));
    let source = Recorder { source: input(&args.input)?, seen: waits.then(Vec::new), spool: None };
    let mut reader = OpenReader::new(opener, source).map_err(|error| Failure::from(error).about(&name))?;
    let sender = if waits && reader.sender().is_none() {
        // Read to its end for the proof; what was read waits on the disk, sealed, and is opened again from there.
        let recorder = reader.get_mut();
        let mut spool = spool()?;
        let seen = recorder.seen.take().unwrap_or_default();
        spool.write_all(&seen).map_err(|error| Failure::io("a temporary file", &error))?;
        recorder.spool = Some(spool);
        open_from(&mut reader, None, &name)?;
        let spool = reader.into_inner().spool.ok_or_else(|| Failure::new(Code::Io, "a temporary file was lost"))?;
        open_again(opener, spool, output.as_mut())?
    } else {
        reader.get_mut().seen = None;
        open_from(&mut reader, output.as_mut(), &name)?
    };
    tell_sender(args.check, sender);
    output.map_or(Ok(()), Output::finish)
}

/// Input that is written down as it is read: in memory while it is not known whether that is needed, then in a file.
struct Recorder {
    source: Box<dyn Read>,
    seen: Option<Vec<u8>>,
    spool: Option<std::fs::File>,
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

/// Opens what was found authentic from the file where it waits, which has no name and is nobody else's.
fn open_again(opener: &Opener, mut spool: std::fs::File, output: Option<&mut Output>) -> Result<Option<Sender>, Failure> {
    const SPOOL: &str = "a temporary file";
    spool.rewind().map_err(|error| Failure::io(SPOOL, &error))?;
    let again = OpenReader::new(opener, BufReader::with_capacity(CHUNK, spool));
    open_from(&mut again.map_err(|error| Failure::from(error).about(SPOOL))?, output, SPOOL)
}

fn open_from<R: Read>(reader: &mut OpenReader<R>, output: Option<&mut Output>, name: &str) -> Result<Option<Sender>, Failure> {
    let target = output.as_ref().map_or_else(String::new, |output| output.name().to_owned());
    let copied = match output {
        Some(output) => copy(reader, output.writer()),
        None => copy(reader, &mut io::sink()),
    };
    copied.map_err(|error| error.about(name, &target))?;
    Ok(reader.sender())
}

/// Who has written, in words; to people alone, or where nothing else is told.
fn tell_sender(check: bool, sender: Option<Sender>) {
    if let Some(sender) = sender
        && let Some(key) = sender.key()
        && (check || std::io::stderr().is_terminal())
    {
        note(&format!("signed with {key} ({}): {}", sender.standing(), sender.standing().in_words()));
    }
}

fn open_channel(args: &OpenArgs, opener: Opener, mut output: Option<Output>) -> Result<(), Failure> {
    let mut channel = ChannelOpener::new(opener, Role::Acceptor, b"");
    let mut reader = input(&args.input)?;
    let (mut buffer, mut chunk) = (BytesMut::new(), vec![0; CHUNK]);
    let about = |failure: Failure| failure.about(show(&args.input));
    loop {
        let read = reader.read(&mut chunk).map_err(|error| Failure::io(show(&args.input), &error))?;
        buffer.extend_from_slice(&chunk[..read]);
        while let Some(opened) = channel.next(&mut buffer).map_err(|error| about(error.into()))? {
            if let Some(output) = &mut output {
                output.write(&opened.payload)?;
                output.write(b"\n")?;
            }
        }
        if let Some(output) = &mut output {
            output.flush()?;
        }
        if read == 0 {
            break;
        }
    }
    channel.end(&buffer).map_err(|error| about(error.into()))?;
    output.map_or(Ok(()), Output::finish)
}

pub(super) fn inspect(args: &InspectArgs) -> Result<(), Failure> {
    const MOST: u64 = 256 << 20;
    let bytes = read_up_to(&args.input, MOST)?;
    LimitExceeded::check("input", len64(bytes.len()), MOST).map_err(|over| Failure::from(ParseError::from(over)))?;
    let mut output = std::io::BufWriter::new(std::io::stdout().lock());
    let report = write_report(&bytes, args.json, &mut output).and_then(|error| output.flush().map(|()| error));
    let error = report.map_err(|error| Failure::io("standard output", &error))?;
    error.map_or(Ok(()), |error| Err(Failure::from(error).about(show(&args.input))))
}

/// Writes message after message, so that a large recording needs no more memory than a small one.
fn write_report(bytes: &[u8], json: bool, out: &mut impl Write) -> std::io::Result<Option<ParseError>> {
    let mut error = None;
    let mut before = "{ \"messages\": [";
    for message in Inspector::new(bytes, &Limits::default()) {
        match message {
            Ok(message) if json => write!(out, "{before}\n{:#}", message_json(&message))?,
            Ok(message) => out.write_all(message_text(&message).as_bytes())?,
            Err(found) => {
                error = Some(found);
                break;
            }
        }
        before = ",";
    }
    if json {
        let open = if before == "," { "" } else { before };
        writeln!(out, "{open}\n], \"error\": {} }}", json!(error.as_ref().map(ToString::to_string)))?;
    }
    Ok(error)
}

fn kind_name(kind: Opening) -> &'static str {
    match kind {
        Opening::Envelope => "envelope",
        Opening::FollowUp => "follow-up",
    }
}

fn message_json(message: &Inspected<'_>) -> serde_json::Value {
    let parts = message.parts.iter().map(|part| {
        json!({ "name": part.name, "offset": part.offset, "length": part.bytes.len(), "bytes": hex(part.bytes), "meaning": part.meaning })
    });
    json!({ "kind": kind_name(message.kind), "offset": message.offset, "length": message.len, "fields": parts.collect::<Vec<_>>() })
}

fn message_text(message: &Inspected<'_>) -> String {
    let mut text = format!("{} at {}, {} bytes\n", kind_name(message.kind), message.offset, message.len);
    for part in &message.parts {
        text += &part_text(part);
    }
    text
}

/// One line of a report: offset, name, bytes (the first of many), meaning.
pub(super) fn part_text(part: &Part<'_>) -> String {
    const SHOWN: usize = 16;
    let mut bytes = hex(part.bytes.get(..SHOWN).unwrap_or(part.bytes));
    if part.bytes.len() > SHOWN {
        bytes += &format!("… ({} bytes)", part.bytes.len());
    }
    let line = format!("{:>10}  {:<22} {bytes}  {}", part.offset, part.name, part.meaning);
    format!("{}\n", line.trim_end())
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
