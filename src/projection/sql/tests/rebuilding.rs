//! Rebuilds of SQL projections, and who the tables belong to: a handler that has ended, and what it leaves to the next one.

use super::*;
use crate::projection::tests::Gate;
use crate::storage::{Call, Fault, FaultyDisk, MemoryDisk};

/// A handle outlives its handler. Its rebuild filled the tables up to where that had come, and left the checkpoint of the
/// next one of the name.
#[test]
fn a_projection_that_has_ended_rebuilds_no_tables_of_the_next_of_its_name() {
    let world = World::new();
    let old = world.builder().start().unwrap();
    old.wait_for(world.append("a", "x=1")).unwrap();
    old.wait_for(world.append("a", "y=fail")).unwrap_err();
    let next = world.builder().policy(OnError::skip()).start().unwrap();
    next.wait_for(world.append("a", "z=1")).unwrap();
    let refused = old.rebuild();
    assert!(matches!(&refused, Err(Error::HandlerFailed { reason, .. }) if reason.contains("as asked")), "{refused:?}");
    assert_eq!(world.seen(), ("x=1 z=1".into(), 2));
    world.store.shutdown(Duration::from_secs(3_600)).unwrap();
    assert!(matches!(next.rebuild(), Err(Error::Stopped)));
    assert_eq!(world.seen(), ("x=1 z=1".into(), 2));
}

/// A closed store can be open in another process, and its projection runs there.
#[test]
fn tables_that_another_process_has_gone_on_with_are_not_rebuilt() {
    let world = World::new();
    let handle = world.builder().start().unwrap();
    let other = Connection::open(world.path()).unwrap();
    let checkpoint =
        || -> Vec<u8> { other.query_row("SELECT checkpoint FROM annals_projections", [], |row| row.get(0)).unwrap() };
    handle.wait_for(world.append("a", "x=1")).unwrap();
    let theirs = checkpoint();
    handle.wait_for(world.append("a", "y=1")).unwrap();
    let ours = checkpoint();
    let put = |checkpoint: &[u8]| other.execute("UPDATE annals_projections SET checkpoint = ?1", [checkpoint]).unwrap();
    put(&theirs);
    let refused = handle.rebuild();
    assert!(matches!(&refused, Err(Error::Held { name }) if name == "entries"), "{refused:?}");
    assert_eq!((checkpoint(), world.seen()), (theirs, ("x=1 y=1".into(), 2)));
    put(&ours);
    assert_eq!(handle.rebuild().unwrap().events, 2);
}

/// A store that is closed does not wait for its handlers: one that is at an event commits what it has done. Whoever has
/// opened the store meanwhile applied that event a second time.
#[test]
fn what_the_handler_of_a_closed_store_still_commits_is_not_applied_again() {
    let (disk, gate) = (MemoryDisk::new(), Gate::new());
    let open = || {
        let store = Store::open_on(Arc::new(disk.clone()), Options::new().without_background_work(), true).unwrap();
        World { store, directory: tempfile::tempdir().unwrap() }
    };
    let old = open();
    let passed = Arc::clone(&gate);
    let apply = move |tables: &Connection, event: &Event<'_>| {
        passed.pass();
        set(tables, event)
    };
    let builder = old.store.sql_projection_over("entries", old.path(), Query::all(), apply).schema(SCHEMA);
    let at_it = old.run(builder);
    at_it.wait_for(old.append("a", "x=1")).unwrap();
    let next = std::cell::OnceCell::new();
    let begin = |new: &World| {
        new.store.sql_projection_over("entries", old.path(), Query::all(), set).schema(SCHEMA).start().unwrap()
    };
    gate.hold(
        || old.append("a", "y=1"),
        || {
            old.store.clone().close().unwrap();
            let new = open();
            let handle = begin(&new);
            assert!(next.set((new, handle)).is_ok());
        },
    );
    let (new, handle) = next.into_inner().expect("it was done");
    let state = handle.handler().wait_for_state(HandlerState::is_over);
    assert!(matches!(&state, HandlerState::Failed { error, .. } if error.contains("active elsewhere")), "{state:?}");
    assert_eq!(seen(&old.path()), ("x=1 y=1".into(), 2));
    drop(handle);
    let handle = begin(&new);
    handle.wait_for(new.append("a", "z=1")).unwrap();
    assert_eq!(seen(&old.path()), ("x=1 y=1 z=1".into(), 3));
}

/// The same the other way round: what was begun before another one went on with the tables is not committed behind it.
#[test]
fn tables_that_another_one_has_gone_on_with_are_not_changed_any_more() {
    let world = World::new();
    let old = world.run(world.builder());
    old.wait_for(world.append("a", "x=1")).unwrap();
    let theirs = old.core.tables.lock().database.saved().unwrap().unwrap();
    let database = Connection::open(world.path()).unwrap();
    let put = "UPDATE annals_projections SET owner = x'00' WHERE name = 'entries'";
    assert_eq!(database.execute(put, []).unwrap(), 1);
    world.append("a", "y=1");
    let state = old.handler().wait_for_state(HandlerState::is_over);
    assert!(matches!(&state, HandlerState::Failed { error, .. } if error.contains("active elsewhere")), "{state:?}");
    assert_eq!(world.seen(), ("x=1".into(), 1));
    let now = old.core.tables.lock().database.saved().unwrap().unwrap();
    assert_eq!(now.found.checkpoint, theirs.found.checkpoint);
}

/// What was not saved when a handler ended with an error stayed in its transaction, whose lock nobody else got while the
/// handle existed.
#[test]
fn a_projection_that_has_ended_locks_the_database_for_nobody() {
    let disk = FaultyDisk::new(MemoryDisk::new());
    let options = Options::new().without_background_work();
    let store = Store::open_on(Arc::new(disk.clone()), options, true).unwrap();
    let world = World { store, directory: tempfile::tempdir().unwrap() };
    let handle = world.run(world.builder().policy(OnError::park()));
    handle.wait_for(world.append("late", "x=fail")).unwrap();
    // The dead letter has to be synced before the next checkpoint is saved.
    disk.inject(Fault { forever: true, ..Fault::next(Call::Sync).in_dir("state/") });
    world.append("a", "y=1");
    let state = handle.handler().wait_for_state(HandlerState::is_over);
    assert!(matches!(state, HandlerState::Failed { .. }), "{state:?}");
    locked(&world.path()).execute_batch("ROLLBACK").unwrap();
    assert_eq!(world.seen(), (String::new(), 0));
}

/// The first one to be done let the handler go on, for which the second one waited to be paused.
#[test]
fn one_rebuild_at_a_time() {
    let (world, gate) = (World::new(), Gate::new());
    let passed = Arc::clone(&gate);
    let apply = move |tables: &Connection, event: &Event<'_>| {
        passed.pass();
        set(tables, event)
    };
    world.append("a", "x=1");
    let builder = world.store.sql_projection_over("entries", world.path(), Query::all(), apply).schema(SCHEMA);
    let handle = world.run(builder);
    let refuse_another = || {
        let refused = handle.rebuild();
        assert!(matches!(&refused, Err(Error::Held { name }) if name == "entries"), "{refused:?}");
    };
    assert_eq!(gate.hold(|| handle.rebuild().unwrap(), refuse_another).events, 1);
    assert_eq!(handle.rebuild().unwrap().events, 1);
}

/// The checkpoint says it first, and the state of the store a moment later, or when it has space again. A rebuild in between,
/// of a handler that somebody had let go on, applied what was parked, and its retry applied it again.
#[test]
fn what_only_the_checkpoint_says_to_be_parked_is_left_out_of_a_rebuild() {
    let (disk, clock) = (MemoryDisk::new(), ManualClock::new(Timestamp::default()));
    let options = Options::new().clock(clock.clone()).without_background_work();
    let store = Store::open_on(Arc::new(disk.clone()), options, true).unwrap();
    let world = World { store, directory: tempfile::tempdir().unwrap() };
    let works = Arc::new(Mutex::new(false));
    let gate = Arc::clone(&works);
    let apply = move |tables: &Connection, event: &Event<'_>| {
        if event.stream() == "late" && !*gate.lock().unwrap() { Err("not yet".into()) } else { set(tables, event) }
    };
    let builder = world.store.sql_projection_over("entries", world.path(), Query::all(), apply).schema(SCHEMA);
    let handle = world.run(builder.policy(OnError::park()));
    let late = world.append("late", "x=1");
    handle.wait_for(late).unwrap();
    handle.handler().pause();
    handle.handler().wait_for_state(|state| matches!(state, HandlerState::Paused));
    let behind = world.append("late", "y=1");
    disk.set_budget(disk.used());
    let state = world.store.state().unwrap();
    while state.put("filler", vec![0; 4096]).is_ok() {}
    while state.put("filler", "").is_ok() {}
    handle.handler().resume();
    handle.handler().wait_for_state(|state| matches!(state, HandlerState::NoSpace { .. }));
    *works.lock().unwrap() = true;

    let rebuilt = handle.core.rebuild().unwrap();
    assert_eq!((rebuilt.position, rebuilt.events, rebuilt.left_out), (Some(behind), 0, 2));
    disk.set_budget(u64::MAX);
    pass_until_handled(&clock, &handle, behind);
    world.store.dead_letters("entries").unwrap().retry(late).unwrap();
    handle.handler().wait_for_requests().unwrap();
    assert_eq!(world.seen(), ("x=1 y=1".into(), 2));
}

/// The record of a skipped event outlived the checkpoint that it was of. The event came again to the database that had
/// been put back, and was applied; a rebuild left it out for good.
#[test]
fn an_event_that_is_applied_after_the_database_was_put_back_is_part_of_a_rebuild() {
    let world = World::new();
    let works = Arc::new(Mutex::new(false));
    let run = || {
        let apply = set_once(&works);
        let builder = world.store.sql_projection_over("entries", world.path(), Query::all(), apply).schema(SCHEMA);
        world.run(builder.policy(OnError::skip()))
    };
    let skipped = || world.store.dead_letters("entries").unwrap().skipped().unwrap().len();
    let older = world.directory.path().join("older.sqlite");
    world.append("a", "x=1");
    run().stop().unwrap();
    std::fs::copy(world.path(), &older).unwrap();
    world.append("late", "y=1");
    run().stop().unwrap();
    assert_eq!((world.seen(), skipped()), (("x=1".into(), 1), 1));

    std::fs::copy(&older, world.path()).unwrap();
    *works.lock().unwrap() = true;
    let handle = run();
    assert_eq!(world.seen(), ("x=1 y=1".into(), 2));
    handle.rebuild().unwrap();
    assert_eq!((world.seen(), skipped()), (("x=1 y=1".into(), 2), 0));
}

/// The tables of the version before were dropped by a commit that did not wait for the disk, and its dead letters deleted
/// for good. When the power was lost, the version before, put back, found its tables again and no dead letter.
#[test]
fn tables_are_gone_for_good_before_what_is_missing_from_them_is_forgotten() {
    let world = World::new();
    world.append("a", "x=1");
    world.run(world.builder()).stop().unwrap();
    let watched = Connection::open(world.path()).unwrap();
    let watch = "CREATE TEMP TABLE creations (synchronous INTEGER);
        CREATE TEMP TRIGGER watch AFTER INSERT ON main.annals_projections
            BEGIN INSERT INTO creations SELECT synchronous FROM pragma_synchronous; END";
    watched.execute_batch(watch).unwrap();
    let two = world.store.sql_projection_over("entries", watched, Query::all(), set).schema(SCHEMA).version(2);
    let handle = world.run(two);
    let read = |sql: &str| handle.read(|tables| tables.query_row(sql, [], |row| row.get::<_, String>(0))).unwrap();
    assert_eq!(read("SELECT group_concat(synchronous, ' ') FROM creations"), "2", "full");
    assert_eq!(read("SELECT CAST(synchronous AS TEXT) FROM pragma_synchronous"), "1", "normal again");
}
