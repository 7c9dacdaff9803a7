//! What sealwire costs beside its peers: in process from memory to memory, and as programs on files. `run` starts it.
#![forbid(unsafe_code)]

mod common;
mod memory;
mod pairs;
mod programs;
mod report;

use std::{fs, path::PathBuf};

const USAGE: &str = "arguments: --dir FOLDER [--size MIB] [--payload MIB] [--pairs N] [--report FILE]
  --dir      an empty folder, in memory if the disk is not what is to be measured
  --size     of the file that programs encrypt (1024)
  --payload  of what is encrypted in process (64)
  --pairs    that count, of programs; five times as many in process (11)
  --report   a Markdown file to write";

struct Options {
    dir: PathBuf,
    size: u64,
    payload: usize,
    pairs: usize,
    report: Option<PathBuf>,
}

/// `None` where they are not understood.
fn options() -> Option<Options> {
    let mut options = Options { dir: PathBuf::new(), size: 1024, payload: 64, pairs: 11, report: None };
    let mut args = std::env::args().skip(1);
    while let Some(name) = args.next() {
        let value = args.next()?;
        match &name[..] {
            "--dir" => options.dir = value.into(),
            "--size" => options.size = value.parse().ok()?,
            "--payload" => options.payload = value.parse().ok()?,
            "--pairs" => options.pairs = value.parse().ok()?,
            "--report" => options.report = Some(value.into()),
            _ => return None,
        }
    }
    (options.dir.is_dir() && options.size > 0 && options.payload > 0 && options.pairs >= 5).then_some(options)
}

fn main() {
    let Some(Options { dir, size, payload, pairs, report: path }) = options() else {
        eprintln!("{USAGE}\nAt least five pairs are counted.");
        std::process::exit(2);
    };
    println!("{:<37} {:>9} {:>9} {:>7}", "", "sealwire", "peer", "ratio");
    println!("programs on a file of {size} MiB");
    // First, while this process is small.
    let programs = programs::measure(&dir, size, pairs);
    println!("{payload} MiB in process");
    let large = memory::measure(payload << 20, pairs * 5);
    println!("1 KiB in process");
    let small = memory::measure(1024, pairs * 5);
    let Some(path) = path else { return };
    let skipped: String = programs.skipped.iter().map(|line| format!("\n{line}\n")).collect();
    let text = format!(
        "# What files and messages cost beside peers

`benches/peers/run` measures this again and writes this file. Both sides of a line are measured in turn (sealwire, peer,
sealwire, peer …) after a warm-up that does not count, and every one is first seen to give back the bytes that it got. Times are
medians; **peer / sealwire** is the median of what the pairs say, above 1 where sealwire is faster.

## Programs on a file of {size} MiB

Whole processes by the clock, {pairs} pairs; files in memory-backed storage, where most of the system's time goes into the pages of the
new file. user and system are CPU time. A process that does nothing peaks at {:.0} MiB here, and less is not told apart. {} (X25519,
and the AEAD that `--suite auto` takes) beside:

{}
{}{skipped}
## In process, {payload} MiB

Memory to memory, {} pairs. sealwire is {}.

{}
## In process, 1 KiB

{}
{}
## Where and when

{}.
",
        programs.floor,
        programs.ours,
        report::table(&programs.lines, (size << 20) as f64, true),
        report::about(&programs.lines),
        pairs * 5,
        memory::OURS,
        report::table(&large, (payload << 20) as f64, false),
        report::table(&small, 1024.0, false),
        report::about(&small),
        common::place(),
    );
    fs::write(path, text).expect("the report cannot be written");
}
