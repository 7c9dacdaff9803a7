//! Sealers by user, a bounded number of them (spec 10.1).

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{SealError, Sealer};
use crate::platform::{Clock, Moment};

type Make<K> = Box<dyn Fn(&K) -> Result<Sealer, SealError> + Send + Sync>;

/// A sealer for each user, tenant or peer, made where it is first needed: each reuses a DEK of its own for a period, and no two users share
/// one. Of a bounded number, those that have been of no use for longest are let go, and their DEKs wiped.
///
/// It is shared between threads; messages of one user wait for each other, those of two do not.
///
/// ```
/// use std::time::Duration;
/// use sealwire::{Cmk, Sealer, SealerPool};
/// let cmk = Cmk::generate()?;
/// let to = cmk.recipient().clone();
/// let pool = SealerPool::new(1000, Duration::from_secs(600), move |_user: &u64| Sealer::builder().to(to.clone()).build());
/// let (first, second) = (pool.seal(&7, b"", b"one")?, pool.seal(&7, b"", b"two")?);
/// assert_eq!(first[..153], second[..153], "one user, one DEK");
/// assert_ne!(first[21..37], pool.seal(&8, b"", b"three")?[21..37], "another user, another DEK");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct SealerPool<K> {
    most: usize,
    idle: Duration,
    make: Make<K>,
    clock: Clock,
    kept: Mutex<Kept<K>>,
}

struct Kept<K> {
    sealers: HashMap<K, Entry>,
    /// Users by when they were last of use, the oldest first.
    order: BTreeMap<u64, K>,
    uses: u64,
}

struct Entry {
    sealer: Arc<Mutex<Sealer>>,
    used: u64,
    since: Moment,
}

impl<K: Clone + Eq + Hash> SealerPool<K> {
    /// At most `most` sealers, at least one; each is let go when it was of no use for `idle`, whenever the pool is next used. `make` makes a
    /// user's sealer, with his recipients and settings.
    pub fn new(most: usize, idle: Duration, make: impl Fn(&K) -> Result<Sealer, SealError> + Send + Sync + 'static) -> Self {
        let kept = Kept { sealers: HashMap::new(), order: BTreeMap::new(), uses: 0 };
        Self { most: most.max(1), idle, make: Box::new(make), clock: Clock::default(), kept: Mutex::new(kept) }
    }

    /// Seals `payload` with the user's sealer ([`Sealer::seal`]).
    ///
    /// # Errors
    /// [`SealError`], of making the sealer too; nothing leaves.
    pub fn seal(&self, user: &K, context: &[u8], payload: &[u8]) -> Result<Vec<u8>, SealError> {
        self.with(user, |sealer| sealer.seal(context, payload))
    }

    /// Does something with the user's sealer.
    ///
    /// # Errors
    /// Those of making the sealer, and those of `call`.
    pub fn with<T>(&self, user: &K, call: impl FnOnce(&mut Sealer) -> Result<T, SealError>) -> Result<T, SealError> {
        let sealer = self.sealer(user)?;
        let mut sealer = sealer.lock().unwrap_or_else(PoisonError::into_inner);
        call(&mut sealer)
    }

    /// Lets the user's sealer go, with its DEK: he has other recipients now, or is gone.
    pub fn forget(&self, user: &K) {
        self.lock().remove(user);
    }

    /// Sealers that are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().sealers.len()
    }

    /// Whether none is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn sealer(&self, user: &K) -> Result<Arc<Mutex<Sealer>>, SealError> {
        let mut kept = self.lock();
        kept.forget_idle(&self.clock, self.idle);
        let now = self.clock.now();
        if let Some(sealer) = kept.touch(user, now) {
            return Ok(sealer);
        }
        drop(kept);
        // Made without the lock: it may take long, and other users do not wait for it.
        let made = Arc::new(Mutex::new((self.make)(user)?));
        let mut kept = self.lock();
        // Whoever was faster has made the one.
        if let Some(sealer) = kept.touch(user, now) {
            return Ok(sealer);
        }
        while kept.sealers.len() >= self.most {
            kept.forget_oldest();
        }
        kept.insert(user, made.clone(), now);
        Ok(made)
    }

    // Every change leaves the two maps whole, also where another thread panicked with the lock held.
    fn lock(&self) -> MutexGuard<'_, Kept<K>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(all(test, feature = "testing"))]
    fn at(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }
}

impl<K: Clone + Eq + Hash> Kept<K> {
    fn touch(&mut self, user: &K, now: Moment) -> Option<Arc<Mutex<Sealer>>> {
        let entry = self.sealers.get_mut(user)?;
        self.order.remove(&entry.used);
        self.uses = self.uses.saturating_add(1);
        (entry.used, entry.since) = (self.uses, now);
        self.order.insert(self.uses, user.clone());
        Some(entry.sealer.clone())
    }

    fn insert(&mut self, user: &K, sealer: Arc<Mutex<Sealer>>, since: Moment) {
        self.uses = self.uses.saturating_add(1);
        self.order.insert(self.uses, user.clone());
        self.sealers.insert(user.clone(), Entry { sealer, used: self.uses, since });
    }

    fn remove(&mut self, user: &K) {
        if let Some(entry) = self.sealers.remove(user) {
            self.order.remove(&entry.used);
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, user)) = self.order.pop_first() {
            self.sealers.remove(&user);
        }
    }

    fn forget_idle(&mut self, clock: &Clock, idle: Duration) {
        while let Some((_, user)) = self.order.first_key_value()
            && self.sealers.get(user).is_none_or(|entry| clock.since(entry.since) >= idle)
        {
            self.forget_oldest();
        }
    }
}

/// Shows how many there are, and not whose.
impl<K> fmt::Debug for SealerPool<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealerPool").field("most", &self.most).field("idle", &self.idle).finish_non_exhaustive()
    }
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

    use super::*;
    use crate::Cmk;

    fn salt(sealed: &[u8]) -> [u8; 16] {
        sealed[21..37].try_into().unwrap()
    }

    /// A bounded number of sealers, the last used of them; each user has a DEK of his own, and another after he was let go.
    #[test]
    fn the_last_used_are_kept() {
        let time = Arc::new(AtomicU64::new(1000));
        let made = Arc::new(AtomicUsize::new(0));
        let (counted, to) = (made.clone(), Cmk::from_x25519(&[1; 32]).recipient().clone());
        let pool = SealerPool::new(3, Duration::from_secs(60), move |user: &u8| {
            counted.fetch_add(1, Ordering::SeqCst);
            if *user == 9 { Err(SealError::NoRecipient) } else { Sealer::builder().to(to.clone()).build() }
        });
        let pool = pool.at(Clock::Injected(time.clone()));
        assert!(pool.is_empty());
        let of = |user: u8| salt(&pool.seal(&user, b"", b"x").unwrap());
        let first = [of(1), of(2), of(3)];
        assert_eq!((first, made.load(Ordering::SeqCst)), ([of(1), of(2), of(3)], 3));
        assert_eq!(of(1), first[0], "used last");
        let fourth = of(4);
        assert_eq!(pool.len(), 3);
        assert_eq!((of(1), of(3), of(4)), (first[0], first[2], fourth));
        assert_ne!(of(2), first[1], "it was let go");
        assert_eq!((pool.len(), made.load(Ordering::SeqCst)), (3, 5));
        // One that cannot be made takes nobody's place.
        assert_eq!(pool.seal(&9, b"", b"x"), Err(SealError::NoRecipient));
        assert_eq!(pool.len(), 3);
        // Of no use for a minute, all but the one that was.
        time.store(1059, Ordering::SeqCst);
        let still = of(4);
        time.store(1060, Ordering::SeqCst);
        assert_eq!(of(4), still);
        assert_eq!(pool.len(), 1);
        pool.forget(&4);
        pool.forget(&4);
        assert!(pool.is_empty());
        assert_ne!(of(4), still);
    }

    /// Many threads and few places: everything is sealed, and no number of a DEK twice.
    #[test]
    fn threads_share_it() {
        let cmk = Cmk::from_x25519(&[1; 32]);
        let to = cmk.recipient().clone();
        let pool = SealerPool::new(3, Duration::from_secs(60), move |_: &u32| Sealer::builder().to(to.clone()).build());
        let all: Vec<Vec<u8>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4u32)
                .map(|t| {
                    let pool = &pool;
                    scope.spawn(move || (0..500).map(|i| pool.seal(&((i + t) % 5), b"", b"x").unwrap()).collect::<Vec<_>>())
                })
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        let names: std::collections::HashSet<_> = all.iter().map(|sealed| (salt(sealed), sealed[153..161].to_vec())).collect();
        assert_eq!(names.len(), 2000);
        assert!(pool.len() <= 3);
    }
}
