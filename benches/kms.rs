//! What a key service costs beside the Diffie-Hellman that a request is about: decrypt-data-key calls a second over loopback against bare
//! Diffie-Hellmans on the same core, and how long they take at half that load; the same for connections alone, where a request is answered
//! with one bare Diffie-Hellman. With `--check` a number past its bound fails.
//!
//! The server is another process: a store on the disk, a policy, an audit log. With `taskset` it has one core and the clients the other; what
//! is compared is processor time, so that what else the machine does takes little from the numbers.

use std::{
    hint::black_box,
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use sealwire::{
    Cmk, Kem, SenderKey, VerifyingKey,
    kms::{
        AccessPolicy, Answered, Client, Identity, KeyService, Listener, LocalService, Serve, Server, ServerLimits, WrappedDek,
        store::RootKey,
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Mutex,
    task::JoinHandle,
};

use bare::DhKey;

/// The Diffie-Hellman of this build's backend, and nothing else.
#[cfg(feature = "aws-lc")]
mod bare {
    use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};

    pub struct DhKey(PrivateKey);

    impl DhKey {
        pub fn generate() -> Self {
            Self(PrivateKey::generate(&X25519).unwrap())
        }

        pub fn agree(&self, public: &[u8; 32]) -> [u8; 32] {
            agree(&self.0, UnparsedPublicKey::new(&X25519, public), (), |shared| shared.try_into().map_err(|_| ())).unwrap()
        }
    }
}

/// The Diffie-Hellman of this build's backend, and nothing else.
#[cfg(not(feature = "aws-lc"))]
mod bare {
    use x25519_dalek::{PublicKey, StaticSecret};

    pub struct DhKey(StaticSecret);

    impl DhKey {
        pub fn generate() -> Self {
            Self(StaticSecret::from([7; 32]))
        }

        pub fn agree(&self, public: &[u8; 32]) -> [u8; 32] {
            self.0.diffie_hellman(&PublicKey::from(*public)).to_bytes()
        }
    }
}

/// The least share of bare Diffie-Hellmans that requests come to.
const SHARE: f64 = 0.7;
/// The most that the slowest hundredth takes of the median, at half the load.
const SPREAD: f64 = 3.0;
const CLIENTS: usize = 100;
const REQUEST: usize = 200;
const ROUND: Duration = Duration::from_millis(400);
const ROUNDS: usize = 15;
/// In so many slices of time requests come at half of the load.
const SLICES: usize = 400;
const SLICE: Duration = Duration::from_millis(50);
/// Calls that a client has under way where it has several.
const AT_ONCE: usize = 8;
/// Wrapped DEKs that each client asks for in turn.
const DEKS: usize = 8;
const ROLE: &str = "SEALWIRE_BENCH_KMS";

fn server_identity() -> Identity {
    Identity::new(Cmk::from_x25519(&[1; 32]), SenderKey::from_ed25519(&[2; 32]))
}

fn me() -> SenderKey {
    SenderKey::from_ed25519(&[3; 32])
}

/// One Diffie-Hellman a request.
struct Handler(DhKey);

impl Serve for Handler {
    fn knows(&self, caller: &VerifyingKey) -> bool {
        caller == me().verifying_key()
    }

    fn serve(&self, _: &VerifyingKey, request: Bytes) -> Answered {
        let shared = self.0.agree(request.first_chunk().unwrap());
        Bytes::copy_from_slice(&shared).into()
    }
}

/// Processor time of this process, in seconds.
fn processor_time() -> f64 {
    let used = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).unwrap();
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    seconds(used.user_time()) + seconds(used.system_time())
}

/// Bare Diffie-Hellmans a second of processor time.
fn bare_rate(time: Duration) -> f64 {
    let (key, public) = (DhKey::generate(), *Cmk::from_x25519(&[5; 32]).recipient().as_x25519().unwrap());
    let (began, used, mut done) = (Instant::now(), processor_time(), 0u32);
    while began.elapsed() < time {
        (0..100).for_each(|_| {
            black_box(key.agree(black_box(&public)));
        });
        done += 100;
    }
    f64::from(done) / (processor_time() - used)
}

/// A service over a store in this folder, with a CMK, for the clients.
fn service(folder: &std::path::Path) -> LocalService {
    let (root, _) = RootKey::generate("2026-01-01T00:00:00Z").unwrap();
    let service = LocalService::create(&folder.join("store"), &root).unwrap();
    let all = "allow = [{ verbs = [\"*\"], keys = [\"*\"] }]";
    let policy = format!("[[caller]]\nname = \"clients\"\nkey = \"{}\"\n{all}\n", me().verifying_key());
    service.set_policy(AccessPolicy::from_toml(&policy).unwrap());
    service
}

/// What no server that is asked so is faster than: for each request one read, one Diffie-Hellman, one write, and nothing else.
async fn plain_server(listener: TcpListener) {
    let key = Arc::new(DhKey::generate());
    while let Ok((mut socket, _)) = listener.accept().await {
        socket.set_nodelay(true).unwrap();
        let key = key.clone();
        tokio::spawn(async move {
            let mut message = [9; REQUEST];
            while socket.read_exact(&mut message).await.is_ok() {
                let shared = key.agree(message.first_chunk().unwrap());
                message[..32].copy_from_slice(&shared);
                socket.write_all(&message).await.unwrap();
            }
        });
    }
}

/// What all of them did, together.
async fn sum(each: Vec<JoinHandle<usize>>) -> usize {
    let mut all = 0;
    for one in each {
        all += one.await.unwrap();
    }
    all
}

/// Its clients.
async fn plain_clients(sockets: &[Arc<Mutex<TcpStream>>], time: Duration) -> usize {
    let ended = Instant::now() + time;
    let each = sockets.iter().map(|socket| {
        let socket = socket.clone();
        tokio::spawn(async move {
            let (mut socket, mut message, mut answered) = (socket.lock().await, request(), 0);
            while Instant::now() < ended {
                socket.write_all(&request()).await.unwrap();
                socket.read_exact(&mut message).await.unwrap();
                answered += 1;
            }
            answered
        })
    });
    sum(each.collect()).await
}

/// The server's process. Each line that it reads asks for its processor time and the bare rate since.
fn serve() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let service = Arc::new(service(folder.path()));
    let handlers: [(&str, Arc<dyn Serve>); 2] = [("bare", Arc::new(Handler(DhKey::generate()))), ("service", service.clone())];
    for (name, handler) in handlers {
        let path = folder.path().join(name);
        let (tcp, unix) = runtime.block_on(async {
            (TcpListener::bind("127.0.0.1:0").await.unwrap(), tokio::net::UnixListener::bind(&path).unwrap())
        });
        println!("{}\nunix:{}", tcp.local_addr().unwrap(), path.display());
        let server = Server::new(server_identity(), handler, ServerLimits::default());
        runtime.spawn(server.run(vec![Listener::from(tcp), Listener::from(unix)], std::future::pending()));
    }
    let plain = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    println!("{}", plain.local_addr().unwrap());
    runtime.spawn(plain_server(plain));
    // As the program does.
    runtime.spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let service = service.clone();
            tokio::task::spawn_blocking(move || service.tend().unwrap()).await.unwrap();
        }
    });
    for line in std::io::stdin().lines() {
        match line.unwrap().as_str() {
            "time" => println!("{}", processor_time()),
            "rate" => println!("{}", bare_rate(Duration::from_millis(150))),
            _ => break,
        }
    }
    std::process::exit(0);
}

struct Remote {
    child: Child,
    answers: BufReader<std::process::ChildStdout>,
}

impl Remote {
    fn ask(&mut self, what: &str) -> f64 {
        writeln!(self.child.stdin.as_mut().unwrap(), "{what}").unwrap();
        self.line().parse().unwrap()
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// This program again, in another part, on a core of its own where that can be had.
fn again(role: &str, core: usize) -> Command {
    let program = std::env::current_exe().unwrap();
    let pinned = Command::new("taskset").args(["-c", &core.to_string(), "true"]).status().is_ok_and(|status| status.success());
    let mut command = if pinned { Command::new("taskset") } else { Command::new(&program) };
    if pinned {
        command.args(["-c", &core.to_string()]).arg(&program);
    }
    command.args(std::env::args().skip(1)).env(ROLE, role);
    command
}

fn request() -> Vec<u8> {
    let mut request = vec![9; REQUEST];
    request[..32].copy_from_slice(Cmk::from_x25519(&[5; 32]).recipient().as_x25519().unwrap());
    request
}

/// What the clients of a server ask for.
enum Asked {
    /// One bare Diffie-Hellman.
    Bare,
    /// decrypt_data_key, in turn of DEKs of which no two are the same.
    DataKeys(Vec<Vec<u8>>),
}

impl Asked {
    async fn data_keys(client: &Client) -> Self {
        let key = client.create_key(Kem::X25519, None).await.unwrap().id.into();
        let mut wrapped = Vec::new();
        for _ in 0..CLIENTS * DEKS {
            wrapped.push(client.generate_data_key(&key, false).await.unwrap().ciphertext);
        }
        Self::DataKeys(wrapped)
    }

    /// The `n`th request of the `i`th client, answered.
    async fn ask(&self, client: &Client, i: usize, n: usize) {
        match self {
            Self::Bare => {
                assert_eq!(client.call(request().into(), true).await.unwrap().len(), 32);
            }
            Self::DataKeys(wrapped) => {
                let block = wrapped[i * DEKS + n % DEKS].clone();
                black_box(client.decrypt_data_key(WrappedDek::Block(block)).await.unwrap());
            }
        }
    }
}

/// Who asks what, and how many requests each has under way.
struct Load<'a> {
    clients: &'a [Client],
    asked: &'a Arc<Asked>,
    at_once: usize,
}

fn clients(address: &str) -> Vec<Client> {
    let client = || Client::builder(server_identity().public(), me()).address(address).build().unwrap();
    (0..CLIENTS).map(|_| client()).collect()
}

/// Every client asks again as soon as it is answered, so many times at once; requests that were answered.
async fn as_fast_as_it_goes(load: &Load<'_>, time: Duration) -> usize {
    let ended = Instant::now() + time;
    let each = load.clients.iter().cloned().enumerate().flat_map(|(i, client)| {
        (0..load.at_once).map(move |first| (i, first, client.clone())).map(|(i, first, client)| {
            let asked = load.asked.clone();
            tokio::spawn(async move {
                let mut answered = 0;
                while Instant::now() < ended {
                    asked.ask(&client, i, first + answered).await;
                    answered += 1;
                }
                answered
            })
        })
    });
    sum(each.collect()).await
}

/// Clients ask so often together; how long each request took from when it was due, sorted.
async fn at_a_rate(clients: &[Client], asked: &Arc<Asked>, rate: f64, time: Duration) -> Vec<Duration> {
    let apart = Duration::from_secs_f64(CLIENTS as f64 / rate);
    let began = Instant::now();
    let each = clients.iter().cloned().enumerate().map(|(i, client)| {
        let asked = asked.clone();
        tokio::spawn(async move {
            let mut took = Vec::new();
            let mut due = began + apart.mul_f64(i as f64 / CLIENTS as f64);
            while due < began + time {
                // A timer wakes all of a millisecond at once.
                while Instant::now() < due {
                    tokio::task::yield_now().await;
                }
                asked.ask(&client, i, took.len()).await;
                took.push(due.elapsed());
                due += apart;
            }
            took
        })
    });
    let mut all = Vec::new();
    for one in each.collect::<Vec<_>>() {
        all.extend(one.await.unwrap());
    }
    all.sort();
    all
}

fn ask() -> bool {
    let mut child = again("server", 0).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let answers = BufReader::new(child.stdout.take().unwrap());
    let mut remote = Remote { child, answers };
    let [bare_tcp, bare_unix, tcp, unix, plain] = [(); 5].map(|()| remote.line());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut sockets = Vec::new();
        for _ in 0..CLIENTS {
            let socket = TcpStream::connect(&plain).await.unwrap();
            socket.set_nodelay(true).unwrap();
            sockets.push(Arc::new(Mutex::new(socket)));
        }
        let (share, _) = shares(&mut remote, async |time| plain_clients(&sockets, time).await).await;
        println!("a read, a Diffie-Hellman and a write, over TCP: {share:.3} of the bare Diffie-Hellmans");
        let bare = Arc::new(Asked::Bare);
        for (on, address) in [("a Unix socket", bare_unix), ("TCP", bare_tcp)] {
            let load = Load { clients: &clients(&address), asked: &bare, at_once: 1 };
            let (share, _) = shares(&mut remote, async |time| as_fast_as_it_goes(&load, time).await).await;
            println!("connections alone, over {on}: {share:.3} of the bare Diffie-Hellmans");
        }
        let data_keys = Arc::new(Asked::data_keys(&clients(&tcp)[0]).await);
        let (mut most, mut alone) = (0.0f64, 0.0);
        for (on, address) in [("a Unix socket", unix), ("TCP", tcp.clone())] {
            let clients = clients(&address);
            for at_once in [1, AT_ONCE] {
                let load = Load { clients: &clients, asked: &data_keys, at_once };
                let (share, rate) = shares(&mut remote, async |time| as_fast_as_it_goes(&load, time).await).await;
                println!(
                    "decrypt-data-key, over {on}, {at_once} calls of a client at once: {share:.3} of the bare Diffie-Hellmans"
                );
                most = share;
                if at_once == 1 {
                    alone = rate;
                }
            }
        }
        println!("at least {SHARE} are wanted with {AT_ONCE} calls at once: a client that waits for each costs a send and a receive for each");
        let id = remote.child.id();
        match spread(id, &clients(&tcp), &data_keys, alone / 2.0).await {
            Some(spread) => {
                println!("at half of that: p99 / p50 {spread:.2} (at most {SPREAD})");
                most >= SHARE && spread <= SPREAD
            }
            None => {
                println!("p99 / p50 was NOT measured: the machine was not ours for long enough");
                false
            }
        }
    })
}

/// What requests come to beside bare Diffie-Hellmans, in the median of some rounds; and requests a second, in the fastest.
async fn shares(remote: &mut Remote, load: impl AsyncFn(Duration) -> usize) -> (f64, f64) {
    load(ROUND).await;
    let (mut shares, mut fastest) = (Vec::new(), 0.0f64);
    for _ in 0..ROUNDS {
        let bare = remote.ask("rate");
        let (before, began) = (remote.ask("time"), Instant::now());
        let answered = load(ROUND).await as f64;
        let (used, wall) = (remote.ask("time") - before, began.elapsed().as_secs_f64());
        let bare = f64::midpoint(bare, remote.ask("rate"));
        let (rate, share) = (answered / used, answered / used / bare);
        println!("{:.0} a second, {:.0} % of a core: {rate:.0} of {bare:.0}: {share:.3}", answered / wall, 100.0 * used / wall);
        shares.push(share);
        fastest = fastest.max(answered / wall);
    }
    shares.sort_by(f64::total_cmp);
    (shares[shares.len() / 2], fastest)
}

/// The slowest hundredth beside the median, at so many requests a second, in those slices of time in which nothing else had a processor
/// of ours. `None` where those were too few to tell.
async fn spread(server: u32, clients: &[Client], asked: &Arc<Asked>, rate: f64) -> Option<f64> {
    let (mut took, mut undisturbed) = (Vec::new(), 0);
    for _ in 0..SLICES {
        let before = disturbances(server);
        let slice = at_a_rate(clients, asked, rate, SLICE).await;
        if disturbances(server) == before {
            took.extend(slice);
            undisturbed += 1;
        }
    }
    took.sort();
    let (half, most) = (took.get(took.len() / 2)?, took.get(took.len() * 99 / 100)?);
    println!(
        "at {rate:.0} a second: p50 {half:?}, p99 {most:?} of {} calls, {undisturbed} of {SLICES} slices undisturbed",
        took.len()
    );
    (undisturbed >= SLICES / 20).then(|| most.as_secs_f64() / half.as_secs_f64())
}

/// How often the server's threads or ours had to leave their processor to others, and for how many hundredths of a second the machine's
/// host took a processor.
fn disturbances(server: u32) -> u64 {
    let tasks = [server, std::process::id()].into_iter().flat_map(|id| std::fs::read_dir(format!("/proc/{id}/task")).unwrap());
    let status = tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("status")).ok());
    let switches = status.filter_map(|status| {
        status.lines().find_map(|line| line.strip_prefix("nonvoluntary_ctxt_switches:"))?.trim().parse::<u64>().ok()
    });
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let stolen = stat.lines().next().and_then(|all| all.split_whitespace().nth(8)?.parse::<u64>().ok());
    switches.sum::<u64>() + stolen.unwrap_or(0)
}

fn main() {
    if std::env::args().any(|arg| arg == "--list") {
        return;
    }
    match std::env::var(ROLE).as_deref() {
        Ok("server") => serve(),
        Ok("clients") => {
            let holds = ask();
            let checks = std::env::args().any(|arg| arg == "--check");
            std::process::exit(i32::from(checks && !holds));
        }
        _ => {
            let status = again("clients", 1).status().unwrap();
            std::process::exit(status.code().unwrap_or(1));
        }
    }
}
