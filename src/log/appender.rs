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
//! Lock order: sequencer, spare; syncer's turn, sequencer. Nothing is written or synced under
//! the sequencer's lock, but for the making of a segment that should have been made before.

use std::sync::Arc;

use super::batch::Batch;
use super::scan::Joint;
use super::segment::{FIRST_FRAME, FrameAt, OVERHEAD_BYTES, Origin, Segment, SegmentWriter, Spare};
use super::syncer::{Syncer, Written, WrittenEnd};
use super::watchers::Watched;
use super::{LOG_DIR, Log};
use crate::clock::Signal;
use crate::error::{Error, Result};
use crate::format::bytes::align8;
use crate::format::frame::{FrameKind, HEADER_BYTES, Link, encode_commit, encode_control};
use crate::format::record::RecordFields;
use crate::format::segment::StartBody;
use crate::limits::UNSYNCED_BYTES_MAX;
use crate::randomness::Randomness;
use crate::sabotage::{Sabotage, sabotaged};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Condvar, Mutex, MutexGuard};
use crate::types::Durability;

/// Staged bytes from which on callers wait for the leader instead of staging more.
const STAGED_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Unsynced bytes from which on a background sync is called for; far enough below the limit that nobody has to wait.
const UNSYNCED_BYTES_SOFT: u64 = UNSYNCED_BYTES_MAX / 8;
/// The same near the end of a segment: rolling has to sync what is left, while others wait.
const UNSYNCED_BYTES_BEFORE_ROLL: u64 = 256 * 1024;
/// So many bytes are near the end, or an eighth of the segment if that is less.
const BEFORE_ROLL_BYTES_MAX: u64 = 8 * 1024 * 1024;

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

/// What the appender asks of background work.
#[derive(Debug)]
struct Wants {
    /// The last segment that is active or was asked for as a spare.
    spare: AtomicU64,
    sync: AtomicBool,
    /// Background work has nothing to do and sleeps.
    resting: AtomicBool,
    signal: Arc<Signal>,
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

/// A commit that was staged.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Staged {
    pub(crate) at: FrameAt,
    /// Offset behind the frame.
    pub(crate) end: u64,
    pub(crate) checksum: u32,
    pub(crate) first_position: u64,
    pub(crate) commit_time: i64,
}

/// The exclusive right to give the next positions, held until it is dropped or its commit is seen through.
pub(crate) struct Turn<'a> {
    appender: &'a Appender,
    sequencer: MutexGuard<'a, Sequencer>,
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

    /// Takes the next turn. Waits while too much is staged.
    pub(crate) fn turn(&self) -> Result<Turn<'_>> {
        let mut sequencer = self.sequencer.lock();
        loop {
            sequencer.check()?;
            if sequencer.staged.bytes.len() < STAGED_BYTES_MAX || !sequencer.leading {
                return Ok(Turn { appender: self, sequencer });
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

    /// Whether the log says of itself that all of it is synced.
    pub(crate) fn is_marked(&self) -> bool {
        self.sequencer.lock().marked
    }

    /// Whether so much is unsynced that a sync should not wait.
    pub(crate) fn wants_sync(&self) -> bool {
        self.wants.sync.load(Ordering::Relaxed)
    }

    /// Lets the next append raise the signal for background work, which looks for work once more and goes to sleep then.
    pub(crate) fn rest(&self) {
        self.wants.resting.store(true, Ordering::SeqCst);
    }

    /// Asks for a round of background work now.
    pub(crate) fn call_background(&self) {
        self.wants.signal.raise();
    }

    fn stir(&self) {
        if self.wants.resting.load(Ordering::Relaxed) && self.wants.resting.swap(false, Ordering::SeqCst) {
            self.wants.signal.raise();
        }
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
        let fits = sequencer.tip.offset + HEADER_BYTES as u64 <= sequencer.capacity;
        if !is_synced || !fits || sequencer.marked {
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

    /// Makes the next segment if the active one is half full, so that rolling to it costs nothing.
    pub(crate) fn make_spare(&self) -> Result<()> {
        let mut spare = self.spare.lock();
        let number = self.wants.spare.load(Ordering::Acquire);
        let segments = self.log.segments();
        let active = segments.last().map_or(0, |segment| segment.number);
        if number == active + 1 && spare.is_none() {
            *spare = Some(self.create_spare(number, 0)?);
        }
        Ok(())
    }

    fn ask_for_spare(&self, active: u64) {
        if self.wants.spare.load(Ordering::Relaxed) <= active {
            self.wants.spare.store(active + 1, Ordering::Release);
            self.wants.signal.raise();
        }
    }

    /// Calls for a background sync when much is unsynced, or when the segment will end soon.
    fn ask_for_sync(&self, sequencer: &Sequencer) {
        let unsynced = self.syncer.unsynced_bytes();
        if unsynced <= UNSYNCED_BYTES_BEFORE_ROLL {
            return;
        }
        let capacity = sequencer.capacity;
        let ends_soon = capacity - sequencer.tip.offset < BEFORE_ROLL_BYTES_MAX.min(capacity / 8);
        if (ends_soon || unsynced > UNSYNCED_BYTES_SOFT) && !self.wants.sync.swap(true, Ordering::Relaxed) {
            self.wants.signal.raise();
        }
    }

    fn create_spare(&self, number: u64, needed: u64) -> Result<Spare> {
        let options = self.log.options();
        let mut salt = [0; 8];
        self.randomness.fill(&mut salt);
        let disk = &**self.log.disk();
        let segments = self.log.segments();
        let active_bytes = segments.last().expect("an open log has a segment").file()?.capacity();
        let least = options.segment_bytes_behind(active_bytes, self.syncer.unsynced_bytes());
        let bytes = options.segment_bytes(number, self.log.kept_bytes()).max(least).max(needed);
        Spare::create(disk, self.log.store(), number, u64::from_le_bytes(salt), bytes, &[])
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
    /// the log closes must not miss the last sync.
    pub(super) fn finish_staged(&self) {
        let mut sequencer = self.sequencer.lock();
        sequencer.closed = true;
        self.notify_all();
        while sequencer.failure.is_none() && (sequencer.leading || !sequencer.staged.is_empty()) {
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

    /// The space of a segment that was not needed goes back; one that stays is removed at the next open.
    fn discard_spare(&self) {
        if let Some(spare) = self.spare.lock().take() {
            let disk = self.log.disk();
            let _ = disk.remove(&super::path_of(spare.header.number));
            let _ = disk.sync_dir(LOG_DIR);
        }
    }

    /// Why the log takes no more appends, if it does not.
    pub(crate) fn failure(&self) -> Option<Error> {
        self.sequencer.lock().failure.as_ref().map(|failure| failure.error.clone())
    }

    fn condvar(&self, batch: u64) -> &Condvar {
        &self.decided[(batch % 2) as usize]
    }

    /// Waits until the ticket is decided, leading if nobody does.
    fn see_through<'a>(&'a self, mut sequencer: MutexGuard<'a, Sequencer>, ticket: Ticket) -> Result<()> {
        loop {
            if self.log.visible() >= ticket.position {
                return Ok(());
            }
            if let Some(failure) = &sequencer.failure {
                return Err(failure.of(ticket.batch));
            }
            if sequencer.leading {
                self.condvar(ticket.batch).wait(&mut sequencer);
            } else {
                debug_assert_eq!(sequencer.staged.number, ticket.batch);
                sequencer = self.lead(sequencer);
            }
        }
    }

    /// Waits until a batch is decided, whether there are commits in it or not, leading if nobody does.
    fn see_batch_through<'a>(&'a self, mut sequencer: MutexGuard<'a, Sequencer>, batch: u64) -> Result<()> {
        loop {
            if let Some(failure) = &sequencer.failure {
                return Err(failure.of(batch));
            }
            let led = sequencer.staged.number - 1;
            if led > batch || (led == batch && !sequencer.leading) {
                return Ok(());
            }
            if sequencer.leading {
                self.condvar(batch).wait(&mut sequencer);
            } else {
                sequencer = self.lead(sequencer);
            }
        }
    }

    /// Writes the staged batch, with the lock released meanwhile.
    fn lead<'a>(&'a self, mut sequencer: MutexGuard<'a, Sequencer>) -> MutexGuard<'a, Sequencer> {
        let mut batch = sequencer.take_staged();
        let leadership = Leadership { appender: self, batch: batch.number, over: false };
        drop(sequencer);
        let result = self.carry_out(&mut batch);
        self.stir();
        let has_failed = result.is_err();
        let mut sequencer = leadership.end(batch, result);
        if self.log.watchers().any() {
            MutexGuard::unlocked(&mut sequencer, || match has_failed {
                // That nothing will come any more concerns those who wait for the synced head as well.
                true => self.log.watchers().tell_end(),
                false => self.log.watchers().tell(self.log.synced()),
            });
        }
        sequencer
    }

    /// Writes a batch, and syncs it if anyone asked for that. It is shown when its leadership ends.
    fn carry_out(&self, batch: &mut Batch) -> Result<()> {
        if self.syncer.unsynced_bytes() + batch.bytes.len() as u64 > UNSYNCED_BYTES_MAX {
            self.sync_written()?;
        }
        for index in 0..batch.pieces.len() {
            // A start frame says that the segment before it is complete: that must be true on the disk first.
            if batch.pieces[index].starts_segment && !sabotaged(Sabotage::NoSyncAtRoll) {
                self.note_written(batch, index);
                self.sync_written()?;
            }
            batch.write(index)?;
        }
        if !batch.wants_sync || sabotaged(Sabotage::AcknowledgeBeforeSync) {
            batch.publish_all();
            return Ok(());
        }
        self.note_written(batch, batch.pieces.len());
        if let Some(unsynced) = batch.unsynced {
            batch.publish(unsynced.piece, unsynced.end);
            self.show_early(batch.number, unsynced.position);
        }
        self.sync_written()?;
        batch.publish_all();
        Ok(())
    }

    /// Shows the beginning of a batch that nobody wanted to be synced before what follows it is.
    fn show_early(&self, batch: u64, position: u64) {
        self.log.show(position);
        // With the lock: one that has looked at the head before, and not begun to wait, would sleep through this.
        let sequencer = self.sequencer.lock();
        self.condvar(batch).notify_all();
        let watched = self.log.watchers().any();
        drop(sequencer);
        if watched {
            self.log.watchers().tell(self.log.synced());
        }
    }

    fn note_written(&self, batch: &mut Batch, pieces: usize) {
        self.syncer.note_written(&mut self.sequencer.lock().written, batch.note(pieces));
    }

    fn sync_written(&self) -> Result<()> {
        self.syncer.sync(&self.log, || self.syncer.take(&mut self.sequencer.lock().written))
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

impl Turn<'_> {
    /// The position that the next commit gets.
    #[cfg(test)]
    pub(crate) fn next_position(&self) -> u64 {
        self.sequencer.tip.next_position
    }

    /// Bytes of the log up to where the next frame goes: headers and frames.
    pub(crate) fn log_bytes(&self) -> u64 {
        self.sequencer.tip.address()
    }

    /// Reserves allocated space for a frame, in a new segment if this one has not enough left. On an error nothing was
    /// given and nothing changed.
    pub(crate) fn reserve(&mut self, frame_len: usize) -> Result<()> {
        if self.sequencer.tip.offset + frame_len as u64 <= self.sequencer.capacity {
            return Ok(());
        }
        let rolled = self.roll(frame_len as u64, 0);
        if rolled.is_err() && sabotaged(Sabotage::FullAfterSequencing) {
            self.sequencer.tip.next_position += 1;
        }
        rolled
    }

    /// Stages a commit for which space was reserved.
    pub(crate) fn stage<'r>(
        &mut self,
        durability: Durability,
        now: i64,
        records: impl ExactSizeIterator<Item = RecordFields<'r>>,
    ) -> Staged {
        let sequencer = &mut *self.sequencer;
        sequencer.staged.discard_unfinished();
        let count = records.len() as u64;
        let tip = sequencer.tip;
        // A clock that went back repeats the last time.
        let commit_time = if sabotaged(Sabotage::ClockBackward) { now } else { now.max(tip.commit_time) };
        let is_early = sabotaged(Sabotage::DurableAddressEarly);
        let durable = if is_early { tip.address() } else { self.appender.syncer.synced_address() };
        let link = sequencer.link(durable, commit_time);
        let place = sequencer.segment.place(tip.offset);
        let bytes = &mut sequencer.staged.bytes;
        let before = bytes.len();
        let checksum = encode_commit(bytes, place, link, records);
        let frame_len = bytes.len() - before;
        assert!(tip.offset + frame_len as u64 <= sequencer.capacity, "space was reserved for the frame");
        sequencer.staged.wants_sync |= durability == Durability::Synced;
        sequencer.marked = false;
        sequencer.push(frame_len, count, checksum, commit_time);
        if sequencer.tip.offset > sequencer.capacity / 2 {
            self.appender.ask_for_spare(sequencer.segment.number);
        }
        Staged {
            at: FrameAt { segment: sequencer.segment.number, offset: tip.offset },
            end: sequencer.tip.offset,
            checksum,
            first_position: tip.next_position,
            commit_time,
        }
    }

    /// Ends the turn and returns when the staged commit is decided.
    pub(crate) fn see_through(self) -> Result<()> {
        let ticket = self.ticket();
        self.appender.see_through(self.sequencer, ticket)
    }

    /// Ends the turn before the staged commit is decided: it goes with the next batch, which whoever holds the ticket
    /// leads if nobody else does.
    pub(crate) fn leave(self) -> Ticket {
        self.ticket()
    }

    fn ticket(&self) -> Ticket {
        Ticket { batch: self.sequencer.staged.number, position: self.sequencer.tip.next_position - 1 }
    }

    /// Ends the turn and returns when everything that was staged is written and synced.
    pub(super) fn settle(mut self) -> Result<()> {
        let batch = self.sequencer.staged.number;
        self.sequencer.staged.wants_sync = !sabotaged(Sabotage::TrimBeforeSync);
        self.appender.see_batch_through(self.sequencer, batch)
    }

    fn stage_mark(&mut self) {
        let sequencer = &mut *self.sequencer;
        sequencer.staged.wants_sync = true;
        sequencer.marked = true;
        let commit_time = sequencer.tip.commit_time;
        let link = sequencer.link(sequencer.tip.address(), commit_time);
        let place = sequencer.segment.place(sequencer.tip.offset);
        let checksum = encode_control(&mut sequencer.staged.bytes, place, link, FrameKind::Mark, &[]);
        sequencer.push(HEADER_BYTES, 0, checksum, commit_time);
    }

    /// Goes on in the next segment, with room for a frame of `needed` bytes. `first_kept` is the first segment that is
    /// kept from now on, 0 for no change.
    pub(crate) fn roll(&mut self, needed: u64, first_kept: u64) -> Result<()> {
        let appender = self.appender;
        let log = &appender.log;
        let number = self.sequencer.segment.number + 1;
        let needed = OVERHEAD_BYTES + needed;
        let mut slot = appender.spare.lock();
        let spare = match &mut *slot {
            Some(spare) => spare,
            None => slot.insert(appender.create_spare(number, needed)?),
        };
        debug_assert_eq!(spare.header.number, number);
        spare.grow(&**log.disk(), needed)?;
        let tip = self.sequencer.tip;
        let file = Arc::clone(&spare.file);
        let mode = log.options().read_mode;
        let origin = Origin { first_position: tip.next_position, base: tip.address() };
        let (segment, writer) = Segment::growing(Arc::clone(log.disk()), mode, &spare.header, origin, file, 0)?;
        self.enter(segment, writer, first_kept);
        // Only now, and with the slot locked until now: whoever makes spares sees either this one or a log that has
        // entered it. Otherwise it would put an empty file in the place of the active segment.
        *slot = None;
        Ok(())
    }

    fn enter(&mut self, segment: Arc<Segment>, writer: SegmentWriter, first_kept: u64) {
        let log = &self.appender.log;
        let segments = log.segments();
        let kept = segments.iter().next().map_or(1, |first| first.number).max(first_kept);
        let sequencer = &mut *self.sequencer;
        let tip = sequencer.tip;
        let base = tip.address();
        let body = StartBody {
            predecessor: sequencer.segment.number,
            predecessor_length: tip.offset,
            first_kept: kept,
            cut_bytes: 0,
            bytes_before: base,
            predecessor_salt: sequencer.segment.salt,
            predecessor_last: sequencer.last_frame,
        };
        sequencer.staged.discard_unfinished();
        sequencer.segment.seal(tip.offset);
        sequencer.marked = true;
        log.add(Arc::clone(&segment), kept);
        sequencer.segment = segment;
        sequencer.capacity = writer.capacity();
        sequencer.tip = Joint { base, offset: FIRST_FRAME, ..tip };
        let link = sequencer.link(base, tip.commit_time);
        let place = sequencer.segment.place(FIRST_FRAME);
        let checksum = encode_control(&mut sequencer.staged.bytes, place, link, FrameKind::Start, &body.encode());
        let frame_len = HEADER_BYTES + align8(crate::format::segment::START_BODY_BYTES);
        sequencer.push(frame_len, 0, checksum, tip.commit_time);
        sequencer.staged.begin_with(writer);
    }
}

/// The duty to end a batch, whatever happens: a leader that panics must not leave the others waiting.
struct Leadership<'a> {
    appender: &'a Appender,
    batch: u64,
    over: bool,
}

impl<'a> Leadership<'a> {
    fn end(mut self, mut batch: Box<Batch>, result: Result<()>) -> MutexGuard<'a, Sequencer> {
        self.over = true;
        let appender = self.appender;
        let mut guard = appender.sequencer.lock();
        let sequencer = &mut *guard;
        if result.is_ok() {
            appender.syncer.note_written(&mut sequencer.written, batch.note(batch.pieces.len()));
            appender.log.show(batch.last_position());
            appender.ask_for_sync(sequencer);
        }
        sequencer.writer = batch.pieces.last_mut().and_then(|piece| piece.writer.take());
        sequencer.emptied = Some(batch);
        self.release(sequencer, result.err());
        guard
    }

    fn release(&self, sequencer: &mut Sequencer, error: Option<Error>) {
        sequencer.leading = false;
        if let Some(error) = error {
            sequencer.fail(self.batch, error);
            self.appender.condvar(self.batch + 1).notify_all();
        }
        self.appender.condvar(self.batch).notify_all();
        // One of those whose commits are staged leads next; the others sleep on.
        self.appender.condvar(self.batch + 1).notify_one();
    }
}

impl Drop for Leadership<'_> {
    fn drop(&mut self) {
        if !self.over {
            let path = self.appender.log.disk.locate(LOG_DIR);
            let error = Error::io("write to", path, std::io::Error::other("the writing thread panicked"));
            self.release(&mut self.appender.sequencer.lock(), Some(error));
            self.appender.log.watchers().tell_end();
        }
    }
}
