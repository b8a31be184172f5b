//! What ties the index to the log: the log as a source of frames, and what recovery learns from positions files.

use std::io;
use std::sync::Arc;

use super::fault::{DIRECTORY, IndexFile};
use super::{FrameSource, Index, IndexView, Source};
use crate::error::{Error, Result};
use crate::format::frame::{Frame, FrameHeader};
use crate::format::page::{CONTENT_BYTES, PAGE_BYTES, is_whole};
use crate::format::positions::PositionsHeader;
use crate::log::{Checkpoint, FrameAt, Log};
use crate::storage::{Access, Disk, is_shortage, read_exact_at};

impl FrameSource for Log {
    fn header(&self, segment: u64, offset: u64) -> Result<FrameHeader> {
        Log::header(self, FrameAt { segment, offset })
    }

    fn scan(
        &self,
        segment: u64,
        offset: u64,
        upto: u64,
        visit: &mut dyn FnMut(u64, &Frame<'_>) -> Result<()>,
    ) -> Result<()> {
        Log::scan(self, segment, offset, upto, visit)
    }
}

impl Index {
    /// The segment that the next insertion goes to.
    pub(crate) fn active_segment(&self) -> u64 {
        self.view.load().active().segment.number
    }

    /// Bytes of the log that only memory indexes, of the active segment.
    pub(crate) fn active_log_bytes(&self) -> u64 {
        self.view.load().active().log_bytes()
    }
}

impl IndexView {
    /// How many windows are full, and only in memory.
    pub(crate) fn frozen_windows(&self) -> usize {
        self.sources.iter().filter(|source| source.as_window().is_some()).count() - 1
    }

    /// The last position that runs cover; windows cover what follows. 0 if there is no run. A window between runs, which
    /// a read-only index has where a file was missing, counts with them.
    pub(crate) fn run_end(&self) -> u64 {
        let run = self.sources.iter().rev().find_map(Source::as_run);
        run.map_or(0, |run| run.last())
    }
}

/// How far the positions files say that the log is synced, for recovery, which checks it against the log. What is
/// damaged says nothing; one that there are too few files left to open might.
pub(crate) fn checkpoints(disk: &Arc<dyn Disk>) -> Result<Vec<Checkpoint>> {
    let names = disk.list(DIRECTORY).map_err(|error| Error::io("list", disk.locate(DIRECTORY), error))?;
    let mut checkpoints = Vec::new();
    for name in names {
        if let Some(IndexFile::Positions { segment }) = IndexFile::parse(&name) {
            match checkpoint(&**disk, segment) {
                Ok(checkpoint) => checkpoints.extend(checkpoint),
                Err(error) if is_shortage(&error) => {
                    return Err(Error::io("open", disk.locate(&format!("{DIRECTORY}/{name}")), error));
                }
                Err(_) => {}
            }
        }
    }
    Ok(checkpoints)
}

fn checkpoint(disk: &dyn Disk, segment: u64) -> io::Result<Option<Checkpoint>> {
    let file = disk.open(&IndexFile::Positions { segment }.path(), Access::Read)?;
    let mut page = [0; PAGE_BYTES];
    read_exact_at(&*file, &mut page, 0)?;
    let header = is_whole(&page, 0, 0).then(|| PositionsHeader::decode(&page[..CONTENT_BYTES]).ok()).flatten();
    Ok(header.filter(|header| header.segment == segment).map(|header| Checkpoint {
        store: header.store,
        segment,
        salt: header.salt,
        position: header.last(),
        offset: header.checkpoint.offset,
        end: header.checkpoint.end,
        checksum: header.checkpoint.checksum,
    }))
}
