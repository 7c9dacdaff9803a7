//! Opener + KeyService -> payload (spec 6.4): a DEK that no key at hand unwraps is unwrapped by a service, once. No rule of the format lives
//! here: the [`Opener`] opens, and what a service answers is a DEK only where header_mac says so.
#![cfg_attr(not(test), deny(clippy::unwrap_used))]
#![deny(clippy::cast_possible_truncation)]

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::BytesMut;
use futures_util::{
    FutureExt, StreamExt,
    future::{BoxFuture, Shared, WeakShared},
};
use tokio::{
    io::AsyncRead,
    time::{Instant, timeout},
};

use super::{
    KmsError,
    key::KeyRef,
    message::CIPHERTEXT_MAX,
    service::{DataKeyPair, KeyService, PROVIDER, Unwrapped, WrappedDek},
};
use crate::{
    codec::CodecError,
    connection::OpenedStream,
    crypto::backend::sha256,
    keys::{DataKey, Dek},
    open::{
        Begun, OpenError, Opened, Opener, Ready,
        search::{count_trial, verify},
    },
    seal::{SealError, Sealer},
    wire::{DekBlock, LimitExceeded, len64},
};

/// How long one call of a service may take, where nothing is said.
pub const CALL_TIME: Duration = Duration::from_secs(10);
/// How long a block that no service has unwrapped is refused without asking again.
pub const FAILED_FOR: Duration = Duration::from_secs(1);
/// DEKs that are unwrapped at once, where nothing is said.
pub const FLIGHTS_MAX: usize = 1024;
/// Blocks whose failure is remembered.
const FAILURES_MAX: usize = 4096;

/// Why nothing was opened through a service.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// It cannot be opened, whoever unwraps its DEK; or the DEK that came is not its own.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// No service has unwrapped its DEK.
    #[error("its DEK was not unwrapped: {0}")]
    Service(#[from] KmsError),
    /// As many DEKs are being unwrapped as may be.
    #[error("too many DEKs are being unwrapped at once, try again: {0}")]
    Busy(LimitExceeded),
}

impl ResolveError {
    /// All that a peer is told, as [`OpenError::to_peer`]: nothing of the service.
    #[must_use]
    pub fn to_peer(&self) -> String {
        match self {
            Self::Open(error) => error.to_peer(),
            Self::Service(_) | Self::Busy(_) => OpenError::NoMatchingKey.to_peer(),
        }
    }

    /// How much it tells of several services' failures: one that was not asked could still have had the key.
    fn weight(&self) -> u8 {
        match self {
            Self::Service(
                KmsError::Denied
                | KmsError::NotFound
                | KmsError::State { .. }
                | KmsError::CannotDecrypt
                | KmsError::Invalid(_)
                | KmsError::Unsupported(_),
            ) => 1,
            Self::Open(OpenError::HeaderMac) => 2,
            Self::Service(_) | Self::Open(OpenError::KeyUnavailable(_)) => 3,
            Self::Open(_) | Self::Busy(_) => 0,
        }
    }

    fn or(self, other: Self) -> Self {
        if other.weight() > self.weight() { other } else { self }
    }
}

/// Why a connection gives no message, where DEKs come through a service.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionError {
    /// The connection is over.
    #[error(transparent)]
    Channel(#[from] CodecError),
    /// A block still waits for its DEK: the next call asks again.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
}

/// A service that has said nothing in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no answer within {0:?}")]
pub struct NoAnswer(pub Duration);

type Service = Arc<dyn KeyService>;
type Flight = Shared<BoxFuture<'static, Result<Arc<Dek>, ResolveError>>>;

/// Settings of a [`Resolver`].
#[must_use]
pub struct ResolverBuilder {
    opener: Opener,
    blocks: Option<Service>,
    providers: HashMap<String, Service>,
    call_time: Duration,
    flights: usize,
    mine_alone: bool,
}

impl ResolverBuilder {
    /// Whole DEK blocks with recipients go to this service, whatever they say: only one that knows such blocks.
    pub fn blocks(mut self, service: Arc<dyn KeyService>) -> Self {
        self.blocks = Some(service);
        self
    }

    /// Externals of this provider go to this service, where the policy names their key ([`Policy::kms_keys`](crate::Policy::kms_keys)).
    pub fn provider(mut self, name: impl Into<String>, service: Arc<dyn KeyService>) -> Self {
        self.providers.insert(name.into(), service);
        self
    }

    /// How long one call may take, [`CALL_TIME`] where nothing is said.
    pub fn call_time(mut self, time: Duration) -> Self {
        self.call_time = time;
        self
    }

    /// How many DEKs are unwrapped at once, [`FLIGHTS_MAX`] where nothing is said.
    pub fn flights(mut self, flights: usize) -> Self {
        self.flights = flights;
        self
    }

    /// States that nobody else can have a DEK from these services ([`Dek::mine_alone`]): only then is a sender *verified*. Otherwise it is
    /// at most *group*, whatever a service says of its DEKs.
    pub fn mine_alone(mut self) -> Self {
        self.mine_alone = true;
        self
    }

    /// The resolver.
    #[must_use]
    pub fn build(self) -> Resolver {
        Resolver(Arc::new(Inner { settings: self, air: Mutex::default() }))
    }
}

/// Opens what an [`Opener`] opens, and what one or more [`KeyService`]s unwrap: each DEK once, however many wait for it.
///
/// Unwrapped DEKs are kept in the opener's cache, within its limits, also while the service is down. Clones share everything; use it inside
/// of a tokio runtime whose time is enabled.
///
/// ```
/// use std::sync::Arc;
/// use sealwire::{Dek, KeyError, Keyring, KmsKey, Opener, Policy, Sealer, DataKey};
/// use sealwire::kms::{KeyService, KeyUsed, KmsError, Reply, Resolver, Unwrapped, WrappedDek};
///
/// /// A KMS with one data key, instead of your cloud's.
/// struct One;
/// impl KeyService for One {
///     fn decrypt_data_key(&self, _: WrappedDek) -> Reply<'_, Unwrapped> {
///         let key = KeyUsed { id: "orders".into(), version: 1 };
///         Box::pin(async { Ok(Unwrapped { dek: Dek::import(&[7; 32]), key, recipient: None }) })
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let data_key = DataKey::from_kms("mine", "orders", &[7; 32], b"ciphertext")?;
/// let envelope = Sealer::builder().data_key(data_key).build()?.seal(b"", b"an order")?;
///
/// let policy = Policy { kms_keys: vec![KmsKey::new("mine", "orders")], ..Policy::default() };
/// let opener = Opener::builder(Keyring::new()).policy(policy).build();
/// let resolver = Resolver::builder(opener).provider("mine", Arc::new(One)).build();
/// assert_eq!(&resolver.open(&envelope).await?.payload[..], b"an order");
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Resolver(Arc<Inner>);

struct Inner {
    settings: ResolverBuilder,
    air: Mutex<Air>,
}

/// What is being unwrapped, and what was not. By the hash of all bytes of the block, and of what it is asked for.
#[derive(Default)]
struct Air {
    flights: HashMap<[u8; 32], Airborne>,
    begun: u64,
    failures: HashMap<[u8; 32], ResolveError>,
    /// In the order in which they came.
    failed: VecDeque<(Instant, [u8; 32])>,
}

/// A DEK that is being unwrapped, as long as somebody waits for it.
struct Airborne {
    number: u64,
    flight: WeakShared<BoxFuture<'static, Result<Arc<Dek>, ResolveError>>>,
}

impl Resolver {
    /// With one of our own services: it gets blocks whole, and the externals of [`PROVIDER`] whose key the policy names.
    #[must_use]
    pub fn new(opener: Opener, service: Arc<dyn KeyService>) -> Self {
        Self::builder(opener).blocks(service.clone()).provider(PROVIDER, service).build()
    }

    /// Begins with no service.
    pub fn builder(opener: Opener) -> ResolverBuilder {
        let (call_time, flights) = (CALL_TIME, FLIGHTS_MAX);
        ResolverBuilder { opener, blocks: None, providers: HashMap::new(), call_time, flights, mine_alone: false }
    }

    /// The opener, which opens from its cache what was unwrapped before: for streams, after [`prepare`](Self::prepare), and for the
    /// [`ChannelOpener`](crate::ChannelOpener)s of [`next`](Self::next).
    #[must_use]
    pub fn opener(&self) -> &Opener {
        &self.0.settings.opener
    }

    /// Opens an envelope.
    ///
    /// # Errors
    /// [`ResolveError`]; nothing of the payload is released.
    pub async fn open(&self, envelope: &[u8]) -> Result<Opened, ResolveError> {
        Ok(self.ready(|| self.opener().begin(envelope)).await?.open()?)
    }

    /// Opens an envelope where it is, as [`Opener::open_in_place`].
    ///
    /// # Errors
    /// As [`open`](Self::open); the buffer is let go, without plaintext.
    pub async fn open_in_place(&self, envelope: BytesMut) -> Result<Opened, ResolveError> {
        let unlocked = self.ready(|| self.opener().begin(&envelope)).await?.into_unlocked();
        Ok(self.opener().open_in_place_under(envelope, unlocked)?)
    }

    /// Opens a message whose DEK block was kept apart from it, as [`Opener::open_detached`].
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn open_detached(&self, block: &[u8], message: &[u8]) -> Result<Opened, ResolveError> {
        Ok(self.ready(|| self.opener().begin_detached(block, message)).await?.open()?)
    }

    /// Has the DEK of a block in the opener's cache, so that streams and messages under it open there without a service.
    ///
    /// # Errors
    /// As [`open`](Self::open); [`OpenError::NotKept`] where the cache does not take it.
    pub async fn prepare(&self, block: &[u8]) -> Result<(), ResolveError> {
        while let Some(reason) = self.opener().lacks_dek(block)? {
            if let Some(dek) = self.unwrap(block, reason, Keep::InCache).await? {
                return Ok(self.opener().learn(block, &dek)?);
            }
        }
        Ok(())
    }

    /// The next message of a connection whose channel waits for DEKs
    /// ([`ChannelOpener::waiting_for_deks`](crate::ChannelOpener::waiting_for_deks)): asks for each block's, supplies it and goes on. `None`
    /// after the last. The channel is one with [`opener`](Self::opener), whose policy is the one that counts here.
    ///
    /// Dropping what it returns before it is done loses nothing.
    ///
    /// # Errors
    /// [`ConnectionError`]. After [`Resolve`](ConnectionError::Resolve) the channel still waits, and the next call asks again.
    pub async fn next<R: AsyncRead + Unpin>(&self, stream: &mut OpenedStream<R>) -> Option<Result<Opened, ConnectionError>> {
        loop {
            match StreamExt::next(stream).await? {
                Err(CodecError::NeedsDek) => {
                    if let Err(error) = self.supply(stream).await {
                        return Some(Err(error));
                    }
                }
                next => return Some(next.map_err(ConnectionError::from)),
            }
        }
    }

    async fn supply<R: AsyncRead + Unpin>(&self, stream: &mut OpenedStream<R>) -> Result<(), ConnectionError> {
        let Some(raw) = stream.needs_dek() else { return Err(CodecError::Failed.into()) };
        // A block of a channel is read once.
        if let Some(dek) = self.unwrap(raw, OpenError::NoMatchingKey, Keep::Nowhere).await? {
            stream.supply(&dek)?;
        }
        Ok(())
    }

    /// The message with its DEK, from wherever.
    async fn ready<'a>(&self, begin: impl Fn() -> Result<Begun<'a>, OpenError>) -> Result<Ready<'a>, ResolveError> {
        loop {
            let mut waiting = match begin()? {
                Begun::Ready(ready) => return Ok(ready),
                Begun::NeedsDek(waiting) => waiting,
            };
            let reason = waiting.reason().clone();
            if let Some(dek) = self.unwrap(waiting.raw_block(), reason, Keep::InCache).await? {
                return Ok(waiting.supply(&dek)?);
            }
        }
    }

    /// The DEK of a block; `None` where the cache has it meanwhile.
    async fn unwrap(&self, raw: &[u8], reason: OpenError, keep: Keep) -> Result<Option<Arc<Dek>>, ResolveError> {
        match self.0.board(raw, reason, keep)? {
            Some(flight) => flight.await.map(Some),
            None => Ok(None),
        }
    }
}

/// Where an unwrapped DEK goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    InCache,
    Nowhere,
}

impl Keep {
    /// What a flight and its failure are known by. Those of a channel have names of their own: a block that is wrong as an envelope's may be a
    /// channel's, whoever has shown it around.
    fn name_of(self, raw: &[u8]) -> [u8; 32] {
        sha256(&[&[u8::from(self == Self::Nowhere)], raw])
    }
}

impl Inner {
    fn air(&self) -> MutexGuard<'_, Air> {
        // Every change leaves it whole, also where another thread panicked with the lock held.
        self.air.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins those who wait for a block's DEK, or begins to unwrap it; `None` where the cache has it.
    fn board(self: &Arc<Self>, raw: &[u8], reason: OpenError, keep: Keep) -> Result<Option<Flight>, ResolveError> {
        let name = keep.name_of(raw);
        let mut air = self.air();
        if let Some(flight) = air.flights.get(&name).and_then(|airborne| airborne.flight.upgrade()) {
            return Ok(Some(flight));
        }
        // One that has landed since the cache was asked.
        if keep == Keep::InCache && self.settings.opener.has_cached(raw) {
            return Ok(None);
        }
        air.check_failed(&name)?;
        // One that nobody waits for any more is over, whether it has said so or not.
        air.flights.remove(&name);
        let flights = len64(air.flights.len()).saturating_add(1);
        LimitExceeded::check("flights", flights, len64(self.settings.flights)).map_err(ResolveError::Busy)?;
        let number = air.begun;
        air.begun = number.wrapping_add(1);
        let landing = Landing { inner: self.clone(), name, number };
        let flight = fly(landing, raw.into(), reason, keep).boxed().shared();
        if let Some(weak) = flight.downgrade() {
            air.flights.insert(name, Airborne { number, flight: weak });
        }
        Ok(Some(flight))
    }

    /// Asks one service after the other, until one gives the block's DEK.
    async fn ask_all(&self, raw: &[u8], reason: OpenError, keep: Keep) -> Result<Dek, ResolveError> {
        let (mut trials, mut failure) = (0, ResolveError::Open(reason));
        for (service, wrapped) in self.sources(raw, &mut failure)? {
            count_trial(&mut trials, self.settings.opener.policy().limits.trials).map_err(OpenError::from)?;
            match self.ask(&*service, wrapped).await.and_then(|dek| self.check(raw, dek, keep)) {
                Ok(dek) => return Ok(dek),
                // Whoever unwraps it, it is not opened.
                Err(error) if error.weight() == 0 => return Err(error),
                Err(error) => failure = failure.or(error),
            }
        }
        Err(failure)
    }

    /// Whom to ask, and for what, in this order. A block that is too long to be asked for is the failure where nobody else is asked.
    fn sources(&self, raw: &[u8], failure: &mut ResolveError) -> Result<Vec<(Service, WrappedDek)>, OpenError> {
        let policy = self.settings.opener.policy();
        let block = DekBlock::parse_alone(raw, &policy.limits)?;
        let mut sources = Vec::new();
        if let Some(service) = self.settings.blocks.as_ref().filter(|_| !block.slots.is_empty()) {
            match LimitExceeded::check("ciphertext", len64(raw.len()), len64(CIPHERTEXT_MAX)) {
                Ok(()) => sources.push((service.clone(), WrappedDek::Block(raw.into()))),
                Err(over) => *failure = OpenError::Parse(over.into()).into(),
            }
        }
        // [EXT-1]
        for external in policy.named(&block) {
            let Some(service) = self.settings.providers.get(external.provider) else { continue };
            let (provider, key_ref) = (external.provider.into(), external.key_ref.into());
            sources.push((service.clone(), WrappedDek::External { provider, key_ref, blob: external.blob.into() }));
        }
        Ok(sources)
    }

    async fn ask(&self, service: &dyn KeyService, wrapped: WrappedDek) -> Result<Dek, ResolveError> {
        let Unwrapped { mut dek, .. } = in_time(self.settings.call_time, service.decrypt_data_key(wrapped)).await?;
        // [PRF-6]
        dek.mine_alone = self.settings.mine_alone;
        Ok(dek)
    }

    /// Whether it is the block's DEK, which is kept where it may be.
    fn check(&self, raw: &[u8], dek: Dek, keep: Keep) -> Result<Dek, ResolveError> {
        let opener = &self.settings.opener;
        let checked = match keep {
            Keep::InCache => opener.learn(raw, &dek),
            Keep::Nowhere => {
                let block = DekBlock::parse_alone(raw, &opener.policy().limits).map_err(OpenError::from)?;
                verify(raw, &block, &dek, None).map(|_| ()).ok_or(OpenError::HeaderMac)
            }
        };
        match checked {
            Ok(()) | Err(OpenError::NotKept) => Ok(dek),
            Err(error) => Err(error.into()),
        }
    }
}

/// Unwraps the DEK of a block. The cache has it, or the failure is noted, before it is no longer in the air.
async fn fly(landing: Landing, raw: Vec<u8>, reason: OpenError, keep: Keep) -> Result<Arc<Dek>, ResolveError> {
    let unwrapped = landing.inner.ask_all(&raw, reason, keep).await;
    if let Err(error) = &unwrapped {
        landing.inner.air().note_failed(landing.name, error.clone());
    }
    unwrapped.map(Arc::new)
}

/// Takes a flight out of the air when it is over: landed, or nobody waits for it any more.
struct Landing {
    inner: Arc<Inner>,
    name: [u8; 32],
    number: u64,
}

impl Drop for Landing {
    fn drop(&mut self) {
        let mut air = self.inner.air();
        // Another may have begun between the end of the last who waited and this.
        if air.flights.get(&self.name).is_some_and(|airborne| airborne.number == self.number) {
            air.flights.remove(&self.name);
        }
    }
}

impl Air {
    /// What was refused just now is refused again, and nobody is asked.
    fn check_failed(&mut self, name: &[u8; 32]) -> Result<(), ResolveError> {
        while self.failed.front().is_some_and(|(since, _)| since.elapsed() >= FAILED_FOR) {
            self.forget_failure();
        }
        self.failures.get(name).map_or(Ok(()), |error| Err(error.clone()))
    }

    fn note_failed(&mut self, name: [u8; 32], error: ResolveError) {
        if self.failed.len() >= FAILURES_MAX {
            self.forget_failure();
        }
        self.failures.insert(name, error);
        self.failed.push_back((Instant::now(), name));
    }

    fn forget_failure(&mut self) {
        if let Some((_, name)) = self.failed.pop_front() {
            self.failures.remove(&name);
        }
    }
}

async fn in_time<T>(limit: Duration, reply: impl Future<Output = Result<T, KmsError>>) -> Result<T, KmsError> {
    timeout(limit, reply).await.unwrap_or_else(|_| Err(KmsError::Unreachable(Arc::new(NoAnswer(limit)))))
}

/// A new data key under a CMK of any service, for a [`Sealer`]: the ciphertext DEK travels along as an external, by the id that the service
/// gave for the key. Receivers name `provider` and that id in their policy ([`Policy::kms_keys`](crate::Policy::kms_keys)).
///
/// # Errors
/// [`KmsError`]; the service has [`CALL_TIME`].
pub async fn data_key(service: &dyn KeyService, provider: &str, key: &KeyRef) -> Result<DataKey, KmsError> {
    let DataKeyPair { plaintext, ciphertext, key, .. } = in_time(CALL_TIME, service.generate_data_key(key, true)).await?;
    let dek = plaintext.ok_or(KmsError::Protocol("a data key without its plaintext"))?;
    let carried = DataKey::from(dek).also_with(provider, &key.id, &ciphertext);
    carried.map_err(|_| KmsError::Protocol("a data key that no envelope can carry"))
}

/// Where a sealer's data keys come from: one CMK of a service.
///
/// ```no_run
/// # async fn seal(service: std::sync::Arc<dyn sealwire::kms::KeyService>) -> Result<(), Box<dyn std::error::Error>> {
/// use sealwire::{Sealer, kms::{DataKeys, PROVIDER}};
/// let keys = DataKeys::new(service, PROVIDER, "orders".parse()?);
/// let mut sealer = Sealer::builder().data_key(keys.another().await?).build()?;
/// let envelope = keys.seal(&mut sealer, b"", b"an order").await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct DataKeys {
    service: Service,
    provider: String,
    key: KeyRef,
}

/// Why nothing was sealed under a data key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RenewError {
    /// The next data key did not come.
    #[error("the next data key did not come: {0}")]
    Service(#[from] KmsError),
    /// It cannot be sealed.
    #[error(transparent)]
    Seal(#[from] SealError),
}

impl DataKeys {
    /// Data keys under `key` of a service that envelopes call `provider`.
    #[must_use]
    pub fn new(service: Arc<dyn KeyService>, provider: impl Into<String>, key: KeyRef) -> Self {
        Self { service, provider: provider.into(), key }
    }

    /// Another data key, as [`data_key`] gives it.
    ///
    /// # Errors
    /// [`KmsError`].
    pub async fn another(&self) -> Result<DataKey, KmsError> {
        data_key(&*self.service, &self.provider, &self.key).await
    }

    /// Seals, and goes on with another data key where the sealer's is used up ([`SealError::DataKeySpent`]): one call of the service for
    /// each data key.
    ///
    /// # Errors
    /// [`RenewError`]; the sealer is as it was.
    pub async fn seal(&self, sealer: &mut Sealer, context: &[u8], payload: &[u8]) -> Result<Vec<u8>, RenewError> {
        match sealer.seal(context, payload) {
            Err(SealError::DataKeySpent) => {
                sealer.renew_with(self.another().await?)?;
                Ok(sealer.seal(context, payload)?)
            }
            sealed => Ok(sealed?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Keyring;

    fn inner() -> Arc<Inner> {
        Resolver::builder(Opener::new(Keyring::new())).build().0
    }

    fn name(n: usize) -> [u8; 32] {
        sha256(&[&n.to_be_bytes()])
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_few_and_short() {
        let mut air = Air::default();
        for n in 0..FAILURES_MAX + 10 {
            air.note_failed(name(n), KmsError::Denied.into());
        }
        assert_eq!((air.failures.len(), air.failed.len()), (FAILURES_MAX, FAILURES_MAX));
        assert!(air.check_failed(&name(9)).is_ok(), "the oldest were let go");
        assert!(air.check_failed(&name(10)).is_err());
        tokio::time::advance(FAILED_FOR - Duration::from_millis(1)).await;
        assert!(air.check_failed(&name(10)).is_err());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(air.check_failed(&name(10)).is_ok());
        assert_eq!((air.failures.len(), air.failed.len()), (0, 0));
    }

    fn block() -> Vec<u8> {
        let to = crate::Cmk::from_x25519(&[1; 32]).recipient().clone();
        let sealed = Sealer::builder().to(to).dek(Dek::import(&[7; 32])).build().unwrap().seal(b"", b"x").unwrap();
        DekBlock::parse(&sealed, &crate::Limits::default()).unwrap().0.into()
    }

    /// Who has looked in the cache before a flight landed, and boards after it, does not begin another.
    #[test]
    fn what_has_just_landed_is_in_the_cache() {
        let (inner, raw) = (inner(), block());
        let board = |keep| inner.board(&raw, OpenError::NoMatchingKey, keep).unwrap();
        assert!(board(Keep::InCache).is_some());
        inner.settings.opener.learn(&raw, &Dek::import(&[7; 32])).unwrap();
        assert!(board(Keep::InCache).is_none());
        assert!(board(Keep::Nowhere).is_some(), "a channel takes none from the cache");
    }

    #[test]
    fn a_flight_without_passengers_takes_no_place() {
        let resolver = Resolver::builder(Opener::new(Keyring::new())).flights(1).build();
        let raw = block();
        let flight = async { Err(KmsError::Denied.into()) }.boxed().shared();
        let weak = flight.downgrade().expect("it has not been polled");
        drop(flight);
        resolver.0.air().flights.insert(Keep::InCache.name_of(&raw), Airborne { number: 9, flight: weak });
        let again = resolver.0.board(&raw, OpenError::NoMatchingKey, Keep::InCache).unwrap().expect("it is not in the cache");
        assert!(matches!(resolver.0.board(&block(), OpenError::NoMatchingKey, Keep::InCache), Err(ResolveError::Busy(_))));
        drop(again);
        assert_eq!(resolver.0.air().flights.len(), 0);
    }

    /// Who comes after the last has gone, and before its flight is out of the air, keeps his place.
    #[test]
    fn a_flight_takes_out_no_other() {
        let inner = inner();
        let flight = async { Err(KmsError::Denied.into()) }.boxed().shared();
        let begin = |number| {
            let weak = flight.downgrade().expect("it has not been polled");
            inner.air().flights.insert(name(0), Airborne { number, flight: weak });
            Landing { inner: inner.clone(), name: name(0), number }
        };
        let (first, second) = (begin(1), begin(2));
        drop(first);
        assert_eq!(inner.air().flights.len(), 1);
        drop(second);
        assert_eq!(inner.air().flights.len(), 0);
    }
}
