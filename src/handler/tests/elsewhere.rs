//! Work that keeps its checkpoint in another place than the state of the store, as one with a database does: what was put
//! aside is said in both, and must be lost in neither.

use parking_lot::Mutex;

use super::*;
use crate::storage::FaultyDisk;

/// Losses of power, each of which spares something else.
const SEEDS: u64 = 20;

/// A database that is durable whatever happens to the store, and how well its handler does.
#[derive(Clone, Default)]
struct Place {
    checkpoint: Arc<Mutex<Option<Vec<u8>>>>,
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
        match event.payload() == b"bad" && !self.place.is_mended.load(Ordering::SeqCst) {
            true => Err("it is bad".into()),
            false => Ok(()),
        }
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
