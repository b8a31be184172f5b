//! What every disk does, checked on each of them.

use std::io::ErrorKind;
use std::sync::Arc;

use super::{
    Access, Disk, File, FileSystem, FileWriter, MemoryDisk, PublishedFile, ReadMode, SimulatedDisk, read_exact_at,
};

/// Runs each check on a new memory disk, on simulated ones, and in a new directory.
macro_rules! on_every_disk {
    ($($check:ident,)+) => {
        mod memory {
            $(#[test]
            fn $check() {
                let disk = super::MemoryDisk::new();
                super::$check(&disk);
            })+
        }

        mod simulated {
            $(#[test]
            fn $check() {
                for file_system in [super::FileSystem::Strict, super::FileSystem::Ext4] {
                    super::$check(&super::SimulatedDisk::new(file_system, 1));
                }
            })+
        }

        // Miri knows neither file maps nor locks.
        #[cfg(not(miri))]
        mod real {
            $(#[test]
            fn $check() {
                let dir = tempfile::tempdir().unwrap();
                super::$check(&super::super::RealDisk::new(dir.path().join("below/store")));
            })+
        }

        #[cfg(not(miri))]
        mod recorded {
            $(#[test]
            fn $check() {
                let dir = tempfile::tempdir().unwrap();
                let real = super::super::RealDisk::new(dir.path().join("below/store"));
                super::$check(&super::super::RecordingDisk::new(real));
            })+
        }
    };
}

on_every_disk! {
    a_disk_exists_once_it_was_created,
    directories_come_with_their_parents,
    a_directory_is_not_made_over_a_file,
    lists_name_files_only,
    what_is_missing_is_not_found,
    only_empty_directories_are_removed,
    reads_end_at_the_end_of_the_file,
    writes_may_leave_a_gap_of_zeros,
    creating_again_empties_the_file,
    a_file_open_for_reading_is_not_written,
    allocation_adds_zeros_and_keeps_what_is_there,
    a_rename_replaces_and_open_files_stay,
    a_removed_file_stays_readable,
    a_lock_excludes_every_other_handle,
    a_map_shows_what_is_written_later,
    a_map_outlives_its_file,
    a_map_stays_when_the_file_grows,
    a_map_is_never_longer_than_the_file,
    an_empty_file_can_be_published,
    published_bytes_are_read_in_both_modes,
    a_growing_file_shows_what_was_published,
    a_growing_file_refuses_what_does_not_fit,
    a_file_shorter_than_published_is_refused,
    readers_see_only_final_bytes_while_a_writer_publishes,
}

fn created(disk: &dyn Disk, path: &str, bytes: &[u8]) -> Arc<dyn File> {
    disk.create_dir("").unwrap();
    let file = disk.create(path).unwrap();
    file.write_at(bytes, 0).unwrap();
    file
}

fn contents(file: &dyn File) -> Vec<u8> {
    let mut bytes = vec![0xEE; file.len().unwrap() as usize];
    read_exact_at(file, &mut bytes, 0).unwrap();
    bytes
}

fn sorted_list(disk: &dyn Disk, dir: &str) -> Vec<String> {
    let mut names = disk.list(dir).unwrap();
    names.sort();
    names
}

#[track_caller]
fn assert_kind<T: std::fmt::Debug>(result: std::io::Result<T>, kind: ErrorKind) {
    assert_eq!(result.unwrap_err().kind(), kind);
}

fn a_disk_exists_once_it_was_created(disk: &dyn Disk) {
    assert!(!disk.exists());
    assert_kind(disk.create("file"), ErrorKind::NotFound);
    assert_eq!(disk.list("").unwrap(), Vec::<String>::new());
    disk.create_dir("").unwrap();
    assert!(disk.exists());
    disk.create_dir("").unwrap();
    disk.sync_dir("").unwrap();
}

fn directories_come_with_their_parents(disk: &dyn Disk) {
    disk.create_dir("a/b/c").unwrap();
    assert!(disk.exists());
    created(disk, "a/b/c/file", b"x");
    disk.create_dir("a/b/c").unwrap();
    disk.create_dir("a/b/d").unwrap();
    assert_eq!(sorted_list(disk, "a/b/c"), ["file"]);
    assert_eq!(sorted_list(disk, "a/b"), Vec::<String>::new());
    for dir in ["", "a", "a/b", "a/b/c"] {
        disk.sync_dir(dir).unwrap();
    }
}

fn a_directory_is_not_made_over_a_file(disk: &dyn Disk) {
    created(disk, "file", b"x");
    assert_kind(disk.create_dir("file"), ErrorKind::AlreadyExists);
    assert!(disk.create_dir("file/below").is_err());
}

fn lists_name_files_only(disk: &dyn Disk) {
    disk.create_dir("dir/below").unwrap();
    for path in ["one", "dir/two", "dir/three", "dir/below/four"] {
        created(disk, path, b"");
    }
    assert_eq!(sorted_list(disk, ""), ["one"]);
    assert_eq!(sorted_list(disk, "dir"), ["three", "two"]);
    assert_eq!(sorted_list(disk, "nowhere"), Vec::<String>::new());
}

fn what_is_missing_is_not_found(disk: &dyn Disk) {
    disk.create_dir("").unwrap();
    assert_kind(disk.open("file", Access::Read), ErrorKind::NotFound);
    assert_kind(disk.open("file", Access::ReadWrite), ErrorKind::NotFound);
    assert_kind(disk.create("dir/file"), ErrorKind::NotFound);
    assert_kind(disk.rename("file", "other"), ErrorKind::NotFound);
    assert_kind(disk.remove("file"), ErrorKind::NotFound);
    assert_kind(disk.remove_dir("dir"), ErrorKind::NotFound);
    assert_kind(disk.lock("dir/lock"), ErrorKind::NotFound);
}

fn only_empty_directories_are_removed(disk: &dyn Disk) {
    disk.create_dir("a/b").unwrap();
    created(disk, "a/b/file", b"x");
    assert_kind(disk.remove_dir("a"), ErrorKind::DirectoryNotEmpty);
    assert_kind(disk.remove_dir("a/b"), ErrorKind::DirectoryNotEmpty);
    disk.remove("a/b/file").unwrap();
    disk.remove_dir("a/b").unwrap();
    disk.remove_dir("a").unwrap();
    assert_kind(disk.create("a/file"), ErrorKind::NotFound);
}

fn reads_end_at_the_end_of_the_file(disk: &dyn Disk) {
    let file = created(disk, "file", b"0123456789");
    assert_eq!(file.len().unwrap(), 10);
    let mut buffer = [0; 8];
    assert_eq!(file.read_at(&mut buffer, 0).unwrap(), 8);
    assert_eq!(&buffer, b"01234567");
    assert_eq!(file.read_at(&mut buffer, 6).unwrap(), 4);
    assert_eq!(&buffer[..4], b"6789");
    assert_eq!(file.read_at(&mut buffer, 10).unwrap(), 0);
    assert_eq!(file.read_at(&mut buffer, 11).unwrap(), 0);
    assert_eq!(file.read_at(&mut [], 3).unwrap(), 0);
    assert_kind(read_exact_at(&*file, &mut buffer, 3), ErrorKind::UnexpectedEof);
    read_exact_at(&*file, &mut buffer, 2).unwrap();
    assert_eq!(&buffer, b"23456789");
    file.sync().unwrap();
}

fn writes_may_leave_a_gap_of_zeros(disk: &dyn Disk) {
    let file = created(disk, "file", b"abc");
    file.write_at(b"xyz", 5).unwrap();
    file.write_at(b"B", 1).unwrap();
    file.write_at(b"", 100).unwrap();
    assert_eq!(contents(&*file), b"aBc\0\0xyz");
    assert_eq!(contents(&*disk.open("file", Access::Read).unwrap()), b"aBc\0\0xyz");
}

fn creating_again_empties_the_file(disk: &dyn Disk) {
    let first = created(disk, "file", b"a long text");
    let second = disk.create("file").unwrap();
    assert_eq!(second.len().unwrap(), 0);
    second.write_at(b"b", 2).unwrap();
    assert_eq!(contents(&*first), b"\0\0b", "it is the same file");
}

fn a_file_open_for_reading_is_not_written(disk: &dyn Disk) {
    created(disk, "file", b"abc");
    let file = disk.open("file", Access::Read).unwrap();
    assert!(file.write_at(b"x", 0).is_err());
    assert!(file.allocate(100).is_err());
    assert_eq!(contents(&*file), b"abc");
}

fn allocation_adds_zeros_and_keeps_what_is_there(disk: &dyn Disk) {
    let file = created(disk, "file", b"abc");
    file.allocate(0).unwrap();
    file.allocate(2).unwrap();
    assert_eq!(contents(&*file), b"abc");
    file.allocate(600_000).unwrap();
    let bytes = contents(&*file);
    assert_eq!((bytes.len(), &bytes[..3]), (600_000, &b"abc"[..]));
    assert!(bytes[3..].iter().all(|byte| *byte == 0));
}

fn a_rename_replaces_and_open_files_stay(disk: &dyn Disk) {
    let old = created(disk, "to", b"old");
    let new = created(disk, "from", b"new");
    disk.rename("from", "to").unwrap();
    assert_eq!(sorted_list(disk, ""), ["to"]);
    assert_eq!(contents(&*disk.open("to", Access::Read).unwrap()), b"new");
    new.write_at(b"N", 0).unwrap();
    assert_eq!(contents(&*disk.open("to", Access::Read).unwrap()), b"New");
    assert_eq!(contents(&*old), b"old");
}

fn a_removed_file_stays_readable(disk: &dyn Disk) {
    let file = created(disk, "file", b"abc");
    disk.remove("file").unwrap();
    assert_eq!(sorted_list(disk, ""), Vec::<String>::new());
    assert_eq!(contents(&*file), b"abc");
    created(disk, "file", b"another");
    assert_eq!(contents(&*file), b"abc");
}

fn a_lock_excludes_every_other_handle(disk: &dyn Disk) {
    disk.create_dir("").unwrap();
    let lock = disk.lock("lock").unwrap();
    assert!(lock.is_some());
    assert!(disk.lock("lock").unwrap().is_none());
    assert!(disk.lock("lock").unwrap().is_none(), "a failed attempt takes nothing away");
    assert!(disk.lock("another").unwrap().is_some());
    drop(lock);
    assert!(disk.lock("lock").unwrap().is_some());
    assert_eq!(sorted_list(disk, ""), ["another", "lock"]);
}

fn opened(disk: &dyn Disk, path: &str, published: u64) -> (Arc<PublishedFile>, FileWriter) {
    PublishedFile::open_growing(disk.open(path, Access::ReadWrite).unwrap(), ReadMode::Map, published).unwrap()
}

fn a_map_shows_what_is_written_later(disk: &dyn Disk) {
    created(disk, "file", b"abc").allocate(64).unwrap();
    let (published, mut writer) = opened(disk, "file", 3);
    // Written through the writer, and through another handle as if by another process.
    writer.write(b"de", 3).unwrap();
    disk.open("file", Access::ReadWrite).unwrap().write_at(b"f", 5).unwrap();
    assert_eq!(published.slice_to_end(0).unwrap(), b"abc");
    writer.publish(6);
    assert_eq!(published.slice_to_end(0).unwrap(), b"abcdef");
}

fn a_map_outlives_its_file(disk: &dyn Disk) {
    created(disk, "file", b"abc");
    let published = PublishedFile::open_immutable(disk.open("file", Access::Read).unwrap(), ReadMode::Map).unwrap();
    disk.remove("file").unwrap();
    created(disk, "file", b"xyz");
    assert_eq!(published.slice(0, 3).unwrap(), b"abc");
}

fn a_map_stays_when_the_file_grows(disk: &dyn Disk) {
    let file = created(disk, "file", b"abc");
    file.allocate(16).unwrap();
    let (published, mut writer) = opened(disk, "file", 3);
    let before = published.slice(0, 3).unwrap();
    file.allocate(100_000).unwrap();
    writer.write(b"def", 3).unwrap();
    file.write_at(b"behind the map", 16).unwrap();
    writer.publish(16);
    assert_eq!(before, b"abc");
    assert_eq!(published.slice(0, 16).unwrap(), b"abcdef\0\0\0\0\0\0\0\0\0\0");
    assert_eq!(&contents(&*file)[..30], b"abcdef\0\0\0\0\0\0\0\0\0\0behind the map");
    assert_eq!(published.capacity(), 16, "it was mapped at its old length");
}

fn a_map_is_never_longer_than_the_file(disk: &dyn Disk) {
    let file = created(disk, "file", b"abc");
    assert_kind(file.map(4), ErrorKind::InvalidInput);
    assert_eq!(file.map(3).unwrap().len(), 3);
    assert_eq!(file.map(2).unwrap().len(), 2);
}

fn an_empty_file_can_be_published(disk: &dyn Disk) {
    let file = created(disk, "file", b"");
    for mode in [ReadMode::Map, ReadMode::Pread] {
        let published = PublishedFile::open_immutable(Arc::clone(&file), mode).unwrap();
        assert_eq!((published.published(), published.capacity()), (0, 0));
        assert_eq!(published.read(0, 0, &mut Vec::new()).unwrap(), b"");
        assert_kind(published.read(0, 1, &mut Vec::new()), ErrorKind::UnexpectedEof);
    }
}

fn published_bytes_are_read_in_both_modes(disk: &dyn Disk) {
    let file = created(disk, "file", b"0123456789");
    for mode in [ReadMode::Map, ReadMode::Pread] {
        let published = PublishedFile::open_immutable(Arc::clone(&file), mode).unwrap();
        let is_mapped = mode == ReadMode::Map;
        let mut scratch = Vec::new();
        assert_eq!(published.is_mapped(), is_mapped);
        assert_eq!(published.slice(2, 3), is_mapped.then_some(&b"234"[..]));
        assert_eq!(published.slice_to_end(8), is_mapped.then_some(&b"89"[..]));
        assert_eq!(published.slice_to_end(10), is_mapped.then_some(&b""[..]));
        assert_eq!(published.slice_to_end(11), None);
        assert_eq!(published.read(1, 8, &mut scratch).unwrap(), b"12345678");
        assert_eq!(published.read(4, 2, &mut scratch).unwrap(), b"45");
        assert_eq!(published.read(10, 0, &mut scratch).unwrap(), b"");
        for (offset, len) in [(10, 1), (0, 11), (11, 0), (u64::MAX, 1), (1, usize::MAX), (u64::MAX, usize::MAX)] {
            assert_eq!(published.slice(offset, len), None);
            assert_kind(published.read(offset, len, &mut scratch), ErrorKind::UnexpectedEof);
        }
    }
}

fn a_growing_file_shows_what_was_published(disk: &dyn Disk) {
    for mode in [ReadMode::Map, ReadMode::Pread] {
        let file = created(disk, "file", b"head");
        file.allocate(32).unwrap();
        let (published, mut writer) = PublishedFile::open_growing(file, mode, 4).unwrap();
        let mut scratch = Vec::new();
        assert_eq!((published.published(), published.capacity()), (4, 32));
        writer.write(b"body", 4).unwrap();
        assert_kind(published.read(0, 5, &mut scratch), ErrorKind::UnexpectedEof);
        writer.write(b"BODY", 4).unwrap();
        writer.publish(8);
        writer.publish(8);
        assert_eq!(published.read(0, 8, &mut scratch).unwrap(), b"headBODY");
        writer.publish(32);
        assert_eq!(published.read(8, 24, &mut scratch).unwrap(), [0; 24]);
        writer.file().sync().unwrap();
        assert_eq!(published.file().is_some(), mode == ReadMode::Pread, "a map needs no descriptor");
    }
}

fn a_growing_file_refuses_what_does_not_fit(disk: &dyn Disk) {
    let file = created(disk, "file", &[7; 16]);
    let (_, mut writer) = PublishedFile::open_growing(Arc::clone(&file), ReadMode::Map, 8).unwrap();
    writer.write(&[1; 8], 8).unwrap();
    assert_kind(writer.write(&[1; 9], 8), ErrorKind::InvalidInput);
    assert_kind(writer.write(&[1], 16), ErrorKind::InvalidInput);
    assert_kind(writer.write(&[1], u64::MAX), ErrorKind::InvalidInput);
    assert_eq!(file.len().unwrap(), 16);
}

fn a_file_shorter_than_published_is_refused(disk: &dyn Disk) {
    let file = created(disk, "file", b"abc");
    assert_kind(PublishedFile::open_growing(file, ReadMode::Map, 4), ErrorKind::UnexpectedEof);
}

/// Under Miri this is the proof that writes behind the published end do not race with slices before it.
fn readers_see_only_final_bytes_while_a_writer_publishes(disk: &dyn Disk) {
    const CHUNK: usize = 8;
    let chunks = if cfg!(miri) { 20 } else { 2_000 };
    created(disk, "file", b"").allocate((chunks * CHUNK) as u64).unwrap();
    let (published, mut writer) = opened(disk, "file", 0);
    let reader = std::thread::spawn(move || {
        loop {
            let bytes = published.slice_to_end(0).unwrap();
            assert_eq!(bytes.len() % CHUNK, 0);
            assert!(bytes.chunks(CHUNK).all(|chunk| chunk == [0xAB; CHUNK]));
            if bytes.len() == chunks * CHUNK {
                break;
            }
        }
    });
    for number in 0..chunks {
        let offset = (number * CHUNK) as u64;
        writer.write(&[0xCD; CHUNK], offset).unwrap();
        writer.write(&[0xAB; CHUNK], offset).unwrap();
        writer.publish(offset + CHUNK as u64);
    }
    reader.join().unwrap();
}
