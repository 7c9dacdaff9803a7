//! What `open` asks a key service: the DEK of one block, once.

use std::io::Read;

use super::{
    args::{AskArgs, RootArgs},
    service::Asking,
};
use crate::{
    cli::{
        Failure,
        args::{OpenKeys, PassphraseFrom},
        fail::Code,
    },
    keys::Dek,
    kms::{ResolveError, Resolver, WrappedDek},
    open::Opener,
    wire::{DekBlock, Limits, PREAMBLE_LEN, ParseError, len64},
};

/// A service that unwraps, where the options name one.
pub(crate) struct Unwrapper(Asking);

impl Unwrapper {
    /// What the options of `open` name, if they do.
    pub(crate) fn of(keys: &OpenKeys) -> Result<Option<Self>, Failure> {
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
        Asking::new(&asked).map(|asking| Some(Self(asking)))
    }

    /// The DEK of a block.
    pub(crate) fn dek(&self, block: &[u8]) -> Result<Dek, Failure> {
        let wrapped = WrappedDek::Block(block.to_vec());
        Ok(self.0.ask(|service| service.decrypt_data_key(wrapped))?.dek)
    }

    /// Lets an opener know the DEK of a block, where it has no key for it. What the policy refuses is not asked for.
    pub(crate) fn teach(&self, opener: &Opener, block: &[u8]) -> Result<(), Failure> {
        self.0.wait(|service| async move { Ok(Resolver::new(opener.clone(), service).prepare(block).await?) })
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
