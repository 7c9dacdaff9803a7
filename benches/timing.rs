//! Whether time tells what it must not: the method of dudect (Reparaz, Balasch, Verbauwhede 2017). Two classes of inputs are
//! measured in random order, and Welch's t-test asks whether their times have one mean: over all samples, and over those below
//! each of a hundred percentiles, since what disturbs a machine stands in the upper tail. |t| over 4.5 is a leak.
//!
//! `cargo bench --bench timing -- [--check] [--samples N]`. With `--check` a leak fails, and so does a control that is not found:
//! an early-exit comparison, once, in the middle of one of the measurements, so that a harness that sees nothing is no success.

use std::{hint::black_box, process::ExitCode, time::Instant};

use sealwire::{Begun, CachePolicy, Cmk, Dek, HintMode, Keyring, OpenError, Opener, Sealer};

const BOUND: f64 = 4.5;
const CROPS: usize = 100;
/// A t over fewer samples than this says nothing.
const ENOUGH: f64 = 10_000.0;
const ATTEMPTS: usize = 3;

/// xorshift64*: which class comes next must not follow any rhythm of the machine.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn bytes(&mut self) -> [u8; 32] {
        std::array::from_fn(|_| (self.next() >> 56) as u8)
    }
}

/// Mean and variance as samples come (Welford).
#[derive(Clone, Copy, Default)]
struct Moments {
    n: f64,
    mean: f64,
    squares: f64,
}

impl Moments {
    fn add(&mut self, x: f64) {
        self.n += 1.0;
        let off = x - self.mean;
        self.mean += off / self.n;
        self.squares += off * (x - self.mean);
    }
}

fn welch([a, b]: [Moments; 2]) -> f64 {
    if a.n + b.n < ENOUGH || a.n < 2.0 || b.n < 2.0 {
        return 0.0;
    }
    let error = (a.squares / (a.n - 1.0) / a.n + b.squares / (b.n - 1.0) / b.n).sqrt();
    if error > 0.0 { (a.mean - b.mean) / error } else { 0.0 }
}

/// What was measured: the t that is farthest from 0, and how far apart the classes' means are below the median.
struct Found {
    t: f64,
    apart: f64,
    median: f64,
}

/// Measures `samples` times, each of class 0 or 1. `measure` prepares an input of the class in the same way for both, and returns
/// the nanoseconds of what is asked about alone.
fn attempt(samples: usize, rng: &mut Rng, measure: &mut dyn FnMut(usize, &mut Rng) -> u64) -> Found {
    // The first samples warm everything up and say where the percentiles are; they count for nothing else.
    let mut first: Vec<u64> = (0..(samples / 10).max(1000)).map(|i| measure(i & 1, rng)).collect();
    first.sort_unstable();
    // As dudect places them: denser towards the top.
    let crop = |i: usize| first[((1.0 - 0.5f64.powf(10.0 * (i + 1) as f64 / CROPS as f64)) * first.len() as f64) as usize];
    let crops: Vec<u64> = (0..CROPS).map(crop).chain([u64::MAX]).collect();
    let mut moments = vec![[Moments::default(); 2]; crops.len()];
    for _ in 0..samples {
        let class = (rng.next() >> 63) as usize;
        let time = measure(class, rng);
        // The crops ascend, so those that keep this sample are the last ones.
        let from = crops.partition_point(|crop| *crop < time);
        moments[from..].iter_mut().for_each(|both| both[class].add(time as f64));
    }
    let t = moments.iter().map(|both| welch(*both)).max_by(|a, b| a.abs().total_cmp(&b.abs())).unwrap_or_default();
    let median = first[first.len() / 2];
    let [a, b] = moments[crops.partition_point(|crop| *crop < median)];
    Found { t, apart: a.mean - b.mean, median: median as f64 }
}

/// Times one call.
fn time<T>(call: impl FnOnce() -> T) -> u64 {
    let started = Instant::now();
    let result = black_box(call());
    let time = started.elapsed();
    drop(result);
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Makes byte `at[class]` wrong, with the same reads and writes for both classes; doing it again mends it.
fn spoil(bytes: &mut [u8], at: [usize; 2], class: usize, value: u8) {
    let mask = (class as u8).wrapping_neg();
    bytes[at[0]] ^= value & !mask;
    bytes[at[1]] ^= value & mask;
}

fn wrong(rng: &mut Rng) -> u8 {
    (rng.next() >> 56) as u8 | 1
}

const DEK: [u8; 32] = [0x3d; 32];

/// An envelope under [`DEK`], and where its block ends.
fn envelope() -> (Vec<u8>, usize) {
    let to = Cmk::from_x25519(&[1; 32]).recipient().clone();
    let mut sealer = Sealer::builder().to(to).dek(Dek::import(&DEK)).build().unwrap();
    (sealer.seal(b"", &[7; 64]).unwrap(), 153)
}

/// header_mac, wrong in its first byte or in its last: the DEK is the block's, and no Diffie-Hellman is done. `and_then` runs
/// inside the time that is taken, on the header_mac received and on the right one.
fn header_mac(and_then: fn(&[u8], &[u8]) -> bool) -> impl FnMut(usize, &mut Rng) -> u64 {
    let (mut bytes, end) = envelope();
    let mac = end - 32..end;
    let right = bytes[mac.clone()].to_vec();
    let opener = Opener::builder(Keyring::new()).cache(CachePolicy { deks: 0, ..CachePolicy::default() }).build();
    move |class, rng| {
        let value = wrong(rng);
        spoil(&mut bytes, [mac.start, mac.end - 1], class, value);
        let Ok(Begun::NeedsDek(mut waiting)) = opener.begin(&bytes) else { panic!("there is no key") };
        let dek = Dek::import(&DEK);
        let time = time(|| {
            let refused = waiting.supply(&dek).err();
            (and_then(black_box(&bytes[mac.clone()]), black_box(&right)), refused)
        });
        spoil(&mut bytes, [mac.start, mac.end - 1], class, value);
        time
    }
}

/// What must be found: the comparison that nobody should write.
fn early_exit(a: &[u8], b: &[u8]) -> bool {
    a.iter().zip(b).all(|(a, b)| black_box(a) == black_box(b))
}

/// The tag of a segment, wrong in its first byte or in its last; the block's DEK is cached.
fn tag() -> impl FnMut(usize, &mut Rng) -> u64 {
    let (mut bytes, _) = envelope();
    let opener = Opener::new(Keyring::from(Cmk::from_x25519(&[1; 32])));
    assert!(opener.open(&bytes).is_ok());
    let at = [bytes.len() - 16, bytes.len() - 1];
    move |class, rng| {
        let value = wrong(rng);
        spoil(&mut bytes, at, class, value);
        let Ok(Begun::Ready(ready)) = opener.begin(&bytes) else { panic!("its DEK is cached") };
        let time = time(|| ready.open().err());
        spoil(&mut bytes, at, class, value);
        time
    }
}

/// A block of four slots without hints; the wrapped DEK of the reader's is wrong in the first byte of its tag or in the last, so
/// that the reader tries every slot and finds none.
fn wrapped_dek() -> impl FnMut(usize, &mut Rng) -> u64 {
    let keys: Vec<Cmk> = (1..=4).map(|i| Cmk::from_x25519(&[i; 32])).collect();
    let to = keys.iter().map(|cmk| cmk.recipient().clone());
    let mut bytes = Sealer::builder().to_all(to).hints(HintMode::None).build().unwrap().seal(b"", b"x").unwrap();
    let opener = Opener::builder(Keyring::from(Cmk::from_x25519(&[2; 32])))
        .cache(CachePolicy { deks: 0, ..CachePolicy::default() })
        .build();
    assert!(opener.open(&bytes).is_ok());
    // Fixed part and enc, one slot of 52, and the end of the second slot.
    let end = (0..4).map(|i| 69 + 52 * (i + 1)).find(|end| {
        let mut other = bytes.clone();
        other[end - 1] ^= 1;
        matches!(opener.open(&other), Err(OpenError::NoMatchingKey))
    });
    let end = end.expect("one of the slots is the reader's");
    move |class, rng| {
        let value = wrong(rng);
        spoil(&mut bytes, [end - 16, end - 1], class, value);
        let time = time(|| opener.open(&bytes).err());
        spoil(&mut bytes, [end - 16, end - 1], class, value);
        time
    }
}

/// The secret key itself: one and the same key against random ones, which try a block that was sealed to another. The reader is
/// made anew each time, in memory that the one before it left: where a key lies must not be what is measured.
fn secret_key() -> impl FnMut(usize, &mut Rng) -> u64 {
    // Hints would keep the keys from being tried.
    let to = Cmk::from_x25519(&[1; 32]).recipient().clone();
    let bytes = Sealer::builder().to(to).hints(HintMode::None).build().unwrap().seal(b"", b"x").unwrap();
    let fixed = Rng(0x9e37_79b9_7f4a_7c15).bytes();
    move |class, rng| {
        // Both are drawn, and one is taken without a branch.
        let (mut key, mask) = (rng.bytes(), (class as u8).wrapping_neg());
        key.iter_mut().zip(&fixed).for_each(|(key, fixed)| *key = *key & mask | fixed & !mask);
        let cmk = Cmk::from_x25519(&key);
        let opener = Opener::builder(Keyring::from(cmk)).cache(CachePolicy { deks: 0, ..CachePolicy::default() }).build();
        time(|| opener.open(&bytes).err())
    }
}

/// What must not leak is measured up to three times, until it is quiet once: a leak fires each time, a machine that someone else
/// uses does so once in a while. What must be found is sought as often, for the same reason.
fn ask(name: &str, samples: usize, leaks: bool, measure: &mut dyn FnMut(usize, &mut Rng) -> u64) -> bool {
    let mut rng = Rng(Instant::now().elapsed().as_nanos() as u64 ^ (u64::from(std::process::id()) << 20) | 1);
    (0..ATTEMPTS).any(|_| {
        let Found { t, apart, median } = attempt(samples, &mut rng, measure);
        let fires = t.abs() > BOUND;
        let says = if fires { "differs" } else { "no difference" };
        println!("{name:<52} {samples:>9} samples of {median:>7.0} ns   |t| = {:>8.2}   {apart:>+7.2} ns   {says}", t.abs());
        fires == leaks
    })
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let check = args.iter().any(|arg| arg == "--check");
    let given = args.iter().position(|arg| arg == "--samples").map(|at| {
        let number = args.get(at + 1).and_then(|n| n.replace('_', "").parse().ok());
        number.expect("--samples N")
    });
    let many = given.unwrap_or(1_000_000);
    // A Diffie-Hellman each: a tenth of the samples where it is to be quick.
    let slow = given.unwrap_or(if check { 100_000 } else { 1_000_000 });
    let quiet = |_: &[u8], _: &[u8]| false;
    let asked = [
        ask("control: an early exit beside header_mac (must differ)", many, true, &mut header_mac(early_exit)),
        ask("header_mac, wrong in its first or last byte", many, false, &mut header_mac(quiet)),
        ask("a segment's tag, wrong in its first or last byte", many, false, &mut tag()),
        ask("a wrapped DEK's tag, wrong in first or last byte", slow, false, &mut wrapped_dek()),
        ask("a secret key, the same or random", slow, false, &mut secret_key()),
    ];
    match asked.iter().all(|as_it_should| *as_it_should) {
        true => ExitCode::SUCCESS,
        false if !asked[0] => {
            eprintln!("the control was not found: these measurements say nothing");
            ExitCode::from(u8::from(check))
        }
        false => {
            eprintln!("time tells what it must not");
            ExitCode::from(u8::from(check))
        }
    }
}
