//! The program, as its user runs it: files, pipes, exit codes, and what it says.
#![cfg(unix)]

use std::{fs, os::unix::fs::PermissionsExt, time::Instant};

use program::{Place, Ran, mode, peak_of};

mod program;

fn seal(place: &Place, args: &[&str], payload: &[u8]) -> Vec<u8> {
    place.run(["seal", "-r", &place.recipient].iter().chain(args), payload).silent().out
}

fn open(place: &Place, args: &[&str], envelope: &[u8]) -> Ran {
    place.run(["open", "-k", "alice.key"].iter().chain(args), envelope)
}

#[test]
fn a_session() {
    let place = Place::new();
    assert_eq!(mode(&place.path("alice.key")), 0o600);
    let file = String::from_utf8(place.read("alice.key")).unwrap();
    assert!(file.starts_with("# created: 20") && file.contains(&place.recipient) && file.contains("\nSW-SECRET-CMK-1"));
    assert_eq!(place.run(["recipient", "alice.key"], b"").silent().line(), place.recipient);
    let fingerprint = place.run(["recipient", "--fingerprint", "alice.key"], b"").silent().line();
    assert_eq!(fingerprint.split(' ').map(str::len).collect::<Vec<_>>(), [5; 6]);
    place.write("in", b"payload");
    place.run(["seal", "-r", &place.recipient, "-o", "sealed", "in"], b"").silent();
    assert_eq!(place.read("sealed").len(), 7 + 185);
    place.run(["open", "-k", "alice.key", "-o", "out", "sealed"], b"").silent();
    assert_eq!(place.read("out"), b"payload");
    assert_eq!(open(&place, &[], &seal(&place, &["-"], b"piped")).silent().out, b"piped");
    assert!(open(&place, &["--check"], &seal(&place, &[], b"piped")).silent().out.is_empty());
    assert_eq!(place.names("."), ["alice.key", "in", "out", "sealed"]);
}

#[test]
fn options_of_seal() {
    let place = Place::new();
    let other = place.keygen("bob.key");
    for (args, len) in [
        (&["--hints", "none"][..], 185),
        (&["--hints", "static"], 185),
        (&["--enc-per-slot"], 185),
        (&["--context", "orders/7"], 193),
        (&["--pad"], 193),
        (&["-r", &other], 237),
        (&["--segment-size", "4KiB"], 185),
    ] {
        let sealed = seal(&place, args, &[1; 64]);
        assert_eq!(sealed.len(), 64 + len, "{args:?}");
        assert_eq!(open(&place, &[], &sealed).silent().out, [1; 64], "{args:?}");
    }
    place.write("list", format!("# team\n{}\n{other}\n", place.recipient).as_bytes());
    let sealed = place.run(["seal", "-R", "list"], b"to both").silent().out;
    assert_eq!(place.run(["open", "-k", "bob.key"], &sealed).silent().out, b"to both");
    let large = vec![7; 16 << 20];
    assert_eq!(open(&place, &[], &seal(&place, &[], &large)).silent().out, large);
}

/// Exit codes, as `--help` lists them.
#[test]
fn exit_codes() {
    let place = Place::new();
    place.keygen("bob.key");
    let envelope = seal(&place, &["--context", "c"], b"payload");
    let flipped = |at: usize| {
        let mut changed = envelope.clone();
        changed[at] ^= 1;
        changed
    };
    place.run(["open", "-k", "nowhere.key"], b"").failed(7, "nowhere.key");
    place.run(["open", "-k", "bob.key"], &envelope).failed(3, "no matching key");
    open(&place, &[], &flipped(130)).failed(4, "header_mac");
    open(&place, &[], &flipped(envelope.len() - 1)).failed(4, "not authentic");
    open(&place, &["--expect-context", "d"], &envelope).failed(4, "context");
    open(&place, &["--expect-context", "c"], &envelope).silent();
    open(&place, &[], &envelope[..100]).failed(5, "truncated");
    open(&place, &[], b"").failed(5, "truncated");
    open(&place, &[], &flipped(0)).failed(6, "malformed: magic");
    open(&place, &[], &flipped(3)).failed(6, "unsupported: version");
    open(&place, &[], &[&envelope[..], b"x"].concat()).failed(6, "trailing");
    place.run(["seal", "-r", "swr1nonsense"], b"").failed(2, "-r: the key string is damaged");
    place.run(["seal", "-r", &place.recipient, "-r", &place.recipient], b"").failed(2, "twice");
    assert_eq!(place.run(["seal"], b"").code, 2);
    place.run(["seal", "-r", &place.recipient, "-o", "no/such/folder/x"], b"").failed(7, "no/such/folder");
    place.run(["seal", "-r", &place.recipient, "missing"], b"").failed(7, "missing");
    place.run(["seal", "-r", &place.recipient, "-o", "/dev/full"], b"x").failed(7, "/dev/full");
    let help = place.run(["--help"], b"").silent();
    let help = String::from_utf8(help.out).unwrap();
    assert!((0..=7).filter(|n| *n != 1).all(|n| help.contains(&format!("\n  {n}  "))));
}

#[test]
fn output_appears_whole_or_not_at_all() {
    let place = Place::new();
    let envelope = seal(&place, &[], b"new");
    place.write("out", b"old");
    open(&place, &["-o", "out"], &envelope).failed(2, "--force");
    assert_eq!(place.read("out"), b"old");
    let mut broken = envelope.clone();
    *broken.last_mut().unwrap() ^= 1;
    open(&place, &["--force", "-o", "out"], &broken).failed(4, "not authentic");
    assert_eq!(place.read("out"), b"old");
    open(&place, &["-o", "fresh"], &broken).failed(4, "not authentic");
    fs::set_permissions(place.path("out"), fs::Permissions::from_mode(0o600)).unwrap();
    open(&place, &["--force", "-o", "out"], &envelope).silent();
    assert_eq!(mode(&place.path("out")), 0o600);
    assert_eq!(place.read("out"), b"new");
    std::os::unix::fs::symlink("out", place.path("link")).unwrap();
    open(&place, &["--force", "-o", "link"], &seal(&place, &[], b"newer")).silent();
    assert_eq!(place.read("out"), b"newer");
    assert!(fs::symlink_metadata(place.path("link")).unwrap().is_symlink());
    assert_eq!(place.names("."), ["alice.key", "link", "out"]);
    open(&place, &["-o", "/dev/null"], &envelope).silent();
}

#[test]
fn key_files_of_the_wrong_kind_are_named_at_once() {
    let place = Place::new();
    let before = place.read("alice.key");
    place.run(["keygen", "-o", "alice.key"], b"").failed(2, "never overwritten");
    assert_eq!(place.read("alice.key"), before);
    place.write("public", place.recipient.as_bytes());
    place.write("two", &[&before[..], &before].concat());
    place.write("empty", b"");
    place.write("ssh", b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n");
    place.write("binary", &[0xff, 0xfe, 0]);
    fs::File::create(place.path("huge")).unwrap().set_len(10 << 30).unwrap();
    let made = std::process::Command::new("mkfifo").arg(place.path("fifo")).status().unwrap();
    assert!(made.success());
    for name in ["public", "two", "empty", "ssh", "binary", "huge"] {
        fs::set_permissions(place.path(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    for (name, said) in [
        ("public", "a recipient, the public half"),
        ("two", "more than one key"),
        ("empty", "no key in it"),
        ("ssh", "an SSH private key"),
        ("binary", "a binary file"),
        ("huge", "10737418240 bytes"),
        ("fifo", "a FIFO"),
        ("/dev/zero", "a device"),
        (".", "a folder"),
    ] {
        let started = Instant::now();
        let ran = place.run(["recipient", name], b"").failed(2, said);
        assert!(started.elapsed().as_secs() < 2, "{name}");
        assert!(!ran.err.contains("SW-SECRET-CMK-1Q"));
    }
    place.run(["seal", "-r", String::from_utf8_lossy(&before).lines().last().unwrap()], b"").failed(2, "a secret key stands");
    let secret = String::from_utf8_lossy(&before).lines().last().unwrap().to_owned();
    for args in [&["recipient", &secret][..], &["open", "-k", &secret], &["seal", "-R", &secret]] {
        let ran = place.run(args, b"").failed(2, "a secret key stands among the arguments");
        assert!(!ran.err.contains("SW-SECRET-CMK-1Q"));
    }
    place.run(["keygen", "-o", "-"], b"").failed(2, "never to standard output");
    place.run(["seal", "-r", "public"], b"").failed(2, "use -R");
    let list: String = (1..=1024u32)
        .map(|i| {
            let mut secret = [7; 32];
            secret[..4].copy_from_slice(&i.to_be_bytes());
            format!("{}\n", sealwire::Cmk::from_x25519(&secret).recipient())
        })
        .collect();
    place.write("list", list.as_bytes());
    assert_eq!(place.run(["seal", "-R", "list"], b"x").silent().out.len(), 1 + 185 + 1023 * 52);
    place.write("bom", &["\u{feff}".as_bytes(), &before].concat());
    fs::set_permissions(place.path("bom"), fs::Permissions::from_mode(0o600)).unwrap();
    place.run(["recipient", "bom"], b"").silent();
    fs::set_permissions(place.path("alice.key"), fs::Permissions::from_mode(0o640)).unwrap();
    let warned = place.run(["recipient", "alice.key"], b"");
    assert_eq!(warned.code, 0);
    assert!(warned.err.starts_with("warning:") && warned.err.contains("chmod 600"));
}

/// Proves CHN-9 for recorded channels: what was delivered stays, and the cut is told.
#[test]
fn lines_of_a_channel() {
    let place = Place::new();
    let text = b"one\n\nthree\n";
    let sealed = seal(&place, &["--channel", "--context", "log"], text);
    assert_eq!(open(&place, &["--channel", "--expect-context", "log"], &sealed).silent().out, text);
    let other = open(&place, &["--channel", "--expect-context", "other"], &sealed).failed(4, "context");
    assert!(other.out.is_empty());
    assert_eq!(open(&place, &["--channel"], &sealed).silent().out, text);
    assert_eq!(open(&place, &["--channel"], &seal(&place, &["--channel"], b"")).silent().out, b"");
    assert_eq!(open(&place, &["--channel"], &seal(&place, &["--channel"], b"no newline")).silent().out, b"no newline\n");
    let cut = open(&place, &["--channel"], &sealed[..sealed.len() - 1]).failed(5, "3 messages arrived whole");
    assert_eq!(cut.out, text);
    open(&place, &["--channel", "-o", "file"], &sealed[..sealed.len() - 1]).failed(5, "truncated");
    assert!(!place.path("file").exists());
    open(&place, &[], &sealed).failed(6, "only in its channel");
    open(&place, &["--channel"], &seal(&place, &[], b"x")).failed(6, "without the channel flag");
}

#[test]
fn inspect_needs_no_key_and_obeys_nobody() {
    let place = Place::new();
    let nasty = "\u{1b}[31mred\u{7}\u{202e}\n\"";
    let sealed = seal(&place, &["--context", nasty], b"x");
    for args in [&["inspect"][..], &["inspect", "--json"]] {
        let ran = place.run(args, &sealed).silent();
        let text = String::from_utf8(ran.out).unwrap();
        assert!(!text.contains(|c: char| (c.is_control() && c != '\n') || c == '\u{202e}'), "{text}");
        assert!(text.contains("red"));
    }
    let channel = seal(&place, &["--channel"], b"a\nb\n");
    let report: serde_json::Value = serde_json::from_slice(&place.run(["inspect", "--json"], &channel).silent().out).unwrap();
    let messages = report["messages"].as_array().unwrap();
    let kinds: Vec<_> = messages.iter().map(|m| m["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["envelope", "follow-up", "follow-up"]);
    let bytes: String =
        messages.iter().flat_map(|m| m["fields"].as_array().unwrap()).map(|f| f["bytes"].as_str().unwrap()).collect();
    assert_eq!(bytes, channel.iter().map(|b| format!("{b:02x}")).collect::<String>());
    let ran = place.run(["inspect"], &channel[..channel.len() - 1]);
    assert_eq!(ran.code, 5);
    assert!(ran.err.contains("truncated") && String::from_utf8(ran.out).unwrap().contains("follow-up at"));
    place.run(["inspect"], b"hello").failed(6, "malformed: magic at offset 0");
}

/// A place with a sender's key file `me.key`; and its public half.
fn with_sender(place: &Place) -> String {
    let made = place.run(["keygen", "--sender", "-o", "me.key"], b"");
    assert_eq!((made.code, made.err.as_str()), (0, "sender's key file: me.key\n"));
    assert_eq!(mode(&place.path("me.key")), 0o600);
    assert_eq!(place.run(["recipient", "me.key"], b"").silent().out, made.out);
    made.line()
}

#[test]
fn whose_messages_are_opened() {
    let place = Place::new();
    let sender = with_sender(&place);
    let bob = place.keygen("bob.key");
    place.write("senders", format!("# whom we know\n{sender}\n").as_bytes());
    let signed = seal(&place, &["--sign-with", "me.key"], b"signed");
    assert_eq!(open(&place, &["--from", &sender], &signed).silent().out, b"signed");
    assert_eq!(open(&place, &["--from", "senders"], &signed).silent().out, b"signed");
    let checked = open(&place, &["--check"], &signed);
    assert!(checked.code == 0 && checked.err.contains(&format!("signed with {sender} (signed)")), "{}", checked.err);
    open(&place, &["--from", &sender], &seal(&place, &[], b"anyone")).failed(4, "no sender proof");
    assert_eq!(
        open(&place, &["--from", &sender, "--accept", "anonymous"], &seal(&place, &[], b"anyone")).silent().out,
        b"anyone"
    );
    place.run(["keygen", "--sender", "-o", "other.key"], b"");
    open(&place, &["--from", &sender], &seal(&place, &["--sign-with", "other.key"], b"x")).failed(4, "standing signed");
    // A signed message to several is signed all the same; a signed channel to several is a group's.
    let both = seal(&place, &["-r", &bob, "--sign-with", "me.key"], b"both");
    assert_eq!(place.run(["open", "-k", "bob.key", "--from", &sender], &both).silent().out, b"both");
    let channel = seal(&place, &["-r", &bob, "--channel", "--sign-with", "me.key"], b"a\nb\n");
    open(&place, &["--channel", "--from", &sender], &channel).failed(4, "standing group");
    let opened = open(&place, &["--channel", "--from", &sender, "--accept", "group"], &channel).silent();
    assert_eq!(opened.out, b"a\nb\n");
    // What a co-recipient, who has the DEK, or anyone else changes is released to nobody.
    let mut changed = signed.clone();
    *changed.last_mut().unwrap() ^= 1;
    assert!(open(&place, &[], &changed).failed(4, "is not authentic").out.is_empty());
    for (args, word) in [
        (&["--from", "nobody"][..], "neither a key nor a file"),
        (&["--from", &place.recipient], "this is a recipient"),
        (&["--from", "me.key"], "this is a sender's secret key"),
    ] {
        open(&place, args, &signed).failed(2, word);
    }
    assert_eq!(open(&place, &["--accept", "group"], &signed).code, 2);
    assert_eq!(open(&place, &["--from", &sender, "--accept", "trusted"], &signed).code, 2);
    place.run(["seal", "-r", &place.recipient, "--sign-with", "alice.key"], b"x").failed(2, "a sender's secret key");
    place.run(["open", "-k", "me.key"], &signed).failed(2, "signs and opens nothing");
}

/// Post-quantum keys: what they are is said, and they do not mix with the others.
#[test]
fn post_quantum_recipients() {
    let place = Place::new();
    let made = place.run(["keygen", "--pq", "-o", "pq.key"], b"");
    assert!(made.code == 0 && made.err.starts_with("post-quantum key file: pq.key"), "{}", made.err);
    let (pq, more) = (made.line(), place.run(["keygen", "--pq", "-o", "more.key"], b"").line());
    assert!(pq.len() == 1959 && pq.starts_with("swr1v3a"), "{pq}");
    assert_eq!(place.run(["keygen", "--pq", "--sender", "-o", "x"], b"").code, 2);
    let told = place.run(["recipient", "pq.key"], b"");
    assert_eq!((told.line(), &told.err[..]), (pq.clone(), "a post-quantum key (X-Wing)\n"));
    place.write("pq.pub", pq.as_bytes());
    let seal_to_it = |args: &[&str]| place.run(["seal", "-R", "pq.pub"].iter().chain(args), b"for a while").silent().out;
    let open = |args: &[&str], sealed: &[u8]| place.run(["open", "-k", "pq.key"].iter().chain(args), sealed);
    for (args, suites) in [(&[][..], "34"), (&["--suite", "3"], "3"), (&["--suite", "4"], "4"), (&["--channel"], "34")] {
        let sealed = seal_to_it(args);
        assert!(suites.contains(char::from(b'0' + sealed[8])), "{args:?}");
        let channel = if args == ["--channel"] { args } else { &[] };
        let opened = open(&[&["--require-pq"], channel].concat(), &sealed).silent().out;
        assert_eq!(opened.trim_ascii_end(), b"for a while");
    }
    // Of a size that is not known only ChaCha20-Poly1305 is sure to take all.
    let sealed = seal_to_it(&["-r", &more]);
    assert_eq!((sealed[8], sealed.len()), (3, 69 + 2 * 1172 + 12 + 4 + 11 + 16));
    let said = String::from_utf8(place.run(["inspect"], &sealed).silent().out).unwrap();
    assert!(said.contains("3: X-Wing, HKDF-SHA256, ChaCha20-Poly1305") && said.contains("X-Wing: ML-KEM-768, X25519"), "{said}");
    // One kind at a time, and one suite's.
    place.run(["seal", "-R", "pq.pub", "-r", &place.recipient], b"x").failed(2, "cannot be mixed in one DEK block");
    place.run(["seal", "-R", "pq.pub", "--suite", "1"], b"x").failed(2, "suite 1 is for X25519 recipients");
    place.run(["seal", "-r", &place.recipient, "--suite", "4"], b"x").failed(2, "suite 4 is for X-Wing recipients");
    place.write("sealed", &sealed);
    place.run(["rewrap", "-k", "pq.key", "--add", &place.recipient, "sealed"], b"").failed(2, "cannot be mixed");
    place.run(["rewrap", "-k", "pq.key", "--remove", &more, "sealed"], b"").silent();
    place.run(["open", "-k", "more.key", "sealed"], b"").failed(3, "no matching key");
    place.run(["rewrap", "-k", "pq.key", "--replace-all", "--add", &more, "sealed"], b"").silent();
    assert_eq!(place.run(["open", "-k", "more.key", "--require-pq", "sealed"], b"").silent().out, b"for a while");
    let classical = seal(&place, &[], b"x");
    place.run(["rewrap", "-k", "alice.key", "--add", "pq.pub", "-"], &classical).failed(2, "cannot be mixed");
    place
        .run(["open", "-k", "alice.key", "--require-pq"], &classical)
        .failed(4, "is not post-quantum, and that is required here");
    assert_eq!(place.run(["open", "-k", "pq.key", "-k", "alice.key"], &classical).silent().out, b"x");
}

/// What age made is taken where ours is, and told from what it makes for others.
#[test]
fn keys_of_age() {
    let place = Place::new();
    let secret = "AGE-SECRET-KEY-143WN7DCXU4G8R5AXQSSYD9AEPYDNT3HXSLWSPK36CDU6E8M59SSSAGZ3KG";
    let public = "age1f3ygt5e2d2h7d6dae2tnwgy4y6f0kwhvpa64cre0k2gprv2r8qnst4j00y";
    place.write("age.txt", format!("# created: 2026-01-01T00:00:00Z\n# public key: {public}\n{secret}\n").as_bytes());
    fs::set_permissions(place.path("age.txt"), fs::Permissions::from_mode(0o600)).unwrap();
    let ours = place.run(["recipient", "age.txt"], b"").silent().line();
    assert!(ours.starts_with("swr1"));
    place.write("list", format!("{}\n# age\n{public}\n", place.recipient).as_bytes());
    for args in [&["seal", "-r", public][..], &["seal", "-R", "list"], &["seal", "-r", &ours]] {
        let sealed = place.run(args, b"payload").silent().out;
        assert_eq!(place.run(["open", "-k", "age.txt"], &sealed).silent().out, b"payload", "{args:?}");
    }
    place.write("sealed", &seal(&place, &[], b"payload"));
    place.run(["rewrap", "-k", "alice.key", "--add", public, "--remove", &place.recipient, "sealed"], b"").silent();
    place.run(["open", "-k", "alice.key", "sealed"], b"").failed(3, "no matching key");
    assert_eq!(place.run(["open", "-k", "age.txt", "sealed"], b"").silent().out, b"payload");
    // The same key twice, in two forms.
    place.run(["seal", "-r", public, "-r", &ours], b"").failed(2, "twice");
    place.run(["seal", "-r", "age1pq1qqqq"], b"").failed(2, "-r: this is an age recipient of another kind than X25519");
    place.run(["seal", "-r", &public.replace("f3y", "f3z")], b"").failed(2, "the checksum does not hold");
    place.run(["seal", "-R", "age.txt"], b"").failed(2, "age.txt, line 3: this is an age key, which is secret");
    place.write("plugin", b"AGE-PLUGIN-YUBIKEY-1QQQQ\n");
    fs::set_permissions(place.path("plugin"), fs::Permissions::from_mode(0o600)).unwrap();
    place.run(["open", "-k", "plugin", "sealed"], b"").failed(2, "plugin: this is an age key of another kind than X25519");
    place.run(["open", "-k", "age.txt", "--from", public, "sealed"], b"").failed(2, "this is an age recipient");
}

#[test]
fn recipients_change_without_the_data() {
    let place = Place::new();
    let (bob, carol) = (place.keygen("bob.key"), place.keygen("carol.key"));
    let open_as = |key: &str, sealed: &[u8]| place.run(["open", "-k", key], sealed);
    let payload: Vec<u8> = (0..200_000u32).map(|i| (i % 251) as u8).collect();
    let sealed = seal(&place, &[], &payload);
    place.write("sealed", &sealed);
    fs::set_permissions(place.path("sealed"), fs::Permissions::from_mode(0o640)).unwrap();
    place.run(["rewrap", "-k", "alice.key", "--add", &bob, "sealed"], b"").silent();
    assert_eq!((mode(&place.path("sealed")), open_as("bob.key", &place.read("sealed")).silent().out), (0o640, payload.clone()));
    assert!(place.read("sealed")[153 + 84..] == sealed[153..], "the data is the same bytes");
    place.write("carol.pub", carol.as_bytes());
    place
        .run(["rewrap", "-k", "bob.key", "--remove", &place.recipient, "--add", "carol.pub", "-o", "new", "sealed"], b"")
        .silent();
    open_as("alice.key", &place.read("new")).failed(3, "no matching key");
    assert_eq!(open_as("carol.key", &place.read("new")).silent().out, payload);
    let piped =
        place.run(["rewrap", "-k", "carol.key", "--replace-all", "--add", &place.recipient, "-"], &place.read("new")).silent();
    assert_eq!(open_as("alice.key", &piped.out).silent().out, payload);
    // Headers without their data, several at a time; the ones that cannot be done keep their bytes.
    fs::create_dir(place.path("headers")).unwrap();
    (0..5).for_each(|i| drop(place.write(&format!("headers/{i}"), &sealed[..153])));
    place.write("headers/2", &sealed[..100]);
    let files: Vec<_> = (0..5).map(|i| format!("headers/{i}")).collect();
    let some = place.run(["rewrap", "-k", "alice.key", "--add", &bob].into_iter().chain(files.iter().map(String::as_str)), b"");
    some.failed(5, "headers/2: truncated: dek block");
    assert_eq!(place.names("headers"), ["0", "1", "2", "3", "4"]);
    assert_eq!(place.read("headers/2"), sealed[..100]);
    for i in [0, 1, 3, 4] {
        let whole = [&place.read(&format!("headers/{i}"))[..], &sealed[153..]].concat();
        assert_eq!(open_as("bob.key", &whole).silent().out, payload);
    }
    // Nothing is half written: a cut file stays as it is, and so does one with bytes behind it.
    for (broken, code, word) in [
        (sealed[..sealed.len() - 1].to_vec(), 5, "truncated: segment"),
        ([&sealed[..], b"x"].concat(), 6, "trailing bytes"),
        (seal(&place, &["--channel"], b"a\n"), 6, "recorded channel"),
    ] {
        place.write("broken", &broken);
        place.run(["rewrap", "-k", "alice.key", "--add", &bob, "broken"], b"").failed(code, word);
        assert_eq!(place.read("broken"), broken);
    }
    assert_eq!(place.names(".").iter().filter(|name| name.ends_with(".part")).count(), 0);
    let hintless = seal(&place, &["--hints", "none", "-r", &bob], b"x");
    place.write("hintless", &hintless);
    for (args, code, word) in [
        (&["--remove", &carol, "sealed"][..], 2, "is not among the recipients"),
        (&["--remove", &bob, "hintless"], 2, "sealed without hints"),
        (&["sealed"], 2, "nothing to change"),
        (&["--add", &carol, "-o", "x", "sealed", "new"], 2, "-o takes one FILE"),
        (&["--add", &place.recipient, "new"], 3, "no matching key"),
        (&["--add", "me", "sealed"], 2, "neither a key nor a file"),
    ] {
        place.run(["rewrap", "-k", "alice.key"].iter().chain(args), b"").failed(code, word);
    }
}

/// What becomes of a proof when the recipients change, at the command line.
#[test]
fn a_proof_outlives_a_rewrap() {
    let place = Place::new();
    let (sender, bob) = (with_sender(&place), place.keygen("bob.key"));
    place.write("sealed", &seal(&place, &["--sign-with", "me.key"], b"letter"));
    place.run(["rewrap", "-k", "alice.key", "--add", &bob, "sealed"], b"").silent();
    let passed_on = place.read("sealed");
    place.run(["open", "-k", "bob.key", "--from", &sender], &passed_on).failed(4, "signed-rewrapped");
    let opened = place.run(["open", "-k", "bob.key", "--from", &sender, "--accept", "signed-rewrapped"], &passed_on).silent();
    assert_eq!(opened.out, b"letter");
}

/// The demo's numbers, read as a machine reads them; and its promise of size and time.
#[test]
fn the_demo_shows_what_it_says() {
    let place = Place::new();
    let started = Instant::now();
    let text = place.run(["demo"], b"").silent();
    assert!(started.elapsed().as_secs() < 30, "a debug build on a busy machine");
    let text = String::from_utf8(text.out).unwrap();
    assert!(text.lines().count() <= 40, "{text}");
    assert_eq!(text.matches("refused, 0 bytes released").count(), 5, "{text}");
    assert!(text.contains("Signed by sws1") && text.contains(", verified: its owner wrote this message"), "{text}");
    place.write("mine", &[9; 100_000]);
    let report = place.run(["demo", "--json", "mine"], b"").silent();
    let report: serde_json::Value = serde_json::from_slice(&report.out).unwrap();
    let attacks = report["attacks"].as_array().unwrap();
    assert_eq!(attacks.len(), 5);
    for attack in attacks {
        assert_eq!((attack["refused"].as_bool(), attack["bytes_released"].as_u64()), (Some(true), Some(0)), "{attack}");
        assert_ne!(attack["sender_exit"], 0);
    }
    assert_eq!(report["transfer"]["hashes_equal"], true);
    assert_eq!(report["transfer"]["standing"], "verified");
    assert!(report["transfer"]["sender"].as_str().unwrap().starts_with("sws1"));
    assert_eq!(report["transfer"]["files"], 1);
    let refused = std::fs::File::create(place.path("too large")).unwrap();
    refused.set_len((16 << 20) + 1).unwrap();
    place.run(["demo", "too large"], b"").failed(2, "larger than the 16.00 MiB");
    place.run(["demo", "."], b"").failed(2, "is no file");
    let overheads: Vec<_> =
        report["messages_of_64_bytes"].as_array().unwrap().iter().map(|m| m["bytes_over_payload"].as_u64().unwrap()).collect();
    assert_eq!(overheads, [185, 185, 24]);
}

/// What looks like a key is a key, whatever files lie about: a peer can name the files that he sends.
#[test]
fn a_file_that_is_named_like_a_key_is_not_asked() {
    let place = Place::new();
    let sender = with_sender(&place);
    let (bob, dave) = (place.keygen("bob.key"), place.keygen("dave.key"));
    let mallory = place.run(["keygen", "--sender", "-o", "mallory.key"], b"").line();
    place.write(&sender, mallory.as_bytes());
    place.write(&bob, dave.as_bytes());
    let forged = seal(&place, &["--sign-with", "mallory.key"], b"pay mallory");
    open(&place, &["--from", &sender], &forged).failed(4, "not allowed here");
    place.write("sealed", &seal(&place, &[], b"for bob"));
    place.run(["rewrap", "-k", "alice.key", "--add", &bob, "sealed"], b"").silent();
    place.run(["open", "-k", "dave.key", "sealed"], b"").failed(3, "no matching key");
    assert_eq!(place.run(["open", "-k", "bob.key", "sealed"], b"").silent().out, b"for bob");
}

/// A secret key among the arguments is refused wherever it stands, and never printed.
#[test]
fn secrets_among_the_arguments_are_not_printed() {
    let place = Place::new();
    let file = String::from_utf8(place.read("alice.key")).unwrap();
    let secret = file.lines().last().unwrap();
    for args in [
        vec!["open", "-k", "alice.key", "--from", &format!("key={secret}")],
        vec!["rewrap", "-k", "alice.key", "--add", &format!("'{secret}'"), "x"],
        vec!["recipient", "alice.key", secret],
        vec!["open", "--accept", &secret.to_lowercase()],
        vec!["keygen", "-o", secret],
        vec![secret],
    ] {
        let ran = place.run(&args, b"").failed(2, "stands among the arguments");
        assert!(ran.out.is_empty() && !ran.err.to_uppercase().contains("SW-SECRET-"), "{args:?}");
    }
    // age's too, and no names of files that look a little like it.
    let age = "AGE-SECRET-KEY-1EGTZVFFV20835NWYV6270LXYVK2VKNX2MMDKWYKLMGR48UAWX40Q2P2LM0";
    for secret in [age, &age.to_lowercase(), &age.replace("KEY-1", "KEY-PQ-1")] {
        for args in [&["seal", "-r", secret][..], &["open", "-k", secret], &["rewrap", "-k", "alice.key", "--add", secret, "x"]] {
            let ran = place.run(args, b"").failed(2, "stands among the arguments");
            assert!(ran.out.is_empty() && !ran.err.to_uppercase().contains("AGE-SECRET-KEY-"), "{args:?}");
        }
    }
    place.run(["recipient", "age-secret-key-file.txt"], b"").failed(7, "age-secret-key-file.txt");
    assert_eq!(place.names("."), ["alice.key"]);
}

/// A rewrap in place replaces the very file that it read, and every other file of the same run whatever becomes of one.
#[test]
fn a_rewrap_replaces_what_it_read_and_nothing_else() {
    let place = Place::new();
    let bob = place.keygen("bob.key");
    let sealed = seal(&place, &["-r", &bob], b"x");
    let remove = ["rewrap", "-k", "alice.key", "--remove", &bob];
    let opens = |name: &str| place.run(["open", "--check", "-k", "bob.key", name], b"").code == 0;
    // What cannot be replaced is not written over while it is read.
    let fifo = place.path("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    place.run(remove.iter().chain(&["fifo"]), b"").failed(2, "no regular file");
    place.run(remove.iter().chain(&["/dev/stdin"]), &sealed).failed(2, "no regular file");
    // One that cannot be renamed over: the others are done all the same, and it is named.
    fs::create_dir_all(place.path("many/stuck")).unwrap();
    (0..4).for_each(|i| drop(place.write(&format!("many/{i}"), &sealed)));
    let names = ["many/0", "many/stuck", "many/1", "many/2", "many/3"];
    place.run(remove.iter().chain(&names), b"").failed(2, "many/stuck: it is no regular file");
    assert!((0..4).all(|i| !opens(&format!("many/{i}"))));
    // The same file given twice is read once: the second reading is of a file that has been replaced, or will not be.
    place.write("twice", &sealed);
    let twice = place.run(remove.iter().chain(&["twice", "twice"]), b"");
    assert!(twice.code != 0 && twice.err.contains("twice: "), "{}", twice.err);
    assert!(!opens("twice"));
}

/// What replaces a file has its group and mode, or is its owner's alone.
#[test]
fn what_replaces_a_file_is_read_by_no_more_people() {
    use std::os::unix::fs::{MetadataExt, chown};
    let place = Place::new();
    place.write("sealed", &seal(&place, &[], b"x"));
    place.write("out", b"old");
    fs::set_permissions(place.path("out"), fs::Permissions::from_mode(0o640)).unwrap();
    // Only root can give a file to a group that it is not in; others see that the mode stays.
    let foreign = chown(place.path("out"), None, Some(12345)).is_ok();
    place.run(["open", "-k", "alice.key", "--force", "-o", "out", "sealed"], b"").silent();
    let meta = fs::metadata(place.path("out")).unwrap();
    assert_eq!((mode(&place.path("out")), place.read("out")), (0o640, b"x".to_vec()));
    assert!(!foreign || meta.gid() == 12345);
}

/// Payloads larger than a one-shot message, in constant memory, signed or not; from files and through pipes.
#[test]
fn payloads_of_any_size() {
    let place = Place::new();
    let sender = with_sender(&place);
    let payload: Vec<u8> = (0..80u32 << 20).map(|i| (i / 7 % 251) as u8).collect();
    place.write("large", &payload);
    for signed in [false, true] {
        let mut args = vec!["seal", "-r", &place.recipient, "-o", "sealed", "large"];
        args.extend(if signed { &["--sign-with", "me.key", "--force"][..] } else { &["--pad"] });
        let (code, peak) = peak_of(place.command(&args).spawn().unwrap());
        assert_eq!(code, 0);
        assert!(peak < 32 << 20, "{peak} bytes to seal");
        let (code, peak) =
            peak_of(place.command(["open", "-k", "alice.key", "-o", "opened", "--force", "sealed"]).spawn().unwrap());
        assert_eq!(code, 0);
        assert!(peak < 32 << 20, "{peak} bytes to open");
        assert!(place.read("opened") == payload);
    }
    let piped = seal(&place, &["--sign-with", "me.key"], &payload);
    assert!(open(&place, &["--from", &sender], &piped).silent().out == payload);
    // Of a message that is signed as a whole nothing leaves before the proof holds; of another what is authentic does.
    let flip = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        bytes
    };
    assert!(open(&place, &[], &flip(&piped)).failed(4, "is not authentic").out.is_empty());
    let plain = seal(&place, &[], &payload);
    let cut = open(&place, &[], &plain[..plain.len() - 1]).failed(5, "truncated: segment");
    assert!(!cut.out.is_empty() && payload.starts_with(&cut.out) && cut.out.len().is_multiple_of(65_536));
    // To a file nothing appears, and what was there stays.
    place.write("out", b"old");
    open(&place, &["-o", "out", "--force"], &plain[..plain.len() - 1]).failed(5, "truncated");
    assert_eq!(place.read("out"), b"old");
    assert!(place.names(".").iter().all(|name| !name.ends_with(".part")));
}

/// Of a message that is signed as a whole nothing leaves before the proof holds, however its bytes arrive; what nobody here can
/// open is not written to the disk first.
#[test]
fn a_signed_message_waits_for_its_proof() {
    use std::io::Write;
    let place = Place::new();
    let sender = with_sender(&place);
    let payload = vec![7; 300_000];
    let mut forged = seal(&place, &["--sign-with", "me.key"], &payload);
    *forged.last_mut().unwrap() ^= 1;
    let mut child = place.command(["open", "-k", "alice.key", "--from", &sender]).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(&forged[..5]).unwrap();
    input.flush().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    let rest = forged[5..].to_vec();
    let writer = std::thread::spawn(move || drop(input.write_all(&rest)));
    let ran = Ran::of(child.wait_with_output().unwrap());
    writer.join().unwrap();
    assert!(ran.code == 4 && ran.out.is_empty(), "{}: {} bytes", ran.err, ran.out.len());
    // Told from the first bytes, while the rest would never end.
    let mut child = place.command(["open", "-k", "alice.key"]).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(&[&[0; 9][..], &[0x10], &[0; 4096]].concat()).unwrap();
    let said = Ran::of(child.wait_with_output().unwrap());
    assert!(said.code == 6 && said.err.contains("magic"), "{}", said.err);
    drop(input);
    // Output that is appended to the input would never end.
    place.write("self", b"payload");
    let script = format!("{} seal -r {} self >> self", program::PROGRAM, place.recipient);
    let output = std::process::Command::new("sh").args(["-c", &script]).current_dir(place.path(".")).output().unwrap();
    Ran::of(output).failed(2, "both input and output");
    assert_eq!(place.read("self"), b"payload");
    let sealed = seal(&place, &[], &payload);
    place.write("self", &sealed);
    let script = format!("{} open -k alice.key self >> self", program::PROGRAM);
    let output = std::process::Command::new("sh").args(["-c", &script]).current_dir(place.path(".")).output().unwrap();
    Ran::of(output).failed(2, "both input and output");
    assert_eq!(place.read("self"), sealed);
}

/// Without the feature a build names it, before anything is asked or made.
#[cfg(not(feature = "keyring"))]
#[test]
fn a_keyring_wants_its_feature() {
    let place = Place::new();
    for args in [
        &["kms", "init", "--store", "keys", "--root-keyring", "orders"][..],
        &["kms", "list-keys", "--store", "keys", "--root-keyring", "kernel:orders"],
        &["kms", "change-root", "--store", "keys", "--root-key-file", "alice.key", "--new-root-keyring", "orders"],
        &["open", "--kms-store", "keys", "--root-keyring", "orders"],
    ] {
        let ran = place.run(args, b"");
        assert!(ran.code == 2 && ran.err.contains("build it with the feature `keyring`, or use --root-key-file"), "{}", ran.err);
    }
    assert!(!place.path("keys").exists());
}
