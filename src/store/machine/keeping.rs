//! What is kept beside the log: values by key, and snapshots.

use super::check;
use super::journal::{Meaning, Value, Write, assert_like};
use super::model::Standing;
use super::operation::{BatchSpec, STREAMS};
use super::world::World;
use crate::error::{Error, Result};
use crate::storage::Dice;
use crate::store::snapshot::key_of;
use crate::store::{NewSnapshot, Snapshot, SnapshotQuery, State, StateBatch, StateWritten, Store};
use crate::types::{Durability, StreamVersion};

/// So many values of this size, one after the other, fill more segments than a state has that is not compacted.
const WEARING_WRITES: usize = 12;
const WEARING_BYTES: usize = 4000;

impl World {
    // --- Values by key ---

    /// Finds out what a crash has left of the state.
    pub(super) fn settle_state(&mut self, store: &Store) -> Result<()> {
        let found = check::values(&store.state()?)?;
        self.journal.recover(&found);
        Ok(())
    }

    pub(super) fn put(&mut self, store: &Store, spec: &BatchSpec) {
        let Some(state) = self.excused(store.state(), "open the state") else { return };
        let (mut batch, mut write) = (StateBatch::new(), Write::new());
        for (key, bytes) in &spec.changes {
            let Some(bytes) = bytes else {
                batch = batch.delete(*key);
                write.push(((*key).to_owned(), None));
                continue;
            };
            self.drawn += 1;
            let mut value = vec![0; *bytes];
            Dice::new(self.drawn).fill(&mut value, usize::MAX);
            batch = batch.put(*key, value.as_slice());
            write.push(((*key).to_owned(), Some(Value { bytes: Some(value), meaning: Meaning::Plain })));
        }
        let mut is_expected = true;
        if let Some((key, wanted)) = spec.expected {
            let current = state.versioned(key).map(|value| value.map(|value| value.version));
            let Some(current) = self.excused(current, "look up a version") else { return };
            let other = if current.is_some() { None } else { self.old_version };
            is_expected = wanted || other == current;
            batch = batch.expect(key, if is_expected { current } else { other });
        }
        if let Some(durability) = spec.durability {
            batch = batch.durability(durability);
        }
        let written = state.write(batch);
        if let Err(Error::Conflict(_)) = &written {
            assert!(!is_expected, "{spec:?} is a conflict");
            return;
        }
        assert!(is_expected || written.is_err(), "{spec:?} is no conflict");
        let durability = spec.durability.unwrap_or(self.durability());
        if let Some(written) = self.note_write(written, write, durability) {
            self.look_at_state(&state, &written, spec);
        }
    }

    /// Changes a value until there are segments enough to be compacted.
    pub(super) fn wear(&mut self, store: &Store, key: &'static str) {
        for _ in 0..WEARING_WRITES {
            let changes = vec![(key, Some(WEARING_BYTES))];
            self.put(store, &BatchSpec { changes, expected: None, durability: Some(Durability::Os) });
        }
        self.note_all_durable(store.maintain(), "compact");
    }

    /// Takes what was written, or may be.
    pub(super) fn note_write<T>(&mut self, result: Result<T>, write: Write, durability: Durability) -> Option<T> {
        match result {
            Ok(written) => {
                self.journal.write(write);
                if durability == Durability::Synced {
                    self.journal.sync();
                }
                self.counts.state_writes += 1;
                Some(written)
            }
            Err(Error::Indeterminate { .. }) if self.is_troubled => {
                self.journal.doubt(write);
                self.counts.doubts += 1;
                None
            }
            Err(error) => self.excused(Err(error), "write to the state"),
        }
    }

    fn look_at_state(&mut self, state: &State, written: &StateWritten, spec: &BatchSpec) {
        let found = check::values(state);
        if let Some(found) = self.excused(found, "look at the state") {
            assert_like(&self.journal, &found);
        }
        let listed = state.keys("job-");
        if let Some(listed) = self.excused(listed, "list keys") {
            let values = self.journal.values();
            assert_eq!(listed, values.into_keys().filter(|key| key.starts_with("job-")).collect::<Vec<_>>());
        }
        for (key, _) in &spec.changes {
            let version = state.versioned(key).map(|value| value.map(|value| value.version));
            let Some(version) = self.excused(version, "look up a version") else { return };
            assert_eq!(version, written.version_of(key), "the version of {key:?}");
            self.old_version = version.or(self.old_version);
        }
    }

    pub(super) fn sync_state(&mut self, store: &Store) {
        let synced = store.state().and_then(|state| state.sync());
        if self.excused(synced, "sync the state").is_some() {
            self.journal.sync();
        }
    }

    // --- Snapshots ---

    pub(super) fn save_snapshot(&mut self, store: &Store, stream: &'static str, back: i64, schema: u64) {
        let head = self.model.version(stream);
        let version = match head.checked_add_signed(-back) {
            Some(version) if version > 0 => version,
            _ => head + 1,
        };
        let key = key_of(stream);
        let newest = self.journal.value(&key).map(|value| value.meaning);
        let rival = match newest {
            Some(Meaning::Snapshot { version: own, schema: other, place }) if own > version && other == schema => {
                self.model.standing(&place)
            }
            _ => Standing::Other,
        };
        let new = StreamVersion::new(version).expect("versions count from 1");
        let saved =
            store.save_snapshot(&NewSnapshot::raw(stream, new, self.model.fold(stream, version)).schema(schema));
        let Some(place) = self.model.place_of_version(stream, version) else {
            let refused = matches!(&saved, Err(error) if matches!(error, Error::Invalid(_)) || self.excuses(error));
            assert!(refused, "a snapshot of version {version} of {head} of {stream:?}: {saved:?}");
            return;
        };
        if matches!(saved, Ok(false)) {
            assert_ne!(rival, Standing::Other, "a snapshot of {stream:?} gave way to none");
            return;
        }
        assert!(rival != Standing::Same || saved.is_err(), "a snapshot of {stream:?} has replaced a newer one");
        let bytes = store.state().and_then(|state| state.get(&key)).unwrap_or_default();
        let bytes = if saved.is_ok() { bytes } else { None };
        let value = Value { bytes, meaning: Meaning::Snapshot { version, schema, place } };
        self.note_write(saved, vec![(key, Some(value))], Durability::Os);
    }

    pub(super) fn load_snapshot(&mut self, store: &Store, stream: &str, back: Option<u64>, schema: u64) {
        let upto = back.map(|back| self.model.version(stream).saturating_sub(back));
        let looked = self.check_snapshot(store, stream, upto, schema);
        self.excused(looked, "load a snapshot");
    }

    pub(super) fn check_snapshots(&self, store: &Store) -> Result<()> {
        for stream in STREAMS {
            self.check_snapshot(store, stream, None, 0)?;
            self.check_snapshot(store, stream, None, 1)?;
        }
        Ok(())
    }

    /// A snapshot that is found is what the stream amounts to, and the newest is found if it is of this history.
    fn check_snapshot(&self, store: &Store, stream: &str, upto: Option<u64>, schema: u64) -> Result<()> {
        let query = SnapshotQuery::new().schema(schema).upto(upto.and_then(StreamVersion::new));
        let lookup = store.load_snapshot(stream, query)?;
        let bound = upto.filter(|upto| *upto > 0);
        if let Some(Snapshot { version, position, state, schema: found, .. }) = &lookup.snapshot {
            assert_eq!(*state, self.model.fold(stream, version.number()), "version {version} of {stream:?}");
            assert!(bound.is_none_or(|upto| version.number() <= upto) && *found == schema);
            let event = self.model.at(position.number());
            assert_eq!((event.stream, event.version), (stream, version.number()), "the place of a snapshot");
        }
        let newest = self.journal.value(&key_of(stream)).map(|value| value.meaning);
        let Some(Meaning::Snapshot { version, schema: own, place }) = newest else {
            assert!(lookup.snapshot.is_none(), "a snapshot of {stream:?} that was not saved, or was deleted");
            return Ok(());
        };
        let is_wanted = own == schema && bound.is_none_or(|upto| version <= upto);
        if is_wanted && self.model.standing(&place) == Standing::Same && !self.is_troubled {
            let found = lookup.snapshot.map(|snapshot| snapshot.version.number());
            assert_eq!(found, Some(version), "the newest snapshot of {stream:?}, {:?}", lookup.ignored);
        }
        Ok(())
    }

    pub(super) fn delete_snapshot(&mut self, store: &Store, stream: &str) {
        let key = key_of(stream);
        let deleted = store.delete_snapshot(stream);
        self.note_deletion(deleted, key, self.durability());
    }

    /// What has no value is not deleted: nothing is written then.
    pub(super) fn note_deletion(&mut self, deleted: Result<()>, key: String, durability: Durability) {
        if deleted.is_ok() && self.journal.value(&key).is_none() {
            return;
        }
        self.note_write(deleted, vec![(key, None)], durability);
    }
}
