//! What is held: heap in proportion to what has arrived, a small stack, and no secret after its use.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    fs::{self, File},
    hint::black_box,
    io::Read,
    os::unix::fs::FileExt,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
};

use bytes::BytesMut;
use kit::{TestRng, scenarios};
use sealwire::{
    ChannelOpener, ChannelSealer, Cmk, Dek, Keyring, Limits, Opener, Policy, Role, Sealer, armor::ArmorReader,
    connection::SealedSink,
};
use zeroize::{Zeroize, Zeroizing};

mod kit;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

/// Counts what a thread holds.
struct Counting;

fn count(change: isize) {
    // A thread that is being torn down has no counters any more.
    let _ = HELD.try_with(|held| {
        held.set(held.get() + change);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(held.get())));
    });
}

#[allow(unsafe_code, reason = "an allocator cannot be written without it; it hands everything on")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        unsafe { System.dealloc(memory, layout) }
    }
    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as isize - layout.size() as isize);
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// The most that this thread held while `run` ran, beyond what it held before.
fn peak<T>(run: impl FnOnce() -> T) -> usize {
    let before = HELD.get();
    PEAK.set(before);
    drop(run());
    usize::try_from(PEAK.get() - before).unwrap_or(0)
}

fn read(scenario: &scenarios::Scenario, opener: &Opener, bytes: &[u8]) {
    let role = match scenario.way {
        scenarios::Way::Envelope => return drop(opener.open(bytes)),
        scenarios::Way::Detached => return drop(opener.open_detached(scenario.block.as_deref().unwrap(), bytes)),
        scenarios::Way::Armor => return drop(ArmorReader::new(bytes).read_to_end(&mut Vec::new())),
        scenarios::Way::Acceptor => Role::Acceptor,
        scenarios::Way::Initiator => Role::Initiator,
    };
    let mut channel = ChannelOpener::new(opener.clone(), role, &scenario.binding);
    let mut input = BytesMut::from(bytes);
    while let Ok(Some(_)) = channel.next(&mut input) {}
}

/// Whatever arrives, a reader holds at most twice of it, two blocks and 256 KiB. The allocator counts: see its own test.
#[test]
fn heap_follows_what_arrives() {
    let limits = Limits::default();
    let mut rng = TestRng::new(5);
    let (mut mutants, scenarios) = (0, scenarios::all());
    let mutants_wanted = if cfg!(debug_assertions) { 20_000 } else { 100_000 };
    let check = |scenario: &scenarios::Scenario, opener: &Opener, bytes: &[u8]| {
        let held = peak(|| read(scenario, opener, bytes));
        // A channel's input buffer is the reader's too.
        let bound = 2 * limits.block as usize + (256 << 10) + 2 * bytes.len();
        assert!(held <= bound, "{}: {held} of {bound}", scenario.name);
    };
    let small: Vec<_> = scenarios.iter().filter(|scenario| scenario.bytes.len() < 20_000).collect();
    let openers: Vec<Opener> = scenarios.iter().map(opener_of).collect();
    for (scenario, opener) in scenarios.iter().zip(&openers) {
        check(scenario, opener, &scenario.bytes);
    }
    let openers: Vec<Opener> = small.iter().map(|scenario| opener_of(scenario)).collect();
    while mutants < mutants_wanted {
        let i = rng.below(small.len());
        let mut bytes = small[i].bytes.clone();
        for _ in 0..=rng.below(3) {
            if bytes.is_empty() {
                break;
            }
            // Lengths and counts stand at the front.
            let at = rng.below(bytes.len()).min(if rng.below(2) == 0 { 170 } else { usize::MAX }).min(bytes.len() - 1);
            bytes[at] = [0, 1, 0x7f, 0x80, 0xff, rng.next() as u8][rng.below(6)];
        }
        check(small[i], &openers[i], &bytes);
        mutants += 1;
    }
}

fn opener_of(scenario: &scenarios::Scenario) -> Opener {
    let policy = Policy { binding: scenario.binding.clone(), ..Policy::default() };
    Opener::builder(scenario.keys.iter().map(Cmk::from_x25519).collect()).policy(policy).build()
}

#[test]
fn the_allocator_counts() {
    assert!((1 << 20..1 << 21).contains(&peak(|| black_box(vec![1u8; 1 << 20]))));
}

/// A thread with 64 KiB of stack seals and opens.
#[test]
fn a_small_stack_is_enough() {
    let work = || {
        let cmk = Cmk::generate().unwrap();
        let mut sealer = Sealer::builder().to(cmk.recipient().clone()).build().unwrap();
        let envelope = sealer.seal(b"context", &vec![7; 100_000]).unwrap();
        let opener = Opener::new(Keyring::from(cmk));
        assert_eq!(opener.open(&envelope).unwrap().payload.len(), 100_000);
        assert!(opener.open(&envelope[1..]).is_err());
        let mut wire = BytesMut::new();
        let mut channel = ChannelSealer::new(sealer, Role::Initiator, b"");
        channel.seal_last(b"", b"x", &mut wire).unwrap();
        assert!(ChannelOpener::new(opener, Role::Acceptor, b"").next(&mut wire).unwrap().is_some());
    };
    // A debug build keeps values on the stack that a release build does not.
    let size = if cfg!(debug_assertions) { 256 } else { 64 };
    thread::Builder::new().stack_size(size << 10).spawn(work).unwrap().join().unwrap();
}

/// Held by each test that looks through memory: what one of them finds stands in its buffer, too, and is not for another to find.
#[cfg(target_os = "linux")]
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How often 32 bytes stand in the memory of this process that is writable and its own. `mask` keeps the pattern itself from
/// being found.
#[cfg(target_os = "linux")]
fn times_in_memory(masked: &[u8; 32], mask: u8) -> usize {
    let memory = File::open("/proc/self/mem").unwrap();
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let mut found = 0;
    let mut chunk = vec![0u8; 1 << 20];
    let own = chunk.as_ptr() as u64;
    for line in maps.lines().filter(|line| line.contains(" rw-p ") && !line.contains("[v")) {
        let (range, _) = line.split_once(' ').unwrap();
        let (start, end) = range.split_once('-').unwrap();
        let (mut at, end) = (u64::from_str_radix(start, 16).unwrap(), u64::from_str_radix(end, 16).unwrap());
        while at < end {
            let len = chunk.len().min((end - at) as usize);
            if memory.read_at(&mut chunk[..len], at).is_err() {
                break;
            }
            let hits = chunk[..len].windows(32).enumerate().filter(|(_, w)| w.iter().zip(masked).all(|(a, b)| *a == b ^ mask));
            // What this very buffer holds of an earlier chunk is no place of its own.
            found += hits.filter(|(i, _)| !(own..own + (1 << 20)).contains(&(at + *i as u64))).count();
            // Neighbouring chunks share 31 bytes, so that nothing is missed between them.
            at += if at + (len as u64) < end { len as u64 - 31 } else { len as u64 };
        }
    }
    chunk.zeroize();
    found
}

/// Secrets are wiped: the DEK and the CMK of messages that were sealed and opened, with success and with failure, and in
/// a thread that panicked, are nowhere in memory afterwards. What is kept on purpose is found, so the scan works.
#[cfg(target_os = "linux")]
#[test]
fn secrets_are_gone_after_use() {
    let _alone = alone();
    const MASK: u8 = 0xa5;
    let (mut dek, mut cmk) = ([0u8; 32], [0u8; 32]);
    let mut rng = TestRng::new(u64::from(std::process::id()));
    rng.fill(&mut dek);
    rng.fill(&mut cmk);
    // Only masked forms stay here.
    let unmasked = |masked: &[u8; 32]| Zeroizing::new(masked.map(|byte| byte ^ MASK));
    let use_them = |fail: bool| {
        let secret = Cmk::from_x25519(&unmasked(&cmk));
        let to = secret.recipient().clone();
        let mut sealer = Sealer::builder().to(to).dek(Dek::import(&unmasked(&dek))).build().unwrap();
        let mut envelope = sealer.seal(b"", b"payload").unwrap();
        if fail {
            *envelope.last_mut().unwrap() ^= 1;
        }
        let opener = Opener::new(Keyring::from(secret));
        assert_eq!(opener.open(&envelope).is_err(), fail);
    };
    let in_a_thread = |work: &(dyn Fn() + Sync)| {
        thread::scope(|scope| {
            let ended = scope.spawn(work).join();
            black_box(ended.is_ok());
        });
    };
    let (dek_before, cmk_before) = (times_in_memory(&dek, MASK), times_in_memory(&cmk, MASK));
    assert_eq!((dek_before, cmk_before), (0, 0));
    in_a_thread(&|| use_them(false));
    in_a_thread(&|| use_them(true));
    in_a_thread(&|| {
        use_them(false);
        std::panic::panic_any("on purpose");
    });
    assert_eq!(times_in_memory(&dek, MASK), 0, "a DEK is still there");
    assert_eq!(times_in_memory(&cmk, MASK), 0, "a CMK is still there");
    let kept: Vec<u8> = dek.iter().map(|byte| byte ^ MASK).collect();
    assert!(times_in_memory(&dek, MASK) >= 1, "the scan finds what is there");
    black_box(kept);
}

/// The same of keys under a passphrase: neither the passphrase nor the key, in bytes or as a string, is there afterwards.
#[cfg(all(target_os = "linux", feature = "passphrase"))]
#[test]
fn passphrases_are_gone_after_use() {
    use sealwire::keys::{Passphrase, Protected, SecretKey, change_passphrase};
    let _alone = alone();
    const MASK: u8 = 0x80;
    let mut rng = TestRng::new(u64::from(std::process::id()) + 1);
    let (mut secret, mut letters) = ([0u8; 32], [0u8; 32]);
    rng.fill(&mut secret);
    rng.fill(&mut letters);
    // Only masked forms stay here; the passphrase is 32 letters.
    let passphrase = letters.map(|byte| (b'a' + byte % 26) ^ MASK);
    let unmasked = |masked: &[u8; 32]| Zeroizing::new(masked.map(|byte| byte ^ MASK));
    let string: [u8; 32] = {
        let text = Cmk::from_x25519(&unmasked(&secret)).to_text();
        std::array::from_fn(|i| text.as_bytes()[20 + i] ^ MASK)
    };
    let use_them = |fail: bool| {
        let given = unmasked(&passphrase);
        let given = Passphrase::new(std::str::from_utf8(&given[..]).unwrap()).unwrap();
        let key = SecretKey::from(Cmk::from_x25519(&unmasked(&secret)));
        let protected = Protected::new(&key, &given).unwrap();
        let file = Zeroizing::new(protected.to_key_file(&key, "now"));
        let other = Passphrase::new("other").unwrap();
        assert_eq!(protected.open(if fail { &other } else { &given }).is_err(), fail);
        if !fail {
            drop(change_passphrase(&file, Some(&given), None).unwrap());
        }
    };
    for fail in [false, true] {
        thread::scope(|scope| drop(scope.spawn(|| use_them(fail)).join()));
    }
    for (masked, what) in [(&passphrase, "a passphrase"), (&secret, "a key"), (&string, "a key's string")] {
        assert_eq!(times_in_memory(masked, MASK), 0, "{what} is still there");
    }
    let kept: Vec<u8> = passphrase.iter().map(|byte| byte ^ MASK).collect();
    assert!(times_in_memory(&passphrase, MASK) >= 1, "the scan finds what is there");
    black_box(kept);
}

/// What is sent on a channel that wipes, or does not.
#[cfg(target_os = "linux")]
#[derive(Debug, Clone, Copy, PartialEq)]
enum Sent {
    First,
    FollowUp,
    Padded,
    Segments,
    Batch,
}

#[cfg(target_os = "linux")]
const SENT: [Sent; 5] = [Sent::First, Sent::FollowUp, Sent::Padded, Sent::Segments, Sent::Batch];

/// A channel, and what arrives on it: payloads that hold the secret.
#[cfg(target_os = "linux")]
fn receiving(sent: Sent, masked: &Masked) -> (ChannelOpener, BytesMut) {
    let cmk = Cmk::generate().unwrap();
    let sealer = Sealer::builder().to(cmk.recipient().clone()).pad(sent == Sent::Padded).segment_log2(12).build().unwrap();
    let mut channel = ChannelSealer::new(sealer, Role::Initiator, b"");
    let mut wire = BytesMut::new();
    match sent {
        Sent::First | Sent::Padded => channel.seal(b"", &masked.secret(), &mut wire).unwrap(),
        Sent::FollowUp => {
            channel.seal(b"", b"first", &mut wire).unwrap();
            channel.seal(b"", &masked.secret(), &mut wire).unwrap();
        }
        Sent::Segments => {
            // In each of three segments, and across the ends of two.
            let mut long = Zeroizing::new(vec![7; 10_000]);
            [0, 4080, 5000, 8176, 9968].into_iter().for_each(|at| long[at..at + 32].copy_from_slice(&masked.secret()));
            channel.seal(b"", &long, &mut wire).unwrap();
        }
        Sent::Batch => {
            let mut socket = Vec::new();
            let mut sink = SealedSink::new(channel, &mut socket);
            let sending = async {
                for _ in 0..3 {
                    futures_util::SinkExt::feed(&mut sink, bytes::Bytes::from_owner(masked.secret())).await.unwrap();
                }
                futures_util::SinkExt::<bytes::Bytes>::flush(&mut sink).await.unwrap();
            };
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(sending);
            drop(sink);
            wire.extend_from_slice(&socket);
        }
    }
    (ChannelOpener::new(Opener::new(Keyring::from(cmk)), Role::Acceptor, b""), wire)
}

/// A secret that is nowhere but here, masked.
#[cfg(target_os = "linux")]
struct Masked([u8; 32]);

#[cfg(target_os = "linux")]
impl Masked {
    const MASK: u8 = 0x5a;

    fn new(rng: &mut TestRng) -> Self {
        let mut masked = [0; 32];
        rng.fill(&mut masked);
        Self(masked)
    }

    fn secret(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.0.iter().map(|byte| byte ^ Self::MASK).collect())
    }

    fn times(&self) -> usize {
        // What is wiped are buffers. RustCrypto's AEADs, where they are not optimised, leave a block on the stack until the next call.
        #[cfg(not(feature = "aws-lc"))]
        scrub_stack();
        times_in_memory(&self.0, Self::MASK)
    }
}

#[cfg(all(target_os = "linux", not(feature = "aws-lc")))]
#[inline(never)]
fn scrub_stack() {
    black_box(&mut [0u8; 128 * 1024]);
}

/// A channel that wipes gives payloads that are there as long as somebody holds them, and nowhere afterwards, though the buffer in which they
/// were opened is still there: of a first message, of later ones, padded, in segments and in batches. One that does not wipe leaves them in
/// that buffer, so the scan works.
#[cfg(target_os = "linux")]
#[test]
fn a_channel_that_wipes_leaves_no_payload() {
    let _alone = alone();
    let mut rng = TestRng::new(u64::from(std::process::id()) + 2);
    for (sent, wipes) in SENT.into_iter().flat_map(|sent| [(sent, true), (sent, false)]) {
        let masked = Masked::new(&mut rng);
        let (mut channel, mut input) = receiving(sent, &masked);
        assert_eq!(masked.times(), 0, "{sent:?}: the sender has left some");
        channel = if wipes { channel.wiping() } else { channel };
        let mut taken = Vec::new();
        while let Some(opened) = channel.next(&mut input).unwrap() {
            taken.push(opened.payload);
        }
        assert!(masked.times() >= 1, "{sent:?}: it is held");
        drop(taken);
        // Several segments are joined in memory of their own either way.
        if wipes || sent != Sent::Segments {
            assert_eq!(masked.times() == 0, wipes, "{sent:?}");
        }
        black_box((channel, input));
    }
}

/// The same where a message fails at its end, or never comes to it, and where nobody takes the rest of a batch.
#[cfg(target_os = "linux")]
#[test]
fn a_channel_that_wipes_leaves_nothing_that_was_not_taken() {
    let _alone = alone();
    let mut rng = TestRng::new(u64::from(std::process::id()) + 3);
    let masked = Masked::new(&mut rng);
    let (channel, mut input) = receiving(Sent::Segments, &masked);
    *input.last_mut().unwrap() ^= 1;
    let mut channel = channel.wiping();
    assert!(channel.next(&mut input).is_err());
    assert_eq!(masked.times(), 0, "a message that failed");
    black_box((channel, input));

    let masked = Masked::new(&mut rng);
    let (channel, mut input) = receiving(Sent::Segments, &masked);
    input.truncate(input.len() - 1);
    let mut channel = channel.wiping();
    assert!(channel.next(&mut input).unwrap().is_none());
    assert!(masked.times() >= 1, "segments wait for the last");
    drop(channel);
    assert_eq!(masked.times(), 0, "a message without an end");
    black_box(input);

    let masked = Masked::new(&mut rng);
    let (channel, mut input) = receiving(Sent::Batch, &masked);
    let mut channel = channel.wiping();
    drop(channel.next(&mut input).unwrap().unwrap());
    assert!(masked.times() >= 1, "two of the batch wait");
    drop(channel);
    assert_eq!(masked.times(), 0, "the rest of a batch");
    black_box(input);
}
