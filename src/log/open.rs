//! Opening a log: creating it, or doing what recovery decided.

use std::sync::Arc;

use super::appender::{Appender, LogEnd};
use super::recovery::{Checkpoint, Inspection, inspect, read_synced_head};
use super::scan::Joint;
use super::segment::{FIRST_FRAME, Origin, Segment, SegmentWriter, Spare, path_of};
use super::syncer::{Syncer, WrittenEnd};
use super::{LOG_DIR, Log, LogOptions, SYNCED_HEAD_PATH};
use crate::clock::Signal;
use crate::error::{Error, Result};
use crate::format::frame::{FrameKind, Link, encode_control};
use crate::format::segment::{HEADER_BYTES, SegmentHeader, StartBody};
use crate::format::synced_head::SYNCED_HEAD_BYTES;
use crate::randomness::Randomness;
use crate::sabotage::{Sabotage, sabotaged};
use crate::storage::{Access, Disk, File};
use crate::types::StoreId;

/// A page of the operating system's cache: what is clean in it may differ on the disk.
const PAGE_BYTES: u64 = 4096;
/// How much is written again at once.
const CHUNK_BYTES: usize = 1024 * 1024;

/// A log that takes appends.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) log: Arc<Log>,
    pub(crate) appender: Appender,
    pub(crate) recovered: Recovered,
}

/// What opening a log had to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Recovered {
    /// The log was made by this open.
    pub(crate) created: bool,
    /// Bytes of a torn tail that were cut.
    pub(crate) cut_bytes: u64,
    /// Bytes that were not known to be synced, and are now.
    pub(crate) confirmed_bytes: u64,
}

/// How a log is opened for writing. The caller holds the store's lock.
#[derive(Clone, Copy)]
pub(crate) struct Opening<'a> {
    pub(crate) disk: &'a Arc<dyn Disk>,
    pub(crate) options: LogOptions,
    pub(crate) randomness: &'a Arc<dyn Randomness>,
    /// Raised when the appender wants background work.
    pub(crate) signal: &'a Arc<Signal>,
    pub(crate) checkpoints: &'a [Checkpoint],
}

impl Opening<'_> {
    /// Opens the log; creates it if there is none and `create` is set, else `None`.
    pub(crate) fn open(&self, create: bool) -> Result<Option<Opened>> {
        match inspect(&**self.disk, self.checkpoints)? {
            Some(inspection) => self.recover(&inspection).map(Some),
            None if create => self.create().map(Some),
            None => Ok(None),
        }
    }

    fn create(&self) -> Result<Opened> {
        let disk = &**self.disk;
        disk.create_dir(LOG_DIR).map_err(|error| Error::io("create", disk.locate(LOG_DIR), error))?;
        let mut id = [0; 16];
        self.randomness.fill(&mut id);
        let store = StoreId::from_bytes(uuid::Builder::from_random_bytes(id).into_uuid().into_bytes());
        let before = Joint { base: 0, offset: FIRST_FRAME, previous: 0, next_position: 1, commit_time: i64::MIN };
        let start = StartBody { first_kept: 1, ..StartBody::default() };
        let (segment, end) = self.begin_segment(store, 1, &before, &start)?;
        self.finish(vec![segment], end, Recovered { created: true, ..Recovered::default() })
    }

    /// Does what recovery decided, in an order that can be interrupted anywhere: nothing is cut before what is kept is
    /// safe, and the next recovery decides the same.
    fn recover(&self, inspection: &Inspection) -> Result<Opened> {
        self.check_writable(inspection)?;
        // A kill between a rename and the sync of the directory leaves a name that is not durable.
        self.sync_dir()?;
        // That segments were removed on purpose is said by a start frame which may not be synced yet: until it is, they are
        // what a loss of power goes back to.
        let confirmed_bytes = self.confirm_tail(inspection)?;
        self.remove_leftovers(inspection)?;
        let (tail, last) = (&inspection.tail, inspection.last());
        let mut segments = sealed_segments(self.disk, self.options, inspection);
        let is_left = sabotaged(Sabotage::NoTailCut) || sabotaged(Sabotage::ReuseTornPoint);
        let end = if tail.torn_bytes == 0 || is_left {
            let file = self.open_file(&path_of(last.header.number), Access::ReadWrite)?;
            let (segment, writer) = self.growing(&last.header, last.origin(), file, tail.end.offset)?;
            segments.push(segment);
            LogEnd { tip: tail.end, last_frame: tail.last_frame, marked: tail.marked, writer }
        } else {
            segments.push(sealed(self.disk, self.options, inspection, inspection.segments.len() - 1));
            let (segment, end) = self.continue_behind_cut(inspection)?;
            segments.push(segment);
            end
        };
        self.finish(segments, end, Recovered { created: false, cut_bytes: tail.torn_bytes, confirmed_bytes })
    }

    fn check_writable(&self, inspection: &Inspection) -> Result<()> {
        match inspection.segments.iter().find(|found| found.unknown_to_writers != 0) {
            None => Ok(()),
            Some(found) => {
                let bits = found.unknown_to_writers;
                let reason = format!("a writer would have to know feature bits {bits:#010x}; open it for reading only");
                Err(Error::Incompatible { file: self.disk.locate(&path_of(found.header.number)), reason })
            }
        }
    }

    fn remove_leftovers(&self, inspection: &Inspection) -> Result<()> {
        for path in &inspection.leftovers {
            self.disk.remove(path).map_err(|error| Error::io("remove", self.disk.locate(path), error))?;
            self.sync_dir()?;
        }
        Ok(())
    }

    fn sync_dir(&self) -> Result<()> {
        let synced = self.disk.sync_dir(LOG_DIR);
        synced.map_err(|error| Error::io("sync the directory", self.disk.locate(LOG_DIR), error))
    }

    /// Writes what is not known to be synced again, and syncs it. After a failed sync the cache may hold what the disk
    /// does not, and holds it as clean: a sync alone would do nothing.
    fn confirm_tail(&self, inspection: &Inspection) -> Result<u64> {
        let tail = &inspection.tail;
        let path = path_of(inspection.last().header.number);
        // Not asked of the commits alone: a start frame that was written and not synced before a kill must be on the disk
        // before the synced head says so, or a loss of power then gets the store refused.
        if tail.durable >= tail.end.address() || sabotaged(Sabotage::ConfirmNothing) {
            return Ok(0);
        }
        let unconfirmed = tail.end.offset - tail.confirmed.offset;
        let file = self.open_file(&path, Access::ReadWrite)?;
        let mut offset = tail.confirmed.offset / PAGE_BYTES * PAGE_BYTES;
        let mut chunk = vec![0; CHUNK_BYTES.min((tail.end.offset - offset) as usize)];
        while offset < tail.end.offset {
            let length = CHUNK_BYTES.min((tail.end.offset - offset) as usize);
            crate::storage::read_exact_at(&*file, &mut chunk[..length], offset)
                .map_err(|error| Error::io("read", self.disk.locate(&path), error))?;
            file.write_at(&chunk[..length], offset)
                .map_err(|error| Error::io("write to", self.disk.locate(&path), error))?;
            offset += length as u64;
        }
        file.sync().map_err(|error| Error::io("sync", self.disk.locate(&path), error))?;
        Ok(unconfirmed)
    }

    /// Begins a new segment behind a torn tail. Its synced start frame records the cut.
    fn continue_behind_cut(&self, inspection: &Inspection) -> Result<(Arc<Segment>, LogEnd)> {
        let (tail, last) = (&inspection.tail, inspection.last());
        let start = StartBody {
            predecessor: last.header.number,
            predecessor_length: tail.end.offset,
            first_kept: inspection.segments[0].header.number,
            cut_bytes: tail.torn_bytes,
            bytes_before: tail.end.address(),
            predecessor_salt: last.header.salt,
            predecessor_last: tail.last_frame,
        };
        self.begin_segment(last.header.store, last.header.number + 1, &tail.end, &start)
    }

    /// Makes a segment behind a point, which begins with this start frame and is synced before it has a name.
    fn begin_segment(
        &self,
        store: StoreId,
        number: u64,
        before: &Joint,
        start: &StartBody,
    ) -> Result<(Arc<Segment>, LogEnd)> {
        let mut salt = [0; 8];
        self.randomness.fill(&mut salt);
        let salt = u64::from_le_bytes(salt);
        let link = Link {
            previous: before.previous,
            first_position: before.next_position,
            commit_time: before.commit_time,
            durable: start.bytes_before,
        };
        let mut frame = Vec::new();
        let place = crate::format::checksum::Place::of_frame(salt, number, FIRST_FRAME);
        let checksum = encode_control(&mut frame, place, link, FrameKind::Start, &start.encode());
        let spare = Spare::create(&**self.disk, store, number, salt, self.options.segment_bytes(number, 0), &frame)?;
        let origin = Origin { first_position: before.next_position, base: start.bytes_before };
        let tip = Joint { base: origin.base, offset: FIRST_FRAME + frame.len() as u64, previous: checksum, ..*before };
        let (segment, writer) = self.growing(&spare.header, origin, spare.file, tip.offset)?;
        Ok((segment, LogEnd { tip, last_frame: FIRST_FRAME, marked: true, writer }))
    }

    fn growing(
        &self,
        header: &SegmentHeader,
        origin: Origin,
        file: Arc<dyn File>,
        published: u64,
    ) -> Result<(Arc<Segment>, SegmentWriter)> {
        Segment::growing(Arc::clone(self.disk), self.options.read_mode, header, origin, file, published)
    }

    fn open_file(&self, path: &str, access: Access) -> Result<Arc<dyn File>> {
        self.disk.open(path, access).map_err(|error| Error::io("open", self.disk.locate(path), error))
    }

    fn finish(&self, segments: Vec<Arc<Segment>>, end: LogEnd, recovered: Recovered) -> Result<Opened> {
        let last = segments.last().expect("a log has a segment");
        let head = end.tip.next_position - 1;
        let written = WrittenEnd {
            position: head,
            segment: last.number,
            offset: end.tip.offset,
            address: end.tip.address(),
            checksum: end.tip.previous,
        };
        let store = self.store_of(last)?;
        let log = Arc::new(Log::new(Arc::clone(self.disk), store, self.options, segments, head));
        let syncer = Syncer::new(&written, self.open_synced_head()?);
        let failed = |error| Error::io("write to", self.disk.locate(SYNCED_HEAD_PATH), error);
        syncer.tell_opened(&log, &written).map_err(failed)?;
        let appender =
            Appender::new(Arc::clone(&log), Arc::clone(self.randomness), Arc::clone(self.signal), end, written, syncer);
        Ok(Opened { log, appender, recovered })
    }

    fn store_of(&self, segment: &Segment) -> Result<StoreId> {
        let mut bytes = [0; HEADER_BYTES];
        let read = crate::storage::read_exact_at(&*segment.open_file()?, &mut bytes, 0);
        read.map_err(|error| Error::io("read", self.disk.locate(&segment.path), error))?;
        let header = SegmentHeader::decode(&bytes);
        header.map(|header| header.store).map_err(|_| segment.corrupt(0, "the segment header changed"))
    }

    /// The file of the synced head, made durable under its name before anything relies on it.
    fn open_synced_head(&self) -> Result<Arc<dyn File>> {
        let failed = |error| Error::io("open", self.disk.locate(SYNCED_HEAD_PATH), error);
        match self.disk.open(SYNCED_HEAD_PATH, Access::ReadWrite) {
            Ok(file) => {
                // It says something only once its name is durable: whoever made it may have died before that.
                if read_synced_head(&**self.disk)?.is_none() {
                    self.disk.sync_dir("").map_err(failed)?;
                }
                Ok(file)
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                // It gets its name when its bytes are synced: before that they may be those of any file that was removed,
                // of the synced head of another log as well.
                let temporary = format!("{SYNCED_HEAD_PATH}.tmp");
                let file = self.disk.create(&temporary).map_err(failed)?;
                file.write_at(&[0; SYNCED_HEAD_BYTES], 0).map_err(failed)?;
                file.sync().map_err(failed)?;
                self.disk.rename(&temporary, SYNCED_HEAD_PATH).map_err(failed)?;
                self.disk.sync_dir("").map_err(failed)?;
                Ok(file)
            }
            Err(error) => Err(failed(error)),
        }
    }
}

/// The segments that take no more frames: all but the last.
pub(super) fn sealed_segments(disk: &Arc<dyn Disk>, options: LogOptions, inspection: &Inspection) -> Vec<Arc<Segment>> {
    (0..inspection.segments.len() - 1).map(|index| sealed(disk, options, inspection, index)).collect()
}

fn sealed(disk: &Arc<dyn Disk>, options: LogOptions, inspection: &Inspection, index: usize) -> Arc<Segment> {
    let found = &inspection.segments[index];
    let end = match inspection.segments.get(index + 1) {
        Some(successor) => successor.start.predecessor_length,
        None => inspection.tail.end.offset,
    };
    Arc::new(Segment::sealed(Arc::clone(disk), options.read_mode, &found.header, found.origin(), end))
}
