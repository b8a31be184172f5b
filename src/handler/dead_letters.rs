//! The dead letters of a handler, for those who look after it.

use super::keys;
use super::letters::{DeadLetter, DeadLetterRequest, Skipped, change_letter, load_letters};
use super::registry::Registry;
use crate::Store;
use crate::error::{Error, Invalid, Result};
use crate::types::Position;

/// The events that a handler has parked, and those that it has skipped.
///
/// An event that is retried and succeeds is a dead letter no more, and those that were parked behind it, later ones of
/// its stream, follow in their order until one fails. What is asked for is remembered at once and carried out by the
/// handler, or when it is started again if it does not run; [`HandlerHandle::wait_for_requests`] waits for that.
///
/// [`HandlerHandle::wait_for_requests`]: super::HandlerHandle::wait_for_requests
#[derive(Debug, Clone)]
pub struct DeadLetters {
    store: Store,
    name: String,
}

impl Store {
    /// The dead letters of the handler of this name.
    ///
    /// ```
    /// use std::sync::atomic::{AtomicBool, Ordering};
    /// use annals::{ExpectedVersion, HandlerError, NewEvent, OnError, Store};
    ///
    /// static SERVER_IS_UP: AtomicBool = AtomicBool::new(false);
    ///
    /// let store = Store::in_memory()?;
    /// let send = |_: &annals::Event<'_>| match SERVER_IS_UP.load(Ordering::Relaxed) {
    ///     true => Ok(()),
    ///     false => Err(HandlerError::from("the server is down")),
    /// };
    /// let mailer = store.react("mailer", send).policy(OnError::park()).start()?;
    /// let opened = store.append("account-alice", ExpectedVersion::NoStream, [NewEvent::raw("Opened", "")])?;
    /// mailer.wait_for(opened.last_position())?;
    ///
    /// let letters = store.dead_letters("mailer")?;
    /// assert_eq!(letters.list()?[0].error.as_deref(), Some("the server is down"));
    /// SERVER_IS_UP.store(true, Ordering::Relaxed);
    /// letters.retry_all()?;
    /// mailer.wait_for_requests()?;
    /// assert!(letters.list()?.is_empty());
    /// # Ok::<(), annals::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is no name of a handler.
    pub fn dead_letters(&self, name: &str) -> Result<DeadLetters> {
        keys::check_name(name)?;
        Ok(DeadLetters { store: self.clone(), name: name.to_owned() })
    }
}

impl DeadLetters {
    /// All dead letters, in the order of their events. Those with no attempts are parked behind another of their stream.
    ///
    /// # Errors
    /// Those of [`State::keys`](crate::State::keys); [`Error::Codec`] if one cannot be read.
    pub fn list(&self) -> Result<Vec<DeadLetter>> {
        load_letters(&self.store.state()?, &self.name)
    }

    /// Asks that an event is tried once more. It must be the first dead letter of its stream.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there is no dead letter at this position, or it is parked behind another;
    /// those of [`State::write`](crate::State::write).
    pub fn retry(&self, position: Position) -> Result<()> {
        let letters = self.list()?;
        let letter = letters.iter().find(|letter| letter.position == position);
        let letter = letter.ok_or_else(|| self.is_none(position))?;
        // They are in the order of their positions.
        let first = letters.iter().find(|other| other.stream == letter.stream).unwrap_or(letter);
        if first.position != position {
            let problem = format!("{position} is parked behind {} of {:?}: retry that", first.position, first.stream);
            return Err(invalid(problem));
        }
        self.request(position, DeadLetterRequest::Retry)?;
        self.call_handler();
        Ok(())
    }

    /// Asks that the first dead letter of every stream is tried once more; how many that are.
    ///
    /// # Errors
    /// Those of [`State::write`](crate::State::write).
    pub fn retry_all(&self) -> Result<usize> {
        let letters = self.list()?;
        let mut streams = std::collections::HashSet::new();
        let firsts: Vec<_> = letters.iter().filter(|letter| streams.insert(&letter.stream)).collect();
        self.request_each(firsts.iter().map(|letter| letter.position), DeadLetterRequest::Retry)
    }

    /// Asks that an event is given up. Those parked behind it are tried then, if it was the first of its stream.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there is no dead letter at this position; those of [`State::write`](crate::State::write).
    pub fn discard(&self, position: Position) -> Result<()> {
        self.request(position, DeadLetterRequest::Discard)?;
        self.call_handler();
        Ok(())
    }

    /// Asks that all are given up; how many that are.
    ///
    /// # Errors
    /// Those of [`State::write`](crate::State::write).
    pub fn discard_all(&self) -> Result<usize> {
        self.request_each(self.list()?.iter().map(|letter| letter.position), DeadLetterRequest::Discard)
    }

    /// The events that were skipped, the first ones first, at most
    /// [`SKIPPED_RECORDS_MAX`](crate::limits::SKIPPED_RECORDS_MAX) of them.
    ///
    /// # Errors
    /// Those of [`State::keys`](crate::State::keys); [`Error::Codec`] if a record cannot be read.
    pub fn skipped(&self) -> Result<Vec<Skipped>> {
        let state = self.store.state()?;
        let mut skipped = Vec::new();
        for key in state.keys(&keys::all_skipped(&self.name))? {
            if let Some(bytes) = state.get(&key)? {
                skipped.push(Skipped::decode(&key, &bytes)?);
            }
        }
        skipped.sort_by_key(|skipped| skipped.number);
        Ok(skipped)
    }

    fn request_each(&self, positions: impl Iterator<Item = Position>, request: DeadLetterRequest) -> Result<usize> {
        let mut requested = 0;
        for position in positions {
            match self.request(position, request) {
                Ok(()) => requested += 1,
                // It was settled meanwhile.
                Err(Error::Invalid(_)) => {}
                Err(error) => return Err(error),
            }
        }
        self.call_handler();
        Ok(requested)
    }

    fn request(&self, position: Position, request: DeadLetterRequest) -> Result<()> {
        let (state, durability) = (self.store.state()?, self.store.durability());
        let changed = change_letter(&state, &self.name, position, durability, |letter| {
            letter.requested = Some(request);
        })?;
        changed.map(drop).ok_or_else(|| self.is_none(position))
    }

    fn call_handler(&self) {
        if let Some(shared) = self.store.attachment::<Registry>().find(&self.name) {
            shared.order(|orders| orders.requests += 1);
        }
    }

    fn is_none(&self, position: Position) -> Error {
        invalid(format!("{position} is no dead letter of the handler {:?}", self.name))
    }
}

fn invalid(problem: String) -> Error {
    Invalid::of("position", problem).into()
}
