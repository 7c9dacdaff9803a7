//! Stores: init, audit, backup, restore, change-root.

use std::path::Path;

use serde_json::json;
use zeroize::Zeroizing;

use super::{
    args::{AuditArgs, BackupArgs, ChangeRootArgs, RestoreArgs, RootArgs, StoreArgs, state_in},
    keyring::RootKeyring,
    service::{root_key, root_key_file},
};
use crate::{
    cli::{
        Failure,
        args::PassphraseFrom,
        fail::{Code, note, print_line, show},
        passphrase::Passphrases,
    },
    kms::{
        LocalService,
        store::{self, Record, RootKey, Store, StoreError},
    },
    platform::{Clock, utc},
};

/// What a store is to be under.
struct NewRoot<'a> {
    key: RootKey,
    /// The text that was put into a keyring for it.
    kept: Option<(&'a RootKeyring, Zeroizing<String>)>,
}

impl<'a> NewRoot<'a> {
    /// A root key for a store that is to be made: a new passphrase is asked for twice, and one for a keyring is made.
    fn of(folder: &Path, root: &'a RootArgs) -> Result<Self, Failure> {
        let key = match (&root.root_key_file, &root.root_keyring) {
            (Some(path), _) => root_key_file(path, root)?,
            (None, Some(keyring)) => {
                let (key, text) = RootKey::generate(&crate::cli::report::utc(std::time::SystemTime::now()))?;
                keyring.keep(&text)?;
                return Ok(Self { key, kept: Some((keyring, text)) });
            }
            (None, None) => RootKey::from_passphrase(Passphrases::new(&root.passphrase).choose(folder)?),
        };
        Ok(Self { key, kept: None })
    }

    /// Puts a store under it. Where that fails, nothing stays in the keyring.
    fn under<T>(&self, put: impl FnOnce(&RootKey) -> Result<T, StoreError>) -> Result<T, Failure> {
        let put = put(&self.key);
        if let (Some((keyring, text)), Err(error)) = (&self.kept, &put)
            && !matches!(error, StoreError::InDoubt { .. })
            && keyring.holds(text)?
        {
            keyring.remove()?;
        }
        Ok(put?)
    }

    /// Whether it is still where it was put: of two commands that found one name free, one has lost its key.
    fn is_kept(&self) -> Result<bool, Failure> {
        self.kept.as_ref().map_or(Ok(true), |(keyring, text)| keyring.holds(text))
    }

    fn tell(&self) {
        if let Some((keyring, _)) = &self.kept {
            note(&keyring.advice());
        }
    }
}

const NOT_KEPT: &str = "another root key was put there at the same moment";

pub(super) fn init(args: &StoreArgs) -> Result<(), Failure> {
    // Told before a passphrase is asked for.
    if state_in(&args.store).exists() {
        return Err(Failure::usage(format!("{} is a store already, and is not written over", show(&args.store))));
    }
    let root = NewRoot::of(&args.store, &args.root)?;
    root.under(|key| LocalService::create(&args.store, key))?;
    if !root.is_kept()? {
        let what = format!("{NOT_KEPT}: nothing opens the new store {}; remove it, and begin again", show(&args.store));
        return Err(Failure::new(Code::Io, what));
    }
    note(&format!(
        "store: {}  (keep a copy of what it is under: without it, and without a backup, nothing opens)",
        show(&args.store)
    ));
    root.tell();
    Ok(())
}

pub(super) fn audit(args: &AuditArgs) -> Result<(), Failure> {
    let root = root_key(&args.store.store, &args.store.root)?;
    let report = store::verify(&args.store.store, &root)?;
    if args.print {
        for entry in store::records(&args.store.store)?.take(usize::try_from(report.lines).unwrap_or(usize::MAX)) {
            let store::Entry { seq, record: Record { at, caller, action, key, result }, .. } = entry?;
            let line = if args.json {
                json!({ "seq": seq, "at": at, "caller": caller, "action": action, "key": key, "result": result }).to_string()
            } else {
                format!("{}  {caller}  {action}  {}  {result}", utc(at), key.as_deref().unwrap_or("-"))
            };
            print_line(&line)?;
        }
        return Ok(());
    }
    if args.json {
        let said = json!({ "lines": report.lines, "first": report.first, "last": report.last, "generation": report.generation });
        return print_line(&said.to_string());
    }
    let whole = if report.first > 1 { format!(", from line {}: the files before are gone", report.first) } else { String::new() };
    let files = if report.files == 1 { "1 file".into() } else { format!("{} files", report.files) };
    print_line(&format!("the audit log is what was written: {} lines in {files}{whole}", report.lines))
}

pub(super) fn backup(args: &BackupArgs) -> Result<(), Failure> {
    let generation = store::backup(&args.store, &args.output)?;
    note(&format!("backup: {}  (generation {generation}; it opens with the store's root key)", show(&args.output)));
    Ok(())
}

pub(super) fn restore(args: &RestoreArgs) -> Result<(), Failure> {
    let root = root_key(&args.backup, &args.store.root)?;
    let store = store::restore(&args.backup, &args.store.store, &root)?;
    note(&format!("store: {}  (of generation {})", show(&args.store.store), store.generation()));
    Ok(())
}

pub(super) fn change_root(args: &ChangeRootArgs) -> Result<(), Failure> {
    let StoreArgs { store: folder, root } = &args.store;
    let old = root_key(folder, root)?;
    let (mut store, _) = Store::open(folder, &old)?;
    let new = RootArgs {
        root_key_file: args.new_root_key_file.clone(),
        root_keyring: args.new_root_keyring.clone(),
        passphrase: PassphraseFrom { passphrase_file: args.new_passphrase_file.clone(), passphrase_fd: args.new_passphrase_fd },
    };
    let new = NewRoot::of(folder, &new)?;
    let at = Clock::default().unix_seconds();
    let record = Record { at, caller: "local".into(), action: "change-root".into(), key: None, result: "ok".into() };
    new.under(|key| store.change_root(key, &record))?;
    if !new.is_kept()? {
        store.change_root(&old, &record)?;
        return Err(Failure::new(Code::Io, format!("{NOT_KEPT}; {} is under the old one again", show(folder))));
    }
    note(&format!("{} is under another root key now; backups and replicas made before are under the old one", show(folder)));
    new.tell();
    Ok(())
}
