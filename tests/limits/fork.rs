//! A process that is forked: it has a copy of the handle, shares the files and the lock, and has none of the threads. It
//! reads; it writes nothing, and it neither gives up the lock nor waits for what is not there.

#![allow(unsafe_code, reason = "what runs between fork and exec")]

use std::io;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use annals::{Error, ExpectedVersion, NewEvent, NewSnapshot, Options, Query, Result, SnapshotQuery, Store};

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

/// Found by review. A child opened a state that had not been used, repaired and changed it, and locked it for the process
/// that the store belongs to.
#[test]
fn a_forked_process_does_not_open_a_state_for_writing_that_was_not_used() {
    alone("fork::a_forked_process_does_not_open_a_state_for_writing_that_was_not_used", || {
        let directory = directory();
        let (path, backup) = (directory.path().join("store"), directory.path().join("backup"));
        let store = Store::open(&path).unwrap();
        let opened = store.append("counter-1", ExpectedVersion::NoStream, event()).unwrap();
        store.state().unwrap().put("key", "value").unwrap();
        store.save_snapshot(&NewSnapshot::raw("counter-1", opened.version(), "1")).unwrap();
        store.close().unwrap();
        let store = Store::open(&path).unwrap();
        let before = files(&path);
        let (copy, target) = (store.clone(), backup.clone());
        assert!(holds_in_a_fork(move || {
            let Ok(state) = copy.state() else { return false };
            let is_read = state.get("key").is_ok_and(|value| value.as_deref() == Some(b"value"));
            let snapshot = copy.load_snapshot("counter-1", SnapshotQuery::new());
            let is_loaded = snapshot.is_ok_and(|lookup| lookup.snapshot.is_some());
            let refused =
                [is_locked(state.put("key", "other")), is_locked(state.delete("none")), is_locked(state.sync())];
            is_read && is_loaded && refused == [true; 3] && copy.backup(&target).is_ok()
        }));
        assert!(files(&path) == before, "the fork has written");
        let backed_up = Store::open_read_only(&backup).unwrap().state().unwrap();
        assert_eq!(backed_up.get("key").unwrap().as_deref(), Some(&b"value"[..]));
        store.state().unwrap().put("key", "newer").unwrap();
        store.close().unwrap();
        assert!(annals::verify(&path, &mut |_| {}).unwrap().problems.is_empty());
    });
}

/// Found by review. A child that met a damaged page of the index made, renamed and removed files beside the process that
/// the store belongs to.
#[test]
fn a_forked_process_repairs_the_index_for_itself_alone() {
    alone("fork::a_forked_process_repairs_the_index_for_itself_alone", || {
        let directory = directory();
        let path = directory.path().to_owned();
        let open = || Options::new().index_tail_bytes_max(3000).without_background_work().open(&path).unwrap();
        let store = open();
        for _ in 0..100 {
            store.append("counter-1", ExpectedVersion::Any, event()).unwrap();
        }
        store.maintain().unwrap();
        store.close().unwrap();
        let store = open();
        damage_runs(&path.join("index"));
        let before = files(&path);
        let count = |store: &Store| store.read(Query::stream("counter-1")).count();
        let copy = store.clone();
        assert!(holds_in_a_fork(move || count(&copy).is_ok_and(|count| count == 100)));
        assert!(files(&path) == before, "the fork has written");
        assert_eq!(count(&store).unwrap(), 100);
        assert!(files(&path) != before, "nothing was damaged that is read");
    });
}

/// Found by review. It waited for ever: nobody there would have raised it.
#[test]
fn a_forked_process_does_not_wait_for_what_never_comes() {
    alone("fork::a_forked_process_does_not_wait_for_what_never_comes", || {
        let directory = directory();
        let store = Store::open(directory.path()).unwrap();
        let (copy, watch) = (store.clone(), store.watch());
        assert!(holds_in_a_fork(move || {
            let ends = |watch: &annals::Watch| watch.wait(None).is_ok() && is_locked(watch.wait(None));
            ends(&watch) && ends(&copy.watch()) && copy.condition().is_ok_and(|condition| !condition.is_writable)
        }));
        assert!(store.condition().unwrap().is_writable);
    });
}

/// A store that nobody has at the moment is lent as it was inherited: it could not be opened again.
#[test]
fn a_forked_process_reads_the_stores_of_tenants_and_deletes_none() {
    alone("fork::a_forked_process_reads_the_stores_of_tenants_and_deletes_none", || {
        let directory = directory();
        let tenants = std::sync::Arc::new(annals::Tenants::open(directory.path()).unwrap());
        let append = || tenants.store("acme").unwrap().append("counter-1", ExpectedVersion::Any, event());
        append().unwrap();
        let copy = std::sync::Arc::clone(&tenants);
        assert!(holds_in_a_fork(move || {
            let count = || copy.store("acme").and_then(|store| store.read(Query::all()).count());
            let is_read = [count(), count()].iter().all(|count| matches!(count, Ok(1)));
            is_read && is_locked(copy.delete("acme", std::time::Duration::ZERO))
        }));
        append().unwrap();
        assert_eq!(tenants.store("acme").unwrap().read(Query::all()).count().unwrap(), 2);
    });
}

/// The threads of a process are not forked with it. Who dropped what waits for their end, or awaited what they would do,
/// never came back.
#[test]
#[cfg(feature = "tokio")]
fn a_forked_process_waits_for_no_thread_of_the_other_one() {
    alone("fork::a_forked_process_waits_for_no_thread_of_the_other_one", || {
        let directory = directory();
        let store = Store::open(directory.path()).unwrap();
        let appended = |store: &Store| {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(store.append_async("counter-1", ExpectedVersion::Any, event())).map_err(Error::from)
        };
        let handler = store.react("counting", |_| Ok(())).start().unwrap();
        let position = appended(&store).unwrap().last_position();
        handler.wait_for(position).unwrap();
        let later = annals::Position::new(position.number() + 1).unwrap();
        let events = store.follow(Query::all()).subscribe().into_stream().unwrap();
        let inherited = std::sync::Mutex::new(Some((store.clone(), handler, events)));
        assert!(holds_in_a_fork(move || {
            let Some((store, handler, events)) = inherited.lock().unwrap().take() else { return false };
            let is_refused = is_locked(appended(&store));
            let has_ended = matches!(handler.wait_for(later), Err(Error::Stopped));
            drop((handler, events));
            is_refused && has_ended && store.close().is_ok()
        }));
        appended(&store).unwrap();
        store.close().unwrap();
    });
}

/// There it seemed to have ended, and what has ended is at rest: the child built the tables anew, over a connection
/// that is the other process's, and beside its thread.
#[test]
#[cfg(feature = "sqlite")]
fn a_forked_process_rebuilds_no_tables() {
    alone("fork::a_forked_process_rebuilds_no_tables", || {
        let directory = directory();
        let store = Store::open(directory.path().join("store")).unwrap();
        let tables = directory.path().join("tables.sqlite");
        let count = |tables: &rusqlite::Connection, _: &annals::Event<'_>| {
            tables.execute("INSERT INTO counted VALUES (1)", [])?;
            Ok(())
        };
        let projection = store.sql_projection_over("counted", &tables, Query::all(), count);
        let projection = projection.schema("CREATE TABLE counted (number INTEGER)").start().unwrap();
        let append = || store.append("counter-1", ExpectedVersion::Any, event()).unwrap().last_position();
        projection.wait_for(append()).unwrap();
        let projection = std::sync::Arc::new(projection);
        let copy = std::sync::Arc::clone(&projection);
        let before = files(directory.path());
        assert!(holds_in_a_fork(move || matches!(copy.rebuild(), Err(Error::Stopped))));
        assert!(files(directory.path()) == before, "the fork has written");
        assert_eq!(projection.rebuild().unwrap().events, 1);
        projection.wait_for(append()).unwrap();
        let select = "SELECT count(*) FROM counted";
        let counted = projection.read(|tables| tables.query_row(select, [], |row| row.get::<_, u32>(0)));
        assert_eq!(counted.unwrap(), 2);
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

/// Changes a byte of each page of each run, behind the first page of it.
fn damage_runs(index: &Path) {
    let runs = std::fs::read_dir(index).unwrap().map(|entry| entry.unwrap().path());
    for run in runs.filter(|path| path.extension().is_some_and(|extension| extension == "run")) {
        let file = std::fs::File::options().write(true).open(&run).unwrap();
        for page in (4096..file.metadata().unwrap().len()).step_by(4096) {
            file.write_at(b"rot", page + 100).unwrap();
        }
    }
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
