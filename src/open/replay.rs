//! What has been opened already (spec 10.4).

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{OpenError, PolicyError};
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
pub struct ReplayWindow(Arc<Mutex<Windows>>);

struct Windows {
    capacity: usize,
    by_sender: HashMap<Option<VerifyingKey>, Names>,
}

#[derive(Default)]
struct Names {
    known: HashMap<Name, State>,
    by_expiry: BTreeSet<(u64, Name)>,
}

#[derive(Clone, Copy)]
struct State {
    committed: bool,
    expires: u64,
}

impl ReplayWindow {
    /// A window of so many names, for each sender where there is a list of them.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self(Arc::new(Mutex::new(Windows { capacity, by_sender: HashMap::new() })))
    }

    // Every change leaves the maps whole, also where another thread panicked with the lock held.
    fn lock(&self) -> MutexGuard<'_, Windows> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a message of this name could be entered. Asked before anything is decrypted.
    pub(super) fn has_room(&self, sender: Option<VerifyingKey>, name: &Name, now: u64) -> Result<(), PolicyError> {
        self.lock().names(sender, name, now).map(|_| ())
    }

    /// Enters a message that is authentic, in hand until it is committed. [RPL-2]
    pub(super) fn enter(&self, sender: Option<VerifyingKey>, name: Name, expires: u64, now: u64) -> Result<Receipt, OpenError> {
        let mut windows = self.lock();
        let names = windows.names(sender, &name, now)?;
        match names.known.get(&name) {
            Some(State { committed: true, .. }) => return Err(OpenError::Duplicate),
            Some(State { committed: false, .. }) => return Err(OpenError::InHand),
            None => {}
        }
        names.known.insert(name, State { committed: false, expires });
        names.by_expiry.insert((expires, name));
        drop(windows);
        Ok(Receipt { window: self.clone(), sender, name, committed: AtomicBool::new(false) })
    }
}

impl Windows {
    /// The names of a sender, where this one is among them or there is room for it. [RPL-4]
    fn names(&mut self, sender: Option<VerifyingKey>, name: &Name, now: u64) -> Result<&mut Names, PolicyError> {
        let names = self.by_sender.entry(sender).or_default();
        names.purge(now);
        // [RPL-3]
        if names.known.len() >= self.capacity && !names.known.contains_key(name) {
            return Err(PolicyError::WindowFull { capacity: self.capacity });
        }
        Ok(names)
    }
}

impl Names {
    /// Lets go of what no policy would let pass any more. [RPL-1]
    fn purge(&mut self, now: u64) {
        while let Some((expires, name)) = self.by_expiry.first().copied().filter(|(expires, _)| *expires < now) {
            self.by_expiry.remove(&(expires, name));
            self.known.remove(&name);
        }
    }

    fn remove(&mut self, name: &Name) {
        if let Some(State { expires, .. }) = self.known.remove(name) {
            self.by_expiry.remove(&(expires, *name));
        }
    }
}

/// A message in hand: seen once committed, as if it had never come when dropped before. [RPL-5]
pub(super) struct Receipt {
    window: ReplayWindow,
    sender: Option<VerifyingKey>,
    name: Name,
    committed: AtomicBool,
}

impl Receipt {
    pub(super) fn commit(&self) {
        self.committed.store(true, Ordering::SeqCst);
        let mut windows = self.window.lock();
        if let Some(state) = windows.by_sender.get_mut(&self.sender).and_then(|names| names.known.get_mut(&self.name)) {
            state.committed = true;
        }
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        if !self.committed.load(Ordering::SeqCst)
            && let Some(names) = self.window.lock().by_sender.get_mut(&self.sender)
        {
            names.remove(&self.name);
        }
    }
}

/// Shows how many names there are.
impl fmt::Debug for ReplayWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let windows = self.lock();
        let names: usize = windows.by_sender.values().map(|names| names.known.len()).sum();
        f.debug_struct("ReplayWindow").field("capacity", &windows.capacity).field("names", &names).finish()
    }
}
