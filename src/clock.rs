//! Time and waiting: the only place that reads a clock, and where threads of the engine wait.
//!
//! Wall time goes into events and is never compared to order anything: it can jump. What is measured and waited for is
//! monotonic time. A test puts a [`ManualClock`] in place of the [`SystemClock`] and moves time itself.

#![allow(clippy::disallowed_methods, reason = "this is the module that time belongs to")]

use std::fmt::Debug;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::sync::{Condvar, Mutex, MutexGuard};
use crate::types::Timestamp;

/// What time it is, and waiting until it is later.
pub trait Clock: Debug + Send + Sync + 'static {
    /// The wall time. It can jump in either direction.
    fn now(&self) -> Timestamp;

    /// The time since an arbitrary point that stays the same. It never goes back.
    fn monotonic(&self) -> Duration;

    /// Blocks until `signal` is raised or [`monotonic`](Clock::monotonic) reaches `deadline`; without a deadline only a
    /// signal ends it. Returns whether the signal was raised, and lowers it.
    fn wait(&self, signal: &Arc<Signal>, deadline: Option<Duration>) -> bool;
}

/// A flag that one thread raises to wake another that waits for it with [`Clock::wait`].
///
/// It stays raised until somebody waits, so that raising it too early is not lost; raising it twice is the same as once.
/// Where several threads wait for one signal, raising it wakes one of them.
#[derive(Debug, Default)]
pub struct Signal {
    raised: AtomicBool,
    /// How many threads are inside `wait_with`. Whoever raises the signal takes the lock only if there are any.
    waiting: AtomicUsize,
    lock: Mutex<()>,
    woken: Condvar,
}

impl Signal {
    /// A signal that is not raised.
    pub fn new() -> Self {
        Self::default()
    }

    /// Raises the signal. What the thread wrote before is seen by the thread that wakes.
    pub fn raise(&self) {
        // This stores `raised` and then looks at `waiting`; a waiter adds to `waiting` and then looks at `raised`. All
        // four are sequentially consistent, so at least one of the two sees the other, and no wake-up is lost.
        let was_raised = self.raised.swap(true, Ordering::SeqCst);
        if !was_raised && self.waiting.load(Ordering::SeqCst) > 0 {
            let _sleeping_or_gone = self.lock.lock();
            self.woken.notify_all();
        }
    }

    /// Lowers the signal without waiting, and returns whether it was raised.
    pub fn take(&self) -> bool {
        self.raised.swap(false, Ordering::SeqCst)
    }

    /// Waits until the signal is raised, and lowers it, or until `sleep` says that it is too late. `sleep` blocks on the
    /// condition variable once, and may return early.
    fn wait_with(&self, mut sleep: impl FnMut(&Condvar, &mut MutexGuard<'_, ()>) -> Sleep) -> bool {
        if self.take() {
            return true;
        }
        let mut guard = self.lock.lock();
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let raised = loop {
            if self.take() {
                break true;
            }
            if sleep(&self.woken, &mut guard) == Sleep::Over {
                break false;
            }
        };
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        raised
    }

    /// Makes waiters look at their clock again.
    fn nudge(&self) {
        let _sleeping_or_gone = self.lock.lock();
        self.woken.notify_all();
    }
}

/// Whether a waiter goes on waiting.
#[derive(PartialEq, Eq)]
enum Sleep {
    Woken,
    Over,
}

/// The clock of the system.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let now = SystemTime::now();
        let nanos = match now.duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_nanos()).unwrap_or(i64::MAX),
            Err(error) => i64::try_from(error.duration().as_nanos()).map_or(i64::MIN, |before| -before),
        };
        Timestamp::from_nanos(nanos)
    }

    fn monotonic(&self) -> Duration {
        origin().elapsed()
    }

    fn wait(&self, signal: &Arc<Signal>, deadline: Option<Duration>) -> bool {
        // A deadline that no `Instant` can tell is as good as none.
        let deadline = deadline.and_then(|deadline| origin().checked_add(deadline));
        signal.wait_with(|woken, guard| match deadline {
            Some(deadline) if Instant::now() >= deadline => Sleep::Over,
            Some(deadline) => {
                woken.wait_until(guard, deadline);
                Sleep::Woken
            }
            None => {
                woken.wait(guard);
                Sleep::Woken
            }
        })
    }
}

/// Where monotonic time begins: the first time that this process asked for it.
fn origin() -> Instant {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    *ORIGIN.get_or_init(Instant::now)
}

/// A clock that a test moves. Clones show the same time.
///
/// Threads that wait on it are woken when time was moved to their deadline; nothing ever waits for real time.
///
/// ```
/// use std::time::Duration;
/// use annals::{Clock, ManualClock, Timestamp};
///
/// let clock = ManualClock::new(Timestamp::from_millis(1_000));
/// clock.advance(Duration::from_secs(2));
/// assert_eq!(clock.now(), Timestamp::from_millis(3_000));
/// assert_eq!(clock.monotonic(), Duration::from_secs(2));
///
/// // The wall clock can be set back, monotonic time goes on.
/// clock.set(Timestamp::from_millis(500));
/// assert_eq!(clock.now(), Timestamp::from_millis(500));
/// assert_eq!(clock.monotonic(), Duration::from_secs(2));
/// ```
#[derive(Debug, Clone)]
pub struct ManualClock {
    time: Arc<Mutex<ManualTime>>,
}

#[derive(Debug)]
struct ManualTime {
    wall: Timestamp,
    monotonic: Duration,
    waiters: Vec<Waiter>,
}

/// A thread that waits for a signal until a deadline.
#[derive(Debug)]
struct Waiter {
    signal: Arc<Signal>,
    deadline: Option<Duration>,
}

impl ManualClock {
    /// A clock that stands at this wall time; monotonic time begins at zero.
    pub fn new(start: Timestamp) -> Self {
        let time = ManualTime { wall: start, monotonic: Duration::ZERO, waiters: Vec::new() };
        Self { time: Arc::new(Mutex::new(time)) }
    }

    /// Moves both times forward, and wakes whoever has waited for that.
    pub fn advance(&self, by: Duration) {
        let due = {
            let mut time = self.time.lock();
            let nanos = i64::try_from(by.as_nanos()).unwrap_or(i64::MAX);
            time.wall = Timestamp::from_nanos(time.wall.nanos().saturating_add(nanos));
            time.monotonic = time.monotonic.saturating_add(by);
            time.due()
        };
        // Without the clock's lock: a waiter holds its signal's lock while it looks at the clock.
        for signal in due {
            signal.nudge();
        }
    }

    /// Sets the wall time, forward or back. Monotonic time does not change, so nobody wakes.
    pub fn set(&self, wall: Timestamp) {
        self.time.lock().wall = wall;
    }

    /// How many threads wait now: a test that moves time on purpose can see that those it means have begun to wait.
    pub fn waiting(&self) -> usize {
        self.time.lock().waiters.len()
    }

    fn register(&self, signal: &Arc<Signal>, deadline: Option<Duration>) {
        self.time.lock().waiters.push(Waiter { signal: Arc::clone(signal), deadline });
    }

    fn unregister(&self, signal: &Arc<Signal>, deadline: Option<Duration>) {
        let waiters = &mut self.time.lock().waiters;
        let same = |waiter: &Waiter| Arc::ptr_eq(&waiter.signal, signal) && waiter.deadline == deadline;
        if let Some(place) = waiters.iter().position(same) {
            waiters.swap_remove(place);
        }
    }
}

impl ManualTime {
    fn due(&self) -> Vec<Arc<Signal>> {
        let is_due = |waiter: &&Waiter| waiter.deadline.is_some_and(|deadline| deadline <= self.monotonic);
        self.waiters.iter().filter(is_due).map(|waiter| Arc::clone(&waiter.signal)).collect()
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        self.time.lock().wall
    }

    fn monotonic(&self) -> Duration {
        self.time.lock().monotonic
    }

    fn wait(&self, signal: &Arc<Signal>, deadline: Option<Duration>) -> bool {
        // Registered before it looks at the time: an advance comes either before that look, or finds the waiter.
        self.register(signal, deadline);
        let raised = signal.wait_with(|woken, guard| {
            if deadline.is_some_and(|deadline| deadline <= self.monotonic()) {
                return Sleep::Over;
            }
            woken.wait(guard);
            Sleep::Woken
        });
        self.unregister(signal, deadline);
        raised
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn begin_to_wait(
        clock: &ManualClock,
        signal: &Arc<Signal>,
        deadline: Option<Duration>,
    ) -> thread::JoinHandle<bool> {
        let already = clock.waiting();
        let handle = {
            let (clock, signal) = (clock.clone(), Arc::clone(signal));
            thread::spawn(move || clock.wait(&signal, deadline))
        };
        while clock.waiting() == already {
            thread::yield_now();
        }
        handle
    }

    fn check_raised_before_waiting(clock: &dyn Clock) {
        let signal = Arc::new(Signal::new());
        signal.raise();
        signal.raise();
        assert!(clock.wait(&signal, None), "raising before waiting is not lost");
        assert!(!clock.wait(&signal, Some(clock.monotonic())), "raising twice is the same as once");
    }

    #[test]
    fn a_signal_that_was_raised_early_is_not_lost() {
        check_raised_before_waiting(&SystemClock);
        check_raised_before_waiting(&ManualClock::new(Timestamp::default()));
    }

    #[test]
    fn a_raised_signal_wins_over_a_deadline_that_has_passed() {
        let signal = Arc::new(Signal::new());
        signal.raise();
        assert!(SystemClock.wait(&signal, Some(Duration::ZERO)));
        assert!(!SystemClock.wait(&signal, Some(Duration::ZERO)));
    }

    #[test]
    fn take_lowers_without_waiting() {
        let signal = Signal::new();
        assert!(!signal.take());
        signal.raise();
        assert!(signal.take());
        assert!(!signal.take());
    }

    #[test]
    fn the_system_clock_wakes_at_the_deadline_and_not_before() {
        let deadline = SystemClock.monotonic() + Duration::from_millis(5);
        assert!(!SystemClock.wait(&Arc::new(Signal::new()), Some(deadline)));
        assert!(SystemClock.monotonic() >= deadline);
    }

    #[test]
    #[cfg(not(miri))] // Miri keeps the wall clock away.
    fn the_system_clock_tells_a_time_of_this_century() {
        let year = Duration::from_secs(31_557_600).as_nanos() as i64;
        assert!((50 * year..130 * year).contains(&SystemClock.now().nanos()));
        let before = SystemClock.monotonic();
        assert!(SystemClock.monotonic() >= before);
    }

    #[test]
    fn a_deadline_beyond_all_instants_is_none() {
        let signal = Arc::new(Signal::new());
        let waiter = {
            let signal = Arc::clone(&signal);
            thread::spawn(move || SystemClock.wait(&signal, Some(Duration::MAX)))
        };
        signal.raise();
        assert!(waiter.join().unwrap());
    }

    /// Ping-pong: a single lost wake-up would hang it.
    #[test]
    fn no_wake_up_is_lost() {
        let rounds = if cfg!(miri) { 50 } else { 20_000 };
        let (ping, pong) = (Arc::new(Signal::new()), Arc::new(Signal::new()));
        let other = {
            let (ping, pong) = (Arc::clone(&ping), Arc::clone(&pong));
            thread::spawn(move || {
                for _ in 0..rounds {
                    assert!(SystemClock.wait(&ping, None));
                    pong.raise();
                }
            })
        };
        for _ in 0..rounds {
            ping.raise();
            assert!(SystemClock.wait(&pong, None));
        }
        other.join().unwrap();
    }

    #[test]
    fn advancing_wakes_those_whose_deadline_is_reached() {
        let clock = ManualClock::new(Timestamp::default());
        let (early, late) = (Arc::new(Signal::new()), Arc::new(Signal::new()));
        let early_waiter = begin_to_wait(&clock, &early, Some(SECOND));
        let late_waiter = begin_to_wait(&clock, &late, Some(2 * SECOND));
        clock.advance(SECOND);
        assert!(!early_waiter.join().unwrap());
        assert!(!late_waiter.is_finished());
        clock.advance(SECOND);
        assert!(!late_waiter.join().unwrap());
        assert_eq!(clock.waiting(), 0);
    }

    #[test]
    fn two_may_wait_for_one_signal_with_different_deadlines() {
        let clock = ManualClock::new(Timestamp::default());
        let signal = Arc::new(Signal::new());
        let first = begin_to_wait(&clock, &signal, Some(SECOND));
        let second = begin_to_wait(&clock, &signal, None);
        clock.advance(SECOND);
        assert!(!first.join().unwrap());
        signal.raise();
        assert!(second.join().unwrap());
    }

    #[test]
    fn a_signal_wakes_who_waits_on_a_manual_clock() {
        let clock = ManualClock::new(Timestamp::default());
        let signal = Arc::new(Signal::new());
        let waiter = begin_to_wait(&clock, &signal, Some(SECOND));
        signal.raise();
        assert!(waiter.join().unwrap());
    }

    #[test]
    fn wall_time_jumps_and_monotonic_time_does_not() {
        let clock = ManualClock::new(Timestamp::from_millis(10_000));
        let other = clock.clone();
        clock.advance(SECOND);
        assert_eq!(other.now(), Timestamp::from_millis(11_000));
        clock.set(Timestamp::from_millis(-5));
        assert_eq!(other.now(), Timestamp::from_millis(-5));
        assert_eq!(other.monotonic(), SECOND);
        clock.set(Timestamp::MAX);
        clock.advance(Duration::MAX);
        assert_eq!((other.now(), other.monotonic()), (Timestamp::MAX, Duration::MAX));
    }
}
