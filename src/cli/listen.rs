//! The receiving side of a transfer (spec/transfer.md): greets, opens, stores, and only then acknowledges.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{FutureExt, SinkExt, StreamExt};
use serde_json::json;
use tokio::{
    io::AsyncWriteExt,
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Semaphore, watch},
    time::timeout,
};

use super::{
    Failure,
    args::ListenArgs,
    cleanup,
    fail::{Code, note},
    keys::{read_keyring, read_senders},
    report::{bytes, peak_memory},
    store::{Inbox, Store},
};
use crate::{
    channel::{ChannelOpener, ChannelSealer, Role, reply_binding},
    codec::CodecError,
    connection::{OpenedStream, SealedSink, TimedOut, Times},
    kms::bind,
    open::{CachePolicy, OpenError, Opener, Policy, Sender},
    platform::Entropy,
    seal::Sealer,
    transfer::{Answer, GREETING_LEN, Request},
    wire::inspect::escape,
};

/// Blocks older than this are refused: a sender makes a new one for every connection.
const MAX_AGE: Duration = Duration::from_secs(24 * 3600);
/// How long the first message may take: less than a sender waits for a place.
const FIRST: Duration = Duration::from_secs(10);
/// How long the first message may be. It holds a recipient.
const FIRST_LEN: u64 = 4096;
/// How long each further part of a message that has begun may take.
const PART: Duration = Duration::from_secs(20);
/// How long a sender may leave an answer unread.
const ANSWER: Duration = Duration::from_secs(60);
/// How long what is under way may take when the listener is told to end.
const GRACE: Duration = Duration::from_secs(10);
/// Connections served at a time; more of them wait. Fewer where the system does not let us have so many files.
const CONNECTIONS: u64 = 4096;
/// Open files of a connection: its socket, a file that is under way, and a folder that is synced.
const FILES: u64 = 3;
/// Open files that are not a connection's.
const OTHERS: u64 = 32;
/// Messages after which an answer is due, even when more are waiting.
const ANSWER_EVERY: u64 = 1024;

pub(super) fn run(args: ListenArgs) -> Result<(), Failure> {
    let (senders, require_pq) = (read_senders(&args.from)?, args.require_pq);
    let policy = Policy { max_age: Some(MAX_AGE), senders, require_pq, ..Policy::default() };
    // Every connection has a DEK of its own, so none is worth keeping.
    let cache = CachePolicy { deks: 0, ..CachePolicy::default() };
    let opener = Opener::builder(read_keyring(&args.keys.keys, &args.keys.passphrase)?).policy(policy).cache(cache).build();
    let store = Store::new(&args.out)?;
    let runtime = runtime()?;
    let ended = runtime.block_on(listen(args, opener, store));
    // What is stuck in a write that nobody takes is not waited for.
    runtime.shutdown_background();
    ended
}

pub(super) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Runtime::new().map_err(|error| Failure::io("starting", &error))
}

async fn listen(args: ListenArgs, opener: Opener, store: Store) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::io(escape(args.on.as_bytes()), &error);
    let listener = bind(&args.on).await.map_err(failed)?;
    // Before anyone is told that we are there: a signal is heeded from then on.
    let (phase, phases) = watch::channel(Phase::Serving);
    let mut stop = cleanup::graceful();
    let report = Report { json: args.json };
    report.listening(listener.local_addr().map_err(failed)?);
    let idle = Some(Duration::from_secs(args.idle)).filter(|idle| !idle.is_zero());
    let server = Server { opener, store, report, idle, phase: phases };
    let places = places();
    let all = places.available_permits();
    while let Some((stream, peer)) = next(&mut stop, &places, &listener).await {
        let mut server = server.clone();
        let place = places.clone().try_acquire_owned();
        let served = tokio::spawn(async move {
            let served = server.serve(stream, peer).await;
            if server.store.is_broken() && !args.once {
                // Nothing more could be delivered to anyone.
                std::process::exit(served.map_or_else(|failure| failure.code as i32, |()| 0));
            }
            drop(place);
            served
        });
        if args.once {
            tokio::spawn(end(stop, phase));
            return served.await.unwrap_or_else(|error| Err(Failure::new(Code::Io, error.to_string())));
        }
    }
    // Who is told that it ends may rely on it that nobody new is taken.
    drop(listener);
    tokio::spawn(end(stop, phase));
    // Every place is free when every connection has ended.
    let all = u32::try_from(all).unwrap_or(u32::MAX);
    let ended = timeout(GRACE + Duration::from_secs(1), places.acquire_many(all)).await;
    report.stopped(ended.is_ok());
    Ok(())
}

fn places() -> Arc<Semaphore> {
    let files = files().unwrap_or(u64::MAX).saturating_sub(OTHERS) / FILES;
    Arc::new(Semaphore::new(usize::try_from(files.clamp(1, CONNECTIONS)).unwrap_or(1)))
}

/// Files that we may have open: as many as we are allowed to ask for.
#[cfg(unix)]
pub(super) fn files() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    if raised.is_ok() { maximum } else { current }
}

#[cfg(not(unix))]
pub(super) fn files() -> Option<u64> {
    None
}

/// How far the listener is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
enum Phase {
    Serving,
    /// It was told to end: files that are under way are finished.
    Finishing,
    /// Nothing is finished any more.
    Over,
}

/// Waits until the listener is told to end, and tells its connections; after a while, that there is no time left.
async fn end(mut stop: watch::Receiver<bool>, phase: watch::Sender<Phase>) {
    comes(&mut stop, true).await;
    phase.send_replace(Phase::Finishing);
    tokio::time::sleep(GRACE).await;
    phase.send_replace(Phase::Over);
    // Connections wait for what it says.
    std::future::pending::<()>().await;
}

/// What every connection is served with.
#[derive(Clone)]
struct Server {
    opener: Opener,
    store: Store,
    report: Report,
    idle: Option<Duration>,
    phase: watch::Receiver<Phase>,
}

/// The next connection. What goes wrong with one that is not yet ours (too many open files, a reset) passes.
async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    let mut warned = false;
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) => {
                if !std::mem::replace(&mut warned, true) {
                    note(&format!("warning: a connection could not be accepted: {error}; trying again"));
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// The next connection, when there is a place for it; `None` when there are to be no more.
async fn next(stop: &mut watch::Receiver<bool>, places: &Semaphore, listener: &TcpListener) -> Option<(TcpStream, SocketAddr)> {
    tokio::select! {
        next = async {
            drop(places.acquire().await);
            accept(listener).await
        } => Some(next),
        () = comes(stop, true) => None,
    }
}

impl Server {
    /// One connection, from greeting to its end; tells what became of it.
    async fn serve(&mut self, stream: TcpStream, peer: SocketAddr) -> Result<(), Failure> {
        let mut taken = Taken::default();
        let mut phase = self.phase.clone();
        let served = tokio::select! {
            greeted = Connection::greet(stream, self) => greeted,
            () = comes(&mut phase, Phase::Finishing) => Err(Failure::new(Code::Io, STOPPED)),
        };
        let served = match served {
            Ok((mut connection, sender)) => {
                taken.sender = Some(sender);
                connection.take_all(self, &mut taken).await
            }
            Err(failure) => Err(failure),
        };
        self.report.served(peer, &taken, &served);
        served
    }
}

/// Waits for a phase, or a later one.
async fn comes<P: PartialOrd>(phases: &mut watch::Receiver<P>, phase: P) {
    if phases.wait_for(|now| *now >= phase).await.is_err() {
        std::future::pending::<()>().await;
    }
}

const STOPPED: &str = "the listener is being stopped";

/// What has been delivered on a connection.
#[derive(Debug, Clone, Copy, Default)]
struct Taken {
    messages: u64,
    bytes: u64,
    answered: u64,
    /// Who sent it; the same from the first message to the last.
    sender: Option<Sender>,
}

struct Connection {
    requests: OpenedStream<OwnedReadHalf>,
    answers: SealedSink<OwnedWriteHalf>,
}

impl Connection {
    /// Sends the greeting, and takes the first message: to whom answers are sealed. Tells who sent it.
    async fn greet(stream: TcpStream, server: &Server) -> Result<(Self, Sender), Failure> {
        let lost = |error: io::Error| Failure::io("connection", &error);
        stream.set_nodelay(true).map_err(lost)?;
        let (read, mut write) = stream.into_split();
        // [XFR-1]
        let greeting: [u8; GREETING_LEN] = Entropy::default().array()?;
        write.write_all(&greeting).await.map_err(lost)?;
        let channel = ChannelOpener::new(server.opener.clone(), Role::Acceptor, &greeting).first_at_most(FIRST_LEN);
        let times = Times { header: Some(FIRST), part: Some(PART), idle: server.idle, write: Some(ANSWER) };
        let mut requests = OpenedStream::new(channel, read).times(times);
        let first = match requests.next().await {
            Some(Err(CodecError::TimedOut(TimedOut::Header | TimedOut::Part))) => {
                let silent = "the peer did not say to whom answers go, and the connection was closed";
                return Err(Failure::new(Code::Truncated, silent));
            }
            first => first.ok_or(OpenError::ChannelTruncated { delivered: 0 })??,
        };
        // [XFR-2]
        let sender = first.sender;
        let Request::Hello { reply_to } = Request::decode(first.payload)? else {
            return Err(Failure::new(Code::Malformed, "the first message does not say to whom answers go"));
        };
        let mac = requests.channel().first_header_mac().ok_or(OpenError::Failed)?;
        let sealer = Sealer::builder().to(reply_to).build()?;
        let channel = ChannelSealer::new(sealer, Role::Acceptor, &reply_binding(mac, &greeting));
        Ok((Self { requests, answers: SealedSink::new(channel, write).times(times) }, sender))
    }

    async fn take_all(&mut self, server: &mut Server, taken: &mut Taken) -> Result<(), Failure> {
        let end = self.take_until_end(server, taken).await;
        // What was delivered is acknowledged, whatever came after it; what came after it is what is reported.
        let answered = self.answer(&server.store, taken).await;
        let end = match (end, answered) {
            (Ok(()), Err(stop)) => Err(stop),
            (end, _) => end,
        };
        match end {
            Ok(()) => self.close().await,
            Err(Stop::Store { what, error }) => {
                // The kind of error alone: our paths are nobody else's.
                let refused = Answer::Refused { count: taken.answered, reason: format!("{what}: {}", error.kind()) };
                // The sender may be gone; what is reported is why we stopped.
                let _ = self.say(&refused).await;
                let _ = self.close().await;
                Err(Failure::io(what, &error))
            }
            Err(Stop::Ours(reason)) => {
                let _ = self.say(&Answer::Refused { count: taken.answered, reason: reason.clone() }).await;
                let _ = self.close().await;
                Err(Failure::new(Code::Io, reason))
            }
            Err(Stop::Peer(failure)) => Err(failure),
        }
    }

    async fn take_until_end(&mut self, server: &mut Server, taken: &mut Taken) -> Result<(), Stop> {
        let Server { store, phase, idle, .. } = server;
        let mut inbox = Inbox::new(store.clone());
        loop {
            if taken.messages - taken.answered >= ANSWER_EVERY {
                self.answer(store, taken).await?;
            }
            let now = *phase.borrow_and_update();
            if now == Phase::Over || now == Phase::Finishing && inbox.is_between_files() {
                return Err(Stop::Ours(STOPPED.into()));
            }
            let next = match self.requests.next().now_or_never() {
                Some(next) => next,
                // Nothing more is waiting: what has come is delivered and acknowledged before the next wait.
                None => {
                    self.answer(store, taken).await?;
                    tokio::select! {
                        next = self.requests.next() => next,
                        _ = phase.changed() => continue,
                    }
                }
            };
            let Some(opened) = next else { return inbox.end() };
            if let Err(CodecError::TimedOut(TimedOut::Idle)) = opened {
                let seconds = idle.unwrap_or_default().as_secs();
                return Err(Stop::Ours(format!("nothing was sent for {seconds} s")));
            }
            let request = opened.map_err(Failure::from).and_then(|o| Ok(Request::decode(o.payload)?)).map_err(Stop::Peer)?;
            if let Some(len) = inbox.take(request, taken.messages).await? {
                taken.messages += 1;
                taken.bytes += len;
            }
        }
    }

    /// Acknowledges everything that has been delivered. [XFR-3]
    async fn answer(&mut self, store: &Store, taken: &mut Taken) -> Result<(), Stop> {
        if taken.answered < taken.messages {
            store.flush()?;
            self.say(&Answer::Done { count: taken.messages }).await.map_err(Stop::Peer)?;
            taken.answered = taken.messages;
        }
        Ok(())
    }

    async fn say(&mut self, answer: &Answer) -> Result<(), Failure> {
        match self.answers.send(answer.encode()).await {
            Err(CodecError::TimedOut(_)) => Err(Failure::new(Code::Io, "the peer does not read its answers")),
            said => Ok(said?),
        }
    }

    async fn close(&mut self) -> Result<(), Failure> {
        Ok(SinkExt::<Bytes>::close(&mut self.answers).await?)
    }
}

/// Why a connection stops before its end.
pub(super) enum Stop {
    /// The peer, or the network.
    Peer(Failure),
    /// We do not go on, and say why.
    Ours(String),
    /// We could not store what it sent.
    Store { what: &'static str, error: io::Error },
}

/// What is told on standard error.
#[derive(Clone, Copy)]
struct Report {
    json: bool,
}

impl Report {
    fn listening(self, address: SocketAddr) {
        if self.json {
            note(&json!({ "event": "listening", "address": address.to_string() }).to_string());
        } else {
            note(&format!("listening on {address}"));
        }
    }

    /// The listener was told to end, and all connections ended in time, or not.
    fn stopped(self, ended: bool) {
        if self.json {
            note(&json!({ "event": "stopped", "in_time": ended }).to_string());
        } else if !ended {
            note(&format!("stopped; what was still under way after {} s was not finished", GRACE.as_secs()));
        }
    }

    fn served(self, peer: SocketAddr, taken: &Taken, served: &Result<(), Failure>) {
        let Taken { messages, bytes: released, sender, .. } = *taken;
        let key = sender.and_then(|sender| sender.key().copied());
        if self.json {
            let error = served.as_ref().err().map(|failure| failure.message.clone());
            let event = json!({ "event": "served", "peer": peer.to_string(), "messages": messages, "bytes": released, "sender": key.map(|key| key.to_string()), "standing": sender.map(|sender| sender.standing().to_string()), "error": error, "peak_memory": peak_memory() });
            note(&event.to_string());
            return;
        }
        match served {
            Ok(()) => {
                let from = match (key, sender) {
                    (Some(key), Some(sender)) => format!(" from {key} ({})", sender.standing()),
                    _ => String::new(),
                };
                note(&format!("{peer}: {messages} messages, {}{from}", bytes(released)));
            }
            Err(failure) => {
                note(&format!("{peer}: refused: {}; {messages} messages, {released} bytes released", failure.message));
            }
        }
    }
}

impl From<CodecError> for Stop {
    fn from(error: CodecError) -> Self {
        Self::Peer(error.into())
    }
}
