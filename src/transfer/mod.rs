//! What `send` and `listen` say to each other (spec/transfer.md): payloads of channel messages <-> structs. No I/O, no
//! keys.

use std::borrow::Cow;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::{
    keys::{KeyError, Recipient},
    wire::Kem,
};

/// Bytes of the greeting that a listener sends in the clear.
pub const GREETING_LEN: usize = 32;
/// The version of this protocol.
const VERSION: u8 = 2;
/// Bytes of a file's name.
pub const NAME_MAX: usize = 4096;

/// A payload that is no part of the protocol. Its sender is authentic, and wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// A field is missing or holds what it must not.
    #[error("the transfer message is malformed: {0}")]
    Malformed(&'static str),
    /// A kind or version that is not known.
    #[error("the transfer message's {0} is not known here")]
    Unsupported(&'static str),
    /// A recipient for replies that must not be used.
    #[error("the recipient for replies is refused: {0}")]
    Recipient(#[from] KeyError),
}

/// What the sending side says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// The first message: to whom answers are sealed.
    Hello {
        /// A recipient made for this connection.
        reply_to: Recipient,
    },
    /// A file.
    File {
        /// The name that the sender has for it. Never a path to write to: see [`safe_name`].
        name: String,
        /// Its bytes.
        content: Bytes,
    },
    /// A line of a text.
    Line {
        /// Whether a newline ended it.
        ended: bool,
        /// Its bytes, without the newline.
        content: Bytes,
    },
    /// A file whose content follows in pieces.
    Begin {
        /// As [`File`](Self::File)'s.
        name: String,
    },
    /// The next bytes of the file that was begun.
    Piece {
        /// Its bytes.
        content: Bytes,
    },
    /// The file that was begun has ended.
    End {
        /// Bytes of all its pieces.
        size: u64,
    },
}

const HELLO: u8 = 1;
const FILE: u8 = 2;
const LINE: u8 = 3;
const BEGIN: u8 = 4;
const PIECE: u8 = 5;
const END: u8 = 6;

impl Request {
    /// The payload.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        match self {
            Self::Hello { reply_to } => {
                out.put_slice(&[HELLO, VERSION]);
                out.put_u16(reply_to.kem().id());
                out.put_slice(reply_to.public_key());
            }
            Self::File { name, content } => {
                out.reserve(name.len() + content.len() + 11);
                out.put_u8(FILE);
                out.put_u16(u16::try_from(name.len()).unwrap_or(u16::MAX));
                out.put_slice(name.as_bytes());
                out.put_u64(content.len() as u64);
                out.put_slice(content);
            }
            Self::Line { ended, content } => {
                out.put_slice(&[LINE, u8::from(*ended)]);
                out.put_slice(content);
            }
            Self::Begin { name } => {
                out.put_u8(BEGIN);
                out.put_slice(name.as_bytes());
            }
            Self::Piece { content } => {
                out.reserve(content.len() + 1);
                out.put_u8(PIECE);
                out.put_slice(content);
            }
            Self::End { size } => {
                out.put_u8(END);
                out.put_u64(*size);
            }
        }
        out.freeze()
    }

    /// Reads a payload; the content is a slice of it.
    ///
    /// # Errors
    /// [`TransferError`].
    pub fn decode(mut payload: Bytes) -> Result<Self, TransferError> {
        let short = |_| TransferError::Malformed("it is too short");
        match payload.try_get_u8().map_err(short)? {
            HELLO => Self::decode_hello(payload),
            FILE => {
                let name_len = usize::from(payload.try_get_u16().map_err(short)?);
                // [XFR-4]
                if name_len > payload.len() {
                    return Err(TransferError::Malformed("the name is too long"));
                }
                let name = decode_name(&payload.split_to(name_len))?;
                // [XFR-5]
                if payload.try_get_u64().map_err(short)? != payload.len() as u64 {
                    return Err(TransferError::Malformed("the size is not that of the content"));
                }
                Ok(Self::File { name, content: payload })
            }
            LINE => match payload.try_get_u8().map_err(short)? {
                ended @ (0 | 1) => Ok(Self::Line { ended: ended == 1, content: payload }),
                _ => Err(TransferError::Malformed("a line that is neither ended nor not")),
            },
            BEGIN => Ok(Self::Begin { name: decode_name(&payload)? }),
            PIECE if payload.is_empty() => Err(TransferError::Malformed("an empty piece of a file")),
            PIECE => Ok(Self::Piece { content: payload }),
            END => match payload.as_ref().try_into() {
                Ok(size) => Ok(Self::End { size: u64::from_be_bytes(size) }),
                Err(_) => Err(TransferError::Malformed("the end of a file has another length")),
            },
            _ => Err(TransferError::Unsupported("kind")),
        }
    }

    fn decode_hello(payload: Bytes) -> Result<Self, TransferError> {
        let malformed = || TransferError::Malformed("the greeting's answer has another length");
        let (version, rest) = payload.split_first().ok_or_else(malformed)?;
        if *version != VERSION {
            return Err(TransferError::Unsupported("version"));
        }
        let (kem, key) = rest.split_first_chunk::<2>().ok_or_else(malformed)?;
        if u16::from_be_bytes(*kem) != Kem::X25519.id() {
            return Err(TransferError::Unsupported("KEM"));
        }
        let key = key.try_into().map_err(|_| malformed())?;
        Ok(Self::Hello { reply_to: Recipient::from_x25519(key)? })
    }
}

fn decode_name(name: &[u8]) -> Result<String, TransferError> {
    // [XFR-4]
    if name.len() > NAME_MAX {
        return Err(TransferError::Malformed("the name is too long"));
    }
    String::from_utf8(name.to_vec()).map_err(|_| TransferError::Malformed("the name is not UTF-8"))
}

/// What the listening side says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// So many files and lines are where they were meant to go.
    Done {
        /// Files and lines, in their order.
        count: u64,
    },
    /// The file or line after so many could not be taken.
    Refused {
        /// Files and lines that were taken before it.
        count: u64,
        /// Why, for a person.
        reason: String,
    },
}

const DONE: u8 = 1;
const REFUSED: u8 = 2;
const REASON_MAX: usize = 1024;

impl Answer {
    /// The payload.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        let (kind, count, reason) = match self {
            Self::Done { count } => (DONE, count, ""),
            Self::Refused { count, reason } => (REFUSED, count, at_most(reason, REASON_MAX)),
        };
        out.put_u8(kind);
        out.put_u64(*count);
        out.put_slice(reason.as_bytes());
        out.freeze()
    }

    /// Reads a payload.
    ///
    /// # Errors
    /// [`TransferError`].
    pub fn decode(mut payload: Bytes) -> Result<Self, TransferError> {
        let short = |_| TransferError::Malformed("it is too short");
        let kind = payload.try_get_u8().map_err(short)?;
        let count = payload.try_get_u64().map_err(short)?;
        match kind {
            DONE if payload.is_empty() => Ok(Self::Done { count }),
            REFUSED if payload.len() <= REASON_MAX => Ok(Self::Refused { count, reason: crate::wire::inspect::escape(&payload) }),
            DONE | REFUSED => Err(TransferError::Malformed("it is too long")),
            _ => Err(TransferError::Unsupported("kind")),
        }
    }
}

/// The longest beginning of a text that has at most `len` bytes.
#[must_use]
pub fn at_most(text: &str, len: usize) -> &str {
    (0..=len.min(text.len())).rev().find_map(|end| text.get(..end)).unwrap_or_default()
}

/// Makes a file name of what a peer calls a file: the last part of a path, without what could lead elsewhere or hide.
#[must_use]
pub fn safe_name(name: &str) -> Cow<'static, str> {
    // [XFR-6]
    let last = name.rsplit(['/', '\\']).find(|part| !part.is_empty()).unwrap_or_default();
    let odd =
        |c: char| c.is_control() || "<>:\"|?*".contains(c) || crate::wire::inspect::escape(c.to_string().as_bytes()).len() > 4;
    let plain: String = last.chars().map(|c| if odd(c) { '_' } else { c }).collect();
    let visible = plain.trim().trim_start_matches('.');
    match at_most(visible, 200) {
        "" => Cow::Borrowed("unnamed"),
        // A name that a program would take for an option.
        option if option.starts_with('-') => Cow::Owned(format!("_{}", &option[1..])),
        safe => Cow::Owned(safe.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_answers_round_trip() {
        let reply_to = crate::Cmk::from_x25519(&[3; 32]).recipient().clone();
        for request in [
            Request::Hello { reply_to },
            Request::File { name: "a.txt".into(), content: Bytes::from_static(b"content") },
            Request::File { name: String::new(), content: Bytes::new() },
            Request::Line { ended: true, content: Bytes::from_static(b"line") },
            Request::Line { ended: false, content: Bytes::new() },
            Request::Begin { name: "large.bin".into() },
            Request::Piece { content: Bytes::from_static(b"piece") },
            Request::End { size: 1 << 40 },
        ] {
            assert_eq!(Request::decode(request.encode()), Ok(request));
        }
        for answer in [Answer::Done { count: 7 }, Answer::Refused { count: 1 << 40, reason: "disk full".into() }] {
            assert_eq!(Answer::decode(answer.encode()), Ok(answer));
        }
    }

    /// Proves XFR-4, XFR-5.
    #[test]
    fn requests_are_strict() {
        for bad in [
            &b""[..],
            b"\x01",
            b"\x01\x02",
            b"\x01\x02\0\x20short",
            b"\x04\xff",
            b"\x05",
            b"\x06\0\0\0\0\0\0\0",
            b"\x06\0\0\0\0\0\0\0\0\0",
            b"\x02\0\x05ab",
            b"\x02\0\x01a\0\0\0\0\0\0\0\x02x",
            b"\x03",
            b"\x03\x02",
            b"\x09",
            b"\x02\0\x01\xff\0\0\0\0\0\0\0\0",
        ] {
            assert!(Request::decode(Bytes::copy_from_slice(bad)).is_err(), "{bad:?}");
        }
        let zero = [&[1, VERSION, 0, 0x20][..], &[0; 32]].concat();
        assert!(matches!(Request::decode(zero.into()), Err(TransferError::Recipient(_))));
        let long = [&[BEGIN][..], &[b'a'; NAME_MAX + 1]].concat();
        assert!(Request::decode(Bytes::copy_from_slice(&long[..=NAME_MAX])).is_ok() && Request::decode(long.into()).is_err());
        let older = [&[1, 1, 0, 0x20][..], &[9; 32]].concat();
        assert_eq!(Request::decode(older.into()), Err(TransferError::Unsupported("version")));
        assert!(Answer::decode(Bytes::from_static(b"\x01\0\0\0\0\0\0\0\x01x")).is_err());
    }

    /// Proves XFR-6.
    #[test]
    fn names_stay_in_their_folder() {
        for (name, safe) in [
            ("a.txt", "a.txt"),
            ("/etc/passwd", "passwd"),
            ("../../x", "x"),
            ("..", "unnamed"),
            (".", "unnamed"),
            ("", "unnamed"),
            ("a/", "a"),
            ("C:\\dir\\y", "y"),
            (".bashrc", "bashrc"),
            ("n\0u\nl\x1b[0m", "n_u_l_[0m"),
            ("two words.txt", "two words.txt"),
            ("grün", "grün"),
            ("a\u{202e}b", "a_b"),
            ("-rf", "_rf"),
            ("\u{3164}", "_"),
        ] {
            assert_eq!(safe_name(name), safe, "{name:?}");
        }
        assert_eq!(safe_name(&"ä".repeat(300)).len(), 200);
    }
}
