//! Rewrapping (spec 10.5): other recipients for the same data, and what becomes of the proof.

use bytes::BytesMut;
use kit::{Forge, TestRng};
use sealwire::{
    Cmk, Dek, HintMode, Keyring, LimitExceeded, OpenError, Opener, ParseError, Recipient, Rewrap, RewrapError, SealError, Sealer,
    SealerBuilder, SenderKey, Standing, open, rewrap,
    wire::{DekBlock, Limits},
};

mod kit;

const ALICE: [u8; 32] = [0xa1; 32];
const MODES: [HintMode; 3] = [HintMode::None, HintMode::Rotating, HintMode::Static];

fn cmk(i: u8) -> Cmk {
    Cmk::from_x25519(&[i; 32])
}

fn with(i: u8) -> Keyring {
    Keyring::from(cmk(i))
}

fn recipient(i: u8) -> Recipient {
    cmk(i).recipient().clone()
}

fn add(readers: &[u8]) -> Rewrap {
    readers.iter().fold(Rewrap::new(), |change, i| change.to(recipient(*i)))
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

/// Whoever is added can read, whoever is removed cannot, and the rest of the envelope is the same bytes. Proves RWP-1, RWP-2.
#[test]
fn recipients_come_and_go() {
    for hints in MODES {
        for own in [false, true] {
            let old = sealed(to(&[1, 2]).hints(hints).enc_per_slot(own));
            let added = rewrap(&old, &with(2), &add(&[3, 4])).unwrap();
            assert_eq!(readers(&added), [1, 2, 3, 4]);
            let (was, is) = (block(&old), block(&added));
            assert_eq!((is.suite, is.created_at, is.salt), (was.suite, was.created_at, was.salt));
            assert_eq!(old[was.encoded_len()..], added[is.encoded_len()..]);
            let encs: Vec<_> = is.slots.iter().map(|slot| slot.enc.to_vec()).collect();
            assert!(is.options.enc_per_slot && is.enc.is_none());
            for (kept, before) in is.slots.iter().zip(was.slots.iter()) {
                assert_eq!((kept.hint, kept.wrapped_dek), (before.hint, before.wrapped_dek));
                assert_eq!(kept.enc, was.enc.map_or(before.enc, |shared| &shared[..]));
            }
            assert!(encs[2] != encs[3] && encs[2] != encs[0] && encs[3] != encs[0], "an ephemeral for each that is added");

            let all = rewrap(&added, &with(4), &add(&[5]).replace_all()).unwrap();
            assert_eq!(readers(&all), [5]);
            if hints != HintMode::None {
                let removed = rewrap(&added, &with(4), &Rewrap::new().without(recipient(1)).without(recipient(4))).unwrap();
                assert_eq!(readers(&removed), [2, 3]);
                let swapped = rewrap(&old, &with(1), &add(&[3]).without(recipient(1))).unwrap();
                assert_eq!(readers(&swapped), [2, 3]);
                let fewer = rewrap(&old, &with(1), &Rewrap::new().without(recipient(1))).unwrap();
                assert_eq!(old.len() - fewer.len(), if own { 84 } else { 52 });
                assert_eq!(block(&fewer).options, block(&old).options, "a removal alone keeps the layout");
                assert_eq!(block(&fewer).enc, block(&old).enc);
            }
            // The old block put back undoes it, which the documents say.
            let undone = [&old[..block(&old).encoded_len()], &all[block(&all).encoded_len()..]].concat();
            assert_eq!(readers(&undone), [1, 2]);
        }
    }
}

/// Proves RWP-4, WRAP-3.
#[test]
fn what_cannot_be_done_is_refused() {
    let refused = |envelope: &[u8], i, change: &Rewrap| rewrap(envelope, &with(i), change).unwrap_err();
    let hintless = sealed(to(&[1, 2]).hints(HintMode::None));
    assert!(matches!(refused(&hintless, 1, &Rewrap::new().without(recipient(2))), RewrapError::NoHints));
    let old = sealed(to(&[1, 2]));
    assert!(matches!(refused(&old, 3, &add(&[3])), RewrapError::Open(OpenError::NoMatchingKey)));
    assert!(matches!(refused(&old, 1, &Rewrap::new().without(recipient(3))), RewrapError::NotThere(_)));
    assert!(matches!(refused(&old, 1, &add(&[2])), RewrapError::Seal(SealError::RecipientTwice(_))));
    assert!(matches!(refused(&old, 1, &add(&[3, 3])), RewrapError::Seal(SealError::RecipientTwice(_))));
    assert!(rewrap(&old, &with(1), &add(&[2]).without(recipient(2))).is_ok(), "out and in again, with another slot");
    let both = Rewrap::new().without(recipient(1)).without(recipient(2));
    assert!(matches!(refused(&old, 1, &both), RewrapError::Seal(SealError::NoRecipient)));
    assert!(matches!(refused(&old, 1, &Rewrap::new().replace_all()), RewrapError::Seal(SealError::NoRecipient)));
    let mut forge = Forge::to(&[*recipient(1).as_x25519().unwrap(), *recipient(2).as_x25519().unwrap()]);
    let hint = forge.slots[0][..4].to_vec();
    forge.slots[1][..4].copy_from_slice(&hint);
    let twice = forge.envelope(0, 0, b"", b"x");
    assert!(matches!(refused(&twice, 1, &Rewrap::new().without(recipient(1))), RewrapError::Ambiguous(_)));
    // A bit of the block changed by who has no key.
    let mut changed = old.clone();
    changed[20] ^= 1;
    assert!(matches!(refused(&changed, 1, &add(&[3])), RewrapError::Open(OpenError::HeaderMac)));
    #[cfg(not(feature = "pq"))]
    {
        let suite = Forge { suite: 3, enc: None, slots: vec![vec![7; 1172]], ..Forge::to(&[]) };
        let unsupported = refused(&suite.envelope(0, 0, b"", b"x"), 1, &add(&[3]));
        assert!(matches!(unsupported, RewrapError::Open(OpenError::Parse(ParseError::Unsupported { field: "suite", .. }))));
    }
    let over = |limit: &str, error: RewrapError| matches!(error, RewrapError::Seal(SealError::LimitExceeded(LimitExceeded { limit: l, .. })) if l == limit);
    let tight = Limits { recipients: 2, ..Limits::default() };
    assert!(over("recipients", refused(&old, 1, &add(&[3]).limits(tight))));
    let trials = Limits { trials: 2, ..Limits::default() };
    assert!(over("trials", refused(&hintless, 1, &add(&[3, 4]).limits(trials.clone()))), "HINT-1");
    assert!(rewrap(&hintless, &with(1), &add(&[3]).limits(trials)).is_ok(), "the two that are kept share one enc");
}

/// The block alone, without the data; nothing after it.
#[test]
fn a_header_that_is_kept_apart() {
    let old = sealed(to(&[1]));
    let (raw, data) = old.split_at(153);
    let new = add(&[2]).block(raw, &with(1)).unwrap();
    assert_eq!(readers(&[&new[..], data].concat()), [1, 2]);
    let trailing = add(&[2]).block(&old, &with(1)).unwrap_err();
    assert!(matches!(trailing, RewrapError::Open(OpenError::Parse(ParseError::TrailingBytes { offset: 153 }))));
    assert!(matches!(
        add(&[2]).block(&raw[..152], &with(1)).unwrap_err(),
        RewrapError::Open(OpenError::Parse(ParseError::Truncated { .. }))
    ));
    // Who has the DEK needs no key.
    let forge = Forge::to(&[*recipient(1).as_x25519().unwrap()]);
    let new = add(&[2]).block_with_dek(&forge.block(), &Dek::import(&forge.dek)).unwrap();
    assert_eq!(Forge { ..forge.clone() }.block().len() + 84 + 84 - 52 - 32, new.len());
    let wrong = add(&[2]).block_with_dek(&forge.block(), &Dek::import(&[0; 32])).unwrap_err();
    assert!(matches!(wrong, RewrapError::Open(OpenError::HeaderMac)));
}

/// Externals stay, unless all are replaced; and a block of externals alone takes slots.
#[test]
fn externals_are_kept() {
    let part = [&[3][..], b"kms", &[0, 1], b"k", &[0, 4], b"blob"].concat();
    let both = Forge { externals: vec![part.clone()], ..Forge::to(&[*recipient(1).as_x25519().unwrap()]) };
    let alone = Forge { options: 0, enc: None, slots: Vec::new(), ..both.clone() };
    let dek = || Dek::import(&both.dek);
    let raw = add(&[2]).block_with_dek(&both.block(), &dek()).unwrap();
    assert_eq!((block(&raw).slots.len(), block(&raw).externals.len()), (2, 1));
    let raw = add(&[2]).block_with_dek(&alone.block(), &dek()).unwrap();
    assert_eq!((block(&raw).slots.len(), block(&raw).externals.len()), (1, 1));
    assert_eq!(block(&raw).options.hints, HintMode::Rotating);
    let raw = add(&[2]).replace_all().block_with_dek(&both.block(), &dek()).unwrap();
    assert_eq!((block(&raw).slots.len(), block(&raw).externals.len()), (1, 0));
    let raw = Rewrap::new().without(recipient(1)).block_with_dek(&both.block(), &dek()).unwrap();
    assert_eq!((block(&raw).slots.len(), block(&raw).externals.len()), (0, 1));
    assert_eq!(raw, alone.block());
    let own = Forge { options: 1 | 8, enc: None, ..both.clone() };
    let own = Forge { slots: vec![own.own_slot(&[0x46; 32], recipient(1).as_x25519().unwrap(), &own.dek)], ..own };
    let raw = Rewrap::new().without(recipient(1)).block_with_dek(&own.block(), &dek()).unwrap();
    assert_eq!(raw, alone.block(), "without slots there is no enc, of whichever kind");
}

fn standing(envelope: &[u8], i: u8) -> Standing {
    Opener::new(with(i)).open(envelope).unwrap().sender.standing()
}

/// Proves RWP-1, RWP-3: what the proof says afterwards, for each kind.
#[test]
fn a_proof_survives_with_its_standing() {
    let alice = || SenderKey::from_ed25519(&ALICE);
    let dek = sealed(to(&[1]).sign_with(alice()));
    assert!(matches!(rewrap(&dek, &with(1), &add(&[2])), Err(RewrapError::WeakensProof)));
    assert!(matches!(rewrap(&dek, &with(1), &add(&[2]).replace_all()), Err(RewrapError::WeakensProof)));
    let weakened = rewrap(&dek, &with(1), &add(&[2]).weaken_proof()).unwrap();
    assert_eq!((standing(&weakened, 1), standing(&weakened, 2)), (Standing::Origin, Standing::Origin));
    let alone = rewrap(&weakened, &with(1), &Rewrap::new().without(recipient(1))).unwrap();
    assert_eq!(standing(&alone, 2), Standing::Origin, "the one who is left was never the one it was for");
    let group = sealed(to(&[1, 2]).sign_with(alice()));
    let fewer = rewrap(&group, &with(1), &Rewrap::new().without(recipient(1))).unwrap();
    assert_eq!(standing(&fewer, 2), Standing::Origin);

    let message = sealed(to(&[1]).sign_messages_with(alice()));
    let more = rewrap(&message, &with(1), &add(&[2])).unwrap();
    assert_eq!((standing(&more, 1), standing(&more, 2)), (Standing::SignedRewrapped, Standing::SignedRewrapped));
    let twice = rewrap(&more, &with(2), &add(&[3]).without(recipient(1))).unwrap();
    assert_eq!(standing(&twice, 3), Standing::SignedRewrapped);
    assert_eq!(open(&twice, &with(3)).unwrap().sender.key(), Some(alice().verifying_key()));
    // Whatever is changed in it is noticed, proof and recipients alike.
    let mut rng = TestRng::new(5);
    for at in 0..twice.len() {
        let mut changed = twice.clone();
        changed[at] ^= 1 << rng.below(8);
        assert!(open(&changed, &with(3)).is_err(), "byte {at}");
        assert!(Opener::new(with(3)).open_in_place(BytesMut::from(&changed[..])).is_err());
    }
    // A slot taken out or put in by who has not the DEK.
    let (is, size) = (block(&twice), 84);
    assert_eq!(is.slots.len(), 2);
    let mut stripped = [&twice[..37], &twice[37 + size..]].concat();
    stripped[4..8].copy_from_slice(&((is.encoded_len() - size) as u32).to_be_bytes());
    stripped[10..12].copy_from_slice(&1u16.to_be_bytes());
    assert!(matches!(open(&stripped, &with(3)), Err(OpenError::HeaderMac | OpenError::NoMatchingKey)));
}

/// Hints are kept in a block with many readers, and every one of them still finds his slot.
#[test]
fn a_thousand_readers() {
    let many: Vec<Cmk> =
        (0..1000u16).map(|i| Cmk::from_x25519(&std::array::from_fn(|at| i.to_be_bytes()[at % 2] ^ 0x55))).collect();
    let builder = Sealer::builder().to_all(many.iter().skip(1).map(|cmk| cmk.recipient().clone()));
    let old = sealed(builder);
    let last = Keyring::from(Cmk::from_x25519(&std::array::from_fn(|at| 999u16.to_be_bytes()[at % 2] ^ 0x55)));
    let new = rewrap(&old, &last, &Rewrap::new().to(many[0].recipient().clone())).unwrap();
    assert_eq!(new.len() - old.len(), 1000 * 84 - 999 * 52 - 32);
    let removed = many.iter().skip(1).take(500).fold(Rewrap::new(), |change, cmk| change.without(cmk.recipient().clone()));
    let fewer = rewrap(&new, &last, &removed).unwrap();
    assert_eq!(block(&fewer).slots.len(), 500);
    for (i, cmk) in many.into_iter().enumerate().step_by(83) {
        assert_eq!(open(&fewer, &Keyring::from(cmk)).is_ok(), i == 0 || i > 500, "{i}");
    }
}
