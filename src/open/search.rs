//! The search for a block's DEK (spec 6.4): which key, which slot, and what it may cost.

use std::sync::Arc;

use super::OpenError;
use crate::{
    crypto::{
        hpke::{self, MessageKey, Setting},
        schedule::Schedule,
    },
    keys::{Candidate, DecapsulateError, Dek, Fingerprint, Keyring},
    wire::{DekBlock, LimitExceeded, ParseError},
};

/// A DEK under which header_mac holds.
pub(crate) struct Found {
    pub(crate) schedule: Schedule,
    /// The key that opened its slot; `None` where the DEK came from elsewhere.
    pub(crate) key: Option<Fingerprint>,
    /// Whether nobody else could have got it where it came from.
    pub(crate) mine_alone: bool,
}

/// Tries slots and keys until a candidate DEK makes header_mac hold. `trials` counts what that costs.
pub(crate) fn find(
    raw: &[u8],
    block: &DekBlock<'_>,
    keyring: &Keyring,
    limit: u64,
    trials: &mut u64,
) -> Result<(Dek, Found), OpenError> {
    find_among(raw, block, &keyring.candidates(block), limit, trials)
}

/// The same with these keys of a keyring.
pub(crate) fn find_among(
    raw: &[u8],
    block: &DekBlock<'_>,
    candidates: &[Candidate],
    limit: u64,
    trials: &mut u64,
) -> Result<(Dek, Found), OpenError> {
    let mut search = Search { raw, block, trials, limit, failure: OpenError::NoMatchingKey };
    // [WRAP-7]
    for candidate in candidates {
        if let Some(found) = search.try_key(candidate)? {
            return Ok(found);
        }
    }
    Err(search.failure)
}

/// The search for a DEK, and what it may cost.
struct Search<'a> {
    raw: &'a [u8],
    block: &'a DekBlock<'a>,
    trials: &'a mut u64,
    limit: u64,
    /// What to say when nothing fits.
    failure: OpenError,
}

impl Search<'_> {
    /// Tries one key on the slots whose hint is its own. Slots with the same enc cost one decapsulation together.
    fn try_key(&mut self, candidate: &Candidate) -> Result<Option<(Dek, Found)>, OpenError> {
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
            let dek = Dek { secret: dek, mine_alone: candidate.key.is_mine_alone() };
            match verify(self.raw, self.block, &dek, Some(candidate.key.recipient().fingerprint())) {
                Some(found) => return Ok(Some((dek, found))),
                None => {
                    self.failure = OpenError::HeaderMac;
                    self.count_trial()?;
                }
            }
        }
        Ok(None)
    }

    /// A decapsulation, or a DEK that is not the block's: what either costs is bounded.
    fn count_trial(&mut self) -> Result<(), ParseError> {
        count_trial(self.trials, self.limit)
    }

    fn decapsulate(&mut self, candidate: &Candidate, enc: &[u8]) -> Result<Option<MessageKey>, OpenError> {
        self.count_trial()?;
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

/// One trial more, of which there is a limit.
pub(crate) fn count_trial(trials: &mut u64, limit: u64) -> Result<(), ParseError> {
    *trials = trials.saturating_add(1);
    // [WRAP-6]
    Ok(LimitExceeded::check("trials", *trials, limit)?)
}

/// A DEK is the block's only if header_mac says so. [KEY-1]
pub(crate) fn verify(raw: &[u8], block: &DekBlock<'_>, dek: &Dek, key: Option<Fingerprint>) -> Option<Found> {
    let schedule = Schedule::new(block.suite, block.salt, &dek.secret).ok()?;
    let (covered, mac) = raw.split_last_chunk::<32>()?;
    schedule.verify_header(covered, mac).ok()?;
    Some(Found { schedule, key, mine_alone: dek.mine_alone })
}
