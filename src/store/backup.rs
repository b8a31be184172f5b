//! Backups: a consistent prefix of the log, copied and verified while appends go on.
//!
//! A backup is a store with an id of its own, since it may go on differently: a new history. Its frames are those of the
//! original, byte for byte, at the same places; only the headers of the segments and the synced head are written anew.
//! The index is left to the first open, because its keys are hashed with the id. Of the state the current values are
//! written to a new state store, but for those that are bound to the history of the original (FORMAT, section 9), such
//! as snapshots, which would be ignored. They are read before the log is pinned: what a value says of an event, the
//! backup has.
//!
//! Everything is made and synced in a directory beside the target, which then takes the target's name: under that name
//! there is a whole backup or none.

use std::path::Path;
use std::sync::Arc;

use super::event::NewEvent;
use super::options::Options;
use super::state::{PUT, STATE_DIR};
use super::{Inner, Store};
use crate::error::{Error, ExpectedVersion, Invalid, Result};
use crate::format::frame::FrameHeader;
use crate::format::segment::{ALLOCATION_UNIT, HEADER_BYTES, SegmentHeader};
use crate::format::synced_head::SyncedHead;
use crate::log::{FIRST_FRAME, Joint, LOG_DIR, Log, SYNCED_HEAD_PATH, Scanner, Segment, path_of};
use crate::randomness::Randomness;
use crate::sabotage::{Sabotage, sabotaged};
use crate::storage::{Disk, File, RealDisk, SubDisk};
use crate::types::{Durability, Position, StoreId};

/// How much is written at once.
const CHUNK_BYTES: usize = 1024 * 1024;
/// Size of the first segment of a state, which is small.
const STATE_SEGMENT_BYTES_FIRST: u64 = 64 * 1024;

/// What a backup holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackupReport {
    /// The id of the backup, which is a store of its own.
    pub store: StoreId,
    /// Its last position; `None` if the store was empty.
    pub head: Option<Position>,
    /// Its events.
    pub events: u64,
    /// Bytes of its log: headers and frames.
    pub bytes: u64,
}

impl Store {
    /// Copies the store, as of now, to a new directory, while appends go on. Every byte is verified on the way.
    ///
    /// The backup holds everything up to the synced head; on a store that takes appends, everything visible is synced
    /// first. It is a store like any other, opened like any other, with an id of its own: whatever remembers positions
    /// of the original does not take it for the original. Of the state it holds the current values, without those that
    /// belong to the history of the original alone, such as snapshots. On a store that takes appends they are at most as
    /// new as its events; one that is open for reading has of both what is synced, and a writer may sync them apart. Its
    /// index is built when it is first opened.
    ///
    /// When this returns, the backup is safe on the disk. The directory appears at once and complete; a crash before
    /// that leaves at most a directory beside it whose name ends in `.tmp`, which can be deleted.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there is anything at `path` but an empty directory; [`Error::Corrupt`] if the store is
    /// damaged; [`Error::Full`] or [`Error::Io`] if the operating system refuses. Then nothing is left of the backup.
    pub fn backup(&self, path: impl AsRef<Path>) -> Result<BackupReport> {
        self.backup_through(path.as_ref(), &|disk| Arc::new(disk))
    }

    /// Backs up through the disk that `through` makes of the real one.
    pub(super) fn backup_through(
        &self,
        path: &Path,
        through: &dyn Fn(RealDisk) -> Arc<dyn Disk>,
    ) -> Result<BackupReport> {
        let inner = &self.handle.inner;
        let target = RealDisk::new(path);
        check_vacant(&target)?;
        let backup = Backup::begin(&target, &*inner.randomness, through)?;
        backup.copy_state(self)?;
        let head = inner.pin_synced()?;
        let report = backup.copy(inner, head)?;
        backup.publish(&target)?;
        Ok(report)
    }
}

fn check_vacant(target: &RealDisk) -> Result<()> {
    let vacant = target.is_vacant().map_err(|error| Error::io("list", target.locate(""), error))?;
    if vacant {
        return Ok(());
    }
    let problem =
        format!("there is something at {} already; it must be new, or an empty directory", target.locate("").display());
    Err(Invalid::of("path", problem).into())
}

impl Inner {
    /// The last position that is synced and that every reader sees.
    fn pin_synced(&self) -> Result<u64> {
        self.catch_up()?;
        if let Ok(appender) = self.appender()
            && appender.failure().is_none()
        {
            appender.sync()?;
        }
        Ok(self.log.synced())
    }
}

/// A backup that is being made. Dropped before it is published, it leaves nothing.
struct Backup {
    /// The directory beside the target.
    place: RealDisk,
    /// The same, for what is written there.
    disk: Arc<dyn Disk>,
    /// The directory that the target is in, for the sync of its name.
    above: Arc<dyn Disk>,
    store: StoreId,
    is_published: bool,
}

/// The end of what was copied.
struct Copied {
    segment: u64,
    end: Joint,
    bytes: u64,
}

impl Backup {
    fn begin(
        target: &RealDisk,
        randomness: &dyn Randomness,
        through: &dyn Fn(RealDisk) -> Arc<dyn Disk>,
    ) -> Result<Self> {
        let mut id = [0; 16];
        randomness.fill(&mut id);
        let store = StoreId::from_bytes(uuid::Builder::from_random_bytes(id).into_uuid().into_bytes());
        // Named by the new id: what a crash left of another backup is not in the way, and stays as it is.
        let place = target.sibling(&format!(".{store}.tmp"));
        let (disk, above) = (through(place.clone()), through(target.above()));
        let backup = Self { disk, above, place, store, is_published: false };
        backup.disk.create_dir(LOG_DIR).map_err(|error| backup.refused("create", LOG_DIR, error))?;
        Ok(backup)
    }

    /// Writes the current values of the state to a new state store.
    fn copy_state(&self, store: &Store) -> Result<()> {
        let inner = &store.handle.inner;
        let state = store.state()?;
        let keys = state.keys("")?;
        if keys.is_empty() {
            return Ok(());
        }
        let options = Options {
            durability: Durability::Os,
            segment_bytes_first: STATE_SEGMENT_BYTES_FIRST,
            background: false,
            clock: Arc::clone(&inner.clock),
            randomness: Arc::clone(&inner.randomness),
            ..Options::default()
        };
        let disk = SubDisk::new(Arc::clone(&self.disk), STATE_DIR);
        let copy = Store::open_on(Arc::new(disk), options, true)?;
        let history = inner.log.store().to_bytes();
        for key in keys {
            // Deleted since, or of no use elsewhere.
            let Some(value) = state.get(&key)?.filter(|value| !value.starts_with(&history)) else { continue };
            copy.append(key, ExpectedVersion::Any, [NewEvent::raw(PUT, value)]).map_err(Error::from)?;
        }
        copy.close()
    }

    fn copy(&self, inner: &Inner, head: u64) -> Result<BackupReport> {
        let segments = inner.log.segments();
        let first = segments.iter().next().expect("an open log has a segment");
        let last = segments.holding(head).unwrap_or(first).number;
        let mut copied: Option<Copied> = None;
        for segment in segments.iter().take_while(|segment| segment.number <= last) {
            let begin = match &copied {
                Some(before) => Joint { base: segment.base, offset: FIRST_FRAME, ..before.end },
                None => beginning(segment)?,
            };
            let end = self.copy_segment(&inner.log, segment, begin, head)?;
            let bytes = copied.map_or(0, |before| before.bytes) + end.offset;
            copied = Some(Copied { segment: segment.number, end, bytes });
        }
        let copied = copied.expect("at least one segment is copied");
        if copied.end.next_position != head + 1 {
            let reason = format!("the log ends before position {head}");
            return Err(Error::corrupt(inner.log.path(copied.segment), copied.end.offset, reason));
        }
        self.write_synced_head(&copied)?;
        let report = BackupReport {
            store: self.store,
            head: Position::new(head),
            events: head + 1 - first.first_position,
            bytes: copied.bytes,
        };
        Ok(report)
    }

    /// Copies the frames of a segment that lie before the end of the commit that holds position `head`. Returns the
    /// point behind them.
    fn copy_segment(&self, log: &Log, segment: &Segment, begin: Joint, head: u64) -> Result<Joint> {
        let source = segment.open_file()?;
        let read_error = |error| Error::io("read", log.path(segment.number), error);
        check_understood(log, segment, &*source)?;
        let used = segment.used_bytes()?;
        let mut scanner = Scanner::new(&*source, segment.number, segment.salt);
        let mut copy = SegmentCopy::create(self, segment.number)?;
        let mut joint = begin;
        // An empty segment, and an empty log, have a start frame all the same.
        while joint.offset < used && (joint.offset == FIRST_FRAME || joint.next_position <= head) {
            let frame = scanner.frame(&joint).map_err(read_error)?;
            let header: FrameHeader = frame.map_err(|fault| segment.corrupt(joint.offset, fault.reason()))?.header;
            let bytes = scanner.bytes(joint.offset, header.frame_len()).map_err(read_error)?;
            copy.add(bytes)?;
            joint = joint.behind(&header);
        }
        copy.finish(SegmentHeader { store: self.store, number: segment.number, salt: segment.salt, allocated: 0 })?;
        Ok(joint)
    }

    fn write_synced_head(&self, copied: &Copied) -> Result<()> {
        let head = SyncedHead {
            store: self.store,
            position: copied.end.next_position - 1,
            segment: copied.segment,
            end: copied.end.offset,
            checksum: copied.end.previous,
            closed: true,
        };
        let refused = |operation| move |error| self.refused(operation, SYNCED_HEAD_PATH, error);
        let file = self.disk.create(SYNCED_HEAD_PATH).map_err(refused("create"))?;
        file.write_at(&head.encode(), 0).map_err(refused("write to"))?;
        self.sync(&*file, SYNCED_HEAD_PATH)
    }

    fn sync(&self, file: &dyn File, path: &str) -> Result<()> {
        if sabotaged(Sabotage::BackupWithoutSync) {
            return Ok(());
        }
        file.sync().map_err(|error| self.refused("sync", path, error))
    }

    /// Makes the names durable and gives the backup its own.
    fn publish(mut self, target: &RealDisk) -> Result<()> {
        for dir in [LOG_DIR, ""] {
            self.disk.sync_dir(dir).map_err(|error| self.refused("sync the directory", dir, error))?;
        }
        if let Err(error) = self.place.place_at(target) {
            // Somebody put something there meanwhile.
            return check_vacant(target).and(Err(Error::io("create", target.locate(""), error)));
        }
        if let Err(error) = self.above.sync_dir("") {
            // Back to where it is removed: whoever tries again finds the place vacant.
            self.is_published = target.place_at(&self.place).is_err();
            return Err(Error::io("sync the directory of", target.locate(""), error));
        }
        self.is_published = true;
        Ok(())
    }

    fn refused(&self, operation: &'static str, path: &str, error: std::io::Error) -> Error {
        Error::io_or_full(operation, self.disk.locate(path), error)
    }
}

impl Drop for Backup {
    fn drop(&mut self) {
        if self.is_published {
            return;
        }
        // What cannot be removed is harmless: nothing reads a directory of this name.
        for dir in ["state/log", "state/index", STATE_DIR, LOG_DIR, ""] {
            for name in self.disk.list(dir).unwrap_or_default() {
                let _ = self.disk.remove(&format!("{dir}/{name}"));
            }
            let _ = self.disk.remove_dir(dir);
        }
    }
}

/// The file of a segment that is being copied.
struct SegmentCopy<'a> {
    backup: &'a Backup,
    path: String,
    file: Arc<dyn File>,
    /// Bytes that are not written yet, and where they go.
    pending: Vec<u8>,
    offset: u64,
}

impl<'a> SegmentCopy<'a> {
    fn create(backup: &'a Backup, number: u64) -> Result<Self> {
        let path = path_of(number);
        let file = backup.disk.create(&path).map_err(|error| backup.refused("create", &path, error))?;
        Ok(Self { backup, path, file, pending: Vec::new(), offset: FIRST_FRAME })
    }

    fn add(&mut self, frame: &[u8]) -> Result<()> {
        self.pending.extend_from_slice(frame);
        if self.pending.len() >= CHUNK_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        let written = self.file.write_at(&self.pending, self.offset);
        written.map_err(|error| self.backup.refused("write to", &self.path, error))?;
        self.offset += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }

    /// Writes the header, with the size that the file really has, and syncs the file.
    fn finish(mut self, header: SegmentHeader) -> Result<()> {
        self.flush()?;
        let (backup, path) = (self.backup, &self.path);
        let refused = |operation| move |error| backup.refused(operation, path, error);
        let header = SegmentHeader { allocated: self.offset.next_multiple_of(ALLOCATION_UNIT), ..header };
        self.file.allocate(header.allocated).map_err(refused("allocate"))?;
        self.file.write_at(&header.encode(), 0).map_err(refused("write to"))?;
        backup.sync(&*self.file, path)
    }
}

/// The point before the first frame of the log that is kept: what its start frame says of it.
fn beginning(segment: &Segment) -> Result<Joint> {
    let link = segment.header(FIRST_FRAME)?.link;
    Ok(Joint {
        base: segment.base,
        offset: FIRST_FRAME,
        previous: link.previous,
        next_position: link.first_position,
        commit_time: link.commit_time,
    })
}

/// A copy is a write: what only a newer writer understands may not be left out of the header.
fn check_understood(log: &Log, segment: &Segment, file: &dyn File) -> Result<()> {
    let mut bytes = [0; HEADER_BYTES];
    crate::storage::read_exact_at(file, &mut bytes, 0)
        .map_err(|error| Error::io("read", log.path(segment.number), error))?;
    match (SegmentHeader::decode(&bytes), SegmentHeader::unknown_to_writers(&bytes)) {
        (Err(_), _) => Err(segment.corrupt(0, "the segment header changed")),
        (Ok(_), 0) => Ok(()),
        (Ok(_), bits) => Err(Error::Incompatible {
            file: log.path(segment.number),
            reason: format!("a writer would have to know feature bits {bits:#010x}"),
        }),
    }
}
