//! A slow, obvious reader of one message, for the fuzzer: spec/format.md from top to bottom, with the primitives' crates
//! and none of sealwire's code.

use aes_gcm::Aes256Gcm;
use chacha20poly1305::{
    ChaCha20Poly1305, KeyInit,
    aead::{Aead, Payload},
};
use ed25519_dalek::{Signature, VerifyingKey};
use hkdf::{
    Hkdf,
    hmac::{Hmac, Mac},
};
use sha2::{Digest, Sha256};
use x_wing::{DecapsulationKeyRejectNonContrib, Decapsulator, KeyExport, TryDecapsulate};
use x25519_dalek::{PublicKey, StaticSecret};

/// Takes `n` bytes off the front.
fn take<'a>(input: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
    let (head, rest) = input.split_at_checked(n)?;
    *input = rest;
    Some(head)
}

fn number(input: &mut &[u8], n: usize) -> Option<u64> {
    take(input, n).map(|bytes| bytes.iter().fold(0, |n, byte| n << 8 | u64::from(*byte)))
}

fn extract(salt: &[u8], ikm: &[u8]) -> Vec<u8> {
    Hkdf::<Sha256>::extract(Some(salt), ikm).0.to_vec()
}

fn expand(prk: &[u8], info: &[u8], len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    Hkdf::<Sha256>::from_prk(prk).unwrap().expand(info, &mut out).unwrap();
    out
}

fn aead_open(suite: u8, key: &[u8], nonce: &[u8], aad: &[u8], msg: &[u8]) -> Option<Vec<u8>> {
    let nonce: [u8; 12] = nonce.try_into().unwrap();
    let (key, payload) = (key.try_into().unwrap(), Payload { msg, aad });
    match suite {
        1 | 3 => ChaCha20Poly1305::new(key).decrypt(&nonce.into(), payload).ok(),
        _ => Aes256Gcm::new(key).decrypt(&nonce.into(), payload).ok(),
    }
}

fn label(name: &str, suite: u8) -> Vec<u8> {
    [b"sealwire v1 ", name.as_bytes(), &[suite]].concat()
}

fn labeled(suite: &[u8], label: &[u8], ikm: &[u8]) -> Vec<u8> {
    [b"HPKE-v1", suite, label, ikm].concat()
}

fn sized(len: u8, suite: &[u8], name: &[u8], info: &[u8]) -> Vec<u8> {
    [&[0, len][..], b"HPKE-v1", suite, name, info].concat()
}

/// RFC 9180, 4.1.
fn decapsulate_x25519(secret: &[u8; 32], enc: &[u8]) -> Option<Vec<u8>> {
    let secret = StaticSecret::from(*secret);
    let public = PublicKey::from(&secret).to_bytes();
    let enc: [u8; 32] = enc.try_into().unwrap();
    let dh = secret.diffie_hellman(&PublicKey::from(enc));
    if dh.as_bytes() == &[0; 32] {
        return None;
    }
    let kem = b"KEM\x00\x20";
    let eae = extract(b"", &labeled(kem, b"eae_prk", dh.as_bytes()));
    Some(expand(&eae, &sized(32, kem, b"shared_secret", &[enc, public].concat()), 32))
}

/// Section 6.1.1.
fn x_wing(seed: &[u8; 32]) -> DecapsulationKeyRejectNonContrib {
    DecapsulationKeyRejectNonContrib::new(seed.into())
}

/// KEM id, public key.
fn key(number: u8, secret: &[u8; 32]) -> Vec<u8> {
    match number {
        1 | 2 => [&b"\x00\x20"[..], PublicKey::from(&StaticSecret::from(*secret)).as_bytes()].concat(),
        _ => [&b"\x64\x7a"[..], &x_wing(secret).encapsulation_key().to_bytes()].concat(),
    }
}

/// Section 6.1, backwards.
fn unwrap(number: u8, secret: &[u8; 32], enc: &[u8], wrapped: &[u8]) -> Option<Vec<u8>> {
    let shared = match number {
        1 | 2 => decapsulate_x25519(secret, enc)?,
        _ => x_wing(secret).try_decapsulate(enc.try_into().unwrap()).ok()?.to_vec(),
    };
    // 3.5: the identifiers of KEM and AEAD
    let (kem, aead) = ([b"\x00\x20", b"\x64\x7a"][usize::from(number > 2)], [2, 3][usize::from(number % 2)]);
    let suite = &[b"HPKE", &kem[..], b"\x00\x01\x00", &[aead]].concat()[..];
    let psk = extract(b"", &labeled(suite, b"psk_id_hash", b""));
    let info = extract(b"", &labeled(suite, b"info_hash", &[b"sealwire v1 dek", &[number][..]].concat()));
    let context = [&[0][..], &psk, &info].concat();
    let secret = extract(&shared, &labeled(suite, b"secret", b""));
    let key = expand(&secret, &sized(32, suite, b"key", &context), 32);
    aead_open(number, &key, &expand(&secret, &sized(12, suite, b"base_nonce", &context), 12), b"", wrapped)
}

/// Context and payload, and who sent them: a standing and a key.
type Opened = (Vec<u8>, Vec<u8>, String, Option<[u8; 32]>);

/// Provider and key_ref of a key that is named, and what its KMS answers.
pub type Kms = (Vec<u8>, Vec<u8>, Vec<u8>);

/// What is in an envelope, or nothing.
pub fn open(bytes: &[u8], keys: &[[u8; 32]], kms: &[Kms], binding: &[u8]) -> Option<Opened> {
    let mut input = bytes;
    // 3.1
    let whole = input;
    (take(&mut input, 4)? == b"SWE\x01").then_some(())?;
    let block_len = number(&mut input, 4)? as usize;
    (block_len <= 131_072 && block_len <= whole.len() && block_len >= 69).then_some(())?;
    let (raw, message) = whole.split_at(block_len);
    let mut block = &raw[8..];
    let (suite, options) = (number(&mut block, 1)?, number(&mut block, 1)?);
    // 3.2
    (matches!(suite, 1..=4) && options & 0b1110_0000 == 0 && options & 3 != 3 && options & 0x14 != 0x10).then_some(())?;
    let suite = suite as u8;
    (suite <= 2 || options & 8 == 0).then_some(())?;
    let (slots, externals) = (number(&mut block, 2)?, number(&mut block, 1)?);
    (slots + externals > 0 && slots <= 1024 && externals <= 4 && (slots > 0 || options & 0x0b == 0)).then_some(())?;
    let created_at = take(&mut block, 8)?;
    (u64::from_be_bytes(created_at.try_into().unwrap()) <= 253_402_300_799).then_some(())?;
    let salt = take(&mut block, 16)?;
    let own = suite > 2 || options & 8 != 0;
    let enc_len = if suite > 2 { 1120 } else { 32 };
    let shared = if own || slots == 0 { None } else { Some(take(&mut block, 32)?) };
    let mut found = Vec::new();
    for _ in 0..slots {
        let hint = take(&mut block, 4)?;
        let enc = if own { take(&mut block, enc_len)? } else { shared? };
        found.push((hint, enc, take(&mut block, 48)?));
        (options & 3 != 0 || hint == [0; 4]).then_some(())?;
    }
    // 3.4
    let mut answers = Vec::new();
    for _ in 0..externals {
        let n = number(&mut block, 1)? as usize;
        let provider = take(&mut block, n)?;
        ((1..=32).contains(&n) && provider.iter().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))).then_some(())?;
        let n = number(&mut block, 2)? as usize;
        let key_ref = take(&mut block, n)?;
        (n <= 2048 && std::str::from_utf8(key_ref).is_ok()).then_some(())?;
        let n = number(&mut block, 2)? as usize;
        take(&mut block, n)?;
        (1..=6144).contains(&n).then_some(())?;
        answers.extend(kms.iter().find(|named| named.0 == provider && named.1 == key_ref).map(|named| &named.2));
    }
    let proof = if options & 4 != 0 { Some(take(&mut block, 128)?) } else { None };
    let mac = take(&mut block, 32)?;
    block.is_empty().then_some(())?;
    // 4.1
    let mut rest = message;
    let seq = take(&mut rest, 8)?;
    let (log2, flags) = (number(&mut rest, 1)?, number(&mut rest, 1)?);
    ((12..=24).contains(&log2) && flags & !2 == 0).then_some(())?;
    let n = number(&mut rest, 2)? as usize;
    (n <= 8192).then_some(())?;
    let context = take(&mut rest, n)?;
    // 4.4
    (options & 16 == 0 || seq == [0; 8]).then_some(())?;
    let head = &message[..12 + n];
    // 5.2
    let mut segments = Vec::new();
    let mut total = 0;
    loop {
        let prefix = number(&mut rest, 4)?;
        let (last, len) = (prefix >> 31 == 1, (prefix & 0x7fff_ffff) as usize);
        (len >= 16 && len - 16 <= 1 << log2 && (last || len - 16 == 1 << log2)).then_some(())?;
        (!last || len > 16 || segments.is_empty()).then_some(())?;
        total += len - 16;
        (total <= 16 << 20).then_some(())?;
        segments.push((last, take(&mut rest, len)?));
        if last {
            break;
        }
    }
    rest.is_empty().then_some(())?;
    // 6.4
    let is_its = |dek: &[u8]| {
        let prk = extract(salt, dek);
        let mut check = Hmac::<Sha256>::new_from_slice(&expand(&prk, &label("header", suite), 32)).unwrap();
        check.update(&raw[..raw.len() - 32]);
        (check.finalize().into_bytes()[..] == *mac).then_some(prk)
    };
    let prk = match find(suite, keys, &found, options & 3, salt, &is_its)? {
        Some(prk) => prk,
        None => answers.into_iter().filter(|answer| answer.len() == 32).find_map(|answer| is_its(answer))?,
    };
    let (standing, sender) = match proof {
        None => ("anonymous", None),
        Some(masked) => {
            // 6.5
            let recipients = Sha256::digest([&raw[9..13], &raw[37..raw.len() - 160]].concat());
            let mask = expand(&prk, &[&b"sealwire v1 sender"[..], &[suite], &recipients].concat(), 128);
            let plain: Vec<u8> = masked.iter().zip(mask).map(|(byte, mask)| byte ^ mask).collect();
            let (key, original): ([u8; 32], _) = (plain[..32].try_into().unwrap(), &plain[32..64]);
            let covered = if options & 16 != 0 { Sha256::digest([message, binding].concat()).to_vec() } else { Vec::new() };
            let commitment = expand(&prk, &label("commit", suite), 32);
            let signed = [&label("sender proof", suite)[..], created_at, salt, original, &commitment, &covered].concat();
            let mut y = key;
            y[31] &= 0x7f;
            let mut p = [0xff; 32];
            (p[0], p[31]) = (0xed, 0x7f);
            y.iter().rev().lt(p.iter().rev()).then_some(())?;
            let signature = Signature::from_slice(&plain[64..]).ok()?;
            VerifyingKey::from_bytes(&key).ok()?.verify_strict(&signed, &signature).ok()?;
            // 6.6
            let standing = match (options & 16 != 0, original == &recipients[..]) {
                (true, true) => "signed",
                (true, false) => "signed-rewrapped",
                (false, true) if (slots, externals) == (1, 0) => "verified",
                (false, true) => "group",
                (false, false) => "origin",
            };
            (standing, Some(key))
        }
    };
    let key = expand(&prk, &label("payload", suite), 32);
    let mut plain = Vec::new();
    for (i, (last, body)) in segments.iter().enumerate() {
        let nonce = [seq, &(i as u32 * 2 + u32::from(*last)).to_be_bytes()].concat();
        let aad = if i == 0 { [head, binding].concat() } else { Vec::new() };
        plain.extend(aead_open(suite, &key, &nonce, &aad, body)?);
    }
    if flags & 2 != 0 {
        plain = unpad(&plain)?;
    }
    Some((context.to_vec(), plain, standing.into(), sender))
}

/// Section 6.4, with at most 64 trials, past which there is nothing.
fn find(
    suite: u8,
    keys: &[[u8; 32]],
    slots: &[(&[u8], &[u8], &[u8])],
    mode: u64,
    salt: &[u8],
    is_its: &dyn Fn(&[u8]) -> Option<Vec<u8>>,
) -> Option<Option<Vec<u8>>> {
    let mut trials = 0;
    for secret in keys {
        let fingerprint = Sha256::digest([&b"sealwire v1 key"[..], &key(suite, secret)].concat());
        let rotating = Sha256::digest([&b"sealwire v1 hint"[..], salt, &fingerprint].concat());
        let mut tried = Vec::new();
        for (hint, enc, wrapped) in slots {
            if (mode == 1 && hint != &&rotating[..4]) || (mode == 2 && hint != &&fingerprint[..4]) {
                continue;
            }
            if !tried.contains(enc) {
                tried.push(enc);
                trials += 1;
                (trials <= 64).then_some(())?;
            }
            let Some(dek) = unwrap(suite, secret, enc, wrapped) else { continue };
            if let Some(prk) = is_its(&dek) {
                return Some(Some(prk));
            }
            trials += 1;
            (trials <= 64).then_some(())?;
        }
    }
    Some(None)
}

/// Section 8.
fn unpad(plain: &[u8]) -> Option<Vec<u8>> {
    let (rest, len) = plain.split_last_chunk::<8>()?;
    let len = usize::try_from(u64::from_be_bytes(*len)).ok().filter(|len| *len <= rest.len())?;
    let n = len + 8;
    let e = n.ilog2();
    let z = e.saturating_sub(e.ilog2() + 1);
    (n.next_multiple_of(1 << z) == plain.len() && rest[len..].iter().all(|b| *b == 0)).then(|| rest[..len].to_vec())
}
