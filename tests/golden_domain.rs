//! What applications keep in a store, as files: aggregates with their snapshots, read models, handlers with dead letters,
//! subscriptions, process managers with timers, in a store whose state was compacted and whose process was killed. Later
//! versions find all of it and go on with it.
//!
//! The files below `tests/golden/v1.0-domain` are never made again: a version that keeps something in another way gets a
//! directory of its own, written once with `ANNALS_GOLDEN=v1.1-domain cargo test --all-features --test golden_domain
//! write`. The format itself is held by `golden.rs`.

#![cfg(feature = "sqlite")]
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests")]

mod torture;

use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use annals::{
    Aggregate, Codec, DispatchError, Durability, Event, EventTypes, ExpectedVersion, HandlerError, HandlerKind,
    Horizon, Item, ManualClock, NewEvent, NewSnapshot, OnError, Options, Position, ProcessHandle, ProcessManager,
    ProcessStatus, Query, Reactions, SeededRandomness, SnapshotPolicy, SnapshotQuery, Store, Table, Timestamp,
    rusqlite,
};
use serde::{Deserialize, Serialize};

use torture::{directory, files, lines_of, put_files};

/// Names the directory that a golden store is written to, which must not exist.
const WRITE: &str = "ANNALS_GOLDEN";
const VERSION: &str = "v1.0-domain";
/// 2026-01-02 03:04:05 UTC.
const BEGUN: Timestamp = Timestamp::from_millis(1_767_323_045_000);
const DAY: Duration = Duration::from_secs(24 * 3_600);

// --- The application -------------------------------------------------------------------------------------------------

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
enum OrderEvent {
    Placed { customer: String, cents: i64 },
    Paid,
    Cancelled { reason: String },
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Order {
    cents: i64,
    paid: bool,
    events: u64,
}

impl Aggregate for Order {
    const CATEGORY: &'static str = "order";
    type Event = OrderEvent;

    fn apply(&mut self, event: &OrderEvent) {
        self.events += 1;
        match event {
            OrderEvent::Placed { cents, .. } => self.cents = *cents,
            OrderEvent::Paid => self.paid = true,
            OrderEvent::Cancelled { .. } => self.cents = 0,
        }
    }
}

/// Bills an order, and reminds of it after a day.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Dunning {
    customer: String,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum DunningCommand {
    Bill { customer: String },
    Remind,
}

impl ProcessManager for Dunning {
    const NAME: &'static str = "dunning";
    type Event = OrderEvent;
    type Command = DunningCommand;

    fn instance_of(_: &OrderEvent, recorded: &Event<'_>) -> Option<String> {
        Some(recorded.stream().to_owned())
    }

    fn on_event(&mut self, event: &OrderEvent, reactions: &mut Reactions<DunningCommand>) {
        match event {
            OrderEvent::Placed { customer, .. } => {
                self.customer.clone_from(customer);
                reactions.execute(DunningCommand::Bill { customer: customer.clone() });
                reactions.after(DAY, "late");
            }
            OrderEvent::Paid => reactions.complete(),
            OrderEvent::Cancelled { reason } => reactions.fail(reason),
        }
    }

    fn on_timer(&mut self, _: &str, reactions: &mut Reactions<DunningCommand>) {
        reactions.execute(DunningCommand::Remind);
    }
}

/// Starts the process manager, whose commands come out of the channel. Of one customer nobody answers yet.
fn start_dunning(store: &Store, sent: Sender<String>, absent: &'static str) -> ProcessHandle<Dunning> {
    let dispatch = move |command: &DunningCommand, dispatch: &annals::Dispatch<'_>| {
        match command {
            DunningCommand::Bill { customer } if customer == absent => {
                return Err(DispatchError::Failed("nobody answers".into()));
            }
            command => sent.send(format!("{} {command:?}", dispatch.instance())).unwrap(),
        }
        Ok(())
    };
    store.process::<Dunning>(dispatch).policy(OnError::stop()).start().unwrap()
}

/// The newest sum of each order, and how many events there were.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Row {
    cents: i64,
    events: u32,
}

type Sums = Table<String, Row>;

fn sum(rows: &mut Sums, event: &Event<'_>) -> Result<(), HandlerError> {
    let cents = match EventTypes::<OrderEvent>::new().check()?.decode(event)?.next() {
        Some(OrderEvent::Placed { cents, .. }) => cents,
        _ => 0,
    };
    rows.upsert(
        event.stream().to_owned(),
        || Row { cents: 0, events: 0 },
        |row| {
            row.cents += cents;
            row.events += 1;
        },
    );
    Ok(())
}

fn orders() -> Query {
    Query::category("order")
}

fn start_sums(store: &Store) -> annals::ProjectionHandle<Sums> {
    let initial = Sums::new().index("cents", |row: &Row| row.cents);
    store.projection_over("sums", orders(), initial, sum).start().unwrap()
}

fn start_tables(store: &Store, database: &Path) -> annals::SqlProjectionHandle {
    let apply = |tables: &rusqlite::Connection, event: &OrderEvent, recorded: &Event<'_>| {
        let row = (recorded.stream(), serde_json::to_string(event).unwrap());
        tables.execute("INSERT INTO seen VALUES (?1, ?2)", row)?;
        Ok(())
    };
    let projection = store.sql_projection("tables", database, EventTypes::<OrderEvent>::new(), apply);
    projection.schema("CREATE TABLE seen (stream TEXT NOT NULL, event TEXT NOT NULL)").start().unwrap()
}

/// Refuses what the customer `mallory` orders.
fn refuse_mallory(event: &Event<'_>) -> Result<(), HandlerError> {
    let is_bad = std::str::from_utf8(event.payload())?.contains("mallory");
    if is_bad { Err(HandlerError::permanent("mallory is not served")) } else { Ok(()) }
}

// --- Writing it, once ------------------------------------------------------------------------------------------------

fn golden(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(version)
}

fn options(clock: &ManualClock, seed: u64) -> Options {
    Options::new()
        .segment_bytes_first(4096)
        .segment_bytes_max(4096)
        .index_tail_bytes_max(2048)
        .clock(clock.clone())
        .randomness(SeededRandomness::new(seed))
        .without_background_work()
}

fn last(store: &Store) -> Position {
    store.head().unwrap().unwrap()
}

/// Writes a golden store. Does nothing when the tests are run.
#[test]
fn write_a_golden_store() {
    let Ok(version) = std::env::var(WRITE) else { return };
    let path = golden(&version);
    std::fs::create_dir(&path).expect("a golden store is written once");
    let work = directory();
    let clock = ManualClock::new(BEGUN);
    let store = options(&clock, 1).open(work.path().join("store")).unwrap();
    place_orders(&store, &clock);
    run_handlers(&store, &work.path().join("tables.sqlite"));
    run_processes(&store);
    fill_state(&store);
    store.maintain().unwrap();
    std::fs::copy(work.path().join("tables.sqlite"), path.join("tables.sqlite")).unwrap();
    std::fs::write(path.join("events.txt"), lines_of(&store)).unwrap();
    die_in_a_handler(&store, work.path().join("store"), path.join("store"));
}

/// An order that is paid, one that is not, one that is cancelled, one of mallory, and one of whom nobody answers.
fn place_orders(store: &Store, clock: &ManualClock) {
    let orders = store.repository::<Order>().unwrap().snapshots(SnapshotPolicy::every_events(2)).unwrap();
    let place = |id: &str, customer: &str, cents| {
        orders.execute(id, |_| OrderEvent::Placed { customer: customer.into(), cents }).unwrap();
        clock.advance(Duration::from_secs(60));
    };
    place("1", "alice", 5_000);
    place("2", "bob", 300);
    place("3", "carol", 70);
    place("4", "mallory", 1);
    orders.execute("1", |_| OrderEvent::Paid).unwrap();
    orders.execute("4", |_| OrderEvent::Paid).unwrap();
    orders.execute("3", |_| OrderEvent::Cancelled { reason: "too slow".into() }).unwrap();
    place("5", "dave", 8);
    let large =
        NewSnapshot::from_bytes("order-5", store.version("order-5").unwrap().unwrap(), Codec::Raw, [b'z'; 5000]);
    assert!(store.save_snapshot(&large.schema(9)).unwrap());
    #[cfg(feature = "schema")]
    EventTypes::<OrderEvent>::new().check().unwrap().schemas().register(store, "orders").unwrap();
}

fn run_handlers(store: &Store, database: &Path) {
    for (name, policy) in [("mailer", OnError::park()), ("auditor", OnError::skip())] {
        let handler = store.react(name, refuse_mallory).query(orders()).from_start().policy(policy).start().unwrap();
        handler.wait_for(last(store)).unwrap();
        handler.stop().unwrap();
    }
    let sums = start_sums(store);
    sums.wait_for(last(store)).unwrap();
    sums.stop().unwrap();
    let tables = start_tables(store, database);
    tables.wait_for(last(store)).unwrap();
    tables.stop().unwrap();
    let mut export = store.subscribe("export").query(orders()).open().unwrap();
    for _ in 0..3 {
        let Some(Item::Event(delivery)) = export.next_within(Duration::ZERO).unwrap() else {
            panic!("there are events")
        };
        delivery.ack().unwrap();
    }
    export.close().unwrap();
}

fn run_processes(store: &Store) {
    let (sent, _commands) = mpsc::channel();
    let dunning = start_dunning(store, sent, "dave");
    dunning.wait_for_state(annals::HandlerState::is_over);
    let _ = dunning.stop();
}

/// Values that replace each other, until the oldest segments of the state are removed.
fn fill_state(store: &Store) {
    let state = store.state().unwrap();
    for number in 0..36_u32 {
        state.put(format!("filler-{}", number % 3), vec![number as u8; 1_000]).unwrap();
        store.maintain().unwrap();
    }
    state.put("deleted", "x").unwrap();
    state.delete("deleted").unwrap();
}

/// The files as a kill leaves them in the middle of a handler, behind an event that was handed to the system and no more.
fn die_in_a_handler(store: &Store, from: PathBuf, to: PathBuf) {
    let unsynced = NewEvent::json("Paid", &()).unwrap();
    let commit = store.commit().append("order-2", ExpectedVersion::Any, [unsynced]).durability(Durability::Os);
    commit.send().unwrap();
    let (copied, waiting) = mpsc::channel();
    let courier = store.react("courier", move |event: &Event<'_>| {
        if event.version().number() == 2 {
            put_files(&to, &files(&from));
            copied.send(()).unwrap();
        }
        Ok(())
    });
    let courier = courier.query(Query::stream("order-2")).from_start().upto(Horizon::Visible).start().unwrap();
    waiting.recv().unwrap();
    courier.stop().unwrap();
}

// --- What later versions find ----------------------------------------------------------------------------------------

/// A copy of the golden store, with its database, that can be written to.
struct Copied {
    directory: tempfile::TempDir,
    clock: ManualClock,
}

impl Copied {
    fn new() -> Self {
        let directory = directory();
        put_files(&directory.path().join("store"), &files(&golden(VERSION).join("store")));
        std::fs::copy(golden(VERSION).join("tables.sqlite"), directory.path().join("tables.sqlite")).unwrap();
        let clock = ManualClock::new(BEGUN);
        clock.advance(Duration::from_secs(3_600));
        Self { directory, clock }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("store")
    }

    fn open(&self) -> Store {
        options(&self.clock, 2).open_existing(self.path()).unwrap()
    }
}

/// The events, with the one that was not synced: nothing says that it is not whole.
#[test]
fn the_events_of_the_killed_store_are_what_they_were() {
    let copied = Copied::new();
    let expected = std::fs::read_to_string(golden(VERSION).join("events.txt")).unwrap();
    let reader = Store::open_read_only(copied.path()).unwrap();
    assert_eq!(lines_of(&reader), expected, "what is known to be synced");
    for _ in 0..2 {
        let store = copied.open();
        let found = lines_of(&store);
        assert!(found.starts_with(&expected) && found.lines().count() == expected.lines().count() + 1);
        assert_eq!(store.open_report().cut_bytes, 0);
        store.close().unwrap();
    }
    assert!(annals::verify(copied.path(), &mut |_| {}).unwrap().problems.is_empty());
}

#[test]
fn the_state_was_compacted_and_has_its_newest_values() {
    let copied = Copied::new();
    let segments = std::fs::read_dir(copied.path().join("state/log")).unwrap();
    let names: Vec<String> = segments.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(names.len() > 1 && !names.contains(&"0000000001.segment".to_owned()), "{names:?}");
    assert!(std::fs::read_dir(copied.path().join("state/index")).unwrap().count() > 1);
    for store in [Store::open_read_only(copied.path()).unwrap(), copied.open()] {
        let state = store.state().unwrap();
        for (key, byte) in [("filler-0", 33), ("filler-1", 34), ("filler-2", 35)] {
            assert_eq!(state.get(key).unwrap(), Some(vec![byte; 1_000]), "{key}");
        }
        assert_eq!(state.get("deleted").unwrap(), None);
        assert_eq!(state.keys("filler-").unwrap().len(), 3);
    }
}

#[test]
fn aggregates_are_loaded_by_their_snapshots() {
    let copied = Copied::new();
    let store = copied.open();
    let orders = store.repository::<Order>().unwrap().snapshots(SnapshotPolicy::every_events(2)).unwrap();
    for (id, cents, paid) in [("1", 5_000, true), ("3", 0, false), ("4", 1, true)] {
        let order = orders.load(id).unwrap();
        assert_eq!(*order, Order { cents, paid, events: 2 }, "{id}");
        assert_eq!(order.snapshot_problems().len(), 0, "{id}: {:?}", order.snapshot_problems());
        let saved = store.load_snapshot(&format!("order-{id}"), SnapshotQuery::new()).unwrap();
        assert_eq!(saved.ignored[0].version, order.version(), "{id}: there is a snapshot of the newest version");
    }
    let large = store.load_snapshot("order-5", SnapshotQuery::new().schema(9)).unwrap().snapshot.unwrap();
    assert_eq!((large.state, large.version.number()), (vec![b'z'; 5_000], 1), "packed by Zstandard");
    #[cfg(feature = "schema")]
    {
        let schemas = EventTypes::<OrderEvent>::new().check().unwrap().schemas();
        let registered = annals::EventSchemas::registered(&store, "orders").unwrap().unwrap();
        assert_eq!(schemas.compare(&registered), []);
    }
}

#[test]
fn read_models_go_on_where_they_were() {
    let copied = Copied::new();
    let store = copied.open();
    let expected =
        [("order-1", 5_000, 2), ("order-2", 300, 2), ("order-3", 70, 2), ("order-4", 1, 2), ("order-5", 8, 1)];
    let sums = start_sums(&store);
    let report = sums.start_report();
    assert!(report.rebuilt.is_none() && report.resumed_behind.is_some(), "{report:?}");
    sums.wait_for(last(&store)).unwrap();
    sums.read(|rows| {
        let found: Vec<_> = rows.iter().map(|(key, row)| (key.as_str(), row.cents, row.events)).collect();
        assert_eq!(found, expected);
    });
    sums.stop().unwrap();
    let tables = start_tables(&store, &copied.directory.path().join("tables.sqlite"));
    let report = tables.start_report();
    assert!(report.rebuilt.is_none() && report.resumed_behind.is_some(), "{report:?}");
    tables.wait_for(last(&store)).unwrap();
    for (stream, _, events) in expected {
        let count = "SELECT count(*) FROM seen WHERE stream = ?1";
        assert_eq!(tables.read(|tables| tables.query_row(count, [stream], |row| row.get(0))), Ok(events), "{stream}");
    }
    tables.stop().unwrap();
}

#[test]
fn handlers_their_dead_letters_and_what_they_skipped_are_listed_and_taken_up() {
    let copied = Copied::new();
    let store = copied.open();
    let kinds: Vec<_> = store.handlers().unwrap().into_iter().map(|handler| (handler.name, handler.kind)).collect();
    let (reactor, projection) = (HandlerKind::Reactor, HandlerKind::Projection);
    let expected = [
        ("auditor", reactor),
        ("courier", reactor),
        ("dunning", HandlerKind::ProcessManager),
        ("mailer", reactor),
        ("sums", projection),
        ("tables", projection),
    ];
    assert_eq!(kinds, expected.map(|(name, kind)| (name.to_owned(), kind)));
    let letters = store.dead_letters("mailer").unwrap();
    let listed = letters.list().unwrap();
    let found: Vec<_> =
        listed.iter().map(|letter| (letter.stream.as_str(), letter.attempts, letter.error.as_deref())).collect();
    assert_eq!(
        found,
        [("order-4", 1, Some("mallory is not served")), ("order-4", 0, None)],
        "the second waits behind it"
    );
    let skipped = store.dead_letters("auditor").unwrap().skipped().unwrap();
    let found: Vec<_> =
        skipped.iter().map(|skipped| (skipped.number, skipped.stream.as_str(), &*skipped.error)).collect();
    assert_eq!(found, [(1, "order-4", "mallory is not served")]);
    // Mallory is served from now on: what was parked is done in its order, and nothing else again but what is new.
    let done = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&done);
    let serve = move |event: &Event<'_>| {
        noted.lock().unwrap().push((event.stream().to_owned(), event.version().number()));
        Ok(())
    };
    letters.retry_all().unwrap();
    let mailer = store.react("mailer", serve).query(orders()).from_start().policy(OnError::park()).start().unwrap();
    mailer.wait_for_requests().unwrap();
    mailer.wait_for(last(&store)).unwrap();
    mailer.stop().unwrap();
    assert_eq!(letters.list().unwrap(), []);
    let mut done = std::mem::take(&mut *done.lock().unwrap());
    done.sort();
    assert_eq!(done, [("order-2".to_owned(), 2), ("order-4".to_owned(), 1), ("order-4".to_owned(), 2)]);
}

/// Its mark says that it was at work when the process died: nothing is parked for that, and all is handled again, once.
#[test]
fn a_handler_that_died_at_work_does_it_again() {
    let copied = Copied::new();
    let store = copied.open();
    assert!(store.state().unwrap().get("mark-courier").unwrap().is_some(), "a mark was left");
    for expected in [&[1, 2][..], &[]] {
        let (sent, handled) = mpsc::channel();
        let courier = store.react("courier", move |event: &Event<'_>| {
            sent.send(event.version().number()).unwrap();
            Ok(())
        });
        let courier = courier.query(Query::stream("order-2")).from_start().policy(OnError::park()).start().unwrap();
        courier.wait_for(last(&store)).unwrap();
        courier.stop().unwrap();
        assert_eq!(handled.try_iter().collect::<Vec<_>>(), expected);
        assert_eq!(store.dead_letters("courier").unwrap().list().unwrap(), []);
    }
}

#[test]
fn a_subscription_goes_on_behind_what_it_acknowledged() {
    let copied = Copied::new();
    let store = copied.open();
    let mut export = store.subscribe("export").query(orders()).open().unwrap();
    let Some(Item::Event(next)) = export.next_within(Duration::ZERO).unwrap() else { panic!("there are events") };
    assert_eq!((next.stream.as_str(), next.version.number()), ("order-4", 1), "three were acknowledged");
}

/// One has ended well and one badly, one waits for its timer, and one for somebody to answer.
#[test]
fn process_managers_go_on_with_their_commands_and_timers() {
    let copied = Copied::new();
    let store = copied.open();
    let instances = store.processes::<Dunning>();
    let status = |id: &str| instances.get(id).unwrap().unwrap().status().clone();
    assert_eq!(status("order-1"), ProcessStatus::Completed);
    assert_eq!(status("order-3"), ProcessStatus::Failed { reason: "too slow".into() });
    assert_eq!(instances.open().unwrap(), ["order-2", "order-5"]);
    let timers: Vec<_> = instances.timers().unwrap().into_iter().map(|timer| (timer.instance, timer.due)).collect();
    let due = |seconds| Timestamp::from_nanos(BEGUN.nanos() + (DAY + Duration::from_secs(seconds)).as_nanos() as i64);
    assert_eq!(timers, [("order-2".to_owned(), due(60)), ("order-5".to_owned(), due(240))]);
    let pending = instances.get("order-5").unwrap().unwrap();
    assert_eq!(pending.pending().collect::<Vec<_>>(), [&DunningCommand::Bill { customer: "dave".into() }]);
    let (sent, commands) = mpsc::channel();
    let dunning = start_dunning(&store, sent, "nobody");
    store.sync().unwrap();
    dunning.settle().unwrap();
    // The payment of the second order was not synced before, and ends its timer.
    copied.clock.advance(DAY);
    dunning.settle().unwrap();
    dunning.stop().unwrap();
    let told: Vec<String> = commands.try_iter().collect();
    assert_eq!(told, [r#"order-5 Bill { customer: "dave" }"#, "order-5 Remind"]);
    assert_eq!(status("order-2"), ProcessStatus::Completed);
}
