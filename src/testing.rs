//! For tests and makers of vectors only: injected randomness and clocks, and the primitives as the crate uses them.
//! A build without debug assertions refuses this feature.

use std::sync::{Arc, Mutex, PoisonError, atomic::AtomicU64};

use crate::{
    channel::ChannelSealer,
    crypto::{
        Secret32, backend,
        hpke::{self, MessageKey, Setting},
        kem::{self, Ephemeral, SharedSecret},
        schedule::Schedule,
    },
    open::OpenerBuilder,
    platform::{Clock, Entropy},
    seal::SealerBuilder,
    wire::{Aead, Suite},
};

/// A clock that stands until it is set, in seconds since the Unix epoch.
pub type TestClock = Arc<AtomicU64>;

impl SealerBuilder {
    /// Takes every random byte from `fill`: the ephemeral's secret and the DEK and the salt, in the order in which they are
    /// made (DEK, salt, ephemerals).
    pub fn testing_entropy(self, fill: impl FnMut(&mut [u8]) + Send + 'static) -> Self {
        self.entropy(Entropy::Injected(Box::new(fill)))
    }

    /// Takes the time from `clock`.
    pub fn testing_clock(self, clock: TestClock) -> Self {
        self.clock(Clock::Injected(clock))
    }
}

impl OpenerBuilder {
    /// Takes the time from `clock`.
    pub fn testing_clock(self, clock: TestClock) -> Self {
        self.clock(Clock::Injected(clock))
    }
}

impl ChannelSealer {
    /// Jumps ahead to `seq`, after the first message.
    pub fn testing_skip_to(&mut self, seq: u64) {
        self.skip_to_seq(seq);
    }
}

type Uses = Vec<([u8; 32], [u8; 12])>;

static OBSERVED: Mutex<Option<Uses>> = Mutex::new(None);

/// From now on every AEAD call that seals a segment is written down: a name for its key, and its nonce.
pub fn observe_nonces() {
    *OBSERVED.lock().unwrap_or_else(PoisonError::into_inner) = Some(Vec::new());
}

/// What has been written down.
#[must_use]
pub fn observed_nonces() -> Vec<([u8; 32], [u8; 12])> {
    OBSERVED.lock().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or_default()
}

pub(crate) fn observe(key: [u8; 32], nonce: [u8; 12]) {
    if let Some(uses) = &mut *OBSERVED.lock().unwrap_or_else(PoisonError::into_inner) {
        uses.push((key, nonce));
    }
}

/// The primitives that there may be twice: portable, and those of AWS-LC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// RustCrypto and dalek.
    Rust,
    /// AWS-LC.
    #[cfg(feature = "aws-lc")]
    AwsLc,
}

impl Backend {
    /// Those that this build has.
    #[cfg(not(feature = "aws-lc"))]
    pub const ALL: &[Self] = &[Self::Rust];
    /// Those that this build has.
    #[cfg(feature = "aws-lc")]
    pub const ALL: &[Self] = &[Self::Rust, Self::AwsLc];

    /// An AEAD as segments are sealed and opened.
    #[must_use]
    pub fn aead(self, aead: Aead, key: &[u8; 32]) -> Box<dyn TestAead> {
        match self {
            Self::Rust => Box::new(backend::rust::AeadKey::new(aead, key).ok()),
            #[cfg(feature = "aws-lc")]
            Self::AwsLc => Box::new(backend::aws_lc::AeadKey::new(aead, key).ok()),
        }
    }

    /// X25519, as slots are opened: `None` for the all-zero result.
    #[must_use]
    pub fn x25519(self, secret: &[u8; 32], public: &[u8; 32]) -> Option<[u8; 32]> {
        let secret = Secret32::copied(secret);
        let shared = match self {
            Self::Rust => backend::rust::DhKey::new(&secret).agree(public),
            #[cfg(feature = "aws-lc")]
            Self::AwsLc => backend::aws_lc::DhKey::new(&secret).agree(public),
        };
        shared.ok().map(|shared| *shared.bytes())
    }

    /// The X25519 public key, as ephemerals are made.
    #[must_use]
    pub fn x25519_public(self, secret: &[u8; 32]) -> Option<[u8; 32]> {
        let secret = Secret32::copied(secret);
        match self {
            Self::Rust => backend::rust::DhKey::new(&secret).public(),
            #[cfg(feature = "aws-lc")]
            Self::AwsLc => backend::aws_lc::DhKey::new(&secret).public(),
        }
        .ok()
    }
}

/// An AEAD under one key.
pub trait TestAead {
    /// Ciphertext and tag. In place and from one buffer to another give the same, or this panics.
    fn seal(&self, nonce: &[u8; 12], aad: &[u8], text: &[u8]) -> Option<(Vec<u8>, [u8; 16])>;

    /// The plaintext. In place and from one buffer to another give the same, and leave no plaintext where there is none to give, or this
    /// panics.
    fn open(&self, nonce: &[u8; 12], aad: &[u8], text: &[u8], tag: &[u8; 16]) -> Option<Vec<u8>>;
}

/// For the key of a backend: the four calls that it has.
macro_rules! test_aead {
    ($key:ty) => {
        impl TestAead for Option<$key> {
            fn seal(&self, nonce: &[u8; 12], aad: &[u8], text: &[u8]) -> Option<(Vec<u8>, [u8; 16])> {
                let key = self.as_ref()?;
                let (mut in_place, mut apart) = (text.to_vec(), vec![0; text.len()]);
                let (mut tag, mut other) = ([0; 16], [0; 16]);
                key.seal(nonce, aad, &mut in_place, &mut tag).ok()?;
                assert!(key.seal_from(nonce, aad, text, &mut apart, &mut other).is_ok() && other == tag && apart == in_place);
                Some((in_place, tag))
            }

            fn open(&self, nonce: &[u8; 12], aad: &[u8], text: &[u8], tag: &[u8; 16]) -> Option<Vec<u8>> {
                let key = self.as_ref()?;
                let (mut in_place, mut apart) = (text.to_vec(), vec![0; text.len()]);
                let opened = key.open(nonce, aad, &mut in_place, tag).is_ok();
                assert_eq!(opened, key.open_from(nonce, aad, text, &mut apart, tag).is_ok());
                let zeros = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
                assert!(opened || (in_place == text || zeros(&in_place)) && zeros(&apart));
                assert!(!opened || in_place == apart);
                opened.then_some(in_place)
            }
        }
    };
}

test_aead!(backend::rust::AeadKey);
#[cfg(feature = "aws-lc")]
test_aead!(backend::aws_lc::AeadKey);

/// HKDF-SHA256, extract and expand; `None` where `len` is too long for it.
#[must_use]
pub fn hkdf_sha256(salt: &[u8], ikm: &[u8], info: &[u8], len: usize) -> Option<Vec<u8>> {
    let mut okm = vec![0; len];
    backend::Expander::new(&backend::extract(salt, &[ikm])).ok()?.expand(&[info], &mut okm).ok()?;
    Some(okm)
}

/// HPKE base mode as DEKs are wrapped and unwrapped, with any info.
pub struct Hpke {
    shared: SharedSecret,
    key: MessageKey,
}

impl Hpke {
    /// SetupBaseS with this ephemeral secret; returns enc too.
    #[must_use]
    pub fn sender(suite: Suite, ephemeral: &[u8; 32], public: &[u8; 32], info: &[u8]) -> Option<([u8; 32], Self)> {
        let ephemeral = Ephemeral::new(&Secret32::copied(ephemeral)).ok()?;
        let shared = ephemeral.encapsulate(public).ok()?;
        let key = Setting::base(suite, &[info]).key(&shared).ok()?;
        Some((ephemeral.enc, Self { shared, key }))
    }

    /// SetupBaseR.
    #[must_use]
    pub fn receiver(suite: Suite, secret: &[u8; 32], enc: &[u8; 32], info: &[u8]) -> Option<Self> {
        let public = backend::x25519_public(secret);
        let shared = kem::decapsulate(&backend::DhKey::new(&Secret32::copied(secret)), &public, enc).ok()?;
        let key = Setting::base(suite, &[info]).key(&shared).ok()?;
        Some(Self { shared, key })
    }

    /// The KEM's shared secret.
    #[must_use]
    pub fn shared_secret(&self) -> &[u8; 32] {
        self.shared.0.bytes()
    }

    /// base_nonce.
    #[must_use]
    pub fn base_nonce(&self) -> &[u8; 12] {
        self.key.base_nonce()
    }

    /// Seals at `seq`; the crate itself only ever uses 0.
    #[must_use]
    pub fn seal(&self, seq: u64, aad: &[u8], text: &[u8]) -> Option<Vec<u8>> {
        let mut out = text.to_vec();
        let tag = self.key.at(seq).seal(aad, &mut out).ok()?;
        out.extend(tag);
        Some(out)
    }

    /// Opens at `seq`.
    #[must_use]
    pub fn open(&self, seq: u64, aad: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (text, tag) = sealed.split_last_chunk::<16>()?;
        let mut out = text.to_vec();
        self.key.at(seq).open(aad, &mut out, tag).ok()?;
        Some(out)
    }
}

/// What RFC 9180 calls key_schedule_context.
#[must_use]
pub fn key_schedule_context(suite: Suite, info: &[u8]) -> Vec<u8> {
    Setting::base(suite, &[info]).context().to_vec()
}

/// `dek_commitment` and `chain` of a DEK under a salt.
#[must_use]
pub fn commitment_and_chain(suite: Suite, salt: &[u8; 16], dek: &[u8; 32]) -> Option<([u8; 32], [u8; 32])> {
    let schedule = Schedule::new(suite, salt, &Secret32::copied(dek)).ok()?;
    Some((*schedule.commitment().ok()?.bytes(), *schedule.chain().ok()?.bytes()))
}

/// Wraps a DEK to a public key under an ephemeral secret.
#[must_use]
pub fn wrap(suite: Suite, ephemeral: &[u8; 32], public: &[u8; 32], dek: &[u8; 32]) -> Option<[u8; 48]> {
    let shared = Ephemeral::new(&Secret32::copied(ephemeral)).ok()?.encapsulate(public).ok()?;
    hpke::wrap(suite, &shared, &Secret32::copied(dek)).ok()
}

/// X-Wing as slots are sealed and opened, and ML-KEM-768 inside it.
#[cfg(feature = "pq")]
pub mod pq {
    use super::Hpke;
    use crate::{
        crypto::{
            Secret32,
            backend::{CIPHERTEXT_LEN, MlKemKey, MlKemPublic, PUBLIC_LEN},
            hpke::Setting,
            kem::SharedSecret,
            xwing::{XWING_ENC_LEN, XWING_PUBLIC_LEN, XWingKey, XWingPublic},
        },
        wire::Suite,
    };

    /// The public key of a seed.
    #[must_use]
    pub fn public(seed: &[u8; 32]) -> [u8; XWING_PUBLIC_LEN] {
        *XWingKey::new(&Secret32::copied(seed)).public().bytes()
    }

    fn encapsulate_to(public: &[u8; XWING_PUBLIC_LEN], eseed: &[u8; 64]) -> Option<([u8; XWING_ENC_LEN], SharedSecret)> {
        let (random, ephemeral) = eseed.split_first_chunk::<32>()?;
        let ephemeral = Secret32::copied(ephemeral.try_into().ok()?);
        XWingPublic::new(public).ok()?.encapsulate(Secret32::copied(random), ephemeral).ok()
    }

    /// enc and shared secret; `None` for a public key that is not taken.
    #[must_use]
    pub fn encapsulate(public: &[u8; XWING_PUBLIC_LEN], eseed: &[u8; 64]) -> Option<([u8; XWING_ENC_LEN], [u8; 32])> {
        encapsulate_to(public, eseed).map(|(enc, shared)| (enc, *shared.0.bytes()))
    }

    /// The shared secret; `None` for the all-zero result of X25519.
    #[must_use]
    pub fn decapsulate(seed: &[u8; 32], enc: &[u8; XWING_ENC_LEN]) -> Option<[u8; 32]> {
        XWingKey::new(&Secret32::copied(seed)).decapsulate(enc).ok().map(|shared| *shared.0.bytes())
    }

    /// ML-KEM's encapsulation key of a seed.
    #[must_use]
    pub fn ml_kem_public(seed: &[u8; 64]) -> [u8; PUBLIC_LEN] {
        MlKemKey::new(seed).public().bytes()
    }

    /// ML-KEM's ciphertext and shared secret; `None` for a key that its check refuses.
    #[must_use]
    pub fn ml_kem_encapsulate(public: &[u8; PUBLIC_LEN], random: &[u8; 32]) -> Option<([u8; CIPHERTEXT_LEN], [u8; 32])> {
        let (ciphertext, shared) = MlKemPublic::new(public).ok()?.encapsulate(&Secret32::copied(random));
        Some((ciphertext, *shared.bytes()))
    }

    /// ML-KEM's shared secret, whatever the ciphertext is.
    #[must_use]
    pub fn ml_kem_decapsulate(seed: &[u8; 64], ciphertext: &[u8; CIPHERTEXT_LEN]) -> [u8; 32] {
        *MlKemKey::new(seed).decapsulate(ciphertext).bytes()
    }

    impl Hpke {
        /// SetupBaseS to an X-Wing key; returns enc too.
        #[must_use]
        pub fn sender_pq(
            suite: Suite,
            eseed: &[u8; 64],
            public: &[u8; XWING_PUBLIC_LEN],
            info: &[u8],
        ) -> Option<([u8; XWING_ENC_LEN], Self)> {
            let (enc, shared) = encapsulate_to(public, eseed)?;
            let key = Setting::base(suite, &[info]).key(&shared).ok()?;
            Some((enc, Self { shared, key }))
        }

        /// SetupBaseR of an X-Wing key.
        #[must_use]
        pub fn receiver_pq(suite: Suite, seed: &[u8; 32], enc: &[u8; XWING_ENC_LEN], info: &[u8]) -> Option<Self> {
            let shared = XWingKey::new(&Secret32::copied(seed)).decapsulate(enc).ok()?;
            let key = Setting::base(suite, &[info]).key(&shared).ok()?;
            Some(Self { shared, key })
        }
    }
}
