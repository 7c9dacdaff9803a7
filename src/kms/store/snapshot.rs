//! A state and what goes with it <-> a state file (spec/store.md, State file). No I/O.

use zeroize::Zeroizing;

use super::{
    LINE_MAX, STATE_MAX, StoreError,
    head::{HEAD_LEN, Head, TAG_LEN},
    record::{Anchor, Chain},
    root::Root,
};
use crate::{
    crypto::{Refused, Secret32, backend::same},
    platform::Entropy,
    wire::{LimitExceeded, ParseError, Reader, len64},
};

/// One key seals one state, so that its nonce may be the same.
const NONCE: [u8; 12] = [0; 12];
/// Bytes before the line.
const BESIDE_LEN: usize = 32 + 16 + 8 + 32 + 4;

/// What a state says of its audit log.
pub(super) struct Ledger {
    /// What the keys of logs are made of.
    pub(super) secret: Secret32,
    pub(super) id: [u8; 16],
    /// The last line that is older than the state, or came with it.
    pub(super) anchor: Anchor,
    /// The line that came with it, which may not be in the log yet; empty where none did.
    pub(super) line: Vec<u8>,
}

impl Ledger {
    pub(super) fn chain(&self) -> Result<Chain, StoreError> {
        Chain::new(&self.secret, self.id)
    }
}

/// What a state file holds.
pub(super) struct Snapshot {
    pub(super) head: Head,
    pub(super) ledger: Ledger,
    pub(super) state: Zeroizing<Vec<u8>>,
}

/// Seals a state under a salt of its own. [STO-6]
pub(super) fn seal(root: &Root, generation: u64, ledger: &Ledger, state: &[u8]) -> Result<(Head, Vec<u8>), StoreError> {
    LimitExceeded::check("state", len64(state.len()), STATE_MAX)?;
    let salt = Entropy::default().array()?;
    let key = root.write_key(&salt).map_err(refused)?;
    let sealed_len = BESIDE_LEN + ledger.line.len() + state.len();
    let commitment = *key.commitment.bytes();
    let head = Head { root: root.kind.clone(), generation, salt, sealed_len: len64(sealed_len), commitment };
    // Sized beforehand, so that it leaves no copy of a secret behind; wiped when it could not be sealed.
    let mut file = Zeroizing::new(Vec::with_capacity(HEAD_LEN + sealed_len + TAG_LEN));
    file.extend(head.encode());
    put(&mut file, ledger, state)?;
    let (aad, text) = file.split_at_mut_checked(HEAD_LEN).ok_or(StoreError::Damaged("it has no head"))?;
    let mut tag = [0; TAG_LEN];
    key.aead.seal(&NONCE, aad, text, &mut tag).map_err(refused)?;
    file.extend(tag);
    Ok((head, std::mem::take(&mut *file)))
}

fn put(file: &mut Vec<u8>, ledger: &Ledger, state: &[u8]) -> Result<(), StoreError> {
    let line_len = u32::try_from(ledger.line.len()).map_err(|_| StoreError::Damaged("a line of its log is too long"))?;
    file.extend(ledger.secret.bytes());
    file.extend(ledger.id);
    file.extend(ledger.anchor.seq.to_be_bytes());
    file.extend(ledger.anchor.chain);
    file.extend(line_len.to_be_bytes());
    file.extend(&ledger.line);
    file.extend(state);
    Ok(())
}

/// Opens a state file, whose head has been parsed and whose root key unlocked. `file` is used up.
pub(super) fn open(root: &Root, head: Head, mut file: Zeroizing<Vec<u8>>) -> Result<Snapshot, StoreError> {
    // [STO-3]
    if len64(file.len()) != head.file_len() {
        return Err(StoreError::Damaged("it is shorter or longer than its head says"));
    }
    let key = root.write_key(&head.salt).map_err(refused)?;
    // [STO-5]
    if !same(key.commitment.bytes(), &head.commitment) {
        return Err(StoreError::WrongRootKey);
    }
    let damaged = || StoreError::Damaged("what is sealed in it was changed");
    let (aad, rest) = file.split_at_mut_checked(HEAD_LEN).ok_or_else(damaged)?;
    let (text, tag) = rest.split_last_chunk_mut::<TAG_LEN>().ok_or_else(damaged)?;
    key.aead.open(&NONCE, aad, text, tag).map_err(|_| damaged())?;
    let (ledger, state) = parse(text)?;
    Ok(Snapshot { head, ledger, state })
}

fn parse(text: &[u8]) -> Result<(Ledger, Zeroizing<Vec<u8>>), StoreError> {
    let mut reader = Reader::enclosed(text, len64(HEAD_LEN));
    let secret = Secret32::copied(reader.array("log_secret")?);
    let id = *reader.array("log_id")?;
    let anchor = Anchor { seq: reader.u64("anchor_seq")?, chain: *reader.array("anchor_chain")? };
    let line_len = reader.u32("line_len")?;
    LimitExceeded::check("line_len", line_len.into(), len64(LINE_MAX))?;
    let overrun = |_| ParseError::malformed("line_len", 0, "does not fit");
    let line = reader.take(usize::try_from(line_len).map_err(overrun)?, "line")?.to_vec();
    Ok((Ledger { secret, id, anchor, line }, Zeroizing::new(reader.rest().to_vec())))
}

fn refused(_: Refused) -> StoreError {
    StoreError::Damaged("a key cannot be made for it")
}
