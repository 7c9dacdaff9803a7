//! inspect.

use std::io::{Read, Write};

use serde_json::json;

use super::{Failure, args::InspectArgs, fail::show, io::Source};
use crate::wire::{
    DekBlock, LimitExceeded, Limits, Opening, ParseError,
    inspect::{Inspected, Inspector, Part, block_parts},
    len64,
};

pub(super) fn run(args: &InspectArgs) -> Result<(), Failure> {
    const MOST: u64 = 256 << 20;
    let mut bytes = Vec::new();
    let read = Source::new(&args.input)?.take(MOST + 1).read_to_end(&mut bytes);
    read.map_err(|error| Failure::io(show(&args.input), &error))?;
    LimitExceeded::check("input", len64(bytes.len()), MOST).map_err(|over| Failure::from(ParseError::from(over)))?;
    let mut output = std::io::BufWriter::new(std::io::stdout().lock());
    let report = write_report(&bytes, args.json, &mut output).and_then(|error| output.flush().map(|()| error));
    let error = report.map_err(|error| Failure::io("standard output", &error))?;
    error.map_or(Ok(()), |error| Err(Failure::from(error).about(show(&args.input))))
}

/// Writes message after message, so that a large recording needs no more memory than a small one.
fn write_report(bytes: &[u8], json: bool, out: &mut impl Write) -> std::io::Result<Option<ParseError>> {
    // A DEK block that is kept apart from its message.
    if DekBlock::parse_alone(bytes, &Limits::default()).is_ok() {
        let parts = block_parts(bytes, &Limits::default()).unwrap_or_default();
        let message = Inspected { kind: Opening::Envelope, offset: 0, len: len64(bytes.len()), parts };
        return match json {
            true => writeln!(out, "{{ \"messages\": [\n{:#}\n], \"error\": null }}", message_json(BLOCK, &message)),
            false => out.write_all(message_text(BLOCK, &message).as_bytes()),
        }
        .map(|()| None);
    }
    let mut error = None;
    let mut before = "{ \"messages\": [";
    // What was read fits in memory already.
    let limits = Limits { message: len64(bytes.len()), ..Limits::default() };
    for message in Inspector::new(bytes, &limits) {
        match message {
            Ok(message) if json => write!(out, "{before}\n{:#}", message_json(kind_name(message.kind), &message))?,
            Ok(message) => out.write_all(message_text(kind_name(message.kind), &message).as_bytes())?,
            Err(found) => {
                error = Some(found);
                break;
            }
        }
        before = ",";
    }
    if json {
        let open = if before == "," { "" } else { before };
        writeln!(out, "{open}\n], \"error\": {} }}", json!(error.as_ref().map(ToString::to_string)))?;
    }
    Ok(error)
}

const BLOCK: &str = "DEK block";

fn kind_name(kind: Opening) -> &'static str {
    match kind {
        Opening::Envelope => "envelope",
        Opening::FollowUp => "follow-up",
    }
}

fn message_json(kind: &str, message: &Inspected<'_>) -> serde_json::Value {
    let parts = message.parts.iter().map(|part| {
        json!({ "name": part.name, "offset": part.offset, "length": part.bytes.len(), "bytes": hex(part.bytes), "meaning": part.meaning })
    });
    json!({ "kind": kind, "offset": message.offset, "length": message.len, "fields": parts.collect::<Vec<_>>() })
}

fn message_text(kind: &str, message: &Inspected<'_>) -> String {
    let mut text = format!("{} at {}, {} bytes\n", kind, message.offset, message.len);
    for part in &message.parts {
        text += &part_text(part);
    }
    text
}

/// One line of a report: offset, name, bytes (the first of many), meaning.
pub(super) fn part_text(part: &Part<'_>) -> String {
    const SHOWN: usize = 16;
    let mut bytes = hex(part.bytes.get(..SHOWN).unwrap_or(part.bytes));
    if part.bytes.len() > SHOWN {
        bytes += &format!("… ({} bytes)", part.bytes.len());
    }
    let line = format!("{:>10}  {:<22} {bytes}  {}", part.offset, part.name, part.meaning);
    format!("{}\n", line.trim_end())
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
