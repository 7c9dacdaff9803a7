//! What a key service and its callers have in memory, looked at from outside while they run: a client has no CMK, and nobody has a DEK or a
//! secret that he has let go of.
#![cfg(target_os = "linux")]

use std::{
    env, fs,
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use base64ct::{Base64, Encoding};
use libtest_mimic::{Arguments, Trial};
use program::{Place, memory::times_in};
use sealwire::{
    Cmk, Dek, SenderKey,
    keys::sender_key_from_key_file,
    kms::{Client, KeyRef, KeyService, PublicIdentity, WrappedDek, store::Store},
};
use serde_json::Value;
use service::{Served, Service, eventually, json};
use zeroize::Zeroizing;

mod program;
#[allow(dead_code, reason = "the tests of the program use all of it")]
#[path = "program/service.rs"]
mod service;

/// Names the server to which the client that this program is then speaks.
const CLIENT: &str = "SEALWIRE_CLIENT_OF";
/// Data keys that the client asks for, of each CMK.
const DATA_KEYS: usize = 24;
const KEYS: [&str; 2] = ["orders", "orders-pq"];

fn main() {
    if let Ok(server) = env::var(CLIENT) {
        return be_a_client(&server);
    }
    let all = [
        trial("a_client_has_no_cmk_and_nothing_that_it_let_go_of", may_look_at_a_child(), look_at_a_client),
        trial("a_server_has_nothing_that_it_has_answered", may_look_at_a_server(), look_at_a_server),
    ];
    libtest_mimic::run(&Arguments::from_args(), all.into()).exit();
}

fn trial(name: &'static str, is_let: bool, look: fn()) -> Trial {
    if !is_let {
        eprintln!("SKIPPED: {name}: the system lets nobody look into the memory of this process");
    }
    let look = move || {
        look();
        Ok(())
    };
    Trial::test(name, look).with_ignored_flag(!is_let)
}

fn may_look_at_a_child() -> bool {
    let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    let is_let = times_in(child.id(), &[b"sealwire".to_vec()]).is_ok();
    drop(child.stdin.take());
    child.wait().unwrap();
    is_let
}

/// A server is a process that may not be dumped: root can look into it, where nothing is hardened further.
fn may_look_at_a_server() -> bool {
    let service = Service::new();
    times_in(service.serve().child.id(), &[b"sealwire".to_vec()]).is_ok()
}

// The client.

/// Asks for data keys, has them decrypted, decrypts a secret, and says when it holds all that it was given, and when it has let go of it.
fn be_a_client(server: &str) {
    let public: PublicIdentity = fs::read_to_string("server.pub").unwrap().parse().unwrap();
    let me: SenderKey = sender_key_from_key_file(&fs::read_to_string("admin.key").unwrap()).unwrap();
    let client = Client::builder(public, me).address(server).build().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let held = runtime.block_on(ask(&client));
    waits("holds");
    drop(held);
    waits("has let go");
    drop((client, runtime));
}

fn waits(says: &str) {
    println!("{says}");
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

async fn ask(client: &Client) -> (Vec<Dek>, Vec<Zeroizing<Vec<u8>>>) {
    let (mut deks, mut secrets) = (Vec::new(), Vec::new());
    let ciphertext = fs::read("secret").unwrap();
    for alias in KEYS {
        let key: KeyRef = alias.parse().unwrap();
        // At once: answers are joined on their way.
        let all = (0..DATA_KEYS).map(|i| one(client, &key, format!("dek.{alias}.{i}"), i % 2 == 0));
        deks.extend(futures_util::future::join_all(all).await);
        secrets.push(client.decrypt(&ciphertext, b"c").await.unwrap());
    }
    (deks, secrets)
}

/// A DEK that was made here, or one that was unwrapped here; its ciphertext goes into a file.
async fn one(client: &Client, key: &KeyRef, name: String, with_plaintext: bool) -> Dek {
    let pair = client.generate_data_key(key, with_plaintext).await.unwrap();
    fs::write(name, &pair.ciphertext).unwrap();
    let unwrapped = client.decrypt_data_key(WrappedDek::Block(pair.ciphertext)).await.unwrap();
    pair.plaintext.unwrap_or(unwrapped.dek)
}

struct Asking {
    child: Child,
    input: ChildStdin,
    says: BufReader<ChildStdout>,
}

impl Asking {
    fn start(place: &Place, server: &str) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command.current_dir(place.path(".")).env(CLIENT, server).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (input, says) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, input, says }
    }

    fn waits_for(&mut self, word: &str) {
        let mut line = String::new();
        self.says.read_line(&mut line).unwrap();
        assert_eq!(line.trim(), word);
    }

    fn goes_on(&mut self) {
        writeln!(self.input).unwrap();
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// Who looks.

/// A service with CMKs, one that is served, and a client that holds what it was given.
struct Scene {
    service: Service,
    served: Served,
    client: Asking,
    /// Secret halves.
    cmks: Vec<Vec<u8>>,
    /// DEKs, and a secret that was encrypted directly.
    secrets: Vec<Vec<u8>>,
}

impl Scene {
    fn begin() -> Self {
        let service = Service::new();
        service.create(KEYS[0]);
        service.json("create-key", &["--alias", KEYS[1], "--pq"]);
        let direct = unusual();
        let encrypted = service.kms_with("encrypt", &["--context", "c", KEYS[0]], &direct).silent();
        service.place.write("secret", &encrypted.out);
        let cmks = cmks(&service);
        let served = service.serve_with(&["--json", "--on", "127.0.0.1:0"]);
        let mut client = Asking::start(&service.place, &served.address);
        client.waits_for("holds");
        let secrets = deks(&service, &served).into_iter().chain([direct]).collect();
        Self { service, served, client, cmks, secrets }
    }
}

fn look_at_a_client() {
    let Scene { served: _served, mut client, cmks, secrets, service } = Scene::begin();
    let pid = client.child.id();
    assert_eq!(times_in(pid, &cmks).unwrap(), [0, 0], "a CMK in the memory of a client");
    let held = times_in(pid, &secrets).unwrap();
    assert!(held.iter().all(|times| *times >= 1), "what the client holds is found: {held:?}");
    client.goes_on();
    client.waits_for("has let go");
    assert_eq!(times_in(pid, &secrets).unwrap(), vec![0; secrets.len()], "what the client has let go of");
    assert_eq!(times_in(pid, &cmks).unwrap(), [0, 0], "a CMK in the memory of a client");
    drop(service);
}

/// That the server's own are found shows that it was looked at.
fn look_at_a_server() {
    let Scene { service, served, client, cmks, secrets } = Scene::begin();
    let pid = served.child.id();
    let used = times_in(pid, &cmks).unwrap();
    assert!(used.iter().all(|times| *times >= 1), "the server uses its CMKs: {used:?}");
    eventually("a server without what it has answered", || times_in(pid, &secrets).unwrap().iter().all(|times| *times == 0));
    drop(client);
    nothing_is_written(&service, served, &[cmks, secrets].concat());
}

/// 32 bytes that stand nowhere by accident.
fn unusual() -> Vec<u8> {
    let cmk = Cmk::generate().unwrap();
    cmk.recipient().public_key().to_vec()
}

/// The secret halves in a store, by the order of [`KEYS`].
fn cmks(service: &Service) -> Vec<Vec<u8>> {
    let (_, state) = Store::open(&service.path("keys"), &service.root()).unwrap();
    let recipients = KEYS.map(|key| service.recipient(key));
    let windows = || state.windows(32).map(|window| <[u8; 32]>::try_from(window).unwrap());
    let of = |cmk: fn(&[u8; 32]) -> Cmk, text: &str| {
        windows().find(|secret| cmk(secret).recipient().to_string() == text).unwrap().to_vec()
    };
    vec![of(Cmk::from_x25519, &recipients[0]), of(Cmk::from_xwing, &recipients[1])]
}

/// The DEKs of the client, which the server unwraps for somebody else.
fn deks(service: &Service, served: &Served) -> Vec<Vec<u8>> {
    let names = KEYS.iter().flat_map(|key| (0..DATA_KEYS).map(move |i| format!("dek.{key}.{i}")));
    let unwrap = |name: String| {
        let pair = json(&service.at(&served.address, "admin.key", "decrypt-data-key", &["--json", &name]).silent());
        Base64::decode_vec(pair["plaintext"].as_str().unwrap()).unwrap()
    };
    names.map(unwrap).collect()
}

/// In the store, its log, and what the server has said.
fn nothing_is_written(service: &Service, served: Served, secrets: &[Vec<u8>]) {
    let mut written = service.files("keys");
    let (code, said) = served.stop();
    assert_eq!(code, 0, "{said}");
    written.push(("what it says".into(), said.into_bytes()));
    written.push(("audit".into(), service.kms("audit", &["--print"]).silent().out));
    for (i, secret) in secrets.iter().enumerate() {
        let spellings = service::Spellings::of(secret);
        written.iter().for_each(|(name, bytes)| assert!(!spellings.are_in(bytes), "secret {i} is in {name}"));
    }
    let lines = service.audit().into_iter().filter(|line: &Value| line["action"] == "decrypt-data-key").count();
    assert_eq!(lines, 2 * KEYS.len() * DATA_KEYS, "each was asked for, twice");
}
