//! Subscribers whose process dies: what was acknowledged never comes again, everything else does, once.
//!
//! The test runs its own binary as a child, which ends itself right before or right after it acknowledges an event.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests")]

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use annals::{Delivery, ExpectedVersion, Item, NewEvent, Query, Store, Subscription};

/// What the child is to do, in the environment.
const PATH: &str = "ANNALS_KILL_SUBSCRIPTION_PATH";
/// Where the child dies, such as `before 3`.
const DIES_AT: &str = "ANNALS_KILL_SUBSCRIPTION_DIES_AT";
/// Whether the child shares the name with a consumer that takes nothing.
const SHARED: &str = "ANNALS_KILL_SUBSCRIPTION_SHARED";

/// The child: does nothing when the tests are run.
#[test]
fn child() {
    let Some(directory) = std::env::var_os(PATH) else { return };
    let directory = Path::new(&directory);
    let store = Store::open(directory.join("store")).unwrap();
    let (subscription, _other) = match std::env::var(SHARED) {
        Ok(_) => (open_shared(&store), Some(open_shared(&store))),
        Err(_) => (store.subscribe("mailer").query(wanted()).open().unwrap(), None),
    };
    for item in subscription {
        match item.unwrap() {
            Item::Event(delivery) => take(directory, delivery),
            Item::CaughtUp => break,
        }
    }
}

fn open_shared(store: &Store) -> Subscription {
    store.subscribe("mailer").query(wanted()).shared(Duration::from_secs(60)).open().unwrap()
}

fn wanted() -> Query {
    Query::category("a")
}

fn take(directory: &Path, delivery: Delivery) {
    let position = delivery.position;
    let mut taken = std::fs::File::options().append(true).create(true).open(directory.join("taken")).unwrap();
    writeln!(taken, "{position}").unwrap();
    die_at(&format!("before {position}"));
    delivery.ack().unwrap();
    die_at(&format!("after {position}"));
}

fn die_at(place: &str) {
    if std::env::var(DIES_AT).is_ok_and(|dies_at| dies_at == place) {
        std::process::abort();
    }
}

/// Runs a child; whether it ended by itself.
fn live(directory: &Path, dies_at: Option<&str>, is_shared: bool) -> bool {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child", "--test-threads=1"]).env(PATH, directory);
    if let Some(dies_at) = dies_at {
        command.env(DIES_AT, dies_at);
    }
    if is_shared {
        command.env(SHARED, "yes");
    }
    command.output().unwrap().status.success()
}

#[test]
fn g32_what_was_acknowledged_before_a_kill_never_comes_again_and_the_rest_does() {
    // Events 2, 4 and 6 are not wanted.
    let wanted = [1, 3, 5, 7];
    for (is_shared, position) in [false, true].into_iter().flat_map(|is_shared| wanted.map(|place| (is_shared, place)))
    {
        for (when, again) in [("before", position), ("after", position + 1)] {
            let directory = tempfile::tempdir().unwrap();
            let store = Store::open(directory.path().join("store")).unwrap();
            for number in 1..=7 {
                let stream = if number % 2 == 1 { "a-1" } else { "b-1" };
                store.append(stream, ExpectedVersion::Any, [NewEvent::raw("Counted", "")]).unwrap();
            }
            store.close().unwrap();

            assert!(!live(directory.path(), Some(&format!("{when} {position}")), is_shared));
            assert!(live(directory.path(), None, is_shared));
            let taken = std::fs::read_to_string(directory.path().join("taken")).unwrap();
            let taken: Vec<u64> = taken.lines().map(|line| line.parse().unwrap()).collect();
            let first = wanted.into_iter().filter(|place| *place <= position);
            let second = wanted.into_iter().filter(|place| *place >= again);
            assert_eq!(taken, first.chain(second).collect::<Vec<u64>>(), "killed {when} {position}");
        }
    }
}
