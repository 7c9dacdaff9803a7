//! The serving end of connections to a key service (spec/kms.md 1 to 4): sockets -> caller, request -> answer. What requests mean is the
//! handler's ([`Serve`]).
//!
//! A connection is one task, which answers in the order of requests. It reads nothing while answers wait to be taken, so what a peer makes
//! it hold is a read buffer, one request, a few answers and the sink's window.
//!
//! Answers leave when all that has come on their connection is answered: their lines in a log are one write then, and they are one
//! message of the channel. (To wait for other connections as well was tried: the wakes of clients that it saved it cost in yields.)
#![deny(clippy::unwrap_used, clippy::cast_possible_truncation)]

use std::{
    collections::{BTreeMap, HashMap},
    future::Future,
    io,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{
    FutureExt, SinkExt, StreamExt,
    future::{poll_fn, select_all},
};
#[cfg(unix)]
use tokio::net::{UnixListener, UnixStream};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    task::AbortHandle,
    time::timeout,
};
use zeroize::Zeroizing;

use super::{
    health::{Metrics, Refusal},
    message::Verb,
    session::{
        ANSWER_MAX, GREETING_LEN, HELLO_MAX, Hello, Identity, PROTOCOL_VERSION, PublicIdentity, REQUEST_MAX, Status, Welcome,
        limits, opener, suite, verified,
    },
    store::Queued,
};
use crate::{
    channel::{ChannelOpener, ChannelSealer, Role, reply_binding},
    codec::CodecError,
    connection::{OpenedStream, SealedSink, TimedOut, Times},
    keys::{Keyring, SenderKey, VerifyingKey},
    open::{Budget, Budgets, OpenError, Opener},
    platform::Entropy,
    seal::{Reuse, Sealer},
};

/// Connections that have not begun well, at a time: the oldest makes room for the next.
pub const STRANGERS: usize = 1024;
/// Connections that are served at a time.
pub const CONNECTIONS: usize = 8192;
/// The same of one caller: nobody keeps all others out.
pub const CONNECTIONS_OF_CALLER: usize = CONNECTIONS / 2;
/// How long a connection may take to begin: greeting, hello, welcome.
pub const HELLO_TIME: Duration = Duration::from_secs(10);
/// Renewals of a client's DEK: so many at once, and one a second.
pub const RENEWALS: u64 = 64;
/// Requests after which others have their turn, and answers leave.
const TURN: usize = 64;
/// The same in bytes of answers.
const TURN_BYTES: usize = 64 * 1024;
/// How long a client may take to read the last answers before its connection is cut.
const LINGER: Duration = Duration::from_secs(2);
/// How long no connection is accepted after one could not be.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a server asks who its callers are, and what it answers them.
pub trait Serve: Send + Sync + 'static {
    /// Whether requests of this sender are taken at all. Others are treated as bytes that are no protocol.
    fn knows(&self, caller: &VerifyingKey) -> bool;

    /// Answers a request. A panic ends the connection, and no other.
    ///
    /// Answers with secrets in them are [`wiped`].
    fn serve(&self, caller: &VerifyingKey, request: Bytes) -> Answered;

    /// What an answer waits for, done: what is sent in its place. Called when all that has come on a connection is answered.
    fn settle(&self, answered: Answered) -> Bytes {
        answered.answer
    }

    /// Whether answering may take long enough to hold up other connections: a disk that is synced, a token that is asked. It is then done on
    /// a thread for such work.
    fn may_block(&self, request: &[u8]) -> bool {
        let _ = request;
        false
    }
}

/// An answer, and the line of a log that has to be written before anyone is told ([`Serve::settle`]).
#[derive(Clone)]
pub struct Answered {
    /// The answer.
    pub answer: Bytes,
    /// The line, if it is not written yet.
    pub queued: Option<Queued>,
    /// As what it is counted when it is settled: what was asked, and in one word what came of it.
    pub counted: Option<(Verb, &'static str)>,
}

impl From<Bytes> for Answered {
    fn from(answer: Bytes) -> Self {
        Self { answer, queued: None, counted: None }
    }
}

/// Bytes that are wiped when the last of their holders lets go.
///
/// ```
/// let answer = sealwire::kms::wiped(zeroize::Zeroizing::new(vec![7; 32]));
/// assert_eq!(&answer[..], [7; 32]);
/// ```
#[must_use]
pub fn wiped(secret: Zeroizing<Vec<u8>>) -> Bytes {
    Bytes::from_owner(secret)
}

/// What a server lets its peers cost (spec/kms.md 4).
#[derive(Debug, Clone)]
pub struct ServerLimits {
    /// Connections that have not begun well, at a time ([`STRANGERS`]).
    pub strangers: usize,
    /// Connections that are served at a time ([`CONNECTIONS`]).
    pub connections: usize,
    /// The same of one caller ([`CONNECTIONS_OF_CALLER`]).
    pub connections_of_caller: usize,
    /// How long a connection may take to begin ([`HELLO_TIME`]).
    pub hello: Duration,
    /// How long each part of a request may take, how long a connection may be silent, and how long a peer may leave its answers unread.
    pub times: Times,
    /// Bytes of a request at the most, up to [`REQUEST_MAX`].
    pub request: usize,
    /// Renewals of a client's DEK on one connection.
    pub renewals: Budget,
    /// How long a DEK for answers is used.
    pub reuse: Reuse,
    /// How long requests in flight may take when the server is stopped.
    pub grace: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            strangers: STRANGERS,
            connections: CONNECTIONS,
            connections_of_caller: CONNECTIONS_OF_CALLER,
            hello: HELLO_TIME,
            times: Times::default(),
            request: REQUEST_MAX,
            renewals: Budget { at_once: RENEWALS, a_second: 1 },
            reuse: Reuse::default(),
            grace: Duration::from_secs(10),
        }
    }
}

/// Where a server listens.
#[derive(Debug)]
#[non_exhaustive]
pub enum Listener {
    /// A TCP port.
    Tcp(TcpListener),
    /// A Unix socket.
    #[cfg(unix)]
    Unix(UnixListener),
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

#[cfg(unix)]
impl From<UnixListener> for Listener {
    fn from(listener: UnixListener) -> Self {
        Self::Unix(listener)
    }
}

enum Socket {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
}

impl Listener {
    /// Listens on `host:port`, with keep-alive, so that a connection whose other end is gone ends here too.
    ///
    /// # Errors
    /// What the system says of the last of the host's addresses.
    pub async fn tcp(on: &str) -> io::Result<Self> {
        bind(on).await.map(Self::Tcp)
    }

    async fn accept(&self) -> io::Result<Socket> {
        match self {
            Self::Tcp(listener) => {
                let (socket, _) = listener.accept().await?;
                socket.set_nodelay(true)?;
                Ok(Socket::Tcp(socket))
            }
            #[cfg(unix)]
            Self::Unix(listener) => Ok(Socket::Unix(listener.accept().await?.0)),
        }
    }
}

/// Listens with keep-alive, so that a connection whose other end is gone ends here too.
pub(crate) async fn bind(on: &str) -> io::Result<TcpListener> {
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

/// How a server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped {
    /// Connections that were cut because they did not end within [`ServerLimits::grace`].
    pub cut: usize,
}

/// A key service on sockets.
///
/// ```
/// use std::sync::Arc;
/// use bytes::Bytes;
/// use sealwire::{SenderKey, VerifyingKey, kms::{Answered, Client, Identity, Listener, Serve, Server, ServerLimits}};
///
/// struct Echo(VerifyingKey);
/// impl Serve for Echo {
///     fn knows(&self, caller: &VerifyingKey) -> bool {
///         *caller == self.0
///     }
///     fn serve(&self, _: &VerifyingKey, request: Bytes) -> Answered {
///         request.into()
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (identity, me) = (Identity::generate()?, SenderKey::generate()?);
/// let public = identity.public();
/// let server = Server::new(identity, Arc::new(Echo(*me.verifying_key())), ServerLimits::default());
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
/// let client = Client::builder(public, me).address(listener.local_addr()?.to_string()).build()?;
/// let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
/// let running = tokio::spawn(server.run(vec![Listener::from(listener)], async { drop(stopped.await) }));
/// assert_eq!(client.call(Bytes::from_static(b"hello"), true).await?, "hello");
/// drop(stop);
/// assert_eq!(running.await?.cut, 0);
/// # Ok(()) }
/// ```
pub struct Server {
    shared: Arc<Shared>,
}

/// What every connection is served with.
struct Shared {
    public: PublicIdentity,
    opener: Opener,
    signer: Arc<SenderKey>,
    handler: Arc<dyn Serve>,
    limits: ServerLimits,
    registry: Mutex<Registry>,
    metrics: Metrics,
}

/// Who is here.
#[derive(Default)]
struct Registry {
    next: u64,
    /// Connections that have not begun well, oldest first.
    strangers: BTreeMap<u64, AbortHandle>,
    served: HashMap<u64, AbortHandle>,
    callers: HashMap<VerifyingKey, usize>,
}

/// A server's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Serving,
    /// What has come is answered.
    Finishing,
}

impl Server {
    /// A server of `identity`, whose requests `handler` answers.
    #[must_use]
    pub fn new(identity: Identity, handler: Arc<dyn Serve>, limits: ServerLimits) -> Self {
        let public = identity.public();
        let request = limits.request.min(REQUEST_MAX);
        let limits = ServerLimits { request, ..limits };
        let opener = opener(Keyring::from(identity.cmk), public.recipient.kem(), request);
        let signer = Arc::new(identity.sender);
        let (registry, metrics) = (Mutex::default(), Metrics::default());
        Self { shared: Arc::new(Shared { public, opener, signer, handler, limits, registry, metrics }) }
    }

    /// What happens, in numbers; and whether requests are taken.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        self.shared.metrics.clone()
    }

    /// Serves what connects to `listeners` until `stop` is there; then accepts no more, answers what has come, and ends.
    pub async fn run(self, listeners: Vec<Listener>, stop: impl Future<Output = ()>) -> Stopped {
        let (phase, phases) = watch::channel(Phase::Serving);
        let accepting = listeners.into_iter().map(|listener| Box::pin(self.shared.clone().accept_all(listener, phases.clone())));
        let accepting = accepting.collect::<Vec<_>>();
        self.shared.metrics.set_ready(true);
        tokio::select! {
            _ = select_all(accepting) => {}
            () = stop => {}
        }
        self.shared.metrics.set_ready(false);
        drop(phases);
        phase.send_replace(Phase::Finishing);
        self.shared.cut(|registry| registry.strangers.values().cloned().collect());
        // Every connection watches the phase for as long as it is there.
        if timeout(self.shared.limits.grace, phase.closed()).await.is_ok() {
            return Stopped { cut: 0 };
        }
        let cut = self.shared.cut(|registry| registry.served.values().cloned().collect());
        // A task that is in the middle of a request is not cut before it is through.
        let _ = timeout(LINGER, phase.closed()).await;
        Stopped { cut }
    }
}

impl Shared {
    async fn accept_all(self: Arc<Self>, listener: Listener, phases: watch::Receiver<Phase>) {
        loop {
            match listener.accept().await {
                Ok(socket) => self.take(socket, phases.clone()),
                // Too many open files, or a peer that is gone already.
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
        }
    }

    /// A connection is a stranger's until it has begun well. [KMS-12]
    fn take(self: &Arc<Self>, socket: Socket, phases: watch::Receiver<Phase>) {
        self.metrics.accepted();
        let mut registry = self.registry();
        let id = registry.next;
        registry.next += 1;
        let oldest = if registry.strangers.len() >= self.limits.strangers { registry.strangers.pop_first() } else { None };
        let place = Place { shared: self.clone(), id, caller: None };
        let task = tokio::spawn(async move {
            match socket {
                Socket::Tcp(socket) => {
                    let (read, write) = socket.into_split();
                    place.connection(read, write, phases).await;
                }
                #[cfg(unix)]
                Socket::Unix(socket) => {
                    let (read, write) = socket.into_split();
                    place.connection(read, write, phases).await;
                }
            }
        });
        registry.strangers.insert(id, task.abort_handle());
        self.metrics.here(registry.strangers.len(), registry.served.len());
        drop(registry);
        if let Some((_, oldest)) = oldest {
            self.metrics.refused(Refusal::Evicted);
            oldest.abort();
        }
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends these connections; tells how many they were.
    fn cut(&self, these: impl FnOnce(&Registry) -> Vec<AbortHandle>) -> usize {
        let these = these(&self.registry());
        these.iter().for_each(AbortHandle::abort);
        these.len()
    }
}

/// A connection's place among the others, given back when it ends in whatever way.
struct Place {
    shared: Arc<Shared>,
    id: u64,
    /// Who it is, once that is known.
    caller: Option<VerifyingKey>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut registry = self.shared.registry();
        registry.strangers.remove(&self.id);
        if let Some(caller) = self.caller {
            registry.served.remove(&self.id);
            registry.leave(&caller);
        }
        self.shared.metrics.here(registry.strangers.len(), registry.served.len());
    }
}

impl Registry {
    fn leave(&mut self, caller: &VerifyingKey) {
        let Some(count) = self.callers.get_mut(caller) else { return };
        *count -= 1;
        if *count == 0 {
            self.callers.remove(caller);
        }
    }
}

impl Place {
    /// From among the strangers to those who are served, where there is a place; `None` for who lost his to a later one.
    fn admit(&mut self, caller: VerifyingKey) -> Option<Status> {
        let (shared, limits) = (&self.shared, &self.shared.limits);
        let mut registry = shared.registry();
        let of_caller = registry.callers.get(&caller).copied().unwrap_or(0);
        let handle = registry.strangers.remove(&self.id)?;
        // [KMS-13]
        if registry.served.len() >= limits.connections || of_caller >= limits.connections_of_caller {
            shared.metrics.refused(Refusal::Overloaded);
            return Some(Status::Overloaded);
        }
        registry.served.insert(self.id, handle);
        registry.callers.insert(caller, of_caller + 1);
        shared.metrics.here(registry.strangers.len(), registry.served.len());
        drop(registry);
        self.caller = Some(caller);
        Some(Status::Ready)
    }

    async fn connection<R, W>(mut self, read: R, write: W, phases: watch::Receiver<Phase>)
    where
        R: AsyncRead + Unpin + Send,
        W: AsyncWrite + Unpin + Send,
    {
        // [KMS-12]
        let greeted = timeout(self.shared.limits.hello, Box::pin(self.greet(read, write, &phases))).await;
        let (mut connection, status) = match greeted {
            Ok(Ok(Some(begun))) => begun,
            Ok(_) => return self.shared.metrics.refused(Refusal::Hello),
            Err(_) => return self.shared.metrics.refused(Refusal::Late),
        };
        if status == Status::Ready {
            connection.serve(&self.shared, phases).await;
        } else {
            connection.close().await;
        }
    }

    /// Greets, and takes the first message: who it is, and to whom answers are sealed. `None` for who is not known here.
    async fn greet<R, W>(
        &mut self,
        read: R,
        mut write: W,
        phases: &watch::Receiver<Phase>,
    ) -> Result<Option<(Connection<R, W>, Status)>, CodecError>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let shared = self.shared.clone();
        let ServerLimits { times, renewals, hello: time, .. } = shared.limits;
        // [KMS-1]
        let greeting: [u8; GREETING_LEN] = Entropy::default().array().map_err(io::Error::other)?;
        write.write_all(&greeting).await?;
        let binding = shared.public.binding(&greeting);
        let channel = ChannelOpener::new(shared.opener.clone(), Role::Acceptor, &binding).first_at_most(HELLO_MAX);
        let channel = channel.budgets(Budgets { envelopes: renewals, ..Budgets::default() }).wiping();
        let mut requests = OpenedStream::new(channel, read).times(Times { header: Some(time), ..times });
        let first = requests.next().await.ok_or(OpenError::ChannelTruncated { delivered: 0 })??;
        // [KMS-3] [KMS-4]
        let Some(caller) = verified(&first).filter(|caller| shared.handler.knows(caller)) else { return Ok(None) };
        let Ok(hello) = Hello::decode(&first.payload, shared.public.recipient.kem()) else { return Ok(None) };
        let Some(status) = self.status(&hello, caller, phases) else { return Ok(None) };
        let mac = requests.channel().first_header_mac().ok_or(OpenError::Failed)?;
        let answers = shared.answers(hello, &reply_binding(mac, &binding), write)?;
        let mut connection = Connection { requests, answers, caller, waiting: Waiting::default() };
        // [KMS-7]
        connection.answers.send(Welcome { version: PROTOCOL_VERSION, status }.encode()).await?;
        Ok(Some((connection, status)))
    }

    fn status(&mut self, hello: &Hello, caller: VerifyingKey, phases: &watch::Receiver<Phase>) -> Option<Status> {
        // [KMS-7]
        if hello.version != PROTOCOL_VERSION {
            return Some(Status::Version);
        }
        if *phases.borrow() == Phase::Finishing {
            return Some(Status::Stopping);
        }
        self.admit(caller)
    }
}

impl Shared {
    /// Seals answers to the recipient of hello, in the server's name. [KMS-6]
    fn answers<W: AsyncWrite + Unpin>(&self, hello: Hello, binding: &[u8], write: W) -> Result<SealedSink<W>, CodecError> {
        let suite = suite(hello.reply_to.kem());
        let sealer = Sealer::builder().to(hello.reply_to).suite(suite).sign_with(self.signer.clone());
        let sealer = sealer.limits(limits(ANSWER_MAX)).reuse(self.limits.reuse).build()?;
        Ok(SealedSink::new(ChannelSealer::new(sealer, Role::Acceptor, binding), write).times(self.limits.times))
    }
}

/// A connection that has begun well.
struct Connection<R, W> {
    requests: OpenedStream<R>,
    answers: SealedSink<W>,
    caller: VerifyingKey,
    waiting: Waiting,
}

/// Answers that have not left.
#[derive(Default)]
struct Waiting {
    answers: Vec<Answered>,
    bytes: usize,
}

impl Waiting {
    fn push(&mut self, answered: Answered) {
        self.bytes += answered.answer.len();
        self.answers.push(answered);
    }

    fn is_full(&self) -> bool {
        self.answers.len() >= TURN || self.bytes >= TURN_BYTES
    }
}

/// What comes next on a connection.
enum Next {
    Request(Bytes),
    /// None is there now.
    Later,
    /// The client has said its last, or is silent, or the server is being stopped.
    Nothing,
    Wrong,
}

/// Why requests are no longer taken.
enum End {
    /// The client has said its last, or we have: what was answered is sent, and both channels are closed.
    Orderly,
    /// Something was wrong.
    Cut,
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Connection<R, W> {
    async fn serve(&mut self, shared: &Shared, mut phases: watch::Receiver<Phase>) {
        let Ok(end) = self.answer_all(shared, &mut phases).await else { return };
        // What was answered before is the client's, whatever came after it.
        match (self.send_answers(shared).await, end) {
            (Ok(()), End::Orderly) => self.close().await,
            (Ok(()), End::Cut) | (Err(_), _) => {}
        }
    }

    /// Answers requests in their order, until there are to be no more. [KMS-10]
    async fn answer_all(&mut self, shared: &Shared, phases: &mut watch::Receiver<Phase>) -> Result<End, CodecError> {
        let mut stopping = pin!(phases.wait_for(|phase| *phase == Phase::Finishing).map(|_| ()).fuse());
        loop {
            if self.waiting.is_full() {
                self.send_answers(shared).await?;
                tokio::task::yield_now().await;
                // A server that is being stopped takes no more of those who never pause.
                if (&mut stopping).now_or_never().is_some() {
                    return Ok(End::Orderly);
                }
            }
            match poll_fn(|cx| self.poll_next(stopping.as_mut(), cx)).await {
                Next::Request(request) => {
                    if !self.answer(shared, request).await? {
                        return Ok(End::Cut);
                    }
                }
                Next::Later => self.send_answers(shared).await?,
                Next::Nothing => return Ok(End::Orderly),
                Next::Wrong => return Ok(End::Cut),
            }
        }
    }

    /// The next request. It is waited for when nothing else is to be done, and not while the server is being stopped.
    fn poll_next(&mut self, stopping: Pin<&mut impl Future<Output = ()>>, cx: &mut Context<'_>) -> Poll<Next> {
        match self.requests.poll_next_unpin(cx) {
            Poll::Ready(None | Some(Err(CodecError::TimedOut(TimedOut::Idle)))) => Poll::Ready(Next::Nothing),
            Poll::Ready(Some(Err(_))) => Poll::Ready(Next::Wrong),
            Poll::Ready(Some(Ok(opened))) => Poll::Ready(Next::Request(opened.payload)),
            Poll::Pending if !self.waiting.answers.is_empty() => Poll::Ready(Next::Later),
            Poll::Pending => stopping.poll(cx).map(|()| Next::Nothing),
        }
    }

    /// Answers one request; tells whether it and its answer were of a size that there can be.
    async fn answer(&mut self, shared: &Shared, request: Bytes) -> Result<bool, CodecError> {
        // [KMS-9]
        if request.is_empty() || request.len() > shared.limits.request {
            return Ok(false);
        }
        shared.metrics.asked();
        let answered = if shared.handler.may_block(&request) {
            // What was answered before does not wait for it.
            self.send_answers(shared).await?;
            let (handler, caller) = (shared.handler.clone(), self.caller);
            tokio::task::spawn_blocking(move || handler.serve(&caller, request)).await.map_err(io::Error::other)?
        } else {
            shared.handler.serve(&self.caller, request)
        };
        if answered.answer.len() > ANSWER_MAX {
            return Ok(false);
        }
        self.waiting.push(answered);
        Ok(true)
    }

    /// Settles and sends what was answered, and waits until the client takes it. [KMS-14]
    async fn send_answers(&mut self, shared: &Shared) -> Result<(), CodecError> {
        self.waiting.bytes = 0;
        for answered in self.waiting.answers.drain(..) {
            self.answers.ready().await?;
            self.answers.push(shared.handler.settle(answered))?;
        }
        SinkExt::<Bytes>::flush(&mut self.answers).await
    }

    /// Sends the last message; then waits until the client is through, for what is unread here when a connection is closed takes with it
    /// what is unread there. [KMS-11]
    async fn close(&mut self) {
        if SinkExt::<Bytes>::close(&mut self.answers).await.is_ok() && !self.requests.is_closed() {
            let rest = async { while let Some(Ok(_)) = self.requests.next().await {} };
            let _ = timeout(LINGER, rest).await;
        }
    }
}
