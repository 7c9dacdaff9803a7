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
    wire::Splitter,
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
                1 => sink.channel_mut().renew(),
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
        let script = Script { steps: steps(&mut rng), to_read: written.into(), ..Script::default() };
        let (got, error) = all(stream(Scripted(Arc::new(Mutex::new(script))))).await;
        assert!(error.is_none(), "{round}: {error:?}");
        assert!(got == sent, "{round}");
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
