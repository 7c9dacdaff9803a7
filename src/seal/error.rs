use crate::{
    crypto::Refused,
    keys::Recipient,
    platform::EntropyError,
    wire::{Kem, LimitExceeded, Suite},
};

/// Why something could not be sealed: the fault of our caller, or of the machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// Nobody to seal to.
    #[error("there is no recipient to seal to")]
    NoRecipient,
    /// The same public key twice.
    #[error("recipient {} is given twice", .0.in_short())]
    RecipientTwice(Recipient),
    /// Classical and post-quantum recipients of one message.
    #[error(
        "classical (X25519) and post-quantum (X-Wing) recipients cannot be mixed in one DEK block, which would be as weak as the classical; seal to each kind by itself"
    )]
    MixedRecipients,
    /// A suite for other recipients.
    #[error("suite {} is for {} recipients, and these are {kem} ones", suite.number(), suite.kem())]
    KemOfSuite {
        /// The suite that was chosen.
        suite: Suite,
        /// What the recipients are.
        kem: Kem,
    },
    /// A suite, or a KEM, that this build does not have.
    #[error("this build cannot seal under suite {0}")]
    UnsupportedSuite(u8),
    /// A DEK that others may hold too, and a sender who would sign it.
    #[error(
        "the DEK was made elsewhere, so whoever else has it could write in the sender's name; sign messages, or state that it is yours alone"
    )]
    SharedDekSigned,
    /// A data key that has been used as often, as much or as long as it may be, and no other from its KMS.
    #[error("the data key is used up; ask the KMS for another and go on with that (renew_with)")]
    DataKeySpent,
    /// Messages that are signed one by one, on a channel.
    #[error("a channel is signed by its DEKs (sign_with), not message by message")]
    ChannelOfSignedMessages,
    /// A message that is signed as a whole, to an output that cannot go back to its front.
    #[error("the proof of a signed message stands at its front and is made last; the output must be one that can seek")]
    SignatureNeedsSeek,
    /// A segment size outside 2^12 to 2^24.
    #[error("the segment size 2^{0} is not from 2^12 to 2^24")]
    SegmentSize(u8),
    /// What a reader would refuse as too large.
    #[error(transparent)]
    LimitExceeded(#[from] LimitExceeded),
    /// All 2^64 sequence numbers are used up.
    #[error("all sequence numbers are used up; begin another channel")]
    SequenceExhausted,
    /// This process is a fork of the one that took up the DEK; its messages would repeat nonces.
    #[error("the process has forked since the sealer was made; make a new sealer in the child")]
    Forked,
    /// A channel that has sent its last message.
    #[error("the channel is closed: its last message is sent")]
    Closed,
    /// A channel that failed before.
    #[error("it failed before and writes nothing more")]
    Failed,
    /// The machine has no randomness.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
    /// A primitive refused its input.
    #[error("a primitive refused its input; nothing was sealed")]
    Primitive,
}

impl From<Refused> for SealError {
    fn from(_: Refused) -> Self {
        Self::Primitive
    }
}
