//! README.md stays true: every command in it runs here, and its Rust compiles and runs.
#![cfg(unix)]

use std::{fs, path::Path, process::Command};

mod program;

/// The blocks of a language in the README.
fn blocks(language: &str) -> Vec<String> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let fence = format!("\n```{language}\n");
    text.split(&fence).skip(1).map(|rest| rest.split("\n```").next().unwrap().to_owned()).collect()
}

/// Runs a block as a shell would, with the built program in the path, and a port that is free.
fn run(block: &str) -> (bool, String) {
    let folder = tempfile::TempDir::new().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    // The listener is given a moment to come up, as a person would give it.
    let script = block.replace("7300", &port).replace(" &\n", " & sleep 1\n");
    let program = Path::new(program::PROGRAM).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    let script = format!("set -e\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{script}\n");
    let output = Command::new("bash").args(["-c", &script]).env("PATH", path).current_dir(&folder).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), said)
}

#[test]
fn the_session_runs() {
    let session = &blocks("sh")[0];
    assert_eq!(session.lines().count(), 6);
    let (worked, said) = run(session);
    assert!(worked, "{said}");
    assert!(said.contains("attack at dawn\n") && said.contains("header_mac") && said.contains("1 messages"), "{said}");
}

#[test]
fn senders_and_rewraps_run() {
    let (worked, said) = run(&blocks("sh")[1]);
    assert!(worked, "{said}");
    assert_eq!(said.lines().filter(|line| *line == "minutes").count(), 2, "{said}");
}

#[test]
fn files_of_any_size_run() {
    let (worked, said) = run(&(blocks("sh")[2].clone() + "\ncmp image.raw back.raw && wc -c part && ls -A"));
    assert!(worked, "{said}");
    for wanted in ["image.raw\n", "a secret for a form\n", "4096 part\n"] {
        assert!(said.contains(wanted), "{said}");
    }
    assert!(!said.contains(".part"), "{said}");
}

#[test]
fn post_quantum_runs() {
    let (worked, said) = run(&blocks("sh")[4]);
    assert!(worked, "{said}");
    assert_eq!(said.lines().filter(|line| *line == "for thirty years").count(), 1, "{said}");
    assert!(said.contains("3: X-Wing") || said.contains("4: X-Wing"), "{said}");
}

#[test]
fn protected_keys_run() {
    let (worked, said) =
        run(&(blocks("sh")[3].clone() + "\ncat bob.pub; grep -c SW-PROTECTED-KEY- alice.key bob.key; ls -l passphrase"));
    assert!(worked, "{said}");
    for wanted in ["for alice\n", "alice.key:1\nbob.key:1\n", "-rw-------"] {
        assert!(said.contains(wanted), "{said}");
    }
    // The recipient with the passphrase is the one that was printed before.
    let recipients: Vec<_> = said.lines().filter(|line| line.starts_with("swr1")).collect();
    assert!(recipients.len() == 2 && recipients[0] == recipients[1], "{said}");
}

/// The other commands are those that CI runs: here it is checked that they are what the README says.
#[test]
fn the_other_commands_are_those_of_ci() {
    let others = &blocks("sh")[5..];
    assert_eq!(others, ["cargo run --release --features cli -- demo", "tests/run"]);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let ci = fs::read_to_string(root.join(".ci/run")).unwrap();
    assert!(ci.lines().any(|line| line == "tests/run"));
    let tests = fs::read_to_string(root.join("tests/run")).unwrap();
    assert!(tests.contains("cargo run --locked --quiet --release --features cli -- demo\n"));
}

/// The Rust of the README is compiled and run as doc tests of this crate (`src/lib.rs`).
#[test]
fn the_rust_is_a_doc_test() {
    assert_eq!(blocks("rust").len(), 5);
    let lib = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    assert!(lib.contains("include_str!(\"../README.md\")"));
}
