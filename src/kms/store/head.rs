//! The head of a state file <-> bytes (spec/store.md, State file). No keys, no I/O.

use super::{
    StoreError,
    root::{RootKind, Stretch},
};
use crate::{
    crypto::{
        backend::{same, sha256},
        passphrase::Cost,
    },
    keys::check,
    wire::{LimitExceeded, ParseError, Reader, layout::Field, len64},
};

/// Bytes of a state that a store holds.
pub const STATE_MAX: u64 = 64 * 1024 * 1024;
/// Bytes that are sealed beside it, at most: the log's key, id and anchor, and one line.
pub(super) const BESIDE_MAX: u64 = 92 + super::LINE_MAX as u64;
/// Bytes of the head.
pub const HEAD_LEN: usize = 147;
/// Bytes behind the ciphertext.
pub(super) const TAG_LEN: usize = 16;

/// Bytes of a state file, at most.
pub(super) const FILE_MAX: u64 = HEAD_LEN as u64 + STATE_MAX + BESIDE_MAX + TAG_LEN as u64;

const MAGIC: &[u8; 8] = b"SWSTORE\n";
const VERSION: u8 = 1;
const PASSPHRASE: u8 = 1;
const KEY_FILE: u8 = 2;

const fn field(name: &'static str, len: usize) -> Field {
    Field { name, len: Some(len) }
}

/// A state file, as the spec has it.
pub const STATE_FILE: &[Field] = &[
    field("magic", 8),
    field("version", 1),
    field("root", 1),
    field("t", 4),
    field("m", 4),
    field("p", 1),
    field("root_salt", 16),
    field("generation", 8),
    field("salt", 32),
    field("sealed_len", 8),
    field("commitment", 32),
    field("checksum", 32),
    Field { name: "ciphertext", len: None },
    field("tag", TAG_LEN),
];

/// The head of a state file: public, and not authentic before the state has been opened with it.
///
/// ```
/// use sealwire::kms::store::Head;
/// assert!(Head::parse(b"SWSTORE\n\x01 and too short").is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// What kind of root key the store is under.
    pub root: RootKind,
    /// How often the state has been replaced.
    pub generation: u64,
    pub(super) salt: [u8; 32],
    pub(super) sealed_len: u64,
    pub(super) commitment: [u8; 32],
}

impl Head {
    /// Reads the head that `file` begins with; computes nothing but a hash.
    ///
    /// # Errors
    /// [`StoreError::Parse`], [`StoreError::Damaged`], [`StoreError::Protection`], [`StoreError::TooLarge`].
    pub fn parse(file: &[u8]) -> Result<Self, StoreError> {
        let mut reader = Reader::new(file, 0);
        check_version(&mut reader)?;
        check_sum(file)?;
        let root = parse_root(&mut reader)?;
        let generation = reader.u64("generation")?;
        let salt = *reader.array("salt")?;
        let sealed_len = reader.u64("sealed_len")?;
        // [STO-3]
        LimitExceeded::check("sealed_len", sealed_len, STATE_MAX + BESIDE_MAX)?;
        let commitment = *reader.array("commitment")?;
        Ok(Self { root, generation, salt, sealed_len, commitment })
    }

    /// The bytes that [`parse`](Self::parse) reads.
    #[must_use]
    pub fn encode(&self) -> [u8; HEAD_LEN] {
        let (kind, cost, root_salt) = match &self.root {
            RootKind::Passphrase(Stretch { cost, salt }) => (PASSPHRASE, *cost, *salt),
            RootKind::KeyFile => (KEY_FILE, Cost { passes: 0, kib: 0, lanes: 0 }, [0; 16]),
        };
        let mut out = Vec::with_capacity(HEAD_LEN);
        out.extend(MAGIC);
        out.extend([VERSION, kind]);
        out.extend(cost.passes.to_be_bytes());
        out.extend(cost.kib.to_be_bytes());
        out.push(cost.lanes);
        out.extend(root_salt);
        out.extend(self.generation.to_be_bytes());
        out.extend(self.salt);
        out.extend(self.sealed_len.to_be_bytes());
        out.extend(self.commitment);
        out.extend(sha256(&[&out]));
        let mut head = [0; HEAD_LEN];
        head.iter_mut().zip(out).for_each(|(to, from)| *to = from);
        head
    }

    /// Bytes of the whole file.
    pub(super) fn file_len(&self) -> u64 {
        len64(HEAD_LEN).saturating_add(self.sealed_len).saturating_add(len64(TAG_LEN))
    }
}

/// [STO-1]
fn check_version(reader: &mut Reader<'_>) -> Result<(), ParseError> {
    if reader.array("magic")? != MAGIC {
        return Err(ParseError::malformed("magic", 0, "this is no state file of a store"));
    }
    match reader.u8("version")? {
        VERSION => Ok(()),
        other => Err(ParseError::Unsupported { field: "version", offset: 8, value: other.into() }),
    }
}

/// [STO-4]
fn check_sum(file: &[u8]) -> Result<(), StoreError> {
    let head = Reader::new(file, 0).take(HEAD_LEN, "head")?;
    let Some((summed, sum)) = head.split_last_chunk::<32>() else { return Err(StoreError::Damaged("it has no checksum")) };
    if same(&sha256(&[summed]), sum) { Ok(()) } else { Err(StoreError::Damaged("the checksum of its head does not hold")) }
}

/// [STO-2]
fn parse_root(reader: &mut Reader<'_>) -> Result<RootKind, StoreError> {
    let kind = reader.u8("root")?;
    let cost = Cost { passes: reader.u32("t")?, kib: reader.u32("m")?, lanes: reader.u8("p")? };
    let salt = *reader.array("root_salt")?;
    match kind {
        PASSPHRASE => {
            check(cost).map_err(StoreError::Protection)?;
            Ok(RootKind::Passphrase(Stretch { cost, salt }))
        }
        KEY_FILE if (cost.passes, cost.kib, cost.lanes, salt) == (0, 0, 0, [0; 16]) => Ok(RootKind::KeyFile),
        KEY_FILE => Err(ParseError::malformed("t", 10, "a key file is not stretched").into()),
        other => Err(ParseError::Unsupported { field: "root", offset: 9, value: other.into() }.into()),
    }
}
