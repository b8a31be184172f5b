//! Aggregates as plain functions: where a state begins, how it evolves, and how a command is decided on it.

use std::fmt::{self, Display};
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::category::Category;
use super::command::{Command, CommandId, Executed};
use super::decision::Decision;
use super::error::ExecuteError;
use super::folded::{Fold, Loaded};
use super::snapshots::{SnapshotPolicy, SnapshotProblem};
use crate::error::Result;
use crate::limits::EVENTS_PER_COMMIT_MAX;
use crate::types::{Durability, StreamVersion};
use crate::{EventTypes, Metadata, Store};

/// An aggregate of functions: commands `C` are decided on a state `S` and come to events `E` or a rejection `R`.
///
/// ```
/// use annals::{Decider, Store};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Clone, Copy, PartialEq, Debug)]
/// enum Light { Off, On }
/// enum LightCommand { Switch, Fix }
/// #[derive(Serialize, Deserialize)]
/// enum LightEvent { SwitchedOn, SwitchedOff }
///
/// fn evolve(_: Light, event: &LightEvent) -> Light {
///     match event { LightEvent::SwitchedOn => Light::On, LightEvent::SwitchedOff => Light::Off }
/// }
///
/// fn decide(command: &LightCommand, light: &Light) -> Result<LightEvent, &'static str> {
///     match (command, light) {
///         (LightCommand::Switch, Light::Off) => Ok(LightEvent::SwitchedOn),
///         (LightCommand::Switch, Light::On) => Ok(LightEvent::SwitchedOff),
///         (LightCommand::Fix, _) => Err("it is not broken"),
///     }
/// }
///
/// let store = Store::in_memory()?;
/// let lights = store.decider(Decider::new("light", || Light::Off, evolve, decide))?;
/// lights.execute("hall", LightCommand::Switch).expect("it can be switched");
/// assert_eq!(*lights.load("hall")?, Light::On);
/// let rejected = lights.execute("hall", LightCommand::Fix).unwrap_err();
/// assert_eq!(rejected.rejection(), Some(&"it is not broken"));
/// # Ok::<(), annals::Error>(())
/// ```
#[must_use = "a decider decides on the streams of a store: Store::decider"]
pub struct Decider<C, S, E, R> {
    category: String,
    functions: Functions<C, S, E, R>,
    event_types: EventTypes<E>,
    state_version: u32,
}

struct Functions<C, S, E, R> {
    evolving: Evolving<S, E>,
    decide: Arc<Decide<C, S, E, R>>,
}

type Evolve<S, E> = dyn Fn(S, &E) -> S + Send + Sync;
type Decide<C, S, E, R> = dyn Fn(&C, &S) -> Result<Vec<E>, R> + Send + Sync;

/// Folds events by the functions of a decider.
pub(super) struct Evolving<S, E> {
    initial: Arc<dyn Fn() -> S + Send + Sync>,
    evolve: Arc<Evolve<S, E>>,
}

impl<S, E> Clone for Evolving<S, E> {
    fn clone(&self) -> Self {
        Self { initial: Arc::clone(&self.initial), evolve: Arc::clone(&self.evolve) }
    }
}

impl<S, E> Fold for Evolving<S, E> {
    type State = S;
    type Event = E;

    fn initial(&self) -> S {
        (self.initial)()
    }

    fn apply(&self, state: &mut S, event: &E) {
        let before = std::mem::replace(state, (self.initial)());
        *state = (self.evolve)(before, event);
    }
}

impl<C, S, E, R> Decider<C, S, E, R> {
    /// A decider of the streams of this category. What `decide` returns is a [`Decision`].
    pub fn new<D, M>(
        category: impl Into<String>,
        initial: impl Fn() -> S + Send + Sync + 'static,
        evolve: impl Fn(S, &E) -> S + Send + Sync + 'static,
        decide: impl Fn(&C, &S) -> D + Send + Sync + 'static,
    ) -> Self
    where
        D: Decision<E, M, Rejection = R>,
    {
        // One more than a commit can hold is enough to be refused: an iterator may not end.
        let decide = move |command: &C, state: &S| {
            let events = decide(command, state).into_events()?;
            Ok(events.into_iter().take(EVENTS_PER_COMMIT_MAX + 1).collect())
        };
        let evolving = Evolving { initial: Arc::new(initial), evolve: Arc::new(evolve) };
        Self {
            category: category.into(),
            functions: Functions { evolving, decide: Arc::new(decide) },
            event_types: EventTypes::new(),
            state_version: 1,
        }
    }

    /// Declares how events are recorded: names, versions, upcasters, codec, tags, samples.
    pub fn event_types(mut self, event_types: EventTypes<E>) -> Self {
        self.event_types = event_types;
        self
    }

    /// Sets the version of the state, as [`Aggregate::STATE_VERSION`](crate::Aggregate::STATE_VERSION) does; 1
    /// otherwise.
    pub fn state_version(mut self, state_version: u32) -> Self {
        self.state_version = state_version;
        self
    }

    /// The category.
    pub fn category(&self) -> &str {
        &self.category
    }

    /// Where a state begins.
    pub fn initial(&self) -> S {
        self.functions.evolving.initial()
    }

    /// What an event makes of a state.
    pub fn evolve(&self, state: S, event: &E) -> S {
        (self.functions.evolving.evolve)(state, event)
    }

    /// What a command comes to.
    ///
    /// # Errors
    /// The rejection.
    pub fn decide(&self, command: &C, state: &S) -> Result<Vec<E>, R> {
        (self.functions.decide)(command, state)
    }
}

impl<C, S, E, R> fmt::Debug for Decider<C, S, E, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decider").field("category", &self.category).finish_non_exhaustive()
    }
}

impl Store {
    /// The aggregates of a decider.
    ///
    /// # Errors
    /// Those of [`Store::repository`].
    pub fn decider<C, S, E, R>(&self, decider: Decider<C, S, E, R>) -> Result<Deciders<C, S, E, R>>
    where
        E: Serialize + DeserializeOwned,
    {
        let codec = decider.event_types.check()?;
        let Functions { evolving, decide } = decider.functions;
        let category = Category::new(self, &decider.category, evolving, codec)?;
        Ok(Deciders { category, decide, state_version: decider.state_version })
    }
}

/// The aggregates of a [`Decider`] in a store: loads them, and executes commands on them. What a
/// [`Repository`](crate::Repository) is for structs.
///
/// Cheap to clone; clones share a cache, and can be used from any thread.
pub struct Deciders<C, S, E, R> {
    pub(super) category: Category<Evolving<S, E>>,
    pub(super) decide: Arc<Decide<C, S, E, R>>,
    state_version: u32,
}

impl<C, S, E, R> Deciders<C, S, E, R> {
    /// See [`Repository::retries`](crate::Repository::retries).
    #[must_use]
    pub fn retries(mut self, retries: u32) -> Self {
        self.category.terms.retries = retries;
        self
    }

    /// See [`Repository::durability`](crate::Repository::durability).
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.category.terms.durability = Some(durability);
        self
    }

    /// See [`Repository::metadata`](crate::Repository::metadata).
    #[must_use]
    pub fn metadata(mut self, metadata: &Metadata) -> Self {
        self.category.terms.metadata = Some(Arc::new(metadata.clone()));
        self
    }

    /// See [`Repository::cached`](crate::Repository::cached).
    #[must_use]
    pub fn cached(mut self, aggregates_max: usize) -> Self
    where
        S: Clone,
    {
        self.category.keep_in_memory(aggregates_max);
        self
    }

    /// See [`Repository::snapshots`](crate::Repository::snapshots).
    ///
    /// # Panics
    /// If `evolve` panics on the samples.
    ///
    /// # Errors
    /// Those of [`Repository::snapshots`](crate::Repository::snapshots).
    pub fn snapshots(mut self, policy: SnapshotPolicy) -> Result<Self>
    where
        S: Serialize + DeserializeOwned,
    {
        self.category.save_snapshots(policy, self.state_version)?;
        Ok(self)
    }

    /// See [`Repository::check_snapshots`](crate::Repository::check_snapshots).
    #[must_use]
    pub fn check_snapshots(mut self, one_in: u32) -> Self {
        self.category.checked_one_in = one_in;
        self
    }

    /// See [`Repository::on_snapshot_problem`](crate::Repository::on_snapshot_problem).
    #[must_use]
    pub fn on_snapshot_problem(mut self, tell: impl Fn(&str, &SnapshotProblem) + Send + Sync + 'static) -> Self {
        self.category.observer = Some(Arc::new(tell));
        self
    }

    /// The name of the stream of an aggregate.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) if the id is empty or too long.
    pub fn stream(&self, id: impl Display) -> Result<String> {
        self.category.stream(&id)
    }
}

impl<C, S, E: Serialize + DeserializeOwned, R> Deciders<C, S, E, R> {
    /// The state as of now; the initial one if nothing has happened yet.
    ///
    /// # Errors
    /// Those of [`Repository::load`](crate::Repository::load).
    pub fn load(&self, id: impl Display) -> Result<Loaded<S>> {
        self.category.load(&self.category.stream(&id)?)
    }

    /// The state as it was right after the event of this version. See [`Repository::load_at`](crate::Repository::load_at).
    ///
    /// # Errors
    /// Those of [`Repository::load_at`](crate::Repository::load_at).
    pub fn load_at(&self, id: impl Display, version: StreamVersion) -> Result<Loaded<S>> {
        self.category.load_at(&self.category.stream(&id)?, version)
    }

    /// See [`Repository::save_snapshot`](crate::Repository::save_snapshot).
    ///
    /// # Errors
    /// Those of [`Repository::save_snapshot`](crate::Repository::save_snapshot).
    pub fn save_snapshot(&self, id: impl Display) -> Result<bool> {
        self.category.save_snapshot(&self.category.stream(&id)?)
    }

    /// Loads the state, decides the command on it, and appends what was decided, as
    /// [`Repository::execute`](crate::Repository::execute) does.
    ///
    /// # Errors
    /// Those of [`Repository::execute`](crate::Repository::execute).
    #[expect(clippy::needless_pass_by_value, reason = "a command is used up")]
    pub fn execute(&self, id: impl Display, command: C) -> Result<Executed, ExecuteError<R>> {
        self.category.execute(&self.category.terms, &id, |state| (self.decide)(&command, state))
    }

    /// A command that is applied once: see [`Repository::command`](crate::Repository::command).
    pub fn command(&self, id: CommandId) -> Command<'_, Self> {
        Command::new(self, &self.category.terms, id)
    }
}

impl<C, S, E: Serialize + DeserializeOwned, R> Command<'_, Deciders<C, S, E, R>> {
    /// Executes the command: see [`Deciders::execute`].
    ///
    /// # Errors
    /// Those of [`Deciders::execute`].
    #[expect(clippy::needless_pass_by_value, reason = "a command is used up")]
    pub fn execute(self, id: impl Display, command: C) -> Result<Executed, ExecuteError<R>> {
        let decide = &self.on.decide;
        self.on.category.execute(&self.terms, &id, |state| decide(&command, state))
    }
}

impl<C, S, E, R> Clone for Deciders<C, S, E, R> {
    fn clone(&self) -> Self {
        let (category, decide) = (self.category.clone(), Arc::clone(&self.decide));
        Self { category, decide, state_version: self.state_version }
    }
}

impl<C, S, E, R> fmt::Debug for Deciders<C, S, E, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deciders").field("category", &self.category.name()).finish_non_exhaustive()
    }
}
