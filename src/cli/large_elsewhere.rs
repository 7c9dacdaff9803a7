//! Large files take the way of all others where files have no places to read from and write to.

use std::path::Path;

use super::{
    copy::{Copying, Progress},
    io::{Output, Source},
};
use crate::{
    open::{Opener, Sender},
    seal::Sealer,
};

/// The other way.
pub(super) fn seal(
    _: &mut Sealer,
    _: &[u8],
    _: bool,
    _: &Path,
    _: &Output,
    _: &mut Progress,
) -> Option<Result<Vec<u8>, Copying>> {
    None
}

/// The other way.
pub(super) fn open(
    _: &Opener,
    _: Option<&[u8]>,
    _: &Source,
    _: Option<&Output>,
    _: &mut Progress,
) -> Option<Result<Sender, Copying>> {
    None
}
