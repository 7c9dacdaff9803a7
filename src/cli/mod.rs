//! The program: arguments, files, sockets and terminals. All that it knows of the format it asks the library.
//!
//! ```text
//! keys.rs      keygen, recipient, and reading key files
//! passphrase.rs  passphrase, and where passphrases come from
//! seal.rs open.rs inspect.rs    the commands of those names
//! copy.rs      bytes from here to there, and how far they have come
//! lines.rs     texts by lines
//! cleanup.rs   what a signal removes and puts right
//! rewrap.rs    rewrap
//! io.rs        input, and where commands write
//! replace.rs   files that appear whole or not at all
//! kms/         a key service: its verbs, its store, its server
//! send.rs      the sending side of a transfer
//! listen.rs    the receiving side
//! store.rs     where it puts what it takes
//! demo.rs      both as two processes, with an attacker between them
//! fail.rs      exit codes
//! ```

mod args;
mod cleanup;
mod copy;
mod demo;
mod fail;
mod inspect;
mod io;
mod keys;
mod kms;
#[cfg_attr(not(unix), path = "large_elsewhere.rs")]
mod large;
mod lines;
mod listen;
mod open;
mod passphrase;
mod replace;
mod report;
mod rewrap;
mod seal;
mod send;
mod store;

use std::process::ExitCode;

use clap::Parser;

use args::{Args, Command};
pub(crate) use fail::Failure;

/// Runs the program; the exit codes are those of `sealwire --help`.
#[must_use]
pub fn main() -> ExitCode {
    if let Err(failure) = keys::refuse_secrets(std::env::args_os()) {
        return failure.report();
    }
    let args = Args::parse();
    // Before there is a second thread.
    replace::remember_umask();
    cleanup::on_signals();
    match run(args.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Keygen(args) => keys::keygen(&args),
        Command::Passphrase(args) => passphrase::run(&args),
        Command::Recipient(args) => keys::recipient(&args),
        Command::Seal(args) => seal::run(&args),
        Command::Open(args) => open::run(&args),
        Command::Rewrap(args) => rewrap::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Listen(args) => listen::run(args),
        Command::Send(args) => send::run(args),
        Command::Kms(args) => kms::run(*args),
        Command::Demo(args) => demo::run(&args),
    }
}
