//! The loop of a handler's thread: follow, mark, handle, save, and what follows from failures.
//!
//! Events are taken in batches. A failure within a batch singles out its event: what was handled before is saved, or
//! rolled back and handled again, and then the event is tried by itself until it succeeds or its policy is at an end.
//! What failed is always undone before anything else is tried, and nothing is saved while something is half done.
//!
//! Invariants: `looked` never moves behind `saved` but for starting over; everything up to `looked` is handled, parked,
//! skipped or does not match; a batch that was not saved holds no event that failed.

mod attempts;
mod batch;
mod orders;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::handler::breaker::Breaker;
use crate::handler::kind::HandlerKind;
use crate::handler::mark::{MarkSlot, Suspect};
use crate::handler::observe::Observer;
use crate::handler::parking::Parking;
use crate::handler::policy::{LastResort, OnError};
use crate::handler::shared::{HandlerState, Shared};
use crate::handler::work::{Checkpoint, Work};
use crate::types::Position;
use crate::{Event, Follow, Horizon, Query, Store};

/// Events that were passed over without a match and are saved as a checkpoint of their own.
const PASSED_OVER_EVENTS: u64 = 10_000;

/// What a runner was told.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) policy: OnError,
    pub(super) batch_events: usize,
    pub(super) save_within: Duration,
    pub(super) horizon: Horizon,
    pub(super) dead_letters_max: usize,
}

pub(super) struct Driver {
    store: Store,
    work: Box<dyn Work>,
    settings: Settings,
    shared: Arc<Shared>,
    observer: Observer,
    /// The position of the last checkpoint.
    saved: Option<Position>,
    /// Everything up to here is done.
    looked: Option<Position>,
    batch: Batch,
    parking: Parking,
    mark: MarkSlot,
    /// The first dead letter that something is to be done about, and that was not looked at yet: where work is saved
    /// elsewhere, what is left of it can be older than the dead letters.
    due_later: Option<Position>,
    /// The event that failed, until it is settled.
    suspect: Option<Suspect>,
    /// Up to here events are handled one by one, because one of them may end the process or fail as part of a batch.
    careful_upto: Option<Position>,
    breaker: Breaker,
    /// How long the next wait for an outage to end is; `None` if there is none.
    outage_delay: Option<Duration>,
    /// Of the chance in delays.
    seed: u64,
}

/// Where a handler begins.
pub(super) struct Loaded {
    pub(super) checkpoint: Checkpoint,
    /// Why everything is handled anew, if it is.
    pub(super) rebuilt: Option<String>,
    /// Where it begins has to be saved: at the next start the end would be elsewhere.
    pub(super) is_first: bool,
    /// What was put aside was put aside by a state that is gone, and would keep whole streams from the new one.
    pub(super) forgets: bool,
}

/// What was done since the last checkpoint.
#[derive(Debug, Default)]
struct Batch {
    handled: usize,
    last_handled: Option<Position>,
    parked: usize,
    /// When the first of it was handled, in monotonic time.
    since: Option<Duration>,
}

/// Where the loop goes on.
enum Step {
    On,
    /// At the event behind `looked`, which lies before the one that was read.
    Again,
    /// At the end of the chunk.
    End,
}

/// Why the loop ends.
enum End {
    /// It was told to.
    Told,
    Error(Error),
    /// The policy is to stop.
    Failed(Suspect),
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        End::Error(error)
    }
}

impl Driver {
    pub(super) fn new(
        store: &Store,
        work: Box<dyn Work>,
        settings: Settings,
        shared: Arc<Shared>,
        loaded: Loaded,
    ) -> Result<Self> {
        let Loaded { checkpoint, rebuilt, is_first, forgets } = loaded;
        let mut parking = Parking::load(store, &shared.name, &checkpoint)?;
        let mut mark = MarkSlot::load(store, &shared.name)?;
        let saved = checkpoint.position();
        if forgets {
            parking.clear()?;
            // An event that the state that is gone has failed at was not tried by the new one.
            mark.clear(None)?;
        }
        let observer = Observer::new(&shared.name);
        let breaker = Breaker::new(settings.policy.breaker_options());
        let mut driver = Self {
            store: store.clone(),
            work,
            settings,
            shared,
            observer,
            saved,
            looked: saved,
            batch: Batch::default(),
            parking,
            mark,
            due_later: None,
            suspect: None,
            careful_upto: None,
            breaker,
            outage_delay: None,
            seed: draw_seed(store),
        };
        driver.begin(rebuilt, is_first)?;
        Ok(driver)
    }

    /// Takes up what an earlier run has left.
    fn begin(&mut self, rebuilt: Option<String>, is_first: bool) -> Result<()> {
        let left = self.mark.aftermath(self.saved);
        (self.suspect, self.careful_upto) = (left.suspect, left.careful_upto);
        if let Some(suspect) = &mut self.suspect
            && self.settings.policy.last_resort() == LastResort::Stop
        {
            // Whoever starts it again means it to be tried again.
            suspect.failed.attempts = suspect.failed.attempts.min(self.settings.policy.retries());
        }
        if let Some(parked) = left.parked {
            self.parking.count_at_least(parked.position, &parked.failed)?;
        }
        if rebuilt.is_some() || is_first {
            self.try_save()?;
        }
        self.shared.set_rebuilt(rebuilt);
        self.tell_parked();
        self.shared.publish(self.looked);
        Ok(())
    }

    /// Runs until it is told to end, or something is wrong. Returns the state that it leaves.
    pub(super) fn run(&mut self, follow: &mut Follow) -> HandlerState {
        let Err(end) = self.rounds(follow);
        let state = match end {
            End::Told => self.part(),
            // A store that was closed takes no checkpoint either: it is not the handler that has failed.
            End::Error(Error::Closed) => HandlerState::Stopped,
            End::Error(error) => HandlerState::Failed { position: None, error: error.to_string() },
            End::Failed(suspect) => {
                let _ = self.part();
                HandlerState::Failed { position: Some(suspect.position), error: suspect.failed.error }
            }
        };
        self.observe_lag();
        state
    }

    /// Handles round after round, until one says that it was the last.
    fn rounds(&mut self, follow: &mut Follow) -> Result<Infallible, End> {
        follow.seek(self.looked);
        self.narrow_care(follow.query())?;
        loop {
            self.round(follow)?;
        }
    }

    /// What an earlier run was at when its process ended is one of the first batch behind its checkpoint, however far its
    /// mark reached: only those are handled one by one. If its batches were larger, the next run is careful with the next.
    fn narrow_care(&mut self, query: &Query) -> Result<()> {
        let Some(upto) = self.careful_upto else { return Ok(()) };
        let mut first =
            self.store.read(query.clone()).after(self.saved).upto(upto).limit(self.settings.batch_events as u64);
        while let Some(event) = first.next()? {
            self.careful_upto = Some(event.position());
        }
        Ok(())
    }

    /// Handles what there is, and waits for more.
    fn round(&mut self, follow: &mut Follow) -> Result<(), End> {
        if self.is_due() || self.shared.has_orders() {
            self.attend(follow)?;
        }
        self.chunk(follow)?;
        if !self.rest(follow)? {
            follow.seek(self.looked);
            return Ok(());
        }
        if self.is_due() {
            return Ok(());
        }
        let drained = self.shared.orders().end_at.is_some_and(|end| number(self.looked) >= end);
        if drained {
            return Err(End::Told);
        }
        if !follow.is_caught_up()? {
            return Ok(());
        }
        self.observe_lag();
        self.shared.set_state(HandlerState::Live);
        let due = self.batch.since.map(|since| since + self.settings.save_within);
        follow.wait(due)?;
        Ok(())
    }

    /// Whether a dead letter that was asked for too early can be seen to now.
    fn is_due(&self) -> bool {
        self.due_later.is_some() && self.due_later <= self.looked
    }

    fn chunk(&mut self, follow: &mut Follow) -> Result<(), End> {
        loop {
            let step = match follow.next()? {
                Some(event) => self.pass(&event)?,
                None => Step::End,
            };
            match step {
                Step::On => {}
                Step::Again if self.shared.has_orders() => self.attend(follow)?,
                Step::Again => follow.seek(self.looked),
                Step::End => return Ok(()),
            }
        }
    }

    /// Takes one event.
    fn pass(&mut self, event: &Event<'_>) -> Result<Step, End> {
        if self.shared.has_orders() {
            // What is done is saved first. The event is read again.
            self.finish()?;
            return Ok(Step::Again);
        }
        let position = event.position();
        if self.parking.is_blocked(event.stream(), position) {
            return self.park_behind(event);
        }
        let is_watched = self.is_watched(position);
        let saves_first = is_watched || (self.batch.parked > 0 && self.parks_durably());
        if saves_first && !self.finish()? {
            return Ok(Step::Again);
        }
        if is_watched {
            return self.single(event);
        }
        self.mark_stretch(position)?;
        match self.attempt(event) {
            Ok(()) => self.took(position),
            Err(error) => self.single_out(position, &error),
        }
    }

    /// Whether the event is handled by itself.
    fn is_watched(&self, position: Position) -> bool {
        self.careful_upto >= Some(position)
            || self.breaker.has_opened()
            || self.suspect.as_ref().is_some_and(|suspect| suspect.position == position)
    }

    /// Whether what was parked is durably so before anything else is tried. The log says where an instance of a process
    /// manager began: what came before that counts as passed over from then on, unless it is known to be parked.
    fn parks_durably(&self) -> bool {
        self.shared.kind == HandlerKind::ProcessManager
    }

    fn took(&mut self, position: Position) -> Result<Step, End> {
        self.looked = Some(position);
        self.batch.handled += 1;
        self.batch.last_handled = Some(position);
        self.grown()
    }

    fn park_behind(&mut self, event: &Event<'_>) -> Result<Step, End> {
        self.check_room_for_letters(event)?;
        self.parking.park_behind(event);
        self.looked = Some(event.position());
        self.batch.parked += 1;
        self.grown()
    }

    fn grown(&mut self) -> Result<Step, End> {
        if self.batch.since.is_none() {
            self.batch.since = Some(self.shared.now());
        }
        if self.batch.handled + self.batch.parked < self.settings.batch_events {
            return Ok(Step::On);
        }
        Ok(if self.finish()? { Step::On } else { Step::Again })
    }

    /// Everything up to the end of the chunk is looked at: saves if it is time. `false` if the chunk has to be read again.
    fn rest(&mut self, follow: &Follow) -> Result<bool, End> {
        self.looked = self.looked.max(follow.looked());
        let now = self.shared.now();
        let is_due = self.batch.since.is_some_and(|since| now >= since + self.settings.save_within);
        if is_due {
            return self.finish();
        }
        if self.batch.since.is_none() && number(self.looked) - number(self.saved) >= PASSED_OVER_EVENTS {
            self.save()?;
        }
        if !self.flush_batch()? {
            return Ok(false);
        }
        self.shared.publish(self.looked);
        Ok(true)
    }
}

fn draw_seed(store: &Store) -> u64 {
    let mut bytes = [0; 8];
    store.randomness().fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

fn number(position: Option<Position>) -> u64 {
    position.map_or(0, Position::number)
}
