use crate::wire::ParseError;

/// A text or bytes that should be a key and are not. Never holds any of what was read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Something else than what was asked for, by its own marks.
    #[error("this is {found}, and {wanted} is needed")]
    WrongKind {
        /// What it is.
        found: &'static str,
        /// What was asked for.
        wanted: &'static str,
    },
    /// No key at all.
    #[error("there is no key in it, only blank lines and comments")]
    Empty,
    /// More than one key.
    #[error("there is more than one key in it; a key file holds one")]
    Several,
    /// A key string that is damaged or was mistyped.
    #[error("the key string is damaged or mistyped: {0}")]
    Damaged(&'static str),
    /// A public key that must not be used (spec 6.1).
    #[error("the public key {0}, so nothing could be kept secret with it")]
    Unsafe(&'static str),
    /// A KEM that this build does not know.
    #[error("the key is for KEM {0:#06x}, which this build does not support")]
    UnsupportedKem(u16),
    /// A post-quantum key, in a build without the feature `pq`.
    #[error("the key is post-quantum (X-Wing), and this build is without the feature `pq`")]
    WithoutPq,
    /// A key that has no PEM form.
    #[error("post-quantum keys (X-Wing) have no PEM form yet; they are written as key strings")]
    NoPemForm,
    /// A DEK that is not 32 bytes.
    #[error("the data key has {0} bytes, and a DEK has 32; ask the KMS for one of 256 bits (AES_256)")]
    DekLength(usize),
    /// A provider, a key_ref or a ciphertext DEK that no envelope can carry (spec 3.4).
    #[error("no envelope can carry it: {0}")]
    External(#[from] ParseError),
    /// A PEM or DER document that is not the one key it should be.
    #[error("the PEM document is not the key that is needed, as RFC 8410 has it: {0}")]
    Pem(&'static str),
    /// A key under a passphrase, which was not given (spec 12.6).
    #[error("the key is protected with a passphrase, and none was given")]
    Protected,
    /// Another passphrase than the one that the key is protected with; or what it protects was exchanged.
    #[error("the passphrase is wrong")]
    WrongPassphrase,
    /// A protected key that no passphrase opens here.
    #[error("the protected key is refused: {0}")]
    Protection(#[from] ProtectionError),
}

/// What is wrong with a protected key (spec 12.6). All but the last three are told before anything is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtectionError {
    /// A version that this build does not know.
    #[error("its version is {0}, and only 1 is supported")]
    Version(u8),
    /// Passes of Argon2id.
    #[error("it asks for {0} passes of Argon2id; 1 to 10 are done")]
    Passes(u32),
    /// Lanes of Argon2id.
    #[error("it asks for {0} lanes of Argon2id; 1 to 16 are done")]
    Lanes(u8),
    /// Memory of Argon2id.
    #[error("it asks for {kib} KiB of memory for Argon2id; {least} to 98304 are given")]
    Memory {
        /// What it asks for.
        kib: u32,
        /// What as many lanes need.
        least: u32,
    },
    /// Passes times memory.
    #[error("it asks Argon2id to fill {0} KiB in all passes; 393216 are filled")]
    Work(u64),
    /// Bytes of the key string in it.
    #[error("it holds {0} bytes; a key string has 1 to 1024")]
    Length(usize),
    /// The memory that it asks for is not there.
    #[error("there are no {kib} KiB of memory for Argon2id")]
    NoMemory {
        /// What it asks for.
        kib: u32,
    },
    /// The passphrase is right, and the rest is not what it was.
    #[error("it was changed since it was written")]
    Changed,
    /// What came out is no key string.
    #[error("what it holds is no secret key")]
    Content,
}
