//! Opened DEKs, kept for a while and looked up by all bytes of their block.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{CachePolicy, Unlocked};
use crate::{
    keys::Dek,
    platform::{Clock, Moment},
};

pub(super) struct Cache {
    pub(super) policy: CachePolicy,
    /// Counts look-ups; an entry's copy of it tells when it was last of use.
    clock: AtomicU64,
    kept: RwLock<Kept>,
}

#[derive(Default)]
struct Kept {
    /// By header_mac, which costs less to hash than the block that it stands for; every byte is compared.
    entries: HashMap<[u8; 32], Entry>,
    bytes: usize,
}

/// DEKs that were learnt for one message each, whose block a cache does not keep unlocked: its proof covers that message.
#[derive(Default)]
pub(super) struct Learnt(Mutex<Vec<OfOneMessage>>);

struct OfOneMessage {
    raw: Box<[u8]>,
    dek: Dek,
    since: Moment,
}

impl Learnt {
    /// Keeps a DEK, in the place of the oldest where there are too many.
    pub(super) fn insert(&self, raw: &[u8], dek: &Dek, now: Moment, policy: &CachePolicy) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|known| *known.raw != *raw);
        while !all.is_empty() && all.len() >= policy.deks.min(LEARNT_MAX) {
            all.remove(0);
        }
        all.push(OfOneMessage { raw: raw.into(), dek: dek.again(), since: now });
    }

    /// The DEK of exactly this block, if it is not too old.
    pub(super) fn get(&self, raw: &[u8], clock: &Clock, policy: &CachePolicy) -> Option<Dek> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|known| clock.since(known.since) < policy.age);
        all.iter().find(|known| *known.raw == *raw).map(|known| known.dek.again())
    }
}

/// DEKs of single messages that are kept, each until its message was opened or others came.
const LEARNT_MAX: usize = 64;

struct Entry {
    raw: Box<[u8]>,
    unlocked: Arc<Unlocked>,
    since: Moment,
    used: AtomicU64,
}

impl Cache {
    pub(super) fn new(policy: CachePolicy) -> Self {
        Self { policy, clock: AtomicU64::new(0), kept: RwLock::default() }
    }

    /// The DEK of exactly this block, if it is not too old. [USE-2]
    pub(super) fn get(&self, raw: &[u8], clock: &Clock) -> Option<Arc<Unlocked>> {
        let kept = self.read();
        let entry = kept.entries.get(raw.last_chunk::<32>()?).filter(|entry| *entry.raw == *raw)?;
        if clock.since(entry.since) >= self.policy.age {
            return None;
        }
        entry.used.store(self.clock.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        Some(entry.unlocked.clone())
    }

    pub(super) fn insert(&self, raw: &[u8], unlocked: Arc<Unlocked>, now: Moment) {
        let Some(name) = raw.last_chunk().filter(|_| self.policy.deks > 0 && raw.len() <= self.policy.bytes) else { return };
        let used = AtomicU64::new(self.clock.fetch_add(1, Ordering::Relaxed));
        let mut kept = self.write();
        kept.remove(name);
        while kept.entries.len() >= self.policy.deks || kept.bytes + raw.len() > self.policy.bytes {
            kept.evict();
        }
        kept.bytes += raw.len();
        kept.entries.insert(*name, Entry { raw: raw.into(), unlocked, since: now, used });
    }

    // Every change leaves the map whole, also where another thread panicked with the lock held.
    fn read(&self) -> RwLockReadGuard<'_, Kept> {
        self.kept.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Kept> {
        self.kept.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn remove(&mut self, name: &[u8; 32]) {
        if let Some(entry) = self.entries.remove(name) {
            self.bytes -= entry.raw.len();
        }
    }

    /// Lets go of what has been of no use for longest.
    fn evict(&mut self) {
        let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.used.load(Ordering::Relaxed));
        if let Some(name) = oldest.map(|(name, _)| *name) {
            self.remove(&name);
        }
    }
}
