use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use super::{Cmk, Decapsulator, Fingerprint};
#[cfg(feature = "kms")]
use crate::wire::Kem;
use crate::wire::{DekBlock, HintMode};

/// So many keys are few: they are tried on the slots one by one.
const FEW_KEYS: usize = 8;

/// The keys that an opener opens with. Clones share one set, which may change while openers use it: a key that is
/// taken out opens nothing more, not even what is cached.
///
/// ```
/// use sealwire::{Cmk, Keyring};
/// let cmk = Cmk::generate().expect("the system has entropy");
/// let name = cmk.recipient().fingerprint();
/// let keyring = Keyring::from(cmk);
/// assert!(keyring.contains(&name));
/// keyring.remove(&name);
/// assert!(keyring.is_empty());
/// ```
#[derive(Clone, Default)]
pub struct Keyring(Arc<RwLock<Keys>>);

#[derive(Default)]
struct Keys {
    /// In the order in which they were added: trials are made in that order.
    in_order: BTreeMap<u64, Arc<dyn Decapsulator>>,
    by_name: HashMap<Fingerprint, u64>,
    by_static_hint: HashMap<[u8; 4], Vec<u64>>,
    added: u64,
}

/// A key that may open a block, and the hint its slots carry; every slot where there are no hints.
pub(crate) struct Candidate {
    pub(crate) key: Arc<dyn Decapsulator>,
    pub(crate) hint: Option<[u8; 4]>,
}

impl Keyring {
    /// A keyring without a key.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a CMK.
    pub fn add(&self, cmk: Cmk) {
        self.add_decapsulator(Arc::new(cmk));
    }

    /// Adds a key that is held elsewhere.
    pub fn add_decapsulator(&self, key: Arc<dyn Decapsulator>) {
        let name = key.recipient().fingerprint();
        let mut keys = self.write();
        if let Some(place) = keys.by_name.get(&name).copied() {
            keys.in_order.insert(place, key);
            return;
        }
        let place = keys.added;
        keys.added += 1;
        keys.in_order.insert(place, key);
        keys.by_name.insert(name, place);
        keys.by_static_hint.entry(name.static_hint()).or_default().push(place);
    }

    /// Takes a key out; tells whether it was there.
    pub fn remove(&self, name: &Fingerprint) -> bool {
        let mut keys = self.write();
        let Some(place) = keys.by_name.remove(name) else { return false };
        if let Some(places) = keys.by_static_hint.get_mut(&name.static_hint()) {
            places.retain(|p| *p != place);
        }
        keys.in_order.remove(&place).is_some()
    }

    /// Whether a key is there.
    #[must_use]
    pub fn contains(&self, name: &Fingerprint) -> bool {
        self.read().by_name.contains_key(name)
    }

    /// Whether nobody else can use a key; `None` where it is not there.
    pub(crate) fn is_mine_alone(&self, name: &Fingerprint) -> Option<bool> {
        let keys = self.read();
        Some(keys.in_order.get(keys.by_name.get(name)?)?.is_mine_alone())
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.read().by_name.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The keys whose hint stands in the block; all of them where it has none. No key operation is done here.
    pub(crate) fn candidates(&self, block: &DekBlock<'_>) -> Vec<Candidate> {
        let keys = self.read();
        let kem = block.suite.kem();
        let mut found = match block.options.hints {
            HintMode::None => keys.all(),
            HintMode::Static => keys.by_static_hints(block),
            HintMode::Rotating => keys.by_rotating_hints(block),
        };
        found.retain(|candidate| candidate.key.recipient().kem() == kem);
        found
    }

    /// All keys of one kind.
    #[cfg(feature = "kms")]
    pub(crate) fn of_kem(&self, kem: Kem) -> Vec<Candidate> {
        let mut all = self.read().all();
        all.retain(|candidate| candidate.key.recipient().kem() == kem);
        all
    }

    // A panic elsewhere while the lock was held leaves a set of keys that is whole: every change is one insert or
    // one removal.
    fn read(&self) -> RwLockReadGuard<'_, Keys> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Keys> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Keys {
    fn all(&self) -> Vec<Candidate> {
        self.in_order.values().map(|key| Candidate { key: key.clone(), hint: None }).collect()
    }

    fn by_static_hints(&self, block: &DekBlock<'_>) -> Vec<Candidate> {
        // Few keys are asked for their slots; many are looked up by the hints of the slots.
        if self.in_order.len() <= FEW_KEYS {
            return self.by_hint(block, |name| name.static_hint());
        }
        let mut seen = HashSet::new();
        let hints = block.slots.iter().map(|slot| slot.hint).filter(|hint| seen.insert(*hint));
        let places: BTreeMap<u64, [u8; 4]> = hints
            .flat_map(|hint| self.by_static_hint.get(&hint).into_iter().flatten().map(move |place| (*place, hint)))
            .collect();
        let candidate = |(place, hint)| Some(Candidate { key: self.in_order.get(&place)?.clone(), hint: Some(hint) });
        places.into_iter().filter_map(candidate).collect()
    }

    fn by_rotating_hints(&self, block: &DekBlock<'_>) -> Vec<Candidate> {
        self.by_hint(block, |name| name.rotating_hint(block.salt))
    }

    /// The keys whose hint, as `hint_of` makes it, stands in the block.
    fn by_hint(&self, block: &DekBlock<'_>, hint_of: impl Fn(Fingerprint) -> [u8; 4]) -> Vec<Candidate> {
        // A set costs more to make than a few walks through the slots.
        let set: Option<HashSet<_>> =
            (self.in_order.len() > FEW_KEYS).then(|| block.slots.iter().map(|slot| slot.hint).collect());
        let stands_there = |hint: &[u8; 4]| match &set {
            Some(hints) => hints.contains(hint),
            None => block.slots.iter().any(|slot| slot.hint == *hint),
        };
        let hinted = self.in_order.values().map(|key| (hint_of(key.recipient().fingerprint()), key));
        hinted
            .filter(|(hint, _)| stands_there(hint))
            .map(|(hint, key)| Candidate { key: key.clone(), hint: Some(hint) })
            .collect()
    }
}

impl From<Cmk> for Keyring {
    fn from(cmk: Cmk) -> Self {
        Self::from_iter([cmk])
    }
}

impl FromIterator<Cmk> for Keyring {
    fn from_iter<I: IntoIterator<Item = Cmk>>(cmks: I) -> Self {
        let keyring = Self::new();
        cmks.into_iter().for_each(|cmk| keyring.add(cmk));
        keyring
    }
}

/// Shows the names of the keys.
impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.read().by_name.keys()).finish()
    }
}
