//! Several aggregates in one commit: what is decided on each is staged, and appended as a whole or not at all.
//!
//! Every stream that was looked at is part of the decision: one that nothing was decided on is expected to stay as it
//! was, too.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display};
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::category::Category;
use super::command::{CommandId, Executed, Terms, settle};
use super::decider::Deciders;
use super::decision::Decision;
use super::error::ExecuteError;
use super::execution::encode_events;
use super::folded::Fold;
use super::repository::{Aggregate, Repository};
use crate::error::{Conflict, Error, ExpectationFailure, ExpectedVersion, Invalid, Result};
use crate::types::{Durability, Position, StreamVersion};
use crate::{Commit, Metadata, NewEvent, Query, Store};

impl Store {
    /// Executes commands on several aggregates in one commit. If any of them has changed in between, everything is
    /// decided again, so that the closure may be called more than once.
    ///
    /// ```
    /// use annals::{Aggregate, ExecuteError, Store};
    /// use serde::{Deserialize, Serialize};
    ///
    /// # #[derive(Serialize, Deserialize)]
    /// # enum AccountEvent { Deposited { cents: u64 }, Withdrawn { cents: u64 } }
    /// # #[derive(Debug, PartialEq)]
    /// # struct Overdrawn;
    /// # #[derive(Default)]
    /// # struct Account { balance_cents: u64 }
    /// # impl Aggregate for Account {
    /// #     const CATEGORY: &'static str = "account";
    /// #     type Event = AccountEvent;
    /// #     fn apply(&mut self, event: &AccountEvent) {
    /// #         match event {
    /// #             AccountEvent::Deposited { cents } => self.balance_cents += cents,
    /// #             AccountEvent::Withdrawn { cents } => self.balance_cents -= cents,
    /// #         }
    /// #     }
    /// # }
    /// # impl Account {
    /// #     fn deposit(&self, cents: u64) -> Result<AccountEvent, Overdrawn> { Ok(AccountEvent::Deposited { cents }) }
    /// #     fn withdraw(&self, cents: u64) -> Result<AccountEvent, Overdrawn> {
    /// #         if cents > self.balance_cents { Err(Overdrawn) } else { Ok(AccountEvent::Withdrawn { cents }) }
    /// #     }
    /// # }
    /// let store = Store::in_memory()?;
    /// let accounts = store.repository::<Account>()?;
    /// accounts.execute("alice", |account| account.deposit(5_000)).expect("a deposit");
    ///
    /// let transfer = |cents| {
    ///     store.transact(|work| {
    ///         work.execute(&accounts, "alice", |account| account.withdraw(cents))?;
    ///         work.execute(&accounts, "bob", |account| account.deposit(cents))
    ///     })
    /// };
    /// transfer(1_500).expect("there is enough");
    /// assert_eq!(transfer(9_000).unwrap_err().rejection(), Some(&Overdrawn));
    /// assert_eq!(accounts.load("bob")?.balance_cents, 1_500);
    /// # Ok::<(), annals::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`Transaction::run`].
    pub fn transact<R>(
        &self,
        work: impl FnMut(&mut Work<'_>) -> Result<(), ExecuteError<R>>,
    ) -> Result<Executed, ExecuteError<R>> {
        self.transaction().run(work)
    }

    /// Begins a commit of several aggregates that is to have a command id, metadata, or another durability.
    pub fn transaction(&self) -> Transaction<'_> {
        Transaction { store: self, terms: Terms::default() }
    }
}

/// A commit of several aggregates. It does nothing before [`Transaction::run`].
#[derive(Debug)]
#[must_use = "a transaction that is not run does nothing"]
pub struct Transaction<'s> {
    store: &'s Store,
    terms: Terms,
}

impl Transaction<'_> {
    /// Makes it a command that is applied once, however often it is sent: see [`Repository::command`]. The id counts for
    /// the whole store.
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

    /// Decides, and appends everything that was staged in one commit: see [`Store::transact`]. Nothing staged is a
    /// success that writes nothing.
    ///
    /// The closure may see one aggregate as it was before somebody's commit and another as it is after that. Nothing
    /// comes of it: what is decided on them, a rejection and nothing at all included, is decided again.
    ///
    /// # Errors
    /// Whatever the closure returns, after which nothing was written; [`ExecuteError::Store`] with the errors of
    /// [`Store::send`]. Only a conflict is decided again.
    pub fn run<R>(
        self,
        mut work: impl FnMut(&mut Work<'_>) -> Result<(), ExecuteError<R>>,
    ) -> Result<Executed, ExecuteError<R>> {
        let store = self.terms.sender(self.store)?;
        let mut conflicts = 0;
        loop {
            if let Some(executed) = self.terms.find_applied(&store, None)? {
                return Ok(executed);
            }
            let mut staged = Work::new(&store, &self.terms);
            let sent = match work(&mut staged) {
                Ok(()) => staged.finish()?,
                Err(ExecuteError::Rejected(rejection)) => staged.reject(rejection)?,
                Err(error) => return Err(error),
            };
            match sent {
                Ok(executed) => return Ok(executed),
                Err(conflict) if conflicts == self.terms.retries => {
                    return Ok(self.terms.give_up(&store, None, conflict)?);
                }
                Err(_) => conflicts += 1,
            }
        }
    }
}

/// What is staged for one commit.
pub struct Work<'t> {
    store: &'t Store,
    terms: &'t Terms,
    streams: BTreeMap<String, Touched>,
    events: Vec<Staged>,
    conditions: Vec<(Query, Option<Position>)>,
    /// The streams that events were staged for as they are, which no state shows.
    as_they_are: BTreeSet<String>,
    head: Option<Position>,
    /// Whether the states were loaded at different heads.
    heads_differ: bool,
}

/// An aggregate that was looked at.
struct Touched {
    version: Option<StreamVersion>,
    /// The head of the store when it was loaded.
    head: Option<Position>,
    /// The state with what is staged, of whatever type.
    state: Box<dyn Any>,
}

/// An event that is to be appended.
struct Staged {
    stream: String,
    expected: ExpectedVersion,
    event: NewEvent,
}

impl Touched {
    fn expected(&self) -> ExpectedVersion {
        self.version.map_or(ExpectedVersion::NoStream, ExpectedVersion::Exact)
    }

    /// What is expected of the stream when events are staged for it as they are: that it stays as it was loaded, unless
    /// `expected` says something else, which remains.
    fn narrowed(&self, expected: ExpectedVersion) -> ExpectedVersion {
        match (expected, self.version) {
            (ExpectedVersion::Any, _) | (ExpectedVersion::StreamExists, Some(_)) => self.expected(),
            _ => expected,
        }
    }
}

impl<'t> Work<'t> {
    fn new(store: &'t Store, terms: &'t Terms) -> Self {
        let (streams, events, conditions) = (BTreeMap::new(), Vec::new(), Vec::new());
        let as_they_are = BTreeSet::new();
        Self { store, terms, streams, events, conditions, as_they_are, head: None, heads_differ: false }
    }

    /// The aggregate as of now, with what is staged for it. It is expected to stay as it was until the commit.
    ///
    /// # Errors
    /// Those of [`Repository::load`]; [`Error::Invalid`](crate::Error::Invalid) if the repository is one of another
    /// store, or the stream was used as another kind of aggregate in this transaction.
    pub fn load<A: Aggregate + 'static>(&mut self, repository: &Repository<A>, id: impl Display) -> Result<&A> {
        let stream = repository.category.stream(&id)?;
        Ok(self.touch(&repository.category, &stream)?)
    }

    /// Decides on an aggregate, and stages the events. A later decision in the same transaction sees them.
    ///
    /// # Errors
    /// [`ExecuteError::Rejected`] with the rejection of the closure; [`ExecuteError::Store`] with the errors of
    /// [`Work::load`]. Nothing was staged then.
    pub fn execute<A, D, M>(
        &mut self,
        repository: &Repository<A>,
        id: impl Display,
        decide: impl FnOnce(&A) -> D,
    ) -> Result<(), ExecuteError<D::Rejection>>
    where
        A: Aggregate + 'static,
        D: Decision<A::Event, M>,
    {
        self.stage(&repository.category, &id, decide)
    }

    /// Decides a command by the functions of a decider, and stages the events.
    ///
    /// # Errors
    /// Those of [`Work::execute`].
    pub fn decide<C, S: 'static, E, R>(
        &mut self,
        deciders: &Deciders<C, S, E, R>,
        id: impl Display,
        command: &C,
    ) -> Result<(), ExecuteError<R>>
    where
        E: Serialize + DeserializeOwned,
    {
        self.stage(&deciders.category, &id, |state| (deciders.decide)(command, state))
    }

    /// Stages events as they are, for a stream of which `expected` holds before the commit. One that was loaded in this
    /// transaction is expected to stay as it was, too, whatever `expected` allows. No aggregate shows the events: one on
    /// the same stream cannot be used behind them.
    pub fn append(
        &mut self,
        stream: impl Into<String>,
        expected: impl Into<ExpectedVersion>,
        events: impl IntoIterator<Item = NewEvent>,
    ) {
        let (stream, expected) = (stream.into(), expected.into());
        let expected = self.streams.get(&stream).map_or(expected, |touched| touched.narrowed(expected));
        self.events.extend(events.into_iter().map(|event| Staged { stream: stream.clone(), expected, event }));
        self.as_they_are.insert(stream);
    }

    /// Lets the commit fail, and be decided again, if any event after this position matches the query.
    pub fn unless_after(&mut self, query: Query, after: impl Into<Option<Position>>) {
        self.conditions.push((query, after.into()));
    }

    fn stage<F, D, M>(
        &mut self,
        category: &Category<F>,
        id: &dyn Display,
        decide: impl FnOnce(&F::State) -> D,
    ) -> Result<(), ExecuteError<D::Rejection>>
    where
        F: Fold,
        F::State: 'static,
        F::Event: Serialize + DeserializeOwned,
        D: Decision<F::Event, M>,
    {
        let stream = category.stream(id)?;
        let state = self.touch(category, &stream)?;
        let events = decide(state).into_events().map_err(ExecuteError::Rejected)?;
        let events = encode_events(&category.codec, events, |event, encoded| (event, encoded))?;
        for (event, _) in &events {
            category.fold.apply(state, event);
        }
        let expected = self.streams[&stream].expected();
        let staged = events.into_iter().map(|(_, event)| Staged { stream: stream.clone(), expected, event });
        self.events.extend(staged);
        Ok(())
    }

    /// The state of a stream, loaded when it is first asked for.
    fn touch<F>(&mut self, category: &Category<F>, stream: &str) -> Result<&mut F::State>
    where
        F: Fold,
        F::State: 'static,
        F::Event: DeserializeOwned,
    {
        if !is_same(&category.store, self.store) {
            return Err(refused("store", format!("{stream:?} is of another open store than the transaction")));
        }
        if self.as_they_are.contains(stream) {
            let problem = format!("{stream:?} has events staged by Work::append, which its aggregate would not show");
            return Err(refused("stream", problem));
        }
        if !self.streams.contains_key(stream) {
            let loaded = category.load(stream)?;
            self.heads_differ |= !self.streams.is_empty() && loaded.head() != self.head;
            self.head = loaded.head();
            let (version, head, state) = (loaded.version(), loaded.head(), Box::new(category.own_state(loaded)));
            self.streams.insert(stream.to_owned(), Touched { version, head, state });
        }
        let touched = self.streams.get_mut(stream).and_then(|touched| touched.state.downcast_mut());
        touched.ok_or_else(|| refused("stream", format!("{stream:?} is used as two kinds of aggregates")))
    }

    /// Why the states that were looked at never were at the same time; `None` if they were. If no stream has moved since
    /// it was loaded, all of them were as they are now when the last was.
    fn torn(&self) -> Result<Option<Error>> {
        let mut failures = Vec::new();
        for (stream, touched) in self.streams.iter().filter(|_| self.heads_differ) {
            let actual = self.store.version(stream)?;
            if actual != touched.version {
                let (stream, expected) = (stream.clone(), touched.expected());
                failures.push(ExpectationFailure::Stream { stream, expected, actual, position: None });
            }
        }
        Ok((!failures.is_empty()).then(|| Conflict { failures }.into()))
    }

    /// Rejects, unless the rejection does not count: the inner error is the conflict for which it does not.
    fn reject<R>(&self, rejection: R) -> Result<Result<Executed, Error>, ExecuteError<R>> {
        if let Some(executed) = self.terms.find_applied(self.store, None)? {
            return Ok(Ok(executed));
        }
        self.torn()?.map_or(Err(ExecuteError::Rejected(rejection)), |conflict| Ok(Err(conflict)))
    }

    /// Sends what is staged. The inner error is a conflict.
    fn finish(self) -> Result<Result<Executed, Error>> {
        if self.events.is_empty() {
            let nothing = self.terms.do_nothing(self.store, None, Executed::nothing(self.head, None))?;
            return Ok(self.torn()?.map_or(Ok(nothing), Err));
        }
        let (mut only_read, mut conditions) = (self.streams, self.conditions);
        let mut commit = Commit::new();
        for (number, Staged { stream, expected, event }) in self.events.into_iter().enumerate() {
            if let Some(touched) = only_read.remove(&stream)
                && touched.expected() != expected
            {
                // It holds only where the stream has moved since it was loaded, which is to be decided again.
                conditions.push((Query::stream(stream.as_str()), touched.head));
            }
            let event = self.terms.mark(&stream, number, event);
            commit = commit.append(stream, expected, [event]);
        }
        for (stream, touched) in only_read {
            let expected = touched.expected();
            commit = commit.expect(stream, expected);
        }
        for (query, after) in conditions {
            commit = commit.unless_after(query, after);
        }
        settle(self.terms.send(self.store, commit, None))
    }
}

/// Whether two handles are of one open store. Ids do not tell: a copy of a store has the same.
fn is_same(one: &Store, other: &Store) -> bool {
    Arc::ptr_eq(&one.attachment::<Identity>(), &other.attachment::<Identity>())
}

/// What an open store is known by.
#[derive(Default)]
struct Identity;

fn refused(field: &str, problem: String) -> Error {
    Invalid::of(field, problem).into()
}

impl fmt::Debug for Work<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Work").field("streams", &self.streams.len()).field("events", &self.events.len()).finish()
    }
}
