//! Ways to seal a message of 64 bytes, from memory to memory.

use std::{
    cell::RefCell,
    io::{self, Read, Write},
    iter::once,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use dryoc::{
    classic::{
        crypto_box::{crypto_box_keypair, crypto_box_seal, crypto_box_seal_open},
        crypto_secretstream_xchacha20poly1305::{
            State, crypto_secretstream_xchacha20poly1305_init_pull as init_pull,
            crypto_secretstream_xchacha20poly1305_init_push as init_push, crypto_secretstream_xchacha20poly1305_pull as pull,
            crypto_secretstream_xchacha20poly1305_push as push,
        },
    },
    dryocstream::Tag,
};
use futures_util::{FutureExt, SinkExt, StreamExt};
use hpke::{Deserializable, Kem as _, OpModeR, OpModeS, Serializable, kdf::HkdfSha256, kem::X25519HkdfSha256};
use sealwire::{
    CachePolicy, ChannelOpener, ChannelSealer, Cmk, Keyring, Opener, Reuse, Role, Sealer, Suite,
    connection::{OpenedStream, SealedSink, Times},
};
use sodiumoxide::crypto::{box_, sealedbox, secretstream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    rounds::{Rounds, calibrate, timed},
    version,
};

pub const SIZE: usize = 64;

/// How a scheme seals and opens; it keeps its keys and places.
trait Scheme {
    /// Appends `payload`, sealed so many times.
    fn seal(&mut self, payload: &[u8], times: usize, out: &mut BytesMut);
    /// Opens all of it, and shows each payload.
    fn open(&mut self, sealed: &mut BytesMut, see: &mut dyn FnMut(&[u8]));
}

/// Messages one by one.
struct Single<S, O> {
    seal: S,
    open: O,
    /// Of those that have been sealed and not opened.
    lengths: Vec<usize>,
}

impl<S: FnMut(&[u8], &mut BytesMut), O: FnMut(&mut [u8], &mut dyn FnMut(&[u8]))> Scheme for Single<S, O> {
    fn seal(&mut self, payload: &[u8], times: usize, out: &mut BytesMut) {
        self.lengths.clear();
        for _ in 0..times {
            let before = out.len();
            (self.seal)(payload, out);
            self.lengths.push(out.len() - before);
        }
    }

    fn open(&mut self, sealed: &mut BytesMut, see: &mut dyn FnMut(&[u8])) {
        let mut rest = &mut sealed[..];
        for len in &self.lengths {
            let (message, after) = rest.split_at_mut(*len);
            (self.open)(message, see);
            rest = after;
        }
    }
}

fn single(
    seal: impl FnMut(&[u8], &mut BytesMut) + 'static,
    open: impl FnMut(&mut [u8], &mut dyn FnMut(&[u8])) + 'static,
) -> Box<dyn Scheme> {
    Box::new(Single { seal, open, lengths: Vec::new() })
}

/// A scheme by name; `keyed` where it needs a key that both ends have already.
pub struct Row {
    pub name: String,
    pub keyed: bool,
    /// What it is among ways to use a CMK, where it is one of them.
    pub way: Option<String>,
    pub seal: f64,
    pub open: f64,
    pub bytes: f64,
    /// How many times as fast as the first, to seal and to open.
    pub ratios: [f64; 2],
}

struct Contender {
    name: String,
    keyed: bool,
    way: Option<String>,
    scheme: Box<dyn Scheme>,
}

fn contenders() -> Vec<Contender> {
    let other =
        |name: &str, of: &str, keyed, scheme| Contender { name: format!("{name} {}", version(of)), keyed, way: None, scheme };
    let mut all = vec![
        Contender {
            name: format!("hpke {}, single shot", version("hpke")),
            keyed: false,
            way: Some("directly under the CMK: HPKE, single shot, ChaCha20-Poly1305".into()),
            scheme: hpke_single_shot(),
        },
        other("age (crate)", "age", false, age_file()),
        other("sealed box, dryoc", "dryoc", false, dryoc_sealed_box()),
        other("sealed box, libsodium by sodiumoxide", "sodiumoxide", false, sodium_sealed_box()),
        other("secretstream, dryoc", "dryoc", true, dryoc_secretstream()),
        other("secretstream, libsodium by sodiumoxide", "sodiumoxide", true, sodium_secretstream()),
        other("Noise transport message (AES-256-GCM), snow", "snow", true, noise("Noise_NK_25519_AESGCM_BLAKE2s")),
        other("Noise transport message (ChaCha20-Poly1305), snow", "snow", true, noise("Noise_NK_25519_ChaChaPoly_BLAKE2s")),
    ];
    for (suite, cipher) in [(Suite::X25519ChaCha20Poly1305, "ChaCha20-Poly1305"), (Suite::X25519Aes256Gcm, "AES-256-GCM")] {
        let ways: [(&'static str, bool, Box<dyn Scheme>); 4] = [
            ("fresh DEK", false, envelopes(suite, Reuse::NEVER)),
            ("reused DEK", true, envelopes(suite, LONG)),
            (
                "follow-up on a channel",
                true,
                Box::new({
                    let (sealer, opener) = channel(suite);
                    Channel(sealer, opener)
                }),
            ),
            ("in a batch on a channel", true, Box::new(Batches::new(suite))),
        ];
        all.extend(ways.map(|(way, keyed, scheme)| Contender {
            name: format!("sealwire, {way}, {cipher}"),
            keyed,
            way: Some(format!("{way}, {cipher}")),
            scheme,
        }));
    }
    all
}

/// Each seals and opens in turn, so many messages as take a hundredth of a second.
pub fn measure(rounds: usize) -> Vec<Row> {
    let mut contenders = contenders();
    let payload: [u8; SIZE] = std::array::from_fn(|i| (i * 31) as u8);
    let (mut wire, mut bytes) = (BytesMut::new(), vec![0.0; contenders.len()]);
    let many = contenders.len();
    let mut turn = |i: usize, n: usize| {
        let Contender { name, scheme, .. } = &mut contenders[i];
        wire.clear();
        wire.reserve(n * 1024);
        let seal = timed(|| scheme.seal(&payload, n, &mut wire));
        bytes[i] = wire.len() as f64 / n as f64;
        let mut seen = 0;
        let open = timed(|| {
            scheme.open(&mut wire, &mut |opened| {
                assert!(opened == payload);
                seen += 1;
            });
        });
        assert_eq!(seen, n, "{name}");
        [seal, open]
    };
    let counts: Vec<_> = (0..many).map(|i| calibrate(Duration::from_millis(10), 1, MOST, |n| turn(i, n).iter().sum())).collect();
    let [seal, open] = Rounds::of(rounds, counts.len(), |i| turn(i, counts[i]).map(|took| took.as_secs_f64() / counts[i] as f64));
    let row = |(i, Contender { name, keyed, way, .. })| Row {
        name,
        keyed,
        way,
        seal: seal.median(i),
        open: open.median(i),
        bytes: bytes[i],
        ratios: [seal.ratio(i, 0), open.ratio(i, 0)],
    };
    contenders.into_iter().enumerate().map(row).collect()
}

/// Messages at once, so that they stay in the cache.
const MOST: usize = 4096;

fn hpke_single_shot() -> Box<dyn Scheme> {
    type Kem = X25519HkdfSha256;
    type Aead = hpke::aead::ChaCha20Poly1305;
    let (secret, public) = Kem::gen_keypair();
    single(
        move |payload, out| {
            let mode = OpModeS::Base;
            let (enc, text) = hpke::single_shot_seal::<Aead, HkdfSha256, Kem>(&mode, &public, b"", payload, b"").unwrap();
            out.extend_from_slice(&enc.to_bytes());
            out.extend_from_slice(&text);
        },
        move |sealed, see| {
            let (enc, text) = sealed.split_at(32);
            let enc = <Kem as hpke::Kem>::EncappedKey::from_bytes(enc).unwrap();
            see(&hpke::single_shot_open::<Aead, HkdfSha256, Kem>(&OpModeR::Base, &secret, &enc, b"", text, b"").unwrap());
        },
    )
}

fn age_file() -> Box<dyn Scheme> {
    let identity = age::x25519::Identity::generate();
    let recipient = identity.to_public();
    single(
        move |payload, out| {
            let mut file = Vec::with_capacity(512);
            let mut writer = age::Encryptor::with_recipients(once(&recipient as _)).unwrap().wrap_output(&mut file).unwrap();
            writer.write_all(payload).unwrap();
            writer.finish().unwrap();
            out.extend_from_slice(&file);
        },
        move |sealed, see| {
            let mut reader = age::Decryptor::new_buffered(&*sealed).unwrap().decrypt(once(&identity as _)).unwrap();
            let mut payload = Vec::with_capacity(SIZE);
            reader.read_to_end(&mut payload).unwrap();
            see(&payload);
        },
    )
}

fn dryoc_sealed_box() -> Box<dyn Scheme> {
    let (public, secret) = crypto_box_keypair();
    single(
        move |payload, out| {
            let at = out.len();
            out.resize(at + payload.len() + 48, 0);
            crypto_box_seal(&mut out[at..], payload, &public).unwrap();
        },
        move |sealed, see| {
            let mut payload = [0; SIZE];
            crypto_box_seal_open(&mut payload, sealed, &public, &secret).unwrap();
            see(&payload);
        },
    )
}

fn sodium_sealed_box() -> Box<dyn Scheme> {
    let (public, secret) = box_::gen_keypair();
    single(
        move |payload, out| out.extend_from_slice(&sealedbox::seal(payload, &public)),
        move |sealed, see| see(&sealedbox::open(sealed, &public, &secret).unwrap()),
    )
}

fn dryoc_secretstream() -> Box<dyn Scheme> {
    let (mut to, mut from, mut header) = (State::new(), State::new(), [0; 24]);
    init_push(&mut to, &mut header, &[7; 32]);
    init_pull(&mut from, &header, &[7; 32]);
    single(
        move |payload, out| {
            let at = out.len();
            out.resize(at + payload.len() + 17, 0);
            push(&mut to, &mut out[at..], payload, None, Tag::Message.bits()).unwrap();
        },
        move |sealed, see| {
            let (mut payload, mut tag) = ([0; SIZE], 0);
            pull(&mut from, &mut payload, &mut tag, sealed, None).unwrap();
            see(&payload);
        },
    )
}

fn sodium_secretstream() -> Box<dyn Scheme> {
    let key = secretstream::gen_key();
    let (mut to, header) = secretstream::Stream::init_push(&key).unwrap();
    let mut from = secretstream::Stream::init_pull(&header, &key).unwrap();
    let (mut sealed_one, mut opened) = (Vec::new(), Vec::new());
    single(
        move |payload, out| {
            to.push_to_vec(payload, None, secretstream::Tag::Message, &mut sealed_one).unwrap();
            out.extend_from_slice(&sealed_one);
        },
        move |sealed, see| {
            from.pull_to_vec(sealed, None, &mut opened).unwrap();
            see(&opened);
        },
    )
}

fn noise(params: &str) -> Box<dyn Scheme> {
    let builder = || snow::Builder::new(params.parse().unwrap());
    let keys = builder().generate_keypair().unwrap();
    let mut here = builder().remote_public_key(&keys.public).unwrap().build_initiator().unwrap();
    let mut there = builder().local_private_key(&keys.private).unwrap().build_responder().unwrap();
    let (mut message, mut nothing) = ([0; 96], [0; 96]);
    let len = here.write_message(&[], &mut message).unwrap();
    there.read_message(&message[..len], &mut nothing).unwrap();
    let len = there.write_message(&[], &mut message).unwrap();
    here.read_message(&message[..len], &mut nothing).unwrap();
    let (mut here, mut there) = (here.into_transport_mode().unwrap(), there.into_transport_mode().unwrap());
    single(
        move |payload, out| {
            let at = out.len();
            out.resize(at + payload.len() + 16, 0);
            here.write_message(payload, &mut out[at..]).unwrap();
        },
        move |sealed, see| {
            let mut payload = [0; SIZE + 16];
            let len = there.read_message(sealed, &mut payload).unwrap();
            see(&payload[..len]);
        },
    )
}

/// One DEK for all that is measured.
const LONG: Reuse = Reuse { messages: u64::MAX, bytes: u64::MAX, age: Duration::MAX };

fn sealer(suite: Suite, reuse: Reuse) -> (Sealer, Opener) {
    let cmk = Cmk::generate().unwrap();
    let sealer = Sealer::builder().to(cmk.recipient().clone()).suite(suite).reuse(reuse).build().unwrap();
    // What is never seen again is not kept.
    let deks = if reuse == LONG { CachePolicy::default().deks } else { 0 };
    (sealer, Opener::builder(Keyring::from(cmk)).cache(CachePolicy { deks, ..CachePolicy::default() }).build())
}

fn envelopes(suite: Suite, reuse: Reuse) -> Box<dyn Scheme> {
    let (mut sealer, opener) = sealer(suite, reuse);
    single(
        move |payload, out| sealer.seal_into(b"", payload, out).unwrap(),
        move |sealed, see| see(&opener.open(sealed).unwrap().payload),
    )
}

fn channel(suite: Suite) -> (ChannelSealer, ChannelOpener) {
    let (sealer, opener) = sealer(suite, LONG);
    (ChannelSealer::new(sealer, Role::Initiator, b""), ChannelOpener::new(opener, Role::Acceptor, b""))
}

struct Channel(ChannelSealer, ChannelOpener);

impl Scheme for Channel {
    fn seal(&mut self, payload: &[u8], times: usize, out: &mut BytesMut) {
        (0..times).for_each(|_| self.0.seal(b"", payload, out).unwrap());
    }

    fn open(&mut self, sealed: &mut BytesMut, see: &mut dyn FnMut(&[u8])) {
        while let Some(opened) = self.1.next(sealed).unwrap() {
            see(&opened.payload);
        }
    }
}

/// A channel with its sink and stream, which meet in memory.
struct Batches {
    memory: Memory,
    sink: SealedSink<Memory>,
    stream: OpenedStream<Memory>,
}

impl Batches {
    fn new(suite: Suite) -> Self {
        let (sealer, opener) = channel(suite);
        let memory = Memory::default();
        // What waits here waits for nobody.
        let (sink, stream) = (SealedSink::new(sealer, memory.clone()), OpenedStream::new(opener, memory.clone()));
        Self { memory, sink: sink.times(Times::NONE), stream: stream.times(Times::NONE) }
    }
}

impl Scheme for Batches {
    fn seal(&mut self, payload: &[u8], times: usize, out: &mut BytesMut) {
        self.memory.0.replace(std::mem::take(out));
        let payload = Bytes::copy_from_slice(payload);
        (0..times).for_each(|_| self.sink.feed(payload.clone()).now_or_never().unwrap().unwrap());
        self.sink.flush().now_or_never().unwrap().unwrap();
        *out = self.memory.0.take();
    }

    fn open(&mut self, sealed: &mut BytesMut, see: &mut dyn FnMut(&[u8])) {
        self.memory.0.replace(std::mem::take(sealed));
        while let Some(opened) = self.stream.next().now_or_never() {
            see(&opened.unwrap().unwrap().payload);
        }
        *sealed = self.memory.0.take();
    }
}

/// What is written to it is read from it.
#[derive(Clone, Default)]
struct Memory(Rc<RefCell<BytesMut>>);

impl AsyncWrite for Memory {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Memory {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut held = self.0.borrow_mut();
        if held.is_empty() {
            return Poll::Pending;
        }
        let n = held.len().min(buffer.remaining());
        buffer.put_slice(&held.split_to(n));
        Poll::Ready(Ok(()))
    }
}
