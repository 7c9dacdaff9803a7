//! What sealwire costs beside its peers on connections, and message by message. `run connections`, in the folder above, starts it.
#![forbid(unsafe_code)]

mod calls;
#[path = "../../src/common.rs"]
mod common;
mod ends;
mod gathered;
mod idle;
mod kinds;
mod noise;
mod plot;
mod report;
mod rounds;
mod schemes;
mod wires;

use std::{fs, path::PathBuf, time::Duration};

use kinds::{ALL, TLS};
use plot::Panel;
use rounds::Rounds;
use wires::{Plan, Row};

const USAGE: &str = "arguments: [--rounds N] [--time MS] [--processors 1|2] [--idle N] [--report FILE] [--plot FILE]
  --rounds      that count; each measures everyone once (15)
  --time        of one measurement of throughput, to which messages are counted out (60)
  --processors  for the two ends of a connection (1)
  --idle        connections that are open and silent (2000)
  --report      a Markdown file to write
  --plot        an SVG file to write; the report shows it, by its name alone";

struct Options {
    plan: Plan,
    idle: usize,
    report: Option<PathBuf>,
    plot: Option<PathBuf>,
}

/// `None` where they are not understood.
fn options() -> Option<Options> {
    let plan = Plan { rounds: 15, target: Duration::from_millis(60), processors: 1 };
    let mut options = Options { plan, idle: 2000, report: None, plot: None };
    let mut args = std::env::args().skip(1);
    while let Some(name) = args.next() {
        let value = args.next()?;
        match &name[..] {
            "--rounds" => options.plan.rounds = value.parse().ok()?,
            "--time" => options.plan.target = Duration::from_millis(value.parse().ok()?),
            "--processors" => options.plan.processors = value.parse().ok()?,
            "--idle" => options.idle = value.parse().ok()?,
            "--report" => options.report = Some(value.into()),
            "--plot" => options.plot = Some(value.into()),
            _ => return None,
        }
    }
    let Plan { rounds, target, processors } = options.plan;
    (rounds > 0 && !target.is_zero() && (1..=2).contains(&processors) && options.idle > 0).then_some(options)
}

/// The version of a crate that is compared here.
fn version(of: &str) -> &'static str {
    common::version(include_str!("../Cargo.lock"), of)
}

fn main() {
    let args: Vec<_> = std::env::args().collect();
    if let [_, first, kind, pairs] = &args[..]
        && first == idle::ARGUMENT
    {
        return println!("{}", idle::process(kind.parse().unwrap(), pairs.parse().unwrap()));
    }
    let Some(options) = options() else {
        eprintln!("{USAGE}");
        std::process::exit(2);
    };
    // Before this process keeps to some processor.
    let place = common::place();
    println!("idle connections");
    let idle = idle::measure(options.idle);
    println!("{}\nconnections", report::idle(&idle));
    let rows = wires::measure(&options.plan);
    println!("primitives");
    let rounds = options.plan.rounds;
    let aeads: Vec<_> = calls::SIZES.iter().map(|size| calls::aeads(rounds, *size)).collect();
    let x25519s = calls::x25519s(rounds);
    println!("{}\n{}\nmessages", report::aeads(&aeads), report::x25519s(&x25519s));
    let schemes = schemes::measure(rounds);
    println!("{}", report::schemes(&schemes));
    if let Some(path) = &options.plot {
        fs::write(path, plot(&rows)).expect("the plot cannot be written");
    }
    if let Some(path) = &options.report {
        let text = report::document(&options, &Measured { place, idle, rows, aeads, x25519s, schemes });
        fs::write(path, text).expect("the report cannot be written");
    }
}

/// All that a run gives.
struct Measured {
    place: String,
    idle: Vec<f64>,
    rows: Vec<Row>,
    aeads: Vec<Rounds>,
    x25519s: Rounds,
    schemes: Vec<schemes::Row>,
}

fn plot(rows: &[Row]) -> String {
    let panel = |title: &str, of: fn(&Row) -> &Rounds| Panel {
        title: title.into(),
        groups: rows
            .iter()
            .map(|row| (report::size(row.size), (0..ALL.len()).map(|kind| of(row).ratio(kind, TLS)).collect()))
            .collect(),
    };
    let panels = [
        panel("Throughput, fed, one flush at the end", |row| &row.fed),
        panel("Throughput, a flush after each message", |row| &row.sent),
        panel("Round trips of one message", |row| &row.trips),
    ];
    plot::svg("Times as fast as TLS 1.3 with AES-256-GCM, over loopback TCP", &ALL.map(|kind| kind.name()), &panels)
}
