//! Decisions over a query instead of one stream: a model is folded from whatever the query finds, and the events that
//! are decided on it are appended unless something that matters has come in between (a dynamic consistency boundary).

use std::any::{Any, TypeId};
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::command::{CommandId, Executed, Terms, settle};
use super::decision::Decision;
use super::error::ExecuteError;
use super::execution::encode_events;
use super::folded::{Folded, Loaded};
use crate::error::{ExpectedVersion, Result};
use crate::types::{Durability, Position};
use crate::{Commit, EventCodec, EventTypes, Metadata, NewEvent, Query, Store};

/// What a decision over a query rests on: folded from the events that the query finds, whatever streams they are in.
///
/// Its events say by their tags what they are about ([`EventTypes::tagged_by`]), and the query asks for those tags.
///
/// ```
/// use annals::{DecisionModel, EventTypes, Query, Store};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// enum UserEvent { Registered { name: String } }
///
/// /// Whether a name is taken.
/// #[derive(Default)]
/// struct Name { is_taken: bool }
///
/// impl DecisionModel for Name {
///     type Event = UserEvent;
///
///     fn apply(&mut self, _: &UserEvent) {
///         self.is_taken = true;
///     }
///
///     fn event_types() -> EventTypes<UserEvent> {
///         EventTypes::new().tagged_by(|UserEvent::Registered { name }| vec![format!("name:{name}")])
///     }
/// }
///
/// fn register(store: &Store, name: &str) -> Result<(), annals::ExecuteError<&'static str>> {
///     store.decide(Query::tag(format!("name:{name}")), Name::default(), |found| {
///         if found.is_taken { Err("taken") } else { Ok(UserEvent::Registered { name: name.to_owned() }) }
///     })?;
///     Ok(())
/// }
///
/// let store = Store::in_memory()?;
/// register(&store, "alice").expect("the name is free");
/// assert_eq!(register(&store, "alice").unwrap_err().rejection(), Some(&"taken"));
/// # Ok::<(), annals::Error>(())
/// ```
pub trait DecisionModel: 'static {
    /// The events that it is folded from, and that decisions on it come to.
    type Event: Serialize + DeserializeOwned + Send + Sync + 'static;

    /// Takes in what has happened.
    fn apply(&mut self, event: &Self::Event);

    /// How events are recorded, and above all their tags.
    fn event_types() -> EventTypes<Self::Event> {
        EventTypes::new()
    }

    /// The stream that an event is appended to: `decisions`, unless said otherwise. Nothing is decided by it; it says
    /// which events are handled one after the other by consumers that share the work by stream.
    #[expect(unused_variables, reason = "the parameter is named for those who use it")]
    fn stream_of(event: &Self::Event) -> Cow<'static, str> {
        Cow::Borrowed("decisions")
    }
}

impl Store {
    /// Decides on what a query finds, and appends what was decided unless another event that matches the query has come
    /// in between. If one has, it is taken in, and the decision is made again.
    ///
    /// See [`DecisionModel`] for an example, and [`Store::decision`] for a narrower condition, command ids and the rest.
    ///
    /// # Errors
    /// Those of [`QueryDecision::decide`].
    pub fn decide<T, D, M>(
        &self,
        query: Query,
        model: T,
        decide: impl FnMut(&T) -> D,
    ) -> Result<Executed, ExecuteError<D::Rejection>>
    where
        T: DecisionModel,
        D: Decision<T::Event, M>,
    {
        self.decision(query).decide(model, decide)
    }

    /// Begins a decision on what a query finds.
    ///
    /// ```
    /// # use annals::{DecisionModel, EventTypes, Query, Store};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)]
    /// # enum InvoiceEvent { Issued { number: u64 } }
    /// # #[derive(Default)]
    /// # struct Invoices { last: u64 }
    /// # impl DecisionModel for Invoices {
    /// #     type Event = InvoiceEvent;
    /// #     fn apply(&mut self, InvoiceEvent::Issued { number }: &InvoiceEvent) { self.last = *number; }
    /// # }
    /// # let store = Store::in_memory()?;
    /// let executed = store
    ///     .decision(Query::types(["Issued"]))
    ///     .retries(5)
    ///     .decide(Invoices::default(), |invoices| InvoiceEvent::Issued { number: invoices.last + 1 })?;
    /// assert_eq!(executed.position(), store.head()?);
    /// # Ok::<(), annals::Error>(())
    /// ```
    pub fn decision(&self, query: Query) -> QueryDecision<'_> {
        QueryDecision { store: self, query, validated: None, terms: Terms::default() }
    }
}

/// A decision on what a query finds. It does nothing before [`QueryDecision::decide`].
#[derive(Debug)]
#[must_use = "a decision that is not made does nothing"]
pub struct QueryDecision<'s> {
    store: &'s Store,
    query: Query,
    validated: Option<Query>,
    terms: Terms,
}

impl QueryDecision<'_> {
    /// Makes the decision stand unless an event that matches this query has come in between: narrower than the one that
    /// is read, where not all that the model shows decides.
    pub fn validate(mut self, query: Query) -> Self {
        self.validated = Some(query);
        self
    }

    /// Makes it a command that is applied once, however often it is sent: see
    /// [`Repository::command`](crate::Repository::command). The id counts for the whole store.
    pub fn command(mut self, id: CommandId) -> Self {
        self.terms.id = Some(id);
        self
    }

    /// Gives this metadata to the events.
    pub fn metadata(mut self, metadata: &Metadata) -> Self {
        self.terms.metadata = Some(Arc::new(metadata.clone()));
        self
    }

    /// Sets how often it is decided again after a conflict.
    pub fn retries(mut self, retries: u32) -> Self {
        self.terms.retries = retries;
        self
    }

    /// Sets the durability of what is appended.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.terms.durability = Some(durability);
        self
    }

    /// Folds what the query finds into a model, without deciding anything.
    ///
    /// # Errors
    /// [`Error::UnknownEvent`](crate::Error::UnknownEvent) if the query finds an event of a type that the model does not
    /// declare: ask for fewer types with [`Query::and_types`]; otherwise those of [`Read::next`](crate::Read::next).
    pub fn load<T: DecisionModel>(&self, mut model: T) -> Result<Loaded<T>> {
        let codec = codec_of::<T>(self.store)?;
        let head = self.fold(&codec, &mut model, None)?;
        Ok(Loaded { folded: Arc::new(Folded::new(model)), head, problems: Vec::new() })
    }

    /// Folds what the query finds into a model, decides on it, and appends what was decided: see [`Store::decide`].
    ///
    /// # Errors
    /// [`ExecuteError::Rejected`] with the rejection of the closure; [`ExecuteError::Store`] with the errors of
    /// [`QueryDecision::load`] and [`Store::send`]. Only a conflict is decided again.
    pub fn decide<T, D, M>(
        self,
        mut model: T,
        mut decide: impl FnMut(&T) -> D,
    ) -> Result<Executed, ExecuteError<D::Rejection>>
    where
        T: DecisionModel,
        D: Decision<T::Event, M>,
    {
        let codec = codec_of::<T>(self.store)?;
        let store = self.terms.sender(self.store)?;
        let (mut head, mut conflicts) = (None, 0);
        loop {
            if let Some(executed) = self.terms.find_applied(&store, None)? {
                return Ok(executed);
            }
            head = self.fold(&codec, &mut model, head)?;
            let events = match decide(&model).into_events() {
                Ok(events) => events,
                // The same command may have been applied since it was looked for, and be why this one is rejected.
                Err(rejection) => {
                    let applied = self.terms.find_applied(&store, None)?;
                    return applied.ok_or(ExecuteError::Rejected(rejection));
                }
            };
            let events = encode_events(&codec, events, |event, encoded| (T::stream_of(&event), encoded))?;
            if events.is_empty() {
                return Ok(self.terms.do_nothing(&store, None, Executed::nothing(head, None))?);
            }
            match settle(self.terms.send(&store, self.commit(head, events), None))? {
                Ok(executed) => return Ok(executed),
                Err(conflict) if conflicts == self.terms.retries => {
                    return Ok(self.terms.give_up(&store, None, conflict)?);
                }
                Err(_) => conflicts += 1,
            }
        }
    }

    /// Takes in what the query finds behind a position, and returns the head up to which that is complete.
    fn fold<T: DecisionModel>(
        &self,
        codec: &EventCodec<T::Event>,
        model: &mut T,
        after: Option<Position>,
    ) -> Result<Option<Position>> {
        let mut read = self.store.read(self.query.clone()).after(after);
        let head = read.head();
        while let Some(event) = read.next()? {
            for decoded in codec.decode(&event)? {
                model.apply(&decoded);
            }
        }
        Ok(head)
    }

    fn commit(&self, head: Option<Position>, events: Vec<(Cow<'static, str>, NewEvent)>) -> Commit {
        let condition = self.validated.as_ref().unwrap_or(&self.query);
        let mut commit = Commit::new().unless_after(condition.clone(), head);
        for (number, (stream, event)) in events.into_iter().enumerate() {
            let event = self.terms.mark(&stream, number, event);
            commit = commit.append(stream, ExpectedVersion::Any, [event]);
        }
        commit
    }
}

/// The codecs of the models that were used on a store: each declaration is checked once.
#[derive(Default)]
struct ModelCodecs(Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>);

fn codec_of<T: DecisionModel>(store: &Store) -> Result<EventCodec<T::Event>> {
    let codecs = store.attachment::<ModelCodecs>();
    let known = codecs.0.lock().get(&TypeId::of::<T>()).cloned();
    if let Some(codec) = known.and_then(|codec| codec.downcast::<EventCodec<T::Event>>().ok()) {
        return Ok(EventCodec::clone(&codec));
    }
    let codec = T::event_types().check()?;
    codecs.0.lock().insert(TypeId::of::<T>(), Arc::new(codec.clone()));
    Ok(codec)
}
