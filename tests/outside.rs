//! What needs something from outside this repository: vectors that are read where others put them (`../shared/vectors`), and
//! programs. Where one is missing its tests are reported as ignored, never as passed; `tests/run` installs the programs.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use libtest_mimic::{Arguments, Failed, Trial};
use sealwire::{Suite, testing};
use serde_json::Value;

/// Files of RFC 9180's vectors, and the suite whose vectors are read there.
const FILES: [(&str, Suite); 3] = [
    ("rfc9180-hpke/rfc9180-dhkem-x25519-hkdf-sha256.json", Suite::X25519ChaCha20Poly1305),
    ("rfc9180-hpke/rfc9180-dhkem-x25519-hkdf-sha256.json", Suite::X25519Aes256Gcm),
    ("rfc9180-hpke/rfc9180-x25519-sha256-chacha20poly1305.json", Suite::X25519ChaCha20Poly1305),
];

fn main() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/vectors");
    let testkit = folder.join("age-testkit/testdata");
    let age = trial("keys of age's test kit", "age-testkit", testkit.exists(), move || age_testkit(&testkit));
    let vectors = FILES.map(|(name, suite)| {
        let path = folder.join(name);
        let there = path.exists();
        trial(&format!("rfc9180 base mode, {}: {name}", suite.name()), name, there, move || check(path, suite))
    });
    let name = "xwing/xwing-draft-test-vectors.json";
    let path = folder.join(name);
    let there = path.exists();
    let x_wing = trial(&format!("X-Wing: {name}"), name, there, move || x_wing(path));
    let programs = [
        trial("keys of OpenSSL", "openssl", runs("openssl"), openssl_keys),
        trial("keys of age", "age-keygen", runs("age-keygen"), age_keys),
        trial("binary output on a terminal", "script", runs("script"), terminal),
        trial("progress on a terminal", "script", runs("script"), progress),
    ];
    libtest_mimic::run(&Arguments::from_args(), vectors.into_iter().chain([x_wing, age]).chain(programs).collect()).exit();
}

fn trial(name: &str, needs: &str, there: bool, run: impl FnOnce() -> Result<(), Failed> + Send + 'static) -> Trial {
    if !there {
        eprintln!("SKIPPED: {name}: {needs} is missing");
    }
    Trial::test(name, run).with_ignored_flag(!there)
}

fn runs(program: &str) -> bool {
    Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

fn hex(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap_or_default();
    (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()).collect()
}

fn check(path: PathBuf, suite: Suite) -> Result<(), Failed> {
    let all: Value = serde_json::from_slice(&std::fs::read(path)?)?;
    let mut run = 0;
    for vector in all.as_array().ok_or("an array")? {
        if (vector["mode"].as_u64(), vector["aead_id"].as_u64()) == (Some(0), Some(suite.aead().id().into())) {
            base_mode(vector, suite);
            run += 1;
        }
    }
    assert_eq!(run, 1, "one base-mode vector a file");
    Ok(())
}

/// Keys, encapsulations with the sender's random bytes, and decapsulations, in every byte.
fn x_wing(path: PathBuf) -> Result<(), Failed> {
    let all: Value = serde_json::from_slice(&std::fs::read(path)?)?;
    let all = all.as_array().ok_or("an array")?;
    for vector in all {
        let seed: [u8; 32] = hex(&vector["seed"]).try_into().unwrap();
        assert_eq!(seed[..], hex(&vector["sk"]));
        let public = testing::pq::public(&seed);
        assert_eq!(public[..], hex(&vector["pk"]));
        let eseed = hex(&vector["eseed"]).try_into().unwrap();
        let (enc, shared) = testing::pq::encapsulate(&public, &eseed).unwrap();
        assert_eq!((&enc[..], &shared[..]), (&hex(&vector["ct"])[..], &hex(&vector["ss"])[..]));
        assert_eq!(testing::pq::decapsulate(&seed, &enc), Some(shared));
    }
    assert_eq!(all.len(), 3);
    Ok(())
}

fn base_mode(vector: &Value, suite: Suite) {
    let fixed = |name: &str| -> [u8; 32] { hex(&vector[name]).try_into().unwrap() };
    let info = hex(&vector["info"]);
    let (enc, sender) = testing::Hpke::sender(suite, &fixed("skEm"), &fixed("pkRm"), &info).unwrap();
    let receiver = testing::Hpke::receiver(suite, &fixed("skRm"), &enc, &info).unwrap();
    assert_eq!(enc, fixed("enc"));
    assert_eq!(testing::key_schedule_context(suite, &info), hex(&vector["key_schedule_context"]));
    for side in [&sender, &receiver] {
        assert_eq!(*side.shared_secret(), fixed("shared_secret"));
        assert_eq!(side.base_nonce()[..], hex(&vector["base_nonce"])[..]);
    }
    let encryptions = vector["encryptions"].as_array().unwrap();
    assert_eq!(encryptions.len(), 257);
    for (seq, encryption) in encryptions.iter().enumerate() {
        let (aad, pt, ct) = (hex(&encryption["aad"]), hex(&encryption["pt"]), hex(&encryption["ct"]));
        // The vectors' last entry is at another sequence number; its nonce tells which.
        let nonce = hex(&encryption["nonce"]);
        let seq_of = |nonce: &[u8]| nonce.iter().zip(sender.base_nonce()).fold(0u64, |n, (a, b)| n << 8 | u64::from(a ^ b));
        let at = seq_of(&nonce);
        assert!(at == seq as u64 || seq == 256);
        assert_eq!(sender.seal(at, &aad, &pt).unwrap(), ct);
        assert_eq!(receiver.open(at, &aad, &ct).unwrap(), pt);
        assert_eq!(receiver.open(at + 1, &aad, &ct), None);
    }
}

/// What a program printed, if it worked.
fn output(command: &mut Command) -> Result<String, Failed> {
    let output = command.output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

fn program(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sealwire"));
    command.current_dir(folder);
    command
}

fn openssl(folder: &Path, args: &[&str]) -> Result<String, Failed> {
    output(Command::new("openssl").args(args).current_dir(folder))
}

/// Keys that OpenSSL made work as they are, and OpenSSL reads ours.
fn openssl_keys() -> Result<(), Failed> {
    let folder = tempfile::TempDir::new()?;
    let folder = folder.path();
    openssl(folder, &["genpkey", "-algorithm", "x25519", "-out", "key.pem"])?;
    openssl(folder, &["pkey", "-in", "key.pem", "-pubout", "-out", "pub.pem"])?;
    std::fs::write(folder.join("in"), "payload")?;
    output(program(folder).args(["seal", "-R", "pub.pem", "-o", "sealed", "in"]))?;
    assert_eq!(output(program(folder).args(["open", "-k", "key.pem", "sealed"]))?, "payload");
    let pem = std::fs::read_to_string(folder.join("key.pem"))?;
    let cmk = sealwire::keys::cmk_from_key_file(&pem)?;
    assert_eq!(cmk.to_pem()?.as_str(), pem);
    assert_eq!(cmk.recipient().to_pem()?, std::fs::read_to_string(folder.join("pub.pem"))?);
    openssl(folder, &["genpkey", "-algorithm", "ed25519", "-out", "sender.pem"])?;
    openssl(folder, &["pkey", "-in", "sender.pem", "-pubout", "-out", "senders.pem"])?;
    let pem = std::fs::read_to_string(folder.join("sender.pem"))?;
    assert!(sealwire::keys::cmk_from_key_file(&pem).is_err());
    output(program(folder).args(["seal", "-R", "pub.pem", "--sign-with", "sender.pem", "-o", "signed", "in"]))?;
    assert_eq!(output(program(folder).args(["open", "-k", "key.pem", "--from", "senders.pem", "signed"]))?, "payload");
    let sender = sealwire::keys::sender_key_from_key_file(&pem)?;
    assert_eq!(sender.to_pem()?.as_str(), pem);
    assert_eq!(sender.verifying_key().to_pem()?, std::fs::read_to_string(folder.join("senders.pem"))?);
    Ok(())
}

/// Key files that age makes are key files here, and its recipients are recipients: the same public keys.
fn age_keys() -> Result<(), Failed> {
    let folder = tempfile::TempDir::new()?;
    let folder = folder.path();
    std::fs::write(folder.join("in"), "payload")?;
    for i in 0..20 {
        let (key, list) = (format!("{i}.txt"), format!("{i}.pub"));
        output(Command::new("age-keygen").args(["-o", &key]).current_dir(folder))?;
        let public = output(Command::new("age-keygen").args(["-y", &key]).current_dir(folder))?;
        std::fs::write(folder.join(&list), &public)?;
        let recipient = sealwire::Recipient::from_age(public.trim())?;
        assert_eq!(output(program(folder).args(["recipient", &key]))?.trim(), recipient.to_string());
        if i == 0 {
            output(program(folder).args(["seal", "-r", public.trim(), "-o", "sealed", "in"]))?;
            assert_eq!(output(program(folder).args(["open", "-k", &key, "sealed"]))?, "payload");
        } else {
            // Added from a list, and as a string.
            let added = if i % 2 == 0 { list.as_str() } else { public.trim() };
            output(program(folder).args(["rewrap", "-k", "0.txt", "--add", added, "sealed"]))?;
            assert_eq!(output(program(folder).args(["open", "-k", &key, "sealed"]))?, "payload");
        }
    }
    output(program(folder).args(["seal", "-R", "3.pub", "-o", "listed", "in"]))?;
    assert_eq!(output(program(folder).args(["open", "-k", "3.txt", "listed"]))?, "payload");
    Ok(())
}

/// Identities of age's test kit: the X25519 ones are keys here, the others are named.
fn age_testkit(folder: &Path) -> Result<(), Failed> {
    let mut identities = std::collections::BTreeSet::new();
    for entry in std::fs::read_dir(folder)? {
        let file = std::fs::read(entry?.path())?;
        let lines = file.split(|byte| *byte == b'\n').take_while(|line| !line.is_empty());
        identities.extend(
            lines.filter_map(|line| line.strip_prefix(b"identity: ")).map(|key| String::from_utf8_lossy(key).into_owned()),
        );
    }
    let (ours, others): (Vec<_>, Vec<_>) = identities.iter().partition(|key| key.starts_with("AGE-SECRET-KEY-1"));
    assert!(ours.len() >= 2 && !others.is_empty(), "{identities:?}");
    for key in ours {
        sealwire::keys::cmk_from_key_file(key)?;
    }
    for key in others {
        let refused = sealwire::keys::cmk_from_key_file(key).map(|_| ()).unwrap_err().to_string();
        assert!(refused.contains("age key of another kind"), "{refused}");
    }
    Ok(())
}

/// On a terminal binary output is refused with a hint, and `-o -` overrides.
fn terminal() -> Result<(), Failed> {
    let folder = tempfile::TempDir::new()?;
    let folder = folder.path();
    output(program(folder).args(["keygen", "-o", "k"]))?;
    let to = output(program(folder).args(["recipient", "k"]))?;
    let on_a_terminal = |args: &str| {
        let line = format!("{} {args} /dev/null", env!("CARGO_BIN_EXE_sealwire"));
        let output = Command::new("script").args(["-qec", &line, "/dev/null"]).current_dir(folder).stdin(Stdio::null()).output();
        output.map(|output| (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned()))
    };
    let (code, said) = on_a_terminal(&format!("seal -r {}", to.trim()))?;
    assert_eq!(code, Some(2));
    assert!(said.contains("standard output is a terminal") && said.contains("-o -"), "{said}");
    let (code, said) = on_a_terminal(&format!("seal -r {} -o -", to.trim()))?;
    assert_eq!(code, Some(0));
    assert!(said.starts_with("SWE"), "{said:?}");
    Ok(())
}

/// Work that takes long has a bar on a terminal, with a rate; in a pipe nothing is said.
fn progress() -> Result<(), Failed> {
    let folder = tempfile::TempDir::new()?;
    let folder = folder.path();
    output(program(folder).args(["keygen", "-o", "k"]))?;
    let to = output(program(folder).args(["recipient", "k"]))?;
    let slow = "(head -c 200000 /dev/zero; sleep 0.6; head -c 200000 /dev/zero)";
    let line = format!("{slow} | {} seal -r {} -o sealed", env!("CARGO_BIN_EXE_sealwire"), to.trim());
    let on_a_terminal =
        Command::new("script").args(["-qec", &line, "/dev/null"]).current_dir(folder).stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&on_a_terminal.stdout).into_owned();
    assert!(said.contains("KiB") && said.contains("/s"), "{said:?}");
    std::fs::remove_file(folder.join("sealed"))?;
    let in_a_pipe = Command::new("sh").args(["-c", &line]).current_dir(folder).output()?;
    assert!(in_a_pipe.status.success());
    assert_eq!((in_a_pipe.stdout, in_a_pipe.stderr), (Vec::new(), Vec::new()));
    Ok(())
}
