//! What a key service is asked and what it answers (spec/kms.md 5): payloads of channel messages <-> structs. No keys, no I/O.
//!
//! ```text
//! verb.rs      the verbs
//! request.rs   what is asked
//! answer.rs    what is answered, and why not
//! wrapped.rs   a ciphertext DEK on its way
//! field.rs     what they are made of
//! ```

mod answer;
mod field;
mod request;
mod verb;
mod wrapped;

pub use answer::Answer;
pub(super) use field::{alias, cmk, kem, put_state, recipient_of, state};
pub use request::Request;
pub use verb::Verb;

/// Bytes of the longest secret that is encrypted directly under a CMK.
pub const SECRET_MAX: usize = 4096;
/// Bytes of the longest context of such a secret.
pub const CONTEXT_MAX: usize = 1024;
/// Bytes of the longest DEK block, ciphertext or external that a request carries.
pub const CIPHERTEXT_MAX: usize = 128 * 1024;
/// CMKs that one answer lists.
pub const LIST_MAX: usize = 256;
