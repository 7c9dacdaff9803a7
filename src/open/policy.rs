use std::time::Duration;

use super::PolicyError;
use crate::wire::{DekBlock, Limits, Suite};

/// What is opened at all (spec 10.3). Checked for every message, also where the DEK is cached.
///
/// The default allows every suite that is built, any age, any context, an empty binding, and the default limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Named limits on what a peer chooses.
    pub limits: Limits,
    /// The suites that may be opened; `None` for all that are built.
    pub suites: Option<Vec<Suite>>,
    /// How old a DEK block may be by its created_at. It must exceed the sender's reuse.
    pub max_age: Option<Duration>,
    /// How far clocks may differ, where there is a `max_age`.
    pub clock_tolerance: Duration,
    /// The context that every message must have; `None` for any.
    pub context: Option<Vec<u8>>,
    /// Authenticated bytes that both sides know and that are not sent. Not for channels, which take their own.
    pub binding: Vec<u8>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            suites: None,
            max_age: None,
            clock_tolerance: Duration::from_secs(300),
            context: None,
            binding: Vec::new(),
        }
    }
}

impl Policy {
    /// What can be refused before any key is used.
    pub(super) fn check_block(&self, block: &DekBlock<'_>, now: u64) -> Result<(), PolicyError> {
        // [USE-5]
        if self.suites.as_ref().is_some_and(|suites| !suites.contains(&block.suite)) {
            return Err(PolicyError::Suite(block.suite.number()));
        }
        self.max_age.map_or(Ok(()), |max_age| self.check_age(block.created_at, now, max_age))
    }

    fn check_age(&self, created_at: u64, now: u64, max_age: Duration) -> Result<(), PolicyError> {
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
            Some(expected) if expected != context => Err(PolicyError::Context),
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
