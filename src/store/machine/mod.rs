//! A state machine: scripts of every public operation of the store, with crashes, reopens and faults among them, done to
//! a store and to a model of it side by side.
//!
//! The operations are those of one thread on one directory. Stores in memory, the background thread, and subscriptions
//! that consumers share are those of `tests/semantics` and `store::schedules`, and what is awaited is that of
//! `tests/asynchronous.rs`. What is built on the store has suites of its own: aggregates in `aggregate::tests` and
//! `tests/semantics`, handlers in `handler::tests` and `tests/kill_handlers.rs`, projections in `projection::crashes`,
//! process managers in `tests/processes` and `tests/power_processes.rs`, tenants in `tests/tenants.rs` and
//! `tests/kill_tenants.rs`.
//!
//! Scripts are data, and a script is done the same way every time, so that one that fails is made smaller until nothing
//! can be left out, and then printed. A seed is a script; how many come from the environment, and which:
//!
//! ```text
//! ANNALS_MACHINE_HISTORIES=100000 cargo test --release --lib store::machine -- --nocapture
//! ANNALS_MACHINE_SEED=17 cargo test --lib store::machine
//! ```

mod beside;
mod check;
mod following;
mod generate;
mod journal;
mod keeping;
mod lives;
mod model;
mod operation;
mod printing;
mod sending;
mod subscribing;
mod world;

use std::cell::Cell;
use std::ops::AddAssign;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::sync::Once;

use proptest::test_runner::{Config, TestCaseError, TestError, TestRng, TestRunner};

use crate::seeds::Suite;
use crate::storage::{SimulatedDisk, scratch};
use operation::Script;
use world::{Medium, World};

const ON_SIMULATED_DISK: Suite = Suite { prefix: "ANNALS_MACHINE", filter: "store::machine", histories: 60 };
const IN_DIRECTORY: Suite = Suite { prefix: "ANNALS_MACHINE_FILES", filter: "store::machine", histories: 15 };
/// A script has up to so many operations.
const OPERATIONS_MAX: usize = 140;
/// How often a script that fails is made smaller at most.
const SHRINKS_MAX: u32 = 3000;

/// What has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Counts {
    opens: u64,
    power_losses: u64,
    kills: u64,
    failed_calls: u64,
    commits: u64,
    conflicts: u64,
    deduplicated: u64,
    /// Commits and writes of the state of which it was unknown whether they were made.
    doubts: u64,
    /// Commits in doubt that were sent again.
    sent_again: u64,
    lost_events: u64,
    cut_tails: u64,
    state_writes: u64,
    /// Events that came to what follows the log, that replays have handled, and that subscriptions have delivered.
    followed: u64,
    replayed: u64,
    delivered: u64,
    acknowledged: u64,
    backups: u64,
    /// States whose oldest segments were removed.
    compacted: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.opens += other.opens;
        self.power_losses += other.power_losses;
        self.kills += other.kills;
        self.failed_calls += other.failed_calls;
        self.commits += other.commits;
        self.conflicts += other.conflicts;
        self.deduplicated += other.deduplicated;
        self.doubts += other.doubts;
        self.sent_again += other.sent_again;
        self.lost_events += other.lost_events;
        self.cut_tails += other.cut_tails;
        self.state_writes += other.state_writes;
        self.followed += other.followed;
        self.replayed += other.replayed;
        self.delivered += other.delivered;
        self.acknowledged += other.acknowledged;
        self.backups += other.backups;
        self.compacted += other.compacted;
    }
}

impl Counts {
    /// A machine in which nothing goes wrong shows nothing.
    fn assert_enough(&self, cases: u64) {
        let often = [self.opens, self.power_losses, self.kills, self.failed_calls, self.commits, self.conflicts];
        let read = [self.followed, self.replayed, self.delivered];
        let seldom = [self.deduplicated, self.doubts, self.sent_again, self.lost_events, self.state_writes];
        let beside = [self.acknowledged, self.backups, self.compacted, self.cut_tails];
        let is_enough = often.iter().chain(&read).all(|count| *count >= cases / 2)
            && seldom.iter().chain(&beside).all(|count| *count >= cases / 20);
        assert!(is_enough, "too little happened: {self:?}");
    }
}

fn on_simulated_disk(script: &Script) -> (Counts, u64) {
    let disk = SimulatedDisk::new(script.setup.file_system, script.setup.seed);
    if let Some(calls) = script.setup.writes_back_in {
        disk.write_back_in(calls);
    }
    World::new(script.setup.clone(), Medium::Simulated(disk)).run(script)
}

fn in_directory(script: &Script) -> (Counts, u64) {
    World::new(script.setup.clone(), Medium::Directory(scratch())).run(script)
}

thread_local! {
    /// Whether panics of this thread are kept quiet: making a script smaller fails again and again.
    static IS_QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Lets panics of threads be quiet that ask for it, and those of all others be told as before.
fn allow_quiet_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info: &PanicHookInfo<'_>| {
            if !IS_QUIET.get() {
                before(info);
            }
        }));
    });
}

/// Runs the script of a seed, and says if it fails how small it can be made.
fn run_seed(seed: u64, run: fn(&Script) -> (Counts, u64)) -> Counts {
    allow_quiet_panics();
    let config = Config { cases: 1, failure_persistence: None, max_shrink_iters: SHRINKS_MAX, ..Config::default() };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(config.rng_algorithm, &bytes);
    let counts = Cell::new(Counts::default());
    let outcome = TestRunner::new_with_rng(config, rng).run(&generate::script(OPERATIONS_MAX), |script| {
        IS_QUIET.set(true);
        let ran = catch_unwind(AssertUnwindSafe(|| run(&script)));
        IS_QUIET.set(false);
        let ran = ran.map_err(|panic| TestCaseError::fail(reason(&*panic)));
        ran.map(|(happened, _)| counts.set(happened))
    });
    match outcome {
        Ok(()) => counts.get(),
        Err(TestError::Fail(reason, script)) => panic!("seed {seed}: {reason}\nthe smallest script:\n{script:?}"),
        Err(TestError::Abort(reason)) => panic!("seed {seed}: {reason}"),
    }
}

fn reason(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

#[test]
fn a_store_does_what_its_model_does_whatever_the_disk_does() {
    let (scripts, counts) = ON_SIMULATED_DISK.run(|seed| run_seed(seed, on_simulated_disk));
    println!("{scripts} scripts: {counts:?}");
    if ON_SIMULATED_DISK.is_large() {
        counts.assert_enough(scripts);
    }
}

/// With the files and memory maps of the operating system.
#[test]
fn a_store_in_a_directory_does_what_its_model_does() {
    let (scripts, counts) = IN_DIRECTORY.run(|seed| run_seed(seed, in_directory));
    println!("{scripts} scripts in a directory: {counts:?}");
    assert!(counts.commits >= scripts && counts.failed_calls == 0, "{counts:?}");
}

#[test]
fn a_script_is_done_the_same_way_every_time() {
    use proptest::strategy::{Strategy, ValueTree};

    let mut runner = TestRunner::deterministic();
    for _ in 0..6 {
        let script = generate::script(OPERATIONS_MAX).new_tree(&mut runner).unwrap().current();
        assert_eq!(on_simulated_disk(&script), on_simulated_disk(&script), "{script:?}");
    }
}
