//! Backups to a disk that fails: the original is as it was, and under the name of the backup there is a whole one or
//! none.

use super::*;
use crate::storage::Written;
use crate::verify;

/// Backs up to a disk on which this goes wrong; returns what came of it, and how many calls have failed.
fn back_up(store: &Store, target: &RealDisk, fault: Fault) -> (Result<super::super::BackupReport>, u64) {
    let disk = std::cell::OnceCell::new();
    let backed_up = store.backup_through(&target.locate(""), &|place| {
        let faulty = FaultyDisk::new(place);
        faulty.inject(fault);
        disk.set(faulty.clone()).expect("a backup goes to one disk");
        Arc::new(faulty)
    });
    (backed_up, disk.get().map_or(0, FaultyDisk::failed_calls))
}

/// Fails each call of a backup in turn; returns how many there are.
fn fail_at_each(fault: Fault) -> u64 {
    let store = open(&filled(), options()).unwrap();
    let picture = Picture::of(&store).unwrap();
    for after in 0.. {
        let directory = scratch();
        let target = RealDisk::new(directory.path().join("backup"));
        let fault = Fault { after, ..fault };
        let (backed_up, failed) = back_up(&store, &target, fault);
        Picture::of(&store).unwrap().assert_is(&picture, &format!("{fault:?}: the original"));
        match backed_up {
            Ok(_) => {}
            Err(Error::Io { .. } | Error::Full { .. } | Error::Indeterminate { .. }) if failed > 0 => {
                assert!(target.is_vacant().unwrap(), "{fault:?}: half of a backup");
                let left = RealDisk::new(directory.path()).directories().unwrap();
                assert!(fault.forever || fault.call == Some(Call::Remove) || left.is_empty(), "{fault:?}: {left:?}");
            }
            Err(error) => panic!("{fault:?}: {error:?}"),
        }
        if target.is_vacant().unwrap() {
            store.backup(target.locate("")).unwrap();
        }
        check(&target, &picture, &format!("{fault:?}"));
        if failed == 0 {
            return after;
        }
    }
    unreachable!()
}

/// A backup holds the events and the state, without what belongs to the old history.
fn check(target: &RealDisk, picture: &Picture, context: &str) {
    let report = verify(target.locate(""), &mut |_| {}).unwrap();
    assert!(report.problems.is_empty(), "{context}: {:?}", report.problems);
    let backup = Store::open_on(Arc::new(target.clone()), options(), false).unwrap();
    let found = Picture::of(&backup).unwrap();
    found.assert_is(&Picture { snapshot: None, ..picture.clone() }, context);
}

#[test]
fn a_call_that_fails_leaves_a_whole_backup_or_none() {
    for call in [Call::Create, Call::CreateDir, Call::Write, Call::Allocate, Call::Sync, Call::SyncDir, Call::Rename] {
        for (kind, forever) in [(ErrorKind::Other, false), (ErrorKind::Other, true), (ErrorKind::StorageFull, true)] {
            let calls = fail_at_each(Fault { forever, ..Fault::next(call).kind(kind) });
            assert!(calls > 0, "{call:?}");
        }
    }
}

#[test]
fn a_write_that_fails_in_its_middle_leaves_a_whole_backup_or_none() {
    for written in [Written::Half, Written::Everything] {
        assert!(fail_at_each(Fault { written, ..Fault::next(Call::Write) }) > 4);
    }
}
