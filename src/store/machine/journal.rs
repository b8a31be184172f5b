//! What the state beside the log should hold: the list of its writes.
//!
//! State has a log of its own, so that a crash leaves a beginning of what was written: so many writes are certain, and
//! which of those behind them are there shows when the state is opened.

use std::collections::BTreeMap;

use super::model::Place;
use crate::format::snapshot::SnapshotHeader;

/// A value of a key.
#[derive(Debug, Clone)]
pub(super) struct Value {
    /// `None` for one that nobody has seen yet: of a write that is in doubt, or could not be read back.
    pub(super) bytes: Option<Vec<u8>>,
    pub(super) meaning: Meaning,
}

impl Value {
    /// Whether these bytes are the value, as far as is known of one that nobody has seen.
    fn may_be(&self, bytes: &[u8]) -> bool {
        match (&self.bytes, &self.meaning) {
            (Some(own), _) => own == bytes,
            (None, Meaning::Plain) => true,
            (None, Meaning::Snapshot { version, schema, .. }) => SnapshotHeader::decode(bytes)
                .is_ok_and(|(header, _)| (header.version, header.schema) == (*version, *schema)),
            (None, Meaning::Checkpoint(place)) => {
                let saved: serde_json::Value = serde_json::from_slice(bytes).unwrap_or_default();
                saved["subscription"]["position"].as_u64() == place.as_ref().map(|place| place.position)
            }
        }
    }
}

#[derive(Debug, Clone)]
pub(super) enum Meaning {
    Plain,
    Snapshot {
        version: u64,
        schema: u64,
        place: Place,
    },
    /// Without a place for the beginning of the log.
    Checkpoint(Option<Place>),
}

/// Keys with their new values; without for a deletion.
pub(super) type Write = Vec<(String, Option<Value>)>;
pub(super) type Values = BTreeMap<String, Value>;

#[derive(Debug, Default)]
pub(super) struct Journal {
    writes: Vec<Write>,
    /// So many of the writes are visible, and there after a kill.
    visible: usize,
    /// So many of them are there after a loss of power.
    synced: usize,
}

impl Journal {
    /// What is visible.
    pub(super) fn values(&self) -> Values {
        self.values_at(self.visible)
    }

    pub(super) fn value(&self, key: &str) -> Option<Value> {
        self.values().remove(key)
    }

    fn values_at(&self, count: usize) -> Values {
        let mut values = Values::new();
        for (key, value) in self.writes[..count].iter().flatten() {
            match value {
                Some(value) => drop(values.insert(key.clone(), value.clone())),
                None => drop(values.remove(key)),
            }
        }
        values
    }

    pub(super) fn write(&mut self, write: Write) {
        assert_eq!(self.visible, self.writes.len(), "nothing is written behind what is in doubt");
        self.writes.push(write);
        self.visible = self.writes.len();
    }

    /// A write of which it is unknown whether it was made.
    pub(super) fn doubt(&mut self, write: Write) {
        self.writes.push(write);
    }

    /// Everything that is visible is durable.
    pub(super) fn sync(&mut self) {
        self.synced = self.visible;
    }

    pub(super) fn lose_power(&mut self) {
        self.visible = self.visible.min(self.synced);
    }

    /// Holds what was found against every state that there may be, and goes on with the first that it is. What an open
    /// shows is durable.
    pub(super) fn recover(&mut self, found: &BTreeMap<String, Vec<u8>>) {
        let counts = self.visible..=self.writes.len();
        let count = counts.clone().find(|count| is_like(&self.values_at(*count), found));
        let Some(count) = count else { panic!("state {found:?} is none of {counts:?} of {self:?}") };
        self.writes.truncate(count);
        for (key, value) in self.writes.last_mut().into_iter().flatten() {
            if let Some(Value { bytes: bytes @ None, .. }) = value {
                *bytes = found.get(key).cloned();
            }
        }
        (self.visible, self.synced) = (count, count);
    }

    /// Of how many writes, and no fewer than `least`, a reader beside shows the state; of the fewest if of several.
    pub(super) fn shown(&self, found: &BTreeMap<String, Vec<u8>>, least: usize) -> Option<usize> {
        (least..=self.writes.len()).find(|count| is_like(&self.values_at(*count), found))
    }

    /// Of how many writes the state is known to be durable.
    pub(super) fn synced(&self) -> usize {
        self.synced
    }
}

/// Whether what was found is what should be there.
fn is_like(values: &Values, found: &BTreeMap<String, Vec<u8>>) -> bool {
    values.len() == found.len()
        && values.iter().zip(found).all(|((key, value), (found_key, bytes))| key == found_key && value.may_be(bytes))
}

/// Whether what is visible is what should be.
pub(super) fn assert_like(journal: &Journal, found: &BTreeMap<String, Vec<u8>>) {
    let values = journal.values();
    assert!(is_like(&values, found), "state is {found:?}, expected {values:?}");
}
