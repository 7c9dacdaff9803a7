use std::fmt;

use cryptoki::{object::ObjectHandle, session::Session};

use super::{
    KeyName, Token, TokenError,
    objects::{self, Form, Found},
    sessions::Seat,
    the_one,
};
use crate::{
    crypto::{Secret32, backend},
    keys::{DecapsulateError, Decapsulator, Dek, Keyring, Recipient, SharedSecret},
    open::{OpenError, search},
    wire::{DekBlock, Limits},
};

/// A CMK in a token: a [`Decapsulator`] for keyrings. Nothing of its secret half is in this process.
///
/// What passes through the process is one Diffie-Hellman result for each DEK, which opens that DEK alone.
#[derive(Clone)]
pub struct TokenKey {
    token: Token,
    recipient: Recipient,
    label: String,
    id: Vec<u8>,
    never_left: bool,
    mine_alone: bool,
}

impl TokenKey {
    pub(super) fn new(token: Token, found: Found) -> Self {
        let Found { recipient, label, id, never_left, .. } = found;
        Self { token, recipient, label, id, never_left, mine_alone: false }
    }

    /// The public half, which senders seal to.
    #[must_use]
    pub fn recipient(&self) -> &Recipient {
        &self.recipient
    }

    /// Its label in the token.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Its id in the token.
    #[must_use]
    pub fn id(&self) -> &[u8] {
        &self.id
    }

    /// Whether the token says that the key was made in it, and was sensitive and not extractable at all times. A key that was
    /// imported, or
    /// put back from a backup, is without that.
    #[must_use]
    pub fn never_left(&self) -> bool {
        self.never_left
    }

    /// States that nobody else can use this key: nobody else has the PIN, and no other service asks the token
    /// ([`Decapsulator::is_mine_alone`]).
    #[must_use]
    pub fn mine_alone(mut self) -> Self {
        self.mine_alone = true;
        self
    }

    /// The DEK of a block that has a slot for this key: for who waits for DEKs, as in [`Begun::NeedsDek`](crate::Begun) and
    /// [`ChannelOpener::waiting_for_deks`](crate::ChannelOpener::waiting_for_deks).
    ///
    /// # Errors
    /// [`OpenError`]; [`OpenError::KeyUnavailable`] when the token could not be asked.
    pub fn unwrap_dek(&self, block: &[u8], limits: &Limits) -> Result<Dek, OpenError> {
        let parsed = DekBlock::parse_alone(block, limits)?;
        let keyring = Keyring::new();
        keyring.add_decapsulator(std::sync::Arc::new(self.clone()));
        search::find(block, &parsed, &keyring, limits.trials, &mut 0).map(|(dek, _)| dek)
    }

    /// The same on one of tokio's threads for what blocks, so that connections go on meanwhile. It runs to its end even when this
    /// is dropped, and takes one of those threads for as long as it waits for a session: bound how many you begin.
    ///
    /// ```no_run
    /// # async fn f(key: sealwire::kms::pkcs11::TokenKey, opener: sealwire::Opener, socket: tokio::net::TcpStream)
    /// # -> Result<(), Box<dyn std::error::Error>> {
    /// use futures_util::StreamExt;
    /// use sealwire::{ChannelOpener, Role, codec::CodecError, connection::OpenedStream};
    /// // The keyring of `opener` is empty: the key is asked here, and not where the stream is polled.
    /// let channel = ChannelOpener::new(opener.clone(), Role::Initiator, b"").waiting_for_deks();
    /// let mut messages = OpenedStream::new(channel, socket);
    /// while let Some(message) = messages.next().await {
    ///     match message {
    ///         Ok(opened) => println!("{} bytes", opened.payload.len()),
    ///         Err(CodecError::NeedsDek) => {
    ///             let block = messages.needs_dek().unwrap_or_default().to_vec();
    ///             let dek = key.unwrap_dek_async(block, opener.policy().limits.clone()).await?;
    ///             messages.supply(&dek)?;
    ///         }
    ///         Err(error) => return Err(error.into()),
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`unwrap_dek`](Self::unwrap_dek).
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[cfg(feature = "codec")]
    pub async fn unwrap_dek_async(&self, block: Vec<u8>, limits: Limits) -> Result<Dek, OpenError> {
        let key = self.clone();
        let asked = tokio::task::spawn_blocking(move || key.unwrap_dek(&block, &limits)).await;
        asked.unwrap_or_else(|_| Err(OpenError::KeyUnavailable(std::sync::Arc::new(unavailable(TokenError::Task)))))
    }

    /// X25519 with a point that contributes.
    fn agree(&self, point: &[u8; 32]) -> Result<Secret32, TokenError> {
        self.token.0.ask(|seat| {
            let (handle, form) = self.handle(seat)?;
            objects::agree(&seat.session, handle, form, point)
        })
    }

    /// The key as this session knows it; found once a session, and held against the public half.
    fn handle(&self, seat: &mut Seat) -> Result<(ObjectHandle, Form), TokenError> {
        let name = self.recipient.fingerprint();
        if let Some(known) = seat.keys.get(&name) {
            return Ok(*known);
        }
        let found = self.look_up(&seat.session)?;
        if found.recipient != self.recipient {
            return Err(TokenError::OtherKey);
        }
        seat.keys.insert(name, (found.handle, found.form));
        Ok((found.handle, found.form))
    }

    /// By all of its name; keys that other programs made may lack a part of it.
    fn look_up(&self, session: &Session) -> Result<Found, TokenError> {
        let label = (!self.label.is_empty()).then_some(KeyName::Label(&self.label));
        let id = (!self.id.is_empty()).then_some(KeyName::Id(&self.id));
        let named = label.iter().chain(&id).map(KeyName::attribute).collect::<Result<Vec<_>, _>>()?;
        the_one(session, &named)
    }
}

impl Decapsulator for TokenKey {
    fn recipient(&self) -> &Recipient {
        &self.recipient
    }

    fn decapsulate(&self, enc: &[u8]) -> Result<SharedSecret, DecapsulateError> {
        let enc: &[u8; 32] = enc.try_into().map_err(|_| DecapsulateError::Refused)?;
        let public = self.recipient.as_x25519().ok_or(DecapsulateError::Refused)?;
        // [WRAP-1] Before the token is asked: a peer must not be able to make its sessions fail.
        if !contributes(enc) {
            return Err(DecapsulateError::Refused);
        }
        let dh = self.agree(&canonical(enc)).map_err(unavailable)?;
        SharedSecret::from_x25519(dh.bytes(), enc, public).map_err(|_| DecapsulateError::Refused)
    }

    fn is_mine_alone(&self) -> bool {
        self.mine_alone
    }
}

/// Shows the public half and the key's label.
impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenKey").field("recipient", &self.recipient).field("label", &self.label).finish_non_exhaustive()
    }
}

fn unavailable(error: TokenError) -> DecapsulateError {
    DecapsulateError::Unavailable(Box::new(error))
}

/// Whether X25519 with this point is other than zero: so it is for every secret, or for none.
fn contributes(point: &[u8; 32]) -> bool {
    backend::DhKey::new(&Secret32::copied(&[0x40; 32])).agree(point).is_ok()
}

/// The same point in its one canonical form. RFC 7748 takes them all and tokens need not; the KDF sees the bytes that were
/// received. [WRAP-4]
fn canonical(point: &[u8; 32]) -> [u8; 32] {
    let mut out = *point;
    out[31] &= 0x7f;
    // From 2^255 - 19 on, which is 0.
    if out[0] >= 0xed && out[31] == 0x7f && out[1..31].iter().all(|byte| *byte == 0xff) {
        let over = out[0] - 0xed;
        out = [0; 32];
        out[0] = over;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn le(first: u8, middle: u8, last: u8) -> [u8; 32] {
        let mut point = [middle; 32];
        (point[0], point[31]) = (first, last);
        point
    }

    /// Proves WRAP-4 for keys in tokens: what they are asked is the same point, in the form that they all take.
    #[test]
    fn points_are_canonical_and_the_same() {
        let key = backend::DhKey::new(&Secret32::copied(&[7; 32]));
        let same = [
            (le(9, 0, 0x80), le(9, 0, 0)),
            (le(0xf6, 0xff, 0x7f), le(9, 0, 0)),
            (le(0xff, 0xff, 0xff), le(18, 0, 0)),
            (le(0xeb, 0xff, 0x7f), le(0xeb, 0xff, 0x7f)),
            (le(0xf6, 0xff, 0x7e), le(0xf6, 0xff, 0x7e)),
            ([0x33; 32], [0x33; 32]),
        ];
        for (received, sent) in same {
            assert_eq!(canonical(&received), sent);
            assert_eq!(key.agree(&received).unwrap().bytes(), key.agree(&sent).unwrap().bytes());
        }
    }

    /// Proves WRAP-1 for keys in tokens: the token is not asked.
    #[test]
    fn points_of_small_order_are_told() {
        for small in [[0; 32], le(1, 0, 0), le(0xec, 0xff, 0x7f), le(0xed, 0xff, 0x7f), le(0xee, 0xff, 0xff), le(0, 0, 0x80)] {
            assert!(!contributes(&small));
        }
        assert!(contributes(&le(9, 0, 0)) && contributes(&[0xff; 32]));
    }
}
