//! What a key service costs for each GiB, by how it is used: time, requests and bytes, over loopback, with a store on the disk.
//!
//! `cargo run --release --example kms_cost --features kms,aws-lc [MiB]` prints the table of docs/performance/kms.md.

use std::{
    env,
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use sealwire::{
    Kem, Keyring, KmsKey, Opener, Policy, Recipient, Reuse, Sealer, SenderKey, Suite,
    keys::VerifyingKey,
    kms::{
        AccessPolicy, Answered, Client, Identity, KeyRef, KeyService, KmsError, Listener, LocalService, PROVIDER, Resolver,
        SECRET_MAX, Serve, Server, ServerLimits, data_key, store::RootKey,
    },
};
use tokio::net::{TcpListener, TcpStream};

type Outcome<T> = Result<T, Box<dyn Error>>;

const MIB: usize = 1 << 20;
const CALLERS: usize = 64;
/// MiB whose bytes on the connection are counted, apart from what is timed: the counter stands in the way.
const COUNTED: usize = 16;
const PERIOD: Reuse = Reuse { messages: 1 << 20, bytes: 1 << 31, age: Duration::from_secs(3600) };

#[derive(Clone, Copy, PartialEq)]
enum Way {
    Direct { callers: usize },
    DataKey,
    PublicKey,
}

impl Way {
    const ALL: [Self; 4] = [Self::Direct { callers: 1 }, Self::Direct { callers: CALLERS }, Self::DataKey, Self::PublicKey];

    fn name(self) -> String {
        match self {
            Self::Direct { callers: 1 } => "directly under the CMK, 4,096 bytes at a time, one request after the other".into(),
            Self::Direct { callers } => format!("the same, {callers} requests at a time"),
            Self::DataKey => "one data key of the service, messages of 1 MiB".into(),
            Self::PublicKey => "to the CMK's public half, messages of 1 MiB".into(),
        }
    }
}

/// One direction of a way.
#[derive(Clone, Copy, Default)]
struct Cost {
    time: Duration,
    calls: u64,
    up: u64,
    down: u64,
}

/// A service that counts what it is asked.
struct Counted {
    service: LocalService,
    calls: AtomicU64,
}

impl Serve for Counted {
    fn knows(&self, caller: &VerifyingKey) -> bool {
        self.service.knows(caller)
    }

    fn serve(&self, caller: &VerifyingKey, request: Bytes) -> Answered {
        self.calls.fetch_add(1, Relaxed);
        self.service.serve(caller, request)
    }

    fn settle(&self, answered: Answered) -> Bytes {
        self.service.settle(answered)
    }

    fn may_block(&self, request: &[u8]) -> bool {
        self.service.may_block(request)
    }
}

/// Bytes that went through a proxy.
#[derive(Default)]
struct Wire {
    up: AtomicU64,
    down: AtomicU64,
}

/// What is measured from outside.
#[derive(Clone)]
struct Meter {
    service: Arc<Counted>,
    wire: Arc<Wire>,
}

impl Meter {
    fn now(&self) -> (Instant, [u64; 3]) {
        (Instant::now(), [&self.service.calls, &self.wire.up, &self.wire.down].map(|counter| counter.load(Relaxed)))
    }

    fn add(&self, cost: &mut Cost, (since, [calls, up, down]): (Instant, [u64; 3])) {
        let (now, [calls_now, up_now, down_now]) = self.now();
        cost.time += now - since;
        cost.calls += calls_now - calls;
        cost.up += up_now - up;
        cost.down += down_now - down;
    }
}

async fn proxy(listener: TcpListener, to: String, wire: Arc<Wire>) {
    while let Ok((near, _)) = listener.accept().await {
        let Ok(far) = TcpStream::connect(&to).await else { continue };
        let _ = (near.set_nodelay(true), far.set_nodelay(true));
        let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
        for (from, to, up) in [(near_in, far_out, true), (far_in, near_out, false)] {
            tokio::spawn(pass(from, to, wire.clone(), up));
        }
    }
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    wire: Arc<Wire>,
    up: bool,
) -> std::io::Result<()> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        if up { &wire.up } else { &wire.down }.fetch_add(read as u64, Relaxed);
        to.write_all(&buffer[..read]).await?;
    }
}

/// Both directions of a way, for some MiB.
async fn measure(way: Way, mib: usize, client: &Arc<Client>, key: &KeyRef, meter: &Meter) -> Outcome<[Cost; 2]> {
    match way {
        Way::Direct { callers } => direct(callers, mib, client, key, meter).await,
        Way::DataKey | Way::PublicKey => envelopes(way, mib, client, key, meter).await,
    }
}

async fn direct(callers: usize, mib: usize, client: &Arc<Client>, key: &KeyRef, meter: &Meter) -> Outcome<[Cost; 2]> {
    let piece = [7; SECRET_MAX];
    let [mut there, mut back] = [Cost::default(); 2];
    for _ in 0..mib {
        let begun = meter.now();
        let encrypted = stream::iter(0..MIB / SECRET_MAX).map(|_| client.encrypt(key, &piece, b""));
        let ciphertexts: Vec<_> = encrypted.buffer_unordered(callers).try_collect().await?;
        meter.add(&mut there, begun);
        let begun = meter.now();
        let decrypted = stream::iter(&ciphertexts).map(|ciphertext| client.decrypt(ciphertext, b"")).buffer_unordered(callers);
        let right =
            decrypted.try_fold(0, |right, secret| async move { Ok::<_, KmsError>(right + usize::from(secret[..] == piece)) });
        assert_eq!(right.await?, MIB / SECRET_MAX);
        meter.add(&mut back, begun);
    }
    Ok([there, back])
}

async fn envelopes(way: Way, mib: usize, client: &Arc<Client>, key: &KeyRef, meter: &Meter) -> Outcome<[Cost; 2]> {
    let [mut there, mut back] = [Cost::default(); 2];
    // What a sender has been given once, as a line of text.
    let recipient: Recipient = client.get_public_key(key).await?.recipient;
    let id = client.describe_key(key).await?.id.to_string();
    let policy = Policy { kms_keys: vec![KmsKey::new(PROVIDER, &id)], ..Policy::default() };
    let resolver = Resolver::new(Opener::builder(Keyring::new()).policy(policy).build(), client.clone());
    let payload = vec![7; MIB];

    let begun = meter.now();
    let builder = Sealer::builder().suite(Suite::fastest()).reuse(PERIOD);
    let mut sealer = match way {
        Way::DataKey => builder.data_key(data_key(&**client, PROVIDER, key).await?).build()?,
        _ => builder.to(recipient).build()?,
    };
    meter.add(&mut there, begun);
    for _ in 0..mib {
        let begun = meter.now();
        let envelope = sealer.seal(b"", &payload)?;
        meter.add(&mut there, begun);
        let begun = meter.now();
        assert_eq!(resolver.open(&envelope).await?.payload.len(), MIB);
        meter.add(&mut back, begun);
    }
    Ok([there, back])
}

/// A client whose connection has begun: that is in no line of the table.
async fn connected(address: &str, identity: &Identity, me: &Arc<SenderKey>, key: &KeyRef) -> Outcome<Arc<Client>> {
    let client = Client::builder(identity.public(), me.clone()).address(address).build()?;
    client.describe_key(key).await?;
    Ok(Arc::new(client))
}

fn row(way: Way, verb: &str, timed: Cost, counted: Cost, mib: usize) -> String {
    let per_gib = |n: u64, of: usize| n * 1024 / of as u64;
    // A data key is one however much is sealed under it.
    let bytes = |n| if matches!(way, Way::Direct { .. }) { per_gib(n, COUNTED) } else { n };
    let calls = if matches!(way, Way::Direct { .. }) { per_gib(timed.calls, mib) } else { timed.calls };
    let seconds = timed.time.as_secs_f64() * 1024.0 / mib as f64;
    format!(
        "| {} | {verb} | {seconds:.2} s | {} | {} | {} |",
        way.name(),
        thousands(calls),
        thousands(bytes(counted.up)),
        thousands(bytes(counted.down))
    )
}

fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    groups.join(",")
}

/// The table's rows, which are printed as they come.
pub async fn run(mib: usize) -> Outcome<Vec<String>> {
    let folder = tempfile::tempdir()?;
    let (root, _) = RootKey::generate("2026-01-01T00:00:00Z")?;
    let service = LocalService::create(&folder.path().join("keys"), &root)?;
    let key: KeyRef = service.create_key(Kem::X25519, Some("orders".parse()?)).await?.id.into();
    let me = Arc::new(SenderKey::generate()?);
    let all =
        format!("[[caller]]\nname = \"me\"\nkey = \"{}\"\nallow = [{{ verbs = [\"*\"], keys = [\"*\"] }}]", me.verifying_key());
    service.set_policy(AccessPolicy::from_toml(&all)?);
    let service = Arc::new(Counted { service, calls: AtomicU64::new(0) });
    let meter = Meter { service: service.clone(), wire: Arc::default() };

    let identity = Identity::generate()?;
    let near = TcpListener::bind("127.0.0.1:0").await?;
    let (near_address, counting) = (near.local_addr()?.to_string(), TcpListener::bind("127.0.0.1:0").await?);
    let counting_address = counting.local_addr()?.to_string();
    let server = Server::new(Identity::from_text(&identity.to_text(""))?, service.clone(), ServerLimits::default());
    tokio::spawn(server.run(vec![Listener::Tcp(near)], std::future::pending()));
    tokio::spawn(proxy(counting, near_address.clone(), meter.wire.clone()));
    // As the program does: the log is made durable each second.
    std::thread::spawn(move || {
        while service.service.tend().is_ok() {
            std::thread::sleep(Duration::from_secs(1));
        }
    });

    println!("| for each GiB | | time | requests | bytes to the service | bytes from it |\n|---|---|--:|--:|--:|--:|");
    let mut rows = Vec::new();
    for way in Way::ALL {
        let client = connected(&counting_address, &identity, &me, &key).await?;
        let counted = measure(way, COUNTED, &client, &key, &meter).await?;
        let client = connected(&near_address, &identity, &me, &key).await?;
        let timed = measure(way, mib, &client, &key, &meter).await?;
        for (verb, timed, counted) in [("encrypt", timed[0], counted[0]), ("decrypt", timed[1], counted[1])] {
            rows.push(row(way, verb, timed, counted, mib));
            println!("{}", rows[rows.len() - 1]);
        }
    }
    Ok(rows)
}

pub fn main() -> Outcome<()> {
    let mib = env::args().nth(1).map_or(Ok(1024), |text| text.parse())?;
    if mib == 0 {
        return Err("at least one MiB".into());
    }
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run(mib))?;
    Ok(())
}
