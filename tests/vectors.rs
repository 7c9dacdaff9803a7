//! spec/vectors: every file is walked through every way in. A new file is a new test without an edit.
//!
//! `SEALWIRE_WRITE_VECTORS=1 cargo test --all-features --test vectors` writes the scenarios of `tests/kit/scenarios.rs`;
//! otherwise the files are frozen, and a scenario that would write other bytes is a failure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, BufReader, Cursor, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use bytes::BytesMut;
use kit::scenarios::{self, Scenario, Way};
use sealwire::{
    Begun, ChannelOpener, Cmk, Dek, Keyring, KmsKey, OpenError, Opened, Opener, ParseError, Policy, PolicyError, Role, Sender,
    Senders, VerifyingKey,
    armor::{self, ArmorReader},
    codec::{CodecError, OpeningCodec},
    stream::{AsyncOpenReader, OpenReader, StreamError},
};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::codec::Decoder;

mod kit;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("spec/vectors")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()).collect()
}

/// SHA-256 over `context_len 4 ‖ context ‖ payload_len 4 ‖ payload` of everything released, in order.
fn digest<'a>(released: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> String {
    let mut hash = Sha256::new();
    for (context, payload) in released {
        for part in [context, payload] {
            hash.update((part.len() as u32).to_be_bytes());
            hash.update(part);
        }
    }
    hex(&hash.finalize())
}

const LARGE: usize = 4096;

/// A vector file: a head of `name: value` lines, an empty line, the bytes.
fn encode(scenario: &Scenario) -> Vec<u8> {
    let (layer, answer) = scenario.refused.unwrap_or(("-", "opens"));
    let way = match scenario.way {
        Way::Envelope => "envelope",
        Way::Acceptor => "channel, read by the acceptor",
        Way::Initiator => "channel, read by the initiator",
        Way::Detached => "detached",
        Way::Armor => "armor",
    };
    let block = scenario.block.as_ref().map_or_else(String::new, |block| format!("block: {}\n", hex(block)));
    let range = scenario.range.map_or_else(String::new, |(start, end)| format!("range: {start}..{end}\n"));
    let keys: Vec<_> = scenario.keys.iter().map(|key| hex(key)).collect();
    let released = digest(scenario.released.iter().map(|(context, payload)| (&context[..], &payload[..])));
    let packed = scenario.bytes.len() > LARGE;
    let senders = scenario.senders.as_ref().map_or_else(String::new, |(keys, accept)| {
        let keys: Vec<_> = keys.iter().map(|key| hex(key)).collect();
        format!("senders: {}\naccept: {}\n", keys.join(" "), accept.join(" "))
    });
    let sender = scenario.sender.map_or_else(String::new, |(standing, key)| format!("sender: {standing} {}\n", hex(&key)));
    let kms: Vec<_> = scenario
        .kms
        .iter()
        .map(|(provider, key_ref, answer)| {
            format!("{provider} {} {}", hex(key_ref.as_bytes()), if answer.is_empty() { "-".into() } else { hex(answer) })
        })
        .collect();
    let kms = if kms.is_empty() { String::new() } else { format!("kms: {}\n", kms.join(", ")) };
    let mut out = format!(
        "shows: {}\nread-as: {way}\nkeys: {}\nbinding: {}\n{kms}{block}{range}{senders}{sender}answer: {answer}\nlayer: {layer}\nreleased: {}\nreleased-sha256: {released}\nbytes: {}\n\n",
        scenario.shows,
        keys.join(" "),
        hex(&scenario.binding),
        scenario.released.len(),
        if packed { "zlib" } else { "plain" },
    )
    .into_bytes();
    if packed {
        let mut zlib = flate2::write::ZlibEncoder::new(&mut out, flate2::Compression::best());
        zlib.write_all(&scenario.bytes).unwrap();
        zlib.finish().unwrap();
    } else {
        out.extend(&scenario.bytes);
    }
    out
}

struct Vector {
    name: String,
    head: BTreeMap<String, String>,
    bytes: Vec<u8>,
}

impl Vector {
    fn read(path: &Path) -> Self {
        let file = fs::read(path).unwrap();
        let end = file.windows(2).position(|w| w == b"\n\n").unwrap();
        let text = std::str::from_utf8(&file[..end]).unwrap();
        let head =
            text.lines().map(|line| line.split_once(':').unwrap()).map(|(k, v)| (k.to_owned(), v.trim().to_owned())).collect();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let mut vector = Self { name, head, bytes: file[end + 2..].to_vec() };
        if vector.get("bytes") == "zlib" {
            let mut plain = Vec::new();
            flate2::read::ZlibDecoder::new(&vector.bytes[..]).read_to_end(&mut plain).unwrap();
            vector.bytes = plain;
        }
        vector
    }

    fn get(&self, name: &str) -> &str {
        self.head.get(name).unwrap_or_else(|| panic!("{}: no {name}", self.name))
    }

    fn keyring(&self) -> Keyring {
        let keys = self.get("keys").split_whitespace().map(|key| unhex(key).try_into().unwrap());
        let keyring: Keyring = keys.clone().map(|key| Cmk::from_x25519(&key)).collect();
        #[cfg(feature = "pq")]
        keys.for_each(|seed| keyring.add(Cmk::from_xwing(&seed)));
        keyring
    }

    fn opener(&self) -> Opener {
        let senders = self.head.get("senders").map(|keys| {
            let keys = keys.split_whitespace().map(|key| VerifyingKey::from_ed25519(unhex(key).try_into().unwrap()).unwrap());
            let accept = self.get("accept").split_whitespace().map(|name| name.parse().unwrap());
            accept.fold(Senders::new(keys), Senders::also)
        });
        let kms_keys = self.kms().into_iter().map(|(key, _)| key).collect();
        let policy = Policy { binding: unhex(self.get("binding")), senders, kms_keys, ..Policy::default() };
        Opener::builder(self.keyring()).policy(policy).build()
    }

    /// The pairs that are named, and what the KMS answers.
    fn kms(&self) -> Vec<(KmsKey, Vec<u8>)> {
        let line = self.head.get("kms").map_or("", |line| line);
        let answers = line.split(", ").filter(|answer| !answer.is_empty()).map(|answer| {
            let parts: Vec<_> = answer.split(' ').collect();
            (KmsKey::new(parts[0], String::from_utf8(unhex(parts[1])).unwrap()), unhex(parts[2].trim_start_matches('-')))
        });
        answers.collect()
    }

    fn channel(&self) -> ChannelOpener {
        let role = match self.get("read-as") {
            "channel, read by the acceptor" => Role::Acceptor,
            "channel, read by the initiator" => Role::Initiator,
            other => panic!("{}: {other}", self.name),
        };
        ChannelOpener::new(self.opener(), role, &unhex(self.get("binding")))
    }

    fn block(&self) -> Option<Vec<u8>> {
        self.head.get("block").map(|block| unhex(block))
    }

    fn range(&self) -> Option<(u64, u64)> {
        let (start, end) = self.head.get("range")?.split_once("..").unwrap();
        Some((start.parse().unwrap(), end.parse().unwrap()))
    }

    /// Holds what one way in gave against what the file says.
    fn check(&self, way: &str, released: &[Released], refused: Option<&OpenError>) {
        let what = format!("{} ({way}): {refused:?}", self.name);
        assert_eq!(released.len().to_string(), self.get("released"), "{what}");
        let digest = digest(released.iter().map(|opened| (&opened.context[..], &opened.payload[..])));
        assert_eq!(digest, self.get("released-sha256"), "{what}");
        for opened in released {
            let said = said(opened.sender);
            // Vectors of refusals in the middle of a channel say nothing of the sender of what came before.
            if refused.is_none() {
                assert_eq!(said.as_ref(), self.head.get("sender"), "{what}");
            }
        }
        let (layer, answer) = refused.map_or(("-", "opens"), judge);
        assert_eq!((layer, answer), (self.get("layer"), self.get("answer")), "{what}");
    }

    fn check_one(&self, way: &str, result: Result<Released, OpenError>) {
        let released: Vec<_> = result.iter().cloned().collect();
        self.check(way, &released, result.as_ref().err());
    }
}

/// What one way in gave.
#[derive(Clone)]
struct Released {
    context: Vec<u8>,
    payload: Vec<u8>,
    sender: Sender,
}

impl From<Opened> for Released {
    fn from(opened: Opened) -> Self {
        Self { context: opened.context.to_vec(), payload: opened.payload.to_vec(), sender: opened.sender }
    }
}

/// A sender in the words of the vectors.
fn said(sender: Sender) -> Option<String> {
    sender.key().map(|key| format!("{} {}", sender.standing(), hex(key.as_bytes())))
}

fn open_error(error: StreamError) -> OpenError {
    match error {
        StreamError::Open(error) => error,
        other => panic!("{other:?}"),
    }
}

/// The layer that refused, and its answer, in the words of the vectors.
fn judge(error: &OpenError) -> (&'static str, &'static str) {
    let layer = |field: &str| match field {
        "seq" | "segment_log2" | "flags" | "context_len" | "context" | "type" => "head",
        "segment prefix" | "segment" => "segments",
        _ => "block",
    };
    match error {
        OpenError::Parse(ParseError::Truncated { field, .. }) => (layer(field), "truncated"),
        OpenError::Parse(ParseError::Malformed { field, .. }) => (layer(field), "malformed"),
        OpenError::Parse(ParseError::Unsupported { field, .. }) => (layer(field), "unsupported"),
        OpenError::Parse(ParseError::LimitExceeded(_)) => ("limit", "limit"),
        OpenError::Parse(ParseError::TrailingBytes { .. }) => ("end", "trailing"),
        OpenError::ChannelTruncated { .. } => ("end", "truncated"),
        OpenError::NoMatchingKey => ("key", "nokey"),
        OpenError::HeaderMac => ("header_mac", "header_mac"),
        OpenError::Policy(PolicyError::Sender(_)) => ("policy", "policy"),
        OpenError::Proof | OpenError::SenderChanged => ("proof", "proof"),
        OpenError::Segment { .. } => ("tag", "tag"),
        OpenError::Content(_) => ("content", "content"),
        other => panic!("{other:?}"),
    }
}

fn vectors() -> Vec<Vector> {
    let mut paths: Vec<_> = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_none());
    paths.sort();
    paths.iter().map(|path| Vector::read(path)).collect()
}

/// Those that this build has the suites for.
fn built() -> impl Iterator<Item = Vector> {
    vectors().into_iter().filter(|vector| cfg!(feature = "pq") || !vector.name.starts_with(PQ))
}

/// How the names of vectors under suites 3 and 4 begin.
const PQ: &str = "pq-";

/// Proves SUI-1: a build without X-Wing answers as for bytes that are no message, or that it does not have the suite.
#[cfg(not(feature = "pq"))]
#[test]
fn what_is_not_built_is_unsupported() {
    let mut unsupported = 0;
    for vector in vectors().iter().filter(|vector| vector.name.starts_with(PQ) && vector.get("read-as") == "envelope") {
        match vector.opener().open(&vector.bytes) {
            Err(OpenError::Parse(ParseError::Unsupported { field: "suite", .. })) => unsupported += 1,
            refused => assert!(refused.is_err_and(|error| judge(&error).1 == vector.get("answer")), "{}", vector.name),
        }
    }
    assert!(unsupported > 30, "{unsupported}");
}

#[test]
fn every_file_through_every_way_in() {
    for vector in built() {
        match vector.get("read-as") {
            "armor" => through_armor(vector),
            "envelope" | "detached" if vector.range().is_some() => through_parts(&vector),
            "envelope" if vector.head.contains_key("kms") => through_kms(&vector),
            "envelope" => {
                let in_place = vector.opener().open_in_place(BytesMut::from(&vector.bytes[..]));
                vector.check_one("one-shot", vector.opener().open(&vector.bytes).map(Released::from));
                vector.check_one("in place", in_place.map(Released::from));
                through_readers(&vector);
            }
            "detached" => through_detached(&vector),
            _ => {
                through_channel(&vector, usize::MAX);
                // A byte at a time is quadratic in what waits for its end; large ones go in pieces.
                through_channel(&vector, if vector.bytes.len() > 20_000 { 997 } else { 1 });
            }
        }
    }
}

/// A KMS is asked as the envelope says; what it answers is supplied, and the envelope then opens with the DEK that was learnt.
fn through_kms(vector: &Vector) {
    let opener = vector.opener();
    let Begun::NeedsDek(mut waiting) = opener.begin(&vector.bytes).unwrap() else { panic!("{}: no key opens it", vector.name) };
    let (kms, mut refused) = (vector.kms(), OpenError::NoMatchingKey);
    for external in waiting.externals().collect::<Vec<_>>() {
        let asked = KmsKey::new(external.provider, external.key_ref);
        let answer = kms.iter().find(|(key, _)| *key == asked).map(|(_, answer)| answer).unwrap();
        let Ok(dek) = Dek::from_kms(answer) else { continue };
        match waiting.supply(&dek) {
            Ok(ready) => {
                vector.check_one("with a DEK that is supplied", ready.open().map(Released::from));
                return vector.check_one("out of the cache", opener.open(&vector.bytes).map(Released::from));
            }
            Err(error) => refused = error,
        }
    }
    vector.check_one("with what is supplied", Err(refused));
    vector.check_one(
        "without it",
        opener.open(&vector.bytes).map(Released::from).map_err(|error| match error {
            OpenError::NoMatchingKey if vector.get("answer") == "header_mac" => OpenError::HeaderMac,
            error => error,
        }),
    );
}

/// A text, in pieces: its bytes are the same, or it is refused the same. What comes out is then an envelope like any other.
fn through_armor(mut vector: Vector) {
    let said = |error: &io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof => "truncated",
        io::ErrorKind::InvalidData => "malformed",
        other => panic!("{other:?}"),
    };
    let mut last = None;
    for piece in [1, 2, 33, 64, 5000] {
        let mut bytes = Vec::new();
        let read = ArmorReader::new(BufReader::with_capacity(piece, &vector.bytes[..])).read_to_end(&mut bytes);
        let what = format!("{} (by {piece}): {:?}", vector.name, read.as_ref().err());
        if vector.get("layer") == "armor" {
            assert_eq!(read.as_ref().err().map(said), Some(vector.get("answer")), "{what}");
        } else {
            assert!(read.is_ok() && armor::is_armored(&vector.bytes), "{what}");
            last = Some(bytes);
        }
    }
    if let Some(bytes) = last {
        vector.bytes = bytes;
        vector.check_one("out of a text", vector.opener().open(&vector.bytes).map(Released::from));
        through_readers(&vector);
    }
}

/// A block and a message apart, at once and as a stream; and joined, where the block is as long as it says (DET-1).
fn through_detached(vector: &Vector) {
    let block = vector.block().unwrap();
    vector.check_one("detached", vector.opener().open_detached(&block, &vector.bytes).map(Released::from));
    if block.len() >= 8 && u32::from_be_bytes(block[4..8].try_into().unwrap()) as usize == block.len() {
        let joined = [&block[..], &vector.bytes].concat();
        vector.check_one("joined", vector.opener().open(&joined).map(Released::from));
    }
    let opener = vector.opener();
    // A stream opens segments before it comes to a proof that covers them.
    let check = |way: &str, read: Result<Released, OpenError>| match (vector.get("answer"), &read) {
        ("proof", Err(OpenError::Proof | OpenError::Segment { .. })) => {}
        _ => vector.check_one(way, read),
    };
    for piece in [1, 5000] {
        let read = OpenReader::detached(&opener, &block, &vector.bytes[..]).and_then(|reader| {
            let (mut payload, context) = (Vec::new(), reader.context().to_vec());
            let mut reader = BufReader::with_capacity(piece, reader);
            reader.read_to_end(&mut payload).map_err(StreamError::of)?;
            Ok(Released { context, payload, sender: reader.into_inner().sender().unwrap() })
        });
        check("detached, as a stream", read.map_err(open_error));
    }
    let read = block_on(async {
        let mut reader = AsyncOpenReader::detached(&opener, &block, &vector.bytes[..]).await?;
        let mut payload = Vec::new();
        reader.read_to_end(&mut payload).await.map_err(StreamError::of)?;
        Ok(Released { context: reader.context().to_vec(), payload, sender: reader.sender().unwrap() })
    });
    check("detached, as an asynchronous stream", read.map_err(open_error));
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// A part: the length is asked for, then what there is of the bytes. Both readers, on one thread and on three.
fn through_parts(vector: &Vector) {
    let (opener, (start, end)) = (vector.opener(), vector.range().unwrap());
    for threads in [1, 3] {
        let part = || -> Result<Released, StreamError> {
            let input = Cursor::new(&vector.bytes);
            let mut reader = match vector.block() {
                Some(block) => OpenReader::detached(&opener, &block, input)?,
                // Asked for the length, each verifies what a proof covers.
                None if threads == 1 => OpenReader::verified(&opener, input)?,
                None => OpenReader::new(&opener, input)?,
            }
            .threads(threads);
            let end = end.min(reader.payload_len()?);
            let mut payload = Vec::new();
            reader.seek(SeekFrom::Start(start)).map_err(StreamError::of)?;
            reader.by_ref().take(end.saturating_sub(start)).read_to_end(&mut payload).map_err(StreamError::of)?;
            Ok(Released { context: reader.context().to_vec(), payload, sender: reader.sender().unwrap() })
        };
        vector.check_one(&format!("a part, {threads} threads"), part().map_err(open_error));
    }
    let read = block_on(async {
        let input = Cursor::new(&vector.bytes);
        let mut reader = match vector.block() {
            Some(block) => AsyncOpenReader::detached(&opener, &block, input).await?,
            None => AsyncOpenReader::verified(&opener, input).await?,
        };
        let end = end.min(reader.payload_len().await?);
        let mut payload = Vec::new();
        reader.seek(SeekFrom::Start(start)).await.map_err(StreamError::of)?;
        (&mut reader).take(end.saturating_sub(start)).read_to_end(&mut payload).await.map_err(StreamError::of)?;
        Ok(Released { context: reader.context().to_vec(), payload, sender: reader.sender().unwrap() })
    });
    vector.check_one("a part, asynchronous", read.map_err(open_error));
}

/// Readers of streams, in pieces and from a place in the middle: what they open is the same, and they refuse the same. They have no
/// limit on messages, and find some faults only after what came before is released.
fn through_readers(vector: &Vector) {
    if (vector.get("answer"), vector.get("layer")) == ("limit", "limit") {
        return;
    }
    let mut policy = vector.opener().policy().clone();
    policy.limits.segment = 1 << 24;
    let opener = Opener::builder(vector.keyring()).policy(policy).build();
    for piece in [1, 5000] {
        let read = OpenReader::new(&opener, &vector.bytes[..]).map_err(|error| error.to_string()).and_then(|reader| {
            let (mut payload, context) = (Vec::new(), reader.context().to_vec());
            let mut reader = BufReader::with_capacity(piece, reader);
            reader.read_to_end(&mut payload).map_err(|error| error.to_string())?;
            Ok((context, payload, reader.into_inner().sender()))
        });
        let what = format!("{} (reader by {piece}): {:?}", vector.name, read.as_ref().err());
        assert_eq!(read.is_ok(), vector.get("answer") == "opens", "{what}");
        if let Ok((context, payload, sender)) = &read {
            assert_eq!(digest([(&context[..], &payload[..])]), vector.get("released-sha256"), "{what}");
            assert_eq!(said(sender.unwrap()).as_ref(), vector.head.get("sender"), "{what}");
            let mut reader = OpenReader::verified(&opener, Cursor::new(&vector.bytes)).unwrap();
            let middle = payload.len() / 2;
            reader.seek(SeekFrom::Start(middle as u64)).unwrap();
            let mut rest = Vec::new();
            reader.read_to_end(&mut rest).unwrap();
            assert!(rest == payload[middle..] && reader.payload_len().unwrap() == payload.len() as u64, "{what}");
        }
    }
}

/// The sans-I/O channel, and the codec over it.
fn through_channel(vector: &Vector, piece: usize) {
    let (mut channel, mut codec) = (vector.channel(), OpeningCodec::from(vector.channel()));
    let (mut input, mut buffer) = (BytesMut::new(), BytesMut::new());
    let (mut got, mut decoded) = (Vec::new(), Vec::new());
    let (mut refused, mut failed) = (None, None);
    for piece in vector.bytes.chunks(piece.min(vector.bytes.len().max(1))) {
        input.extend_from_slice(piece);
        buffer.extend_from_slice(piece);
        while let (None, Some(result)) = (&refused, channel.next(&mut input).transpose()) {
            result.map_or_else(|error| refused = Some(error), |opened| got.push(opened.into()));
        }
        while let (None, Some(result)) = (&failed, codec.decode(&mut buffer).transpose()) {
            result.map_or_else(|error| failed = Some(error), |opened| decoded.push(opened.into()));
        }
    }
    let refused = refused.or_else(|| channel.end(&input).err());
    if failed.is_none() {
        loop {
            match codec.decode_eof(&mut buffer) {
                Ok(Some(opened)) => decoded.push(opened.into()),
                Ok(None) => break,
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
    }
    vector.check(&format!("channel by {piece}"), &got, refused.as_ref());
    let failed = failed.map(|error| match error {
        CodecError::Open(error) => error,
        other => panic!("{}: {other:?}", vector.name),
    });
    vector.check(&format!("codec by {piece}"), &decoded, failed.as_ref());
}

/// The files are what the scenarios write: deterministic, and frozen.
#[test]
fn files_are_frozen() {
    let write = std::env::var_os("SEALWIRE_WRITE_VECTORS").is_some();
    let scenarios = scenarios::all();
    for scenario in &scenarios {
        let path = folder().join(&scenario.name);
        let encoded = encode(scenario);
        if write {
            fs::create_dir_all(folder()).unwrap();
            fs::write(&path, &encoded).unwrap();
            continue;
        }
        let vector = Vector::read(&path);
        // Compressors may differ in how they pack; what is packed may not.
        assert_eq!(vector.bytes, scenario.bytes, "{}", scenario.name);
        let head =
            |file: &[u8]| file.split(|b| *b == b'\n').take_while(|line| !line.is_empty()).map(<[u8]>::to_vec).collect::<Vec<_>>();
        assert_eq!(head(&fs::read(&path).unwrap()), head(&encoded), "{}", scenario.name);
    }
}

/// As many as the best kit of this kind and more, most of them negative, one scenario a file.
#[test]
fn the_kit_is_large_and_mostly_negative() {
    let all = vectors();
    let negative = all.iter().filter(|vector| vector.get("answer") != "opens").count();
    assert!(all.len() >= 300, "{}", all.len());
    assert!(negative * 100 >= all.len() * 85, "{negative} of {}", all.len());
    let different: BTreeSet<_> = all.iter().map(|vector| (vector.bytes.clone(), vector.head.clone())).collect();
    assert_eq!(different.len(), all.len(), "two files show the same");
}

/// The key strings of the kit, as `keys.json` has them.
fn key_strings() -> serde_json::Value {
    let entries = kit::keys::all().into_iter().map(|key| {
        let mut entry = serde_json::json!({ "name": key.name, "shows": key.shows, "string": key.string });
        if let Some(passphrase) = key.passphrase {
            entry["passphrase"] = hex(&passphrase).into();
        }
        let (answer, opens_to) = key.answer.map_or_else(|answer| (answer, None), |same| ("opens", Some(same)));
        entry["answer"] = answer.into();
        if let Some(same) = opens_to {
            entry["key"] = same.into();
        }
        entry
    });
    entries.collect()
}

/// As above, for key strings.
#[test]
fn files_are_frozen_of_key_strings() {
    let path = folder().join("keys.json");
    if std::env::var_os("SEALWIRE_WRITE_VECTORS").is_some() {
        fs::write(&path, serde_json::to_string_pretty(&key_strings()).unwrap() + "\n").unwrap();
    }
    let frozen: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(frozen, key_strings());
    let names: BTreeSet<_> = frozen.as_array().unwrap().iter().map(|entry| entry["name"].to_string()).collect();
    assert_eq!((names.len(), names.len() > 80), (frozen.as_array().unwrap().len(), true));
}

/// Every key string through every way in.
#[cfg(feature = "passphrase")]
#[test]
fn every_key_string() {
    use sealwire::keys::{self, KeyError, Passphrase, ProtectionError, SecretKey};
    let judge = |error: KeyError| match error {
        KeyError::WrongKind { .. } | KeyError::Damaged(_) | KeyError::Unsafe(_) => "malformed",
        KeyError::UnsupportedKem(_) | KeyError::Protection(ProtectionError::Version(_)) => "unsupported",
        KeyError::WrongPassphrase => "passphrase",
        KeyError::Protection(ProtectionError::Changed) => "tag",
        KeyError::Protection(ProtectionError::Content) => "content",
        KeyError::Protection(_) => "limit",
        other => panic!("{other}"),
    };
    for entry in key_strings().as_array().unwrap() {
        let text = |name: &str| entry[name].as_str().unwrap_or_default();
        let (name, string) = (text("name"), text("string"));
        if cfg!(not(feature = "pq")) && name.starts_with(kit::keys::PQ) {
            continue;
        }
        let secret = |key: SecretKey| key.to_text().as_str().to_owned();
        let read = if let Some(passphrase) = entry["passphrase"].as_str() {
            let Ok(passphrase) = Passphrase::new(&String::from_utf8(unhex(passphrase)).unwrap()) else {
                assert_eq!((text("answer"), text("key")), ("usage", ""), "{name}");
                continue;
            };
            let file = format!("# in a file\n{string}\n");
            let from_file = keys::secret_key_from_key_file(&file, Some(&passphrase)).map(secret);
            let read = string.parse::<keys::Protected>().and_then(|protected| protected.open(&passphrase)).map(secret);
            assert_eq!(from_file, read, "{name}");
            assert!(matches!(keys::cmk_from_key_file(&file), Err(KeyError::Protected)), "{name}");
            read
        } else {
            let public = keys::recipient_from_text(string).map(|recipient| recipient.to_string());
            let sender = || keys::sender_from_text(string).map(|sender| sender.to_string());
            let secret = || keys::secret_key_from_key_file(string, None).map(secret);
            // The first that does not say that it is something else.
            let of_another_kind = |read: &Result<String, KeyError>| matches!(read, Err(KeyError::WrongKind { .. }));
            let mut read = public;
            read = if of_another_kind(&read) { sender() } else { read };
            if of_another_kind(&read) { secret() } else { read }
        };
        let said = read.as_ref().map_or_else(|error| judge(error.clone()), |_| "opens");
        assert_eq!(said, text("answer"), "{name}: {read:?}");
        assert_eq!(read.unwrap_or_default(), text("key"), "{name}");
    }
}
