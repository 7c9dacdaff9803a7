//! Caller, request -> answer, what changes, and a line for the audit log (spec/kms.md 6). No I/O: whoever calls this makes the changes
//! durable, and answers only then.

use zeroize::Zeroizing;

use super::{
    KmsError, LIST_MAX, PROVIDER,
    direct::{self, Direct},
    key::{ALIASES_MAX, Alias, KEYS_MAX, KeyId, KeyRef, KeyState, VERSIONS_MAX},
    keys::{Change, ENTRY_ROOM, Entry, Keys, Version, alias_room, version_room},
    message::{Answer, Request, Verb},
    policy::Rights,
    service::{DataKeyPair, KeyUsed, Unwrapped, WrappedDek},
    store::STATE_MAX,
};
use crate::{
    crypto::{
        Refused,
        hpke::{self, Setting},
    },
    keys::{Candidate, Dek, Fingerprint, Recipient},
    open::{
        OpenError,
        search::{Found, count_trial, find_among},
    },
    platform::{Entropy, EntropyError},
    rewrap::Rewrap,
    seal::{SealError, Sealer, block::hint},
    wire::{DekBlock, HintMode, Kem, LimitExceeded, Limits, ParseError, len64},
};

/// Days until a CMK is destroyed: at least.
pub const DELETION_DAYS_MIN: u8 = 7;
/// Days until a CMK is destroyed: at the most.
pub const DELETION_DAYS_MAX: u8 = 30;

const DAY: u64 = 86_400;

/// What came of a request.
pub(crate) struct Handled {
    pub(crate) answer: Result<Answer, KmsError>,
    /// To be made durable and applied, all of them or none, before anyone hears the answer.
    pub(crate) changes: Vec<Change>,
    /// The CMK that it was about, where there is one that the caller may know of.
    pub(crate) about: Option<KeyId>,
}

/// Answers a request. `now` is in seconds since the Unix epoch.
pub(crate) fn handle(keys: &Keys, rights: Rights<'_>, request: Request, now: u64, entropy: &mut Entropy) -> Handled {
    let mut handling = Handling { keys, rights, verb: request.verb(), now, entropy, changes: Vec::new(), about: None };
    let answer = handling.answer(request);
    let Handling { mut changes, about, .. } = handling;
    if answer.is_err() {
        changes.clear();
    }
    Handled { answer, changes, about }
}

struct Handling<'a> {
    keys: &'a Keys,
    rights: Rights<'a>,
    verb: Verb,
    now: u64,
    entropy: &'a mut Entropy,
    changes: Vec<Change>,
    about: Option<KeyId>,
}

impl<'a> Handling<'a> {
    fn answer(&mut self, request: Request) -> Result<Answer, KmsError> {
        match request {
            Request::CreateKey { kem, alias } => self.create(kem, alias),
            Request::ListKeys { after } => self.list(after),
            Request::DescribeKey(key) => self.describe(&key),
            Request::EnableKey(key) => self.change_state(&key, KeyState::Enabled),
            Request::DisableKey(key) | Request::CancelKeyDeletion(key) => self.change_state(&key, KeyState::Disabled),
            Request::ScheduleKeyDeletion { key, days } => self.schedule_deletion(&key, days),
            Request::RotateKey(key) => self.rotate(&key),
            Request::SetAlias { alias, key } => self.set_alias(alias, &key),
            Request::DeleteAlias(alias) => self.delete_alias(alias),
            Request::GetPublicKey(key) => Ok(Answer::PublicKey(self.usable(&key)?.public_key())),
            Request::GenerateDataKey { key, plaintext } => self.generate_data_key(&key, plaintext),
            Request::DecryptDataKey(wrapped) => self.decrypt_data_key(&wrapped),
            Request::Encrypt { key, secret, context } => self.encrypt(&key, &secret, &context),
            Request::Decrypt { ciphertext, context } => Ok(Answer::Secret(self.decrypt(&ciphertext, &context)?)),
            Request::ReEncrypt { ciphertext, context, to } => self.re_encrypt(&ciphertext, &context, &to),
        }
    }

    // Which CMK, and whether.

    fn may(&self, verb: Verb, id: KeyId) -> bool {
        self.rights.on(verb, id, self.keys.aliases_of(id))
    }

    /// The CMK of that name. Who may not do this there, or has no right to know, hears the same whether it is there or not.
    fn find(&mut self, key: &KeyRef) -> Result<&'a Entry, KmsError> {
        match self.keys.find(key).filter(|entry| self.may(self.verb, entry.id)) {
            Some(entry) => {
                self.about = Some(entry.id);
                Ok(entry)
            }
            // [KMS-42]
            None if self.keys.find(key).is_none() && self.rights.on_name(self.verb, key) => Err(KmsError::NotFound),
            None => Err(KmsError::Denied),
        }
    }

    /// The same, where it is enabled. [KMS-43]
    fn usable(&mut self, key: &KeyRef) -> Result<&'a Entry, KmsError> {
        let entry = self.find(key)?;
        self.check_state(entry, |state| state == KeyState::Enabled)?;
        Ok(entry)
    }

    fn check_state(&self, entry: &Entry, fits: impl Fn(KeyState) -> bool) -> Result<(), KmsError> {
        let state = entry.state.at(self.now);
        if fits(state) { Ok(()) } else { Err(KmsError::State { key: entry.id, state }) }
    }

    /// Whether a state holds so many bytes more, also when all of its keys are destroyed: then it is longest, and a store that has no room for
    /// that could destroy nothing, nor be opened.
    fn check_room(&self, more: usize) -> Result<(), LimitExceeded> {
        // [KMS-37]
        LimitExceeded::check("state", len64(self.keys.longest()) + len64(more), STATE_MAX)
    }

    /// A CMK as it will be, and what is told of it then.
    fn put(&mut self, entry: Entry) -> Answer {
        let info = self.keys.info(&entry, self.now);
        self.changes.push(Change::Key(entry));
        Answer::Key(info)
    }

    // Life.

    fn create(&mut self, kem: Kem, alias: Option<Alias>) -> Result<Answer, KmsError> {
        let name = alias.clone().map(KeyRef::Alias);
        let may = match &name {
            Some(name) => self.rights.on_name(self.verb, name),
            None => self.rights.on_any(self.verb),
        };
        if !may {
            return Err(KmsError::Denied);
        }
        if kem == Kem::XWing && !cfg!(feature = "pq") {
            return Err(KmsError::Unsupported("post-quantum keys in this build".into()));
        }
        if alias.as_ref().is_some_and(|alias| self.keys.alias(alias).is_some()) {
            return Err(KmsError::AliasTaken);
        }
        // [KMS-37]
        LimitExceeded::check("keys", len64(self.keys.len()) + 1, len64(KEYS_MAX))?;
        self.check_room(ENTRY_ROOM + version_room(kem) + alias.as_ref().map_or(0, alias_room))?;
        let id = KeyId::generate(self.entropy)?;
        let versions = vec![Version::generate(kem, self.now, self.entropy)?];
        let entry = Entry { id, kem, state: KeyState::Enabled, created_at: self.now, versions };
        self.about = Some(id);
        let mut answer = self.put(entry);
        if let (Some(alias), Answer::Key(info)) = (alias, &mut answer) {
            info.aliases.push(alias.clone());
            self.changes.push(Change::Alias(alias, Some(id)));
        }
        Ok(answer)
    }

    fn list(&self, after: Option<KeyId>) -> Result<Answer, KmsError> {
        // [KMS-40]
        if !self.rights.has(self.verb) {
            return Err(KmsError::Denied);
        }
        let seen = self.keys.after(after).filter(|entry| self.may(self.verb, entry.id));
        Ok(Answer::Keys(seen.take(LIST_MAX).map(|entry| self.keys.info(entry, self.now)).collect()))
    }

    fn describe(&mut self, key: &KeyRef) -> Result<Answer, KmsError> {
        let entry = self.find(key)?;
        Ok(Answer::Key(self.keys.info(entry, self.now)))
    }

    fn change_state(&mut self, key: &KeyRef, to: KeyState) -> Result<Answer, KmsError> {
        let entry = self.find(key)?;
        let verb = self.verb;
        self.check_state(entry, |state| match verb {
            Verb::EnableKey => state == KeyState::Disabled,
            Verb::DisableKey => state == KeyState::Enabled,
            _ => matches!(state, KeyState::PendingDeletion { .. }),
        })?;
        Ok(self.put(entry.in_state(to)))
    }

    fn schedule_deletion(&mut self, key: &KeyRef, days: u8) -> Result<Answer, KmsError> {
        let entry = self.find(key)?;
        // [KMS-44]
        if !(DELETION_DAYS_MIN..=DELETION_DAYS_MAX).contains(&days) {
            return Err(KmsError::Invalid(format!(
                "a key is destroyed in {DELETION_DAYS_MIN} to {DELETION_DAYS_MAX} days, not {days}"
            )));
        }
        self.check_state(entry, |state| matches!(state, KeyState::Enabled | KeyState::Disabled))?;
        // A clock that has lost the time would have it destroyed the moment that it is set right.
        if self.now < entry.newest().1.created_at {
            return Err(KmsError::Invalid("the clock of the service is behind the making of the key: set it first".into()));
        }
        let at = self.now.saturating_add(u64::from(days) * DAY);
        Ok(self.put(entry.in_state(KeyState::PendingDeletion { at })))
    }

    fn rotate(&mut self, key: &KeyRef) -> Result<Answer, KmsError> {
        let entry = self.usable(key)?;
        LimitExceeded::check("versions", len64(entry.versions.len()) + 1, len64(VERSIONS_MAX))?;
        self.check_room(version_room(entry.kem))?;
        let mut rotated = entry.clone();
        rotated.versions.push(Version::generate(entry.kem, self.now, self.entropy)?);
        Ok(self.put(rotated))
    }

    fn set_alias(&mut self, alias: Alias, key: &KeyRef) -> Result<Answer, KmsError> {
        let entry = self.find(key)?;
        // [KMS-45]
        if !self.rights.on_name(self.verb, &KeyRef::Alias(alias.clone())) {
            return Err(KmsError::Denied);
        }
        self.check_state(entry, |state| !matches!(state, KeyState::Destroyed { .. }))?;
        let mut info = self.keys.info(entry, self.now);
        if !info.aliases.contains(&alias) {
            LimitExceeded::check("aliases", len64(info.aliases.len()) + 1, len64(ALIASES_MAX))?;
            self.check_room(alias_room(&alias))?;
            info.aliases.push(alias.clone());
            info.aliases.sort();
            self.changes.push(Change::Alias(alias, Some(entry.id)));
        }
        Ok(Answer::Key(info))
    }

    fn delete_alias(&mut self, alias: Alias) -> Result<Answer, KmsError> {
        self.find(&KeyRef::Alias(alias.clone()))?;
        self.changes.push(Change::Alias(alias, None));
        Ok(Answer::Done)
    }

    // Use.

    fn generate_data_key(&mut self, key: &KeyRef, plaintext: bool) -> Result<Answer, KmsError> {
        let entry = self.find(key)?;
        // [KMS-46]
        if plaintext && !self.may(Verb::DecryptDataKey, entry.id) {
            return Err(KmsError::Denied);
        }
        self.check_state(entry, |state| state == KeyState::Enabled)?;
        let (version, newest) = entry.newest();
        let secret = self.entropy.secret()?;
        let dek = || Dek::import(secret.bytes());
        let ciphertext = block_to(&newest.recipient, dek())?;
        let (key, recipient) = (KeyUsed::of(entry.id, version), Some(newest.recipient.clone()));
        Ok(Answer::DataKey(DataKeyPair { plaintext: plaintext.then(dek), ciphertext, key, recipient }))
    }

    fn decrypt_data_key(&mut self, wrapped: &WrappedDek) -> Result<Answer, KmsError> {
        let unwrapped = match wrapped {
            WrappedDek::Block(block) => self.unwrap_block(block, |_| true),
            WrappedDek::External { provider, key_ref, blob } if provider == PROVIDER => self.unwrap_external(key_ref, blob),
            WrappedDek::External { .. } => Err(KmsError::Invalid("the external is for another KMS".into())),
            WrappedDek::Slot { .. } => self.unwrap_slot(wrapped),
        };
        unwrapped.map(Answer::Unwrapped)
    }

    /// The keys of a search that fit and that this caller may use for this. No other is tried, so that not even the time tells of it. [KMS-47]
    fn mine(&self, candidates: Vec<Candidate>, fits: impl Fn(KeyId) -> bool) -> Vec<Candidate> {
        let mut mine = candidates;
        let usable = |entry: &Entry| entry.state.at(self.now) == KeyState::Enabled && self.may(self.verb, entry.id);
        mine.retain(|candidate| {
            let named = self.keys.named(&candidate.key.recipient().fingerprint());
            named.is_some_and(|(entry, _)| usable(entry) && fits(entry.id))
        });
        mine
    }

    /// What an opener's policy has looked at is the key that an external names: no other unwraps it.
    fn unwrap_external(&mut self, key_ref: &str, blob: &[u8]) -> Result<Unwrapped, KmsError> {
        let named = key_ref.parse().ok().and_then(|key| self.keys.find(&key)).map(|entry| entry.id);
        // [KMS-53]
        self.unwrap_block(blob, |id| named == Some(id))
    }

    fn unwrap_block(&mut self, raw: &[u8], fits: impl Fn(KeyId) -> bool) -> Result<Unwrapped, KmsError> {
        let block = DekBlock::parse_alone(raw, &Limits::default()).map_err(invalid)?;
        let candidates = self.mine(self.keys.ring().candidates(&block), fits);
        let found = find_among(raw, &block, &candidates, Limits::default().trials, &mut 0);
        let found = found.and_then(|(dek, Found { key, .. })| Ok((dek, key.ok_or(OpenError::NoMatchingKey)?)));
        match found {
            // [PRF-6] The CMK is everybody's whom the policy lets use it.
            Ok((dek, name)) => self.unwrapped(Dek { mine_alone: false, ..dek }, &name),
            Err(OpenError::Parse(error)) => Err(invalid(error)),
            Err(_) => {
                let hints = block.slots.iter().map(|slot| slot.hint);
                Err(self.cannot_decrypt(block.options.hints, block.salt, &hints.collect::<Vec<_>>()))
            }
        }
    }

    /// A DEK that the CMK and version with this public half has opened.
    fn unwrapped(&mut self, dek: Dek, name: &Fingerprint) -> Result<Unwrapped, KmsError> {
        let (entry, number) = self.keys.named(name).ok_or(KmsError::CannotDecrypt)?;
        self.about = Some(entry.id);
        let version = entry.version(number).ok_or(KmsError::CannotDecrypt)?;
        Ok(Unwrapped { dek, key: KeyUsed::of(entry.id, number), recipient: Some(version.recipient.clone()) })
    }

    fn unwrap_slot(&mut self, wrapped: &WrappedDek) -> Result<Unwrapped, KmsError> {
        let WrappedDek::Slot { suite, hints, salt, hint: stands_there, enc, wrapped_dek } = wrapped else {
            return Err(KmsError::CannotDecrypt);
        };
        let mut trials = 0;
        for candidate in self.mine(self.keys.ring().of_kem(suite.kem()), |_| true) {
            let recipient = candidate.key.recipient();
            if *hints != HintMode::None && hint(*hints, salt, recipient) != *stands_there {
                continue;
            }
            count_trial(&mut trials, Limits::default().trials).map_err(invalid)?;
            let Ok(shared) = candidate.key.decapsulate(enc) else { continue };
            let Ok(key) = Setting::dek(*suite).key(&shared) else { continue };
            if let Ok(secret) = hpke::unwrap(&key, wrapped_dek) {
                return self.unwrapped(Dek::found(secret), &recipient.fingerprint());
            }
        }
        Err(self.cannot_decrypt(*hints, salt, &[*stands_there]))
    }

    /// Nothing that may be used opens it. Where it is to a CMK in another state, on which the caller has the right, that is what he hears.
    fn cannot_decrypt(&mut self, hints: HintMode, salt: &[u8; 16], there: &[[u8; 4]]) -> KmsError {
        if hints == HintMode::None {
            return KmsError::CannotDecrypt;
        }
        let is_there = |entry: &&Entry| {
            let mut versions = entry.versions.iter();
            entry.state.at(self.now) != KeyState::Enabled
                && versions.any(|version| there.contains(&hint(hints, salt, &version.recipient)))
                && self.may(self.verb, entry.id)
        };
        match self.keys.after(None).find(is_there) {
            Some(entry) => {
                self.about = Some(entry.id);
                KmsError::State { key: entry.id, state: entry.state.at(self.now) }
            }
            None => KmsError::CannotDecrypt,
        }
    }

    fn encrypt(&mut self, key: &KeyRef, secret: &[u8], context: &[u8]) -> Result<Answer, KmsError> {
        let entry = self.usable(key)?;
        self.encrypt_under(entry, secret, context).map(Answer::Ciphertext)
    }

    fn encrypt_under(&mut self, entry: &Entry, secret: &[u8], context: &[u8]) -> Result<Vec<u8>, KmsError> {
        let (version, newest) = entry.newest();
        direct::seal(entry.id, version, &newest.recipient, secret, context, self.entropy)
    }

    fn decrypt(&mut self, ciphertext: &[u8], context: &[u8]) -> Result<Zeroizing<Vec<u8>>, KmsError> {
        let direct = Direct::parse(ciphertext).map_err(invalid)?;
        // What is named in a ciphertext is nobody's word: who may not, or what is not there, is what does not open.
        let entry = self.find(&direct.key.into()).map_err(|_| KmsError::CannotDecrypt)?;
        self.check_state(entry, |state| state == KeyState::Enabled)?;
        let cmk = entry.version(direct.version).and_then(|version| version.cmk.as_ref()).ok_or(KmsError::CannotDecrypt)?;
        direct.open(cmk, context).map_err(|_| KmsError::CannotDecrypt)
    }

    /// Both CMKs are asked for the right; the secret stays here. [KMS-48]
    fn re_encrypt(&mut self, ciphertext: &[u8], context: &[u8], to: &KeyRef) -> Result<Answer, KmsError> {
        let entry = self.usable(to)?;
        if direct::is_direct(ciphertext) {
            let secret = self.decrypt(ciphertext, context)?;
            return self.encrypt_under(entry, &secret, context).map(Answer::Ciphertext);
        }
        let Unwrapped { dek, .. } = self.unwrap_block(ciphertext, |_| true)?;
        let recipient = entry.newest().1.recipient.clone();
        let change = Rewrap::new().replace_all().to(recipient).weaken_proof();
        let block = change.block_with_dek(ciphertext, &dek);
        Ok(Answer::Ciphertext(block.map_err(|error| KmsError::Invalid(error.to_string()))?))
    }
}

/// A DEK block by itself (spec 4.5), to one recipient.
fn block_to(recipient: &Recipient, dek: Dek) -> Result<Vec<u8>, KmsError> {
    let mut sealer = Sealer::builder().to(recipient.clone()).dek(dek).build().map_err(failed)?;
    Ok(sealer.block().map_err(failed)?.to_vec())
}

fn invalid(error: ParseError) -> KmsError {
    KmsError::Invalid(error.to_string())
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> KmsError {
    KmsError::Failed(std::sync::Arc::new(error))
}

impl From<EntropyError> for KmsError {
    fn from(error: EntropyError) -> Self {
        failed(error)
    }
}

impl From<Refused> for KmsError {
    fn from(refused: Refused) -> Self {
        failed(SealError::from(refused))
    }
}

#[cfg(test)]
mod tests;
