//! The store of a key service: kills, damage, tampering, and a stranger's reading of its files (spec/store.md).
#![cfg(unix)]

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::{
        fs::{PermissionsExt, symlink},
        process::ExitStatusExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use chacha20poly1305::{
    ChaCha20Poly1305,
    aead::{Aead, KeyInit, Payload},
};
use hkdf::{
    Hkdf,
    hmac::{Hmac, Mac},
};
use sealwire::{
    Cmk,
    keys::Passphrase,
    kms::store::{
        AuditError, Entry, HEAD_LEN, Head, LINE_MAX, LineError, PART_MAX, Record, Replica, RootKey, STATE_FILE, STATE_MAX, Store,
        StoreError, backup, records, restore, verify, verify_replica,
    },
};
use sha2::{Digest, Sha256};

/// Kills of a process that replaces states.
const KILLS: usize = 1000;
/// Says what this binary does as a child: the folder of the store.
const CHILD: &str = "SEALWIRE_TEST_STORE";
/// With what the child begins.
const TURN: &str = "SEALWIRE_TEST_TURN";

fn root(n: u8) -> RootKey {
    RootKey::from_cmk(&Cmk::from_x25519(&[n; 32]))
}

fn passphrase(text: &str) -> RootKey {
    RootKey::from_passphrase(Passphrase::new(text).unwrap())
}

fn record(action: &str) -> Record {
    Record { at: 1_700_000_000, caller: "alice".into(), action: action.into(), key: Some("orders".into()), result: "ok".into() }
}

struct Place(tempfile::TempDir);

impl Place {
    fn empty() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// A store of generation 3 with five lines: use, change, use, change, use.
    fn new() -> Self {
        let place = Self::empty();
        let mut store = Store::create(&place.store(), &root(1), b"first").unwrap();
        for state in [b"second", b"third!"] {
            store.log(&record("use")).unwrap();
            store.replace(state, &record("change")).unwrap();
        }
        store.log(&record("use")).unwrap();
        place
    }

    fn store(&self) -> PathBuf {
        self.0.path().join("kms")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.store().join(name)
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    fn write(&self, name: &str, content: &[u8]) {
        fs::write(self.path(name), content).unwrap();
    }

    fn lines(&self) -> Vec<String> {
        String::from_utf8(self.read("audit.log")).unwrap().lines().map(|line| format!("{line}\n")).collect()
    }

    /// Everything in the folder, by name.
    fn content(&self) -> Vec<(String, Vec<u8>)> {
        let names = fs::read_dir(self.store()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut all: Vec<_> = names.map(|name| (name.clone(), self.read(&name))).collect();
        all.sort();
        all
    }

    fn open(&self) -> Result<(Store, Vec<u8>), StoreError> {
        Store::open(&self.store(), &root(1)).map(|(store, state)| (store, state.to_vec()))
    }

    /// It is refused in every way, and nothing of it is changed.
    fn refused(&self) -> StoreError {
        let before = self.content();
        let error = self.open().map(|_| ()).unwrap_err();
        let _ = verify(&self.store(), &root(1));
        assert!(matches!(Store::create(&self.store(), &root(1), b"x"), Err(StoreError::Exists(_))));
        assert!(self.content() == before, "a damaged store was written to");
        error
    }

    fn audit(&self) -> AuditError {
        match self.refused() {
            StoreError::Audit(error) => error,
            error => panic!("{error:?}"),
        }
    }
}

// A store as others see it.

#[test]
fn states_come_back() {
    let place = Place::empty();
    let mut store = Store::create(&place.store(), &root(1), b"").unwrap();
    assert_eq!((store.generation(), store.repaired()), (1, None));
    for len in [0, 1, 1000, 3_000_000] {
        let state = vec![7; len];
        store.replace(&state, &record("change")).unwrap();
        drop(store);
        let (again, read) = place.open().unwrap();
        assert!(read == state);
        store = again;
    }
    assert_eq!(store.generation(), 5);
    drop(store);
    let report = verify(&place.store(), &root(1)).unwrap();
    assert_eq!((report.lines, report.files, report.first, report.last, report.anchored, report.generation), (4, 1, 1, 4, 4, 5));
    assert!(matches!(Store::open(&place.path("nowhere"), &root(1)), Err(StoreError::Missing(_))));
    assert!(!place.path("nowhere").exists());
}

/// Proves STO-17.
#[test]
fn files_are_their_owners_and_no_links() {
    let place = Place::new();
    place.open().unwrap().0.rotate().unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&place.store()), 0o700);
    for name in ["state", "lock", "audit.log", "audit.000001.log"] {
        assert_eq!(mode(&place.path(name)), 0o600, "{name}");
    }
    let copy = place.0.path().join("copy");
    backup(&place.store(), &copy).unwrap();
    assert_eq!(mode(&copy), 0o600);
    // A folder may be reached over a link, a file in it may not be one.
    let link = place.0.path().join("link");
    symlink(place.store(), &link).unwrap();
    drop(Store::open(&link, &root(1)).unwrap());
    for name in ["state", "lock", "audit.log", "audit.000001.log"] {
        let place = Place::new();
        place.open().unwrap().0.rotate().unwrap();
        let away = place.0.path().join("away");
        fs::rename(place.path(name), &away).unwrap();
        symlink(&away, place.path(name)).unwrap();
        let refused = match name {
            // Not looked at before it is needed.
            "audit.000001.log" => verify(&place.store(), &root(1)).unwrap_err(),
            _ => place.open().map(|_| ()).unwrap_err(),
        };
        assert!(matches!(&refused, StoreError::NotAFile(path) if *path == place.path(name)), "{refused:?}");
    }
    // A link that leads nowhere is in the way too, and a FIFO does not hold anybody up.
    let place = Place::empty();
    fs::create_dir(place.store()).unwrap();
    symlink("nowhere", place.path("state")).unwrap();
    assert!(matches!(Store::create(&place.store(), &root(1), b""), Err(StoreError::Exists(_))));
    let place = Place::new();
    fs::remove_file(place.path("state")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, place.path("state"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    assert!(matches!(place.open(), Err(StoreError::NotAFile(_))));
    // Where everybody may write, somebody would.
    let place = Place::new();
    fs::set_permissions(place.store(), fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(place.open(), Err(StoreError::WritableByAll(_))));
}

/// Proves STO-16: what is there is not written over.
#[test]
fn nothing_is_written_over() {
    let place = Place::new();
    let before = place.content();
    assert!(matches!(Store::create(&place.store(), &root(2), b""), Err(StoreError::Exists(path)) if path == place.path("state")));
    let copy = place.0.path().join("copy");
    assert_eq!(backup(&place.store(), &copy).unwrap(), 3);
    assert!(matches!(backup(&place.store(), &copy), Err(StoreError::Exists(_))));
    assert!(matches!(restore(&copy, &place.store(), &root(1)), Err(StoreError::Exists(_))));
    assert!(place.content() == before);
    // A log whose state is gone is not begun anew.
    fs::remove_file(place.path("state")).unwrap();
    assert!(matches!(place.open(), Err(StoreError::Missing(_))));
    assert!(
        matches!(Store::create(&place.store(), &root(1), b""), Err(StoreError::Exists(path)) if path == place.path("audit.log"))
    );
}

// A stranger's reading of the files, from the spec alone.

/// The state file's table in the spec.
#[test]
fn the_spec_has_the_same_layout() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("spec/store.md")).unwrap();
    let (_, after) = text.split_once("\n## State file\n").unwrap();
    let rows = after.lines().skip_while(|line| !line.starts_with("| field")).skip(2).take_while(|line| line.starts_with('|'));
    let table: Vec<(String, Option<usize>)> = rows
        .map(|row| {
            let cells: Vec<_> = row.split('|').map(str::trim).collect();
            (cells[1].to_owned(), cells[2].parse().ok())
        })
        .collect();
    let code: Vec<_> = STATE_FILE.iter().map(|field| (field.name.to_owned(), field.len)).collect();
    assert_eq!(table, code);
    let head: usize = code.iter().take_while(|(name, _)| name != "ciphertext").filter_map(|(_, len)| *len).sum();
    assert_eq!(head, HEAD_LEN);
}

fn expand(salt: &[u8], secret: &[u8], info: &str) -> [u8; 32] {
    let mut out = [0; 32];
    Hkdf::<Sha256>::new(Some(salt), secret).expand(info.as_bytes(), &mut out).unwrap();
    out
}

fn extract(salt: &[u8], secret: &[u8]) -> Vec<u8> {
    Hkdf::<Sha256>::extract(Some(salt), secret).0.to_vec()
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key).unwrap();
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What is sealed in a state file, read by offsets.
fn read_state(file: &[u8], root_secret: &[u8]) -> Vec<u8> {
    let (head, sealed) = file.split_at(147);
    assert_eq!(&head[..9], b"SWSTORE\n\x01");
    assert_eq!(head[115..], Sha256::digest(&head[..115])[..]);
    assert_eq!(u64::from_be_bytes(head[75..83].try_into().unwrap()), sealed.len() as u64 - 16);
    let salt = &head[43..75];
    assert_eq!(head[83..115], expand(salt, root_secret, "sealwire store v1 commitment"));
    let key = expand(salt, root_secret, "sealwire store v1 state");
    let aead = ChaCha20Poly1305::new(&key.into());
    aead.decrypt(&[0; 12].into(), Payload { msg: sealed, aad: head }).unwrap()
}

/// Checks every line of a log; gives the MAC of the last.
fn read_log(log: &str, secret: &[u8], id: &[u8]) -> Vec<u8> {
    let key = expand(id, secret, "sealwire store v1 log");
    let mut chain = vec![0; 32];
    for (i, line) in log.lines().enumerate() {
        let (body, mac) = line.split_at(line.len() - 74);
        let expected = hmac(&key, &[if i == 0 { &[0; 32] } else { &chain }, body.as_bytes()]);
        assert_eq!(mac, format!(",\"mac\":\"{}\"}}", hex(&expected)));
        let json: serde_json::Value = serde_json::from_str(line).unwrap();
        if i == 0 {
            assert_eq!(json["log"], hex(id));
        } else {
            assert_eq!((json["seq"].as_u64(), json["caller"].as_str()), (Some(i as u64), Some("alice")));
            chain = expected;
        }
    }
    chain
}

/// Two states and their log under both kinds of root key, with other crates and from the words of the spec.
#[test]
fn a_stranger_reads_it() {
    for by_passphrase in [false, true] {
        let place = Place::empty();
        let cmk = Cmk::from_x25519(&[9; 32]);
        let root = if by_passphrase { passphrase("correct horse") } else { RootKey::from_cmk(&cmk) };
        let mut store = Store::create(&place.store(), &root, b"first").unwrap();
        store.log(&record("use")).unwrap();
        store.replace(b"second", &record("change")).unwrap();
        drop(store);
        let file = place.read("state");
        let ikm = if by_passphrase {
            assert_eq!(file[9..19], [1, 0, 0, 0, 3, 0, 1, 0, 0, 4]);
            let params = argon2::Params::new(65_536, 3, 4, Some(64)).unwrap();
            let argon2 = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
            let mut out = vec![0; 64];
            argon2.hash_password_into(b"correct horse", &file[19..35], &mut out).unwrap();
            out
        } else {
            assert_eq!((file[9], &file[10..35]), (2, &[0; 25][..]));
            cmk.to_text().as_bytes().to_vec()
        };
        assert_eq!(file[35..43], 2_u64.to_be_bytes());
        let text = read_state(&file, &extract(b"sealwire store v1 root", &ikm));
        let (secret, id, line_len) = (&text[..32], &text[32..48], u32::from_be_bytes(text[88..92].try_into().unwrap()) as usize);
        let log = String::from_utf8(place.read("audit.log")).unwrap();
        assert_eq!(text[48..56], 2_u64.to_be_bytes());
        assert_eq!(text[56..88], read_log(&log, secret, id));
        assert_eq!(text[92..92 + line_len], *format!("{}\n", log.lines().last().unwrap()).as_bytes());
        assert_eq!(&text[92 + line_len..], b"second");
    }
}

// Damage and wrong keys.

/// Proves STO-4 and STO-5: each byte of a state file, one after the other; and every length.
#[test]
fn every_byte_of_a_state_counts() {
    let place = Place::new();
    let good = place.read("state");
    let open = || Replica::open(&place.store(), &root(1)).map(|_| ());
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        place.write("state", &bad);
        let error = open().unwrap_err();
        let as_expected = match at {
            0..9 => matches!(error, StoreError::Parse(_)),
            _ => matches!(error, StoreError::Damaged(_)),
        };
        assert!(as_expected, "{at}: {error:?}");
        if at % 20 == 0 {
            place.refused();
        }
    }
    for len in 0..good.len() {
        place.write("state", &good[..len]);
        assert!(matches!(open(), Err(StoreError::Parse(_) | StoreError::Damaged(_))), "{len}");
    }
    place.write("state", &[&good[..], b"x"].concat());
    assert!(matches!(place.refused(), StoreError::Damaged(_)));
    place.write("state", &good);
    assert_eq!(place.open().unwrap().1, b"third!");
}

/// Proves STO-5: another root key is told apart from damage.
#[test]
fn other_root_keys() {
    let place = Place::new();
    let open = |root: &RootKey| Store::open(&place.store(), root).map(|_| ()).unwrap_err();
    assert!(matches!(open(&root(2)), StoreError::WrongRootKey));
    assert!(matches!(open(&passphrase("a")), StoreError::RootKind("a key file")));
    let other = Place::empty();
    drop(Store::create(&other.store(), &passphrase("right"), b"state").unwrap());
    let open = |root: &RootKey| Store::open(&other.store(), root).map(|(_, state)| state.to_vec());
    assert!(matches!(open(&passphrase("wrong")), Err(StoreError::WrongRootKey)));
    assert!(matches!(open(&root(1)), Err(StoreError::RootKind("a passphrase"))));
    assert_eq!(open(&passphrase("right")).unwrap(), b"state");
    let (generated, file) = RootKey::generate("2026-01-01T00:00:00Z").unwrap();
    let third = Place::empty();
    drop(Store::create(&third.store(), &generated, b"state").unwrap());
    drop(Store::open(&third.store(), &RootKey::from_key_file(&file).unwrap()).unwrap());
}

/// A head whose checksum holds, with some bytes exchanged.
fn with_head(file: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = file.to_vec();
    file[at..at + bytes.len()].copy_from_slice(bytes);
    let sum = Sha256::digest(&file[..115]);
    file[115..147].copy_from_slice(&sum);
    file
}

/// Proves STO-1, STO-2 and STO-3: nothing that a file asks for is computed or allocated before it has been compared with its
/// bound.
#[test]
fn what_a_head_asks_for_is_bounded() {
    let place = Place::empty();
    drop(Store::create(&place.store(), &passphrase("right"), b"state").unwrap());
    let good = place.read("state");
    let started = Instant::now();
    let u32_max = u32::MAX.to_be_bytes();
    for (name, at, bytes) in [
        ("passes", 10, &u32_max[..]),
        ("no passes", 10, &[0; 4]),
        ("memory", 14, &u32_max),
        ("no memory", 14, &[0; 4]),
        ("lanes", 18, &[17]),
        ("no lanes", 18, &[0]),
        ("work", 10, &[0, 0, 0, 7]),
    ] {
        place.write("state", &with_head(&good, at, bytes));
        let error = Store::open(&place.store(), &passphrase("right")).map(|_| ()).unwrap_err();
        assert!(matches!(error, StoreError::Protection(_)), "{name}: {error:?}");
    }
    let parse = |at, bytes: &[u8]| Head::parse(&with_head(&good, at, bytes)).unwrap_err();
    assert!(matches!(parse(75, &u64::MAX.to_be_bytes()), StoreError::TooLarge(_)));
    assert!(matches!(parse(75, &(STATE_MAX + 92 + LINE_MAX as u64 + 1).to_be_bytes()), StoreError::TooLarge(_)));
    for (at, byte) in [(0, b'T'), (8, 0), (8, 2), (9, 0), (9, 3), (9, 2)] {
        assert!(matches!(parse(at, &[byte]), StoreError::Parse(_)), "{at} {byte}");
    }
    for more in [1, 100] {
        place.write("state", &with_head(&good, 75, &(good.len() as u64 - 147 - 16 + more).to_be_bytes()));
        assert!(matches!(backup(&place.store(), &place.path("b")), Err(StoreError::Damaged(_))));
    }
    let file = fs::File::options().write(true).open(place.path("state")).unwrap();
    file.set_len(1 << 40).unwrap();
    assert!(matches!(Replica::open(&place.store(), &root(1)), Err(StoreError::TooLarge(_))));
    assert!(started.elapsed() < Duration::from_secs(5), "something was computed");
    // A key file that asks to be stretched.
    let place = Place::new();
    for at in 10..35 {
        assert!(Head::parse(&with_head(&place.read("state"), at, &[1])).is_err());
    }
    let head = Head::parse(&place.read("state")).unwrap();
    assert_eq!(head.encode()[..], place.read("state")[..147]);
}

#[test]
fn states_have_a_limit() {
    let place = Place::new();
    let (mut store, _) = place.open().unwrap();
    let large = vec![0; STATE_MAX as usize + 1];
    assert!(matches!(store.replace(&large, &record("change")), Err(StoreError::TooLarge(_))));
    store.replace(&large[1..], &record("change")).unwrap();
    drop(store);
    assert_eq!(place.open().unwrap().1.len() as u64, STATE_MAX);
    assert!(matches!(Store::create(&place.path("other"), &root(1), &large), Err(StoreError::TooLarge(_))));
    assert!(!place.path("other").exists());
}

/// Proves STO-6: no two writes have one salt, and so none one key.
#[test]
fn every_write_has_a_salt_of_its_own() {
    let place = Place::new();
    let (mut store, _) = place.open().unwrap();
    let salts: Vec<_> = (0..50)
        .map(|_| {
            store.replace(b"the same", &record("change")).unwrap();
            place.read("state")[43..75].to_vec()
        })
        .collect();
    assert!((1..salts.len()).all(|i| !salts[..i].contains(&salts[i])));
}

// The audit log.

/// Proves STO-10 and STO-11: each byte of a log, all of whose lines are named by the state.
#[test]
fn every_byte_of_a_log_counts() {
    let place = Place::new();
    let (mut store, _) = place.open().unwrap();
    store.replace(b"fourth", &record("change")).unwrap();
    drop(store);
    let good = place.read("audit.log");
    for at in 0..good.len() {
        for bit in [0, at % 7 + 1] {
            let mut bad = good.clone();
            bad[at] ^= 1 << bit;
            place.write("audit.log", &bad);
            match Store::open(&place.store(), &root(1)) {
                // The very end of the last line, which the state has too.
                Ok((store, _)) => {
                    assert!(at == good.len() - 1 && store.repaired().unwrap().line_added);
                    drop(store);
                    assert_eq!(place.read("audit.log"), good);
                }
                Err(error) => assert!(matches!(error, StoreError::Audit(_)), "{at}: {error:?}"),
            }
        }
    }
    // Every length: what is missing is told, but for the last line, which the state has.
    let last = good.len() - place.lines().last().unwrap().len();
    for len in 0..good.len() {
        place.write("audit.log", &good[..len]);
        if len < last {
            let error = place.open().map(|_| ()).unwrap_err();
            assert!(matches!(error, StoreError::Audit(AuditError::Cut { .. } | AuditError::Head { .. })), "{len}: {error:?}");
        } else if len % 16 == 0 {
            let (store, _) = place.open().unwrap();
            let repaired = store.repaired().unwrap();
            assert_eq!((repaired.torn_bytes, repaired.line_added), ((len - last) as u64, true));
            drop(store);
            assert_eq!(place.read("audit.log"), good);
        }
    }
}
/// Proves STO-10, STO-11 and STO-12: what somebody may do to a log, by name.
#[test]
fn tampering_is_told() {
    let tampered = |change: &dyn Fn(&Place, Vec<String>) -> Vec<String>| {
        let place = Place::new();
        let lines = change(&place, place.lines());
        place.write("audit.log", lines.concat().as_bytes());
        place.audit()
    };
    let edited = tampered(&|_, mut lines| {
        lines[2] = lines[2].replace("alice", "mallo");
        lines
    });
    assert_eq!(edited, AuditError::Changed { file: 1, line: 3 });
    let removed = tampered(&|_, mut lines| {
        lines.remove(2);
        lines
    });
    assert_eq!(removed, AuditError::Gap { file: 1, line: 3, expected: 2, found: 3 });
    let renumbered = tampered(&|_, mut lines| {
        lines.remove(2);
        lines[2] = lines[2].replace("\"seq\":3", "\"seq\":2");
        lines
    });
    assert_eq!(renumbered, AuditError::Changed { file: 1, line: 3 });
    let swapped = tampered(&|_, mut lines| {
        lines.swap(2, 3);
        lines
    });
    assert_eq!(swapped, AuditError::Gap { file: 1, line: 3, expected: 2, found: 3 });
    let doubled = tampered(&|_, mut lines| {
        lines.insert(2, lines[1].clone());
        lines
    });
    assert_eq!(doubled, AuditError::Gap { file: 1, line: 3, expected: 2, found: 1 });
    let cut = tampered(&|_, lines| lines[..3].to_vec());
    assert_eq!(cut, AuditError::Cut { last: 2, anchor: 4 });
    let respelled = tampered(&|_, mut lines| {
        lines[2] = lines[2].replace("\"at\":", "\"at\": ");
        lines
    });
    assert_eq!(respelled, AuditError::Line { file: 1, line: 3, why: LineError::Spelling });
    let a_newline = tampered(&|_, mut lines| {
        lines[2] = lines[2].replacen(',', ",\n", 1);
        lines
    });
    assert_eq!(a_newline, AuditError::Line { file: 1, line: 3, why: LineError::NotARecord });
    let long = tampered(&|_, mut lines| {
        lines[2] = format!("{}\n", "x".repeat(LINE_MAX + 1));
        lines
    });
    assert_eq!(long, AuditError::Line { file: 1, line: 3, why: LineError::TooLong });
    // A head that was changed, and the log of another store.
    let head = tampered(&|_, mut lines| {
        lines[0] = lines[0].replace("\"file\":1", "\"file\":2");
        lines
    });
    assert_eq!(head, AuditError::Foreign { file: 2 });
    let foreign = tampered(&|_, _| Place::new().lines());
    assert_eq!(foreign, AuditError::Foreign { file: 1 });
    // Another history from the same beginnings: one of two copies of the store.
    let place = Place::new();
    let before = place.content();
    place.open().unwrap().0.replace(b"one", &record("one")).unwrap();
    let one = place.read("audit.log");
    before.iter().for_each(|(name, content)| place.write(name, content));
    place.open().unwrap().0.replace(b"two", &record("two")).unwrap();
    place.write("audit.log", &one);
    assert_eq!(place.audit(), AuditError::Forked { seq: 6 });
    // Gone altogether.
    let place = Place::new();
    fs::remove_file(place.path("audit.log")).unwrap();
    assert_eq!(place.audit(), AuditError::NotThere);
    // An older state under the log that went on; and a newer log than the state knows is no fault without changes.
    let place = Place::new();
    let old = place.read("state");
    place.open().unwrap().0.log(&record("use")).unwrap();
    drop(place.open().unwrap());
    place.open().unwrap().0.replace(b"newer", &record("change")).unwrap();
    place.write("state", &old);
    assert_eq!(place.audit(), AuditError::StateIsOlder { state: 3, logged: 4 });
}

/// Proves STO-13: a line that a crash has torn is cut off, and no more; what ends in whole lines is never cut.
#[test]
fn a_torn_end_is_mended() {
    for torn in [&b"{\"seq\":6,\"at\""[..], &[0; 5], &[0; 40_000], &[0xff; 3]] {
        let place = Place::new();
        let good = place.read("audit.log");
        place.write("audit.log", &[&good, torn].concat());
        let report = verify(&place.store(), &root(1)).unwrap();
        assert_eq!((report.last, report.torn_bytes), (5, torn.len() as u64));
        assert_eq!(records(&place.store()).unwrap().map(Result::unwrap).count(), 5);
        let (store, _) = place.open().unwrap();
        assert_eq!(store.repaired().map(|repaired| repaired.torn_bytes), Some(torn.len() as u64));
        assert_eq!(place.read("audit.log"), good);
        store.log(&record("use")).unwrap();
        drop(store);
        assert_eq!(verify(&place.store(), &root(1)).unwrap().last, 6);
    }
    for bad in [&b"{\"seq\":6}\n"[..], b"\n", &[1; 40_000], &[&[0; 100][..], b"\n"].concat()] {
        let place = Place::new();
        place.write("audit.log", &[&place.read("audit.log"), bad].concat());
        assert!(matches!(place.audit(), AuditError::Line { file: 1, line: 7, .. }));
    }
}

/// Proves STO-14: nothing that a caller chooses forges a line, or what a terminal shows.
#[test]
fn records_are_bounded_and_quoted() {
    let place = Place::new();
    let (store, _) = place.open().unwrap();
    let evil = "a\"}\n{\"seq\":7,\u{1b}[2J\r\u{7f}\u{85}\u{202e}\u{2028}\u{200b}\\u0041 \u{e9}\u{1f600}";
    let part = || evil.to_owned();
    let record = Record { at: u64::MAX, caller: part(), action: part()[..8].into(), key: Some(part()), result: part() };
    store.log(&record).unwrap();
    let last = place.lines().pop().unwrap();
    assert!(last.trim_end().chars().all(|c| !c.is_control() && !('\u{200b}'..='\u{202e}').contains(&c)));
    assert!(last.contains("\u{e9}\u{1f600}"));
    let entry = Entry::parse(last.trim_end().as_bytes()).unwrap();
    assert_eq!((&entry.record, entry.encode()), (&record, last.trim_end().to_owned()));
    let json: serde_json::Value = serde_json::from_str(&last).unwrap();
    assert_eq!(json["caller"], evil);
    // The longest, of characters that take the most room; and one more byte.
    let longest = "\u{0}".repeat(PART_MAX);
    let mut record =
        Record { at: 0, caller: longest.clone(), action: "\u{0}".repeat(64), key: Some(longest.clone()), result: longest };
    store.log(&record).unwrap();
    let before = place.read("audit.log");
    record.result.push('x');
    assert!(matches!(store.log(&record), Err(StoreError::Record(error)) if error.field == "result" && error.len == PART_MAX + 1));
    record.result.clear();
    record.action.push('x');
    assert!(matches!(store.log(&record), Err(StoreError::Record(error)) if error.field == "action"));
    assert_eq!(place.read("audit.log"), before);
    drop(store);
    assert_eq!(verify(&place.store(), &root(1)).unwrap().last, 7);
}

/// Proves STO-18: files follow each other; one that is missing, exchanged or older is told.
#[test]
fn logs_go_on_in_other_files() {
    let rotated = || {
        let place = Place::empty();
        let mut store = Store::create(&place.store(), &root(1), b"").unwrap();
        store.rotate().unwrap();
        for i in 0..8 {
            store.log(&record("use")).unwrap();
            if i % 2 == 1 {
                store.rotate().unwrap();
            }
        }
        store.replace(b"state", &record("change")).unwrap();
        place
    };
    let place = rotated();
    let report = verify(&place.store(), &root(1)).unwrap();
    assert_eq!((report.files, report.first, report.last, report.anchored), (5, 1, 9, 9));
    let seqs: Vec<_> = records(&place.store()).unwrap().map(|entry| entry.unwrap().seq).collect();
    assert_eq!(seqs, (1..=9).collect::<Vec<_>>());
    // Old files may be removed, the oldest first.
    fs::remove_file(place.path("audit.000001.log")).unwrap();
    assert_eq!(verify(&place.store(), &root(1)).unwrap().first, 3);
    fs::remove_file(place.path("audit.000003.log")).unwrap();
    assert!(matches!(verify(&place.store(), &root(1)), Err(StoreError::Audit(AuditError::FileMissing { expected: 3 }))));
    let place = rotated();
    let [one, two] = ["audit.000001.log", "audit.000002.log"].map(|name| place.path(name));
    fs::copy(&one, &two).unwrap();
    assert!(verify(&place.store(), &root(1)).is_err());
    fs::rename(&two, &one).unwrap();
    assert!(verify(&place.store(), &root(1)).is_err());
    // The newest, with the change in it.
    let place = rotated();
    fs::remove_file(place.path("audit.log")).unwrap();
    assert!(verify(&place.store(), &root(1)).unwrap().line_missing);
    fs::remove_file(place.path("audit.000004.log")).unwrap();
    assert_eq!(place.audit(), AuditError::Cut { last: 6, anchor: 9 });
    // Killed between two renames: the old file has its number, and the new one no name yet.
    let place = rotated();
    fs::rename(place.path("audit.log"), place.path("audit.000005.log")).unwrap();
    place.write("audit.log.new", b"half a he");
    let (store, _) = place.open().unwrap();
    store.log(&record("use")).unwrap();
    drop(store);
    let report = verify(&place.store(), &root(1)).unwrap();
    assert_eq!((report.files, report.last), (6, 10));
    // By size.
    let place = Place::new();
    let (store, _) = place.open().unwrap();
    store.rotate_at(4096);
    (0..200).for_each(|_| store.log(&record("use")).unwrap());
    drop(store);
    let report = verify(&place.store(), &root(1)).unwrap();
    assert!(report.files > 8 && report.last == 205, "{report:?}");
    assert!(place.content().iter().all(|(name, content)| !name.starts_with("audit") || content.len() < 4096 + 512));
}

/// A log is verified while a server writes, and nothing is suspected that is not so.
#[test]
fn verified_beside_a_writer() {
    let place = Place::new();
    let (mut store, _) = place.open().unwrap();
    let (folder, (done, is_done)) = (place.store(), std::sync::mpsc::channel());
    let verifier = thread::spawn(move || {
        let mut reports = Vec::new();
        while is_done.try_recv().is_err() {
            reports.push(verify(&folder, &root(1)).unwrap());
        }
        reports
    });
    let started = Instant::now();
    for i in 0.. {
        store.log(&record("use")).unwrap();
        store.replace(&[1; 100], &record("change")).unwrap();
        if i % 10 == 0 {
            store.rotate().unwrap();
        }
        if started.elapsed() > Duration::from_secs(3) {
            break;
        }
    }
    done.send(()).unwrap();
    let reports = verifier.join().unwrap();
    assert!(reports.len() > 5 && reports.iter().any(|report| report.generation > 5), "{}", reports.len());
    assert!(reports.iter().all(|report| report.anchored + 1 >= 2 * report.generation - 4));
}

// Copies.

/// Proves STO-15 and that a replica writes nothing.
#[test]
fn replicas() {
    let place = Place::new();
    let copy = place.0.path().join("copy");
    let copied = || fs::copy(place.path("state"), &copy).unwrap();
    copied();
    let (mut replica, state) = Replica::open(&copy, &root(1)).unwrap();
    assert_eq!((&state[..], replica.generation(), replica.reload().unwrap()), (&b"third!"[..], 3, None));
    let log = place.0.path().join("log");
    replica.log(&record("nowhere")).unwrap();
    replica.log_to(&log).unwrap();
    replica.log(&record("use")).unwrap();
    let old = place.read("state");
    place.open().unwrap().0.replace(b"newer", &record("change")).unwrap();
    copied();
    assert_eq!(&replica.reload().unwrap().unwrap()[..], b"newer");
    fs::write(&copy, &old).unwrap();
    assert!(matches!(replica.reload(), Err(StoreError::WentBack { seen: 4, found: 3 })));
    // Another state of the same generation is no newer one.
    let other = Place::empty();
    let before = place.content();
    fs::create_dir(other.store()).unwrap();
    before.iter().for_each(|(name, content)| other.write(name, content));
    other.write("state", &old);
    assert!(matches!(other.open(), Err(StoreError::Audit(AuditError::StateIsOlder { .. }))));
    let lines = other.lines();
    other.write("audit.log", lines[..lines.len() - 1].concat().as_bytes());
    other.open().unwrap().0.replace(b"other", &record("change")).unwrap();
    fs::copy(other.path("state"), &copy).unwrap();
    assert!(matches!(replica.reload(), Err(StoreError::WentBack { seen: 4, found: 4 })));
    copied();
    assert_eq!(replica.reload().unwrap(), None);
    place.open().unwrap().0.change_root(&root(2), &record("root")).unwrap();
    copied();
    assert!(matches!(replica.reload(), Err(StoreError::WrongRootKey)));
    drop(replica);
    // Its log goes on, and is its own.
    let (mut replica, _) = Replica::open(&place.store(), &root(2)).unwrap();
    replica.log_to(&log).unwrap();
    replica.log(&record("use")).unwrap();
    assert!(matches!(replica.log_to(&place.store()), Err(StoreError::Exists(_))));
    drop(replica);
    let report = verify_replica(&log, &copy, &root(2)).unwrap();
    assert_eq!((report.lines, report.anchored), (2, 0));
    let text = fs::read_to_string(log.join("audit.log")).unwrap();
    fs::write(log.join("audit.log"), text.replacen("alice", "mallo", 1)).unwrap();
    assert!(matches!(verify_replica(&log, &copy, &root(2)), Err(StoreError::Audit(AuditError::Changed { file: 1, line: 2 }))));
    // A folder that nobody may write into.
    let before = place.content();
    fs::set_permissions(place.store(), fs::Permissions::from_mode(0o500)).unwrap();
    drop(Replica::open(&place.store(), &root(2)).unwrap());
    fs::set_permissions(place.store(), fs::Permissions::from_mode(0o700)).unwrap();
    assert!(place.content() == before);
}

#[test]
fn backups_come_back() {
    let place = Place::new();
    let (mut store, _) = place.open().unwrap();
    let copies = place.0.path().join("copies");
    fs::create_dir(&copies).unwrap();
    // While a server writes.
    let folder = place.store();
    let backups = {
        let copies = copies.clone();
        thread::spawn(move || (0..50).map(|i| backup(&folder, &copies.join(i.to_string())).unwrap()).collect::<Vec<_>>())
    };
    for generation in 4..200_u64 {
        store.replace(&generation.to_be_bytes().repeat(1000), &record("change")).unwrap();
    }
    let generations = backups.join().unwrap();
    assert_eq!(store.backup(&copies.join("last")).unwrap(), 199);
    for (i, generation) in generations.into_iter().enumerate().step_by(10) {
        let again = place.0.path().join(format!("again {i}"));
        let restored = restore(&copies.join(i.to_string()), &again, &root(1)).unwrap();
        assert_eq!(restored.generation(), generation + 1);
        drop(restored);
        let (mut restored, state) = Store::open(&again, &root(1)).unwrap();
        assert!(generation == 3 || state[..] == generation.to_be_bytes().repeat(1000)[..]);
        restored.replace(b"goes on", &record("change")).unwrap();
        drop(restored);
        assert_eq!(verify(&again, &root(1)).unwrap().last, 1);
    }
    assert!(fs::read_dir(&copies).unwrap().all(|entry| !entry.unwrap().file_name().to_str().unwrap().contains("new")));
    // Another root key, a damaged copy, and a copy that is a folder.
    let (to, last) = (place.0.path().join("to"), copies.join("last"));
    assert!(matches!(restore(&last, &to, &root(2)), Err(StoreError::WrongRootKey)));
    let mut bad = fs::read(&last).unwrap();
    *bad.last_mut().unwrap() ^= 1;
    fs::write(copies.join("bad"), &bad).unwrap();
    assert!(matches!(restore(&copies.join("bad"), &to, &root(1)), Err(StoreError::Damaged(_))));
    assert!(matches!(restore(&copies.join("none"), &to, &root(1)), Err(StoreError::Missing(_))));
    assert!(!to.exists());
    drop(store);
    drop(restore(&place.store(), &to, &root(1)).unwrap());
}

#[test]
fn a_root_key_is_changed() {
    let place = Place::new();
    let (mut store, _) = place.open().unwrap();
    store.change_root(&passphrase("now a passphrase"), &record("root")).unwrap();
    store.replace(b"after it", &record("change")).unwrap();
    drop(store);
    assert!(matches!(place.open(), Err(StoreError::RootKind(_))));
    let (mut store, state) = Store::open(&place.store(), &passphrase("now a passphrase")).unwrap();
    assert_eq!((&state[..], store.generation()), (&b"after it"[..], 5));
    store.change_root(&root(1), &record("root")).unwrap();
    drop(store);
    assert_eq!(place.open().unwrap().1, b"after it");
    assert_eq!(verify(&place.store(), &root(1)).unwrap().last, 8);
}

/// A copy that is put over the state of a running service is not written over, and not taken for the state.
#[test]
fn a_state_that_is_exchanged_is_noticed() {
    let place = Place::new();
    let old = place.read("state");
    let (mut store, _) = place.open().unwrap();
    store.replace(b"newer", &record("change")).unwrap();
    let newer = place.read("state");
    place.write("state", &old);
    assert!(matches!(store.replace(b"newest", &record("change")), Err(StoreError::Exchanged(_))));
    assert_eq!(place.read("state"), old);
    place.write("state", &newer);
    store.replace(b"newest", &record("change")).unwrap();
}

// Processes.

/// What this binary does as a child.
#[test]
fn child() {
    let Some(folder) = std::env::var_os(CHILD).map(PathBuf::from) else { return };
    match std::env::args().any(|arg| arg == "--list") {
        true => {}
        false if folder.join("together").exists() => count_together(&folder.join("kms")),
        false => replace_forever(&folder.join("kms")),
    }
}

fn spawn(folder: &Path, turn: usize) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["child", "--exact", "--nocapture", "--test-threads=1"]).env(CHILD, folder).env(TURN, turn.to_string());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

fn either_root(folder: &Path) -> (Store, u64, u8) {
    let opened = [1, 2].into_iter().find_map(|n| match Store::open(folder, &root(n)) {
        Ok((store, state)) => Some((store, u64::from_be_bytes(state[..8].try_into().unwrap()), n)),
        Err(StoreError::WrongRootKey) => None,
        Err(error) => panic!("{error:?}"),
    });
    opened.expect("it is under one of the two")
}

/// Uses, changes and changes of the root key; each is told when it is done.
fn replace_forever(folder: &Path) {
    let (mut store, mut count, mut n) = either_root(folder);
    let mut out = std::io::stdout();
    let mut tell = |what: &str, number: u64| {
        writeln!(out, "\n{what} {number}").unwrap();
        out.flush().unwrap();
    };
    tell("ready", store.generation());
    let first = std::env::var(TURN).unwrap().parse::<usize>().unwrap();
    for turn in first.. {
        store.log(&record("use")).unwrap();
        tell("used", 0);
        if turn % 8 == 5 {
            store.rotate().unwrap();
        }
        if turn % 4 == 3 {
            n = 3 - n;
            store.change_root(&root(n), &record("root")).unwrap();
        } else {
            count += 1;
            store.replace(&count.to_be_bytes().repeat(2000), &record("change")).unwrap();
        }
        tell("generation", store.generation());
    }
}

/// A child was killed: what it was told to be done is done, and one thing more at most.
fn after_a_kill(folder: &Path, told: &[String]) -> (bool, bool) {
    let last = |what: &str| {
        let numbers = told.iter().filter_map(|line| line.strip_prefix(what)?.trim().parse::<u64>().ok());
        numbers.max().unwrap_or_default()
    };
    let (store, count, n) = either_root(folder);
    let (generation, repaired) = (store.generation(), store.repaired());
    let known = last("generation").max(last("ready"));
    assert!((known..=known + 1).contains(&generation), "{known} {generation}");
    drop(store);
    let (_, state) = Replica::open(folder, &root(n)).unwrap();
    assert!(generation == 1 || state[..] == count.to_be_bytes().repeat(2000)[..]);
    assert!(fs::read_dir(folder).unwrap().all(|entry| !entry.unwrap().file_name().to_str().unwrap().ends_with(".new")));
    let report = verify(folder, &root(n)).unwrap();
    assert_eq!((report.torn_bytes, report.line_missing), (0, false));
    (generation > known, repaired.is_some())
}

/// How long a use and a change take here, on the average.
fn length_of_a_turn() -> Duration {
    let place = Place::new();
    let (mut store, _) = place.open().unwrap();
    let started = Instant::now();
    for _ in 0..20 {
        store.log(&record("use")).unwrap();
        store.replace(&[7; 16_000], &record("change")).unwrap();
    }
    started.elapsed() / 20
}

/// Proves STO-7 and STO-9: killed at any point, a store is the old or the new one, and its log tells of the same changes.
#[test]
fn killed_at_any_point() {
    let place = Place::empty();
    drop(Store::create(&place.store(), &root(1), &0_u64.to_be_bytes()).unwrap());
    let (mut dice, mut unsaid, mut repaired, mut told_uses) = (12345_u64, 0, 0, 0);
    let (started, span) = (Instant::now(), 2 * length_of_a_turn());
    let span = u64::try_from(span.as_micros()).unwrap();
    for turn in 0..KILLS {
        let mut child = spawn(place.0.path(), turn);
        let out = BufReader::new(child.stdout.take().unwrap());
        let (said, lines) = std::sync::mpsc::channel();
        let reader = thread::spawn(move || out.lines().map_while(Result::ok).for_each(|line| said.send(line).unwrap()));
        let mut told = Vec::new();
        // It is begun when it says so; from then on, any point of some changes.
        while told.last().is_none_or(|line: &String| !line.starts_with("ready")) {
            told.push(lines.recv_timeout(Duration::from_secs(60)).expect("the child begins"));
        }
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        thread::sleep(Duration::from_micros((dice >> 33) % span));
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
        reader.join().unwrap();
        told.extend(lines.try_iter());
        told_uses += told.iter().filter(|line| line.starts_with("used")).count();
        let (ahead, mended) = after_a_kill(&place.store(), &told);
        unsaid += usize::from(ahead);
        repaired += usize::from(mended);
    }
    let (store, _, n) = either_root(&place.store());
    let generation = store.generation();
    drop(store);
    // Of all that was told, nothing is missing: changes, and uses that nobody synced.
    let entries: Vec<_> = records(&place.store()).unwrap().map(Result::unwrap).collect();
    assert!(entries.iter().filter_map(|entry| entry.generation).eq(2..=generation));
    let uses = entries.iter().filter(|entry| entry.record.action == "use").count();
    assert!((told_uses..=told_uses + KILLS).contains(&uses), "{told_uses} {uses}");
    let report = verify(&place.store(), &root(n)).unwrap();
    let (seconds, files) = (started.elapsed().as_secs(), report.files);
    eprintln!("{KILLS} kills over {span} us each, in {seconds} s: {generation} generations, {files} files of the log");
    eprintln!("{unsaid} changes were done and not said, {repaired} logs were mended");
    assert!(unsaid > 0 && files > 1, "no kill came between a change and its end");
}

/// Adds one a hundred times, each time in a store of its own opening.
fn count_together(folder: &Path) {
    for _ in 0..100 {
        let (mut store, state) = Store::open(folder, &root(1)).unwrap();
        let count = u64::from_be_bytes(state[..].try_into().unwrap());
        store.replace(&(count + 1).to_be_bytes(), &record("change")).unwrap();
    }
}

/// Proves STO-8: two processes replace together, and nothing is lost.
#[test]
fn two_processes_together() {
    let place = Place::empty();
    drop(Store::create(&place.store(), &root(1), &0_u64.to_be_bytes()).unwrap());
    fs::write(place.0.path().join("together"), b"").unwrap();
    let children = [spawn(place.0.path(), 0), spawn(place.0.path(), 1)];
    for child in children {
        assert!(child.wait_with_output().unwrap().status.success());
    }
    let (store, state) = place.open().unwrap();
    assert_eq!((state, store.generation()), (200_u64.to_be_bytes().to_vec(), 201));
    drop(store);
    assert_eq!(verify(&place.store(), &root(1)).unwrap().last, 200);
}

/// One that stays open is waited for, and then told.
#[test]
fn one_that_is_in_use() {
    let place = Place::new();
    let (store, _) = place.open().unwrap();
    let started = Instant::now();
    assert!(matches!(place.open(), Err(StoreError::InUse(_))));
    assert!((9..20).contains(&started.elapsed().as_secs()));
    let folder = place.store();
    let waiting = thread::spawn(move || Store::open(&folder, &root(1)).map(|_| ()));
    thread::sleep(Duration::from_millis(300));
    drop(store);
    waiting.join().unwrap().unwrap();
}
