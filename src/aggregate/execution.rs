//! Executing commands on the streams of a category: load, decide, append, and again after a conflict.
//!
//! No lock is held while the application decides. Only a conflict is decided again: what is not known to have failed never
//! is.

use std::fmt::Display;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::category::Category;
use super::command::{Executed, Terms, settle};
use super::decision::Decision;
use super::error::ExecuteError;
use super::folded::{Fold, Loaded};
use crate::error::{Error, ExpectedVersion, Invalid, Result};
use crate::limits::EVENTS_PER_COMMIT_MAX;
use crate::{Commit, EventCodec, NewEvent, Store};

impl<F: Fold> Category<F>
where
    F::Event: Serialize + DeserializeOwned,
{
    /// Loads, decides and appends, again after each conflict.
    pub(super) fn execute<D, M>(
        &self,
        terms: &Terms,
        id: &dyn Display,
        mut decide: impl FnMut(&F::State) -> D,
    ) -> Result<Executed, ExecuteError<D::Rejection>>
    where
        D: Decision<F::Event, M>,
    {
        let stream = self.stream(id)?;
        let store = terms.sender(&self.store)?;
        let mut known = None;
        let mut conflicts = 0;
        loop {
            if let Some(executed) = terms.find_applied(&store, Some(&stream))? {
                return Ok(executed);
            }
            let mut loaded = self.read(&stream, known)?;
            let events = match decide(&loaded).into_events() {
                Ok(events) => events,
                // The same command may have been applied since it was looked for, and be why this one is rejected.
                Err(rejection) => {
                    let applied = terms.find_applied(&store, Some(&stream))?;
                    return applied.ok_or(ExecuteError::Rejected(rejection));
                }
            };
            let events = encode_events(&self.codec, events, |_, encoded| encoded)?;
            match append(terms, &store, &stream, &loaded, events)? {
                Ok(executed) => {
                    self.save_if_due(&stream, &mut loaded);
                    return Ok(executed);
                }
                Err(conflict) if conflicts == terms.retries => {
                    return Ok(terms.give_up(&store, Some(&stream), conflict)?);
                }
                Err(_) => conflicts += 1,
            }
            known = Some(loaded.folded);
        }
    }

    /// Appends events without deciding anything.
    pub(super) fn append_events(
        &self,
        terms: &Terms,
        id: &dyn Display,
        expected: ExpectedVersion,
        events: impl IntoIterator<Item = F::Event>,
    ) -> Result<Executed> {
        let stream = self.stream(id)?;
        let store = terms.sender(&self.store)?;
        if let Some(executed) = terms.find_applied(&store, Some(&stream))? {
            return Ok(executed);
        }
        let events = encode_events(&self.codec, events, |_, encoded| encoded)?;
        if events.is_empty() {
            return Ok(Executed::nothing(store.head()?, store.version(&stream)?));
        }
        let commit = Commit::new().append(stream.as_str(), expected, terms.mark_all(&stream, events));
        settle(terms.send(&store, commit, Some(&stream)))?
            .or_else(|conflict| terms.give_up(&store, Some(&stream), conflict))
    }
}

/// Appends what was decided on a state. The inner error is a conflict.
fn append<S>(
    terms: &Terms,
    store: &Store,
    stream: &str,
    loaded: &Loaded<S>,
    events: Vec<NewEvent>,
) -> Result<Result<Executed, Error>> {
    if events.is_empty() {
        let nothing = Executed::nothing(loaded.head(), loaded.version());
        return terms.do_nothing(store, Some(stream), nothing).map(Ok);
    }
    let commit = Commit::new().append(stream, loaded.expected(), terms.mark_all(stream, events));
    settle(terms.send(store, commit, Some(stream)))
}

/// Encodes events, no more than a commit can hold: a decision may be an iterator that does not end.
pub(super) fn encode_events<E: Serialize, T>(
    codec: &EventCodec<E>,
    events: impl IntoIterator<Item = E>,
    mut keep: impl FnMut(E, NewEvent) -> T,
) -> Result<Vec<T>> {
    let mut encoded = Vec::new();
    for event in events {
        if encoded.len() == EVENTS_PER_COMMIT_MAX {
            let problem =
                format!("more than {EVENTS_PER_COMMIT_MAX} were decided, which is the most that a commit holds");
            return Err(Invalid::of("events", problem).into());
        }
        let new = codec.encode(&event)?;
        encoded.push(keep(event, new));
    }
    Ok(encoded)
}
