//! `send` and `listen` as processes, on real sockets, with kills in the middle and hostile peers.
#![cfg(unix)]

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    thread,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use program::{Listener, Place, Ran};
use sealwire::{
    ChannelOpener, ChannelSealer, Cmk, Keyring, Opener, Role, Sealer, reply_binding,
    transfer::{Answer, Request},
};

mod program;

/// A sender made of the library: says what no honest one would.
struct Peer {
    socket: TcpStream,
    channel: ChannelSealer,
    answers: Option<ChannelOpener>,
    greeting: [u8; 32],
    reply: Option<Cmk>,
    received: BytesMut,
}

impl Peer {
    fn connect(place: &Place, address: &str) -> Self {
        let mut socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut greeting = [0; 32];
        socket.read_exact(&mut greeting).unwrap();
        let sealer = Sealer::builder().to(place.recipient.parse().unwrap()).build().unwrap();
        let channel = ChannelSealer::new(sealer, Role::Initiator, &greeting);
        Self { socket, channel, answers: None, greeting, reply: Some(Cmk::generate().unwrap()), received: BytesMut::new() }
    }

    fn say(&mut self, request: &Request) {
        let mut out = BytesMut::new();
        self.channel.seal(b"", &request.encode(), &mut out).unwrap();
        // A listener that has refused may be gone already.
        let _ = self.socket.write_all(&out);
    }

    fn hello(&mut self) {
        let reply = self.reply.take().unwrap();
        self.say(&Request::Hello { reply_to: reply.recipient().clone() });
        let binding = reply_binding(self.channel.first_header_mac().unwrap(), &self.greeting);
        self.answers = Some(ChannelOpener::new(Opener::new(Keyring::from(reply)), Role::Initiator, &binding));
    }

    fn file(&mut self, name: &str, content: &[u8]) {
        self.say(&Request::File { name: name.into(), content: Bytes::copy_from_slice(content) });
    }

    /// The next answer; `None` at the end of the connection.
    fn answer(&mut self) -> Option<Answer> {
        loop {
            if let Some(opened) = self.answers.as_mut().unwrap().next(&mut self.received).unwrap() {
                return Some(Answer::decode(opened.payload).unwrap());
            }
            let mut chunk = [0; 4096];
            match self.socket.read(&mut chunk) {
                Ok(0) | Err(_) => return None,
                Ok(n) => self.received.extend_from_slice(&chunk[..n]),
            }
        }
    }

    fn end(&mut self) {
        let mut out = BytesMut::new();
        self.channel.finish(&mut out).unwrap();
        self.socket.write_all(&out).unwrap();
        self.socket.shutdown(std::net::Shutdown::Write).unwrap();
    }
}

fn number(value: &serde_json::Value, name: &str) -> u64 {
    value[name].as_u64().unwrap()
}

fn json(ran: &Ran) -> serde_json::Value {
    serde_json::from_slice(&ran.out).unwrap()
}

fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix("kB").unwrap().trim().parse::<u64>().unwrap() * 1024
}

const MIB64: u64 = 64 << 20;

#[test]
fn files_arrive_as_they_are() {
    let place = Place::new();
    fs::create_dir(place.path("out")).unwrap();
    let mut names = Vec::new();
    for (i, len) in [0, 1, 65_535, 65_536, 65_537, 200_000, 1 << 20].into_iter().enumerate() {
        let content: Vec<u8> = (0..len).map(|n| (n * 31 + i) as u8).collect();
        let name = format!("out/file {i}");
        place.write(&name, &content);
        names.push(name);
    }
    let listener = place.listen("in", &["--once"]);
    let args: Vec<&str> = ["--json", "--context", "backup"].into_iter().chain(names.iter().map(String::as_str)).collect();
    let sent = place.send(&listener.address, &args);
    assert_eq!((sent.code, &sent.err[..]), (0, ""));
    assert_eq!(listener.wait(), 0);
    assert_eq!(number(&json(&sent), "acknowledged"), 7);
    assert_eq!(number(&json(&sent), "bytes"), 1 + 65_535 + 65_536 + 65_537 + 200_000 + (1 << 20));
    assert!(number(&json(&sent), "peak_memory") < MIB64);
    assert_eq!(place.names("in").len(), 7);
    for name in &names {
        assert_eq!(place.read(name), place.read(&name.replace("out/", "in/")));
    }
}

#[test]
fn lines_arrive_in_order() {
    let place = Place::new();
    let text: String = (0..20_000).map(|i| format!("{i:064}\n")).collect::<String>() + "\n\nno newline at the end";
    place.write("log", text.as_bytes());
    let mut command = place.command(["listen", "--on", "127.0.0.1:0", "-k", "alice.key", "--out", "-", "--once"]);
    command.stdout(fs::File::create(place.path("received")).unwrap());
    let listener = Listener::start(command);
    let sent = place.send(&listener.address, &["--lines", "log"]);
    assert_eq!((sent.code, &sent.err[..]), (0, ""));
    assert_eq!(listener.wait(), 0);
    assert_eq!(place.read("received"), text.as_bytes());
    let listener = place.listen("in", &["--once"]);
    place.write("short", b"a\nb");
    assert_eq!(place.send(&listener.address, &["--lines", "short"]).code, 0);
    assert_eq!(listener.wait(), 0);
    assert_eq!(place.names("in"), ["line-000001", "line-000002"]);
}

/// Proves XFR-6, XFR-7: names lead nowhere, and nothing is overwritten.
#[test]
fn hostile_names_stay_in_the_folder() {
    let place = Place::new();
    fs::create_dir(place.path("in")).unwrap();
    place.write("in/there", b"before");
    place.write("outside", b"before");
    std::os::unix::fs::symlink("../outside", place.path("in/link")).unwrap();
    std::os::unix::fs::symlink("../nowhere", place.path("in/dangling")).unwrap();
    let mut listener = place.listen("in", &["--once"]);
    let mut peer = Peer::connect(&place, &listener.address);
    peer.hello();
    let names = [
        "../escaped",
        "/tmp/sealwire-escaped",
        "there",
        "there",
        "link",
        "dangling",
        "..",
        "a\u{1b}[31m\nb",
        "",
        ".sealwire-x.part",
    ];
    for name in names {
        peer.file(name, b"new");
    }
    peer.end();
    while let Some(answer) = peer.answer() {
        if answer == (Answer::Done { count: names.len() as u64 }) {
            break;
        }
    }
    assert!(listener.says().contains("10 messages"));
    assert_eq!(
        place.names("in"),
        [
            "a_[31m_b",
            "dangling",
            "dangling.2",
            "escaped",
            "link",
            "link.2",
            "sealwire-escaped",
            "sealwire-x.part",
            "there",
            "there.2",
            "there.3",
            "unnamed",
            "unnamed.2"
        ]
    );
    assert_eq!((place.read("in/there"), place.read("outside")), (b"before".to_vec(), b"before".to_vec()));
    assert!(!place.path("escaped").exists() && !place.path("nowhere").exists());
}

/// Proves XFR-1: another greeting for every connection, and a recorded connection delivers nothing.
#[test]
fn a_recorded_connection_is_worth_nothing() {
    let place = Place::new();
    let mut listener = place.listen("in", &[]);
    let mut peer = Peer::connect(&place, &listener.address);
    let mut recorded = BytesMut::new();
    let hello = Request::Hello { reply_to: peer.reply.as_ref().unwrap().recipient().clone() };
    let file = Request::File { name: "f".into(), content: Bytes::from_static(b"once") };
    peer.channel.seal(b"", &hello.encode(), &mut recorded).unwrap();
    peer.channel.seal(b"", &file.encode(), &mut recorded).unwrap();
    peer.channel.finish(&mut recorded).unwrap();
    peer.socket.write_all(&recorded).unwrap();
    peer.socket.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(listener.says().contains("1 messages"));
    for _ in 0..3 {
        let mut socket = TcpStream::connect(&listener.address).unwrap();
        let mut greeting = [0; 32];
        socket.read_exact(&mut greeting).unwrap();
        assert_ne!(greeting, peer.greeting);
        socket.write_all(&recorded).unwrap();
        assert!(listener.says().contains("refused: segment 0 is not authentic"));
    }
    assert_eq!(place.names("in"), ["f"]);
}

/// Proves XFR-2.
#[test]
fn hello_comes_first_and_once() {
    let place = Place::new();
    let mut listener = place.listen("in", &[]);
    let mut peer = Peer::connect(&place, &listener.address);
    peer.file("f", b"x");
    assert!(listener.says().contains("the first message does not say to whom answers go"));
    let mut peer = Peer::connect(&place, &listener.address);
    let twice = peer.reply.as_ref().unwrap().recipient().clone();
    peer.hello();
    peer.say(&Request::Hello { reply_to: twice });
    assert!(listener.says().contains("a second first message"));
    assert!(place.names("in").is_empty());
}

/// Proves XFR-3: whatever is acknowledged is there, whole, at that moment, also when the listener is killed in the next.
#[test]
fn acknowledged_means_on_the_disk() {
    for kill_after in [1u64, 3, 10] {
        let place = Place::new();
        let mut listener = place.listen("in", &[]);
        let mut peer = Peer::connect(&place, &listener.address);
        peer.hello();
        let mut acknowledged = 0;
        for i in 0..20u8 {
            peer.file(&format!("f{i:02}"), &vec![i; 300_000]);
        }
        while let Some(Answer::Done { count }) = peer.answer() {
            assert!(count > acknowledged);
            acknowledged = count;
            for i in 0..count {
                assert_eq!(place.read(&format!("in/f{i:02}")), vec![i as u8; 300_000]);
            }
            if count >= kill_after {
                listener.child.kill().unwrap();
            }
        }
        assert!(acknowledged >= kill_after);
        for name in place.names("in").iter().filter(|name| !name.starts_with('.')) {
            assert_eq!(place.read(&format!("in/{name}")).len(), 300_000, "{name} is half written");
        }
    }
}

/// A sender that is killed leaves whole files; a listener that is killed makes a sender that names the first loss.
#[test]
fn kills_in_the_middle() {
    let place = Place::new();
    fs::create_dir(place.path("out")).unwrap();
    let names: Vec<String> = (0..200).map(|i| format!("out/f{i:03}")).collect();
    for (i, name) in names.iter().enumerate() {
        place.write(name, &vec![i as u8; 100_000]);
    }
    for round in 0..3 {
        let folder = format!("in{round}");
        let listener = place.listen(&folder, &["--once"]);
        let args = ["send", "--to", &listener.address, "-r", &place.recipient];
        let mut sender = place.command(args.iter().map(|s| s.to_string()).chain(names.iter().cloned())).spawn().unwrap();
        while place.names(&folder).len() < 20 + 30 * round {
            thread::sleep(Duration::from_millis(1));
        }
        sender.kill().unwrap();
        sender.wait().unwrap();
        let code = listener.wait();
        assert!(code == 5 || code == 7, "truncated, or reset when unread answers were lost with it: {code}");
        let arrived = place.names(&folder);
        assert!(arrived.iter().all(|name| !name.starts_with('.')), "nothing half written is left: {arrived:?}");
        for name in &arrived {
            assert_eq!(place.read(&format!("{folder}/{name}")), place.read(&format!("out/{name}")));
        }
    }
    let mut listener = place.listen("in", &[]);
    let args = ["send", "--json", "--to", &listener.address, "-r", &place.recipient];
    let sender = place.command(args.iter().map(|s| s.to_string()).chain(names.iter().cloned())).spawn().unwrap();
    while place.names("in").len() < 30 {
        thread::sleep(Duration::from_millis(1));
    }
    listener.child.kill().unwrap();
    let ran = Ran::of(sender.wait_with_output().unwrap());
    let acknowledged = number(&json(&ran), "acknowledged");
    assert_ne!(ran.code, 0);
    assert!(ran.err.contains(&format!("out/f{acknowledged:03} was not acknowledged")), "{acknowledged}: {}", ran.err);
    for i in 0..acknowledged {
        assert_eq!(place.read(&format!("in/f{i:03}")), vec![i as u8; 100_000]);
    }
}

#[test]
fn what_cannot_be_sent_is_said_before_anything_is() {
    let place = Place::new();
    place.write("small", b"x");
    place.send("127.0.0.1:9", &["small", "missing"]).failed(7, "missing");
    place.send("127.0.0.1:9", &["."]).failed(2, "a folder");
    place.send("127.0.0.1:9", &["small"]).failed(7, "127.0.0.1:9");
}

/// Files of any size, in constant memory on both sides; whole ones are counted, not their pieces.
#[test]
fn files_of_any_size() {
    let place = Place::new();
    let sizes = [("empty", 0), ("piece", 256 << 10), ("more", (256 << 10) + 1), ("pieces", 512 << 10), ("large", 200 << 20)];
    for (name, size) in sizes {
        let mut file = fs::File::create(place.path(name)).unwrap();
        file.write_all(&b"start"[..size.min(5)]).unwrap();
        file.set_len(size as u64).unwrap();
    }
    let listener = place.listen("in", &["--once"]);
    let names = sizes.map(|(name, _)| name);
    let sent = place.send(&listener.address, &[&["--json"][..], &names].concat());
    assert_eq!(sent.code, 0, "{}", sent.err);
    let report = json(&sent);
    assert_eq!((number(&report, "messages"), number(&report, "acknowledged")), (5, 5));
    assert_eq!(number(&report, "bytes"), sizes.iter().map(|(_, size)| *size as u64).sum::<u64>());
    assert!(number(&report, "peak_memory") < 32 << 20, "{report}");
    for (name, _) in sizes {
        assert!(place.read(name) == place.read(&format!("in/{name}")), "{name}");
    }
    // Through pipes, from one standard stream to the other.
    let mut listener = place.listen("-", &["--once"]);
    let payload = vec![b'p'; 1 << 20];
    let mut out = listener.child.stdout.take().unwrap();
    let took = thread::spawn(move || {
        let mut took = Vec::new();
        out.read_to_end(&mut took).map(|_| took)
    });
    let args = ["send", "--to", &listener.address, "-r", &place.recipient, "-"];
    assert_eq!(place.run(args, &payload).code, 0);
    assert!(took.join().unwrap().unwrap() == payload);
}

#[test]
fn a_listener_that_cannot_open_or_store_is_noticed() {
    let place = Place::new();
    place.write("f", b"x");
    let stranger = place.keygen("bob.key");
    let listener = place.listen("in", &["--once"]);
    let sent = place.run(["send", "--to", &listener.address, "-r", &stranger, "f"], b"");
    sent.failed(5, "f was not acknowledged: the listener closed the connection; does it have the key?");
    assert_eq!(listener.wait(), 3);
    let mut command = place.command(["listen", "--on", "127.0.0.1:0", "-k", "alice.key", "--out", "-", "--once"]);
    command.stdout(fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    let listener = Listener::start(command);
    let sent = place.send(&listener.address, &["f"]);
    assert_ne!(sent.code, 0);
    assert!(sent.err.contains("f was not acknowledged"), "{}", sent.err);
    assert_eq!(listener.wait(), 7);
    let listener = place.listen("in", &["--once"]);
    fs::remove_dir_all(place.path("in")).unwrap();
    place.send(&listener.address, &["f"]).failed(7, "the listener refused it: storing");
    assert_eq!(listener.wait(), 7);
}

/// Proves LIM-1: a thousand peers that declare the most and say nothing hold next to nothing.
#[test]
fn a_thousand_silent_peers() {
    let place = Place::new();
    let listener = place.listen("in", &[]);
    let before = resident(listener.child.id());
    let declared = [&b"SWE\x01\x00\x02\x00\x00\x01\x01\x04\x00\x04"[..], &[0; 24]].concat();
    let peers: Vec<TcpStream> = (0..1000)
        .map(|_| {
            let mut socket = TcpStream::connect(&listener.address).unwrap();
            socket.write_all(&declared).unwrap();
            socket
        })
        .collect();
    // Each of them has been greeted, so each of them is being served.
    for mut peer in &peers {
        peer.read_exact(&mut [0; 32]).unwrap();
    }
    // And some that are in the middle of the largest message.
    let halves: Vec<Peer> = (0..20)
        .map(|_| {
            let mut peer = Peer::connect(&place, &listener.address);
            peer.hello();
            let mut out = BytesMut::new();
            peer.channel.seal(b"", &vec![0; 16 << 20], &mut out).unwrap();
            peer.socket.write_all(&out[..100]).unwrap();
            peer
        })
        .collect();
    thread::sleep(Duration::from_millis(500));
    let grown = resident(listener.child.id()).saturating_sub(before);
    assert!(grown < MIB64, "{grown}");
    place.write("f", b"healthy");
    assert_eq!(place.send(&listener.address, &["f"]).code, 0);
    drop((peers, halves));
}

/// Bytes one at a time are as good as all at once.
#[test]
fn a_slow_peer_is_served() {
    let place = Place::new();
    let mut listener = place.listen("in", &["--once"]);
    let mut peer = Peer::connect(&place, &listener.address);
    peer.socket.set_nodelay(true).unwrap();
    let mut out = BytesMut::new();
    let hello = Request::Hello { reply_to: peer.reply.as_ref().unwrap().recipient().clone() };
    peer.channel.seal(b"", &hello.encode(), &mut out).unwrap();
    peer.channel
        .seal(b"", &Request::File { name: "slow".into(), content: Bytes::from_static(b"but sure") }.encode(), &mut out)
        .unwrap();
    peer.channel.finish(&mut out).unwrap();
    for byte in &out {
        peer.socket.write_all(&[*byte]).unwrap();
    }
    peer.socket.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(listener.says().contains("1 messages"));
    assert_eq!(place.read("in/slow"), b"but sure");
}

/// What goes wrong on this side is told at once, and standard input is not waited for when nobody listens any more.
#[test]
fn failures_are_told_at_once() {
    let place = Place::new();
    place.write("f", b"x");
    place.write("long", &vec![b'x'; (16 << 20) + 1]);
    let mut listener = place.listen("in", &[]);
    let started = std::time::Instant::now();
    place.send(&listener.address, &["--lines", "f", "missing"]).failed(7, "missing");
    // A file that can be opened and not read.
    place
        .send(&listener.address, &["f", "/proc/self/mem"])
        .failed(7, "/proc/self/mem: reading")
        .failed(7, "1 messages before it were acknowledged");
    place.send(&listener.address, &["--lines", "f", "long"]).failed(6, "long");
    place.send(&listener.address, &["--context", &"c".repeat(8193), "f"]).failed(6, "context");
    assert!(started.elapsed().as_secs() < 30);
    let args = ["send", "--to", &listener.address, "-r", &place.recipient, "--lines", "-"];
    let mut sender = place.command(args).spawn().unwrap();
    let mut lines = sender.stdin.take().unwrap();
    lines.write_all(b"one\n").unwrap();
    while !place.path("in/line-000001.2").exists() {
        thread::sleep(Duration::from_millis(5));
    }
    listener.child.kill().unwrap();
    let ran = Ran::of(sender.wait_with_output().unwrap());
    assert_ne!(ran.code, 0);
    assert!(ran.err.contains("was not acknowledged") || ran.err.contains("the listener"), "{}", ran.err);
    drop(lines);
}

/// Closed or full outputs are errors, not panics.
#[test]
fn outputs_that_cannot_be_written() {
    let place = Place::new();
    place.write("f", b"x");
    let full = || fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let listener = place.listen("in", &["--once"]);
    for args in [
        &["recipient", "alice.key"][..],
        &["inspect", "f"],
        &["send", "--json", "--to", &listener.address, "-r", &place.recipient, "f"],
    ] {
        let child = place.command(args).stdout(full()).spawn().unwrap();
        let ran = Ran::of(child.wait_with_output().unwrap());
        assert!(ran.code == 7 || (args[0] == "inspect" && ran.code == 6), "{args:?}: {} {}", ran.code, ran.err);
    }
    let mut silent = place.command(["open", "-k", "nowhere"]);
    assert_eq!(silent.stderr(full()).spawn().unwrap().wait().unwrap().code(), Some(7));
}

/// With several listeners' keys only one of them has to be there.
#[test]
fn several_recipients() {
    let place = Place::new();
    let other = place.keygen("bob.key");
    place.write("f", b"x");
    let listener = place.listen("in", &["--once"]);
    assert_eq!(place.send(&listener.address, &["-r", &other, "f"]).code, 0);
    assert_eq!(listener.wait(), 0);
    assert_eq!(place.names("in"), ["f"]);
}

/// A listener that takes listed senders alone: theirs are stored, everyone else is refused before anything is.
#[test]
fn only_listed_senders_are_served() {
    let place = Place::new();
    let me = place.run(["keygen", "--sender", "-o", "me.key"], b"").line();
    place.run(["keygen", "--sender", "-o", "other.key"], b"");
    place.write("a", b"from me");
    let mut listener = place.listen("inbox", &["--from", &me]);
    let sent = place.send(&listener.address.clone(), &["--sign-with", "me.key", "a"]);
    assert_eq!(sent.code, 0, "{}", sent.err);
    assert!(listener.says().ends_with(&format!("from {me} (verified)")));
    for more in [&["--sign-with", "other.key", "a"][..], &["a"]] {
        let refused = place.send(&listener.address.clone(), more);
        assert_ne!(refused.code, 0);
        assert!(!refused.err.contains("sws1"), "a peer learns nothing of whom we know: {}", refused.err);
        let said = listener.says();
        assert!(said.contains("refused: it ") && said.contains("0 bytes released"), "{said}");
    }
    assert_eq!(place.names("inbox"), ["a"]);
    // One recipient of two could have made this connection, so it takes more than a name in the list.
    let bob = place.keygen("bob.key");
    let group = place.send(&listener.address.clone(), &["--sign-with", "me.key", "-r", &bob, "a"]);
    assert!(group.code != 0 && listener.says().contains("standing group"));
    let mut open = place.listen("inbox", &["--from", &me, "--accept", "group"]);
    assert_eq!(place.send(&open.address.clone(), &["--sign-with", "me.key", "-r", &bob, "a"]).code, 0);
    assert!(open.says().contains("1 message"));
}

fn signal(child: &std::process::Child) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
}

/// A listener that is told to end finishes the file that is under way, acknowledges it, tells the sender, and takes nothing more; one that is
/// told twice ends at once.
#[test]
fn a_listener_ends_gracefully() {
    let place = Place::new();
    let mut listener = place.listen("in", &[]);
    let mut idle = Peer::connect(&place, &listener.address);
    idle.hello();
    let mut busy = Peer::connect(&place, &listener.address);
    busy.hello();
    busy.say(&Request::Begin { name: "large".into() });
    busy.say(&Request::Piece { content: Bytes::from(vec![7; 256 << 10]) });
    thread::sleep(Duration::from_millis(300));
    signal(&listener.child);
    // Who has nothing under way is told at once.
    assert!(matches!(idle.answer(), Some(Answer::Refused { count: 0, reason }) if reason == "the listener is being stopped"));
    assert!(idle.answer().is_none());
    assert!(TcpStream::connect(&listener.address).is_err(), "nobody new is taken");
    busy.say(&Request::Piece { content: Bytes::from(vec![8; 1000]) });
    busy.say(&Request::End { size: (256 << 10) + 1000 });
    busy.file("more", b"is not taken");
    assert!(matches!(busy.answer(), Some(Answer::Done { count: 1 })));
    assert!(matches!(busy.answer(), Some(Answer::Refused { count: 1, .. })));
    assert_eq!(listener.child.wait().unwrap().code(), Some(0));
    assert_eq!(place.names("in"), ["large"]);
    assert_eq!(place.read("in/large").len(), (256 << 10) + 1000);

    let mut listener = place.listen("in2", &[]);
    let mut stuck = Peer::connect(&place, &listener.address);
    stuck.hello();
    stuck.say(&Request::Begin { name: "never".into() });
    thread::sleep(Duration::from_millis(300));
    signal(&listener.child);
    thread::sleep(Duration::from_millis(300));
    assert!(listener.child.try_wait().unwrap().is_none(), "it waits for what is under way");
    signal(&listener.child);
    assert_eq!(listener.child.wait().unwrap().code(), Some(128 + 15));
    assert!(place.names("in2").is_empty());
}

/// `--once` ends too, before its connection and in the middle of it.
#[test]
fn a_listener_for_one_ends_gracefully() {
    let place = Place::new();
    let mut listener = place.listen("in", &["--once"]);
    signal(&listener.child);
    assert_eq!(listener.child.wait().unwrap().code(), Some(0));
    let mut listener = place.listen("in", &["--once"]);
    let mut silent = TcpStream::connect(&listener.address).unwrap();
    silent.read_exact(&mut [0; 32]).unwrap();
    signal(&listener.child);
    assert_eq!(listener.child.wait().unwrap().code(), Some(7));
}

/// A connection on which nothing is said is closed at its limit.
#[test]
fn idle_connections_are_closed() {
    let place = Place::new();
    let listener = place.listen("in", &["--idle", "1"]);
    let mut peer = Peer::connect(&place, &listener.address);
    peer.hello();
    peer.file("one", b"1");
    assert!(matches!(peer.answer(), Some(Answer::Done { count: 1 })));
    let began = std::time::Instant::now();
    assert!(matches!(peer.answer(), Some(Answer::Refused { count: 1, reason }) if reason == "nothing was sent for 1 s"));
    assert!(peer.answer().is_none());
    assert!((800..5000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
}

/// To a post-quantum recipient; and a listener that asks for one takes nothing else.
#[test]
fn post_quantum_transfers() {
    let place = Place::new();
    let pq = place.run(["keygen", "--pq", "-o", "pq.key"], b"").line();
    place.write("report.txt", b"for a while");
    let send = |listener: &Listener, to: &str| place.run(["send", "--to", &listener.address, "-r", to, "report.txt"], b"");
    let listener = place.listen("inbox", &["-k", "pq.key", "--require-pq"]);
    send(&listener, &place.recipient).failed(5, "does it have the key?");
    assert_eq!(send(&listener, &pq).code, 0);
    assert_eq!((place.names("inbox"), place.read("inbox/report.txt")), (vec!["report.txt".to_owned()], b"for a while".to_vec()));
}
