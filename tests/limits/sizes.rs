//! The limit on the size of a file, whose signal is ignored.

use rustix::process::Resource;

use super::alone::{Held, alone, limited};
use super::support::{Story, directory, options, os_error};
use annals::{Error, Options};

/// "File too large".
const EFBIG: i32 = 27;

/// From sizes that let nothing be written to one that is no limit: between the sizes of headers, heads and segments.
const SIZES: [u64; 12] = [0, 1, 63, 64, 175, 512, 1024, 4095, 4096, 8192, 65_535, 1 << 20];

#[test]
fn a_file_that_may_not_grow_is_an_error_and_costs_nothing() {
    alone("sizes::a_file_that_may_not_grow_is_an_error_and_costs_nothing", || {
        let directory = directory();
        let path = directory.path().join("store");
        let mut story = Story::default();
        story.tell(&path, options());
        let held = Held::now(directory.path());
        let mut kinds = [0, 0];
        for most in SIZES {
            story.failures.clear();
            limited(Resource::Fsize, most, || story.tell(&path, options()));
            for failure in &story.failures {
                assert_eq!(os_error(failure), Some(EFBIG), "{most} bytes: {failure:?}");
                kinds[usize::from(matches!(failure, Error::Full { .. }))] += 1;
            }
            assert!(most > 4096 || !story.failures.is_empty(), "{most} bytes are too few");
            held.assert_again(directory.path(), &format!("{most} bytes"));
            story.end(&path, options());
        }
        println!("{} errors said that there is no space, {} were others", kinds[1], kinds[0]);
        assert!(story.failures.is_empty() && kinds[1] > 0, "{:?}", story.failures);
    });
}

/// A segment that may not be made is a full disk: nothing is assigned, and the same commit goes when it may.
#[test]
fn a_segment_that_may_not_be_made_is_a_full_disk() {
    alone("sizes::a_segment_that_may_not_be_made_is_a_full_disk", || {
        let directory = directory();
        let held = Held::now(directory.path());
        let growing: Options = options().segment_bytes_max(1 << 20);
        let store = growing.clone().open(directory.path()).unwrap();
        let mut story = Story::default();
        limited(Resource::Fsize, 64 * 1024, || {
            while story.failures.is_empty() {
                story.append(&store);
            }
        });
        assert!(matches!(story.failures[..], [Error::Full { .. }]), "{:?}", story.failures);
        let before = story.acknowledged.len();
        story.failures.clear();
        (0..500).for_each(|_| story.append(&store));
        story.look(&store);
        assert!(story.failures.is_empty() && story.acknowledged.len() == before + 500, "{:?}", story.failures);
        drop(store);
        held.assert_again(directory.path(), "closed");
        story.end(directory.path(), growing);
    });
}
