//! What the thread of a handler and those who hold its handle share: orders in one direction, progress in the other.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;

use super::error::HandlerError;
use super::kind::HandlerKind;
use crate::clock::{Clock, Signal};
use crate::error::Error;
use crate::types::Position;

/// What a handler does now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum HandlerState {
    /// It handles events that were there before.
    CatchingUp,
    /// It has handled everything and waits for more.
    Live,
    /// An event failed, and it waits to try it again.
    Retrying {
        /// The event.
        position: Position,
        /// How often it was tried.
        attempts: u32,
        /// What the last attempt failed with.
        error: String,
    },
    /// The circuit breaker is open: too many attempts failed in a row, and it waits for it to cool down.
    CircuitOpen {
        /// The event that is tried next.
        position: Position,
        /// How often it was tried.
        attempts: u32,
        /// What the last attempt failed with.
        error: String,
    },
    /// There is no space on the disk for a checkpoint, and it waits for some.
    NoSpace {
        /// What the store said.
        error: String,
    },
    /// What every event needs does not answer, such as a database that another program has locked, and it waits for that.
    Unavailable {
        /// What was said instead of an answer.
        error: String,
    },
    /// It was paused, and does nothing until it is resumed; or the tables of its SQL projection are being built anew.
    Paused,
    /// It was stopped, or its store was closed.
    Stopped,
    /// It stopped because of an error, and tries again what it failed at when it is started again.
    Failed {
        /// The event that it failed at, if it was one.
        position: Option<Position>,
        /// What went wrong.
        error: String,
    },
}

impl HandlerState {
    /// Whether the handler has ended: it does nothing more before it is started again.
    pub fn is_over(&self) -> bool {
        matches!(self, HandlerState::Stopped | HandlerState::Failed { .. })
    }

    /// The state of a handler that waits until an error passes; `None` if it does not pass by itself.
    pub(super) fn of_outage(error: &Error) -> Option<Self> {
        match error {
            Error::Full { .. } => Some(HandlerState::NoSpace { error: error.to_string() }),
            Error::Unavailable { .. } => Some(HandlerState::Unavailable { error: error.to_string() }),
            _ => None,
        }
    }

    /// The state of a handler that ended with a panic beside an event.
    pub(super) fn of_panic(payload: &(dyn Any + Send)) -> Self {
        HandlerState::Failed { position: None, error: HandlerError::of_panic(payload).text() }
    }
}

/// What the thread is told to do.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Orders {
    pub(super) stop: bool,
    pub(super) pause: bool,
    /// How many want it at rest besides, whoever pauses and resumes it.
    pub(super) held: u32,
    /// It is at rest, and stays so until it takes orders that let it go on.
    pub(super) is_at_rest: bool,
    /// Ends when everything up to this position is handled; 0 for what is there already.
    pub(super) end_at: Option<u64>,
    /// Counts how often somebody asked for something about dead letters.
    pub(super) requests: u64,
}

impl Orders {
    /// Whether it is to do nothing for now.
    pub(super) fn rests(&self) -> bool {
        self.pause || self.held > 0
    }
}

/// Says what keeps the work from getting on beside its events, if anything does.
#[derive(Clone)]
pub(super) struct Trouble(Arc<dyn Fn() -> Option<String> + Send + Sync>);

impl Trouble {
    pub(super) fn new(trouble: impl Fn() -> Option<String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(trouble))
    }
}

impl fmt::Debug for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Trouble")
    }
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) name: String,
    pub(super) kind: HandlerKind,
    trouble: Option<Trouble>,
    clock: Arc<dyn Clock>,
    orders: Mutex<Orders>,
    /// There may be orders that the thread has not seen. Looked at before each event.
    attention: AtomicBool,
    /// Wakes the thread from waiting for time to pass.
    ordered: Arc<Signal>,
    /// Wakes the thread from waiting for events.
    events: Arc<Signal>,
    /// The position up to which everything is handled; 0 for nothing.
    progress: AtomicU64,
    /// The requests that were carried out.
    carried_out: AtomicU64,
    pub(super) handled: AtomicU64,
    pub(super) failures: AtomicU64,
    pub(super) parked: AtomicUsize,
    pub(super) skipped: AtomicU64,
    state: Mutex<HandlerState>,
    rebuilt: Mutex<Option<String>>,
    /// The thread has let go of everything, its name included.
    has_ended: AtomicBool,
    waiters: Mutex<Vec<Arc<Signal>>>,
}

impl Shared {
    pub(super) fn new(
        name: &str,
        kind: HandlerKind,
        trouble: Option<Trouble>,
        clock: Arc<dyn Clock>,
        events: Arc<Signal>,
    ) -> Self {
        Self {
            name: name.to_owned(),
            kind,
            trouble,
            clock,
            // Whatever an earlier run has left to do for its dead letters is asked for.
            orders: Mutex::new(Orders { requests: 1, ..Orders::default() }),
            attention: AtomicBool::new(true),
            ordered: Arc::default(),
            events,
            progress: AtomicU64::new(0),
            carried_out: AtomicU64::new(0),
            handled: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            parked: AtomicUsize::new(0),
            skipped: AtomicU64::new(0),
            state: Mutex::new(HandlerState::CatchingUp),
            rebuilt: Mutex::default(),
            has_ended: AtomicBool::new(false),
            waiters: Mutex::default(),
        }
    }

    /// Changes the orders, and calls the thread.
    pub(super) fn order(&self, change: impl FnOnce(&mut Orders)) -> Orders {
        let orders = {
            let mut orders = self.orders.lock();
            change(&mut orders);
            *orders
        };
        self.attention.store(true, Ordering::Release);
        self.ordered.raise();
        self.events.raise();
        orders
    }

    #[inline]
    pub(super) fn has_orders(&self) -> bool {
        self.attention.load(Ordering::Relaxed)
    }

    /// For the thread: the orders as they are now.
    pub(super) fn take_orders(&self) -> Orders {
        // First the flag: orders that change behind this look raise it again.
        self.attention.swap(false, Ordering::AcqRel);
        let mut orders = self.orders.lock();
        orders.is_at_rest &= orders.rests();
        *orders
    }

    /// For the thread: everything is saved, and nothing is done until other orders are taken.
    pub(super) fn rest(&self) {
        self.set_state(HandlerState::Paused);
        {
            let mut orders = self.orders.lock();
            orders.is_at_rest = orders.rests();
        }
        self.tell();
    }

    pub(super) fn orders(&self) -> Orders {
        *self.orders.lock()
    }

    /// For the thread: waits until there are orders or the time has come; whether it is the time.
    pub(super) fn wait_for_time(&self, deadline: Duration) -> bool {
        !self.has_orders() && !self.clock.wait(&self.ordered, Some(deadline))
    }

    /// For the thread: waits until the time has come or it is told to stop. Other orders are seen to afterwards.
    pub(super) fn wait_unless_stopped(&self, deadline: Duration) {
        while !self.orders().stop && self.clock.wait(&self.ordered, Some(deadline)) {}
    }

    pub(super) fn now(&self) -> Duration {
        self.clock.monotonic()
    }

    pub(super) fn progress(&self) -> Option<Position> {
        Position::new(self.progress.load(Ordering::Acquire))
    }

    pub(super) fn publish(&self, position: Option<Position>) {
        let number = position.map_or(0, Position::number);
        if self.progress.swap(number, Ordering::AcqRel) != number {
            self.tell();
        }
    }

    pub(super) fn carried_out(&self) -> u64 {
        self.carried_out.load(Ordering::Acquire)
    }

    pub(super) fn publish_requests(&self, carried_out: u64) {
        if self.carried_out.swap(carried_out, Ordering::AcqRel) != carried_out {
            self.tell();
        }
    }

    pub(super) fn state(&self) -> HandlerState {
        self.state.lock().clone()
    }

    pub(super) fn set_state(&self, state: HandlerState) {
        let mut now = self.state.lock();
        if *now != state {
            *now = state;
            drop(now);
            self.tell();
        }
    }

    /// What keeps the work from getting on beside its events; nothing of what has ended.
    pub(super) fn trouble(&self) -> Option<String> {
        let Trouble(trouble) = self.trouble.as_ref().filter(|_| !self.has_ended())?;
        trouble()
    }

    /// Why everything was handled anew, if it was.
    pub(super) fn rebuilt(&self) -> Option<String> {
        self.rebuilt.lock().clone()
    }

    pub(super) fn set_rebuilt(&self, reason: Option<String>) {
        *self.rebuilt.lock() = reason;
    }

    pub(super) fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Acquire)
    }

    pub(super) fn end(&self) {
        self.has_ended.store(true, Ordering::Release);
        self.tell();
    }

    /// Wakes those who wait for the handler.
    fn tell(&self) {
        for waiter in self.waiters.lock().iter() {
            waiter.raise();
        }
    }

    /// Waits until `look` finds something, or the deadline on the store's monotonic time; then it looks once more.
    pub(super) fn wait_until<T>(&self, deadline: Option<Duration>, mut look: impl FnMut() -> Option<T>) -> Option<T> {
        let waiter = Waiter::new(self);
        loop {
            if let Some(found) = look() {
                return Some(found);
            }
            if !self.clock.wait(&waiter.signal, deadline) {
                return look();
            }
        }
    }
}

/// Somebody who waits for the handler.
struct Waiter<'a> {
    shared: &'a Shared,
    signal: Arc<Signal>,
}

impl<'a> Waiter<'a> {
    fn new(shared: &'a Shared) -> Self {
        let signal = Arc::new(Signal::new());
        shared.waiters.lock().push(Arc::clone(&signal));
        Self { shared, signal }
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.shared.waiters.lock().retain(|waiter| !Arc::ptr_eq(waiter, &self.signal));
    }
}
