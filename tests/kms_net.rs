//! Connections to a key service, over real sockets: both ends of ours, and what sits between them or in the place of one.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use sealwire::{
    ChannelOpener, ChannelSealer, Cmk, Keyring, Opener, Recipient, Reuse, Role, Sealer, SealerBuilder, SenderKey, VerifyingKey,
    connection::{OpenedStream, SealedSink, Times},
    kms::{
        Answered, Client, ClientError, ClientLimits, Identity, Listener, PublicIdentity, REQUEST_MAX, Serve, Server,
        ServerLimits, Stopped, Why,
    },
    reply_binding,
};
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::oneshot,
    task::JoinHandle,
    time::{sleep, timeout},
};

fn me() -> SenderKey {
    SenderKey::from_ed25519(&[7; 32])
}

/// The machine may be busy: only tests of time use the times of the default.
fn patient() -> ClientLimits {
    ClientLimits { connect: Duration::from_secs(5), ..ClientLimits::default() }
}

/// Answers with the request, under orders that some requests give; counts what it was asked.
#[derive(Default)]
struct Handler {
    served: AtomicUsize,
    asked_who: AtomicUsize,
}

impl Serve for Handler {
    fn knows(&self, caller: &VerifyingKey) -> bool {
        self.asked_who.fetch_add(1, SeqCst);
        caller == me().verifying_key()
    }

    fn serve(&self, caller: &VerifyingKey, request: Bytes) -> Answered {
        assert_eq!(caller, me().verifying_key());
        self.served.fetch_add(1, SeqCst);
        match request.first() {
            Some(b'L') => Bytes::from(vec![b'l'; 1 << 20]).into(),
            Some(b'X') => Bytes::from(vec![b'x'; (1 << 20) + 1]).into(),
            Some(b'S') => {
                std::thread::sleep(Duration::from_millis(300));
                request.into()
            }
            Some(b'P') => panic!("as was asked"),
            _ => request.into(),
        }
    }

    fn may_block(&self, request: &[u8]) -> bool {
        request.starts_with(b"S")
    }
}

/// Answers with whether what an answer waits for was done.
struct Settled;

impl Serve for Settled {
    fn knows(&self, _: &VerifyingKey) -> bool {
        true
    }

    fn serve(&self, _: &VerifyingKey, request: Bytes) -> Answered {
        request.into()
    }

    fn settle(&self, answered: Answered) -> Bytes {
        [&answered.answer[..], b", settled"].concat().into()
    }

    fn may_block(&self, request: &[u8]) -> bool {
        request.starts_with(b"S")
    }
}

/// No answer leaves that was not settled: alone, among many, longer than a turn's, from a thread of its own.
#[tokio::test]
async fn answers_are_settled() {
    let (listener, address) = tcp().await;
    let server = Server::new(identity(), Arc::new(Settled), ServerLimits::default());
    let running = tokio::spawn(server.run(vec![listener], std::future::pending()));
    let client = Client::builder(identity().public(), me()).address(&address).limits(patient()).build().unwrap();
    let mut lengths = vec![1, 100, 60_000, REQUEST_MAX];
    lengths.extend([50; 200]);
    let calls = lengths.into_iter().enumerate().map(|(i, len)| {
        let (client, asked) = (client.clone(), vec![if i % 7 == 0 { b'S' } else { b'a' }; len]);
        tokio::spawn(async move {
            let answer = client.call(asked.clone().into(), true).await.unwrap();
            assert_eq!(answer, [&asked[..], b", settled"].concat());
        })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap();
    }
    running.abort();
}

/// A server that runs, and how to end it.
struct Running {
    address: String,
    public: PublicIdentity,
    handler: Arc<Handler>,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<Stopped>,
}

impl Running {
    async fn stop(mut self) -> Stopped {
        drop(self.stop.take());
        self.running.await.unwrap()
    }

    fn client(&self) -> Client {
        self.client_with(patient())
    }

    fn client_with(&self, limits: ClientLimits) -> Client {
        Client::builder(self.public.clone(), me()).address(&self.address).limits(limits).build().unwrap()
    }

    fn served(&self) -> usize {
        self.handler.served.load(SeqCst)
    }
}

async fn tcp() -> (Listener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener.into(), address)
}

fn start_on(identity: Identity, limits: ServerLimits, (listener, address): (Listener, String)) -> Running {
    let (public, handler) = (identity.public(), Arc::new(Handler::default()));
    let server = Server::new(identity, handler.clone(), limits);
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(server.run(vec![listener], async { drop(stopped.await) }));
    Running { address, public, handler, stop: Some(stop), running }
}

async fn start_with(limits: ServerLimits) -> Running {
    start_on(Identity::generate().unwrap(), limits, tcp().await)
}

async fn start() -> Running {
    start_with(ServerLimits::default()).await
}

/// The server's keys, where a test plays the server or needs its recipient.
fn cmk() -> Cmk {
    Cmk::from_x25519(&[1; 32])
}

fn signer() -> SenderKey {
    SenderKey::from_ed25519(&[2; 32])
}

fn identity() -> Identity {
    Identity::new(cmk(), signer())
}

/// What both sides bind, from the spec's words.
fn binding(greeting: &[u8; 32], server: &PublicIdentity) -> Vec<u8> {
    let kem = server.recipient.kem().id().to_be_bytes();
    let parts = [&b"sealwire v1 kms"[..], &kem, server.recipient.public_key(), server.sender.as_bytes()].concat();
    [&greeting[..], &Sha256::digest(parts)].concat()
}

fn hello(version: u8, reply_to: &Recipient) -> Bytes {
    [&[version][..], &reply_to.kem().id().to_be_bytes(), reply_to.public_key()].concat().into()
}

/// A client put together by hand, so that it can also do what ours does not.
struct Raw {
    requests: SealedSink<OwnedWriteHalf>,
    read: Option<OwnedReadHalf>,
    binding: Vec<u8>,
    reply_to: Cmk,
}

impl Raw {
    async fn begin(address: &str, bound: &PublicIdentity, sealer: SealerBuilder) -> Self {
        let (mut read, write) = TcpStream::connect(address).await.unwrap().into_split();
        let mut greeting = [0; 32];
        read.read_exact(&mut greeting).await.unwrap();
        let binding = binding(&greeting, bound);
        let channel = ChannelSealer::new(sealer.build().unwrap(), Role::Initiator, &binding);
        Self { requests: SealedSink::new(channel, write), read: Some(read), binding, reply_to: Cmk::generate().unwrap() }
    }

    fn good(server: &PublicIdentity) -> SealerBuilder {
        Sealer::builder().to(server.recipient.clone()).sign_with(me())
    }

    /// As a client should, up to its hello.
    async fn greeted(server: &Running) -> Self {
        let mut raw = Self::begin(&server.address, &server.public, Self::good(&server.public)).await;
        raw.say(hello(1, raw.reply_to.recipient())).await;
        raw
    }

    async fn say(&mut self, message: Bytes) {
        self.requests.send(message).await.unwrap();
    }

    fn answers(&mut self) -> OpenedStream<OwnedReadHalf> {
        let binding = reply_binding(self.requests.first_header_mac().unwrap(), &self.binding);
        let reply_to = std::mem::replace(&mut self.reply_to, Cmk::generate().unwrap());
        let channel = ChannelOpener::new(Opener::new(Keyring::from(reply_to)), Role::Initiator, &binding);
        OpenedStream::new(channel, self.read.take().unwrap())
    }

    /// Bytes until the server closes, which it does soon.
    async fn rest(&mut self) -> usize {
        let mut rest = Vec::new();
        let closed = timeout(Duration::from_secs(2), self.read.as_mut().unwrap().read_to_end(&mut rest)).await;
        let _ = closed.expect("the connection is closed");
        rest.len()
    }
}

fn text(n: usize) -> Bytes {
    format!("request {n}").into()
}

#[tokio::test]
async fn requests_are_answered_over_tcp() {
    let server = start().await;
    let client = server.client();
    for n in 0..100 {
        assert_eq!(client.call(text(n), false).await.unwrap(), text(n));
    }
    assert_eq!(client.call(Bytes::from_static(b"Large"), false).await.unwrap().len(), 1 << 20);
    let long = Bytes::from(vec![1; 160 << 10]);
    assert_eq!(client.call(long.clone(), false).await.unwrap(), long);
    assert_eq!(server.handler.asked_who.load(SeqCst), 1, "one connection");
    assert_eq!(server.stop().await, Stopped { cut: 0 });
}

#[cfg(unix)]
#[tokio::test]
async fn requests_are_answered_over_unix_sockets() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kms");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let address = format!("unix:{}", path.display());
    let server = start_on(Identity::generate().unwrap(), ServerLimits::default(), (listener.into(), address));
    let client = server.client();
    for n in 0..100 {
        assert_eq!(client.call(text(n), false).await.unwrap(), text(n));
    }
    assert_eq!(server.stop().await, Stopped { cut: 0 });
}

/// Proves KMS-8: with a post-quantum identity both directions are.
#[cfg(feature = "pq")]
#[tokio::test]
async fn requests_are_answered_after_quantum_computers() {
    let server = start_on(Identity::generate_pq().unwrap(), ServerLimits::default(), tcp().await);
    assert_eq!(server.public.recipient.kem(), sealwire::Kem::XWing);
    let client = server.client();
    for n in 0..10 {
        assert_eq!(client.call(text(n), false).await.unwrap(), text(n));
    }
    assert_eq!(server.stop().await, Stopped { cut: 0 });
}

/// Proves KMS-10: ten thousand in flight from many tasks, each with its own answer; renewals in between change nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_calls_are_answered_in_order() {
    let reuse = Reuse { messages: 100, ..Reuse::default() };
    let renewals = sealwire::Budget { at_once: 1000, a_second: 1000 };
    let server = start_with(ServerLimits { reuse, renewals, ..ServerLimits::default() }).await;
    let client = server.client_with(ClientLimits { reuse, ..patient() });
    let calls = (0..10_000).map(|n| {
        let client = client.clone();
        tokio::spawn(async move { assert_eq!(client.call(text(n), false).await.unwrap(), text(n)) })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap();
    }
    assert_eq!(server.served(), 10_000);
    assert_eq!(server.handler.asked_who.load(SeqCst), 1, "one connection");
    assert_eq!(server.stop().await, Stopped { cut: 0 });
}

/// Proves KMS-9: what is too long for a request is not sent, and an answer that is too long ends the connection and nothing else.
#[tokio::test]
async fn sizes_have_limits() {
    let server = start().await;
    let client = server.client();
    for len in [0, (160 << 10) + 1] {
        assert!(matches!(client.call(vec![0; len].into(), true).await, Err(ClientError::Length { len: told }) if told == len));
    }
    assert!(matches!(client.call(Bytes::from_static(b"X"), false).await, Err(ClientError::Lost { .. })));
    assert_eq!(client.call(text(1), false).await.unwrap(), text(1));
    assert!(matches!(client.call(Bytes::from_static(b"Panic"), false).await, Err(ClientError::Lost { .. })));
    assert_eq!(client.call(text(2), false).await.unwrap(), text(2));
}

/// Proves KMS-4: who is not known is closed on without a word, and its requests are not looked at.
#[tokio::test]
async fn unknown_callers_are_refused() {
    let server = start().await;
    let stranger = SenderKey::generate().unwrap();
    let client = Client::builder(server.public.clone(), stranger).address(&server.address).limits(patient()).build().unwrap();
    let Err(ClientError::Unreachable { tried }) = client.call(text(1), true).await else { panic!("it is reached") };
    assert!(matches!(tried[..], [ref tried] if matches!(tried.why, Why::Refused)), "{tried:?}");
    assert_eq!((server.served(), server.handler.asked_who.load(SeqCst)), (0, 1));
}

/// Proves KMS-1: no two greetings are the same, and the server does not wait for us.
#[tokio::test]
async fn greetings_are_fresh() {
    let server = start().await;
    let mut seen = std::collections::HashSet::new();
    for _ in 0..50 {
        let mut greeting = [0; 32];
        TcpStream::connect(&server.address).await.unwrap().read_exact(&mut greeting).await.unwrap();
        assert!(seen.insert(greeting));
    }
}

/// What sits between a client and a server: passes everything on, and keeps what the client has sent.
async fn recorder(to: String) -> (String, JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let recording = tokio::spawn(async move {
        let (mut near, _) = listener.accept().await.unwrap();
        let mut far = TcpStream::connect(to).await.unwrap();
        let ((mut from, mut back), (mut answers, mut on)) = (near.split(), far.split());
        let mut recorded = Vec::new();
        let record = async {
            let mut buffer = vec![0; 1 << 16];
            while let Ok(n @ 1..) = from.read(&mut buffer).await {
                recorded.extend_from_slice(&buffer[..n]);
                let _ = on.write_all(&buffer[..n]).await;
            }
            let _ = on.shutdown().await;
        };
        let pass_back = async {
            let _ = tokio::io::copy(&mut answers, &mut back).await;
            let _ = back.shutdown().await;
        };
        tokio::join!(record, pass_back);
        recorded
    });
    (address, recording)
}

/// What a server says after its greeting to somebody who plays these bytes to it.
async fn play(to: &str, bytes: &[u8]) -> usize {
    let (mut read, mut write) = TcpStream::connect(to).await.unwrap().into_split();
    let mut greeting = [0; 32];
    read.read_exact(&mut greeting).await.unwrap();
    let _ = write.write_all(bytes).await;
    let _ = write.shutdown().await;
    let mut rest = Vec::new();
    let _ = timeout(Duration::from_secs(5), read.read_to_end(&mut rest)).await.expect("it is closed");
    rest.len()
}

/// Proves KMS-1: what was recorded is played to the same server, to another process with the same identity, and to another server, whole and
/// cut anywhere: none of them asks who it is, nothing is carried out, and not a byte is answered.
#[tokio::test]
async fn recorded_connections_are_worth_nothing() {
    let server = start_on(identity(), ServerLimits::default(), tcp().await);
    let twin = start_on(identity(), ServerLimits::default(), tcp().await);
    let other = start().await;
    let (between, recording) = recorder(server.address.clone()).await;
    let client = Client::builder(server.public.clone(), me()).address(between).limits(patient()).build().unwrap();
    for n in 0..5 {
        client.call(text(n), false).await.unwrap();
    }
    drop(client);
    let recorded = recording.await.unwrap();
    assert!(recorded.len() > 400, "{}", recorded.len());
    let (served, asked) = (server.served(), server.handler.asked_who.load(SeqCst));
    assert_eq!((served, asked), (5, 1));
    for address in [&server.address, &twin.address, &other.address] {
        assert_eq!(play(address, &recorded).await, 0);
        for cut in 0..recorded.len() {
            assert_eq!(play(address, &recorded[..cut]).await, 0, "{cut}");
        }
    }
    for server in [server, twin, other] {
        let now = (server.served(), server.handler.asked_who.load(SeqCst));
        assert!(now == (5, 1) || now == (0, 0), "{now:?}");
    }
}

/// Proves KMS-2: a client that means a server with a borrowed recipient, and one that means a borrowed sender, are not served by the real one.
#[tokio::test]
async fn commands_are_not_passed_on() {
    let real = start_on(identity(), ServerLimits::default(), tcp().await);
    let thief = SenderKey::generate().unwrap();
    let borrowed = PublicIdentity { recipient: real.public.recipient.clone(), sender: *thief.verifying_key() };
    let other = Cmk::generate().unwrap();
    let half = PublicIdentity { recipient: other.recipient().clone(), sender: real.public.sender };
    for believed in [borrowed, half] {
        // The thief passes on every byte, both ways.
        let (between, _recording) = recorder(real.address.clone()).await;
        let client = Client::builder(believed, me()).address(between).limits(patient()).build().unwrap();
        let Err(ClientError::Unreachable { tried }) = client.call(text(1), true).await else { panic!("it is served") };
        assert!(matches!(tried[0].why, Why::Refused), "{tried:?}");
    }
    assert_eq!((real.served(), real.handler.asked_who.load(SeqCst)), (0, 0));
}

/// Proves KMS-3: a caller who did not sign, who shares his DEK with another, or who says hello in another's name is not asked who he is.
#[tokio::test]
async fn callers_are_verified() {
    let server = start().await;
    let to = || Sealer::builder().to(server.public.recipient.clone());
    let two = || to().to(cmk().recipient().clone());
    for (sealer, what) in [(to(), "anonymous"), (two().sign_with(me()), "group"), (two(), "anonymous, and two")] {
        let mut raw = Raw::begin(&server.address, &server.public, sealer).await;
        let reply_to = raw.reply_to.recipient().clone();
        raw.say(hello(1, &reply_to)).await;
        raw.say(text(1)).await;
        assert_eq!(raw.rest().await, 0, "{what}");
    }
    assert_eq!((server.served(), server.handler.asked_who.load(SeqCst)), (0, 0));
    // The same by hand, as it should be.
    let mut raw = Raw::greeted(&server).await;
    raw.say(text(1)).await;
    let mut answers = raw.answers();
    assert_eq!(answers.next().await.unwrap().unwrap().payload, [1, 0][..]);
    assert_eq!(answers.next().await.unwrap().unwrap().payload, text(1));
}

/// Proves KMS-5: another first message, a recipient of another KEM, a weak one, and a hello with something behind it.
#[tokio::test]
async fn connections_begin_with_hello() {
    let server = start().await;
    let good = hello(1, Cmk::generate().unwrap().recipient());
    let firsts = [
        text(1),
        Bytes::new(),
        good.slice(..34),
        [&good[..], b"x"].concat().into(),
        [&[1, 0x64, 0x7a][..], &[9; 1216]].concat().into(),
        [&good[..3], &[0; 32]].concat().into(),
    ];
    for first in firsts {
        let mut raw = Raw::begin(&server.address, &server.public, Raw::good(&server.public)).await;
        raw.say(first.clone()).await;
        let _ = raw.requests.send(text(2)).await;
        assert_eq!(raw.rest().await, 0, "{first:?}");
    }
    assert_eq!(server.served(), 0);
}

/// Proves KMS-7: another version is told which is spoken, and nothing is carried out.
#[tokio::test]
async fn versions_are_told() {
    let server = start().await;
    let mut raw = Raw::begin(&server.address, &server.public, Raw::good(&server.public)).await;
    let later = [&hello(2, raw.reply_to.recipient())[..], b"and more"].concat();
    raw.say(later.into()).await;
    raw.say(text(1)).await;
    let mut answers = raw.answers();
    assert_eq!(answers.next().await.unwrap().unwrap().payload, [1, 1][..]);
    assert!(answers.next().await.is_none(), "in good order");
    assert_eq!(server.served(), 0);
}

/// A server by hand: takes one connection up to its hello, answers with `first` under `sealer` for the recipient of hello, and gives both ends.
async fn play_server(
    listener: &TcpListener,
    sealer: impl FnOnce(Recipient) -> SealerBuilder,
    first: &'static [u8],
) -> (OpenedStream<OwnedReadHalf>, SealedSink<OwnedWriteHalf>) {
    let (read, mut write) = listener.accept().await.unwrap().0.into_split();
    let greeting = [5; 32];
    write.write_all(&greeting).await.unwrap();
    let binding = binding(&greeting, &identity().public());
    let channel = ChannelOpener::new(Opener::new(Keyring::from(cmk())), Role::Acceptor, &binding);
    let mut requests = OpenedStream::new(channel, read);
    let hello = requests.next().await.unwrap().unwrap().payload;
    let reply_to = Recipient::from_x25519(hello[3..].try_into().unwrap()).unwrap();
    let binding = reply_binding(requests.channel().first_header_mac().unwrap(), &binding);
    let channel = ChannelSealer::new(sealer(reply_to).build().unwrap(), Role::Acceptor, &binding);
    let mut answers = SealedSink::new(channel, write);
    answers.send(Bytes::from_static(first)).await.unwrap();
    (requests, answers)
}

fn good(reply_to: Recipient) -> SealerBuilder {
    Sealer::builder().to(reply_to).sign_with(signer())
}

async fn client_of_played() -> (TcpListener, Client) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let client = Client::builder(identity().public(), me()).address(address).limits(patient()).build().unwrap();
    (listener, client)
}

/// Proves KMS-6: who holds the recipient's CMK and not the sender's key is not believed, nor is who signs nothing.
#[tokio::test]
async fn servers_are_verified() {
    let sealers: [fn(Recipient) -> SealerBuilder; 3] = [
        |reply_to| Sealer::builder().to(reply_to),
        |reply_to| Sealer::builder().to(reply_to).sign_with(me()),
        |reply_to| Sealer::builder().to(reply_to).to(cmk().recipient().clone()).sign_with(signer()),
    ];
    for sealer in sealers {
        let (listener, client) = client_of_played().await;
        let played = async {
            let ends = play_server(&listener, sealer, &[1, 0]).await;
            ends.0.collect::<Vec<_>>().await
        };
        let (called, heard) = tokio::join!(client.call(text(1), true), played);
        let Err(ClientError::Unreachable { tried }) = called else { panic!("it is believed") };
        assert!(matches!(tried[0].why, Why::NotTheServer(_)), "{tried:?}");
        assert!(heard.iter().all(Result::is_err), "no request was sent");
    }
}

/// Proves KMS-7: what a client makes of a server's first message.
#[tokio::test]
async fn welcomes_are_heeded() {
    for (first, wanted) in [
        (&[1, 1][..], "speaks version 1"),
        (&[1, 2], "too many connections"),
        (&[1, 3], "in good order"),
        (&[1, 9], "welcome"),
        (&[1], "welcome"),
        (&[1, 0, 0], "welcome"),
        (&[2, 0, 0], "speaks version 2"),
    ] {
        let (listener, client) = client_of_played().await;
        let (called, _ends) = tokio::join!(client.call(text(1), true), play_server(&listener, good, first));
        let error = called.unwrap_err().to_string();
        assert!(error.contains(wanted), "{first:?}: {error}");
    }
}

/// Proves KMS-10: an answer that nobody asked for is not given to the next who asks.
#[tokio::test]
async fn answers_need_requests() {
    let (listener, client) = client_of_played().await;
    let played = async {
        let (mut requests, mut answers) = play_server(&listener, good, &[1, 0]).await;
        requests.next().await.unwrap().unwrap();
        answers.feed(text(1)).await.unwrap();
        answers.send(text(2)).await.unwrap();
        assert!(requests.next().await.unwrap().is_err(), "the client has gone");
    };
    let (called, ()) = tokio::join!(client.call(text(1), false), played);
    assert_eq!(called.unwrap(), text(1));
}

/// Proves KMS-9: requests that the server does not take.
#[tokio::test]
async fn servers_take_requests_of_a_size() {
    let server = start().await;
    for len in [0, (160 << 10) + 1] {
        let mut raw = Raw::greeted(&server).await;
        raw.requests.feed(text(1)).await.unwrap();
        raw.say(vec![0; len].into()).await;
        let _ = raw.requests.send(text(2)).await;
        let mut answers = raw.answers();
        assert_eq!(answers.next().await.unwrap().unwrap().payload, [1, 0][..]);
        assert_eq!(answers.next().await.unwrap().unwrap().payload, text(1), "what came before is answered");
        assert!(answers.next().await.unwrap().is_err());
    }
    assert_eq!(server.served(), 2);
}

/// Proves KMS-11: a server that is stopped answers what has come, says its last, and takes no more; what it did not answer it did not do.
#[tokio::test]
async fn stopping_finishes_what_is_in_flight() {
    let server = start().await;
    let client = server.client();
    client.call(text(0), false).await.unwrap();
    let calls: Vec<_> = (0..3)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.call(Bytes::from_static(b"Slow"), false).await })
        })
        .collect();
    sleep(Duration::from_millis(100)).await;
    let handler = server.handler.clone();
    let began = Instant::now();
    assert_eq!(server.stop().await, Stopped { cut: 0 });
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap(), "Slow");
    }
    assert_eq!(handler.served.load(SeqCst), 4);
    assert!(matches!(client.call(text(1), false).await, Err(ClientError::Unreachable { .. })));
}

/// Proves KMS-12: the oldest stranger makes room for the next, and none stays for long; who has been welcomed is not one.
#[tokio::test]
async fn strangers_have_few_places() {
    let server = start_with(ServerLimits { strangers: 2, hello: Duration::from_millis(500), ..ServerLimits::default() }).await;
    let client = server.client();
    client.call(text(1), false).await.unwrap();
    let mut strangers = Vec::new();
    for _ in 0..3 {
        let mut socket = TcpStream::connect(&server.address).await.unwrap();
        socket.read_exact(&mut [0; 32]).await.unwrap();
        strangers.push(socket);
    }
    let closed = async |socket: &mut TcpStream, within| timeout(within, socket.read(&mut [0])).await.is_ok();
    assert!(closed(&mut strangers[0], Duration::from_millis(200)).await, "the oldest");
    assert!(!closed(&mut strangers[2], Duration::from_millis(50)).await, "the youngest");
    // A byte now and then does not help.
    for _ in 0..3 {
        let _ = strangers[2].write_all(b"S").await;
        sleep(Duration::from_millis(200)).await;
    }
    assert!(closed(&mut strangers[1], Duration::from_millis(100)).await);
    assert!(closed(&mut strangers[2], Duration::from_millis(100)).await);
    client.call(text(2), false).await.unwrap();
    assert_eq!(server.handler.asked_who.load(SeqCst), 1, "it is the same connection");
}

/// Proves KMS-13: for all together, and for one caller; a place that is left is there for the next.
#[tokio::test]
async fn places_are_counted() {
    let few = [
        ServerLimits { connections: 1, ..ServerLimits::default() },
        ServerLimits { connections_of_caller: 1, ..ServerLimits::default() },
    ];
    for limits in few {
        let server = start_with(limits).await;
        let (first, second) = (server.client(), server.client());
        first.call(text(1), false).await.unwrap();
        let Err(ClientError::Unreachable { tried }) = second.call(text(2), false).await else { panic!("it is served") };
        assert!(matches!(tried[0].why, Why::Overloaded), "{tried:?}");
        drop(first);
        let mut served = second.call(text(3), false).await;
        for _ in 0..20 {
            if served.is_ok() {
                break;
            }
            sleep(Duration::from_millis(20)).await;
            served = second.call(text(3), false).await;
        }
        assert_eq!(served.unwrap(), text(3));
    }
}

/// Proves KMS-14: who asks for a gigabyte and takes nothing is not answered for long, and is closed.
#[tokio::test]
async fn unread_answers_stop_the_reading() {
    let times = Times { write: Some(Duration::from_millis(500)), ..Times::default() };
    let server = start_with(ServerLimits { times, ..ServerLimits::default() }).await;
    let mut raw = Raw::greeted(&server).await;
    let asking = async {
        for _ in 0..1000 {
            if raw.requests.send(Bytes::from_static(b"Large")).await.is_err() {
                return;
            }
        }
        std::future::pending::<()>().await;
    };
    let _ = timeout(Duration::from_millis(400), asking).await;
    let served = server.served();
    assert!((1..40).contains(&served), "{served}");
    sleep(Duration::from_millis(1800)).await;
    assert!(server.served() < 40, "{}", server.served());
    assert!(raw.requests.send(text(1)).await.is_err() || raw.requests.send(text(1)).await.is_err(), "it is closed");
}

/// Proves KMS-15: a request that may have been carried out is sent again only if that does no harm.
#[tokio::test]
async fn requests_are_not_repeated_unasked() {
    for idempotent in [false, true] {
        let (listener, client) = client_of_played().await;
        let played = async {
            let mut heard = 0;
            let began = Instant::now();
            while began.elapsed() < Duration::from_millis(600) {
                let connection = timeout(Duration::from_millis(300), play_server(&listener, good, &[1, 0])).await;
                let Ok((mut requests, answers)) = connection else { continue };
                heard += usize::from(requests.next().await.unwrap().is_ok());
                drop((requests, answers));
            }
            heard
        };
        let (called, heard) = tokio::join!(client.call(text(1), idempotent), played);
        assert!(matches!(called, Err(ClientError::Lost { .. })), "{called:?}");
        assert_eq!(heard, if idempotent { 3 } else { 1 });
    }
}

/// A server in a process of its own, which is killed: this test again, playing that part.
#[cfg(unix)]
mod killed {
    use super::*;
    use std::{
        io::{BufRead, BufReader},
        process::{Child, Command, Stdio},
    };

    const PART: &str = "SEALWIRE_KMS_NET_SERVER";

    fn start() -> (Child, String) {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let command = command.args(["killed::a_server_that_may_be_killed", "--exact", "--nocapture"]).env(PART, "1");
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines.map_while(Result::ok).find_map(|line| Some(line.split_once("at ")?.1.to_owned())).unwrap();
        (child, address)
    }

    /// Does nothing but where it is asked to be the server.
    #[tokio::test]
    async fn a_server_that_may_be_killed() {
        if std::env::var_os(PART).is_none() {
            return;
        }
        let (listener, address) = tcp().await;
        let server = Server::new(identity(), Arc::new(Handler::default()), ServerLimits::default());
        println!("\nat {address}");
        server.run(vec![listener], std::future::pending()).await;
    }

    /// A server that is killed in the middle of a hundred requests: each of them is answered by another one within a second, and the dead
    /// address is tried again when it is back.
    #[tokio::test]
    async fn another_server_takes_over_within_a_second() {
        let (mut first, address) = start();
        let second = start_on(identity(), ServerLimits::default(), super::tcp().await);
        let client = Client::builder(identity().public(), me()).address(&address).address(&second.address).build().unwrap();
        client.call(text(0), false).await.unwrap();
        assert_eq!(second.served(), 0, "the first address serves");
        let calls: Vec<_> = (0..100)
            .map(|n| {
                let client = client.clone();
                let request = if n == 0 { Bytes::from_static(b"Slow") } else { text(n) };
                tokio::spawn(async move { assert_eq!(client.call(request.clone(), true).await.unwrap(), request) })
            })
            .collect();
        sleep(Duration::from_millis(100)).await;
        let killed = Instant::now();
        first.kill().unwrap();
        first.wait().unwrap();
        for call in calls {
            call.await.unwrap();
        }
        client.call(text(1), false).await.unwrap();
        let took = killed.elapsed();
        assert!(took < Duration::from_secs(1), "{took:?}");
        assert_eq!(second.handler.asked_who.load(SeqCst), 1, "one connection");
        // Back again, and the other one gone.
        let listener = TcpListener::bind(&address).await.unwrap();
        let again = start_on(identity(), ServerLimits::default(), (listener.into(), address));
        second.stop().await;
        let began = Instant::now();
        client.call(text(2), false).await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        assert_eq!(again.served(), 1);
    }

    /// A request in flight at a server that is killed is not sent again unasked.
    #[tokio::test]
    async fn what_may_have_been_done_is_told() {
        let (mut first, address) = start();
        let second = start_on(identity(), ServerLimits::default(), super::tcp().await);
        let client = Client::builder(identity().public(), me()).address(&address).address(&second.address).build().unwrap();
        client.call(text(0), false).await.unwrap();
        let call = tokio::spawn(async move { client.call(Bytes::from_static(b"Slow"), false).await });
        sleep(Duration::from_millis(100)).await;
        first.kill().unwrap();
        first.wait().unwrap();
        let error = call.await.unwrap().unwrap_err();
        assert!(matches!(error, ClientError::Lost { address: ref lost, .. } if *lost == address), "{error}");
        assert!(error.to_string().contains("may have been carried out"), "{error}");
        assert_eq!(second.served(), 0);
    }
}

/// Proves KMS-11: after the last message of a server, what it did not answer is sent to the next one, though nobody said that it may be done twice.
#[tokio::test]
async fn what_was_not_done_is_sent_on() {
    let (listener, _) = client_of_played().await;
    let second = start_on(identity(), ServerLimits::default(), tcp().await);
    let address = listener.local_addr().unwrap().to_string();
    let client = Client::builder(identity().public(), me()).address(address).address(&second.address).build().unwrap();
    let played = async {
        let (mut requests, mut answers) = play_server(&listener, good, &[1, 0]).await;
        requests.next().await.unwrap().unwrap();
        SinkExt::<Bytes>::close(&mut answers).await.unwrap();
        while let Some(Ok(_)) = requests.next().await {}
    };
    let (called, ()) = tokio::join!(client.call(text(1), false), played);
    assert_eq!(called.unwrap(), text(1));
    assert_eq!(second.served(), 1);
}

/// Addresses that do not serve are told, each with its reason, and do not hold up a call for long.
#[tokio::test]
async fn what_is_unreachable_is_told() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    // It accepts, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addresses = [free, silent.local_addr().unwrap().to_string(), "unix:/nowhere/kms".to_owned()];
    let builder = addresses.iter().fold(Client::builder(identity().public(), me()), |builder, address| builder.address(address));
    let client = builder.build().unwrap();
    let began = Instant::now();
    let error = client.call(text(1), false).await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    let told = error.to_string();
    assert!(addresses.iter().all(|address| told.contains(address)) && told.contains("did not begin in time"), "{told}");
    assert!(matches!(Client::builder(identity().public(), me()).build(), Err(ClientError::NoAddress)));
}

/// A server that stops answering is given up, and the time of a call is kept.
#[tokio::test]
async fn silence_has_an_end() {
    for (silence, call) in [(200, 5000), (5000, 200)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let limits = ClientLimits { silence: Duration::from_millis(silence), call: Duration::from_millis(call), ..patient() };
        let address = listener.local_addr().unwrap().to_string();
        let client = Client::builder(identity().public(), me()).address(address).limits(limits).build().unwrap();
        let began = Instant::now();
        let (called, _ends) = tokio::join!(client.call(text(1), false), play_server(&listener, good, &[1, 0]));
        let error = called.unwrap_err();
        assert!(began.elapsed() < Duration::from_millis(900), "{:?}", began.elapsed());
        let wanted = if silence < call { "did not answer in time" } else { "no answer in time" };
        assert!(error.to_string().contains(wanted) && error.to_string().contains("may have been carried out"), "{error}");
    }
}

/// Calls that are let go of, at any time, take nothing from the others and change no order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_may_be_let_go_of() {
    let server = start().await;
    let client = server.client_with(ClientLimits { in_flight: 16, ..patient() });
    let calls = (0..2000u64).map(|n| {
        let client = client.clone();
        tokio::spawn(async move {
            let request = text(n as usize);
            if n % 3 == 0 {
                let _ = timeout(Duration::from_micros(n * 7 % 3000), client.call(request, false)).await;
                return 0;
            }
            assert_eq!(client.call(request.clone(), false).await.unwrap(), request);
            1
        })
    });
    let mut answered = 0;
    for call in calls.collect::<Vec<_>>() {
        answered += call.await.unwrap();
    }
    assert_eq!(answered, 2000 - 667);
    assert_eq!(server.handler.asked_who.load(SeqCst), 1, "one connection");
    drop(client);
    assert_eq!(server.stop().await, Stopped { cut: 0 });
}

/// A client that has said its last gets its answers yet; one that goes without a word costs nothing more.
#[tokio::test]
async fn half_closed_connections_are_answered() {
    let server = start().await;
    let mut raw = Raw::greeted(&server).await;
    (0..100).for_each(|n| raw.requests.push(text(n)).unwrap());
    SinkExt::<Bytes>::close(&mut raw.requests).await.unwrap();
    let answers: Vec<_> = raw.answers().map(|answer| answer.unwrap().payload).collect().await;
    assert_eq!(answers.len(), 101);
    assert!(answers.iter().skip(1).enumerate().all(|(n, answer)| *answer == text(n)));
    let mut raw = Raw::greeted(&server).await;
    raw.say(text(1)).await;
    drop(raw);
    assert_eq!(server.stop().await, Stopped { cut: 0 });
}

/// Proves KMS-6: answers of one connection are nothing on another, not even at the same time to the same client, and a client's own bytes are
/// no answers.
#[tokio::test]
async fn answers_are_not_swapped() {
    // Sits between two clients and the server, and gives each what the server says to the other; then gives a client back what it says.
    for reflects in [false, true] {
        let server = start_on(identity(), ServerLimits::default(), tcp().await);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let client = || Client::builder(server.public.clone(), me()).address(&address).limits(patient()).build().unwrap();
        let (one, other) = (client(), client());
        let far = server.address.clone();
        tokio::spawn(async move {
            let (mut a, _) = listener.accept().await.unwrap();
            let (mut b, _) = listener.accept().await.unwrap();
            let (mut to_a, mut to_b) = (TcpStream::connect(&far).await.unwrap(), TcpStream::connect(&far).await.unwrap());
            let mut greeting = [0; 32];
            to_a.read_exact(&mut greeting).await.unwrap();
            a.write_all(&greeting).await.unwrap();
            to_b.read_exact(&mut greeting).await.unwrap();
            b.write_all(&greeting).await.unwrap();
            let ((mut a_says, mut a_hears), (mut b_says, mut b_hears)) = (a.split(), b.split());
            let ((mut answers_a, mut asks_a), (mut answers_b, mut asks_b)) = (to_a.split(), to_b.split());
            if reflects {
                let _ = tokio::join!(tokio::io::copy(&mut a_says, &mut a_hears), tokio::io::copy(&mut b_says, &mut b_hears));
                return;
            }
            let _ = tokio::join!(
                tokio::io::copy(&mut a_says, &mut asks_a),
                tokio::io::copy(&mut b_says, &mut asks_b),
                tokio::io::copy(&mut answers_a, &mut b_hears),
                tokio::io::copy(&mut answers_b, &mut a_hears),
            );
        });
        let (first, second) = tokio::join!(one.call(text(1), true), other.call(text(2), true));
        for called in [first, second] {
            let Err(ClientError::Unreachable { tried }) = called else { panic!("{called:?}") };
            assert!(matches!(tried[0].why, Why::NotTheServer(_)), "{tried:?}");
        }
        assert_eq!(server.served(), 0, "no request was sent");
    }
}

/// Somebody in the middle cuts what the server says after every byte: a call gives the answer or an error, and never another answer.
#[tokio::test]
async fn cut_answers_are_errors() {
    let server = start_on(identity(), ServerLimits::default(), tcp().await);
    let mut whole = 0;
    for cut in 0..600 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let client = Client::builder(server.public.clone(), me()).address(address).limits(patient()).build().unwrap();
        let far = server.address.clone();
        let between = async move {
            let (mut near, _) = listener.accept().await.unwrap();
            let mut far = TcpStream::connect(&far).await.unwrap();
            let ((mut says, mut hears), (answers, mut asks)) = (near.split(), far.split());
            let mut answers = answers.take(cut);
            tokio::select! {
                _ = tokio::io::copy(&mut says, &mut asks) => {}
                _ = tokio::io::copy(&mut answers, &mut hears) => {}
            }
        };
        let called = async {
            tokio::select! {
                called = client.call(text(1), false) => called,
                // The call ends on its own; who cuts is gone then, and accepts nothing more.
                () = async { between.await; std::future::pending().await } => unreachable!(),
            }
        };
        match timeout(Duration::from_secs(5), called).await.expect("the call ends") {
            Ok(answer) => {
                assert_eq!(answer, text(1), "{cut}");
                whole += 1;
            }
            Err(ClientError::Unreachable { .. } | ClientError::Lost { .. }) => assert_eq!(whole, 0, "{cut}"),
            Err(error) => panic!("{cut}: {error}"),
        }
        if whole == 2 {
            return;
        }
    }
    panic!("no answer came through");
}

/// Proves KMS-9: an answer that is longer than any is not taken.
#[tokio::test]
async fn clients_take_answers_of_a_size() {
    let (listener, client) = client_of_played().await;
    let played = async {
        let (mut requests, mut answers) = play_server(&listener, good, &[1, 0]).await;
        requests.next().await.unwrap().unwrap();
        let _ = answers.send(vec![1; (1 << 20) + 1].into()).await;
        assert!(requests.next().await.is_none_or(|next| next.is_err()), "the client has gone");
    };
    let (called, ()) = tokio::join!(client.call(text(1), false), played);
    assert!(matches!(called, Err(ClientError::Lost { .. })), "{called:?}");
}

/// What is told over HTTP, to whom asks so and no other way; and for how long.
#[tokio::test]
async fn health_and_counters_are_told() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (kms, kms_address) = tcp().await;
    let (public, handler) = (identity().public(), Arc::new(Handler::default()));
    let server = Server::new(identity(), handler, ServerLimits::default());
    let metrics = server.metrics();
    let healthy = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let is_healthy = healthy.clone();
    tokio::spawn(sealwire::kms::watch(listener, metrics, move || is_healthy.load(SeqCst), std::future::pending()));
    let ask = async |request: &str| {
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(Duration::from_secs(8), socket.read_to_string(&mut answer)).await.expect("it ends").unwrap();
        answer
    };
    let get = async |path: &str| ask(&format!("GET {path} HTTP/1.1\r\nhost: kms\r\n\r\n")).await;
    assert!(get("/healthz").await.starts_with("HTTP/1.1 503"), "it does not run");
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(server.run(vec![kms], async { drop(stopped.await) }));
    let client = Client::builder(public.clone(), me()).address(&kms_address).limits(patient()).build().unwrap();
    for n in 0..5 {
        client.call(text(n), false).await.unwrap();
    }
    let stranger =
        Client::builder(public, SenderKey::generate().unwrap()).address(&kms_address).limits(patient()).build().unwrap();
    assert!(stranger.call(text(1), false).await.is_err());
    assert!(get("/healthz").await.starts_with("HTTP/1.1 200"));
    let told = get("/metrics").await;
    for line in [
        "sealwire_kms_connections_total 2",
        "sealwire_kms_requests_total 5",
        "sealwire_kms_served 1",
        "sealwire_kms_strangers 0",
        "sealwire_kms_refused_total{reason=\"hello\"} 1",
        "sealwire_kms_refused_total{reason=\"overloaded\"} 0",
        "# EOF",
    ] {
        assert!(told.lines().any(|told| told == line), "{line} in {told}");
    }
    assert!(!told.contains("sws1") && !told.contains("swr1"));
    assert!(get("/keys").await.starts_with("HTTP/1.1 404"));
    assert!(ask("POST /metrics HTTP/1.1\r\nhost: kms\r\ncontent-length: 0\r\n\r\n").await.starts_with("HTTP/1.1 405"));
    assert!(!ask(&format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(9000))).await.starts_with("HTTP/1.1 200"));
    // Who does not say what he wants is closed.
    let began = Instant::now();
    ask("GET /metrics HTTP/1.1\r\n").await;
    assert!(began.elapsed() < Duration::from_secs(7));
    healthy.store(false, SeqCst);
    assert!(get("/healthz").await.starts_with("HTTP/1.1 503"), "it is not healthy");
    healthy.store(true, SeqCst);
    drop(stop);
    running.await.unwrap();
    assert!(get("/healthz").await.starts_with("HTTP/1.1 503"), "it is stopped");
}
