//! spec/vectors/kms.json: what a key service is asked, answers and keeps, secrets directly under a CMK, and recorded connections.
//!
//! `SEALWIRE_WRITE_VECTORS=1 cargo test --all-features --test kms_vectors` writes what `tests/kit/kms.rs` makes; otherwise the file is
//! frozen.

use std::{collections::BTreeSet, fs, io::Read, path::Path};

use kit::kms::{Entry, hex};
use sealwire::{
    Cmk, VerifyingKey,
    keys::cmk_from_key_file,
    kms::{
        Answer, CIPHERTEXT_MAX, Identity, KeyId, LIST_MAX, PublicIdentity, Request, Verb, WrappedDek,
        testing::{asked, decrypt_direct, served, state_again},
    },
    wire::{HintMode, Suite},
};
use serde_json::{Value, json};

mod kit;
#[path = "kit/told.rs"]
mod told;

fn unhex(text: &Value) -> Vec<u8> {
    let text = text.as_str().unwrap();
    (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()).collect()
}

/// What the crate says of an entry: `opens`, or why not. Where it opens it is written again as the same bytes.
fn verdict(entry: &Entry) -> &'static str {
    let said = match entry.read_as {
        "request" => Request::decode(&entry.bytes).map(|request| {
            assert_eq!(told::request(&request), entry.more, "{}", entry.name);
            request.encode().unwrap().to_vec()
        }),
        "answer" => Answer::decode(&entry.bytes).map(|answer| Answer::encode(&answer).to_vec()),
        "state" => state_again(&entry.bytes).map(|state| state.to_vec()),
        "direct" => return direct(entry),
        "connection" => return connection(entry),
        other => panic!("{other}"),
    };
    match said {
        Ok(again) => {
            assert_eq!(hex(&again), hex(&entry.bytes), "{}", entry.name);
            "opens"
        }
        Err(error) => told::refused(&error),
    }
}

fn direct(entry: &Entry) -> &'static str {
    let cmks = [Cmk::from_x25519(&[0x11; 32]), Cmk::from_xwing(&[0x11; 32])];
    match decrypt_direct(&entry.bytes, (KeyId([0x1d; 16]), 2), &cmks, &unhex(&entry.more["context"])) {
        Ok(Some(secret)) => {
            assert_eq!(secret, unhex(&entry.more["secret"]), "{}", entry.name);
            "opens"
        }
        Ok(None) => "tag",
        Err(error) => told::refused(&error),
    }
}

/// Each end takes as many messages as the entry says, and refuses what follows at the end that it says.
fn connection(entry: &Entry) -> &'static str {
    let more = &entry.more;
    let cmk = |name: &str| cmk_from_key_file(more[name].as_str().unwrap()).unwrap();
    let signer: VerifyingKey = more["signer"].as_str().unwrap().parse().unwrap();
    let callers = [more["callers"][0].as_str().unwrap().parse().unwrap()];
    let public = PublicIdentity { recipient: cmk("server").recipient().clone(), sender: signer };
    // What a server reads does not depend on the secret of its signer, but through the public half.
    let identity = Identity::new(cmk("server"), sealwire::SenderKey::from_ed25519(&[0x52; 32]));
    assert_eq!(identity.public(), public);
    let greeting = unhex(&more["greeting"]).try_into().unwrap();
    let (to_server, to_client) = (unhex(&more["to_server"]), unhex(&more["to_client"]));
    let (requests, refused) = served(identity, &callers, &greeting, &to_server);
    assert_eq!(requests.len(), more["requests"], "{}: requests", entry.name);
    if requests.is_empty() {
        return "server";
    }
    let len = u32::from_be_bytes(to_server[4..8].try_into().unwrap()) as usize;
    let begun = to_server[len - 32..len].try_into().unwrap();
    let (answers, answers_refused) = asked(&public, cmk("answers_to"), &greeting, &begun, requests.len() - 1, &to_client);
    assert_eq!(answers.len(), more["answers"], "{}: answers", entry.name);
    match (refused, answers_refused) {
        (false, false) => "opens",
        (true, _) => "server",
        (false, true) => "client",
    }
}

/// Every entry is what the kit makes, and the crate says of it what stands there.
///
/// Proves KMS-31, KMS-32, KMS-33, KMS-34, KMS-35 and KMS-36: their entries are refused, each for one thing.
#[test]
fn every_entry() {
    let all = kit::kms::all();
    let mut wrong = Vec::new();
    for entry in &all {
        let said = verdict(entry);
        if said != entry.answer {
            wrong.push(format!("{}: {said}, not {}", entry.name, entry.answer));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for id in [31, 32, 33, 34, 35, 36, 50, 51, 52, 60, 61, 62, 63, 64] {
        let id = format!("KMS-{id}");
        assert!(
            all.iter().any(|entry| entry.shows.starts_with(&id) || entry.name.contains(&id) || entry.shows.contains(&id)),
            "{id}"
        );
    }
}

fn value(entry: &Entry) -> Value {
    json!({ "name": entry.name, "shows": entry.shows, "read-as": entry.read_as, "bytes": hex(&entry.bytes), "with": entry.more, "answer": entry.answer })
}

#[test]
fn the_file_is_frozen() {
    let all = kit::kms::all();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("spec/vectors/kms.json.zz");
    let lines: Vec<String> = all.iter().map(|entry| value(entry).to_string()).collect();
    let text = format!("[\n{}\n]\n", lines.join(",\n"));
    if std::env::var_os("SEALWIRE_WRITE_VECTORS").is_some() {
        let mut zlib = flate2::write::ZlibEncoder::new(fs::File::create(&path).unwrap(), flate2::Compression::best());
        std::io::Write::write_all(&mut zlib, text.as_bytes()).unwrap();
        zlib.finish().unwrap();
    }
    let mut frozen = String::new();
    flate2::read::ZlibDecoder::new(fs::File::open(&path).unwrap()).read_to_string(&mut frozen).unwrap();
    assert!(frozen == text, "{} is not what the kit makes", path.display());
}

#[test]
fn the_kit_is_mostly_negative() {
    let all = kit::kms::all();
    let names: BTreeSet<_> = all.iter().map(|entry| &entry.name).collect();
    let inputs: BTreeSet<_> = all.iter().map(|entry| (entry.read_as, &entry.bytes, entry.more.to_string())).collect();
    assert_eq!((names.len(), inputs.len()), (all.len(), all.len()), "two entries are the same");
    let negative = all.iter().filter(|entry| entry.answer != "opens").count();
    assert!(all.len() > 400 && negative * 100 >= all.len() * 85, "{negative} of {}", all.len());
}

/// Proves KMS-32, of the writer: what is longer than its limit is not written, and nothing is cut to fit.
#[test]
fn what_is_too_long_is_not_written() {
    let external = |provider: usize, key_ref: usize, blob: usize| {
        let text = |len| "x".repeat(len);
        Request::DecryptDataKey(WrappedDek::External { provider: text(provider), key_ref: text(key_ref), blob: vec![1; blob] })
    };
    let slot = |len: usize| {
        let (suite, hints) = (Suite::XWingChaCha20Poly1305, HintMode::Static);
        Request::DecryptDataKey(WrappedDek::Slot {
            suite,
            hints,
            salt: [1; 16],
            hint: [2; 4],
            enc: vec![3; len],
            wrapped_dek: [4; 48],
        })
    };
    for most in [external(255, 2048, CIPHERTEXT_MAX), slot(1120)] {
        assert_eq!(Request::decode(&most.encode().unwrap()), Ok(most));
    }
    for over in [external(256, 0, 0), external(0, 2049, 0), external(0, 0, CIPHERTEXT_MAX + 1), slot(1121)] {
        assert!(over.encode().is_err());
    }
}

/// The tables of spec/kms.md are the code's numbers and names.
#[test]
fn the_verbs_are_those_of_the_spec() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("spec/kms.md")).unwrap();
    let rows =
        page.lines().skip_while(|line| !line.starts_with("| verb | number")).skip(2).take_while(|line| line.starts_with('|'));
    let of_spec: Vec<(String, String)> = rows
        .map(|row| row.split('|').map(str::trim).map(str::to_owned).collect::<Vec<_>>())
        .map(|cells| (cells[1].clone(), cells[2].clone()))
        .collect();
    let ours: Vec<_> = Verb::ALL.iter().map(|verb| (verb.name().to_owned(), (*verb as u8).to_string())).collect();
    assert_eq!(of_spec, ours);
    assert!(page.contains(&format!("{LIST_MAX} keys of a list")));
}
