//! What a key service is asked (spec/kms.md 5.1): request <-> bytes.

use bytes::BufMut;
use zeroize::Zeroizing;

use super::{
    CIPHERTEXT_MAX, CONTEXT_MAX, SECRET_MAX, Verb,
    field::{
        TEXT_MAX, alias, bytes, finish, kem, key, option, optional_alias, put_bytes, put_key, put_option, put_text, yes_or_no,
    },
    wrapped::{ENC_MAX, KEY_REF_MAX, put_wrapped, wrapped, wrapped_len},
};
use crate::{
    kms::{
        key::{Alias, KeyId, KeyRef},
        service::WrappedDek,
    },
    wire::{Kem, LimitExceeded, ParseError, Reader, len64},
};

/// What a caller asks.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are the arguments of the verbs, which `KeyService` documents")]
pub enum Request {
    /// [`create_key`](crate::kms::KeyService::create_key)
    CreateKey { kem: Kem, alias: Option<Alias> },
    /// [`list_keys`](crate::kms::KeyService::list_keys)
    ListKeys { after: Option<KeyId> },
    /// [`describe_key`](crate::kms::KeyService::describe_key)
    DescribeKey(KeyRef),
    /// [`enable_key`](crate::kms::KeyService::enable_key)
    EnableKey(KeyRef),
    /// [`disable_key`](crate::kms::KeyService::disable_key)
    DisableKey(KeyRef),
    /// [`schedule_key_deletion`](crate::kms::KeyService::schedule_key_deletion)
    ScheduleKeyDeletion { key: KeyRef, days: u8 },
    /// [`cancel_key_deletion`](crate::kms::KeyService::cancel_key_deletion)
    CancelKeyDeletion(KeyRef),
    /// [`rotate_key`](crate::kms::KeyService::rotate_key)
    RotateKey(KeyRef),
    /// [`set_alias`](crate::kms::KeyService::set_alias)
    SetAlias { alias: Alias, key: KeyRef },
    /// [`delete_alias`](crate::kms::KeyService::delete_alias)
    DeleteAlias(Alias),
    /// [`get_public_key`](crate::kms::KeyService::get_public_key)
    GetPublicKey(KeyRef),
    /// [`generate_data_key`](crate::kms::KeyService::generate_data_key)
    GenerateDataKey { key: KeyRef, plaintext: bool },
    /// [`decrypt_data_key`](crate::kms::KeyService::decrypt_data_key)
    DecryptDataKey(WrappedDek),
    /// [`encrypt`](crate::kms::KeyService::encrypt)
    Encrypt { key: KeyRef, secret: Zeroizing<Vec<u8>>, context: Vec<u8> },
    /// [`decrypt`](crate::kms::KeyService::decrypt)
    Decrypt { ciphertext: Vec<u8>, context: Vec<u8> },
    /// [`re_encrypt`](crate::kms::KeyService::re_encrypt)
    ReEncrypt { ciphertext: Vec<u8>, context: Vec<u8>, to: KeyRef },
}

impl Request {
    /// Which verb it is.
    #[must_use]
    pub fn verb(&self) -> Verb {
        match self {
            Self::CreateKey { .. } => Verb::CreateKey,
            Self::ListKeys { .. } => Verb::ListKeys,
            Self::DescribeKey(_) => Verb::DescribeKey,
            Self::EnableKey(_) => Verb::EnableKey,
            Self::DisableKey(_) => Verb::DisableKey,
            Self::ScheduleKeyDeletion { .. } => Verb::ScheduleKeyDeletion,
            Self::CancelKeyDeletion(_) => Verb::CancelKeyDeletion,
            Self::RotateKey(_) => Verb::RotateKey,
            Self::SetAlias { .. } => Verb::SetAlias,
            Self::DeleteAlias(_) => Verb::DeleteAlias,
            Self::GetPublicKey(_) => Verb::GetPublicKey,
            Self::GenerateDataKey { .. } => Verb::GenerateDataKey,
            Self::DecryptDataKey(_) => Verb::DecryptDataKey,
            Self::Encrypt { .. } => Verb::Encrypt,
            Self::Decrypt { .. } => Verb::Decrypt,
            Self::ReEncrypt { .. } => Verb::ReEncrypt,
        }
    }

    /// The payload. It holds the secret that is to be encrypted, where there is one.
    ///
    /// # Errors
    /// [`LimitExceeded`] for what no service would take.
    pub fn encode(&self) -> Result<Zeroizing<Vec<u8>>, LimitExceeded> {
        self.check()?;
        // Longer than everything that is put: a buffer that grows leaves copies behind.
        let mut out = Zeroizing::new(Vec::with_capacity(64 + ALIAS_ROOM + self.variable_len()));
        out.put_u8(self.verb() as u8);
        match self {
            Self::CreateKey { kem, alias } => {
                out.put_u16(kem.id());
                put_text(&mut out, alias.as_ref().map_or("", Alias::as_str));
            }
            Self::ListKeys { after } => put_option(&mut out, after.as_ref().map(|id| &id.0[..])),
            Self::DescribeKey(key)
            | Self::EnableKey(key)
            | Self::DisableKey(key)
            | Self::CancelKeyDeletion(key)
            | Self::RotateKey(key)
            | Self::GetPublicKey(key) => put_key(&mut out, key),
            Self::ScheduleKeyDeletion { key, days } => {
                put_key(&mut out, key);
                out.put_u8(*days);
            }
            Self::SetAlias { alias, key } => {
                put_text(&mut out, alias.as_str());
                put_key(&mut out, key);
            }
            Self::DeleteAlias(alias) => put_text(&mut out, alias.as_str()),
            Self::GenerateDataKey { key, plaintext } => {
                put_key(&mut out, key);
                out.put_u8((*plaintext).into());
            }
            Self::DecryptDataKey(wrapped) => put_wrapped(&mut out, wrapped),
            Self::Encrypt { key, secret, context } => {
                put_key(&mut out, key);
                put_bytes(&mut out, context);
                put_bytes(&mut out, secret);
            }
            Self::Decrypt { ciphertext, context } => {
                put_bytes(&mut out, context);
                put_bytes(&mut out, ciphertext);
            }
            Self::ReEncrypt { ciphertext, context, to } => {
                put_key(&mut out, to);
                put_bytes(&mut out, context);
                put_bytes(&mut out, ciphertext);
            }
        }
        Ok(out)
    }

    /// Reads a payload, to its last byte.
    ///
    /// # Errors
    /// [`ParseError`].
    pub fn decode(payload: &[u8]) -> Result<Self, ParseError> {
        let mut reader = Reader::enclosed(payload, 0);
        let number = reader.u8("verb")?;
        // [KMS-31]
        let unknown = ParseError::Unsupported { field: "verb", offset: 0, value: number.into() };
        let request = Self::decode_as(Verb::of(payload).ok_or(unknown)?, &mut reader)?;
        finish(&reader)?;
        request.check()?;
        Ok(request)
    }

    fn decode_as(verb: Verb, reader: &mut Reader<'_>) -> Result<Self, ParseError> {
        Ok(match verb {
            Verb::CreateKey => Self::CreateKey { kem: kem(reader)?, alias: optional_alias(reader)? },
            Verb::ListKeys => Self::ListKeys { after: option(reader, "after")?.map(|id| KeyId(*id)) },
            Verb::DescribeKey => Self::DescribeKey(key(reader)?),
            Verb::EnableKey => Self::EnableKey(key(reader)?),
            Verb::DisableKey => Self::DisableKey(key(reader)?),
            Verb::ScheduleKeyDeletion => Self::ScheduleKeyDeletion { key: key(reader)?, days: reader.u8("days")? },
            Verb::CancelKeyDeletion => Self::CancelKeyDeletion(key(reader)?),
            Verb::RotateKey => Self::RotateKey(key(reader)?),
            Verb::SetAlias => Self::SetAlias { alias: alias(reader)?, key: key(reader)? },
            Verb::DeleteAlias => Self::DeleteAlias(alias(reader)?),
            Verb::GetPublicKey => Self::GetPublicKey(key(reader)?),
            Verb::GenerateDataKey => Self::GenerateDataKey { key: key(reader)?, plaintext: yes_or_no(reader, "plaintext")? },
            Verb::DecryptDataKey => Self::DecryptDataKey(wrapped(reader)?),
            Verb::Encrypt => {
                let (key, context) = (key(reader)?, bytes(reader, "context", CONTEXT_MAX)?.into());
                Self::Encrypt { key, context, secret: Zeroizing::new(bytes(reader, "secret", SECRET_MAX)?.into()) }
            }
            Verb::Decrypt => Self::Decrypt {
                context: bytes(reader, "context", CONTEXT_MAX)?.into(),
                ciphertext: bytes(reader, "ciphertext", CIPHERTEXT_MAX)?.into(),
            },
            Verb::ReEncrypt => Self::ReEncrypt {
                to: key(reader)?,
                context: bytes(reader, "context", CONTEXT_MAX)?.into(),
                ciphertext: bytes(reader, "ciphertext", CIPHERTEXT_MAX)?.into(),
            },
        })
    }

    /// What is too long, on both sides. [KMS-32]
    fn check(&self) -> Result<(), LimitExceeded> {
        let at_most = |limit, len: usize, most: usize| LimitExceeded::check(limit, len64(len), len64(most));
        match self {
            Self::Encrypt { secret, context, .. } => {
                at_most("secret", secret.len(), SECRET_MAX)?;
                at_most("context", context.len(), CONTEXT_MAX)
            }
            Self::Decrypt { ciphertext, context } | Self::ReEncrypt { ciphertext, context, .. } => {
                at_most("ciphertext", ciphertext.len(), CIPHERTEXT_MAX)?;
                at_most("context", context.len(), CONTEXT_MAX)
            }
            Self::DecryptDataKey(WrappedDek::Block(block)) => at_most("block", block.len(), CIPHERTEXT_MAX),
            Self::DecryptDataKey(WrappedDek::Slot { enc, .. }) => at_most("enc", enc.len(), ENC_MAX),
            Self::DecryptDataKey(WrappedDek::External { provider, key_ref, blob }) => {
                at_most("provider", provider.len(), TEXT_MAX)?;
                at_most("key_ref", key_ref.len(), KEY_REF_MAX)?;
                at_most("blob", blob.len(), CIPHERTEXT_MAX)
            }
            _ => Ok(()),
        }
    }

    fn variable_len(&self) -> usize {
        match self {
            Self::Encrypt { secret, context, .. } => secret.len() + context.len(),
            Self::Decrypt { ciphertext, context } | Self::ReEncrypt { ciphertext, context, .. } => {
                ciphertext.len() + context.len()
            }
            Self::DecryptDataKey(wrapped) => wrapped_len(wrapped),
            _ => 0,
        }
    }
}

/// Room for two names and the lengths between them.
const ALIAS_ROOM: usize = 256;
