//! What was measured, in words and Markdown.

use std::{
    fmt::Write,
    fs,
    process::{Command, Stdio},
};

use crate::pairs::{Sides, Taken};

/// One line of a table.
pub struct Line {
    pub verb: &'static str,
    pub peer: String,
    pub about: &'static str,
    pub sides: Sides,
}

impl Line {
    /// Shows it as soon as it is there.
    pub fn print(self) -> Self {
        let Sides { ours, peer, ratio, least, most } = &self.sides;
        let (ours, theirs) = (time(ours.seconds), time(peer.seconds));
        println!("{:<8} {:<28} {ours:>9} {theirs:>9} {ratio:>7.2}  ({least:.2} to {most:.2})", self.verb, self.peer);
        self
    }
}

/// A table of what is done with payloads of so many bytes.
pub fn table(lines: &[Line], bytes: f64, processes: bool) -> String {
    let mut text = String::from("| | peer | sealwire | peer | peer / sealwire | least to most |");
    text += if processes { " sealwire: user, system, peak | peer: user, system, peak |\n" } else { "\n" };
    text += if processes { "|---|---|--:|--:|--:|--:|--:|--:|\n" } else { "|---|---|--:|--:|--:|--:|\n" };
    for Line { verb, peer: name, sides: Sides { ours, peer, ratio, least, most }, .. } in lines {
        let (a, b) = (pace(ours, bytes), pace(peer, bytes));
        write!(text, "| {verb} | {name} | {a} | {b} | **{ratio:.2}** | {least:.2} to {most:.2} |").unwrap();
        let used = |taken: &Taken| format!(" {}, {}, {:.0} MiB |", time(taken.user), time(taken.system), taken.peak);
        text += &if processes { used(ours) + &used(peer) + "\n" } else { "\n".into() };
    }
    text
}

/// What the peers are. Each has two lines, one after the other.
pub fn about(lines: &[Line]) -> String {
    lines.iter().step_by(2).fold(String::new(), |text, Line { peer, about, .. }| text + &format!("- {peer}: {about}.\n"))
}

/// Time, and bytes in that time where they are many.
fn pace(taken: &Taken, bytes: f64) -> String {
    let mib = bytes / f64::from(1 << 20);
    if mib < 1.0 { time(taken.seconds) } else { format!("{} ({:.0} MiB/s)", time(taken.seconds), mib / taken.seconds) }
}

fn time(seconds: f64) -> String {
    match seconds {
        1.0.. => format!("{seconds:.2} s"),
        1e-3.. => format!("{:.1} ms", seconds * 1e3),
        _ => format!("{:.1} µs", seconds * 1e6),
    }
}

/// The machine, without its name.
pub fn machine() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field =
        |name: &str| cpu.lines().find(|line| line.starts_with(name)).and_then(|line| line.split(": ").nth(1)).unwrap_or("");
    let flags: Vec<_> = field("flags").split(' ').collect();
    let known: Vec<_> = ["avx2", "avx512f", "aes", "vaes", "sha_ni"].into_iter().filter(|flag| flags.contains(flag)).collect();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = first_line("uname -r").unwrap_or_default();
    let kernel = kernel.split('-').next().unwrap_or_default();
    let shared = if flags.contains(&"hypervisor") { ", a virtual machine" } else { "" };
    format!("{} ({}), {cores} cores, Linux {kernel}{shared}", field("model name"), known.join(", "))
}

/// The version of a crate that is compared here.
pub fn version(of: &str) -> &'static str {
    let locked = include_str!("../Cargo.lock");
    // From the end: where others need an older one too, ours is the newer.
    let entry = locked.rsplit("[[package]]").find(|entry| entry.starts_with(&format!("\nname = \"{of}\"\n")));
    entry.and_then(|entry| entry.split('"').nth(3)).unwrap_or("?")
}

/// What a command says first, if it runs.
pub fn first_line(command: &str) -> Option<String> {
    let mut words = command.split(' ');
    let output = Command::new(words.next()?).args(words).stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.lines().next().unwrap_or_default().to_owned())
}
