//! What one end of a connection is asked to do, whatever the connection is made of.

use std::{fmt::Debug, future::Future, pin::Pin, time::Instant};

use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt, Sink, SinkExt, Stream, TryStreamExt};
use sealwire::Opened;

/// A sink and a stream over one socket.
pub trait Link {
    type Message: Payload;
    type Error: Debug;
    type Sink: Sink<Bytes, Error = Self::Error> + Unpin;
    type Stream: Stream<Item = Result<Self::Message, Self::Error>> + Unpin;
    fn sink(&mut self) -> &mut Self::Sink;
    fn stream(&mut self) -> &mut Self::Stream;
}

/// What a stream gives.
pub trait Payload {
    fn payload(&self) -> &[u8];
}

impl Payload for BytesMut {
    fn payload(&self) -> &[u8] {
        self
    }
}

impl Payload for Bytes {
    fn payload(&self) -> &[u8] {
        self
    }
}

impl Payload for Opened {
    fn payload(&self) -> &[u8] {
        &self.payload
    }
}

/// One object that is both.
pub struct Whole<F>(pub F);

impl<F, M: Payload, E: Debug> Link for Whole<F>
where
    F: Sink<Bytes, Error = E> + Stream<Item = Result<M, E>> + Unpin,
{
    type Message = M;
    type Error = E;
    type Sink = F;
    type Stream = F;

    fn sink(&mut self) -> &mut F {
        &mut self.0
    }

    fn stream(&mut self) -> &mut F {
        &mut self.0
    }
}

/// An object for each direction.
pub struct Halves<W, R>(pub W, pub R);

impl<W, R, M: Payload, E: Debug> Link for Halves<W, R>
where
    W: Sink<Bytes, Error = E> + Unpin,
    R: Stream<Item = Result<M, E>> + Unpin,
{
    type Message = M;
    type Error = E;
    type Sink = W;
    type Stream = R;

    fn sink(&mut self) -> &mut W {
        &mut self.0
    }

    fn stream(&mut self) -> &mut R {
        &mut self.1
    }
}

/// The messages of a job: the first and the last differ from those between, so that it shows what arrived.
#[derive(Clone)]
pub struct Messages {
    first: Bytes,
    middle: Bytes,
    last: Bytes,
    count: usize,
}

impl Messages {
    pub fn new(size: usize, count: usize) -> Self {
        let filled = |with: usize| (0..size).map(|i| (i * 31 + i / 251 + with) as u8).collect();
        Self { first: filled(1), middle: filled(2), last: filled(3), count }
    }

    pub fn counted(&self, count: usize) -> Self {
        Self { count, ..self.clone() }
    }

    fn get(&self, at: usize) -> Bytes {
        match at {
            _ if at + 1 == self.count => self.last.clone(),
            0 => self.first.clone(),
            _ => self.middle.clone(),
        }
    }

    /// Whether `message` may stand there: all bytes of the first and the last, the length of those between.
    fn fits(&self, at: usize, message: &[u8]) -> bool {
        let ends = at == 0 || at + 1 == self.count;
        message.len() == self.middle.len() && (!ends || message == self.get(at))
    }
}

/// What to do with them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Sends all, and flushes at the end.
    Feed,
    /// Sends and flushes each.
    Send,
    /// Receives all.
    Receive,
    /// Sends each and waits for the same back.
    Ask,
    /// Receives each and sends it back.
    Answer,
    /// Looks once for a message, as who has an open connection does, and finds none.
    Idle,
}

#[derive(Clone)]
pub struct Job {
    pub verb: Verb,
    pub messages: Messages,
}

/// When it was done, and how long each answer took.
pub struct Done {
    pub began: Instant,
    pub ended: Instant,
    pub trips: Vec<f64>,
}

impl Done {
    pub fn nothing() -> Self {
        Self { began: Instant::now(), ended: Instant::now(), trips: Vec::new() }
    }
}

/// A [`Link`] of any type.
pub trait End {
    fn run<'a>(&'a mut self, job: &'a Job) -> Pin<Box<dyn Future<Output = Done> + 'a>>;
}

impl<L: Link> End for L {
    fn run<'a>(&'a mut self, Job { verb, messages }: &'a Job) -> Pin<Box<dyn Future<Output = Done> + 'a>> {
        Box::pin(async move {
            let mut trips = Vec::new();
            let began = Instant::now();
            for at in 0..messages.count {
                match verb {
                    Verb::Feed => self.sink().feed(messages.get(at)).await.unwrap(),
                    Verb::Send => self.sink().send(messages.get(at)).await.unwrap(),
                    Verb::Receive => receive(self, messages, at).await,
                    Verb::Ask => {
                        let asked = Instant::now();
                        self.sink().send(messages.get(at)).await.unwrap();
                        receive(self, messages, at).await;
                        trips.push(asked.elapsed().as_secs_f64());
                    }
                    Verb::Answer => {
                        receive(self, messages, at).await;
                        self.sink().send(messages.get(at)).await.unwrap();
                    }
                    Verb::Idle => assert!(self.stream().try_next().now_or_never().is_none()),
                }
            }
            if *verb == Verb::Feed {
                self.sink().flush().await.unwrap();
            }
            Done { began, ended: Instant::now(), trips }
        })
    }
}

async fn receive<L: Link>(link: &mut L, messages: &Messages, at: usize) {
    let message = link.stream().try_next().await.unwrap().expect("the connection ended");
    assert!(messages.fits(at, message.payload()), "message {at} is not what was sent");
}
