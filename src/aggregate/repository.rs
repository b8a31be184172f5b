//! Aggregates as plain structs: the trait, and the repository that loads them and executes commands on them.

use std::fmt::{self, Display};
use std::marker::PhantomData;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::category::Category;
use super::command::{Command, CommandId, Executed};
use super::decision::Decision;
use super::error::ExecuteError;
use super::folded::{Fold, Loaded};
use super::snapshots::{SnapshotPolicy, SnapshotProblem};
use crate::error::{ExpectedVersion, Result};
use crate::types::{Durability, StreamVersion};
use crate::{EventTypes, Metadata, Store};

/// A state that the events of one stream amount to.
///
/// A plain struct: what events do to it is here, what may happen to it is in methods of its own that return events.
///
/// ```
/// use annals::{Aggregate, ExecuteError, Store};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// enum AccountEvent { Opened { owner: String }, Deposited { cents: u64 }, Withdrawn { cents: u64 } }
///
/// #[derive(Debug, PartialEq)]
/// struct Overdrawn;
///
/// #[derive(Default)]
/// struct Account { balance_cents: u64 }
///
/// impl Aggregate for Account {
///     const CATEGORY: &'static str = "account";
///     type Event = AccountEvent;
///
///     fn apply(&mut self, event: &AccountEvent) {
///         match event {
///             AccountEvent::Opened { .. } => {}
///             AccountEvent::Deposited { cents } => self.balance_cents += cents,
///             AccountEvent::Withdrawn { cents } => self.balance_cents -= cents,
///         }
///     }
/// }
///
/// impl Account {
///     fn withdraw(&self, cents: u64) -> Result<AccountEvent, Overdrawn> {
///         if cents > self.balance_cents { Err(Overdrawn) } else { Ok(AccountEvent::Withdrawn { cents }) }
///     }
/// }
///
/// let store = Store::in_memory()?;
/// let accounts = store.repository::<Account>()?;
/// accounts.execute("alice", |_| AccountEvent::Opened { owner: "Alice".into() })?;
/// accounts.execute("alice", |_| AccountEvent::Deposited { cents: 5_000 })?;
/// let rejected = accounts.execute("alice", |account| account.withdraw(9_000)).unwrap_err();
/// assert_eq!(rejected.rejection(), Some(&Overdrawn));
/// accounts.execute("alice", |account| account.withdraw(1_500)).expect("there is enough");
/// assert_eq!(accounts.load("alice")?.balance_cents, 3_500);
/// # Ok::<(), annals::Error>(())
/// ```
pub trait Aggregate: Default {
    /// The category of its streams: the aggregate with the id `alice` is the stream `account-alice`. Not empty, and
    /// without `-`.
    const CATEGORY: &'static str;

    /// The version of the state: raise it when what events do to the state changes, so that older snapshots are not
    /// used. A fingerprint notices much of that by itself, as [`Repository::snapshots`] says; this is for the rest.
    const STATE_VERSION: u32 = 1;

    /// Its events: an enum, whose variants are the types of the events.
    type Event: Serialize + DeserializeOwned;

    /// Takes in what has happened. Never fails: it has happened.
    fn apply(&mut self, event: &Self::Event);

    /// How events are recorded: names, versions, upcasters, codec, tags, samples.
    fn event_types() -> EventTypes<Self::Event> {
        EventTypes::new()
    }
}

/// Folds events by the methods of an aggregate.
pub(super) struct OfAggregate<A>(PhantomData<fn() -> A>);

impl<A> Clone for OfAggregate<A> {
    fn clone(&self) -> Self {
        Self(PhantomData)
    }
}

impl<A: Aggregate> Fold for OfAggregate<A> {
    type State = A;
    type Event = A::Event;

    fn initial(&self) -> A {
        A::default()
    }

    #[inline]
    fn apply(&self, state: &mut A, event: &A::Event) {
        state.apply(event);
    }
}

impl Store {
    /// The repository of the aggregates of one kind.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) with everything that is wrong with the declaration of its events, or if
    /// its category is empty, too long, or contains `-`.
    pub fn repository<A: Aggregate>(&self) -> Result<Repository<A>> {
        let codec = A::event_types().check()?;
        Ok(Repository { category: Category::new(self, A::CATEGORY, OfAggregate(PhantomData), codec)? })
    }
}

/// The aggregates of one kind in a store: loads them, and executes commands on them.
///
/// Cheap to clone; clones share a cache, and can be used from any thread.
pub struct Repository<A: Aggregate> {
    pub(super) category: Category<OfAggregate<A>>,
}

impl<A: Aggregate> Repository<A> {
    /// Sets how often a command is decided again after a conflict, [`CONFLICT_RETRIES`](crate::CONFLICT_RETRIES)
    /// otherwise.
    #[must_use]
    pub fn retries(mut self, retries: u32) -> Self {
        self.category.terms.retries = retries;
        self
    }

    /// Sets the durability of what is appended, which is the store's otherwise.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.category.terms.durability = Some(durability);
        self
    }

    /// Gives this metadata to the events, instead of what the store's handle gives.
    #[must_use]
    pub fn metadata(mut self, metadata: &Metadata) -> Self {
        self.category.terms.metadata = Some(Arc::new(metadata.clone()));
        self
    }

    /// Keeps up to so many states in memory, at least 1, those that were used last. Clones of the repository made from
    /// now on share them.
    ///
    /// A state is brought up to date by reading what came after it, whoever appended that, so that it is never stale.
    #[must_use]
    pub fn cached(mut self, aggregates_max: usize) -> Self
    where
        A: Clone,
    {
        self.category.keep_in_memory(aggregates_max);
        self
    }

    /// Saves and uses snapshots.
    ///
    /// One is used only if it was made by the same logic, as far as that can be told: [`Aggregate::STATE_VERSION`] is
    /// the same, and so is a fingerprint, the hash of what the [`samples`](EventTypes::samples) of the events make of the
    /// default state one after the other. This is a heuristic: it notices what changes the outcome of the samples, and
    /// nothing else: without samples, only what the default state looks like. [`Repository::check_snapshots`] is the net
    /// below it. Fields that serde skips are not saved, and the state comes back with their defaults.
    ///
    /// # Panics
    /// If [`Aggregate::apply`] panics on the samples: they are applied in their order, which should be one in which they
    /// can happen.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) if the codec is not available or a state does not come out of it as it
    /// went in; [`Error::Codec`](crate::Error::Codec) if a state cannot be serialized.
    pub fn snapshots(mut self, policy: SnapshotPolicy) -> Result<Self>
    where
        A: Serialize + DeserializeOwned,
    {
        self.category.save_snapshots(policy, A::STATE_VERSION)?;
        Ok(self)
    }

    /// Checks one in so many of the snapshots that are used, at random, against a replay of its events; 0 checks none,
    /// 1 every one. Where the two differ, the problem is told, the snapshot is deleted, and the replay is served. Two
    /// states that say the same in their serialized form, but for the order of lists, do not differ.
    #[must_use]
    pub fn check_snapshots(mut self, one_in: u32) -> Self {
        self.category.checked_one_in = one_in;
        self
    }

    /// Is told of every snapshot that could not be used or saved, with the stream. What is loaded is right all the same.
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

    /// The store.
    pub fn store(&self) -> &Store {
        &self.category.store
    }

    /// The aggregate as of now; its default state if nothing has happened to it yet.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) if the id is empty or too long;
    /// [`Error::UnknownEvent`](crate::Error::UnknownEvent) and [`Error::Codec`](crate::Error::Codec), naming the event,
    /// if one is of a type or version that was not declared or cannot be decoded;
    /// [`Error::Corrupt`](crate::Error::Corrupt) or [`Error::Io`](crate::Error::Io) if one cannot be read.
    pub fn load(&self, id: impl Display) -> Result<Loaded<A>> {
        self.category.load(&self.category.stream(&id)?)
    }

    /// The aggregate as it was right after the event of this version.
    ///
    /// Reads from the newest snapshot at or before it, if there are snapshots, and leaves the cache alone.
    /// [`Loaded::head`] is the head of the store as of now.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) if the stream has not come so far, and those of [`Repository::load`].
    pub fn load_at(&self, id: impl Display, version: StreamVersion) -> Result<Loaded<A>> {
        self.category.load_at(&self.category.stream(&id)?, version)
    }

    /// Saves a snapshot of the aggregate as of now; whether it was saved, which it is not if nothing has happened since
    /// the last one. For [`SnapshotPolicy::on_demand`].
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) if the repository has no policy for snapshots; otherwise those of
    /// [`Repository::load`] and [`Store::save_snapshot`].
    pub fn save_snapshot(&self, id: impl Display) -> Result<bool> {
        self.category.save_snapshot(&self.category.stream(&id)?)
    }

    /// Loads the aggregate, decides on it, and appends what was decided, if nothing has happened to it in between. If
    /// something has, it is decided again on the new state, so that the closure may be called more than once.
    ///
    /// The closure returns events in any form: see [`Decision`]. A rejection leaves no trace. No event at all is a
    /// success that writes nothing. No lock is held while the closure runs, so that it may use the store.
    ///
    /// # Errors
    /// [`ExecuteError::Rejected`] with the rejection of the closure; [`ExecuteError::Store`] with the errors of
    /// [`Repository::load`] and [`Store::send`]. Only a conflict is decided again, and never
    /// [`Error::Indeterminate`](crate::Error::Indeterminate): see [`Repository::command`] for what to do then.
    pub fn execute<D, M>(
        &self,
        id: impl Display,
        decide: impl FnMut(&A) -> D,
    ) -> Result<Executed, ExecuteError<D::Rejection>>
    where
        D: Decision<A::Event, M>,
    {
        self.category.execute(&self.category.terms, &id, decide)
    }

    /// Appends events without deciding anything, if the stream is as expected. No events are a success that writes
    /// nothing.
    ///
    /// # Errors
    /// Those of [`Store::send`]; [`Error::Codec`](crate::Error::Codec) if an event cannot be encoded.
    pub fn append(
        &self,
        id: impl Display,
        expected: impl Into<ExpectedVersion>,
        events: impl IntoIterator<Item = A::Event>,
    ) -> Result<Executed> {
        self.category.append_events(&self.category.terms, &id, expected.into(), events)
    }

    /// A command that is applied once to an aggregate, however often it is sent.
    ///
    /// What it wrote carries its id as a tag. A command whose events are there is not decided again, and of two that are
    /// sent at the same time one writes. So after [`Error::Indeterminate`](crate::Error::Indeterminate), or a lost
    /// answer, or a crash, reopen the store and send it again. A command that was rejected, or decided to do nothing, has
    /// left no trace, and is decided again.
    ///
    /// An id counts for each aggregate on its own.
    ///
    /// ```
    /// # use annals::{Aggregate, CommandId, Store};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)]
    /// # enum AccountEvent { Deposited { cents: u64 } }
    /// # #[derive(Default)]
    /// # struct Account { balance_cents: u64 }
    /// # impl Aggregate for Account {
    /// #     const CATEGORY: &'static str = "account";
    /// #     type Event = AccountEvent;
    /// #     fn apply(&mut self, AccountEvent::Deposited { cents }: &AccountEvent) { self.balance_cents += cents; }
    /// # }
    /// # let store = Store::in_memory()?;
    /// let accounts = store.repository::<Account>()?;
    /// let id = CommandId::of_name("payment 4711");
    /// let first = accounts.command(id).execute("alice", |_| AccountEvent::Deposited { cents: 500 })?;
    /// let again = accounts.command(id).execute("alice", |_| AccountEvent::Deposited { cents: 500 })?;
    /// assert!(again.was_applied_before() && again.position() == first.position());
    /// assert_eq!(accounts.load("alice")?.balance_cents, 500);
    /// # Ok::<(), annals::Error>(())
    /// ```
    pub fn command(&self, id: CommandId) -> Command<'_, Self> {
        Command::new(self, &self.category.terms, id)
    }
}

impl<A: Aggregate> Clone for Repository<A> {
    fn clone(&self) -> Self {
        Self { category: self.category.clone() }
    }
}

impl<A: Aggregate> fmt::Debug for Repository<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Repository").field("category", &A::CATEGORY).finish_non_exhaustive()
    }
}

impl<A: Aggregate> Command<'_, Repository<A>> {
    /// Executes the command: see [`Repository::execute`] and [`Repository::command`].
    ///
    /// # Errors
    /// Those of [`Repository::execute`].
    pub fn execute<D, M>(
        self,
        id: impl Display,
        decide: impl FnMut(&A) -> D,
    ) -> Result<Executed, ExecuteError<D::Rejection>>
    where
        D: Decision<A::Event, M>,
    {
        self.on.category.execute(&self.terms, &id, decide)
    }

    /// Appends events without deciding anything: see [`Repository::append`].
    ///
    /// # Errors
    /// Those of [`Repository::append`].
    pub fn append(
        self,
        id: impl Display,
        expected: impl Into<ExpectedVersion>,
        events: impl IntoIterator<Item = A::Event>,
    ) -> Result<Executed> {
        self.on.category.append_events(&self.terms, &id, expected.into(), events)
    }
}
