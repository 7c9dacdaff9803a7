//! No pair of payload key and nonce is ever used twice: seen at the AEAD call itself, over everything that a program may do
//! to a sealer. One test, in a process of its own: it watches all of it.

use std::{
    collections::HashSet,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt, SinkExt};
use sealwire::{
    ChannelSealer, Cmk, Dek, Reuse, Role, Sealer, SealerBuilder,
    codec::{Outgoing, SealingCodec},
    testing,
};

fn builder(reuse: u64) -> SealerBuilder {
    let reuse = Reuse { messages: reuse, bytes: u64::MAX, age: Duration::MAX };
    Sealer::builder().to(Cmk::from_x25519(&[1; 32]).recipient().clone()).segment_log2(12).reuse(reuse)
}

/// Forks while sealers and a channel are in use, and seals on both sides. Gives the child's uses, which it reports through a
/// pipe; the parent's are observed as ever. What it had taken up before the fork gives the child none at all. Proves KEY-5.
#[cfg(target_os = "linux")]
fn after_a_fork() -> Vec<([u8; 32], [u8; 12])> {
    use std::io::{Read, Write, pipe};

    use nix::{
        sys::wait::{WaitStatus, waitpid},
        unistd::{ForkResult, fork},
    };
    let mut in_use = builder(7).build().unwrap();
    let mut imported = builder(7).dek(Dek::import(&[6; 32])).build().unwrap();
    let mut unused = builder(7).build().unwrap();
    let mut channel = ChannelSealer::new(builder(7).build().unwrap(), Role::Initiator, b"");
    let mut seal_with_all = |ready: bool| {
        let mut out = BytesMut::new();
        let sealed = [
            in_use.seal(b"", b"in use").is_ok(),
            imported.seal_in_place(b"", &mut BytesMut::from(&b"imported"[..])).is_ok(),
            !ready || unused.seal(b"", b"unused").is_ok(),
            channel.seal(b"", b"channel", &mut out).is_ok(),
        ];
        channel.renew();
        sealed
    };
    assert_eq!(seal_with_all(false), [true; 4]);
    let before = testing::observed_nonces().len();
    let (mut reader, mut writer) = pipe().unwrap();
    // The child calls nothing but sealers, writes to the pipe and exits.
    #[allow(unsafe_code, reason = "there is no fork without it")]
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let inherited =
                catch_unwind(AssertUnwindSafe(|| seal_with_all(true) == [false; 4] && seal_with_all(true) == [false; 4]));
            let refused = inherited.unwrap_or(false) && testing::observed_nonces().len() == before;
            // A sealer of the child's own may seal, under the same DEK from elsewhere too.
            let own = catch_unwind(|| {
                for dek in [None, Some(Dek::import(&[6; 32]))] {
                    let builder = dek.into_iter().fold(builder(7), SealerBuilder::dek);
                    let mut own = builder.build().unwrap();
                    (0..3).for_each(|_| drop(own.seal(b"", b"own").unwrap()));
                }
            });
            let uses = testing::observed_nonces();
            let reported = uses.get(before..).unwrap_or_default().iter().all(|(key, nonce)| {
                let all = [&key[..], nonce].concat();
                writer.write_all(&all).is_ok()
            });
            unsafe { nix::libc::_exit(i32::from(!(refused && own.is_ok() && reported))) }
        }
        ForkResult::Parent { child } => {
            drop(writer);
            assert_eq!(seal_with_all(true), [true; 4]);
            let mut reported = Vec::new();
            reader.read_to_end(&mut reported).unwrap();
            assert_eq!(
                waitpid(child, None).unwrap(),
                WaitStatus::Exited(child, 0),
                "the child sealed with what it had inherited"
            );
            let (uses, rest) = reported.as_chunks::<44>();
            assert_eq!((uses.len(), rest.len()), (6, 0));
            uses.iter().map(|both| (both[..32].try_into().unwrap(), both[32..].try_into().unwrap())).collect()
        }
    }
}

/// Proves KEY-3.
#[tokio::test]
async fn no_nonce_twice() {
    testing::observe_nonces();
    let large = vec![7; 20_000];
    // Messages of many segments, over renewals; refused ones between.
    let mut sealer = builder(7).build().unwrap();
    for i in 0..50 {
        sealer.seal(b"", &large[..i * 100]).unwrap();
        assert!(sealer.seal(&[0; 9000], b"").is_err());
        let mut buffer = BytesMut::from(&large[..i]);
        sealer.seal_in_place(b"", &mut buffer).unwrap();
    }
    // One DEK imported twice, and the same one once more.
    for _ in 0..3 {
        let mut sealer = builder(3).dek(Dek::import(&[5; 32])).build().unwrap();
        for _ in 0..5 {
            sealer.seal(b"", b"imported").unwrap();
        }
    }
    // A panic while a sealer is in use, which goes on afterwards: its generator gives out in the middle of a renewal.
    let mut left: usize = 32 + 16 + 32;
    let mut shaky = builder(2)
        .testing_entropy(move |out| {
            assert!(left > 0, "no more randomness");
            left = left.saturating_sub(out.len());
            out.iter_mut().enumerate().for_each(|(i, byte)| *byte = (left + i) as u8);
        })
        .build()
        .unwrap();
    for _ in 0..6 {
        let _ = catch_unwind(AssertUnwindSafe(|| shaky.seal(b"", b"shaky")));
    }
    // Channels: renewals, a message that is refused, and one after the last.
    let mut channel = ChannelSealer::new(builder(3).build().unwrap(), Role::Initiator, b"");
    let mut out = BytesMut::new();
    for i in 0..20 {
        channel.seal(b"", &large[..i * 1000], &mut out).unwrap();
        assert!(channel.seal(b"", &vec![0; (16 << 20) + 1], &mut out).is_err());
        if i % 4 == 0 {
            channel.renew();
        }
    }
    channel.seal_last(b"", b"", &mut out).unwrap();
    assert!(channel.seal(b"", b"more", &mut out).is_err());
    // A send that is cancelled: the peer does not read, so flushing waits and is dropped; then the channel goes on.
    let (here, _there) = tokio::io::duplex(64);
    let channel = ChannelSealer::new(builder(4).build().unwrap(), Role::Initiator, b"");
    let mut sink = SealingCodec::from(channel).framed(here);
    for _ in 0..10 {
        let sending = sink.send(Outgoing::message(Bytes::from_static(&[1; 100])));
        assert!(tokio::time::timeout(Duration::from_millis(5), sending).await.is_err());
        let _ = sink.feed(Outgoing::message(Bytes::new())).now_or_never();
    }
    // A fork: what the child seals, and what the parent goes on to seal with the sealers that both have.
    #[cfg(target_os = "linux")]
    let of_the_child = after_a_fork();
    #[cfg(not(target_os = "linux"))]
    let of_the_child = Vec::new();
    let uses = testing::observed_nonces();
    assert!(uses.len() > 200, "{}", uses.len());
    let mut seen = HashSet::new();
    assert!(uses.iter().chain(&of_the_child).all(|used| seen.insert(*used)), "a key and a nonce were used twice");
    // The watch sees what it should: another sealer with the very same key, salt and seq.
    for _ in 0..2 {
        let mut same = builder(1).testing_entropy(|out| out.fill(9)).build().unwrap();
        same.seal(b"", b"control").unwrap();
    }
    let uses = testing::observed_nonces();
    assert!(!uses.iter().all({
        let mut seen = HashSet::new();
        move |used| seen.insert(*used)
    }));
}
