//! The verbs: number <-> name (spec/kms.md 5.1).

/// The number and the name of each verb (spec/kms.md 5.1). A test holds them against the spec.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
#[expect(missing_docs, reason = "each is the verb of that name in `KeyService`")]
pub enum Verb {
    CreateKey = 1,
    ListKeys = 2,
    DescribeKey = 3,
    EnableKey = 4,
    DisableKey = 5,
    ScheduleKeyDeletion = 6,
    CancelKeyDeletion = 7,
    RotateKey = 8,
    SetAlias = 9,
    DeleteAlias = 10,
    GetPublicKey = 11,
    GenerateDataKey = 12,
    DecryptDataKey = 13,
    Encrypt = 14,
    Decrypt = 15,
    ReEncrypt = 16,
}

impl Verb {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::CreateKey,
        Self::ListKeys,
        Self::DescribeKey,
        Self::EnableKey,
        Self::DisableKey,
        Self::ScheduleKeyDeletion,
        Self::CancelKeyDeletion,
        Self::RotateKey,
        Self::SetAlias,
        Self::DeleteAlias,
        Self::GetPublicKey,
        Self::GenerateDataKey,
        Self::DecryptDataKey,
        Self::Encrypt,
        Self::Decrypt,
        Self::ReEncrypt,
    ];

    /// The name, as policies, audit logs and the command line write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::CreateKey => "create-key",
            Self::ListKeys => "list-keys",
            Self::DescribeKey => "describe-key",
            Self::EnableKey => "enable-key",
            Self::DisableKey => "disable-key",
            Self::ScheduleKeyDeletion => "schedule-key-deletion",
            Self::CancelKeyDeletion => "cancel-key-deletion",
            Self::RotateKey => "rotate-key",
            Self::SetAlias => "set-alias",
            Self::DeleteAlias => "delete-alias",
            Self::GetPublicKey => "get-public-key",
            Self::GenerateDataKey => "generate-data-key",
            Self::DecryptDataKey => "decrypt-data-key",
            Self::Encrypt => "encrypt",
            Self::Decrypt => "decrypt",
            Self::ReEncrypt => "re-encrypt",
        }
    }

    /// Whether it changes what a service keeps, and so waits for a disk.
    #[must_use]
    pub fn is_change(self) -> bool {
        !matches!(
            self,
            Self::ListKeys
                | Self::DescribeKey
                | Self::GetPublicKey
                | Self::GenerateDataKey
                | Self::DecryptDataKey
                | Self::Encrypt
                | Self::Decrypt
                | Self::ReEncrypt
        )
    }

    /// Whether asking twice is as good as once, and answered as once: who asks again to disable a CMK hears that it is disabled already.
    #[must_use]
    pub fn is_idempotent(self) -> bool {
        !self.is_change() || self == Self::SetAlias
    }

    /// The verb of an encoded request.
    #[must_use]
    pub fn of(request: &[u8]) -> Option<Self> {
        let number = *request.first()?;
        Self::ALL.into_iter().find(|verb| *verb as u8 == number)
    }
}
