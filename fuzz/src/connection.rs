//! A sink under any operations, over a transport that takes and gives some bytes at a time, and a stream at its other end: what comes out is
//! what went in; and after one edit it is the beginning of that, and an error.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use sealwire::{
    ChannelOpener, ChannelSealer, Cmk, Keyring, Limits, Opener, Recipient, Reuse, Role, Sealer, Suite,
    codec::CodecError,
    connection::{OpenedStream, SealedSink, Times},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::edit;

/// Bytes that go through in pieces, with a `Pending` before each.
#[derive(Clone)]
struct Pipe {
    bytes: Rc<RefCell<Vec<u8>>>,
    at: usize,
    piece: usize,
    pends: bool,
}

impl Pipe {
    fn new(bytes: Vec<u8>, piece: usize) -> Self {
        Self { bytes: Rc::new(RefCell::new(bytes)), at: 0, piece, pends: false }
    }

    fn pends(&mut self) -> bool {
        self.pends = !self.pends;
        self.pends
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.pends() {
            return Poll::Pending;
        }
        let n = self.piece.min(bytes.len());
        self.bytes.borrow_mut().extend(&bytes[..n]);
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Pipe {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.pends() {
            return Poll::Pending;
        }
        let bytes = self.bytes.clone();
        let bytes = bytes.borrow();
        let n = self.piece.min(out.remaining()).min(bytes.len() - self.at);
        out.put_slice(&bytes[self.at..self.at + n]);
        self.at += n;
        Poll::Ready(Ok(()))
    }
}

/// Polls until there is an answer, and gives up in between as a `select!` does: nothing but the one who is asked keeps a place.
fn until<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
    loop {
        if let Poll::Ready(answer) = poll(&mut Context::from_waker(Waker::noop())) {
            return answer;
        }
    }
}

type Messages = Vec<(Bytes, Bytes)>;

fn recipient() -> Recipient {
    Cmk::from_x25519(&[1; 32]).recipient().clone()
}

fn stream(bytes: Vec<u8>, piece: usize) -> OpenedStream<Pipe> {
    let opener = Opener::new(Keyring::from(Cmk::from_x25519(&[1; 32])));
    let channel = ChannelOpener::new(opener, Role::Acceptor, b"");
    OpenedStream::new(channel, Pipe::new(bytes, piece)).times(Times::NONE)
}

/// What a stream gives, and the reason that it ends with. Of payloads alone it is the same.
fn receive(bytes: Vec<u8>, piece: usize) -> (Messages, Option<&'static str>) {
    let (given, reason) = receive_whole(bytes.clone(), piece);
    let (mut payloads, mut count) = (stream(bytes, piece).payloads(), 0);
    let ended = loop {
        match until(|cx| payloads.poll_next_unpin(cx)) {
            Some(Ok(payload)) => assert_eq!(Some(payload), given.get(count).map(|(_, payload)| payload.clone())),
            None => break None,
            Some(Err(error)) => break Some(error.reason()),
        }
        count += 1;
    };
    assert_eq!((count, ended), (given.len(), reason));
    (given, reason)
}

fn receive_whole(bytes: Vec<u8>, piece: usize) -> (Messages, Option<&'static str>) {
    let mut stream = stream(bytes, piece);
    let mut given = Vec::new();
    loop {
        match until(|cx| stream.poll_next_unpin(cx)) {
            Some(Ok(opened)) => given.push((opened.context, opened.payload)),
            None => return (given, None),
            Some(Err(error)) => {
                assert!(matches!(until(|cx| stream.poll_next_unpin(cx)), Some(Err(CodecError::Failed))));
                assert!(until(|cx| stream.poll_next_unpin(cx)).is_none());
                return (given, Some(error.reason()));
            }
        }
    }
}

pub fn connection(data: &[u8]) {
    let Some(([settings, reuse, write, read, change], rest)) = data.split_first_chunk::<5>() else { return };
    let (edits, operations) = rest.split_at((usize::from(*change) % 16).min(rest.len()));
    let suites = [Suite::X25519ChaCha20Poly1305, Suite::X25519Aes256Gcm];
    let limits = Limits { batch_entries: [1, 2, 5, 65_536][usize::from(settings >> 3) % 4], ..Limits::default() };
    let reuse = Reuse { messages: [1, 2, 7, 1 << 20][usize::from(*reuse) % 4], ..Reuse::default() };
    let builder = Sealer::builder().to(recipient()).suite(suites[usize::from(settings & 1)]).pad(settings & 2 != 0);
    let builder = builder.segment_log2(if settings & 4 == 0 { 12 } else { 16 }).limits(limits).reuse(reuse);
    let channel = ChannelSealer::new(builder.build().unwrap(), Role::Initiator, b"");
    let pipe = Pipe::new(Vec::new(), usize::from(*write) * 64 + 1);
    let bytes = pipe.bytes.clone();
    let mut sink = SealedSink::new(channel, pipe).times(Times::NONE);
    let (mut sent, mut context, mut total) = (Messages::new(), Bytes::new(), 0);
    for pair in operations.chunks_exact(2).take(60) {
        let (what, much) = (pair[0], usize::from(pair[1]));
        match what % 16 {
            0 => until(|cx| sink.poll_flush_unpin(cx)).unwrap(),
            1 => sink.renew(),
            2 => {
                context = Bytes::from(vec![what; much]);
                sink.set_context(context.clone()).unwrap();
            }
            // Half a flush: it is given up where the transport first waits.
            3 => drop(sink.poll_flush_unpin(&mut Context::from_waker(Waker::noop()))),
            large => {
                let payload = Bytes::from(vec![what; if large == 4 { much * 80 } else { much }]);
                total += payload.len();
                until(|cx| sink.poll_ready_unpin(cx)).unwrap();
                sink.start_send_unpin(payload.clone()).unwrap();
                sent.push((context.clone(), payload));
            }
        }
        if total > 1 << 18 {
            break;
        }
    }
    until(|cx| sink.poll_close_unpin(cx)).unwrap();
    let bytes = bytes.take();
    let piece = usize::from(*read) * 64 + 1;
    let (given, reason) = receive(bytes.clone(), piece);
    assert!(reason.is_none() && given == sent, "{reason:?}");
    let changed = edit(&bytes, edits);
    if changed != bytes {
        let (given, reason) = receive(changed, piece);
        // What is behind the last message need not be read.
        assert!(reason.is_some() || given == sent, "a change was not noticed");
        assert!(sent.starts_with(&given), "what was not sent was given");
    }
}
