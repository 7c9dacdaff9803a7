//! What the targets share: genuine messages, and edits that an input makes to them, since plain bytes would never get past
//! header_mac.

pub mod connection;
#[cfg(feature = "kms")]
pub mod kms;
pub mod slow;
pub mod targets;

use std::{fs, io::Read, path::Path, sync::OnceLock};

use bytes::BytesMut;
use sealwire::{
    Begun, CachePolicy, ChannelSealer, Cmk, Dek, HintMode, Kem, Keyring, KmsKey, Opened, Opener, Policy, Reuse, Role, Sealer,
    SenderKey, Suite,
};

/// The receiver. It keeps opened DEKs, so that a genuine block costs its Diffie-Hellman once and not once a run.
pub fn opener() -> Opener {
    static MADE: OnceLock<Opener> = OnceLock::new();
    MADE.get_or_init(|| Opener::new(keyring(&[[1; 32]]))).clone()
}

/// The key of a kind whose secret is this byte.
pub fn cmk(kem: Kem, byte: u8) -> Cmk {
    match kem {
        #[cfg(feature = "pq")]
        Kem::XWing => Cmk::from_xwing(&[byte; 32]),
        _ => Cmk::from_x25519(&[byte; 32]),
    }
}

/// Secrets as keys of every kind.
pub fn keyring(secrets: &[[u8; 32]]) -> Keyring {
    let keyring: Keyring = secrets.iter().map(Cmk::from_x25519).collect();
    #[cfg(feature = "pq")]
    secrets.iter().for_each(|seed| keyring.add(Cmk::from_xwing(seed)));
    keyring
}

/// Who signs.
pub fn sender() -> SenderKey {
    SenderKey::from_ed25519(&[3; 32])
}

fn sealer() -> sealwire::SealerBuilder {
    Sealer::builder().to(Cmk::from_x25519(&[1; 32]).recipient().clone())
}

/// Genuine self-contained messages with their payloads, made once.
pub fn envelopes() -> &'static [(Vec<u8>, Vec<u8>)] {
    static MADE: OnceLock<Vec<(Vec<u8>, Vec<u8>)>> = OnceLock::new();
    MADE.get_or_init(|| {
        let plain = sealer().build();
        let padded = sealer().pad(true).hints(HintMode::Static).build();
        let several = sealer().hints(HintMode::None).enc_per_slot(true).segment_log2(12).build();
        let signed = sealer().sign_with(sender()).build();
        let signed_itself = sealer().sign_messages_with(sender()).segment_log2(12).build();
        let aes = sealer().suite(Suite::X25519Aes256Gcm).sign_with(sender()).segment_log2(12).build();
        #[cfg(not(feature = "pq"))]
        let pq = None;
        #[cfg(feature = "pq")]
        let pq = Some(Sealer::builder().to(cmk(Kem::XWing, 1).recipient().clone()).sign_with(sender()).build());
        [(plain, 5), (padded, 20), (several, 5000), (signed, 7), (signed_itself, 4100), (aes, 4200)]
            .into_iter()
            .chain(pq.map(|pq| (pq, 6)))
            .map(|(sealer, len)| {
                let payload: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
                (sealer.unwrap().seal(b"ctx", &payload).unwrap(), payload)
            })
            .collect()
    })
}

/// A genuine channel with follow-ups and renewals.
pub fn channel() -> &'static [u8] {
    static MADE: OnceLock<Vec<u8>> = OnceLock::new();
    MADE.get_or_init(|| {
        let sealer = sealer().segment_log2(12).reuse(Reuse { messages: 2, ..Reuse::default() }).build().unwrap();
        let mut channel = ChannelSealer::new(sealer, Role::Initiator, b"");
        let mut out = BytesMut::new();
        for len in [0, 3, 5000, 40] {
            channel.seal(b"c", &vec![len as u8; len], &mut out).unwrap();
        }
        channel.seal_last(b"", b"", &mut out).unwrap();
        out.to_vec()
    })
}

/// The messages of one of two genuine signed channels, each with payloads of 0, 1, 2 … bytes, and a notice.
pub fn pieces(which: usize) -> &'static Vec<Vec<u8>> {
    static MADE: OnceLock<[Vec<Vec<u8>>; 2]> = OnceLock::new();
    &MADE.get_or_init(|| {
        [0, 1].map(|_| {
            let sealer = sealer().sign_with(sender()).reuse(Reuse { messages: 2, ..Reuse::default() }).build().unwrap();
            let mut channel = ChannelSealer::new(sealer, Role::Initiator, b"");
            (0..7usize)
                .map(|len| {
                    let mut out = BytesMut::new();
                    if len < 6 {
                        channel.seal(b"", &vec![7; len], &mut out).unwrap();
                    } else {
                        channel.finish(&mut out).unwrap();
                    }
                    out.to_vec()
                })
                .collect()
        })
    })[which]
}

/// A file of spec/vectors.
pub struct Vector {
    pub is_envelope: bool,
    pub keys: Vec<[u8; 32]>,
    pub kms: Vec<slow::Kms>,
    pub binding: Vec<u8>,
    pub bytes: Vec<u8>,
    keyring: OnceLock<Keyring>,
}

impl Vector {
    fn read(path: &Path) -> Option<Self> {
        let file = fs::read(path).ok()?;
        let end = file.windows(2).position(|w| w == b"\n\n")?;
        let head = std::str::from_utf8(&file[..end]).ok()?;
        let get = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let hex = |text: &str| {
            (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()).collect::<Vec<u8>>()
        };
        let mut bytes = file[end + 2..].to_vec();
        if get("bytes:")? == "zlib" {
            let mut plain = Vec::new();
            flate2::read::ZlibDecoder::new(&bytes[..]).read_to_end(&mut plain).ok()?;
            bytes = plain;
        }
        let keys = get("keys:")?.split_whitespace().map(|key| hex(key).try_into().unwrap()).collect();
        // What is not built is only inspected.
        let is_built = cfg!(feature = "pq") || !path.file_name()?.to_str()?.starts_with("pq-");
        let is_envelope = is_built && get("read-as:")? == "envelope";
        let kms = get("kms:").unwrap_or_default().split(", ").filter(|answer| !answer.is_empty()).map(|answer| {
            let parts: Vec<_> = answer.split(' ').collect();
            (parts[0].into(), hex(parts[1]), hex(parts[2].trim_start_matches('-')))
        });
        let kms = kms.collect();
        Some(Self { is_envelope, keys, kms, binding: hex(get("binding:")?), bytes, keyring: OnceLock::new() })
    }

    /// A reader with the vector's keys. It keeps no DEKs: what was opened before must not decide.
    pub fn opener(&self) -> Opener {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let kms_keys = self.kms.iter().map(|(provider, key_ref, _)| KmsKey::new(text(provider), text(key_ref))).collect();
        let policy = Policy { binding: self.binding.clone(), kms_keys, ..Policy::default() };
        let cache = CachePolicy { deks: 0, ..CachePolicy::default() };
        let keyring = self.keyring.get_or_init(|| keyring(&self.keys)).clone();
        Opener::builder(keyring).policy(policy).cache(cache).build()
    }
}

impl Vector {
    /// Opens `bytes` with the vector's keys, and asks its KMS where they do not.
    pub fn open(&self, bytes: &[u8]) -> Option<Opened> {
        let mut waiting = match self.opener().begin(bytes).ok()? {
            Begun::Ready(ready) => return ready.open().ok(),
            Begun::NeedsDek(waiting) => waiting,
        };
        for external in waiting.externals().collect::<Vec<_>>() {
            let asked = (external.provider.as_bytes(), external.key_ref.as_bytes());
            let (_, _, answer) = self.kms.iter().find(|named| (&named.0[..], &named.1[..]) == asked).expect("it is named");
            if let Some(ready) = Dek::from_kms(answer).ok().and_then(|dek| waiting.supply(&dek).ok()) {
                return ready.open().ok();
            }
        }
        None
    }
}

/// All of spec/vectors, in the order of their names.
pub fn vectors() -> &'static [Vector] {
    static READ: OnceLock<Vec<Vector>> = OnceLock::new();
    READ.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = [root.join("spec/vectors"), root.join("../spec/vectors")].into_iter().find(|path| path.exists()).unwrap();
        let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths.iter().filter_map(|path| Vector::read(path)).collect()
    })
}

/// Applies an input's edits to genuine bytes, four bytes each: change a byte, cut, put a byte in, or take one out.
pub fn edit(genuine: &[u8], edits: &[u8]) -> Vec<u8> {
    let mut bytes = genuine.to_vec();
    for edit in edits.chunks_exact(4).take(16) {
        if bytes.is_empty() {
            break;
        }
        let at = usize::from(u16::from_be_bytes([edit[1], edit[2]])) % bytes.len();
        match edit[0] % 8 {
            0..=3 => bytes[at] ^= edit[3],
            4 => bytes[at] = edit[3],
            5 => bytes.truncate(at),
            6 => bytes.insert(at, edit[3]),
            _ => drop(bytes.remove(at)),
        }
    }
    bytes
}
