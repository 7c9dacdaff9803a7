//! Key strings (spec 12.1, 12.6, 12.7), right and wrong, from a writer of its own: Bech32 by its definition, and the primitives.

use argon2::{Algorithm, Argon2, Params, Version};
use chacha20poly1305::{
    ChaCha20Poly1305, KeyInit,
    aead::{Aead, Payload},
};

use super::{public, verifying_key};

const BECH32: u32 = 1;
const BECH32M: u32 = 0x2bc8_30a3;

/// A key string, and what a reader makes of it.
pub struct KeyString {
    pub name: &'static str,
    pub shows: &'static str,
    pub string: String,
    /// Where it is protected.
    pub passphrase: Option<Vec<u8>>,
    /// The same key in the form of 12.1, or the answer to a wrong one.
    pub answer: Result<String, &'static str>,
}

/// Groups of five bits, the last filled up with zeros.
fn groups(data: &[u8]) -> Vec<u8> {
    let bit = |i: usize| data.get(i / 8).map_or(0, |byte| byte >> (7 - i % 8) & 1);
    (0..(data.len() * 8).div_ceil(5)).map(|i| (0..5).fold(0, |group, j| group << 1 | bit(5 * i + j))).collect()
}

/// BIP-173's checksum over everything, and the groups that make it `wanted`.
fn checksum(hrp: &str, groups: &[u8], wanted: u32) -> Vec<u8> {
    let values =
        hrp.bytes().map(|c| c >> 5).chain([0]).chain(hrp.bytes().map(|c| c & 31)).chain(groups.iter().copied()).chain([0; 6]);
    let check = values.fold(1u32, |check, value| {
        let generators = [0x3b6a_57b2, 0x2650_8e6d, 0x1ea1_19fa, 0x3d42_33dd, 0x2a14_62b3];
        let top = check >> 25;
        let step = (check & 0x1ff_ffff) << 5 ^ u32::from(value);
        generators
            .iter()
            .enumerate()
            .fold(step, |check, (i, generator)| if top >> i & 1 == 1 { check ^ generator } else { check })
    }) ^ wanted;
    (0..6).map(|i| (check >> (5 * (5 - i)) & 31) as u8).collect()
}

fn encode(hrp: &str, groups: &[u8], wanted: u32) -> String {
    let symbols = [groups, &checksum(hrp, groups, wanted)].concat();
    let symbols = symbols.iter().map(|group| b"qpzry9x8gf2tvdw0s3jn54khce6mua7l"[usize::from(*group)] as char);
    format!("{hrp}1{}", symbols.collect::<String>())
}

fn bech32m(hrp: &str, data: &[u8]) -> String {
    encode(hrp, &groups(data), BECH32M)
}

fn recipient(public: &[u8]) -> String {
    bech32m("swr", &[&[0, 0x20], public].concat())
}

fn cmk(secret: &[u8]) -> String {
    bech32m("sw-secret-cmk-", &[&[0, 0x20], secret].concat()).to_uppercase()
}

/// A CMK of either kind.
pub fn cmk_string(pq: bool, secret: &[u8]) -> String {
    let kem = if pq { [0x64, 0x7a] } else { [0x00, 0x20] };
    bech32m("sw-secret-cmk-", &[&kem[..], secret].concat()).to_uppercase()
}

pub fn sender_string(key: &[u8]) -> String {
    bech32m("sws", key)
}

fn sender_secret(seed: &[u8]) -> String {
    bech32m("sw-secret-sender-", seed).to_uppercase()
}

/// A protected key, every part open to the test.
struct Protected {
    version: u8,
    t: u32,
    m: u32,
    p: u8,
    passphrase: Vec<u8>,
    text: Vec<u8>,
    /// XORed to the whole at a place.
    spoil: Option<(usize, u8)>,
    /// Bytes of the whole that are left.
    len: Option<usize>,
}

impl Protected {
    fn of(text: &str) -> Self {
        let (passphrase, text) = (b"correct horse".to_vec(), text.as_bytes().to_vec());
        Self { version: 1, t: 1, m: 8, p: 1, passphrase, text, spoil: None, len: None }
    }

    /// What it costs is claimed, and computed only where Argon2 has such a function and it is not a joke.
    fn data(&self) -> Vec<u8> {
        let salt: [u8; 16] = std::array::from_fn(|i| 0xa0 + i as u8);
        let (mut okm, lanes) = ([0; 64], u32::from(self.p));
        let sane = (1..=10).contains(&self.t) && (1..=32).contains(&self.p) && (8 * lanes..=1024).contains(&self.m);
        let (t, m, p) = if sane { (self.t, self.m, lanes) } else { (1, 8, 1) };
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(m, t, p, Some(64)).unwrap());
        argon2.hash_password_into(&self.passphrase, &salt, &mut okm).unwrap();
        let (key, commitment) = okm.split_at(32);
        let mut data = vec![self.version];
        data.extend(self.t.to_be_bytes());
        data.extend(self.m.to_be_bytes());
        data.push(self.p);
        data.extend(salt);
        data.extend(commitment);
        let sealed =
            ChaCha20Poly1305::new(key.try_into().unwrap()).encrypt((&[0; 12]).into(), Payload { msg: &self.text, aad: &data });
        data.extend(sealed.unwrap());
        if let Some((at, mask)) = self.spoil {
            data[at] ^= mask;
        }
        data.truncate(self.len.unwrap_or(usize::MAX));
        data
    }

    fn string(&self) -> String {
        bech32m("sw-protected-key-", &self.data()).to_uppercase()
    }
}

const SECRET: [u8; 32] = [0x11; 32];
const SEED: [u8; 32] = [0x22; 32];

/// How the names of post-quantum strings begin.
pub const PQ: &str = "pq-";

/// Keys for X-Wing (kem id 647a): 1,216 bytes public, a seed of 32 secret.
fn post_quantum() -> Vec<KeyString> {
    let of = |hrp: &str, key: &[u8]| bech32m(hrp, &[&[0x64, 0x7a], key].concat());
    let public = super::pq::public(&SECRET);
    let ours = of("swr", &public);
    let secret = of("sw-secret-cmk-", &SECRET).to_uppercase();
    let changed = |at: usize, bytes: &[u8]| {
        let mut public = public;
        public[at..at + bytes.len()].copy_from_slice(bytes);
        of("swr", &public)
    };
    // Twelve bits each: the first coefficient is 3,329, the modulus; the last 4,095.
    let modulus = [0x01, public[1] & 0xf0 | 0x0d];
    let highest = [public[1150] & 0x0f | 0xf0, 0xff];
    vec![
        plain("pq-recipient", "a recipient for X-Wing", ours.clone(), Ok(ours.clone())),
        plain("pq-recipient-upper", "the same in upper case", ours.to_uppercase(), Ok(ours.clone())),
        plain("pq-cmk", "a CMK for X-Wing, which is a seed", secret.clone(), Ok(secret)),
        plain("pq-modulus", "WRAP-8: a coefficient that is the modulus", changed(0, &modulus), malformed()),
        plain("pq-coefficient", "WRAP-8: the last coefficient is over the modulus", changed(1150, &highest), malformed()),
        plain("pq-zero", "WRAP-2: the X25519 half is of small order", changed(1184, &[0; 32]), malformed()),
        plain("pq-ff", "WRAP-2: the X25519 half is not canonical", changed(1184, &[0xff; 32]), malformed()),
        plain("pq-1215", "TXT-3", of("swr", &public[..1215]), malformed()),
        plain("pq-1217", "TXT-3", of("swr", &[&public[..], &[0]].concat()), malformed()),
        plain("pq-32", "TXT-3: a recipient as long as X25519's", of("swr", &public[1184..]), malformed()),
        plain("pq-secret-64", "TXT-3: a secret of 64 bytes", of("sw-secret-cmk-", &[0x11; 64]).to_uppercase(), malformed()),
        plain("pq-under-x25519", "TXT-3: a recipient as long as X-Wing's", recipient(&public), malformed()),
    ]
}

/// All of `spec/vectors/keys.json`.
pub fn all() -> Vec<KeyString> {
    let mut all = strings();
    all.extend(post_quantum());
    all.extend(age());
    all.extend(protected());
    all.extend(not_protected());
    all
}

fn plain(name: &'static str, shows: &'static str, string: String, answer: Result<String, &'static str>) -> KeyString {
    KeyString { name, shows, string, passphrase: None, answer }
}

fn malformed() -> Result<String, &'static str> {
    Err("malformed")
}

fn strings() -> Vec<KeyString> {
    let public = public(&SECRET);
    let ours = recipient(&public);
    let with_kem = |kem: u16, key: &[u8]| bech32m("swr", &[&kem.to_be_bytes(), key].concat());
    let padded = |last: u8| {
        let mut groups = groups(&[&[0, 0x20][..], &public].concat());
        *groups.last_mut().unwrap() |= last;
        encode("swr", &groups, BECH32M)
    };
    let mixed = ours[..20].to_owned() + &ours[20..].to_uppercase();
    vec![
        plain("recipient", "a recipient", ours.clone(), Ok(ours.clone())),
        plain("recipient-upper", "a recipient in upper case", ours.to_uppercase(), Ok(ours.clone())),
        plain("cmk", "a CMK", cmk(&SECRET), Ok(cmk(&SECRET))),
        plain("cmk-lower", "a CMK in lower case", cmk(&SECRET).to_lowercase(), Ok(cmk(&SECRET))),
        plain("sender", "a sender", bech32m("sws", &verifying_key(&SEED)), Ok(bech32m("sws", &verifying_key(&SEED)))),
        plain("sender-secret", "a sender's secret key", sender_secret(&SEED), Ok(sender_secret(&SEED))),
        plain("mixed-case", "TXT-4", mixed, malformed()),
        plain("padding-1", "TXT-4", padded(1), malformed()),
        plain("padding-4", "TXT-4", padded(4), malformed()),
        plain(
            "bech32",
            "TXT-1: Bech32's checksum",
            encode("swr", &groups(&[&[0, 0x20][..], &public].concat()), BECH32),
            malformed(),
        ),
        plain("other-part", "TXT-1", bech32m("swx", &[&[0, 0x20][..], &public].concat()), malformed()),
        plain("key-31", "TXT-3", recipient(&public[..31]), malformed()),
        plain("key-33", "TXT-3", recipient(&[&public[..], &[0]].concat()), malformed()),
        plain("kem-unknown", "TXT-2", with_kem(0x0011, &public), Err("unsupported")),
        plain("kem-0", "TXT-2", with_kem(0, &public), Err("unsupported")),
        plain("recipient-zero", "WRAP-2: a point of small order", recipient(&[0; 32]), malformed()),
        plain("recipient-ff", "WRAP-2: not canonical", recipient(&[0xff; 32]), malformed()),
        plain("cut", "a string without its last symbol", ours[..ours.len() - 1].to_owned(), malformed()),
    ]
}

fn age() -> Vec<KeyString> {
    // Of the CCTV test kit for age, and what age-keygen makes of it.
    let secret = "AGE-SECRET-KEY-1EGTZVFFV20835NWYV6270LXYVK2VKNX2MMDKWYKLMGR48UAWX40Q2P2LM0";
    let its_public = "age1xmwwc06ly3ee5rytxm9mflaz2u56jjj36s0mypdrwsvlul66mv4q47ryef";
    let bytes: [u8; 32] = [
        0xca, 0x16, 0x26, 0x25, 0x2c, 0x53, 0xcf, 0x1a, 0x4d, 0xc4, 0x66, 0x95, 0xe7, 0xfc, 0xc4, 0x65, 0x94, 0xcb, 0x4c, 0xca,
        0xde, 0xdb, 0x67, 0x12, 0xdf, 0xda, 0x07, 0x53, 0xf3, 0xae, 0x35, 0x5e,
    ];
    let ours = recipient(&public(&bytes));
    let of = |hrp: &str, data: &[u8], wanted: u32, spoil: u8| {
        let mut groups = groups(data);
        *groups.last_mut().unwrap() |= spoil;
        encode(hrp, &groups, wanted)
    };
    vec![
        plain("age-recipient", "a recipient of age", its_public.into(), Ok(ours.clone())),
        plain("age-recipient-upper", "the same in upper case", its_public.to_uppercase(), Ok(ours)),
        plain("age-secret", "a key of age", secret.into(), Ok(cmk(&bytes))),
        plain("age-secret-lower", "the same in lower case", secret.to_lowercase(), Ok(cmk(&bytes))),
        plain("age-mixed-case", "TXT-9", its_public[..30].to_owned() + &its_public[30..].to_uppercase(), malformed()),
        plain("age-bech32m", "TXT-9: another checksum", of("age", &public(&bytes), BECH32M, 0), malformed()),
        plain("age-secret-bech32m", "TXT-9: another checksum", of("age-secret-key-", &bytes, BECH32M, 0), malformed()),
        plain("age-padding", "TXT-9", of("age", &public(&bytes), BECH32, 1), malformed()),
        plain("age-secret-padding", "TXT-9", of("age-secret-key-", &bytes, BECH32, 8), malformed()),
        plain("age-key-31", "TXT-9", of("age", &public(&bytes)[..31], BECH32, 0), malformed()),
        plain("age-secret-33", "TXT-9", of("age-secret-key-", &[9; 33], BECH32, 0), malformed()),
        plain("age-zero", "TXT-9: a point of small order", of("age", &[0; 32], BECH32, 0), malformed()),
        plain("age-ff", "TXT-9: not canonical", of("age", &[0xff; 32], BECH32, 0), malformed()),
        plain("age-post-quantum", "TXT-10", of("age1pq", &[9; 32], BECH32, 0), malformed()),
        plain("age-plugin", "TXT-10", of("age1yubikey", &[9; 32], BECH32, 0), malformed()),
        plain("age-secret-post-quantum", "TXT-10", of("age-secret-key-pq-", &[9; 32], BECH32, 0).to_uppercase(), malformed()),
    ]
}

fn keeps(name: &'static str, shows: &'static str, protected: Protected, answer: Result<String, &'static str>) -> KeyString {
    let passphrase = Some(protected.passphrase.clone());
    KeyString { name, shows, string: protected.string(), passphrase, answer }
}

fn protected() -> Vec<KeyString> {
    let (cmk, sender) = (cmk(&SECRET), sender_secret(&SEED));
    let of = || Protected::of(&cmk);
    let costs = |t: u32, m: u32, p: u8| Protected { t, m, p, ..of() };
    let with = |passphrase: &str| Protected { passphrase: passphrase.as_bytes().to_vec(), ..of() };
    let ok = || Ok(cmk.clone());
    let lower = KeyString { string: of().string().to_lowercase(), ..keeps("protected-lower", "in lower case", of(), ok()) };
    let wrong = |name, passphrase: &str| {
        let passphrase = Some(passphrase.as_bytes().to_vec());
        KeyString { passphrase, ..keeps(name, "PASS-2: another passphrase", of(), Err("passphrase")) }
    };
    // Made with it all the same: a reader that takes it finds the key.
    let none = |name, passphrase: &str| keeps(name, "PASS-5", with(passphrase), Err("usage"));
    vec![
        keeps("protected-cmk", "a protected CMK", of(), ok()),
        keeps("protected-sender", "a protected sender's key", Protected::of(&sender), Ok(sender.clone())),
        lower,
        keeps("protected-passes", "PASS-1: 10 passes are done", costs(10, 8, 1), ok()),
        keeps("protected-lanes", "PASS-1: 16 lanes are done, with the least memory for them", costs(1, 128, 16), ok()),
        keeps("protected-memory", "memory that the lanes do not divide", costs(2, 67, 4), ok()),
        keeps("passphrase-1-byte", "PASS-5", with("x"), ok()),
        keeps("passphrase-1024-bytes", "PASS-5", with(&"x".repeat(1024)), ok()),
        keeps("passphrase-blank", "PASS-5: blanks are bytes", with(" \t "), ok()),
        keeps("passphrase-zero", "PASS-5: so is zero", with("\0"), ok()),
        keeps("passphrase-composed", "nothing is normalised", with("\u{e4}"), ok()),
        wrong("passphrase-case", "Correct horse"),
        wrong("passphrase-and-a-blank", "correct horse "),
        none("passphrase-empty", ""),
        none("passphrase-1025-bytes", &"x".repeat(1025)),
        none("passphrase-and-a-line-end", "correct horse\n"),
        none("passphrase-and-a-return", "correct\rhorse"),
        none("passphrase-is-a-key", &cmk),
        none("passphrase-is-a-key-of-age", "age-secret-key-1"),
        none("passphrase-is-a-protected-key", "x SW-PROTECTED-KEY-1Q"),
        KeyString {
            passphrase: Some("a\u{308}".into()),
            ..keeps("passphrase-decomposed", "PASS-2: nothing is normalised", with("\u{e4}"), Err("passphrase"))
        },
    ]
}

fn not_protected() -> Vec<KeyString> {
    let cmk = cmk(&SECRET);
    let of = || Protected::of(&cmk);
    let costs = |t: u32, m: u32, p: u8| Protected { t, m, p, ..of() };
    let spoilt = |at: usize, mask: u8| Protected { spoil: Some((at, mask)), ..of() };
    let cut = |len: usize| Protected { len: Some(len), ..of() };
    let holds = Protected::of;
    let padded = {
        // Of 149 bytes the last symbol carries bits that mean nothing; the tag is wrong too, which is not looked at.
        let mut groups = groups(&cut(149).data());
        assert_eq!(groups.len(), 239);
        *groups.last_mut().unwrap() |= 1;
        encode("sw-protected-key-", &groups, BECH32M).to_uppercase()
    };
    let text_of = |len: usize| "S".repeat(len);
    let recipient = recipient(&public(&SECRET));
    vec![
        keeps("version-0", "PASS-1", Protected { version: 0, ..of() }, Err("unsupported")),
        keeps("version-2", "PASS-1", Protected { version: 2, ..of() }, Err("unsupported")),
        keeps(
            "version-2-alone",
            "PASS-1: what follows is not looked at",
            Protected { version: 2, len: Some(1), ..of() },
            Err("unsupported"),
        ),
        keeps("passes-0", "PASS-1", costs(0, 8, 1), Err("limit")),
        keeps("passes-11", "PASS-1", costs(11, 8, 1), Err("limit")),
        keeps("passes-largest", "PASS-1", costs(u32::MAX, 8, 1), Err("limit")),
        keeps("lanes-0", "PASS-1", costs(1, 8, 0), Err("limit")),
        keeps("lanes-17", "PASS-1", costs(1, 136, 17), Err("limit")),
        keeps("lanes-255", "PASS-1", costs(1, 2040, 255), Err("limit")),
        keeps("memory-0", "PASS-1", costs(1, 0, 1), Err("limit")),
        keeps("memory-7", "PASS-1: less than the lanes need", costs(1, 7, 1), Err("limit")),
        keeps("memory-127-of-16-lanes", "PASS-1: less than the lanes need", costs(1, 127, 16), Err("limit")),
        keeps("memory-98305", "PASS-1", costs(1, 98_305, 1), Err("limit")),
        keeps("memory-largest", "PASS-1", costs(1, u32::MAX, 1), Err("limit")),
        keeps("work-393220", "PASS-1: passes times memory", costs(10, 39_322, 1), Err("limit")),
        keeps("work-5-of-98304", "PASS-1: passes times memory", costs(5, 98_304, 4), Err("limit")),
        keeps("ciphertext-0", "PASS-1", cut(74), Err("limit")),
        keeps("ciphertext-1025", "PASS-1", holds(&text_of(1025)), Err("limit")),
        keeps("ciphertext-1024", "PASS-4: as long as it may be, and no key", holds(&text_of(1024)), Err("content")),
        keeps("no-tag", "PASS-1", cut(73), Err("malformed")),
        keeps("no-ciphertext", "PASS-1", cut(58), Err("malformed")),
        keeps("no-commitment", "PASS-1", cut(57), Err("malformed")),
        keeps("no-salt", "PASS-1", cut(10), Err("malformed")),
        keeps("no-cost", "PASS-1", cut(1), Err("malformed")),
        keeps("nothing", "PASS-1", cut(0), Err("malformed")),
        keeps("changed-passes", "PASS-2: another function", spoilt(4, 3), Err("passphrase")),
        keeps("changed-memory", "PASS-2: another function", spoilt(8, 0x18), Err("passphrase")),
        keeps("changed-salt", "PASS-2", spoilt(10, 1), Err("passphrase")),
        keeps("changed-commitment", "PASS-2", spoilt(57, 0x80), Err("passphrase")),
        keeps("changed-ciphertext", "PASS-2", spoilt(58, 1), Err("tag")),
        keeps("changed-tag", "PASS-2", spoilt(58 + cmk.len() + 15, 1), Err("tag")),
        keeps("cut-tag", "PASS-2", cut(58 + cmk.len() + 15), Err("tag")),
        keeps("holds-lower-case", "PASS-4", holds(&cmk.to_lowercase()), Err("content")),
        keeps("holds-a-line", "PASS-4", holds(&format!("{cmk}\n")), Err("content")),
        keeps("holds-a-recipient", "PASS-4", holds(&recipient), Err("content")),
        keeps("holds-a-recipient-in-upper-case", "PASS-4", holds(&recipient.to_uppercase()), Err("content")),
        keeps("holds-a-protected-key", "PASS-4", holds(&of().string()), Err("content")),
        keeps(
            "holds-a-key-of-age",
            "PASS-4",
            holds("AGE-SECRET-KEY-1EGTZVFFV20835NWYV6270LXYVK2VKNX2MMDKWYKLMGR48UAWX40Q2P2LM0"),
            Err("content"),
        ),
        keeps("holds-a-damaged-key", "PASS-4", holds(&cmk.replace("CMK-1Q", "CMK-1P")), Err("content")),
        keeps("holds-bytes", "PASS-4", Protected { text: vec![0xff; 76], ..of() }, Err("content")),
        KeyString { string: padded, ..keeps("protected-padding", "TXT-4", of(), Err("malformed")) },
        KeyString {
            string: encode("sw-protected-key-", &groups(&of().data()), BECH32).to_uppercase(),
            ..keeps("protected-bech32", "TXT-1: Bech32's checksum", of(), Err("malformed"))
        },
    ]
}
