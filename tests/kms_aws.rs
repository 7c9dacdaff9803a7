//! The adapter for AWS KMS under examples/: its signatures against the values that AWS publishes, and all else against a stand-in on this
//! machine, which is not AWS KMS.

#[allow(dead_code, reason = "a test uses its own part")]
#[path = "../examples/aws_kms/main.rs"]
mod aws_kms;

use std::sync::Arc;

use aws_kms::{
    adapter::PROVIDER,
    connect, credentials,
    sigv4::{Credentials, Scope, authorization},
    stand_in::{ALIAS, ARN, StandIn},
};
use sealwire::kms::{KeyRef, KeyService, KmsError, WrappedDek};
use serde_json::json;

#[test]
fn the_example() {
    aws_kms::main().unwrap();
}

/// Requests of the Signature Version 4 test suite that AWS publishes (aws-sig-v4-test-suite, 2015-08-30), and its signatures.
#[test]
fn signatures_that_aws_publishes() {
    const TOKEN: &str = concat!(
        "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthAx7mSEI/qkPpKPi",
        "/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPk",
        "UL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA=="
    );
    let (host, date) = (("host", "example.amazonaws.com"), ("x-amz-date", "20150830T123600Z"));
    let form = ("content-type", "application/x-www-form-urlencoded");
    type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], &'a str, &'a str);
    let cases: [Case<'_>; 6] = [
        ("get-vanilla", "GET", &[host, date], "", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        ("post-vanilla", "POST", &[host, date], "", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
        (
            "get-header-value-trim",
            "GET",
            &[host, ("my-header1", " value1"), ("my-header2", " \"a   b   c\""), date],
            "",
            "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736",
        ),
        (
            "get-header-key-duplicate",
            "GET",
            &[host, ("my-header1", "value2,value2,value1"), date],
            "",
            "c9d5ea9f3f72853aea855b47ea873832890dbdd183b4468f858259531a5138ea",
        ),
        (
            "post-x-www-form-urlencoded",
            "POST",
            &[form, host, date],
            "Param1=value1",
            "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
        ),
        (
            "post-sts-header-before",
            "POST",
            &[host, date, ("x-amz-security-token", TOKEN)],
            "",
            "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead",
        ),
    ];
    let who = Credentials {
        access_key_id: "AKIDEXAMPLE".into(),
        secret_access_key: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned().into(),
        session_token: None,
    };
    let scope = Scope { time: date.1, region: "us-east-1", service: "service" };
    for (name, method, headers, body, signature) in cases {
        let names = headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
        let expected = format!(
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders={names}, Signature={signature}"
        );
        assert_eq!(authorization(&who, &scope, method, headers, body.as_bytes()), expected, "{name}");
    }
}

fn external(key_ref: &str, blob: &[u8]) -> WrappedDek {
    WrappedDek::External { provider: PROVIDER.into(), key_ref: key_ref.into(), blob: blob.into() }
}

fn orders() -> KeyRef {
    ALIAS.parse().unwrap()
}

/// A data key comes back as it was made, and without its plaintext where that is not asked for.
#[tokio::test]
async fn there_and_back() {
    let (stand_in, address) = StandIn::start().await.unwrap();
    let lasting = Credentials { session_token: None, ..credentials() };
    for credentials in [credentials(), lasting] {
        let kms = connect(address, credentials).unwrap();
        for plaintext in [true, false] {
            let pair = kms.generate_data_key(&orders(), plaintext).await.unwrap();
            assert_eq!((pair.plaintext.is_some(), &pair.key.id[..]), (plaintext, ARN));
            let unwrapped = kms.decrypt_data_key(external(ARN, &pair.ciphertext)).await.unwrap();
            assert_eq!(unwrapped.key.id, ARN);
        }
    }
    assert_eq!(stand_in.asked.lock().unwrap().len(), 8);
    let kms = connect(address, credentials()).unwrap();
    let elsewhere = WrappedDek::External { provider: "gcp".into(), key_ref: ARN.into(), blob: vec![1] };
    assert!(matches!(kms.decrypt_data_key(elsewhere).await, Err(KmsError::Invalid(_))));
    assert!(matches!(kms.decrypt_data_key(WrappedDek::Block(vec![1])).await, Err(KmsError::Unsupported(_))));
    assert_eq!(stand_in.asked.lock().unwrap().len(), 8, "it was not asked for what is not its own");
}

/// Each refusal is told as what it is: no key, not this ciphertext, not this caller.
#[tokio::test]
async fn refusals() {
    let (_, address) = StandIn::start().await.unwrap();
    let kms = connect(address, credentials()).unwrap();
    assert!(matches!(kms.generate_data_key(&"alias/other".parse().unwrap(), true).await, Err(KmsError::NotFound)));
    assert!(matches!(kms.decrypt_data_key(external(ARN, b"of another key")).await, Err(KmsError::CannotDecrypt)));
    let there = |result: Result<_, KmsError>, name: &str| match result {
        Err(KmsError::FailedThere(why)) => assert_eq!(why, format!("AWS KMS answers 400 {name}")),
        _ => panic!("{name}"),
    };
    let wrong = [
        (Credentials { secret_access_key: "another".to_owned().into(), ..credentials() }, "InvalidSignatureException"),
        (Credentials { access_key_id: "AKIDOTHER".into(), ..credentials() }, "UnrecognizedClientException"),
        (Credentials { session_token: Some("another".to_owned().into()), ..credentials() }, "UnrecognizedClientException"),
    ];
    for (credentials, name) in wrong {
        there(connect(address, credentials).unwrap().generate_data_key(&orders(), true).await, name);
    }
    // What no header carries is never sent.
    let broken = Credentials { session_token: Some("a\nb".to_owned().into()), ..credentials() };
    assert!(matches!(connect(address, broken).unwrap().generate_data_key(&orders(), true).await, Err(KmsError::Invalid(_))));
}

/// Answers that are none: an error, never a panic, a wrong DEK, or words of the other side's choosing.
#[tokio::test]
async fn answers_that_are_none() {
    let (stand_in, address) = StandIn::start().await.unwrap();
    let kms = connect(address, credentials()).unwrap();
    let key = "a2V5IGtleSBrZXkga2V5IGtleSBrZXkga2V5IGtleSA=";
    let says = |status: u16, body: Vec<u8>| *stand_in.says.lock().unwrap() = Some((status, body));
    let json = |value: serde_json::Value| value.to_string().into_bytes();
    says(200, json(json!({ "Plaintext": key, "KeyId": ARN })));
    assert!(kms.decrypt_data_key(external(ARN, b"blob")).await.is_ok(), "this one is whole");
    let not_answers = [
        b"".to_vec(),
        b"<html>".to_vec(),
        b"[1]".to_vec(),
        json(json!({ "KeyId": ARN })),
        json(json!({ "Plaintext": key })),
        json(json!({ "Plaintext": 7, "KeyId": ARN })),
        json(json!({ "Plaintext": "====", "KeyId": ARN })),
        json(json!({ "Plaintext": "c2hvcnQ=", "KeyId": ARN })),
        json(json!({ "Plaintext": key.repeat(2), "KeyId": ARN })),
    ];
    for body in not_answers {
        says(200, body.clone());
        let answer = kms.decrypt_data_key(external(ARN, b"blob")).await.map(|_| ());
        assert!(matches!(answer, Err(KmsError::Protocol(_))), "{}", String::from_utf8_lossy(&body));
    }
    // No ciphertext.
    says(200, json(json!({ "Plaintext": key, "KeyId": ARN })));
    assert!(matches!(kms.generate_data_key(&orders(), true).await, Err(KmsError::Protocol(_))));
    says(200, vec![b' '; 1 << 20]);
    assert!(matches!(kms.decrypt_data_key(external(ARN, b"blob")).await, Err(KmsError::Unreachable(_))), "it is too long");
    for (status, name, expected) in [
        (400, "AccessDeniedException", "denied"),
        (400, "com.amazonaws.kms#NotFoundException", "not-found"),
        (400, "IncorrectKeyException", "cannot-decrypt"),
        (400, "DisabledException", "failed"),
        (500, "KMSInternalException", "failed"),
    ] {
        says(status, json(json!({ "__type": name })));
        let answer = kms.decrypt_data_key(external(ARN, b"blob")).await.map(|_| ());
        assert_eq!(answer.unwrap_err().reason(), expected, "{name}");
    }
    says(503, json(json!({ "__type": format!("\u{1b}[31m{}", "x".repeat(1000)) })));
    let Err(KmsError::FailedThere(why)) = kms.decrypt_data_key(external(ARN, b"blob")).await else { panic!("it fails") };
    assert!(why.len() < 100 && !why.contains('\u{1b}'), "{why}");
}

/// A service that does not answer ends with the caller's patience; one that is not there is unreachable.
#[tokio::test]
async fn nobody_there() {
    let (stand_in, address) = StandIn::start().await.unwrap();
    *stand_in.hangs.lock().unwrap() = true;
    let kms = Arc::new(connect(address, credentials()).unwrap());
    let policy = sealwire::Policy { kms_keys: vec![sealwire::KmsKey::new(PROVIDER, ARN)], ..sealwire::Policy::default() };
    let opener = sealwire::Opener::builder(sealwire::Keyring::new()).policy(policy).build();
    let patience = std::time::Duration::from_millis(200);
    let resolver = sealwire::kms::Resolver::builder(opener).provider(PROVIDER, kms).call_time(patience).build();
    let data_key = sealwire::DataKey::from_kms(PROVIDER, ARN, &[7; 32], b"blob").unwrap();
    let envelope = sealwire::Sealer::builder().data_key(data_key).build().unwrap().seal(b"", b"x").unwrap();
    let unreachable = |error| matches!(error, sealwire::kms::ResolveError::Service(KmsError::Unreachable(_)));
    assert!(unreachable(resolver.open(&envelope).await.unwrap_err()));
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let gone = connect(closed, credentials()).unwrap();
    assert!(matches!(gone.generate_data_key(&orders(), true).await, Err(KmsError::Unreachable(_))));
}
