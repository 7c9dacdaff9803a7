//! Which service a command asks: a store that it opens itself, or servers.

use std::{path::Path, sync::Arc};

use tokio::runtime::Runtime;

use super::args::{AskArgs, RootArgs};
use crate::{
    cli::{
        Failure,
        fail::{Code, Remark, remark, show},
        keys::{read_key_file, read_sender_key, read_text, secret_of},
        listen::runtime,
        passphrase::Passphrases,
    },
    keys::{KEY_FILE_MAX, SecretKey, cmk_from_key_file},
    kms::{
        Client, KeyService, KmsError, LocalService, OpenServiceError, PublicIdentity, Reply,
        store::{RootKey, StoreError},
    },
};

/// A service, and what waits for its answers.
pub(crate) struct Asking {
    runtime: Runtime,
    service: Arc<dyn KeyService>,
}

impl Asking {
    pub(crate) fn new(args: &AskArgs) -> Result<Self, Failure> {
        let service: Arc<dyn KeyService> = match &args.store {
            Some(folder) => Arc::new(open_store(folder, &args.root)?),
            None => Arc::new(client(args)?),
        };
        Ok(Self { runtime: runtime()?, service })
    }

    /// Waits for what is done with the service.
    pub(crate) fn wait<T, F>(&self, act: impl FnOnce(Arc<dyn KeyService>) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        self.runtime.block_on(act(self.service.clone()))
    }

    pub(crate) fn ask<'a, T>(&'a self, request: impl FnOnce(&'a dyn KeyService) -> Reply<'a, T>) -> Result<T, Failure> {
        Ok(self.runtime.block_on(request(&*self.service))?)
    }
}

fn client(args: &AskArgs) -> Result<Client, Failure> {
    let missing = |option: &str| Failure::usage(format!("--server needs {option} as well"));
    let path = args.server_identity.as_deref().ok_or_else(|| missing("--server-identity"))?;
    let me = args.me.as_deref().ok_or_else(|| missing("--as"))?;
    let text = read_text(path, "server's public identity", KEY_FILE_MAX)?;
    let identity: PublicIdentity = text.parse().map_err(|error| Failure::usage(format!("{}: {error}", show(path))))?;
    let me = read_sender_key(me, &args.root.passphrase)?;
    let builder = args.server.iter().fold(Client::builder(identity, me), |builder, address| builder.address(address));
    builder.build().map_err(|error| Failure::usage(error.to_string()))
}

/// What a store is under, as the options say; asked for on the terminal where they do not.
pub(super) fn root_key(folder: &Path, root: &RootArgs) -> Result<RootKey, Failure> {
    match (&root.root_key_file, &root.root_keyring) {
        (Some(path), _) => root_key_file(path, root),
        (None, Some(keyring)) => root_key_text(&keyring.read()?, Path::new(&keyring.to_string()), root),
        (None, None) => Passphrases::new(&root.passphrase).of(folder, "the store").map(RootKey::from_passphrase),
    }
}

pub(super) fn root_key_file(path: &Path, root: &RootArgs) -> Result<RootKey, Failure> {
    root_key_text(&read_key_file(path)?, path, root)
}

/// The root key that a key file's text holds, wherever that is kept.
fn root_key_text(text: &str, kept: &Path, root: &RootArgs) -> Result<RootKey, Failure> {
    let cmk = secret_of(text, kept, &Passphrases::new(&root.passphrase), cmk_from_key_file, SecretKey::into_cmk)?;
    Ok(RootKey::from_cmk(&cmk))
}

pub(super) fn open_store(folder: &Path, root: &RootArgs) -> Result<LocalService, Failure> {
    let service = LocalService::open(folder, &root_key(folder, root)?)?;
    tell_repaired(&service, folder);
    Ok(service)
}

fn tell_repaired(service: &LocalService, folder: &Path) {
    if let Some(repaired) = service.repaired() {
        let torn = if repaired.torn_bytes > 0 {
            format!("{} bytes of a line that was not finished were cut off", repaired.torn_bytes)
        } else {
            "a line was added that the state had".into()
        };
        remark(Remark::Note, &format!("{}: after a crash the audit log was mended: {torn}", show(folder)));
    }
}

impl From<KmsError> for Failure {
    fn from(error: KmsError) -> Self {
        let code = match &error {
            KmsError::Invalid(_) | KmsError::AliasTaken | KmsError::Unsupported(_) | KmsError::NotFound => Code::Usage,
            KmsError::CannotDecrypt => Code::NoMatchingKey,
            KmsError::Denied | KmsError::State { .. } | KmsError::ReadOnly => Code::CannotOpen,
            KmsError::Full(_) | KmsError::FullThere(_) => Code::Malformed,
            _ => Code::Io,
        };
        Self::new(code, error.to_string())
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let code = match &error {
            StoreError::WrongRootKey | StoreError::RootKind(_) | StoreError::Exists(_) | StoreError::Missing(_) => Code::Usage,
            StoreError::Audit(_) | StoreError::WentBack { .. } => Code::CannotOpen,
            StoreError::Io { .. } | StoreError::InUse(_) | StoreError::InDoubt { .. } | StoreError::Failed => Code::Io,
            _ => Code::Malformed,
        };
        // Why the disk refuses is what somebody can do something about.
        let why = match &error {
            StoreError::Io { source, .. } | StoreError::InDoubt { source, .. } => format!(": {source}"),
            _ => String::new(),
        };
        Self::new(code, format!("{error}{why}"))
    }
}

impl From<OpenServiceError> for Failure {
    fn from(error: OpenServiceError) -> Self {
        match error {
            OpenServiceError::Store(error) => error.into(),
            OpenServiceError::State(error) => error.into(),
        }
    }
}
