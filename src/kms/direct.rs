//! A small secret directly under a CMK (spec/kms.md 7): HPKE, with an info of its own, so that what decrypts secrets never unwraps DEKs.

use bytes::BufMut;
use zeroize::Zeroizing;

use super::{KmsError, SECRET_MAX, key::KeyId};
use crate::{
    crypto::{Refused, hpke::Setting},
    keys::{Cmk, Decapsulator, Recipient},
    platform::Entropy,
    seal::block::encapsulate,
    wire::{Kem, ParseError, Reader, Suite, TAG_LEN},
};

/// `SWD`, and the version.
const MAGIC: [u8; 4] = [0x53, 0x57, 0x44, 0x01];
const INFO: &[u8] = b"sealwire v1 direct";

/// The parts of a ciphertext, as its bytes claim them.
pub(super) struct Direct<'a> {
    suite: Suite,
    pub(super) key: KeyId,
    pub(super) version: u32,
    /// Magic, suite, key and version, which are authenticated.
    head: &'a [u8],
    enc: &'a [u8],
    text: &'a [u8],
    tag: &'a [u8; TAG_LEN],
}

/// Whether bytes are of this form, and no DEK block.
pub(crate) fn is_direct(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC)
}

fn suite_for(kem: Kem) -> Suite {
    Suite::X25519ChaCha20Poly1305.with_kem(kem)
}

fn setting(suite: Suite) -> Setting {
    Setting::base(suite, &[INFO, &[suite.number()]])
}

/// Encrypts a secret under one version of a CMK.
pub(super) fn seal(
    key: KeyId,
    version: u32,
    to: &Recipient,
    secret: &[u8],
    context: &[u8],
    entropy: &mut Entropy,
) -> Result<Vec<u8>, KmsError> {
    let suite = suite_for(to.kem());
    let mut out = Vec::with_capacity(64 + to.kem().enc_len() + secret.len());
    out.put_slice(&MAGIC);
    out.put_u8(suite.number());
    out.put_slice(&key.0);
    out.put_u32(version);
    let aad = [&out[..], context].concat();
    let failed = |error| KmsError::Failed(std::sync::Arc::new(error));
    let shared = encapsulate(to, entropy, &mut out).map_err(failed)?;
    let mut text = Zeroizing::new(secret.to_vec());
    let sealed = setting(suite).key(&shared).and_then(|key| key.seal(&aad, &mut text));
    let tag = sealed.map_err(|refused| failed(refused.into()))?;
    out.put_slice(&text);
    out.put_slice(&tag);
    Ok(out)
}

impl<'a> Direct<'a> {
    /// Takes a ciphertext apart.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let mut reader = Reader::enclosed(bytes, 0);
        // [KMS-50]
        if *reader.array("magic")? != MAGIC {
            return Err(ParseError::malformed("magic", 0, "is not SWD and version 1"));
        }
        let offset = reader.offset();
        let suite = Suite::parse(reader.u8("suite")?, offset)?;
        if suite != suite_for(suite.kem()) {
            return Err(ParseError::Unsupported { field: "suite", offset, value: suite.number().into() });
        }
        let (key, version) = (KeyId(*reader.array("key")?), reader.u32("version")?);
        let head = bytes.get(..bytes.len().saturating_sub(reader.rest().len())).unwrap_or_default();
        let enc = reader.take(suite.kem().enc_len(), "enc")?;
        let offset = reader.offset();
        let short = ParseError::malformed("ciphertext", offset, "is shorter than its tag");
        let (text, tag) = reader.rest().split_last_chunk().ok_or(short)?;
        // [KMS-51]
        if text.len() > SECRET_MAX {
            return Err(ParseError::malformed("ciphertext", offset, "is longer than any secret"));
        }
        Ok(Self { suite, key, version, head, enc, text, tag })
    }

    /// Decrypts it with its CMK's version.
    pub(super) fn open(&self, cmk: &Cmk, context: &[u8]) -> Result<Zeroizing<Vec<u8>>, Refused> {
        let shared = cmk.decapsulate(self.enc).map_err(|_| Refused)?;
        let mut text = Zeroizing::new(self.text.to_vec());
        // [KMS-52]
        setting(self.suite).key(&shared)?.open(&[self.head, context].concat(), &mut text, self.tag)?;
        Ok(text)
    }
}
