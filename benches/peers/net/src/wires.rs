//! Throughput and round trips over loopback TCP. Each end is a thread with a runtime of its own.

use std::{
    net::{TcpListener, TcpStream},
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use core_affinity::CoreId;
use tokio::runtime::{Builder, Runtime};

use crate::{
    common::{median, time},
    ends::{Done, End, Job, Messages, Verb},
    kinds::{ALL, Keys, Kind, Side, TLS},
    rounds::{Rounds, calibrate},
};

pub const SIZES: [usize; 5] = [64, 256, 1024, 16 << 10, 1 << 20];

/// What was measured with messages of one size.
pub struct Row {
    pub size: usize,
    pub fed: Rounds,
    pub sent: Rounds,
    /// Half of the round trips are faster; of each round, and so of these the median and ratios.
    pub trips: Rounds,
    /// Of all round trips of all rounds, what one in a hundred exceeds.
    pub p99: Vec<f64>,
}

impl Row {
    /// Multiples of TLS, shown as soon as they are there.
    fn line(&self, kind: usize) -> String {
        let of = |rounds: &Rounds| format!("{:>9} {:>5.2}", time(rounds.median(kind)), rounds.ratio(kind, TLS));
        format!("fed {}   sent {}   trip {}", of(&self.fed), of(&self.sent), of(&self.trips))
    }
}

pub struct Plan {
    pub rounds: usize,
    pub target: Duration,
    pub processors: usize,
}

/// All kinds with all sizes.
pub fn measure(plan: &Plan) -> Vec<Row> {
    let keys = Arc::new(Keys::generate());
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    // The last: what else goes on often has the first.
    let core = |i| cores.iter().rev().nth(i % plan.processors).copied();
    let ends = [Remote::start(&keys, core(0), Side::Connects), Remote::start(&keys, core(1), Side::Accepts)];
    ALL.iter().for_each(|kind| connect(*kind, &ends));
    let show = |row: Row| {
        let names = ALL.iter().enumerate();
        names.for_each(|(i, kind)| println!("{:>8} {:<36} {}", row.size, kind.name(), row.line(i)));
        row
    };
    SIZES.iter().map(|size| show(row(plan, *size, &ends))).collect()
}

fn row(plan: &Plan, size: usize, ends: &[Remote; 2]) -> Row {
    let through = |verb| {
        let run = |kind: usize, messages: &Messages| {
            let (sent, received) = both(ends, kind, verb, Verb::Receive, messages);
            received.ended - sent.began
        };
        let jobs = jobs(plan.target, size, run);
        let [rounds] = Rounds::of(plan.rounds, ALL.len(), |i| [run(i, &jobs[i].1).as_secs_f64() / jobs[i].0 as f64]);
        rounds
    };
    let (fed, sent) = (through(Verb::Feed), through(Verb::Send));
    let ask = |kind: usize, messages: &Messages| both(ends, kind, Verb::Ask, Verb::Answer, messages).0;
    let jobs = jobs(plan.target / 2, size, |kind, messages| {
        let done = ask(kind, messages);
        done.ended - done.began
    });
    let mut pool = vec![Vec::new(); ALL.len()];
    let [trips] = Rounds::of(plan.rounds, ALL.len(), |i| {
        let mut trips = ask(i, &jobs[i].1).trips;
        pool[i].extend_from_slice(&trips);
        [median(&mut trips)]
    });
    let p99 = pool.into_iter().map(|mut all| {
        all.sort_by(f64::total_cmp);
        all[all.len() * 99 / 100]
    });
    Row { size, fed, sent, trips, p99: p99.collect() }
}

/// How many messages take so long, for each kind.
fn jobs(target: Duration, size: usize, run: impl Fn(usize, &Messages) -> Duration) -> Vec<(usize, Messages)> {
    let messages = Messages::new(size, 0);
    let job = |kind| {
        let n = calibrate(target, 2, 1 << 24, |n| run(kind, &messages.counted(n)));
        (n, messages.counted(n))
    };
    (0..ALL.len()).map(job).collect()
}

/// One end does this and the other that, on their connection of that kind.
fn both(ends: &[Remote; 2], kind: usize, here: Verb, there: Verb, messages: &Messages) -> (Done, Done) {
    // First those who wait.
    for (end, verb) in [(&ends[1], there), (&ends[0], here)] {
        end.tell(Command::Run(kind, Job { verb, messages: messages.clone() }));
    }
    (ends[0].done(), ends[1].done())
}

/// Opens a connection of a kind, and waits until both ends are ready.
fn connect(kind: Kind, ends: &[Remote; 2]) {
    let sockets = pair(&TcpListener::bind("127.0.0.1:0").unwrap());
    for (end, socket) in ends.iter().zip(sockets) {
        end.tell(Command::Connect(kind, socket));
    }
    ends.iter().for_each(|end| _ = end.done());
}

/// Two connected sockets for tokio.
pub fn pair(listener: &TcpListener) -> [TcpStream; 2] {
    let here = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (there, _) = listener.accept().unwrap();
    for socket in [&here, &there] {
        socket.set_nodelay(true).unwrap();
        socket.set_nonblocking(true).unwrap();
    }
    [here, there]
}

enum Command {
    Connect(Kind, TcpStream),
    /// On the connection with this number.
    Run(usize, Job),
}

/// The thread that has one end of every connection.
struct Remote {
    commands: mpsc::Sender<Command>,
    done: mpsc::Receiver<Done>,
}

impl Remote {
    fn start(keys: &Arc<Keys>, core: Option<CoreId>, side: Side) -> Self {
        let (commands, todo) = mpsc::channel();
        let (tell, done) = mpsc::channel();
        let keys = keys.clone();
        thread::spawn(move || {
            assert!(core.is_some_and(core_affinity::set_for_current), "no processor to keep to");
            let runtime = runtime();
            let mut ends = Vec::new();
            for command in todo {
                // Whoever asked may have panicked.
                _ = tell.send(obey(&runtime, &keys, side, &mut ends, command));
            }
        });
        Self { commands, done }
    }

    fn tell(&self, command: Command) {
        self.commands.send(command).unwrap();
    }

    fn done(&self) -> Done {
        self.done.recv().unwrap()
    }
}

pub fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn obey(runtime: &Runtime, keys: &Keys, side: Side, ends: &mut Vec<Box<dyn End>>, command: Command) -> Done {
    runtime.block_on(async {
        match command {
            Command::Connect(kind, socket) => {
                let socket = tokio::net::TcpStream::from_std(socket).unwrap();
                ends.push(kind.end(keys, socket, side).await);
                Done::nothing()
            }
            Command::Run(end, job) => ends[end].run(&job).await,
        }
    })
}
