//! Sealing and opening one message: what is promised of the bytes, the keys, the cache and the policy.

use std::{
    sync::{Arc, atomic::AtomicU64},
    thread,
    time::Duration,
};

use bytes::BytesMut;
use kit::{Forge, TestRng};
use sealwire::{
    Begun, CachePolicy, Cmk, DecapsulateError, Decapsulator, Dek, HintMode, Kem, Keyring, LimitExceeded, Limits, OpenError,
    Opener, ParseError, Policy, PolicyError, Recipient, Reuse, SealError, Sealer, SharedSecret, Suite, open, seal,
};

mod kit;

fn cmk(i: u8) -> Cmk {
    Cmk::from_x25519(&[i; 32])
}

fn recipients(n: u8) -> Vec<Recipient> {
    (1..=n).map(|i| cmk(i).recipient().clone()).collect()
}

fn key(i: u8) -> [u8; 32] {
    *cmk(i).recipient().as_x25519().unwrap()
}

fn opener(i: u8) -> Opener {
    Opener::new(Keyring::from(cmk(i)))
}

#[test]
fn sizes_are_those_of_the_format() {
    for len in [0, 1, 64, 65_536] {
        assert_eq!(seal(&vec![0; len], &recipients(1)).unwrap().len(), len + 185);
        assert_eq!(seal(&vec![0; len], &recipients(3)).unwrap().len(), len + 185 + 2 * 52);
    }
    assert_eq!(seal(&[0; 65_537], &recipients(1)).unwrap().len(), 65_537 + 185 + 20);
}

#[test]
fn everything_round_trips() {
    let mut rng = TestRng::new(1);
    for n in [1, 2, 64] {
        for (hints, own) in
            [(HintMode::Rotating, false), (HintMode::Static, true), (HintMode::None, false), (HintMode::None, true)]
        {
            for len in [0, 1, 4095, 4096, 4097, 65_535, 65_536, 65_537, 200_000] {
                let payload = rng.bytes(len);
                let pad = len % 2 == 1;
                let mut sealer = Sealer::builder().to_all(recipients(n)).hints(hints).enc_per_slot(own).pad(pad);
                sealer = sealer.segment_log2(if len > 70_000 { 12 } else { 16 });
                let mut sealer = sealer.build().unwrap();
                let envelope = sealer.seal(b"context", &payload).unwrap();
                let mut buffer = BytesMut::from(&payload[..]);
                sealer.seal_in_place(b"context", &mut buffer).unwrap();
                assert_eq!(buffer.len(), envelope.len());
                for (seq, sealed) in [(0, envelope), (1, buffer.to_vec())] {
                    let opener = opener(n);
                    let slow = opener.open(&sealed).unwrap();
                    let fast = opener.open_in_place(BytesMut::from(&sealed[..])).unwrap();
                    assert_eq!(slow, fast);
                    assert_eq!((&slow.payload[..], &slow.context[..], slow.seq), (&payload[..], &b"context"[..], seq));
                    assert_eq!(slow.key, Some(cmk(n).recipient().fingerprint()));
                }
            }
        }
    }
}

/// Two opened messages are the same where all that was sealed is, however they were opened.
#[test]
fn opened_messages_differ_in_every_part() {
    let forge = || Forge::to(&[key(1), key(2)]);
    let usual = forge().envelope(0, 0, b"ctx", b"x");
    let others = [
        (1, forge().envelope(1, 0, b"ctx", b"x")),
        (1, forge().envelope(0, 0, b"", b"x")),
        (1, forge().envelope(0, 0, b"ctx", b"y")),
        (1, Forge { created_at: 1, ..forge() }.envelope(0, 0, b"ctx", b"x")),
        (1, forge().signed(&[0xa1; 32], b"").envelope(0, 0, b"ctx", b"x")),
        (2, usual.clone()),
    ];
    let opened = opener(1).open(&usual).unwrap();
    assert_eq!(opened, opener(1).open_in_place(BytesMut::from(&usual[..])).unwrap());
    for (reader, other) in others {
        assert_ne!(opened, opener(reader).open(&other).unwrap());
    }
}

/// The kit writes the same bytes from the tables, and reads are of its bytes too.
#[test]
fn the_kit_agrees() {
    let forge = Forge::to(&[key(1), key(2)]);
    let mut stream = [forge.dek.to_vec(), forge.salt.to_vec(), kit::EPHEMERAL.to_vec()].concat().into_iter();
    let clock = Arc::new(AtomicU64::new(forge.created_at));
    let sealer = Sealer::builder().to_all(recipients(2)).testing_clock(clock);
    let mut sealer = sealer.testing_entropy(move |out| out.fill_with(|| stream.next().unwrap())).build().unwrap();
    assert_eq!(sealer.seal(b"c", b"payload").unwrap(), forge.envelope(0, 0, b"c", b"payload"));
    assert_eq!(opener(2).open(&forge.envelope(0, 0, b"c", b"payload")).unwrap().created_at, forge.created_at);
    assert_eq!(sealer.seal(b"", &[7; 100_000]).unwrap(), forge.envelope(1, 0, b"", &[7; 100_000]));
}

/// Proves KEY-1, SEG-6: nothing opens that was changed anywhere, and no prefix opens.
#[test]
fn every_bit_and_every_prefix_is_refused() {
    let mut forge = Forge::to(&[key(1), key(2)]);
    forge.segment_log2 = 12;
    let opener = opener(1);
    for envelope in [
        forge.envelope(0, 0, b"ctx", b"hello"),
        forge.envelope(7, 2, b"", &kit::pad(b"hi", 10)),
        forge.envelope(0, 0, b"", &[1; 5000]),
    ] {
        assert!(opener.open(&envelope).is_ok());
        let stride = if envelope.len() > 1000 { 7 } else { 1 };
        for bit in (0..envelope.len() * 8).step_by(stride) {
            let mut changed = envelope.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let slow = opener.open(&changed);
            assert!(slow.is_err(), "bit {bit}");
            assert_eq!(format!("{:?}", slow), format!("{:?}", opener.open_in_place(BytesMut::from(&changed[..]))));
        }
        for n in 0..envelope.len() {
            assert!(matches!(opener.open(&envelope[..n]), Err(OpenError::Parse(ParseError::Truncated { .. }))), "prefix {n}");
        }
        let longer = [&envelope[..], &[0]].concat();
        assert!(
            matches!(opener.open(&longer), Err(OpenError::Parse(ParseError::TrailingBytes { offset })) if offset == envelope.len() as u64)
        );
    }
}

/// Proves SEG-8, CHN-2.
#[test]
fn one_message_and_no_channel() {
    let forge = Forge::to(&[key(1)]);
    let twice = [forge.envelope(0, 0, b"", b"a"), forge.envelope(1, 0, b"", b"b")].concat();
    assert!(matches!(opener(1).open(&twice), Err(OpenError::Parse(ParseError::TrailingBytes { .. }))));
    let on_channel = forge.envelope(0, 8, b"", b"a");
    assert!(matches!(opener(1).open(&on_channel), Err(OpenError::Parse(ParseError::Malformed { field: "flags", .. }))));
    let follow_up = forge.follow_up(0, 8, b"", b"a", b"");
    assert!(opener(1).open(&follow_up).is_err());
}

#[test]
fn whoever_has_no_key_is_told_so() {
    let envelope = seal(b"x", &recipients(3)).unwrap();
    assert!(matches!(open(&envelope, &Keyring::from(cmk(9))), Err(OpenError::NoMatchingKey)));
    assert!(matches!(open(&envelope, &Keyring::new()), Err(OpenError::NoMatchingKey)));
    for i in 1..=3 {
        assert_eq!(open(&envelope, &Keyring::from(cmk(i))).unwrap().key, Some(cmk(i).recipient().fingerprint()));
    }
}

/// Proves KEY-2: a slot that opens and carries another DEK is passed over, wherever it stands.
#[test]
fn a_wrong_dek_in_a_slot_is_passed_over() {
    for options in [0u8, 1, 2] {
        let mut forge = Forge::to(&[]);
        forge.options = options;
        let (wrong, right) = (forge.slot(&key(1), &[0xee; 32]), forge.slot(&key(1), &forge.dek));
        for slots in [vec![wrong.clone(), right.clone()], vec![right, wrong.clone()]] {
            forge.slots = slots;
            assert!(opener(1).open(&forge.envelope(0, 0, b"", b"x")).is_ok());
        }
        forge.slots = vec![wrong.clone(), wrong];
        assert!(matches!(opener(1).open(&forge.envelope(0, 0, b"", b"x")), Err(OpenError::HeaderMac)));
    }
}

/// Proves WRAP-1: a zero result is a slot that does not open, and the search goes on.
#[test]
fn a_low_order_enc_is_a_failed_trial_only() {
    let mut forge = Forge::to(&[]);
    forge.options = 8;
    forge.enc = None;
    let zero = [&[0; 4][..], &[0; 32], &[7; 48]].concat();
    forge.slots = vec![zero.clone(), forge.own_slot(&[3; 32], &key(1), &forge.dek)];
    assert!(opener(1).open(&forge.envelope(0, 0, b"", b"x")).is_ok());
    forge.slots = vec![zero];
    assert!(matches!(opener(1).open(&forge.envelope(0, 0, b"", b"x")), Err(OpenError::NoMatchingKey)));
}

/// Proves WRAP-6: trials are counted by (key, enc), and running out of them is no NoMatchingKey.
#[test]
fn trials_are_limited() {
    let mut forge = Forge::to(&[]);
    forge.options = 8;
    forge.enc = None;
    let stranger = |i: u16| forge.own_slot(&[(i >> 8) as u8, i as u8, 1, 1].repeat(8).try_into().unwrap(), &key(200), &[1; 32]);
    let strangers: Vec<_> = (0..64).map(stranger).collect();
    let mine = forge.own_slot(&[3; 32], &key(1), &forge.dek);
    forge.slots = [&strangers[..63], std::slice::from_ref(&mine)].concat();
    assert!(opener(1).open(&forge.envelope(0, 0, b"", b"x")).is_ok());
    forge.slots = [&strangers[..], std::slice::from_ref(&mine)].concat();
    let over = opener(1).open(&forge.envelope(0, 0, b"", b"x"));
    assert!(matches!(
        over,
        Err(OpenError::Parse(ParseError::LimitExceeded(LimitExceeded { limit: "trials", value: 65, maximum: 64 })))
    ));
    // The same enc again and again costs one trial.
    forge.slots = vec![strangers[0].clone(); 500];
    forge.slots.push(mine);
    assert!(opener(1).open(&forge.envelope(0, 0, b"", b"x")).is_ok());
    // A shared enc costs a key one trial, whatever the number of slots.
    let many: Vec<_> = (1..=200).map(key).collect();
    let mut forge = Forge::to(&[]);
    forge.options = 0;
    forge.slots = many.iter().map(|to| forge.slot(to, &forge.dek)).collect();
    assert!(opener(200).open(&forge.envelope(0, 0, b"", b"x")).is_ok());
    // 65 keys and no hints: one too many, when none of them fits.
    let keyring: Keyring = (100..165).map(cmk).collect();
    let forge = Forge { options: 0, ..Forge::to(&[]) };
    let forge = Forge { slots: vec![forge.slot(&key(1), &forge.dek)], ..forge };
    assert!(matches!(
        Opener::new(keyring).open(&forge.envelope(0, 0, b"", b"x")),
        Err(OpenError::Parse(ParseError::LimitExceeded(_)))
    ));
}

/// Proves WRAP-7: keys are tried in the order in which they were added, and each on the slots in theirs.
#[test]
fn the_order_of_trials_is_the_keyrings() {
    let forge = Forge { options: 0, ..Forge::to(&[]) };
    let forge = Forge { slots: vec![forge.slot(&key(1), &forge.dek)], ..forge };
    let envelope = forge.envelope(0, 0, b"", b"x");
    for _ in 0..20 {
        let first: Keyring = (1..100).map(cmk).collect();
        assert!(Opener::new(first).open(&envelope).is_ok());
        let last: Keyring = (2..=65).chain([1]).map(cmk).collect();
        assert!(matches!(Opener::new(last).open(&envelope), Err(OpenError::Parse(ParseError::LimitExceeded(_)))));
    }
}

/// Proves WRAP-7: of several keys that fit, the first of the keyring opens, whatever the hints and the order of the slots.
#[test]
fn the_first_key_that_fits_opens() {
    for options in [0, 1, 2] {
        let forge = Forge { options, ..Forge::to(&[]) };
        let slots = (1..=4).map(|i| forge.slot(&key(i), &forge.dek)).collect();
        let envelope = Forge { slots, ..forge }.envelope(0, 0, b"", b"x");
        for order in [[2, 4, 1, 3], [4, 3, 2, 1]] {
            let opened = Opener::new(order.into_iter().map(cmk).collect()).open(&envelope).unwrap();
            assert_eq!(opened.key, Some(cmk(order[0]).recipient().fingerprint()), "{options}");
        }
    }
}

/// Proves WRAP-6: a zero result is a trial, a key that is given twice is one key, and a slot with another hint is none.
#[test]
fn what_a_trial_is() {
    let open = |trials: u64, keys: &[u8], forge: &Forge| {
        let policy = Policy { limits: Limits { trials, ..Limits::default() }, ..Policy::default() };
        let keyring: Keyring = keys.iter().map(|i| cmk(*i)).collect();
        Opener::builder(keyring).policy(policy).build().open(&forge.envelope(0, 0, b"", b"x")).map(|_| ())
    };
    let over = |result| matches!(result, Err(OpenError::Parse(ParseError::LimitExceeded(over))) if over.limit == "trials");
    let mut zeros = Forge { options: 8, enc: None, ..Forge::to(&[]) };
    zeros.slots = [0, 1].map(|first| [&[0, 0, 0, 0, first][..], &[0; 31], &[7; 48]].concat()).to_vec();
    zeros.slots.push(zeros.own_slot(&[3; 32], &key(1), &zeros.dek));
    assert!(over(open(2, &[1], &zeros)));
    assert!(open(3, &[1], &zeros).is_ok());
    let mut others = Forge { options: 0, ..Forge::to(&[]) };
    others.slots = vec![others.slot(&key(9), &others.dek)];
    assert!(matches!(open(1, &[1, 1], &others), Err(OpenError::NoMatchingKey)));
    assert!(over(open(1, &[1, 2], &others)));
    for hints in [1, 2] {
        let mut hinted = Forge { options: 8 | hints, enc: None, ..Forge::to(&[]) };
        hinted.slots = (1..=5).map(|i| hinted.own_slot(&[i + 10; 32], &key(i), &hinted.dek)).collect();
        assert!(open(1, &[5], &hinted).is_ok());
    }
}

/// Proves HINT-1, WRAP-3, LIM-4.
#[test]
fn a_sealer_refuses_what_readers_would() {
    let none = |own| Sealer::builder().to_all(recipients(65)).hints(HintMode::None).enc_per_slot(own).build().map(|_| ());
    assert!(none(false).is_ok());
    assert!(matches!(none(true), Err(SealError::LimitExceeded(LimitExceeded { limit: "trials", .. }))));
    let twice = Sealer::builder().to_all(recipients(2)).to(cmk(1).recipient().clone()).build().map(|_| ());
    assert_eq!(twice, Err(SealError::RecipientTwice(cmk(1).recipient().clone())));
    assert_eq!(seal(b"", &[]), Err(SealError::NoRecipient));
    assert_eq!(
        Sealer::builder().to_all(recipients(1)).suite(Suite::XWingAes256Gcm).build().map(|_| ()),
        Err(match cfg!(feature = "pq") {
            true => SealError::KemOfSuite { suite: Suite::XWingAes256Gcm, kem: Kem::X25519 },
            false => SealError::UnsupportedSuite(4),
        })
    );
    for log2 in [11, 25] {
        assert_eq!(
            Sealer::builder().to_all(recipients(1)).segment_log2(log2).build().map(|_| ()),
            Err(SealError::SegmentSize(log2))
        );
    }
    let mut sealer = Sealer::builder().to_all(recipients(1)).build().unwrap();
    assert!(matches!(sealer.seal(&[0; 8193], b""), Err(SealError::LimitExceeded(LimitExceeded { limit: "context", .. }))));
    assert!(matches!(
        sealer.seal(b"", &vec![0; (16 << 20) + 1]),
        Err(SealError::LimitExceeded(LimitExceeded { limit: "message", .. }))
    ));
    let sealing = |limits| Sealer::builder().to_all(recipients(2)).limits(limits).build().and_then(|mut s| s.seal(b"", b""));
    let block = |block| sealing(Limits { block, ..Limits::default() }).map(|_| ());
    assert_eq!(block(69 + 32 + 104), Ok(()));
    assert!(matches!(block(69 + 32 + 103), Err(SealError::LimitExceeded(LimitExceeded { limit: "block", .. }))));
    // slot_count has two bytes, whatever the limits.
    let boundless = Limits { recipients: u64::MAX, ..Limits::default() };
    let many = Sealer::builder().to_all(vec![cmk(1).recipient().clone(); 65_536]).limits(boundless).build();
    assert!(matches!(many.map(|_| ()), Err(SealError::LimitExceeded(LimitExceeded { limit: "recipients", .. }))));
    let few = Sealer::builder().to_all(recipients(2)).limits(Limits { recipients: 1, ..Limits::default() }).build();
    assert!(matches!(few.map(|_| ()), Err(SealError::LimitExceeded(LimitExceeded { limit: "recipients", .. }))));
    // context_len has two bytes, whatever the limits.
    let limits = Limits { context: u64::MAX, ..Limits::default() };
    let mut boundless = Sealer::builder().to_all(recipients(1)).limits(limits).build().unwrap();
    assert!(boundless.seal(&[0; 65_535], b"").is_ok());
    assert!(matches!(boundless.seal(&[0; 65_536], b""), Err(SealError::LimitExceeded(LimitExceeded { limit: "context", .. }))));
    let mut buffer = BytesMut::from(&vec![5; (16 << 20) + 1][..]);
    assert!(sealer.seal_in_place(b"", &mut buffer).is_err());
    assert_eq!(buffer.len(), (16 << 20) + 1, "refused before it was touched");
}

/// Proves KEY-3, KEY-6, USE-1: seq counts up under one salt, and a new block has a new one.
#[test]
fn a_dek_is_reused_until_the_first_of_three() {
    let clock = Arc::new(AtomicU64::new(1000));
    let sealer = |reuse| Sealer::builder().to_all(recipients(1)).reuse(reuse).testing_clock(clock.clone()).build().unwrap();
    let salt = |envelope: &[u8]| envelope[21..37].to_vec();
    let seq = |envelope: &[u8]| u64::from_be_bytes(envelope[153..161].try_into().unwrap());
    let mut by_messages = sealer(Reuse { messages: 2, ..Reuse::default() });
    let sealed: Vec<_> = (0..5).map(|_| by_messages.seal(b"", b"x").unwrap()).collect();
    assert_eq!(sealed.iter().map(|e| seq(e)).collect::<Vec<_>>(), [0, 1, 0, 1, 0]);
    assert_eq!(salt(&sealed[0]), salt(&sealed[1]));
    assert!(salt(&sealed[1]) != salt(&sealed[2]) && salt(&sealed[3]) != salt(&sealed[4]));
    let mut by_bytes = sealer(Reuse { bytes: 10, ..Reuse::default() });
    let seqs: Vec<_> = [4, 6, 1, 100, 1].iter().map(|n| seq(&by_bytes.seal(b"", &vec![0; *n]).unwrap())).collect();
    assert_eq!(seqs, [0, 1, 0, 0, 0]);
    let mut by_age = sealer(Reuse { age: Duration::from_secs(60), ..Reuse::default() });
    let first = by_age.seal(b"", b"").unwrap();
    clock.fetch_add(59, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(salt(&by_age.seal(b"", b"").unwrap()), salt(&first));
    clock.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    assert_ne!(salt(&by_age.seal(b"", b"").unwrap()), salt(&first));
    let mut never = sealer(Reuse::NEVER);
    assert_ne!(salt(&never.seal(b"", b"").unwrap()), salt(&never.seal(b"", b"").unwrap()));
}

/// Proves KEY-6: one imported DEK in two sealers never has the same salt.
#[test]
fn an_imported_dek_gets_a_salt_of_its_own() {
    let sealed = || Sealer::builder().to_all(recipients(1)).dek(Dek::import(&[4; 32])).build().unwrap().seal(b"", b"x").unwrap();
    let (one, two) = (sealed(), sealed());
    assert_ne!(one[21..37], two[21..37]);
    assert_ne!(one[169..], two[169..]);
}

/// Proves USE-2, USE-3.
#[test]
fn the_cache_keeps_what_it_may() {
    let clock = Arc::new(AtomicU64::new(1_700_000_000));
    let keyring = Keyring::from(cmk(1));
    let policy = Policy { max_age: Some(Duration::from_secs(7200)), ..Policy::default() };
    let cache = CachePolicy { age: Duration::MAX, ..CachePolicy::default() };
    let opener = Opener::builder(keyring.clone()).policy(policy).cache(cache).testing_clock(clock.clone()).build();
    let forge = Forge::to(&[key(1)]);
    let envelope = forge.envelope(0, 0, b"", b"x");
    assert!(opener.open(&envelope).is_ok());
    // Another block with the same DEK and one bit changed is no hit.
    let mut changed = envelope.clone();
    changed[20] ^= 1;
    assert!(matches!(opener.open(&changed), Err(OpenError::HeaderMac)));
    // A hit is refused when its key is gone.
    keyring.remove(&cmk(1).recipient().fingerprint());
    assert!(matches!(opener.open(&envelope), Err(OpenError::NoMatchingKey)));
    keyring.add(cmk(1));
    assert!(opener.open(&envelope).is_ok());
    // A hit is refused when policy would refuse it now.
    clock.fetch_add(7501, std::sync::atomic::Ordering::SeqCst);
    assert!(matches!(opener.open(&envelope), Err(OpenError::Policy(PolicyError::TooOld { age: 7501, maximum: 7200 }))));
}

/// A DEK from elsewhere stays in the cache for its time, and no longer; whether DEKs are counted or the bytes of their blocks, the
/// one that was of no use for longest goes first, and a block that is larger than the cache is not kept.
#[test]
fn the_cache_forgets() {
    let forges: Vec<Forge> = (0..3).map(|i| Forge { salt: [i; 16], ..Forge::to(&[key(1)]) }).collect();
    let envelopes: Vec<_> = forges.iter().map(|forge| forge.envelope(0, 0, b"", b"x")).collect();
    let all = CachePolicy { age: Duration::from_secs(60), ..CachePolicy::default() };
    let clock = Arc::new(AtomicU64::new(1_700_000_000));
    let with = |cache| Opener::builder(Keyring::new()).cache(cache).testing_clock(clock.clone()).build();
    let supply = |opener: &Opener, i: usize| match opener.begin(&envelopes[i]).unwrap() {
        Begun::NeedsDek(mut waiting) => assert!(waiting.supply(&Dek::import(&forges[i].dek)).unwrap().open().is_ok()),
        Begun::Ready(_) => panic!("it should have been forgotten"),
    };
    for cache in [CachePolicy { deks: 2, ..all }, CachePolicy { bytes: 3 * 153 - 1, ..all }] {
        let opener = with(cache);
        supply(&opener, 0);
        supply(&opener, 1);
        assert!(opener.open(&envelopes[0]).is_ok());
        supply(&opener, 2);
        assert!(opener.open(&envelopes[0]).is_ok(), "it was of use more lately than 1");
        supply(&opener, 1);
        clock.fetch_add(60, std::sync::atomic::Ordering::SeqCst);
        supply(&opener, 0);
    }
    let small = with(CachePolicy { bytes: 152, ..all });
    supply(&small, 0);
    supply(&small, 0);
}

/// A keyring knows its keys by their names, and shows them.
#[test]
fn a_keyring_has_what_was_put_into_it() {
    let (one, two) = (cmk(1).recipient().fingerprint(), cmk(2).recipient().fingerprint());
    let keyring = Keyring::from(cmk(1));
    assert!(keyring.contains(&one) && !keyring.contains(&two) && !keyring.is_empty());
    assert!(format!("{keyring:?}").contains(&one.to_string()));
    assert!(!keyring.remove(&two) && keyring.remove(&one) && !keyring.remove(&one));
    assert!(!keyring.contains(&one) && keyring.is_empty());
}

/// It holds so many DEKs and so many bytes of blocks, the latest; where that is none, none. A block that is taken up again
/// is held once.
#[test]
fn the_cache_has_bounds() {
    let clock = Arc::new(AtomicU64::new(1_700_000_000));
    let forges: Vec<Forge> = (0..3).map(|i| Forge { salt: [i; 16], ..Forge::to(&[key(1)]) }).collect();
    let envelopes: Vec<_> = forges.iter().map(|forge| forge.envelope(0, 0, b"", b"x")).collect();
    let opener = |cache| Opener::builder(Keyring::new()).cache(cache).testing_clock(clock.clone()).build();
    let supply = |opener: &Opener, i: usize| match opener.begin(&envelopes[i]) {
        Ok(Begun::NeedsDek(mut waiting)) => assert!(waiting.supply(&Dek::import(&forges[i].dek)).is_ok()),
        _ => panic!("{i} is there"),
    };
    let kept = |opener: &Opener| -> Vec<bool> {
        envelopes.iter().map(|envelope| matches!(opener.begin(envelope), Ok(Begun::Ready(_)))).collect()
    };
    let all = CachePolicy::default;
    let one = forges[0].block().len();
    for (cache, expected) in [
        (all(), [true; 3]),
        (CachePolicy { deks: 1, ..all() }, [false, false, true]),
        (CachePolicy { deks: 0, ..all() }, [false; 3]),
        (CachePolicy { bytes: one - 1, ..all() }, [false; 3]),
        (CachePolicy { bytes: one, ..all() }, [false, false, true]),
        (CachePolicy { bytes: 2 * one - 1, ..all() }, [false, false, true]),
        (CachePolicy { bytes: 2 * one, ..all() }, [false, true, true]),
        (CachePolicy { bytes: 3 * one, ..all() }, [true; 3]),
    ] {
        let opener = opener(cache);
        (0..3).for_each(|i| supply(&opener, i));
        assert_eq!(kept(&opener), expected, "{cache:?}");
    }
    let opener = opener(CachePolicy { bytes: 2 * one, age: Duration::from_secs(60), ..all() });
    supply(&opener, 0);
    clock.fetch_add(60, std::sync::atomic::Ordering::SeqCst);
    supply(&opener, 0);
    supply(&opener, 1);
    assert_eq!(kept(&opener), [true, true, false]);
}

#[test]
fn a_dek_from_elsewhere_is_checked() {
    let forge = Forge::to(&[key(1)]);
    let envelope = forge.envelope(0, 0, b"", b"x");
    let opener = Opener::new(Keyring::new());
    let Begun::NeedsDek(mut waiting) = opener.begin(&envelope).unwrap() else { panic!() };
    assert!(matches!(waiting.reason(), OpenError::NoMatchingKey));
    assert!(matches!(waiting.supply(&Dek::import(&[0; 32])), Err(OpenError::HeaderMac)));
    let Begun::NeedsDek(mut waiting) = opener.begin(&envelope).unwrap() else { panic!() };
    let opened = waiting.supply(&Dek::import(&forge.dek)).unwrap().open().unwrap();
    assert_eq!((&opened.payload[..], opened.key), (&b"x"[..], None));
    // It may come too late.
    let clock = Arc::new(AtomicU64::new(forge.created_at));
    let policy = Policy { max_age: Some(Duration::from_secs(60)), ..Policy::default() };
    let opener = Opener::builder(Keyring::new()).policy(policy).testing_clock(clock.clone()).build();
    let Begun::NeedsDek(mut waiting) = opener.begin(&envelope).unwrap() else { panic!() };
    clock.fetch_add(361, std::sync::atomic::Ordering::SeqCst);
    assert!(matches!(waiting.supply(&Dek::import(&forge.dek)), Err(OpenError::Policy(PolicyError::TooOld { .. }))));
}

/// Who waits for a DEK waits for something that a DEK would mend.
#[test]
fn no_dek_is_asked_for_in_vain() {
    let begin = |policy: Policy, forge: &Forge| {
        let opener = Opener::builder(Keyring::new()).policy(policy.clone()).build();
        assert_eq!(opener.policy().max_age, policy.max_age);
        opener.begin(&forge.envelope(0, 0, b"", b"x")).map(|begun| matches!(begun, Begun::NeedsDek(_)))
    };
    let forge = Forge::to(&[key(1)]);
    assert!(matches!(begin(Policy::default(), &forge), Ok(true)));
    let aged = Policy { max_age: Some(Duration::from_secs(1)), ..Policy::default() };
    assert!(matches!(begin(aged, &forge), Err(OpenError::Policy(PolicyError::TooOld { .. }))));
    #[cfg(not(feature = "pq"))]
    assert!(matches!(begin(Policy::default(), &not_built()), Err(OpenError::Parse(_))));
    // A slot with another DEK, and a key that could not be asked, are mended by the right DEK; a proof that does not hold is not.
    let wrong = Forge { slots: vec![forge.slot(&key(1), &[7; 32])], ..forge.clone() };
    let locked = Keyring::new();
    locked.add_decapsulator(Arc::new(Locked(cmk(1))));
    for (keyring, forge) in [(Keyring::from(cmk(1)), &wrong), (locked, &forge)] {
        let envelope = forge.envelope(0, 0, b"", b"x");
        let opener = Opener::new(keyring);
        let Ok(Begun::NeedsDek(mut waiting)) = opener.begin(&envelope) else { panic!("it waits") };
        assert!(matches!(waiting.reason(), OpenError::HeaderMac | OpenError::KeyUnavailable(_)));
        assert!(waiting.supply(&Dek::import(&forge.dek)).unwrap().open().is_ok());
    }
    let elsewhere = forge.signed(&[0xa1; 32], b"signed for something else").envelope(0, 0, b"", b"x");
    assert!(matches!(opener(1).begin(&elsewhere), Err(OpenError::Proof)));
}

/// A key that is never there.
struct Locked(Cmk);

impl Decapsulator for Locked {
    fn recipient(&self) -> &Recipient {
        self.0.recipient()
    }

    fn decapsulate(&self, _enc: &[u8]) -> Result<SharedSecret, DecapsulateError> {
        Err(DecapsulateError::Unavailable("the token is locked".into()))
    }
}

/// Externals alone: the block says whom to ask.
#[test]
fn a_block_of_externals_opens_with_a_supplied_dek() {
    let mut forge = Forge::to(&[]);
    (forge.options, forge.enc) = (0, None);
    forge.externals = vec![[&[3][..], b"kms", &[0, 2], b"id", &[0, 4], b"blob"].concat()];
    let envelope = forge.envelope(0, 0, b"", b"x");
    let opener = opener(1);
    let Begun::NeedsDek(mut waiting) = opener.begin(&envelope).unwrap() else { panic!() };
    let external = waiting.block().externals.iter().next().unwrap();
    assert_eq!((external.provider, external.key_ref, external.blob), ("kms", "id", &b"blob"[..]));
    assert!(waiting.supply(&Dek::import(&forge.dek)).unwrap().open().is_ok());
}

/// Proves USE-4, USE-5.
#[test]
fn policies_refuse() {
    let clock = Arc::new(AtomicU64::new(1_700_000_000));
    let forge = Forge::to(&[key(1)]);
    let envelope = forge.envelope(0, 0, b"orders", b"x");
    let with = |policy: Policy| {
        Opener::builder(Keyring::from(cmk(1))).policy(policy).testing_clock(clock.clone()).build().open(&envelope)
    };
    let aged = || Policy { max_age: Some(Duration::from_secs(100)), ..Policy::default() };
    let at = |seconds| clock.store(seconds, std::sync::atomic::Ordering::SeqCst);
    for (now, good) in [(1_700_000_000 - 300, true), (1_700_000_000 - 301, false), (1_700_000_400, true), (1_700_000_401, false)]
    {
        at(now);
        assert_eq!(with(aged()).is_ok(), good, "{now}");
        assert!(with(Policy::default()).is_ok());
    }
    assert!(with(Policy { context: Some(b"orders".to_vec().into()), ..Policy::default() }).is_ok());
    assert!(matches!(
        with(Policy { context: Some(b"other".to_vec().into()), ..Policy::default() }),
        Err(OpenError::Policy(PolicyError::Context))
    ));
    assert!(matches!(with(Policy { suites: Some(vec![]), ..Policy::default() }), Err(OpenError::Policy(PolicyError::Suite(1)))));
    assert!(matches!(with(Policy { binding: b"b".to_vec(), ..Policy::default() }), Err(OpenError::Segment { index: 0 })));
    let bound = forge.envelope_bound(0, 0, b"orders", b"x", b"", b"b");
    let opener = Opener::builder(Keyring::from(cmk(1))).policy(Policy { binding: b"b".to_vec(), ..Policy::default() }).build();
    assert_eq!(opener.open(&bound).unwrap(), opener.open_in_place(BytesMut::from(&bound[..])).unwrap());
    // What our own sealer binds opens under the same bytes alone.
    let seal =
        |binding: &[u8]| Sealer::builder().to_all(recipients(1)).binding(binding).build().unwrap().seal(b"", b"x").unwrap();
    assert!(opener.open(&seal(b"b")).is_ok());
    for other in [&b""[..], b"B", b"bb"] {
        assert!(matches!(opener.open(&seal(other)), Err(OpenError::Segment { index: 0 })));
    }
}

/// A block of a suite in the registry that a build without `pq` does not have.
#[cfg(not(feature = "pq"))]
fn not_built() -> Forge {
    Forge { suite: 3, enc: None, slots: vec![vec![7; 1172]], ..Forge::to(&[]) }
}

/// Proves SUI-1; and that what comes before is judged all the same, and after it what a policy wants (ERR-2).
#[cfg(not(feature = "pq"))]
#[test]
fn what_is_not_built_is_unsupported() {
    let other = not_built().envelope(0, 0, b"", b"x");
    let unsupported = |refused| {
        assert!(
            matches!(refused, Err(OpenError::Parse(ParseError::Unsupported { field: "suite", value: 3, .. }))),
            "{refused:?}"
        );
    };
    unsupported(opener(1).open(&other));
    for policy in [Policy { suites: Some(vec![]), ..Policy::default() }, Policy { require_pq: true, ..Policy::default() }] {
        unsupported(Opener::builder(Keyring::from(cmk(1))).policy(policy).build().open(&other));
    }
    let cut = opener(1).open(&other[..other.len() - 1]);
    assert!(matches!(cut, Err(OpenError::Parse(ParseError::Truncated { .. }))));
}

/// Proves PAD-3, PAD-4: authentic and wrongly made.
#[test]
fn wrong_padding_is_refused() {
    let forge = Forge::to(&[key(1)]);
    assert!(opener(1).open(&forge.envelope(0, 2, b"", &kit::pad(b"hi", 10))).is_ok());
    for bad in [kit::pad(b"hi", 11), [&b"hi\x01"[..], &[0, 0, 0, 0, 0, 0, 0, 2]].concat(), vec![1, 2, 3]] {
        let sealed = forge.envelope(0, 2, b"", &bad);
        assert!(matches!(opener(1).open(&sealed), Err(OpenError::Content(_))));
        assert!(matches!(opener(1).open_in_place(BytesMut::from(&sealed[..])), Err(OpenError::Content(_))));
    }
}

/// Proves ERR-1: whatever needs a key is one word to a peer.
#[test]
fn peers_are_told_one_word() {
    let forge = Forge::to(&[key(1)]);
    let mut mac = forge.envelope(0, 0, b"", b"x");
    mac[130] ^= 1;
    let mut tag = forge.envelope(0, 0, b"", b"x");
    *tag.last_mut().unwrap() ^= 1;
    let padding = forge.envelope(0, 2, b"", b"x");
    let said = |i, envelope: &[u8]| opener(i).open(envelope).unwrap_err().to_peer();
    for word in [said(1, &mac), said(1, &tag), said(1, &padding), said(2, &tag)] {
        assert_eq!(word, "refused");
    }
    use OpenError::{Duplicate, Failed, HeaderMac, InHand, NoMatchingKey, Policy, Proof, SenderChanged};
    let full = Policy(PolicyError::WindowFull { capacity: 1 });
    for error in [Duplicate, Failed, HeaderMac, InHand, NoMatchingKey, Proof, SenderChanged, full] {
        assert_eq!(error.to_peer(), "refused", "{error}");
    }
    assert!(said(1, &mac[..40]).contains("truncated"));
    assert_eq!(OpenError::ChannelTruncated { delivered: 7 }.to_peer(), "truncated");
}

/// Proves ERR-2: what is wrong with the bytes is told whatever the keys, and keys before tags.
#[test]
fn the_order_of_judging() {
    let good = Forge::to(&[key(1)]).envelope(0, 0, b"ctx", b"payload");
    let mut broken = good.clone();
    broken[9] ^= 3; // another hint mode: header_mac would not hold either
    *broken.last_mut().unwrap() ^= 1;
    let says = |i, bytes: &[u8]| opener(i).open(bytes).unwrap_err();
    for i in [1, 2] {
        assert!(matches!(says(i, &broken[..broken.len() - 1]), OpenError::Parse(ParseError::Truncated { .. })));
        assert!(matches!(says(i, &[&broken[..], b"x"].concat()), OpenError::Parse(ParseError::TrailingBytes { .. })));
    }
    assert!(matches!(says(2, &broken), OpenError::NoMatchingKey));
    let mut mac_and_tag = good;
    mac_and_tag[152] ^= 1;
    *mac_and_tag.last_mut().unwrap() ^= 1;
    assert!(matches!(says(1, &mac_and_tag), OpenError::HeaderMac));
}

/// spec/example.md, whose values the second implementation computed: ours and the kit's are the same.
#[test]
fn the_worked_example() {
    let text = std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("spec/example.md")).unwrap();
    let value = |name: &str| -> Vec<u8> {
        let (_, rest) = text.split_once(&format!("\n{name} = ")).unwrap_or_else(|| panic!("{name}"));
        let digits: String = rest
            .split("\n\n")
            .next()
            .unwrap()
            .lines()
            .take_while(|l| !l.contains(" = ") || l == &rest.lines().next().unwrap())
            .collect();
        let digits: Vec<char> = digits.chars().filter(char::is_ascii_hexdigit).collect();
        digits.chunks(2).map(|c| u8::from_str_radix(&c.iter().collect::<String>(), 16).unwrap()).collect()
    };
    let fixed = |name: &str| -> [u8; 32] { value(name).try_into().unwrap() };
    let secret = fixed("secret key");
    let mut stream = [value("DEK"), value("salt"), value("ephemeral secret")].concat().into_iter();
    let clock = Arc::new(AtomicU64::new(u64::from_be_bytes(value("created_at").try_into().unwrap())));
    let cmk = Cmk::from_x25519(&secret);
    assert_eq!(cmk.recipient().public_key()[..], value("public key"));
    let builder = Sealer::builder().to(cmk.recipient().clone()).testing_clock(clock);
    let mut sealer = builder.testing_entropy(move |out| out.fill_with(|| stream.next().unwrap())).build().unwrap();
    let envelope = sealer.seal(&value("context"), &value("payload")).unwrap();
    assert_eq!(envelope, value("envelope"));
    let opened = open(&envelope, &Keyring::from(cmk)).unwrap();
    assert_eq!((opened.payload.to_vec(), opened.context.to_vec()), (value("payload"), value("context")));
    let keys = kit::Keys::new(1, &value("salt").try_into().unwrap(), &fixed("DEK"));
    for (name, label) in [("payload_key", "payload"), ("header_key", "header"), ("dek_commitment", "commit"), ("chain", "chain")]
    {
        assert_eq!(keys.derive(&format!("sealwire v1 {label}"))[..], value(name), "{name}");
    }
    let (commitment, chain) =
        sealwire::testing::commitment_and_chain(Suite::X25519ChaCha20Poly1305, &value("salt").try_into().unwrap(), &fixed("DEK"))
            .unwrap();
    assert_eq!((commitment.to_vec(), chain.to_vec()), (value("dek_commitment"), value("chain")));
    let public: [u8; 32] = value("public key").try_into().unwrap();
    assert_eq!(kit::fingerprint(&public)[..], value("fingerprint"));
    assert_eq!(kit::rotating_hint(&value("salt").try_into().unwrap(), &public)[..], value("hint"));
    assert_eq!(kit::wrap(1, &fixed("ephemeral secret"), &public, &fixed("DEK")), value("wrapped_dek"));
    assert_eq!(envelope[121..153], value("header_mac"));
    assert_eq!(envelope[153..153 + 22], value("AAD of segment 0"));
    // The signed one, by the kit's writer and by ours.
    let seed = fixed("sender's secret key");
    assert_eq!(kit::verifying_key(&seed)[..], value("verifying_key"));
    let forge = Forge {
        dek: fixed("DEK"),
        salt: value("salt").try_into().unwrap(),
        created_at: 1_767_225_600,
        enc: Some(kit::public(&fixed("ephemeral secret"))),
        options: 0x15,
        ..Forge::to(&[])
    };
    let slot = [value("hint"), value("wrapped_dek")].concat();
    let forge = Forge { slots: vec![slot], ..forge };
    let covered = forge.message_hash(0, &value("context"), &value("payload"), b"");
    assert_eq!((covered.to_vec(), forge.recipients_hash().to_vec()), (value("message"), value("original")));
    assert_eq!(forge.statement(&fixed("original"), &covered), value("signed"));
    let signed = forge.signed(&seed, &covered);
    assert_eq!(signed.proof, value("sender_proof"));
    assert_eq!(signed.envelope(0, 0, &value("context"), &value("payload")), value("signed envelope"));
    let mut stream = [value("DEK"), value("salt"), value("ephemeral secret")].concat().into_iter();
    let clock = Arc::new(AtomicU64::new(1_767_225_600));
    let builder = Sealer::builder().to(Cmk::from_x25519(&secret).recipient().clone()).testing_clock(clock);
    let builder = builder.sign_messages_with(sealwire::SenderKey::from_ed25519(&seed));
    let mut sealer = builder.testing_entropy(move |out| out.fill_with(|| stream.next().unwrap())).build().unwrap();
    assert_eq!(sealer.seal(&value("context"), &value("payload")).unwrap(), value("signed envelope"));
}

/// Proves WRAP-5: every block, and every slot with an enc of its own, has a new ephemeral key.
#[test]
fn ephemerals_are_used_once() {
    let mut seen = std::collections::HashSet::new();
    for own in [false, true] {
        let mut sealer = Sealer::builder().to_all(recipients(3)).enc_per_slot(own).reuse(Reuse::NEVER).build().unwrap();
        for _ in 0..3 {
            let envelope = sealer.seal(b"", b"").unwrap();
            let (_, block) = sealwire::wire::DekBlock::parse(&envelope, &Limits::default()).unwrap();
            let encs: Vec<_> =
                block.enc.map_or_else(|| block.slots.iter().map(|slot| slot.enc.to_vec()).collect(), |enc| vec![enc.to_vec()]);
            assert!(encs.into_iter().all(|enc| seen.insert(enc)));
        }
    }
    assert_eq!(seen.len(), 3 + 9);
}

#[test]
fn the_payload_is_a_slice_of_the_buffer() {
    let envelope = seal(&[9; 1000], &recipients(1)).unwrap();
    let buffer = BytesMut::from(&envelope[..]);
    let memory = buffer.as_ptr_range();
    let opened = opener(1).open_in_place(buffer).unwrap();
    assert!(memory.contains(&opened.payload.as_ptr()));
}

/// Room is made once, for the message and no more.
#[test]
fn a_sealed_message_takes_the_room_that_it_needs() {
    let mut out = BytesMut::new();
    let mut sealer = Sealer::builder().to_all(recipients(1)).build().unwrap();
    sealer.seal_into(b"", &[0; 200_000], &mut out).unwrap();
    assert!(out.capacity() < 2 * out.len(), "{}", out.capacity());
}

/// Proves LIM-1, LIM-3: a length declared is a length refused, before it sizes anything.
#[test]
fn limits_are_checked_before_memory() {
    let forge = Forge::to(&[key(1)]);
    let envelope = forge.envelope(0, 0, b"abc", &[0; 5000]);
    let with = |limits: Limits| {
        let policy = Policy { limits, ..Policy::default() };
        Opener::builder(Keyring::from(cmk(1))).policy(policy).build().open(&envelope)
    };
    let limit = |limits| match with(limits) {
        Err(OpenError::Parse(ParseError::LimitExceeded(over))) => over.limit,
        other => panic!("{other:?}"),
    };
    assert!(
        with(Limits {
            block: 153,
            context: 3,
            message: 5000,
            segment: 0,
            recipients: 1,
            externals: 0,
            trials: 1,
            batch_entries: 0
        })
        .is_ok()
    );
    assert_eq!(limit(Limits { block: 152, ..Limits::default() }), "block");
    assert_eq!(limit(Limits { context: 2, ..Limits::default() }), "context");
    assert_eq!(limit(Limits { message: 4999, ..Limits::default() }), "message");
    assert_eq!(limit(Limits { recipients: 0, ..Limits::default() }), "recipients");
    assert_eq!(limit(Limits { trials: 0, ..Limits::default() }), "trials");
}

#[test]
fn openers_work_from_many_threads_while_keys_change() {
    let keyring = Keyring::from(cmk(1));
    let opener = Opener::new(keyring.clone());
    let envelopes: Vec<_> = (0..8).map(|i| seal(&[i; 100], &recipients(1)).unwrap()).collect();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for i in 0..200 {
                    let opened = opener.open(&envelopes[i % 8]).unwrap();
                    assert_eq!(opened.payload[0] as usize, i % 8);
                }
            });
        }
        scope.spawn(|| (2..50).for_each(|i| keyring.add(cmk(i))));
    });
    assert_eq!(keyring.len(), 49);
}

#[test]
fn sealers_and_openers_can_be_sent() {
    fn send<T: Send>() {}
    fn sync<T: Sync>() {}
    send::<Sealer>();
    send::<Opener>();
    sync::<Opener>();
    send::<sealwire::ChannelSealer>();
    send::<sealwire::ChannelOpener>();
}

#[test]
fn nothing_secret_is_printed() {
    let secret = [0xab; 32];
    let cmk = Cmk::from_x25519(&secret);
    let text = cmk.to_text();
    let shown = format!(
        "{cmk:?} {:?} {:?}",
        Keyring::from(Cmk::from_x25519(&secret)),
        Cmk::from_text(&text[..text.len() - 1]).unwrap_err()
    );
    assert!(!shown.contains("171, 171") && !shown.to_lowercase().contains("abab"));
    assert!(!shown.contains(&text[15..40]));
    let opened = open(&seal(b"payload", &[cmk.recipient().clone()]).unwrap(), &Keyring::from(cmk)).unwrap();
    let shown = format!("{opened:?}");
    assert!(!shown.contains("112"), "the payload's bytes");
    assert!(shown.contains("payload_len: 7") && shown.contains("seq: 0"), "{shown}");
}

/// The fastest suite is one of those without post-quantum keys, the same every time, and opens.
#[test]
fn the_fastest_suite_is_chosen_once() {
    let fastest = Suite::fastest();
    assert!([Suite::X25519ChaCha20Poly1305, Suite::X25519Aes256Gcm].contains(&fastest));
    assert!((0..100).all(|_| Suite::fastest() == fastest));
    let mut sealer = Sealer::builder().to_all(recipients(1)).suite(fastest).build().unwrap();
    let envelope = sealer.seal(b"", b"quick").unwrap();
    assert_eq!(envelope[8], fastest.number());
    assert_eq!(&opener(1).open(&envelope).unwrap().payload[..], b"quick");
    assert_eq!(Suite::X25519Aes256Gcm.longest_message(), 1 << 38);
}
