//! Histories of a store on a simulated disk: it is opened, written to, and crashed, again and again, while it recovers as
//! well as while it works.
//!
//! A seed is a history. Whatever happens in it, what was acknowledged as synced is there, whole and unchanged; what is
//! there is a beginning of what was sent, at the end of a commit; what is sent again is written once; every query agrees
//! with the log, and so does what is kept beside it; no byte is wrong; and the store takes appends again. The number of
//! histories and a single one to run again come from the environment:
//!
//! ```text
//! ANNALS_CRASH_HISTORIES=100000 cargo test --release --all-features --lib store::crashes
//! ANNALS_CRASH_SEED=4711 cargo test --all-features --lib store::crashes
//! ```

mod beside;
mod history;
mod model;
mod recorded;

use std::ops::AddAssign;
use std::sync::Arc;

use super::{Options, Store};
use crate::randomness::SeededRandomness;
use crate::seeds::Suite;
use crate::storage::{Disk, FileSystem, SimulatedDisk};
use history::History;

const SUITE: Suite = Suite { prefix: "ANNALS_CRASH", filter: "store::crashes", histories: 400 };

/// What has happened in histories.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Counts {
    power_cuts: u64,
    kills: u64,
    /// Opens that something kept from succeeding.
    failed_opens: u64,
    failed_calls: u64,
    commits: u64,
    lost_commits: u64,
    cut_tails: u64,
    /// Commits that were sent once more.
    sent_again: u64,
    conflicts: u64,
    snapshots: u64,
    /// Events of a subscription.
    acknowledged: u64,
    backups: u64,
    /// States whose oldest segments were removed.
    compacted: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.power_cuts += other.power_cuts;
        self.kills += other.kills;
        self.failed_opens += other.failed_opens;
        self.failed_calls += other.failed_calls;
        self.commits += other.commits;
        self.lost_commits += other.lost_commits;
        self.cut_tails += other.cut_tails;
        self.sent_again += other.sent_again;
        self.conflicts += other.conflicts;
        self.snapshots += other.snapshots;
        self.acknowledged += other.acknowledged;
        self.backups += other.backups;
        self.compacted += other.compacted;
    }
}

#[test]
fn what_was_acknowledged_survives_every_crash_and_nothing_else_is_served() {
    let (histories, counts) = SUITE.run(|seed| History::new(seed).run().0);
    println!("{histories} histories: {counts:?}");
    let Counts { power_cuts, kills, failed_opens, failed_calls, commits, lost_commits, cut_tails, .. } = counts;
    let Counts { sent_again, conflicts, snapshots, acknowledged, backups, compacted, .. } = counts;
    let often =
        [power_cuts, kills, failed_opens, failed_calls, commits, lost_commits, cut_tails, sent_again, conflicts];
    // A suite in which nothing goes wrong shows nothing.
    if SUITE.is_large() {
        let least = often.into_iter().chain([snapshots, acknowledged]).min();
        let is_enough = least >= Some(histories / 20) && backups >= histories / 300 && compacted >= histories / 10;
        assert!(is_enough, "too little happened: {counts:?}");
    }
}

/// A kill between the making of the synced head and the sync of its name left a name that nobody synced any more: with the
/// next loss of power it was gone, and with it what it said of the end of the log.
#[test]
fn the_synced_head_keeps_its_name_whenever_the_process_that_made_it_was_killed() {
    let open = |disk: &SimulatedDisk, seed| {
        let options = Options::new().randomness(SeededRandomness::new(seed)).without_background_work();
        Store::open_on(Arc::new(disk.clone()), options, true)
    };
    for calls in 0.. {
        let mut is_over = true;
        for seed in 0..8 {
            let disk = SimulatedDisk::new(FileSystem::Strict, seed);
            disk.lose_power_after(calls);
            let opened = open(&disk, seed);
            is_over &= opened.is_ok();
            disk.stop();
            drop(opened);
            disk.kill();
            drop(open(&disk, seed + 1).unwrap());
            disk.stop();
            disk.cut_power();
            let names = disk.list("").unwrap();
            assert!(names.iter().any(|name| name == "synced-head"), "{calls} calls, seed {seed}: {names:?}");
        }
        if is_over {
            break;
        }
    }
}

#[test]
fn a_seed_is_the_same_history_every_time() {
    for seed in 0..8 {
        assert_eq!(History::new(seed).run(), History::new(seed).run(), "seed {seed}");
    }
    assert_ne!(History::new(1).run().1, History::new(2).run().1);
}
