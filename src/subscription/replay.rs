//! Replaying: the events that a query asks for, once more, through any handler, with a beginning and an end.
//!
//! The calling thread reads, and handles the events itself or gives them to the workers of `parallel`. Nothing is written;
//! where a replay has stopped is a token, which the caller keeps.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::consumer::Stopper;
use super::parallel::ParallelReplay;
use crate::clock::Signal;
use crate::error::{Error, Invalid, Result};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::types::{Position, Timestamp};
use crate::{Event, HistoryPoint, Query, Read, Store};

/// Events between two calls of the progress callback.
const PROGRESS_EVENTS: u64 = 1_000;

/// A replay that is described first, and then run.
///
/// ```
/// use annals::{ExpectedVersion, NewEvent, Query, Store};
///
/// let store = Store::in_memory()?;
/// store.append("account-alice", ExpectedVersion::NoStream, [NewEvent::raw("Opened", "")])?;
///
/// let mut opened = 0;
/// let replayed = store.replay(Query::types(["Opened"])).run(|_event| opened += 1)?;
/// assert_eq!((opened, replayed.events), (1, 1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a replay does nothing before it is run"]
pub struct Replay {
    store: Store,
    query: Query,
    begin: Begin,
    upto: Option<Position>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    pub(super) direction: Direction,
    on_progress: Option<OnProgress>,
    stopped: Arc<AtomicBool>,
    signal: Arc<Signal>,
}

type OnProgress = Box<dyn FnMut(&ReplayProgress)>;

/// Where a replay begins.
#[derive(Debug, Clone, Copy)]
enum Begin {
    Open,
    From(Position),
    After(Position),
    Resumed(ReplayToken),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Direction {
    Forward,
    Backward,
}

/// How far a replay is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReplayProgress {
    /// Events that were handled, or given to a worker.
    pub events: u64,
    /// The position of the last of them.
    pub position: Position,
    /// The last position of the replay, or the first of one that goes backwards.
    pub end: Position,
}

/// What a replay came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Replayed {
    /// Events that were handled.
    pub events: u64,
    /// Whether it came to its end, and was not stopped before.
    pub is_finished: bool,
    /// Where another replay of the same direction goes on; `None` if nothing was done.
    pub token: Option<ReplayToken>,
}

/// Where a replay has stopped. It can be kept as JSON, or anything else that serde speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayToken {
    point: HistoryPoint,
    direction: Direction,
}

/// Why a replay failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum ReplayError {
    /// The store cannot be read, or the replay is described wrongly.
    Store(Error),
    /// The handler returned an error.
    Handler {
        /// The event.
        position: Position,
        /// What the handler said.
        source: Box<dyn StdError + Send + Sync>,
        /// Where another replay goes on, with the event that failed; `None` for at the beginning. Workers may have
        /// handled later events of other streams already, which are handled again then.
        token: Option<ReplayToken>,
    },
}

/// What a handler of a replay may return: nothing, or a `Result`.
pub trait ReplayOutcome {
    /// The same as a `Result`.
    ///
    /// # Errors
    /// What the handler returned.
    fn into_result(self) -> Result<(), Box<dyn StdError + Send + Sync>>;
}

impl ReplayOutcome for () {
    fn into_result(self) -> Result<(), Box<dyn StdError + Send + Sync>> {
        Ok(())
    }
}

impl<E: Into<Box<dyn StdError + Send + Sync>>> ReplayOutcome for Result<(), E> {
    fn into_result(self) -> Result<(), Box<dyn StdError + Send + Sync>> {
        self.map_err(Into::into)
    }
}

impl Store {
    /// Describes a replay of the events that match, from the first to the last that is visible when it runs.
    pub fn replay(&self, query: Query) -> Replay {
        Replay {
            store: self.clone(),
            query,
            begin: Begin::Open,
            upto: None,
            since: None,
            until: None,
            direction: Direction::Forward,
            on_progress: None,
            stopped: Arc::default(),
            signal: Arc::default(),
        }
    }
}

impl Replay {
    /// Begins at this position, included.
    pub fn from(mut self, position: Position) -> Self {
        self.begin = Begin::From(position);
        self
    }

    /// Begins behind this position, in the direction of the replay; `None` begins at the beginning.
    pub fn after(mut self, position: impl Into<Option<Position>>) -> Self {
        self.begin = position.into().map_or(Begin::Open, Begin::After);
        self
    }

    /// Goes on where another replay has stopped.
    pub fn resume(mut self, token: ReplayToken) -> Self {
        self.begin = Begin::Resumed(token);
        self
    }

    /// Handles no event beyond this position; `None` is no bound.
    pub fn upto(mut self, position: impl Into<Option<Position>>) -> Self {
        self.upto = position.into();
        self
    }

    /// Handles only events that happened at this time or later.
    pub fn since(mut self, time: Timestamp) -> Self {
        self.since = Some(time);
        self
    }

    /// Handles only events that happened before this time.
    pub fn until(mut self, time: Timestamp) -> Self {
        self.until = Some(time);
        self
    }

    /// Goes from the last event to the first.
    pub fn reverse(mut self) -> Self {
        self.direction = Direction::Backward;
        self
    }

    /// Is told now and then how far it is, on the thread that runs the replay, and once at the end if anything was
    /// handled.
    pub fn on_progress(mut self, on_progress: impl FnMut(&ReplayProgress) + 'static) -> Self {
        self.on_progress = Some(Box::new(on_progress));
        self
    }

    /// What stops it from another thread, or from its handler: it ends before the next event, and can be resumed.
    pub fn stopper(&self) -> Stopper {
        Stopper::new(&self.stopped, &self.signal)
    }

    /// Runs the events through a handler that is shared by so many threads. All events of a stream go to one of them, in
    /// order; those of different streams are handled side by side.
    pub fn parallel(self, workers: usize) -> ParallelReplay {
        ParallelReplay::new(self, workers)
    }

    /// Runs the events through a handler: a closure like that of a reactor, or what calls
    /// [`Work::handle`](crate::Work::handle) or [`Sink::deliver`](crate::Sink::deliver). For a projection there is
    /// [`Replay::project`].
    ///
    /// # Errors
    /// [`ReplayError::Handler`] if the handler returns an error; [`ReplayError::Store`] with [`Error::HistoryChanged`] if
    /// the token is of another history, with [`Error::Invalid`] if it is of the other direction or the query breaks a
    /// limit, and with those of [`Read::next`].
    pub fn run<O: ReplayOutcome>(mut self, mut handler: impl FnMut(&Event<'_>) -> O) -> Result<Replayed, ReplayError> {
        let mut read = self.read()?;
        let mut run = Run::new(read.head());
        while let Some(event) = self.next(&mut read)? {
            let position = event.position();
            if let Err(source) = handler(&event).into_result() {
                return Err(self.failed(position, source)?);
            }
            run.note(position, &mut self);
        }
        Ok(run.finish(&mut self)?)
    }

    pub(super) fn read(&self) -> Result<Read> {
        let mut read = self.store.read(self.query.clone()).upto(self.upto);
        if self.direction == Direction::Backward {
            read = read.reverse();
        }
        if let Some(since) = self.since {
            read = read.since(since);
        }
        if let Some(until) = self.until {
            read = read.until(until);
        }
        Ok(match self.begin {
            Begin::Open => read,
            Begin::From(position) => read.from(position),
            Begin::After(position) => read.after(position),
            Begin::Resumed(token) => read.after(self.check(token)?),
        })
    }

    fn check(&self, token: ReplayToken) -> Result<Position> {
        if token.direction != self.direction {
            let problem = "it is of a replay of the other direction";
            return Err(Invalid::of("token", problem).into());
        }
        self.store.check_history(&token.point)?;
        Ok(token.point.position)
    }

    pub(super) fn next<'r>(&self, read: &'r mut Read) -> Result<Option<Event<'r>>> {
        if self.stopped.load(Ordering::SeqCst) { Ok(None) } else { read.next() }
    }

    fn token(&self, position: Option<Position>) -> Result<Option<ReplayToken>> {
        let point = position.map(|position| self.store.history_point(position)).transpose()?;
        Ok(point.map(|point| ReplayToken { point, direction: self.direction }))
    }

    pub(super) fn failed(&self, position: Position, source: Box<dyn StdError + Send + Sync>) -> Result<ReplayError> {
        let before = match self.direction {
            Direction::Forward => Position::new(position.number() - 1),
            Direction::Backward => Position::new(position.number() + 1).filter(|before| self.is_visible(*before)),
        };
        Ok(ReplayError::Handler { position, source, token: self.token(before)? })
    }

    fn is_visible(&self, position: Position) -> bool {
        self.store.head().is_ok_and(|head| head >= Some(position))
    }
}

/// What a replay that runs has done.
pub(super) struct Run {
    head: Option<Position>,
    events: u64,
    last: Option<Position>,
}

impl Run {
    pub(super) fn new(head: Option<Position>) -> Self {
        Self { head, events: 0, last: None }
    }

    pub(super) fn note(&mut self, position: Position, replay: &mut Replay) {
        self.events += 1;
        self.last = Some(position);
        if self.events.is_multiple_of(PROGRESS_EVENTS) {
            self.tell(position, replay);
        }
    }

    fn tell(&self, position: Position, replay: &mut Replay) {
        let end = match replay.direction {
            Direction::Forward => self.head.unwrap_or(position),
            Direction::Backward => Position::FIRST,
        };
        if let Some(on_progress) = &mut replay.on_progress {
            on_progress(&ReplayProgress { events: self.events, position, end });
        }
    }

    pub(super) fn finish(self, replay: &mut Replay) -> Result<Replayed> {
        if let Some(last) = self.last.filter(|_| !self.events.is_multiple_of(PROGRESS_EVENTS)) {
            self.tell(last, replay);
        }
        let is_finished = !replay.stopped.load(Ordering::SeqCst);
        let end = match replay.direction {
            Direction::Forward if is_finished && replay.until.is_none() => self.head.min(replay.upto.or(self.head)),
            Direction::Backward if is_finished && replay.since.is_none() => self.head.and(Some(Position::FIRST)),
            // What lies behind a bound in time was not handled, and may be wanted by the one that goes on.
            _ => self.last,
        };
        // One that was stopped before it did anything goes on where it would have begun.
        let token = match (end, replay.begin) {
            (None, Begin::Resumed(token)) => Some(token),
            _ => replay.token(end)?,
        };
        Ok(Replayed { events: self.events, is_finished, token })
    }
}

impl fmt::Debug for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replay").field("query", &self.query).field("begin", &self.begin).finish_non_exhaustive()
    }
}

impl fmt::Display for ReplayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReplayError::Store(error) => error.fmt(f),
            ReplayError::Handler { position, source, .. } => {
                write!(f, "the handler failed at position {position}: {source}")
            }
        }
    }
}

impl StdError for ReplayError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            ReplayError::Store(error) => Some(error),
            ReplayError::Handler { source, .. } => Some(&**source),
        }
    }
}

impl From<Error> for ReplayError {
    fn from(error: Error) -> Self {
        ReplayError::Store(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::error::ExpectedVersion;
    use crate::{NewEvent, Options};

    /// Ten events, a millisecond apart from 0 on.
    fn store() -> Store {
        let clock = ManualClock::new(Timestamp::from_millis(0));
        let store = Options::new().clock(clock.clone()).without_background_work().in_memory().unwrap();
        for _ in 0..10 {
            store.append("a-1", ExpectedVersion::Any, [NewEvent::raw("Counted", "")]).unwrap();
            clock.advance(std::time::Duration::from_millis(1));
        }
        store
    }

    #[test]
    fn what_lies_behind_a_bound_is_handled_by_the_replay_that_goes_on() {
        let store = store();
        let all = || store.replay(Query::all());
        let at = Timestamp::from_millis;
        let bounded = [
            (all().upto(Position::new(4)), all(), 4),
            (all().until(at(4)), all(), 4),
            (all().reverse().since(at(4)), all().reverse(), 6),
            (all(), all(), 10),
        ];
        for (bounded, rest, events) in bounded {
            let handled = bounded.run(|_| ()).unwrap();
            let rest = rest.resume(handled.token.unwrap()).run(|_| ()).unwrap();
            assert_eq!((handled.events, handled.events + rest.events), (events, 10));
        }
    }
}
