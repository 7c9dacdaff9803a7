//! The key service as its users run it: the program, files, sockets, several processes, and kills.
#![cfg(unix)]

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{Read, Write},
    net::TcpStream,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{FileTypeExt, MetadataExt, PermissionsExt},
            net::UnixStream,
        },
    },
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering::SeqCst},
    thread,
    time::{Duration, Instant},
};

use base64ct::{Base64, Encoding};
use program::{PROGRAM, Place, Ran, mode, terminal::Terminal};
use rustix::process::{Signal, getuid};
use sealwire::{
    Cmk, Kem,
    kms::{KeyRef, KeyService, KmsError, LocalService, store::Record, store::Store},
};
use serde_json::Value;
use service::{CALLER, Proxy, STORE, Served, Service, Spellings, eventually, json, status};

mod program;
#[path = "program/service.rs"]
mod service;

// Verbs, states, callers.

/// What a verb is asked of: a store, or a server.
enum Asked<'a> {
    Store,
    Server(&'a str),
}

impl Asked<'_> {
    fn run(&self, service: &Service, verb: &str, args: &[&str], input: &[u8]) -> Ran {
        match self {
            Self::Store => service.kms_with(verb, args, input),
            Self::Server(address) => service.at_with(address, "admin.key", verb, args, input),
        }
    }

    fn json(&self, service: &Service, verb: &str, args: &[&str]) -> Value {
        json(&self.run(service, verb, &[&["--json"], args].concat(), b"").silent())
    }
}

/// The value behind a name in what is printed for people.
fn line<'a>(text: &'a str, name: &str) -> &'a str {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("{name} in {text}")).trim()
}

fn words(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_else(|| panic!("{name} in {value}")).to_owned()
}

const OPEN_STORE: [&str; 5] = ["open", "--kms-store", "keys", "--root-key-file", "root.key"];

/// What was said of a CMK that has a new version. Who keeps the store is told of the backup that is due, and no machine is, nor who asks a server.
fn reminded(ran: Ran, asked: &Asked<'_>) -> String {
    match asked {
        Asked::Server(_) => ran.silent().line(),
        Asked::Store => {
            assert_eq!(ran.code, 0, "{}", ran.err);
            assert_eq!(ran.err, "note: a backup is due, none has this key: sealwire kms backup --store keys -o FILE\n");
            ran.line()
        }
    }
}

/// All that is done with a CMK, told to people and to machines.
fn a_life(service: &Service, asked: &Asked<'_>) {
    let ask = |verb: &str, args: &[&str]| asked.run(service, verb, args, b"");
    let made = reminded(ask("create-key", &["--alias", "life"]), asked);
    let id = line(&made, "key").to_owned();
    assert!(id.starts_with("cmk-") && id.len() == 36, "{made}");
    assert_eq!((line(&made, "aliases"), line(&made, "kind"), line(&made, "state")), ("life", "X25519", "enabled"));
    assert!(line(&made, "version").starts_with("1, made 20"), "{made}");
    assert_eq!(ask("describe-key", &[&id]).silent().line(), made);
    let described = asked.json(service, "describe-key", &["life"]);
    assert_eq!((words(&described, "key"), words(&described, "state")), (id.clone(), "enabled".into()));
    assert_eq!(
        (&described["version"], &described["aliases"][0], &described["deletion_at"]),
        (&1.into(), &"life".into(), &Value::Null)
    );

    // Disabled, it is used for nothing, and what is done twice says so.
    let plain = service.place.run(["seal", "-r", &ask("get-public-key", &["life"]).silent().line()], b"payload").silent().out;
    let secret = asked.run(service, "encrypt", &["--context", "c", "life"], b"1234").silent().out;
    assert_eq!(asked.run(service, "decrypt", &["--context", "c"], &secret).silent().out, b"1234");
    asked.run(service, "decrypt", &["--context", "d"], &secret).failed(3, "cannot be decrypted");
    assert_eq!(line(&ask("disable-key", &["life"]).silent().line(), "state"), "disabled");
    let disabled = format!("the key {id} is disabled; enable it");
    for (verb, args, input) in [
        ("disable-key", &["life"][..], &b""[..]),
        ("get-public-key", &["life"], b""),
        ("generate-data-key", &["life"], b""),
        ("rotate-key", &[&id], b""),
        ("encrypt", &["life"], b"x"),
        ("decrypt", &["--context", "c"], &secret),
        ("decrypt-data-key", &[], &plain),
    ] {
        asked.run(service, verb, args, input).failed(4, &disabled);
    }
    assert_eq!(line(&ask("enable-key", &["life"]).silent().line(), "state"), "enabled");
    ask("enable-key", &["life"]).failed(4, "is enabled");
    assert!(line(&reminded(ask("rotate-key", &["life"]), asked), "version").starts_with("2, made 20"));
    assert_eq!(asked.run(service, "decrypt", &["--context", "c"], &secret).silent().out, b"1234");
    assert!(asked.run(service, "decrypt-data-key", &[], &plain).silent().line().contains(&id));

    // Aliases move, and go.
    let other = words(&asked.json(service, "create-key", &["--pq"]), "key");
    ask("create-key", &["--alias", "life"]).failed(2, "the alias names another key already");
    let moved = asked.json(service, "set-alias", &[&other, "life"]);
    assert_eq!(
        (words(&moved, "key"), words(&moved, "kem"), &moved["aliases"][0]),
        (other.clone(), "X-Wing".into(), &"life".into())
    );
    assert_eq!(words(&asked.json(service, "describe-key", &["life"]), "key"), other);
    assert!(ask("delete-alias", &["life"]).silent().out.is_empty());
    ask("describe-key", &["life"]).failed(2, "there is no such key");
    ask("delete-alias", &["life"]).failed(2, "there is no such key");

    // Both ways of having a data key, and what is under one CMK comes under another.
    let pair = asked.json(service, "generate-data-key", &[&id]);
    assert_eq!((words(&pair, "key"), &pair["version"]), (id.clone(), &2.into()));
    let printed = ask("generate-data-key", &[&id]).silent().line();
    assert_eq!((line(&printed, "key"), line(&printed, "version")), (&id[..], "2"));
    let alone = ask("generate-data-key", &["--without-plaintext", "--ciphertext", "dek", &id]).silent().line();
    assert!(!alone.contains("plaintext") && alone.contains("ciphertext:"), "{alone}");
    let unwrapped = asked.json(service, "decrypt-data-key", &["dek"]);
    assert_eq!((words(&unwrapped, "key"), words(&unwrapped, "plaintext").len()), (id.clone(), 44));
    fs::remove_file(service.path("dek")).unwrap();
    let again = asked.run(service, "re-encrypt", &["--context", "c", "--to", &other], &secret).silent().out;
    assert_eq!(asked.run(service, "decrypt", &["--context", "c"], &again).silent().out, b"1234");
    // A block keeps its kind, and the payload behind it comes along.
    asked.run(service, "re-encrypt", &["--to", &other], &plain).failed(2, "X-Wing");
    let third = words(&asked.json(service, "create-key", &[]), "key");
    let rewrapped = asked.run(service, "re-encrypt", &["--to", &third], &plain).silent().out;
    assert_eq!(words(&json(&asked.run(service, "decrypt-data-key", &["--json"], &rewrapped).silent()), "key"), third);
    ask("disable-key", &[&id]).silent();
    let opened = match asked {
        Asked::Store => service.place.run(OPEN_STORE, &rewrapped),
        Asked::Server(address) => service.place.run([&["open", "--kms-server", address], &CALLER[..]].concat(), &rewrapped),
    };
    assert_eq!(opened.silent().out, b"payload");
    ask("enable-key", &[&id]).silent();

    // The end is put off, taken back, and asked for within its bounds.
    for days in ["6", "31", "0", "255"] {
        ask("schedule-key-deletion", &["--days", days, &id]).failed(2, "7 to 30 days");
    }
    let pending = asked.json(service, "schedule-key-deletion", &["--days", "7", &id]);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let left = pending["deletion_at"].as_u64().unwrap() - now;
    assert!(words(&pending, "state") == "pending-deletion" && (7 * 86_400 - 60..=7 * 86_400).contains(&left), "{pending}");
    for verb in ["rotate-key", "enable-key", "disable-key", "get-public-key"] {
        ask(verb, &[&id]).failed(4, "pending deletion at 20");
    }
    asked.run(service, "decrypt", &["--context", "c"], &secret).failed(4, "pending deletion at 20");
    assert!(ask("describe-key", &[&id]).silent().line().contains("pending deletion, to be destroyed 20"));
    assert_eq!(line(&ask("cancel-key-deletion", &[&id]).silent().line(), "state"), "disabled");
    ask("cancel-key-deletion", &[&id]).failed(4, "is disabled");

    let listed = ask("list-keys", &[]).silent().line();
    assert!(listed.lines().any(|line| line.starts_with(&format!("{id}  disabled  "))), "{listed}");
    let listed = ask("list-keys", &["--json"]).silent().line();
    let keys: BTreeSet<String> = listed.lines().map(|line| words(&serde_json::from_str(line).unwrap(), "key")).collect();
    assert!(keys.contains(&id) && keys.contains(&other));
}

#[test]
fn every_verb_of_a_store() {
    let service = Service::new();
    a_life(&service, &Asked::Store);
}

#[test]
fn every_verb_of_a_server() {
    let service = Service::new();
    let served = service.serve_with(&["--on", "127.0.0.1:0", "--on", "unix:sock"]);
    a_life(&service, &Asked::Server(&served.address));
    a_life(&service, &Asked::Server("unix:sock"));
    let (code, said) = served.stop();
    assert_eq!(code, 0, "{said}");
}

#[test]
fn what_is_no_key_or_alias_is_told_before_anything_is_asked() {
    let service = Service::new();
    let before = service.audit_lines();
    for bad in ["", "Orders", "a b", "cmk-00", &"a".repeat(65)] {
        let ran = service.kms("describe-key", &["--", bad]);
        assert!(ran.code == 2 && ran.out.is_empty() && !ran.err.is_empty(), "{bad}: {ran:?}");
        assert_eq!(service.kms("create-key", &[&format!("--alias={bad}")]).code, 2, "{bad}");
    }
    for args in
        [&["list-keys"][..], &["list-keys", "--server", "127.0.0.1:1"], &["list-keys", "--store", "keys", "--server", "x"]]
    {
        assert_eq!(service.place.run([&["kms"], args].concat(), b"").code, 2, "{args:?}");
    }
    service.kms("describe-key", &["orders"]).failed(2, "there is no such key");
    service.kms_with("encrypt", &["orders"], &[0; 4097]).failed(2, "has more than 4096 bytes");
    service.create("orders");
    service.kms_with("encrypt", &["orders"], &[0; 4097]).failed(2, "has more than 4096 bytes");
    let most = service.kms_with("encrypt", &["orders"], &[7; 4096]).silent().out;
    assert_eq!(service.kms_with("decrypt", &[], &most).silent().out, [7; 4096]);
    service.kms_with("decrypt", &[], &most[..most.len() - 1]).failed(3, "cannot be decrypted");
    service.kms_with("decrypt", &[], b"garbage").failed(2, "refused");
    service.kms_with("decrypt-data-key", &[], b"garbage").failed(6, "this is no sealwire envelope");
    service.kms_with("decrypt-data-key", &[], b"SWE").failed(5, "");
    service.kms_with("decrypt-data-key", &[], &[b'x'; 500]).failed(6, "");
    assert!(service.audit_lines() > before);
}

/// Proves KMS-42: the same is heard of a CMK that is there and of one that is not.
#[test]
fn who_may_not_learns_nothing() {
    let service = Service::new();
    service.create("orders");
    let payroll = words(&service.create("payroll"), "key");
    let sealed = service.seal("payroll", b"salaries");
    let nobodys = service.place.run(["seal", "-r", &service.place.recipient], b"salaries").silent().out;
    let secret = service.kms_with("encrypt", &["payroll"], b"1234").silent().out;
    let mut of_none = secret.clone();
    of_none[8] ^= 1;
    let served = service.serve();
    let ask = |verb: &str, args: &[&str], input: &[u8]| {
        let ran = service.at_with(&served.address, "orders.key", verb, args, input);
        assert!(ran.code != 0 && ran.out.is_empty(), "{verb}: {ran:?}");
        (ran.code, ran.err)
    };
    let nothing = "cmk-000102030405060708090a0b0c0d0e0f";
    for verb in
        ["describe-key", "enable-key", "disable-key", "rotate-key", "cancel-key-deletion", "get-public-key", "generate-data-key"]
    {
        let heard = ask(verb, &["payroll"], b"");
        assert!(heard.0 == 4 && heard.1.contains("not allowed, or there is no such key"), "{verb}: {heard:?}");
        for other in ["nothing", nothing, &payroll] {
            assert_eq!(ask(verb, &[other], b""), heard, "{verb} {other}");
        }
    }
    let days = |key| ask("schedule-key-deletion", &["--days", "7", key], b"");
    assert_eq!(days("payroll"), days("nothing"));
    assert_eq!(ask("delete-alias", &["payroll"], b""), ask("delete-alias", &["nothing"], b""));
    assert_eq!(ask("set-alias", &["payroll", "orders"], b""), ask("set-alias", &["nothing", "orders"], b""));
    assert_eq!(ask("set-alias", &["orders", "payroll"], b""), ask("set-alias", &["orders", "nothing"], b""));
    assert_eq!(ask("create-key", &["--alias", "payroll"], b""), ask("create-key", &["--alias", "nothing"], b""));
    assert_eq!(ask("create-key", &[], b"").0, 4);
    assert_eq!(ask("encrypt", &["payroll"], b"x"), ask("encrypt", &["nothing"], b"x"));
    assert_eq!(ask("decrypt", &[], &secret), ask("decrypt", &[], &of_none));
    assert_eq!(ask("decrypt-data-key", &[], &sealed), ask("decrypt-data-key", &[], &nobodys));
    assert_eq!(ask("re-encrypt", &["--to", "orders"], &sealed), ask("re-encrypt", &["--to", "orders"], &nobodys));
    assert_eq!(ask("re-encrypt", &["--to", "payroll"], &sealed), ask("re-encrypt", &["--to", "nothing"], &sealed));
    let listed = service.at(&served.address, "orders.key", "list-keys", &[]).silent().line();
    assert!(listed.lines().count() == 1 && listed.ends_with("orders") && !listed.contains(&payroll), "{listed}");
    // Whoever is in no policy is not even answered, and what he asked for is in no log.
    let lines = service.audit_lines();
    service.place.run(["keygen", "--sender", "-o", "stranger.key"], b"");
    service.at(&served.address, "stranger.key", "list-keys", &[]).failed(7, "does it know our sender key");
    assert_eq!(service.audit_lines(), lines);
    let denied = service.audit().into_iter().filter(|line| line["result"] == "denied");
    assert!(denied.clone().count() > 30 && denied.clone().all(|line| line["caller"] == "orders"));
    // The log knows of what a caller may know.
    assert!(denied.clone().all(|line| line["key"] != payroll.as_str()));
}

#[test]
fn lists_have_pages() {
    let service = Service::new();
    let local = LocalService::open(&service.path("keys"), &service.root()).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let made: BTreeSet<String> =
        (0..520).map(|_| runtime.block_on(local.create_key(Kem::X25519, None)).unwrap().id.to_string()).collect();
    drop(local);
    let ids = |ran: Ran| -> Vec<String> {
        ran.silent().line().lines().map(|line| line.split_once(' ').unwrap().0.to_owned()).collect()
    };
    let listed = ids(service.kms("list-keys", &[]));
    assert_eq!(listed, made.iter().cloned().collect::<Vec<_>>());
    let served = service.serve();
    assert_eq!(ids(service.at(&served.address, "admin.key", "list-keys", &[])), listed);
    assert!(ids(service.at(&served.address, "orders.key", "list-keys", &[])).is_empty());
}

// Sealing to a CMK, and opening where it is.

/// Opens through the store, and through a server.
fn open_both(service: &Service, served: &Served, args: &[&str], input: &[u8]) -> [Ran; 2] {
    let server = [&["open", "--kms-server", &served.address], &CALLER[..]].concat();
    [&OPEN_STORE[..], &server].map(|how| service.place.run([how, args].concat(), input))
}

/// A store and a server that has a copy of it: both answer at once.
fn store_and_copy(service: &Service, copy: &str) -> Served {
    let backed = service.place.run(["kms", "backup", "--store", "keys", "-o", copy], b"");
    assert_eq!(backed.code, 0, "{}", backed.err);
    service.serve_on(copy, &["--replica", "--audit-log", "log", "--on", "127.0.0.1:0"])
}

#[test]
fn envelopes_of_every_kind_open_through_a_store_and_a_server() {
    for pq in [&[][..], &["--pq"]] {
        let service = Service::new();
        service.json("create-key", &[&["--alias", "orders"], pq].concat());
        let to = service.recipient("orders");
        let sender = service.place.run(["recipient", "admin.key"], b"").silent().line();
        let payload: Vec<u8> = (0..200_000u32).map(|i| (i * 7 % 253) as u8).collect();
        service.place.write("plain", &payload);
        service.place.write("lines", b"one\ntwo\nthree\n");
        let seal = |args: &[&str]| service.place.run([&["seal", "-r", &to], args].concat(), b"").silent();
        seal(&["-o", "sealed", "plain"]);
        seal(&["--detached", "header", "-o", "rest", "plain"]);
        seal(&["--armor", "-o", "text", "plain"]);
        seal(&["--channel", "-o", "channel", "lines"]);
        seal(&["--sign-with", "admin.key", "-o", "signed", "plain"]);
        seal(&["--channel", "--sign-with", "admin.key", "-o", "signed channel", "lines"]);
        let kind: &[&str] = if pq.is_empty() { &[] } else { &["--pq"] };
        let beside = service.place.run([&["keygen", "-o", "beside.key"], kind].concat(), b"").line();
        seal(&["-r", &beside, "--hints", "none", "-o", "shared", "plain"]);
        let served = store_and_copy(&service, "copy");
        let opened: [(&[&str], &[u8]); 9] = [
            (&["sealed"], &payload),
            (&["--range", "66000..66010", "sealed"], &payload[66_000..66_010]),
            (&["--range", "199990..", "sealed"], &payload[199_990..]),
            (&["--detached", "header", "rest"], &payload),
            (&["text"], &payload),
            (&["--channel", "channel"], b"one\ntwo\nthree\n"),
            (&["--from", &sender, "signed"], &payload),
            (&["--channel", "--from", &sender, "--accept", "group", "signed channel"], b"one\ntwo\nthree\n"),
            (&["shared"], &payload),
        ];
        for (args, payload) in opened {
            for ran in open_both(&service, &served, args, b"") {
                assert!(ran.code == 0 && ran.out == payload, "{args:?}: {}, {} bytes", ran.err, ran.out.len());
            }
            // From a pipe, too.
            let input = service.place.read(args.last().unwrap());
            for ran in open_both(&service, &served, &args[..args.len() - 1], &input) {
                assert!(ran.code == 0 && ran.out == payload, "{args:?} from a pipe: {}, {} bytes", ran.err, ran.out.len());
            }
        }
        for ran in open_both(&service, &served, &["--check", "sealed"], b"") {
            assert!(ran.code == 0 && ran.out.is_empty(), "{}", ran.err);
        }
        for ran in open_both(&service, &served, &["--from", &service.orders, "signed"], b"") {
            assert!(ran.code == 4 && ran.out.is_empty(), "{ran:?}");
        }
        let mut changed = service.place.read("sealed");
        let at = changed.len() - 100;
        changed[at] ^= 1;
        for ran in open_both(&service, &served, &["-o", "changed"], &changed) {
            assert!(ran.code == 4 && !service.path("changed").exists(), "{ran:?}");
        }
    }
}

/// A key at hand is used first, and then no service is asked.
#[test]
fn keys_at_hand_are_tried_first() {
    let service = Service::new();
    service.create("orders");
    let mine = service.place.run(["seal", "-r", &service.place.recipient], b"mine").silent().out;
    let theirs = service.seal("orders", b"theirs");
    let lines = service.audit_lines();
    let open = |input: &[u8]| {
        service.place.run(["open", "-k", "alice.key", "--kms-store", "keys", "--root-key-file", "root.key"], input)
    };
    assert_eq!(open(&mine).silent().out, b"mine");
    assert_eq!(service.audit_lines(), lines);
    assert_eq!(open(&theirs).silent().out, b"theirs");
    assert_eq!(service.audit_lines(), lines + 1);
    // A server that cannot be reached is none that is asked.
    let nowhere = [&["open", "-k", "alice.key", "--kms-server", "127.0.0.1:1"], &CALLER[..]].concat();
    assert_eq!(service.place.run(nowhere.clone(), &mine).silent().out, b"mine");
    service.place.run(nowhere, &theirs).failed(7, "no key service could be reached");
    let bobs = service.place.keygen("bob.key");
    let bobs = service.place.run(["seal", "-r", &bobs], b"bob's").silent().out;
    open(&bobs).failed(3, "");
}

#[test]
fn what_becomes_of_a_cmk_becomes_of_its_envelopes() {
    let service = Service::new();
    let id = words(&service.create("orders"), "key");
    let sealed = service.seal("orders", b"first");
    let mut recipients = vec![service.recipient("orders")];
    for version in 2..=5 {
        assert_eq!(service.json("rotate-key", &["orders"])["version"], version);
        recipients.push(service.recipient("orders"));
    }
    assert_eq!(recipients.iter().collect::<BTreeSet<_>>().len(), 5);
    let newer = service.seal("orders", b"second");
    let open = |input: &[u8], served: &Served| open_both(&service, served, &[], input);
    {
        let served = store_and_copy(&service, "copy 1");
        for (input, payload) in [(&sealed, "first"), (&newer, "second")] {
            for ran in open(input, &served) {
                assert_eq!(ran.silent().out, payload.as_bytes());
            }
        }
    }
    service.kms("disable-key", &["orders"]).silent();
    for ran in open(&sealed, &store_and_copy(&service, "copy 2")) {
        ran.failed(4, &format!("the key {id} is disabled; enable it"));
    }
    service.kms("enable-key", &["orders"]).silent();
    let pending = service.json("schedule-key-deletion", &["--days", "30", "orders"]);
    for ran in open(&sealed, &store_and_copy(&service, "copy 3")) {
        ran.failed(4, "is pending deletion at 20");
    }

    // Thirty days later: the moment that stands in the state is one that has passed.
    let (mut store, mut state) = Store::open(&service.path("keys"), &service.root()).unwrap();
    let at = pending["deletion_at"].as_u64().unwrap();
    let place = state.windows(8).position(|window| window == at.to_be_bytes()).unwrap();
    state[place..place + 8].copy_from_slice(&1_700_000_000u64.to_be_bytes());
    let record = Record { at: 0, caller: "test".into(), action: "thirty-days".into(), key: None, result: "ok".into() };
    store.replace(&state, &record).unwrap();
    let secrets = secrets_in(&state, &recipients);
    assert_eq!(secrets.len(), 5);
    drop(store);
    // A copy that nobody writes to says the same, though it destroys nothing.
    let served = store_and_copy(&service, "copy 4");
    for ran in open(&sealed, &served) {
        ran.failed(4, &format!("the key {id} is destroyed since 20"));
    }
    let described = service.json("describe-key", &["orders"]);
    assert_eq!(words(&described, "state"), "destroyed");
    for verb in ["enable-key", "cancel-key-deletion", "rotate-key", "get-public-key", "generate-data-key"] {
        service.kms(verb, &["orders"]).failed(4, "is destroyed since");
    }
    let log = service.audit();
    assert!(
        log.iter().any(|line| line["caller"] == "schedule" && line["action"] == "destroy-key" && line["key"] == *id),
        "{log:?}"
    );
    // Nothing of it is left in the state.
    let (_, state) = Store::open(&service.path("keys"), &service.root()).unwrap();
    assert!(secrets.iter().all(|secret| !state.windows(32).any(|window| window == secret)));
    // A backup from before is what brings it back.
    let restored = service.place.run(["kms", "restore", "--store", "again", "--root-key-file", "root.key", "copy 1"], b"");
    assert_eq!(restored.code, 0, "{}", restored.err);
    let again = ["open", "--kms-store", "again", "--root-key-file", "root.key"];
    assert_eq!(service.place.run(again, &sealed).silent().out, b"first");
}

/// The secrets in a state that have these public halves.
fn secrets_in(state: &[u8], recipients: &[String]) -> Vec<[u8; 32]> {
    let windows = state.windows(32).map(|window| <[u8; 32]>::try_from(window).unwrap());
    windows.filter(|secret| recipients.contains(&Cmk::from_x25519(secret).recipient().to_string())).collect()
}

// Data keys.

/// What `inspect` says of the fields of an envelope, by name.
fn fields(service: &Service, envelope: &[u8]) -> Vec<(String, String)> {
    let report = json(&service.place.run(["inspect", "--json"], envelope).silent());
    let fields = report["messages"][0]["fields"].as_array().unwrap();
    fields.iter().map(|field| (words(field, "name"), words(field, "bytes"))).collect()
}

#[test]
fn one_data_key_seals_twice_and_nothing_of_it_repeats() {
    let service = Service::new();
    service.create("orders");
    for format in [&[][..], &["--json"]] {
        let pair = service.kms("generate-data-key", &[format, &["orders"]].concat()).silent().out;
        service.place.write("payload", b"one payload");
        let seal = || service.place.run(["seal", "--dek", "-", "payload"], &pair).silent().out;
        let (one, other) = (seal(), seal());
        let (one_fields, other_fields) = (fields(&service, &one), fields(&service, &other));
        let mut compared = 0;
        for ((name, one), (same_name, other)) in one_fields.iter().zip(&other_fields) {
            assert_eq!(name, same_name);
            if ["salt", "enc", "header_mac"].contains(&name.as_str()) || name.ends_with("wrapped_dek") || name.ends_with("hint") {
                assert_ne!(one, other, "{name}");
                compared += 1;
            }
        }
        assert_eq!(compared, 5, "{one_fields:?}");
        assert_ne!(one[one.len() - 27..], other[other.len() - 27..]);
        for sealed in [one, other] {
            assert_eq!(service.place.run(OPEN_STORE, &sealed).silent().out, b"one payload");
        }
    }
    // As the help says it, and to somebody else, too.
    let script = format!(
        "sealwire seal --dek <(sealwire kms generate-data-key {} orders) -r {} -o twice payload",
        STORE.join(" "),
        service.place.recipient
    );
    assert_eq!(service.shell(&script).code, 0);
    assert_eq!(service.place.run(["open", "-k", "alice.key", "twice"], b"").silent().out, b"one payload");
    assert_eq!(
        service.place.run(["open", "--kms-store", "keys", "--root-key-file", "root.key", "twice"], b"").silent().out,
        b"one payload"
    );
    // What unwrapped it seals with it again.
    let script = format!("sealwire seal --dek <(sealwire kms decrypt-data-key {} twice) -o again payload", STORE.join(" "));
    assert_eq!(service.shell(&script).code, 0);
    assert_eq!(
        service.place.run(["open", "--kms-store", "keys", "--root-key-file", "root.key", "again"], b"").silent().out,
        b"one payload"
    );
}

#[test]
fn what_is_no_data_key_seals_nothing() {
    let service = Service::new();
    service.create("orders");
    let pair = service.kms("generate-data-key", &["orders"]).silent();
    let text = String::from_utf8(pair.out.clone()).unwrap();
    service.place.write("payload", b"payload");
    service.place.write("pair", &pair.out);
    let names = service.place.names(".");
    let seal = |args: &[&str], input: &[u8]| service.place.run([&["seal", "-o", "sealed"], args].concat(), input);
    let empty = seal(&["--dek", "-", "payload"], b"").failed(2, "did that fail?");
    assert!(empty.err.contains("--dek") && empty.err.contains("generate-data-key"), "{}", empty.err);
    seal(&["--dek", "pair", "payload"], b"").failed(2, "a plaintext DEK is not kept in one");
    seal(&["--dek", "nothing", "payload"], b"").failed(7, "nothing");
    seal(&["--dek", ".", "payload"], b"");
    let stdin_is_a_file = service.shell("sealwire seal -o sealed --dek - payload < pair");
    assert!(stdin_is_a_file.code == 2 && stdin_is_a_file.err.contains("is a file"), "{}", stdin_is_a_file.err);
    // Both from one pipe: the second would find nothing there, and seal it.
    seal(&["--dek", "-"], &pair.out).failed(2, "standard input");
    seal(&["--dek", "-", "-"], &pair.out).failed(2, "standard input");
    let without = |name: &str| text.lines().filter(|line| !line.starts_with(name)).collect::<Vec<_>>().join("\n");
    let (dek, to) = (line(&text, "plaintext"), line(&text, "recipient"));
    for (garbage, why) in [
        (without("plaintext"), "did that fail?"),
        (without("recipient"), "did that fail?"),
        (text.replace(dek, "AQID"), "no DEK"),
        (text.replace(dek, &dek[..40]), "no DEK"),
        (text.replace(dek, &format!("{dek}{dek}")), "no DEK"),
        (text.replace(to, "swr1qqqq"), "its recipient is none"),
        ("{\"plaintext\"".into(), "no JSON"),
        ("{}".into(), "did that fail?"),
        ("sealwire: there is no such key".into(), "did that fail?"),
        (format!("{text}{text}"), "more than one data key"),
        (format!("{}\nplaintext: {dek}\n", text.trim_end()), "more than one data key"),
    ] {
        let ran = seal(&["--dek", "-", "payload"], garbage.as_bytes()).failed(2, why);
        assert!(!ran.err.contains(dek), "{}", ran.err);
    }
    seal(&["--dek", "-", "payload"], &[0xff; 100]).failed(2, "--dek");
    let (code, screen) = Terminal::run(&service.place, "sealwire seal -o sealed --dek - payload").ends();
    assert!(code == 2 && screen.contains("is a terminal"), "{screen}");
    seal(&["--dek", "-", "payload"], &vec![b'x'; 1 << 20]).failed(2, "did that fail?");
    seal(&["--dek", "-", "payload"], &[text.as_bytes(), &vec![b'x'; 1 << 20]].concat()).failed(2, "did that fail?");
    let failing = format!("sealwire seal -o sealed --dek <(sealwire kms generate-data-key {} nobody) payload", STORE.join(" "));
    let ran = service.shell(&failing);
    assert!(ran.code == 2 && ran.err.contains("there is no such key") && ran.err.contains("did that fail?"), "{}", ran.err);
    assert_eq!(service.place.names("."), names);
}

/// Refusals to say a DEK, after which nothing was asked of the service and no file is there.
#[test]
fn a_plaintext_dek_goes_through_pipes_alone() {
    let service = Service::new();
    service.create("orders");
    let wrapped = service.seal("orders", b"payload");
    service.place.write("sealed", &wrapped);
    let (lines, names) = (service.audit_lines(), service.place.names("."));
    let store = STORE.join(" ");
    let verbs =
        [format!("sealwire kms generate-data-key {store} orders"), format!("sealwire kms decrypt-data-key {store} sealed")];
    for verb in &verbs {
        for to in [
            "> out",
            ">> out",
            "--plaintext-fd 3 3> out",
            "--plaintext-fd 3 3>> out",
            "--force > out",
            "--json > out",
            "--plaintext-fd 3 3< sealed",
        ] {
            let ran = service.shell(&format!("{verb} {to}"));
            assert!(ran.code != 0 && ran.out.is_empty(), "{verb} {to}: {ran:?}");
            if to.contains("out") {
                assert!(ran.code == 2 && ran.err.contains("never written to a file"), "{verb} {to}: {}", ran.err);
                assert!(service.place.read("out").is_empty(), "{verb} {to}");
                fs::remove_file(service.path("out")).unwrap();
            }
        }
        // Descriptors that the program has opened itself are nobody's who waits for a DEK.
        for number in 3..20 {
            let ran =
                service.shell(&format!("for fd in {{3..20}}; do eval \"exec $fd>&-\"; done; {verb} --plaintext-fd {number}"));
            ran.failed(2, "no such descriptor was inherited");
        }
        for to in ["--plaintext-fd 70000", "--plaintext-fd x", "--plaintext-fd -1"] {
            let ran = service.shell(&format!("{verb} {to}"));
            assert!(ran.code == 2 && ran.out.is_empty(), "{verb} {to}: {ran:?}");
        }
        let (code, screen) = Terminal::run(&service.place, verb).ends();
        assert!(code == 2 && screen.contains("not shown on a terminal") && !screen.contains("plaintext:"), "{screen}");
    }
    let beside = service.shell(&format!("{} --ciphertext dek > out", verbs[0]));
    assert!(beside.code == 2 && !service.path("dek").exists(), "{beside:?}");
    fs::remove_file(service.path("out")).unwrap();
    // Who is refused by the service has no file of it either.
    service.kms("generate-data-key", &["--ciphertext", "dek", "nobody"]).failed(2, "no such key");
    service.place.write("there", b"mine");
    service.kms("generate-data-key", &["--ciphertext", "there", "orders"]).failed(2, "there");
    assert_eq!(service.place.read("there"), b"mine");
    fs::remove_file(service.path("there")).unwrap();
    assert_eq!(service.place.names("."), names);
    let asked = service.audit().split_off(lines as usize);
    assert!(asked.len() == 1 && asked[0]["result"] == "not-found", "{asked:?}");

    // And where it may go, it goes.
    let has_dek = |text: &str| line(text, "plaintext").len() == 44;
    for verb in &verbs {
        let (code, screen) = Terminal::run(&service.place, &format!("{verb} --force")).ends();
        assert!(code == 0 && has_dek(&screen), "{screen}");
        for to in ["| cat", "--plaintext-fd 3 3>&1 > out | cat", "--plaintext-fd 1 | cat", "> >(cat)"] {
            let ran = service.shell(&format!("{verb} {to}; wait"));
            assert!(ran.code == 0 && has_dek(&ran.line()), "{verb} {to}: {ran:?}");
        }
        assert!(service.place.read("out").is_empty());
        fs::remove_file(service.path("out")).unwrap();
        for to in ["", "--plaintext-fd 3 3>&1 > /dev/null"] {
            assert!(has_dek(&through_a_socket(&service, &format!("exec {verb} {to}"))), "{verb} {to}");
        }
    }
    // As does what is read: from a socket, as services are given one.
    let pair = service.kms("generate-data-key", &["orders"]).silent().out;
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut command = service.place.command(["seal", "--dek", "-", "sealed"]);
    let child = command.stdin(Stdio::from(OwnedFd::from(theirs))).spawn().unwrap();
    drop(command);
    (&ours).write_all(&pair).unwrap();
    drop(ours);
    let again = Ran::of(child.wait_with_output().unwrap()).silent().out;
    assert_eq!(service.place.run(OPEN_STORE, &again).silent().out, wrapped);
}

/// The receiving side by hand: the DEK through a pipe, the file here.
#[test]
fn a_dek_from_a_pipe_opens_its_envelope_and_no_other() {
    let service = Service::new();
    service.create("orders");
    let to = service.recipient("orders");
    let sender = service.place.run(["recipient", "admin.key"], b"").silent().line();
    let payload: Vec<u8> = (0..200_000u32).map(|i| (i * 11 % 251) as u8).collect();
    service.place.write("plain", &payload);
    service.place.write("lines", b"one\ntwo\n");
    let seal = |args: &[&str]| service.place.run([&["seal", "-r", &to], args].concat(), b"").silent();
    seal(&["-o", "sealed", "plain"]);
    seal(&["-o", "other", "plain"]);
    seal(&["--armor", "-o", "text", "plain"]);
    seal(&["--detached", "header", "-o", "rest", "plain"]);
    seal(&["--sign-with", "admin.key", "-o", "signed", "plain"]);
    seal(&["--channel", "-o", "channel", "lines"]);
    let store = STORE.join(" ");
    let open = |of: &str, args: &str| {
        service.shell(&format!("sealwire open --dek <(sealwire kms decrypt-data-key {store} {of}) {args}"))
    };
    let opened: [(&str, String, &[u8]); 9] = [
        ("sealed", "sealed".into(), &payload),
        ("sealed", "< sealed".into(), &payload),
        ("--json sealed", "sealed".into(), &payload),
        ("sealed", "--buffer sealed".into(), &payload),
        ("sealed", "--range 66000..66010 sealed".into(), &payload[66_000..66_010]),
        ("text", "text".into(), &payload),
        ("header", "--detached header rest".into(), &payload),
        ("signed", format!("--from {sender} signed"), &payload),
        ("channel", "--channel channel".into(), b"one\ntwo\n"),
    ];
    for (of, args, payload) in opened {
        let ran = open(of, &args).silent();
        assert!(ran.out == payload, "{of} {args}: {} bytes", ran.out.len());
    }
    // What a service gives for a DEK of its own opens nothing; nor does the DEK of another envelope, or of one that was changed.
    for args in
        ["other", "< other", "--check other", "--range 1..2 other", "--detached header rest", "--channel channel", "-o out other"]
    {
        let ran = open("sealed", args);
        assert!(ran.out.is_empty() && !service.path("out").exists(), "{args}");
        ran.failed(3, "the DEK of --dek does not open it");
    }
    let mut changed = service.place.read("sealed");
    changed[30] ^= 1;
    service.place.write("changed", &changed);
    open("sealed", "changed").failed(3, "the DEK of --dek does not open it");
    changed = service.place.read("sealed");
    let end = changed.len() - 1;
    changed[end] ^= 1;
    service.place.write("changed", &changed);
    open("sealed", "-o out changed").failed(4, "not authentic");
    assert!(!service.path("out").exists());
    open("signed", &format!("--from {} signed", service.orders)).failed(4, "that is not allowed here");
    open("sealed", "--expect-context x sealed").failed(4, "context");

    // It is read where `seal` reads one: from pipes and sockets, never from a file.
    let printed = service.kms("decrypt-data-key", &["sealed"]).silent().out;
    service.place.write("kept", &printed);
    service.place.run(["open", "--dek", "kept", "sealed"], b"").failed(2, "a plaintext DEK is not kept in one");
    service.place.run(["open", "--dek", "kept", "--force", "sealed"], b"").failed(2, "a plaintext DEK is not kept in one");
    service.shell("sealwire open --dek - sealed < kept").failed(2, "a plaintext DEK is not kept in one");
    service.shell("sealwire open --dek /dev/fd/3 sealed 3< kept").failed(2, "a plaintext DEK is not kept in one");
    assert!(service.place.run(["open", "--dek", "-", "sealed"], &printed).silent().out == payload);
    service.place.run(["open", "--dek", "-"], &printed).failed(2, "standard input is read for something else");
    service
        .place
        .run(["open", "--dek", "-", "--detached", "-", "rest"], &printed)
        .failed(2, "standard input is read for something else");
    for bad in [&b""[..], b"plaintext: AAAA\n", b"{\"plaintext\": 7}", b"recipient: x\n", b"\xff"] {
        service.place.run(["open", "--dek", "-", "sealed"], bad).failed(2, "--dek: ");
    }
    // The DEK alone is enough, as another KMS would print it.
    let dek = printed.split(|b| *b == b'\n').find(|line| line.starts_with(b"plaintext:")).unwrap();
    assert!(service.place.run(["open", "--dek", "-", "sealed"], dek).silent().out == payload);
    for more in [&["-k", "alice.key"][..], &["--kms-store", "keys"], &["--kms-server", "127.0.0.1:1"]] {
        assert_eq!(service.place.run([&["open", "--dek", "-", "sealed"], more].concat(), &printed).code, 2, "{more:?}");
    }
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut command = service.place.command(["open", "--dek", "-", "sealed"]);
    let child = command.stdin(Stdio::from(OwnedFd::from(theirs))).spawn().unwrap();
    drop(command);
    (&ours).write_all(&printed).unwrap();
    drop(ours);
    assert!(Ran::of(child.wait_with_output().unwrap()).silent().out == payload);
}

/// What a script says on standard output, which is a socket.
fn through_a_socket(service: &Service, script: &str) -> String {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let mut command = Command::new("bash");
    command.args(["-c", &script.replace("sealwire ", &format!("{PROGRAM} "))]).current_dir(service.place.path("."));
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::from(OwnedFd::from(theirs))).stderr(Stdio::inherit()).spawn().unwrap();
    drop(command);
    let mut said = String::new();
    ours.read_to_string(&mut said).unwrap();
    assert!(child.wait().unwrap().success());
    said
}

#[test]
fn no_output_takes_the_place_of_a_key() {
    let service = Service::new();
    service.create("orders");
    let secret = service.kms_with("encrypt", &["orders"], b"1234").silent().out;
    let sealed = service.seal("orders", b"payload");
    service.place.write("secret", &secret);
    service.place.write("sealed", &sealed);
    let before = (service.place.read("root.key"), service.place.read("keys/state"));
    for over in ["root.key", "keys/state", "./keys/../root.key"] {
        let ran = [
            service.kms("decrypt", &["--force", "-o", over, "secret"]),
            service.kms("re-encrypt", &["--force", "-o", over, "--to", "orders", "sealed"]),
            service.kms_with("encrypt", &["--force", "-o", over, "orders"], b"x"),
            service
                .place
                .run(["open", "--kms-store", "keys", "--root-key-file", "root.key", "--force", "-o", over, "sealed"], b""),
        ];
        for ran in ran {
            ran.failed(2, "holds a key, and is the output");
        }
    }
    let nowhere = Service::ask(&["127.0.0.1:1"], "admin.key");
    let ran = service.place.run([&["kms", "decrypt"], &nowhere[..], &["--force", "-o", "admin.key", "secret"]].concat(), b"");
    ran.failed(2, "holds a key, and is the output");
    assert_eq!((service.place.read("root.key"), service.place.read("keys/state")), before);
    service.kms("decrypt", &["-o", "opened", "secret"]).silent();
    assert_eq!(service.place.read("opened"), b"1234");
}

// The store.

#[test]
fn two_processes_lose_no_rotation() {
    const EACH: u64 = 50;
    let service = Service::new();
    service.create("orders");
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut last = 1;
                for _ in 0..EACH {
                    let version = service.json("rotate-key", &["orders"])["version"].as_u64().unwrap();
                    assert!(version > last, "{version} after {last}");
                    last = version;
                }
            });
        }
    });
    assert_eq!(service.json("describe-key", &["orders"])["version"], 2 * EACH + 1);
    assert_eq!(service.audit().iter().filter(|line| line["action"] == "rotate-key").count() as u64, 2 * EACH);
}

/// Kills at moments of the whole run of a command: what it has reported stays, and what it has not is there whole or not at all.
#[test]
fn whatever_is_reported_survives_a_kill() {
    const KILLS: u32 = 60;
    let service = Service::new();
    service.create("orders");
    let started = Instant::now();
    (0..3).for_each(|_| drop(service.json("rotate-key", &["orders"])));
    let usual = started.elapsed() / 3;
    let (mut version, mut reported, mut cut) = (4, BTreeSet::new(), 0);
    for round in 0..KILLS {
        let verb: &[&str] = if round % 2 == 0 { &["create-key", "--json"] } else { &["rotate-key", "--json", "orders"] };
        let mut child = service.place.command([&["kms", verb[0]], &STORE[..], &verb[1..]].concat()).spawn().unwrap();
        thread::sleep(usual * (round / 2) * 5 / (KILLS / 2 * 4));
        child.kill().unwrap();
        let ran = Ran::of(child.wait_with_output().unwrap());
        let said = serde_json::from_slice::<Value>(&ran.out).ok();
        cut += u32::from(said.is_none());
        let listed = service.kms("list-keys", &["--json"]);
        assert_eq!(listed.code, 0, "after {round} kills: {}", listed.err);
        assert!(listed.err.is_empty() || listed.err.contains("after a crash the audit log was mended"), "{}", listed.err);
        let keys: Vec<Value> = listed.line().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let orders = keys.iter().find(|key| key["aliases"][0] == "orders").unwrap()["version"].as_u64().unwrap();
        assert!(orders == version || verb[0] == "rotate-key" && orders == version + 1, "{orders} after {version}");
        match said {
            Some(said) if verb[0] == "rotate-key" => assert_eq!(said["version"], orders),
            Some(said) => drop(reported.insert(words(&said, "key"))),
            None => {}
        }
        version = orders;
        let there: BTreeSet<String> = keys.iter().map(|key| words(key, "key")).collect();
        assert!(reported.is_subset(&there), "{:?} are gone", reported.difference(&there));
        assert!(there.len() <= 2 + round as usize / 2);
    }
    assert!((5..KILLS).contains(&cut), "{cut} of {KILLS} were cut");
    let log = service.audit();
    let rotations = log.iter().filter(|line| line["action"] == "rotate-key" && line["result"] == "ok").count() as u64;
    assert_eq!(rotations, version - 1);
}

#[test]
fn a_store_opens_under_its_root_key_alone_and_changes_it() {
    let service = Service::new();
    service.create("orders");
    let sealed = service.seal("orders", b"payload");
    service.place.keygen("other.key");
    let list = |args: &[&str]| service.place.run([&["kms", "list-keys", "--store", "keys"], args].concat(), b"");
    list(&["--root-key-file", "other.key"]).failed(2, "root key");
    list(&["--root-key-file", "nothing.key"]).failed(7, "nothing.key");
    list(&["--root-key-file", "admin.key"]);
    service.place.write("pass", b"correct horse\n");
    service.place.write("wrong", b"wrong horse\n");
    for name in ["pass", "wrong"] {
        fs::set_permissions(service.path(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    list(&["--passphrase-file", "pass"]).failed(2, "key file");
    let change = |args: &[&str]| service.place.run([&["kms", "change-root", "--store", "keys"], args].concat(), b"");
    let backed = service.place.run(["kms", "backup", "--store", "keys", "-o", "before"], b"");
    assert_eq!(backed.code, 0);
    let before = service.files("keys");
    change(&["--root-key-file", "other.key", "--new-root-key-file", "root.key"]).failed(2, "root key");
    assert_eq!(service.files("keys"), before);
    assert_eq!(change(&["--root-key-file", "root.key", "--new-passphrase-file", "pass"]).code, 0);
    list(&["--passphrase-file", "wrong"]).failed(2, "root key");
    list(&["--root-key-file", "root.key"]).failed(2, "passphrase");
    assert!(list(&["--passphrase-file", "pass"]).silent().line().ends_with("orders"));
    let open = ["open", "--kms-store", "keys", "--passphrase-file", "pass"];
    assert_eq!(service.place.run(open, &sealed).silent().out, b"payload");
    assert_eq!(change(&["--passphrase-file", "pass", "--new-root-key-file", "other.key"]).code, 0);
    list(&["--passphrase-file", "pass"]).failed(2, "key file");
    assert!(list(&["--root-key-file", "other.key"]).silent().line().ends_with("orders"));
    // A backup stays under what the store was under.
    let restore =
        |root: &str| service.place.run(["kms", "restore", "--store", "restored", "--root-key-file", root, "before"], b"");
    restore("other.key").failed(2, "root key");
    assert!(!service.path("restored/state").exists());
    assert_eq!(restore("root.key").code, 0);
    restore("root.key").failed(2, "");
    let open = ["open", "--kms-store", "restored", "--root-key-file", "root.key"];
    assert_eq!(service.place.run(open, &sealed).silent().out, b"payload");
    service.place.run([&["kms", "init"], &STORE[..]].concat(), b"").failed(2, "not written over");
}

#[test]
fn a_damaged_store_is_refused_and_left_as_it_is() {
    let service = Service::new();
    service.create("orders");
    (0..5).for_each(|_| drop(service.kms("describe-key", &["orders"])));
    for (name, code) in [("state", [2, 6]), ("audit.log", [4, 4])] {
        let path = format!("keys/{name}");
        let whole = service.place.read(&path);
        for at in (0..whole.len()).step_by(whole.len() / 25) {
            let mut changed = whole.clone();
            changed[at] ^= 0x10;
            service.place.write(&path, &changed);
            let before = service.files("keys");
            for ran in [service.kms("list-keys", &[]), service.kms("rotate-key", &["orders"]), service.kms("create-key", &[])] {
                assert!(code.contains(&ran.code) && ran.out.is_empty(), "{name} at {at}: {ran:?}");
            }
            assert_eq!(service.files("keys"), before, "{name} at {at}");
        }
        for len in [0, 1, whole.len() / 2, whole.len() - 1] {
            service.place.write(&path, &whole[..len]);
            let before = service.files("keys");
            let ran = service.kms("rotate-key", &["orders"]);
            // A log whose last line is torn is one that a crash has left, and the state has that line where it matters.
            if name == "state" || len < whole.len() / 2 {
                assert!(ran.code != 0 && ran.out.is_empty(), "{name}, {len} bytes: {ran:?}");
                assert_eq!(service.files("keys"), before, "{name}, {len} bytes");
            }
        }
        service.place.write(&path, &whole);
        if name == "state" {
            assert_eq!(service.kms("list-keys", &[]).code, 0);
        }
    }
}

#[test]
fn a_store_is_served_once_and_backed_up_meanwhile() {
    let service = Service::new();
    service.create("orders");
    let sealed = service.seal("orders", b"payload");
    let served = service.serve();
    // Each of these waits for some seconds, in case that the other is a short one.
    let (second, verb) = thread::scope(|scope| {
        let second = scope.spawn(|| {
            let command = service.place.command(
                [
                    &["kms", "serve", "--on", "127.0.0.1:0", "--identity", "server.identity", "--policy", "policy.toml"],
                    &STORE[..],
                ]
                .concat(),
            );
            Served::start(command).err()
        });
        let verb = scope.spawn(|| service.kms("list-keys", &[]));
        // Meanwhile it answers, and is copied.
        let until = Instant::now() + Duration::from_secs(3);
        let mut made = 0;
        while Instant::now() < until {
            made += 1;
            assert_eq!(service.at(&served.address, "admin.key", "rotate-key", &["orders"]).code, 0);
            let name = format!("backup {made}");
            let ran = service.place.run(["kms", "backup", "--store", "keys", "-o", &name], b"");
            assert!(ran.code == 0 && ran.err.contains(&format!("generation {}", made + 2)), "{}", ran.err);
            assert_eq!(mode(&service.path(&name)), 0o600);
        }
        assert!(made > 2);
        (second.join().unwrap(), verb.join().unwrap())
    });
    assert!(second.as_ref().is_some_and(|said| said.contains("another process")), "{second:?}");
    verb.failed(7, "another process");
    service.place.run(["kms", "backup", "--store", "keys", "-o", "backup 1"], b"").failed(2, "backup 1");
    assert_eq!(
        service.place.run(["kms", "restore", "--store", "restored", "--root-key-file", "root.key", "backup 2"], b"").code,
        0
    );
    let described =
        service.place.run(["kms", "describe-key", "--json", "--store", "restored", "--root-key-file", "root.key", "orders"], b"");
    assert_eq!(json(&described)["version"], 3);
    let open = ["open", "--kms-store", "restored", "--root-key-file", "root.key"];
    assert_eq!(service.place.run(open, &sealed).silent().out, b"payload");
}

// The server.

#[test]
fn a_policy_is_read_again_and_a_bad_one_is_not_taken() {
    let service = Service::new();
    service.create("orders");
    let mut served = service.serve();
    let ask = |caller: &str, verb: &str, args: &[&str]| service.at(&served.address, caller, verb, args);
    ask("orders.key", "describe-key", &["orders"]).silent();
    service.policy("policy.toml", "", &[r#"{ verbs = ["list-keys"], keys = ["*"] }"#]);
    ask("orders.key", "describe-key", &["orders"]).silent();
    served.signal(Signal::HUP);
    assert!(served.says("policy: 2 callers, from policy.toml").is_some());
    let ask = |served: &Served, caller: &str, verb: &str, args: &[&str]| service.at(&served.address, caller, verb, args);
    ask(&served, "orders.key", "describe-key", &["orders"]).failed(4, "not allowed");
    ask(&served, "orders.key", "list-keys", &[]).silent();
    for bad in ["[[caller]]\nname = \"admin\"\n", "allow everything", "[[caller]]\nname = \"x\"\nkey = \"sws1\"\nalow = []"] {
        service.place.write("policy.toml", bad.as_bytes());
        served.signal(Signal::HUP);
        assert!(served.says("error: the policy stays as it was: policy.toml: ").is_some());
        ask(&served, "orders.key", "list-keys", &[]).silent();
        ask(&served, "admin.key", "describe-key", &["orders"]).silent();
    }
    fs::remove_file(service.path("policy.toml")).unwrap();
    served.signal(Signal::HUP);
    assert!(served.says("error: the policy stays as it was").is_some());
    ask(&served, "admin.key", "describe-key", &["orders"]).silent();

    // On a connection that is there, the next request is judged by what holds then.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (client, key) = (service.client(&[&served.address]), "orders".parse::<KeyRef>().unwrap());
    runtime.block_on(client.describe_key(&key)).unwrap();
    for (of_admin, remark) in
        [("revoked = true", None), ("expires = 2026-01-31T00:00:00Z", Some("has expired at 2026-01-31T00:00:00Z"))]
    {
        service.policy("policy.toml", of_admin, &[]);
        served.signal(Signal::HUP);
        if let Some(remark) = remark {
            assert!(served.says(remark).is_some());
        }
        assert!(served.says("policy: 2 callers").is_some());
        assert!(matches!(runtime.block_on(client.describe_key(&key)), Err(KmsError::Denied)));
        // Who comes anew is a stranger.
        ask(&served, "admin.key", "rotate-key", &["orders"]).failed(7, "does it know our sender key");
        ask(&served, "admin.key", "list-keys", &[]).failed(7, "does it know our sender key");
    }
    service.policy("policy.toml", "expires = 2999-01-31T00:00:00Z", &[]);
    served.signal(Signal::HUP);
    assert!(served.says("policy: 2 callers").is_some());
    ask(&served, "admin.key", "rotate-key", &["orders"]).silent();
    // A server does not begin without one.
    service.place.write("policy.toml", b"allow everything");
    drop(served);
    let said = Served::start(
        service.place.command(
            [&["kms", "serve", "--on", "127.0.0.1:0", "--identity", "server.identity", "--policy", "policy.toml"], &STORE[..]]
                .concat(),
        ),
    );
    assert!(said.is_err_and(|said| said.contains("policy.toml: the policy is malformed")));
}

/// Whatever was answered was done, whatever was done was answered, and nothing is left open.
#[test]
fn what_is_in_flight_is_finished_when_the_server_ends() {
    const CALLERS: usize = 8;
    let service = Service::new();
    service.create("orders");
    let served = service.serve();
    let (done, refused) = (AtomicU32::new(0), AtomicU32::new(0));
    let ended = thread::scope(|scope| {
        for _ in 0..CALLERS {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let (client, key) = (service.client(&[&served.address]), "orders".parse::<KeyRef>().unwrap());
                loop {
                    match runtime.block_on(client.rotate_key(&key)) {
                        Ok(_) => done.fetch_add(1, SeqCst),
                        Err(error) => {
                            let error = error.to_string();
                            assert!(!error.contains("may have been carried out"), "{error}");
                            break refused.fetch_add(1, SeqCst);
                        }
                    };
                }
            });
        }
        eventually("a hundred calls", || done.load(SeqCst) >= 100);
        let started = Instant::now();
        served.signal(Signal::TERM);
        eventually("the end", || refused.load(SeqCst) == CALLERS as u32);
        started.elapsed()
    });
    let (code, said) = served.ends();
    assert!(code == 0 && !said.contains("cut"), "{said}");
    assert!(ended < Duration::from_secs(5), "{ended:?}");
    assert_eq!(service.json("describe-key", &["orders"])["version"], done.load(SeqCst) + 1);
    assert!(service.kms("audit", &[]).silent().line().starts_with("the audit log is what was written"));
}

#[test]
fn the_socket_of_a_dead_server_is_replaced_and_no_other() {
    let service = Service::new();
    service.create("orders");
    let backed = service.place.run(["kms", "backup", "--store", "keys", "-o", "copy"], b"");
    assert_eq!(backed.code, 0);
    let mut served = service.serve_with(&["--on", "unix:sock"]);
    assert_eq!(served.address, "unix:sock");
    service.at("unix:sock", "admin.key", "describe-key", &["orders"]).silent();
    let on_sock = |store: &'static str, more: &[&str]| {
        let serve = ["kms", "serve", "--root-key-file", "root.key", "--identity", "server.identity", "--policy", "policy.toml"];
        Served::start(service.place.command([&serve[..], &["--store", store, "--on", "unix:sock"], more].concat()))
    };
    // Another one does not take it from a server that lives.
    assert!(
        on_sock("copy", &["--replica", "--audit-log", "log"])
            .is_err_and(|said| said.contains("unix:sock") && said.contains("in use"))
    );
    service.at("unix:sock", "admin.key", "describe-key", &["orders"]).silent();
    served.kill();
    assert!(fs::metadata(service.path("sock")).unwrap().file_type().is_socket());
    service.at("unix:sock", "admin.key", "describe-key", &["orders"]).failed(7, "no key service could be reached");
    let again = on_sock("keys", &[]).unwrap();
    service.at("unix:sock", "admin.key", "describe-key", &["orders"]).silent();
    assert_eq!(again.stop().0, 0);
    // Without a path there would be one without rights.
    assert!(
        Served::start(service.place.command(["kms", "serve"].iter().chain(&STORE).chain(&[
            "--identity",
            "server.identity",
            "--policy",
            "policy.toml",
            "--on",
            "unix:"
        ])))
        .is_err_and(|said| said.contains("names no socket"))
    );
    // What is no socket is nobody's to remove.
    let _ = fs::remove_file(service.path("sock"));
    service.place.write("sock", b"mine");
    assert!(on_sock("keys", &[]).is_err_and(|said| said.contains("unix:sock")));
    assert_eq!(service.place.read("sock"), b"mine");
}

/// Whatever the umask, no other user connects; the umask decides of the group.
#[test]
fn a_socket_is_open_to_no_other_user() {
    let service = Service::new();
    service.create("orders");
    let serve =
        format!("exec sealwire kms serve {} --identity server.identity --policy policy.toml --on unix:sock", STORE.join(" "));
    for (umask, expected) in [("000", 0o660), ("002", 0o660), ("007", 0o660), ("022", 0o640), ("027", 0o640), ("077", 0o600)] {
        let mut command = Command::new("bash");
        let script = format!("umask {umask}; {}", serve.replace("sealwire ", &format!("{PROGRAM} ")));
        command.args(["-c", &script]).current_dir(service.place.path(".")).stderr(Stdio::piped());
        let served = Served::start(command).unwrap();
        assert_eq!(mode(&service.path("sock")), expected, "{umask}");
        service.at("unix:sock", "admin.key", "describe-key", &["orders"]).silent();
        if umask == "000" && getuid().is_root() {
            // The service's own clients may be of another user and have to be in its group; who is in none of them gets nowhere.
            let open = |name: &str, bits| fs::set_permissions(service.path(name), fs::Permissions::from_mode(bits)).unwrap();
            open(".", 0o755);
            open("admin.key", 0o644);
            let args = [&["kms", "describe-key"], &Service::ask(&["unix:sock"], "admin.key")[..], &["orders"]].concat();
            let program = own_program(&service.place);
            for (gid, reaches) in [(NOBODY, false), (0, true)] {
                let mut other = Command::new(&program);
                other.args(&args).current_dir(service.path("."));
                as_user(&mut other, NOBODY);
                std::os::unix::process::CommandExt::gid(&mut other, gid);
                let ran = Ran::of(other.output().unwrap());
                assert_eq!(ran.code == 0, reaches, "{ran:?}");
                assert_eq!(ran.err.contains("Permission denied"), !reaches, "{ran:?}");
            }
            open("admin.key", 0o600);
        }
        assert_eq!(served.stop().0, 0);
    }
}

/// A server that cannot write its log says so, is not healthy, and counts what it answers; it goes on by itself.
#[test]
fn a_server_that_cannot_write_says_so() {
    let service = Service::new();
    service.create("orders");
    // Files may have 8 KiB, which the log will.
    let script = format!(
        "trap '' XFSZ; ulimit -S -f 8; exec {PROGRAM} kms serve {} --identity server.identity --policy policy.toml --on 127.0.0.1:0 --metrics 127.0.0.1:0",
        STORE.join(" ")
    );
    let mut command = Command::new("bash");
    command.args(["-c", &script]).current_dir(service.path(".")).stderr(Stdio::piped());
    let mut served = Served::start(command).unwrap();
    let watched = served.says("health and metrics on http://").unwrap();
    let watched = watched.rsplit('/').next().unwrap().to_owned();
    let get = |path: &str| {
        let mut socket = std::net::TcpStream::connect(&watched).unwrap();
        socket.write_all(format!("GET {path} HTTP/1.1\r\nhost: kms\r\n\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        std::io::Read::read_to_string(&mut socket, &mut answer).unwrap();
        answer
    };
    let address = served.address.clone();
    let ask = || service.at(&address, "admin.key", "describe-key", &["orders"]);
    assert!(get("/healthz").starts_with("HTTP/1.1 200"));
    let told = (0..100).take_while(|_| ask().code == 0).count();
    assert!((1..100).contains(&told), "{told}");
    eventually("it is not healthy", || get("/healthz").starts_with("HTTP/1.1 503"));
    assert!(served.says("error: writing \"keys/audit.log\" failed: File too large").is_some());
    let metrics = get("/metrics");
    for (result, n) in [("ok", told), ("failed", 1)] {
        let line = format!("sealwire_kms_results_total{{result=\"{result}\"}} {n}");
        assert!(metrics.lines().any(|said| said == line), "{line} in {metrics}");
    }
    ask().failed(7, "its log says how");
    let unlimited = ["--fsize=unlimited:unlimited", "--pid", &served.child.id().to_string()].map(String::from);
    assert!(Command::new("prlimit").args(unlimited).status().unwrap().success());
    assert!(served.says("note: the store can be written and read again").is_some());
    eventually("it is healthy", || get("/healthz").starts_with("HTTP/1.1 200"));
    assert_eq!(ask().code, 0);
    // What was refused before it ended is not why it ends.
    let small = ["--fsize=8192:unlimited", "--pid", &served.child.id().to_string()].map(String::from);
    assert!(Command::new("prlimit").args(small).status().unwrap().success());
    ask().failed(7, "its log says how");
    assert_eq!(served.stop().0, 0);
    service.audit_lines();
}

/// The time from one server's end to the next answer, for commands and for a client that is connected.
#[test]
fn opening_goes_on_when_a_server_is_gone() {
    let service = Service::new();
    service.create("orders");
    let sealed: Vec<Vec<u8>> = (0..6u8).map(|i| service.seal("orders", &[i; 10])).collect();
    let second = store_and_copy(&service, "copy");
    let mut first = service.serve();
    let both = [first.address.clone(), second.address.clone()];
    let open = |envelope: &[u8]| {
        let servers = ["--kms-server", &both[0], "--kms-server", &both[1]];
        let started = Instant::now();
        let opened = service.place.run([&["open"], &servers[..], &CALLER[..]].concat(), envelope).silent().out;
        (opened, started.elapsed())
    };
    assert_eq!(open(&sealed[0]).0, [0; 10]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let client = service.client(&[&both[0], &both[1]]);
    let block = |envelope: &[u8]| {
        let len = envelope_block_len(&service, envelope);
        sealwire::kms::WrappedDek::Block(envelope[..len].to_vec())
    };
    let blocks: Vec<_> = sealed.iter().map(|envelope| block(envelope)).collect();
    runtime.block_on(client.decrypt_data_key(blocks[0].clone())).unwrap();
    // It says nothing any more, and its connections stay: who connects anew goes to the other within its time.
    first.signal(Signal::STOP);
    let (opened, took) = open(&sealed[1]);
    assert!(opened == [1; 10] && took < Duration::from_secs(2), "{took:?}");
    println!("a command, the first server being stopped: {took:?}");
    first.signal(Signal::CONT);
    first.kill();
    let started = Instant::now();
    runtime.block_on(client.decrypt_data_key(blocks[2].clone())).unwrap();
    let took = started.elapsed();
    println!("a client that was connected, the first server being killed: {took:?}");
    assert!(took < Duration::from_secs(1), "{took:?}");
    for (i, envelope) in sealed.iter().enumerate().skip(3) {
        let (opened, took) = open(envelope);
        println!("a command, the first server being gone: {took:?}");
        assert!(opened == [i as u8; 10] && took < Duration::from_secs(1), "{took:?}");
    }
}

/// Bytes of the DEK block of an envelope: its header_mac is the last of it.
fn envelope_block_len(service: &Service, envelope: &[u8]) -> usize {
    let report = json(&service.place.run(["inspect", "--json"], envelope).silent());
    let fields = report["messages"][0]["fields"].as_array().unwrap();
    let mac = fields.iter().find(|field| field["name"] == "header_mac").unwrap();
    (mac["offset"].as_u64().unwrap() + mac["length"].as_u64().unwrap()) as usize
}

#[test]
fn a_replica_goes_on_without_its_primary_and_changes_nothing() {
    let service = Service::new();
    service.create("orders");
    let sealed = service.seal("orders", b"payload");
    let copy = |name: &str| {
        let ran = service.place.run(["kms", "backup", "--store", "keys", "-o", name], b"");
        assert_eq!(ran.code, 0, "{}", ran.err);
    };
    let primary = service.serve();
    copy("copy");
    let before = service.place.read("copy");
    let mut replica = service.serve_on("copy", &["--replica", "--audit-log", "log", "--on", "127.0.0.1:0"]);
    assert_eq!(primary.stop().0, 0);
    let ask = |verb: &str, args: &[&str], input: &[u8]| service.at_with(&replica.address, "admin.key", verb, args, input);
    let open = |envelope: &[u8]| service.place.run([&["open", "--kms-server", &replica.address], &CALLER[..]].concat(), envelope);
    assert_eq!(open(&sealed).silent().out, b"payload");
    assert!(ask("generate-data-key", &["orders"], b"").silent().line().contains("plaintext:"));
    let secret = ask("encrypt", &["orders"], b"1234").silent().out;
    assert_eq!(ask("decrypt", &[], &secret).silent().out, b"1234");
    for (verb, args) in [
        ("create-key", &[][..]),
        ("rotate-key", &["orders"]),
        ("disable-key", &["orders"]),
        ("enable-key", &["orders"]),
        ("schedule-key-deletion", &["--days", "7", "orders"]),
        ("cancel-key-deletion", &["orders"]),
        ("set-alias", &["orders", "more"]),
        ("delete-alias", &["orders"]),
    ] {
        ask(verb, args, b"").failed(4, "this service is a replica, which changes nothing; ask the primary");
    }
    assert_eq!(service.place.read("copy"), before);

    // A newer copy is taken up; an older one, and one that is none, are told of and not taken.
    service.json("rotate-key", &["orders"]);
    let newer = service.seal("orders", b"newer");
    open(&newer).failed(3, "cannot be decrypted");
    copy("newer");
    fs::rename(service.path("newer"), service.path("copy")).unwrap();
    eventually("the newer copy", || open(&newer).out == b"newer");
    assert_eq!(open(&sealed).silent().out, b"payload");
    for bad in [&before[..], b"garbage"] {
        service.place.write("bad", bad);
        fs::rename(service.path("bad"), service.path("copy")).unwrap();
        assert!(replica.says("error: ").is_some());
        let open =
            |envelope: &[u8]| service.place.run([&["open", "--kms-server", &replica.address], &CALLER[..]].concat(), envelope);
        assert_eq!(open(&newer).silent().out, b"newer");
    }
    copy("mended");
    fs::rename(service.path("mended"), service.path("copy")).unwrap();
    assert!(replica.says("the store can be written and read again").is_some());
    let (code, said) = replica.stop();
    assert_eq!(code, 0, "{said}");
    let lines = fs::read_to_string(service.path("log/audit.log")).unwrap();
    assert!(lines.matches("\"decrypt-data-key\"").count() >= 4 && lines.contains("\"generate-data-key\""), "{lines}");
}

#[test]
fn two_hundred_idle_clients_hold_up_nobody() {
    const IDLE: usize = 200;
    let service = Service::new();
    service.create("orders");
    let served = service.serve();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let resident = || status(served.child.id(), "VmRSS").trim_end_matches(" kB").trim().parse::<u64>().unwrap();
    let before = resident();
    let key: KeyRef = "orders".parse().unwrap();
    let clients: Vec<_> = (0..IDLE).map(|_| service.client(&[&served.address])).collect();
    for client in &clients {
        runtime.block_on(client.describe_key(&key)).unwrap();
    }
    let each = (resident() - before) / IDLE as u64;
    let started = Instant::now();
    service.at(&served.address, "admin.key", "describe-key", &["orders"]).silent();
    let took = started.elapsed();
    println!("{IDLE} idle clients: {each} KiB each, and a command takes {took:?}");
    assert!(took < Duration::from_secs(2) && each < 256, "{took:?}, {each} KiB");
    // Those who say nothing at all, too.
    let silent: Vec<_> = (0..IDLE).map(|_| TcpStream::connect(&served.address).unwrap()).collect();
    service.at(&served.address, "admin.key", "describe-key", &["orders"]).silent();
    for client in &clients {
        runtime.block_on(client.describe_key(&key)).unwrap();
    }
    drop(silent);
    let (code, said) = served.stop();
    assert!(code == 0 && !said.contains("cut"), "{said}");
}

// What nobody may see.

/// Runs a service as its operators do, with everything that it says kept, and looks for its secrets in all of it.
#[test]
fn secrets_are_nowhere_but_where_they_were_asked_for() {
    let service = Service::new();
    let served = service.serve_with(&["--json", "--on", "127.0.0.1:0"]);
    let proxy = Proxy::to(&served.address);
    let mut seen: Vec<(String, Vec<u8>)> = Vec::new();
    let mut ask = |verb: &str, args: &[&str], input: &[u8]| {
        let ran = service.at_with(&proxy.address, "admin.key", verb, args, input);
        seen.push((verb.into(), [&ran.out[..], ran.err.as_bytes()].concat()));
        ran.out
    };
    let mut recipients = Vec::new();
    ask("create-key", &["--alias", "orders"], b"");
    for _ in 0..3 {
        recipients.push(String::from_utf8(ask("get-public-key", &["orders"], b"")).unwrap().trim().to_owned());
        ask("rotate-key", &["orders"], b"");
    }
    recipients.push(String::from_utf8(ask("get-public-key", &["orders"], b"")).unwrap().trim().to_owned());
    let envelope = service.place.run(["seal", "-r", &recipients[0]], b"payload").silent().out;
    let secret = ask("encrypt", &["--context", "c", "orders"], b"a PIN that is 1234");
    ask("re-encrypt", &["--context", "c", "--to", "orders"], &secret);
    let block = service.place.run(
        [
            &["kms", "generate-data-key", "--without-plaintext", "--ciphertext", "dek"],
            &Service::ask(&[&proxy.address], "admin.key")[..],
            &["orders"],
        ]
        .concat(),
        b"",
    );
    seen.push(("generate-data-key".into(), [block.out, block.err.into_bytes()].concat()));
    let mut wrong = envelope.clone();
    wrong[60] ^= 1;
    for (verb, args, input) in [
        ("list-keys", &[][..], &b""[..]),
        ("list-keys", &["--json"], b""),
        ("describe-key", &["orders"], b""),
        ("describe-key", &["nobody"], b""),
        ("get-public-key", &["--json", "orders"], b""),
        ("decrypt-data-key", &[], &wrong),
        ("decrypt", &["--context", "d"], &secret),
        ("schedule-key-deletion", &["--days", "3", "orders"], b""),
        ("disable-key", &["--json", "orders"], b""),
        ("enable-key", &["orders"], b""),
    ] {
        let ran = service.at_with(&proxy.address, "admin.key", verb, args, input);
        seen.push((verb.into(), [&ran.out[..], ran.err.as_bytes()].concat()));
    }
    let opened = service.place.run([&["open", "--kms-server", &proxy.address], &CALLER[..]].concat(), &envelope);
    assert_eq!(opened.out, b"payload");
    seen.push(("open".into(), opened.err.into_bytes()));
    let pair = json(&service.at(&proxy.address, "admin.key", "decrypt-data-key", &["--json", "dek"]).silent());

    // Where the process of the server might show them.
    let pid = served.child.id();
    for name in ["cmdline", "environ", "status", "comm", "maps"] {
        seen.push((name.into(), fs::read(format!("/proc/{pid}/{name}")).unwrap()));
    }
    for (i, (up, down)) in proxy.conversations().into_iter().enumerate() {
        seen.push((format!("conversation {i}"), [up, down].concat()));
    }
    let (code, said) = served.stop();
    assert_eq!(code, 0, "{said}");
    seen.push(("standard error".into(), said.into_bytes()));
    seen.extend(service.files("keys"));
    let audit = service.kms("audit", &["--print"]).silent().out;
    seen.push(("audit".into(), audit));
    assert_eq!(service.place.run(["kms", "backup", "--store", "keys", "-o", "backup"], b"").code, 0);
    seen.push(("backup".into(), service.place.read("backup")));

    let (_, state) = Store::open(&service.path("keys"), &service.root()).unwrap();
    let secrets = secrets_in(&state, &recipients);
    assert_eq!(secrets.len(), 4);
    let mut spellings: Vec<_> =
        secrets.iter().map(|secret| Spellings::of(secret).and(&Cmk::from_x25519(secret).to_text())).collect();
    // That they would be found is seen where they are.
    assert!(spellings.iter().all(|secret| secret.are_in(&state)));
    let root = service.text("root.key");
    let root = root.lines().find(|line| line.starts_with("SW-SECRET")).unwrap();
    let root = Cmk::from_text(root).unwrap();
    spellings.push(Spellings::of(&secret_of(&root)).and(&root.to_text()));
    spellings.push(Spellings::of(&state[..]));
    let dek = words(&pair, "plaintext");
    spellings.push(Spellings::of(&from_base64(&dek)).and(&dek));
    spellings.push(Spellings::of(b"a PIN that is 1234"));
    assert!(spellings[6].are_in(pair.to_string().as_bytes()));
    for (what, text) in &seen {
        for (i, secret) in spellings.iter().enumerate() {
            assert!(!secret.are_in(text), "secret {i} is in {what}");
        }
    }
    let empty: Vec<_> = seen.iter().filter(|(_, text)| text.is_empty()).map(|(what, _)| &what[..]).collect();
    assert!(seen.len() > 50 && empty.iter().all(|what| ["lock", "open"].contains(what)), "{empty:?} of {}", seen.len());
}

/// The 32 bytes of a key file's key, out of its PEM form: the last of it.
fn secret_of(cmk: &Cmk) -> Vec<u8> {
    let pem = cmk.to_pem().unwrap();
    let base64: String = pem.lines().filter(|line| !line.starts_with("--")).collect();
    let der = from_base64(&base64);
    der[16..48].to_vec()
}

fn from_base64(text: &str) -> Vec<u8> {
    Base64::decode_vec(text).unwrap()
}

/// Runs as another user where the tests run as root, whom nothing keeps out.
#[test]
fn no_process_looks_into_a_server_and_no_core_is_written() {
    let service = Service::new();
    service.create("orders");
    let mut command = service.place.command([
        "kms",
        "serve",
        "--on",
        "127.0.0.1:0",
        "--identity",
        "server.identity",
        "--policy",
        "policy.toml",
    ]);
    let uid = as_another_user(&service.place, &mut command);
    command.args(STORE);
    let served = Served::start(command).unwrap();
    let pid = served.child.id();
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"]);
    // What belongs to a process that may not be dumped is root's, whoever runs it.
    assert_eq!(status(pid, "Uid").split_whitespace().next().unwrap(), uid.to_string());
    assert_ne!(uid, 0);
    assert_eq!(fs::metadata(format!("/proc/{pid}/mem")).unwrap().uid(), 0);
    let mut other = Command::new("cat");
    as_user(&mut other, uid);
    let other = other.arg(format!("/proc/{pid}/environ")).output().unwrap();
    assert!(!other.status.success() && other.stdout.is_empty(), "{other:?}");
    drop(served);

    // Descriptors that are inherited are read and written all the same.
    service.place.write("pass", b"correct horse\n");
    let script = "P=$0; kms() { v=$1; shift; $P kms $v --store mine --passphrase-fd 3 \"$@\" 3< pass; }
        kms init && kms create-key --alias orders > made &&
        $P seal --dek <(kms generate-data-key orders --plaintext-fd 4 4>&1 > /dev/null) -o mine.sealed pass &&
        exec $P open --kms-store mine --passphrase-fd 3 mine.sealed 3< pass";
    let mut command = Command::new("bash");
    command.current_dir(service.place.path(".")).stdin(Stdio::null());
    as_user(&mut command, uid);
    let ran = Ran::of(command.args(["-c", script]).arg(own_program(&service.place)).output().unwrap());
    assert!(ran.code == 0 && ran.out == b"correct horse\n", "{ran:?}");
}

const NOBODY: u32 = 65_534;

/// Makes a command one that another user runs; tells whose it is.
fn as_another_user(place: &Place, command: &mut Command) -> u32 {
    if !getuid().is_root() {
        return getuid().as_raw();
    }
    let give = |path: &std::path::Path| std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    give(&place.path("."));
    for folder in [".", "keys"] {
        fs::read_dir(place.path(folder)).unwrap().for_each(|entry| give(&entry.unwrap().path()));
    }
    let args: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    let mut other = Command::new(own_program(place));
    other.args(args).current_dir(place.path(".")).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    as_user(&mut other, NOBODY);
    *command = other;
    NOBODY
}

fn as_user(command: &mut Command, uid: u32) {
    if getuid().is_root() {
        std::os::unix::process::CommandExt::uid(command, uid);
        std::os::unix::process::CommandExt::gid(command, uid);
    }
}

/// The program where every user can run it.
fn own_program(place: &Place) -> std::path::PathBuf {
    let own = place.path("program");
    if !own.exists() {
        fs::copy(PROGRAM, &own).unwrap();
        fs::set_permissions(&own, fs::Permissions::from_mode(0o755)).unwrap();
    }
    own
}

// What passes between a caller and a server.

/// Bytes of a payload that is large enough to show whether its size matters.
const LARGE: u64 = 256 << 20;

/// Generates a payload that has no end of its own, and tells what it is by.
fn generate(mut to: impl Write, len: u64) {
    let chunk: Vec<u8> = (0..1 << 20).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut left = len;
    while left > 0 {
        let n = left.min(chunk.len() as u64) as usize;
        to.write_all(&chunk[..n]).unwrap();
        left -= n as u64;
    }
}

/// Seals a payload under a data key from a server and opens it again, all of it in pipes; tells how many bytes the server exchanged.
fn through_the_service(service: &Service, server: &str, len: u64) -> [usize; 2] {
    let (sealing, opening) = (Proxy::to(server), Proxy::to(server));
    let pair = service.at(&sealing.address, "admin.key", "generate-data-key", &["orders"]).silent().out;
    // The DEK has a FIFO of its own, since the payload has standard input.
    let fifo = service.path("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let mut seal = service.place.command(["seal", "--dek", "fifo"]).stderr(Stdio::inherit()).spawn().unwrap();
    File::options().write(true).open(&fifo).unwrap().write_all(&pair).unwrap();
    fs::remove_file(&fifo).unwrap();
    let payload = seal.stdin.take().unwrap();
    let sealed = seal.stdout.take().unwrap();
    let open = [&["open", "--kms-server", &opening.address], &CALLER[..]].concat();
    let mut open = service.place.command(open).stdin(Stdio::from(sealed)).stderr(Stdio::inherit()).spawn().unwrap();
    let mut opened = open.stdout.take().unwrap();
    let (mut count, mut buffer) = (0, vec![0; 1 << 20]);
    thread::scope(|scope| {
        scope.spawn(|| generate(payload, len));
        while let Ok(n @ 1..) = opened.read(&mut buffer) {
            count += n as u64;
        }
    });
    assert!(seal.wait().unwrap().success() && open.wait().unwrap().success());
    assert_eq!(count, len);
    [sealing.bytes(), opening.bytes()]
}

#[test]
fn a_payload_of_any_size_costs_the_service_the_same_few_bytes() {
    let service = Service::new();
    service.create("orders");
    let served = service.serve();
    let small = through_the_service(&service, &served.address, 1000);
    let large = through_the_service(&service, &served.address, LARGE);
    println!("bytes exchanged with the service, sealing and opening: {small:?} for 1000 bytes, {large:?} for {LARGE}");
    assert_eq!(small, large);
    assert!(large.iter().all(|bytes| (200..4096).contains(bytes)), "{large:?}");
}

/// A conversation that was recorded is worth nothing to who has it.
#[test]
fn a_recorded_session_does_nothing() {
    let service = Service::new();
    service.create("orders");
    let sealed = service.seal("orders", b"payload");
    let served = service.serve();
    let proxy = Proxy::to(&served.address);
    assert_eq!(json(&service.at(&proxy.address, "admin.key", "rotate-key", &["--json", "orders"]))["version"], 2);
    let open = [&["open", "--kms-server", &proxy.address], &CALLER[..]].concat();
    assert_eq!(service.place.run(open, &sealed).silent().out, b"payload");
    let recorded = proxy.conversations();
    assert_eq!(recorded.len(), 2);
    let (lines, state) = (service.audit_lines(), service.place.read("keys/state"));
    for (said, heard) in &recorded {
        assert!(said.len() > 200 && heard.len() > 200);
        for _ in 0..5 {
            let mut socket = TcpStream::connect(&served.address).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let mut greeting = [0; 32];
            socket.read_exact(&mut greeting).unwrap();
            assert_ne!(greeting[..], heard[..32]);
            let _ = socket.write_all(said);
            let mut answer = Vec::new();
            let _ = socket.read_to_end(&mut answer);
            assert!(answer.is_empty(), "{} bytes were answered", answer.len());
        }
    }
    assert_eq!((service.audit_lines(), service.place.read("keys/state")), (lines, state));
    // It still serves who is there.
    assert_eq!(json(&service.at(&served.address, "admin.key", "rotate-key", &["--json", "orders"]))["version"], 3);
    assert_eq!(service.audit_lines(), lines + 1);
}

// What is told, and how.

/// All that a server says is for a machine where that is asked for, from the first word to the last.
#[test]
fn a_server_tells_machines_in_json() {
    let service = Service::new();
    service.create("orders");
    service.policy("policy.toml", "", &[]);
    fs::set_permissions(service.path("server.identity"), fs::Permissions::from_mode(0o644)).unwrap();
    // Not locked: that is remarked.
    let script = format!(
        "ulimit -l 64; exec {PROGRAM} kms serve --json {} --identity server.identity --policy policy.toml --on 127.0.0.1:0",
        STORE.join(" ")
    );
    let mut command = Command::new("bash");
    command.args(["-c", &script]).current_dir(service.path(".")).stderr(Stdio::piped());
    let mut served = Served::start(command).unwrap();
    service.policy("policy.toml", "expires = 2026-01-31T00:00:00Z", &[]);
    served.signal(Signal::HUP);
    let policy: Value = serde_json::from_str(&served.says("\"policy\"").unwrap()).unwrap();
    assert_eq!((&policy["event"], &policy["callers"], &policy["from"]), (&"policy".into(), &2.into(), &"policy.toml".into()));
    service.place.write("policy.toml", b"[[caller]]\nname = \"a\nkey = 7\n");
    served.signal(Signal::HUP);
    assert!(served.says("the policy stays as it was").is_some());
    let (code, said) = served.stop();
    assert_eq!(code, 0, "{said}");
    let events: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{said}"))).collect();
    let has = |event: &str, words: &str| {
        let message = |said: &Value| said["message"].as_str().is_some_and(|message| message.contains(words));
        events.iter().any(|said| said["event"] == event && message(said))
    };
    for (event, words) in [
        ("warning", "server.identity can be read by others (mode 644); run: chmod 600"),
        ("note", "memory is not locked"),
        ("note", "policy.toml: the caller \"admin\" has expired at 2026-01-31T00:00:00Z"),
        ("error", "the policy stays as it was: policy.toml: the policy is malformed: line 2, column 10: "),
    ] {
        assert!(has(event, words), "{event} {words}: {said}");
    }
    assert!(events.last().is_some_and(|last| last["event"] == "stopped"), "{said}");
    // As why it did not begin.
    let ran = service.kms("serve", &["--json", "--on", "127.0.0.1:0", "--identity", "server.pub", "--policy", "policy.toml"]);
    let last: Value = serde_json::from_str(ran.err.lines().last().unwrap()).unwrap();
    assert_eq!((ran.code, &last["event"], &last["code"]), (2, &"error".into(), &2.into()), "{}", ran.err);
    // And to people, one line.
    let ran = service.kms("serve", &["--on", "127.0.0.1:0", "--identity", "server.identity", "--policy", "policy.toml"]);
    let told: Vec<_> = ran
        .err
        .lines()
        .filter(|line| line.starts_with("sealwire: policy.toml: the policy is malformed: line 2, column 10: "))
        .collect();
    assert!(ran.code == 2 && told.len() == 1 && ran.err.ends_with(&format!("{}\n", told[0])), "{}", ran.err);
}

/// A secret on the disk is for its owner, whatever is usual for new files, and whatever was there.
#[test]
fn what_is_decrypted_is_for_its_owner() {
    let service = Service::new();
    service.create("orders");
    let secret = service.kms_with("encrypt", &["orders"], b"1234").silent().out;
    service.place.write("secret", &secret);
    let store = STORE.join(" ");
    for umask in ["000", "022", "077"] {
        let name = format!("opened {umask}");
        service.shell(&format!("umask {umask}; sealwire kms decrypt {store} -o '{name}' secret")).silent();
        assert_eq!((mode(&service.path(&name)), service.place.read(&name)), (0o600, b"1234".to_vec()));
    }
    service.place.write("there", b"for all");
    fs::set_permissions(service.path("there"), fs::Permissions::from_mode(0o666)).unwrap();
    service.kms("decrypt", &["--force", "-o", "there", "secret"]).silent();
    assert_eq!((mode(&service.path("there")), service.place.read("there")), (0o600, b"1234".to_vec()));
    // What goes to a pipe, or a device, goes there.
    assert_eq!(service.kms("decrypt", &["-o", "/dev/stdout", "secret"]).silent().out, b"1234");
}

#[test]
fn a_secret_is_not_taken_for_an_envelope() {
    let service = Service::new();
    service.create("orders");
    let secret = service.kms_with("encrypt", &["orders"], &[7; 3000]).silent().out;
    service.place.write("secret", &secret);
    let lines = service.audit_lines();
    const SAID: &str = "this is a secret that is directly under a CMK: sealwire kms decrypt";
    for args in [
        &["secret"][..],
        &["-o", "out", "secret"],
        &["--range", "1..2", "secret"],
        &["--channel", "secret"],
        &["--check", "secret"],
        &["--detached", "secret", "root.key"],
    ] {
        for how in [&OPEN_STORE[..], &["open", "-k", "alice.key"]] {
            service.place.run([how, args].concat(), b"").failed(6, SAID);
        }
    }
    service.place.run(OPEN_STORE, &secret).failed(6, SAID);
    assert!(!service.path("out").exists());
    service.kms("decrypt-data-key", &["secret"]).failed(6, SAID);
    service.kms_with("decrypt-data-key", &[], &secret).failed(6, SAID);
    assert_eq!(service.audit_lines(), lines);
    // What is shorter than its first word is what it was.
    service.place.run(OPEN_STORE, b"SWD").failed(6, "this is no sealwire envelope");
    service.place.run(OPEN_STORE, b"").failed(5, "");
}

#[test]
fn an_identity_has_no_passphrase() {
    let service = Service::new();
    service.place.write("pass", b"correct horse\n");
    let before = service.place.read("server.identity");
    for args in [&[][..], &["--remove"], &["--new-passphrase-file", "pass"]] {
        let ran = service.place.run([&["passphrase"], args, &["server.identity"]].concat(), b"");
        ran.failed(2, "it is a server's identity, which stays without a passphrase: keep it 0600");
    }
    assert_eq!(service.place.read("server.identity"), before);
    // Nor is one made of keys that have one.
    assert_eq!(service.place.run(["keygen", "--passphrase-file", "pass", "-o", "mine.key"], b"").code, 0);
    let sender = service.text("orders.key");
    service.place.write("mixed.identity", format!("{sender}{}", service.text("mine.key")).as_bytes());
    fs::set_permissions(service.path("mixed.identity"), fs::Permissions::from_mode(0o600)).unwrap();
    let ran = service.kms("serve", &["--on", "127.0.0.1:0", "--identity", "mixed.identity", "--policy", "policy.toml"]);
    let told = ran.err.lines().last().unwrap();
    assert!(ran.code == 2 && told.starts_with("sealwire: mixed.identity: line "), "{told}");
    assert!(
        told.contains("the key is under a passphrase, and an identity is read without one; make another (kms identity)"),
        "{told}"
    );
}

/// What the log calls a state is what `--json` calls it.
#[test]
fn states_have_one_word_each() {
    let service = Service::new();
    service.create("orders");
    let states = [
        ("disable-key", &["orders"][..], "disabled"),
        ("enable-key", &["orders"], "enabled"),
        ("schedule-key-deletion", &["--days", "7", "orders"], "pending-deletion"),
    ];
    for (verb, args, word) in states {
        assert_eq!(words(&service.json(verb, args), "state"), word);
        // Once more is refused by what it is.
        assert_eq!(service.kms(verb, args).code, 4);
        assert_eq!(words(service.audit().last().unwrap(), "result"), word);
    }
    assert_eq!(words(&service.json("describe-key", &["orders"]), "state"), "pending-deletion");
}
