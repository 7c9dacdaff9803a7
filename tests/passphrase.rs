//! Protected key files, as their user meets them: asked for on a terminal, read from files and descriptors, changed, and refused in time.
#![cfg(unix)]

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::PermissionsExt,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nix::sys::termios::tcgetattr;
use program::{
    PROGRAM, Place, Ran, mode,
    terminal::{PATIENCE, Terminal},
};
use rustix::process::{Pid, Signal, kill_process};
use sealwire::Cmk;

mod program;

/// A place with a file `pass`, and `safe.key` protected with what it holds.
fn protected() -> (Place, String) {
    let place = Place::new();
    private(&place, "pass", "correct horse\n");
    let made = place.run(["keygen", "--passphrase-file", "pass", "-o", "safe.key"], b"");
    assert!(made.code == 0 && made.err.starts_with("key file: safe.key  fingerprint: "), "{}", made.err);
    (place, made.line())
}

fn private(place: &Place, name: &str, content: &str) {
    place.write(name, content.as_bytes());
    fs::set_permissions(place.path(name), fs::Permissions::from_mode(0o600)).unwrap();
}

fn text(place: &Place, name: &str) -> String {
    String::from_utf8(place.read(name)).unwrap()
}

/// The program without a terminal to ask on, whatever the tests were started from.
fn alone(place: &Place, args: &[&str], input: &[u8]) -> Ran {
    let mut child = detached(place, args).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    Ran::of(child.wait_with_output().unwrap())
}

fn detached(place: &Place, args: &[&str]) -> Command {
    let mut command = Command::new("setsid");
    command.arg("--wait").arg(PROGRAM).args(args).current_dir(place.path("."));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What bash makes of a script, without a terminal.
fn shell(place: &Place, script: &str) -> Ran {
    let mut command = Command::new("setsid");
    command.args(["--wait", "bash", "-c", &script.replace("sealwire", PROGRAM)]).current_dir(place.path("."));
    Ran::of(command.stdin(Stdio::null()).output().unwrap())
}

#[test]
fn a_protected_key_does_all_that_a_key_does() {
    let (place, recipient) = protected();
    assert_eq!(mode(&place.path("safe.key")), 0o600);
    let file = text(&place, "safe.key");
    assert!(file.starts_with("# created: 20") && file.contains(&format!("\n# recipient: {recipient}\nSW-PROTECTED-KEY-1")));
    assert!(!file.contains("SW-SECRET"));
    let with = ["--passphrase-file", "pass"];
    let run = |args: &[&str], input: &[u8]| alone(&place, &[args, &with].concat(), input).silent();
    assert_eq!(run(&["recipient", "safe.key"], b"").line(), recipient);
    assert_eq!(run(&["recipient", "--fingerprint", "safe.key"], b"").line().len(), 35);
    let sealed = place.run(["seal", "-r", &recipient], b"payload").silent().out;
    assert_eq!(run(&["open", "-k", "safe.key"], &sealed).out, b"payload");
    assert!(run(&["open", "-k", "alice.key", "-k", "safe.key", "--check"], &sealed).out.is_empty());
    place.write("sealed", &sealed);
    run(&["rewrap", "-k", "safe.key", "--add", &place.recipient, "sealed"], b"");
    assert_eq!(run(&["open", "-k", "alice.key", "sealed"], b"").out, b"payload");
    // A sender's key under the same passphrase, where it signs a message, and where it signs what is sent.
    let made = place.run(["keygen", "--sender", "--passphrase-file", "pass", "-o", "me.key"], b"");
    let sender = made.line();
    assert_eq!((made.code, made.err.as_str(), sender.starts_with("sws1")), (0, "sender's key file: me.key\n", true));
    assert_eq!(run(&["recipient", "me.key"], b"").line(), sender);
    let signed = run(&["seal", "-r", &place.recipient, "--sign-with", "me.key"], b"signed").out;
    assert_eq!(place.run(["open", "-k", "alice.key", "--from", &sender], &signed).silent().out, b"signed");
    let listen = ["listen", "--on", "127.0.0.1:0", "-k", "safe.key", "--from", &sender, "--out", "inbox", "--once"];
    let listener = program::Listener::start(place.command(listen.iter().chain(&with)));
    let to = listener.address.clone();
    run(&["send", "--to", &to, "-r", &recipient, "--sign-with", "me.key", "pass"], b"");
    assert_eq!((listener.wait(), place.read("inbox/pass")), (0, b"correct horse\n".to_vec()));
    alone(&place, &["open", "-k", "me.key", "--passphrase-file", "pass"], &signed)
        .failed(2, "me.key: this is a sender's secret key");
    let refused = alone(&place, &["seal", "-r", &recipient, "--sign-with", "safe.key", "--passphrase-file", "pass"], b"");
    refused.failed(2, "safe.key: this is a secret key, and a sender's secret key");
    // The output is never what holds the passphrase.
    alone(&place, &["open", "-k", "safe.key", "--passphrase-file", "pass", "--force", "-o", "pass"], &sealed)
        .failed(2, "pass holds a passphrase, and is the output");
    assert_eq!(place.read("pass"), b"correct horse\n");
}

#[test]
fn passphrases_from_files_and_descriptors() {
    let (place, recipient) = protected();
    place.write("sealed", &place.run(["seal", "-r", &recipient], b"payload").silent().out);
    let shell = |script: &str| shell(&place, script);
    for script in [
        "sealwire open -k safe.key --passphrase-fd 3 3< pass < sealed",
        "cat pass | sealwire open -k safe.key --passphrase-fd 0 sealed",
        "sealwire open -k safe.key --passphrase-file <(cat pass) < sealed",
        "printf 'correct horse' > bare && chmod 600 bare && sealwire open -k safe.key --passphrase-file bare sealed",
        "printf 'correct horse\\r\\n' > crlf && chmod 600 crlf && sealwire open -k safe.key --passphrase-file crlf sealed",
    ] {
        assert_eq!(shell(script).silent().out, b"payload", "{script}");
    }
    shell("sealwire open -k safe.key --passphrase-fd 9 sealed").failed(7, "/dev/fd/9");
    shell("sealwire open -k safe.key --passphrase-file nowhere sealed").failed(7, "nowhere");
    shell("sealwire open -k safe.key --passphrase-file - sealed").failed(2, "--passphrase-fd 0");
    shell("sealwire open -k safe.key --passphrase-file . sealed").failed(2, "a folder");
    shell("sealwire open -k safe.key --passphrase-file /dev/null sealed").failed(2, "/dev/null: the passphrase is empty");
    shell("sealwire open -k safe.key --passphrase-file /dev/zero sealed").failed(2, "longer than 1024 bytes");
    shell("printf '\\377' | sealwire open -k safe.key --passphrase-fd 0 sealed").failed(2, "no text");
    assert_eq!(shell("sealwire open -k safe.key --passphrase-fd 0 --passphrase-file pass sealed").code, 2);
    fs::set_permissions(place.path("pass"), fs::Permissions::from_mode(0o644)).unwrap();
    let warned = shell("sealwire open -k safe.key --passphrase-file pass sealed");
    assert!(warned.code == 0 && warned.err.starts_with("warning: pass can be read by others"), "{}", warned.err);
    // What others can read is refused among the arguments.
    let key = text(&place, "safe.key").lines().last().unwrap().to_owned();
    for argument in [key.clone(), key.to_lowercase()] {
        let ran = alone(&place, &["open", "-k", &argument], b"").failed(2, "a secret key stands among the arguments");
        assert!(!ran.err.to_uppercase().contains("SW-PROTECTED-KEY-1Q"), "{}", ran.err);
    }
}

/// No command writes over what holds the passphrase or a key that it reads, by whatever name or descriptor.
#[test]
fn no_output_takes_the_place_of_a_secret() {
    let (place, recipient) = protected();
    assert_eq!(place.run(["keygen", "--sender", "--passphrase-file", "pass", "-o", "me.key"], b"").code, 0);
    place.write("sealed", &place.run(["seal", "-r", &recipient], b"payload").silent().out);
    fs::hard_link(place.path("pass"), place.path("hard")).unwrap();
    let names = ["pass", "hard", "safe.key", "me.key"];
    let before = names.map(|name| place.read(name));
    let seal = format!("sealwire seal -r {recipient} --sign-with me.key --force");
    let rewrap = format!("sealwire rewrap -k safe.key --add {} --force", place.recipient);
    for (script, said) in [
        ("sealwire open -k safe.key --passphrase-fd 3 --force -o pass sealed 3< pass".into(), "/dev/fd/3 holds a passphrase"),
        ("sealwire open -k safe.key --passphrase-fd 0 --force -o hard sealed < pass".into(), "/dev/fd/0 holds a passphrase"),
        ("sealwire open -k safe.key --passphrase-file /dev/fd/5 --force -o pass sealed 5< pass".into(), "holds a passphrase"),
        (format!("{seal} --passphrase-fd 3 -o pass sealed 3< pass"), "/dev/fd/3 holds a passphrase"),
        (format!("{seal} --passphrase-fd 3 -o new --detached pass sealed 3< hard"), "/dev/fd/3 holds a passphrase"),
        (format!("{seal} --passphrase-file pass -o new --detached hard sealed"), "pass holds a passphrase"),
        (format!("{seal} --passphrase-file pass -o new --detached me.key sealed"), "me.key holds a key"),
        (format!("{rewrap} --passphrase-fd 3 -o pass sealed 3< pass"), "/dev/fd/3 holds a passphrase"),
        (format!("{rewrap} --passphrase-file pass -o hard sealed"), "pass holds a passphrase"),
        (format!("{rewrap} --passphrase-file pass -o safe.key sealed"), "safe.key holds a key"),
    ] {
        shell(&place, &script).failed(2, said);
        assert_eq!(names.map(|name| place.read(name)), before, "{script}");
    }
    assert!(!place.path("new").exists());
    // A pipe is nobody's output.
    let piped = shell(&place, "cat pass | sealwire open -k safe.key --passphrase-fd 0 --force -o opened sealed").silent();
    assert_eq!((piped.code, place.read("opened")), (0, b"payload".to_vec()));
}

/// The string of any data that a protected key could have.
fn string(data: &[u8]) -> String {
    enum Long {}
    impl bech32::Checksum for Long {
        type MidstateRepr = u32;
        type CorrectionField = bech32::Fe1024;
        const ROOT_GENERATOR: bech32::Fe1024 = bech32::Bech32m::ROOT_GENERATOR;
        const ROOT_EXPONENTS: core::ops::RangeInclusive<usize> = bech32::Bech32m::ROOT_EXPONENTS;
        const CODE_LENGTH: usize = 4096;
        const CHECKSUM_LENGTH: usize = bech32::Bech32m::CHECKSUM_LENGTH;
        const GENERATOR_SH: [u32; 5] = bech32::Bech32m::GENERATOR_SH;
        const TARGET_RESIDUE: u32 = bech32::Bech32m::TARGET_RESIDUE;
    }
    let mut out = String::new();
    bech32::encode_upper_to_fmt::<Long, _>(&mut out, bech32::Hrp::parse("sw-protected-key-").unwrap(), data).unwrap();
    out
}

/// Every refusal is one sentence, within a second and 128 MiB; so is the dearest file that is not refused before it is computed.
#[test]
fn refusals_are_clear_and_cheap() {
    let (place, _) = protected();
    private(&place, "wrong", "incorrect horse\n");
    let file = text(&place, "safe.key");
    let data = |t: u32, m: u32, p: u8, len: usize| {
        string(&[&[1][..], &t.to_be_bytes(), &m.to_be_bytes(), &[p], &[7; 48], &vec![7; len + 16]].concat())
    };
    private(&place, "cut", &file[..file.len() - 20]);
    private(&place, "mistyped", &file.replace("KEY-1Q", "KEY-1P"));
    private(&place, "newer", &string(&[2]));
    private(&place, "passes", &data(u32::MAX, 8, 1, 76));
    private(&place, "memory", &data(1, u32::MAX, 1, 76));
    private(&place, "lanes", &data(1, 65_536, 255, 76));
    private(&place, "work", &data(10, 65_536, 4, 76));
    private(&place, "long", &data(1, 8, 1, 1025));
    private(&place, "dearest", &data(4, 98_304, 16, 1024));
    private(&place, "slowest", &data(10, 39_321, 1, 76));
    for (name, passphrase, said) in [
        ("safe.key", "wrong", "safe.key: the passphrase is wrong"),
        ("dearest", "pass", "dearest: the passphrase is wrong"),
        ("slowest", "pass", "slowest: the passphrase is wrong"),
        ("cut", "pass", "cut: the key string is damaged"),
        ("mistyped", "pass", "mistyped: the key string is damaged"),
        ("newer", "pass", "its version is 2, and only 1 is supported"),
        ("passes", "pass", "4294967295 passes"),
        ("memory", "pass", "4294967295 KiB of memory"),
        ("lanes", "pass", "255 lanes"),
        ("work", "pass", "655360 KiB in all passes"),
        ("long", "pass", "it holds 1025 bytes"),
    ] {
        let args = ["recipient", name, "--passphrase-file", passphrase];
        alone(&place, &args, b"").failed(2, said);
        // Others use the machine too: the best of three.
        let runs = (0..3).map(|_| {
            let started = Instant::now();
            let (code, peak) = program::peak_of(detached(&place, &args).stderr(Stdio::null()).spawn().unwrap());
            assert_eq!(code, 2);
            assert!(peak < 128 << 20, "{name}: {peak} bytes");
            started.elapsed()
        });
        let best = runs.min().unwrap();
        assert!(best < Duration::from_secs(1), "{name}: {best:?}");
    }
    // Nobody is there to be asked.
    for args in
        [&["recipient", "safe.key"][..], &["open", "-k", "safe.key"], &["passphrase", "safe.key"], &["keygen", "--passphrase"]]
    {
        alone(&place, args, b"").failed(2, "no terminal to ask on; use --passphrase-file or --passphrase-fd");
    }
    assert!(!place.path("sealwire.key").exists());
}

#[test]
fn a_terminal_is_asked() {
    let (place, recipient) = protected();
    // A new passphrase is asked for twice, and not shown.
    let mut terminal = Terminal::run(&place, "sealwire keygen --passphrase -o typed.key");
    terminal.shows("New passphrase of typed.key: ");
    assert!(!terminal.echoes());
    terminal.types("b\u{e4}ttery staple\n");
    terminal.shows("The same again: ");
    assert!(!terminal.echoes());
    terminal.types("b\u{e4}ttery staple\n");
    let (code, screen) = terminal.ends();
    assert!(code == 0 && !screen.contains("ttery") && screen.contains("swr1"), "{screen}");
    private(&place, "typed", "b\u{e4}ttery staple");
    let typed = alone(&place, &["recipient", "typed.key", "--passphrase-file", "typed"], b"").silent().line();
    assert!(screen.contains(&typed));
    // Two that differ make no file.
    let mut terminal = Terminal::run(&place, "sealwire keygen --passphrase -o differ.key");
    terminal.shows("differ.key: ");
    terminal.types("one\n");
    terminal.shows("again: ");
    terminal.types("two\n");
    let (code, screen) = terminal.ends();
    assert!(code == 2 && screen.contains("the two passphrases differ") && !place.path("differ.key").exists(), "{screen}");
    // Nor does an empty one, or one that is too long; what is over does not go to the shell.
    for (keys, said) in [("\n".to_owned(), "the passphrase is empty"), ("x".repeat(1100) + "\n", "longer than 1024 bytes")] {
        let mut terminal = Terminal::run(&place, "sealwire keygen --passphrase -o never.key");
        terminal.shows("never.key: ");
        terminal.types(&keys);
        let (code, screen) = terminal.ends();
        assert!(code == 2 && screen.contains(said) && !place.path("never.key").exists(), "{screen}");
    }
    // An existing file is told before anything is asked.
    let (code, screen) = Terminal::run(&place, "sealwire keygen --passphrase -o typed.key").ends();
    assert!(code == 2 && screen.contains("never overwritten") && !screen.contains("New"), "{screen}");
    // Standard input is free for data, and several keys are asked for by name.
    place.write("sealed", &place.run(["seal", "-r", &recipient], b"payload").silent().out);
    let mut terminal = Terminal::run(&place, "sealwire open -k typed.key -k alice.key -k safe.key < sealed > opened");
    terminal.shows("Passphrase of typed.key: ");
    terminal.types("b\u{e4}ttery staple\n");
    terminal.shows("Passphrase of safe.key: ");
    assert!(!terminal.echoes());
    terminal.types("correct horse\n");
    let (code, screen) = terminal.ends();
    assert_eq!((code, screen.as_str()), (0, "Passphrase of typed.key: \nPassphrase of safe.key: \n"));
    assert_eq!(place.read("opened"), b"payload");
    let mut terminal = Terminal::run(&place, "sealwire recipient safe.key");
    terminal.shows("safe.key: ");
    terminal.types("incorrect\n");
    let (code, screen) = terminal.ends();
    assert!(code == 2 && screen.ends_with("\nsealwire: safe.key: the passphrase is wrong\n"), "{screen}");
    // The end of the input is no passphrase.
    let mut terminal = Terminal::run(&place, "sealwire recipient safe.key");
    terminal.shows("safe.key: ");
    terminal.types("\u{4}");
    let (code, screen) = terminal.ends();
    assert!(code == 2 && screen.contains("the passphrase is empty"), "{screen}");
}

/// A signal while nothing is shown: what is typed is shown again, and the exit code is the signal's.
#[test]
fn a_signal_leaves_the_terminal_as_it_was() {
    let (place, _) = protected();
    for signal in [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT] {
        // The shell is replaced, so that the child is the program.
        let mut terminal = Terminal::run(&place, "exec sealwire passphrase safe.key");
        terminal.shows("Passphrase of safe.key: ");
        assert!(!terminal.echoes());
        if signal == Signal::INT {
            terminal.types("half a passphrase\u{3}");
        } else {
            kill_process(Pid::from_child(&terminal.child), signal).unwrap();
        }
        let (code, screen) = terminal.ends();
        assert_eq!(code, 128 + signal.as_raw(), "{screen}");
    }
    assert!(alone(&place, &["recipient", "safe.key", "--passphrase-file", "pass"], b"").code == 0);
}

/// Two that ask on one terminal take turns: neither shows what is typed for the other, and it is left as it was.
#[test]
fn one_asks_at_a_time() {
    let (place, recipient) = protected();
    private(&place, "beta", "battery staple\n");
    assert_eq!(place.run(["keygen", "--sender", "--passphrase-file", "beta", "-o", "me.key"], b"").code, 0);
    place.write("sealed", &place.run(["seal", "-r", &recipient], b"payload").silent().out);
    for redirected in ["", "2> errors"] {
        let script = format!(
            "(sealwire open -k safe.key sealed | sealwire seal -r {} --sign-with me.key > again) {redirected}",
            place.recipient
        );
        let mut terminal = Terminal::run(&place, &script);
        for turn in 0..2 {
            // Whichever comes first.
            let until = Instant::now() + PATIENCE;
            while !terminal.screen.ends_with(": ") && Instant::now() < until {
                let Ok(more) = terminal.said.recv_timeout(PATIENCE) else { break };
                terminal.screen.push_str(&String::from_utf8(more).unwrap());
            }
            // As long as the other would need to ask too.
            std::thread::sleep(Duration::from_millis(300));
            assert_eq!(terminal.screen.matches("Passphrase of").count(), turn + 1, "{:?}", terminal.screen);
            assert!(!terminal.echoes());
            let of_safe = terminal.screen.ends_with("Passphrase of safe.key: ");
            terminal.screen.push('\n');
            terminal.types(if of_safe { "correct horse\n" } else { "battery staple\n" });
        }
        let (code, screen) = terminal.ends();
        assert!(code == 0 && !screen.contains("horse") && !screen.contains("staple"), "{screen}");
        assert_eq!(place.run(["open", "-k", "alice.key", "again"], b"").silent().out, b"payload");
    }
}

/// Ctrl-Z does not stop the program while it asks; stopped by others, it shows nothing when it goes on.
#[test]
fn a_prompt_outlives_being_stopped() {
    use nix::sys::termios::{SetArg, SpecialCharacterIndices, tcsetattr};
    let (place, recipient) = protected();
    let mut terminal = Terminal::run(&place, "exec sealwire recipient safe.key");
    let before = tcgetattr(&terminal.slave).unwrap();
    terminal.shows("Passphrase of safe.key: ");
    let asking = tcgetattr(&terminal.slave).unwrap();
    let key = |modes: &nix::sys::termios::Termios| modes.control_chars[SpecialCharacterIndices::VSUSP as usize];
    assert_eq!((key(&before), key(&asking)), (0x1a, 0));
    // The shell takes the terminal meanwhile, and leaves it as it likes it.
    let program = Pid::from_child(&terminal.child);
    kill_process(program, Signal::STOP).unwrap();
    tcsetattr(&terminal.slave, SetArg::TCSANOW, &before).unwrap();
    assert!(terminal.echoes());
    kill_process(program, Signal::CONT).unwrap();
    let until = Instant::now() + PATIENCE;
    while terminal.echoes() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(!terminal.echoes() && key(&tcgetattr(&terminal.slave).unwrap()) == 0);
    terminal.types("correct horse\n");
    let slave = terminal.slave.try_clone().unwrap();
    let (code, screen) = terminal.ends();
    assert!(code == 0 && screen.contains(&recipient) && !screen.contains("horse"), "{screen}");
    assert_eq!(key(&tcgetattr(&slave).unwrap()), 0x1a);
}

/// What a passphrase would not cover is told: a key in a comment, before anything is done, and other names of the file.
#[test]
fn what_stays_bare_is_told() {
    let (place, _) = protected();
    private(&place, "new", "battery staple");
    let plain = text(&place, "alice.key");
    let key = plain.lines().last().unwrap();
    let pem = Cmk::from_text(key).unwrap().to_pem().unwrap().replace('\n', "\n# ");
    let safe = text(&place, "safe.key");
    let age = "AGE-SECRET-KEY-1EGTZVFFV20835NWYV6270LXYVK2VKNX2MMDKWYKLMGR48UAWX40Q2P2LM0";
    for content in [
        format!("{plain}# {key}\n"),
        format!("# old: {}\n{plain}", key.to_lowercase()),
        format!("# {age}\n{plain}"),
        format!("# {pem}\n{plain}"),
        format!("# {key}\n{safe}"),
    ] {
        private(&place, "beside.key", &content);
        let args = ["passphrase", "beside.key", "--passphrase-file", "pass", "--new-passphrase-file", "new"];
        alone(&place, &args, b"").failed(2, "beside.key: a secret key stands in its comments too");
        assert_eq!(text(&place, "beside.key"), content);
    }
    // Where the passphrase is taken off there is nothing to hide.
    assert_eq!(alone(&place, &["passphrase", "beside.key", "--passphrase-file", "pass", "--remove"], b"").code, 0);
    // One descriptor gives one passphrase, whatever else it holds.
    let both = ["passphrase", "safe.key", "--passphrase-fd", "0", "--new-passphrase-fd", "0"];
    alone(&place, &both, b"correct horse").failed(2, "--passphrase-fd and --new-passphrase-fd name one descriptor");
    assert_eq!(text(&place, "safe.key"), safe);
    // Other names keep what the file held.
    fs::hard_link(place.path("alice.key"), place.path("other")).unwrap();
    let ran = alone(&place, &["passphrase", "alice.key", "--new-passphrase-file", "new"], b"");
    assert!(ran.code == 0 && ran.err.contains("warning: alice.key has other names (hard links: 1)"), "{}", ran.err);
    assert_eq!(text(&place, "other"), plain);
}

/// While the program waits for its input, of a key that it has read there is no string left, nor of the passphrase.
#[cfg(target_os = "linux")]
#[test]
fn no_string_of_a_key_stays_in_memory() {
    let place = Place::new();
    const WORDS: &str = "unmistakable-words-of-a-passphrase";
    private(&place, "pass", WORDS);
    private(&place, "age.key", "AGE-SECRET-KEY-1EGTZVFFV20835NWYV6270LXYVK2VKNX2MMDKWYKLMGR48UAWX40Q2P2LM0\n");
    assert_eq!(place.run(["keygen", "--sender", "-o", "me.key"], b"").code, 0);
    assert_eq!(place.run(["keygen", "--pq", "-o", "pq.key"], b"").code, 0);
    let signs = ["seal", "-r", &place.recipient, "--sign-with"];
    for (name, command) in
        [("alice.key", &["open", "-k"][..]), ("pq.key", &["open", "-k"]), ("me.key", &signs), ("age.key", &["open", "-k"])]
    {
        // The part behind what it begins with, and before the end, which is read alike in all of them.
        let string = text(&place, name).lines().last().unwrap().to_owned();
        let secret = string.rsplit_once('1').unwrap().1.get(8..40).unwrap().to_owned();
        for protect in [false, true] {
            if protect {
                assert_eq!(alone(&place, &["passphrase", name, "--new-passphrase-file", "pass"], b"").code, 0);
            }
            rustix::fs::mknodat(rustix::fs::CWD, place.path("fifo"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
            let mut child = place.command(command.iter().chain(&[name, "--passphrase-file", "pass", "-o", "out", "fifo"]));
            let mut child = child.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
            // It opens its input when it has read its keys, and this waits for it.
            let input = File::options().write(true).open(place.path("fifo")).unwrap();
            let memory = memory_of(child.id());
            let times = |needle: &str| memory.windows(needle.len()).filter(|part| *part == needle.as_bytes()).count();
            assert!(times(name) > 0, "the scan finds what is there");
            let found = [&secret[..], &secret.to_lowercase(), WORDS].map(times);
            assert_eq!(found, [0; 3], "{name}, {}", if protect { "protected" } else { "plain" });
            drop(input);
            child.wait().unwrap();
            fs::remove_file(place.path("fifo")).unwrap();
            let _ = fs::remove_file(place.path("out"));
        }
    }
}

/// All that a process could write to.
#[cfg(target_os = "linux")]
fn memory_of(process: u32) -> Vec<u8> {
    use std::os::unix::fs::FileExt;
    let memory = File::open(format!("/proc/{process}/mem")).unwrap();
    let mut all = Vec::new();
    for line in fs::read_to_string(format!("/proc/{process}/maps")).unwrap().lines() {
        let (range, rest) = line.split_once(' ').unwrap();
        let (start, end) = range.split_once('-').unwrap();
        let [start, end] = [start, end].map(|address| u64::from_str_radix(address, 16).unwrap());
        let mut part = vec![0; (end - start) as usize];
        if rest.starts_with("rw") && memory.read_exact_at(&mut part, start).is_ok() {
            all.append(&mut part);
        }
    }
    all
}

#[test]
fn a_passphrase_is_put_on_changed_and_taken_off() {
    let place = Place::new();
    private(&place, "one", "one");
    private(&place, "two", "two");
    let plain = text(&place, "alice.key");
    let recipient_with = |pass: &str| alone(&place, &["recipient", "alice.key", "--passphrase-file", pass], b"");
    let change = |args: &[&str]| {
        let ran = alone(&place, &[&["passphrase", "alice.key"], args].concat(), b"");
        assert_eq!(mode(&place.path("alice.key")), 0o600);
        assert!(place.names(".").iter().all(|name| !name.ends_with(".part")));
        ran
    };
    let said = change(&["--new-passphrase-file", "one"]);
    assert_eq!((said.code, said.err.as_str()), (0, "alice.key: protected with the new passphrase\n"));
    let head = plain.split("SW-").next().unwrap();
    assert!(text(&place, "alice.key").starts_with(&format!("{head}SW-PROTECTED-KEY-1")));
    assert_eq!(recipient_with("one").silent().line(), place.recipient);
    // Whoever does not know it changes nothing.
    let before = place.read("alice.key");
    change(&["--passphrase-file", "two", "--new-passphrase-file", "two"]).failed(2, "alice.key: the passphrase is wrong");
    change(&["--passphrase-file", "two", "--remove"]).failed(2, "alice.key: the passphrase is wrong");
    change(&["--new-passphrase-file", "two"]).failed(2, "no terminal");
    change(&["--passphrase-file", "one", "--new-passphrase-file", "/dev/null"]).failed(2, "empty");
    assert_eq!(change(&["--passphrase-file", "one", "--new-passphrase-file", "two", "--remove"]).code, 2);
    assert_eq!(place.read("alice.key"), before);
    assert_eq!(change(&["--passphrase-file", "one", "--new-passphrase-file", "two"]).code, 0);
    recipient_with("one").failed(2, "wrong");
    assert_eq!(recipient_with("two").silent().line(), place.recipient);
    // Through a symbolic link, which stays.
    std::os::unix::fs::symlink("alice.key", place.path("link")).unwrap();
    let ran = alone(&place, &["passphrase", "--passphrase-file", "two", "--remove", "link"], b"");
    assert!(ran.code == 0 && ran.err == "link: no longer protected: keep it where nobody else can read it\n", "{}", ran.err);
    assert!(fs::symlink_metadata(place.path("link")).unwrap().is_symlink());
    assert_eq!((text(&place, "alice.key"), mode(&place.path("alice.key"))), (plain, 0o600));
    change(&["--remove"]).failed(2, "it has no passphrase");
    // On a terminal: the old one is tried before a new one is asked for.
    assert_eq!(change(&["--new-passphrase-file", "one"]).code, 0);
    let mut terminal = Terminal::run(&place, "sealwire passphrase alice.key");
    terminal.shows("Passphrase of alice.key: ");
    terminal.types("one\n");
    terminal.shows("New passphrase of alice.key: ");
    terminal.types("two\n");
    terminal.shows("The same again: ");
    terminal.types("two\n");
    assert_eq!(terminal.ends().0, 0);
    assert_eq!(recipient_with("two").silent().line(), place.recipient);
    // Documents and keys of age become strings; what is no key file stays.
    let age = "# public key: age1xmwwc06ly3ee5rytxm9mflaz2u56jjj36s0mypdrwsvlul66mv4q47ryef\nAGE-SECRET-KEY-1EGTZVFFV20835NWYV6270LXYVK2VKNX2MMDKWYKLMGR48UAWX40Q2P2LM0\n";
    private(&place, "age.key", age);
    let recipient = place.run(["recipient", "age.key"], b"").silent().line();
    assert_eq!(alone(&place, &["passphrase", "age.key", "--new-passphrase-file", "one"], b"").code, 0);
    assert!(text(&place, "age.key").starts_with("# public key: age1xmww") && !text(&place, "age.key").contains("AGE-SECRET"));
    assert_eq!(alone(&place, &["recipient", "age.key", "--passphrase-file", "one"], b"").silent().line(), recipient);
    alone(&place, &["passphrase", "one", "--new-passphrase-file", "two"], b"").failed(2, "no key that is known here");
    assert_eq!(text(&place, "one"), "one");
    alone(&place, &["passphrase", "nowhere", "--new-passphrase-file", "two"], b"").failed(7, "nowhere");
}

/// Where the passphrase is what the key file holds, nobody would have it once the file is replaced.
#[test]
fn a_key_file_is_no_passphrase() {
    let (place, _) = protected();
    fs::copy(place.path("alice.key"), place.path("copy")).unwrap();
    fs::hard_link(place.path("alice.key"), place.path("hard")).unwrap();
    std::os::unix::fs::symlink("alice.key", place.path("soft")).unwrap();
    // A name tells nothing: what was opened is one line, and would do.
    let one_line = text(&place, "alice.key").lines().last().unwrap().to_owned();
    private(&place, "line.key", &one_line);
    private(&place, "lower", &one_line.to_lowercase());
    private(&place, "two-lines", "correct horse\nbattery staple\n");
    let shell = |script: &str| shell(&place, script);
    let names = ["alice.key", "line.key", "safe.key"];
    let before = names.map(|name| place.read(name));
    for (script, said) in [
        ("sealwire passphrase alice.key --new-passphrase-file alice.key", "alice.key is the key file itself"),
        ("sealwire passphrase alice.key --new-passphrase-file hard", "hard is the key file itself"),
        ("sealwire passphrase alice.key --new-passphrase-file soft", "soft is the key file itself"),
        ("sealwire passphrase soft --new-passphrase-file alice.key", "alice.key is the key file itself"),
        ("sealwire passphrase alice.key --new-passphrase-fd 3 3< alice.key", "/dev/fd/3 is the key file itself"),
        ("sealwire passphrase alice.key --new-passphrase-fd 0 < hard", "/dev/fd/0 is the key file itself"),
        ("sealwire passphrase safe.key --passphrase-file pass --new-passphrase-file safe.key", "safe.key is the key file itself"),
        ("sealwire passphrase safe.key --passphrase-file safe.key --new-passphrase-file pass", "safe.key is the key file itself"),
        ("sealwire passphrase safe.key --passphrase-fd 3 --remove 3< safe.key", "/dev/fd/3 is the key file itself"),
        // The same content from elsewhere.
        (
            "sealwire passphrase alice.key --new-passphrase-file copy",
            "copy: there is a secret key where the passphrase should be",
        ),
        ("sealwire passphrase line.key --new-passphrase-fd 0 < <(cat line.key)", "there is a secret key where the passphrase"),
        ("sealwire passphrase line.key --new-passphrase-file lower", "there is a secret key where the passphrase"),
        ("tail -n 1 safe.key | sealwire passphrase line.key --new-passphrase-fd 0", "there is a secret key where the passphrase"),
        ("sealwire passphrase alice.key --new-passphrase-file two-lines", "the passphrase has more than one line"),
        ("sealwire keygen --passphrase-file two-lines -o new.key", "two-lines: the passphrase has more than one line"),
    ] {
        shell(script).failed(2, said);
        assert_eq!(names.map(|name| place.read(name)), before, "{script}");
    }
    assert!(!place.path("new.key").exists());
}

/// `protected-cmk` of spec/vectors/keys.json, which costs little: under "correct horse".
const CHEAP: &str = "SW-PROTECTED-KEY-1QYQQQQQPQQQQQZQP5ZS69GAY5KN2029F4246ETDW4LWFA0ZLPFDY2KRMHLM3EUJRGV9VPUMZM2PFVM6VAYFXSDH243E4JAVXKVWT56A3HNXRPP48MUAHVNTGG2PLEE3MW0TAQYLAJ3VGK5NW22PSN6722WM9CENPRZDD3NWNG4THQ0YZK6JZ4M5A7N046GGMA7NU7C2XSWD92HGA48YNF52L6JUUTFJM8ZX50DQK8PK25JQ27QFA4W";
const ITS_KEY: &str = "SW-SECRET-CMK-1QQSPZYG3ZYG3ZYG3ZYG3ZYG3ZYG3ZYG3ZYG3ZYG3ZYG3ZYG3ZYG3ZYGE7FA0L";

/// A new key file gets its name when it is whole: nobody finds an empty one, which would be in the way of the next.
#[cfg(target_os = "linux")]
#[test]
fn a_new_key_file_is_whole() {
    use rustix::fs::inotify::{CreateFlags, ReadFlags, Reader, WatchFlags, add_watch, init};
    let (place, _) = protected();
    fs::create_dir(place.path("w")).unwrap();
    for more in [&[][..], &["--sender"], &["--pq"], &["--passphrase-file", "pass"]] {
        let watch = init(CreateFlags::NONBLOCK).unwrap();
        add_watch(&watch, place.path("w"), WatchFlags::CREATE | WatchFlags::MODIFY | WatchFlags::MOVED_TO).unwrap();
        assert_eq!(place.run([&["keygen", "-o", "w/new.key"], more].concat(), b"").code, 0);
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
        let (mut events, mut seen) = (Reader::new(&watch, &mut buffer), Vec::new());
        while let Ok(event) = events.next() {
            if event.file_name().is_some_and(|name| name.to_bytes() == b"new.key") {
                seen.push(event.events());
            }
        }
        assert!(seen == [ReadFlags::MOVED_TO] || seen == [ReadFlags::CREATE], "{seen:?}");
        assert_eq!((place.names("w"), mode(&place.path("w/new.key"))), (vec!["new.key".to_owned()], 0o600));
        fs::remove_file(place.path("w/new.key")).unwrap();
    }
    // What is there stays, and so does what a link that leads nowhere names.
    std::os::unix::fs::symlink("nowhere", place.path("w/link")).unwrap();
    place.run(["keygen", "-o", "w/link"], b"").failed(2, "never overwritten");
    place.run(["keygen", "-o", "w/none/new.key"], b"").failed(7, "w/none/new.key");
    assert_eq!(place.names("w"), ["link"]);
    // No room for it: nothing is left.
    let script = format!("ulimit -f 0; exec {PROGRAM} keygen -o w/full.key");
    let ran =
        Ran::of(Command::new("sh").args(["-c", &script]).current_dir(place.path(".")).stdin(Stdio::null()).output().unwrap());
    ran.failed(7, "w/full.key");
    assert_eq!(place.names("w"), ["link"]);
}

/// Whatever ends the command, the key file holds the key: as it was, or as it is to be.
#[test]
fn a_key_is_never_lost() {
    use std::os::unix::process::ExitStatusExt;
    let place = Place::new();
    private(&place, "pass", "correct horse\n");
    fs::create_dir(place.path("w")).unwrap();
    let (old, new) = (format!("# mine\n{CHEAP}\n"), format!("# mine\n{ITS_KEY}\n"));
    let args = ["passphrase", "--passphrase-file", "pass", "--remove", "w/key"];
    let start = || {
        fs::write(place.path("w/key"), &old).unwrap();
        fs::set_permissions(place.path("w/key"), fs::Permissions::from_mode(0o600)).unwrap();
        (detached(&place, &args).spawn().unwrap(), Instant::now())
    };
    let (mut child, started) = start();
    assert!(child.wait().unwrap().success());
    let whole = started.elapsed();
    assert_eq!((text(&place, "w/key"), mode(&place.path("w/key"))), (new.clone(), 0o600));
    let (mut kept, mut changed) = (0, 0);
    // Up to three times as late: the machine may be slower than it was.
    for round in 0..96u32 {
        let (mut child, _) = start();
        std::thread::sleep(whole * round / 32);
        child.kill().unwrap();
        let status = child.wait().unwrap();
        assert!(status.success() || status.signal() == Some(9), "{status}");
        let now = text(&place, "w/key");
        assert!(now == new || (now == old && !status.success()), "{now}");
        assert_eq!(mode(&place.path("w/key")), 0o600);
        for part in place.names("w").iter().filter(|name| *name != "key") {
            assert_eq!(mode(&place.path(&format!("w/{part}"))), 0o600);
            fs::remove_file(place.path(&format!("w/{part}"))).unwrap();
        }
        (kept, changed) = (kept + usize::from(now == old), changed + usize::from(now == new));
    }
    assert!(kept > 5 && changed > 5, "all kills came at the same moment: {kept} before, {changed} after");
    // No room for another file: the old one stays.
    fs::write(place.path("w/key"), &old).unwrap();
    let script = format!("ulimit -f 0; exec {PROGRAM} {}", args.join(" "));
    let ran =
        Ran::of(Command::new("sh").args(["-c", &script]).current_dir(place.path(".")).stdin(Stdio::null()).output().unwrap());
    ran.failed(7, "too large");
    assert_eq!((text(&place, "w/key"), place.names("w")), (old, vec!["key".to_owned()]));
}
