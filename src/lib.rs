//! sealwire: an encrypted message envelope, as a format (`spec/`), a library and a program.
//!
//! A random data key (DEK) encrypts the payload; the DEK is wrapped to the receiver's customer master key (CMK);
//! ciphertext DEK and ciphertext payload travel as one message.
//!
//! ```
//! use sealwire::{Cmk, Keyring, open, seal};
//! let cmk = Cmk::generate()?;
//! let envelope = seal(b"attack at dawn", &[cmk.recipient().clone()])?;
//! let opened = open(&envelope, &Keyring::from(cmk))?;
//! assert_eq!(&opened.payload[..], b"attack at dawn");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The rooms, each turning one thing into another:
//!
//! ```text
//! wire      bytes <-> structs            no keys, no I/O, no randomness
//! crypto    keys + bytes <-> bytes       no parsing, no I/O; crate-private
//! keys      who can read                 CMKs, recipients, DEKs, keyrings; their text forms; no files
//! payload   payload <-> segments         no heads, no blocks; crate-private
//! seal      payload -> envelope          holds the DEK it reuses; no I/O
//! open      envelope -> payload          untrusted until header_mac holds; no I/O
//! rewrap    DEK block -> DEK block    other recipients, without the data; no I/O
//! channel   messages <-> one direction of a connection, in order and complete; no I/O
//! stream    payloads larger than memory  std's Read, Write, Seek, and tokio's; some segments are held
//! armor     envelope <-> text            no keys; the base64 is a library's
//! codec     the same for tokio-util      shells; no rule of the format lives here
//! connection  a channel on a socket    batches, time limits; shells, as codec
//! transfer  what `send` and `listen` say payloads of channel messages; no I/O, no keys
//! kms       CMKs that never leave        a key service: life cycle, policy, store, server, client, tokens
//! cli       the program                  files, sockets, terminals; asks the library for all else
//! telemetry what happens on connections  for `metrics` and `tracing`; nothing secret; crate-private
//! platform  randomness, time, process    the only room that asks the system for them; crate-private
//! ```
#![forbid(unsafe_code)]
#![warn(missing_docs)]

#[cfg(all(feature = "testing", not(debug_assertions)))]
compile_error!("feature `testing` injects randomness and clocks: it is for tests, and release builds refuse it");

pub mod armor;
pub mod channel;
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "codec")]
pub mod codec;
#[cfg(feature = "codec")]
pub mod connection;
mod crypto;
pub mod keys;
#[cfg(feature = "kms")]
pub mod kms;
/// Of the key service, tokens alone: for the rest of it there is the feature `kms`.
#[cfg(all(feature = "pkcs11", not(feature = "kms")))]
pub mod kms {
    pub mod pkcs11;
}
pub mod open;
mod payload;
mod platform;
mod rewrap;
pub mod seal;
pub mod stream;
#[cfg(feature = "codec")]
mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;
#[cfg(feature = "cli")]
pub mod transfer;
pub mod wire;

// Sealing: to whom, and with what.
pub use keys::{Cmk, DataKey, Dek, Fingerprint, KeyError, Recipient, SenderKey};
pub use platform::EntropyError;
pub use seal::{Reuse, SealError, Sealed, Sealer, SealerBuilder, SealerPool, block_name, seal};
// Opening: with which keys, under which policy.
pub use keys::{DecapsulateError, Decapsulator, Keyring, NotContributory, SharedSecret};
pub use open::{
    Begun, Budget, BudgetExceeded, Budgets, CachePolicy, NeedsDek, OpenError, Opened, Opener, OpenerBuilder, Ready, open,
    untrusted,
};
// Who has written, and what is opened at all.
pub use keys::VerifyingKey;
pub use open::{ExpectedContext, KmsKey, Policy, PolicyError, ReplayWindow, Sender, Senders, Standing};
pub use rewrap::{Rewrap, RewrapError, rewrap};
// Connections.
pub use channel::{ChannelOpener, ChannelSealer, Role, reply_binding};
// The format's own words.
pub use wire::{HintMode, Kem, LimitExceeded, Limits, ParseError, Suite};

/// The README's Rust, compiled and run.
#[cfg(all(doctest, feature = "codec"))]
#[doc = include_str!("../README.md")]
struct Readme;
