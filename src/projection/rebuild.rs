//! Rebuilding beside the serving model: replay into a new one, write it under a generation of its own, and swap.
//!
//! The caller's thread does it, while the handler goes on serving and applying. Readers wait for the exchange of two
//! values, the handler for the last few events. A kill at any moment leaves either the old model or the new one.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use parking_lot::RwLockWriteGuard;

use super::Rebuilt;
use super::model::{self, ReadModel};
use super::saving::{Beside, Ledger};
use super::work::{Core, Serving};
use crate::error::{Error, Result};
use crate::types::Position;
use crate::{HandlerError, Read, Store};

/// So often a rebuild begins anew, because an event failed half way or a dead letter was retried meanwhile, before it is
/// given up.
const ATTEMPTS_MAX: u32 = 100;

/// So few events are applied while the handler waits.
const NEAR_EVENTS: u64 = 100;

/// A model that is being built.
struct Green<M> {
    model: M,
    /// Everything up to here is in it.
    looked: Option<Position>,
    events: u64,
    left_out: u64,
    /// Where it is written; `None` if nothing is saved that it could be written beside.
    beside: Option<Beside>,
}

/// Why a model cannot be built further.
enum Halt {
    /// The model may be half changed by this event, which failed.
    Spoiled(Position, HandlerError),
    /// A dead letter was retried meanwhile.
    Overtaken,
    Failed(Error),
}

impl From<Error> for Halt {
    fn from(error: Error) -> Self {
        Halt::Failed(error)
    }
}

impl<M: ReadModel + Clone> Core<M> {
    /// Builds the model anew and swaps it in.
    pub(super) fn rebuild(&self) -> Result<Rebuilt> {
        let Some(_alone) = self.rebuilding.try_lock() else { return Err(Error::Held { name: self.name.clone() }) };
        let mut failing = HashSet::new();
        let mut attempts_left = ATTEMPTS_MAX;
        while attempts_left > 0 {
            attempts_left -= 1;
            let halt = match self.try_rebuild(&failing) {
                Ok(rebuilt) => return Ok(rebuilt),
                Err(halt) => halt,
            };
            self.with_ledger(|ledger| {
                ledger.give_up_beside();
                Ok(())
            })?;
            match halt {
                Halt::Spoiled(position, error) if self.stops || attempts_left == 0 => {
                    return Err(given_up(&self.name, position, &error));
                }
                Halt::Spoiled(position, _) => drop(failing.insert(position)),
                Halt::Overtaken => {}
                Halt::Failed(error) => return Err(error),
            }
        }
        let what = format!("rebuilding {:?} in {ATTEMPTS_MAX} attempts", self.name);
        Err(Error::TimedOut { what })
    }

    /// Builds the model once, without the events that have failed before.
    fn try_rebuild(&self, failing: &HashSet<Position>) -> Result<Rebuilt, Halt> {
        let (beside, retried) = self.with_ledger(|ledger| {
            let beside = ledger.is_saved().then(|| ledger.begin_beside()).transpose()?;
            Ok((beside, ledger.retried))
        })?;
        let mut green = Green { model: self.initial.clone(), looked: None, events: 0, left_out: 0, beside };
        self.catch_up(&mut green, failing)?;
        if let Some(beside) = &mut green.beside {
            let changes = model::collect(&mut green.model, beside.hashes())?;
            self.with_ledger(|ledger| ledger.write_beside(beside, changes))?;
            model::mark_saved(&mut green.model)?;
        }
        let mut ledger = self.ledger.lock();
        let ledger = ledger.as_mut().ok_or(Error::Stopped)?;
        if ledger.retried != retried || ledger.is_saved() != green.beside.is_some() {
            return Err(Halt::Overtaken);
        }
        self.finish(green, failing, ledger)
    }

    /// Replays up to what is saved of the serving model, until no more than a batch is missing.
    fn catch_up(&self, green: &mut Green<M>, failing: &HashSet<Position>) -> Result<(), Halt> {
        loop {
            // Together: what is put aside from now on lies behind this position.
            let (saved, left_out) = self.with_ledger(|ledger| Ok((ledger.position, self.left_out(failing)?)))?;
            let behind = number(saved).saturating_sub(number(green.looked));
            self.replay(green, saved, |position| !left_out.contains(&position))?;
            if behind <= NEAR_EVENTS {
                return Ok(());
            }
        }
    }

    /// What is left out of the events that are saved: what was put aside, and what has failed before.
    fn left_out(&self, failing: &HashSet<Position>) -> Result<HashSet<Position>> {
        let mut left_out = put_aside(&self.store, &self.name)?;
        left_out.extend(failing);
        Ok(left_out)
    }

    /// Applies the events up to `upto` that are wanted.
    fn replay(
        &self,
        green: &mut Green<M>,
        upto: Option<Position>,
        is_wanted: impl Fn(Position) -> bool,
    ) -> Result<(), Halt> {
        if upto <= green.looked {
            return Ok(());
        }
        let mut read: Read = self.store.read(self.query.clone()).after(green.looked).upto(upto);
        while let Some(event) = read.next()? {
            if !is_wanted(event.position()) {
                green.left_out += 1;
                continue;
            }
            caught(|| (self.apply)(&mut green.model, &event))
                .map_err(|error| Halt::Spoiled(event.position(), error))?;
            green.events += 1;
        }
        green.looked = upto;
        Ok(())
    }

    /// Catches up with what is saved, which cannot change now, and takes the place of the serving model.
    fn finish(&self, mut green: Green<M>, failing: &HashSet<Position>, ledger: &mut Ledger) -> Result<Rebuilt, Halt> {
        let left_out = self.left_out(failing)?;
        self.replay(&mut green, ledger.position, |position| !left_out.contains(&position))?;
        settle(&mut green, ledger)?;
        let mut serving = match self.apply_unsaved(&mut green, failing) {
            Ok(serving) => serving,
            Err(halt) => {
                // What is saved is the new model, what serves stays the old one: the next save saves all of it.
                ledger.abandon();
                model::mark_unsaved(&mut self.serving.write().model)?;
                return Err(halt);
            }
        };
        let Green { model, events, left_out, .. } = green;
        serving.model = model;
        Ok(Rebuilt { position: serving.applied, events, left_out })
    }

    /// Applies what the handler applied since the last save, and goes on applying; when little is missing it holds the
    /// handler up, and returns the serving model that has nothing else to give.
    fn apply_unsaved(
        &self,
        green: &mut Green<M>,
        failing: &HashSet<Position>,
    ) -> Result<RwLockWriteGuard<'_, Serving<M>>, Halt> {
        let mut done = 0;
        loop {
            let missing = self.serving.read().unsaved[done..].to_vec();
            self.apply_again(green, &missing, failing)?;
            done += missing.len();
            if missing.len() as u64 <= NEAR_EVENTS {
                break;
            }
        }
        let serving = self.serving.write();
        self.apply_again(green, &serving.unsaved[done..], failing)?;
        Ok(serving)
    }

    /// Applies these events in this order, in which each dead letter that was retried begins another run. A letter is
    /// none any more with the next save, so that nothing is left out here but what fails.
    fn apply_again(
        &self,
        green: &mut Green<M>,
        positions: &[Position],
        failing: &HashSet<Position>,
    ) -> Result<(), Halt> {
        for run in positions.chunk_by(|a, b| a < b) {
            let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
            green.looked = Position::new(first.number() - 1);
            let is_wanted = |position| run.binary_search(&position).is_ok() && !failing.contains(&position);
            self.replay(green, Some(*last), is_wanted)?;
        }
        Ok(())
    }
}

/// The positions that a handler has parked, and the newest that it has skipped, as of its last save.
pub(super) fn put_aside(store: &Store, name: &str) -> Result<HashSet<Position>> {
    let letters = store.dead_letters(name)?;
    let parked = letters.list()?.into_iter().map(|letter| letter.position);
    Ok(parked.chain(letters.skipped()?.into_iter().map(|skipped| skipped.position)).collect())
}

/// Applies an event; a panic is its error.
pub(super) fn caught(apply: impl FnOnce() -> Result<(), HandlerError>) -> Result<(), HandlerError> {
    catch_unwind(AssertUnwindSafe(apply)).unwrap_or_else(|payload| {
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        Err(format!("it panicked: {}", text.unwrap_or("without a message")).into())
    })
}

/// The error of a rebuild that an event has ended.
pub(super) fn given_up(name: &str, position: Position, error: &HandlerError) -> Error {
    Error::HandlerFailed { name: name.to_owned(), position: Some(position), reason: error.to_string() }
}

/// Makes what is saved that of the new model.
fn settle<M: ReadModel>(green: &mut Green<M>, ledger: &mut Ledger) -> Result<()> {
    let Some(mut beside) = green.beside.take() else {
        // Nothing is saved of the old one: all of the new one is with the next save.
        return model::mark_unsaved(&mut green.model);
    };
    let changes = model::collect(&mut green.model, beside.hashes())?;
    ledger.write_beside(&mut beside, changes)?;
    model::mark_saved(&mut green.model)?;
    ledger.swap(beside)
}

fn number(position: Option<Position>) -> u64 {
    position.map_or(0, Position::number)
}
