//! kms: a key service on the command line.
//!
//! ```text
//! args.rs       its arguments
//! service.rs    which service is asked: a store, or servers
//! verbs.rs      a command for each verb
//! data_key.rs   plaintext DEKs, which go through pipes alone
//! keyring.rs    root keys in the system's keyring
//! keeping.rs    init, audit, backup, restore, change-root
//! serve.rs      serve, identity
//! unwrap.rs     what `open` asks a service
//! ```

mod args;
mod data_key;
mod keeping;
mod keyring;
mod serve;
mod service;
mod unwrap;
mod verbs;

pub(crate) use args::{KMS_HELP, KmsArgs, state_in};
pub(crate) use data_key::Pair;
pub(crate) use keyring::RootKeyring;
pub(crate) use unwrap::{Unwrapper, read_block_within};

use super::Failure;
use args::KmsCommand;

pub(super) fn run(args: KmsArgs) -> Result<(), Failure> {
    no_core_dump();
    match args.command {
        KmsCommand::Init(args) => keeping::init(&args),
        KmsCommand::Audit(args) => keeping::audit(&args),
        KmsCommand::Backup(args) => keeping::backup(&args),
        KmsCommand::Restore(args) => keeping::restore(&args),
        KmsCommand::ChangeRoot(args) => keeping::change_root(&args),
        KmsCommand::Identity(args) => serve::identity(&args),
        KmsCommand::Serve(args) => serve::run(&args),
        verb => verbs::run(verb),
    }
}

/// Keys are in no file that the system writes when the program fails, and no other process of the same user looks into its memory.
pub(super) fn no_core_dump() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, setrlimit};
        let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    }
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
}
