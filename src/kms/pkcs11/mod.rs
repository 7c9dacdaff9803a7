//! A CMK inside a token that speaks PKCS#11 (a smart card, an HSM, SoftHSM): made there, never extractable, and used there for
//! the one
//! Diffie-Hellman of a decapsulation. Senders need not know: they seal to its public half as to any other.
//!
//! ```text
//! mod.rs       modules, tokens, PINs: what an application begins with
//! sessions.rs  so many sessions at the most, kept while they work, logged in once
//! objects.rs   keys in a token <-> calls on one session
//! key.rs       TokenKey: enc -> shared secret, block -> DEK
//! error.rs     what can go wrong, and what to do then
//! ```
//!
//! ```no_run
//! use std::sync::Arc;
//! use sealwire::{Keyring, Opener, kms::pkcs11::{KeyName, Module, Pin, Token, TokenName}, seal};
//! let module = Module::load("libsofthsm2.so")?;
//! let token = Token::open(&module, TokenName::Label("orders".into()), Pin::new("123456")?)?;
//! let key = token.generate("cmk 2026", b"\x01")?;
//! let envelope = seal(b"an order", &[key.recipient().clone()])?;
//!
//! let keyring = Keyring::new();
//! keyring.add_decapsulator(Arc::new(token.find(KeyName::Label("cmk 2026"))?));
//! assert_eq!(&Opener::new(keyring).open(&envelope)?.payload[..], b"an order");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A module is code in this process, and trusted as such. A token that answers something else than X25519 opens nothing and harms
//! nothing;
//! an all-zero result is refused whatever it says. Calls block: asynchronous code asks through [`TokenKey::unwrap_dek_async`], or
//! opens on
//! a thread of its own.
//!
//! A login is the whole process's: while a session of it is logged in, tokens that are opened again are not asked whether their
//! PIN is
//! right. After a fork the child loads the module and opens the token itself; what it got from its parent answers
//! [`TokenError::Forked`].

mod error;
mod key;
mod objects;
mod sessions;

use std::{fmt, mem, path::Path, sync::Arc, time::Duration};

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    error::{Error, RvError},
    object::Attribute,
    session::Session,
    slot::TokenInfo,
    types::AuthPin,
};

pub use error::{PinError, Source, TokenError};
pub use key::TokenKey;
use objects::Found;
use sessions::{Seat, Sessions};

/// Sessions with one token at the most; fewer where the token says so. What comes beyond waits.
pub const SESSIONS_MAX: usize = 16;
/// How long a thread waits for a session.
pub const WAIT_MAX: Duration = Duration::from_secs(10);
/// Private keys of a token that are looked through.
pub const KEYS_MAX: usize = 1024;
/// Bytes of a key's label, and of its id.
pub const NAME_MAX: usize = 255;
/// Bytes of a PIN.
pub const PIN_MAX: usize = 255;

/// A token's library, loaded. It stays loaded until the process ends.
#[derive(Clone)]
pub struct Module(Pkcs11);

impl Module {
    /// Loads a PKCS#11 library and starts it, unless another part of the process has.
    ///
    /// # Errors
    /// [`TokenError::Module`].
    pub fn load(path: impl AsRef<Path>) -> Result<Self, TokenError> {
        let broken = |error: Error| TokenError::Module(error.into());
        let context = Pkcs11::new(path).map_err(broken)?;
        match context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
            Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
            Err(error) => return Err(broken(error)),
        }
        // It may have threads of its own, whose code must not go.
        mem::forget(context.clone());
        Ok(Self(context))
    }
}

impl fmt::Debug for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Module").finish_non_exhaustive()
    }
}

/// A token's name, in one of two ways.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenName {
    /// The label that it was given.
    Label(String),
    /// The serial number that its maker gave it.
    Serial(String),
}

impl TokenName {
    fn is_of(&self, info: &TokenInfo) -> bool {
        match self {
            Self::Label(label) => info.label() == label,
            Self::Serial(serial) => info.serial_number() == serial,
        }
    }
}

/// As in `labelled "orders"`.
impl fmt::Display for TokenName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Label(label) => write!(f, "labelled {label:?}"),
            Self::Serial(serial) => write!(f, "with serial number {serial:?}"),
        }
    }
}

/// A key's name, in one of two ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyName<'a> {
    /// Its label (CKA_LABEL).
    Label(&'a str),
    /// Its id (CKA_ID).
    Id(&'a [u8]),
}

impl KeyName<'_> {
    fn attribute(&self) -> Result<Attribute, TokenError> {
        let bytes = match self {
            Self::Label(label) => label.as_bytes(),
            Self::Id(id) => id,
        };
        check_name(bytes)?;
        Ok(match self {
            Self::Label(_) => Attribute::Label(bytes.into()),
            Self::Id(_) => Attribute::Id(bytes.into()),
        })
    }
}

fn check_name(bytes: &[u8]) -> Result<(), TokenError> {
    if (1..=NAME_MAX).contains(&bytes.len()) { Ok(()) } else { Err(TokenError::KeyName) }
}

/// The user's PIN of a token, of 1 to [`PIN_MAX`] bytes. Wiped when dropped; never printed.
pub struct Pin(AuthPin);

impl Pin {
    /// A PIN of these characters. Wipe your own copy.
    ///
    /// ```
    /// use sealwire::kms::pkcs11::{Pin, PinError};
    /// assert!(Pin::new("123456").is_ok());
    /// assert_eq!(Pin::new("").err(), Some(PinError::Length));
    /// ```
    ///
    /// # Errors
    /// [`PinError::Length`].
    pub fn new(pin: &str) -> Result<Self, PinError> {
        if !(1..=PIN_MAX).contains(&pin.len()) {
            return Err(PinError::Length);
        }
        Ok(Self(AuthPin::from(pin)))
    }
}

/// A token, logged in. Clones share its sessions, of which there are [`SESSIONS_MAX`] at the most.
///
/// A session that fails is closed, and what it was asked is asked once more on a new one, which logs in again where that is
/// needed: a
/// token that was taken out works again when it is back. A PIN is tried once; after a wrong one nothing logs in before
/// [`use_pin`](Self::use_pin).
#[derive(Clone)]
pub struct Token(Arc<Sessions>);

impl Token {
    /// Finds the token, and logs in.
    ///
    /// # Errors
    /// [`TokenError`]: no such token, a wrong PIN.
    pub fn open(module: &Module, name: TokenName, pin: Pin) -> Result<Self, TokenError> {
        Sessions::open(module.0.clone(), name, pin).map(|sessions| Self(Arc::new(sessions)))
    }

    /// The serial number, which says the same token next time.
    #[must_use]
    pub fn serial(&self) -> &str {
        self.0.serial()
    }

    /// Takes another PIN from now on, and logs in with it: after [`TokenError::Pin`]. While a session of the process is still
    /// logged in the
    /// token does not look at the PIN.
    ///
    /// # Errors
    /// [`TokenError`]; a PIN that is wrong is not tried again either.
    pub fn use_pin(&self, pin: Pin) -> Result<(), TokenError> {
        self.0.use_pin(pin)
    }

    /// Makes a key pair in the token that stays there: sensitive, never extractable, for agreeing on secrets.
    ///
    /// # Errors
    /// [`TokenError`]: the name is taken, the token makes no X25519 keys, or it made one that is not as asked for; that one is
    /// destroyed.
    pub fn generate(&self, label: &str, id: &[u8]) -> Result<TokenKey, TokenError> {
        let names = [KeyName::Label(label).attribute()?, KeyName::Id(id).attribute()?];
        let found = self.0.ask_to_write(|seat| {
            for name in &names {
                if !objects::private_keys(&seat.session, std::slice::from_ref(name))?.is_empty() {
                    return Err(TokenError::KeyExists);
                }
            }
            make(seat, label, id)
        })?;
        Ok(TokenKey::new(self.clone(), found))
    }

    /// The key of that name.
    ///
    /// # Errors
    /// [`TokenError`]: none or several of that name, or one that does not serve as a CMK.
    pub fn find(&self, name: KeyName<'_>) -> Result<TokenKey, TokenError> {
        let name = [name.attribute()?];
        let found = self.0.ask(|seat| the_one(&seat.session, &name))?;
        Ok(TokenKey::new(self.clone(), found))
    }

    /// All keys of the token that serve as CMKs.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn keys(&self) -> Result<Vec<TokenKey>, TokenError> {
        let found = self.0.ask(|seat| {
            let all = objects::private_keys(&seat.session, &[])?.into_iter().map(|key| objects::examine(&seat.session, key));
            all.filter(|found| !matches!(found, Err(TokenError::Unsuitable(_)))).collect::<Result<Vec<_>, _>>()
        })?;
        Ok(found.into_iter().map(|found| TokenKey::new(self.clone(), found)).collect())
    }
}

/// Shows which token it is.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("serial", &self.serial()).finish_non_exhaustive()
    }
}

/// The one key with these attributes.
fn the_one(session: &Session, named: &[Attribute]) -> Result<Found, TokenError> {
    match objects::private_keys(session, named)?[..] {
        [] => Err(TokenError::NoKey),
        [key] => objects::examine(session, key),
        _ => Err(TokenError::SeveralKeys),
    }
}

/// Makes a key, and looks whether it is what was asked for.
fn make(seat: &Seat, label: &str, id: &[u8]) -> Result<Found, TokenError> {
    let [public, private] = objects::generate(&seat.session, label, id)?;
    let made = objects::examine(&seat.session, private).and_then(|found| match found.never_left {
        true => Ok(found),
        false => Err(TokenError::Unsuitable("was made, and the token does not say that it has never been extractable")),
    });
    if made.is_err() {
        // What cannot be destroyed has a name that is taken from now on; the first error says more.
        let _ = [private, public].map(|object| seat.session.destroy_object(object));
    }
    made
}

/// The Rust of docs/tokens.md, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/tokens.md")]
struct Page;
