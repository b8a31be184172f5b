//! Work that keeps its checkpoint in another place than the state of the store, as one with a database does: what was put
//! aside is said in both, and must be lost in neither.

use parking_lot::Mutex;

use super::*;
use crate::storage::{FaultyDisk, FileSystem, SimulatedDisk};

/// Losses of power, each of which spares something else.
const SEEDS: u64 = 20;

/// A database that is durable whatever happens to the store, what its handler has handled, and how well it does.
#[derive(Clone, Default)]
struct Place {
    checkpoint: Arc<Mutex<Option<Vec<u8>>>>,
    handled: Arc<Mutex<Vec<u64>>>,
    is_mended: Arc<AtomicBool>,
}

/// Fails at events that are bad until its place is mended.
struct Elsewhere<A> {
    place: Place,
    after_save: A,
}

impl<A: FnMut() + Send> Work for Elsewhere<A> {
    fn load(&mut self, _store: &Store) -> Result<Option<Checkpoint>> {
        self.place.checkpoint.lock().as_ref().map(|bytes| Checkpoint::from_bytes("stub", bytes)).transpose()
    }

    fn handle(&mut self, event: &Event<'_>) -> Result<(), HandlerError> {
        if event.payload() == b"bad" && !self.place.is_mended.load(Ordering::SeqCst) {
            return Err("it is bad".into());
        }
        self.place.handled.lock().push(event.position().number());
        Ok(())
    }

    fn save(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        *self.place.checkpoint.lock() = Some(checkpoint.to_bytes());
        (self.after_save)();
        Ok(())
    }

    fn roll_back(&mut self) -> Result<()> {
        Ok(())
    }

    fn has_effects_outside(&self) -> bool {
        false
    }
}

impl Place {
    fn mend(&self) {
        self.is_mended.store(true, Ordering::SeqCst);
    }

    fn start(&self, store: &Store, policy: &OnError, after_save: impl FnMut() + Send + 'static) -> HandlerHandle {
        let work = Elsewhere { place: self.clone(), after_save };
        let runner = runner().policy(policy.clone()).upto(crate::Horizon::Visible);
        runner.start(store, Box::new(work)).unwrap()
    }
}

fn append_bad(store: &Store) -> Position {
    store.append("bad", ExpectedVersion::Any, [NewEvent::raw("Happened", "bad")]).unwrap().last_position()
}

/// The positions that are parked, and those that were skipped.
fn put_aside(store: &Store) -> (Vec<u64>, Vec<u64>) {
    let letters = store.dead_letters("stub").unwrap();
    let parked = letters.list().unwrap().iter().map(|letter| letter.position.number()).collect();
    (parked, letters.skipped().unwrap().iter().map(|skipped| skipped.position.number()).collect())
}

/// What has been put aside after each of many losses of power.
fn assert_put_aside(disk: &FaultyDisk, expected: &(Vec<u64>, Vec<u64>)) {
    for seed in 0..SEEDS {
        let options = Options::new().without_background_work();
        let store = Store::open_on(Arc::new(disk.power_cut(seed)), options, true).unwrap();
        assert_eq!(put_aside(&store), *expected, "seed {seed}");
    }
}

fn pass_until_there_is_space(handler: &HandlerHandle, clock: &ManualClock, disk: &MemoryDisk) {
    handler.wait_for_state(|state| matches!(state, HandlerState::NoSpace { .. }));
    disk.set_budget(u64::MAX);
    while matches!(handler.status().state, HandlerState::NoSpace { .. }) {
        clock.advance(60 * SECOND);
        std::thread::yield_now();
    }
}

/// When the state had no space for a dead letter, the checkpoint that had it was saved again without: the event was
/// neither handled nor parked. One that was retried came back the same way, and was handled twice.
#[test]
fn what_the_state_has_no_space_for_stays_in_the_checkpoint_until_it_has() {
    for (policy, expected) in [(OnError::park(), (vec![1], vec![])), (OnError::skip(), (vec![], vec![1]))] {
        let clock = ManualClock::new(Timestamp::default());
        let disk = MemoryDisk::new();
        let options = Options::new().clock(clock.clone()).without_background_work();
        let store = Store::open_on(Arc::new(disk.clone()), options, true).unwrap();
        let (place, is_full_next) = (Place::default(), Arc::new(AtomicBool::new(true)));
        let after_save = {
            let (store, disk, is_full_next) = (store.clone(), disk.clone(), Arc::clone(&is_full_next));
            move || {
                if is_full_next.swap(false, Ordering::SeqCst) {
                    use_up(&disk, &store);
                }
            }
        };
        let handler = place.start(&store, &policy, after_save);
        append_bad(&store);
        pass_until_there_is_space(&handler, &clock, &disk);
        handler.wait_for(append(&store, "a", 1)).unwrap();
        assert_eq!(put_aside(&store), expected);
        if !expected.0.is_empty() {
            place.mend();
            is_full_next.store(true, Ordering::SeqCst);
            store.dead_letters("stub").unwrap().retry_all().unwrap();
            pass_until_there_is_space(&handler, &clock, &disk);
            handler.wait_for(append(&store, "a", 1)).unwrap();
            assert_eq!(put_aside(&store), (vec![], vec![]));
        }
    }
}

/// The state was not synced before the checkpoint that had a dead letter gave way to one without: a loss of power then
/// took the letter from the one place that still had it, or brought one back that was none any more.
#[test]
fn what_was_put_aside_outlives_the_power_as_its_checkpoint_elsewhere_does() {
    for (policy, expected) in [(OnError::park(), (vec![1], vec![])), (OnError::skip(), (vec![], vec![1]))] {
        let disk = FaultyDisk::new(MemoryDisk::new());
        let options = Options::new().without_background_work();
        let store = Store::open_on(Arc::new(disk.clone()), options, true).unwrap();
        let place = Place::default();
        let handler = place.start(&store, &policy, || ());
        handler.wait_for(append_bad(&store)).unwrap();
        handler.wait_for(append(&store, "a", 1)).unwrap();
        assert_put_aside(&disk, &expected);
        if !expected.0.is_empty() {
            place.mend();
            store.dead_letters("stub").unwrap().retry_all().unwrap();
            handler.wait_for_requests().unwrap();
            handler.wait_for(append(&store, "a", 1)).unwrap();
            assert_put_aside(&disk, &(vec![], vec![]));
        }
    }
}

/// A store that syncs on demand alone, and a handler that has parked its first event and stopped.
fn parked_by_an_earlier_run() -> (FaultyDisk, Store, Place) {
    let disk = FaultyDisk::new(MemoryDisk::new());
    let options = Options::new().durability(Durability::Os).without_background_work();
    let store = Store::open_on(Arc::new(disk.clone()), options, true).unwrap();
    let place = Place::default();
    let handler = place.start(&store, &OnError::park(), || ());
    handler.wait_for(append_bad(&store)).unwrap();
    handler.stop().unwrap();
    (disk, store, place)
}

/// The run that wrote the letter ended before it had to sync it, and the next one found it written.
#[test]
fn what_an_earlier_run_put_aside_outlives_the_power_as_well() {
    let (disk, store, place) = parked_by_an_earlier_run();
    place.start(&store, &OnError::park(), || ()).wait_for(append(&store, "a", 1)).unwrap();
    assert_put_aside(&disk, &(vec![1], vec![]));
}

/// Where nothing is synced but on demand, what a state that is gone had put aside was back after a loss of power, and an
/// event that the new state has handled could be retried.
#[test]
fn what_was_forgotten_with_a_state_that_is_gone_stays_so_when_the_power_is_lost() {
    let (disk, store, place) = parked_by_an_earlier_run();
    store.sync().unwrap();
    store.state().unwrap().sync().unwrap();
    assert_put_aside(&disk, &(vec![1], vec![]));

    *place.checkpoint.lock() = None;
    place.mend();
    place.start(&store, &OnError::park(), || ()).wait_for(append(&store, "a", 1)).unwrap();
    assert_put_aside(&disk, &(vec![], vec![]));
}

/// What has become of two dead letters of one stream, when both were asked for behind a checkpoint that is older than
/// they are: what was handled since, and what is parked still.
fn asked_for_behind_an_older_checkpoint(ask: fn(&DeadLetters)) -> (Vec<u64>, Vec<u64>) {
    // On a clock that stands still: nothing that comes late is waited for.
    let options = Options::new().clock(ManualClock::new(Timestamp::default())).without_background_work();
    let store = options.in_memory().unwrap();
    let place = Place::default();
    let start = || place.start(&store, &OnError::park(), || ());
    let handler = start();
    handler.wait_for(append(&store, "a", 1)).unwrap();
    handler.stop().unwrap();
    let older = place.checkpoint.lock().clone();
    append_bad(&store);
    append(&store, "a", 1);
    start().wait_for(append_bad(&store)).unwrap();
    assert_eq!(put_aside(&store).0, [2, 4]);

    (*place.checkpoint.lock(), *place.handled.lock()) = (older, Vec::new());
    place.mend();
    ask(&store.dead_letters("stub").unwrap());
    let handler = start();
    handler.wait_for_requests().unwrap();
    handler.wait_for(append(&store, "a", 1)).unwrap();
    handler.stop().unwrap();
    let mut handled = place.handled.lock().clone();
    handled.sort_unstable();
    (handled, put_aside(&store).0)
}

/// A database that was put back to an older state saw events again that were dead letters. One that was asked for was
/// seen to at once, and was handled or parked once more when it came by.
#[test]
fn dead_letters_that_an_older_checkpoint_does_not_know_are_seen_to_when_their_events_come_by() {
    let retried = asked_for_behind_an_older_checkpoint(|letters| assert_eq!(letters.retry_all().unwrap(), 1));
    assert_eq!(retried, (vec![2, 3, 4, 5], vec![]), "each once");
    let discarded = asked_for_behind_an_older_checkpoint(|letters| assert_eq!(letters.discard_all().unwrap(), 2));
    assert_eq!(discarded, (vec![3, 5], vec![]));
}

/// A database that was put back saw a good event again, and a later one of its stream was a dead letter: the good one
/// was parked behind that, and nobody tried it.
#[test]
fn an_event_that_comes_again_before_the_first_dead_letter_of_its_stream_is_handled() {
    let store = store();
    let place = Place::default();
    let start = || place.start(&store, &OnError::park(), || ());
    start().wait_for(append(&store, "a", 1)).unwrap();
    let older = place.checkpoint.lock().clone();
    append(&store, "bad", 1);
    let bad = append_bad(&store);
    start().wait_for(bad).unwrap();
    assert_eq!(put_aside(&store).0, [3]);

    (*place.checkpoint.lock(), *place.handled.lock()) = (older, Vec::new());
    start().wait_for(bad).unwrap();
    assert_eq!((place.handled.lock().clone(), put_aside(&store).0), (vec![2], vec![3]));
}

/// The attempt that it had failed at was still marked: behind a checkpoint that was put back it was skipped again, and
/// nobody had tried it.
#[test]
fn an_event_that_was_skipped_is_tried_when_it_comes_again() {
    let store = store();
    let place = Place::default();
    let start = || place.start(&store, &OnError::skip(), || ());
    start().wait_for(append(&store, "a", 1)).unwrap();
    let older = place.checkpoint.lock().clone();
    let bad = append_bad(&store);
    start().wait_for(bad).unwrap();
    assert_eq!(put_aside(&store).1, [2]);

    *place.checkpoint.lock() = older;
    place.mend();
    start().wait_for(bad).unwrap();
    assert_eq!(*place.handled.lock(), [1, 2]);
}

/// What a loss of power has left of a store that syncs on demand alone: its first event, and the dead letter of the
/// second one, which is lost and of which the checkpoint elsewhere does not know.
struct Left {
    disk: SimulatedDisk,
    store: Store,
    place: Place,
    letter: DeadLetter,
}

impl Left {
    /// By each loss of power that has taken the second event.
    fn all() -> Vec<Self> {
        let left: Vec<_> = (0..SEEDS).filter_map(Self::by_chance).collect();
        assert!(!left.is_empty(), "no loss of power has taken the event");
        left
    }

    fn by_chance(seed: u64) -> Option<Self> {
        let disk = SimulatedDisk::new(FileSystem::Strict, seed);
        let store = open_unsynced(&disk);
        let place = Place::default();
        let start = || place.start(&store, &OnError::park(), || ());
        start().wait_for(append(&store, "a", 1)).unwrap();
        store.sync().unwrap();
        let older = place.checkpoint.lock().clone();
        start().wait_for(append_bad(&store)).unwrap();
        store.dead_letters("stub").unwrap().retry_all().unwrap();
        store.state().unwrap().sync().unwrap();
        let letter = store.dead_letters("stub").unwrap().list().unwrap().remove(0);

        *place.checkpoint.lock() = older;
        place.mend();
        let store = lose_power(&disk, store);
        assert_eq!(store.dead_letters("stub").unwrap().list().unwrap().first(), Some(&letter), "seed {seed}");
        (store.head().unwrap() == Some(Position::FIRST)).then_some(Self { disk, store, place, letter })
    }

    fn start(&self) -> HandlerHandle {
        self.place.start(&self.store, &OnError::park(), || ())
    }
}

fn open_unsynced(disk: &SimulatedDisk) -> Store {
    let options = Options::new().durability(Durability::Os).without_background_work();
    Store::open_on(Arc::new(disk.clone()), options, true).unwrap()
}

fn lose_power(disk: &SimulatedDisk, store: Store) -> Store {
    disk.stop();
    drop(store);
    disk.cut_power();
    open_unsynced(disk)
}

/// It was taken for the next event that got its position: that was handled, and again when the letter was retried. In
/// the same stream, it counted as parked, and nobody had tried it.
#[test]
fn an_event_that_gets_the_position_of_a_dead_letter_that_the_log_has_lost_is_handled_once() {
    for (stream, is_there_at_the_start) in [("a", false), ("a", true), ("bad", false), ("bad", true)] {
        for left in Left::all() {
            let next = is_there_at_the_start.then(|| append(&left.store, stream, 1));
            let handler = left.start();
            handler.wait_for_requests().unwrap();
            handler.wait_for(next.unwrap_or_else(|| append(&left.store, stream, 1))).unwrap();
            assert_eq!((left.place.handled.lock().clone(), put_aside(&left.store).0), (vec![1, 2], vec![]), "{stream}");
            left.store.dead_letters("stub").unwrap().retry_all().unwrap();
            handler.wait_for_requests().unwrap();
            assert_eq!(*left.place.handled.lock(), [1, 2], "{stream}");
        }
    }
}

/// It came back where that it was forgotten had not been synced, under a checkpoint that covered its position.
#[test]
fn a_dead_letter_whose_event_the_log_has_lost_stays_forgotten_when_the_power_is_lost_again() {
    for left in Left::all() {
        left.start().wait_for(append(&left.store, "a", 1)).unwrap();
        let Left { disk, store, .. } = left;
        assert_eq!(put_aside(&lose_power(&disk, store)).0, Vec::<u64>::new());
    }
}

/// One whose event the log has lost comes by no more: who waited for its retry would have waited for ever. Nowadays a
/// start forgets it, unless an earlier version has kept it until another event had its position.
#[test]
fn a_retry_of_a_dead_letter_whose_event_is_gone_is_told_to_be_in_vain() {
    let left = Left::all().remove(0);
    left.start().wait_for(append(&left.store, "a", 1)).unwrap();
    left.store.state().unwrap().write(left.letter.add_to("stub", StateBatch::new())).unwrap();
    left.start().wait_for_requests().unwrap();
    let letter = &left.store.dead_letters("stub").unwrap().list().unwrap()[0];
    let error = letter.error.as_deref().unwrap();
    assert!(letter.requested.is_none() && error.contains("can only be discarded"), "{error}");
    assert_eq!(*left.place.handled.lock(), [1, 2]);
}
