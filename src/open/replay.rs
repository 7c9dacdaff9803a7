//! What has been opened already (spec 10.4).

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{OpenError, PolicyError, Standing};
use crate::keys::VerifyingKey;

/// What a message is known by. A rewrap changes none of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Name {
    /// The public name of the DEK under its salt.
    pub(super) commitment: [u8; 32],
    pub(super) seq: u64,
    /// Whose proof it has and whether that covers the message: a reader who takes the proof off, or puts his own there, has
    /// made another message.
    pub(super) proof: Option<(VerifyingKey, bool)>,
}

/// A message as a window sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    pub(super) name: Name,
    /// Whose names it is counted among. By standing too: what is known to be his is not crowded out by what others made of
    /// his DEKs.
    pub(super) sender: Option<(VerifyingKey, Standing)>,
    pub(super) created_at: u64,
    /// Seconds for which the policy lets a block of this age pass, tolerance included.
    pub(super) lifetime: u64,
    pub(super) now: u64,
}

/// A window of the messages that were opened, so that none is taken twice; shared by its clones.
///
/// It lives in memory. It goes with a maximum age ([`Policy::max_age`](crate::Policy::max_age)): a name stays until its block is too
/// old to pass, so nothing is ever forgotten early, and a window that is full refuses what it does not know.
/// With a list of senders each of them has a window of its own. A name takes about 300 bytes.
///
/// A message counts as seen once [`Opened::commit`](crate::Opened::commit) has been called for it, when the application has it for
/// good. One that was dropped before (a handler that failed, a task that was cancelled) may come again.
///
/// ```
/// use std::time::Duration;
/// use sealwire::{Cmk, Keyring, OpenError, Opener, Policy, ReplayWindow, seal};
/// let cmk = Cmk::generate()?;
/// let envelope = seal(b"pay 5", &[cmk.recipient().clone()])?;
/// let max_age = Some(Duration::from_secs(2 * 3600));
/// let policy = Policy { max_age, replay: Some(ReplayWindow::new(100_000)), ..Policy::default() };
/// let opener = Opener::builder(Keyring::from(cmk)).policy(policy).build();
/// let opened = opener.open(&envelope)?;
/// // … the application keeps what was in it …
/// opened.commit();
/// assert!(matches!(opener.open(&envelope), Err(OpenError::Duplicate)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct ReplayWindow(Arc<Mutex<Names>>);

struct Names {
    capacity: usize,
    known: HashMap<Name, Entry>,
    /// In the order in which they may be forgotten.
    by_age: BTreeSet<(u64, Name)>,
    counts: HashMap<Option<(VerifyingKey, Standing)>, usize>,
    /// The longest lifetime that a policy has asked for.
    lifetime: u64,
    /// The latest created_at of what has been forgotten: nothing of that age or older is new, whatever the clock says now.
    forgotten: Option<u64>,
    entered: u64,
}

#[derive(Clone, Copy)]
struct Entry {
    /// Tells this entry from another of the same name.
    id: u64,
    committed: bool,
    created_at: u64,
    sender: Option<(VerifyingKey, Standing)>,
}

impl ReplayWindow {
    /// A window of so many names, for each sender where there is a list of them.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let (known, by_age, counts) = (HashMap::new(), BTreeSet::new(), HashMap::new());
        Self(Arc::new(Mutex::new(Names { capacity, known, by_age, counts, lifetime: 0, forgotten: None, entered: 0 })))
    }

    // Every change leaves the maps whole, also where another thread panicked with the lock held.
    fn lock(&self) -> MutexGuard<'_, Names> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the message could be entered. Asked before anything is decrypted.
    pub(super) fn has_room(&self, candidate: &Candidate) -> Result<(), PolicyError> {
        self.lock().admit(candidate)
    }

    /// Whether a message is neither seen nor in hand.
    pub(super) fn check_new(&self, candidate: &Candidate) -> Result<(), OpenError> {
        self.lock().check_new(&candidate.name)
    }

    /// Enters a message that is authentic, in hand until it is committed. [RPL-2]
    pub(super) fn enter(&self, candidate: &Candidate) -> Result<Receipt, OpenError> {
        let mut names = self.lock();
        names.admit(candidate)?;
        names.check_new(&candidate.name)?;
        let id = names.insert(candidate);
        drop(names);
        Ok(Receipt { window: self.clone(), name: candidate.name, id, committed: AtomicBool::new(false) })
    }
}

impl Names {
    fn check_new(&self, name: &Name) -> Result<(), OpenError> {
        match self.known.get(name) {
            Some(Entry { committed: true, .. }) => Err(OpenError::Duplicate),
            Some(Entry { committed: false, .. }) => Err(OpenError::InHand),
            None => Ok(()),
        }
    }

    /// Whether a message is known already, or new enough and has room.
    fn admit(&mut self, candidate: &Candidate) -> Result<(), PolicyError> {
        let Candidate { name, sender, created_at, lifetime, now } = *candidate;
        self.lifetime = self.lifetime.max(lifetime);
        self.forget(now);
        if self.known.contains_key(&name) {
            return Ok(());
        }
        // [RPL-1] Its age was looked at before; it may have run out meanwhile, and the clock may have gone back.
        if created_at.saturating_add(lifetime) < now || self.forgotten.is_some_and(|forgotten| created_at <= forgotten) {
            return Err(PolicyError::OlderThanTheWindow);
        }
        // [RPL-3] [RPL-4]
        if self.counts.get(&sender).is_some_and(|count| *count >= self.capacity) || self.capacity == 0 {
            return Err(PolicyError::WindowFull { capacity: self.capacity });
        }
        Ok(())
    }

    /// Lets go of what no policy would let pass any more. [RPL-1]
    fn forget(&mut self, now: u64) {
        while let Some((created_at, name)) = self.by_age.first().copied()
            && created_at.saturating_add(self.lifetime) < now
        {
            self.forgotten = self.forgotten.max(Some(created_at));
            self.remove(&name);
        }
    }

    fn insert(&mut self, candidate: &Candidate) -> u64 {
        let Candidate { name, sender, created_at, .. } = *candidate;
        self.entered = self.entered.saturating_add(1);
        self.known.insert(name, Entry { id: self.entered, committed: false, created_at, sender });
        self.by_age.insert((created_at, name));
        *self.counts.entry(sender).or_default() += 1;
        self.entered
    }

    fn remove(&mut self, name: &Name) {
        let Some(Entry { created_at, sender, .. }) = self.known.remove(name) else { return };
        self.by_age.remove(&(created_at, *name));
        if let Some(count) = self.counts.get_mut(&sender) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&sender);
            }
        }
    }
}

/// A message in hand: seen once committed, as if it had never come when dropped before. [RPL-5]
pub(crate) struct Receipt {
    window: ReplayWindow,
    name: Name,
    id: u64,
    committed: AtomicBool,
}

impl Receipt {
    pub(crate) fn commit(&self) {
        self.committed.store(true, Ordering::SeqCst);
        if let Some(entry) = self.window.lock().known.get_mut(&self.name).filter(|entry| entry.id == self.id) {
            entry.committed = true;
        }
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        if self.committed.load(Ordering::SeqCst) {
            return;
        }
        let mut names = self.window.lock();
        if names.known.get(&self.name).is_some_and(|entry| entry.id == self.id) {
            names.remove(&self.name);
        }
    }
}

/// Shows how many names there are.
impl fmt::Debug for ReplayWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.lock();
        f.debug_struct("ReplayWindow").field("capacity", &names.capacity).field("names", &names.known.len()).finish()
    }
}
