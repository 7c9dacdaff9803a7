//! The second implementation (spec/reference, Python) and this one, on the same messages: the same accept or refuse, and the
//! same bytes. Ignored, and said so, where Python or its `cryptography` is missing; `tests/run` installs them.

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use bytes::BytesMut;
use kit::TestRng;
use libtest_mimic::{Arguments, Failed, Trial};
use sealwire::{
    ChannelOpener, ChannelSealer, Cmk, HintMode, OpenError, Opened, Opener, ParseError, Policy, PolicyError, Recipient, Reuse,
    Rewrap, Role, Sealer, SenderKey, Senders, VerifyingKey,
};
use serde_json::{Value, json};

mod kit;

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
        trial("key strings", key_strings),
    ];
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

/// One message or channel under test.
struct Case {
    bytes: Vec<u8>,
    secrets: Vec<[u8; 32]>,
    binding: Vec<u8>,
    /// Our role where it is a channel.
    role: Option<Role>,
    senders: Listed,
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Initiator => "initiator",
        Role::Acceptor => "acceptor",
    }
}

impl Case {
    fn copy(&self) -> Self {
        let Self { bytes, secrets, binding, senders, role } = self;
        Self { bytes: bytes.clone(), secrets: secrets.clone(), binding: binding.clone(), senders: senders.clone(), role: *role }
    }

    fn we_say(&self) -> Said {
        let senders = self.senders.as_ref().map(|(keys, accept)| {
            let keys = keys.iter().filter_map(|key| VerifyingKey::from_ed25519(*key).ok());
            accept.iter().filter_map(|name| name.parse().ok()).fold(Senders::new(keys), Senders::also)
        });
        let policy = Policy { binding: self.binding.clone(), senders, ..Policy::default() };
        let opener = Opener::builder(self.secrets.iter().map(Cmk::from_x25519).collect()).policy(policy).build();
        let part = |opened: Opened| {
            let sender = sender_name(&opened.sender.standing().to_string(), opened.sender.key().map(|key| hex(key.as_bytes())));
            (opened.context.to_vec(), opened.payload.to_vec(), sender)
        };
        let Some(role) = self.role else {
            return match opener.open(&self.bytes) {
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
            kit::scenarios::Way::Envelope => None,
            kit::scenarios::Way::Acceptor => Some(Role::Acceptor),
            kit::scenarios::Way::Initiator => Some(Role::Initiator),
        };
        let (bytes, secrets, binding, senders) = (scenario.bytes, scenario.keys, scenario.binding, scenario.senders);
        let case = Case { bytes, secrets, binding, role, senders };
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
        Self {
            signs: if role.is_some() && signs == Signs::Message { Signs::Dek } else { signs },
            seed,
            listed: (rng.below(3) == 0).then(|| (vec![key], pick(rng, &[&[][..], &["group"], &["signed-rewrapped"]]).to_vec())),
            reader: secrets[rng.below(n)],
            secrets,
            hints: pick(rng, &[HintMode::None, HintMode::Rotating, HintMode::Static]),
            own: rng.below(3) == 0,
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
        let to = self.secrets.iter().map(|secret| Cmk::from_x25519(secret).recipient().clone());
        let builder = Sealer::builder().to_all(to).hints(self.hints).enc_per_slot(self.own).pad(self.pad).segment_log2(self.log2);
        let builder = builder.binding(self.binding.clone()).reuse(Reuse { messages: reuse, ..Reuse::default() });
        let key = SenderKey::from_ed25519(&self.seed);
        Ok(match self.signs {
            Signs::Nothing => builder,
            Signs::Dek => builder.sign_with(key),
            Signs::Message => builder.sign_messages_with(key),
        }
        .build()?)
    }

    fn case(&self, bytes: Vec<u8>) -> Case {
        Case { bytes, secrets: vec![self.reader], binding: self.binding.clone(), role: self.role, senders: None }
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
        let to: Vec<_> = self.secrets.iter().map(|secret| hex(Cmk::from_x25519(secret).recipient().public_key())).collect();
        let hints = format!("{:?}", self.hints).to_lowercase();
        let mut question = json!({
            "to": to, "hints": hints, "enc_per_slot": self.own, "segment_log2": self.log2, "suite": 1, "binding": hex(&self.binding),
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
        let recipient = |secret: &[u8; 32]| Cmk::from_x25519(secret).recipient().clone();
        let public = |secrets: &[[u8; 32]]| secrets.iter().map(|s| hex(recipient(s).public_key())).collect::<Vec<_>>();
        let mut change = Rewrap::new();
        change = add.iter().fold(change, |change, secret| change.to(recipient(secret)));
        change = remove.iter().fold(change, |change, secret| change.without(recipient(secret)));
        change = if replace_all { change.replace_all() } else { change };
        change = if weaken { change.weaken_proof() } else { change };
        let ours = change.block(block, &[dice.reader].iter().map(Cmk::from_x25519).collect());
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

fn key_strings(reference: &mut Reference) -> Result<(), Failed> {
    let mut rng = TestRng::new(14);
    for _ in 0..100 {
        let cmk = Cmk::from_x25519(&rng.bytes(32).try_into().unwrap_or_default());
        let ours = cmk.recipient().to_string();
        let said = reference.ask(&json!({ "op": "key", "string": ours }))?;
        assert_eq!(said["ok"], json!({ "kind": "recipient", "key": hex(cmk.recipient().public_key()) }));
        let theirs =
            reference.ask(&json!({ "op": "key-string", "kind": "recipient", "key": hex(cmk.recipient().public_key()) }))?;
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
        assert_eq!(Cmk::from_x25519(&secret).recipient(), cmk.recipient());
        let mut broken = ours.into_bytes();
        let at = rng.below(broken.len());
        broken[at] = b"qpzry9x8gf2tvdw0s3jn54khce6mua7lQb1io"[rng.below(37)];
        let broken = String::from_utf8(broken)?;
        let said = reference.ask(&json!({ "op": "key", "string": broken }))?;
        assert_eq!(said.get("ok").is_some(), broken.parse::<Recipient>().is_ok(), "{broken}");
    }
    Ok(())
}
