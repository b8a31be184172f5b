//! The handle of a running projection: reading it, waiting for it, rebuilding it, stopping it.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLockReadGuard;

use super::model::ReadModel;
use super::work::{Core, Serving};
use super::{Rebuilt, StartReport};
use crate::error::Result;
use crate::types::Position;
use crate::{HandlerHandle, Lag, Remainder};

/// A running projection. Dropping it stops the projection, as [`stop`](ProjectionHandle::stop) does.
///
/// A reader sees the model between two events, never in the middle of one, and holds up the projection while it looks,
/// but never an append. While the projection redoes a batch because an event in it failed, readers see the state that was
/// saved last and then what is applied again; one that cannot even go back ends, and shows the model without any event.
pub struct ProjectionHandle<M> {
    core: Arc<Core<M>>,
    handler: HandlerHandle,
}

impl<M: ReadModel + Clone> ProjectionHandle<M> {
    pub(super) fn new(core: Arc<Core<M>>, handler: HandlerHandle) -> Self {
        Self { core, handler }
    }

    /// Shows the model to a function, and returns what it returns.
    pub fn read<T>(&self, look: impl FnOnce(&M) -> T) -> T {
        look(&self.view())
    }

    /// The model, to be looked at for a short time: the projection applies nothing while the view exists.
    pub fn view(&self) -> View<'_, M> {
        View { serving: self.core.whole() }
    }

    /// Waits until everything up to the position is in the model: what was appended before is seen by every later read.
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

    /// How far the model is behind the store.
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

    /// Builds the model anew from the first event, beside the one that goes on serving, and swaps it in when it has
    /// caught up. Returns when that is done and saved. Takes the calling thread, and memory for a second model. The swap
    /// waits for [views](View) of the old model: hold none on this thread.
    ///
    /// Dead letters are left out, and so are the skipped events that [`DeadLetters::skipped`](crate::DeadLetters::skipped)
    /// lists: what was put aside stays so. An event that fails and is none of those is left out as well if the policy
    /// skips or parks, and ends the rebuild if the policy stops; it is not tried a second time. After a kill at any time the
    /// next start finds either the old model or the new one.
    ///
    /// # Errors
    /// [`Error::HandlerFailed`](crate::Error::HandlerFailed), naming the event, if one fails and the policy lets none
    /// pass, or if a hundred have; [`Error::Held`](crate::Error::Held) if a rebuild is under way;
    /// [`Error::TimedOut`](crate::Error::TimedOut) if dead letters were retried meanwhile again and again; those of
    /// [`HandlerHandle::wait_for`] if the projection has ended, or ends meanwhile: another one may have its name;
    /// those of [`Read::next`](crate::Read::next) and [`State::write`](crate::State::write). The old model stays.
    pub fn rebuild(&self) -> Result<Rebuilt> {
        self.core.rebuild().map_err(|error| self.handler.told_why(error))
    }

    /// Applies what is being applied, saves, and ends the thread.
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

impl<M> fmt::Debug for ProjectionHandle<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProjectionHandle").field("name", &self.core.name).finish_non_exhaustive()
    }
}

/// A look at the model of a projection.
#[must_use = "the projection waits while a view exists"]
pub struct View<'h, M> {
    serving: RwLockReadGuard<'h, Serving<M>>,
}

impl<M> View<'_, M> {
    /// The last event that is in the model; `None` if none is.
    pub fn position(&self) -> Option<Position> {
        self.serving.applied
    }
}

impl<M> Deref for View<'_, M> {
    type Target = M;

    fn deref(&self) -> &M {
        &self.serving.model
    }
}

impl<M: fmt::Debug> fmt::Debug for View<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serving.model.fmt(f)
    }
}
