//! Five attacks by whoever sits on the path: a proxy between sender and listener that knows where messages end.

use std::{
    fs,
    io::{self, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    path::PathBuf,
    thread,
};

use super::{
    Stage,
    process::{Listen, send},
};
use crate::{
    cli::Failure,
    transfer::GREETING_LEN,
    wire::{Limits, Splitter},
};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Attack {
    FlippedBit,
    Cut,
    Swapped,
    Replay,
    WrongKey,
}

/// What became of an attack.
pub(super) struct Outcome {
    pub(super) name: &'static str,
    pub(super) refusal: String,
    pub(super) released: u64,
    files: usize,
    refused: bool,
    pub(super) sender_exit: i32,
}

impl Outcome {
    /// The listener refused, nothing was released or stored, and the sender was not told that all is well.
    pub(super) fn is_refused(&self) -> bool {
        self.refused && self.released == 0 && self.files == 0 && self.sender_exit != 0
    }
}

impl Attack {
    pub(super) const ALL: [Self; 5] = [Self::FlippedBit, Self::Cut, Self::Swapped, Self::Replay, Self::WrongKey];

    fn name(self) -> &'static str {
        match self {
            Self::FlippedBit => "flipped bit",
            Self::Cut => "cut",
            Self::Swapped => "swapped",
            Self::Replay => "replay",
            Self::WrongKey => "wrong key",
        }
    }

    /// Runs the attack; one that could not be run counts as passed.
    pub(super) fn run(self, stage: &Stage) -> Outcome {
        self.try_run(stage).unwrap_or_else(|failure| Outcome {
            name: self.name(),
            refusal: format!("not run: {}", failure.message),
            released: 0,
            files: 0,
            refused: false,
            sender_exit: 0,
        })
    }

    fn try_run(self, stage: &Stage) -> Result<Outcome, Failure> {
        let files = self.files(stage)?;
        let out = stage.path(&format!("inbox of {}", self.name()));
        // Whoever replays needs a connection that went well.
        let recorded = if self == Self::Replay { record(stage, &files)? } else { Vec::new() };
        let key = if self == Self::WrongKey { "mallory.key" } else { "alice.key" };
        let listen = Listen::start(stage, &stage.path(key), &out)?;
        let proxy = Proxy::start(listen.address.clone(), move |messages| self.tamper(messages, &recorded))?;
        let sent = send(stage, &proxy.address, &files)?;
        let served = listen.finish()?;
        Ok(Outcome {
            name: self.name(),
            refused: served.problem.is_some(),
            refusal: served.problem.unwrap_or_default(),
            released: served.bytes,
            files: fs::read_dir(&out).map_or(0, Iterator::count),
            sender_exit: sent.exit,
        })
    }

    /// Two small files of this attack.
    fn files(self, stage: &Stage) -> Result<Vec<PathBuf>, Failure> {
        let file = |n: u8| stage.write(&format!("{} {n}", self.name()), &[n; 5000]);
        Ok(vec![file(1)?, file(2)?])
    }

    /// What the attacker makes of the messages that the sender sent: the first says to whom answers go, then the files.
    fn tamper(self, mut messages: Vec<Vec<u8>>, recorded: &[u8]) -> Vec<u8> {
        match (self, messages.as_mut_slice()) {
            (Self::FlippedBit, [_, first, ..]) => {
                let middle = first.len() / 2;
                first[middle] ^= 1;
            }
            (Self::Cut, [_, first, ..]) => {
                first.truncate(first.len() / 2);
                messages.truncate(2);
            }
            (Self::Swapped, [_, first, second, ..]) => std::mem::swap(first, second),
            (Self::Replay, _) => return recorded.to_vec(),
            _ => {}
        }
        messages.concat()
    }
}

/// Lets a connection pass and keeps what the sender sent.
fn record(stage: &Stage, files: &[PathBuf]) -> Result<Vec<u8>, Failure> {
    let listen = Listen::start(stage, &stage.path("alice.key"), &stage.path("inbox of the recorded connection"))?;
    let (keep, kept) = std::sync::mpsc::channel();
    let proxy = Proxy::start(listen.address.clone(), move |messages| {
        let bytes = messages.concat();
        // The receiver is this very function; without it nobody wants the bytes.
        let _ = keep.send(bytes.clone());
        bytes
    })?;
    let sent = send(stage, &proxy.address, files)?;
    listen.finish()?;
    match (sent.problem, kept.recv()) {
        (None, Ok(bytes)) => Ok(bytes),
        (problem, _) => Err(Failure::new(crate::cli::fail::Code::Io, problem.unwrap_or_default())),
    }
}

/// Sits between a sender and a listener, for one connection.
struct Proxy {
    address: String,
}

impl Proxy {
    /// `tamper` gets every message that the sender sends, and says what goes on to the listener.
    fn start(listener: String, tamper: impl FnOnce(Vec<Vec<u8>>) -> Vec<u8> + Send + 'static) -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::io("the proxy", &error);
        let socket = TcpListener::bind("127.0.0.1:0").map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?.to_string();
        // Ends with its connection; what goes wrong in it, sender and listener tell.
        thread::spawn(move || {
            let (client, _) = socket.accept()?;
            relay(client, TcpStream::connect(listener)?, tamper)
        });
        Ok(Self { address })
    }
}

fn relay(mut client: TcpStream, mut server: TcpStream, tamper: impl FnOnce(Vec<Vec<u8>>) -> Vec<u8>) -> io::Result<()> {
    let mut greeting = [0; GREETING_LEN];
    server.read_exact(&mut greeting)?;
    client.write_all(&greeting)?;
    let (mut answers, mut back) = (server.try_clone()?, client.try_clone()?);
    let answering = thread::spawn(move || {
        let copied = io::copy(&mut answers, &mut back);
        back.shutdown(Shutdown::Both).and(copied)
    });
    let mut sent = Vec::new();
    client.read_to_end(&mut sent)?;
    server.write_all(&tamper(split(&sent)))?;
    server.shutdown(Shutdown::Write)?;
    let _ = answering.join();
    Ok(())
}

/// The messages of a recorded connection.
fn split(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut splitter = Splitter::new(Limits::default());
    let mut messages = Vec::new();
    while let Ok(Some(len)) = splitter.next(bytes) {
        let (message, rest) = bytes.split_at(len);
        messages.push(message.to_vec());
        bytes = rest;
    }
    messages
}
