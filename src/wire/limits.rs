//! What a reader accepts and a writer writes at the most (spec 11.1). Every number that a peer chooses meets one
//! of these before it sizes anything.

/// Named limits; the defaults are those of spec 11.1.
///
/// ```
/// use sealwire::wire::Limits;
/// let small = Limits { message: 64 * 1024, ..Limits::default() };
/// assert_eq!(small.recipients, 1024);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a DEK block.
    pub block: u64,
    /// Slots of a DEK block.
    pub recipients: u64,
    /// Externals of a DEK block.
    pub externals: u64,
    /// Bytes of a context.
    pub context: u64,
    /// Bytes of plaintext of a one-shot message, after batching and padding.
    pub message: u64,
    /// Bytes of plaintext of a segment, for readers that release segments as they come.
    pub segment: u64,
    /// KEM decapsulations and KMS calls spent on one block.
    pub trials: u64,
    /// Entries of a batch.
    pub batch_entries: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            block: 128 * 1024,
            recipients: 1024,
            externals: 4,
            context: 8 * 1024,
            message: 16 * 1024 * 1024,
            segment: 1024 * 1024,
            trials: 64,
            batch_entries: 65_536,
        }
    }
}
