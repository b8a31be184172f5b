//! Declaring and starting a SQL projection, and its handle.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::Connection;
use serde::de::DeserializeOwned;

use super::database::{Database, SqlSource};
use super::work::{SqlApply, SqlCore, SqlWork, Tables};
use crate::error::{Error, Result};
use crate::projection::builder::RunOptions;
use crate::types::Position;
use crate::{
    Event, EventTypes, HandlerError, HandlerHandle, Lag, OnError, Query, Rebuilt, Remainder, StartReport, Store,
};

/// A SQL projection that is about to be started. Begun with [`Store::sql_projection`] or
/// [`Store::sql_projection_over`].
#[must_use = "a projection does nothing before it is started"]
pub struct SqlProjectionBuilder {
    store: Store,
    name: String,
    source: SqlSource,
    version: u32,
    schema: String,
    declared: Result<(Query, Box<SqlApply>)>,
    query: Option<Query>,
    options: RunOptions,
}

impl Store {
    /// Begins a projection into the tables of a SQLite database, where `apply` changes the tables for each event. It is
    /// given the connection, in a transaction that it must not end; its type is that of `annals::rusqlite`.
    ///
    /// ```
    /// use annals::{EventTypes, ExpectedVersion, NewEvent, Store, rusqlite};
    /// use serde::Deserialize;
    ///
    /// #[derive(Deserialize)]
    /// enum AccountEvent { Deposited { cents: i64 } }
    ///
    /// # let directory = tempfile::tempdir().expect("a temporary directory");
    /// # let path = directory.path().join("balances.sqlite");
    /// let store = Store::in_memory()?;
    /// let balances = store
    ///     .sql_projection("balances", &path, EventTypes::new(), |tables, event: &AccountEvent, recorded| {
    ///         let AccountEvent::Deposited { cents } = event;
    ///         let upsert = "INSERT INTO balances VALUES (?1, ?2) ON CONFLICT DO UPDATE SET cents = cents + ?2";
    ///         tables.prepare_cached(upsert)?.execute((recorded.stream(), cents))?;
    ///         Ok(())
    ///     })
    ///     .schema("CREATE TABLE balances (account TEXT PRIMARY KEY, cents INTEGER NOT NULL)")
    ///     .start()?;
    ///
    /// let deposited = NewEvent::json("Deposited", &serde_json::json!({ "cents": 500 }))?;
    /// let appended = store.append("account-alice", ExpectedVersion::Any, [deposited])?;
    /// balances.wait_for(appended.last_position())?;
    /// let reader = rusqlite::Connection::open(&path)?;
    /// assert_eq!(reader.query_row("SELECT sum(cents) FROM balances", [], |row| row.get::<_, i64>(0))?, 500);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn sql_projection<E: DeserializeOwned + Send + Sync + 'static>(
        &self,
        name: impl Into<String>,
        source: impl Into<SqlSource>,
        events: EventTypes<E>,
        mut apply: impl FnMut(&Connection, &E, &Event<'_>) -> Result<(), HandlerError> + Send + 'static,
    ) -> SqlProjectionBuilder {
        let declared = events.check().map(|codec| {
            let query = codec.query();
            let apply = move |connection: &Connection, event: &Event<'_>| {
                codec.decode(event)?.try_for_each(|decoded| apply(connection, &decoded, event))
            };
            (query, Box::new(apply) as Box<SqlApply>)
        });
        SqlProjectionBuilder::new(self, name.into(), source.into(), declared)
    }

    /// Begins a SQL projection of events as they are recorded, without a type for them: `apply` is called with each that
    /// matches. For the rest it is like [`Store::sql_projection`].
    pub fn sql_projection_over(
        &self,
        name: impl Into<String>,
        source: impl Into<SqlSource>,
        query: Query,
        apply: impl FnMut(&Connection, &Event<'_>) -> Result<(), HandlerError> + Send + 'static,
    ) -> SqlProjectionBuilder {
        SqlProjectionBuilder::new(self, name.into(), source.into(), Ok((query, Box::new(apply))))
    }
}

impl SqlProjectionBuilder {
    fn new(store: &Store, name: String, source: SqlSource, declared: Result<(Query, Box<SqlApply>)>) -> Self {
        // What is handled is committed before it counts as handled: readers have connections of their own.
        let options = RunOptions::default().save_within(Duration::ZERO);
        let (store, version, schema) = (store.clone(), 1, String::new());
        Self { store, name, source, version, schema, declared, query: None, options }
    }

    /// The statements that create the tables, run when there are none yet. When the projection is built anew, what they
    /// have created is dropped first, indexes and data included. Tables of others stay: one that is there under a name
    /// that the statements create is refused.
    pub fn schema(mut self, statements: impl Into<String>) -> Self {
        self.schema = statements.into();
        self
    }

    /// Sets the version of the logic and the schema, 1 unless this is called: when the tables were made by another one,
    /// they are built anew.
    pub fn version(mut self, version: u32) -> Self {
        self.version = version;
        self
    }

    /// Reads only the events that match, instead of all of the types that can be decoded.
    pub fn query(mut self, query: Query) -> Self {
        self.query = Some(query);
        self
    }

    /// What is done about an event that cannot be decoded or applied: the projection stops unless something else is said.
    ///
    /// No event is blamed for a database that another connection has locked, a full disk, or one that fails: the
    /// projection waits ([`HandlerState::Unavailable`](crate::HandlerState::Unavailable),
    /// [`HandlerState::NoSpace`](crate::HandlerState::NoSpace)) and applies the same events again, however long that takes.
    pub fn policy(mut self, policy: OnError) -> Self {
        self.options = self.options.policy(policy);
        self
    }

    /// Commits after so many events at the latest, while it catches up: 10,000 unless this is called, which is also the
    /// most.
    pub fn save_every_events(mut self, events: usize) -> Self {
        self.options = self.options.save_events(events);
        self
    }

    /// Applies only events that are known to survive a loss of power. Otherwise the tables show what is visible, and are
    /// built anew if some of it was lost.
    pub fn synced(mut self) -> Self {
        self.options = self.options.synced();
        self
    }

    /// Opens the database and starts the thread that applies what is missing, and then what comes. Returns once it runs.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) if the events, the schema or the options are wrong;
    /// [`Error::Held`](crate::Error::Held) if the name is in use; [`Error::Unavailable`](crate::Error::Unavailable),
    /// [`Error::Full`](crate::Error::Full) and [`Error::Io`](crate::Error::Io) with what SQLite says; those of
    /// [`Store::state`].
    pub fn start(self) -> Result<SqlProjectionHandle> {
        let Self { store, name, source, version, schema, declared, query, options } = self;
        let (declared_query, apply) = declared?;
        let query = query.unwrap_or(declared_query);
        let stops = options.stops();
        let runner = options.runner(&name, query.clone());
        let database = Database::open(source, &name, version, schema)?;
        let core = Arc::new(SqlCore {
            store: store.clone(),
            name,
            version,
            query,
            stops,
            report: Mutex::new(StartReport::default()),
            rebuilding: Mutex::new(()),
            tables: Mutex::new(Tables::new(database, apply)),
        });
        let handler = runner.start(&store, Box::new(SqlWork(Arc::clone(&core))))?;
        Ok(SqlProjectionHandle { core, handler })
    }
}

impl fmt::Debug for SqlProjectionBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlProjectionBuilder")
            .field("name", &self.name)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

/// A running SQL projection. Dropping it stops the projection, as [`stop`](SqlProjectionHandle::stop) does.
pub struct SqlProjectionHandle {
    pub(super) core: Arc<SqlCore>,
    handler: HandlerHandle,
}

impl SqlProjectionHandle {
    /// Waits until everything up to the position is committed to the tables: every connection sees it then.
    ///
    /// # Errors
    /// Those of [`HandlerHandle::wait_for`].
    pub fn wait_for(&self, position: Position) -> Result<()> {
        self.handler.wait_for(position)
    }

    /// The same, for no longer than this time on the clock of the store.
    ///
    /// # Errors
    /// Those of [`HandlerHandle::wait_for_within`].
    pub fn wait_for_within(&self, position: Position, timeout: Duration) -> Result<()> {
        self.handler.wait_for_within(position, timeout)
    }

    /// Shows the connection of the projection to a function: the only way to a database in memory. It sees what is not
    /// committed yet and holds the projection up; other readers open the file by themselves.
    pub fn read<T>(&self, look: impl FnOnce(&Connection) -> T) -> T {
        look(&self.core.tables.lock().database.connection)
    }

    /// How far the tables are behind the store.
    ///
    /// # Errors
    /// Those of [`HandlerHandle::lag`].
    pub fn lag(&self) -> Result<Lag> {
        self.handler.lag()
    }

    /// How the projection began: from what was saved, or anew and why.
    pub fn start_report(&self) -> StartReport {
        self.core.report.lock().clone()
    }

    /// Builds the tables anew from the first event, in one transaction: other connections see the old tables until it is
    /// committed, and the new ones from then on; a kill before that leaves the old ones. The projection applies nothing
    /// else meanwhile, and the write-ahead log of the database grows by the size of the tables.
    ///
    /// What is left out, and what is done about an event that fails, is the same as in
    /// [`ProjectionHandle::rebuild`](crate::ProjectionHandle::rebuild).
    ///
    /// # Errors
    /// [`Error::HandlerFailed`](crate::Error::HandlerFailed), naming the event, if one fails and the policy lets none
    /// pass; [`Error::Held`](crate::Error::Held) if a rebuild is under way, or the database has been gone on with by a
    /// process that has opened the store since it was closed here; those of [`HandlerHandle::wait_for`] if the projection
    /// has ended: another one may have its name; [`Error::Unavailable`](crate::Error::Unavailable),
    /// [`Error::Full`](crate::Error::Full) and [`Error::Io`](crate::Error::Io) with what SQLite says; those of
    /// [`Read::next`](crate::Read::next). The old tables stay.
    pub fn rebuild(&self) -> Result<Rebuilt> {
        let Some(_alone) = self.core.rebuilding.try_lock() else {
            return Err(Error::Held { name: self.core.name.clone() });
        };
        let rebuilt = self.handler.at_rest(|| self.core.rebuild());
        rebuilt.map_err(|error| self.handler.told_why(error))
    }

    /// Applies what is being applied, commits, and ends the thread.
    ///
    /// # Errors
    /// Those of [`HandlerHandle::stop`].
    pub fn stop(self) -> Result<()> {
        self.handler.stop()
    }

    /// Applies everything up to the visible head as of now and stops; what is left after this time on the clock of the store
    /// is told.
    ///
    /// # Errors
    /// Those of [`HandlerHandle::drain`].
    pub fn drain(self, time: Duration) -> Result<Remainder> {
        self.handler.drain(time)
    }

    /// Lets the projection run on without a handle, until the store is shut down or closed.
    pub fn detach(self) {
        self.handler.detach();
    }

    /// The handler that runs the projection: its status, and pausing.
    pub fn handler(&self) -> &HandlerHandle {
        &self.handler
    }
}

impl fmt::Debug for SqlProjectionHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlProjectionHandle").field("name", &self.core.name).finish_non_exhaustive()
    }
}
