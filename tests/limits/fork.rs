//! A process that is forked: it has a copy of the handle, shares the files and the lock, and has none of the threads. It
//! reads; it writes nothing, and it neither gives up the lock nor waits for what is not there.

#![allow(unsafe_code, reason = "what runs between fork and exec")]

use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use annals::{Error, ExpectedVersion, NewEvent, Query, Result, Store};

use super::alone::{Held, alone};
use super::support::directory;

/// Runs a check in a process that is forked from this one, and says whether it held.
fn holds_in_a_fork(check: impl Fn() -> bool + Send + Sync + 'static) -> bool {
    let told = move || if check() { Ok(()) } else { Err(io::ErrorKind::Other.into()) };
    let mut command = Command::new("true");
    // SAFETY: the other threads of this process are at rest, so that none of them holds a lock that is needed here.
    let command = unsafe { command.pre_exec(told) };
    command.status().is_ok_and(|status| status.success())
}

fn event() -> [NewEvent; 1] {
    [NewEvent::raw("Counted", "1")]
}

fn is_locked<T>(result: Result<T>) -> bool {
    matches!(result, Err(Error::Locked { .. }))
}

/// A child that dropped the store unlocked it for the process that went on writing, and waited for ever for a thread.
#[test]
fn a_forked_process_reads_and_changes_nothing() {
    alone("fork::a_forked_process_reads_and_changes_nothing", || {
        let directory = directory();
        let path = directory.path().to_owned();
        let store = Store::open(&path).unwrap();
        store.append("counter-1", ExpectedVersion::NoStream, event()).unwrap();
        store.state().unwrap().put("key", "value").unwrap();
        store.maintain().unwrap();
        let before = files(&path);
        let copy = store.clone();
        assert!(holds_in_a_fork(move || {
            let read = copy.read(Query::all()).count();
            let appended = copy.append("counter-1", ExpectedVersion::Any, event()).map_err(Error::from);
            let refused = [is_locked(appended), is_locked(copy.sync()), is_locked(copy.maintain())];
            let put = copy.state().and_then(|state| state.put("key", "other"));
            read.is_ok_and(|count| count == 1) && refused == [true; 3] && is_locked(put)
        }));
        let copy = store.clone();
        assert!(holds_in_a_fork(move || copy.clone().close().is_ok()));
        assert!(is_locked(Store::open(&path)), "the lock was lost");
        assert!(files(&path) == before, "the fork has written");
        store.append("counter-1", ExpectedVersion::StreamExists, event()).unwrap();
        store.close().unwrap();
        assert!(annals::verify(&path, &mut |_| {}).unwrap().problems.is_empty());
    });
}

/// The lock is that of the process that took it: it is free when that one is done, whatever was forked from it.
#[test]
fn a_fork_does_not_keep_a_store_locked_that_was_closed() {
    alone("fork::a_fork_does_not_keep_a_store_locked_that_was_closed", || {
        let directory = directory();
        let held = Held::now(directory.path());
        let store = Store::open(directory.path()).unwrap();
        let mut sleeper = Command::new("cat");
        sleeper.stdin(std::process::Stdio::piped());
        // SAFETY: nothing is done between fork and exec; that there is something to do makes it a real fork.
        let mut sleeper = unsafe { sleeper.pre_exec(|| Ok(())) }.spawn().unwrap();
        store.close().unwrap();
        Store::open(directory.path()).unwrap().close().unwrap();
        drop(sleeper.stdin.take());
        sleeper.wait().unwrap();
        held.assert_again(directory.path(), "closed");
    });
}

/// A process that was forked is a process like any other to a store that it opens itself.
#[test]
fn a_forked_process_opens_a_store_of_its_own() {
    alone("fork::a_forked_process_opens_a_store_of_its_own", || {
        let directory = directory();
        let inherited = Store::open(directory.path().join("inherited")).unwrap();
        let own = directory.path().join("own");
        let path = own.clone();
        assert!(holds_in_a_fork(move || {
            let opened = Store::open(&path).and_then(|store| {
                store.append("counter-1", ExpectedVersion::NoStream, event()).map_err(Error::from)?;
                store.close()
            });
            opened.is_ok() && is_locked(inherited.sync())
        }));
        let store = Store::open_existing(&own).unwrap();
        assert_eq!(store.read(Query::all()).count().unwrap(), 1);
    });
}

/// The files of a store with their bytes.
fn files(directory: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push((path.clone(), std::fs::read(&path).unwrap()));
        }
    }
    found.sort();
    found
}
