//! What a history keeps beside the log: a value of the state, snapshots of streams, and the checkpoint of a subscription.

use std::time::Duration;

use super::super::{NewSnapshot, SnapshotQuery, Store};
use super::history::History;
use super::model::{STREAMS, stream_name};
use crate::error::{Error, Result};
use crate::storage::{Dice, Disk};
use crate::types::StreamVersion;
use crate::{Delivery, Item};

/// The second has the large values: so many, one after the other, fill more segments than a state has that is not
/// compacted.
const KEYS: [&str; 2] = ["key", "bulk"];
const LARGE_VALUES: u64 = 10;
const SUBSCRIPTION: &str = "consumer";

/// What is kept, and what it may be after a crash.
#[derive(Debug)]
pub(super) struct Beside {
    /// Many histories keep nothing: the log alone is faster.
    is_used: bool,
    /// The numbers of the values that each key may have; 0 is none. And that of the next.
    values: [Vec<u64>; 2],
    next: u64,
    /// Every event up to the first was acknowledged, and its checkpoint cannot be lost any more but with the power; none
    /// behind the second was.
    acknowledged: (u64, u64),
    /// The last compaction of the state did not come to its end.
    pub(super) is_interrupted: bool,
}

impl Beside {
    pub(super) fn new(dice: &mut Dice) -> Self {
        Self {
            is_used: dice.one_in(2),
            values: [vec![0], vec![0]],
            next: 1,
            acknowledged: (0, 0),
            is_interrupted: false,
        }
    }

    /// Checkpoints are handed to the operating system and not synced.
    pub(super) fn lose_power(&mut self) {
        self.acknowledged.0 = 0;
    }
}

impl History {
    /// What is kept agrees with the log, which is all of the model.
    pub(super) fn check_beside(&mut self, store: &Store) -> Result<()> {
        if !self.beside.is_used {
            return Ok(());
        }
        for slot in 0..KEYS.len() {
            let value = self.check_value(store, slot)?;
            self.beside.values[slot] = vec![value];
        }
        (0..STREAMS).try_for_each(|number| self.check_snapshot(store, &stream_name(number)))
    }

    /// The value of a key is the last one, or one in doubt behind it.
    fn check_value(&self, store: &Store, slot: usize) -> Result<u64> {
        let value = store.state()?.get(KEYS[slot])?.map_or(0, |value| number_of(&value));
        let values = &self.beside.values[slot];
        assert!(values.contains(&value), "{}: {:?} is {value}, not of {values:?}", self.context(), KEYS[slot]);
        Ok(value)
    }

    /// A snapshot is what the events of its stream amount to, those of this history of the log.
    fn check_snapshot(&self, store: &Store, stream: &str) -> Result<()> {
        let Some(snapshot) = store.load_snapshot(stream, SnapshotQuery::new())?.snapshot else { return Ok(()) };
        let version = snapshot.version.number();
        let context = format!("{}: the snapshot of {stream:?} at version {version}", self.context());
        assert!(version <= self.model.of_stream(stream).len() as u64, "{context} is ahead of the log");
        assert_eq!(snapshot.state, self.model.digest(stream, version), "{context} is of other events");
        Ok(())
    }

    pub(super) fn work_beside(&mut self, store: &Store) {
        match self.dice.below(4) {
            _ if !self.beside.is_used => {}
            0 | 1 => self.keep_values(store),
            2 => self.keep_snapshot(store),
            _ => self.consume(store),
        }
    }

    /// Puts a value or deletes it; or puts several large ones, so that the state is compacted, mostly with trouble.
    fn keep_values(&mut self, store: &Store) {
        match self.dice.below(4) {
            0 => self.keep_value(store, 0, Some(8)),
            1 => self.keep_value(store, 0, None),
            _ => {
                for _ in 0..LARGE_VALUES {
                    self.keep_value(store, 1, Some(self.segment_bytes as usize * 3 / 4));
                }
                self.compact(store);
            }
        }
        for slot in 0..KEYS.len() {
            let value = self.check_value(store, slot);
            self.allowed(value, "look up a value");
        }
    }

    fn compact(&mut self, store: &Store) {
        match self.dice.below(6) {
            0 => {}
            1 | 2 => self.plan_fault(),
            3 => self.lose_power_within(40),
            _ => self.lose_power_within(10),
        }
        let maintained = store.maintain();
        self.beside.is_interrupted = maintained.is_err();
        self.note_durable(maintained, "maintain");
    }

    /// Puts a value of so many bytes, or deletes it.
    fn keep_value(&mut self, store: &Store, slot: usize, bytes: Option<usize>) {
        let number = bytes.map_or(0, |_| self.beside.next);
        self.beside.next += 1;
        let kept = store.state().and_then(|state| match bytes {
            Some(bytes) => state.put(KEYS[slot], value_of(number, bytes)).map(drop),
            None => state.delete(KEYS[slot]).map(drop),
        });
        match kept {
            Ok(()) => self.beside.values[slot] = vec![number],
            Err(error) => {
                if matches!(error, Error::Indeterminate { .. }) {
                    self.beside.values[slot].push(number);
                }
                self.allowed(Err::<(), Error>(error), "keep state");
            }
        }
    }

    /// Whether the oldest segments of the state were removed.
    pub(super) fn count_compaction(&mut self, disk: &dyn Disk) {
        let names = disk.list("state/log").unwrap_or_default();
        let is_compacted = !names.is_empty() && !names.iter().any(|name| name == "0000000001.segment");
        self.counts.compacted += u64::from(is_compacted);
    }

    fn keep_snapshot(&mut self, store: &Store) {
        let stream = stream_name(self.dice.below(STREAMS));
        let Some(version) = self.allowed(store.version(&stream), "ask for a version").flatten() else { return };
        let state = self.model.digest(&stream, StreamVersion::number(version));
        let saved = store.save_snapshot(&NewSnapshot::raw(stream, version, state));
        self.counts.snapshots += u64::from(self.allowed(saved, "save a snapshot") == Some(true));
        // Synced, as the snapshot before it is then: it may outlive its events.
        if self.dice.one_in(2) {
            self.keep_values(store);
        }
    }

    /// Takes a few events of a subscription, and acknowledges some of them.
    fn consume(&mut self, store: &Store) {
        let opened = store.subscribe(SUBSCRIPTION).open();
        let Some(mut subscription) = self.allowed(opened, "subscribe") else { return };
        let mut deliveries: Vec<Delivery> = Vec::new();
        for _ in 0..=self.dice.below(8) {
            let next = subscription.next_within(Duration::ZERO);
            match self.allowed(next, "take the next event").flatten() {
                Some(Item::Event(delivery)) => {
                    self.check_delivery(&delivery, deliveries.last());
                    deliveries.push(delivery);
                }
                Some(Item::CaughtUp) => {}
                None => break,
            }
        }
        let acknowledged = self.dice.below(deliveries.len() as u64 + 1) as usize;
        for delivery in deliveries.drain(..acknowledged) {
            let position = delivery.position.number();
            self.beside.acknowledged.1 = self.beside.acknowledged.1.max(position);
            if self.allowed(delivery.ack(), "acknowledge").is_none() {
                return;
            }
            self.beside.acknowledged.0 = position;
            self.counts.acknowledged += 1;
        }
    }

    /// No event is passed over, and none comes again whose acknowledgement was saved.
    fn check_delivery(&self, delivery: &Delivery, before: Option<&Delivery>) {
        let context = format!("{}: delivered {}", self.context(), delivery.position);
        let position = delivery.position.number();
        let (kept, last) = self.beside.acknowledged;
        let follows = match before {
            Some(before) => position == before.position.number() + 1,
            None => (kept + 1..=last + 1).contains(&position),
        };
        assert!(follows, "{context}, behind {kept} to {last}");
        assert!(self.model.at(position).is_some_and(|sent| sent.is(delivery)), "{context}: {delivery:?}");
    }
}

/// A value of the state: its number, and as many bytes as it has to have.
fn value_of(number: u64, bytes: usize) -> Vec<u8> {
    let mut value = vec![number as u8; bytes];
    value[..8].copy_from_slice(&number.to_le_bytes());
    value
}

/// The number of a value, which is as it was put.
fn number_of(value: &[u8]) -> u64 {
    let number = u64::from_le_bytes(value[..8].try_into().unwrap());
    assert_eq!(value, value_of(number, value.len()), "a value that was never put");
    number
}
