//! Recovery: what the files of the log say, and what has to be done about it (FORMAT, section 7).
//!
//! This module only reads and decides. Nothing is changed on disk here, so that a store that is refused stays as it
//! was, and a read-only open can use the same decisions.

use std::collections::VecDeque;
use std::io;

use super::scan::{Joint, Leftover, Scanner};
use super::segment::{FIRST_FRAME, Origin, number_of, path_of};
use super::{LOG_DIR, SYNCED_HEAD_PATH};
use crate::error::{Error, Result};
use crate::format::checksum::Place;
use crate::format::frame::{
    FRAME_BYTES_MAX, Frame, FrameFault, FrameHeader, FrameKind, HEADER_BYTES as FRAME_HEADER_BYTES,
};
use crate::format::segment::{HEADER_BYTES, HeaderFault, SegmentHeader, StartBody};
use crate::format::synced_head::{Newer, SYNCED_HEAD_BYTES, SyncedHead};
use crate::limits::UNSYNCED_BYTES_MAX;
use crate::storage::{Access, Disk, File};
use crate::types::StoreId;

/// How far recovery looks into a spare whose first frame was never begun: a writer fills a segment from its start.
const BLANK_SPAN_BYTES: u64 = 1024 * 1024;
/// Where the header of a segment names the store.
const STORE_ID_OFFSET: u64 = 24;
/// How far recovery looks behind the last valid frame.
pub(super) const SPAN_BYTES: u64 = UNSYNCED_BYTES_MAX + FRAME_BYTES_MAX as u64;

/// A point of a segment that an index file remembers as synced: scanning may begin there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    pub(crate) store: StoreId,
    pub(crate) segment: u64,
    pub(crate) salt: u64,
    /// Last position that the index covers in this segment.
    pub(crate) position: u64,
    /// Offset of the frame that holds it.
    pub(crate) offset: u64,
    /// Offset behind that frame.
    pub(crate) end: u64,
    /// Header checksum of that frame.
    pub(crate) checksum: u32,
}

/// A segment with a valid header and start frame.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) header: SegmentHeader,
    pub(crate) start: StartBody,
    /// The point behind the start frame.
    pub(crate) joint: Joint,
    /// Header checksum of the frame before the start frame.
    pub(crate) previous: u32,
    /// Log address that the start frame says was synced.
    pub(crate) durable: u64,
    /// Length of the file.
    pub(crate) length: u64,
    /// The feature bits that a writer would have to know, and that this one does not.
    pub(crate) unknown_to_writers: u32,
}

/// What the log consists of, and what its end looks like.
#[derive(Debug)]
pub(crate) struct Inspection {
    /// All segments with frames, in order; never empty.
    pub(crate) segments: Vec<Found>,
    /// Files that a writer removes: spares and temporaries.
    pub(crate) leftovers: Vec<String>,
    pub(crate) tail: Tail,
}

/// The end of the log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tail {
    /// The point behind the last valid frame.
    pub(crate) end: Joint,
    /// The point behind the last frame that is known to be synced.
    pub(crate) confirmed: Joint,
    /// The greatest log address that is known to be synced.
    pub(crate) durable: u64,
    /// Bytes behind the end that are not zero: a torn tail.
    pub(crate) torn_bytes: u64,
    /// Offset of the last valid frame.
    pub(crate) last_frame: u64,
    /// The last valid frame holds no events.
    pub(crate) marked: bool,
}

impl Found {
    pub(super) fn origin(&self) -> Origin {
        Origin { first_position: self.joint.next_position, base: self.start.bytes_before }
    }
}

impl Inspection {
    pub(crate) fn last(&self) -> &Found {
        self.segments.last().expect("an inspection has a segment")
    }

    pub(crate) fn store(&self) -> StoreId {
        self.last().header.store
    }

    /// The last position of the log; 0 if it is empty.
    pub(crate) fn head(&self) -> u64 {
        self.tail.end.next_position - 1
    }
}

/// Reads the log's files. `None` if there are none, and nothing says that there should be.
///
/// The checkpoints were read before: beside a writer, what is known to be synced must be older than what is scanned.
pub(crate) fn inspect(disk: &dyn Disk, checkpoints: &[Checkpoint]) -> Result<Option<Inspection>> {
    let synced_head = read_synced_head(disk)?;
    let names = disk.list(LOG_DIR).map_err(|error| Error::io("list", disk.locate(LOG_DIR), error))?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| number_of(name)).collect();
    numbers.sort_unstable();
    if numbers.is_empty() {
        return match synced_head.is_some() || !checkpoints.is_empty() {
            true => Err(Error::corrupt(disk.locate(LOG_DIR), 0, "the segments of the log are gone")),
            false => Ok(None),
        };
    }
    let temporaries = names.iter().filter(|name| name.strip_suffix(".tmp").is_some());
    let mut leftovers: Vec<String> = temporaries.map(|name| format!("{LOG_DIR}/{name}")).collect();
    let (mut segments, spares) = find_segments(disk, &numbers)?;
    // The highest first: a crash in between must not leave a gap.
    leftovers.extend(spares.iter().rev().map(|spare| path_of(spare.number)));
    drop_removed(disk, &mut segments, &mut leftovers)?;
    check_links(disk, &segments)?;
    let store = segments[0].header.store;
    check_owner(disk, &segments[0], synced_head.as_ref())?;
    let examination = Examination {
        disk,
        segments: &segments,
        spares: &spares,
        checkpoints: checkpoints.iter().filter(|known| known.store == store).copied().collect(),
        synced_head,
    };
    let tail = examination.tail()?;
    Ok(Some(Inspection { segments, leftovers, tail }))
}

/// The synced head, if there is one that says anything.
pub(crate) fn read_synced_head(disk: &dyn Disk) -> Result<Option<SyncedHead>> {
    let failed = |error| Error::io("read", disk.locate(SYNCED_HEAD_PATH), error);
    let file = match disk.open(SYNCED_HEAD_PATH, Access::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = [0; SYNCED_HEAD_BYTES];
    // What is missing of one that is too short stays zero, and does not have the checksum.
    file.read_at(&mut bytes, 0).map_err(failed)?;
    decode_synced_head(disk, &bytes)
}

pub(super) fn decode_synced_head(disk: &dyn Disk, bytes: &[u8; SYNCED_HEAD_BYTES]) -> Result<Option<SyncedHead>> {
    let newer = |Newer| Error::Incompatible { file: disk.locate(SYNCED_HEAD_PATH), reason: Newer::REASON.to_owned() };
    SyncedHead::decode(bytes).map_err(newer)
}

/// A segment file without a start frame, behind all others.
pub(super) struct Spare {
    number: u64,
    /// The greatest log address that a frame header in it says was synced.
    durable: u64,
}

/// The segments with a valid start frame, and the spares behind them.
fn find_segments(disk: &dyn Disk, numbers: &[u64]) -> Result<(Vec<Found>, Vec<Spare>)> {
    let mut segments: Vec<Found> = Vec::new();
    let mut spares: Vec<Spare> = Vec::new();
    for number in numbers {
        match (look_at(disk, *number)?, spares.first()) {
            (Look::Found(_), Some(spare)) => {
                let reason = "the start frame of a segment in the middle of the log is damaged";
                return Err(Error::corrupt(disk.locate(&path_of(spare.number)), FIRST_FRAME, reason));
            }
            (Look::Found(found), None) => segments.push(found),
            (Look::Spare(spare), _) => spares.push(spare),
        }
    }
    if segments.is_empty() {
        let path = disk.locate(&path_of(numbers[0]));
        return Err(Error::corrupt(path, FIRST_FRAME, "the first segment has no valid start frame"));
    }
    Ok((segments, spares))
}

/// What a segment file turns out to be.
pub(super) enum Look {
    Found(Found),
    Spare(Spare),
}

pub(super) fn look_at(disk: &dyn Disk, number: u64) -> Result<Look> {
    look_into(disk, number, &*open(disk, &path_of(number))?)
}

pub(super) fn look_into(disk: &dyn Disk, number: u64, file: &dyn File) -> Result<Look> {
    let path = path_of(number);
    let failed = |error| Error::io("read", disk.locate(&path), error);
    let incompatible = |reason: String| Err(Error::Incompatible { file: disk.locate(&path), reason });
    let length = file.len().map_err(failed)?;
    let (header, unknown_to_writers) = match read_header(file, number).map_err(failed)? {
        Ok(header) => header,
        Err(HeaderFault::Unknown(reason)) => return incompatible(reason),
        // A file gets its name after its header was synced: a damaged header is damage, in a spare as well.
        Err(HeaderFault::Damaged(reason)) => return Err(Error::corrupt(disk.locate(&path), 0, reason)),
    };
    if length < header.allocated {
        return Err(Error::corrupt(disk.locate(&path), length, "the file is shorter than it was made"));
    }
    let mut scanner = Scanner::new(file, number, header.salt);
    let fault = match scanner.any_frame(FIRST_FRAME).map_err(failed)? {
        Ok(frame) => match found(header, length, &frame) {
            Some(found) => return Ok(Look::Found(Found { unknown_to_writers, ..found })),
            None => FrameFault::Unknown("the first frame of the segment is not a start frame as this version knows it"),
        },
        Err(fault) => fault,
    };
    let span = match fault {
        FrameFault::Unknown(reason) => return incompatible(reason.into()),
        FrameFault::Blank => BLANK_SPAN_BYTES,
        FrameFault::Short | FrameFault::Damaged(_) => SPAN_BYTES,
    };
    let durable = scanner.search(FIRST_FRAME, span).map_err(failed)?.durable;
    Ok(Look::Spare(Spare { number, durable }))
}

/// The header of a segment, and its feature bits that are unknown to writers.
fn read_header(file: &dyn File, number: u64) -> io::Result<Result<(SegmentHeader, u32), HeaderFault>> {
    let mut bytes = [0; HEADER_BYTES];
    if file.read_at(&mut bytes, 0)? < HEADER_BYTES {
        return Ok(Err(HeaderFault::Damaged("the file is shorter than a segment header")));
    }
    Ok(SegmentHeader::decode(&bytes).and_then(|header| match header.number == number {
        true => Ok((header, SegmentHeader::unknown_to_writers(&bytes))),
        false => Err(HeaderFault::Damaged("the segment's number is not that of its file name")),
    }))
}

fn found(header: SegmentHeader, length: u64, frame: &Frame<'_>) -> Option<Found> {
    let link = frame.header.link;
    let start = StartBody::decode(frame.body).filter(|_| frame.header.kind == FrameKind::Start)?;
    let before = Joint {
        base: start.bytes_before,
        offset: FIRST_FRAME,
        previous: link.previous,
        next_position: link.first_position,
        commit_time: link.commit_time,
    };
    // The segment before was synced to its end when this frame was built, and nothing behind it.
    (link.durable == start.bytes_before).then(|| Found {
        header,
        start,
        joint: before.behind(&frame.header),
        previous: link.previous,
        durable: link.durable,
        length,
        unknown_to_writers: 0,
    })
}

/// Segments that were removed on purpose, and whose files a crash left behind.
fn drop_removed(disk: &dyn Disk, segments: &mut Vec<Found>, leftovers: &mut Vec<String>) -> Result<()> {
    let kept_from = segments[segments.len() - 1].start.first_kept;
    let (removed, kept): (Vec<Found>, Vec<Found>) =
        segments.drain(..).partition(|found| found.header.number < kept_from);
    leftovers.extend(removed.iter().map(|found| path_of(found.header.number)));
    *segments = kept;
    match segments.first().is_some_and(|first| first.header.number == kept_from) {
        true => Ok(()),
        false => Err(Error::corrupt(disk.locate(&path_of(kept_from)), 0, "the segment is missing")),
    }
}

/// A log and a synced head of two stores stand in one directory: one of them took the place of another, and nothing tells
/// which. Where there is one segment, no link would tell that it is a stranger's.
fn check_owner(disk: &dyn Disk, first: &Found, synced_head: Option<&SyncedHead>) -> Result<()> {
    match synced_head.is_some_and(|head| head.store != first.header.store) {
        true => {
            let reason = "the log and the synced head belong to two different stores";
            Err(Error::corrupt(disk.locate(&path_of(first.header.number)), STORE_ID_OFFSET, reason))
        }
        false => Ok(()),
    }
}

/// Each segment names the one before it, which must be there, whole, and the very same.
fn check_links(disk: &dyn Disk, segments: &[Found]) -> Result<()> {
    for pair in segments.windows(2) {
        let (before, this) = (&pair[0], &pair[1]);
        if let Some(reason) = link_fault(before, this) {
            return Err(Error::corrupt(disk.locate(&path_of(this.header.number)), FIRST_FRAME, reason));
        }
        check_last_frame(disk, before, this)?;
    }
    Ok(())
}

fn link_fault(before: &Found, this: &Found) -> Option<&'static str> {
    if this.header.store != before.header.store {
        Some("the segment belongs to another store")
    } else if before.header.number + 1 != this.header.number {
        Some("the segment before this one is missing")
    } else if this.start.predecessor != before.header.number || this.start.predecessor_salt != before.header.salt {
        Some("the segment before this one is not the one that it continues")
    } else if this.start.bytes_before != before.start.bytes_before + this.start.predecessor_length {
        Some("the log address of the segment does not follow from the one before")
    } else if this.joint.next_position < before.joint.next_position {
        Some("the positions of the segment begin before those of the one before it")
    } else {
        None
    }
}

/// A sealed segment ends with the frame that its successor names.
fn check_last_frame(disk: &dyn Disk, sealed: &Found, successor: &Found) -> Result<()> {
    let path = path_of(sealed.header.number);
    let at = successor.start.predecessor_last;
    let corrupt = |reason: &str| Error::corrupt(disk.locate(&path), at, reason);
    let file = open(disk, &path)?;
    let mut bytes = [0; FRAME_HEADER_BYTES];
    let read = file.read_at(&mut bytes, at).map_err(|error| Error::io("read", disk.locate(&path), error))?;
    if read < bytes.len() || sealed.length < successor.start.predecessor_length {
        return Err(corrupt("the file is shorter than its frames"));
    }
    let place = Place::of_frame(sealed.header.salt, sealed.header.number, at);
    let header = FrameHeader::decode(&bytes, place).map_err(|fault| corrupt(fault.reason()))?;
    let end = at + header.frame_len() as u64;
    let agrees = header.checksum == successor.previous
        && end == successor.start.predecessor_length
        && header.next_position() == successor.joint.next_position;
    if agrees { Ok(()) } else { Err(corrupt("the last frame is not the one that the next segment continues")) }
}

fn open(disk: &dyn Disk, path: &str) -> Result<std::sync::Arc<dyn File>> {
    disk.open(path, Access::Read).map_err(|error| Error::io("open", disk.locate(path), error))
}

/// The look at the last segment.
struct Examination<'a> {
    disk: &'a dyn Disk,
    segments: &'a [Found],
    spares: &'a [Spare],
    checkpoints: Vec<Checkpoint>,
    synced_head: Option<SyncedHead>,
}

impl Examination<'_> {
    fn tail(&self) -> Result<Tail> {
        let last = self.last();
        let path = path_of(last.header.number);
        let file = open(self.disk, &path)?;
        let failed = |error| Error::io("read", self.disk.locate(&path), error);
        let mut scanner = Scanner::new(&*file, last.header.number, last.header.salt);
        self.check_last()?;
        let mut walk = self.begin(&mut scanner).map_err(failed)?;
        self.check_sealed_history()?;
        self.check_history(walk.end.offset, &walk.end)?;
        let fault = loop {
            let before = walk.end.offset;
            match scanner.frame(&walk.end).map_err(failed)? {
                Ok(frame) => walk.step(&frame),
                Err(fault) => break fault,
            }
            self.check_history(before + 1, &walk.end)?;
        };
        if let FrameFault::Unknown(reason) = fault {
            return Err(Error::Incompatible { file: self.disk.locate(&path), reason: reason.into() });
        }
        let leftover = match self.is_closed_at(&walk.end) {
            true => Leftover::default(),
            false => scanner.search(walk.end.offset, SPAN_BYTES).map_err(failed)?,
        };
        let durable = walk.durable.max(leftover.durable);
        if durable > walk.end.address() {
            let missing = durable - walk.end.address();
            let reason = format!("{}; {missing} bytes from here on are known to have been synced", fault.reason());
            return Err(Error::corrupt(self.disk.locate(&path), walk.end.offset, reason));
        }
        Ok(Tail {
            end: walk.end,
            confirmed: walk.confirmed,
            durable,
            torn_bytes: leftover.nonzero_bytes,
            last_frame: walk.last_frame,
            marked: walk.marked,
        })
    }

    fn last(&self) -> &Found {
        &self.segments[self.segments.len() - 1]
    }

    /// No segment behind the last one may be known to hold synced frames.
    fn check_last(&self) -> Result<()> {
        let known = self.checkpoints.iter().map(|known| known.segment).chain(self.synced_head.map(|head| head.segment));
        match known.max() {
            Some(number) if number > self.last().header.number => {
                let path = self.disk.locate(&path_of(number));
                let reason = "the segment is known to have been synced, and it is gone or its start frame is damaged";
                Err(Error::corrupt(path, FIRST_FRAME, reason))
            }
            _ => Ok(()),
        }
    }

    /// Where the scan begins: at the checkpoint of this segment if the log agrees with it, else behind the start frame.
    fn begin(&self, scanner: &mut Scanner<'_>) -> io::Result<Walk> {
        let last = self.last();
        let (mut begin, mut last_frame, mut marked) = (last.joint, FIRST_FRAME, true);
        let here = |known: &&Checkpoint| (known.segment, known.salt) == (last.header.number, last.header.salt);
        if let Some(checkpoint) = self.checkpoints.iter().find(here)
            && let Ok(frame) = scanner.any_frame(checkpoint.offset)?
            && frame.header.checksum == checkpoint.checksum
            && frame.header.next_position() == checkpoint.position + 1
        {
            begin = Joint { offset: checkpoint.offset, ..last.joint }.behind(&frame.header);
            (last_frame, marked) = (checkpoint.offset, false);
        }
        let durable = self.known_durable();
        Ok(Walk { last_frame, marked, ..Walk::new(begin, durable) })
    }

    /// What everything but the frames to be scanned says was synced.
    fn known_durable(&self) -> u64 {
        let checkpoints = self.checkpoints.iter().map(|known| self.address_of(known.segment, known.end));
        let spares = self.spares.iter().map(|spare| spare.durable);
        let head = self.synced_head.map_or(0, |head| self.address_of(head.segment, head.end));
        checkpoints.chain(spares).fold(self.last().durable.max(head), u64::max)
    }

    /// The log address of a place in a segment; 0 if the segment was removed on purpose.
    fn address_of(&self, segment: u64, offset: u64) -> u64 {
        let found = self.segments.iter().find(|found| found.header.number == segment);
        found.map_or(0, |found| found.start.bytes_before.saturating_add(offset))
    }

    fn is_closed_at(&self, end: &Joint) -> bool {
        let number = self.last().header.number;
        self.synced_head.is_some_and(|head| {
            head.closed && (head.segment, head.end, head.checksum) == (number, end.offset, end.previous)
        })
    }

    /// A synced head that lies between `from` and `end`, in the last segment, must lie at `end`, and the frame before it
    /// must be the one that it remembers.
    fn check_history(&self, from: u64, end: &Joint) -> Result<()> {
        let number = self.last().header.number;
        match self.synced_head {
            Some(head) if head.segment == number && (from..=end.offset).contains(&head.end) => {
                self.check_head(&head, end.offset, end.previous)
            }
            _ => Ok(()),
        }
    }

    /// A synced head in a sealed segment lies at its end at the most, and then remembers its last frame.
    fn check_sealed_history(&self) -> Result<()> {
        let Some(head) = self.synced_head else { return Ok(()) };
        match self.segments.iter().find(|found| found.start.predecessor == head.segment) {
            Some(successor) if head.end >= successor.start.predecessor_length => {
                self.check_head(&head, successor.start.predecessor_length, successor.previous)
            }
            _ => Ok(()),
        }
    }

    fn check_head(&self, head: &SyncedHead, end: u64, checksum: u32) -> Result<()> {
        if (head.end, head.checksum) == (end, checksum) {
            return Ok(());
        }
        let reason = "the log is not the one that was synced here: another history was put in its place";
        Err(Error::corrupt(self.disk.locate(&path_of(head.segment)), head.end, reason))
    }
}

/// The scan of the last segment so far.
pub(super) struct Walk {
    pub(super) end: Joint,
    last_frame: u64,
    marked: bool,
    durable: u64,
    pub(super) confirmed: Joint,
    /// The points behind frames that are not known to be synced yet.
    unconfirmed: VecDeque<Joint>,
}

impl Walk {
    /// A scan that begins behind a start frame, with what is known of syncs.
    pub(super) fn new(begin: Joint, durable: u64) -> Self {
        Self {
            end: begin,
            last_frame: FIRST_FRAME,
            marked: true,
            durable,
            confirmed: begin,
            unconfirmed: VecDeque::new(),
        }
    }

    pub(super) fn step(&mut self, frame: &Frame<'_>) {
        self.last_frame = self.end.offset;
        self.marked = frame.header.kind != FrameKind::Commit;
        self.end = self.end.behind(&frame.header);
        self.durable = self.durable.max(frame.header.link.durable);
        self.unconfirmed.push_back(self.end);
        while let Some(point) = self.unconfirmed.front().copied()
            && point.address() <= self.durable
        {
            self.confirmed = point;
            self.unconfirmed.pop_front();
        }
    }
}
