use zeroize::Zeroizing;

const NONE: &str = "there is no such keyring in this build, or on this system; use --root-key-file";

pub(super) fn get(_: &str) -> Result<Option<Zeroizing<Vec<u8>>>, String> {
    Err(NONE.into())
}

pub(super) fn set(_: &str, _: &[u8]) -> Result<(), String> {
    Err(NONE.into())
}

pub(super) fn remove(_: &str) -> Result<(), String> {
    Err(NONE.into())
}
