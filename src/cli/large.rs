//! Large files into files: on Unix by as many threads as there are cores, each of which reads and writes on its own. Everything else takes its
//! way through the streams.

use std::{
    fs::File,
    path::Path,
    sync::{Mutex, PoisonError},
};

use super::{
    copy::{Copying, Progress},
    io::{Output, Source, cores, is_dash},
};
use crate::{
    open::{Opener, Sender},
    seal::Sealer,
    stream::files::{self, FileError, Files},
};

/// Files from this size on are worth it.
const LARGE: u64 = 1 << 20;

impl From<FileError> for Copying {
    fn from(error: FileError) -> Self {
        match error {
            FileError::Reading(error) => Self::Reading(error),
            FileError::Writing(error) => Self::Writing(error),
            FileError::Sealing(error) => Self::ending(error.into()),
        }
    }
}

/// Seals the file at `from`; gives the DEK block, which is in front unless it is to be `apart`. `None` where it takes the other way: nothing was
/// done then.
pub(super) fn seal(
    sealer: &mut Sealer,
    context: &[u8],
    apart: bool,
    from: &Path,
    to: &Output,
    progress: &mut Progress,
) -> Option<Result<Vec<u8>, Copying>> {
    let to = to.as_file().filter(|_| files::seals_unordered(sealer) && !is_dash(from))?;
    let from = File::open(from).ok().filter(|file| file.metadata().is_ok_and(|meta| meta.is_file() && meta.len() >= LARGE))?;
    let sealed = with(&from, Some(to), progress, |files| files::seal(sealer, context, apart, files));
    Some(sealed.map_err(Copying::from))
}

/// Opens a message into a file, or nowhere. `None` where it takes the other way, on which it is told what is wrong with it; the output is as
/// empty as before.
pub(super) fn open(
    opener: &Opener,
    block: Option<&[u8]>,
    from: &Source,
    to: Option<&Output>,
    progress: &mut Progress,
) -> Option<Result<Sender, Copying>> {
    let from = from.as_file().filter(|(_, len)| *len >= LARGE)?.0;
    let to = match to {
        Some(output) => Some(output.as_file()?),
        None => None,
    };
    let opened = match with(from, to, progress, |files| files::open(opener, block, files)) {
        Ok(Some(sender)) => return Some(Ok(sender)),
        Ok(None) => to.map_or(Ok(()), |to| to.set_len(0)).map_err(Copying::Writing),
        Err(error) => Err(error.into()),
    };
    opened.err().map(Err)
}

fn with<T>(from: &File, to: Option<&File>, progress: &mut Progress, act: impl FnOnce(&Files<'_>) -> T) -> T {
    let progress = Mutex::new(progress);
    let progress = |bytes| progress.lock().unwrap_or_else(PoisonError::into_inner).add(bytes);
    act(&Files { from, to, threads: cores(), progress: &progress })
}
