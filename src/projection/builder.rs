//! Declaring and starting an embedded projection.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, RwLock};

use super::handle::ProjectionHandle;
use super::model::{self, ReadModel};
use super::work::{Apply, Core, Embedded, Serving};
use super::{Projection, StartReport};
use crate::error::Result;
use crate::{Event, HandlerError, HandlerKind, Horizon, OnError, Query, Runner, Store};

/// Events between two saves, unless something else is said.
pub(super) const SAVE_EVENTS: usize = 10_000;
/// Time between two saves, unless something else is said.
pub(super) const SAVE_WITHIN: Duration = Duration::from_secs(1);

/// An embedded projection that is about to be started. Begun with [`Store::projection`] or [`Store::projection_over`].
#[must_use = "a projection does nothing before it is started"]
pub struct ProjectionBuilder<M> {
    store: Store,
    name: String,
    initial: M,
    version: u32,
    declared: Result<Declared<M>>,
    options: RunOptions,
}

/// Which events, and what they do.
struct Declared<M> {
    query: Query,
    apply: Box<Apply<M>>,
}

/// What every projection can be told about how it runs.
#[derive(Debug, Clone)]
pub(super) struct RunOptions {
    policy: OnError,
    save_events: usize,
    save_within: Duration,
    horizon: Horizon,
}

impl Default for RunOptions {
    fn default() -> Self {
        let policy = OnError::default();
        Self { policy, save_events: SAVE_EVENTS, save_within: SAVE_WITHIN, horizon: Horizon::Visible }
    }
}

impl RunOptions {
    pub(super) fn policy(self, policy: OnError) -> Self {
        Self { policy, ..self }
    }

    pub(super) fn save_events(self, save_events: usize) -> Self {
        Self { save_events, ..self }
    }

    pub(super) fn save_within(self, save_within: Duration) -> Self {
        Self { save_within, ..self }
    }

    pub(super) fn synced(self) -> Self {
        Self { horizon: Horizon::Synced, ..self }
    }

    /// Whether no event is let pass.
    pub(super) fn stops(&self) -> bool {
        self.policy.stops()
    }

    pub(super) fn runner(self, name: &str, query: Query) -> Runner {
        Runner::new(name, HandlerKind::Projection)
            .query(query)
            .policy(self.policy)
            .batch(self.save_events)
            .save_within(self.save_within)
            .upto(self.horizon)
    }
}

impl Store {
    /// Begins a projection into a model in memory, which is `initial` before the first event, each time that it is built.
    ///
    /// The model is saved in the state of the store together with the checkpoint, so that each event is in it exactly
    /// once, however the process ends. See [`Projection`] and [`ReadModel`].
    pub fn projection<P>(&self, name: impl Into<String>, initial: P) -> ProjectionBuilder<P>
    where
        P: Projection + ReadModel + Clone + Send + Sync + 'static,
        P::Event: Send + Sync + 'static,
    {
        let declared = P::event_types().check().map(|codec| {
            let query = P::query(&codec);
            let apply = move |model: &mut P, event: &Event<'_>| {
                for decoded in codec.decode(event)? {
                    model.apply(&decoded, event);
                }
                Ok(())
            };
            Declared { query, apply: Box::new(apply) as Box<Apply<P>> }
        });
        ProjectionBuilder::new(self, name.into(), initial, declared).version(P::VERSION)
    }

    /// Begins a projection of events as they are recorded, without a type for them: `apply` is called with each that
    /// matches. For the rest it is like [`Store::projection`].
    ///
    /// ```
    /// use annals::{ExpectedVersion, NewEvent, Query, Store};
    ///
    /// let store = Store::in_memory()?;
    /// let counts = store
    ///     .projection_over("counts", Query::category("account"), 0_u64, |count, _event| {
    ///         *count += 1;
    ///         Ok(())
    ///     })
    ///     .start()?;
    /// let appended = store.append("account-alice", ExpectedVersion::Any, [NewEvent::raw("Opened", "")])?;
    /// counts.wait_for(appended.last_position())?;
    /// assert_eq!(*counts.view(), 1);
    /// # Ok::<(), annals::Error>(())
    /// ```
    pub fn projection_over<M: ReadModel + Clone + Send + Sync + 'static>(
        &self,
        name: impl Into<String>,
        query: Query,
        initial: M,
        apply: impl Fn(&mut M, &Event<'_>) -> Result<(), HandlerError> + Send + Sync + 'static,
    ) -> ProjectionBuilder<M> {
        ProjectionBuilder::new(self, name.into(), initial, Ok(Declared { query, apply: Box::new(apply) }))
    }
}

impl<M: ReadModel + Clone + Send + Sync + 'static> ProjectionBuilder<M> {
    fn new(store: &Store, name: String, initial: M, declared: Result<Declared<M>>) -> Self {
        Self { store: store.clone(), name, initial, version: 1, declared, options: RunOptions::default() }
    }

    /// Sets the version of the logic: when another version has saved the state, the projection is rebuilt.
    pub fn version(mut self, version: u32) -> Self {
        self.version = version;
        self
    }

    /// What is done about an event that cannot be decoded, or makes the projection panic: the projection stops unless
    /// something else is said.
    pub fn policy(mut self, policy: OnError) -> Self {
        self.options = self.options.policy(policy);
        self
    }

    /// Saves after so many events at the latest: 10,000 unless this is called, which is also the most.
    pub fn save_every_events(mut self, events: usize) -> Self {
        self.options = self.options.save_events(events);
        self
    }

    /// Saves so long after an event at the latest, on the clock of the store: 1 second unless this is called. What is not
    /// saved when the process ends is applied again by the next one.
    pub fn save_within(mut self, delay: Duration) -> Self {
        self.options = self.options.save_within(delay);
        self
    }

    /// Applies only events that are known to survive a loss of power. Otherwise a projection shows what is visible, and
    /// is rebuilt if some of it was lost.
    pub fn synced(mut self) -> Self {
        self.options = self.options.synced();
        self
    }

    /// Loads what was saved and starts the thread that applies what is missing, and then what comes. Returns once it
    /// runs; [`ProjectionHandle::wait_for`] waits until it has caught up.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) if the events, the parts of the model or the options are wrong;
    /// [`Error::Held`](crate::Error::Held) if the name is in use; those of [`Store::state`] and [`Runner::start`].
    pub fn start(self) -> Result<ProjectionHandle<M>> {
        let Self { store, name, mut initial, version, declared, options } = self;
        let Declared { query, apply } = declared?;
        model::names(&mut initial)?;
        let stops = options.stops();
        let runner = options.runner(&name, query.clone());
        let core = Arc::new(Core {
            store: store.clone(),
            name,
            query,
            stops,
            version,
            serving: RwLock::new(Serving::new(initial.clone(), None)),
            mending: Mutex::default(),
            mended: Condvar::new(),
            initial,
            apply,
            ledger: Mutex::new(None),
            rebuilding: Mutex::new(()),
            report: Mutex::new(StartReport::default()),
        });
        let handler = runner.start(&store, Box::new(Embedded(Arc::clone(&core))))?;
        Ok(ProjectionHandle::new(core, handler))
    }
}

impl<M> fmt::Debug for ProjectionBuilder<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProjectionBuilder")
            .field("name", &self.name)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}
