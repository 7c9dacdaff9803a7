//! Output that is whole or not there, whatever happens: kills, signals, full disks, changed envelopes.
#![cfg(unix)]

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    os::unix::{
        fs::{PermissionsExt, symlink},
        process::ExitStatusExt,
    },
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use program::{PROGRAM, Place, Ran, mode};
use rustix::process::{Pid, Signal, kill_process};
use sealwire::{Cmk, Keyring, Sealer};

mod program;

fn payload(len: usize) -> Vec<u8> {
    (0..len as u32).map(|i| (i / 3 % 251) as u8).collect()
}

/// Numbers for moments (splitmix64); which moment of a run they hit is the machine's chance anyway.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit.max(1)
    }
}

impl Place {
    fn cmk(&self) -> Cmk {
        sealwire::keys::cmk_from_key_file(&String::from_utf8(self.read("alice.key")).unwrap()).unwrap()
    }

    fn quiet(&self, args: &[&str]) -> Child {
        self.command(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// What a shell makes of a script, in which $0 is the program.
    fn shell(&self, script: &str) -> Ran {
        let mut command = Command::new("sh");
        command.args(["-c", script, PROGRAM]).current_dir(self.folder.path()).stdin(Stdio::null());
        Ran::of(command.output().unwrap())
    }

    /// Names of the files of a folder that are not whole.
    fn parts(&self, folder: &str) -> Vec<String> {
        self.names(folder).into_iter().filter(|name| is_part(name)).collect()
    }

    /// Waits for the file that is not whole yet, of a program that is running.
    fn part(&self, folder: &str) -> String {
        let started = Instant::now();
        loop {
            if let Some(name) = self.parts(folder).pop() {
                return format!("{folder}/{name}");
            }
            assert!(started.elapsed().as_secs() < 20, "nothing is being written");
            thread::sleep(Duration::from_millis(1));
        }
    }
}

fn is_part(name: &str) -> bool {
    name.starts_with(".sealwire-") && name.ends_with(".part")
}

/// A seal and an open whose output is `w/out`, and how to know the whole output.
struct Runs {
    place: Place,
    payload: Vec<u8>,
}

const SEAL: usize = 0;

impl Runs {
    fn new(len: usize) -> Self {
        let place = Place::new();
        let payload = payload(len);
        place.write("payload", &payload);
        place.run(["seal", "-r", &place.recipient, "-o", "sealed", "payload"], b"").silent();
        fs::create_dir(place.path("w")).unwrap();
        Self { place, payload }
    }

    /// Begins to seal or to open, over what is there.
    fn begin(&self, which: usize) -> Child {
        let seal = ["seal", "-r", &self.place.recipient, "--force", "-o", "w/out", "payload"];
        let open = ["open", "-k", "alice.key", "--force", "-o", "w/out", "sealed"];
        self.place.quiet(if which == SEAL { &seal } else { &open })
    }

    fn prepare(&self, old: bool) {
        for name in self.place.names("w") {
            fs::remove_file(self.place.path(&format!("w/{name}"))).unwrap();
        }
        if old {
            self.place.write("w/out", b"old");
        }
    }

    /// The shortest of some runs.
    fn length(&self, which: usize) -> Duration {
        let run = |_| {
            self.prepare(true);
            let started = Instant::now();
            assert!(self.begin(which).wait().unwrap().success());
            started.elapsed()
        };
        (0..3).map(run).min().unwrap()
    }

    /// Whether the output is the new one. If it is not, it is what was there before; half of one it never is.
    fn is_new(&self, which: usize, old: bool) -> bool {
        let Ok(found) = fs::read(self.place.path("w/out")) else {
            assert!(!old, "the old file is gone");
            return false;
        };
        if found == b"old" && old {
            return false;
        }
        if which == SEAL {
            let opened = sealwire::open(&found, &Keyring::from(self.place.cmk())).expect("half an envelope");
            assert!(opened.payload == self.payload);
        } else {
            assert!(found == self.payload, "{} bytes of {}", found.len(), self.payload.len());
        }
        true
    }

    /// Lets a run come as far as chance will have it, ends it so, and waits for its end.
    fn end_at(&self, which: usize, moment: Duration, end: impl FnOnce(&mut Child)) -> ExitStatus {
        let mut child = self.begin(which);
        thread::sleep(moment);
        end(&mut child);
        child.wait().unwrap()
    }
}

#[test]
fn two_hundred_kills_leave_whole_files() {
    let runs = Runs::new(3 << 20);
    let mut dice = Dice(1);
    let lengths = [0, 1].map(|which| runs.length(which));
    let (mut halves, mut whole) = (0, 0);
    for round in 0..200 {
        let (which, old) = (round % 2, round / 2 % 2 == 0);
        runs.prepare(old);
        let moment = Duration::from_micros(dice.below(lengths[which].as_micros() as u64 * 5 / 4));
        let status = runs.end_at(which, moment, |child| child.kill().unwrap());
        assert!(status.success() || status.signal() == Some(9), "{status}");
        let new = runs.is_new(which, old);
        assert!(new || !status.success(), "it said that it was done");
        let names = runs.place.names("w");
        let others: Vec<_> = names.iter().filter(|name| *name != "out").collect();
        assert!(others.len() <= 1 && others.iter().all(|name| is_part(name)), "{names:?}");
        assert!(!status.success() || others.is_empty(), "{names:?}");
        halves += usize::from(!others.is_empty());
        whole += usize::from(new);
    }
    assert!(halves > 10 && whole > 10, "all kills came at the same moment: {halves} in the middle, {whole} at the end");
}

const SIGNALS: [Signal; 3] = [Signal::INT, Signal::TERM, Signal::HUP];

#[test]
fn signals_leave_nothing_behind() {
    let runs = Runs::new(3 << 20);
    let mut dice = Dice(2);
    let lengths = [0, 1].map(|which| runs.length(which));
    let mut stopped = 0;
    for round in 0..48 {
        let (which, old, signal) = (round % 2, round / 2 % 2 == 0, SIGNALS[round % 3]);
        runs.prepare(old);
        let moment = Duration::from_micros(dice.below(lengths[which].as_micros() as u64));
        let status = runs.end_at(which, moment, |child| {
            // It may have come to its end already.
            let _ = kill_process(Pid::from_child(child), signal);
        });
        // Before it has begun anything a signal ends it as it ends every program.
        let by_signal = status.code() == Some(128 + signal.as_raw()) || status.signal() == Some(signal.as_raw());
        assert!(status.success() || by_signal, "{status}");
        let new = runs.is_new(which, old);
        assert!(status.success() == new, "{status}: replaced all the same, or said to be done and not");
        assert!(runs.place.names("w").iter().all(|name| name == "out"), "{:?} after {signal:?}", runs.place.names("w"));
        stopped += usize::from(by_signal);
    }
    assert!(stopped > 3, "all signals came too late");
}

/// While it waits for the rest of its input it has begun for sure.
#[test]
fn a_signal_in_the_middle_is_told_by_the_exit_code() {
    let place = Place::new();
    fs::create_dir(place.path("w")).unwrap();
    place.write("w/out", b"old");
    let sealed = place.run(["seal", "-r", &place.recipient], &payload(300_000)).silent().out;
    for signal in SIGNALS {
        for (args, half) in [
            (&["seal", "-r", &place.recipient, "--force", "-o", "w/out"][..], &payload(200_000)),
            (&["seal", "-r", &place.recipient, "-o", "w/fresh"], &payload(200_000)),
            (&["seal", "-r", &place.recipient, "--detached", "w/block", "-o", "w/fresh"], &payload(200_000)),
            (&["open", "-k", "alice.key", "--force", "-o", "w/out"], &sealed[..200_000].to_vec()),
        ] {
            let mut child = place.command(args).spawn().unwrap();
            let mut input = child.stdin.take().unwrap();
            input.write_all(half).unwrap();
            place.part("w");
            thread::sleep(Duration::from_millis(30));
            kill_process(Pid::from_child(&child), signal).unwrap();
            let status = child.wait().unwrap();
            assert_eq!(status.code(), Some(128 + signal.as_raw()), "{args:?}");
            assert_eq!((place.names("w"), place.read("w/out")), (vec!["out".to_owned()], b"old".to_vec()), "{args:?}");
        }
    }
}

/// What an enemy has made of an envelope.
struct Changed {
    how: String,
    bytes: Vec<u8>,
    /// How many segments are authentic before the place where it is changed.
    whole: usize,
    codes: &'static [i32],
}

/// An envelope, and where its parts are.
struct Envelope {
    bytes: Vec<u8>,
    /// Where each segment begins, and where the last one ends.
    ends: Vec<usize>,
}

impl Envelope {
    fn of(bytes: Vec<u8>, segment: usize) -> Self {
        let block = u32::from_be_bytes(bytes[4..8].try_into().unwrap()) as usize;
        let mut ends: Vec<_> = (block + 12..bytes.len()).step_by(segment + 20).collect();
        ends.push(bytes.len());
        Self { bytes, ends }
    }

    fn segments(&self) -> usize {
        self.ends.len() - 1
    }

    fn segment(&self, i: usize) -> &[u8] {
        &self.bytes[self.ends[i]..self.ends[i + 1]]
    }

    /// Block and head.
    fn front(&self) -> &[u8] {
        &self.bytes[..self.ends[0]]
    }

    /// An envelope of these segments.
    fn made_of<'a>(&self, segments: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
        segments.into_iter().fold(self.front().to_vec(), |made, segment| [&made, segment].concat())
    }
}

/// All that can be done to an envelope without its key. `twin` is another message under the same DEK, `stranger` one under another.
fn changes(it: &Envelope, twin: &Envelope, stranger: &Envelope) -> Vec<Changed> {
    let mut all = Vec::new();
    let mut add = |how: String, bytes: Vec<u8>, whole: usize, codes| {
        assert!(bytes != it.bytes, "{how}");
        all.push(Changed { how, bytes, whole, codes });
    };
    let flip = |at: usize, bit: u8| {
        let mut bytes = it.bytes.clone();
        bytes[at] ^= bit;
        bytes
    };
    let (n, front) = (it.segments(), it.ends[0]);
    let block = front - 12;
    // magic, version, length, suite, options, counts, created_at, salt, enc, hint, wrapped DEK, header_mac
    for at in [0, 3, 4, 7, 8, 9, 11, 12, 20, 30, 60, 101, 110, 152] {
        add(format!("flip block {at}"), flip(at, 1), 0, &[3, 4, 5, 6]);
    }
    assert_eq!(block, 153);
    // seq, segment_log2, flags, context_len
    for at in [0, 7, 8, 9, 10, 11] {
        add(format!("flip head {at}"), flip(block + at, 1), 0, &[4, 5, 6]);
    }
    for at in [0, 2, 6, 40, block - 1, block, block + 5] {
        add(format!("cut at {at}"), it.bytes[..at].to_vec(), 0, &[5]);
    }
    let all_segments = || (0..n).map(|i| it.segment(i));
    let mut picked = vec![0, n / 2, n - 1];
    picked.dedup();
    for k in picked {
        let (begin, end) = (it.ends[k], it.ends[k + 1]);
        for (what, at, bit) in [("final", 0, 0x80), ("length", 0, 0x40), ("length", 2, 1), ("length", 3, 1)] {
            add(format!("flip {what} {at} of {k}"), flip(begin + at, bit), k, &[4, 5, 6]);
        }
        for at in [begin + 4, end - 17, end - 16, end - 1] {
            if at >= begin + 4 {
                add(format!("flip {} of {k}", at - begin), flip(at, 0x10), k, &[4]);
            }
        }
        for at in [begin, begin + 2, begin + 4, (begin + end) / 2, end - 16, end - 1] {
            add(format!("cut {} of {k}", at - begin), it.bytes[..at].to_vec(), k, &[5]);
        }
        add(format!("twin's {k}"), it.made_of((0..n).map(|i| if i == k { twin } else { it }.segment(i))), k, &[4]);
        add(format!("stranger's {k}"), it.made_of((0..n).map(|i| if i == k { stranger } else { it }.segment(i))), k, &[4]);
        add(format!("twin's from {k}"), it.made_of((0..n).map(|i| if i >= k { twin } else { it }.segment(i))), k, &[4]);
        if k + 1 < n {
            let without = (0..n).filter(|i| *i != k).map(|i| it.segment(i));
            add(format!("drop {k}"), it.made_of(without), k, &[4]);
            add(format!("repeat {k}"), it.made_of(all_segments().take(k + 1).chain(all_segments().skip(k))), k + 1, &[4, 6]);
            let swapped = (0..n).map(|i| {
                it.segment(if i == k {
                    k + 1
                } else if i == k + 1 {
                    k
                } else {
                    i
                })
            });
            add(format!("swap {k}"), it.made_of(swapped), k, &[4, 6]);
            let mut early = it.bytes[..end].to_vec();
            early[begin] |= 0x80;
            add(format!("final at {k}"), early, k, &[4]);
            add(format!("the end at {k}"), it.made_of(all_segments().take(k).chain([it.segment(n - 1)])), k, &[4]);
        }
    }
    // What is too much at the end is told before the end is given.
    for (how, more) in [("a byte", &b"x"[..]), ("its end", it.segment(n - 1)), ("another", &twin.bytes)] {
        add(format!("{how} behind it"), [&it.bytes, more].concat(), n - 1, &[6]);
    }
    add("twin's head".into(), [&it.bytes[..block], &twin.bytes[block..front], &it.bytes[front..]].concat(), 0, &[4]);
    add("stranger's block".into(), [&stranger.bytes[..block], &it.bytes[block..]].concat(), 0, &[4]);
    all
}

fn every_change_is_noticed(len: usize, segment_log2: u8) {
    let place = Place::new();
    let segment = 1 << segment_log2;
    let payload = payload(len);
    let sealer = || Sealer::builder().to(place.recipient.parse().unwrap()).segment_log2(segment_log2).build().unwrap();
    let (mut one, mut other) = (sealer(), sealer());
    let [it, twin, stranger] = [one.seal(b"", &payload), one.seal(b"", &payload), other.seal(b"", &payload)]
        .map(|sealed| Envelope::of(sealed.unwrap().to_vec(), segment));
    place.write("sealed", &it.bytes);
    assert!(place.run(["open", "-k", "alice.key", "sealed"], b"").silent().out == payload);
    let changes = changes(&it, &twin, &stranger);
    fs::create_dir(place.path("w")).unwrap();
    place.write("w/out", b"old");
    for changed in &changes {
        let Changed { how, bytes, whole, codes } = changed;
        let refused = |ran: &Ran, way: &str| {
            assert!(codes.contains(&ran.code), "{how}, {way}: {} {}", ran.code, ran.err);
            assert!(ran.err.starts_with("sealwire: ") && ran.err.lines().count() == 1, "{how}, {way}: {}", ran.err);
        };
        place.write("sealed", bytes);
        let to_file = place.run(["open", "-k", "alice.key", "-o", "w/out", "--force", "sealed"], b"");
        refused(&to_file, "to a file");
        assert_eq!((place.names("w"), place.read("w/out")), (vec!["out".to_owned()], b"old".to_vec()), "{how}");
        // From a file several threads open a large message; from a pipe one does. Both give the same.
        for ran in [place.run(["open", "-k", "alice.key", "sealed"], b""), place.run(["open", "-k", "alice.key"], bytes)] {
            refused(&ran, "to a pipe");
            assert!(ran.out == payload[..whole * segment], "{how}: {} bytes, not {whole} segments", ran.out.len());
        }
        let held = place.run(["open", "-k", "alice.key", "--buffer", "sealed"], b"");
        refused(&held, "--buffer");
        assert!(held.out.is_empty(), "{how}");
    }
}

#[test]
fn every_change_of_an_empty_message_is_noticed() {
    every_change_is_noticed(0, 16);
}

#[test]
fn every_change_of_one_segment_is_noticed() {
    every_change_is_noticed(1000, 16);
}

#[test]
fn every_change_of_some_segments_is_noticed() {
    every_change_is_noticed(18_000, 12);
}

/// Large enough that it is worth several threads.
#[test]
fn every_change_of_a_large_message_is_noticed() {
    every_change_is_noticed(20 << 16, 16);
}

/// Of a message that is signed as a whole nothing is given away while any of it may be changed.
#[test]
fn a_signed_message_comes_whole_or_not_at_all() {
    let place = Place::new();
    place.run(["keygen", "--sender", "-o", "me.key"], b"");
    let payload = payload(20 << 16);
    let sealed = place.run(["seal", "-r", &place.recipient, "--sign-with", "me.key"], &payload).silent().out;
    assert!(place.run(["open", "-k", "alice.key"], &sealed).silent().out == payload);
    for at in [sealed.len() - 1, sealed.len() / 2, 300] {
        let mut changed = sealed.clone();
        changed[at] ^= 1;
        for (input, code) in [(&changed[..], 4), (&sealed[..at], 5)] {
            let ran = place.run(["open", "-k", "alice.key"], input);
            assert!(ran.code == code && ran.out.is_empty(), "{at}: {} {}", ran.code, ran.err);
            place.write("sealed", input);
            let ranged = place.run(["open", "-k", "alice.key", "--range", "0..10", "sealed"], b"");
            assert!(ranged.code == code && ranged.out.is_empty(), "{at}: {} {}", ranged.code, ranged.err);
        }
    }
}

#[test]
fn full_disks_and_closed_pipes() {
    let runs = Runs::new(3 << 20);
    let place = &runs.place;
    let recipient = &place.recipient;
    place.write("w/out", b"old");
    let nothing_changed = |how: &str| {
        assert_eq!((place.names("w"), place.read("w/out")), (vec!["out".to_owned()], b"old".to_vec()), "{how}");
    };
    let full = || OpenOptions::new().write(true).open("/dev/full").unwrap();
    for args in [
        &["seal", "-r", recipient, "payload"][..],
        &["seal", "-r", recipient, "--armor", "payload"],
        &["seal", "-r", recipient, "--detached", "w/block", "payload"],
        &["open", "-k", "alice.key", "sealed"],
        &["open", "-k", "alice.key", "--buffer", "sealed"],
        &["open", "-k", "alice.key", "--range", "5..10", "sealed"],
        &["rewrap", "-k", "alice.key", "--replace-all", "--add", recipient, "-"],
    ] {
        let run = |stdout: Stdio| {
            let stdin = File::open(place.path("sealed")).unwrap();
            place.command(args).stdin(stdin).stdout(stdout).spawn().unwrap()
        };
        Ran::of(run(full().into()).wait_with_output().unwrap()).failed(7, "No space left");
        nothing_changed("full");
        // More than fits a pipe: without a reader it is told that nobody reads.
        let mut child = run(Stdio::piped());
        drop(child.stdout.take());
        Ran::of(child.wait_with_output().unwrap()).failed(7, if args.contains(&"5..10") { "" } else { "pipe" });
        nothing_changed("closed");
    }
    place.run(["seal", "-r", recipient, "-o", "/dev/full", "payload"], b"").failed(7, "/dev/full");
    place.run(["seal", "-r", recipient, "--detached", "/dev/full", "-o", "w/new", "payload"], b"").failed(7, "/dev/full");
    nothing_changed("a block on a full disk");
    // A folder in which nothing can be made. Root can make files in a folder that is write-protected.
    fs::create_dir(place.path("closed")).unwrap();
    place.write("closed/out", b"old");
    fs::set_permissions(place.path("closed"), fs::Permissions::from_mode(0o555)).unwrap();
    let mut folders = vec!["missing"];
    if cfg!(target_os = "linux") {
        folders.push("/proc/self");
    }
    if File::create(place.path("closed/probe")).is_err() {
        folders.push("closed");
    }
    for folder in folders {
        let out = format!("{folder}/out");
        place.run(["seal", "-r", recipient, "--force", "-o", &out, "payload"], b"").failed(7, &out);
        place.run(["open", "-k", "alice.key", "--force", "-o", &out, "sealed"], b"").failed(7, &out);
        place.run(["seal", "-r", recipient, "-o", "w/new", "--detached", &out, "payload"], b"").failed(7, &out);
        nothing_changed(folder);
    }
    assert_eq!(place.read("closed/out"), b"old");
    fs::set_permissions(place.path("closed"), fs::Permissions::from_mode(0o755)).unwrap();
}

/// A file may not grow beyond a megabyte, which is what a full disk looks like as well.
#[test]
fn a_limit_on_the_size_of_files() {
    let runs = Runs::new(3 << 20);
    let place = &runs.place;
    place.write("w/out", b"old");
    place.write("w/sealed", &place.read("sealed"));
    for args in [
        format!("seal -r {} --force -o w/out payload", place.recipient),
        format!("seal -r {} --armor -o w/new payload", place.recipient),
        format!("seal -r {} --detached w/block -o w/new payload", place.recipient),
        "open -k alice.key --force -o w/out sealed".into(),
        "open -k alice.key -o w/new sealed".into(),
        format!("rewrap -k alice.key --replace-all --add {} w/sealed", place.recipient),
    ] {
        // In blocks of 512 bytes, or of 1024 in some shells.
        place.shell(&format!("ulimit -f 1024; exec \"$0\" {args}")).failed(7, "too large");
        assert_eq!(place.names("w"), ["out", "sealed"], "{args}");
        assert_eq!(place.read("w/out"), b"old", "{args}");
        assert!(place.read("w/sealed") == place.read("sealed"));
    }
}

#[test]
fn nobody_else_reads_what_is_not_whole() {
    let place = Place::new();
    let sealed = place.run(["seal", "-r", &place.recipient], &payload(300_000)).silent().out;
    fs::create_dir(place.path("w")).unwrap();
    place.write("w/there", b"old");
    fs::set_permissions(place.path("w/there"), fs::Permissions::from_mode(0o604)).unwrap();
    let seal = format!("seal -r {}", place.recipient);
    let open = "open -k alice.key".to_owned();
    for (command, input) in [(seal, payload(300_000)), (open, sealed)] {
        for (umask, out, expected) in [
            ("000", "w/a", 0o666),
            ("022", "w/b", 0o644),
            ("027", "w/c", 0o640),
            ("077", "w/d", 0o600),
            ("000", "w/there", 0o604),
        ] {
            let script = format!("umask {umask}; exec \"$0\" {command} --force -o {out}");
            let mut shell = Command::new("sh");
            shell.args(["-c", &script, PROGRAM]).current_dir(place.folder.path()).stdin(Stdio::piped()).stderr(Stdio::piped());
            let mut child = shell.spawn().unwrap();
            let mut stdin = child.stdin.take().unwrap();
            stdin.write_all(&input[..200_000]).unwrap();
            let part = place.part("w");
            assert_eq!(mode(&place.path(&part)), 0o600, "{command}");
            stdin.write_all(&input[200_000..]).unwrap();
            drop(stdin);
            Ran::of(child.wait_with_output().unwrap()).silent();
            assert_eq!(mode(&place.path(out)), expected, "{command}, umask {umask}");
            assert!(place.parts("w").is_empty());
        }
        for name in ["w/a", "w/b", "w/c", "w/d"] {
            fs::remove_file(place.path(name)).unwrap();
        }
        fs::set_permissions(place.path("w/there"), fs::Permissions::from_mode(0o604)).unwrap();
    }
}

#[test]
fn a_file_is_never_its_own_input() {
    let place = Place::new();
    fs::create_dir(place.path("w")).unwrap();
    let sealed = place.run(["seal", "-r", &place.recipient], &payload(300_000)).silent().out;
    place.write("w/x", &sealed);
    fs::hard_link(place.path("w/x"), place.path("w/hard")).unwrap();
    symlink("x", place.path("w/soft")).unwrap();
    symlink(place.path("w/soft"), place.path("w/softer")).unwrap();
    symlink("w", place.path("v")).unwrap();
    let full = place.path("w/x");
    let full = full.to_str().unwrap();
    let files = ["w/x", "./w/../w/x", full, "w/hard", "w/soft", "w/softer", "v/x", "v/softer"];
    let mut scripts: Vec<String> = Vec::new();
    for force in ["", "--force"] {
        for file in files {
            scripts.push(format!("{force} -o {file} w/x"));
            scripts.push(format!("{force} -o w/x {file}"));
            scripts.push(format!("{force} -o {file} <w/x"));
            scripts.push(format!("{force} {file} >>w/x"));
        }
        for standard in ["-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"] {
            scripts.push(format!("{force} -o w/x {standard} <w/x"));
        }
        scripts.push(format!("{force} -o w/x /dev/fd/5 5<w/x"));
        for standard in ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"] {
            scripts.push(format!("{force} -o {standard} w/x 1<>w/x"));
            scripts.push(format!("{force} -o {standard} w/soft >>w/x"));
        }
        scripts.push(format!("{force} <w/x 1<>w/x"));
    }
    for script in scripts {
        if !cfg!(target_os = "linux") && script.contains("/proc/") {
            continue;
        }
        for command in [&format!("seal -r {}", place.recipient), "open -k alice.key"] {
            place.shell(&format!("exec \"$0\" {command} {script}")).failed(2, "both input and output");
            assert!(place.read("w/x") == sealed, "{command} {script}");
        }
    }
    // A block is neither the input nor the output.
    place.write("plain", b"plain");
    for (block, out) in [("plain", "out"), ("./out", "out"), ("out", "out"), ("v/y", "w/y")] {
        let ran = place.run(["seal", "-r", &place.recipient, "--force", "--detached", block, "-o", out, "plain"], b"");
        ran.failed(2, "--detached");
    }
    assert_eq!(place.read("plain"), b"plain");
    assert_eq!(place.names("w"), ["hard", "soft", "softer", "x"]);
    assert_eq!(place.names("."), ["alice.key", "plain", "v", "w"]);
}

/// Bytes of a pipe, as they come.
fn follow(mut pipe: impl Read + Send + 'static) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut chunk = vec![0; 1 << 16];
        while let Ok(n) = pipe.read(&mut chunk)
            && n > 0
            && sender.send(chunk[..n].to_vec()).is_ok()
        {}
    });
    receiver
}

/// A pipe gets what is authentic as it comes; with --buffer it gets it when all of it is.
#[test]
fn a_pipe_gets_segments_or_waits() {
    let place = Place::new();
    let payload = payload(300_000);
    let sealed = place.run(["seal", "-r", &place.recipient], &payload).silent().out;
    // Three segments, and a half one.
    let first = 165 + 3 * 65_556 + 30_000;
    for (buffer, ends) in [(false, true), (false, false), (true, true), (true, false)] {
        let mut args = vec!["open", "-k", "alice.key"];
        args.extend(buffer.then_some("--buffer"));
        let mut child = place.command(&args).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        let output = follow(child.stdout.take().unwrap());
        input.write_all(&sealed[..first]).unwrap();
        let mut got = Vec::new();
        if buffer {
            assert!(output.recv_timeout(Duration::from_millis(300)).is_err(), "before the end");
        } else {
            while got.len() < 3 * 65_536 {
                got.extend(output.recv_timeout(Duration::from_secs(10)).expect("segments that are there"));
            }
            assert!(got == payload[..3 * 65_536]);
        }
        if ends {
            input.write_all(&sealed[first..]).unwrap();
        }
        drop(input);
        output.iter().for_each(|more| got.extend(more));
        let ran = Ran::of(child.wait_with_output().unwrap());
        if ends {
            ran.silent();
            assert!(got == payload);
        } else {
            ran.failed(5, "truncated");
            assert!(got == payload[..if buffer { 0 } else { 3 * 65_536 }]);
        }
    }
}

#[test]
fn ranges_are_exact() {
    let place = Place::new();
    let payload = payload(20_000);
    let sealed = place.run(["seal", "-r", &place.recipient, "--segment-size", "4KiB"], &payload).silent().out;
    let padded = place.run(["seal", "-r", &place.recipient, "--segment-size", "4KiB", "--pad"], &payload).silent().out;
    let armored = place.run(["seal", "-r", &place.recipient, "--segment-size", "4KiB", "-a"], &payload).silent().out;
    for sealed in [&sealed, &padded, &armored] {
        place.write("sealed", sealed);
        for (range, expected) in [
            ("..", 0..20_000),
            ("0..0", 0..0),
            ("0..1", 0..1),
            ("..4096", 0..4096),
            ("4095..4097", 4095..4097),
            ("4KiB..8KiB", 4096..8192),
            ("100..19999", 100..19_999),
            ("19999..", 19_999..20_000),
            ("20000..", 20_000..20_000),
            ("16384..20000", 16_384..20_000),
        ] {
            let args = ["open", "-k", "alice.key", "--range", range];
            assert!(place.run(args, sealed).silent().out == payload[expected.clone()], "{range} of a pipe");
            assert!(place.run(args.iter().chain(&["sealed"]), b"").silent().out == payload[expected.clone()], "{range}");
            place.run(args.iter().chain(&["-o", "part", "--force", "sealed"]), b"").silent();
            assert!(place.read("part") == payload[expected], "{range} to a file");
        }
        for range in ["..20001", "20001..", "5..300000", "18446744073709551615.."] {
            let args = ["open", "-k", "alice.key", "--range", range];
            for ran in [place.run(args, sealed), place.run(args.iter().chain(&["sealed"]), b"")] {
                assert!(ran.failed(2, "has 20000 bytes").out.is_empty(), "{range}");
            }
        }
    }
    for range in ["", "5", "5..4", "a..b", "-1..5", "1...2", "0x1..2", "18446744073709551616..", "99999999999TiB.."] {
        let ran = place.run(["open", "-k", "alice.key", &format!("--range={range}")], &sealed);
        assert!(ran.code == 2 && ran.out.is_empty() && ran.err.contains("--range"), "{range}: {}", ran.err);
    }
    // The first segment must be authentic, and those that the range touches; the end, where the range goes to it.
    let at = |segment: usize| 165 + segment * 4116 + 100;
    let flip = |at: usize| {
        let mut changed = sealed.clone();
        changed[at] ^= 1;
        changed
    };
    let both = |range: &str, bytes: &[u8]| {
        place.write("sealed", bytes);
        let piped = place.run(["open", "-k", "alice.key", "--range", range], bytes);
        let ran = place.run(["open", "-k", "alice.key", "--range", range, "sealed"], b"");
        assert_eq!((piped.code, &piped.out), (ran.code, &ran.out), "{}", piped.err);
        ran
    };
    for (range, bytes, code) in [
        ("5000..5010", flip(at(0)), 4),
        ("5000..5010", flip(at(1)), 4),
        ("5000..", flip(at(4)), 4),
        ("5000..", sealed[..at(4)].to_vec(), 5),
        ("5000..", sealed[..165 + 4 * 4116].to_vec(), 5),
        ("19000..19010", sealed[..at(4)].to_vec(), 5),
    ] {
        let ran = both(range, &bytes);
        assert!(ran.code == code && ran.out.is_empty(), "{} bytes of {range}: {}", ran.out.len(), ran.err);
    }
    for bytes in [flip(at(2)), flip(at(4)), sealed[..at(4)].to_vec()] {
        assert!(both("5000..5010", &bytes).silent().out == payload[5000..5010]);
    }
}

#[test]
fn armor_is_strict_text() {
    let place = Place::new();
    let payload = payload(200_000);
    let sealed = place.run(["seal", "-r", &place.recipient, "--armor"], &payload).silent().out;
    let text = String::from_utf8(sealed).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[0], "-----BEGIN SEALWIRE ENVELOPE-----");
    assert_eq!(lines[lines.len() - 1], "-----END SEALWIRE ENVELOPE-----");
    assert!(text.ends_with('\n') && lines[1..lines.len() - 2].iter().all(|line| line.len() == 64));
    let spelled = |text: &str| {
        place.write("sealed", text.as_bytes());
        let piped = place.run(["open", "-k", "alice.key"], text.as_bytes());
        let ran = place.run(["open", "-k", "alice.key", "-o", "out", "--force", "sealed"], b"");
        assert_eq!((piped.code, &piped.err.replace("standard input", "sealed")), (ran.code, &ran.err));
        ran
    };
    for good in [text.clone(), text.replace('\n', "\r\n"), format!("\n \t\r\n{text}\n\n"), text.trim_end().to_owned()] {
        spelled(&good).silent();
        assert!(place.read("out") == payload);
        assert_eq!(place.run(["inspect", "sealed"], b"").code, 0);
    }
    place.write("out", b"old");
    let (head, tail) = (lines[0], lines[lines.len() - 1]);
    let with_line = |n: usize, new: &str| {
        let mut lines = lines.clone();
        lines[n] = new;
        lines.join("\n") + "\n"
    };
    for cut in [10, text.len() - 5, text.len() - 30, text.len() / 2] {
        spelled(&text[..cut]).failed(5, "the text was cut");
    }
    for (how, bad) in [
        ("another label", text.replace("ENVELOPE", "MESSAGE")),
        ("no alphabet", with_line(5, &format!("!{}", &lines[5][1..]))),
        ("no alphabet, late", with_line(3000, &format!("{}-", &lines[3000][1..]))),
        ("an empty line", with_line(5, &format!("\n{}", lines[5]))),
        ("a short line", with_line(5, &format!("{}\n{}", &lines[5][..32], &lines[5][32..]))),
        ("a long line", with_line(5, &format!("{}AAAA", lines[5]))),
        ("a space", with_line(5, &format!("{} ", lines[5]))),
        ("a comment", with_line(0, &format!("{head}\nVersion: 1"))),
        ("more behind it", format!("{text}x")),
        ("two", format!("{text}{text}")),
        ("nothing in it", format!("{head}\n{tail}\n")),
        ("text before it", format!(" hello\n{text}")),
        ("too many blanks", format!("{}{text}", "\n".repeat(1025))),
    ] {
        let ran = spelled(&bad);
        assert!(ran.code == 6 || (ran.code == 5 && how == "nothing in it"), "{how}: {} {}", ran.code, ran.err);
        assert_eq!(place.read("out"), b"old", "{how}");
    }
    for cut in [text.len() - 2 - tail.len(), text.len() / 2, 40] {
        spelled(&text[..cut]).failed(5, "the text was cut");
        assert_eq!(place.read("out"), b"old");
    }
}

#[test]
fn blocks_that_are_kept_apart() {
    let place = Place::new();
    let bob = place.keygen("bob.key");
    let payload = payload(200_000);
    place.write("payload", &payload);
    let seal = |block: &str, out: &str, more: &[&str]| {
        let args = ["seal", "-r", &place.recipient, "--detached", block, "-o", out, "payload"];
        place.run(args.iter().chain(more), b"")
    };
    seal("block", "data", &[]).silent();
    seal("block2", "data2", &[]).silent();
    assert_eq!((place.read("block").len(), place.read("data").len()), (153, 12 + 200_000 + 4 * 20));
    let open = |block: &str, data: &str| place.run(["open", "-k", "alice.key", "--detached", block, data], b"");
    assert!(open("block", "data").silent().out == payload);
    assert!(place.run(["open", "-k", "alice.key", "--detached", "-", "data"], &place.read("block")).silent().out == payload);
    assert!(place.run(["open", "-k", "alice.key", "--detached", "block"], &place.read("data")).silent().out == payload);
    let both = [place.read("block"), place.read("data")].concat();
    assert!(place.run(["open", "-k", "alice.key"], &both).silent().out == payload);
    assert_eq!(place.run(["inspect", "block"], b"").code, 0);
    // One without the other, and with another's.
    assert!(open("block2", "data").failed(4, "is not authentic").out.is_empty());
    place.write("more", &[&place.read("block")[..], b"x"].concat());
    assert!(open("more", "data").failed(6, "trailing").out.is_empty());
    place.write("cut", &place.read("block")[..152]);
    assert!(open("cut", "data").failed(5, "truncated").out.is_empty());
    assert!(place.run(["open", "-k", "alice.key", "block"], b"").failed(5, "truncated").out.is_empty());
    assert!(place.run(["open", "-k", "alice.key", "data"], b"").failed(6, "magic").out.is_empty());
    // Nothing is replaced unasked, and a failure leaves both as they were.
    let before = [place.read("block"), place.read("data")];
    seal("block", "new", &[]).failed(2, "block exists");
    seal("new", "data", &[]).failed(2, "data exists");
    if cfg!(target_os = "linux") {
        let unreadable = ["seal", "-r", &place.recipient, "--force", "--detached", "block", "-o", "data", "/proc/self/mem"];
        place.run(unreadable, b"").failed(7, "/proc/self/mem");
    }
    assert!([place.read("block"), place.read("data")] == before);
    assert!(!place.path("new").exists() && place.parts(".").is_empty());
    // New readers, and the data as it was.
    place.run(["rewrap", "-k", "alice.key", "--replace-all", "--add", &bob, "block"], b"").silent();
    assert!(open("block", "data").failed(3, "no matching key").out.is_empty());
    let opened = place.run(["open", "-k", "bob.key", "--detached", "block", "data"], b"").silent();
    assert!(opened.out == payload && place.read("data") == before[1]);
    seal("block", "data", &["--force"]).silent();
    assert!(open("block", "data").silent().out == payload);
}

/// What the command reads keys from is no output, whatever `--force` says; a block needs a name of its own.
#[test]
fn keys_and_blocks_are_not_written_over() {
    let place = Place::new();
    place.write("alice.pub", place.recipient.as_bytes());
    place.run(["keygen", "--sender", "-o", "bob.key"], b"");
    let payload = payload(1000);
    place.write("p", &payload);
    let sealed = place.run(["seal", "-r", &place.recipient], &payload).silent().out;
    place.write("e", &sealed);
    let keys = ["alice.key", "alice.pub", "bob.key"].map(|name| (name, place.read(name)));
    for args in [
        &["open", "--force", "-k", "alice.key", "-o", "alice.key", "e"][..],
        &["open", "--force", "-k", "./alice.key", "-o", "alice.key", "e"],
        &["seal", "--force", "-R", "alice.pub", "-o", "alice.pub", "p"],
        &["seal", "--force", "-R", "alice.pub", "--sign-with", "bob.key", "-o", "bob.key", "p"],
    ] {
        place.run(args, b"").failed(2, "holds a key, and is the output");
    }
    for (name, content) in keys {
        assert_eq!(place.read(name), content);
    }
    place.run(["seal", "-R", "alice.pub", "--detached", "-", "-o", "out", "p"], b"").failed(2, "needs a file of its own");
    assert!(!place.path("-").exists());
    let mix = fs::File::create(place.path("mix")).unwrap();
    let mut command = place.command(["seal", "--force", "-R", "alice.pub", "--detached", "/dev/stdout", "p"]);
    let ran = Ran::of(command.stdout(mix).output().unwrap());
    ran.failed(2, "also the input or the output");
}

/// When the block cannot take its place, the message that needs it has; so the block stays, and it is said where.
#[test]
fn a_block_is_not_lost_when_its_message_is_there() {
    let place = Place::new();
    // The block's place is taken by a folder, between the check and the end.
    let mut child = place.command(["seal", "-r", &place.recipient, "--detached", "block", "-o", "out"]).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(&payload(200_000)).unwrap();
    place.part(".");
    fs::create_dir(place.path("block")).unwrap();
    drop(input);
    let ran = Ran::of(child.wait_with_output().unwrap());
    assert_ne!(ran.code, 0);
    let kept: Vec<_> = place.names(".").into_iter().filter(|name| is_part(name)).collect();
    assert!(ran.err.contains("belongs to") && ran.err.contains(&kept[0]), "{}", ran.err);
    assert_eq!(kept.len(), 1);
    let opened = place.run(["open", "-k", "alice.key", "--detached", &kept[0], "out"], b"");
    assert!(opened.silent().out == payload(200_000));
}

/// A file that changes under the reader is said to have done so.
#[test]
fn a_payload_that_changes_is_told() {
    let place = Place::new();
    place.write("log", &payload(100_000));
    let fifo = place.path("held");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::from(0o600), 0).unwrap();
    // The output is a pipe that holds less than the payload, and nobody reads it until the file has grown.
    let mut child = place.command(["seal", "-r", &place.recipient, "-o", "held", "log"]).spawn().unwrap();
    drop(child.stdin.take());
    let mut out = fs::File::open(&fifo).unwrap();
    // With the first bytes it has looked at the file.
    let mut sealed = vec![0; 100];
    out.read_exact(&mut sealed).unwrap();
    place.write("log", &payload(200_000));
    out.read_to_end(&mut sealed).unwrap();
    let ran = Ran::of(child.wait_with_output().unwrap());
    assert_eq!((ran.code, ran.err.contains("log was changed while it was read")), (0, true), "{}", ran.err);
    assert!(!place.run(["open", "-k", "alice.key"], &sealed).silent().out.is_empty());
}
