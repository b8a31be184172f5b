//! Backups to a disk that fails: the original is as it was, and under the name of the backup there is a whole one or
//! none.

use super::super::BackupReport;
use super::super::verify::verify_on;
use super::*;
use crate::storage::Written;

/// Backs up to a disk on which this may go wrong; returns what came of it, and the disk.
fn back_up(store: &Store, target: &RealDisk, fault: Option<Fault>) -> (Result<BackupReport>, FaultyDisk) {
    let disk = std::cell::OnceCell::new();
    let above = target.above().locate("");
    let backed_up = store.backup_through(&target.locate(""), &|place| {
        if place.locate("") == above {
            return Arc::new(place);
        }
        let faulty = FaultyDisk::new(place);
        if let Some(fault) = fault {
            faulty.inject(fault);
        }
        disk.set(faulty.clone()).expect("a backup goes to one disk");
        Arc::new(faulty)
    });
    (backed_up, disk.into_inner().expect("a backup goes to a disk"))
}

/// Fails each call of a backup in turn; returns how many there are.
fn fail_at_each(fault: Fault) -> u64 {
    let store = open(&filled(), options()).unwrap();
    let picture = Picture::of(&store).unwrap();
    for after in 0.. {
        let directory = scratch();
        let target = RealDisk::new(directory.path().join("backup"));
        let fault = Fault { after, ..fault };
        let (backed_up, disk) = back_up(&store, &target, Some(fault));
        let failed = disk.failed_calls();
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
        check(target, &picture, &format!("{fault:?}"));
        if failed == 0 {
            return after;
        }
    }
    unreachable!()
}

/// The sync of its name is the last of a backup. It called the place taken where that failed, by the backup itself.
#[test]
fn a_backup_whose_name_cannot_be_synced_is_an_error_and_leaves_nothing() {
    let store = open(&filled(), options()).unwrap();
    let directory = scratch();
    let target = RealDisk::new(directory.path().join("backup"));
    let above = target.above().locate("");
    let backed_up = store.backup_through(&target.locate(""), &|place| {
        let disk = FaultyDisk::new(place);
        if disk.locate("") == above {
            disk.inject(Fault::next(Call::SyncDir));
        }
        Arc::new(disk)
    });
    let error = backed_up.unwrap_err();
    let is_sync =
        matches!(&error, Error::Io { operation: "sync the directory of", path, .. } if *path == target.locate(""));
    assert!(is_sync, "{error:?}");
    assert!(RealDisk::new(directory.path()).directories().unwrap().is_empty());
    store.backup(target.locate("")).unwrap();
    check(target, &Picture::of(&store).unwrap(), "the second time");
}

/// A backup holds the events and the state, without what belongs to the old history.
fn check(target: impl Disk + 'static, picture: &Picture, context: &str) {
    let target: Arc<dyn Disk> = Arc::new(target);
    let report = verify_on(&target, &mut |_| {}).unwrap();
    assert!(report.problems.is_empty(), "{context}: {:?}", report.problems);
    let backup = Store::open_on(target, options(), false).unwrap();
    assert_eq!(backup.open_report().confirmed_bytes, 0, "{context}: a backup says that all of it is synced");
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

/// What a backup had not synced when it returned may be gone.
#[test]
fn a_backup_that_was_made_is_whole_after_a_loss_of_power() {
    let store = open(&filled(), options()).unwrap();
    let picture = Picture::of(&store).unwrap();
    let directory = scratch();
    let (backed_up, disk) = back_up(&store, &RealDisk::new(directory.path().join("backup")), None);
    backed_up.unwrap();
    for seed in 0..50 {
        check(disk.power_cut(seed), &picture, &format!("seed {seed}"));
    }
}

#[test]
fn a_write_that_fails_in_its_middle_leaves_a_whole_backup_or_none() {
    for written in [Written::Half, Written::Everything] {
        assert!(fail_at_each(Fault { written, ..Fault::next(Call::Write) }) > 4);
    }
}
