//! Time and bytes per message: with a fresh DEK, with a reused one, as a follow-up.

use std::time::{Duration, Instant};

use bytes::BytesMut;

use crate::{
    channel::{ChannelOpener, ChannelSealer, Role},
    cli::Failure,
    keys::{Cmk, Keyring, Recipient},
    open::{CachePolicy, Opener},
    seal::{Reuse, Sealer},
};

const PAYLOAD: [u8; 64] = [0x2e; 64];
/// How long each of the six measurements runs.
const SPAN: Duration = Duration::from_millis(150);

pub(super) struct Cost {
    pub(super) kind: &'static str,
    pub(super) seal_us: f64,
    pub(super) open_us: f64,
    pub(super) overhead: usize,
}

/// Runs `once` for a while; microseconds a run.
fn time(mut once: impl FnMut() -> Result<(), Failure>) -> Result<f64, Failure> {
    let (started, mut runs) = (Instant::now(), 0u32);
    while started.elapsed() < SPAN {
        for _ in 0..16 {
            once()?;
        }
        runs = runs.saturating_add(16);
    }
    Ok(started.elapsed().as_secs_f64() * 1e6 / f64::from(runs))
}

pub(super) fn costs() -> Result<Vec<Cost>, Failure> {
    let cmk = Cmk::generate()?;
    let to = cmk.recipient().clone();
    let keyring = Keyring::from(cmk);
    let uncached = Opener::builder(keyring.clone()).cache(CachePolicy { deks: 0, ..CachePolicy::default() }).build();
    Ok(vec![
        envelopes("with a fresh DEK each", &to, Reuse::NEVER, &uncached)?,
        envelopes(
            "with a reused DEK, self-contained",
            &to,
            Reuse { messages: u64::MAX, ..Reuse::default() },
            &Opener::new(keyring.clone()),
        )?,
        follow_ups(&to, Opener::new(keyring))?,
    ])
}

fn envelopes(kind: &'static str, to: &Recipient, reuse: Reuse, opener: &Opener) -> Result<Cost, Failure> {
    let mut sealer = Sealer::builder().to(to.clone()).reuse(reuse).build()?;
    let sealed = sealer.seal(b"", &PAYLOAD)?;
    let seal_us = time(|| Ok(sealer.seal(b"", &PAYLOAD).map(|_| ())?))?;
    let open_us = time(|| Ok(opener.open(&sealed).map(|_| ())?))?;
    Ok(Cost { kind, seal_us, open_us, overhead: sealed.len() - PAYLOAD.len() })
}

fn follow_ups(to: &Recipient, opener: Opener) -> Result<Cost, Failure> {
    const MESSAGES: u64 = 1 << 15;
    let sealer = Sealer::builder().to(to.clone()).build()?;
    let mut channel = ChannelSealer::new(sealer, Role::Initiator, b"");
    let mut stream = BytesMut::new();
    channel.seal(b"", &PAYLOAD, &mut stream)?;
    let first = stream.len();
    let started = Instant::now();
    for _ in 0..MESSAGES {
        channel.seal(b"", &PAYLOAD, &mut stream)?;
    }
    let each = |started: Instant| started.elapsed().as_secs_f64() * 1e6 / 32768.0;
    let seal_us = each(started);
    let overhead = (stream.len() - first) / 32768 - PAYLOAD.len();
    let mut receiver = ChannelOpener::new(opener, Role::Acceptor, b"");
    receiver.next(&mut stream)?;
    let started = Instant::now();
    while receiver.next(&mut stream)?.is_some() {}
    Ok(Cost { kind: "as a follow-up on a channel", seal_us, open_us: each(started), overhead })
}

/// An envelope and a follow-up of one channel.
pub(super) fn recording(recipient: &str) -> Result<Vec<u8>, Failure> {
    let sealer = Sealer::builder().to(recipient.parse()?).build()?;
    let mut channel = ChannelSealer::new(sealer, Role::Initiator, b"");
    let mut out = BytesMut::new();
    channel.seal(b"", &PAYLOAD, &mut out)?;
    channel.seal(b"", &PAYLOAD, &mut out)?;
    Ok(out.to_vec())
}
