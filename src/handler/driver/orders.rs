//! What a handler is told to do: pause, see to its dead letters, end.

use super::{Driver, End};
use crate::error::Error;
use crate::handler::error::HandlerError;
use crate::handler::letters::{DeadLetter, DeadLetterRequest};
use crate::handler::mark::Mark;
use crate::handler::shared::HandlerState;
use crate::types::Position;
use crate::{Follow, Query};

impl Driver {
    /// Does what it is told. Goes on behind `looked`.
    pub(super) fn attend(&mut self, follow: &mut Follow) -> Result<(), End> {
        loop {
            let orders = self.shared.take_orders();
            if orders.stop {
                return Err(End::Told);
            }
            self.finish()?;
            let is_asked = !orders.rests() && orders.requests != self.shared.carried_out();
            if is_asked && self.settle_letters()? {
                self.shared.publish_requests(orders.requests);
            }
            let is_drained = orders.end_at.is_some_and(|end| end <= self.looked.map_or(0, Position::number));
            if is_drained || (orders.pause && orders.end_at.is_some()) {
                return Err(End::Told);
            }
            follow.seek(self.looked);
            if !orders.rests() {
                return Ok(());
            }
            self.shared.rest();
            follow.wait(None)?;
            if !self.shared.orders().rests() {
                self.shared.set_state(HandlerState::CatchingUp);
            }
        }
    }

    /// Carries out everything that is due for dead letters; `false` if there were orders before it was done, or some of it
    /// is due later.
    fn settle_letters(&mut self) -> Result<bool, End> {
        self.parking.reload_requests()?;
        self.due_later = None;
        for position in self.parking.due() {
            let mut next = Some(position);
            // Once one is settled, those behind it follow.
            while let Some(letter) = next.and_then(|position| self.parking.due_at(position)).cloned() {
                if Some(letter.position) > self.looked && Some(letter.position) <= self.store.head()? {
                    // It comes by again, and would be handled twice.
                    self.due_later = self.due_later.or(Some(letter.position));
                    break;
                }
                if self.shared.has_orders() {
                    return Ok(false);
                }
                self.settle_letter(&letter)?;
                next = self.parking.first_of(&letter.stream);
            }
        }
        self.tell_parked();
        Ok(self.due_later.is_none())
    }

    /// Does what is due for a dead letter, which is due again after an outage.
    fn settle_letter(&mut self, letter: &DeadLetter) -> Result<(), End> {
        if letter.requested == Some(DeadLetterRequest::Discard) {
            self.parking.resolve(letter.position);
            return self.save();
        }
        self.retry_letter(letter)
    }

    fn retry_letter(&mut self, letter: &DeadLetter) -> Result<(), End> {
        let (position, attempt) = (letter.position, letter.attempts + 1);
        self.mark_letter(letter, attempt)?;
        let tried = match self.store.read(Query::all()).from(position).limit(1).next()? {
            Some(event) if letter.is_of(&event) => self.attempt(&event).and_then(|()| self.flush()),
            _ => Err(HandlerError::permanent("the log does not keep the event any more: it can only be discarded")),
        };
        if tried.is_err() {
            // Before anything that may have to wait, or fail: readers wait for what is half done to be undone.
            self.work.roll_back()?;
        }
        if tried.as_ref().err().is_none_or(|error| error.outage().is_some()) {
            // The attempt is over. A process that ends from here on did not end of the event.
            self.mark_letter(letter, letter.attempts)?;
        }
        match tried {
            Ok(()) => {
                self.breaker.succeeded();
                self.batch.handled += 1;
                self.parking.resolve(position);
                self.save()
            }
            Err(error) if error.outage().is_some() => {
                self.sit_out(&error);
                Ok(())
            }
            Err(error) => {
                let failed = self.failed(position, attempt, &error).failed;
                self.sit_out_errors(|driver| driver.parking.failed_again(position, &failed))
            }
        }
    }

    fn mark_letter(&mut self, letter: &DeadLetter, attempt: u32) -> Result<(), End> {
        self.store_mark(&Mark { event: letter.position, upto: letter.position, attempt, is_parked: true })
    }

    /// Saves everything before it ends, and returns the state that it leaves.
    pub(super) fn part(&mut self) -> HandlerState {
        let saved = self.finish().and_then(|_| match self.looked > self.saved {
            true => self.save(),
            false => Ok(()),
        });
        let cleared = match self.mark.counts_attempts(self.saved) {
            true => Ok(()),
            // What was not done is not being done any more: it was not what ended the process.
            false => self.mark.clear(self.saved),
        };
        match saved.and(cleared.map_err(End::from)) {
            Ok(()) | Err(End::Told | End::Failed(_) | End::Error(Error::Closed)) => HandlerState::Stopped,
            Err(End::Error(error)) => HandlerState::Failed { position: None, error: error.to_string() },
        }
    }
}
