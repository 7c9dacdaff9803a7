use std::{fmt, path::PathBuf, str::FromStr};

use clap::{Parser, Subcommand, ValueEnum};

use crate::{
    keys::Recipient,
    open::Standing,
    wire::{HintMode, Kem, Suite},
};

const EXIT_CODES: &str = "Exit codes:
  0  done
  2  usage: arguments, a key file that is none, or a wrong passphrase
  3  no matching key
  4  cannot be opened: changed, moved, or refused by a policy
  5  truncated
  6  malformed, unsupported, or over a limit
  7  input or output failed
  128 and its number: a signal; what was not whole is gone

Files appear under their names when they are whole. What kill -9 leaves is called .sealwire-*.part, beside the file that
was to be, and can be deleted.";

const REWRAP_HELP: &str = "Examples:
  sealwire rewrap -k alice.key --add bob.pub report.swe
  sealwire rewrap -k alice.key --remove bob.pub --add carol.pub -o new.swe report.swe
  sealwire rewrap -k old.key --replace-all --add new.pub headers/*

Whoever is removed keeps what he has read, and the DEK: an old copy of the envelope, or of its DEK block, still
opens for him, and so does the same file under another name (a hard link). To shut somebody out of what is to come,
seal anew.";

const PASSPHRASE_HELP: &str = "Examples:
  sealwire passphrase alice.key
  sealwire passphrase --passphrase-file old --new-passphrase-file new alice.key
  sealwire passphrase --remove alice.key

The file is replaced when the new one is whole and was read again. Copies that were made before,
hard links too, open with what they had. A key in a PEM document, or one of age's, becomes a string
of sealwire.";

/// Encrypted envelopes: seal to a public key, open with its key file, send over TCP.
#[derive(Debug, Parser)]
#[command(name = "sealwire", version, max_term_width = 100, after_help = EXIT_CODES)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a CMK, or a sender's key: write its key file, print its public half
    #[command(
        after_help = "Examples:\n  sealwire keygen -o alice.key > alice.pub\n  sealwire keygen --passphrase -o alice.key > alice.pub\n  sealwire keygen --pq -o alice-pq.key > alice-pq.pub\n  sealwire keygen --sender -o me.key > me.sender"
    )]
    Keygen(KeygenArgs),
    /// Put the key of a key file under a passphrase, under another, or under none
    #[command(after_help = PASSPHRASE_HELP)]
    Passphrase(PassphraseArgs),
    /// Print the public half of a key file: its recipient, or its sender
    #[command(after_help = "Example:\n  sealwire recipient alice.key\n  sealwire recipient --fingerprint alice.key")]
    Recipient(RecipientArgs),
    /// Seal a payload of any size to recipients
    #[command(
        after_help = "Examples:\n  sealwire seal -R alice.pub -o report.swe report.pdf\n  tar c folder | sealwire seal -R alice.pub > folder.swe\n  sealwire seal -R alice.pub --armor order.txt\n  sealwire seal -R alice.pub --detached image.block -o image.swe image.raw\n  tail -n 100 app.log | sealwire seal -R alice.pub --channel > log.swe"
    )]
    Seal(SealArgs),
    /// Open an envelope
    #[command(
        after_help = "Examples:\n  sealwire open -k alice.key -o report.pdf report.swe\n  sealwire open -k alice.key --check report.swe\n  sealwire open -k alice.key --range 1GiB..1025MiB image.swe | xxd\n  sealwire open -k alice.key --detached image.block -o image.raw image.swe\n  sealwire open --dek <(sealwire kms decrypt-data-key --store keys report.swe) -o report.pdf report.swe\n\nTo a pipe, what is authentic goes out as it comes; if the end never does, the exit code is 5. --buffer holds it back."
    )]
    Open(OpenArgs),
    /// Change who can read envelopes, without touching their data
    #[command(after_help = REWRAP_HELP)]
    Rewrap(RewrapArgs),
    /// Show every field of an envelope or of a recorded channel, without a key
    #[command(after_help = "Example:\n  sealwire inspect report.swe")]
    Inspect(InspectArgs),
    /// Receive what `send` sends
    #[command(
        after_help = "Examples:\n  sealwire listen --on 0.0.0.0:7300 -k alice.key --out inbox\n  sealwire listen --on 127.0.0.1:7300 -k alice.key --out - --once"
    )]
    Listen(ListenArgs),
    /// Send files, or lines, to a listener; exit 0 only when everything is acknowledged (by a holder of one of the recipients)
    #[command(
        after_help = "Examples:\n  sealwire send --to alice.example:7300 -R alice.pub report.pdf\n  tail -f app.log | sealwire send --to alice.example:7300 -R alice.pub --lines -"
    )]
    Send(SendArgs),
    /// A key service: CMKs that never leave it
    #[command(after_help = super::kms::KMS_HELP)]
    Kms(Box<super::kms::KmsArgs>),
    /// Show the whole thing on this machine, with five attacks
    #[command(after_help = "Examples:\n  sealwire demo\n  sealwire demo --json report.pdf")]
    Demo(DemoArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct KeygenArgs {
    /// The key file to write, 0600; never over an existing one
    #[arg(short, long, value_name = "FILE", default_value = "sealwire.key")]
    pub(crate) output: PathBuf,
    /// Make a sender's key (Ed25519), which signs and opens nothing
    #[arg(long)]
    pub(crate) sender: bool,
    /// Make a post-quantum CMK (X-Wing: ML-KEM-768 and X25519), whose recipient is 1,959 characters long
    #[arg(long, conflicts_with = "sender")]
    pub(crate) pq: bool,
    /// Put the key under a passphrase, which is asked for on the terminal; the options that name one do so too
    #[arg(long)]
    pub(crate) passphrase: bool,
    #[command(flatten)]
    pub(crate) passphrase_from: PassphraseFrom,
}

/// Where the passphrase of protected key files comes from.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct PassphraseFrom {
    /// Read the passphrase of protected key files from a file, instead of asking on the terminal
    #[arg(long, value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// Read it from an open descriptor: a pipe up to its end, a file from its start
    #[arg(long, value_name = "N", conflicts_with = "passphrase_file")]
    pub(crate) passphrase_fd: Option<u16>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct PassphraseArgs {
    /// The key file, which is replaced
    pub(crate) keyfile: PathBuf,
    /// Leave the key without a passphrase
    #[arg(long)]
    pub(crate) remove: bool,
    #[command(flatten)]
    pub(crate) from: PassphraseFrom,
    /// Read the new passphrase from a file
    #[arg(long, value_name = "FILE", conflicts_with = "remove")]
    pub(crate) new_passphrase_file: Option<PathBuf>,
    /// Read it from an open descriptor: a pipe up to its end, a file from its start
    #[arg(long, value_name = "N", conflicts_with_all = ["remove", "new_passphrase_file"])]
    pub(crate) new_passphrase_fd: Option<u16>,
}

impl PassphraseArgs {
    /// Where the new passphrase comes from.
    pub(crate) fn new_from(&self) -> PassphraseFrom {
        PassphraseFrom { passphrase_file: self.new_passphrase_file.clone(), passphrase_fd: self.new_passphrase_fd }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct RecipientArgs {
    /// A key file
    pub(crate) keyfile: PathBuf,
    /// Print the fingerprint, to be compared aloud
    #[arg(long)]
    pub(crate) fingerprint: bool,
    #[command(flatten)]
    pub(crate) passphrase: PassphraseFrom,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = true)]
pub(crate) struct Recipients {
    /// A recipient (swr1…, or age1…); several may be given
    #[arg(short = 'r', long = "recipient", value_name = "RECIPIENT")]
    pub(crate) recipients: Vec<String>,
    /// A file of recipients: one a line, or one SPKI PEM document
    #[arg(short = 'R', long = "recipients-file", value_name = "FILE")]
    pub(crate) lists: Vec<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Hints {
    /// No hints: receivers try every key they have
    None,
    /// Another hint in every envelope
    Rotating,
    /// The same hint in every envelope: found at once, and linkable
    Static,
}

impl std::convert::From<Hints> for HintMode {
    fn from(hints: Hints) -> Self {
        match hints {
            Hints::None => Self::None,
            Hints::Rotating => Self::Rotating,
            Hints::Static => Self::Static,
        }
    }
}

/// KEM, KDF and AEAD.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SuiteChoice {
    /// For these recipients, the one that this processor seals with faster; 1 or 3 where the size is not known to fit 2 or 4
    Auto,
    /// X25519, HKDF-SHA256, ChaCha20-Poly1305
    #[value(name = "1")]
    One,
    /// X25519, HKDF-SHA256, AES-256-GCM: payloads of up to 256 GiB
    #[value(name = "2")]
    Two,
    /// X-Wing, HKDF-SHA256, ChaCha20-Poly1305, for post-quantum recipients
    #[value(name = "3")]
    Three,
    /// X-Wing, HKDF-SHA256, AES-256-GCM, for post-quantum recipients: payloads of up to 256 GiB
    #[value(name = "4")]
    Four,
}

impl SuiteChoice {
    /// For these recipients, and messages of at most so many bytes where that is known.
    pub(crate) fn for_messages_of(self, len: Option<u64>, to: &[Recipient]) -> Suite {
        let kem = to.first().map_or(Kem::X25519, Recipient::kem);
        let fastest = Suite::fastest;
        match self {
            Self::One => Suite::X25519ChaCha20Poly1305,
            Self::Two => Suite::X25519Aes256Gcm,
            Self::Three => Suite::XWingChaCha20Poly1305,
            Self::Four => Suite::XWingAes256Gcm,
            // A little less than the limit: padding counts too.
            Self::Auto if len.is_some_and(|len| len <= fastest().longest_message() / 2) => fastest().with_kem(kem),
            Self::Auto => Suite::X25519ChaCha20Poly1305.with_kem(kem),
        }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct SealArgs {
    #[command(flatten)]
    pub(crate) to: Recipients,
    /// Seal under the data key that `kms generate-data-key` prints, read from a pipe, to the CMK that it names; and to recipients, too
    #[arg(long, value_name = "PIPE", group = "Recipients")]
    pub(crate) dek: Option<PathBuf>,
    /// Which ciphers
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) suite: SuiteChoice,
    /// Public text that is authenticated with the payload
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) context: String,
    /// How receivers find their slot
    #[arg(long, value_enum, default_value = "rotating")]
    pub(crate) hints: Hints,
    /// Hide the exact length (Padmé)
    #[arg(long)]
    pub(crate) pad: bool,
    /// Plaintext bytes of a segment, a power of two: 4KiB to 16MiB
    #[arg(long, value_name = "SIZE", default_value = "64KiB", value_parser = segment_log2)]
    pub(crate) segment_size: u8,
    /// Give every slot an ephemeral key of its own
    #[arg(long)]
    pub(crate) enc_per_slot: bool,
    /// Seal each line of the input as a message of one channel
    #[arg(long)]
    pub(crate) channel: bool,
    /// Sign the message with a sender's key file; with --channel the DEK
    #[arg(long, value_name = "KEYFILE")]
    pub(crate) sign_with: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) passphrase: PassphraseFrom,
    /// Write text, for mail, JSON and environment variables; `open` recognises it
    #[arg(short, long, conflicts_with_all = ["channel", "detached"])]
    pub(crate) armor: bool,
    /// Write the DEK block to a file of its own, for a column of a database or an object's metadata
    #[arg(long, value_name = "HEADER", conflicts_with = "channel")]
    pub(crate) detached: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    /// The payload; standard input when absent or -
    #[arg(value_name = "IN", default_value = "-")]
    pub(crate) input: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(crate) struct OutputArgs {
    /// Where to write; standard output when absent or -
    #[arg(short, long, value_name = "OUT")]
    pub(crate) output: Option<PathBuf>,
    /// Replace an existing file
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Keys {
    /// A key file; several may be given
    #[arg(short = 'k', long = "key", value_name = "KEYFILE", required = true)]
    pub(crate) keys: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) passphrase: PassphraseFrom,
}

/// What opens: key files, a key service, or both, when keys that are at hand are tried first; or a DEK that is at hand itself.
#[derive(Debug, clap::Args)]
pub(crate) struct OpenKeys {
    /// A key file; several may be given
    #[arg(short = 'k', long = "key", value_name = "KEYFILE", required_unless_present_any = ["dek", "kms_store", "kms_server"])]
    pub(crate) keys: Vec<PathBuf>,
    /// Open with the data key that `kms decrypt-data-key` prints of it, read from a pipe, and with nothing else
    #[arg(long, value_name = "PIPE", conflicts_with_all = ["keys", "kms_store", "kms_server"])]
    pub(crate) dek: Option<PathBuf>,
    /// Have the DEK unwrapped by the store in this folder
    #[arg(long, value_name = "DIR", conflicts_with = "kms_server")]
    pub(crate) kms_store: Option<PathBuf>,
    /// The key file that the store is under; a passphrase where there is none
    #[arg(long, value_name = "KEYFILE", requires = "kms_store")]
    pub(crate) root_key_file: Option<PathBuf>,
    /// The same from the system's keyring, by its name there; kernel:NAME in that of the Linux kernel
    #[arg(long, value_name = "NAME", requires = "kms_store", conflicts_with = "root_key_file")]
    pub(crate) root_keyring: Option<super::kms::RootKeyring>,
    /// Have the DEK unwrapped by this server, host:port or unix:/path; several may be given
    #[arg(long, value_name = "ADDR", requires = "server_identity", requires = "as")]
    pub(crate) kms_server: Vec<String>,
    /// The public half of the server's identity, a file
    #[arg(long, value_name = "FILE")]
    pub(crate) server_identity: Option<PathBuf>,
    /// Your sender's key file, by which the server knows you
    #[arg(long = "as", id = "as", value_name = "KEYFILE")]
    pub(crate) me: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) passphrase: PassphraseFrom,
}

impl OpenKeys {
    /// The files that hold secrets.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let state = self.kms_store.as_deref().map(super::kms::state_in);
        self.keys.iter().chain(&self.root_key_file).chain(&self.me).cloned().chain(state).collect()
    }
}

/// Whose messages are opened.
#[derive(Debug, clap::Args)]
pub(crate) struct From {
    /// Open messages of this sender only: sws1…, or a file of senders; several may be given
    #[arg(long = "from", value_name = "SENDER")]
    pub(crate) senders: Vec<String>,
    /// With --from, open also what is: group, origin, signed-rewrapped or anonymous
    #[arg(long = "accept", value_name = "STANDING", requires = "senders")]
    pub(crate) accept: Vec<Standing>,
}

impl From {
    /// What may be names of files.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        self.senders.iter().map(PathBuf::from).collect()
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct RewrapArgs {
    #[command(flatten)]
    pub(crate) keys: Keys,
    /// Add a recipient: swr1…, or a file of recipients; several may be given
    #[arg(long, value_name = "RECIPIENT")]
    pub(crate) add: Vec<String>,
    /// Remove a recipient
    #[arg(long, value_name = "RECIPIENT")]
    pub(crate) remove: Vec<String>,
    /// Remove all who are there; those that are added take their place
    #[arg(long, conflicts_with = "remove", requires = "add")]
    pub(crate) replace_all: bool,
    /// Add readers also where the sender signed only the DEK: any of them could then write as if the sender had begun it
    #[arg(long)]
    pub(crate) weaken_proof: bool,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    /// Envelopes, or DEK blocks kept apart from their data; rewritten in place without -o; - is a pipe
    #[arg(value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct OpenArgs {
    #[command(flatten)]
    pub(crate) keys: OpenKeys,
    #[command(flatten)]
    pub(crate) from: From,
    /// Refuse any other context
    #[arg(long, value_name = "TEXT")]
    pub(crate) expect_context: Option<String>,
    /// Refuse what is not sealed under a post-quantum suite
    #[arg(long)]
    pub(crate) require_pq: bool,
    /// Open it and write nothing
    #[arg(long, conflicts_with = "output")]
    pub(crate) check: bool,
    /// The input is one channel: write its messages as lines
    #[arg(long)]
    pub(crate) channel: bool,
    /// The DEK block is in a file of its own
    #[arg(long, value_name = "HEADER", conflicts_with = "channel")]
    pub(crate) detached: Option<PathBuf>,
    /// Open these bytes of the payload alone, from START up to before END; either may be left out
    #[arg(long, value_name = "START..END", conflicts_with = "channel")]
    pub(crate) range: Option<PayloadRange>,
    /// To a pipe, write nothing before all of it is authentic
    #[arg(long, conflicts_with = "channel")]
    pub(crate) buffer: bool,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    /// The envelope; standard input when absent or -
    #[arg(value_name = "IN", default_value = "-")]
    pub(crate) input: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(crate) struct InspectArgs {
    /// For machines
    #[arg(long)]
    pub(crate) json: bool,
    /// Envelopes; standard input when absent or -
    #[arg(value_name = "IN", default_value = "-")]
    pub(crate) input: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ListenArgs {
    /// The address to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDR")]
    pub(crate) on: String,
    #[command(flatten)]
    pub(crate) keys: Keys,
    #[command(flatten)]
    pub(crate) from: From,
    /// Refuse what is not sealed under a post-quantum suite
    #[arg(long)]
    pub(crate) require_pq: bool,
    /// A folder for what arrives, or - for standard output
    #[arg(long, value_name = "DIR|-")]
    pub(crate) out: PathBuf,
    /// Close a connection on which nothing was said for this long; 0 for never
    #[arg(long, value_name = "SECONDS", default_value = "3600")]
    pub(crate) idle: u64,
    /// Serve one connection, and exit with what became of it
    #[arg(long)]
    pub(crate) once: bool,
    /// Tell what happens on standard error as JSON lines
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct SendArgs {
    /// The listener
    #[arg(long, value_name = "ADDR")]
    pub(crate) to: String,
    #[command(flatten)]
    pub(crate) recipients: Recipients,
    /// Which ciphers
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) suite: SuiteChoice,
    /// Sign what is sent with a sender's key file
    #[arg(long, value_name = "KEYFILE")]
    pub(crate) sign_with: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) passphrase: PassphraseFrom,
    /// Public text that is authenticated with every message
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) context: String,
    /// Send each line of each input as a message
    #[arg(long)]
    pub(crate) lines: bool,
    /// Tell what was sent on standard output as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Files to send; - for standard input
    #[arg(value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DemoArgs {
    /// For machines
    #[arg(long)]
    pub(crate) json: bool,
    /// A file to send, up to 16 MiB; something made up when absent
    pub(crate) file: Option<PathBuf>,
}

/// Bytes of a payload, from `start` up to before `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PayloadRange {
    pub(crate) start: u64,
    /// Where it is left out: the payload's.
    pub(crate) end: Option<u64>,
}

impl FromStr for PayloadRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (start, end) = text.split_once("..").ok_or("write it as 0..4096, 1MiB.. or ..512")?;
        let start = if start.is_empty() { 0 } else { size(start)? };
        let end = if end.is_empty() { None } else { Some(size(end)?) };
        match end {
            Some(end) if end < start => Err("it ends before it starts".into()),
            end => Ok(Self { start, end }),
        }
    }
}

impl fmt::Display for PayloadRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.end {
            Some(end) => write!(f, "{}..{end}", self.start),
            None => write!(f, "{}..", self.start),
        }
    }
}

/// Bytes, with a unit or without.
fn size(text: &str) -> Result<u64, String> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let scale = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1u64,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        _ => return Err("write it as 4096, 64KiB or 1MiB".into()),
    };
    digits.parse::<u64>().ok().and_then(|n| n.checked_mul(scale)).ok_or("write it as 4096, 64KiB or 1MiB".into())
}

fn segment_log2(text: &str) -> Result<u8, String> {
    let size = Some(size(text)?).filter(|n| n.is_power_of_two());
    let log2 = size.and_then(|n| u8::try_from(n.ilog2()).ok()).filter(|log2| (12..=24).contains(log2));
    log2.ok_or("a power of two from 4KiB to 16MiB is needed".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segment_sizes() {
        for (text, log2) in [("4KiB", 12), ("64KiB", 16), ("65536", 16), ("1m", 20), ("16MiB", 24)] {
            assert_eq!(segment_log2(text), Ok(log2));
        }
        for bad in ["", "2KiB", "32MiB", "5000", "64GB", "18446744073709551615k"] {
            assert!(segment_log2(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ranges() {
        for (text, start, end) in [("0..10", 0, Some(10)), ("..1k", 0, Some(1024)), ("2MiB..", 2 << 20, None), ("..", 0, None)] {
            assert_eq!(text.parse(), Ok(PayloadRange { start, end }));
        }
        for bad in ["", "5", "5..3", "-1..3", "a..b", "1...3", "1..2..3", "20000000t.."] {
            assert!(bad.parse::<PayloadRange>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_arguments_are_consistent() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }
}
