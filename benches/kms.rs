//! What a key service's connections cost beside the Diffie-Hellman that a request is about: requests a second over loopback against bare
//! Diffie-Hellmans on the same core, and how long requests take at half that load. With `--check` a number past its bound fails.
//!
//! The server is another process. With `taskset` it has one core and the clients the other; what is compared is processor time, so that what
//! else the machine does takes little from the numbers.

use std::{
    hint::black_box,
    io::{BufRead, BufReader, Read, Write},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use sealwire::{
    Cmk, SenderKey, VerifyingKey,
    kms::{Client, Identity, Listener, Serve, Server, ServerLimits},
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
const ROUND: Duration = Duration::from_secs(2);
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

    fn serve(&self, _: &VerifyingKey, request: Bytes) -> Bytes {
        let shared = self.0.agree(request.first_chunk().unwrap());
        Bytes::copy_from_slice(&shared)
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

/// The server's process. Each line that it reads asks for its processor time and the bare rate since.
fn serve() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    println!("{}", listener.local_addr().unwrap());
    let server = Server::new(server_identity(), Arc::new(Handler(DhKey::generate())), ServerLimits::default());
    std::thread::spawn(|| {
        for line in std::io::stdin().lines() {
            match line.unwrap().as_str() {
                "time" => println!("{}", processor_time()),
                "rate" => println!("{}", bare_rate(Duration::from_millis(500))),
                "memory" => println!("{}", resident()),
                _ => break,
            }
        }
        std::process::exit(0);
    });
    runtime.block_on(server.run(vec![Listener::from(listener)], std::future::pending()));
}

/// Bytes of this process that are in memory.
fn resident() -> u64 {
    let mut status = String::new();
    std::fs::File::open("/proc/self/status").unwrap().read_to_string(&mut status).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
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

fn request() -> Bytes {
    let mut request = vec![9; REQUEST];
    request[..32].copy_from_slice(Cmk::from_x25519(&[5; 32]).recipient().as_x25519().unwrap());
    request.into()
}

fn clients(address: &str) -> Vec<Client> {
    let client = || Client::builder(server_identity().public(), me()).address(address).build().unwrap();
    (0..CLIENTS).map(|_| client()).collect()
}

/// Every client asks again as soon as it is answered; requests that were answered.
async fn as_fast_as_it_goes(clients: &[Client], time: Duration) -> u32 {
    let ended = Instant::now() + time;
    let each = clients.iter().cloned().map(|client| {
        tokio::spawn(async move {
            let (request, mut answered) = (request(), 0);
            while Instant::now() < ended {
                client.call(request.clone(), true).await.unwrap();
                answered += 1;
            }
            answered
        })
    });
    let mut all = 0;
    for one in each.collect::<Vec<_>>() {
        all += one.await.unwrap();
    }
    all
}

/// Clients ask so often together; how long each request took from when it was due, sorted.
async fn at_a_rate(clients: &[Client], rate: f64, time: Duration) -> Vec<Duration> {
    let apart = Duration::from_secs_f64(CLIENTS as f64 / rate);
    let began = Instant::now();
    let each = clients.iter().cloned().enumerate().map(|(i, client)| {
        tokio::spawn(async move {
            let (request, mut took) = (request(), Vec::new());
            let mut due = began + apart.mul_f64(i as f64 / CLIENTS as f64);
            while due < began + time {
                // A timer wakes all of a millisecond at once.
                while Instant::now() < due {
                    tokio::task::yield_now().await;
                }
                let asked = Instant::now();
                client.call(request.clone(), true).await.unwrap();
                took.push(asked.elapsed());
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
    let address = remote.line();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let clients = clients(&address);
        as_fast_as_it_goes(&clients, Duration::from_millis(500)).await;
        let mut shares = Vec::new();
        let mut fastest = 0.0f64;
        for _ in 0..5 {
            let bare = remote.ask("rate");
            let (before, began) = (remote.ask("time"), Instant::now());
            let answered = f64::from(as_fast_as_it_goes(&clients, ROUND).await);
            let (used, wall) = (remote.ask("time") - before, began.elapsed().as_secs_f64());
            shares.push(answered / used / bare);
            fastest = fastest.max(answered / wall);
            println!(
                "{:.0} requests a second, {:.0} a second of the server's processor time ({:.0} % of a core), {bare:.0} bare: {:.3}",
                answered / wall,
                answered / used,
                100.0 * used / wall,
                shares.last().unwrap(),
            );
        }
        shares.sort_by(f64::total_cmp);
        let share = shares[shares.len() / 2];
        let mut least = f64::MAX;
        for _ in 0..4 {
            let took = at_a_rate(&clients, fastest / 2.0, ROUND).await;
            let (half, most) = (took[took.len() / 2], took[took.len() * 99 / 100]);
            println!("at {:.0} a second: p50 {half:?}, p99 {most:?}: {:.2}", fastest / 2.0, most.as_secs_f64() / half.as_secs_f64());
            least = least.min(most.as_secs_f64() / half.as_secs_f64());
        }
        println!("share of bare Diffie-Hellmans {share:.3} (at least {SHARE}); p99 / p50 {least:.2} (at most {SPREAD})");
        share >= SHARE && least <= SPREAD
    })
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
