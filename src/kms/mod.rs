//! CMKs that never leave the place where they are kept (spec/kms.md): a key service, what it is asked, and who may ask.
//!
//! ```text
//! key.rs       ids, aliases, states, what a key looks like from outside
//! service.rs   KeyService: the verbs, as a trait
//! message/     requests and answers <-> bytes
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

mod client;
mod direct;
mod error;
mod handle;
mod health;
mod key;
mod keys;
mod local;
mod message;
#[cfg(feature = "pkcs11")]
pub mod pkcs11;
mod policy;
mod resolver;
mod server;
mod service;
mod session;
pub mod store;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod testing;

pub use client::{
    CONNECT_TIME, Client, ClientBuilder, ClientError, ClientLimits, IN_FLIGHT, IN_FLIGHT_BYTES, SILENCE, Tried, Why,
};
#[cfg(feature = "cli")]
pub(crate) use direct::is_direct;
pub use error::KmsError;
pub use handle::{DELETION_DAYS_MAX, DELETION_DAYS_MIN};
pub use health::{Count, Metrics, watch};
pub use key::{ALIAS_MAX, ALIASES_MAX, Alias, KEYS_MAX, KeyId, KeyInfo, KeyRef, KeyState, NameError, PublicKey, VERSIONS_MAX};
pub use local::{Caller, LocalService, OpenServiceError};
pub use message::{Answer, CIPHERTEXT_MAX, CONTEXT_MAX, LIST_MAX, Request, SECRET_MAX, Verb};
pub use policy::{AccessError, AccessPolicy, POLICY_MAX};
pub use resolver::{
    CALL_TIME, ConnectionError, DataKeys, FAILED_FOR, FLIGHTS_MAX, NoAnswer, RenewError, ResolveError, Resolver, ResolverBuilder,
    data_key,
};
#[cfg(feature = "cli")]
pub(crate) use server::bind;
pub use server::{
    Answered, CONNECTIONS, CONNECTIONS_OF_CALLER, HELLO_TIME, Listener, RENEWALS, STRANGERS, Serve, Server, ServerLimits,
    Stopped, wiped,
};
pub use service::{Answers, DataKeyPair, KeyService, KeyUsed, PROVIDER, Reply, Unwrapped, WrappedDek};
pub use session::{ANSWER_MAX, Identity, IdentityError, PROTOCOL_VERSION, PublicIdentity, REQUEST_MAX};
