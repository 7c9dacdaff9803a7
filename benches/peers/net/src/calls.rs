//! The primitives alone.

use std::{hint::black_box, time::Duration};

use aes_gcm::Aes256Gcm;
use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey},
    agreement::{PrivateKey, UnparsedPublicKey, X25519, agree},
};
use chacha20poly1305::{
    ChaCha20Poly1305, KeyInit,
    aead::{
        AeadInOut,
        consts::{U12, U16},
        inout::InOutBuf,
    },
};
use rand::{TryRng, rngs::SysRng};
use x25519_dalek::{PublicKey, StaticSecret};

use crate::rounds::{Rounds, calibrate, timed};

pub const SIZES: [usize; 4] = [64, 1024, 16 << 10, 1 << 20];
/// By row.
pub const AEADS: [(&str, &str); 4] = [
    ("ChaCha20-Poly1305", "chacha20poly1305"),
    ("ChaCha20-Poly1305", "aws-lc-rs"),
    ("AES-256-GCM", "aes-gcm"),
    ("AES-256-GCM", "aws-lc-rs"),
];
pub const X25519S: [(&str, &str); 4] = [
    ("key generation", "x25519-dalek"),
    ("key generation", "aws-lc-rs"),
    ("agreement", "x25519-dalek"),
    ("agreement", "aws-lc-rs"),
];

type Call = Box<dyn FnMut()>;

/// In turn; each as often as takes a hundredth of a second.
fn measure(rounds: usize, mut calls: Vec<Call>) -> Rounds {
    let mut run = |i: usize, n: usize| timed(|| (0..n).for_each(|_| calls[i]()));
    let counts: Vec<_> = (0..AEADS.len()).map(|i| calibrate(Duration::from_millis(10), 1, 1 << 24, |n| run(i, n))).collect();
    let [rounds] = Rounds::of(rounds, counts.len(), |i| [run(i, counts[i]).as_secs_f64() / counts[i] as f64]);
    rounds
}

/// [`AEADS`], sealing in place.
pub fn aeads(rounds: usize, size: usize) -> Rounds {
    let mut nonces = 0u64..;
    let nonce = move || {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&nonces.next().unwrap().to_be_bytes());
        nonce
    };
    let seals = [
        portable(ChaCha20Poly1305::new(&[7; 32].into())),
        of_aws_lc(&CHACHA20_POLY1305),
        portable(Aes256Gcm::new(&[7; 32].into())),
        of_aws_lc(&AES_256_GCM),
    ];
    // The two of one cipher are the same function.
    let tags = seals.each_ref().map(|seal| seal([1; 12], &mut [5; 99]));
    assert!(tags[0] == tags[1] && tags[2] == tags[3]);
    let calls = seals.into_iter().map(|seal| {
        let (mut text, mut nonce) = (vec![5; size], nonce.clone());
        Box::new(move || _ = black_box(seal(nonce(), black_box(&mut text)))) as Call
    });
    measure(rounds, calls.collect())
}

/// From a nonce, and a text that it encrypts in place, to the tag.
type Seal = Box<dyn Fn([u8; 12], &mut [u8]) -> [u8; 16]>;

fn portable(key: impl AeadInOut<NonceSize = U12, TagSize = U16> + 'static) -> Seal {
    Box::new(move |nonce, text| key.encrypt_inout_detached(&nonce.into(), b"", InOutBuf::from(text)).unwrap().into())
}

fn of_aws_lc(algorithm: &'static Algorithm) -> Seal {
    let key = LessSafeKey::new(UnboundKey::new(algorithm, &[7; 32]).unwrap());
    Box::new(move |nonce, text| {
        let tag = key.seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), text).unwrap();
        tag.as_ref().try_into().unwrap()
    })
}

/// [`X25519S`].
pub fn x25519s(rounds: usize) -> Rounds {
    let secret = || {
        let mut secret = [0; 32];
        SysRng.try_fill_bytes(&mut secret).unwrap();
        secret
    };
    let (one, other) = (secret(), secret());
    let (ours, theirs) = (StaticSecret::from(one), PublicKey::from(&StaticSecret::from(other)));
    let (fast, peer) = (PrivateKey::from_private_key(&X25519, &one).unwrap(), UnparsedPublicKey::new(&X25519, theirs.to_bytes()));
    let agreed = move || agree(&fast, peer, (), |shared| Ok(<[u8; 32]>::try_from(shared).unwrap())).unwrap();
    assert!(agreed() == ours.diffie_hellman(&theirs).to_bytes());
    let generate = move || {
        let secret = StaticSecret::from(secret());
        (PublicKey::from(&secret), secret)
    };
    let generate_fast = || {
        let secret = PrivateKey::generate(&X25519).unwrap();
        (secret.compute_public_key().unwrap(), secret)
    };
    measure(
        rounds,
        vec![
            Box::new(move || _ = black_box(generate())),
            Box::new(move || _ = black_box(generate_fast())),
            Box::new(move || _ = black_box(ours.diffie_hellman(black_box(&theirs)))),
            Box::new(move || _ = black_box(agreed())),
        ],
    )
}
