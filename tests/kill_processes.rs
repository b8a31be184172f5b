//! A process that dies between any two steps of its process managers: what they do happens exactly once all the same.
//!
//! The test runs its own binary as a child that does the same few things each time. The child dies by itself before the
//! n-th commit, or right before or behind the n-th dispatch, for every n that it comes to. Then children run until one
//! comes to the end, and everything must be as if none had died.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests")]

mod sagas;

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use annals::{ManualClock, Options, Timestamp};

use sagas::scenario;

/// Where the child has its store, and at which step it is to die; 0 for never.
const PATH: &str = "ANNALS_KILL_PROCESSES_PATH";
const DIE_AT: &str = "ANNALS_KILL_PROCESSES_DIE_AT";
/// A child that has come to the end says so.
const DONE: &str = "@done";
/// More steps than there are.
const STEPS_MAX: u64 = 1_000;
/// No child needs more starts than this.
const STARTS_MAX: u64 = 200;

/// The child: does nothing when the tests are run.
#[test]
fn child() {
    let Ok(path) = std::env::var(PATH) else { return };
    let die_at: u64 = std::env::var(DIE_AT).unwrap().parse().unwrap();
    let steps = AtomicU64::new(0);
    let step: Arc<dyn Fn() + Send + Sync> = Arc::new(move || {
        if steps.fetch_add(1, Ordering::Relaxed) + 1 == die_at {
            // No destructor runs, and nothing is flushed, as with `kill -9`.
            std::process::abort();
        }
    });
    let clock = ManualClock::new(Timestamp::from_millis(0));
    let of_commits = Arc::clone(&step);
    let options = Options::new().clock(clock.clone()).admission(move |_| {
        of_commits();
        Ok(())
    });
    let store = options.open(path).unwrap();
    scenario::run(&store, &clock, &step);
    store.close().unwrap();
    println!("{DONE}");
}

/// Runs a child; whether it came to the end.
fn run(path: &Path, die_at: u64) -> bool {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(PATH, path)
        .env(DIE_AT, die_at.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    let is_done = String::from_utf8_lossy(&child.stdout).contains(DONE);
    // One that ends without having come to the end was killed, and did not fail.
    let errors = String::from_utf8_lossy(&child.stderr);
    assert!(is_done || child.status.code().is_none(), "died at {die_at}: {}: {errors}", child.status);
    is_done
}

fn check(path: &Path, context: &str) {
    let store = Options::new().open_existing(path).unwrap();
    scenario::check(&store, context);
    store.close().unwrap();
    let report = annals::verify(path, &mut |_| {}).unwrap();
    assert!(report.problems.is_empty(), "{context}: {:?}", report.problems);
}

#[test]
fn a_kill_before_any_step_changes_nothing_of_what_happens() {
    let mut steps = 0;
    for die_at in 1..STEPS_MAX {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        let came_to_the_end = run(&path, die_at);
        assert!(came_to_the_end || run(&path, 0), "killed at {die_at}, the next one did not come to the end");
        check(&path, &format!("killed at {die_at}"));
        if came_to_the_end {
            break;
        }
        steps = die_at;
    }
    // Commits and dispatches of all that the child does.
    assert!((50..STEPS_MAX).contains(&steps), "{steps}");
}

#[test]
fn kills_again_and_again_change_nothing_of_what_happens() {
    for die_at in [5, 6, 7, 11, 17, 23] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        let starts = (1..STARTS_MAX).find(|start| run(&path, die_at + start / 20));
        assert!(starts.is_some_and(|starts| starts > 1), "killed at every step {die_at}: {starts:?}");
        check(&path, &format!("killed again and again at {die_at}"));
    }
}
