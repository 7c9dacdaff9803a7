//! The program: arguments, files, sockets and terminals. All that it knows of the format it asks the library.
//!
//! ```text
//! keys.rs      keygen, recipient, and reading key files
//! files.rs     seal, open, inspect
//! rewrap.rs    rewrap
//! io.rs        input, and where commands write
//! replace.rs   files that appear whole or not at all
//! send.rs      the sending side of a transfer
//! listen.rs    the receiving side
//! store.rs     where it puts what it takes
//! demo.rs      both as two processes, with an attacker between them
//! fail.rs      exit codes
//! ```

mod args;
mod demo;
mod fail;
mod files;
mod io;
mod keys;
mod listen;
mod replace;
mod report;
mod rewrap;
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
    match run(Args::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Keygen(args) => keys::keygen(&args),
        Command::Recipient(args) => keys::recipient(&args),
        Command::Seal(args) => files::seal(&args),
        Command::Open(args) => files::open(&args),
        Command::Rewrap(args) => rewrap::run(&args),
        Command::Inspect(args) => files::inspect(&args),
        Command::Listen(args) => listen::run(args),
        Command::Send(args) => send::run(args),
        Command::Demo(args) => demo::run(&args),
    }
}
