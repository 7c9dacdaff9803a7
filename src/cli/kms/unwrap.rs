//! Where `open` has DEKs from: a key service is asked once for that of one block; or it was asked before, by another command.

use std::io::Read;

use bytes::BytesMut;

use super::{
    args::{AskArgs, RootArgs},
    data_key::read_dek,
    service::Asking,
};
use crate::{
    channel::ChannelOpener,
    cli::{
        Failure,
        args::{OpenKeys, PassphraseFrom},
        fail::Code,
    },
    keys::Dek,
    kms::{ResolveError, Resolver, WrappedDek},
    open::{OpenError, Opener},
    wire::{DekBlock, Limits, PREAMBLE_LEN, ParseError, len64},
};

/// Where DEKs come from that no key at hand opens.
pub(crate) enum Unwrapper {
    /// A service unwraps them.
    Service(Asking),
    /// One was unwrapped before, and opens its own block alone.
    Dek(Dek),
}

impl Unwrapper {
    /// What the options of `open` name, if they do.
    pub(crate) fn of(keys: &OpenKeys) -> Result<Option<Self>, Failure> {
        if let Some(path) = &keys.dek {
            super::no_core_dump();
            return read_dek(path).map(|dek| Some(Self::Dek(dek)));
        }
        if keys.kms_store.is_none() && keys.kms_server.is_empty() {
            return Ok(None);
        }
        super::no_core_dump();
        let passphrase = PassphraseFrom { passphrase_file: keys.passphrase.passphrase_file.clone(), ..keys.passphrase };
        let asked = AskArgs {
            store: keys.kms_store.clone(),
            root: RootArgs { root_key_file: keys.root_key_file.clone(), root_keyring: keys.root_keyring.clone(), passphrase },
            server: keys.kms_server.clone(),
            server_identity: keys.server_identity.clone(),
            me: keys.me.clone(),
            json: false,
        };
        Asking::new(&asked).map(|asking| Some(Self::Service(asking)))
    }

    /// Goes on with a channel that waits for the DEK of a block; tells whether it does.
    pub(crate) fn supply(&self, channel: &mut ChannelOpener, input: &mut BytesMut) -> Result<bool, Failure> {
        let Some(block) = channel.needs_dek(input) else { return Ok(false) };
        match self {
            Self::Service(asking) => {
                let wrapped = WrappedDek::Block(block.to_vec());
                let unwrapped = asking.ask(|service| service.decrypt_data_key(wrapped))?;
                channel.supply(input, &unwrapped.dek)?;
            }
            Self::Dek(dek) => channel.supply(input, dek).map_err(not_its_dek)?,
        }
        Ok(true)
    }

    /// Lets an opener know the DEK of a block, where it has no key for it. What the policy refuses is not asked for.
    pub(crate) fn teach(&self, opener: &Opener, block: &[u8]) -> Result<(), Failure> {
        match self {
            Self::Service(asking) => {
                asking.wait(|service| async move { Ok(Resolver::new(opener.clone(), service).prepare(block).await?) })
            }
            Self::Dek(dek) => opener.learn(block, dek).map_err(not_its_dek),
        }
    }
}

/// A DEK of another block, and a block that was changed, look the same.
fn not_its_dek(error: OpenError) -> Failure {
    match error {
        OpenError::HeaderMac => {
            Failure::new(Code::NoMatchingKey, "the DEK of --dek does not open it: it is another's, or it was changed")
        }
        error => error.into(),
    }
}

impl From<ResolveError> for Failure {
    fn from(error: ResolveError) -> Self {
        match error {
            ResolveError::Open(error) => error.into(),
            ResolveError::Service(error) => error.into(),
            busy => Self::new(Code::Io, busy.to_string()),
        }
    }
}

/// The DEK block that an input begins with, and no byte more.
pub(super) fn read_block(input: &mut impl Read) -> Result<Vec<u8>, Failure> {
    read_block_within(input, &Limits::default())
}

pub(crate) fn read_block_within(input: &mut impl Read, limits: &Limits) -> Result<Vec<u8>, Failure> {
    let failed = |error: std::io::Error| Failure::io("reading", &error);
    let mut block = Vec::new();
    let mut take = |more: usize, block: &mut Vec<u8>| input.by_ref().take(len64(more)).read_to_end(block).map_err(failed);
    take(PREAMBLE_LEN, &mut block)?;
    // Also where too little has come: it says what is missing.
    let len = DekBlock::declared_len(&block, limits)?.unwrap_or(PREAMBLE_LEN);
    take(len.saturating_sub(block.len()), &mut block)?;
    DekBlock::parse_alone(&block, limits).map_err(|error: ParseError| Failure::from(error))?;
    Ok(block)
}
