//! Dead letters as a runner keeps them: which events are parked, in what order, and what was asked for them.
//!
//! A dead letter names its event, which stays where it is in the log. Those of a stream are worked off in their order:
//! the first was tried and failed, or was behind one that is none any more and is due; all others wait behind it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::error::HandlerError;
use super::keys;
use super::letters::{DeadLetter, DeadLetterRequest, Skipped, change_letter, delete, delete_all, encode, load_letters};
use super::work::Checkpoint;
use crate::error::Result;
use crate::types::Position;
use crate::{Durability, Event, Query, StateBatch, Store};

/// An attempt that failed, as it is told.
#[derive(Debug, Clone)]
pub(super) struct Failed {
    pub(super) attempts: u32,
    pub(super) error: String,
    pub(super) is_permanent: bool,
}

impl Failed {
    pub(super) fn of(attempts: u32, error: &HandlerError) -> Self {
        Self { attempts, error: error.text(), is_permanent: error.is_permanent() }
    }

    /// Nobody can tell more of an attempt that its process did not survive.
    pub(super) fn ended_process(attempts: u32) -> Self {
        let error = "the process ended while the event was handled".to_owned();
        Self { attempts, error, is_permanent: false }
    }
}

/// The dead letters of a handler, in memory and as they are saved.
#[derive(Debug)]
pub(super) struct Parking {
    store: Store,
    name: String,
    letters: BTreeMap<Position, DeadLetter>,
    streams: HashMap<String, BTreeSet<Position>>,
    /// What changed since the last checkpoint.
    parked: Vec<Position>,
    resolved: Vec<Position>,
    skipped: Vec<Skipped>,
    skipped_count: u64,
    /// The state may hold what a loss of power takes back, and what only the last checkpoint says as well.
    is_unsynced: bool,
}

impl Parking {
    /// Loads what is saved, and sees to it that it is what the checkpoint says.
    pub(super) fn load(store: &Store, name: &str, checkpoint: &Checkpoint) -> Result<Self> {
        let mut parking = Self {
            store: store.clone(),
            name: name.to_owned(),
            letters: BTreeMap::new(),
            streams: HashMap::new(),
            parked: Vec::new(),
            resolved: Vec::new(),
            skipped: Vec::new(),
            skipped_count: checkpoint.skipped_count,
            // What the state has of it may have been written by an earlier run, which has not synced it.
            is_unsynced: checkpoint.changes_letters(),
        };
        parking.settle(checkpoint)?;
        let mut outlived = parking.skipped_behind(checkpoint)?;
        for letter in load_letters(&store.state()?, name)? {
            // What the checkpoint covers is in the log.
            if Some(letter.position) > checkpoint.position() && is_lost(store, &letter)? {
                outlived.push(keys::parked(name, letter.position));
            } else {
                parking.insert(letter);
            }
        }
        parking.forget(&outlived)?;
        Ok(parking)
    }

    pub(super) fn len(&self) -> usize {
        self.letters.len()
    }

    pub(super) fn skipped_count(&self) -> u64 {
        self.skipped_count
    }

    /// Whether the event at this position of the stream is parked, or has to wait behind one that is. One before the
    /// first that is parked does not: it comes again when the work is saved elsewhere and its checkpoint was older.
    pub(super) fn is_blocked(&self, stream: &str, position: Position) -> bool {
        self.first_of(stream).is_some_and(|first| first <= position)
    }

    /// Parks an event behind others of its stream. One that is parked already stays as it is: it is seen again when the
    /// work is saved elsewhere and its checkpoint was older.
    pub(super) fn park_behind(&mut self, event: &Event<'_>) {
        if !self.letters.contains_key(&event.position()) {
            let letter = DeadLetter::behind(event, self.store.clock().now());
            self.parked.push(letter.position);
            self.insert(letter);
        }
    }

    pub(super) fn park(&mut self, event: &Event<'_>, failed: &Failed) {
        let behind = DeadLetter::behind(event, self.store.clock().now());
        self.parked.push(behind.position);
        self.insert(DeadLetter { attempts: failed.attempts, error: Some(failed.error.clone()), ..behind });
    }

    pub(super) fn skip(&mut self, event: &Event<'_>, failed: &Failed) {
        self.skipped_count += 1;
        self.skipped.push(Skipped {
            number: self.skipped_count,
            position: event.position(),
            stream: event.stream().to_owned(),
            event_type: event.event_type().to_owned(),
            attempts: failed.attempts,
            error: failed.error.clone(),
            skipped_at: self.store.clock().now(),
        });
    }

    /// The event is none any more.
    pub(super) fn resolve(&mut self, position: Position) {
        self.remove(position);
        self.resolved.push(position);
    }

    /// Puts what changed since the last checkpoint into the next.
    pub(super) fn fill(&self, checkpoint: &mut Checkpoint) {
        checkpoint.parked = self.parked.iter().map(|position| self.letters[position].clone()).collect();
        checkpoint.resolved.clone_from(&self.resolved);
        checkpoint.skipped.clone_from(&self.skipped);
        checkpoint.skipped_count = self.skipped_count;
    }

    /// The next checkpoint is about to be saved, and leaves out what the last one says of dead letters: from then on only
    /// the state says it. Work that saves its checkpoint in the state waits for this once after a start at most.
    pub(super) fn sync(&mut self) -> Result<()> {
        if self.is_unsynced {
            self.store.state()?.sync()?;
            self.is_unsynced = false;
        }
        Ok(())
    }

    /// The checkpoint was saved: sees to it that its dead letters are as well, where the work saves it elsewhere. Until
    /// they are, the checkpoint that is saved again says the same of them.
    pub(super) fn saved(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        self.settle(checkpoint)?;
        self.parked.clear();
        self.resolved.clear();
        self.skipped.clear();
        Ok(())
    }

    /// The work went back to its last checkpoint. Nothing is ever resolved before all else was saved.
    pub(super) fn roll_back(&mut self) {
        for position in std::mem::take(&mut self.parked) {
            self.remove(position);
        }
        self.skipped_count -= self.skipped.len() as u64;
        self.skipped.clear();
    }

    /// Notes that an event failed once more, whatever was asked for it, unless it is to be discarded.
    pub(super) fn failed_again(&mut self, position: Position, failed: &Failed) -> Result<()> {
        let changed = change_letter(&self.store.state()?, &self.name, position, Durability::Os, |letter| {
            letter.attempts = failed.attempts;
            letter.error = Some(failed.error.clone());
            letter.requested = letter.requested.filter(|request| *request == DeadLetterRequest::Discard);
        })?;
        match changed {
            Some(letter) => drop(self.letters.insert(position, letter)),
            None => self.remove(position),
        }
        Ok(())
    }

    /// Notes that an attempt ended the process, unless it was noted as failed before.
    pub(super) fn count_at_least(&mut self, position: Position, failed: &Failed) -> Result<()> {
        match self.letters.get(&position) {
            Some(letter) if letter.attempts < failed.attempts => self.failed_again(position, failed),
            _ => Ok(()),
        }
    }

    /// Looks at what was asked for.
    pub(super) fn reload_requests(&mut self) -> Result<()> {
        let state = self.store.state()?;
        for (position, letter) in &mut self.letters {
            let key = keys::parked(&self.name, *position);
            if let Some(bytes) = state.get(&key)? {
                letter.requested = DeadLetter::decode(&key, &bytes)?.requested;
            }
        }
        Ok(())
    }

    /// The dead letters that something is to be done about: what was asked for, and the first of a stream if it was never
    /// tried. A retry of one that is not the first of its stream waits until it is.
    pub(super) fn due(&self) -> Vec<Position> {
        self.letters.values().filter(|letter| self.is_due(letter)).map(|letter| letter.position).collect()
    }

    /// The dead letter at this position, if something is still to be done about it.
    pub(super) fn due_at(&self, position: Position) -> Option<&DeadLetter> {
        self.letters.get(&position).filter(|letter| self.is_due(letter))
    }

    fn is_due(&self, letter: &DeadLetter) -> bool {
        match letter.requested {
            Some(DeadLetterRequest::Discard) => true,
            Some(DeadLetterRequest::Retry) => self.first_of(&letter.stream) == Some(letter.position),
            None => letter.attempts == 0 && self.first_of(&letter.stream) == Some(letter.position),
        }
    }

    /// The first dead letter of a stream.
    pub(super) fn first_of(&self, stream: &str) -> Option<Position> {
        self.streams.get(stream)?.first().copied()
    }

    /// Forgets everything: the dead letters are of another history, or of a state that is gone.
    pub(super) fn clear(&mut self) -> Result<()> {
        self.is_unsynced = true;
        delete_all(&self.store.state()?, &[keys::all_parked(&self.name), keys::all_skipped(&self.name)])?;
        self.letters.clear();
        self.streams.clear();
        self.skipped_count = 0;
        Ok(())
    }

    /// The keys of the records of skipped events that come again, because the work is saved elsewhere and its
    /// checkpoint is older than they are.
    fn skipped_behind(&self, checkpoint: &Checkpoint) -> Result<Vec<String>> {
        let skipped = self.store.dead_letters(&self.name)?.skipped()?;
        let comes_again = |skipped: &&Skipped| Some(skipped.position) > checkpoint.position();
        Ok(skipped.iter().filter(comes_again).map(|skipped| skipped.key(&self.name)).collect())
    }

    /// Deletes what has outlived the history, or the checkpoint, that it was of.
    fn forget(&mut self, keys: &[String]) -> Result<()> {
        if !keys.is_empty() {
            self.is_unsynced = true;
            delete(&self.store.state()?, keys)?;
        }
        Ok(())
    }

    fn insert(&mut self, letter: DeadLetter) {
        self.streams.entry(letter.stream.clone()).or_default().insert(letter.position);
        self.letters.insert(letter.position, letter);
    }

    fn remove(&mut self, position: Position) {
        let Some(letter) = self.letters.remove(&position) else { return };
        if let Some(positions) = self.streams.get_mut(&letter.stream) {
            positions.remove(&position);
            if positions.is_empty() {
                self.streams.remove(&letter.stream);
            }
        }
    }

    /// Writes what the checkpoint says of dead letters and the state does not have. Doing it again changes nothing: a
    /// dead letter goes away only with a later checkpoint.
    fn settle(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        if !checkpoint.changes_letters() {
            return Ok(());
        }
        let (state, name) = (self.store.state()?, &self.name);
        let (mut batch, mut changes) = (StateBatch::new().durability(Durability::Os), 0);
        for letter in &checkpoint.parked {
            if state.versioned(&keys::parked(name, letter.position))?.is_none() {
                (batch, changes) = (letter.add_to(name, batch), changes + 1);
            }
        }
        for skipped in &checkpoint.skipped {
            let (key, record) = (skipped.key(name), encode(skipped));
            if state.get(&key)?.as_ref() != Some(&record) {
                (batch, changes) = (batch.put(key, record), changes + 1);
            }
        }
        for position in &checkpoint.resolved {
            let key = keys::parked(name, *position);
            if state.versioned(&key)?.is_some() {
                (batch, changes) = (batch.delete(key), changes + 1);
            }
        }
        if changes > 0 {
            self.is_unsynced = true;
            state.write(batch)?;
        }
        Ok(())
    }
}

/// Whether the log has lost the event of a dead letter: it ends before it, or has another event in its place.
fn is_lost(store: &Store, letter: &DeadLetter) -> Result<bool> {
    if Some(letter.position) > store.head()? {
        return Ok(true);
    }
    let mut read = store.read(Query::all()).from(letter.position).limit(1);
    Ok(read.next()?.is_some_and(|event| event.position() == letter.position && !letter.is_of(&event)))
}
