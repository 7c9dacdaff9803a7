#![forbid(unsafe_code)]
pub mod channel;
mod crypto;
pub mod keys;
pub mod open;
mod payload;
mod platform;
pub mod seal;
pub mod wire;
pub use channel::*;
pub use keys::*;
pub use open::*;
pub use seal::*;
#[cfg(feature = "codec")]
pub mod codec;

#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "cli")]
pub mod transfer;
