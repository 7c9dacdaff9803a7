use std::path::{Path, PathBuf};

use clap::Subcommand;

use super::keyring::RootKeyring;
use crate::{
    cli::args::{OutputArgs, PassphraseFrom},
    kms::{Alias, KeyRef},
};

pub(crate) const KMS_HELP: &str = "Examples:
  sealwire kms init --store keys --root-key-file root.key
  sealwire kms create-key --store keys --root-key-file root.key --alias orders
  sealwire seal -r \"$(sealwire kms get-public-key --store keys --root-key-file root.key orders)\" report.pdf -o report.swe
  sealwire open --kms-store keys --root-key-file root.key -o report.pdf report.swe

A store belongs to one process at a time: while `serve` has it, ask the server.";

const INIT_HELP: &str = "Examples:
  sealwire kms init --store keys
  sealwire keygen -o root.key && sealwire kms init --store keys --root-key-file root.key
  sealwire kms init --store keys --root-keyring orders

A keyring is that of your user: on Linux what speaks the Secret Service on the session's D-Bus (GNOME Keyring, KWallet, KeePassXC).
A server without a desktop has mostly none, and the kernel's: kernel:orders lasts from whoever puts it there to the next reboot, so keep
a copy elsewhere. For a service under systemd, --root-key-file with LoadCredentialEncrypted= is the better place (docs/kms.md).";

#[derive(Debug, clap::Args)]
pub(crate) struct KmsArgs {
    #[command(subcommand)]
    pub(crate) command: KmsCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KmsCommand {
    /// Make a store, under a passphrase, a key file, or a root key that is made and kept in the system's keyring
    #[command(after_help = INIT_HELP)]
    Init(StoreArgs),
    /// Make a server's identity: write its secret file, print its public half, which clients are given
    #[command(after_help = "Example:\n  sealwire kms identity -o server.identity > server.pub")]
    Identity(IdentityArgs),
    /// Serve a store
    #[command(after_help = super::serve::HELP)]
    Serve(ServeArgs),
    /// Make a CMK
    CreateKey(CreateKeyArgs),
    /// List the CMKs that you may see
    ListKeys(AskArgs),
    /// Show a CMK
    DescribeKey(KeyArgs),
    /// Print the recipient of a CMK's newest version: what senders seal to
    GetPublicKey(KeyArgs),
    /// Let a disabled CMK be used again
    EnableKey(KeyArgs),
    /// Let a CMK be used for nothing until it is enabled again
    DisableKey(KeyArgs),
    /// Make a new version of a CMK; what was sealed to older ones still opens
    RotateKey(KeyArgs),
    /// Have a CMK destroyed, and with it all that was encrypted under it; until then it is used for nothing
    ScheduleKeyDeletion(DeletionArgs),
    /// Keep a CMK that was to be destroyed; it is disabled then
    CancelKeyDeletion(KeyArgs),
    /// Give a CMK an alias, or take the alias from another
    SetAlias(SetAliasArgs),
    /// Take an alias away
    DeleteAlias(DeleteAliasArgs),
    /// Make a DEK: print it, and the ciphertext DEK, to a pipe
    #[command(after_help = super::data_key::HELP)]
    GenerateDataKey(GenerateArgs),
    /// Unwrap a ciphertext DEK, or the DEK of an envelope: print it to a pipe
    DecryptDataKey(DecryptDataKeyArgs),
    /// Encrypt a secret of at most 4,096 bytes directly under a CMK
    #[command(after_help = "Example:\n  printf %s \"$PIN\" | sealwire kms encrypt --store keys orders -o pin.swd")]
    Encrypt(EncryptArgs),
    /// Decrypt what `encrypt` gave
    Decrypt(DecryptArgs),
    /// Put what `encrypt` gave, a ciphertext DEK, or an envelope under another CMK, without its being seen
    ReEncrypt(ReEncryptArgs),
    /// Verify the audit log of a store, or print it
    Audit(AuditArgs),
    /// Copy the state of a store into a file, which needs the same root key; also while a server has it
    Backup(BackupArgs),
    /// Make a store of a backup; never over one that is there
    Restore(RestoreArgs),
    /// Put a store under another root key
    ChangeRoot(ChangeRootArgs),
}

/// A store, and what it is under.
#[derive(Debug, clap::Args)]
pub(crate) struct StoreArgs {
    /// The folder of the store
    #[arg(long, value_name = "DIR")]
    pub(crate) store: PathBuf,
    #[command(flatten)]
    pub(crate) root: RootArgs,
}

/// What a store is under: a key file, what the system's keyring has under a name, or else a passphrase.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct RootArgs {
    /// The key file that the store is under, as `keygen` makes one; a passphrase where there is none
    #[arg(long, value_name = "KEYFILE")]
    pub(crate) root_key_file: Option<PathBuf>,
    /// The same from the system's keyring, by its name there; kernel:NAME in that of the Linux kernel, which is empty after a reboot
    #[arg(long, value_name = "NAME", conflicts_with = "root_key_file")]
    pub(crate) root_keyring: Option<RootKeyring>,
    #[command(flatten)]
    pub(crate) passphrase: PassphraseFrom,
}

/// Who is asked: a store, or servers.
#[derive(Debug, clap::Args)]
pub(crate) struct AskArgs {
    /// The folder of a store
    #[arg(long, value_name = "DIR", required_unless_present = "server", conflicts_with = "server")]
    pub(crate) store: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) root: RootArgs,
    /// A server, host:port or unix:/path; several may be given, the first that answers is asked
    #[arg(long, value_name = "ADDR", requires = "server_identity", requires = "as")]
    pub(crate) server: Vec<String>,
    /// The public half of the server's identity, a file
    #[arg(long, value_name = "FILE")]
    pub(crate) server_identity: Option<PathBuf>,
    /// Your sender's key file, by which the server knows you
    #[arg(long = "as", id = "as", value_name = "KEYFILE")]
    pub(crate) me: Option<PathBuf>,
    /// For machines
    #[arg(long)]
    pub(crate) json: bool,
}

impl AskArgs {
    /// The files that hold secrets.
    pub(crate) fn secrets(&self) -> Vec<PathBuf> {
        let state = self.store.as_deref().map(state_in);
        [self.root.root_key_file.clone(), self.me.clone(), state].into_iter().flatten().collect()
    }
}

/// The file of a store that is there as long as the store is (spec/store.md).
pub(crate) fn state_in(folder: &Path) -> PathBuf {
    folder.join("state")
}

#[derive(Debug, clap::Args)]
pub(crate) struct KeyArgs {
    #[command(flatten)]
    pub(crate) ask: AskArgs,
    /// The CMK, by its id or an alias
    pub(crate) key: KeyRef,
}

#[derive(Debug, clap::Args)]
pub(crate) struct CreateKeyArgs {
    #[command(flatten)]
    pub(crate) ask: AskArgs,
    /// Another name for it
    #[arg(long)]
    pub(crate) alias: Option<Alias>,
    /// Make it post-quantum (X-Wing)
    #[arg(long)]
    pub(crate) pq: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DeletionArgs {
    #[command(flatten)]
    pub(crate) key: KeyArgs,
    /// In how many days: 7 to 30
    #[arg(long, value_name = "N")]
    pub(crate) days: u8,
}

#[derive(Debug, clap::Args)]
pub(crate) struct SetAliasArgs {
    #[command(flatten)]
    pub(crate) key: KeyArgs,
    /// The alias
    pub(crate) alias: Alias,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DeleteAliasArgs {
    #[command(flatten)]
    pub(crate) ask: AskArgs,
    /// The alias
    pub(crate) alias: Alias,
}

/// Where a plaintext DEK goes.
#[derive(Debug, clap::Args)]
pub(crate) struct PlaintextTo {
    /// Write to this inherited descriptor instead of standard output
    #[arg(long, value_name = "N")]
    pub(crate) plaintext_fd: Option<u16>,
    /// Show it on a terminal, too; to a file it never goes
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct GenerateArgs {
    #[command(flatten)]
    pub(crate) key: KeyArgs,
    /// Give the ciphertext DEK alone
    #[arg(long, conflicts_with_all = ["plaintext_fd", "force"])]
    pub(crate) without_plaintext: bool,
    /// Write the ciphertext DEK to a file, too, as the bytes that it is
    #[arg(long, value_name = "FILE")]
    pub(crate) ciphertext: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) to: PlaintextTo,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DecryptDataKeyArgs {
    #[command(flatten)]
    pub(crate) ask: AskArgs,
    #[command(flatten)]
    pub(crate) to: PlaintextTo,
    /// The ciphertext DEK, an envelope, or the DEK block of a detached one; standard input when absent or -
    #[arg(value_name = "IN", default_value = "-")]
    pub(crate) input: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(crate) struct EncryptArgs {
    #[command(flatten)]
    pub(crate) key: KeyArgs,
    /// Public text that decrypting needs, too; it is not in the ciphertext
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) context: String,
    /// Where to write; standard output when absent or -
    #[arg(short, long, value_name = "OUT")]
    pub(crate) output: Option<PathBuf>,
    /// Replace an existing file
    #[arg(long)]
    pub(crate) force: bool,
    /// The secret; standard input when absent or -
    #[arg(value_name = "IN", default_value = "-")]
    pub(crate) input: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DecryptArgs {
    #[command(flatten)]
    pub(crate) ask: AskArgs,
    /// The context that it was encrypted with
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) context: String,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    /// The ciphertext; standard input when absent or -
    #[arg(value_name = "IN", default_value = "-")]
    pub(crate) input: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ReEncryptArgs {
    #[command(flatten)]
    pub(crate) ask: AskArgs,
    /// The other CMK, by its id or an alias
    #[arg(long, value_name = "KEY")]
    pub(crate) to: KeyRef,
    /// The context that a secret was encrypted with, which stays
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) context: String,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    /// What is under the first CMK; standard input when absent or -
    #[arg(value_name = "IN", default_value = "-")]
    pub(crate) input: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(crate) struct AuditArgs {
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    /// Print its lines, verified
    #[arg(long)]
    pub(crate) print: bool,
    /// For machines
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct BackupArgs {
    /// The folder of the store
    #[arg(long, value_name = "DIR")]
    pub(crate) store: PathBuf,
    /// The file to write; never over one that is there
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RestoreArgs {
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    /// The backup
    pub(crate) backup: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ChangeRootArgs {
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    /// The new key file; a new passphrase where there is none
    #[arg(long, value_name = "KEYFILE")]
    pub(crate) new_root_key_file: Option<PathBuf>,
    /// Make a new root key and keep it in the system's keyring, under this name, which is free there
    #[arg(long, value_name = "NAME", conflicts_with = "new_root_key_file")]
    pub(crate) new_root_keyring: Option<RootKeyring>,
    /// Read the new passphrase from a file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["new_root_key_file", "new_root_keyring"])]
    pub(crate) new_passphrase_file: Option<PathBuf>,
    /// Read it from an open descriptor
    #[arg(long, value_name = "N", conflicts_with_all = ["new_root_key_file", "new_root_keyring", "new_passphrase_file"])]
    pub(crate) new_passphrase_fd: Option<u16>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct IdentityArgs {
    /// The file to write, 0600; never over an existing one
    #[arg(short, long, value_name = "FILE", default_value = "server.identity")]
    pub(crate) output: PathBuf,
    /// Make it post-quantum (X-Wing): connections are, both ways
    #[arg(long)]
    pub(crate) pq: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    /// Where to listen, host:port or unix:/path; port 0 takes a free one; several may be given. A socket is open to its owner, to the group
    /// where the umask leaves it that, and to nobody else
    #[arg(long, value_name = "ADDR", required = true)]
    pub(crate) on: Vec<String>,
    /// The server's identity, a file
    #[arg(long, value_name = "FILE")]
    pub(crate) identity: PathBuf,
    /// Who may do what, a file in TOML; read again on SIGHUP
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: PathBuf,
    /// Answer health and metrics (HTTP) here, on an address that others cannot reach
    #[arg(long, value_name = "ADDR")]
    pub(crate) metrics: Option<String>,
    /// Serve a copy of a store, or of its state file, and change nothing; it is read again when it is replaced
    #[arg(long, requires = "audit_log")]
    pub(crate) replica: bool,
    /// With --replica, the folder of its audit log
    #[arg(long, value_name = "DIR", requires = "replica")]
    pub(crate) audit_log: Option<PathBuf>,
    /// Tell what happens on standard error as JSON lines
    #[arg(long)]
    pub(crate) json: bool,
}
