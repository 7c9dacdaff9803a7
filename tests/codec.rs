//! The codecs: any split of a stream gives the same messages and the same error, and memory follows what has arrived.

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use kit::TestRng;
use sealwire::{
    Budget, Budgets, ChannelOpener, ChannelSealer, Cmk, Keyring, OpenError, Opener, ParseError, Policy, Reuse, Role, SealError,
    Sealer,
    codec::{CodecError, EnvelopeCodec, MessageCodec, OpeningCodec, Outgoing, SealingCodec},
    wire::{Limits, MessageHead, Opening},
};
use tokio::io;
use tokio_util::codec::{Decoder, Encoder};

mod kit;

fn cmk() -> Cmk {
    Cmk::from_x25519(&[1; 32])
}

fn sealer() -> Sealer {
    let reuse = Reuse { messages: 3, ..Reuse::default() };
    Sealer::builder().to(cmk().recipient().clone()).reuse(reuse).segment_log2(12).build().unwrap()
}

fn sealing() -> SealingCodec {
    ChannelSealer::new(sealer(), Role::Initiator, b"b").into()
}

fn opening() -> OpeningCodec {
    ChannelOpener::new(Opener::new(Keyring::from(cmk())), Role::Acceptor, b"b").into()
}

/// A stream with everything in it, and the payloads.
fn stream() -> (BytesMut, Vec<Vec<u8>>) {
    let mut rng = TestRng::new(7);
    let payloads: Vec<_> = [0, 1, 20, 4096, 4097, 20_000, 5].iter().map(|n| rng.bytes(*n)).collect();
    let mut out = BytesMut::new();
    let mut codec = sealing();
    for payload in &payloads {
        codec
            .encode(Outgoing::Message { context: Bytes::from_static(b"ctx"), payload: payload.clone().into() }, &mut out)
            .unwrap();
    }
    codec.encode(Outgoing::End, &mut out).unwrap();
    (out, payloads)
}

/// What a decoder makes of a stream that arrives in `pieces`, with the end told.
fn decode<D: Decoder<Error = CodecError>>(
    mut codec: D,
    stream: &[u8],
    piece: impl Fn(usize) -> usize,
) -> (Vec<D::Item>, Option<String>) {
    let (mut buffer, mut items, mut at) = (BytesMut::new(), Vec::new(), 0);
    while at < stream.len() {
        let n = piece(at).clamp(1, stream.len() - at);
        buffer.extend_from_slice(&stream[at..at + n]);
        at += n;
        loop {
            match codec.decode(&mut buffer) {
                Ok(Some(item)) => items.push(item),
                Ok(None) => break,
                Err(error) => {
                    assert!(codec.decode(&mut buffer).is_err() && codec.decode_eof(&mut buffer).is_err(), "it stays failed");
                    return (items, Some(error.to_string()));
                }
            }
        }
    }
    loop {
        match codec.decode_eof(&mut buffer) {
            Ok(Some(item)) => items.push(item),
            Ok(None) => return (items, None),
            Err(error) => {
                assert!(codec.decode(&mut buffer).is_err() && codec.decode_eof(&mut buffer).is_err(), "it stays failed");
                return (items, Some(error.to_string()));
            }
        }
    }
}

#[test]
fn any_split_gives_the_same() {
    let (stream, payloads) = stream();
    for size in [1, 2, 3, 7, 100, 4096, 1 << 20] {
        let (items, error) = decode(opening(), &stream, |_| size);
        assert_eq!(error, None);
        assert_eq!(items.iter().map(|item| item.payload.to_vec()).collect::<Vec<_>>(), payloads);
        let (raw, error) = decode(EnvelopeCodec::default(), &stream, |_| size);
        assert_eq!(error, None);
        assert_eq!(raw.iter().flat_map(|raw| raw.bytes().to_vec()).collect::<Vec<_>>(), stream);
        let kinds: Vec<_> = raw.iter().map(|raw| raw.kind() == Opening::Envelope).collect();
        assert_eq!(kinds, [true, false, false, true, false, false, true, false]);
    }
    let mut rng = TestRng::new(3);
    for _ in 0..200 {
        let mut broken = stream.to_vec();
        let at = rng.below(broken.len());
        broken[at] ^= 1 << rng.below(8);
        broken.truncate(broken.len() - rng.below(3) * 5);
        let whole = decode(opening(), &broken, |_| usize::MAX);
        assert!(whole.1.is_some());
        let step = 1 + rng.below(300);
        for size in [1, step] {
            assert_eq!(decode(opening(), &broken, |_| size), whole, "at {at}");
        }
        let raw = decode(EnvelopeCodec::default(), &broken, |_| usize::MAX);
        assert_eq!(decode(EnvelopeCodec::default(), &broken, |_| step), raw);
    }
}

/// Proves CHN-9 through the codec: a cut between two messages is an error too.
#[test]
fn an_end_without_the_last_message_is_truncated() {
    let mut out = BytesMut::new();
    sealing().encode(Bytes::from_static(b"one"), &mut out).unwrap();
    let (items, error) = decode(opening(), &out, |_| 10);
    assert_eq!(items.len(), 1);
    assert!(error.unwrap().starts_with("truncated: the connection ended"));
    assert!(matches!(
        opening().decode_eof(&mut BytesMut::new()),
        Err(CodecError::Open(OpenError::ChannelTruncated { delivered: 0 }))
    ));
}

#[test]
fn encode_appends_and_leaves_the_buffer_on_errors() {
    let mut codec = sealing();
    let mut out = BytesMut::from(&b"what was there"[..]);
    codec.encode(Bytes::from_static(b"one"), &mut out).unwrap();
    assert!(out.starts_with(b"what was there"));
    let before = out.clone();
    let large = Bytes::from(vec![0; (16 << 20) + 1]);
    assert!(matches!(codec.encode(large, &mut out), Err(CodecError::Seal(SealError::LimitExceeded(_)))));
    assert_eq!(out, before);
    codec.encode(Outgoing::Last { context: Bytes::new(), payload: Bytes::from_static(b"two") }, &mut out).unwrap();
    let before = out.clone();
    assert!(matches!(codec.encode(Outgoing::End, &mut out), Err(CodecError::Seal(SealError::Closed))));
    assert_eq!(out, before);
    let (items, error) = decode(opening(), &out[14..], |_| 9);
    assert_eq!((items.len(), error), (2, None));
}

/// A channel can be renewed from behind its codec; single messages have none.
#[test]
fn a_channel_is_reached_through_its_codec() {
    let mut codec = sealing();
    let mut out = BytesMut::new();
    codec.encode(Bytes::from_static(b"one"), &mut out).unwrap();
    codec.channel_mut().unwrap().renew();
    codec.encode(Bytes::from_static(b"two"), &mut out).unwrap();
    let (raw, _) = decode(EnvelopeCodec::default(), &out, |_| usize::MAX);
    assert!(raw.iter().all(|raw| raw.kind() == Opening::Envelope));
    assert!(SealingCodec::self_contained(sealer()).channel_mut().is_none());
}

/// A length that a peer declares reserves nothing; a buffer that a large message blew up is let go.
#[test]
fn memory_follows_what_arrives() {
    let mut sender = ChannelSealer::new(
        Sealer::builder().to(cmk().recipient().clone()).segment_log2(24).build().unwrap(),
        Role::Initiator,
        b"b",
    );
    let mut stream = BytesMut::new();
    sender.seal(b"", &vec![1; 8 << 20], &mut stream).unwrap();
    let large = stream.len();
    sender.finish(&mut stream).unwrap();
    let mut codec = opening();
    let mut buffer = BytesMut::with_capacity(64);
    buffer.extend_from_slice(&stream[..200]);
    assert!(codec.decode(&mut buffer).unwrap().is_none());
    assert!(buffer.capacity() < 4096, "{}", buffer.capacity());
    buffer.extend_from_slice(&stream[200..large + 3]);
    let item = codec.decode(&mut buffer).unwrap().unwrap();
    assert_eq!(item.payload.len(), 8 << 20);
    drop(item);
    buffer.reserve(1);
    assert!(buffer.capacity() < 4096, "{}", buffer.capacity());
}

/// A buffer that a message of more than 256 KiB blew up is let go with it; after any other it is of use again.
#[test]
fn a_router_lets_a_large_buffer_go() {
    let mut sealer = Sealer::builder().to(cmk().recipient().clone()).segment_log2(24).build().unwrap();
    for (len, kept) in [(1000, true), (256 << 10, true), ((256 << 10) + 1, false)] {
        let mut buffer = BytesMut::with_capacity(1 << 20);
        buffer.extend_from_slice(&sealer.seal(b"", &vec![1; len - 185]).unwrap());
        buffer.extend_from_slice(b"SWE");
        assert_eq!(EnvelopeCodec::default().decode(&mut buffer).unwrap().unwrap().bytes().len(), len);
        assert_eq!(buffer[..], b"SWE"[..]);
        assert_eq!(buffer.capacity() > 4096, kept, "{len}: {}", buffer.capacity());
    }
}

/// A read buffer of 64 KiB takes a segment in one read, and as much waits before a sink pushes back.
#[test]
fn framed_ends_hold_a_segment() {
    let messages = MessageCodec::new(Opener::new(Keyring::from(cmk()))).framed(io::empty());
    assert_eq!(messages.read_buffer().capacity(), 64 << 10);
    assert_eq!(opening().framed(io::empty()).read_buffer().capacity(), 64 << 10);
    assert_eq!(sealing().framed(io::sink()).backpressure_boundary(), 64 << 10);
}

/// A self-contained message that cannot be opened is an outcome; a broken frame is the end.
#[test]
fn single_messages_fail_alone() {
    let mut good = SealingCodec::self_contained(sealer());
    let mut out = BytesMut::new();
    good.encode(Bytes::from_static(b"one"), &mut out).unwrap();
    let mut damaged = BytesMut::new();
    good.encode(Bytes::from_static(b"two"), &mut damaged).unwrap();
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    out.unsplit(damaged);
    let other = Cmk::from_x25519(&[2; 32]);
    out.extend_from_slice(&sealwire::seal(b"not for us", &[other.recipient().clone()]).unwrap());
    good.encode(Outgoing::End, &mut out).unwrap();
    good.encode(Bytes::from_static(b"four"), &mut out).unwrap();
    let codec = || MessageCodec::new(Opener::new(Keyring::from(cmk())));
    for size in [1, 50, usize::MAX] {
        let (items, error) = decode_outcomes(codec(), &out, size);
        assert_eq!(items, ["one", "segment", "no key", "four"]);
        assert_eq!(error, None);
        let (items, error) = decode_outcomes(codec(), &[&out[..], b"junk"].concat(), size);
        assert_eq!(items.len(), 4);
        assert!(error.unwrap().contains("type"));
        let (items, error) = decode_outcomes(codec(), &out[..out.len() - 1], size);
        assert_eq!(items.len(), 3);
        assert!(error.unwrap().starts_with("truncated"));
    }
}

fn decode_outcomes(codec: MessageCodec, stream: &[u8], size: usize) -> (Vec<String>, Option<String>) {
    let (items, error) = decode(codec, stream, |_| size);
    let word = |item: Result<sealwire::Opened, OpenError>| match item {
        Ok(opened) => String::from_utf8(opened.payload.to_vec()).unwrap(),
        Err(OpenError::Segment { .. }) => "segment".into(),
        Err(OpenError::NoMatchingKey) => "no key".into(),
        Err(other) => panic!("{other:?}"),
    };
    (items.into_iter().map(word).collect(), error)
}

/// A router passes on what it cannot read, a suite that nobody here knows included.
#[test]
fn a_router_needs_no_key_and_no_suite() {
    let mut envelope = sealwire::seal(b"x", &[cmk().recipient().clone()]).unwrap();
    envelope[8] = 99;
    let (raw, error) = decode(EnvelopeCodec::default(), &envelope.repeat(2), |_| 11);
    assert_eq!((raw.len(), error), (2, None));
    let mut out = BytesMut::new();
    raw.into_iter().for_each(|message| EnvelopeCodec::default().encode(message, &mut out).unwrap());
    assert_eq!(out, envelope.repeat(2));
}

/// Proves LIM-3: a router has limits too, and meets them when the prefix comes.
#[test]
fn a_router_keeps_its_limits() {
    let envelope = sealer().seal(b"", &[1; 5000]).unwrap();
    let split =
        |message, n| EnvelopeCodec::new(Limits { message, ..Limits::default() }).decode(&mut BytesMut::from(&envelope[..n]));
    assert!(split(5000, envelope.len()).unwrap().is_some());
    let second_prefix = 165 + 4096 + 20 + 4;
    assert!(split(4999, second_prefix - 1).unwrap().is_none());
    assert!(matches!(split(4999, second_prefix), Err(CodecError::Parse(ParseError::LimitExceeded(_)))));
}

/// Single messages are framed under the limits of their opener.
#[test]
fn frames_keep_the_limits_of_the_opener() {
    let envelope = sealer().seal(b"", &[1; 5000]).unwrap();
    let policy = Policy { limits: Limits { message: 4999, ..Limits::default() }, ..Policy::default() };
    let mut codec = MessageCodec::new(Opener::builder(Keyring::from(cmk())).policy(policy).build());
    let cut = BytesMut::from(&envelope[..165 + 4096 + 20 + 4]);
    assert!(matches!(codec.decode(&mut cut.clone()), Err(CodecError::Parse(ParseError::LimitExceeded(_)))));
}

/// A router that has lost its place gives nothing more, whatever comes.
#[test]
fn a_router_does_not_find_its_place_again() {
    let good = sealwire::seal(b"x", &[cmk().recipient().clone()]).unwrap();
    let mut codec = EnvelopeCodec::default();
    assert!(codec.decode(&mut BytesMut::from(&b"junk"[..])).is_err());
    assert!(matches!(codec.decode(&mut BytesMut::from(&good[..])), Err(CodecError::Failed)));
    let mut codec = EnvelopeCodec::default();
    assert!(codec.decode_eof(&mut BytesMut::from(&good[..9])).is_err());
    assert!(matches!(codec.decode_eof(&mut BytesMut::from(&good[..])), Err(CodecError::Failed)));
}

/// Through real sockets and `Framed`, both directions, with the transport closed in an orderly way.
#[tokio::test]
async fn over_tcp() -> Result<(), CodecError> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (_, payloads) = stream();
    let expected = payloads.clone();
    let receiving = tokio::spawn(async move {
        let (socket, _) = listener.accept().await?;
        let mut framed = opening().framed(socket);
        let mut got = Vec::new();
        while let Some(opened) = framed.next().await {
            got.push(opened?.payload.to_vec());
        }
        assert!(framed.decoder().channel().is_closed());
        Ok::<_, CodecError>(got)
    });
    let mut framed = sealing().framed(tokio::net::TcpStream::connect(address).await?);
    for payload in payloads {
        framed.feed(Bytes::from(payload)).await?;
    }
    framed.send(Outgoing::End).await?;
    SinkExt::<Outgoing>::close(&mut framed).await?;
    assert_eq!(receiving.await.map_err(std::io::Error::other)??, expected);
    Ok(())
}

/// A program that holds a codec reaches the channel in it: to renew it, and to bind answers to it. Who seals every message by
/// itself has no channel, and what it sends is read one by one.
#[tokio::test]
async fn the_channel_is_there_through_the_codec() -> Result<(), CodecError> {
    let (here, there) = tokio::io::duplex(1 << 16);
    let mut sending = sealing().framed(here);
    for i in 0..4u8 {
        sending.encoder_mut().channel_mut().unwrap().renew();
        sending.send(Bytes::from(vec![i; 10])).await?;
    }
    sending.send(Outgoing::End).await?;
    let first = *sending.encoder_mut().channel_mut().unwrap().first_header_mac().unwrap();
    drop(sending);
    let mut receiving = opening().framed(there);
    for i in 0..4u8 {
        assert_eq!(receiving.next().await.unwrap()?.payload, vec![i; 10]);
    }
    assert!(receiving.next().await.is_none());
    assert_eq!(receiving.decoder().channel().first_header_mac(), Some(&first));
    let (here, there) = tokio::io::duplex(1 << 16);
    let mut sending = SealingCodec::self_contained(sealer()).framed(here);
    assert!(sending.encoder_mut().channel_mut().is_none());
    for i in 0..4u8 {
        sending.send(Bytes::from(vec![i; 10])).await?;
    }
    drop(sending);
    let mut receiving = MessageCodec::new(Opener::new(Keyring::from(cmk()))).framed(there);
    for i in 0..4u8 {
        assert_eq!(receiving.next().await.unwrap()?.unwrap().payload, vec![i; 10]);
    }
    assert!(receiving.next().await.is_none());
    Ok(())
}

/// A decoder that is asked only after the end has come gives everything, in order, and then the end.
#[test]
fn everything_can_be_asked_for_at_the_end() {
    let (mut input, payloads) = stream();
    let mut codec = opening();
    for payload in payloads {
        assert_eq!(codec.decode_eof(&mut input).unwrap().unwrap().payload, payload);
    }
    assert!(codec.decode_eof(&mut input).unwrap().is_none() && input.is_empty());
}

/// A stream that begins with a follow-up has no beginning, to a router too. Proves CHN-3.
#[test]
fn a_router_sees_that_the_beginning_is_missing() {
    let (stream, _) = stream();
    let first = sealwire::wire::Splitter::new(sealwire::Limits::default()).next(&stream).unwrap().unwrap();
    assert_eq!(Opening::of(stream[first]), Ok(Opening::FollowUp));
    let (raw, error) = decode(EnvelopeCodec::default(), &stream[first..], |_| 11);
    assert!(raw.is_empty() && error.unwrap().contains("without an envelope"));
}

#[test]
fn heads_are_public() {
    let envelope = sealwire::seal(b"x", &[cmk().recipient().clone()]).unwrap();
    let mut reader = sealwire::wire::Reader::new(&envelope[153..], 153);
    assert_eq!(MessageHead::parse(&mut reader, &sealwire::Limits::default()).unwrap().seq, 0);
}

/// What a peer costs has a budget, and past it a codec stays failed.
#[test]
fn budgets_end_a_stream() {
    let budget = |at_once| Budget { at_once, a_second: 0 };
    let codec = |budgets| MessageCodec::new(Opener::new(Keyring::from(cmk()))).budgets(budgets);
    let mut stream = BytesMut::new();
    let mut codec_of_bytes = SealingCodec::self_contained(Sealer::builder().to(cmk().recipient().clone()).build().unwrap());
    for payload in [&b""[..], b"one", b"", b"two", b""] {
        codec_of_bytes.encode(Bytes::copy_from_slice(payload), &mut stream).unwrap();
    }
    let ends = |budgets: Budgets, stream: &BytesMut| {
        let (mut codec, mut input, mut outcomes) = (codec(budgets), stream.clone(), 0);
        loop {
            match codec.decode(&mut input) {
                Ok(Some(_)) => outcomes += 1,
                Ok(None) => return (outcomes, None),
                Err(CodecError::Open(OpenError::Budget(over))) => {
                    assert!(matches!(codec.decode(&mut input), Err(CodecError::Failed)));
                    assert_eq!(CodecError::Open(OpenError::Budget(over)).reason(), "budget");
                    return (outcomes, Some(over.name));
                }
                Err(error) => panic!("{error}"),
            }
        }
    };
    assert_eq!(ends(Budgets::default(), &stream), (5, None));
    assert_eq!(ends(Budgets { empty: budget(2), ..Budgets::default() }, &stream), (4, Some("empty")));
    assert_eq!(ends(Budgets { envelopes: budget(0), ..Budgets::default() }, &stream), (0, Some("envelopes")));
    let stranger = sealwire::seal(b"x", &[Cmk::from_x25519(&[2; 32]).recipient().clone()]).unwrap().repeat(3);
    let stranger = BytesMut::from(&stranger[..]);
    assert_eq!(ends(Budgets { failures: budget(2), ..Budgets::default() }, &stranger), (2, Some("failures")));
}
