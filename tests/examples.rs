//! The programs under examples/, as they are.

#[allow(dead_code, reason = "a test has no use for its main")]
#[path = "../examples/imported_key.rs"]
mod imported_key;
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
