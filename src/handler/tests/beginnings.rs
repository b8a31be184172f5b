//! Where a handler begins that does not begin at the beginning: a loss of power does not change it.

use std::sync::mpsc;

use super::*;
use crate::storage::{Disk, FaultyDisk};

/// What a loss of power may leave of a store.
const CUTS: u64 = 24;

fn open(disk: impl Disk + 'static, durability: Durability) -> Store {
    let options = Options::new().durability(durability).without_background_work();
    Store::open_on(Arc::new(disk), options, true).unwrap()
}

/// A reactor that handles nothing before the gate is dropped.
fn start_gated(store: &Store, begin: fn(&Store, Reactor) -> Reactor) -> (HandlerHandle, mpsc::Sender<()>) {
    let (gate, waits) = mpsc::channel::<()>();
    let reactor = store.react("mailer", move |_| {
        // It fails when the gate is gone, and that is when it may go on.
        let _ = waits.recv();
        Ok(())
    });
    (begin(store, reactor).start().unwrap(), gate)
}

/// The positions that a reactor sees of what is there.
fn seen(store: &Store, begin: fn(&Store, Reactor) -> Reactor) -> Vec<u64> {
    let (sender, seen) = mpsc::channel();
    let reactor = store.react("mailer", move |event| Ok(sender.send(event.position().number())?));
    let mailer = begin(store, reactor).start().unwrap();
    mailer.wait_for(store.head().unwrap().unwrap()).unwrap();
    mailer.stop().unwrap();
    seen.try_iter().collect()
}

fn from_end(_: &Store, reactor: Reactor) -> Reactor {
    reactor
}

fn after_head(store: &Store, reactor: Reactor) -> Reactor {
    reactor.after(store.head().unwrap().unwrap())
}

#[test]
fn a_reactor_sees_what_was_appended_after_its_first_start_though_the_power_failed_before_it_could() {
    for begin in [from_end, after_head] {
        let disk = FaultyDisk::new(MemoryDisk::new());
        let store = open(disk.clone(), Durability::Synced);
        append(&store, "a", 1);
        let (mailer, gate) = start_gated(&store, begin);
        append(&store, "a", 1);
        for seed in 0..CUTS {
            assert_eq!(seen(&open(disk.power_cut(seed), Durability::Synced), begin), [2], "seed {seed}");
        }
        drop(gate);
        mailer.stop().unwrap();
    }
}

#[test]
fn where_a_reactor_goes_on_that_would_begin_at_the_end_otherwise_is_not_lost_with_the_power() {
    let disk = FaultyDisk::new(MemoryDisk::new());
    let store = open(disk.clone(), Durability::Synced);
    append(&store, "a", 1);
    assert_eq!(seen(&store, |_, reactor| reactor.from_start()), [1]);
    let (mailer, gate) = start_gated(&store, from_end);
    append(&store, "a", 1);
    for seed in 0..CUTS {
        assert_eq!(seen(&open(disk.power_cut(seed), Durability::Synced), from_end), [2], "seed {seed}");
    }
    drop(gate);
    mailer.stop().unwrap();
}

#[test]
fn a_handler_that_begins_behind_what_is_not_synced_starts_again_after_a_loss_of_power() {
    let begins: [fn(Reactor) -> Reactor; 2] = [|reactor| reactor, |reactor| reactor.after(Position::FIRST)];
    for begin in begins {
        let disk = FaultyDisk::new(MemoryDisk::new());
        let store = open(disk.clone(), Durability::Os);
        append(&store, "a", 1);
        let react = |store: &Store| begin(store.react("mailer", |_| Ok(())).upto(crate::Horizon::Visible)).start();
        let _waits = react(&store).unwrap();
        for seed in 0..CUTS {
            let left = open(disk.power_cut(seed), Durability::Os);
            let again = react(&left).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            again.stop().unwrap();
            let saved = Checkpoint::load(&left, "mailer").unwrap().unwrap();
            assert_eq!(saved.position(), Some(Position::FIRST), "seed {seed}");
        }
    }
}

#[test]
fn a_handler_that_was_forgotten_does_not_come_back_with_the_power() {
    let disk = FaultyDisk::new(MemoryDisk::new());
    let store = open(disk.clone(), Durability::Os);
    append(&store, "a", 1);
    store.sync().unwrap();
    assert_eq!(seen(&store, |_, reactor| reactor.from_start()), [1]);
    store.state().unwrap().sync().unwrap();
    store.forget_handler("mailer").unwrap();
    for seed in 0..CUTS {
        let left = open(disk.power_cut(seed), Durability::Os);
        assert_eq!(left.handlers().unwrap(), [], "seed {seed}");
        assert_eq!(seen(&left, |_, reactor| reactor.from_start()), [1], "seed {seed}");
    }
}
