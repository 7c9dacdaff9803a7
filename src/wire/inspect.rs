//! Bytes -> what each of them is (spec 2), without a key. Whatever a peer wrote is escaped.

use std::fmt::Write;

use super::{
    DekBlock, External, FollowUpHead, Kem, Limits, MessageHead, Opening, ParseError, Reader, SegmentPrefix, Slot, SlotLayout,
    Splitter, Suite, head::FOLLOW_UP, index, layout, layout::Field, len64,
};

/// One field: where it stands, what it holds, what that means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part<'a> {
    /// Its name, as the spec has it, with a number where there are several: `slots[2].hint`.
    pub name: String,
    /// Bytes from the start of the input.
    pub offset: u64,
    /// The field's bytes.
    pub bytes: &'a [u8],
    /// In words; may be empty. Holds no control character.
    pub meaning: String,
}

/// One message of the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspected<'a> {
    /// Envelope or follow-up.
    pub kind: Opening,
    /// Bytes from the start of the input.
    pub offset: u64,
    /// Bytes of the whole message.
    pub len: u64,
    /// The fields, in their order, without a gap.
    pub parts: Vec<Part<'a>>,
}

/// Takes apart an envelope, or a recorded channel, message by message. Ends after the first error, whose offset counts
/// from the start of the input.
///
/// ```
/// use sealwire::wire::{Limits, inspect::Inspector};
/// let cmk = sealwire::Cmk::generate()?;
/// let envelope = sealwire::seal(b"hello", &[cmk.recipient().clone()])?;
/// let message = Inspector::new(&envelope, &Limits::default()).next().expect("a message")?;
/// assert_eq!(message.parts[0].name, "magic");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Inspector<'a> {
    splitter: Splitter,
    limits: Limits,
    segment_log2: u8,
    rest: &'a [u8],
    offset: u64,
    ended: bool,
}

/// The fields of a DEK block that is kept apart from its message.
///
/// # Errors
/// [`ParseError`].
pub fn block_parts<'a>(input: &'a [u8], limits: &Limits) -> Result<Vec<Part<'a>>, ParseError> {
    let block = DekBlock::parse_alone(input, limits)?;
    let mut fields = Fields { reader: Reader::new(input, 0), offset: 0, parts: Vec::new() };
    fields.block(&block)?;
    Ok(fields.parts)
}

impl<'a> Inspector<'a> {
    /// Begins at the start of `input`. An empty one is a truncated message.
    #[must_use]
    pub fn new(input: &'a [u8], limits: &Limits) -> Self {
        Self {
            splitter: Splitter::new(limits.clone()),
            limits: limits.clone(),
            segment_log2: 0,
            rest: input,
            offset: 0,
            ended: false,
        }
    }
}

impl<'a> Iterator for Inspector<'a> {
    type Item = Result<Inspected<'a>, ParseError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended || (self.rest.is_empty() && self.offset > 0) {
            return None;
        }
        let message = self.message(self.rest, self.offset).map_err(|error| error.shifted(self.offset));
        match &message {
            Ok(message) => {
                self.rest = self.rest.get(index(message.len)..).unwrap_or_default();
                self.offset = self.offset.saturating_add(message.len);
            }
            Err(_) => self.ended = true,
        }
        Some(message)
    }
}

impl<'a> Inspector<'a> {
    fn message(&mut self, input: &'a [u8], offset: u64) -> Result<Inspected<'a>, ParseError> {
        // What begins like no message at all is told by the magic that it lacks.
        if offset == 0 && input.first() != Some(&FOLLOW_UP) {
            DekBlock::parse(input, &self.limits)?;
        }
        let kind = Opening::of(input.first().copied().unwrap_or_default())?;
        let whole = self.splitter.next(input)?.and_then(|len| input.get(..len));
        let Some(message) = whole else { return Err(self.why_not_whole(input, kind)) };
        let mut fields = Fields { reader: Reader::new(message, 0), offset, parts: Vec::new() };
        self.fields(kind, message, &mut fields)?;
        Ok(Inspected { kind, offset, len: len64(message.len()), parts: fields.parts })
    }

    fn fields(&mut self, kind: Opening, message: &[u8], fields: &mut Fields<'_>) -> Result<(), ParseError> {
        match kind {
            Opening::Envelope => {
                let (raw, block) = DekBlock::parse(message, &self.limits)?;
                fields.block(&block)?;
                let rest = message.get(raw.len()..).unwrap_or_default();
                let head = MessageHead::parse(&mut Reader::new(rest, len64(raw.len())), &self.limits)?;
                self.segment_log2 = head.segment_log2;
                fields.message_head(&head)?;
            }
            Opening::FollowUp => {
                let head = FollowUpHead::parse(&mut Reader::new(message, 0), &self.limits)?;
                fields.follow_up_head(&head)?;
            }
        }
        fields.segments(self.segment_log2)
    }

    /// The parse error of a message that is not all there, as exact as one-shot parsing has it.
    fn why_not_whole(&self, input: &[u8], kind: Opening) -> ParseError {
        let (mut reader, log2) = (Reader::new(input, 0), self.segment_log2);
        let head = match kind {
            Opening::Envelope => DekBlock::parse(input, &self.limits).and_then(|(raw, _)| {
                reader.take(raw.len(), "dek block")?;
                MessageHead::parse(&mut reader, &self.limits).map(|head| head.segment_log2)
            }),
            Opening::FollowUp => FollowUpHead::parse(&mut reader, &self.limits).map(|_| log2),
        };
        let log2 = match head {
            Ok(log2) => log2,
            Err(error) => return error,
        };
        let unfinished = ParseError::malformed("segment", reader.offset(), "is not all there");
        // Every step consumes a segment, so that the end of the input is met at the latest.
        (0..).find_map(|i| segment_error(&mut reader, i, log2).err()).unwrap_or(unfinished)
    }
}

fn segment_error(reader: &mut Reader<'_>, segment: u64, log2: u8) -> Result<(), ParseError> {
    let prefix = SegmentPrefix::parse(reader, segment, log2)?;
    reader.take(prefix.body_len(), "segment").map(|_| ())
}

/// Reads a message that is known to be whole, field by field of the layout tables.
struct Fields<'a> {
    reader: Reader<'a>,
    offset: u64,
    parts: Vec<Part<'a>>,
}

impl<'a> Fields<'a> {
    fn part(&mut self, name: &str, field: Field, varying: usize, meaning: String) -> Result<(), ParseError> {
        let len = field.len.unwrap_or(varying);
        if len == 0 {
            return Ok(());
        }
        let offset = self.reader.offset().saturating_add(self.offset);
        let bytes = self.reader.take(len, field.name)?;
        self.parts.push(Part { name: format!("{name}{}", field.name), offset, bytes, meaning });
        Ok(())
    }

    fn block(&mut self, block: &DekBlock<'_>) -> Result<(), ParseError> {
        for field in layout::DEK_BLOCK {
            match field.name {
                "slots" => self.slots(block)?,
                "externals" => self.externals(block)?,
                "enc" => self.part("", *field, block.enc.map_or(0, |enc| enc.len()), "shared by all slots".into())?,
                "sender_proof" => self.part("", *field, block.sender_proof.map_or(0, |p| p.len()), "masked".into())?,
                name => self.part("", *field, 0, block_meaning(block, name))?,
            }
        }
        Ok(())
    }

    fn slots(&mut self, block: &DekBlock<'_>) -> Result<(), ParseError> {
        for (i, Slot { enc, .. }) in block.slots.iter().enumerate() {
            for field in layout::SLOT {
                let is_pq = field.name == "enc" && block.suite.kem() == Kem::XWing;
                let meaning = if is_pq { "X-Wing: ML-KEM-768, X25519" } else { "" };
                self.part(&format!("slots[{i}]."), *field, enc.len(), meaning.into())?;
            }
        }
        Ok(())
    }

    fn externals(&mut self, block: &DekBlock<'_>) -> Result<(), ParseError> {
        for (i, External { provider, key_ref, blob }) in block.externals.iter().enumerate() {
            for field in layout::EXTERNAL {
                let (len, meaning) = match field.name {
                    "provider" => (provider.len(), escape(provider.as_bytes())),
                    "key_ref" => (key_ref.len(), escape(key_ref.as_bytes())),
                    _ => (blob.len(), String::new()),
                };
                self.part(&format!("externals[{i}]."), *field, len, meaning)?;
            }
        }
        Ok(())
    }

    fn message_head(&mut self, head: &MessageHead<'_>) -> Result<(), ParseError> {
        for field in layout::MESSAGE_HEAD {
            let meaning = match field.name {
                "seq" => head.seq.to_string(),
                "segment_log2" => format!("segments of {} bytes", 1u64 << head.segment_log2.min(63)),
                name => head_meaning(name, head.flags, head.context),
            };
            self.part("", *field, head.context.len(), meaning)?;
        }
        Ok(())
    }

    fn follow_up_head(&mut self, head: &FollowUpHead<'_>) -> Result<(), ParseError> {
        for field in layout::FOLLOW_UP_HEAD {
            let meaning = match field.name {
                "type" => "follow-up".into(),
                name => head_meaning(name, head.flags, head.context),
            };
            self.part("", *field, head.context.len(), meaning)?;
        }
        Ok(())
    }

    fn segments(&mut self, segment_log2: u8) -> Result<(), ParseError> {
        for i in 0.. {
            let prefix = SegmentPrefix::parse(&mut self.reader.clone(), i, segment_log2)?;
            for field in layout::SEGMENT {
                let meaning = match (field.name, prefix.last) {
                    ("prefix", true) => "final".into(),
                    ("prefix", false) => "more follow".into(),
                    _ => String::new(),
                };
                self.part(&format!("segments[{i}]."), *field, prefix.ciphertext_len(), meaning)?;
            }
            if prefix.last {
                break;
            }
        }
        Ok(())
    }
}

fn block_meaning(block: &DekBlock<'_>, name: &str) -> String {
    match name {
        "version" => "1".into(),
        "block_len" => format!("{} bytes", block.encoded_len()),
        "suite" => suite_meaning(block.suite),
        "options" => options_meaning(block),
        "slot_count" => block.slots.len().to_string(),
        "external_count" => block.externals.len().to_string(),
        "created_at" => format!("{} s since 1970-01-01", block.created_at),
        _ => String::new(),
    }
}

fn suite_meaning(suite: Suite) -> String {
    format!("{}: {}", suite.number(), suite.name())
}

fn options_meaning(block: &DekBlock<'_>) -> String {
    let mut words = format!("hints {:?}", block.options.hints).to_lowercase();
    let layout = block.slots.layout();
    for (set, word) in [
        (block.options.sender_proof, "sender proof"),
        (layout == SlotLayout::EncPerSlot && block.suite.kem() == Kem::X25519, "enc per slot"),
        (block.options.proof_covers_message, "proof covers the message"),
    ] {
        if set {
            // Writing to a string does not fail.
            let _ = write!(words, ", {word}");
        }
    }
    words
}

fn head_meaning(name: &str, flags: super::Flags, context: &[u8]) -> String {
    match name {
        "flags" => {
            let set: Vec<_> = flags.names().collect();
            if set.is_empty() { "none".into() } else { set.join(", ") }
        }
        "context_len" => context.len().to_string(),
        "context" => format!("\"{}\"", escape(context)),
        _ => String::new(),
    }
}

/// Bytes as text that no terminal takes for a command.
#[must_use]
pub fn escape(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if is_plain(c) { out.push(c) } else { out.extend(c.escape_default()) }
        }
        out.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    out
}

/// No control character, no quote, none that turns the direction of text or takes no room.
fn is_plain(c: char) -> bool {
    let hidden = matches!(c, '\u{ad}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{3164}' | '\u{ffa0}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff0}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}');
    !c.is_control() && !hidden && c != '"' && c != '\\'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all<'a>(input: &'a [u8], limits: &Limits) -> (Vec<Inspected<'a>>, Option<ParseError>) {
        let (mut messages, mut error) = (Vec::new(), None);
        for message in Inspector::new(input, limits) {
            match message {
                Ok(message) => messages.push(message),
                Err(e) => error = Some(e),
            }
        }
        (messages, error)
    }

    #[test]
    fn nothing_a_terminal_obeys_is_left() {
        assert_eq!(escape(b"a\x1b[31mb\n\xff\"\\"), "a\\u{1b}[31mb\\n\\xff\\\"\\\\");
        assert_eq!(escape("grün \u{202e}x".as_bytes()), "grün \\u{202e}x");
    }

    #[test]
    fn parts_cover_the_input_without_a_gap() {
        let cmk = crate::Cmk::generate().unwrap();
        let mut sealer = crate::Sealer::builder().to(cmk.recipient().clone()).segment_log2(12).build().unwrap();
        let envelope = sealer.seal(b"ctx", &[1; 9000]).unwrap();
        let (messages, error) = all(&envelope, &Limits::default());
        assert_eq!(error, None);
        let parts = &messages[0].parts;
        let joined: Vec<u8> = parts.iter().flat_map(|part| part.bytes.to_vec()).collect();
        assert_eq!(joined, envelope);
        assert!(parts.windows(2).all(|w| w[0].offset + w[0].bytes.len() as u64 == w[1].offset));
        for n in 0..envelope.len() {
            let (messages, error) = all(&envelope[..n], &Limits::default());
            assert!(messages.is_empty() && matches!(error, Some(ParseError::Truncated { .. })), "{n}: {error:?}");
        }
        let twice = [envelope.clone(), envelope[..200].to_vec()].concat();
        let (messages, error) = all(&twice, &Limits::default());
        assert_eq!(messages.len(), 1);
        assert!(matches!(error, Some(ParseError::Truncated { offset, .. }) if offset >= envelope.len() as u64));
    }
}
