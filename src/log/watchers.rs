//! Who wants to know when a head moves, or never will again.
//!
//! An append asks one relaxed question: is anybody there. That is enough because a watcher registers under the lock of
//! the sequencer, which the leader of a batch takes between showing the batch and asking: either the leader sees the
//! watcher, or the watcher sees the head. Where no such lock is taken, a fence on both sides does the same.
//!
//! Waking a thread costs more than an append does. So those who wait for the synced head alone are not woken by what only
//! moves the visible one.

use std::sync::Arc;

use crate::clock::Signal;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};

/// What a watcher wants to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Watched {
    /// That either head has moved.
    Heads,
    /// That the synced head has moved.
    SyncedHead,
}

/// The signals of those who watch a log.
#[derive(Debug, Default)]
pub(crate) struct Watchers {
    count: AtomicUsize,
    signals: Mutex<Vec<(Watched, Arc<Signal>)>>,
    /// The last synced head that was told. Whoever raises it tells it.
    told: AtomicU64,
    closed: AtomicBool,
}

impl Watchers {
    /// Whether anybody watches.
    #[inline]
    pub(super) fn any(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 0
    }

    /// Tells that the visible head has moved, and the synced one if it has not been told.
    pub(super) fn tell(&self, synced: u64) {
        let has_synced = self.told.fetch_max(synced, Ordering::AcqRel) < synced;
        for (watched, signal) in &*self.signals.lock() {
            if has_synced || *watched == Watched::Heads {
                signal.raise();
            }
        }
    }

    /// Tells that the synced head has moved, under no lock that watchers take.
    pub(super) fn tell_synced(&self, synced: u64) {
        fence(Ordering::SeqCst);
        if self.any() && self.told.fetch_max(synced, Ordering::AcqRel) < synced {
            self.raise();
        }
    }

    /// Tells everybody to look, under no lock that watchers take.
    pub(super) fn tell_end(&self) {
        fence(Ordering::SeqCst);
        if self.any() {
            self.raise();
        }
    }

    fn raise(&self) {
        self.signals.lock().iter().for_each(|(_, signal)| signal.raise());
    }

    pub(super) fn add(&self, watched: Watched, signal: &Arc<Signal>) {
        let mut signals = self.signals.lock();
        signals.push((watched, Arc::clone(signal)));
        self.count.store(signals.len(), Ordering::Relaxed);
        drop(signals);
        fence(Ordering::SeqCst);
    }

    pub(crate) fn remove(&self, signal: &Arc<Signal>) {
        let mut signals = self.signals.lock();
        if let Some(place) = signals.iter().position(|(_, own)| Arc::ptr_eq(own, signal)) {
            signals.swap_remove(place);
        }
        self.count.store(signals.len(), Ordering::Relaxed);
    }

    /// Says to everybody that nothing will come any more.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.tell_end();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }
}
