//! The key service (spec/kms.md, spec/store.md): what is read is written again as the same bytes, and nobody is given what he has no right to.

use sealwire::{
    SenderKey, VerifyingKey,
    kms::{
        AccessPolicy, Answer, Caller, Identity, KmsError, LocalService, PublicIdentity, Request,
        store::{Entry, Head, Record},
    },
};
use sha2::{Digest, Sha256};

use super::edit;

/// One of the equations below, as the first byte says.
pub fn kms(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    match kind % 8 {
        0 => request(rest),
        1 => answer(rest),
        2 => state(rest),
        3 => identity(rest),
        4 => head(rest),
        5 => line(rest),
        6 => policy(rest),
        _ => service(rest),
    }
}

/// decode(x) = Ok(y)  =>  encode(y) = x
fn request(bytes: &[u8]) {
    let Ok(request) = Request::decode(bytes) else { return };
    assert_eq!(&request.encode().unwrap()[..], bytes);
}

/// The same, but for texts, which come out harmless, and for what has failed, of which nothing is passed on.
fn answer(bytes: &[u8]) {
    let Ok(answer) = Answer::decode(bytes) else { return };
    let again = Answer::encode(&answer);
    assert!(Answer::decode(&again).is_ok());
    let text = match bytes[0] {
        5 | 6 => &bytes[2..2 + usize::from(bytes[1])],
        0x84 | 0x86 | 0x89 => &bytes[5..],
        _ => b"",
    };
    let is_plain = text.iter().all(|byte| (0x20..0x7f).contains(byte) && !b"\\\"'".contains(byte));
    assert!(&again[..] == bytes || !is_plain || bytes[0] == 0x88);
}

#[cfg(feature = "testing")]
fn state(bytes: &[u8]) {
    let Ok(again) = sealwire::kms::testing::state_again(bytes) else { return };
    assert_eq!(&again[..], bytes);
}

#[cfg(not(feature = "testing"))]
fn state(_: &[u8]) {}

/// read(x) = Ok(y)  =>  read(write(y)) = y
fn identity(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(public) = text.parse::<PublicIdentity>() {
        assert_eq!(public.to_string().parse(), Ok(public));
    }
    if let Ok(identity) = Identity::from_text(text) {
        assert_eq!(Identity::from_text(&identity.to_text("now")).unwrap().public(), identity.public());
    }
}

/// The same as of requests, over heads whose checksum holds.
fn head(bytes: &[u8]) {
    let mut file = b"SWSTORE\n\x01".to_vec();
    file.extend(bytes);
    file.resize(115, 0);
    file.extend(Sha256::digest(&file));
    let Ok(head) = Head::parse(&file) else { return };
    assert_eq!(head.encode()[..], file);
}

/// A record goes into one line, in which nothing moves a cursor, and comes out of it; a line has one spelling.
fn line(bytes: &[u8]) {
    if let Ok(entry) = Entry::parse(bytes) {
        assert_eq!(entry.encode().as_bytes(), bytes);
    }
    let text = String::from_utf8_lossy(bytes);
    let mut parts = text.splitn(4, '|').map(str::to_owned);
    let mut part = || parts.next().unwrap_or_default();
    let record = Record { at: bytes.len() as u64, caller: part(), action: part(), key: Some(part()), result: part() };
    if record.check().is_err() {
        return;
    }
    let entry = Entry { seq: 1, record, generation: (bytes.len() % 2 == 1).then_some(7), mac: [9; 32] };
    let line = entry.encode();
    assert!(!line.chars().any(char::is_control));
    assert_eq!(Entry::parse(line.as_bytes()), Ok(entry));
}

fn policy(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(policy) = AccessPolicy::from_toml(text) {
        assert!(policy.remarks(u64::MAX).len() <= policy.len());
    }
}

fn sender(byte: u8) -> VerifyingKey {
    *SenderKey::from_ed25519(&[byte; 32]).verifying_key()
}

/// Who asks, as the policy below has them.
const SECRETS: u8 = 0;
const NO_PLAINTEXT: u8 = 1;

fn served() -> LocalService {
    let service = LocalService::in_memory();
    let caller =
        |name: &str, byte: u8, rest: &str| format!("[[caller]]\nname = \"{name}\"\nkey = \"{}\"\n{rest}\n", sender(byte));
    let all = "allow = [{ verbs = [\"*\"], keys = [\"*\"] }]";
    let policy = [
        caller("secrets", SECRETS, "allow = [{ verbs = [\"encrypt\", \"decrypt\", \"re-encrypt\"], keys = [\"a\"] }]"),
        caller(
            "no-plaintext",
            NO_PLAINTEXT,
            "allow = [{ verbs = [\"generate-data-key\", \"encrypt\", \"describe-key\"], keys = [\"*\"] }]",
        ),
        caller("revoked", 2, &format!("revoked = true\n{all}")),
        caller("expired", 3, &format!("expires = 2001-01-01T00:00:00Z\n{all}")),
    ];
    service.set_policy(AccessPolicy::from_toml(&policy.concat()).unwrap());
    service
}

fn ask(service: &LocalService, request: Request) -> Answer {
    service.ask(Caller::Owner, request).unwrap()
}

fn ciphertext(answer: Answer) -> Vec<u8> {
    match answer {
        Answer::Ciphertext(bytes) => bytes,
        Answer::DataKey(pair) => pair.ciphertext,
        _ => panic!("another kind of answer"),
    }
}

/// Requests of callers with few rights or none: as their bytes are, or to decrypt genuine ciphertexts that were edited.
fn service(mut data: &[u8]) {
    let service = served();
    let mut genuine = Vec::new();
    for alias in ["a", "b"] {
        ask(&service, Request::CreateKey { kem: sealwire::Kem::X25519, alias: Some(alias.parse().unwrap()) });
        let key: sealwire::kms::KeyRef = alias.parse().unwrap();
        let secret = format!("secret of {alias}").into_bytes().into();
        genuine.push(ciphertext(ask(&service, Request::Encrypt { key: key.clone(), secret, context: vec![] })));
        genuine.push(ciphertext(ask(&service, Request::GenerateDataKey { key, plaintext: false })));
    }
    for _ in 0..16 {
        let Some(([who, len], rest)) = data.split_first_chunk::<2>() else { return };
        let (body, rest) = rest.split_at(usize::from(*len).min(rest.len()));
        data = rest;
        let bytes = match who & 0x80 {
            0 => body.to_vec(),
            _ => dressed(&genuine[usize::from(who >> 3 & 3)], body, who & 0x40 != 0),
        };
        let Ok(request) = Request::decode(&bytes) else { continue };
        let answer = service.ask(Caller::Sender(&sender(who & 7)), request);
        check(who & 7, &answer);
    }
}

/// A request to decrypt a secret without context, or to unwrap a block.
fn dressed(genuine: &[u8], edits: &[u8], unwrap: bool) -> Vec<u8> {
    let ciphertext = edit(genuine, edits);
    let head: &[u8] = if unwrap { &[13, 1] } else { &[15, 0, 0, 0, 0] };
    [head, &(ciphertext.len() as u32).to_be_bytes(), &ciphertext].concat()
}

fn check(who: u8, answer: &Result<Answer, KmsError>) {
    match (who, answer) {
        // What he has encrypted himself, or what is under the key that he may use.
        (SECRETS, Ok(Answer::Secret(secret))) => assert_ne!(&secret[..], b"secret of b"),
        (SECRETS, Ok(Answer::Ciphertext(_))) | (NO_PLAINTEXT, Ok(Answer::Ciphertext(_) | Answer::Key(_))) => {}
        (NO_PLAINTEXT, Ok(Answer::DataKey(pair))) => assert!(pair.plaintext.is_none(), "a DEK for who may not decrypt"),
        (_, Ok(Answer::Keys(keys))) => assert!(keys.is_empty()),
        (_, Ok(_)) => panic!("the caller {who} has no right to that"),
        (SECRETS | NO_PLAINTEXT, Err(_)) => {}
        (_, Err(error)) => {
            assert!(
                !matches!(error, KmsError::NotFound | KmsError::State { .. } | KmsError::AliasTaken),
                "told to {who}: {error}"
            );
        }
    }
}
