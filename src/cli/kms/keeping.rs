//! Stores: init, audit, backup, restore, change-root.

use serde_json::json;

use super::{
    args::{AuditArgs, BackupArgs, ChangeRootArgs, RestoreArgs, RootArgs, StoreArgs, state_in},
    service::{root_key, root_key_file},
};
use crate::{
    cli::{
        Failure,
        args::PassphraseFrom,
        fail::{note, print_line, show},
        passphrase::Passphrases,
    },
    kms::{
        LocalService,
        store::{self, Record, RootKey, Store},
    },
    platform::{Clock, utc},
};

/// A root key for a store that is to be made: a new passphrase is asked for twice.
fn new_root_key(store: &StoreArgs) -> Result<RootKey, Failure> {
    match &store.root.root_key_file {
        Some(path) => root_key_file(path, &store.root),
        None => Passphrases::new(&store.root.passphrase).choose(&store.store).map(RootKey::from_passphrase),
    }
}

pub(super) fn init(args: &StoreArgs) -> Result<(), Failure> {
    // Told before a passphrase is asked for.
    if state_in(&args.store).exists() {
        return Err(Failure::usage(format!("{} is a store already, and is not written over", show(&args.store))));
    }
    LocalService::create(&args.store, &new_root_key(args)?)?;
    note(&format!(
        "store: {}  (keep a copy of what it is under: without it, and without a backup, nothing opens)",
        show(&args.store)
    ));
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
    let (mut store, _) = Store::open(folder, &root_key(folder, root)?)?;
    let new = StoreArgs {
        store: folder.clone(),
        root: RootArgs {
            root_key_file: args.new_root_key_file.clone(),
            passphrase: PassphraseFrom {
                passphrase_file: args.new_passphrase_file.clone(),
                passphrase_fd: args.new_passphrase_fd,
            },
        },
    };
    let at = Clock::default().unix_seconds();
    let record = Record { at, caller: "local".into(), action: "change-root".into(), key: None, result: "ok".into() };
    store.change_root(&new_root_key(&new)?, &record)?;
    note(&format!("{} is under another root key now; backups and replicas made before are under the old one", show(folder)));
    Ok(())
}
