//! Any split of a stream gives the same messages and the same error.
#![no_main]
use bytes::BytesMut;
use sealwire::{
    ChannelOpener, Role,
    codec::{CodecError, EnvelopeCodec, MessageCodec, OpeningCodec},
};
use sealwire_fuzz::{channel, edit, envelopes, opener};
use tokio_util::codec::Decoder;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some(([kind, size], rest)) = data.split_first_chunk::<2>() else { return };
    let stream = match kind % 4 {
        0 => rest.to_vec(),
        1 => edit(channel(), rest),
        _ => edit(&envelopes()[usize::from(*kind) % 3].0.repeat(2), rest),
    };
    let piece = usize::from(*size) + 1;
    let opening = || OpeningCodec::from(ChannelOpener::new(opener(), Role::Acceptor, b""));
    assert_eq!(decode(opening(), &stream, piece), decode(opening(), &stream, usize::MAX));
    assert_eq!(decode(EnvelopeCodec::default(), &stream, piece), decode(EnvelopeCodec::default(), &stream, usize::MAX));
    assert_eq!(decode(MessageCodec::new(opener()), &stream, piece), decode(MessageCodec::new(opener()), &stream, usize::MAX));
});

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
