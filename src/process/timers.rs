//! The thread that watches the timers of a process manager: when the time of one has come it writes that to the stream of
//! the instance, and the runner delivers it like every other event.
//!
//! It never reacts, dispatches, or sets a timer. What it writes is written at the version that it read, with the timer
//! taken out, so that a timer fires once.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::engine::{self, StreamsOf};
use super::instance::Timer;
use super::manager::ProcessManager;
use crate::Signal;
use crate::error::{Error, Result};
use crate::types::Timestamp;

/// The wall clock is looked at so often while a timer is set, since it can jump and nobody tells.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// After an error that may pass, such as a full disk, timers wait so long.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// What the thread and its owner share.
#[derive(Debug, Default)]
pub(super) struct TimerControl {
    /// Raised when timers were set, and to stop.
    signal: Arc<Signal>,
    stopped: AtomicBool,
    rounds: Mutex<Rounds>,
    round_ended: Condvar,
}

/// How often the thread has looked at the clock, and what kept it from firing what was due then.
#[derive(Debug, Default)]
struct Rounds {
    ended: u64,
    failure: Option<Error>,
    is_over: bool,
}

impl TimerControl {
    /// Makes the thread look at its timers again.
    pub(super) fn wake(&self) {
        self.signal.raise();
    }

    /// Whether the thread was told to end.
    pub(super) fn was_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// What kept a timer that is due from firing when it was last tried.
    pub(super) fn failure(&self) -> Option<Error> {
        self.rounds.lock().failure.clone()
    }

    fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.signal.raise();
    }

    /// Waits until everything has fired that is due now.
    ///
    /// # Errors
    /// What keeps it from being written; [`Error::Stopped`] if the thread has ended.
    pub(super) fn fire_due(&self) -> Result<()> {
        let mut rounds = self.rounds.lock();
        // The round that is under way may have looked at the clock already.
        let wanted = rounds.ended + 2;
        while rounds.ended < wanted {
            if rounds.is_over {
                return Err(rounds.failure.clone().unwrap_or(Error::Stopped));
            }
            self.signal.raise();
            self.round_ended.wait(&mut rounds);
        }
        rounds.failure.clone().map_or(Ok(()), Err)
    }

    fn end_round(&self, failure: Option<Error>) {
        let mut rounds = self.rounds.lock();
        rounds.ended += 1;
        rounds.failure = failure;
        self.round_ended.notify_all();
    }
}

/// Tells that the thread has ended, however it does.
struct Over<'a>(&'a TimerControl);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.rounds.lock().is_over = true;
        self.0.round_ended.notify_all();
    }
}

/// The thread, which ends when this is dropped.
#[derive(Debug)]
pub(super) struct TimerThread {
    control: Arc<TimerControl>,
    thread: Option<JoinHandle<()>>,
}

impl TimerThread {
    pub(super) fn spawn<P: ProcessManager>(streams: Arc<StreamsOf<P>>, control: Arc<TimerControl>) -> Result<Self> {
        let builder = thread::Builder::new().name(format!("annals-timers-{}", P::NAME));
        let thread = builder.spawn({
            let control = Arc::clone(&control);
            move || run::<P>(&streams, &control)
        });
        let thread = thread.map_err(|error| Error::io("start a thread for", P::NAME, error))?;
        Ok(Self { control, thread: Some(thread) })
    }
}

impl Drop for TimerThread {
    fn drop(&mut self) {
        self.control.stop();
        // A panic of the thread was told when it happened.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn run<P: ProcessManager>(streams: &StreamsOf<P>, control: &TimerControl) {
    let _over = Over(control);
    let clock = streams.store.clock();
    while !control.was_stopped() {
        // The monotonic time first: if the clock is moved in between, the thread looks too early and not too late.
        let began = clock.monotonic();
        let fired = fire_due::<P>(streams, clock.now(), control);
        let failure = fired.err();
        let is_final = failure.as_ref().is_some_and(is_final);
        let failed = failure.is_some();
        control.end_round(failure);
        if is_final {
            return;
        }
        let wait = if failed { Some(RETRY_DELAY) } else { time_to_next::<P>(streams, clock.now()) };
        clock.wait(&control.signal, wait.map(|wait| began.saturating_add(wait)));
    }
}

/// Whether the store takes no more events from this handle.
fn is_final(error: &Error) -> bool {
    matches!(error, Error::Closed | Error::Poisoned { .. } | Error::ReadOnly | Error::Indeterminate { .. })
}

/// Fires what is due, in the order of the times. One that cannot be fired does not hold back the others.
fn fire_due<P: ProcessManager>(streams: &StreamsOf<P>, now: Timestamp, control: &TimerControl) -> Result<()> {
    let due: Vec<_> = {
        let open = streams.open();
        let due = open.timers().take_while(|(timer, _)| timer.due <= now);
        due.map(|(timer, id)| (timer.clone(), id.to_owned())).collect()
    };
    let mut fired = Ok(());
    for (timer, id) in due {
        if control.was_stopped() {
            break;
        }
        if let Err(error) = fire::<P>(streams, &id, &timer) {
            let is_final = is_final(&error);
            fired = fired.and(Err(error));
            if is_final {
                break;
            }
        }
    }
    fired
}

/// Fires a timer. A panic of the application, which reads and writes its own state, is an error of this timer.
fn fire<P: ProcessManager>(streams: &StreamsOf<P>, id: &str, timer: &Timer) -> Result<()> {
    let fired = catch_unwind(AssertUnwindSafe(|| engine::fire::<P>(streams, id, timer)));
    fired.unwrap_or_else(|_| {
        let what = format!("cannot fire the timer {:?} of {}-{id}", timer.name, P::NAME);
        Err(Error::Codec { what, reason: "reading or writing the state panicked".into() })
    })
}

fn time_to_next<P: ProcessManager>(streams: &StreamsOf<P>, now: Timestamp) -> Option<Duration> {
    let due = streams.open().first_due().map(|(timer, _)| timer.due)?;
    let nanos = due.nanos().saturating_sub(now.nanos());
    Some(Duration::from_nanos(u64::try_from(nanos).unwrap_or(0)).min(LOOK_INTERVAL))
}
