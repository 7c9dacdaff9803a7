//! A channel on a connection (spec 9): [`SealedSink`] over what can be written to, [`OpenedStream`] over what can be read from.
//!
//! ```text
//! SealedSink      Bytes -> a channel's bytes   small messages join in a batch until a flush, and are sealed once
//! OpenedStream    a channel's bytes -> Opened  a batch is opened where it was read, and handed out in slices
//! Times           how long a peer may take     for its first message, for each part, to say something, to read what is sent
//! ```
//!
//! No rule of the format lives here: both are shells over [`channel`](crate::channel). Dropping what `next`, `send` or `flush` return
//! before it is done (as `select!` does) loses, repeats and tears nothing that was accepted; what comes next goes on from there.
//!
//! ```
//! use bytes::Bytes;
//! use futures_util::{SinkExt, StreamExt};
//! use sealwire::{ChannelOpener, ChannelSealer, Cmk, Keyring, Opener, Role, Sealer};
//! use sealwire::connection::{OpenedStream, SealedSink};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let cmk = Cmk::generate()?;
//! let sealer = Sealer::builder().to(cmk.recipient().clone()).build()?;
//! let (near, far) = tokio::io::duplex(1024);
//! let mut sink = SealedSink::new(ChannelSealer::new(sealer, Role::Initiator, b""), near);
//! let sending = async {
//!     for message in ["one", "two", "three"] {
//!         sink.feed(Bytes::from(message)).await?;
//!     }
//!     sink.close().await
//! };
//! let mut stream = OpenedStream::new(ChannelOpener::new(Opener::new(Keyring::from(cmk)), Role::Acceptor, b""), far);
//! let (sent, received) = tokio::join!(sending, async {
//!     let mut received = Vec::new();
//!     while let Some(opened) = stream.next().await {
//!         received.push(opened?.payload);
//!     }
//!     Ok::<_, sealwire::codec::CodecError>(received)
//! });
//! sent?;
//! assert_eq!(received?, ["one", "two", "three"]);
//! # Ok(()) }
//! ```
#![deny(clippy::unwrap_used, clippy::cast_possible_truncation)]

mod outbox;
mod sink;
mod stream;
mod times;

pub use sink::SealedSink;
pub use stream::{OpenedStream, Payloads};
pub use times::{TimedOut, Times};

/// Bytes read at once, and bytes that wait before a sink pushes back.
const WINDOW: usize = 64 * 1024;
/// The same where little is said at once. The first is what allocators give away cheapest.
const SMALL_WINDOWS: [usize; 2] = [1024, 4 * 1024];
/// The same while a message of several segments is under way.
const LONG_WINDOW: usize = 256 * 1024;
/// Bytes of plaintext that a batch gathers at the most.
const BATCH: usize = 16 * 1024;
