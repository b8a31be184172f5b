//! SQL projections over a store in memory and databases on disk.

#![allow(clippy::disallowed_methods, reason = "tests write files of their own")]

mod rebuilding;

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rusqlite::Connection;

use super::database::Database;
use crate::error::{Error, ExpectedVersion};
use crate::types::{Position, Timestamp};
use crate::{
    Event, HandlerError, HandlerState, ManualClock, NewEvent, OnError, Options, Query, RebuildCause,
    SqlProjectionBuilder, SqlProjectionHandle, Store,
};

const SCHEMA: &str = "
    CREATE TABLE entries (key TEXT PRIMARY KEY, value TEXT NOT NULL);
    CREATE INDEX entries_by_value ON entries (value);
    CREATE TABLE log (key TEXT NOT NULL);
    CREATE TRIGGER note AFTER INSERT ON entries BEGIN INSERT INTO log VALUES (new.key); END;
    CREATE VIEW keys AS SELECT key FROM entries";

struct World {
    store: Store,
    directory: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        Self { store: Store::in_memory().unwrap(), directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("tables.sqlite")
    }

    /// The payload is `key=value`.
    fn append(&self, stream: &str, payload: &str) -> Position {
        let appended = self.store.append(stream, ExpectedVersion::Any, [NewEvent::raw("Set", payload.to_owned())]);
        appended.unwrap().last_position()
    }

    fn builder(&self) -> SqlProjectionBuilder {
        self.store.sql_projection_over("entries", self.path(), Query::all(), set).schema(SCHEMA)
    }

    /// Starts it, and waits until it has seen everything.
    fn run(&self, builder: SqlProjectionBuilder) -> SqlProjectionHandle {
        let handle = builder.start().unwrap();
        if let Some(head) = self.store.head().unwrap() {
            handle.wait_for(head).unwrap();
        }
        handle
    }

    /// What another connection sees: the entries, and how many were ever inserted.
    fn seen(&self) -> (String, u32) {
        seen(&self.path())
    }
}

fn seen(path: &Path) -> (String, u32) {
    let reader = Connection::open(path).unwrap();
    let entries =
        "SELECT coalesce(group_concat(key || '=' || value, ' '), '') FROM (SELECT * FROM entries ORDER BY key)";
    let count = reader.query_row("SELECT count(*) FROM log", [], |row| row.get(0)).unwrap();
    (reader.query_row(entries, [], |row| row.get(0)).unwrap(), count)
}

fn set(tables: &Connection, event: &Event<'_>) -> Result<(), HandlerError> {
    let payload = std::str::from_utf8(event.payload())?;
    let (key, value) = payload.split_once('=').ok_or("no entry")?;
    tables.execute("INSERT INTO entries VALUES (?1, ?2) ON CONFLICT DO UPDATE SET value = ?2", (key, value))?;
    match value {
        // Half of it is done by now.
        "fail" => Err("as asked".into()),
        "panic" => panic!("as asked"),
        "commit" => Ok(tables.execute_batch("COMMIT")?),
        _ => Ok(()),
    }
}

#[test]
fn a_projection_is_drained_or_runs_on_without_its_handle() {
    const HOUR: Duration = Duration::from_secs(3_600);
    let world = World::new();
    let handle = world.builder().start().unwrap();
    let first = world.append("a", "x=1");
    let remainder = handle.drain(HOUR).unwrap();
    assert_eq!((remainder.is_drained(), remainder.position), (true, Some(first)));

    world.builder().start().unwrap().detach();
    assert!(matches!(world.builder().start(), Err(Error::Held { .. })));
    world.append("a", "y=2");
    assert!(world.store.shutdown(HOUR).unwrap().is_drained());
    assert_eq!(world.seen(), ("x=1 y=2".into(), 2));
}

#[test]
fn tables_and_checkpoint_are_found_again_together() {
    let world = World::new();
    world.append("a", "x=1");
    let handle = world.run(world.builder());
    assert_eq!(handle.start_report(), crate::StartReport::default());
    for round in 2..10 {
        handle.wait_for(world.append("a", &format!("x={round}"))).unwrap();
        assert_eq!(world.seen(), (format!("x={round}"), 1), "committed as soon as it counts as handled");
    }
    handle.stop().unwrap();
    let handle = world.run(world.builder());
    assert_eq!(handle.start_report().resumed_behind, world.store.head().unwrap());
    assert_eq!(handle.lag().unwrap().events, 0);
    let pragma = |name| handle.read(|tables| tables.pragma_query_value(None, name, |row| row.get::<_, String>(0)));
    assert_eq!(pragma("journal_mode").unwrap(), "wal");
    let synchronous = handle.read(|tables| tables.pragma_query_value(None, "synchronous", |row| row.get::<_, u8>(0)));
    assert_eq!(synchronous.unwrap(), 1, "normal");
}

#[test]
fn an_event_that_fails_leaves_nothing_behind() {
    for kind in ["fail", "panic"] {
        let world = World::new();
        world.append("a", "x=1");
        world.append("a", &format!("y={kind}"));
        world.append("a", "no entry");
        world.append("b", "z=1");
        let handle = world.run(world.builder().policy(OnError::skip()));
        assert_eq!(world.seen(), ("x=1 z=1".into(), 2), "{kind}");
        let rebuilt = handle.rebuild().unwrap();
        assert_eq!((rebuilt.events, rebuilt.left_out), (2, 2));
        assert_eq!(world.seen(), ("x=1 z=1".into(), 2), "{kind}");
    }
}

/// Applies events, those of one stream only once it works.
fn set_once(works: &Arc<Mutex<bool>>) -> impl FnMut(&Connection, &Event<'_>) -> Result<(), HandlerError> + use<> {
    let works = Arc::clone(works);
    move |tables, event| {
        if event.stream() == "late" && !*works.lock().map_err(|_| "poisoned")? {
            return Err("not yet".into());
        }
        set(tables, event)
    }
}

#[test]
fn dead_letters_are_left_out_of_a_rebuild_and_can_be_retried_after_it() {
    let world = World::new();
    let works = Arc::new(Mutex::new(false));
    let apply = set_once(&works);
    let late = world.append("late", "x=1");
    world.append("late", "y=1");
    world.append("a", "z=1");
    let builder = world.store.sql_projection_over("entries", world.path(), Query::all(), apply);
    let handle = world.run(builder.schema(SCHEMA).policy(OnError::park()));
    *works.lock().unwrap() = true;
    let rebuilt = handle.rebuild().unwrap();
    assert_eq!((rebuilt.events, rebuilt.left_out), (1, 2));
    assert_eq!(world.seen().0, "z=1");
    world.store.dead_letters("entries").unwrap().retry(late).unwrap();
    handle.handler().wait_for_requests().unwrap();
    assert_eq!(world.seen(), ("x=1 y=1 z=1".into(), 3), "each once");
    assert_eq!(handle.rebuild().unwrap().events, 3);
    assert_eq!(world.seen(), ("x=1 y=1 z=1".into(), 3));
}

/// No commit waited for the disk, the one with a dead letter that was retried included. The letter was deleted from the
/// store, which is durable: when the power was lost, what the event had changed was in neither.
#[test]
fn what_a_dead_letter_has_changed_is_on_the_disk_before_the_letter_is_deleted() {
    let world = World::new();
    let works = Arc::new(Mutex::new(false));
    let apply = set_once(&works);
    world.append("late", "x=1");
    let builder = world.store.sql_projection_over("entries", world.path(), Query::all(), apply);
    let handle = world.run(builder.schema(SCHEMA).policy(OnError::park()));
    // How the commit of each checkpoint waits for the disk.
    let watch = "CREATE TEMP TABLE saves (synchronous INTEGER);
        CREATE TEMP TRIGGER watch AFTER UPDATE OF checkpoint ON main.annals_projections
            BEGIN INSERT INTO saves SELECT synchronous FROM pragma_synchronous; END";
    handle.read(|tables| tables.execute_batch(watch)).unwrap();
    let saves = || -> String {
        let select = "SELECT group_concat(synchronous, ' ') FROM saves";
        handle.read(|tables| tables.query_row(select, [], |row| row.get(0))).unwrap()
    };
    handle.wait_for(world.append("a", "y=1")).unwrap();
    assert_eq!(saves(), "1", "normal");
    *works.lock().unwrap() = true;
    world.store.dead_letters("entries").unwrap().retry_all().unwrap();
    handle.handler().wait_for_requests().unwrap();
    assert_eq!(saves(), "1 1 2", "and full");
    handle.wait_for(world.append("a", "z=1")).unwrap();
    assert_eq!(saves(), "1 1 2 1");
    assert_eq!(world.seen(), ("x=1 y=1 z=1".into(), 3));
}

/// SQLite writes no row that is what it was, and a commit that has written nothing syncs nothing. What a dead letter
/// had changed could still be lost with the power, though its checkpoint was saved once more to make it durable.
#[test]
fn a_checkpoint_that_is_saved_once_more_for_the_disk_is_written_though_nothing_is_new() {
    let world = World::new();
    let database = Database::open(world.path().into(), "entries", 1, SCHEMA.to_owned()).unwrap();
    database.reset().unwrap();
    database.save(b"checkpoint").unwrap();
    let written = || std::fs::metadata(world.directory.path().join("tables.sqlite-wal")).unwrap().len();
    let before = written();
    database.save_durably(b"checkpoint").unwrap();
    assert!(written() > before, "nothing was written, and nothing synced");
    assert_eq!(database.saved().unwrap().unwrap().found.checkpoint.as_deref(), Some(&b"checkpoint"[..]));
}

/// A process that ended between the commit of what a dead letter had changed and the one that waits for the disk left
/// it to the next one, which deleted the letter without waiting for anything.
#[test]
fn what_a_dead_letter_has_changed_is_on_the_disk_before_the_next_start_deletes_the_letter() {
    let world = World::new();
    let works = Arc::new(Mutex::new(false));
    world.append("late", "x=1");
    let builder = world.store.sql_projection_over("entries", world.path(), Query::all(), set_once(&works));
    let handle = world.run(builder.schema(SCHEMA).policy(OnError::park()));
    *works.lock().unwrap() = true;
    world.store.dead_letters("entries").unwrap().retry_all().unwrap();
    handle.handler().wait_for_requests().unwrap();
    handle.stop().unwrap();

    // How the commit of each checkpoint waits for the disk.
    let watched = Connection::open(world.path()).unwrap();
    let watch = "CREATE TEMP TABLE saves (synchronous INTEGER);
        CREATE TEMP TRIGGER watch AFTER UPDATE OF checkpoint ON main.annals_projections
            BEGIN INSERT INTO saves SELECT synchronous FROM pragma_synchronous; END";
    watched.execute_batch(watch).unwrap();
    let builder = world.store.sql_projection_over("entries", watched, Query::all(), set).schema(SCHEMA);
    let handle = builder.policy(OnError::park()).start().unwrap();
    let select = "SELECT coalesce(group_concat(synchronous, ' '), 'none') FROM saves";
    let saves = handle.read(|tables| tables.query_row(select, [], |row| row.get::<_, String>(0))).unwrap();
    assert_eq!(saves, "2", "full");
    assert_eq!(world.seen(), ("x=1".into(), 1));
}

#[test]
fn readers_see_the_old_tables_until_a_rebuild_is_done() {
    let world = World::new();
    let (tell, reached) = mpsc::channel();
    let (open, gate) = mpsc::channel::<()>();
    let mut calls = 0;
    let apply = move |tables: &Connection, event: &Event<'_>| {
        calls += 1;
        if calls == 4 {
            // In the middle of the rebuild: the tables are new, and one of two events is applied.
            tell.send(())?;
            gate.recv()?;
        }
        set(tables, event)
    };
    world.append("a", "x=1");
    world.append("a", "y=1");
    let builder = world.store.sql_projection_over("entries", world.path(), Query::all(), apply);
    let handle = world.run(builder.schema(SCHEMA));
    Connection::open(world.path()).unwrap().execute("UPDATE entries SET value = 'damaged'", []).unwrap();
    std::thread::scope(|scope| {
        let rebuild = scope.spawn(|| handle.rebuild().unwrap());
        reached.recv().unwrap();
        assert_eq!(world.seen().0, "x=damaged y=damaged");
        open.send(()).unwrap();
        assert_eq!(rebuild.join().unwrap().events, 2);
    });
    assert_eq!(world.seen(), ("x=1 y=1".into(), 2));
    handle.wait_for(world.append("a", "z=1")).unwrap();
    assert_eq!(world.seen(), ("x=1 y=1 z=1".into(), 3));
}

#[test]
fn another_version_drops_what_the_old_schema_created() {
    let world = World::new();
    world.append("a", "x=1");
    world.run(world.builder()).stop().unwrap();
    let insert = |tables: &Connection, _: &Event<'_>| Ok(tables.execute_batch("INSERT INTO other VALUES (1)")?);
    let builder = || world.store.sql_projection_over("entries", world.path(), Query::all(), insert).version(2);
    let handle = world.run(builder().schema("CREATE TABLE other (one INTEGER)"));
    assert_eq!(handle.start_report().rebuilt, Some(RebuildCause::NewVersion { saved: 1, current: 2 }));
    let objects = "SELECT group_concat(name, ' ') FROM (SELECT name FROM sqlite_master ORDER BY name)";
    let names = handle.read(|tables| tables.query_row(objects, [], |row| row.get::<_, String>(0)).unwrap());
    assert_eq!(names, "annals_projections other sqlite_autoindex_annals_projections_1");
    assert_eq!(handle.read(|tables| tables.query_row("SELECT sum(one) FROM other", [], |row| row.get(0))), Ok(1));
}

#[test]
fn another_history_is_built_anew_and_said() {
    let world = World::new();
    world.append("a", "x=1");
    world.run(world.builder()).stop().unwrap();
    // The same database, under another store.
    let other = World { store: Store::in_memory().unwrap(), directory: world.directory };
    other.append("a", "y=1");
    let handle = other.run(other.builder());
    assert_eq!(handle.start_report().rebuilt, Some(RebuildCause::OtherHistory));
    assert_eq!(other.seen(), ("y=1".into(), 1));
}

#[test]
fn a_transaction_that_was_ended_is_noticed() {
    let world = World::new();
    let handle = world.builder().policy(OnError::skip()).start().unwrap();
    let error = handle.wait_for(world.append("a", "x=commit")).unwrap_err().to_string();
    assert!(error.contains("the transaction was ended while event 1 was applied"), "{error}");
}

#[test]
fn a_schema_that_is_none_is_refused() {
    let world = World::new();
    for (schema, problem) in [
        ("CREATE NONSENSE", "near \"NONSENSE\""),
        ("CREATE TABLE annals_projections (x)", "is the table of the checkpoints"),
    ] {
        let started = world.builder().schema(schema).start();
        assert!(
            matches!(&started, Err(Error::Invalid(invalid)) if invalid.to_string().contains(problem)),
            "{started:?}"
        );
    }
}

#[test]
fn a_database_in_memory_serves_as_well() {
    let world = World::new();
    world.append("a", "x=1");
    let connection = Connection::open_in_memory().unwrap();
    let handle = world.run(world.store.sql_projection_over("entries", connection, Query::all(), set).schema(SCHEMA));
    let count = |handle: &SqlProjectionHandle| {
        handle.read(|tables| tables.query_row("SELECT count(*) FROM keys", [], |row| row.get::<_, u32>(0)).unwrap())
    };
    assert_eq!(count(&handle), 1);
    handle.rebuild().unwrap();
    assert_eq!(count(&handle), 1);
}

#[test]
fn what_the_database_refuses_is_told_with_its_path() {
    let world = World::new();
    std::fs::write(world.path(), "this is no database, and long enough to be looked at by whoever opens it").unwrap();
    let error = world.builder().start().unwrap_err();
    assert!(matches!(&error, Error::Io { path, .. } if *path == world.path()), "{error}");
}

#[test]
fn what_a_full_disk_undid_is_applied_again_before_its_checkpoint_is_saved() {
    let (world, clock) = world_with_clock();
    let mut is_first = true;
    let apply = move |tables: &Connection, event: &Event<'_>| {
        set(tables, event)?;
        if std::mem::take(&mut is_first) {
            // The page of the checkpoint and its neighbours are full, and there will be no other.
            for number in 0..1_000 {
                let row = "INSERT INTO annals_projections (name, version, objects) VALUES (?1, 1, '')";
                tables.execute(row, [format!("other {number}")])?;
            }
            let pages: u32 = tables.query_row("PRAGMA page_count", [], |row| row.get(0))?;
            tables.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))?;
        }
        Ok(())
    };
    let builder = world.store.sql_projection_over("entries", world.path(), Query::all(), apply).schema(SCHEMA);
    let handle = builder.start().unwrap();
    impatient(&handle);
    let position = world.append("a", "x=1");
    let state = handle.handler().wait_for_state(|state| matches!(state, crate::HandlerState::NoSpace { .. }));
    assert!(matches!(state, crate::HandlerState::NoSpace { .. }), "{state:?}");
    handle.read(|tables| tables.pragma_update_and_check(None, "max_page_count", 100_000, |_| Ok(())).unwrap());
    // When it would go on, somebody else writes: what was undone is not given up for that.
    let other = locked(&world.path());
    clock.advance(Duration::from_secs(1));
    wait_until_unavailable(&handle);
    other.execute_batch("ROLLBACK").unwrap();
    pass_until_handled(&clock, &handle, position);
    assert_eq!(world.seen(), ("x=1".into(), 1));
}

/// Another connection to a database, in the middle of a transaction.
fn locked(path: &Path) -> Connection {
    let other = Connection::open(path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    other
}

/// Waits for no lock, so that a test need not either.
fn impatient(handle: &SqlProjectionHandle) {
    handle.read(|tables| tables.busy_timeout(Duration::ZERO).unwrap());
}

fn wait_until_unavailable(handle: &SqlProjectionHandle) {
    let state = handle.handler().wait_for_state(|state| matches!(state, HandlerState::Unavailable { .. }));
    assert!(matches!(&state, HandlerState::Unavailable { error } if error.contains("locked")), "{state:?}");
}

fn pass_until_handled(clock: &ManualClock, handle: &SqlProjectionHandle, position: Position) {
    while handle.handler().status().position < Some(position) {
        clock.advance(Duration::from_secs(60));
        std::thread::yield_now();
    }
}

fn world_with_clock() -> (World, ManualClock) {
    let clock = ManualClock::new(Timestamp::default());
    let store = Options::new().clock(clock.clone()).without_background_work().in_memory().unwrap();
    (World { store, directory: tempfile::tempdir().unwrap() }, clock)
}

/// The long transaction of another projection in the same file was the failure of an event, which was skipped.
#[test]
fn a_database_that_another_connection_has_locked_is_waited_for_and_no_event_is_blamed() {
    for policy in [OnError::skip(), OnError::park(), OnError::stop()] {
        let (world, clock) = world_with_clock();
        let handle = world.builder().policy(policy).start().unwrap();
        impatient(&handle);
        let other = locked(&world.path());
        world.append("a", "x=1");
        let position = world.append("a", "y=1");
        for _ in 0..3 {
            wait_until_unavailable(&handle);
            clock.advance(Duration::from_secs(60));
        }
        other.execute_batch("COMMIT").unwrap();
        pass_until_handled(&clock, &handle, position);
        assert_eq!(world.seen(), ("x=1 y=1".into(), 2));
        let status = handle.handler().status();
        assert_eq!((status.handled, status.failures, status.parked, status.skipped), (2, 0, 0, 0));
    }
}

/// The database may be full, or locked, in the middle of an event as well, and says so within an error of the application.
#[test]
fn a_database_that_is_full_while_an_event_is_applied_is_waited_for_and_no_event_is_blamed() {
    #[derive(Debug, thiserror::Error)]
    #[error("cannot set an entry")]
    struct Unset(#[source] rusqlite::Error);
    let (world, clock) = world_with_clock();
    let apply = |tables: &Connection, event: &Event<'_>| {
        let large = (event.payload().len() - "x=".len()) * 100_000;
        let insert = "INSERT INTO entries VALUES (?1, printf('%.*c', ?2, 'x'))";
        tables.execute(insert, (event.version().number() as i64, large as i64)).map_err(Unset)?;
        Ok(())
    };
    let builder = world.store.sql_projection_over("entries", world.path(), Query::all(), apply).schema(SCHEMA);
    let handle = builder.policy(OnError::skip()).start().unwrap();
    let limit = |pages: u32| {
        handle.read(|tables| tables.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(())).unwrap());
    };
    handle.wait_for(world.append("a", "x=")).unwrap();
    limit(handle.read(|tables| tables.query_row("PRAGMA page_count", [], |row| row.get(0))).unwrap());
    let position = world.append("a", "x=1");
    let state = handle.handler().wait_for_state(|state| matches!(state, HandlerState::NoSpace { .. }));
    assert!(matches!(state, HandlerState::NoSpace { .. }), "{state:?}");
    limit(100_000);
    pass_until_handled(&clock, &handle, position);
    let count = handle.read(|tables| tables.query_row("SELECT count(*) FROM entries", [], |row| row.get(0)));
    assert_eq!(count, Ok(2));
    assert_eq!((handle.handler().status().failures, handle.handler().status().skipped), (0, 0));
}

/// What the database could not do now was left out of the new tables.
#[test]
fn a_rebuild_that_the_database_keeps_from_its_end_leaves_the_old_tables() {
    let world = World::new();
    world.append("a", "x=1");
    let handle = world.run(world.builder().policy(OnError::skip()));
    impatient(&handle);
    let other = locked(&world.path());
    let refused = handle.rebuild();
    assert!(matches!(refused, Err(Error::Unavailable { .. })), "{refused:?}");
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(world.seen(), ("x=1".into(), 1));
    assert_eq!(handle.rebuild().unwrap().events, 1);
}

/// The rebuild is as the policy is: it names the event, or goes on without it, and what was put aside stays so.
#[test]
fn a_rebuild_deals_with_an_event_that_fails_as_the_policy_says() {
    for (policy, left_out) in [(OnError::stop(), None), (OnError::skip(), Some(1)), (OnError::park(), Some(1))] {
        let world = World::new();
        let is_broken = Arc::new(Mutex::new(false));
        let breaks = Arc::clone(&is_broken);
        let apply = move |tables: &Connection, event: &Event<'_>| {
            if event.stream() == "odd" && *breaks.lock().unwrap() {
                return Err("as asked".into());
            }
            set(tables, event)
        };
        world.append("a", "x=1");
        let odd = world.append("odd", "y=1");
        let builder = world.store.sql_projection_over("entries", world.path(), Query::all(), apply).schema(SCHEMA);
        let handle = world.run(builder.policy(policy));
        *is_broken.lock().unwrap() = true;
        match (handle.rebuild(), left_out) {
            (Ok(rebuilt), Some(left_out)) => assert_eq!(rebuilt.left_out, left_out),
            (Err(Error::HandlerFailed { position, reason, .. }), None) => {
                assert_eq!((position, reason.as_str()), (Some(odd), "as asked"));
                assert_eq!(world.seen(), ("x=1 y=1".into(), 2), "the old tables stay");
            }
            (rebuilt, _) => panic!("{rebuilt:?}"),
        }
    }
}

/// Skipped events were tried again, and those of embedded projections were not.
#[test]
fn an_event_that_was_skipped_stays_so_in_a_rebuild() {
    let world = World::new();
    let fails = Arc::new(Mutex::new(true));
    let gate = Arc::clone(&fails);
    let apply = move |tables: &Connection, event: &Event<'_>| {
        if *gate.lock().unwrap() { Err("not yet".into()) } else { set(tables, event) }
    };
    world.append("a", "x=1");
    let builder = world.store.sql_projection_over("entries", world.path(), Query::all(), apply).schema(SCHEMA);
    let handle = world.run(builder.policy(OnError::skip()));
    *fails.lock().unwrap() = false;
    handle.wait_for(world.append("a", "y=1")).unwrap();
    let rebuilt = handle.rebuild().unwrap();
    assert_eq!((rebuilt.events, rebuilt.left_out), (1, 1));
    assert_eq!(world.seen(), ("y=1".into(), 1));
}

/// Whatever was in the database under a name of the schema was dropped, whoever had created it, as soon as a projection
/// began there for the first time.
#[test]
fn what_others_have_in_the_database_is_never_dropped() {
    for theirs in ["CREATE TABLE Keys (one INTEGER)", "CREATE VIEW log AS SELECT 1 AS one"] {
        let world = World::new();
        let others = Connection::open(world.path()).unwrap();
        others.execute_batch(theirs).unwrap();
        let tables = || -> String {
            let select = "SELECT group_concat(sql, '; ') FROM sqlite_master WHERE name NOT LIKE '%annals%'";
            others.query_row(select, [], |row| row.get(0)).unwrap()
        };
        let refused = world.builder().start().map(drop).unwrap_err();
        assert!(matches!(&refused, Error::Invalid(_)), "{refused}");
        assert!(refused.to_string().contains("is in") && refused.to_string().contains("already"), "{refused}");
        assert_eq!(tables(), theirs);
    }
    // Those of another projection in the same database.
    let world = World::new();
    world.append("a", "x=1");
    let _one = world.run(world.builder());
    let another = world.store.sql_projection_over("another", world.path(), Query::all(), set).schema(SCHEMA);
    assert!(matches!(another.start().map(drop), Err(Error::Invalid(_))));
    assert_eq!(world.seen(), ("x=1".into(), 1));
}
