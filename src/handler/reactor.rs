//! Reactors: side effects that follow from events.

use std::fmt;
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::error::HandlerError;
use super::handle::HandlerHandle;
use super::kind::HandlerKind;
use super::policy::OnError;
use super::runner::Runner;
use super::work::{Checkpoint, Work};
use crate::error::Result;
use crate::types::Position;
use crate::{Event, EventCodec, Horizon, Query, StateBatch, Store};

/// A reactor that is described first and then [started](Reactor::start).
#[must_use = "a reactor does nothing before it is started"]
pub struct Reactor {
    store: Store,
    runner: Runner,
    react: Box<React>,
}

type React = dyn FnMut(&Event<'_>) -> Result<(), HandlerError> + Send;

impl fmt::Debug for Reactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reactor").field("runner", &self.runner).finish_non_exhaustive()
    }
}

impl Store {
    /// Reacts to events with something that happens outside of the store: a mail, a call, a print.
    ///
    /// A reactor that is new begins with what is appended after it was started, unless something else is said: nobody
    /// wants mails about the past. Where it came to is remembered under its name. It sees an event at least once, and
    /// again only if its process or the power ended before the checkpoint behind it was saved, or if it failed; it never
    /// sees one because a read model is built anew. Who must not do anything twice tells events apart by their
    /// [id](Event::id) or a [`DeduplicationKey`](super::DeduplicationKey).
    ///
    /// ```
    /// use annals::{ExpectedVersion, NewEvent, OnError, Query, Store};
    ///
    /// let store = Store::in_memory()?;
    /// let (mails, sent) = std::sync::mpsc::channel();
    /// let mailer = store
    ///     .react("mailer", move |event| Ok(mails.send(format!("welcome, {}", event.stream()))?))
    ///     .query(Query::types(["Opened"]))
    ///     .policy(OnError::retry(5).then_park())
    ///     .start()?;
    ///
    /// let opened = store.append("account-alice", ExpectedVersion::NoStream, [NewEvent::raw("Opened", "")])?;
    /// mailer.wait_for(opened.last_position())?;
    /// assert_eq!(sent.recv().as_deref(), Ok("welcome, account-alice"));
    /// # Ok::<(), annals::Error>(())
    /// ```
    pub fn react(
        &self,
        name: impl Into<String>,
        react: impl FnMut(&Event<'_>) -> Result<(), HandlerError> + Send + 'static,
    ) -> Reactor {
        let runner = Runner::new(name, HandlerKind::Reactor).from_end();
        Reactor { store: self.clone(), runner, react: Box::new(react) }
    }

    /// The same with the events of a type, decoded and brought to their current version. Reacts to the events of that type
    /// unless another query is given; one that cannot be decoded is not retried.
    ///
    /// ```
    /// use annals::{EventTypes, ExpectedVersion, Store};
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Serialize, Deserialize)]
    /// enum AccountEvent { Opened { owner: String }, Deposited { cents: u64 } }
    ///
    /// let store = Store::in_memory()?;
    /// let types = EventTypes::<AccountEvent>::new().check()?;
    /// let (mails, sent) = std::sync::mpsc::channel();
    /// let mailer = store
    ///     .react_to("mailer", &types, move |event, _recorded| {
    ///         if let AccountEvent::Opened { owner } = event {
    ///             mails.send(format!("welcome, {owner}"))?;
    ///         }
    ///         Ok(())
    ///     })
    ///     .start()?;
    /// let opened = types.encode(&AccountEvent::Opened { owner: "Alice".into() })?;
    /// let opened = store.append("account-alice", ExpectedVersion::NoStream, [opened])?;
    /// mailer.wait_for(opened.last_position())?;
    /// assert_eq!(sent.recv().as_deref(), Ok("welcome, Alice"));
    /// # Ok::<(), annals::Error>(())
    /// ```
    pub fn react_to<E: DeserializeOwned + Send + Sync + 'static>(
        &self,
        name: impl Into<String>,
        types: &EventCodec<E>,
        mut react: impl FnMut(E, &Event<'_>) -> Result<(), HandlerError> + Send + 'static,
    ) -> Reactor {
        let (query, types) = (types.query(), types.clone());
        let decode_and_react = move |recorded: &Event<'_>| {
            let mut events = types.decode(recorded).map_err(HandlerError::permanent)?;
            events.try_for_each(|event| react(event, recorded))
        };
        self.react(name, decode_and_react).query(query)
    }
}

impl Reactor {
    fn with(self, change: impl FnOnce(Runner) -> Runner) -> Self {
        Self { runner: change(self.runner), ..self }
    }

    /// Reacts only to events that match. See [`Runner::query`].
    pub fn query(self, query: Query) -> Self {
        self.with(|runner| runner.query(query))
    }

    /// What is done about an event that it could not react to. See [`Runner::policy`].
    pub fn policy(self, policy: OnError) -> Self {
        self.with(|runner| runner.policy(policy))
    }

    /// Begins with the first event of the store when it is new.
    pub fn from_start(self) -> Self {
        self.with(Runner::from_start)
    }

    /// Begins behind this position when it is new.
    pub fn after(self, position: Position) -> Self {
        self.with(|runner| runner.after(position))
    }

    /// Reacts to events up to this head. See [`Runner::upto`].
    pub fn upto(self, horizon: Horizon) -> Self {
        self.with(|runner| runner.upto(horizon))
    }

    /// Saves its checkpoint after so many events at the latest. See [`Runner::batch`].
    pub fn batch(self, events_max: usize) -> Self {
        self.with(|runner| runner.batch(events_max))
    }

    /// Saves its checkpoint so long after an event at the latest. See [`Runner::save_within`].
    pub fn save_within(self, delay: Duration) -> Self {
        self.with(|runner| runner.save_within(delay))
    }

    /// Keeps at most so many dead letters. See [`Runner::dead_letters`].
    pub fn dead_letters(self, letters_max: usize) -> Self {
        self.with(|runner| runner.dead_letters(letters_max))
    }

    /// Starts it. It sees every event that is appended after this returned.
    ///
    /// # Errors
    /// Those of [`Runner::start`].
    pub fn start(self) -> Result<HandlerHandle> {
        let keeper = CheckpointKeeper::new(&self.store, self.runner.name());
        self.runner.start(&self.store, Box::new(ReactorWork { keeper, react: self.react }))
    }
}

/// Keeps a checkpoint, and nothing with it, in the state of the store.
pub(super) struct CheckpointKeeper {
    store: Store,
    name: String,
}

impl CheckpointKeeper {
    pub(super) fn new(store: &Store, name: &str) -> Self {
        Self { store: store.clone(), name: name.to_owned() }
    }

    pub(super) fn load(&self) -> Result<Option<Checkpoint>> {
        Checkpoint::load(&self.store, &self.name)
    }

    pub(super) fn save(&self, checkpoint: &Checkpoint) -> Result<()> {
        self.store.state()?.write(checkpoint.add_to(StateBatch::new())).map(drop)
    }
}

struct ReactorWork {
    keeper: CheckpointKeeper,
    react: Box<React>,
}

impl Work for ReactorWork {
    fn load(&mut self, _store: &Store) -> Result<Option<Checkpoint>> {
        self.keeper.load()
    }

    fn handle(&mut self, event: &Event<'_>) -> Result<(), HandlerError> {
        (self.react)(event)
    }

    fn save(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        self.keeper.save(checkpoint)
    }

    fn roll_back(&mut self) -> Result<()> {
        Ok(())
    }

    fn has_effects_outside(&self) -> bool {
        true
    }
}
