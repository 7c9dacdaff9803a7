//! What a message costs as a multiple of the bare primitives of the same crates, in one run: both sides of a ratio are
//! timed in turn, many times, and the median of the ratios is printed. With `--check` a ratio over its bound fails.

use std::{
    hint::black_box,
    io::{Cursor, Read, Seek, SeekFrom, Write},
    time::Instant,
};

use bytes::{Bytes, BytesMut};
use rand::TryRng;
use sealwire::stream::{OpenReader, SealWriter};
use sealwire::{
    CachePolicy, ChannelOpener, ChannelSealer, Cmk, HintMode, Keyring, Opener, Recipient, Reuse, Rewrap, Role, Sealer,
    SealerBuilder, Suite,
    codec::{OpeningCodec, SealingCodec},
    wire::Aead,
};
use sha2::{Digest, Sha256};
use tokio_util::codec::{Decoder, Encoder};

use bare::{AeadKey, DhKey};

/// The primitives of this build's backend, and nothing else.
#[cfg(feature = "aws-lc")]
mod bare {
    use aws_lc_rs::{
        aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey},
        agreement::{PrivateKey, UnparsedPublicKey, X25519, agree},
    };
    use sealwire::wire::Aead;

    pub const BACKEND: &str = "AWS-LC";
    pub const IS_PORTABLE: bool = false;

    pub struct AeadKey(LessSafeKey);

    impl AeadKey {
        pub fn new(aead: Aead) -> Self {
            let algorithm = if aead == Aead::Aes256Gcm { &AES_256_GCM } else { &CHACHA20_POLY1305 };
            Self(LessSafeKey::new(UnboundKey::new(algorithm, &[7; 32]).unwrap()))
        }

        pub fn seal(&self, nonce: [u8; 12], aad: &[u8], from: &[u8], to: &mut [u8]) {
            let (text, tag) = to.split_at_mut(from.len());
            let nonce = Nonce::assume_unique_for_key(nonce);
            self.0.seal_out_of_place_scatter(nonce, Aad::from(aad), from, text, &[], tag).unwrap();
        }
    }

    pub struct DhKey(PrivateKey);

    impl DhKey {
        pub fn generate() -> Self {
            Self(PrivateKey::generate(&X25519).unwrap())
        }

        pub fn public(&self) -> [u8; 32] {
            self.0.compute_public_key().unwrap().as_ref().try_into().unwrap()
        }

        pub fn agree(&self, public: &[u8; 32]) -> [u8; 32] {
            agree(&self.0, UnparsedPublicKey::new(&X25519, public), (), |shared| shared.try_into().map_err(|_| ())).unwrap()
        }
    }
}

/// The primitives of this build's backend, and nothing else.
#[cfg(not(feature = "aws-lc"))]
mod bare {
    use aes_gcm::Aes256Gcm;
    use chacha20poly1305::{
        ChaCha20Poly1305, KeyInit,
        aead::{AeadInOut, inout::InOutBuf},
    };
    use sealwire::wire::Aead;
    use x25519_dalek::{PublicKey, StaticSecret};

    pub const BACKEND: &str = "portable";
    pub const IS_PORTABLE: bool = true;

    pub enum AeadKey {
        ChaCha(ChaCha20Poly1305),
        Aes(Box<Aes256Gcm>),
    }

    impl AeadKey {
        pub fn new(aead: Aead) -> Self {
            let key = (&[7; 32]).into();
            if aead == Aead::Aes256Gcm {
                Self::Aes(Box::new(Aes256Gcm::new(key)))
            } else {
                Self::ChaCha(ChaCha20Poly1305::new(key))
            }
        }

        pub fn seal(&self, nonce: [u8; 12], aad: &[u8], from: &[u8], to: &mut [u8]) {
            let (text, to) = to.split_at_mut(from.len());
            let (nonce, text) = ((&nonce).into(), InOutBuf::new(from, text).unwrap());
            let tag = match self {
                Self::ChaCha(key) => key.encrypt_inout_detached(nonce, aad, text).unwrap(),
                Self::Aes(key) => key.encrypt_inout_detached(nonce, aad, text).unwrap(),
            };
            to.copy_from_slice(&tag);
        }
    }

    pub struct DhKey(StaticSecret);

    impl DhKey {
        pub fn generate() -> Self {
            Self(StaticSecret::from(super::random()))
        }

        pub fn public(&self) -> [u8; 32] {
            PublicKey::from(&self.0).to_bytes()
        }

        pub fn agree(&self, public: &[u8; 32]) -> [u8; 32] {
            self.0.diffie_hellman(&PublicKey::from(*public)).to_bytes()
        }
    }
}

const ROUNDS: usize = 61;

/// Nanoseconds a call, for `n` calls.
fn time(n: u32, call: &mut dyn FnMut()) -> f64 {
    let started = Instant::now();
    (0..n).for_each(|_| call());
    started.elapsed().as_secs_f64() * 1e9 / f64::from(n)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

struct Row {
    name: String,
    ratio: f64,
    bound: Option<f64>,
}

/// What is over its bound is measured again after a second, four times at the most: what else the machine did passes, and what the code
/// does stays.
fn pair(name: &str, bound: Option<f64>, n: u32, ours: &mut dyn FnMut(), bare: &mut dyn FnMut()) -> Row {
    let mut row = pair_once(name, bound, n, ours, bare);
    for _ in 0..4 {
        if bound.is_none_or(|bound| row.ratio <= bound) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_secs(1));
        row = pair_once(name, bound, n, ours, bare);
    }
    row
}

fn pair_once(name: &str, bound: Option<f64>, n: u32, ours: &mut dyn FnMut(), bare: &mut dyn FnMut()) -> Row {
    let (mut all_ours, mut all_bare) = (Vec::new(), Vec::new());
    time(n, ours);
    time(n, bare);
    // What takes long is timed less often.
    let rounds = if time(1, bare) > 20e6 { 11 } else { ROUNDS };
    for _ in 0..rounds {
        all_ours.push(time(n, ours));
        all_bare.push(time(n, bare));
    }
    let ratio = median(all_ours.iter().zip(&all_bare).map(|(a, b)| a / b).collect());
    let (a, b) = (median(all_ours), median(all_bare));
    println!("{name:<68} {a:>12.0} ns {b:>12.0} ns {ratio:>7.3}  {}", bound.map_or(String::new(), |b| format!("(bound {b:.2})")));
    Row { name: name.into(), ratio, bound }
}

const ONE_DEK: Reuse = Reuse { messages: u64::MAX, bytes: u64::MAX, age: std::time::Duration::MAX };

fn main() {
    let check = std::env::args().any(|arg| arg == "--check");
    println!("{:<68} {:>15} {:>15} {:>7}", format!("backend: {}", bare::BACKEND), "ours", "bare", "ratio");
    let mut rows = Vec::new();
    for suite in SUITES {
        // An AEAD call on AES takes half as long, and what stands around it weighs twice as much.
        let by_suite = |chacha, aes| Some(if suite.aead() == Aead::Aes256Gcm { aes } else { chacha });
        for (size, bound, n) in
            [(64, by_suite(1.5, 1.75), 2000), (1024, None, 1000), (65_536, None, 40), (1 << 20, Some(1.0 / 0.85), 4)]
        {
            rows.push(seal_reused(suite, size, bound, n));
            rows.push(open_cached(suite, size, None, n));
        }
        rows.push(encode(suite, by_suite(1.4, 1.7)));
        rows.push(decode(suite, by_suite(1.7, 2.3)));
    }
    rows.push(seal_fresh());
    rows.push(open_fresh());
    rows.extend(streams(std::env::args().any(|arg| arg == "--gib")));
    rows.push(read_a_part());
    rows.push(seal_to_many());
    rows.push(open_as_the_last());
    rows.extend(large_keyrings());
    rows.push(rewrap_header());
    if check {
        let over: Vec<_> = rows.iter().filter(|row| row.bound.is_some_and(|bound| row.ratio > bound)).collect();
        over.iter().for_each(|row| eprintln!("over its bound: {} is {:.3}", row.name, row.ratio));
        assert!(over.is_empty());
    }
}

const SUITES: [Suite; 2] = [Suite::X25519ChaCha20Poly1305, Suite::X25519Aes256Gcm];

/// The AEAD call with the AAD of a message without a context, from one buffer to another.
fn bare_aead(suite: Suite, size: usize) -> impl FnMut() {
    let key = AeadKey::new(suite.aead());
    let (payload, mut out, mut n) = (vec![7; size], vec![0; size + 16], 0u64);
    move || {
        n += 1;
        let mut nonce = [0; 12];
        nonce[..8].copy_from_slice(&n.to_be_bytes());
        key.seal(nonce, &[0; 12], black_box(&payload), &mut out);
        black_box(&mut out);
    }
}

/// What a size and a suite are called.
fn named(what: &str, suite: Suite, size: usize) -> String {
    let size = match size {
        64 => "64 B",
        1024 => "1 KiB",
        65_536 => "64 KiB",
        _ => "1 MiB",
    };
    let aead = if suite.aead() == Aead::Aes256Gcm { "AES" } else { "ChaCha20" };
    what.replace("SIZE", size).replace("AEAD", aead)
}

fn reused(suite: Suite, cmk: &Cmk) -> SealerBuilder {
    Sealer::builder().to(cmk.recipient().clone()).suite(suite).reuse(ONE_DEK)
}

fn seal_reused(suite: Suite, size: usize, bound: Option<f64>, n: u32) -> Row {
    let mut sealer = reused(suite, &Cmk::generate().unwrap()).build().unwrap();
    let (payload, mut out) = (vec![7; size], BytesMut::with_capacity(size + 4096));
    let mut ours = || {
        out.clear();
        sealer.seal_into(b"", black_box(&payload), &mut out).unwrap();
        black_box(&mut out);
    };
    pair(&named("seal SIZE, reused DEK / AEAD", suite, size), bound, n, &mut ours, &mut bare_aead(suite, size))
}

fn open_cached(suite: Suite, size: usize, bound: Option<f64>, n: u32) -> Row {
    let cmk = Cmk::generate().unwrap();
    let envelope = reused(suite, &cmk).build().unwrap().seal(b"", &vec![7; size]).unwrap();
    let opener = Opener::new(Keyring::from(cmk));
    // Messages as they come: each in a buffer of its own, made before the clock runs.
    let mut ours = || drop(black_box(opener.open_in_place(BytesMut::from(&envelope[..])).unwrap()));
    pair(&named("copy SIZE and open it, cached DEK / AEAD", suite, size), bound, n, &mut ours, &mut bare_aead(suite, size))
}

/// A follow-up through tokio-util's `Encoder`.
fn encode(suite: Suite, bound: Option<f64>) -> Row {
    let sealer = reused(suite, &Cmk::generate().unwrap()).build().unwrap();
    let mut codec = SealingCodec::from(ChannelSealer::new(sealer, Role::Initiator, b""));
    let (payload, mut out) = (Bytes::from(vec![7; 64]), BytesMut::with_capacity(4096));
    let mut ours = || {
        out.clear();
        codec.encode(black_box(payload.clone()), &mut out).unwrap();
        black_box(&mut out);
    };
    pair(&named("encode a follow-up of SIZE / AEAD", suite, 64), bound, 2000, &mut ours, &mut bare_aead(suite, 64))
}

/// Follow-ups through tokio-util's `Decoder`, as they come out of one read.
fn decode(suite: Suite, bound: Option<f64>) -> Row {
    const READ: usize = 500;
    let cmk = Cmk::generate().unwrap();
    let mut sender = ChannelSealer::new(reused(suite, &cmk).build().unwrap(), Role::Initiator, b"");
    let mut receiver = OpeningCodec::from(ChannelOpener::new(Opener::new(Keyring::from(cmk)), Role::Acceptor, b""));
    let mut read = BytesMut::with_capacity(READ * 100);
    let mut times = Vec::new();
    let mut ratios = Vec::new();
    let mut bare = bare_aead(suite, 64);
    for _ in 0..401 {
        (0..READ).for_each(|_| sender.seal(b"", &[7; 64], &mut read).unwrap());
        let took = time(1, &mut || while black_box(receiver.decode(&mut read).unwrap()).is_some() {}) / READ as f64;
        ratios.push(took / time(READ as u32, &mut bare));
        times.push(took);
    }
    let (name, ratio) = (named("decode a follow-up of SIZE / AEAD", suite, 64), median(ratios));
    println!("{name:<68} {:>12.0} ns {:>12} ns {ratio:>7.3}  (bound {:.2})", median(times), "", bound.unwrap_or(f64::INFINITY));
    Row { name, ratio, bound }
}

fn random() -> [u8; 32] {
    let mut bytes = [0; 32];
    rand::rngs::SysRng.try_fill_bytes(&mut bytes).unwrap();
    bytes
}

fn seal_fresh() -> Row {
    let cmk = Cmk::generate().unwrap();
    let their = *cmk.recipient().as_x25519().unwrap();
    let mut sealer = Sealer::builder().to(cmk.recipient().clone()).reuse(Reuse::NEVER).build().unwrap();
    let mut bare = || {
        let secret = DhKey::generate();
        black_box((secret.public(), secret.agree(&their)));
    };
    let name = "seal 64 B, fresh DEK / X25519 key generation + DH";
    pair(name, Some(1.2), 50, &mut || drop(black_box(sealer.seal(b"", &[7; 64]).unwrap())), &mut bare)
}

fn open_fresh() -> Row {
    let cmk = Cmk::generate().unwrap();
    let envelope = sealwire::seal(&[7; 64], &[cmk.recipient().clone()]).unwrap();
    let opener = Opener::builder(Keyring::from(cmk)).cache(CachePolicy { deks: 0, ..CachePolicy::default() }).build();
    let (secret, their) = (DhKey::generate(), DhKey::generate().public());
    let mut bare = || {
        black_box(secret.agree(&their));
    };
    let name = "open 64 B, fresh DEK / one DH";
    pair(name, Some(1.2), 50, &mut || drop(black_box(opener.open(&envelope).unwrap())), &mut bare)
}

const MANY: usize = 1000;

fn recipients(n: usize) -> Vec<Recipient> {
    (0..n).map(|_| Cmk::generate().unwrap().recipient().clone()).collect()
}

fn seal_to_many() -> Row {
    let to = recipients(MANY);
    let theirs: Vec<_> = to.iter().map(|recipient| *recipient.as_x25519().unwrap()).collect();
    let mut sealer = Sealer::builder().to_all(to).reuse(Reuse::NEVER).build().unwrap();
    let secret = DhKey::generate();
    let mut bare = || {
        theirs.iter().for_each(|their| {
            black_box(secret.agree(their));
        })
    };
    pair(
        "seal to 1,000 recipients / 1,000 DHs",
        Some(1.1),
        1,
        &mut || drop(black_box(sealer.seal(b"", &[7; 64]).unwrap())),
        &mut bare,
    )
}

fn uncached(keyring: Keyring) -> Opener {
    Opener::builder(keyring).cache(CachePolicy { deks: 0, ..CachePolicy::default() }).build()
}

fn open_as_the_last() -> Row {
    let cmk = Cmk::generate().unwrap();
    let me = cmk.recipient().clone();
    let alone = sealwire::seal(&[7; 64], std::slice::from_ref(&me)).unwrap();
    let mut to = recipients(MANY - 1);
    to.push(me);
    let many = sealwire::seal(&[7; 64], &to).unwrap();
    let opener = uncached(Keyring::from(cmk));
    let mut bare = || {
        drop(black_box(opener.open(&alone).unwrap()));
        black_box(Sha256::digest(&many));
    };
    let name = "open as the last of 1,000 / as the only one + SHA-256 of the block";
    pair(name, Some(1.2), 20, &mut || drop(black_box(opener.open(&many).unwrap())), &mut bare)
}

/// Static hints find the key at once; rotating ones cost a hash for each key, and no Diffie-Hellman.
fn large_keyrings() -> Vec<Row> {
    let keyring: Keyring = (0..10_000).map(|_| Cmk::generate().unwrap()).collect();
    let secret = random();
    let me = Cmk::from_x25519(&secret).recipient().clone();
    let small = uncached(Keyring::from(Cmk::from_x25519(&secret)));
    keyring.add(Cmk::from_x25519(&secret));
    let large = uncached(keyring);
    let (mine, their) = (DhKey::generate(), *recipients(1)[0].as_x25519().unwrap());
    let sealed = |hints| Sealer::builder().to(me.clone()).hints(hints).build().unwrap().seal(b"", &[7; 64]).unwrap();
    let (fixed, rotating) = (sealed(HintMode::Static), sealed(HintMode::Rotating));
    let name = "open with 10,000 keys, static hints / with one key";
    let one = pair(name, Some(1.1), 50, &mut || drop(black_box(large.open(&fixed).unwrap())), &mut || {
        drop(black_box(small.open(&fixed).unwrap()))
    });
    let mut dhs = || {
        (0..MANY).for_each(|_| {
            black_box(mine.agree(&their));
        })
    };
    let name = "open with 10,000 keys, rotating hints / 1,000 DHs";
    vec![one, pair(name, Some(0.5), 1, &mut || drop(black_box(large.open(&rotating).unwrap())), &mut dhs)]
}

fn rewrap_header() -> Row {
    let cmk = Cmk::generate().unwrap();
    let envelope = sealwire::seal(&[7; 64], &[cmk.recipient().clone()]).unwrap();
    let keyring = Keyring::from(cmk);
    let to = recipients(1).remove(0);
    let their = *to.as_x25519().unwrap();
    let change = Rewrap::new().to(to);
    let mut bare = || {
        let secret = DhKey::generate();
        black_box((secret.public(), secret.agree(&their), secret.agree(&their)));
    };
    let name = "rewrap a header to one more / X25519 key generation + 2 DHs";
    pair(name, Some(1.3), 50, &mut || drop(black_box(change.block(&envelope[..153], &keyring).unwrap())), &mut bare)
}

/// 4 KiB at a random place of a payload that nobody has begun to read.
fn read_a_part() -> Row {
    const LEN: usize = 64 << 20;
    let cmk = Cmk::generate().unwrap();
    let mut sealer = Sealer::builder().to(cmk.recipient().clone()).build().unwrap();
    let mut writer = SealWriter::new(&mut sealer, b"", Vec::new()).unwrap();
    writer.write_all(&vec![7; LEN]).unwrap();
    let sealed = writer.finish().unwrap();
    let opener = Opener::new(Keyring::from(cmk));
    let mut part = || {
        let place = u64::from_be_bytes(*random().first_chunk().unwrap()) % (LEN as u64 - 4096);
        let mut reader = OpenReader::new(&opener, Cursor::new(&sealed)).unwrap();
        reader.seek(SeekFrom::Start(place)).unwrap();
        reader.read_exact(black_box(&mut [0; 4096])).unwrap();
    };
    let mut one = bare_aead(SUITES[0], 65_536);
    let mut bare = || (0..3).for_each(|_| one());
    pair("open 4 KiB somewhere in a stream / AEAD over three segments", Some(1.3), 10, &mut part, &mut bare)
}

/// A stream from memory to memory, beside the AEAD on buffers of 64 KiB, by one thread and by two. The first bound is that of 0.9
/// times the AEAD's speed of the portable backend (a faster one, on one buffer that stays in the cache, waits less for memory than any stream); the
/// second is wider, since whatever else the machine does takes more from two threads that wait for each
/// other than from two that do not.
fn streams(gib: bool) -> Vec<Row> {
    let len = if gib { 1 << 30 } else { 64 << 20 };
    let cmk = Cmk::generate().unwrap();
    let mut sealer = Sealer::builder().to(cmk.recipient().clone()).build().unwrap();
    let opener = Opener::new(Keyring::from(cmk));
    let payload = vec![7; len];
    let mut out = vec![0; len + (len >> 11)];
    let mut back = vec![0; len];
    let mut rows = Vec::new();
    for (threads, bound, seal_name, open_name) in [
        (
            1,
            if bare::IS_PORTABLE { 1.0 / 0.9 } else { 1.7 },
            "seal a stream / AEAD on 64 KiB buffers",
            "open a stream / AEAD on 64 KiB buffers",
        ),
        (
            2,
            if bare::IS_PORTABLE { 1.25 } else { 1.9 },
            "seal a stream, 2 threads / AEAD, 2 threads",
            "open a stream, 2 threads / AEAD, 2 threads",
        ),
    ] {
        let mut bare = || {
            std::thread::scope(|scope| {
                for _ in 0..threads {
                    scope.spawn(|| {
                        let mut one = bare_aead(SUITES[0], 65_536);
                        (0..len / 65_536 / threads).for_each(|_| one());
                    });
                }
            });
        };
        let mut sealed = 0;
        let mut seal = || {
            let mut writer = SealWriter::new(&mut sealer, b"", Cursor::new(&mut out[..])).unwrap().threads(threads);
            writer.write_all(&payload).unwrap();
            sealed = writer.finish().unwrap().position();
        };
        rows.push(pair(seal_name, Some(bound), 1, &mut seal, &mut bare));
        let sealed = &out[..usize::try_from(sealed).unwrap()];
        let mut open = || OpenReader::new(&opener, sealed).unwrap().threads(threads).read_exact(&mut back).unwrap();
        rows.push(pair(open_name, Some(bound), 1, &mut open, &mut bare));
    }
    rows
}
