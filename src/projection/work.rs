//! An embedded projection as work of a handler: a model in memory, applied to under a lock that readers share, and saved
//! with its checkpoint.
//!
//! Lock order: `rebuilding`, then `ledger`, then `serving`; `mending`, then `serving`. The ledger's lock is held for whatever touches the state of
//! the store; that of the model only while an event is applied or changes are collected, never during a write.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex, RwLock, RwLockReadGuard};

use super::model::{self, ReadModel};
use super::rebuild::put_aside;
use super::saving::{Ledger, Loaded};
use super::{RebuildCause, StartReport};
use crate::error::{Error, Result};
use crate::types::Position;
use crate::{Checkpoint, Event, HandlerError, Query, Store, Work};

/// Applies one event to a model.
pub(super) type Apply<M> = dyn Fn(&mut M, &Event<'_>) -> Result<(), HandlerError> + Send + Sync;

/// What the thread of the handler and the handle share.
pub(super) struct Core<M> {
    pub(super) store: Store,
    pub(super) name: String,
    pub(super) query: Query,
    /// Whether its policy lets no event pass.
    pub(super) stops: bool,
    pub(super) version: u32,
    pub(super) initial: M,
    pub(super) apply: Box<Apply<M>>,
    pub(super) serving: RwLock<Serving<M>>,
    /// Held by readers of a torn model until they wait for `mended`.
    pub(super) mending: Mutex<()>,
    pub(super) mended: Condvar,
    /// `None` before it is loaded, and once the handler has ended: what is saved may be another's from then on.
    pub(super) ledger: Mutex<Option<Ledger>>,
    pub(super) rebuilding: Mutex<()>,
    pub(super) report: Mutex<StartReport>,
}

/// The model that is read.
pub(super) struct Serving<M> {
    pub(super) model: M,
    /// The last event that was applied.
    pub(super) applied: Option<Position>,
    /// The events that were applied since the model was saved.
    pub(super) unsaved: Vec<Position>,
    /// How many of those lie before the position that was saved with the model: dead letters that were retried.
    pub(super) retried: u64,
    saved: Option<Position>,
    /// The last event failed, and may have changed a part of what it wanted to: nobody reads the model like this.
    is_torn: bool,
}

impl<M> Serving<M> {
    pub(super) fn new(model: M, saved: Option<Position>) -> Self {
        Self { model, applied: saved, unsaved: Vec::new(), retried: 0, saved, is_torn: false }
    }

    fn applied(&mut self, position: Position) {
        // Not all of them lie before the last that was applied: nothing may have been behind one.
        self.retried += u64::from(Some(position) <= self.saved);
        self.applied = self.applied.max(Some(position));
        self.unsaved.push(position);
    }
}

impl<M: ReadModel + Clone> Core<M> {
    pub(super) fn with_ledger<T>(&self, act: impl FnOnce(&mut Ledger) -> Result<T>) -> Result<T> {
        self.ledger.lock().as_mut().map_or(Err(Error::Stopped), act)
    }

    fn load(&self) -> Result<Option<Checkpoint>> {
        let (loaded, model) = self.load_model()?;
        let Loaded { ledger, checkpoint, cause } = loaded;
        if cause.is_some() && !put_aside(&self.store, &self.name)?.is_empty() {
            // The runner forgets what is missing from this model. An older version must not go on with it after that.
            ledger.forget()?;
        }
        let position = ledger.position;
        *self.report.lock() = StartReport { resumed_behind: position, rebuilt: cause };
        *self.ledger.lock() = Some(ledger);
        *self.serving.write() = Serving::new(model, position);
        Ok(checkpoint)
    }

    fn load_model(&self) -> Result<(Loaded, M)> {
        let mut model = self.initial.clone();
        let loaded = Ledger::load(&self.store, &self.name, self.version, &mut model)?;
        if loaded.checkpoint.is_none() {
            // It may be half loaded.
            model = self.initial.clone();
        }
        Ok((loaded, model))
    }

    fn save(&self, checkpoint: &Checkpoint) -> Result<()> {
        self.with_ledger(|ledger| {
            let changes = ledger.collect(&mut self.serving.write().model)?;
            ledger.save(changes, checkpoint)?;
            let mut serving = self.serving.write();
            serving.unsaved.clear();
            serving.saved = ledger.position;
            ledger.retried += std::mem::take(&mut serving.retried);
            model::mark_saved(&mut serving.model)
        })
    }

    /// The model between two events.
    pub(super) fn whole(&self) -> RwLockReadGuard<'_, Serving<M>> {
        let serving = self.serving.read();
        if !serving.is_torn {
            return serving;
        }
        drop(serving);
        let mut mending = self.mending.lock();
        loop {
            let serving = self.serving.read();
            if !serving.is_torn {
                return serving;
            }
            drop(serving);
            self.mended.wait(&mut mending);
        }
    }

    fn roll_back(&self) -> Result<()> {
        if self.serving.read().unsaved.is_empty() {
            return Ok(());
        }
        let rolled_back = catch_unwind(AssertUnwindSafe(|| self.go_back()));
        if !matches!(rolled_back, Ok(Ok(()))) {
            // The handler ends with that error, or panic. A model without events is not wrong, and says that it has none.
            *self.serving.write() = Serving::new(self.initial.clone(), None);
        }
        // With the lock: a reader that has seen the torn model, and does not wait yet, would sleep through this.
        let _mending = self.mending.lock();
        self.mended.notify_all();
        rolled_back.unwrap_or_else(|payload| resume_unwind(payload))
    }

    fn go_back(&self) -> Result<()> {
        self.with_ledger(|ledger| {
            // What a rebuild that was given up has left does not go on, but it is the model of the checkpoint.
            let (model, position) = if ledger.is_saved() || ledger.position.is_some() {
                let (loaded, model) = self.load_model()?;
                if let Some(cause) = loaded.cause {
                    return Err(Error::Codec { what: self.name.clone(), reason: cause.to_string() });
                }
                ledger.replace(loaded.ledger);
                (model, ledger.position)
            } else {
                (self.initial.clone(), None)
            };
            *self.serving.write() = Serving::new(model, position);
            Ok(())
        })
    }

    fn start_over(&self) -> Result<()> {
        self.with_ledger(|ledger| {
            ledger.abandon();
            ledger.position = None;
            *self.serving.write() = Serving::new(self.initial.clone(), None);
            Ok(())
        })
    }
}

/// The side of the handler's thread.
pub(super) struct Embedded<M>(pub(super) Arc<Core<M>>);

impl<M> Drop for Embedded<M> {
    /// The runner drops it before it lets go of its name. A rebuild that is at its end is waited for, and what the handle
    /// rebuilds from here on is refused: it would swap out what the next of this name has saved.
    fn drop(&mut self) {
        *self.0.ledger.lock() = None;
    }
}

impl<M: ReadModel + Clone + Send + Sync> Work for Embedded<M> {
    fn load(&mut self, _store: &Store) -> Result<Option<Checkpoint>> {
        self.0.load()
    }

    #[inline]
    fn handle(&mut self, event: &Event<'_>) -> Result<(), HandlerError> {
        let mut serving = self.0.serving.write();
        // Noted before: a panic leaves the model changed.
        serving.applied(event.position());
        serving.is_torn = true;
        let applied = (self.0.apply)(&mut serving.model, event);
        serving.is_torn = applied.is_err();
        applied
    }

    fn save(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        self.0.save(checkpoint)
    }

    fn roll_back(&mut self) -> Result<()> {
        self.0.roll_back()
    }

    fn has_effects_outside(&self) -> bool {
        false
    }

    fn start_over(&mut self) -> Result<bool> {
        self.0.start_over()?;
        let mut report = self.0.report.lock();
        *report = StartReport { resumed_behind: None, rebuilt: Some(RebuildCause::OtherHistory) };
        Ok(true)
    }
}
