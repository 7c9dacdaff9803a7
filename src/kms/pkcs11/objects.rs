//! Keys in a token, as PKCS#11 has them: made, described, agreed with. Every function here is calls on one session.

use cryptoki::{
    error::{Error, RvError},
    mechanism::{
        Mechanism,
        elliptic_curve::{EcKdf, Ecdh1DeriveParams},
    },
    object::{Attribute, AttributeInfo, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::Session,
    types::Ulong,
};
use zeroize::Zeroizing;

use super::{KEYS_MAX, NAME_MAX, TokenError};
use crate::{crypto::Secret32, keys::Recipient};

/// X25519 as an object identifier, 1.3.101.110 (RFC 8410).
const OID: &[u8] = &[0x06, 0x03, 0x2b, 0x65, 0x6e];
/// The same as the name that PKCS#11 3.0 has for it.
const NAME: &[u8] = b"\x13\x0acurve25519";
/// The same as the older identifier, 1.3.6.1.4.1.3029.1.5.1.
const OLD_OID: &[u8] = &[0x06, 0x0a, 0x2b, 0x06, 0x01, 0x04, 0x01, 0x97, 0x55, 0x01, 0x05, 0x01];
/// Bytes of the longest of them, and of those of other curves that are read to be told apart.
const PARAMS_MAX: usize = 64;
/// The base point: agreeing with it gives the key's own public half.
const BASE_POINT: [u8; 32] = {
    let mut point = [0; 32];
    point[0] = 9;
    point
};
/// An OCTET STRING of 32 bytes begins so in DER.
const OCTET_STRING: [u8; 2] = [0x04, 0x20];
/// Bytes of a point in that form.
const POINT_MAX: usize = 34;
/// A point of 32 bytes that begins so can be taken for an OCTET STRING.
const AMBIGUOUS: [u8; 2] = [0x04, 0x1e];

/// How a token wants the other side's point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Raw,
    Der,
}

/// A private key, found in the token and held against what a CMK has to be.
pub(super) struct Found {
    pub(super) handle: ObjectHandle,
    pub(super) form: Form,
    pub(super) recipient: Recipient,
    pub(super) label: String,
    pub(super) id: Vec<u8>,
    pub(super) never_left: bool,
}

/// A private key as its attributes have it.
struct Described {
    label: String,
    id: Vec<u8>,
    flags: Flags,
}

#[derive(Default)]
struct Flags {
    derive: bool,
    sensitive: bool,
    extractable: bool,
    always_authenticate: bool,
    always_sensitive: bool,
    never_extractable: bool,
    local: bool,
}

/// Makes a pair in the token; the ways to ask for X25519 are tried in turn, the standard's first.
pub(super) fn generate(session: &Session, label: &str, id: &[u8]) -> Result<[ObjectHandle; 2], TokenError> {
    let ways = [
        (Mechanism::EccMontgomeryKeyPairGen, OID),
        (Mechanism::EccMontgomeryKeyPairGen, NAME),
        (Mechanism::EccEdwardsKeyPairGen, OID),
    ];
    let mut refused = None;
    for (mechanism, params) in ways {
        match generate_by(session, &mechanism, params, label, id) {
            Err(error) if is_another_way_worth_it(&error) => refused = Some(error),
            made => return made.map_err(TokenError::call("make a key")),
        }
    }
    Err(refused.map_or(TokenError::NoKey, |error| TokenError::NoX25519(error.into())))
}

fn generate_by(
    session: &Session,
    mechanism: &Mechanism<'_>,
    params: &[u8],
    label: &str,
    id: &[u8],
) -> Result<[ObjectHandle; 2], Error> {
    let named = [Attribute::Token(true), Attribute::Label(label.into()), Attribute::Id(id.into())];
    let public = [&named[..], &[Attribute::Private(false), Attribute::EcParams(params.into())]].concat();
    let kept = [Attribute::Private(true), Attribute::Sensitive(true), Attribute::Extractable(false), Attribute::Derive(true)];
    let (public, private) = session.generate_key_pair(mechanism, &public, &[&named[..], &kept].concat())?;
    Ok([public, private])
}

/// Whether the token may know X25519 by other words.
fn is_another_way_worth_it(error: &Error) -> bool {
    use RvError::*;
    let Error::Pkcs11(rv, _) = error else { return false };
    matches!(
        rv,
        MechanismInvalid
            | MechanismParamInvalid
            | DomainParamsInvalid
            | CurveNotSupported
            | AttributeValueInvalid
            | TemplateInconsistent
            | FunctionNotSupported
            | ArgumentsBad
    )
}

/// The X25519 private keys that have these attributes, of any use or none.
pub(super) fn private_keys(session: &Session, named: &[Attribute]) -> Result<Vec<ObjectHandle>, TokenError> {
    let private = [Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::Token(true)];
    let mut found = find(session, &[&private[..], named].concat())?;
    let mut failed = None;
    found.retain(|key| is_x25519(session, *key).unwrap_or_else(|error| failed.replace(error).is_some()));
    failed.map_or(Ok(found), Err)
}

/// Objects with these attributes, up to [`KEYS_MAX`].
fn find(session: &Session, with: &[Attribute]) -> Result<Vec<ObjectHandle>, TokenError> {
    let looking = TokenError::call("look for a key");
    let found: Vec<_> =
        session.iter_objects(with).map_err(&looking)?.take(KEYS_MAX + 1).collect::<Result<_, _>>().map_err(looking)?;
    if found.len() > KEYS_MAX {
        return Err(TokenError::TooManyKeys);
    }
    Ok(found)
}

fn is_x25519(session: &Session, key: ObjectHandle) -> Result<bool, TokenError> {
    let params = bytes(session, key, AttributeType::EcParams, PARAMS_MAX)?;
    Ok(params.is_some_and(|params| [OID, NAME, OLD_OID].contains(&&params[..])))
}

/// What a key is, and the public half that it answers with. What may not be a CMK is refused.
pub(super) fn examine(session: &Session, handle: ObjectHandle) -> Result<Found, TokenError> {
    let Described { label, id, flags } = describe(session, handle)?;
    flags.check()?;
    let (form, public) = own_public_half(session, handle)?;
    let recipient = Recipient::from_x25519(public).map_err(|_| TokenError::Answer("its public key is weak"))?;
    check_beside(session, &id, &public)?;
    let never_left = flags.local && flags.always_sensitive && flags.never_extractable;
    Ok(Found { handle, form, recipient, label, id, never_left })
}

fn describe(session: &Session, key: ObjectHandle) -> Result<Described, TokenError> {
    let label = bytes(session, key, AttributeType::Label, NAME_MAX)?.unwrap_or_default();
    let id = bytes(session, key, AttributeType::Id, NAME_MAX)?.unwrap_or_default();
    Ok(Described { label: String::from_utf8(label).unwrap_or_default(), id, flags: Flags::of(session, key)? })
}

impl Flags {
    /// What the token does not say counts against the key.
    fn of(session: &Session, key: ObjectHandle) -> Result<Self, TokenError> {
        let asked = [
            AttributeType::Derive,
            AttributeType::Sensitive,
            AttributeType::Extractable,
            AttributeType::AlwaysAuthenticate,
            AttributeType::AlwaysSensitive,
            AttributeType::NeverExtractable,
            AttributeType::Local,
        ];
        let told = session.get_attributes(key, &asked).map_err(TokenError::call("describe a key"))?;
        let mut flags = Self { extractable: true, ..Self::default() };
        told.iter().for_each(|attribute| flags.take(attribute));
        Ok(flags)
    }

    fn take(&mut self, attribute: &Attribute) {
        match attribute {
            Attribute::Derive(on) => self.derive = *on,
            Attribute::Sensitive(on) => self.sensitive = *on,
            Attribute::Extractable(on) => self.extractable = *on,
            Attribute::AlwaysAuthenticate(on) => self.always_authenticate = *on,
            Attribute::AlwaysSensitive(on) => self.always_sensitive = *on,
            Attribute::NeverExtractable(on) => self.never_extractable = *on,
            Attribute::Local(on) => self.local = *on,
            _ => {}
        }
    }

    fn check(&self) -> Result<(), TokenError> {
        let wrong = match self {
            Self { extractable: true, .. } | Self { sensitive: false, .. } => "can be read out of the token",
            Self { derive: false, .. } => "may not be used to agree on secrets (CKA_DERIVE)",
            Self { always_authenticate: true, .. } => "asks for the PIN at every use",
            _ => return Ok(()),
        };
        Err(TokenError::Unsuitable(wrong))
    }
}

/// The public half, asked from the private one: what lies beside it in the token is anybody's to write. Tells as well in which
/// form
/// the token takes points.
fn own_public_half(session: &Session, key: ObjectHandle) -> Result<(Form, [u8; 32]), TokenError> {
    let asked = |form| agree_in(session, key, form, &BASE_POINT).map(|public| (form, *public.bytes()));
    asked(Form::Raw).or_else(|refused| asked(Form::Der).map_err(|_| refused))
}

/// Refuses a public key of the same id that is another's, as of somebody who would like to be sealed to.
fn check_beside(session: &Session, id: &[u8], public: &[u8; 32]) -> Result<(), TokenError> {
    if id.is_empty() {
        return Ok(());
    }
    for beside in find(session, &[Attribute::Class(ObjectClass::PUBLIC_KEY), Attribute::Id(id.into())])? {
        if is_x25519(session, beside)? && point(session, beside)? != *public {
            return Err(TokenError::OtherPublicKey);
        }
    }
    Ok(())
}

/// The point of a public key, which tokens give raw or as an OCTET STRING.
fn point(session: &Session, key: ObjectHandle) -> Result<[u8; 32], TokenError> {
    let point = bytes(session, key, AttributeType::EcPoint, POINT_MAX)?;
    point.as_deref().and_then(read_point).ok_or(TokenError::Answer("a public key that is not 32 bytes"))
}

fn read_point(point: &[u8]) -> Option<[u8; 32]> {
    point.try_into().ok().or_else(|| point.strip_prefix(&OCTET_STRING)?.try_into().ok())
}

/// An attribute of which the token chooses the length; `None` where the key has none, or one that is too long for it.
fn bytes(session: &Session, key: ObjectHandle, which: AttributeType, most: usize) -> Result<Option<Vec<u8>>, TokenError> {
    let describing = TokenError::call("describe a key");
    match session.get_attribute_info(key, &[which]).map_err(&describing)?.first() {
        Some(AttributeInfo::Available(len)) if *len <= most => {
            let told = session.get_attributes(key, &[which]).map_err(describing)?;
            Ok(told.into_iter().next().and_then(content))
        }
        _ => Ok(None),
    }
}

fn content(attribute: Attribute) -> Option<Vec<u8>> {
    match attribute {
        Attribute::EcParams(bytes) | Attribute::EcPoint(bytes) | Attribute::Label(bytes) | Attribute::Id(bytes) => Some(bytes),
        _ => None,
    }
}

/// X25519 of the key in the token with a point, which is canonical.
pub(super) fn agree(session: &Session, key: ObjectHandle, form: Form, point: &[u8; 32]) -> Result<Secret32, TokenError> {
    // One raw point in 65,536 looks like an OCTET STRING of 30 bytes, and a token that takes both forms may read it so.
    if form == Form::Raw && point.starts_with(&AMBIGUOUS) {
        return agree_in(session, key, Form::Der, point).or_else(|_| agree_in(session, key, Form::Raw, point));
    }
    agree_in(session, key, form, point)
}

fn agree_in(session: &Session, key: ObjectHandle, form: Form, point: &[u8; 32]) -> Result<Secret32, TokenError> {
    let wrapped = [&OCTET_STRING[..], point].concat();
    let sent: &[u8] = if form == Form::Raw { point } else { &wrapped };
    let mechanism = Mechanism::Ecdh1Derive(Ecdh1DeriveParams::new(EcKdf::null(), sent));
    let derived = session.derive_key(&mechanism, key, &secret()).map_err(TokenError::call("agree on a secret"))?;
    let value = take(session, derived);
    // Where this fails the session is closed, which destroys the object too.
    session.destroy_object(derived).map_err(TokenError::call("forget a secret"))?;
    value
}

/// An object of the session alone, to be read once.
fn secret() -> [Attribute; 6] {
    [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::GENERIC_SECRET),
        Attribute::Token(false),
        Attribute::Sensitive(false),
        Attribute::Extractable(true),
        Attribute::ValueLen(Ulong::new(32)),
    ]
}

fn take(session: &Session, derived: ObjectHandle) -> Result<Secret32, TokenError> {
    let read =
        session.get_attributes(derived, &[AttributeType::Value]).map_err(TokenError::call("give a secret that was agreed on"))?;
    let Some(Attribute::Value(value)) = read.into_iter().next() else {
        return Err(TokenError::Answer("a secret that cannot be read"));
    };
    let value = Zeroizing::new(value);
    value[..].try_into().map(Secret32::copied).map_err(|_| TokenError::Answer("a secret that is not 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_read_raw_and_wrapped() {
        let raw = [7; 32];
        assert_eq!(read_point(&raw), Some(raw));
        assert_eq!(read_point(&[&OCTET_STRING[..], &raw].concat()), Some(raw));
        for wrong in [
            &[][..],
            &[7; 31],
            &[7; 33],
            &[7; 34],
            &[&[0x04, 0x21][..], &raw].concat(),
            &[&OCTET_STRING[..], &raw, &[0]].concat(),
        ] {
            assert_eq!(read_point(wrong), None);
        }
    }

    #[test]
    fn what_a_token_does_not_say_counts_against_the_key() {
        let good = Flags { derive: true, sensitive: true, ..Flags::default() };
        assert!(good.check().is_ok());
        for bad in [
            Flags { extractable: true, derive: true, sensitive: true, ..Flags::default() },
            Flags { derive: true, ..Flags::default() },
            Flags { sensitive: true, ..Flags::default() },
            Flags { always_authenticate: true, derive: true, sensitive: true, ..Flags::default() },
        ] {
            assert!(matches!(bad.check(), Err(TokenError::Unsuitable(_))));
        }
    }
}
