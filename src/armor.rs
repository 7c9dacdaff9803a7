//! Envelopes as text (spec 12.5): lines that JSON, environment variables and mail leave as they are. The base64 is a library's.
//!
//! ```text
//! -----BEGIN SEALWIRE ENVELOPE-----
//! U1dFAQAAAJkBAAAAAGkhh…            lines of 64 characters, the last one of 4 to 64
//! -----END SEALWIRE ENVELOPE-----
//! ```

use std::io::{self, BufRead, Read, Write};

use base64ct::{Base64, Encoding};

const BEGIN: &str = "-----BEGIN SEALWIRE ENVELOPE-----";
const END: &str = "-----END SEALWIRE ENVELOPE-----";
/// Bytes and characters of a line that is full.
const LINE: usize = 48;
const WIDTH: usize = 64;
/// Blank characters that may stand before and behind.
const BLANKS: usize = 1024;

/// What is wrong with a text that is to be an armored envelope. It comes inside an [`io::Error`] of kind `InvalidData`, or
/// `UnexpectedEof` where the text was cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("armor: line {line} {why}")]
pub struct ArmorError {
    /// Counted from 1.
    pub line: u64,
    /// In words.
    pub why: &'static str,
}

const CUT: &str = "is missing: the text was cut";

impl From<ArmorError> for io::Error {
    fn from(error: ArmorError) -> Self {
        let kind = if error.why == CUT { io::ErrorKind::UnexpectedEof } else { io::ErrorKind::InvalidData };
        Self::new(kind, error)
    }
}

/// Whether bytes that begin like this are an armored envelope, and no envelope as it is.
///
/// ```
/// assert!(sealwire::armor::is_armored(b"-----BEGIN SEALWIRE ENVELOPE-----\n"));
/// assert!(!sealwire::armor::is_armored(b"SWE\x01"));
/// ```
#[must_use]
pub fn is_armored(first: &[u8]) -> bool {
    first.first().is_some_and(|byte| *byte == b'-' || byte.is_ascii_whitespace())
}

/// Writes what is written to it as text. [`finish`](Self::finish) writes the last lines.
///
/// ```
/// use std::io::{Read, Write};
/// use sealwire::armor::{ArmorReader, ArmorWriter};
/// let mut writer = ArmorWriter::new(Vec::new())?;
/// writer.write_all(b"an envelope")?;
/// let text = writer.finish()?;
/// assert_eq!(text, b"-----BEGIN SEALWIRE ENVELOPE-----\nYW4gZW52ZWxvcGU=\n-----END SEALWIRE ENVELOPE-----\n");
/// let mut back = Vec::new();
/// ArmorReader::new(&text[..]).read_to_end(&mut back)?;
/// assert_eq!(back, b"an envelope");
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct ArmorWriter<W> {
    out: W,
    /// Bytes of a line that is not full.
    line: Vec<u8>,
}

impl<W: Write> ArmorWriter<W> {
    /// Begins the text.
    ///
    /// # Errors
    /// The output's own.
    pub fn new(mut out: W) -> io::Result<Self> {
        writeln!(out, "{BEGIN}")?;
        Ok(Self { out, line: Vec::with_capacity(LINE) })
    }

    /// Ends the text, and gives the output back.
    ///
    /// # Errors
    /// The output's own.
    pub fn finish(mut self) -> io::Result<W> {
        let rest = std::mem::take(&mut self.line);
        put_lines(&mut self.out, &rest)?;
        writeln!(self.out, "{END}")?;
        self.out.flush()?;
        Ok(self.out)
    }
}

fn put_lines(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    let mut text = Vec::with_capacity(bytes.len().div_ceil(LINE) * (WIDTH + 1));
    for line in bytes.chunks(LINE) {
        let mut buffer = [0; WIDTH];
        text.extend_from_slice(Base64::encode(line, &mut buffer).map_err(io::Error::other)?.as_bytes());
        text.push(b'\n');
    }
    out.write_all(&text)
}

impl<W: Write> Write for ArmorWriter<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        /// Lines that are encoded at once.
        const MOST: usize = 1024 * LINE;
        let n = data.len().min(MOST - self.line.len());
        self.line.extend_from_slice(&data[..n]);
        let whole = self.line.len() / LINE * LINE;
        // What fails leaves half a line behind, and the caller no text that could be finished.
        let written = put_lines(&mut self.out, &self.line[..whole]);
        self.line.drain(..whole);
        written.map(|()| n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Reads the bytes out of a text. It is strict, but for line ends (LF or CRLF) and up to 1,024 blank characters before and behind: there
/// is one text for each envelope. After an error nothing more is given.
pub struct ArmorReader<R> {
    input: R,
    /// Bytes of the last line, and how many of them have been given.
    bytes: Vec<u8>,
    at: usize,
    line: u64,
    state: State,
}

#[derive(PartialEq, Eq, Clone, Copy)]
enum State {
    Before,
    /// The first line has come, and nothing after it.
    Begun,
    Inside,
    /// A line that was not full has come: only the end may follow.
    Short,
    Over,
    Failed,
}

impl<R: BufRead> ArmorReader<R> {
    /// Begins; nothing is read yet.
    pub fn new(input: R) -> Self {
        Self { input, bytes: Vec::with_capacity(LINE), at: 0, line: 1, state: State::Before }
    }

    fn wrong<T>(&self, why: &'static str) -> io::Result<T> {
        Err(ArmorError { line: self.line, why }.into())
    }

    /// The next line without its end; of a long one, as much as tells that it is none.
    fn next_line(&mut self) -> io::Result<Line> {
        let mut bytes = Vec::with_capacity(WIDTH + 2);
        self.input.by_ref().take(WIDTH as u64 + 2).read_until(b'\n', &mut bytes)?;
        let ended = bytes.pop_if(|last| *last == b'\n').is_some();
        let last = !ended && self.peek()?.is_none();
        // Of a line end that was cut.
        if ended || last {
            bytes.pop_if(|last| *last == b'\r');
        }
        Ok(Line { bytes, last })
    }

    /// The next byte, which stays where it is.
    fn peek(&mut self) -> io::Result<Option<u8>> {
        loop {
            match self.input.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                buffer => return buffer.map(|buffer| buffer.first().copied()),
            }
        }
    }

    /// Skips blank characters, up to the limit less those that have been. [ARM-2]
    fn skip_blanks(&mut self, mut skipped: usize) -> io::Result<()> {
        while let Some(byte) = self.peek()?.filter(u8::is_ascii_whitespace) {
            skipped += 1;
            if skipped > BLANKS {
                return self.wrong("comes after more than 1,024 blank characters");
            }
            self.line += u64::from(byte == b'\n');
            self.input.consume(1);
        }
        Ok(())
    }

    /// Makes the bytes of the next line ready; none at the end of the text. [ARM-1]
    fn load(&mut self) -> io::Result<()> {
        if self.state == State::Before {
            self.skip_blanks(0)?;
            let line = self.next_line()?;
            if line.bytes != BEGIN.as_bytes() {
                let cut = line.is_cut(BEGIN);
                return self.wrong(if cut { CUT } else { "is not -----BEGIN SEALWIRE ENVELOPE-----" });
            }
            self.line += 1;
            self.state = State::Begun;
        }
        if self.is_at_end()? {
            return self.end();
        }
        let line = self.next_line()?;
        if line.is_cut(END) {
            return self.wrong(CUT);
        }
        if self.state == State::Short {
            return self.wrong("follows one that was shorter than the others");
        }
        if !(1..=WIDTH).contains(&line.bytes.len()) {
            return self.wrong("is not of 64 characters at the most");
        }
        let mut buffer = [0; LINE];
        let Ok(bytes) = Base64::decode(&line.bytes, &mut buffer) else {
            return self.wrong(if line.last { CUT } else { "is not base64" });
        };
        self.state = if bytes.len() < LINE { State::Short } else { State::Inside };
        self.bytes.clear();
        self.bytes.extend_from_slice(bytes);
        self.at = 0;
        self.line += 1;
        Ok(())
    }

    /// Whether the last line comes next; if so, it is gone.
    fn is_at_end(&mut self) -> io::Result<bool> {
        // A dash stands in no other line. Behind it may be blank characters, without an end of the line.
        if self.peek()? != Some(b'-') {
            return Ok(false);
        }
        let mut line = [0; END.len()];
        let mut have = 0;
        while let Some(byte) = self.peek()?.filter(|byte| *byte != b'\n' && have < END.len()) {
            line[have] = byte;
            have += 1;
            self.input.consume(1);
        }
        if line == *END.as_bytes() {
            return Ok(true);
        }
        let cut = END.as_bytes().starts_with(&line[..have]) && self.peek()?.is_none();
        self.wrong(if cut { CUT } else { "is not -----END SEALWIRE ENVELOPE-----" })
    }

    fn end(&mut self) -> io::Result<()> {
        if self.state == State::Begun {
            return self.wrong("is the end of an empty text");
        }
        // The end of the last line is none of what may follow it.
        let carriage_return = self.peek()? == Some(b'\r');
        self.input.consume(usize::from(carriage_return));
        let ended = self.peek()? == Some(b'\n');
        self.input.consume(usize::from(ended));
        self.line += u64::from(ended);
        self.skip_blanks(usize::from(carriage_return && !ended))?;
        if self.peek()?.is_some() {
            return self.wrong("stands behind the end");
        }
        self.bytes.clear();
        (self.at, self.state) = (0, State::Over);
        Ok(())
    }
}

/// A line of a text, without its end.
struct Line {
    bytes: Vec<u8>,
    /// Whether the input ends with it, and it does not.
    last: bool,
}

impl Line {
    /// Whether it is the beginning of one that was to be there, and the last thing that is.
    fn is_cut(&self, whole: &str) -> bool {
        self.last && whole.as_bytes().starts_with(&self.bytes)
    }
}

impl<R: BufRead> Read for ArmorReader<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.state == State::Failed {
            return Err(io::Error::other("it failed before and gives nothing more"));
        }
        while self.at == self.bytes.len() && self.state != State::Over && !out.is_empty() {
            self.load().inspect_err(|_| self.state = State::Failed)?;
        }
        let bytes = self.bytes.get(self.at..).unwrap_or_default();
        let n = bytes.len().min(out.len());
        out[..n].copy_from_slice(&bytes[..n]);
        self.at += n;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn armor(bytes: &[u8], piece: usize) -> String {
        let mut writer = ArmorWriter::new(Vec::new()).unwrap();
        bytes.chunks(piece).for_each(|piece| writer.write_all(piece).unwrap());
        String::from_utf8(writer.finish().unwrap()).unwrap()
    }

    fn read(text: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        let mut reader = ArmorReader::new(io::BufReader::with_capacity(7, text));
        let read = reader.read_to_end(&mut out);
        if read.is_err() {
            assert!(reader.read(&mut [0; 4]).is_err(), "it stays failed");
        }
        read.map(|_| out)
    }

    /// The text is what another library makes of it, in whatever pieces it was written; and the bytes come back.
    #[test]
    fn the_text_is_pem() {
        for len in [1, 2, 3, 47, 48, 49, 95, 96, 97, 5000, 60_000] {
            let bytes: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
            let pem = pkcs8::der::pem::encode_string("SEALWIRE ENVELOPE", pkcs8::LineEnding::LF, &bytes).unwrap();
            for piece in [1, 48, 100, len] {
                assert_eq!(armor(&bytes, piece), pem);
            }
            assert_eq!(read(pem.as_bytes()).unwrap(), bytes);
            let crlf = format!(" \n\t{}\n\n ", pem.replace('\n', "\r\n"));
            assert_eq!(read(crlf.as_bytes()).unwrap(), bytes);
            assert_eq!(read(pem.trim_end().as_bytes()).unwrap(), bytes);
        }
    }

    /// Gives a line at a time, and is interrupted before each of them and before the end.
    struct Interrupted<'a> {
        lines: Vec<&'a [u8]>,
        next: bool,
    }

    impl Read for Interrupted<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            self.next = !self.next;
            if self.next {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let line = self.lines.pop().unwrap_or_default();
            out[..line.len()].copy_from_slice(line);
            Ok(line.len())
        }
    }

    /// An interruption changes nothing: no line is lost by it.
    #[test]
    fn interruptions_are_waited_out() {
        let good = armor(&[7; 100], 100);
        let wrong = good.replacen("\nBwc", "\n!wc", 1);
        let empty = good.replacen("\n", "\n\n", 2);
        for text in [good.clone(), wrong, empty, good[..good.len() - 20].to_owned()] {
            let lines = text.as_bytes().split_inclusive(|byte| *byte == b'\n').rev().collect();
            let mut out = Vec::new();
            let read_all = ArmorReader::new(io::BufReader::new(Interrupted { lines, next: false })).read_to_end(&mut out);
            let without = read(text.as_bytes());
            assert_eq!((read_all.is_ok(), out.len()), (without.is_ok(), if without.is_ok() { 100 } else { out.len() }), "{text}");
        }
    }

    /// Proves ARM-1, ARM-2.
    #[test]
    fn nothing_else_is_read() {
        let good = armor(&[7; 100], 100);
        let lines: Vec<&str> = good.lines().collect();
        let with = |i: usize, line: &str| {
            let mut lines = lines.clone();
            lines[i] = line;
            lines.join("\n") + "\n"
        };
        for (text, line) in [
            (good.replace("BEGIN SEALWIRE", "BEGIN sealwire"), 1),
            (good.replace("-----END SEALWIRE ENVELOPE", "-----END SEALWIRE"), 5),
            (format!("x{good}"), 1),
            (format!("To: a\n\n{good}"), 1),
            (format!("{good}x"), 6),
            (format!("{good}{good}"), 6),
            (with(1, ""), 2),
            (with(2, "BwcH"), 4),
            (with(1, &format!("{}AAAA", lines[1])), 2),
            (with(1, &format!("{} ", &lines[1][..63])), 2),
            (with(1, &lines[1].replace('B', "-")), 2),
            // What is left of the last character is not zero; padding that is missing, or too much; none at all.
            (with(3, "BwcHBx=="), 4),
            (with(3, "BwcHBw"), 4),
            (with(3, "BwcHBw==="), 4),
            (with(3, "===="), 4),
            (format!("{}{good}", " ".repeat(1025)), 1),
            (format!("{good}{}", "\n".repeat(1025)), 6 + 1024),
        ] {
            let error = read(text.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{text}");
            let error = error.downcast::<ArmorError>().unwrap();
            assert_eq!(error.line, line, "{error}: {text}");
        }
        // Cut anywhere, it is noticed, and mostly as a cut.
        for cut in 34..good.len() - 1 {
            assert!(read(&good.as_bytes()[..cut]).is_err(), "{cut}");
        }
        for cut in [0, 10, 34, 34 + 65, 34 + 65 + 10, 34 + 2 * 65, good.len() - 30, good.len() - 5] {
            assert_eq!(read(&good.as_bytes()[..cut]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof, "{cut}");
        }
        assert!(read(b"").is_err());
    }
}
