//! HPKE base mode (RFC 9180), single shot: what wraps a DEK to a CMK (spec 6.1).

use std::sync::OnceLock;

use super::{Refused, Secret32, aead::AeadKey, backend, kem::SharedSecret};
use crate::wire::{Suite, TAG_LEN};

const VERSION: &[u8] = b"HPKE-v1";

/// LabeledExtract (RFC 9180 §4).
pub(super) fn labeled_extract(suite_id: &[u8], salt: &[u8], label: &[u8], ikm: &[u8]) -> Secret32 {
    backend::extract(salt, &[VERSION, suite_id, label, ikm])
}

/// LabeledExpand (RFC 9180 §4), of at most 65,535 bytes.
pub(super) fn labeled_expand(
    prk: &backend::Expander,
    suite_id: &[u8],
    label: &[u8],
    info: &[&[u8]; 2],
    out: &mut [u8],
) -> Result<(), Refused> {
    let len = u16::try_from(out.len()).map_err(|_| Refused)?.to_be_bytes();
    let [first, second] = *info;
    prk.expand(&[&len, VERSION, suite_id, label, first, second], out)
}

/// What KeySchedule (RFC 9180 §5.1) makes of suite and info alone: `mode ‖ psk_id_hash ‖ info_hash`.
pub(crate) struct Setting {
    suite: Suite,
    suite_id: [u8; 10],
    context: [u8; 65],
}

impl Setting {
    /// mode_base with this `info`.
    pub(crate) fn base(suite: Suite, info: &[&[u8]]) -> Self {
        let suite_id = suite_id(suite);
        let psk_id_hash = labeled_extract(&suite_id, &[], b"psk_id_hash", &[]);
        let info_hash = labeled_extract(&suite_id, &[], b"info_hash", &info.concat());
        let mut context = [0; 65];
        let (psk_part, info_part) = context.split_at_mut(33);
        psk_part.iter_mut().skip(1).zip(psk_id_hash.bytes()).for_each(|(to, from)| *to = *from);
        info_part.copy_from_slice(info_hash.bytes());
        Self { suite, suite_id, context }
    }

    /// The setting in which DEKs are wrapped under `suite`; made once per process.
    pub(crate) fn dek(suite: Suite) -> &'static Self {
        static SETTINGS: [OnceLock<Setting>; 4] = [const { OnceLock::new() }; 4];
        let [x_chacha, x_gcm, w_chacha, w_gcm] = &SETTINGS;
        let cell = match suite {
            Suite::X25519ChaCha20Poly1305 => x_chacha,
            Suite::X25519Aes256Gcm => x_gcm,
            Suite::XWingChaCha20Poly1305 => w_chacha,
            Suite::XWingAes256Gcm => w_gcm,
        };
        cell.get_or_init(|| Self::base(suite, &[b"sealwire v1 dek", &[suite.number()]]))
    }

    #[cfg(feature = "testing")]
    pub(crate) fn context(&self) -> &[u8; 65] {
        &self.context
    }

    /// KeySchedule: key and base_nonce for one message.
    pub(crate) fn key(&self, shared: &SharedSecret) -> Result<MessageKey, Refused> {
        let secret = labeled_extract(&self.suite_id, shared.0.bytes(), b"secret", &[]);
        let expander = backend::Expander::new(&secret)?;
        let mut key = Secret32::zeroed();
        labeled_expand(&expander, &self.suite_id, b"key", &[&self.context, &[]], key.bytes_mut())?;
        let mut nonce = [0; 12];
        labeled_expand(&expander, &self.suite_id, b"base_nonce", &[&self.context, &[]], &mut nonce)?;
        Ok(MessageKey { key: AeadKey::new(self.suite.aead(), key.bytes())?, nonce })
    }
}

/// `"HPKE" ‖ kem_id ‖ kdf_id ‖ aead_id`.
fn suite_id(suite: Suite) -> [u8; 10] {
    let [kem_high, kem_low] = suite.kem().id().to_be_bytes();
    let [aead_high, aead_low] = suite.aead().id().to_be_bytes();
    [b'H', b'P', b'K', b'E', kem_high, kem_low, 0, 1, aead_high, aead_low]
}

/// The first message of an HPKE context, at sequence number 0.
pub(crate) struct MessageKey {
    key: AeadKey,
    nonce: [u8; 12],
}

#[cfg(feature = "testing")]
impl MessageKey {
    pub(crate) fn base_nonce(&self) -> &[u8; 12] {
        &self.nonce
    }

    /// The same key at another sequence number (RFC 9180 §5.2, ComputeNonce).
    pub(crate) fn at(&self, seq: u64) -> MessageKeyAt<'_> {
        let mut nonce = self.nonce;
        nonce.iter_mut().rev().zip(seq.to_be_bytes().iter().rev()).for_each(|(to, from)| *to ^= from);
        MessageKeyAt { key: &self.key, nonce }
    }
}

#[cfg(feature = "testing")]
pub(crate) struct MessageKeyAt<'a> {
    key: &'a AeadKey,
    nonce: [u8; 12],
}

#[cfg(feature = "testing")]
impl MessageKeyAt<'_> {
    pub(crate) fn seal(&self, aad: &[u8], text: &mut [u8]) -> Result<[u8; TAG_LEN], Refused> {
        let mut tag = [0; TAG_LEN];
        self.key.seal(&self.nonce, aad, text, &mut tag).map(|()| tag)
    }

    pub(crate) fn open(&self, aad: &[u8], text: &mut [u8], tag: &[u8; TAG_LEN]) -> Result<(), Refused> {
        self.key.open(&self.nonce, aad, text, tag)
    }
}

impl MessageKey {
    /// Seal(pt) in place.
    pub(crate) fn seal(&self, aad: &[u8], text: &mut [u8]) -> Result<[u8; TAG_LEN], Refused> {
        let mut tag = [0; TAG_LEN];
        self.key.seal(&self.nonce, aad, text, &mut tag).map(|()| tag)
    }

    /// Open(ct) in place; on failure `text` is still the ciphertext. Several slots may be tried with one key.
    pub(crate) fn open(&self, aad: &[u8], text: &mut [u8], tag: &[u8; TAG_LEN]) -> Result<(), Refused> {
        self.key.open(&self.nonce, aad, text, tag)
    }
}

/// Wraps a DEK (spec 6.1): 32 bytes and a tag.
pub(crate) fn wrap(suite: Suite, shared: &SharedSecret, dek: &Secret32) -> Result<[u8; 48], Refused> {
    let mut wrapped = [0; 48];
    let (text, tag) = wrapped.split_at_mut(32);
    text.copy_from_slice(dek.bytes());
    tag.copy_from_slice(&Setting::dek(suite).key(shared)?.seal(&[], text)?);
    Ok(wrapped)
}

/// Unwraps a DEK with a key that may be tried on several slots.
pub(crate) fn unwrap(key: &MessageKey, wrapped: &[u8; 48]) -> Result<Secret32, Refused> {
    let (text, tag) = wrapped.split_first_chunk::<32>().ok_or(Refused)?;
    let mut dek = Secret32::copied(text);
    key.open(&[], dek.bytes_mut(), tag.try_into().map_err(|_| Refused)?)?;
    Ok(dek)
}
