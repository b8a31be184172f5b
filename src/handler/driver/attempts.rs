//! Attempts on one event: retries, the circuit breaker, and what is done when the policy is at its end.

use super::{Driver, End, Step};
use crate::Event;
use crate::error::Result;
use crate::handler::mark::Suspect;
use crate::handler::parking::Failed;
use crate::handler::policy::LastResort;
use crate::handler::shared::HandlerState;
use crate::types::Position;

impl Driver {
    /// Tries one event until it succeeds or the policy is at its end.
    pub(super) fn single(&mut self, event: &Event<'_>) -> Result<Step, End> {
        let position = event.position();
        let mut suspect = self.suspect.take_if(|suspect| suspect.position == position);
        loop {
            if suspect.as_ref().is_some_and(|suspect| self.is_at_its_end(&suspect.failed)) {
                return self.give_up(event, suspect);
            }
            if !self.wait_for_attempt(position, suspect.as_ref()) {
                self.suspect = suspect;
                return Ok(Step::Again);
            }
            let failures = suspect.as_ref().map_or(0, |suspect| suspect.failed.attempts);
            let is_marked = self.work.has_effects_outside() || failures > 0;
            if is_marked {
                self.mark_attempts(position, failures + 1)?;
            }
            let Err(error) = self.attempt(event).and_then(|()| self.flush()) else {
                if is_marked {
                    // The attempt is over. A process that ends from here on did not end of the event.
                    self.mark_attempts(position, failures)?;
                }
                return self.succeeded(position);
            };
            // Before anything that may have to wait, or fail: readers wait for what is half done to be undone.
            self.work.roll_back()?;
            let is_charged = error.outage().is_none();
            if is_charged {
                suspect = Some(self.failed(position, failures + 1, &error));
            }
            if is_marked != is_charged {
                // Either it is over and was none on the event, or from now on they are counted, whatever happens to the
                // process.
                self.mark_attempts(position, failures + u32::from(is_charged))?;
            }
            if !is_charged && !self.sit_out(&error) {
                self.suspect = suspect;
                return Ok(Step::Again);
            }
        }
    }

    fn is_at_its_end(&self, failed: &Failed) -> bool {
        failed.is_permanent || failed.attempts > self.settings.policy.retries()
    }

    /// Waits until the event may be tried; `false` if there are orders before that.
    fn wait_for_attempt(&self, position: Position, suspect: Option<&Suspect>) -> bool {
        loop {
            let now = self.shared.now();
            let open_until = self.breaker.open_until(now);
            let retry_at = suspect.and_then(|suspect| suspect.retry_at).filter(|at| now < *at);
            let Some(until) = open_until.max(retry_at) else { return true };
            let (attempts, error) = suspect
                .map_or_else(Default::default, |suspect| (suspect.failed.attempts, suspect.failed.error.clone()));
            self.shared.set_state(match open_until {
                Some(_) => HandlerState::CircuitOpen { position, attempts, error },
                None => HandlerState::Retrying { position, attempts, error },
            });
            if !self.shared.wait_for_time(until) && self.shared.has_orders() {
                return false;
            }
        }
    }

    fn succeeded(&mut self, position: Position) -> Result<Step, End> {
        self.breaker.succeeded();
        self.shared.set_state(HandlerState::CatchingUp);
        self.looked = Some(position);
        self.batch.handled += 1;
        self.save()?;
        Ok(Step::On)
    }

    /// The policy is at its end.
    fn give_up(&mut self, event: &Event<'_>, suspect: Option<Suspect>) -> Result<Step, End> {
        let Some(suspect) = suspect else { return Ok(Step::Again) };
        match self.settings.policy.last_resort() {
            LastResort::Stop => {
                // When it is started again, it is tried as if for the first time.
                self.sit_out_errors(|driver| driver.mark.clear(driver.saved))?;
                return Err(End::Failed(suspect));
            }
            LastResort::Skip => self.parking.skip(event, &suspect.failed),
            LastResort::Park => {
                self.check_room_for_letters(event)?;
                self.parking.park(event, &suspect.failed);
            }
        }
        self.observer.gave_up(event.position(), &suspect.failed.error);
        self.shared.set_state(HandlerState::CatchingUp);
        self.looked = Some(event.position());
        self.save()?;
        Ok(Step::On)
    }

    pub(super) fn check_room_for_letters(&self, event: &Event<'_>) -> Result<(), End> {
        let (letters, max) = (self.parking.len(), self.settings.dead_letters_max);
        if letters < max {
            return Ok(());
        }
        let error = format!("there are {letters} dead letters, at most {max} are allowed: retry or discard some");
        let failed = Failed { attempts: 0, error, is_permanent: true };
        Err(End::Failed(Suspect { position: event.position(), failed, retry_at: None }))
    }
}
