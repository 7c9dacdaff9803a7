//! What was measured, as Markdown.

use std::fmt::Write;

use crate::{
    Measured, Options, calls,
    common::{median, time},
    kinds::{self, ALL, PLAIN, TLS},
    rounds::Rounds,
    schemes, version,
    wires::{self, Plan, Row},
};

/// All of it.
pub fn document(options: &Options, measured: &Measured) -> String {
    let Options { plan: Plan { rounds, target, processors }, idle: pairs, plot, .. } = options;
    let Measured { place, idle: memory, rows, aeads: ciphers, x25519s: agreements, schemes: all } = measured;
    let where_to = if *processors == 1 { "both on one processor" } else { "each on a processor of its own" };
    let backend = if cfg!(feature = "aws-lc") { "the backend of AWS-LC (`aws-lc`)" } else { "the portable backend" };
    let plot = plot.as_ref().and_then(|path| path.file_name()).map(|name| format!("\n![Bars]({})\n", name.display()));
    format!(
        "# What connections and messages cost beside peers

`benches/peers/run connections` measures this again and writes this file. All that stand in a table are measured in turn, {rounds} rounds
after one that does not count, each round begun by another. Numbers are medians; multiples are medians of what the rounds say, above 1
where faster. What arrives is counted, and the first and the last of each measurement are compared with what was sent. sealwire is built
with {backend}.

## Connections

Loopback TCP without delay, tokio; two threads with a runtime each, {where_to}, connected before anything is timed; about
{} ms each. Read buffers and the boundary of write buffers are 64 KiB, where nothing else is said.

{}{}
### Fed, one flush at the end

{}
### A flush after each message

{}
### Round trips

One message and one of the same size back: half of all trips take no longer than the first number, 99 of 100 no longer than the second.

{}
### Memory

{pairs} connections that have carried a message of 64 bytes each way, and both of whose ends wait for the next: what this process has in
memory for the two, without what the kernel has.

{}
## Messages of {} bytes

From memory to memory, one by one; both ends in one thread.

{}
hpke, age and the boxes have their own X25519, in Rust or libsodium's; sealwire's here is that of {}.

The same message under one CMK, from the way that uses the CMK the most to that which uses it the least:

{}
## Primitives

Sealing in place:

{}
{}
## Where and when

{place}. aes-gcm {}, age {}, aws-lc-rs {}, chacha20poly1305 {}, hpke {}, tokio {}, x25519-dalek {}.
",
        target.as_millis(),
        kinds::about(),
        plot.unwrap_or_default(),
        throughput(rows, |row| &row.fed),
        throughput(rows, |row| &row.sent),
        trips(rows),
        idle(memory),
        schemes::SIZE,
        schemes(all),
        if cfg!(feature = "aws-lc") { "AWS-LC" } else { "x25519-dalek" },
        ways(all),
        aeads(ciphers),
        x25519s(agreements),
        version("aes-gcm"),
        version("age"),
        version("aws-lc-rs"),
        version("chacha20poly1305"),
        version("hpke"),
        version("tokio"),
        version("x25519-dalek"),
    )
}

/// `64 B`, `16 KiB`.
pub fn size(bytes: usize) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}

/// A table with a line for each of `names` and a column for each size.
fn by_size(names: &[String], sizes: &[usize], cell: impl Fn(usize, usize) -> String) -> String {
    let mut text = sizes.iter().fold(String::from("| |"), |text, bytes| text + &format!(" {} |", size(*bytes)));
    text += &format!("\n|---|{}\n", "--:|".repeat(sizes.len()));
    for (i, name) in names.iter().enumerate() {
        let cells = (0..sizes.len()).map(|at| format!(" {} |", cell(i, at)));
        writeln!(text, "| {name} |{}", cells.collect::<String>()).unwrap();
    }
    text
}

fn wires_by_size(cell: impl Fn(usize, usize) -> String) -> String {
    by_size(&ALL.map(|kind| kind.name()), &wires::SIZES, cell)
}

/// Messages and bytes a second, and how many times as much as others.
fn throughput(rows: &[Row], of: fn(&Row) -> &Rounds) -> String {
    let pace = wires_by_size(|kind, at| pace(of(&rows[at]).median(kind), rows[at].size));
    format!("{pace}\n{RATIOS}\n\n{}", ratios(rows, of))
}

/// Round trips: the half and the hundredth, and how many times as fast as others.
fn trips(rows: &[Row]) -> String {
    let times = wires_by_size(|kind, at| {
        let Row { trips, p99, .. } = &rows[at];
        format!("{}, {}", time(trips.median(kind)), time(p99[kind]))
    });
    format!("{times}\n{RATIOS}\n\n{}", ratios(rows, |row| &row.trips))
}

const RATIOS: &str = "The same as **multiples of TLS 1.3 with AES-256-GCM** / of plain:";

fn ratios(rows: &[Row], of: fn(&Row) -> &Rounds) -> String {
    let table = wires_by_size(|kind, at| {
        let rounds = of(&rows[at]);
        format!("**{:.2}** / {:.2}", rounds.ratio(kind, TLS), rounds.ratio(kind, PLAIN))
    });
    let kinds = (0..ALL.len()).filter(|kind| *kind != TLS);
    let mut spreads: Vec<_> = kinds.flat_map(|kind| rows.iter().map(move |row| of(row).spread(kind, TLS))).collect();
    let (half, most) = (median(&mut spreads) * 100.0, spreads[spreads.len() - 1] * 100.0);
    format!(
        "{table}\nHalf of the rounds are within {half:.0} % of such a multiple of TLS, in the worst place within {most:.0} %.\n"
    )
}

/// Messages and bytes in a second.
fn pace(seconds: f64, size: usize) -> String {
    let many = match 1.0 / seconds {
        many @ 1e6.. => format!("{:.2} M/s", many / 1e6),
        many @ 1e4.. => format!("{:.0} k/s", many / 1e3),
        many @ 1e3.. => format!("{:.1} k/s", many / 1e3),
        many => format!("{many:.0} /s"),
    };
    format!("{many}, {:.2} GB/s", size as f64 / seconds / 1e9)
}

/// Memory of each kind.
pub fn idle(all: &[f64]) -> String {
    let kib = |bytes: f64| format!("{:.1} KiB", bytes / 1024.0);
    let lines = ALL.iter().zip(all).map(|(kind, bytes)| {
        let over = if *bytes == all[PLAIN] { String::new() } else { kib(bytes - all[PLAIN]) };
        format!("| {} | {} | {over} |\n", kind.name(), kib(*bytes))
    });
    format!("| | a pair of ends | over plain |\n|---|--:|--:|\n{}", lines.collect::<String>())
}

/// The AEADs alone.
pub fn aeads(all: &[Rounds]) -> String {
    let names = calls::AEADS.map(|(cipher, by)| format!("{cipher}, {by}"));
    by_size(&names, &calls::SIZES, |call, at| {
        let seconds = all[at].median(call);
        format!("{} ({:.2} GB/s)", time(seconds), calls::SIZES[at] as f64 / seconds / 1e9)
    })
}

/// X25519 alone; two lines each.
pub fn x25519s(rounds: &Rounds) -> String {
    let lines = calls::X25519S
        .iter()
        .enumerate()
        .map(|(i, (what, by))| format!("| {what}, {by} | {} | {:.2} |\n", time(rounds.median(i)), rounds.ratio(i, i & !1)));
    format!("| | time | times as fast as x25519-dalek |\n|---|--:|--:|\n{}", lines.collect::<String>())
}

/// All schemes.
pub fn schemes(rows: &[schemes::Row]) -> String {
    let mut text =
        String::from("| | key | seal | open | bytes | seal, open: times as fast as HPKE |\n|---|---|--:|--:|--:|--:|\n");
    for schemes::Row { name, keyed, seal, open, bytes, ratios, .. } in rows {
        let key = if *keyed { "is there" } else { "of the receiver" };
        let (seal, open, [to_seal, to_open]) = (time(*seal), time(*open), ratios.map(multiple));
        writeln!(text, "| {name} | {key} | {seal} | {open} | {bytes:.0} | {to_seal}, {to_open} |").unwrap();
    }
    text
}

fn multiple(of: f64) -> String {
    if of < 10.0 { format!("{of:.2}") } else { format!("{of:.0}") }
}

/// Those schemes that are ways to use one CMK.
fn ways(rows: &[schemes::Row]) -> String {
    let mut text = String::from("| | seal | open | bytes | over the payload |\n|---|--:|--:|--:|--:|\n");
    for schemes::Row { way, seal, open, bytes, .. } in rows {
        let Some(way) = way else { continue };
        let over = bytes - schemes::SIZE as f64;
        writeln!(text, "| {way} | {} | {} | {bytes:.0} | {over:.0} |", time(*seal), time(*open)).unwrap();
    }
    text
}
