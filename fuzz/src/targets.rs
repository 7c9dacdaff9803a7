//! What each target asserts: an equation, never only that nothing panics. `tests/fuzz_seeds.rs` replays the seeds through
//! these functions without a fuzzer.

use std::{
    io::{BufReader, Cursor, Read, Seek, SeekFrom, Write},
    pin::Pin,
    sync::OnceLock,
    task::{Context, Poll, Waker},
};

use bech32::primitives::decode::CheckedHrpstring;
use bytes::BytesMut;
use sealwire::{
    ChannelOpener, Cmk, Kem, Keyring, Limits, Opened, Opener, Recipient, Rewrap, Role, SenderKey,
    Standing::{Anonymous, Origin, SignedRewrapped},
    VerifyingKey,
    armor::{ArmorReader, ArmorWriter},
    codec::{CodecError, EnvelopeCodec, MessageCodec, OpeningCodec},
    keys,
    stream::{AsyncOpenReader, OpenReader, StreamError},
    untrusted::Message,
    wire::{DekBlock, inspect::Inspector},
};
use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::codec::Decoder;

use super::{channel, cmk, edit, envelopes, opener, pieces, slow, vectors};

/// parse(x) = Ok(y)  =>  encode(y) = x
pub fn block(data: &[u8]) {
    let Ok((raw, block)) = DekBlock::parse(data, &Limits::default()) else { return };
    let mut again = Vec::new();
    block.encode(&mut again);
    assert_eq!(again, raw);
    assert_eq!((block.encoded_len(), &data[..raw.len()]), (raw.len(), raw));
    assert_eq!((block.slots.iter().count(), block.externals.iter().count()), (block.slots.len(), block.externals.len()));
}

/// parse(x) = Ok(block, head, segments)  =>  encode(block) ‖ encode(head) ‖ segments = x
pub fn envelope(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    let bytes =
        if kind & 0x80 != 0 { rest.to_vec() } else { edit(&envelopes()[usize::from(*kind & 0x7f) % envelopes().len()].0, rest) };
    let Ok(message) = Message::parse(&bytes, &Limits::default()) else { return };
    let mut again = Vec::new();
    message.block.encode(&mut again);
    message.head.encode(&mut again);
    assert_eq!(again.len(), message.body_at);
    again.extend(message.body);
    assert_eq!(again, bytes);
    assert!(message.plaintext < bytes.len());
}

/// Any split of a stream gives the same messages and the same error.
pub fn codec(data: &[u8]) {
    let Some(([kind, size], rest)) = data.split_first_chunk::<2>() else { return };
    let stream = match kind % 4 {
        0 => rest.to_vec(),
        1 => edit(channel(), rest),
        _ => edit(&envelopes()[usize::from(*kind & 0x7f) % envelopes().len()].0.repeat(2), rest),
    };
    let piece = usize::from(*size) + 1;
    let opening = || OpeningCodec::from(ChannelOpener::new(opener(), Role::Acceptor, b""));
    let messages = || MessageCodec::new(opener());
    assert_eq!(decode(opening(), &stream, piece), decode(opening(), &stream, usize::MAX));
    assert_eq!(decode(messages(), &stream, piece), decode(messages(), &stream, usize::MAX));
    let raw = EnvelopeCodec::default;
    assert_eq!(decode(raw(), &stream, piece), decode(raw(), &stream, usize::MAX));
}

fn decode<D: Decoder<Error = CodecError>>(mut codec: D, stream: &[u8], piece: usize) -> Vec<String>
where
    D::Item: std::fmt::Debug,
{
    let (mut buffer, mut seen) = (BytesMut::new(), Vec::new());
    let mut pieces = stream.chunks(piece.min(stream.len().max(1)));
    loop {
        let next = pieces.next();
        let more = next.is_some();
        buffer.extend_from_slice(next.unwrap_or_default());
        loop {
            match if more { codec.decode(&mut buffer) } else { codec.decode_eof(&mut buffer) } {
                Ok(Some(item)) => seen.push(format!("{item:?}")),
                Ok(None) if more => break,
                Ok(None) => return seen,
                Err(error) => {
                    assert!(codec.decode(&mut buffer).is_err(), "a codec that failed stays failed");
                    seen.push(error.to_string());
                    return seen;
                }
            }
        }
    }
}

/// Nothing opens that was not sealed.
pub fn open(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    let (genuine, payload) = &envelopes()[usize::from(*kind & 0x7f) % envelopes().len()];
    let bytes = if kind & 0x80 != 0 { rest.to_vec() } else { edit(genuine, rest) };
    let opened = opener().open(&bytes);
    match &opened {
        Ok(opened) => assert!(&bytes == genuine && opened.payload == payload && &opened.context[..] == b"ctx"),
        Err(_) => assert_ne!(&bytes, genuine),
    }
    let in_place = opener().open_in_place(BytesMut::from(&bytes[..]));
    assert_eq!(format!("{opened:?}"), format!("{in_place:?}"));
}

/// A reader of streams opens what a one-shot call opens, and nothing else, with the block in front or apart from it, blocking or not;
/// what it gives is always the beginning of what was sent, and a range of it is that range.
pub fn stream(data: &[u8]) {
    let Some(([kind, piece, at], rest)) = data.split_first_chunk::<3>() else { return };
    let (genuine, payload) = &envelopes()[usize::from(*kind) % envelopes().len()];
    let bytes = edit(genuine, rest);
    let n = usize::from(*piece) * 20 + 1;
    let (got, whole) = drain(OpenReader::new(&opener(), &bytes[..]), n);
    assert!(payload.starts_with(&got));
    assert_eq!((whole, &got == payload && whole), (&bytes == genuine, &bytes == genuine));
    // Cursors are always ready.
    let nonblocking =
        Box::pin(AsyncOpenReader::new(&opener(), Cursor::new(&bytes))).as_mut().poll(&mut Context::from_waker(Waker::noop()));
    let Poll::Ready(nonblocking) = nonblocking else { panic!("a cursor is ready") };
    assert_eq!(drain(nonblocking.map(Ready), n), (got.clone(), whole));
    if let Ok((block, _)) = DekBlock::parse(&bytes, &Limits::default()) {
        let message = &bytes[block.len()..];
        assert_eq!(drain(OpenReader::detached(&opener(), block, message), n), (got, whole));
        let (apart, joined) = (opener().open_detached(block, message), opener().open(&bytes));
        assert_eq!(format!("{apart:?}"), format!("{joined:?}"));
    }
    let Ok(mut reader) = OpenReader::new(&opener(), Cursor::new(&bytes)) else { return };
    let (place, mut buffer) = (usize::from(*at) * 20, vec![0; n]);
    if reader.seek(SeekFrom::Start(place as u64)).is_ok() && reader.read_to_end(&mut Vec::new()).is_ok() {
        let n = reader.seek(SeekFrom::Start(place as u64)).and_then(|_| reader.read(&mut buffer)).unwrap();
        assert_eq!(buffer[..n], payload[place.min(payload.len())..][..n]);
    }
}

/// What a reader gives, read `n` bytes at a time, and whether it came to its end.
fn drain(reader: Result<impl Read, StreamError>, n: usize) -> (Vec<u8>, bool) {
    let (mut got, mut buffer) = (Vec::new(), vec![0; n]);
    let Ok(mut reader) = reader else { return (got, false) };
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return (got, true),
            Ok(n) => got.extend(&buffer[..n]),
            Err(_) => return (got, false),
        }
    }
}

/// A reader that never waits.
struct Ready<R>(R);

impl<R: AsyncRead + Unpin> Read for Ready<R> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let mut out = ReadBuf::new(out);
        match Pin::new(&mut self.0).poll_read(&mut Context::from_waker(Waker::noop()), &mut out) {
            Poll::Ready(read) => read.map(|()| out.filled().len()),
            Poll::Pending => panic!("a cursor is ready"),
        }
    }
}

/// read(text) = Ok(x)  =>  write(x) = text, but for line ends and what is blank around it; and read(write(x)) = x, unless that is empty
pub fn armor(data: &[u8]) {
    let Some(([piece], rest)) = data.split_first_chunk::<1>() else { return };
    let write = |bytes: &[u8]| {
        let mut writer = ArmorWriter::new(Vec::new()).unwrap();
        bytes.chunks(usize::from(*piece) + 1).for_each(|piece| writer.write_all(piece).unwrap());
        writer.finish().unwrap()
    };
    let read = |text: &[u8]| {
        let mut bytes = Vec::new();
        ArmorReader::new(BufReader::with_capacity(usize::from(*piece) + 1, text)).read_to_end(&mut bytes).map(|_| bytes)
    };
    assert_eq!(read(&write(rest)).ok().as_deref(), Some(rest).filter(|rest| !rest.is_empty()));
    for text in [rest, &edit(&write(&envelopes()[0].0), rest)] {
        let Ok(bytes) = read(text) else { continue };
        let text = std::str::from_utf8(text).unwrap().replace("\r\n", "\n");
        assert_eq!(write(&bytes).trim_ascii_end(), text.trim_ascii().as_bytes());
    }
}

/// rewrap(x) = Ok(y)  =>  x is genuine, and y opens for the old reader and the new one as x did, with a proof that says so.
pub fn rewrap(data: &[u8]) {
    let Some(([kind, how], rest)) = data.split_first_chunk::<2>() else { return };
    let (genuine, payload) = &envelopes()[usize::from(*kind) % envelopes().len()];
    let bytes = edit(genuine, rest);
    // Of the kind that the genuine block is for, and now and then of the other.
    let kem = DekBlock::parse(genuine, &Limits::default()).unwrap().1.suite.kem();
    let (old, new) = (cmk(kem, 1), if how & 0x80 == 0 { cmk(kem, 2) } else { cmk(Kem::X25519, 2) });
    let change = Rewrap::new().to(new.recipient().clone()).weaken_proof();
    let change = if how & 1 == 0 { change } else { change.replace_all() };
    let Ok(again) = sealwire::rewrap(&bytes, &Keyring::from(old), &change) else { return };
    assert_eq!(new.recipient().kem(), kem, "recipients of two kinds in one block");
    let block = DekBlock::parse(&bytes, &Limits::default()).unwrap().0;
    assert!(genuine.starts_with(block), "a block that was changed was taken for genuine");
    let opened = Opener::new(Keyring::from(new)).open(&again);
    assert_eq!(opened.as_ref().is_ok_and(|opened| opened.payload == payload), &bytes == genuine);
    assert_eq!(opener().open(&again).is_ok(), opened.is_ok() && how & 1 == 0);
    assert!(opened.is_err() || matches!(opened.unwrap().sender.standing(), Anonymous | SignedRewrapped | Origin));
}

/// Whatever is done to the messages of a channel on the way (drop, repeat, swap, cut, splice, flip), what comes out is
/// what was sent, in that order, from the first on; and a good end means all of it.
pub fn operations(data: &[u8]) {
    let (ours, theirs) = (pieces(0), pieces(1));
    let mut wire: Vec<Vec<u8>> = ours.clone();
    for op in data.chunks_exact(3).take(24) {
        let (at, to) = (usize::from(op[1]) % wire.len().max(1), usize::from(op[2]));
        match op[0] % 6 {
            0 if wire.len() > 1 => drop(wire.remove(at)),
            1 if at < wire.len() => wire.insert(at, wire[at].clone()),
            2 if at < wire.len() => {
                let to = to % wire.len();
                wire.swap(at, to);
            }
            3 => wire.insert(at, theirs[to % theirs.len()].clone()),
            4 if at < wire.len() => wire[at].truncate(to),
            5 if at < wire.len() && to < wire[at].len() => wire[at][to] ^= 1 << (op[0] / 6 % 8),
            _ => {}
        }
    }
    let mut channel = ChannelOpener::new(opener(), Role::Acceptor, b"");
    let (mut input, mut got) = (BytesMut::from(&wire.concat()[..]), Vec::new());
    let end = loop {
        match channel.next(&mut input) {
            Ok(Some(Opened { payload, .. })) => got.push(payload.len()),
            Ok(None) => break channel.end(&input),
            Err(error) => break Err(error),
        }
    };
    let sent: Vec<usize> = (0..got.len()).collect();
    assert_eq!(got, sent, "not what was sent, in that order");
    assert_eq!(end.is_ok(), wire == *ours || wire.concat() == ours.concat());
}

/// A key file that is read is written again as the same key. What begins with a byte of zero or one is a protected key.
pub fn keyfile(data: &[u8]) {
    if let Some(([kind @ (0 | 1)], rest)) = data.split_first_chunk::<1>() {
        return protected(*kind == 0, rest);
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(cmk) = keys::cmk_from_key_file(text) {
        let again = keys::cmk_to_key_file(&cmk, "now");
        assert_eq!(keys::cmk_from_key_file(&again).unwrap().recipient(), cmk.recipient());
        assert!(!format!("{cmk:?}").contains(cmk.to_text().as_str()));
    }
    if let Ok(sender) = keys::sender_key_from_key_file(text) {
        let again = keys::sender_key_to_key_file(&sender, "now");
        assert_eq!(keys::sender_key_from_key_file(&again).unwrap().verifying_key(), sender.verifying_key());
        assert!(!format!("{sender:?}").contains(sender.to_text().as_str()));
    }
    if let Ok(protected) = keys::protected_from_key_file(text) {
        assert_eq!(protected.to_string().parse().as_ref(), Ok(&protected));
        assert!(protected.work() <= keys::WORK_MAX);
    }
    for sender in keys::senders_from_list(text).unwrap_or_default() {
        assert_eq!(keys::sender_from_text(&sender.to_string()), Ok(sender));
    }
    for recipient in keys::recipients_from_list(text).unwrap_or_default() {
        assert_eq!(keys::recipient_from_text(&recipient.to_string()), Ok(recipient));
    }
}

/// `protected-cmk` of spec/vectors/keys.json, and its passphrase: 8 KiB, one pass.
const PROTECTED: &str = "SW-PROTECTED-KEY-1QYQQQQQPQQQQQZQP5ZS69GAY5KN2029F4246ETDW4LWFA0ZLPFDY2KRMHLM3EUJRGV9VPUMZM2PFVM6VAYFXSDH243E4JAVXKVWT56A3HNXRPP48MUAHVNTGG2PLEE3MW0TAQYLAJ3VGK5NW22PSN6722WM9CENPRZDD3NWNG4THQ0YZK6JZ4M5A7N046GGMA7NU7C2XSWD92HGA48YNF52L6JUUTFJM8ZX50DQK8PK25JQ27QFA4W";
const PASSPHRASE: &str = "correct horse";

/// Bech32m, as long as ours is.
enum Bech32m {}

impl bech32::Checksum for Bech32m {
    type MidstateRepr = u32;
    type CorrectionField = bech32::Fe1024;
    const ROOT_GENERATOR: bech32::Fe1024 = bech32::Bech32m::ROOT_GENERATOR;
    const ROOT_EXPONENTS: core::ops::RangeInclusive<usize> = bech32::Bech32m::ROOT_EXPONENTS;
    const CODE_LENGTH: usize = 4096;
    const CHECKSUM_LENGTH: usize = bech32::Bech32m::CHECKSUM_LENGTH;
    const GENERATOR_SH: [u32; 5] = bech32::Bech32m::GENERATOR_SH;
    const TARGET_RESIDUE: u32 = bech32::Bech32m::TARGET_RESIDUE;
}

/// Of a genuine protected key nothing opens that was changed; and what is read at all is within its bounds, and is written as it was.
fn protected(is_edit: bool, rest: &[u8]) {
    static GENUINE: OnceLock<Vec<u8>> = OnceLock::new();
    let read = || CheckedHrpstring::new::<Bech32m>(PROTECTED).unwrap().byte_iter().collect();
    let genuine = GENUINE.get_or_init(read);
    let data = if is_edit { edit(genuine, rest) } else { rest.to_vec() };
    let hrp = bech32::Hrp::parse("SW-PROTECTED-KEY-").unwrap();
    let mut string = String::new();
    if bech32::encode_upper_to_fmt::<Bech32m, _>(&mut string, hrp, &data).is_err() {
        return;
    }
    let read = string.parse::<keys::Protected>();
    let is_genuine = &data == genuine;
    let Ok(protected) = read else { return assert!(!is_genuine) };
    assert_eq!(protected.to_string(), string);
    assert!(protected.work() <= keys::WORK_MAX);
    // Others are opened by tests: a second each is too much here.
    if protected.work() <= 256 {
        let opened = protected.open(&keys::Passphrase::new(PASSPHRASE).unwrap());
        assert_eq!(opened.is_ok(), is_genuine);
        assert!(opened.is_err() || opened.unwrap().into_cmk().unwrap().recipient() == Cmk::from_x25519(&[0x11; 32]).recipient());
    }
}

/// A PEM document that is read is written again as the same key.
pub fn pem(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(cmk) = Cmk::from_pem(text) {
        assert_eq!(Cmk::from_pem(&cmk.to_pem().unwrap()).unwrap().recipient(), cmk.recipient());
    }
    if let Ok(sender) = SenderKey::from_pem(text) {
        assert_eq!(SenderKey::from_pem(&sender.to_pem().unwrap()).unwrap().verifying_key(), sender.verifying_key());
    }
    if let Ok(sender) = VerifyingKey::from_pem(text) {
        assert_eq!(VerifyingKey::from_pem(&sender.to_pem().unwrap()), Ok(sender));
    }
    if let Ok(recipient) = Recipient::from_pem(text) {
        assert_eq!(Recipient::from_pem(&recipient.to_pem().unwrap()), Ok(recipient));
    }
}

/// The inspector's fields are the input without a gap, and it says nothing that a terminal obeys.
pub fn inspect(data: &[u8]) {
    let Some(([kind, index], rest)) = data.split_first_chunk::<2>() else { return };
    let bytes = if kind & 1 == 0 { rest.to_vec() } else { edit(&vectors()[usize::from(*index) % vectors().len()].bytes, rest) };
    let mut seen = Vec::new();
    for message in Inspector::new(&bytes, &Limits::default()) {
        let Ok(message) = message.inspect_err(|error| assert!(!error.to_string().contains(char::is_control))) else { break };
        for part in &message.parts {
            assert_eq!(part.offset, seen.len() as u64);
            seen.extend(part.bytes);
            assert!(!(part.name.clone() + &part.meaning).contains(|c: char| c.is_control() || c == '\u{202e}'));
        }
        assert_eq!(message.offset + message.len, seen.len() as u64);
    }
    assert!(bytes.starts_with(&seen));
}

/// We and a slow, obvious reader agree on vectors that were edited: the same accept or refuse, payload and sender.
pub fn reference(data: &[u8]) {
    let Some((index, rest)) = data.split_first_chunk::<2>() else { return };
    let envelopes: Vec<_> = vectors().iter().filter(|vector| vector.is_envelope && vector.bytes.len() < 20_000).collect();
    let vector = envelopes[usize::from(u16::from_be_bytes(*index)) % envelopes.len()];
    let bytes = edit(&vector.bytes, rest);
    let ours = vector.open(&bytes).map(|opened| {
        let key = opened.sender.key().map(|key| *key.as_bytes());
        (opened.context.to_vec(), opened.payload.to_vec(), opened.sender.standing().to_string(), key)
    });
    assert_eq!(ours, slow::open(&bytes, &vector.keys, &vector.kms, &vector.binding));
}
