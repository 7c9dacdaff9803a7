use std::sync::Arc;

use super::{BudgetExceeded, Sender};
use crate::{keys::DecapsulateError, wire::ParseError};

/// Why something could not be opened. Whatever depends on a key is one thing to a peer
/// ([`to_peer`](Self::to_peer)), and told apart only here.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The bytes alone are wrong.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// The policy refuses it.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// None of the keys is a recipient's.
    #[error("no matching key: it was not sealed to any of the keys at hand")]
    NoMatchingKey,
    /// A key that is held elsewhere could not be asked.
    #[error("a key that may open it could not be asked")]
    KeyUnavailable(#[source] Arc<DecapsulateError>),
    /// A DEK was found, and the block is not its maker's.
    #[error("header_mac does not hold: the DEK block was changed")]
    HeaderMac,
    /// A sender proof does not hold.
    #[error("the sender proof does not hold: the message is not from whom it says")]
    Proof,
    /// A renewal of a channel by another sender than the epoch before.
    #[error("the sender of the channel changed in the middle of it")]
    SenderChanged,
    /// The message was opened and committed before (spec 10.4). It is authentic: acknowledge it and drop it.
    #[error("a duplicate: this message was opened before")]
    Duplicate,
    /// The message was opened before and is neither committed nor dropped yet. It is authentic: leave it where it is, and
    /// see what becomes of the other copy.
    #[error("another copy of this message is being handled")]
    InHand,
    /// A tag does not hold: bytes, order, context or binding are not what was sealed.
    #[error("segment {index} is not authentic: the message was changed, moved, or bound to something else")]
    Segment {
        /// Which segment of the message, from 0.
        index: u64,
    },
    /// Authentic, and still not what the format allows: its sender made it wrong.
    #[error("authentic, but wrongly made by its sender: {0}")]
    Content(#[source] ParseError),
    /// A connection that ended before the channel's last message.
    #[error("truncated: the connection ended before the channel's last message; {delivered} messages arrived whole")]
    ChannelTruncated {
        /// Messages delivered before.
        delivered: u64,
    },
    /// A DEK that was to be kept, and cannot be.
    #[error("the DEK is not kept: the cache holds none, or none of such a block")]
    NotKept,
    /// The peer has cost more than a connection may.
    #[error(transparent)]
    Budget(#[from] BudgetExceeded),
    /// This reader failed before and gives nothing more.
    #[error("it failed before and gives nothing more")]
    Failed,
}

impl OpenError {
    /// All that a peer is told: what anyone could compute without a key, or one word. [ERR-1]
    #[must_use]
    pub fn to_peer(&self) -> String {
        match self {
            Self::Parse(error) => error.to_string(),
            Self::ChannelTruncated { .. } => "truncated".into(),
            _ => "refused".into(),
        }
    }

    /// The same in a word, for logs and counters (docs/events.md). It is not for a peer.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Parse(error) => error.reason(),
            Self::Policy(_) => "policy",
            Self::NoMatchingKey => "no_matching_key",
            Self::KeyUnavailable(_) => "key_unavailable",
            Self::HeaderMac => "header_mac",
            Self::Proof => "proof",
            Self::SenderChanged => "sender_changed",
            Self::Duplicate => "duplicate",
            Self::InHand => "in_hand",
            Self::Segment { .. } => "segment",
            Self::Content(_) => "content",
            Self::ChannelTruncated { .. } => "truncated",
            Self::NotKept => "not_kept",
            Self::Budget(_) => "budget",
            Self::Failed => "failed",
        }
    }

    /// Whether a DEK from elsewhere might still open it.
    pub(crate) fn a_dek_would_help(&self) -> bool {
        let trials = matches!(self, Self::Parse(ParseError::LimitExceeded(over)) if over.limit == "trials");
        trials || matches!(self, Self::NoMatchingKey | Self::KeyUnavailable(_) | Self::HeaderMac)
    }
}

/// A message that is in order and not wanted here (spec 10.3).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// The DEK is older than the policy allows.
    #[error("the DEK block is {age} s old, and {maximum} s are allowed")]
    TooOld {
        /// Seconds since created_at.
        age: u64,
        /// Seconds allowed.
        maximum: u64,
    },
    /// The DEK is from the future, beyond the tolerance for clocks.
    #[error("the DEK block is dated {ahead} s in the future, and {tolerance} s are allowed")]
    FromTheFuture {
        /// Seconds until created_at.
        ahead: u64,
        /// Seconds allowed.
        tolerance: u64,
    },
    /// The suite is not among those allowed.
    #[error("suite {0} is not allowed here")]
    Suite(u8),
    /// The context is not the expected one.
    #[error("the context is not the expected one")]
    Context,
    /// The sender is not in the list, or not with this standing. What it says of the sender is claimed, not verified.
    #[error("{}", sender_refused(.0))]
    Sender(Sender),
    /// A classical suite, where post-quantum ones are required.
    #[error("suite {0} is not post-quantum, and that is required here")]
    NotPostQuantum(u8),
    /// An external whose provider nobody vouches for, where post-quantum suites are required.
    #[error("the DEK is also wrapped by {0}, which is not known to be post-quantum")]
    ProviderNotPostQuantum(String),
    /// The window against replays is full: a larger one, or a shorter maximum age, is needed.
    #[error("the window against replays is full with {capacity} messages; nothing new is opened until old ones expire")]
    WindowFull {
        /// Names it holds.
        capacity: usize,
    },
    /// The window may have forgotten messages as old as this one: its age ran out while it was handled, or the clock has gone back.
    #[error("the message is as old as some that the window against replays has forgotten")]
    OlderThanTheWindow,
    /// A window against replays without a maximum age would have to grow for ever.
    #[error("a window against replays needs a maximum age in the policy")]
    WindowWithoutAge,
}

fn sender_refused(sender: &Sender) -> String {
    match sender.key() {
        None => "it has no sender proof, and only listed senders are opened".into(),
        Some(key) => format!("it says it is from {key}, standing {}, and that is not allowed here", sender.standing()),
    }
}
