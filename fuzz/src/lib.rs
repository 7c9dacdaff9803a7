//! What the targets share: genuine messages, and edits that an input makes to them, since plain bytes would never get past
//! header_mac.

use std::sync::OnceLock;

use bytes::BytesMut;
use sealwire::{ChannelSealer, Cmk, HintMode, Keyring, Opener, Reuse, Role, Sealer};

/// The receiver. It keeps opened DEKs, so that a genuine block costs its Diffie-Hellman once and not once a run.
pub fn opener() -> Opener {
    static MADE: OnceLock<Opener> = OnceLock::new();
    MADE.get_or_init(|| Opener::new(Keyring::from(Cmk::from_x25519(&[1; 32])))).clone()
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
        [(plain, 5), (padded, 20), (several, 5000)]
            .into_iter()
            .map(|(sealer, len)| {
                let payload = vec![len as u8; len];
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
