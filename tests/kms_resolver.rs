//! What an opener opens through key services, and what it asks of them.

use std::{
    collections::HashMap,
    future::Future,
    io::{Cursor, Read, Write},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, future::join_all};
use hpke::{Deserializable, OpModeR, aead::ChaCha20Poly1305, kdf::HkdfSha256, kem::X25519HkdfSha256};
use sealwire::{
    CachePolicy, ChannelOpener, ChannelSealer, Cmk, DataKey, Dek, Keyring, KmsKey, Limits, OpenError, Opener, ParseError, Policy,
    PolicyError, Reuse, Role, SealError, Sealer, SenderKey, Senders, Standing,
    codec::CodecError,
    connection::{OpenedStream, SealedSink},
    kms::{
        CALL_TIME, ConnectionError, DataKeyPair, DataKeys, FAILED_FOR, KeyRef, KeyService, KeyUsed, KmsError, NoAnswer, PROVIDER,
        RenewError, Reply, ResolveError, Resolver, Unwrapped, WrappedDek, data_key,
    },
    stream::{AsyncOpenReader, OpenReader, SealWriter},
    wire::DekBlock,
};
use tokio::{
    io::AsyncReadExt,
    sync::Semaphore,
    time::{sleep, timeout},
};

/// What a stand-in does when it is asked.
#[derive(Clone)]
enum Mood {
    Answers,
    Says(KmsError),
    Hangs,
    /// Answers with this, whatever it is asked.
    Wrong([u8; 32]),
}

/// A key service in memory: CMKs whose slots the crate `hpke` opens, blobs it was told of; it counts what it is asked.
struct StandIn {
    secrets: Vec<[u8; 32]>,
    blobs: HashMap<(String, String, Vec<u8>), [u8; 32]>,
    mood: Mutex<Mood>,
    /// One of these for each answer.
    allowed: Semaphore,
    calls: AtomicUsize,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
    bytes: AtomicUsize,
    asked: Mutex<Vec<WrappedDek>>,
    made: AtomicUsize,
}

impl StandIn {
    fn new(secrets: &[[u8; 32]]) -> Self {
        Self {
            secrets: secrets.to_vec(),
            blobs: HashMap::new(),
            mood: Mutex::new(Mood::Answers),
            allowed: Semaphore::new(Semaphore::MAX_PERMITS),
            calls: AtomicUsize::new(0),
            at_once: AtomicUsize::new(0),
            most_at_once: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            asked: Mutex::default(),
            made: AtomicUsize::new(0),
        }
    }

    fn with(mut self, (provider, key_ref): (&str, &str), blob: &[u8], dek: [u8; 32]) -> Self {
        self.blobs.insert((provider.into(), key_ref.into(), blob.into()), dek);
        self
    }

    /// Answers nothing until it is let.
    fn shut(self) -> Self {
        self.allowed.forget_permits(Semaphore::MAX_PERMITS);
        self
    }

    fn in_mood(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    fn calls(&self) -> usize {
        self.calls.load(SeqCst)
    }

    fn find(&self, wrapped: &WrappedDek) -> Option<[u8; 32]> {
        match wrapped {
            WrappedDek::Block(raw) => self.secrets.iter().find_map(|secret| open_block(raw, secret)),
            WrappedDek::External { provider, key_ref, blob } => {
                self.blobs.get(&(provider.clone(), key_ref.clone(), blob.clone())).copied()
            }
            WrappedDek::Slot { .. } => None,
        }
    }
}

type Kem = X25519HkdfSha256;

/// The DEK of the first slot that opens.
fn open_block(raw: &[u8], secret: &[u8; 32]) -> Option<[u8; 32]> {
    let (_, block) = DekBlock::parse(raw, &Limits { block: 1 << 20, recipients: 10_000, ..Limits::default() }).ok()?;
    let secret = <Kem as hpke::Kem>::PrivateKey::from_bytes(secret).unwrap();
    block.slots.iter().find_map(|slot| {
        let enc = <Kem as hpke::Kem>::EncappedKey::from_bytes(block.enc.map_or(slot.enc, |enc| enc)).ok()?;
        let info = b"sealwire v1 dek\x01";
        let (mode, wrapped) = (OpModeR::Base, &slot.wrapped_dek[..]);
        let opened = hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, Kem>(&mode, &secret, &enc, info, wrapped, b"");
        opened.ok()?.try_into().ok()
    })
}

fn size(wrapped: &WrappedDek) -> usize {
    match wrapped {
        WrappedDek::Block(raw) => raw.len(),
        WrappedDek::External { provider, key_ref, blob } => provider.len() + key_ref.len() + blob.len(),
        WrappedDek::Slot { .. } => unreachable!("nobody asks for slots"),
    }
}

fn used() -> KeyUsed {
    KeyUsed { id: "the/key".into(), version: 1 }
}

/// Counts who is inside, also where he does not come out.
struct Inside<'a>(&'a StandIn);

impl<'a> Inside<'a> {
    fn of(service: &'a StandIn) -> Self {
        service.calls.fetch_add(1, SeqCst);
        service.most_at_once.fetch_max(service.at_once.fetch_add(1, SeqCst) + 1, SeqCst);
        Self(service)
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.at_once.fetch_sub(1, SeqCst);
    }
}

impl KeyService for StandIn {
    fn decrypt_data_key(&self, wrapped: WrappedDek) -> Reply<'_, Unwrapped> {
        Box::pin(async move {
            let _inside = Inside::of(self);
            self.bytes.fetch_add(size(&wrapped) + 32, SeqCst);
            self.asked.lock().unwrap().push(wrapped.clone());
            self.allowed.acquire().await.unwrap().forget();
            let mood = self.mood.lock().unwrap().clone();
            let found = match mood {
                Mood::Answers => self.find(&wrapped).ok_or(KmsError::CannotDecrypt)?,
                Mood::Says(error) => return Err(error),
                Mood::Hangs => std::future::pending().await,
                Mood::Wrong(dek) => dek,
            };
            // It says more than it knows.
            Ok(Unwrapped { dek: Dek::import(&found).mine_alone(), key: used(), recipient: None })
        })
    }

    fn generate_data_key(&self, _: &KeyRef, plaintext: bool) -> Reply<'_, DataKeyPair> {
        Box::pin(async move {
            let _inside = Inside::of(self);
            let number = u8::try_from(self.made.fetch_add(1, SeqCst)).unwrap();
            let mood = self.mood.lock().unwrap().clone();
            match mood {
                Mood::Says(error) => return Err(error),
                Mood::Hangs => std::future::pending().await,
                Mood::Answers | Mood::Wrong(_) => {}
            }
            let plaintext = plaintext.then(|| Dek::import(&[number; 32]));
            Ok(DataKeyPair { plaintext, ciphertext: vec![b'c', number], key: used(), recipient: None })
        })
    }
}

const SECRET: [u8; 32] = [0x31; 32];
const OTHER: [u8; 32] = [0x32; 32];

fn unreachable() -> KmsError {
    KmsError::Unreachable(Arc::new(std::io::Error::from(std::io::ErrorKind::ConnectionRefused)))
}

fn sealer_to(secret: &[u8; 32]) -> Sealer {
    Sealer::builder().to(Cmk::from_x25519(secret).recipient().clone()).build().unwrap()
}

fn envelope() -> Vec<u8> {
    sealer_to(&SECRET).seal(b"context", b"payload").unwrap()
}

fn block_of(sealed: &[u8]) -> &[u8] {
    DekBlock::parse(sealed, &Limits::default()).unwrap().0
}

fn opener() -> Opener {
    Opener::new(Keyring::new())
}

fn naming(keys: &[(&str, &str)]) -> Policy {
    Policy { kms_keys: keys.iter().map(|(provider, key_ref)| KmsKey::new(*provider, *key_ref)).collect(), ..Policy::default() }
}

fn naming_opener(keys: &[(&str, &str)]) -> Opener {
    Opener::builder(Keyring::new()).policy(naming(keys)).build()
}

fn resolver(service: &Arc<StandIn>) -> Resolver {
    Resolver::new(opener(), service.clone())
}

fn service() -> Arc<StandIn> {
    Arc::new(StandIn::new(&[SECRET]))
}

fn is_unreachable<T>(result: &Result<T, ResolveError>) -> bool {
    matches!(result, Err(ResolveError::Service(KmsError::Unreachable(_))))
}

fn is_header_mac<T>(result: &Result<T, ResolveError>) -> bool {
    matches!(result, Err(ResolveError::Open(OpenError::HeaderMac)))
}

/// Lets every other task go as far as it can.
async fn settle() {
    for _ in 0..5000 {
        tokio::task::yield_now().await;
    }
}

/// All ways of opening, and one call for all messages under a DEK.
#[tokio::test]
async fn every_way_of_opening() {
    let service = service();
    let resolver = resolver(&service);
    let mut sealer = sealer_to(&SECRET);
    for n in 0..3u8 {
        let envelope = sealer.seal(b"context", &[n]).unwrap();
        let opened = resolver.open(&envelope).await.unwrap();
        assert_eq!((&opened.payload[..], &opened.context[..], opened.key), (&[n][..], &b"context"[..], None));
        let again = resolver.open_in_place(BytesMut::from(&envelope[..])).await.unwrap();
        assert_eq!(again, opened);
        let (block, message) = envelope.split_at(block_of(&envelope).len());
        assert_eq!(resolver.open_detached(block, message).await.unwrap(), opened);
        resolver.prepare(block).await.unwrap();
        assert_eq!(resolver.opener().open(&envelope).unwrap(), opened);
    }
    assert_eq!(service.calls(), 1);
    // Each of them also where it is the first.
    for way in 0..3 {
        let envelope = envelope();
        let (block, message) = envelope.split_at(block_of(&envelope).len());
        let opened = match way {
            0 => resolver.open_in_place(BytesMut::from(&envelope[..])).await,
            1 => resolver.open_detached(block, message).await,
            _ => {
                resolver.prepare(block).await.unwrap();
                Ok(resolver.opener().open(&envelope).unwrap())
            }
        };
        assert_eq!(&opened.unwrap().payload[..], b"payload");
        assert_eq!(service.calls(), 2 + way);
    }
}

/// What the keyring opens, the service is not asked for.
#[tokio::test]
async fn keys_at_hand_come_first() {
    let service = service();
    let resolver = Resolver::new(Opener::new(Keyring::from(Cmk::from_x25519(&SECRET))), service.clone());
    let envelope = envelope();
    assert!(resolver.open(&envelope).await.unwrap().key.is_some());
    resolver.prepare(block_of(&envelope)).await.unwrap();
    assert_eq!(service.calls(), 0);
    // Nor for what no DEK would mend.
    assert!(matches!(resolver.open(&envelope[..40]).await, Err(ResolveError::Open(OpenError::Parse(_)))));
    let refusing = Policy { suites: Some(vec![]), ..Policy::default() };
    let refusing = Resolver::new(Opener::builder(Keyring::new()).policy(refusing).build(), service.clone());
    assert!(matches!(refusing.open(&envelope).await, Err(ResolveError::Open(OpenError::Policy(PolicyError::Suite(1))))));
    assert!(matches!(
        refusing.prepare(block_of(&envelope)).await,
        Err(ResolveError::Open(OpenError::Policy(PolicyError::Suite(1))))
    ));
    assert_eq!(service.calls(), 0);
}

/// A thousand who wait for one DEK make one call, on one thread and on several.
#[test]
fn a_thousand_at_once() {
    for threads in [1, 4] {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build().unwrap();
        runtime.block_on(async {
            for round in 0..20 {
                let service = Arc::new(StandIn::new(&[SECRET]));
                let (resolver, envelope) = (resolver(&service), Arc::new(envelope()));
                let opened = (0..1000).map(|_| {
                    let (resolver, envelope) = (resolver.clone(), envelope.clone());
                    tokio::spawn(async move { resolver.open(&envelope).await.unwrap().payload })
                });
                for payload in join_all(opened).await {
                    assert_eq!(&payload.unwrap()[..], b"payload");
                }
                assert_eq!(service.calls(), 1, "{threads} threads, round {round}");
            }
        });
    }
}

/// The same while the service takes its time: all of them wait.
#[tokio::test]
async fn a_thousand_who_wait() {
    let service = Arc::new(StandIn::new(&[SECRET]).shut());
    let (resolver, envelope) = (resolver(&service), envelope());
    let waiting = join_all((0..1000).map(|_| resolver.open(&envelope)));
    let (opened, ()) = tokio::join!(waiting, async {
        settle().await;
        assert_eq!(service.calls(), 1);
        service.allowed.add_permits(1);
    });
    assert!(opened.into_iter().all(|opened| opened.is_ok()));
    assert_eq!(service.calls(), 1);
}

/// Without a cache those who wait together still make one call; who comes later makes another.
#[tokio::test]
async fn where_nothing_is_kept() {
    let service = Arc::new(StandIn::new(&[SECRET]).shut());
    let none = Opener::builder(Keyring::new()).cache(CachePolicy { deks: 0, ..CachePolicy::default() }).build();
    let (resolver, envelope) = (Resolver::new(none, service.clone()), envelope());
    let (opened, ()) = tokio::join!(join_all((0..100).map(|_| resolver.open(&envelope))), async {
        settle().await;
        service.allowed.add_permits(1);
    });
    assert!(opened.into_iter().all(|opened| opened.is_ok()));
    assert_eq!(service.calls(), 1);
    service.allowed.add_permits(2);
    assert!(resolver.open_in_place(BytesMut::from(&envelope[..])).await.is_ok());
    assert!(matches!(resolver.prepare(block_of(&envelope)).await, Err(ResolveError::Open(OpenError::NotKept))));
    assert_eq!(service.calls(), 3);
}

/// Who began to ask goes away: the others get their answer, and from the same call.
#[tokio::test]
async fn the_first_goes_away() {
    let service = Arc::new(StandIn::new(&[SECRET]).shut());
    let (resolver, envelope) = (resolver(&service), Arc::new(envelope()));
    let spawn = || {
        let (resolver, envelope) = (resolver.clone(), envelope.clone());
        tokio::spawn(async move { resolver.open(&envelope).await.map(|opened| opened.payload) })
    };
    let first = spawn();
    settle().await;
    assert_eq!(service.calls(), 1);
    let others: Vec<_> = (0..10).map(|_| spawn()).collect();
    settle().await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    settle().await;
    service.allowed.add_permits(1);
    for other in others {
        let opened = timeout(Duration::from_secs(60), other).await.expect("nobody hangs");
        assert_eq!(&opened.unwrap().unwrap()[..], b"payload");
    }
    assert_eq!(service.calls(), 1);
}

/// Whoever goes away, and whenever, on several threads: who stays gets an answer, and nothing stays behind.
#[test]
fn coming_and_going() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    runtime.block_on(async {
        let service = service();
        for round in 0..300u64 {
            let none = Opener::builder(Keyring::new()).cache(CachePolicy { deks: 0, ..CachePolicy::default() }).build();
            let resolver = Resolver::builder(none).blocks(service.clone()).flights(1).build();
            let envelope = Arc::new(envelope());
            let tasks: Vec<_> = (0..16)
                .map(|_| {
                    let (resolver, envelope) = (resolver.clone(), envelope.clone());
                    tokio::spawn(async move { resolver.open(&envelope).await.map(|opened| opened.payload) })
                })
                .collect();
            for (n, task) in tasks.iter().enumerate() {
                if (round >> (n % 8)) & 1 == 1 {
                    task.abort();
                }
            }
            for task in tasks {
                match timeout(Duration::from_secs(60), task).await.expect("nobody hangs") {
                    Ok(opened) => assert_eq!(&opened.unwrap()[..], b"payload"),
                    Err(gone) => assert!(gone.is_cancelled()),
                }
            }
            assert_eq!(service.at_once.load(SeqCst), 0);
            assert!(resolver.open(&envelope).await.is_ok(), "there is room in the air");
        }
    });
}

/// All who waited go away: the call ends, and the next begins another.
#[tokio::test]
async fn all_go_away() {
    let service = Arc::new(StandIn::new(&[SECRET]).shut());
    let builder = Resolver::builder(opener()).blocks(service.clone()).flights(1);
    let (resolver, envelope) = (builder.build(), envelope());
    for n in 1..=3 {
        let mut waiting = Box::pin(join_all([resolver.open(&envelope), resolver.open(&envelope)]));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        assert_eq!((service.calls(), service.at_once.load(SeqCst)), (n, 1));
        drop(waiting);
        assert_eq!(service.at_once.load(SeqCst), 0);
    }
    service.allowed.add_permits(1);
    assert!(resolver.open(&envelope).await.is_ok(), "there is room in the air");
    assert_eq!(service.calls(), 4);
}

/// A failure is everybody's who waited, is given again for a moment, and forgotten then.
#[tokio::test(start_paused = true)]
async fn it_fails_and_recovers() {
    let service = service();
    let (resolver, envelope) = (resolver(&service), envelope());
    service.in_mood(Mood::Says(unreachable()));
    assert!(join_all((0..100).map(|_| resolver.open(&envelope))).await.iter().all(is_unreachable));
    assert_eq!(service.calls(), 1);
    service.in_mood(Mood::Answers);
    for _ in 0..100 {
        sleep(FAILED_FOR / 200).await;
        assert!(is_unreachable(&resolver.open(&envelope).await), "nobody is asked");
    }
    assert_eq!(service.calls(), 1);
    // Another block is another matter.
    assert!(resolver.open(&sealer_to(&SECRET).seal(b"", b"x").unwrap()).await.is_ok());
    sleep(FAILED_FOR / 2).await;
    assert!(resolver.open(&envelope).await.is_ok());
    assert_eq!(service.calls(), 3);
}

/// A block that nobody opens costs the service one call a second, whoever sends it however often.
#[tokio::test(start_paused = true)]
async fn a_wrong_block_does_not_hammer() {
    let service = service();
    let (resolver, foreign) = (resolver(&service), sealer_to(&OTHER).seal(b"", b"x").unwrap());
    let begun = tokio::time::Instant::now();
    for _ in 0..1000 {
        let refused = resolver.open(&foreign).await;
        assert!(matches!(refused, Err(ResolveError::Service(KmsError::CannotDecrypt))));
        assert_eq!(refused.unwrap_err().to_peer(), OpenError::NoMatchingKey.to_peer());
        sleep(Duration::from_millis(10)).await;
    }
    let seconds = begun.elapsed().as_secs_f64() / FAILED_FOR.as_secs_f64();
    assert!(service.calls() as f64 <= seconds + 1.0, "{} calls in {seconds}", service.calls());
}

/// The clock runs out on a service that says nothing, and not on others.
#[tokio::test(start_paused = true)]
async fn it_hangs() {
    let service = service();
    service.in_mood(Mood::Hangs);
    let (resolver, envelope) = (resolver(&service), envelope());
    let begun = tokio::time::Instant::now();
    let results = join_all((0..10).map(|_| resolver.open(&envelope))).await;
    assert!(results.iter().all(is_unreachable));
    assert_eq!((begun.elapsed(), service.calls(), service.at_once.load(SeqCst)), (CALL_TIME, 1, 0));
    let Err(ResolveError::Service(KmsError::Unreachable(why))) = &results[0] else { panic!("it is unreachable") };
    assert_eq!(why.downcast_ref::<NoAnswer>(), Some(&NoAnswer(CALL_TIME)));
    sleep(FAILED_FOR).await;
    let short = Resolver::builder(opener()).blocks(service.clone()).call_time(Duration::from_millis(50)).build();
    let begun = tokio::time::Instant::now();
    assert!(is_unreachable(&short.open(&envelope).await));
    assert_eq!(begun.elapsed(), Duration::from_millis(50));
}

/// A hundred DEKs are a hundred calls, at once; a named number of them.
#[tokio::test]
async fn a_hundred_deks() {
    let service = Arc::new(StandIn::new(&[SECRET]).shut());
    let envelopes: Vec<_> = (0..100).map(|_| envelope()).collect();
    for (flights, expected) in [(100, 100), (30, 30)] {
        service.calls.store(0, SeqCst);
        let resolver = Resolver::builder(opener()).blocks(service.clone()).flights(flights).build();
        let opening = join_all(envelopes.iter().map(|envelope| resolver.open(envelope)));
        let (opened, ()) = tokio::join!(opening, async {
            settle().await;
            service.allowed.add_permits(expected);
        });
        let busy =
            |r: &&Result<_, _>| matches!(r, Err(ResolveError::Busy(over)) if over.limit == "flights" && over.maximum == 30);
        assert_eq!(opened.iter().filter(|opened| opened.is_ok()).count(), expected);
        assert_eq!(opened.iter().filter(busy).count(), 100 - expected);
        assert_eq!((service.calls(), service.most_at_once.load(SeqCst)), (expected, 100));
        // Those who were turned away come again.
        service.allowed.add_permits(100 - expected);
        for envelope in &envelopes {
            assert!(resolver.open(envelope).await.is_ok());
        }
        assert_eq!(service.calls(), 100);
    }
}

/// While the service is down, what is in the cache opens until its age ends, and then it is clear why not; USE-3's limits are the opener's.
#[tokio::test]
async fn down_while_the_cache_has_it() {
    let time = Arc::new(AtomicU64::new(1_700_000_000));
    let cache = CachePolicy { age: Duration::from_secs(60), ..CachePolicy::default() };
    let opener = Opener::builder(Keyring::new()).cache(cache).testing_clock(time.clone()).build();
    let service = service();
    let (resolver, mut sealer) = (Resolver::new(opener, service.clone()), sealer_to(&SECRET));
    assert!(resolver.open(&sealer.seal(b"", b"1").unwrap()).await.is_ok());
    service.in_mood(Mood::Says(unreachable()));
    for _ in 0..59 {
        time.fetch_add(1, SeqCst);
        assert!(resolver.open(&sealer.seal(b"", b"2").unwrap()).await.is_ok(), "using it does not make it younger");
    }
    assert_eq!(service.calls(), 1);
    time.fetch_add(1, SeqCst);
    assert!(is_unreachable(&resolver.open(&sealer.seal(b"", b"3").unwrap()).await));
    assert_eq!(service.calls(), 2);
}

/// Proves KEY-2: an answer that is not the block's DEK opens nothing, is kept nowhere, and is told as what it is.
#[tokio::test(start_paused = true)]
async fn wrong_answers() {
    let service = service();
    let (resolver, envelope) = (resolver(&service), envelope());
    service.in_mood(Mood::Wrong([9; 32]));
    assert!(is_header_mac(&resolver.open(&envelope).await));
    sleep(FAILED_FOR).await;
    assert!(is_header_mac(&resolver.prepare(block_of(&envelope)).await));
    sleep(FAILED_FOR).await;
    assert!(is_header_mac(&resolver.open_in_place(BytesMut::from(&envelope[..])).await));
    assert_eq!(service.calls(), 3);
    assert!(resolver.opener().open(&envelope).is_err());
    sleep(FAILED_FOR).await;
    service.in_mood(Mood::Answers);
    assert!(resolver.open(&envelope).await.is_ok());
}

const PLAINTEXT: [u8; 32] = [0x6b; 32];
const AWS: (&str, &str) = ("aws", "arn:aws:kms:eu-central-1:1:key/7");

fn external_data_key() -> DataKey {
    DataKey::from_kms(AWS.0, AWS.1, &PLAINTEXT, b"blob").unwrap()
}

/// Proves EXT-1: an external goes to the service of its provider, and only where the policy names its key, ours like others'.
#[tokio::test]
async fn externals() {
    let ours = (PROVIDER, "orders");
    let data_key = external_data_key().also_with(ours.0, ours.1, b"ours").unwrap().also_with("gcp", "g", b"g").unwrap();
    let envelope = Sealer::builder().data_key(data_key).build().unwrap().seal(b"", b"x").unwrap();
    for (named, ours_asked, aws_asked) in
        [(&[][..], 0, 0), (&[AWS][..], 0, 1), (&[ours][..], 1, 0), (&[("gcp", "g")], 0, 0), (&[("aws", "orders")], 0, 0)]
    {
        let aws = Arc::new(StandIn::new(&[]).with(AWS, b"blob", PLAINTEXT));
        let own = Arc::new(StandIn::new(&[]).with(ours, b"ours", PLAINTEXT));
        let builder = Resolver::builder(naming_opener(named)).blocks(own.clone()).provider(PROVIDER, own.clone());
        let opened = builder.provider("aws", aws.clone()).build().open(&envelope).await;
        assert_eq!((own.calls(), aws.calls()), (ours_asked, aws_asked), "{named:?}");
        match ours_asked + aws_asked {
            0 => assert!(matches!(opened, Err(ResolveError::Open(OpenError::NoMatchingKey)))),
            _ => assert_eq!(&opened.unwrap().payload[..], b"x"),
        }
        let asked = [own, aws].map(|service| service.asked.lock().unwrap().clone()).concat();
        assert!(asked.iter().all(|wrapped| matches!(wrapped, WrappedDek::External { .. })), "no block without a slot");
    }
    // `new` is the short form for our own.
    let own = Arc::new(StandIn::new(&[]).with(ours, b"ours", PLAINTEXT));
    assert!(Resolver::new(naming_opener(&[ours, AWS]), own.clone()).open(&envelope).await.is_ok());
    assert_eq!(own.asked.lock().unwrap().len(), 1);
}

/// Proves WRAP-6: one service after the other is asked, each is a trial, and what failed is told by who could not be asked.
#[tokio::test(start_paused = true)]
async fn one_after_the_other() {
    let both = Sealer::builder().to(Cmk::from_x25519(&OTHER).recipient().clone()).data_key(external_data_key());
    let envelope = both.build().unwrap().seal(b"", b"x").unwrap();
    let (own, aws) = (service(), Arc::new(StandIn::new(&[]).with(AWS, b"blob", PLAINTEXT)));
    let resolver = |trials| {
        let policy = Policy { limits: Limits { trials, ..Limits::default() }, ..naming(&[AWS]) };
        let opener = Opener::builder(Keyring::new()).policy(policy).build();
        Resolver::builder(opener).blocks(own.clone()).provider("aws", aws.clone()).build()
    };
    for own_mood in [Mood::Answers, Mood::Says(unreachable()), Mood::Wrong([1; 32]), Mood::Hangs] {
        own.in_mood(own_mood);
        assert!(resolver(2).open(&envelope).await.is_ok());
    }
    own.in_mood(Mood::Answers);
    let over = resolver(1).open(&envelope).await;
    assert!(matches!(over, Err(ResolveError::Open(OpenError::Parse(ParseError::LimitExceeded(over)))) if over.limit == "trials"));
    assert_eq!((own.calls(), aws.calls()), (5, 4));
    let says = |own_mood: Mood, aws_mood: Mood| {
        own.in_mood(own_mood);
        aws.in_mood(aws_mood);
        let (resolver, envelope) = (resolver(64), &envelope);
        async move { resolver.open(envelope).await }
    };
    let denied = || Mood::Says(KmsError::Denied);
    let (wrong, away) = (|| Mood::Wrong([1; 32]), || Mood::Says(unreachable()));
    assert!(matches!(says(denied(), Mood::Says(KmsError::NotFound)).await, Err(ResolveError::Service(KmsError::Denied))));
    assert!(is_header_mac(&says(denied(), wrong()).await) && is_header_mac(&says(wrong(), denied()).await));
    assert!(is_unreachable(&says(away(), wrong()).await) && is_unreachable(&says(wrong(), away()).await));
    assert!(is_unreachable(&says(denied(), away()).await));
}

/// Proves PRF-6: who sent it is at most *group*, whatever the service says of its DEKs, unless the caller states that they are his alone.
#[tokio::test]
async fn what_a_service_gives_is_shared() {
    let (service, signer) = (service(), Arc::new(SenderKey::generate().unwrap()));
    let builder = Sealer::builder().to(Cmk::from_x25519(&SECRET).recipient().clone()).sign_with(signer.clone());
    let envelope = builder.build().unwrap().seal(b"", b"x").unwrap();
    let standing = async |resolver: Resolver| resolver.open(&envelope).await.unwrap().sender.standing();
    assert_eq!(standing(resolver(&service)).await, Standing::Group);
    let stated = Resolver::builder(opener()).blocks(service.clone()).mine_alone().build();
    assert_eq!(standing(stated).await, Standing::Verified);
    // A sender who may not, and the service asked once for what is not opened however often it comes.
    let calls = service.calls();
    let policy = Policy { senders: Some(Senders::new([*signer.verifying_key()])), ..Policy::default() };
    let strict = Resolver::new(Opener::builder(Keyring::new()).policy(policy).build(), service.clone());
    for _ in 0..10 {
        let refused = strict.open(&envelope).await;
        assert!(matches!(refused, Err(ResolveError::Open(OpenError::Policy(PolicyError::Sender(_))))));
    }
    assert_eq!(service.calls(), calls + 1);
}

/// A proof that covers one message is verified with that message each time; its DEK is asked for once.
#[tokio::test]
async fn signed_messages() {
    let service = service();
    let resolver = resolver(&service);
    let builder = Sealer::builder().to(Cmk::from_x25519(&SECRET).recipient().clone());
    let mut sealer = builder.sign_messages_with(SenderKey::generate().unwrap()).build().unwrap();
    let envelope = sealer.seal(b"", b"x").unwrap();
    for _ in 0..2 {
        assert_eq!(resolver.open(&envelope).await.unwrap().sender.standing(), Standing::Signed);
    }
    assert!(resolver.open_in_place(BytesMut::from(&envelope[..])).await.is_ok());
    resolver.prepare(block_of(&envelope)).await.unwrap();
    assert_eq!(service.calls(), 1);
    let mut other = envelope.clone();
    *other.last_mut().unwrap() ^= 1;
    assert!(resolver.open(&other).await.is_err());
}

/// A block that no request can carry is not sent; an external of it still is.
#[tokio::test]
async fn blocks_too_long_for_a_request() {
    let limits = Limits { block: 1 << 20, recipients: 5000, ..Limits::default() };
    let secret = |n: u16| std::array::from_fn(|i| n.to_be_bytes().get(i.wrapping_sub(8)).copied().unwrap_or(SECRET[i]));
    let everyone = || (0..2600).map(|n| Cmk::from_x25519(&secret(n)).recipient().clone());
    let sealer = Sealer::builder().limits(limits.clone()).to_all(everyone());
    let alone = Sealer::builder().limits(limits.clone()).to_all(everyone()).build().unwrap().seal(b"", b"x").unwrap();
    let both = sealer.data_key(external_data_key()).build().unwrap().seal(b"", b"x").unwrap();
    let policy = Policy { limits, ..naming(&[AWS]) };
    let (own, aws) = (service(), Arc::new(StandIn::new(&[]).with(AWS, b"blob", PLAINTEXT)));
    let opener = Opener::builder(Keyring::new()).policy(policy).build();
    let resolver = Resolver::builder(opener).blocks(own.clone()).provider("aws", aws).build();
    let refused = resolver.open(&alone).await;
    assert!(
        matches!(refused, Err(ResolveError::Open(OpenError::Parse(ParseError::LimitExceeded(over)))) if over.limit == "ciphertext")
    );
    assert!(resolver.open(&both).await.is_ok());
    assert_eq!(own.calls(), 0);
}

/// A stream of many segments is one call, and less than 4 KiB, from a block beside it and from its own; read here and without blocking.
#[tokio::test]
async fn streams() {
    let payload = vec![7; 10 << 20];
    let mut writer = SealWriter::new(&mut sealer_to(&SECRET), b"", Vec::new()).unwrap();
    writer.write_all(&payload).unwrap();
    let sealed = writer.finish().unwrap();
    let service = service();
    let resolver = resolver(&service);
    assert!(OpenReader::new(resolver.opener(), Cursor::new(&sealed)).is_err());
    resolver.prepare(block_of(&sealed)).await.unwrap();
    let mut opened = Vec::new();
    OpenReader::new(resolver.opener(), Cursor::new(&sealed)).unwrap().read_to_end(&mut opened).unwrap();
    assert!(opened == payload);
    let (mut opened, input) = (Vec::new(), Cursor::new(sealed.clone()));
    AsyncOpenReader::new(resolver.opener(), input).await.unwrap().read_to_end(&mut opened).await.unwrap();
    assert!(opened == payload);
    assert_eq!(service.calls(), 1);
    assert!(service.bytes.load(SeqCst) <= 4096, "{} bytes", service.bytes.load(SeqCst));
}

type Stream<R> = OpenedStream<R>;

fn receiving<R: tokio::io::AsyncRead + Unpin>(resolver: &Resolver, io: R) -> Stream<R> {
    OpenedStream::new(ChannelOpener::new(resolver.opener().clone(), Role::Acceptor, b"hello").waiting_for_deks(), io)
}

/// Sends messages 0 to 9, three under each DEK.
async fn send(io: impl tokio::io::AsyncWrite + Unpin) {
    let three = Reuse { messages: 3, bytes: u64::MAX, age: Duration::MAX };
    let sealer = Sealer::builder().to(Cmk::from_x25519(&SECRET).recipient().clone()).reuse(three).build().unwrap();
    let mut sink = SealedSink::new(ChannelSealer::new(sealer, Role::Initiator, b"hello"), io);
    for n in 0..10u8 {
        sink.send(Bytes::from(vec![n; 1000])).await.unwrap();
    }
    sink.close().await.unwrap();
}

/// A connection's channel waits for its DEKs and goes on: one call for each.
#[tokio::test]
async fn channels() {
    let service = service();
    let resolver = resolver(&service);
    let (near, far) = tokio::io::duplex(300);
    let mut stream = receiving(&resolver, far);
    let ((), ()) = tokio::join!(send(near), async {
        for n in 0..10u8 {
            assert_eq!(resolver.next(&mut stream).await.unwrap().unwrap().payload, vec![n; 1000]);
        }
        assert!(resolver.next(&mut stream).await.is_none());
    });
    assert_eq!(service.calls(), 4);
}

/// Whoever stops waiting for a message, wherever he was, finds it the next time; nothing is lost or comes twice.
#[tokio::test]
async fn channels_and_select() {
    let service = Arc::new(StandIn::new(&[SECRET]).shut());
    let resolver = resolver(&service);
    let (near, far) = tokio::io::duplex(64);
    let mut stream = receiving(&resolver, far);
    let ((), ()) = tokio::join!(send(near), async {
        let mut dropped = 0;
        for n in 0..10u8 {
            let opened = loop {
                let mut next = Box::pin(resolver.next(&mut stream));
                // So many polls it gets, and then it is dropped.
                let mut polls = 0;
                let limited = std::future::poll_fn(|cx| {
                    polls += 1;
                    match next.as_mut().poll(cx) {
                        std::task::Poll::Ready(ready) => std::task::Poll::Ready(Some(ready)),
                        std::task::Poll::Pending if polls == 3 => std::task::Poll::Ready(None),
                        std::task::Poll::Pending => {
                            cx.waker().wake_by_ref();
                            std::task::Poll::Pending
                        }
                    }
                });
                match limited.await {
                    Some(ready) => break ready,
                    None => dropped += 1,
                }
                if dropped % 5 == 0 {
                    service.allowed.add_permits(1);
                }
            };
            assert_eq!(opened.unwrap().unwrap().payload, vec![n; 1000]);
        }
        assert!(dropped > 10, "{dropped}");
        assert!(resolver.next(&mut stream).await.is_none());
    });
}

/// A service that fails ends no connection; one that answers wrongly opens nothing.
#[tokio::test(start_paused = true)]
async fn channels_and_failures() {
    let service = service();
    let resolver = resolver(&service);
    let (near, far) = tokio::io::duplex(1 << 16);
    let mut stream = receiving(&resolver, far);
    send(near).await;
    service.in_mood(Mood::Says(unreachable()));
    for _ in 0..3 {
        let failed = resolver.next(&mut stream).await.unwrap();
        assert!(matches!(failed, Err(ConnectionError::Resolve(ResolveError::Service(KmsError::Unreachable(_))))));
    }
    assert_eq!(service.calls(), 1);
    sleep(FAILED_FOR).await;
    service.in_mood(Mood::Wrong([1; 32]));
    let failed = resolver.next(&mut stream).await.unwrap();
    assert!(matches!(failed, Err(ConnectionError::Resolve(ResolveError::Open(OpenError::HeaderMac)))));
    sleep(FAILED_FOR).await;
    service.in_mood(Mood::Answers);
    for n in 0..10u8 {
        assert_eq!(resolver.next(&mut stream).await.unwrap().unwrap().payload, vec![n; 1000]);
    }
    assert!(resolver.next(&mut stream).await.is_none());
    // What is no channel is an error of the connection.
    let mut torn = receiving(&resolver, &b"nothing of the kind"[..]);
    assert!(matches!(resolver.next(&mut torn).await, Some(Err(ConnectionError::Channel(CodecError::Open(OpenError::Parse(_)))))));
}

/// A channel whose DEKs are data keys of another KMS.
#[tokio::test]
async fn channels_with_externals() {
    let aws = Arc::new(StandIn::new(&[]).with(AWS, b"blob", PLAINTEXT));
    let resolver = Resolver::builder(naming_opener(&[AWS])).provider("aws", aws.clone()).build();
    let sealer = Sealer::builder().data_key(external_data_key()).build().unwrap();
    let mut wire = BytesMut::new();
    let mut sender = ChannelSealer::new(sealer, Role::Initiator, b"hello");
    sender.seal(b"", b"1", &mut wire).unwrap();
    sender.seal_last(b"", b"2", &mut wire).unwrap();
    let mut stream = receiving(&resolver, &wire[..]);
    assert_eq!(&resolver.next(&mut stream).await.unwrap().unwrap().payload[..], b"1");
    assert_eq!(&resolver.next(&mut stream).await.unwrap().unwrap().payload[..], b"2");
    assert!(resolver.next(&mut stream).await.is_none());
    assert_eq!(aws.calls(), 1);
}

/// Proves EXT-3: data keys come from the service one by one, and travel as externals by the id that it gave.
#[tokio::test(start_paused = true)]
async fn data_keys_of_a_service() {
    let service =
        Arc::new(StandIn::new(&[]).with(("mine", "the/key"), b"c\0", [0; 32]).with(("mine", "the/key"), b"c\x01", [1; 32]));
    let keys = DataKeys::new(service.clone(), "mine", "orders".parse().unwrap());
    let two = Reuse { messages: 2, bytes: u64::MAX, age: Duration::MAX };
    let mut sealer = Sealer::builder().reuse(two).data_key(keys.another().await.unwrap()).build().unwrap();
    let resolver = Resolver::builder(naming_opener(&[("mine", "the/key")])).provider("mine", service.clone()).build();
    for n in 0..4u8 {
        let envelope = keys.seal(&mut sealer, b"", &[n]).await.unwrap();
        assert_eq!(resolver.open(&envelope).await.unwrap().payload[..], [n]);
    }
    assert_eq!(service.calls(), 4, "two were made, and two were opened");
    // Where there is none to be had, nothing is sealed, and later it goes on.
    service.in_mood(Mood::Says(unreachable()));
    assert!(matches!(keys.seal(&mut sealer, b"", b"x").await, Err(RenewError::Service(KmsError::Unreachable(_)))));
    service.in_mood(Mood::Hangs);
    let begun = tokio::time::Instant::now();
    assert!(matches!(keys.seal(&mut sealer, b"", b"x").await, Err(RenewError::Service(KmsError::Unreachable(_)))));
    assert_eq!(begun.elapsed(), CALL_TIME);
    assert_eq!(sealer.seal(b"", b"x"), Err(SealError::DataKeySpent));
    service.in_mood(Mood::Answers);
    assert!(keys.seal(&mut sealer, b"", b"x").await.is_ok());
    // Names that no envelope carries.
    let refused = data_key(&*service, "NOT A NAME", &"orders".parse().unwrap()).await;
    assert!(matches!(refused, Err(KmsError::Protocol(_))));
    assert!(matches!(data_key(&Nothing, "mine", &"orders".parse().unwrap()).await, Err(KmsError::Unsupported(_))));
}

/// A service without a verb.
struct Nothing;

impl KeyService for Nothing {}

/// Who shows the block of somebody's channel around as an envelope does not keep that channel from opening.
#[tokio::test]
async fn a_channels_block_as_an_envelope() {
    let (service, alice) = (service(), SenderKey::generate().unwrap());
    let resolver = resolver(&service);
    let sealer = Sealer::builder().to(Cmk::from_x25519(&SECRET).recipient().clone()).sign_with(alice).build().unwrap();
    let (near, mut far) = tokio::io::duplex(1 << 16);
    let mut sink = SealedSink::new(ChannelSealer::new(sealer, Role::Initiator, b"hello"), near);
    sink.send(Bytes::from_static(b"one")).await.unwrap();
    sink.close().await.unwrap();
    drop(sink);
    let mut sent = Vec::new();
    far.read_to_end(&mut sent).await.unwrap();
    assert!(matches!(resolver.prepare(block_of(&sent)).await, Err(ResolveError::Open(OpenError::Proof))));
    let mut stream = receiving(&resolver, &sent[..]);
    assert_eq!(resolver.next(&mut stream).await.unwrap().unwrap().payload, b"one"[..]);
}
