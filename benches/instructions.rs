//! One operation, so many times, for `tests/instructions` to count its instructions under valgrind.
//!
//! `instructions OPERATION N` sets up and does it N times. What the set-up does is the same for every N, and nothing is taken down, so
//! that the difference of two counts is that of the operations alone. `list` names the operations, each with the N that suits; `cpu`
//! names what of the processor the program sees. Without a name it does nothing: `cargo bench` runs it too.

use std::{hint::black_box, mem, time::Duration};

use bytes::{Bytes, BytesMut};
use sealwire::{
    CachePolicy, ChannelOpener, ChannelSealer, Cmk, Keyring, Opener, Reuse, Role, Sealer, Suite,
    codec::{EnvelopeCodec, OpeningCodec, SealingCodec},
    open::untrusted::Message,
    wire::Limits,
};
use tokio_util::codec::{Decoder, Encoder};

const SUITES: [(&str, Suite); 2] = [("1", Suite::X25519ChaCha20Poly1305), ("2", Suite::X25519Aes256Gcm)];
/// With a key, and so for each suite.
const KEYED: [(&str, usize); 6] =
    [("seal", 500), ("open", 500), ("encode", 500), ("decode", 500), ("seal-fresh", 20), ("open-fresh", 20)];
/// Without one.
const KEYLESS: [(&str, usize); 2] = [("parse", 500), ("route", 500)];
/// So many messages are prepared, whatever N is.
const MOST: usize = 1000;

const PAYLOAD: [u8; 64] = [7; 64];
const ONE_DEK: Reuse = Reuse { messages: u64::MAX, bytes: u64::MAX, age: Duration::MAX };
const NO_CACHE: CachePolicy = CachePolicy { deks: 0, bytes: 0, age: Duration::ZERO };

type Operation = Box<dyn FnMut()>;

fn main() {
    let mut words = std::env::args().skip(1).filter(|word| !word.starts_with("--"));
    match (words.next().as_deref(), words.next()) {
        (None, _) => {}
        (Some("list"), None) => list(),
        (Some("cpu"), None) => println!("{}", cpu()),
        (Some(name), Some(n)) => run(name, n.parse().expect("N is a number")),
        _ => panic!("usage: instructions [list | cpu | OPERATION N]"),
    }
}

fn list() {
    for (name, n) in KEYED {
        SUITES.iter().for_each(|(suite, _)| println!("{name}/{suite} {n}"));
    }
    KEYLESS.iter().for_each(|(name, n)| println!("{name} {n}"));
}

fn run(name: &str, n: usize) {
    assert!(n <= MOST, "at most {MOST}");
    let mut operation = set_up(name);
    (0..n).for_each(|_| operation());
    mem::forget(operation);
}

fn set_up(name: &str) -> Operation {
    let (name, number) = name.split_once('/').unwrap_or((name, "1"));
    let suite = SUITES.iter().find(|(is, _)| *is == number).expect("suite 1 or 2").1;
    match name {
        "seal" => seal(suite, ONE_DEK),
        "seal-fresh" => seal(suite, Reuse::NEVER),
        "open" => open(suite, CachePolicy::default()),
        "open-fresh" => open(suite, NO_CACHE),
        "encode" => encode(suite),
        "decode" => decode(suite),
        "parse" => parse(),
        "route" => route(),
        _ => panic!("no operation of this name; `list` has them"),
    }
}

fn cmk() -> Cmk {
    Cmk::from_x25519(&[7; 32])
}

fn sealer(suite: Suite, reuse: Reuse) -> Sealer {
    Sealer::builder().to(cmk().recipient().clone()).suite(suite).reuse(reuse).build().unwrap()
}

fn envelope(suite: Suite) -> Vec<u8> {
    sealer(suite, ONE_DEK).seal(b"", &PAYLOAD).unwrap()
}

/// Into a buffer that has room.
fn seal(suite: Suite, reuse: Reuse) -> Operation {
    let (mut sealer, mut out) = (sealer(suite, reuse), BytesMut::with_capacity(4096));
    sealer.seal_into(b"", &PAYLOAD, &mut out).unwrap();
    Box::new(move || {
        out.clear();
        sealer.seal_into(b"", black_box(&PAYLOAD), &mut out).unwrap();
    })
}

/// In the buffer that it came in. The DEK is in the cache, where there is one.
fn open(suite: Suite, cache: CachePolicy) -> Operation {
    let envelope = envelope(suite);
    let opener = Opener::builder(Keyring::from(cmk())).cache(cache).build();
    opener.open(&envelope).unwrap();
    let mut arrived = vec![BytesMut::from(&envelope[..]); MOST];
    Box::new(move || drop(black_box(opener.open_in_place(arrived.pop().unwrap()).unwrap())))
}

/// A follow-up, into a buffer that has room.
fn encode(suite: Suite) -> Operation {
    let channel = ChannelSealer::new(sealer(suite, ONE_DEK), Role::Initiator, b"");
    let (mut codec, mut out) = (SealingCodec::from(channel), BytesMut::with_capacity(4096));
    let payload = Bytes::from_static(&PAYLOAD);
    codec.encode(payload.clone(), &mut out).unwrap();
    Box::new(move || {
        out.clear();
        codec.encode(black_box(payload.clone()), &mut out).unwrap();
    })
}

/// A follow-up, from a buffer that many wait in.
fn decode(suite: Suite) -> Operation {
    let mut channel = ChannelSealer::new(sealer(suite, ONE_DEK), Role::Initiator, b"");
    let mut input = BytesMut::new();
    (0..=MOST).for_each(|_| channel.seal(b"", &PAYLOAD, &mut input).unwrap());
    let channel = ChannelOpener::new(Opener::new(Keyring::from(cmk())), Role::Acceptor, b"");
    let mut codec = OpeningCodec::from(channel);
    codec.decode(&mut input).unwrap().expect("the envelope");
    Box::new(move || drop(black_box(codec.decode(&mut input).unwrap().expect("whole"))))
}

/// DEK block, message head and segments of an envelope.
fn parse() -> Operation {
    let (envelope, limits) = (envelope(SUITES[0].1), Limits::default());
    Box::new(move || {
        black_box(Message::parse(black_box(&envelope), &limits).unwrap());
    })
}

/// An envelope off a buffer that many wait in, as a router takes it.
fn route() -> Operation {
    let envelope = envelope(SUITES[0].1);
    let mut input = BytesMut::from(&envelope.repeat(MOST)[..]);
    let mut codec = EnvelopeCodec::default();
    Box::new(move || drop(black_box(codec.decode(&mut input).unwrap().expect("whole"))))
}

/// What decides which code runs: the primitives and the C library ask for it.
#[cfg(target_arch = "x86_64")]
fn cpu() -> String {
    use std::arch::is_x86_feature_detected as has;
    let features = [
        ("sse2", has!("sse2")),
        ("ssse3", has!("ssse3")),
        ("sse4.1", has!("sse4.1")),
        ("sse4.2", has!("sse4.2")),
        ("popcnt", has!("popcnt")),
        ("lzcnt", has!("lzcnt")),
        ("movbe", has!("movbe")),
        ("aes", has!("aes")),
        ("pclmulqdq", has!("pclmulqdq")),
        ("sha", has!("sha")),
        ("avx", has!("avx")),
        ("avx2", has!("avx2")),
        ("fma", has!("fma")),
        ("bmi1", has!("bmi1")),
        ("bmi2", has!("bmi2")),
        ("adx", has!("adx")),
        ("gfni", has!("gfni")),
        ("vaes", has!("vaes")),
        ("vpclmulqdq", has!("vpclmulqdq")),
        ("avx512f", has!("avx512f")),
        ("avx512ifma", has!("avx512ifma")),
        ("ermsb", has!("ermsb")),
        ("rdrand", has!("rdrand")),
        ("rdseed", has!("rdseed")),
    ];
    let names = features.iter().filter(|(_, is_there)| *is_there).map(|(name, _)| format!(" {name}"));
    format!("x86_64:{}", names.collect::<String>())
}

#[cfg(not(target_arch = "x86_64"))]
fn cpu() -> String {
    std::env::consts::ARCH.into()
}
