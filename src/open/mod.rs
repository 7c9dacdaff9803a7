//! Envelope -> payload (spec 2, 5, 6). Sans-I/O, through `&self` from many threads.
//!
//! What is parsed is untrusted ([`untrusted`]) until header_mac holds; only then does an `Unlocked` exist, and
//! nothing else can open segments.
#![deny(clippy::cast_possible_truncation)]

mod cache;
mod error;
mod policy;
mod search;
pub mod untrusted;

use std::{borrow::Cow, fmt, sync::Arc};

use bytes::{Bytes, BytesMut};

use crate::{
    crypto::{is_built, schedule::Schedule},
    keys::{Dek, Fingerprint, Keyring},
    payload::{Segments, ZeroizeAll, unpadded_len},
    platform::Clock,
    wire::{DekBlock, ParseError},
};
use cache::Cache;
pub use error::{OpenError, PolicyError};
pub use policy::{CachePolicy, Policy};
use search::{Search, verify};
use untrusted::Message;

/// Opens one envelope with the keys of `with`, under the default [`Policy`].
///
/// # Errors
/// [`OpenError`]; nothing of the payload is released.
pub fn open(envelope: &[u8], with: &Keyring) -> Result<Opened, OpenError> {
    Opener::new(with.clone()).open(envelope)
}

/// Who has sent a message, as far as it can be known.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Sender {
    /// The message says nothing of its sender: anyone who has the recipient could have written it.
    Anonymous,
}

/// What was in an envelope, all of it authenticated.
#[derive(Clone, PartialEq, Eq)]
pub struct Opened {
    /// The payload.
    pub payload: Bytes,
    /// The public bytes that came with it.
    pub context: Bytes,
    /// Who has sent it.
    pub sender: Sender,
    /// The message's number under its DEK; on a channel, in the channel.
    pub seq: u64,
    /// When the DEK was made, in seconds since the Unix epoch, by the sender's clock.
    pub created_at: u64,
    /// The key that opened it; `None` where the DEK came from elsewhere.
    pub key: Option<Fingerprint>,
}

/// Shows everything but the payload and the context, of which the lengths.
impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened")
            .field("payload_len", &self.payload.len())
            .field("context_len", &self.context.len())
            .field("sender", &self.sender)
            .field("seq", &self.seq)
            .field("created_at", &self.created_at)
            .field("key", &self.key)
            .finish()
    }
}

/// A block whose header_mac holds: the keys of its DEK.
pub(crate) struct Unlocked {
    pub(crate) schedule: Schedule,
    pub(crate) created_at: u64,
    pub(crate) salt: [u8; 16],
    pub(crate) header_mac: [u8; 32],
    pub(crate) key: Option<Fingerprint>,
}

/// Settings of an [`Opener`].
#[must_use]
pub struct OpenerBuilder {
    keyring: Keyring,
    policy: Policy,
    cache: CachePolicy,
    clock: Clock,
}

impl OpenerBuilder {
    /// What is opened at all.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// How many opened DEKs are kept, and how long.
    pub fn cache(mut self, cache: CachePolicy) -> Self {
        self.cache = cache;
        self
    }

    #[cfg(feature = "testing")]
    pub(crate) fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// The opener.
    #[must_use]
    pub fn build(self) -> Opener {
        Opener(Arc::new(Inner { keyring: self.keyring, policy: self.policy, cache: Cache::new(self.cache), clock: self.clock }))
    }
}

/// Opens envelopes with a keyring, under a policy; keeps opened DEKs for a while.
///
/// Clones share keyring, policy and cache.
///
/// ```
/// use sealwire::{Cmk, Keyring, Opener, seal};
/// let cmk = Cmk::generate()?;
/// let envelope = seal(b"hello", &[cmk.recipient().clone()])?;
/// let opener = Opener::builder(Keyring::from(cmk)).build();
/// assert_eq!(&opener.open(&envelope)?.payload[..], b"hello");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Opener(Arc<Inner>);

struct Inner {
    keyring: Keyring,
    policy: Policy,
    cache: Cache,
    clock: Clock,
}

/// What became of a block so far.
#[must_use]
pub enum Begun<'a> {
    /// The DEK is known and header_mac holds: open it.
    Ready(Ready<'a>),
    /// No key of the keyring opens it. A DEK from elsewhere may be supplied.
    NeedsDek(NeedsDek<'a>),
}

/// An envelope whose DEK is known.
pub struct Ready<'a> {
    opener: Opener,
    message: Message<'a>,
    unlocked: Arc<Unlocked>,
}

/// An envelope that waits for its DEK: from a key service, a cloud's KMS, an HSM. Hold on to it as long as that takes.
pub struct NeedsDek<'a> {
    opener: Opener,
    message: Message<'a>,
    reason: OpenError,
}

impl Opener {
    /// An opener with the default policy and cache.
    #[must_use]
    pub fn new(keyring: Keyring) -> Self {
        Self::builder(keyring).build()
    }

    /// Begins with the default settings.
    pub fn builder(keyring: Keyring) -> OpenerBuilder {
        OpenerBuilder { keyring, policy: Policy::default(), cache: CachePolicy::default(), clock: Clock::default() }
    }

    /// The policy.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.0.policy
    }

    /// Opens an envelope.
    ///
    /// # Errors
    /// [`OpenError`]; nothing of the payload is released.
    pub fn open(&self, envelope: &[u8]) -> Result<Opened, OpenError> {
        match self.begin(envelope)? {
            Begun::Ready(ready) => ready.open(),
            Begun::NeedsDek(waiting) => Err(waiting.reason),
        }
    }

    /// Opens an envelope where it is: the payload of one segment is a slice of `envelope`, longer ones are moved
    /// together there.
    ///
    /// # Errors
    /// [`OpenError`]; whatever had become plaintext is wiped before the buffer is let go.
    pub fn open_in_place(&self, mut envelope: BytesMut) -> Result<Opened, OpenError> {
        let message = self.parse(&envelope)?;
        let unlocked = self.unlock(message.raw_block, &message.block)?;
        let Message { plan, body_at, head_at, plaintext, .. } = message;
        let (seq, padded, context_len) = (message.head.seq, message.head.flags.padded, message.head.context.len());
        let (front, body) = envelope.split_at_mut(body_at);
        let aad = self.aad(&front[head_at..]);
        let segments = Segments { schedule: &unlocked.schedule, seq, aad: &aad };
        segments.open_in_place(plan, body).map_err(|index| OpenError::Segment { index })?;
        drop(aad);
        let mut payload = envelope.split_off(body_at + 4);
        payload.truncate(plaintext);
        envelope.truncate(body_at);
        let context = if context_len == 0 { Bytes::new() } else { envelope.split_off(body_at - context_len).freeze() };
        self.finish(payload, padded, context, seq, &unlocked)
    }

    /// The AAD of segment 0: the head as it was received, and the binding.
    fn aad<'h>(&self, head: &'h [u8]) -> Cow<'h, [u8]> {
        match &self.0.policy.binding[..] {
            [] => Cow::Borrowed(head),
            binding => Cow::Owned([head, binding].concat()),
        }
    }

    fn parse<'a>(&self, envelope: &'a [u8]) -> Result<Message<'a>, OpenError> {
        let message = Message::parse(envelope, &self.0.policy.limits)?;
        self.0.policy.check_context(message.head.context)?;
        Ok(message)
    }

    /// Parses an envelope and looks for its DEK in cache and keyring.
    ///
    /// ```
    /// use sealwire::{Begun, Dek, Keyring, Opener, Sealer};
    /// # let cmk = sealwire::Cmk::generate()?;
    /// let mut sealer = Sealer::builder().to(cmk.recipient().clone()).dek(Dek::import(&[7; 32])).build()?;
    /// let envelope = sealer.seal(b"", b"payload")?;
    /// let opener = Opener::new(Keyring::new());
    /// let Begun::NeedsDek(waiting) = opener.begin(&envelope)? else { panic!("the keyring is empty") };
    /// assert_eq!(waiting.block().slots.len(), 1);
    /// // … ask whoever can unwrap it, as long as that takes …
    /// let opened = waiting.supply(Dek::import(&[7; 32]))?.open()?;
    /// assert_eq!(&opened.payload[..], b"payload");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`OpenError`] for bytes and policies that no DEK would mend.
    pub fn begin<'a>(&self, envelope: &'a [u8]) -> Result<Begun<'a>, OpenError> {
        let message = self.parse(envelope)?;
        let opener = self.clone();
        match self.unlock(message.raw_block, &message.block) {
            Ok(unlocked) => Ok(Begun::Ready(Ready { opener, message, unlocked })),
            Err(reason) if reason.a_dek_would_help() => Ok(Begun::NeedsDek(NeedsDek { opener, message, reason })),
            Err(error) => Err(error),
        }
    }

    /// Policy, cache, keyring; in that order, the policy on cache hits too.
    pub(crate) fn unlock(&self, raw: &[u8], block: &DekBlock<'_>) -> Result<Arc<Unlocked>, OpenError> {
        self.check_block(block)?;
        if let Some(unlocked) = self.cached(raw) {
            return Ok(unlocked);
        }
        let unlocked = Arc::new(self.search(raw, block)?);
        self.0.cache.insert(raw, unlocked.clone(), self.0.clock.now());
        Ok(unlocked)
    }

    /// Takes a DEK from elsewhere; header_mac decides whether it is the block's.
    pub(crate) fn unlock_with(&self, raw: &[u8], block: &DekBlock<'_>, dek: &Dek) -> Result<Arc<Unlocked>, OpenError> {
        self.check_block(block)?;
        let unlocked = Arc::new(verify(raw, block, dek, None).ok_or(OpenError::HeaderMac)?);
        self.0.cache.insert(raw, unlocked.clone(), self.0.clock.now());
        Ok(unlocked)
    }

    fn cached(&self, raw: &[u8]) -> Option<Arc<Unlocked>> {
        let Inner { cache, clock, keyring, .. } = &*self.0;
        let unlocked = cache.get(raw, clock)?;
        // [USE-3] A key that was taken out of the keyring opens nothing from the cache either.
        unlocked.key.is_none_or(|name| keyring.contains(&name)).then_some(unlocked)
    }

    fn check_block(&self, block: &DekBlock<'_>) -> Result<(), OpenError> {
        // [SUI-1]
        if !is_built(block.suite) {
            return Err(ParseError::Unsupported { field: "suite", offset: 8, value: block.suite.number().into() }.into());
        }
        // [BLK-18]
        if block.sender_proof.is_some() {
            return Err(ParseError::Unsupported { field: "options", offset: 9, value: block.options.byte().into() }.into());
        }
        Ok(self.0.policy.check_block(block, self.0.clock.unix_seconds())?)
    }

    /// Tries slots and keys until a candidate DEK makes header_mac hold.
    fn search(&self, raw: &[u8], block: &DekBlock<'_>) -> Result<Unlocked, OpenError> {
        let mut search = Search::new(raw, block, self.0.policy.limits.trials);
        // [WRAP-7]
        for candidate in self.0.keyring.candidates(block) {
            if let Some(unlocked) = search.try_key(&candidate)? {
                return Ok(unlocked);
            }
        }
        Err(search.failure)
    }

    /// What follows the last tag: padding off, and the parts put together.
    pub(crate) fn finish(
        &self,
        mut plaintext: BytesMut,
        padded: bool,
        context: Bytes,
        seq: u64,
        unlocked: &Unlocked,
    ) -> Result<Opened, OpenError> {
        if padded {
            match unpadded_len(&plaintext) {
                Ok(len) => plaintext.truncate(len),
                Err(error) => {
                    plaintext.zeroize_all();
                    return Err(OpenError::Content(error));
                }
            }
        }
        let Unlocked { created_at, key, .. } = *unlocked;
        Ok(Opened { payload: plaintext.freeze(), context, sender: Sender::Anonymous, seq, created_at, key })
    }
}

impl Ready<'_> {
    /// Opens the payload.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(self) -> Result<Opened, OpenError> {
        let Self { opener, message, unlocked } = self;
        let aad = opener.aad(message.raw_head);
        let segments = Segments { schedule: &unlocked.schedule, seq: message.head.seq, aad: &aad };
        let plaintext =
            segments.open(message.plan, message.plaintext, message.body).map_err(|index| OpenError::Segment { index })?;
        let context = Bytes::copy_from_slice(message.head.context);
        opener.finish(plaintext, message.head.flags.padded, context, message.head.seq, &unlocked)
    }
}

impl<'a> NeedsDek<'a> {
    /// The block whose DEK is needed. Nothing in it is authenticated.
    #[must_use]
    pub fn block(&self) -> &DekBlock<'a> {
        &self.message.block
    }

    /// Why the keyring does not open it.
    #[must_use]
    pub fn reason(&self) -> &OpenError {
        &self.reason
    }

    /// Goes on with a DEK from elsewhere.
    ///
    /// # Errors
    /// [`OpenError::HeaderMac`] when it is not the block's; a policy that has run out meanwhile.
    pub fn supply(self, dek: Dek) -> Result<Ready<'a>, OpenError> {
        let Self { opener, message, .. } = self;
        let unlocked = opener.unlock_with(message.raw_block, &message.block, &dek)?;
        Ok(Ready { opener, message, unlocked })
    }
}
