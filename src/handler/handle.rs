//! The handle of a handler that runs: waiting for it, looking at it, pausing and ending it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Serialize;

use super::kind::HandlerKind;
use super::shared::{HandlerState, Shared};
use crate::error::{Error, Invalid, Result};
use crate::sync::thread::OwnThread;
use crate::types::Position;
use crate::{Lag, Store};

/// A handler that was started. Dropping it stops the handler, and waits for the event that it is at;
/// [`detach`](HandlerHandle::detach) leaves it to run until its store is [shut down](Store::shutdown) or closed.
#[derive(Debug)]
#[must_use = "the handler stops when this is dropped"]
pub struct HandlerHandle {
    store: Store,
    pub(super) shared: Arc<Shared>,
    /// `None` once it was waited for, or left to itself.
    thread: Option<OwnThread>,
}

/// What a handler does, and has done since it was started.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct HandlerStatus {
    /// Its name.
    pub name: String,
    /// What kind of work it does.
    pub kind: HandlerKind,
    /// What it does now.
    pub state: HandlerState,
    /// Everything up to here is handled; `None` for nothing.
    pub position: Option<Position>,
    /// Events that were handled and saved since it was started.
    pub handled: u64,
    /// Attempts that failed since it was started.
    pub failures: u64,
    /// Dead letters.
    pub parked: usize,
    /// Events that it has ever skipped.
    pub skipped: u64,
    /// Why it has built its read model anew when it was started, if it has.
    pub rebuilt: Option<String>,
    /// What keeps it from getting on beside its events, such as a timer that cannot be fired; `None` if nothing does.
    pub trouble: Option<String>,
}

/// What a handler that was ended has left.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Remainder {
    /// The name of the handler.
    pub name: String,
    /// How it ended, or what it was doing when the time was up.
    pub state: HandlerState,
    /// Everything up to here is handled.
    pub position: Option<Position>,
    /// Events up to the head at the time of the order that it has not looked at.
    pub events: u64,
    /// Dead letters.
    pub parked: usize,
    /// Whether it is still at an event. It ends when it is done with that.
    pub is_busy: bool,
}

impl Remainder {
    /// Whether nothing is left to do but dead letters.
    pub fn is_drained(&self) -> bool {
        self.events == 0 && !self.is_busy
    }
}

impl HandlerHandle {
    pub(super) fn new(store: &Store, shared: Arc<Shared>, thread: OwnThread) -> Self {
        Self { store: store.clone(), shared, thread: Some(thread) }
    }

    /// The name of the handler.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Waits until everything up to this position is handled: read your own writes, with the position of an append.
    /// An event that was parked or skipped counts as handled. A position that nobody has appended yet is waited for.
    ///
    /// # Errors
    /// [`Error::HandlerFailed`] or [`Error::Stopped`] if the handler ends before, or runs in the process that this one was
    /// forked from; [`Error::Invalid`] if it is the handler itself that would wait, on its own thread, for what it handles
    /// next.
    pub fn wait_for(&self, position: Position) -> Result<()> {
        self.wait(Some(position), None, || self.shared.progress() >= Some(position))
    }

    /// The same, for so long at most.
    ///
    /// # Errors
    /// [`Error::TimedOut`] if that takes longer on the clock of the store, and those of
    /// [`wait_for`](HandlerHandle::wait_for).
    pub fn wait_for_within(&self, position: Position, time: Duration) -> Result<()> {
        let deadline = self.shared.now().saturating_add(time);
        self.wait(Some(position), Some(deadline), || self.shared.progress() >= Some(position))
    }

    /// Waits until everything that was asked for dead letters before is carried out, and what followed from it.
    ///
    /// # Errors
    /// Those of [`wait_for`](HandlerHandle::wait_for).
    pub fn wait_for_requests(&self) -> Result<()> {
        let asked = self.shared.orders().requests;
        self.wait(None, None, || self.shared.carried_out() >= asked)
    }

    fn wait(&self, position: Option<Position>, deadline: Option<Duration>, is_done: impl Fn() -> bool) -> Result<()> {
        let look = || {
            if is_done() {
                return Some(Ok(()));
            }
            if self.is_own_thread() {
                return Some(Err(waits_for_itself(self.name())));
            }
            // An end that was told before the last progress was made is looked at after it.
            self.has_ended().then(|| if is_done() { Ok(()) } else { Err(self.end()) })
        };
        let timed_out = || {
            let what = match position {
                Some(position) => format!("handling {position} by {:?}", self.name()),
                None => format!("what was asked of {:?}", self.name()),
            };
            Err(Error::TimedOut { what })
        };
        self.shared.wait_until(deadline, look).unwrap_or_else(timed_out)
    }

    /// Waits until the handler is in a state that `wanted` accepts, or has ended, and returns that.
    pub fn wait_for_state(&self, wanted: impl Fn(&HandlerState) -> bool) -> HandlerState {
        let look = || {
            let has_ended = self.has_ended();
            let state = self.shared.state();
            // A handler that is over is told once it has let go of its name.
            (has_ended || (wanted(&state) && !state.is_over())).then_some(state)
        };
        // Without a deadline, waiting ends only with something found.
        self.shared.wait_until(None, look).unwrap_or_else(|| self.shared.state())
    }

    fn is_own_thread(&self) -> bool {
        self.thread.as_ref().is_some_and(OwnThread::is_current)
    }

    /// Whether it does nothing any more: it is over, or did not come along into this process, which was forked.
    fn has_ended(&self) -> bool {
        self.shared.has_ended() || self.thread.as_ref().is_some_and(|thread| !thread.is_here())
    }

    /// The error of who was told no more than that the handler has ended.
    pub(crate) fn told_why(&self, error: Error) -> Error {
        if matches!(error, Error::Stopped) { self.end() } else { error }
    }

    /// Why the handler has ended.
    fn end(&self) -> Error {
        match self.shared.state() {
            HandlerState::Failed { position, error } => {
                Error::HandlerFailed { name: self.name().to_owned(), position, reason: error }
            }
            _ => Error::Stopped,
        }
    }

    /// How far the handler is behind the visible head.
    ///
    /// # Errors
    /// Those of [`Lag::behind`].
    pub fn lag(&self) -> Result<Lag> {
        Lag::behind(&self.store, self.shared.progress())
    }

    /// What the handler does, and has done.
    pub fn status(&self) -> HandlerStatus {
        status_of(&self.shared)
    }

    /// Lets the handler finish and save the event that it is at, and then do nothing until it is resumed. What is asked
    /// for its dead letters waits as well.
    pub fn pause(&self) {
        self.shared.order(|orders| orders.pause = true);
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.shared.order(|orders| orders.pause = false);
    }

    /// Acts while the handler is at rest with everything saved, dead letters included, or has ended: whoever pauses and
    /// resumes it meanwhile.
    ///
    /// # Errors
    /// [`Error::Stopped`] in a process that was forked from the one that the handler runs in.
    #[cfg(any(test, feature = "sqlite"))]
    pub(crate) fn at_rest<T>(&self, act: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.thread.as_ref().is_some_and(|thread| !thread.is_here()) {
            return Err(Error::Stopped);
        }
        let _hold = Hold::on(&self.shared);
        let look = || (self.has_ended() || self.shared.orders().is_at_rest).then_some(());
        self.shared.wait_until(None, look);
        act()
    }

    /// Stops the handler: it finishes the event that it is at, saves how far it came, and ends.
    ///
    /// # Errors
    /// [`Error::HandlerFailed`] if it had ended with an error, or ends so.
    pub fn stop(mut self) -> Result<()> {
        self.join();
        match self.end() {
            Error::Stopped => Ok(()),
            error => Err(error),
        }
    }

    /// Lets the handler handle everything up to the visible head as of now, and stops it, or stops it where it is when
    /// the time is up on the clock of the store. One that is paused is stopped at once. Does not wait for an event that
    /// takes longer.
    ///
    /// # Errors
    /// Those of [`Store::head`].
    pub fn drain(mut self, time: Duration) -> Result<Remainder> {
        // From here on it ends by itself; waiting for it is what `drain` does.
        drop(self.thread.take());
        let head = self.store.head()?;
        let deadline = self.shared.now().saturating_add(time);
        drain_to(&self.shared, head);
        Ok(remainder(&self.shared, head, deadline))
    }

    /// Leaves the handler to run by itself: until its store is shut down or closed.
    pub fn detach(mut self) {
        drop(self.thread.take());
    }

    fn join(&mut self) {
        let is_own_thread = self.is_own_thread();
        let Some(thread) = self.thread.take() else { return };
        self.shared.order(|orders| orders.stop = true);
        // A handler that drops its own handle ends when it is done with its event.
        if !is_own_thread {
            // A panic was caught and is told as the state.
            thread.join();
        }
    }
}

/// Keeps a handler at rest until it is dropped.
#[cfg(any(test, feature = "sqlite"))]
struct Hold<'a>(&'a Shared);

#[cfg(any(test, feature = "sqlite"))]
impl<'a> Hold<'a> {
    fn on(shared: &'a Shared) -> Self {
        shared.order(|orders| orders.held += 1);
        Self(shared)
    }
}

#[cfg(any(test, feature = "sqlite"))]
impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.0.order(|orders| orders.held -= 1);
    }
}

fn waits_for_itself(name: &str) -> Error {
    let problem = format!("the handler {name:?} would wait for itself: it goes on when what it is at has returned");
    Invalid::of("wait_for", problem).into()
}

impl Drop for HandlerHandle {
    fn drop(&mut self) {
        self.join();
    }
}

pub(super) fn status_of(shared: &Shared) -> HandlerStatus {
    HandlerStatus {
        name: shared.name.clone(),
        kind: shared.kind,
        state: shared.state(),
        position: shared.progress(),
        handled: shared.handled.load(Ordering::Relaxed),
        failures: shared.failures.load(Ordering::Relaxed),
        parked: shared.parked.load(Ordering::Relaxed),
        skipped: shared.skipped.load(Ordering::Relaxed),
        rebuilt: shared.rebuilt(),
        trouble: shared.trouble(),
    }
}

/// Orders the handler to end when it has handled everything up to `head`.
pub(super) fn drain_to(shared: &Shared, head: Option<Position>) {
    let end = head.map_or(0, Position::number);
    shared.order(|orders| orders.end_at = Some(end));
}

/// Waits until a handler that was ordered to drain has ended, and stops it at the deadline.
pub(super) fn remainder(shared: &Shared, head: Option<Position>, deadline: Duration) -> Remainder {
    if shared.wait_until(Some(deadline), || shared.has_ended().then_some(())).is_none() {
        shared.order(|orders| orders.stop = true);
    }
    let number = |position: Option<Position>| position.map_or(0, Position::number);
    let position = shared.progress();
    Remainder {
        name: shared.name.clone(),
        state: shared.state(),
        position,
        events: number(head).saturating_sub(number(position)),
        parked: shared.parked.load(Ordering::Relaxed),
        is_busy: !shared.has_ended(),
    }
}
