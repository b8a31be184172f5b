//! Handlers from inside: limits, failures of the disk, and what no test from outside can bring about. What handlers
//! promise is tested in `tests/semantics`.

mod beginnings;
mod elsewhere;
mod outages;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::*;
use crate::clock::ManualClock;
use crate::error::{Error, ExpectedVersion, Result};
use crate::limits::{DEAD_LETTERS_MAX, HANDLER_BATCH_EVENTS_MAX, QUERY_ITEMS_MAX, RETRIES_MAX, SKIPPED_RECORDS_MAX};
use crate::storage::MemoryDisk;
use crate::types::{Durability, Position, Timestamp};
use crate::{Event, NewEvent, Options, Query, StateBatch, Store};

const SECOND: Duration = Duration::from_secs(1);

fn store() -> Store {
    Options::new().without_background_work().in_memory().unwrap()
}

fn append(store: &Store, stream: &str, events: u64) -> Position {
    let events = (0..events).map(|_| NewEvent::raw("Happened", ""));
    store.append(stream, ExpectedVersion::Any, events).unwrap().last_position()
}

/// Leaves the disk without any space for the state: what it has allocated already is used up as well.
fn use_up(disk: &MemoryDisk, store: &Store) {
    disk.set_budget(disk.used());
    let state = store.state().unwrap();
    while state.put("filler", vec![0; 4096]).is_ok() {}
    while state.put("filler", "").is_ok() {}
}

/// Work that does nothing but what a test says.
struct Stub<H, S> {
    handle: H,
    save: S,
    effects: Effects,
}

/// Where the effects of a stub are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effects {
    Within,
    Outside,
}

impl<H, S> Work for Stub<H, S>
where
    H: FnMut(&Event<'_>) -> Result<(), HandlerError> + Send,
    S: FnMut(&Checkpoint) -> Result<()> + Send,
{
    fn load(&mut self, _store: &Store) -> Result<Option<Checkpoint>> {
        Ok(None)
    }

    fn handle(&mut self, event: &Event<'_>) -> Result<(), HandlerError> {
        (self.handle)(event)
    }

    fn save(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        (self.save)(checkpoint)
    }

    fn roll_back(&mut self) -> Result<()> {
        Ok(())
    }

    fn has_effects_outside(&self) -> bool {
        self.effects == Effects::Outside
    }
}

fn stub<H, S>(handle: H, save: S) -> Stub<H, S> {
    Stub { handle, save, effects: Effects::Within }
}

fn start(store: &Store, runner: Runner) -> Result<HandlerHandle> {
    runner.start(store, Box::new(stub(|_: &Event<'_>| Ok(()), |_: &Checkpoint| Ok(()))))
}

fn runner() -> Runner {
    Runner::new("stub", HandlerKind::Projection)
}

#[test]
fn options_are_checked_at_their_limits() {
    let store = store();
    append(&store, "a", 1);
    let accepts = |runner: Runner| start(&store, runner).map(drop);
    accepts(runner().batch(1)).unwrap();
    accepts(runner().batch(HANDLER_BATCH_EVENTS_MAX).dead_letters(DEAD_LETTERS_MAX)).unwrap();
    accepts(runner().policy(OnError::retry(RETRIES_MAX))).unwrap();
    accepts(runner().dead_letters(0)).unwrap();
    let items = |count| (1..count).fold(Query::tag("0"), |query, number| query.or(Query::tag(number.to_string())));
    accepts(runner().query(items(QUERY_ITEMS_MAX))).unwrap();
    for refused in [
        runner().batch(0),
        runner().batch(HANDLER_BATCH_EVENTS_MAX + 1),
        runner().dead_letters(DEAD_LETTERS_MAX + 1),
        runner().policy(OnError::retry(RETRIES_MAX + 1)),
        runner().query(items(QUERY_ITEMS_MAX + 1)),
        runner().policy(OnError::park()).in_global_order(),
        Runner::new("", HandlerKind::Projection),
    ] {
        assert!(matches!(accepts(refused.clone()), Err(Error::Invalid(_))), "{refused:?}");
    }
    assert!(matches!(store.dead_letters("a/b"), Err(Error::Invalid(_))));
}

#[test]
fn the_oldest_record_of_a_skipped_event_gives_way() {
    let store = Options::new().durability(Durability::Os).without_background_work().in_memory().unwrap();
    let reactor = store.react("mailer", |_| Err("never".into())).policy(OnError::skip()).upto(crate::Horizon::Visible);
    let mailer = reactor.start().unwrap();
    let records = || store.dead_letters("mailer").unwrap().skipped().unwrap();
    mailer.wait_for(append(&store, "a", SKIPPED_RECORDS_MAX)).unwrap();
    assert_eq!((records().len() as u64, records()[0].number), (SKIPPED_RECORDS_MAX, 1));
    mailer.wait_for(append(&store, "a", 1)).unwrap();
    assert_eq!((records().len() as u64, records()[0].number), (SKIPPED_RECORDS_MAX, 2));
    assert_eq!(records().last().unwrap().number, SKIPPED_RECORDS_MAX + 1);
}

#[test]
fn an_error_of_saving_stops_the_handler_and_is_told() {
    let store = store();
    let save = |_: &Checkpoint| Err(Error::ReadOnly);
    let stub = stub(|_: &Event<'_>| Ok(()), save);
    let handler = runner().start(&store, Box::new(stub)).unwrap();
    let position = append(&store, "a", 1);
    let failed = handler.wait_for(position).unwrap_err();
    assert!(matches!(&failed, Error::HandlerFailed { name, position: None, .. } if name == "stub"), "{failed}");
    assert!(handler.stop().is_err());
}

#[test]
fn a_panic_beside_an_event_stops_the_handler_and_frees_its_name() {
    let store = store();
    let stub = stub(|_: &Event<'_>| Ok(()), |_: &Checkpoint| panic!("no way to save"));
    let handler = runner().start(&store, Box::new(stub)).unwrap();
    append(&store, "a", 1);
    let state = handler.wait_for_state(HandlerState::is_over);
    assert_eq!(state, HandlerState::Failed { position: None, error: "it panicked: no way to save".into() });
    assert!(handler.wait_for_requests().is_ok());
    assert!(handler.stop().is_err());
    assert!(start(&store, runner()).is_ok());
}

/// A checkpoint waits for space, and the handler goes on when there is some.
#[test]
fn a_full_disk_is_waited_for() {
    let clock = ManualClock::new(Timestamp::default());
    let disk = MemoryDisk::new();
    let options = Options::new().clock(clock.clone()).without_background_work();
    let store = Store::open_on(Arc::new(disk.clone()), options, true).unwrap();
    // More than the state has allocated by then.
    let bulky = {
        let store = store.clone();
        let save = move |checkpoint: &Checkpoint| {
            let batch = StateBatch::new().put("bulk", vec![0; 1024 * 1024]);
            store.state()?.write(checkpoint.add_to(batch)).map(drop)
        };
        stub(|_: &Event<'_>| Ok(()), save)
    };
    let handler = runner().start(&store, Box::new(bulky)).unwrap();
    disk.set_budget(disk.used());
    let position = append(&store, "a", 1);
    handler.wait_for_state(|state| matches!(state, HandlerState::NoSpace { .. }));
    clock.advance(SECOND);
    assert_eq!(handler.status().position, None);
    disk.set_budget(u64::MAX);
    while handler.status().position < Some(position) {
        clock.advance(60 * SECOND);
        std::thread::yield_now();
    }
    assert_eq!(handler.status().handled, 1);
}

/// An order other than to stop does not keep a handler from looking for space again: one that it did would hang this.
#[test]
fn an_order_that_comes_while_space_is_waited_for_is_seen_to_when_there_is_some() {
    let clock = ManualClock::new(Timestamp::default());
    let (attempts, attempted) = std::sync::mpsc::channel();
    let has_space = Arc::new(AtomicBool::new(false));
    let save = {
        let has_space = Arc::clone(&has_space);
        move |_: &Checkpoint| {
            // Nobody listens any more when the test is over.
            let _ = attempts.send(());
            if has_space.load(Ordering::Relaxed) {
                return Ok(());
            }
            Err(Error::Full { path: "state".into(), source: Arc::new(std::io::ErrorKind::StorageFull.into()) })
        }
    };
    let options = Options::new().clock(clock.clone()).without_background_work();
    let store = options.in_memory().unwrap();
    let handler = runner().start(&store, Box::new(stub(|_: &Event<'_>| Ok(()), save))).unwrap();
    append(&store, "a", 1);
    attempted.recv().unwrap();
    handler.wait_for_state(|state| matches!(state, HandlerState::NoSpace { .. }));
    handler.pause();
    has_space.store(true, Ordering::Relaxed);
    while attempted.try_recv().is_err() {
        clock.advance(60 * SECOND);
        std::thread::yield_now();
    }
    handler.wait_for_state(|state| *state == HandlerState::Paused);
    assert_eq!(handler.status().handled, 1);
}

/// Who resumed it let it go on, while somebody else waited for it to be paused: for ever, or with events going by.
#[test]
fn a_handler_that_is_wanted_at_rest_is_at_rest_whoever_resumes_it() {
    let store = store();
    let (started, at_event) = std::sync::mpsc::channel();
    let (go_on, told) = std::sync::mpsc::channel();
    let handle = move |_: &Event<'_>| {
        started.send(()).unwrap();
        told.recv().unwrap();
        Ok(())
    };
    let handler = runner().start(&store, Box::new(stub(handle, |_: &Checkpoint| Ok(())))).unwrap();
    append(&store, "a", 2);
    at_event.recv().unwrap();
    std::thread::scope(|scope| {
        let resting = scope.spawn(|| {
            handler.at_rest(|| {
                handler.resume();
                assert_eq!(handler.status().state, HandlerState::Paused);
                Ok(handler.status().handled)
            })
        });
        while handler.shared.orders().held == 0 {
            std::thread::yield_now();
        }
        handler.resume();
        go_on.send(()).unwrap();
        assert_eq!(resting.join().unwrap().unwrap(), 1);
    });
    at_event.recv().unwrap();
    go_on.send(()).unwrap();
    handler.wait_for(store.head().unwrap().unwrap()).unwrap();
}

/// What does not match moves the checkpoint as well, now and then, so that it is not looked at again after a crash.
#[test]
fn a_checkpoint_moves_with_events_that_do_not_match() {
    let store = Options::new().durability(Durability::Os).without_background_work().in_memory().unwrap();
    let saved = Arc::new(AtomicU64::new(0));
    let save = {
        let saved = Arc::clone(&saved);
        move |checkpoint: &Checkpoint| {
            saved.store(checkpoint.position().map_or(0, Position::number), Ordering::SeqCst);
            Ok(())
        }
    };
    let stub = stub(|_: &Event<'_>| Ok(()), save);
    let options = runner().query(Query::stream("b")).upto(crate::Horizon::Visible);
    let handler = options.start(&store, Box::new(stub)).unwrap();
    handler.wait_for(append(&store, "a", 100)).unwrap();
    assert_eq!(saved.load(Ordering::SeqCst), 0, "a few are not worth a checkpoint");
    handler.wait_for(append(&store, "a", 20_000)).unwrap();
    assert_eq!(saved.load(Ordering::SeqCst), 20_100);
    handler.wait_for(append(&store, "a", 1)).unwrap();
    handler.stop().unwrap();
    assert_eq!(saved.load(Ordering::SeqCst), 20_101, "and at the end");
}

#[test]
fn a_checkpoint_is_the_same_as_bytes_and_nobody_elses() {
    let store = store();
    let point = store.history_point(append(&store, "a", 1)).unwrap();
    for point in [None, Some(point)] {
        let checkpoint = Checkpoint::new("mailer", point);
        assert_eq!(Checkpoint::from_bytes("mailer", &checkpoint.to_bytes()).unwrap(), checkpoint);
    }
    for foreign in [&b""[..], b"{}", br#"{"subscription":null}"#, b"\xff"] {
        assert!(matches!(Checkpoint::from_bytes("mailer", foreign), Err(Error::Codec { .. })));
    }
}

/// A store that takes no more appends ends its handlers when they have handled everything: nothing will come any more.
#[test]
fn a_poisoned_store_ends_its_handlers_with_its_error() {
    use crate::storage::{Call, Fault, FaultyDisk};
    let disk = FaultyDisk::new(MemoryDisk::new());
    let options = Options::new().without_background_work();
    let store = Store::open_on(Arc::new(disk.clone()), options, true).unwrap();
    let mailer = store.react("mailer", |_| Ok(())).start().unwrap();
    mailer.wait_for(append(&store, "a", 1)).unwrap();
    disk.inject(Fault::next(Call::Sync).of("log/"));
    assert!(store.append("a", ExpectedVersion::Any, [NewEvent::raw("Happened", "")]).is_err());
    let state = mailer.wait_for_state(HandlerState::is_over);
    assert!(matches!(&state, HandlerState::Failed { position: None, .. }), "{state:?}");
    let health = store.health().unwrap();
    assert!(!health.writable && health.poisoned.is_some() && health.not_running == ["mailer"]);
}

/// An order that comes at any moment is seen: a single one that is missed would hang this.
#[test]
fn no_order_is_missed() {
    let store = store();
    for round in 0..200 {
        let mailer = store.react("mailer", |_| Ok(())).start().unwrap();
        if round % 2 == 0 {
            mailer.wait_for(append(&store, "a", 1)).unwrap();
        }
        mailer.pause();
        mailer.resume();
        mailer.wait_for(append(&store, "a", 1)).unwrap();
        mailer.stop().unwrap();
    }
}

/// Something of an application whose end goes wrong.
struct Fragile;

impl Drop for Fragile {
    fn drop(&mut self) {
        panic!("it does not let go");
    }
}

/// Who waited for such a handler waited for ever: the panic went by the place where its end was told.
#[test]
fn work_that_panics_when_it_is_dropped_leaves_nobody_waiting() {
    let store = store();
    let fragile = Fragile;
    let handle = move |_: &Event<'_>| {
        let _its_own = &fragile;
        Ok(())
    };
    let stub = stub(handle, |_: &Checkpoint| Ok(()));
    let handler = runner().start(&store, Box::new(stub)).unwrap();
    handler.wait_for(append(&store, "a", 1)).unwrap();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| handler.wait_for(Position::new(100).unwrap()));
        store.attachment::<registry::Registry>().find("stub").unwrap().order(|orders| orders.stop = true);
        assert!(waiter.join().unwrap().is_err());
    });
    let failed = handler.stop().unwrap_err().to_string();
    assert!(failed.contains("it panicked: it does not let go"), "{failed}");
    assert!(start(&store, runner()).is_ok(), "its name is free");
}

/// Work that looks at its store when it is loaded.
struct Looking<L>(L);

impl<L: FnMut() -> Result<()> + Send> Work for Looking<L> {
    fn load(&mut self, _store: &Store) -> Result<Option<Checkpoint>> {
        (self.0)().map(|()| None)
    }

    fn handle(&mut self, _event: &Event<'_>) -> Result<(), HandlerError> {
        Ok(())
    }

    fn save(&mut self, _checkpoint: &Checkpoint) -> Result<()> {
        Ok(())
    }

    fn roll_back(&mut self) -> Result<()> {
        Ok(())
    }

    fn has_effects_outside(&self) -> bool {
        false
    }
}

/// A handler that looked for requests before anybody could call it missed the one that came in between.
#[test]
fn a_handler_can_be_called_before_it_looks_for_what_it_was_asked() {
    let store = store();
    let looked_at = store.clone();
    let look = move || {
        let handlers = looked_at.handlers()?;
        assert!(handlers.len() == 1 && handlers[0].is_running(), "{handlers:?}");
        Ok(())
    };
    runner().start(&store, Box::new(Looking(look))).unwrap().stop().unwrap();
}

/// It would have waited for ever: nothing is handled while it does.
#[test]
fn a_handler_that_waits_for_itself_is_told() {
    let store = store();
    let own = Arc::new(std::sync::OnceLock::<HandlerHandle>::new());
    let (told, outcomes) = std::sync::mpsc::channel();
    let handle = {
        let own = Arc::clone(&own);
        move |event: &Event<'_>| {
            let handler = own.wait();
            let later = Position::new(event.position().number() + 1).unwrap();
            told.send((handler.wait_for(event.position()).is_err(), handler.wait_for(later))).unwrap();
            Ok(())
        }
    };
    let handler = runner().start(&store, Box::new(stub(handle, |_: &Checkpoint| Ok(())))).unwrap();
    own.set(handler).unwrap();
    let position = append(&store, "a", 1);
    let (waits_for_this_one, later) = outcomes.recv().unwrap();
    assert!(waits_for_this_one, "what it is at is not handled yet");
    assert!(matches!(later, Err(Error::Invalid(invalid)) if invalid.violations[0].field == "wait_for"));
    own.get().unwrap().wait_for(position).unwrap();
    store.shutdown(Duration::from_secs(1)).unwrap();
}

#[test]
fn a_handler_that_could_not_be_started_says_why_and_holds_nobody_up() {
    let store = store();
    assert!(matches!(runner().start(&store, Box::new(Looking(|| Err(Error::ReadOnly)))), Err(Error::ReadOnly)));
    let health = store.health().unwrap();
    let failed = HandlerState::Failed { position: None, error: Error::ReadOnly.to_string() };
    assert_eq!((health.not_running.as_slice(), &health.handlers[0].state), (["stub".to_owned()].as_slice(), &failed));
    assert!(store.shutdown(1_000 * SECOND).unwrap().handlers.is_empty());
    assert!(start(&store, runner()).is_ok());
}

/// What a state that is gone has put aside would keep whole streams from the one that takes its place.
#[test]
fn a_pure_handler_without_a_checkpoint_forgets_what_was_put_aside_before() {
    let store = store();
    let works = Arc::new(AtomicBool::new(false));
    let counted = Arc::new(AtomicU64::new(0));
    let stub = || {
        let (works, counted) = (Arc::clone(&works), Arc::clone(&counted));
        let handle = move |_: &Event<'_>| {
            if !works.load(Ordering::SeqCst) {
                return Err(HandlerError::from("not yet"));
            }
            counted.fetch_add(1, Ordering::SeqCst);
            Ok(())
        };
        let store = store.clone();
        // The checkpoint, and what it says of dead letters, is saved; the stub never finds it again.
        let save = move |checkpoint: &Checkpoint| store.state()?.write(checkpoint.add_to(StateBatch::new())).map(drop);
        Box::new(stub(handle, save))
    };
    let start = |policy: OnError| runner().policy(policy).start(&store, stub()).unwrap();
    for policy in [OnError::park(), OnError::skip()] {
        works.store(false, Ordering::SeqCst);
        let handler = start(policy.clone());
        handler.wait_for(append(&store, "a", 2)).unwrap();
        handler.stop().unwrap();
        let letters = store.dead_letters("stub").unwrap();
        let put_aside = letters.list().unwrap().len() + letters.skipped().unwrap().len();
        assert!(put_aside >= 2, "{put_aside}");

        works.store(true, Ordering::SeqCst);
        counted.store(0, Ordering::SeqCst);
        let handler = start(policy);
        handler.wait_for(store.head().unwrap().unwrap()).unwrap();
        assert_eq!(counted.load(Ordering::SeqCst), store.head().unwrap().unwrap().number());
        assert_eq!((handler.status().parked, handler.status().skipped), (0, 0));
        assert_eq!((letters.list().unwrap().len(), letters.skipped().unwrap().len()), (0, 0));
        handler.stop().unwrap();
    }
}

#[test]
fn the_trouble_of_a_handler_is_told_in_the_health_of_its_store_until_it_ends() {
    let store = store();
    let troubled = Arc::new(AtomicBool::new(true));
    let trouble = {
        let troubled = Arc::clone(&troubled);
        move || troubled.load(Ordering::SeqCst).then(|| "it limps".to_owned())
    };
    let handler = start(&store, runner().trouble(trouble)).unwrap();
    assert_eq!(handler.status().trouble.as_deref(), Some("it limps"));
    assert!(!store.health().unwrap().is_ok());
    troubled.store(false, Ordering::SeqCst);
    let health = store.health().unwrap();
    assert!(health.is_ok() && health.handlers[0].trouble.is_none());
    troubled.store(true, Ordering::SeqCst);
    handler.stop().unwrap();
    assert_eq!(store.health().unwrap().handlers[0].trouble, None);
}
