//! What has happened <-> lines of an audit log (spec/store.md, Lines). No I/O.

use std::fmt::Write;

use serde_json::Value;

use super::{LineError, RecordError, StoreError};
use crate::crypto::{
    Secret32,
    backend::{Expander, extract, hmac, same},
};

/// Bytes of the longest line, without its end.
pub const LINE_MAX: usize = 16 * 1024;
/// Bytes of the longest action.
pub const ACTION_MAX: usize = 64;
/// Bytes of the longest caller, key or result.
pub const PART_MAX: usize = 512;

/// What stands around the MAC at the end of a line.
const BEFORE_MAC: &str = ",\"mac\":\"";
const AFTER_MAC: &str = "\"}";
const MAC_DIGITS: usize = 64;
/// Bytes of most lines; longer ones grow.
const BODY_LEN: usize = 256;

/// Something that has happened. It holds no key bytes.
///
/// ```
/// use sealwire::kms::store::Record;
/// let [caller, action, result] = ["alice", "create", "ok"].map(String::from);
/// let record = Record { at: 0, caller, action, key: Some("orders".into()), result };
/// assert!(record.check().is_ok());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// When, in seconds since the Unix epoch.
    pub at: u64,
    /// Who asked for it.
    pub caller: String,
    /// What was asked for.
    pub action: String,
    /// With which key.
    pub key: Option<String>,
    /// What came of it.
    pub result: String,
}

impl Record {
    /// Whether a line holds it: [`ACTION_MAX`] bytes of action, [`PART_MAX`] of each other part.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn check(&self) -> Result<(), RecordError> {
        let key = self.key.as_deref().unwrap_or_default();
        let parts = [("caller", self.caller.as_str()), ("key", key), ("result", &self.result)];
        let long = parts.into_iter().find(|(_, part)| part.len() > PART_MAX).map(|(field, part)| (field, part.len(), PART_MAX));
        let long = long.or((self.action.len() > ACTION_MAX).then_some(("action", self.action.len(), ACTION_MAX)));
        // [STO-14]
        long.map_or(Ok(()), |(field, len, max)| Err(RecordError { field, len, max }))
    }
}

/// A line of an audit log, as it says; only [`verify`](super::verify) tells whether it is true.
///
/// ```
/// use sealwire::kms::store::Entry;
/// assert!(Entry::parse(br#"{"seq":1}"#).is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its number in the log, from 1.
    pub seq: u64,
    /// What has happened.
    pub record: Record,
    /// The generation that the state had after it, where it changed the state.
    pub generation: Option<u64>,
    /// Stands for this line and all before it.
    pub mac: [u8; 32],
}

impl Entry {
    /// Reads a line without its end. Of two spellings of a record one is a line.
    ///
    /// # Errors
    /// [`LineError`].
    pub fn parse(line: &[u8]) -> Result<Self, LineError> {
        if line.len() > LINE_MAX {
            return Err(LineError::TooLong);
        }
        let value: Value = serde_json::from_slice(line).map_err(|_| LineError::NotARecord)?;
        let entry = Self::from_value(&value).ok_or(LineError::NotARecord)?;
        if entry.encode().as_bytes() == line { Ok(entry) } else { Err(LineError::Spelling) }
    }

    /// The line, without its end.
    #[must_use]
    pub fn encode(&self) -> String {
        let body = body(self.seq, &self.record, self.generation);
        with_mac(body, &self.mac)
    }

    fn from_value(value: &Value) -> Option<Self> {
        let text = |name| value.get(name)?.as_str().map(str::to_owned);
        let number = |name| value.get(name)?.as_u64();
        let key = match value.get("key")? {
            Value::Null => None,
            key => Some(key.as_str()?.to_owned()),
        };
        let record = Record { at: number("at")?, caller: text("caller")?, action: text("action")?, key, result: text("result")? };
        record.check().ok()?;
        Some(Self { seq: number("seq")?, record, generation: number("generation"), mac: unhex(value.get("mac")?.as_str()?)? })
    }
}

/// Where a log stands: its last line, and the MAC of that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Anchor {
    pub(super) seq: u64,
    pub(super) chain: [u8; 32],
}

impl Anchor {
    /// Before the first line.
    pub(super) const START: Self = Self { seq: 0, chain: [0; 32] };
}

/// The key of a log, under which each line is chained to all before it.
pub(super) struct Chain {
    key: Secret32,
    pub(super) id: [u8; 16],
}

impl Chain {
    pub(super) fn new(secret: &Secret32, id: [u8; 16]) -> Result<Self, StoreError> {
        let mut key = Secret32::zeroed();
        let expanded = Expander::new(&extract(&id, &[secret.bytes()]))
            .and_then(|expander| expander.expand(&[b"sealwire store v1 log"], key.bytes_mut()));
        expanded.map(|()| Self { key, id }).map_err(|_| StoreError::Damaged("a key cannot be made for its log"))
    }

    fn next(&self, chain: &[u8; 32], body: &[u8]) -> [u8; 32] {
        // HMAC takes a key of any length: the error has no cause.
        hmac(self.key.bytes(), &[&chain[..], body].concat()).unwrap_or_default()
    }

    /// Adds the line of a record after those up to `end`, with its end; where the log stands then.
    pub(super) fn line(
        &self,
        end: &Anchor,
        record: &Record,
        generation: Option<u64>,
        out: &mut Vec<u8>,
    ) -> Result<Anchor, StoreError> {
        record.check()?;
        let seq = end.seq.checked_add(1).ok_or(StoreError::Failed)?;
        let body = body(seq, record, generation);
        let chain = self.next(&end.chain, body.as_bytes());
        out.extend_from_slice(with_mac(body, &chain).as_bytes());
        out.push(b'\n');
        Ok(Anchor { seq, chain })
    }

    /// The first line of a file.
    pub(super) fn head(&self, number: u64, after: Anchor) -> FileHead {
        let head = FileHead { id: self.id, number, after, mac: [0; 32] };
        FileHead { mac: self.next(&[0; 32], head.body().as_bytes()), ..head }
    }

    /// Whether a file begins with this line in this log.
    pub(super) fn begins(&self, head: &FileHead) -> bool {
        head.id == self.id && same(&self.head(head.number, head.after).mac, &head.mac)
    }

    /// Where the log stands after a line, without its end, if it follows `end`. [STO-10]
    pub(super) fn follows(&self, end: &Anchor, entry: &Entry, line: &[u8]) -> Option<Anchor> {
        let body = line.get(..line.len().checked_sub(BEFORE_MAC.len() + MAC_DIGITS + AFTER_MAC.len())?)?;
        let chain = self.next(&end.chain, body);
        (same(&chain, &entry.mac) && end.seq.checked_add(1) == Some(entry.seq)).then_some(Anchor { seq: entry.seq, chain })
    }
}

/// The first line of a file of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileHead {
    pub(super) id: [u8; 16],
    /// The file's number, from 1.
    pub(super) number: u64,
    /// Where the log stands before it.
    pub(super) after: Anchor,
    pub(super) mac: [u8; 32],
}

impl FileHead {
    /// Reads the line, without its end.
    pub(super) fn parse(line: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(line).ok()?;
        let number = |name| value.get(name)?.as_u64();
        let after = Anchor { seq: number("after")?, chain: unhex(value.get("chain")?.as_str()?)? };
        let (id, mac) = (unhex(value.get("log")?.as_str()?)?, unhex(value.get("mac")?.as_str()?)?);
        let head = Self { id, number: number("file")?, after, mac };
        (head.encode().as_bytes() == line).then_some(head)
    }

    /// The line, without its end.
    pub(super) fn encode(&self) -> String {
        with_mac(self.body(), &self.mac)
    }

    fn body(&self) -> String {
        let (id, chain) = (hex(&self.id), hex(&self.after.chain));
        format!("{{\"log\":\"{id}\",\"file\":{},\"after\":{},\"chain\":\"{chain}\"", self.number, self.after.seq)
    }
}

/// One of these for every request: nothing is formatted that can be copied.
fn body(seq: u64, record: &Record, generation: Option<u64>) -> String {
    let Record { at, caller, action, key, result } = record;
    let mut body = String::with_capacity(BODY_LEN);
    let _ = write!(body, "{{\"seq\":{seq},\"at\":{at}");
    for (name, part) in [
        (",\"caller\":", Some(caller)),
        (",\"action\":", Some(action)),
        (",\"key\":", key.as_ref()),
        (",\"result\":", Some(result)),
    ] {
        body.push_str(name);
        match part {
            Some(part) => quote(part, &mut body),
            None => body.push_str("null"),
        }
    }
    if let Some(generation) = generation {
        let _ = write!(body, ",\"generation\":{generation}");
    }
    body
}

fn with_mac(mut body: String, mac: &[u8; 32]) -> String {
    body.push_str(BEFORE_MAC);
    push_hex(mac, &mut body);
    body.push_str(AFTER_MAC);
    body
}

/// Adds a JSON string in which nothing moves a cursor or turns text around. [STO-14]
fn quote(text: &str, out: &mut String) {
    let plain = |c: u8| c.is_ascii_graphic() && c != b'"' && c != b'\\' || c == b' ';
    if text.bytes().all(plain) {
        out.push('"');
        out.push_str(text);
        return out.push('"');
    }
    for c in Value::from(text).to_string().chars() {
        if moves_text(c) {
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        } else {
            out.push(c);
        }
    }
}

/// Controls, ends of lines, and marks of direction; all of them are below U+10000.
fn moves_text(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(2 * bytes.len());
    push_hex(bytes, &mut out);
    out
}

fn push_hex(bytes: &[u8], out: &mut String) {
    let digit = |nibble: u8| char::from(b"0123456789abcdef"[usize::from(nibble & 15)]);
    for byte in bytes {
        out.extend([digit(byte >> 4), digit(byte & 15)]);
    }
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    let digit = |c: u8| char::from(c).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let bytes: Option<Vec<u8>> = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect();
    bytes?.try_into().ok()
}
