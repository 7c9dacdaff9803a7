//! PEM forms (spec 12.2): SPKI and PKCS#8 for X25519 and Ed25519, RFC 8410.

use pkcs8::{
    AlgorithmIdentifierRef, ObjectIdentifier, PrivateKeyInfoRef, SecretDocument, SubjectPublicKeyInfoRef,
    der::{
        Decode, Document, Encode,
        asn1::{BitStringRef, OctetStringRef},
        pem::LineEnding,
    },
};
use zeroize::Zeroizing;

use super::KeyError;
use crate::crypto::Secret32;

/// An algorithm of RFC 8410: keys of 32 bytes, and no parameters.
pub(super) type Algorithm = AlgorithmIdentifierRef<'static>;

pub(super) const X25519: Algorithm =
    AlgorithmIdentifierRef { oid: ObjectIdentifier::new_unwrap("1.3.101.110"), parameters: None };
pub(super) const ED25519: Algorithm =
    AlgorithmIdentifierRef { oid: ObjectIdentifier::new_unwrap("1.3.101.112"), parameters: None };

/// The label of a PEM document, as told by its first boundary.
pub(super) fn label(pem: &str) -> Option<&str> {
    pem.trim_start().strip_prefix("-----BEGIN ")?.split_once("-----").map(|(label, _)| label)
}

fn broken<E>(_: E) -> KeyError {
    KeyError::Pem("it cannot be decoded")
}

/// Refuses every algorithm but the one that is wanted, and says which the other is where that is known.
fn check_algorithm(found: &AlgorithmIdentifierRef<'_>, wanted: Algorithm) -> Result<(), KeyError> {
    // [TXT-5]
    match found {
        found if *found == wanted => Ok(()),
        found if *found == X25519 => {
            Err(KeyError::Pem("it is an X25519 key, which opens; an Ed25519 key, which signs, is needed"))
        }
        found if *found == ED25519 => {
            Err(KeyError::Pem("it is an Ed25519 key, which signs; an X25519 key, which opens, is needed"))
        }
        _ => Err(KeyError::Pem("its algorithm is another one")),
    }
}

/// Reads the secret key of a PKCS#8 document; `public_of` computes its public half, to compare.
pub(super) fn read_secret(pem: &str, wanted: Algorithm, public_of: impl Fn(&[u8; 32]) -> [u8; 32]) -> Result<Secret32, KeyError> {
    let (label, document) = SecretDocument::from_pem(pem.trim_start()).map_err(broken)?;
    if label != "PRIVATE KEY" {
        return Err(KeyError::WrongKind { found: "a PEM document of another kind", wanted: "a PKCS#8 PRIVATE KEY" });
    }
    let info = PrivateKeyInfoRef::from_der(document.as_bytes()).map_err(broken)?;
    check_algorithm(&info.algorithm, wanted)?;
    let inner = <&OctetStringRef>::from_der(info.private_key.as_bytes()).map_err(broken)?;
    let secret = inner.as_bytes().try_into().map_err(|_| KeyError::Pem("the key is not 32 bytes"))?;
    // [TXT-6]
    match info.public_key.map(|bits| bits.as_bytes() == Some(&public_of(secret)[..])) {
        Some(false) => Err(KeyError::Pem("its public key is not that of its private key")),
        _ => Ok(Secret32::copied(secret)),
    }
}

pub(super) fn write_secret(secret: &[u8; 32], algorithm: Algorithm) -> Result<Zeroizing<String>, KeyError> {
    let inner = OctetStringRef::new(secret).and_then(|octets| Ok(Zeroizing::new(octets.to_der()?))).map_err(broken)?;
    let info = PrivateKeyInfoRef::new(algorithm, OctetStringRef::new(&inner).map_err(broken)?);
    let document = SecretDocument::try_from(&info).map_err(broken)?;
    document.to_pem("PRIVATE KEY", LineEnding::LF).map_err(broken)
}

pub(super) fn read_public(pem: &str, wanted: Algorithm) -> Result<[u8; 32], KeyError> {
    let (label, document) = Document::from_pem(pem.trim_start()).map_err(broken)?;
    if label != "PUBLIC KEY" {
        return Err(KeyError::WrongKind { found: "a PEM document of another kind", wanted: "an SPKI PUBLIC KEY" });
    }
    let info = SubjectPublicKeyInfoRef::try_from(document.as_bytes()).map_err(broken)?;
    check_algorithm(&info.algorithm, wanted)?;
    let public = info.subject_public_key.as_bytes().and_then(|bytes| bytes.try_into().ok());
    public.ok_or(KeyError::Pem("the key is not 32 bytes"))
}

pub(super) fn write_public(public: &[u8; 32], algorithm: Algorithm) -> Result<String, KeyError> {
    let info = SubjectPublicKeyInfoRef { algorithm, subject_public_key: BitStringRef::from_bytes(public).map_err(broken)? };
    let document = Document::try_from(&info).map_err(broken)?;
    document.to_pem("PUBLIC KEY", LineEnding::LF).map_err(broken)
}

#[cfg(test)]
mod tests {
    use pkcs8::der::asn1::AnyRef;

    use super::*;
    use crate::keys::{Cmk, Recipient};

    /// RFC 8410 §10.3 is Ed25519's; these are X25519's, from RFC 7748 §6.1 (Alice), in the DER that RFC 8410 gives.
    fn alice() -> ([u8; 32], [u8; 32]) {
        let hex = |s: &str| -> [u8; 32] { std::array::from_fn(|i| u8::from_str_radix(&s[2 * i..2 * i + 2], 16).unwrap()) };
        (
            hex("77076d0a7318a57d3c16c17251b26645df4c1c9a1c5a1c5a1c5a1c5a1c5a1c5a".get(..64).unwrap()),
            hex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"),
        )
    }

    #[test]
    fn documents_round_trip_and_are_the_rfcs_bytes() {
        let cmk = Cmk::from_x25519(&alice().0);
        let pem = cmk.to_pem().unwrap();
        let (_, der) = SecretDocument::from_pem(&pem).unwrap();
        assert_eq!(der.as_bytes()[..16], [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x6e, 4, 0x22, 4, 0x20]);
        assert_eq!(der.as_bytes()[16..], alice().0);
        assert_eq!(Cmk::from_pem(&pem).unwrap().recipient(), cmk.recipient());
        let pem = cmk.recipient().to_pem().unwrap();
        assert_eq!(&Recipient::from_pem(&pem).unwrap(), cmk.recipient());
        assert!(Recipient::from_x25519(alice().1).is_ok());
    }

    /// Proves TXT-5, TXT-6.
    #[test]
    fn other_documents_are_refused() {
        let secret = alice().0;
        let with = |oid: &str, parameters, with_public: Option<&[u8]>| {
            let inner = OctetStringRef::new(&secret).unwrap().to_der().unwrap();
            let algorithm = AlgorithmIdentifierRef { oid: ObjectIdentifier::new(oid).unwrap(), parameters };
            let mut info = PrivateKeyInfoRef::new(algorithm, OctetStringRef::new(&inner).unwrap());
            info.public_key = with_public.map(|bytes| BitStringRef::from_bytes(bytes).unwrap());
            SecretDocument::try_from(&info).unwrap().to_pem("PRIVATE KEY", LineEnding::LF).unwrap()
        };
        let wrap = |oid: &str, with_public: Option<&[u8]>| with(oid, None, with_public);
        assert!(matches!(Cmk::from_pem(&with("1.3.101.110", Some(AnyRef::NULL), None)), Err(KeyError::Pem(_))));
        let public = *Cmk::from_x25519(&secret).recipient().as_x25519().unwrap();
        assert!(Cmk::from_pem(&wrap("1.3.101.110", Some(&public))).is_ok());
        assert!(matches!(Cmk::from_pem(&wrap("1.3.101.110", Some(&[9; 32]))), Err(KeyError::Pem(_))));
        assert!(matches!(Cmk::from_pem(&wrap("1.3.101.112", None)), Err(KeyError::Pem(_))));
        assert!(matches!(Recipient::from_pem(&wrap("1.3.101.110", None)), Err(KeyError::WrongKind { .. })));
    }
}
