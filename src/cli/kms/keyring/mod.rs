//! Root keys in the system's keyring: the text of a key file, under a name.
//!
//! ```text
//! system.rs   what keeps the passwords of a user's other programs
//! kernel.rs   the Linux kernel's keyring of a user
//! none.rs     where there is none of them
//! ```

#[cfg(all(feature = "keyring", target_os = "linux"))]
mod kernel;
#[cfg(not(all(feature = "keyring", target_os = "linux")))]
mod none;
#[cfg(feature = "keyring")]
mod system;

use std::{fmt, str::FromStr};

use zeroize::Zeroizing;

#[cfg(not(all(feature = "keyring", target_os = "linux")))]
use none as kernel;
#[cfg(not(feature = "keyring"))]
use none as system;

use crate::{
    cli::{Failure, fail::Code},
    keys::KEY_FILE_MAX,
};

/// Characters of the longest name.
const NAME_MAX: usize = 64;
/// What is before the names in the kernel's keyring.
const KERNEL: &str = "kernel:";
/// What a keyring calls us.
#[cfg(feature = "keyring")]
const SERVICE: &str = "sealwire";

/// What a keyring has, or is to have, under a name.
#[derive(Debug, Clone)]
pub(crate) struct RootKeyring {
    place: Place,
    name: String,
}

#[derive(Debug, Clone, Copy)]
enum Place {
    System,
    Kernel,
}

impl FromStr for RootKeyring {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if cfg!(not(feature = "keyring")) {
            return Err("this build knows no keyring: build it with the feature `keyring`, or use --root-key-file".into());
        }
        let (place, name) = text.strip_prefix(KERNEL).map_or((Place::System, text), |name| (Place::Kernel, name));
        let fits = |c: u8| c.is_ascii_alphanumeric() || b"._/-".contains(&c);
        if name.is_empty() || name.len() > NAME_MAX || !name.bytes().all(fits) {
            return Err(format!(
                "a name is 1 to {NAME_MAX} letters, digits, '.', '_', '/' and '-', with {KERNEL} before it or not"
            ));
        }
        Ok(Self { place, name: name.into() })
    }
}

/// As messages call it.
impl fmt::Display for RootKeyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Place::System => write!(f, "{} in the keyring", self.name),
            Place::Kernel => write!(f, "{} in the kernel's keyring", self.name),
        }
    }
}

impl RootKeyring {
    /// The text that is kept there.
    pub(super) fn read(&self) -> Result<Zeroizing<String>, Failure> {
        let lost = match self.place {
            Place::System => "this user has none of that name there",
            Place::Kernel => "this user has none of that name there since the machine was started; put the copy there again",
        };
        let bytes = self.get()?.ok_or_else(|| Failure::usage(lost).about(self))?;
        let text = std::str::from_utf8(&bytes).ok().filter(|text| text.len() <= KEY_FILE_MAX);
        let text = text.ok_or_else(|| Failure::usage("it is not the text of a key file").about(self))?;
        Ok(Zeroizing::new(text.to_owned()))
    }

    /// Keeps a text there, where nothing is: of two commands that find one name free, the one whose text is not there is told.
    pub(super) fn keep(&self, text: &str) -> Result<(), Failure> {
        if self.get()?.is_some() {
            return Err(
                Failure::usage("it is there already, and a root key is never written over; take another name").about(self)
            );
        }
        let set = match self.place {
            Place::System => system::set(&self.name, text.as_bytes()),
            Place::Kernel => kernel::set(&self.name, text.as_bytes()),
        };
        match (set, self.get()?) {
            (Ok(()), Some(kept)) if *kept == text.as_bytes() => Ok(()),
            (Err(why), Some(kept)) if *kept == text.as_bytes() => {
                self.remove()?;
                Err(self.failed(why))
            }
            (Err(why), None) => Err(self.failed(why)),
            (_, Some(_)) => Err(self.failed("another root key was put there at the same moment; take another name".into())),
            (Ok(()), None) => Err(self.failed("it did not stay there".into())),
        }
    }

    /// Whether a text is what is kept.
    pub(super) fn holds(&self, text: &str) -> Result<bool, Failure> {
        Ok(self.get()?.is_some_and(|kept| *kept == text.as_bytes()))
    }

    /// Takes out what was put there, where nothing has come to be under it.
    pub(super) fn remove(&self) -> Result<(), Failure> {
        let removed = match self.place {
            Place::System => system::remove(&self.name),
            Place::Kernel => kernel::remove(&self.name),
        };
        removed.map_err(|why| self.failed(why))
    }

    /// What is to be known of a root key that is kept nowhere else yet.
    pub(super) fn advice(&self) -> String {
        let kept = match self.place {
            Place::System => "is kept there alone",
            Place::Kernel => "is there until the machine is started again, and then gone with all that is in the store",
        };
        format!("{self}: the root key {kept}: keep a copy elsewhere (docs/kms.md)")
    }

    fn get(&self) -> Result<Option<Zeroizing<Vec<u8>>>, Failure> {
        let got = match self.place {
            Place::System => system::get(&self.name),
            Place::Kernel => kernel::get(&self.name),
        };
        got.map_err(|why| self.failed(why))
    }

    fn failed(&self, why: String) -> Failure {
        Failure::new(Code::Io, why).about(self)
    }
}

#[cfg(all(test, feature = "keyring"))]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (text, shown) in [("orders", "orders in the keyring"), ("kernel:a/b_c-1.2", "a/b_c-1.2 in the kernel's keyring")] {
            assert_eq!(text.parse::<RootKeyring>().unwrap().to_string(), shown);
        }
        for bad in ["", "kernel:", "Kernel:a", "a b", "a:b", "kernel:kernel:a", "ä", "a\nb", &"a".repeat(65)] {
            assert!(bad.parse::<RootKeyring>().is_err(), "{bad}");
        }
    }
}
