//! Verification: every byte of the log's files, read front to back by `pread`, and held against what recovery decides.
//!
//! Nothing is changed, no lock is needed, and a writer may go on: what it appends after the look at the files is left
//! out. A problem is noted and the reading goes on behind it: with the next frame if the header of the damaged one is
//! whole, with the next segment if not.

use std::path::PathBuf;
use std::sync::Arc;

use super::follower::look_until_steady;
use super::recovery::{Checkpoint, Found, Look, SPAN_BYTES, Tail, decode_synced_head, look_at};
use super::scan::{Joint, Scanner};
use super::segment::{FIRST_FRAME, number_of, path_of};
use super::{LOG_DIR, SYNCED_HEAD_PATH};
use crate::error::{Error, Result};
use crate::format::bytes::is_zero;
use crate::format::checksum::Place;
use crate::format::frame::{Frame, FrameFault, FrameHeader, FrameKind, HEADER_BYTES};
use crate::format::segment::{HEADER_BYTES as SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::format::synced_head::{SYNCED_HEAD_BYTES, SyncedHead};
use crate::storage::{Access, Disk, File};
use crate::types::StoreId;

/// How much is read at once.
const CHUNK_BYTES: usize = 1024 * 1024;
/// How often a synced head is read that a writer may be writing.
const HEAD_READS_MAX: usize = 5;

/// Something that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) file: PathBuf,
    pub(crate) offset: u64,
    pub(crate) reason: String,
}

/// Who looks at what verification reads.
pub(crate) trait Auditor {
    /// So many bytes more were read.
    fn read(&mut self, bytes: u64);

    /// A segment follows.
    fn begin_segment(&mut self, segment: &SegmentStart);

    /// A commit whose every record has its checksum; what is wrong with its events.
    fn commit(&mut self, segment: u64, offset: u64, frame: &Frame<'_>) -> Vec<String>;

    /// Commits were left out, because they cannot be read.
    fn lose(&mut self);
}

/// What a segment says of itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SegmentStart {
    pub(crate) number: u64,
    pub(crate) salt: u64,
    pub(crate) first_position: u64,
    /// It is the first segment that the log ever had.
    pub(crate) is_first_ever: bool,
}

/// What verification found in a log.
#[derive(Debug, Default)]
pub(crate) struct LogAudit {
    pub(crate) segments: u64,
    /// Bytes of a torn tail behind the log, which the next writer cuts.
    pub(crate) torn_bytes: u64,
    pub(crate) faults: Vec<Fault>,
    /// Recovery found the end of the log.
    pub(crate) is_decided: bool,
}

/// The store that the log belongs to, as far as a header of its segments can be read.
pub(crate) fn store_of(disk: &dyn Disk) -> Result<Option<StoreId>> {
    for number in numbers(disk)? {
        let Some(file) = open_if_there(disk, &path_of(number))? else { continue };
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        let read = file.read_at(&mut bytes, 0).map_err(|error| read_error(disk, &path_of(number), error))?;
        if read == bytes.len()
            && let Ok(header) = SegmentHeader::decode(&bytes)
        {
            return Ok(Some(header.store));
        }
    }
    Ok(None)
}

/// Reads the whole log; `None` if there is none.
pub(crate) fn audit(
    disk: &dyn Disk,
    checkpoints: &dyn Fn() -> Result<Vec<Checkpoint>>,
    auditor: &mut dyn Auditor,
) -> Result<Option<LogAudit>> {
    let mut audit = LogAudit::default();
    // Before the log, so that the log holds what it speaks of.
    let head = read_head(disk, &mut audit, auditor)?;
    let (segments, leftovers, tail) = match look_until_steady(disk, checkpoints) {
        Ok(Some(inspection)) => (inspection.segments, inspection.leftovers, Some(inspection.tail)),
        Ok(None) => return Ok(None),
        Err(Error::Corrupt { file, offset, reason }) => {
            audit.faults.push(Fault { file, offset, reason });
            (survey(disk, &mut audit)?, Vec::new(), None)
        }
        Err(error) => return Err(error),
    };
    audit.segments = segments.len() as u64;
    audit.is_decided = tail.is_some();
    let store = segments.last().map(|found| found.header.store);
    let head = head.filter(|head| Some(head.store) == store);
    let mut walk = LogWalk { disk, auditor, audit, head, head_is_met: false, clean: Vec::new() };
    walk.segments(&segments, tail.as_ref())?;
    walk.spares(&leftovers, segments.last().map_or(0, |found| found.header.number))?;
    walk.check_head();
    Ok(Some(walk.audit))
}

fn numbers(disk: &dyn Disk) -> Result<Vec<u64>> {
    let names = disk.list(LOG_DIR).map_err(|error| Error::io("list", disk.locate(LOG_DIR), error))?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| number_of(name)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// The segments of a log that recovery refuses, as far as each can be made out alone.
fn survey(disk: &dyn Disk, audit: &mut LogAudit) -> Result<Vec<Found>> {
    let mut segments = Vec::new();
    for number in numbers(disk)? {
        match look_at(disk, number) {
            Ok(Look::Found(found)) => segments.push(found),
            Ok(Look::Spare(_)) => note_damaged_start(disk, number, audit)?,
            Err(Error::Corrupt { file, offset, reason }) => audit.note(Fault { file, offset, reason }),
            Err(error) => return Err(error),
        }
    }
    Ok(segments)
}

/// Of a log that is refused, a segment whose start frame is neither valid nor blank may be the reason.
fn note_damaged_start(disk: &dyn Disk, number: u64, audit: &mut LogAudit) -> Result<()> {
    let path = path_of(number);
    let Some(file) = open_if_there(disk, &path)? else { return Ok(()) };
    let mut bytes = [0; HEADER_BYTES];
    let read = file.read_at(&mut bytes, FIRST_FRAME).map_err(|error| read_error(disk, &path, error))?;
    if !is_zero(&bytes[..read]) {
        let reason = "the start frame of the segment is damaged".into();
        audit.note(Fault { file: disk.locate(&path), offset: FIRST_FRAME, reason });
    }
    Ok(())
}

/// The synced head. One that was never told is none; a damaged one is a fault, although nothing depends on it.
fn read_head(disk: &dyn Disk, audit: &mut LogAudit, auditor: &mut dyn Auditor) -> Result<Option<SyncedHead>> {
    let Some(file) = open_if_there(disk, SYNCED_HEAD_PATH)? else { return Ok(None) };
    auditor.read(SYNCED_HEAD_BYTES as u64);
    for _ in 0..HEAD_READS_MAX {
        let mut bytes = [0; SYNCED_HEAD_BYTES];
        let read = file.read_at(&mut bytes, 0).map_err(|error| read_error(disk, SYNCED_HEAD_PATH, error))?;
        if is_zero(&bytes[..read]) {
            return Ok(None);
        }
        if let Some(head) = decode_synced_head(disk, &bytes)? {
            return Ok(Some(head));
        }
    }
    let reason = "the synced head is damaged; it is ignored, and the next writer writes it again".into();
    audit.note(Fault { file: disk.locate(SYNCED_HEAD_PATH), offset: 0, reason });
    Ok(None)
}

impl LogAudit {
    /// Notes a fault, once for each place: the first look at it says the most.
    fn note(&mut self, fault: Fault) {
        if !self.faults.iter().any(|known| (&known.file, known.offset) == (&fault.file, fault.offset)) {
            self.faults.push(fault);
        }
    }
}

struct LogWalk<'a> {
    disk: &'a dyn Disk,
    auditor: &'a mut dyn Auditor,
    audit: LogAudit,
    head: Option<SyncedHead>,
    /// A frame ends where the synced head says, and is the one that it remembers.
    head_is_met: bool,
    /// The segments that were read from start to end.
    clean: Vec<u64>,
}

/// A segment that is being read.
struct SegmentWalk<'a> {
    number: u64,
    salt: u64,
    file: &'a dyn File,
    joint: Joint,
    /// Where the frames end, as far as it is known from elsewhere.
    end: Option<u64>,
}

impl LogWalk<'_> {
    fn segments(&mut self, segments: &[Found], tail: Option<&Tail>) -> Result<()> {
        // The number of the segment before, and where it ended.
        let mut before: Option<(u64, Joint)> = None;
        for (index, found) in segments.iter().enumerate() {
            let number = found.header.number;
            let Some(file) = self.open_segment(number)? else {
                before = None;
                continue;
            };
            self.auditor.read(FIRST_FRAME);
            self.auditor.begin_segment(&SegmentStart {
                number,
                salt: found.header.salt,
                first_position: found.joint.next_position,
                is_first_ever: found.start.predecessor == 0,
            });
            let next = segments.get(index + 1).filter(|next| next.start.predecessor == number);
            let is_last = index + 1 == segments.len();
            let end = match next {
                Some(next) => Some(next.start.predecessor_length),
                None => tail.filter(|_| is_last).map(|tail| tail.end.offset),
            };
            let joint = before.filter(|(before, _)| before + 1 == number).map(|(_, joint)| joint);
            if index > 0 && joint.is_none() {
                self.auditor.lose();
            }
            let joint = self.begin(found, joint);
            let mut walk = SegmentWalk { number, salt: found.header.salt, file: &*file, joint, end };
            let is_whole = self.frames(&mut walk)?;
            match next {
                Some(next) => self.behind_sealed(&walk, next.start.cut_bytes)?,
                None => self.behind_last(&walk, is_whole)?,
            }
            before = is_whole.then_some((number, walk.joint));
            if is_whole {
                self.clean.push(number);
            }
        }
        Ok(())
    }

    /// A segment that is gone because its log was shortened meanwhile is none.
    fn open_segment(&self, number: u64) -> Result<Option<Arc<dyn File>>> {
        let path = path_of(number);
        match open_if_there(self.disk, &path)? {
            Some(file) => Ok(Some(file)),
            None if numbers(self.disk)?.first().is_some_and(|first| *first > number) => Ok(None),
            None => Err(Error::io("open", self.disk.locate(&path), std::io::ErrorKind::NotFound.into())),
        }
    }

    /// The point that the first frame of a segment continues from: where the segment before ended, or what the start
    /// frame itself says if that is unknown or contradicts it.
    fn begin(&mut self, found: &Found, before: Option<Joint>) -> Joint {
        let own = Joint {
            base: found.start.bytes_before,
            offset: FIRST_FRAME,
            previous: found.previous,
            next_position: found.joint.next_position,
            commit_time: found.joint.commit_time,
        };
        let Some(before) = before else { return own };
        let is_continued =
            (before.address(), before.previous, before.next_position) == (own.base, own.previous, own.next_position);
        if !is_continued {
            self.fault(found.header.number, FIRST_FRAME, "the segment does not continue the one before it");
            self.auditor.lose();
        } else if own.commit_time < before.commit_time {
            self.fault(
                found.header.number,
                FIRST_FRAME,
                "the segment begins before the last commit of the one before it",
            );
        }
        own
    }

    /// Reads the frames of a segment; whether all of them are there and could be followed.
    fn frames(&mut self, walk: &mut SegmentWalk<'_>) -> Result<bool> {
        let mut scanner = Scanner::new(walk.file, walk.number, walk.salt);
        while walk.end.is_none_or(|end| walk.joint.offset < end) {
            let found = scanner.frame(&walk.joint).map_err(|error| self.read_error(walk.number, error))?;
            let header = match found {
                Ok(frame) => {
                    if frame.header.kind == FrameKind::Commit {
                        self.commit(walk, &frame);
                    }
                    frame.header
                }
                // Where the end is unknown, recovery has said what it thinks of this place.
                Err(_) if walk.end.is_none() => return Ok(false),
                Err(fault) => {
                    self.fault(walk.number, walk.joint.offset, fault.reason());
                    self.auditor.lose();
                    let header = header_at(&mut scanner, walk);
                    let header = header.map_err(|error| self.read_error(walk.number, error))?;
                    let Some(header) = header else { return Ok(false) };
                    header
                }
            };
            walk.joint = walk.joint.behind(&header);
            self.auditor.read(header.frame_len() as u64);
            self.meet_head(walk);
        }
        if walk.end.is_some_and(|end| walk.joint.offset > end) {
            self.fault(walk.number, walk.joint.offset, "a frame reaches beyond the end of its segment");
        }
        Ok(true)
    }

    fn commit(&mut self, walk: &SegmentWalk<'_>, frame: &Frame<'_>) {
        for reason in self.auditor.commit(walk.number, walk.joint.offset, frame) {
            // Several events of one commit may be wrong: here each has its say.
            let file = self.disk.locate(&path_of(walk.number));
            self.audit.faults.push(Fault { file, offset: walk.joint.offset, reason });
        }
    }

    fn meet_head(&mut self, walk: &SegmentWalk<'_>) {
        let Some(head) = self.head.filter(|head| (head.segment, head.end) == (walk.number, walk.joint.offset)) else {
            return;
        };
        self.head_is_met = true;
        if (head.checksum, head.position) != (walk.joint.previous, walk.joint.next_position - 1) {
            self.head_fault("the synced head remembers another frame than the log has");
        }
    }

    /// The synced head must name the end of a frame, unless the place could not be read.
    fn check_head(&mut self) {
        let Some(head) = self.head else { return };
        if !self.head_is_met && self.clean.contains(&head.segment) {
            self.head_fault("the synced head names a place where no frame ends");
        }
    }

    /// Behind the frames of a sealed segment there are zeros, and what was cut.
    fn behind_sealed(&mut self, walk: &SegmentWalk<'_>, cut_bytes: u64) -> Result<()> {
        let end = walk.end.unwrap_or(walk.joint.offset);
        self.auditor.read(end.saturating_sub(walk.joint.offset));
        if let Some(last) = self.last_nonzero(walk, end)?
            && last >= end + cut_bytes
        {
            self.fault(walk.number, last, "a byte behind the end of the segment is not zero");
        }
        Ok(())
    }

    /// Behind the last frame of the log there are zeros, or the torn tail of what was never confirmed.
    fn behind_last(&mut self, walk: &SegmentWalk<'_>, is_whole: bool) -> Result<()> {
        let end = if is_whole { walk.joint.offset } else { walk.end.unwrap_or(walk.joint.offset) };
        self.auditor.read(end - walk.joint.offset);
        let Some(last) = self.last_nonzero(walk, end)? else { return Ok(()) };
        if walk.end.is_some() && self.has_moved_on(walk)? {
            // A writer appends. What it wrote since is not part of this verification.
            return Ok(());
        }
        if walk.end.is_none() && self.is_confirmed_behind(walk)? {
            self.fault(walk.number, end, "frames are damaged that are known to have been synced");
        } else if self.is_closed_at(walk)? {
            self.fault(walk.number, last, "a byte behind the end of the log is not zero, although it was closed there");
        } else if last - end >= SPAN_BYTES {
            self.fault(walk.number, last, "a byte behind the end of the log is not zero, farther than a crash reaches");
        } else {
            self.audit.torn_bytes += last + 1 - end;
        }
        Ok(())
    }

    fn is_confirmed_behind(&self, walk: &SegmentWalk<'_>) -> Result<bool> {
        let mut scanner = Scanner::new(walk.file, walk.number, walk.salt);
        let leftover = scanner.search(walk.joint.offset, SPAN_BYTES);
        let leftover = leftover.map_err(|error| self.read_error(walk.number, error))?;
        Ok(leftover.durable > walk.joint.address())
    }

    fn has_moved_on(&self, walk: &SegmentWalk<'_>) -> Result<bool> {
        let mut scanner = Scanner::new(walk.file, walk.number, walk.salt);
        let frame = scanner.frame(&walk.joint).map_err(|error| self.read_error(walk.number, error))?;
        Ok(frame.is_ok())
    }

    fn is_closed_at(&self, walk: &SegmentWalk<'_>) -> Result<bool> {
        let head = super::recovery::read_synced_head(self.disk)?;
        Ok(head.is_some_and(|head| {
            head.closed
                && (head.segment, head.end, head.checksum) == (walk.number, walk.joint.offset, walk.joint.previous)
        }))
    }

    /// The offset of the last byte of a file from `from` on that is not zero.
    fn last_nonzero(&mut self, walk: &SegmentWalk<'_>, from: u64) -> Result<Option<u64>> {
        let mut chunk = vec![0; CHUNK_BYTES];
        let (mut offset, mut found) = (from, None);
        loop {
            let read = walk.file.read_at(&mut chunk, offset).map_err(|error| self.read_error(walk.number, error))?;
            if read == 0 {
                return Ok(found);
            }
            self.auditor.read(read as u64);
            if !is_zero(&chunk[..read]) {
                let last = chunk[..read].iter().rposition(|byte| *byte != 0);
                found = last.map(|last| offset + last as u64).or(found);
            }
            offset += read as u64;
        }
    }

    /// Segments that were made in advance: blank, or with the torn beginning of a start frame.
    fn spares(&mut self, leftovers: &[String], last: u64) -> Result<()> {
        for path in leftovers {
            let name = path.rsplit('/').next().unwrap_or_default();
            let Some(number) = number_of(name).filter(|number| *number > last) else { continue };
            let Some(file) = open_if_there(self.disk, path)? else { continue };
            let joint = Joint { base: 0, offset: FIRST_FRAME, previous: 0, next_position: 1, commit_time: 0 };
            let walk = SegmentWalk { number, salt: 0, file: &*file, joint, end: None };
            self.auditor.read(FIRST_FRAME);
            let found = self.last_nonzero(&walk, FIRST_FRAME)?;
            if let (Some(nonzero), Ok(Look::Spare(_))) = (found, look_at(self.disk, number)) {
                self.audit.torn_bytes += nonzero + 1 - FIRST_FRAME;
            }
        }
        Ok(())
    }

    fn fault(&mut self, segment: u64, offset: u64, reason: &str) {
        let file = self.disk.locate(&path_of(segment));
        self.audit.note(Fault { file, offset, reason: reason.into() });
    }

    fn head_fault(&mut self, reason: &str) {
        self.audit.note(Fault { file: self.disk.locate(SYNCED_HEAD_PATH), offset: 0, reason: reason.into() });
    }

    fn read_error(&self, segment: u64, error: std::io::Error) -> Error {
        read_error(self.disk, &path_of(segment), error)
    }
}

/// The header of a damaged frame, if it is whole and continues the chain: the frames behind it can still be followed.
fn header_at(scanner: &mut Scanner<'_>, walk: &SegmentWalk<'_>) -> std::io::Result<Option<FrameHeader>> {
    let offset = walk.joint.offset;
    let Some(bytes) = scanner.bytes(offset, HEADER_BYTES)?.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let decoded: Result<FrameHeader, FrameFault> =
        FrameHeader::decode(bytes, Place::of_frame(walk.salt, walk.number, offset));
    Ok(decoded.ok().filter(|header| {
        header.link.previous == walk.joint.previous && header.link.first_position == walk.joint.next_position
    }))
}

fn open_if_there(disk: &dyn Disk, path: &str) -> Result<Option<Arc<dyn File>>> {
    match disk.open(path, Access::Read) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("open", disk.locate(path), error)),
    }
}

fn read_error(disk: &dyn Disk, path: &str, error: std::io::Error) -> Error {
    Error::io("read", disk.locate(path), error)
}
