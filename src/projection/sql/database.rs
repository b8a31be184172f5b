//! The database of a SQL projection: opening it, its schema, transactions, and the row that holds the checkpoint.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};

use crate::HandlerError;
use crate::error::{Error, Invalid, Result};
use crate::randomness::{Randomness, SystemRandomness};

/// How long a statement waits for another writer of the same database.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

const CREATE_CHECKPOINTS: &str = "CREATE TABLE IF NOT EXISTS annals_projections (
    name TEXT PRIMARY KEY, version INTEGER NOT NULL, checkpoint BLOB, objects TEXT NOT NULL, owner BLOB)";
/// What databases lack that were made before projections had owners.
const ADD_OWNER: &str = "ALTER TABLE annals_projections ADD COLUMN owner BLOB";

const OWNER_BYTES: usize = 16;

/// Where the tables of a SQL projection are: a path, at which a database is created if there is none, or a connection
/// that is set up already.
#[derive(Debug)]
pub struct SqlSource(Source);

#[derive(Debug)]
enum Source {
    Path(PathBuf),
    Connection(Connection),
}

impl From<&str> for SqlSource {
    fn from(path: &str) -> Self {
        Self(Source::Path(path.into()))
    }
}

impl From<&Path> for SqlSource {
    fn from(path: &Path) -> Self {
        Self(Source::Path(path.into()))
    }
}

impl From<PathBuf> for SqlSource {
    fn from(path: PathBuf) -> Self {
        Self(Source::Path(path))
    }
}

impl From<&PathBuf> for SqlSource {
    fn from(path: &PathBuf) -> Self {
        Self(Source::Path(path.clone()))
    }
}

impl From<Connection> for SqlSource {
    fn from(connection: Connection) -> Self {
        Self(Source::Connection(connection))
    }
}

/// A table, view or trigger that a schema creates: its type and its name.
type Object = (String, String);

pub(super) struct Database {
    pub(super) connection: Connection,
    path: PathBuf,
    name: String,
    version: u32,
    schema: String,
    objects: Vec<Object>,
    /// A random number, for the row of the projection. A store can be closed while its handler is still at an event, and
    /// opened in another process, whose handler goes on with the tables: then this one must not.
    owner: [u8; OWNER_BYTES],
    /// What the row said when the tables were taken over.
    found: Found,
}

/// What was saved for the projection.
pub(super) struct Saved {
    pub(super) version: u32,
    pub(super) found: Found,
}

/// How far the tables have come, and who has brought them there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Found {
    /// `None` if the tables are new.
    pub(super) checkpoint: Option<Vec<u8>>,
    owner: Option<Vec<u8>>,
}

impl Database {
    pub(super) fn open(source: SqlSource, name: &str, version: u32, schema: String) -> Result<Self> {
        let objects = objects_of(&schema)?;
        let (opened, path) = match source.0 {
            Source::Path(path) => (Connection::open(&path), path),
            Source::Connection(connection) => {
                let path = connection.path().unwrap_or_default().into();
                (Ok(connection), path)
            }
        };
        let connection = opened.map_err(|error| sql_error("open the database", &path, error))?;
        let mut owner = [0; OWNER_BYTES];
        SystemRandomness::new().fill(&mut owner);
        let database =
            Self { connection, path, name: name.to_owned(), version, schema, objects, owner, found: Found::default() };
        database.told("set up the database", Self::set_up)?;
        Ok(database)
    }

    fn set_up(&self) -> rusqlite::Result<()> {
        self.connection.busy_timeout(BUSY_TIMEOUT)?;
        // A database in memory has no such log, and says so.
        self.connection.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))?;
        self.wait_for_disk(false)?;
        self.connection.execute_batch(CREATE_CHECKPOINTS)?;
        let has_owners = || self.connection.column_exists(None, "annals_projections", "owner");
        if has_owners()? {
            return Ok(());
        }
        // Somebody else may do it at the same time.
        let added = self.connection.execute_batch(ADD_OWNER);
        if has_owners()? { Ok(()) } else { added }
    }

    /// Runs what talks to the database, and tells what failed.
    pub(super) fn told<'d, T>(
        &'d self,
        operation: &'static str,
        act: impl FnOnce(&'d Self) -> rusqlite::Result<T>,
    ) -> Result<T> {
        act(self).map_err(|error| sql_error(operation, &self.path, error))
    }

    /// The error of an event that was applied: an outage, if it is one of the database and not of the event.
    pub(super) fn judged(&self, error: HandlerError) -> HandlerError {
        let mut cause: Option<&(dyn std::error::Error + 'static)> =
            if error.is_permanent() { None } else { Some(error.reason()) };
        while let Some(reason) = cause {
            let of_sqlite = reason.downcast_ref::<rusqlite::Error>();
            if let Some(outage) = of_sqlite.and_then(|error| outage("apply an event to", &self.path, error)) {
                return outage.into();
            }
            cause = reason.source();
        }
        error
    }

    /// What was saved, as whoever goes on with the tables finds it.
    pub(super) fn load(&mut self) -> Result<Option<Saved>> {
        let saved = self.saved()?;
        self.found = saved.as_ref().map_or_else(Found::default, |saved| saved.found.clone());
        Ok(saved)
    }

    pub(super) fn saved(&self) -> Result<Option<Saved>> {
        let select = "SELECT version, checkpoint, owner FROM annals_projections WHERE name = ?1";
        let saved = |row: &rusqlite::Row<'_>| {
            Ok(Saved { version: row.get(0)?, found: Found { checkpoint: row.get(1)?, owner: row.get(2)? } })
        };
        self.told("read the checkpoint in", |database| {
            database.connection.prepare_cached(select)?.query_row([&database.name], saved).optional()
        })
    }

    /// Fails if another one has gone on with the tables. In a transaction, so that it stays true until that is committed.
    pub(super) fn check_owner(&self) -> Result<()> {
        match self.saved()? {
            Some(Saved { found, .. }) if found.owner.as_deref() != Some(&self.owner) && found != self.found => {
                Err(Error::Held { name: self.name.clone() })
            }
            _ => Ok(()),
        }
    }

    pub(super) fn begin(&self) -> rusqlite::Result<()> {
        // At once for writing: a lock that is taken later can fail in the middle.
        self.connection.execute_batch("BEGIN IMMEDIATE")
    }

    pub(super) fn roll_back(&self) -> Result<()> {
        if self.connection.is_autocommit() {
            return Ok(());
        }
        self.told("roll back", |database| database.connection.execute_batch("ROLLBACK"))
    }

    /// Saves the checkpoint, with what was changed in the transaction that is under way, if any. What fails is left to be
    /// rolled back.
    pub(super) fn save(&self, checkpoint: &[u8]) -> Result<()> {
        const SAVE: &str = "save the checkpoint in";
        if self.connection.is_autocommit() {
            self.told(SAVE, Self::begin)?;
        }
        self.check_owner()?;
        self.put(checkpoint)
    }

    /// Puts the checkpoint into the transaction that is under way, and commits it.
    fn put(&self, checkpoint: &[u8]) -> Result<()> {
        self.told("save the checkpoint in", |database| {
            let update = "UPDATE annals_projections SET checkpoint = ?2, owner = ?3 WHERE name = ?1";
            let values = params![database.name, checkpoint, database.owner];
            match database.connection.prepare_cached(update)?.execute(values)? {
                1 => database.commit(),
                changed => Err(rusqlite::Error::StatementChangedRows(changed)),
            }
        })
    }

    pub(super) fn commit(&self) -> rusqlite::Result<()> {
        self.connection.execute_batch("COMMIT")
    }

    /// Saves the checkpoint once more, with a commit that waits for the disk. All before it are durable then as well.
    pub(super) fn save_durably(&self, checkpoint: &[u8]) -> Result<()> {
        const SAVE: &str = "save the checkpoint in";
        self.durably(SAVE, || {
            self.told(SAVE, Self::begin)?;
            self.check_owner()?;
            // A row that is what it was is not written, and a transaction that has written nothing syncs nothing.
            self.told(SAVE, |database| {
                let change = "UPDATE annals_projections SET owner = NULL WHERE name = ?1";
                database.connection.execute(change, [&database.name])
            })?;
            self.put(checkpoint)
        })
    }

    /// Does what commits, and waits for the disk. Rolls back what fails.
    fn durably(&self, operation: &'static str, act: impl FnOnce() -> Result<()>) -> Result<()> {
        self.told(operation, |database| database.wait_for_disk(true))?;
        let done = act();
        if done.is_err() {
            self.roll_back()?;
        }
        self.told(operation, |database| database.wait_for_disk(false))?;
        done
    }

    /// Whether commits wait for the disk, from the next transaction on.
    fn wait_for_disk(&self, waits: bool) -> rusqlite::Result<()> {
        self.connection.pragma_update(None, "synchronous", if waits { "full" } else { "normal" })
    }

    /// Makes the tables empty, in one transaction: what the schema that was used before has created is dropped, and the
    /// schema of today is created. Durable: what was put aside is forgotten for it, and must be missing from no table that
    /// is there again when the power was lost.
    pub(super) fn reset(&self) -> Result<()> {
        const CREATE: &str = "create the tables in";
        self.roll_back()?;
        self.durably(CREATE, || {
            self.told(CREATE, Self::begin)?;
            self.check_owner()?;
            self.create_anew()?;
            self.told(CREATE, Self::commit)
        })
    }

    /// The same within the transaction that is under way, and without a checkpoint. What is there and was not created by
    /// this projection is somebody else's, and is never dropped.
    pub(super) fn create_anew(&self) -> Result<()> {
        self.told("drop the tables in", Self::drop_own)?;
        match self.told("look for the tables in", Self::find_foreign)? {
            None => self.told("create the tables in", Self::create),
            Some((kind, name)) => {
                let (path, projection) = (self.path.display(), &self.name);
                let problem =
                    format!("the {kind} {name:?} is in {path} already, and {projection:?} has not created it");
                Err(Invalid::of("schema", problem).into())
            }
        }
    }

    fn drop_own(&self) -> rusqlite::Result<()> {
        let select = "SELECT objects FROM annals_projections WHERE name = ?1";
        let known: Option<String> = self.connection.query_row(select, [&self.name], |row| row.get(0)).optional()?;
        let known: Vec<Object> = known.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        for (kind, name) in &known {
            if let Some(kind) = ["TRIGGER", "VIEW", "TABLE"].into_iter().find(|known| known.eq_ignore_ascii_case(kind))
            {
                let name = name.replace('"', "\"\"");
                self.connection.execute_batch(&format!("DROP {kind} IF EXISTS \"{name}\""))?;
            }
        }
        Ok(())
    }

    /// The first thing that the schema is to create and that is there.
    fn find_foreign(&self) -> rusqlite::Result<Option<&Object>> {
        let mut select = self.connection.prepare("SELECT 1 FROM sqlite_master WHERE name = ?1 COLLATE NOCASE")?;
        for object in &self.objects {
            if select.exists([&object.1])? {
                return Ok(Some(object));
            }
        }
        Ok(None)
    }

    fn create(&self) -> rusqlite::Result<()> {
        self.connection.execute_batch(&self.schema)?;
        let objects = serde_json::to_string(&self.objects).unwrap_or_default();
        let insert =
            "INSERT OR REPLACE INTO annals_projections (name, version, objects, owner) VALUES (?1, ?2, ?3, ?4)";
        self.connection.execute(insert, params![self.name, self.version, objects, self.owner])?;
        Ok(())
    }
}

/// What a schema creates, found by creating it in a database of its own. What depends on other objects comes first.
fn objects_of(schema: &str) -> Result<Vec<Object>> {
    let created = || -> rusqlite::Result<Vec<Object>> {
        let scratch = Connection::open_in_memory()?;
        scratch.execute_batch(schema)?;
        let select =
            "SELECT type, name FROM sqlite_master WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND type <> 'index'
            ORDER BY CASE type WHEN 'trigger' THEN 0 WHEN 'view' THEN 1 ELSE 2 END, sql NOT LIKE 'CREATE VIRTUAL%'";
        let mut statement = scratch.prepare(select)?;
        let objects = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        objects.collect()
    };
    let invalid = |problem: String| Invalid::of("schema", problem);
    let objects = created().map_err(|error| invalid(error.to_string()))?;
    match objects.iter().find(|(_, name)| name.eq_ignore_ascii_case("annals_projections")) {
        Some((_, name)) => Err(invalid(format!("{name:?} is the table of the checkpoints")).into()),
        None => Ok(objects),
    }
}

pub(super) fn sql_error(operation: &'static str, path: &Path, error: rusqlite::Error) -> Error {
    let outage = outage(operation, path, &error);
    outage.unwrap_or_else(|| Error::io(operation, path, io::Error::other(error)))
}

/// The error of the crate for one of SQLite that is not about what it was asked for: another connection has the lock,
/// there is no space, or the disk does not do what it is told.
fn outage(operation: &'static str, path: &Path, error: &rusqlite::Error) -> Option<Error> {
    use rusqlite::ErrorCode::{DatabaseBusy, DatabaseLocked, DiskFull, SystemIoFailure};
    let source = |kind: ErrorKind| Arc::new(io::Error::new(kind, error.to_string()));
    match error.sqlite_error_code()? {
        DiskFull => Some(Error::Full { path: path.into(), source: source(ErrorKind::StorageFull) }),
        DatabaseBusy | DatabaseLocked => {
            Some(Error::Unavailable { operation, path: path.into(), source: source(ErrorKind::ResourceBusy) })
        }
        SystemIoFailure => Some(Error::Unavailable { operation, path: path.into(), source: source(ErrorKind::Other) }),
        _ => None,
    }
}
