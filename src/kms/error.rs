use std::{error::Error, sync::Arc};

use super::{
    key::{KeyId, KeyState},
    store::StoreError,
};
use crate::{platform::utc, wire::LimitExceeded};

/// Why a key service has not done what it was asked. Nothing was changed, but where it says that this is not known.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum KmsError {
    /// The caller may not do this, or there is no such key: who may not is not told which.
    #[error("not allowed, or there is no such key")]
    Denied,
    /// There is no such key, as the caller may know.
    #[error("there is no such key")]
    NotFound,
    /// The CMK is in a state in which that is not done.
    #[error("the key {key} is {}", in_words(*state))]
    State {
        /// The CMK.
        key: KeyId,
        /// Its state.
        state: KeyState,
    },
    /// No key that the caller may use opens it, or it was changed, or its context is another. Which of them is not told.
    #[error("it cannot be decrypted: no key that you may use opens it, or it was changed")]
    CannotDecrypt,
    /// The request is none that any service would take.
    #[error("the request is refused: {0}")]
    Invalid(String),
    /// The alias names another CMK.
    #[error("the alias names another key already")]
    AliasTaken,
    /// There are as many as there may be.
    #[error("the service is full: {0}")]
    Full(#[from] LimitExceeded),
    /// The same, as a service elsewhere has put it.
    #[error("{0}")]
    FullThere(String),
    /// The service answers from a copy, and changes nothing. Ask the one that the copy is of.
    #[error("this service is a replica, which changes nothing; ask the primary")]
    ReadOnly,
    /// What keeps the keys has failed.
    #[error("the key service has failed: {0}")]
    Failed(#[source] Arc<dyn Error + Send + Sync>),
    /// The same, as a service elsewhere has put it.
    #[error("{0}")]
    FailedThere(String),
    /// The service does not have this verb.
    #[error("the key service has no {0}")]
    Unsupported(String),
    /// The other end does not speak our protocol.
    #[error("the key service's answer is not understood: {0}")]
    Protocol(&'static str),
    /// No service could be asked, or none has answered.
    #[error("{0}")]
    Unreachable(#[source] Arc<dyn Error + Send + Sync>),
}

fn in_words(state: KeyState) -> String {
    match state {
        KeyState::Enabled => "enabled".into(),
        KeyState::Disabled => "disabled; enable it to use it again".into(),
        KeyState::PendingDeletion { at } => {
            format!("pending deletion at {}; until then that can be cancelled", utc(at))
        }
        KeyState::Destroyed { at } => format!("destroyed since {}; what was encrypted under it is lost", utc(at)),
    }
}

impl KmsError {
    /// What others are told of a failure here: what it was names files, and is for the service's own log.
    pub(super) fn for_others(&self) -> &'static str {
        match self {
            Self::Failed(error) if matches!(error.downcast_ref(), Some(StoreError::InDoubt { .. })) => {
                "the key service has failed, and its log says how; whether the change was made is not known: look before asking again"
            }
            _ => "the key service has failed, and its log says how; nothing was changed",
        }
    }

    /// One word for logs and counters.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::NotFound => "not-found",
            Self::State { state, .. } => state.word(),
            Self::CannotDecrypt => "cannot-decrypt",
            Self::Invalid(_) => "invalid",
            Self::AliasTaken => "alias-taken",
            Self::Full(_) | Self::FullThere(_) => "full",
            Self::ReadOnly => "read-only",
            Self::Failed(_) | Self::FailedThere(_) => "failed",
            Self::Unsupported(_) => "unsupported",
            Self::Protocol(_) => "protocol",
            Self::Unreachable(_) => "unreachable",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kms::Answer;

    /// Where it is not known whether a change was made, nobody is told that none was; of the files nobody is told anything.
    #[test]
    fn doubt_is_told() {
        let source = || std::io::Error::other("disk on fire");
        let told = |error: StoreError| {
            let answer = Answer::encode(&Err(KmsError::Failed(Arc::new(error))));
            assert_eq!(answer.first(), Some(&0x88));
            let said = String::from_utf8_lossy(&answer).into_owned();
            assert!(!said.contains("mine") && !said.contains("fire"), "{said}");
            said
        };
        let doubt = told(StoreError::InDoubt { path: "/mine".into(), source: source() });
        assert!(doubt.contains("whether the change was made is not known") && !doubt.contains("nothing was changed"), "{doubt}");
        let none = told(StoreError::Io { what: "writing", path: "/mine".into(), source: source() });
        assert!(none.contains("nothing was changed") && !none.contains("not known"), "{none}");
        // Here, where the files are known.
        let here = KmsError::Failed(Arc::new(StoreError::InDoubt { path: "/mine".into(), source: source() })).to_string();
        assert!(here.contains("\"/mine\" may or may not have been replaced") && !here.contains("nothing was changed"), "{here}");
    }
}
