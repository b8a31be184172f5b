//! The work of a process manager without a runner, so that things happen exactly when a test says so.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::engine::{self, Engine, StreamsOf};
use super::instance::{Instance, Place, ProcessStatus, Timer};
use super::record::Cause;
use super::streams::{Step, Streams};
use super::timers::TimerControl;
use super::work::ProcessWork;
use super::{Dispatch, DispatchError, ProcessManager, Reactions};
use crate::error::{Error, ExpectedVersion};
use crate::storage::{FileSystem, MemoryDisk, SimulatedDisk};
use crate::types::{Position, Timestamp};
use crate::{Event, ManualClock, NewEvent, OnError, Options, Query, RecordedEvent, Store, Work};

/// Does two things, and waits for somebody to say that it is good.
#[derive(Default, Serialize, Deserialize)]
struct Errand {
    fired: Vec<String>,
    /// `None` before it began.
    notes: Option<u32>,
}

#[derive(Deserialize)]
enum ErrandEvent {
    Begun,
    Noted,
    Approved,
}

impl ProcessManager for Errand {
    const NAME: &'static str = "errand";
    type Event = ErrandEvent;
    type Command = String;

    fn instance_of(_: &ErrandEvent, recorded: &Event<'_>) -> Option<String> {
        Some(recorded.stream().split_once('-')?.1.to_owned())
    }

    fn on_event(&mut self, event: &ErrandEvent, reactions: &mut Reactions<String>) {
        match event {
            ErrandEvent::Begun => {
                self.notes = Some(0);
                reactions.execute("first".to_owned()).compensated_by("undo first".to_owned());
                reactions.execute("second".to_owned());
                reactions.after(Duration::from_secs(1), "late");
            }
            ErrandEvent::Noted => self.notes = self.notes.map(|notes| notes + 1),
            ErrandEvent::Approved => reactions.complete(),
        }
    }

    fn on_timer(&mut self, timer: &str, _: &mut Reactions<String>) {
        self.fired.push(timer.to_owned());
    }
}

fn late() -> Timer {
    Timer { due: Timestamp::from_millis(1_000), name: "late".into() }
}

fn store() -> Store {
    Options::new().clock(ManualClock::new(Timestamp::from_millis(0))).in_memory().unwrap()
}

/// The work of an errand whose commands are carried out by `dispatch`.
fn work(
    store: &Store,
    dispatch: impl FnMut(&StreamsOf<Errand>, &str) -> Result<(), DispatchError> + Send + 'static,
) -> ProcessWork<Errand> {
    let streams: Arc<StreamsOf<Errand>> = Arc::new(Streams::new(store.clone(), Errand::NAME));
    let (of_dispatch, mut dispatch) = (Arc::clone(&streams), dispatch);
    let dispatch = move |command: &String, _: &Dispatch<'_>| dispatch(&of_dispatch, command);
    let engine = Engine { codec: Errand::event_types().check().unwrap(), dispatch: Box::new(dispatch), syncs: false };
    let control = Arc::new(TimerControl::default());
    ProcessWork { engine, streams, control, thread: None, starts_over: true, covered: None, newest: None }
}

fn append(store: &Store, stream: &str, event_type: &'static str) -> RecordedEvent {
    let event = NewEvent::json(event_type, &()).unwrap();
    store.append(stream, ExpectedVersion::Any, [event]).unwrap();
    newest(store)
}

fn newest(store: &Store) -> RecordedEvent {
    store.read(Query::all()).reverse().owned().next().unwrap().unwrap()
}

fn types(store: &Store) -> Vec<String> {
    store.read(Query::stream("errand-1")).owned().map(|event| event.unwrap().event_type).collect()
}

fn status(work: &ProcessWork<Errand>) -> ProcessStatus {
    work.streams.read("1").unwrap().unwrap().instance.status
}

#[test]
fn a_timer_that_fires_during_a_dispatch_is_not_lost_and_neither_is_the_outcome() {
    let store = store();
    let mut work = work(&store, |streams, command| {
        if command == "second" {
            engine::fire::<Errand>(streams, "1", &late())?;
        }
        Ok(())
    });
    let begun = append(&store, "visit-1", "Begun");
    work.handle(&begun.as_event()).unwrap();
    assert_eq!(types(&store), ["ProcessReacted", "ProcessTimerDue", "ProcessCommandsSettled"]);
    let due = store.read(Query::types(["ProcessTimerDue"])).owned().next().unwrap().unwrap();
    work.handle(&due.as_event()).unwrap();
    let current = work.streams.read("1").unwrap().unwrap();
    assert_eq!(current.instance.state.fired, ["late"]);
    assert!(current.instance.pending.is_empty() && current.instance.fired.is_empty());
    assert_eq!(current.instance.compensations, ["undo first"]);
    work.handle(&due.as_event()).unwrap();
    assert_eq!(work.streams.read("1").unwrap().unwrap().version, current.version, "it comes again, and is known");
}

#[test]
fn an_instance_that_is_abandoned_during_a_dispatch_stays_so() {
    let store = store();
    let mut work = work(&store, |streams, command| {
        if command == "first" {
            assert!(engine::abandon::<Errand>(streams, "1", "by hand")?);
        }
        Ok(())
    });
    let begun = append(&store, "visit-1", "Begun");
    work.handle(&begun.as_event()).unwrap();
    assert_eq!(types(&store), ["ProcessReacted", "ProcessAbandoned"]);
    assert_eq!(status(&work), ProcessStatus::Failed { reason: "by hand".into() });
}

#[test]
fn what_succeeded_before_a_failure_is_recorded_and_not_dispatched_again() {
    let store = store();
    let mut dispatched = Vec::new();
    let (tell, told) = std::sync::mpsc::channel();
    let mut work = work(&store, move |_, command| {
        dispatched.push(command.to_owned());
        tell.send(command.to_owned()).unwrap();
        let is_down = command == "second" && dispatched.len() < 3;
        if is_down { Err(DispatchError::failed("down")) } else { Ok(()) }
    });
    let begun = append(&store, "visit-1", "Begun");
    assert!(work.handle(&begun.as_event()).is_err());
    work.handle(&begun.as_event()).unwrap();
    assert_eq!(told.try_iter().collect::<Vec<_>>(), ["first", "second", "second"]);
}

#[test]
fn an_event_that_was_parked_is_handled_behind_later_ones_and_once() {
    let store = store();
    let mut work = work(&store, |_, _| Ok(()));
    let begun = append(&store, "visit-1", "Begun");
    let parked = append(&store, "answer-1", "Approved");
    work.handle(&begun.as_event()).unwrap();
    // A timer is reacted to first, whose place lies behind that of the event.
    engine::fire::<Errand>(&work.streams, "1", &late()).unwrap();
    let due = newest(&store);
    work.handle(&due.as_event()).unwrap();
    assert_eq!(status(&work), ProcessStatus::Running);
    work.handle(&parked.as_event()).unwrap();
    assert_eq!(status(&work), ProcessStatus::Completed);
    let written = types(&store);
    for event in [&begun, &parked, &due] {
        work.handle(&event.as_event()).unwrap();
    }
    assert_eq!(types(&store), written);
}

/// After a crash, or from the first event on, events come again that the instance did not begin with.
#[test]
fn an_event_that_was_passed_over_before_an_instance_began_is_not_part_of_it() {
    let store = store();
    let events = [append(&store, "note-1", "Noted"), append(&store, "visit-1", "Begun")];
    for _ in 0..2 {
        let mut work = work(&store, |_, _| Ok(()));
        for event in &events {
            work.handle(&event.as_event()).unwrap();
        }
        assert_eq!(work.streams.read("1").unwrap().unwrap().instance.state.notes, Some(0));
    }
}

#[test]
fn an_instance_whose_id_breaks_the_limit_is_refused() {
    let store = store();
    let mut work = work(&store, |_, _| Ok(()));
    let max = crate::limits::PROCESS_INSTANCE_BYTES_MAX;
    let longest = append(&store, &format!("visit-{}", "x".repeat(max)), "Begun");
    work.handle(&longest.as_event()).unwrap();
    for id in ["x".repeat(max + 1), String::new()] {
        let refused = append(&store, &format!("visit-{id}"), "Begun");
        assert!(work.handle(&refused.as_event()).is_err());
    }
}

#[test]
fn an_event_of_another_type_is_passed_over() {
    let store = store();
    let mut work = work(&store, |_, _| Ok(()));
    let other = append(&store, "visit-1", "Postponed");
    work.handle(&other.as_event()).unwrap();
    assert_eq!(types(&store), Vec::<String>::new());
}

#[test]
fn a_state_that_cannot_be_decoded_is_an_error_that_names_it() {
    let store = store();
    let mut work = work(&store, |_, _| Ok(()));
    store.append("errand-1", ExpectedVersion::Any, [NewEvent::raw("ProcessReacted", "?")]).unwrap();
    let begun = append(&store, "visit-1", "Begun");
    let error = work.handle(&begun.as_event()).unwrap_err().to_string();
    assert!(error.contains("errand-1"), "{error}");
}

#[test]
fn a_history_that_changed_is_begun_anew_unless_old_events_are_none_of_its_business() {
    let store = store();
    let mut work = work(&store, |_, _| Ok(()));
    assert!(work.start_over().unwrap());
    work.starts_over = false;
    assert!(!work.start_over().unwrap());
}

/// A checkpoint that survives a loss of power must not have lost what it says was done.
#[cfg(feature = "testing")]
#[test]
fn what_a_checkpoint_covers_is_durable_before_it_is_saved() {
    let disk = crate::FaultyDisk::new();
    let clock = ManualClock::new(Timestamp::from_millis(0));
    let store = disk.open(Options::new().clock(clock.clone()).without_background_work()).unwrap();
    let mut work = work(&store, |_, _| Ok(()));
    let begun = append(&store, "visit-1", "Begun");
    work.handle(&begun.as_event()).unwrap();
    work.save(&crate::Checkpoint::default()).unwrap();
    for seed in 0..20 {
        let left = disk.lose_power(seed).open(Options::new().clock(clock.clone())).unwrap();
        assert_eq!(types(&left), ["ProcessReacted", "ProcessCommandsSettled"], "seed {seed}");
    }
}

#[test]
fn a_timer_that_cannot_be_fired_holds_back_no_other() {
    let clock = ManualClock::new(Timestamp::from_millis(0));
    let store = Options::new().clock(clock.clone()).in_memory().unwrap();
    let mut work = work(&store, |_, _| Ok(()));
    work.load(&store).unwrap();
    for stream in ["visit-0", "visit-1"] {
        let begun = append(&store, stream, "Begun");
        work.handle(&begun.as_event()).unwrap();
    }
    // Of the instance whose timer comes first, nothing can be read any more.
    store.append("errand-0", ExpectedVersion::Any, [NewEvent::raw("ProcessReacted", "?")]).unwrap();
    clock.advance(Duration::from_secs(1));
    assert!(matches!(work.control.fire_due(), Err(Error::Codec { .. })));
    assert_eq!(types(&store).last().unwrap(), "ProcessTimerDue");
    assert!(matches!(work.control.failure(), Some(Error::Codec { .. })));
}

#[test]
fn a_store_that_takes_no_more_events_ends_the_thread_of_the_timers() {
    let clock = ManualClock::new(Timestamp::from_millis(0));
    let store = Options::new().clock(clock.clone()).in_memory().unwrap();
    let mut work = work(&store, |_, _| Ok(()));
    work.load(&store).unwrap();
    let begun = append(&store, "visit-1", "Begun");
    work.handle(&begun.as_event()).unwrap();
    work.control.fire_due().unwrap();
    store.close().unwrap();
    clock.advance(Duration::from_secs(1));
    assert!(matches!(work.control.fire_due(), Err(Error::Closed)));
    assert!(matches!(work.control.fire_due(), Err(Error::Closed)), "it has ended");
}

/// What could not be saved with one checkpoint is saved with the next.
#[test]
fn a_checkpoint_that_could_not_be_saved_loses_no_timer() {
    let disk = MemoryDisk::new();
    let options = Options::new().clock(ManualClock::new(Timestamp::from_millis(0))).without_background_work();
    let store = Store::open_on(Arc::new(disk.clone()), options, true).unwrap();
    let mut errand = work(&store, |_, _| Ok(()));
    let begun = append(&store, "visit-1", "Begun");
    errand.handle(&begun.as_event()).unwrap();

    disk.set_budget(disk.used());
    assert!(matches!(errand.save(&crate::Checkpoint::default()), Err(Error::Full { .. })));
    disk.set_budget(u64::MAX);
    errand.save(&crate::Checkpoint::default()).unwrap();
    drop(errand);

    let again = work(&store, |_, _| Ok(()));
    again.streams.find_open().unwrap();
    assert_eq!(again.streams.open().timers().map(|(timer, _)| timer.clone()).collect::<Vec<_>>(), [late()]);
}

/// The runner and the thread of the timers write to one stream in turns: what is known of it is what was written last.
#[test]
fn what_is_known_of_an_instance_is_what_was_written_last_whoever_wrote_it() {
    let store = store();
    let streams: Arc<StreamsOf<Errand>> = Arc::new(Streams::new(store.clone(), Errand::NAME));
    let ids = std::sync::atomic::AtomicU64::new(0);
    let next_id = || uuid::Uuid::from_u128(ids.fetch_add(1, std::sync::atomic::Ordering::Relaxed).into());
    let write = |timer: &str| loop {
        let current = streams.read("1").unwrap();
        let version = current.as_ref().map(|current| current.version);
        let place = Place { position: Position::FIRST, ordinal: 0 };
        let mut instance = current.map_or_else(|| Instance::new(place, Errand::default()), |current| current.instance);
        instance.timers = vec![Timer { due: Timestamp::from_millis(1_000), name: timer.into() }];
        let cause = Cause::Abandoned { reason: String::new() };
        let step = Step { version, id: next_id(), cause, instance, metadata: crate::Metadata::new() };
        if streams.write("1", step).unwrap().is_some() {
            break;
        }
    };
    for round in 0..1_000 {
        std::thread::scope(|scope| {
            for name in ["a", "b"] {
                let write = &write;
                scope.spawn(move || (0..4).for_each(|number| write(&format!("{name}{round}.{number}"))));
            }
        });
        let known: Vec<_> = streams.open().timers().map(|(timer, _)| timer.clone()).collect();
        assert_eq!(known, streams.read("1").unwrap().unwrap().instance.timers, "round {round}");
    }
}

/// An event that failed before its instance began is told to it all the same when it is retried.
#[test]
fn an_event_that_was_parked_before_its_instance_began_is_told_to_it() {
    let store = store();
    let mut work = work(&store, |_, _| Ok(()));
    let parked = append(&store, "answer-1", "Approved");
    let begun = append(&store, "visit-1", "Begun");
    work.handle(&begun.as_event()).unwrap();
    work.handle(&parked.as_event()).unwrap();
    assert_eq!(status(&work), ProcessStatus::Completed);
}

/// An event that had been parked at the very checkpoint of a run that was killed was taken for one that had been passed
/// over before its instance began: its retry at the next start was done, and told to nobody.
#[test]
fn an_event_that_was_parked_at_the_checkpoint_of_a_killed_run_is_told_to_an_instance_that_began_behind_it() {
    let store = store();
    let parked = append(&store, "answer-1", "Approved");
    let point = serde_json::json!({ "handler": store.history_point(parked.position).unwrap() });
    let mut killed = work(&store, |_, _| Ok(()));
    killed.save(&crate::Checkpoint::from_bytes("errand", point.to_string().as_bytes()).unwrap()).unwrap();
    let begun = append(&store, "visit-1", "Begun");
    killed.handle(&begun.as_event()).unwrap();
    drop(killed);

    let mut next = work(&store, |_, _| Ok(()));
    let checkpoint = next.load(&store).unwrap().unwrap();
    assert_eq!((checkpoint.position(), status(&next)), (Some(parked.position), ProcessStatus::Running));
    next.handle(&parked.as_event()).unwrap();
    assert_eq!(status(&next), ProcessStatus::Completed);
}

/// An errand, but all notes are for the first one, whatever stream they are in.
#[derive(Default, Serialize, Deserialize)]
struct Notebook(Errand);

impl ProcessManager for Notebook {
    const NAME: &'static str = "notebook";
    type Event = ErrandEvent;
    type Command = String;

    fn instance_of(event: &ErrandEvent, recorded: &Event<'_>) -> Option<String> {
        match event {
            ErrandEvent::Noted => Some("1".to_owned()),
            _ => Errand::instance_of(event, recorded),
        }
    }

    fn on_event(&mut self, event: &ErrandEvent, reactions: &mut Reactions<String>) {
        self.0.on_event(event, reactions);
    }
}

/// A note for the first errand is parked behind the second one, whose commands fail, and then the first one begins. How
/// many notes that has in the end, when the process is ended there and all is well at the next start.
fn notes_after(end: fn(&SimulatedDisk), seed: u64) -> Option<u32> {
    let disk = SimulatedDisk::new(FileSystem::Strict, seed);
    let open = || {
        // On a clock that stands still: nothing is saved because time has passed.
        let options = Options::new().clock(ManualClock::new(Timestamp::from_millis(0))).without_background_work();
        Store::open_on(Arc::new(disk.clone()), options, true).unwrap()
    };
    let start = |store: &Store, is_down: bool| {
        let dispatch = move |_: &String, dispatch: &Dispatch<'_>| match dispatch.instance() {
            "2" if is_down => Err(DispatchError::failed("down")),
            _ => Ok(()),
        };
        store.process::<Notebook>(dispatch).policy(OnError::park()).start().unwrap()
    };
    let store = open();
    let process = start(&store, true);
    for (stream, event_type) in [("visit-2", "Begun"), ("visit-2", "Noted"), ("visit-1", "Begun")] {
        append(&store, stream, event_type);
        process.settle().unwrap();
    }
    disk.stop();
    drop((process, store));
    end(&disk);

    let store = open();
    store.dead_letters(Notebook::NAME).unwrap().retry_all().unwrap();
    let process = start(&store, false);
    process.settle().unwrap();
    process.wait_for_requests().unwrap();
    assert!(store.dead_letters(Notebook::NAME).unwrap().list().unwrap().is_empty());
    process.instances().get("1").unwrap().unwrap().state().0.notes
}

/// That it was parked was saved up to a second later. Where the process was killed before, it came again from before
/// the beginning of its instance, and counted as passed over: it was neither told nor a dead letter.
#[test]
fn an_event_that_was_parked_right_before_its_instance_began_is_told_to_it_after_a_kill() {
    assert_eq!(notes_after(SimulatedDisk::kill, 0), Some(1));
}

/// The same, though it was saved: the log was synced for the commands of the instance, and the state was not.
#[test]
fn an_event_that_was_parked_right_before_its_instance_began_is_told_to_it_after_a_loss_of_power() {
    for seed in 0..20 {
        assert_eq!(notes_after(SimulatedDisk::cut_power, seed), Some(1), "seed {seed}");
    }
}

/// Unless it is told otherwise, nothing outside of the store ever knows of a command that the store could forget.
#[cfg(feature = "testing")]
#[test]
fn what_asks_for_a_command_is_durable_before_it_is_dispatched() {
    let disk = crate::FaultyDisk::new();
    let clock = ManualClock::new(Timestamp::from_millis(0));
    let options = || Options::new().clock(clock.clone()).durability(crate::Durability::Os).without_background_work();
    let store = disk.open(options()).unwrap();
    let (in_dispatch, left) = (disk.clone(), std::sync::mpsc::channel());
    let mut work = work(&store, move |_, command| {
        let records = (0..20).map(|seed| {
            let store = in_dispatch.lose_power(seed).open(Options::new()).unwrap();
            store.read(Query::stream("errand-1")).count().unwrap()
        });
        left.0.send((command.to_owned(), records.min().unwrap())).unwrap();
        Ok(())
    });
    work.engine.syncs = true;
    let begun = append(&store, "visit-1", "Begun");
    work.handle(&begun.as_event()).unwrap();
    assert_eq!(left.1.try_iter().collect::<Vec<_>>(), [("first".into(), 1), ("second".into(), 1)]);
}

/// A state that cannot even be read without a panic.
#[derive(Default)]
struct Brittle {
    is_broken: bool,
}

impl Serialize for Brittle {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.is_broken.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Brittle {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let is_broken = bool::deserialize(deserializer)?;
        assert!(!is_broken, "a bug of the application");
        Ok(Self { is_broken })
    }
}

impl ProcessManager for Brittle {
    const NAME: &'static str = "brittle";
    type Event = ErrandEvent;
    type Command = String;

    fn instance_of(_: &ErrandEvent, recorded: &Event<'_>) -> Option<String> {
        Some(recorded.stream().split_once('-')?.1.to_owned())
    }

    fn on_event(&mut self, event: &ErrandEvent, reactions: &mut Reactions<String>) {
        self.is_broken = matches!(event, ErrandEvent::Approved);
        reactions.after(Duration::from_secs(1), "late");
    }
}

#[test]
fn a_panic_over_one_timer_holds_back_no_other() {
    let clock = ManualClock::new(Timestamp::from_millis(0));
    let store = Options::new().clock(clock.clone()).in_memory().unwrap();
    append(&store, "visit-0", "Approved");
    append(&store, "visit-1", "Begun");
    let process = store.process::<Brittle>(|_, _| Ok(())).start().unwrap();
    process.settle().unwrap();
    clock.advance(Duration::from_secs(1));
    let failure = process.settle().unwrap_err().to_string();
    assert!(failure.contains("brittle-0") && failure.contains("late"), "{failure}");
    let health = store.health().unwrap();
    let trouble = health.handlers[0].trouble.as_deref().unwrap();
    assert!(!health.is_ok() && trouble.starts_with("a timer cannot be fired: ") && trouble.contains("brittle-0"));
    let fired = store.read(Query::types(["ProcessTimerDue"])).owned();
    let fired: Vec<_> = fired.map(|event| event.unwrap().stream).collect();
    assert_eq!(fired, ["brittle-1"]);
}

/// Whoever fires a timer may be late: what the stream says counts, and is what is known from then on.
#[test]
fn a_timer_that_is_set_no_more_is_not_fired_but_forgotten() {
    let store = store();
    let mut errand = work(&store, |_, _| Ok(()));
    let begun = append(&store, "visit-1", "Begun");
    errand.handle(&begun.as_event()).unwrap();
    // Another one, that knows of the timer, and not that the instance ends.
    let behind = work(&store, |_, _| Ok(()));
    behind.streams.find_open().unwrap();
    let approved = append(&store, "visit-1", "Approved");
    errand.handle(&approved.as_event()).unwrap();
    assert_eq!(behind.streams.open().first_due(), Some((&late(), "1")));
    let before = types(&store);
    engine::fire::<Errand>(&behind.streams, "1", &late()).unwrap();
    assert_eq!(types(&store), before, "nothing is written");
    assert_eq!(behind.streams.open().first_due(), None);
}

#[test]
fn a_timer_of_an_instance_that_never_began_is_not_fired() {
    let store = store();
    let errand = work(&store, |_, _| Ok(()));
    engine::fire::<Errand>(&errand.streams, "nobody", &late()).unwrap();
    assert_eq!(store.head().unwrap(), None);
}

#[test]
fn a_timer_that_has_fired_is_not_fired_again() {
    let store = store();
    let mut errand = work(&store, |_, _| Ok(()));
    let begun = append(&store, "visit-1", "Begun");
    errand.handle(&begun.as_event()).unwrap();
    for _ in 0..2 {
        engine::fire::<Errand>(&errand.streams, "1", &late()).unwrap();
        assert_eq!(types(&store).iter().filter(|kind| *kind == "ProcessTimerDue").count(), 1);
        assert_eq!(errand.streams.open().first_due(), None);
    }
}
