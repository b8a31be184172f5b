//! What a runner drives, and the checkpoint that it goes by.

#[cfg(feature = "sqlite")]
use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::error::HandlerError;
use super::keys;
use super::letters::{DeadLetter, Skipped};
use crate::error::{Error, Result};
use crate::types::Position;
use crate::{Durability, Event, HistoryPoint, StateBatch, Store};

/// What a [`Runner`](super::Runner) drives: something that takes events one by one and remembers how far it came.
/// Projections, reactors, sinks and process managers are work.
///
/// All calls come from one thread. A panic in [`handle`](Work::handle) or [`flush`](Work::flush) counts as its error.
pub trait Work: Send {
    /// Loads what was saved last, state and checkpoint; `None` if nothing was. Called once, before everything else.
    ///
    /// After `None` the dead letters and the records of skipped events of work without effects outside are forgotten: they
    /// were missing from a state that is gone. It must be gone by then, and stay so when another version of the program
    /// loads it. Of any work, dead letters behind its checkpoint are forgotten whose event the log has lost, and the
    /// records of skipped events there, which come again.
    ///
    /// # Errors
    /// What keeps it from being loaded. The runner does not start then.
    fn load(&mut self, store: &Store) -> Result<Option<Checkpoint>>;

    /// Handles one event. After an error the work may be half changed: [`roll_back`](Work::roll_back) follows.
    ///
    /// # Errors
    /// What the policy of the handler is to deal with, unless it is an [outage](HandlerError::outage).
    fn handle(&mut self, event: &Event<'_>) -> Result<(), HandlerError>;

    /// Carries out what [`handle`](Work::handle) only collected. Called before each [`save`](Work::save) that follows
    /// handled events. Where several events were collected, an error leads to each of them being handled by itself.
    ///
    /// # Errors
    /// What the policy of the handler is to deal with.
    fn flush(&mut self) -> Result<(), HandlerError> {
        Ok(())
    }

    /// Saves state and checkpoint in one atomic step. Work that keeps its state in the state of the store adds the
    /// checkpoint to its batch with [`Checkpoint::add_to`]; work that keeps it elsewhere keeps
    /// [`Checkpoint::to_bytes`] in the same transaction. A dead letter that was retried with success is deleted from the
    /// state of the store once this has returned: if what was saved elsewhere is then lost with the power, so is what the
    /// event has changed.
    ///
    /// # Errors
    /// What keeps it from being saved; nothing is saved then. The runner waits and saves again after [`Error::Full`] and
    /// [`Error::Unavailable`], and stops after any other.
    fn save(&mut self, checkpoint: &Checkpoint) -> Result<()>;

    /// Goes back to what was saved last.
    ///
    /// # Errors
    /// What keeps it from that; the runner stops.
    fn roll_back(&mut self) -> Result<()>;

    /// Whether handling an event changes something that [`roll_back`](Work::roll_back) cannot undo, such as a mail that
    /// was sent. For such work a mark is stored before it runs, so that a process that dies in it is found out. When an
    /// event of a batch fails, what was handled before it is saved and not undone: [`save`](Work::save) must store
    /// nothing of the event that failed.
    fn has_effects_outside(&self) -> bool;

    /// Forgets everything, saved state included, because the history that it was made from is not the store's. `false`
    /// if that is not for the work to decide, which stops the handler with [`Error::HistoryChanged`]; so it is unless
    /// this is implemented, and work with effects outside must leave it so.
    ///
    /// # Errors
    /// What keeps it from being forgotten.
    fn start_over(&mut self) -> Result<bool> {
        Ok(false)
    }
}

/// How far a handler has come, and what it put aside on the way since it was last saved.
///
/// It is saved by the work, in one step with the work's state. See [`Work::save`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    #[serde(skip)]
    name: String,
    #[serde(flatten)]
    point: Option<HistoryPoint>,
    /// Dead letters since the checkpoint before. They travel with it, so that it does not matter where it is saved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) parked: Vec<DeadLetter>,
    /// Dead letters that are none any more since the checkpoint before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) resolved: Vec<Position>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) skipped: Vec<Skipped>,
    /// Events that were ever skipped.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) skipped_count: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Checkpoint {
    pub(super) fn new(name: &str, point: Option<HistoryPoint>) -> Self {
        Self { name: name.to_owned(), point, ..Self::default() }
    }

    /// Whether it says anything of dead letters, or of events that were skipped.
    pub(super) fn changes_letters(&self) -> bool {
        !(self.parked.is_empty() && self.resolved.is_empty() && self.skipped.is_empty())
    }

    /// Whether dead letters will be deleted from the state of the store once it is saved.
    #[cfg(feature = "sqlite")]
    pub(crate) fn resolves_letters(&self) -> bool {
        !self.resolved.is_empty()
    }

    /// Makes what the state of the store says to be put aside what it is at this checkpoint. Where that is saved elsewhere,
    /// the state may not say it yet.
    #[cfg(feature = "sqlite")]
    pub(crate) fn update(&self, put_aside: &mut HashSet<Position>) {
        put_aside.extend(self.parked.iter().map(|letter| letter.position));
        put_aside.extend(self.skipped.iter().map(|skipped| skipped.position));
        put_aside.retain(|position| !self.resolved.contains(position));
    }

    /// The last event that was looked at, whether it matched or not; `None` if none was.
    pub fn point(&self) -> Option<&HistoryPoint> {
        self.point.as_ref()
    }

    /// The position of that event.
    pub fn position(&self) -> Option<Position> {
        self.point.map(|point| point.position)
    }

    /// The checkpoint that was saved for a handler with [`add_to`](Checkpoint::add_to); `None` if none was.
    ///
    /// # Errors
    /// [`Error::Codec`] if what is saved is no checkpoint; those of [`State::get`](crate::State::get).
    pub fn load(store: &Store, name: &str) -> Result<Option<Self>> {
        let saved = store.state()?.get(&keys::checkpoint(name))?;
        saved.map(|bytes| Self::from_bytes(name, &bytes)).transpose()
    }

    /// Adds the checkpoint, and the dead letters that belong to it, to a batch of the store's state. The batch is as
    /// durable as [`Durability::Os`] says: a checkpoint that is lost with the power makes events come again, which they
    /// may at any time.
    pub fn add_to(&self, batch: StateBatch) -> StateBatch {
        let batch = batch.put(keys::checkpoint(&self.name), self.to_bytes()).durability(Durability::Os);
        let batch = self.parked.iter().fold(batch, |batch, letter| letter.add_to(&self.name, batch));
        let batch = self.skipped.iter().fold(batch, |batch, skipped| skipped.add_to(&self.name, batch));
        self.resolved.iter().fold(batch, |batch, position| batch.delete(keys::parked(&self.name, *position)))
    }

    /// The checkpoint as bytes, for work that saves it elsewhere.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(&Saved::Handler(self)).expect("a checkpoint consists of numbers and texts")
    }

    /// The checkpoint of the handler of this name from the bytes that [`to_bytes`](Checkpoint::to_bytes) gave.
    ///
    /// # Errors
    /// [`Error::Codec`] if they are not the checkpoint of a handler.
    pub fn from_bytes(name: &str, bytes: &[u8]) -> Result<Self> {
        let decoded = serde_json::from_slice(bytes).map_err(|error| Error::Codec {
            what: format!("what is saved under the name {name:?} is not the checkpoint of a handler"),
            reason: error.to_string(),
        })?;
        let Saved::Handler(checkpoint) = decoded;
        Ok(Self { name: name.to_owned(), ..checkpoint })
    }
}

/// The tag tells it from what others save under the same key.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Saved<C> {
    Handler(C),
}
