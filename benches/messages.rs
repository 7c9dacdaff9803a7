//! Time per message, by size and kind, beside the bare primitives. `benches/ratios.rs` pairs them.

use divan::{Bencher, counter::BytesCount};
use sealwire::{CachePolicy, Cmk, Keyring, Opener, Reuse, Sealer, wire};

fn main() {
    divan::main();
}

const SIZES: [usize; 4] = [64, 1024, 65_536, 1 << 20];

fn sealer(cmk: &Cmk, reuse: Reuse) -> Sealer {
    Sealer::builder().to(cmk.recipient().clone()).reuse(reuse).build().unwrap()
}

const ONE_DEK: Reuse = Reuse { messages: u64::MAX, bytes: u64::MAX, age: std::time::Duration::MAX };

#[divan::bench(args = SIZES)]
fn seal_reused(bencher: Bencher, size: usize) {
    let mut sealer = sealer(&Cmk::generate().unwrap(), ONE_DEK);
    let payload = vec![7; size];
    bencher.counter(BytesCount::new(size)).bench_local(|| sealer.seal(b"", &payload).unwrap());
}

#[divan::bench(args = SIZES)]
fn seal_fresh(bencher: Bencher, size: usize) {
    let mut sealer = sealer(&Cmk::generate().unwrap(), Reuse::NEVER);
    let payload = vec![7; size];
    bencher.counter(BytesCount::new(size)).bench_local(|| sealer.seal(b"", &payload).unwrap());
}

#[divan::bench(args = SIZES)]
fn open_cached(bencher: Bencher, size: usize) {
    let cmk = Cmk::generate().unwrap();
    let envelope = sealer(&cmk, ONE_DEK).seal(b"", &vec![7; size]).unwrap();
    let opener = Opener::new(Keyring::from(cmk));
    bencher.counter(BytesCount::new(size)).bench_local(|| opener.open(&envelope).unwrap());
}

#[divan::bench(args = SIZES)]
fn open_fresh(bencher: Bencher, size: usize) {
    let cmk = Cmk::generate().unwrap();
    let envelope = sealer(&cmk, ONE_DEK).seal(b"", &vec![7; size]).unwrap();
    let opener = Opener::builder(Keyring::from(cmk)).cache(CachePolicy { deks: 0, ..CachePolicy::default() }).build();
    bencher.counter(BytesCount::new(size)).bench_local(|| opener.open(&envelope).unwrap());
}

/// A DEK for every message, to one recipient and to ten, of each KEM.
#[cfg(feature = "pq")]
#[divan::bench(args = [(false, 1), (true, 1), (false, 10), (true, 10)])]
fn seal_by_kem(bencher: Bencher, (pq, readers): (bool, usize)) {
    let to = (0..readers).map(|_| cmk(pq).recipient().clone());
    let mut sealer = Sealer::builder().to_all(to).reuse(Reuse::NEVER).build().unwrap();
    bencher.bench_local(|| sealer.seal(b"", &[7; 64]).unwrap());
}

/// The same, opened by one of them.
#[cfg(feature = "pq")]
#[divan::bench(args = [false, true])]
fn open_by_kem(bencher: Bencher, pq: bool) {
    let cmk = cmk(pq);
    let envelope = sealer(&cmk, ONE_DEK).seal(b"", &[7; 64]).unwrap();
    let opener = Opener::builder(Keyring::from(cmk)).cache(CachePolicy { deks: 0, ..CachePolicy::default() }).build();
    bencher.bench_local(|| opener.open(&envelope).unwrap());
}

#[cfg(feature = "pq")]
fn cmk(pq: bool) -> Cmk {
    if pq { Cmk::generate_pq().unwrap() } else { Cmk::generate().unwrap() }
}

#[divan::bench]
fn parse(bencher: Bencher) {
    let cmk = Cmk::generate().unwrap();
    let envelope = sealer(&cmk, ONE_DEK).seal(b"", &[7; 64]).unwrap();
    let limits = wire::Limits::default();
    bencher.bench_local(|| {
        sealwire::untrusted::Message::parse(divan::black_box(&envelope), &limits).map(|message| message.plaintext)
    });
}
