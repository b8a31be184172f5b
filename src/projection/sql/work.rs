//! A SQL projection as work of a handler: events are applied in one transaction until they are saved.

use std::sync::Arc;

use parking_lot::Mutex;
use rusqlite::Connection;

use super::database::Database;
use crate::error::{Error, Result};
use crate::projection::rebuild::{caught, given_up, put_aside};
use crate::types::Position;
use crate::{Checkpoint, Event, HandlerError, Query, RebuildCause, Rebuilt, StartReport, Store, Work};

/// Applies one event to the tables.
pub(super) type SqlApply = dyn FnMut(&Connection, &Event<'_>) -> Result<(), HandlerError> + Send;

/// What the thread of the handler and the handle share.
pub(super) struct SqlCore {
    pub(super) store: Store,
    pub(super) name: String,
    pub(super) version: u32,
    pub(super) query: Query,
    /// Whether its policy lets no event pass.
    pub(super) stops: bool,
    pub(super) report: Mutex<StartReport>,
    pub(super) rebuilding: Mutex<()>,
    pub(super) tables: Mutex<Tables>,
}

pub(super) struct Tables {
    pub(super) database: Database,
    pub(super) apply: Box<SqlApply>,
    /// The position of the checkpoint that was saved last.
    saved: Option<Position>,
    /// The events that were applied since, in the transaction that is under way.
    unsaved: Vec<Position>,
    /// Why nothing may be saved any more.
    broken: Option<String>,
    /// The handler has ended: the tables may be another's.
    has_ended: bool,
}

impl Tables {
    pub(super) fn new(database: Database, apply: Box<SqlApply>) -> Self {
        Self { database, apply, saved: None, unsaved: Vec::new(), broken: None, has_ended: false }
    }

    fn handle(&mut self, event: &Event<'_>) -> Result<(), HandlerError> {
        self.try_handle(event).map_err(|error| self.database.judged(error))
    }

    fn try_handle(&mut self, event: &Event<'_>) -> Result<(), HandlerError> {
        if self.unsaved.is_empty() && self.database.connection.is_autocommit() {
            self.database.begin()?;
        }
        self.unsaved.push(event.position());
        (self.apply)(&self.database.connection, event)?;
        if self.database.connection.is_autocommit() {
            let problem = format!("the transaction was ended while event {} was applied", event.position());
            self.broken = Some(problem.clone());
            return Err(HandlerError::permanent(problem));
        }
        Ok(())
    }

    fn save(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        self.check()?;
        let bytes = checkpoint.to_bytes();
        if let Err(error) = self.database.save(&bytes) {
            // What is undone by that is still known to be unsaved.
            self.database.roll_back()?;
            return Err(error);
        }
        self.saved = checkpoint.position();
        self.unsaved.clear();
        if checkpoint.resolves_letters() {
            // What they have changed is in these tables and nowhere else as soon as they are deleted.
            self.database.save_durably(&bytes)?;
        }
        Ok(())
    }

    /// Whether a save that failed has undone what is to be saved.
    fn is_undone(&self) -> bool {
        self.broken.is_none() && !self.unsaved.is_empty() && self.database.connection.is_autocommit()
    }

    /// An error if something was committed without its checkpoint: another save would make that final.
    fn check(&self) -> Result<()> {
        match &self.broken {
            Some(problem) => Err(Error::Codec { what: "cannot save the tables".into(), reason: problem.clone() }),
            None => Ok(()),
        }
    }

    fn roll_back(&mut self) -> Result<()> {
        self.unsaved.clear();
        self.check()?;
        self.database.roll_back()
    }
}

impl SqlCore {
    fn load(&self) -> Result<Option<Checkpoint>> {
        let mut tables = self.tables.lock();
        let saved = tables.database.load()?;
        let mut report = StartReport::default();
        let checkpoint = match saved {
            None => None,
            Some(saved) if saved.version != self.version => {
                report.rebuilt = Some(RebuildCause::NewVersion { saved: saved.version, current: self.version });
                None
            }
            Some(saved) => {
                let bytes = saved.found.checkpoint.map(|bytes| Checkpoint::from_bytes(&self.name, &bytes)).transpose();
                bytes.unwrap_or_else(|error| {
                    report.rebuilt = Some(RebuildCause::Unreadable { reason: error.to_string() });
                    None
                })
            }
        };
        match &checkpoint {
            None => tables.database.reset()?,
            // The process may have ended before what they have changed was on the disk.
            Some(checkpoint) if checkpoint.resolves_letters() => {
                tables.database.save_durably(&checkpoint.to_bytes())?;
            }
            Some(_) => {}
        }
        tables.saved = checkpoint.as_ref().and_then(Checkpoint::position);
        report.resumed_behind = tables.saved;
        *self.report.lock() = report;
        Ok(checkpoint)
    }

    fn save(&self, checkpoint: &Checkpoint) -> Result<()> {
        let mut tables = self.tables.lock();
        if tables.is_undone() {
            let unsaved = std::mem::take(&mut tables.unsaved);
            self.apply_again(&mut tables, unsaved)?;
        }
        tables.save(checkpoint)
    }

    fn start_over(&self) -> Result<()> {
        let mut tables = self.tables.lock();
        tables.database.reset()?;
        tables.saved = None;
        *self.report.lock() = StartReport { resumed_behind: None, rebuilt: Some(RebuildCause::OtherHistory) };
        Ok(())
    }

    /// Builds the tables anew up to the last checkpoint, in one transaction, and applies again what came behind it.
    pub(super) fn rebuild(&self) -> Result<Rebuilt> {
        let mut tables = self.tables.lock();
        let tables = &mut *tables;
        if tables.has_ended {
            return Err(Error::Stopped);
        }
        tables.check()?;
        let unsaved = std::mem::take(&mut tables.unsaved);
        tables.database.roll_back()?;
        let rebuilt = self.rebuild_saved(tables);
        if rebuilt.is_err() {
            tables.database.roll_back()?;
        }
        self.apply_again(tables, unsaved)?;
        rebuilt
    }

    fn rebuild_saved(&self, tables: &mut Tables) -> Result<Rebuilt> {
        tables.database.told("create the tables in", Database::begin)?;
        tables.database.check_owner()?;
        let bytes = tables.database.saved()?.and_then(|saved| saved.found.checkpoint);
        let checkpoint = bytes.as_deref().map(|bytes| Checkpoint::from_bytes(&self.name, bytes)).transpose()?;
        if checkpoint.as_ref().and_then(Checkpoint::position) != tables.saved {
            // A process that has opened the store since it was closed here has gone on with the tables.
            return Err(Error::Held { name: self.name.clone() });
        }
        tables.database.create_anew()?;
        let mut put_aside = put_aside(&self.store, &self.name)?;
        if let Some(checkpoint) = &checkpoint {
            checkpoint.update(&mut put_aside);
        }
        let mut rebuilt = Rebuilt { position: tables.saved, events: 0, left_out: 0 };
        if let Some(saved) = tables.saved {
            let mut read = self.store.read(self.query.clone()).upto(saved);
            while let Some(event) = read.next()? {
                let is_applied = !put_aside.contains(&event.position()) && self.apply_whole(tables, &event)?;
                *(if is_applied { &mut rebuilt.events } else { &mut rebuilt.left_out }) += 1;
            }
        }
        match &bytes {
            Some(checkpoint) => tables.database.save(checkpoint)?,
            None => tables.database.told("create the tables in", Database::commit)?,
        }
        Ok(rebuilt)
    }

    /// Applies an event of a rebuild, or nothing of it; whether it was applied, or let pass as the policy says.
    fn apply_whole(&self, tables: &mut Tables, event: &Event<'_>) -> Result<bool> {
        let Some(error) = tables.try_whole(event)? else { return Ok(true) };
        if self.stops {
            return Err(given_up(&self.name, event.position(), &error));
        }
        Ok(false)
    }

    /// Applies what was undone. After an outage it is still known to be unsaved, and can be tried again; after another
    /// error nothing can be saved any more.
    fn apply_again(&self, tables: &mut Tables, unsaved: Vec<Position>) -> Result<()> {
        let Err(error) = self.try_again(tables, &unsaved) else { return Ok(()) };
        match error {
            Error::Full { .. } | Error::Unavailable { .. } => {
                tables.database.roll_back()?;
                tables.unsaved = unsaved;
            }
            _ => tables.broken = Some(error.to_string()),
        }
        Err(error)
    }

    fn try_again(&self, tables: &mut Tables, unsaved: &[Position]) -> Result<()> {
        for position in unsaved {
            let mut read = self.store.read(Query::all()).from(*position).upto(*position);
            if let Some(event) = read.next()? {
                let failed = |error: HandlerError| match error.outage() {
                    Some(outage) => outage.clone(),
                    None => given_up(&self.name, *position, &error),
                };
                tables.handle(&event).map_err(failed)?;
            }
        }
        Ok(())
    }
}

impl Tables {
    /// Applies an event, or nothing of it; why it could not be, if so.
    fn try_whole(&mut self, event: &Event<'_>) -> Result<Option<HandlerError>> {
        let Self { database, apply, .. } = self;
        database.told("begin a savepoint in", |database| database.connection.execute_batch("SAVEPOINT event"))?;
        let Err(error) = caught(|| apply(&database.connection, event)) else {
            database.told("end a savepoint in", |database| database.connection.execute_batch("RELEASE event"))?;
            return Ok(None);
        };
        let error = database.judged(error);
        if let Some(outage) = error.outage() {
            return Err(outage.clone());
        }
        database.told("undo an event in", |database| {
            database.connection.execute_batch("ROLLBACK TO event; RELEASE event")
        })?;
        Ok(Some(error))
    }
}

/// The side of the handler's thread.
pub(super) struct SqlWork(pub(super) Arc<SqlCore>);

impl Drop for SqlWork {
    /// The runner drops it before it lets go of its name. A rebuild that is under way is waited for, and what the handle
    /// rebuilds from here on is refused: it would put the tables of the next of this name back to where this one was.
    fn drop(&mut self) {
        let mut tables = self.0.tables.lock();
        tables.has_ended = true;
        // Others wait for the lock of a transaction that nobody will commit. Where it cannot be rolled back, it ends with
        // the connection.
        let _ = tables.database.roll_back();
    }
}

impl Work for SqlWork {
    fn load(&mut self, _store: &Store) -> Result<Option<Checkpoint>> {
        self.0.load()
    }

    fn handle(&mut self, event: &Event<'_>) -> Result<(), HandlerError> {
        self.0.tables.lock().handle(event)
    }

    fn save(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        self.0.save(checkpoint)
    }

    fn roll_back(&mut self) -> Result<()> {
        self.0.tables.lock().roll_back()
    }

    fn has_effects_outside(&self) -> bool {
        false
    }

    fn start_over(&mut self) -> Result<bool> {
        self.0.start_over()?;
        Ok(true)
    }
}
