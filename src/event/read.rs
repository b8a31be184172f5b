//! Typed reads: the events of a read, decoded one by one.
//!
//! Lends like the read beneath it, which stands still while several events that came from one are handed out.

use std::ops::Deref;

use serde::de::DeserializeOwned;

use super::codec::{Decoded, EventCodec};
use crate::error::Result;
use crate::{Event, Read};

/// A read of typed events. Made with [`Read::typed`].
#[derive(Debug)]
#[must_use = "a read reads nothing before it is asked for events"]
pub struct TypedRead<E> {
    read: Read,
    codec: EventCodec<E>,
    /// What is left of the recorded event that the read stands at.
    pending: Option<Decoded<E>>,
    /// How many of them were handed out.
    ordinal: u32,
    has_ended: bool,
}

impl Read {
    /// Decodes the events that are read. The query has to ask for no other types than the codec knows, for example with
    /// [`EventCodec::query`].
    ///
    /// ```
    /// use annals::{EventTypes, ExpectedVersion, Store};
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Serialize, Deserialize, Debug, PartialEq)]
    /// enum AccountEvent { Opened { owner: String }, Deposited { cents: u64 } }
    ///
    /// let events = EventTypes::<AccountEvent>::new().check()?;
    /// let store = Store::in_memory()?;
    /// let deposited = events.encode(&AccountEvent::Deposited { cents: 500 })?;
    /// store.append("account-alice", ExpectedVersion::Any, [deposited])?;
    ///
    /// let mut read = store.read(events.query()).typed(&events);
    /// while let Some(event) = read.next()? {
    ///     assert_eq!(event.data, AccountEvent::Deposited { cents: 500 });
    ///     assert_eq!(event.stream(), "account-alice");
    /// }
    /// # Ok::<(), annals::Error>(())
    /// ```
    pub fn typed<E: DeserializeOwned>(self, codec: &EventCodec<E>) -> TypedRead<E> {
        TypedRead { read: self, codec: codec.clone(), pending: None, ordinal: 0, has_ended: false }
    }
}

/// An event that was read and decoded. Derefs to the recorded event that it came from.
#[derive(Debug)]
pub struct TypedEvent<'a, E> {
    /// The recorded event.
    pub recorded: Event<'a>,
    /// Its place, from 0, among those that the recorded event was upcast into.
    pub ordinal: u32,
    /// The event.
    pub data: E,
}

impl<'a, E> Deref for TypedEvent<'a, E> {
    type Target = Event<'a>;

    fn deref(&self) -> &Event<'a> {
        &self.recorded
    }
}

impl<E: DeserializeOwned> TypedRead<E> {
    /// The next event, whose recorded one is borrowed until the next call; `None` at the end, and from then on. Events
    /// that were upcast into none are read over.
    ///
    /// # Errors
    /// Those of [`Read::next`] and of [`EventCodec::decode`], after which the read is at its end.
    #[expect(clippy::should_implement_trait, reason = "it lends; `data` gives an iterator")]
    pub fn next(&mut self) -> Result<Option<TypedEvent<'_, E>>> {
        let Some(data) = self.advance()? else { return Ok(None) };
        let recorded = self.read.current()?.expect("an event that was decoded is lent still");
        Ok(Some(TypedEvent { recorded, ordinal: self.ordinal - 1, data }))
    }

    /// An iterator over the decoded events alone. Ends after the first error.
    pub fn data(self) -> impl Iterator<Item = Result<E>> {
        let mut read = self;
        std::iter::from_fn(move || read.advance().transpose())
    }

    /// The next decoded event; its place is that of the recorded event that the read stands at.
    #[inline]
    fn advance(&mut self) -> Result<Option<E>> {
        while !self.has_ended {
            if let Some(data) = self.pending.as_mut().and_then(Iterator::next) {
                self.ordinal += 1;
                return Ok(Some(data));
            }
            let decoded = self.decode_next();
            self.has_ended = !matches!(decoded, Ok(Some(_)));
            self.pending = decoded?;
            self.ordinal = 0;
        }
        Ok(None)
    }

    #[inline]
    fn decode_next(&mut self) -> Result<Option<Decoded<E>>> {
        let Some(event) = self.read.next()? else { return Ok(None) };
        self.codec.decode(&event).map(Some)
    }
}
