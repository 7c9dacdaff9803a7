//! The programs under examples/, as they are.

#[allow(dead_code, reason = "a test has no use for its main")]
#[path = "../examples/imported_key.rs"]
mod imported_key;
#[cfg(feature = "kms")]
#[allow(dead_code, reason = "a test has no use for its main")]
#[path = "../examples/kms_cost.rs"]
mod kms_cost;
#[path = "../examples/local_file.rs"]
mod local_file;
#[path = "../examples/per_user.rs"]
mod per_user;
#[path = "../examples/two_services.rs"]
mod two_services;

#[test]
fn local_file() {
    local_file::main().unwrap();
}

#[test]
fn two_services() {
    two_services::main().unwrap();
}

#[test]
fn per_user() {
    per_user::main().unwrap();
}

/// The DEK is from OpenSSL's program; a key of another size is refused.
#[test]
fn imported_key() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dek.bin");
    for (size, works) in [("32", true), ("16", false)] {
        let made = std::process::Command::new("openssl").args(["rand", "-out"]).arg(&path).arg(size).status();
        assert!(made.expect("openssl is installed by tests/run").success());
        assert_eq!(imported_key::run(&path).is_ok(), works);
    }
}

/// What each way asks of the service: counted, and no time looked at.
#[cfg(feature = "kms")]
#[tokio::test(flavor = "multi_thread")]
async fn kms_cost() {
    let rows = kms_cost::run(1).await.unwrap();
    let requests = rows.iter().map(|row| row.split(" | ").nth(3).unwrap()).collect::<Vec<_>>();
    assert_eq!(requests, ["262,144", "262,144", "262,144", "262,144", "1", "1", "0", "1"]);
    let bytes = rows.iter().map(|row| row.split(" | ").nth(4).unwrap().replace(',', "").parse().unwrap()).collect::<Vec<u64>>();
    // Each byte of a secret goes to the service; of envelopes a data key's ciphertext alone.
    assert!(bytes[..4].iter().all(|bytes| *bytes > 1 << 30) && bytes[4..].iter().all(|bytes| *bytes < 512), "{bytes:?}");
}
