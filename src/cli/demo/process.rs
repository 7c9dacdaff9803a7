//! The shipped `listen` and `send`, as processes of their own.

use std::{
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, Stdio},
};

use serde_json::Value;

use super::Stage;
use crate::cli::{Failure, fail::Code};

fn program() -> Result<Command, Failure> {
    std::env::current_exe().map(Command::new).map_err(|error| Failure::io("finding this program", &error))
}

fn failed(error: &io::Error) -> Failure {
    Failure::io("starting a process", error)
}

/// A listener for one connection.
pub(super) struct Listen {
    child: Child,
    stderr: BufReader<ChildStderr>,
    pub(super) address: String,
}

/// What a listener says of its connection.
pub(super) struct Served {
    pub(super) bytes: u64,
    pub(super) peak_memory: u64,
    pub(super) problem: Option<String>,
    /// The sender's standing.
    pub(super) standing: String,
}

impl Listen {
    pub(super) fn start(stage: &Stage, key: &Path, out: &Path) -> Result<Self, Failure> {
        let mut command = program()?;
        command.args(["listen", "--on", "127.0.0.1:0", "--once", "--json", "--from", stage.sender(), "-k"]);
        command.arg(key).arg("--out").arg(out);
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().map_err(|error| failed(&error))?;
        let stderr = child.stderr.take().ok_or_else(|| Failure::new(Code::Io, "a process without standard error"))?;
        let mut listen = Self { child, stderr: BufReader::new(stderr), address: String::new() };
        listen.address = listen.event("listening")?["address"].as_str().unwrap_or_default().to_owned();
        Ok(listen)
    }

    /// The next event of this name.
    fn event(&mut self, name: &str) -> Result<Value, Failure> {
        let mut line = String::new();
        while self.stderr.read_line(&mut line).map_err(|error| failed(&error))? > 0 {
            match serde_json::from_str::<Value>(&line) {
                Ok(event) if event["event"] == name => return Ok(event),
                _ => line.clear(),
            }
        }
        Err(Failure::new(Code::Io, format!("the listener ended without saying \"{name}\"")))
    }

    pub(super) fn finish(mut self) -> Result<Served, Failure> {
        let event = self.event("served")?;
        self.child.wait().map_err(|error| failed(&error))?;
        Ok(Served {
            bytes: event["bytes"].as_u64().unwrap_or(u64::MAX),
            peak_memory: event["peak_memory"].as_u64().unwrap_or_default(),
            problem: event["error"].as_str().map(str::to_owned),
            standing: event["standing"].as_str().unwrap_or_default().to_owned(),
        })
    }
}

/// A listener that nobody came to is not left behind.
impl Drop for Listen {
    fn drop(&mut self) {
        // It has ended by itself where all went well, and cannot be killed twice.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a sender says when it ends.
pub(super) struct Sent {
    pub(super) bytes: u64,
    pub(super) seconds: f64,
    pub(super) peak_memory: u64,
    pub(super) exit: i32,
    pub(super) problem: Option<String>,
}

pub(super) fn send(stage: &Stage, to: &str, files: &[PathBuf]) -> Result<Sent, Failure> {
    let mut command = program()?;
    command
        .args(["send", "--json", "--to", to, "-r", stage.recipient(), "--sign-with"])
        .arg(stage.path("bob.key"))
        .args(files)
        .stdin(Stdio::null());
    let output = command.output().map_err(|error| failed(&error))?;
    let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let problem = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Ok(Sent {
        bytes: said["bytes"].as_u64().unwrap_or_default(),
        seconds: said["seconds"].as_f64().unwrap_or_default(),
        peak_memory: said["peak_memory"].as_u64().unwrap_or_default(),
        exit: output.status.code().unwrap_or(-1),
        problem: (!output.status.success()).then_some(problem),
    })
}
