//! What must hold of the sample after damage to its files.

use annals::fuzzing::{self, Files};
use annals::{ExpectedVersion, NewEvent, NewSnapshot, Query, RecordedEvent, Result, SnapshotQuery};

use crate::allocation::within;
use crate::damage::Damage;
use crate::reader::{self, Reading};
use crate::sample::{self, Expected, Sample, Wanted, bytes_of, check, options};

/// What opening, reading and closing a small store takes besides its files, of which 0.6 MiB were seen: the index of a
/// log that has none, in files of whole pages for each few commits, which a disk in memory keeps, and segments behind it.
const STORE_BYTES: usize = 1 << 20;
/// The same where the log and its index are whole: one segment of the state, which is first made of 64 KiB.
const STATE_BYTES: usize = 256 << 10;
/// What a store may allocate for each byte of its files: they are on a disk in memory, and are given back from it.
pub const FACTOR: usize = 4;

/// Does `work` on files, which may allocate so much as they are worth.
pub fn bounded<T>(files: &Files, work: impl FnOnce() -> T) -> T {
    within(STORE_BYTES + FACTOR * bytes_of(files), work)
}

/// Any files are damaged: what is shown is all that there was, or its beginning.
pub fn check_all(damage: &Damage) {
    let sample = sample::get();
    let files = damage.apply(sample, |_| true);
    let events = || sample.events.clone();
    let expected = if damage.is_sealed {
        of_log(&files, true)
    } else if damage.mutations.len() <= 1 {
        // One fault at a time is told apart from a crash.
        of_events(Wanted::All(events()))
    } else if has_segment_of_state(&files, sample) {
        // It is whole, and what says that it is of another store may be gone.
        of_events(Wanted::Any)
    } else {
        of_events(Wanted::First(events()))
    };
    bounded(&files, || check(&files, &expected));
}

/// Whether a segment of the state stands among those of the log.
fn has_segment_of_state(files: &Files, sample: &Sample) -> bool {
    let of_state = reader::store_of(&sample.files["state/log/0000000001.segment"]);
    files.iter().any(|(path, bytes)| path.starts_with("log/") && reader::store_of(bytes) == of_state)
}

/// Files of the index are damaged: every answer is right.
pub fn check_index(damage: &Damage) {
    let sample = sample::get();
    let files = damage.apply(sample, |path| path.starts_with("index/"));
    // Pages that lie with checksums that fit are no damage that a disk does. They may hide events, and no more.
    let expected = Expected { index_lies: damage.is_sealed, ..of_events(Wanted::All(sample.events.clone())) };
    bounded(&files, || {
        check(&files, &expected);
        assert!(damage.is_sealed || sample::opens(&files), "the index is derived: without it a store opens");
    });
}

/// Files of the state are damaged: the log beside it is whole, and nothing is found that was not put there.
pub fn check_state(damage: &Damage) {
    let sample = sample::get();
    let files = damage.apply(sample, |path| path.starts_with("state/"));
    within(STATE_BYTES + FACTOR * bytes_of(&files), || {
        let look = |store: &annals::Store| -> Result<()> {
            let all: Vec<RecordedEvent> = store.read(Query::all()).owned().collect::<Result<_>>()?;
            assert!(all == sample.events, "the state is damaged, and the log shows something else");
            // What cannot be read of the state is an error of its own.
            let _ = if damage.is_sealed { touch_state(store) } else { sample::look_at_state(store, sample) };
            Ok(())
        };
        fuzzing::with_reader(&files, options(3), look).expect("the log is whole");
        let opened = fuzzing::with_store(&files, options(4), |store| {
            look(store)?;
            let appended = store.append("account-0", ExpectedVersion::Any, [NewEvent::raw("Opened", "")])?;
            let saved = NewSnapshot::raw("account-0", appended.version(), "saved after the damage").schema(7);
            if matches!(store.save_snapshot(&saved), Ok(true)) && !damage.is_sealed {
                let found = store.load_snapshot("account-0", SnapshotQuery::new().schema(7))?.snapshot;
                let found = found.map(|found| (found.version, found.state));
                assert_eq!(found, Some((appended.version(), b"saved after the damage".to_vec())));
            }
            Ok(())
        });
        opened.expect("the log is whole");
    });
}

/// Uses everything of a state that may say anything.
fn touch_state(store: &annals::Store) -> Result<()> {
    let state = store.state()?;
    for key in state.keys("")?.iter().filter(|key| !key.is_empty()) {
        state.get(key)?;
    }
    for event in &sample::get().events {
        store.load_snapshot(&event.stream, SnapshotQuery::new().schema(7))?;
    }
    Ok(())
}

/// What files with checksums that fit amount to, read by the format alone.
pub fn of_log(files: &Files, index_lies: bool) -> Expected {
    let Reading { events, must_be_refused, .. } = reader::read(files);
    let (read, written) = match events {
        Some(events) => (Wanted::First(events.clone()), Wanted::All(events)),
        None => (Wanted::Any, Wanted::Any),
    };
    Expected { read, written, index_lies, must_be_refused }
}

fn of_events(wanted: Wanted) -> Expected {
    Expected { read: wanted.clone(), written: wanted, index_lies: false, must_be_refused: false }
}
