//! Envelope -> payload (spec 2, 5, 6). Sans-I/O, through `&self` from many threads.
//!
//! What is parsed is untrusted ([`untrusted`]) until header_mac holds; only then does an `Unlocked` exist, and
//! nothing else can open segments.
#![deny(clippy::cast_possible_truncation)]

mod budget;
mod cache;
mod error;
mod policy;
mod replay;
pub(crate) mod search;
mod sender;
mod unlocked;
pub mod untrusted;

use std::{borrow::Cow, fmt, sync::Arc};

use bytes::{Bytes, BytesMut};

use crate::{
    crypto::{check_built, proof::Covers},
    keys::{Dek, Fingerprint, Keyring},
    payload::{Segments, ZeroizeAll, unpadded_len},
    platform::Clock,
    wire::{DekBlock, External},
};
pub(crate) use budget::Meters;
pub use budget::{Budget, BudgetExceeded, Budgets};
use cache::{Cache, Learnt};
pub use error::{OpenError, PolicyError};
pub use policy::{CachePolicy, ExpectedContext, KmsKey, Policy, Predicate};
pub(crate) use replay::Receipt;
pub use replay::ReplayWindow;
use search::{count_trial, find, verify};
pub use sender::{NoSuchStanding, Sender, Senders, Standing};
pub(crate) use unlocked::Unlocked;
use untrusted::Message;

/// Opens one envelope with the keys of `with`, under the default [`Policy`].
///
/// # Errors
/// [`OpenError`]; nothing of the payload is released.
pub fn open(envelope: &[u8], with: &Keyring) -> Result<Opened, OpenError> {
    Opener::new(with.clone()).open(envelope)
}

/// What was in an envelope, all of it authenticated.
#[derive(Clone)]
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
    /// Its entry in the window against replays.
    receipt: Option<Arc<Receipt>>,
}

impl Opened {
    /// Says that the application has the message for good: from now on the window of the policy
    /// ([`ReplayWindow`]) takes every copy of it for a duplicate. Without a window it does nothing.
    ///
    /// Until then, and when this and all its clones are dropped before, the message may come again. On a channel the messages that
    /// begin an epoch carry an entry (that of a whole batch is with its last message); the others do nothing here.
    pub fn commit(&self) {
        if let Some(receipt) = &self.receipt {
            receipt.commit();
        }
    }

    /// One message of a batch that goes on: the entry in the window is the last one's.
    #[inline(always)]
    pub(crate) fn part(&self, payload: Bytes, is_last: bool) -> Self {
        let receipt = if is_last { self.receipt.clone() } else { None };
        let context = if self.context.is_empty() { Bytes::new() } else { self.context.clone() };
        Self { payload, receipt, context, ..*self }
    }
}

/// The same message, whatever becomes of its entry in a window.
impl PartialEq for Opened {
    fn eq(&self, other: &Self) -> bool {
        let parts = |opened: &Self| (opened.sender, opened.seq, opened.created_at, opened.key);
        parts(self) == parts(other) && self.payload == other.payload && self.context == other.context
    }
}

impl Eq for Opened {}

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
        let (cache, learnt) = (Cache::new(self.cache), Learnt::default());
        Opener(Arc::new(Inner { keyring: self.keyring, policy: self.policy, cache, learnt, clock: self.clock }))
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
    learnt: Learnt,
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
    /// DEKs that were supplied.
    trials: u64,
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
    pub fn open_in_place(&self, envelope: BytesMut) -> Result<Opened, OpenError> {
        self.open_counting(envelope, &mut 0)
    }

    /// The same, which also tells what it has cost: trials.
    pub(crate) fn open_counting(&self, envelope: BytesMut, trials: &mut u64) -> Result<Opened, OpenError> {
        self.open_here(envelope, |message| self.unlock_message(message, None, trials))
    }

    /// The same with a DEK that was found before.
    #[cfg(feature = "kms")]
    pub(crate) fn open_in_place_under(&self, envelope: BytesMut, unlocked: Arc<Unlocked>) -> Result<Opened, OpenError> {
        self.open_here(envelope, |_| Ok(unlocked))
    }

    #[inline(always)]
    fn open_here(
        &self,
        mut envelope: BytesMut,
        unlock: impl FnOnce(&Message<'_>) -> Result<Arc<Unlocked>, OpenError>,
    ) -> Result<Opened, OpenError> {
        let message = self.parse(&envelope)?;
        let unlocked = unlock(&message)?;
        unlocked.verify_message([message.raw_head, message.body, &self.0.policy.binding])?;
        self.check_room(&unlocked, message.head.seq)?;
        let Message { plan, body_at, head_at, plaintext, .. } = message;
        let (seq, padded, context_len) = (message.head.seq, message.head.flags.padded(), message.head.context.len());
        let (front, body) = envelope.split_at_mut(body_at);
        let aad = self.aad(&front[head_at..]);
        let segments = Segments { schedule: &unlocked.schedule, seq, aad: &aad };
        segments.open_in_place(plan, body).map_err(|index| OpenError::Segment { index })?;
        drop(aad);
        let mut payload = envelope.split_off(body_at + 4);
        payload.truncate(plaintext);
        envelope.truncate(body_at);
        let context = if context_len == 0 { Bytes::new() } else { envelope.split_off(body_at - context_len).freeze() };
        let seq = Numbered::Envelope(seq);
        let receipt = self.finish(&mut payload, padded, seq, &unlocked)?;
        Ok(unlocked.opened(payload.freeze(), context, seq, receipt))
    }

    /// The AAD of segment 0: the head as it was received, and the binding.
    fn aad<'h>(&self, head: &'h [u8]) -> Cow<'h, [u8]> {
        match &self.0.policy.binding[..] {
            [] => Cow::Borrowed(head),
            binding => Cow::Owned([head, binding].concat()),
        }
    }

    fn parse<'a>(&self, envelope: &'a [u8]) -> Result<Message<'a>, OpenError> {
        Ok(Message::parse(envelope, &self.0.policy.limits)?)
    }

    /// Opens a message whose DEK block was kept apart from it ([`Sealer::seal_detached`](crate::Sealer::seal_detached), spec 4.5). With
    /// the DEK in the cache it costs one AEAD call.
    ///
    /// # Errors
    /// As [`open`](Self::open). Offsets count from the beginning of the block.
    pub fn open_detached(&self, block: &[u8], message: &[u8]) -> Result<Opened, OpenError> {
        match self.begin_detached(block, message)? {
            Begun::Ready(ready) => ready.open(),
            Begun::NeedsDek(waiting) => Err(waiting.reason),
        }
    }

    /// As [`begin`](Self::begin), for a message whose DEK block was kept apart from it.
    ///
    /// # Errors
    /// As [`begin`](Self::begin).
    pub fn begin_detached<'a>(&self, block: &'a [u8], message: &'a [u8]) -> Result<Begun<'a>, OpenError> {
        self.begin_with(Message::parse_detached(block, message, &self.0.policy.limits)?)
    }

    /// Parses an envelope and looks for its DEK in cache and keyring.
    ///
    /// ```
    /// use sealwire::{Begun, Dek, Keyring, Opener, Sealer};
    /// # let cmk = sealwire::Cmk::generate()?;
    /// let mut sealer = Sealer::builder().to(cmk.recipient().clone()).dek(Dek::import(&[7; 32])).build()?;
    /// let envelope = sealer.seal(b"", b"payload")?;
    /// let opener = Opener::new(Keyring::new());
    /// let Begun::NeedsDek(mut waiting) = opener.begin(&envelope)? else { panic!("the keyring is empty") };
    /// assert_eq!(waiting.block().slots.len(), 1);
    /// // … ask whoever can unwrap it, as long as that takes …
    /// let opened = waiting.supply(&Dek::import(&[7; 32]))?.open()?;
    /// assert_eq!(&opened.payload[..], b"payload");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`OpenError`] for bytes and policies that no DEK would mend.
    pub fn begin<'a>(&self, envelope: &'a [u8]) -> Result<Begun<'a>, OpenError> {
        self.begin_with(self.parse(envelope)?)
    }

    fn begin_with<'a>(&self, message: Message<'a>) -> Result<Begun<'a>, OpenError> {
        let opener = self.clone();
        match self.unlock_message(&message, None, &mut 0) {
            Ok(unlocked) => Ok(Begun::Ready(Ready { opener, message, unlocked })),
            Err(reason) if reason.a_dek_would_help() => Ok(Begun::NeedsDek(NeedsDek { opener, message, reason, trials: 0 })),
            Err(error) => Err(error),
        }
    }

    fn unlock_message(&self, message: &Message<'_>, dek: Option<&Dek>, trials: &mut u64) -> Result<Arc<Unlocked>, OpenError> {
        self.unlock(message.raw_block, &message.block, Some(message.head.context), Covers::Dek, dek, trials)
    }

    /// Policy, cache, and then the DEK that is given or a search in the keyring; the policy on cache hits too, and on the context
    /// where the message cannot be one that has none to expect.
    pub(crate) fn unlock(
        &self,
        raw: &[u8],
        block: &DekBlock<'_>,
        context: Option<&[u8]>,
        covers: Covers<'_>,
        dek: Option<&Dek>,
        trials: &mut u64,
    ) -> Result<Arc<Unlocked>, OpenError> {
        self.check_policy(block, context)?;
        // A channel reads each of its blocks once.
        let cacheable = matches!(covers, Covers::Dek);
        if cacheable
            && dek.is_none()
            && let Some(unlocked) = self.cached(raw)
        {
            self.0.policy.check_sender(&unlocked.sender)?;
            return Ok(unlocked);
        }
        let Inner { learnt, cache, clock, .. } = &*self.0;
        // Each message under such a block is verified by itself, whoever has unwrapped its DEK.
        let learnt = if block.options.proof_covers_message { learnt.get(raw, clock, &cache.policy) } else { None };
        let found = match dek.or(learnt.as_ref()) {
            Some(dek) => verify(raw, block, dek, None).ok_or(OpenError::HeaderMac)?,
            None => find(raw, block, &self.0.keyring, self.0.policy.limits.trials, trials)?.1,
        };
        let unlocked = Arc::new(Unlocked::new(found, raw, block, covers, &self.0.policy)?);
        if cacheable && unlocked.is_reusable() {
            self.0.cache.insert(raw, unlocked.clone(), self.0.clock.now());
        }
        Ok(unlocked)
    }

    /// Keeps the DEK of a block that was got from elsewhere, so that messages and streams under it open as long as the cache has it. Give it
    /// each answer once: those that are wrong are not counted here.
    ///
    /// # Errors
    /// [`OpenError::HeaderMac`] when it is not the block's; [`OpenError::NotKept`] where the cache is to keep none; [`OpenError`] for a block
    /// that is not opened at all.
    pub fn learn(&self, block: &[u8], dek: &Dek) -> Result<(), OpenError> {
        let Inner { cache, learnt, clock, policy, .. } = &*self.0;
        let parsed = DekBlock::parse_alone(block, &policy.limits)?;
        let unlocked = self.unlock(block, &parsed, None, Covers::Dek, Some(dek), &mut 0)?;
        if !unlocked.is_reusable() && cache.policy.deks > 0 {
            learnt.insert(block, dek, clock.now(), &cache.policy);
            return Ok(());
        }
        if self.cached(block).is_some() { Ok(()) } else { Err(OpenError::NotKept) }
    }

    /// Why a block by itself does not open with what is at hand, where a DEK from elsewhere would help; `None` where it opens.
    #[cfg(feature = "kms")]
    pub(crate) fn lacks_dek(&self, raw: &[u8]) -> Result<Option<OpenError>, OpenError> {
        let block = DekBlock::parse_alone(raw, &self.0.policy.limits)?;
        match self.unlock(raw, &block, None, Covers::Dek, None, &mut 0) {
            Ok(_) => Ok(None),
            Err(reason) if reason.a_dek_would_help() => Ok(Some(reason)),
            Err(error) => Err(error),
        }
    }

    /// Whether the DEK of exactly this block is in the cache.
    #[cfg(feature = "kms")]
    pub(crate) fn has_cached(&self, raw: &[u8]) -> bool {
        self.cached(raw).is_some()
    }

    fn cached(&self, raw: &[u8]) -> Option<Arc<Unlocked>> {
        let Inner { cache, clock, keyring, .. } = &*self.0;
        let unlocked = cache.get(raw, clock)?;
        // [USE-3] A key that was taken out of the keyring opens nothing from the cache either, nor one that has become
        // somebody else's too.
        unlocked.key.is_none_or(|name| keyring.is_mine_alone(&name) == Some(unlocked.mine_alone)).then_some(unlocked)
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// Whether a DEK that is in use is still young enough. [USE-3]
    pub(crate) fn check_age(&self, unlocked: &Unlocked) -> Result<(), OpenError> {
        Ok(self.0.policy.check_age(unlocked.created_at, || self.0.clock.unix_seconds())?)
    }

    fn check_policy(&self, block: &DekBlock<'_>, context: Option<&[u8]>) -> Result<(), OpenError> {
        check_built(block.suite)?;
        if let Some(context) = context {
            self.0.policy.check_context(context)?;
        }
        Ok(self.0.policy.check_block(block, || self.0.clock.unix_seconds())?)
    }

    /// Whether the window has room for a message that begins with a block. Asked before anything is decrypted.
    pub(crate) fn check_room(&self, unlocked: &Unlocked, seq: u64) -> Result<(), OpenError> {
        let Some(window) = &self.0.policy.replay else { return Ok(()) };
        Ok(window.has_room(&self.candidate(unlocked, seq)?)?)
    }

    /// Whether a message was opened before, or is in hand. Asked when its first segment is authentic.
    pub(crate) fn check_not_seen(&self, unlocked: &Unlocked, seq: u64) -> Result<(), OpenError> {
        match &self.0.policy.replay {
            Some(window) => window.check_new(&self.candidate(unlocked, seq)?),
            None => Ok(()),
        }
    }

    /// Enters a message into the window, where there is one: all of it is authentic.
    pub(crate) fn enter(&self, unlocked: &Unlocked, seq: u64) -> Result<Option<Receipt>, OpenError> {
        let Some(window) = &self.0.policy.replay else { return Ok(None) };
        window.enter(&self.candidate(unlocked, seq)?).map(Some)
    }

    /// A message as a window sees it. With a list of senders each of them has a window. [RPL-4]
    fn candidate(&self, unlocked: &Unlocked, seq: u64) -> Result<replay::Candidate, OpenError> {
        let commitment = unlocked.schedule.commitment().map_err(|_| OpenError::HeaderMac)?;
        let key = unlocked.sender.key().copied();
        let proof = key.map(|key| (key, matches!(unlocked.sender, Sender::Signed { .. })));
        let listed = self.0.policy.senders.is_some();
        Ok(replay::Candidate {
            name: replay::Name { commitment: *commitment.bytes(), seq, proof },
            sender: key.filter(|_| listed).map(|key| (key, unlocked.sender.standing())),
            created_at: unlocked.created_at,
            lifetime: self.0.policy.lifetime(),
            now: self.0.clock.unix_seconds(),
        })
    }

    /// What follows the last tag: padding off, and a name in the window where the message has one. On an error the plaintext is wiped.
    #[inline]
    pub(crate) fn finish(
        &self,
        plaintext: &mut BytesMut,
        padded: bool,
        seq: Numbered,
        unlocked: &Unlocked,
    ) -> Result<Option<Arc<Receipt>>, OpenError> {
        if padded {
            let unpadded = unpadded_len(plaintext).inspect_err(|_| plaintext.zeroize_all());
            plaintext.truncate(unpadded.map_err(OpenError::Content)?);
        }
        match seq {
            Numbered::Envelope(seq) => Ok(self.enter(unlocked, seq).inspect_err(|_| plaintext.zeroize_all())?.map(Arc::new)),
            Numbered::FollowUp(_) => Ok(None),
        }
    }
}

impl Unlocked {
    /// A message under this DEK, all of it authentic. Made where it is handed out: moving it costs as much as a tenth of a small message's
    /// AEAD call.
    #[inline(always)]
    pub(crate) fn opened(&self, payload: Bytes, context: Bytes, seq: Numbered, receipt: Option<Arc<Receipt>>) -> Opened {
        let Self { created_at, key, sender, .. } = *self;
        Opened { payload, context, sender, seq: seq.number(), created_at, key, receipt }
    }
}

/// A message's number, and whether it begins with a block: only such a message has a name in a window.
#[derive(Clone, Copy)]
pub(crate) enum Numbered {
    Envelope(u64),
    FollowUp(u64),
}

impl Numbered {
    pub(crate) fn number(self) -> u64 {
        let (Self::Envelope(seq) | Self::FollowUp(seq)) = self;
        seq
    }
}

impl Ready<'_> {
    /// What opens the message, without it.
    #[cfg(feature = "kms")]
    pub(crate) fn into_unlocked(self) -> Arc<Unlocked> {
        self.unlocked
    }

    /// Opens the payload.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(self) -> Result<Opened, OpenError> {
        let Self { opener, message, unlocked } = self;
        let seq = message.head.seq;
        unlocked.verify_message([message.raw_head, message.body, &opener.0.policy.binding])?;
        opener.check_room(&unlocked, seq)?;
        let aad = opener.aad(message.raw_head);
        let segments = Segments { schedule: &unlocked.schedule, seq, aad: &aad };
        let mut plaintext =
            segments.open(message.plan, message.plaintext, message.body).map_err(|index| OpenError::Segment { index })?;
        let seq = Numbered::Envelope(seq);
        let receipt = opener.finish(&mut plaintext, message.head.flags.padded(), seq, &unlocked)?;
        Ok(unlocked.opened(plaintext.freeze(), Bytes::copy_from_slice(message.head.context), seq, receipt))
    }
}

impl<'a> NeedsDek<'a> {
    /// The block whose DEK is needed. Nothing in it is authenticated.
    #[must_use]
    pub fn block(&self) -> &DekBlock<'a> {
        &self.message.block
    }

    /// The bytes of that block.
    #[cfg(feature = "kms")]
    pub(crate) fn raw_block(&self) -> &'a [u8] {
        self.message.raw_block
    }

    /// Why the keyring does not open it.
    #[must_use]
    pub fn reason(&self) -> &OpenError {
        &self.reason
    }

    /// The externals whose KMS may be asked: those whose key the policy names ([`Policy::kms_keys`]), in their order. Nothing in them is
    /// authenticated: ask for the one key that is named, and give the answer to [`supply`](Self::supply).
    pub fn externals(&self) -> impl Iterator<Item = External<'a>> + use<'a, '_> {
        self.opener.0.policy.named(&self.message.block)
    }

    /// Goes on with a DEK from elsewhere. Where it is not the block's, another may follow, that of the next external: each is a trial.
    ///
    /// # Errors
    /// [`OpenError::HeaderMac`] when it is not the block's; [`ParseError::LimitExceeded`](crate::ParseError) past the limit on trials;
    /// a policy that has run out meanwhile.
    pub fn supply(&mut self, dek: &Dek) -> Result<Ready<'a>, OpenError> {
        let Self { opener, message, trials, .. } = self;
        count_trial(trials, opener.0.policy.limits.trials)?;
        let unlocked = opener.unlock_message(message, Some(dek), &mut 0)?;
        Ok(Ready { opener: opener.clone(), message: message.clone(), unlocked })
    }
}
