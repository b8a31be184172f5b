//! Groups 34 to 36 and 38 as far as they are about handlers: failures, effects outside, waiting, other histories.
//!
//! Time stands still but where a test moves it, so that every delay is exact.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use annals::{
    Checkpoint, DeadLetterRequest, Durability, Error, Event, ExpectedVersion, HandlerError, HandlerHandle, HandlerKind,
    HandlerState, Horizon, ManualClock, MemorySink, NewEvent, OnError, Options, Position, Query, Reactor, Runner,
    StateBatch, Store, Timestamp, Work,
};
use parking_lot::Mutex;
use tempfile::TempDir;

use crate::support::p;

const SECOND: Duration = Duration::from_secs(1);
const NANO: Duration = Duration::from_nanos(1);

/// A store with a clock that stands still.
struct Case {
    store: Option<Store>,
    clock: ManualClock,
    directory: Option<TempDir>,
}

/// Runs a case on a store in memory and on one in a directory.
fn check(case: impl Fn(&mut Case)) {
    for directory in [None, Some(tempfile::tempdir().unwrap())] {
        let clock = ManualClock::new(Timestamp::from_millis(1_000));
        let mut world = Case { store: None, clock, directory };
        world.open();
        case(&mut world);
    }
}

impl Case {
    fn open(&mut self) {
        let options = Options::new().clock(self.clock.clone()).without_background_work();
        self.store = Some(match &self.directory {
            None => options.in_memory().unwrap(),
            Some(directory) => options.open(directory.path()).unwrap(),
        });
    }

    /// Closes and opens the store, if it can be opened again.
    fn reopen(&mut self) {
        if self.directory.is_some() {
            self.store.take().unwrap().close().unwrap();
            self.open();
        }
    }
}

impl Deref for Case {
    type Target = Store;

    fn deref(&self) -> &Store {
        self.store.as_ref().unwrap()
    }
}

fn just_before(delay: Duration) -> Duration {
    delay.saturating_sub(NANO)
}

fn at(number: u64) -> Position {
    Position::new(number).unwrap()
}

fn append(store: &Store, stream: &str) -> Position {
    store.append(stream, ExpectedVersion::Any, [NewEvent::raw("Happened", "")]).unwrap().last_position()
}

/// Appends one event to each of these streams in one commit.
fn append_to(store: &Store, streams: &[&str]) -> Position {
    let event = || [NewEvent::raw("Happened", "")];
    let commit =
        streams.iter().fold(store.commit(), |commit, stream| commit.append(*stream, ExpectedVersion::Any, event()));
    commit.send().unwrap().last_position()
}

/// What a handler was given, and what it is to fail at.
#[derive(Clone, Default)]
struct Script {
    seen: Arc<Mutex<Vec<u64>>>,
    tried: Arc<AtomicU32>,
    broken: Arc<Mutex<Vec<String>>>,
}

impl Script {
    fn breaking(streams: &[&str]) -> Self {
        let script = Self::default();
        script.broken.lock().extend(streams.iter().map(|stream| (*stream).to_owned()));
        script
    }

    fn mend(&self, stream: &str) {
        self.broken.lock().retain(|broken| broken != stream);
    }

    fn handle(&self, event: &Event<'_>) -> Result<(), HandlerError> {
        self.tried.fetch_add(1, Ordering::SeqCst);
        if self.broken.lock().iter().any(|stream| stream == event.stream()) {
            return Err(format!("{} is broken", event.stream()).into());
        }
        self.seen.lock().push(event.position().number());
        Ok(())
    }

    fn reactor(&self, store: &Store) -> Reactor {
        let script = self.clone();
        store.react("mailer", move |event| script.handle(event))
    }

    fn tried(&self) -> u32 {
        self.tried.load(Ordering::SeqCst)
    }

    /// What was handled since this was asked last.
    fn seen(&self) -> Vec<u64> {
        std::mem::take(&mut self.seen.lock())
    }
}

/// The positions of the dead letters of the handler "mailer", with their attempts.
fn letters(store: &Store) -> Vec<(u64, u32)> {
    let letters = store.dead_letters("mailer").unwrap().list().unwrap();
    letters.iter().map(|letter| (letter.position.number(), letter.attempts)).collect()
}

fn wait_for_attempts(handle: &HandlerHandle, wanted: u32) -> HandlerState {
    handle.wait_for_state(|state| match state {
        HandlerState::Retrying { attempts, .. } | HandlerState::CircuitOpen { attempts, .. } => *attempts == wanted,
        _ => false,
    })
}

#[test]
fn g34_retries_wait_for_delays_that_double() {
    check(|world| {
        let script = Script::breaking(&["a"]);
        let policy = OnError::retry(4).backoff(SECOND, 3 * SECOND).without_jitter();
        let mailer = script.reactor(world).policy(policy).start().unwrap();
        let position = append(world, "a");
        for (attempts, delay) in [(1, SECOND), (2, 2 * SECOND), (3, 3 * SECOND)] {
            let state = wait_for_attempts(&mailer, attempts);
            let told = HandlerState::Retrying { position, attempts, error: "a is broken".into() };
            assert_eq!((state, script.tried()), (told, attempts));
            world.clock.advance(just_before(delay));
            assert_eq!(mailer.status().failures, u64::from(attempts));
            world.clock.advance(NANO);
        }
        wait_for_attempts(&mailer, 4);
        script.mend("a");
        world.clock.advance(3 * SECOND);
        mailer.wait_for(position).unwrap();
        assert_eq!((script.seen(), script.tried(), letters(world)), (vec![1], 5, vec![]));
    });
}

#[test]
fn g34_jitter_adds_to_a_delay_and_never_as_much_again() {
    check(|world| {
        let script = Script::breaking(&["a"]);
        let mailer = script.reactor(world).policy(OnError::retry(1).backoff(SECOND, SECOND)).start().unwrap();
        append(world, "a");
        wait_for_attempts(&mailer, 1);
        world.clock.advance(just_before(SECOND));
        assert_eq!(script.tried(), 1);
        world.clock.advance(SECOND);
        let state = mailer.wait_for_state(HandlerState::is_over);
        assert_eq!(state, HandlerState::Failed { position: Some(at(1)), error: "a is broken".into() });
        assert_eq!(script.tried(), 2);
    });
}

#[test]
fn g34_attempts_are_counted_across_a_restart() {
    check(|world| {
        let script = Script::breaking(&["a"]);
        let policy = OnError::retry(2).backoff(SECOND, SECOND).without_jitter().then_park();
        let mailer = script.reactor(world).policy(policy.clone()).start().unwrap();
        let position = append_to(world, &["a", "b"]);
        wait_for_attempts(&mailer, 1);
        mailer.stop().unwrap();
        world.reopen();
        let mailer = script.reactor(world).policy(policy).start().unwrap();
        wait_for_attempts(&mailer, 2);
        world.clock.advance(SECOND);
        mailer.wait_for(position).unwrap();
        assert_eq!((script.tried(), script.seen(), letters(world)), (4, vec![2], vec![(1, 3)]));
    });
}

#[test]
fn g34_skipping_leaves_a_record() {
    check(|world| {
        let script = Script::breaking(&["a"]);
        let mailer = script.reactor(world).policy(OnError::skip()).start().unwrap();
        mailer.wait_for(append_to(world, &["b", "a", "c"])).unwrap();
        append(world, "a");
        mailer.wait_for(append(world, "b")).unwrap();
        assert_eq!((script.seen(), letters(world)), (vec![1, 3, 5], vec![]));
        let skipped = world.dead_letters("mailer").unwrap().skipped().unwrap();
        let told: Vec<_> = skipped.iter().map(|skip| (skip.number, skip.position.number(), skip.attempts)).collect();
        assert_eq!(told, [(1, 2, 1), (2, 4, 1)]);
        assert_eq!((skipped[0].error.as_str(), skipped[0].stream.as_str()), ("a is broken", "a"));
        assert_eq!(mailer.status().skipped, 2);
    });
}

#[test]
fn g34_stopping_keeps_the_event_for_the_next_start() {
    check(|world| {
        let script = Script::breaking(&["a"]);
        let mailer = script.reactor(world).policy(OnError::stop()).start().unwrap();
        let position = append_to(world, &["b", "a", "c"]);
        assert!(matches!(
            mailer.wait_for(position),
            Err(Error::HandlerFailed { name, position, reason })
                if name == "mailer" && position == Some(at(2)) && reason == "a is broken"
        ));
        assert!(matches!(mailer.stop(), Err(Error::HandlerFailed { .. })));
        world.reopen();
        script.mend("a");
        let mailer = script.reactor(world).start().unwrap();
        mailer.wait_for(position).unwrap();
        assert_eq!(script.seen(), [1, 2, 3]);
    });
}

#[test]
fn g34_parking_keeps_the_order_of_each_stream() {
    check(|world| {
        let script = Script::breaking(&["a", "b"]);
        let mailer = script.reactor(world).policy(OnError::park()).start().unwrap();
        mailer.wait_for(append_to(world, &["a", "b", "c", "a", "b", "a"])).unwrap();
        assert_eq!((script.seen(), script.tried()), (vec![3], 3), "nothing behind a parked event is tried");
        assert_eq!(letters(world), [(1, 1), (2, 1), (4, 0), (5, 0), (6, 0)]);
        assert_eq!(mailer.status().parked, 5);

        let dead = world.dead_letters("mailer").unwrap();
        let first = &dead.list().unwrap()[0];
        assert_eq!((first.stream.as_str(), first.event_type.as_str()), ("a", "Happened"));
        assert_eq!((first.error.as_deref(), first.parked_at), (Some("a is broken"), Timestamp::from_millis(1_000)));

        script.mend("a");
        for wrong in [3, 4, 7] {
            assert!(matches!(dead.retry(at(wrong)), Err(Error::Invalid(_))), "{wrong}");
        }
        dead.retry(at(1)).unwrap();
        mailer.wait_for_requests().unwrap();
        assert_eq!((script.seen(), letters(world)), (vec![1, 4, 6], vec![(2, 1), (5, 0)]));
        mailer.wait_for(append_to(world, &["a", "b"])).unwrap();
        assert_eq!((script.seen(), letters(world)), (vec![7], vec![(2, 1), (5, 0), (8, 0)]));
    });
}

#[test]
fn g34_a_retry_that_fails_keeps_its_stream_parked() {
    check(|world| {
        let script = Script::breaking(&["a"]);
        let mailer = script.reactor(world).policy(OnError::park()).start().unwrap();
        mailer.wait_for(append_to(world, &["a", "a"])).unwrap();
        let dead = world.dead_letters("mailer").unwrap();
        assert_eq!(dead.retry_all().unwrap(), 1);
        mailer.wait_for_requests().unwrap();
        assert_eq!(letters(world), [(1, 2), (2, 0)]);
        assert!(dead.list().unwrap().iter().all(|letter| letter.requested.is_none()));
    });
}

/// The second of three fails when its turn comes: it is the first then, and the third stays behind it.
#[test]
fn g34_those_behind_follow_until_one_fails() {
    check(|world| {
        let script = Script::default();
        let fails_at = Arc::new(Mutex::new(vec![1, 2]));
        let mailer = {
            let (script, fails_at) = (script.clone(), fails_at.clone());
            let react = move |event: &Event<'_>| match fails_at.lock().contains(&event.position().number()) {
                true => Err(HandlerError::from("not yet")),
                false => script.handle(event),
            };
            world.react("mailer", react).policy(OnError::park()).start().unwrap()
        };
        mailer.wait_for(append_to(world, &["a", "a", "a"])).unwrap();
        fails_at.lock().retain(|number| *number == 2);
        let dead = world.dead_letters("mailer").unwrap();
        dead.retry_all().unwrap();
        mailer.wait_for_requests().unwrap();
        assert_eq!((script.seen(), letters(world)), (vec![1], vec![(2, 1), (3, 0)]));
        fails_at.lock().clear();
        dead.retry_all().unwrap();
        mailer.wait_for_requests().unwrap();
        assert_eq!((script.seen(), letters(world)), (vec![2, 3], vec![]));
    });
}

#[test]
fn g34_discarding_the_first_lets_those_behind_follow() {
    check(|world| {
        let script = Script::breaking(&["a", "b"]);
        let mailer = script.reactor(world).policy(OnError::park()).start().unwrap();
        mailer.wait_for(append_to(world, &["a", "a", "a", "b", "b"])).unwrap();
        script.mend("a");
        let dead = world.dead_letters("mailer").unwrap();
        assert!(matches!(dead.discard(at(6)), Err(Error::Invalid(_))));
        dead.discard(at(2)).unwrap();
        mailer.wait_for_requests().unwrap();
        assert_eq!((script.seen(), letters(world)), (vec![], vec![(1, 1), (3, 0), (4, 1), (5, 0)]));
        dead.discard(at(1)).unwrap();
        mailer.wait_for_requests().unwrap();
        assert_eq!((script.seen(), letters(world)), (vec![3], vec![(4, 1), (5, 0)]));
        assert_eq!(dead.discard_all().unwrap(), 2);
        mailer.wait_for_requests().unwrap();
        assert_eq!((script.seen(), letters(world)), (vec![], vec![]));
    });
}

#[test]
fn g34_dead_letters_and_what_was_asked_for_them_survive_a_restart() {
    check(|world| {
        let script = Script::breaking(&["a"]);
        let mailer = script.reactor(world).policy(OnError::park()).start().unwrap();
        mailer.wait_for(append_to(world, &["a", "b", "a"])).unwrap();
        mailer.stop().unwrap();
        world.reopen();
        assert_eq!(letters(world), [(1, 1), (3, 0)]);
        let dead = world.dead_letters("mailer").unwrap();
        dead.retry(at(1)).unwrap();
        assert_eq!(dead.list().unwrap()[0].requested, Some(DeadLetterRequest::Retry));
        drop(dead);
        world.reopen();
        script.mend("a");
        script.seen();
        let mailer = script.reactor(world).policy(OnError::park()).start().unwrap();
        mailer.wait_for_requests().unwrap();
        assert_eq!((script.seen(), letters(world)), (vec![1, 3], vec![]));
    });
}

#[test]
fn g34_dead_letters_have_a_limit() {
    check(|world| {
        let script = Script::breaking(&["a", "b"]);
        let start = |max| script.reactor(world).policy(OnError::park()).dead_letters(max).start().unwrap();
        let mailer = start(3);
        mailer.wait_for(append_to(world, &["a", "a", "b"])).unwrap();
        let position = append_to(world, &["c", "a"]);
        let error = mailer.wait_for(position).unwrap_err();
        assert!(matches!(&error, Error::HandlerFailed { position: Some(failed), .. } if *failed == position));
        assert!(error.to_string().contains("3 dead letters, at most 3"), "{error}");
        drop(mailer);
        assert_eq!((script.seen(), letters(world).len()), (vec![4], 3), "what was done is saved");
        let mailer = start(4);
        mailer.wait_for(position).unwrap();
        assert_eq!((script.seen(), letters(world).len()), (vec![], 4));
    });
}

#[test]
fn g34_an_open_circuit_leaves_the_handler_alone_until_it_is_cool() {
    check(|world| {
        let script = Script::breaking(&["a"]);
        let policy = OnError::retry(9).backoff(SECOND, SECOND).without_jitter().circuit_breaker(2, 60 * SECOND);
        let mailer = script.reactor(world).policy(policy).start().unwrap();
        let position = append(world, "a");
        assert!(matches!(wait_for_attempts(&mailer, 1), HandlerState::Retrying { .. }));
        world.clock.advance(SECOND);
        for attempts in [2, 3] {
            assert!(matches!(wait_for_attempts(&mailer, attempts), HandlerState::CircuitOpen { .. }));
            world.clock.advance(just_before(60 * SECOND));
            assert_eq!(script.tried(), attempts);
            if attempts == 3 {
                script.mend("a");
            }
            world.clock.advance(NANO);
        }
        mailer.wait_for(position).unwrap();
        script.broken.lock().push("b".into());
        append(world, "b");
        assert!(matches!(wait_for_attempts(&mailer, 1), HandlerState::Retrying { .. }), "it has closed");
    });
}

/// The breaker holds for events that were never tried as well: else a handler that parks would park everything at once.
#[test]
fn g34_an_open_circuit_holds_for_other_events_too() {
    check(|world| {
        let script = Script::breaking(&["a", "b", "c"]);
        let policy = OnError::park().circuit_breaker(2, 60 * SECOND);
        let mailer = script.reactor(world).policy(policy).start().unwrap();
        let position = append_to(world, &["a", "b", "c", "d"]);
        mailer
            .wait_for_state(|state| matches!(state, HandlerState::CircuitOpen { position, .. } if *position == at(3)));
        assert_eq!((script.tried(), letters(world)), (2, vec![(1, 1), (2, 1)]));
        world.clock.advance(60 * SECOND);
        mailer
            .wait_for_state(|state| matches!(state, HandlerState::CircuitOpen { position, .. } if *position == at(4)));
        assert_eq!((script.tried(), letters(world).len()), (3, 3));
        world.clock.advance(60 * SECOND);
        mailer.wait_for(position).unwrap();
        assert_eq!(script.seen(), [4]);
    });
}

#[test]
fn g34_an_error_that_no_retry_helps_against_is_not_retried() {
    check(|world| {
        let react = |_: &Event<'_>| Err(HandlerError::permanent("no such address"));
        let mailer = world.react("mailer", react).policy(OnError::retry(9).then_park()).start().unwrap();
        mailer.wait_for(append(world, "a")).unwrap();
        assert_eq!(letters(world), [(1, 1)]);
    });
}

#[test]
fn g34_a_panic_is_a_failure_of_its_event() {
    check(|world| {
        let script = Script::default();
        let mailer = {
            let script = script.clone();
            let react = move |event: &Event<'_>| {
                assert!(event.stream() != "a", "a cannot be mailed");
                script.handle(event)
            };
            world.react("mailer", react).policy(OnError::park()).start().unwrap()
        };
        mailer.wait_for(append_to(world, &["a", "b"])).unwrap();
        assert_eq!(script.seen(), [2]);
        let dead = world.dead_letters("mailer").unwrap().list().unwrap();
        assert_eq!(dead[0].error.as_deref(), Some("it panicked: a cannot be mailed"));
    });
}

/// A handler that is stuck, and one that fails, keep no other from working.
#[test]
fn g34_one_handler_keeps_no_other_back() {
    check(|world| {
        let (entered, is_stuck) = mpsc::channel();
        let (release, stuck) = mpsc::channel::<()>();
        let stuck_one = world
            .react("stuck", move |_| {
                entered.send(())?;
                Ok(stuck.recv()?)
            })
            .start()
            .unwrap();
        let failing = Script::breaking(&["a"]);
        let mailer = failing.reactor(world).policy(OnError::retry(9)).start().unwrap();
        let script = Script::default();
        let other = {
            let script = script.clone();
            world.react("other", move |event| script.handle(event)).start().unwrap()
        };
        append(world, "a");
        is_stuck.recv().unwrap();
        wait_for_attempts(&mailer, 1);
        other.wait_for(append(world, "a")).unwrap();
        assert_eq!(script.seen(), [1, 2]);
        drop(release);
        assert!(stuck_one.wait_for(at(1)).is_err());
    });
}

/// Counts events by stream, in memory; saved with its checkpoint in one step.
struct Counter {
    store: Store,
    script: Script,
    counts: Vec<String>,
    shown: Arc<Mutex<Vec<String>>>,
    started_over: Arc<AtomicBool>,
}

impl Counter {
    fn new(store: &Store, script: &Script) -> Self {
        let (store, script) = (store.clone(), script.clone());
        Self { store, script, counts: Vec::new(), shown: Arc::default(), started_over: Arc::default() }
    }
}

impl Work for Counter {
    fn load(&mut self, store: &Store) -> annals::Result<Option<Checkpoint>> {
        self.roll_back()?;
        Checkpoint::load(store, "counter")
    }

    fn handle(&mut self, event: &Event<'_>) -> Result<(), HandlerError> {
        // It is changed before it fails, so that an event that fails leaves something behind unless it is rolled back.
        self.counts.push(event.position().to_string());
        self.shown.lock().clone_from(&self.counts);
        self.script.handle(event)
    }

    fn save(&mut self, checkpoint: &Checkpoint) -> annals::Result<()> {
        let batch = StateBatch::new().put("counts", self.counts.join(" "));
        self.store.state()?.write(checkpoint.add_to(batch)).map(drop)
    }

    fn roll_back(&mut self) -> annals::Result<()> {
        let saved = self.store.state()?.get("counts")?.unwrap_or_default();
        let saved = String::from_utf8(saved).unwrap();
        self.counts = saved.split_whitespace().map(str::to_owned).collect();
        Ok(())
    }

    fn has_effects_outside(&self) -> bool {
        false
    }

    fn start_over(&mut self) -> annals::Result<bool> {
        self.started_over.store(true, Ordering::SeqCst);
        self.counts.clear();
        Ok(true)
    }
}

fn counted(store: &Store) -> String {
    String::from_utf8(store.state().unwrap().get("counts").unwrap().unwrap_or_default()).unwrap()
}

#[test]
fn g34_work_that_can_be_rolled_back_takes_each_event_into_account_once() {
    check(|world| {
        let script = Script::breaking(&["bad"]);
        let position = append_to(world, &["a", "bad", "b", "bad", "a"]);
        let runner = Runner::new("counter", HandlerKind::Projection).policy(OnError::park());
        let counter = runner.clone().start(world, Box::new(Counter::new(world, &script))).unwrap();
        counter.wait_for(position).unwrap();
        counter.stop().unwrap();
        assert_eq!(counted(world), "1 3 5");
        world.reopen();
        script.mend("bad");
        world.dead_letters("counter").unwrap().retry_all().unwrap();
        let counter = runner.start(world, Box::new(Counter::new(world, &script))).unwrap();
        counter.wait_for_requests().unwrap();
        assert_eq!(counted(world), "1 3 5 2 4");
    });
}

/// Keeps its checkpoint in a place of its own, as one with an SQL database does.
struct Elsewhere {
    place: Arc<Mutex<Option<Vec<u8>>>>,
    script: Script,
}

impl Work for Elsewhere {
    fn load(&mut self, _store: &Store) -> annals::Result<Option<Checkpoint>> {
        self.place.lock().as_ref().map(|bytes| Checkpoint::from_bytes("mailer", bytes)).transpose()
    }

    fn handle(&mut self, event: &Event<'_>) -> Result<(), HandlerError> {
        self.script.handle(event)
    }

    fn save(&mut self, checkpoint: &Checkpoint) -> annals::Result<()> {
        *self.place.lock() = Some(checkpoint.to_bytes());
        Ok(())
    }

    fn roll_back(&mut self) -> annals::Result<()> {
        Ok(())
    }

    fn has_effects_outside(&self) -> bool {
        true
    }
}

/// The dead letter travels with the checkpoint: one that did not reach the state, because the process ended in between,
/// is there when the handler starts again.
#[test]
fn g34_dead_letters_are_kept_wherever_the_checkpoint_is() {
    check(|world| {
        let (script, place) = (Script::breaking(&["a"]), Arc::default());
        let start = |world: &Case| {
            let work = Elsewhere { place: Arc::clone(&place), script: script.clone() };
            Runner::new("mailer", HandlerKind::Sink).policy(OnError::park()).start(world, Box::new(work)).unwrap()
        };
        let mailer = start(world);
        mailer.wait_for(append(world, "a")).unwrap();
        mailer.stop().unwrap();
        assert_eq!(letters(world), [(1, 1)]);
        let state = world.state().unwrap();
        let key = state.keys("parked-").unwrap().remove(0);
        state.delete(key).unwrap();
        let mailer = start(world);
        assert_eq!(letters(world), [(1, 1)]);
        mailer.wait_for(append(world, "a")).unwrap();
        script.mend("a");
        world.dead_letters("mailer").unwrap().retry_all().unwrap();
        mailer.wait_for_requests().unwrap();
        assert_eq!((script.seen(), letters(world)), (vec![1, 2], vec![]));
    });
}

#[test]
fn g34_a_relay_delivers_in_order_and_finds_the_one_that_fails() {
    check(|world| {
        let position = append_to(world, &["a", "bad", "b", "bad", "a"]);
        let sink = MemorySink::new();
        sink.refuse("bad");
        let relay = world.relay("mailer", sink.clone()).policy(OnError::park()).start().unwrap();
        relay.wait_for(position).unwrap();
        let delivered = |sink: &MemorySink| -> Vec<u64> {
            sink.delivered().iter().map(|outgoing| outgoing.key.position.number()).collect()
        };
        assert_eq!((delivered(&sink), letters(world)), (vec![1, 3, 5], vec![(2, 1), (4, 0)]));
        sink.accept("bad");
        world.dead_letters("mailer").unwrap().retry_all().unwrap();
        relay.wait_for_requests().unwrap();
        assert_eq!((delivered(&sink), sink.duplicates()), (vec![1, 3, 5, 2, 4], 0));
        let first = &sink.delivered()[0];
        assert_eq!(first.key.to_string(), format!("{}/1/0", world.id()));
    });
}

#[test]
fn g34_where_the_order_of_all_events_matters_nothing_overtakes() {
    check(|world| {
        let sink = MemorySink::new().in_global_order();
        let relay = |policy| world.relay("mailer", sink.clone()).policy(policy).start();
        assert!(matches!(relay(OnError::park()), Err(Error::Invalid(_))));
        sink.fail_next(2);
        let relay = relay(OnError::retry(2).backoff(SECOND, SECOND).without_jitter()).unwrap();
        let position = append(world, "a");
        for attempts in [1, 2] {
            wait_for_attempts(&relay, attempts);
            append(world, "b");
            assert!(sink.delivered().is_empty());
            world.clock.advance(SECOND);
        }
        relay.wait_for(position).unwrap();
        assert_eq!(sink.delivered()[0].key.position, position);
    });
}

#[test]
fn g35_a_new_reactor_begins_with_what_comes() {
    check(|world| {
        let script = Script::default();
        append_to(world, &["a", "a"]);
        let mailer = script.reactor(world).start().unwrap();
        mailer.stop().unwrap();
        world.reopen();
        append(world, "a");
        let mailer = script.reactor(world).start().unwrap();
        mailer.wait_for(append(world, "a")).unwrap();
        assert_eq!(script.seen(), [3, 4], "what came while it did not run is not missed");
        let replayed = Script::default();
        let other = {
            let replayed = replayed.clone();
            world.react("other", move |event| replayed.handle(event)).from_start().start().unwrap()
        };
        other.wait_for(at(4)).unwrap();
        assert_eq!(replayed.seen(), [1, 2, 3, 4], "unless the past is asked for");
    });
}

/// A read model is built anew from the first event; the reactor beside it sees nothing twice.
#[test]
fn g35_reactors_do_not_fire_while_a_read_model_is_built_anew() {
    check(|world| {
        let (mails, script) = (Script::default(), Script::default());
        let mailer = mails.reactor(world).start().unwrap();
        let start = || {
            let runner = Runner::new("counter", HandlerKind::Projection);
            runner.start(world, Box::new(Counter::new(world, &script))).unwrap()
        };
        let counter = start();
        let position = append_to(world, &["a", "b"]);
        counter.wait_for(position).unwrap();
        mailer.wait_for(position).unwrap();
        counter.stop().unwrap();
        let foreign = of_another_history("counter");
        world.state().unwrap().put("checkpoint-counter", foreign).unwrap();
        let counter = start();
        counter.wait_for(position).unwrap();
        assert_eq!(script.seen(), [1, 2, 1, 2]);
        let position = append(world, "a");
        mailer.wait_for(position).unwrap();
        assert_eq!(mails.seen(), [1, 2, 3]);
    });
}

#[test]
fn g36_waiting_for_a_position_reads_ones_own_writes() {
    check(|world| {
        let script = Script::default();
        let reactor = script.reactor(world).query(Query::stream("a"));
        let mailer = reactor.start().unwrap();
        for round in 1..=20 {
            let position = append(world, "a");
            mailer.wait_for(position).unwrap();
            assert_eq!(script.seen(), [position.number()], "round {round}");
            mailer.wait_for(append(world, "b")).unwrap();
        }
    });
}

#[test]
fn g36_waiting_ends_when_the_handler_does_or_the_time_is_up() {
    check(|world| {
        let mailer = Script::default().reactor(world).start().unwrap();
        let beyond = at(7);
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| mailer.wait_for_within(beyond, SECOND));
            // The thread of the handler waits as well.
            while world.clock.waiting() < 2 {
                std::thread::yield_now();
            }
            world.clock.advance(SECOND);
            assert!(matches!(waiter.join().unwrap(), Err(Error::TimedOut { .. })));
        });
        world.shutdown(SECOND).unwrap();
        assert!(matches!(mailer.wait_for(beyond), Err(Error::Stopped)));
        assert!(mailer.wait_for_requests().is_ok());
    });
}

/// Work that is saved now and then shows what it has handled all the same, and loses none of it.
#[test]
fn g36_waiting_does_not_wait_for_what_is_saved_later() {
    check(|world| {
        let script = Script::default();
        let work = Counter::new(world, &script);
        let shown = Arc::clone(&work.shown);
        let runner = Runner::new("counter", HandlerKind::Projection).save_within(60 * SECOND);
        let counter = runner.start(world, Box::new(work)).unwrap();
        counter.wait_for(append_to(world, &["a", "b"])).unwrap();
        assert_eq!((shown.lock().join(" "), counted(world)), ("1 2".into(), String::new()));
        let is_idle = |state: &HandlerState| *state == HandlerState::Live;
        counter.wait_for_state(is_idle);
        world.clock.advance(60 * SECOND);
        counter.wait_for(append(world, "a")).unwrap();
        counter.stop().unwrap();
        assert_eq!(counted(world), "1 2 3");
    });
}

#[test]
fn g36_lag_is_told_in_events_and_in_time() {
    check(|world| {
        let script = Script::breaking(&["a"]);
        let mailer = script.reactor(world).policy(OnError::retry(1)).start().unwrap();
        assert_eq!(mailer.lag().unwrap(), annals::Lag::default());
        append(world, "a");
        wait_for_attempts(&mailer, 1);
        append(world, "b");
        world.clock.advance(NANO);
        let lag = mailer.lag().unwrap();
        assert_eq!((lag.events, lag.time), (2, NANO));
    });
}

/// The bytes of a checkpoint that a handler of this name has on another store.
fn of_another_history(name: &str) -> Vec<u8> {
    let other = Store::in_memory().unwrap();
    let handler = other.react(name, |_| Ok(())).start().unwrap();
    handler.wait_for(append(&other, "a")).unwrap();
    handler.stop().unwrap();
    other.state().unwrap().get(&format!("checkpoint-{name}")).unwrap().unwrap()
}

#[test]
fn g38_effects_outside_stop_at_another_history() {
    check(|world| {
        append_to(world, &["a", "a"]);
        let script = Script::default();
        for name in ["mailer", "outbox"] {
            world.state().unwrap().put(format!("checkpoint-{name}"), of_another_history(name)).unwrap();
        }
        let reactor = script.reactor(world).start();
        assert!(matches!(reactor, Err(Error::HistoryChanged { .. })), "{reactor:?}");
        let relay = world.relay("outbox", MemorySink::new()).start();
        assert!(matches!(relay, Err(Error::HistoryChanged { .. })), "{relay:?}");
        assert_eq!(script.tried(), 0);
        // Somebody has judged that it may begin anew.
        world.forget_handler("mailer").unwrap();
        let mailer = script.reactor(world).start().unwrap();
        mailer.wait_for(append(world, "a")).unwrap();
        assert_eq!(script.seen(), [3]);
    });
}

#[test]
fn g38_a_read_model_of_another_history_is_built_anew_and_says_so() {
    check(|world| {
        let position = append_to(world, &["a", "b"]);
        let script = Script::default();
        let state = world.state().unwrap();
        let batch = StateBatch::new().put("counts", "7 8 9").put("checkpoint-counter", of_another_history("counter"));
        state.write(batch).unwrap();
        let work = Counter::new(world, &script);
        let counter = Runner::new("counter", HandlerKind::Projection).start(world, Box::new(work)).unwrap();
        assert!(counter.status().rebuilt.unwrap().contains("another store"));
        counter.wait_for(position).unwrap();
        assert_eq!(counted(world), "1 2");
        drop(counter);
        let work = Counter::new(world, &script);
        let counter = Runner::new("counter", HandlerKind::Projection).start(world, Box::new(work)).unwrap();
        assert_eq!(counter.status().rebuilt, None);
    });
}

#[test]
fn g38_a_checkpoint_ahead_of_the_log_is_another_history() {
    check(|world| {
        let script = Script::default();
        let mailer = script.reactor(world).start().unwrap();
        mailer.wait_for(append_to(world, &["a", "b"])).unwrap();
        mailer.stop().unwrap();
        let saved = world.state().unwrap().get("checkpoint-mailer").unwrap().unwrap();
        let saved = String::from_utf8(saved).unwrap().replace("\"position\":2", "\"position\":3");
        world.state().unwrap().put("checkpoint-mailer", saved).unwrap();
        let started = script.reactor(world).start();
        assert!(matches!(started, Err(Error::HistoryChanged { position, .. }) if position == at(3)), "{started:?}");
    });
}

/// Names are shared with subscriptions, and what is saved by one is not taken for the other's.
#[test]
fn g32_a_handler_holds_its_name() {
    check(|world| {
        let script = Script::default();
        let mailer = script.reactor(world).start().unwrap();
        assert!(matches!(script.reactor(world).start(), Err(Error::Held { name }) if name == "mailer"));
        assert!(matches!(world.subscribe("mailer").open(), Err(Error::Held { .. })));
        assert!(matches!(world.forget_handler("mailer"), Err(Error::Held { .. })));
        mailer.wait_for(append(world, "a")).unwrap();
        mailer.stop().unwrap();
        assert!(matches!(world.subscribe("mailer").open(), Err(Error::Codec { .. })));
        assert!(script.reactor(world).start().is_ok());
    });
}

#[test]
fn g36_handlers_follow_the_synced_head_unless_told_otherwise() {
    let options = || Options::new().durability(Durability::Os).without_background_work();
    let directory = tempfile::tempdir().unwrap();
    for store in [options().in_memory().unwrap(), options().open(directory.path()).unwrap()] {
        let (careful, quick) = (Script::default(), Script::default());
        let mailer = careful.reactor(&store).start().unwrap();
        let eager = {
            let quick = quick.clone();
            store.react("eager", move |event| quick.handle(event)).upto(Horizon::Visible).start().unwrap()
        };
        let position = append(&store, "a");
        eager.wait_for(position).unwrap();
        assert_eq!((careful.seen(), quick.seen()), (vec![], vec![1]));
        store.sync().unwrap();
        mailer.wait_for(position).unwrap();
        assert_eq!(careful.seen(), [1]);
    }
}

#[test]
fn pausing_finishes_the_event_and_resuming_goes_on() {
    check(|world| {
        let script = Script::default();
        let mailer = script.reactor(world).start().unwrap();
        mailer.pause();
        mailer.wait_for_state(|state| *state == HandlerState::Paused);
        let position = append(world, "a");
        assert_eq!(script.tried(), 0);
        mailer.resume();
        mailer.wait_for(position).unwrap();
        assert_eq!(script.seen(), [1]);
        // One that waits for a retry can be paused as well.
        script.broken.lock().push("b".into());
        drop(mailer);
        let mailer = script.reactor(world).policy(OnError::retry(5)).start().unwrap();
        append(world, "b");
        wait_for_attempts(&mailer, 1);
        mailer.pause();
        mailer.wait_for_state(|state| *state == HandlerState::Paused);
        mailer.stop().unwrap();
    });
}

#[test]
fn what_is_asked_for_dead_letters_waits_while_a_handler_is_paused() {
    check(|world| {
        let script = Script::breaking(&["a"]);
        let start = |world: &Case| script.reactor(world).policy(OnError::park()).start().unwrap();
        let mailer = start(world);
        mailer.wait_for(append(world, "a")).unwrap();
        mailer.pause();
        mailer.wait_for_state(|state| *state == HandlerState::Paused);
        script.mend("a");
        world.dead_letters("mailer").unwrap().retry_all().unwrap();
        assert!(!mailer.drain(SECOND).unwrap().is_busy);
        assert_eq!(script.tried(), 1);
        let mailer = start(world);
        mailer.wait_for_requests().unwrap();
        assert_eq!((script.seen(), letters(world)), (vec![1], vec![]));
        // The same when it is resumed instead.
        script.broken.lock().push("a".into());
        mailer.wait_for(append(world, "a")).unwrap();
        mailer.pause();
        mailer.wait_for_state(|state| *state == HandlerState::Paused);
        script.mend("a");
        world.dead_letters("mailer").unwrap().retry_all().unwrap();
        mailer.resume();
        mailer.wait_for_requests().unwrap();
        assert_eq!((script.seen(), letters(world)), (vec![2], vec![]));
    });
}

#[test]
fn draining_handles_what_was_there_and_tells_what_is_left() {
    check(|world| {
        let script = Script::breaking(&["bad"]);
        let mailer = script.reactor(world).policy(OnError::park()).start().unwrap();
        append_to(world, &["a", "bad", "b"]);
        let left = mailer.drain(SECOND).unwrap();
        assert!(left.is_drained());
        assert_eq!((left.state, left.events, left.parked), (HandlerState::Stopped, 0, 1));
        assert_eq!(script.seen(), [1, 3]);
    });
}

#[test]
fn a_handler_that_takes_too_long_is_left_where_it_is_and_told() {
    check(|world| {
        let (entered, is_stuck) = mpsc::channel();
        let (release, stuck) = mpsc::channel::<()>();
        let react = move |_: &Event<'_>| {
            entered.send(())?;
            Ok(stuck.recv()?)
        };
        let slow = world.react("slow", react).start().unwrap();
        let script = Script::default();
        let quick = script.reactor(world).start().unwrap();
        append_to(world, &["a", "b", "c"]);
        is_stuck.recv().unwrap();
        let report = std::thread::scope(|scope| {
            let shutdown = scope.spawn(|| world.shutdown(SECOND).unwrap());
            quick.wait_for_state(HandlerState::is_over);
            world.clock.advance(SECOND);
            shutdown.join().unwrap()
        });
        assert!(!report.is_drained());
        let told: Vec<_> = report.handlers.iter().map(|left| (left.name.as_str(), left.events, left.is_busy)).collect();
        assert_eq!(told, [("slow", 3, true), ("mailer", 0, false)]);
        release.send(()).unwrap();
        slow.stop().unwrap();
        // The event that it was at is done, and saved.
        let rest = Script::default();
        let slow = {
            let rest = rest.clone();
            world.react("slow", move |event| rest.handle(event)).start().unwrap()
        };
        slow.wait_for(at(3)).unwrap();
        assert_eq!(rest.seen(), [2, 3]);
        drop((slow, quick));
    });
}

#[test]
fn registrations_survive_and_tell_what_does_not_run() {
    check(|world| {
        let policy = OnError::retry(3).then_park();
        let reactor = Script::default().reactor(world).query(Query::types(["Opened"])).policy(policy.clone());
        let mailer = reactor.start().unwrap();
        let relay = world.relay("outbox", MemorySink::new()).start().unwrap();
        assert!(world.handlers().unwrap().iter().all(annals::RegisteredHandler::is_running));
        drop((mailer, relay));
        world.reopen();
        world.clock.advance(SECOND);
        let relay = world.relay("outbox", MemorySink::new()).start().unwrap();
        let handlers = world.handlers().unwrap();
        let told: Vec<_> =
            handlers.iter().map(|handler| (handler.name.as_str(), handler.kind, handler.is_running())).collect();
        assert_eq!(told, [("mailer", HandlerKind::Reactor, false), ("outbox", HandlerKind::Sink, true)]);
        assert_eq!((&handlers[0].query, &handlers[0].policy), (&Query::types(["Opened"]), &policy));
        assert_eq!(handlers[1].registered_at, Timestamp::from_millis(1_000), "the first time counts");
        assert_eq!(world.health().unwrap().not_running, ["mailer"]);
        world.forget_handler("mailer").unwrap();
        assert_eq!(world.handlers().unwrap().len(), 1);
        drop(relay);
    });
}

/// A reactor moved the checkpoint of the projection whose name it was given, which then missed what came in between; and a
/// projection discarded the dead letters of a reactor, and the place of a subscription.
#[test]
fn g32_a_name_is_that_of_one_kind_of_handler_until_it_is_forgotten() {
    check(|world| {
        let count = |count: &mut u64, _: &Event<'_>| {
            *count += 1;
            Ok(())
        };
        let project = || world.projection_over("mailer", Query::all(), 0, count).start();
        let broken = Script::breaking(&["bad"]);
        let mailer = broken.reactor(world).policy(OnError::park()).start().unwrap();
        mailer.wait_for(append_to(world, &["bad", "a"])).unwrap();
        mailer.stop().unwrap();
        for refused in [project().map(drop), world.relay("mailer", MemorySink::new()).start().map(drop)] {
            let refused = refused.unwrap_err();
            assert!(matches!(&refused, Error::Invalid(_)) && refused.to_string().contains("a reactor"), "{refused}");
        }
        assert_eq!(world.dead_letters("mailer").unwrap().list().unwrap().len(), 1);

        world.forget_handler("mailer").unwrap();
        let counts = project().unwrap();
        counts.wait_for(p(2)).unwrap();
        assert_eq!(*counts.view(), 2);
        counts.stop().unwrap();
        assert!(matches!(Script::default().reactor(world).start(), Err(Error::Invalid(_))));

        world.subscribe("auditor").after(p(1)).open().unwrap().close().unwrap();
        let taken = world.react("auditor", |_| Ok(())).start().map(drop);
        let shown = world.projection_over("auditor", Query::all(), 0_u64, |_, _| Ok(())).start().map(drop);
        assert!(matches!((taken, shown), (Err(Error::Codec { .. }), Err(Error::Codec { .. }))));
        assert_eq!(world.subscription_checkpoint("auditor").unwrap().unwrap().position, p(1));
    });
}

#[test]
fn health_tells_lag_dead_letters_and_states() {
    check(|world| {
        let script = Script::breaking(&["bad", "worse"]);
        let mailer = script.reactor(world).policy(OnError::park()).start().unwrap();
        let stuck = Script::breaking(&["bad"]);
        let other = {
            let stuck = stuck.clone();
            world.react("other", move |event| stuck.handle(event)).policy(OnError::retry(1)).start().unwrap()
        };
        assert!(world.health().unwrap().is_ok());
        mailer.wait_for(append_to(world, &["bad", "worse", "a"])).unwrap();
        wait_for_attempts(&other, 1);
        world.clock.advance(NANO);
        let health = world.health().unwrap();
        assert!(health.writable && health.poisoned.is_none() && !health.is_ok());
        assert_eq!(health.disk_free_bytes.is_some(), world.directory.is_some() && cfg!(unix));
        assert_eq!((health.worst_lag_events, health.worst_lag_time, health.parked), (3, NANO, 2));
        assert_eq!(health.handlers.len(), 2);
        let json = serde_json::to_string(&health).unwrap();
        assert!(json.contains(r#""state":"retrying""#), "{json}");
        drop((mailer, other));
        let health = world.health().unwrap();
        assert_eq!((health.parked, health.not_running), (2, vec!["mailer".to_owned(), "other".to_owned()]));
    });
}

#[test]
fn a_closed_store_ends_its_handlers() {
    check(|world| {
        let script = Script::default();
        let mailer = script.reactor(world).start().unwrap();
        mailer.wait_for(append(world, "a")).unwrap();
        world.store.take().unwrap().close().unwrap();
        assert_eq!(mailer.wait_for_state(HandlerState::is_over), HandlerState::Stopped);
        assert!(matches!(mailer.wait_for(at(9)), Err(Error::Stopped)));
    });
}
