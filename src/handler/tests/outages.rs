//! What is no event's fault: a full disk, a database that does not answer, a process that ends between two steps.

use std::sync::mpsc;

use super::*;
use crate::Commit;
use crate::handler::mark::Mark;

/// What every event needs, there or not.
#[derive(Clone, Default)]
struct Supply(Arc<AtomicBool>);

impl Supply {
    fn set(&self, is_there: bool) {
        self.0.store(is_there, Ordering::SeqCst);
    }

    fn take(&self) -> Result<(), HandlerError> {
        if self.0.load(Ordering::SeqCst) {
            return Ok(());
        }
        let source = Arc::new(std::io::Error::other("locked"));
        Err(Error::Unavailable { operation: "write to", path: "tables".into(), source }.into())
    }
}

struct Scene {
    clock: ManualClock,
    store: Store,
    supply: Supply,
    handled: mpsc::Receiver<u64>,
    handler: HandlerHandle,
}

impl Scene {
    fn new(effects: Effects, policy: OnError) -> Self {
        let clock = ManualClock::new(Timestamp::default());
        let store = Options::new().clock(clock.clone()).without_background_work().in_memory().unwrap();
        let (supply, (sender, handled)) = (Supply::default(), mpsc::channel());
        let needed = supply.clone();
        let handle = move |event: &Event<'_>| {
            needed.take()?;
            if event.payload() == b"bad" {
                return Err("it is bad".into());
            }
            // Nobody listens any more when the test is over.
            let _ = sender.send(event.position().number());
            Ok(())
        };
        let work = Stub { handle, save: |_: &Checkpoint| Ok(()), effects };
        let handler = runner().policy(policy).start(&store, Box::new(work)).unwrap();
        Self { clock, store, supply, handled, handler }
    }

    fn wait_for_outage(&self) {
        let state = self.handler.wait_for_state(|state| matches!(state, HandlerState::Unavailable { .. }));
        assert!(matches!(&state, HandlerState::Unavailable { error } if error.contains("locked")), "{state:?}");
    }

    /// Lets time pass until something is so.
    fn pass_until(&self, is_so: impl Fn() -> bool) {
        while !is_so() {
            self.clock.advance(60 * SECOND);
            std::thread::yield_now();
        }
    }
}

#[test]
fn no_event_is_blamed_for_an_outage() {
    for effects in [Effects::Within, Effects::Outside] {
        for policy in [OnError::skip(), OnError::park(), OnError::stop()] {
            let scene = Scene::new(effects, policy.circuit_breaker(1, SECOND));
            let last = append(&scene.store, "a", 3);
            for _ in 0..3 {
                scene.wait_for_outage();
                scene.clock.advance(60 * SECOND);
            }
            scene.supply.set(true);
            scene.pass_until(|| scene.handler.status().position == Some(last));
            let status = scene.handler.status();
            assert_eq!((status.handled, status.failures, status.parked, status.skipped), (3, 0, 0, 0), "{effects:?}");
            assert_eq!(scene.handled.try_iter().collect::<Vec<_>>(), [1, 2, 3]);
        }
    }
}

/// What was handled before the outage is not handled a second time where that would be seen.
#[test]
fn an_outage_amid_a_batch_repeats_no_effect() {
    let scene = Scene::new(Effects::Outside, OnError::park());
    scene.supply.set(true);
    scene.handler.wait_for(append(&scene.store, "a", 2)).unwrap();
    scene.supply.set(false);
    let last = append(&scene.store, "a", 2);
    scene.wait_for_outage();
    scene.supply.set(true);
    scene.pass_until(|| scene.handler.status().position == Some(last));
    assert_eq!(scene.handled.try_iter().collect::<Vec<_>>(), [1, 2, 3, 4]);
}

/// An outage that comes between the attempts on an event that fails is none of them.
#[test]
fn an_outage_is_no_attempt_on_an_event_that_fails() {
    let scene = Scene::new(Effects::Outside, OnError::retry(1).backoff(SECOND, SECOND).without_jitter().then_park());
    scene.supply.set(true);
    let bad = scene.store.append("a", ExpectedVersion::Any, [NewEvent::raw("Happened", "bad")]).unwrap();
    let state = scene.handler.wait_for_state(|state| matches!(state, HandlerState::Retrying { .. }));
    assert!(matches!(state, HandlerState::Retrying { attempts: 1, .. }), "{state:?}");
    scene.supply.set(false);
    scene.clock.advance(SECOND);
    for _ in 0..3 {
        scene.wait_for_outage();
        scene.clock.advance(60 * SECOND);
    }
    scene.supply.set(true);
    scene.pass_until(|| scene.handler.status().position == Some(bad.last_position()));
    let letters = scene.store.dead_letters("stub").unwrap();
    assert_eq!(letters.list().unwrap().iter().map(|letter| letter.attempts).collect::<Vec<_>>(), [2]);
    assert_eq!(scene.handler.status().failures, 2);
}

/// An order ends the wait, however long that would be: one that did not would hang this.
#[test]
fn a_handler_that_waits_for_an_outage_to_end_does_what_it_is_told() {
    for effects in [Effects::Within, Effects::Outside] {
        let scene = Scene::new(effects, OnError::park());
        append(&scene.store, "a", 1);
        scene.wait_for_outage();
        scene.handler.pause();
        scene.handler.wait_for_state(|state| *state == HandlerState::Paused);
        scene.handler.resume();
        scene.wait_for_outage();
        scene.handler.stop().unwrap();
    }
}

#[test]
fn a_dead_letter_that_an_outage_keeps_from_being_retried_is_tried_again_by_itself() {
    let clock = ManualClock::new(Timestamp::default());
    let store = Options::new().clock(clock.clone()).without_background_work().in_memory().unwrap();
    let (supply, is_mended) = (Supply::default(), Arc::new(AtomicBool::new(false)));
    let react = {
        let (supply, is_mended) = (supply.clone(), Arc::clone(&is_mended));
        move |_: &Event<'_>| {
            supply.take()?;
            if is_mended.load(Ordering::SeqCst) { Ok(()) } else { Err("it is broken".into()) }
        }
    };
    supply.set(true);
    let mailer = store.react("mailer", react).policy(OnError::park()).start().unwrap();
    mailer.wait_for(append(&store, "a", 1)).unwrap();
    is_mended.store(true, Ordering::SeqCst);
    supply.set(false);
    let letters = store.dead_letters("mailer").unwrap();
    letters.retry_all().unwrap();
    mailer.wait_for_state(|state| matches!(state, HandlerState::Unavailable { .. }));
    assert_eq!(letters.list().unwrap()[0].attempts, 1);
    supply.set(true);
    while !letters.list().unwrap().is_empty() {
        clock.advance(60 * SECOND);
        std::thread::yield_now();
    }
    mailer.wait_for_requests().unwrap();
    assert_eq!(mailer.status().failures, 1);
}

/// A disk that is full when a mark is written ended the handler.
#[test]
fn a_mark_waits_for_space_as_a_checkpoint_does() {
    let clock = ManualClock::new(Timestamp::default());
    let disk = MemoryDisk::new();
    let options = Options::new().clock(clock.clone()).without_background_work();
    let store = Store::open_on(Arc::new(disk.clone()), options, true).unwrap();
    let mailer = store.react("mailer", |_| Ok(())).start().unwrap();
    mailer.wait_for(append(&store, "a", 1)).unwrap();
    use_up(&disk, &store);
    let position = append(&store, "a", 1);
    let state = mailer.wait_for_state(|state| matches!(state, HandlerState::NoSpace { .. }));
    assert!(matches!(state, HandlerState::NoSpace { .. }), "{state:?}");
    disk.set_budget(u64::MAX);
    while mailer.status().position < Some(position) {
        clock.advance(60 * SECOND);
        std::thread::yield_now();
    }
    mailer.stop().unwrap();
}

/// The handler took a mark that it could not delete for deleted: at its next start the process had "ended" at the event,
/// which was one attempt less.
#[test]
fn a_mark_that_cannot_be_deleted_for_want_of_space_is_deleted_when_there_is_some() {
    let clock = ManualClock::new(Timestamp::default());
    let disk = MemoryDisk::new();
    let options = Options::new().clock(clock.clone()).without_background_work();
    let store = Store::open_on(Arc::new(disk.clone()), options, true).unwrap();
    let handle = {
        let (disk, store, mut attempts) = (disk.clone(), store.clone(), 0);
        move |_: &Event<'_>| {
            attempts += 1;
            if attempts == 2 {
                use_up(&disk, &store);
            }
            Err("it is bad".into())
        }
    };
    let policy = OnError::retry(1).backoff(SECOND, SECOND).without_jitter();
    let handler = runner().policy(policy).start(&store, Box::new(stub(handle, |_: &Checkpoint| Ok(())))).unwrap();
    append(&store, "a", 1);
    handler.wait_for_state(|state| matches!(state, HandlerState::Retrying { .. }));
    clock.advance(SECOND);
    handler.wait_for_state(|state| matches!(state, HandlerState::NoSpace { .. }));
    disk.set_budget(u64::MAX);
    while !handler.status().state.is_over() {
        clock.advance(60 * SECOND);
        std::thread::yield_now();
    }
    assert_eq!(store.state().unwrap().get(&keys::mark("stub")).unwrap(), None);
    let failed = handler.stop().unwrap_err().to_string();
    assert!(failed.contains("it is bad"), "{failed}");
}

/// What a process leaves that was killed when its batch was handled and not saved.
fn left(store: &Store, event: u64, upto: u64, attempt: u32) {
    let position = |number| Position::new(number).unwrap();
    let mark = Mark { event: position(event), upto: position(upto), attempt, is_parked: false };
    store.state().unwrap().put(keys::mark("mailer"), serde_json::to_vec(&mark).unwrap()).unwrap();
}

/// The batch may have been handled when the process ended: its only event was parked, or skipped, without being seen.
#[test]
fn a_kill_during_a_batch_of_one_event_is_no_attempt_on_it() {
    for policy in [OnError::park(), OnError::skip()] {
        let store = store();
        let position = append(&store, "a", 1);
        left(&store, 1, 1, 0);
        let (mails, sent) = mpsc::channel();
        let react = move |event: &Event<'_>| Ok(mails.send(event.position())?);
        let mailer = store.react("mailer", react).from_start().policy(policy).start().unwrap();
        mailer.wait_for(position).unwrap();
        assert_eq!(sent.try_iter().collect::<Vec<_>>(), [position]);
        assert_eq!((mailer.status().parked, mailer.status().skipped), (0, 0));
    }
}

/// A process that ends while its work is saved did not end of the event.
#[test]
fn an_attempt_that_is_over_does_not_count_while_it_is_saved() {
    let store = store();
    let position = append(&store, "a", 2);
    left(&store, 1, 2, 0);
    let marks = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let noting = |step: &'static str| {
        let (store, marks) = (store.clone(), Arc::clone(&marks));
        move || {
            let bytes = store.state().unwrap().get(&keys::mark("mailer")).unwrap().unwrap();
            let mark: Mark = serde_json::from_slice(&bytes).unwrap();
            marks.lock().push((step, mark.event.number(), mark.attempt));
        }
    };
    let (handling, saving) = (noting("handle"), noting("save"));
    let handle = move |_: &Event<'_>| {
        handling();
        Ok(())
    };
    let save = move |_: &Checkpoint| {
        saving();
        Ok(())
    };
    let work = Stub { handle, save, effects: Effects::Outside };
    let runner = Runner::new("mailer", HandlerKind::Reactor).policy(OnError::park());
    runner.start(&store, Box::new(work)).unwrap().wait_for(position).unwrap();
    let seen = marks.lock().clone();
    assert_eq!(seen, [("handle", 1, 1), ("save", 1, 0), ("handle", 2, 1), ("save", 2, 0)]);
}

/// A mark reaches as far as there were events when it was written: after a kill in the middle of a million, all that were
/// left were delivered one by one, although the one that may have ended the process is among the first batch.
#[test]
fn what_was_left_by_a_kill_is_redone_event_by_event_and_what_lies_behind_it_in_batches() {
    let store = store();
    append(&store, "b", 3);
    let position = append(&store, "a", 10);
    left(&store, 4, 13, 0);
    let (batches, delivered) = mpsc::channel();
    let relay = store.relay("mailer", Batches(batches)).query(Query::stream("a")).batch(4).start().unwrap();
    relay.wait_for(position).unwrap();
    relay.stop().unwrap();
    assert_eq!(delivered.try_iter().collect::<Vec<_>>(), [1, 1, 1, 1, 4, 2]);
}

/// A sink that tells how many events came at once.
struct Batches(mpsc::Sender<usize>);

impl Sink for Batches {
    fn deliver(&mut self, batch: &[Outgoing]) -> Result<(), HandlerError> {
        Ok(self.0.send(batch.len())?)
    }
}

/// Only an event that was tried by itself closed the circuit again. Two that failed with whole batches of others
/// between them were two in a row, and the handler was left alone though nothing was wrong with what it needs.
#[test]
fn events_that_succeed_between_two_that_fail_keep_the_circuit_closed() {
    let batches: [&[&[&str]]; 2] = [&[&["bad"], &["good", "good"], &["bad"]], &[&["bad"], &["good", "good", "bad"]]];
    let effects = [Effects::Within, Effects::Outside];
    for (effects, batches) in effects.into_iter().flat_map(|effects| batches.map(|batches| (effects, batches))) {
        let scene = Scene::new(effects, OnError::park().circuit_breaker(2, 60 * SECOND));
        scene.supply.set(true);
        let wait_for = |position: Position| {
            let is_done = || scene.handler.status().position >= Some(position);
            let is_over = |state: &HandlerState| matches!(state, HandlerState::CircuitOpen { .. }) || is_done();
            let state = scene.handler.wait_for_state(is_over);
            assert!(is_done(), "{effects:?}, {batches:?}: {state:?}");
        };
        for payloads in batches {
            let events = payloads.iter().enumerate().map(|(number, payload)| {
                let stream = format!("{payload}-{number}-{}", scene.store.head().unwrap().map_or(0, Position::number));
                (stream, NewEvent::raw("Happened", *payload))
            });
            let commit = events
                .fold(Commit::new(), |commit, (stream, event)| commit.append(stream, ExpectedVersion::Any, [event]));
            wait_for(scene.store.send(commit).unwrap().last_position());
        }
        wait_for(append(&scene.store, "a", 1));
        assert_eq!(scene.handler.status().parked, 2);
    }
}
