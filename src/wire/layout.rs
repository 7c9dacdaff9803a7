//! The format as tables, the same as those of the spec; a test compares the two.

/// A field: its name and its length in bytes, or what the length depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// The name, as errors, the inspector and the spec have it.
    pub name: &'static str,
    /// Bytes; `None` where another field or option says how many.
    pub len: Option<usize>,
}

const fn field(name: &'static str, len: usize) -> Field {
    Field { name, len: Some(len) }
}

const fn varying(name: &'static str) -> Field {
    Field { name, len: None }
}

/// The DEK block (spec 3.1).
pub const DEK_BLOCK: &[Field] = &[
    field("magic", 3),
    field("version", 1),
    field("block_len", 4),
    field("suite", 1),
    field("options", 1),
    field("slot_count", 2),
    field("external_count", 1),
    field("created_at", 8),
    field("salt", 16),
    varying("enc"),
    varying("slots"),
    varying("externals"),
    varying("sender_proof"),
    field("header_mac", 32),
];

/// A slot (spec 3.3); enc is absent, 32 or 1,120 bytes.
pub const SLOT: &[Field] = &[field("hint", 4), varying("enc"), field("wrapped_dek", 48)];

/// An external (spec 3.4).
pub const EXTERNAL: &[Field] = &[
    field("provider_len", 1),
    varying("provider"),
    field("key_ref_len", 2),
    varying("key_ref"),
    field("blob_len", 2),
    varying("blob"),
];

/// The message head (spec 4.1).
pub const MESSAGE_HEAD: &[Field] =
    &[field("seq", 8), field("segment_log2", 1), field("flags", 1), field("context_len", 2), varying("context")];

/// The follow-up head (spec 4.2).
pub const FOLLOW_UP_HEAD: &[Field] = &[field("type", 1), field("flags", 1), field("context_len", 2), varying("context")];

/// A segment (spec 5.1).
pub const SEGMENT: &[Field] = &[field("prefix", 4), varying("ciphertext"), field("tag", 16)];
