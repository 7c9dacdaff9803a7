//! In process, memory to memory. A row is a name and two closures.

use std::{
    hint::black_box,
    io::{Read, Write},
    iter::once,
    time::Instant,
};

use chacha20poly1305::{
    ChaCha20Poly1305, KeyInit,
    aead::{AeadInOut, inout::InOutBuf},
};
use dryoc::classic::crypto_secretstream_xchacha20poly1305::{
    State, crypto_secretstream_xchacha20poly1305_init_pull as init_pull,
    crypto_secretstream_xchacha20poly1305_init_push as init_push, crypto_secretstream_xchacha20poly1305_pull as pull,
    crypto_secretstream_xchacha20poly1305_push as push,
};
use dryoc::dryocstream::Tag;
use sealwire::stream::{OpenReader, SealWriter};
use sealwire::{CachePolicy, Cmk, Keyring, Opener, Reuse, Sealer};

use crate::{
    pairs::{Taken, in_turn},
    report::{Line, version},
};

/// Input to output, which is larger than it need be; gives the bytes that were written. Everyone writes to memory that is
/// there already, so that nobody pays for pages.
type Step = Box<dyn FnMut(&[u8], &mut [u8]) -> usize>;

struct Row {
    name: String,
    about: &'static str,
    seal: Step,
    open: Step,
}

const CHUNK: usize = 64 * 1024;

/// What a one-shot message holds.
const ONE_SHOT: usize = 16 << 20;

pub const OURS: &str =
    "`SealWriter` and `OpenReader`: X25519 recipient, ChaCha20-Poly1305,\na DEK of its own for every message, none cached";

fn peers(size: usize) -> Vec<Row> {
    let mut rows = vec![age(), libsodium(), bare()];
    if size <= ONE_SHOT {
        rows.push(reused());
    }
    rows
}

/// Measures all rows beside ours with payloads of so many bytes.
pub fn measure(size: usize, pairs: usize) -> Vec<Line> {
    // Short messages are timed many at a time.
    let calls = ((256 << 10) / size).max(1);
    let payload: Vec<u8> = (0..size).map(|i| (i * 31 + i / 251) as u8).collect();
    let (mut ours, mut lines) = (Ready::new(ours(), &payload), Vec::new());
    for row in peers(size) {
        let mut peer = Ready::new(row, &payload);
        let seal = in_turn(pairs, &mut || ours.seal(&payload, calls), &mut || peer.seal(&payload, calls));
        let open = in_turn(pairs, &mut || ours.open(calls), &mut || peer.open(calls));
        for (verb, sides) in [("seal", seal), ("open", open)] {
            lines.push(Line { verb, peer: peer.row.name.clone(), about: peer.row.about, sides }.print());
        }
    }
    lines
}

/// A row that gives back what it got, and its memory.
struct Ready {
    row: Row,
    sealed: Vec<u8>,
    out: Vec<u8>,
}

impl Ready {
    fn new(mut row: Row, payload: &[u8]) -> Self {
        let mut out = vec![1; payload.len() + payload.len() / 64 + 4096];
        let mut sealed = out.clone();
        let len = (row.seal)(payload, &mut sealed);
        sealed.truncate(len);
        let back = (row.open)(&sealed, &mut out);
        assert!(&out[..back] == payload, "{} does not give back what it got", row.name);
        Self { row, sealed, out }
    }

    fn seal(&mut self, payload: &[u8], calls: usize) -> Taken {
        time(&mut self.row.seal, payload, &mut self.out, calls)
    }

    fn open(&mut self, calls: usize) -> Taken {
        time(&mut self.row.open, &self.sealed, &mut self.out, calls)
    }
}

fn time(step: &mut Step, input: &[u8], out: &mut [u8], calls: usize) -> Taken {
    let started = Instant::now();
    for _ in 0..calls {
        black_box(step(black_box(input), out));
    }
    Taken { seconds: started.elapsed().as_secs_f64() / calls as f64, ..Taken::default() }
}

/// Reads to the end of what opens, where its last check is.
fn read_all(mut from: impl Read, out: &mut [u8]) -> usize {
    let mut n = 0;
    loop {
        match from.read(&mut out[n..]).unwrap() {
            0 => return n,
            read => n += read,
        }
    }
}

/// Ours: every message has a DEK of its own, which nothing keeps.
fn ours() -> Row {
    let cmk = Cmk::generate().unwrap();
    let mut sealer = Sealer::builder().to(cmk.recipient().clone()).build().unwrap();
    let opener = Opener::builder(Keyring::from(cmk)).cache(CachePolicy { deks: 0, ..CachePolicy::default() }).build();
    Row {
        name: "sealwire".into(),
        about: OURS,
        seal: Box::new(move |payload, out| {
            let room = out.len();
            let mut writer = SealWriter::new(&mut sealer, b"", out).unwrap();
            writer.write_all(payload).unwrap();
            room - writer.finish().unwrap().len()
        }),
        open: Box::new(move |sealed, out| read_all(OpenReader::new(&opener, sealed).unwrap(), out)),
    }
}

/// Ours again, as it is used on connections and for many messages: one DEK, kept on both sides.
fn reused() -> Row {
    let cmk = Cmk::generate().unwrap();
    let one_dek = Reuse { messages: u64::MAX, bytes: u64::MAX, age: std::time::Duration::MAX };
    let mut sealer = Sealer::builder().to(cmk.recipient().clone()).reuse(one_dek).build().unwrap();
    let opener = Opener::new(Keyring::from(cmk));
    let give = |bytes: &[u8], out: &mut [u8]| {
        out[..bytes.len()].copy_from_slice(bytes);
        bytes.len()
    };
    Row {
        name: "sealwire, DEK reused".into(),
        about: "`Sealer::seal` and `Opener::open` with one DEK for all messages, which the opener keeps; not a peer",
        seal: Box::new(move |payload, out| give(&sealer.seal(b"", payload).unwrap(), out)),
        open: Box::new(move |sealed, out| give(&opener.open(sealed).unwrap().payload, out)),
    }
}

fn age() -> Row {
    let identity = age::x25519::Identity::generate();
    let recipient = identity.to_public();
    Row {
        name: format!("age (crate) {}", version("age")),
        about: "`Encryptor` and `Decryptor`: X25519 recipient, ChaCha20-Poly1305 in chunks of 64 KiB",
        seal: Box::new(move |payload, out| {
            let (room, mut rest) = (out.len(), out);
            let encryptor = age::Encryptor::with_recipients(once(&recipient as _)).unwrap();
            let mut writer = encryptor.wrap_output(&mut rest).unwrap();
            writer.write_all(payload).unwrap();
            writer.finish().unwrap();
            room - rest.len()
        }),
        open: Box::new(move |sealed, out| {
            let decryptor = age::Decryptor::new_buffered(sealed).unwrap();
            read_all(decryptor.decrypt(once(&identity as _)).unwrap(), out)
        }),
    }
}

/// libsodium's calls rather than `DryocStream`, which makes a `Vec` of every chunk.
fn libsodium() -> Row {
    const HEADER: usize = 24;
    const EXTRA: usize = 17;
    let key = [7; 32];
    Row {
        name: format!("dryoc secretstream {}", version("dryoc")),
        about: "libsodium's `crypto_secretstream`, XChaCha20-Poly1305 in chunks of 64 KiB; a key that is there, no recipient",
        seal: Box::new(move |payload, out| {
            let (mut state, mut header) = (State::new(), [0; HEADER]);
            init_push(&mut state, &mut header, &key);
            out[..HEADER].copy_from_slice(&header);
            let (mut at, chunks) = (HEADER, payload.len().div_ceil(CHUNK));
            for (i, chunk) in payload.chunks(CHUNK).enumerate() {
                let (to, tag) = (at + chunk.len() + EXTRA, if i + 1 == chunks { Tag::Final } else { Tag::Message });
                push(&mut state, &mut out[at..to], chunk, None, tag.bits()).unwrap();
                at = to;
            }
            at
        }),
        open: Box::new(move |sealed, out| {
            let (header, chunks) = sealed.split_first_chunk().unwrap();
            let (mut state, mut at, mut tag) = (State::new(), 0, 0);
            init_pull(&mut state, header, &key);
            for chunk in chunks.chunks(CHUNK + EXTRA) {
                let plain = &mut out[at..];
                at += pull(&mut state, plain, &mut tag, chunk, None).unwrap();
            }
            assert_eq!(tag, Tag::Final.bits());
            at
        }),
    }
}

/// The yardstick: nothing but the AEAD that sealwire uses, on as many bytes at once.
fn bare() -> Row {
    const TAG: usize = 16;
    let cipher = ChaCha20Poly1305::new(&[7; 32].into());
    let same = cipher.clone();
    let nonce = |i: usize| {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&(i as u64).to_be_bytes());
        nonce.into()
    };
    Row {
        name: format!("chacha20poly1305 {}", version("chacha20poly1305")),
        about: "the bare AEAD on buffers of 64 KiB; a key that is there, no recipient, no header, no mark of an end",
        seal: Box::new(move |payload, out| {
            for (i, (chunk, place)) in payload.chunks(CHUNK).zip(out.chunks_mut(CHUNK + TAG)).enumerate() {
                let (text, tag) = place[..chunk.len() + TAG].split_at_mut(chunk.len());
                text.copy_from_slice(chunk);
                tag.copy_from_slice(&cipher.encrypt_inout_detached(&nonce(i), b"", InOutBuf::from(text)).unwrap());
            }
            payload.len() + payload.len().div_ceil(CHUNK) * TAG
        }),
        open: Box::new(move |sealed, out| {
            let mut at = 0;
            for (i, chunk) in sealed.chunks(CHUNK + TAG).enumerate() {
                let (text, tag) = chunk.split_last_chunk::<TAG>().unwrap();
                let plain = &mut out[at..at + text.len()];
                plain.copy_from_slice(text);
                same.decrypt_inout_detached(&nonce(i), b"", InOutBuf::from(plain), tag.into()).unwrap();
                at += text.len();
            }
            at
        }),
    }
}
