//! A process that is forked while a thread of the other one holds a lock: nobody would ever give it back there, so
//! nobody waits for it.

use parking_lot::Mutex;
use tempfile::TempDir;

use super::{NewEvent, Options, Query, Store};
use crate::error::{Error, ExpectedVersion};
use crate::storage::{holds_in_a_fork, ran_alone};

fn open() -> (TempDir, Store) {
    let directory = crate::storage::scratch();
    let store = Options::new().without_background_work().open(directory.path()).unwrap();
    append(&store);
    (directory, store)
}

fn append(store: &Store) {
    store.append("account-alice", ExpectedVersion::Any, [NewEvent::raw("Deposited", "1")]).unwrap();
}

/// Found by review. Closing and dropping the store, and the question for its condition, waited for ever for the thread
/// that was closing it.
#[test]
fn a_fork_waits_for_no_thread_that_was_closing_the_store() {
    if ran_alone() {
        return;
    }
    let (_directory, store) = open();
    let copy = store.clone();
    let closing = store.handle.phase.lock();
    assert!(holds_in_a_fork(move || {
        let condition = copy.condition();
        let is_told = condition.is_ok_and(|condition| !condition.is_writable && condition.failure.is_none());
        is_told && copy.clone().close().is_ok() && copy.read(Query::all()).count().is_ok_and(|count| count == 1)
    }));
    drop(closing);
    append(&store);
    store.close().unwrap();
}

/// Found by review. To begin to watch waited for ever for the thread that was making a segment.
#[test]
fn a_fork_waits_for_no_thread_that_was_making_a_segment() {
    if ran_alone() {
        return;
    }
    let (_directory, store) = open();
    let copy = store.clone();
    let watch = store.watch();
    let turn = store.handle.inner.appender().unwrap().turn().unwrap();
    assert!(holds_in_a_fork(move || {
        let own = copy.watch_synced();
        let is_locked = |end: Option<Error>| matches!(end, Some(Error::Locked { .. }));
        is_locked(own.end()) && is_locked(watch.end()) && copy.condition().is_ok_and(|condition| !condition.is_writable)
    }));
    drop(turn);
    append(&store);
}

/// A store in memory is copied with everything else, but for its thread: who dropped it waited for that.
#[test]
fn a_fork_has_a_store_in_memory_for_itself() {
    if ran_alone() {
        return;
    }
    let store = Store::in_memory().unwrap();
    append(&store);
    let last = Mutex::new(Some(store));
    assert!(holds_in_a_fork(move || {
        let Some(store) = last.lock().take() else { return false };
        append(&store);
        let is_whole = store.read(Query::all()).count().is_ok_and(|count| count == 2);
        drop(store);
        is_whole
    }));
}
