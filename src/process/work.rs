//! A process manager as the work of a runner: its engine, its streams, its timers.
//!
//! The streams are the state. What is saved with the checkpoint is only which instances are open; a checkpoint that is
//! behind makes events come again, which are found to be handled.

use std::sync::Arc;

use super::engine::{Engine, StreamsOf, Turn};
use super::manager::ProcessManager;
use super::timers::{TimerControl, TimerThread};
use crate::error::Result;
use crate::types::{Position, Timestamp};
use crate::{Checkpoint, Event, HandlerError, Store, Work};

pub(super) struct ProcessWork<P: ProcessManager> {
    pub(super) engine: Engine<P>,
    pub(super) streams: Arc<StreamsOf<P>>,
    pub(super) control: Arc<TimerControl>,
    /// Ends with the work, so that nothing is left of a handler that has ended.
    pub(super) thread: Option<TimerThread>,
    /// Whether it may begin with the first event of a history that changed.
    pub(super) starts_over: bool,
    /// What the checkpoint covered that it began with: what comes from there was parked.
    pub(super) covered: Option<Position>,
    /// The newest event that came: what comes from before it was parked as well.
    pub(super) newest: Option<Position>,
}

impl<P: ProcessManager> ProcessWork<P> {
    fn first_due(&self) -> Option<Timestamp> {
        self.streams.open().first_due().map(|(timer, _)| timer.due)
    }
}

impl<P: ProcessManager> Work for ProcessWork<P> {
    fn load(&mut self, store: &Store) -> Result<Option<Checkpoint>> {
        let checkpoint = Checkpoint::load(store, P::NAME)?;
        self.streams.find_open()?;
        self.covered = checkpoint.as_ref().and_then(Checkpoint::position);
        self.thread = Some(TimerThread::spawn::<P>(Arc::clone(&self.streams), Arc::clone(&self.control))?);
        Ok(checkpoint)
    }

    fn handle(&mut self, event: &Event<'_>) -> Result<(), HandlerError> {
        let due_before = self.first_due();
        let position = Some(event.position());
        let is_overtaken = position <= self.covered || position < self.newest;
        let turn = if is_overtaken { Turn::Overtaken } else { Turn::InOrder };
        self.newest = self.newest.max(position);
        let handled = self.engine.handle(&self.streams, event, turn);
        if self.first_due() != due_before {
            self.control.wake();
        }
        handled
    }

    fn save(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        self.streams.save_open(|batch| checkpoint.add_to(batch))
    }

    /// Everything that was done is in the log, where the events that come again find it.
    fn roll_back(&mut self) -> Result<()> {
        Ok(())
    }

    fn has_effects_outside(&self) -> bool {
        true
    }

    /// What was done is in the log, of whatever history it is: events that come again find what they led to. Not so those
    /// from before a process manager that began in the middle.
    fn start_over(&mut self) -> Result<bool> {
        if self.starts_over {
            self.streams.find_open()?;
            (self.covered, self.newest) = (None, None);
        }
        Ok(self.starts_over)
    }
}
