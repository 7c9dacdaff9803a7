//! A key service over a store, in this process: whole requests in, answers out, and between them the disk.

use std::{
    path::Path,
    sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use bytes::Bytes;
use zeroize::Zeroizing;

use super::{
    KmsError,
    handle::{Handled, handle},
    health::{Count, Metrics},
    key::KeyId,
    keys::Keys,
    message::{Answer, Request, Verb},
    policy::{AccessPolicy, Rights, SCHEDULE},
    server::{Answered, Serve, wiped},
    service::{Answers, Reply},
    store::{Queued, Record, Repaired, Replica, RootKey, Store, StoreError},
};
use crate::{
    keys::VerifyingKey,
    platform::{Clock, Entropy},
    wire::ParseError,
};

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub enum Caller<'a> {
    /// Who has opened the store, and so has every key: nothing is denied.
    Owner,
    /// Whoever has this sender key: what the policy says.
    Sender(&'a VerifyingKey),
}

/// A service whose store could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenServiceError {
    /// The store itself.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What is in it, which is authentic: written by a newer version, perhaps.
    #[error("the state of the store is not understood: {0}")]
    State(#[from] ParseError),
}

/// A key service over a store. Clones are not needed: it is shared by reference, from many threads.
///
/// ```
/// use sealwire::{Kem, kms::{KeyService, LocalService, store::RootKey}};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let (root, _) = RootKey::generate("2026-01-01T00:00:00Z")?;
/// let service = LocalService::create(&folder.path().join("kms"), &root)?;
/// let orders = service.create_key(Kem::X25519, Some("orders".parse()?)).await?;
/// let recipient = service.get_public_key(&orders.id.into()).await?.recipient;
/// let envelope = sealwire::seal(b"an order", &[recipient])?;
/// # let _ = envelope;
/// # Ok(()) }
/// ```
pub struct LocalService {
    keys: RwLock<Keys>,
    kept: RwLock<Kept>,
    access: RwLock<Arc<AccessPolicy>>,
    clock: Clock,
    counted: OnceLock<Counted>,
}

/// What was asked, and what came of it, in numbers.
struct Counted {
    verbs: [Count; Verb::ALL.len()],
    results: [Count; RESULTS.len()],
}

/// What comes of requests, as counters and audit logs call it.
const RESULTS: [&str; 13] = [
    "ok",
    "denied",
    "not-found",
    "disabled",
    "enabled",
    "pending-deletion",
    "destroyed",
    "cannot-decrypt",
    "invalid",
    "alias-taken",
    "full",
    "read-only",
    "failed",
];

/// Where a service keeps what it has.
enum Kept {
    Store(Box<Store>),
    Replica(Box<Replica>),
    Nowhere,
    /// A log that cannot be written, and no state either.
    #[cfg(test)]
    Broken,
}

impl Kept {
    /// `None` where no log is kept.
    fn queue(&self, record: &Record) -> Result<Option<Queued>, StoreError> {
        match self {
            Self::Store(store) => store.queue(record).map(Some),
            Self::Replica(replica) => replica.queue(record),
            Self::Nowhere => Ok(None),
            #[cfg(test)]
            Self::Broken => Err(StoreError::Failed),
        }
    }

    fn settle(&self, queued: Option<Queued>) -> Result<(), StoreError> {
        let Some(queued) = queued else { return Ok(()) };
        match self {
            Self::Store(store) => store.settle(queued),
            Self::Replica(replica) => replica.settle(queued),
            Self::Nowhere => Ok(()),
            #[cfg(test)]
            Self::Broken => Err(StoreError::Failed),
        }
    }

    fn sync(&self) -> Result<(), StoreError> {
        match self {
            Self::Store(store) => store.sync(),
            Self::Replica(replica) => replica.sync(),
            Self::Nowhere => Ok(()),
            #[cfg(test)]
            Self::Broken => Err(StoreError::Failed),
        }
    }

    fn check(&self) -> Result<(), StoreError> {
        match self {
            Self::Store(store) => store.check(),
            Self::Replica(replica) => replica.check(),
            Self::Nowhere => Ok(()),
            #[cfg(test)]
            Self::Broken => Err(StoreError::Failed),
        }
    }

    fn replace(&mut self, state: &[u8], record: &Record) -> Result<(), KmsError> {
        match self {
            Self::Store(store) => store.replace(state, record).map_err(failed),
            Self::Replica(_) => Err(KmsError::ReadOnly),
            Self::Nowhere => Ok(()),
            #[cfg(test)]
            Self::Broken => Err(failed(StoreError::Failed)),
        }
    }
}

fn failed(error: StoreError) -> KmsError {
    KmsError::Failed(Arc::new(error))
}

impl LocalService {
    /// A service over a new store, without a key.
    ///
    /// # Errors
    /// [`StoreError`]; a store that is there is not written over.
    pub fn create(folder: &Path, root: &RootKey) -> Result<Self, StoreError> {
        let keys = Keys::default();
        let store = Store::create(folder, root, &keys.encode_with(&[]))?;
        Ok(Self::over(keys, Kept::Store(Box::new(store))))
    }

    /// A service over a store that is there, which no other process writes to meanwhile. What was to be destroyed by now is.
    ///
    /// # Errors
    /// [`OpenServiceError`].
    pub fn open(folder: &Path, root: &RootKey) -> Result<Self, OpenServiceError> {
        let (store, state) = Store::open(folder, root)?;
        let service = Self::over(Keys::decode(&state)?, Kept::Store(Box::new(store)));
        service.destroy_what_is_due()?;
        Ok(service)
    }

    /// A service that answers from a copy of a store, or of its state file, and changes nothing. It keeps a log of its own in the folder
    /// `log`, where one is named.
    ///
    /// # Errors
    /// [`OpenServiceError`].
    pub fn open_replica(copy: &Path, root: &RootKey, log: Option<&Path>) -> Result<Self, OpenServiceError> {
        let (mut replica, state) = Replica::open(copy, root)?;
        if let Some(folder) = log {
            replica.log_to(folder)?;
        }
        Ok(Self::over(Keys::decode(&state)?, Kept::Replica(Box::new(replica))))
    }

    /// A service that forgets everything with its process: for tests, and for CMKs that are to live no longer.
    #[must_use]
    pub fn in_memory() -> Self {
        Self::over(Keys::default(), Kept::Nowhere)
    }

    fn over(keys: Keys, kept: Kept) -> Self {
        Self {
            keys: RwLock::new(keys),
            kept: RwLock::new(kept),
            access: RwLock::default(),
            clock: Clock::default(),
            counted: OnceLock::new(),
        }
    }

    /// Who may do what from now on; before that nobody but the owner may do anything.
    pub fn set_policy(&self, policy: AccessPolicy) {
        *write(&self.access) = Arc::new(policy);
    }

    /// Counts requests by verb and by result from now on, among a server's other numbers. Once: later ones are not counted in.
    pub fn count_in(&self, metrics: &Metrics) {
        self.counted.get_or_init(|| Counted {
            verbs: metrics.counters("sealwire_kms_verbs", "Requests by verb", "verb", Verb::ALL.map(Verb::name)),
            results: metrics.counters("sealwire_kms_results", "Requests by result", "result", RESULTS),
        });
    }

    fn count(&self, verb: Verb, result: &str) {
        let Some(counted) = self.counted.get() else { return };
        let by_verb = Verb::ALL.iter().position(|known| *known == verb).map(|i| &counted.verbs[i]);
        let by_result = RESULTS.iter().position(|known| *known == result).map(|i| &counted.results[i]);
        by_verb.into_iter().chain(by_result).for_each(|count| count.add(1));
    }

    /// The policy.
    #[must_use]
    pub fn policy(&self) -> Arc<AccessPolicy> {
        read(&self.access).clone()
    }

    /// What a crash had left, and opening the store has mended.
    #[must_use]
    pub fn repaired(&self) -> Option<Repaired> {
        match &*read(&self.kept) {
            Kept::Store(store) => store.repaired(),
            _ => None,
        }
    }

    /// Answers a request. What it changes is on the disk by then, and so is its line in the log; the lines of uses that change nothing are
    /// when [`tend`](Self::tend) returns.
    ///
    /// # Errors
    /// [`KmsError`]; nothing was changed, but where the store is [in doubt](StoreError::InDoubt). Where the line could not be written, nothing
    /// is answered.
    pub fn ask(&self, caller: Caller<'_>, request: Request) -> Result<Answer, KmsError> {
        let verb = request.verb();
        let (answer, queued) = self.ask_queued(caller, request);
        let answer = self.write_down(queued).and(answer);
        self.count(verb, result(&answer));
        answer
    }

    /// The same, up to the line in the log: nobody is told before that is settled.
    fn ask_queued(&self, caller: Caller<'_>, request: Request) -> (Result<Answer, KmsError>, Option<Queued>) {
        let (now, verb) = (self.clock.unix_seconds(), request.verb());
        let policy = self.policy();
        let rights = match caller {
            Caller::Owner => Rights::LOCAL,
            Caller::Sender(key) => policy.rights(key, now),
        };
        let record = |handled: &Handled| Record {
            at: now,
            caller: rights.name.into(),
            action: verb.name().into(),
            key: handled.about.map(|id| id.to_string()),
            result: result(&handled.answer).into(),
        };
        if verb.is_change() {
            return (self.change(rights, request, now, record), None);
        }
        let handled = handle(&read(&self.keys), rights, request, now, &mut Entropy::default());
        // [KMS-49]
        self.with_line(&record(&handled), handled.answer)
    }

    /// An answer with its line; where that cannot be queued, nothing is answered.
    fn with_line(&self, record: &Record, answer: Result<Answer, KmsError>) -> (Result<Answer, KmsError>, Option<Queued>) {
        match read(&self.kept).queue(record) {
            Ok(queued) => (answer, queued),
            Err(error) => (Err(failed(error)), None),
        }
    }

    fn write_down(&self, queued: Option<Queued>) -> Result<(), KmsError> {
        read(&self.kept).settle(queued).map_err(failed)
    }

    /// What cannot be read has its line, too. [KMS-49]
    fn refuse(&self, caller: &VerifyingKey, request: &[u8], error: &ParseError) -> (Result<Answer, KmsError>, Option<Queued>) {
        let (at, policy) = (self.clock.unix_seconds(), self.policy());
        let action = Verb::of(request).map_or("unknown", Verb::name);
        let error = KmsError::Invalid(error.to_string());
        let [caller, action, result] = [policy.rights(caller, at).name, action, error.reason()].map(String::from);
        self.with_line(&Record { at, caller, action, key: None, result }, Err(error))
    }

    fn change(
        &self,
        rights: Rights<'_>,
        request: Request,
        now: u64,
        record: impl Fn(&Handled) -> Record,
    ) -> Result<Answer, KmsError> {
        // Held from the look to the change: nobody else changes anything in between.
        let mut kept = write(&self.kept);
        let (handled, state) = {
            let keys = read(&self.keys);
            let mut handled = handle(&keys, rights, request, now, &mut Entropy::default());
            // Who may not do this is told that, and not what the service is; either has its line.
            if matches!(*kept, Kept::Replica(_)) && !matches!(handled.answer, Err(KmsError::Denied)) {
                let about = handled.about.filter(|id| keys.find(&(*id).into()).is_some());
                handled = Handled { answer: Err(KmsError::ReadOnly), changes: Vec::new(), about };
            }
            let state = (!handled.changes.is_empty()).then(|| keys.encode_with(&handled.changes));
            (handled, state)
        };
        match state {
            Some(state) => kept.replace(&state, &record(&handled))?,
            None => kept.queue(&record(&handled)).and_then(|queued| kept.settle(queued)).map_err(failed)?,
        }
        let mut keys = write(&self.keys);
        handled.changes.into_iter().for_each(|change| keys.apply(change));
        handled.answer
    }

    /// What a server does every second or so: makes the log durable, destroys what is due, and, of a replica, reads the store anew where it was
    /// replaced.
    ///
    /// # Errors
    /// [`OpenServiceError`]: what was there before is still served.
    pub fn tend(&self) -> Result<(), OpenServiceError> {
        read(&self.kept).sync()?;
        self.destroy_what_is_due()?;
        let mut kept = write(&self.kept);
        if let Kept::Replica(replica) = &mut *kept
            && let Some(keys) = replica.reload_as(|state| Keys::decode(&state).map_err(OpenServiceError::from))?
        {
            *write(&self.keys) = keys;
        }
        Ok(())
    }

    /// Whether all could be written since this was last asked; where it could not, whether there is room again. What a server tells of its
    /// health, besides what [`tend`](Self::tend) says.
    ///
    /// # Errors
    /// [`StoreError`]: what was refused, each time once, or why there is still no room.
    pub fn check(&self) -> Result<(), StoreError> {
        read(&self.kept).check()
    }

    /// Destroys the CMKs whose time has come; until this was done they are used for nothing all the same.
    fn destroy_what_is_due(&self) -> Result<(), StoreError> {
        let now = self.clock.unix_seconds();
        if read(&self.keys).due(now).is_empty() {
            return Ok(());
        }
        let mut kept = write(&self.kept);
        if let Kept::Replica(_) = &*kept {
            return Ok(());
        }
        // A state for each, so that each has its line in the log.
        loop {
            let (change, id, state) = {
                let keys = read(&self.keys);
                let Some((id, change)) = keys.due(now).into_iter().next() else { return Ok(()) };
                let changes = [change];
                let state: Zeroizing<Vec<u8>> = keys.encode_with(&changes);
                let [change] = changes;
                (change, id, state)
            };
            if let Kept::Store(store) = &mut *kept {
                store.replace(&state, &destroyed(id, now))?;
            }
            write(&self.keys).apply(change);
        }
    }

    /// The store, for who keeps it: backups, rotations of the log. `None` for a replica, and in memory.
    pub fn with_store<T>(&self, act: impl FnOnce(&mut Store) -> T) -> Option<T> {
        match &mut *write(&self.kept) {
            Kept::Store(store) => Some(act(store)),
            _ => None,
        }
    }
}

/// What came of a request, in one word.
fn result(answer: &Result<Answer, KmsError>) -> &'static str {
    answer.as_ref().err().map_or("ok", KmsError::reason)
}

fn destroyed(id: KeyId, now: u64) -> Record {
    let key = Some(id.to_string());
    Record { at: now, caller: SCHEDULE.into(), action: "destroy-key".into(), key, result: "ok".into() }
}

// Every change of what is behind a lock is one assignment, or goes through all of its steps: a panic elsewhere leaves it whole.
fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

/// As its owner.
impl Answers for LocalService {
    fn answer(&self, request: Request) -> Reply<'_, Answer> {
        Box::pin(async move { self.ask(Caller::Owner, request) })
    }
}

/// For the callers that its policy names.
impl Serve for LocalService {
    fn knows(&self, caller: &VerifyingKey) -> bool {
        // [KMS-40] Who was one takes no place from those who are.
        self.policy().admits(caller, self.clock.unix_seconds())
    }

    fn serve(&self, caller: &VerifyingKey, request: Bytes) -> Answered {
        let (verb, (answer, queued)) = match Request::decode(&request) {
            Ok(request) => (Some(request.verb()), self.ask_queued(Caller::Sender(caller), request)),
            Err(error) => (None, self.refuse(caller, &request, &error)),
        };
        let counted = verb.map(|verb| (verb, result(&answer)));
        Answered { answer: wiped(Answer::encode(&answer)), queued, counted }
    }

    /// An answer whose line could not be written is not told. [KMS-49]
    fn settle(&self, answered: Answered) -> Bytes {
        let written = self.write_down(answered.queued);
        if let Some((verb, result)) = answered.counted {
            self.count(verb, written.as_ref().err().map_or(result, KmsError::reason));
        }
        match written {
            Ok(()) => answered.answer,
            Err(error) => wiped(Answer::encode(&Err(error))),
        }
    }

    fn may_block(&self, request: &[u8]) -> bool {
        Verb::of(request).is_some_and(Verb::is_change)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        keys::SenderKey,
        kms::{KeyRef, KeyService, KeyState, store::records},
        wire::Kem,
    };

    /// What a caller hears.
    fn told(service: &LocalService, caller: &VerifyingKey, request: Bytes) -> Bytes {
        Serve::settle(service, service.serve(caller, request))
    }

    fn requests(key: KeyRef) -> Vec<Request> {
        let encrypt = |secret: &[u8]| Request::Encrypt { key: key.clone(), secret: secret.to_vec().into(), context: vec![] };
        vec![
            Request::CreateKey { kem: Kem::X25519, alias: None },
            Request::ListKeys { after: None },
            Request::DescribeKey(key.clone()),
            Request::DisableKey(key.clone()),
            Request::RotateKey(key.clone()),
            Request::GetPublicKey(key.clone()),
            Request::GenerateDataKey { key: key.clone(), plaintext: true },
            encrypt(b"pin"),
            Request::Decrypt { ciphertext: vec![1; 100], context: vec![] },
            Request::DescribeKey("nothing".parse().unwrap()),
        ]
    }

    /// Proves KMS-49: where the line cannot be written the answer is *failed*, whatever it would have been, and nothing is changed.
    #[test]
    fn what_cannot_be_logged_is_not_answered() {
        let service = LocalService::in_memory();
        let Ok(Answer::Key(key)) = service.ask(Caller::Owner, requests(KeyId([0; 16]).into()).remove(0)) else { panic!("made") };
        let before = read(&service.keys).encode_with(&[]);
        *write(&service.kept) = Kept::Broken;
        let stranger = *SenderKey::generate().unwrap().verifying_key();
        for caller in [Caller::Owner, Caller::Sender(&stranger)] {
            for request in requests(key.id.into()) {
                let verb = request.verb().name();
                assert!(matches!(service.ask(caller, request), Err(KmsError::Failed(_))), "{verb}");
            }
        }
        assert_eq!(read(&service.keys).encode_with(&[]), before);
        let answer = told(&service, &stranger, requests(key.id.into()).remove(2).encode().unwrap().to_vec().into());
        assert_eq!(answer.first(), Some(&0x88));
    }

    /// Proves KMS-49: each request has its line: who, what, which CMK and the result; on a replica too, where a change is refused.
    #[test]
    fn what_is_asked_has_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let (root, _) = RootKey::generate("").unwrap();
        let (store, log) = (folder.path().join("kms"), folder.path().join("log"));
        let service = LocalService::create(&store, &root).unwrap();
        let Ok(Answer::Key(key)) = service.ask(Caller::Owner, requests(KeyId([0; 16]).into()).remove(0)) else { panic!("made") };
        let stranger = *SenderKey::generate().unwrap().verifying_key();
        let asked = requests(key.id.into());
        for caller in [Caller::Sender(&stranger), Caller::Owner] {
            asked.iter().for_each(|request| drop(service.ask(caller, request.clone())));
        }
        drop(service);
        let lines: Vec<_> = records(&store).unwrap().skip(1).map(|entry| entry.unwrap().record).collect();
        let said = |lines: &[Record]| lines.iter().map(|line| (line.caller.clone(), line.action.clone())).collect::<Vec<_>>();
        let expected =
            |caller: &'static str| asked.iter().map(move |request| (caller.to_owned(), request.verb().name().to_owned()));
        assert_eq!(said(&lines), expected("unknown").chain(expected("local")).collect::<Vec<_>>());
        assert!(
            lines[..10]
                .iter()
                .all(|line| line.key.is_none() && (line.result == "denied" || line.result != "ok" || line.action == "list-keys"))
        );
        assert_eq!((lines[12].key.clone(), lines[12].result.as_str()), (Some(key.id.to_string()), "ok"));

        let replica = LocalService::open_replica(&store, &root, Some(&log)).unwrap();
        let create = asked[0].clone();
        assert!(matches!(replica.ask(Caller::Sender(&stranger), create.clone()), Err(KmsError::Denied)));
        assert!(matches!(replica.ask(Caller::Owner, create), Err(KmsError::ReadOnly)));
        drop(replica);
        let results: Vec<_> = records(&log).unwrap().map(|entry| entry.unwrap().record.result).collect();
        assert!(results.ends_with(&["denied".into(), "read-only".into()]), "{results:?}");
    }

    /// A copy that is authentic and not understood is told of for as long as it is there, and what was there before is served.
    #[tokio::test]
    async fn a_copy_that_is_not_understood_is_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let (root, _) = RootKey::generate("").unwrap();
        let service = LocalService::create(folder.path(), &root).unwrap();
        let id = service.create_key(Kem::X25519, None).await.unwrap().id;
        let state = read(&service.keys).encode_with(&[]);
        let record = Record { at: 1, caller: "a".into(), action: "b".into(), key: None, result: "ok".into() };
        let replace = |state: &[u8]| service.with_store(|store| store.replace(state, &record)).unwrap().unwrap();
        let replica = LocalService::open_replica(folder.path(), &root, None).unwrap();
        replace(b"of a later version");
        for _ in 0..3 {
            assert!(matches!(replica.tend(), Err(OpenServiceError::State(_))));
            assert!(replica.describe_key(&id.into()).await.is_ok());
        }
        replace(&state);
        replica.tend().unwrap();
        assert!(replica.describe_key(&id.into()).await.is_ok());
    }

    fn policy(key: &VerifyingKey, rest: &str) -> AccessPolicy {
        let text = format!("[[caller]]\nname = \"a\"\nkey = \"{key}\"\nallow = [{{ verbs = [\"*\"], keys = [\"*\"] }}]\n{rest}");
        AccessPolicy::from_toml(&text).unwrap()
    }

    fn last_line(folder: &Path) -> Record {
        records(folder).unwrap().last().unwrap().unwrap().record
    }

    /// Proves KMS-49: also what is malformed, and what a replica does not do, has its line before its answer.
    #[test]
    fn whatever_is_asked_has_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let [store, log] = ["kms", "log"].map(|name| folder.path().join(name));
        let (root, _) = RootKey::generate("").unwrap();
        let caller = *SenderKey::generate().unwrap().verifying_key();
        let service = LocalService::create(&store, &root).unwrap();
        service.set_policy(policy(&caller, ""));
        let malformed = Bytes::from_static(&[3, 0, 1]);
        assert_eq!(told(&service, &caller, malformed.clone())[0], 0x84);
        let Record { caller: name, action, result, .. } = last_line(&store);
        assert_eq!((&name[..], &action[..], &result[..]), ("a", "describe-key", "invalid"));
        assert_eq!(told(&service, &caller, Bytes::from_static(&[99]))[0], 0x84);
        assert_eq!(last_line(&store).action, "unknown");
        let replica = LocalService::open_replica(&store, &root, Some(&log)).unwrap();
        replica.set_policy(policy(&caller, ""));
        let create = Request::CreateKey { kem: Kem::X25519, alias: None }.encode().unwrap();
        assert_eq!(*told(&replica, &caller, wiped(create)), [0x87]);
        let Record { caller: name, action, result, .. } = last_line(&log);
        assert_eq!((&name[..], &action[..], &result[..]), ("a", "create-key", "read-only"));
    }

    /// Proves KMS-4 and KMS-40: who was a caller has no place among them, and is denied a list, too.
    #[test]
    fn who_was_a_caller_is_a_stranger() {
        let service = LocalService::in_memory();
        let caller = *SenderKey::generate().unwrap().verifying_key();
        for (rest, knows) in [("", true), ("revoked = true", false), ("expires = 2001-01-01T00:00:00Z", false)] {
            service.set_policy(policy(&caller, rest));
            assert_eq!(service.knows(&caller), knows, "{rest}");
            let listed = service.ask(Caller::Sender(&caller), Request::ListKeys { after: None });
            assert_eq!(listed.is_ok(), knows, "{rest}");
        }
    }

    /// Proves KMS-44 where nothing is kept: the secret halves are gone there, too.
    #[tokio::test]
    async fn what_is_due_is_destroyed_in_memory() {
        let service = LocalService::in_memory();
        let id = service.create_key(Kem::X25519, None).await.unwrap().id;
        let due = read(&service.keys).find(&id.into()).unwrap().in_state(KeyState::PendingDeletion { at: 1 });
        write(&service.keys).apply(super::super::keys::Change::Key(due));
        service.tend().unwrap();
        let keys = read(&service.keys);
        assert!(keys.find(&id.into()).unwrap().newest().1.cmk.is_none());
    }
}
