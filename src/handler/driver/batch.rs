//! The batch of a handler: what was done since the last checkpoint is carried out, saved, or undone, and what is about to
//! be done is marked.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Batch, Driver, End, Step, number};
use crate::error::{Error, Result};
use crate::handler::error::HandlerError;
use crate::handler::mark::{Mark, Suspect};
use crate::handler::observe::Observer;
use crate::handler::parking::Failed;
use crate::handler::shared::HandlerState;
use crate::handler::work::Checkpoint;
use crate::types::Position;
use crate::{Event, Horizon};

/// How long a checkpoint waits at first for space on the disk, and at most.
const SPACE_DELAY: Duration = Duration::from_secs(1);
const SPACE_DELAY_MAX: Duration = Duration::from_secs(60);

impl Driver {
    pub(super) fn attempt(&mut self, event: &Event<'_>) -> Result<(), HandlerError> {
        let work = &mut *self.work;
        let handled = catch_unwind(AssertUnwindSafe(|| work.handle(event)));
        handled.unwrap_or_else(|payload| Err(HandlerError::of_panic(&*payload)))
    }

    pub(super) fn flush(&mut self) -> Result<(), HandlerError> {
        let work = &mut *self.work;
        let flushed = catch_unwind(AssertUnwindSafe(|| work.flush()));
        flushed.unwrap_or_else(|payload| Err(HandlerError::of_panic(&*payload)))
    }

    /// An event of a batch failed: it will be tried by itself.
    pub(super) fn single_out(&mut self, position: Position, error: &HandlerError) -> Result<Step, End> {
        let suspect = self.failed(position, 1, error);
        if !self.work.has_effects_outside() {
            self.undo()?;
        } else if self.flush().is_ok() {
            // What was done before cannot be undone, and need not be.
            if self.batch.handled + self.batch.parked > 0 {
                self.save()?;
            }
            self.work.roll_back()?;
        } else {
            self.careful_upto = self.careful_upto.max(self.batch.last_handled);
            self.undo()?;
        }
        self.mark_attempt(position, 1)?;
        self.suspect = Some(suspect);
        Ok(Step::Again)
    }

    /// Goes back to the last checkpoint.
    pub(super) fn undo(&mut self) -> Result<()> {
        self.work.roll_back()?;
        self.parking.roll_back();
        self.looked = self.saved;
        self.batch = Batch::default();
        Ok(())
    }

    pub(super) fn failed(&mut self, position: Position, attempts: u32, error: &HandlerError) -> Suspect {
        let now = self.shared.now();
        self.shared.failures.fetch_add(1, Ordering::Relaxed);
        self.observer.failed(position, attempts, error);
        self.breaker.failed(now);
        let delay = self.settings.policy.delays(self.seed, attempts - 1).next();
        Suspect { position, failed: Failed::of(attempts, error), retry_at: delay.map(|delay| now + delay) }
    }

    /// Carries out and saves what was done; `false` if that failed, and what was done since the last checkpoint has to be
    /// done again.
    pub(super) fn finish(&mut self) -> Result<bool, End> {
        if !self.flush_batch()? {
            return Ok(false);
        }
        if self.batch.handled + self.batch.parked > 0 {
            self.save()?;
        }
        Ok(true)
    }

    /// Carries out what was collected, which singles out the event that it fails for, if that can be known.
    pub(super) fn flush_batch(&mut self) -> Result<bool, End> {
        if self.batch.handled == 0 {
            return Ok(true);
        }
        let Err(error) = self.flush() else { return Ok(true) };
        let (handled, last) = (self.batch.handled, self.batch.last_handled.unwrap_or(Position::FIRST));
        self.undo()?;
        let suspect = self.failed(last, 1, &error);
        if handled == 1 {
            self.mark_attempt(last, 1)?;
            self.suspect = Some(suspect);
        } else {
            self.careful_upto = self.careful_upto.max(Some(last));
        }
        Ok(false)
    }

    pub(super) fn save(&mut self) -> Result<(), End> {
        let mut delay = SPACE_DELAY;
        loop {
            match self.try_save() {
                Err(Error::Full { path, source }) if !self.shared.orders().stop => {
                    let error = Error::Full { path, source }.to_string();
                    self.shared.set_state(HandlerState::NoSpace { error });
                    self.shared.wait_unless_stopped(self.shared.now() + delay);
                    delay = (2 * delay).min(SPACE_DELAY_MAX);
                }
                saved => return Ok(saved?),
            }
        }
    }

    pub(super) fn try_save(&mut self) -> Result<()> {
        let point = self.looked.map(|position| self.store.history_point(position)).transpose()?;
        let mut checkpoint = Checkpoint::new(&self.shared.name, point);
        self.parking.fill(&mut checkpoint);
        self.work.save(&checkpoint)?;
        self.parking.saved(&checkpoint)?;
        self.saved = self.looked;
        let batch = std::mem::take(&mut self.batch);
        self.shared.handled.fetch_add(batch.handled as u64, Ordering::Relaxed);
        self.observer.handled(batch.handled);
        self.tell_parked();
        self.observe_lag();
        self.shared.publish(self.looked);
        Ok(())
    }

    pub(super) fn tell_parked(&self) {
        self.shared.parked.store(self.parking.len(), Ordering::Relaxed);
        self.shared.skipped.store(self.parking.skipped_count(), Ordering::Relaxed);
        self.observer.dead_letters(self.parking.len());
    }

    pub(super) fn observe_lag(&self) {
        if Observer::wants_lag()
            && let Ok(Some(head)) = self.store.head()
        {
            self.observer.lag(head.number() - number(self.looked));
        }
    }

    /// Marks what is about to be handled, so that a process that dies in it is found out.
    pub(super) fn mark_stretch(&mut self, event: Position) -> Result<()> {
        if !self.work.has_effects_outside() || self.mark.covers(event) {
            return Ok(());
        }
        let head = match self.settings.horizon {
            Horizon::Visible => self.store.head()?,
            Horizon::Synced => self.store.synced_head()?,
        };
        let upto = head.map_or(event, |head| head.max(event));
        self.mark.store(Mark { event, upto, attempt: 0, is_parked: false })
    }

    pub(super) fn mark_attempt(&mut self, event: Position, attempt: u32) -> Result<()> {
        let upto = self.careful_upto.map_or(event, |upto| upto.max(event));
        self.mark.store(Mark { event, upto, attempt, is_parked: false })
    }
}
