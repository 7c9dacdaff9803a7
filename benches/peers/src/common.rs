//! What both programs of this folder say alike: medians, times, versions, where and when.

use std::{
    fs,
    process::{Command, Stdio},
};

/// Sorts them.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Seconds, in the unit that suits.
pub fn time(seconds: f64) -> String {
    match seconds {
        1.0.. => format!("{seconds:.2} s"),
        1e-3.. => format!("{:.1} ms", seconds * 1e3),
        1e-6.. => format!("{:.1} µs", seconds * 1e6),
        _ => format!("{:.0} ns", seconds * 1e9),
    }
}

/// The machine, without its name.
fn machine() -> String {
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

/// The version of a crate in a lock file.
pub fn version(locked: &'static str, of: &str) -> &'static str {
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

/// Machine, compiler and day.
pub fn place() -> String {
    let says = |command| first_line(command).unwrap_or_default();
    format!("{}; {}; {}", machine(), says("rustc --version"), says("date -u +%F"))
}
