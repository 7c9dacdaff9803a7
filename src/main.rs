#![forbid(unsafe_code)]
//! The program `sealwire`: see [`sealwire::cli`].

fn main() -> std::process::ExitCode {
    sealwire::cli::main()
}
