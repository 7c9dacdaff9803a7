//! A channel on a connection: the sink that batches and the stream that hands batches out, over scripted transports, under a clock that is
//! turned by hand, and over sockets.

mod kit;

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use kit::TestRng;
use sealwire::{
    ChannelOpener, ChannelSealer, Cmk, Dek, Keyring, LimitExceeded, Limits, OpenError, Opener, ParseError, Policy, Reuse, Role,
    SealError, Sealer, SealerBuilder, Suite,
    codec::CodecError,
    connection::{OpenedStream, SealedSink, TimedOut, Times},
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};

fn cmk() -> Cmk {
    Cmk::from_x25519(&[1; 32])
}

fn sealer() -> SealerBuilder {
    Sealer::builder().to(cmk().recipient().clone()).segment_log2(12)
}

fn sink<W: AsyncWrite + Unpin>(sealer: SealerBuilder, io: W) -> SealedSink<W> {
    SealedSink::new(ChannelSealer::new(sealer.build().unwrap(), Role::Initiator, b"bound"), io)
}

fn stream<R: AsyncRead + Unpin>(io: R) -> OpenedStream<R> {
    OpenedStream::new(receiver(Opener::new(Keyring::from(cmk()))), io)
}

fn receiver(opener: Opener) -> ChannelOpener {
    ChannelOpener::new(opener, Role::Acceptor, b"bound")
}

/// Everything that a stream gives, and how it ends.
async fn all<R: AsyncRead + Unpin>(mut stream: OpenedStream<R>) -> (Vec<(Bytes, Bytes)>, Option<CodecError>) {
    let mut got = Vec::new();
    while let Some(item) = stream.next().await {
        match item {
            Ok(opened) => got.push((opened.context, opened.payload)),
            Err(error) => {
                assert!(matches!(stream.next().await, Some(Err(CodecError::Failed))));
                assert!(stream.next().await.is_none());
                return (got, Some(error));
            }
        }
    }
    assert!(stream.next().await.is_none());
    (got, None)
}

/// What a peer does with writes and reads: bytes at a time, `Pending` in between, and what was written.
#[derive(Default)]
struct Script {
    /// Bytes that the next calls take or give; 0 is a `Pending` that is woken at once. Afterwards everything at once.
    steps: VecDeque<usize>,
    written: Vec<u8>,
    to_read: VecDeque<u8>,
    shut: bool,
    error: Option<io::ErrorKind>,
}

#[derive(Clone, Default)]
struct Scripted(Arc<Mutex<Script>>);

impl Scripted {
    fn step(&self, cx: &mut Context<'_>) -> Poll<usize> {
        match self.0.lock().unwrap().steps.pop_front() {
            Some(0) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            n => Poll::Ready(n.unwrap_or(usize::MAX)),
        }
    }

    fn written(&self) -> Vec<u8> {
        self.0.lock().unwrap().written.clone()
    }
}

impl AsyncWrite for Scripted {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Poll::Ready(n) = self.step(cx) else { return Poll::Pending };
        let mut script = self.0.lock().unwrap();
        if let Some(kind) = script.error {
            return Poll::Ready(Err(kind.into()));
        }
        assert!(!script.shut, "a write behind the end");
        let n = n.min(bytes.len());
        script.written.extend(&bytes[..n]);
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.step(cx).map(|_| Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let step = self.step(cx);
        if step.is_ready() {
            self.0.lock().unwrap().shut = true;
        }
        step.map(|_| Ok(()))
    }
}

impl AsyncRead for Scripted {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Poll::Ready(n) = self.step(cx) else { return Poll::Pending };
        let mut script = self.0.lock().unwrap();
        if script.to_read.is_empty()
            && let Some(kind) = script.error
        {
            return Poll::Ready(Err(kind.into()));
        }
        let n = n.min(buffer.remaining()).min(script.to_read.len());
        let bytes: Vec<u8> = script.to_read.drain(..n).collect();
        buffer.put_slice(&bytes);
        Poll::Ready(Ok(()))
    }
}

fn steps(rng: &mut TestRng) -> VecDeque<usize> {
    let most = [2, 40, 3000, 70_000][rng.below(4)];
    (0..rng.below(300)).map(|_| if rng.below(3) == 0 { 0 } else { 1 + rng.below(most) }).collect()
}

/// Whatever is fed and flushed, in whatever pieces it is written and read, padded or not, renewed or not: every message arrives once, in
/// order, with its context. Proves BAT-1, BAT-3.
#[tokio::test]
async fn everything_arrives() {
    let mut rng = TestRng::new(60);
    for round in 0..300 {
        let suite = [Suite::X25519ChaCha20Poly1305, Suite::X25519Aes256Gcm][rng.below(2)];
        let reuse = Reuse { messages: [1, 3, u64::MAX][rng.below(3)], ..Reuse::default() };
        let builder = sealer().suite(suite).pad(rng.below(2) == 0).reuse(reuse).segment_log2([12, 16][rng.below(2)]);
        let io = Scripted::default();
        io.0.lock().unwrap().steps = steps(&mut rng);
        let mut sink = sink(builder, io.clone());
        let mut sent = Vec::new();
        let mut context = Bytes::new();
        for i in 0..rng.below(60) {
            let len = [0, 3, 64, 700, 4090, 4096, 9000, 70_000][rng.below(8)];
            let payload = Bytes::from(rng.bytes(len));
            match rng.below(10) {
                0 => {
                    context = Bytes::from(rng.bytes(i % 4));
                    sink.set_context(context.clone()).unwrap();
                }
                1 => sink.renew(),
                2 => sink.flush().await.unwrap(),
                _ => {}
            }
            if rng.below(4) == 0 {
                sink.send(payload.clone()).await.unwrap()
            } else {
                sink.feed(payload.clone()).await.unwrap()
            }
            sent.push((context.clone(), payload));
        }
        sink.close().await.unwrap();
        assert!(matches!(sink.send(Bytes::new()).await, Err(CodecError::Seal(SealError::Closed))));
        let written = io.written();
        assert!(io.0.lock().unwrap().shut);
        let mut reading = || {
            let script = Script { steps: steps(&mut rng), to_read: written.clone().into(), ..Script::default() };
            stream(Scripted(Arc::new(Mutex::new(script))))
        };
        let (got, error) = all(reading()).await;
        assert!(error.is_none(), "{round}: {error:?}");
        assert!(got == sent, "{round}");
        // Payloads alone, and now and then a whole message.
        let (mut payloads, mut got) = (reading().payloads(), Vec::new());
        loop {
            let next = if got.len() % 5 == 3 {
                payloads.get_mut().next().await.map(|opened| opened.unwrap().payload)
            } else {
                payloads.next().await.map(Result::unwrap)
            };
            let Some(payload) = next else { break };
            got.push(payload);
        }
        assert!(got.iter().eq(sent.iter().map(|(_, payload)| payload)), "{round}");
        assert!(payloads.get_ref().is_closed() && payloads.into_inner().next().await.is_none());
    }
}

/// Small messages share a head and a tag until a flush; one alone is an ordinary follow-up; one that fills a batch goes alone.
#[tokio::test]
async fn what_waits_together_is_sealed_together() {
    let io = Scripted::default();
    let mut sink = sink(sealer().segment_log2(16), io.clone());
    let mut lengths = Vec::new();
    let mut flushed = async |sink: &mut SealedSink<Scripted>| {
        let before = io.written().len();
        sink.flush().await.unwrap();
        lengths.push(io.written().len() - before);
    };
    sink.feed(Bytes::from_static(b"first")).await.unwrap();
    flushed(&mut sink).await;
    sink.feed(Bytes::from(vec![7; 64])).await.unwrap();
    flushed(&mut sink).await;
    for _ in 0..3 {
        sink.feed(Bytes::from(vec![7; 64])).await.unwrap();
    }
    flushed(&mut sink).await;
    flushed(&mut sink).await;
    // 240 messages fill a batch to 16,320 of 16,384 bytes, and the next one begins another.
    for _ in 0..241 {
        sink.feed(Bytes::from(vec![7; 64])).await.unwrap();
    }
    flushed(&mut sink).await;
    sink.feed(Bytes::from(vec![7; 64])).await.unwrap();
    sink.feed(Bytes::from(vec![7; 20_000])).await.unwrap();
    flushed(&mut sink).await;
    let follow_up = 24;
    assert_eq!(
        lengths,
        [
            185 + 5,
            follow_up + 64,
            follow_up + 3 * 68,
            0,
            follow_up + 240 * 68 + follow_up + 64,
            follow_up + 64 + follow_up + 20_000
        ]
    );
    let before = io.written().len();
    sink.close().await.unwrap();
    assert_eq!(io.written().len() - before, follow_up, "a notice");
}

/// Bytes of a channel with these payloads, each a message of its own.
fn wire(builder: SealerBuilder, payloads: &[&[u8]]) -> Vec<u8> {
    let mut channel = ChannelSealer::new(builder.build().unwrap(), Role::Initiator, b"bound");
    let mut out = BytesMut::new();
    payloads.iter().for_each(|payload| channel.seal(b"", payload, &mut out).unwrap());
    channel.finish(&mut out).unwrap();
    out.to_vec()
}

fn times(seconds: [u64; 4]) -> Times {
    let [header, part, idle, write] = seconds.map(|seconds| Some(Duration::from_secs(seconds)));
    Times { header, part, idle, write }
}

/// A stream over one end of a pipe, and the other end.
fn piped() -> (OpenedStream<DuplexStream>, DuplexStream) {
    let (near, far) = tokio::io::duplex(1 << 20);
    (stream(far).times(times([10, 20, 60, 5])), near)
}

async fn late(stream: &mut OpenedStream<DuplexStream>) -> (TimedOut, u64) {
    let began = tokio::time::Instant::now();
    match stream.next().await {
        Some(Err(CodecError::TimedOut(late))) => (late, began.elapsed().as_secs()),
        other => panic!("{other:?}"),
    }
}

/// A peer that says nothing, that stops anywhere, or that gives a byte a second is late at its limit, and not before.
#[tokio::test(start_paused = true)]
async fn peers_are_late_at_their_limits() {
    let whole = wire(sealer(), &[b"one", &[7; 9000], b"three"]);
    let (one, head, segments) = (185 + 3, 4, 2 * (4096 + 20));
    // What was written, then silence; what was delivered, and what was late after how long.
    for (written, delivered, expected) in [
        (0, 0, (TimedOut::Header, 10)),
        (100, 0, (TimedOut::Header, 10)),
        (164, 0, (TimedOut::Header, 10)),
        (one - 1, 0, (TimedOut::Part, 20)),
        (one, 1, (TimedOut::Idle, 60)),
        (one + 1, 1, (TimedOut::Part, 20)),
        (one + head + 500, 1, (TimedOut::Part, 20)),
        (one + head + segments, 1, (TimedOut::Part, 20)),
        (whole.len() - 24, 3, (TimedOut::Idle, 60)),
        (whole.len() - 1, 3, (TimedOut::Part, 20)),
    ] {
        let (mut stream, mut peer) = piped();
        peer.write_all(&whole[..written]).await.unwrap();
        for _ in 0..delivered {
            stream.next().await.unwrap().unwrap();
        }
        assert_eq!(late(&mut stream).await, expected, "{written}");
        assert!(matches!(stream.next().await, Some(Err(CodecError::Failed))));
        assert!(stream.next().await.is_none());
    }
    // A byte a second: the block alone takes too long, and so does each segment that is longer than 20 bytes.
    for (at_once, expected) in [(0, (TimedOut::Header, 10)), (one, (TimedOut::Part, 20))] {
        let (mut stream, mut peer) = piped();
        peer.write_all(&whole[..at_once]).await.unwrap();
        if at_once > 0 {
            stream.next().await.unwrap().unwrap();
        }
        let rest = whole[at_once..].to_vec();
        let slow = tokio::spawn(async move {
            for byte in rest {
                if peer.write_all(&[byte]).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        let (late, after) = late(&mut stream).await;
        assert_eq!(late, expected.0);
        assert!((expected.1..=expected.1 + 5).contains(&after), "{after}");
        slow.abort();
    }
    // Nobody is late who keeps to the limits, however long it all takes.
    let (mut stream, mut peer) = piped();
    let pieces: Vec<Vec<u8>> = whole.chunks(700).map(<[u8]>::to_vec).collect();
    let steady = tokio::spawn(async move {
        for piece in pieces {
            tokio::time::sleep(Duration::from_secs(3)).await;
            peer.write_all(&piece).await.unwrap();
        }
    });
    let mut got = 0;
    while let Some(opened) = stream.next().await {
        opened.unwrap();
        got += 1;
    }
    assert_eq!(got, 3);
    steady.await.unwrap();
}

/// Without limits nobody is late; and a runtime without a timer serves.
#[test]
fn without_limits_there_is_no_timer() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let (near, far) = tokio::io::duplex(64);
        let (mut sink, mut stream) = (sink(sealer(), near).times(Times::NONE), stream(far).times(Times::NONE));
        let sending = async {
            sink.send(Bytes::from(vec![7; 50_000])).await.unwrap();
            sink.close().await.unwrap();
        };
        let receiving = async { while stream.next().await.transpose().unwrap().is_some() {} };
        tokio::join!(sending, receiving);
    });
}

/// A peer that does not read: a sink pushes back, holds a bounded amount, and gives up at its limit.
#[tokio::test(start_paused = true)]
async fn a_zero_window_is_waited_for_and_given_up() {
    let (near, _far) = tokio::io::duplex(1000);
    let mut sink = sink(sealer().segment_log2(16), near).times(times([10, 20, 60, 5]));
    let mut taken = 0usize;
    let error = loop {
        tokio::select! {
            biased;
            ready = sink.ready() => match ready {
                Ok(()) => sink.push(Bytes::from(vec![7; 1000])).unwrap(),
                Err(error) => break error,
            },
        }
        taken += 1000;
    };
    assert!(matches!(error, CodecError::TimedOut(TimedOut::Write)), "{error:?}");
    assert!(taken < 64 * 1024 + 2 * 16 * 1024, "{taken} bytes were taken");
    assert!(matches!(sink.send(Bytes::new()).await, Err(CodecError::Failed)));
    assert!(matches!(sink.flush().await, Err(CodecError::Failed)));
    assert!(matches!(sink.close().await, Err(CodecError::Failed)));
}

/// What `select!` drops half-way is not lost, not repeated and not torn: every await point of both ends is given up at random, many times.
#[tokio::test(start_paused = true)]
async fn giving_up_at_any_await_loses_nothing() {
    let mut rng = TestRng::new(61);
    for round in 0..60 {
        let (near, far) = tokio::io::duplex([7, 100, 5000][rng.below(3)]);
        let reuse = Reuse { messages: 5, ..Reuse::default() };
        let mut sink = sink(sealer().reuse(reuse).pad(round % 2 == 0), near);
        let mut stream = stream(far);
        let sent: Vec<Bytes> = (0..40)
            .map(|_| {
                let len = [0, 1, 64, 3000, 20_000][rng.below(5)];
                Bytes::from(rng.bytes(len))
            })
            .collect();
        let (mut given, mut flushing, mut closed) = (0, false, false);
        let mut got = Vec::new();
        let mut over = false;
        while !over {
            // A future that is polled a few times and dropped, as in the branch of a `select!` that does not win.
            let polls = rng.below(4);
            let once = async |_: usize| tokio::task::yield_now().await;
            let give_up = async {
                for i in 0..polls {
                    once(i).await;
                }
            };
            if rng.below(2) == 0 {
                tokio::select! {
                    biased;
                    next = stream.next() => match next {
                        Some(opened) => got.push(opened.unwrap().payload),
                        None => over = true,
                    },
                    () = give_up => {}
                }
            } else if given == sent.len() && !flushing {
                tokio::select! {
                    biased;
                    done = sink.close(), if !closed => {
                        done.unwrap();
                        closed = true;
                    }
                    () = give_up => {}
                }
            } else if flushing {
                tokio::select! {
                    biased;
                    done = sink.flush() => {
                        done.unwrap();
                        flushing = false;
                    }
                    () = give_up => {}
                }
            } else {
                tokio::select! {
                    biased;
                    ready = sink.ready() => {
                        ready.unwrap();
                        sink.push(sent[given].clone()).unwrap();
                        given += 1;
                        flushing = rng.below(3) == 0;
                    }
                    () = give_up => {}
                }
            }
        }
        assert!(got == sent, "{round}");
    }
}

/// An end without a last message is a truncation, wherever it is; so is a reset; and what was whole before is delivered.
#[tokio::test]
async fn half_closes_and_resets() {
    let payloads: [&[u8]; 3] = [b"one", &[7; 9000], b"three"];
    let whole = wire(sealer(), &payloads);
    for cut in (0..whole.len()).step_by(97).chain([whole.len() - 24, whole.len() - 1]) {
        for reset in [None, Some(io::ErrorKind::ConnectionReset)] {
            let to_read = whole[..cut].to_vec().into();
            let script = Script { steps: [1, 0, 50, 3].into(), to_read, error: reset, ..Script::default() };
            let (got, error) = all(stream(Scripted(Arc::new(Mutex::new(script))))).await;
            match (reset, error) {
                (None, Some(CodecError::Open(OpenError::ChannelTruncated { delivered }))) => {
                    assert_eq!(delivered, got.len() as u64)
                }
                (Some(kind), Some(CodecError::Io(error))) => assert_eq!(error.kind(), kind),
                (_, other) => panic!("{cut}: {other:?}"),
            }
            assert!(got.iter().zip(payloads).all(|(got, sent)| got.1 == sent));
        }
    }
    // Nothing follows the last message; and whether the connection is closed then does not matter.
    let (near, far) = tokio::io::duplex(1 << 16);
    let mut stream = stream(far);
    let mut near = near;
    near.write_all(&whole).await.unwrap();
    for _ in 0..3 {
        stream.next().await.unwrap().unwrap();
    }
    assert!(stream.next().await.is_none() && stream.is_closed());
    let script = Script { to_read: [&whole[..], b"more"].concat().into(), ..Script::default() };
    let (got, error) = all(self::stream(Scripted(Arc::new(Mutex::new(script))))).await;
    assert!(matches!(error, Some(CodecError::Open(OpenError::Parse(ParseError::TrailingBytes { .. })))), "{error:?}");
    assert_eq!(got.len(), 3);
}

/// A sink whose connection fails stays failed, and a message that is too large costs nothing.
#[tokio::test]
async fn a_failed_sink_stays_failed() {
    let io = Scripted::default();
    let limits = Limits { message: 10_000, ..Limits::default() };
    let mut sink = sink(sealer().limits(limits), io.clone());
    sink.send(Bytes::from_static(b"one")).await.unwrap();
    let error = sink.send(Bytes::from(vec![7; 10_001])).await.unwrap_err();
    assert!(matches!(error, CodecError::Seal(SealError::LimitExceeded(LimitExceeded { limit: "message", .. }))), "{error:?}");
    sink.send(Bytes::from_static(b"two")).await.unwrap();
    assert!(sink.set_context(Bytes::from(vec![7; 9000])).is_err());
    sink.send(Bytes::from_static(b"three")).await.unwrap();
    io.0.lock().unwrap().error = Some(io::ErrorKind::BrokenPipe);
    let error = sink.send(Bytes::from_static(b"four")).await.unwrap_err();
    assert!(matches!(&error, CodecError::Io(error) if error.kind() == io::ErrorKind::BrokenPipe), "{error:?}");
    assert_eq!(error.reason(), "io");
    io.0.lock().unwrap().error = None;
    assert!(matches!(sink.send(Bytes::from_static(b"five")).await, Err(CodecError::Failed)));
    let script = Script { to_read: io.written().into(), ..Script::default() };
    let (got, error) = all(stream(Scripted(Arc::new(Mutex::new(script))))).await;
    assert_eq!(got.iter().map(|(_, payload)| &payload[..]).collect::<Vec<_>>(), [&b"one"[..], b"two", b"three"]);
    assert!(matches!(error, Some(CodecError::Open(OpenError::ChannelTruncated { delivered: 3 }))));
}

/// A block whose DEK comes from elsewhere stops the stream, and it goes on when the DEK is supplied.
#[tokio::test]
async fn a_dek_may_come_from_elsewhere() {
    let dek = || Dek::import(&[9; 32]);
    let written = wire(sealer().dek(dek()), &[b"one", b"two"]);
    let nobody = || receiver(Opener::new(Keyring::new()));
    let script = || Scripted(Arc::new(Mutex::new(Script { to_read: written.clone().into(), ..Script::default() })));
    let (_, error) = all(OpenedStream::new(nobody(), script())).await;
    assert!(matches!(error, Some(CodecError::Open(OpenError::NoMatchingKey))));
    let mut stream = OpenedStream::new(nobody().waiting_for_deks(), script());
    for _ in 0..2 {
        assert!(matches!(stream.next().await, Some(Err(CodecError::NeedsDek))));
        assert_eq!(stream.needs_dek(), Some(&written[..153]));
    }
    stream.supply(&dek()).unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap().payload, "one");
    assert_eq!(stream.next().await.unwrap().unwrap().payload, "two");
    assert!(stream.next().await.is_none());
    let mut stream = OpenedStream::new(nobody().waiting_for_deks(), script());
    assert!(stream.next().await.unwrap().is_err());
    // One that is not the block's is a trial, and trials have a limit.
    for _ in 0..64 {
        assert!(matches!(stream.supply(&Dek::import(&[8; 32])), Err(CodecError::Open(OpenError::HeaderMac))));
        assert!(matches!(stream.next().await, Some(Err(CodecError::NeedsDek))));
    }
    assert!(matches!(stream.supply(&dek()), Err(CodecError::Open(OpenError::Parse(ParseError::LimitExceeded(_))))));
    assert!(matches!(stream.next().await, Some(Err(CodecError::Failed))));
}

/// What a policy or the other side's flags refuse ends a stream like anything else.
#[tokio::test]
async fn refusals_end_it() {
    let written = wire(sealer(), &[b"one"]);
    let script = || Scripted(Arc::new(Mutex::new(Script { to_read: written.clone().into(), ..Script::default() })));
    let policy = Policy { suites: Some(vec![]), ..Policy::default() };
    let opener = Opener::builder(Keyring::from(cmk())).policy(policy).build();
    let (got, error) = all(OpenedStream::new(receiver(opener), script())).await;
    assert!(got.is_empty() && error.is_some_and(|error| error.reason() == "policy"));
    let mine = ChannelOpener::new(Opener::new(Keyring::from(cmk())), Role::Initiator, b"bound");
    let (_, error) = all(OpenedStream::new(mine, script())).await;
    assert!(error.is_some_and(|error| error.reason() == "malformed"));
}

/// A transport whose flush waits once, and one that takes nothing: the time for writing is that of each wait.
#[tokio::test(start_paused = true)]
async fn a_flush_that_waited_is_over() {
    let io = Scripted::default();
    let mut sink = sink(sealer(), io.clone()).times(times([10, 20, 60, 5]));
    for _ in 0..3 {
        // A write, and a flush that waits.
        io.0.lock().unwrap().steps = [1000, 0, 1, 0].into();
        sink.send(Bytes::from_static(b"one")).await.unwrap();
        tokio::time::sleep(Duration::from_secs(3600)).await;
    }
    io.0.lock().unwrap().steps = [0, 1, 0, 1, 0, 1].into();
    sink.close().await.unwrap();
}

/// Time in which nobody polled is not the peer's, whatever is waited for.
#[tokio::test(start_paused = true)]
async fn who_does_not_look_is_late_himself() {
    let whole = wire(sealer(), &[&[7; 9000], b"two"]);
    for first in [100, 1000] {
        let (mut stream, mut peer) = piped();
        let (before, after) = whole.split_at(first);
        peer.write_all(before).await.unwrap();
        assert!(tokio::time::timeout(Duration::from_secs(1), stream.next()).await.is_err());
        tokio::time::sleep(Duration::from_secs(3600)).await;
        peer.write_all(&after[..50]).await.unwrap();
        assert!(tokio::time::timeout(Duration::from_secs(1), stream.next()).await.is_err(), "it may still come");
        peer.write_all(&after[50..]).await.unwrap();
        assert_eq!(stream.next().await.unwrap().unwrap().payload.len(), 9000);
    }
}

/// A receiver's limit on entries is the sink's too, and a notice says nothing but the end.
#[tokio::test]
async fn limits_are_obeyed_and_notices_small() {
    for most in [0, 1, 2, 3] {
        let limits = Limits { batch_entries: most, ..Limits::default() };
        let io = Scripted::default();
        let mut sink = sink(sealer().limits(limits.clone()), io.clone());
        sink.set_context(Bytes::from_static(&[7; 1000])).unwrap();
        for _ in 0..7 {
            sink.feed(Bytes::from_static(b"small")).await.unwrap();
        }
        sink.flush().await.unwrap();
        let before = io.written().len();
        sink.close().await.unwrap();
        assert_eq!(io.written().len() - before, 24);
        let policy = Policy { limits, ..Policy::default() };
        let opener = Opener::builder(Keyring::from(cmk())).policy(policy).build();
        // How the connection goes down behind the last message does not matter.
        let reset = Some(io::ErrorKind::ConnectionReset);
        let script = Script { to_read: io.written().into(), error: reset, ..Script::default() };
        let (got, error) = all(OpenedStream::new(receiver(opener), Scripted(Arc::new(Mutex::new(script))))).await;
        assert!(got.len() == 7 && error.is_none(), "{most}: {error:?}");
    }
}

/// The first message may be held to less than the others.
#[tokio::test]
async fn a_first_message_may_have_to_be_short() {
    for (first, opens) in [(99, false), (100, true)] {
        let to_read = wire(sealer(), &[&[7; 100], &[7; 5000]]).into();
        let script = Scripted(Arc::new(Mutex::new(Script { to_read, ..Script::default() })));
        let channel = receiver(Opener::new(Keyring::from(cmk()))).first_at_most(first);
        let (got, error) = all(OpenedStream::new(channel, script)).await;
        assert_eq!((got.len(), error.map(|error| error.reason())), if opens { (2, None) } else { (0, Some("limit")) });
    }
}
