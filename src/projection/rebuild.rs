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
use crate::Read;
use crate::error::{Error, Result};
use crate::types::Position;

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
    Spoiled(Position),
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
        let mut left_out = HashSet::new();
        for _ in 0..ATTEMPTS_MAX {
            let halt = match self.try_rebuild(&left_out) {
                Ok(rebuilt) => return Ok(rebuilt),
                Err(halt) => halt,
            };
            self.with_ledger(|ledger| {
                ledger.give_up_beside();
                Ok(())
            })?;
            match halt {
                Halt::Spoiled(position) => drop(left_out.insert(position)),
                Halt::Overtaken => {}
                Halt::Failed(error) => return Err(error),
            }
        }
        let what = format!("rebuilding {:?} in {ATTEMPTS_MAX} attempts", self.name);
        Err(Error::TimedOut { what })
    }

    fn try_rebuild(&self, left_out: &HashSet<Position>) -> Result<Rebuilt, Halt> {
        let (beside, retried) = self.with_ledger(|ledger| {
            let beside = ledger.is_saved().then(|| ledger.begin_beside()).transpose()?;
            Ok((beside, ledger.retried))
        })?;
        let mut left_out = left_out.clone();
        left_out.extend(self.put_aside()?);
        let mut green = Green { model: self.initial.clone(), looked: None, events: 0, left_out: 0, beside };
        self.catch_up(&mut green, &left_out)?;
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
        self.finish(green, &mut left_out, ledger)
    }

    /// The positions that were parked, and the newest that were skipped, as of the last save.
    fn put_aside(&self) -> Result<Vec<Position>> {
        let letters = self.store.dead_letters(&self.name)?;
        let parked = letters.list()?.into_iter().map(|letter| letter.position);
        Ok(parked.chain(letters.skipped()?.into_iter().map(|skipped| skipped.position)).collect())
    }

    /// Replays up to what is saved of the serving model, until no more than a batch is missing.
    fn catch_up(&self, green: &mut Green<M>, left_out: &HashSet<Position>) -> Result<(), Halt> {
        loop {
            let saved = self.with_ledger(|ledger| Ok(ledger.position))?;
            let behind = number(saved).saturating_sub(number(green.looked));
            self.replay(green, saved, |position| !left_out.contains(&position))?;
            if behind <= NEAR_EVENTS {
                return Ok(());
            }
        }
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
            let applied = is_wanted(event.position()).then(|| {
                let model = &mut green.model;
                catch_unwind(AssertUnwindSafe(|| (self.apply)(model, &event)))
            });
            match applied {
                Some(Ok(Ok(()))) => green.events += 1,
                None => green.left_out += 1,
                // The serving model has not seen it either: its policy was to go on.
                Some(Ok(Err(_)) | Err(_)) => return Err(Halt::Spoiled(event.position())),
            }
        }
        green.looked = upto;
        Ok(())
    }

    /// Catches up with what is saved, which cannot change now, and takes the place of the serving model.
    fn finish(
        &self,
        mut green: Green<M>,
        left_out: &mut HashSet<Position>,
        ledger: &mut Ledger,
    ) -> Result<Rebuilt, Halt> {
        left_out.extend(self.put_aside()?);
        self.replay(&mut green, ledger.position, |position| !left_out.contains(&position))?;
        settle(&mut green, ledger)?;
        let mut serving = match self.apply_unsaved(&mut green) {
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
    fn apply_unsaved(&self, green: &mut Green<M>) -> Result<RwLockWriteGuard<'_, Serving<M>>, Halt> {
        let mut done = 0;
        loop {
            let missing = self.serving.read().unsaved[done..].to_vec();
            self.apply_again(green, &missing)?;
            done += missing.len();
            if missing.len() as u64 <= NEAR_EVENTS {
                break;
            }
        }
        let serving = self.serving.write();
        self.apply_again(green, &serving.unsaved[done..])?;
        Ok(serving)
    }

    /// Applies these events in this order, in which each dead letter that was retried begins another run.
    fn apply_again(&self, green: &mut Green<M>, positions: &[Position]) -> Result<(), Halt> {
        for run in positions.chunk_by(|a, b| a < b) {
            let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
            green.looked = Position::new(first.number() - 1);
            self.replay(green, Some(*last), |position| run.binary_search(&position).is_ok())?;
        }
        Ok(())
    }
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
