//! Relays: the outbox. A relay delivers events to a sink, in order, each until the sink has taken it.

use std::fmt;

use super::error::HandlerError;
use super::handle::HandlerHandle;
use super::kind::HandlerKind;
use super::policy::OnError;
use super::reactor::CheckpointKeeper;
use super::runner::Runner;
use super::sink::{DeliveryOrder, Outgoing, Sink};
use super::work::{Checkpoint, Work};
use crate::error::Result;
use crate::types::{Position, StoreId};
use crate::{Event, Horizon, Query, Store};

/// Events that are delivered with one call, unless something else is said.
const BATCH_EVENTS: usize = 100;

/// A relay that is described first and then [started](Relay::start).
#[must_use = "a relay delivers nothing before it is started"]
pub struct Relay {
    store: Store,
    runner: Runner,
    sink: Box<dyn Sink>,
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay").field("runner", &self.runner).finish_non_exhaustive()
    }
}

impl Store {
    /// Relays events to a sink, the first event of the store first unless something else is said.
    ///
    /// The log is the outbox: what was committed is delivered, sooner or later, and what was not is not. Where the relay
    /// came to is remembered under its name. A delivery can come twice, with the same
    /// [key](super::DeduplicationKey), if the process or the power ended before the checkpoint behind it was saved.
    ///
    /// ```
    /// use annals::{ExpectedVersion, HandlerError, NewEvent, OnError, Outgoing, Sink, Store};
    ///
    /// struct Printer;
    ///
    /// impl Sink for Printer {
    ///     fn deliver(&mut self, batch: &[Outgoing]) -> Result<(), HandlerError> {
    ///         batch.iter().for_each(|outgoing| println!("{} {}", outgoing.key, outgoing.event.event_type));
    ///         Ok(())
    ///     }
    /// }
    ///
    /// let store = Store::in_memory()?;
    /// let relay = store.relay("outbox", Printer).policy(OnError::retry(10).then_park()).start()?;
    /// let opened = store.append("account-alice", ExpectedVersion::NoStream, [NewEvent::raw("Opened", "")])?;
    /// relay.wait_for(opened.last_position())?;
    /// # Ok::<(), annals::Error>(())
    /// ```
    pub fn relay(&self, name: impl Into<String>, sink: impl Sink + 'static) -> Relay {
        let runner = Runner::new(name, HandlerKind::Sink).batch(BATCH_EVENTS);
        Relay { store: self.clone(), runner, sink: Box::new(sink) }
    }
}

impl Relay {
    fn with(self, change: impl FnOnce(Runner) -> Runner) -> Self {
        Self { runner: change(self.runner), ..self }
    }

    /// Relays only events that match. See [`Runner::query`].
    pub fn query(self, query: Query) -> Self {
        self.with(|runner| runner.query(query))
    }

    /// What is done about a delivery that failed. See [`Runner::policy`].
    pub fn policy(self, policy: OnError) -> Self {
        self.with(|runner| runner.policy(policy))
    }

    /// Begins with what is appended after it was started for the first time.
    pub fn from_end(self) -> Self {
        self.with(Runner::from_end)
    }

    /// Begins behind this position when it is new.
    pub fn after(self, position: Position) -> Self {
        self.with(|runner| runner.after(position))
    }

    /// Relays events up to this head. See [`Runner::upto`].
    pub fn upto(self, horizon: Horizon) -> Self {
        self.with(|runner| runner.upto(horizon))
    }

    /// Delivers at most so many events with one call: 100 unless this is called. See [`Runner::batch`].
    pub fn batch(self, events_max: usize) -> Self {
        self.with(|runner| runner.batch(events_max))
    }

    /// Keeps at most so many dead letters. See [`Runner::dead_letters`].
    pub fn dead_letters(self, letters_max: usize) -> Self {
        self.with(|runner| runner.dead_letters(letters_max))
    }

    /// Starts it.
    ///
    /// # Errors
    /// Those of [`Runner::start`]; [`Error::Invalid`](crate::Error::Invalid) if the policy parks and the sink relies on
    /// the order of all events.
    pub fn start(self) -> Result<HandlerHandle> {
        let runner = match self.sink.order() {
            DeliveryOrder::PerStream => self.runner,
            DeliveryOrder::Global => self.runner.in_global_order(),
        };
        let keeper = CheckpointKeeper::new(&self.store, runner.name());
        let work = RelayWork { keeper, store: self.store.id(), sink: self.sink, collected: Vec::new() };
        runner.start(&self.store, Box::new(work))
    }
}

struct RelayWork {
    keeper: CheckpointKeeper,
    store: StoreId,
    sink: Box<dyn Sink>,
    collected: Vec<Outgoing>,
}

impl Work for RelayWork {
    fn load(&mut self, _store: &Store) -> Result<Option<Checkpoint>> {
        self.keeper.load()
    }

    fn handle(&mut self, event: &Event<'_>) -> Result<(), HandlerError> {
        self.collected.push(Outgoing::of(self.store, event));
        Ok(())
    }

    fn flush(&mut self) -> Result<(), HandlerError> {
        if !self.collected.is_empty() {
            self.sink.deliver(&self.collected)?;
            self.collected.clear();
        }
        Ok(())
    }

    fn save(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        self.keeper.save(checkpoint)
    }

    fn roll_back(&mut self) -> Result<()> {
        self.collected.clear();
        Ok(())
    }

    fn has_effects_outside(&self) -> bool {
        true
    }
}
