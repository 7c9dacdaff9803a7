//! Runs the built program, in folders that go away.
#![allow(dead_code, reason = "every test file uses its own part")]

use std::{
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, Output, Stdio},
};

use tempfile::TempDir;

pub mod memory;
pub mod terminal;

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_sealwire");

/// What a run of the program gave.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: Vec<u8>,
    pub err: String,
}

impl Ran {
    pub fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: output.stdout,
            err: String::from_utf8(output.stderr).expect("messages are text"),
        }
    }

    /// The output as one line.
    pub fn line(&self) -> String {
        String::from_utf8(self.out.clone()).unwrap().trim().to_owned()
    }

    /// It worked, and said nothing: silence in pipes.
    pub fn silent(self) -> Self {
        assert_eq!((self.code, &self.err[..]), (0, ""));
        self
    }

    /// It failed with this code, in one sentence that holds `word`, and wrote nothing.
    pub fn failed(self, code: i32, word: &str) -> Self {
        assert_eq!(self.code, code, "{}", self.err);
        assert!(self.err.contains(word), "{word}: {}", self.err);
        let said: Vec<_> = self.err.lines().filter(|line| !line.starts_with("warning:")).collect();
        assert!(said.len() == 1 && said[0].starts_with("sealwire: "), "{}", self.err);
        self
    }
}

/// A folder with a key file, `alice.key`.
pub struct Place {
    pub folder: TempDir,
    pub recipient: String,
}

impl Place {
    pub fn new() -> Self {
        let mut place = Self { folder: TempDir::new().unwrap(), recipient: String::new() };
        place.recipient = place.keygen("alice.key");
        place
    }

    pub fn keygen(&self, name: &str) -> String {
        let ran = self.run(["keygen", "-o", name], b"");
        assert_eq!(ran.code, 0, "{}", ran.err);
        ran.line()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, content: &[u8]) -> PathBuf {
        fs::write(self.path(name), content).unwrap();
        self.path(name)
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    /// The names in a folder of the place, sorted.
    pub fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(folder)).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(args).current_dir(self.folder.path()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>, input: &[u8]) -> Ran {
        let mut child = self.command(args).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        // A program that refuses early does not read its input to the end.
        let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
        let ran = Ran::of(child.wait_with_output().unwrap());
        writer.join().unwrap();
        ran
    }

    pub fn listen(&self, out: &str, more: &[&str]) -> Listener {
        Listener::start(self.command(["listen", "--on", "127.0.0.1:0", "-k", "alice.key", "--out", out].iter().chain(more)))
    }

    pub fn send(&self, to: &str, args: &[&str]) -> Ran {
        self.run(["send", "--to", to, "-r", &self.recipient].iter().chain(args), b"")
    }
}

/// A listener as a process; killed when dropped.
pub struct Listener {
    pub child: Child,
    pub address: String,
    pub said: BufReader<ChildStderr>,
}

impl Listener {
    pub fn start(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::null()).spawn().unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").unwrap_or_else(|| panic!("{line}")).to_owned();
        Self { child, address, said }
    }

    /// The next line of standard error.
    pub fn says(&mut self) -> String {
        let mut line = String::new();
        self.said.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    pub fn wait(mut self) -> i32 {
        self.child.wait().unwrap().code().unwrap_or(-1)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn mode(path: &Path) -> u32 {
    std::os::unix::fs::PermissionsExt::mode(&fs::metadata(path).unwrap().permissions()) & 0o777
}

/// The most memory that a process of ours has had, in bytes.
pub fn peak_of(mut child: Child) -> (i32, u64) {
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    loop {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let now =
            text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
        peak = now.map_or(peak, |kib| kib * 1024);
        if let Some(status) = child.try_wait().unwrap() {
            return (status.code().unwrap_or(-1), peak);
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}
