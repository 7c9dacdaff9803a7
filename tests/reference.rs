//! The second implementation (spec/reference, Python) and this one, on the same messages: the same accept or refuse, and the
//! same bytes. Ignored, and said so, where Python or its `cryptography` is missing; `tests/run` installs them.

use std::{
    io::{BufRead, BufReader, Cursor, ErrorKind, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use bytes::BytesMut;
use kit::TestRng;
use libtest_mimic::{Arguments, Failed, Trial};
use sealwire::{
    Begun, ChannelOpener, ChannelSealer, Cmk, Dek, HintMode, Kem, Keyring, KmsKey, OpenError, Opened, Opener, ParseError, Policy,
    PolicyError, Recipient, Reuse, Rewrap, RewrapError, Role, Sealer, SenderKey, Senders, Suite, VerifyingKey,
    armor::{ArmorReader, ArmorWriter},
    stream::{OpenReader, StreamError},
};
use serde_json::{Value, json};

mod kit;
#[cfg(all(feature = "kms", feature = "testing", feature = "pq"))]
#[path = "kit/told.rs"]
mod told;

/// Messages each way, and mutants of them.
const MESSAGES: usize = 2000;

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = std::env::var_os("SEALWIRE_PYTHON").map_or_else(|| root.join("target/reference-venv/bin/python"), PathBuf::from);
    let there = Command::new(&python)
        .args(["-c", "import cryptography.hazmat.primitives.hpke"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !there {
        eprintln!("SKIPPED: {} with cryptography's HPKE is missing: the second implementation is not asked", python.display());
    }
    let trial = |name: &str, run: fn(&mut Reference) -> Result<(), Failed>| {
        let python = python.clone();
        Trial::test(name, move || run(&mut Reference::start(&python)?)).with_ignored_flag(!there)
    };
    let trials = vec![
        trial("every vector", vectors),
        trial("it opens what we seal", ours),
        trial("we open what it seals", theirs),
        trial("mutants", mutants),
        trial("rewraps", rewraps),
        trial("messages apart from their block", detached),
        trial("parts of payloads", parts),
        trial("mutants of parts", part_mutants),
        trial("armor", armor),
        trial("mutants of armor", armor_mutants),
        trial("key strings", key_strings),
        trial("every vector of key strings", key_vectors),
    ];
    #[cfg(all(feature = "kms", feature = "testing", feature = "pq"))]
    let trials = trials
        .into_iter()
        .chain([
            trial("every vector of key services", kms::vectors),
            trial("requests, answers and states", kms::both_ways),
            trial("secrets directly under a CMK", kms::direct),
            trial("stores", kms::stores),
        ])
        .collect::<Vec<_>>();
    #[cfg(feature = "passphrase")]
    let trials = trials.into_iter().chain([trial("protected keys", protected_keys)]).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// The other implementation, as a process that answers a line with a line.
struct Reference {
    child: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Reference {
    fn start(python: &Path) -> Result<Self, Failed> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("spec/reference/reference.py");
        let mut child = Command::new(python).arg(script).arg("serve").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (ask, answers) = (child.stdin.take().ok_or("stdin")?, child.stdout.take().ok_or("stdout")?);
        Ok(Self { child, ask, answers: BufReader::new(answers) })
    }

    fn ask(&mut self, question: &Value) -> Result<Value, Failed> {
        writeln!(self.ask, "{question}")?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        let answer: Value = serde_json::from_str(&line)?;
        match answer.get("error") {
            Some(error) => Err(format!("{error} for {question}").into()),
            None => Ok(answer),
        }
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap_or_default()).collect()
}

/// Contexts, payloads and senders, in order.
type Released = Vec<(Vec<u8>, Vec<u8>, String)>;

/// What one side says of some bytes: what it released, and why it stopped.
type Said = (Released, Option<String>);

fn category(error: &OpenError) -> &'static str {
    match error {
        OpenError::Parse(ParseError::Malformed { .. }) => "malformed",
        OpenError::Parse(ParseError::Unsupported { .. }) => "unsupported",
        OpenError::Parse(ParseError::Truncated { .. }) | OpenError::ChannelTruncated { .. } => "truncated",
        OpenError::Parse(ParseError::TrailingBytes { .. }) => "trailing",
        OpenError::Parse(ParseError::LimitExceeded(_)) => "limit",
        OpenError::NoMatchingKey => "nokey",
        OpenError::HeaderMac => "header_mac",
        OpenError::Policy(PolicyError::Sender(_)) => "policy",
        OpenError::Proof | OpenError::SenderChanged => "proof",
        OpenError::Segment { .. } => "tag",
        OpenError::Content(_) => "content",
        _ => "other",
    }
}

/// A list of senders' keys, and standings besides the usual ones.
type Listed = Option<(Vec<[u8; 32]>, Vec<&'static str>)>;

/// A sender as both sides name it.
fn sender_name(standing: &str, key: Option<String>) -> String {
    format!("{standing} {}", key.unwrap_or_default())
}

/// The suites that this build has; the second implementation has all of them.
const SUITES: &[Suite] = &[
    Suite::X25519ChaCha20Poly1305,
    Suite::X25519Aes256Gcm,
    #[cfg(feature = "pq")]
    Suite::XWingChaCha20Poly1305,
    #[cfg(feature = "pq")]
    Suite::XWingAes256Gcm,
];

/// A secret of 32 bytes as a key of either kind.
fn cmk(kem: Kem, secret: &[u8; 32]) -> Cmk {
    match kem {
        #[cfg(feature = "pq")]
        Kem::XWing => Cmk::from_xwing(secret),
        _ => Cmk::from_x25519(secret),
    }
}

/// Secrets as keys of every kind that this build has.
fn keyring(secrets: &[[u8; 32]]) -> Keyring {
    let kems: std::collections::HashSet<_> = SUITES.iter().map(|suite| suite.kem()).collect();
    secrets.iter().flat_map(|secret| kems.iter().map(|kem| cmk(*kem, secret))).collect()
}

/// One message or channel under test.
struct Case {
    bytes: Vec<u8>,
    secrets: Vec<[u8; 32]>,
    binding: Vec<u8>,
    /// Our role where it is a channel.
    role: Option<Role>,
    senders: Listed,
    /// The block where it was kept apart.
    block: Option<Vec<u8>>,
    /// The part of the payload that is read.
    range: Option<(u64, u64)>,
    /// Whether the bytes are text.
    armored: bool,
    /// Provider, key_ref, and what the KMS answers.
    kms: Kms,
}

type Kms = Vec<(&'static str, &'static str, Vec<u8>)>;

/// The bytes out of a text.
fn unarmored(text: &[u8]) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    match ArmorReader::new(text).read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err("truncated".into()),
        Err(_) => Err("malformed".into()),
    }
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Initiator => "initiator",
        Role::Acceptor => "acceptor",
    }
}

impl Case {
    fn copy(&self) -> Self {
        let Self { bytes, secrets, binding, senders, role, block, range, armored, kms } = self;
        let (bytes, secrets, binding) = (bytes.clone(), secrets.clone(), binding.clone());
        let (senders, block, kms) = (senders.clone(), block.clone(), kms.clone());
        Self { bytes, secrets, binding, senders, role: *role, block, range: *range, armored: *armored, kms }
    }

    /// A part, after the payload's length was asked for.
    fn we_read(&self, opener: &Opener, (start, end): (u64, u64)) -> Result<Released, StreamError> {
        let input = Cursor::new(&self.bytes);
        let mut reader = match &self.block {
            Some(block) => OpenReader::detached(opener, block, input)?,
            None => OpenReader::verified(opener, input)?,
        };
        let (end, mut payload) = (end.min(reader.payload_len()?), Vec::new());
        reader.seek(SeekFrom::Start(start)).map_err(StreamError::of)?;
        reader.by_ref().take(end.saturating_sub(start)).read_to_end(&mut payload).map_err(StreamError::of)?;
        let sender = reader.sender().map_or_else(String::new, |sender| {
            sender_name(&sender.standing().to_string(), sender.key().map(|key| hex(key.as_bytes())))
        });
        Ok(vec![(reader.context().to_vec(), payload, sender)])
    }

    fn we_say(&self) -> Said {
        let senders = self.senders.as_ref().map(|(keys, accept)| {
            let keys = keys.iter().filter_map(|key| VerifyingKey::from_ed25519(*key).ok());
            accept.iter().filter_map(|name| name.parse().ok()).fold(Senders::new(keys), Senders::also)
        });
        let kms_keys = self.kms.iter().map(|(provider, key_ref, _)| KmsKey::new(*provider, *key_ref)).collect();
        let policy = Policy { binding: self.binding.clone(), senders, kms_keys, ..Policy::default() };
        let opener = Opener::builder(keyring(&self.secrets)).policy(policy).build();
        let part = |opened: Opened| {
            let sender = sender_name(&opened.sender.standing().to_string(), opened.sender.key().map(|key| hex(key.as_bytes())));
            (opened.context.to_vec(), opened.payload.to_vec(), sender)
        };
        if let Some(range) = self.range {
            return match self.we_read(&opener, range) {
                Ok(released) => (released, None),
                Err(StreamError::Open(error)) => (Vec::new(), Some(category(&error).into())),
                Err(error) => (Vec::new(), Some(error.to_string())),
            };
        }
        let Some(role) = self.role else {
            let bytes = match if self.armored { unarmored(&self.bytes) } else { Ok(self.bytes.clone()) } {
                Ok(bytes) => bytes,
                Err(refused) => return (Vec::new(), Some(refused)),
            };
            let opened = match &self.block {
                Some(block) => opener.open_detached(block, &bytes),
                None if !self.kms.is_empty() => self.we_ask(&opener, &bytes),
                None => opener.open(&bytes),
            };
            return match opened {
                Ok(opened) => (vec![part(opened)], None),
                Err(error) => (Vec::new(), Some(category(&error).into())),
            };
        };
        let mut channel = ChannelOpener::new(opener, role, &self.binding);
        let (mut input, mut got) = (BytesMut::from(&self.bytes[..]), Vec::new());
        let refused = loop {
            match channel.next(&mut input) {
                Ok(Some(opened)) => got.push(part(opened)),
                Ok(None) => break channel.end(&input).err(),
                Err(error) => break Some(error),
            }
        };
        (got, refused.map(|error| category(&error).into()))
    }

    /// Asks the KMS for each external that is named.
    fn we_ask(&self, opener: &Opener, bytes: &[u8]) -> Result<Opened, OpenError> {
        let mut waiting = match opener.begin(bytes)? {
            Begun::Ready(ready) => return ready.open(),
            Begun::NeedsDek(waiting) => waiting,
        };
        let mut refused = waiting.reason().clone();
        for external in waiting.externals().collect::<Vec<_>>() {
            let answer =
                self.kms.iter().find(|(provider, key_ref, _)| (*provider, *key_ref) == (external.provider, external.key_ref));
            let Some(dek) = answer.and_then(|(_, _, answer)| Dek::from_kms(answer).ok()) else { continue };
            match waiting.supply(&dek) {
                Ok(ready) => return ready.open(),
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }

    fn it_says(&self, reference: &mut Reference) -> Result<Said, Failed> {
        let keys: Vec<_> = self.secrets.iter().map(|secret| hex(secret)).collect();
        let part = |v: &Value| {
            let text = |name: &str| unhex(v[name].as_str().unwrap_or_default());
            let sender = &v["sender"];
            let key = sender["key"].as_str().map(str::to_owned);
            (text("context"), text("payload"), sender_name(sender["standing"].as_str().unwrap_or("?"), key))
        };
        let refused = |v: &Value| v["refused"].as_str().map(str::to_owned);
        let mut question = json!({ "op": "open", "keys": keys, "bytes": hex(&self.bytes), "binding": hex(&self.binding) });
        if let Some((senders, accept)) = &self.senders {
            question["senders"] = senders.iter().map(|key| hex(key)).collect();
            question["accept"] = ["signed", "verified"].iter().chain(accept).copied().collect();
        }
        if let Some(block) = &self.block {
            (question["detached"], question["block"]) = (true.into(), hex(block).into());
        }
        if !self.kms.is_empty() {
            question["kms"] =
                self.kms.iter().map(|(provider, key_ref, answer)| json!([provider, key_ref, hex(answer)])).collect();
        }
        if let Some((start, end)) = self.range {
            question["part"] = json!([start, end]);
        }
        question["armored"] = self.armored.into();
        let Some(role) = self.role else {
            let answer = reference.ask(&question)?;
            return Ok((answer.get("ok").map(part).into_iter().collect(), refused(&answer)));
        };
        (question["op"], question["role"]) = ("channel-open".into(), role_name(role).into());
        let answer = reference.ask(&question)?;
        Ok((answer["delivered"].as_array().ok_or("delivered")?.iter().map(part).collect(), refused(&answer)))
    }
}

fn vectors(reference: &mut Reference) -> Result<(), Failed> {
    for scenario in kit::scenarios::all() {
        let role = match scenario.way {
            kit::scenarios::Way::Envelope | kit::scenarios::Way::Detached | kit::scenarios::Way::Armor => None,
            kit::scenarios::Way::Acceptor => Some(Role::Acceptor),
            kit::scenarios::Way::Initiator => Some(Role::Initiator),
        };
        let (bytes, secrets, binding, senders) = (scenario.bytes, scenario.keys, scenario.binding, scenario.senders);
        let (block, range, armored) = (scenario.block, scenario.range, scenario.way == kit::scenarios::Way::Armor);
        let case = Case { bytes, secrets, binding, role, senders, block, range, armored, kms: scenario.kms };
        let sender = scenario.sender.map_or_else(|| sender_name("anonymous", None), |(s, key)| sender_name(s, Some(hex(&key))));
        let refused = scenario.refused.map(|(_, answer)| answer.to_owned());
        let said = case.it_says(reference)?;
        let released: Vec<_> = said.0.iter().map(|(context, payload, _)| (context.clone(), payload.clone())).collect();
        let sender_agrees = refused.is_some() || said.0.iter().all(|(.., said)| *said == sender);
        if (released, &said.1) != (scenario.released, &refused) || !sender_agrees {
            return Err(format!("{}: it says {:?} and {} messages", scenario.name, said.1, said.0.len()).into());
        }
    }
    Ok(())
}

fn pick<T: Copy>(rng: &mut TestRng, from: &[T]) -> T {
    from[rng.below(from.len())]
}

/// The settings of one random message.
struct Dice {
    secrets: Vec<[u8; 32]>,
    reader: [u8; 32],
    suite: Suite,
    hints: HintMode,
    own: bool,
    pad: bool,
    log2: u8,
    binding: Vec<u8>,
    context: Vec<u8>,
    role: Option<Role>,
    signs: Signs,
    seed: [u8; 32],
    /// Who reads lists the senders whom he takes.
    listed: Listed,
}

/// What is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Signs {
    Nothing,
    Dek,
    Message,
}

impl Dice {
    fn roll(rng: &mut TestRng) -> Self {
        let n = pick(rng, &[1, 1, 2, 5]);
        let secrets: Vec<[u8; 32]> = (0..n).map(|_| rng.bytes(32).try_into().unwrap_or_default()).collect();
        let (binding, context) = (pick(rng, &[0, 0, 7, 32]), pick(rng, &[0, 0, 3, 100]));
        let role = pick(rng, &[None, None, Some(Role::Acceptor), Some(Role::Initiator)]);
        let seed = rng.bytes(32).try_into().unwrap_or_default();
        let key = if rng.below(4) == 0 { [0x58; 32] } else { kit::verifying_key(&seed) };
        let signs = pick(rng, &[Signs::Nothing, Signs::Dek, Signs::Message]);
        let suite = pick(rng, SUITES);
        Self {
            signs: if role.is_some() && signs == Signs::Message { Signs::Dek } else { signs },
            seed,
            listed: (rng.below(3) == 0).then(|| (vec![key], pick(rng, &[&[][..], &["group"], &["signed-rewrapped"]]).to_vec())),
            reader: secrets[rng.below(n)],
            secrets,
            hints: pick(rng, &[HintMode::None, HintMode::Rotating, HintMode::Static]),
            suite,
            own: rng.below(3) == 0 && suite.kem() == Kem::X25519,
            pad: rng.below(3) == 0,
            log2: pick(rng, &[12, 12, 16]),
            binding: rng.bytes(binding),
            context: rng.bytes(context),
            role,
        }
    }

    /// The sender as whoever reads must name it.
    fn sender(&self) -> String {
        let key = || Some(hex(&kit::verifying_key(&self.seed)));
        match self.signs {
            Signs::Nothing => sender_name("anonymous", None),
            Signs::Dek => sender_name(if self.secrets.len() == 1 { "verified" } else { "group" }, key()),
            Signs::Message => sender_name("signed", key()),
        }
    }

    fn payload(rng: &mut TestRng) -> Vec<u8> {
        let len = pick(rng, &[0, 1, 8, 100, 1000, 4088, 4095, 4096, 4097, 8192, 9000]);
        let len = if rng.below(2) == 0 { rng.below(len + 1) } else { len };
        rng.bytes(len)
    }

    fn sealer(&self, reuse: u64) -> Result<Sealer, Failed> {
        let to = self.secrets.iter().map(|secret| cmk(self.suite.kem(), secret).recipient().clone());
        let builder = Sealer::builder().to_all(to).hints(self.hints).enc_per_slot(self.own).pad(self.pad).segment_log2(self.log2);
        let builder =
            builder.suite(self.suite).binding(self.binding.clone()).reuse(Reuse { messages: reuse, ..Reuse::default() });
        let key = SenderKey::from_ed25519(&self.seed);
        Ok(match self.signs {
            Signs::Nothing => builder,
            Signs::Dek => builder.sign_with(key),
            Signs::Message => builder.sign_messages_with(key),
        }
        .build()?)
    }

    fn case(&self, bytes: Vec<u8>) -> Case {
        let (secrets, binding) = (vec![self.reader], self.binding.clone());
        Case {
            bytes,
            secrets,
            binding,
            role: self.role,
            senders: None,
            block: None,
            range: None,
            armored: false,
            kms: Vec::new(),
        }
    }

    /// Sealed by us: the bytes, and what must come out.
    fn seal(&self, rng: &mut TestRng) -> Result<(Case, Released), Failed> {
        let n = if self.role.is_some() { 1 + rng.below(5) } else { 1 };
        let payloads: Vec<_> = (0..n).map(|_| Self::payload(rng)).collect();
        let sent = payloads.iter().map(|payload| (self.context.clone(), payload.clone(), self.sender())).collect();
        let Some(reader) = self.role else {
            let mut sealer = self.sealer(1)?;
            return Ok((self.case(sealer.seal(&self.context, &payloads[0])?), sent));
        };
        let side = if reader == Role::Acceptor { Role::Initiator } else { Role::Acceptor };
        let mut channel = ChannelSealer::new(self.sealer(1 + rng.below(3) as u64)?, side, &self.binding);
        let mut out = BytesMut::new();
        let notice = rng.below(2) == 0;
        for (i, payload) in payloads.iter().enumerate() {
            if i + 1 == n && !notice {
                channel.seal_last(&self.context, payload, &mut out)?;
            } else {
                channel.seal(&self.context, payload, &mut out)?;
            }
        }
        if notice {
            channel.finish(&mut out)?;
        }
        Ok((self.case(out.to_vec()), sent))
    }

    /// Sealed by the reference.
    fn ask_to_seal(&self, rng: &mut TestRng, reference: &mut Reference) -> Result<(Case, Released), Failed> {
        let public = |secret| hex(cmk(self.suite.kem(), secret).recipient().public_key());
        let to: Vec<_> = self.secrets.iter().map(public).collect();
        let hints = format!("{:?}", self.hints).to_lowercase();
        let mut question = json!({
            "to": to, "hints": hints, "enc_per_slot": self.own, "segment_log2": self.log2, "suite": self.suite.number(), "binding": hex(&self.binding),
        });
        let mut sent = Vec::new();
        let mut more = json!({ "op": "seal", "context": hex(&self.context), "pad": self.pad, "seq": rng.next() });
        if self.signs != Signs::Nothing {
            question["sign_with"] = hex(&self.seed).into();
        }
        if self.signs == Signs::Message {
            (question["proof"], more["seq"]) = ("message".into(), 0.into());
        }
        if let Some(reader) = self.role {
            let n = 1 + rng.below(5);
            let notice = rng.below(2) == 0;
            let messages: Vec<_> = (0..n)
                .map(|i| {
                    let batch: Option<Vec<Vec<u8>>> =
                        (rng.below(4) == 0).then(|| (0..=rng.below(4)).map(|_| rng.bytes(20)).collect());
                    let payload = Self::payload(rng);
                    match &batch {
                        Some(entries) => {
                            sent.extend(entries.iter().map(|entry| (self.context.clone(), entry.clone(), self.sender())))
                        }
                        None => sent.push((self.context.clone(), payload.clone(), self.sender())),
                    }
                    let batch = batch.map(|entries| entries.iter().map(|entry| hex(entry)).collect::<Vec<_>>());
                    json!({
                        "payload": hex(&payload), "context": hex(&self.context), "pad": self.pad, "renew": rng.below(3) == 0,
                        "last": i + 1 == n && !notice, "batch": batch,
                    })
                })
                .collect();
            let side = if reader == Role::Acceptor { "initiator" } else { "acceptor" };
            more = json!({ "op": "channel-seal", "role": side, "messages": messages, "notice": notice });
        } else {
            let payload = Self::payload(rng);
            more["payload"] = hex(&payload).into();
            sent.push((self.context.clone(), payload, self.sender()));
        }
        if let (Some(question), Value::Object(more)) = (question.as_object_mut(), more) {
            question.extend(more);
        }
        let answer = reference.ask(&question)?;
        Ok((self.case(unhex(answer["ok"].as_str().ok_or("no bytes")?)), sent))
    }
}

fn agree(i: usize, said: &Said, sent: &Released) -> Result<(), Failed> {
    if said.1.is_none() && said.0 == *sent {
        Ok(())
    } else {
        Err(format!("message {i}: {:?}, {} released", said.1, said.0.len()).into())
    }
}

fn ours(reference: &mut Reference) -> Result<(), Failed> {
    let mut rng = TestRng::new(11);
    for i in 0..MESSAGES {
        let (case, sent) = Dice::roll(&mut rng).seal(&mut rng)?;
        agree(i, &case.it_says(reference)?, &sent)?;
    }
    Ok(())
}

fn theirs(reference: &mut Reference) -> Result<(), Failed> {
    let mut rng = TestRng::new(12);
    for i in 0..MESSAGES {
        let (case, sent) = Dice::roll(&mut rng).ask_to_seal(&mut rng, reference)?;
        agree(i, &case.we_say(), &sent)?;
    }
    Ok(())
}

/// Changes a message: mostly a bit, sometimes a byte more or less, a cut, or two bytes of a length.
fn mutate(rng: &mut TestRng, bytes: &mut Vec<u8>) {
    for _ in 0..=rng.below(2) {
        let at = rng.below(bytes.len().max(1)).min(if rng.below(2) == 0 { 200 } else { usize::MAX });
        match rng.below(8) {
            0..=3 if at < bytes.len() => bytes[at] ^= 1 << rng.below(8),
            4 if at < bytes.len() => bytes[at] = pick(rng, &[0, 1, 2, 0x7f, 0x80, 0xff]),
            5 => bytes.truncate(at),
            6 if at <= bytes.len() => bytes.insert(at, rng.next() as u8),
            _ if at < bytes.len() => drop(bytes.remove(at)),
            _ => {}
        }
    }
}

fn mutants(reference: &mut Reference) -> Result<(), Failed> {
    let mut rng = TestRng::new(13);
    let mut differences = Vec::new();
    for i in 0..MESSAGES {
        let dice = Dice::roll(&mut rng);
        let (mut case, _) = dice.seal(&mut rng)?;
        case.senders = dice.listed.clone();
        mutate(&mut rng, &mut case.bytes);
        let (we, it) = (case.we_say(), case.it_says(reference)?);
        // Which of several faults is met first is each reader's own; that there is one, and what was released before, is not.
        if (we.0, we.1.is_some()) != (it.0, it.1.is_some()) {
            differences.push(format!("mutant {i}: we say {:?}, it says {:?}", we.1, it.1));
        }
    }
    if differences.is_empty() { Ok(()) } else { Err(differences.join("\n").into()) }
}

/// What each makes of a block for other recipients, the other opens; and what one refuses, the other refuses.
fn rewraps(reference: &mut Reference) -> Result<(), Failed> {
    let mut rng = TestRng::new(15);
    let mut refusals = 0;
    for i in 0..MESSAGES / 4 {
        let dice = Dice { role: None, listed: None, ..Dice::roll(&mut rng) };
        let dice = Dice { signs: pick(&mut rng, &[Signs::Nothing, Signs::Dek, Signs::Message]), ..dice };
        let (case, _) = dice.seal(&mut rng)?;
        let len = u32::from_be_bytes(case.bytes[4..8].try_into()?) as usize;
        let (block, data) = case.bytes.split_at(len);
        let strangers: Vec<[u8; 32]> = (0..3).map(|_| rng.bytes(32).try_into().unwrap_or_default()).collect();
        let (replace_all, weaken) = (rng.below(3) == 0, rng.below(2) == 0);
        let add: Vec<_> = strangers.iter().chain(&dice.secrets).filter(|_| rng.below(4) == 0).copied().collect();
        let all_keys = dice.secrets.iter().chain(&strangers);
        let remove: Vec<_> = all_keys.filter(|_| !replace_all && rng.below(6) == 0).copied().collect();
        // Now and then the others are of the other kind, and are refused.
        let kem = pick(&mut rng, SUITES).kem();
        let recipient = |secret: &[u8; 32]| {
            let kem = if strangers.contains(secret) { kem } else { dice.suite.kem() };
            cmk(kem, secret).recipient().clone()
        };
        let public = |secrets: &[[u8; 32]]| secrets.iter().map(|s| hex(recipient(s).public_key())).collect::<Vec<_>>();
        let mut change = Rewrap::new();
        change = add.iter().fold(change, |change, secret| change.to(recipient(secret)));
        change = remove.iter().fold(change, |change, secret| change.without(recipient(secret)));
        change = if replace_all { change.replace_all() } else { change };
        change = if weaken { change.weaken_proof() } else { change };
        let ours = change.block(block, &keyring(&[dice.reader]));
        let added_another = add.iter().any(|secret| recipient(secret).kem() != dice.suite.kem());
        assert!(!added_another || matches!(ours, Err(RewrapError::OtherKem { .. } | RewrapError::WeakensProof)), "rewrap {i}");
        let theirs = reference.ask(&json!({
            "op": "rewrap", "block": hex(block), "keys": [hex(&dice.reader)], "add": public(&add), "remove": public(&remove),
            "replace_all": replace_all, "weaken": weaken,
        }))?;
        let (Ok(ours), Some(theirs)) = (&ours, theirs["ok"].as_str().map(unhex)) else {
            let (we, it) = (ours.as_ref().err().map(ToString::to_string), theirs["refused"].as_str());
            if we.is_none() || it.is_none() {
                return Err(format!("rewrap {i}: we {we:?}, it {it:?}").into());
            }
            refusals += 1;
            continue;
        };
        assert_eq!(ours.len(), theirs.len(), "rewrap {i}");
        // All but what is made of fresh ephemerals is the same: the kept slots stand first.
        for secret in dice.secrets.iter().chain(&strangers) {
            let open = |block: &[u8]| Case { bytes: [block, data].concat(), secrets: vec![*secret], ..case.copy() };
            let (mine, its) = (open(ours), open(&theirs));
            let said = [mine.we_say(), mine.it_says(reference)?, its.we_say(), its.it_says(reference)?];
            assert!(
                said.iter().all(|one| *one == said[0]),
                "rewrap {i}: {:?}",
                said.map(|(released, refused)| (released.len(), refused))
            );
        }
    }
    assert!(refusals > MESSAGES / 40, "{refusals}");
    Ok(())
}

/// A message that is no channel's, sealed by us or by the reference.
fn single(rng: &mut TestRng, reference: &mut Reference) -> Result<(Case, Released), Failed> {
    let dice = Dice::roll(rng);
    let signs = pick(rng, &[Signs::Nothing, Signs::Dek, Signs::Message]);
    let dice = Dice { role: None, signs, ..dice };
    if rng.below(2) == 0 { dice.seal(rng) } else { dice.ask_to_seal(rng, reference) }
}

/// Moves the block out of a message.
fn split(case: &mut Case) -> Result<(), Failed> {
    let len = u32::from_be_bytes(case.bytes[4..8].try_into()?) as usize;
    let message = case.bytes.split_off(len);
    case.block = Some(std::mem::replace(&mut case.bytes, message));
    Ok(())
}

/// Sealed apart, or taken apart; opened apart, and joined. Then with a block or a message changed, or another's.
fn detached(reference: &mut Reference) -> Result<(), Failed> {
    let mut rng = TestRng::new(16);
    let (mut before, mut refusals) = (None::<Case>, 0);
    for i in 0..MESSAGES / 4 {
        let dice = Dice { role: None, ..Dice::roll(&mut rng) };
        let (case, sent) = if i % 2 == 0 {
            let (payload, mut sealer) = (Dice::payload(&mut rng), dice.sealer(1)?);
            let sealed = sealer.seal_detached(&dice.context, &payload)?;
            // [DET-3]: the salt is the name.
            assert_eq!(sealed.name.as_ref(), &sealed.block[21..37]);
            let case = Case { block: Some(sealed.block.to_vec()), ..dice.case(sealed.message.to_vec()) };
            (case, vec![(dice.context.clone(), payload, dice.sender())])
        } else {
            let (mut case, sent) = dice.ask_to_seal(&mut rng, reference)?;
            split(&mut case)?;
            (case, sent)
        };
        agree(i, &case.it_says(reference)?, &sent)?;
        agree(i, &case.we_say(), &sent)?;
        let joined = [case.block.clone().unwrap_or_default(), case.bytes.clone()].concat();
        agree(i, &Case { bytes: joined, block: None, ..case.copy() }.it_says(reference)?, &sent)?;
        let mut changed = case.copy();
        match rng.below(3) {
            0 => changed.block.iter_mut().for_each(|block| mutate(&mut rng, block)),
            1 => mutate(&mut rng, &mut changed.bytes),
            _ => changed.block = before.map_or_else(|| case.block.clone(), |before| before.block),
        }
        let (we, it) = (changed.we_say(), changed.it_says(reference)?);
        if (&we.0, we.1.is_some()) != (&it.0, it.1.is_some()) {
            return Err(format!("message {i}, changed: we say {:?}, it says {:?}", we.1, it.1).into());
        }
        refusals += usize::from(we.1.is_some());
        before = Some(case);
    }
    assert!(refusals > MESSAGES / 10, "{refusals}");
    Ok(())
}

/// Where a part may begin or end: anywhere, at the edges of segments and of the payload, and behind it.
fn place(rng: &mut TestRng, len: usize) -> u64 {
    let near = pick(rng, &[0, 4096, 8192, len, len + 8]) as u64 + rng.below(3) as u64;
    if rng.below(2) == 0 { near.saturating_sub(1) } else { rng.below(len + 20) as u64 }
}

/// A message of which a part is asked for, and that part. Half of them are apart from their block.
fn parted(rng: &mut TestRng, reference: &mut Reference) -> Result<(Case, Released), Failed> {
    let (mut case, mut sent) = single(rng, reference)?;
    let payload = &mut sent[0].1;
    let range = (place(rng, payload.len()), place(rng, payload.len()));
    let end = payload.len().min(range.1 as usize);
    *payload = payload.get(range.0 as usize..end).unwrap_or_default().to_vec();
    case.range = Some(range);
    if rng.below(2) == 0 {
        split(&mut case)?;
    }
    Ok((case, sent))
}

fn parts(reference: &mut Reference) -> Result<(), Failed> {
    let mut rng = TestRng::new(17);
    for i in 0..MESSAGES / 4 {
        let (case, sent) = parted(&mut rng, reference)?;
        agree(i, &case.it_says(reference)?, &sent)?;
        agree(i, &case.we_say(), &sent)?;
    }
    Ok(())
}

fn part_mutants(reference: &mut Reference) -> Result<(), Failed> {
    let mut rng = TestRng::new(18);
    let (mut differences, mut opened) = (Vec::new(), 0);
    for i in 0..MESSAGES / 2 {
        // Nine segments and more, so that most of them are not asked for.
        let signs = pick(&mut rng, &[Signs::Nothing, Signs::Nothing, Signs::Dek, Signs::Message]);
        let dice = Dice { role: None, log2: 12, signs, ..Dice::roll(&mut rng) };
        let len = 36_864 + pick(&mut rng, &[0, 1, 4096, 5000]);
        let payload = rng.bytes(len);
        let mut case = dice.case(dice.sealer(1)?.seal(&dice.context, &payload)?);
        let start = place(&mut rng, payload.len());
        case.range = Some((start, start + rng.below(6000) as u64));
        match rng.below(4) {
            0 => mutate(&mut rng, &mut case.bytes),
            1 => {
                // Segments that are taken out, or come twice.
                let (from, n) = (case.bytes.len() - 4116 * (1 + rng.below(9)), 4116 * rng.below(3));
                let piece = case.bytes[from..(from + n).min(case.bytes.len())].to_vec();
                let to = if rng.below(2) == 0 { from } else { case.bytes.len() };
                drop(case.bytes.splice(to..to, piece));
            }
            2 => case.bytes.truncate(case.bytes.len() - 4116 * rng.below(9) - rng.below(2) * rng.below(4116)),
            _ => {
                let at = rng.below(case.bytes.len());
                case.bytes[at] ^= 1 << rng.below(8);
            }
        }
        let (we, it) = (case.we_say(), case.it_says(reference)?);
        opened += usize::from(we.1.is_none());
        if (&we.0, we.1.is_some()) != (&it.0, it.1.is_some()) {
            differences.push(format!("mutant {i}, {:?}: we say {:?}, it says {:?}", case.range, we.1, it.1));
        }
    }
    // A changed segment that is not asked for does not matter.
    assert!((MESSAGES / 20..MESSAGES / 2).contains(&opened), "{opened}");
    if differences.is_empty() { Ok(()) } else { Err(differences.join("\n").into()) }
}

/// The same text, whoever writes it; and each reads the other's, with blanks around it and either end of a line.
fn armor(reference: &mut Reference) -> Result<(), Failed> {
    let mut rng = TestRng::new(19);
    for i in 0..MESSAGES / 4 {
        let (mut case, sent) = single(&mut rng, reference)?;
        let mut writer = ArmorWriter::new(Vec::new())?;
        let piece = 1 + rng.below(200);
        case.bytes.chunks(piece).try_for_each(|piece| writer.write_all(piece))?;
        let ours = writer.finish()?;
        let theirs = reference.ask(&json!({ "op": "armor", "bytes": hex(&case.bytes) }))?;
        assert_eq!(theirs["ok"].as_str(), Some(hex(&ours).as_str()), "text {i}");
        let mut text = String::from_utf8(ours)?;
        if rng.below(3) == 0 {
            text = text.replace('\n', "\r\n");
        }
        let mut blanks = || (0..rng.below(1025)).map(|_| pick(&mut rng, &[' ', '\t', '\n', '\x0c', '\r'])).collect::<String>();
        text = format!("{}{text}{}", blanks(), blanks());
        (case.bytes, case.armored) = (text.into_bytes(), true);
        agree(i, &case.it_says(reference)?, &sent)?;
        agree(i, &case.we_say(), &sent)?;
    }
    Ok(())
}

/// Changes a text where its rules are: ends of lines, blanks, padding, characters, whole lines.
fn mutate_text(rng: &mut TestRng, text: &mut Vec<u8>) {
    for _ in 0..=rng.below(2) {
        let at = rng.below(text.len().max(1)).min(text.len().saturating_sub(1));
        let ends: Vec<_> = (0..text.len()).filter(|i| text[*i] == b'\n').collect();
        let at = if rng.below(2) == 0 || ends.is_empty() { at } else { ends[rng.below(ends.len())] };
        let byte = pick(rng, b"\n\n\r\r \t\x0c\x0b==AZaz09+/-_.\0\x80");
        match rng.below(8) {
            _ if text.is_empty() => {}
            0 | 1 => text.insert(at, byte),
            2 | 3 => text[at] = byte,
            4 => drop(text.remove(at)),
            5 => text.truncate(at),
            6 => {
                let line = text.split_inclusive(|b| *b == b'\n').nth(rng.below(ends.len() + 1)).unwrap_or_default().to_vec();
                let at = ends.get(rng.below(ends.len() + 1)).map_or(0, |end| end + 1);
                drop(text.splice(at..at, line));
            }
            _ => text[at] ^= 1 << rng.below(8),
        }
    }
}

fn armor_mutants(reference: &mut Reference) -> Result<(), Failed> {
    let mut rng = TestRng::new(20);
    let (mut differences, mut opened) = (Vec::new(), 0);
    for i in 0..MESSAGES {
        let len = pick(&mut rng, &[1, 2, 3, 45, 46, 47, 48, 49, 96, 150]);
        let bytes = rng.bytes(len);
        let mut writer = ArmorWriter::new(Vec::new())?;
        writer.write_all(&bytes)?;
        let mut text = writer.finish()?;
        mutate_text(&mut rng, &mut text);
        let we = unarmored(&text);
        let said = reference.ask(&json!({ "op": "armor", "bytes": hex(&text), "armored": true }))?;
        let it = said["ok"].as_str().map(unhex);
        // Its answer is what it read, as a text anew.
        let it = it.map(|text| unarmored(&text)).transpose()?;
        opened += usize::from(we.is_ok());
        if we.as_ref().ok() != it.as_ref() {
            differences.push(format!("text {i}: we say {we:?}, it says {said}: {:?}", String::from_utf8_lossy(&text)));
        }
    }
    assert!(opened > MESSAGES / 100, "{opened}");
    if differences.is_empty() { Ok(()) } else { Err(differences.join("\n").into()) }
}

fn key_strings(reference: &mut Reference) -> Result<(), Failed> {
    let mut rng = TestRng::new(14);
    for i in 0..100 {
        let kem = SUITES[i % SUITES.len()].kem();
        let cmk = cmk(kem, &rng.bytes(32).try_into().unwrap_or_default());
        let ours = cmk.recipient().to_string();
        let said = reference.ask(&json!({ "op": "key", "string": ours }))?;
        let public = hex(cmk.recipient().public_key());
        let mut wanted = json!({ "kind": "recipient", "key": public });
        if kem == Kem::XWing {
            wanted["kem"] = kem.id().into();
        }
        assert_eq!(said["ok"], wanted);
        let theirs = reference.ask(&json!({ "op": "key-string", "kind": "recipient", "key": public, "kem": kem.id() }))?;
        assert_eq!(theirs["ok"], ours);
        let sender = SenderKey::from_ed25519(&rng.bytes(32).try_into().unwrap_or_default());
        let public = hex(sender.verifying_key().as_bytes());
        let said = reference.ask(&json!({ "op": "key", "string": sender.verifying_key().to_string() }))?;
        assert_eq!(said["ok"], json!({ "kind": "sender", "key": public }));
        let theirs = reference.ask(&json!({ "op": "key-string", "kind": "sender", "key": public }))?;
        assert_eq!(theirs["ok"], sender.verifying_key().to_string());
        let said = reference.ask(&json!({ "op": "key", "string": sender.to_text().as_str() }))?;
        let seed: [u8; 32] = unhex(said["ok"]["key"].as_str().ok_or("key")?).try_into().map_err(|_| "32 bytes")?;
        assert_eq!(SenderKey::from_ed25519(&seed).verifying_key(), sender.verifying_key());
        let secret = reference.ask(&json!({ "op": "key", "string": cmk.to_text().as_str() }))?;
        let secret: [u8; 32] = unhex(secret["ok"]["key"].as_str().ok_or("key")?).try_into().map_err(|_| "32 bytes")?;
        assert_eq!(self::cmk(kem, &secret).recipient(), cmk.recipient());
        let mut broken = ours.into_bytes();
        let at = rng.below(broken.len());
        broken[at] = b"qpzry9x8gf2tvdw0s3jn54khce6mua7lQb1io"[rng.below(37)];
        let broken = String::from_utf8(broken)?;
        let said = reference.ask(&json!({ "op": "key", "string": broken }))?;
        assert_eq!(said.get("ok").is_some(), broken.parse::<Recipient>().is_ok(), "{broken}");
    }
    Ok(())
}

fn key_vectors(reference: &mut Reference) -> Result<(), Failed> {
    for kit::keys::KeyString { name, string, passphrase, answer, .. } in kit::keys::all() {
        let said = reference.ask(&json!({ "op": "key", "string": string, "passphrase": passphrase.map(|text| hex(&text)) }))?;
        let again = match said.get("ok") {
            Some(key) => {
                let mut question = key.clone();
                question["op"] = "key-string".into();
                reference.ask(&question)?["ok"].clone()
            }
            None => Value::Null,
        };
        assert_eq!(
            (said["refused"].as_str(), again.as_str()),
            (answer.as_ref().err().copied(), answer.as_deref().ok()),
            "{name}: {said}"
        );
    }
    Ok(())
}

/// What one side protects the other opens, with what people write: 64 MiB, three passes, four lanes.
#[cfg(feature = "passphrase")]
fn protected_keys(reference: &mut Reference) -> Result<(), Failed> {
    use sealwire::keys::{Passphrase, Protected, SecretKey};
    let mut rng = TestRng::new(15);
    for text in ["x", "correct horse battery staple", "p\u{e4}ss\u{1f511} \t", &"z".repeat(1024)] {
        let secret = rng.bytes(32).try_into().unwrap_or_default();
        let (passphrase, pass) = (Passphrase::new(text)?, hex(text.as_bytes()));
        for key in [SecretKey::from(Cmk::from_x25519(&secret)), SenderKey::from_ed25519(&secret).into()] {
            let ours = Protected::new(&key, &passphrase)?.to_string();
            let said = reference.ask(&json!({ "op": "key", "string": ours, "passphrase": pass }))?;
            assert_eq!(said["ok"]["key"], hex(&secret), "{said}");
            let other = reference.ask(&json!({ "op": "key", "string": ours, "passphrase": hex(b"other") }))?;
            assert_eq!(other["refused"], "passphrase");
            let theirs = reference.ask(&json!({ "op": "protect", "string": key.to_text().as_str(), "passphrase": pass }))?;
            let theirs: Protected = theirs["ok"].as_str().ok_or("a string")?.parse()?;
            assert_eq!(theirs.open(&passphrase)?.to_text(), key.to_text());
        }
    }
    Ok(())
}

/// The key service (spec/kms.md, spec/store.md).
#[cfg(all(feature = "kms", feature = "testing", feature = "pq"))]
mod kms {
    use sealwire::kms::{
        Answer, KeyId, LocalService, Request,
        store::{Record, RootKey, Store},
        testing::{decrypt_direct, encrypt_direct, state_again},
    };

    use super::{kit::kms::Entry, *};

    /// Random entries of each kind, and mutants of each.
    const EACH: usize = 300;

    pub fn vectors(reference: &mut Reference) -> Result<(), Failed> {
        for entry in kit::kms::all() {
            let said = match entry.read_as {
                "direct" => it_decrypts(reference, &entry)?,
                "connection" => it_follows(reference, &entry)?,
                read_as => it_reads(reference, read_as, &entry.bytes)?.map_or_else(
                    |refused| refused,
                    |value| if value == entry.more { "opens".into() } else { format!("opens as {value}") },
                ),
            };
            if said != entry.answer {
                return Err(format!("{}: it says {said}, not {}", entry.name, entry.answer).into());
            }
        }
        Ok(())
    }

    /// The fields, which are written again as the same bytes; or why there are none.
    fn it_reads(reference: &mut Reference, read_as: &str, bytes: &[u8]) -> Result<Result<Value, String>, Failed> {
        let op = if read_as == "state" { "kept" } else { read_as };
        let said = reference.ask(&json!({ "op": op, "bytes": hex(bytes) }))?;
        if let Some(refused) = said["refused"].as_str() {
            return Ok(Err(refused.into()));
        }
        assert_eq!(said["ok"]["again"], hex(bytes));
        // From the fields as JSON has them.
        let written = reference.ask(&json!({ "op": format!("write-{op}"), "value": said["ok"]["value"] }))?;
        assert_eq!(written["ok"], hex(bytes));
        Ok(Ok(said["ok"]["value"].clone()))
    }

    fn it_decrypts(reference: &mut Reference, entry: &Entry) -> Result<String, Failed> {
        let (id, key) = ("1d".repeat(16), "11".repeat(32));
        // A key of either kind cannot have one id: the suite tells which is meant.
        let kem = if entry.bytes.get(4) == Some(&3) { 0x647a } else { 0x20 };
        let question = json!({ "op": "decrypt-direct", "bytes": hex(&entry.bytes), "context": entry.more["context"],
            "secrets": [[id, 2, kem, key]] });
        let said = reference.ask(&question)?;
        if let Some(secret) = said["ok"].as_str() {
            assert_eq!(secret, entry.more["secret"]);
        }
        Ok(said["refused"].as_str().unwrap_or("opens").into())
    }

    fn it_follows(reference: &mut Reference, entry: &Entry) -> Result<String, Failed> {
        let mut question = entry.more.clone();
        question["op"] = "connection".into();
        let said = reference.ask(&question)?;
        let (server, client) = (&said["ok"]["server"], &said["ok"]["client"]);
        let count = |side: &Value| side["delivered"].as_array().map_or(0, Vec::len);
        let stranger = said["refused"].is_string();
        assert!(
            stranger || (count(server), count(client)) == (number(&entry.more["requests"]), number(&entry.more["answers"])),
            "{}: {said}",
            entry.name
        );
        let refused = |side: &Value| side["refused"].is_string();
        let at_server = stranger || refused(server);
        Ok(if at_server {
            "server"
        } else if refused(client) {
            "client"
        } else {
            "opens"
        }
        .into())
    }

    fn number(value: &Value) -> usize {
        value.as_u64().map_or(0, |n| n as usize)
    }

    fn we_read(read_as: &str, bytes: &[u8]) -> Result<Option<Value>, String> {
        let refused = |error| told::refused(&error).to_owned();
        match read_as {
            "request" => Request::decode(bytes).map(|request| Some(told::request(&request))).map_err(refused),
            "answer" => Answer::decode(bytes).map(|_| None).map_err(refused),
            _ => state_again(bytes)
                .map(|again| {
                    assert_eq!(*again, bytes);
                    None
                })
                .map_err(refused),
        }
    }

    /// Entries of the kit that open, and mutants of them: the same verdict, for the same reason, with the same fields.
    pub fn both_ways(reference: &mut Reference) -> Result<(), Failed> {
        let mut rng = TestRng::new(31);
        let all = kit::kms::all();
        let mut opened = 0;
        for read_as in ["request", "answer", "state"] {
            let good: Vec<&Entry> = all.iter().filter(|entry| entry.read_as == read_as && entry.answer == "opens").collect();
            for i in 0..EACH {
                let mut bytes = good[i % good.len()].bytes.clone();
                if i >= good.len() {
                    mutate(&mut rng, &mut bytes);
                }
                let (we, it) = (we_read(read_as, &bytes), it_reads(reference, read_as, &bytes)?);
                opened += usize::from(we.is_ok());
                let agree = match (&we, &it) {
                    (Ok(ours), Ok(its)) => ours.as_ref().is_none_or(|ours| ours == its),
                    (Err(ours), Err(its)) => ours == its,
                    _ => false,
                };
                if !agree {
                    return Err(format!("{read_as} {}: we say {we:?}, it says {it:?}", hex(&bytes)).into());
                }
            }
        }
        assert!((EACH / 5..EACH * 2).contains(&opened), "{opened}");
        Ok(())
    }

    /// What one encrypts the other decrypts; a mutant opens for neither.
    pub fn direct(reference: &mut Reference) -> Result<(), Failed> {
        let mut rng = TestRng::new(32);
        for i in 0..EACH / 3 {
            let kem = pick(&mut rng, &[Kem::X25519, Kem::XWing]);
            let (secret, id): ([u8; 32], [u8; 16]) =
                (rng.bytes(32).try_into().unwrap_or_default(), rng.bytes(16).try_into().unwrap_or_default());
            let (version, len) = (rng.next() as u32, pick(&mut rng, &[0, 1, 40, 4096]));
            let (text, context) = (rng.bytes(len), rng.bytes(len % 37));
            let cmk = cmk(kem, &secret);
            let mut bytes = if i % 2 == 0 {
                encrypt_direct(KeyId(id), version, cmk.recipient(), &text, &context)?
            } else {
                let question = json!({ "op": "encrypt-direct", "kem": kem.id(), "public": hex(cmk.recipient().public_key()), "id": hex(&id),
                    "version": version, "context": hex(&context), "secret": hex(&text) });
                unhex(reference.ask(&question)?["ok"].as_str().ok_or("bytes")?)
            };
            let cmks = [cmk];
            for changed in [false, true] {
                if changed {
                    mutate(&mut rng, &mut bytes);
                }
                let we = match decrypt_direct(&bytes, (KeyId(id), version), &cmks, &context) {
                    Ok(Some(opened)) => Ok(opened),
                    Ok(None) => Err("tag".to_owned()),
                    Err(error) => Err(told::refused(&error).to_owned()),
                };
                let question = json!({ "op": "decrypt-direct", "bytes": hex(&bytes), "context": hex(&context),
                    "secrets": [[hex(&id), version, kem.id(), hex(&secret)]] });
                let said = reference.ask(&question)?;
                let it = said["ok"].as_str().map(unhex).ok_or_else(|| said["refused"].as_str().unwrap_or("?").to_owned());
                assert_eq!(we, it, "secret {i}: {said}");
                assert!(changed || we.as_ref() == Ok(&text), "secret {i}");
            }
        }
        Ok(())
    }

    struct Kept {
        state: Vec<u8>,
        files: Vec<Vec<u8>>,
    }

    impl Kept {
        fn read(folder: &Path) -> Result<Self, Failed> {
            let mut names: Vec<_> =
                std::fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
            names.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
            // audit.000001.log stands before audit.log.
            names.sort();
            Ok(Self {
                state: std::fs::read(folder.join("state"))?,
                files: names.iter().map(std::fs::read).collect::<Result<_, _>>()?,
            })
        }

        fn it_says(&self, reference: &mut Reference, root: &Value) -> Result<Value, Failed> {
            let files: Vec<_> = self.files.iter().map(|file| hex(file)).collect();
            let mut question = json!({ "op": "store", "state": hex(&self.state), "files": files });
            if let (Some(question), Value::Object(root)) = (question.as_object_mut(), root.clone()) {
                question.extend(root);
            }
            reference.ask(&question)
        }

        fn write(&self, folder: &Path) -> Result<(), Failed> {
            std::fs::write(folder.join("state"), &self.state)?;
            let last = self.files.len() - 1;
            for (i, file) in self.files.iter().enumerate() {
                let name = if i == last { "audit.log".into() } else { format!("audit.{:06}.log", i + 1) };
                std::fs::write(folder.join(name), file)?;
            }
            Ok(())
        }
    }

    /// A store that we wrote: it opens the state, reads it, and follows the log through its files; of one that was changed both say the same.
    pub fn stores(reference: &mut Reference) -> Result<(), Failed> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("kms");
        let cmk = Cmk::from_x25519(&[0x21; 32]);
        let (root, key) = (RootKey::from_cmk(&cmk), json!({ "key": cmk.to_text().as_str() }));
        let hidden: String =
            ('\0'..'\u{a0}').chain("\u{61c}\u{200b}\u{2029}\u{202e}\u{2066}\u{feff}\u{e4}\u{1f511}".chars()).collect();
        let (store, _) = {
            drop(LocalService::create(&path, &root)?);
            Store::open(&path, &root)?
        };
        for i in 0..6 {
            let key = (i % 2 == 0).then(|| hidden.clone());
            let record = Record { at: i, caller: hidden.clone(), action: "look".into(), key, result: "\"\\/".into() };
            store.log(&record)?;
            if i == 3 {
                store.rotate()?;
            }
        }
        drop(store);
        let service = LocalService::open(&path, &root)?;
        for i in 0..3 {
            service.ask(
                sealwire::kms::Caller::Owner,
                Request::CreateKey { kem: Kem::X25519, alias: Some(format!("k{i}").parse()?) },
            )?;
        }
        drop(service);
        let kept = Kept::read(&path)?;
        let said = kept.it_says(reference, &key)?;
        assert_eq!((&said["ok"]["records"], &said["ok"]["torn"]), (&9.into(), &false.into()), "{said}");
        assert_eq!(kept.files.len(), 2);
        let state = it_reads(reference, "state", &unhex(said["ok"]["state"].as_str().ok_or("a state")?))?;
        assert_eq!(state?["aliases"].as_array().map(Vec::len), Some(3));
        let other = kept.it_says(reference, &json!({ "key": Cmk::from_x25519(&[0x22; 32]).to_text().as_str() }))?;
        assert_eq!(other["refused"], "root");
        let (mut rng, mut refusals) = (TestRng::new(33), 0);
        for i in 0..EACH / 2 {
            let mut changed = Kept { state: kept.state.clone(), files: kept.files.clone() };
            match rng.below(4) {
                0 => mutate(&mut rng, &mut changed.state),
                1 => mutate(&mut rng, &mut changed.files[0]),
                2 => mutate(&mut rng, &mut changed.files[1]),
                _ => {
                    // A log that ends early, at a line or in one.
                    let file = &mut changed.files[1];
                    let ends: Vec<_> = (0..file.len()).filter(|i| file[*i] == b'\n').map(|i| i + 1).collect();
                    file.truncate(pick(&mut rng, &ends) + rng.below(2) * rng.below(9));
                    file.truncate(kept.files[1].len());
                }
            }
            let folder = tempfile::tempdir()?;
            changed.write(folder.path())?;
            let we = sealwire::kms::store::verify(folder.path(), &root);
            let it = changed.it_says(reference, &key)?;
            refusals += usize::from(we.is_err());
            if we.is_ok() != it.get("ok").is_some() {
                return Err(format!("store {i}: we say {we:?}, it says {it}").into());
            }
        }
        assert!(refusals > EACH / 4, "{refusals}");
        Ok(())
    }
}
