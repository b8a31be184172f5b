//! Removing the oldest segments on purpose.
//!
//! 1. The log rolls. The start frame of the new segment names the first segment that is kept; from the same moment on,
//!    the log does not have the others any more, so that every later start frame says the same.
//! 2. That frame is written and synced, and everything before it first.
//! 3. The files are removed, the oldest first. A crash on the way leaves some of them; recovery knows from the start
//!    frame that they are removed, and takes them away.
//!
//! Whoever holds one of the segments goes on reading it.

use std::sync::Arc;

use super::segment::Segment;
use super::{Appender, LOG_DIR, Log};
use crate::error::{Error, Result};

impl Log {
    /// Goes on in a new segment, without those before `first_kept`, which the active one may be. `entered` is called
    /// with the new segment before anything is staged there. When this returns, all that is durable; what was removed is
    /// returned, and its files are still there.
    pub(crate) fn trim_before(
        &self,
        appender: &Appender,
        first_kept: u64,
        entered: impl FnOnce(&Segment),
    ) -> Result<Vec<Arc<Segment>>> {
        let segments = self.segments();
        let removed: Vec<_> = segments.iter().take_while(|segment| segment.number < first_kept).cloned().collect();
        let next = segments.last().map_or(0, |last| last.number + 1);
        assert!(first_kept <= next, "a segment is kept that there will be");
        drop(segments);
        // Files are opened when they are first read: after their removal it would be too late for that.
        removed.iter().try_for_each(|segment| segment.file().map(drop))?;
        let mut turn = appender.turn()?;
        turn.roll(0, first_kept)?;
        let segments = self.segments();
        entered(segments.last().expect("a segment was just entered"));
        drop(segments);
        turn.settle()?;
        Ok(removed)
    }

    /// Removes the files of segments that the log does not have any more.
    pub(crate) fn remove_files(&self, removed: &[Arc<Segment>]) -> Result<()> {
        for segment in removed {
            let gone = self.disk().remove(&segment.path);
            gone.map_err(|error| Error::io("remove", self.path(segment.number), error))?;
        }
        let synced = self.disk().sync_dir(LOG_DIR);
        synced.map_err(|error| Error::io("sync the directory", self.disk().locate(LOG_DIR), error))
    }
}
