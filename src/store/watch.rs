//! Watching the heads: a signal that is raised when there may be more to read, and waiting for it.
//!
//! A watch does not keep the store open. On a store that is open for reading, whose writer is in another process,
//! waiting looks again every [`FOLLOW_INTERVAL_MS`](crate::limits::FOLLOW_INTERVAL_MS).

use std::sync::Arc;
use std::time::Duration;

use super::{Inner, Side, Store};
use crate::clock::{Clock, Signal};
use crate::error::{Error, Result};
use crate::limits::FOLLOW_INTERVAL_MS;
use crate::log::Watched;
use crate::randomness::Randomness;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::types::{Durability, Position};

/// Tells when the visible or the synced head of a store has moved, or the latter alone, or the store was closed or takes no
/// more appends. In a process that was forked, the heads of a store that it has inherited stay where they were.
///
/// ```
/// use annals::{ExpectedVersion, NewEvent, Store};
///
/// let store = Store::in_memory()?;
/// let watch = store.watch();
/// let writer = std::thread::spawn({
///     let store = store.clone();
///     move || store.append("account-alice", ExpectedVersion::Any, [NewEvent::raw("Opened", "")]).map(drop)
/// });
/// while watch.head()?.is_none() {
///     watch.wait(None)?;
/// }
/// # writer.join().expect("it does not panic")?;
/// # Ok::<(), annals::Error>(())
/// ```
#[derive(Debug)]
pub struct Watch {
    inner: Arc<Inner>,
    signal: Arc<Signal>,
    /// The head that a store open for reading had when it was last looked at.
    seen: AtomicU64,
    /// The store has come to its end, and the heads could be looked at since.
    has_told_end: AtomicBool,
}

impl Store {
    /// The clock that the store tells time by and waits on.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.handle.inner.clock
    }

    /// Where the store draws its random numbers.
    pub fn randomness(&self) -> &Arc<dyn Randomness> {
        &self.handle.inner.randomness
    }

    /// The durability of commits that name none.
    pub fn durability(&self) -> Durability {
        self.handle.inner.durability
    }

    /// Begins to watch the heads. Whatever happens from now on raises the signal of the watch.
    pub fn watch(&self) -> Watch {
        self.watch_for(Watched::Heads)
    }

    /// Begins to watch the synced head alone, so that nobody is woken for what is not synced yet.
    pub fn watch_synced(&self) -> Watch {
        self.watch_for(Watched::SyncedHead)
    }

    fn watch_for(&self, watched: Watched) -> Watch {
        let inner = Arc::clone(&self.handle.inner);
        let signal = Arc::new(Signal::new());
        match &inner.side {
            // Nobody here would tell it anything, and a thread that was not forked may hold the locks for ever.
            Side::Writing(_) if inner.is_inherited() => {}
            Side::Writing(appender) => appender.watch(watched, &signal),
            Side::Reading { .. } => inner.log.watch(watched, &signal),
        }
        let seen = AtomicU64::new(inner.log.visible());
        Watch { inner, signal, seen, has_told_end: AtomicBool::new(false) }
    }
}

impl Watch {
    /// The signal. Raising it from another thread ends the waiting as well.
    pub fn signal(&self) -> &Arc<Signal> {
        &self.signal
    }

    /// The last visible position; `None` if the store is empty.
    ///
    /// # Errors
    /// Those of [`Store::head`].
    pub fn head(&self) -> Result<Option<Position>> {
        self.inner.catch_up()?;
        Ok(Position::new(self.inner.log.visible()))
    }

    /// The last position that is known to survive a loss of power; `None` if there is none.
    ///
    /// # Errors
    /// Those of [`Store::synced_head`].
    pub fn synced_head(&self) -> Result<Option<Position>> {
        self.inner.catch_up()?;
        Ok(Position::new(self.inner.log.synced()))
    }

    /// Blocks until the signal was raised since the last call, or the store's monotonic time reaches `deadline`; whether
    /// it was raised. Look at the heads first: what was raised before the watch began is not told.
    ///
    /// # Errors
    /// [`Error::Closed`] if the store is closed, [`Error::Poisoned`] if it takes no more appends, and [`Error::Locked`] if it
    /// is that of the process that this one was forked from, once everything that happened before was told: nothing will
    /// come any more. [`Error::Corrupt`] or [`Error::Io`] if a reader cannot follow its writer.
    pub fn wait(&self, deadline: Option<Duration>) -> Result<bool> {
        // In this order: what was told before the end is then seen here.
        let end = self.end();
        let is_raised = self.signal.take();
        let Some(end) = end else { return if is_raised { Ok(true) } else { self.sleep(deadline) } };
        // The last event may have come after the last look and told nobody yet: one more look is owed.
        let was_told = self.has_told_end.swap(true, Ordering::Relaxed);
        if is_raised || !was_told { Ok(true) } else { Err(end) }
    }

    fn sleep(&self, deadline: Option<Duration>) -> Result<bool> {
        match &self.inner.side {
            Side::Writing(_) => Ok(self.inner.clock.wait(&self.signal, deadline)),
            Side::Reading { .. } => self.poll(deadline),
        }
    }

    /// Why nothing will come any more, if so: [`Error::Closed`], [`Error::Poisoned`] or [`Error::Locked`]. Unlike
    /// [`wait`](Self::wait) it says so at once, though what happened before may not have been told yet.
    pub fn end(&self) -> Option<Error> {
        if self.inner.log.watchers().is_closed() {
            return Some(Error::Closed);
        }
        let failure = match self.inner.appender() {
            Ok(appender) => appender.failure(),
            Err(Error::ReadOnly) => None,
            Err(locked) => return Some(locked),
        };
        failure.map(|cause| Error::Poisoned { cause: Box::new(cause) })
    }

    fn poll(&self, deadline: Option<Duration>) -> Result<bool> {
        let clock = &self.inner.clock;
        loop {
            self.inner.catch_up()?;
            let head = self.inner.log.visible();
            if self.seen.swap(head, Ordering::Relaxed) != head {
                return Ok(true);
            }
            let now = clock.monotonic();
            if deadline.is_some_and(|deadline| now >= deadline) {
                return Ok(self.signal.take());
            }
            let next = now + Duration::from_millis(FOLLOW_INTERVAL_MS);
            let next = deadline.map_or(next, |deadline| deadline.min(next));
            if clock.wait(&self.signal, Some(next)) {
                return Ok(true);
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if !self.inner.is_inherited() {
            self.inner.log.watchers().remove(&self.signal);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::error::ExpectedVersion;
    use crate::storage::{Call, Fault, FaultyDisk, MemoryDisk};
    use crate::store::{Commit, NewEvent, Options};
    use crate::types::Timestamp;

    fn open(options: Options) -> Store {
        Store::open_on(Arc::new(MemoryDisk::new()), options.without_background_work(), true).unwrap()
    }

    fn commit() -> Commit {
        Commit::new().append("account-alice", ExpectedVersion::Any, [NewEvent::raw("Deposited", "1")])
    }

    #[test]
    fn an_append_raises_every_watch_once() {
        let store = open(Options::new());
        let watches = [store.watch(), store.watch()];
        store.send(commit()).unwrap();
        for watch in &watches {
            assert!(watch.signal().take());
            assert_eq!(watch.head().unwrap(), Position::new(1));
            assert!(!watch.signal().take());
        }
    }

    #[test]
    fn a_sync_raises_it_for_what_was_visible_before() {
        let store = open(Options::new().durability(Durability::Os));
        let watch = store.watch();
        store.send(commit()).unwrap();
        assert!(watch.signal().take());
        assert_eq!(watch.synced_head().unwrap(), None);
        store.sync().unwrap();
        assert!(watch.signal().take());
        assert_eq!(watch.synced_head().unwrap(), Position::new(1));
    }

    #[test]
    fn who_watches_the_synced_head_is_not_woken_by_the_visible_one() {
        let store = open(Options::new().durability(Durability::Os));
        let (heads, synced) = (store.watch(), store.watch_synced());
        store.send(commit()).unwrap();
        assert!(heads.signal().take() && !synced.signal().take());
        store.send(commit().durability(Durability::Synced)).unwrap();
        assert!(heads.signal().take() && synced.signal().take());
        store.send(commit()).unwrap();
        store.sync().unwrap();
        assert!(heads.signal().take() && synced.signal().take());
        store.sync().unwrap();
        assert!(!heads.signal().take() && !synced.signal().take(), "nothing has moved");
        store.close().unwrap();
        assert!(heads.signal().take() && synced.signal().take());
    }

    #[test]
    fn closing_is_told_after_what_came_before() {
        let store = open(Options::new());
        let watch = store.watch();
        store.send(commit()).unwrap();
        assert!(watch.end().is_none());
        store.close().unwrap();
        assert!(matches!(watch.end(), Some(Error::Closed)), "who asks for the end is told at once");
        assert!(watch.wait(None).unwrap());
        assert!(matches!(watch.wait(None), Err(Error::Closed)));
        assert_eq!(watch.head().unwrap(), Position::new(1));
    }

    #[test]
    fn a_reader_that_is_closed_is_told() {
        let disk: Arc<MemoryDisk> = Arc::new(MemoryDisk::new());
        let writer = Store::open_on(disk.clone(), Options::new().without_background_work(), true).unwrap();
        let reader = Store::open_read_only_on(disk, Options::new()).unwrap();
        let watch = reader.watch();
        reader.close().unwrap();
        assert!(watch.signal().take());
        assert!(matches!(watch.end(), Some(Error::Closed)));
        writer.close().unwrap();
    }

    #[test]
    fn a_failed_append_and_a_failed_sync_are_told() {
        for durability in [Durability::Synced, Durability::Os] {
            let disk = FaultyDisk::new(MemoryDisk::new());
            let options = Options::new().durability(durability).without_background_work();
            let store = Store::open_on(Arc::new(disk.clone()), options, true).unwrap();
            let watch = store.watch();
            disk.inject(Fault::next(Call::Sync));
            let sent = store.send(commit()).map(drop).map_err(Error::from);
            assert!(sent.and_then(|()| store.sync()).is_err());
            assert!(watch.wait(None).unwrap());
            assert!(matches!(watch.wait(None), Err(Error::Poisoned { .. })));
        }
    }

    #[test]
    fn waiting_ends_at_its_deadline_on_the_stores_clock() {
        let clock = ManualClock::new(Timestamp::default());
        let store = open(Options::new().clock(clock.clone()));
        let watch = store.watch();
        assert!(!watch.wait(Some(Duration::ZERO)).unwrap());
        let waiter = std::thread::spawn(move || watch.wait(Some(Duration::from_secs(1))));
        while clock.waiting() == 0 {
            std::thread::yield_now();
        }
        clock.advance(Duration::from_secs(1));
        assert!(!waiter.join().unwrap().unwrap());
    }

    #[test]
    fn a_dropped_watch_is_forgotten() {
        let store = open(Options::new());
        let (dropped, kept) = (store.watch(), store.watch());
        let signal = Arc::clone(dropped.signal());
        drop(dropped);
        store.send(commit()).unwrap();
        assert!(!signal.take() && kept.signal().take());
    }

    #[test]
    fn a_reader_polls_for_what_its_writer_has_synced() {
        let disk: Arc<MemoryDisk> = Arc::new(MemoryDisk::new());
        let writer = Store::open_on(disk.clone(), Options::new().without_background_work(), true).unwrap();
        let clock = ManualClock::new(Timestamp::default());
        let reader = Store::open_read_only_on(disk, Options::new().clock(clock.clone())).unwrap();
        let watch = reader.watch();
        let waiter = std::thread::spawn(move || watch.wait(None).map(|raised| (raised, watch)));
        while clock.waiting() == 0 {
            std::thread::yield_now();
        }
        writer.send(commit()).unwrap();
        clock.advance(Duration::from_millis(FOLLOW_INTERVAL_MS));
        let (raised, watch) = waiter.join().unwrap().unwrap();
        assert!(raised);
        assert_eq!(watch.synced_head().unwrap(), Position::new(1));
        reader.close().unwrap();
        assert!(watch.wait(None).unwrap());
        assert!(matches!(watch.wait(None), Err(Error::Closed)));
    }

    /// Appends race a waiter: a single lost wake-up would hang it.
    #[test]
    fn no_append_is_missed() {
        let store = open(Options::new().durability(Durability::Os));
        let (rounds, writers) = (500, 2);
        let writers: Vec<_> = (0..writers)
            .map(|_| {
                let store = store.clone();
                std::thread::spawn(move || (0..rounds).for_each(|_| drop(store.send(commit()).unwrap())))
            })
            .collect();
        let expected = Position::new(rounds * writers.len() as u64);
        let mut watch = store.watch();
        while watch.head().unwrap() != expected {
            watch.wait(None).unwrap();
            // A new one each time: registering races as well.
            watch = store.watch();
            if watch.head().unwrap() != expected {
                watch.wait(None).unwrap();
            }
        }
        for writer in writers {
            writer.join().unwrap();
        }
    }
}
