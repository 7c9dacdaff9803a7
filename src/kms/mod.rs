//! CMKs that never leave the place where they are kept (spec/kms.md): a key service, what it is asked, and who may ask.
//!
//! ```text
//! key.rs       ids, aliases, states, what a key looks like from outside
//! service.rs   KeyService: the verbs, as a trait
//! message.rs   requests and answers <-> bytes
//! keys.rs      the CMKs of a service in memory, and how they change
//! direct.rs    a small secret directly under a CMK
//! policy.rs    who may do what
//! handle.rs    caller, request -> answer, changes, a line for the audit log: no I/O
//! store/       state <-> disk, under a root key; the audit log
//! local.rs     a service over a store, in this process
//! session.rs   greeting and channels of a connection to a service
//! server.rs client.rs   both ends of it
//! health.rs    health and counters over HTTP
//! resolver.rs  Opener + KeyService: unwraps once per DEK
//! pkcs11/      a CMK inside a token
//! ```

#[cfg(feature = "kms")]
mod client;
#[cfg(feature = "kms")]
mod direct;
#[cfg(feature = "kms")]
mod error;
#[cfg(feature = "kms")]
mod handle;
#[cfg(feature = "kms")]
mod health;
#[cfg(feature = "kms")]
mod key;
#[cfg(feature = "kms")]
mod keys;
#[cfg(feature = "kms")]
mod local;
#[cfg(feature = "kms")]
mod message;
#[cfg(feature = "pkcs11")]
pub mod pkcs11;
#[cfg(feature = "kms")]
mod policy;
#[cfg(feature = "kms")]
mod resolver;
#[cfg(feature = "kms")]
mod server;
#[cfg(feature = "kms")]
mod service;
#[cfg(feature = "kms")]
mod session;
#[cfg(feature = "kms")]
pub mod store;
#[cfg(all(feature = "kms", feature = "testing"))]
#[doc(hidden)]
pub mod testing;

#[cfg(feature = "kms")]
pub use client::{
    CONNECT_TIME, Client, ClientBuilder, ClientError, ClientLimits, IN_FLIGHT, IN_FLIGHT_BYTES, SILENCE, Tried, Why,
};
#[cfg(feature = "cli")]
pub(crate) use direct::is_direct;
#[cfg(feature = "kms")]
pub use error::KmsError;
#[cfg(feature = "kms")]
pub use handle::{DELETION_DAYS_MAX, DELETION_DAYS_MIN};
#[cfg(feature = "kms")]
pub use health::{Count, Metrics, watch};
#[cfg(feature = "kms")]
pub use key::{ALIAS_MAX, ALIASES_MAX, Alias, KEYS_MAX, KeyId, KeyInfo, KeyRef, KeyState, NameError, PublicKey, VERSIONS_MAX};
#[cfg(feature = "kms")]
pub use local::{Caller, LocalService, OpenServiceError};
#[cfg(feature = "kms")]
pub use message::{Answer, CIPHERTEXT_MAX, CONTEXT_MAX, LIST_MAX, Request, SECRET_MAX, Verb};
#[cfg(feature = "kms")]
pub use policy::{AccessError, AccessPolicy, POLICY_MAX};
#[cfg(feature = "kms")]
pub use resolver::{
    CALL_TIME, ConnectionError, DataKeys, FAILED_FOR, FLIGHTS_MAX, NoAnswer, RenewError, ResolveError, Resolver, ResolverBuilder,
    data_key,
};
#[cfg(feature = "cli")]
pub(crate) use server::bind;
#[cfg(feature = "kms")]
pub use server::{
    CONNECTIONS, CONNECTIONS_OF_CALLER, HELLO_TIME, Listener, RENEWALS, STRANGERS, Serve, Server, ServerLimits, Stopped, wiped,
};
#[cfg(feature = "kms")]
pub use service::{Answers, DataKeyPair, KeyService, KeyUsed, PROVIDER, Reply, Unwrapped, WrappedDek};
#[cfg(feature = "kms")]
pub use session::{ANSWER_MAX, Identity, IdentityError, PROTOCOL_VERSION, PublicIdentity, REQUEST_MAX};
