//! DEKs of a foreign KMS (spec 3.4, 6.4): sealed under, asked for, supplied.

mod kit;

use std::{
    collections::HashMap,
    io::{Cursor, Read, Write},
    time::Duration,
};

use bytes::BytesMut;
use kit::{Forge, Keys};
use sealwire::{
    Begun, CachePolicy, ChannelOpener, ChannelSealer, Cmk, DataKey, Dek, KeyError, Keyring, KmsKey, Limits, OpenError, Opener,
    ParseError, Policy, PolicyError, Reuse, Role, SealError, Sealer, SenderKey, Standing, Suite,
    stream::{OpenReader, SealWriter},
    wire::{DekBlock, External},
};

const PLAINTEXT: [u8; 32] = [0x6b; 32];
const KEY: (&str, &str) = ("aws", "arn:aws:kms:eu-central-1:1:key/7");
const BLOB: &[u8] = b"only the KMS can read this";

fn data_key() -> DataKey {
    DataKey::from_kms(KEY.0, KEY.1, &PLAINTEXT, BLOB).unwrap()
}

fn cmk() -> Cmk {
    Cmk::from_x25519(&[0x21; 32])
}

/// A policy that names these keys.
fn naming(keys: &[(&str, &str)]) -> Policy {
    Policy { kms_keys: keys.iter().map(|(provider, key_ref)| KmsKey::new(*provider, *key_ref)).collect(), ..Policy::default() }
}

fn opener(policy: Policy) -> Opener {
    Opener::builder(Keyring::new()).policy(policy).build()
}

/// A KMS in memory: answers for a key and a blob, and remembers what it was asked.
#[derive(Default)]
struct StandIn {
    knows: HashMap<(String, String, Vec<u8>), Vec<u8>>,
    asked: Vec<(String, String)>,
}

impl StandIn {
    fn with(mut self, (provider, key_ref): (&str, &str), blob: &[u8], plaintext: &[u8]) -> Self {
        self.knows.insert((provider.into(), key_ref.into(), blob.into()), plaintext.into());
        self
    }

    fn decrypt(&mut self, external: &External<'_>) -> Option<Vec<u8>> {
        self.asked.push((external.provider.into(), external.key_ref.into()));
        self.knows.get(&(external.provider.into(), external.key_ref.into(), external.blob.into())).cloned()
    }
}

/// Opens by asking for each external in turn, as an application would.
fn open_through(opener: &Opener, envelope: &[u8], kms: &mut StandIn) -> Result<Vec<u8>, OpenError> {
    let mut waiting = match opener.begin(envelope)? {
        Begun::Ready(ready) => return Ok(ready.open()?.payload.to_vec()),
        Begun::NeedsDek(waiting) => waiting,
    };
    let externals: Vec<_> = waiting.externals().collect();
    for external in externals {
        let Some(dek) = kms.decrypt(&external).and_then(|answer| Dek::from_kms(&answer).ok()) else { continue };
        match waiting.supply(&dek) {
            Ok(ready) => return Ok(ready.open()?.payload.to_vec()),
            Err(OpenError::HeaderMac) => {}
            Err(error) => return Err(error),
        }
    }
    Err(waiting.reason().clone())
}

/// The block of an external alone, and of one beside two recipients, is what the format says, byte for byte.
#[test]
fn the_block_carries_the_external() {
    let (one, other) = (cmk(), Cmk::from_x25519(&[0x22; 32]));
    for (suite, to) in [(1, vec![]), (2, vec![]), (1, vec![&one, &other]), (2, vec![&one])] {
        let number = if suite == 1 { Suite::X25519ChaCha20Poly1305 } else { Suite::X25519Aes256Gcm };
        let recipients = to.iter().map(|cmk| cmk.recipient().clone());
        let envelope =
            Sealer::builder().suite(number).to_all(recipients).data_key(data_key()).build().unwrap().seal(b"", b"x").unwrap();
        let (raw, block) = DekBlock::parse(&envelope, &Limits::default()).unwrap();
        let external = [&[3][..], b"aws", &[0, 32], KEY.1.as_bytes(), &[0, 26], BLOB].concat();
        let slots = block.slots.iter().map(|slot| [&slot.hint[..], slot.enc, slot.wrapped_dek].concat()).collect();
        let forge = Forge {
            dek: PLAINTEXT,
            salt: *block.salt,
            created_at: block.created_at,
            options: u8::from(!to.is_empty()),
            enc: block.enc.copied(),
            slots,
            externals: vec![external],
            ..Forge::under(suite, &[])
        };
        assert_eq!(raw, forge.block());
        assert_eq!(envelope, forge.envelope(0, 0, b"", b"x"));
    }
}

/// Proves KEY-6: one data key seals twice, and each time under a salt and a payload key of its own.
#[test]
fn one_data_key_gives_other_payload_keys() {
    let keys: Vec<_> = (0..2)
        .map(|_| {
            let envelope = Sealer::builder().data_key(data_key()).build().unwrap().seal(b"", b"the same").unwrap();
            let salt = *DekBlock::parse(&envelope, &Limits::default()).unwrap().1.salt;
            let payload_key = Keys::new(1, &salt, &PLAINTEXT).derive("sealwire v1 payload");
            (salt, payload_key, envelope[envelope.len() - 24..].to_vec())
        })
        .collect();
    assert_ne!(keys[0].0, keys[1].0);
    assert_ne!(keys[0].1, keys[1].1);
    assert_ne!(keys[0].2, keys[1].2, "the ciphertexts too");
}

/// Either a CMK opens it or the KMS does.
#[test]
fn beside_recipients_and_alone() {
    let mut both = Sealer::builder().to(cmk().recipient().clone()).data_key(data_key()).build().unwrap();
    let envelope = both.seal(b"", b"for both").unwrap();
    assert_eq!(&sealwire::open(&envelope, &Keyring::from(cmk())).unwrap().payload[..], b"for both");
    let mut kms = StandIn::default().with(KEY, BLOB, &PLAINTEXT);
    assert_eq!(open_through(&opener(naming(&[KEY])), &envelope, &mut kms).unwrap(), b"for both");

    let alone = Sealer::builder().data_key(data_key()).build().unwrap().seal(b"", b"alone").unwrap();
    assert!(matches!(sealwire::open(&alone, &Keyring::from(cmk())), Err(OpenError::NoMatchingKey)));
    assert_eq!(open_through(&opener(naming(&[KEY])), &alone, &mut kms).unwrap(), b"alone");
    assert_eq!(kms.asked.len(), 2);
}

/// Proves EXT-1: no KMS is asked for a key that the policy does not name, pair by pair.
#[test]
fn only_keys_that_are_named_are_asked_for() {
    let data_key = data_key().also_with("aws", "another", BLOB).unwrap().also_with("gcp", KEY.1, BLOB).unwrap();
    let envelope = Sealer::builder().data_key(data_key).build().unwrap().seal(b"", b"x").unwrap();
    let all = [KEY, ("aws", "another"), ("gcp", KEY.1)];
    for named in [&all[..0], &all[..1], &all[1..2], &all[1..], &[("gcp", "another")], &[("aws", ""), ("", KEY.1)], &all] {
        let mut kms = StandIn::default();
        assert!(open_through(&opener(naming(named)), &envelope, &mut kms).is_err());
        let expected: Vec<_> =
            all.iter().filter(|key| named.contains(key)).map(|(p, k)| (p.to_string(), k.to_string())).collect();
        assert_eq!(kms.asked, expected);
    }
}

/// Proves KEY-2, WRAP-6, EXT-2: an answer that is not the block's DEK is one trial, and the next external has its turn, whatever their
/// order; an answer that is not 32 bytes is none.
#[test]
fn a_wrong_answer_is_a_trial() {
    for right in 0..4 {
        let names = ["a", "b", "c", "d"].map(|name| ("kms", name));
        let mut data_key = DataKey::from_kms("kms", "a", &PLAINTEXT, b"blob").unwrap();
        let mut kms = StandIn::default();
        for (i, name) in names.iter().enumerate() {
            if i > 0 {
                data_key = data_key.also_with("kms", name.1, b"blob").unwrap();
            }
            let answers: [&[u8]; 4] = [&[9; 32], &PLAINTEXT[..31], &[8; 33], &[]];
            kms = kms.with(*name, b"blob", if i == right { &PLAINTEXT } else { answers[i] });
        }
        let envelope = Sealer::builder().data_key(data_key).build().unwrap().seal(b"", b"x").unwrap();
        assert_eq!(open_through(&opener(naming(&names)), &envelope, &mut kms).unwrap(), b"x");
        assert_eq!(kms.asked.len(), right + 1);
    }
    let envelope = Sealer::builder().data_key(data_key()).build().unwrap().seal(b"", b"x").unwrap();
    let policy = Policy { limits: Limits { trials: 3, ..Limits::default() }, ..naming(&[KEY]) };
    let opener = opener(policy);
    let Ok(Begun::NeedsDek(mut waiting)) = opener.begin(&envelope) else { panic!("it waits") };
    let over = |error| matches!(error, Err(OpenError::Parse(ParseError::LimitExceeded(over))) if over.limit == "trials");
    for _ in 0..3 {
        assert!(matches!(waiting.supply(&Dek::import(&[1; 32])), Err(OpenError::HeaderMac)));
    }
    assert!(over(waiting.supply(&Dek::import(&PLAINTEXT)).map(|_| ())), "the right one comes too late");
    assert!(matches!(Dek::from_kms(&[0; 16]), Err(KeyError::DekLength(16))));
}

/// Proves EXT-3: where DEKs come from a KMS, none is made here when one is used up.
#[test]
fn a_data_key_that_is_used_up() {
    let once = Reuse { messages: 2, bytes: u64::MAX, age: Duration::MAX };
    let mut sealer = Sealer::builder().to(cmk().recipient().clone()).reuse(once).data_key(data_key()).build().unwrap();
    assert!(sealer.seal(b"", b"1").is_ok());
    assert!(sealer.seal(b"", b"2").is_ok());
    for _ in 0..2 {
        assert_eq!(sealer.seal(b"", b"3"), Err(SealError::DataKeySpent));
    }
    sealer.renew_with(DataKey::from_kms("aws", "next", &[5; 32], b"next blob").unwrap()).unwrap();
    let envelope = sealer.seal(b"", b"3").unwrap();
    let mut kms = StandIn::default().with(("aws", "next"), b"next blob", &[5; 32]);
    assert_eq!(open_through(&opener(naming(&[("aws", "next")])), &envelope, &mut kms).unwrap(), b"3");
    // A DEK that no KMS knows ends it: from here on they are made here.
    sealer.renew_with(Dek::import(&[6; 32]).into()).unwrap();
    for payload in [b"4", b"5", b"6"] {
        let envelope = sealer.seal(b"", payload).unwrap();
        assert_eq!(DekBlock::parse(&envelope, &Limits::default()).unwrap().1.externals.len(), 0);
    }
    let mut alone = Sealer::builder().data_key(data_key()).build().unwrap();
    assert_eq!(alone.renew_with(Dek::import(&[6; 32]).into()), Err(SealError::NoRecipient));
    assert!(alone.seal(b"", b"it is as it was").is_ok());
}

/// On a channel a data key begins an epoch, as any DEK.
#[test]
fn on_a_channel() {
    let two = Reuse { messages: 2, bytes: u64::MAX, age: Duration::MAX };
    let sealer = Sealer::builder().reuse(two).data_key(data_key()).build().unwrap();
    let mut sender = ChannelSealer::new(sealer, Role::Initiator, b"greeting");
    let mut wire = BytesMut::new();
    sender.seal(b"", b"1", &mut wire).unwrap();
    sender.seal(b"", b"2", &mut wire).unwrap();
    let before = wire.len();
    assert_eq!(sender.seal(b"", b"3", &mut wire), Err(SealError::DataKeySpent));
    assert_eq!(wire.len(), before);
    sender.renew_with(DataKey::from_kms("aws", "next", &[5; 32], b"next blob").unwrap()).unwrap();
    sender.seal_last(b"", b"3", &mut wire).unwrap();

    let policy = Policy { limits: Limits { trials: 3, ..Limits::default() }, ..naming(&[KEY, ("aws", "next")]) };
    let receiver = || ChannelOpener::new(opener(policy.clone()), Role::Acceptor, b"greeting").waiting_for_deks();
    let (mut receiver, mut failing) = (receiver(), receiver());
    let mut input = wire.clone();
    assert!(receiver.next(&mut input).unwrap().is_none());
    assert_eq!(receiver.externals(&input), [External { provider: KEY.0, key_ref: KEY.1, blob: BLOB }]);
    assert!(matches!(receiver.supply(&mut input, &Dek::import(&[1; 32])), Err(OpenError::HeaderMac)), "it still waits");
    assert!(receiver.next(&mut input).unwrap().is_none());
    receiver.supply(&mut input, &Dek::from_kms(&PLAINTEXT).unwrap()).unwrap();
    assert_eq!(&receiver.next(&mut input).unwrap().unwrap().payload[..], b"1");
    assert_eq!(&receiver.next(&mut input).unwrap().unwrap().payload[..], b"2");
    assert!(receiver.next(&mut input).unwrap().is_none());
    assert_eq!(receiver.externals(&input)[0].key_ref, "next");
    receiver.supply(&mut input, &Dek::import(&[5; 32])).unwrap();
    assert_eq!(&receiver.next(&mut input).unwrap().unwrap().payload[..], b"3");
    receiver.end(&input).unwrap();

    // Trials end it, and it stays ended.
    let mut before = wire.clone();
    assert!(failing.externals(&wire).is_empty(), "nothing waits yet");
    assert!(failing.next(&mut wire).unwrap().is_none());
    for _ in 0..3 {
        assert!(matches!(failing.supply(&mut wire, &Dek::import(&[1; 32])), Err(OpenError::HeaderMac)));
    }
    assert!(matches!(failing.supply(&mut wire, &Dek::import(&PLAINTEXT)), Err(OpenError::Parse(ParseError::LimitExceeded(_)))));
    assert!(matches!(failing.next(&mut wire), Err(OpenError::Failed)));
    assert!(matches!(failing.supply(&mut wire, &Dek::import(&PLAINTEXT)), Err(OpenError::Failed)), "it stays failed");
    // What was there must still be there.
    let mut cut = ChannelOpener::new(opener(naming(&[KEY])), Role::Acceptor, b"greeting").waiting_for_deks();
    assert!(cut.next(&mut before).unwrap().is_none());
    let len = cut.needs_dek(&before).unwrap().len();
    before.truncate(len);
    assert!(matches!(cut.supply(&mut before, &Dek::import(&PLAINTEXT)), Err(OpenError::Failed)));
    assert!(matches!(cut.next(&mut before), Err(OpenError::Failed)));
}

/// The codec goes on with the next data key too, on a channel and with messages by themselves.
#[cfg(feature = "codec")]
#[test]
fn through_the_codec() {
    use bytes::Bytes;
    use sealwire::codec::{CodecError, SealingCodec};
    use tokio_util::codec::Encoder;
    let once = Reuse { messages: 1, bytes: u64::MAX, age: Duration::MAX };
    let sealer = || Sealer::builder().reuse(once).data_key(data_key()).build().unwrap();
    let channel = SealingCodec::from(ChannelSealer::new(sealer(), Role::Initiator, b""));
    for mut codec in [channel, SealingCodec::self_contained(sealer())] {
        let mut out = BytesMut::new();
        codec.encode(Bytes::from("1"), &mut out).unwrap();
        let first = out.len();
        assert!(matches!(codec.encode(Bytes::from("2"), &mut out), Err(CodecError::Seal(SealError::DataKeySpent))));
        assert_eq!(out.len(), first);
        codec.renew_with(DataKey::from_kms("aws", "next", &[5; 32], b"next blob").unwrap()).unwrap();
        codec.encode(Bytes::from("2"), &mut out).unwrap();
        let (_, block) = DekBlock::parse(&out[first..], &Limits::default()).unwrap();
        assert_eq!(block.externals.iter().next().unwrap().key_ref, "next");
    }
}

/// A connection's sink whose data key is used up loses nothing: it says so, and goes on with the next.
#[cfg(feature = "codec")]
#[test]
fn on_a_connection() {
    use std::{
        pin::Pin,
        task::{Context, Poll, Waker},
    };

    use futures_util::{Sink, SinkExt};
    use sealwire::{codec::CodecError, connection::SealedSink};
    let two = Reuse { messages: 2, bytes: u64::MAX, age: Duration::MAX };
    for pad in [false, true] {
        let sealer = Sealer::builder().reuse(two).pad(pad).data_key(data_key()).build().unwrap();
        let mut sink = SealedSink::new(ChannelSealer::new(sealer, Role::Initiator, b"greeting"), Vec::new());
        let mut cx = Context::from_waker(Waker::noop());
        let is_spent = |error: &CodecError| matches!(error, CodecError::Seal(SealError::DataKeySpent));
        let spent = |polled: Poll<Result<(), CodecError>>| matches!(polled, Poll::Ready(Err(error)) if is_spent(&error));
        for message in ["1", "2"] {
            sink.push(message.into()).unwrap();
            assert!(sink.poll_flush_unpin(&mut cx).is_ready());
        }
        // Alone, in a batch, and as one that is longer than a batch.
        for waits in [&["3"][..], &["4", "5", "6"]] {
            waits.iter().for_each(|message| sink.push((*message).into()).unwrap());
            assert!(spent(sink.poll_flush_unpin(&mut cx)) && spent(sink.poll_flush_unpin(&mut cx)));
            assert!(spent(Pin::new(&mut sink).poll_close(&mut cx)));
            sink.renew_with(DataKey::from_kms("aws", "next", &[5; 32], b"next blob").unwrap()).unwrap();
            assert!(matches!(sink.poll_flush_unpin(&mut cx), Poll::Ready(Ok(()))));
            sink.push(waits[0].into()).unwrap();
            assert!(matches!(sink.poll_flush_unpin(&mut cx), Poll::Ready(Ok(()))));
        }
        let long = vec![b'7'; 100_000];
        assert!(sink.push(long.clone().into()).is_err_and(|error| is_spent(&error)));
        sink.renew_with(DataKey::from_kms("aws", "next", &[5; 32], b"next blob").unwrap()).unwrap();
        sink.push(long.clone().into()).unwrap();
        assert!(matches!(Pin::new(&mut sink).poll_close(&mut cx), Poll::Ready(Ok(()))));
        let wire = sink.get_ref().clone();
        assert!(matches!(sink.renew_with(data_key()), Err(CodecError::Seal(SealError::Closed))));

        let opener = opener(naming(&[KEY, ("aws", "next")]));
        let mut receiver = ChannelOpener::new(opener, Role::Acceptor, b"greeting").waiting_for_deks();
        let (mut input, mut got) = (BytesMut::from(&wire[..]), Vec::new());
        while !receiver.is_closed() {
            match receiver.next(&mut input).unwrap() {
                Some(opened) => got.push(opened.payload),
                None => {
                    let dek = if receiver.externals(&input)[..].first().is_some_and(|e| e.key_ref == KEY.1) {
                        PLAINTEXT
                    } else {
                        [5; 32]
                    };
                    if !receiver.is_closed() {
                        receiver.supply(&mut input, &Dek::import(&dek)).unwrap();
                    }
                }
            }
        }
        let wanted: Vec<&[u8]> = vec![b"1", b"2", b"3", b"3", b"4", b"5", b"6", b"4", &long];
        assert_eq!(got, wanted);
    }
}

/// Proves LIM-4, BLK-14, BLK-16: what no reader would take is not written.
#[test]
fn what_no_envelope_can_carry() {
    for size in [0, 16, 31, 33] {
        let refused = DataKey::from_kms("aws", "k", &vec![0; size], b"blob").err();
        assert_eq!(refused, Some(KeyError::DekLength(size)));
    }
    let long = "k".repeat(2049);
    let absurd = [("", "k", &b"b"[..]), ("AWS", "k", b"b"), ("aws", &long, b"b"), ("aws", "k", b""), ("aws", "k", &[7; 6145])];
    for (provider, key_ref, blob) in absurd {
        assert!(matches!(DataKey::from_kms(provider, key_ref, &PLAINTEXT, blob), Err(KeyError::External(_))));
        assert!(matches!(data_key().also_with(provider, key_ref, blob), Err(KeyError::External(_))));
    }
    let many = |n: usize| (1..n).try_fold(data_key(), |data_key, _| data_key.also_with("aws", "k", b"b"));
    assert!(Sealer::builder().data_key(many(4).unwrap()).build().is_ok());
    let five = Sealer::builder().data_key(many(5).unwrap()).build().err();
    assert!(
        matches!(five, Some(SealError::LimitExceeded(over)) if (over.limit, over.value, over.maximum) == ("externals", 5, 4))
    );
    assert!(many(255).is_ok());
    assert!(matches!(many(256), Err(KeyError::External(_))));
    assert!(matches!(Sealer::builder().dek(Dek::import(&PLAINTEXT)).build().err(), Some(SealError::NoRecipient)));
}

/// Proves USE-5: who asks for post-quantum vouches for the provider, for what is in the cache as for what is not.
#[test]
fn post_quantum_by_word() {
    let envelope = Sealer::builder().data_key(data_key()).build().unwrap().seal(b"", b"x").unwrap();
    let mut kms = StandIn::default().with(KEY, BLOB, &PLAINTEXT);
    let demanding = |pq_providers: &[&str]| {
        let pq_providers = pq_providers.iter().map(ToString::to_string).collect();
        opener(Policy { require_pq: true, pq_providers, ..naming(&[KEY]) })
    };
    let refused = |result: Result<Vec<u8>, OpenError>| matches!(result, Err(OpenError::Policy(PolicyError::ProviderNotPostQuantum(name))) if name == "aws");
    assert!(refused(open_through(&demanding(&[]), &envelope, &mut kms)));
    assert!(refused(open_through(&demanding(&["gcp"]), &envelope, &mut kms)));
    assert!(kms.asked.is_empty(), "it is refused before anybody is asked");
    let vouched = demanding(&["gcp", "aws"]);
    assert_eq!(open_through(&vouched, &envelope, &mut kms).unwrap(), b"x");
    assert_eq!((open_through(&vouched, &envelope, &mut kms).unwrap(), kms.asked.len()), (b"x".to_vec(), 1), "from the cache");
    // A second external of somebody else's spoils it.
    let two = data_key().also_with("other", "k", b"b").unwrap();
    let envelope = Sealer::builder().data_key(two).build().unwrap().seal(b"", b"x").unwrap();
    let spoilt = open_through(&vouched, &envelope, &mut kms);
    assert!(matches!(spoilt, Err(OpenError::Policy(PolicyError::ProviderNotPostQuantum(name))) if name == "other"));
}

/// Proves PRF-5, PRF-6: whoever else may ask the KMS could write under the DEK, so it is signed only by word, and gives at most group.
#[test]
fn who_else_could_have_the_dek() {
    let signer = SenderKey::generate().unwrap();
    let key = signer.verifying_key().to_owned();
    let signer = std::sync::Arc::new(signer);
    let builder = |data_key| Sealer::builder().data_key(data_key).sign_with(signer.clone()).build();
    assert!(matches!(builder(data_key()).err(), Some(SealError::SharedDekSigned)));
    let mut sealer = builder(data_key().mine_alone()).unwrap();
    assert_eq!(sealer.renew_with(data_key()), Err(SealError::SharedDekSigned));
    let envelope = sealer.seal(b"", b"x").unwrap();
    let Ok(Begun::NeedsDek(mut waiting)) = opener(naming(&[KEY])).begin(&envelope) else { panic!("it waits") };
    let opened = waiting.supply(&Dek::from_kms(&PLAINTEXT).unwrap()).unwrap().open().unwrap();
    assert_eq!((opened.sender.standing(), opened.sender.key(), opened.key), (Standing::Group, Some(&key), None));
}

/// A stream opens under a DEK that was got from elsewhere for its block.
#[test]
fn a_stream_under_a_data_key() {
    let payload = vec![7; 300_000];
    let mut writer = SealWriter::new(&mut Sealer::builder().data_key(data_key()).build().unwrap(), b"", Vec::new()).unwrap();
    writer.write_all(&payload).unwrap();
    let sealed = writer.finish().unwrap();
    let opener = opener(naming(&[KEY]));
    let (block, _) = DekBlock::parse(&sealed, &Limits::default()).unwrap();
    assert!(matches!(opener.learn(block, &Dek::import(&[1; 32])), Err(OpenError::HeaderMac)));
    assert!(matches!(opener.learn(&sealed[..block.len() + 1], &Dek::import(&PLAINTEXT)), Err(OpenError::Parse(_))));
    assert!(OpenReader::new(&opener, Cursor::new(&sealed)).is_err());
    // What cannot be kept is not said to be.
    let none = Opener::builder(Keyring::new()).cache(CachePolicy { deks: 0, ..CachePolicy::default() }).build();
    assert!(matches!(none.learn(block, &Dek::import(&PLAINTEXT)), Err(OpenError::NotKept)));
    let signs = || Sealer::builder().data_key(data_key()).sign_messages_with(SenderKey::generate().unwrap()).build().unwrap();
    let signed = signs().seal(b"", b"x").unwrap();
    let (its_block, _) = DekBlock::parse(&signed, &Limits::default()).unwrap();
    assert!(matches!(opener.open(&signed), Err(OpenError::NoMatchingKey)));
    assert!(matches!(none.learn(its_block, &Dek::import(&PLAINTEXT)), Err(OpenError::NotKept)));
    opener.learn(its_block, &Dek::import(&PLAINTEXT)).unwrap();
    for _ in 0..2 {
        assert_eq!(&opener.open(&signed).unwrap().payload[..], b"x");
    }
    // It is that message's, and no other's.
    let mut other = signed.clone();
    other[its_block.len() + 20] ^= 1;
    assert!(opener.open(&other).is_err());
    opener.learn(block, &Dek::from_kms(&PLAINTEXT).unwrap()).unwrap();
    let mut opened = Vec::new();
    OpenReader::new(&opener, Cursor::new(&sealed)).unwrap().read_to_end(&mut opened).unwrap();
    assert_eq!(opened, payload);
}
