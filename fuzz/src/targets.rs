//! What each target asserts: an equation, never only that nothing panics. `tests/fuzz_seeds.rs` replays the seeds through
//! these functions without a fuzzer.

use bytes::BytesMut;
use sealwire::{
    ChannelOpener, Cmk, Limits, Opened, Recipient, Role,
    codec::{CodecError, EnvelopeCodec, MessageCodec, OpeningCodec},
    keys,
    untrusted::Message,
    wire::{DekBlock, inspect::Inspector},
};
use tokio_util::codec::Decoder;

use super::{channel, edit, envelopes, opener, pieces, slow, vectors};

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
    let bytes = if kind & 0x80 != 0 { rest.to_vec() } else { edit(&envelopes()[usize::from(*kind) % 3].0, rest) };
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
        _ => edit(&envelopes()[usize::from(*kind) % 3].0.repeat(2), rest),
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
    let (genuine, payload) = &envelopes()[usize::from(*kind) % 3];
    let bytes = if kind & 0x80 != 0 { rest.to_vec() } else { edit(genuine, rest) };
    let opened = opener().open(&bytes);
    match &opened {
        Ok(opened) => assert!(&bytes == genuine && opened.payload == payload && &opened.context[..] == b"ctx"),
        Err(_) => assert_ne!(&bytes, genuine),
    }
    let in_place = opener().open_in_place(BytesMut::from(&bytes[..]));
    assert_eq!(format!("{opened:?}"), format!("{in_place:?}"));
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

/// A key file that is read is written again as the same key.
pub fn keyfile(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(cmk) = keys::cmk_from_key_file(text) {
        let again = keys::cmk_to_key_file(&cmk, "now");
        assert_eq!(keys::cmk_from_key_file(&again).unwrap().recipient(), cmk.recipient());
        assert!(!format!("{cmk:?}").contains(cmk.to_text().as_str()));
    }
    for recipient in keys::recipients_from_list(text).unwrap_or_default() {
        assert_eq!(keys::recipient_from_text(&recipient.to_string()), Ok(recipient));
    }
}

/// A PEM document that is read is written again as the same key.
pub fn pem(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(cmk) = Cmk::from_pem(text) {
        assert_eq!(Cmk::from_pem(&cmk.to_pem().unwrap()).unwrap().recipient(), cmk.recipient());
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

/// We and a slow, obvious reader agree on vectors that were edited: the same accept or refuse, the same payload.
pub fn reference(data: &[u8]) {
    let Some((index, rest)) = data.split_first_chunk::<2>() else { return };
    let envelopes: Vec<_> = vectors().iter().filter(|vector| vector.is_envelope && vector.bytes.len() < 20_000).collect();
    let vector = envelopes[usize::from(u16::from_be_bytes(*index)) % envelopes.len()];
    let bytes = edit(&vector.bytes, rest);
    let ours = vector.opener().open(&bytes).ok().map(|opened| (opened.context.to_vec(), opened.payload.to_vec()));
    assert_eq!(ours, slow::open(&bytes, &vector.keys, &vector.binding));
}
