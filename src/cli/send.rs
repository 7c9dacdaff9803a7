//! The sending side of a transfer (spec/transfer.md): seals, sends, and counts what is acknowledged.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use indicatif::ProgressBar;
use serde_json::json;
use tokio::{
    io::AsyncReadExt,
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
    time::timeout,
};

use super::{
    Failure,
    args::SendArgs,
    fail::{Code, print_line, show},
    io::{input, is_dash, lines},
    keys::{read_recipients, read_sender_key},
    lines::next_line,
    listen::runtime,
    report::{peak_memory, progress},
};
use crate::{
    channel::{ChannelOpener, ChannelSealer, Role, reply_binding},
    codec::CodecError,
    connection::{OpenedStream, SealedSink, TimedOut, Times},
    keys::{Cmk, Keyring},
    open::Opener,
    seal::{SealError, Sealer},
    transfer::{Answer, GREETING_LEN, NAME_MAX, Request, at_most},
    wire::{Limits, ParseError, check_context, inspect::escape, len64},
};

/// How long connecting and the greeting may take.
const CONNECT: Duration = Duration::from_secs(15);
/// How long the listener may go without acknowledging anything once everything is sent.
const ANSWER: Duration = Duration::from_secs(120);
/// How long the listener may read nothing, or stop in the middle of an answer.
const STALL: Duration = Duration::from_secs(300);
/// How long answers are waited for when sending has failed.
const FAREWELL: Duration = Duration::from_secs(5);
/// Lines are handed over in pieces of about this.
const LINES: usize = 64 * 1024;
/// A file of no more than this is one message; a larger one goes in pieces of it.
const PIECE: usize = 256 * 1024;

pub(super) fn run(args: SendArgs) -> Result<(), Failure> {
    // Messages of a channel are small.
    let to = read_recipients(&args.recipients)?;
    let suite = args.suite.for_messages_of(Some(0), &to);
    let mut sealer = Sealer::builder().to_all(to).suite(suite);
    if let Some(path) = &args.sign_with {
        sealer = sealer.sign_with(read_sender_key(path, &args.passphrase)?);
    }
    let sealer = sealer.build()?;
    let total = check_inputs(&args)?;
    let runtime = runtime()?;
    let sent = runtime.block_on(send(args, sealer, total));
    // Standard input may still be waited for by a thread that nobody needs any more.
    runtime.shutdown_background();
    sent
}

/// Refuses what cannot be sent before anything is; tells the bytes of all files where it can.
fn check_inputs(args: &SendArgs) -> Result<Option<u64>, Failure> {
    let limits = Limits::default();
    check_context(args.context.as_bytes(), &limits).map_err(|over| Failure::from(ParseError::from(over)))?;
    let mut total = Some(0u64).filter(|_| !args.lines);
    for path in &args.files {
        let len = if is_dash(path) { None } else { file_len(path)? };
        total = total.zip(len).map(|(sum, len)| sum.saturating_add(len));
    }
    Ok(total)
}

/// The length of a file; `None` of a device or a pipe.
fn file_len(path: &Path) -> Result<Option<u64>, Failure> {
    let meta = fs::metadata(path).map_err(|error| Failure::io(show(path), &error))?;
    if meta.is_dir() {
        return Err(Failure::usage(format!("{} is a folder; send its files", show(path))));
    }
    Ok(meta.is_file().then_some(meta.len()))
}

/// The name that a file travels under: without its folder.
fn file_name(path: &Path) -> String {
    if is_dash(path) {
        return "stdin".into();
    }
    let name = path.file_name().map_or_else(|| "unnamed".into(), |name| name.to_string_lossy().into_owned());
    at_most(&name, NAME_MAX).to_owned()
}

async fn send(args: SendArgs, sealer: Sealer, total: Option<u64>) -> Result<(), Failure> {
    let started = Instant::now();
    let bar = progress(total);
    let Connection { requests, answers } = Connection::open(&args.to, sealer).await?;
    let (answered, mut progress) = watch::channel(0u64);
    let mut answers = tokio::spawn(read_answers(answers, answered));
    let mut sent = Sent::default();
    let (sending, ending) = tokio::select! {
        sending = send_all(&args, requests, &mut sent, &bar) => {
            let patience = if sending.is_ok() { ANSWER } else { FAREWELL };
            (sending, wait_for_answers(&mut answers, &mut progress, patience).await)
        }
        // Whoever answers no more does not listen any more either.
        ended = &mut answers => (Ok(()), ended.unwrap_or_else(|_| Err(lost())).and_then(|()| Err(lost()))),
    };
    bar.finish_and_clear();
    let done = *progress.borrow();
    if args.json {
        let seconds = started.elapsed().as_secs_f64();
        print_line(
            &json!({ "messages": sent.messages, "acknowledged": done, "bytes": sent.bytes, "seconds": seconds, "peak_memory": peak_memory() })
                .to_string(),
        )?;
    }
    let failure = match (sending, ending) {
        (Ok(()), Ok(())) if done == sent.messages => return Ok(()),
        (Ok(()), Ok(())) => lost(),
        (Err(Stop::Here(Failure { code, message })), _) if done == sent.messages => {
            return Err(Failure::new(code, format!("{message}; {done} messages before it were acknowledged")));
        }
        (Err(Stop::Here(failure) | Stop::Listener(failure)), _) => failure,
        // What the listener says, or how it ended, tells more than a broken pipe.
        (_, Err(failure)) | (Err(Stop::Connection(failure)), Ok(())) => failure,
    };
    Err(failure.about(sent.name_of(&args, done)))
}

fn lost() -> Failure {
    Failure::new(Code::Truncated, "the listener ended before it acknowledged everything")
}

/// Why not everything was sent.
enum Stop {
    /// Something on this side: a file that cannot be read, a payload that cannot be sealed.
    Here(Failure),
    /// The connection.
    Connection(Failure),
    /// The listener does not read.
    Listener(Failure),
}

impl From<CodecError> for Stop {
    fn from(error: CodecError) -> Self {
        match error {
            CodecError::TimedOut(TimedOut::Write) => {
                Self::Listener(Failure::new(Code::Io, format!("the listener has not read for {} s", STALL.as_secs())))
            }
            CodecError::Io(_) => Self::Connection(error.into()),
            _ => Self::Here(error.into()),
        }
    }
}

/// What has been handed to the connection.
#[derive(Debug, Default)]
struct Sent {
    /// Files and lines, whole.
    messages: u64,
    bytes: u64,
    /// How many of them each input has become.
    inputs: Vec<u64>,
    /// Which input the last bytes are of.
    reading: usize,
}

impl Sent {
    /// Names the first message that is not acknowledged.
    fn name_of(&self, args: &SendArgs, acknowledged: u64) -> String {
        let mut before = acknowledged;
        for (i, (path, messages)) in args.files.iter().zip(self.inputs.iter().copied().chain([0])).enumerate() {
            // Of the input that was being read more would have come.
            if before < messages || i == self.reading {
                let line = if args.lines { format!(", line {}", before + 1) } else { String::new() };
                return format!("{}{line} was not acknowledged", show(path));
            }
            before -= messages;
        }
        "the end was not acknowledged".into()
    }
}

type Requests = SealedSink<OwnedWriteHalf>;
type Answers = OpenedStream<OwnedReadHalf>;

struct Connection {
    requests: Requests,
    answers: Answers,
}

impl Connection {
    /// Connects, takes the greeting, and says to whom answers are sealed.
    async fn open(to: &str, sealer: Sealer) -> Result<Self, Failure> {
        let to_shown = escape(to.as_bytes());
        let unreachable = |error: std::io::Error| Failure::io(&to_shown, &error);
        let late =
            |_| Failure::new(Code::Io, format!("{to_shown}: no greeting within {} s; is a listener there?", CONNECT.as_secs()));
        let greeted = timeout(CONNECT, async {
            let mut stream = TcpStream::connect(to).await?;
            stream.set_nodelay(true)?;
            let mut greeting = [0; GREETING_LEN];
            stream.read_exact(&mut greeting).await?;
            Ok((stream, greeting))
        });
        let (stream, greeting) = greeted.await.map_err(late)?.map_err(unreachable)?;
        let (read, write) = stream.into_split();
        let reply = Cmk::generate()?;
        let hello = Request::Hello { reply_to: reply.recipient().clone() };
        let channel = ChannelSealer::new(sealer, Role::Initiator, &greeting);
        let times = Times { part: Some(STALL), write: Some(STALL), ..Times::NONE };
        let mut requests = SealedSink::new(channel, write).times(times);
        requests.send(hello.encode()).await?;
        let mac = requests.first_header_mac().copied();
        let binding = reply_binding(&mac.ok_or(SealError::Failed)?, &greeting);
        let opener = Opener::new(Keyring::from(reply));
        let answers = OpenedStream::new(ChannelOpener::new(opener, Role::Initiator, &binding), read).times(times);
        Ok(Self { requests, answers })
    }
}

/// What one piece of input becomes: payloads, and which input they are of.
struct Piece {
    input: usize,
    payloads: Vec<Payload>,
}

/// A message's payload, how much of it is the input's own bytes, and whether a file or line is whole with it.
struct Payload {
    bytes: Bytes,
    content: u64,
    whole: bool,
}

async fn send_all(args: &SendArgs, mut requests: Requests, sent: &mut Sent, bar: &ProgressBar) -> Result<(), Stop> {
    let (pieces, mut waiting) = mpsc::channel(1);
    let (files, by_lines) = (args.files.clone(), args.lines);
    let reader = tokio::task::spawn_blocking(move || read_inputs(&files, by_lines, &pieces));
    requests.set_context(Bytes::copy_from_slice(args.context.as_bytes()))?;
    sent.inputs = vec![0; args.files.len()];
    loop {
        let piece = match waiting.try_recv() {
            Ok(piece) => piece,
            Err(_) => {
                requests.flush().await?;
                match waiting.recv().await {
                    Some(piece) => piece,
                    None => break,
                }
            }
        };
        for payload in piece.payloads {
            let Payload { bytes, content, whole } = payload;
            requests.feed(bytes).await?;
            sent.messages += u64::from(whole);
            sent.bytes += content;
            sent.inputs[piece.input] += u64::from(whole);
            sent.reading = piece.input;
            bar.inc(content);
        }
    }
    let read = reader.await.unwrap_or_else(|error| Err(Failure::new(Code::Io, error.to_string())));
    read.map_err(Stop::Here)?;
    Ok(requests.close().await?)
}

/// Reads inputs into payloads, one piece ahead of what is being sealed.
fn read_inputs(files: &[PathBuf], by_lines: bool, pieces: &mpsc::Sender<Piece>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Handle::current();
    for (input, path) in files.iter().enumerate() {
        let mut source = if by_lines { Source::Lines(lines(path)?) } else { Source::file(path)? };
        loop {
            // Waits for a place before it reads: what waits is bounded.
            let Ok(place) = runtime.block_on(pieces.reserve()) else { return Ok(()) };
            let payloads = source.next().map_err(|failure| failure.about(show(path)))?;
            if payloads.is_empty() {
                break;
            }
            place.send(Piece { input, payloads });
        }
    }
    Ok(())
}

enum Source {
    Lines(std::io::BufReader<Box<dyn Read>>),
    File {
        bytes: Box<dyn Read>,
        name: String,
        /// Bytes that have become pieces; `None` before the first.
        size: Option<u64>,
    },
    Done,
}

impl Source {
    fn file(path: &Path) -> Result<Self, Failure> {
        Ok(Self::File { bytes: input(path)?, name: file_name(path), size: None })
    }

    /// The next payloads; none at the end.
    fn next(&mut self) -> Result<Vec<Payload>, Failure> {
        match self {
            Self::Done => Ok(Vec::new()),
            Self::File { .. } => self.next_of_file(),
            Self::Lines(reader) => {
                let (mut payloads, mut len) = (Vec::new(), 0);
                while let Some(line) = next_line(reader)? {
                    let content = len64(line.content.len());
                    len += line.content.len();
                    let bytes = Request::Line { ended: line.ended, content: line.content.into() }.encode();
                    payloads.push(Payload { bytes, content, whole: true });
                    if len >= LINES || reader.buffer().is_empty() {
                        break;
                    }
                }
                Ok(payloads)
            }
        }
    }

    /// A small file as it is, or the next piece of a large one.
    fn next_of_file(&mut self) -> Result<Vec<Payload>, Failure> {
        let Self::File { bytes, name, size } = self else { return Ok(Vec::new()) };
        let mut piece = Vec::with_capacity(PIECE + 64);
        let read = bytes.by_ref().take(len64(PIECE)).read_to_end(&mut piece);
        let content = len64(read.map_err(|error| Failure::io("reading", &error))?);
        let content_bytes = Bytes::from(piece);
        let (before, name) = (*size, std::mem::take(name));
        *size = Some(before.unwrap_or(0) + content);
        let part = |request: Request, content| Payload { bytes: request.encode(), content, whole: false };
        let ended = content < len64(PIECE);
        let piece = || part(Request::Piece { content: content_bytes.clone() }, content);
        let end = |size| Payload { whole: true, ..part(Request::End { size }, 0) };
        let payloads = match before {
            None if ended => vec![Payload { whole: true, ..part(Request::File { name, content: content_bytes }, content) }],
            None => vec![part(Request::Begin { name }, 0), piece()],
            Some(before) if content == 0 => vec![end(before)],
            Some(before) if ended => vec![piece(), end(before + content)],
            Some(_) => vec![piece()],
        };
        if ended {
            *self = Self::Done;
        }
        Ok(payloads)
    }
}

async fn read_answers(mut answers: Answers, answered: watch::Sender<u64>) -> Result<(), Failure> {
    while let Some(opened) = answers.next().await {
        let opened = opened.map_err(|error| match Failure::from(error) {
            Failure { code: Code::Truncated | Code::Io, .. } => {
                Failure::new(Code::Truncated, "the listener closed the connection; does it have the key?")
            }
            Failure { code: Code::NoMatchingKey | Code::CannotOpen, .. } => {
                Failure::new(Code::CannotOpen, "the listener's answer is not authentic; somebody on the way changed it")
            }
            failure => failure,
        })?;
        match Answer::decode(opened.payload)? {
            Answer::Done { count } => {
                answered.send_replace(count);
            }
            Answer::Refused { count, reason } => {
                answered.send_replace(count);
                return Err(Failure::new(Code::Io, format!("the listener refused it: {reason}")));
            }
        }
    }
    Ok(())
}

/// Waits for the end of the answers, as long as more of them come.
async fn wait_for_answers(
    mut answers: &mut tokio::task::JoinHandle<Result<(), Failure>>,
    progress: &mut watch::Receiver<u64>,
    patience: Duration,
) -> Result<(), Failure> {
    let stuck = || Failure::new(Code::Io, "the listener stopped acknowledging");
    loop {
        tokio::select! {
            ended = &mut answers => return ended.unwrap_or_else(|_| Err(stuck())),
            changed = timeout(patience, progress.changed()) => match changed {
                Err(_) => return Err(stuck()),
                // The sender side is gone: the task ends in a moment.
                Ok(Err(_)) => return answers.await.unwrap_or_else(|_| Err(stuck())),
                Ok(Ok(())) => {}
            }
        }
    }
}
