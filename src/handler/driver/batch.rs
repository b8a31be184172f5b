//! The batch of a handler: what was done since the last checkpoint is carried out, saved, or undone, and what is about to
//! be done is marked.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Batch, Driver, End, Step, number};
use crate::error::Result;
use crate::handler::error::HandlerError;
use crate::handler::mark::{Mark, Suspect};
use crate::handler::observe::Observer;
use crate::handler::parking::Failed;
use crate::handler::shared::HandlerState;
use crate::handler::work::Checkpoint;
use crate::types::Position;
use crate::{Event, Horizon};

/// How long a handler waits at first for an outage to end, such as a full disk, and at most.
const OUTAGE_DELAY: Duration = Duration::from_secs(1);
const OUTAGE_DELAY_MAX: Duration = Duration::from_secs(60);

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

    /// An event of a batch could not be handled: it will be tried by itself, or with its batch again after an outage.
    pub(super) fn single_out(&mut self, position: Position, error: &HandlerError) -> Result<Step, End> {
        if error.outage().is_some() {
            self.leave_batch()?;
            self.sit_out(error);
            return Ok(Step::Again);
        }
        if self.batch.handled > 0 {
            self.breaker.succeeded();
        }
        let suspect = self.failed(position, 1, error);
        self.leave_batch()?;
        self.mark_attempts(position, 1)?;
        self.suspect = Some(suspect);
        Ok(Step::Again)
    }

    /// Undoes what the last event of a batch has left half done, and with it what was done before and can be done again.
    fn leave_batch(&mut self) -> Result<(), End> {
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
        Ok(())
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
        let Err(error) = self.flush() else {
            self.breaker.succeeded();
            return Ok(true);
        };
        let (handled, last) = (self.batch.handled, self.batch.last_handled.unwrap_or(Position::FIRST));
        self.undo()?;
        if error.outage().is_some() {
            self.sit_out(&error);
            return Ok(false);
        }
        let suspect = self.failed(last, 1, &error);
        if handled == 1 {
            self.mark_attempts(last, 1)?;
            self.suspect = Some(suspect);
        } else {
            self.careful_upto = self.careful_upto.max(Some(last));
        }
        Ok(false)
    }

    pub(super) fn save(&mut self) -> Result<(), End> {
        self.sit_out_errors(Self::try_save)
    }

    /// Does what has to be done before anything else can be, however often outages keep it from that.
    pub(super) fn sit_out_errors(&mut self, mut act: impl FnMut(&mut Self) -> Result<()>) -> Result<(), End> {
        loop {
            let Err(error) = act(self) else { return Ok(()) };
            let outage = HandlerState::of_outage(&error).filter(|_| !self.shared.orders().stop);
            let Some(outage) = outage else { return Err(error.into()) };
            let until = self.begin_outage(outage);
            self.shared.wait_unless_stopped(until);
        }
    }

    /// Waits for an outage to end, before what failed for it is tried again; `false` if there are orders before that.
    pub(super) fn sit_out(&mut self, error: &HandlerError) -> bool {
        let Some(outage) = error.outage().and_then(HandlerState::of_outage) else { return true };
        if self.shared.orders().stop {
            return false;
        }
        let until = self.begin_outage(outage);
        self.shared.wait_for_time(until)
    }

    /// Until when to wait. Each time is twice as long, until something is saved.
    fn begin_outage(&mut self, state: HandlerState) -> Duration {
        let delay = self.outage_delay.unwrap_or(OUTAGE_DELAY);
        self.outage_delay = Some((2 * delay).min(OUTAGE_DELAY_MAX));
        self.shared.set_state(state);
        self.shared.now() + delay
    }

    fn end_outage(&mut self) {
        if self.outage_delay.take().is_some() {
            self.shared.set_state(HandlerState::CatchingUp);
        }
    }

    pub(super) fn try_save(&mut self) -> Result<()> {
        let point = self.looked.map(|position| self.store.history_point(position)).transpose()?;
        let mut checkpoint = Checkpoint::new(&self.shared.name, point);
        self.parking.fill(&mut checkpoint);
        self.parking.sync()?;
        self.work.save(&checkpoint)?;
        self.parking.saved(&checkpoint)?;
        if !checkpoint.parked.is_empty() && self.parks_durably() {
            self.store.state()?.sync()?;
        }
        self.mark.settle(self.looked)?;
        self.end_outage();
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
    pub(super) fn mark_stretch(&mut self, event: Position) -> Result<(), End> {
        if !self.work.has_effects_outside() || self.mark.covers(event) {
            return Ok(());
        }
        let head = match self.settings.horizon {
            Horizon::Visible => self.store.head()?,
            Horizon::Synced => self.store.synced_head()?,
        };
        let upto = head.map_or(event, |head| head.max(event));
        self.store_mark(&Mark { event, upto, attempt: 0, is_parked: false })
    }

    /// Marks how many attempts on an event have failed if the process ends now.
    pub(super) fn mark_attempts(&mut self, event: Position, attempt: u32) -> Result<(), End> {
        let upto = self.careful_upto.map_or(event, |upto| upto.max(event));
        self.store_mark(&Mark { event, upto, attempt, is_parked: false })
    }

    pub(super) fn store_mark(&mut self, mark: &Mark) -> Result<(), End> {
        self.sit_out_errors(|driver| driver.mark.store(mark.clone()))
    }
}
