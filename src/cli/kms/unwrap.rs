//! What `open` asks a key service: the DEK of one block, once.

use std::io::Read;

use super::{AskArgs, service::Asking};
use crate::{
    cli::Failure,
    keys::Dek,
    kms::WrappedDek,
    open::Opener,
    wire::{BLOCK_PREAMBLE_LEN, DekBlock, Limits, ParseError, len64},
};

/// A service that unwraps, where the options name one.
pub(crate) struct Unwrapper(Asking);

impl Unwrapper {
    pub(crate) fn new(args: &AskArgs) -> Result<Self, Failure> {
        Asking::new(args).map(Self)
    }

    /// The DEK of a block.
    pub(crate) fn dek(&self, block: &[u8]) -> Result<Dek, Failure> {
        let wrapped = WrappedDek::Block(block.to_vec());
        Ok(self.0.ask(|service| service.decrypt_data_key(wrapped))?.dek)
    }

    /// Lets an opener know the DEK of a block. What the policy refuses is not asked for.
    pub(crate) fn teach(&self, opener: &Opener, block: &[u8]) -> Result<(), Failure> {
        opener.may_open(block)?;
        Ok(opener.learn(block, &self.dek(block)?)?)
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
    take(BLOCK_PREAMBLE_LEN, &mut block)?;
    // Also where too little has come: it says what is missing.
    let len = DekBlock::declared_len(&block, limits)?.unwrap_or(BLOCK_PREAMBLE_LEN);
    take(len.saturating_sub(block.len()), &mut block)?;
    DekBlock::parse_alone(&block, limits).map_err(|error: ParseError| Failure::from(error))?;
    Ok(block)
}
