//! The suite registry (spec 3.5).

use std::fmt;

use super::ParseError;

/// KEM, KDF and AEAD as one number (spec 3.5). The KDF is HKDF-SHA256 in all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Suite {
    /// DHKEM(X25519, HKDF-SHA256), ChaCha20-Poly1305.
    X25519ChaCha20Poly1305 = 1,
    /// DHKEM(X25519, HKDF-SHA256), AES-256-GCM.
    X25519Aes256Gcm = 2,
    /// X-Wing, ChaCha20-Poly1305.
    XWingChaCha20Poly1305 = 3,
    /// X-Wing, AES-256-GCM.
    XWingAes256Gcm = 4,
}

/// The key encapsulation mechanism of a suite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Kem {
    /// DHKEM(X25519, HKDF-SHA256), RFC 9180 §7.1.
    X25519 = 0x0020,
    /// X-Wing: ML-KEM-768 and X25519.
    XWing = 0x647a,
}

/// The authenticated cipher of a suite: it wraps the DEK and seals the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Aead {
    /// AES-256-GCM, RFC 9180 §7.3.
    Aes256Gcm = 0x0002,
    /// ChaCha20-Poly1305, RFC 9180 §7.3.
    ChaCha20Poly1305 = 0x0003,
}

impl Suite {
    pub(crate) fn parse(number: u8, offset: u64) -> Result<Self, ParseError> {
        match number {
            1 => Ok(Self::X25519ChaCha20Poly1305),
            2 => Ok(Self::X25519Aes256Gcm),
            3 => Ok(Self::XWingChaCha20Poly1305),
            4 => Ok(Self::XWingAes256Gcm),
            // [BLK-5]
            value => Err(ParseError::Unsupported { field: "suite", offset, value: value.into() }),
        }
    }

    /// The number on the wire.
    #[must_use]
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The suite's KEM.
    #[must_use]
    pub fn kem(self) -> Kem {
        match self {
            Self::X25519ChaCha20Poly1305 | Self::X25519Aes256Gcm => Kem::X25519,
            Self::XWingChaCha20Poly1305 | Self::XWingAes256Gcm => Kem::XWing,
        }
    }

    /// The suite with the same AEAD and this KEM.
    #[must_use]
    pub fn with_kem(self, kem: Kem) -> Self {
        match (kem, self.aead()) {
            (Kem::X25519, Aead::ChaCha20Poly1305) => Self::X25519ChaCha20Poly1305,
            (Kem::X25519, Aead::Aes256Gcm) => Self::X25519Aes256Gcm,
            (Kem::XWing, Aead::ChaCha20Poly1305) => Self::XWingChaCha20Poly1305,
            (Kem::XWing, Aead::Aes256Gcm) => Self::XWingAes256Gcm,
        }
    }

    /// The suite's AEAD.
    #[must_use]
    pub fn aead(self) -> Aead {
        match self {
            Self::X25519ChaCha20Poly1305 | Self::XWingChaCha20Poly1305 => Aead::ChaCha20Poly1305,
            Self::X25519Aes256Gcm | Self::XWingAes256Gcm => Aead::Aes256Gcm,
        }
    }

    /// Bytes of plaintext, padding included, that a message has at the most. [SEG-11]
    #[must_use]
    pub fn longest_message(self) -> u64 {
        match self.aead() {
            Aead::Aes256Gcm => 1 << 38,
            Aead::ChaCha20Poly1305 => u64::MAX,
        }
    }

    /// The suite in words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::X25519ChaCha20Poly1305 => "X25519, HKDF-SHA256, ChaCha20-Poly1305",
            Self::X25519Aes256Gcm => "X25519, HKDF-SHA256, AES-256-GCM",
            Self::XWingChaCha20Poly1305 => "X-Wing, HKDF-SHA256, ChaCha20-Poly1305",
            Self::XWingAes256Gcm => "X-Wing, HKDF-SHA256, AES-256-GCM",
        }
    }
}

impl Kem {
    /// The HPKE identifier (RFC 9180 §7.1), two bytes on the wire.
    #[must_use]
    pub fn id(self) -> u16 {
        self as u16
    }

    /// Bytes of a public key.
    #[must_use]
    pub fn public_len(self) -> usize {
        match self {
            Self::X25519 => 32,
            Self::XWing => 1216,
        }
    }

    /// Bytes of an encapsulated key.
    #[must_use]
    pub fn enc_len(self) -> usize {
        match self {
            Self::X25519 => 32,
            Self::XWing => 1120,
        }
    }
}

/// Its name: `X25519` or `X-Wing`.
impl fmt::Display for Kem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::X25519 => "X25519",
            Self::XWing => "X-Wing",
        })
    }
}

impl Aead {
    /// The HPKE identifier (RFC 9180 §7.3).
    #[must_use]
    pub fn id(self) -> u16 {
        self as u16
    }
}
