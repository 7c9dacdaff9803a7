use std::{
    fmt,
    io::{self, Write},
    path::Path,
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use serde_json::json;

use crate::{
    armor::ArmorError,
    codec::CodecError,
    keys::KeyError,
    open::OpenError,
    platform::EntropyError,
    rewrap::RewrapError,
    seal::SealError,
    stream::StreamError,
    transfer::TransferError,
    wire::{ParseError, inspect::escape},
};

/// Exit codes, as `--help` lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Code {
    Usage = 2,
    NoMatchingKey = 3,
    CannotOpen = 4,
    Truncated = 5,
    Malformed = 6,
    Io = 7,
}

/// Why a command ended, in one sentence with what to do, and its exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: Code,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Code::Usage, message)
    }

    pub(crate) fn io(what: impl fmt::Display, error: &io::Error) -> Self {
        Self::new(code_of(error), format!("{what}: {error}"))
    }

    /// The same, about a file or connection.
    pub(crate) fn about(mut self, what: impl fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    pub(crate) fn report(&self) -> ExitCode {
        if AS_JSON.load(Relaxed) {
            note(&json!({ "event": "error", "message": self.message, "code": self.code as u8 }).to_string());
        } else {
            note(&format!("sealwire: {}", self.message));
        }
        ExitCode::from(self.code as u8)
    }
}

/// Says a line on standard error. Where that is closed or full there is nobody to tell.
pub(crate) fn note(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Whether whoever reads standard error is a machine.
static AS_JSON: AtomicBool = AtomicBool::new(false);

/// From now on what is remarked, and why the command ended, are JSON lines.
pub(crate) fn remark_as_json() {
    AS_JSON.store(true, Relaxed);
}

/// What a remark is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Remark {
    Note,
    Warning,
    Error,
}

/// Says something beside what was asked for, on standard error.
pub(crate) fn remark(remark: Remark, message: &str) {
    let word = match remark {
        Remark::Note => "note",
        Remark::Warning => "warning",
        Remark::Error => "error",
    };
    if AS_JSON.load(Relaxed) {
        note(&json!({ "event": word, "message": message }).to_string());
    } else {
        note(&format!("{word}: {message}"));
    }
}

/// Prints a line on standard output.
pub(crate) fn print_line(line: &str) -> Result<(), Failure> {
    let mut out = io::stdout();
    let printed = writeln!(out, "{line}").and_then(|()| out.flush());
    printed.map_err(|error| Failure::io("standard output", &error))
}

/// A path as it may be printed.
pub(crate) fn show(path: &Path) -> String {
    if path.as_os_str() == "-" {
        return "standard input".into();
    }
    escape(path.as_os_str().as_encoded_bytes())
}

/// What is wrong with a text comes as an error of reading it.
fn code_of(error: &io::Error) -> Code {
    match (error.get_ref().is_some_and(|inner| inner.is::<ArmorError>()), error.kind()) {
        (true, io::ErrorKind::UnexpectedEof) => Code::Truncated,
        (true, _) => Code::Malformed,
        (false, _) => Code::Io,
    }
}

impl From<ParseError> for Failure {
    fn from(error: ParseError) -> Self {
        let code = match error {
            ParseError::Truncated { .. } => Code::Truncated,
            _ => Code::Malformed,
        };
        Self::new(code, error.to_string())
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        let code = match &error {
            OpenError::Parse(parse) => return parse.clone().into(),
            OpenError::NoMatchingKey => Code::NoMatchingKey,
            OpenError::ChannelTruncated { .. } => Code::Truncated,
            OpenError::Content(_) => Code::Malformed,
            _ => Code::CannotOpen,
        };
        Self::new(code, error.to_string())
    }
}

impl From<SealError> for Failure {
    fn from(error: SealError) -> Self {
        let code = match error {
            SealError::NoRecipient
            | SealError::RecipientTwice(_)
            | SealError::MixedRecipients
            | SealError::KemOfSuite { .. }
            | SealError::SegmentSize(_) => Code::Usage,
            SealError::LimitExceeded(_) | SealError::UnsupportedSuite(_) => Code::Malformed,
            _ => Code::Io,
        };
        Self::new(code, error.to_string())
    }
}

impl From<RewrapError> for Failure {
    fn from(error: RewrapError) -> Self {
        match error {
            RewrapError::Open(error) => error.into(),
            RewrapError::Seal(error) => error.into(),
            RewrapError::WeakensProof => Self::usage(format!("{error} (--weaken-proof)")),
            error => Self::usage(error.to_string()),
        }
    }
}

impl From<StreamError> for Failure {
    fn from(error: StreamError) -> Self {
        match error {
            StreamError::Open(error) => error.into(),
            StreamError::Seal(error) => error.into(),
            StreamError::Io(error) => Self::new(code_of(&error), error.to_string()),
        }
    }
}

impl From<CodecError> for Failure {
    fn from(error: CodecError) -> Self {
        match error {
            CodecError::Open(error) => error.into(),
            CodecError::Seal(error) => error.into(),
            CodecError::Parse(error) => error.into(),
            CodecError::Io(error) => Self::io("connection", &error),
            CodecError::TimedOut(late) => Self::new(Code::Io, late.to_string()),
            CodecError::Failed | CodecError::NeedsDek => Self::new(Code::Io, error.to_string()),
        }
    }
}

impl From<TransferError> for Failure {
    fn from(error: TransferError) -> Self {
        Self::new(Code::Malformed, error.to_string())
    }
}

impl From<KeyError> for Failure {
    fn from(error: KeyError) -> Self {
        Self::usage(error.to_string())
    }
}

impl From<EntropyError> for Failure {
    fn from(error: EntropyError) -> Self {
        Self::new(Code::Io, error.to_string())
    }
}
