use std::{fmt, sync::Arc, time::Duration};

use super::{PolicyError, ReplayWindow, Sender, Senders};
use crate::wire::{DekBlock, External, Kem, Limits, Suite};

/// What is opened at all (spec 10.3). Checked for every message, also where the DEK is cached.
///
/// The default allows every suite that is built, any sender, any age, any context and repeats, with an empty binding and the
/// default limits. What it is safe against is everything but who has written and how often: say whose messages you
/// take ([`senders`](Self::senders)) wherever that matters, and keep a window ([`replay`](Self::replay)) where a
/// message must not count twice.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Named limits on what a peer chooses.
    pub limits: Limits,
    /// The suites that may be opened; `None` for all that are built.
    pub suites: Option<Vec<Suite>>,
    /// Whether classical suites are refused, and externals but for those of `pq_providers`.
    pub require_pq: bool,
    /// The keys of foreign KMS that may be asked for a DEK; none where nothing is said. Whoever writes a message chooses what its externals
    /// say, and a KMS that is asked for a key of his choice may do him a favour, or bill it.
    pub kms_keys: Vec<KmsKey>,
    /// Providers whose KMS keeps DEKs safe from quantum computers, as far as the caller knows.
    pub pq_providers: Vec<String>,
    /// Whose messages are opened; `None` for anyone's, also nobody's in particular.
    pub senders: Option<Senders>,
    /// How old a DEK block may be by its created_at. It must exceed the sender's reuse.
    pub max_age: Option<Duration>,
    /// How far clocks may differ, where there is a `max_age`.
    pub clock_tolerance: Duration,
    /// The context that every message must have; `None` for any.
    pub context: Option<ExpectedContext>,
    /// Authenticated bytes that both sides know and that are not sent. Not for channels, which take their own.
    pub binding: Vec<u8>,
    /// What was opened before is refused; `None` for repeats as they come. It needs a `max_age`.
    pub replay: Option<ReplayWindow>,
}

/// A key of a foreign KMS, by the names that externals carry (spec 3.4).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KmsKey {
    /// Which KMS.
    pub provider: String,
    /// Which of its keys.
    pub key_ref: String,
}

impl KmsKey {
    /// The key `key_ref` of the KMS `provider`.
    #[must_use]
    pub fn new(provider: impl Into<String>, key_ref: impl Into<String>) -> Self {
        Self { provider: provider.into(), key_ref: key_ref.into() }
    }

    fn is_of(&self, external: &External<'_>) -> bool {
        self.provider == external.provider && self.key_ref == external.key_ref
    }
}

/// Says yes or no to a context.
pub type Predicate = Arc<dyn Fn(&[u8]) -> bool + Send + Sync>;

/// Which contexts are wanted.
#[derive(Clone)]
#[non_exhaustive]
pub enum ExpectedContext {
    /// These bytes.
    Exactly(Vec<u8>),
    /// Whatever this says yes to. It sees bytes that are not authenticated yet.
    Where(Predicate),
}

impl ExpectedContext {
    /// Whatever `wanted` says yes to. It sees bytes that are not authenticated yet.
    pub fn when(wanted: impl Fn(&[u8]) -> bool + Send + Sync + 'static) -> Self {
        Self::Where(Arc::new(wanted))
    }

    fn allows(&self, context: &[u8]) -> bool {
        match self {
            Self::Exactly(expected) => expected == context,
            Self::Where(wanted) => wanted(context),
        }
    }
}

impl<T: Into<Vec<u8>>> From<T> for ExpectedContext {
    fn from(bytes: T) -> Self {
        Self::Exactly(bytes.into())
    }
}

impl fmt::Debug for ExpectedContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(bytes) => f.debug_tuple("Exactly").field(bytes).finish(),
            Self::Where(_) => f.write_str("Where(..)"),
        }
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            suites: None,
            require_pq: false,
            kms_keys: Vec::new(),
            pq_providers: Vec::new(),
            senders: None,
            max_age: None,
            clock_tolerance: Duration::from_secs(300),
            context: None,
            binding: Vec::new(),
            replay: None,
        }
    }
}

impl Policy {
    /// What can be refused before any key is used.
    pub(super) fn check_block(&self, block: &DekBlock<'_>, now: impl FnOnce() -> u64) -> Result<(), PolicyError> {
        // [USE-5]
        if self.suites.as_ref().is_some_and(|suites| !suites.contains(&block.suite)) {
            return Err(PolicyError::Suite(block.suite.number()));
        }
        self.check_pq(block)?;
        if block.sender_proof.is_none() {
            self.check_sender(&Sender::Anonymous)?;
        }
        // [RPL-1]
        if self.replay.is_some() && self.max_age.is_none() {
            return Err(PolicyError::WindowWithoutAge);
        }
        self.check_age(block.created_at, now)
    }

    /// The externals of a block whose KMS may be asked: those whose key is among `kms_keys`, in their order.
    pub fn named<'a>(&self, block: &DekBlock<'a>) -> impl Iterator<Item = External<'a>> + use<'a, '_> {
        // [EXT-1]
        block.externals.iter().filter(|external| self.kms_keys.iter().any(|key| key.is_of(external)))
    }

    fn check_pq(&self, block: &DekBlock<'_>) -> Result<(), PolicyError> {
        if !self.require_pq {
            return Ok(());
        }
        // [USE-5]
        if block.suite.kem() != Kem::XWing && !block.slots.is_empty() {
            return Err(PolicyError::NotPostQuantum(block.suite.number()));
        }
        match block.externals.iter().find(|external| !self.pq_providers.iter().any(|known| known == external.provider)) {
            Some(external) => Err(PolicyError::ProviderNotPostQuantum(external.provider.to_owned())),
            None => Ok(()),
        }
    }

    /// Whether the sender is one of those whose messages are opened. [PRF-7]
    pub(super) fn check_sender(&self, sender: &Sender) -> Result<(), PolicyError> {
        match &self.senders {
            Some(senders) if !senders.allow(sender) => Err(PolicyError::Sender(*sender)),
            _ => Ok(()),
        }
    }

    /// Seconds for which a block passes, by its created_at.
    pub(super) fn lifetime(&self) -> u64 {
        self.max_age.unwrap_or_default().as_secs().saturating_add(self.clock_tolerance.as_secs())
    }

    /// Whether a block of this date passes now.
    /// Asks for the time where there is a maximum.
    pub(super) fn check_age(&self, created_at: u64, now: impl FnOnce() -> u64) -> Result<(), PolicyError> {
        let Some(max_age) = self.max_age else { return Ok(()) };
        let now = now();
        let (age, ahead) = (now.saturating_sub(created_at), created_at.saturating_sub(now));
        let tolerance = self.clock_tolerance.as_secs();
        // [USE-4]
        if age > max_age.as_secs().saturating_add(tolerance) {
            return Err(PolicyError::TooOld { age, maximum: max_age.as_secs() });
        }
        if ahead > tolerance {
            return Err(PolicyError::FromTheFuture { ahead, tolerance });
        }
        Ok(())
    }

    /// Refuses a context before anything is decrypted; the tag decides later whether it is the sender's.
    pub(crate) fn check_context(&self, context: &[u8]) -> Result<(), PolicyError> {
        // [USE-5]
        match &self.context {
            Some(expected) if !expected.allows(context) => Err(PolicyError::Context),
            _ => Ok(()),
        }
    }
}

/// How many opened DEKs an opener keeps, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CachePolicy {
    /// DEKs kept; 0 keeps none.
    pub deks: usize,
    /// Bytes of the blocks by which they are looked up.
    pub bytes: usize,
    /// How long each is kept.
    pub age: Duration,
}

impl Default for CachePolicy {
    fn default() -> Self {
        Self { deks: 1024, bytes: 4 << 20, age: Duration::from_secs(3600) }
    }
}
