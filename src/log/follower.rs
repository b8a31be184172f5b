//! Following a log that another process writes: read-only, never beyond what is known to be synced.
//!
//! Everything is read by `pread` and verified before it is published to this process's readers, so that a map is only
//! ever read where the bytes are final.

use std::cmp::Ordering;
use std::sync::Arc;

use super::open::sealed_segments;
use super::recovery::{Checkpoint, Inspection, Look, Walk, inspect, look_into, read_synced_head};
use super::scan::{Joint, Scanner};
use super::segment::{Segment, SegmentWriter, path_of};
use super::{Log, LogOptions};
use crate::error::{Error, Result};
use crate::format::frame::FrameFault;
use crate::sabotage::{Sabotage, sabotaged};
use crate::storage::{Access, Disk, File};
use crate::sync::Mutex;

/// How often an open beside a writer looks again before it believes that the log is damaged.
const LOOKS_MAX: usize = 5;

/// A read-only log and the place up to which it was read.
#[derive(Debug)]
pub(crate) struct Follower {
    log: Arc<Log>,
    place: Mutex<Place>,
}

#[derive(Debug)]
struct Place {
    segment: Arc<Segment>,
    /// Publishes what was found to be synced; it never writes.
    writer: SegmentWriter,
    file: Arc<dyn File>,
    /// The point behind the last commit that is served.
    served: Joint,
}

impl Follower {
    /// Opens a log for reading; `None` if there is none. Also returns how many positions are behind what is served:
    /// valid, and not known to be synced.
    pub(crate) fn open(
        disk: &Arc<dyn Disk>,
        options: LogOptions,
        checkpoints: &dyn Fn() -> Result<Vec<Checkpoint>>,
    ) -> Result<Option<(Follower, u64)>> {
        let Some(inspection) = look_until_steady(&**disk, checkpoints)? else { return Ok(None) };
        let (last, tail) = (inspection.last(), &inspection.tail);
        let path = path_of(last.header.number);
        let file = disk.open(&path, Access::Read).map_err(|error| Error::io("open", disk.locate(&path), error))?;
        let mut segments = sealed_segments(disk, options, &inspection);
        let served = if sabotaged(Sabotage::ServeUnconfirmed) { tail.end } else { tail.confirmed };
        let growing = Arc::clone(&file);
        let (segment, writer) =
            Segment::growing(Arc::clone(disk), options.read_mode, &last.header, last.origin(), growing, served.offset)?;
        segments.push(Arc::clone(&segment));
        let head = served.next_position - 1;
        let log = Arc::new(Log::new(Arc::clone(disk), inspection.store(), options, segments, head));
        let unconfirmed = inspection.head() - head;
        Ok(Some((Follower { log, place: Mutex::new(Place { segment, writer, file, served }) }, unconfirmed)))
    }

    pub(crate) fn log(&self) -> &Arc<Log> {
        &self.log
    }

    /// Takes in what the writer has synced since, and returns the head. What is new is shown once `index` has been called
    /// with the position up to which there is something to index.
    pub(crate) fn refresh(&self, index: impl FnOnce(u64) -> Result<()>) -> Result<u64> {
        let mut place = self.place.lock();
        let gone_on = self.go_on(&mut place);
        // Also what was found before a fault.
        let head = place.served.next_position - 1;
        if head > self.log.visible() {
            index(head)?;
            self.log.show_synced(head);
        }
        gone_on.map(|()| head)
    }

    fn go_on(&self, place: &mut Place) -> Result<()> {
        loop {
            let synced = self.synced_address(place)?;
            // Nearly always nothing is new, which one small file tells without a look at the log.
            if synced == Some(place.served.address()) {
                return Ok(());
            }
            match self.advance(place, synced.unwrap_or(0))? {
                Some(next) => *place = next,
                None => return Ok(()),
            }
        }
    }

    /// The log address up to which the writer says that it is synced; `None` if it says nothing of this segment.
    fn synced_address(&self, place: &Place) -> Result<Option<u64>> {
        let head = read_synced_head(&**self.log.disk())?.filter(|head| head.store == self.log.store());
        Ok(head.and_then(|head| match head.segment.cmp(&place.segment.number) {
            Ordering::Less => None,
            Ordering::Equal => Some(place.segment.base.saturating_add(head.end)),
            Ordering::Greater => Some(u64::MAX),
        }))
    }

    /// Publishes the commits of this segment that are known to be synced. Returns the next segment if this one has ended.
    fn advance(&self, place: &mut Place, durable: u64) -> Result<Option<Place>> {
        let segment = Arc::clone(&place.segment);
        let file = Arc::clone(&place.file);
        let failed = |error| Error::io("read", self.log.path(segment.number), error);
        let mut scanner = Scanner::new(&*file, segment.number, segment.salt);
        let mut walk = Walk::new(place.served, durable);
        let fault = loop {
            match scanner.frame(&walk.end).map_err(failed)? {
                Ok(frame) => walk.step(&frame),
                Err(fault) => break fault,
            }
        };
        let next = self.next_segment(&walk.end, segment.number)?;
        // A segment is synced to its end before the next one begins.
        let served = if next.is_some() { walk.end } else { walk.confirmed };
        place.writer.publish(served.offset);
        place.served = served;
        if let Some(next) = &next {
            segment.seal(served.offset);
            self.log.add(Arc::clone(&next.segment), 0);
        }
        match next {
            None => self.check_stop(&walk.end, &fault, durable, segment.number).map(|()| None),
            next => Ok(next),
        }
    }

    /// A frame that is not whole yet is looked at again next time. One that was known to be synced before it was looked
    /// at stays as it is: it is damaged, and the follower must not stand still as if nothing had been written.
    fn check_stop(&self, end: &Joint, fault: &FrameFault, durable: u64, segment: u64) -> Result<()> {
        let path = self.log.path(segment);
        match fault {
            FrameFault::Unknown(reason) => Err(Error::Incompatible { file: path, reason: (*reason).into() }),
            fault if durable > end.address() => Err(Error::corrupt(path, end.offset, fault.reason())),
            _ => Ok(()),
        }
    }

    /// The segment that continues from `end`, if the writer has begun it.
    fn next_segment(&self, end: &Joint, number: u64) -> Result<Option<Place>> {
        let disk = self.log.disk();
        let path = path_of(number + 1);
        let file = match disk.open(&path, Access::Read) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("open", disk.locate(&path), error)),
        };
        let found = match look_into(&**disk, number + 1, &*file)? {
            Look::Found(found) if found.start.predecessor_length == end.offset => found,
            _ => return Ok(None),
        };
        let (mode, growing, served) = (self.log.options().read_mode, Arc::clone(&file), found.joint);
        let (segment, writer) =
            Segment::growing(Arc::clone(disk), mode, &found.header, found.origin(), growing, served.offset)?;
        Ok(Some(Place { segment, writer, file, served }))
    }
}

/// Beside a writer, files change while they are looked at: what looks damaged is believed when it stays the same.
pub(super) fn look_until_steady(
    disk: &dyn Disk,
    checkpoints: &dyn Fn() -> Result<Vec<Checkpoint>>,
) -> Result<Option<Inspection>> {
    let mut seen = String::new();
    for _ in 1..LOOKS_MAX {
        match inspect(disk, &checkpoints()?) {
            Err(error) if error.to_string() != seen => seen = error.to_string(),
            decided => return decided,
        }
    }
    inspect(disk, &checkpoints()?)
}
