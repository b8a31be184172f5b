//! The limit on open files.

use std::os::fd::AsRawFd;

use annals::{Error, Store, StoreDirectory};
use rustix::process::Resource;

use super::alone::{Held, alone, limited};
use super::support::{Story, directory, files, options, os_error, put_files};

/// "Too many open files".
const EMFILE: i32 = 24;

/// The number that the next file gets.
fn next_file() -> u64 {
    std::fs::File::open("/dev/null").unwrap().as_raw_fd() as u64
}

/// At every number of files that is too small, from none on.
#[test]
fn too_few_files_are_an_error_at_each_of_their_places() {
    alone("files::too_few_files_are_an_error_at_each_of_their_places", || {
        let directory = directory();
        let whole = directory.path().join("whole");
        let mut begun = Story::default();
        begun.tell(&whole, options());
        assert!(begun.failures.is_empty(), "{:?}", begun.failures);
        let begun_files = files(&whole);
        let held = Held::now(directory.path());
        let mut too_few = 0;
        for room in 0.. {
            // The same store each time: one that grows has more files to open.
            let path = directory.path().join(format!("room-{room}"));
            put_files(&path, &begun_files);
            let mut story = begun.clone();
            limited(Resource::Nofile, next_file() + room, || story.tell(&path, options()));
            for failure in &story.failures {
                assert_eq!(os_error(failure), Some(EMFILE), "room for {room} files: {failure:?}");
            }
            held.assert_again(directory.path(), &format!("room for {room} files"));
            let is_enough = story.failures.is_empty();
            story.end(&path, options());
            held.assert_again(directory.path(), &format!("behind room for {room} files"));
            if is_enough {
                break;
            }
            too_few += 1;
        }
        println!("{too_few} numbers of files were too few");
        assert!(too_few > 4, "{too_few}");
    });
}

/// What was open goes on when there are files again.
#[test]
fn a_store_that_is_open_goes_on_when_there_are_files_again() {
    alone("files::a_store_that_is_open_goes_on_when_there_are_files_again", || {
        let directory = directory();
        let path = directory.path().join("store");
        let mut story = Story::default();
        story.tell(&path, options());
        let held = Held::now(directory.path());
        for room in 0..6 {
            let store = options().open(&path).unwrap();
            limited(Resource::Nofile, next_file() + room, || {
                (0..30).for_each(|_| story.append(&store));
                story.look(&store);
            });
            assert!(story.failures.iter().all(|failure| os_error(failure) == Some(EMFILE)), "{:?}", story.failures);
            assert!(room > 0 || !story.failures.is_empty(), "30 appends roll");
            story.failures.clear();
            let before = story.acknowledged.len();
            (0..30).for_each(|_| story.append(&store));
            story.look(&store);
            assert!(story.failures.is_empty(), "{:?}", story.failures);
            assert_eq!((story.acknowledged.len(), story.in_doubt.len()), (before + 30, 0));
            drop(store);
            held.assert_again(directory.path(), &format!("room for {room} files"));
        }
        story.end(&path, options());
    });
}

/// A store may have more segments than a process may have files: what is sealed is read through its map, which needs none.
#[test]
fn a_store_has_more_segments_than_its_process_may_have_open_files() {
    alone("files::a_store_has_more_segments_than_its_process_may_have_open_files", || {
        let directory = directory();
        let path = directory.path().join("store");
        let mut story = Story::default();
        let most = next_file() + 40;
        limited(Resource::Nofile, most, || {
            let store = options().open(&path).unwrap();
            (0..1_000).for_each(|_| story.append(&store));
            story.look(&store);
            drop(store);
            story.tell(&path, options());
        });
        assert!(story.failures.is_empty(), "{:?}", story.failures);
        let segments = std::fs::read_dir(path.join("log")).unwrap().count() as u64;
        let positions = std::fs::read_dir(path.join("index")).unwrap().count() as u64;
        assert!(segments > 2 * most && positions > 2 * most, "{segments} segments, {positions} files of the index");
        story.end(&path, options());
    });
}

/// A name is synced with its directory, which has to be opened for it, and cannot be without files. Nothing is made in a
/// directory before, also where it is there already.
#[test]
fn a_directory_is_made_only_where_names_are_durable() {
    alone("files::a_directory_is_made_only_where_names_are_durable", || {
        let directory = directory();
        let held = Held::now(directory.path());
        let (outer, inner) = (directory.path().join("outer"), directory.path().join("outer/inner"));
        let assert_refused = || {
            let refused = limited(Resource::Nofile, next_file(), || StoreDirectory::open(&inner)).unwrap_err();
            assert!(matches!(refused, Error::Io { operation: "create", .. }), "{refused:?}");
            assert_eq!(os_error(&refused), Some(EMFILE));
        };
        std::fs::create_dir(&outer).unwrap();
        assert_refused();
        assert!(!inner.exists(), "what is there already may have lost its sync");
        std::fs::create_dir(&inner).unwrap();
        assert_refused();
        held.assert_again(directory.path(), "refused");
        std::fs::remove_dir_all(&outer).unwrap();
        assert_refused();
        StoreDirectory::open(&inner).unwrap();
    });
}

/// A store that is removed loses its name first, and is not called removed before that is durable.
#[test]
fn a_store_whose_new_name_cannot_be_synced_is_not_called_removed() {
    alone("files::a_store_whose_new_name_cannot_be_synced_is_not_called_removed", || {
        let directory = directory();
        let stores = StoreDirectory::open(directory.path()).unwrap();
        let path = stores.path_of("acme").unwrap();
        drop(Store::open(&path).unwrap());
        let held = Held::now(directory.path());
        // For the file of the lock, and not for the directory beside it.
        let refused = limited(Resource::Nofile, next_file() + 1, || stores.remove("acme")).unwrap_err();
        assert!(matches!(&refused, Error::Io { operation: "remove", path: of, .. } if *of == path), "{refused:?}");
        assert_eq!(os_error(&refused), Some(EMFILE));
        held.assert_again(directory.path(), "refused");
        assert_eq!(stores.names().unwrap(), [""; 0]);
        StoreDirectory::open(directory.path()).unwrap();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    });
}
