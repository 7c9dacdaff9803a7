//! One direction of a connection (spec 9): messages in order, complete, and ended by a last one. Sans-I/O; the
//! codecs are shells over the two ends here.

mod opener;
mod sealer;

pub use opener::ChannelOpener;
pub use sealer::ChannelSealer;
#[cfg(feature = "codec")]
pub(crate) use sealer::Sending;

/// Which end of a connection a program is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// It opened the connection.
    Initiator,
    /// It accepted the connection.
    Acceptor,
}

/// The binding of what the acceptor sends where both directions are channels (spec 9.4): the header_mac of the first
/// block that the initiator sent, and what the application binds.
#[must_use]
pub fn reply_binding(first_header_mac: &[u8; 32], application: &[u8]) -> Vec<u8> {
    // [CHN-11]
    [&first_header_mac[..], application].concat()
}
