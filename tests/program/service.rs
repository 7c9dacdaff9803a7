//! A key service as processes: a store, servers, callers, and what stands between a caller and a server.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        mpsc::{self, Receiver},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use sealwire::{
    SenderKey,
    keys::sender_key_from_key_file,
    kms::{Client, PublicIdentity, store::RootKey},
};
use serde_json::Value;

use super::program::{PROGRAM, Place, Ran};

/// How long anything may take that ought to happen at once.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How the store of a place is named.
pub const STORE: [&str; 4] = ["--store", "keys", "--root-key-file", "root.key"];

/// What is named of the server in `open`, as in the other commands.
pub const CALLER: [&str; 4] = ["--server-identity", "server.pub", "--as", "admin.key"];

/// A place with a store `keys` under `root.key`, a server's identity, and two callers.
pub struct Service {
    pub place: Place,
    pub admin: String,
    pub orders: String,
}

impl Service {
    pub fn new() -> Self {
        let place = Place::new();
        place.keygen("root.key");
        let sender = |name: &str| place.run(["keygen", "--sender", "-o", name], b"").line();
        let (admin, orders) = (sender("admin.key"), sender("orders.key"));
        let identity = place.run(["kms", "identity", "-o", "server.identity"], b"");
        assert_eq!(identity.code, 0, "{}", identity.err);
        place.write("server.pub", &identity.out);
        let made = place.run([&["kms", "init"], &STORE[..]].concat(), b"");
        assert!(made.code == 0 && made.err.starts_with("store: keys "), "{}", made.err);
        let service = Self { place, admin, orders };
        service.policy("policy.toml", "", &[r#"{ verbs = ["*"], keys = ["orders"] }"#]);
        service
    }

    /// A policy: `admin` may do everything, unless `of_admin` says otherwise, and `orders` what is listed.
    pub fn policy(&self, name: &str, of_admin: &str, of_orders: &[&str]) {
        let (admin, orders, allow) = (&self.admin, &self.orders, of_orders.join(", "));
        let text = format!(
            "[[caller]]\nname = \"admin\"\nkey = \"{admin}\"\n{of_admin}\nallow = [{{ verbs = [\"*\"], keys = [\"*\"] }}]\n\
             [[caller]]\nname = \"orders\"\nkey = \"{orders}\"\nallow = [{allow}]\n"
        );
        self.place.write(name, text.as_bytes());
    }

    /// A verb, asked of the store.
    pub fn kms(&self, verb: &str, args: &[&str]) -> Ran {
        self.kms_with(verb, args, b"")
    }

    pub fn kms_with(&self, verb: &str, args: &[&str], input: &[u8]) -> Ran {
        self.place.run([&["kms", verb], &STORE[..], args].concat(), input)
    }

    /// The same, which works, in words for machines.
    pub fn json(&self, verb: &str, args: &[&str]) -> Value {
        json(&self.kms(verb, &[&["--json"], args].concat()).silent())
    }

    pub fn create(&self, alias: &str) -> Value {
        self.json("create-key", &["--alias", alias])
    }

    /// What senders seal to.
    pub fn recipient(&self, key: &str) -> String {
        self.kms("get-public-key", &[key]).silent().line()
    }

    pub fn seal(&self, key: &str, payload: &[u8]) -> Vec<u8> {
        self.place.run(["seal", "-r", &self.recipient(key)], payload).silent().out
    }

    pub fn serve(&self) -> Served {
        self.serve_with(&["--on", "127.0.0.1:0"])
    }

    pub fn serve_with(&self, more: &[&str]) -> Served {
        self.serve_on("keys", more)
    }

    pub fn serve_on(&self, store: &str, more: &[&str]) -> Served {
        let command = self.place.command(serving(store).iter().chain(more));
        Served::start(command).unwrap_or_else(|said| panic!("{said}"))
    }

    /// The options for asking servers as a caller.
    pub fn ask<'a>(servers: &[&'a str], caller: &'a str) -> Vec<&'a str> {
        let servers = servers.iter().flat_map(|address| ["--server", address]);
        servers.chain(["--server-identity", "server.pub", "--as", caller]).collect()
    }

    /// A verb, asked of a server.
    pub fn at(&self, served: &str, caller: &str, verb: &str, args: &[&str]) -> Ran {
        self.at_with(served, caller, verb, args, b"")
    }

    pub fn at_with(&self, served: &str, caller: &str, verb: &str, args: &[&str], input: &[u8]) -> Ran {
        self.place.run([&["kms", verb], &Self::ask(&[served], caller)[..], args].concat(), input)
    }

    pub fn root(&self) -> RootKey {
        RootKey::from_key_file(&self.text("root.key")).unwrap()
    }

    pub fn text(&self, name: &str) -> String {
        String::from_utf8(self.place.read(name)).unwrap()
    }

    /// The client of the library, with `admin`'s key.
    pub fn client(&self, addresses: &[&str]) -> Client {
        let public: PublicIdentity = self.text("server.pub").parse().unwrap();
        let me: SenderKey = sender_key_from_key_file(&self.text("admin.key")).unwrap();
        addresses.iter().fold(Client::builder(public, me), |builder, address| builder.address(address)).build().unwrap()
    }

    /// How many lines the audit log has, which is verified.
    pub fn audit_lines(&self) -> u64 {
        self.json("audit", &[])["lines"].as_u64().unwrap()
    }

    /// The lines of the audit log as objects.
    pub fn audit(&self) -> Vec<Value> {
        let printed = self.kms("audit", &["--print", "--json"]).silent();
        printed
            .out
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect()
    }

    /// What bash makes of a script, in which `sealwire` is the program.
    pub fn shell(&self, script: &str) -> Ran {
        let mut command = Command::new("setsid");
        command.args(["--wait", "bash", "-c", &script.replace("sealwire ", &format!("{PROGRAM} "))]);
        Ran::of(command.current_dir(self.place.path(".")).stdin(Stdio::null()).output().unwrap())
    }

    /// Bytes of a store's files, by name; the lock has none.
    pub fn files(&self, store: &str) -> Vec<(String, Vec<u8>)> {
        self.place.names(store).into_iter().map(|name| (name.clone(), self.place.read(&format!("{store}/{name}")))).collect()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.place.path(name)
    }
}

fn serving(store: &str) -> [&str; 10] {
    ["kms", "serve", "--store", store, "--root-key-file", "root.key", "--identity", "server.identity", "--policy", "policy.toml"]
}

pub fn json(ran: &Ran) -> Value {
    serde_json::from_slice(&ran.out).unwrap_or_else(|_| panic!("{ran:?}"))
}

/// A server as a process; killed when dropped.
pub struct Served {
    pub child: Child,
    pub address: String,
    lines: Receiver<String>,
    said: Vec<String>,
}

impl Served {
    /// Starts it; gives what it said where it ended instead.
    pub fn start(mut command: Command) -> Result<Self, String> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        let said = BufReader::new(child.stderr.take().unwrap());
        let (says, lines) = mpsc::channel();
        thread::spawn(move || said.lines().map_while(Result::ok).try_for_each(|line| says.send(line)));
        let mut served = Self { child, address: String::new(), lines, said: Vec::new() };
        match served.says("listening") {
            Some(line) => served.address = address(&line),
            None => return Err(served.said.join("\n")),
        }
        Ok(served)
    }

    /// Waits for a line with this in it.
    pub fn says(&mut self, wanted: &str) -> Option<String> {
        let until = Instant::now() + PATIENCE;
        while let Ok(line) = self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
            self.said.push(line.clone());
            if line.contains(wanted) {
                return Some(line);
            }
        }
        None
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Ends it in good order; tells its exit code, and all that it said.
    pub fn stop(self) -> (i32, String) {
        self.signal(Signal::TERM);
        self.ends()
    }

    /// Waits until it has ended; tells the same.
    pub fn ends(mut self) -> (i32, String) {
        let code = self.child.wait().unwrap().code().unwrap_or(-1);
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            self.said.push(line);
        }
        (code, self.said.join("\n"))
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// The address in what a server says when it is there, to people or to machines.
fn address(line: &str) -> String {
    match line.strip_prefix("listening on ") {
        Some(address) => address.to_owned(),
        None => serde_json::from_str::<Value>(line).unwrap()["address"].as_str().unwrap().to_owned(),
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a caller has said on one connection, and what it was told.
type Conversation = Arc<Mutex<(Vec<u8>, Vec<u8>)>>;

/// Stands between callers and a server, and keeps all that passes.
pub struct Proxy {
    pub address: String,
    pub conversations: Arc<Mutex<Vec<Conversation>>>,
}

impl Proxy {
    pub fn to(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, server) = (listener.local_addr().unwrap().to_string(), server.to_owned());
        let conversations: Arc<Mutex<Vec<Conversation>>> = Arc::default();
        let all = conversations.clone();
        thread::spawn(move || {
            for caller in listener.incoming().map_while(Result::ok) {
                let conversation = Conversation::default();
                all.lock().unwrap().push(conversation.clone());
                let Ok(server) = TcpStream::connect(&server) else { continue };
                let (from, to) = (caller.try_clone().unwrap(), server.try_clone().unwrap());
                let kept = conversation.clone();
                thread::spawn(move || pass_on(from, to, |bytes| kept.lock().unwrap().0.extend(bytes)));
                thread::spawn(move || pass_on(server, caller, |bytes| conversation.lock().unwrap().1.extend(bytes)));
            }
        });
        Self { address, conversations }
    }

    /// All bytes that passed, both ways.
    pub fn bytes(&self) -> usize {
        self.conversations().iter().map(|(up, down)| up.len() + down.len()).sum()
    }

    pub fn conversations(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.conversations.lock().unwrap().iter().map(|one| one.lock().unwrap().clone()).collect()
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, keep: impl Fn(&[u8])) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        keep(&buffer[..n]);
        if to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// Every spelling in which a secret might be written somewhere.
pub struct Spellings(Vec<Vec<u8>>);

impl Spellings {
    pub fn of(secret: &[u8]) -> Self {
        let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut all = vec![secret.to_vec(), hex.to_uppercase().into_bytes(), hex.into_bytes()];
        for (alphabet, before) in [(STANDARD, 0), (STANDARD, 1), (STANDARD, 2), (URL, 0), (URL, 1), (URL, 2)] {
            all.push(base64(alphabet, before, secret));
        }
        // As a debugging print of a list of numbers.
        all.push(secret[..8].iter().map(|byte| format!("{byte}")).collect::<Vec<_>>().join(", ").into_bytes());
        Self(all)
    }

    pub fn and(mut self, text: &str) -> Self {
        self.0.push(text.as_bytes().to_vec());
        self
    }

    pub fn are_in(&self, haystack: &[u8]) -> bool {
        self.0.iter().any(|needle| haystack.windows(needle.len()).any(|window| window == needle))
    }
}

const STANDARD: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// The characters of a Base64 text that come of these bytes alone, with so many others before them.
fn base64(alphabet: &[u8; 64], before: usize, bytes: &[u8]) -> Vec<u8> {
    let bits: Vec<u8> = bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)).collect();
    let skipped = (6 - before * 8 % 6) % 6;
    bits[skipped..].chunks_exact(6).map(|six| alphabet[usize::from(six.iter().fold(0, |sum, bit| sum << 1 | bit))]).collect()
}

/// Waits until something holds.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "{what} does not come about");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A line of `/proc/PID/status`.
pub fn status(pid: u32, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    text.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim_start_matches(':').trim().to_owned()
}
