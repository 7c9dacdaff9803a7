//! The receiving side of a transfer (spec/transfer.md): greets, opens, stores, and only then acknowledges.

use std::{future::poll_fn, io, net::SocketAddr, sync::Arc, task::Poll, time::Duration};

use futures_util::{FutureExt, SinkExt, StreamExt};
use serde_json::json;
use tokio::{
    io::AsyncWriteExt,
    net::{
        TcpListener, TcpSocket, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::Semaphore,
    time::timeout,
};
use tokio_util::codec::{FramedRead, FramedWrite};

use super::{
    Failure,
    args::ListenArgs,
    fail::{Code, note},
    keys::{read_keyring, read_senders},
    report::{bytes, peak_memory},
    store::{Inbox, Store},
};
use crate::{
    channel::{ChannelOpener, ChannelSealer, Role, reply_binding},
    codec::{CodecError, OpeningCodec, Outgoing, SealingCodec},
    open::{CachePolicy, OpenError, Opened, Opener, Policy, Sender},
    platform::Entropy,
    seal::Sealer,
    transfer::{Answer, GREETING_LEN, Request},
    wire::inspect::escape,
};

/// Blocks older than this are refused: a sender makes a new one for every connection.
const MAX_AGE: Duration = Duration::from_secs(24 * 3600);
/// How long the first message may take. After it a sender may stay silent as long as its connection lives: `tail -f` does.
const FIRST: Duration = Duration::from_secs(20);
/// How long a sender may leave an answer unread.
const ANSWER: Duration = Duration::from_secs(60);
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
    if args.once {
        let (stream, peer) = accept(&listener).await;
        return serve(stream, peer, &opener, &store, &report).await;
    }
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return Ok(()) };
        let (stream, peer) = accept(&listener).await;
        let (opener, store) = (opener.clone(), store.clone());
        tokio::spawn(async move {
            let served = serve(stream, peer, &opener, &store, &report).await;
            if store.is_broken() {
                // Nothing more could be delivered to anyone.
                std::process::exit(served.map_or_else(|failure| failure.code as i32, |()| 0));
            }
            drop(place);
        });
    }
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

/// One connection, from greeting to its end; tells what became of it.
async fn serve(stream: TcpStream, peer: SocketAddr, opener: &Opener, store: &Store, report: &Report) -> Result<(), Failure> {
    let mut taken = Taken::default();
    let served = Connection::greet(stream, opener).await;
    let served = match served {
        Ok((mut connection, sender)) => {
            taken.sender = Some(sender);
            connection.take_all(store, &mut taken).await
        }
        Err(failure) => Err(failure),
    };
    report.served(peer, &taken, &served);
    served
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
    requests: FramedRead<OwnedReadHalf, OpeningCodec>,
    answers: FramedWrite<OwnedWriteHalf, SealingCodec>,
}

impl Connection {
    /// Sends the greeting, and takes the first message: to whom answers are sealed. Tells who sent it.
    async fn greet(stream: TcpStream, opener: &Opener) -> Result<(Self, Sender), Failure> {
        let lost = |error: io::Error| Failure::io("connection", &error);
        stream.set_nodelay(true).map_err(lost)?;
        let (read, mut write) = stream.into_split();
        // [XFR-1]
        let greeting: [u8; GREETING_LEN] = Entropy::default().array()?;
        write.write_all(&greeting).await.map_err(lost)?;
        let channel = ChannelOpener::new(opener.clone(), Role::Acceptor, &greeting);
        let mut requests = OpeningCodec::from(channel).framed(read);
        let silent = |_| Failure::new(Code::Truncated, "the peer did not say to whom answers go, and the connection was closed");
        let first = timeout(FIRST, requests.next()).await.map_err(silent)?;
        let first = first.ok_or(OpenError::ChannelTruncated { delivered: 0 })??;
        // [XFR-2]
        let sender = first.sender;
        let Request::Hello { reply_to } = Request::decode(first.payload)? else {
            return Err(Failure::new(Code::Malformed, "the first message does not say to whom answers go"));
        };
        let mac = requests.decoder().channel().first_header_mac().ok_or(OpenError::Failed)?;
        let sealer = Sealer::builder().to(reply_to).build()?;
        let channel = ChannelSealer::new(sealer, Role::Acceptor, &reply_binding(mac, &greeting));
        Ok((Self { requests, answers: SealingCodec::from(channel).framed(write) }, sender))
    }

    async fn take_all(&mut self, store: &Store, taken: &mut Taken) -> Result<(), Failure> {
        let end = self.take_until_end(store, taken).await;
        // What was delivered is acknowledged, whatever came after it; what came after it is what is reported.
        let answered = self.answer(store, taken).await;
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
            Err(Stop::Peer(failure)) => Err(failure),
        }
    }

    async fn take_until_end(&mut self, store: &Store, taken: &mut Taken) -> Result<(), Stop> {
        let mut inbox = Inbox::new(store.clone());
        loop {
            if taken.messages - taken.answered >= ANSWER_EVERY {
                self.answer(store, taken).await?;
            }
            let next = match next_message(&mut self.requests).now_or_never() {
                Some(next) => next,
                // Nothing more is waiting: what has come is delivered and acknowledged before the next wait.
                None => {
                    self.answer(store, taken).await?;
                    next_message(&mut self.requests).await
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
        let unread = |_| Failure::new(Code::Io, "the peer does not read its answers");
        Ok(timeout(ANSWER, self.answers.send(Outgoing::message(answer.encode()))).await.map_err(unread)??)
    }

    async fn close(&mut self) -> Result<(), Failure> {
        self.answers.send(Outgoing::End).await?;
        SinkExt::<Outgoing>::close(&mut self.answers).await?;
        Ok(())
    }
}

/// The next message of a channel; `None` at the channel's own end, since the connection's may be a long time coming.
pub(super) async fn next_message(channel: &mut FramedRead<OwnedReadHalf, OpeningCodec>) -> Option<Result<Opened, CodecError>> {
    poll_fn(|context| match channel.poll_next_unpin(context) {
        Poll::Pending if channel.decoder().channel().is_closed() => Poll::Ready(None),
        polled => polled,
    })
    .await
}

/// Why a connection stops before its end.
pub(super) enum Stop {
    /// The peer, or the network.
    Peer(Failure),
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
