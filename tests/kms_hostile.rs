//! What many connections cost a key service, and what those that do nothing, or hardly anything, cost the others. The server is another process
//! on real sockets, and its memory is what the system says. `SEALWIRE_IDLE` connections are silent, `SEALWIRE_PEERS` are slow.

use std::{
    io::{BufRead, BufReader, Read, Write},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use futures_util::future::join_all;
use sealwire::{
    ChannelSealer, Cmk, Role, Sealer, SenderKey, VerifyingKey,
    connection::Times,
    kms::{Answered, Client, ClientLimits, Identity, Listener, PublicIdentity, Serve, Server, ServerLimits},
};
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::sleep,
};

/// What this process is, where it is not the test.
const ROLE: &str = "SEALWIRE_KMS_HOSTILE";
/// Bytes of a server's memory for each connection that is silent, at the most.
const IDLE_MAX: u64 = 24 * 1024;
/// How long a slow peer is waited for.
const PATIENCE: Duration = Duration::from_secs(8);

fn identity() -> Identity {
    Identity::new(Cmk::from_x25519(&[1; 32]), SenderKey::from_ed25519(&[2; 32]))
}

fn me() -> SenderKey {
    SenderKey::from_ed25519(&[3; 32])
}

struct Echo;

impl Serve for Echo {
    fn knows(&self, caller: &VerifyingKey) -> bool {
        caller == me().verifying_key()
    }

    fn serve(&self, _: &VerifyingKey, request: Bytes) -> Answered {
        request.into()
    }
}

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

/// Bytes of this process that are in memory.
fn resident() -> u64 {
    let mut status = String::new();
    std::fs::File::open("/proc/self/status").unwrap().read_to_string(&mut status).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// The server's process: tells its address, and its memory for each line that it reads.
fn serve() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let listener = runtime.block_on(Listener::tcp("127.0.0.1:0")).unwrap();
    let Listener::Tcp(socket) = &listener else { panic!("it is TCP") };
    println!("{}", socket.local_addr().unwrap());
    let times = Times { part: Some(PATIENCE), ..Times::default() };
    let limits =
        ServerLimits { strangers: 1 << 16, connections: 1 << 16, connections_of_caller: 1 << 16, ..ServerLimits::default() };
    let limits = ServerLimits { times, hello: PATIENCE, ..limits };
    let server = Server::new(identity(), Arc::new(Echo), limits);
    std::thread::spawn(|| {
        std::io::stdin().lines().map_while(Result::ok).for_each(|_| println!("{}", resident()));
        std::process::exit(0);
    });
    runtime.block_on(server.run(vec![listener], std::future::pending()));
}

struct Remote {
    child: Child,
    answers: BufReader<std::process::ChildStdout>,
    address: String,
}

impl Remote {
    fn start() -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let command = command.env(ROLE, "server").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        let mut remote = Self { child, answers, address: String::new() };
        remote.address = remote.line();
        remote
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    fn memory(&mut self) -> u64 {
        writeln!(self.child.stdin.as_mut().unwrap()).unwrap();
        self.line().parse().unwrap()
    }

    fn client(&self) -> Client {
        let patient = Duration::from_secs(60);
        let limits = ClientLimits { connect: patient, silence: patient, call: patient, ..ClientLimits::default() };
        Client::builder(identity().public(), me()).address(&self.address).limits(limits).build().unwrap()
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

const REQUEST: Bytes = Bytes::from_static(&[7; 200]);

/// Connections that were used once and are silent.
fn idle_connections_hold_little() {
    let connections = number("SEALWIRE_IDLE", 500);
    let mut server = Remote::start();
    runtime().block_on(async {
        let mut clients = Vec::new();
        // What the first ones cost is the process's own.
        join_all((0..8).map(|_| async { server.client().call(REQUEST, true).await.unwrap() })).await;
        sleep(Duration::from_millis(200)).await;
        let before = server.memory();
        while clients.len() < connections {
            let some: Vec<_> = (0..50).map(|_| server.client()).collect();
            join_all(some.iter().map(|client| async { assert_eq!(client.call(REQUEST, true).await.unwrap(), REQUEST) })).await;
            clients.extend(some);
        }
        sleep(Duration::from_millis(500)).await;
        let each = server.memory().saturating_sub(before) / clients.len() as u64;
        println!("{each} bytes of the server's memory for each of {} silent connections", clients.len());
        assert!(each <= IDLE_MAX, "{each}");
        assert_eq!(clients[0].call(REQUEST, true).await.unwrap(), REQUEST, "the first one is served yet");
    });
}

fn binding(greeting: &[u8; 32], server: &PublicIdentity) -> Vec<u8> {
    let kem = server.recipient.kem().id().to_be_bytes();
    let parts = [&b"sealwire v1 kms"[..], &kem, server.recipient.public_key(), server.sender.as_bytes()].concat();
    [&greeting[..], &Sha256::digest(parts)].concat()
}

/// A peer who is slow: a stranger in his first block, or a caller in a request after hello. Gives what he sends byte for byte.
async fn slow_peer(address: &str, is_stranger: bool) -> (TcpStream, BytesMut) {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let mut greeting = [0; 32];
    socket.read_exact(&mut greeting).await.unwrap();
    let server = identity().public();
    let sealer = Sealer::builder().to(server.recipient.clone()).sign_with(me()).build().unwrap();
    let mut channel = ChannelSealer::new(sealer, Role::Initiator, &binding(&greeting, &server));
    let (mut first, mut rest) = (BytesMut::new(), BytesMut::new());
    let reply_to = Cmk::generate().unwrap();
    let hello = [&[1, 0, 0x20][..], reply_to.recipient().public_key()].concat();
    channel.seal(b"", &hello, &mut first).unwrap();
    if is_stranger {
        return (socket, first);
    }
    channel.seal(b"", &[7; 150_000], &mut rest).unwrap();
    socket.write_all(&first).await.unwrap();
    assert!(socket.read(&mut [0; 4096]).await.unwrap() > 0, "he is welcomed");
    (socket, rest)
}

/// Requests that a healthy client gets answered in this time.
async fn healthy(client: &Client, time: Duration) -> u64 {
    let (began, mut answered) = (Instant::now(), 0);
    while began.elapsed() < time {
        join_all((0..100).map(|_| async { client.call(REQUEST, true).await.unwrap() })).await;
        answered += 100;
    }
    answered
}

/// Peers that send a byte a second: others keep their rate, and all of the slow ones are closed in time. What else the machine does comes and
/// goes, so a rate that is too low is measured again.
fn slow_peers_cost_others_little() {
    let peers = number("SEALWIRE_PEERS", 400);
    let rate = (0..4).map(|_| rate_among_slow_peers(peers)).find(|rate| *rate >= 0.9);
    assert!(rate.is_some(), "others were slowed down four times");
}

fn rate_among_slow_peers(peers: usize) -> f64 {
    let mut server = Remote::start();
    runtime().block_on(async {
        let (client, time) = (server.client(), Duration::from_millis(1500));
        healthy(&client, time).await;
        let alone = healthy(&client, time).await.max(healthy(&client, time).await);
        let before = server.memory();
        let address = server.address.clone();
        let mut slow = Vec::new();
        for i in 0..peers {
            slow.push(slow_peer(&address, i % 2 == 0).await);
        }
        // In a thread of their own: what they do costs the client nothing.
        let trickling = std::thread::spawn(move || runtime().block_on(trickle(slow)));
        sleep(Duration::from_millis(1100)).await;
        let among = healthy(&client, time).await.max(healthy(&client, time).await);
        let held = server.memory().saturating_sub(before) / peers as u64;
        let share = among as f64 / alone as f64;
        println!("{among} answers among {peers} slow peers, {alone} alone: {share:.3}; {held} bytes for each of them");
        let (closed, longest) = trickling.join().unwrap();
        assert_eq!(closed, peers, "all are closed");
        assert!(longest < PATIENCE * 2 + Duration::from_secs(5), "{longest:?}");
        share
    })
}

/// A byte a second from everyone, until they are closed; how many were, and when the last.
async fn trickle(mut peers: Vec<(TcpStream, BytesMut)>) -> (usize, Duration) {
    let (began, mut closed) = (Instant::now(), 0);
    for at in 0..40 {
        let mut open = Vec::new();
        for (mut socket, bytes) in peers {
            let goes_on = socket.write_all(&bytes[at..=at]).await.is_ok();
            if goes_on && socket.try_read(&mut [0; 64]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock) {
                open.push((socket, bytes));
            } else {
                closed += 1;
            }
        }
        peers = open;
        if peers.is_empty() {
            break;
        }
        sleep(Duration::from_secs(1)).await;
    }
    (closed, began.elapsed())
}

fn main() {
    if std::env::args().any(|arg| arg == "--list") {
        return;
    }
    if std::env::var_os(ROLE).is_some() {
        return serve();
    }
    if !cfg!(target_os = "linux") {
        return println!("the system does not tell what a process holds");
    }
    for (name, run) in [
        ("idle_connections_hold_little", idle_connections_hold_little as fn()),
        ("slow_peers_cost_others_little", slow_peers_cost_others_little),
    ] {
        let began = Instant::now();
        run();
        println!("test {name} ... ok, {:.1} s", began.elapsed().as_secs_f64());
    }
}
