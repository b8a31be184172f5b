//! The engine under schedules that an explorer chooses: appends, reads, watches, subscriptions and the end of a store.
//!
//! Each suite is a small program of a few threads, run under hundreds of schedules (`crate::sync::explored`). A thread
//! that waits for ever is a deadlock, which the explorer reports with its schedule. What is asserted holds under every
//! schedule, so a schedule that breaks it is a bug and not bad luck.

mod appending;
mod awaiting;
mod closing;
mod failing;
mod following;
mod reading;
mod working;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::clock::ManualClock;
use crate::error::ExpectedVersion::{Any, NoStream};
use crate::randomness::SeededRandomness;
use crate::storage::{FaultyDisk, MemoryDisk};
use crate::sync::explored::shuttle;
use crate::sync::explored::thread::{JoinHandle, spawn};
use crate::types::Timestamp;

/// Deterministic, and without a thread of its own: a suite starts those that it is about.
fn options(durability: Durability) -> Options {
    let clock = ManualClock::new(Timestamp::from_millis(1_000));
    Options::new()
        .durability(durability)
        .without_background_work()
        .segment_bytes_first(64 * 1024)
        .clock(clock)
        .randomness(SeededRandomness::new(1))
}

/// Segments and windows as small as they can be: they fill within a few commits.
fn tiny(durability: Durability) -> Options {
    options(durability)
        .segment_bytes_first(4096)
        .segment_bytes_max(4096)
        .index_tail_bytes_max(512)
        .index_memory_bytes_max(1024)
}

fn open(disk: &FaultyDisk, options: Options) -> Store {
    Store::open_on(Arc::new(disk.clone()), options, true).unwrap()
}

fn in_memory(options: Options) -> (Store, FaultyDisk) {
    let disk = FaultyDisk::new(MemoryDisk::new());
    (open(&disk, options), disk)
}

/// An event whose payload says who made it.
fn event(payload: impl Into<String>) -> NewEvent {
    NewEvent::raw("Made", payload.into()).tag("t")
}

fn number(position: Option<Position>) -> u64 {
    position.map_or(0, Position::number)
}

/// Waits for all of them, each of which ends well.
fn join_all<T>(handles: impl IntoIterator<Item = JoinHandle<T>>) -> Vec<T> {
    handles.into_iter().map(|handle| handle.join().unwrap()).collect()
}

/// The payloads by position, of a log without gaps in which versions have none either.
fn contents(store: &Store) -> Vec<(String, String)> {
    let mut read = store.read(Query::all());
    let pinned = number(read.head());
    let (mut found, mut versions) = (Vec::new(), BTreeMap::new());
    while let Some(event) = read.next().unwrap() {
        let version = versions.entry(event.stream().to_owned()).or_insert(0);
        *version += 1;
        assert_eq!(event.version().number(), *version, "versions of a stream have no gaps");
        found.push((event.stream().to_owned(), String::from_utf8(event.payload().to_vec()).unwrap()));
        assert_eq!(event.position().number(), found.len() as u64, "positions have no gaps");
    }
    assert_eq!(found.len() as u64, pinned, "a read shows everything up to the head that it has pinned");
    found
}

/// What a loss of power leaves at this moment, opened.
fn after_power_cut(disk: &FaultyDisk, seed: u64) -> Store {
    let left = disk.power_cut(seed);
    Store::open_on(Arc::new(left), options(Durability::Synced), true).unwrap()
}
