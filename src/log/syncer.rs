//! What was written and not yet synced, and the one way to sync it.
//!
//! What was written is kept with the sequencer, under its lock, which the leader of a batch takes anyway.
//!
//! Syncs are serialised: on Linux an error of one is reported once, so that a second sync beside it could succeed with
//! the data lost. After a failure no sync is ever tried again.

use std::io;
use std::sync::Arc;

use super::Log;
use super::batch::Piece;
use super::segment::Segment;
use crate::error::{Error, Result};
use crate::format::synced_head::SyncedHead;
use crate::sabotage::{Sabotage, sabotaged};
use crate::storage::File;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering};

/// The end of what was written.
#[derive(Debug, Clone)]
pub(super) struct WrittenEnd {
    pub(super) position: u64,
    pub(super) segment: u64,
    pub(super) offset: u64,
    /// Log address of the end.
    pub(super) address: u64,
    /// Header checksum of the last frame.
    pub(super) checksum: u32,
}

/// What was handed to the operating system.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) end: WrittenEnd,
    /// Segments with bytes that are not synced, in order.
    dirty: Vec<Dirty>,
}

/// A segment with bytes that are not synced, and the file that they were written through.
#[derive(Debug)]
struct Dirty {
    segment: Arc<Segment>,
    file: Arc<dyn File>,
}

impl Written {
    /// All of it is synced.
    pub(super) fn new(end: WrittenEnd) -> Self {
        Self { end, dirty: Vec::new() }
    }
}

/// What one sync has to sync: these segments, up to this end.
#[derive(Debug)]
pub(super) struct Unsynced {
    end: WrittenEnd,
    dirty: Vec<Dirty>,
}

/// How the last sync ended.
#[derive(Debug)]
enum Outcome {
    Good,
    /// It has begun. Whoever finds this when it is its turn knows that the thread before it panicked.
    Begun,
    Failed(Error),
}

/// Syncs what was written.
#[derive(Debug)]
pub(super) struct Syncer {
    /// Held during a sync.
    turn: Mutex<Outcome>,
    /// Bytes that wait for the next sync, and those that the one under way is about.
    unsynced_bytes: AtomicU64,
    syncing_bytes: AtomicU64,
    /// Log address up to which everything is synced.
    synced_address: AtomicU64,
    synced_head: Arc<dyn File>,
}

impl Syncer {
    pub(super) fn new(end: &WrittenEnd, synced_head: Arc<dyn File>) -> Self {
        Self {
            turn: Mutex::new(Outcome::Good),
            unsynced_bytes: AtomicU64::new(0),
            syncing_bytes: AtomicU64::new(0),
            synced_address: AtomicU64::new(end.address),
            synced_head,
        }
    }

    /// Notes what was handed to the operating system. Called in the order of the log.
    pub(super) fn note_written(&self, written: &mut Written, pieces: &[Piece]) {
        for piece in pieces {
            written.end = WrittenEnd {
                position: piece.last_position,
                segment: piece.segment.number,
                offset: piece.end(),
                address: piece.segment.base + piece.end(),
                checksum: piece.checksum,
            };
            if written.dirty.last().is_none_or(|last| last.segment.number != piece.segment.number) {
                written.dirty.push(Dirty { segment: Arc::clone(&piece.segment), file: Arc::clone(piece.file()) });
            }
            // Whoever changes it has `written` to itself; readers only want to know about how many.
            let unsynced_bytes = self.unsynced_bytes() + piece.bytes.len() as u64;
            self.unsynced_bytes.store(unsynced_bytes, Ordering::Relaxed);
        }
    }

    /// Takes what the next sync has to sync.
    pub(super) fn take(&self, written: &mut Written) -> Unsynced {
        // In this order: who adds them up may count some twice, and never too few.
        self.syncing_bytes.store(self.unsynced_bytes(), Ordering::Relaxed);
        self.unsynced_bytes.store(0, Ordering::Release);
        Unsynced { end: written.end.clone(), dirty: std::mem::take(&mut written.dirty) }
    }

    pub(super) fn synced_address(&self) -> u64 {
        self.synced_address.load(Ordering::Acquire)
    }

    /// Bytes that wait for the next sync.
    pub(super) fn unsynced_bytes(&self) -> u64 {
        self.unsynced_bytes.load(Ordering::Relaxed)
    }

    /// Bytes that a loss of power may take: those that a sync is under way for as well.
    pub(super) fn bytes_at_risk(&self) -> u64 {
        self.unsynced_bytes.load(Ordering::Acquire) + self.syncing_bytes.load(Ordering::Relaxed)
    }

    /// Whether a sync has failed, after which none is tried any more.
    pub(super) fn has_failed(&self) -> bool {
        !matches!(*self.turn.lock(), Outcome::Good)
    }

    /// Whether everything that was written is synced.
    pub(super) fn is_clean(&self, written: &Written) -> bool {
        // Not whether anything is left for the next sync: one that has begun may fail.
        written.end.address == self.synced_address()
    }

    /// Makes everything durable that `take` brings: what was written before the call. An error is final: every later
    /// call gets it too.
    pub(super) fn sync(&self, log: &Log, take: impl FnOnce() -> Unsynced) -> Result<()> {
        let mut outcome = self.turn.lock();
        match &*outcome {
            Outcome::Good => {}
            Outcome::Begun => {
                let panicked = std::io::Error::other("the syncing thread panicked");
                let error = Error::io("sync", log.disk().locate(super::LOG_DIR), panicked);
                *outcome = Outcome::Failed(error.clone());
                return Err(error);
            }
            Outcome::Failed(error) => return Err(error.clone()),
        }
        let Unsynced { end, mut dirty } = take();
        if dirty.is_empty() {
            return Ok(());
        }
        if sabotaged(Sabotage::NeverSync) || (sabotaged(Sabotage::SyncEveryFourth) && end.position % 4 != 0) {
            dirty.clear();
        }
        if sabotaged(Sabotage::SyncedHeadEarly) {
            log.confirm(end.position);
            self.tell(log, &end);
        }
        *outcome = Outcome::Begun;
        if let Err(error) = dirty.iter().try_for_each(|dirty| dirty.segment.sync(&*dirty.file)) {
            *outcome = Outcome::Failed(error.clone());
            return Err(error);
        }
        *outcome = Outcome::Good;
        self.syncing_bytes.store(0, Ordering::Relaxed);
        self.synced_address.store(end.address, Ordering::Release);
        // Others first: whoever hears of a synced position here finds it there.
        self.tell(log, &end);
        log.confirm(end.position);
        Ok(())
    }

    /// Tells other processes, and the next recovery, how far the log is synced. The log does not need it, and an older
    /// one is still true: a failure loses nothing.
    fn tell(&self, log: &Log, end: &WrittenEnd) {
        let _ = self.write_told(log, end, false);
    }

    /// Takes back, durably, that the log was closed: something may be behind that place from now on.
    pub(super) fn tell_opened(&self, log: &Log, end: &WrittenEnd) -> io::Result<()> {
        if sabotaged(Sabotage::StayClosed) {
            return Ok(());
        }
        self.write_told(log, end, false)?;
        self.synced_head.sync()
    }

    /// Tells that the log is closed at its end, if all of it is synced.
    pub(super) fn tell_closed(&self, log: &Log, end: &WrittenEnd) {
        let outcome = self.turn.lock();
        let is_synced = matches!(*outcome, Outcome::Good) && end.address == self.synced_address();
        if !is_synced {
            return;
        }
        if self.write_told(log, end, true).is_ok() {
            self.sync_told();
        }
    }

    fn write_told(&self, log: &Log, end: &WrittenEnd, closed: bool) -> io::Result<()> {
        let head = SyncedHead {
            store: log.store(),
            position: end.position,
            segment: end.segment,
            end: end.offset,
            checksum: end.checksum,
            closed,
        };
        self.synced_head.write_at(&head.encode(), 0)
    }

    /// Makes the synced head itself durable, so that a later damage of the log's end cannot pass for a torn tail.
    pub(super) fn sync_told(&self) {
        let _ = self.synced_head.sync();
    }
}
