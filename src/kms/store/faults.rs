//! File systems that fail: each call that a store makes, in each way, and what the store is afterwards.

use std::{
    io,
    sync::{Arc, Mutex},
};

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing is done.
    Before,
    /// Half of what is written is written; other calls do nothing.
    Short,
    /// It is done, and an error is told.
    After,
}

/// Counts calls, and makes those fail that were chosen.
#[derive(Clone, Default)]
pub(super) struct Faults(Arc<Mutex<Plan>>);

#[derive(Default)]
struct Plan {
    calls: u32,
    seen: Vec<&'static str>,
    chosen: Option<(u32, Kind, Lasting)>,
}

/// Whether the calls after the chosen one fail too.
type Lasting = bool;

impl Faults {
    /// From now on the call number `n`, from 1, fails; and those after it, if that is to last.
    pub(super) fn choose(&self, n: u32, kind: Kind, lasting: Lasting) {
        *self.0.lock().unwrap() = Plan { chosen: Some((n, kind, lasting)), ..Plan::default() };
    }

    /// No call fails any more; tells whether one did.
    pub(super) fn mend(&self) -> bool {
        let mut plan = self.0.lock().unwrap();
        let failed = plan.chosen.is_some_and(|(n, ..)| plan.calls >= n);
        *plan = Plan::default();
        failed
    }

    /// What was called since.
    pub(super) fn seen(&self) -> Vec<&'static str> {
        self.0.lock().unwrap().seen.clone()
    }

    pub(super) fn before(&self, what: &'static str) -> io::Result<()> {
        let mut plan = self.0.lock().unwrap();
        plan.calls += 1;
        plan.seen.push(what);
        plan.fails(plan.calls, |kind| kind != Kind::After)
    }

    pub(super) fn after(&self) -> io::Result<()> {
        let plan = self.0.lock().unwrap();
        plan.fails(plan.calls, |kind| kind == Kind::After)
    }

    /// Whether half of what the next call writes is written before it fails.
    pub(super) fn is_short(&self) -> bool {
        let plan = self.0.lock().unwrap();
        plan.fails(plan.calls + 1, |kind| kind == Kind::Short).is_err()
    }
}

impl Plan {
    fn fails(&self, call: u32, of: impl Fn(Kind) -> bool) -> io::Result<()> {
        match self.chosen {
            Some((n, kind, lasting)) if of(kind) && (call == n || (lasting && call > n)) => {
                Err(io::Error::from(io::ErrorKind::StorageFull))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        path::{Path, PathBuf},
    };

    use super::{
        super::{Record, Repaired, RootKey, Store, StoreError, disk::Disk, records, restore, verify},
        *,
    };
    use crate::Cmk;

    const WAYS: [(Kind, Lasting); 5] =
        [(Kind::Before, false), (Kind::Before, true), (Kind::Short, false), (Kind::Short, true), (Kind::After, false)];

    fn root(n: u8) -> RootKey {
        RootKey::from_cmk(&Cmk::from_x25519(&[n; 32]))
    }

    fn record(action: &str) -> Record {
        Record { at: 1, caller: "alice".into(), action: action.into(), key: None, result: "ok".into() }
    }

    /// A folder with a store whose state is `old`, of generation 2, with uses logged before and after its change.
    struct Place(tempfile::TempDir);

    impl Place {
        fn empty() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn new() -> Self {
            let place = Self::empty();
            let mut store = Store::create(&place.store(), &root(1), b"first").unwrap();
            store.log(&record("use")).unwrap();
            store.replace(b"old", &record("change")).unwrap();
            place
        }

        fn store(&self) -> PathBuf {
            self.0.path().join("kms")
        }

        fn unfinished(&self) -> Vec<String> {
            let names = fs::read_dir(self.store()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
            names.filter(|name| name.ends_with(".new")).collect()
        }

        /// The state under either root key. It is whole, the log belongs to it, and nothing unfinished is left.
        fn state(&self) -> (Vec<u8>, u64) {
            let (root, (store, state)) = match Store::open(&self.store(), &root(1)) {
                Ok(opened) => (root(1), opened),
                Err(StoreError::WrongRootKey) => (root(2), Store::open(&self.store(), &root(2)).unwrap()),
                Err(error) => panic!("{error:?}"),
            };
            assert!(self.unfinished().is_empty());
            let generation = store.generation();
            drop(store);
            let report = verify(&self.store(), &root).unwrap();
            assert_eq!((report.torn_bytes, report.line_missing, report.generation), (0, false, generation));
            // One line for each change, and no other.
            let changes = records(&self.store()).unwrap().filter_map(|entry| entry.unwrap().generation);
            assert!(changes.eq(2..=generation));
            (state.to_vec(), generation)
        }

        fn uses(&self) -> usize {
            records(&self.store()).unwrap().filter(|entry| entry.as_ref().unwrap().record.action == "use").count()
        }
    }

    /// Makes each call of an operation fail in each way; calls `check` with what came of it.
    fn each_fault(
        place: impl Fn() -> Place,
        operation: impl Fn(&Disk, &Place) -> Result<Option<Store>, StoreError>,
        check: impl Fn(&Place, Result<Option<Store>, StoreError>, &Disk),
    ) -> u32 {
        let mut failed = 0;
        for (kind, lasting) in WAYS {
            for n in 1.. {
                let (place, disk) = (place(), Disk::default());
                disk.faults.choose(n, kind, lasting);
                let done = operation(&disk, &place);
                if !disk.faults.mend() {
                    assert!(done.is_ok(), "it fails where nothing did");
                    break;
                }
                failed += 1;
                check(&place, done, &disk);
            }
        }
        failed
    }

    /// What a store that is open does, on a disk that begins to fail.
    fn each_fault_of(change: impl Fn(&mut Store) -> Result<(), StoreError>, new: &[u8]) -> u32 {
        let mut failed = 0;
        for (kind, lasting) in WAYS {
            for (n, crash) in (1..).flat_map(|n| [(n, false), (n, true)]) {
                let (place, disk) = (Place::new(), Disk::default());
                let (mut store, state) = Store::open_on(disk.clone(), &place.store(), &root(1)).unwrap();
                assert_eq!(&state[..], b"old");
                store.log(&record("use")).unwrap();
                disk.faults.choose(n, kind, lasting);
                let done = change(&mut store);
                if crash {
                    drop(store);
                    if !disk.faults.mend() {
                        break;
                    }
                    failed += 1;
                    let (state, _) = place.state();
                    assert!(state == new || (state == b"old" && done.is_err()), "{kind:?} {n}: {done:?}");
                    assert_eq!(place.uses(), 2 + usize::from(done.is_ok() && new == b"use"));
                    continue;
                }
                disk.faults.mend();
                let again = change(&mut store);
                drop(store);
                match again {
                    // It tells that it takes no more; opened again, it does.
                    Err(StoreError::Failed) => {
                        let opened = Store::open(&place.store(), &root(1)).or_else(|_| Store::open(&place.store(), &root(2)));
                        let (mut store, state) = opened.unwrap();
                        assert!(state[..] == *new || (done.is_err() && state[..] == *b"old"));
                        change(&mut store).unwrap();
                    }
                    again => again.unwrap(),
                }
                assert_eq!(place.state().0, new, "{kind:?} {n}");
            }
        }
        failed
    }

    /// What is renamed is durable, and so is the log that it names; the rename is too, before the line of the change follows.
    ///
    /// Proves STO-7 and STO-9: no kill shows what a power cut would.
    #[test]
    fn the_order_of_calls() {
        let (place, disk) = (Place::new(), Disk::default());
        let (mut store, _) = Store::open_on(disk.clone(), &place.store(), &root(1)).unwrap();
        store.sync().unwrap();
        store.log(&record("use")).unwrap();
        disk.faults.mend();
        store.replace(b"new", &record("change")).unwrap();
        let replacing = ["opening", "read", "sync", "remove", "creating", "write", "sync", "rename", "sync_folder", "write"];
        assert_eq!(disk.faults.seen(), replacing);
        disk.faults.mend();
        store.rotate().unwrap();
        let rotating = ["remove", "creating", "write", "sync", "sync", "rename", "rename", "sync_folder"];
        assert_eq!(disk.faults.seen(), rotating);
        disk.faults.mend();
        store.backup(&place.0.path().join("backup")).unwrap();
        let backing_up = ["remove", "creating", "write", "sync", "link", "remove", "sync_folder"];
        assert!(disk.faults.seen().ends_with(&backing_up));
    }

    /// When lines that share a write cannot be written, none of those who wait for them is told; the log goes on without them, or, where
    /// what was half written cannot be cut off, goes on when it is opened again.
    #[test]
    fn lines_together() {
        for (kind, lasting) in WAYS {
            let (place, disk) = (Place::new(), Disk::default());
            let (store, _) = Store::open_on(disk.clone(), &place.store(), &root(1)).unwrap();
            let before = place.uses();
            let told = store.queue(&record("use")).unwrap();
            store.settle(told).unwrap();
            disk.faults.mend();
            let together = [(); 3].map(|()| store.queue(&record("use")).unwrap());
            assert_eq!((disk.faults.seen().len(), place.uses()), (0, before + 1), "nobody has asked for a write");
            disk.faults.choose(1, kind, lasting);
            let settled = together.map(|queued| store.settle(queued));
            assert!(settled.iter().all(Result::is_err), "{kind:?}: {settled:?}");
            disk.faults.mend();
            let (later, again) = (store.queue(&record("use")), store.log(&record("use")));
            let goes_on = again.is_ok();
            assert_eq!(later.and_then(|later| store.settle(later)).is_ok(), goes_on);
            assert!(together.into_iter().all(|queued| store.settle(queued).is_err()), "what was lost stays lost");
            // One call wrote the last two.
            assert_eq!(disk.faults.seen(), if goes_on { vec!["write"] } else { vec![] });
            drop(store);
            place.state();
            let kept = place.uses() - before;
            assert!(if goes_on { kept == 3 } else { (1..4).contains(&kept) }, "{kind:?} {lasting}: {kept}");
        }
    }

    /// What could not be written is told once, though nothing of it waits any more; then that there is no room, as long as there is none.
    #[test]
    fn what_was_refused_is_told() {
        type Act = fn(&mut Store) -> Result<(), StoreError>;
        let use_it: Act = |store| store.queue(&record("use")).and_then(|queued| store.settle(queued));
        let change: Act = |store| store.replace(b"new", &record("change"));
        let full = |store: &Store| match store.check() {
            Err(StoreError::Io { source, .. }) => source.kind() == io::ErrorKind::StorageFull,
            checked => panic!("{checked:?}"),
        };
        // Of a change the log is synced, and the old state looked at, before the new one is written.
        for (act, call) in [(use_it, 1), (change, 4)] {
            let (place, disk) = (Place::new(), Disk::default());
            let (mut store, _) = Store::open_on(disk.clone(), &place.store(), &root(1)).unwrap();
            store.check().unwrap();
            disk.faults.choose(call, Kind::Before, false);
            assert!(act(&mut store).is_err());
            disk.faults.choose(1, Kind::Before, true);
            assert!(full(&store) && disk.faults.seen().is_empty(), "what was refused");
            assert!(full(&store) && full(&store), "there is no room yet");
            disk.faults.mend();
            store.check().unwrap();
            disk.faults.mend();
            store.check().unwrap();
            assert!(disk.faults.seen().is_empty(), "nothing is in doubt");
            act(&mut store).unwrap();
            assert_eq!(place.unfinished(), Vec::<String>::new());
            drop(store);
            place.state();
        }
    }

    /// Lines that nobody settles are written when there are many, before a change, a rotation, a sync and the end.
    #[test]
    fn lines_that_wait() {
        type Act = fn(&mut Store) -> Result<(), StoreError>;
        let acts: [(Act, usize); 5] = [
            (|store| store.replace(b"old", &record("change")), 1),
            (|store| store.rotate(), 1),
            (|store| store.sync(), 1),
            (|_| Ok(()), 1),
            (|store| (0..1000).try_for_each(|_| store.queue(&record("use")).map(drop)), 1001),
        ];
        for (i, (act, uses)) in acts.into_iter().enumerate() {
            let (place, disk) = (Place::new(), Disk::default());
            let (mut store, _) = Store::open_on(disk.clone(), &place.store(), &root(1)).unwrap();
            let before = place.uses();
            disk.faults.mend();
            store.queue(&record("use")).unwrap();
            act(&mut store).unwrap();
            let writes = disk.faults.seen().iter().filter(|call| **call == "write").count();
            assert!(if i == 3 { writes == 0 } else { (1..=4).contains(&writes) }, "{i}: {writes}");
            drop(store);
            place.state();
            assert_eq!(place.uses(), before + uses, "{i}");
        }
    }

    #[test]
    fn replacing() {
        let failed = each_fault_of(|store| store.replace(b"new", &record("change")), b"new");
        assert!(failed > 5 * 9, "{failed}");
    }

    #[test]
    fn changing_the_root_key() {
        let failed = each_fault_of(|store| store.change_root(&root(2), &record("change")), b"old");
        assert!(failed > 5 * 10, "{failed}");
    }

    #[test]
    fn rotating() {
        let failed = each_fault_of(
            |store| {
                store.log(&record("more"))?;
                store.rotate()
            },
            b"old",
        );
        assert!(failed > 5 * 7, "{failed}");
    }

    /// By size, in the middle of a use: a use that was taken is in the log, wherever the rotation ended.
    #[test]
    fn rotating_by_size() {
        for (kind, lasting) in WAYS {
            for n in 1..14 {
                let (place, disk) = (Place::new(), Disk::default());
                let (store, _) = Store::open_on(disk.clone(), &place.store(), &root(1)).unwrap();
                store.rotate_at(1);
                disk.faults.choose(n, kind, lasting);
                let logged = [0; 3].iter().filter(|_| store.log(&record("use")).is_ok()).count();
                assert!(disk.faults.mend());
                drop(store);
                place.state();
                assert_eq!(place.uses(), 1 + logged, "{kind:?} {lasting} {n}");
            }
        }
    }

    /// A use that was refused is not in the log, and one that was not refused is.
    #[test]
    fn logging() {
        for (kind, lasting) in WAYS {
            for n in 1..4 {
                let (place, disk) = (Place::new(), Disk::default());
                let (store, _) = Store::open_on(disk.clone(), &place.store(), &root(1)).unwrap();
                disk.faults.choose(n, kind, lasting);
                let logged = [store.log(&record("use")), store.log(&record("use"))].iter().filter(|done| done.is_ok()).count();
                let synced = store.sync();
                let failed = disk.faults.mend();
                assert!(failed);
                assert!(synced.is_err() || logged < 2 || n > 2, "{kind:?} {n}");
                drop(store);
                let torn = matches!((kind, lasting, n), (Kind::Short, true, _));
                assert!(place.uses() == 1 + logged || torn, "{kind:?} {lasting} {n}: {} {logged}", place.uses());
                place.state();
                assert_eq!(place.uses(), 1 + logged, "{kind:?} {lasting} {n}");
            }
        }
    }

    #[test]
    fn creating() {
        let create = |disk: &Disk, place: &Place| Store::create_on(disk.clone(), &place.store(), &root(1), b"old", 1).map(Some);
        let failed = each_fault(Place::empty, create, |place, done, _| {
            drop(done);
            match Store::create(&place.store(), &root(1), b"old") {
                Ok(_) => {}
                // It was told that it may be there, and it is.
                Err(StoreError::Exists(path)) => assert_eq!(path, place.store().join("state")),
                Err(error) => panic!("{error:?}"),
            }
            assert_eq!(place.state(), (b"old".to_vec(), 1));
        });
        assert!(failed > 5 * 10, "{failed}");
    }

    /// A store whose last line is torn, with files that are not finished: what a crash leaves.
    fn crashed() -> Place {
        let place = Place::new();
        let log = place.store().join("audit.log");
        let content = fs::read(&log).unwrap();
        fs::write(&log, &content[..content.len() - 30]).unwrap();
        for name in ["state.new", "audit.log.new"] {
            fs::write(place.store().join(name), b"half").unwrap();
        }
        place
    }

    #[test]
    fn opening() {
        let open =
            |disk: &Disk, place: &Place| Store::open_on(disk.clone(), &place.store(), &root(1)).map(|(store, _)| Some(store));
        let failed = each_fault(crashed, open, |place, done, _| {
            drop(done);
            assert_eq!(place.state(), (b"old".to_vec(), 2));
        });
        assert!(failed > 5 * 12, "{failed}");
        let place = crashed();
        let (store, _) = Store::open(&place.store(), &root(1)).unwrap();
        let line = store.repaired().unwrap();
        assert!(line.torn_bytes > 100);
        assert_eq!(line, Repaired { torn_bytes: line.torn_bytes, line_added: true });
    }

    fn is_empty(folder: &Path) -> bool {
        fs::read_dir(folder).unwrap().next().is_none()
    }

    #[test]
    fn backing_up() {
        let to = |place: &Place| place.0.path().join("to").join("backup");
        let with_folder = || {
            let place = Place::new();
            fs::create_dir(place.0.path().join("to")).unwrap();
            place
        };
        let back_up = |disk: &Disk, place: &Place| {
            let (mut store, _) = Store::open(&place.store(), &root(1))?;
            store.disk = disk.clone();
            store.backup(&to(place)).map(|_| None)
        };
        let failed = each_fault(with_folder, back_up, |place, done, disk| {
            drop(done);
            let _ = disk;
            assert_eq!(place.state(), (b"old".to_vec(), 2));
            if to(place).exists() {
                let restored = place.0.path().join("again");
                drop(restore(&to(place), &restored, &root(1)).unwrap());
                assert_eq!(&Store::open(&restored, &root(1)).unwrap().1[..], b"old");
            } else {
                let unfinished = to(place).with_file_name("backup.new");
                assert!(is_empty(unfinished.parent().unwrap()) || unfinished.exists());
            }
        });
        assert!(failed > 5 * 7, "{failed}");
    }
}
