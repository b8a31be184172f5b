//! What the benches share: where stores go, how large they are, and what is in them.

#![allow(dead_code, reason = "each bench uses a part of it")]

use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use annals::{Commit, Durability, ExpectedVersion, NewEvent, Options, Store};
use criterion::Criterion;
use tempfile::TempDir;

/// Bytes of a payload.
pub(crate) const PAYLOAD_BYTES: usize = 200;
/// Different types of events.
pub(crate) const TYPES: usize = 20;
/// Events a commit while a store is filled.
const FILL_EVENTS: usize = 1_000;

/// Settings with which the whole suite takes a few minutes.
pub(crate) fn criterion() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args()
}

/// Events of the large store: a million, or what `ANNALS_BENCH_EVENTS` says.
pub(crate) fn events_total() -> usize {
    let asked = std::env::var("ANNALS_BENCH_EVENTS").ok().and_then(|count| count.parse().ok());
    asked.unwrap_or(1_000_000)
}

/// A directory that is gone with the value, on the disk of the build, or where `ANNALS_BENCH_DIR` says. The usual place
/// for temporary files is often in memory, where a sync costs nothing.
pub(crate) fn directory() -> TempDir {
    let place = std::env::var_os("ANNALS_BENCH_DIR").map(PathBuf::from);
    let place = place.unwrap_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")));
    tempfile::tempdir_in(place).expect("a temporary directory")
}

/// A payload that looks like JSON. It costs one allocation, as little as a payload can.
pub(crate) fn payload() -> Vec<u8> {
    static PAYLOAD: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut payload = br#"{"amount_cents":4711,"currency":"EUR","note":""#.to_vec();
        payload.resize(PAYLOAD_BYTES - 2, b'x');
        payload.extend_from_slice(b"\"}");
        payload
    });
    PAYLOAD.clone()
}

/// The event with this number.
pub(crate) fn event(number: usize) -> NewEvent {
    const NAMES: [&str; TYPES] = [
        "Opened",
        "Deposited",
        "Withdrawn",
        "Frozen",
        "Thawed",
        "Renamed",
        "Moved",
        "Audited",
        "Flagged",
        "Cleared",
        "Reviewed",
        "Approved",
        "Declined",
        "Billed",
        "Paid",
        "Refunded",
        "Shipped",
        "Returned",
        "Merged",
        "Closed",
    ];
    NewEvent::from_bytes(NAMES[number % TYPES], annals::Codec::Json, payload())
}

/// Fills a store with `total` events over a tenth as many streams, scattered so that each stream's events lie far apart.
///
/// Most streams have 10 events (`account-N`); from 100,000 events on one in a hundred slots belongs to streams of 100
/// (`medium-N`), another to one of a hundredth of all (`large-0`).
pub(crate) fn fill(path: &Path, total: usize) -> Store {
    let store = options().open(path).expect("a store");
    let mut number = 0;
    while number < total {
        let mut commit = Commit::new();
        for _ in 0..FILL_EVENTS.min(total - number) {
            commit = commit.append(stream_of(number, total), ExpectedVersion::Any, [event(number / 7)]);
            number += 1;
        }
        store.send(commit).expect("an append");
    }
    store
}

/// Filled, closed, and opened again: what is read comes from index files, as it does in a store that has run for long.
pub(crate) fn filled(path: &Path, total: usize) -> Store {
    let store = fill(path, total);
    store.maintain().expect("maintenance");
    store.close().expect("a clean close");
    options().open(path).expect("a store")
}

/// Appends are not synced where the bench is not about that.
pub(crate) fn options() -> Options {
    Options::new().durability(Durability::Os)
}

/// Streams whose events are visited in one round; each round visits each slot once, in a scattered order.
fn slots(total: usize) -> usize {
    (total / 10).max(1)
}

fn stream_of(number: usize, total: usize) -> String {
    // A prime larger than any number of slots: steps of it visit each slot of a round once.
    const STEP: usize = 1_000_000_007;
    let slots = slots(total);
    let slot = (number % slots) * STEP % slots;
    match slot * 100 / slots {
        98 => format!("medium-{}", slot % (slots / 1_000).max(1)),
        99 => "large-0".to_owned(),
        _ => format!("account-{slot}"),
    }
}

/// Streams of ten events, of a hundred, and of a hundredth of all: how many events they have about, and some of each.
pub(crate) fn streams(total: usize) -> [(&'static str, Vec<String>); 3] {
    let slots = slots(total);
    let accounts = (0..1_000).map(|index| format!("account-{}", index * 997 % (slots * 98 / 100).max(1))).collect();
    let medium = (0..(slots / 1_000).max(1)).map(|index| format!("medium-{index}")).collect();
    [("10", accounts), ("100", medium), ("10000", vec!["large-0".to_owned()])]
}
