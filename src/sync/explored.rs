//! Locks, atomics and threads that an explorer may schedule: [shuttle](https://docs.rs/shuttle), which chooses schedules
//! at random from a seed, or [loom](https://docs.rs/loom), which goes through all of them and through the values that
//! each ordering of an atomic allows.
//!
//! What is made while an explorer runs on the thread belongs to it; everything else is the real thing. So the same build
//! runs the same code on real threads and under explorers. Data always lie in a real lock: the explorer's lock beside it
//! is the gate that decides who may go in, so that the real one is always free.
//!
//! An explorer runs all of its threads on one thread of the system. A real lock that is held at a place where it may
//! switch would therefore hang; that is why locks of the engine are imported from here.

use std::cell::Cell;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use arc_swap::Guard;

use self::atomic::{AtomicUsize, Ordering};

pub(crate) mod atomic;
pub(crate) mod thread;

/// Who chooses what runs next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Explorer {
    Shuttle,
    Loom,
}

thread_local! {
    static EXPLORER: Cell<Option<Explorer>> = const { Cell::new(None) };
}

/// The explorer that runs on this thread.
pub(crate) fn explorer() -> Option<Explorer> {
    EXPLORER.get()
}

/// An explorer runs on this thread until this is dropped.
struct Exploring;

impl Exploring {
    fn begin(explorer: Explorer) -> Self {
        assert_eq!(EXPLORER.replace(Some(explorer)), None, "explorers are not nested");
        Self
    }
}

impl Drop for Exploring {
    fn drop(&mut self) {
        EXPLORER.set(None);
    }
}

/// How many preemptions the schedules have that are not wholly random: most mistakes need no more.
const PREEMPTIONS: usize = 3;
/// Stacks of explored threads: opening a store takes more than the explorers' own defaults.
const STACK_BYTES: usize = 1024 * 1024;
/// Threads of a program under loom, with its own and the one that a body runs on.
const LOOM_THREADS: usize = 5;

/// Runs `body` under so many schedules: a quarter of them random, the others with few preemptions at random places.
///
/// A failure prints its schedule; `ANNALS_SCHEDULE` runs that one again. `ANNALS_SCHEDULES` multiplies their number, and
/// `ANNALS_SCHEDULE_SEED` chooses others.
pub(crate) fn shuttle(schedules: usize, body: impl Fn() + Send + Sync + 'static) {
    use shuttle::scheduler::{PctScheduler, RandomScheduler, ReplayScheduler};
    let _exploring = Exploring::begin(Explorer::Shuttle);
    let mut config = shuttle::Config::new();
    config.stack_size = STACK_BYTES;
    config.silence_warnings = true;
    let body = Arc::new(body);
    let run = |body: &Arc<_>| {
        let body: Arc<dyn Fn() + Send + Sync> = Arc::clone(body) as _;
        move || body()
    };
    if let Ok(schedule) = std::env::var("ANNALS_SCHEDULE") {
        shuttle::Runner::new(ReplayScheduler::new_from_encoded(&schedule), config).run(run(&body));
        return;
    }
    let schedules = schedules * number_of("ANNALS_SCHEDULES", 1) as usize;
    let seed = number_of("ANNALS_SCHEDULE_SEED", 1);
    let random = RandomScheduler::new_from_seed(seed, schedules.div_ceil(4));
    shuttle::Runner::new(random, config.clone()).run(run(&body));
    let few = PctScheduler::new_from_seed(seed, PREEMPTIONS, schedules - schedules.div_ceil(4));
    shuttle::Runner::new(few, config).run(run(&body));
    println!("schedules explored: {schedules}");
}

/// Runs `body` under all schedules with at most so many preemptions; `ANNALS_PREEMPTIONS` adds to them.
pub(crate) fn loom(preemptions: usize, body: impl Fn() + Send + Sync + 'static) {
    let _exploring = Exploring::begin(Explorer::Loom);
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions + number_of("ANNALS_PREEMPTIONS", 0) as usize);
    model.max_branches = 100_000;
    model.max_threads = LOOM_THREADS;
    let body = Arc::new(body);
    let (runs, counted) = (Arc::new(std::sync::atomic::AtomicUsize::new(0)), Ordering::Relaxed);
    let counter = Arc::clone(&runs);
    model.check(move || {
        counter.fetch_add(1, counted);
        // The first thread has a stack that is too small.
        let body = Arc::clone(&body);
        thread::spawn(move || body()).join().expect("the body ends well");
    });
    println!("interleavings explored: {}", runs.load(counted));
}

/// Runs a future, on an explored thread.
#[cfg(feature = "tokio")]
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    shuttle::future::block_on(future)
}

fn number_of(variable: &str, default: u64) -> u64 {
    let Ok(text) = std::env::var(variable) else { return default };
    text.parse().unwrap_or_else(|_| panic!("{variable} is a number, not {text:?}"))
}

// --- Mutex -----------------------------------------------------------------------------------------------------------

/// A lock.
pub(crate) struct Mutex<T> {
    data: parking_lot::Mutex<T>,
    gate: Gate,
}

enum Gate {
    Open,
    Shuttle(shuttle::sync::Mutex<()>),
    Loom(loom::sync::Mutex<()>),
}

/// The right to be behind a gate.
enum Pass<'a> {
    Open,
    Shuttle(shuttle::sync::MutexGuard<'a, ()>),
    Loom(loom::sync::MutexGuard<'a, ()>),
}

pub(crate) struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    /// `None` while the lock is given up for a while. Dropped before the pass.
    data: Option<parking_lot::MutexGuard<'a, T>>,
    pass: Pass<'a>,
}

impl<T> Mutex<T> {
    pub(crate) fn new(data: T) -> Self {
        let gate = match explorer() {
            None => Gate::Open,
            Some(Explorer::Shuttle) => Gate::Shuttle(shuttle::sync::Mutex::new(())),
            Some(Explorer::Loom) => Gate::Loom(loom::sync::Mutex::new(())),
        };
        Self { data: parking_lot::Mutex::new(data), gate }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        let pass = self.gate.enter();
        MutexGuard { mutex: self, data: Some(self.data.lock()), pass }
    }

    /// Waits for the gate all the same: what is explored ends.
    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        let pass = self.gate.enter();
        Some(MutexGuard { mutex: self, data: Some(self.data.try_lock()?), pass })
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn get_mut(&mut self) -> &mut T {
        self.data.get_mut()
    }
}

impl Gate {
    fn enter(&self) -> Pass<'_> {
        match self {
            Gate::Open => Pass::Open,
            Gate::Shuttle(gate) => Pass::Shuttle(gate.lock().unwrap_or_else(PoisonError::into_inner)),
            Gate::Loom(gate) => Pass::Loom(gate.lock().unwrap_or_else(PoisonError::into_inner)),
        }
    }
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T: fmt::Debug> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.data.fmt(f)
    }
}

impl<T> MutexGuard<'_, T> {
    /// Gives the lock up while `run` runs.
    pub(crate) fn unlocked<U>(guard: &mut Self, run: impl FnOnce() -> U) -> U {
        struct Again<'g, 'a, T>(&'g mut MutexGuard<'a, T>);
        impl<T> Drop for Again<'_, '_, T> {
            fn drop(&mut self) {
                *self.0 = self.0.mutex.lock();
            }
        }
        guard.data = None;
        guard.pass = Pass::Open;
        let _again = Again(guard);
        run()
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.data.as_ref().expect("the lock is held")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.data.as_mut().expect("the lock is held")
    }
}

// --- Condvar ---------------------------------------------------------------------------------------------------------

/// A condition variable.
#[derive(Debug)]
pub(crate) enum Condvar {
    Real(parking_lot::Condvar),
    Shuttle(shuttle::sync::Condvar),
    Loom(loom::sync::Condvar),
}

impl Condvar {
    pub(crate) fn new() -> Self {
        match explorer() {
            None => Condvar::Real(parking_lot::Condvar::new()),
            Some(Explorer::Shuttle) => Condvar::Shuttle(shuttle::sync::Condvar::new()),
            Some(Explorer::Loom) => Condvar::Loom(loom::sync::Condvar::new()),
        }
    }

    pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        if let Condvar::Real(condvar) = self {
            return condvar.wait(guard.data.as_mut().expect("the lock is held"));
        }
        guard.data = None;
        guard.pass = match (self, std::mem::replace(&mut guard.pass, Pass::Open)) {
            (Condvar::Shuttle(condvar), Pass::Shuttle(pass)) => {
                Pass::Shuttle(condvar.wait(pass).unwrap_or_else(PoisonError::into_inner))
            }
            (Condvar::Loom(condvar), Pass::Loom(pass)) => {
                Pass::Loom(condvar.wait(pass).unwrap_or_else(PoisonError::into_inner))
            }
            _ => panic!("a condition variable and a lock of different explorers"),
        };
        guard.data = Some(guard.mutex.data.lock());
    }

    /// On real threads only: explored ones wait on a clock that the test moves.
    pub(crate) fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, deadline: Instant) {
        let Condvar::Real(condvar) = self else { panic!("real time while schedules are explored") };
        condvar.wait_until(guard.data.as_mut().expect("the lock is held"), deadline);
    }

    pub(crate) fn notify_one(&self) {
        match self {
            Condvar::Real(condvar) => drop(condvar.notify_one()),
            Condvar::Shuttle(condvar) => condvar.notify_one(),
            Condvar::Loom(condvar) => condvar.notify_one(),
        }
    }

    pub(crate) fn notify_all(&self) {
        match self {
            Condvar::Real(condvar) => drop(condvar.notify_all()),
            Condvar::Shuttle(condvar) => condvar.notify_all(),
            Condvar::Loom(condvar) => condvar.notify_all(),
        }
    }
}

impl Default for Condvar {
    fn default() -> Self {
        Self::new()
    }
}

// --- RwLock ----------------------------------------------------------------------------------------------------------

/// A lock that many may read behind.
pub(crate) struct RwLock<T> {
    data: parking_lot::RwLock<T>,
    gate: RwGate,
}

enum RwGate {
    Open,
    Shuttle(shuttle::sync::RwLock<()>),
    Loom(loom::sync::RwLock<()>),
}

#[expect(dead_code, reason = "held for their drop")]
enum ReadPass<'a> {
    Open,
    Shuttle(shuttle::sync::RwLockReadGuard<'a, ()>),
    Loom(loom::sync::RwLockReadGuard<'a, ()>),
}

#[expect(dead_code, reason = "held for their drop")]
enum WritePass<'a> {
    Open,
    Shuttle(shuttle::sync::RwLockWriteGuard<'a, ()>),
    Loom(loom::sync::RwLockWriteGuard<'a, ()>),
}

pub(crate) struct RwLockReadGuard<'a, T> {
    data: parking_lot::RwLockReadGuard<'a, T>,
    _pass: ReadPass<'a>,
}

pub(crate) struct RwLockWriteGuard<'a, T> {
    data: parking_lot::RwLockWriteGuard<'a, T>,
    _pass: WritePass<'a>,
}

impl<T> RwLock<T> {
    pub(crate) fn new(data: T) -> Self {
        let gate = match explorer() {
            None => RwGate::Open,
            Some(Explorer::Shuttle) => RwGate::Shuttle(shuttle::sync::RwLock::new(())),
            Some(Explorer::Loom) => RwGate::Loom(loom::sync::RwLock::new(())),
        };
        Self { data: parking_lot::RwLock::new(data), gate }
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, T> {
        let pass = match &self.gate {
            RwGate::Open => ReadPass::Open,
            RwGate::Shuttle(gate) => ReadPass::Shuttle(gate.read().unwrap_or_else(PoisonError::into_inner)),
            RwGate::Loom(gate) => ReadPass::Loom(gate.read().unwrap_or_else(PoisonError::into_inner)),
        };
        RwLockReadGuard { data: self.data.read(), _pass: pass }
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, T> {
        let pass = match &self.gate {
            RwGate::Open => WritePass::Open,
            RwGate::Shuttle(gate) => WritePass::Shuttle(gate.write().unwrap_or_else(PoisonError::into_inner)),
            RwGate::Loom(gate) => WritePass::Loom(gate.write().unwrap_or_else(PoisonError::into_inner)),
        };
        RwLockWriteGuard { data: self.data.write(), _pass: pass }
    }

    pub(crate) fn into_inner(self) -> T {
        self.data.into_inner()
    }
}

impl<T: fmt::Debug> fmt::Debug for RwLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.data.fmt(f)
    }
}

impl<T> Deref for RwLockReadGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.data
    }
}

impl<T> Deref for RwLockWriteGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.data
    }
}

impl<T> DerefMut for RwLockWriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.data
    }
}

// --- Swapped references ----------------------------------------------------------------------------------------------

/// A reference that is replaced as a whole. The explorer sees each access as one of a counter beside it, in an order with
/// all others.
#[derive(Debug)]
pub(crate) struct ArcSwap<T> {
    data: arc_swap::ArcSwap<T>,
    accesses: AtomicUsize,
}

impl<T> ArcSwap<T> {
    pub(crate) fn from_pointee(value: T) -> Self {
        Self { data: arc_swap::ArcSwap::from_pointee(value), accesses: AtomicUsize::new(0) }
    }

    pub(crate) fn load(&self) -> Guard<Arc<T>> {
        self.note_access();
        self.data.load()
    }

    pub(crate) fn load_full(&self) -> Arc<T> {
        self.note_access();
        self.data.load_full()
    }

    pub(crate) fn store(&self, value: Arc<T>) {
        self.note_access();
        self.data.store(value);
    }

    fn note_access(&self) {
        if explorer().is_some() {
            self.accesses.fetch_add(1, Ordering::AcqRel);
        }
    }
}

// --- Bytes -----------------------------------------------------------------------------------------------------------

/// Which bytes of a memory were written and lent out, for loom: it fails where a read does not come after the write that
/// it sees, in the order that locks and atomics give, even if it happened to see the right bytes.
///
/// Zeros over zeros are no write: memory is blanked far ahead.
#[derive(Default)]
pub(crate) struct Touched {
    words: parking_lot::Mutex<std::collections::HashMap<usize, Arc<loom::cell::UnsafeCell<()>>>>,
}

/// Frames are aligned to so many bytes: no two share one.
const WORD_BYTES: usize = 8;

impl Touched {
    pub(crate) fn write(&self, offset: usize, bytes: &[u8]) {
        if explorer() != Some(Explorer::Loom) {
            return;
        }
        let written = bytes.iter().enumerate().filter(|(_, byte)| **byte != 0);
        let mut written: Vec<usize> = written.map(|(at, _)| (offset + at) / WORD_BYTES).collect();
        written.dedup();
        for word in written {
            let mut words = self.words.lock();
            #[expect(clippy::arc_with_non_send_sync, reason = "loom runs all of its threads on one")]
            let cell = Arc::clone(words.entry(word).or_insert_with(|| Arc::new(loom::cell::UnsafeCell::new(()))));
            drop(words);
            cell.with_mut(|_| ());
        }
    }

    pub(crate) fn read(&self, offset: usize, len: usize) {
        if explorer() != Some(Explorer::Loom) || len == 0 {
            return;
        }
        for word in offset / WORD_BYTES..=(offset + len - 1) / WORD_BYTES {
            let cell = self.words.lock().get(&word).cloned();
            if let Some(cell) = cell {
                cell.with(|_| ());
            }
        }
    }
}

impl fmt::Debug for Touched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Touched").finish_non_exhaustive()
    }
}
