//! Memory of connections that are open and silent. Each kind in a process of its own.

use std::{fs, net::TcpListener, process::Command};

use futures_util::future::join;

use crate::{
    common::first_line,
    ends::{End, Job, Messages, Verb},
    kinds::{ALL, Keys, Kind, Side},
    wires::{pair, runtime},
};

/// Pairs that are there before memory is looked at.
const FIRST: usize = 64;

/// The argument that makes this program such a process.
pub const ARGUMENT: &str = "--idle-process";

/// Bytes a pair of ends, of each kind.
pub fn measure(pairs: usize) -> Vec<f64> {
    let this = std::env::current_exe().unwrap();
    let measure = |kind: usize| {
        let output = Command::new(&this).args([ARGUMENT, &kind.to_string(), &pairs.to_string()]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.trim().parse().unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
    };
    (0..ALL.len()).map(measure).collect()
}

/// In a process of its own: bytes a pair.
pub fn process(kind: usize, pairs: usize) -> f64 {
    let keys = Keys::generate();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    runtime().block_on(async {
        let mut open = Vec::new();
        for _ in 0..FIRST {
            open.push(exchanged(ALL[kind], &keys, &listener).await);
        }
        let before = resident();
        for _ in 0..pairs {
            open.push(exchanged(ALL[kind], &keys, &listener).await);
        }
        (resident() - before) / pairs as f64
    })
}

/// Two ends that have sent each other a message, and wait for the next.
async fn exchanged(kind: Kind, keys: &Keys, listener: &TcpListener) -> [Box<dyn End>; 2] {
    let [here, there] = pair(listener).map(|socket| tokio::net::TcpStream::from_std(socket).unwrap());
    let (mut here, mut there) = join(kind.end(keys, here, Side::Connects), kind.end(keys, there, Side::Accepts)).await;
    let messages = Messages::new(64, 1);
    let [ask, answer, idle] = [Verb::Ask, Verb::Answer, Verb::Idle].map(|verb| Job { verb, messages: messages.clone() });
    join(here.run(&ask), there.run(&answer)).await;
    join(here.run(&idle), there.run(&idle)).await;
    [here, there]
}

/// Bytes of this process that are in memory.
fn resident() -> f64 {
    let pages = fs::read_to_string("/proc/self/statm").unwrap();
    let page: f64 = first_line("getconf PAGESIZE").and_then(|size| size.parse().ok()).unwrap_or(4096.0);
    pages.split(' ').nth(1).unwrap().parse::<f64>().unwrap() * page
}
