//! The receiving side of a transfer (spec/transfer.md): greets, opens, stores, and only then acknowledges.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{FutureExt, SinkExt, StreamExt};
use serde_json::json;
use tokio::{
    io::AsyncWriteExt,
    net::{
        TcpListener, TcpSocket, TcpStream,
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
    open::{CachePolicy, OpenError, Opener, Policy, Sender},
    platform::Entropy,
    seal::Sealer,
    transfer::{Answer, GREETING_LEN, Request},
    wire::inspect::escape,
};

/// Blocks older than this are refused: a sender makes a new one for every connection.
const MAX_AGE: Duration = Duration::from_secs(24 * 3600);
/// How long the first message may take, and each further part of one that has begun.
const PART: Duration = Duration::from_secs(20);
/// How long a sender may leave an answer unread.
const ANSWER: Duration = Duration::from_secs(60);
/// How long what is under way may take when the listener is told to end.
const GRACE: Duration = Duration::from_secs(10);
/// Connections served at a time; more of them wait.
const CONNECTIONS: usize = 4096;
/// Messages after which an answer is due, even when more are waiting.
const ANSWER_EVERY: u64 = 1024;

pub(super) fn run(args: ListenArgs) -> Result<(), Failure> {
    let policy = Policy { max_age: Some(MAX_AGE), senders: read_senders(&args.from)?, ..Policy::default() };
    // Every connection has a DEK of its own, so none is worth keeping.
    let cache = CachePolicy { deks: 0, ..CachePolicy::default() };
    let opener = Opener::builder(read_keyring(&args.keys)?).policy(policy).cache(cache).build();
    let store = Store::new(&args.out)?;
    runtime()?.block_on(listen(args, opener, store))
}

pub(super) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Runtime::new().map_err(|error| Failure::io("starting", &error))
}

async fn listen(args: ListenArgs, opener: Opener, store: Store) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::io(escape(args.on.as_bytes()), &error);
    let listener = bind(&args.on).await.map_err(failed)?;
    let report = Report { json: args.json };
    report.listening(listener.local_addr().map_err(failed)?);
    let idle = Some(Duration::from_secs(args.idle)).filter(|idle| !idle.is_zero());
    let mut server = Server { opener, store, report, idle, stop: cleanup::graceful() };
    if args.once {
        let (stream, peer) = accept(&listener).await;
        return server.serve(stream, peer).await;
    }
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let next = async { (places.clone().acquire_owned().await, accept(&listener).await) };
        let (place, (stream, peer)) = tokio::select! {
            next = next => next,
            _ = server.stop.changed() => break,
        };
        let mut server = server.clone();
        tokio::spawn(async move {
            let served = server.serve(stream, peer).await;
            if server.store.is_broken() {
                // Nothing more could be delivered to anyone.
                std::process::exit(served.map_or_else(|failure| failure.code as i32, |()| 0));
            }
            drop(place);
        });
    }
    drop(listener);
    // Every place is free when every connection has ended.
    let all = u32::try_from(CONNECTIONS).unwrap_or(u32::MAX);
    let ended = timeout(GRACE, places.acquire_many(all)).await.is_ok();
    report.stopped(ended);
    Ok(())
}

/// What every connection is served with.
#[derive(Clone)]
struct Server {
    opener: Opener,
    store: Store,
    report: Report,
    idle: Option<Duration>,
    /// Whether it is to end.
    stop: watch::Receiver<bool>,
}

/// Listens with keep-alive, so that a connection whose other end is gone ends here too.
async fn bind(on: &str) -> io::Result<TcpListener> {
    let mut refused = io::ErrorKind::AddrNotAvailable.into();
    for address in tokio::net::lookup_host(on).await? {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(cfg!(unix))?;
        socket.set_keepalive(true)?;
        match socket.bind(address).and_then(|()| socket.listen(1024)) {
            Ok(listener) => return Ok(listener),
            Err(error) => refused = error,
        }
    }
    Err(refused)
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

impl Server {
    /// One connection, from greeting to its end; tells what became of it.
    async fn serve(&mut self, stream: TcpStream, peer: SocketAddr) -> Result<(), Failure> {
        let mut taken = Taken::default();
        let served = Connection::greet(stream, self).await;
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
        let channel = ChannelOpener::new(server.opener.clone(), Role::Acceptor, &greeting);
        let times = Times { header: Some(PART), part: Some(PART), idle: server.idle, write: Some(ANSWER) };
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
            Err(Stop::Ours) => {
                let reason = "the listener is being stopped".to_owned();
                let _ = self.say(&Answer::Refused { count: taken.answered, reason: reason.clone() }).await;
                let _ = self.close().await;
                Err(Failure::new(Code::Io, reason))
            }
            Err(Stop::Peer(failure)) => Err(failure),
        }
    }

    async fn take_until_end(&mut self, server: &mut Server, taken: &mut Taken) -> Result<(), Stop> {
        let Server { store, stop, .. } = server;
        let mut inbox = Inbox::new(store.clone());
        loop {
            if taken.messages - taken.answered >= ANSWER_EVERY {
                self.answer(store, taken).await?;
            }
            if *stop.borrow() && inbox.is_between_files() {
                return Err(Stop::Ours);
            }
            let next = match self.requests.next().now_or_never() {
                Some(next) => next,
                // Nothing more is waiting: what has come is delivered and acknowledged before the next wait.
                None => {
                    self.answer(store, taken).await?;
                    tokio::select! {
                        next = self.requests.next() => next,
                        _ = stop.changed() => continue,
                    }
                }
            };
            let Some(opened) = next else { return inbox.end() };
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
    /// The listener was told to end.
    Ours,
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
