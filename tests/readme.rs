//! README.md and docs/procedures.md stay true: every command in them runs here, and the README's Rust compiles and runs.
#![cfg(unix)]

use std::{fs, net::TcpListener, path::Path, process::Command};

mod program;

/// Ports that the pages name. Free ones stand for them here.
const PORTS: [&str; 4] = ["7300", "7310", "7311", "9310"];
/// What stands for a part of an output that is another every time.
const VARIES: char = '…';

fn page(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// The blocks of a language in the README.
fn blocks(language: &str) -> Vec<String> {
    let text = page("README.md");
    let fence = format!("\n```{language}\n");
    text.split(&fence).skip(1).map(|rest| rest.split("\n```").next().unwrap().to_owned()).collect()
}

/// Other ports in place of those that are named.
fn free_ports() -> Vec<(&'static str, String)> {
    let listeners = PORTS.map(|port| (port, TcpListener::bind("127.0.0.1:0").unwrap()));
    listeners.iter().map(|(port, listener)| (*port, listener.local_addr().unwrap().port().to_string())).collect()
}

fn with_ports(text: &str, ports: &[(&str, String)]) -> String {
    ports.iter().fold(text.to_owned(), |text, (named, free)| text.replace(named, free))
}

/// Lines as a person would run them: who listens is given a moment to come up.
fn patient(line: &str) -> String {
    let Some(command) = line.strip_suffix(" &") else { return line.to_owned() };
    match command.rsplit_once("2> ") {
        Some((_, log)) => format!("{line} for i in $(seq 200); do grep -qs listening {log} && break; sleep 0.1; done"),
        None => format!("{line} sleep 1"),
    }
}

/// Runs a script as a shell would, with the built program in the path, in a folder of its own.
fn shell(script: &str) -> (bool, String) {
    let folder = tempfile::TempDir::new().unwrap();
    let script = script.lines().map(patient).collect::<Vec<_>>().join("\n");
    let program = Path::new(program::PROGRAM).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    let script = format!("set -e -o pipefail\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\nexec 2>&1\n{script}\n");
    let output = Command::new("bash").args(["-c", &script]).env("PATH", path).current_dir(&folder).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), said)
}

fn run(block: &str) -> (bool, String) {
    shell(&with_ports(block, &free_ports()))
}

/// A session of a page: its commands, and what they print where the page shows it, in a block `text` right behind.
struct Step {
    commands: String,
    prints: Option<String>,
}

fn steps(text: &str) -> Vec<Step> {
    let parts = text.split("\n```sh\n").skip(1).map(|rest| rest.split_once("\n```\n").expect("the block ends"));
    let shown =
        |after: &str| after.trim_start().strip_prefix("```text\n").map(|rest| rest.split("```").next().unwrap().to_owned());
    parts.map(|(commands, after)| Step { commands: commands.to_owned(), prints: shown(after) }).collect()
}

/// Whether a text is that of a pattern, whose `…` stand for anything within a line; a line of `…` alone for any lines.
fn fits(text: &[&str], pattern: &[&str]) -> bool {
    match (text, pattern) {
        ([], []) => true,
        (text, [line, rest @ ..]) if *line == VARIES.to_string() => (0..=text.len()).any(|skip| fits(&text[skip..], rest)),
        ([first, text @ ..], [line, rest @ ..]) => line_fits(first, line) && fits(text, rest),
        _ => false,
    }
}

fn line_fits(line: &str, pattern: &str) -> bool {
    match pattern.split_once(VARIES) {
        None => line == pattern,
        Some((before, behind)) => {
            let Some(rest) = line.strip_prefix(before) else { return false };
            rest.char_indices().map(|(at, _)| at).chain([rest.len()]).any(|at| line_fits(&rest[at..], behind))
        }
    }
}

/// Runs all sessions of a page in one folder, one after the other, and compares what they print with what the page shows.
fn page_runs(name: &str) {
    const MARK: &str = "=== the next session ===\n";
    let ports = free_ports();
    let steps = steps(&with_ports(&page(name), &ports));
    let script = steps.iter().map(|step| format!("{}\nprintf '{MARK}'\n", step.commands)).collect::<String>();
    let (worked, said) = shell(&script);
    let mut printed = said.split(MARK);
    for Step { commands, prints } in &steps {
        let printed = printed.next().unwrap_or("nothing: the session before it has failed");
        if let Some(prints) = prints {
            let lines = |text: &'_ str| text.lines().map(str::to_owned).collect::<Vec<_>>();
            let (printed_lines, shown) = (lines(printed), lines(prints));
            let [printed_lines, shown] =
                [&printed_lines, &shown].map(|lines| lines.iter().map(String::as_str).collect::<Vec<_>>());
            assert!(
                fits(&printed_lines, &shown),
                "{name}:\n{commands}\n--- shown\n{prints}--- printed\n{printed}\n--- in all\n{said}"
            );
        }
    }
    assert!(worked, "{name}: {said}");
}

#[test]
fn what_varies_is_left_out_and_nothing_else() {
    for (text, pattern) in [("key: cmk-1\nok", "key: …\nok"), ("a\nb\nc", "…\nc"), ("a1b2", "a…b…"), ("", "…")] {
        assert!(fits(&text.lines().collect::<Vec<_>>(), &pattern.lines().collect::<Vec<_>>()), "{text} {pattern}");
    }
    for (text, pattern) in [("key: x", "kay: …"), ("a\nb", "a"), ("a", "a\nb"), ("a\nb", "…\nc"), ("ab", "a…c"), ("", "a")]
    {
        assert!(!fits(&text.lines().collect::<Vec<_>>(), &pattern.lines().collect::<Vec<_>>()), "{text} {pattern}");
    }
}

#[test]
fn the_procedures_run() {
    page_runs("docs/procedures.md");
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

#[test]
fn the_key_service_runs() {
    let (worked, said) = run(&blocks("sh")[6]);
    assert!(worked, "{said}");
    assert_eq!(said.lines().filter(|line| *line == "12 chairs").count(), 2, "{said}");
}

/// The other commands are those that CI runs: here it is checked that they are what the README says.
#[test]
fn the_other_commands_are_those_of_ci() {
    let others =
        blocks("sh").into_iter().enumerate().skip(5).filter(|(at, _)| *at != 6).map(|(_, block)| block).collect::<Vec<_>>();
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
