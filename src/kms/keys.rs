//! The CMKs of a service in memory, how they change, and the bytes that a store keeps of them (spec/kms.md 8).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use bytes::BufMut;
use zeroize::Zeroizing;

use super::key::{ALIASES_MAX, Alias, KEYS_MAX, KeyId, KeyInfo, KeyRef, KeyState, PublicKey, VERSIONS_MAX};
use crate::{
    keys::{Cmk, Fingerprint, Keyring, Recipient},
    platform::{Entropy, EntropyError},
    wire::{Kem, LimitExceeded, ParseError, Reader, len64},
};

/// One version of a CMK. Its number is its place, from 1.
#[derive(Clone)]
pub(crate) struct Version {
    pub(crate) created_at: u64,
    pub(crate) recipient: Recipient,
    /// Gone when the CMK is destroyed.
    pub(crate) cmk: Option<Arc<Cmk>>,
}

/// A CMK with all of its versions.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) id: KeyId,
    pub(crate) kem: Kem,
    pub(crate) state: KeyState,
    pub(crate) created_at: u64,
    pub(crate) versions: Vec<Version>,
}

impl Version {
    pub(crate) fn generate(kem: Kem, now: u64, entropy: &mut Entropy) -> Result<Self, EntropyError> {
        let cmk = match kem {
            Kem::X25519 => Cmk::generate_from(entropy)?,
            #[cfg(feature = "pq")]
            Kem::XWing => Cmk::from_seed(entropy.secret()?),
            #[cfg(not(feature = "pq"))]
            Kem::XWing => return Err(EntropyError),
        };
        Ok(Self { created_at: now, recipient: cmk.recipient().clone(), cmk: Some(Arc::new(cmk)) })
    }
}

impl Entry {
    /// The newest version and its number.
    pub(crate) fn newest(&self) -> (u32, &Version) {
        let number = u32::try_from(self.versions.len()).unwrap_or(u32::MAX);
        (number, &self.versions[self.versions.len() - 1])
    }

    pub(crate) fn version(&self, number: u32) -> Option<&Version> {
        self.versions.get(usize::try_from(number).ok()?.checked_sub(1)?)
    }

    pub(crate) fn public_key(&self) -> PublicKey {
        let (version, newest) = self.newest();
        PublicKey { id: self.id, version, recipient: newest.recipient.clone() }
    }

    /// The same in another state; without its secret halves where that is destroyed.
    pub(crate) fn in_state(&self, state: KeyState) -> Self {
        let mut entry = Self { state, ..self.clone() };
        if let KeyState::Destroyed { .. } = state {
            entry.versions.iter_mut().for_each(|version| version.cmk = None);
        }
        entry
    }
}

/// A change of what a service keeps. Changes are made durable before they are applied.
pub(crate) enum Change {
    /// A CMK that is new, or takes the place of the one with its id.
    Key(Entry),
    /// An alias names this CMK, or none.
    Alias(Alias, Option<KeyId>),
}

/// The CMKs of a service.
#[derive(Default)]
pub(crate) struct Keys {
    by_id: BTreeMap<KeyId, Entry>,
    aliases: BTreeMap<Alias, KeyId>,
    /// The same the other way: a look at one CMK does not go through the aliases of all.
    names: HashMap<KeyId, BTreeSet<Alias>>,
    /// Which version a public half is of.
    by_name: HashMap<Fingerprint, (KeyId, u32)>,
    /// The versions that may be used, to be found by the hints of a block.
    ring: Keyring,
}

impl Keys {
    pub(crate) fn find(&self, key: &KeyRef) -> Option<&Entry> {
        match key {
            KeyRef::Id(id) => self.by_id.get(id),
            KeyRef::Alias(alias) => self.by_id.get(self.aliases.get(alias)?),
        }
    }

    pub(crate) fn alias(&self, alias: &Alias) -> Option<KeyId> {
        self.aliases.get(alias).copied()
    }

    pub(crate) fn aliases_of(&self, id: KeyId) -> impl Iterator<Item = &Alias> {
        self.names.get(&id).into_iter().flatten()
    }

    /// All of them after one, in the order of their ids.
    pub(crate) fn after(&self, after: Option<KeyId>) -> impl Iterator<Item = &Entry> {
        use std::ops::Bound::{Excluded, Unbounded};
        self.by_id.range((after.map_or(Unbounded, Excluded), Unbounded)).map(|(_, entry)| entry)
    }

    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// What may be used now, to be found by hints.
    pub(crate) fn ring(&self) -> &Keyring {
        &self.ring
    }

    /// Which CMK and version has this public half.
    pub(crate) fn named(&self, name: &Fingerprint) -> Option<(&Entry, u32)> {
        let (id, version) = self.by_name.get(name)?;
        Some((self.by_id.get(id)?, *version))
    }

    pub(crate) fn info(&self, entry: &Entry, now: u64) -> KeyInfo {
        let (version, newest) = entry.newest();
        KeyInfo {
            id: entry.id,
            aliases: self.aliases_of(entry.id).cloned().collect(),
            kem: entry.kem,
            state: entry.state.at(now),
            created_at: entry.created_at,
            version,
            rotated_at: newest.created_at,
        }
    }

    /// What is to be destroyed by now and still has its secret halves.
    pub(crate) fn due(&self, now: u64) -> Vec<(KeyId, Change)> {
        let due = self.by_id.values().filter(|entry| entry.state.at(now) != entry.state);
        due.map(|entry| (entry.id, Change::Key(entry.in_state(entry.state.at(now))))).collect()
    }

    /// Bytes of what a store keeps once every CMK is destroyed, when it is longest.
    pub(crate) fn longest(&self) -> usize {
        room(self.by_id.values(), self.aliases.keys())
    }

    pub(crate) fn apply(&mut self, change: Change) {
        match change {
            Change::Key(entry) => {
                for (version, number) in entry.versions.iter().zip(1..) {
                    let name = version.recipient.fingerprint();
                    self.by_name.insert(name, (entry.id, number));
                    match &version.cmk {
                        Some(cmk) if entry.state == KeyState::Enabled => self.ring.add_decapsulator(cmk.clone()),
                        _ => drop(self.ring.remove(&name)),
                    }
                }
                self.by_id.insert(entry.id, entry);
            }
            Change::Alias(alias, to) => self.name(alias, to),
        }
    }

    fn name(&mut self, alias: Alias, to: Option<KeyId>) {
        let before = match to {
            Some(id) => self.aliases.insert(alias.clone(), id),
            None => self.aliases.remove(&alias),
        };
        if let Some(names) = before.and_then(|id| self.names.get_mut(&id)) {
            names.remove(&alias);
        }
        if let Some(id) = to {
            self.names.entry(id).or_default().insert(alias);
        }
    }

    /// What a store keeps, were these changes made. It holds every CMK.
    pub(crate) fn encode_with(&self, changes: &[Change]) -> Zeroizing<Vec<u8>> {
        let (mut keys, mut aliases): (BTreeMap<_, _>, BTreeMap<_, _>) =
            (self.by_id.iter().map(|(id, entry)| (*id, entry)).collect(), self.aliases.iter().collect());
        for change in changes {
            match change {
                Change::Key(entry) => drop(keys.insert(entry.id, entry)),
                Change::Alias(alias, Some(id)) => drop(aliases.insert(alias, id)),
                Change::Alias(alias, None) => drop(aliases.remove(alias)),
            }
        }
        // A buffer that grows leaves copies of keys behind.
        let mut out = Zeroizing::new(Vec::with_capacity(room(keys.values().copied(), aliases.keys().copied())));
        out.put_u8(STATE_VERSION);
        out.put_u32(u32::try_from(keys.len()).unwrap_or(u32::MAX));
        keys.values().for_each(|entry| put_entry(&mut out, entry));
        out.put_u32(u32::try_from(aliases.len()).unwrap_or(u32::MAX));
        for (alias, id) in aliases {
            out.put_u8(u8::try_from(alias.as_str().len()).unwrap_or(u8::MAX));
            out.put_slice(alias.as_str().as_bytes());
            out.put_slice(&id.0);
        }
        out
    }

    /// Reads what a store has kept, to its last byte.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, ParseError> {
        let mut reader = Reader::enclosed(bytes, 0);
        // [KMS-60]
        match reader.u8("version")? {
            STATE_VERSION => {}
            value => return Err(ParseError::Unsupported { field: "version", offset: 0, value: value.into() }),
        }
        let mut keys = Self::default();
        let count = reader.u32("key_count")?;
        LimitExceeded::check("key_count", count.into(), len64(KEYS_MAX))?;
        for _ in 0..count {
            let offset = reader.offset();
            let entry = entry(&mut reader)?;
            // [KMS-61]
            if keys.by_id.last_key_value().is_some_and(|(last, _)| *last >= entry.id) {
                return Err(ParseError::malformed("id", offset, "is not in order"));
            }
            keys.apply(Change::Key(entry));
        }
        let count = reader.u32("alias_count")?;
        LimitExceeded::check("alias_count", count.into(), len64(KEYS_MAX * ALIASES_MAX))?;
        for _ in 0..count {
            let (alias, id) = alias(&mut reader, &keys)?;
            keys.apply(Change::Alias(alias, Some(id)));
        }
        if reader.rest().is_empty() { Ok(keys) } else { Err(ParseError::TrailingBytes { offset: reader.offset() }) }
    }
}

/// The version of the bytes that a store keeps.
const STATE_VERSION: u8 = 1;
/// Bytes of a state without keys: its version and two counts.
const STATE_ROOM: usize = 9;
/// Bytes of a CMK without its versions.
pub(crate) const ENTRY_ROOM: usize = 39;

/// Bytes of a state at the most: of one whose CMKs are destroyed.
fn room<'a>(keys: impl Iterator<Item = &'a Entry>, aliases: impl Iterator<Item = &'a Alias>) -> usize {
    let keys = keys.map(|entry| ENTRY_ROOM + entry.versions.len() * version_room(entry.kem));
    STATE_ROOM + keys.sum::<usize>() + aliases.map(alias_room).sum::<usize>()
}

/// Bytes of a version that is destroyed: a public half is no shorter than a secret one.
pub(crate) fn version_room(kem: Kem) -> usize {
    9 + kem.public_len()
}

/// Bytes of an alias.
pub(crate) fn alias_room(alias: &Alias) -> usize {
    17 + alias.as_str().len()
}

const SECRET: u8 = 1;
const PUBLIC: u8 = 0;

fn put_entry(out: &mut Vec<u8>, entry: &Entry) {
    out.put_slice(&entry.id.0);
    out.put_u16(entry.kem.id());
    super::message::put_state(out, entry.state);
    out.put_u64(entry.created_at);
    out.put_u32(u32::try_from(entry.versions.len()).unwrap_or(u32::MAX));
    for version in &entry.versions {
        out.put_u64(version.created_at);
        match &version.cmk {
            Some(cmk) => {
                out.put_u8(SECRET);
                out.put_slice(cmk.secret_bytes());
            }
            None => {
                out.put_u8(PUBLIC);
                out.put_slice(version.recipient.public_key());
            }
        }
    }
}

fn entry(reader: &mut Reader<'_>) -> Result<Entry, ParseError> {
    let id = KeyId(*reader.array("id")?);
    let (kem, state) = (super::message::kem(reader)?, super::message::state(reader)?);
    let created_at = reader.u64("created_at")?;
    let (offset, count) = (reader.offset(), reader.u32("version_count")?);
    LimitExceeded::check("version_count", count.into(), len64(VERSIONS_MAX))?;
    // [KMS-62]
    if count == 0 {
        return Err(ParseError::malformed("version_count", offset, "is zero"));
    }
    let versions = (0..count).map(|_| version(reader, kem, state)).collect::<Result<_, _>>()?;
    Ok(Entry { id, kem, state, created_at, versions })
}

fn version(reader: &mut Reader<'_>, kem: Kem, state: KeyState) -> Result<Version, ParseError> {
    let created_at = reader.u64("created_at")?;
    let offset = reader.offset();
    let is_destroyed = matches!(state, KeyState::Destroyed { .. });
    match reader.u8("half")? {
        SECRET if !is_destroyed => {
            let cmk = super::message::cmk(reader, kem)?;
            Ok(Version { created_at, recipient: cmk.recipient().clone(), cmk: Some(Arc::new(cmk)) })
        }
        PUBLIC if is_destroyed => Ok(Version { created_at, recipient: super::message::recipient_of(reader, kem)?, cmk: None }),
        // [KMS-63]
        _ => Err(ParseError::malformed("half", offset, "is not what the state of its key wants")),
    }
}

fn alias(reader: &mut Reader<'_>, keys: &Keys) -> Result<(Alias, KeyId), ParseError> {
    let offset = reader.offset();
    let malformed = |why| ParseError::malformed("alias", offset, why);
    let alias: Alias = super::message::alias(reader)?;
    let id = KeyId(*reader.array("id")?);
    // [KMS-64]
    if !keys.by_id.contains_key(&id) {
        return Err(malformed("names no key"));
    }
    match keys.aliases.last_key_value() {
        Some((last, _)) if *last >= alias => Err(malformed("is not in order")),
        _ => Ok((alias, id)),
    }
}
