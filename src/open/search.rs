//! The search for a block's DEK (spec 6.4): which key, which slot, and what it may cost.

use std::sync::Arc;

use super::{OpenError, Unlocked};
use crate::{
    crypto::{
        hpke::{self, MessageKey, Setting},
        schedule::Schedule,
    },
    keys::{Candidate, DecapsulateError, Dek, Fingerprint},
    wire::{DekBlock, LimitExceeded, ParseError},
};

/// The search for a DEK, and what it may cost.
pub(super) struct Search<'a> {
    raw: &'a [u8],
    block: &'a DekBlock<'a>,
    trials: u64,
    limit: u64,
    /// What to say when nothing fits.
    pub(super) failure: OpenError,
}

impl<'a> Search<'a> {
    pub(super) fn new(raw: &'a [u8], block: &'a DekBlock<'a>, limit: u64) -> Self {
        Self { raw, block, trials: 0, limit, failure: OpenError::NoMatchingKey }
    }

    /// Tries one key on the slots whose hint is its own. Slots with the same enc cost one decapsulation together.
    pub(super) fn try_key(&mut self, candidate: &Candidate) -> Result<Option<Unlocked>, OpenError> {
        let mut tried: Vec<(&[u8], Option<MessageKey>)> = Vec::new();
        let shared: Option<&[u8]> = self.block.enc.map(|enc| &enc[..]);
        for slot in self.block.slots.iter().filter(|slot| candidate.hint.is_none_or(|hint| hint == slot.hint)) {
            let enc = shared.unwrap_or(slot.enc);
            let at = match tried.iter().position(|(known, _)| *known == enc) {
                Some(at) => at,
                None => {
                    tried.push((enc, self.decapsulate(candidate, enc)?));
                    tried.len() - 1
                }
            };
            let Some(key) = &tried[at].1 else { continue };
            let Ok(dek) = hpke::unwrap(key, slot.wrapped_dek) else { continue };
            // [KEY-2]
            match verify(self.raw, self.block, &Dek(dek), Some(candidate.key.recipient().fingerprint())) {
                Some(unlocked) => return Ok(Some(unlocked)),
                None => self.failure = OpenError::HeaderMac,
            }
        }
        Ok(None)
    }

    fn decapsulate(&mut self, candidate: &Candidate, enc: &[u8]) -> Result<Option<MessageKey>, OpenError> {
        self.trials = self.trials.saturating_add(1);
        // [WRAP-6]
        LimitExceeded::check("trials", self.trials, self.limit).map_err(ParseError::from)?;
        match candidate.key.decapsulate(enc) {
            Ok(shared) => Ok(Setting::dek(self.block.suite).key(&shared).ok()),
            Err(DecapsulateError::Refused) => Ok(None),
            Err(unavailable @ DecapsulateError::Unavailable(_)) => {
                self.failure = OpenError::KeyUnavailable(Arc::new(unavailable));
                Ok(None)
            }
        }
    }
}

/// A DEK is the block's only if header_mac says so. [KEY-1]
pub(super) fn verify(raw: &[u8], block: &DekBlock<'_>, dek: &Dek, key: Option<Fingerprint>) -> Option<Unlocked> {
    let schedule = Schedule::new(block.suite, block.salt, &dek.0).ok()?;
    let (covered, mac) = raw.split_last_chunk::<32>()?;
    schedule.verify_header(covered, mac).ok()?;
    Some(Unlocked { schedule, created_at: block.created_at, salt: *block.salt, header_mac: *mac, key })
}
