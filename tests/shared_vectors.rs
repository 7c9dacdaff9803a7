//! Vectors that are read where others put them, `../shared/vectors`, and are not part of this repository. Where the folder
//! is missing the tests are reported as ignored, never as passed.

use std::path::{Path, PathBuf};

use libtest_mimic::{Arguments, Failed, Trial};
use sealwire::{Suite, testing};
use serde_json::Value;

const FILES: [&str; 2] =
    ["rfc9180-hpke/rfc9180-dhkem-x25519-hkdf-sha256.json", "rfc9180-hpke/rfc9180-x25519-sha256-chacha20poly1305.json"];

fn main() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/vectors");
    let trials = FILES.map(|name| {
        let path = folder.join(name);
        let missing = !path.exists();
        if missing {
            eprintln!("SKIPPED: {name} is not there; the hpke crate as a peer and Wycheproof cover the same ground");
        }
        Trial::test(format!("rfc9180 base mode, ChaCha20-Poly1305: {name}"), move || check(path)).with_ignored_flag(missing)
    });
    libtest_mimic::run(&Arguments::from_args(), trials.into()).exit();
}

fn hex(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap_or_default();
    (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()).collect()
}

fn check(path: PathBuf) -> Result<(), Failed> {
    let all: Value = serde_json::from_slice(&std::fs::read(path)?)?;
    let mut run = 0;
    for vector in all.as_array().ok_or("an array")? {
        if (vector["mode"].as_u64(), vector["aead_id"].as_u64()) == (Some(0), Some(3)) {
            base_mode(vector);
            run += 1;
        }
    }
    assert_eq!(run, 1, "one base-mode vector a file");
    Ok(())
}

fn base_mode(vector: &Value) {
    let suite = Suite::X25519ChaCha20Poly1305;
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
