//! What was measured, in words and Markdown.

use std::fmt::Write;

use crate::{
    common::{self, time},
    pairs::{Sides, Taken},
};

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

/// The version of a crate that is compared here.
pub fn version(of: &str) -> &'static str {
    common::version(include_str!("../Cargo.lock"), of)
}
