//! The whole thing on this machine: two processes, an attacker between them, and numbers measured in this run.

mod attack;
mod measure;
mod process;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    Failure,
    args::DemoArgs,
    cleanup::Doomed,
    fail::{Code, print_line, show},
    inspect::hex,
    report::bytes,
};
use crate::{
    crypto::backend::sha256,
    keys::{Cmk, SenderKey, cmk_to_key_file, sender_key_to_key_file},
    open::Standing,
    wire::{Limits, inspect, len64},
};
use attack::{Attack, Outcome};
use process::{Listen, Sent, send};

/// What is sent when no file is given: so many files of so many bytes.
const FILES: usize = 64;
const FILE_LEN: usize = 1 << 20;
/// A file that is given is held in memory.
const LARGEST: u64 = 16 << 20;

/// A folder with keys and files, gone when the demo ends.
pub(super) struct Stage {
    folder: TempDir,
    _doomed: Doomed,
    recipient: String,
    sender: String,
}

impl Stage {
    fn new() -> Result<Self, Failure> {
        let made = Doomed::make(|| TempDir::with_prefix("sealwire-demo-"), TempDir::path);
        let (folder, doomed) = made.map_err(|error| Failure::io("a temporary folder", &error))?;
        let stage = Self { recipient: String::new(), sender: String::new(), folder, _doomed: doomed };
        let recipient = stage.make_key("alice.key")?;
        stage.make_key("mallory.key")?;
        let bob = SenderKey::generate()?;
        stage.write("bob.key", sender_key_to_key_file(&bob, "now").as_bytes())?;
        Ok(Self { recipient, sender: bob.verifying_key().to_string(), ..stage })
    }

    fn make_key(&self, name: &str) -> Result<String, Failure> {
        let cmk = Cmk::generate()?;
        self.write(name, cmk_to_key_file(&cmk, "now").as_bytes())?;
        Ok(cmk.recipient().to_string())
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn recipient(&self) -> &str {
        &self.recipient
    }

    pub(super) fn sender(&self) -> &str {
        &self.sender
    }

    pub(super) fn write(&self, name: &str, content: &[u8]) -> Result<PathBuf, Failure> {
        let path = self.path(name);
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let written = options.open(&path).and_then(|mut file| std::io::Write::write_all(&mut file, content));
        written.map_err(|error| Failure::io(show(&path), &error))?;
        Ok(path)
    }
}

pub(super) fn run(args: &DemoArgs) -> Result<(), Failure> {
    let started = Instant::now();
    let stage = Stage::new()?;
    let files = inputs(&stage, args.file.as_deref())?;
    let transfer = Transfer::run(&stage, &files)?;
    let outcomes = Attack::ALL.map(|attack| attack.run(&stage));
    let costs = measure::costs()?;
    let seconds = started.elapsed().as_secs_f64();
    if args.json {
        print_line(&format!("{:#}", report_json(&stage, &transfer, &outcomes, &costs, seconds)))?;
    } else {
        print_line(report_text(&stage, args, &transfer, &outcomes, &costs, seconds)?.trim_end())?;
    }
    match outcomes.iter().find(|outcome| !outcome.is_refused()) {
        Some(outcome) => Err(Failure::new(Code::CannotOpen, format!("the attack \"{}\" was not refused", outcome.name))),
        None if !transfer.equal => Err(Failure::new(Code::CannotOpen, "what arrived is not what was sent")),
        None => Ok(()),
    }
}

fn inputs(stage: &Stage, file: Option<&Path>) -> Result<Vec<PathBuf>, Failure> {
    if let Some(path) = file {
        let meta = fs::metadata(path).map_err(|error| Failure::io(show(path), &error))?;
        if !meta.is_file() {
            return Err(Failure::usage(format!("{} is no file", show(path))));
        }
        if meta.len() > LARGEST {
            return Err(Failure::usage(format!("{} is larger than the {} that a demo takes", show(path), bytes(LARGEST))));
        }
        return Ok(vec![path.to_owned()]);
    }
    let mut content: Vec<u8> = (0..FILE_LEN).map(|i| (i % 251) as u8).collect();
    (0..FILES)
        .map(|i| {
            content[..8].copy_from_slice(&len64(i).to_be_bytes());
            stage.write(&format!("file-{i:02}"), &content)
        })
        .collect()
}

/// Files sent from one process to another.
struct Transfer {
    files: usize,
    sent: Sent,
    listener_peak: u64,
    equal: bool,
    hash: String,
    standing: String,
}

impl Transfer {
    fn run(stage: &Stage, files: &[PathBuf]) -> Result<Self, Failure> {
        let out = stage.path("inbox");
        let listen = Listen::start(stage, &stage.path("alice.key"), &out)?;
        let sent = send(stage, &listen.address, files)?;
        // A sender that failed may never have connected: the listener is not waited for.
        if let Some(problem) = sent.problem {
            return Err(Failure::new(Code::Io, problem));
        }
        let served = listen.finish()?;
        if let Some(problem) = served.problem {
            return Err(Failure::new(Code::Io, problem));
        }
        let (here, there) = (hash_all(files)?, hash_all(&arrived(&out, files))?);
        Ok(Self {
            files: files.len(),
            sent,
            listener_peak: served.peak_memory,
            equal: here == there,
            hash: hex(&here[..8]),
            standing: served.standing,
        })
    }
}

fn arrived(out: &Path, files: &[PathBuf]) -> Vec<PathBuf> {
    files
        .iter()
        .map(|path| out.join(&*crate::transfer::safe_name(&path.file_name().unwrap_or_default().to_string_lossy())))
        .collect()
}

/// SHA-256 over the SHA-256 of each file.
fn hash_all(files: &[PathBuf]) -> Result<[u8; 32], Failure> {
    let each = files.iter().map(|path| {
        let content = fs::read(path).map_err(|error| Failure::io(show(path), &error))?;
        Ok(sha256(&[&content]))
    });
    let each = each.collect::<Result<Vec<_>, Failure>>()?;
    Ok(sha256(&each.iter().map(|hash| &hash[..]).collect::<Vec<_>>()))
}

fn report_json(stage: &Stage, transfer: &Transfer, outcomes: &[Outcome], costs: &[measure::Cost], seconds: f64) -> Value {
    json!({
        "attacks": outcomes.iter().map(|outcome| json!({
            "name": outcome.name, "refused": outcome.is_refused(), "refusal": outcome.refusal, "bytes_released": outcome.released,
            "sender_exit": outcome.sender_exit,
        })).collect::<Vec<_>>(),
        "messages_of_64_bytes": costs.iter().map(|cost| json!({
            "kind": cost.kind, "seal_us": cost.seal_us, "open_us": cost.open_us, "bytes_over_payload": cost.overhead,
        })).collect::<Vec<_>>(),
        "transfer": {
            "files": transfer.files, "bytes": transfer.sent.bytes, "seconds": transfer.sent.seconds,
            "sender_peak_memory": transfer.sent.peak_memory, "listener_peak_memory": transfer.listener_peak, "hashes_equal": transfer.equal, "sender": stage.sender(), "standing": transfer.standing,
        },
        "seconds": seconds,
    })
}

fn report_text(
    stage: &Stage,
    args: &DemoArgs,
    transfer: &Transfer,
    outcomes: &[Outcome],
    costs: &[measure::Cost],
    seconds: f64,
) -> Result<String, Failure> {
    let what = args.file.as_deref().map_or_else(|| "hello.txt".into(), show);
    let mut lines = vec![
        "Commands: the listener has the CMK and knows its sender; the sender has the CMK's public half".to_owned(),
        "  sealwire keygen -o alice.key > alice.pub".to_owned(),
        "  sealwire keygen --sender -o bob.key > bob.sender".to_owned(),
        "  sealwire listen --on 127.0.0.1:7300 -k alice.key --from bob.sender --out inbox &".to_owned(),
        "  echo hello > hello.txt".to_owned(),
        format!("  sealwire send --to 127.0.0.1:7300 -R alice.pub --sign-with bob.key {what}"),
    ];
    lines.extend(anatomy(stage)?);
    lines.push("Five attacks on the connection between the two processes".to_owned());
    lines.extend(outcomes.iter().map(|outcome| {
        let verdict = if outcome.is_refused() { "refused" } else { "PASSED" };
        format!("  {:<12} {verdict}, {} bytes released: {}", outcome.name, outcome.released, outcome.refusal)
    }));
    lines.push(format!("{:<38} {:>9} {:>9} {:>15}", "64-byte messages, one at a time", "seal", "open", "over payload"));
    lines.extend(
        costs.iter().map(|cost| {
            format!("  {:<36} {:>6.1} µs {:>6.1} µs {:>9} bytes", cost.kind, cost.seal_us, cost.open_us, cost.overhead)
        }),
    );
    let Sent { bytes: sent, seconds: took, peak_memory, .. } = &transfer.sent;
    let equal = if transfer.equal { "equal" } else { "DIFFERENT" };
    lines.push(format!(
        "Sent {} in {} files over TCP in {took:.2} s, each on the disk before it was acknowledged",
        bytes(*sent),
        transfer.files
    ));
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = *sent as f64 / took / 1e6;
    lines.push(format!(
        "  {rate:.0} MB/s; peak memory: sender {}, listener {}",
        bytes(*peak_memory),
        bytes(transfer.listener_peak)
    ));
    lines.push(format!("  SHA-256 of what was sent and of what arrived: {equal} ({}…)", transfer.hash));
    let words = transfer.standing.parse().map_or("", Standing::in_words);
    lines.push(format!("  Signed by {}…, {}: {words}", stage.sender().get(..16).unwrap_or_default(), transfer.standing));
    lines.push(format!("All of it took {seconds:.1} s."));
    Ok(lines.join("\n") + "\n")
}

/// An envelope and a follow-up, byte by byte, and what they tell an observer.
fn anatomy(stage: &Stage) -> Result<Vec<String>, Failure> {
    let recorded = measure::recording(stage.recipient())?;
    let messages = inspect::Inspector::new(&recorded, &Limits::default()).collect::<Result<Vec<_>, _>>()?;
    let mut lines = Vec::new();
    for (message, title) in
        messages.iter().zip(["One envelope: 64 bytes of payload", "A follow-up on the same channel: 64 bytes of payload"])
    {
        lines.push(format!("{title}, {} on the wire", message.len));
        lines.extend(groups(&message.parts).iter().map(|group| format!("  {group}")));
    }
    lines.push(
        "An observer sees: when the DEK was made, how many recipients, the context, lengths, which messages share a DEK.".into(),
    );
    lines.push(
        "He does not see: the payload, who sent it, or (with rotating hints, unless he holds a list of keys) for whom.".into(),
    );
    Ok(lines)
}

/// Fields gathered to lines: fixed ones of a part together, so that a person can read it.
fn groups(parts: &[inspect::Part<'_>]) -> Vec<String> {
    let mut lines: Vec<(u64, Vec<&str>, String)> = Vec::new();
    for part in parts {
        let starts = matches!(&*part.name, "magic" | "created_at" | "enc" | "header_mac" | "seq" | "type")
            || ["].hint", "].prefix"].iter().any(|end| part.name.ends_with(end));
        if starts || lines.is_empty() {
            lines.push((part.offset, Vec::new(), String::new()));
        }
        if let Some((_, names, shown)) = lines.last_mut() {
            names.push(&part.name);
            *shown += &hex(part.bytes);
        }
    }
    let base = lines.first().map_or(0, |(offset, ..)| *offset);
    let line = |(offset, names, shown): &(u64, Vec<&str>, String)| {
        let dots = if shown.len() > 26 { "…" } else { "" };
        format!("{:>4} {:<27} {}", offset - base, format!("{}{dots}", shown.get(..26).unwrap_or(shown)), names.join(", "))
    };
    lines.iter().map(line).collect()
}
