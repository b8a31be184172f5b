//! Dead letters and skipped events as they are kept in the state of the store.

use serde::{Deserialize, Serialize};

use super::keys;
use crate::error::{Error, Result};
use crate::limits::SKIPPED_RECORDS_MAX;
use crate::types::{EventId, Position, Timestamp};
use crate::{Durability, Event, State, StateBatch};

/// Records that are deleted with one write.
const DELETED_AT_ONCE: usize = 10_000;

/// An event that a handler has put aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The place of the event in the store.
    pub position: Position,
    /// Its stream.
    pub stream: String,
    /// Its type.
    pub event_type: String,
    /// Its id.
    pub id: EventId,
    /// How often it was tried; 0 for one that was never tried, because it is parked behind another of its stream.
    pub attempts: u32,
    /// What the last attempt failed with, at most
    /// [`DEAD_LETTER_ERROR_BYTES_MAX`](crate::limits::DEAD_LETTER_ERROR_BYTES_MAX) bytes; `None` if there was none.
    pub error: Option<String>,
    /// When it was parked.
    pub parked_at: Timestamp,
    /// What was asked for it and not carried out yet.
    pub requested: Option<DeadLetterRequest>,
}

/// What can be asked for a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum DeadLetterRequest {
    /// That it is tried once more, and when it succeeds, those behind it in their order.
    Retry,
    /// That it is given up, and those behind it are tried.
    Discard,
}

/// An event that a handler has skipped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Skipped {
    /// Which of the events that the handler has skipped this is, from 1.
    pub number: u64,
    /// The place of the event in the store.
    pub position: Position,
    /// Its stream.
    pub stream: String,
    /// Its type.
    pub event_type: String,
    /// How often it was tried.
    pub attempts: u32,
    /// What the last attempt failed with.
    pub error: String,
    /// When it was skipped.
    pub skipped_at: Timestamp,
}

impl DeadLetter {
    pub(super) fn behind(event: &Event<'_>, now: Timestamp) -> Self {
        Self {
            position: event.position(),
            stream: event.stream().to_owned(),
            event_type: event.event_type().to_owned(),
            id: event.id(),
            attempts: 0,
            error: None,
            parked_at: now,
            requested: None,
        }
    }

    /// Whether it is the one of this event. A position that the log has lost is given to another event.
    pub(super) fn is_of(&self, event: &Event<'_>) -> bool {
        (self.position, self.id) == (event.position(), event.id())
    }

    pub(super) fn add_to(&self, name: &str, batch: StateBatch) -> StateBatch {
        batch.put(keys::parked(name, self.position), encode(self))
    }

    pub(super) fn decode(key: &str, bytes: &[u8]) -> Result<Self> {
        decode("dead letter", key, bytes)
    }
}

impl Skipped {
    /// The records of a handler are a ring.
    pub(super) fn key(&self, name: &str) -> String {
        keys::skipped(name, (self.number - 1) % SKIPPED_RECORDS_MAX)
    }

    pub(super) fn add_to(&self, name: &str, batch: StateBatch) -> StateBatch {
        batch.put(self.key(name), encode(self))
    }

    pub(super) fn decode(key: &str, bytes: &[u8]) -> Result<Self> {
        decode("skipped event", key, bytes)
    }
}

pub(super) fn encode(record: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(record).expect("a record consists of numbers and texts")
}

pub(super) fn decode<T: for<'de> Deserialize<'de>>(what: &str, key: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| Error::Codec {
        what: format!("cannot decode the {what} under the key {key:?}"),
        reason: error.to_string(),
    })
}

/// The dead letters of a handler as they are saved, in the order of their positions.
pub(super) fn load_letters(state: &State, name: &str) -> Result<Vec<DeadLetter>> {
    let mut letters = Vec::new();
    for key in state.keys(&keys::all_parked(name))? {
        // One that was resolved meanwhile has no value any more.
        if let Some(bytes) = state.get(&key)? {
            letters.push(DeadLetter::decode(&key, &bytes)?);
        }
    }
    Ok(letters)
}

/// Changes a dead letter that exists, and returns it; `None` if it does not. A runner and those who ask for something
/// write the same records: the version that each expects keeps one from undoing the other's change.
pub(super) fn change_letter(
    state: &State,
    name: &str,
    position: Position,
    durability: Durability,
    change: impl Fn(&mut DeadLetter),
) -> Result<Option<DeadLetter>> {
    let key = keys::parked(name, position);
    loop {
        let Some(saved) = state.versioned(&key)? else { return Ok(None) };
        let mut letter = DeadLetter::decode(&key, &saved.bytes)?;
        change(&mut letter);
        let batch = StateBatch::new().expect(key.clone(), saved.version).durability(durability);
        match state.write(letter.add_to(name, batch)) {
            Ok(_) => return Ok(Some(letter)),
            Err(Error::Conflict(_)) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Deletes all keys with one of these prefixes.
pub(super) fn delete_all(state: &State, prefixes: &[String]) -> Result<()> {
    prefixes.iter().try_for_each(|prefix| delete(state, &state.keys(prefix)?))
}

/// Deletes these keys.
pub(super) fn delete(state: &State, keys: &[String]) -> Result<()> {
    for keys in keys.chunks(DELETED_AT_ONCE) {
        state.write(keys.iter().fold(StateBatch::new(), StateBatch::delete))?;
    }
    Ok(())
}
