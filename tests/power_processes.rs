//! Power that fails between any two steps of process managers: what they do happens exactly once all the same.
//!
//! At a step the disk is kept as a loss of power would leave it: with everything that was synced, and of the rest what a
//! seed chooses. On that disk everything is done again, and everything must be as if the power had not failed.

#![cfg(feature = "testing")]
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests")]

mod sagas;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use annals::testing::FaultyDisk;
use annals::{Durability, ManualClock, Options, Timestamp};

use sagas::scenario;

/// More steps than there are.
const STEPS_MAX: u64 = 1_000;
/// What of the unsynced bytes survives is chosen in so many ways at each step.
const SEEDS: u64 = 3;

type Step = Arc<dyn Fn() + Send + Sync>;

/// Runs everything on a disk, calling `step` before each commit and around each dispatch.
fn run(disk: &FaultyDisk, durability: Durability, step: &Step) {
    let clock = ManualClock::new(Timestamp::from_millis(0));
    let of_commits = Arc::clone(step);
    let options = Options::new().clock(clock.clone()).durability(durability).admission(move |_| {
        of_commits();
        Ok(())
    });
    let store = disk.open(options).unwrap();
    scenario::run(&store, &clock, step);
    store.close().unwrap();
}

/// What losses of power at this step leave; none if there are not so many steps.
fn disks_after(lost_at: u64, durability: Durability) -> Vec<FaultyDisk> {
    let disk = FaultyDisk::new();
    let left: Arc<Mutex<Vec<FaultyDisk>>> = Arc::default();
    let step: Step = Arc::new({
        let (disk, left, steps) = (disk.clone(), Arc::clone(&left), AtomicU64::new(0));
        move || {
            if steps.fetch_add(1, Ordering::Relaxed) + 1 == lost_at {
                left.lock().unwrap().extend((0..SEEDS).map(|seed| disk.lose_power(seed)));
            }
        }
    });
    run(&disk, durability, &step);
    std::mem::take(&mut *left.lock().unwrap())
}

fn check_every_step(durability: Durability) {
    let nothing: Step = Arc::new(|| {});
    let mut steps = 0;
    for lost_at in 1..STEPS_MAX {
        let disks = disks_after(lost_at, durability);
        if disks.is_empty() {
            break;
        }
        for (seed, disk) in disks.iter().enumerate() {
            run(disk, durability, &nothing);
            let store = disk.open(Options::new()).unwrap();
            scenario::check(&store, &format!("{durability:?}, power lost at {lost_at}, seed {seed}"));
        }
        steps = lost_at;
    }
    assert!((50..STEPS_MAX).contains(&steps), "{steps}");
}

#[test]
fn power_that_fails_before_any_step_changes_nothing_of_what_happens() {
    check_every_step(Durability::Synced);
}

#[test]
fn power_that_fails_before_any_step_loses_only_ends_of_what_was_not_to_be_synced() {
    check_every_step(Durability::Os);
}
