//! What an appender asks of background work: the next segment before it is needed, and syncs before anybody waits.

use std::sync::Arc;

use super::{Appender, Sequencer};
use crate::clock::Signal;
use crate::error::Result;
use crate::limits::UNSYNCED_BYTES_MAX;
use crate::log::LOG_DIR;
use crate::log::segment::Spare;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Unsynced bytes from which on a background sync is called for; far enough below the limit that nobody has to wait.
const UNSYNCED_BYTES_SOFT: u64 = UNSYNCED_BYTES_MAX / 8;
/// The same near the end of a segment: rolling has to sync what is left, while others wait.
const UNSYNCED_BYTES_BEFORE_ROLL: u64 = 256 * 1024;
/// So many bytes are near the end, or an eighth of the segment if that is less.
const BEFORE_ROLL_BYTES_MAX: u64 = 3 * 1024 * 1024;

/// The number of no segment: the log is closed.
const NO_SPARE: u64 = u64::MAX;

/// What the appender asks of background work.
#[derive(Debug)]
pub(super) struct Wants {
    /// The last segment that is active or was asked for as a spare.
    pub(super) spare: AtomicU64,
    pub(super) sync: AtomicBool,
    /// Background work has nothing to do and sleeps.
    pub(super) resting: AtomicBool,
    pub(super) signal: Arc<Signal>,
}

impl Appender {
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

    pub(super) fn stir(&self) {
        if self.wants.resting.load(Ordering::Relaxed) && self.wants.resting.swap(false, Ordering::SeqCst) {
            self.wants.signal.raise();
        }
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

    pub(super) fn ask_for_spare(&self, active: u64) {
        if self.wants.spare.load(Ordering::Relaxed) <= active {
            self.wants.spare.store(active + 1, Ordering::Release);
            self.wants.signal.raise();
        }
    }

    /// Calls for a background sync when much is unsynced, or when the segment will end soon.
    pub(super) fn ask_for_sync(&self, sequencer: &Sequencer) {
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

    pub(super) fn create_spare(&self, number: u64, needed: u64) -> Result<Spare> {
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

    /// Makes no spare any more. The space of one that was not needed goes back; one that stays is removed at the next
    /// open.
    pub(super) fn discard_spare(&self) {
        let mut spare = self.spare.lock();
        self.wants.spare.store(NO_SPARE, Ordering::Release);
        if let Some(spare) = spare.take() {
            let disk = self.log.disk();
            let _ = disk.remove(&crate::log::path_of(spare.header.number));
            let _ = disk.sync_dir(LOG_DIR);
        }
    }
}
