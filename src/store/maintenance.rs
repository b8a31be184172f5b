//! Background work: syncs what was handed to the operating system, marks the log when traffic stops, makes the next
//! segment, writes the index of the newest events to disk, and merges its runs.
//!
//! On the store's clock, in two threads: merges take as long as the index is large, and what was written is synced in time
//! meanwhile. Nothing here is needed for an append to be right: what cannot wait is done by the appends themselves.

use std::sync::Arc;
use std::time::Duration;

use super::Inner;
use crate::clock::Signal;
use crate::error::{Error, Result};
use crate::log::Appender;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::thread::OwnThread;

/// What the background thread remembers from one round to the next.
#[derive(Debug, Default)]
pub(super) struct Round {
    /// The head at the last round, and since when it has not moved.
    head: u64,
    since: Duration,
    /// Since when there is something to sync.
    unsynced_since: Option<Duration>,
    /// The same of the state, once it is open.
    state: Option<Box<Round>>,
}

/// The background threads of a store.
#[derive(Debug)]
pub(super) struct Worker {
    calls: Calls,
    threads: Vec<OwnThread>,
}

/// What a thread does until it is told to stop.
type Work = fn(&Calls, &Inner);

/// What the threads are called by.
#[derive(Debug, Clone)]
struct Calls {
    signal: Arc<Signal>,
    merge: Arc<Signal>,
    stop: Arc<AtomicBool>,
}

impl Worker {
    /// Starts the threads.
    pub(super) fn start(inner: &Arc<Inner>, signal: &Arc<Signal>) -> Result<Self> {
        let calls = Calls { signal: Arc::clone(signal), merge: Arc::default(), stop: Arc::default() };
        let mut worker = Self { calls, threads: Vec::new() };
        let works: [(&str, Work); 2] = [("annals", Calls::go_round), ("annals-merge", Calls::merge)];
        for (name, work) in works {
            let (calls, of_thread) = (worker.calls.clone(), Arc::clone(inner));
            match OwnThread::spawn(name.into(), move || work(&calls, &of_thread)) {
                Ok(thread) => worker.threads.push(thread),
                Err(error) => {
                    worker.stop();
                    return Err(Error::io("start a thread for", inner.disk.locate(""), error));
                }
            }
        }
        Ok(worker)
    }

    /// Ends the threads and waits for them.
    pub(super) fn stop(&mut self) {
        self.calls.stop.store(true, Ordering::Release);
        self.calls.signal.raise();
        self.calls.merge.raise();
        // After a panic, which its hook has reported, the store went on without that part of its background work.
        self.threads.drain(..).for_each(OwnThread::join);
    }
}

impl Calls {
    fn go_round(&self, inner: &Inner) {
        let mut round = Round::default();
        while !self.stop.load(Ordering::Acquire) {
            let deadline = inner.background_round(&mut round);
            if inner.wants_merge() {
                self.merge.raise();
            }
            inner.clock.wait(&self.signal, deadline);
        }
    }

    fn merge(&self, inner: &Inner) {
        while !self.stop.load(Ordering::Acquire) {
            inner.merge_all(&self.stop);
            inner.clock.wait(&self.merge, None);
        }
    }
}

impl Inner {
    /// One round of background work, but for merges; returns when the next is due at the latest, `None` for when the signal
    /// is raised.
    ///
    /// Errors stay where they belong: one of the log poisons it and comes up at the next append; the index keeps in
    /// memory what it could not write, and tries again.
    pub(super) fn background_round(&self, round: &mut Round) -> Option<Duration> {
        let appender = self.appender().ok()?;
        let _ = appender.make_spare();
        let now = self.clock.monotonic();
        let head = self.log.visible();
        if head != round.head {
            (round.head, round.since) = (head, now);
        }
        if appender.wants_sync()
            || round.unsynced_since.is_some_and(|since| now >= since.saturating_add(self.sync_delay))
        {
            // What is unsynced behind it was written since.
            round.unsynced_since = None;
            let _ = appender.sync();
        }
        let _ = self.spill_index();
        if now >= round.since.saturating_add(self.mark_delay) {
            let _ = appender.mark();
        }
        round.unsynced_since = appender.has_unsynced().then(|| round.unsynced_since.unwrap_or(now));
        let next = self.next_round(appender, round);
        let next_of_state = self.state.background_round(&mut round.state);
        next.into_iter().chain(next_of_state).min()
    }

    /// Whether there are runs to merge, in the index or in that of the state.
    fn wants_merge(&self) -> bool {
        self.index.wants_merge() || self.state.opened().is_some_and(|state| state.handle.inner.wants_merge())
    }

    /// Merges what there is to merge, in the index and in that of the state, until it is told to stop.
    pub(super) fn merge_all(&self, stop: &AtomicBool) {
        while !stop.load(Ordering::Acquire) && matches!(self.merge_index(), Ok(true)) {}
        if let Some(state) = self.state.opened() {
            state.handle.inner.merge_all(stop);
        }
    }

    fn next_round(&self, appender: &Appender, round: &Round) -> Option<Duration> {
        let sync_due = round.unsynced_since.map(|since| since.saturating_add(self.sync_delay));
        if appender.failure().is_some() {
            return sync_due.filter(|_| appender.has_syncable());
        }
        if appender.is_settled() {
            // The next append raises the signal; one that came in between is seen here.
            appender.rest();
            return (!appender.is_settled()).then(|| self.clock.monotonic());
        }
        sync_due.into_iter().chain([round.since.saturating_add(self.mark_delay)]).min()
    }

    /// Everything that background work would do now and later, at once: all that can be done, whatever else cannot.
    /// Returns the first error.
    pub(super) fn maintain(&self) -> Result<()> {
        let appender = self.appender()?;
        let spared = appender.make_spare();
        let marked = appender.mark();
        let indexed = self.spill_index().and_then(|()| {
            while self.merge_index()? {}
            Ok(())
        });
        let kept = self.state.maintain();
        spared.and(marked).and(indexed).and(kept)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::super::{Commit, NewEvent, Options, Store};
    use super::*;
    use crate::clock::{Clock, ManualClock};
    use crate::error::ExpectedVersion;
    use crate::storage::{Call, Disk, Fault, FaultyDisk, MemoryDisk};
    use crate::types::{Durability, Timestamp};

    /// From the second second of traffic that did not stop, everything was synced over and over, without a pause: what
    /// was written during a sync counted as unsynced since before it. Appends took twice as long.
    #[test]
    fn what_is_written_during_a_sync_does_not_make_the_next_one_due_at_once() {
        const DELAY: Duration = Duration::from_secs(1);
        let disk = FaultyDisk::new(MemoryDisk::new());
        let clock = ManualClock::new(Timestamp::from_millis(1_000));
        let options = Options::new().durability(Durability::Os).sync_delay(DELAY).clock(clock.clone());
        let store = Store::open_on(Arc::new(disk.clone()), options.without_background_work(), true).unwrap();
        let append = || store.append("s", ExpectedVersion::Any, [NewEvent::raw("Made", "")]).map(drop).unwrap();
        let inner = &store.handle.inner;
        let mut round = Round::default();
        append();
        inner.background_round(&mut round);
        clock.advance(DELAY);
        append();
        disk.hold(Call::Sync, ".segment");
        thread::scope(|scope| {
            let syncing = scope.spawn(|| inner.background_round(&mut round));
            disk.wait_held();
            append();
            disk.release();
            syncing.join().unwrap();
        });
        let synced = disk.calls(Call::Sync);
        assert_eq!((inner.log.synced(), inner.log.visible()), (2, 3));
        inner.background_round(&mut round);
        assert_eq!((disk.calls(Call::Sync), round.unsynced_since), (synced, Some(clock.monotonic())));
        clock.advance(DELAY);
        inner.background_round(&mut round);
        assert_eq!(inner.log.synced(), 3);
    }

    /// Found by review. A commit that was refused when it had rolled left a start frame that nobody wrote, the log counted as
    /// settled, and what was acknowledged before waited for the next append to be synced.
    #[test]
    fn what_was_acknowledged_before_a_refused_commit_has_rolled_is_synced_in_time() {
        const DELAY: Duration = Duration::from_secs(1);
        let clock = ManualClock::new(Timestamp::from_millis(1_000));
        let options = Options::new().durability(Durability::Os).sync_delay(DELAY).clock(clock.clone());
        let options = options.segment_bytes_first(4 * 1024).segment_bytes_max(64 * 1024).without_background_work();
        let options = options.admission(|commit: &crate::Admission<'_>| match commit.events() {
            1 => Ok(()),
            _ => Err(Error::Stopped),
        });
        let store = Store::open_on(Arc::new(MemoryDisk::new()), options, true).unwrap();
        let inner = &store.handle.inner;
        let mut round = Round::default();
        inner.background_round(&mut round);
        store.append("s", ExpectedVersion::Any, [NewEvent::raw("Made", "")]).unwrap();
        let large = || NewEvent::raw("Made", vec![7; 3 * 1024]);
        store.append("s", ExpectedVersion::Any, [large(), large()]).unwrap_err();
        assert_eq!(inner.log.segments().iter().len(), 2);
        assert!(inner.background_round(&mut round).is_some());
        clock.advance(DELAY);
        assert_eq!(inner.background_round(&mut round), None);
        assert_eq!((inner.log.synced(), inner.log.visible()), (1, 1));
    }

    /// Found by review. The segment that could not be made on a full disk came first, and what could be done was not.
    #[test]
    fn maintenance_syncs_what_was_written_also_on_a_full_disk() {
        let disk = MemoryDisk::new();
        let options =
            Options::new().durability(Durability::Os).segment_bytes_first(64 * 1024).without_background_work();
        let store = Store::open_on(Arc::new(disk.clone()), options, true).unwrap();
        let append = |payload| store.append("s", ExpectedVersion::Any, [NewEvent::raw("Made", payload)]).map(drop);
        append(vec![7; 40 * 1024]).unwrap();
        disk.set_budget(disk.used());
        append(Vec::new()).unwrap();
        assert!(matches!(store.maintain(), Err(Error::Full { .. })));
        assert_eq!((store.synced_head().unwrap(), store.head().unwrap().unwrap().number()), (store.head().unwrap(), 2));
    }

    /// Found by review. One thread did all background work, and a merge of a large index takes minutes: what was acknowledged
    /// meanwhile was not synced, and full windows waited in memory. This would wait for ever for the sync.
    #[test]
    fn what_is_written_during_a_merge_is_synced_in_time() {
        let disk = FaultyDisk::new(MemoryDisk::new());
        let clock = ManualClock::new(Timestamp::from_millis(1_000));
        let options = Options::new().durability(Durability::Os).clock(clock.clone());
        let options = options.index_memory_bytes_max(64 * 1024);
        let store = Store::open_on(Arc::new(disk.clone()), options, true).unwrap();
        let append = || {
            let events: Vec<_> = (0..200).map(|number| NewEvent::raw("Made", "").tag(format!("n:{number}"))).collect();
            store.append("s", ExpectedVersion::Any, events).unwrap();
        };
        let runs = || disk.list("index").unwrap().iter().filter(|name| name.contains(".run")).count();
        while runs() == 0 {
            append();
            thread::yield_now();
        }
        // Only a merge makes another run that begins with the first event.
        disk.hold(Call::Create, "/00000000000000000001-");
        (0..64).for_each(|_| append());
        disk.wait_held();
        append();
        while store.synced_head().unwrap() != store.head().unwrap() {
            clock.advance(Duration::from_secs(1));
            thread::yield_now();
        }
        disk.release();
        store.close().unwrap();
    }

    /// Found by review. After a failed write, background work never came back to what had been acknowledged before it.
    #[test]
    fn what_was_acknowledged_before_a_write_failed_is_synced_in_time() {
        const DELAY: Duration = Duration::from_secs(1);
        let disk = FaultyDisk::new(MemoryDisk::new());
        let clock = ManualClock::new(Timestamp::from_millis(1_000));
        let options = Options::new().durability(Durability::Os).sync_delay(DELAY).clock(clock.clone());
        let store = Store::open_on(Arc::new(disk.clone()), options.without_background_work(), true).unwrap();
        let append = || store.append("s", ExpectedVersion::Any, [NewEvent::raw("Made", "")]).map(drop);
        let inner = &store.handle.inner;
        let mut round = Round::default();
        append().unwrap();
        inner.background_round(&mut round);
        append().unwrap();
        disk.inject(Fault::next(Call::Write).of(".segment"));
        append().unwrap_err();
        clock.advance(DELAY / 2);
        assert_eq!(inner.background_round(&mut round), Some(DELAY));
        clock.advance(DELAY / 2);
        assert_eq!(inner.background_round(&mut round), None);
        assert_eq!((inner.log.synced(), inner.log.visible()), (2, 2));
    }

    /// The same where it is the sync that fails: there is nothing to come back to.
    #[test]
    fn after_a_failed_sync_background_work_rests() {
        let disk = FaultyDisk::new(MemoryDisk::new());
        let clock = ManualClock::new(Timestamp::from_millis(1_000));
        let options = Options::new().durability(Durability::Os).clock(clock.clone()).without_background_work();
        let store = Store::open_on(Arc::new(disk.clone()), options, true).unwrap();
        store.append("s", ExpectedVersion::Any, [NewEvent::raw("Made", "")]).unwrap();
        disk.inject(Fault::next(Call::Sync).of(".segment"));
        store.sync().unwrap_err();
        let mut round = Round::default();
        for _ in 0..3 {
            assert_eq!(store.handle.inner.background_round(&mut round), None);
            clock.advance(Duration::from_secs(10));
        }
    }

    /// Found by review. The sum of such a delay and the time was a panic, and background work was over.
    #[test]
    fn a_delay_without_end_is_no_deadline_that_could_pass() {
        let clock = ManualClock::new(Timestamp::from_millis(1_000));
        let options = Options::new().durability(Durability::Os).clock(clock.clone()).without_background_work();
        let options = options.sync_delay(Duration::MAX).mark_delay(Duration::MAX);
        let store = Store::open_on(Arc::new(MemoryDisk::new()), options, true).unwrap();
        let mut round = Round::default();
        for _ in 0..3 {
            store.append("s", ExpectedVersion::Any, [NewEvent::raw("Made", "")]).unwrap();
            clock.advance(Duration::from_secs(10));
            assert_eq!(store.handle.inner.background_round(&mut round), Some(Duration::MAX));
        }
        assert_eq!(store.handle.inner.log.synced(), 0);
    }

    /// A store whose active segment had no room for a mark kept a processor busy for as long as it was idle.
    #[test]
    fn background_work_rests_where_a_mark_does_not_fit() {
        const SEGMENT_BYTES: u64 = 64 * 1024;
        let clock = ManualClock::new(Timestamp::from_millis(1_000));
        let options = Options::new().durability(Durability::Os).segment_bytes_first(SEGMENT_BYTES).clock(clock.clone());
        let disk = Arc::new(MemoryDisk::new());
        let store = Store::open_on(disk, options.without_background_work(), true).unwrap();
        let inner = &store.handle.inner;
        let commit =
            |payload: Vec<u8>| Commit::new().append("s", ExpectedVersion::Any, [NewEvent::raw("Made", payload)]);
        let left = SEGMENT_BYTES - inner.appender().unwrap().turn().unwrap().log_bytes();
        let around = commit(Vec::new()).frame_len();
        store.send(commit(vec![7; left as usize - around])).unwrap();
        assert_eq!(inner.appender().unwrap().turn().unwrap().log_bytes(), SEGMENT_BYTES);
        let mut round = Round::default();
        for _ in 0..3 {
            inner.background_round(&mut round);
            clock.advance(Duration::from_secs(10));
        }
        assert_eq!(inner.background_round(&mut round), None);
        assert_eq!(inner.log.synced(), 1);
    }
}
