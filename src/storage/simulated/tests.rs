//! What a crash leaves, call by call.

use std::collections::BTreeSet;

use super::super::read_exact_at;
use super::*;

const SEEDS: u64 = 200;

fn disk(file_system: FileSystem, seed: u64) -> SimulatedDisk {
    let disk = SimulatedDisk::new(file_system, seed);
    disk.create_dir("log").unwrap();
    disk
}

fn contents(disk: &SimulatedDisk, path: &str) -> Option<Vec<u8>> {
    let file = disk.open(path, Access::Read).ok()?;
    let mut bytes = vec![0; file.len().unwrap() as usize];
    read_exact_at(&*file, &mut bytes, 0).unwrap();
    Some(bytes)
}

/// What a file can hold after a script and a loss of power, over many seeds.
fn outcomes(file_system: FileSystem, path: &str, script: impl Fn(&SimulatedDisk)) -> BTreeSet<Option<Vec<u8>>> {
    let outcome = |seed| {
        let disk = disk(file_system, seed);
        script(&disk);
        disk.stop();
        disk.cut_power();
        contents(&disk, path)
    };
    (0..SEEDS).map(outcome).collect()
}

fn write_synced(disk: &SimulatedDisk, path: &str, bytes: &[u8]) -> Arc<dyn File> {
    let file = disk.create(path).unwrap();
    file.write_at(bytes, 0).unwrap();
    file.sync().unwrap();
    file
}

#[test]
fn what_was_synced_with_its_name_is_all_that_is_sure() {
    for file_system in [FileSystem::Strict, FileSystem::Ext4] {
        let sure = outcomes(file_system, "log/file", |disk| {
            write_synced(disk, "log/file", b"synced");
            disk.sync_dir("log").unwrap();
        });
        assert_eq!(sure, BTreeSet::from([Some(b"synced".to_vec())]));
    }
}

#[test]
fn a_name_is_durable_with_its_directory_or_with_the_journal() {
    let script = |disk: &SimulatedDisk| drop(write_synced(disk, "log/file", b"synced"));
    let found = || Some(b"synced".to_vec());
    assert_eq!(outcomes(FileSystem::Strict, "log/file", script), BTreeSet::from([None, found()]));
    assert_eq!(outcomes(FileSystem::Ext4, "log/file", script), BTreeSet::from([found()]));
    let elsewhere = |disk: &SimulatedDisk| {
        script(disk);
        disk.sync_dir("").unwrap();
    };
    assert_eq!(outcomes(FileSystem::Strict, "log/file", elsewhere), BTreeSet::from([None, found()]));
}

#[test]
fn a_rename_is_made_whole_or_not_at_all() {
    let script = |disk: &SimulatedDisk| {
        write_synced(disk, "log/to", b"old");
        write_synced(disk, "log/from", b"new");
        disk.sync_dir("log").unwrap();
        disk.rename("log/from", "log/to").unwrap();
    };
    let expected = BTreeSet::from([Some(b"old".to_vec()), Some(b"new".to_vec())]);
    assert_eq!(outcomes(FileSystem::Strict, "log/to", script), expected);
    assert_eq!(outcomes(FileSystem::Strict, "log/from", script), BTreeSet::from([None, Some(b"new".to_vec())]));
}

#[test]
fn unsynced_sectors_arrive_one_without_the_other_and_never_in_part() {
    let found = outcomes(FileSystem::Strict, "log/file", |disk| {
        let file = write_synced(disk, "log/file", &[1; 2048]);
        disk.sync_dir("log").unwrap();
        file.write_at(&[2; 1024], 512).unwrap();
        file.write_at(&[3; 512], 1024).unwrap();
    });
    let mut sectors = BTreeSet::new();
    for bytes in found.into_iter().flatten() {
        assert!(bytes.chunks(512).all(|sector| sector.iter().all(|byte| *byte == sector[0])));
        sectors.insert((bytes[512], bytes[1024]));
        assert_eq!((bytes.len(), bytes[0], bytes[1536]), (2048, 1, 1));
    }
    assert_eq!(sectors, BTreeSet::from([(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)]));
}

#[test]
fn space_that_was_not_synced_shows_rubbish_only_where_that_is_allowed() {
    let script = |disk: &SimulatedDisk| {
        let file = write_synced(disk, "log/file", b"");
        disk.sync_dir("log").unwrap();
        file.allocate(4096).unwrap();
    };
    let is_zero = |found: &Option<Vec<u8>>| found.iter().flatten().all(|byte| *byte == 0);
    assert!(outcomes(FileSystem::Ext4, "log/file", script).iter().all(is_zero));
    let strict = outcomes(FileSystem::Strict, "log/file", script);
    assert!(strict.iter().any(|found| !is_zero(found)) && strict.contains(&Some(vec![0; 4096])));
}

#[test]
fn a_page_that_is_written_back_is_durable_before_the_sync_as_programs_see_it() {
    let found = outcomes(FileSystem::Strict, "log/file", |disk| {
        let file = write_synced(disk, "log/file", &[1; 8192]);
        disk.sync_dir("log").unwrap();
        disk.write_back_in(2);
        file.write_at(&[2; 8192], 0).unwrap();
        file.write_at(&[3; 512], 0).unwrap();
        disk.sync_dir("log").unwrap();
    });
    let found: BTreeSet<(u8, u8)> = found.into_iter().flatten().map(|bytes| (bytes[0], bytes[4096])).collect();
    // Of one page never what was there before it was written back, of the other anything.
    assert!(found.is_superset(&BTreeSet::from([(1, 1), (1, 2), (2, 1), (3, 1), (3, 2)])), "{found:?}");
}

#[test]
fn what_is_written_back_is_what_a_sync_makes_of_it() {
    for seed in 0..SEEDS {
        let disk = disk(FileSystem::Strict, seed);
        let file = write_synced(&disk, "log/file", b"");
        disk.sync_dir("log").unwrap();
        disk.write_back_in(2);
        let mut dice = Dice::new(seed);
        for byte in 0..20 {
            let (offset, length) = (dice.below(20_000), 1 + dice.below(9_000));
            file.write_at(&vec![byte; length as usize], offset).unwrap();
        }
        let before = contents(&disk, "log/file");
        file.sync().unwrap();
        disk.stop();
        disk.cut_power();
        assert_eq!(contents(&disk, "log/file"), before, "seed {seed}");
    }
}

/// The next sync succeeds, and the cache shows what the disk does not have.
#[test]
fn a_failed_sync_loses_its_writes_and_the_cache_keeps_them() {
    let found = outcomes(FileSystem::Strict, "log/file", |disk| {
        let file = write_synced(disk, "log/file", b"old");
        disk.sync_dir("log").unwrap();
        file.write_at(b"new", 0).unwrap();
        disk.inject(Fault::next(Call::Sync));
        file.sync().unwrap_err();
        file.sync().unwrap();
        assert_eq!(contents(disk, "log/file").unwrap(), b"new");
        disk.kill();
        assert_eq!(contents(disk, "log/file").unwrap(), b"new");
    });
    assert!(found.contains(&Some(b"old".to_vec())), "{found:?}");
}

#[test]
fn the_power_is_lost_in_the_middle_of_a_call_and_every_later_one_fails() {
    let found = outcomes(FileSystem::Strict, "log/file", |disk| {
        let file = write_synced(disk, "log/file", b"old");
        disk.sync_dir("log").unwrap();
        disk.lose_power_after(1);
        file.write_at(b"one", 0).unwrap();
        file.write_at(b"two", 0).unwrap_err();
        file.sync().unwrap_err();
        disk.open("log/file", Access::Read).unwrap_err();
        disk.lock("lock").unwrap_err();
    });
    let all = [b"old", b"one", b"two"].map(|bytes| Some(bytes.to_vec()));
    assert_eq!(found, BTreeSet::from(all));
}

#[test]
fn a_file_of_an_earlier_life_takes_no_calls_and_its_map_stays() {
    let disk = disk(FileSystem::Strict, 1);
    let file = write_synced(&disk, "log/file", b"old");
    disk.sync_dir("log").unwrap();
    let published =
        super::super::PublishedFile::open_immutable(Arc::clone(&file), super::super::ReadMode::Map).unwrap();
    disk.stop();
    disk.cut_power();
    file.write_at(b"new", 0).unwrap_err();
    disk.open("log/file", Access::ReadWrite).unwrap().write_at(b"new", 0).unwrap();
    assert_eq!(published.slice(0, 3), Some(&b"old"[..]));
    assert_eq!(contents(&disk, "log/file").unwrap(), b"new");
}

#[test]
fn faults_hit_the_call_that_they_name_once_or_for_ever() {
    let disk = disk(FileSystem::Strict, 1);
    let file = disk.create("log/file").unwrap();
    disk.inject(Fault { after: 1, ..Fault::next(Call::Write) });
    let told: Vec<bool> = (0..4).map(|_| file.write_at(b"x", 0).is_ok()).collect();
    assert_eq!(told, [true, false, true, true]);
    disk.inject(Fault { forever: true, ..Fault::next(Call::Rename) });
    for _ in 0..3 {
        disk.rename("log/file", "log/other").unwrap_err();
    }
    for call in [Call::Map, Call::Allocate, Call::SyncDir] {
        disk.inject(Fault::next(call));
    }
    assert!(file.map(0).is_err() && file.allocate(1).is_err() && disk.sync_dir("log").is_err());
    file.map(0).unwrap();
    disk.set_budget(disk.used() + 1);
    assert_eq!(file.allocate(1 << 20).unwrap_err().kind(), io::ErrorKind::StorageFull);
}
