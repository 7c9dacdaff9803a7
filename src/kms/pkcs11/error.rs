use cryptoki::error::{Error, RvError};

/// Why a token did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The module could not be loaded, or did not start.
    #[error("the PKCS#11 module could not be loaded; is this the path of the token's library?")]
    Module(#[source] Source),
    /// No token of that name is there.
    #[error("no token {0} is there; plug it in, or look for its name in the list of its module")]
    NoToken(String),
    /// Several tokens have that label.
    #[error("there is more than one token {0}; name it by its serial number")]
    SeveralTokens(String),
    /// The PIN; it is not tried again by itself.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// The token was removed, or does not answer.
    #[error("the token was removed or does not answer; it is asked again with the next message")]
    Gone(#[source] Source),
    /// The token refused a call.
    #[error("the token did not {doing}")]
    Call {
        /// What it was to do.
        doing: &'static str,
        /// What it said.
        #[source]
        source: Source,
    },
    /// All sessions are in use, and none became free in time.
    #[error("all sessions with the token are in use, and none became free within {} s", super::WAIT_MAX.as_secs())]
    Busy,
    /// No key of that name is there.
    #[error("the token has no X25519 key of that name")]
    NoKey,
    /// Several keys have that name.
    #[error("the token has more than one X25519 key of that name; name it by its id")]
    SeveralKeys,
    /// A key of that label or id is there already.
    #[error("the token has a key of that label or id already; choose another")]
    KeyExists,
    /// More keys than are listed.
    #[error("the token has more than {} private keys; name the one that is needed", super::KEYS_MAX)]
    TooManyKeys,
    /// A label or an id that is empty or too long.
    #[error("a key's label and its id have 1 to {} bytes each", super::NAME_MAX)]
    KeyName,
    /// A key that does not serve as a CMK.
    #[error("the key {0}; make one with Token::generate")]
    Unsuitable(&'static str),
    /// The key that has the name now is another than the one that had it.
    #[error("the key under this name is another one now; find it anew if that was meant")]
    OtherKey,
    /// The public key beside a private key is not its own.
    #[error("the public key beside it in the token is another key's: seal nothing to that one, and find out who put it there")]
    OtherPublicKey,
    /// The token makes no X25519 keys.
    #[error("the token makes no X25519 keys")]
    NoX25519(#[source] Source),
    /// An answer that cannot be one.
    #[error("the token's answer cannot be right: {0}")]
    Answer(&'static str),
    /// The process was forked since the token was opened.
    #[error("the process was forked since the token was opened; a child loads the module and opens the token itself")]
    Forked,
    /// The task that asked the token ended early.
    #[error("the task that asked the token was ended")]
    Task,
}

/// What the module or the system said.
pub type Source = Box<dyn std::error::Error + Send + Sync>;

/// What is wrong with a PIN. Nothing is tried with it again until [`Token::use_pin`](super::Token::use_pin) is called: a token
/// counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PinError {
    /// Not the token's.
    #[error("the PIN is wrong, and it is not tried again; give the right one")]
    Wrong,
    /// Too many wrong ones.
    #[error("the PIN is locked after too many wrong ones; the token's security officer sets a new one")]
    Locked,
    /// It has to be changed first.
    #[error("the PIN has expired; set a new one with the token's own tools")]
    Expired,
    /// There is none.
    #[error("the token has no user PIN yet; set one with the token's own tools")]
    Unset,
    /// One more wrong one locks the token, and nobody is there to look.
    #[error("the token would be locked by one more wrong PIN, so it is not tried unasked; give the right one")]
    LastTry,
    /// Empty or too long.
    #[error("a PIN has 1 to {} bytes", super::PIN_MAX)]
    Length,
}

impl TokenError {
    /// What a call to the module came back with.
    pub(super) fn call(doing: &'static str) -> impl Fn(Error) -> Self {
        move |error| match error {
            Error::Pkcs11(rv, _) if is_gone(rv) => Self::Gone(error.into()),
            _ => Self::Call { doing, source: error.into() },
        }
    }

    /// What a login came back with.
    pub(super) fn login(error: Error) -> Self {
        match error {
            Error::Pkcs11(RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange, _) => PinError::Wrong.into(),
            Error::Pkcs11(RvError::PinLocked, _) => PinError::Locked.into(),
            Error::Pkcs11(RvError::PinExpired, _) => PinError::Expired.into(),
            Error::Pkcs11(RvError::UserPinNotInitialized, _) => PinError::Unset.into(),
            _ => Self::call("log in")(error),
        }
    }

    /// Whether a session that was kept may be to blame: it was closed or logged out, or its token was taken out.
    pub(super) fn may_be_the_sessions(&self) -> bool {
        matches!(self, Self::Gone(_) | Self::Call { .. } | Self::Answer(_) | Self::NoKey | Self::OtherKey)
    }
}

fn is_gone(rv: RvError) -> bool {
    use RvError::{DeviceError, DeviceRemoved, SlotIdInvalid, TokenNotPresent, TokenNotRecognized};
    matches!(rv, DeviceError | DeviceRemoved | SlotIdInvalid | TokenNotPresent | TokenNotRecognized)
}
