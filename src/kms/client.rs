//! The calling end of connections to a key service (spec/kms.md 1 to 4): request -> answer, from many tasks at once.
//!
//! There is one connection for each address, made when it is wanted and kept by a task of its own. Requests are sent as they come, and answers
//! are given out in their order; who lets go of a call loses his own answer and nobody else's. A request that may have been carried out is
//! sent again only where its caller says that this does no harm.
#![deny(clippy::unwrap_used, clippy::cast_possible_truncation)]

use std::{
    collections::VecDeque,
    fmt, io,
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use super::session::{
    ANSWER_MAX, GREETING_LEN, HELLO_MAX, Hello, PROTOCOL_VERSION, PublicIdentity, REQUEST_MAX, Status, Welcome, limits, opener,
    suite, verified,
};
use crate::{
    channel::{ChannelOpener, ChannelSealer, Role, reply_binding},
    codec::CodecError,
    connection::{OpenedStream, SealedSink, Times},
    keys::{Cmk, Keyring, SenderKey},
    open::{Budget, Budgets},
    platform::{Entropy, EntropyError},
    seal::{Reuse, Sealer},
    wire::Kem,
};
use bytes::Bytes;
use futures_util::{Sink, SinkExt, Stream, StreamExt, future::poll_fn};
#[cfg(unix)]
use tokio::net::UnixStream;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    net::TcpStream,
    sync::{mpsc, oneshot},
    time::{Instant, Sleep, sleep_until, timeout},
};

/// Requests on one connection that have no answer yet.
pub const IN_FLIGHT: usize = 1024;
/// Bytes of them.
pub const IN_FLIGHT_BYTES: usize = 4 * 1024 * 1024;
/// How long an address may take from the first packet to its welcome.
pub const CONNECT_TIME: Duration = Duration::from_millis(700);
/// How long a server may take to answer the oldest request.
pub const SILENCE: Duration = Duration::from_secs(5);
/// How long an address is left alone after it failed; doubled each time, up to the longest.
const BACKOFF: Duration = Duration::from_millis(50);
const LONGEST_BACKOFF: Duration = Duration::from_secs(1);
/// How long a connection that is closed may take to take that in.
const CLOSING: Duration = Duration::from_secs(2);

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Address {
    Tcp(String),
    Unix(PathBuf),
}

impl Address {
    fn parse(address: &str) -> Self {
        match address.strip_prefix("unix:") {
            Some(path) => Self::Unix(path.into()),
            None => Self::Tcp(address.into()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Why an address did not serve.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Why {
    /// The connection could not be made, or failed.
    #[error("the connection failed: {0}")]
    Io(#[source] Arc<io::Error>),
    /// It took longer than [`ClientLimits::connect`] to begin.
    #[error("it did not begin in time")]
    TimedOut,
    /// It closed the connection when it had read our first message.
    #[error("it closed the connection without a word: does it know our sender key, and is it the service of this identity?")]
    Refused,
    /// What it said is not what the service of the identity says.
    #[error("it is not the service of this identity; nothing that it said was believed ({0})")]
    NotTheServer(&'static str),
    /// It speaks another version.
    #[error("it speaks version {theirs} of the protocol, and we speak {PROTOCOL_VERSION}: update the older of the two")]
    Version {
        /// The server's.
        theirs: u8,
    },
    /// It has too many connections, or too many of ours.
    #[error("it has too many connections already")]
    Overloaded,
    /// It is being stopped, or has closed a connection that was silent.
    #[error("it closed the connection in good order")]
    Closed,
    /// It did not answer within [`ClientLimits::silence`].
    #[error("it did not answer in time")]
    Silent,
    /// Our own side has no randomness, or was forked.
    #[error("nothing can be sealed here: {0}")]
    Ours(&'static str),
}

impl From<io::Error> for Why {
    fn from(error: io::Error) -> Self {
        Self::Io(Arc::new(error))
    }
}

impl From<EntropyError> for Why {
    fn from(_: EntropyError) -> Self {
        Self::Ours("the operating system's random generator is not available")
    }
}

/// What went wrong on a connection that had begun, or was beginning.
fn why(error: &CodecError) -> Why {
    match error {
        CodecError::Io(error) => io::Error::new(error.kind(), error.to_string()).into(),
        CodecError::TimedOut(_) => Why::Silent,
        CodecError::Seal(_) => Why::Ours("a message could not be sealed"),
        CodecError::Open(crate::OpenError::ChannelTruncated { .. }) => io::Error::from(io::ErrorKind::UnexpectedEof).into(),
        other => Why::NotTheServer(other.reason()),
    }
}

/// Why a call gave no answer.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// No address served; the request was not carried out.
    #[error("no key service could be reached: {}", Tried::list(.tried))]
    Unreachable {
        /// Each address, and why it did not.
        tried: Vec<Tried>,
    },
    /// The connection ended before the answer, and the request may have been carried out or not.
    #[error("{address} was lost before it answered, and the request may have been carried out: {why}")]
    Lost {
        /// To whom it was sent last.
        address: String,
        /// How it ended.
        why: Why,
    },
    /// [`ClientLimits::call`] has passed.
    #[error("there was no answer in time{}", if *.may_be_done { ", and the request may have been carried out" } else { "" })]
    TimedOut {
        /// Whether it may have been carried out.
        may_be_done: bool,
    },
    /// A request that no server takes.
    #[error("the request has {len} bytes, and one has 1 to {REQUEST_MAX}")]
    Length {
        /// Its length.
        len: usize,
    },
    /// The client was built without one.
    #[error("no address of the key service is given: host:port, or unix:/path")]
    NoAddress,
}

/// An address, and why it did not serve.
#[derive(Debug, Clone)]
pub struct Tried {
    /// The address as it was given.
    pub address: String,
    /// Why.
    pub why: Why,
}

impl Tried {
    fn list(tried: &[Self]) -> String {
        tried.iter().map(|Self { address, why }| format!("{address}: {why}")).collect::<Vec<_>>().join("; ")
    }
}

/// What a client waits for, and how much (spec/kms.md 4).
#[derive(Debug, Clone)]
pub struct ClientLimits {
    /// How long an address may take to begin ([`CONNECT_TIME`]).
    pub connect: Duration,
    /// How long a server may take to answer the oldest request before its connection is given up ([`SILENCE`]).
    pub silence: Duration,
    /// How long a call may take, whatever happens.
    pub call: Duration,
    /// How long a connection is kept on which nothing is asked; less than the server's time.
    pub idle: Duration,
    /// Requests on one connection that have no answer yet ([`IN_FLIGHT`]); more of them wait.
    pub in_flight: usize,
    /// Bytes of them ([`IN_FLIGHT_BYTES`]).
    pub in_flight_bytes: usize,
    /// How long a DEK for requests is used.
    pub reuse: Reuse,
}

impl Default for ClientLimits {
    fn default() -> Self {
        Self {
            connect: CONNECT_TIME,
            silence: SILENCE,
            call: Duration::from_secs(15),
            idle: Duration::from_secs(300),
            in_flight: IN_FLIGHT,
            in_flight_bytes: IN_FLIGHT_BYTES,
            reuse: Reuse::default(),
        }
    }
}

/// Settings of a [`Client`].
#[must_use]
pub struct ClientBuilder {
    settings: Settings,
    addresses: Vec<Address>,
}

/// What every connection is made with.
struct Settings {
    server: PublicIdentity,
    me: Arc<SenderKey>,
    limits: ClientLimits,
}

impl ClientBuilder {
    /// Adds an address of the service: `host:port`, or `unix:/path`. The first that serves is kept until it fails.
    pub fn address(mut self, address: impl AsRef<str>) -> Self {
        self.addresses.push(Address::parse(address.as_ref()));
        self
    }

    /// How long, and how much.
    pub fn limits(mut self, limits: ClientLimits) -> Self {
        self.settings.limits = limits;
        self
    }

    /// The client. It connects when it is called.
    ///
    /// # Errors
    /// [`ClientError::NoAddress`].
    pub fn build(self) -> Result<Client, ClientError> {
        if self.addresses.is_empty() {
            return Err(ClientError::NoAddress);
        }
        let places = self.addresses.into_iter().map(|address| Arc::new(Place { address, state: Mutex::default() })).collect();
        Ok(Client(Arc::new(Shared { settings: Arc::new(self.settings), places, current: AtomicUsize::new(0) })))
    }
}

/// A client of a key service, for many tasks at once; clones share its connections. Their tasks run on the runtime of the first call.
///
/// There is an example at [`Server`](super::Server).
#[derive(Clone)]
pub struct Client(Arc<Shared>);

struct Shared {
    settings: Arc<Settings>,
    places: Vec<Arc<Place>>,
    /// The place that served last.
    current: AtomicUsize,
}

/// An address, and the connection to it where there is one.
struct Place {
    address: Address,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    link: Option<mpsc::Sender<Call>>,
    /// Failures to begin, one after the other.
    failures: u32,
    /// Until when it is left alone.
    due: Option<Instant>,
}

/// A request on its way, and who waits for its answer.
struct Call {
    request: Bytes,
    reply: oneshot::Sender<Result<Bytes, Loss>>,
}

/// How a connection failed a request.
#[derive(Clone)]
enum Loss {
    /// It did not begin.
    NotBegun(Why),
    /// It had begun, and the request was not carried out.
    NotDone(Why),
    /// The request was sent, and may have been carried out.
    MayBeDone(Why),
}

impl Client {
    /// A client of the service whose identity this is, in the name of `me`.
    pub fn builder(server: PublicIdentity, me: impl Into<Arc<SenderKey>>) -> ClientBuilder {
        let settings = Settings { server, me: me.into(), limits: ClientLimits::default() };
        ClientBuilder { settings, addresses: Vec::new() }
    }

    /// Sends a request and waits for its answer, which is wiped when it is dropped. Where the connection ends in between, an `idempotent` request
    /// is sent again, to the next address if there is one; others only where they were certainly not carried out. [KMS-15]
    ///
    /// Who drops what this returns takes nothing back that was sent.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn call(&self, request: Bytes, idempotent: bool) -> Result<Bytes, ClientError> {
        // [KMS-9]
        if request.is_empty() || request.len() > REQUEST_MAX {
            return Err(ClientError::Length { len: request.len() });
        }
        let sent = AtomicBool::new(false);
        let called = timeout(self.0.settings.limits.call, self.0.call(&request, idempotent, &sent)).await;
        called.unwrap_or_else(|_| Err(ClientError::TimedOut { may_be_done: sent.load(Relaxed) }))
    }
}

impl Shared {
    async fn call(&self, request: &Bytes, idempotent: bool, sent: &AtomicBool) -> Result<Bytes, ClientError> {
        let (mut tried, mut losses) = (Vec::<(usize, Why)>::new(), 0);
        loop {
            let Some((index, place)) = self.next_place(&tried).await else {
                let tried =
                    tried.into_iter().filter_map(|(i, why)| Some(Tried { address: self.places.get(i)?.to_string(), why }));
                return Err(ClientError::Unreachable { tried: tried.collect() });
            };
            let loss = match place.call(&self.settings, request.clone(), sent).await {
                Ok(answer) => {
                    self.current.store(index, Relaxed);
                    return Ok(answer);
                }
                Err(loss) => loss,
            };
            self.current.store((index + 1) % self.places.len(), Relaxed);
            losses += 1;
            match loss {
                Loss::NotBegun(why) => tried.push((index, why)),
                // [KMS-15]
                Loss::NotDone(_) if losses <= 2 * self.places.len() => {}
                Loss::MayBeDone(_) if idempotent && losses <= 2 * self.places.len() => {}
                Loss::NotDone(why) | Loss::MayBeDone(why) => {
                    return Err(ClientError::Lost { address: place.to_string(), why });
                }
            }
        }
    }

    /// The next place to ask: the current one, or the first after it that has not failed; where all are left alone for a while, the first that no
    /// longer is. `None` when all were tried.
    async fn next_place(&self, tried: &[(usize, Why)]) -> Option<(usize, &Arc<Place>)> {
        let from = self.current.load(Relaxed);
        let all = (0..self.places.len()).map(|i| (from + i) % self.places.len());
        let untried = all.filter(|index| !tried.iter().any(|(tried, _)| tried == index));
        let places = untried.filter_map(|index| Some((index, self.places.get(index)?)));
        let (due, index, place) = places.map(|(index, place)| (place.due(), index, place)).min_by_key(|(due, ..)| *due)?;
        if let Some(due) = due {
            sleep_until(due).await;
        }
        Some((index, place))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

impl Place {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until when it is left alone, where it is.
    fn due(&self) -> Option<Instant> {
        self.state().due.filter(|due| *due > Instant::now())
    }

    async fn call(self: &Arc<Self>, settings: &Arc<Settings>, request: Bytes, sent: &AtomicBool) -> Result<Bytes, Loss> {
        let (reply, answer) = oneshot::channel();
        let gone = |_| Loss::NotDone(Why::Closed);
        self.link(settings).send(Call { request, reply }).await.map_err(gone)?;
        sent.store(true, Relaxed);
        // A task that is gone without a word has panicked, or its runtime has ended.
        answer.await.unwrap_or(Err(Loss::MayBeDone(Why::Closed)))
    }

    /// The way to the connection's task, which is begun where there is none.
    fn link(self: &Arc<Self>, settings: &Arc<Settings>) -> mpsc::Sender<Call> {
        let mut state = self.state();
        if let Some(link) = state.link.as_ref().filter(|link| !link.is_closed()) {
            return link.clone();
        }
        let (link, calls) = mpsc::channel(settings.limits.in_flight.max(1));
        let task = Task { settings: settings.clone(), place: Arc::downgrade(self), address: self.address.clone() };
        tokio::spawn(task.run(calls));
        state.link = Some(link.clone());
        link
    }

    /// It has begun, or has failed to.
    fn note(&self, began: bool) {
        let mut state = self.state();
        if began {
            (state.failures, state.due) = (0, None);
            return;
        }
        state.link = None;
        let backoff = BACKOFF.saturating_mul(1 << state.failures.min(10)).min(LONGEST_BACKOFF);
        state.failures = state.failures.saturating_add(1);
        // Clients that lost one server at the same time come back at different ones.
        let [random] = Entropy::default().array().unwrap_or([0]);
        state.due = Some(Instant::now() + backoff / 2 + backoff / 512 * random.into());
    }
}

/// What makes a connection and keeps it. It does not keep the client: when that is gone, so is the way to here.
struct Task {
    settings: Arc<Settings>,
    place: Weak<Place>,
    address: Address,
}

impl Task {
    async fn run(self, calls: mpsc::Receiver<Call>) {
        match &self.address {
            Address::Tcp(address) => {
                let connecting = async {
                    let socket = TcpStream::connect(address).await?;
                    socket.set_nodelay(true)?;
                    let (read, write) = socket.into_split();
                    self.settings.begin(read, write).await
                };
                self.drive(connecting, calls).await;
            }
            #[cfg(unix)]
            Address::Unix(path) => {
                let connecting = async {
                    let (read, write) = UnixStream::connect(path).await?.into_split();
                    self.settings.begin(read, write).await
                };
                self.drive(connecting, calls).await;
            }
            #[cfg(not(unix))]
            Address::Unix(_) => {
                let none = async { Err(Why::Ours("there are no Unix sockets here")) };
                self.drive::<tokio::io::Empty, tokio::io::Sink>(none, calls).await;
            }
        }
    }

    async fn drive<R, W>(&self, connecting: impl Future<Output = Result<Ends<R, W>, Why>>, mut calls: mpsc::Receiver<Call>)
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let begun = timeout(self.settings.limits.connect, connecting).await.unwrap_or(Err(Why::TimedOut));
        if let Some(place) = self.place.upgrade() {
            place.note(begun.is_ok());
        }
        match begun {
            Ok((requests, answers)) => Driver::new(requests, answers, calls, &self.settings.limits).run().await,
            Err(why) => refuse_all(&mut calls, &Loss::NotBegun(why)),
        }
    }
}

/// Tells those who wait to be sent that they will not be.
fn refuse_all(calls: &mut mpsc::Receiver<Call>, loss: &Loss) {
    calls.close();
    while let Ok(call) = calls.try_recv() {
        // Who has let go of his call is not told.
        let _ = call.reply.send(Err(loss.clone()));
    }
}

/// Both ends of a connection that has begun.
type Ends<R, W> = (SealedSink<W>, OpenedStream<R>);

impl Settings {
    /// Greeting, hello and welcome: afterwards both know each other.
    async fn begin<R, W>(&self, mut read: R, write: W) -> Result<Ends<R, W>, Why>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut greeting = [0; GREETING_LEN];
        read.read_exact(&mut greeting).await?;
        let binding = self.server.binding(&greeting);
        let times = Times { idle: None, ..Times::default() };
        let mut requests = self.requests(&binding, write)?.times(times);
        let kem = self.server.recipient.kem();
        let reply_to = fresh(kem)?;
        // [KMS-5]
        let hello = Hello { version: PROTOCOL_VERSION, reply_to: reply_to.recipient().clone() };
        requests.send(hello.encode()).await.map_err(|error| why(&error))?;
        let mac = requests.first_header_mac().ok_or(Why::Ours("nothing was sealed"))?;
        let opener = opener(Keyring::from(reply_to), kem, ANSWER_MAX);
        let channel =
            ChannelOpener::new(opener, Role::Initiator, &reply_binding(mac, &binding)).first_at_most(HELLO_MAX).wiping();
        let renewals = Budget { at_once: super::server::RENEWALS, a_second: 1 };
        let channel = channel.budgets(Budgets { envelopes: renewals, ..Budgets::default() });
        let mut answers = OpenedStream::new(channel, read).times(times);
        self.take_welcome(&mut answers).await?;
        Ok((requests, answers))
    }

    fn requests<W: AsyncWrite + Unpin>(&self, binding: &[u8], write: W) -> Result<SealedSink<W>, Why> {
        let recipient = self.server.recipient.clone();
        let suite = suite(recipient.kem());
        let sealer = Sealer::builder().to(recipient).suite(suite).sign_with(self.me.clone());
        let sealer = sealer.limits(limits(REQUEST_MAX)).reuse(self.limits.reuse).build();
        let sealer = sealer.map_err(|_| Why::Ours("the service's recipient is not supported by this build"))?;
        Ok(SealedSink::new(ChannelSealer::new(sealer, Role::Initiator, binding), write))
    }

    async fn take_welcome<R: AsyncRead + Unpin>(&self, answers: &mut OpenedStream<R>) -> Result<(), Why> {
        let first = match answers.next().await {
            Some(Ok(first)) => first,
            // Whoever cannot open hello, or does not know us, goes like this.
            None | Some(Err(CodecError::Io(_) | CodecError::Open(crate::OpenError::ChannelTruncated { .. }))) => {
                return Err(Why::Refused);
            }
            Some(Err(error)) => return Err(why(&error)),
        };
        // [KMS-3] [KMS-6]
        if verified(&first) != Some(self.server.sender) {
            return Err(Why::NotTheServer("its answers are signed with another key"));
        }
        let welcome = Welcome::decode(&first.payload).map_err(|_| Why::NotTheServer("it does not begin with a welcome"))?;
        // [KMS-7]
        match welcome.status {
            _ if welcome.version != PROTOCOL_VERSION => Err(Why::Version { theirs: welcome.version }),
            Status::Ready => Ok(()),
            Status::Version => Err(Why::Version { theirs: welcome.version }),
            Status::Overloaded => Err(Why::Overloaded),
            Status::Stopping => Err(Why::Closed),
        }
    }
}

/// A key pair for the answers of one connection.
fn fresh(kem: Kem) -> Result<Cmk, Why> {
    match kem {
        Kem::X25519 => Ok(Cmk::generate()?),
        #[cfg(feature = "pq")]
        Kem::XWing => Ok(Cmk::generate_pq()?),
        #[cfg(not(feature = "pq"))]
        Kem::XWing => Err(Why::Ours("the service is post-quantum (X-Wing), and this build is without the feature `pq`")),
    }
}

/// A request that was sent.
struct Waiting {
    len: usize,
    reply: oneshot::Sender<Result<Bytes, Loss>>,
}

/// A connection in use: requests out as they come, answers back in their order.
struct Driver<'a, R, W> {
    requests: SealedSink<W>,
    answers: OpenedStream<R>,
    calls: mpsc::Receiver<Call>,
    limits: &'a ClientLimits,
    waiting: VecDeque<Waiting>,
    bytes: usize,
    /// Whether something may not have left.
    unflushed: bool,
    /// Since when the oldest request waits, or nothing is asked.
    since: Instant,
    /// When to look at that again.
    look: Pin<Box<Sleep>>,
}

/// How it ends with a connection.
enum End {
    /// Nobody asks any more.
    Ours,
    /// The server has said its last: what it did not answer it did not do.
    Theirs,
    Failed(Why),
}

impl<'a, R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Driver<'a, R, W> {
    fn new(requests: SealedSink<W>, answers: OpenedStream<R>, calls: mpsc::Receiver<Call>, limits: &'a ClientLimits) -> Self {
        let since = Instant::now();
        let look = Box::pin(sleep_until(since + limits.silence / 2));
        Self { requests, answers, calls, limits, waiting: VecDeque::new(), bytes: 0, unflushed: false, since, look }
    }

    async fn run(mut self) {
        let end = poll_fn(|cx| self.poll(cx)).await;
        let (sent, unsent) = match end {
            End::Ours => (None, Why::Closed),
            End::Theirs => (Some(Loss::NotDone(Why::Closed)), Why::Closed),
            End::Failed(why) => (Some(Loss::MayBeDone(why.clone())), why),
        };
        refuse_all(&mut self.calls, &Loss::NotDone(unsent));
        let Some(sent) = sent else { return self.close().await };
        for waiting in self.waiting.drain(..) {
            let _ = waiting.reply.send(Err(sent.clone()));
        }
        if let Loss::NotDone(_) = sent {
            self.close().await;
        }
    }

    /// Closes in good order, and waits a little until the server has.
    async fn close(&mut self) {
        let closing = async {
            if SinkExt::<Bytes>::close(&mut self.requests).await.is_ok() {
                while let Some(Ok(_)) = self.answers.next().await {}
            }
        };
        let _ = timeout(CLOSING, closing).await;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        match self.poll_all(cx) {
            Ok(()) => Poll::Pending,
            Err(end) => Poll::Ready(end),
        }
    }

    /// Goes on as far as it goes.
    fn poll_all(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        self.poll_answers(cx)?;
        self.poll_calls(cx)?;
        if self.unflushed {
            match Pin::new(&mut self.requests).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(error)) => return Err(self.failed(&error, cx)),
                Poll::Pending => {}
            }
        }
        self.poll_late(cx)
    }

    /// Gives answers to those who wait, oldest first. [KMS-10]
    fn poll_answers(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        while let Poll::Ready(next) = Pin::new(&mut self.answers).poll_next(cx) {
            let opened = match next {
                Some(Ok(opened)) => opened,
                None => return Err(End::Theirs),
                Some(Err(error)) => return Err(End::Failed(why(&error))),
            };
            let Some(Waiting { len, reply }) = self.waiting.pop_front() else {
                return Err(End::Failed(Why::NotTheServer("it answered what was not asked")));
            };
            self.bytes -= len;
            self.since = Instant::now();
            let _ = reply.send(Ok(opened.payload));
        }
        Ok(())
    }

    /// Takes requests as long as there is room for them.
    fn poll_calls(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        while self.waiting.len() < self.limits.in_flight.max(1) && self.bytes < self.limits.in_flight_bytes.max(1) {
            match Sink::<Bytes>::poll_ready(Pin::new(&mut self.requests), cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Err(self.failed(&error, cx)),
                Poll::Pending => return Ok(()),
            }
            match self.calls.poll_recv(cx) {
                Poll::Ready(Some(call)) => self.take(call, cx)?,
                Poll::Ready(None) if self.waiting.iter().all(|waiting| waiting.reply.is_closed()) => return Err(End::Ours),
                Poll::Ready(None) | Poll::Pending => return Ok(()),
            }
        }
        Ok(())
    }

    /// Sends a request, unless nobody waits for its answer any more.
    fn take(&mut self, Call { request, reply }: Call, cx: &mut Context<'_>) -> Result<(), End> {
        if reply.is_closed() {
            return Ok(());
        }
        if self.waiting.is_empty() {
            self.since = Instant::now();
        }
        let len = request.len();
        self.waiting.push_back(Waiting { len, reply });
        self.bytes += len;
        self.unflushed = true;
        self.requests.push(request).map_err(|error| self.failed(&error, cx))
    }

    /// How it failed to send. Where the server has said why it goes, that is how.
    fn failed(&mut self, error: &CodecError, cx: &mut Context<'_>) -> End {
        self.poll_answers(cx).err().filter(|end| matches!(end, End::Theirs)).unwrap_or_else(|| End::Failed(why(error)))
    }

    /// Looks now and then whether the server is silent, or nothing is asked.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        while self.look.as_mut().poll(cx).is_ready() {
            let (now, waited) = (Instant::now(), self.since.elapsed());
            if !self.waiting.is_empty() && waited >= self.limits.silence {
                return Err(End::Failed(Why::Silent));
            }
            if self.waiting.is_empty() && waited >= self.limits.idle {
                return Err(End::Ours);
            }
            self.look.as_mut().reset(now + self.limits.silence / 2);
        }
        Ok(())
    }
}
