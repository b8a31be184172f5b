//! Appending: sequencing under a short lock, then one write and one sync for all that wait.
//!
//! 1. A caller takes a [`Turn`]: the lock of the sequencer. With it, nobody else can be sequenced, so that what it
//!    checks about the log stays true until its commit is staged.
//! 2. It reserves space, rolling to the next segment if needed. A full disk is noticed here, before anything is given.
//! 3. It stages its commit: a position, a place in the chain, encoded bytes in the batch.
//! 4. It sees its commit through. If nobody leads, it becomes the leader: it takes the whole batch, writes it, syncs it
//!    if anyone in it asked for that, shows it, and wakes who waits. Meanwhile the next batch is staged behind it; one
//!    of those who wait for it leads next. No thread of its own, hence no wake-up for a lone caller.
//!
//! A failed write or sync is final: what was in the batch may be on disk or not, what was staged behind it was not
//! written, and nothing more is taken. A leader that panics counts as a failed write.
//!
//! Lock order: sequencer, spare; syncer's turn, sequencer. Nothing is written or synced under the sequencer's lock, but for
//! the making of a segment that should have been made before.
//!
//! Steps 1 to 3 are in `turn.rs`, step 4 in `leading.rs`, and what background work is asked for in `background.rs`.

mod background;
mod leading;
mod turn;

use std::any::Any;
use std::sync::Arc;

use super::Log;
use super::batch::Batch;
use super::scan::Joint;
use super::segment::{Segment, SegmentWriter, Spare};
use super::syncer::{Syncer, Written, WrittenEnd};
use super::watchers::Watched;
use crate::clock::Signal;
use crate::error::{Error, Result};
use crate::format::frame::{HEADER_BYTES, Link};
use crate::randomness::Randomness;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Condvar, Mutex};
use background::Wants;
pub(crate) use turn::{Staged, Turn};

/// Staged bytes from which on callers wait for the leader instead of staging more.
pub(super) const STAGED_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The writing side of a log.
#[derive(Debug)]
pub(crate) struct Appender {
    log: Arc<Log>,
    randomness: Arc<dyn Randomness>,
    sequencer: Mutex<Sequencer>,
    /// Who waits for a batch with an even number, and who for one with an odd one: the batch that is written and the
    /// batch that is staged never share one.
    decided: [Condvar; 2],
    syncer: Syncer,
    spare: Mutex<Option<Spare>>,
    wants: Wants,
}

/// Where the next frame goes, and what is staged.
#[derive(Debug)]
struct Sequencer {
    tip: Joint,
    segment: Arc<Segment>,
    capacity: u64,
    /// What writes where the staged batch begins, while nobody leads.
    writer: Option<SegmentWriter>,
    /// What was written, and what of it is not synced.
    written: Written,
    /// Offset of the last frame.
    last_frame: u64,
    /// No commit was staged since the last mark or start frame.
    marked: bool,
    staged: Box<Batch>,
    /// The first position that is not in a batch that was led.
    staged_from: u64,
    /// What whoever takes turns keeps from one to the next.
    kept: Option<Box<dyn Any + Send>>,
    /// The batch before, emptied, for its memory.
    emptied: Option<Box<Batch>>,
    /// A thread is writing a batch.
    leading: bool,
    failure: Option<Failure>,
    closed: bool,
}

/// The write or sync that failed.
#[derive(Debug, Clone)]
struct Failure {
    error: Error,
    /// Batches up to this one may be on disk or not; later ones are not.
    batch: u64,
}

impl Failure {
    fn of(&self, batch: u64) -> Error {
        let cause = Box::new(self.error.clone());
        if batch <= self.batch { Error::Indeterminate { cause } } else { Error::NotWritten { cause } }
    }

    fn poisoned(&self) -> Error {
        Error::Poisoned { cause: Box::new(self.error.clone()) }
    }
}

/// Where a log ends when it is opened.
#[derive(Debug)]
pub(super) struct LogEnd {
    pub(super) tip: Joint,
    /// Offset of the last frame.
    pub(super) last_frame: u64,
    /// The last frame is a mark or a start frame.
    pub(super) marked: bool,
    /// What writes on there.
    pub(super) writer: SegmentWriter,
}

/// What somebody waits for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ticket {
    batch: u64,
    position: u64,
}

impl Appender {
    pub(super) fn new(
        log: Arc<Log>,
        randomness: Arc<dyn Randomness>,
        signal: Arc<Signal>,
        end: LogEnd,
        written: WrittenEnd,
        syncer: Syncer,
    ) -> Self {
        let segments = log.segments();
        let segment = Arc::clone(segments.last().expect("an open log has a segment"));
        drop(segments);
        let wants = Wants {
            spare: AtomicU64::new(segment.number),
            sync: AtomicBool::new(false),
            resting: AtomicBool::new(false),
            signal,
        };
        let sequencer = Sequencer {
            tip: end.tip,
            segment,
            capacity: end.writer.capacity(),
            writer: Some(end.writer),
            written: Written::new(written),
            last_frame: end.last_frame,
            marked: end.marked,
            staged: Box::new(Batch { number: 1, ..Batch::default() }),
            staged_from: end.tip.next_position,
            kept: None,
            emptied: None,
            leading: false,
            failure: None,
            closed: false,
        };
        Self {
            log,
            randomness,
            sequencer: Mutex::new(sequencer),
            decided: [Condvar::new(), Condvar::new()],
            syncer,
            spare: Mutex::new(None),
            wants,
        }
    }

    /// Takes the next turn. Waits while too much is staged, or writes it if nobody else does.
    pub(crate) fn turn(&self) -> Result<Turn<'_>> {
        let mut sequencer = self.sequencer.lock();
        loop {
            sequencer.check()?;
            if sequencer.staged.bytes.len() < STAGED_BYTES_MAX {
                return Ok(Turn { appender: self, sequencer });
            }
            if !sequencer.leading {
                // Those whose commits are staged have not come to it.
                sequencer = self.lead(sequencer);
                continue;
            }
            let led = sequencer.staged.number - 1;
            self.condvar(led).wait(&mut sequencer);
        }
    }

    /// Waits until the commit at `position`, which is sequenced, is visible or has failed.
    pub(crate) fn wait_decided(&self, position: u64) -> Result<()> {
        let sequencer = self.sequencer.lock();
        let staged = sequencer.staged.number;
        let batch = if position >= sequencer.staged_from { staged } else { staged - 1 };
        self.see_through(sequencer, Ticket { batch, position })
    }

    /// Returns when the staged commit of a ticket is decided.
    pub(crate) fn see_staged_through(&self, ticket: Ticket) -> Result<()> {
        self.see_through(self.sequencer.lock(), ticket)
    }

    /// Makes everything that is visible durable.
    pub(crate) fn sync(&self) -> Result<()> {
        self.wants.sync.store(false, Ordering::Relaxed);
        self.sync_written().map_err(|error| self.poison(error))?;
        self.log.watchers().tell_synced(self.log.synced());
        Ok(())
    }

    /// Raises the signal whenever a head moves from now on that is watched, or the log fails or closes.
    pub(crate) fn watch(&self, watched: Watched, signal: &Arc<Signal>) {
        // With the lock: see `Watchers`.
        let _sequencer = self.sequencer.lock();
        self.log.watchers().add(watched, signal);
    }

    /// Whether anything was written that is not synced.
    pub(crate) fn has_unsynced(&self) -> bool {
        !self.syncer.is_clean(&self.sequencer.lock().written)
    }

    /// Whether there is something to sync that can be synced still: what was written before a write failed.
    pub(crate) fn has_syncable(&self) -> bool {
        self.has_unsynced() && !self.syncer.has_failed()
    }

    /// Whether the log says of itself that all of it is synced, or is synced and has no room to say so.
    pub(crate) fn is_settled(&self) -> bool {
        let sequencer = self.sequencer.lock();
        // A commit that was refused may have rolled: the start frame is the last one then, and was not written.
        let is_marked = sequencer.marked && self.syncer.is_clean(&sequencer.written);
        let is_synced = || self.syncer.synced_address() == sequencer.tip.address();
        is_marked || (!sequencer.has_room_for_mark() && is_synced())
    }

    /// Writes and syncs a mark that says that everything is synced, unless the last frame says so already.
    pub(crate) fn mark(&self) -> Result<()> {
        self.sync()?;
        self.mark_synced(self.turn()?)
    }

    /// Writes and syncs a mark if everything before it is synced.
    pub(super) fn mark_synced(&self, mut turn: Turn<'_>) -> Result<()> {
        let sequencer = &turn.sequencer;
        // That nothing is left to sync is not enough: another thread's sync may still be under way, or fail. A mark that
        // reaches the disk before what it vouches for would get the whole store refused.
        let is_synced = !sequencer.leading && self.syncer.synced_address() == sequencer.tip.address();
        if !is_synced || sequencer.marked || !sequencer.has_room_for_mark() {
            return Ok(());
        }
        turn.stage_mark();
        let sequencer = self.lead(turn.sequencer);
        if let Some(failure) = &sequencer.failure {
            // The mark alone was written: no commit is in doubt.
            return Err(failure.error.clone());
        }
        drop(sequencer);
        self.syncer.sync_told();
        Ok(())
    }

    /// Refuses further appends, and flushes: everything that was acknowledged is synced, and a mark says so.
    pub(crate) fn close(&self) -> Result<()> {
        self.finish_staged();
        let flushed = self.sync().and_then(|()| self.mark_last());
        if flushed.is_ok() {
            let end = self.sequencer.lock().written.end.clone();
            self.syncer.tell_closed(&self.log, &end);
        }
        self.discard_spare();
        flushed
    }

    /// Refuses further turns and waits until everything that was staged is decided: a commit that is acknowledged while
    /// the log closes must not miss the last sync. After a failure what is staged will not be written; who leads may
    /// still be writing, and the lock must not go to another process before that is over.
    pub(super) fn finish_staged(&self) {
        let mut sequencer = self.sequencer.lock();
        sequencer.closed = true;
        self.notify_all();
        while sequencer.leading || (sequencer.failure.is_none() && !sequencer.staged.is_empty()) {
            if sequencer.leading {
                let led = sequencer.staged.number - 1;
                self.condvar(led).wait(&mut sequencer);
            } else {
                sequencer = self.lead(sequencer);
            }
        }
    }

    fn mark_last(&self) -> Result<()> {
        let sequencer = self.sequencer.lock();
        match &sequencer.failure {
            Some(failure) => Err(failure.poisoned()),
            None => self.mark_synced(Turn { appender: self, sequencer }),
        }
    }

    /// Why the log takes no more appends, if it does not.
    pub(crate) fn failure(&self) -> Option<Error> {
        self.sequencer.lock().failure.as_ref().map(|failure| failure.error.clone())
    }

    fn condvar(&self, batch: u64) -> &Condvar {
        &self.decided[(batch % 2) as usize]
    }

    /// Notes a failure outside a batch: what is being written is in doubt, what is staged will not be written.
    fn poison(&self, error: Error) -> Error {
        let mut sequencer = self.sequencer.lock();
        if let Some(failure) = &sequencer.failure {
            return failure.poisoned();
        }
        let batch = sequencer.staged.number - 1;
        sequencer.fail(batch, error.clone());
        drop(sequencer);
        self.notify_all();
        self.log.watchers().tell_end();
        error
    }

    fn notify_all(&self) {
        for condvar in &self.decided {
            condvar.notify_all();
        }
    }
}

impl Sequencer {
    fn check(&self) -> Result<()> {
        match &self.failure {
            Some(failure) => Err(failure.poisoned()),
            None if self.closed => Err(Error::Closed),
            None => Ok(()),
        }
    }

    fn fail(&mut self, batch: u64, error: Error) {
        self.failure.get_or_insert(Failure { error, batch });
    }

    #[expect(clippy::unnecessary_box_returns, reason = "batches change places, and are large")]
    fn take_staged(&mut self) -> Box<Batch> {
        debug_assert!(!self.leading && !self.staged.is_empty());
        self.staged.discard_unfinished();
        self.leading = true;
        self.staged_from = self.tip.next_position;
        let mut next = self.emptied.take().unwrap_or_default();
        next.reset(self.staged.number + 1);
        let mut batch = std::mem::replace(&mut self.staged, next);
        let first = &mut batch.pieces[0].writer;
        *first = first.take().or(self.writer.take());
        batch
    }

    fn has_room_for_mark(&self) -> bool {
        self.tip.offset + HEADER_BYTES as u64 <= self.capacity
    }

    fn link(&self, durable: u64, commit_time: i64) -> Link {
        Link { previous: self.tip.previous, first_position: self.tip.next_position, commit_time, durable }
    }

    /// Notes the frame that was just appended to the batch's bytes.
    fn push(&mut self, frame_len: usize, count: u64, checksum: u32, commit_time: i64) {
        let position = self.tip.next_position + count - 1;
        self.staged.push(&self.segment, self.tip.offset, frame_len, position, checksum);
        self.last_frame = self.tip.offset;
        self.tip = Joint {
            base: self.tip.base,
            offset: self.tip.offset + frame_len as u64,
            previous: checksum,
            next_position: position + 1,
            commit_time,
        };
    }
}
