//! What is known to have been synced, and how much recovery reads and writes again because of it.

use super::recovery::{checkpoint_at, frame_offsets, killed, open_at};
use super::*;

#[test]
fn a_refusal_says_how_many_synced_bytes_are_missing() {
    let disk = killed(large(), &["a", "b"], &[]);
    let [.., begin, end] = frame_offsets(&disk, 1)[..] else { panic!("a log with frames") };
    overwrite(&disk, &path_of(1), begin, &vec![0; (end - begin) as usize]);
    assert_corrupt(&disk, &format!("; {} bytes from here on are known to have been synced", end - begin));
}

#[test]
fn what_is_confirmed_is_what_nothing_says_was_synced() {
    let disk = killed(large(), &["a", "b"], &[b"c".to_vec(), filled("d", 9000)]);
    let [.., begin, _, end] = frame_offsets(&disk, 1)[..] else { panic!("a log with frames") };
    assert_eq!(open(&disk, large()).recovered.confirmed_bytes, end - begin);
    assert_eq!(open(&copy_of(&disk), large()).recovered.confirmed_bytes, 0, "what is confirmed is known to be synced");
}

/// A log of three commits, and the checkpoint of an index that covers so many of them.
fn with_checkpoint(covered: usize) -> (MemoryDisk, Checkpoint, u64) {
    let disk = MemoryDisk::new();
    let opened = open(&disk, large());
    let commit = |name: &str| append(&opened.appender, SYNCED, &[name.into()]).unwrap();
    let staged = ["a", "b", "c"].map(commit);
    let checkpoint = checkpoint_at(&opened.log, &staged[covered - 1], 1);
    (copy_of(&disk), checkpoint, staged[0].at.offset)
}

/// The damage of a frame before the checkpoint tells where the scan began.
#[test]
fn nothing_before_a_checkpoint_of_this_log_is_read_again() {
    let (disk, checkpoint, first) = with_checkpoint(2);
    flip(&disk, &path_of(1), first + 50);
    let opened = open_at(&disk, checkpoint).unwrap();
    assert_eq!(heads(&opened), (3, 3));
    assert_eq!(opened.recovered, Recovered::default());
}

#[test]
fn a_checkpoint_of_another_frame_or_file_is_no_place_to_begin() {
    let (disk, checkpoint, first) = with_checkpoint(2);
    flip(&disk, &path_of(1), first + 50);
    for other in [
        Checkpoint { checksum: checkpoint.checksum ^ 1, ..checkpoint },
        Checkpoint { position: checkpoint.position + 1, ..checkpoint },
        Checkpoint { position: checkpoint.position - 1, ..checkpoint },
        Checkpoint { salt: checkpoint.salt ^ 1, ..checkpoint },
        Checkpoint { offset: first, ..checkpoint },
    ] {
        let refused = open_at(&copy_of(&disk), other).map(drop);
        assert!(matches!(refused, Err(Error::Corrupt { .. })), "{other:?}: {refused:?}");
    }
}

/// What a checkpoint says was synced, it says of the frames: the log does not say so itself yet.
#[test]
fn a_log_that_ends_at_a_checkpoint_has_no_mark_yet() {
    let (disk, checkpoint, _) = with_checkpoint(3);
    let opened = open_at(&disk, checkpoint).unwrap();
    assert!(!opened.appender.is_settled());
    opened.appender.mark().unwrap();
    assert!(opened.appender.is_settled());
}

/// Looking for a torn tail would read up to 80 MiB at each open.
#[test]
fn nothing_is_searched_behind_a_log_that_was_closed() {
    let disk = MemoryDisk::new();
    let opened = open(&disk, large());
    add(&opened, SYNCED, "a");
    opened.appender.close().unwrap();
    drop(opened);
    let end = *frame_offsets(&disk, 1).last().unwrap();
    overwrite(&disk, &path_of(1), end + 1000, b"rubbish");
    assert_eq!(looked_at(&disk).tail.torn_bytes, 0);
    disk.remove(SYNCED_HEAD_PATH).unwrap();
    assert_eq!(looked_at(&disk).tail.torn_bytes, 1007, "it is searched if nothing says that the log was closed");
}

#[test]
fn a_search_ends_with_its_span() {
    let disk = MemoryDisk::new();
    disk.create_dir(LOG_DIR).unwrap();
    let found = |at: u64| {
        let file = disk.create("log/file").unwrap();
        file.write_at(&vec![0; 20_000], 0).unwrap();
        file.write_at(b"x", at).unwrap();
        Scanner::new(&*file, 1, 0).search(64, 4096).unwrap().nonzero_bytes
    };
    assert_eq!([64, 65, 64 + 4095].map(found), [1, 2, 4096]);
    assert_eq!([63, 64 + 4096, 64 + 8192].map(found), [0, 0, 0]);
}

/// Making it again would forget how far the log was synced.
#[test]
fn a_synced_head_that_cannot_be_opened_is_not_made_again() {
    let disk = FaultyDisk::new(killed(large(), &["a"], &[]));
    let before = bytes_of(&disk, SYNCED_HEAD_PATH);
    // The first to open it is who reads it.
    disk.inject(Fault { after: 1, ..Fault::next(Call::Open).of(SYNCED_HEAD_PATH) });
    assert!(matches!(try_open(&disk, large()), Err(Error::Io { .. })));
    assert_eq!(bytes_of(&disk, SYNCED_HEAD_PATH), before);
    assert_eq!(texts(&open(&disk, large()).log), ["a"]);
}
