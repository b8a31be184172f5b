//! The mark: what was being handled, stored before it is, so that a process that dies of it is found out.
//!
//! One mark serves a whole stretch of events. What a process left of its mark is judged when the handler starts again: the
//! stretch is then handled event by event, each with a mark of its own that counts its attempts.
//!
//! A stretch says that some event of it may have ended the process, and of none that it did, however short it is: events
//! of it may have been handled and not saved. Only an attempt that is marked by itself counts, and only until it is over.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::keys;
use super::letters::{decode, encode};
use super::parking::Failed;
use crate::error::Result;
use crate::types::Position;
use crate::{Durability, StateBatch, Store};

/// What is being handled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    /// The first event of the stretch, or the one that is tried.
    pub(super) event: Position,
    /// The end of the stretch, included.
    pub(super) upto: Position,
    /// How many attempts on the event have failed if the process ends now; 0 for a stretch, and for an event that was
    /// handled at the first attempt and is not saved yet.
    pub(super) attempt: u32,
    /// The event is a dead letter that is retried.
    #[serde(default)]
    pub(super) is_parked: bool,
}

/// The mark of a handler, as it is stored.
#[derive(Debug)]
pub(super) struct MarkSlot {
    store: Store,
    name: String,
    stored: Option<Mark>,
}

/// An event that is known to have failed, or to have ended its process.
#[derive(Debug, Clone)]
pub(super) struct Suspect {
    pub(super) position: Position,
    pub(super) failed: Failed,
    /// When it is tried again, in monotonic time; `None` for at once.
    pub(super) retry_at: Option<Duration>,
}

/// What a mark that was left behind means.
#[derive(Debug, Default)]
pub(super) struct Aftermath {
    pub(super) suspect: Option<Suspect>,
    /// The dead letter whose retry was not survived, if it is one.
    pub(super) parked: Option<Suspect>,
    /// Up to where events are handled one by one.
    pub(super) careful_upto: Option<Position>,
}

impl MarkSlot {
    pub(super) fn load(store: &Store, name: &str) -> Result<Self> {
        let key = keys::mark(name);
        let stored = store.state()?.get(&key)?.map(|bytes| decode("mark", &key, &bytes)).transpose()?;
        Ok(Self { store: store.clone(), name: name.to_owned(), stored })
    }

    /// Judges the mark of an earlier run, which had come as far as `saved`.
    pub(super) fn aftermath(&self, saved: Option<Position>) -> Aftermath {
        let Some(mark) = &self.stored else { return Aftermath::default() };
        let suspect =
            |attempts| Suspect { position: mark.event, failed: Failed::ended_process(attempts), retry_at: None };
        if mark.is_parked {
            return Aftermath { parked: Some(suspect(mark.attempt)), ..Aftermath::default() };
        }
        if Some(mark.upto) <= saved {
            return Aftermath::default();
        }
        let is_known = mark.attempt > 0 && Some(mark.event) > saved;
        Aftermath { suspect: is_known.then(|| suspect(mark.attempt)), parked: None, careful_upto: Some(mark.upto) }
    }

    /// Whether a crash at the event would be noticed.
    pub(super) fn covers(&self, event: Position) -> bool {
        self.stored.as_ref().is_some_and(|mark| !mark.is_parked && (mark.event..=mark.upto).contains(&event))
    }

    pub(super) fn store(&mut self, mark: Mark) -> Result<()> {
        // A mark is for processes that die. One that is lost with the power is not missed.
        let batch = StateBatch::new().put(keys::mark(&self.name), encode(&mark)).durability(Durability::Os);
        self.store.state()?.write(batch)?;
        self.stored = Some(mark);
        Ok(())
    }

    /// What is saved is settled: attempts on it count no more, neither for the event if the work goes back to an older
    /// checkpoint, nor for another one that gets its position.
    pub(super) fn settle(&mut self, saved: Option<Position>) -> Result<()> {
        match &self.stored {
            Some(mark) if mark.attempt > 0 && !mark.is_parked && Some(mark.event) <= saved => {
                self.store(Mark { attempt: 0, ..mark.clone() })
            }
            _ => Ok(()),
        }
    }

    /// Removes the mark: the events behind `saved` are not being handled any more.
    pub(super) fn clear(&mut self, saved: Option<Position>) -> Result<()> {
        if self.stored.as_ref().is_some_and(|mark| mark.is_parked || Some(mark.upto) > saved) {
            self.store.state()?.delete(keys::mark(&self.name))?;
            self.stored = None;
        }
        Ok(())
    }

    /// Whether the mark counts attempts on an event that was not settled.
    pub(super) fn counts_attempts(&self, saved: Option<Position>) -> bool {
        self.stored.as_ref().is_some_and(|mark| !mark.is_parked && mark.attempt > 0 && Some(mark.event) > saved)
    }
}
