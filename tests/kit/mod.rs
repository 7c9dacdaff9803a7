//! A second writer of messages, for tests: put together from the primitives and from the tables of spec/, without the
//! crate's own code, so that it can also write what the crate would not.
#![allow(dead_code, reason = "every test file uses its own part of the kit")]

pub mod aes;
pub mod apart;
pub mod keys;
pub mod kms;
pub mod pq;
pub mod scenarios;
pub mod senders;

use aes_gcm::Aes256Gcm;
use chacha20poly1305::{
    ChaCha20Poly1305, KeyInit,
    aead::{Aead, Payload},
};
use ed25519_dalek::{Signer, SigningKey};
use hkdf::{
    Hkdf,
    hmac::{Hmac, Mac},
};
use sha2::{Digest, Sha256};
use x25519_dalek::{PublicKey, StaticSecret};

pub fn public(secret: &[u8; 32]) -> [u8; 32] {
    PublicKey::from(&StaticSecret::from(*secret)).to_bytes()
}

fn extract(salt: &[u8], ikm: &[u8]) -> [u8; 32] {
    Hkdf::<Sha256>::extract(Some(salt), ikm).0.into()
}

fn expand(prk: &[u8; 32], info: &[u8], len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    Hkdf::<Sha256>::from_prk(prk).unwrap().expand(info, &mut out).unwrap();
    out
}

/// The AEAD of suites 2 and 4 is AES-256-GCM; where a test claims a suite that there is not, it is as for suite 1.
fn aead_seal(suite: u8, key: &[u8], nonce: &[u8; 12], aad: &[u8], msg: &[u8]) -> Vec<u8> {
    let (key, payload) = (key.try_into().unwrap(), Payload { msg, aad });
    match suite {
        2 | 4 => Aes256Gcm::new(key).encrypt(nonce.into(), payload).unwrap(),
        _ => ChaCha20Poly1305::new(key).encrypt(nonce.into(), payload).unwrap(),
    }
}

/// The suite that labels name.
fn written(suite: u8) -> u8 {
    if suite <= 4 { suite } else { 1 }
}

/// HPKE base mode, RFC 9180: wraps a DEK under an ephemeral secret of X25519.
pub fn wrap(suite: u8, ephemeral: &[u8; 32], to: &[u8; 32], dek: &[u8; 32]) -> Vec<u8> {
    let dh = StaticSecret::from(*ephemeral).diffie_hellman(&PublicKey::from(*to)).to_bytes();
    wrap_with(suite, &dh, &public(ephemeral), to, dek)
}

/// The same with any result of the Diffie-Hellman, and any enc.
pub fn wrap_with(suite: u8, dh: &[u8; 32], enc: &[u8; 32], to: &[u8; 32], dek: &[u8; 32]) -> Vec<u8> {
    let kem = b"KEM\x00\x20";
    let eae = extract(b"", &labeled(kem, b"eae_prk", dh));
    let shared = expand(&eae, &labeled_info(32, kem, b"shared_secret", &[*enc, *to].concat()), 32);
    wrap_under(suite, &shared, dek)
}

fn labeled(suite: &[u8], label: &[u8], ikm: &[u8]) -> Vec<u8> {
    [b"HPKE-v1", suite, label, ikm].concat()
}

fn labeled_info(len: u16, suite: &[u8], label: &[u8], rest: &[u8]) -> Vec<u8> {
    [&len.to_be_bytes()[..], b"HPKE-v1", suite, label, rest].concat()
}

/// What HPKE does once the KEM has given its shared secret.
pub fn wrap_under(suite: u8, shared: &[u8], dek: &[u8; 32]) -> Vec<u8> {
    let number = written(suite);
    let kem = if number > 2 { b"\x64\x7a" } else { b"\x00\x20" };
    let aead = if number.is_multiple_of(2) { 2 } else { 3 };
    let suite = &[b"HPKE", &kem[..], &[0, 1, 0, aead]].concat()[..];
    let psk_id = extract(b"", &labeled(suite, b"psk_id_hash", b""));
    let info_hash = extract(b"", &labeled(suite, b"info_hash", &[&b"sealwire v1 dek"[..], &[number]].concat()));
    let context = [&[0][..], &psk_id, &info_hash].concat();
    let secret = extract(shared, &labeled(suite, b"secret", b""));
    let key = expand(&secret, &labeled_info(32, suite, b"key", &context), 32);
    let nonce = expand(&secret, &labeled_info(12, suite, b"base_nonce", &context), 12);
    aead_seal(number, &key, &nonce.try_into().unwrap(), b"", dek)
}

pub fn fingerprint(to: &[u8; 32]) -> [u8; 32] {
    Sha256::digest([b"sealwire v1 key\x00\x20", &to[..]].concat()).into()
}

pub fn rotating_hint(salt: &[u8; 16], to: &[u8; 32]) -> [u8; 4] {
    Sha256::digest([&b"sealwire v1 hint"[..], salt, &fingerprint(to)].concat())[..4].try_into().unwrap()
}

/// The keys of a DEK under a salt.
pub struct Keys {
    suite: u8,
    prk: [u8; 32],
}

impl Keys {
    pub fn new(suite: u8, salt: &[u8; 16], dek: &[u8; 32]) -> Self {
        Self { suite: written(suite), prk: extract(salt, dek) }
    }

    pub fn derive(&self, label: &str) -> [u8; 32] {
        expand(&self.prk, &[label.as_bytes(), &[self.suite]].concat(), 32).try_into().unwrap()
    }
}

/// A block and the messages under it, every part open to the test.
#[derive(Clone)]
pub struct Forge {
    pub dek: [u8; 32],
    pub salt: [u8; 16],
    pub suite: u8,
    pub options: u8,
    pub created_at: u64,
    pub enc: Option<[u8; 32]>,
    pub slots: Vec<Vec<u8>>,
    pub externals: Vec<Vec<u8>>,
    pub proof: Vec<u8>,
    pub segment_log2: u8,
}

pub const EPHEMERAL: [u8; 32] = [0x45; 32];

impl Forge {
    /// Suite 1, rotating hints, one shared enc, these recipients.
    pub fn to(recipients: &[[u8; 32]]) -> Self {
        Self::under(1, recipients)
    }

    /// The same under suite 1 or 2.
    pub fn under(suite: u8, recipients: &[[u8; 32]]) -> Self {
        let mut forge = Self {
            dek: [0xd1; 32],
            salt: [0x5a; 16],
            suite,
            options: 1,
            created_at: 1_700_000_000,
            enc: Some(public(&EPHEMERAL)),
            slots: Vec::new(),
            externals: Vec::new(),
            proof: Vec::new(),
            segment_log2: 16,
        };
        for to in recipients {
            let slot = forge.slot(to, &forge.dek);
            forge.slots.push(slot);
        }
        forge
    }

    /// A slot in the block's hint mode and the shared layout, for any DEK.
    pub fn slot(&self, to: &[u8; 32], dek: &[u8; 32]) -> Vec<u8> {
        [&self.hint(to)[..], &wrap(self.suite, &EPHEMERAL, to, dek)].concat()
    }

    /// A slot with an enc of its own.
    pub fn own_slot(&self, ephemeral: &[u8; 32], to: &[u8; 32], dek: &[u8; 32]) -> Vec<u8> {
        [&self.hint(to)[..], &public(ephemeral), &wrap(self.suite, ephemeral, to, dek)].concat()
    }

    fn hint(&self, to: &[u8; 32]) -> [u8; 4] {
        match self.options & 3 {
            0 => [0; 4],
            1 => rotating_hint(&self.salt, to),
            _ => fingerprint(to)[..4].try_into().unwrap(),
        }
    }

    pub fn keys(&self) -> Keys {
        Keys::new(self.suite, &self.salt, &self.dek)
    }

    pub fn block(&self) -> Vec<u8> {
        let parts =
            [self.enc.map_or(Vec::new(), |e| e.to_vec()), self.slots.concat(), self.externals.concat(), self.proof.clone()]
                .concat();
        let mut block = b"SWE\x01".to_vec();
        block.extend((37 + parts.len() as u32 + 32).to_be_bytes());
        block.extend([self.suite, self.options]);
        block.extend((self.slots.len() as u16).to_be_bytes());
        block.push(self.externals.len() as u8);
        block.extend(self.created_at.to_be_bytes());
        block.extend(self.salt);
        block.extend(parts);
        self.mac(block)
    }

    /// Puts header_mac behind a block that may have been changed.
    pub fn mac(&self, mut block: Vec<u8>) -> Vec<u8> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.keys().derive("sealwire v1 header")).unwrap();
        mac.update(&block);
        block.extend(mac.finalize().into_bytes());
        block
    }

    pub fn header_mac(&self) -> [u8; 32] {
        *self.block().last_chunk().unwrap()
    }

    /// A self-contained message.
    pub fn envelope(&self, seq: u64, flags: u8, context: &[u8], plaintext: &[u8]) -> Vec<u8> {
        self.envelope_bound(seq, flags, context, plaintext, b"", b"")
    }

    pub fn envelope_bound(&self, seq: u64, flags: u8, context: &[u8], plaintext: &[u8], chain: &[u8], binding: &[u8]) -> Vec<u8> {
        let head = self.head(seq, flags, context);
        let aad = [&head[..], chain, binding].concat();
        [self.block(), head, self.segments(seq, &aad, plaintext)].concat()
    }

    pub fn follow_up(&self, seq: u64, flags: u8, context: &[u8], plaintext: &[u8], binding: &[u8]) -> Vec<u8> {
        let aad = [&self.head(seq, flags, context)[..], binding].concat();
        let mut out = vec![1, flags];
        out.extend((context.len() as u16).to_be_bytes());
        out.extend(context);
        out.extend(self.segments(seq, &aad, plaintext));
        out
    }

    pub fn head(&self, seq: u64, flags: u8, context: &[u8]) -> Vec<u8> {
        let mut head = seq.to_be_bytes().to_vec();
        head.extend([self.segment_log2, flags]);
        head.extend((context.len() as u16).to_be_bytes());
        head.extend(context);
        head
    }

    pub fn segments(&self, seq: u64, aad: &[u8], plaintext: &[u8]) -> Vec<u8> {
        let size = 1usize << self.segment_log2;
        let mut pieces: Vec<&[u8]> = plaintext.chunks(size).collect();
        if pieces.is_empty() {
            pieces.push(&[]);
        }
        let last = pieces.len() - 1;
        let sealed = pieces
            .iter()
            .enumerate()
            .map(|(i, piece)| self.segment(seq, i as u32, i == last, if i == 0 { aad } else { b"" }, piece));
        sealed.collect::<Vec<_>>().concat()
    }

    pub fn segment(&self, seq: u64, i: u32, last: bool, aad: &[u8], piece: &[u8]) -> Vec<u8> {
        let mut nonce = [0; 12];
        nonce[..8].copy_from_slice(&seq.to_be_bytes());
        nonce[8..].copy_from_slice(&(i * 2 + u32::from(last)).to_be_bytes());
        self.segment_with(&self.keys().derive("sealwire v1 payload"), &nonce, aad, piece, last)
    }

    /// A segment under any key and nonce.
    pub fn segment_with(&self, key: &[u8; 32], nonce: &[u8; 12], aad: &[u8], piece: &[u8], last: bool) -> Vec<u8> {
        let sealed = aead_seal(self.suite, key, nonce, aad, piece);
        let prefix = sealed.len() as u32 | if last { 1 << 31 } else { 0 };
        [&prefix.to_be_bytes()[..], &sealed].concat()
    }
}

/// What stands in a sender proof under its mask.
#[derive(Clone)]
pub struct Proof {
    pub key: [u8; 32],
    pub original: [u8; 32],
    pub signature: [u8; 64],
}

pub fn verifying_key(seed: &[u8; 32]) -> [u8; 32] {
    SigningKey::from_bytes(seed).verifying_key().to_bytes()
}

/// What the proof of a channel's epoch covers.
pub fn channel(acceptor: bool, binding: &[u8]) -> [u8; 32] {
    Sha256::digest([&b"sealwire v1 channel"[..], &[u8::from(acceptor)], binding].concat()).into()
}

/// Sender proofs (spec 6.5).
impl Forge {
    pub fn recipients_hash(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update([self.options]);
        hash.update((self.slots.len() as u16).to_be_bytes());
        hash.update([self.externals.len() as u8]);
        hash.update(self.enc.map_or(Vec::new(), |e| e.to_vec()));
        hash.update(self.slots.concat());
        hash.update(self.externals.concat());
        hash.finalize().into()
    }

    /// What is signed.
    pub fn statement(&self, original: &[u8; 32], covers: &[u8]) -> Vec<u8> {
        let mut bytes = b"sealwire v1 sender proof".to_vec();
        bytes.push(self.suite);
        bytes.extend(self.created_at.to_be_bytes());
        bytes.extend(self.salt);
        bytes.extend(original);
        bytes.extend(self.keys().derive("sealwire v1 commit"));
        bytes.extend(covers);
        bytes
    }

    /// The proof that `seed` makes for the recipients as they are.
    pub fn proof_by(&self, seed: &[u8; 32], covers: &[u8]) -> Proof {
        let original = self.recipients_hash();
        let signature = SigningKey::from_bytes(seed).sign(&self.statement(&original, covers)).to_bytes();
        Proof { key: verifying_key(seed), original, signature }
    }

    /// Puts a proof into the block, masked.
    pub fn put(&mut self, proof: &Proof) {
        let info = [&b"sealwire v1 sender"[..], &[self.suite], &self.recipients_hash()].concat();
        let mask = expand(&self.keys().prk, &info, 128);
        let plain = [&proof.key[..], &proof.original, &proof.signature].concat();
        self.proof = plain.iter().zip(mask).map(|(byte, mask)| byte ^ mask).collect();
    }

    /// A block that `seed` signed, over what `covers` says.
    pub fn signed(mut self, seed: &[u8; 32], covers: &[u8]) -> Self {
        self.options |= 4;
        let proof = self.proof_by(seed, covers);
        self.put(&proof);
        self
    }

    /// What the proof of a message covers.
    pub fn message_hash(&self, flags: u8, context: &[u8], plaintext: &[u8], binding: &[u8]) -> [u8; 32] {
        let head = self.head(0, flags, context);
        let aad = [&head[..], binding].concat();
        Sha256::digest([&head[..], &self.segments(0, &aad, plaintext), binding].concat()).into()
    }

    /// A block whose proof covers a message without flags and binding.
    pub fn signed_message(mut self, seed: &[u8; 32], context: &[u8], plaintext: &[u8]) -> Self {
        self.options |= 0x14;
        let covers = self.message_hash(0, context, plaintext, b"");
        self.signed(seed, &covers)
    }
}

/// `payload ‖ 00* ‖ payload_len`, with the length given.
pub fn pad(payload: &[u8], padded: usize) -> Vec<u8> {
    let mut out = payload.to_vec();
    out.resize(padded - 8, 0);
    out.extend((payload.len() as u64).to_be_bytes());
    out
}

/// Entries of a batch.
pub fn batch(entries: &[&[u8]]) -> Vec<u8> {
    entries.iter().flat_map(|entry| [&(entry.len() as u32).to_be_bytes()[..], entry].concat()).collect()
}

/// A generator for tests: the same bytes for the same seed.
pub struct TestRng(u64);

impl TestRng {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub fn fill(&mut self, out: &mut [u8]) {
        out.iter_mut().for_each(|byte| *byte = self.next() as u8);
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        self.fill(&mut out);
        out
    }
}

/// Bytes that count up, as a generator for the peer.
pub struct Fixed(pub u8);

impl rand::TryRng for Fixed {
    type Error = std::convert::Infallible;
    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        Ok(0x0101_0101)
    }
    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        Ok(0x0101_0101_0101_0101)
    }
    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Self::Error> {
        for byte in out {
            self.0 = self.0.wrapping_add(1);
            *byte = self.0;
        }
        Ok(())
    }
}

impl rand::TryCryptoRng for Fixed {}
