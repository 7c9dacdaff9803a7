//! For tests and makers of vectors: what a service keeps, and what the ends of a connection make of bytes (spec/kms.md 2 to 8).

use bytes::BytesMut;
use zeroize::Zeroizing;

use super::{
    ANSWER_MAX, Identity, KmsError, PROTOCOL_VERSION, PublicIdentity, REQUEST_MAX,
    direct::{Direct, seal},
    key::KeyId,
    keys::Keys,
    session::{GREETING_LEN, HELLO_MAX, Hello, Status, Welcome, opener, verified},
};
use crate::{
    channel::{ChannelOpener, Role, reply_binding},
    keys::{Cmk, Keyring, Recipient, VerifyingKey},
    open::Opened,
    platform::Entropy,
    wire::ParseError,
};

/// Reads a state, and writes it again.
///
/// # Errors
/// [`ParseError`].
pub fn state_again(bytes: &[u8]) -> Result<Zeroizing<Vec<u8>>, ParseError> {
    Ok(Keys::decode(bytes)?.encode_with(&[]))
}

/// Encrypts a secret directly under a version of a CMK.
///
/// # Errors
/// [`KmsError`].
pub fn encrypt_direct(key: KeyId, version: u32, to: &Recipient, secret: &[u8], context: &[u8]) -> Result<Vec<u8>, KmsError> {
    seal(key, version, to, secret, context, &mut Entropy::default())
}

/// Decrypts a secret with the CMK of its kind, where it is of that key and version; `None` where it does not open.
///
/// # Errors
/// [`ParseError`].
pub fn decrypt_direct(bytes: &[u8], name: (KeyId, u32), cmks: &[Cmk], context: &[u8]) -> Result<Option<Vec<u8>>, ParseError> {
    let direct = Direct::parse(bytes)?;
    let opened = cmks.iter().find_map(|cmk| direct.open(cmk, context).ok());
    Ok(opened.filter(|_| (direct.key, direct.version) == name).map(|secret| secret.to_vec()))
}

/// The messages that one end takes, and whether it refuses what follows.
pub type Taken = (Vec<Vec<u8>>, bool);

fn take(mut channel: ChannelOpener, bytes: &[u8], mut take: impl FnMut(usize, &Opened) -> bool) -> Taken {
    let (mut input, mut taken) = (BytesMut::from(bytes), Vec::new());
    loop {
        match channel.next(&mut input) {
            Ok(Some(opened)) if take(taken.len(), &opened) => taken.push(opened.payload.to_vec()),
            Ok(Some(_)) | Err(_) => return (taken, true),
            Ok(None) => return (taken, channel.end(&input).is_err()),
        }
    }
}

/// What a server takes that greeted so and knows these callers.
#[must_use]
pub fn served(identity: Identity, callers: &[VerifyingKey], greeting: &[u8; GREETING_LEN], bytes: &[u8]) -> Taken {
    let public = identity.public();
    let kem = public.recipient.kem();
    let opener = opener(Keyring::from(identity.cmk), kem, REQUEST_MAX);
    let channel = ChannelOpener::new(opener, Role::Acceptor, &public.binding(greeting)).first_at_most(HELLO_MAX);
    take(channel, bytes, |number, opened| match number {
        0 => verified(opened).is_some_and(|key| callers.contains(&key)) && Hello::decode(&opened.payload, kem).is_ok(),
        _ => (1..=REQUEST_MAX).contains(&opened.payload.len()),
    })
}

/// What a client takes that began with this header_mac and asked for so many answers, to `reply_to`.
#[must_use]
pub fn asked(
    server: &PublicIdentity,
    reply_to: Cmk,
    greeting: &[u8; GREETING_LEN],
    begun: &[u8; 32],
    asked: usize,
    bytes: &[u8],
) -> Taken {
    let opener = opener(Keyring::from(reply_to), server.recipient.kem(), ANSWER_MAX);
    let binding = reply_binding(begun, &server.binding(greeting));
    let channel = ChannelOpener::new(opener, Role::Initiator, &binding).first_at_most(HELLO_MAX);
    let mut is_ready = false;
    take(channel, bytes, |number, opened| match number {
        0 => {
            let welcome = Welcome::decode(&opened.payload).ok().filter(|_| verified(opened) == Some(server.sender));
            is_ready = welcome.is_some_and(|welcome| welcome.version == PROTOCOL_VERSION && welcome.status == Status::Ready);
            welcome.is_some()
        }
        _ => is_ready && number <= asked && opened.payload.len() <= ANSWER_MAX,
    })
}
