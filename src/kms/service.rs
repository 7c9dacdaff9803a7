//! What a key service does, in the verbs of the clouds.

use std::{future::Future, pin::Pin, sync::Arc};

use zeroize::Zeroizing;

use super::{
    KmsError,
    client::Client,
    key::{Alias, KeyId, KeyInfo, KeyRef, PublicKey},
    message::{Answer, Request},
    server::wiped,
};
use crate::{
    keys::{Dek, Recipient},
    wire::{HintMode, Kem, Suite},
};

/// An answer that is on its way.
pub type Reply<'a, T> = Pin<Box<dyn Future<Output = Result<T, KmsError>> + Send + 'a>>;

/// A DEK that a service has made: what seals, and what the service alone turns back.
pub struct DataKeyPair {
    /// The DEK; `None` where it was not asked for.
    pub plaintext: Option<Dek>,
    /// What the service turns back into the DEK; of our own services a DEK block by itself (spec 4.5).
    pub ciphertext: Vec<u8>,
    /// The CMK and the version that it is wrapped to.
    pub key: KeyUsed,
    /// What the DEK can be wrapped to again; `None` where the service's CMKs have no public half.
    pub recipient: Option<Recipient>,
}

/// A DEK that a service has unwrapped.
pub struct Unwrapped {
    /// The DEK.
    pub dek: Dek,
    /// The CMK and the version that opened it.
    pub key: KeyUsed,
    /// The public half of that version, where there is one.
    pub recipient: Option<Recipient>,
}

/// Which CMK has done something. Services of others have names of their own for theirs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyUsed {
    /// Its id, as the service writes it.
    pub id: String,
    /// Its version.
    pub version: u32,
}

impl KeyUsed {
    pub(crate) fn of(id: KeyId, version: u32) -> Self {
        Self { id: id.to_string(), version }
    }
}

/// A ciphertext DEK, in one of the three forms in which one travels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WrappedDek {
    /// A whole DEK block (spec 3): header_mac tells whether what comes out is its DEK.
    Block(Vec<u8>),
    /// One slot of a block (spec 3.3), and what of the block is needed to unwrap it. Nothing tells whether what comes out is the block's DEK
    /// but the block itself.
    Slot {
        /// The block's suite.
        suite: Suite,
        /// How the block's slots tell whose they are.
        hints: HintMode,
        /// The block's salt.
        salt: [u8; 16],
        /// The slot's hint.
        hint: [u8; 4],
        /// The encapsulated key, the block's own or the slot's.
        enc: Vec<u8>,
        /// The DEK, encrypted.
        wrapped_dek: [u8; 48],
    },
    /// An external (spec 3.4).
    External {
        /// Which KMS; [`PROVIDER`] for our own services.
        provider: String,
        /// Which of its keys.
        key_ref: String,
        /// What it made of the DEK; of our own services a DEK block.
        blob: Vec<u8>,
    },
}

/// What our own services are called in an external (spec 3.4).
pub const PROVIDER: &str = "sealwire";

/// A key service: CMKs that never leave it, and what is done with them.
///
/// Each verb has a default that says [`KmsError::Unsupported`], so that an adapter for a KMS of others implements what that one has:
/// `generate_data_key` and `decrypt_data_key` are enough to seal and open.
pub trait KeyService: Send + Sync {
    /// Makes a CMK.
    fn create_key(&self, kem: Kem, alias: Option<Alias>) -> Reply<'_, KeyInfo> {
        let _ = (kem, alias);
        unsupported("create-key")
    }

    /// The CMKs that the caller may see, in the order of their ids, from the first after `after`; an empty list is the end.
    fn list_keys(&self, after: Option<KeyId>) -> Reply<'_, Vec<KeyInfo>> {
        let _ = after;
        unsupported("list-keys")
    }

    /// What is told of a CMK.
    fn describe_key(&self, key: &KeyRef) -> Reply<'_, KeyInfo> {
        let _ = key;
        unsupported("describe-key")
    }

    /// Lets a disabled CMK be used again.
    fn enable_key(&self, key: &KeyRef) -> Reply<'_, KeyInfo> {
        let _ = key;
        unsupported("enable-key")
    }

    /// Lets a CMK be used for nothing.
    fn disable_key(&self, key: &KeyRef) -> Reply<'_, KeyInfo> {
        let _ = key;
        unsupported("disable-key")
    }

    /// Has a CMK destroyed in 7 to 30 days; until then it is used for nothing.
    fn schedule_key_deletion(&self, key: &KeyRef, days: u8) -> Reply<'_, KeyInfo> {
        let _ = (key, days);
        unsupported("schedule-key-deletion")
    }

    /// Keeps a CMK that was to be destroyed; it is disabled then.
    fn cancel_key_deletion(&self, key: &KeyRef) -> Reply<'_, KeyInfo> {
        let _ = key;
        unsupported("cancel-key-deletion")
    }

    /// Makes a new version of a CMK; what was encrypted under older ones is still decrypted.
    fn rotate_key(&self, key: &KeyRef) -> Reply<'_, KeyInfo> {
        let _ = key;
        unsupported("rotate-key")
    }

    /// Gives a CMK an alias, or takes the alias from another.
    fn set_alias(&self, alias: &Alias, key: &KeyRef) -> Reply<'_, KeyInfo> {
        let _ = (alias, key);
        unsupported("set-alias")
    }

    /// Takes an alias away.
    fn delete_alias(&self, alias: &Alias) -> Reply<'_, ()> {
        let _ = alias;
        unsupported("delete-alias")
    }

    /// The public half of a CMK's newest version: senders seal to it and ask nobody.
    fn get_public_key(&self, key: &KeyRef) -> Reply<'_, PublicKey> {
        let _ = key;
        unsupported("get-public-key")
    }

    /// Makes a DEK under a CMK. With `plaintext` the caller must be allowed to decrypt it, too.
    fn generate_data_key(&self, key: &KeyRef, plaintext: bool) -> Reply<'_, DataKeyPair> {
        let _ = (key, plaintext);
        unsupported("generate-data-key")
    }

    /// Unwraps a DEK, under whichever CMK it is.
    fn decrypt_data_key(&self, wrapped: WrappedDek) -> Reply<'_, Unwrapped> {
        let _ = wrapped;
        unsupported("decrypt-data-key")
    }

    /// Encrypts a secret of at most [`SECRET_MAX`](super::SECRET_MAX) bytes directly under a CMK; `context` is authenticated and not sent.
    fn encrypt<'a>(&'a self, key: &KeyRef, secret: &[u8], context: &[u8]) -> Reply<'a, Vec<u8>> {
        let _ = (key, secret, context);
        unsupported("encrypt")
    }

    /// Decrypts what [`encrypt`](Self::encrypt) gave.
    fn decrypt<'a>(&'a self, ciphertext: &[u8], context: &[u8]) -> Reply<'a, Zeroizing<Vec<u8>>> {
        let _ = (ciphertext, context);
        unsupported("decrypt")
    }

    /// Encrypts under another CMK, without showing what: what [`encrypt`](Self::encrypt) gave, with its context, or a DEK block.
    fn re_encrypt<'a>(&'a self, ciphertext: &[u8], context: &[u8], to: &KeyRef) -> Reply<'a, Vec<u8>> {
        let _ = (ciphertext, context, to);
        unsupported("re-encrypt")
    }
}

fn unsupported<'a, T>(verb: &'static str) -> Reply<'a, T> {
    Box::pin(async move { Err(KmsError::Unsupported(verb.into())) })
}

/// Whatever answers whole requests: our own services, near and far. Each is a [`KeyService`].
pub trait Answers: Send + Sync {
    /// The answer to a request.
    fn answer(&self, request: Request) -> Reply<'_, Answer>;
}

/// Asks, and takes the one kind of answer that fits.
macro_rules! ask {
    ($service:expr, $request:expr, $pattern:pat => $answer:expr) => {{
        let answer = $service.answer($request);
        Box::pin(async move {
            match answer.await? {
                $pattern => Ok($answer),
                _ => Err(KmsError::Protocol("the answer is one to another request")),
            }
        })
    }};
}

/// A service elsewhere.
impl Answers for Client {
    fn answer(&self, request: Request) -> Reply<'_, Answer> {
        Box::pin(async move {
            let (verb, payload) = (request.verb(), request.encode()?);
            let answer = self.call(wiped(payload), verb.is_idempotent()).await;
            let answer = answer.map_err(|error| KmsError::Unreachable(Arc::new(error)))?;
            Answer::decode(&answer).map_err(|_| KmsError::Protocol("it is malformed, or of a newer version"))?
        })
    }
}

/// A page of a list, whose end comes: each goes on behind the one before.
fn goes_on(after: Option<KeyId>, page: Vec<KeyInfo>) -> Result<Vec<KeyInfo>, KmsError> {
    let is_behind = page.first().is_none_or(|first| after.is_none_or(|after| after < first.id));
    if is_behind && page.is_sorted_by(|one, next| one.id < next.id) {
        return Ok(page);
    }
    Err(KmsError::Protocol("the list does not go on where it was asked to"))
}

impl<S: Answers> KeyService for S {
    fn create_key(&self, kem: Kem, alias: Option<Alias>) -> Reply<'_, KeyInfo> {
        ask!(self, Request::CreateKey { kem, alias }, Answer::Key(info) => info)
    }

    fn list_keys(&self, after: Option<KeyId>) -> Reply<'_, Vec<KeyInfo>> {
        let listed = ask!(self, Request::ListKeys { after }, Answer::Keys(keys) => keys);
        Box::pin(async move { goes_on(after, listed.await?) })
    }

    fn describe_key(&self, key: &KeyRef) -> Reply<'_, KeyInfo> {
        ask!(self, Request::DescribeKey(key.clone()), Answer::Key(info) => info)
    }

    fn enable_key(&self, key: &KeyRef) -> Reply<'_, KeyInfo> {
        ask!(self, Request::EnableKey(key.clone()), Answer::Key(info) => info)
    }

    fn disable_key(&self, key: &KeyRef) -> Reply<'_, KeyInfo> {
        ask!(self, Request::DisableKey(key.clone()), Answer::Key(info) => info)
    }

    fn schedule_key_deletion(&self, key: &KeyRef, days: u8) -> Reply<'_, KeyInfo> {
        ask!(self, Request::ScheduleKeyDeletion { key: key.clone(), days }, Answer::Key(info) => info)
    }

    fn cancel_key_deletion(&self, key: &KeyRef) -> Reply<'_, KeyInfo> {
        ask!(self, Request::CancelKeyDeletion(key.clone()), Answer::Key(info) => info)
    }

    fn rotate_key(&self, key: &KeyRef) -> Reply<'_, KeyInfo> {
        ask!(self, Request::RotateKey(key.clone()), Answer::Key(info) => info)
    }

    fn set_alias(&self, alias: &Alias, key: &KeyRef) -> Reply<'_, KeyInfo> {
        ask!(self, Request::SetAlias { alias: alias.clone(), key: key.clone() }, Answer::Key(info) => info)
    }

    fn delete_alias(&self, alias: &Alias) -> Reply<'_, ()> {
        ask!(self, Request::DeleteAlias(alias.clone()), Answer::Done => ())
    }

    fn get_public_key(&self, key: &KeyRef) -> Reply<'_, PublicKey> {
        ask!(self, Request::GetPublicKey(key.clone()), Answer::PublicKey(key) => key)
    }

    fn generate_data_key(&self, key: &KeyRef, plaintext: bool) -> Reply<'_, DataKeyPair> {
        ask!(self, Request::GenerateDataKey { key: key.clone(), plaintext }, Answer::DataKey(pair) => pair)
    }

    fn decrypt_data_key(&self, wrapped: WrappedDek) -> Reply<'_, Unwrapped> {
        ask!(self, Request::DecryptDataKey(wrapped), Answer::Unwrapped(unwrapped) => unwrapped)
    }

    fn encrypt<'a>(&'a self, key: &KeyRef, secret: &[u8], context: &[u8]) -> Reply<'a, Vec<u8>> {
        let secret = Zeroizing::new(secret.to_vec());
        ask!(self, Request::Encrypt { key: key.clone(), secret, context: context.into() }, Answer::Ciphertext(bytes) => bytes)
    }

    fn decrypt<'a>(&'a self, ciphertext: &[u8], context: &[u8]) -> Reply<'a, Zeroizing<Vec<u8>>> {
        let request = Request::Decrypt { ciphertext: ciphertext.into(), context: context.into() };
        ask!(self, request, Answer::Secret(secret) => secret)
    }

    fn re_encrypt<'a>(&'a self, ciphertext: &[u8], context: &[u8], to: &KeyRef) -> Reply<'a, Vec<u8>> {
        let request = Request::ReEncrypt { ciphertext: ciphertext.into(), context: context.into(), to: to.clone() };
        ask!(self, request, Answer::Ciphertext(bytes) => bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kms::KeyState;

    /// A time that a server has chosen is shown as fast as any.
    #[test]
    fn far_times_are_shown_at_once() {
        // 400 years have 146,097 days, by the rules of the calendar: 303 of 365 days, and 97 of 366.
        let cycles = 1_000_000_000;
        let far = cycles * 146_097 * 86_400 + 951_782_400;
        let (shown, shows) = std::sync::mpsc::channel();
        std::thread::spawn(move || shown.send([far, u64::MAX].map(crate::platform::utc)));
        let [far, _] = shows.recv_timeout(std::time::Duration::from_secs(5)).expect("in five seconds");
        assert_eq!(far, format!("{}-02-29T00:00:00Z", 2000 + 400 * cycles));
    }

    /// Says the same of its keys, whatever it is asked.
    struct Same(Vec<u8>);

    impl Answers for Same {
        fn answer(&self, _: Request) -> Reply<'_, Answer> {
            let info = |n: &u8| KeyInfo {
                id: KeyId([*n; 16]),
                aliases: Vec::new(),
                kem: Kem::X25519,
                state: KeyState::Enabled,
                created_at: 0,
                version: 1,
                rotated_at: 0,
            };
            let keys = self.0.iter().map(info).collect();
            Box::pin(async { Ok(Answer::Keys(keys)) })
        }
    }

    /// A server that goes round in a circle keeps nobody for ever.
    #[tokio::test]
    async fn lists_come_to_an_end() {
        let id = |n| Some(KeyId([n; 16]));
        for (keys, after, goes_on) in [
            (vec![1, 2], None, true),
            (vec![], id(9), true),
            (vec![1, 2], id(0), true),
            (vec![1, 2], id(1), false),
            (vec![1, 2], id(2), false),
            (vec![2, 1], None, false),
            (vec![1, 1], None, false),
        ] {
            let listed = Same(keys.clone()).list_keys(after).await;
            assert_eq!(listed.is_ok(), goes_on, "{keys:?} after {after:?}: {:?}", listed.err());
        }
    }

    /// A verb is asked for again only where the second answer is that of the first.
    #[tokio::test]
    async fn what_is_idempotent_is_answered_twice() {
        use crate::kms::Verb;
        let service = crate::kms::LocalService::in_memory();
        let ask = |request: Request| service.answer(request);
        let Ok(Answer::Key(key)) = ask(Request::CreateKey { kem: Kem::X25519, alias: None }).await else { panic!("created") };
        let (key, alias): (KeyRef, Alias) = (key.id.into(), "a".parse().unwrap());
        let requests = [
            Request::SetAlias { alias: alias.clone(), key: key.clone() },
            Request::DisableKey(key.clone()),
            Request::EnableKey(key.clone()),
            Request::ScheduleKeyDeletion { key: key.clone(), days: 7 },
            Request::CancelKeyDeletion(key.clone()),
            Request::DeleteAlias(alias),
            Request::RotateKey(key.clone()),
            Request::DescribeKey(key),
        ];
        for request in requests {
            let verb = request.verb();
            let (first, second) = (ask(request.clone()).await, ask(request).await);
            let is_same = |one: &Answer, two: &Answer| match (one, two) {
                (Answer::Key(one), Answer::Key(two)) => one == two,
                _ => true,
            };
            let same = matches!((&first, &second), (Ok(one), Ok(two)) if is_same(one, two));
            assert!(same || !verb.is_idempotent(), "{}", verb.name());
        }
        assert!(!Verb::CreateKey.is_idempotent());
    }
}
