//! For tests and makers of vectors only: injected randomness and clocks, and the primitives as the crate uses them.
//! A build without debug assertions refuses this feature.

use std::sync::{Arc, Mutex, PoisonError, atomic::AtomicU64};

use crate::{
    channel::ChannelSealer,
    crypto::{
        Secret32,
        aead::AeadKey,
        backend,
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

/// X25519, as slots are opened: `None` for the all-zero result.
#[must_use]
pub fn x25519(secret: &[u8; 32], public: &[u8; 32]) -> Option<[u8; 32]> {
    backend::x25519(secret, public).ok().map(|shared| *shared.bytes())
}

/// HKDF-SHA256, extract and expand; `None` where `len` is too long for it.
#[must_use]
pub fn hkdf_sha256(salt: &[u8], ikm: &[u8], info: &[u8], len: usize) -> Option<Vec<u8>> {
    let mut okm = vec![0; len];
    backend::Expander::new(&backend::extract(salt, &[ikm])).ok()?.expand(&[info], &mut okm).ok()?;
    Some(okm)
}

/// ChaCha20-Poly1305, as segments are sealed: ciphertext and tag.
#[must_use]
pub fn chacha20poly1305_seal(key: &[u8; 32], nonce: &[u8; 12], aad: &[u8], text: &[u8]) -> Option<(Vec<u8>, [u8; 16])> {
    let mut text = text.to_vec();
    let tag = AeadKey::new(Aead::ChaCha20Poly1305, key).ok()?.seal(nonce, aad, &mut text).ok()?;
    Some((text, tag))
}

/// ChaCha20-Poly1305, as segments are opened.
#[must_use]
pub fn chacha20poly1305_open(key: &[u8; 32], nonce: &[u8; 12], aad: &[u8], text: &[u8], tag: &[u8; 16]) -> Option<Vec<u8>> {
    let mut text = text.to_vec();
    AeadKey::new(Aead::ChaCha20Poly1305, key).ok()?.open(nonce, aad, &mut text, tag).ok()?;
    Some(text)
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
        let ephemeral = Ephemeral::new(Secret32::copied(ephemeral));
        let shared = ephemeral.encapsulate(public).ok()?;
        let key = Setting::base(suite, &[info]).key(&shared).ok()?;
        Some((ephemeral.enc, Self { shared, key }))
    }

    /// SetupBaseR.
    #[must_use]
    pub fn receiver(suite: Suite, secret: &[u8; 32], enc: &[u8; 32], info: &[u8]) -> Option<Self> {
        let public = backend::x25519_public(secret);
        let shared = kem::decapsulate(&Secret32::copied(secret), &public, enc).ok()?;
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
    let shared = Ephemeral::new(Secret32::copied(ephemeral)).encapsulate(public).ok()?;
    hpke::wrap(suite, &shared, &Secret32::copied(dek)).ok()
}
