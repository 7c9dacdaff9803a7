//! Texts by lines, each of them a message.

use std::io::{BufRead, Read};

use super::{Failure, fail::Code};
use crate::wire::{LimitExceeded, Limits, len64};

/// A line of a text.
pub(super) struct Line {
    /// Without the newline.
    pub(super) content: Vec<u8>,
    /// Whether a newline ended it.
    pub(super) ended: bool,
}

/// The next line, of at most a message's size; `None` at the end.
pub(super) fn next_line(reader: &mut impl BufRead) -> Result<Option<Line>, Failure> {
    let limit = Limits::default().message;
    let mut content = Vec::new();
    let read = reader.by_ref().take(limit.saturating_add(1)).read_until(b'\n', &mut content);
    if read.map_err(|error| Failure::io("reading a line", &error))? == 0 {
        return Ok(None);
    }
    let ended = content.pop_if(|last| *last == b'\n').is_some();
    if !ended {
        LimitExceeded::check("message", len64(content.len()), limit).map_err(|over| {
            let (most, mib) = (over.maximum, over.maximum.div_ceil(1 << 20));
            Failure::new(Code::Malformed, format!("a line is larger than one message holds, {most} bytes ({mib} MiB)"))
        })?;
    }
    Ok(Some(Line { content, ended }))
}
