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
    let uses = testing::observed_nonces();
    assert!(uses.len() > 200, "{}", uses.len());
    let mut seen = HashSet::new();
    assert!(uses.iter().all(|used| seen.insert(*used)), "a key and a nonce were used twice");
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
