//! Leading a batch: whoever finds nobody at it writes what is staged, for all that wait.

use super::{Appender, Sequencer, Ticket};
use crate::error::{Error, Result};
use crate::limits::UNSYNCED_BYTES_MAX;
use crate::log::LOG_DIR;
use crate::log::batch::Batch;
use crate::sabotage::{Sabotage, sabotaged};
use crate::sync::MutexGuard;

impl Appender {
    /// Waits until the ticket is decided, leading if nobody does.
    pub(super) fn see_through<'a>(&'a self, mut sequencer: MutexGuard<'a, Sequencer>, ticket: Ticket) -> Result<()> {
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
    pub(super) fn see_batch_through<'a>(&'a self, mut sequencer: MutexGuard<'a, Sequencer>, batch: u64) -> Result<()> {
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
    pub(super) fn lead<'a>(&'a self, mut sequencer: MutexGuard<'a, Sequencer>) -> MutexGuard<'a, Sequencer> {
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
        if self.syncer.bytes_at_risk() + batch.bytes.len() as u64 > UNSYNCED_BYTES_MAX {
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
            return Ok(());
        }
        self.note_written(batch, batch.pieces.len());
        if let Some(position) = batch.unsynced {
            self.show_early(batch.number, position);
        }
        self.sync_written()
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

    pub(super) fn sync_written(&self) -> Result<()> {
        self.syncer.sync(&self.log, || self.syncer.take(&mut self.sequencer.lock().written))
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
