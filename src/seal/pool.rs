//! Sealers by user, a bounded number of them (spec 10.1).

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    hash::Hash,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
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
    /// Users whose sealers are being made, by how many threads, and how often they were forgotten meanwhile.
    made: HashMap<K, (usize, u64)>,
}

struct Entry {
    sealer: Arc<Shared>,
    used: u64,
    since: Moment,
}

/// A sealer that several threads have in hand.
struct Shared {
    sealer: Mutex<Sealer>,
    is_forgotten: AtomicBool,
}

impl<K: Clone + Eq + Hash> SealerPool<K> {
    /// At most `most` sealers, at least one; each is let go when it was of no use for `idle`, whenever the pool is next used. `make` makes a
    /// user's sealer, with his recipients and settings.
    pub fn new(most: usize, idle: Duration, make: impl Fn(&K) -> Result<Sealer, SealError> + Send + Sync + 'static) -> Self {
        let kept = Kept { sealers: HashMap::new(), order: BTreeMap::new(), uses: 0, made: HashMap::new() };
        Self { most: most.max(1), idle, make: Box::new(make), clock: Clock::default(), kept: Mutex::new(kept) }
    }

    /// Seals `payload` with the user's sealer ([`Sealer::seal`]). Where its data key is used up, with the next one that is made for him.
    ///
    /// # Errors
    /// [`SealError`], of making the sealer too; nothing leaves.
    pub fn seal(&self, user: &K, context: &[u8], payload: &[u8]) -> Result<Vec<u8>, SealError> {
        let seal = || self.with(user, |sealer| sealer.seal(context, payload));
        match seal() {
            Err(SealError::DataKeySpent) => seal(),
            sealed => sealed,
        }
    }

    /// Does something with the user's sealer. One that can seal no more, since its data key is used up or the process has forked, is let go.
    ///
    /// # Errors
    /// Those of making the sealer, and those of `call`.
    pub fn with<T>(&self, user: &K, call: impl FnOnce(&mut Sealer) -> Result<T, SealError>) -> Result<T, SealError> {
        loop {
            let shared = self.sealer(user)?;
            let mut sealer = shared.sealer.lock().unwrap_or_else(PoisonError::into_inner);
            // Forgotten while it was waited for: he has another by now.
            if shared.is_forgotten.load(Ordering::Acquire) {
                continue;
            }
            let done = call(&mut sealer);
            if matches!(done, Err(SealError::DataKeySpent | SealError::Forked)) {
                drop(sealer);
                self.lock().remove_if(user, &shared);
            }
            return done;
        }
    }

    /// Lets the user's sealer go, with its DEK: he has other recipients now, or is gone. What is called from now on gets one that is made from
    /// now on; a call that has the sealer in hand finishes with it.
    pub fn forget(&self, user: &K) {
        let mut kept = self.lock();
        if let Some((_, forgotten)) = kept.made.get_mut(user) {
            *forgotten = forgotten.saturating_add(1);
        }
        kept.remove(user);
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

    fn sealer(&self, user: &K) -> Result<Arc<Shared>, SealError> {
        loop {
            let mut kept = self.lock();
            kept.forget_idle(&self.clock, self.idle);
            if let Some(shared) = kept.touch(user, &self.clock) {
                return Ok(shared);
            }
            let before = kept.making(user);
            drop(kept);
            // Made without the lock: it may take long, and other users do not wait for it.
            let made = Making { pool: self, user };
            let sealer = (self.make)(user);
            let mut kept = self.lock();
            let is_stale = kept.made.get(user).is_none_or(|(_, forgotten)| *forgotten != before);
            made.done(&mut kept);
            let shared = Arc::new(Shared { sealer: Mutex::new(sealer?), is_forgotten: AtomicBool::new(false) });
            // What he was when it was made, he is no more.
            if is_stale {
                continue;
            }
            // Whoever was faster has made the one.
            if let Some(shared) = kept.touch(user, &self.clock) {
                return Ok(shared);
            }
            while kept.sealers.len() >= self.most {
                kept.forget_oldest();
            }
            kept.insert(user, shared.clone(), &self.clock);
            return Ok(shared);
        }
    }

    // Every change leaves the maps whole, also where another thread panicked with the lock held.
    fn lock(&self) -> MutexGuard<'_, Kept<K>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(all(test, feature = "testing"))]
    fn at(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }
}

/// A sealer that is being made, also where that panics.
struct Making<'a, K: Clone + Eq + Hash> {
    pool: &'a SealerPool<K>,
    user: &'a K,
}

impl<K: Clone + Eq + Hash> Making<'_, K> {
    fn done(self, kept: &mut Kept<K>) {
        kept.has_made(self.user);
        std::mem::forget(self);
    }
}

impl<K: Clone + Eq + Hash> Drop for Making<'_, K> {
    fn drop(&mut self) {
        self.pool.lock().has_made(self.user);
    }
}

impl<K: Clone + Eq + Hash> Kept<K> {
    /// Begins to make a user's sealer; tells how often he was forgotten meanwhile.
    fn making(&mut self, user: &K) -> u64 {
        let (threads, forgotten) = self.made.entry(user.clone()).or_default();
        *threads = threads.saturating_add(1);
        *forgotten
    }

    fn has_made(&mut self, user: &K) {
        if let Some((threads, _)) = self.made.get_mut(user) {
            *threads = threads.saturating_sub(1);
            if *threads == 0 {
                self.made.remove(user);
            }
        }
    }

    fn touch(&mut self, user: &K, clock: &Clock) -> Option<Arc<Shared>> {
        let entry = self.sealers.get_mut(user)?;
        self.order.remove(&entry.used);
        self.uses = self.uses.saturating_add(1);
        (entry.used, entry.since) = (self.uses, clock.now());
        self.order.insert(self.uses, user.clone());
        Some(entry.sealer.clone())
    }

    fn insert(&mut self, user: &K, sealer: Arc<Shared>, clock: &Clock) {
        self.uses = self.uses.saturating_add(1);
        self.order.insert(self.uses, user.clone());
        self.sealers.insert(user.clone(), Entry { sealer, used: self.uses, since: clock.now() });
    }

    fn remove(&mut self, user: &K) {
        if let Some(entry) = self.sealers.remove(user) {
            entry.sealer.is_forgotten.store(true, Ordering::Release);
            self.order.remove(&entry.used);
        }
    }

    fn remove_if(&mut self, user: &K, shared: &Arc<Shared>) {
        if self.sealers.get(user).is_some_and(|entry| Arc::ptr_eq(&entry.sealer, shared)) {
            self.remove(user);
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, user)) = self.order.first_key_value() {
            let user = user.clone();
            self.remove(&user);
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
    use std::sync::{
        Barrier,
        atomic::{AtomicU64, AtomicUsize},
    };

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

    /// Whoever is forgotten while his sealer is made gets one that is made afterwards; and so where it is waited for.
    #[test]
    fn who_is_forgotten_is_looked_up_again() {
        let keys = [1, 2].map(|byte| Cmk::from_x25519(&[byte; 32]));
        let to: Vec<_> = keys.iter().map(|cmk| cmk.recipient().clone()).collect();
        let (made, meet) = (Arc::new(AtomicUsize::new(0)), Arc::new(Barrier::new(2)));
        let (counted, met) = (made.clone(), meet.clone());
        let pool = SealerPool::new(3, Duration::from_secs(60), move |_: &u8| {
            let first = counted.fetch_add(1, Ordering::SeqCst) == 0;
            let sealer = Sealer::builder().to(to[usize::from(!first)].clone()).build();
            if first {
                // Looked up, and forgotten before it is there.
                met.wait();
                met.wait();
            }
            sealer
        });
        std::thread::scope(|scope| {
            let sealed = scope.spawn(|| pool.seal(&7, b"", b"x").unwrap());
            meet.wait();
            pool.forget(&7);
            meet.wait();
            let sealed = sealed.join().unwrap();
            assert!(crate::open(&sealed, &crate::Keyring::from(Cmk::from_x25519(&[2; 32]))).is_ok());
        });
        assert_eq!((made.load(Ordering::SeqCst), pool.len(), pool.lock().made.len()), (2, 1, 0));
        // Forgotten while another call had it in hand.
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                pool.with(&7, |_| {
                    meet.wait();
                    meet.wait();
                    Ok(())
                })
            });
            meet.wait();
            let waits = scope.spawn(|| pool.seal(&7, b"", b"y").unwrap());
            while Arc::strong_count(&pool.lock().sealers[&7].sealer) < 3 {
                std::thread::yield_now();
            }
            pool.forget(&7);
            meet.wait();
            inside.join().unwrap().unwrap();
            waits.join().unwrap();
        });
        assert_eq!(made.load(Ordering::SeqCst), 3);
    }

    /// A data key that is used up is followed by another; what cannot be made is tried again the next time, and a panic leaves nothing.
    #[test]
    fn the_next_data_key() {
        let made = Arc::new(AtomicUsize::new(0));
        let counted = made.clone();
        let pool = SealerPool::new(3, Duration::from_secs(60), move |user: &u8| {
            let n = u8::try_from(counted.fetch_add(1, Ordering::SeqCst)).unwrap();
            assert_ne!(*user, 9, "this one panics");
            let data_key = crate::DataKey::from_kms("kms", "k", &[n; 32], &[n]).unwrap();
            Sealer::builder().data_key(data_key).reuse(crate::Reuse { messages: 2, ..crate::Reuse::default() }).build()
        });
        let names: std::collections::HashSet<_> = (0..6).map(|_| salt(&pool.seal(&1, b"", b"x").unwrap())).collect();
        assert_eq!((names.len(), made.load(Ordering::SeqCst), pool.len()), (3, 3, 1));
        let spent = pool.with(&1, |sealer| sealer.seal(b"", b"x").and(Err::<(), _>(SealError::DataKeySpent)));
        assert_eq!((spent, pool.len()), (Err(SealError::DataKeySpent), 0));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| pool.seal(&9, b"", b"x"))).is_err());
        assert_eq!((pool.len(), pool.lock().made.len()), (0, 0));
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
