//! Where the state of a projection is kept in the state of the store, and how one save is one step.
//!
//! Everything lies under a *generation*, a number that is part of the keys; the manifest says which one counts. So a
//! model can be written anew beside the one that counts, and takes its place with one small batch. What no generation
//! claims is deleted afterwards.
//!
//! A save that fits into one batch is atomic as that batch is. A larger one sets a mark with its first batch and removes
//! it with its last: where the mark is found, the save was torn, and the projection is rebuilt from its events.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::RebuildCause;
use super::model::{self, Changes, PartKey, PartName, ReadModel, SavedParts, ValueHashes};
use crate::error::Result;
use crate::limits::{COMMIT_BYTES_MAX, EVENTS_PER_COMMIT_MAX};
use crate::sabotage::{Sabotage, sabotaged};
use crate::types::Position;
use crate::{Checkpoint, Durability, State, StateBatch, Store};

/// What a batch holds at most, so that the checkpoint and the manifest always fit into the last one.
const BATCH_BYTES_MAX: usize = COMMIT_BYTES_MAX / 4 * 3;
const BATCH_CHANGES_MAX: usize = EVENTS_PER_COMMIT_MAX / 4 * 3;
/// What a change takes besides its key and value, at most.
const CHANGE_BYTES: usize = 192;

/// The generation of a manifest that nothing was saved under yet.
const NONE: u64 = 0;

/// What counts of what is saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Manifest {
    /// That of the projection's logic.
    version: u32,
    generation: u64,
    parts: Vec<PartName>,
    /// Generations of which something may be left.
    #[serde(default)]
    garbage: Vec<u64>,
}

/// What is known to be saved of a projection.
#[derive(Debug)]
pub(super) struct Ledger {
    state: State,
    name: String,
    manifest: Manifest,
    /// Whether the manifest is saved as it is.
    manifest_is_saved: bool,
    hashes: ValueHashes,
    /// The generation that is being written beside the one that counts: it is no garbage yet.
    beside: Option<u64>,
    /// The position of the checkpoint that was saved last.
    pub(super) position: Option<Position>,
    /// How many dead letters were retried, of those that are saved.
    pub(super) retried: u64,
}

/// What loading found.
pub(super) struct Loaded {
    pub(super) ledger: Ledger,
    pub(super) checkpoint: Option<Checkpoint>,
    /// Why the projection begins anew although something was saved.
    pub(super) cause: Option<RebuildCause>,
}

impl Ledger {
    /// Loads what was saved into `model`; if it cannot be used, the model is left as it is or half loaded, and a cause is
    /// told.
    pub(super) fn load(store: &Store, name: &str, version: u32, model: &mut impl ReadModel) -> Result<Loaded> {
        let parts = model::names(model)?;
        let state = store.state()?;
        let manifest = Manifest { version, generation: 1, parts, garbage: Vec::new() };
        let fresh = Self {
            state,
            name: name.to_owned(),
            manifest,
            manifest_is_saved: false,
            hashes: ValueHashes::new(),
            beside: None,
            position: None,
            retried: 0,
        };
        fresh.load_into(store, model)
    }

    fn load_into(mut self, store: &Store, model: &mut impl ReadModel) -> Result<Loaded> {
        let Some(bytes) = self.state.get(&self.manifest_key())? else {
            return Ok(Loaded { ledger: self, checkpoint: None, cause: None });
        };
        let Ok(found) = serde_json::from_slice::<Manifest>(&bytes) else {
            let cause = RebuildCause::Unreadable { reason: "the manifest of the projection cannot be decoded".into() };
            self.manifest.garbage = self.generations()?;
            return Ok(self.begin_anew(cause));
        };
        if found.generation == NONE {
            self.manifest.generation = found.garbage.iter().max().map_or(1, |last| last + 1);
            self.manifest.garbage = found.garbage;
            return Ok(Loaded { ledger: self, checkpoint: None, cause: None });
        }
        let wanted = std::mem::replace(&mut self.manifest, found);
        match self.load_parts(store, &wanted, model)? {
            Ok(checkpoint) => {
                self.position = checkpoint.position();
                self.manifest_is_saved = true;
                Ok(Loaded { ledger: self, checkpoint: Some(checkpoint), cause: None })
            }
            Err(cause) => {
                self.manifest.version = wanted.version;
                self.manifest.parts = wanted.parts;
                Ok(self.begin_anew(cause))
            }
        }
    }

    /// The checkpoint, or why what was saved cannot be used.
    fn load_parts(
        &mut self,
        store: &Store,
        wanted: &Manifest,
        model: &mut impl ReadModel,
    ) -> Result<Result<Checkpoint, RebuildCause>> {
        let found = &self.manifest;
        if found.version != wanted.version {
            return Ok(Err(RebuildCause::NewVersion { saved: found.version, current: wanted.version }));
        }
        if found.parts != wanted.parts {
            return Ok(Err(RebuildCause::OtherParts));
        }
        if self.state.get(&self.torn_key())?.is_some() {
            return Ok(Err(RebuildCause::TornSave));
        }
        let Some(checkpoint) = Checkpoint::load(store, &self.name)? else {
            return Ok(Err(RebuildCause::Unreadable { reason: "there is no checkpoint beside the state".into() }));
        };
        match model::load(model, self.saved_parts()?) {
            Ok(hashes) => self.hashes = hashes,
            Err(error) => return Ok(Err(RebuildCause::Unreadable { reason: error.to_string() })),
        }
        Ok(Ok(checkpoint))
    }

    fn saved_parts(&self) -> Result<SavedParts> {
        let prefix = self.prefix(self.manifest.generation);
        let mut saved = BTreeMap::new();
        for key in self.state.keys(&prefix)? {
            if let (Some(place), Some(bytes)) = (part_key(&key[prefix.len()..]), self.state.get(&key)?) {
                saved.insert(place, bytes);
            }
        }
        Ok(SavedParts { saved, hashes: ValueHashes::new() })
    }

    fn begin_anew(mut self, cause: RebuildCause) -> Loaded {
        self.abandon();
        Loaded { ledger: self, checkpoint: None, cause: Some(cause) }
    }

    /// Nothing that is saved counts any more, as soon as something else is saved.
    pub(super) fn abandon(&mut self) {
        let generation = self.manifest.generation;
        if !self.manifest.garbage.contains(&generation) {
            self.manifest.garbage.push(generation);
        }
        self.manifest.generation = self.manifest.garbage.iter().max().map_or(1, |last| last + 1);
        self.manifest_is_saved = false;
        self.hashes.clear();
    }

    /// Nothing that is saved counts any more, whatever version looks at it: what this one was abandoned for goes for all.
    pub(super) fn forget(&self) -> Result<()> {
        let manifest = Manifest { generation: NONE, ..self.manifest.clone() };
        self.state.write(StateBatch::new().put(self.manifest_key(), encode(&manifest)?).durability(Durability::Os))?;
        Ok(())
    }

    /// Takes the place of this one, as what was loaded again.
    pub(super) fn replace(&mut self, loaded: Self) {
        let (retried, beside) = (self.retried, self.beside);
        *self = Self { beside, retried, ..loaded };
    }

    /// What there is to save of a model.
    pub(super) fn collect(&self, model: &mut impl ReadModel) -> Result<Changes> {
        model::collect(model, &self.hashes)
    }

    /// Saves changes and the checkpoint in one step.
    pub(super) fn save(&mut self, changes: Changes, checkpoint: &Checkpoint) -> Result<()> {
        if sabotaged(Sabotage::CheckpointBeforeView) {
            self.state.write(checkpoint.add_to(StateBatch::new()))?;
        }
        self.write(changes.changes, checkpoint.add_to(StateBatch::new()))?;
        self.hashes.extend(changes.hashes);
        self.position = checkpoint.position();
        self.delete_garbage();
        Ok(())
    }

    fn write(&mut self, changes: Vec<(PartKey, Option<Vec<u8>>)>, last: StateBatch) -> Result<()> {
        let mut batches = self.batches(self.manifest.generation, changes);
        let mut last = batches.pop().unwrap_or_default().add_to(last);
        if !batches.is_empty() {
            if self.manifest_is_saved {
                self.state.write(StateBatch::new().put(self.torn_key(), "").durability(Durability::Os))?;
                last = last.delete(self.torn_key());
            } else {
                self.announce(self.manifest.generation)?;
            }
        }
        for batch in batches {
            self.state.write(batch.add_to(StateBatch::new()))?;
        }
        if !self.manifest_is_saved {
            last = last.put(self.manifest_key(), encode(&self.manifest)?).delete(self.torn_key());
        }
        self.state.write(last.durability(Durability::Os))?;
        self.manifest_is_saved = true;
        Ok(())
    }

    /// Says that something will be written under a generation that does not count, so that it is deleted if it never
    /// will.
    fn announce(&self, generation: u64) -> Result<()> {
        let saved = self.state.get(&self.manifest_key())?;
        let saved = saved.and_then(|bytes| serde_json::from_slice::<Manifest>(&bytes).ok());
        let mut manifest = saved.unwrap_or_else(|| Manifest { generation: NONE, ..self.manifest.clone() });
        manifest.garbage.push(generation);
        self.state.write(StateBatch::new().put(self.manifest_key(), encode(&manifest)?).durability(Durability::Os))?;
        Ok(())
    }

    fn batches(&self, generation: u64, changes: Vec<(PartKey, Option<Vec<u8>>)>) -> Vec<Batch> {
        batches(&self.prefix(generation), changes)
    }

    /// Deletes what is left of other generations. What cannot be deleted now is still known to be left after a restart.
    fn delete_garbage(&mut self) {
        let is_garbage = |generation: &u64| self.beside != Some(*generation);
        let (garbage, kept): (Vec<u64>, Vec<u64>) = self.manifest.garbage.iter().partition(|&it| is_garbage(it));
        if !garbage.is_empty() && self.try_delete(&garbage, &kept).is_ok() {
            self.manifest.garbage = kept;
        }
    }

    fn try_delete(&self, garbage: &[u64], kept: &[u64]) -> Result<()> {
        for generation in garbage {
            let keys = self.state.keys(&self.prefix(*generation))?;
            for keys in keys.chunks(BATCH_CHANGES_MAX) {
                let batch = keys.iter().fold(StateBatch::new(), StateBatch::delete);
                self.state.write(batch.durability(Durability::Os))?;
            }
        }
        let manifest = Manifest { garbage: kept.to_vec(), ..self.manifest.clone() };
        self.state.write(StateBatch::new().put(self.manifest_key(), encode(&manifest)?).durability(Durability::Os))?;
        Ok(())
    }

    /// The generations that there is anything of.
    fn generations(&self) -> Result<Vec<u64>> {
        let prefix = format!("projection.{}/", self.name);
        let keys = self.state.keys(&prefix)?;
        let numbers = keys.iter().filter_map(|key| key[prefix.len()..].split_once('-')?.0.parse().ok());
        let mut numbers: Vec<u64> = numbers.collect();
        numbers.sort_unstable();
        numbers.dedup();
        Ok(numbers)
    }

    fn manifest_key(&self) -> String {
        format!("projection-{}", self.name)
    }

    fn torn_key(&self) -> String {
        format!("projection-{}/saving", self.name)
    }

    fn prefix(&self, generation: u64) -> String {
        format!("projection.{}/{generation}-", self.name)
    }
}

/// A model that is written beside the one that counts.
#[derive(Debug)]
pub(super) struct Beside {
    generation: u64,
    hashes: ValueHashes,
}

impl Beside {
    pub(super) fn hashes(&self) -> &ValueHashes {
        &self.hashes
    }
}

impl Ledger {
    /// Whether anything is saved. If not, there is nothing that a model could be written beside.
    pub(super) fn is_saved(&self) -> bool {
        self.manifest_is_saved
    }

    /// Begins to write a model beside the one that counts.
    pub(super) fn begin_beside(&mut self) -> Result<Beside> {
        let generation = 1 + self.manifest.garbage.iter().fold(self.manifest.generation, |a, b| a.max(*b));
        self.announce(generation)?;
        self.manifest.garbage.push(generation);
        self.beside = Some(generation);
        Ok(Beside { generation, hashes: ValueHashes::new() })
    }

    /// Gives the model beside up, if there is one: what was written of it goes with the next save.
    pub(super) fn give_up_beside(&mut self) {
        self.beside = None;
    }

    /// Writes changes of the model beside, which needs no step of its own: it does not count yet.
    pub(super) fn write_beside(&self, beside: &mut Beside, changes: Changes) -> Result<()> {
        for batch in self.batches(beside.generation, changes.changes) {
            if !batch.changes.is_empty() {
                self.state.write(batch.add_to(StateBatch::new()).durability(Durability::Os))?;
            }
        }
        beside.hashes.extend(changes.hashes);
        Ok(())
    }

    /// Makes the model beside the one that counts. It must be that of the checkpoint that was saved last.
    pub(super) fn swap(&mut self, beside: Beside) -> Result<()> {
        let mut manifest = self.manifest.clone();
        manifest.garbage.retain(|generation| *generation != beside.generation);
        manifest.garbage.push(manifest.generation);
        manifest.generation = beside.generation;
        let batch = StateBatch::new().put(self.manifest_key(), encode(&manifest)?).delete(self.torn_key());
        self.state.write(batch)?;
        self.manifest = manifest;
        self.manifest_is_saved = true;
        self.beside = None;
        self.hashes = beside.hashes;
        self.delete_garbage();
        Ok(())
    }
}

#[derive(Debug, Default)]
struct Batch {
    changes: Vec<(String, Option<Vec<u8>>)>,
    bytes: usize,
}

impl Batch {
    fn is_full_with(&self, bytes: usize) -> bool {
        !self.changes.is_empty() && (self.bytes + bytes > BATCH_BYTES_MAX || self.changes.len() >= BATCH_CHANGES_MAX)
    }

    fn add_to(self, batch: StateBatch) -> StateBatch {
        self.changes.into_iter().fold(batch.durability(Durability::Os), |batch, (key, bytes)| match bytes {
            Some(bytes) => batch.put(key, bytes),
            None => batch.delete(key),
        })
    }
}

/// Changes in as many batches as they take, at least one.
fn batches(prefix: &str, changes: Vec<(PartKey, Option<Vec<u8>>)>) -> Vec<Batch> {
    let mut batches = vec![Batch::default()];
    for (place, bytes) in changes {
        let key = place.under(prefix);
        let size = key.len() + bytes.as_ref().map_or(0, Vec::len) + CHANGE_BYTES;
        if batches.last().is_none_or(|batch| batch.is_full_with(size)) {
            batches.push(Batch::default());
        }
        if let Some(batch) = batches.last_mut() {
            batch.bytes += size;
            batch.changes.push((key, bytes));
        }
    }
    batches
}

impl PartKey {
    fn under(&self, prefix: &str) -> String {
        match self.number {
            Some(number) => format!("{prefix}{}/{number}", self.part),
            None => format!("{prefix}{}", self.part),
        }
    }
}

fn part_key(text: &str) -> Option<PartKey> {
    match text.split_once('/') {
        None => Some(PartKey { part: text.to_owned(), number: None }),
        Some((part, number)) => Some(PartKey { part: part.to_owned(), number: Some(number.parse().ok()?) }),
    }
}

fn encode(manifest: &Manifest) -> Result<Vec<u8>> {
    serde_json::to_vec(manifest).map_err(|error| crate::Error::Codec {
        what: "cannot save the manifest of a projection".into(),
        reason: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(changes: usize, bytes: usize) -> Vec<usize> {
        let key = |number| PartKey { part: "rows".into(), number: Some(number as u64) };
        let changes = (0..changes).map(|number| (key(number), Some(vec![0; bytes]))).collect();
        batches("prefix-", changes).iter().map(|batch| batch.changes.len()).collect()
    }

    #[test]
    fn a_batch_holds_so_many_changes_and_bytes_and_no_more() {
        assert_eq!(sizes(0, 0), [0]);
        assert_eq!(sizes(BATCH_CHANGES_MAX, 0), [BATCH_CHANGES_MAX]);
        assert_eq!(sizes(BATCH_CHANGES_MAX + 1, 0), [BATCH_CHANGES_MAX, 1]);
        let overhead = CHANGE_BYTES + "prefix-rows/0".len();
        assert_eq!(sizes(3, BATCH_BYTES_MAX / 3 - overhead), [3]);
        assert_eq!(sizes(3, BATCH_BYTES_MAX / 3 - overhead + 1), [2, 1]);
        assert_eq!(sizes(2, COMMIT_BYTES_MAX - 65_536), [1, 1], "what is too large for a usual batch has its own");
    }
}
